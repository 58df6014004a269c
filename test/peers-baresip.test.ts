/**
 * baresip as a phone over TLS against a whole gateway: it calls and is called with audio both ways,
 * registers over TLS and is reached over that connection, offers SRTP keys beside plain RTP and
 * nothing but SRTP, and meets each refusal: by certificate, by password, by the trunk's policy.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { Baresip, type BaresipOptions, hasBaresip } from './support/baresip.ts';
import { Authority } from './support/certificates.ts';
import { freePort, startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, type Phone, startPhone } from './support/phone.ts';
import { tone, toneShare, writeWav } from './support/sound.ts';

const skip = hasBaresip() && existsSync(ADDON_PATH) ? false : 'needs baresip and the media addon';
const DOMAIN = 'phones.example';
const PASSWORD = 'Correct-Horse-9';
const OURS = '+4930100';
/** What each says: baresip, and our own phone behind the trunk. */
const BARESIP_HZ = 500;
const PHONE_HZ = 900;

interface House {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  readonly authority: Authority;
  readonly folder: string;
  readonly tlsPort: number;
  readonly microphone: string;
  /** Behind the trunk, for all numbers that begin with +33. */
  readonly phone: Phone;
  setPolicy(policy: TrunkPolicyChange): Promise<void>;
}

async function house(t: Test, environment: Record<string, string> = {}): Promise<House> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-tls-'));
  const authority = new Authority(folder);
  const pair = authority.issue(['IP:127.0.0.1', `DNS:${DOMAIN}`]);
  const [sipPort, tlsPort] = [await freePort(), await freePort()];
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const phone = await startPhone({ sound: tone(PHONE_HZ, 1) });
  const gateway = await startGateway({
    TANDEM_SIP_LISTEN: `udp://127.0.0.1:${sipPort},tls://127.0.0.1:${tlsPort}`,
    TANDEM_SIP_TLS_CERT_FILE: pair.certFile,
    TANDEM_SIP_TLS_KEY_FILE: pair.keyFile,
    TANDEM_SIP_TLS_CA_FILE: authority.caFile,
    TANDEM_SIP_TRUSTED: '::1/128',
    TANDEM_DRAIN_DEADLINE_MS: '1000',
    ...environment,
  });
  t.teardown(async () => {
    await gateway.stop();
    await Promise.all([app.close(), phone.close()]);
    rmSync(folder, { recursive: true, force: true });
  });
  const microphone = join(folder, 'microphone.wav');
  writeWav(microphone, tone(BARESIP_HZ, 2));
  const policy = { health: { optionsIntervalS: 0 } };
  const trunk = await made(gateway, 'Trunks', {
    FriendlyName: 'carrier',
    InboundAddress: '127.0.0.1',
    NumberPattern: '+33*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${phone.sipPort};transport=udp` }]),
    Policy: JSON.stringify(policy),
  });
  await made(gateway, 'IncomingPhoneNumbers', {
    ...{ PhoneNumber: OURS, VoiceUrl: `${app.base}/voice` },
  });
  app.on('/voice', () => '<Response><Dial answerOnBridge="true">+33100</Dial></Response>');
  await delay(150);
  return {
    ...{ gateway, app, authority, folder, tlsPort, microphone, phone },
    setPolicy: async (change) => {
      const Policy = JSON.stringify({ ...policy, ...change });
      const { status, text } = await gateway.rest('POST', `Trunks/${trunk}.json`, { Policy });
      if (status !== 200) throw new Error(text);
      await delay(150);
    },
  };
}

async function made(
  gateway: TestGateway,
  path: string,
  form: Record<string, string>,
): Promise<string> {
  const { status, json, text } = await gateway.rest('POST', `${path}.json`, form);
  if (status !== 201) throw new Error(`${path}: ${status} ${text}`);
  return json.sid;
}

async function baresip(
  t: Test,
  { authority, microphone }: House,
  options: Partial<BaresipOptions> = {},
): Promise<Baresip> {
  const phone = await Baresip.start({
    codecs: ['PCMU/8000/1'],
    microphone,
    isAnsweringAtOnce: true,
    tls: { caFile: authority.caFile },
    ...options,
  });
  t.teardown(() => phone.close());
  return phone;
}

/** Calls a number of ours over TLS; how that ended, when it was not taken. */
async function calls(phone: Baresip, { tlsPort }: House): Promise<'talks' | string> {
  phone.dial(`sip:${OURS}@127.0.0.1:${tlsPort};transport=tls`);
  const talks = phone.waitFor('CALL_ESTABLISHED').then(() => 'talks');
  return Promise.race([talks, phone.waitFor('CALL_CLOSED').then(({ param }) => param)]);
}

/** Both hear each other for a second; then baresip hangs up. */
async function bothHear(t: Test, phone: Baresip, other: Phone): Promise<void> {
  other.forget();
  await delay(1_300);
  t.ok(toneShare(other.heard(), BARESIP_HZ) > 0.8, 'the other hears baresip');
  phone.hangup();
  await other.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
  await delay(300);
  const heard = phone.heard();
  t.ok(toneShare(heard, PHONE_HZ) > 0.7, `baresip hears the other: ${toneShare(heard, PHONE_HZ)}`);
}

async function until(what: string, check: () => Promise<boolean> | boolean): Promise<void> {
  for (let tries = 0; tries < 80; tries += 1) {
    if (await check()) return;
    await delay(100);
  }
  throw new Error(`not in time: ${what}`);
}

t.test('baresip calls over TLS, and both hear each other', { skip }, async (t) => {
  const home = await house(t);
  const phone = await baresip(t, home);
  t.equal(await calls(phone, home), 'talks');
  await bothHear(t, phone, home.phone);
  const { json } = await home.gateway.rest('GET', 'Calls.json');
  const [inbound] = json.calls.filter((one: { direction: string }) => one.direction === 'inbound');
  const trace = (await home.gateway.rest('GET', `Calls/${inbound.sid}/Trace.json`)).text;
  t.match(trace, /tls/i);
});

t.test('without the certificate that is asked for there is no call', { skip }, async (t) => {
  const home = await house(t, { TANDEM_SIP_TLS_CLIENT_CERTIFICATE: 'require' });
  const stranger = await baresip(t, home);
  // TLS 1.3 tells it after the handshake; baresip takes a while to notice that nobody answers.
  t.not(await Promise.race([calls(stranger, home), delay(2_500)]), 'talks');
  t.notOk(home.app.seen.some(({ path }) => path === '/voice'));

  const certificate = home.authority.issue(['URI:sip:baresip.example']);
  const known = await baresip(t, home, { tls: { caFile: home.authority.caFile, certificate } });
  t.equal(await calls(known, home), 'talks');
  known.hangup();
});

t.test('SRTP that is offered is taken or refused as the trunk says', { skip }, async (t) => {
  const home = await house(t);
  for (const [srtp, offer, expected] of [
    ['off', 'offered', 'talks'],
    ['preferred', 'offered', 'talks'],
    ['required', 'offered', '488'],
    ['off', 'required', '488'],
    ['preferred', 'required', '488'],
    ['required', undefined, '488'],
  ] as const) {
    await home.setPolicy({ srtp });
    const phone = await baresip(t, home, offer === undefined ? {} : { srtp: offer });
    const outcome = await calls(phone, home);
    t.match(outcome, expected, `trunk ${srtp}, baresip ${offer ?? 'has none'}`);
    if (srtp === 'off' && offer === 'offered') await bothHear(t, phone, home.phone);
    else phone.hangup();
    await until('the call is over', () => phone.events.some(({ type }) => type === 'CALL_CLOSED'));
  }
});

t.test('registered over TLS it is called back over that connection', { skip }, async (t) => {
  const home = await house(t);
  const { gateway, app, tlsPort } = home;
  const list = await made(gateway, 'SIP/CredentialLists', { FriendlyName: 'phones' });
  await made(gateway, `SIP/CredentialLists/${list}/Credentials`, {
    ...{ Username: 'alice', Password: PASSWORD },
  });
  const domain = await made(gateway, 'SIP/Domains', {
    ...{ DomainName: DOMAIN, SipRegistration: 'true', VoiceUrl: `${app.base}/voice` },
  });
  await made(gateway, `SIP/Domains/${domain}/Auth/Registrations/CredentialListMappings`, {
    CredentialListSid: list,
  });
  await delay(150);
  const registration = {
    ...{ user: 'alice', domain: DOMAIN, password: PASSWORD, transport: 'tls' as const },
    proxy: `127.0.0.1:${tlsPort}`,
  };
  const phone = await baresip(t, home, { registration });
  // It has registered before it can be asked about it.
  const contacts = async (): Promise<{ contact: string }[]> =>
    (await gateway.rest('GET', 'SIP/Registrations.json')).json.registrations;
  await until('registered', async () => (await contacts()).length === 1);
  t.match((await contacts())[0]?.contact, /transport=tls/);

  app.on('/dialed', () => '<Response><Dial>+33100</Dial></Response>');
  const placed = await gateway.rest('POST', 'Calls.json', {
    To: `sip:alice@${DOMAIN}`,
    From: OURS,
    Url: `${app.base}/dialed`,
  });
  t.equal(placed.status, 201);
  await phone.waitFor('CALL_ESTABLISHED');
  await home.phone.waitFor(({ firstLine }) => firstLine.startsWith('ACK'));
  await bothHear(t, phone, home.phone);
  const call = async () => (await gateway.rest('GET', `Calls/${placed.json.sid}.json`)).json;
  await until('completed', async () => (await call()).status === 'completed');

  // After it: who guesses wrong is made to wait.
  await baresip(t, home, { registration: { ...registration, password: 'Wrong-Horse-9' } });
  await delay(1_500);
  t.equal((await contacts()).length, 1, 'a wrong password registers nobody');
});
