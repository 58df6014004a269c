/**
 * URIs and name-addr as values, made on demand from text that the scanners of `grammar` accept.
 * Not routing, not resolution: user parts stay escaped as they came, because unescaping before
 * routing changes who is called.
 *
 * RFC 3261 §19.1, §20.10; RFC 3966.
 */
import { GatewayError } from '../core/errors.ts';
import {
  DEFAULT_URI_LIMITS,
  keepParam,
  scan,
  scanNameAddr,
  scanParams,
  scanUri,
  UNKNOWN_SCHEME,
  URI_TOO_LONG,
  type UriLimits,
  unquote,
} from './grammar.ts';

export interface SipUri {
  readonly scheme: 'sip' | 'sips' | 'tel';
  /** Escaped as it came; for tel the number with its separators. */
  readonly user: string;
  readonly password: string | undefined;
  /** Without brackets around IPv6; '' for tel. */
  readonly host: string;
  readonly port: number | undefined;
  readonly params: ReadonlyMap<string, string | undefined>;
  readonly headers: string;
}

export interface NameAddr {
  /** Display name, quotes and their escapes taken off. */
  readonly display: string;
  /** null when the scheme is none of ours; `uriText` still has it. */
  readonly uri: SipUri | null;
  readonly uriText: string;
  readonly params: ReadonlyMap<string, string | undefined>;
}

/** Throws SIP_MALFORMED, SIP_SCHEME or SIP_URI_TOO_LONG. */
export function parseUri(text: string, limits: UriLimits = DEFAULT_URI_LIMITS): SipUri {
  const problem = scanUri(text, 0, text.length, limits);
  if (problem !== '') throw uriError(problem, text);
  return uriFromScan(text, 0);
}

export function uriError(problem: string, text: string): GatewayError {
  if (problem === UNKNOWN_SCHEME) {
    return new GatewayError('SIP_SCHEME', {
      scheme: text.slice(0, text.indexOf(':')).slice(0, 32),
    });
  }
  if (problem === URI_TOO_LONG) return new GatewayError('SIP_URI_TOO_LONG', { problem });
  return new GatewayError('SIP_MALFORMED', { problem });
}

function uriFromScan(text: string, start: number): SipUri {
  const scheme = text.slice(start, text.indexOf(':', start)).toLowerCase() as SipUri['scheme'];
  const { userStart, userEnd, passwordEnd, port, headersStart } = scan;
  return {
    scheme,
    user: userEnd < 0 ? '' : text.slice(userStart, userEnd),
    password: passwordEnd > userEnd ? text.slice(userEnd + 1, passwordEnd) : undefined,
    host: scannedHost(text),
    port: port === 0 ? undefined : port,
    params: uriParams(text.slice(scan.paramsStart, scan.paramsEnd)),
    headers: headersStart < 0 ? '' : text.slice(headersStart),
  };
}

/** The host that the last scan of `text` found, without brackets around IPv6. */
export function scannedHost(text: string): string {
  const { hostStart, hostEnd } = scan;
  const bracket = text.charCodeAt(hostStart) === 91 ? 1 : 0;
  return text.slice(hostStart + bracket, hostEnd - bracket);
}

const NO_PARAMS: ReadonlyMap<string, string | undefined> = new Map();

function uriParams(text: string): ReadonlyMap<string, string | undefined> {
  if (text === '') return NO_PARAMS;
  const params = new Map<string, string | undefined>();
  for (const part of text.slice(1).split(';')) {
    const equals = part.indexOf('=');
    if (equals < 0) keepParam(params, part, undefined);
    else keepParam(params, part.slice(0, equals), part.slice(equals + 1));
  }
  return params;
}

/** The URI as text. Parts must be escaped already: what came from `parseUri` is. */
export function formatUri(uri: SipUri): string {
  let text = `${uri.scheme}:`;
  if (uri.user !== '') {
    text += uri.password === undefined ? uri.user : `${uri.user}:${uri.password}`;
    if (uri.scheme !== 'tel') text += '@';
  }
  text += uri.host.includes(':') ? `[${uri.host}]` : uri.host;
  if (uri.port !== undefined) text += `:${uri.port}`;
  for (const [name, value] of uri.params) {
    text += value === undefined ? `;${name}` : `;${name}=${value}`;
  }
  return uri.headers === '' ? text : `${text}?${uri.headers}`;
}

/** The address alone, as a dialog keeps it: no parameter is read. Throws SIP_MALFORMED. */
export function parseAddress(text: string): Pick<NameAddr, 'display' | 'uriText'> {
  const problem = scanNameAddr(text, 0, text.length, false);
  if (problem !== '') throw new GatewayError('SIP_MALFORMED', { problem });
  const { displayStart, displayEnd, uriStart, uriEnd } = scan;
  const raw = text.slice(displayStart, displayEnd).trim();
  const display = raw.charCodeAt(0) === 34 ? unquote(raw.slice(1, -1)) : raw;
  return { display, uriText: text.slice(uriStart, uriEnd) };
}

/** Throws SIP_MALFORMED. An address of another scheme is well formed: its `uri` is null. */
export function parseNameAddr(text: string): NameAddr {
  const { display, uriText } = parseAddress(text);
  const { paramsStart } = scan;
  const params = new Map<string, string | undefined>();
  scanParams(text, paramsStart, text.length, false, params);
  const known = scanUri(uriText, 0, uriText.length, DEFAULT_URI_LIMITS) === '';
  const uri = known ? uriFromScan(uriText, 0) : null;
  return { display, uri, uriText, params };
}

/** A telephone number as a URI says it: visual separators are gone, a leading plus is kept. */
export interface Telephone {
  readonly number: string;
  /** Where a local number is known: `+49`, or a domain; '' for a global one, or when unsaid. */
  readonly context: string;
  /** Of the number, lower case: `ext`, `isub`, `postd`, `rn`, `npdi`, …; `phone-context` is out. */
  readonly params: ReadonlyMap<string, string | undefined>;
}

/**
 * The number of a tel: URI (RFC 3966), or of a sip: URI that holds one in its user part (RFC 3261
 * §19.1.6); null when there is none. Without `user=phone` a user part is a number only when it
 * reads as one: names with dots and dashes are names.
 */
export function telephoneOf(uri: SipUri): Telephone | null {
  if (uri.scheme === 'tel') return telephone(uri.user, uri.params);
  const [digits = '', ...rest] = uri.user.split(';');
  const isPhone = uri.params.get('user')?.toLowerCase() === 'phone';
  const written = digits.replace(/%2b/i, '+').replace(/%23/g, '#');
  if (!(isPhone ? /[\d*#]/ : /^(?:\+[\d().-]+|[\d*#]+)$/).test(written)) return null;
  const params = rest.length === 0 ? NO_PARAMS : uriParams(`;${rest.join(';')}`);
  return telephone(written, params);
}

function telephone(
  written: string,
  given: ReadonlyMap<string, string | undefined>,
): Telephone | null {
  const number = written.replace(/[-.()]/g, '');
  if (!/^(?:\+\d+|[\dA-Fa-f*#]+)$/.test(number)) return null;
  const context = number.startsWith('+') ? '' : (given.get('phone-context') ?? '');
  if (!given.has('phone-context')) return { number, context, params: given };
  const params = new Map(given);
  params.delete('phone-context');
  return { number, context, params };
}
