/**
 * What a request is refused for by its looks alone (RFC 3261 §8.2.1–8.2.3): method, target,
 * extensions, body type. No state is read or made, so the same request is refused the same way
 * again. Policy (who may call whom) is not here.
 */
import { isIP } from 'node:net';
import { asGatewayError, type ErrorCode } from '../core/errors.ts';
import { type HeaderField, parseUri, type SipMessage } from './message.ts';
import { findSdp, mediaType } from './multipart.ts';
import { isLinkLocal, isUnicast } from './resolver.ts';
import { ALLOW } from './user-agent.ts';

export interface Refusal {
  readonly code: ErrorCode;
  readonly headers: readonly HeaderField[];
}

const CARRIED_OUT = new Set(['INVITE', 'ACK', 'BYE', 'CANCEL', 'OPTIONS', 'INFO']);
/** Known, and not offered: 405 says so, where 501 would say that we never heard of them. */
const REFUSED = new Set(['REGISTER', 'MESSAGE', 'SUBSCRIBE', 'NOTIFY', 'PUBLISH', 'REFER']);
/** Have a meaning within a dialog only, and none yet there. */
const IN_DIALOG_ONLY = new Set(['PRACK', 'UPDATE']);

const ALLOW_FIELD: HeaderField = ['Allow', ALLOW];
const ACCEPT_FIELD: HeaderField = ['Accept', 'application/sdp'];
const ACCEPT_ENCODING_FIELD: HeaderField = ['Accept-Encoding', 'identity'];

/** Null when nothing speaks against the request. */
export function screen(request: SipMessage): Refusal | null {
  return screenMethod(request) ?? screenTarget(request) ?? screenExtensions(request);
}

/** What holds for an INVITE that would begin a call. */
export function screenInvite(request: SipMessage): Refusal | null {
  // RFC 7332: a B2BUA counts hops as a proxy does, or two of them make a loop.
  if (request.maxForwards === 0) return { code: 'SIP_TOO_MANY_HOPS', headers: [] };
  // RFC 3891 §3: what it names is not there; replacing is not offered.
  if (request.header('Replaces') !== undefined) return { code: 'SIP_NO_DIALOG', headers: [] };
  if (!acceptsSdp(request)) return { code: 'SIP_NOT_ACCEPTABLE', headers: [] };
  return screenBody(request);
}

function screenMethod(request: SipMessage): Refusal | null {
  const { method } = request;
  const isInDialog = request.toTag !== '';
  if (CARRIED_OUT.has(method)) return null;
  if (REFUSED.has(method) || (isInDialog && IN_DIALOG_ONLY.has(method))) {
    return { code: 'SIP_METHOD_REFUSED', headers: [ALLOW_FIELD] };
  }
  if (IN_DIALOG_ONLY.has(method)) return { code: 'SIP_NO_DIALOG', headers: [] };
  return { code: 'SIP_METHOD_UNKNOWN', headers: [ALLOW_FIELD] };
}

/** An address that can be no service's is not asked for by mistake. */
function screenTarget(request: SipMessage): Refusal | null {
  const { host } = parseUri(request.uri);
  if (isIP(host) === 0 || (isUnicast(host) && !isLinkLocal(host))) return null;
  return { code: 'SIP_FORBIDDEN', headers: [] };
}

/** §8.2.2.3: no extension is supported that could be required. */
function screenExtensions(request: SipMessage): Refusal | null {
  const { method } = request;
  if (method === 'ACK' || method === 'CANCEL') return null;
  const required = request.list('Require').filter((option) => option !== '');
  if (required.length === 0) return null;
  return { code: 'SIP_EXTENSION', headers: [['Unsupported', required.join(', ')]] };
}

/** RFC 3261 §20.1: without the field SDP is accepted; an empty one accepts nothing. */
function acceptsSdp(request: SipMessage): boolean {
  const accepted = request.list('Accept');
  if (accepted.length === 0) return true;
  return accepted.some((value) => {
    const { type, params } = mediaType(value);
    const isSdp = type === 'application/sdp' || type === 'application/*' || type === '*/*';
    return isSdp && !/^0(?:\.0*)?$/.test(params.get('q') ?? '1');
  });
}

/** Whether the body of an INVITE, first or within a dialog, is something we read. */
export function screenBody(request: SipMessage): Refusal | null {
  try {
    findSdp(request);
    return null;
  } catch (thrown) {
    const { code } = asGatewayError(thrown);
    const isType = code === 'SIP_MEDIA_TYPE';
    return { code, headers: isType ? [ACCEPT_FIELD, ACCEPT_ENCODING_FIELD] : [] };
  }
}
