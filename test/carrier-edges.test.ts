/**
 * The edges of calls as carriers test them, by SIPp against the call machinery with real sockets:
 * requests that are no call, hops, loops, INFO, offers of ours within a call, forks, the answer
 * that crosses a CANCEL, large messages. Each with its refusal; the scenarios are in test/peers.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { InboundRoute } from '../src/call/route.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { ACCOUNT, APPLICATION, type CallNode, ended, startNode } from './support/call-node.ts';
import { freePort } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, type SippOptions, type SippResult, startSipp } from './support/sipp.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = hasSipp() && existsSync(ADDON_PATH) ? false : 'needs sipp and the media addon';
/** Told in every response; for those of which nothing more is asked. */
const ANYTHING = 'SIP/2.0';

function routeTo(user: string): InboundRoute {
  return {
    kind: 'application',
    accountSid: ACCOUNT,
    application: APPLICATION,
    statusCallback: null,
    ...{ to: user, from: '+15550100', trunkSid: null, trunk: null },
  };
}

async function serve(node: CallNode): Promise<void> {
  for (;;) {
    const call = await node.nextCall();
    call.act({ kind: 'ring', earlyMedia: true });
    void delay(200).then(() => call.act({ kind: 'answer' }));
  }
}

/** RTP ports are even (RFC 3550 §11). */
async function freeMediaPort(): Promise<number> {
  return 2 * Math.floor((await freePort()) / 2);
}

async function run(
  node: CallNode,
  scenario: string,
  replace: SippOptions['replace'] = {},
  family: 4 | 6 = 4,
): Promise<SippResult> {
  const { sipPort, sipPort6 } = node;
  return startSipp({
    ...{ scenario, replace, calls: 1, timeoutSeconds: 15, service: 'ring' },
    port: await freePort(),
    address: family === 4 ? '127.0.0.1' : '::1',
    target: family === 4 ? `127.0.0.1:${sipPort}` : `[::1]:${sipPort6}`,
    mediaPort: await freeMediaPort(),
  }).done;
}

function succeeded(t: Test, result: SippResult, what: string): void {
  t.equal(result.code, 0, `${what} ${result.code === 0 ? '' : result.output.slice(-3000)}`);
}

t.test('SIPp asks', { skip }, async (t) => {
  const mediaPorts = [25_400, 25_499] as const;
  const node = await startNode({ inbound: routeTo, mediaPorts, ipv6: true, address6: '::1' });
  t.teardown(() => node.close());
  void serve(node);

  t.test('what is no call: served, or refused in so many words', async (t) => {
    const hops = 'Max-Forwards: 70';
    for (const [method, fields, status, told] of [
      ['OPTIONS', hops, '200', 'Allow: [A-Z, ]*INVITE'],
      ['OPTIONS', 'Max-Forwards: 0', '200', 'Accept: application/sdp'],
      ['OPTIONS', `${hops}\nRequire: magic`, '420', 'Unsupported: magic'],
      ['MESSAGE', hops, '405', 'Allow: [A-Z, ]*INVITE'],
      ['SUBSCRIBE', `${hops}\nEvent: presence`, '489', 'Allow-Events'],
      ['PUBLISH', `${hops}\nEvent: presence`, '405', 'Allow: [A-Z, ]*INVITE'],
      ['NOTIFY', `${hops}\nEvent: refer\nSubscription-State: active`, '481', ANYTHING],
      ['REFER', `${hops}\nRefer-To: <sip:a@b.example>`, '403', ANYTHING],
      ['REGISTER', hops, '405', ANYTHING],
      ['UPDATE', hops, '481', ANYTHING],
      ['BYE', hops, '481', ANYTHING],
      ['JUMP', hops, '501', 'Allow: [A-Z, ]*INVITE'],
    ] as const) {
      const result = await run(node, 'asked', { method, fields, status, told });
      succeeded(t, result, `${method} ${fields.split('\n').at(-1)} is ${status}`);
    }
    t.equal(node.notices.length, 0, 'none of them was a call');
  });

  t.test('an INVITE that has no hops left, and one that came by two ways', async (t) => {
    const none = { status: '483', told: ANYTHING, fields: 'Subject: none' };
    const result = await run(node, 'no-hops', none);
    succeeded(t, result, 'Max-Forwards 0 is 483');
    succeeded(t, await run(node, 'merged'), 'merged is 482, and the call goes on');
  });

  t.test('INFO, OPTIONS and the unknown within a call', async (t) => {
    succeeded(t, await run(node, 'info-caller'), 'taken and refused, and the call goes on');
  });

  t.test('the same over IPv6: a call with what is taken in it, and refusals', async (t) => {
    succeeded(t, await run(node, 'info-caller', {}, 6), 'a call with audio on ::1');
    const hops = { status: '483', told: ANYTHING, fields: 'Subject: none' };
    succeeded(t, await run(node, 'no-hops', hops, 6), 'Max-Forwards 0 is 483');
  });

  t.test('re-INVITE without an offer, answered and not', async (t) => {
    succeeded(t, await run(node, 'bare-reinvite'), 'our offer is answered in the ACK');
    succeeded(t, await run(node, 'bare-reinvite-unanswered'), 'or all stays as it was');
  });
});

/** We call SIPp through a trunk; `transport` of the URI, and what SIPp listens on. */
async function called(
  t: Test,
  scenario: string,
  options: {
    uriTransport?: string;
    sippTransport?: 'u1' | 't1';
    from?: string;
    ringTimeoutMs?: number;
  } = {},
): Promise<{ call: Call; sipp: Promise<SippResult>; node: CallNode }> {
  const port = await freePort();
  const { uriTransport = ';transport=udp', sippTransport = 'u1', from = '+15551234567' } = options;
  const sipp = startSipp({
    ...{ scenario, port, calls: 1, timeoutSeconds: 20, transport: sippTransport },
    mediaPort: await freeMediaPort(),
    replace: { status: '486 Busy Here' },
  });
  const gateways = [{ uri: `sip:127.0.0.1:${port}${uriTransport}`, priority: 1, weight: 1 }];
  const node = await startNode({
    tcp: true,
    trunks: [trunkRoute({ gateways, policy: { headers: LARGE_RULES } })],
    mediaPorts: [25_500, 25_599],
  });
  t.teardown(() => node.close());
  await delay(400);
  const call = node.router.originate({
    ...{ accountSid: ACCOUNT, from, application: APPLICATION, statusCallback: null },
    target: { kind: 'number', number: '+15557654321' },
    ringTimeoutMs: options.ringTimeoutMs ?? 10_000,
  });
  return { call, sipp: sipp.done, node };
}

/** They make an INVITE of ours larger than 1300 bytes (RFC 3261 §18.1.1). */
const LARGE_RULES = Array.from({ length: 4 }, (_, index) => ({
  ...({ direction: 'out', action: 'set' } as const),
  name: `X-Large-${index}`,
  value: 'l'.repeat(250),
}));

t.test('SIPp is called', { skip }, async (t) => {
  t.test('two of a fork answer: one is talked to, the other ended', async (t) => {
    const { call, sipp } = await called(t, 'fork-answers');
    await new Promise((resolve) => call.once('status', resolve));
    await delay(1_500);
    t.equal(call.record.status, 'in-progress');
    call.hangup();
    succeeded(t, await sipp, 'ACK for both, BYE for each');
    t.match(await ended(call), { status: 'completed' });
  });

  t.test('two of a fork ring, and neither takes it', async (t) => {
    const { call, sipp } = await called(t, 'fork-refuses');
    succeeded(t, await sipp, 'refused');
    t.match(await ended(call), { status: 'busy', sipStatus: 486 });
  });

  t.test('an answer that crosses our CANCEL is acknowledged and ended', async (t) => {
    const { call, sipp } = await called(t, 'answer-crosses-cancel');
    while (call.record.status !== 'ringing') await delay(20);
    call.hangup('CALL_CANCELED');
    succeeded(t, await sipp, 'ACK and BYE');
    t.match(await ended(call), { status: 'canceled' });
  });

  t.test('above 1300 bytes TCP is taken, and UDP where there is none', async (t) => {
    for (const sippTransport of ['t1', 'u1'] as const) {
      const { call, sipp, node } = await called(t, 'answer', { uriTransport: '', sippTransport });
      while (call.record.status !== 'in-progress' && call.isLive) await delay(20);
      const trace = JSON.stringify(node.trace.entries(call.sid));
      t.match(trace, sippTransport === 't1' ? /INVITE.*tcp/i : /INVITE.*udp/i, sippTransport);
      call.hangup();
      await ended(call);
      succeeded(t, await sipp, `answered by ${sippTransport}`);
    }
  });

  t.test('a carrier that refuses by TCP is heard as one by UDP', async (t) => {
    const way = { uriTransport: ';transport=tcp', sippTransport: 't1' } as const;
    const { call, sipp } = await called(t, 'refuse', way);
    succeeded(t, await sipp, 'refused');
    t.match(await ended(call), { status: 'busy', sipStatus: 486 });
  });
});
