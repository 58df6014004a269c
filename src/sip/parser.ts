/**
 * Text to `SipMessage`: the one place where SIP from outside is read. Strict where leniency lets
 * two elements see two messages (line ends, lengths, single fields), tolerant where the RFCs ask
 * for it (folding, case, spaces before the colon). Never throws on input. Not framing (`framing`),
 * and not the decisions that need more than one message: methods, extensions, routing, dialogs.
 *
 * RFC 3261 §7, §25; verdicts of RFC 4475 and RFC 5118. Shape: the whole message is one latin1
 * string, line ends and colons are found by `indexOf`, header names are compared in place and
 * positions kept in one array of numbers; no regular expression runs on a well-formed message.
 */
import { GatewayError } from '../core/errors.ts';
import {
  CHAR,
  CLASS,
  closingQuote,
  isSpace,
  scan,
  scanNameAddr,
  scanUri,
  skipSpace,
} from './grammar.ts';
import { HEADER, headerIdAt, unfold } from './header.ts';
import { DEFAULT_SIP_LIMITS, type SipLimits } from './limits.ts';
import { FIELD_STRIDE, FOLDED, type MessageParts, SipMessage } from './message.ts';
import { type RefusalParts, refusalParts } from './refusal.ts';
import { scannedHost, uriError } from './uri.ts';
import { NO_VIA, readVia } from './via.ts';

export interface ParseOptions {
  /** TCP, TLS: Content-Length is required (RFC 3261 §18.3). WebSocket frames are not a stream. */
  readonly stream: boolean;
  readonly limits?: SipLimits;
}

export interface ParseFailure {
  readonly ok: false;
  /** `garbage` and `keepalive` are dropped and counted; only `malformed` can deserve an answer. */
  readonly kind: 'malformed' | 'garbage' | 'keepalive';
  /** `error.row.sip` is the status to answer. */
  readonly error: GatewayError;
  /** null when there is nothing to answer with: no Via, a response, an ACK. */
  readonly reply: RefusalParts | null;
  readonly isResponse: boolean;
  readonly isAck: boolean;
}

export type ParseResult = { readonly ok: true; readonly message: SipMessage } | ParseFailure;

export function parseMessage(text: string, options: ParseOptions): ParseResult {
  const limits = options.limits ?? DEFAULT_SIP_LIMITS;
  let start = 0;
  // RFC 3261 §7.5: empty lines before the start line are skipped.
  while (text.charCodeAt(start) === 13 && text.charCodeAt(start + 1) === 10) start += 2;
  try {
    if (start >= text.length) return failure(text, start, malformed('no message'), 'keepalive');
    if (text.length > limits.messageBytesMax) throw tooLarge('message');
    return { ok: true, message: new Reading({ text, start, limits }).read(options.stream) };
  } catch (thrown) {
    if (!(thrown instanceof GatewayError)) throw thrown;
    return failure(text, start, thrown, isSip(text, start) ? 'malformed' : 'garbage');
  }
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem });
}

function tooLarge(problem: string): GatewayError {
  return new GatewayError('SIP_TOO_LARGE', { problem });
}

const METHODS: readonly string[] = [
  ...['INVITE', 'ACK', 'BYE', 'CANCEL', 'OPTIONS', 'REGISTER', 'PRACK', 'UPDATE', 'INFO', 'REFER'],
  ...['NOTIFY', 'SUBSCRIBE', 'MESSAGE', 'PUBLISH'],
];

/** The method at `start`, as a shared string when it is known; compared with case (§7.1). */
function methodAt(text: string, start: number, end: number): string {
  const length = end - start;
  for (let i = 0; i < METHODS.length; i += 1) {
    const method = METHODS[i] as string;
    if (method.length === length && text.startsWith(method, start)) return method;
  }
  return text.slice(start, end);
}

function bitsOf(ids: readonly number[]): number {
  return ids.reduce((bits, id) => bits | (1 << id), 0);
}

const REQUIRED = [HEADER.FROM, HEADER.TO, HEADER.CALL_ID, HEADER.CSEQ];
const REQUIRED_BITS = bitsOf(REQUIRED);
/** Fields of which a message may have one: of two, each element on the way would pick its own. */
const SINGLE_BITS = bitsOf([
  ...REQUIRED,
  HEADER.MAX_FORWARDS,
  HEADER.CONTENT_LENGTH,
  HEADER.CONTENT_TYPE,
  HEADER.DATE,
  HEADER.EXPIRES,
]);

/** Of the fields of the message being read. Reused: each message keeps a copy that fits. */
const POSITIONS: number[] = [];

/**
 * One pass over one message. Its public state is what the message is made of, its private state
 * what the pass has to know on the way.
 */
class Reading implements MessageParts {
  readonly text: string;
  fields: readonly number[] = [];
  isRequest = true;
  method = '';
  uri = '';
  host = '';
  status = 0;
  reason = '';
  bodyStart = 0;
  bodyEnd = 0;
  callId = '';
  fromTag = '';
  toTag = '';
  cseq = 0;
  cseqMethod = '';
  maxForwards: number | undefined = undefined;
  via = NO_VIA;
  readonly #limits: SipLimits;
  #pos: number;
  #fieldsEnd = 0;
  /** Header ids seen, a bit each. */
  #seen = 0;
  #vias = 0;
  #routes = 0;
  #recordRoutes = 0;
  #contacts = 0;
  #credentials = 0;
  #contentLength = -1;

  constructor(parts: { text: string; start: number; limits: SipLimits }) {
    this.text = parts.text;
    this.#pos = parts.start;
    this.#limits = parts.limits;
  }

  read(stream: boolean): SipMessage {
    const start = this.#pos;
    this.#startLine(start);
    this.#headers();
    this.#checkNul(start);
    this.bodyStart = this.#pos;
    this.bodyEnd = this.#bodyEnd(stream);
    this.#complete();
    this.fields = POSITIONS.slice(0, this.#fieldsEnd);
    return new SipMessage(this);
  }

  #startLine(start: number): void {
    const end = this.#lineEnd(start);
    this.#pos = end + 2;
    if (isResponseAt(this.text, start)) this.#statusLine(start, end);
    else this.#requestLine(start, end);
  }

  /** The CR that ends the line; a CR or LF outside a CRLF is refused: it hides header fields. */
  #lineEnd(start: number): number {
    const end = this.text.indexOf('\r', start);
    if (end < 0) throw malformed('headers do not end');
    if (this.text.indexOf('\n', start) !== end + 1) throw malformed('bare CR or LF');
    return end;
  }

  /** Method SP Request-URI SP SIP-Version, single spaces (RFC 3261 §7.1). */
  #requestLine(start: number, end: number): void {
    const text = this.text;
    const limits = this.#limits;
    const space = text.indexOf(' ', start);
    const version = text.lastIndexOf(' ', end - 1) + 1;
    if (space <= start || space >= end || version <= space + 1) throw malformed('bad request line');
    if (!isVersion2At(text, version) || end !== version + 7) {
      const other = text.slice(version, end);
      if (/^SIP\/\d+\.\d+$/i.test(other)) throw new GatewayError('SIP_VERSION', { version: other });
      throw malformed('bad request line');
    }
    if (space - start > limits.methodBytesMax) throw malformed('method too long');
    if (!isToken(text, start, space)) throw malformed('bad method');
    this.method = methodAt(text, start, space);
    if (end - start > limits.startLineBytesMax) {
      throw new GatewayError('SIP_URI_TOO_LONG', { problem: 'request line' });
    }
    const problem = scanUri(text, space + 1, version - 1, limits);
    this.uri = text.slice(space + 1, version - 1);
    if (problem !== '') throw uriError(problem, this.uri);
    this.host = scannedHost(text);
    // RFC 3261 §19.1.5: headers in a Request-URI must not be honoured; here they are refused.
    if (scan.headersStart >= 0) throw malformed('headers in the Request-URI');
  }

  /** SIP-Version SP 3DIGIT SP Reason; the last SP is forgiven, as common stacks leave it out. */
  #statusLine(start: number, end: number): void {
    const text = this.text;
    this.isRequest = false;
    if (end - start > this.#limits.startLineBytesMax) throw malformed('status line too long');
    if (!isVersion2At(text, start) || text.charCodeAt(start + 7) !== 32) {
      throw malformed('bad status line');
    }
    const status = digits(text, start + 8, Math.min(end, start + 11), 3);
    if (status < 100 || status > 699) throw malformed('bad status');
    if (end > start + 11 && text.charCodeAt(start + 11) !== 32) throw malformed('bad status');
    this.status = status;
    this.reason = end > start + 12 ? text.slice(start + 12, end) : '';
  }

  #headers(): void {
    const text = this.text;
    const { headersMax, headerBytesMax } = this.#limits;
    for (let count = 0; ; count += 1) {
      const start = this.#pos;
      let end = this.#lineEnd(start);
      if (end === start) break;
      if (count >= headersMax) throw tooLarge('number of headers');
      let mark = 0;
      // RFC 3261 §7.3.1: a line that starts with a space goes on from the one before.
      while (isSpace(text.charCodeAt(end + 2))) {
        mark = FOLDED;
        end = this.#lineEnd(end + 2);
      }
      if (end - start > headerBytesMax) throw tooLarge('header');
      this.#pos = end + 2;
      this.#field(start, end, mark);
    }
    this.#pos += 2;
  }

  /** field-name HCOLON field-value. What is read eagerly goes on to `#value`. */
  #field(start: number, end: number, mark: number): void {
    const text = this.text;
    const colon = text.indexOf(':', start);
    if (colon < 0 || colon >= end) throw malformed('header without a colon');
    let nameEnd = colon;
    while (nameEnd > start && isSpace(text.charCodeAt(nameEnd - 1))) nameEnd -= 1;
    const id = headerIdAt(text, start, nameEnd);
    if (id === 0 && !isToken(text, start, nameEnd)) throw malformed('bad header name');
    const valueStart = skipSpace(text, colon + 1, end);
    let valueEnd = end;
    while (valueEnd > valueStart && isSpace(text.charCodeAt(valueEnd - 1))) valueEnd -= 1;
    const at = this.#fieldsEnd;
    POSITIONS[at] = id | mark;
    POSITIONS[at + 1] = start;
    POSITIONS[at + 2] = nameEnd;
    POSITIONS[at + 3] = valueStart;
    POSITIONS[at + 4] = valueEnd;
    this.#fieldsEnd = at + FIELD_STRIDE;
    if (id === 0 || id > HEADER.EXPIRES) return;
    const bit = 1 << id;
    if ((this.#seen & bit & SINGLE_BITS) !== 0) {
      throw malformed(`two ${text.slice(start, nameEnd)} headers`);
    }
    if (mark === 0) {
      this.#value(id, text, valueStart, valueEnd);
    } else {
      const unfolded = unfold(text.slice(valueStart, valueEnd));
      this.#value(id, unfolded, 0, unfolded.length);
    }
    this.#seen |= bit;
  }

  #value(id: number, text: string, start: number, end: number): void {
    switch (id) {
      case HEADER.VIA:
        if (this.via === NO_VIA) this.via = readVia(text, start, end, this.#limits);
        this.#vias += countValues(text, start, end);
        this.#checkHops(this.#vias, 'Via');
        return;
      case HEADER.FROM:
        this.fromTag = this.#address(text, start, end, 'From');
        return;
      case HEADER.TO:
        this.toTag = this.#address(text, start, end, 'To');
        return;
      case HEADER.CALL_ID:
        this.#readCallId(text, start, end);
        return;
      case HEADER.CSEQ:
        this.#readCseq(text, start, end);
        return;
      case HEADER.MAX_FORWARDS:
        this.maxForwards = digits(text, start, end, 10);
        if (this.maxForwards < 0 || this.maxForwards > 255) throw malformed('bad Max-Forwards');
        return;
      case HEADER.CONTACT:
        this.#readContacts(text, start, end);
        return;
      case HEADER.CONTENT_LENGTH:
        // More than 8 digits is no length but an attempt at an overflow somewhere.
        this.#contentLength = digits(text, start, end, 8);
        if (this.#contentLength < 0) throw malformed('bad Content-Length');
        return;
      case HEADER.ROUTE:
        this.#routes += countValues(text, start, end);
        this.#checkHops(this.#routes, 'Route');
        return;
      case HEADER.RECORD_ROUTE:
        this.#recordRoutes += countValues(text, start, end);
        this.#checkHops(this.#recordRoutes, 'Record-Route');
        return;
      case HEADER.DATE:
        if (!isDate(text.slice(start, end))) throw malformed('bad Date');
        return;
      case HEADER.AUTHORIZATION:
      case HEADER.PROXY_AUTHORIZATION:
        this.#credentials += 1;
        if (this.#credentials > this.#limits.credentialsMax)
          throw malformed('too many credentials');
        return;
      default:
        return;
    }
  }

  #checkHops(count: number, name: string): void {
    if (count > this.#limits.hopsMax) throw tooLarge(`number of ${name} values`);
  }

  /** Checks From or To and returns its tag, '' when it has none. */
  #address(text: string, start: number, end: number, name: string): string {
    const problem = scanNameAddr(text, start, end, false, this.#limits);
    if (problem !== '') throw malformed(`${name}: ${problem}`);
    if (scan.tagStart < 0) return '';
    if (scan.tagEnd - scan.tagStart > this.#limits.tagBytesMax)
      throw malformed(`${name}: long tag`);
    return text.slice(scan.tagStart, scan.tagEnd);
  }

  #readCallId(text: string, start: number, end: number): void {
    if (end === start || end - start > this.#limits.callIdBytesMax) throw malformed('bad Call-ID');
    for (let p = start; p < end; p += 1) {
      const c = text.charCodeAt(p);
      if (((CLASS[c] as number) & CHAR.WORD) === 0 && c !== 64) throw malformed('bad Call-ID');
    }
    this.callId = text.slice(start, end);
  }

  /** RFC 3261 §8.1.1.5: below 2^31. Leading zeros are digits like others (RFC 4475 §3.1.1.1). */
  #readCseq(text: string, start: number, end: number): void {
    let p = start;
    while (p < end && !isSpace(text.charCodeAt(p))) p += 1;
    const number = digits(text, start, p, 16);
    if (number < 0 || number >= 2 ** 31) throw malformed('bad CSeq number');
    const method = skipSpace(text, p, end);
    if (!isToken(text, method, end)) throw malformed('bad CSeq method');
    this.cseq = number;
    this.cseqMethod = methodAt(text, method, end);
  }

  #readContacts(text: string, start: number, end: number): void {
    if (end === start + 1 && text.charCodeAt(start) === 42) return;
    let p = start;
    for (;;) {
      const problem = scanNameAddr(text, p, end, true, this.#limits);
      if (problem !== '') throw malformed(`Contact: ${problem}`);
      this.#contacts += 1;
      if (this.#contacts > this.#limits.contactsMax) throw tooLarge('number of contacts');
      if (scan.next >= end) return;
      p = scan.next + 1;
    }
  }

  /** NUL is legal only as a quoted pair (RFC 4475 §3.1.1.2); anywhere else it cuts C strings. */
  #checkNul(start: number): void {
    let p = this.text.indexOf('\0', start);
    while (p >= 0 && p < this.#pos) {
      if (this.text.charCodeAt(p - 1) !== 92) throw malformed('NUL in a header');
      p = this.text.indexOf('\0', p + 1);
    }
  }

  /** RFC 3261 §18.3: on datagrams what follows the body is dropped, what lacks is an error. */
  #bodyEnd(stream: boolean): number {
    if (this.#contentLength < 0) {
      if (stream) throw malformed('no Content-Length on a stream');
      return this.text.length;
    }
    const end = this.#pos + this.#contentLength;
    if (end > this.text.length) throw malformed('body shorter than Content-Length');
    return end;
  }

  /** RFC 3261 §8.1.1: what no message can be without. */
  #complete(): void {
    if (this.via === NO_VIA) throw malformed('no Via');
    if ((this.#seen & REQUIRED_BITS) !== REQUIRED_BITS) {
      throw malformed('From, To, Call-ID or CSeq is missing');
    }
    if (!this.isRequest) this.method = this.cseqMethod;
    if (this.cseqMethod !== this.method) {
      // RFC 4475 §3.1.2.18: for a method nobody knows that is the more useful thing to say.
      if (!METHODS.includes(this.method)) {
        throw new GatewayError('SIP_METHOD_UNKNOWN', { method: this.method });
      }
      throw malformed('CSeq has another method');
    }
  }
}

/** How many comma-separated values a line has, quoted commas apart. */
function countValues(text: string, start: number, end: number): number {
  let count = 1;
  for (let p = start; p < end; p += 1) {
    const c = text.charCodeAt(p);
    if (c === 34) {
      // Read on behind a quote that does not close, each quote after it would search again.
      p = closingQuote(text, p, end);
      if (p < 0) throw malformed('unbalanced quote');
    } else if (c === 44) {
      count += 1;
    }
  }
  return count;
}

/** The number written in `text[start, end)`; -1 when it is none or has more than `most` digits. */
function digits(text: string, start: number, end: number, most: number): number {
  if (end <= start || end - start > most) return -1;
  let value = 0;
  for (let p = start; p < end; p += 1) {
    const c = text.charCodeAt(p);
    if (c < 48 || c > 57) return -1;
    value = value * 10 + c - 48;
  }
  return value;
}

function isToken(text: string, start: number, end: number): boolean {
  if (end <= start) return false;
  for (let p = start; p < end; p += 1) {
    if (((CLASS[text.charCodeAt(p)] as number) & CHAR.TOKEN) === 0) return false;
  }
  return true;
}

/** RFC 3261 §25.1 `rfc1123-date`: GMT only (RFC 4475 §3.1.2.12). Rare, so a pattern will do. */
function isDate(value: string): boolean {
  return /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/.test(value);
}

/** "SIP/2.0" in any case (RFC 3261 §7.1). */
function isVersion2At(text: string, start: number): boolean {
  if (text.startsWith('SIP/2.0', start)) return true;
  return text.slice(start, start + 7).toUpperCase() === 'SIP/2.0';
}

function isResponseAt(text: string, start: number): boolean {
  if (text.charCodeAt(start + 3) !== 47) return false;
  return text.slice(start, start + 3).toUpperCase() === 'SIP';
}

// What follows runs for refused messages only.

/** Whether the first line tries to be SIP; HTTP, TLS and noise are dropped without an answer. */
function isSip(text: string, start: number): boolean {
  const end = text.indexOf('\r\n', start);
  return end >= 0 && /(?:^|[ \t])SIP\/\d/i.test(text.slice(start, end));
}

function failure(
  text: string,
  start: number,
  error: GatewayError,
  kind: ParseFailure['kind'],
): ParseFailure {
  const isResponse = isResponseAt(text, start);
  const isAck = text.startsWith('ACK ', start);
  const reply = kind === 'malformed' && !isResponse && !isAck ? refusalParts(text, start) : null;
  return { ok: false, kind, error, reply, isResponse, isAck };
}
