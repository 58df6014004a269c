/**
 * Trust: who is known, who is registered, who is a stranger, and what each may cost. Strangers get
 * one answer and leave no state; who keeps on is not heard; nobody else notices.
 */
import t, { type Test } from 'tap';
import { CONFIG_ROWS } from '../src/core/config-table.ts';
import type { Log } from '../src/core/log.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DigestClient, DigestServer } from '../src/sip/digest.ts';
import type { Endpoint, EndpointOptions } from '../src/sip/endpoint.ts';
import { DEFAULT_GATE } from '../src/sip/gate.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { isOfOurs } from '../src/sip/peek.ts';
import { DEFAULT_TRUST, Trust } from '../src/sip/trust.ts';
import { SDP } from './support/script-peer.ts';
import { SEED, SimClock } from './support/sim.ts';
import { SipWorld } from './support/sip-world.ts';

const TRUNK = '10.0.0.7';

interface Scene {
  readonly world: SipWorld;
  readonly us: Endpoint;
  readonly metrics: Metrics;
  pass(ms: number): Promise<void>;
  /** Messages dropped unread, by reason. */
  dropped(): Promise<Record<string, number>>;
}

/** Whoever is not the trunk is a stranger, and is told 403. */
async function scene(t: Test, options: Partial<EndpointOptions> = {}): Promise<Scene> {
  const world = new SipWorld();
  const metrics = new Metrics();
  const us = await world.endpoint('10.0.0.1', {
    metrics,
    ...options,
    policy: {
      trusts: (address) => address === TRUNK,
      admit: (_request, { address }) => (address === TRUNK ? null : 'SIP_FORBIDDEN'),
      ...options.policy,
    },
  });
  t.teardown(() => world.close());
  const dropped = async (): Promise<Record<string, number>> => {
    const text = await metrics.text();
    const found = text.matchAll(/^tandem_sip_dropped_total\{reason="(\w+)"\} (\d+)$/gm);
    const all = [...found].map(([, reason = '', count]) => [reason, Number(count)] as const);
    return Object.fromEntries(all.filter(([, count]) => count > 0));
  };
  return { world, us, metrics, pass: (ms) => world.clock.advance(ms), dropped };
}

t.test('three classes: by address, by proof, by registration, and the rest', (t) => {
  const at = (address: string, port = 5060) => ({ transport: 'udp' as const, address, port });
  const trust = new Trust({
    knows: (address) => address === TRUNK,
    isFlow: ({ address, port }) => address === '10.0.0.2' && port === 6000,
    options: { ...DEFAULT_TRUST, provenMs: 1000, provenMax: 2 },
  });
  t.equal(trust.classOf(at(TRUNK, 1), 0), 'known');
  t.equal(trust.classOf(at('10.0.0.2', 6000), 0), 'registered');
  t.equal(trust.classOf(at('10.0.0.2', 6001), 0), 'stranger', 'the neighbour of a phone');
  trust.proved(at('10.0.0.3'), 0);
  t.equal(trust.classOf(at('10.0.0.3'), 1000), 'known');
  t.equal(trust.classOf(at('10.0.0.3', 5061), 1000), 'stranger');
  t.equal(trust.classOf({ ...at('10.0.0.3'), transport: 'tcp' }, 1000), 'stranger');
  t.equal(trust.classOf(at('10.0.0.3'), 1001), 'stranger', 'a proof does not last');
  for (const address of ['10.0.1.1', '10.0.1.2', '10.0.1.3']) trust.proved(at(address), 2000);
  t.equal(trust.classOf(at('10.0.1.1'), 2000), 'stranger', 'and the table is bounded');
  t.equal(trust.classOf(at('10.0.1.3'), 2000), 'known');
  t.equal(trust.size, 2);
  t.end();
});

t.test('a stranger gets one answer, and a repetition after a window, once', async (t) => {
  const { world, us, pass, dropped } = await scene(t);
  const peer = await world.peer('10.0.0.2');
  const branch = 'z9hG4bKsame';
  // Timer A: 0.5, 1.5, 3.5, 7.5 s. The answer to the first was lost on the way.
  for (const waitMs of [500, 1000, 2000, 4000, 4000, 4000, 4000]) {
    peer.request({ method: 'INVITE', branch, body: SDP });
    await pass(waitMs);
  }
  peer.request({ method: 'INVITE', branch, body: SDP });
  await pass(5);
  t.same(peer.heard, ['403 INVITE', '403 INVITE']);
  t.equal(peer.received[0]?.toTag, peer.received[1]?.toTag);
  t.same(await dropped(), { answered: 6 });
  t.equal(us.counts.serverTransactions + us.counts.sessions + us.counts.deadlines, 0);
});

t.test('who keeps on without a proof is silenced for a while, and told once', async (t) => {
  const lines: string[] = [];
  const log: Log = {
    ...silentLog,
    info: (fields, text) => lines.push(JSON.stringify([text, fields])),
  };
  const { world, pass, dropped } = await scene(t, { log });
  const peer = await world.peer('10.0.0.2');
  const honest = await world.peer('10.0.0.2', 5070);
  const storm = async (seconds: number): Promise<void> => {
    for (let i = 0; i < seconds * 20; i += 1) {
      peer.request({ method: 'INVITE', callId: `c${i}`, body: SDP });
      await pass(50);
    }
  };
  await storm(59);
  honest.request({ method: 'OPTIONS' });
  await pass(5);
  t.equal(peer.received.length, 1);
  t.equal(honest.received.length, 1, 'the next port is another stranger');
  t.same(await dropped(), { answered: 9, silenced: 59 * 20 - 10 });
  t.equal(lines.length, 1);
  t.match(lines[0], 'not heard any more');
  t.notMatch(lines[0], '10.0.0.2');
  await pass(DEFAULT_GATE.strangersSilenceMs);
  peer.request({ method: 'OPTIONS' });
  await pass(5);
  t.equal(peer.received.length, 2, 'it is not for ever');
});

t.test('a slow asker is never silenced', async (t) => {
  const { world, pass } = await scene(t);
  const peer = await world.peer('10.0.0.2');
  for (let i = 0; i < 50; i += 1) {
    peer.request({ method: 'OPTIONS', callId: `o${i}` });
    await pass(DEFAULT_GATE.strangersAnsweredMs);
  }
  t.equal(peer.received.length, 50);
});

t.test('many slow strangers: one answer each, however slowly they ask', async (t) => {
  const { world, us, pass } = await scene(t, { transport: { strangersBurst: 1e6 } });
  const peers = await Promise.all(
    Array.from({ length: 500 }, (_, i) => world.peer(`10.1.${i >> 8}.${i & 255}`)),
  );
  const headers: [string, string][] = [['Authorization', 'Digest nonce="made-up"']];
  // 100 a second for 30 s: each asks every 5 s, always for something else.
  for (let i = 0; i < 3000; i += 1) {
    const more = i % 2 === 0 ? {} : { headers };
    peers[i % 500]?.request({ method: 'INVITE', callId: `c${i}`, body: SDP, ...more });
    await pass(10);
  }
  t.equal(Math.max(...peers.map((peer) => peer.received.length)), 1);
  t.equal(Math.min(...peers.map((peer) => peer.received.length)), 1);
  t.equal(us.counts.serverTransactions + us.counts.sessions, 0);
  await pass(DEFAULT_GATE.strangersAnsweredMs);
  peers[0]?.request({ method: 'INVITE', callId: 'later', body: SDP });
  await pass(5);
  t.equal(peers[0]?.received.length, 2, 'it is not for ever');
});

t.test('who answers a challenge is heard at once', async (t) => {
  const clock = new SimClock({ seed: SEED });
  const server = new DigestServer({ clock, realm: 'tandem', nonceSecret: new Secret('k') });
  const password = new Secret('right');
  const { world, us, pass } = await scene(t, {
    policy: {
      admit: () => null,
      authenticate: () => ({
        kind: 'challenge',
        server,
        accountOf: () => ({ password }),
        peer: '',
      }),
    },
  });
  us.on('invite', (session) => session.reject(486));
  const peer = await world.peer('10.0.0.2');
  const answer = (word: string): [string, string][] => {
    const client = new DigestClient({ clock, username: 'alice', password: new Secret(word) });
    const challenges = peer.last('401 INVITE').headers('WWW-Authenticate');
    const asked = { method: 'INVITE', uri: 'sip:us@10.0.0.1', body: SDP };
    return [['Authorization', client.answer(challenges, asked) ?? '']];
  };
  peer.request({ method: 'INVITE', body: SDP });
  await pass(5);
  const old = answer('right');
  peer.request({ method: 'INVITE', cseq: 2, body: SDP, headers: answer('wrong') });
  await pass(5);
  t.same(peer.heard, ['401 INVITE', '401 INVITE'], 'an attempt is answered');
  peer.request({ method: 'INVITE', cseq: 3, body: SDP, headers: old });
  await pass(5);
  t.equal(peer.received.length, 2, 'of the last challenge only');
  peer.request({ method: 'INVITE', cseq: 4, body: SDP, headers: answer('right') });
  await pass(5);
  t.equal(peer.heard.at(-1), '486 INVITE');
});

t.test('the scanners that are known are those that the configuration shows', (t) => {
  t.same(DEFAULT_GATE.scanners, CONFIG_ROWS['sip.scanners'].default);
  t.end();
});

t.test('scanner sink: who says it is one hears nothing, whatever it sends next', async (t) => {
  const { world, us, pass, dropped } = await scene(t);
  for (const [i, name] of ['friendly-scanner', 'SIPVicious', 'sipcli/v1.8', 'pplsip'].entries()) {
    const peer = await world.peer(`10.0.1.${i}`);
    for (const method of ['OPTIONS', 'REGISTER', 'INVITE']) {
      peer.request({ method, headers: [['User-Agent', name]] });
      peer.request({ method });
      await pass(5000);
    }
    t.equal(peer.received.length, 0, name);
  }
  t.same(await dropped(), { scanner: 4, silenced: 20 });
  const trunk = await world.peer(TRUNK);
  trunk.request({ method: 'OPTIONS', headers: [['User-Agent', 'friendly-scanner']] });
  await pass(5);
  t.same(trunk.heard, ['200 OPTIONS'], 'of a trunk a name is nobody’s business');
  t.equal(us.counts.deadlines, 0);
});

t.test(
  'a flood from everywhere is dropped unread over its total, and leaves no table',
  async (t) => {
    const transport = { strangersTotalPerSecond: 100, strangersSourcesMax: 50 };
    const { world, us, pass, dropped } = await scene(t, { transport });
    us.on('invite', (session) => session.accept(SDP));
    const trunk = await world.peer(TRUNK);
    const peers = await Promise.all(
      Array.from({ length: 500 }, (_, i) => world.peer(`10.1.${i >> 8}.${i & 255}`)),
    );
    for (const peer of peers) peer.request({ method: 'INVITE', body: SDP });
    trunk.request({ method: 'INVITE', body: SDP });
    await pass(5);
    t.equal(peers.filter((peer) => peer.received.length === 1).length, 100);
    t.equal(peers.filter((peer) => peer.received.length > 1).length, 0);
    t.same(await dropped(), { total: 400 });
    t.same(trunk.heard, ['200 INVITE'], 'a trunk does not notice');
    t.ok(us.ua.transport.sourcesHeld <= 100, 'flows and addresses');
    t.equal(us.counts.serverTransactions, 1);
  },
);

t.test('what belongs to a call of ours passes, from wherever it comes', async (t) => {
  const transport = {
    strangersTotalPerSecond: 0.001,
    strangersPerSecond: 0.001,
    strangersBurst: 1,
  };
  const { world, us, pass } = await scene(t, { transport });
  us.on('invite', (session) => session.accept(SDP));
  const trunk = await world.peer(TRUNK);
  const elsewhere = await world.peer('10.0.0.8');
  trunk.request({ method: 'INVITE', body: SDP });
  await pass(5);
  const { toTag } = trunk.last('200 INVITE');
  elsewhere.request({ method: 'ACK', toTag });
  for (let cseq = 2; cseq < 40; cseq += 1) {
    elsewhere.request({ method: 'INFO', cseq, toTag });
    await pass(5);
  }
  elsewhere.request({ method: 'BYE', cseq: 40, toTag });
  await pass(5);
  t.equal(elsewhere.count('200 INFO'), 38);
  t.equal(elsewhere.count('200 BYE'), 1);

  const callee = await world.peer('10.0.0.9');
  const call = us.invite({ uri: 'sip:them@10.0.0.9', from: { uri: 'sip:us@10.0.0.1' }, sdp: SDP });
  let rings = 0;
  call.on('provisional', () => {
    rings += 1;
  });
  await pass(5);
  for (let i = 0; i < 20; i += 1) callee.respond(callee.last('INVITE'), 180, { toTag: `t${i}` });
  await pass(5);
  t.equal(rings, 20, 'answers to what we asked too');
});

t.test('a registered phone has a rate of its own, which its calls do not use', async (t) => {
  const { world, us, pass, dropped } = await scene(t, {
    transport: { registeredPerSecond: 1, registeredBurst: 5 },
    policy: { admit: () => null, isFlow: ({ port }) => port === 6000 },
  });
  us.on('invite', (session) => session.accept(SDP));
  const phone = await world.peer('10.0.0.2', 6000);
  phone.request({ method: 'INVITE', body: SDP });
  await pass(5);
  const { toTag } = phone.last('200 INVITE');
  // The proof of its INVITE would make it known, which is another matter.
  phone.request({ method: 'ACK', toTag });
  for (let i = 0; i < 20; i += 1) phone.request({ method: 'OPTIONS', callId: `o${i}` });
  for (let cseq = 2; cseq < 12; cseq += 1) phone.request({ method: 'INFO', cseq, toTag });
  await pass(5);
  t.equal(phone.count('200 INFO'), 10);
  t.equal(phone.count('200 OPTIONS'), 3);
  t.same(await dropped(), { registered: 17 });
});

t.test('an INVITE that was let in makes its sender known', async (t) => {
  const { world, us, pass } = await scene(t, { policy: { admit: () => null } });
  us.on('invite', (session) => session.reject(486));
  const peer = await world.peer('10.0.0.2');
  for (let i = 0; i < 30; i += 1) {
    peer.request({ method: 'INVITE', callId: `c${i}`, body: SDP });
    await pass(20);
    t.equal(
      us.ua.transport.trustOf({ transport: 'udp', address: '10.0.0.2', port: 5060 }),
      'known',
    );
  }
  t.ok(new Set(peer.received.map(({ callId }) => callId)).size === 30);
});

t.test('a look at an unread message finds what the parser finds', (t) => {
  const forms = [
    ['To: <sip:a@b>;tag=ours', 'Via: SIP/2.0/UDP a:1;branch=z9hG4bKx;rport', 'CSeq: 1 BYE'],
    ['t : "x;tag=no" <sip:a@b> ; tag = ours', 'v: SIP/2.0/UDP a:1 ; branch=z9hG4bKx', 'CSEQ:1 BYE'],
    [
      'TO:<sip:a@b;tag=no>;x=y;tag=ours',
      'VIA:SIP/2.0/TCP a:1;rport;branch=z9hG4bKx',
      'cseq: 1  BYE',
    ],
  ];
  const has = (id: string): boolean => id === 'ours';
  const sessions = { has, size: 1 };
  for (const [to, via, cseq] of forms) {
    const rest = `From: <sip:c@d>;tag=theirs\r\nCall-ID: x\r\n${cseq}\r\nContent-Length: 0\r\n\r\n`;
    const request = `BYE sip:a@b SIP/2.0\r\n${via}\r\nMax-Forwards: 70\r\n${to}\r\n${rest}`;
    const parsed = parseMessage(request, { stream: false });
    t.equal(parsed.ok && parsed.message.toTag, 'ours');
    t.ok(isOfOurs(request, sessions, { hasClient: () => false }), `${to}`);
    const response = `SIP/2.0 200 OK\r\n${via}\r\n${to}\r\n${rest}`;
    const hasClient = (key: string): boolean => key === 'z9hG4bKx|BYE';
    t.ok(isOfOurs(response, { has: () => false, size: 0 }, { hasClient }), `${via}`);
    t.notOk(isOfOurs(request, { ...sessions, has: () => false }, { hasClient }));
  }
  t.end();
});
