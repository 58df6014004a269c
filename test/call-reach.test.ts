/**
 * Who can be reached and what goes with a call: IPv6, hops, callers' names, audio in several
 * workers, and that legs are told things once. Real endpoint and media.
 */
import { createSocket, type Socket } from 'node:dgram';
import { EventEmitter } from 'node:events';
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Bridge } from '../src/call/bridge.ts';
import type { Call } from '../src/call/call.ts';
import { type LegCommand, legSubject } from '../src/call/leg.ts';
import { LegMedia } from '../src/call/leg-media.ts';
import { checkOffer, DEFAULT_LEG_MEDIA } from '../src/call/media-terms.ts';
import { DEFAULT_LEG_OPTIONS } from '../src/call/sip-leg.ts';
import { realClock } from '../src/core/clock.ts';
import { type Log, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { MediaEngine } from '../src/media/engine.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import type { Session, SessionEnd } from '../src/sip/session.ts';
import {
  type CallNode,
  ended,
  Listener,
  type NodeOptions,
  startNode,
} from './support/call-node.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { decodeUlaw, encodeUlaw, tone, toneShare } from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const MEDIA_PORTS = [23_800, 24_199] as const;
const SIX = await bound('::1').then(
  (socket) => !!socket.close(),
  () => false,
);

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

function dialFrom(node: CallNode, call: Call, uri: string): Call {
  return node.router.dial({
    parentCallSid: call.sid,
    target: { kind: 'sip', uri, credentials: null, headers: [] },
    callerId: null,
    ringTimeoutMs: 10_000,
    statusCallback: null,
  });
}

async function inviteAt(phone: Phone) {
  return phone.waitFor((message) => message.firstLine.startsWith('INVITE'));
}

// --- IPv6 -------------------------------------------------------------------------------------

function bound(address: string): Promise<Socket> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(0, address, () => resolve(socket));
  });
}

/** A phone on ::1: a second endpoint for SIP, a bare socket for PCMU. */
async function sixPhone(t: Test, node: CallNode) {
  const endpoint = new Endpoint({
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    listen: [{ transport: 'udp', address: '::1', port: 0 }],
    userAgent: 'six',
  });
  await endpoint.start();
  const rtp = await bound('::1');
  t.teardown(async () => {
    rtp.close();
    await endpoint.close();
  });
  const sdp = [
    'v=0',
    'o=- 1 1 IN IP6 ::1',
    's=-',
    'c=IN IP6 ::1',
    't=0 0',
    `m=audio ${rtp.address().port} RTP/AVP 0`,
    '',
  ].join('\r\n');
  const session = endpoint.invite({
    uri: `sip:x@[::1]:${node.sipPort6}`,
    from: { uri: 'sip:+15550006@six.example' },
    sdp,
  });
  return { session, rtp };
}

function speak(rtp: Socket, port: number): NodeJS.Timeout {
  const { samples } = tone(700, 0.02);
  let sequence = 0;
  return setInterval(() => {
    const packet = Buffer.alloc(12 + 160);
    packet[0] = 0x80;
    packet.writeUInt16BE(sequence, 2);
    packet.writeUInt32BE(sequence * 160, 4);
    packet.writeUInt32BE(6, 8);
    packet.set(encodeUlaw(samples.subarray(0, 160)), 12);
    sequence += 1;
    rtp.send(packet, port, '::1');
  }, 20);
}

function answerOf(session: Session): Promise<string> {
  return new Promise((resolve) => session.once('answered', ({ sdp }) => resolve(sdp)));
}

t.test('a call over IPv6 has audio in both directions', { skip: skip || !SIX }, async (t) => {
  const node = await setUp(t, { ipv6: true, address6: '::1' });
  const { session, rtp } = await sixPhone(t, node);
  const answered = answerOf(session);
  const call = await node.nextCall();
  call.act({ kind: 'answer' });
  const sdp = await answered;
  t.match(sdp, /c=IN IP6 ::1/);
  const heard: number[] = [];
  rtp.on('message', (packet) => heard.push(...decodeUlaw(packet.subarray(12))));
  const timer = speak(rtp, Number(/m=audio (\d+)/.exec(sdp)?.[1]));
  t.teardown(() => clearInterval(timer));
  const source = {
    kind: 'tone',
    hz: [440],
    onMs: 1_000,
    offMs: 0,
    levelDb: -10,
    count: 1,
  } as const;
  call.send({ id: 'p', kind: 'play', playId: 'p', source, loop: 0 });
  await delay(500);
  call.hangup();
  const { stats } = await ended(call);

  t.ok(toneShare({ rateHz: 8000, samples: Float64Array.from(heard) }, 440) > 0.5);
  t.ok((stats?.packetsReceived ?? 0) > 10, `${stats?.packetsReceived} packets came`);
});

t.test(
  'IPv6 media where there is none is refused with the reason',
  {
    skip: skip || !SIX,
  },
  async (t) => {
    const node = await setUp(t, { ipv6: true });
    const { session } = await sixPhone(t, node);
    const end = await new Promise<SessionEnd>((resolve) => session.once('ended', resolve));

    t.equal(end.status, 488);
    t.match(end.headers.find(([name]) => name === 'Warning')?.[1], /no IPv6 media/);
  },
);

// --- What goes with a dialled call ---------------------------------------------------------------

t.test('hops are counted through both legs, and a loop comes to its end', { skip }, async (t) => {
  const node = await setUp(t);
  const caller = await phoneFor(t);
  const callee = await phoneFor(t);
  void caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  t.equal(call.record.sip.maxForwards, 70);
  const child = dialFrom(node, call, callee.uri);
  t.equal(header(await inviteAt(callee), 'max-forwards'), '69');
  child.hangup();

  Object.assign(call.record.sip, { maxForwards: 0 });
  const lost = dialFrom(node, call, callee.uri);
  t.match(await ended(lost), { status: 'failed', code: 'SIP_TOO_MANY_HOPS', sipStatus: 483 });
  call.hangup();
  await ended(call);
});

t.test("a caller's name cannot end our From and begin another", { skip }, async (t) => {
  const node = await setUp(t);
  const caller = await phoneFor(t, { user: '%2B1555%40bank.example%3E%3Btag%3Devil' });
  const callee = await phoneFor(t);
  void caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  t.equal(call.record.from, 'sip:+1555%40bank.example%3E%3Btag=evil@127.0.0.1');
  dialFrom(node, call, callee.uri);

  const from = header(await inviteAt(callee), 'from');
  t.match(from, /^<sip:[^<>@;]+@127\.0\.0\.1>;tag=[0-9a-f]+$/);
  call.hangup();
  await ended(call);
});

// --- Legs -------------------------------------------------------------------------------------

t.test('a call answered after it dialled shares a worker with its child', { skip }, async (t) => {
  const node = await setUp(t, { workers: 2 });
  const caller = await phoneFor(t);
  const callee = await phoneFor(t);
  void caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const leg = new Listener(call);
  const child = dialFrom(node, call, callee.uri);
  await new Listener(child).event('answered');
  call.act({ kind: 'answer' });
  await leg.event('answered');
  const bridge = new Bridge({ a: call, b: child });
  const outcome = new Promise((resolve) => {
    bridge.once('joined', () => resolve('joined'));
    bridge.once('failed', resolve);
  });
  bridge.join();

  t.equal(await outcome, 'joined');
  t.equal(call.record.port?.worker, child.record.port?.worker);
  call.hangup();
  await ended(child);
});

t.test('who did not acknowledge our answer yet is no proven peer', { skip }, async (t) => {
  const node = await setUp(t);
  const settings: (boolean | undefined)[] = [];
  const { createPort } = node.engine;
  node.engine.createPort = async (request) => {
    settings.push(provenOf(request.settings));
    const port = await createPort.call(node.engine, request);
    const { set } = port;
    port.set = (told) => {
      settings.push(provenOf(told));
      return set.call(port, told);
    };
    return port;
  };
  const caller = await phoneFor(t);
  const callee = await phoneFor(t);
  const answered = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  call.act({ kind: 'answer' });
  await answered;
  await delay(30);
  t.same(settings, [false, true], 'made for the answer, and told after the ACK');

  const child = dialFrom(node, call, callee.uri);
  await new Listener(child).event('answered');
  t.same(settings.slice(2), [undefined, true], 'who answers us is');
  call.hangup();
  await ended(call);
});

function provenOf(settings: object | undefined): boolean | undefined {
  return (settings as { proven?: boolean } | undefined)?.proven;
}

t.test('legs that end are told so once, and nothing else', { skip }, async (t) => {
  const node = await setUp(t);
  const caller = await phoneFor(t);
  const callee = await phoneFor(t);
  void caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'answer' });
  await leg.event('answered');
  const child = dialFrom(node, call, callee.uri);
  await new Listener(child).event('answered');
  const bridge = new Bridge({ a: call, b: child });
  const joined = new Promise<void>((resolve) => bridge.once('joined', resolve));
  bridge.join();
  await joined;
  const told: string[] = [];
  const note = (command: LegCommand): void => void told.push(command.kind);
  node.bus.subscribe(legSubject(child.record.legId), note);
  call.on('ended', () => child.hangup('CALL_CANCELED')); // as the verb that dialled does

  caller.hangup();
  await ended(child);
  await delay(20);

  t.same(told, ['hangup', 'attach']);
  t.equal(node.engine.size, 0);
});

t.test('a command that finds no room at its leg is told as failed', { skip }, async (t) => {
  const node = await setUp(t);
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { createPort } = node.engine;
  node.engine.createPort = async (request) => {
    const port = await createPort.call(node.engine, request);
    port.play = () => held;
    return port;
  };
  const caller = await phoneFor(t);
  const answered = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'answer' });
  await answered;

  const source = { kind: 'silence', durationMs: 1 } as const;
  for (let n = 0; n < DEFAULT_LEG_OPTIONS.queueDepthMax + 2; n += 1) {
    call.act({ kind: 'play', playId: `p${n}`, source, loop: 1 });
  }

  t.match(await leg.event('commandFailed'), { code: 'QUEUE_FULL' });
  t.equal(leg.events.filter(({ kind }) => kind === 'commandFailed').length, 1);
  release();
  call.hangup();
  t.match(await ended(call), { status: 'completed' });
});

t.test('a refused caller is not named in the log', { skip }, async (t) => {
  const lines: object[] = [];
  const log = { ...silentLog, info: (fields: object) => lines.push(fields) } as Log;
  const node = await setUp(t, { log, router: { trustedSources: ['192.0.2.0/24'] } });
  const phone = await phoneFor(t);
  const refused = await phone.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);

  t.match(refused.firstLine, ' 404 ', 'loopback is trusted only when the list says so');
  t.match(lines, [{ code: 'NO_ROUTE' }]);
  t.notMatch(JSON.stringify(lines), '127.0.0.1');
});

t.test('everybody who waits for the last call to end is told', { skip }, async (t) => {
  const node = await setUp(t);
  const phone = await phoneFor(t);
  void phone.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const waiting = Promise.all([node.router.idle(), node.router.idle()]);
  call.hangup();

  t.equal((await waiting).length, 2);
});

t.test('a leg records its description only while something may ask for it', async (t) => {
  const record = { ref: { worker: 1, handle: 1 }, settings: { proven: false }, peer: null };
  const port = Object.assign(new EventEmitter(), {
    address: '127.0.0.1',
    rtpPort: 20_000,
    rtcpPort: 20_001,
    toRecord: () => record,
    set: () => Promise.resolve(),
  });
  const engine = { address: port.address, createPort: () => Promise.resolve(port) };
  const remote = { ...DEFAULT_LEG_MEDIA.remote, allowLoopbackMedia: true };
  const policy = { ...DEFAULT_LEG_MEDIA, remote };
  const media = new LegMedia({
    clock: realClock,
    group: 'g',
    engine: engine as object as MediaEngine,
    policy,
    digitRepeatMs: 0,
    tell: () => undefined,
    sendInfo: () => undefined,
    onLost: (error) => t.fail(error.message),
    record: null,
  });
  const session = 'v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n';
  const audio = `${session}m=audio 6000 RTP/AVP 0\r\n`;

  t.match(await media.answer(checkOffer(audio, port.address, policy)), /m=audio 20000 /);
  t.match(media.record(), { localSdp: '', port: { settings: null }, agreed: { codec: 'PCMU' } });
  const both = await media.answerAgain(`${audio}m=video 6002 RTP/AVP 96\r\n`);
  t.match(both, /m=video 0 /);
  t.equal(media.record().localSdp, both, 'later descriptions keep the place of every line');
  const offer = await media.offer({ near: null, peer: '' });
  t.match(offer, /m=video 0 /);
  t.match(media.record(), { localSdp: offer, isOffering: true });
});
