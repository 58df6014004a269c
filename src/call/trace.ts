/**
 * What happened to a call, in short: a bounded list of entries per call, kept for a while after
 * its end. For people and for `tandem trace`, not for billing (that is the call's record) and not
 * a log: entries hold first lines and outcomes, never bodies, digits or credentials.
 */
import type { Clock } from '../core/clock.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import type { TraceMessage } from '../sip/peer.ts';
import type { Decision } from './decision.ts';

export type TraceKind = 'sip' | 'webhook' | 'verb' | 'leg' | 'command' | 'call' | 'decision';

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
  /** Refused INVITEs of known sources whose history is still held. */
  readonly refusedMax: number;
  /** The same of strangers, apart so that a flood of them pushes out nothing else. */
  readonly strangersMax: number;
}

export const DEFAULT_TRACE: Omit<TraceOptions, 'clock'> = {
  entriesPerCallMax: 200,
  endedCallsMax: 1_000,
  textCharsMax: 200,
  unclaimedMax: 512,
  refusedMax: 1_000,
  strangersMax: 128,
};

/** An INVITE that became no call. */
export interface RefusedInvite {
  readonly sipCallId: string;
  readonly code: ErrorCode;
  /** Why, in words. */
  readonly text: string;
  /** Whose number was called; null where that is not known. */
  readonly accountSid: AccountSid | null;
  readonly decisions: readonly Decision[];
  /** Its source is nobody we know. */
  readonly isStranger: boolean;
}

/** What is known by a Call-ID: of a call, or of an INVITE that was refused. */
export interface TraceOfCallId {
  readonly callSid: CallSid | null;
  readonly refused: RefusedInvite | null;
  readonly entries: readonly TraceEntry[];
}

interface History {
  readonly entries: TraceEntry[];
  dropped: number;
  sipCallId: string;
  isEnded: boolean;
  readonly callSid: CallSid | null;
  readonly accountSid: AccountSid | null;
  readonly refused: RefusedInvite | null;
}

interface Ring {
  readonly callIds: string[];
  at: number;
}

export class TraceBook {
  readonly #options: TraceOptions;
  readonly #histories = new Map<CallSid, History>();
  /** The calls that ended last, in a ring: each one pushes out the oldest. */
  readonly #ended: CallSid[] = [];
  #endedAt = 0;
  readonly #bySip = new Map<string, History>();
  /** Call-IDs of refused INVITEs in rings, as `#ended` is. */
  readonly #refused: Ring = { callIds: [], at: 0 };
  readonly #strangers: Ring = { callIds: [], at: 0 };
  /** By Call-ID, oldest first: the INVITE is seen before there is a call it could belong to. */
  readonly #unclaimed = new Map<string, TraceMessage[]>();
  #unclaimedCount = 0;

  constructor(options: TraceOptions) {
    this.#options = options;
  }

  /** Starts the history of a call. Entries for a call that is not open are dropped. */
  open(sid: CallSid, accountSid: AccountSid | null = null): void {
    if (this.#histories.has(sid)) return;
    const history = { entries: [], dropped: 0, sipCallId: '', isEnded: false };
    this.#histories.set(sid, { ...history, callSid: sid, accountSid, refused: null });
  }

  add(sid: CallSid, kind: TraceKind, text: string, detail = ''): void {
    const history = this.#histories.get(sid);
    if (history !== undefined) this.#put(history, this.#options.clock.nowMs(), kind, text, detail);
  }

  #put(history: History, atMs: number, kind: TraceKind, text: string, detail: string): void {
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

  /** Why the call is, or is not, and where it goes. */
  decide(sid: CallSid, decisions: readonly Decision[]): void {
    const history = this.#histories.get(sid);
    if (history !== undefined) this.#decide(history, decisions);
  }

  #decide(history: History, decisions: readonly Decision[]): void {
    const nowMs = this.#options.clock.nowMs();
    for (const { step, ok, what, fix } of decisions) {
      this.#put(history, nowMs, 'decision', `${ok ? 'ok' : 'no'} ${step}: ${what}`, fix);
    }
  }

  /** An INVITE that became no call: what was compared stays for a while, by its Call-ID. */
  refuse(refused: RefusedInvite): void {
    const { sipCallId, code, text, isStranger } = refused;
    // Of a call that is there (a merged INVITE, say) the call's own history goes on.
    if (sipCallId === '' || this.#bySip.get(sipCallId)?.callSid) return;
    const known = this.#bySip.get(sipCallId);
    const history: History = {
      ...{ entries: known?.entries ?? [], dropped: known?.dropped ?? 0 },
      ...{ sipCallId, isEnded: true, callSid: null, accountSid: null, refused },
    };
    this.#claim(history);
    this.#decide(history, refused.decisions);
    this.#put(history, this.#options.clock.nowMs(), 'call', `refused: ${code}`, text);
    this.#bySip.set(sipCallId, history);
    if (known !== undefined) return;
    const { refusedMax, strangersMax } = this.#options;
    if (isStranger) this.#remember(this.#strangers, strangersMax, sipCallId);
    else this.#remember(this.#refused, refusedMax, sipCallId);
  }

  #remember(ring: Ring, max: number, callId: string): void {
    const oldest = ring.callIds[ring.at];
    if (oldest !== undefined && this.#bySip.get(oldest)?.callSid === null) {
      this.#bySip.delete(oldest);
    }
    ring.callIds[ring.at] = callId;
    ring.at = (ring.at + 1) % max;
  }

  /** What is known of a Call-ID; null when nothing is. */
  byCallId(sipCallId: string): TraceOfCallId | null {
    const history = this.#bySip.get(sipCallId);
    if (history === undefined) return null;
    const { callSid, refused, entries } = history;
    return { callSid, refused, entries };
  }

  /** From now on SIP messages with this Call-ID belong to the call. */
  bindSip(sipCallId: string, sid: CallSid): void {
    const history = this.#histories.get(sid);
    if (history === undefined || sipCallId === '' || history.sipCallId === sipCallId) return;
    const holder = this.#bySip.get(sipCallId);
    // A Call-ID is whatever a peer says: it must not move what another account is told.
    const isCall = holder !== undefined && holder.callSid !== null;
    if (isCall && holder.accountSid !== history.accountSid) return;
    if (this.#bySip.get(history.sipCallId) === history) this.#bySip.delete(history.sipCallId);
    history.sipCallId = sipCallId;
    this.#claim(history);
    this.#bySip.set(sipCallId, history);
  }

  /** Messages that came before anybody knew whose they are. */
  #claim(history: History): void {
    const messages = this.#unclaimed.get(history.sipCallId);
    if (messages === undefined) return;
    this.#unclaimed.delete(history.sipCallId);
    this.#unclaimedCount -= messages.length;
    for (const message of messages) this.#take(history, message);
  }

  /** A message the endpoint sent or received. */
  sip(message: TraceMessage): void {
    const history = this.#bySip.get(message.callId);
    if (history !== undefined) {
      this.#take(history, message);
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

  #take(history: History, message: TraceMessage): void {
    const arrow = message.direction === 'in' ? '<-' : '->';
    const again = message.retransmission ? ' (again)' : '';
    const { peer } = message;
    const where = `${peer.transport}:${peer.address}:${peer.port} ${message.bytes} B${again}`;
    this.#put(history, message.atMs, 'sip', `${arrow} ${message.firstLine}`, where);
  }

  /** The call ended: its history stays until newer ended calls push it out. */
  end(sid: CallSid): void {
    const history = this.#histories.get(sid);
    if (history === undefined || history.isEnded) return;
    history.isEnded = true;
    const oldest = this.#ended[this.#endedAt];
    if (oldest !== undefined) this.#forget(oldest);
    this.#ended[this.#endedAt] = sid;
    this.#endedAt = (this.#endedAt + 1) % this.#options.endedCallsMax;
  }

  #forget(sid: CallSid): void {
    const history = this.#histories.get(sid);
    this.#histories.delete(sid);
    const callId = history?.sipCallId ?? '';
    if (this.#bySip.get(callId) === history) this.#bySip.delete(callId);
  }

  /** Empty when nothing is known of the call any more. */
  entries(sid: CallSid): readonly TraceEntry[] {
    return this.#histories.get(sid)?.entries ?? [];
  }

  /** Entries left out of the middle because there were too many. */
  dropped(sid: CallSid): number {
    return this.#histories.get(sid)?.dropped ?? 0;
  }
}

/** What peers write must not move a terminal's cursor or end its line: no control characters. */
function plain(text: string, charsMax: number): string {
  const short = text.slice(0, charsMax);
  // Nearly every text is plain, and to look costs half of what to replace does.
  return /\p{Cc}/u.test(short) ? short.replace(/\p{Cc}/gu, ' ') : short;
}
