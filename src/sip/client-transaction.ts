/**
 * Client transaction machines: INVITE (RFC 3261 §17.1.1 with the Accepted state of RFC 6026 §8.4)
 * and non-INVITE (§17.1.2). Pure: time comes in, actions go out.
 */
import { Action, type Actions, Machine, type MachineOptions, NEVER } from './machine.ts';

export interface ClientMachine {
  readonly state: 'calling' | 'trying' | 'proceeding' | 'completed' | 'accepted' | 'terminated';
  readonly deadlineMs: number;
  readonly isWaiting: boolean;
  start(nowMs: number): Actions;
  response(status: number, nowMs: number): Actions;
  expire(nowMs: number): Actions;
  /** RFC 3261 §9.1: given up; a final response is waited for 64*T1 more and no longer. */
  abandon(nowMs: number): void;
}

export class InviteClientMachine extends Machine implements ClientMachine {
  state: 'calling' | 'proceeding' | 'completed' | 'accepted' | 'terminated' = 'calling';

  start(nowMs: number): Actions {
    this.endMs = nowMs + 64 * this.timers.t1Ms; // timer B
    this.retransmit(nowMs); // timer A
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

  abandon(nowMs: number): void {
    // Nobody waits for it: what went unheard so far need not be heard any more.
    if (this.state === 'calling') this.retransmitMs = NEVER;
    if (this.state === 'proceeding') this.endMs = nowMs + 64 * this.timers.t1Ms;
  }

  override get isWaiting(): boolean {
    return this.state === 'calling' || this.state === 'proceeding';
  }

  /** §17.1.1.2: doubling without a bound, as timer B ends it. */
  protected override nextIntervalMs(): number {
    return 2 * this.intervalMs;
  }

  #firstResponses(status: number, nowMs: number): Actions {
    if (status < 200) {
      if (this.state === 'calling') {
        this.state = 'proceeding';
        this.retransmitMs = NEVER;
        this.endMs = NEVER; // timer B runs in Calling only
      }
      return Action.deliver;
    }
    this.retransmitMs = NEVER;
    if (status < 300) {
      this.state = 'accepted';
      this.endMs = nowMs + 64 * this.timers.t1Ms; // timer M
      return Action.deliver;
    }
    if (this.reliable) {
      this.terminate(); // timer D is zero
      return Action.ack | Action.deliver | Action.end;
    }
    this.state = 'completed';
    this.endMs = nowMs + this.timers.timerDMs;
    return Action.ack | Action.deliver;
  }
}

/** Of an INVITE that a former process sent and nobody wants: its final answer alone is awaited. */
class SentInviteMachine extends InviteClientMachine {
  override start(nowMs: number): Actions {
    this.state = 'proceeding';
    this.abandon(nowMs);
    return Action.none;
  }
}

export function clientMachine(method: string, how: MachineOptions, isSent: boolean): ClientMachine {
  if (method !== 'INVITE') return new NonInviteClientMachine(how);
  return isSent ? new SentInviteMachine(how) : new InviteClientMachine(how);
}

export class NonInviteClientMachine extends Machine implements ClientMachine {
  state: 'trying' | 'proceeding' | 'completed' | 'terminated' = 'trying';

  start(nowMs: number): Actions {
    this.endMs = nowMs + 64 * this.timers.t1Ms; // timer F
    this.retransmit(nowMs); // timer E
    return Action.send;
  }

  response(status: number, nowMs: number): Actions {
    if (this.state === 'completed' || this.state === 'terminated') return Action.none;
    if (status < 200) {
      this.state = 'proceeding';
      return Action.deliver;
    }
    if (this.reliable) {
      this.terminate(); // timer K is zero
      return Action.deliver | Action.end;
    }
    this.state = 'completed';
    this.retransmitMs = NEVER;
    this.endMs = nowMs + this.timers.t4Ms; // timer K
    return Action.deliver;
  }

  /** Only INVITE is ever canceled. */
  abandon(): void {}

  override get isWaiting(): boolean {
    return this.state !== 'completed';
  }

  /** §17.1.2.2: doubling up to T2 while Trying, T2 at once when Proceeding. */
  protected override nextIntervalMs(): number {
    return this.state === 'trying' ? super.nextIntervalMs() : this.timers.t2Ms;
  }
}
