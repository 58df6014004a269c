/**
 * Server transaction machines: INVITE (RFC 3261 §17.2.1 with the Accepted state of RFC 6026 §8.5)
 * and non-INVITE (§17.2.2). Pure: time comes in, actions go out. A 2xx to INVITE is repeated by the
 * session (§13.3.1.4), not here; this machine only lets it through.
 */
import { Action, type Actions, Machine, NEVER } from './machine.ts';

export interface ServerMachine {
  readonly state: 'trying' | 'proceeding' | 'completed' | 'confirmed' | 'accepted' | 'terminated';
  readonly deadlineMs: number;
  readonly isWaiting: boolean;
  /** The user answers; no `send` in the result means that the answer came too late. */
  respond(status: number, nowMs: number): Actions;
  /** The request came again. */
  repeated(): Actions;
  /** ACK that matches this transaction (INVITE only). */
  acknowledged(nowMs: number): Actions;
  expire(nowMs: number): Actions;
}

export class InviteServerMachine extends Machine implements ServerMachine {
  state: 'proceeding' | 'completed' | 'confirmed' | 'accepted' | 'terminated' = 'proceeding';

  respond(status: number, nowMs: number): Actions {
    if (this.state === 'accepted') {
      return status >= 200 && status < 300 ? Action.send : Action.none;
    }
    if (this.state !== 'proceeding') return Action.none;
    if (status < 200) return Action.send;
    this.endMs = nowMs + 64 * this.timers.t1Ms; // timer L or H
    if (status < 300) {
      this.state = 'accepted';
    } else {
      this.state = 'completed';
      this.retransmit(nowMs); // timer G
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
    if (this.reliable) {
      this.terminate(); // timer I is zero
      return Action.end;
    }
    this.state = 'confirmed';
    this.retransmitMs = NEVER;
    this.endMs = nowMs + this.timers.t4Ms; // timer I
    return Action.none;
  }

  override get isWaiting(): boolean {
    return this.state === 'completed';
  }
}

export class NonInviteServerMachine extends Machine implements ServerMachine {
  state: 'trying' | 'proceeding' | 'completed' | 'terminated' = 'trying';

  respond(status: number, nowMs: number): Actions {
    if (this.state === 'completed' || this.state === 'terminated') return Action.none;
    if (status < 200) {
      this.state = 'proceeding';
      return Action.send;
    }
    if (this.reliable) {
      this.terminate(); // timer J is zero
      return Action.send | Action.end;
    }
    this.state = 'completed';
    this.endMs = nowMs + 64 * this.timers.t1Ms; // timer J
    return Action.send;
  }

  repeated(): Actions {
    return this.state === 'trying' || this.state === 'terminated' ? Action.none : Action.send;
  }

  acknowledged(): Actions {
    return Action.none;
  }

  override get isWaiting(): boolean {
    return false;
  }
}
