/**
 * What a SIP leg is made with and what is kept of it: its bounds, the parts it works with, and its
 * record as plain data. The leg itself is `sip-leg.ts`.
 */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { CallSid, TrunkSid } from '../core/sid.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Credentials } from '../sip/challenge.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { InviteRemains } from '../sip/invite-head.ts';
import type { HeaderField } from '../sip/message.ts';
import type { SessionEnd, SessionRecord } from '../sip/session.ts';
import type { Referral } from '../sip/side-report.ts';
import type { Journal } from './journal.ts';
import type { LegId, LegPolicy, SipHeaders } from './leg.ts';
import type { LegMediaRecord } from './leg-media-options.ts';
import type { OutboxRecord } from './leg-outbox.ts';
import type { LegMediaPolicy } from './media-terms.ts';

export interface LegOptions {
  readonly eventsKeptMax: number;
  readonly commandsSeenMax: number;
  /** Commands and session events of one leg that wait for their turn. */
  readonly queueDepthMax: number;
  /** How long an ended leg still repeats its last events to a call that comes back. */
  readonly lingerMs: number;
  /** A key heard twice, in different ways, within this time is one key. */
  readonly digitRepeatMs: number;
  /** Header fields kept for the application, and the length of each. */
  readonly headersMax: number;
  readonly headerCharsMax: number;
}

export const DEFAULT_LEG_OPTIONS: LegOptions = {
  eventsKeptMax: 64,
  commandsSeenMax: 32,
  queueDepthMax: 128,
  lingerMs: 10_000,
  digitRepeatMs: 400,
  headersMax: 32,
  headerCharsMax: 1024,
};

export interface LegDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly bus: Bus;
  readonly journal: Journal;
  readonly endpoint: Endpoint;
  readonly engine: MediaEngine;
  readonly media: LegMediaPolicy;
  readonly options: LegOptions;
  /** Whether a host is this node: a number there goes where any number goes. */
  readonly isOurs: (host: string) => boolean;
  /** The call whose leg has the dialog that a REFER names. */
  readonly callOf: (referral: Referral) => CallSid | null;
  /** With which a trunk's challenges are answered, of a leg that is brought back. */
  readonly credentialsOf?: ((trunkSid: TrunkSid) => Credentials | null) | undefined;
  /** The leg is over and nobody will ask for it again. */
  readonly onClosed: (legId: LegId) => void;
}

/** The tries of an outgoing leg, as long as nobody has answered. */
export interface Placing {
  /** Gives it up; how a session of it ended by that, null when there was none. */
  abort(reason: string, headers: readonly HeaderField[]): SessionEnd | null;
  /** INVITEs that are out. */
  readonly remains: readonly InviteRemains[];
}

export type LegPhase = 'early' | 'answered' | 'ended';

/** A leg as plain data: everything `restore` needs. */
export interface LegRecord {
  readonly legId: LegId;
  readonly callSid: CallSid;
  readonly direction: 'in' | 'out';
  readonly phase: LegPhase;
  readonly session: SessionRecord | null;
  readonly media: LegMediaRecord;
  readonly outbox: OutboxRecord;
  readonly sipHeaders: SipHeaders;
  /** While it is early: INVITEs that must be ended when there is nobody else to do it. */
  readonly remains?: readonly InviteRemains[];
  /** Through which an outgoing leg goes; absent: none. */
  readonly trunkSid?: TrunkSid;
  /** Of its trunk; absent: the defaults. */
  readonly policy?: LegPolicy;
}
