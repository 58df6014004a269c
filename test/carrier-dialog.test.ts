/**
 * The dialog mechanics that carriers test, by SIPp against the gateway's own call machinery with
 * real sockets and real audio ports: PRACK, UPDATE, session timers, late offers, hold and change of
 * codec and address, glare. Each mechanism with its refusal; the scenarios are in test/peers.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { InboundRoute, TrunkRoute } from '../src/call/route.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { ACCOUNT, APPLICATION, type CallNode, ended, startNode } from './support/call-node.ts';
import { freePort } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, type SippOptions, type SippResult, startSipp } from './support/sipp.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = hasSipp() && existsSync(ADDON_PATH) ? false : 'needs sipp and the media addon';

const SHORT = { mode: 'request', expiresS: 4, minSeS: 2, refresher: 'auto' } as const;

/** How each number's trunk wants its calls; others get the defaults. */
const POLICIES: Readonly<Record<string, TrunkPolicyChange>> = {
  plain: { reliable: 'off' },
  reliable: { reliable: 'require' },
  short: { sessionTimer: { ...SHORT, mode: 'accept' } },
  timed: { sessionTimer: { ...SHORT, mode: 'require' } },
};

const TRUNKS = new Map<string, TrunkRoute>(
  Object.entries(POLICIES).map(([name, policy]) => [name, trunkRoute({ policy })]),
);

function routeTo(user: string): InboundRoute {
  const trunk = TRUNKS.get(user) ?? null;
  return {
    kind: 'application',
    accountSid: ACCOUNT,
    application: APPLICATION,
    statusCallback: null,
    to: user,
    from: '+15550100',
    trunkSid: trunk?.sid ?? null,
    trunk,
  };
}

/** Rings with audio and answers a little later; `slow` rings without. */
async function serve(node: CallNode): Promise<void> {
  for (;;) {
    const call = await node.nextCall();
    call.act({ kind: 'ring', earlyMedia: call.record.to !== 'slow' });
    void delay(call.record.to === 'slow' ? 700 : 200).then(() => call.act({ kind: 'answer' }));
  }
}

let node: CallNode | null = null;

async function theNode(): Promise<CallNode> {
  if (node !== null) return node;
  node = await startNode({ inbound: routeTo, mediaPorts: [25_000, 25_199] });
  void serve(node);
  return node;
}

/** RTP ports are even (RFC 3550 §11). */
async function freeMediaPort(): Promise<number> {
  return 2 * Math.floor((await freePort()) / 2);
}

/** SIPp calls `service`. */
async function call(
  scenario: string,
  service: string,
  replace: SippOptions['replace'] = {},
): Promise<SippResult> {
  const { sipPort } = await theNode();
  return startSipp({
    scenario,
    port: await freePort(),
    target: `127.0.0.1:${sipPort}`,
    service,
    calls: 1,
    mediaPort: await freeMediaPort(),
    replace,
    timeoutSeconds: 15,
  }).done;
}

/** We call SIPp, through a trunk of that policy. */
async function called(
  scenario: string,
  policy: TrunkPolicyChange,
  replace: SippOptions['replace'] = {},
): Promise<{ call: Call; run: Promise<SippResult>; close(): Promise<void> }> {
  const port = await freePort();
  const mediaPort = await freeMediaPort();
  const run = startSipp({ scenario, port, calls: 1, mediaPort, replace, timeoutSeconds: 15 });
  const gateways = [{ uri: `sip:127.0.0.1:${port};transport=udp`, priority: 1, weight: 1 }];
  const own = await startNode({
    trunks: [trunkRoute({ policy, gateways })],
    mediaPorts: [25_200, 25_299],
  });
  await delay(300);
  const made = own.router.originate({
    accountSid: ACCOUNT,
    from: '+15551234567',
    application: APPLICATION,
    statusCallback: null,
    target: { kind: 'number', number: '+15557654321' },
    ringTimeoutMs: 10_000,
  });
  return { call: made, run: run.done, close: () => own.close() };
}

function succeeded(t: Test, result: SippResult): void {
  t.equal(result.code, 0, result.output.slice(-3000));
}

t.test('calls from a carrier', { skip }, async (t) => {
  t.teardown(async () => {
    await node?.close();
    node = null;
  });

  t.test('PRACK of a reliable 183, and of one that was never sent', async (t) => {
    succeeded(t, await call('prack-caller', 'ring'));
    succeeded(t, await call('prack-wrong', 'ring'));
  });

  t.test('100rel required and refused, asked for and missing', async (t) => {
    const required = { fields: 'Require: 100rel', status: '420', told: 'Unsupported: 100rel' };
    succeeded(t, await call('refused', 'plain', required));
    const missing = { fields: 'Supported: timer', status: '421', told: 'Require: 100rel' };
    succeeded(t, await call('refused', 'reliable', missing));
  });

  t.test('late offers: in the 200 and in the 183; one that is never answered', async (t) => {
    succeeded(t, await call('late-offer-caller', 'ring'));
    succeeded(t, await call('late-prack-caller', 'ring'));
    succeeded(t, await call('late-offer-unanswered', 'ring'));
  });

  t.test('UPDATE: refresh, offer, refusal; too soon; glare', async (t) => {
    succeeded(t, await call('update-caller', 'ring'));
    succeeded(t, await call('update-too-soon', 'slow'));
    succeeded(t, await call('glare-caller', 'ring'));
  });

  t.test('hold in every spelling, resume, codec and address, an offer of nothing', async (t) => {
    succeeded(t, await call('hold-caller', 'ring'));
  });

  t.test(
    'session timers: ours to refresh, by UPDATE and re-INVITE; theirs, and dead',
    async (t) => {
      succeeded(t, await call('timer-caller', 'short'));
      succeeded(t, await call('timer-reinvite', 'short'));
      succeeded(t, await call('timer-dead', 'short'));
    },
  );

  t.test('an interval that is too small, and no timer where one is required', async (t) => {
    const fields = 'Supported: timer\nSession-Expires: 30';
    succeeded(t, await call('refused', 'ring', { fields, status: '422', told: 'Min-SE: 90' }));
    const none = { fields: 'Supported: path', status: '421', told: 'Require: timer' };
    succeeded(t, await call('refused', 'timed', none));
  });
});

t.test('calls to a carrier', { skip }, async (t) => {
  t.test('a reliable 183 is acknowledged, and its answer holds', async (t) => {
    const { call, run, close } = await called('prack-callee', { reliable: 'require' });
    t.teardown(close);
    call.on('leg', (event) => {
      if (event.kind === 'answered') void delay(300).then(() => call.hangup());
    });
    succeeded(t, await run);
    t.match(await ended(call), { status: 'completed' });
  });

  t.test('a carrier without 100rel refuses what requires it', async (t) => {
    const replace = { status: '420 Bad Extension', fields: 'Unsupported: 100rel' };
    const { call, run, close } = await called('refuses', { reliable: 'require' }, replace);
    t.teardown(close);
    succeeded(t, await run);
    t.match(await ended(call), { status: 'failed' });
  });

  t.test('422 makes us ask for more; then the refreshes are ours', async (t) => {
    const { call, run, close } = await called('timer-callee', { sessionTimer: SHORT });
    t.teardown(close);
    call.on('leg', (event) => {
      if (event.kind === 'answered') void delay(3600).then(() => call.hangup());
    });
    succeeded(t, await run);
    t.match(await ended(call), { status: 'completed' });
  });

  t.test('422 that asks for no more than we did is a refusal', async (t) => {
    const replace = { status: '422 Session Interval Too Small', fields: 'Min-SE: 2' };
    const { call, run, close } = await called('refuses', { sessionTimer: SHORT }, replace);
    t.teardown(close);
    succeeded(t, await run);
    t.match(await ended(call), { status: 'failed' });
  });
});
