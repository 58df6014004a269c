/**
 * Whom nobody answers for: an address that says nothing at all is given up long before SIP itself
 * would, one that says anything is not; what a call of ours was admitted by; and what a caller is
 * told of when to come back. Real endpoint and media, peers as bare sockets.
 */
import { createSocket, type RemoteInfo } from 'node:dgram';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { DialTarget } from '../src/call/route.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import {
  ACCOUNT,
  APPLICATION,
  type CallNode,
  ended,
  Listener,
  type NodeOptions,
  startNode,
} from './support/call-node.ts';
import { delay, header, startPhone } from './support/phone.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const LIMIT_MS = 700;

async function setUp(t: Test, options: NodeOptions = {}): Promise<CallNode> {
  const router = { plainNoProvisionalMs: LIMIT_MS, ...options.router };
  const node = await startNode({ mediaPorts: [24_200, 24_399], ...options, router });
  t.teardown(() => node.close());
  return node;
}

interface Bare {
  readonly port: number;
  /** First lines of what came. */
  readonly heard: string[];
  /** Answers the first INVITE. */
  answer(statusLine: string): void;
}

/** A socket that says nothing but what it is told to, and to an INVITE `at once` if that is given. */
async function bare(t: Test, atOnce = '', field = ''): Promise<Bare> {
  const socket = createSocket('udp4');
  const heard: string[] = [];
  let invite: { text: string; peer: RemoteInfo } | null = null;
  const answer = (statusLine: string): void => {
    if (invite === null) return;
    const kept = invite.text
      .split('\r\n')
      .filter((line) => /^(?:via|from|to|call-id|cseq):/i.test(line))
      .map((line) => (/^to:/i.test(line) && !/ 100 /.test(statusLine) ? `${line};tag=s` : line));
    const lines = [statusLine, ...kept, ...(field === '' ? [] : [field]), 'Content-Length: 0'];
    socket.send(`${lines.join('\r\n')}\r\n\r\n`, invite.peer.port, invite.peer.address);
  };
  socket.on('message', (data, peer) => {
    const text = data.toString('latin1');
    heard.push(text.split(' ')[0] ?? '');
    if (!text.startsWith('INVITE')) return;
    invite ??= { text, peer };
    if (atOnce !== '') answer(atOnce);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  return { port: (socket.address() as AddressInfo).port, heard, answer };
}

function sip(port: number): DialTarget {
  return { kind: 'sip', uri: `sip:x@127.0.0.1:${port}`, credentials: null, headers: [] };
}

function originate(node: CallNode, target: DialTarget): Call {
  return node.router.originate({
    accountSid: ACCOUNT,
    from: '+15551234567',
    application: APPLICATION,
    statusCallback: null,
    target,
    ringTimeoutMs: 10_000,
  });
}

t.test('a dialled address that is dead fails in seconds, and says why', { skip }, async (t) => {
  const node = await setUp(t);
  const dead = await bare(t);

  const startMs = performance.now();
  const end = await ended(originate(node, sip(dead.port)));
  const tookMs = performance.now() - startMs;

  t.match(end, { status: 'failed', code: 'SIP_TIMEOUT', fault: 'carrier', sipStatus: 408 });
  t.match(end.reason, `no provisional response in ${LIMIT_MS} ms`);
  t.ok(tookMs >= LIMIT_MS && tookMs < LIMIT_MS + 1_500, `${tookMs} ms`);
  dead.answer('SIP/2.0 180 Ringing');
  await delay(100);
  t.ok(dead.heard.includes('CANCEL'), 'what rings after all is told to stop');
});

t.test('who has said so much as 100 is waited for', { skip }, async (t) => {
  const node = await setUp(t);
  const slow = await bare(t, 'SIP/2.0 100 Trying');

  const call = originate(node, sip(slow.port));
  await delay(3 * LIMIT_MS);

  t.ok(call.isLive);
  slow.answer('SIP/2.0 486 Busy Here');
  t.match(await ended(call), { status: 'busy', code: 'CALL_BUSY' });
});

t.test('a phone that is silent makes room for its next contact', { skip }, async (t) => {
  const dead = await bare(t);
  const alive = await startPhone();
  t.teardown(() => alive.close());
  const contact = (port: number, q: number) => {
    return { q, target: { uri: `sip:x@127.0.0.1:${port}`, peer: null, trusted: false } };
  };
  const contactsOf = () => [contact(dead.port, 1), contact(alive.sipPort, 0.5)];
  const node = await setUp(t, { contactsOf });

  const call = originate(node, sip(1));
  await new Listener(call).event('answered');

  t.ok(dead.heard.includes('INVITE'));
  call.hangup();
  await ended(call);
});

t.test(
  'the last gateway of a trunk is waited for, as late is better than never',
  { skip },
  async (t) => {
    const silent = await bare(t);
    const trunk = trunkRoute({
      gateways: [{ uri: `sip:127.0.0.1:${silent.port}`, priority: 1, weight: 1 }],
      policy: { failover: { noProvisionalMs: 300 } },
    });
    const node = await setUp(t, { trunks: [trunk] });

    const call = originate(node, { kind: 'number', number: '+4930123' });
    await delay(1_000);

    t.ok(call.isLive);
    silent.answer('SIP/2.0 486 Busy Here');
    t.match(await ended(call), { code: 'CALL_BUSY' });
  },
);

t.test('the history of a placed call tells that the node admitted it', { skip }, async (t) => {
  const node = await setUp(t, { admission: { liveCallsMax: 1 } });
  const quick = await bare(t, 'SIP/2.0 486 Busy Here');
  const told = (call: Call): string[] =>
    node.trace
      .entries(call.sid)
      .filter(({ kind, text }) => kind === 'decision' && text.includes('admission'))
      .map(({ text, detail }) => `${text} (${detail})`);

  const call = originate(node, sip(quick.port));
  await ended(call);
  t.strictSame(told(call), ['ok admission: the node has room ()']);

  const slow = await bare(t, 'SIP/2.0 180 Ringing');
  const live = originate(node, sip(slow.port));
  const request = { target: sip(quick.port), callerId: null, ringTimeoutMs: 1_000 };
  const parent = { parentCallSid: live.sid, statusCallback: null };
  t.throws(() => node.router.dial({ ...request, ...parent }), { code: 'OVERLOADED' });
  t.match(told(live)[1], /^no admission: .*\(call\.liveMax or call\.perSecondMax\)$/);
  live.hangup();
  await ended(live);
});

t.test(
  'a caller hears when the gateway that refused him wants to be asked',
  { skip },
  async (t) => {
    const full = await bare(t, 'SIP/2.0 503 Service Unavailable', 'Retry-After: 17');
    const trunk = trunkRoute({
      gateways: [{ uri: `sip:127.0.0.1:${full.port}`, priority: 1, weight: 1 }],
    });
    const node = await setUp(t, { trunks: [trunk] });
    const caller = await startPhone();
    t.teardown(() => caller.close());

    const answer = caller.call(`sip:+4930123@127.0.0.1:${node.sipPort}`, node.sipPort);
    const call = await node.nextCall();
    const child = node.router.dial({
      parentCallSid: call.sid,
      target: { kind: 'number', number: '+4930123' },
      callerId: null,
      ringTimeoutMs: 10_000,
      statusCallback: null,
    });
    t.match(await ended(child), { sipStatus: 503, sipHeaders: { 'Retry-After': '17' } });
    call.hangup();
    const refused = await answer;

    // RFC 3261 §16.7: a 503 of one gateway is not one of ours.
    t.match(refused.firstLine, 'SIP/2.0 500');
    t.equal(header(refused, 'retry-after'), '17');
  },
);
