/**
 * The one moment by which something must have happened, which moves as a call goes on. Moved later,
 * as it mostly is, the timer of the former moment stays and looks again when it rings; so a short
 * call costs one timer. Not for things that each need a time of their own.
 */
import type { Clock, Timer } from '../core/clock.ts';

export class Deadline<K> {
  readonly #clock: Clock;
  readonly #onDue: (kind: K) => void;
  #due: { readonly kind: K; readonly atMs: number } | null = null;
  #timer: Timer | null = null;
  #ringsAtMs = Number.POSITIVE_INFINITY;

  /** `onDue` is told what the deadline that passed was for. */
  constructor(clock: Clock, onDue: (kind: K) => void) {
    this.#clock = clock;
    this.#onDue = onDue;
  }

  /** Takes the place of the deadline before. */
  set(delayMs: number, kind: K): void {
    const atMs = this.#clock.monotonicMs() + delayMs;
    this.#due = { kind, atMs };
    if (atMs < this.#ringsAtMs) this.#start(delayMs, atMs);
  }

  cancel(): void {
    this.#due = null;
    this.#timer?.cancel();
    this.#timer = null;
    this.#ringsAtMs = Number.POSITIVE_INFINITY;
  }

  #start(delayMs: number, atMs: number): void {
    this.#timer?.cancel();
    this.#ringsAtMs = atMs;
    this.#timer = this.#clock.timer(delayMs, () => this.#ring());
  }

  #ring(): void {
    this.#timer = null;
    this.#ringsAtMs = Number.POSITIVE_INFINITY;
    const due = this.#due;
    if (due === null) return;
    const leftMs = due.atMs - this.#clock.monotonicMs();
    if (leftMs > 0) {
      this.#start(leftMs, due.atMs);
      return;
    }
    this.#due = null;
    this.#onDue(due.kind);
  }
}
