/**
 * Small readings of SIP for calls: which header fields an application sees, what a final status
 * means, the words of a refusal. Pure functions; the messages themselves are `sip/`.
 */
import type { ErrorCode } from '../core/errors.ts';
import { ERRORS } from '../core/errors.ts';
import { type HeaderField, parseNameAddr, parseUri, type SipMessage } from '../sip/message.ts';
import type { SessionEnd } from '../sip/session.ts';
import type { SipHeaders } from './leg.ts';

/** X-… and the fields that applications are known to read. */
const TOLD = new RegExp(
  `^(?:x-.*|${[
    'user-to-user',
    'remote-party-id',
    'p-asserted-identity',
    'p-preferred-identity',
    'p-called-party-id',
    'diversion',
    'history-info',
    'identity',
    'reason',
    'warning',
  ].join('|')})$`,
  'is',
);

/** The fields an application may see, bounded in number and length; the first of a name counts. */
export function applicationHeaders(
  fields: Iterable<HeaderField>,
  limits: { readonly headersMax: number; readonly headerCharsMax: number },
): SipHeaders {
  const headers: Record<string, string> = {};
  const seen: string[] = [];
  for (const [name, value] of fields) {
    if (!TOLD.test(name)) continue;
    const lower = name.toLowerCase();
    if (seen.includes(lower)) continue;
    if (seen.length >= limits.headersMax) break;
    seen.push(lower);
    headers[name] = value.slice(0, limits.headerCharsMax);
  }
  return headers;
}

/**
 * Why a leg ended that we did not end: the peer's status in the terms of a call
 * (RFC 3261 §21.4, and what carriers mean by it).
 */
export function causeOf(end: SessionEnd, isAnswered: boolean): ErrorCode {
  if (isAnswered) return end.by === 'remote' ? 'CALL_COMPLETED' : end.code;
  if (end.by === 'timeout' || end.by === 'transport') return end.code;
  switch (end.status) {
    case 486:
    case 600:
      return 'CALL_BUSY';
    case 408:
    case 480:
      return 'CALL_NO_ANSWER';
    case 487:
      return 'CALL_CANCELED';
    default:
      return end.code;
  }
}

/** The final status that refuses an INVITE for `code`: a call that is only over was not taken. */
export function refusalStatus(code: ErrorCode): number {
  const status = ERRORS[code].sip;
  return status >= 400 ? status : 480;
}

/** The end of a leg that no message of a peer brought about. */
export function localEnd(code: ErrorCode, reason: string): SessionEnd {
  return { by: 'local', code, status: refusalStatus(code), reason, headers: [] };
}

/** Fields that go with a refusal: when to come back, and in words why (RFC 3261 §20.33, §20.43). */
export function refusalHeaders(
  code: ErrorCode,
  text: string,
  options: { readonly retryAfterSeconds: number; readonly warnAgent: string },
): HeaderField[] {
  const headers: HeaderField[] = [];
  const status = ERRORS[code].sip;
  if (status === 503) headers.push(['Retry-After', String(options.retryAfterSeconds)]);
  const quoted = text
    .replace(/[^\x20-\x7e]/g, '?')
    .replace(/[\\"]/g, '\\$&')
    .slice(0, 200);
  if (status === 488) headers.push(['Warning', `304 ${options.warnAgent} "${quoted}"`]);
  return headers;
}

/** Who was called before us: Diversion (RFC 5806) wins, as carriers still send it. */
export function forwardedFrom(message: SipMessage): string {
  const field = message.list('Diversion')[0] ?? '';
  if (field === '') return '';
  try {
    const { uri } = parseNameAddr(field);
    return uri === null ? '' : unescapeUser(uri.user);
  } catch {
    // A field we only read for an application must not cost the call.
    return '';
  }
}

/** What would end a URI or its user part, or start something else in it, when written plainly. */
const DELIMITER = /[@<>":;,%\s\p{Cc}]/gu;

/**
 * The user part as people write it. Escapes of characters that have a meaning around it stay, so
 * that no reader of the result takes a part of a name for a host, a parameter or the end of a
 * field (RFC 3261 §19.1.2); a broken escape stays as it came.
 */
export function unescapeUser(user: string): string {
  if (!user.includes('%')) return user;
  try {
    return user.replace(/(?:%[0-9A-Fa-f]{2})+/g, (run) =>
      decodeURIComponent(run).replace(DELIMITER, encodeURIComponent),
    );
  } catch {
    return user;
  }
}

/**
 * How an application sees a party: a number as such, a withheld one as `anonymous` (RFC 3323
 * §4.1.1.3), everything else as a SIP address without parameters.
 */
export function partyOf(uriText: string): string {
  try {
    const uri = parseUri(uriText);
    // RFC 3966 §5.1.1: visual separators are for people.
    const user = uri.scheme === 'tel' ? uri.user.replace(/[-.()]/g, '') : unescapeUser(uri.user);
    if (/^\+?[0-9*#]{2,}$/.test(user)) return user;
    if (user === 'anonymous' || uri.host === 'anonymous.invalid') return 'anonymous';
    return user === '' ? `sip:${uri.host}` : `sip:${user}@${uri.host}`;
  } catch {
    // A scheme of somebody else's: the raw text is all there is.
    return uriText;
  }
}
