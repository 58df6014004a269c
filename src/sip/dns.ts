/**
 * What DNS says, remembered: NAPTR, SRV and address records, each for as long as it may be, with
 * one question in flight for a name and a bound on everything. What a record means is not known
 * here (`resolver.ts`), nor how a question is put (`dns-source.ts`).
 *
 * An answer outlives its time to live: while DNS is silent or broken the last good one is used
 * (RFC 8767), so that an established carrier is not lost with a resolver. A call hardly waits for
 * that: where there is an old answer it is taken after `patienceMs`, and at once while DNS is known
 * to be down; the new one is taken in when it comes.
 */
import { LRUCache } from 'lru-cache';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';

export interface SrvRecord {
  /** '' where the service is said not to exist (RFC 2782: a target of "."). */
  readonly name: string;
  readonly port: number;
  readonly priority: number;
  readonly weight: number;
}

export interface NaptrRecord {
  readonly order: number;
  readonly preference: number;
  readonly flags: string;
  readonly service: string;
  readonly regexp: string;
  readonly replacement: string;
}

/** An answer; no records: the name, or such a record of it, does not exist. */
export interface Found<R> {
  readonly records: readonly R[];
  /** Null where it is not told: see `serviceTtlMs`. */
  readonly ttlMs: number | null;
}

/** Puts questions to DNS. Rejects when there is no answer, or none that says anything. */
export interface DnsSource {
  naptr(name: string): Promise<Found<NaptrRecord>>;
  srv(name: string): Promise<Found<SrvRecord>>;
  addresses(name: string, family: 4 | 6): Promise<Found<string>>;
  /** DNS does not answer: who knows where it is may look again. */
  reset?(): void;
}

export interface DnsOptions {
  readonly queryTimeoutMs: number;
  /** How long a new answer is waited for where there is an old one. */
  readonly patienceMs: number;
  /** Questions under way, of all calls together. */
  readonly queriesMax: number;
  /** Names with a kind of record each. */
  readonly entriesMax: number;
  /** Records of one answer that are kept. */
  readonly recordsMax: number;
  /** Of an answer whose time to live is not told: node:dns keeps that of SRV and NAPTR. */
  readonly serviceTtlMs: number;
  /** Bounds on what is told: 0 would ask for each call, a year would never see a change. */
  readonly ttlMinMs: number;
  readonly ttlMaxMs: number;
  /** How long it is believed that there is no such record. */
  readonly negativeTtlMs: number;
  /** How long it is remembered that there was no answer, and DNS taken for slow. */
  readonly failureMs: number;
  /** How long the last good answer serves when there is no new one. */
  readonly staleMs: number;
}

export const DEFAULT_DNS: DnsOptions = {
  queryTimeoutMs: 2000,
  patienceMs: 500,
  queriesMax: 1000,
  entriesMax: 16_384,
  recordsMax: 32,
  serviceTtlMs: 60_000,
  ttlMinMs: 1000,
  ttlMaxMs: 3_600_000,
  negativeTtlMs: 30_000,
  failureMs: 5000,
  staleMs: 86_400_000,
};

/** What one resolution may ask, and what became of it. */
export interface Inquiry {
  /** Questions that may still be put; what is known already costs none. */
  queriesLeft: number;
  /** Take the last good answer even where DNS says now that there is none. */
  isDistrustful: boolean;
  /** What went wrong last; '' while nothing has. */
  problem: string;
}

interface Entry<R> {
  readonly name: string;
  /** The last good ones. */
  records: readonly R[];
  staleUntilMs: number;
  /** The last word; `failed` when there was none. */
  verdict: 'found' | 'nothing' | 'failed';
  problem: string;
  freshUntilMs: number;
  pending: Promise<void> | null;
}

type Entries<R> = LRUCache<string, Entry<R>>;

export class DnsCache {
  readonly #clock: Clock;
  readonly #source: DnsSource;
  readonly #log: Log | null;
  readonly #options: DnsOptions;
  readonly #naptr: Entries<NaptrRecord>;
  readonly #srv: Entries<SrvRecord>;
  readonly #v4: Entries<string>;
  readonly #v6: Entries<string>;
  #inFlight = 0;
  /** Until then nobody waits who has an old answer: DNS was just seen to be slow or silent. */
  #impatientUntilMs = 0;
  #failuresInRow = 0;
  #resetAtMs = Number.NEGATIVE_INFINITY;
  #isDown = false;
  #saidAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: { clock: Clock; source: DnsSource; log?: Log; options: DnsOptions }) {
    this.#clock = options.clock;
    this.#source = options.source;
    this.#log = options.log ?? null;
    this.#options = options.options;
    const max = Math.ceil(options.options.entriesMax / 4);
    this.#naptr = new LRUCache({ max });
    this.#srv = new LRUCache({ max });
    this.#v4 = new LRUCache({ max });
    this.#v6 = new LRUCache({ max });
  }

  /** Never rejects, as the others: no answer is no records and a `problem`. */
  naptr(name: string, inquiry: Inquiry): Promise<readonly NaptrRecord[]> {
    return this.#records(this.#naptr, name, inquiry, () => this.#source.naptr(name));
  }

  srv(name: string, inquiry: Inquiry): Promise<readonly SrvRecord[]> {
    return this.#records(this.#srv, name, inquiry, () => this.#source.srv(name));
  }

  addresses(name: string, family: 4 | 6, inquiry: Inquiry): Promise<readonly string[]> {
    const entries = family === 4 ? this.#v4 : this.#v6;
    return this.#records(entries, name, inquiry, () => this.#source.addresses(name, family));
  }

  async #records<R>(
    entries: Entries<R>,
    name: string,
    inquiry: Inquiry,
    ask: () => Promise<Found<R>>,
  ): Promise<readonly R[]> {
    const entry = entries.get(name) ?? newEntry<R>(name);
    entries.set(name, entry);
    const nowMs = this.#clock.monotonicMs();
    if (entry.freshUntilMs > nowMs) return this.#said(entry, inquiry);
    if (entry.pending === null) {
      if (!this.#mayAsk(inquiry)) return this.#said(entry, inquiry);
      inquiry.queriesLeft -= 1;
      entry.pending = this.#refresh(entry, ask);
    }
    if (entry.records.length === 0 || entry.staleUntilMs <= nowMs) await entry.pending;
    else await this.#patiently(entry.pending);
    return this.#said(entry, inquiry);
  }

  #mayAsk(inquiry: Inquiry): boolean {
    if (inquiry.queriesLeft <= 0) inquiry.problem = 'it takes too many DNS queries';
    else if (this.#inFlight >= this.#options.queriesMax) inquiry.problem = 'DNS is overloaded';
    else return true;
    return false;
  }

  /** The last word, or the last good one where it serves instead. */
  #said<R>(entry: Entry<R>, inquiry: Inquiry): readonly R[] {
    const { verdict, records, staleUntilMs, problem } = entry;
    if (verdict === 'failed' && problem !== '') inquiry.problem = problem;
    if (verdict === 'nothing' && !inquiry.isDistrustful) return [];
    return staleUntilMs > this.#clock.monotonicMs() ? records : [];
  }

  async #patiently(pending: Promise<void>): Promise<void> {
    if (this.#impatientUntilMs > this.#clock.monotonicMs()) return;
    const { patienceMs, failureMs } = this.#options;
    const isThere = await this.#within(
      pending.then(() => true),
      patienceMs,
    );
    if (!isThere) this.#impatientUntilMs = this.#clock.monotonicMs() + failureMs;
  }

  /** Never rejects. */
  async #refresh<R>(entry: Entry<R>, ask: () => Promise<Found<R>>): Promise<void> {
    const { queryTimeoutMs, negativeTtlMs, failureMs, staleMs, recordsMax } = this.#options;
    let found: Found<R> | null = null;
    try {
      found = await this.#inTime(ask, queryTimeoutMs);
      this.#answered();
    } catch (thrown) {
      const { details, message } = asGatewayError(thrown);
      entry.problem = String(details.problem ?? message);
      this.#unanswered(entry.problem);
    }
    const nowMs = this.#clock.monotonicMs();
    entry.pending = null;
    if (found === null) {
      entry.verdict = 'failed';
      entry.freshUntilMs = nowMs + failureMs;
    } else if (found.records.length === 0) {
      entry.verdict = 'nothing';
      entry.freshUntilMs = nowMs + negativeTtlMs;
    } else {
      const freshMs = this.#ttlMs(found.ttlMs);
      entry.verdict = 'found';
      entry.records = found.records.slice(0, recordsMax);
      entry.freshUntilMs = nowMs + freshMs;
      entry.staleUntilMs = nowMs + Math.max(freshMs, staleMs);
    }
  }

  #ttlMs(told: number | null): number {
    const { ttlMinMs, ttlMaxMs, serviceTtlMs } = this.#options;
    return Math.min(ttlMaxMs, Math.max(ttlMinMs, told ?? serviceTtlMs));
  }

  /** What does not answer in time still counts as under way until its source has given it up. */
  async #inTime<R>(ask: () => Promise<Found<R>>, timeoutMs: number): Promise<Found<R>> {
    this.#inFlight += 1;
    const answer = ask().finally(() => {
      this.#inFlight -= 1;
    });
    const found = await this.#within(answer, timeoutMs);
    if (found === null) {
      throw new GatewayError('SIP_TRANSPORT', { peer: 'DNS', problem: 'no answer in time' });
    }
    return found;
  }

  /** Null when it takes longer. */
  #within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | null> {
    return new Promise((resolve, reject) => {
      const timer = this.#clock.timer(timeoutMs, () => resolve(null));
      promise.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  /** One name that cannot be had is that name's trouble; several in a row are ours. */
  #unanswered(problem: string): void {
    this.#failuresInRow += 1;
    if (this.#failuresInRow < FAILURES_IN_ROW) return;
    const nowMs = this.#clock.monotonicMs();
    this.#impatientUntilMs = nowMs + this.#options.failureMs;
    if (nowMs >= this.#resetAtMs) {
      this.#resetAtMs = nowMs + this.#options.failureMs;
      this.#source.reset?.();
    }
    if (this.#isDown || nowMs - this.#saidAtMs < SAID_AGAIN_MS) return;
    this.#isDown = true;
    this.#saidAtMs = nowMs;
    this.#log?.warn({ problem }, 'DNS does not answer; old answers are used');
  }

  #answered(): void {
    this.#failuresInRow = 0;
    this.#impatientUntilMs = 0;
    if (this.#isDown) this.#log?.info({}, 'DNS answers again');
    this.#isDown = false;
  }
}

/** Questions without an answer, one after another, that make DNS down. */
const FAILURES_IN_ROW = 3;
/** Who dials names that cannot be had must not fill the log. */
const SAID_AGAIN_MS = 60_000;

function newEntry<R>(name: string): Entry<R> {
  return {
    name,
    records: [],
    staleUntilMs: 0,
    verdict: 'failed',
    problem: '',
    freshUntilMs: 0,
    pending: null,
  };
}
