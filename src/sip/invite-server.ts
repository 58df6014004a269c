/**
 * One INVITE that a peer sent us, first or within a dialog, from its arrival to its ACK (RFC 3261
 * §13.3, §14.2): keeps the peer waiting politely, repeats the 2xx until ACK comes, and tells its
 * owner what became of it. It decides nothing.
 */
import { headOfReceived, type InviteHead, type InviteRemains } from './invite-head.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { ServerTransaction, ServerUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

/** A 2xx of ours that nobody has acknowledged. */
export interface Unacknowledged {
  readonly head: InviteHead;
  readonly answer: InviteAnswer;
  readonly isOfferless: boolean;
}

export interface InviteServerOwner {
  onAcknowledged(server: InviteServer, ack: SipMessage | null): void;
  /** 64*T1 went by without ACK (§13.3.1.4). */
  onNeverAcknowledged(server: InviteServer): void;
  onCanceled(server: InviteServer, cancel: SipMessage): void;
  /** Nobody decided in time. */
  onUndecided(server: InviteServer): void;
}

/** §13.3.1.1: proxies give up after three minutes of silence; a word a minute keeps them. */
const PROVISIONAL_INTERVAL_MS = 60_000;

export class InviteServer extends Deadline implements ServerUser {
  readonly transaction: ServerTransaction;
  readonly cseq: number;
  /** The INVITE had no offer: ours is in the 2xx, the answer in the ACK (§13.2.1). */
  readonly isOfferless: boolean;
  readonly #ua: UserAgent;
  readonly #owner: InviteServerOwner;
  readonly #decideByMs: number;
  /** A provisional response went out. */
  #hasSpoken = false;
  #state: 'proceeding' | 'accepted' | 'done' = 'proceeding';
  #intervalMs = 0;
  #giveUpMs = 0;
  /** The INVITE and our 2xx, until its ACK comes. */
  #accepted: { readonly request: SipMessage; readonly answer: InviteAnswer } | null = null;

  constructor(options: {
    ua: UserAgent;
    owner: InviteServerOwner;
    transaction: ServerTransaction;
    isOfferless: boolean;
    limits: {
      /** How long the owner may take to accept or refuse. */
      readonly decisionTimeoutMs: number;
      /** How long the owner may say nothing before 100 is sent. */
      readonly tryingDelayMs: number;
    };
  }) {
    super();
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.transaction = options.transaction;
    this.cseq = options.transaction.request.cseq;
    this.isOfferless = options.isOfferless;
    const { decisionTimeoutMs, tryingDelayMs } = options.limits;
    const nowMs = this.#ua.wheel.nowMs();
    this.#decideByMs = nowMs + decisionTimeoutMs;
    this.transaction.user = this;
    if (tryingDelayMs <= 0) this.#try();
    else this.#ua.wheel.set(this, Math.min(this.#decideByMs, nowMs + tryingDelayMs));
  }

  get isPending(): boolean {
    return this.#state === 'proceeding';
  }

  /** The 2xx went out and no ACK has come. */
  get isUnacknowledged(): boolean {
    return this.#state === 'accepted';
  }

  /** As plain data, what another process needs to go on repeating our 2xx. */
  get unacknowledged(): Unacknowledged | null {
    if (this.#accepted === null) return null;
    const { request, answer } = this.#accepted;
    return { head: headOfReceived(request), answer, isOfferless: this.isOfferless };
  }

  /** The same of an INVITE that has no final answer; null when it has. */
  remains(toTag: string): InviteRemains | null {
    if (this.#state !== 'proceeding') return null;
    const { request, source } = this.transaction;
    const { transport, address, port } = source;
    const head = headOfReceived(request);
    return { kind: 'received', head, toTag, peer: { transport, address, port } };
  }

  progress(status: number, options: InviteAnswer): void {
    this.#ua.answer(this.transaction, status, options);
    this.#spoke();
  }

  /** The last provisional response once more, for the PRACK that it waits for (RFC 3262 §3). */
  repeatProvisional(): void {
    if (this.#state === 'proceeding') this.transaction.remind();
  }

  accept(options: InviteAnswer): void {
    if (this.#state !== 'proceeding') return;
    this.#accepted = { request: this.transaction.request, answer: options };
    this.#ua.answer(this.transaction, 200, options);
    this.#state = 'accepted';
    const { t1Ms } = this.#ua.timers;
    const nowMs = this.#ua.wheel.nowMs();
    this.#intervalMs = t1Ms;
    this.#giveUpMs = nowMs + 64 * t1Ms;
    this.#ua.wheel.set(this, nowMs + this.#intervalMs);
  }

  refuse(status: number, options: InviteAnswer): void {
    if (this.#state !== 'proceeding') return;
    this.#ua.answer(this.transaction, status, options);
    this.finish();
  }

  /** The ACK of our 2xx came, or something that proves that the peer has it. */
  acknowledged(ack: SipMessage | null): void {
    if (this.#state !== 'accepted') return;
    this.transaction.settle();
    this.finish();
    this.#owner.onAcknowledged(this, ack);
  }

  /** No more repetitions; the transaction dies by its own timers. */
  finish(): void {
    this.#state = 'done';
    this.#accepted = null;
    this.#ua.wheel.clear(this);
  }

  onCancel(_transaction: ServerTransaction, cancel: SipMessage): void {
    if (this.#state === 'proceeding') this.#owner.onCanceled(this, cancel);
  }

  onUnacknowledged(): void {
    // Timer H: the refusal stands, whether the peer confirmed it or not.
  }

  override expire(nowMs: number): void {
    if (this.#state === 'proceeding') {
      if (nowMs >= this.#decideByMs) {
        this.#owner.onUndecided(this);
        return;
      }
      if (this.#hasSpoken) {
        this.transaction.remind();
        this.#spoke();
      } else {
        this.#try();
      }
      return;
    }
    if (nowMs >= this.#giveUpMs) {
      this.finish();
      this.#owner.onNeverAcknowledged(this);
      return;
    }
    // §13.3.1.4: on every transport, as a hop further on may be UDP.
    this.transaction.repeat();
    this.#intervalMs = Math.min(2 * this.#intervalMs, this.#ua.timers.t2Ms);
    this.#ua.wheel.set(this, Math.min(nowMs + this.#intervalMs, this.#giveUpMs));
  }

  /** §17.2.1: nothing is known yet, but the peer may stop repeating itself. */
  #try(): void {
    this.#ua.answer(this.transaction, 100);
    this.#spoke();
  }

  #spoke(): void {
    this.#hasSpoken = true;
    const nextMs = this.#ua.wheel.nowMs() + PROVISIONAL_INTERVAL_MS;
    this.#ua.wheel.set(this, Math.min(this.#decideByMs, nextMs));
  }
}

export interface InviteAnswer {
  readonly toTag: string;
  readonly reason?: string;
  readonly headers?: readonly HeaderField[];
  readonly body?: string;
}
