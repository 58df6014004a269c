/**
 * What a message may cost, by the trust its source has, asked before it is parsed. Known sources
 * are never held up: a flood cannot hurt a carrier. A registered flow has a rate of its own.
 * Strangers have little:
 *
 * - A datagram flow gets one stateless answer, and is remembered as answered for the life of a
 *   client transaction: other requests are dropped unread so long, at whatever rate they come. The
 *   very request that was answered may have lost its answer: it gets it once more after a window.
 *   Credentials with the nonce of our last challenge to the flow are an attempt at a proof, by
 *   someone who reads what we send there: they pass.
 * - Who keeps on without proving anything is not heard at all for a while, and whoever names itself
 *   as a known scanner for longer, with no answer ever.
 * - An address may be answered so often, over all its ports; and so may all strangers together.
 *
 * What belongs to a call or transaction of ours passes whoever sends it. No timer, no transaction;
 * one entry a flow in one bounded table, and none at all once strangers are over their total.
 */
import { type Log, redact } from '../core/log.ts';
import { answersChallenge, isAck, isResponse, peekUserAgent, requestPrint } from './peek.ts';
import type { PeerAddress } from './peer.ts';
import { SourceLimit } from './source-limit.ts';
import { flowKey, type Trust } from './trust.ts';

export interface GateOptions {
  /** Requests of a stranger's address that may be answered. */
  readonly strangersPerSecond: number;
  readonly strangersBurst: number;
  /** Addresses, and flows, that are remembered. */
  readonly strangersSourcesMax: number;
  /** Messages of all strangers together that are parsed. */
  readonly strangersTotalPerSecond: number;
  /** After so long the request that was answered is answered once more. */
  readonly strangersWindowMs: number;
  /** One request of a flow that does not answer a challenge is answered in so long. */
  readonly strangersAnsweredMs: number;
  /** Requests without a proof after which a flow is silenced; one is forgiven each window. */
  readonly strangersStrikesMax: number;
  readonly strangersSilenceMs: number;
  /** Words in a User-Agent, lower case, that tell a scanner. */
  readonly scanners: readonly string[];
  readonly scannerSilenceMs: number;
  /** Requests of a registered flow, in-dialog ones apart. */
  readonly registeredPerSecond: number;
  readonly registeredBurst: number;
  /** Lines a minute about who was silenced. */
  readonly linesPerMinuteMax: number;
}

/** Tools that are seen at every open port 5060, by what they call themselves. */
const SCANNERS = [
  ...['friendly-scanner', 'friendly-request', 'sipvicious', 'sipcli', 'pplsip', 'sip-scan'],
  ...['sundayddr', 'sivus', 'siparmyknife', 'vaxsipuseragent', 'vaxipuseragent', 'nm@nmap'],
  ...['sipptk', 'scansip', 'mr.sip'],
];

export const DEFAULT_GATE: GateOptions = {
  strangersPerSecond: 50,
  strangersBurst: 100,
  strangersSourcesMax: 16_384,
  strangersTotalPerSecond: 1000,
  strangersWindowMs: 4000,
  strangersAnsweredMs: 32_000,
  strangersStrikesMax: 10,
  strangersSilenceMs: 60_000,
  scanners: SCANNERS,
  scannerSilenceMs: 600_000,
  registeredPerSecond: 50,
  registeredBurst: 200,
  linesPerMinuteMax: 60,
};

/** Why a message was dropped unread: a closed set, as it is a metric's label. */
export const DROP_REASONS = [
  'answered',
  'rate',
  'registered',
  'scanner',
  'silenced',
  'total',
] as const;
export type DropReason = (typeof DROP_REASONS)[number];

interface Flow {
  /** When the one request was let through. */
  answeredMs: number;
  /** Which one that was: `requestPrint`. */
  answered: number;
  /** It was answered once more. */
  isRepeated: boolean;
  /** Of our last challenge; '' when there was none. */
  nonce: string;
  strikes: number;
  struckMs: number;
  silentUntilMs: number;
}

const ALL = 'all';
const MINUTE_MS = 60_000;

export class Gate {
  readonly #trust: Trust;
  readonly #log: Log;
  readonly #options: GateOptions;
  readonly #expects: (text: string) => boolean;
  readonly #onDrop: (reason: DropReason) => void;
  readonly #flows = new Map<string, Flow>();
  readonly #addresses: SourceLimit;
  readonly #registered: SourceLimit;
  readonly #total: SourceLimit;
  #minuteMs = Number.NEGATIVE_INFINITY;
  #lines = 0;

  constructor(parts: {
    trust: Trust;
    log: Log;
    options: GateOptions;
    /** Whether a message belongs to something that we take part in. */
    expects: (text: string) => boolean;
    onDrop: (reason: DropReason) => void;
  }) {
    const { options } = parts;
    this.#trust = parts.trust;
    this.#log = parts.log;
    this.#options = options;
    this.#expects = parts.expects;
    this.#onDrop = parts.onDrop;
    const sourcesMax = options.strangersSourcesMax;
    const { strangersPerSecond: perSecond, strangersBurst: burst } = options;
    this.#addresses = new SourceLimit({ perSecond, burst, sourcesMax });
    this.#registered = new SourceLimit({
      perSecond: options.registeredPerSecond,
      burst: options.registeredBurst,
      sourcesMax,
    });
    const total = options.strangersTotalPerSecond;
    this.#total = new SourceLimit({ perSecond: total, burst: total, sourcesMax: 1 });
  }

  /** Entries held, of strangers and of registered flows. */
  get size(): number {
    return this.#flows.size + this.#addresses.size + this.#registered.size;
  }

  /** Whether a message is parsed. False: it is dropped, counted, and forgotten. */
  admits(text: string, peer: PeerAddress, nowMs: number): boolean {
    const trust = this.#trust.classOf(peer, nowMs);
    if (trust === 'known') return true;
    if (trust === 'registered') {
      // An address with its port is no address, so that IPv6 phones do not share one bucket.
      if (this.#registered.take(`${peer.address.replaceAll(':', '.')} ${peer.port}`, nowMs)) {
        return true;
      }
      return this.#expects(text) || this.#drop('registered');
    }
    if (this.#expects(text)) return true;
    // Nothing is ever said to a response, so it costs its parsing alone.
    if (isResponse(text)) return this.#total.take(ALL, nowMs) || this.#drop('total');
    const reason = this.#judge(text, peer, nowMs);
    return reason === null || this.#drop(reason);
  }

  /** Somebody there has proven whose they are: nothing is held against them. */
  proved(peer: PeerAddress, nowMs: number): void {
    this.#trust.proved(peer, nowMs);
    this.#flows.delete(flowKey(peer));
  }

  /** Somebody there is asked for a proof, with that nonce. */
  challenged(peer: PeerAddress, nonce: string): void {
    const flow = this.#flows.get(flowKey(peer));
    if (flow !== undefined) flow.nonce = nonce;
  }

  #judge(text: string, peer: PeerAddress, nowMs: number): DropReason | null {
    const key = flowKey(peer);
    const flow = this.#flows.get(key);
    if (flow !== undefined && nowMs < flow.silentUntilMs) return 'silenced';
    // The ACK of what was refused without state: no state to find, nothing to say.
    if (isAck(text)) return 'answered';
    if (flow !== undefined && this.#strike(flow, peer, nowMs)) return 'silenced';
    // A connection's source is certain, nothing is repeated on it, and silence would be a fault.
    const isBare = peer.transport === 'udp' && !answersChallenge(text, flow?.nonce ?? '');
    const print = isBare ? requestPrint(text) : 0;
    if (isBare && flow !== undefined && !this.#isDue(flow, print, nowMs)) return 'answered';
    if (!this.#total.take(ALL, nowMs)) return 'total';
    if (!this.#addresses.take(peer.address, nowMs)) return 'rate';
    const kept = flow ?? this.#remember(key, nowMs);
    if (this.#isScanner(text)) {
      this.#silence(kept, peer, nowMs, 'scanner');
      return 'scanner';
    }
    if (isBare) this.#answered(kept, print, nowMs);
    return null;
  }

  #isDue(flow: Flow, print: number, nowMs: number): boolean {
    const { strangersWindowMs, strangersAnsweredMs } = this.#options;
    const agoMs = nowMs - flow.answeredMs;
    if (agoMs >= strangersAnsweredMs) return true;
    return !flow.isRepeated && print === flow.answered && agoMs >= strangersWindowMs;
  }

  #answered(flow: Flow, print: number, nowMs: number): void {
    if (nowMs - flow.answeredMs < this.#options.strangersAnsweredMs) {
      flow.isRepeated = true;
      return;
    }
    flow.answeredMs = nowMs;
    flow.answered = print;
    flow.isRepeated = false;
  }

  /** True when that was one too many. */
  #strike(flow: Flow, peer: PeerAddress, nowMs: number): boolean {
    const { strangersWindowMs, strangersStrikesMax } = this.#options;
    const forgiven = (nowMs - flow.struckMs) / strangersWindowMs;
    flow.strikes = Math.max(0, flow.strikes - forgiven) + 1;
    flow.struckMs = nowMs;
    if (flow.strikes <= strangersStrikesMax) return false;
    this.#silence(flow, peer, nowMs, 'silenced');
    return true;
  }

  #silence(flow: Flow, peer: PeerAddress, nowMs: number, reason: DropReason): void {
    const { strangersSilenceMs, scannerSilenceMs, linesPerMinuteMax } = this.#options;
    flow.silentUntilMs = nowMs + (reason === 'scanner' ? scannerSilenceMs : strangersSilenceMs);
    flow.strikes = 0;
    if (nowMs - this.#minuteMs >= MINUTE_MS) {
      this.#minuteMs = nowMs;
      this.#lines = 0;
    }
    this.#lines += 1;
    if (this.#lines > linesPerMinuteMax) return;
    const source = redact(peer.address, 7);
    const forMs = flow.silentUntilMs - nowMs;
    this.#log.info({ source, reason, forMs }, 'stranger is not heard any more');
  }

  #remember(key: string, nowMs: number): Flow {
    if (this.#flows.size >= this.#options.strangersSourcesMax) {
      const oldest = this.#flows.keys().next().value;
      if (oldest !== undefined) this.#flows.delete(oldest);
    }
    const never = Number.NEGATIVE_INFINITY;
    const flow: Flow = {
      ...{ answeredMs: never, answered: 0, isRepeated: false, nonce: '' },
      ...{ strikes: 1, struckMs: nowMs, silentUntilMs: never },
    };
    this.#flows.set(key, flow);
    return flow;
  }

  #isScanner(text: string): boolean {
    const name = peekUserAgent(text).toLowerCase();
    return name !== '' && this.#options.scanners.some((word) => name.includes(word));
  }

  #drop(reason: DropReason): false {
    this.#onDrop(reason);
    return false;
  }
}
