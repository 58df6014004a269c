/**
 * The control protocol between the gateway and one media worker, both ends: newline-delimited JSON
 * over a unix socket. `{id, verb, args}` → `{id, result}` or `{id, error}`; events come unasked as
 * `{seq, events}` or `{seq, log}`. A call is about six commands, so the path is short: requests
 * are pipelined, answers come in order, and one answer stands for all before it that have nothing
 * to tell but that they were done. Waking the other process costs more than all the rest, so verbs
 * that nobody's signaling waits for leave with the next one that is urgent, or a few ms later, in
 * one system call, and what came together is answered together.
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
import type { Handle } from './binding.ts';
import { type ControlLimits, FrameSocket, parseFrame } from './frames.ts';
import {
  type Args,
  type ControlHandlers,
  type ControlVerb,
  DONE,
  type LogLine,
  type PortEventMessage,
  type Result,
} from './protocol.ts';

/** Nobody hears when these are done: they wait for company. */
const PATIENT: ReadonlySet<ControlVerb> = new Set(['ping', 'createPorts', 'setPort', 'closePort']);
/** Begins audio, so at once, and with it what the ports were told; in a rush a few together. */
const PACED: ReadonlySet<ControlVerb> = new Set(['connect']);

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

/** A request until its answer. */
interface Command {
  readonly verb: ControlVerb;
  args: Args<ControlVerb>;
  readonly answer: Promise<Result<ControlVerb>>;
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
  /** Not sent yet, in order. */
  #unsent: Command[] = [];
  /** Those of them that set a port up: newer settings take their place. */
  readonly #settings = new Map<Handle, Command>();
  /** Urgent ones are among them: they leave at the end of this turn. */
  #isLeaving = false;
  #patience: Timer | null = null;
  #leftMs = Number.NEGATIVE_INFINITY;
  /** Sent, up to `#lastId` without a gap; with one timeout for all, in order of deadlines too. */
  #pending: Command[] = [];
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
    return this.#unsent.length + this.#pending.length;
  }

  request<V extends ControlVerb>(verb: V, args: Args<V>): Promise<Result<V>> {
    const settled = verb === 'setPort' ? this.#settings.get((args as Args<'setPort'>).port) : null;
    if (settled) {
      settled.args = args;
      return settled.answer as Promise<Result<V>>;
    }
    if (this.#frames.isClosed) return Promise.reject(unavailable(`${verb}: connection closed`));
    const depth = this.pendingCount;
    if (depth >= this.#limits.pendingMax) {
      return Promise.reject(new GatewayError('QUEUE_FULL', { depth }));
    }
    const nowMs = this.#clock.monotonicMs();
    const deadlineMs = nowMs + this.#limits.requestTimeoutMs;
    const { promise, resolve, reject } = Promise.withResolvers<Result<ControlVerb>>();
    const command: Command = { verb, args, answer: promise, deadlineMs, resolve, reject };
    this.#unsent.push(command);
    if (verb === 'setPort') this.#settings.set((args as Args<'setPort'>).port, command);
    this.#leave(verb, nowMs);
    this.#sweep ??= this.#clock.timer(this.#limits.requestTimeoutMs, () => this.#expire());
    return promise as Promise<Result<V>>;
  }

  /** Ends the connection; what waits for an answer is rejected. Idempotent. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#frames.isClosed) return resolve();
      this.#frames.once('closed', () => resolve());
      this.#frames.destroy('closed by us');
    });
  }

  /** When what is unsent leaves, now that `verb` is among it. */
  #leave(verb: ControlVerb, nowMs: number): void {
    if (this.#isLeaving) return;
    const { patienceMs } = this.#limits;
    if (PATIENT.has(verb)) {
      this.#patience ??= this.#clock.timer(patienceMs, this.#flush);
      return;
    }
    const waitMs = PACED.has(verb) ? this.#leftMs + patienceMs - nowMs : 0;
    this.#patience?.cancel();
    if (waitMs > 0) {
      this.#patience = this.#clock.timer(waitMs, this.#flush);
      return;
    }
    // At the end of the turn: a busy gateway sets many calls up in one.
    this.#isLeaving = true;
    setImmediate(this.#flush);
  }

  readonly #flush = (): void => {
    this.#isLeaving = false;
    this.#patience?.cancel();
    this.#patience = null;
    this.#leftMs = this.#clock.monotonicMs();
    const commands = this.#unsent;
    this.#unsent = [];
    this.#settings.clear();
    for (const command of commands) {
      const { verb, args } = command;
      if (this.#frames.push(JSON.stringify({ id: this.#lastId + 1, verb, args }))) {
        this.#lastId += 1;
        this.#pending.push(command);
      } else {
        command.reject(new GatewayError('MEDIA_COMMAND', { op: verb, problem: 'over a limit' }));
      }
    }
    this.#frames.flush();
  };

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
    // Less than one: it is given up already.
    const count = this.#pending.length - (this.#lastId - frame.id);
    const answered = this.#pending.splice(0, Math.max(0, count));
    const last = answered.pop();
    for (const command of answered) command.resolve(DONE);
    if (last === undefined) return;
    if (frame.error !== undefined) last.reject(errorOf(last.verb, frame.error));
    else if (frame.result !== undefined) last.resolve(frame.result);
    else this.#frames.destroy('answer without result');
  }

  #flushEvents(): void {
    if (this.#events.length === 0) return;
    const events = this.#events;
    this.#events = [];
    this.emit('events', events);
  }

  #expire(): void {
    const nowMs = this.#clock.monotonicMs();
    while ((this.#pending[0]?.deadlineMs ?? Number.POSITIVE_INFINITY) <= nowMs) {
      const command = this.#pending.shift();
      command?.reject(unavailable(`${command.verb}: no answer in time`));
    }
    const next = this.#pending[0] ?? this.#unsent[0];
    this.#sweep =
      next === undefined
        ? null
        : this.#clock.timer(Math.max(0, next.deadlineMs - nowMs), () => this.#expire());
  }

  #closed(problem: string): void {
    this.#sweep?.cancel();
    this.#flushEvents();
    this.#patience?.cancel();
    for (const command of [...this.#pending, ...this.#unsent]) {
      command.reject(unavailable(`${command.verb}: ${problem}`));
    }
    this.#pending = [];
    this.#unsent = [];
    this.#settings.clear();
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
  readonly #limits: ControlLimits;
  readonly #handlers: ControlHandlers;
  readonly #server: net.Server;
  #gateway: FrameSocket | null = null;
  #seq = 0;

  constructor(options: {
    path: string;
    limits: ControlLimits;
    handlers: ControlHandlers;
  }) {
    super();
    this.#path = options.path;
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
      if (!this.#push({ events: events.slice(at, at + EVENTS_PER_FRAME) })) return false;
    }
    this.#gateway?.flush();
    return this.#gateway !== null;
  }

  log(line: LogLine): void {
    this.#push({ log: line });
    this.#gateway?.flush();
  }

  /** Sends what waits and stops listening. Idempotent. */
  close(): Promise<void> {
    this.#gateway?.end();
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #push(content: Omit<EventFrame, 'seq'>): boolean {
    if (this.#gateway === null) return false;
    if (this.#gateway.push(JSON.stringify({ seq: this.#seq + 1, ...content }))) {
      this.#seq += 1;
      return true;
    }
    // A gateway that does not read is as good as gone; it attaches again and gets what it missed.
    this.#gateway.destroy('events over a limit');
    return false;
  }

  #accept(socket: net.Socket): void {
    const frames = new FrameSocket({ socket, limits: this.#limits });
    let lastId = 0;
    let saidId = 0;
    frames.on('frame', (line) => {
      const frame = parseFrame<RequestFrame>(line);
      if (frame === null || frame.id !== lastId + 1 || !(frame.verb in this.#handlers)) {
        frames.destroy('request out of sequence');
        return;
      }
      lastId = frame.id;
      // The first word is `hello`; whoever speaks on after a newer gateway came is fenced off.
      const mayAsk = lastId === 1 ? frame.verb === 'hello' : frames === this.#gateway;
      if (!mayAsk) frames.destroy('no gateway of ours');
      else if (this.#answer(frames, frame)) saidId = lastId;
    });
    frames.on('read', () => {
      if (saidId < lastId) this.#reply(frames, { id: lastId, result: DONE });
      saidId = lastId;
      frames.flush();
    });
    frames.on('closed', () => {
      if (this.#gateway !== frames) return;
      this.#gateway = null;
      this.emit('gateway', false);
    });
  }

  /** False: there is nothing to tell but that it was done; that is said once for several. */
  #answer(frames: FrameSocket, frame: RequestFrame): boolean {
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
    if (reply.result === DONE) return false;
    this.#reply(frames, reply);
    if (frame.verb !== 'hello') return true;
    if (reply.error !== undefined) {
      frames.end();
      return true;
    }
    // A newer gateway fences the older one off: two that command one port would be worse.
    const older = this.#gateway;
    this.#gateway = frames;
    this.#seq = 0;
    older?.destroy('taken over by a newer gateway');
    this.emit('gateway', true);
    return true;
  }

  #reply(frames: FrameSocket, reply: ReplyFrame): void {
    frames.push(JSON.stringify(reply));
  }
}
