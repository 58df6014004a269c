/**
 * Client transaction machines: INVITE (RFC 3261 §17.1.1 with the Accepted state of RFC 6026 §8.4)
 * and non-INVITE (§17.1.2). Pure: time comes in, actions go out.
 */
import { Action, type Actions, NEVER, type TransactionTimers } from './machine.ts';

export interface ClientMachine {
  readonly state: 'calling' | 'trying' | 'proceeding' | 'completed' | 'accepted' | 'terminated';
  /** When `expire` is to be called next. */
  readonly deadlineMs: number;
  start(nowMs: number): Actions;
  response(status: number, nowMs: number): Actions;
  expire(nowMs: number): Actions;
  /** RFC 3261 §9.1: canceled; a final response is waited for 64*T1 more and no longer. */
  abandon(nowMs: number): void;
}

export class InviteClientMachine implements ClientMachine {
  state: 'calling' | 'proceeding' | 'completed' | 'accepted' | 'terminated' = 'calling';
  readonly #timers: TransactionTimers;
  readonly #reliable: boolean;
  /** Timer A: next retransmission and the interval that led to it. */
  #retransmitMs = NEVER;
  #intervalMs = 0;
  /** Timer B, D or M, by state. */
  #endMs = NEVER;

  constructor(options: { timers: TransactionTimers; reliable: boolean }) {
    this.#timers = options.timers;
    this.#reliable = options.reliable;
  }

  get deadlineMs(): number {
    return Math.min(this.#retransmitMs, this.#endMs);
  }

  start(nowMs: number): Actions {
    this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer B
    if (!this.#reliable) {
      this.#intervalMs = this.#timers.t1Ms; // timer A
      this.#retransmitMs = nowMs + this.#intervalMs;
    }
    return Action.send;
  }

  response(status: number, nowMs: number): Actions {
    switch (this.state) {
      case 'calling':
      case 'proceeding':
        return this.#firstResponses(status, nowMs);
      case 'completed':
        // §17.1.1.2: a repeated final response is acknowledged here and goes no further.
        return status >= 300 ? Action.ack : Action.none;
      case 'accepted':
        // RFC 6026 §7.2: every 2xx, repeated or from another branch, is for the user.
        return status >= 200 && status < 300 ? Action.deliver : Action.none;
      case 'terminated':
        return Action.none;
    }
  }

  expire(nowMs: number): Actions {
    if (nowMs >= this.#endMs) {
      const unanswered = this.state === 'calling' || this.state === 'proceeding';
      this.#terminate();
      return unanswered ? Action.timeout | Action.end : Action.end;
    }
    if (nowMs < this.#retransmitMs) return Action.none;
    this.#intervalMs *= 2;
    this.#retransmitMs = nowMs + this.#intervalMs;
    return Action.send;
  }

  abandon(nowMs: number): void {
    if (this.state === 'proceeding') this.#endMs = nowMs + 64 * this.#timers.t1Ms;
  }

  #firstResponses(status: number, nowMs: number): Actions {
    if (status < 200) {
      if (this.state === 'calling') {
        this.state = 'proceeding';
        this.#retransmitMs = NEVER;
        this.#endMs = NEVER; // timer B runs in Calling only
      }
      return Action.deliver;
    }
    this.#retransmitMs = NEVER;
    if (status < 300) {
      this.state = 'accepted';
      this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer M
      return Action.deliver;
    }
    if (this.#reliable) {
      this.#terminate(); // timer D is zero
      return Action.ack | Action.deliver | Action.end;
    }
    this.state = 'completed';
    this.#endMs = nowMs + this.#timers.timerDMs;
    return Action.ack | Action.deliver;
  }

  #terminate(): void {
    this.state = 'terminated';
    this.#retransmitMs = NEVER;
    this.#endMs = NEVER;
  }
}

export class NonInviteClientMachine implements ClientMachine {
  state: 'trying' | 'proceeding' | 'completed' | 'terminated' = 'trying';
  readonly #timers: TransactionTimers;
  readonly #reliable: boolean;
  /** Timer E. */
  #retransmitMs = NEVER;
  #intervalMs = 0;
  /** Timer F or K, by state. */
  #endMs = NEVER;

  constructor(options: { timers: TransactionTimers; reliable: boolean }) {
    this.#timers = options.timers;
    this.#reliable = options.reliable;
  }

  get deadlineMs(): number {
    return Math.min(this.#retransmitMs, this.#endMs);
  }

  start(nowMs: number): Actions {
    this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer F
    if (!this.#reliable) {
      this.#intervalMs = this.#timers.t1Ms; // timer E
      this.#retransmitMs = nowMs + this.#intervalMs;
    }
    return Action.send;
  }

  response(status: number, nowMs: number): Actions {
    if (this.state === 'completed' || this.state === 'terminated') return Action.none;
    if (status < 200) {
      this.state = 'proceeding';
      return Action.deliver;
    }
    this.#retransmitMs = NEVER;
    if (this.#reliable) {
      this.state = 'terminated'; // timer K is zero
      this.#endMs = NEVER;
      return Action.deliver | Action.end;
    }
    this.state = 'completed';
    this.#endMs = nowMs + this.#timers.t4Ms; // timer K
    return Action.deliver;
  }

  expire(nowMs: number): Actions {
    if (nowMs >= this.#endMs) {
      const unanswered = this.state !== 'completed';
      this.state = 'terminated';
      this.#retransmitMs = NEVER;
      this.#endMs = NEVER;
      return unanswered ? Action.timeout | Action.end : Action.end;
    }
    if (nowMs < this.#retransmitMs) return Action.none;
    // §17.1.2.2: doubling up to T2 while Trying, T2 at once when Proceeding.
    const { t2Ms } = this.#timers;
    this.#intervalMs = this.state === 'trying' ? Math.min(2 * this.#intervalMs, t2Ms) : t2Ms;
    this.#retransmitMs = nowMs + this.#intervalMs;
    return Action.send;
  }

  /** Only INVITE is ever canceled. */
  abandon(): void {}
}
