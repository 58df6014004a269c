/**
 * What a session says: its events, its end, its record as plain data; and how statuses, bodies and
 * reasons of SIP are read into them. No state, no sending.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { CredentialScope } from './challenge.ts';
import type { DialogRecord } from './dialog.ts';
import type { EarlyMedia } from './early-dialog.ts';
import type { Unacknowledged } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { findSdp } from './multipart.ts';
import type { PeerAddress } from './peer.ts';
import { type Reason, reasonFields, reasonsOf } from './reason.ts';
import type { ReliableMode } from './reliable.ts';
import {
  DEFAULT_SESSION_TIMER,
  type SessionTimerPolicy,
  type SessionTimerRecord,
} from './session-timer.ts';
import type { InfoMessage, ReferProgress, Referral } from './side-report.ts';

/** How a peer wants its calls, as far as SIP itself is concerned: plain data of its trunk. */
export interface SessionPolicy {
  /** RFC 3262. */
  readonly reliable: ReliableMode;
  /** RFC 4028. */
  readonly sessionTimer: SessionTimerPolicy;
  /** RFC 3515, 3891: whether the peer may refer, and be replaced. Absent: it may not. */
  readonly refer?: 'refuse' | 'accept' | 'application';
}

export const DEFAULT_SESSION_POLICY: SessionPolicy = {
  reliable: 'support',
  sessionTimer: DEFAULT_SESSION_TIMER,
};

export interface SessionOptions {
  /** How long an outgoing call may ring when the caller does not say. */
  readonly ringTimeoutMs: number;
  /** How long an incoming call or offer may stay undecided. */
  readonly decisionTimeoutMs: number;
  /**
   * An INVITE that nothing was said to after so long gets 100 (RFC 3261 §17.2.1 leaves 200 ms);
   * 0: at once.
   */
  readonly tryingDelayMs: number;
  /** How long the peer may take to answer a re-INVITE. */
  readonly reinviteTimeoutMs: number;
  /** A re-INVITE or UPDATE that meets glare or a busy peer is sent so often in all. */
  readonly reinviteAttemptsMax: number;
  /** Info packages (RFC 6086) and body types of INFO that pass through, and their size. */
  readonly infoPass: readonly string[];
  readonly infoBytesMax: number;
  /** Of who says nothing else. */
  readonly policy: SessionPolicy;
}

export const DEFAULT_SESSION: SessionOptions = {
  ringTimeoutMs: 180_000,
  decisionTimeoutMs: 300_000,
  tryingDelayMs: 200,
  reinviteTimeoutMs: 32_000,
  reinviteAttemptsMax: 4,
  infoPass: [],
  infoBytesMax: 4096,
  policy: DEFAULT_SESSION_POLICY,
};

export type SessionState = 'early' | 'confirmed' | 'terminated';

export interface SessionEnd {
  readonly by: 'local' | 'remote' | 'timeout' | 'transport';
  readonly code: ErrorCode;
  /** The final status seen or sent; 200 for BYE. */
  readonly status: number;
  readonly reason: string;
  /** What the Reason field of the message that ended it says (RFC 3326); absent: nothing. */
  readonly reasonHeader?: readonly Reason[];
  readonly headers: readonly HeaderField[];
}

/** Nobody said what was waited for. */
export function endByTime(code: ErrorCode, status: number): SessionEnd {
  return { by: 'timeout', code, status, reason: '', headers: [] };
}

export function endByUs(code: ErrorCode, status: number, options: FinalOptions): SessionEnd {
  const { reason = '', headers = [], reasonHeader = [] } = options;
  return { by: 'local', code, status, reason, reasonHeader, headers };
}

/** BYE, CANCEL or a refusal: why, it may say in Reason (RFC 3326). */
export function endByPeer(code: ErrorCode, status: number, message: SipMessage): SessionEnd {
  const reason = message.isRequest ? (message.header('Reason') ?? '') : message.reason;
  const reasonHeader = reasonsOf(message);
  return { by: 'remote', code, status, reason, reasonHeader, headers: message.fields() };
}

/**
 * An offer of the peer, in re-INVITE, UPDATE or PRACK, or late in what answers our INVITE: exactly
 * one of `answer` and `refuse` is to be called.
 */
export interface Offer {
  /** '' when the peer asks us for an offer: re-INVITE only. */
  readonly sdp: string;
  /** The peer's tag: which early dialog of an outgoing call it is of. */
  readonly dialog: string;
  answer(sdp: string): void;
  refuse(status: number, reason?: string): void;
}

export interface SessionEvents {
  /** Outgoing: 100 came. Somebody works on it (RFC 3261 §17.1.1.2). */
  trying: [];
  provisional: [ProvisionalReport];
  /** Outgoing: a branch of the fork that made this early dialog is over (RFC 6228). */
  forkEnded: [{ readonly dialog: string; readonly reasons: readonly Reason[] }];
  /** Outgoing: the 2xx came and its ACK was sent. */
  answered: [{ readonly sdp: string; readonly headers: readonly HeaderField[] }];
  /** Incoming: the ACK came; `sdp` when our 2xx made the offer. */
  acknowledged: [{ readonly sdp: string | null }];
  /** Incoming: PRACK brought the answer to an offer of ours in a provisional response. */
  earlyAnswer: [{ readonly sdp: string }];
  offer: [offer: Offer];
  /** The peer answered an offer of ours within the call; `offer` is what it answered. */
  reoffered: [change: Reoffered];
  /** It did not: what was agreed before stands, as long as the session does. */
  reofferFailed: [failed: ReofferFailed];
  /** A digit that came in INFO. */
  digit: [{ readonly key: string; readonly durationMs: number }];
  /** An INFO that policy lets through. */
  info: [info: InfoMessage];
  /** The peer asks us to call somebody. */
  refer: [referral: Referral];
  /** How a REFER of ours goes. */
  referProgress: [progress: ReferProgress];
  ended: [end: SessionEnd];
  /** `record()` would give something else now. */
  changed: [];
}

/** A session as plain data. */
export interface SessionRecord extends DialogRecord {
  readonly id: string;
  readonly direction: 'in' | 'out';
  readonly state: SessionState;
  /** Where the peer was last heard from. */
  readonly peer: PeerAddress;
  /** Of a call that was made with credentials: without it no challenge is answered any more. */
  readonly credentialScope?: CredentialScope;
  /** While a session timer runs (RFC 4028). */
  readonly timer?: SessionTimerRecord;
  /** A 2xx of ours that is to be repeated until its ACK comes. */
  readonly unacknowledged?: Unacknowledged;
  /** Our description, where a refresh of ours may have to repeat it. */
  readonly localSdp?: string;
}

export interface Reoffered {
  readonly sdp: string;
  readonly offer: string;
  /** The offer was the one that stood already, sent again for the session timer. */
  readonly isRefresh: boolean;
}

export interface ReofferFailed {
  /** The peer's; 0 when it said nothing. */
  readonly status: number;
  readonly code: ErrorCode;
}

/** A provisional response above 100. */
export interface ProvisionalReport {
  readonly status: number;
  readonly reason: string;
  /** Null when it has none, or none that counts any more. */
  readonly sdp: string | null;
  /** The tag of the early dialog it is of; '' when it is of none. */
  readonly dialog: string;
  /** It was acknowledged with PRACK, and `sdp` is the answer for good. */
  readonly isReliable: boolean;
  /** P-Early-Media (RFC 5009). */
  readonly earlyMedia: EarlyMedia | null;
}

export interface ProgressOptions {
  readonly sdp?: string;
  readonly headers?: readonly HeaderField[];
  /** For this response: reliable where the peer can, or not at all. Else policy decides. */
  readonly reliable?: boolean;
}

export interface FinalOptions {
  readonly reason?: string;
  /** Sent as the Reason field (RFC 3326). */
  readonly reasonHeader?: readonly Reason[];
  readonly headers?: readonly HeaderField[];
}

/** The description in a message; null when there is none, or none that can be used. */
export function sdpOf(message: SipMessage): string | null {
  try {
    return findSdp(message) || null;
  } catch {
    return null;
  }
}

/** RFC 3261 §20.43: 399, a reason for people. */
function warning(text: string): HeaderField {
  return ['Warning', `399 tandem "${plainText(text).replace(/["\\]/g, ' ')}"`];
}

/** The fields and the phrase of a refusal; of one for its media, with a Warning that says why. */
export function refusalOf(
  status: number,
  options: FinalOptions,
): { readonly headers: HeaderField[]; readonly reason?: string } {
  const { reason, headers = [], reasonHeader } = options;
  const all = [...reasonFields(reasonHeader), ...headers];
  if (reason === undefined) return { headers: all };
  if (status === 488 || status === 606) all.push(warning(reason));
  return { headers: all, reason: plainText(reason) };
}

/** A text for people as a line of the protocol can carry it. */
export function plainText(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, ' ').slice(0, 120);
}

/** First lines and reasons of others, as a log or a terminal may show them. */
export function printable(text: string): string {
  return text.replace(/[^ -~\xa0-\xff]/g, '?');
}
