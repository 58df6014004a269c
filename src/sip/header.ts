/**
 * The header fields tandem knows by number: names, compact forms and a lookup that reads the name
 * where it stands in the message, without cutting it out; and the two forms every value can have,
 * folded and listed. Not the grammar of their values
 * (`parser`, `uri`), and not a filter: unknown fields keep their place and spelling.
 *
 * RFC 3261 §7.3.1 (names compare without case; folding; lists), §7.3.3 (compact forms).
 */
import { closingQuote } from './grammar.ts';

/** Field names in their usual spelling; the position is the number. 0 is "not known". */
const NAMES = [
  '',
  'Via',
  'From',
  'To',
  'Call-ID',
  'CSeq',
  'Max-Forwards',
  'Contact',
  'Content-Length',
  'Content-Type',
  'Route',
  'Record-Route',
  'Date',
  'Authorization',
  'Proxy-Authorization',
  'Content-Encoding',
  'Expires',
  'Require',
  'Proxy-Require',
  'Supported',
  'Unsupported',
  'Allow',
  'Accept',
  'User-Agent',
  'Server',
  'WWW-Authenticate',
  'Proxy-Authenticate',
  'Refer-To',
  'Referred-By',
  'Replaces',
  'Event',
  'Allow-Events',
  'Subscription-State',
  'RAck',
  'RSeq',
  'Reason',
  'Retry-After',
  'Session-Expires',
  'Min-SE',
  'Min-Expires',
  'Subject',
  'Timestamp',
  'Warning',
  'Privacy',
  'P-Asserted-Identity',
  'P-Preferred-Identity',
  'Remote-Party-ID',
  'Diversion',
  'History-Info',
  'Identity',
  'Path',
  'Service-Route',
  'Call-Info',
  'Alert-Info',
  'Content-Disposition',
  'MIME-Version',
  'Accept-Encoding',
  'Accept-Language',
  'Organization',
  'Priority',
  'Authentication-Info',
  'User-to-User',
  'Accept-Contact',
  'Reject-Contact',
  'Request-Disposition',
] as const;

export const HEADER = {
  VIA: 1,
  FROM: 2,
  TO: 3,
  CALL_ID: 4,
  CSEQ: 5,
  MAX_FORWARDS: 6,
  CONTACT: 7,
  CONTENT_LENGTH: 8,
  CONTENT_TYPE: 9,
  ROUTE: 10,
  RECORD_ROUTE: 11,
  DATE: 12,
  AUTHORIZATION: 13,
  PROXY_AUTHORIZATION: 14,
  CONTENT_ENCODING: 15,
  EXPIRES: 16,
} as const;

/** RFC 3261 §7.3.3 and the event, session timer, refer, identity and caller preference RFCs. */
const COMPACT: readonly (readonly [letter: string, name: string])[] = [
  ['v', 'Via'],
  ['f', 'From'],
  ['t', 'To'],
  ['i', 'Call-ID'],
  ['m', 'Contact'],
  ['l', 'Content-Length'],
  ['c', 'Content-Type'],
  ['e', 'Content-Encoding'],
  ['k', 'Supported'],
  ['s', 'Subject'],
  ['o', 'Event'],
  ['u', 'Allow-Events'],
  ['r', 'Refer-To'],
  ['b', 'Referred-By'],
  ['x', 'Session-Expires'],
  ['y', 'Identity'],
  ['a', 'Accept-Contact'],
  ['j', 'Reject-Contact'],
  ['d', 'Request-Disposition'],
];

const BY_NAME = new Map<string, number>();
for (const [id, name] of NAMES.entries()) {
  if (id === 0) continue;
  BY_NAME.set(name, id);
  BY_NAME.set(name.toLowerCase(), id);
}
for (const [letter, name] of COMPACT) BY_NAME.set(letter, BY_NAME.get(name) ?? 0);

/** The number of a name given in any case or compact form; 0 when it is not known. */
export function headerId(name: string): number {
  return BY_NAME.get(name) ?? BY_NAME.get(name.toLowerCase()) ?? 0;
}

/**
 * One name for all ways to write it: spaces around it gone, lower case, compact forms in full. What
 * is compared in this form cannot be slipped past by `Name :` or by a letter.
 */
export function canonicalName(name: string): string {
  const bare = name.trim().toLowerCase();
  const id = BY_NAME.get(bare);
  return id === undefined ? bare : (NAMES[id] ?? bare).toLowerCase();
}

/** Known names by length and first letter: what can stand at a place is then one or two names. */
const LENGTH_MAX = 24;
const BUCKETS: number[][] = Array.from({ length: (LENGTH_MAX + 1) * 32 }, () => []);
for (const [id, name] of NAMES.entries()) {
  if (id > 0) BUCKETS[name.length * 32 + (name.charCodeAt(0) & 31)]?.push(id);
}
const LETTERS = new Uint8Array(256);
for (const [letter, name] of COMPACT) {
  LETTERS[letter.charCodeAt(0)] = BY_NAME.get(name) ?? 0;
  LETTERS[letter.toUpperCase().charCodeAt(0)] = BY_NAME.get(name) ?? 0;
}

/** The number of the name at `text[start, end)`, 0 when it is not known. Allocates nothing. */
export function headerIdAt(text: string, start: number, end: number): number {
  const length = end - start;
  const first = text.charCodeAt(start);
  if (length === 1) return LETTERS[first & 255] ?? 0;
  if (length > LENGTH_MAX) return 0;
  const bucket = BUCKETS[length * 32 + (first & 31)];
  if (bucket === undefined) return 0;
  for (let i = 0; i < bucket.length; i += 1) {
    const id = bucket[i] as number;
    const name = NAMES[id] as string;
    if (text.startsWith(name, start)) return id;
    if (equalsAnyCase(text, start, name)) return id;
  }
  return 0;
}

function equalsAnyCase(text: string, start: number, name: string): boolean {
  for (let i = 0; i < name.length; i += 1) {
    let a = text.charCodeAt(start + i);
    let b = name.charCodeAt(i);
    if (a >= 65 && a <= 90) a |= 32;
    if (b >= 65 && b <= 90) b |= 32;
    if (a !== b) return false;
  }
  return true;
}

/** RFC 3261 §7.3.1: a fold is one space. Only called for fields the parser marked. */
export function unfold(raw: string): string {
  let out = '';
  for (const line of raw.split('\r\n')) {
    const part = line.trim();
    if (part !== '') out += out === '' ? part : ` ${part}`;
  }
  return out;
}

/** Splits at `separator` outside quotes and <>; parts are trimmed, empty ones kept. */
export function splitOutside(text: string, separator: ',' | ';', into: string[]): string[] {
  const mark = separator.charCodeAt(0);
  let start = 0;
  let inBrackets = false;
  for (let p = 0; p < text.length; p += 1) {
    const c = text.charCodeAt(p);
    if (c === 34 && !inBrackets) {
      const close = closingQuote(text, p, text.length);
      if (close < 0) break;
      p = close;
    } else if (c === 60) {
      inBrackets = true;
    } else if (c === 62) {
      inBrackets = false;
    } else if (c === mark && !inBrackets) {
      into.push(text.slice(start, p).trim());
      start = p + 1;
    }
  }
  into.push(text.slice(start).trim());
  return into;
}
