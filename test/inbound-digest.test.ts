/**
 * Calls from anywhere that prove whose they are: a trunk with inbound credentials and a gateway
 * that trusts nobody by address. The credentials are computed here, apart from the code under test.
 */
import { createHash } from 'node:crypto';
import t, { type Test } from 'tap';
import { InboundDigest } from '../src/call/inbound-digest.ts';
import { DEFAULT_ROUTE_TABLE, StoreRouteTable } from '../src/call/route-table.ts';
import { realClock } from '../src/core/clock.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import type { AuthVerdict } from '../src/sip/challenge.ts';
import { DigestProver } from '../src/sip/digest-prover.ts';
import type { SipMessage } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { DEFAULT_REGISTRAR } from '../src/sip/registrar-options.ts';
import { DEFAULT_STORE } from '../src/store/sql.ts';
import { openSqlite } from '../src/store/sqlite.ts';
import type { TrunkRow } from '../src/store/store.ts';
import { BLANK_TRUNK } from '../src/store/trunk-row.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { header, type SipIn, startPhone } from './support/phone.ts';

const URI = 'sip:+4930100@127.0.0.1';
const USER = 'büro';
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
    const broken = await invite(t, gateway, ['Authorization: Digest username="büro']);
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

t.test('what a caller has proven is what its name and password prove, and no more', async (t) => {
  const accounts = ['TK1', 'TK2', 'TK3'].map((sid, index) => {
    return { sid, password: new Secret(index === 1 ? 'other' : PASSWORD) };
  });
  const digest = new InboundDigest({ clock: realClock, realm: 'r', prover: newProver() });
  const prove = (of: typeof accounts) =>
    proveTo(
      (sent) => digest.authenticate(sent, SOURCE, null, (name) => (name === USER ? of : [])),
      '+491',
    );

  t.same(prove(accounts), { kind: 'accept', identity: 'TK1 TK3' });
  t.same(prove(accounts.slice(1)), { kind: 'accept', identity: 'TK3' });
  t.match(prove(accounts.slice(1, 2)), { kind: 'challenge' });
  t.match(prove([]), { kind: 'challenge' });
});

function newProver(): DigestProver {
  const secret = new Secret('k');
  return new DigestProver({ clock: realClock, log: silentLog, secret, options: DEFAULT_REGISTRAR });
}

const SOURCE = { transport: 'udp', address: '192.0.2.1', port: 5060 } as const;

/** Asks, is challenged, and asks again with that; the last verdict. */
function proveTo(authenticate: (sent: SipMessage) => AuthVerdict, user: string): AuthVerdict {
  const verdict = authenticate(request(user, ''));
  if (verdict.kind !== 'challenge') throw verdict;
  const [challenge = ''] = verdict.server.challenge(false, SOURCE.address);
  const given = { challenge, username: USER, password: PASSWORD, algorithm: 'SHA-256' } as const;
  return authenticate(request(user, authorization(given)));
}

function trunkRow(accountSid: AccountSid, change: Partial<TrunkRow>): TrunkRow {
  const dates = { dateCreatedMs: 1, dateUpdatedMs: 1 };
  return { ...BLANK_TRUNK, sid: newSid('TK', realClock), accountSid, ...dates, ...change };
}

/** The table over a store with one number, of `owner`, and trunks of it and of another account. */
async function tableOver(
  t: Test,
  trunks: (of: Record<'owner' | 'other', AccountSid>) => TrunkRow[],
) {
  const store = await openSqlite({
    options: { path: ':memory:', busyTimeoutMs: 20 },
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    store: DEFAULT_STORE,
  });
  t.teardown(() => store.close());
  const sids = { owner: newSid('AC', realClock), other: newSid('AC', realClock) };
  const dates = { dateCreatedMs: 1, dateUpdatedMs: 1 };
  for (const sid of Object.values(sids)) {
    const authToken = new Secret('x');
    await store.accounts.save({ sid, authToken, friendlyName: '', status: 'active', ...dates });
  }
  await store.numbers.save({
    sid: newSid('PN', realClock),
    accountSid: sids.owner,
    friendlyName: 'main',
    phoneNumber: '+4930100',
    voiceApplicationSid: null,
    trunkSid: null,
    voiceUrl: 'http://app/voice',
    voiceMethod: 'POST',
    voiceFallbackUrl: null,
    voiceFallbackMethod: 'POST',
    statusCallback: null,
    statusCallbackMethod: 'POST',
    voiceCallerIdLookup: false,
    ...dates,
  });
  const rows = trunks(sids);
  for (const row of rows) await store.trunks.save(row);
  const options = { ...DEFAULT_ROUTE_TABLE, realm: 'r', trustedSources: [] };
  const parts = { store, clock: realClock, log: silentLog, prover: newProver(), options };
  const table = new StoreRouteTable(parts);
  await table.start();
  const query = {
    source: SOURCE,
    user: '+4930100',
    host: '127.0.0.1',
    from: '+491',
    headers: {},
    certificateNames: [],
  };
  return {
    store,
    table,
    rows,
    prove: (): string | null => {
      const verdict = proveTo((sent) => table.authenticate(sent, SOURCE), '+491');
      return verdict.kind === 'accept' ? (verdict.identity ?? '') : null;
    },
    inbound: (identity: string | null = null) => table.inbound({ ...query, identity }),
  };
}

const PROOF = { inboundUsername: USER, inboundPassword: new Secret(PASSWORD) };
const REFUSED = { kind: 'refused', code: 'SIP_FORBIDDEN' };

t.test('of several trunks a call is that one’s whose name it has proven', async (t) => {
  const { prove, inbound, rows } = await tableOver(t, ({ owner }) => [
    trunkRow(owner, { inboundUsername: 'first', inboundPassword: new Secret('1') }),
    trunkRow(owner, { inboundAddresses: ['198.51.100.0/24'], dateCreatedMs: 2 }),
    trunkRow(owner, { ...PROOF, dateCreatedMs: 3 }),
  ]);

  t.match(inbound(), REFUSED, 'without a proof');
  const identity = prove();
  t.equal(identity, rows[2]?.sid);
  t.match(inbound(identity), { kind: 'application', trunkSid: rows[2]?.sid });
});

t.test('a trunk proves nothing for numbers of another account', async (t) => {
  const { prove, inbound } = await tableOver(t, ({ other }) => [trunkRow(other, PROOF)]);

  const identity = prove();
  t.ok(identity);
  t.match(inbound(identity), REFUSED);
});

t.test('a trunk that is switched off after the proof gets no call through', async (t) => {
  const { prove, inbound, rows, store, table } = await tableOver(t, ({ owner }) => [
    trunkRow(owner, PROOF),
  ]);

  const identity = prove();
  t.equal(identity, rows[0]?.sid);
  for (const row of rows) await store.trunks.save({ ...row, enabled: false });
  while (!table.refuses(SOURCE.address)) await new Promise(setImmediate);

  t.match(inbound(identity), REFUSED);
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
  // As it comes from the wire: UTF-8, each byte a character.
  const text = Buffer.from(lines.join('\r\n')).toString('latin1');
  const parsed = parseMessage(text, { stream: false });
  if (!parsed.ok) throw parsed;
  return parsed.message;
}
