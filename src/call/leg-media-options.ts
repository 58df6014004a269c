/**
 * What the media half of a leg is made with, what is kept of it, and which commands are for it. The
 * thing itself is `leg-media.ts`.
 */
import type { Clock } from '../core/clock.ts';
import type { GatewayError } from '../core/errors.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { PortRecord } from '../media/port.ts';
import type { NegotiatedMedia } from '../sdp/offer-answer.ts';
import type { SendInfo } from './info-digits.ts';
import type { LegCommand, LegFact, LegId } from './leg.ts';
import type { LegMediaPolicy } from './media-terms.ts';
import type { ReferAction } from './referral.ts';

/** Plain data: what a rebuilt leg needs to find its port and to answer a re-INVITE. */
export interface LegMediaRecord {
  /** Without its settings: they follow from what is agreed. */
  readonly port: PortRecord | null;
  readonly sessionId: string;
  readonly version: number;
  /**
   * Our last description; `isOffering` when it is an offer that waits for its answer. '' when
   * nothing will ask for it: it is answered, and its one m= line needs no other's place kept.
   */
  readonly localSdp: string;
  readonly isOffering: boolean;
  readonly agreed: NegotiatedMedia | null;
  readonly onHold: boolean;
  readonly bridgedTo: LegId | null;
}

export interface LegMediaOptions {
  readonly clock: Clock;
  /** Legs that may be bridged have one name for it: their ports are made in one worker. */
  readonly group: string;
  readonly engine: MediaEngine;
  readonly policy: LegMediaPolicy;
  readonly digitRepeatMs: number;
  /** Where events of the port go; `key` names the command an event is the outcome of. */
  readonly tell: (fact: LegFact, key: string | null) => void;
  /** How keys go to a peer that wants them in INFO. */
  readonly sendInfo: SendInfo;
  /** The port cannot be brought back. */
  readonly onLost: (error: GatewayError) => void;
  /** Of a former process. */
  readonly record: LegMediaRecord | null;
}

/** The leg commands that are for the port alone. */
export type MediaCommand = Exclude<
  LegCommand,
  { kind: 'ring' | 'answer' | 'reject' | 'hangup' | 'move' | 'attach' | ReferAction['kind'] }
>;
