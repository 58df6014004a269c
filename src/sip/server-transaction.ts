/**
 * Server transaction machines: INVITE (RFC 3261 §17.2.1 with the Accepted state of RFC 6026 §8.5)
 * and non-INVITE (§17.2.2). Pure: time comes in, actions go out. A 2xx to INVITE is repeated by the
 * session (§13.3.1.4), not here; this machine only lets it through.
 */
import { Action, type Actions, NEVER, type TransactionTimers } from './machine.ts';

export interface ServerMachine {
  readonly state: 'trying' | 'proceeding' | 'completed' | 'confirmed' | 'accepted' | 'terminated';
  readonly deadlineMs: number;
  /** The user answers; no `send` in the result means that the answer came too late. */
  respond(status: number, nowMs: number): Actions;
  /** The request came again. */
  repeated(): Actions;
  /** ACK that matches this transaction (INVITE only). */
  acknowledged(nowMs: number): Actions;
  expire(nowMs: number): Actions;
}

export class InviteServerMachine implements ServerMachine {
  state: 'proceeding' | 'completed' | 'confirmed' | 'accepted' | 'terminated' = 'proceeding';
  readonly #timers: TransactionTimers;
  readonly #reliable: boolean;
  /** Timer G. */
  #retransmitMs = NEVER;
  #intervalMs = 0;
  /** Timer H, I or L, by state. */
  #endMs = NEVER;

  constructor(options: { timers: TransactionTimers; reliable: boolean }) {
    this.#timers = options.timers;
    this.#reliable = options.reliable;
  }

  get deadlineMs(): number {
    return Math.min(this.#retransmitMs, this.#endMs);
  }

  respond(status: number, nowMs: number): Actions {
    if (this.state === 'accepted') {
      return status >= 200 && status < 300 ? Action.send : Action.none;
    }
    if (this.state !== 'proceeding') return Action.none;
    if (status < 200) return Action.send;
    if (status < 300) {
      this.state = 'accepted';
      this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer L
      return Action.send;
    }
    this.state = 'completed';
    this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer H
    if (!this.#reliable) {
      this.#intervalMs = this.#timers.t1Ms; // timer G
      this.#retransmitMs = nowMs + this.#intervalMs;
    }
    return Action.send;
  }

  repeated(): Actions {
    // RFC 6026 §7.1: absorbed without a word in Accepted, and in Confirmed as before.
    return this.state === 'proceeding' || this.state === 'completed' ? Action.send : Action.none;
  }

  acknowledged(nowMs: number): Actions {
    if (this.state === 'accepted') return Action.deliver; // an RFC 2543 ACK matches here
    if (this.state !== 'completed') return Action.none;
    this.#retransmitMs = NEVER;
    if (this.#reliable) {
      this.state = 'terminated'; // timer I is zero
      this.#endMs = NEVER;
      return Action.end;
    }
    this.state = 'confirmed';
    this.#endMs = nowMs + this.#timers.t4Ms; // timer I
    return Action.none;
  }

  expire(nowMs: number): Actions {
    if (nowMs >= this.#endMs) {
      const unacknowledged = this.state === 'completed';
      this.state = 'terminated';
      this.#retransmitMs = NEVER;
      this.#endMs = NEVER;
      return unacknowledged ? Action.timeout | Action.end : Action.end;
    }
    if (nowMs < this.#retransmitMs) return Action.none;
    this.#intervalMs = Math.min(2 * this.#intervalMs, this.#timers.t2Ms);
    this.#retransmitMs = nowMs + this.#intervalMs;
    return Action.send;
  }
}

export class NonInviteServerMachine implements ServerMachine {
  state: 'trying' | 'proceeding' | 'completed' | 'terminated' = 'trying';
  readonly #timers: TransactionTimers;
  readonly #reliable: boolean;
  /** Timer J. */
  #endMs = NEVER;

  constructor(options: { timers: TransactionTimers; reliable: boolean }) {
    this.#timers = options.timers;
    this.#reliable = options.reliable;
  }

  get deadlineMs(): number {
    return this.#endMs;
  }

  respond(status: number, nowMs: number): Actions {
    if (this.state === 'completed' || this.state === 'terminated') return Action.none;
    if (status < 200) {
      this.state = 'proceeding';
      return Action.send;
    }
    if (this.#reliable) {
      this.state = 'terminated'; // timer J is zero
      return Action.send | Action.end;
    }
    this.state = 'completed';
    this.#endMs = nowMs + 64 * this.#timers.t1Ms; // timer J
    return Action.send;
  }

  repeated(): Actions {
    return this.state === 'trying' || this.state === 'terminated' ? Action.none : Action.send;
  }

  acknowledged(): Actions {
    return Action.none;
  }

  expire(nowMs: number): Actions {
    if (nowMs < this.#endMs) return Action.none;
    this.state = 'terminated';
    this.#endMs = NEVER;
    return Action.end;
  }
}
