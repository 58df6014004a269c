/**
 * Reliable provisional responses that we send (RFC 3262 §3): numbered, one at a time, repeated
 * until PRACK comes, given up after 64*T1. Whether a response is to be reliable, and what its SDP
 * means, is decided by `incoming.ts`; the other side of it, our own PRACK, is `early-dialog.ts`.
 */
import type { InviteAnswer, InviteServer } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

/** `require` asks it of the peer; `support` lets the peer ask it of us. */
export type ReliableMode = 'off' | 'support' | 'require';

export interface ReliableOwner {
  /** It is about to be sent; with SDP, an offer or answer goes out with it. */
  onProvisionalSent(provisional: Provisional): void;
  /** 64*T1 without PRACK (§3). */
  onPrackLost(): void;
}

export interface Provisional {
  readonly status: number;
  readonly answer: InviteAnswer;
  readonly isReliable: boolean;
}

/** Responses that wait for an earlier one's PRACK; nothing to wait for needs as many. */
const WAITING_MAX = 8;

/** §3: the first number is between these, so that a number of another call is not taken for it. */
const FIRST_RSEQ_MAX = 2 ** 31 - 1;

export class ReliableProvisionals extends Deadline {
  readonly #ua: UserAgent;
  readonly #owner: ReliableOwner;
  readonly #server: InviteServer;
  readonly #waiting: Provisional[] = [];
  /** Sent, and no PRACK has come. */
  #open: Provisional | null = null;
  #rseq: number;
  #intervalMs = 0;
  #giveUpMs = 0;
  #isStopped = false;

  constructor(options: { ua: UserAgent; owner: ReliableOwner; server: InviteServer }) {
    super();
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.#server = options.server;
    // The first is this plus one, and numbers may not wrap around within a call (§3).
    this.#rseq = Math.floor(this.#ua.clock.random() * (FIRST_RSEQ_MAX - 1024));
  }

  /** §3: a 2xx has to wait while a description is not acknowledged. */
  get holdsDescription(): boolean {
    return this.#open !== null && this.#open.answer.body !== '';
  }

  /** Sends it now, or after those before it. */
  send(provisional: Provisional): void {
    if (this.#isStopped) return;
    if (this.#open === null) this.#send(provisional);
    else if (this.#waiting.length < WAITING_MAX) this.#waiting.push(provisional);
  }

  /** The response that a PRACK names, if it waits for one (§3); null when it is none of ours. */
  acknowledge(prack: SipMessage): Provisional | null {
    const named = /^(\d{1,10})\s+(\d{1,10})\s+INVITE$/.exec(prack.header('RAck') ?? '');
    const open = this.#open;
    if (named === null || open === null) return null;
    if (Number(named[1]) !== this.#rseq || Number(named[2]) !== this.#server.cseq) return null;
    this.#open = null;
    this.#ua.wheel.clear(this);
    return open;
  }

  /** Sends what has waited for that PRACK. */
  proceed(): void {
    while (this.#open === null && !this.#isStopped) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#send(next);
    }
  }

  /** A final response went out: nothing is repeated, but a PRACK may still come (§3). */
  stop(): void {
    this.#isStopped = true;
    this.#waiting.length = 0;
    this.#ua.wheel.clear(this);
  }

  override expire(nowMs: number): void {
    if (nowMs >= this.#giveUpMs) {
      this.stop();
      this.#owner.onPrackLost();
      return;
    }
    this.#server.repeatProvisional();
    // §3: doubling, without the bound that T2 is elsewhere.
    this.#intervalMs *= 2;
    this.#ua.wheel.set(this, Math.min(nowMs + this.#intervalMs, this.#giveUpMs));
  }

  #send(provisional: Provisional): void {
    const { status, answer, isReliable } = provisional;
    this.#owner.onProvisionalSent(provisional);
    if (!isReliable) {
      this.#server.progress(status, answer);
      return;
    }
    this.#rseq += 1;
    const { headers = [] } = answer;
    const fields: HeaderField[] = [['Require', '100rel'], ['RSeq', String(this.#rseq)], ...headers];
    this.#server.progress(status, { ...answer, headers: fields });
    this.#open = provisional;
    const { t1Ms } = this.#ua.timers;
    const nowMs = this.#ua.wheel.nowMs();
    this.#intervalMs = t1Ms;
    this.#giveUpMs = nowMs + 64 * t1Ms;
    this.#ua.wheel.set(this, nowMs + t1Ms);
  }
}
