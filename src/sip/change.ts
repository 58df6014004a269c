/**
 * A change to the session that we ask for, by re-INVITE (RFC 3261 §14.1) or UPDATE (RFC 3311
 * §5.1): an offer, or a refresh of the session timer. What the two have in common: one at a time,
 * the patience that glare and a busy peer ask for, and what a refusal means. The session goes on
 * as it was unless the peer has forgotten the dialog or does not answer at all.
 */
import { type ErrorCode, GatewayError } from '../core/errors.ts';
import type { Dialog } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Hop, Local } from './peer.ts';
import type { SessionTimer } from './session-timer.ts';
import type { DialogUsage } from './usage.ts';
import type { HopUser } from './user-agent.ts';
import { Deadline } from './wheel.ts';

export interface ChangeOwner {
  /** An INVITE of the peer is undecided, or has a PRACK to come: ours has to wait (§14.1). */
  readonly isInviteWaiting: boolean;
  readonly timer: SessionTimer;
  onChanged(change: Change, response: SipMessage): void;
  /** `isFatal`: the dialog is gone (§12.2.1.2, §14.1). `status`: the peer's; 0 when it said none. */
  onChangeFailed(change: Change, error: GatewayError, isFatal: boolean, status: number): void;
}

export interface ChangeParts {
  readonly usage: DialogUsage;
  readonly owner: ChangeOwner;
  readonly dialog: Dialog;
  /** Our offer; '' asks for a refresh alone. */
  readonly sdp: string;
  readonly isRefresh: boolean;
}

/** A peer that asks for more patience than this (Retry-After) is not asked again. */
const RETRY_AFTER_MAX_S = 32;

export abstract class Change extends Deadline implements HopUser {
  abstract readonly method: 'INVITE' | 'UPDATE';
  readonly dialog: Dialog;
  readonly sdp: string;
  readonly isRefresh: boolean;
  protected readonly usage: DialogUsage;
  protected readonly owner: ChangeOwner;
  #attemptsLeft: number;
  #isAsking = false;
  #isSettled = false;

  constructor(parts: ChangeParts) {
    super();
    this.usage = parts.usage;
    this.owner = parts.owner;
    this.dialog = parts.dialog;
    this.sdp = parts.sdp;
    this.isRefresh = parts.isRefresh;
    this.#attemptsLeft = parts.usage.options.reinviteAttemptsMax;
  }

  /** Our request is out and has no final response: one of the peer's gets 491 (§14.2). */
  get isAsking(): boolean {
    return this.#isAsking;
  }

  start(): void {
    const { dialog, usage } = this;
    if (this.#isBlocked) this.#waitOutGlare();
    else usage.ua.reach(dialog, usage.near, this);
  }

  /** The session ended. A 2xx that still comes is acknowledged. */
  abandon(code: ErrorCode): void {
    this.cancel();
    this.fail(new GatewayError(code), false, 0);
  }

  onHop(hop: Hop): void {
    if (this.#isSettled) return;
    // A name took its time to resolve: the peer may have begun to ask.
    if (this.#isBlocked) {
      this.#waitOutGlare();
      return;
    }
    this.#attemptsLeft -= 1;
    this.#ask(true);
    try {
      this.send(hop);
    } catch {
      this.fail(new GatewayError('OVERLOADED', { limit: 'client transactions' }), false, 0);
    }
  }

  onNoHop(error: GatewayError): void {
    this.fail(error, false, 0);
  }

  override expire(): void {
    if (!this.#isSettled) this.start();
  }

  protected abstract send(hop: Hop): void;

  /** Takes the request back, where its method can be taken back. */
  protected abstract cancel(): void;

  protected get isSettled(): boolean {
    return this.#isSettled;
  }

  /** Fields of the request, beside those of the dialog. */
  protected fields(local: Local): HeaderField[] {
    const { timer } = this.owner;
    const { usage, sdp } = this;
    const own = [usage.contact(local), ...usage.abilities(), ...timer.requestFields()];
    if (sdp !== '') own.push(['Content-Type', 'application/sdp']);
    return own;
  }

  protected accepted(response: SipMessage): void {
    if (this.#isSettled) return;
    this.#settle();
    this.owner.onChanged(this, response);
  }

  /** `status` 408: no answer came (§8.1.3.1). */
  protected refused(status: number, response: SipMessage | null): void {
    this.#ask(false);
    if (this.#isSettled || this.#triesAgain(status, response)) return;
    // 405 and 501 are about the method, the rest about what was asked.
    const isGone = status === 481 || status === 408;
    const code = isGone ? 'SIP_NO_DIALOG' : status === 491 ? 'SIP_GLARE' : 'SIP_REFUSED';
    const reason = response?.reason ?? '';
    this.fail(new GatewayError(code, { status, reason }), isGone, status);
  }

  protected fail(error: GatewayError, isFatal: boolean, status: number): void {
    if (this.#isSettled) return;
    this.#settle();
    this.owner.onChangeFailed(this, error, isFatal, status);
  }

  #triesAgain(status: number, response: SipMessage | null): boolean {
    if (this.#attemptsLeft <= 0 || response === null) return false;
    if (status === 491) {
      this.#waitOutGlare();
      return true;
    }
    // RFC 4028 §7.3: the interval was below what somebody on the way asks for.
    if (status === 422 && this.owner.timer.raise(response)) {
      this.start();
      return true;
    }
    const seconds = Number(/^\d{1,4}/.exec(response.header('Retry-After') ?? '')?.[0] ?? -1);
    const isBusy = status === 500 || status === 503;
    if (!isBusy || seconds < 0 || seconds > RETRY_AFTER_MAX_S) return false;
    // RFC 3311 §5.2, RFC 3261 §14.2: an offer of the peer, or an earlier one of ours, is open.
    this.#wait(seconds * 1000);
    return true;
  }

  /** RFC 3264 §4: no offer while one is open; a refresh without one may always go (RFC 3311). */
  get #isBlocked(): boolean {
    if (this.sdp === '' && this.method === 'UPDATE') return false;
    return this.dialog.offerBy !== 'nobody' || this.owner.isInviteWaiting;
  }

  /** §14.1: 2.1 to 4 s for who made the Call-ID, 0 to 2 s for the other, in steps of 10 ms. */
  #waitOutGlare(): void {
    const ownsCallId = this.usage.direction === 'out';
    this.#wait(10 * (ownsCallId ? 210 + this.#random(190) : this.#random(200)));
  }

  #wait(delayMs: number): void {
    const { wheel } = this.usage.ua;
    wheel.set(this, wheel.nowMs() + delayMs);
  }

  #random(below: number): number {
    return Math.floor(this.usage.ua.clock.random() * (below + 1));
  }

  #ask(isAsking: boolean): void {
    if (isAsking === this.#isAsking) return;
    this.#isAsking = isAsking;
    if (this.sdp !== '') this.dialog.offerBy = isAsking ? 'us' : 'nobody';
  }

  #settle(): void {
    this.#isSettled = true;
    this.#ask(false);
    this.usage.ua.wheel.clear(this);
  }
}
