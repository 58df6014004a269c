/**
 * The calling half of `<Dial>`: tries its nouns until one answers or none is left.
 *
 * All at once, or one after another when `sequential`; a `<Sip>` with several addresses tries the
 * next when one cannot be reached. What is known of a child call is read from its record each time
 * anything happens to it, so it does not matter which events were seen.
 */
import type { CallRecord } from '../call/call-record.ts';
import type { SipHeaders } from '../call/leg.ts';
import { orderGateways } from '../call/route.ts';
import { asGatewayError, ERRORS, type ErrorCode, type ErrorRow } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import type { Candidate, Noun } from './dial-nouns.ts';
import { sidOf } from './flow.ts';
import { playIdOf, stop } from './output.ts';
import type { OpenRecording } from './recording.ts';
import type { RingingTone } from './tones.ts';
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
  readonly isPlaced: boolean;
  readonly end: AttemptEnd | null;
}

export interface DialState {
  readonly attempts: readonly Attempt[];
  readonly winner: CallSid | null;
  readonly isRinging: boolean;
  /** The caller was given a ringing tone, which somebody must stop. */
  readonly hasRingback: boolean;
  readonly areDigitsSent: boolean;
  /** The two legs were told to join. */
  readonly isBridging: boolean;
  /** They said that they did. */
  readonly isJoined: boolean;
  readonly recording: OpenRecording | null;
  readonly recorded: { readonly durationMs: number; readonly isFailed: boolean } | null;
}

const NEW_DIAL: DialState = {
  attempts: [],
  winner: null,
  isRinging: false,
  hasRingback: false,
  areDigitsSent: false,
  isBridging: false,
  isJoined: false,
  recording: null,
  recorded: null,
};

export type DialContext = VerbContext<DialState>;

/** What the calling half needs of the verb's arguments. */
export interface Calling {
  readonly nouns: readonly Noun[];
  readonly sequential: boolean;
  readonly timeoutMs: number;
  readonly timeLimitMs: number;
  readonly callerId: string | null;
  readonly ringing: RingingTone;
}

/**
 * Resolves once the state has a winner or every attempt has ended. `onRinging` is called when it
 * rings at the first of them and the caller can hear it.
 */
export async function callOut(
  dial: Calling,
  context: DialContext,
  onRinging: () => Promise<void>,
): Promise<void> {
  let isSaid = false;
  while (stateOf(context).winner === null) {
    place(dial, context);
    review(context);
    // What just failed may make the next one due; each noun has only so many addresses.
    while (stateOf(context).winner === null && plan(dial, context)) {
      place(dial, context);
      review(context);
    }
    const open = openAttempts(context);
    if (stateOf(context).winner !== null || open.length === 0) break;
    if (!isSaid) {
      isSaid = sayRinging(dial, context);
      if (isSaid && context.call.answeredAtMs !== null) await onRinging();
    }
    const waitMs = dial.timeoutMs + context.options.dialGraceMs;
    const event = await context.next(Math.min(...open.map((one) => one.sinceMs)) + waitMs);
    if (event === null) giveUp(open, context, waitMs);
  }
  cancelOthers(context);
}

export function stateOf(context: DialContext): DialState {
  return context.state ?? NEW_DIAL;
}

export function change(context: DialContext, changes: Partial<DialState>): void {
  context.save({ ...stateOf(context), ...changes });
}

/** Calls that are still there: to be ended when the verb is over before they are. */
export function openAttempts(context: DialContext): readonly Attempt[] {
  return stateOf(context).attempts.filter((attempt) => attempt.end === null);
}

/** Adds the attempts that are due. True when any was. */
function plan(dial: Calling, context: DialContext): boolean {
  const due: Attempt[] = [];
  for (const [at, noun] of dial.nouns.entries()) {
    const last = stateOf(context).attempts.findLast((attempt) => attempt.noun === at);
    const attempt = next(noun, at, last, context);
    if (attempt !== null) due.push(attempt);
    const isTried = attempt === null ? last !== undefined && last.end !== null : false;
    if (dial.sequential && !isTried) break;
  }
  if (due.length === 0) return false;
  change(context, { attempts: [...stateOf(context).attempts, ...due] });
  return true;
}

/** The attempt a noun is due for, given its last one; null when there is nothing to begin. */
function next(
  noun: Noun,
  at: number,
  last: Attempt | undefined,
  context: DialContext,
): Attempt | null {
  const candidate = last === undefined ? 0 : last.candidate + 1;
  const isDue =
    last === undefined || (last.end?.status === 'failed' && candidate < noun.candidates.length);
  if (!isDue) return null;
  return {
    noun: at,
    candidate,
    sid: sidOf('CA', context.call.sid, `${context.id}.${at}.${candidate}`),
    sinceMs: context.nowMs(),
    isPlaced: false,
    end: noun.problem === null ? null : failure(noun.problem.code),
  };
}

function place(dial: Calling, context: DialContext): void {
  for (const attempt of openAttempts(context)) {
    if (!attempt.isPlaced) placeOne(dial, attempt, context);
  }
}

function placeOne(dial: Calling, attempt: Attempt, context: DialContext): void {
  const noun = dial.nouns[attempt.noun];
  const candidate = noun && inOrder(noun, attempt.noun, context)[attempt.candidate];
  if (noun === undefined || candidate === undefined) return;
  try {
    context.children.place({
      sid: attempt.sid,
      parentCallSid: context.call.sid,
      target: candidate.target,
      callerId: dial.callerId,
      ringTimeoutMs: dial.timeoutMs,
      timeLimitMs: dial.timeLimitMs,
      statusCallback: statusCallbackOf(noun, context),
    });
    update(context, attempt.sid, { isPlaced: true });
  } catch (thrown) {
    update(context, attempt.sid, { end: failure(asGatewayError(thrown).code) });
  }
}

/** Somewhere that cannot be told is no reason not to call. */
function statusCallbackOf(noun: Noun, context: DialContext): Noun['statusCallback'] {
  if (noun.statusCallback === null) return null;
  try {
    return { ...noun.statusCallback, url: context.resolve(noun.statusCallback.url) };
  } catch (thrown) {
    context.report(asGatewayError(thrown));
    return null;
  }
}

/** Drawn by weight, but from the flow's own name, so that a rebuild draws the same. */
function inOrder(noun: Noun, at: number, context: DialContext): readonly Candidate[] {
  if (noun.candidates.length < 2) return noun.candidates;
  let draw = 0;
  const random = (): number => {
    draw += 1;
    const hex = sidOf('CA', context.call.sid, `${context.id}.${at}.draw${draw}`).slice(2, 10);
    return Number.parseInt(hex, 16) / 2 ** 32;
  };
  const gateways = noun.candidates.map(({ priority, weight }, index) => ({
    uri: String(index),
    priority,
    weight,
  }));
  const ordered = orderGateways(gateways, random);
  return ordered.flatMap(({ uri }) => noun.candidates[Number(uri)] ?? []);
}

/** Takes in what has become of the calls. The first to have answered wins. */
function review(context: DialContext): void {
  let first: CallRecord | null = null;
  for (const attempt of openAttempts(context)) {
    const call = attempt.isPlaced ? context.children.record(attempt.sid) : null;
    if (call === null) {
      update(context, attempt.sid, { end: failure('LEG_LOST') });
    } else if (call.answeredAtMs !== null) {
      if (call.answeredAtMs < (first?.answeredAtMs ?? Number.POSITIVE_INFINITY)) first = call;
    } else if (call.end !== null) {
      update(context, attempt.sid, { end: endOf(call, 0) });
    } else if (call.status === 'ringing' && !stateOf(context).isRinging) {
      change(context, { isRinging: true });
    }
  }
  if (first !== null) change(context, { winner: first.sid });
}

/** How a call ended, or how it would end if it did now. */
export function endOf(call: CallRecord, durationMs: number | null): AttemptEnd {
  const { end, sip } = call;
  return {
    status: dialStatus(call),
    durationMs,
    number: end === null || call.answeredAtMs !== null ? null : numberOf(end.code),
    sipCallId: sip.callId,
    sipStatus: end === null || call.answeredAtMs !== null ? 200 : end.sipStatus,
    sipHeaders: call.answeredAtMs === null ? (end?.sipHeaders ?? {}) : sip.headers,
  };
}

function dialStatus(call: CallRecord): DialStatus {
  if (call.answeredAtMs !== null) return 'completed';
  switch (call.status) {
    case 'busy':
    case 'no-answer':
    case 'canceled':
      return call.status;
    default:
      return 'failed';
  }
}

function failure(code: ErrorCode): AttemptEnd {
  const sipStatus = ERRORS[code].sip;
  return {
    status: 'failed',
    durationMs: 0,
    number: numberOf(code),
    sipCallId: '',
    sipStatus,
    sipHeaders: {},
  };
}

function numberOf(code: ErrorCode): number | null {
  const row: ErrorRow = ERRORS[code];
  return row.number ?? null;
}

/** Their legs should have ended them by now. */
function giveUp(open: readonly Attempt[], context: DialContext, waitMs: number): void {
  for (const attempt of open) {
    if (attempt.sinceMs + waitMs > context.nowMs()) continue;
    context.children.hangup(attempt.sid, 'CALL_NO_ANSWER');
    const end = { ...failure('CALL_NO_ANSWER'), status: 'no-answer' as const };
    update(context, attempt.sid, { end });
  }
}

function cancelOthers(context: DialContext): void {
  const { winner } = stateOf(context);
  for (const attempt of openAttempts(context)) {
    if (attempt.sid === winner) continue;
    context.children.hangup(attempt.sid, 'CALL_CANCELED');
    const end = { ...failure('CALL_CANCELED'), status: 'canceled' as const };
    update(context, attempt.sid, { end });
  }
}

export function update(context: DialContext, sid: CallSid, changes: Partial<Attempt>): void {
  const attempts = stateOf(context).attempts.map((attempt) =>
    attempt.sid === sid ? { ...attempt, ...changes } : attempt,
  );
  change(context, { attempts });
}

/**
 * The caller hears that it rings: as a tone once answered, as a 180 before. True when that is said;
 * a call that is not answered yet is told at once, because it rings itself.
 */
function sayRinging(dial: Calling, context: DialContext): boolean {
  if (context.call.answeredAtMs === null) {
    context.send('ring', { kind: 'ring', earlyMedia: false });
    return true;
  }
  if (!stateOf(context).isRinging) return false;
  const source = { kind: 'tone' as const, ...dial.ringing, levelDb: -19, count: 1 };
  const playId = playIdOf(context, 'ringback');
  if (!stateOf(context).hasRingback) change(context, { hasRingback: true });
  context.send('ringback', { kind: 'play', playId, source, loop: 0 });
  return true;
}

/** Only where there was one: a caller who hears the callee's own ringing, or none, has nothing. */
export function stopRinging(context: DialContext): void {
  if (!stateOf(context).hasRingback) return;
  change(context, { hasRingback: false });
  stop(context, 'ringback');
}
