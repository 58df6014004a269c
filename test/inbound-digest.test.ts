/**
 * Calls from anywhere that prove whose they are: a trunk with inbound credentials and a gateway
 * that trusts nobody by address. The credentials are computed here, apart from the code under test.
 */
import { createHash } from 'node:crypto';
import t, { type Test } from 'tap';
import { InboundDigest } from '../src/call/inbound-digest.ts';
import { realClock } from '../src/core/clock.ts';
import { Secret } from '../src/core/log.ts';
import { newSid } from '../src/core/sid.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { header, type SipIn, startPhone } from './support/phone.ts';

const URI = 'sip:+4930100@127.0.0.1';
const USER = 'pbx';
const PASSWORD = 'käse "1"';

type Algorithm = 'MD5' | 'SHA-256';

function hash(algorithm: Algorithm, text: string): string {
  return createHash(algorithm.replace('-', '').toLowerCase()).update(text).digest('hex');
}

/** RFC 7616 §3.4 */
function authorization(o: {
  challenge: string;
  username: string;
  password: string;
  algorithm: Algorithm;
}): string {
  const { challenge, username, password, algorithm } = o;
  const realm = /realm="([^"]*)"/.exec(challenge)?.[1] ?? '';
  const nonce = /nonce="([^"]*)"/.exec(challenge)?.[1] ?? '';
  const ha1 = hash(algorithm, `${username}:${realm}:${password}`);
  const ha2 = hash(algorithm, `INVITE:${URI}`);
  const response = hash(algorithm, `${ha1}:${nonce}:00000001:0a4f113b:auth:${ha2}`);
  return (
    `Authorization: Digest username="${username}", realm="${realm}", nonce="${nonce}", ` +
    `uri="${URI}", response="${response}", algorithm=${algorithm}, qop=auth, nc=00000001, ` +
    'cnonce="0a4f113b"'
  );
}

async function invite(t: Test, gateway: TestGateway, headers: string[] = []): Promise<SipIn> {
  const phone = await startPhone({ user: '+4930999', headers });
  t.teardown(() => phone.close());
  const final = await phone.call(URI, gateway.sipPort);
  phone.hangup();
  return final;
}

interface World {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  /** Asks, is challenged, and asks again with that. */
  tryAs(username: string, password: string, algorithm?: Algorithm): Promise<SipIn>;
}

async function start(t: Test, trunk: Record<string, string>): Promise<World> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/voice', () => '<Response><Play digits="1"/><Pause length="5"/></Response>');
  // Nobody is trusted by address, loopback neither.
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '::1/128' });
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
  });
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: '+4930100',
    VoiceUrl: `${app.base}/voice`,
  });
  const made = await gateway.rest('POST', 'Trunks.json', { FriendlyName: 'office', ...trunk });
  t.equal(made.status, 201, made.text);
  return {
    gateway,
    app,
    async tryAs(username, password, algorithm = 'SHA-256') {
      const asked = await invite(t, gateway);
      const challenges = asked.headers.get('www-authenticate') ?? [];
      const challenge = challenges.find((one) => one.includes(`algorithm=${algorithm}`)) ?? '';
      return invite(t, gateway, [authorization({ challenge, username, password, algorithm })]);
    },
  };
}

t.test(
  'a caller from anywhere gets through with its trunk’s password, and not without',
  async (t) => {
    const { gateway, app, tryAs } = await start(t, {
      InboundUsername: USER,
      InboundPassword: PASSWORD,
    });

    const asked = await invite(t, gateway);
    t.match(asked.firstLine, 'SIP/2.0 401');
    t.match(asked.headers.get('www-authenticate'), [
      /^Digest realm="tandem", nonce="[^"]+", algorithm=SHA-256, qop="auth"$/,
      /algorithm=MD5/,
    ]);
    for (const algorithm of ['SHA-256', 'MD5'] as const) {
      t.match((await tryAs(USER, PASSWORD, algorithm)).firstLine, 'SIP/2.0 200', algorithm);
    }
    t.equal((await app.waitFor('/voice')).params.From, '+4930999');
    const { json } = await gateway.rest('GET', 'Calls.json');
    t.match(json.calls[0].trunk_sid, /^TK/, 'the call is its trunk’s');

    const wrong = await tryAs(USER, 'guess');
    const unknown = await tryAs('nobody', 'guess');
    const plain = ({ firstLine, headers }: SipIn) => [
      firstLine,
      [...headers.keys()],
      (headers.get('www-authenticate') ?? []).map((one) => one.replace(/nonce="[^"]*"/, '')),
    ];
    t.match(wrong.firstLine, 'SIP/2.0 401');
    t.strictSame(plain(wrong), plain(unknown), 'who exists cannot be told');
    const broken = await invite(t, gateway, ['Authorization: Digest username="pbx']);
    t.match(broken.firstLine, /SIP\/2\.0 40[01]/);
    t.equal((await gateway.rest('GET', 'Calls.json')).json.calls.length, 2);
  },
);

t.test('where no trunk has credentials, or is off, strangers are refused at once', async (t) => {
  const { gateway } = await start(t, {
    InboundUsername: USER,
    InboundPassword: PASSWORD,
    Enabled: 'false',
  });
  const refused = await invite(t, gateway);
  t.match(refused.firstLine, 'SIP/2.0 403');
  t.equal(header(refused, 'www-authenticate'), '');
});

t.test('a proof serves one call, soon, and from where it was given', async (t) => {
  let nowMs = 0;
  const clock = { ...realClock, monotonicMs: () => nowMs };
  const trunkSid = newSid('TK', realClock);
  const digest = new InboundDigest({
    clock,
    options: { realm: 'r', provenMsMax: 1_000, provenMax: 2 },
    accountOf: (username) =>
      username === USER ? { trunkSid, password: new Secret(PASSWORD) } : null,
  });
  const source = { transport: 'udp', address: '192.0.2.1', port: 5060 } as const;
  const prove = (user: string): void => {
    const verdict = digest.authenticate(request(user, ''), source);
    if (verdict.kind !== 'challenge') throw verdict;
    const [challenge = ''] = verdict.server.challenge();
    const given = { challenge, username: USER, password: PASSWORD, algorithm: 'SHA-256' } as const;
    const accepted = digest.authenticate(request(user, authorization(given)), source);
    t.equal(accepted.kind, 'accept');
  };
  const query = (from: string) => ({ source, user: '+4930100', host: '127.0.0.1', from });

  prove('+491');
  t.equal(digest.take({ ...query('+491'), source: { ...source, port: 5061 } }), null);
  t.equal(digest.take(query('+492')), null);
  t.equal(digest.take(query('+491')), trunkSid);
  t.equal(digest.take(query('+491')), null, 'once');
  prove('+491');
  nowMs += 1_001;
  t.equal(digest.take(query('+491')), null, 'late');
  for (const user of ['+491', '+492', '+493']) prove(user);
  t.equal(digest.take(query('+491')), null, 'the oldest makes room');
  t.equal(digest.take(query('+493')), trunkSid);
});

function request(user: string, authorizationLine: string) {
  const lines = [
    `INVITE ${URI} SIP/2.0`,
    'Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx',
    'Max-Forwards: 70',
    `From: <sip:${user}@192.0.2.1>;tag=a`,
    `To: <${URI}>`,
    'Call-ID: a',
    'CSeq: 1 INVITE',
    'Contact: <sip:192.0.2.1>',
    ...(authorizationLine === '' ? [] : [authorizationLine]),
    'Content-Length: 0',
    '',
    '',
  ];
  const parsed = parseMessage(lines.join('\r\n'), { stream: false });
  if (!parsed.ok) throw parsed;
  return parsed.message;
}
