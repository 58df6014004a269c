/**
 * Digest both ways: known vectors, the same answer for nobody as for a wrong password, replay and
 * age, and the challenges a client must not answer.
 */
import t from 'tap';
import type { Clock } from '../src/core/clock.ts';
import { asGatewayError } from '../src/core/errors.ts';
import { Secret } from '../src/core/log.ts';
import {
  type DigestAccount,
  DigestClient,
  type DigestCredentials,
  DigestServer,
  type DigestVerdict,
  digestHa1,
  digestParams,
} from '../src/sip/digest.ts';

class TestClock implements Clock {
  now = 1_700_000_000_000;
  hex = 0;
  fixedHex: string | null = null;
  nowMs(): number {
    return this.now;
  }
  monotonicMs(): number {
    return this.now;
  }
  timer(): { cancel(): void } {
    return { cancel: () => undefined };
  }
  random(): number {
    return 0.5;
  }
  randomHex(bytes: number): string {
    this.hex += 1;
    return this.fixedHex ?? this.hex.toString(16).padStart(bytes * 2, '0');
  }
}

const REQUEST = { method: 'REGISTER', uri: 'sip:example.com', body: '' };
const ACCOUNT: DigestAccount = { password: new Secret('pass') };

function setup(more: { noncesMax?: number } = {}) {
  const clock = new TestClock();
  const server = new DigestServer({
    clock,
    realm: 'example.com',
    nonceSecret: new Secret('key'),
    ...more,
  });
  const client = new DigestClient({ clock, username: 'alice', password: new Secret('pass') });
  return { clock, server, client };
}

function read(server: DigestServer, value: string | null): DigestCredentials {
  const credentials = server.read([value ?? '']);
  if (credentials === null) throw new TypeError('no credentials');
  return credentials;
}

function outcome(verdict: DigestVerdict): string {
  return verdict.ok ? `ok ${verdict.username}` : verdict.reason;
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (thrown) {
    return asGatewayError(thrown).code;
  }
  return 'ok';
}

t.test('the examples of RFC 7616 §3.9.1 and RFC 2617 §3.5', async (t) => {
  const clock = new TestClock();
  const nonce = '7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v';
  const answer = (
    challenge: string,
    username: string,
    password: string,
    cnonce: string,
  ): string => {
    clock.fixedHex = cnonce;
    const client = new DigestClient({ clock, username, password: new Secret(password) });
    const request = { method: 'GET', uri: '/dir/index.html', body: '' };
    return digestParams(client.answer([challenge], request) ?? 'Digest')?.get('response') ?? '';
  };
  const challenge = `Digest realm="http-auth@example.org", qop="auth, auth-int", nonce="${nonce}"`;
  const cnonce = 'f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ';
  t.equal(
    answer(`${challenge}, algorithm=SHA-256`, 'Mufasa', 'Circle of Life', cnonce),
    '753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1',
  );
  t.equal(
    answer(`${challenge}, algorithm=MD5`, 'Mufasa', 'Circle of Life', cnonce),
    '8ca523f5e9506fed4657c9700eebdbec',
  );
  const old =
    'Digest realm="testrealm@host.com", qop="auth,auth-int", ' +
    'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"';
  t.equal(answer(old, 'Mufasa', 'Circle Of Life', '0a4f113b'), '6629fae49393a05397450978507c4ef1');
});

t.test('our client satisfies our server with either algorithm', async (t) => {
  for (const index of [0, 1]) {
    const { server, client } = setup();
    const challenge = server.challenge()[index] as string;
    t.match(challenge, index === 0 ? /algorithm=SHA-256/ : /algorithm=MD5/);
    const first = read(server, client.answer([challenge], REQUEST));
    t.equal(outcome(server.verify(first, REQUEST, ACCOUNT)), 'ok alice');
    const second = read(server, client.next(REQUEST));
    t.equal(second.nc, '00000002');
    t.equal(outcome(server.verify(second, REQUEST, ACCOUNT)), 'ok alice');
  }
});

t.test('a stored hash serves as well as a password', async (t) => {
  const { server, client } = setup();
  const own = { username: 'alice', realm: 'example.com', password: new Secret('pass') };
  const ha1 = { 'SHA-256': digestHa1('SHA-256', own) };
  const [sha, md5] = server.challenge() as [string, string];
  const strong = read(server, client.answer([sha], REQUEST));
  t.equal(outcome(server.verify(strong, REQUEST, { ha1 })), 'ok alice');
  client.accepted();
  const weak = read(server, client.answer([md5], REQUEST));
  t.equal(outcome(server.verify(weak, REQUEST, { ha1 })), 'wrong');
});

t.test('a wrong password, a wrong user, a wrong method and a wrong URI are the same', async (t) => {
  const { server, client } = setup();
  const sent = read(server, client.answer(server.challenge(), REQUEST));
  const of = (request: { method: string; uri: string }, account: DigestAccount | null): unknown =>
    server.verify(sent, request, account);
  const wrong = { ok: false, reason: 'wrong' };
  t.same(of(REQUEST, { password: new Secret('other') }), wrong);
  t.same(of(REQUEST, null), wrong);
  t.same(of({ ...REQUEST, method: 'INVITE' }, ACCOUNT), wrong);
  t.same(of({ ...REQUEST, uri: 'sip:other.example.com' }, ACCOUNT), wrong);
  t.same(server.verify({ ...sent, response: sent.response.slice(1) }, REQUEST, ACCOUNT), wrong);
  t.equal(server.noncesHeld, 0, 'nothing is kept for strangers');
  t.equal(
    outcome(server.verify(sent, { ...REQUEST, uri: 'sip:EXAMPLE.com' }, ACCOUNT)),
    'ok alice',
  );
});

t.test('only nonces of ours count', async (t) => {
  const { server, client, clock } = setup();
  const other = new DigestServer({ clock, realm: 'example.com', nonceSecret: new Secret('other') });
  const foreign = read(server, client.answer(other.challenge(), REQUEST));
  t.equal(outcome(server.verify(foreign, REQUEST, ACCOUNT)), 'wrong');
  const same = new DigestServer({ clock, realm: 'example.com', nonceSecret: new Secret('key') });
  client.accepted();
  const before = read(server, client.answer(same.challenge(), REQUEST));
  t.equal(outcome(server.verify(before, REQUEST, ACCOUNT)), 'ok alice', 'after a restart too');
});

t.test('nonces age, also when the clock is set back', async (t) => {
  const { server, client, clock } = setup();
  const sent = read(server, client.answer(server.challenge(), REQUEST));
  clock.now += 300_001;
  t.equal(outcome(server.verify(sent, REQUEST, ACCOUNT)), 'stale');
  t.equal(outcome(server.verify(sent, REQUEST, null)), 'wrong', 'stale is told to who knew more');
  clock.now -= 300_001 + 3_600_000;
  t.equal(outcome(server.verify(sent, REQUEST, ACCOUNT)), 'stale');
  t.match(server.challenge(true)[0], /, stale=true$/);
});

t.test('a count is good once, late by little, never twice', async (t) => {
  const { server, client } = setup();
  const sent = [read(server, client.answer(server.challenge(), REQUEST))];
  for (let n = 0; n < 40; n += 1) sent.push(read(server, client.next(REQUEST)));
  const use = (n: number): string =>
    outcome(server.verify(sent[n] as DigestCredentials, REQUEST, ACCOUNT));
  t.equal(use(0), 'ok alice');
  t.equal(use(0), 'replayed');
  t.equal(use(5), 'ok alice');
  t.equal(use(3), 'ok alice', 'overtaken on the way');
  t.equal(use(3), 'replayed');
  t.equal(use(40), 'ok alice');
  t.equal(use(4), 'replayed', 'too late to tell');
  t.equal(use(20), 'ok alice');
});

t.test('the table of counts is bounded, and what it forgets is not valid again', async (t) => {
  const { server, client, clock } = setup({ noncesMax: 3 });
  const sent: DigestCredentials[] = [];
  for (let n = 0; n < 5; n += 1) {
    clock.now += 1000;
    client.accepted();
    const credentials = read(server, client.answer(server.challenge(), REQUEST));
    sent.push(credentials);
    t.equal(outcome(server.verify(credentials, REQUEST, ACCOUNT)), 'ok alice');
  }
  t.equal(server.noncesHeld, 3);
  t.equal(outcome(server.verify(sent[0] as DigestCredentials, REQUEST, ACCOUNT)), 'stale');
  t.equal(outcome(server.verify(sent[4] as DigestCredentials, REQUEST, ACCOUNT)), 'replayed');
});

t.test('credentials of bad form are malformed, those of others are none', async (t) => {
  const { server, client } = setup();
  const good = client.answer(server.challenge(), REQUEST) ?? '';
  const of = (value: string): string => codeOf(() => server.read([value]));
  t.equal(of('Digest'), 'SIP_MALFORMED');
  t.equal(of(`${good}, response="00"`), 'SIP_MALFORMED');
  t.equal(of(good.replace('nc=00000001', 'nc=1')), 'SIP_MALFORMED');
  t.equal(of(good.replace('qop=auth', 'qop=auth-int')), 'SIP_MALFORMED');
  t.equal(of(good.replace('username="alice"', 'username="alice')), 'SIP_MALFORMED');
  t.equal(
    of(`Digest ${Array.from({ length: 40 }, (_, n) => `p${n}=1`).join(',')}`),
    'SIP_MALFORMED',
  );
  t.equal(server.read(['Basic abc', 'NoOneKnowsThisScheme opaque-data=here']), null);
  t.equal(server.read([good.replace('example.com', 'elsewhere')]), null);
  t.equal(server.read([good.replace('algorithm=SHA-256', 'algorithm=constructor')]), null);
  t.not(server.read(['Basic abc', good]), null);
});

t.test('a client answers only its own realm, and not for ever', async (t) => {
  const clock = new TestClock();
  const secret = new Secret('p');
  const client = new DigestClient({ clock, username: 'u', password: secret, realm: 'trunk' });
  const challenge = (realm: string, more = ''): string =>
    `Digest realm="${realm}", nonce="${clock.randomHex(8)}", qop="auth"${more}`;
  t.equal(client.answer([challenge('attacker')], REQUEST), null);
  t.equal(client.answer(['Digest realm="trunk"'], REQUEST), null);
  t.equal(client.answer(['Basic realm="trunk"'], REQUEST), null);
  t.equal(client.answer([challenge('trunk', ', algorithm=constructor')], REQUEST), null);
  t.equal(client.answer([challenge('trunk', ', algorithm=MD4')], REQUEST), null);
  t.not(client.answer([challenge('trunk')], REQUEST), null);
  t.equal(client.answer([challenge('trunk')], REQUEST), null, 'the password is wrong');
  t.not(client.answer([challenge('trunk', ', stale=TRUE')], REQUEST), null);
  t.not(client.answer([challenge('trunk', ', stale=true')], REQUEST), null);
  t.equal(client.answer([challenge('trunk', ', stale=true')], REQUEST), null, 'a loop');
  client.accepted();
  t.not(client.answer([challenge('trunk')], REQUEST), null);
});

t.test('a client speaks the older and the rarer forms', async (t) => {
  const { client } = setup();
  const base = 'Digest realm="r\\"x", nonce="n", opaque="o"';
  const legacy = client.answer([base], REQUEST) ?? '';
  t.match(legacy, /realm="r\\"x"/);
  t.match(legacy, /opaque="o"$/);
  t.notMatch(legacy, /qop|cnonce|algorithm/);
  client.accepted();
  t.match(client.answer([`${base}, qop="auth-int", algorithm=MD5-sess`], REQUEST), /qop=auth-int/);
  client.accepted();
  const first = `${base}, algorithm=SHA-512-256, qop="auth"`;
  t.match(client.answer([first, `${base}, algorithm=MD5`], REQUEST), /algorithm=SHA-512-256/);
});
