/**
 * Kamailio around a whole gateway, over UDP, TCP and TLS: as the carrier in front of it, which
 * relays a subscriber's call to it, and as the one behind it, through which its trunk reaches
 * another subscriber. What the two say goes all the way; so do refusals, CANCEL and BYE.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { Authority } from './support/certificates.ts';
import { freePort, startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { hasKamailio } from './support/kamailio.ts';
import { type ProxyRun, startProxy } from './support/kamailio-proxy.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
import { tone, toneShare } from './support/sound.ts';

const skip =
  hasKamailio('tls') && existsSync(ADDON_PATH) ? false : 'needs kamailio-tls-modules and the addon';
const OURS = '+4930100';
const CALLED = '+33100';
const BY_SIPP = '+39100';

type Transport = 'udp' | 'tcp' | 'tls';

interface Network {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  readonly proxy: ProxyRun;
  readonly proxyPort: number;
  readonly sippPort: number;
  readonly callee: Phone;
  readonly trunkSid: string;
}

/** Subscribers, Kamailio, tandem: every message between the last two by `transport`. */
async function network(
  t: Test,
  transport: Transport,
  callee: PhoneOptions = {},
  policy: TrunkPolicyChange = {},
): Promise<Network> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-kamailio-'));
  const authority = new Authority(folder);
  const pair = authority.issue(['IP:127.0.0.1']);
  const [proxyPort, proxyTls, ownTls, sippPort] = await Promise.all([
    ...[freePort(), freePort(), freePort(), freePort()],
  ] as const);
  const sipPort = await freePort();
  const gateway = await startGateway({
    TANDEM_SIP_LISTEN: [
      ...[`udp://127.0.0.1:${sipPort}`, `tcp://127.0.0.1:${sipPort}`],
      `tls://127.0.0.1:${ownTls}`,
    ].join(),
    TANDEM_SIP_TLS_CERT_FILE: pair.certFile,
    TANDEM_SIP_TLS_KEY_FILE: pair.keyFile,
    TANDEM_SIP_TLS_CA_FILE: authority.caFile,
    TANDEM_SIP_TRUSTED: '::1/128',
  });
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const phone = await startPhone({ user: CALLED, ...callee });
  const proxy = await startProxy({
    port: proxyPort,
    tlsPort: proxyTls,
    certificate: { ...pair, caFile: authority.caFile },
    tandem: `sip:127.0.0.1:${transport === 'tls' ? ownTls : sipPort};transport=${transport}`,
    tandemPrefix: '+49',
    subscribers: { '+33': phone.sipPort, '+39': sippPort },
  });
  t.teardown(async () => {
    await proxy.stop();
    await gateway.stop();
    await Promise.all([phone.close(), app.close()]);
    rmSync(folder, { recursive: true, force: true });
  });
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'Kamailio',
    InboundAddress: '127.0.0.1',
    NumberPattern: '+3*',
    Gateways: JSON.stringify([
      { uri: `sip:127.0.0.1:${transport === 'tls' ? proxyTls : proxyPort};transport=${transport}` },
    ]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...policy }),
  });
  if (made.status !== 201) throw new Error(made.text);
  const number = await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: OURS,
    VoiceUrl: `${app.base}/voice`,
  });
  if (number.status !== 201) throw new Error(number.text);
  await delay(150);
  return {
    ...{ gateway, app, proxy, proxyPort, sippPort, callee: phone },
    trunkSid: made.json.sid,
  };
}

async function caller(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone({ user: '+33200', ...options });
  t.teardown(() => phone.close());
  return phone;
}

const dial = (number: string): string =>
  `<Response><Dial answerOnBridge="true">${number}</Dial></Response>`;

/** Calls of the gateway, newest first, once all have ended. */
async function ended(gateway: TestGateway) {
  for (let tries = 0; tries < 100; tries += 1) {
    const { json } = await gateway.rest('GET', 'Calls.json');
    const calls = json.calls as { direction: string; status: string; sid: string }[];
    if (calls.every(({ status }) => !/queued|initiated|ringing|in-progress/.test(status))) {
      return calls;
    }
    await delay(50);
  }
  throw new Error('calls live on');
}

for (const transport of ['udp', 'tcp', 'tls'] as const) {
  t.test(`Kamailio in front and behind, by ${transport}`, { skip }, async (t) => {
    const world = await network(t, transport, { sound: tone(900, 1) });
    world.app.on('/voice', () => dial(CALLED));
    await t.test('both hear each other', (t) => talks(t, world, transport));
    await t.test('refused behind is refused in front', (t) => refuses(t, world));
    await t.test('given up in front is given up behind', (t) => givesUp(t, world));
  });
}

async function talks(t: Test, world: Network, transport: Transport): Promise<void> {
  const { gateway, proxy, proxyPort, callee } = world;
  const phone = await caller(t, { sound: tone(500, 1) });
  const answered = await phone.call(`sip:${OURS}@127.0.0.1`, proxyPort);
  t.match(answered.firstLine, /200/);
  t.match(answered.headers.get('record-route')?.join() ?? '', new RegExp(`:${proxyPort}`));
  const invite = callee.received.find(({ firstLine }) => firstLine.startsWith('INVITE'));
  t.match(invite && header(invite, 'from'), /\+33200/);
  await delay(1_200);
  t.ok(toneShare(phone.heard(), 900) > 0.8, 'the caller hears the called');
  t.ok(toneShare(callee.heard(), 500) > 0.8, 'the called hears the caller');
  t.equal(proxy.invites().filter((line) => line.includes(`by ${transport} for +33`)).length, 1);
  t.equal(proxy.invites().filter((line) => line.includes(`;transport=${transport}`)).length, 1);

  phone.hangup();
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
  const calls = await ended(gateway);
  t.same(calls.map(({ direction, status }) => `${direction} ${status}`).toSorted(), [
    'inbound completed',
    'outbound-dial completed',
  ]);
}

async function refuses(t: Test, { gateway, proxyPort, callee }: Network): Promise<void> {
  callee.onInvite = 486;
  const phone = await caller(t, { user: '+33250' });
  const refused = await phone.call(`sip:${OURS}@127.0.0.1`, proxyPort);
  t.match(refused.firstLine, /^SIP\/2.0 486/);
  const statuses = (await ended(gateway)).map(({ status }) => status);
  t.ok(statuses.includes('busy'), statuses.join());
}

async function givesUp(t: Test, { gateway, proxyPort, callee }: Network): Promise<void> {
  callee.onInvite = 'ring';
  const before = callee.received.length;
  const phone = await caller(t, { user: '+33300' });
  const final = phone.call(`sip:${OURS}@127.0.0.1`, proxyPort);
  const has = (method: string): boolean =>
    callee.received.slice(before).some(({ firstLine }) => firstLine.startsWith(method));
  for (let tries = 0; !has('INVITE') && tries < 60; tries += 1) await delay(50);
  await delay(300);
  phone.cancel();
  t.match((await final).firstLine, /487/);
  for (let tries = 0; !has('CANCEL') && tries < 60; tries += 1) await delay(50);
  t.ok(has('CANCEL'));
  await ended(gateway);
}

t.test('a stranger in front is refused; a number that nobody has, too', { skip }, async (t) => {
  const { gateway, proxyPort, trunkSid } = await network(t, 'tcp');
  const phone = await caller(t);
  const nobody = await phone.call('sip:+4930999@127.0.0.1', proxyPort);
  t.match(nobody.firstLine, /404/);
  const gone = await gateway.rest('DELETE', `Trunks/${trunkSid}.json`);
  t.equal(gone.status, 204);
  await delay(150);
  const other = await caller(t);
  const stranger = await other.call('sip:+4930999@127.0.0.1', proxyPort);
  t.match(stranger.firstLine, /40[34]/);
});

t.test(
  'the trunk’s gateway is Kamailio, which relays to SIPp',
  { skip: skip || !hasSipp() },
  async (t) => {
    const { gateway, sippPort } = await network(t, 'tls');
    const run = async (scenario: string): Promise<{ status: string; code: number | null }> => {
      const replace = { status: '486 Busy Here' };
      const sipp = startSipp({ scenario, port: sippPort, calls: 1, timeoutSeconds: 20, replace });
      await delay(400);
      const placed = await gateway.rest('POST', 'Calls.json', {
        To: BY_SIPP,
        From: OURS,
        Twiml: '<Response><Pause length="1"/></Response>',
      });
      t.equal(placed.status, 201, placed.text);
      const { code } = await sipp.done;
      await ended(gateway);
      const { json } = await gateway.rest('GET', `Calls/${placed.json.sid}.json`);
      return { status: json.status, code };
    };
    t.same(await run('answer'), { status: 'completed', code: 0 });
    t.same(await run('refuse'), { status: 'busy', code: 0 });
  },
);

t.test('TLS: a proxy whose certificate nobody signed is no gateway', { skip }, async (t) => {
  const { gateway, proxy } = await network(t, 'tls');
  const folder = mkdtempSync(join(tmpdir(), 'tandem-kamailio-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const wrong = new Authority(folder, 'wrong');
  const pair = wrong.issue(['IP:127.0.0.1']);
  const [port, tlsPort] = [await freePort(), await freePort()];
  const other = await startProxy({
    ...{ port, tlsPort, certificate: { ...pair, caFile: wrong.caFile } },
    ...{ tandem: 'sip:127.0.0.1:9', tandemPrefix: '+49', subscribers: {} },
  });
  t.teardown(() => other.stop());
  await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'Impostor',
    NumberPattern: '+7*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${tlsPort};transport=tls` }]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 } }),
  });
  await delay(150);
  const placed = await gateway.rest('POST', 'Calls.json', {
    ...{ To: '+7100', From: OURS, Twiml: '<Response/>' },
  });
  await ended(gateway);
  const { json } = await gateway.rest('GET', `Calls/${placed.json.sid}.json`);
  t.equal(json.status, 'failed');
  t.equal(other.invites().length, 0, 'it never saw the INVITE');
  t.equal(proxy.invites().length, 0);
});
