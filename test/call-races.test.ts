/**
 * Races that the walker found, each told once more by itself: what an application says while the
 * call is between two states, and what becomes of a call whose partner goes at that moment.
 */
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { CallRecord } from '../src/call/call-record.ts';
import { ScriptPeer } from './support/script-peer.ts';
import { SEED, SimClock, SimNetwork } from './support/sim.ts';
import { trunkRoute } from './support/trunk.ts';
import { startWalkNode, type WalkNode } from './support/walk-node.ts';
import { sdp } from './support/walk-text.ts';

interface Stage {
  readonly clock: SimClock;
  readonly node: WalkNode;
  readonly peer: ScriptPeer;
  readonly calls: Call[];
  /** Records of calls that ended, in order. */
  ends(): CallRecord[];
}

async function stage(t: Test): Promise<Stage> {
  const clock = new SimClock({ seed: SEED });
  const network = new SimNetwork({ clock, seed: SEED });
  const trunks = [trunkRoute({ gateways: [{ uri: 'sip:10.0.1.1', priority: 1, weight: 1 }] })];
  const node = await startWalkNode({
    ...{ clock, network, seed: SEED },
    rows: { trunks, trunkOf: () => null, contactsOf: () => null },
    callOf: () => null,
  });
  t.teardown(() => node.close());
  const calls: Call[] = [];
  node.router.on('call', (call) => calls.push(call));
  const peer = await ScriptPeer.create(network, '10.0.0.2');
  const ends = (): CallRecord[] =>
    node.notices.filter(({ type }) => type === 'call.completed').map(({ call }) => call);
  return { clock, node, peer, calls, ends };
}

async function isOver(t: Test, { clock, node }: Stage): Promise<void> {
  await clock.advance(200_000);
  t.same(
    Object.entries(node.held()).filter(([, count]) => count !== 0),
    [],
    'nothing is left',
  );
  t.same(node.faults, []);
}

t.test('a call rejected after our offer went out in the 200 ends with BYE', async (t) => {
  const world = await stage(t);
  const { clock, peer, calls, ends } = world;
  peer.request({ method: 'INVITE', branch: 'z9hG4bKlate' });
  await clock.advance(50);
  calls[0]?.act({ kind: 'answer' });
  await clock.advance(1_000);
  const { toTag } = peer.last('200 INVITE');

  calls[0]?.act({ kind: 'reject', sipStatus: 486, reason: '' });
  await clock.advance(50);
  peer.request({ method: 'ACK', toTag, body: sdp('10.0.0.2', 'plain', 1) });
  await clock.advance(50);
  peer.respond(peer.last('BYE'), 200);
  await clock.advance(50);
  t.match(ends(), [{ status: 'failed', end: { code: 'CALL_REJECTED', sipStatus: 200 } }]);
  await isOver(t, world);
});

t.test('who hangs up while he is being connected is not our fault', async (t) => {
  const world = await stage(t);
  const { clock, node, peer, calls, ends } = world;
  peer.request({ method: 'INVITE', branch: 'z9hG4bKgone', body: sdp('10.0.0.2', 'plain', 1) });
  await clock.advance(50);
  calls[0]?.act({ kind: 'answer' });
  await clock.advance(1_000);
  const { toTag } = peer.last('200 INVITE');
  peer.request({ method: 'ACK', toTag });
  await clock.advance(50);
  const parentCallSid = calls[0]?.sid;
  if (parentCallSid === undefined) throw new Error('no call');

  peer.request({ method: 'BYE', toTag, cseq: 2 });
  // The BYE is in, and the call has not heard of it yet.
  clock.timer(1.001, () => {
    node.router.dial({
      parentCallSid,
      callerId: null,
      target: { kind: 'number', number: '+15550123' },
      ringTimeoutMs: 5_000,
      statusCallback: null,
    });
  });
  await clock.advance(1_000);
  t.same(
    ends().map(({ direction, status, end }) => `${direction} ${status} ${end?.fault}`),
    ['outbound-dial canceled caller', 'inbound completed caller'],
  );
  await isOver(t, world);
});
