/**
 * Registrations with others: baresip registers and is called and calls, SIPp registers and is
 * refused, and Kamailio is the carrier at which a trunk registers. Everything in its own process.
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { SipMessage } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { Baresip, hasBaresip } from './support/baresip.ts';
import { freePort, startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { hasKamailio } from './support/kamailio.ts';
import { type Carrier, startCarrier } from './support/kamailio-carrier.ts';
import { delay, header, type Phone, startPhone } from './support/phone.ts';
import { makePhoneDomain } from './support/phone-domain.ts';
import { credentials } from './support/registrar-world.ts';
import { hasSipp, startSipp } from './support/sipp.ts';

const DOMAIN = 'phones.example';
const PASSWORD = 'Correct-Horse-9';
const MICROPHONE = fileURLToPath(new URL('../../shared/data/media/', import.meta.url));

interface House {
  readonly app: AppServer;
  readonly gateway: TestGateway;
  readonly listSid: string;
}

/** A gateway with a domain at which alice and bob may register. */
async function house(t: Test, environment: Record<string, string> = {}): Promise<House> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({
    TANDEM_SIP_TRUSTED: '::1/128',
    TANDEM_DRAIN_DEADLINE_MS: '500',
    ...environment,
  });
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
  });
  const { listSid } = await makePhoneDomain(gateway, {
    name: DOMAIN,
    password: PASSWORD,
    form: { VoiceUrl: `${app.base}/voice` },
  });
  await settled();
  return { app, gateway, listSid };
}

/** Rows are read anew after a change. */
function settled(): Promise<void> {
  return delay(150);
}

async function registered(gateway: TestGateway) {
  const { json } = await gateway.rest('GET', 'SIP/Registrations.json');
  return json.registrations as { sid: string; address: string; contact: string; source: string }[];
}

async function until(what: string, check: () => Promise<boolean> | boolean): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    if (await check()) return;
    await delay(100);
  }
  throw new Error(`not in time: ${what}`);
}

const withMedia = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

t.test('baresip', { skip: hasBaresip() ? withMedia : 'no baresip' }, async (t) => {
  const microphone = `${MICROPHONE}speech-8k.wav`;

  async function phone(t: Test, gateway: TestGateway, user: string, transport: 'udp' | 'tcp') {
    const baresip = await Baresip.start({
      codecs: ['PCMU/8000/1'],
      microphone: await microphoneFile(microphone),
      isAnsweringAtOnce: false,
      registration: {
        ...{ user, domain: DOMAIN, password: PASSWORD, transport },
        proxy: `127.0.0.1:${gateway.sipPort}`,
      },
    });
    t.teardown(() => baresip.close());
    return baresip;
  }

  t.test('two of one address register, both ring, the first to answer has the call', async (t) => {
    const { app, gateway } = await house(t);
    app.on('/call', () => '<Response><Pause length="20"/></Response>');
    const one = await phone(t, gateway, 'alice', 'udp');
    const two = await phone(t, gateway, 'alice', 'tcp');
    await until('registered', async () => (await registered(gateway)).length === 2);
    for (const { address } of await registered(gateway)) t.equal(address, `sip:alice@${DOMAIN}`);

    const { json, status } = await gateway.rest('POST', 'Calls.json', {
      To: `sip:alice@${DOMAIN}`,
      From: '+15550111',
      Url: `${app.base}/call`,
    });
    t.equal(status, 201);
    await Promise.all([one.waitFor('CALL_INCOMING'), two.waitFor('CALL_INCOMING')]);
    two.command('accept');
    await two.waitFor('CALL_ESTABLISHED');
    await one.waitFor('CALL_CLOSED');
    const call = async () => (await gateway.rest('GET', `Calls/${json.sid}.json`)).json;
    await until('in progress', async () => (await call()).status === 'in-progress');
    two.hangup();
    await until('completed', async () => (await call()).status === 'completed');

    const [first] = await registered(gateway);
    const shown = await gateway.rest('GET', `SIP/Registrations/${first?.sid}.json`);
    t.equal(shown.json.contact, first?.contact);
    const filtered = await gateway.rest('GET', 'SIP/Registrations.json?Address=sip:bob@x');
    t.same(filtered.json.registrations, []);
    const gone = await gateway.rest('DELETE', `SIP/Registrations/${first?.sid}.json`);
    t.equal(gone.status, 204);
    t.equal((await registered(gateway)).length, 1);
    const again = await gateway.rest('DELETE', `SIP/Registrations/${first?.sid}.json`);
    t.equal(again.status, 404);
  });

  t.test('a registered phone calls: its domain’s application dials the other', async (t) => {
    const { app, gateway } = await house(t);
    app.on('/voice', () => `<Response><Dial><Sip>sip:bob@${DOMAIN}</Sip></Dial></Response>`);
    const alice = await phone(t, gateway, 'alice', 'udp');
    const bob = await phone(t, gateway, 'bob', 'tcp');
    await until('registered', async () => (await registered(gateway)).length === 2);
    alice.dial(`sip:service@${DOMAIN}`);
    const asked = await app.waitFor('/voice');
    t.match(asked.params.From, /alice/);
    t.equal(asked.params.To, `sip:service@${DOMAIN}`);
    await bob.waitFor('CALL_INCOMING');
    bob.command('accept');
    await Promise.all([alice.waitFor('CALL_ESTABLISHED'), bob.waitFor('CALL_ESTABLISHED')]);
    alice.hangup();
    await bob.waitFor('CALL_CLOSED');
  });
});

async function microphoneFile(path: string): Promise<string> {
  if (existsSync(path)) return path;
  const { tone, writeWav } = await import('./support/sound.ts');
  const { mkdtempSync } = await import('node:fs');
  const { tmpdir } = await import('node:os');
  const file = `${mkdtempSync(`${tmpdir()}/tandem-tone-`)}/tone.wav`;
  writeWav(file, tone(440, 2));
  return file;
}

t.test('a browser registers by WebSocket and is called over it', { skip: withMedia }, async (t) => {
  const port = await freePort();
  const { app, gateway } = await house(t, {
    TANDEM_SIP_LISTEN: `udp://127.0.0.1:${await freePort()},ws://127.0.0.1:${port}`,
    TANDEM_SIP_WS_ALLOW_WITHOUT_ORIGIN: 'true',
  });
  app.on('/call', () => '<Response><Pause length="5"/></Response>');
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, 'sip');
  t.teardown(() => socket.close());
  const heard: SipMessage[] = [];
  socket.binaryType = 'arraybuffer';
  socket.addEventListener('message', ({ data }) => {
    const text = typeof data === 'string' ? data : Buffer.from(data).toString('latin1');
    const parsed = parseMessage(text, { stream: false });
    if (parsed.ok) heard.push(parsed.message);
  });
  await new Promise((resolve) => socket.addEventListener('open', resolve));
  const instance = '"<urn:uuid:0f81d4fa-7dec-11d0-a765-00a0c91e6bf6>"';
  const register = (cseq: number, more: string[]) =>
    socket.send(
      `${[
        `REGISTER sip:${DOMAIN} SIP/2.0`,
        `Via: SIP/2.0/WS q1.invalid;branch=z9hG4bKws${cseq}`,
        ...['Max-Forwards: 70', `From: <sip:alice@${DOMAIN}>;tag=w`, `To: <sip:alice@${DOMAIN}>`],
        ...['Call-ID: web', `CSeq: ${cseq} REGISTER`, 'Supported: path, gruu, outbound'],
        `Contact: <sip:q1@q1.invalid;transport=ws>;reg-id=1;+sip.instance=${instance};expires=600`,
        ...more,
      ].join('\r\n')}\r\nContent-Length: 0\r\n\r\n`,
    );
  register(1, []);
  await until('challenged', () => heard.length === 1);
  const how = { user: 'alice', password: PASSWORD, algorithm: 'MD5' } as const;
  const [challenge] = heard as [SipMessage];
  register(2, [credentials(how, challenge, 'REGISTER', `sip:${DOMAIN}`)]);
  await until('answered', () => heard.length === 2);
  t.equal(heard[1]?.status, 200);
  t.equal(heard[1]?.header('Require'), 'outbound');
  t.match(heard[1]?.header('Contact'), /pub-gruu="sip:alice@phones\.example;gr=urn:uuid:0f81d4fa/);

  const place = (To: string) =>
    gateway.rest('POST', 'Calls.json', { To, From: '+15550111', Url: `${app.base}/call` });
  await place(`sip:alice@${DOMAIN}`);
  await until('called', () => heard.some(({ method }) => method === 'INVITE'));
  t.equal(heard.at(-1)?.uri, 'sip:q1@q1.invalid;transport=ws');

  socket.close();
  await delay(200);
  const { json } = await place(`sip:alice@${DOMAIN}`);
  const call = async () => (await gateway.rest('GET', `Calls/${json.sid}.json`)).json;
  await until('failed', async () => (await call()).status === 'failed');
  t.same(await registered(gateway), [], 'its flow is gone, and so is it');
});

t.test('who is not registered does not call, and is not called', async (t) => {
  const { app, gateway } = await house(t);
  app.on('/call', () => '<Response/>');
  const stranger = await startPhone({ user: 'alice' });
  t.teardown(() => stranger.close());
  const final = await stranger.call(`sip:service@${DOMAIN}`, gateway.sipPort);
  t.match(final.firstLine, /401/); // as a registered phone is asked
  t.notOk(app.seen.some(({ path }) => path === '/voice'));
  const { json } = await gateway.rest('POST', 'Calls.json', {
    To: `sip:alice@${DOMAIN}`,
    From: '+15550111',
    Url: `${app.base}/call`,
  });
  const call = async () => (await gateway.rest('GET', `Calls/${json.sid}.json`)).json;
  await until('failed', async () => (await call()).status === 'failed');
});

t.test('SIPp', { skip: hasSipp() ? false : 'no sipp' }, async (t) => {
  const { gateway, listSid } = await house(t, {
    TANDEM_REGISTRAR_CONTACTS_MAX: '3',
    TANDEM_REGISTRAR_PER_SECOND_MAX: '100',
  });
  const run = async (scenario: string, replace: Record<string, string>, calls = 1) => {
    const transport = replace.transport === 't1' ? 't1' : 'u1';
    const result = await startSipp({
      ...{ scenario, transport, calls, timeoutSeconds: 20 },
      port: await freePort(),
      target: `127.0.0.1:${gateway.sipPort}`,
      replace: { domain: DOMAIN, user: 'alice', password: PASSWORD, ...replace },
      // What it signs is the Request-URI; by itself it would say where it sends to.
      extra: ['-auth_uri', DOMAIN],
    }).done;
    return result.code === 0 ? 'as it should' : result.output;
  };
  const refused = {
    ...{ to: 'alice', expires: '600', contacts: '<sip:a@[local_ip]:[local_port]>' },
    told: 'SIP/2.0',
  };

  t.test('registers and leaves, over UDP and TCP', async (t) => {
    for (const transport of ['u1', 't1']) {
      t.equal(await run('register', { transport }, 3), 'as it should', transport);
    }
    t.same(await registered(gateway), []);
  });

  t.test('refused: too brief, wrong password, another’s name, too many contacts', async (t) => {
    const cases: [string, Record<string, string>][] = [
      ['423', { status: '423', expires: '5', told: 'Min-Expires: 60' }],
      ['a wrong password is asked again', { status: '401', password: 'wrong', told: 'nonce=' }],
      ['bob is there', { status: '403', to: 'bob' }],
      ['carol is not', { status: '403', to: 'carol' }],
      [
        'four contacts',
        {
          status: '403',
          told: '3 contacts at most',
          contacts: [1, 2, 3, 4].map((n) => `<sip:a${n}@[local_ip]>`).join(', '),
        },
      ],
      ['star', { status: '400', contacts: '*' }],
    ];
    for (const [what, more] of cases) {
      t.equal(await run('register-refused', { ...refused, ...more }), 'as it should', what);
    }
    t.equal(await run('register-nowhere', { domain: 'nobody.example' }), 'as it should', '404');
    t.same(await registered(gateway), []);
  });

  t.test('a user that is taken out of the list cannot register any more', async (t) => {
    const path = `SIP/CredentialLists/${listSid}/Credentials`;
    const { json } = await gateway.rest('GET', `${path}.json`);
    const bob = json.credentials.find((one: { username: string }) => one.username === 'bob');
    t.equal(await run('register', { user: 'bob' }), 'as it should');
    await gateway.rest('DELETE', `${path}/${bob.sid}.json`);
    await settled();
    const out = await run('register-refused', {
      ...refused,
      to: 'bob',
      user: 'bob',
      status: '401',
    });
    t.equal(out, 'as it should');
  });
});

t.test('phones are known after the gateway was killed', async (t) => {
  const { gateway, app } = await house(t);
  if (!hasSipp()) return;
  app.on('/call', () => '<Response><Pause length="1"/></Response>');
  const port = await freePort();
  const phone = await startSipp({
    ...{ scenario: 'register-refused', calls: 1, timeoutSeconds: 10, port },
    target: `127.0.0.1:${gateway.sipPort}`,
    replace: {
      ...{ domain: DOMAIN, user: 'alice', to: 'alice', password: PASSWORD, expires: '600' },
      ...{ contacts: '<sip:a@[local_ip]:[local_port]>', status: '200', told: 'expires=600' },
    },
    extra: ['-auth_uri', DOMAIN],
  }).done;
  t.equal(phone.code, 0, phone.output);
  const [before] = await registered(gateway);
  await delay(200);
  const next = await gateway.crash();
  t.teardown(() => next.stop());
  const [after] = await registered(next);
  t.equal(after?.sid, before?.sid);
  t.equal(after?.contact, `sip:a@127.0.0.1:${port}`);
});

t.test('Kamailio', { skip: hasKamailio('registrar') ? withMedia : 'no kamailio' }, async (t) => {
  async function trunked(
    t: Test,
    more: { expiresMinS?: number; deadFirst?: boolean; expiresS?: number } = {},
  ): Promise<{ gateway: TestGateway; app: AppServer; carrier: Carrier; sid: string }> {
    const port = await freePort();
    const { expiresMinS = 0, expiresS = 600 } = more;
    const password = 'carrier-secret';
    const domain = 'carrier.example';
    const username = '4930100';
    const carrier = await startCarrier({ port, domain, username, password, expiresMinS });
    t.teardown(() => carrier.stop());
    const app = await startAppServer({ authToken: TEST_TOKEN });
    const gateway = await startGateway({
      TANDEM_SIP_TRUSTED: '::1/128',
      TANDEM_REGISTRATION_TIMEOUT_MS: '600',
      TANDEM_DRAIN_DEADLINE_MS: '1000',
    });
    t.teardown(async () => {
      await gateway.stop();
      await app.close();
    });
    const gateways = [
      ...(more.deadFirst ? [{ Uri: `sip:127.0.0.1:${await freePort()}`, Priority: 1 }] : []),
      { Uri: `sip:127.0.0.1:${port}`, Priority: 2 },
    ];
    const made = await gateway.rest('POST', 'Trunks.json', {
      FriendlyName: 'Carrier',
      Gateways: JSON.stringify(
        gateways.map(({ Uri, Priority }) => ({ uri: Uri, priority: Priority, weight: 1 })),
      ),
      Username: username,
      Password: password,
      Policy: JSON.stringify({
        registration: { enabled: true, addressOfRecord: `sip:${username}@${domain}`, expiresS },
      }),
    });
    if (made.status !== 201) throw new Error(made.text);
    return { gateway, app, carrier, sid: made.json.sid };
  }

  const health = async (gateway: TestGateway, sid: string) =>
    (await gateway.rest('GET', `Trunks/${sid}/Health.json`)).json.registration;

  t.test('a trunk registers, its calls come in, and a drain takes it back', async (t) => {
    const { gateway, app, carrier, sid } = await trunked(t);
    await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
      PhoneNumber: '+4930100',
      VoiceUrl: `${app.base}/voice`,
    });
    app.on('/voice', () => '<Response><Play digits="1"/><Pause length="2"/></Response>');
    await until('registered', async () => (await health(gateway, sid)).state === 'registered');
    const state = await health(gateway, sid);
    t.equal(state.sip_status, 200);
    t.ok(Date.parse(state.expires) > Date.parse(state.since));

    // Nobody of the carrier's network is a trusted source: it is known by our contact alone.
    const caller: Phone = await startPhone({ user: '+4930999' });
    t.teardown(() => caller.close());
    const answered = await caller.call('sip:+4930100@carrier.example', carrier.port);
    t.match(answered.firstLine, /200/);
    t.match(header(answered, 'to'), /4930100/);
    const asked = await app.waitFor('/voice');
    t.equal(asked.params.To, '+4930100');
    caller.hangup();

    await gateway.stop();
    t.match(carrier.log(), /REG 4930100 expires 0/);
  });

  t.test('423 and a dead first gateway delay it, no more', async (t) => {
    const { gateway, carrier, sid } = await trunked(t, {
      ...{ expiresMinS: 1200, expiresS: 300, deadFirst: true },
    });
    await until('registered', async () => (await health(gateway, sid)).state === 'registered');
    t.match(carrier.log(), /REG 4930100 expires 1200/);
  });

  t.test('a wrong password is told in the health of the trunk', async (t) => {
    const { gateway, sid } = await trunked(t);
    await gateway.rest('POST', `Trunks/${sid}.json`, { Password: 'wrong' });
    await until('failed', async () => (await health(gateway, sid)).state === 'failed');
    t.equal((await health(gateway, sid)).sip_status, 401);
  });
});
