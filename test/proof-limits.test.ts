/**
 * What an attacker saw of the proofs of calls, on a whole gateway: INVITE as a way to guess the
 * passwords that the registrar protects, nonces that serve from anywhere, and challenges that tell
 * who is registered. Each phone has an address of its own.
 */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import t, { type Test } from 'tap';
import { startGateway, type TestGateway } from './support/gateway.ts';

const DOMAIN = 'ph.example';
const md5 = (text: string): string => createHash('md5').update(text).digest('hex');
const passwordOf = (user: string): string => `Correct-Horse-9${user}`;
const statusOf = (answer: string): string => answer.slice(8, 11);

class Sender {
  static #sent = 0;
  readonly #address: string;
  readonly #port: number;

  constructor(gateway: TestGateway, address: string) {
    this.#address = address;
    this.#port = gateway.sipPort;
  }

  /** One request and its final answer, from a port of its own: the gate is not what is looked at. */
  async ask(method: 'REGISTER' | 'INVITE', user: string, o: { uri?: string; more?: string } = {}) {
    const { uri = method === 'REGISTER' ? `sip:${DOMAIN}` : `sip:bob@${DOMAIN}`, more = '' } = o;
    Sender.#sent += 1;
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => socket.bind(0, this.#address, resolve));
    const { address, port } = socket.address();
    const id = `q${Sender.#sent}`;
    const text =
      `${method} ${uri} SIP/2.0\r\nVia: SIP/2.0/UDP ${address}:${port};rport;branch=z9hG4bK${id}\r\n` +
      `Max-Forwards: 70\r\nFrom: <sip:${user}@${DOMAIN}>;tag=${id}\r\n` +
      `To: <sip:${method === 'REGISTER' ? user : 'bob'}@${DOMAIN}>\r\nCall-ID: ${id}\r\n` +
      `CSeq: 1 ${method}\r\nContact: <sip:${user}@${address}:${port}>\r\n${more}` +
      'Content-Length: 0\r\n\r\n';
    const answered = new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no answer to ${method}`)), 5000);
      const take = (data: Buffer): void => {
        const answer = data.toString('latin1');
        if (!answer.includes(`Call-ID: ${id}\r\n`) || statusOf(answer) < '200') return;
        clearTimeout(timer);
        resolve(answer);
      };
      socket.on('message', take);
      socket.send(text, this.#port, '127.0.0.1');
    });
    return answered.finally(() => socket.close());
  }

  async register(user: string, password = passwordOf(user)): Promise<string> {
    const challenge = await this.ask('REGISTER', user);
    const more = proof(challenge, { method: 'REGISTER', uri: `sip:${DOMAIN}`, user, password });
    return statusOf(await this.ask('REGISTER', user, { more }));
  }
}

function proof(
  challenge: string,
  o: { method: string; uri: string; user: string; password: string },
): string {
  const { method, uri, user, password } = o;
  const nonce = /nonce="([^"]+)"/.exec(challenge)?.[1] ?? '';
  const realm = /realm="([^"]+)"/.exec(challenge)?.[1] ?? '';
  const ha1 = md5(`${user}:${realm}:${password}`);
  const response = md5(`${ha1}:${nonce}:00000001:ab:auth:${md5(`${method}:${uri}`)}`);
  return (
    `Authorization: Digest username="${user}", realm="${realm}", nonce="${nonce}", uri="${uri}", ` +
    `response="${response}", algorithm=MD5, qop=auth, nc=00000001, cnonce="ab"\r\n`
  );
}

/** A domain where alice and mallory register; `calls`: they may call with the same passwords. */
async function start(t: Test, calls: boolean): Promise<TestGateway> {
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '127.9.9.9/32' });
  t.teardown(() => gateway.stop());
  const made = async (path: string, body: Record<string, string>): Promise<string> => {
    const { status, json, text } = await gateway.rest('POST', path, body);
    t.equal(status, 201, text);
    return json.sid;
  };
  const list = await made('SIP/CredentialLists.json', { FriendlyName: 'phones' });
  for (const Username of ['alice', 'mallory']) {
    const path = `SIP/CredentialLists/${list}/Credentials.json`;
    await made(path, { Username, Password: passwordOf(Username) });
  }
  const domain = await made('SIP/Domains.json', {
    DomainName: DOMAIN,
    SipRegistration: 'true',
    VoiceUrl: 'http://127.0.0.1:1/voice',
  });
  for (const what of calls ? ['Registrations', 'Calls'] : ['Registrations']) {
    const path = `SIP/Domains/${domain}/Auth/${what}/CredentialListMappings.json`;
    await made(path, { CredentialListSid: list });
  }
  await made('Trunks.json', {
    FriendlyName: 'carrier',
    InboundUsername: 'carrier',
    InboundPassword: passwordOf('carrier'),
  });
  return gateway;
}

/** What the challenge looks like, chance apart. */
const looks = (answer: string): string[] =>
  answer
    .split('\r\n')
    .filter((line) => /^(?:SIP|WWW-Authenticate|Warning|Reason)/.test(line))
    .map((line) => line.replace(/nonce="[^"]*"/, ''));

for (const { what, uri, user } of [
  { what: 'a domain', uri: `sip:bob@${DOMAIN}`, user: 'alice' },
  { what: 'a trunk', uri: 'sip:+1555@127.0.0.1', user: 'carrier' },
]) {
  t.test(`INVITE is no oracle for the passwords of ${what}`, async (t) => {
    const gateway = await start(t, true);
    const guess = async (from: Sender, challenge: string, password: string): Promise<string> => {
      const more = proof(challenge, { method: 'INVITE', uri, user, password });
      return statusOf(await from.ask('INVITE', 'zoe', { uri, more }));
    };
    const guesser = new Sender(gateway, '127.0.4.7');
    const challenge = await guesser.ask('INVITE', 'zoe', { uri });
    for (let i = 0; i < 12; i += 1) t.equal(await guess(guesser, challenge, `wrong${i}`), '401');
    t.equal(await guess(guesser, challenge, passwordOf(user)), '401', 'not believed any more');
    if (user === 'alice') t.equal(await guesser.register('alice'), '401', 'nor by the registrar');

    const other = new Sender(gateway, '127.0.4.8');
    t.equal(await guess(other, challenge, passwordOf(user)), '401', 'the nonce of another place');
    const own = await other.ask('INVITE', 'zoe', { uri });
    t.not(await guess(other, own, passwordOf(user)), '401', 'others are not stopped');
  });
}

t.test('guesses by REGISTER count for INVITE', async (t) => {
  const gateway = await start(t, true);
  const guesser = new Sender(gateway, '127.0.4.9');
  for (let i = 0; i < 12; i += 1) await guesser.register('alice', `wrong${i}`);
  const challenge = await guesser.ask('INVITE', 'zoe');
  const given = { method: 'INVITE', uri: `sip:bob@${DOMAIN}`, user: 'alice' };
  const more = proof(challenge, { ...given, password: passwordOf('alice') });
  t.equal(statusOf(await guesser.ask('INVITE', 'zoe', { more })), '401');
});

t.test('nobody is locked out by another’s nonce with his address forged', async (t) => {
  const gateway = await start(t, false);
  const alice = new Sender(gateway, '127.0.3.1');
  const mallory = new Sender(gateway, '127.0.3.2');
  t.equal(await alice.register('alice'), '200');
  t.equal(await mallory.register('mallory'), '200');
  const stolen = await mallory.ask('INVITE', 'mallory');
  const forger = new Sender(gateway, '127.0.3.1');
  const given = { method: 'INVITE', uri: `sip:bob@${DOMAIN}`, user: 'alice' };
  for (let i = 0; i < 14; i += 1) {
    const more = proof(stolen, { ...given, password: `wrong${i}` });
    t.equal(statusOf(await forger.ask('INVITE', 'alice', { more })), '401');
  }
  t.equal(await alice.register('alice'), '200');
  const challenge = await alice.ask('INVITE', 'alice');
  const more = proof(challenge, { ...given, password: passwordOf('alice') });
  t.not(statusOf(await alice.ask('INVITE', 'alice', { more })), '401');
});

for (const calls of [true, false]) {
  const where = calls ? 'calls with passwords' : 'calls of its phones alone';
  t.test(`a challenge does not tell who is registered: a domain of ${where}`, async (t) => {
    const gateway = await start(t, calls);
    const alice = new Sender(gateway, '127.0.5.1');
    t.equal(await alice.register('alice'), '200');
    const beside = new Sender(gateway, '127.0.5.1');
    const stranger = new Sender(gateway, '127.0.5.2');
    const registered = await beside.ask('INVITE', 'alice');
    t.match(looks(registered), ['SIP/2.0 401 Unauthorized', /realm="ph\.example"/]);
    t.same(looks(await beside.ask('INVITE', 'mallory')), looks(registered), 'not registered');
    t.same(looks(await beside.ask('INVITE', 'nobody')), looks(registered), 'no user at all');
    t.same(looks(await stranger.ask('INVITE', 'alice')), looks(registered), 'somewhere else');
    const given = { method: 'INVITE', uri: `sip:bob@${DOMAIN}`, user: 'x', password: 'y' };
    const tries = ['alice', 'mallory', 'nobody'].map(async (user) =>
      looks(await beside.ask('INVITE', user, { more: proof(registered, given) })),
    );
    const [first, ...others] = await Promise.all(tries);
    for (const one of others) t.same(one, first, 'with credentials');
  });
}
