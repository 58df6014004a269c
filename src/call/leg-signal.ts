/**
 * Small readings of SIP for calls: which header fields an application sees, what a final status
 * means, the words of a refusal. Pure functions; the messages themselves are `sip/`.
 */
import type { ErrorCode } from '../core/errors.ts';
import { ERRORS } from '../core/errors.ts';
import { causeOfStatus, codeOfEnd, q850Causes, q850Reason } from '../sip/cause.ts';
import { canonicalName } from '../sip/header.ts';
import { type HeaderField, parseUri } from '../sip/message.ts';
import type { Reason } from '../sip/reason.ts';
import type { SessionEnd } from '../sip/session.ts';
import { telephoneOf } from '../sip/uri.ts';
import type { SipHeaders } from './leg.ts';
import { stirReason } from './stir.ts';

/** What an application sees beside X-…: the fields that applications are known to read. */
const TOLD: ReadonlySet<string> = new Set([
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
]);

/** Of a canonical name. */
export function isTold(name: string): boolean {
  return name.startsWith('x-') || TOLD.has(name);
}

/** The fields an application may see, bounded in number and length; the first of a name counts. */
export function applicationHeaders(
  fields: Iterable<HeaderField>,
  limits: { readonly headersMax: number; readonly headerCharsMax: number },
): SipHeaders {
  const headers: Record<string, string> = {};
  const seen: string[] = [];
  for (const [name, value] of fields) {
    const canonical = canonicalName(name);
    if (!isTold(canonical) || seen.includes(canonical)) continue;
    if (seen.length >= limits.headersMax) break;
    seen.push(canonical);
    headers[name] = value.slice(0, limits.headerCharsMax);
  }
  return headers;
}

/** The same of what ended a leg; of a redirection also where to (RFC 3261 §21.3). */
export function endHeaders(
  { status, headers }: SessionEnd,
  limits: Parameters<typeof applicationHeaders>[1],
): SipHeaders {
  const told = applicationHeaders(headers, limits);
  if (Math.floor(status / 100) !== 3) return told;
  const contacts = [...headers].filter(([name]) => /^(?:contact|m)$/i.test(name));
  const text = contacts.map(([, value]) => value).join(', ');
  return text === '' ? told : { ...told, Contact: text.slice(0, limits.headerCharsMax) };
}

/**
 * Why a leg ended that we did not end: the peer's status, and the cause it gives with it, in the
 * terms of a call.
 */
export function causeOf(end: SessionEnd, isAnswered: boolean): ErrorCode {
  if (isAnswered) return end.by === 'remote' ? 'CALL_COMPLETED' : end.code;
  if (end.by !== 'remote' || end.status < 300) return end.code;
  const code = codeOfEnd(end.status, q850Causes(end.headers));
  return code === 'SIP_REFUSED' ? end.code : code;
}

/** What a BYE or CANCEL of ours gives as its reason; none where Q.850 has no word for it. */
export function reasonsOf(code: ErrorCode): readonly Reason[] {
  const cause = code === 'CALL_NO_ANSWER' ? 19 : causeOfStatus(ERRORS[code].sip);
  return cause === null ? [] : [q850Reason(cause)];
}

/** The final status that refuses an INVITE for `code`: a call that is only over was not taken. */
export function refusalStatus(code: ErrorCode): number {
  const status = ERRORS[code].sip;
  return status >= 400 ? status : 480;
}

/** The end of a leg that no message of a peer brought about. */
export function localEnd(code: ErrorCode, reason: string): SessionEnd {
  return { by: 'local', code, status: refusalStatus(code), reason, reasonHeader: [], headers: [] };
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
  // RFC 3261 §20.43: 302 is about the transport of media, 304 about what is sent over it.
  const warning = code.startsWith('SRTP_') ? 302 : 304;
  if (status === 488) headers.push(['Warning', `${warning} ${options.warnAgent} "${quoted}"`]);
  if (code.startsWith('STIR_')) headers.push(stirReason(code));
  return headers;
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
    const phone = telephoneOf(uri);
    if (phone !== null && /^\+?[0-9*#]{2,}$/.test(phone.number)) return phone.number;
    const user = unescapeUser(uri.user);
    if (user === 'anonymous' || uri.host === 'anonymous.invalid') return 'anonymous';
    return user === '' ? `sip:${uri.host}` : `sip:${user}@${uri.host}`;
  } catch {
    // A scheme of somebody else's: the raw text is all there is.
    return uriText;
  }
}
