/**
 * Old calls leave the store: so many days after they were made, with their traces and
 * notifications. Recordings stay until somebody deletes them. In small batches with pauses, because
 * SQLite writes on the thread that signals.
 */
import type { Clock, Timer } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { Store } from './store.ts';

export interface PruningOptions {
  /** 0: calls are kept for ever. */
  readonly keepCallsMs: number;
  readonly firstAfterMs: number;
  readonly intervalMs: number;
  /** Calls that one transaction removes. */
  readonly batchRowsMax: number;
  /** Between two batches of one round. */
  readonly pauseMs: number;
}

export const DEFAULT_PRUNING: PruningOptions = {
  keepCallsMs: 90 * 86_400_000,
  /** A gateway restarted within each hour prunes too. */
  firstAfterMs: 60_000,
  intervalMs: 3_600_000,
  /** With `pauseMs` 1,000 calls a second at most, several times what one node can make. */
  batchRowsMax: 200,
  pauseMs: 200,
};

export class Pruning {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #options: PruningOptions;
  #timer: Timer | null = null;
  #working: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(o: { store: Store; clock: Clock; log: Log; options: PruningOptions }) {
    this.#store = o.store;
    this.#clock = o.clock;
    this.#log = o.log;
    this.#options = o.options;
  }

  start(): void {
    if (this.#options.keepCallsMs > 0) this.#arm(this.#options.firstAfterMs);
  }

  /** Before the store closes. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#working;
  }

  #arm(delayMs: number): void {
    if (this.#isClosed) return;
    this.#timer = this.#clock.timer(delayMs, () => {
      this.#working = this.#batch();
    });
  }

  async #batch(): Promise<void> {
    const { keepCallsMs, batchRowsMax, intervalMs, pauseMs } = this.#options;
    try {
      const gone = await this.#store.pruneCalls(this.#clock.nowMs() - keepCallsMs, batchRowsMax);
      if (gone > 0) this.#log.debug({ calls: gone }, 'old calls removed');
      this.#arm(gone < batchRowsMax ? intervalMs : pauseMs);
    } catch (thrown) {
      this.#log.warn({ problem: String(thrown) }, 'old calls not removed');
      this.#arm(intervalMs);
    }
  }
}
