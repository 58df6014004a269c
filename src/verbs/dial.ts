/**
 * `<Dial>`: calls somebody and joins the two.
 *
 * Calling out is `dial-attempts.ts`, whom is `dial-nouns.ts`. Here: the attributes, what happens
 * between the callee's answer and the joining (keys, whisper, the caller's own answer), the time
 * the two talk, and what the app is told afterwards. RFC 3261 knows no such thing: to SIP these
 * are two calls, and that they belong together is only our doing.
 */
import type { CallRecord } from '../call/call-record.ts';
import type { LegEvent } from '../call/leg.ts';
import { isUnreached } from '../call/pass-through.ts';
import { asGatewayError } from '../core/errors.ts';
import { type Calling, callOut, endOf } from './dial-attempts.ts';
import { DIAL_NOUNS, type Noun, numberNoun, readNoun } from './dial-nouns.ts';
import { endEarlyMedia, startRinging, stopRinging } from './dial-ringing.ts';
import {
  type Attempt,
  type AttemptEnd,
  change,
  type DialContext,
  type DialState,
  type DialStatus,
  ended,
  openAttempts,
  stateOf,
} from './dial-state.ts';
import { type FlowEvent, Interruption, sidOf } from './flow.ts';
import { playIdOf } from './output.ts';
import { seconds } from './parameters.ts';
import {
  RECORDING_ATTRIBUTES,
  type RecordingNotices,
  recordingBegan,
  recordingEnded,
  recordingNotices,
  trim,
} from './recording.ts';
import { flag, matching, method, oneOf, url, type Values, whole, withoutEffect } from './schema.ts';
import { RING_TONE_NAMES, RINGING_TONES } from './tones.ts';
import { answer, NEXT, type Outcome, type VerbRow, verb } from './verb.ts';

const RECORD_MODES = [
  'do-not-record',
  'record-from-answer',
  'record-from-ringing',
  'record-from-answer-dual',
  'record-from-ringing-dual',
] as const;

const ATTRIBUTES = {
  action: url(),
  method: method(),
  timeout: whole({ absent: 30, min: 5, max: 600, number: 13212 }),
  timeLimit: whole({ absent: 14_400, min: 1, max: 86_400, number: 13216 }),
  hangupOnStar: flag({ absent: false }),
  callerId: matching(/^[A-Za-z0-9+\-_.@:]{1,128}$/, 'a number or name', {
    absent: null,
    number: 13214,
  }),
  answerOnBridge: flag({ absent: false, number: 13219 }),
  ringTone: oneOf(RING_TONE_NAMES, { absent: 'us', number: 13220 }),
  record: oneOf(RECORD_MODES, {
    absent: 'do-not-record',
    number: 13217,
    aliases: { true: 'record-from-answer', false: 'do-not-record' },
  }),
  recordingTrack: oneOf(['inbound', 'outbound', 'both'], { absent: 'both' }),
  ...RECORDING_ATTRIBUTES,
  trim: trim('do-not-trim'),
  referUrl: url(),
  referMethod: method(),
  sequential: flag({ absent: false, number: 13218 }),
  callReason: withoutEffect(),
  recordingConfigurationId: withoutEffect(),
  events: withoutEffect(),
  passports: withoutEffect(),
};

/** More than this are left out when the document is read; `dialForksMax` may be lower. */
const NOUNS_MAX = 10;

interface Dial extends Calling {
  readonly action: string | null;
  readonly method: 'GET' | 'POST';
  readonly hangupOnStar: boolean;
  readonly answerOnBridge: boolean;
  readonly recording: DialRecording | null;
  /** Asked when one of the two would transfer the other. */
  readonly refer: { readonly url: string; readonly method: 'GET' | 'POST' } | null;
}

interface DialRecording {
  readonly fromRinging: boolean;
  readonly channels: 1 | 2;
  readonly track: 'inbound' | 'outbound' | 'both';
  readonly trimSilence: boolean;
  readonly notices: RecordingNotices;
}

const ROW: VerbRow<typeof ATTRIBUTES, Dial, DialState> = {
  name: 'Dial',
  doc: 'calls somebody and joins the two',
  attributes: ATTRIBUTES,
  children: DIAL_NOUNS,
  nestingNumber: 13215,
  hasText: true,
  whisperError: 'DIAL_IN_WHISPER',
  needsAnswer: (dial) => !dial.answerOnBridge,
  read(values, { element, text: written, children, reader }) {
    const nouns = children.map((child) => readNoun(child, reader));
    // Bare text is the number; beside nouns it can only be a slip.
    if (nouns.length === 0) nouns.push(numberNoun(written));
    else if (written !== '') reader.warn(element, 13215, '<Dial> takes text or nouns, not both');
    if (nouns.length > NOUNS_MAX) {
      reader.warn(element, 13215, `<Dial> calls ${NOUNS_MAX} at most; the rest is left out`);
    }
    return {
      action: values.action,
      method: values.method,
      nouns: nouns.slice(0, NOUNS_MAX),
      sequential: values.sequential,
      timeoutMs: values.timeout * 1000,
      timeLimitMs: values.timeLimit * 1000,
      callerId: values.callerId,
      ringing: RINGING_TONES[values.ringTone],
      hangupOnStar: values.hangupOnStar,
      answerOnBridge: values.answerOnBridge,
      recording: readRecording(values),
      refer: values.referUrl === null ? null : { url: values.referUrl, method: values.referMethod },
    };
  },
  run: runDial,
  async interrupt(dial, context) {
    const { winner, isBridging } = stateOf(context);
    if (isBridging && winner !== null) context.children.part(winner, `${context.id}.part`);
    endEarlyMedia(context);
    hangUpAll(context);
    stopRinging(context);
    await endRecording(dial, context, true);
  },
};

export const DIAL = verb(ROW);

function readRecording(values: Values<typeof ATTRIBUTES>): DialRecording | null {
  if (values.record === 'do-not-record') return null;
  const isDual = values.record.endsWith('-dual') && values.recordingTrack === 'both';
  return {
    fromRinging: values.record.startsWith('record-from-ringing'),
    channels: isDual ? 2 : 1,
    track: values.recordingTrack,
    trimSilence: values.trim === 'trim-silence',
    notices: recordingNotices(values),
  };
}

async function runDial(dial: Dial, context: DialContext): Promise<Outcome> {
  // Before anybody is called: what cannot be told afterwards must not be begun.
  const action = dial.action === null ? null : context.resolve(dial.action);
  for (const { whisper } of dial.nouns) if (whisper !== null) context.resolve(whisper.url);
  const { refer } = dial;
  if (refer !== null) context.takeRefer({ ...refer, url: context.resolve(refer.url) });
  try {
    if (stateOf(context).recording !== null) await beginRecording(dial, context);
    await callOut(dial, context, async () => {
      if (dial.recording?.fromRinging) await beginRecording(dial, context);
    });
    if (stateOf(context).winner === null) stopRinging(context);
    else await connect(dial, context);
    await endRecording(dial, context, true);
  } catch (thrown) {
    if (thrown instanceof Interruption && thrown.why !== 'ended') throw thrown;
    // Whatever went wrong, nobody is left ringing.
    hangUpAll(context);
    if (!(thrown instanceof Interruption)) {
      stopRinging(context);
      throw thrown;
    }
    // The caller is gone, and the app still hears how it went.
    const winner = winnerOf(context);
    if (winner !== undefined) settle(winner, context);
    await endRecording(dial, context, false);
  }
  if (action !== null) {
    return { kind: 'document', url: action, method: dial.method, params: result(dial, context) };
  }
  return recovery(dial, context) ?? NEXT;
}

/** Of a call that was to pass: who is asked when nobody at the trunk was reached. */
function recovery(dial: Dial, context: DialContext): Outcome | null {
  const asked = context.passage?.recovery ?? null;
  const { attempts, winner } = stateOf(context);
  const isGone = context.call.end !== null || context.call.endingCode !== null;
  if (asked === null || winner !== null || isGone) return null;
  const isLost = attempts.every(({ sid, isPlaced, end }) => {
    const call = isPlaced ? context.children.record(sid) : null;
    return end !== null && isUnreached(call, asked.failover);
  });
  if (!isLost) return null;
  const { url, method } = asked;
  return { kind: 'document', url, method, params: result(dial, context) };
}

/** From the callee's answer to the end of the talk. */
async function connect(dial: Dial, context: DialContext): Promise<void> {
  const attempt = winnerOf(context);
  const noun = attempt && dial.nouns[attempt.noun];
  if (attempt === undefined || noun === undefined) return;
  if (noun.sendDigits !== null || noun.whisper !== null) keepRinging(dial, context);
  if (noun.sendDigits !== null) await sendDigits(noun.sendDigits, attempt, context);
  // Who came in the place of a callee met nothing before the bridge.
  const isJoined = stateOf(context).isBridging;
  if (noun.whisper !== null && !isJoined) await whisper(noun.whisper, attempt, context);
  const isHere = context.children.record(attempt.sid)?.bridgedTo === context.call.sid;
  if ((isJoined && isHere) || isTalkable(attempt, context)) {
    await answer(context);
    stopRinging(context);
    if (stateOf(context).recording === null) await beginRecording(dial, context);
    change(context, { isBridging: true, earlyFrom: null });
    context.children.bridge(attempt.sid);
    await talk(dial, attempt, context);
  } else {
    stopRinging(context);
  }
  const last = winnerOf(context) ?? attempt;
  settle(last, context);
  if (stateOf(context).isBridging) context.children.part(last.sid, `${context.id}.part`);
}

/** What the callee is told before he talks is not for the caller, who hears it ring on. */
function keepRinging(dial: Dial, context: DialContext): void {
  if (stateOf(context).earlyFrom === null) return;
  endEarlyMedia(context);
  startRinging(dial.ringing, context);
}

async function sendDigits(digits: string, attempt: Attempt, context: DialContext): Promise<void> {
  if (stateOf(context).areDigitsSent) return;
  const playId = playIdOf(context, 'digits');
  context.children.send(attempt.sid, playId, { kind: 'sendDigits', playId, digits });
  while (isTalkable(attempt, context)) {
    const event = await context.next();
    if (isDigitsDone(event, attempt, playId)) break;
  }
  change(context, { areDigitsSent: true });
}

function isDigitsDone(event: FlowEvent | null, attempt: Attempt, playId: string): boolean {
  if (event?.kind !== 'child' || event.sid !== attempt.sid) return false;
  const fact = event.event;
  if (fact?.kind === 'playDone') return fact.playId === playId;
  return fact?.kind === 'commandFailed' && fact.id === playId;
}

/** The callee hears a document of his own first; he may hang up in it. */
async function whisper(
  from: NonNullable<Noun['whisper']>,
  attempt: Attempt,
  context: DialContext,
): Promise<void> {
  if (!isTalkable(attempt, context)) return;
  const url = context.resolve(from.url);
  context.children.whisper(attempt.sid, { url, method: from.method });
  while (isTalkable(attempt, context) && !context.children.isWhispered(attempt.sid)) {
    await context.next();
  }
}

function isTalkable(attempt: Attempt, context: DialContext): boolean {
  const call = context.children.record(attempt.sid);
  return isOurs(call, context) && call.end === null && call.endingCode === null;
}

/** False once another document took the callee away: he is no longer ours to join or to end. */
function isOurs(call: CallRecord | null, context: DialContext): call is CallRecord {
  return call?.endsWithParent === true || call?.endsWith === context.call.sid;
}

async function talk(dial: Dial, first: Attempt, context: DialContext): Promise<void> {
  let attempt = first;
  for (;;) {
    const isGoing = context.call.transferredTo !== null;
    const call = context.children.record(attempt.sid);
    const next = followed(attempt, context);
    if (next !== null) {
      attempt = next;
      continue;
    }
    if (!isGoing && (call === null || call.end !== null)) return;
    // Who gave the callee away only waits to be told how it went; who came instead may ring yet.
    if (isGoing || call?.answeredAtMs === null) {
      await context.next();
      continue;
    }
    if (call === null) return;
    if (call.bridgedTo !== context.call.sid && call.endingCode === null) {
      // Parted while both live: it never held, or another document took the callee away.
      if (!stateOf(context).isJoined && isOurs(call, context)) {
        context.children.hangup(attempt.sid, 'MEDIA_UNAVAILABLE');
      }
      return;
    }
    const event = await context.next();
    if (event?.kind === 'bridged') change(context, { isJoined: true });
    else if (event?.kind === 'digit' && event.key === '*' && dial.hangupOnStar) {
      context.children.hangup(attempt.sid, 'CALL_COMPLETED');
    } else takeRecorded(event, context);
  }
}

/**
 * The attempt that takes this one's place, where the callee asked to be replaced by another: once
 * that one is joined, or the callee has left.
 */
function followed(attempt: Attempt, context: DialContext): Attempt | null {
  const call = context.children.record(attempt.sid);
  const sid = call?.transferredTo ?? null;
  if (call === null || sid === null || sid === context.call.sid) return null;
  const next = context.children.record(sid);
  if (call.end === null && next?.bridgedTo !== context.call.sid) return null;
  settle(attempt, context);
  const { noun, candidate } = attempt;
  const sinceMs = context.nowMs();
  const place = { noun, candidate, sid, sinceMs, isPlaced: true, end: null };
  change(context, { attempts: [...stateOf(context).attempts, place], winner: sid });
  return place;
}

/** A recording that cannot begin does not keep two people from talking. */
async function beginRecording(dial: Dial, context: DialContext): Promise<void> {
  const { recording } = dial;
  if (recording === null || stateOf(context).recorded !== null) return;
  try {
    await record(dial, recording, context);
  } catch (thrown) {
    if (thrown instanceof Interruption) throw thrown;
    context.report(asGatewayError(thrown));
  }
}

async function record(dial: Dial, recording: DialRecording, context: DialContext): Promise<void> {
  const known = stateOf(context).recording;
  const sid = known?.sid ?? sidOf('RE', context.call.sid, context.id);
  const shape = {
    source: 'DialVerb',
    channels: recording.channels,
    track: recording.track,
    startedAtMs: known?.startedAtMs ?? context.nowMs(),
  } as const;
  const begun = await context.recordings.begin({ sid, call: context.call, ...shape });
  if (known === null) {
    const open = { sid, url: begun.url, ...shape };
    change(context, { recording: open });
    recordingBegan(open, recording.notices, context);
  }
  context.send('record', {
    kind: 'record',
    recordId: sid,
    path: begun.path,
    channels: recording.channels,
    source: ({ inbound: 'in', outbound: 'out', both: 'both' } as const)[recording.track],
    sampleRateHz: 8000,
    maxMs: dial.timeLimitMs,
    silenceMs: 0,
    trimSilence: recording.trimSilence,
  });
}

/** Keeps the recorder's word, whenever it comes; true when it was that. */
function takeRecorded(event: FlowEvent | null, context: DialContext): boolean {
  const sid = stateOf(context).recording?.sid;
  if (event === null || sid === undefined) return false;
  if (isRecordDone(event, sid)) {
    const { durationMs, reason } = event;
    change(context, { recorded: { durationMs, isFailed: reason === 'failed' } });
    return true;
  }
  if (event.kind !== 'commandFailed' || event.id !== `${context.id}.record`) return false;
  change(context, { recorded: { durationMs: 0, isFailed: true } });
  return true;
}

function isRecordDone(
  event: FlowEvent,
  sid: string,
): event is Extract<LegEvent, { kind: 'recordDone' }> {
  return event.kind === 'recordDone' && event.recordId === sid;
}

/** Stops the recorder and closes the book; waits for the recorder only while there is a leg. */
async function endRecording(dial: Dial, context: DialContext, hasLeg: boolean): Promise<void> {
  const { recording } = stateOf(context);
  if (recording === null || dial.recording === null) return;
  if (hasLeg && stateOf(context).recorded === null) {
    context.send('stopRecord', { kind: 'stopRecord', recordId: recording.sid });
    const untilMs = context.nowMs() + context.options.recordEndMsMax;
    try {
      for (;;) {
        const event = await context.next(untilMs);
        if (event === null || takeRecorded(event, context)) break;
      }
    } catch (thrown) {
      // The call went meanwhile: the clock knows how long it was.
      if (!(thrown instanceof Interruption) || thrown.why !== 'ended') throw thrown;
    }
  }
  const { durationMs, isFailed } = stateOf(context).recorded ?? {
    durationMs: Math.max(0, context.nowMs() - recording.startedAtMs),
    isFailed: false,
  };
  const status = isFailed ? 'failed' : durationMs === 0 ? 'absent' : 'completed';
  recordingEnded(recording, dial.recording.notices, context, { status, durationMs });
}

function hangUpAll(context: DialContext): void {
  for (const attempt of openAttempts(context)) {
    if (!isOurs(context.children.record(attempt.sid), context)) continue;
    const isWinner = attempt.sid === stateOf(context).winner;
    context.children.hangup(attempt.sid, isWinner ? 'CALL_COMPLETED' : 'CALL_CANCELED');
  }
}

function winnerOf(context: DialContext): Attempt | undefined {
  const { attempts, winner } = stateOf(context);
  return attempts.find((attempt) => attempt.sid === winner);
}

/** Which of several failures is told: the one that says most about the person called. */
const TELLING: readonly DialStatus[] = ['busy', 'no-answer', 'failed', 'canceled'];

function result(dial: Dial, context: DialContext): Readonly<Record<string, string>> {
  const { attempts, isJoined, recording } = stateOf(context);
  const winner = winnerOf(context);
  const attempt = winner ?? mostTelling(attempts);
  const end = attempt?.end ?? CANCELED;
  return {
    // Who answered was reached, whatever became of it; `DialBridged` says whether they talked.
    DialCallStatus: winner === undefined ? end.status : 'completed',
    ...(attempt?.isPlaced ? { DialCallSid: attempt.sid } : {}),
    ...(end.durationMs === null ? {} : { DialCallDuration: seconds(end.durationMs) }),
    DialBridged: String(isJoined),
    ...(recording === null ? {} : { RecordingUrl: recording.url }),
    ...(attempt !== undefined && dial.nouns[attempt.noun]?.kind === 'sip' ? sipResult(end) : {}),
    ...(winner !== undefined || end.number === null ? {} : { ErrorCode: String(end.number) }),
  };
}

/** Writes down how the call to the winner ended; once, because it may be forgotten elsewhere. */
function settle(attempt: Attempt, context: DialContext): void {
  const call = context.children.record(attempt.sid);
  if (winnerOf(context)?.end !== null || call === null || call.answeredAtMs === null) return;
  const nowMs = context.nowMs();
  const isTaken = call.end === null && call.endingCode === null;
  const durationMs = call.end?.durationMs ?? (isTaken ? null : nowMs - call.answeredAtMs);
  ended(attempt, endOf(call, durationMs), context);
}

function mostTelling(attempts: readonly Attempt[]): Attempt | undefined {
  for (const status of TELLING) {
    const found = attempts.findLast((attempt) => attempt.end?.status === status);
    if (found !== undefined) return found;
  }
  return attempts.at(-1);
}

function sipResult(end: AttemptEnd): Readonly<Record<string, string>> {
  const parameters: Record<string, string> = { DialSipResponseCode: String(end.sipStatus) };
  if (end.sipCallId !== '') parameters.DialSipCallId = end.sipCallId;
  for (const [name, value] of Object.entries(end.sipHeaders)) {
    parameters[`DialSipHeader_${name}`] = value;
  }
  return parameters;
}

/** The caller went first, and the call to this callee was still being set up. */
const CANCELED: AttemptEnd = {
  status: 'canceled',
  durationMs: 0,
  number: null,
  sipCallId: '',
  sipStatus: 487,
  sipHeaders: {},
};
