/**
 * The calling half of `<Dial>`: tries its nouns until one answers or none is left.
 *
 * All at once, or one after another when `sequential`; a `<Sip>` with several addresses tries the
 * next when one cannot be reached. What is known of a child call is read from its record each time
 * anything happens to it, so it does not matter which events were seen.
 */
import type { CallRecord } from '../call/call-record.ts';
import type { DialTarget } from '../call/route.ts';
import { orderGateways } from '../call/trunk-choice.ts';
import { asGatewayError, ERRORS, type ErrorCode, type ErrorRow } from '../core/errors.ts';
import type { Candidate, Noun } from './dial-nouns.ts';
import { endEarlyMedia, Hearing } from './dial-ringing.ts';
import {
  type Attempt,
  type AttemptEnd,
  change,
  type DialContext,
  type DialStatus,
  ended,
  openAttempts,
  stateOf,
} from './dial-state.ts';
import { sidOf } from './flow.ts';
import type { RingingTone } from './tones.ts';

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
  const hearing = new Hearing(dial.ringing, context);
  for (;;) {
    // What just failed may make the next one due; each noun has only so many addresses.
    do review(context);
    while (stateOf(context).winner === null && placeDue(dial, context));
    const open = openAttempts(context);
    if (stateOf(context).winner !== null || open.length === 0) break;
    if (hearing.review(open) && context.call.answeredAtMs !== null) await onRinging();
    const waitMs = dial.timeoutMs + context.options.dialGraceMs;
    const event = await context.next(Math.min(...open.map((one) => one.sinceMs)) + waitMs);
    if (event === null) giveUp(open, context, waitMs);
  }
  if (stateOf(context).earlyFrom !== stateOf(context).winner) endEarlyMedia(context);
  cancelOthers(context);
}

/** Begins the attempts that are due. True when any was. */
function placeDue(dial: Calling, context: DialContext): boolean {
  const { attempts } = stateOf(context);
  const due: Attempt[] = [];
  for (const [at, noun] of dial.nouns.entries()) {
    const last = attempts.findLast((attempt) => attempt.noun === at);
    const candidate = nextCandidate(noun, last);
    if (candidate !== null) due.push(place(dial, { noun, at, candidate }, context));
    const isTried = candidate === null ? last !== undefined && last.end !== null : false;
    if (dial.sequential && !isTried) break;
  }
  if (due.length === 0) return false;
  change(context, { attempts: [...attempts, ...due] });
  return true;
}

/** The address a noun is due for, given its last attempt; null when there is nothing to begin. */
function nextCandidate(noun: Noun, last: Attempt | undefined): number | null {
  if (last === undefined) return 0;
  const next = last.candidate + 1;
  return last.end?.status === 'failed' && next < noun.candidates.length ? next : null;
}

interface Due {
  readonly noun: Noun;
  readonly at: number;
  readonly candidate: number;
}

/** The attempt, its call placed or why there is none. */
function place(dial: Calling, { noun, at, candidate }: Due, context: DialContext): Attempt {
  const attempt: Attempt = {
    noun: at,
    candidate,
    sid: sidOf('CA', context.call.sid, `${context.id}.${at}.${candidate}`),
    sinceMs: context.nowMs(),
    isPlaced: false,
    end: noun.problem === null ? null : failure(noun.problem.code),
  };
  const chosen = inOrder(noun, at, context)[candidate];
  if (chosen === undefined) return attempt;
  try {
    context.children.place({
      sid: attempt.sid,
      parentCallSid: context.call.sid,
      target: throughTrunk(chosen.target, context),
      callerId: dial.callerId,
      ringTimeoutMs: dial.timeoutMs,
      timeLimitMs: dial.timeLimitMs,
      statusCallback: statusCallbackOf(noun, context),
    });
    attempt.isPlaced = true;
  } catch (thrown) {
    attempt.end = failure(asGatewayError(thrown).code);
  }
  return attempt;
}

/** A number on a trunk is reached through that trunk and no other. */
function throughTrunk(target: DialTarget, { passage }: DialContext): DialTarget {
  if (passage === null || target.kind !== 'number') return target;
  return { ...target, trunkSid: passage.trunkSid };
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
    const hex = sidOf('CA', context.call.sid, `${context.id}.${at}.draw${draw}`).slice(-8);
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
      ended(attempt, failure('LEG_LOST'), context);
    } else if (call.answeredAtMs !== null) {
      if (call.answeredAtMs < (first?.answeredAtMs ?? Number.POSITIVE_INFINITY)) first = call;
    } else if (call.end !== null) {
      ended(attempt, endOf(call, 0), context);
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
    ended(attempt, { ...failure('CALL_NO_ANSWER'), status: 'no-answer' }, context);
  }
}

function cancelOthers(context: DialContext): void {
  const { winner } = stateOf(context);
  for (const attempt of openAttempts(context)) {
    if (attempt.sid === winner) continue;
    context.children.hangup(attempt.sid, 'CALL_CANCELED');
    ended(attempt, { ...failure('CALL_CANCELED'), status: 'canceled' }, context);
  }
}
