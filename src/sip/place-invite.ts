/**
 * An outgoing call from its order to its INVITE (RFC 3261 §8.1): the way is found, and the session
 * sends. Whatever is wrong ends the session, never its caller, and not before that one listens.
 */
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { formatParty } from './dialog.ts';
import type { OutgoingInvite } from './endpoint-options.ts';
import { encodeUtf8, fieldsBytes, parseUri } from './message.ts';
import type { Target } from './resolver.ts';
import type { Session } from './session.ts';
import type { UserAgent } from './user-agent.ts';

/** RFC 3261 §8.1.1.6. */
const MAX_FORWARDS = 70;

export async function placeInvite(
  session: Session,
  options: OutgoingInvite,
  parts: { ua: UserAgent; isFull: boolean; ringTimeoutMs: number },
): Promise<void> {
  const { uri, from, to, headers = [], sdp, ringTimeoutMs } = options;
  const { maxForwards = MAX_FORWARDS } = options;
  const { ua } = parts;
  try {
    if (maxForwards < 0) throw new GatewayError('SIP_TOO_MANY_HOPS');
    if (parts.isFull) throw new GatewayError('OVERLOADED', { limit: 'sessions' });
    const parsed = parseUri(uri);
    const { target } = options;
    const targets: readonly Target[] =
      target === undefined
        ? await ua.resolver.resolve(parsed)
        : [{ ...target, eitherTransport: target.eitherTransport ?? false }];
    // The caller gets to listen before anything can happen.
    await Promise.resolve();
    session.sendInvite({
      uri,
      callId: session.callId,
      localTag: session.id,
      localParty: formatParty(from.uri, encodeUtf8(from.display ?? '')),
      remoteParty: formatParty(to?.uri ?? uri),
      headers,
      sdp,
      hops: ua.hopsTo(targets, sdp.length + fieldsBytes(headers)),
      maxForwards,
      answerTimeoutMs: ringTimeoutMs ?? parts.ringTimeoutMs,
    });
  } catch (thrown) {
    await Promise.resolve();
    session.fail(asGatewayError(thrown));
  }
}
