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
