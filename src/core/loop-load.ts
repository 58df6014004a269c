/**
 * How hard the event loop of this process works, and how late it comes: what the runtime counts by
 * itself, read since the last reading. Decides nothing. Both figures are of the whole thread, so
 * they hold whatever the work was.
 */
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';

export interface LoopLoad {
  /** Share of the time in which the loop did not wait for anything to do. */
  readonly busy: number;
  /** How much later than asked a timer ran, the 99th percentile. */
  readonly delayMs: number;
}

/**
 * The histogram counts the whole pause of its timer, which is this long when nothing is late. The
 * finest choice, 10 ms, costs an idle node 1 % of a core.
 */
const RESOLUTION_MS = 50;

export class LoopMeter {
  readonly #delays = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  #last = performance.eventLoopUtilization();

  constructor() {
    this.#delays.enable();
  }

  /** Since the last call. */
  read(): LoopLoad {
    const now = performance.eventLoopUtilization();
    const busy = performance.eventLoopUtilization(now, this.#last).utilization;
    this.#last = now;
    const lateMs = this.#delays.percentile(99) / 1e6 - RESOLUTION_MS;
    // A loop that stood still counted nothing yet.
    const delayMs = this.#delays.count === 0 ? 0 : Math.max(0, lateMs);
    this.#delays.reset();
    return { busy, delayMs };
  }

  close(): void {
    this.#delays.disable();
  }
}
