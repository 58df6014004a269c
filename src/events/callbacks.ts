/**
 * Status callbacks: told in order per call, beside the call and never in its way.
 *
 * Each call has a line of its own, so a slow server delays only later callbacks of that call; what
 * is of no call names its line. Bounded per line and in all; what does not fit is dropped with a
 * count, never waited for. Not the event log: a callback that fails is reported once and not kept.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log, Secret } from '../core/log.ts';
import { Serial } from '../core/serial.ts';
import type { CallSid } from '../core/sid.ts';
import type { HttpClient } from '../http/client.ts';
import { type ConnectionPolicy, connectionPolicy } from '../http/overrides.ts';
import { encodeWebhook, type FormParams, signHop } from '../http/signature.ts';
import { shown } from '../http/url.ts';

export interface Callback {
  /** Null: of no call, and then of a line that is named. */
  readonly callSid: CallSid | null;
  /** Those of one line are told one after another; absent: that of the call. */
  readonly line?: string;
  readonly url: string;
  readonly method: 'GET' | 'POST';
  readonly params: FormParams;
  readonly authToken: Secret;
}

export interface CallbackOutcome {
  readonly callback: Callback;
  /** 0 when no answer came. */
  readonly status: number;
  readonly durationMs: number;
  readonly error: GatewayError | null;
}

export interface CallbacksOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly http: HttpClient;
  readonly policy: ConnectionPolicy;
  readonly queuePerLineMax: number;
  readonly queueMax: number;
  readonly onOutcome: (outcome: CallbackOutcome) => void;
}

export const DEFAULT_CALLBACKS = { queuePerLineMax: 64, queueMax: 20_000 } as const;

export const DEFAULT_CALLBACK_POLICY: ConnectionPolicy = {
  connectMs: 5_000,
  readMs: 10_000,
  totalMs: 15_000,
  retries: 1,
  retryOn: new Set(['ct']),
};

/** Answers are not used; enough is read to keep the connection. */
const ANSWER_BYTES_MAX = 65_536;

export class Callbacks {
  readonly #options: CallbacksOptions;
  readonly #queues = new Map<string, Serial>();
  #queued = 0;

  constructor(options: CallbacksOptions) {
    this.#options = options;
  }

  get queued(): number {
    return this.#queued;
  }

  /** Queues one callback behind those of its line. Returns at once. */
  send(callback: Callback): void {
    if (this.#queued >= this.#options.queueMax) {
      this.#report(callback, 0, 0, new GatewayError('QUEUE_FULL', { depth: this.#queued }));
      return;
    }
    const line = callback.line ?? callback.callSid ?? '';
    let queue = this.#queues.get(line);
    if (!queue) {
      queue = new Serial({ depthMax: this.#options.queuePerLineMax });
      this.#queues.set(line, queue);
    }
    const mine = queue;
    this.#queued += 1;
    mine
      .run(() => this.#deliver(callback))
      .catch((thrown) => this.#report(callback, 0, 0, asGatewayError(thrown)))
      .finally(() => {
        this.#queued -= 1;
        if (mine.depth === 0) this.#queues.delete(line);
      });
  }

  /** Resolves when everything queued has been told, or after `timeoutMs`. */
  async drain(timeoutMs: number): Promise<void> {
    const { clock } = this.#options;
    const late = Promise.withResolvers<void>();
    const timer = clock.timer(timeoutMs, late.resolve);
    const all = [...this.#queues.values()].map((queue) => queue.idle());
    await Promise.race([Promise.all(all), late.promise]);
    timer.cancel();
  }

  async #deliver(callback: Callback): Promise<void> {
    const { clock, http, policy } = this.#options;
    const startMs = clock.monotonicMs();
    const { url, body, params } = encodeWebhook(callback);
    let status = 0;
    let error: GatewayError | null = null;
    try {
      const response = await http.fetch({
        url,
        method: callback.method,
        headers: {
          'content-type': 'application/x-www-form-urlencoded; charset=utf-8',
          'i-twilio-idempotency-token': clock.randomHex(16),
        },
        ...(body === undefined ? {} : { body }),
        bodyBytesMax: ANSWER_BYTES_MAX,
        policy: connectionPolicy(callback.url, policy),
        prepare: (hop) => signHop(hop, params, callback.authToken),
      });
      status = response.status;
      if (status < 200 || status > 299) {
        error = new GatewayError('CALLBACK_STATUS', { url: shown(callback.url), status });
      }
    } catch (thrown) {
      error = asGatewayError(thrown);
    }
    this.#report(callback, status, clock.monotonicMs() - startMs, error);
  }

  #report(
    callback: Callback,
    status: number,
    durationMs: number,
    error: GatewayError | null,
  ): void {
    if (error) {
      const fields = { callSid: callback.callSid, code: error.code, url: shown(callback.url) };
      this.#options.log.warn(fields, 'status callback failed');
    }
    this.#options.onOutcome({ callback, status, durationMs, error });
  }
}
