/**
 * Registering somewhere else (RFC 3261 §10.2): one address of record at one registrar that several
 * gateways lead to. Refreshes before it expires, answers challenges, takes a longer time when 423
 * asks for it, goes to the next gateway when one fails, and waits longer and longer, with jitter,
 * when all do. Which trunks register is `call/registration.ts`'s.
 */
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import { secondsOf } from './binding.ts';
import { CallCredentials, type Credentials } from './challenge.ts';
import type { ChallengeAnswer } from './invite-client.ts';
import {
  type HeaderField,
  type OutgoingRequest,
  parseNameAddr,
  type SipMessage,
} from './message.ts';
import { type Hop, isSamePeer, type Source } from './peer.ts';
import type { Target } from './resolver.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface RegisterClientOptions {
  /** How long one gateway may take to answer. */
  readonly timeoutMs: number;
  /** The first wait after all have failed; doubled each time (RFC 5626 §4.5). */
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** How long leaving may take. */
  readonly leaveMs: number;
}

export const DEFAULT_REGISTER_CLIENT: RegisterClientOptions = {
  timeoutMs: 8_000,
  retryMinMs: 5_000,
  retryMaxMs: 600_000,
  leaveMs: 2_000,
};

/** What is registered, and where. */
export interface RegisterAccount {
  /** `sip:user@host`. */
  readonly aor: string;
  /** The user part of our Contact, escaped. */
  readonly user: string;
  /** Told apart by: a parameter of our Contact that comes back in the Request-URI of calls. */
  readonly line: string;
  readonly callId: string;
  readonly expiresS: number;
  readonly credentials: Credentials | null;
  /** URIs, in the order to try. */
  readonly gateways: readonly string[];
}

export type RegisterState = 'registering' | 'registered' | 'failed' | 'left';

export interface RegisterStatus {
  readonly state: RegisterState;
  /** Wall clock. */
  readonly sinceMs: number;
  /** Until when the registrar keeps it; null: it does not. */
  readonly expiresAtMs: number | null;
  /** Last final status; null: none yet. */
  readonly sipStatus: number | null;
  /** Where it is registered; '' nowhere. */
  readonly gateway: string;
  readonly reason: string;
}

interface Way {
  readonly hop: Hop;
  readonly gateway: string;
}

/** A registrar may ask for more than we want, not for ever. */
const EXPIRES_S_MAX = 86_400;
/** Of the time granted: when it is refreshed, so that a failure leaves time for others. */
const REFRESH_SHARE_MIN = 0.75;
const REFRESH_SHARE_SPREAD = 0.1;
const RETRY_AFTER_MS_MAX = 3_600_000;
/** RFC 3261 §8.1.3.3, §10.2.7: with these another gateway may fare better. */
const NEXT_STATUSES = new Set([403, 404, 408, 430]);

export class RegisterClient implements ClientUser {
  readonly #ua: UserAgent;
  readonly #clock: Clock;
  readonly #account: RegisterAccount;
  readonly #resolve: (gateway: string) => Promise<readonly Target[]>;
  readonly #onChange: (status: RegisterStatus) => void;
  readonly #options: RegisterClientOptions;
  readonly #tag: string;
  #status: RegisterStatus;
  #expiresS: number;
  #sequence: number;
  #ways: Way[] = [];
  #way: Way | null = null;
  #challenge: ChallengeAnswer | null = null;
  #transaction: ClientTransaction | null = null;
  #timer: Timer | null = null;
  #failures = 0;
  #retryAfterMs = 0;
  #isLeaving = false;
  #onLeft: (() => void) | null = null;
  /** Counts rounds: what an older one still hears is not listened to. */
  #round = 0;

  constructor(parts: {
    ua: UserAgent;
    account: RegisterAccount;
    /** The addresses of a gateway that may be sent to; rejects when there are none. */
    resolve: (gateway: string) => Promise<readonly Target[]>;
    onChange: (status: RegisterStatus) => void;
    options: RegisterClientOptions;
  }) {
    this.#ua = parts.ua;
    this.#clock = parts.ua.clock;
    this.#account = parts.account;
    this.#resolve = parts.resolve;
    this.#onChange = parts.onChange;
    this.#options = parts.options;
    this.#tag = parts.ua.newTag();
    this.#expiresS = parts.account.expiresS;
    // Grows over restarts too, as §10.2 asks of one Call-ID.
    this.#sequence = Math.floor(this.#clock.nowMs() / 1000) % 0x7fff_ffff;
    this.#status = {
      state: 'registering',
      sinceMs: this.#clock.nowMs(),
      expiresAtMs: null,
      sipStatus: null,
      gateway: '',
      reason: '',
    };
  }

  get status(): RegisterStatus {
    return this.#status;
  }

  /** Registers after `delayMs`, and goes on until it is told to leave. */
  start(delayMs = 0): void {
    this.#isLeaving = false;
    this.#after(delayMs, () => void this.#begin());
  }

  /** Takes the registration back, if there is one; resolves when that is done or given up. */
  async leave(): Promise<void> {
    this.#isLeaving = true;
    this.#round += 1;
    this.#stop();
    const way = this.#way;
    if (way === null || this.#status.expiresAtMs === null) {
      this.#tell('left', { expiresAtMs: null, gateway: '' });
      return;
    }
    const done = new Promise<void>((resolve) => {
      this.#onLeft = resolve;
    });
    this.#after(this.#options.leaveMs, () => this.#left());
    this.#challenge = this.#newChallenge([way]);
    this.#send(way, []);
    await done;
  }

  /** Ends at once and says nothing to anybody. */
  close(): void {
    this.#round += 1;
    this.#isLeaving = true;
    this.#stop();
    this.#onLeft?.();
  }

  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    if (transaction !== this.#transaction || response.status < 200) return;
    const way = this.#way;
    if (way === null) return;
    const { status } = response;
    const isChallenge = status === 401 || status === 407;
    if (isChallenge && this.#challenge !== null && isSamePeer(source, transaction.peer)) {
      const field = this.#challenge.answer(response, transaction.request, source);
      if (field !== null) {
        this.#send(way, [field]);
        return;
      }
    }
    if (this.#isLeaving) this.#left(status);
    else if (status < 300) this.#registered(way, response);
    else this.#refused(way, response);
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    if (this.#isLeaving) this.#left();
    else this.#next(code === 'SIP_TIMEOUT' ? 'no answer' : 'not reached');
  }

  // --- A round over all gateways --------------------------------------------------------------

  async #begin(): Promise<void> {
    this.#round += 1;
    const round = this.#round;
    this.#stop();
    this.#retryAfterMs = 0;
    if (this.#status.state !== 'registered') this.#tell('registering', {});
    const found: Way[] = [];
    let problem = 'no gateway';
    for (const gateway of this.#gateways()) {
      try {
        const targets = await this.#resolve(gateway);
        for (const hop of this.#ua.hopsTo(targets, 0)) found.push({ hop, gateway });
      } catch (thrown) {
        problem = asGatewayError(thrown).message;
      }
      if (round !== this.#round) return;
    }
    this.#ways = found;
    this.#challenge = this.#newChallenge(found);
    this.#next(problem);
  }

  /** Where it is registered comes first: its registrar knows our binding. */
  #gateways(): readonly string[] {
    const { gateways } = this.#account;
    const last = this.#status.gateway;
    return gateways.includes(last)
      ? [last, ...gateways.filter((gateway) => gateway !== last)]
      : gateways;
  }

  #newChallenge(ways: readonly Way[]): ChallengeAnswer | null {
    const { credentials } = this.#account;
    if (credentials === null) return null;
    const clock = this.#clock;
    return new CallCredentials({ clock, credentials }).forInvite(ways.map(({ hop }) => hop));
  }

  #next(problem: string): void {
    this.#transaction = null;
    const way = this.#ways.shift();
    if (way === undefined) {
      this.#failed(problem);
      return;
    }
    this.#way = way;
    this.#send(way, []);
  }

  #send(way: Way, fields: readonly HeaderField[]): void {
    const { timeoutMs } = this.#options;
    if (!this.#isLeaving) this.#after(timeoutMs, () => this.#next('no answer in time'));
    const { callId } = this.#account;
    try {
      const request = this.#request(way.hop, fields);
      this.#transaction = this.#ua.request(request, way.hop, this, callId);
    } catch (thrown) {
      if (this.#isLeaving) this.#left();
      else this.#failed(asGatewayError(thrown).message);
    }
  }

  #request({ local }: Hop, fields: readonly HeaderField[]): OutgoingRequest {
    const { aor, callId } = this.#account;
    const expiresS = this.#isLeaving ? 0 : this.#expiresS;
    this.#sequence += 1;
    return {
      method: 'REGISTER',
      // §10.2: the domain alone.
      uri: `sip:${aor.slice(aor.lastIndexOf('@') + 1)}`,
      headers: [
        ['Max-Forwards', '70'],
        ['From', `<${aor}>;tag=${this.#tag}`],
        ['To', `<${aor}>`],
        ['Call-ID', callId],
        ['CSeq', `${this.#sequence} REGISTER`],
        ['Contact', `${this.#contact(this.#ua.contact(local))};expires=${expiresS}`],
        ['Expires', String(expiresS)],
        ['Supported', 'path'],
        ...fields,
      ],
      body: '',
    };
  }

  #contact(bare: string): string {
    const { user, line } = this.#account;
    return `${bare.replace('<sip:', `<sip:${user}@`).slice(0, -1)};line=${line}>`;
  }

  // --- Outcomes -------------------------------------------------------------------------------

  #registered(way: Way, response: SipMessage): void {
    this.#stop();
    const grantedS = this.#granted(response);
    if (grantedS <= 0) {
      this.#next('the registrar keeps no binding of ours');
      return;
    }
    this.#failures = 0;
    this.#ways = [];
    const expiresAtMs = this.#clock.nowMs() + grantedS * 1000;
    const { gateway } = way;
    this.#tell('registered', { expiresAtMs, sipStatus: response.status, gateway, reason: '' });
    const share = REFRESH_SHARE_MIN + REFRESH_SHARE_SPREAD * this.#clock.random();
    this.#after(grantedS * 1000 * share, () => void this.#begin());
  }

  /** §10.2.4: what the registrar says of our Contact, and not what we asked for. */
  #granted(response: SipMessage): number {
    const general = secondsOf(response.header('Expires'));
    const contacts = response.list('Contact').filter((value) => value !== '');
    for (const value of contacts) {
      const { uri, params } = parseNameAddr(value);
      if (uri?.params.get('line') !== this.#account.line) continue;
      return secondsOf(params.get('expires')) ?? general ?? this.#expiresS;
    }
    // Some tell no bindings at all.
    return contacts.length > 0 ? 0 : (general ?? this.#expiresS);
  }

  #refused(way: Way, response: SipMessage): void {
    const { status } = response;
    const waitS = secondsOf(/^\d+/.exec(response.header('Retry-After') ?? '')?.[0]) ?? 0;
    this.#retryAfterMs = Math.min(RETRY_AFTER_MS_MAX, Math.max(this.#retryAfterMs, waitS * 1000));
    this.#status = { ...this.#status, sipStatus: status };
    const minimum = secondsOf(response.header('Min-Expires')) ?? 0;
    if (status === 423 && minimum > this.#expiresS && minimum <= EXPIRES_S_MAX) {
      this.#expiresS = minimum;
      this.#send(way, []);
      return;
    }
    const problem = `${status} ${response.reason}`.trim();
    if (status >= 500 && status < 600) this.#next(problem);
    else if (NEXT_STATUSES.has(status)) this.#next(problem);
    else this.#failed(problem);
  }

  #failed(reason: string): void {
    this.#stop();
    this.#ways = [];
    const { retryMinMs, retryMaxMs } = this.#options;
    const limitMs = Math.min(retryMaxMs, retryMinMs * 2 ** Math.min(this.#failures, 20));
    this.#failures += 1;
    const { expiresAtMs } = this.#status;
    const isOver = expiresAtMs === null || expiresAtMs <= this.#clock.nowMs();
    this.#tell('failed', isOver ? { reason, expiresAtMs: null } : { reason });
    // RFC 5626 §4.5: between half of the wait and all of it, so that not all come back at once.
    const waitMs = limitMs * (0.5 + 0.5 * this.#clock.random());
    this.#after(Math.max(waitMs, this.#retryAfterMs), () => void this.#begin());
  }

  #left(status: number | null = null): void {
    this.#stop();
    this.#tell('left', { expiresAtMs: null, gateway: '', sipStatus: status });
    const onLeft = this.#onLeft;
    this.#onLeft = null;
    onLeft?.();
  }

  #tell(state: RegisterState, change: Partial<RegisterStatus>): void {
    const before = this.#status;
    const sinceMs = before.state === state ? before.sinceMs : this.#clock.nowMs();
    this.#status = { ...before, ...change, state, sinceMs };
    if (before.state !== state) this.#onChange(this.#status);
  }

  #after(delayMs: number, fn: () => void): void {
    this.#timer?.cancel();
    this.#timer = this.#clock.timer(delayMs, fn);
  }

  #stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#transaction = null;
  }
}
