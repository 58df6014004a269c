/**
 * What a leg asks the router of transfers: what becomes of a REFER that came (RFC 3515), and
 * whether an INVITE may take its place (RFC 3891). What is said of them afterwards is
 * `referral.ts`, who answers is `transfer.ts`.
 */
import type { Service } from '../bus/bus.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import type { LegOffer } from './leg.ts';
import type { DialTarget } from './route.ts';

// --- A REFER that came: leg → router, answered with a verdict ---------------------------------

export interface LegReferral {
  readonly callSid: CallSid;
  readonly referId: string;
  /** Whom to call, with what the Refer-To wants in the INVITE. */
  readonly target: DialTarget;
  /** Refer-To as it was written, without its header fields. */
  readonly uri: string;
  /** The call whose leg is the dialog that Replaces names; null: it names none, or none of ours. */
  readonly replacedCallSid: CallSid | null;
  /** `application`: the app says what becomes of it. */
  readonly mode: 'accept' | 'application';
}

export type ReferralVerdict =
  | { readonly isTaken: true }
  | { readonly isTaken: false; readonly code: ErrorCode; readonly details: ErrorDetails };

export const REFERRALS = 'router.refer' as Service<LegReferral, ReferralVerdict>;

// --- An INVITE that would replace a leg's dialog ----------------------------------------------

export interface ReplaceRequest {
  readonly callSid: CallSid;
  /** The INVITE as if it began a call: who sends it is judged by that. */
  readonly offer: LegOffer;
}

export const REPLACEMENTS = 'router.replace' as Service<
  ReplaceRequest,
  { readonly isGranted: boolean }
>;
