/**
 * How often somebody may try to prove a name. Failures count for the pair of source and name, for
 * the source, and for the name; each is a growing delay in which nothing is believed, and no more:
 * what is answered is the same as ever.
 *
 * - A pair that fails waits for itself alone, so a wrong password in one phone stops nobody else.
 * - A source that fails too much waits for all names but those that it has proven: whoever shares
 *   an address with an attacker and was there before goes on.
 * - A name that is attacked from everywhere is never shut. Only the grace is gone: each source has
 *   one try before it waits, so its owner gets in from any place with the first one.
 *
 * All tables are bounded; who was heard of longest ago is forgotten first.
 */
import { sourceKey } from './source-limit.ts';

export interface AttemptLimitOptions {
  /** Failures without any delay. */
  readonly pairFailuresFree: number;
  readonly sourceFailuresFree: number;
  readonly nameFailuresFree: number;
  /** Doubled with each further failure. */
  readonly delayFirstMs: number;
  readonly delayMaxMs: number;
  /** Without a failure for so long all is forgiven. */
  readonly forgetMs: number;
  readonly entriesMax: number;
}

export const DEFAULT_ATTEMPT_LIMIT: AttemptLimitOptions = {
  pairFailuresFree: 5,
  sourceFailuresFree: 9,
  nameFailuresFree: 20,
  delayFirstMs: 1_000,
  delayMaxMs: 300_000,
  forgetMs: 900_000,
  entriesMax: 16_384,
};

interface Failures {
  count: number;
  lastMs: number;
  untilMs: number;
}

export class AttemptLimit {
  readonly #options: AttemptLimitOptions;
  readonly #pairs = new Map<string, Failures>();
  readonly #sources = new Map<string, Failures>();
  readonly #names = new Map<string, Failures>();
  readonly #proven = new Map<string, true>();

  constructor(options: AttemptLimitOptions) {
    this.#options = options;
  }

  /** Entries held, for metrics and tests. */
  get size(): number {
    return this.#pairs.size + this.#sources.size + this.#names.size + this.#proven.size;
  }

  /** Whether what `address` says about `name` is believed now. */
  isOpen(address: string, name: string, nowMs: number): boolean {
    const source = sourceKey(address);
    const pair = `${source} ${name}`;
    if ((this.#pairs.get(pair)?.untilMs ?? 0) > nowMs) return false;
    return this.#proven.has(pair) || (this.#sources.get(source)?.untilMs ?? 0) <= nowMs;
  }

  failed(address: string, name: string, nowMs: number): void {
    const { pairFailuresFree, sourceFailuresFree, nameFailuresFree } = this.#options;
    const source = sourceKey(address);
    const pair = `${source} ${name}`;
    const isAttacked = this.#count(this.#names, name, nowMs).count > nameFailuresFree;
    this.#delay(this.#count(this.#pairs, pair, nowMs), isAttacked ? 0 : pairFailuresFree, nowMs);
    if (this.#proven.has(pair)) return;
    this.#delay(this.#count(this.#sources, source, nowMs), sourceFailuresFree, nowMs);
  }

  succeeded(address: string, name: string): void {
    const pair = `${sourceKey(address)} ${name}`;
    this.#pairs.delete(pair);
    this.#proven.delete(pair);
    this.#proven.set(pair, true);
    this.#trim(this.#proven);
  }

  #count(table: Map<string, Failures>, key: string, nowMs: number): Failures {
    const known = table.get(key);
    const isOld = known === undefined || nowMs - known.lastMs > this.#options.forgetMs;
    const failures = isOld ? { count: 0, lastMs: nowMs, untilMs: 0 } : known;
    failures.count += 1;
    failures.lastMs = nowMs;
    table.delete(key);
    table.set(key, failures);
    this.#trim(table);
    return failures;
  }

  #delay(failures: Failures, free: number, nowMs: number): void {
    const over = failures.count - free;
    if (over <= 0) return;
    const { delayFirstMs, delayMaxMs } = this.#options;
    failures.untilMs = nowMs + Math.min(delayMaxMs, delayFirstMs * 2 ** Math.min(over - 1, 30));
  }

  #trim<T>(table: Map<string, T>): void {
    if (table.size <= this.#options.entriesMax) return;
    const oldest = table.keys().next().value;
    if (oldest !== undefined) table.delete(oldest);
  }
}
