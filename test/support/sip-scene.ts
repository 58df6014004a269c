/**
 * One real endpoint and one scripted peer on a simulated network, and the first steps of a call in
 * each direction: what tests of dialogs begin with.
 */
import type { Test } from 'tap';
import type { Endpoint, OutgoingInvite } from '../../src/sip/endpoint.ts';
import type { HeaderField } from '../../src/sip/message.ts';
import type { Offer, Session } from '../../src/sip/session.ts';
import type { SessionPolicy } from '../../src/sip/session-report.ts';
import { DEFAULT_SESSION_POLICY } from '../../src/sip/session-report.ts';
import { DEFAULT_SESSION_TIMER, type SessionTimerPolicy } from '../../src/sip/session-timer.ts';
import { type ScriptPeer, SDP } from './script-peer.ts';
import { SEED } from './sim.ts';
import { SipWorld, Witness } from './sip-world.ts';

export interface Scene {
  readonly world: SipWorld;
  readonly us: Endpoint;
  readonly peer: ScriptPeer;
  /** Lets time pass. */
  pass(durationMs: number): Promise<void>;
}

export interface Call extends Scene {
  readonly call: Witness;
  readonly session: Session;
  /** The peer's offers, in order. */
  readonly offers: Offer[];
}

export async function scene(t: Test, policy: Partial<SessionPolicy> = {}): Promise<Scene> {
  const world = new SipWorld();
  const session = { policy: { ...DEFAULT_SESSION_POLICY, ...policy } };
  const us = await world.endpoint('10.0.0.1', { session });
  const peer = await world.peer('10.0.0.2');
  t.teardown(() => world.close());
  return { world, us, peer, pass: (ms) => world.clock.advance(ms) };
}

export function timerPolicy(policy: Partial<SessionTimerPolicy>): SessionTimerPolicy {
  return { ...DEFAULT_SESSION_TIMER, ...policy };
}

/** An incoming call that nothing was said to yet. */
export async function incoming(
  t: Test,
  invite: { headers?: HeaderField[]; body?: string; policy?: Partial<SessionPolicy> } = {},
): Promise<Call> {
  const { headers = [], body = SDP, policy = {} } = invite;
  const stage = await scene(t, policy);
  let session: Session | null = null;
  stage.us.on('invite', (came) => {
    session = came;
  });
  stage.peer.request({ method: 'INVITE', branch: 'z9hG4bKinvite', headers, body });
  await stage.pass(10);
  if (session === null) throw new Error(`no call: ${stage.peer.heard.join(', ')}`);
  return watched(stage, session);
}

/** The same, answered and acknowledged. */
export async function answered(
  t: Test,
  invite: Parameters<typeof incoming>[1] = {},
): Promise<Call & { toTag: string }> {
  const stage = await incoming(t, invite);
  stage.session.accept(SDP);
  await stage.pass(10);
  const { toTag } = stage.peer.last('200 INVITE');
  stage.peer.request({ method: 'ACK', toTag });
  await stage.pass(10);
  return { ...stage, toTag };
}

/** An outgoing call; the peer has the INVITE. */
export async function calling(t: Test, options: Partial<OutgoingInvite> = {}): Promise<Call> {
  const stage = await scene(t);
  const session = stage.us.invite({
    uri: 'sip:them@10.0.0.2;transport=udp',
    from: { uri: 'sip:us@10.0.0.1' },
    sdp: SDP,
    ...options,
  });
  const call = watched(stage, session);
  await stage.pass(10);
  return call;
}

/** An outgoing call that the peer answered. */
export async function talking(
  t: Test,
  options: Partial<OutgoingInvite> = {},
  headers: HeaderField[] = [],
): Promise<Call & { fromTag: string }> {
  const stage = await calling(t, options);
  const invite = stage.peer.last('INVITE');
  stage.peer.respond(invite, 200, { body: SDP, headers });
  await stage.pass(10);
  stage.peer.clear();
  return { ...stage, fromTag: invite.fromTag };
}

function watched(stage: Scene, session: Session): Call {
  const offers: Offer[] = [];
  session.on('offer', (offer) => offers.push(offer));
  return { ...stage, session, call: new Witness(session), offers };
}

export function isEmpty(t: Test, us: Endpoint): void {
  const { sessions, clientTransactions, serverTransactions, deadlines } = us.counts;
  t.same(
    { sessions, clientTransactions, serverTransactions, deadlines },
    { sessions: 0, clientTransactions: 0, serverTransactions: 0, deadlines: 0 },
    `nothing is left behind, seed ${SEED}`,
  );
}
