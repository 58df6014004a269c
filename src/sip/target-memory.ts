/**
 * Targets that did not answer, for a short time: who is known to be down is tried last, so that
 * the next call does not wait for it first (RFC 3263 §4.3 has each call find out anew). Nobody is
 * refused for it: where all are down the first is tried all the same. What a gateway is worth over
 * minutes is not judged here.
 */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../core/clock.ts';
import type { PeerAddress } from './peer.ts';

export interface TargetMemoryOptions {
  readonly targetsMax: number;
  /** For one that was silent or could not be reached. */
  readonly failedMs: number;
  /** The most that a Retry-After is heeded. */
  readonly retryAfterMaxMs: number;
}

export const DEFAULT_TARGET_MEMORY: TargetMemoryOptions = {
  targetsMax: 4096,
  failedMs: 30_000,
  retryAfterMaxMs: 300_000,
};

export class TargetMemory {
  readonly #clock: Clock;
  readonly #options: TargetMemoryOptions;
  /** Until when. */
  readonly #failed: LRUCache<string, number>;

  constructor(options: { clock: Clock; options: TargetMemoryOptions }) {
    this.#clock = options.clock;
    this.#options = options.options;
    this.#failed = new LRUCache({ max: options.options.targetsMax });
  }

  /** Silent, or not to be reached. */
  failed(peer: PeerAddress): void {
    this.#keep(peer, this.#options.failedMs);
  }

  /** It said 503, and when to come back (RFC 3261 §21.5.4). */
  refused(peer: PeerAddress, retryAfterMs: number): void {
    this.#keep(peer, Math.min(retryAfterMs, this.#options.retryAfterMaxMs));
  }

  answered(peer: PeerAddress): void {
    if (this.#failed.size > 0) this.#failed.delete(keyOf(peer));
  }

  /** As they came, those that failed of late behind the others. */
  ranked<T extends PeerAddress>(targets: readonly T[]): T[] {
    const good: T[] = [];
    const bad: T[] = [];
    for (const target of targets) (this.#hasFailed(target) ? bad : good).push(target);
    return [...good, ...bad];
  }

  #keep(peer: PeerAddress, forMs: number): void {
    if (forMs > 0) this.#failed.set(keyOf(peer), this.#clock.monotonicMs() + forMs);
  }

  #hasFailed(peer: PeerAddress): boolean {
    if (this.#failed.size === 0) return false;
    const untilMs = this.#failed.get(keyOf(peer));
    if (untilMs === undefined) return false;
    if (untilMs > this.#clock.monotonicMs()) return true;
    this.#failed.delete(keyOf(peer));
    return false;
  }
}

function keyOf({ transport, address, port }: PeerAddress): string {
  return `${transport} ${address} ${port}`;
}
