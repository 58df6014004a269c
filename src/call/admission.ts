/**
 * Whether a call may start now. The interface the router asks, and its bounded default: drain,
 * live calls, calls per second in all and per account. A refusal is a code that carries its SIP
 * status. Not fairness between accounts over many nodes: that is another implementation.
 */
import type { Clock } from '../core/clock.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import type { CallDirection } from './call-record.ts';

export interface AdmissionRequest {
  readonly accountSid: AccountSid;
  readonly direction: CallDirection;
}

export interface Refusal {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
}

export interface Admission {
  /** Null admits; each admitted call is told once to `ended`. */
  admit(request: AdmissionRequest): Refusal | null;
  /** What `admit` would say now, counting nothing. */
  look(request: AdmissionRequest): Refusal | null;
  /** Counts a call brought back from the journal, which asks nobody. */
  restored(accountSid: AccountSid): void;
  ended(accountSid: AccountSid): void;
  drain(on: boolean): void;
}

export interface AdmissionOptions {
  readonly clock: Clock;
  readonly liveCallsMax: number;
  readonly liveCallsPerAccountMax: number;
  readonly callsPerSecondMax: number;
  readonly callsPerSecondPerAccountMax: number;
  /** Calls that may come at once before the rate counts, as seconds of that rate. */
  readonly burstSeconds: number;
}

export const DEFAULT_ADMISSION: Omit<AdmissionOptions, 'clock'> = {
  liveCallsMax: 10_000,
  liveCallsPerAccountMax: 10_000,
  callsPerSecondMax: 400,
  callsPerSecondPerAccountMax: 400,
  burstSeconds: 2,
};

/** One number: when the bucket would be empty again (generic cell rate algorithm). */
class Rate {
  readonly #intervalMs: number;
  readonly #toleranceMs: number;
  #dueMs = Number.NEGATIVE_INFINITY;

  constructor(perSecond: number, burstSeconds: number) {
    this.#intervalMs = 1000 / perSecond;
    this.#toleranceMs = burstSeconds * 1000;
  }

  isOpen(nowMs: number): boolean {
    return this.#dueMs - nowMs < this.#toleranceMs;
  }

  take(nowMs: number): void {
    this.#dueMs = Math.max(this.#dueMs, nowMs) + this.#intervalMs;
  }

  isIdle(nowMs: number): boolean {
    return this.#dueMs <= nowMs;
  }
}

interface AccountState {
  live: number;
  readonly rate: Rate;
}

/** Accounts remembered with no live call; beyond it idle ones are forgotten. */
const IDLE_ACCOUNTS_MAX = 10_000;

export class BoundedAdmission implements Admission {
  readonly #options: AdmissionOptions;
  readonly #rate: Rate;
  readonly #accounts = new Map<AccountSid, AccountState>();
  #live = 0;
  #isDraining = false;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#rate = new Rate(options.callsPerSecondMax, options.burstSeconds);
  }

  get live(): number {
    return this.#live;
  }

  admit(request: AdmissionRequest): Refusal | null {
    const refusal = this.look(request);
    if (refusal !== null) return refusal;
    const nowMs = this.#options.clock.monotonicMs();
    const account = this.#account(request.accountSid);
    account.rate.take(nowMs);
    this.#rate.take(nowMs);
    this.#live += 1;
    account.live += 1;
    return null;
  }

  look(request: AdmissionRequest): Refusal | null {
    const options = this.#options;
    // A call that runs may still dial: a drain ends no call and changes no document's meaning.
    const isNew = request.direction !== 'outbound-dial';
    if (isNew && this.#isDraining) return { code: 'DRAINING', details: {} };
    if (this.#live >= options.liveCallsMax) return overloaded('calls');
    const account = this.#account(request.accountSid);
    if (account.live >= options.liveCallsPerAccountMax) return overloaded('calls of the account');
    const nowMs = options.clock.monotonicMs();
    if (!account.rate.isOpen(nowMs)) return overloaded('calls per second of the account');
    if (!this.#rate.isOpen(nowMs)) return overloaded('calls per second');
    return null;
  }

  restored(accountSid: AccountSid): void {
    this.#live += 1;
    this.#account(accountSid).live += 1;
  }

  ended(accountSid: AccountSid): void {
    this.#live -= 1;
    this.#account(accountSid).live -= 1;
  }

  drain(on: boolean): void {
    this.#isDraining = on;
  }

  #account(sid: AccountSid): AccountState {
    const known = this.#accounts.get(sid);
    if (known !== undefined) return known;
    if (this.#accounts.size >= IDLE_ACCOUNTS_MAX) this.#forgetIdle();
    const { callsPerSecondPerAccountMax, burstSeconds } = this.#options;
    const account = { live: 0, rate: new Rate(callsPerSecondPerAccountMax, burstSeconds) };
    this.#accounts.set(sid, account);
    return account;
  }

  #forgetIdle(): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [sid, account] of this.#accounts) {
      if (account.live === 0 && account.rate.isIdle(nowMs)) this.#accounts.delete(sid);
    }
  }
}

function overloaded(limit: string): Refusal {
  return { code: 'OVERLOADED', details: { limit } };
}
