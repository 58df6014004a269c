/**
 * A SIP message as it was received (`SipMessage`: one latin1 string, positions in a small array,
 * values cut on demand) and as it is sent (`OutgoingRequest`, `OutgoingResponse`: plain data made
 * into text). Not parsing (`parser`), not matching of dialogs, no I/O.
 *
 * RFC 3261 §7 (format), §8.2.6 (responses), §17.1.3 and §17.2.3 (keys), §18.2.1 with RFC 3581
 * (received and rport). Cut strings keep the whole message alive: `detach` what outlives it.
 */
import { GatewayError } from '../core/errors.ts';
import { HEADER, headerId, splitOutside, unfold } from './header.ts';
import { MAGIC_COOKIE, type TopVia, type Via } from './via.ts';

/** Numbers a field takes in `MessageParts.fields`: id and fold mark, name and value positions. */
export const FIELD_STRIDE = 5;
export const FOLDED = 256;

/** What the parser found; positions refer to `text`. */
export interface MessageParts {
  readonly text: string;
  readonly isRequest: boolean;
  readonly method: string;
  readonly uri: string;
  readonly host: string;
  readonly status: number;
  readonly reason: string;
  readonly fields: readonly number[];
  readonly bodyStart: number;
  readonly bodyEnd: number;
  readonly callId: string;
  readonly cseq: number;
  readonly cseqMethod: string;
  readonly fromTag: string;
  readonly toTag: string;
  readonly maxForwards: number | undefined;
  readonly via: TopVia;
}

export class SipMessage {
  readonly isRequest: boolean;
  /** The request's method; for responses the method of CSeq. */
  readonly method: string;
  readonly uri: string;
  /** The host in `uri`, without brackets around IPv6. */
  readonly host: string;
  readonly status: number;
  readonly reason: string;
  readonly callId: string;
  readonly cseq: number;
  readonly cseqMethod: string;
  readonly fromTag: string;
  readonly toTag: string;
  readonly maxForwards: number | undefined;
  readonly via: Via;
  readonly #via: TopVia;
  readonly #text: string;
  readonly #fields: readonly number[];
  readonly #bodyStart: number;
  readonly #bodyEnd: number;
  #key = '';

  constructor(parts: MessageParts) {
    this.isRequest = parts.isRequest;
    this.method = parts.method;
    this.uri = parts.uri;
    this.host = parts.host;
    this.status = parts.status;
    this.reason = parts.reason;
    this.callId = parts.callId;
    this.cseq = parts.cseq;
    this.cseqMethod = parts.cseqMethod;
    this.fromTag = parts.fromTag;
    this.toTag = parts.toTag;
    this.maxForwards = parts.maxForwards;
    this.via = parts.via;
    this.#via = parts.via;
    this.#text = parts.text;
    this.#fields = parts.fields;
    this.#bodyStart = parts.bodyStart;
    this.#bodyEnd = parts.bodyEnd;
  }

  /** The body's bytes, one per character. */
  get body(): string {
    return this.#text.slice(this.#bodyStart, this.#bodyEnd);
  }

  /** The first line, for traces. */
  get firstLine(): string {
    return this.isRequest
      ? `${this.method} ${this.uri} SIP/2.0`
      : `SIP/2.0 ${this.status} ${this.reason}`;
  }

  /** The key of its own transaction: made once, as the table is asked with it several times. */
  get key(): string {
    if (this.#key === '') this.#key = transactionKey(this);
    return this.#key;
  }

  /** Size as received, without keep-alives before and bytes after it. */
  get sizeBytes(): number {
    return this.#bodyEnd;
  }

  /** The first field of that name (any case, or compact), unfolded and trimmed. */
  header(name: string): string | undefined {
    const id = headerId(name);
    for (let i = 0; i < this.#fields.length; i += FIELD_STRIDE) {
      if (this.#isNamed(i, id, name)) return this.#value(i);
    }
    return undefined;
  }

  /** Every field line of that name, in order. */
  headers(name: string): string[] {
    const id = headerId(name);
    const values: string[] = [];
    for (let i = 0; i < this.#fields.length; i += FIELD_STRIDE) {
      if (this.#isNamed(i, id, name)) values.push(this.#value(i));
    }
    return values;
  }

  /**
   * Comma-separated values over all lines of that name. Not for fields whose one value may hold
   * commas (Date, credentials, challenges): read those with `headers`.
   */
  list(name: string): string[] {
    const values: string[] = [];
    for (const line of this.headers(name)) splitOutside(line, ',', values);
    return values;
  }

  /** Names as they came, in order. */
  names(): string[] {
    const names: string[] = [];
    for (let i = 0; i < this.#fields.length; i += FIELD_STRIDE) {
      names.push(this.#text.slice(this.#fields[i + 1], this.#fields[i + 2]));
    }
    return names;
  }

  /** All fields in order, for forwarding: names as they came, values unfolded. */
  fields(): HeaderField[] {
    const fields: HeaderField[] = [];
    for (let i = 0; i < this.#fields.length; i += FIELD_STRIDE) {
      const name = this.#text.slice(this.#fields[i + 1], this.#fields[i + 2]);
      fields.push([name, this.#value(i)]);
    }
    return fields;
  }

  /**
   * Writes the true source into the topmost Via (RFC 3261 §18.2.1, RFC 3581 §4): whatever the
   * sender claimed in `received` and `rport` is gone. Responses copy the Via so changed.
   */
  receivedFrom(address: string, port: number): void {
    this.#via.stamp(address, port);
  }

  #isNamed(i: number, id: number, name: string): boolean {
    const fieldId = (this.#fields[i] as number) & 255;
    if (id !== 0 || fieldId !== 0) return fieldId === id;
    const start = this.#fields[i + 1] as number;
    const end = this.#fields[i + 2] as number;
    if (end - start !== name.length) return false;
    return this.#text.slice(start, end).toLowerCase() === name.toLowerCase();
  }

  #value(i: number): string {
    const raw = this.#text.slice(this.#fields[i + 3], this.#fields[i + 4]);
    const mark = this.#fields[i] as number;
    const value = mark >= FOLDED ? unfold(raw) : raw;
    if ((mark & 255) !== HEADER.VIA || !this.#via.isStamped) return value;
    if (i !== this.#firstVia()) return value;
    return this.#via.text + value.slice(this.#via.lengthInLine);
  }

  #firstVia(): number {
    let i = 0;
    while (((this.#fields[i] as number) & 255) !== HEADER.VIA) i += FIELD_STRIDE;
    return i;
  }
}

/**
 * A copy that stands alone. A cut string refers to the whole message it came from; what a dialog
 * keeps for an hour must not keep every message of that hour.
 */
export function detach(text: string): string {
  return text.length === 0 ? '' : Buffer.from(text, 'latin1').toString('latin1');
}

/**
 * The key under which a server transaction (requests) or client transaction (responses) is found.
 * `method` asks for the key of another method with the same branch: that is how CANCEL finds its
 * INVITE. ACK of a failed INVITE has the INVITE's key.
 */
export function transactionKey(message: SipMessage, method: string = message.method): string {
  const name = method === 'ACK' ? 'INVITE' : method;
  const via = message.via;
  if (!message.isRequest) return `${via.branch}|${name}`;
  if (via.branch.startsWith(MAGIC_COOKIE)) {
    return `${via.branch}|${via.host}:${via.port ?? 0}|${name}`;
  }
  // RFC 2543 §10.1. The To tag is left out on purpose: the ACK has one, its INVITE had none.
  const sentBy = `${via.host}:${via.port ?? 0};${via.branch}`;
  const { uri, fromTag, callId, cseq } = message;
  return `${uri}|${fromTag}|${callId}|${cseq}|${sentBy}|${name}`;
}

export type HeaderField = readonly [name: string, value: string];

/** What fields take in a message. */
export function fieldsBytes(fields: readonly HeaderField[]): number {
  let bytes = 0;
  for (const [name, value] of fields) bytes += name.length + value.length + 4;
  return bytes;
}

export interface OutgoingRequest {
  readonly method: string;
  readonly uri: string;
  readonly headers: readonly HeaderField[];
  readonly body: string;
}

export interface OutgoingResponse {
  readonly status: number;
  readonly reason: string;
  readonly headers: readonly HeaderField[];
  readonly body: string;
}

/**
 * The bytes to send, one per character. Content-Length is added, and one given is left out.
 * Throws SIP_MALFORMED when any part holds CR, LF, NUL or a character above 255: nothing that
 * came from outside may start a header of its own.
 */
export function serializeRequest(request: OutgoingRequest): string {
  const { method, uri, headers, body } = request;
  return serialize(`${method} ${uri} SIP/2.0`, headers, body);
}

export function serializeResponse(response: OutgoingResponse): string {
  const { status, reason, headers, body } = response;
  return serialize(`SIP/2.0 ${status} ${reason}`, headers, body);
}

function serialize(firstLine: string, headers: readonly HeaderField[], body: string): string {
  let head = `${firstLine}\r\n`;
  let lines = 1;
  for (const [name, value] of headers) {
    if (isContentLength(name)) continue;
    head += `${name}: ${value}\r\n`;
    lines += 1;
  }
  const text = `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
  if (WIDE.test(text) || !isLines(text, lines, head.length)) {
    throw unsafe([firstLine, ...headers.flat()].find((part) => UNSAFE.test(part)) ?? 'body');
  }
  return text;
}

/** Whether `text[0, end)` is so many lines, as it was written: no part of it brought a line end. */
function isLines(text: string, lines: number, end: number): boolean {
  let start = 0;
  for (let line = 0; line < lines; line += 1) {
    const lineEnd = text.indexOf('\r', start);
    if (text.indexOf('\n', start) !== lineEnd + 1) return false;
    start = lineEnd + 2;
  }
  const nul = text.indexOf('\0');
  return start === end && (nul < 0 || nul >= end);
}

/** Its length is looked at first: few names have it, and each field of each message is asked. */
function isContentLength(name: string): boolean {
  if (name.length !== 14 && name.length !== 1) return false;
  return headerId(name) === HEADER.CONTENT_LENGTH;
}

/** Written as latin1, U+010A would become a line feed. */
const WIDE = /[\u0100-\uffff]/;
const UNSAFE = /[\0\n\r\u0100-\uffff]/;

function unsafe(part: string): GatewayError {
  const problem = `not sendable: ${JSON.stringify(part.slice(0, 40))}`;
  return new GatewayError('SIP_MALFORMED', { problem });
}

/** Text as the bytes of its UTF-8 form, one per character: for display names and reasons. */
export function encodeUtf8(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** The other way round; bytes that are not UTF-8 become U+FFFD. */
export function decodeUtf8(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

export interface ResponseOptions {
  readonly reason?: string;
  /** Put on To when it has no tag yet. */
  readonly toTag?: string;
  readonly headers?: readonly HeaderField[];
  readonly body?: string;
  readonly contentType?: string;
}

/** A response that is being made: fields may be added until it is sent. */
export interface NewResponse extends OutgoingResponse {
  readonly headers: HeaderField[];
}

/** RFC 3261 §8.2.6. Record-Route goes with what makes or refreshes a dialog (§12.1.1). */
export function responseTo(
  request: SipMessage,
  status: number,
  options: ResponseOptions = {},
): NewResponse {
  const { toTag, headers: given = [], body = '', contentType = 'application/sdp' } = options;
  const headers: HeaderField[] = [];
  for (const via of request.headers('Via')) headers.push(['Via', via]);
  if (status > 100 && status < 300 && DIALOG_METHODS.has(request.method)) {
    for (const route of request.headers('Record-Route')) headers.push(['Record-Route', route]);
  }
  headers.push(['From', request.header('From') ?? '']);
  const to = request.header('To') ?? '';
  const tagged = toTag !== undefined && request.toTag === '';
  headers.push(['To', tagged ? `${to};tag=${toTag}` : to]);
  headers.push(['Call-ID', request.callId]);
  headers.push(['CSeq', `${request.cseq} ${request.cseqMethod}`]);
  if (status === 100) {
    const timestamp = request.header('Timestamp');
    if (timestamp !== undefined) headers.push(['Timestamp', timestamp]);
  }
  for (const field of given) headers.push(field);
  if (body !== '') headers.push(['Content-Type', contentType]);
  return { status, reason: options.reason ?? reasonPhrase(status), headers, body };
}

const DIALOG_METHODS = new Set(['INVITE', 'SUBSCRIBE', 'REFER', 'NOTIFY']);

/** RFC 3261 §21 and the RFCs that added to it. */
const REASONS: Readonly<Record<number, string>> = {
  100: 'Trying',
  180: 'Ringing',
  181: 'Call Is Being Forwarded',
  182: 'Queued',
  183: 'Session Progress',
  199: 'Early Dialog Terminated',
  200: 'OK',
  202: 'Accepted',
  204: 'No Notification',
  300: 'Multiple Choices',
  301: 'Moved Permanently',
  302: 'Moved Temporarily',
  305: 'Use Proxy',
  380: 'Alternative Service',
  400: 'Bad Request',
  401: 'Unauthorized',
  402: 'Payment Required',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  407: 'Proxy Authentication Required',
  408: 'Request Timeout',
  410: 'Gone',
  412: 'Conditional Request Failed',
  413: 'Request Entity Too Large',
  414: 'Request-URI Too Long',
  415: 'Unsupported Media Type',
  416: 'Unsupported URI Scheme',
  417: 'Unknown Resource-Priority',
  420: 'Bad Extension',
  421: 'Extension Required',
  422: 'Session Interval Too Small',
  423: 'Interval Too Brief',
  428: 'Use Identity Header',
  429: 'Provide Referrer Identity',
  433: 'Anonymity Disallowed',
  436: 'Bad Identity Info',
  437: 'Unsupported Credential',
  438: 'Invalid Identity Header',
  439: 'First Hop Lacks Outbound Support',
  480: 'Temporarily Unavailable',
  469: 'Bad Info Package',
  481: 'Call/Transaction Does Not Exist',
  482: 'Loop Detected',
  483: 'Too Many Hops',
  484: 'Address Incomplete',
  485: 'Ambiguous',
  486: 'Busy Here',
  487: 'Request Terminated',
  488: 'Not Acceptable Here',
  489: 'Bad Event',
  491: 'Request Pending',
  493: 'Undecipherable',
  500: 'Server Internal Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Server Time-out',
  505: 'Version Not Supported',
  513: 'Message Too Large',
  580: 'Precondition Failure',
  600: 'Busy Everywhere',
  603: 'Decline',
  604: 'Does Not Exist Anywhere',
  606: 'Not Acceptable',
  607: 'Unwanted',
  608: 'Rejected',
};

export function reasonPhrase(status: number): string {
  return REASONS[status] ?? 'Unknown';
}

// The messages' own vocabulary, so that the rest of the stack names one file.
export type { NameAddr, SipUri } from './uri.ts';
export { formatUri, parseAddress, parseNameAddr, parseUri } from './uri.ts';
export type { Via } from './via.ts';
export { MAGIC_COOKIE } from './via.ts';
