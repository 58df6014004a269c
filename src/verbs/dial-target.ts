/**
 * Whom to call, from the ways it is written: a number, or a SIP URI whose query holds header
 * fields. Used by `<Dial>`'s nouns and by REST's `To`; which trunk or host that leads to is
 * routing.
 */
import type { DialTarget } from '../call/route.ts';

export type HeaderPair = readonly [name: string, value: string];
export type Credentials = { readonly username: string; readonly password: string };

const SIP_URI_CHARS_MAX = 255;
const SIP_HEADER_CHARS_MAX = 1024;
/** Punctuation people write numbers with. */
const NUMBER_PUNCTUATION = /[\s().\-/]/g;

/** Standard header fields an app may set; everything else must be a private one. */
const ALLOWED_HEADERS: ReadonlySet<string> = new Set([
  'user-to-user',
  'remote-party-id',
  'p-preferred-identity',
  'p-called-party-id',
]);

/** Null when it is neither number nor SIP URI. Header fields that may not be set are left out. */
export function dialTarget(written: string, credentials: Credentials | null): DialTarget | null {
  return /^sips?:/i.test(written) ? sipTarget(written, credentials) : numberTarget(written);
}

export function numberTarget(written: string): DialTarget | null {
  const number = written.replace(NUMBER_PUNCTUATION, '');
  return /^\+?[0-9*#]{1,32}$/.test(number) ? { kind: 'number', number } : null;
}

export function sipTarget(
  written: string,
  credentials: Credentials | null,
  more: readonly HeaderPair[] = [],
  onRefused: (header: string) => void = () => undefined,
): DialTarget | null {
  const { uri, query } = splitUri(written);
  if (!/^sips?:[^\s@<>"]+(@[^\s@<>"]+)?$/i.test(uri) || uri.length > SIP_URI_CHARS_MAX) return null;
  const headers = allowedHeaders([...queryHeaders(query), ...more], onRefused);
  return { kind: 'sip', uri, credentials, headers };
}

/** Header fields ride behind `?` as in a URI (RFC 3261 §19.1.1), but are not part of it. */
function splitUri(written: string): { readonly uri: string; readonly query: string } {
  const mark = written.indexOf('?');
  return mark < 0
    ? { uri: written, query: '' }
    : { uri: written.slice(0, mark), query: written.slice(mark + 1) };
}

function queryHeaders(query: string): HeaderPair[] {
  if (query === '') return [];
  return query.split('&').map((pair) => {
    const equals = pair.indexOf('=');
    if (equals < 0) return [decode(pair), ''];
    return [decode(pair.slice(0, equals)), decode(pair.slice(equals + 1))];
  });
}

function decode(escaped: string): string {
  try {
    return decodeURIComponent(escaped);
  } catch {
    return escaped;
  }
}

function allowedHeaders(
  pairs: readonly HeaderPair[],
  onRefused: (header: string) => void,
): HeaderPair[] {
  const allowed: HeaderPair[] = [];
  let size = 0;
  for (const [name, value] of pairs) {
    const lower = name.toLowerCase();
    const isPrivate = /^x-[a-z0-9\-.!%*_+`'~]+$/.test(lower) && !lower.startsWith('x-twilio');
    size += name.length + value.length + 2;
    // A line break in a value would be a header field of its own (RFC 3261 §7.3.1).
    const isPlain = /^[\t\x20-\x7e]*$/.test(value);
    if ((isPrivate || ALLOWED_HEADERS.has(lower)) && isPlain && size <= SIP_HEADER_CHARS_MAX) {
      allowed.push([name, value]);
    } else onRefused(name);
  }
  return allowed;
}
