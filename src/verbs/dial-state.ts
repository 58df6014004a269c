/**
 * How far a `<Dial>` is, as the flow keeps it: the calls it placed, who won, what the caller hears
 * meanwhile, whether the two were joined. Calling is `dial-attempts.ts`, what is heard before the
 * answer `dial-ringing.ts`.
 */
import type { SipHeaders } from '../call/leg.ts';
import type { CallSid } from '../core/sid.ts';
import type { OpenRecording } from './recording.ts';
import type { VerbContext } from './verb.ts';

export type DialStatus = 'completed' | 'busy' | 'no-answer' | 'failed' | 'canceled';

export interface AttemptEnd {
  readonly status: DialStatus;
  /** From its answer on; null when nobody knows, because another document took the callee away. */
  readonly durationMs: number | null;
  /** Of the dictionary, where the failure has one. */
  readonly number: number | null;
  readonly sipCallId: string;
  readonly sipStatus: number;
  readonly sipHeaders: SipHeaders;
}

export interface Attempt {
  readonly noun: number;
  readonly candidate: number;
  readonly sid: CallSid;
  readonly sinceMs: number;
  /** There is, or was, a call of that sid. */
  isPlaced: boolean;
  end: AttemptEnd | null;
}

/** Kept in place, as the flow that it is part of: `change` and `ended` say that it is another. */
export interface DialState {
  attempts: Attempt[];
  winner: CallSid | null;
  isRinging: boolean;
  /** The caller was given a ringing tone, which somebody must stop. */
  hasRingback: boolean;
  /** Ringing tones that were stopped: each has a name of its own. */
  ringbacks: number;
  /** Whose early media the caller hears. */
  earlyFrom: CallSid | null;
  areDigitsSent: boolean;
  /** The two legs were told to join. */
  isBridging: boolean;
  /** They said that they did. */
  isJoined: boolean;
  recording: OpenRecording | null;
  recorded: { readonly durationMs: number; readonly isFailed: boolean } | null;
}

function newDial(): DialState {
  return {
    attempts: [],
    winner: null,
    isRinging: false,
    hasRingback: false,
    ringbacks: 0,
    earlyFrom: null,
    areDigitsSent: false,
    isBridging: false,
    isJoined: false,
    recording: null,
    recorded: null,
  };
}

export type DialContext = VerbContext<DialState>;

export function stateOf(context: DialContext): DialState {
  return context.state ?? newDial();
}

export function change(context: DialContext, changes: Partial<DialState>): void {
  context.save(Object.assign(stateOf(context), changes));
}

/** Calls that are still there: to be ended when the verb is over before they are. */
export function openAttempts(context: DialContext): readonly Attempt[] {
  return stateOf(context).attempts.filter((attempt) => attempt.end === null);
}

export function ended(attempt: Attempt, how: AttemptEnd, context: DialContext): void {
  attempt.end = how;
  context.save(stateOf(context));
}
