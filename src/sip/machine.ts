/**
 * The vocabulary of the four transaction machines (RFC 3261 §17, RFC 6026). A machine is a state
 * and a deadline: each input with the time returns a set of actions as bits, so that no step of a
 * call allocates anything. The machines know no message, socket or timer; the transaction table
 * drives them.
 */

/** What the driver has to do, in this order; combined by `|`. */
export const Action = {
  none: 0,
  /** Send the request, or the last response, again or for the first time. */
  send: 1,
  /** Send ACK for a non-2xx final response (client INVITE only). */
  ack: 2,
  /** Hand the message to the transaction user. */
  deliver: 4,
  /** Tell the user that the peer never answered (timers B, F) or never sent ACK (timer H). */
  timeout: 8,
  /** Forget the transaction. */
  end: 16,
} as const;

export type Actions = number;

/** RFC 3261 table 4. */
export interface TransactionTimers {
  /** Estimate of the round trip. */
  readonly t1Ms: number;
  /** Longest interval between retransmissions. */
  readonly t2Ms: number;
  /** How long a message can stay in the network. */
  readonly t4Ms: number;
  /** Timer D on unreliable transports: above 32 s. */
  readonly timerDMs: number;
}

export const DEFAULT_TIMERS: TransactionTimers = {
  t1Ms: 500,
  t2Ms: 4000,
  t4Ms: 5000,
  timerDMs: 32_500,
};

export const NEVER = Number.POSITIVE_INFINITY;

export interface MachineOptions {
  readonly timers: TransactionTimers;
  /** The transport loses nothing: nothing is sent twice, and nothing lingers (§17, timers zero). */
  readonly reliable: boolean;
}

type MachineState =
  | 'calling'
  | 'trying'
  | 'proceeding'
  | 'completed'
  | 'confirmed'
  | 'accepted'
  | 'terminated';

/** What the four have in common: two deadlines, and what happens when one of them is reached. */
export abstract class Machine {
  abstract state: MachineState;
  protected readonly timers: TransactionTimers;
  protected readonly reliable: boolean;
  /** Timer A, E or G: the next retransmission, and the interval that led to it. */
  protected retransmitMs = NEVER;
  protected intervalMs = 0;
  /** Timer B, D, F, H, I, J, K, L or M, by kind and state. */
  protected endMs = NEVER;

  constructor(options: MachineOptions) {
    this.timers = options.timers;
    this.reliable = options.reliable;
  }

  /** When `expire` is to be called next. */
  get deadlineMs(): number {
    return Math.min(this.retransmitMs, this.endMs);
  }

  expire(nowMs: number): Actions {
    if (nowMs >= this.endMs) {
      const actions = this.isWaiting ? Action.timeout | Action.end : Action.end;
      this.terminate();
      return actions;
    }
    if (nowMs < this.retransmitMs) return Action.none;
    this.intervalMs = this.nextIntervalMs();
    this.retransmitMs = nowMs + this.intervalMs;
    return Action.send;
  }

  /** Whether the peer still owes an answer, or the ACK of one. */
  abstract get isWaiting(): boolean;

  protected nextIntervalMs(): number {
    return Math.min(2 * this.intervalMs, this.timers.t2Ms);
  }

  /** What was sent is sent again until it is answered; on reliable transports it is not. */
  protected retransmit(nowMs: number): void {
    if (this.reliable) return;
    this.intervalMs = this.timers.t1Ms;
    this.retransmitMs = nowMs + this.intervalMs;
  }

  protected terminate(): void {
    this.state = 'terminated';
    this.retransmitMs = NEVER;
    this.endMs = NEVER;
  }
}
