/**
 * A timing wheel: the deadlines of all transactions and sessions of one endpoint behind a single
 * runtime timer. A call leaves several 32 s deadlines behind, nearly all of which are moved or
 * dropped before they are due; here that is a few pointer writes and no allocation. It fires on
 * the tick at or after the deadline, never before it. Not for work finer than one tick (10 ms).
 */
import type { Clock, Timer } from '../core/clock.ts';

const TICK_MS = 10;
/** 40.96 s: the longest protocol deadline (64 * T1) fits in one turn; longer ones go on. */
const SLOTS = 4096;
const SLOT_MASK = SLOTS - 1;

/** Something with one deadline. A subclass says what happens then. */
export abstract class Deadline {
  /** Monotonic ms; Infinity when not armed. Written by the wheel alone. */
  dueMs = Number.POSITIVE_INFINITY;
  /** Neighbours and slot in the wheel; the wheel's own. */
  wheelNext: Deadline | null = null;
  wheelPrevious: Deadline | null = null;
  wheelSlot = -1;

  abstract expire(nowMs: number): void;
}

export class Wheel {
  readonly #clock: Clock;
  readonly #slots: (Deadline | null)[] = new Array<Deadline | null>(SLOTS).fill(null);
  readonly #tick = (): void => this.#turn();
  /** The last tick that was served. */
  #served: number;
  #armedTick = Number.POSITIVE_INFINITY;
  #timer: Timer | null = null;
  #turning = false;
  #count = 0;

  readonly #onError: (error: unknown) => void;

  /** `onError` gets what an expiry throws: one broken call must not stop the time of all others. */
  constructor(options: { clock: Clock; onError: (error: unknown) => void }) {
    this.#clock = options.clock;
    this.#onError = options.onError;
    this.#served = Math.floor(this.#clock.monotonicMs() / TICK_MS);
  }

  /** How many deadlines are armed. */
  get count(): number {
    return this.#count;
  }

  nowMs(): number {
    return this.#clock.monotonicMs();
  }

  /** Arms, moves or (Infinity) disarms `item`. */
  set(item: Deadline, dueMs: number): void {
    if (item.wheelSlot >= 0) {
      if (item.dueMs === dueMs) return;
      this.#unlink(item);
    }
    item.dueMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) return;
    if (this.#count === 0) this.#served = Math.floor(this.#clock.monotonicMs() / TICK_MS);
    const tick = Math.max(Math.ceil(dueMs / TICK_MS), this.#served + 1);
    this.#link(item, tick & SLOT_MASK);
    const turnTick = Math.min(tick, this.#served + SLOTS);
    if (!this.#turning && turnTick < this.#armedTick) this.#arm(turnTick);
  }

  clear(item: Deadline): void {
    this.set(item, Number.POSITIVE_INFINITY);
  }

  close(): void {
    for (const first of this.#slots) {
      for (let item = first; item !== null; ) {
        const next = item.wheelNext;
        this.clear(item);
        item = next;
      }
    }
    this.#timer?.cancel();
    this.#timer = null;
    this.#armedTick = Number.POSITIVE_INFINITY;
  }

  #link(item: Deadline, slot: number): void {
    const first = this.#slots[slot] ?? null;
    item.wheelSlot = slot;
    item.wheelPrevious = null;
    item.wheelNext = first;
    if (first !== null) first.wheelPrevious = item;
    this.#slots[slot] = item;
    this.#count += 1;
  }

  #unlink(item: Deadline): void {
    if (item.wheelPrevious === null) this.#slots[item.wheelSlot] = item.wheelNext;
    else item.wheelPrevious.wheelNext = item.wheelNext;
    if (item.wheelNext !== null) item.wheelNext.wheelPrevious = item.wheelPrevious;
    item.wheelNext = null;
    item.wheelPrevious = null;
    item.wheelSlot = -1;
    this.#count -= 1;
    if (this.#count === 0) {
      this.#timer?.cancel();
      this.#timer = null;
      this.#armedTick = Number.POSITIVE_INFINITY;
    }
  }

  #arm(tick: number): void {
    this.#timer?.cancel();
    this.#armedTick = tick;
    const delayMs = Math.max(0, tick * TICK_MS - this.#clock.monotonicMs());
    this.#timer = this.#clock.timer(delayMs, this.#tick);
  }

  /** Serves every tick up to now, then sleeps until the next slot that holds something. */
  #turn(): void {
    this.#timer = null;
    this.#armedTick = Number.POSITIVE_INFINITY;
    const nowMs = this.#clock.monotonicMs();
    const nowTick = Math.floor(nowMs / TICK_MS);
    // After a suspend, one whole turn visits every slot; more would visit them twice.
    if (nowTick - this.#served > SLOTS) this.#served = nowTick - SLOTS;
    this.#turning = true;
    while (this.#served < nowTick && this.#count > 0) {
      this.#served += 1;
      this.#serve(this.#served & SLOT_MASK, nowMs);
    }
    this.#turning = false;
    this.#served = Math.max(this.#served, nowTick);
    if (this.#count > 0) this.#arm(this.#nextTick());
  }

  /**
   * An expiry may arm and clear others, in this slot too, so the walk starts again after each. What
   * stays behind is due a turn later, and that is rare.
   */
  #serve(slot: number, nowMs: number): void {
    let item = this.#slots[slot] ?? null;
    while (item !== null) {
      if (item.dueMs > nowMs) {
        item = item.wheelNext;
        continue;
      }
      this.#unlink(item);
      item.dueMs = Number.POSITIVE_INFINITY;
      try {
        item.expire(nowMs);
      } catch (thrown) {
        this.#onError(thrown);
      }
      item = this.#slots[slot] ?? null;
    }
  }

  #nextTick(): number {
    for (let ahead = 1; ahead <= SLOTS; ahead += 1) {
      if (this.#slots[(this.#served + ahead) & SLOT_MASK] !== null) return this.#served + ahead;
    }
    return this.#served + SLOTS;
  }
}
