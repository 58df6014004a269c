/**
 * What a request is refused for by its looks alone (RFC 3261 §8.2.1–8.2.3): method, target,
 * extensions, body type. No state is read or made, so the same request is refused the same way
 * again. Policy (who may call whom) is not here.
 */
import { isIP } from 'node:net';
import { asGatewayError, type ErrorCode } from '../core/errors.ts';
import { isSips } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { findSdp, mediaType } from './multipart.ts';
import { isSecure, type PeerAddress } from './peer.ts';
import { isLinkLocal, isUnicast } from './resolver.ts';
import { ALLOW_EVENTS_FIELD } from './side-report.ts';

export interface Refusal {
  readonly code: ErrorCode;
  readonly headers: readonly HeaderField[];
}

const CARRIED_OUT = new Set([
  'INVITE',
  'ACK',
  'BYE',
  'CANCEL',
  'OPTIONS',
  'INFO',
  'PRACK',
  'UPDATE',
]);
/** Known, and not offered: 405 says so, where 501 would say that we never heard of them. */
const REFUSED = new Set(['REGISTER', 'MESSAGE', 'PUBLISH']);
/** Carried out within a dialog, where its policy says so. */
const IN_DIALOG = new Set(['REFER', 'NOTIFY', 'SUBSCRIBE']);
/** Extensions that may be required: of which peer, its policy says later. */
const EXTENSIONS = new Set(['100rel', 'timer', 'replaces', 'norefersub']);

/** Have a meaning within a dialog only. */
const IN_DIALOG_ONLY = new Set(['PRACK', 'UPDATE']);

/** Names told back in Unsupported: more than there are extensions that anybody requires. */
const UNSUPPORTED_MAX = 32;

const ACCEPT_FIELD: HeaderField = ['Accept', 'application/sdp'];
const ACCEPT_ENCODING_FIELD: HeaderField = ['Accept-Encoding', 'identity'];

/** Null when nothing speaks against the request. `told`: what its sender is told to OPTIONS. */
export function screen(
  request: SipMessage,
  source: PeerAddress,
  told: () => readonly HeaderField[],
): Refusal | null {
  if (request.toTag === '' && isBared(request, source))
    return { code: 'SIP_FORBIDDEN', headers: [] };
  const allow = (): HeaderField[] => told().filter(([name]) => name === 'Allow');
  return screenMethod(request, allow) ?? screenTarget(request) ?? screenExtensions(request);
}

/**
 * RFC 3261 §26.2.2, RFC 5630: sips means TLS on every hop, the last one too: what is in the clear
 * was let go by somebody. 403, not 416: that one asks for the same again with a sip URI (§8.1.3.5),
 * and not 480: later it would be no more secure.
 */
export function isBared(request: SipMessage, source: PeerAddress): boolean {
  return isSips(request.uri) && !isSecure(source.transport);
}

/** What holds for an INVITE that would begin a call, its body apart. */
export function screenInvite(request: SipMessage): Refusal | null {
  // RFC 7332: hops count through a B2BUA too. Who places the other leg gives it one less than came
  // in (`OutgoingInvite.maxForwards`), so that a loop of calls ends here.
  if (request.maxForwards === 0) return { code: 'SIP_TOO_MANY_HOPS', headers: [] };
  if (!acceptsSdp(request)) return { code: 'SIP_NOT_ACCEPTABLE', headers: [] };
  return null;
}

function screenMethod(request: SipMessage, allow: () => HeaderField[]): Refusal | null {
  const { method } = request;
  const isInDialog = request.toTag !== '';
  if (IN_DIALOG_ONLY.has(method) && !isInDialog) return { code: 'SIP_NO_DIALOG', headers: [] };
  if (CARRIED_OUT.has(method) || (isInDialog && IN_DIALOG.has(method))) return null;
  // RFC 6665 §4.1.3: nobody here subscribed to anything.
  if (method === 'NOTIFY') return { code: 'SIP_NO_DIALOG', headers: [] };
  // Outside of a dialog no event is known. PUBLISH (RFC 3903) is of no package, so it is 405.
  if (method === 'SUBSCRIBE') return { code: 'SIP_EVENT_UNKNOWN', headers: [ALLOW_EVENTS_FIELD] };
  // RFC 3515 §2.4.2: of strangers' wishes whom to call there is no end.
  if (method === 'REFER') return { code: 'SIP_FORBIDDEN', headers: [] };
  if (REFUSED.has(method)) return { code: 'SIP_METHOD_REFUSED', headers: allow() };
  return { code: 'SIP_METHOD_UNKNOWN', headers: allow() };
}

/** An address that can be no service's is not asked for by mistake. */
function screenTarget(request: SipMessage): Refusal | null {
  const { host } = request;
  if (isIP(host) === 0 || (isUnicast(host) && !isLinkLocal(host))) return null;
  return { code: 'SIP_FORBIDDEN', headers: [] };
}

/** §8.2.2.3: what is required and not supported is told back. */
function screenExtensions(request: SipMessage): Refusal | null {
  const { method } = request;
  if (method === 'ACK' || method === 'CANCEL') return null;
  const required = request.list('Require').filter((option) => {
    return option !== '' && !EXTENSIONS.has(option.toLowerCase());
  });
  if (required.length === 0) return null;
  const unsupported = required.slice(0, UNSUPPORTED_MAX).join(', ');
  return { code: 'SIP_EXTENSION', headers: [['Unsupported', unsupported]] };
}

/** RFC 3261 §20.1: without the field SDP is accepted; an empty one accepts nothing. */
function acceptsSdp(request: SipMessage): boolean {
  const accepted = request.list('Accept');
  if (accepted.length === 0) return true;
  return accepted.some((value) => {
    if (value === '') return false;
    const { type, params } = mediaType(value);
    const isSdp = type === 'application/sdp' || type === 'application/*' || type === '*/*';
    return isSdp && !/^0(?:\.0*)?$/.test(params.get('q') ?? '1');
  });
}

/** What the body of an INVITE, first or within a dialog, offers; or why we do not read it. */
export function readOffer(request: SipMessage): { sdp: string } | { refusal: Refusal } {
  try {
    return { sdp: findSdp(request) };
  } catch (thrown) {
    const { code } = asGatewayError(thrown);
    const isType = code === 'SIP_MEDIA_TYPE';
    return { refusal: { code, headers: isType ? [ACCEPT_FIELD, ACCEPT_ENCODING_FIELD] : [] } };
  }
}
