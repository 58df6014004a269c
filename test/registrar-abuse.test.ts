/**
 * Who tries to find out who registers here, or with which password: nothing in an answer tells
 * users that exist from users that do not, guessing gets slower, and nobody else pays for it.
 */
import t from 'tap';
import { AttemptLimit, DEFAULT_ATTEMPT_LIMIT } from '../src/sip/attempt-limit.ts';
import type { SipMessage } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import type { Source } from '../src/sip/peer.ts';
import {
  credentials,
  DOMAIN,
  type Register,
  type RegistrarWorld,
  RegPhone,
  registrarWorld,
} from './support/registrar-world.ts';

/** What an answer looks like from outside: all but the nonce, whose length counts. */
function looks(answer: SipMessage): string {
  const fields = answer.fields().filter(([name]) => !/^(?:Via|From|To|Call-ID|CSeq)$/.test(name));
  const text = fields.map(([name, value]) => `${name}: ${value}`).join('\n');
  const plain = text.replaceAll(/nonce="([^"]*)"/g, (_, nonce: string) => `nonce=${nonce.length}`);
  return `${answer.firstLine}\n${plain}`;
}

/** The very bytes' number, what the phone itself chose apart. */
function bytes(phone: RegPhone): number {
  return (phone.raw.at(-1) ?? '').length;
}

t.test(
  'user enumeration: same status, headers, size, and no measurable time difference',
  async (t) => {
    t.test('without and with credentials, right and wrong, waiting or not', async (t) => {
      const world = await registrarWorld(t);
      const phone = await RegPhone.udp(world, '10.0.0.2');
      const real = 'alice';
      const nobody = 'alicf';
      for (const password of ['wrong', 'wronger']) {
        const seen: string[] = [];
        const sizes: number[] = [];
        for (const user of [real, nobody]) {
          phone.callId = `enumeration-${user}`;
          phone.cseq = password === 'wrong' ? 10 : 20;
          const asked = await phone.ask('REGISTER', { user });
          sizes.push(bytes(phone));
          const refused = await phone.ask('REGISTER', { user, password }, asked);
          sizes.push(bytes(phone));
          seen.push(`${looks(asked)}\n---\n${looks(refused)}`);
        }
        t.equal(seen[0], seen[1]);
        t.equal(sizes[0], sizes[2]);
        t.equal(sizes[1], sizes[3]);
      }
      for (const user of [real, nobody]) {
        for (let i = 0; i < 20; i += 1) await phone.register({ user, password: 'wrong' });
      }
      t.equal(
        looks(await phone.register({ user: real })),
        looks(await phone.register({ user: nobody })),
        'the right password is not believed there now, and that looks the same too',
      );
    });

    t.test('who has proven himself learns nothing of others either', async (t) => {
      const world = await registrarWorld(t);
      const phone = await RegPhone.udp(world, '10.0.0.2');
      const other = await RegPhone.udp(world, '10.0.0.3');
      await other.register({ user: 'bob' });
      const answers: string[] = [];
      for (const user of ['bob', 'carol']) {
        answers.push(looks(await phone.register({ user, username: 'alice', contacts: [] })));
      }
      t.match(answers[0], /403/);
      t.equal(answers[0], answers[1]);
    });

    t.test('the time to judge does not tell them apart (AUC at most 0.52)', async (t) => {
      const world = await registrarWorld(t, {
        registrar: {
          attempts: { ...DEFAULT_ATTEMPT_LIMIT, pairFailuresFree: 1e9, sourceFailuresFree: 1e9 },
        },
      });
      const samples = 3_000;
      // Warm, and by turns, so that whatever drifts drifts for both.
      let auc = 1;
      for (let round = 0; round < 8 && auc > 0.52; round += 1) {
        const [real, nobody]: [number[], number[]] = [[], []];
        for (let i = 0; i < samples; i += 1) {
          const isRealFirst = i % 2 === 0;
          for (const isReal of [isRealFirst, !isRealFirst]) {
            const ms = judgeMs(world, isReal ? 'alice' : 'alicf', i);
            (isReal ? real : nobody).push(ms);
          }
        }
        auc = areaUnder(real.slice(samples / 3), nobody.slice(samples / 3));
      }
      t.ok(auc <= 0.52, `${auc}`);
    });
  },
);

function judgeMs(world: RegistrarWorld, user: string, n: number): number {
  const bare = request(`Call-ID: t${n}`, user);
  const asked = world.registrar.judge(bare, SOURCE);
  if (!('code' in asked)) throw new Error('let in');
  const value = asked.headers[0]?.[1] ?? '';
  const fake = { headers: () => [value] } as unknown as SipMessage;
  const register: Register = { user, password: 'wrong' };
  const line = credentials(register, fake, 'REGISTER', `sip:${DOMAIN.name}`);
  const message = request(`Call-ID: t${n}\r\n${line}`, user);
  const startMs = performance.now();
  world.registrar.judge(message, SOURCE);
  return performance.now() - startMs;
}

const SOURCE: Source = {
  transport: 'udp',
  address: '10.0.0.2',
  port: 5060,
  local: { transport: 'udp', address: '10.0.0.1', port: 5060, sentBy: '10.0.0.1:5060' },
  connection: null,
};

function request(fields: string, user: string): SipMessage {
  const parsed = parseMessage(
    `REGISTER sip:${DOMAIN.name} SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKt\r\n` +
      `From: <sip:${user}@${DOMAIN.name}>;tag=a\r\nTo: <sip:${user}@${DOMAIN.name}>\r\n` +
      `${fields}\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@10.0.0.2>\r\nContent-Length: 0\r\n\r\n`,
    { stream: false },
  );
  if (!parsed.ok) throw new Error(parsed.error.message);
  return parsed.message;
}

/** How well one number tells the two apart: 0.5 not at all, 1 always. */
function areaUnder(a: readonly number[], b: readonly number[]): number {
  const all = [...a.map((ms) => ({ ms, isA: true })), ...b.map((ms) => ({ ms, isA: false }))];
  all.sort((x, y) => x.ms - y.ms);
  let ranks = 0;
  for (const [index, { isA }] of all.entries()) if (isA) ranks += index + 1;
  const share = (ranks - (a.length * (a.length + 1)) / 2) / (a.length * b.length);
  return Math.max(share, 1 - share);
}

t.test(
  'brute force from one source gets slower and slower, and stops no other source',
  async (t) => {
    const world = await registrarWorld(t);
    const thief = await RegPhone.udp(world, '10.0.0.66');
    const owner = await RegPhone.udp(world, '10.0.0.2');
    for (let i = 0; i < 12; i += 1) {
      t.equal((await thief.register({ password: `guess${i}` })).status, 401);
    }
    t.equal((await thief.register({})).status, 401, 'even the right one is not believed there now');
    t.equal((await owner.register({})).status, 200, 'the owner gets in');
    await world.pass(400_000);
    t.equal((await thief.register({})).status, 200, 'the delay ends');
  },
);

t.test('brute force behind a NAT: who was there before goes on, other names wait', async (t) => {
  const world = await registrarWorld(t);
  const bob = await RegPhone.udp(world, '203.0.113.5', 5061);
  await bob.register({ user: 'bob' });
  const thief = await RegPhone.udp(world, '203.0.113.5', 5062);
  for (let i = 0; i < 30; i += 1) await thief.register({ user: `user${i}`, password: 'x' });
  t.equal((await bob.register({ user: 'bob' })).status, 200);
  t.equal((await thief.register({})).status, 401, 'a name that was never proven from there waits');
});

t.test(
  'brute force from a thousand sources at one name: one guess each, the owner gets in',
  async (t) => {
    const limit = new AttemptLimit(DEFAULT_ATTEMPT_LIMIT);
    let guesses = 0;
    for (let nowMs = 0; nowMs < 3_600_000; nowMs += 10_000) {
      for (let source = 0; source < 1_000; source += 1) {
        const address = `198.18.${source >> 8}.${source & 255}`;
        if (!limit.isOpen(address, 'alice', nowMs)) continue;
        guesses += 1;
        limit.failed(address, 'alice', nowMs);
      }
    }
    t.ok(guesses < 25_000, `${guesses} guesses in an hour, of 360,000 tries`);
    t.ok(limit.isOpen('192.0.2.1', 'alice', 3_600_000), 'from a new place the first try counts');
    t.ok(limit.size <= 4 * DEFAULT_ATTEMPT_LIMIT.entriesMax);
  },
);

t.test('what is remembered of strangers is bounded', async (t) => {
  const limit = new AttemptLimit({ ...DEFAULT_ATTEMPT_LIMIT, entriesMax: 100 });
  for (let i = 0; i < 10_000; i += 1) {
    limit.failed(`2001:db8:${(i >> 8).toString(16)}:${i & 255}::1`, `name${i}`, 0);
    limit.succeeded(`2001:db8:${i.toString(16)}::1`, `name${i}`);
  }
  t.ok(limit.size <= 400, `${limit.size}`);
});

t.test('a nonce is good where it was asked for, once, and for a while', async (t) => {
  const world = await registrarWorld(t);
  const phone = await RegPhone.udp(world, '10.0.0.2');
  const asked = await phone.ask('REGISTER');
  t.equal((await phone.ask('REGISTER', {}, asked)).status, 200);
  const replayed = await phone.ask('REGISTER', {}, asked);
  t.equal(replayed.status, 401, 'the count was used');
  t.equal((await phone.ask('REGISTER', { nc: 2 }, asked)).status, 200, 'the next one was not');

  // A victim's address in a datagram: its sender never saw a nonce that is good there.
  const elsewhere = await RegPhone.udp(world, '10.0.0.3');
  t.equal((await elsewhere.ask('REGISTER', { nc: 3 }, asked)).status, 401);
  t.equal(world.registrar.attemptsHeld, 1, 'which is no failure of anybody');

  await world.pass(301_000);
  const stale = await phone.ask('REGISTER', { nc: 4 }, asked);
  t.match(stale.header('WWW-Authenticate'), /stale=true/);
});

t.test('credentials that cannot be read are refused, and nothing breaks', async (t) => {
  const world = await registrarWorld(t);
  const phone = await RegPhone.udp(world, '10.0.0.2');
  for (const value of [
    'Digest username="alice"',
    'Digest username="alice", realm="phones.example", nonce="n", uri="sip:x", response="zz", qop=auth, nc=1, cnonce=""',
    `Digest ${'a=b,'.repeat(100)}`,
  ]) {
    const { status } = await phone.ask('REGISTER', { headers: [['Authorization', value]] });
    t.equal(status, 400, value.slice(0, 40));
  }
  const other = await phone.ask('REGISTER', { headers: [['Authorization', 'Basic YWxpY2U6eA==']] });
  t.equal(other.status, 401);
});
