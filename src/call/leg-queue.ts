/**
 * The queue of one leg: what is given to it is done one after another, so that an answer, a
 * re-INVITE and a BYE that come at once are seen one by one. Work that needs no waiting is done in
 * the turn it is given, which is what `core/serial.ts` cannot do: most steps of a call are of that
 * kind, and each saved turn is one less between a message and its answer.
 */
import { GatewayError } from '../core/errors.ts';

type Work = () => Promise<void> | void;
type OnFailed = (thrown: unknown) => void;

interface Waiting {
  readonly work: Work;
  readonly onFailed: OnFailed;
}

export class LegQueue {
  readonly #depthMax: number;
  #waiting: Waiting[] = [];
  #isBusy = false;
  readonly #onDone = (): void => this.#next();

  constructor(options: { depthMax: number }) {
    this.#depthMax = options.depthMax;
  }

  /** Does `work` now when nothing is under way, else after all that was given before it. */
  run(work: Work, onFailed: OnFailed): void {
    if (this.#waiting.length < this.#depthMax) this.whenIdle(work, onFailed);
    else onFailed(new GatewayError('QUEUE_FULL', { depth: this.#waiting.length }));
  }

  /** After all that was given so far. Never refused: it is how a leg ends. */
  whenIdle(work: Work, onFailed: OnFailed): void {
    if (this.#isBusy) this.#waiting.push({ work, onFailed });
    else if (this.#start(work, onFailed)) this.#next();
  }

  /** True when it is done already. */
  #start(work: Work, onFailed: OnFailed): boolean {
    this.#isBusy = true;
    try {
      const result = work();
      if (result !== undefined) {
        result.then(this.#onDone, (thrown: unknown) => {
          try {
            onFailed(thrown);
          } finally {
            this.#next();
          }
        });
        return false;
      }
    } catch (thrown) {
      onFailed(thrown);
    }
    return true;
  }

  #next(): void {
    for (;;) {
      this.#isBusy = false;
      const item = this.#waiting.shift();
      if (item === undefined || !this.#start(item.work, item.onFailed)) return;
    }
  }
}
