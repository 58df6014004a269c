/**
 * What the application of a domain is told of its phones: by whom, in what order, with a signature
 * that the official library takes, and never in the way of a REGISTER.
 */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { DEFAULT_LOCAL_BUS, LocalBus } from '../src/bus/bus.ts';
import { REGISTRATIONS, type RegistrationNotice } from '../src/call/location.ts';
import { AddressGuard } from '../src/core/address.ts';
import { realClock } from '../src/core/clock.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import type { AccountSid, RegistrationSid, SipDomainSid } from '../src/core/sid.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient } from '../src/http/client.ts';
import type { Flow } from '../src/sip/binding.ts';
import {
  DEFAULT_REGISTRATION_CALLBACKS,
  RegistrationCallbacks,
  type RegistrationCallbacksOptions,
} from '../src/verbs/registration-callbacks.ts';
import { type AppRequestSeen, type AppServer, startAppServer } from './support/app-server.ts';
import {
  freePort,
  startGateway,
  TEST_SID,
  TEST_TOKEN,
  type TestGateway,
} from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { makePhoneDomain } from './support/phone-domain.ts';
import { hasSipp, startSipp } from './support/sipp.ts';

const DOMAIN = 'phones.example';
const PASSWORD = 'Correct-Horse-9';

interface House {
  readonly app: AppServer;
  readonly gateway: TestGateway;
  readonly domainSid: string;
  set(form: Record<string, string>): Promise<void>;
}

async function house(t: Test, environment: Record<string, string> = {}): Promise<House> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/phones', (_, response) => void response.writeHead(204).end());
  const gateway = await startGateway({ TANDEM_DRAIN_DEADLINE_MS: '0', ...environment });
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
  });
  const { domainSid } = await makePhoneDomain(gateway, {
    name: DOMAIN,
    password: PASSWORD,
    form: { RegistrationCallbackUrl: `${app.base}/phones` },
  });
  await delay(150);
  const set = async (form: Record<string, string>): Promise<void> => {
    const { status, text } = await gateway.rest('POST', `SIP/Domains/${domainSid}.json`, form);
    if (status !== 200) throw new Error(text);
    await delay(150);
  };
  return { app, gateway, domainSid, set };
}

/** A phone that does nothing but REGISTER, over UDP; resolves with the status. */
async function phone(t: Test, { gateway }: House, user: string) {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => void socket.close());
  const { port } = socket.address() as AddressInfo;
  let cseq = 0;
  const send = async (expires: number, more: string[]): Promise<string> => {
    cseq += 1;
    const text = [
      `REGISTER sip:${DOMAIN} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:${port};branch=z9hG4bK${user}${cseq};rport`,
      ...[`From: <sip:${user}@${DOMAIN}>;tag=p`, `To: <sip:${user}@${DOMAIN}>`],
      ...[`Call-ID: ${user}${port}`, `CSeq: ${cseq} REGISTER`, 'Max-Forwards: 70'],
      ...[`Contact: <sip:${user}@127.0.0.1:${port}>`, `Expires: ${expires}`],
      ...['User-Agent: desk phone/1', ...more, 'Content-Length: 0', '', ''],
    ].join('\r\n');
    const answer = new Promise<Buffer>((resolve) => void socket.once('message', resolve));
    socket.send(text, gateway.sipPort, '127.0.0.1');
    return (await answer).toString('latin1');
  };
  const md5 = (text: string): string => createHash('md5').update(text).digest('hex');
  return {
    port,
    register: async (expires: number, password = PASSWORD): Promise<number> => {
      const challenge = await send(expires, []);
      const nonce = /nonce="([^"]+)"/.exec(challenge)?.[1] ?? '';
      const ha1 = md5(`${user}:${DOMAIN}:${password}`);
      const ha2 = md5(`REGISTER:sip:${DOMAIN}`);
      const response = md5(`${ha1}:${nonce}:00000001:0a:auth:${ha2}`);
      const answer = await send(expires, [
        `Authorization: Digest username="${user}", realm="${DOMAIN}", nonce="${nonce}", ` +
          `uri="sip:${DOMAIN}", response="${response}", algorithm=MD5, qop=auth, nc=00000001, cnonce="0a"`,
      ]);
      return Number(answer.split(' ')[1]);
    },
  };
}

async function told({ app }: House, count: number): Promise<AppRequestSeen[]> {
  const all = () => app.seen.filter(({ path }) => path === '/phones');
  for (let tries = 0; tries < 100 && all().length < count; tries += 1) await delay(50);
  return all();
}

function words(seen: readonly AppRequestSeen[]): string[] {
  return seen.map(({ params: p }) => `${p.SipUser} ${p.SequenceNumber} ${p.RegistrationEvent}`);
}

t.test('a phone comes, is forgotten, comes again and leaves: told in order', async (t) => {
  const scene = await house(t, { TANDEM_REGISTRAR_EXPIRES_MIN_SECONDS: '1' });
  const alice = await phone(t, scene, 'alice');

  t.equal(await alice.register(1), 200);
  const [came, forgotten] = await told(scene, 2);
  t.equal(await alice.register(600), 200);
  t.equal(await alice.register(600), 200, 'a refresh, which is not told');
  t.equal(await alice.register(0), 200);
  const seen = await told(scene, 4);
  t.equal(await alice.register(600, 'wrong'), 401, 'a stranger, who is not told');
  await delay(200);

  t.same(words(await told(scene, 4)), [
    'alice 0 registered',
    'alice 1 expired',
    'alice 2 registered',
    'alice 3 unregistered',
  ]);
  t.ok(seen.every(({ isSigned, method }) => isSigned && method === 'POST'));
  t.match(came?.params, {
    AccountSid: TEST_SID,
    EventSid: /^EV[0-9a-f]{32}$/,
    RegistrationSid: /^RG[0-9a-f]{32}$/,
    SipDomain: DOMAIN,
    SipDomainSid: scene.domainSid,
    Contact: `sip:alice@127.0.0.1:${alice.port}`,
    ContactCount: '1',
    Expires: '1',
    SourceIp: '127.0.0.1',
    SourcePort: String(alice.port),
    Transport: 'udp',
    UserAgent: 'desk phone/1',
    Timestamp: /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000$/,
  });
  t.match(forgotten?.params, { ContactCount: '0', Expires: '0' });
  t.equal(new Set(seen.map(({ params }) => params.EventSid)).size, 4);
});

t.test('refreshes are told to who asks for them, by GET too', async (t) => {
  const scene = await house(t);
  await scene.set({
    RegistrationCallbackMethod: 'GET',
    RegistrationCallbackEvent: 'refreshed unregistered',
  });
  const bob = await phone(t, scene, 'bob');
  for (const expires of [600, 300, 0]) t.equal(await bob.register(expires), 200);
  const seen = await told(scene, 2);

  t.same(words(seen), ['bob 0 refreshed', 'bob 1 unregistered']);
  t.equal(seen[0]?.params.Expires, '300');
  t.ok(seen.every(({ isSigned, method }) => isSigned && method === 'GET'));
});

t.test('a server that hangs is in nobody’s way', async (t) => {
  const scene = await house(t, { TANDEM_REGISTRAR_PER_SECOND_MAX: '100' });
  scene.app.on('/phones', () => undefined);
  const alice = await phone(t, scene, 'alice');
  const beganMs = performance.now();
  for (const expires of [600, 0, 600, 0]) t.equal(await alice.register(expires), 200);
  t.ok(performance.now() - beganMs < 2000, 'four times in two seconds');
  t.equal((await told(scene, 1)).length, 1, 'one after the other');
});

t.test('who expired while the gateway was gone is told of when it is back', async (t) => {
  const scene = await house(t, { TANDEM_REGISTRAR_EXPIRES_MIN_SECONDS: '1' });
  const alice = await phone(t, scene, 'alice');
  t.equal(await alice.register(1), 200);
  await told(scene, 1);
  await delay(200);
  scene.gateway.process.kill('SIGSTOP');
  await delay(1200);
  const next = await scene.gateway.crash();
  t.teardown(() => next.stop());
  const [, gone] = await told(scene, 2);
  t.match(gone?.params, { SipUser: 'alice', RegistrationEvent: 'expired', Expires: '0' });
  t.ok(gone?.isSigned);
});

t.test('SIPp registers and leaves', { skip: hasSipp() ? false : 'no sipp' }, async (t) => {
  const scene = await house(t, { TANDEM_REGISTRAR_PER_SECOND_MAX: '100' });
  const result = await startSipp({
    ...{ scenario: 'register', transport: 't1', calls: 3, timeoutSeconds: 20 },
    port: await freePort(),
    target: `127.0.0.1:${scene.gateway.sipPort}`,
    replace: { domain: DOMAIN, user: 'alice', password: PASSWORD },
    extra: ['-auth_uri', DOMAIN],
  }).done;
  t.equal(result.code, 0, result.output);
  const seen = await told(scene, 6);
  t.equal(seen.length, 6);
  t.same(
    seen.map(({ params }) => params.SequenceNumber),
    ['0', '1', '2', '3', '4', '5'],
  );
  t.ok(seen.every(({ isSigned, params }) => isSigned && params.Transport === 'tcp'));
});

t.test('bounded: what waits for a slow server is dropped and counted', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const http = new HttpClient({
    clock: realClock,
    guard: new AddressGuard({ allow: ['127.0.0.0/8'] }),
    userAgent: 'tandem/test',
    ...DEFAULT_HTTP_CLIENT,
  });
  const bus = new LocalBus({ clock: realClock, ...DEFAULT_LOCAL_BUS, onError: (e) => t.error(e) });
  const metrics = new Metrics();
  const options: RegistrationCallbacksOptions = {
    ...DEFAULT_REGISTRATION_CALLBACKS,
    linesPerDomain: 2,
    queuePerLineMax: 3,
    queueMax: 5,
  };
  const callbacks = new RegistrationCallbacks({
    ...{ clock: realClock, log: silentLog, metrics, bus, http, options },
    callbackOf: () => ({ url: `${app.base}/phones`, method: 'POST', events: ['registered'] }),
    authToken: () => new Secret(TEST_TOKEN),
  });
  callbacks.start();
  t.teardown(async () => {
    callbacks.close();
    await http.close();
    await app.close();
  });
  const held: (() => void)[] = [];
  app.on('/phones', (_, response) => void held.push(() => response.writeHead(204).end()));
  for (let n = 0; n < 20; n += 1) bus.publish(REGISTRATIONS, notice(`sip:u${n}@${DOMAIN}`));
  await delay(200);
  t.equal(held.length, 2, 'as many at a time as the domain has lines');
  const shown = await metrics.text();
  t.match(shown, 'tandem_registration_callbacks_total{outcome="dropped"} 15');
  t.match(shown, 'tandem_registration_callbacks_waiting 5');
  while ((await metrics.text()).includes('waiting 0') === false) {
    for (const answer of held.splice(0)) answer();
    await delay(20);
  }
  t.match(await metrics.text(), 'tandem_registration_callbacks_total{outcome="told"} 5');
});

function notice(aor: string): RegistrationNotice {
  const listener = { address: '127.0.0.1', port: 5060 };
  const flow: Flow = { transport: 'udp', address: '127.0.0.1', port: 5070, listener };
  return {
    type: 'registration.registered',
    atMs: 1_700_000_000_000,
    contacts: 1,
    registration: {
      sid: `RG${'1'.repeat(32)}` as RegistrationSid,
      accountSid: TEST_SID as AccountSid,
      domainSid: `SD${'1'.repeat(32)}` as SipDomainSid,
      aor,
      binding: {
        ...{ id: `RG${'1'.repeat(32)}`, contact: 'sip:a@127.0.0.1:5070', instance: '' },
        ...{ regId: 0, q: 1, callId: 'c', cseq: 1, path: [], flow, isFlowOnly: false, epoch: '' },
        ...{ createdAtMs: 0, updatedAtMs: 0, expiresAtMs: 60_000, userAgent: '' },
      },
    },
  };
}
