/**
 * One connection of TCP, TLS or WebSocket: bytes become whole messages, with a deadline for each,
 * an idle timeout, signs of life asked for, and a bound on what waits to be sent. When framing is
 * lost the connection is of no more use and is closed (RFC 3261 §18.3). It knows no transaction; it
 * hands messages to its owner.
 */
import type { Framer, FramerItem } from './framing.ts';
import type { Local, SendOutcome, TransportName, Wire } from './peer.ts';
import type { HandshakeFailure, StreamEvents, StreamSocket } from './sockets.ts';
import { Deadline, type Wheel } from './wheel.ts';

export interface ConnectionOptions {
  readonly connectTimeoutMs: number;
  /** For TLS and the WebSocket upgrade together, of who connects to us. */
  readonly handshakeTimeoutMs: number;
  /** From the first byte of a message to its last; also how long a new peer may say nothing. */
  readonly messageTimeoutMs: number;
  /** How long a WebSocket may be open without anything that was let in. */
  readonly admissionTimeoutMs: number;
  /** Since the last whole message; pings of peers that we know keep a connection as well. */
  readonly idleTimeoutMs: number;
  /** The same for who is not known and has no call with us; pings keep nothing then. */
  readonly strangerIdleTimeoutMs: number;
  /** Between our pings to who we connected to (RFC 5626 §4.4.1), up to a fifth less; 0: none. */
  readonly pingMs: number;
  /** Between our pings on a WebSocket. */
  readonly webSocketPingMs: number;
  /** How long a pong may take (RFC 5626 §4.4.1). */
  readonly pongTimeoutMs: number;
  /** After our last word: for the peer to take it and close as well. */
  readonly lingerMs: number;
  readonly sendQueueBytesMax: number;
  /** Messages that may wait for the connection to open. */
  readonly openingMessagesMax: number;
}

export const DEFAULT_CONNECTION: ConnectionOptions = {
  connectTimeoutMs: 4000,
  handshakeTimeoutMs: 10_000,
  messageTimeoutMs: 10_000,
  admissionTimeoutMs: 5000,
  idleTimeoutMs: 900_000,
  strangerIdleTimeoutMs: 60_000,
  pingMs: 120_000,
  webSocketPingMs: 30_000,
  pongTimeoutMs: 10_000,
  lingerMs: 1000,
  sendQueueBytesMax: 1024 * 1024,
  openingMessagesMax: 64,
};

export interface ConnectionOwner {
  framed(connection: Connection, item: FramerItem): void;
  closed(connection: Connection): void;
}

type State = 'opening' | 'open' | 'closing' | 'closed';

export class Connection extends Deadline implements StreamEvents, Wire {
  readonly transport: TransportName;
  readonly address: string;
  readonly port: number;
  readonly local: Local;
  /** They opened it: its port is theirs for this connection only. */
  readonly isInbound: boolean;
  /** Whom a TLS peer that we called has to be. */
  readonly serverName: string;
  readonly #socket: StreamSocket;
  readonly #owner: ConnectionOwner;
  readonly #framer: Framer;
  readonly #wheel: Wheel;
  readonly #options: ConnectionOptions;
  readonly #heartbeat: Heartbeat | null;
  /** The policy trusts them, we called them, or we took a call of theirs. */
  #isKnown: boolean;
  /** They have sent a whole message. */
  #hasSpoken = false;
  #state: State;
  #failure: HandshakeFailure | null = null;
  #problem = '';
  #waiting: { text: string; outcome: SendOutcome | null }[] = [];

  constructor(options: {
    socket: StreamSocket;
    local: Local;
    isInbound: boolean;
    isTrusted: boolean;
    serverName?: string;
    owner: ConnectionOwner;
    framer: Framer;
    wheel: Wheel;
    limits: ConnectionOptions;
  }) {
    super();
    this.#socket = options.socket;
    this.transport = options.local.transport;
    this.address = options.socket.remoteAddress;
    this.port = options.socket.remotePort;
    this.local = options.local;
    this.isInbound = options.isInbound;
    this.serverName = options.serverName ?? '';
    this.#owner = options.owner;
    this.#framer = options.framer;
    this.#wheel = options.wheel;
    this.#options = options.limits;
    this.#isKnown = options.isTrusted || !options.isInbound;
    this.#heartbeat = this.#makeHeartbeat();
    // What TCP accepted is open; what has to be agreed on top of it is not yet.
    this.#state = options.isInbound && this.transport === 'tcp' ? 'open' : 'opening';
    const { connectTimeoutMs, handshakeTimeoutMs, messageTimeoutMs } = options.limits;
    let patienceMs = options.isInbound ? handshakeTimeoutMs : connectTimeoutMs;
    if (this.#state === 'open') patienceMs = messageTimeoutMs;
    this.#wheel.set(this, this.#wheel.nowMs() + patienceMs);
    options.socket.listen(this);
  }

  get isClosed(): boolean {
    return this.#state === 'closing' || this.#state === 'closed';
  }

  get isOpening(): boolean {
    return this.#state === 'opening';
  }

  /** What the peer has proven to be (`Source.certificateNames`). */
  get certificateNames(): readonly string[] {
    return this.#socket.certificateNames ?? [];
  }

  /** Why it never opened; null for what did, and for TCP. */
  get failure(): HandshakeFailure | null {
    return this.#failure;
  }

  /** What it was closed for. */
  get problem(): string {
    return this.#problem;
  }

  /** What came over this connection was let in: what is sent for it comes back here. */
  welcome(): void {
    if (this.#isKnown) return;
    this.#isKnown = true;
    if (this.#state !== 'open' || this.#framer.hasPartial) return;
    this.#wheel.set(this, this.#wheel.nowMs() + this.#options.idleTimeoutMs);
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

  /** RFC 5626 §3.5.1; RFC 7118 §6. */
  pong(): void {
    if (this.#state === 'open' && this.#socket.queuedBytes === 0) this.#socket.write('\r\n');
  }

  /** Asks for a sign of life; false when there is nothing to ask. */
  ping(): boolean {
    if (this.#state !== 'open') return false;
    // Who has not taken what was sent before has TCP to ask for it.
    if (this.#socket.queuedBytes > 0) return true;
    if (isWebSocket(this.transport)) this.#socket.ping?.();
    else this.#socket.write('\r\n\r\n');
    return true;
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
    const { idleTimeoutMs, messageTimeoutMs, admissionTimeoutMs } = this.#options;
    let patienceMs = isWebSocket(this.transport) ? admissionTimeoutMs : messageTimeoutMs;
    if (!this.isInbound) patienceMs = idleTimeoutMs;
    else if (this.#isKnown) patienceMs = messageTimeoutMs;
    this.#wheel.set(this, this.#wheel.nowMs() + patienceMs);
    this.#heartbeat?.start();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { text, outcome } of waiting) this.send(text, outcome);
  }

  data(chunk: Buffer): void {
    if (this.isClosed) return;
    const items = this.#framer.push(chunk);
    this.#heartbeat?.heard(this.#framer, items.length > 0);
    for (const item of items) {
      if (this.isClosed) return;
      this.#owner.framed(this, item);
    }
    if (this.isClosed) return;
    const hasMessage = items.some(({ kind }) => kind === 'message');
    // RFC 5626 §3.5.1: pings keep the way to us open. From a stranger they only keep a place taken.
    const isKept = hasMessage || (items.length > 0 && this.#hasSpoken && this.#isKnown);
    if (hasMessage) this.#hasSpoken = true;
    // A WebSocket's stranger does not win time by talking: it has to be let in.
    if (isWebSocket(this.transport) && !this.#isKnown) return;
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

  /** A pong of WebSocket's own. It keeps the connection, as there is no way to open it again. */
  alive(): void {
    if (this.#state !== 'open') return;
    this.#heartbeat?.alive();
    if (this.#isKnown && this.#hasSpoken) {
      this.#wheel.set(this, this.#wheel.nowMs() + this.#options.idleTimeoutMs);
    }
  }

  closed(problem: string): void {
    if (this.#state !== 'closed') this.#leave(problem || 'closed by the peer', 'closed');
  }

  override expire(): void {
    if (this.#state === 'opening') this.#failure = this.#socket.failure ?? 'timeout';
    this.close(this.#state === 'opening' ? 'no connection in time' : 'nothing whole in time');
  }

  #makeHeartbeat(): Heartbeat | null {
    const { pingMs, webSocketPingMs, pongTimeoutMs } = this.#options;
    const common = { connection: this, wheel: this.#wheel, pongTimeoutMs };
    // RFC 6455 §5.5.2: every WebSocket answers pings.
    if (isWebSocket(this.transport)) {
      return new Heartbeat({ ...common, intervalMs: webSocketPingMs, isAnswerSure: true });
    }
    if (this.isInbound || pingMs === 0) return null; // RFC 5626 §4.4: who opened the flow pings
    // RFC 5626 §4.4.1: 80 to 100 % of it, so that connections opened together do not ping together.
    const intervalMs = pingMs * (0.8 + ((this.port * 7919 + this.address.length) % 200) / 1000);
    return new Heartbeat({ ...common, intervalMs, isAnswerSure: false });
  }

  #leave(problem: string, state: 'closing' | 'closed'): void {
    const known = !this.isClosed;
    this.#problem ||= problem;
    if (this.#state === 'opening' && this.transport !== 'tcp') {
      this.#failure ??= this.#socket.failure ?? 'closed';
    }
    this.#state = state;
    this.#wheel.clear(this);
    this.#heartbeat?.stop();
    if (!known) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#owner.closed(this);
    for (const { outcome } of waiting) outcome?.sendFailed(problem);
  }
}

/**
 * Pings, and closes when no pong comes. RFC 5626 §4.4 asks for pongs only of who has said that it
 * sends them; short of that, who has sent one will send others, and who never did is left in peace.
 */
class Heartbeat extends Deadline {
  readonly #connection: Connection;
  readonly #wheel: Wheel;
  readonly #intervalMs: number;
  readonly #pongTimeoutMs: number;
  #isAnswerSure: boolean;
  #isWaiting = false;

  constructor(options: {
    connection: Connection;
    wheel: Wheel;
    intervalMs: number;
    pongTimeoutMs: number;
    isAnswerSure: boolean;
  }) {
    super();
    this.#connection = options.connection;
    this.#wheel = options.wheel;
    this.#intervalMs = options.intervalMs;
    this.#pongTimeoutMs = options.pongTimeoutMs;
    this.#isAnswerSure = options.isAnswerSure;
  }

  start(): void {
    this.#wheel.set(this, this.#wheel.nowMs() + this.#intervalMs);
  }

  stop(): void {
    this.#wheel.clear(this);
  }

  /** Something came. While a pong is awaited, one CRLF of it is that and not half of a ping. */
  heard(framer: Framer, hasItems: boolean): void {
    if (!this.#isWaiting) return;
    const isPong = framer.takePong();
    if (isPong) this.#isAnswerSure = true;
    if (isPong || hasItems) this.alive();
  }

  alive(): void {
    this.#isWaiting = false;
    this.start();
  }

  override expire(): void {
    if (this.#isWaiting && this.#isAnswerSure) {
      this.#connection.close('no answer to a ping');
      return;
    }
    if (!this.#connection.ping()) return;
    this.#isWaiting = true;
    const waitMs = this.#isAnswerSure ? this.#pongTimeoutMs : this.#intervalMs;
    this.#wheel.set(this, this.#wheel.nowMs() + waitMs);
  }
}

function isWebSocket(transport: TransportName): boolean {
  return transport === 'ws' || transport === 'wss';
}
