/**
 * One TCP connection: bytes become whole messages, with a deadline for each, an idle timeout and a
 * bound on what waits to be sent. When framing is lost the connection is of no more use and is
 * closed (RFC 3261 §18.3). It knows no transaction; it hands messages to the transport.
 */
import type { FramerItem, StreamFramer } from './framing.ts';
import type { Local, SendOutcome } from './peer.ts';
import type { StreamEvents, StreamSocket } from './sockets.ts';
import { Deadline, type Wheel } from './wheel.ts';

export interface ConnectionOptions {
  readonly connectTimeoutMs: number;
  /** From the first byte of a message to its last; also how long a new peer may say nothing. */
  readonly messageTimeoutMs: number;
  /** Since the last whole message; pings of peers that we know keep a connection as well. */
  readonly idleTimeoutMs: number;
  /** The same for who is not known and has no call with us; pings keep nothing then. */
  readonly strangerIdleTimeoutMs: number;
  /** After our last word: for the peer to take it and close as well. */
  readonly lingerMs: number;
  readonly sendQueueBytesMax: number;
  /** Messages that may wait for the connection to open. */
  readonly openingMessagesMax: number;
}

export const DEFAULT_CONNECTION: ConnectionOptions = {
  connectTimeoutMs: 4000,
  messageTimeoutMs: 10_000,
  idleTimeoutMs: 900_000,
  strangerIdleTimeoutMs: 60_000,
  lingerMs: 1000,
  sendQueueBytesMax: 1024 * 1024,
  openingMessagesMax: 64,
};

export interface ConnectionOwner {
  framed(connection: Connection, item: FramerItem): void;
  closed(connection: Connection): void;
}

type State = 'opening' | 'open' | 'closing' | 'closed';

export class Connection extends Deadline implements StreamEvents {
  readonly address: string;
  readonly port: number;
  readonly local: Local;
  /** They opened it: its port is theirs for this connection only. */
  readonly isInbound: boolean;
  readonly #socket: StreamSocket;
  readonly #owner: ConnectionOwner;
  readonly #framer: StreamFramer;
  readonly #wheel: Wheel;
  readonly #options: ConnectionOptions;
  /** The policy trusts them, we called them, or we took a call of theirs. */
  #isKnown: boolean;
  /** They have sent a whole message. */
  #hasSpoken = false;
  #state: State;
  #waiting: { text: string; outcome: SendOutcome | null }[] = [];

  constructor(options: {
    socket: StreamSocket;
    local: Local;
    isInbound: boolean;
    isTrusted: boolean;
    owner: ConnectionOwner;
    framer: StreamFramer;
    wheel: Wheel;
    limits: ConnectionOptions;
  }) {
    super();
    this.#socket = options.socket;
    this.address = options.socket.remoteAddress;
    this.port = options.socket.remotePort;
    this.local = options.local;
    this.isInbound = options.isInbound;
    this.#owner = options.owner;
    this.#framer = options.framer;
    this.#wheel = options.wheel;
    this.#options = options.limits;
    this.#isKnown = options.isTrusted || !options.isInbound;
    this.#state = options.isInbound ? 'open' : 'opening';
    const { connectTimeoutMs, messageTimeoutMs } = options.limits;
    const patienceMs = options.isInbound ? messageTimeoutMs : connectTimeoutMs;
    this.#wheel.set(this, this.#wheel.nowMs() + patienceMs);
    options.socket.listen(this);
  }

  get isClosed(): boolean {
    return this.#state === 'closing' || this.#state === 'closed';
  }

  /** A call came over this connection and was let in: what is sent for it comes back here. */
  welcome(): void {
    this.#isKnown = true;
  }

  send(text: string, outcome: SendOutcome | null): void {
    if (this.#state === 'opening') {
      if (this.#waiting.length < this.#options.openingMessagesMax) {
        this.#waiting.push({ text, outcome });
      } else {
        outcome?.sendFailed('too much waits for the connection');
      }
      return;
    }
    if (this.#socket.queuedBytes + text.length > this.#options.sendQueueBytesMax) {
      // A peer that does not read: what it was sent before is lost to it as well.
      this.close('the peer does not read');
    }
    if (this.isClosed) {
      outcome?.sendFailed('the connection is closed');
      return;
    }
    this.#socket.write(text);
  }

  /** RFC 5626 §4.4.1. */
  pong(): void {
    if (this.#state === 'open' && this.#socket.queuedBytes === 0) this.#socket.write('\r\n');
  }

  /**
   * Takes nothing more, lets what is queued go out, then closes. Destroying at once would make the
   * kernel reset the connection, and the peer would lose the answer that says why.
   */
  end(): void {
    if (this.isClosed) return;
    this.#socket.end();
    this.#leave('closed', 'closing');
    this.#wheel.set(this, this.#wheel.nowMs() + this.#options.lingerMs);
  }

  close(problem: string): void {
    if (this.#state === 'closed') return;
    this.#socket.destroy();
    this.#leave(problem, 'closed');
  }

  opened(): void {
    if (this.#state !== 'opening') return;
    this.#state = 'open';
    this.#wheel.set(this, this.#wheel.nowMs() + this.#options.idleTimeoutMs);
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { text, outcome } of waiting) this.send(text, outcome);
  }

  data(chunk: Buffer): void {
    if (this.isClosed) return;
    const items = this.#framer.push(chunk);
    for (const item of items) {
      if (this.isClosed) return;
      this.#owner.framed(this, item);
    }
    if (this.isClosed) return;
    const hasMessage = items.some(({ kind }) => kind === 'message');
    // RFC 5626 §3.5.1: pings keep the way to us open. From a stranger they only keep a place taken.
    const isKept = hasMessage || (items.length > 0 && this.#hasSpoken && this.#isKnown);
    if (hasMessage) this.#hasSpoken = true;
    const { messageTimeoutMs, idleTimeoutMs, strangerIdleTimeoutMs } = this.#options;
    const nowMs = this.#wheel.nowMs();
    if (this.#framer.hasPartial) {
      // Dripping bytes do not move the deadline of the message that they belong to.
      const isIdle = this.dueMs - nowMs > messageTimeoutMs;
      if (isKept || isIdle) this.#wheel.set(this, nowMs + messageTimeoutMs);
    } else if (isKept) {
      this.#wheel.set(this, nowMs + (this.#isKnown ? idleTimeoutMs : strangerIdleTimeoutMs));
    }
  }

  closed(problem: string): void {
    if (this.#state !== 'closed') this.#leave(problem || 'closed by the peer', 'closed');
  }

  override expire(): void {
    this.close(this.#state === 'opening' ? 'no connection in time' : 'nothing whole in time');
  }

  #leave(problem: string, state: 'closing' | 'closed'): void {
    const known = !this.isClosed;
    this.#state = state;
    this.#wheel.clear(this);
    if (!known) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#owner.closed(this);
    for (const { outcome } of waiting) outcome?.sendFailed(problem);
  }
}
