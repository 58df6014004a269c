/**
 * How often one source may be answered: a token bucket per address in a bounded table, the one
 * least recently seen making room. For strangers only: who is known is the policy's to say, and is
 * never limited here, so that a flood from one address cannot hurt an honest carrier. An IPv6
 * source is its /64, the smallest block that is handed out.
 */
export interface SourceLimitOptions {
  readonly perSecond: number;
  readonly burst: number;
  readonly sourcesMax: number;
}

interface Bucket {
  tokens: number;
  filledMs: number;
}

export class SourceLimit {
  readonly #options: SourceLimitOptions;
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: SourceLimitOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#buckets.size;
  }

  /** Takes one token; false when the source has none left. */
  take(address: string, nowMs: number): boolean {
    const { burst, sourcesMax } = this.#options;
    const key = sourceKey(address);
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) {
      if (this.#buckets.size >= sourcesMax) {
        const oldest = this.#buckets.keys().next().value;
        if (oldest !== undefined) this.#buckets.delete(oldest);
      }
      this.#buckets.set(key, { tokens: burst - 1, filledMs: nowMs });
      return true;
    }
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    this.#fill(bucket, nowMs);
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }

  /** Whether the next `take` would be refused. */
  isSpent(address: string, nowMs: number): boolean {
    const bucket = this.#buckets.get(sourceKey(address));
    if (bucket === undefined) return false;
    this.#fill(bucket, nowMs);
    return bucket.tokens < 1;
  }

  #fill(bucket: Bucket, nowMs: number): void {
    const { perSecond, burst } = this.#options;
    const gained = ((nowMs - bucket.filledMs) * perSecond) / 1000;
    bucket.tokens = Math.min(burst, bucket.tokens + gained);
    bucket.filledMs = nowMs;
  }
}

/** What counts as one source: an IPv4 address, or the /64 of an IPv6 one. */
export function sourceKey(address: string): string {
  return address.includes(':') ? networkOf(address) : address;
}

/** The first 64 bits of an IPv6 address in text. */
function networkOf(address: string): string {
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const after = tail === '' ? 0 : tail.split(':').length;
    while (groups.length + after < 8) groups.push('0');
  }
  return `${groups.slice(0, 4).join(':')}::/64`;
}
