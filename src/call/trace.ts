/**
 * What happened to a call, in short: a bounded list of entries per call, kept for a while after
 * its end. For people and for `tandem trace`, not for billing (that is the call's record) and not
 * a log: entries hold first lines and outcomes, never bodies, digits or credentials.
 */
import type { Clock } from '../core/clock.ts';
import type { CallSid } from '../core/sid.ts';
import type { TraceMessage } from '../sip/peer.ts';

export type TraceKind = 'sip' | 'webhook' | 'verb' | 'leg' | 'command' | 'call';

export interface TraceEntry {
  readonly atMs: number;
  readonly kind: TraceKind;
  readonly text: string;
  readonly detail: string;
}

export interface TraceOptions {
  readonly clock: Clock;
  /** Entries of one call; the first quarter (set-up) and the newest are kept. */
  readonly entriesPerCallMax: number;
  /** Ended calls whose history is still held. */
  readonly endedCallsMax: number;
  readonly textCharsMax: number;
  /** SIP messages held until a call claims their Call-ID. */
  readonly unclaimedMax: number;
}

export const DEFAULT_TRACE: Omit<TraceOptions, 'clock'> = {
  entriesPerCallMax: 200,
  endedCallsMax: 1_000,
  textCharsMax: 200,
  unclaimedMax: 512,
};

interface History {
  entries: TraceEntry[];
  dropped: number;
  sipCallId: string;
}

export class TraceBook {
  readonly #options: TraceOptions;
  readonly #live = new Map<CallSid, History>();
  /** In order of their end, oldest first. */
  readonly #ended = new Map<CallSid, History>();
  readonly #bySip = new Map<string, CallSid>();
  /** By Call-ID, oldest first: the INVITE is seen before there is a call it could belong to. */
  readonly #unclaimed = new Map<string, TraceMessage[]>();
  #unclaimedCount = 0;

  constructor(options: TraceOptions) {
    this.#options = options;
  }

  /** Starts the history of a call. Entries for a call that is not open are dropped. */
  open(sid: CallSid): void {
    if (!this.#live.has(sid)) this.#live.set(sid, { entries: [], dropped: 0, sipCallId: '' });
  }

  add(sid: CallSid, kind: TraceKind, text: string, detail = ''): void {
    this.#put(sid, this.#options.clock.nowMs(), kind, text, detail);
  }

  #put(sid: CallSid, atMs: number, kind: TraceKind, text: string, detail: string): void {
    const history = this.#live.get(sid) ?? this.#ended.get(sid);
    if (history === undefined) return;
    const { entriesPerCallMax, textCharsMax } = this.#options;
    history.entries.push({
      atMs,
      kind,
      text: plain(text, textCharsMax),
      detail: plain(detail, textCharsMax),
    });
    if (history.entries.length <= entriesPerCallMax) return;
    history.entries.splice(entriesPerCallMax >> 2, 1);
    history.dropped += 1;
  }

  /** From now on SIP messages with this Call-ID belong to the call. */
  bindSip(sipCallId: string, sid: CallSid): void {
    const history = this.#live.get(sid);
    if (history === undefined || sipCallId === '' || history.sipCallId === sipCallId) return;
    this.#bySip.delete(history.sipCallId);
    history.sipCallId = sipCallId;
    this.#bySip.set(sipCallId, sid);
    const messages = this.#unclaimed.get(sipCallId);
    if (messages === undefined) return;
    this.#unclaimed.delete(sipCallId);
    this.#unclaimedCount -= messages.length;
    for (const message of messages) this.#take(sid, message);
  }

  /** A message the endpoint sent or received. */
  sip(message: TraceMessage): void {
    const sid = this.#bySip.get(message.callId);
    if (sid !== undefined) {
      this.#take(sid, message);
      return;
    }
    const messages = this.#unclaimed.get(message.callId);
    if (messages === undefined) this.#unclaimed.set(message.callId, [message]);
    else messages.push(message);
    this.#unclaimedCount += 1;
    if (this.#unclaimedCount > this.#options.unclaimedMax) this.#dropUnclaimed();
  }

  /** The oldest message that nobody claimed goes. */
  #dropUnclaimed(): void {
    const oldest = this.#unclaimed.entries().next().value;
    if (oldest === undefined) return;
    const [callId, messages] = oldest;
    messages.shift();
    this.#unclaimedCount -= 1;
    if (messages.length === 0) this.#unclaimed.delete(callId);
  }

  #take(sid: CallSid, message: TraceMessage): void {
    const arrow = message.direction === 'in' ? '<-' : '->';
    const again = message.retransmission ? ' (again)' : '';
    const { peer } = message;
    const where = `${peer.transport}:${peer.address}:${peer.port} ${message.bytes} B${again}`;
    this.#put(sid, message.atMs, 'sip', `${arrow} ${message.firstLine}`, where);
  }

  /** The call ended: its history stays until newer ended calls push it out. */
  end(sid: CallSid): void {
    const history = this.#live.get(sid);
    if (history === undefined) return;
    this.#live.delete(sid);
    this.#ended.set(sid, history);
    if (this.#ended.size <= this.#options.endedCallsMax) return;
    const oldest = this.#ended.entries().next().value;
    if (oldest === undefined) return;
    this.#ended.delete(oldest[0]);
    if (this.#bySip.get(oldest[1].sipCallId) === oldest[0]) this.#bySip.delete(oldest[1].sipCallId);
  }

  /** Empty when nothing is known of the call any more. */
  entries(sid: CallSid): readonly TraceEntry[] {
    return (this.#live.get(sid) ?? this.#ended.get(sid))?.entries ?? [];
  }

  /** Entries left out of the middle because there were too many. */
  dropped(sid: CallSid): number {
    return (this.#live.get(sid) ?? this.#ended.get(sid))?.dropped ?? 0;
  }
}

/** What peers write must not move a terminal's cursor or end its line: no control characters. */
function plain(text: string, charsMax: number): string {
  const short = text.slice(0, charsMax);
  // Nearly every text is plain, and to look costs half of what to replace does.
  return /\p{Cc}/u.test(short) ? short.replace(/\p{Cc}/gu, ' ') : short;
}
