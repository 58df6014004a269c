/**
 * An INVITE with Replaces (RFC 3891): another dialog takes the place of a leg's own. The leg stays
 * what it is to its call, with its port and its bridge; whom it talks to changes. Whether it may is
 * the router's word; what the field names was matched by the endpoint.
 */
import type { Bus } from '../bus/bus.ts';
import { asGatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { isSamePeer } from '../sip/peer.ts';
import type { Session } from '../sip/session.ts';
import type { LegOffer } from './leg.ts';
import type { SipLeg } from './sip-leg.ts';
import { REPLACEMENTS } from './transfer-order.ts';

const VERDICT_MS = 5000;

/** Decides and carries out; the INVITE is answered in any case. */
export async function replaceLeg(parts: {
  readonly session: Session;
  readonly leg: SipLeg | undefined;
  readonly offer: LegOffer;
  readonly bus: Bus;
  readonly log: Log;
}): Promise<void> {
  const { session, leg, offer, bus, log } = parts;
  if (leg === undefined || leg.isEnding) {
    session.reject(481);
    return;
  }
  const { callSid } = leg;
  // Who speaks over the flow of the replaced dialog may move it: it could end it as well. Others
  // behind the same address are others.
  const isSameFlow = leg.peer !== null && isSamePeer(leg.peer, session.source);
  try {
    const { isGranted } = isSameFlow
      ? { isGranted: true }
      : await bus.request(REPLACEMENTS, { callSid, offer }, { timeoutMs: VERDICT_MS });
    if (isGranted) leg.queue(() => leg.replaceSession(session));
    else session.reject(403);
    log.info({ callSid, isGranted }, 'dialog to be replaced');
  } catch (thrown) {
    const { code, row } = asGatewayError(thrown);
    log.info({ callSid, code }, 'dialog not replaced');
    session.reject(row.sip);
  }
}
