/**
 * The course of one call's application: its flow record, what came in and is not taken yet, and
 * waiting for more. Every event is in the record before anybody acts on it, in the same turn in
 * which the call took it in, so the journal never has one without the other.
 *
 * Not the running of documents (`interpreter.ts`).
 */
import type { Call } from '../call/call.ts';
import type { LegEvent } from '../call/leg.ts';
import type { Clock, Timer } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { type FlowEvent, type FlowRecord, Interruption } from './flow.ts';

export interface CourseOptions {
  readonly call: Call;
  readonly clock: Clock;
  readonly flow: FlowRecord;
  /** Events waiting to be taken; keys beyond it are lost, as on a full keypad buffer. */
  readonly inboxMax: number;
}

/** Events of the own leg that some verb acts on. */
const TAKEN: ReadonlySet<LegEvent['kind']> = new Set<LegEvent['kind']>([
  'answered',
  'digit',
  'playDone',
  'recordDone',
  'bridged',
  'unbridged',
  'commandFailed',
  'referProgress',
]);

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export class Course {
  readonly #inboxMax: number;
  readonly #call: Call;
  readonly #clock: Clock;
  /** Wall clock at an instant of the monotonic one: together a wall clock that cannot jump. */
  readonly #originMs: number;
  readonly #flow: Writable<FlowRecord>;
  /** Made when somebody asks for its signal: most calls wait for nothing but events. */
  #abort: AbortController | null = null;
  #why: Interruption['why'] | null = null;
  #wake: (() => void) | null = null;
  /** Rings when some wait is to end, perhaps a former one: who waits on waits again. */
  #alarm: Timer | null = null;
  #alarmAtMs = Number.POSITIVE_INFINITY;
  /** The first event of the inbox was given out, and goes with the next change. */
  #isTaken = false;

  constructor(options: CourseOptions) {
    this.#inboxMax = options.inboxMax;
    this.#call = options.call;
    this.#clock = options.clock;
    this.#originMs = options.clock.nowMs() - options.clock.monotonicMs();
    this.#flow = options.flow;
    this.#call.on('leg', this.#onLeg);
    this.#call.on('ended', this.#onEnded);
    if (!this.#call.isLive) this.interrupt('ended');
  }

  get flow(): FlowRecord {
    return this.#flow;
  }

  /** Why waiting is over, when it is. */
  get why(): Interruption['why'] | null {
    return this.#why;
  }

  /** Aborts with an `Interruption` as reason. */
  get signal(): AbortSignal {
    if (this.#abort === null) {
      this.#abort = new AbortController();
      if (this.#why !== null) this.#abort.abort(Interruption.of(this.#why));
    }
    return this.#abort.signal;
  }

  nowMs(): number {
    return this.#originMs + this.#clock.monotonicMs();
  }

  /** Changes the record; the event given out last is done with. */
  save(changes: Partial<FlowRecord>): void {
    if (this.#why === 'closed') return;
    if (this.#isTaken) this.#flow.inbox.shift();
    this.#isTaken = false;
    Object.assign(this.#flow, changes);
    this.#call.saveFlow(this.#flow);
  }

  /** Adds an event and wakes whoever waits for one. */
  post(event: FlowEvent): void {
    if (this.#why === 'closed') return;
    const { inbox } = this.#flow;
    if (inbox.length >= this.#inboxMax && event.kind === 'digit') return;
    inbox.push(event);
    this.#call.saveFlow(this.#flow);
    this.#wake?.();
  }

  /** Keys that were pressed before anybody asked for them. */
  dropDigits(): void {
    const { inbox } = this.#flow;
    if (!inbox.some((event) => event.kind === 'digit')) return;
    this.save({ inbox: inbox.filter((event) => event.kind !== 'digit') });
  }

  /** The next event, or null at `untilMs`. Rejects `Interruption`; an end after all events. */
  async next(untilMs = Number.POSITIVE_INFINITY): Promise<FlowEvent | null> {
    if (this.#isTaken) this.save({});
    for (;;) {
      if (this.#why !== null && this.#why !== 'ended') throw Interruption.of(this.#why);
      const event = this.#flow.inbox[0];
      if (event !== undefined) {
        this.#isTaken = true;
        if (isProgress(event)) this.#progress();
        return event;
      }
      if (this.#why !== null) throw Interruption.of(this.#why);
      if (untilMs !== Number.POSITIVE_INFINITY) {
        const leftMs = untilMs - this.nowMs();
        if (leftMs <= 0) {
          this.#progress();
          return null;
        }
        this.#setAlarm(untilMs, leftMs);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }

  /** The outcome of `work`, unless an interruption or `deadlineMs` comes first. */
  async within<T>(work: Promise<T>, deadlineMs: number): Promise<T> {
    const { signal } = this;
    const late = Promise.withResolvers<never>();
    const onAbort = (): void => late.reject(signal.reason);
    const timer = this.#clock.timer(deadlineMs, () => {
      late.reject(new GatewayError('INTERNAL', { problem: `nothing within ${deadlineMs} ms` }));
    });
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      return await Promise.race([work, late.promise]);
    } finally {
      timer.cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Ends all waiting. `closed` wins over `ended`, and `ended` over `redirected`. */
  interrupt(why: Interruption['why']): void {
    if (this.#why === 'closed' || (this.#why === 'ended' && why === 'redirected')) return;
    this.#why = why;
    this.#abort?.abort(Interruption.of(why));
    this.#wake?.();
  }

  /** After a redirect: waiting works again. */
  goOn(): void {
    if (this.#why !== 'redirected') return;
    this.#why = null;
    this.#abort = null;
  }

  /** Lets go of the call. The record stays with it. */
  close(): void {
    this.interrupt('closed');
    this.#alarm?.cancel();
    this.#call.off('leg', this.#onLeg);
    this.#call.off('ended', this.#onEnded);
  }

  /** Something was heard, said or awaited: the flow does not merely go round. */
  #progress(): void {
    this.#flow.idleDocuments = 0;
  }

  /** Wakes who waits at `atMs` or before; one that is set for earlier stays as it is. */
  #setAlarm(atMs: number, delayMs: number): void {
    if (this.#alarmAtMs <= atMs) return;
    this.#alarm?.cancel();
    this.#alarmAtMs = atMs;
    this.#alarm = this.#clock.timer(delayMs, () => {
      this.#alarmAtMs = Number.POSITIVE_INFINITY;
      this.#wake?.();
    });
  }

  readonly #onLeg = (event: LegEvent): void => {
    // Ringing is news only where it opened a way for early media.
    const isEarly = event.kind === 'ringing' && event.port !== null;
    if (isEarly || TAKEN.has(event.kind)) this.post(event);
  };

  readonly #onEnded = (): void => this.interrupt('ended');
}

function isProgress(event: FlowEvent): boolean {
  switch (event.kind) {
    case 'playDone':
      return event.playedMs > 0;
    case 'digit':
    case 'recordDone':
    case 'bridged':
      return true;
    default:
      return false;
  }
}
