/**
 * Draining a node: every part that takes new work is told no in one step, and yes again when that
 * is undone. What lives goes on, may still dial, and is not touched.
 *
 * While draining new calls and OPTIONS get 503 with Retry-After, calls ordered by REST are refused
 * as DRAINING, phones that are registered here may refresh and others get 503, our registrations at
 * carriers are taken back, and /readyz says why. When the process is to end there is no undo:
 * whoever told it so counts on that.
 */
import type { DrainControl, DrainState } from '../api/admin.ts';
import type { Router } from '../call/router.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { NodeHealth } from './base.ts';

export class DrainSwitch implements DrainControl {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #health: NodeHealth;
  readonly #endpoint: Pick<Endpoint, 'drain'>;
  readonly #router: Pick<Router, 'drain' | 'size'>;
  readonly #registrations: { drain(on: boolean): Promise<void> };
  /** The last turn of registrations at carriers; the next waits for it. */
  #turning: Promise<void> = Promise.resolve();
  #state: DrainState['state'] = 'serving';
  #sinceMs: number;

  constructor(parts: {
    clock: Clock;
    log: Log;
    health: NodeHealth;
    endpoint: Pick<Endpoint, 'drain'>;
    router: Pick<Router, 'drain' | 'size'>;
    /** Our registrations at carriers: taken back, or made again. */
    registrations: { drain(on: boolean): Promise<void> };
  }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#health = parts.health;
    this.#endpoint = parts.endpoint;
    this.#router = parts.router;
    this.#registrations = parts.registrations;
    this.#sinceMs = parts.clock.nowMs();
  }

  get state(): DrainState {
    return { state: this.#state, sinceMs: this.#sinceMs, calls: this.#router.size };
  }

  drain(): void {
    if (this.#state === 'serving') this.#turn('draining');
  }

  undo(): void {
    if (this.#state === 'leaving') throw new GatewayError('DRAIN_FINAL');
    if (this.#state === 'draining') this.#turn('serving');
  }

  /** As `drain`, for good. Resolves when carriers know; a failure there keeps nobody. */
  async leave(): Promise<void> {
    if (this.#state !== 'leaving') this.#turn('leaving');
    await this.#turning;
  }

  #turn(to: DrainState['state']): void {
    const on = to !== 'serving';
    this.#state = to;
    this.#sinceMs = this.#clock.nowMs();
    this.#health.isDraining = on;
    this.#endpoint.drain(on);
    this.#router.drain(on);
    this.#log.info({ calls: this.#router.size }, to);
    this.#turning = this.#turning
      .then(() => this.#registrations.drain(on))
      .catch((thrown: unknown) => {
        this.#log.error({ err: asGatewayError(thrown) }, 'registrations at carriers not changed');
      });
  }
}
