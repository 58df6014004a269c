/**
 * Creates done once: a client that repeats a create with the same token, because it never saw the
 * answer, gets the first answer instead of a second call. Kept in memory, bounded in number and
 * time; a failed create is forgotten, so that it can be tried again.
 */
import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { RawForm } from './parameters.ts';

export interface IdempotencyOptions {
  readonly idempotencyTokensMax: number;
  readonly idempotencyKeepMs: number;
}

export const DEFAULT_IDEMPOTENCY: IdempotencyOptions = {
  /** About 2 kB each. */
  idempotencyTokensMax: 5_000,
  idempotencyKeepMs: 3_600_000,
};

interface Done<Reply> {
  readonly fingerprint: string;
  /** Shared by repeats that come while the first is still under way. */
  readonly reply: Promise<Reply>;
}

export class Idempotency<Reply> {
  readonly #done: LRUCache<string, Done<Reply>>;

  constructor(o: { options: IdempotencyOptions; clock: Clock }) {
    this.#done = new LRUCache({
      max: o.options.idempotencyTokensMax,
      ttl: o.options.idempotencyKeepMs,
      perf: { now: () => o.clock.monotonicMs() },
    });
  }

  /** `scope` keeps accounts and resources apart: a token means nothing outside its own. */
  run(o: {
    scope: string;
    token: string;
    form: RawForm;
    work: () => Promise<Reply>;
  }): Promise<Reply> {
    const key = `${o.scope} ${o.token}`;
    const fingerprint = createHash('sha256').update(JSON.stringify(o.form)).digest('base64');
    const known = this.#done.get(key);
    if (known) {
      if (known.fingerprint === fingerprint) return known.reply;
      return Promise.reject(new GatewayError('REST_TOKEN_REUSED'));
    }
    const done: Done<Reply> = { fingerprint, reply: o.work() };
    this.#done.set(key, done);
    done.reply.catch(() => {
      if (this.#done.peek(key) === done) this.#done.delete(key);
    });
    return done.reply;
  }
}
