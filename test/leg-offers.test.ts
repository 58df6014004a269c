/**
 * Where a leg's audio goes when offer and answer travel before the answer: reliable early media, a
 * late offer, an UPDATE that moves the audio while it still rings. The peer is a second endpoint;
 * what was agreed is read from the leg's journal record.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { LegRecord } from '../src/call/leg-options.ts';
import { realClock } from '../src/core/clock.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import type { Session } from '../src/sip/session.ts';
import { ACCOUNT, APPLICATION, type CallNode, Listener, startNode } from './support/call-node.ts';
import { delay } from './support/phone.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const REQUIRED = { reliable: 'require' } as const;

async function peerFor(t: Test): Promise<Endpoint> {
  const peer = new Endpoint({
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    listen: [{ transport: 'udp', address: '127.0.0.1', port: 0 }],
    userAgent: 'peer',
  });
  await peer.start();
  t.teardown(() => peer.close());
  return peer;
}

async function nodeFor(t: Test, peerPort = 0): Promise<CallNode> {
  const gateways = [{ uri: `sip:127.0.0.1:${peerPort};transport=udp`, priority: 1, weight: 1 }];
  const trunks = peerPort === 0 ? [] : [trunkRoute({ gateways, policy: REQUIRED })];
  const node = await startNode({ trunks, mediaPorts: [25_300, 25_399] });
  t.teardown(() => node.close());
  return node;
}

function sdp(port: number, version = 1): string {
  return [
    'v=0',
    `o=- 1 ${version} IN IP4 127.0.0.1`,
    's=-',
    'c=IN IP4 127.0.0.1',
    't=0 0',
    `m=audio ${port} RTP/AVP 0`,
    '',
  ].join('\r\n');
}

function happened(
  session: Session,
  event: 'answered' | 'reoffered' | 'provisional',
): Promise<void> {
  return new Promise((resolve) => session.once(event, () => resolve()));
}

/** Where the only leg of the node sends its audio to. */
async function remotePort(node: CallNode): Promise<number | undefined> {
  await delay(50);
  const legs: LegRecord[] = [];
  await node.journal.close();
  const records = await node.journal.start();
  for (const [key, record] of records) if (key.startsWith('leg.')) legs.push(record as LegRecord);
  return legs[0]?.media.agreed?.remote.port;
}

t.test('an UPDATE while it rings says where the audio goes, not the 183', { skip }, async (t) => {
  const peer = await peerFor(t);
  const node = await nodeFor(t, peer.locals[0]?.port);
  peer.on('invite', (session) => {
    session.progress(183, { sdp: sdp(40_000) });
    session.once('reoffered', () => session.accept(''));
    session.reoffer(sdp(40_100, 2));
  });
  const call = node.router.originate({
    accountSid: ACCOUNT,
    from: '+15551234567',
    application: APPLICATION,
    statusCallback: null,
    target: { kind: 'number', number: '+15557654321' },
    ringTimeoutMs: 10_000,
  });
  const leg = new Listener(call);
  t.match(await leg.event('ringing'), { sipStatus: 183, earlyMedia: true });
  await leg.event('answered');
  t.equal(await remotePort(node), 40_100);
});

t.test('a late offer is made while it rings, and PRACK answers it', { skip }, async (t) => {
  const peer = await peerFor(t);
  const node = await nodeFor(t);
  const session = peer.invite({
    uri: `sip:x@127.0.0.1:${node.sipPort};transport=udp`,
    from: { uri: 'sip:a@b.example' },
    sdp: '',
    ...REQUIRED,
  });
  const offers: string[] = [];
  session.on('offer', ({ sdp: offer, answer }) => {
    offers.push(offer);
    answer(sdp(40_200));
  });
  const answered = happened(session, 'answered');
  const call = await node.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'ring', earlyMedia: false });
  t.match(await leg.event('ringing'), { sipStatus: 180, earlyMedia: false });
  await delay(50);
  t.match(offers, [/m=audio 253\d\d/]);
  call.act({ kind: 'answer' });
  await answered;
  await leg.event('answered');
  t.equal(offers.length, 1);
  t.equal(await remotePort(node), 40_200);
});

t.test(
  'early media in a reliable 183, moved by the caller before the answer',
  { skip },
  async (t) => {
    const peer = await peerFor(t);
    const node = await nodeFor(t);
    const session = peer.invite({
      uri: `sip:x@127.0.0.1:${node.sipPort};transport=udp`,
      from: { uri: 'sip:a@b.example' },
      sdp: sdp(40_300),
      reliable: 'support',
    });
    const rings = happened(session, 'provisional');
    const call = await node.nextCall();
    const leg = new Listener(call);
    call.act({ kind: 'ring', earlyMedia: true });
    await rings;
    const moved = happened(session, 'reoffered');
    session.reoffer(sdp(40_400, 2));
    await moved;
    call.act({ kind: 'answer' });
    await leg.event('answered');
    t.equal(await remotePort(node), 40_400);
  },
);

t.test('a policy that the INVITE does not meet ends its call', { skip }, async (t) => {
  const peer = await peerFor(t);
  const trunk = trunkRoute({ policy: REQUIRED });
  const node = await startNode({
    mediaPorts: [25_300, 25_399],
    inbound: (user) => ({
      kind: 'application',
      accountSid: ACCOUNT,
      application: APPLICATION,
      statusCallback: null,
      to: user,
      from: '+15550100',
      trunkSid: trunk.sid,
      trunk,
    }),
  });
  t.teardown(() => node.close());
  const session = peer.invite({
    uri: `sip:x@127.0.0.1:${node.sipPort};transport=udp`,
    from: { uri: 'sip:a@b.example' },
    sdp: sdp(40_500),
    reliable: 'off',
  });
  const end = await new Promise<number>((resolve) => {
    session.once('ended', ({ status }) => resolve(status));
  });
  t.equal(end, 421);
});
