/**
 * Where one message ends and the next begins: on TCP and TLS by Content-Length (`StreamFramer`), on
 * WebSocket by the frames (`FrameFramer`). Gives out whole messages, each as one latin1 string; it
 * reads only line ends and Content-Length, and the parser checks them again. Not a parser, and no
 * timers: the transport closes a connection whose message stays unfinished (`hasPartial`).
 *
 * RFC 3261 §18.3; RFC 5626 §3.5.1 (double CRLF is a ping). A stream whose framing is in doubt is
 * over: guessing where the next message starts is how requests are smuggled. Linear in the bytes
 * received, however they are cut.
 */
import { GatewayError } from '../core/errors.ts';
import { HEADER, headerIdAt } from './header.ts';
import { DEFAULT_SIP_LIMITS, type SipLimits } from './limits.ts';

export type FramerItem =
  | { readonly kind: 'message'; readonly text: string }
  | { readonly kind: 'ping' }
  /** The last item: answer `partial` if the parser finds an answer to it, then close. */
  | { readonly kind: 'broken'; readonly error: GatewayError; readonly partial: string };

/** What a connection needs of either. */
export interface Framer {
  /** A message has begun and is not complete. */
  readonly hasPartial: boolean;
  /** What the bytes so far complete. After `broken` nothing comes any more. */
  push(chunk: Buffer): FramerItem[];
  /** Takes the one CRLF that came last, if it did: a pong, to who waits for one. */
  takePong(): boolean;
}

interface StreamFramerOptions {
  readonly limits?: SipLimits;
}

const CR = 13;
const LF = 10;
const FIRST_BYTES = 512;
const HEAD_END = Buffer.from('\r\n\r\n', 'latin1');
const EMPTY = Buffer.alloc(0);

export class StreamFramer implements Framer {
  readonly #limits: SipLimits;
  #buffer: Buffer = EMPTY;
  #start = 0;
  #end = 0;
  /** From where the end of the headers is looked for; what lies before was looked at already. */
  #searched = 0;
  /** Size of the message at `#start` once its headers are complete, else 0. */
  #messageBytes = 0;
  #isFirstByteSeen = false;
  #isStartLineSeen = false;
  #emptyLines = 0;
  #isBroken = false;

  constructor(options: StreamFramerOptions = {}) {
    this.#limits = options.limits ?? DEFAULT_SIP_LIMITS;
  }

  get hasPartial(): boolean {
    return this.#isFirstByteSeen && !this.#isBroken;
  }

  /** Bytes held between calls. */
  get heldBytes(): number {
    return this.#end - this.#start;
  }

  takePong(): boolean {
    if (this.#emptyLines === 0) return false;
    this.#emptyLines -= 1;
    return true;
  }

  push(chunk: Buffer): FramerItem[] {
    const items: FramerItem[] = [];
    if (this.#isBroken) return items;
    this.#append(chunk);
    let hasPing = false;
    try {
      while (this.#start < this.#end) {
        if (!this.#isFirstByteSeen) {
          // One pong a read is enough; 60 kB of CRLF must not become 15,000 of them.
          if (this.#skipEmptyLines() && !hasPing) {
            hasPing = true;
            items.push({ kind: 'ping' });
          }
          if (!this.#isFirstByteSeen) break;
        }
        if (this.#messageBytes === 0) this.#readHead();
        if (this.#messageBytes === 0 || this.#end - this.#start < this.#messageBytes) break;
        items.push({ kind: 'message', text: this.#take() });
      }
    } catch (thrown) {
      if (!(thrown instanceof GatewayError)) throw thrown;
      const partial = this.#buffer.toString('latin1', this.#start, this.#end);
      items.push({ kind: 'broken', error: thrown, partial });
      this.#isBroken = true;
      this.#start = this.#end;
    }
    if (this.#start === this.#end) this.#release();
    return items;
  }

  /** Room grows by doubling, so that bytes coming one by one are not copied each time. */
  #append(chunk: Buffer): void {
    const held = this.#end - this.#start;
    if (held === 0) {
      this.#buffer = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      this.#searched = 0;
      return;
    }
    if (this.#end + chunk.length > this.#buffer.length || this.#start > 0) {
      const room = Math.max((held + chunk.length) * 2, FIRST_BYTES);
      const grown = Buffer.allocUnsafeSlow(room);
      this.#buffer.copy(grown, 0, this.#start, this.#end);
      this.#buffer = grown;
      this.#searched -= this.#start;
      this.#start = 0;
      this.#end = held;
    }
    chunk.copy(this.#buffer, this.#end);
    this.#end += chunk.length;
  }

  #release(): void {
    this.#buffer = EMPTY;
    this.#start = 0;
    this.#end = 0;
    this.#searched = 0;
  }

  /** Steps over CRLFs between messages; true when there were two in a row. */
  #skipEmptyLines(): boolean {
    let hasPing = false;
    while (this.#start < this.#end && this.#buffer[this.#start] === CR) {
      if (this.#start + 1 === this.#end) return hasPing;
      if (this.#buffer[this.#start + 1] !== LF) throw broken('bare CR');
      this.#start += 2;
      this.#emptyLines += 1;
      if (this.#emptyLines === 2) {
        hasPing = true;
        this.#emptyLines = 0;
      }
    }
    if (this.#start < this.#end) {
      this.#isFirstByteSeen = true;
      this.#emptyLines = 0;
      this.#searched = this.#start;
      // A TLS hello or a binary protocol: no line end will ever come.
      if (!isTokenByte(this.#buffer[this.#start] as number)) throw broken('not SIP');
    }
    return hasPing;
  }

  /** Looks for the end of the headers, then for the one Content-Length in them. */
  #readHead(): void {
    const { messageBytesMax } = this.#limits;
    const held = this.#buffer.subarray(0, this.#end);
    if (!this.#isStartLineSeen) this.#readStartLine(held);
    const found = this.#isStartLineSeen ? held.indexOf(HEAD_END, this.#searched) : -1;
    if (found < 0) {
      if (this.#end - this.#start > messageBytesMax) throw tooLarge('headers');
      this.#searched = Math.max(this.#start, this.#end - 3);
      return;
    }
    const length = contentLength(held.toString('latin1', this.#start, found + 2));
    const total = found + 4 - this.#start + length;
    if (length > messageBytesMax) throw broken('bad Content-Length');
    if (total > messageBytesMax) throw tooLarge('message');
    this.#messageBytes = total;
  }

  /** Another protocol shows in its first line: close at once, do not wait for its end. */
  #readStartLine(held: Buffer): void {
    const end = held.indexOf('\r\n', this.#searched, 'latin1');
    if (end < 0) return;
    const line = held.toString('latin1', this.#start, end);
    if (!/(?:^|[ \t])SIP\/\d/i.test(line)) throw broken('not SIP');
    this.#isStartLineSeen = true;
  }

  #take(): string {
    const end = this.#start + this.#messageBytes;
    const text = this.#buffer.toString('latin1', this.#start, end);
    this.#start = end;
    this.#searched = end;
    this.#messageBytes = 0;
    this.#isFirstByteSeen = false;
    this.#isStartLineSeen = false;
    return text;
  }
}

/**
 * RFC 7118 §5: one WebSocket message is one whole SIP message. Content-Length may be missing; where
 * it is, it has to agree, or what follows the body would be a second message for who reads on.
 */
export class FrameFramer implements Framer {
  readonly hasPartial = false;
  readonly #limits: SipLimits;
  #hasPong = false;
  #isBroken = false;

  constructor(options: { limits?: SipLimits } = {}) {
    this.#limits = options.limits ?? DEFAULT_SIP_LIMITS;
  }

  takePong(): boolean {
    const had = this.#hasPong;
    this.#hasPong = false;
    return had;
  }

  /** `chunk` is one WebSocket message. */
  push(chunk: Buffer): FramerItem[] {
    if (this.#isBroken) return [];
    const text = chunk.toString('latin1');
    if (text === '\r\n\r\n') return [{ kind: 'ping' }]; // RFC 7118 §6
    this.#hasPong = text === '\r\n';
    if (this.#hasPong) return [];
    try {
      if (text.length > this.#limits.messageBytesMax) throw tooLarge('message');
      checkWhole(text);
      return [{ kind: 'message', text }];
    } catch (thrown) {
      if (!(thrown instanceof GatewayError)) throw thrown;
      this.#isBroken = true;
      return [{ kind: 'broken', error: thrown, partial: text }];
    }
  }
}

function checkWhole(text: string): void {
  let start = 0;
  while (text.startsWith('\r\n', start)) start += 2;
  const found = text.indexOf('\r\n\r\n', start);
  if (found < 0) return; // the parser knows what to say
  const length = contentLength(text.slice(start, found + 2), true);
  const bodyBytes = text.length - found - 4;
  if (length >= 0 && length !== bodyBytes) throw broken('the frame and Content-Length disagree');
}

function broken(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem });
}

function tooLarge(problem: string): GatewayError {
  return new GatewayError('SIP_TOO_LARGE', { problem });
}

function isTokenByte(c: number): boolean {
  return c > 32 && c < 127;
}

/**
 * The Content-Length of a header section that ends with CRLF; throws when it is not plain. -1 when
 * there is none and `isOptional`.
 */
function contentLength(head: string, isOptional = false): number {
  let found = -1;
  let pos = 0;
  let colon = -1;
  while (pos < head.length) {
    const start = pos;
    let end = lineEnd(head, start);
    while (isFold(head, end)) end = lineEnd(head, end + 2);
    pos = end + 2;
    // Kept while it lies ahead: lines without a colon must not each search for one to the end.
    if (colon < start) colon = head.indexOf(':', start);
    if (colon < 0) colon = head.length;
    if (start === 0 || colon >= end) continue;
    let nameEnd = colon;
    while (nameEnd > start && isSpaceAt(head, nameEnd - 1)) nameEnd -= 1;
    if (headerIdAt(head, start, nameEnd) !== HEADER.CONTENT_LENGTH) continue;
    if (found >= 0) throw broken('two Content-Length headers');
    const value = head.slice(colon + 1, end).trim();
    if (!/^[0-9]{1,8}$/.test(value)) throw broken('bad Content-Length');
    found = Number(value);
  }
  if (found < 0 && !isOptional) throw broken('no Content-Length on a stream');
  return found;
}

function lineEnd(head: string, start: number): number {
  const end = head.indexOf('\r', start);
  if (end < 0 || head.indexOf('\n', start) !== end + 1) throw broken('bare CR or LF');
  return end;
}

function isFold(head: string, end: number): boolean {
  return isSpaceAt(head, end + 2);
}

function isSpaceAt(text: string, position: number): boolean {
  const c = text.charCodeAt(position);
  return c === 32 || c === 9;
}
