/**
 * Tells applications how their calls go: one callback a status change, numbered, in order, through
 * `events/callbacks`. What a document asks to be told (recordings) comes through `notify`.
 */
import type { CallRecord, CallStatus, StatusCallbackEvent } from '../call/call-record.ts';
import type { CallNotice } from '../call/router.ts';
import type { Secret } from '../core/log.ts';
import type { AccountSid } from '../core/sid.ts';
import type { Callbacks } from '../events/callbacks.ts';
import { rfc2822, seconds, standardParameters } from './parameters.ts';
import type { Notice } from './verb.ts';

export interface StatusCallbacksOptions {
  readonly callbacks: Callbacks;
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
    this.#send(call, { ...target, params: statusParameters(call, event, notice.atMs) });
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
  event: StatusCallbackEvent,
  atMs: number,
): Record<string, string> {
  const params: Record<string, string> = {
    ...standardParameters(call),
    CallbackSource: 'call-progress-events',
    SequenceNumber: String(sequenceOf(call)),
    Timestamp: rfc2822(atMs),
  };
  const { end } = call;
  if (event !== 'completed' || end === null) return params;
  params.CallDuration = seconds(end.durationMs);
  // In minutes, begun ones counted, as existing bills have it.
  params.Duration = String(Math.ceil(end.durationMs / 60_000));
  if (end.sipStatus > 0) params.SipResponseCode = String(end.sipStatus);
  return params;
}

/** Counts those of the four events that came before, whoever asked for them. */
function sequenceOf(call: CallRecord): number {
  return Math.max(0, call.statusNo - 1);
}
