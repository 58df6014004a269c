/**
 * A TCP connection on which something has to be agreed before SIP is spoken: TLS, WebSocket, or one
 * on the other. Until then it is `opening`; then it is what the handshake made of it, its carrier.
 * Who shakes hands is not known here, and no deadline: the connection that owns it has one.
 */
import type { Socket } from 'node:net';
import type { HandshakeFailure, StreamEvents, StreamSocket } from './sockets.ts';

/** What a handshake ends with. */
export interface Handshake {
  opened(carrier: StreamSocket): void;
  /** The connection is closed after it. */
  failed(failure: HandshakeFailure, problem: string): void;
}

export class UpgradedStream implements StreamSocket, Handshake {
  readonly remoteAddress: string;
  readonly remotePort: number;
  failure: HandshakeFailure | null = null;
  readonly #below: StreamSocket;
  readonly #kernel: Socket;
  readonly #begin: (kernel: Socket, handshake: Handshake) => void;
  #events: StreamEvents | null = null;
  #carrier: StreamSocket | null = null;
  #problem = '';
  #isClosed = false;

  constructor(options: {
    below: StreamSocket;
    kernel: Socket;
    begin: (kernel: Socket, handshake: Handshake) => void;
  }) {
    this.#below = options.below;
    this.#kernel = options.kernel;
    this.#begin = options.begin;
    this.remoteAddress = options.below.remoteAddress;
    this.remotePort = options.below.remotePort;
  }

  get localAddress(): string {
    return this.#below.localAddress;
  }

  get localPort(): number {
    return this.#below.localPort;
  }

  get queuedBytes(): number {
    return this.#carrier?.queuedBytes ?? 0;
  }

  get certificateNames(): readonly string[] {
    return this.#carrier?.certificateNames ?? [];
  }

  listen(events: StreamEvents): void {
    this.#events = events;
    this.#kernel.on('error', (error) => {
      this.#problem ||= error.message;
    });
    this.#kernel.on('close', () => {
      if (this.#carrier === null) this.#end(this.#problem || 'closed in the handshake');
    });
    this.#begin(this.#kernel, this);
  }

  opened(carrier: StreamSocket): void {
    if (this.#isClosed || this.#carrier !== null) {
      carrier.destroy();
      return;
    }
    this.#carrier = carrier;
    carrier.listen({
      opened: () => {},
      data: (chunk) => this.#events?.data(chunk),
      alive: () => this.#events?.alive?.(),
      closed: (problem) => this.#end(problem),
    });
    this.#events?.opened();
  }

  /** Only says why: who shook hands closes, when the peer has been told. */
  failed(failure: HandshakeFailure, problem: string): void {
    if (this.#carrier !== null) return;
    this.failure ??= failure;
    this.#problem = problem;
  }

  write(text: string): void {
    this.#carrier?.write(text);
  }

  end(): void {
    if (this.#carrier === null) this.destroy();
    else this.#carrier.end();
  }

  destroy(): void {
    if (this.#carrier === null) this.#kernel.destroy();
    else this.#carrier.destroy();
  }

  ping(): void {
    this.#carrier?.ping?.();
  }

  #end(problem: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.failure ??= this.#carrier === null ? 'closed' : null;
    this.#events?.closed(problem);
  }
}
