/**
 * Time and chance: the only place that reads the clock, starts timers or draws random numbers.
 *
 * Everything that waits or chooses gets a `Clock`, so that a test can hold time still, run a 32 s
 * transaction timeout in microseconds, and repeat a run from its seed. Not a scheduler: timers are
 * the runtime's own, which keeps them in per-duration lists and so is cheap for SIP's few durations.
 */
import { randomBytes } from 'node:crypto';

export interface Timer {
  /** Idempotent. A cancelled timer never fires. */
  cancel(): void;
}

export interface Clock {
  /** Wall clock, ms since the Unix epoch. For records and headers, never for durations. */
  nowMs(): number;
  /** Monotonic ms, arbitrary origin. For durations and deadlines. */
  monotonicMs(): number;
  /** Calls `fn` once after `delayMs` (>= 0). Timers do not keep the process alive. */
  timer(delayMs: number, fn: () => void): Timer;
  /** Uniform in [0, 1). For jitter and weights, not for secrets. */
  random(): number;
  /** `bytes` random bytes as lower-case hex; cryptographic on the real clock. */
  randomHex(bytes: number): string;
}

class RealTimer implements Timer {
  readonly #handle: NodeJS.Timeout;
  constructor(delayMs: number, fn: () => void) {
    this.#handle = setTimeout(fn, delayMs);
    this.#handle.unref();
  }
  cancel(): void {
    clearTimeout(this.#handle);
  }
}

/** randomBytes per call costs 1 µs of system call; a pool makes a branch or tag cost 50 ns. */
const POOL_BYTES = 8192;
let pool = Buffer.alloc(0);
let poolOffset = 0;

function pooledHex(bytes: number): string {
  if (bytes > POOL_BYTES) return randomBytes(bytes).toString('hex');
  if (poolOffset + bytes > pool.length) {
    pool = randomBytes(POOL_BYTES);
    poolOffset = 0;
  }
  const hex = pool.toString('hex', poolOffset, poolOffset + bytes);
  pool.fill(0, poolOffset, poolOffset + bytes);
  poolOffset += bytes;
  return hex;
}

export const realClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  timer: (delayMs, fn) => new RealTimer(delayMs, fn),
  random: () => Math.random(),
  randomHex: pooledHex,
};

/** Resolves after `delayMs`; rejects with the signal's reason when aborted first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const onAbort = (): void => {
      timer.cancel();
      reject(signal?.reason);
    };
    const timer = clock.timer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
