/**
 * The lexical ground of SIP: character classes and scanners that check text where it stands and
 * keep positions instead of cutting strings. Not values (`uri` makes those) and not header by
 * header knowledge (`parser`).
 *
 * RFC 3261 §25.1; RFC 3966 (tel); RFC 5118 (IPv6). A scanner returns '' when the text is well
 * formed and a reason otherwise; what it found stays in `scan` until the next call.
 */

export interface UriLimits {
  readonly uriBytesMax: number;
  readonly uriParamsMax: number;
}

export const DEFAULT_URI_LIMITS: UriLimits = { uriBytesMax: 2048, uriParamsMax: 32 };

/** Marks of `scanUri` that are not plain malformation; callers map them to their own codes. */
export const UNKNOWN_SCHEME = 'unknown URI scheme';
export const URI_TOO_LONG = 'URI over its limit';

/** Bits of one character: where RFC 3261 §25.1 lets it stand. */
export const CHAR = {
  TOKEN: 1,
  USER: 2,
  PASSWORD: 4,
  PARAM: 8,
  HEADERS: 16,
  HOST: 32,
  VALUE: 64,
  WORD: 128,
};
export const CLASS = new Uint8Array(256);

function allow(chars: string, bits: number): void {
  for (let i = 0; i < chars.length; i += 1) {
    const c = chars.charCodeAt(i);
    CLASS[c] = (CLASS[c] ?? 0) | bits;
  }
}

const ALNUM = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const MARK = "-_.!~*'()";
allow(ALNUM, 255);
allow("-.!%*_+`'~", CHAR.TOKEN);
allow(`${MARK}%&=+$,;?/`, CHAR.USER);
allow(`${MARK}%&=+$,`, CHAR.PASSWORD);
allow(`${MARK}%[]/:&+$`, CHAR.PARAM);
allow(`${MARK}%[]/?:+$&=`, CHAR.HEADERS);
// DEVIATES: '_' is no hostname character, but container networks use it in names.
allow('-._', CHAR.HOST);
allow('-.!%*_+`\'~()<>:\\"/[]?{}', CHAR.WORD);
// Unquoted values of header parameters: wider than token, as IPv6 in `received` needs (RFC 5118).
allow("-.!%*_+`'~:[]/@?&=$()#|^{}", CHAR.VALUE);
for (let c = 128; c < 256; c += 1) CLASS[c] = CHAR.VALUE;

/** Positions found by the last scan. One object, reused: the parser reads it at once. */
export const scan = {
  userStart: -1,
  userEnd: -1,
  passwordEnd: -1,
  hostStart: 0,
  hostEnd: 0,
  port: 0,
  paramsStart: 0,
  paramsEnd: 0,
  headersStart: -1,
  displayStart: 0,
  displayEnd: 0,
  uriStart: 0,
  uriEnd: 0,
  tagStart: -1,
  tagEnd: -1,
  branchStart: -1,
  branchEnd: -1,
  maddrStart: -1,
  next: 0,
};

export function isSpace(c: number): boolean {
  return c === 32 || c === 9;
}

export function skipSpace(text: string, start: number, end: number): number {
  let p = start;
  while (p < end && isSpace(text.charCodeAt(p))) p += 1;
  return p;
}

/** The end of the run of characters that have `bit`; -1 when a '%' in it escapes nothing. */
function run(text: string, start: number, end: number, bit: number): number {
  let p = start;
  while (p < end) {
    const c = text.charCodeAt(p);
    if (((CLASS[c] as number) & bit) === 0) return p;
    if (c === 37) {
      if (p + 2 >= end || !isHex(text.charCodeAt(p + 1)) || !isHex(text.charCodeAt(p + 2)))
        return -1;
      p += 2;
    }
    p += 1;
  }
  return p;
}

function isHex(c: number): boolean {
  return (c >= 48 && c <= 57) || ((c | 32) >= 97 && (c | 32) <= 102);
}

function isDigit(c: number): boolean {
  return c >= 48 && c <= 57;
}

/** Length of the scheme with its colon: 4 sip, 5 sips, -4 tel, 0 another, -1 no scheme at all. */
function schemeAt(text: string, start: number, end: number): number {
  const a = text.charCodeAt(start) | 32;
  const b = text.charCodeAt(start + 1) | 32;
  const c = text.charCodeAt(start + 2) | 32;
  if (end - start >= 4) {
    if (a === 115 && b === 105 && c === 112) {
      if (text.charCodeAt(start + 3) === 58) return 4;
      if ((text.charCodeAt(start + 3) | 32) === 115 && text.charCodeAt(start + 4) === 58) return 5;
    }
    if (a === 116 && b === 101 && c === 108 && text.charCodeAt(start + 3) === 58) return -4;
  }
  if (a < 97 || a > 122) return -1;
  for (let p = start + 1; p < end; p += 1) {
    const x = text.charCodeAt(p);
    if (x === 58) return 0;
    const letter = (x | 32) >= 97 && (x | 32) <= 122;
    if (!letter && !isDigit(x) && x !== 43 && x !== 45 && x !== 46) return -1;
  }
  return -1;
}

/** Checks the URI that fills `text[start, end)` exactly. */
export function scanUri(text: string, start: number, end: number, limits: UriLimits): string {
  if (end - start > limits.uriBytesMax) return URI_TOO_LONG;
  const scheme = schemeAt(text, start, end);
  if (scheme < 0) return scheme === -4 ? scanTel(text, start, end, limits) : 'URI without a scheme';
  if (scheme === 0) return scanOpaque(text, start, end);
  const first = start + scheme;
  const problem = scanUserInfo(text, first, end);
  if (problem !== '') return problem;
  scan.hostStart = scan.userEnd < 0 ? first : scan.passwordEnd + 1;
  const p = scanHostPort(text, scan.hostStart, end);
  if (p < 0) return 'bad host or port in URI';
  return scanUriTail(text, p, end, limits);
}

function scanOpaque(text: string, start: number, end: number): string {
  for (let p = start; p < end; p += 1) {
    const c = text.charCodeAt(p);
    if (c <= 32 || c >= 127 || c === 60 || c === 62 || c === 34) return 'bad character in URI';
  }
  return UNKNOWN_SCHEME;
}

/** RFC 3966 §3: global and local numbers with visual separators, then parameters. */
function scanTel(text: string, start: number, end: number, limits: UriLimits): string {
  let p = start + 4;
  scan.userStart = p;
  const isGlobal = text.charCodeAt(p) === 43;
  if (isGlobal) p += 1;
  const allowed = isGlobal ? '0123456789-.()' : '0123456789-.()*#ABCDabcdEFef';
  let digits = 0;
  for (; p < end && allowed.includes(text.charAt(p)); p += 1) {
    if (!'-.()'.includes(text.charAt(p))) digits += 1;
  }
  // Visual separators alone call nobody.
  if (digits === 0) return 'tel URI without a number';
  scan.userEnd = p;
  scan.passwordEnd = p;
  scan.hostStart = p;
  scan.hostEnd = p;
  scan.port = 0;
  return scanUriTail(text, p, end, limits);
}

/** userinfo ends at the only '@' a URI can have; '?' and ';' before it belong to the user. */
function scanUserInfo(text: string, start: number, end: number): string {
  scan.userStart = start;
  scan.userEnd = -1;
  scan.passwordEnd = -1;
  const p = run(text, start, end, CHAR.USER);
  if (p < 0) return 'bad escape in URI';
  const c = text.charCodeAt(p);
  if (p < end && c === 64) {
    if (p === start) return 'empty user in URI';
    scan.userEnd = p;
    scan.passwordEnd = p;
  } else if (p < end && c === 58) {
    const q = run(text, p + 1, end, CHAR.PASSWORD);
    if (q < 0) return 'bad escape in URI';
    if (q < end && text.charCodeAt(q) === 64) {
      if (p === start) return 'empty user in URI';
      scan.userEnd = p;
      scan.passwordEnd = q;
    }
  }
  return '';
}

/** host [":" port] from `start`; returns where it stops, -1 when it is malformed. */
export function scanHostPort(text: string, start: number, end: number): number {
  let p = start;
  scan.hostStart = start;
  scan.port = 0;
  if (text.charCodeAt(p) === 91) {
    p = scanIpv6(text, p, end);
  } else {
    p = scanHostname(text, p, end);
  }
  if (p < 0) return -1;
  scan.hostEnd = p;
  const q = p;
  if (q < end && text.charCodeAt(q) === 58) {
    let port = 0;
    p = q + 1;
    while (p < end && isDigit(text.charCodeAt(p)) && p - q <= 5) {
      port = port * 10 + text.charCodeAt(p) - 48;
      p += 1;
    }
    if (p === q + 1 || port === 0 || port > 65535) return -1;
    scan.port = port;
  }
  return p;
}

/** RFC 5118 §4.10 asks to tolerate the ':::' that an old grammar produced; so no group counting. */
function scanIpv6(text: string, start: number, end: number): number {
  let colons = 0;
  for (let p = start + 1; p < end && p - start < 48; p += 1) {
    const c = text.charCodeAt(p);
    if (c === 93) return colons >= 2 ? p + 1 : -1;
    if (c === 58) colons += 1;
    else if (c !== 46 && !isHex(c)) return -1;
  }
  return -1;
}

function scanHostname(text: string, start: number, end: number): number {
  let p = start;
  let label = start;
  let last = start;
  while (p < end) {
    const c = text.charCodeAt(p);
    if (((CLASS[c] as number) & CHAR.HOST) === 0) break;
    if (c === 46) {
      if (p === label) return -1;
      label = p + 1;
    } else if (p === label) {
      last = p;
    }
    p += 1;
  }
  if (p === start || p - start > 255) return -1;
  if (text.charCodeAt(start) === 45) return -1;
  // A last label that starts with a digit can only be an IPv4 address (RFC 3261 `toplabel`).
  if (isDigit(text.charCodeAt(last)) && !isIpv4(text, start, p)) return -1;
  return p;
}

function isIpv4(text: string, start: number, end: number): boolean {
  let octet = 0;
  let digits = 0;
  let dots = 0;
  for (let p = start; p < end; p += 1) {
    const c = text.charCodeAt(p);
    if (c === 46) {
      if (digits === 0) return false;
      dots += 1;
      octet = 0;
      digits = 0;
    } else {
      if (!isDigit(c) || (digits > 0 && octet === 0)) return false;
      octet = octet * 10 + c - 48;
      digits += 1;
      if (octet > 255) return false;
    }
  }
  return dots === 3 && digits > 0;
}

function scanUriTail(text: string, start: number, end: number, limits: UriLimits): string {
  let p = start;
  let count = 0;
  scan.paramsStart = p;
  scan.headersStart = -1;
  while (p < end && text.charCodeAt(p) === 59) {
    const name = p + 1;
    count += 1;
    if (count > limits.uriParamsMax) return URI_TOO_LONG;
    p = run(text, name, end, CHAR.PARAM);
    if (p < 0 || p === name) return 'bad URI parameter';
    if (p < end && text.charCodeAt(p) === 61) {
      const value = p + 1;
      p = run(text, value, end, CHAR.PARAM);
      if (p < 0 || p === value) return 'bad URI parameter';
    }
  }
  scan.paramsEnd = p;
  if (p < end && text.charCodeAt(p) === 63) {
    scan.headersStart = p + 1;
    p = run(text, p + 1, end, CHAR.HEADERS);
    if (p < 0 || p === scan.headersStart) return 'bad headers in URI';
  }
  return p === end ? '' : 'bad character in URI';
}

/**
 * `*(;name[=value])` up to `end`, or up to a comma when `list`. Fills `into` when given (names in
 * lower case, first of a name wins, quotes taken off) and notes where tag and branch stand.
 */
export function scanParams(
  text: string,
  start: number,
  end: number,
  list: boolean,
  into: Map<string, string | undefined> | null,
): string {
  let p = skipSpace(text, start, end);
  let count = 0;
  scan.tagStart = -1;
  scan.branchStart = -1;
  scan.maddrStart = -1;
  while (p < end) {
    const c = text.charCodeAt(p);
    if (c === 44 && list) break;
    if (c !== 59) return 'bad character after the address';
    count += 1;
    if (count > DEFAULT_URI_LIMITS.uriParamsMax) return 'too many parameters';
    const name = skipSpace(text, p + 1, end);
    p = name;
    while (p < end && ((CLASS[text.charCodeAt(p)] as number) & CHAR.TOKEN) !== 0) p += 1;
    if (p === name) return 'empty parameter';
    const nameEnd = p;
    p = skipSpace(text, p, end);
    if (p < end && text.charCodeAt(p) === 61) {
      p = scanParamValue(text, name, nameEnd, skipSpace(text, p + 1, end), end, into);
      if (p < 0) return 'bad parameter value';
      p = skipSpace(text, p, end);
    } else {
      if (isTag(text, name, nameEnd)) return 'empty tag';
      if (into !== null) keepParam(into, text.slice(name, nameEnd), undefined);
    }
  }
  scan.next = p;
  return '';
}

function scanParamValue(
  text: string,
  name: number,
  nameEnd: number,
  start: number,
  end: number,
  into: Map<string, string | undefined> | null,
): number {
  if (text.charCodeAt(start) === 34) {
    const close = closingQuote(text, start, end);
    if (close < 0) return -1;
    if (isTag(text, name, nameEnd)) return -1;
    if (into !== null)
      keepParam(into, text.slice(name, nameEnd), unquote(text.slice(start + 1, close)));
    return close + 1;
  }
  let p = start;
  while (p < end && ((CLASS[text.charCodeAt(p)] as number) & CHAR.VALUE) !== 0) p += 1;
  if (p === start) return -1;
  if (isTag(text, name, nameEnd)) {
    if (scan.tagStart >= 0) return -1;
    scan.tagStart = start;
    scan.tagEnd = p;
  } else if (nameEnd - name === 6 && isWord(text, name, 'branch')) {
    if (scan.branchStart >= 0) return -1;
    scan.branchStart = start;
    scan.branchEnd = p;
  } else if (nameEnd - name === 5 && isWord(text, name, 'maddr')) {
    scan.maddrStart = start;
  }
  if (into !== null) keepParam(into, text.slice(name, nameEnd), text.slice(start, p));
  return p;
}

function isTag(text: string, start: number, end: number): boolean {
  return end - start === 3 && isWord(text, start, 'tag');
}

function isWord(text: string, start: number, word: string): boolean {
  for (let i = 0; i < word.length; i += 1) {
    if ((text.charCodeAt(start + i) | 32) !== word.charCodeAt(i)) return false;
  }
  return true;
}

export function keepParam(
  into: Map<string, string | undefined>,
  name: string,
  value: string | undefined,
): void {
  const key = name.toLowerCase();
  if (!into.has(key)) into.set(key, value);
}

/** Where the quoted string that opens at `start` closes; -1 when it does not before `end`. */
export function closingQuote(text: string, start: number, end: number): number {
  for (let p = start + 1; p < end; p += 1) {
    const c = text.charCodeAt(p);
    if (c === 34) return p;
    if (c === 92) p += 1;
  }
  return -1;
}

/** Takes the backslashes of quoted pairs out of the inside of a quoted string. */
export function unquote(inside: string): string {
  if (!inside.includes('\\')) return inside;
  let out = '';
  for (let p = 0; p < inside.length; p += 1) {
    if (inside.charAt(p) === '\\') p += 1;
    out += inside.charAt(p);
  }
  return out;
}

/**
 * `[display] <uri>` or a bare URI, then parameters. A bare URI ends at its first ';' and may hold
 * no '?' or ',' (RFC 3261 §20.10): whose they would be is ambiguous.
 */
export function scanNameAddr(
  text: string,
  start: number,
  end: number,
  list: boolean,
  limits: UriLimits = DEFAULT_URI_LIMITS,
): string {
  let p = skipSpace(text, start, end);
  scan.displayStart = p;
  if (text.charCodeAt(p) === 34) {
    const close = closingQuote(text, p, end);
    if (close < 0) return 'unbalanced quote';
    scan.displayEnd = close + 1;
    p = skipSpace(text, close + 1, end);
    if (text.charCodeAt(p) !== 60) return 'display name without <address>';
  } else {
    const word = p;
    while (p < end) {
      const c = text.charCodeAt(p);
      if (((CLASS[c] as number) & CHAR.TOKEN) === 0 && !isSpace(c) && c < 128) break;
      p += 1;
    }
    if (text.charCodeAt(p) !== 60 || p >= end) p = word;
    scan.displayEnd = p;
  }
  const bracket = p < end && text.charCodeAt(p) === 60;
  if (bracket) p += 1;
  const uriEnd = bracket ? bracketEnd(text, p, end) : bareUriEnd(text, p, end);
  if (uriEnd < 0) return 'address without its closing >';
  const uriStart = p;
  const problem = scanUri(text, uriStart, uriEnd, limits);
  if (problem !== '' && problem !== UNKNOWN_SCHEME) return problem;
  scan.uriStart = uriStart;
  scan.uriEnd = uriEnd;
  scan.paramsStart = bracket ? uriEnd + 1 : uriEnd;
  return scanParams(text, scan.paramsStart, end, list, null);
}

function bracketEnd(text: string, start: number, end: number): number {
  for (let p = start; p < end; p += 1) if (text.charCodeAt(p) === 62) return p;
  return -1;
}

function bareUriEnd(text: string, start: number, end: number): number {
  let p = start;
  while (p < end) {
    const c = text.charCodeAt(p);
    if (c === 59 || c === 44 || c === 63 || c <= 32) break;
    p += 1;
  }
  return p;
}
