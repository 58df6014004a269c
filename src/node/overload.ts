/**
 * The watch over a node's own load: reads it, tells the control that refuses new calls
 * (`sip/overload.ts`), and says in log and metrics when that begins and ends. Only how far the work
 * is behind is asked. A store that is away is no load: calls go on without it.
 */
import type { LocalBus } from '../bus/bus.ts';
import type { Clock, Timer } from '../core/clock.ts';
import type { Config } from '../core/config.ts';
import type { Log } from '../core/log.ts';
import { LoopMeter } from '../core/loop-load.ts';
import type { Metrics } from '../core/metrics.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import { DEFAULT_OVERLOAD, Overload } from '../sip/overload.ts';
import { TRUST_CLASSES } from '../sip/trust.ts';
import type { Base } from './base.ts';

export function createOverload({ config, clock }: Base): Overload {
  const retryAfterSecondsMax = config['overload.retryAfterSecondsMax'];
  return new Overload({
    seed: clock.randomHex(8),
    options: {
      ...DEFAULT_OVERLOAD,
      busyMax: busyMax(config),
      delayMsMax: config['overload.delayMsMax'],
      fullnessMax: config['overload.fullPercentMax'] / 100,
      callsPerSecondMin: config['overload.callsPerSecondMin'],
      retryAfterSecondsMin: Math.ceil(retryAfterSecondsMax / 3),
      retryAfterSecondsMax,
    },
  });
}

/** A loop is never busier than all the time, so 100 is not reached. */
function busyMax(config: Config): number {
  const percent = config['overload.busyPercentMax'];
  return percent === 100 ? Number.POSITIVE_INFINITY : percent / 100;
}

const SAMPLE_MS = 250;

export class LoadWatch {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #overload: Overload;
  readonly #endpoint: Endpoint;
  readonly #bus: LocalBus;
  readonly #meter = new LoopMeter();
  #timer: Timer | null = null;
  #dueMs = 0;
  #isShedding = false;

  constructor(parts: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    overload: Overload;
    endpoint: Endpoint;
    bus: LocalBus;
  }) {
    const { metrics, overload } = parts;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#overload = overload;
    this.#endpoint = parts.endpoint;
    this.#bus = parts.bus;
    metrics.gauges(
      'tandem_sip_admitted_share',
      'Part of the new calls that is let in',
      'trust',
      () => TRUST_CLASSES.map((trust) => [trust, overload.shareOf(trust)] as const),
    );
  }

  start(): void {
    if (this.#timer !== null) return;
    this.#dueMs = this.#clock.monotonicMs() + SAMPLE_MS;
    this.#timer = this.#clock.timer(SAMPLE_MS, () => this.#sample());
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#meter.close();
  }

  #sample(): void {
    this.#timer = null;
    const nowMs = this.#clock.monotonicMs();
    const { busy, delayMs: meteredMs } = this.#meter.read();
    // What came late at once after a reading is in no histogram, but in this timer.
    const delayMs = Math.max(meteredMs, nowMs - this.#dueMs);
    const fullness = Math.max(this.#endpoint.fullness, this.#bus.fullness);
    this.#overload.sample({ busy, delayMs, fullness }, nowMs);
    const { isShedding } = this.#overload;
    if (isShedding !== this.#isShedding) {
      this.#isShedding = isShedding;
      const shares = Object.fromEntries(
        TRUST_CLASSES.map((trust) => [trust, round(this.#overload.shareOf(trust))]),
      );
      const told = { busy: round(busy), delayMs: Math.round(delayMs), fullness: round(fullness) };
      if (isShedding) this.#log.warn({ ...told, shares }, 'new calls are refused for load');
      else this.#log.info(told, 'new calls are all let in again');
    }
    this.start();
  }
}

function round(share: number): number {
  return Math.round(share * 100) / 100;
}
