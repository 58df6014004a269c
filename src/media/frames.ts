/**
 * Lines over a unix socket, both ways, with bounds on what is kept of either: what the control
 * protocol of a media worker (`socket.ts`) is made of. Knows JSON objects, no verbs.
 */
import { EventEmitter } from 'node:events';
import type net from 'node:net';

export interface ControlLimits {
  readonly frameBytesMax: number;
  /** Requests that may wait for their answer. */
  readonly pendingMax: number;
  readonly requestTimeoutMs: number;
  /** Bytes that may wait for a peer that does not read. */
  readonly bufferedBytesMax: number;
  /** How long a command that is not urgent may wait for company: one packet of audio. */
  readonly patienceMs: number;
}

export const DEFAULT_CONTROL_LIMITS: ControlLimits = {
  frameBytesMax: 65_536,
  pendingMax: 8_192,
  requestTimeoutMs: 3_000,
  bufferedBytesMax: 8_388_608,
  patienceMs: 20,
};

interface FrameSocketEvents {
  frame: [line: string];
  /** All frames that came together were told. */
  read: [];
  closed: [problem: string];
}

/** Lines in, lines out, both bounded. Emits `closed` exactly once. */
export class FrameSocket extends EventEmitter<FrameSocketEvents> {
  readonly #socket: net.Socket;
  readonly #limits: ControlLimits;
  #carry: Buffer[] = [];
  #carryBytes = 0;
  #outgoing: string[] = [];
  #problem = 'connection closed';
  #isClosed = false;

  constructor(options: { socket: net.Socket; limits: ControlLimits }) {
    super();
    this.#socket = options.socket;
    this.#limits = options.limits;
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => {
      this.#problem = error.message;
    });
    this.#socket.on('close', () => {
      this.#isClosed = true;
      this.emit('closed', this.#problem);
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Leaves with the next `flush`. False: over a bound, it is not sent. */
  push(line: string): boolean {
    if (this.#isClosed || this.#socket.writableLength > this.#limits.bufferedBytesMax) return false;
    if (exceeds(line, this.#limits.frameBytesMax)) return false;
    this.#outgoing.push(line);
    return true;
  }

  /** One system call for all that was pushed. */
  flush(): void {
    if (this.#outgoing.length === 0 || this.#socket.destroyed) return;
    this.#socket.write(`${this.#outgoing.join('\n')}\n`);
    this.#outgoing = [];
  }

  destroy(problem: string): void {
    if (this.#isClosed) return;
    this.#problem = problem;
    this.#socket.destroy();
  }

  /** Sends what waits, then ends. */
  end(): void {
    this.flush();
    this.#socket.end();
  }

  #receive(chunk: Buffer): void {
    const last = chunk.lastIndexOf(10);
    const rest = last < 0 ? chunk : chunk.subarray(last + 1);
    let text = '';
    if (last >= 0) {
      this.#carry.push(chunk.subarray(0, last));
      text = Buffer.concat(this.#carry).toString('utf8');
      this.#carry = [];
      this.#carryBytes = 0;
    }
    if (rest.length > 0) {
      this.#carry.push(rest);
      this.#carryBytes += rest.length;
    }
    if (this.#carryBytes > this.#limits.frameBytesMax) {
      this.destroy('frame over its limit');
      return;
    }
    if (last < 0) return;
    for (const line of text.split('\n')) {
      if (this.#isClosed || this.#socket.destroyed) return;
      if (exceeds(line, this.#limits.frameBytesMax)) this.destroy('frame over its limit');
      else this.emit('frame', line);
    }
    this.emit('read');
  }
}

/** Counts bytes only when the length in characters leaves a doubt (UTF-8: at most 3 for each). */
function exceeds(line: string, bytesMax: number): boolean {
  return line.length * 3 > bytesMax && Buffer.byteLength(line) > bytesMax;
}

/** The frame as an object, or null when it is none. The only place that reads foreign bytes. */
export function parseFrame<T extends object>(line: string): T | null {
  try {
    const value = JSON.parse(line) as T | null;
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}
