/**
 * The control protocol between the gateway and one media worker, both ends: newline-delimited JSON
 * over a unix socket. `{id, verb, args}` → `{id, result}` or `{id, error}`; events come unasked as
 * `{seq, events}` or `{seq, log}`. A call is about seven commands, so the path is short: requests
 * are pipelined, answers come in order, and all that is written in one turn of the event loop
 * leaves in one system call. Waking the other process costs more than all the rest, so verbs that
 * nobody's signaling waits for leave with the next one that is urgent, or a few ms later, and what
 * came together is answered together.
 *
 * Not for strangers: the socket lies in a folder only our user can enter, both ends are the same
 * version of this file (`hello` checks), so frames are checked for shape, size and sequence, and
 * their content is trusted. A frame out of sequence breaks the connection; the state behind it
 * survives and is read again with `attach`.
 */
import { EventEmitter } from 'node:events';
import net from 'node:net';
import type { Clock, Timer } from '../core/clock.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import { asGatewayError, ERRORS, GatewayError } from '../core/errors.ts';
import type {
  Args,
  ControlHandlers,
  ControlVerb,
  LogLine,
  PortEventMessage,
  Result,
} from './protocol.ts';

export interface ControlLimits {
  readonly frameBytesMax: number;
  /** Requests that may wait for their answer. */
  readonly pendingMax: number;
  readonly requestTimeoutMs: number;
  /** Bytes that may wait for a peer that does not read. */
  readonly bufferedBytesMax: number;
  /** How long a command that is not urgent may wait for company: half a packet of audio. */
  readonly patienceMs: number;
}

export const DEFAULT_CONTROL_LIMITS: ControlLimits = {
  frameBytesMax: 65_536,
  pendingMax: 8_192,
  requestTimeoutMs: 3_000,
  bufferedBytesMax: 8_388_608,
  patienceMs: 10,
};

/** Nothing that a caller waits for hangs on these; their effect is audio, counted in 20 ms. */
const PATIENT: ReadonlySet<ControlVerb> = new Set([
  'ping',
  'createPorts',
  'setPort',
  'connect',
  'closePort',
]);

/** Events of one frame; the largest event (a long id) is well below 256 bytes. */
const EVENTS_PER_FRAME = 128;

interface RequestFrame {
  readonly id: number;
  readonly verb: ControlVerb;
  readonly args: Args<ControlVerb>;
}
interface ReplyFrame {
  readonly id: number;
  readonly result?: Result<ControlVerb>;
  readonly error?: { readonly code: string; readonly details: ErrorDetails };
}
interface EventFrame {
  readonly seq: number;
  readonly events?: readonly PortEventMessage[];
  readonly log?: LogLine;
}

/** Lines in, lines out, both bounded. Emits `closed` exactly once. */
class FrameSocket extends EventEmitter<{ frame: [line: string]; closed: [problem: string] }> {
  readonly #socket: net.Socket;
  readonly #clock: Clock;
  readonly #limits: ControlLimits;
  #carry: Buffer[] = [];
  #carryBytes = 0;
  #outgoing: string[] = [];
  #isFlushing = false;
  #patience: Timer | null = null;
  #problem = 'connection closed';
  #isClosed = false;

  constructor(options: { socket: net.Socket; clock: Clock; limits: ControlLimits }) {
    super();
    this.#socket = options.socket;
    this.#clock = options.clock;
    this.#limits = options.limits;
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => {
      this.#problem = error.message;
    });
    this.#socket.on('close', () => {
      this.#isClosed = true;
      this.#patience?.cancel();
      this.emit('closed', this.#problem);
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** False: over a bound, nothing was sent. */
  send(line: string, isPatient = false): boolean {
    if (this.#isClosed || this.#socket.writableLength > this.#limits.bufferedBytesMax) return false;
    if (exceeds(line, this.#limits.frameBytesMax)) return false;
    this.#outgoing.push(line);
    if (this.#isFlushing) return true;
    if (isPatient) {
      this.#patience ??= this.#clock.timer(this.#limits.patienceMs, this.#flush);
      return true;
    }
    // One write for all commands of this turn: a busy gateway sets many calls up in one turn.
    this.#isFlushing = true;
    setImmediate(this.#flush);
    return true;
  }

  destroy(problem: string): void {
    if (this.#isClosed) return;
    this.#problem = problem;
    this.#socket.destroy();
  }

  /** Sends what waits, then ends. */
  end(): void {
    this.#flush();
    this.#socket.end();
  }

  readonly #flush = (): void => {
    this.#isFlushing = false;
    this.#patience?.cancel();
    this.#patience = null;
    if (this.#outgoing.length === 0 || this.#isClosed) return;
    this.#socket.write(`${this.#outgoing.join('\n')}\n`);
    this.#outgoing = [];
  };

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
  }
}

/** Counts bytes only when the length in characters leaves a doubt (UTF-8: at most 3 for each). */
function exceeds(line: string, bytesMax: number): boolean {
  return line.length * 3 > bytesMax && Buffer.byteLength(line) > bytesMax;
}

/** The frame as an object, or null when it is none. The only place that reads foreign bytes. */
function parseFrame<T extends object>(line: string): T | null {
  try {
    const value = JSON.parse(line) as T | null;
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

interface Pending {
  readonly verb: ControlVerb;
  readonly deadlineMs: number;
  resolve(result: Result<ControlVerb>): void;
  reject(error: GatewayError): void;
}

interface ControlClientEvents {
  events: [events: readonly PortEventMessage[]];
  log: [line: LogLine];
  closed: [problem: string];
}

/** The gateway's end. */
export class ControlClient extends EventEmitter<ControlClientEvents> {
  readonly #frames: FrameSocket;
  readonly #clock: Clock;
  readonly #limits: ControlLimits;
  /** In the order of their ids, which with one timeout for all is the order of their deadlines. */
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #lastReplyId = 0;
  #lastSeq = 0;
  #sweep: Timer | null = null;
  #events: PortEventMessage[] = [];

  constructor(options: { socket: net.Socket; clock: Clock; limits: ControlLimits }) {
    super();
    this.#clock = options.clock;
    this.#limits = options.limits;
    this.#frames = new FrameSocket(options);
    this.#frames.on('frame', (line) => this.#frame(line));
    this.#frames.on('closed', (problem) => this.#closed(problem));
  }

  static connect(options: {
    path: string;
    clock: Clock;
    limits: ControlLimits;
  }): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ path: options.path });
      const deadline = options.clock.timer(options.limits.requestTimeoutMs, () => {
        socket.destroy(new GatewayError('MEDIA_UNAVAILABLE', { problem: 'connect timed out' }));
      });
      const failed = (error: Error): void => {
        deadline.cancel();
        reject(new GatewayError('MEDIA_UNAVAILABLE', { problem: error.message }, { cause: error }));
      };
      socket.once('error', failed);
      socket.once('connect', () => {
        deadline.cancel();
        socket.removeListener('error', failed);
        resolve(new ControlClient({ ...options, socket }));
      });
    });
  }

  get isClosed(): boolean {
    return this.#frames.isClosed;
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  request<V extends ControlVerb>(verb: V, args: Args<V>): Promise<Result<V>> {
    return new Promise((resolve, reject) => {
      if (this.#frames.isClosed) return reject(unavailable(`${verb}: connection closed`));
      if (this.#pending.size >= this.#limits.pendingMax) {
        return reject(new GatewayError('QUEUE_FULL', { depth: this.#pending.size }));
      }
      const id = this.#lastId + 1;
      if (!this.#frames.send(JSON.stringify({ id, verb, args }), PATIENT.has(verb))) {
        return reject(new GatewayError('MEDIA_COMMAND', { op: verb, problem: 'over a limit' }));
      }
      this.#lastId = id;
      const deadlineMs = this.#clock.monotonicMs() + this.#limits.requestTimeoutMs;
      this.#pending.set(id, { verb, deadlineMs, resolve, reject });
      this.#sweep ??= this.#clock.timer(this.#limits.requestTimeoutMs, () => this.#expire());
    });
  }

  /** Ends the connection; what waits for an answer is rejected. Idempotent. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#frames.isClosed) return resolve();
      this.#frames.once('closed', () => resolve());
      this.#frames.destroy('closed by us');
    });
  }

  #frame(line: string): void {
    const frame = parseFrame<ReplyFrame & EventFrame>(line);
    if (frame === null) this.#frames.destroy('frame is not an object');
    else if (frame.seq === undefined) this.#reply(frame);
    else if (frame.seq !== this.#lastSeq + 1) this.#frames.destroy('event out of sequence');
    else this.#event(frame);
  }

  #event(frame: EventFrame): void {
    this.#lastSeq = frame.seq;
    if (frame.log !== undefined) this.emit('log', frame.log);
    if (frame.events === undefined) return;
    // Later than the answers read in the same chunk: whoever asked for a port knows it by then.
    if (this.#events.length === 0) setImmediate(() => this.#flushEvents());
    this.#events.push(...frame.events);
  }

  #reply(frame: ReplyFrame): void {
    if (!(frame.id > this.#lastReplyId && frame.id <= this.#lastId)) {
      this.#frames.destroy('answer out of sequence');
      return;
    }
    this.#lastReplyId = frame.id;
    const pending = this.#pending.get(frame.id);
    if (pending === undefined) return;
    this.#pending.delete(frame.id);
    if (frame.error !== undefined) pending.reject(errorOf(pending.verb, frame.error));
    else if (frame.result !== undefined) pending.resolve(frame.result);
    else this.#frames.destroy('answer without result');
  }

  #flushEvents(): void {
    if (this.#events.length === 0) return;
    const events = this.#events;
    this.#events = [];
    this.emit('events', events);
  }

  #expire(): void {
    this.#sweep = null;
    const nowMs = this.#clock.monotonicMs();
    for (const [id, pending] of this.#pending) {
      if (pending.deadlineMs > nowMs) {
        this.#sweep = this.#clock.timer(pending.deadlineMs - nowMs, () => this.#expire());
        return;
      }
      this.#pending.delete(id);
      pending.reject(unavailable(`${pending.verb}: no answer in time`));
    }
  }

  #closed(problem: string): void {
    this.#sweep?.cancel();
    this.#flushEvents();
    for (const pending of this.#pending.values()) {
      pending.reject(unavailable(`${pending.verb}: ${problem}`));
    }
    this.#pending.clear();
    this.emit('closed', problem);
  }
}

function unavailable(problem: string): GatewayError {
  return new GatewayError('MEDIA_UNAVAILABLE', { problem });
}

function errorOf(op: string, error: { code: string; details: ErrorDetails }): GatewayError {
  const code = error.code in ERRORS ? (error.code as ErrorCode) : 'MEDIA_COMMAND';
  return new GatewayError(code, { op, ...error.details });
}

/** The worker's end: one gateway at a time, the newest that said `hello` properly. */
export class ControlServer extends EventEmitter<{ gateway: [isConnected: boolean] }> {
  readonly #path: string;
  readonly #clock: Clock;
  readonly #limits: ControlLimits;
  readonly #handlers: ControlHandlers;
  readonly #server: net.Server;
  #gateway: FrameSocket | null = null;
  #seq = 0;

  constructor(options: {
    path: string;
    clock: Clock;
    limits: ControlLimits;
    handlers: ControlHandlers;
  }) {
    super();
    this.#path = options.path;
    this.#clock = options.clock;
    this.#limits = options.limits;
    this.#handlers = options.handlers;
    this.#server = net.createServer((socket) => this.#accept(socket));
    // The gateway, its successor, and one that looks on; nobody else may enter the folder.
    this.#server.maxConnections = 4;
  }

  listen(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ path: this.#path }, () => {
        this.#server.removeListener('error', reject);
        resolve();
      });
    });
  }

  get isConnected(): boolean {
    return this.#gateway !== null;
  }

  /** False: no gateway took them; the caller keeps what must not be lost. */
  tell(events: readonly PortEventMessage[]): boolean {
    for (let at = 0; at < events.length; at += EVENTS_PER_FRAME) {
      if (!this.#send({ events: events.slice(at, at + EVENTS_PER_FRAME) })) return false;
    }
    return this.#gateway !== null;
  }

  log(line: LogLine): void {
    this.#send({ log: line });
  }

  /** Sends what waits and stops listening. Idempotent. */
  close(): Promise<void> {
    this.#gateway?.end();
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #send(content: Omit<EventFrame, 'seq'>): boolean {
    if (this.#gateway === null) return false;
    if (this.#gateway.send(JSON.stringify({ seq: this.#seq + 1, ...content }))) {
      this.#seq += 1;
      return true;
    }
    // A gateway that does not read is as good as gone; it attaches again and gets what it missed.
    this.#gateway.destroy('events over a limit');
    return false;
  }

  #accept(socket: net.Socket): void {
    const frames = new FrameSocket({ socket, clock: this.#clock, limits: this.#limits });
    let lastId = 0;
    frames.on('frame', (line) => {
      const frame = parseFrame<RequestFrame>(line);
      if (frame === null || frame.id !== lastId + 1 || !(frame.verb in this.#handlers)) {
        frames.destroy('request out of sequence');
        return;
      }
      lastId = frame.id;
      // The first word is `hello`; whoever speaks on after a newer gateway came is fenced off.
      const mayAsk = lastId === 1 ? frame.verb === 'hello' : frames === this.#gateway;
      if (mayAsk) this.#answer(frames, frame);
      else frames.destroy('no gateway of ours');
    });
    frames.on('closed', () => {
      if (this.#gateway !== frames) return;
      this.#gateway = null;
      this.emit('gateway', false);
    });
  }

  #answer(frames: FrameSocket, frame: RequestFrame): void {
    let reply: ReplyFrame;
    try {
      const handler = this.#handlers[frame.verb] as (
        args: Args<ControlVerb>,
      ) => Result<ControlVerb>;
      reply = { id: frame.id, result: handler(frame.args) };
    } catch (thrown) {
      const { code, details } = asGatewayError(thrown);
      reply = { id: frame.id, error: { code, details } };
    }
    frames.send(JSON.stringify(reply));
    if (frame.verb !== 'hello') return;
    if (reply.error !== undefined) {
      frames.end();
      return;
    }
    // A newer gateway fences the older one off: two that command one port would be worse.
    const older = this.#gateway;
    this.#gateway = frames;
    this.#seq = 0;
    older?.destroy('taken over by a newer gateway');
    this.emit('gateway', true);
  }
}
