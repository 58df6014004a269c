/**
 * What a session says: its events, its end, its record as plain data; and how statuses, bodies and
 * reasons of SIP are read into them. No state, no sending.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { CredentialScope } from './challenge.ts';
import type { DialogRecord } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { findSdp } from './multipart.ts';
import type { PeerAddress } from './peer.ts';

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
  /** A re-INVITE that meets glare is sent so often in all. */
  readonly reinviteAttemptsMax: number;
}

export const DEFAULT_SESSION: SessionOptions = {
  ringTimeoutMs: 180_000,
  decisionTimeoutMs: 300_000,
  tryingDelayMs: 200,
  reinviteTimeoutMs: 32_000,
  reinviteAttemptsMax: 4,
};

export type SessionState = 'early' | 'confirmed' | 'terminated';

export interface SessionEnd {
  readonly by: 'local' | 'remote' | 'timeout' | 'transport';
  readonly code: ErrorCode;
  /** The final status seen or sent; 200 for BYE. */
  readonly status: number;
  readonly reason: string;
  readonly headers: readonly HeaderField[];
}

/** A re-INVITE of the peer: exactly one of `answer` and `refuse` is to be called. */
export interface Offer {
  /** '' when the peer asks us for an offer. */
  readonly sdp: string;
  answer(sdp: string): void;
  refuse(status: number, reason?: string): void;
}

export interface SessionEvents {
  provisional: [
    {
      readonly status: number;
      readonly reason: string;
      readonly sdp: string | null;
      readonly headers: readonly HeaderField[];
    },
  ];
  /** Outgoing: the 2xx came and its ACK was sent. */
  answered: [{ readonly sdp: string; readonly headers: readonly HeaderField[] }];
  /** Incoming: the ACK came; `sdp` when our 2xx made the offer. */
  acknowledged: [{ readonly sdp: string | null }];
  offer: [offer: Offer];
  /** A digit that came in INFO. */
  digit: [{ readonly key: string; readonly durationMs: number }];
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
}

export interface ProgressOptions {
  readonly sdp?: string;
  readonly headers?: readonly HeaderField[];
}

export interface FinalOptions {
  readonly reason?: string;
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
export function warning(text: string): HeaderField {
  return ['Warning', `399 tandem "${plainText(text).replace(/["\\]/g, ' ')}"`];
}

/** A text for people as a line of the protocol can carry it. */
export function plainText(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, ' ').slice(0, 120);
}

/** First lines and reasons of others, as a log or a terminal may show them. */
export function printable(text: string): string {
  return text.replace(/[^ -~\xa0-\xff]/g, '?');
}

/** How a call that a peer refused ended. */
export function codeOfStatus(status: number): ErrorCode {
  switch (status) {
    case 486:
    case 600:
      return 'CALL_BUSY';
    case 408:
    case 480:
      return 'CALL_NO_ANSWER';
    case 487:
      return 'CALL_CANCELED';
    default:
      return 'SIP_REFUSED';
  }
}

/** How a call that we refused ended. */
export function codeOfRefusal(status: number): ErrorCode {
  const code = codeOfStatus(status);
  return code === 'SIP_REFUSED' ? 'CALL_REJECTED' : code;
}
