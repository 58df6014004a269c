/**
 * Caller identity in calls, on a whole gateway: who is let in under which policy, what the
 * application is told, what a refused carrier reads, and what our own INVITEs are signed with.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { formatIdentity, parseIdentity } from '../src/sip/identity-field.ts';
import { parsePassport, signPassport, verifySignature } from '../src/sip/passport.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, header, type SipIn, startPhone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
import { CA_EXTENSIONS, type Issued, SIGNER_EXTENSIONS, StirCa } from './support/stir-ca.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const OURS = '+4930100';
const CALLER = '+12155551212';
const OURS_URL = 'https://certificates.example/ours.pem';

const ca = new StirCa();
const root = ca.issue({ name: 'root', extensions: CA_EXTENSIONS });
const signer = ca.issue({ name: 'signer', by: root, extensions: SIGNER_EXTENSIONS });
const stranger = ca.issue({ name: 'stranger', extensions: SIGNER_EXTENSIONS });
t.teardown(() => ca.close());

interface World {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  readonly trunk: string;
  readonly base: string;
  readonly calleePort: number;
  readonly invites: () => readonly SipIn[];
}

async function world(t: Test, policy: TrunkPolicyChange, more = {}): Promise<World> {
  const files: Readonly<Record<string, Issued>> = { '/signer.pem': signer, '/other.pem': stranger };
  const server = createServer((request, response) => {
    const issued = files[request.url ?? ''];
    response.writeHead(issued === undefined ? 404 : 200).end(issued?.pem);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const gateway = await startGateway({
    TANDEM_SIP_TRUSTED: '::1/128',
    TANDEM_STIR_TRUST_ANCHORS: root.file,
    TANDEM_STIR_CERTIFICATE_PORTS: String(port),
    TANDEM_STIR_ALLOW_HTTP: 'true',
    TANDEM_STIR_KEY_FILE: signer.keyFile,
    TANDEM_STIR_CERTIFICATE_URL: OURS_URL,
    ...more,
  });
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/voice', () => '<Response><Play digits="w"/><Pause length="20"/></Response>');
  const callee = await startPhone();
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
    await callee.close();
    server.closeAllConnections();
    server.close();
  });
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    InboundAddress: '127.0.0.1',
    NumberPattern: '+49*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${callee.sipPort};transport=udp` }]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...policy }),
  });
  if (made.status !== 201) throw new Error(made.text);
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: OURS,
    VoiceUrl: `${app.base}/voice`,
  });
  const invites = () => callee.received.filter(({ firstLine }) => firstLine.startsWith('INVITE'));
  const base = `http://127.0.0.1:${port}`;
  return { gateway, app, trunk: made.json.sid, base, calleePort: callee.sipPort, invites };
}

interface Signed {
  readonly from?: string;
  readonly by?: Issued;
  readonly path?: string;
  readonly ageS?: number;
}

/** An Identity for a call of CALLER to our number. */
function identity({ base }: World, o: Signed = {}): string {
  const { from = CALLER, by = signer, path = '/signer.pem', ageS = 0 } = o;
  const x5u = `${base}${path}`;
  const claims = {
    attest: 'A',
    dest: { tn: [OURS.slice(1)], uri: [] },
    iatS: Math.floor(Date.now() / 1000) - ageS,
    orig: { kind: 'tn', value: from.slice(1) },
    origid: '123e4567-e89b-12d3-a456-426655440000',
  } as const;
  const token = signPassport({ ppt: 'shaken', x5u, claims }, createPrivateKey(by.key));
  return `Identity: ${formatIdentity(token, x5u, 'shaken')}`;
}

async function callIn({ gateway }: World, headers: readonly string[]): Promise<SipIn> {
  const phone = await startPhone({ user: CALLER, headers });
  const final = await phone.call(`sip:${OURS}@127.0.0.1:${gateway.sipPort}`, gateway.sipPort);
  if (final.firstLine.startsWith('SIP/2.0 200')) phone.hangup();
  await delay(50);
  await phone.close();
  return final;
}

t.test('who is not verified is refused where the trunk requires it', { skip }, async (t) => {
  const w = await world(t, { stir: { verify: 'require' } });

  t.match((await callIn(w, [identity(w)])).firstLine, 'SIP/2.0 200');
  const asked = await w.app.waitFor('/voice');
  t.equal(asked.params.StirVerstat, 'TN-Validation-Passed-A');
  t.equal(parsePassport(asked.params.StirPassportToken ?? '').claims?.attest, 'A');

  const other = { by: stranger, path: '/other.pem' };
  for (const [name, headers, status, phrase] of [
    ['unsigned', [], 428, 'Use Identity Header'],
    ['another caller', [identity(w, { from: '+12155550000' })], 438, 'Invalid Identity Header'],
    ['another key', [identity(w, { by: stranger })], 438, 'Invalid Identity Header'],
    ['nobody we trust', [identity(w, other)], 437, 'Unsupported Credential'],
    ['no certificate', [identity(w, { path: '/gone.pem' })], 436, 'Bad Identity Info'],
    ['old', [identity(w, { ageS: 600 })], 403, 'Stale Date'],
  ] as const) {
    const refused = await callIn(w, headers);
    t.equal(refused.firstLine, `SIP/2.0 ${status} ${phrase}`, name);
    t.equal(header(refused, 'reason'), `STIR ;cause=${status} ;text="${phrase}"`, name);
    const callId = encodeURIComponent(header(refused, 'call-id'));
    const { json } = await w.gateway.rest('GET', `Traces.json?CallId=${callId}`);
    t.match(json, { sip_status: status, call_sid: null });
    t.match(json.verdict, /caller identity is .*change the trunk's Stir\.verify/, name);
  }
  t.equal(w.app.seen.length, 1, 'no application is asked for who is refused');
});

t.test('the application is told, where the trunk only wants a report', { skip }, async (t) => {
  const w = await world(t, { stir: { verify: 'report' } });

  t.match((await callIn(w, [])).firstLine, 'SIP/2.0 200');
  t.match((await callIn(w, [identity(w, { by: stranger })])).firstLine, 'SIP/2.0 200');

  const told = w.app.seen.map(({ params }) => [params.StirVerstat, 'StirPassportToken' in params]);
  t.same(told, [
    ['No-TN-Validation', false],
    ['TN-Validation-Failed-A', true],
  ]);
});

t.test('a caller who gives up while he is verified is no call for long', { skip }, async (t) => {
  const slow = createServer(() => undefined);
  await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));
  const { port } = slow.address() as AddressInfo;
  const ports = { TANDEM_STIR_CERTIFICATE_PORTS: String(port), TANDEM_STIR_VERIFY_MS: '1000' };
  const w = await world(t, { stir: { verify: 'require' } }, ports);
  t.teardown(() => {
    slow.closeAllConnections();
    slow.close();
  });
  const field = identity({ ...w, base: `http://127.0.0.1:${port}` });
  const phone = await startPhone({ user: CALLER, headers: [field] });
  t.teardown(() => phone.close());

  const final = phone.call(`sip:${OURS}@127.0.0.1:${w.gateway.sipPort}`, w.gateway.sipPort);
  await delay(400);
  phone.cancel();

  t.match((await final).firstLine, 'SIP/2.0 487');
  await delay(900);
  t.equal(w.app.seen.length, 0);
  t.equal(await w.gateway.metric('tandem_calls_live'), 0);
});

async function place({ gateway }: World, from: string): Promise<string> {
  const { json, text } = await gateway.rest('POST', 'Calls.json', {
    To: '+4930123',
    From: from,
    Twiml: '<Response><Pause length="1"/></Response>',
  });
  if (json?.sid === undefined) throw new Error(text);
  for (let tries = 0; tries < 100; tries += 1) {
    const call = await gateway.rest('GET', `Calls/${json.sid}.json`);
    if (call.json.status === 'completed') return json.sid;
    await delay(50);
  }
  throw new Error('the call does not end');
}

async function decisionsOf({ gateway }: World, sid: string): Promise<string> {
  const { json } = await gateway.rest('GET', `Calls/${sid}/Trace.json`);
  return JSON.stringify(json.trace);
}

t.test('our INVITEs carry an Identity that others can verify', { skip }, async (t) => {
  const w = await world(t, { stir: { sign: true } });

  const own = await place(w, OURS);
  const foreign = await place(w, CALLER);
  const name = await place(w, 'sip:reception@example.com');

  const [first, second, third] = w.invites();
  if (!first || !second || !third) throw new Error('three INVITEs were to come');
  const { token, info } = parseIdentity(header(first, 'identity'));
  t.equal(info, OURS_URL);
  const { claims } = parsePassport(token);
  t.match(claims, { attest: 'A', orig: { value: OURS.slice(1) }, dest: { tn: ['4930123'] } });
  t.ok(verifySignature(token, new X509Certificate(signer.pem).publicKey));
  t.equal(Math.floor(Date.parse(header(first, 'date')) / 1000), claims?.iatS);
  const of = (invite: SipIn) => parsePassport(parseIdentity(header(invite, 'identity')).token);
  t.equal(of(second).claims?.attest, 'B', 'a number of somebody else is not vouched for');
  t.equal(header(third, 'identity'), '', 'a name is no number of the world');
  t.match(await decisionsOf(w, own), 'signed with attestation A');
  t.match(await decisionsOf(w, foreign), 'signed with attestation B');
  t.match(await decisionsOf(w, name), 'unsigned');
});

t.test(
  'a call that cannot be signed goes unsigned, and the trace says why',
  { skip },
  async (t) => {
    const none = { TANDEM_STIR_KEY_FILE: '', TANDEM_STIR_CERTIFICATE_URL: '' };
    const w = await world(t, { stir: { sign: true } }, none);

    const sid = await place(w, OURS);

    t.equal(header(w.invites()[0] as SipIn, 'identity'), '');
    t.match(await decisionsOf(w, sid), 'this node has no key');
    t.match(await decisionsOf(w, sid), 'stir.keyFile');
  },
);

t.test('SIPp as carrier, signed and not', { skip: skip || !hasSipp() }, async (t) => {
  const w = await world(t, { stir: { verify: 'require' } });
  const run = (scenario: string, fields: string, expect: string) =>
    startSipp({
      scenario,
      port: 15_290,
      mediaPort: 15_294,
      target: `127.0.0.1:${w.gateway.sipPort}`,
      calls: 1,
      timeoutSeconds: 15,
      replace: {
        uri: `sip:${OURS}@127.0.0.1:${w.gateway.sipPort}`,
        from: `<sip:${CALLER}@127.0.0.1>`,
        ...{ fields, expect, status: '428', profile: 'RTP/AVP', line: 'a=sendrecv' },
      },
    }).done;

  const taken = await run('carrier-calls', identity(w), 'm=audio');
  t.equal(taken.code, 0, taken.output.slice(-2000));
  t.equal((await w.app.waitFor('/voice')).params.StirVerstat, 'TN-Validation-Passed-A');
  const refused = await run('carrier-call-refused', 'Supported: timer', 'STIR ;cause=428');
  t.equal(refused.code, 0, refused.output.slice(-2000));
});
