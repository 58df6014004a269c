/**
 * What remains of calls: a row per call, written as the call changes. The row is what REST shows
 * when the call is no longer live. Not the journal, which is for going on after a crash.
 */
import type { CallSid } from '../core/sid.ts';
import type { CallEvent, CallRow, CallStatus as RowStatus, Store } from '../store/store.ts';
import type { CallRecord, CallStatus } from './call-record.ts';
import type { CallNotice } from './router.ts';
import type { TraceBook, TraceEntry } from './trace.ts';

export class Ledger {
  readonly #store: Store;
  readonly #trace: TraceBook;

  constructor(parts: { store: Store; trace: TraceBook }) {
    this.#store = parts.store;
    this.#trace = parts.trace;
  }

  /** Queues the row; with the last notice of a call, its trace too. Never waits. */
  take(notice: CallNotice): void {
    this.#store.calls.put(callRow(notice.call, notice.atMs));
    if (notice.type !== 'call.completed') return;
    const { sid: callSid, accountSid } = notice.call;
    const events = this.trace(callSid);
    if (events !== null) this.#store.callTraces.put({ callSid, accountSid, events });
  }

  /** The trace of a call that is still remembered, as it is kept. */
  trace(sid: CallSid): readonly CallEvent[] | null {
    const entries = this.#trace.entries(sid);
    return entries.length === 0 ? null : entries.map(event);
  }
}

function event(entry: TraceEntry, index: number): CallEvent {
  const { atMs, kind, text, detail } = entry;
  return { seq: index + 1, atMs, kind, data: { text, detail } };
}

/** `initiated` is a word of callbacks only; REST says queued until it rings. */
function rowStatus(status: CallStatus): RowStatus {
  return status === 'initiated' ? 'queued' : status;
}

/** Of a call that is still to be placed there is none (the reference: null until it is dialled). */
function startOf({ answeredAtMs, direction, createdAtMs, placedAtMs }: CallRecord): number | null {
  return answeredAtMs ?? (direction === 'inbound' ? createdAtMs : (placedAtMs ?? null));
}

export function callRow(call: CallRecord, nowMs: number): CallRow {
  const { end } = call;
  return {
    sid: call.sid,
    accountSid: call.accountSid,
    parentCallSid: call.parentCallSid,
    to: call.to,
    from: call.from,
    status: rowStatus(call.status),
    direction: call.direction,
    phoneNumberSid: call.phoneNumberSid ?? null,
    trunkSid: call.trunkSid,
    groupSid: null,
    answeredBy: null,
    forwardedFrom: call.forwardedFrom === '' ? null : call.forwardedFrom,
    callerName: call.callerName === '' ? null : call.callerName,
    queueTimeMs: 0,
    startMs: startOf(call),
    answerMs: call.answeredAtMs,
    endMs: call.endedAtMs,
    durationS: end === null ? null : Math.round(end.durationMs / 1000),
    endCode: end?.code ?? null,
    endFault: end?.fault ?? null,
    sipStatus: end?.sipStatus ?? null,
    dateCreatedMs: call.createdAtMs,
    dateUpdatedMs: nowMs,
  };
}
