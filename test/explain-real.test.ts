/**
 * A dry run says what the gateway does: for each kind of source the outcome of `explain` beside the
 * answer to a real INVITE from there, and where calls go that are placed beside what placing one
 * does.
 */
import { createHash } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { startGateway } from './support/gateway.ts';

const OPTIONS = { skip: existsSync(ADDON_PATH) ? false : 'the media addon is not built' };
const PASSWORD = 'Correct-Horse-9';
const NUMBER = '+49301234567';

const SDP = [
  'v=0',
  'o=- 1 1 IN IP4 127.0.0.1',
  's=-',
  'c=IN IP4 127.0.0.1',
  't=0 0',
  'm=audio 40000 RTP/AVP 0',
  '',
].join('\r\n');

/** Somebody at an address of its own. */
class Party {
  static #requests = 0;
  readonly address: string;
  readonly #socket: Socket = createSocket('udp4');
  readonly #port: number;

  constructor(t: Test, address: string, port: number) {
    this.address = address;
    this.#port = port;
    t.teardown(() => this.#socket.close());
  }

  async bind(): Promise<this> {
    await new Promise<void>((resolve) => this.#socket.bind(0, this.address, resolve));
    return this;
  }

  /** The final answer. */
  ask(method: string, uri: string, from: string, more = ''): Promise<string> {
    const at = `${this.address}:${this.#socket.address().port}`;
    Party.#requests += 1;
    const id = `${this.address}-${Party.#requests}`;
    const body = method === 'INVITE' ? SDP : '';
    const type = body === '' ? '' : 'Content-Type: application/sdp\r\n';
    const text =
      `${method} ${uri} SIP/2.0\r\nVia: SIP/2.0/UDP ${at};branch=z9hG4bK${id};rport\r\n` +
      `Max-Forwards: 70\r\nFrom: <${from}>;tag=t${id}\r\n` +
      `To: <${method === 'REGISTER' ? from : uri}>\r\nCall-ID: ${id}\r\nCSeq: 1 ${method}\r\n` +
      `Contact: <sip:me@${at}>\r\n${more}${type}Content-Length: ${body.length}\r\n\r\n${body}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no answer to ${method}`)), 8_000);
      this.#socket.on('message', (data) => {
        const answer = data.toString('latin1');
        if (!answer.includes(`CSeq: 1 ${method}`) || !answer.includes(`Call-ID: ${id}\r`)) return;
        if (answer.startsWith('SIP/2.0 1')) return;
        clearTimeout(timer);
        resolve(answer);
      });
      this.#socket.send(text, this.#port, '127.0.0.1');
    });
  }

  async register(user: string, domain: string): Promise<string> {
    const uri = `sip:${domain}`;
    const first = await this.ask('REGISTER', uri, `sip:${user}@${domain}`);
    const challenge = first.split('\r\n').find((line) => /^WWW-Auth.*MD5/i.test(line)) ?? '';
    const [, realm = ''] = /realm="([^"]*)"/.exec(challenge) ?? [];
    const [, nonce = ''] = /nonce="([^"]*)"/.exec(challenge) ?? [];
    const a1 = md5(`${user}:${realm}:${PASSWORD}`);
    const response = md5(`${a1}:${nonce}:00000001:c0ffee:auth:${md5(`REGISTER:${uri}`)}`);
    const more =
      `Authorization: Digest username="${user}", realm="${realm}", nonce="${nonce}", ` +
      `uri="${uri}", response="${response}", algorithm=MD5, qop=auth, nc=00000001, ` +
      `cnonce="c0ffee"\r\n`;
    return this.ask('REGISTER', uri, `sip:${user}@${domain}`, more);
  }
}

function md5(text: string): string {
  return createHash('md5').update(text).digest('hex');
}

/** What the application says. */
const ADMITTED = 486;

/** An application that refuses every call as busy. */
async function busyApp(t: Test): Promise<string> {
  const server = createServer((_request, response) => {
    response.setHeader('content-type', 'text/xml');
    response.end('<Response><Reject reason="busy"/></Response>');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

async function start(t: Test, environment: Record<string, string> = {}) {
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '::1/128', ...environment });
  t.teardown(() => gateway.stop());
  const make = async (path: string, form: Record<string, string>): Promise<string> => {
    const { status, json, text } = await gateway.rest('POST', `${path}.json`, form);
    t.equal(status, 201, text);
    return json.sid;
  };
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
  const explain = async (form: Record<string, string>): Promise<any> => {
    const answer = await gateway.rest('POST', 'Explain.json', form);
    t.equal(answer.status, 200, answer.text);
    return answer.json;
  };
  return { gateway, make, explain };
}

t.test('explain’s outcome is the real INVITE’s, for each kind of source', OPTIONS, async (t) => {
  const { gateway, make, explain } = await start(t);
  const VoiceUrl = await busyApp(t);
  await make('Trunks', { FriendlyName: 'Carrier', InboundAddress: '127.0.1.1' });
  await make('Trunks', {
    FriendlyName: 'Digest',
    InboundAddress: '127.0.2.1',
    InboundUsername: 'carrier',
    InboundPassword: PASSWORD,
  });
  await make('IncomingPhoneNumbers', { PhoneNumber: NUMBER, VoiceUrl });
  const list = await make('SIP/CredentialLists', { FriendlyName: 'phones' });
  await make(`SIP/CredentialLists/${list}/Credentials`, { Username: 'anna', Password: PASSWORD });
  const access = await make('SIP/IpAccessControlLists', { FriendlyName: 'office' });
  await make(`SIP/IpAccessControlLists/${access}/IpAddresses`, {
    FriendlyName: 'office',
    IpAddress: '127.0.3.1',
  });
  const domain = await make('SIP/Domains', {
    DomainName: 'house.example',
    SipRegistration: 'true',
    VoiceUrl,
  });
  const auth = `SIP/Domains/${domain}/Auth`;
  const CredentialListSid = list;
  await make(`${auth}/Registrations/CredentialListMappings`, { CredentialListSid });
  await make(`${auth}/Calls/IpAccessControlListMappings`, { IpAccessControlListSid: access });
  // Here a phone is known by its registration alone.
  const remote = await make('SIP/Domains', {
    DomainName: 'remote.example',
    SipRegistration: 'true',
    VoiceUrl,
  });
  const registrations = `SIP/Domains/${remote}/Auth/Registrations/CredentialListMappings`;
  await make(registrations, { CredentialListSid });
  const atRemote = 'sip:bert@remote.example';
  const atDomain = 'sip:bert@house.example';
  // At a domain of phones nobody is told who is there: strangers are asked for a password too.
  const cases = [
    ['trunk', '127.0.1.1', NUMBER, '+491', 'admitted', ADMITTED],
    ['digest', '127.0.2.1', NUMBER, '+491', 'challenged', 401],
    ['domain', '127.0.3.1', atDomain, 'sip:bert@house.example', 'admitted', ADMITTED],
    ['registered phone', '127.0.3.1', atDomain, 'sip:anna@house.example', 'challenged', 401],
    [
      'registered phone elsewhere',
      '127.0.4.1',
      atRemote,
      'sip:anna@remote.example',
      'challenged',
      401,
    ],
    ['another user from there', '127.0.4.1', atRemote, 'sip:bert@remote.example', 'refused', 401],
    ['stranger', '127.0.5.1', NUMBER, '+491', 'refused', 403],
    ['stranger at the domain', '127.0.6.1', atDomain, 'sip:anna@house.example', 'refused', 401],
  ] as const;
  await new Promise((resolve) => setTimeout(resolve, 300));
  for (const [address, domainName] of [
    ['127.0.3.1', 'house.example'],
    ['127.0.4.1', 'remote.example'],
  ] as const) {
    const phone = await new Party(t, address, gateway.sipPort).bind();
    t.match(await phone.register('anna', domainName), 'SIP/2.0 200', 'registered');
  }
  for (const [name, address, to, from, outcome, expected] of cases) {
    const party = await new Party(t, address, gateway.sipPort).bind();
    const uri = to.startsWith('sip:') ? to : `sip:${to}@127.0.0.1`;
    const fromUri = from.startsWith('sip:') ? from : `sip:${from}@${address}`;
    const answer = await party.ask('INVITE', uri, fromUri);
    t.equal(Number(/^SIP\/2\.0 (\d+)/.exec(answer)?.[1]), expected, name);
    const found = await explain({ To: to, From: from, Source: address, Sdp: SDP });
    t.equal(found.outcome, outcome, `${name}: ${found.verdict}`);
    if (expected !== ADMITTED) t.equal(found.sip_status, expected, name);
    if (name.startsWith('registered')) {
      const [first] = found.decisions;
      t.match(first.what, 'anna is registered from here: asked for the password of domain ');
    }
  }
});

t.test('a call is explained to where it would really be sent', OPTIONS, async (t) => {
  const { gateway, make, explain } = await start(t);
  const real = async (To: string): Promise<{ code: string; trace: string }> => {
    const form = { To, From: '+491', Twiml: '<Response/>' };
    const { json: call } = await gateway.rest('POST', 'Calls.json', form);
    for (;;) {
      const { json } = await gateway.rest('GET', `Calls/${call.sid}.json`);
      if (['failed', 'completed', 'busy', 'no-answer'].includes(json.status)) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const { json, text } = await gateway.rest('GET', `Calls/${call.sid}/Trace.json`);
    t.ok(json.trace.length > 0, text);
    return { code: text, trace: text };
  };
  const cases = [
    ['sip:x@10.0.0.1', 'DIAL_ADDRESS_REFUSED', 'which may not be called', 'sip.allow'],
    ['sip:x@169.254.1.1', 'DIAL_ADDRESS_REFUSED', 'which may not be called', 'sip.allow'],
    ['sip:x@[::ffff:10.0.0.1]', 'DIAL_ADDRESS_REFUSED', 'which may not be called', 'sip.allow'],
    ['sips:x@127.0.0.1', 'SIP_TRANSPORT', 'no such listener', 'sip.listen'],
    ['sip:x@[::1]', 'SIP_TRANSPORT', 'no such listener', 'sip.listen'],
  ] as const;
  for (const [To, code, what, fix] of cases) {
    const found = await explain({ To, From: '+491' });
    t.match(found, { outcome: 'refused', code }, `${To}: ${found.verdict}`);
    t.match(found.verdict, what);
    t.match(found.verdict, `change ${fix}.`);
    const { code: told, trace } = await real(To);
    t.match(told, code, To);
    t.match(trace, what, 'the trace says it too');
    t.match(trace, fix);
  }
  await make('Trunks', {
    FriendlyName: 'Secure',
    Gateways: JSON.stringify([{ uri: 'sips:198.51.100.1' }, { uri: 'sips:sip.carrier.example' }]),
    NumberPattern: '+49*',
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 } }),
  });
  const trunk = await explain({ To: '+4930', From: '+491' });
  t.match(trunk, { outcome: 'refused', code: 'SIP_TRANSPORT', sip_status: 503 });
  t.match(trunk.verdict, /needs tls to .*change sip\.listen\./);
  t.match((await real('+4930')).trace, 'sip.listen');

  const good = await explain({ To: 'sip:x@127.0.0.1:5099', From: '+491' });
  t.match(good, { outcome: 'admitted', targets: ['sip:x@127.0.0.1:5099'] });
  const name = await explain({ To: 'sip:x@phone.example', From: '+491' });
  t.match(name, { outcome: 'admitted', targets: ['sip:x@phone.example'] });
  t.match(JSON.stringify(name.decisions), 'phone.example is not resolved');
});

t.test('what is told is told once, and not against the outcome', OPTIONS, async (t) => {
  const app = await busyApp(t);
  const environment = { TANDEM_SIP_TRUSTED: '127.0.0.0/8', TANDEM_APP_URL: app };
  const { make, explain } = await start(t, environment);
  const found = await explain({ To: '+4989', From: '+491', Source: '127.0.0.1' });
  t.match(found, { outcome: 'admitted', application: app });
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
  const failed = found.decisions.filter(({ ok }: any) => !ok);
  t.same(failed, []);
  t.match(JSON.stringify(found.decisions), '+4989 is none of our numbers, so app.url has it');

  const trunk = await make('Trunks', {
    FriendlyName: 'Carrier',
    Gateways: JSON.stringify([{ uri: 'sip:192.0.2.1' }, { uri: 'sip:192.0.2.2' }]),
    NumberPattern: '+49*',
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, numbers: { outbound: 'e164' } }),
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const out = await explain({ To: NUMBER, From: '+491' });
  t.equal(out.targets.length, 2, out.verdict);
  const told = out.decisions.map((one: object) => JSON.stringify(one));
  t.same(told, [...new Set(told)]);
  const stranger = await explain({ To: NUMBER, From: '+491', Source: '203.0.113.9' });
  const times = (stranger.verdict as string).split(trunk).length - 1;
  t.ok(times <= 1, stranger.verdict);

  await make('SIP/Domains', { DomainName: 'house.example', SipRegistration: 'true' });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const absent = await explain({ To: 'sip:anna@house.example', From: '+491' });
  t.match(absent, { outcome: 'refused', code: 'NOT_REGISTERED' });
  t.match(absent.verdict, 'SIP/Registrations');
});
