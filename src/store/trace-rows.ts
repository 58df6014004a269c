/**
 * How a call's trace lies in its row: a short list for each event instead of an object, because
 * every call writes one and the names would be a third of it. Not the rows' table: that is `sql`.
 */
import type { AccountSid, CallSid } from '../core/sid.ts';
import type { CallEvent, CallTraceRow, Json } from './store.ts';

/** What is in the row. `seq` is the place in the list. */
export interface KeptTrace {
  readonly callSid: CallSid;
  readonly accountSid: AccountSid;
  readonly events: readonly KeptEvent[];
}

type KeptEvent =
  | readonly [atMs: number, kind: string, text: Json, detail: Json]
  /** Its data are not just a text and its detail. */
  | readonly [atMs: number, kind: string, data: CallEvent['data']]
  /** Rows from before there were lists. */
  | CallEvent;

export function packTrace({ callSid, accountSid, events }: CallTraceRow): KeptTrace {
  return { callSid, accountSid, events: events.map(packed) };
}

export function unpackTrace({ events }: KeptTrace): readonly CallEvent[] {
  return events.map(unpacked);
}

function packed({ atMs, kind, data }: CallEvent): KeptEvent {
  const { text, detail } = data;
  const isShort = text !== undefined && detail !== undefined && Object.keys(data).length === 2;
  return isShort ? [atMs, kind, text, detail] : [atMs, kind, data];
}

function unpacked(kept: KeptEvent, index: number): CallEvent {
  if (!isList(kept)) return kept;
  const seq = index + 1;
  if (kept.length === 3) return { seq, atMs: kept[0], kind: kept[1], data: kept[2] };
  const [atMs, kind, text, detail] = kept;
  return { seq, atMs, kind, data: { text, detail } };
}

/** `Array.isArray` does not tell readonly lists from the rest. */
function isList(kept: KeptEvent): kept is Exclude<KeptEvent, CallEvent> {
  return Array.isArray(kept);
}
