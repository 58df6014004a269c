/**
 * The last so many of something, by key: the oldest makes room for the newest. Asking for one does
 * not keep it longer, which is what a cache would do.
 *
 * The keys stand in a ring. To ask a `Map` for its oldest key instead is slow: it steps over every
 * place that a deleted one has left.
 */
export class Recent<K, V> {
  readonly #max: number;
  readonly #values = new Map<K, V>();
  readonly #ring: K[] = [];
  #at = 0;

  constructor(options: { max: number }) {
    this.#max = options.max;
  }

  add(key: K, value: V): void {
    const oldest = this.#ring[this.#at];
    if (oldest !== undefined) this.#values.delete(oldest);
    this.#ring[this.#at] = key;
    this.#at = (this.#at + 1) % this.#max;
    this.#values.set(key, value);
  }

  get(key: K): V | undefined {
    return this.#values.get(key);
  }
}
