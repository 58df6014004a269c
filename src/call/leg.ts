/**
 * The leg protocol: what a call says to a leg and what a leg tells its call. Plain JSON data, so
 * that call and leg may live in different processes, and so that either can be rebuilt while the
 * other goes on. Not the leg itself (`sip-leg.ts`) and not the call (`call.ts`).
 *
 * Two rules make rebuilding safe:
 * - Commands carry an `id`. A leg that has seen the id does not act twice: it repeats the outcome
 *   event of that command (same content, new `seq`) when there is one already. It remembers the
 *   last `commandsSeenMax` ids: a call must not say again what it said longer ago than that.
 * - Events carry `seq` 1, 2, 3… per leg. A call drops what it has seen, and after `attach` gets
 *   everything above `fromSeq` again that the leg still holds. Every few events the call says what
 *   it has for good (`attach` without repeating), so that a long call's leg stays small.
 */
import type { Service, Subject } from '../bus/bus.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import type { AccountSid, CallSid, TrunkSid } from '../core/sid.ts';
import type { PortStats } from '../media/binding.ts';
import type { PortRef } from '../media/port.ts';
import type { PlaySource } from '../media/protocol.ts';
import type { OfferedSrtp } from '../sdp/security.ts';
import type { HeaderField } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { Reason } from '../sip/reason.ts';
import {
  DEFAULT_TRUNK_POLICY,
  type FailoverPolicy,
  type NumberPolicy,
  type TrunkPolicy,
} from '../store/trunk-policy.ts';
import type { Decision } from './decision.ts';
import type { ReferAction, ReferFact } from './referral.ts';

export type LegId = string;

/** Header fields an application may see: name as it came, value. Bounded by the leg. */
export type SipHeaders = Readonly<Record<string, string>>;

export interface RecordCommand {
  readonly kind: 'record';
  readonly recordId: string;
  readonly path: string;
  readonly channels: 1 | 2;
  /** `in` is what the leg's far end says, `out` what it hears. */
  readonly source: 'in' | 'out' | 'both';
  readonly sampleRateHz: 8000 | 16000;
  readonly maxMs: number;
  /** 0 switches the end by silence off. */
  readonly silenceMs: number;
  readonly trimSilence: boolean;
}

/** The end of another leg that ends this one, and what its peer is told of it. */
export interface EndCause {
  readonly code: ErrorCode;
  /** Refuses an INVITE that is not answered; 0: whatever `code` stands for. */
  readonly sipStatus: number;
  readonly reasons: readonly Reason[];
  /** When the caller may come back, as whoever was asked for him said; absent: nobody did. */
  readonly retryAfterS?: number;
}

export type LegAction =
  /** 180, or 183 with a session description when `earlyMedia`. Only inbound, before answer. */
  | { readonly kind: 'ring'; readonly earlyMedia: boolean }
  | { readonly kind: 'answer' }
  /** Refuses an inbound leg before its answer. */
  | { readonly kind: 'reject'; readonly sipStatus: number; readonly reason: string }
  /** Ends the leg in whatever state it is: final response, CANCEL or BYE. */
  | {
      readonly kind: 'hangup';
      readonly code: ErrorCode;
      readonly reason?: string;
      readonly cause?: EndCause;
    }
  /** `loop` 0 plays for ever. Outcome: playDone. */
  | {
      readonly kind: 'play';
      readonly playId: string;
      readonly source: PlaySource;
      readonly loop: number;
    }
  | { readonly kind: 'stopPlay'; readonly playId: string }
  /** `w` is a pause of 500 ms, `W` of 1 s. Outcome: playDone with this playId. */
  | { readonly kind: 'sendDigits'; readonly playId: string; readonly digits: string }
  | RecordCommand
  | { readonly kind: 'stopRecord'; readonly recordId: string }
  | { readonly kind: 'pauseRecord'; readonly recordId: string; readonly paused: boolean }
  /** Joins this leg's audio with the peer's port. Outcome: bridged. */
  | { readonly kind: 'bridge'; readonly peer: PortRef; readonly peerLegId: LegId }
  | { readonly kind: 'unbridge' }
  /**
   * Gets another port, in the worker of `near`, once the peer took an offer with its address; until
   * then nothing changes. A bridge does not come along. Outcome: portMoved.
   */
  | { readonly kind: 'move'; readonly near: PortRef }
  | ReferAction
  /**
   * Events up to `fromSeq` are acknowledged and forgotten; those above it are repeated, unless
   * `repeat` is false.
   */
  | { readonly kind: 'attach'; readonly fromSeq: number; readonly repeat?: false };

export type LegCommand = { readonly id: string } & LegAction;

export type LegFact =
  /** Inbound: an INVITE was admitted and its offer can be answered. */
  | { readonly kind: 'offered'; readonly earlyOffer: boolean }
  /** `port` with early media: what a bridge needs. */
  | {
      readonly kind: 'ringing';
      readonly sipStatus: number;
      readonly earlyMedia: boolean;
      readonly port: PortRef | null;
    }
  /** Audio flows from here on; `port` is what a bridge needs. */
  | {
      readonly kind: 'answered';
      readonly port: PortRef;
      readonly sipCallId: string;
      readonly sipHeaders: SipHeaders;
    }
  | {
      readonly kind: 'digit';
      readonly key: string;
      readonly durationMs: number;
      readonly source: 'rfc4733' | 'inband' | 'info';
    }
  | {
      readonly kind: 'playDone';
      readonly playId: string;
      readonly reason: 'finished' | 'stopped' | 'failed';
      readonly playedMs: number;
    }
  | {
      readonly kind: 'recordDone';
      readonly recordId: string;
      readonly reason: 'stopped' | 'maxMs' | 'silence' | 'failed' | 'portClosed';
      readonly durationMs: number;
    }
  | { readonly kind: 'bridged'; readonly peerLegId: LegId }
  | { readonly kind: 'unbridged'; readonly peerLegId: LegId }
  /** The peer put us on hold or took us back (re-INVITE with a direction). */
  | { readonly kind: 'hold'; readonly onHold: boolean }
  /** No RTP for the configured time. A report: it never ends a call by itself. */
  | { readonly kind: 'silent'; readonly silentMs: number }
  | { readonly kind: 'active' }
  /** The port was made again elsewhere: its worker died, or it was told to move. */
  | { readonly kind: 'portMoved'; readonly port: PortRef }
  | {
      readonly kind: 'commandFailed';
      readonly id: string;
      readonly code: ErrorCode;
      readonly details: ErrorDetails;
    }
  | ReferFact
  | LegEnded;

/** The last event of a leg. */
export interface LegEnded {
  readonly kind: 'ended';
  readonly code: ErrorCode;
  readonly by: 'local' | 'remote';
  /** Final status seen or sent; 200 for an answered leg that ended by BYE. */
  readonly sipStatus: number;
  readonly reason: string;
  readonly sipCallId: string;
  readonly headers: SipHeaders;
  readonly stats: PortStats | null;
}

export type LegEvent = {
  readonly legId: LegId;
  readonly seq: number;
  /** Wall clock of the leg's node, ms since the epoch. */
  readonly atMs: number;
} & LegFact;

/** Of an INVITE that does not say, and the most that one of ours says (RFC 3261 §16.6). */
export const MAX_FORWARDS = 70;

/** Where commands to a leg go. */
export function legSubject(legId: LegId): Subject<LegCommand> {
  return `leg.${legId}` as Subject<LegCommand>;
}

/** Where the events of a call's leg go. */
export function callSubject(sid: CallSid): Subject<LegEvent> {
  return `call.${sid}` as Subject<LegEvent>;
}

/** One leg per call: the leg's id is the call's hex under another prefix, so traces read well. */
export function legIdOf(sid: CallSid): LegId {
  return `LG${sid.slice(2)}`;
}

// --- An INVITE that came: edge → router, answered with a verdict ------------------------------

export interface LegOffer {
  readonly source: PeerAddress;
  readonly requestUri: string;
  readonly fromUri: string;
  readonly toUri: string;
  readonly sipCallId: string;
  /** As they came, without those of the protocol: what they are worth is the trunk's policy. */
  readonly fields: readonly HeaderField[];
  /** Max-Forwards of the INVITE (RFC 3261 §20.22). */
  readonly maxForwards: number;
  /** What the caller has proven by digest, and its TLS certificate's names. */
  readonly identity: string | null;
  readonly certificateNames: readonly string[];
  /** Codecs of its description that we have; none when it has no description. */
  readonly codecs: readonly string[];
  /** What its description has of SRTP; null when it has no description. */
  readonly srtp: OfferedSrtp | null;
  /** Its Date, for the caller's signature (RFC 8224 §4.1). */
  readonly date: string | null;
}

export type LegVerdict =
  | {
      readonly admitted: true;
      readonly callSid: CallSid;
      readonly trunkSid: TrunkSid | null;
      readonly policy: LegPolicy;
      readonly decisions: readonly Decision[];
    }
  | {
      readonly admitted: false;
      readonly code: ErrorCode;
      readonly details: ErrorDetails;
      /** Whose number was called, when it is somebody's. */
      readonly accountSid: AccountSid | null;
      readonly decisions: readonly Decision[];
    };

export const OFFERS = 'router.offer' as Service<LegOffer, LegVerdict>;

// --- What a leg has to know of its trunk ------------------------------------------------------

/** Those sections of a trunk's policy by which its legs live; of a stranger's, the defaults. */
export interface LegPolicy
  extends Pick<
    TrunkPolicy,
    'codecs' | 'ptimeMs' | 'srtp' | 'dtmf' | 'sessionTimer' | 'reliable' | 'refer' | 'redirect'
  > {}

export function legPolicyOf(policy: TrunkPolicy): LegPolicy {
  const { codecs, ptimeMs, srtp, dtmf, sessionTimer, reliable, refer, redirect } = policy;
  return { codecs, ptimeMs, srtp, dtmf, sessionTimer, reliable, refer, redirect };
}

export const DEFAULT_LEG_POLICY: LegPolicy = legPolicyOf(DEFAULT_TRUNK_POLICY);

// --- A leg to be placed: router → edge --------------------------------------------------------

/** One place that an outgoing leg may reach. `peer` skips name resolution. */
export interface LegTarget {
  readonly uri: string;
  readonly peer: PeerAddress | null;
  /** A gateway of a configured trunk may be on a private address; a dialled URI may not. */
  readonly trusted: boolean;
  /** The gateway's own URI, for its health; absent where it is none. */
  readonly gateway?: string;
  /** Proxies to go through, name-addr, the first one first (RFC 3327 §5.4). */
  readonly route?: readonly string[];
}

/** What goes into the signature of a caller. */
export interface LegSigning {
  /** A number or URI as the trunk wants it written. */
  readonly caller: string;
  /** Null: as the node is set. */
  readonly attest: 'A' | 'B' | 'C' | null;
  readonly numbers: Pick<NumberPolicy, 'countryCode' | 'internationalPrefix' | 'nationalPrefix'>;
}

/** Targets that are tried at once, and how: the first to answer wins (RFC 3261 §16.7). */
export interface LegGroup {
  readonly targets: readonly LegTarget[];
  /** Through which trunk it goes: a place in its limits is needed for that. */
  readonly trunkSid: TrunkSid | null;
  readonly fromUri: string;
  readonly fromDisplay: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Clear text, because messages are plain data. Never logged, never journalled. */
  readonly credentials: {
    readonly username: string;
    readonly password: string;
    readonly realm: string | null;
  } | null;
  readonly policy: LegPolicy;
  /** Whom to sign for in each INVITE (RFC 8224); absent or null: nobody. */
  readonly stir?: LegSigning | null;
  /** What makes the next group be tried. */
  readonly failover: FailoverPolicy;
}

export interface LegOrder {
  readonly legId: LegId;
  readonly callSid: CallSid;
  readonly accountSid: AccountSid;
  /** In order; never empty. The place in the limits of the first one's trunk is taken already. */
  readonly groups: readonly LegGroup[];
  readonly ringTimeoutMs: number;
  /** Put the port beside this one, so that the two can be bridged without a tunnel. */
  readonly near: PortRef | null;
  /** The call whose legs may be bridged with this one: their ports are made in one worker. */
  readonly group: CallSid;
  /** One less than the INVITE had that this one follows from: a loop must end (RFC 7332 §4). */
  readonly maxForwards: number;
}

/** What can be said at once; everything later comes as leg events. */
export interface LegOrderTaken {
  readonly legId: LegId;
}

export const ORDERS = 'edge.order' as Service<LegOrder, LegOrderTaken>;

// --- Another trunk is to be tried: edge → router ----------------------------------------------

/** Asks for a place in a trunk's limits; what the call had in another trunk's is given back. */
export interface SlotRequest {
  readonly callSid: CallSid;
  readonly trunkSid: TrunkSid;
}

export const SLOTS = 'router.slot' as Service<SlotRequest, { readonly isGranted: boolean }>;
