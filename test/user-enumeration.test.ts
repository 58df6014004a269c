/**
 * User enumeration, on a whole gateway: who asks for users and numbers that exist and for such that
 * do not gets the same status, the same header fields and the same size, and no measurable time
 * difference. REGISTER and INVITE, without credentials and with wrong ones; each try comes from
 * another source, as strangers get one answer each.
 */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { startGateway, type TestGateway } from './support/gateway.ts';
import { delay } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'needs the media addon';
const DOMAIN = 'house.example';
const REAL = { user: 'alice', number: '+15550100' };
const NOBODY = { user: 'alicf', number: '+15550199' };
/** Of each of the two; in turns, so that what else the machine does meets both. */
const TRIES = 300;
/** Above what chance does once in ten thousand runs, and above what any network hides. */
const Z_MAX = 4;
const DIFFERENCE_MS_MAX = 0.005;

interface Answer {
  readonly text: string;
  readonly tookMs: number;
}

/** A source of its own, that has sent nothing yet. */
class Stranger {
  static #made = 0;
  readonly #socket = createSocket('udp4');
  readonly #count = Stranger.#made++;
  readonly address =
    `127.${32 + (this.#count >> 14)}.${(this.#count >> 7) & 127}.${1 + (this.#count & 127)}`;

  async bind(): Promise<this> {
    await new Promise<void>((resolve) => this.#socket.bind(0, this.address, resolve));
    return this;
  }

  /** The same length for all: what a sender chooses is no difference of ours. */
  ask(port: number, method: string, uri: string, user: string, more = ''): Promise<Answer> {
    const at = `${this.address}:${this.#socket.address().port}`;
    const id = String(this.#count).padStart(8, '0');
    const text =
      `${method} ${uri} SIP/2.0\r\nVia: SIP/2.0/UDP ${at};branch=z9hG4bK${id}${method};rport\r\n` +
      `Max-Forwards: 70\r\nFrom: <sip:${user}@${DOMAIN}>;tag=t${id}\r\n` +
      `To: <sip:${user}@${DOMAIN}>\r\nCall-ID: ${id}\r\nCSeq: 1 ${method}\r\n` +
      `Contact: <sip:${user}@${at}>\r\n${more}Content-Length: 0\r\n\r\n`;
    return new Promise((resolve, reject) => {
      const startMs = performance.now();
      const timer = setTimeout(() => reject(new Error(`no answer to ${method}`)), 5000);
      this.#socket.once('message', (message) => {
        clearTimeout(timer);
        resolve({ text: message.toString('latin1'), tookMs: performance.now() - startMs });
      });
      this.#socket.send(text, port, '127.0.0.1');
    });
  }

  close(): void {
    this.#socket.close();
  }
}

function md5(text: string): string {
  return createHash('md5').update(text).digest('hex');
}

/** Credentials with a password that nobody has. */
function wrong(answer: string, method: string, uri: string, user: string): string {
  const challenge =
    answer.split('\r\n').find((line) => /^WWW-Authenticate:.*MD5/i.test(line)) ?? '';
  const value = (name: string): string =>
    new RegExp(`\\b${name}="([^"]*)"`, 'i').exec(challenge)?.[1] ?? '';
  const [realm, nonce] = [value('realm'), value('nonce')];
  const a1 = md5(`${user}:${realm}:wrong`);
  const response = md5(`${a1}:${nonce}:00000001:c0ffee:auth:${md5(`${method}:${uri}`)}`);
  return (
    `Authorization: Digest username="${user}", realm="${realm}", nonce="${nonce}", uri="${uri}", ` +
    `response="${response}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"\r\n`
  );
}

/** All that is seen from outside, what the asker chose and chance apart; lengths stay. */
function looks({ text }: Answer): string {
  return text
    .replaceAll(/nonce="([^"]*)"/g, (_, nonce: string) => `nonce=${nonce.length}`)
    .replaceAll(/^(?:Via|From|To|Call-ID|CSeq):.*$/gim, (line) => {
      return `${line.split(':')[0]}:${line.replaceAll(/127\.[\d.]+:?\d*|rport=\d+/g, '').length}`;
    });
}

/** Wilcoxon's rank sum as a normal deviate: whether one of two samples tends to be larger. */
function deviate(a: readonly number[], b: readonly number[]): number {
  const all = [...a.map((ms) => [ms, 0] as const), ...b.map((ms) => [ms, 1] as const)];
  all.sort(([x], [y]) => x - y);
  const sum = all.reduce((ranks, [, group], rank) => ranks + (group === 0 ? rank + 1 : 0), 0);
  const mean = (a.length * (all.length + 1)) / 2;
  return (sum - mean) / Math.sqrt((a.length * b.length * (all.length + 1)) / 12);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

type Try = (who: typeof REAL) => Promise<Answer>;

async function compare(t: Test, attempt: Try): Promise<void> {
  for (let i = 0; i < 50; i += 1) await attempt(i % 2 === 0 ? REAL : NOBODY);
  const times: [number[], number[]] = [[], []];
  const seen: [Set<string>, Set<string>] = [new Set(), new Set()];
  for (let i = 0; i < 2 * TRIES; i += 1) {
    // The first of a pair is not always the same.
    const which = ((i >> 1) + i) % 2 === 0 ? 0 : 1;
    const answer = await attempt(which === 0 ? REAL : NOBODY);
    times[which].push(answer.tookMs);
    seen[which].add(looks(answer).replaceAll(/alice|alicf/g, 'user'));
  }
  t.equal(seen[0].size, 1, 'always the same');
  t.same([...seen[0]], [...seen[1]], 'status, fields and size');
  const z = deviate(...times);
  const [real, nobody] = [median(times[0]), median(times[1])];
  const words = `medians ${real.toFixed(3)} and ${nobody.toFixed(3)} ms, z ${z.toFixed(2)}`;
  t.comment(words);
  t.ok(Math.abs(z) < Z_MAX || Math.abs(real - nobody) < DIFFERENCE_MS_MAX, words);
}

/** A domain with one user, who may register and call; a number of a trunk elsewhere. */
async function house(t: Test, isProvable: boolean): Promise<TestGateway> {
  const gateway = await startGateway({
    TANDEM_SIP_TRUSTED: '192.0.2.0/24',
    // It is the whole test that comes from strangers.
    TANDEM_SIP_STRANGERS_TOTAL_PER_SECOND_MAX: '100000',
  });
  t.teardown(() => gateway.stop());
  const make = async (path: string, form: Record<string, string>): Promise<string> => {
    const { status, json, text } = await gateway.rest('POST', `${path}.json`, form);
    if (status !== 201) throw new Error(`${path}: ${status} ${text}`);
    return json.sid;
  };
  await make('Trunks', { FriendlyName: 'elsewhere', InboundAddress: '192.0.2.9' });
  await make('IncomingPhoneNumbers', {
    PhoneNumber: REAL.number,
    VoiceUrl: 'http://127.0.0.1:9/voice',
  });
  if (isProvable) {
    const list = await make('SIP/CredentialLists', { FriendlyName: 'phones' });
    const Password = 'Correct-Horse-9';
    await make(`SIP/CredentialLists/${list}/Credentials`, { Username: REAL.user, Password });
    const domain = await make('SIP/Domains', {
      DomainName: DOMAIN,
      SipRegistration: 'true',
      VoiceUrl: 'http://127.0.0.1:9/voice',
    });
    for (const kind of ['Registrations', 'Calls']) {
      const path = `SIP/Domains/${domain}/Auth/${kind}/CredentialListMappings`;
      await make(path, { CredentialListSid: list });
    }
  }
  await delay(500);
  return gateway;
}

/** One question, or a second with wrong credentials for the first's challenge. */
function trying(
  gateway: TestGateway,
  method: string,
  uriOf: (who: typeof REAL) => string,
  hasCredentials: boolean,
): Try {
  return async (who) => {
    const stranger = await new Stranger().bind();
    try {
      const uri = uriOf(who);
      const first = await stranger.ask(gateway.sipPort, method, uri, who.user);
      if (!hasCredentials) return first;
      const more = wrong(first.text, method, uri, who.user);
      return await stranger.ask(gateway.sipPort, method, uri, who.user, more);
    } finally {
      stranger.close();
    }
  };
}

const NUMBER = (who: typeof REAL): string => `sip:${who.number}@127.0.0.1`;
const OPTIONS = { skip, timeout: 120_000 };

t.test(
  'user enumeration: INVITE to numbers, where nobody could prove anything',
  OPTIONS,
  async (t) => {
    const gateway = await house(t, false);
    const attempt = trying(gateway, 'INVITE', NUMBER, false);
    t.match((await attempt(REAL)).text, /^SIP\/2\.0 403 /);
    await compare(t, attempt);
  },
);

t.test('user enumeration: a domain with phones', OPTIONS, async (t) => {
  const gateway = await house(t, true);
  const ofDomain = (): string => `sip:${DOMAIN}`;
  const ofUser = (who: typeof REAL): string => `sip:${who.user}@${DOMAIN}`;
  const cases = [
    ['REGISTER without credentials', 'REGISTER', ofDomain, false],
    ['REGISTER with a wrong password', 'REGISTER', ofDomain, true],
    ['INVITE to a user', 'INVITE', ofUser, false],
    ['INVITE with a wrong password', 'INVITE', ofUser, true],
  ] as const;
  for (const [name, method, uriOf, hasCredentials] of cases) {
    await t.test(name, async (t) => {
      const attempt = trying(gateway, method, uriOf, hasCredentials);
      t.match((await attempt(REAL)).text, /^SIP\/2\.0 401 /);
      await compare(t, attempt);
    });
  }
  await t.test('INVITE to numbers, beside a domain where proof is possible', async (t) => {
    await compare(t, trying(gateway, 'INVITE', NUMBER, false));
  });
});
