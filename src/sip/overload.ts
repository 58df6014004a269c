/**
 * How many new calls are let in while there is more work than can be done. Pure: samples of our own
 * load and the arrivals of new calls come in, with the time; for each arrival a verdict goes out.
 *
 * Refusing costs little and serving much, so what counts is to begin with the refusals before
 * anything waits: callers repeat what is answered late, and repetitions are work again (RFC 5390
 * §3). Above the mark the rate of calls let in goes down in proportion to the pressure, as in the
 * occupancy controls of RFC 6357 §3; below a lower mark it goes up again; between the two it stays.
 * The rate is given to known sources first, then to registered phones, then to strangers, so it is
 * strangers who are refused first. What is within a call is never asked here.
 *
 * Verdicts follow from a hash of the Call-ID: a repeated INVITE hears the same answer again.
 */
import { TRUST_CLASSES, type TrustClass } from './trust.ts';

/** What was measured since the sample before; 1 is all there is of a share. */
export interface LoadSample {
  /** Share of the time in which the event loop was at work. */
  readonly busy: number;
  /** The 99th percentile of how late the event loop came. */
  readonly delayMs: number;
  /** How full the fullest table or queue is: transactions, sessions, rows to be written. */
  readonly fullness: number;
}

export interface OverloadOptions {
  readonly busyMax: number;
  readonly delayMsMax: number;
  readonly fullnessMax: number;
  /** Of the marks above: below it more is let in again. */
  readonly calmShare: number;
  /** New calls of known sources that are never refused for load. */
  readonly callsPerSecondMin: number;
  /** How much of the rate is taken away in one sample at most, and how much is given back. */
  readonly decreaseMax: number;
  readonly increase: number;
  /** Weight of a sample in the averages, of load and of arrivals. */
  readonly weight: number;
  /** Told in Retry-After, drawn between the two. */
  readonly retryAfterSecondsMin: number;
  readonly retryAfterSecondsMax: number;
}

export const DEFAULT_OVERLOAD: OverloadOptions = {
  busyMax: 0.9,
  delayMsMax: 250,
  fullnessMax: 0.85,
  calmShare: 0.9,
  callsPerSecondMin: 20,
  decreaseMax: 0.3,
  increase: 0.06,
  weight: 0.5,
  retryAfterSecondsMin: 5,
  retryAfterSecondsMax: 15,
};

/** Above all that arrives by so much, the limit has no meaning any more. */
const OUT_OF_REACH = 1.5;

interface Arrivals {
  /** Since the last sample. */
  count: number;
  perSecond: number;
  /** The part of them that is let in now. */
  share: number;
}

export class Overload {
  readonly #options: OverloadOptions;
  /** Chosen by chance, so that nobody can pick a Call-ID that is always let in. */
  readonly #seed: number;
  readonly #arrivals: Readonly<Record<TrustClass, Arrivals>> = {
    known: { count: 0, perSecond: 0, share: 1 },
    registered: { count: 0, perSecond: 0, share: 1 },
    stranger: { count: 0, perSecond: 0, share: 1 },
  };
  /** New calls a second that are let in; infinite while nothing is held back. */
  #limitPerSecond = Number.POSITIVE_INFINITY;
  #admitted = 0;
  #admittedPerSecond = 0;
  #busy = 0;
  #sampledMs: number | null = null;

  constructor(parts: { options: OverloadOptions; seed: string }) {
    this.#options = parts.options;
    this.#seed = hash(parts.seed, OFFSET);
  }

  /** Whether anybody is refused now. */
  get isShedding(): boolean {
    return TRUST_CLASSES.some((trust) => this.#arrivals[trust].share < 1);
  }

  /** Of the new calls of a class, the part that is let in. */
  shareOf(trust: TrustClass): number {
    return this.#arrivals[trust].share;
  }

  /** A new call: whether it is let in. `key` is its Call-ID. */
  admits(trust: TrustClass, key: string): boolean {
    const arrivals = this.#arrivals[trust];
    arrivals.count += 1;
    const isIn = arrivals.share >= 1 || this.#place(key) < arrivals.share;
    if (isIn) this.#admitted += 1;
    return isIn;
  }

  /** For who is refused: the same again for the same call, another for the next. */
  retryAfterSeconds(key: string): number {
    const { retryAfterSecondsMin: min, retryAfterSecondsMax: max } = this.#options;
    return min + Math.floor(this.#place(`${key} later`) * (max - min + 1));
  }

  /** Once each quarter of a second or so. */
  sample(sample: LoadSample, nowMs: number): void {
    const elapsedMs = this.#sampledMs === null ? 0 : nowMs - this.#sampledMs;
    this.#sampledMs = nowMs;
    if (elapsedMs <= 0) return;
    this.#average(elapsedMs / 1000);
    const { weight, busyMax, delayMsMax, fullnessMax, calmShare } = this.#options;
    this.#busy += weight * (sample.busy - this.#busy);
    const pressure = Math.max(
      this.#busy / busyMax,
      sample.delayMs / delayMsMax,
      sample.fullness / fullnessMax,
    );
    if (pressure > 1) this.#lower(pressure);
    else if (pressure < calmShare) this.#raise();
    this.#divide();
  }

  #average(seconds: number): void {
    const { weight } = this.#options;
    for (const trust of TRUST_CLASSES) {
      const arrivals = this.#arrivals[trust];
      arrivals.perSecond += weight * (arrivals.count / seconds - arrivals.perSecond);
      arrivals.count = 0;
    }
    this.#admittedPerSecond += weight * (this.#admitted / seconds - this.#admittedPerSecond);
    this.#admitted = 0;
  }

  #lower(pressure: number): void {
    const { decreaseMax, callsPerSecondMin } = this.#options;
    // What is let in may be less than the limit: then it is what is too much.
    const from = Math.min(this.#limitPerSecond, this.#admittedPerSecond * OUT_OF_REACH);
    const kept = Math.max(1 - decreaseMax, 1 / pressure);
    this.#limitPerSecond = Math.max(callsPerSecondMin, from * kept);
  }

  #raise(): void {
    if (this.#limitPerSecond === Number.POSITIVE_INFINITY) return;
    this.#limitPerSecond = this.#limitPerSecond * (1 + this.#options.increase) + 1;
    let offered = 0;
    for (const trust of TRUST_CLASSES) offered += this.#arrivals[trust].perSecond;
    if (this.#limitPerSecond > OUT_OF_REACH * Math.max(offered, 1)) {
      this.#limitPerSecond = Number.POSITIVE_INFINITY;
    }
  }

  /** The most trusted first. */
  #divide(): void {
    let left = this.#limitPerSecond;
    for (const trust of TRUST_CLASSES) {
      const arrivals = this.#arrivals[trust];
      const { perSecond } = arrivals;
      arrivals.share = left >= perSecond ? 1 : left / perSecond;
      left = Math.max(0, left - perSecond);
    }
  }

  #place(key: string): number {
    return hash(key, this.#seed) / 2 ** 32;
  }
}

const OFFSET = 2_166_136_261;

/** FNV-1a, with the last bits spread over all: not a secret, only even. */
function hash(text: string, seed: number): number {
  let value = seed;
  for (let i = 0; i < text.length; i += 1) {
    value = Math.imul(value ^ text.charCodeAt(i), 16_777_619);
  }
  value = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  value = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  return (value ^ (value >>> 16)) >>> 0;
}
