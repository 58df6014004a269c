/**
 * How many calls a trunk may have and how fast they may begin, per direction. Inbound over a limit
 * is refused at once: the carrier has other ways. Outbound over a rate waits for its turn in a
 * short queue, because a pace is no lack of room; over a cap, or behind too long a queue, the next
 * trunk is asked. Counts by call, so that a call that moves on to another trunk is in one place.
 * Not the node's own limits (`admission.ts`).
 */
import type { Clock, Timer } from '../core/clock.ts';
import type { CallSid, TrunkSid } from '../core/sid.ts';
import type { TrunkLimits } from '../store/trunk-policy.ts';
import type { Decision } from './decision.ts';

export interface TrunkLimiterOptions {
  /** How long an outgoing call waits for its turn at most. */
  readonly waitMsMax: number;
  /** Outgoing calls of one trunk that wait. */
  readonly waitingMax: number;
  /** Trunks remembered with no call. */
  readonly idleTrunksMax: number;
}

const DEFAULT_TRUNK_LIMITER: TrunkLimiterOptions = {
  waitMsMax: 2_000,
  waitingMax: 200,
  idleTrunksMax: 10_000,
};

export type Direction = 'in' | 'out';

/** What the limiter has to know of a trunk. */
export interface LimitedTrunk {
  readonly sid: TrunkSid;
  readonly name: string;
  readonly limits: TrunkLimits;
}

interface Held {
  readonly trunkSid: TrunkSid;
  readonly direction: Direction;
}

interface State {
  in: number;
  out: number;
  /** When the next call may begin, by direction; monotonic. */
  inDueMs: number;
  outDueMs: number;
  waiting: number;
}

/** Of the pace: calls that may begin at once after a pause, so that a pair is no burst. */
const BURST_MS = 1_000;

export class TrunkLimiter {
  readonly #clock: Clock;
  readonly #options: TrunkLimiterOptions;
  readonly #trunks = new Map<TrunkSid, State>();
  readonly #held = new Map<CallSid, Held>();
  readonly #timers = new Set<{ readonly timer: Timer; readonly give: (ok: boolean) => void }>();

  constructor(parts: { clock: Clock; options?: Partial<TrunkLimiterOptions> }) {
    this.#clock = parts.clock;
    this.#options = { ...DEFAULT_TRUNK_LIMITER, ...parts.options };
  }

  /** Calls of a trunk now. */
  live(sid: TrunkSid): { readonly in: number; readonly out: number } {
    const state = this.#trunks.get(sid);
    return { in: state?.in ?? 0, out: state?.out ?? 0 };
  }

  /** What a call would be told, counting nothing. */
  look(trunk: LimitedTrunk, direction: Direction): Decision {
    return this.#capOf(trunk, direction) ?? this.#paceOf(trunk, direction) ?? room(trunk);
  }

  /** Takes an inbound call's place; the decision says whether it got one. */
  takeIn(trunk: LimitedTrunk, callSid: CallSid): Decision {
    const decision = this.look(trunk, 'in');
    if (decision.ok) this.#take(trunk, 'in', callSid);
    return decision;
  }

  /** Takes an outbound call's place when it has its turn; what the call held before is free. */
  takeOut(trunk: LimitedTrunk, callSid: CallSid): Promise<Decision> | Decision {
    const held = this.#held.get(callSid);
    if (held?.trunkSid === trunk.sid) return room(trunk);
    const cap = this.#capOf(trunk, 'out');
    if (cap !== null) return cap;
    const waitMs = this.#waitMs(trunk, 'out');
    if (waitMs <= 0) {
      this.#take(trunk, 'out', callSid);
      return room(trunk);
    }
    const pace = this.#paceOf(trunk, 'out');
    if (pace !== null && !pace.ok) return pace;
    return this.#wait(trunk, callSid, waitMs);
  }

  /** A call brought back from the journal: it is there, whatever the limits say now. */
  restored(sid: TrunkSid, direction: Direction, callSid: CallSid): void {
    this.#count(sid, direction, callSid);
  }

  /** The call is over, or goes on without a trunk. */
  release(callSid: CallSid): void {
    const held = this.#held.get(callSid);
    if (held === undefined) return;
    this.#held.delete(callSid);
    const state = this.#trunks.get(held.trunkSid);
    if (state !== undefined) state[held.direction] -= 1;
  }

  /** Whoever waits is told no. */
  close(): void {
    for (const { timer, give } of this.#timers) {
      timer.cancel();
      give(false);
    }
    this.#timers.clear();
  }

  #capOf(trunk: LimitedTrunk, direction: Direction): Decision | null {
    const { limits } = trunk;
    const live = this.live(trunk.sid);
    const own = direction === 'in' ? limits.callsInMax : limits.callsOutMax;
    if (own > 0 && live[direction] >= own) {
      const key = direction === 'in' ? 'callsInMax' : 'callsOutMax';
      return over(trunk, `has ${live[direction]} of ${own} calls ${direction}`, key);
    }
    const all = live.in + live.out;
    if (limits.callsMax === 0 || all < limits.callsMax) return null;
    return over(trunk, `has ${all} of ${limits.callsMax} calls`, 'callsMax');
  }

  #paceOf(trunk: LimitedTrunk, direction: Direction): Decision | null {
    const waitMs = this.#waitMs(trunk, direction);
    if (waitMs <= 0) return null;
    const isIn = direction === 'in';
    const { callsPerSecondIn, callsPerSecondOut } = trunk.limits;
    const rate = isIn ? callsPerSecondIn : callsPerSecondOut;
    const what = `is over its ${rate} calls per second ${direction}`;
    const key = isIn ? 'callsPerSecondIn' : 'callsPerSecondOut';
    const { waitMsMax, waitingMax } = this.#options;
    const waiting = this.#trunks.get(trunk.sid)?.waiting ?? 0;
    if (isIn || waitMs > waitMsMax || waiting >= waitingMax) return over(trunk, what, key);
    const text = `trunk ${trunk.name} ${what}, so the call waits ${Math.ceil(waitMs)} ms`;
    return { step: 'limit', ok: true, what: text, fix: '' };
  }

  /** Until the pace lets another call begin; generic cell rate, a second's calls may be early. */
  #waitMs({ sid, limits }: LimitedTrunk, direction: Direction): number {
    const rate = direction === 'in' ? limits.callsPerSecondIn : limits.callsPerSecondOut;
    const state = this.#trunks.get(sid);
    if (rate === 0 || state === undefined) return 0;
    const dueMs = direction === 'in' ? state.inDueMs : state.outDueMs;
    // The last call of the burst ends it: of 5 a second the sixth waits.
    const earlyMs = BURST_MS - 1000 / rate;
    return dueMs - this.#clock.monotonicMs() - Math.max(0, earlyMs);
  }

  #take({ sid, limits }: LimitedTrunk, direction: Direction, callSid: CallSid): void {
    this.#count(sid, direction, callSid);
    this.#pace(sid, limits, direction);
  }

  #pace(sid: TrunkSid, limits: TrunkLimits, direction: Direction): void {
    const rate = direction === 'in' ? limits.callsPerSecondIn : limits.callsPerSecondOut;
    if (rate === 0) return;
    const state = this.#state(sid);
    const key = direction === 'in' ? 'inDueMs' : 'outDueMs';
    state[key] = Math.max(state[key], this.#clock.monotonicMs()) + 1000 / rate;
  }

  #count(sid: TrunkSid, direction: Direction, callSid: CallSid): void {
    this.release(callSid);
    this.#held.set(callSid, { trunkSid: sid, direction });
    this.#state(sid)[direction] += 1;
  }

  /** Its turn is taken now, so that who comes after waits behind it. */
  #wait(trunk: LimitedTrunk, callSid: CallSid, waitMs: number): Promise<Decision> {
    const { sid, limits } = trunk;
    this.#count(sid, 'out', callSid);
    this.#pace(sid, limits, 'out');
    const state = this.#state(sid);
    state.waiting += 1;
    return new Promise((resolve) => {
      const give = (ok: boolean): void => {
        this.#timers.delete(entry);
        state.waiting -= 1;
        resolve(ok ? room(trunk) : over(trunk, 'takes no more calls', ''));
      };
      const entry = { timer: this.#clock.timer(waitMs, () => give(true)), give };
      this.#timers.add(entry);
    });
  }

  #state(sid: TrunkSid): State {
    const known = this.#trunks.get(sid);
    if (known !== undefined) return known;
    if (this.#trunks.size >= this.#options.idleTrunksMax) this.#forgetIdle();
    const never = Number.NEGATIVE_INFINITY;
    const state = { in: 0, out: 0, inDueMs: never, outDueMs: never, waiting: 0 };
    this.#trunks.set(sid, state);
    return state;
  }

  #forgetIdle(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [sid, state] of this.#trunks) {
      const isPaced = state.inDueMs > nowMs || state.outDueMs > nowMs;
      if (state.in + state.out + state.waiting === 0 && !isPaced) this.#trunks.delete(sid);
    }
  }
}

function room({ name }: LimitedTrunk): Decision {
  return { step: 'limit', ok: true, what: `trunk ${name} has room`, fix: '' };
}

function over({ sid, name }: LimitedTrunk, what: string, key: string): Decision {
  const fix = key === '' ? '' : `Policy.limits.${key} of trunk ${sid}`;
  return { step: 'limit', ok: false, what: `trunk ${name} ${what}`, fix };
}
