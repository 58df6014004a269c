/**
 * Tells applications how their calls go: one callback a status change, numbered, in order, through
 * `events/callbacks`. What a document asks to be told (recordings) comes through `notify`.
 */
import type { CallRecord, CallStatus, StatusCallbackEvent } from '../call/call-record.ts';
import type { CallNotice } from '../call/router.ts';
import { ERRORS, type ErrorRow } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import type { AccountSid } from '../core/sid.ts';
import type { Callbacks } from '../events/callbacks.ts';
import { rfc2822, seconds, standardParameters } from './parameters.ts';
import type { Notice } from './verb.ts';

export interface StatusCallbacksOptions {
  readonly callbacks: Pick<Callbacks, 'send'>;
  /** Null for an account that is not known (any more): nobody is told. */
  readonly authToken: (accountSid: AccountSid) => Secret | null;
}

const EVENT_OF: Readonly<Record<CallStatus, StatusCallbackEvent | null>> = {
  queued: null,
  initiated: 'initiated',
  ringing: 'ringing',
  'in-progress': 'answered',
  completed: 'completed',
  busy: 'completed',
  failed: 'completed',
  'no-answer': 'completed',
  canceled: 'completed',
};

export class StatusCallbacks {
  readonly #options: StatusCallbacksOptions;

  constructor(options: StatusCallbacksOptions) {
    this.#options = options;
  }

  take(notice: CallNotice): void {
    const { call } = notice;
    const event = EVENT_OF[call.status];
    const target = call.statusCallback;
    if (target === null || event === null || !target.events.includes(event)) return;
    // The notice of the end comes twice: as a change of status and as the completed call.
    if (event === 'completed' && notice.type !== 'call.completed') return;
    this.#send(call, {
      ...target,
      params: statusParameters(call, target.events, event, notice.atMs),
    });
  }

  /** Something a document asked to be told. */
  notify(call: CallRecord, notice: Notice): void {
    this.#send(call, { ...notice, params: { ...standardParameters(call), ...notice.params } });
  }

  #send(call: CallRecord, notice: Notice): void {
    const authToken = this.#options.authToken(call.accountSid);
    if (authToken === null) return;
    const { url, method, params } = notice;
    this.#options.callbacks.send({
      callSid: call.sid,
      url,
      method,
      params: Object.entries(params),
      authToken,
    });
  }
}

function statusParameters(
  call: CallRecord,
  asked: readonly StatusCallbackEvent[],
  event: StatusCallbackEvent,
  atMs: number,
): Record<string, string> {
  const params: Record<string, string> = {
    ...standardParameters(call),
    CallbackSource: 'call-progress-events',
    SequenceNumber: String(sequenceOf(call, asked, event)),
    Timestamp: rfc2822(atMs),
  };
  const { end } = call;
  if (event !== 'completed' || end === null) return params;
  params.CallDuration = seconds(end.durationMs);
  // In minutes, begun ones counted, as existing bills have it.
  params.Duration = String(Math.ceil(end.durationMs / 60_000));
  if (end.sipStatus > 0) params.SipResponseCode = String(end.sipStatus);
  // Ours: why it ended, whose fault that is, and in the words of who ended it.
  params.EndCode = end.code;
  params.EndFault = end.fault;
  if (end.reason !== '') params.SipReason = end.reason;
  // A record of another version of this program may name a code that is not here.
  const row: ErrorRow | undefined = ERRORS[end.code];
  if (row?.number !== undefined && call.status === 'failed') params.ErrorCode = String(row.number);
  return params;
}

/** From 0, counting what this receiver asked for and so was told before. */
function sequenceOf(
  call: CallRecord,
  asked: readonly StatusCallbackEvent[],
  event: StatusCallbackEvent,
): number {
  const before = happened(call).filter((one) => asked.includes(one));
  return before.indexOf(event) < 0 ? before.length : before.indexOf(event);
}

/** What a call has gone through, in order: it may be answered, or end, without ringing first. */
function happened(call: CallRecord): StatusCallbackEvent[] {
  const { direction, statusNo, ringingAtMs, answeredAtMs, end } = call;
  const isAnswered = answeredAtMs !== null;
  // A caller's call rings from the start, which is no change of its status.
  const hasRung =
    direction === 'inbound' ||
    (ringingAtMs !== null && ringingAtMs <= (answeredAtMs ?? ringingAtMs));
  const changes = [direction !== 'inbound' && hasRung, isAnswered, end !== null];
  const isInitiated = statusNo > changes.filter((one) => one).length;
  return [
    ...(isInitiated ? (['initiated'] as const) : []),
    ...(hasRung ? (['ringing'] as const) : []),
    ...(isAnswered ? (['answered'] as const) : []),
    ...(end === null ? [] : (['completed'] as const)),
  ];
}
