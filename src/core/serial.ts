/**
 * One entity, one queue of commands: a call's work runs one after another, so state is settled
 * between awaits and no lock is needed. Bounded: a queue that grows is an error with a code.
 */
import { GatewayError } from './errors.ts';

export class Serial {
  readonly #depthMax: number;
  #tail: Promise<unknown> = Promise.resolve();
  #depth = 0;

  constructor(options: { depthMax: number }) {
    this.#depthMax = options.depthMax;
  }

  get depth(): number {
    return this.#depth;
  }

  /**
   * Runs `work` after all that was given before it. Rejects with `QUEUE_FULL` at once when
   * `depthMax` items wait. A failing item does not stop those behind it.
   */
  run<T>(work: () => Promise<T> | T): Promise<T> {
    if (this.#depth >= this.#depthMax) {
      return Promise.reject(new GatewayError('QUEUE_FULL', { depth: this.#depth }));
    }
    this.#depth += 1;
    const result = this.#tail.then(work);
    this.#tail = result.then(
      () => this.#done(),
      () => this.#done(),
    );
    return result;
  }

  /** Resolves when all that was given so far has run. */
  async idle(): Promise<void> {
    await this.#tail;
  }

  #done(): void {
    this.#depth -= 1;
  }
}
