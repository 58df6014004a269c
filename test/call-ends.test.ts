/**
 * How calls are refused, fail and end: each ending has one code, one status and the SIP that says
 * it. Real endpoint and media; the far end is the test phone, or a second endpoint where the phone
 * cannot do it (offers in answers, re-INVITE).
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { DialTarget } from '../src/call/route.ts';
import { realClock } from '../src/core/clock.ts';
import { GatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import type { TrunkSid } from '../src/core/sid.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import type { SessionEnd } from '../src/sip/session.ts';
import {
  ACCOUNT,
  APPLICATION,
  type CallNode,
  ended,
  Listener,
  type NodeOptions,
  startNode,
} from './support/call-node.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { reoffered } from './support/sip-world.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const MEDIA_PORTS = [23_400, 23_799] as const;

async function setUp(t: Test, options: NodeOptions = {}): Promise<CallNode> {
  const node = await startNode({ mediaPorts: MEDIA_PORTS, ...options });
  t.teardown(() => node.close());
  return node;
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

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

function sdp(lines: readonly string[] = [], port = 40_000, payload = '0 101'): string {
  return [
    'v=0',
    'o=- 1 1 IN IP4 127.0.0.1',
    's=-',
    'c=IN IP4 127.0.0.1',
    't=0 0',
    `m=audio ${port} RTP/AVP ${payload}`,
    'a=rtpmap:101 telephone-event/8000',
    ...lines,
    '',
  ].join('\r\n');
}

function sip(uri: string): DialTarget {
  return { kind: 'sip', uri, credentials: null, headers: [] };
}

function originate(node: CallNode, target: DialTarget, ringTimeoutMs = 10_000): Call {
  return node.router.originate({
    accountSid: ACCOUNT,
    from: '+15551234567',
    application: APPLICATION,
    statusCallback: null,
    target,
    ringTimeoutMs,
  });
}

function statuses(node: CallNode, call: Call): string[] {
  return node.notices.filter((n) => n.call.sid === call.sid).map((n) => n.call.status);
}

t.test(
  'an offer without a codec of ours is refused before anybody is asked',
  { skip },
  async (t) => {
    const node = await setUp(t);
    const peer = await peerFor(t);
    const session = peer.invite({
      uri: `sip:x@127.0.0.1:${node.sipPort}`,
      from: { uri: 'sip:a@127.0.0.1' },
      sdp: sdp(['a=rtpmap:18 G729/8000'], 40_000, '18 101'),
    });

    const end = await new Promise<SessionEnd>((resolve) => session.once('ended', resolve));

    t.equal(end.status, 488);
    t.match(end.headers.find(([name]) => name === 'Warning')?.[1], /no codec in common/);
    t.equal(node.notices.length, 0);
    t.equal(node.engine.size, 0, 'no port was made for it');
  },
);

t.test('nobody home, strangers and drains', { skip }, async (t) => {
  const node = await setUp(t, {
    router: { defaultRoute: null },
    inbound: (user) =>
      user === 'barred' ? { kind: 'refused', code: 'SIP_FORBIDDEN', details: {} } : null,
  });
  const phone = await phoneFor(t);

  t.match((await phone.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort)).firstLine, ' 404 ');
  const other = await phoneFor(t);
  const barred = await other.call(`sip:barred@127.0.0.1:${node.sipPort}`, node.sipPort);
  t.match(barred.firstLine, ' 403 ');
  t.equal(node.router.size, 0);
});

t.test('a drain refuses new calls, lets live ones dial, and can be undone', { skip }, async (t) => {
  const node = await setUp(t);
  const [first, second, third, callee] = [
    await phoneFor(t),
    await phoneFor(t),
    await phoneFor(t),
    await phoneFor(t),
  ];
  const uri = `sip:x@127.0.0.1:${node.sipPort}`;
  void first.call(uri, node.sipPort);
  const call = await node.nextCall();
  call.act({ kind: 'answer' });

  node.router.drain(true);
  const refused = await second.call(uri, node.sipPort);
  t.match(refused.firstLine, ' 503 ');
  t.match(header(refused, 'retry-after'), /^\d+$/);
  t.throws(() => originate(node, sip(callee.uri)), { code: 'DRAINING' });
  const child = node.router.dial({
    parentCallSid: call.sid,
    target: sip(callee.uri),
    callerId: null,
    ringTimeoutMs: 10_000,
    statusCallback: null,
  });
  await new Listener(child).event('answered');
  node.router.drain(false);
  void third.call(uri, node.sipPort);
  t.ok(await node.nextCall(), 'in service again');

  call.hangup();
  await ended(call);
  t.match(await ended(child), { status: 'completed', by: 'local' }, 'a child goes with its parent');
});

t.test('final responses become statuses', { skip }, async (t) => {
  const node = await setUp(t);
  const rows = [
    [486, 'busy', 'CALL_BUSY'],
    [600, 'busy', 'CALL_BUSY'],
    [480, 'no-answer', 'CALL_NO_ANSWER'],
    [408, 'no-answer', 'CALL_NO_ANSWER'],
    [404, 'failed', undefined],
    [484, 'failed', undefined],
    [500, 'failed', undefined],
  ] as const;
  for (const [sipStatus, status, code] of rows) {
    const callee = await phoneFor(t, { onInvite: sipStatus });
    const call = originate(node, sip(callee.uri));
    const end = await ended(call);
    t.match(end, { status, sipStatus, by: 'remote', durationMs: 0 }, `${sipStatus}`);
    if (code !== undefined) t.equal(end.code, code);
    t.same(statuses(node, call), ['queued', 'initiated', status]);
  }
});

t.test('unanswered calls end by timeout, by cancel, or by their caller', { skip }, async (t) => {
  const node = await setUp(t);
  const callee = await phoneFor(t, { onInvite: 'ring' });

  const late = originate(node, sip(callee.uri), 150);
  t.match(await ended(late), { status: 'no-answer', code: 'CALL_NO_ANSWER' });
  await callee.waitFor((message) => message.firstLine.startsWith('CANCEL'));

  const other = await phoneFor(t, { onInvite: 'ring' });
  const canceled = originate(node, sip(other.uri));
  await new Listener(canceled).event('ringing');
  canceled.hangup('CALL_CANCELED');
  t.match(await ended(canceled), { status: 'canceled', code: 'CALL_CANCELED', by: 'local' });
  await other.waitFor((message) => message.firstLine.startsWith('CANCEL'));

  const early = originate(node, sip(callee.uri));
  early.hangup('CALL_CANCELED');
  t.match(await ended(early), { status: 'canceled' }, 'before there is a leg');

  const caller = await phoneFor(t);
  const final = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const inbound = await node.nextCall(); // originated ones come first
  const mine = inbound.record.direction === 'inbound' ? inbound : await skipTo(node);
  mine.act({ kind: 'ring', earlyMedia: false });
  await new Listener(mine).event('ringing');
  caller.cancel();
  t.match((await final).firstLine, ' 487 ');
  t.match(await ended(mine), { status: 'no-answer', code: 'CALL_CANCELED', by: 'remote' });
});

async function skipTo(node: CallNode): Promise<Call> {
  for (;;) {
    const call = await node.nextCall();
    if (call.record.direction === 'inbound') return call;
  }
}

t.test('an application rejects, busy or not', { skip }, async (t) => {
  const node = await setUp(t);
  for (const [sipStatus, status, code] of [
    [486, 'busy', 'CALL_BUSY'],
    [603, 'failed', 'CALL_REJECTED'],
  ] as const) {
    const caller = await phoneFor(t);
    const final = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
    const call = await node.nextCall();
    call.act({ kind: 'reject', sipStatus, reason: '' });
    t.match((await final).firstLine, ` ${sipStatus} `);
    t.match(await ended(call), { status, code, by: 'local', sipStatus });
  }
});

t.test('early media, then the answer that goes with it', { skip }, async (t) => {
  const node = await setUp(t);
  const caller = await phoneFor(t);
  const final = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const leg = new Listener(call);

  call.act({ kind: 'ring', earlyMedia: true });
  t.match(await leg.event('ringing'), { sipStatus: 183, earlyMedia: true });
  const progress = await caller.waitFor((message) => message.firstLine.includes(' 183 '));
  call.act({ kind: 'answer' });

  t.match(progress.body, /m=audio \d+/);
  t.equal((await final).body, progress.body, 'the 200 says what the 183 said');
  call.hangup();
  await ended(call);
});

t.test('an INVITE without an offer is answered with ours', { skip }, async (t) => {
  const node = await setUp(t);
  const peer = await lateOfferPeer(t, node.sipPort);
  const call = await node.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'answer' });
  const offer = await peer.offer;
  t.match(offer, /m=audio \d+ RTP\/AVP [\d ]*\b0\b/);
  await delay(30);
  t.equal(call.record.status, 'ringing', 'not answered before the ACK brings the answer');

  peer.acknowledge(sdp());

  t.ok(await leg.event('answered'));
  call.hangup();
  t.match(await ended(call), { status: 'completed' });
});

t.test('an ACK without the answer it owes ends the call', { skip }, async (t) => {
  const node = await setUp(t);
  const peer = await lateOfferPeer(t, node.sipPort);
  const call = await node.nextCall();
  call.act({ kind: 'answer' });
  await peer.offer;

  peer.acknowledge('');

  t.match(await ended(call), { status: 'failed', code: 'SDP_MALFORMED', fault: 'caller' });
  await peer.bye;
});

/** Calls without an offer, by hand: one INVITE, and the ACK when the test says so. */
async function lateOfferPeer(
  t: Test,
  port: number,
): Promise<{ offer: Promise<string>; bye: Promise<void>; acknowledge(answer: string): void }> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  const uri = `sip:x@127.0.0.1:${port}`;
  const offer = Promise.withResolvers<string>();
  const bye = Promise.withResolvers<void>();
  let to = `<${uri}>`;
  const send = (method: string, body: string): void => {
    const lines = [
      `${method} ${uri} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:${socket.address().port};branch=z9hG4bK${method}${body.length}`,
      'Max-Forwards: 70',
      'From: <sip:+15550009@127.0.0.1>;tag=late',
      `To: ${to}`,
      `Call-ID: late-${socket.address().port}`,
      `CSeq: 1 ${method}`,
      `Contact: <sip:late@127.0.0.1:${socket.address().port}>`,
      ...(body === '' ? [] : ['Content-Type: application/sdp']),
      `Content-Length: ${body.length}`,
    ];
    socket.send(`${lines.join('\r\n')}\r\n\r\n${body}`, port, '127.0.0.1');
  };
  socket.on('message', (data) => {
    const text = data.toString('latin1');
    if (text.startsWith('BYE')) bye.resolve();
    if (!text.startsWith('SIP/2.0 200')) return;
    to = /^To: (.*)$/im.exec(text)?.[1]?.trim() ?? to;
    offer.resolve(text.slice(text.indexOf('\r\n\r\n') + 4));
  });
  send('INVITE', '');
  return { offer: offer.promise, bye: bye.promise, acknowledge: (answer) => send('ACK', answer) };
}

t.test('hold and resume by re-INVITE', { skip }, async (t) => {
  const node = await setUp(t);
  const peer = await peerFor(t);
  const session = peer.invite({
    uri: `sip:x@127.0.0.1:${node.sipPort}`,
    from: { uri: 'sip:+15550009@127.0.0.1' },
    sdp: sdp(),
  });
  const answered = new Promise((resolve) => session.once('answered', resolve));
  const call = await node.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'answer' });
  await answered;

  const held = await reoffered(session, sdp(['a=sendonly']));
  t.match(held.sdp, /a=recvonly/);
  t.match(await leg.event('hold'), { onHold: true });
  t.equal(call.record.onHold, true);
  const resumed = await reoffered(session, sdp([], 40_002));
  t.notMatch(resumed.sdp, /a=recvonly/);
  await delay(20);
  t.equal(call.record.onHold, false);
  await t.rejects(reoffered(session, sdp(['a=rtpmap:18 G729/8000'], 40_002, '18')));
  t.equal(call.isLive, true, 'a refused offer leaves the call as it was');
  session.hangup();
  t.match(await ended(call), { status: 'completed', by: 'remote' });
});

t.test('the next gateway is tried when one is not there or says 503', { skip }, async (t) => {
  const dead = await phoneFor(t, { onInvite: 503 });
  const alive = await phoneFor(t);
  const trunk = trunkRoute({
    sid: `TK${'1'.repeat(32)}` as TrunkSid,
    numberPatterns: ['+49*'],
    gateways: [
      { uri: `sip:127.0.0.1:${alive.sipPort}`, priority: 2, weight: 1 },
      { uri: `sip:127.0.0.1:${dead.sipPort}`, priority: 1, weight: 1 },
    ],
  });
  const node = await setUp(t, { trunks: [trunk] });

  const call = originate(node, { kind: 'number', number: '+4930123' });
  await new Listener(call).event('answered');

  t.equal(call.record.trunkSid, trunk.sid);
  const invite = await alive.waitFor((message) => message.firstLine.startsWith('INVITE'));
  t.match(invite.firstLine, `sip:+4930123@127.0.0.1:${alive.sipPort}`);
  t.match(header(invite, 'from'), 'sip:+15551234567@tandem.test');
  t.equal(dead.received.filter((m) => m.firstLine.startsWith('INVITE')).length, 1);
  const nowhere = originate(node, { kind: 'number', number: '+33123' });
  t.match(await ended(nowhere), { status: 'failed', code: 'NO_TRUNK', fault: 'app' });
  call.hangup();
  await ended(call);
});

t.test('a dialled address that policy forbids gets no packet', { skip }, async (t) => {
  const node = await setUp(t);
  const call = originate(node, sip('sip:x@10.0.0.1'));
  t.match(await ended(call), { status: 'failed', code: 'DIAL_ADDRESS_REFUSED' });
});

t.test('an exception ends the call it happened in, and no other', { skip }, async (t) => {
  const node = await setUp(t);
  const [a, b] = [await phoneFor(t), await phoneFor(t)];
  const uri = `sip:x@127.0.0.1:${node.sipPort}`;
  void a.call(uri, node.sipPort);
  const broken = await node.nextCall();
  void b.call(uri, node.sipPort);
  const fine = await node.nextCall();
  fine.act({ kind: 'answer' });
  broken.on('leg', () => {
    throw new GatewayError('INTERNAL', { problem: 'on purpose' });
  });

  broken.act({ kind: 'answer' });

  t.match(await ended(broken), { code: 'INTERNAL', fault: 'gateway' });
  await a.waitFor((message) => message.firstLine.startsWith('BYE'));
  t.equal(fine.isLive, true);
  fine.hangup();
  await ended(fine);
});

t.test('a call ends at its time limit', { skip }, async (t) => {
  const node = await setUp(t);
  const caller = await phoneFor(t);
  void caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  call.setTimeLimit(200);
  call.act({ kind: 'answer' });

  t.match(await ended(call), { status: 'completed', code: 'CALL_TIME_LIMIT', by: 'local' });
  t.ok((call.record.end?.durationMs ?? 0) >= 190);
});

t.test('bounds: live calls and calls per second of an account', { skip }, async (t) => {
  const node = await setUp(t, { admission: { liveCallsPerAccountMax: 1 } });
  const [a, b] = [await phoneFor(t), await phoneFor(t)];
  const uri = `sip:x@127.0.0.1:${node.sipPort}`;
  void a.call(uri, node.sipPort);
  const call = await node.nextCall();
  t.match((await b.call(uri, node.sipPort)).firstLine, ' 503 ');
  call.hangup();
  await ended(call);

  const c = await phoneFor(t);
  void c.call(uri, node.sipPort);
  t.ok(await node.nextCall(), 'its place is free again');
});

t.test('closing ends what is left with BYE and a record each', { skip }, async (t) => {
  const node = await startNode({ mediaPorts: MEDIA_PORTS });
  const caller = await phoneFor(t);
  const answered = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  call.act({ kind: 'answer' });
  await answered;

  await node.close();

  await caller.waitFor((message) => message.firstLine.startsWith('BYE'));
  t.match(call.record.end, { status: 'completed', code: 'DRAINING' });
  t.equal(node.notices.at(-1)?.type, 'call.completed');
});
