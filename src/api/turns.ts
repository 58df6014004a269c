/**
 * Changes of configuration, one after another: a resource that reads a row, checks it against
 * others and writes it back would lose what a neighbour wrote meanwhile, and two clients could both
 * claim the last place of a limit. They are rare and take a millisecond each. Within one node only:
 * between nodes the database's own constraints stand.
 */
import { Serial } from '../core/serial.ts';
import type { Resource } from './api.ts';

/** Changes that wait; more are told to come again. */
const WAITING_MAX = 1_000;

export class Turns {
  readonly #serial = new Serial({ depthMax: WAITING_MAX });

  /** The same rows, with those that change anything taking turns. */
  of(resources: readonly Resource[]): readonly Resource[] {
    return resources.map((row) =>
      row.method === 'GET'
        ? row
        : { ...row, handle: (...args) => this.#serial.run(() => row.handle(...args)) },
    );
  }
}
