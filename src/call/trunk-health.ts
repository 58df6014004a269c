/**
 * How the gateways of trunks fare, as seen from this node: by OPTIONS at an interval, and by the
 * calls that are really tried. A gateway that does not answer its probes is down; one that fails
 * too many calls rests for a while, whatever it says to OPTIONS. Both are tried last, never not at
 * all: that is `trunk-choice.ts`'s rule. Says nothing about registrations and sends nothing itself.
 */
import type { Subject } from '../bus/bus.ts';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { TrunkSid } from '../core/sid.ts';
import type { PingResult } from '../sip/ping.ts';
import type { HealthPolicy } from '../store/trunk-policy.ts';

const GATEWAY_STATES = ['up', 'unknown', 'resting', 'down'] as const;
export type GatewayState = (typeof GATEWAY_STATES)[number];

/** A gateway, as orders and reports name it. */
export interface GatewayRef {
  readonly trunkSid: TrunkSid;
  readonly uri: string;
}

/** How a gateway did; with how long it asked to be left alone, or 0. */
export type GatewayReport = (
  gateway: GatewayRef,
  isGood: boolean,
  reason: string,
  restMs?: number,
) => void;

export interface WatchedTrunk {
  readonly sid: TrunkSid;
  readonly policy: HealthPolicy;
  readonly gateways: readonly { readonly uri: string }[];
}

/** One gateway as it is told: plain data. */
export interface GatewayHealth {
  readonly uri: string;
  readonly state: GatewayState;
  /** Wall clock. */
  readonly sinceMs: number;
  readonly reason: string;
  readonly lastProbe: {
    readonly atMs: number;
    readonly isGood: boolean;
    /** 0 when there was no answer. */
    readonly status: number;
    readonly durationMs: number;
  } | null;
  /** Calls tried, and failed, in the present window. */
  readonly tries: number;
  readonly failures: number;
}

export interface HealthChange extends GatewayRef {
  readonly atMs: number;
  readonly from: GatewayState;
  readonly to: GatewayState;
  readonly reason: string;
}

/** Where changes are told, for whoever raises an alarm. */
export const TRUNK_HEALTH = 'trunk.health' as Subject<HealthChange>;

export interface TrunkHealthOptions {
  /** Probes under way at once. */
  readonly probesMax: number;
  /** How much of the interval chance adds or takes away, so that probes do not come in step. */
  readonly jitter: number;
  /** After start or change a gateway is asked within this time. */
  readonly firstProbeMsMax: number;
  /** Live tries are counted over this long. */
  readonly windowMs: number;
  /** The most that a Retry-After is heeded. */
  readonly restMsMax: number;
}

export const DEFAULT_TRUNK_HEALTH: TrunkHealthOptions = {
  probesMax: 16,
  jitter: 0.1,
  firstProbeMsMax: 1_000,
  windowMs: 60_000,
  restMsMax: 300_000,
};

interface Gateway {
  readonly ref: GatewayRef;
  policy: HealthPolicy;
  /** What the probes say; 'unknown' before the first. */
  probed: 'up' | 'down' | 'unknown';
  /** Probes in a row that spoke against `probed`. */
  contrary: number;
  restUntilMs: number;
  shown: GatewayState;
  sinceMs: number;
  reason: string;
  lastProbe: GatewayHealth['lastProbe'];
  tries: number;
  failures: number;
  windowEndMs: number;
  timer: Timer | null;
  restTimer: Timer | null;
}

export interface TrunkHealthParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly probe: (uri: string) => Promise<PingResult>;
  readonly onChange?: (change: HealthChange) => void;
  readonly options?: Partial<TrunkHealthOptions>;
}

export class TrunkHealth {
  readonly #parts: TrunkHealthParts;
  readonly #options: TrunkHealthOptions;
  readonly #gateways = new Map<string, Gateway>();
  /** Due, and waiting for a free place. */
  readonly #due: Gateway[] = [];
  readonly #probes;
  readonly #changes;
  #probing = 0;
  #isRunning = false;

  constructor(parts: TrunkHealthParts) {
    this.#parts = parts;
    this.#options = { ...DEFAULT_TRUNK_HEALTH, ...parts.options };
    const { metrics } = parts;
    this.#probes = metrics.counter('tandem_trunk_probes_total', 'OPTIONS sent to gateways', [
      'outcome',
    ]);
    this.#changes = metrics.counter('tandem_trunk_changes_total', 'Changes of a gateway’s state', [
      'state',
    ]);
    for (const state of GATEWAY_STATES) {
      metrics.gauge(`tandem_trunk_gateways_${state}`, `Gateways that are ${state}`, () =>
        this.#count(state),
      );
    }
  }

  start(): void {
    this.#isRunning = true;
    for (const gateway of this.#gateways.values()) this.#schedule(gateway, true);
  }

  close(): void {
    this.#isRunning = false;
    for (const gateway of this.#gateways.values()) stop(gateway);
    this.#due.length = 0;
  }

  /** The trunks there are now; what is known of a gateway that stays is kept. */
  watch(trunks: Iterable<WatchedTrunk>): void {
    const gone = new Set(this.#gateways.keys());
    for (const { sid, policy, gateways } of trunks) {
      for (const { uri } of gateways) {
        const key = keyOf({ trunkSid: sid, uri });
        gone.delete(key);
        this.#keep(key, { trunkSid: sid, uri }, policy);
      }
    }
    for (const key of gone) {
      const gateway = this.#gateways.get(key);
      if (gateway !== undefined) stop(gateway);
      this.#gateways.delete(key);
    }
  }

  stateOf(ref: GatewayRef): GatewayState {
    return this.#gateways.get(keyOf(ref))?.shown ?? 'unknown';
  }

  /** How the gateways of a trunk fare, in the order of its row. */
  view(sid: TrunkSid): readonly GatewayHealth[] {
    const found: GatewayHealth[] = [];
    for (const gateway of this.#gateways.values()) {
      if (gateway.ref.trunkSid === sid) found.push(viewOf(gateway));
    }
    return found;
  }

  /** A call was tried there: whether the gateway did its work, whatever the callee said. */
  report(ref: GatewayRef, isGood: boolean, reason: string, restMs = 0): void {
    const gateway = this.#gateways.get(keyOf(ref));
    if (gateway === undefined) return;
    const nowMs = this.#parts.clock.monotonicMs();
    if (nowMs >= gateway.windowEndMs) this.#newWindow(gateway, nowMs);
    gateway.tries += 1;
    if (isGood) {
      // Who takes calls is up, whatever it thinks of OPTIONS.
      gateway.probed = 'up';
      gateway.contrary = 0;
      this.#show(gateway, `a call was taken: ${reason}`);
      return;
    }
    gateway.failures += 1;
    if (restMs > 0) {
      this.#rest(gateway, Math.min(restMs, this.#options.restMsMax), reason);
      return;
    }
    const { failureRateMax, triesMin, restS } = gateway.policy;
    const rate = gateway.failures / gateway.tries;
    if (failureRateMax >= 1 || gateway.tries < triesMin || rate < failureRateMax) return;
    const { failures, tries } = gateway;
    this.#newWindow(gateway, nowMs);
    this.#rest(gateway, restS * 1000, `${failures} of ${tries} calls failed, the last: ${reason}`);
  }

  /** No shorter than it rests already. */
  #rest(gateway: Gateway, durationMs: number, reason: string): void {
    const untilMs = this.#parts.clock.monotonicMs() + durationMs;
    if (untilMs <= gateway.restUntilMs) return;
    gateway.restUntilMs = untilMs;
    gateway.restTimer?.cancel();
    gateway.restTimer = this.#parts.clock.timer(durationMs, () => {
      this.#show(gateway, 'has rested');
    });
    this.#show(gateway, reason);
  }

  #keep(key: string, ref: GatewayRef, policy: HealthPolicy): void {
    const known = this.#gateways.get(key);
    if (known !== undefined) {
      const isOther = known.policy.optionsIntervalS !== policy.optionsIntervalS;
      known.policy = policy;
      if (!isOther) return;
      known.timer?.cancel();
      // Nobody asks any more, so nobody can say that it came back.
      if (policy.optionsIntervalS === 0) {
        known.probed = 'unknown';
        this.#show(known, 'is not probed any more');
      }
      this.#schedule(known, true);
      return;
    }
    const gateway: Gateway = {
      ref,
      policy,
      probed: 'unknown',
      contrary: 0,
      restUntilMs: Number.NEGATIVE_INFINITY,
      shown: 'unknown',
      sinceMs: this.#parts.clock.nowMs(),
      reason: 'not asked yet',
      lastProbe: null,
      tries: 0,
      failures: 0,
      windowEndMs: Number.NEGATIVE_INFINITY,
      timer: null,
      restTimer: null,
    };
    this.#gateways.set(key, gateway);
    this.#schedule(gateway, true);
  }

  #schedule(gateway: Gateway, isFirst: boolean): void {
    const intervalMs = gateway.policy.optionsIntervalS * 1000;
    if (!this.#isRunning || intervalMs === 0 || !this.#isWatched(gateway)) return;
    const { clock } = this.#parts;
    const { jitter, firstProbeMsMax } = this.#options;
    const waitMs = isFirst
      ? clock.random() * Math.min(intervalMs, firstProbeMsMax)
      : intervalMs * (1 + jitter * (2 * clock.random() - 1));
    gateway.timer?.cancel();
    gateway.timer = clock.timer(waitMs, () => {
      this.#due.push(gateway);
      this.#probeDue();
    });
  }

  #probeDue(): void {
    while (this.#isRunning && this.#probing < this.#options.probesMax) {
      const gateway = this.#due.shift();
      if (gateway === undefined) return;
      if (!this.#isWatched(gateway)) continue;
      this.#probing += 1;
      this.#probe(gateway)
        .catch((thrown: unknown) => {
          this.#parts.log.error({ err: asGatewayError(thrown) }, 'gateway not probed');
        })
        .finally(() => {
          this.#probing -= 1;
          this.#schedule(gateway, false);
          this.#probeDue();
        });
    }
  }

  async #probe(gateway: Gateway): Promise<void> {
    const { status, durationMs, problem } = await this.#parts.probe(gateway.ref.uri);
    if (!this.#isWatched(gateway) || !this.#isRunning) return;
    // RFC 3261 §11: any final answer says that somebody is there. That it has no time (503), or
    // that what is behind it has none (502, 504, 408), says that calls had better go elsewhere.
    const isGood = status !== 0 && status !== 408 && (status < 502 || status > 504);
    this.#probes.inc({ outcome: isGood ? 'good' : 'bad' });
    const atMs = this.#parts.clock.nowMs();
    gateway.lastProbe = { atMs, isGood, status, durationMs };
    const verdict = isGood ? 'up' : 'down';
    if (verdict === gateway.probed) {
      gateway.contrary = 0;
      return;
    }
    gateway.contrary += 1;
    const { failuresToDown, successesToUp } = gateway.policy;
    if (gateway.contrary < (isGood ? successesToUp : failuresToDown)) return;
    gateway.probed = verdict;
    gateway.contrary = 0;
    this.#show(gateway, status === 0 ? `OPTIONS: ${problem}` : `OPTIONS answered ${status}`);
  }

  #isWatched(gateway: Gateway): boolean {
    return this.#gateways.get(keyOf(gateway.ref)) === gateway;
  }

  #newWindow(gateway: Gateway, nowMs: number): void {
    gateway.tries = 0;
    gateway.failures = 0;
    gateway.windowEndMs = nowMs + this.#options.windowMs;
  }

  /** Tells when the state is another than was told last. */
  #show(gateway: Gateway, reason: string): void {
    const { clock, log, onChange } = this.#parts;
    const isResting = clock.monotonicMs() < gateway.restUntilMs;
    const to = gateway.probed === 'down' ? 'down' : isResting ? 'resting' : gateway.probed;
    const from = gateway.shown;
    if (to === from) return;
    gateway.shown = to;
    gateway.sinceMs = clock.nowMs();
    gateway.reason = reason;
    this.#changes.inc({ state: to });
    const isBad = to === 'down' || to === 'resting';
    log[isBad ? 'warn' : 'info']({ ...gateway.ref, from, to, reason }, 'gateway changed');
    onChange?.({ ...gateway.ref, atMs: gateway.sinceMs, from, to, reason });
  }

  #count(state: GatewayState): number {
    let count = 0;
    for (const { shown } of this.#gateways.values()) if (shown === state) count += 1;
    return count;
  }
}

function keyOf({ trunkSid, uri }: GatewayRef): string {
  return `${trunkSid} ${uri}`;
}

function stop(gateway: Gateway): void {
  gateway.timer?.cancel();
  gateway.restTimer?.cancel();
}

function viewOf({ ref, shown, sinceMs, reason, ...rest }: Gateway): GatewayHealth {
  const { lastProbe, tries, failures } = rest;
  return { uri: ref.uri, state: shown, sinceMs, reason, lastProbe, tries, failures };
}
