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
  readonly events: RelativeEvents | AbsoluteEvents;
}

/** Times count from the first: they are short so, and a full time is slow to turn into text. */
type RelativeEvents = readonly [startMs: number, ...events: KeptEvent[]];
/** Rows from before: times count from the epoch. */
type AbsoluteEvents = readonly (KeptEvent | CallEvent)[];

type KeptEvent =
  | readonly [sinceMs: number, kind: string, text: Json, detail: Json]
  /** Its data are not just a text and its detail. */
  | readonly [sinceMs: number, kind: string, data: CallEvent['data']];

export function packTrace({ callSid, accountSid, events }: CallTraceRow): KeptTrace {
  const startMs = events[0]?.atMs ?? 0;
  return { callSid, accountSid, events: [startMs, ...events.map((one) => packed(one, startMs))] };
}

export function unpackTrace({ events }: KeptTrace): readonly CallEvent[] {
  if (!isRelative(events)) {
    return events.map((one, index) => (isList(one) ? unpacked(one, index, 0) : one));
  }
  const [startMs, ...kept] = events;
  return kept.map((one, index) => unpacked(one, index, startMs));
}

function packed({ atMs, kind, data }: CallEvent, startMs: number): KeptEvent {
  const sinceMs = atMs - startMs;
  const { text, detail } = data;
  const isShort = text !== undefined && detail !== undefined && Object.keys(data).length === 2;
  return isShort ? [sinceMs, kind, text, detail] : [sinceMs, kind, data];
}

function unpacked(kept: KeptEvent, index: number, startMs: number): CallEvent {
  const seq = index + 1;
  const atMs = startMs + kept[0];
  if (kept.length === 3) return { seq, atMs, kind: kept[1], data: kept[2] };
  const [, kind, text, detail] = kept;
  return { seq, atMs, kind, data: { text, detail } };
}

function isRelative(events: RelativeEvents | AbsoluteEvents): events is RelativeEvents {
  return typeof events[0] === 'number';
}

/** `Array.isArray` does not tell readonly lists from the rest. */
function isList(kept: KeptEvent | CallEvent): kept is KeptEvent {
  return Array.isArray(kept);
}
