/**
 * A call: one CallSid, one leg, a status and its times, and the flow record of whatever runs it.
 * A state machine over leg events and nothing else: signaling and media are in `sip-leg.ts`, the
 * live table and placing in `router.ts`, joining two calls in `bridge.ts`, verbs above.
 *
 * Everything needed to go on after this object is lost is in `record`, plain data that the journal
 * takes whenever it changes; `Call.restore` builds a fresh object from it. Commands and events go
 * over the bus only, so the leg may live on another node (see `leg.ts` for the two rules).
 */
import { EventEmitter } from 'node:events';
import type { Bus, Subscription } from '../bus/bus.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, ERRORS, type ErrorCode } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { CallSid, TrunkSid } from '../core/sid.ts';
import {
  type CallApplication,
  type CallEnd,
  type CallRecord,
  type CallStatus,
  detailOf,
  FINAL_STATUSES,
  finalStatus,
  isJoinedBy,
} from './call-record.ts';
import { Deadline } from './deadline.ts';
import type { Journal } from './journal.ts';
import {
  callSubject,
  type EndCause,
  type LegAction,
  type LegCommand,
  type LegEnded,
  type LegEvent,
  legSubject,
  type SipHeaders,
} from './leg.ts';
import type { TraceBook } from './trace.ts';

export type {
  CallApplication,
  CallDirection,
  CallEnd,
  CallRecord,
  CallStatus,
  HttpMethod,
  StatusCallback,
  StatusCallbackEvent,
} from './call-record.ts';
export { newCallRecord } from './call-record.ts';

export interface CallEvents {
  status: [status: CallStatus];
  /** Every event of the leg, once and in order, after the record took it in. */
  leg: [event: LegEvent];
  ended: [end: CallEnd];
}

export interface CallOptions {
  /** Upper bound of a call's length when nothing smaller is asked. */
  readonly durationMsMax: number;
  /**
   * How long a call may stay unanswered. A call that waits for one it dials needs as long as that
   * may ring, and one that rings ends by its own ring time first, so this is above both.
   */
  readonly setupMsMax: number;
  /** How long a leg may take to end after it was told to (RFC 3261 Timer B/F are 32 s). */
  readonly endMsMax: number;
}

/** The longest ring time that a dial or the REST API may ask for. */
export const RING_TIMEOUT_MS_MAX = 600_000;
const END_MS_MAX = 40_000;

export const DEFAULT_CALL_OPTIONS: CallOptions = {
  durationMsMax: 14_400_000,
  setupMsMax: RING_TIMEOUT_MS_MAX + END_MS_MAX,
  endMsMax: END_MS_MAX,
};

/** Who holds the table of calls: told before anybody who listens. */
export interface CallKeeper {
  /** A status that is not the last. */
  onStatus(call: Call): void;
  onEnded(call: Call): void;
  /** Another call's end that makes it end, when there is one. */
  whyEnds?(call: Call, code: ErrorCode): EndCause | null;
}

export interface CallDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly bus: Bus;
  readonly journal: Journal;
  readonly trace: TraceBook;
  readonly keeper: CallKeeper;
  readonly options: CallOptions;
}

/** Verbs, a bridge and the calls that watch this one. */
const LISTENERS_MAX = 64;
/**
 * Events between two words to the leg of what need not be kept. The word names what was seen a
 * round earlier: by then the journal has it, and a call built from its record misses nothing.
 */
const ACK_EVENTS = 8;
/** So many events after a hole nothing will be repeated any more: the leg has forgotten it. */
const HOLE_EVENTS_MAX = 256;

type Relations = Pick<
  CallRecord,
  'bridgedTo' | 'childSids' | 'endsWithParent' | 'endsWith' | 'transferredTo'
>;
type Writable<T> = { -readonly [K in keyof T]: T[K] };

export class Call extends EventEmitter<CallEvents> {
  readonly sid: CallSid;
  readonly #deps: CallDeps;
  readonly #record: Writable<CallRecord>;
  #isLive: boolean;
  readonly #legSubject: ReturnType<typeof legSubject>;
  readonly #journalKey: string;
  #subscription: Subscription | null = null;
  readonly #deadline: Deadline<'setup' | 'limit' | 'end'>;
  /** Names this object among those that are built for one call: their command ids must differ. */
  readonly #life: string;
  #commandNo = 0;
  /** First number seen beyond a hole in the leg's events; 0 when there is none. */
  #holeAt = 0;
  /** The leg's number that the next acknowledgement names, and the one it is due at. */
  #ackSeq: number;
  #ackDueSeq: number;

  private constructor(record: CallRecord, deps: CallDeps) {
    super();
    this.sid = record.sid;
    this.#record = record;
    this.#isLive = !FINAL_STATUSES.has(record.status);
    this.#deps = deps;
    this.#legSubject = legSubject(record.legId);
    this.#journalKey = `call.${record.sid}`;
    this.#ackSeq = record.legSeq;
    this.#ackDueSeq = record.legSeq + ACK_EVENTS;
    this.#life = deps.clock.randomHex(3);
    this.#deadline = new Deadline(deps.clock, (kind) => this.#onDeadline(kind));
    this.setMaxListeners(LISTENERS_MAX);
  }

  /** A new call, whose `record` is its own from now on; it hears its leg from the first event. */
  static create(record: CallRecord, deps: CallDeps): Call {
    const call = new Call(record, deps);
    call.#listen();
    call.#changed();
    return call;
  }

  /** A call brought back from its record: asks the leg for what it missed and goes on. */
  static restore(record: CallRecord, deps: CallDeps): Call {
    const call = Call.create(record, deps);
    if (call.isLive) call.attach();
    call.insist();
    return call;
  }

  /** The present state. The object changes with the call: copy what must stay. */
  get record(): CallRecord {
    return this.#record;
  }

  get isLive(): boolean {
    return this.#isLive;
  }

  /** Plain data for the journal. */
  snapshot(): CallRecord {
    return this.#record;
  }

  /** Gives the leg a command with an id of the caller's making. Nothing happens once ended. */
  send(command: LegCommand): void {
    if (!this.isLive) return;
    this.#deps.trace.add(this.sid, 'command', command.kind, command.id);
    try {
      this.#deps.bus.publish(this.#legSubject, command);
    } catch (thrown) {
      this.#onFault(thrown);
    }
  }

  /** Gives the leg a command under a fresh id and returns that id. */
  act(action: LegAction): string {
    this.#commandNo += 1;
    const id = `c.${this.#life}.${this.#commandNo}`;
    this.send({ id, ...action });
    return id;
  }

  /** Makes the leg repeat every event this call has not seen. */
  attach(): void {
    this.act({ kind: 'attach', fromSeq: this.#record.legSeq });
  }

  /** Ends the call. The first code given wins; 'ended' comes when the leg is gone. */
  hangup(code: ErrorCode = 'CALL_COMPLETED', reason?: string): void {
    if (!this.isLive || this.#record.endingCode !== null) return;
    const cause = this.#deps.keeper.whyEnds?.(this, code) ?? null;
    const endingCode = cause?.code ?? code;
    this.#record.endingCode = endingCode;
    this.#deadline.set(this.#deps.options.endMsMax, 'end');
    this.act({
      kind: 'hangup',
      code: endingCode,
      ...(reason === undefined ? {} : { reason }),
      ...(cause === null ? {} : { cause }),
    });
    this.#changed();
  }

  /** Says `hangup` once more, when there is one: the leg was not there yet to hear the first. */
  insist(): void {
    const code = this.#record.endingCode;
    if (code !== null) this.act({ kind: 'hangup', code });
  }

  /** Ends the call at once without a leg's word: it never got one, or it is lost. */
  fail(code: ErrorCode, reason: string = ERRORS[code].text): void {
    if (!this.isLive) return;
    // Should the leg be there after all it must not live on alone.
    this.#say({ id: 'fail', kind: 'hangup', code });
    this.#finish(
      {
        kind: 'ended',
        code: this.#record.endingCode ?? code,
        by: 'local',
        sipStatus: ERRORS[code].sip,
        reason,
        sipCallId: this.#record.sip.callId,
        headers: {},
        stats: null,
      },
      null,
    );
    this.#changed();
  }

  /** Keeps the state of what runs the call; given back by `record.flow` after a rebuild. */
  saveFlow(flow: object | null): void {
    this.#record.flow = flow;
    this.#changed();
  }

  /** Another application takes the call over (redirect); a child then outlives its parent. */
  setApplication(application: CallApplication): void {
    this.#record.application = application;
    this.#record.endsWithParent = false;
    this.#changed();
  }

  /** Somebody else is told of what comes from now on. */
  setStatusCallback(statusCallback: CallRecord['statusCallback']): void {
    this.#record.statusCallback = statusCallback;
    this.#changed();
  }

  /** Shortens (or restores) how long the call may last, counted from its answer. */
  setTimeLimit(timeLimitMs: number): void {
    this.#record.timeLimitMs = Math.min(timeLimitMs, this.#deps.options.durationMsMax);
    if (this.#record.status === 'in-progress' && this.#record.endingCode === null) {
      this.#startTimeLimit();
    }
    this.#changed();
  }

  /** The order to place this call was taken by an edge. */
  markInitiated(sipTrunk: TrunkSid | null): void {
    if (this.#record.status !== 'queued') return;
    // The leg may be with another trunk already.
    this.#record.trunkSid ??= sipTrunk;
    this.#record.placedAtMs = this.#deps.clock.nowMs();
    this.#setStatus('initiated');
    this.#changed();
  }

  /** Another trunk is tried for it. */
  setTrunk(trunkSid: TrunkSid): void {
    this.#record.trunkSid = trunkSid;
    this.#changed();
  }

  /** Whom it is joined with, waits for, or ends with. */
  relate(changes: Partial<Relations>): void {
    Object.assign(this.#record, changes);
    this.#changed();
  }

  /** Adds an entry to this call's history. */
  note(kind: 'webhook' | 'verb' | 'call', text: string, detail = ''): void {
    this.#deps.trace.add(this.sid, kind, text, detail);
  }

  /** Lets go of bus and timers without ending anything: the record lives on elsewhere. */
  detach(): void {
    this.#subscription?.close();
    this.#subscription = null;
    this.#deadline.cancel();
  }

  #listen(): void {
    if (!this.isLive) return;
    this.#subscription = this.#deps.bus.subscribe(callSubject(this.sid), (event) =>
      this.#onEvent(event),
    );
    const { endingCode, direction, legSeq } = this.#record;
    // An inbound leg speaks at once; one that does not was never made.
    const isUnheard = direction === 'inbound' && legSeq === 0;
    if (endingCode !== null || isUnheard) this.#deadline.set(this.#deps.options.endMsMax, 'end');
    else if (this.#record.status === 'in-progress') this.#startTimeLimit();
    else this.#deadline.set(this.#deps.options.setupMsMax, 'setup');
  }

  #onEvent(event: LegEvent): void {
    const seen = this.#record.legSeq;
    if (!this.isLive || event.seq <= seen) return;
    if (event.seq > seen + 1 && !this.#isRepeat(event.seq)) return;
    this.#holeAt = 0;
    this.#record.legSeq = event.seq;
    this.#deps.trace.add(this.sid, 'leg', event.kind, detailOf(event));
    try {
      this.#apply(event);
    } catch (thrown) {
      this.#onFault(thrown);
    }
    if (event.seq >= this.#ackDueSeq) this.#acknowledge(event.seq);
    this.#changed();
  }

  #acknowledge(seq: number): void {
    if (!this.isLive) return;
    this.#say({ id: `ack.${seq}`, kind: 'attach', fromSeq: this.#ackSeq, repeat: false });
    this.#ackSeq = seq;
    this.#ackDueSeq = seq + ACK_EVENTS;
  }

  /**
   * An event beyond a hole. The first asks the leg to repeat; what it still has begins with that
   * event or an earlier one, and until then later ones wait for their own repetition.
   */
  #isRepeat(seq: number): boolean {
    if (this.#holeAt === 0) {
      this.#holeAt = seq;
      this.attach();
      return false;
    }
    return seq <= this.#holeAt || seq > this.#holeAt + HOLE_EVENTS_MAX;
  }

  #apply(event: LegEvent): void {
    const record = this.#record;
    switch (event.kind) {
      case 'offered':
        if (record.endingCode === null) this.#deadline.set(this.#deps.options.setupMsMax, 'setup');
        break;
      case 'ringing':
        record.ringingAtMs ??= event.atMs;
        record.port = event.port ?? record.port;
        if (record.status === 'queued' || record.status === 'initiated') this.#setStatus('ringing');
        break;
      case 'answered':
        // Comes again when a rebuilt flow answers once more.
        if (record.answeredAtMs !== null) break;
        record.port = event.port;
        record.answeredAtMs = event.atMs;
        this.#takeSip(event.sipCallId, event.sipHeaders);
        if (record.endingCode === null) this.#startTimeLimit();
        this.#setStatus('in-progress');
        break;
      case 'portMoved':
        record.port = event.port;
        break;
      case 'hold':
        record.onHold = event.onHold;
        break;
      case 'unbridged':
        if (isJoinedBy(record, event.peerLegId)) record.bridgedTo = null;
        break;
      case 'ended':
        // The leg need not keep its last words any longer.
        this.#say({ id: 'ack', kind: 'attach', fromSeq: event.seq, repeat: false });
        this.#finish(event, event);
        return;
      default:
        break;
    }
    this.emit('leg', event);
  }

  /** A word to the leg that nothing depends on. */
  #say(command: LegCommand): void {
    try {
      this.#deps.bus.publish(this.#legSubject, command);
    } catch (thrown) {
      this.#deps.log.debug({ callSid: this.sid, err: asGatewayError(thrown) }, 'leg not told');
    }
  }

  #takeSip(callId: string, headers: SipHeaders): void {
    const { sip, direction } = this.#record;
    // What an inbound call's INVITE said stands already.
    if (direction !== 'inbound') this.#record.sip = { ...sip, callId, headers };
    else if (sip.callId !== callId) this.#record.sip = { ...sip, callId };
  }

  /** `event` is the leg's own word, null when the leg has none. */
  #finish(ended: LegEnded, event: LegEvent | null): void {
    const record = this.#record;
    if (!this.isLive) return;
    this.detach();
    const atMs = event?.atMs ?? this.#deps.clock.nowMs();
    const code = record.endingCode ?? ended.code;
    const status = finalStatus(record, code, ended);
    if (ended.sipCallId !== '') this.#takeSip(ended.sipCallId, record.sip.headers);
    const end: CallEnd = {
      status,
      code,
      fault: ERRORS[code].fault,
      by: ended.by,
      sipStatus: ended.sipStatus,
      reason: ended.reason,
      sipHeaders: ended.headers,
      durationMs: record.answeredAtMs === null ? 0 : Math.max(0, atMs - record.answeredAtMs),
      stats: ended.stats,
    };
    record.endedAtMs = atMs;
    record.bridgedTo = null;
    record.port = null;
    record.end = end;
    const { direction, parentCallSid } = record;
    const { durationMs, sipStatus, by } = end;
    const parent = parentCallSid === null ? {} : { parentCallSid };
    // The one line a call has at this level: the rest of its life is in its trace.
    this.#deps.log.info(
      { callSid: this.sid, ...parent, direction, status, code, by, sipStatus, durationMs },
      'call ended',
    );
    this.#setStatus(status, event);
    this.#guard(() => {
      this.#deps.keeper.onEnded(this);
      this.emit('ended', end);
    });
  }

  /** `event`: the leg event that comes with it and is told first. Whoever calls it journals. */
  #setStatus(status: CallStatus, event: LegEvent | null = null): void {
    this.#record.status = status;
    this.#isLive = !FINAL_STATUSES.has(status);
    this.#record.statusNo += 1;
    this.#deps.log.debug({ callSid: this.sid, status }, 'call status');
    if (event !== null) this.#guard(() => this.emit('leg', event));
    this.#guard(() => {
      if (this.isLive) this.#deps.keeper.onStatus(this);
      this.emit('status', status);
    });
  }

  #startTimeLimit(): void {
    const record = this.#record;
    const limitMs = record.timeLimitMs ?? this.#deps.options.durationMsMax;
    const ageMs = this.#deps.clock.nowMs() - (record.answeredAtMs ?? this.#deps.clock.nowMs());
    this.#deadline.set(Math.max(0, limitMs - ageMs), 'limit');
  }

  #onDeadline(kind: 'setup' | 'limit' | 'end'): void {
    if (kind === 'limit') this.hangup('CALL_TIME_LIMIT');
    else if (kind === 'setup') this.hangup('CALL_NO_ANSWER');
    else this.fail('LEG_LOST');
  }

  /** A fault in the work of one call ends that call and nothing else. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (thrown) {
      this.#onFault(thrown);
    }
  }

  #onFault(thrown: unknown): void {
    const error = asGatewayError(thrown);
    this.#deps.log.error({ callSid: this.sid, code: error.code, err: error }, 'call failed');
    if (this.#record.endingCode === null) this.hangup(error.code, error.message);
    else this.fail(error.code, error.message);
  }

  #changed(): void {
    if (this.isLive) this.#deps.journal.put(this.#journalKey, this);
    else this.#deps.journal.remove(this.#journalKey);
  }
}
