/**
 * What the record of a leg keeps of SIP, and what is done with it when the leg is brought back: a
 * dialog that stands goes on; INVITEs without an answer are ended properly, as nobody could go on
 * with them. The leg itself is `sip-leg.ts`, what is sent is `sip/remains.ts`.
 */
import { asGatewayError } from '../core/errors.ts';
import type { InviteRemains } from '../sip/invite-head.ts';
import type { Session } from '../sip/session.ts';
import type { LegDeps, LegPhase, LegRecord, Placing } from './leg-options.ts';

/** Before the answer there is no dialog that could be taken up again. */
export function sipPart(
  phase: LegPhase,
  session: Session | null,
  placing: Placing | null,
): Pick<LegRecord, 'session' | 'remains'> {
  if (phase === 'ended') return { session: null };
  // Answered without a description of the peer's: the ACK, which brings it, has not come.
  const isStanding = phase === 'answered' || session?.state === 'confirmed';
  if (isStanding && session !== null) return { session: session.record() };
  const remains = placing === null ? listOf(session?.remains) : placing.remains;
  return remains.length === 0 ? { session: null } : { session: null, remains };
}

function listOf(remains: InviteRemains | null | undefined): readonly InviteRemains[] {
  return remains ? [remains] : [];
}

/** Ends what was early, and takes up the dialog that stands; null when there is none. */
export function takeUp(
  { callSid, remains = [], session, trunkSid, policy }: LegRecord,
  { endpoint, log, credentialsOf }: LegDeps,
): Session | null {
  for (const one of remains) {
    try {
      endpoint.settle(one);
    } catch (thrown) {
      const { code } = asGatewayError(thrown);
      log.warn({ callSid, code }, 'an INVITE of a former process is not ended');
    }
  }
  if (session === null) return null;
  // Passwords are not journalled: the trunk's own, as they are now, answer what it challenges.
  const credentials = trunkSid === undefined ? null : (credentialsOf?.(trunkSid) ?? null);
  return endpoint.restore(session, {
    ...(policy === undefined ? {} : { policy }),
    ...(credentials === null ? {} : { credentials }),
  });
}
