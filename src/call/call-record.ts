/**
 * A call as plain data: who, whence, whither, in what state and since when. What REST shows, what
 * the journal keeps, and all that is needed to build a `Call` again. No behaviour beyond reading
 * it; the state machine is `call.ts`.
 */
import type { ErrorCode, Fault } from '../core/errors.ts';
import type { AccountSid, ApplicationSid, CallSid, NumberSid, TrunkSid } from '../core/sid.ts';
import type { PortStats } from '../media/binding.ts';
import type { PortRef } from '../media/port.ts';
import type { FailoverPolicy } from '../store/trunk-policy.ts';
import { type LegEnded, type LegEvent, type LegId, legIdOf, type SipHeaders } from './leg.ts';
import type { PartyFacts } from './party-facts.ts';

export type CallDirection = 'inbound' | 'outbound-api' | 'outbound-dial';

export type CallStatus =
  | 'queued'
  | 'initiated'
  | 'ringing'
  | 'in-progress'
  | 'completed'
  | 'busy'
  | 'failed'
  | 'no-answer'
  | 'canceled';

export type HttpMethod = 'GET' | 'POST';

/** What runs a call: where its first document comes from. */
export interface CallApplication {
  readonly applicationSid: ApplicationSid | null;
  /** Absent when `document` is given inline. */
  readonly url: string | null;
  readonly method: HttpMethod;
  readonly fallbackUrl: string | null;
  readonly fallbackMethod: HttpMethod;
  readonly document: string | null;
  /** Where the document only passes the call on to a trunk; absent: it is an application's. */
  readonly passage?: Passage;
}

export interface Passage {
  readonly trunkSid: TrunkSid;
  /** Asked for a document when nobody is reached through the trunk, as its policy judges that. */
  readonly recovery: {
    readonly url: string;
    readonly method: HttpMethod;
    readonly failover: FailoverPolicy;
  } | null;
}

export interface StatusCallback {
  readonly url: string;
  readonly method: HttpMethod;
  readonly events: readonly StatusCallbackEvent[];
}

export type StatusCallbackEvent = 'initiated' | 'ringing' | 'answered' | 'completed';

export interface CallSipInfo {
  readonly callId: string;
  /** Host of the Request-URI (inbound) or of the dialled URI. */
  readonly domain: string;
  /** Address the INVITE came from, '' on outbound calls. */
  readonly sourceAddress: string;
  /** Inbound: of the INVITE. Outbound: of the answer, once there. */
  readonly headers: SipHeaders;
  /** Inbound: what its INVITE says of the caller, as far as the trunk is believed. */
  readonly party?: PartyFacts;
  /** Inbound, where its trunk asks: what the caller's signature is worth, as apps are told. */
  readonly stir?: Readonly<Record<string, string>>;
  /** Max-Forwards of its INVITE; what it dials has one less. Absent: 70 (RFC 3261 §16.6). */
  readonly maxForwards?: number;
}

/** How a call ended: the heart of its detail record. */
export interface CallEnd {
  readonly status: CallStatus;
  readonly code: ErrorCode;
  readonly fault: Fault;
  readonly by: 'local' | 'remote';
  readonly sipStatus: number;
  readonly reason: string;
  readonly sipHeaders: SipHeaders;
  /** From answer to end; 0 when never answered. */
  readonly durationMs: number;
  readonly stats: PortStats | null;
}

/** A call as plain data: what REST shows, what the journal keeps, what `restore` needs. */
export interface CallRecord {
  readonly sid: CallSid;
  readonly accountSid: AccountSid;
  readonly parentCallSid: CallSid | null;
  readonly childSids: readonly CallSid[];
  /** A dialled child goes down with its parent until something of its own runs it. */
  readonly endsWithParent: boolean;
  readonly direction: CallDirection;
  readonly from: string;
  readonly to: string;
  readonly callerName: string;
  readonly forwardedFrom: string;
  readonly trunkSid: TrunkSid | null;
  /** Of the account's number that was called, or that calls; absent or null: none of its own. */
  readonly phoneNumberSid?: NumberSid | null;
  readonly application: CallApplication | null;
  /** Who is told of its status changes. */
  readonly statusCallback: StatusCallback | null;
  /** Keys to send once answered, as REST's SendDigits asks; whoever runs the call sends them. */
  readonly sendDigits: string | null;
  readonly status: CallStatus;
  /** Number of status changes so far: SequenceNumber of status callbacks. */
  readonly statusNo: number;
  readonly createdAtMs: number;
  /** When an outgoing call was sent on its way; absent or null before that. */
  readonly placedAtMs?: number | null;
  readonly ringingAtMs: number | null;
  readonly answeredAtMs: number | null;
  readonly endedAtMs: number | null;
  readonly timeLimitMs: number | null;
  readonly sip: CallSipInfo;
  readonly legId: LegId;
  /** Last leg event that was acted upon. */
  readonly legSeq: number;
  readonly port: PortRef | null;
  readonly onHold: boolean;
  readonly bridgedTo: CallSid | null;
  /** Whom its REFER asked to join with its partner: it has only the outcome to wait for. */
  readonly transferredTo: CallSid | null;
  /** Joined by a transfer, and run by nobody: it ends when that call does. */
  readonly endsWith: CallSid | null;
  /** Why we are hanging up, when we are: decides the status once the leg has ended. */
  readonly endingCode: ErrorCode | null;
  readonly end: CallEnd | null;
  /** State of whatever runs the call: opaque here. */
  readonly flow: object | null;
}

export const FINAL_STATUSES: ReadonlySet<CallStatus> = new Set([
  'completed',
  'busy',
  'failed',
  'no-answer',
  'canceled',
]);

/** The status an ending code stands for, before answer; after it every call is 'completed'. */
export function finalStatus(record: CallRecord, code: ErrorCode, ended: LegEnded): CallStatus {
  if (record.answeredAtMs !== null) return 'completed';
  switch (code) {
    case 'CALL_BUSY':
      return 'busy';
    case 'CALL_NO_ANSWER':
      return 'no-answer';
    case 'CALL_CANCELED':
      // A caller who gives up was not answered; only who cancels his own call sees 'canceled'.
      return record.direction === 'inbound' && ended.by === 'remote' ? 'no-answer' : 'canceled';
    case 'CALL_COMPLETED':
      return record.direction === 'inbound' ? 'completed' : 'canceled';
    default:
      return 'failed';
  }
}

/**
 * A caller who waited for others and was never answered: he is refused as they refused. One whose
 * document just ended was taken, and is over: an empty document is a `<Hangup>`.
 */
export function wasInVain({ answeredAtMs, childSids }: CallRecord): boolean {
  return answeredAtMs === null && childSids.length > 0;
}

/** Whether its join is with that leg: it may have been parted from one and joined with another. */
export function isJoinedBy({ bridgedTo }: CallRecord, peerLegId: LegId): boolean {
  return bridgedTo !== null && (peerLegId === '' || legIdOf(bridgedTo) === peerLegId);
}

/** One short word about an event for the history; keys pressed are not written down. */
export function detailOf(event: LegEvent): string {
  switch (event.kind) {
    case 'playDone':
      return `${event.playId} ${event.reason}`;
    case 'recordDone':
      return `${event.recordId} ${event.reason}`;
    case 'commandFailed':
      return `${event.id} ${event.code}`;
    case 'ended':
      return `${event.code} ${event.sipStatus} ${event.reason}`;
    case 'ringing':
      return String(event.sipStatus);
    case 'referProgress':
      return `${event.sipStatus} ${event.notifiedStatus}`;
    default:
      return '';
  }
}

/** The plain record of a call that does not exist yet. */
export function newCallRecord(
  options: Pick<
    CallRecord,
    'sid' | 'accountSid' | 'direction' | 'from' | 'to' | 'status' | 'createdAtMs'
  > &
    Partial<CallRecord>,
): CallRecord {
  // Every field in one place and order: records of all calls have one shape, which is fast to read.
  return {
    sid: options.sid,
    accountSid: options.accountSid,
    parentCallSid: options.parentCallSid ?? null,
    childSids: options.childSids ?? [],
    endsWithParent: options.endsWithParent ?? false,
    direction: options.direction,
    from: options.from,
    to: options.to,
    callerName: options.callerName ?? '',
    forwardedFrom: options.forwardedFrom ?? '',
    trunkSid: options.trunkSid ?? null,
    phoneNumberSid: options.phoneNumberSid ?? null,
    application: options.application ?? null,
    statusCallback: options.statusCallback ?? null,
    sendDigits: options.sendDigits ?? null,
    status: options.status,
    statusNo: options.statusNo ?? 0,
    createdAtMs: options.createdAtMs,
    placedAtMs: options.placedAtMs ?? null,
    ringingAtMs: options.ringingAtMs ?? null,
    answeredAtMs: options.answeredAtMs ?? null,
    endedAtMs: options.endedAtMs ?? null,
    timeLimitMs: options.timeLimitMs ?? null,
    sip: options.sip ?? { callId: '', domain: '', sourceAddress: '', headers: {} },
    legId: options.legId ?? legIdOf(options.sid),
    legSeq: options.legSeq ?? 0,
    port: options.port ?? null,
    onHold: options.onHold ?? false,
    bridgedTo: options.bridgedTo ?? null,
    transferredTo: options.transferredTo ?? null,
    endsWith: options.endsWith ?? null,
    endingCode: options.endingCode ?? null,
    end: options.end ?? null,
    flow: options.flow ?? null,
  };
}
