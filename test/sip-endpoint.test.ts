/**
 * The endpoint: what it says to whom before any call exists, how it uses UDP and TCP, and what
 * keeps it bounded. On the simulated network where time matters, on real sockets where they do.
 */
import t, { type Test } from 'tap';
import { realClock } from '../src/core/clock.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DEFAULT_CONNECTION } from '../src/sip/connection.ts';
import { DigestClient, DigestServer } from '../src/sip/digest.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import { parseUri } from '../src/sip/message.ts';
import { isPrivate, isUnicast, Resolver } from '../src/sip/resolver.ts';
import { DEFAULT_SESSION_TIMER } from '../src/sip/session-timer.ts';
import type { StreamSocket } from '../src/sip/sockets.ts';
import { DEFAULT_TRANSPORT, type TraceMessage } from '../src/sip/transport.ts';
import { type ScriptPeer, SDP } from './support/script-peer.ts';
import { SEED, SimClock } from './support/sim.ts';
import { SipWorld, Witness } from './support/sip-world.ts';

interface Scene {
  world: SipWorld;
  us: Endpoint;
  peer: ScriptPeer;
  pass(durationMs: number): Promise<void>;
}

async function scene(t: Test, options: Parameters<SipWorld['endpoint']>[1] = {}): Promise<Scene> {
  const world = new SipWorld();
  const us = await world.endpoint('10.0.0.1', options);
  const peer = await world.peer('10.0.0.2');
  t.teardown(() => world.close());
  return { world, us, peer, pass: (ms) => world.clock.advance(ms) };
}

/** Nobody is trusted: everybody is a stranger. */
const STRICT = { trusts: (): boolean => false };

/** A scripted stream to our TCP listener. */
class Wire {
  readonly socket: StreamSocket;
  received = '';
  isOpen = false;
  isClosed = false;

  constructor(world: SipWorld, address = '10.0.0.2') {
    this.socket = world.network.host(address).connect({ address: '10.0.0.1', port: 5060 });
    this.socket.listen({
      opened: () => {
        this.isOpen = true;
      },
      data: (chunk) => {
        this.received += chunk.toString('latin1');
      },
      closed: () => {
        this.isClosed = true;
      },
    });
  }

  get statuses(): number[] {
    return [...this.received.matchAll(/^SIP\/2\.0 (\d{3})/gm)].map(([, status]) => Number(status));
  }
}

function options(more = '', via = 'SIP/2.0/TCP 10.0.0.2:5062;branch=z9hG4bKopt'): string {
  return (
    `OPTIONS sip:us@10.0.0.1 SIP/2.0\r\nVia: ${via}\r\nMax-Forwards: 70\r\n` +
    `From: <sip:peer@10.0.0.2>;tag=a\r\nTo: <sip:us@10.0.0.1>\r\nCall-ID: o1\r\n` +
    `CSeq: 1 OPTIONS\r\n${more}Content-Length: 0\r\n\r\n`
  );
}

t.test('requests outside a dialog', async (t) => {
  t.test('each method gets what it deserves, and leaves no state', async (t) => {
    const { us, peer, pass } = await scene(t);
    const expected: [method: string, status: number, more?: object][] = [
      ['OPTIONS', 200],
      ['REGISTER', 405],
      ['MESSAGE', 405],
      ['SUBSCRIBE', 489],
      ['NOTIFY', 481],
      ['PUBLISH', 405],
      ['REFER', 403],
      ['PRACK', 481],
      ['UPDATE', 481],
      ['BYE', 481],
      ['INFO', 481],
      ['FROB', 501],
      ['INVITE', 420, { headers: [['Require', '100rel, frob, timer']] }],
      ['INVITE', 481, { headers: [['Replaces', 'a@b;to-tag=1;from-tag=2']] }],
      ['INVITE', 406, { headers: [['Accept', 'text/plain, application/sdp;q=0']] }],
      ['INVITE', 415, { headers: [['Content-Encoding', 'gzip']], body: SDP }],
      ['INVITE', 403, { uri: 'sip:a@169.254.169.254' }],
      ['INVITE', 403, { uri: 'sip:a@255.255.255.255' }],
    ];
    for (const [method, status, more] of expected) {
      peer.request({ method, ...more });
      await pass(5);
      t.equal(peer.heard.at(-1), `${status} ${method}`);
    }
    t.equal(us.counts.serverTransactions, 0);
    t.equal(us.counts.sessions, 0);
    t.equal(us.counts.deadlines, 0);
    t.match(peer.last('405 MESSAGE').header('Allow'), /INVITE, ACK, BYE/);
    t.equal(peer.last('489 SUBSCRIBE').header('Allow-Events'), 'refer');
    t.match(peer.last('501 FROB').header('Allow'), /INVITE/);
    t.equal(peer.last('420 INVITE').header('Unsupported'), 'frob');
    t.equal(peer.last('415 INVITE').header('Accept'), 'application/sdp');
    t.equal(peer.last('200 OPTIONS').header('Supported'), '100rel, timer');
    t.equal(peer.last('200 OPTIONS').header('Accept'), 'application/sdp');
  });

  t.test('the same request gets the same answer, tag and all', async (t) => {
    const { peer, pass } = await scene(t);
    peer.request({ method: 'REGISTER', branch: 'z9hG4bKsame' });
    peer.request({ method: 'REGISTER', branch: 'z9hG4bKsame' });
    await pass(5);
    t.equal(peer.received.length, 2);
    t.equal(peer.received[0]?.toTag, peer.received[1]?.toTag);
    t.not(peer.received[0]?.toTag, '');
  });

  t.test('Max-Forwards used up: 483 for a call, an answer for a question', async (t) => {
    const { peer, pass } = await scene(t);
    for (const method of ['INVITE', 'OPTIONS']) {
      peer.raw(
        `${method} sip:us@10.0.0.1 SIP/2.0\r\n` +
          `Via: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK${method}\r\n` +
          `Max-Forwards: 0\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:us@10.0.0.1>\r\nCall-ID: m\r\n` +
          `CSeq: 1 ${method}\r\nContact: <sip:a@10.0.0.2>\r\nContent-Length: 0\r\n\r\n`,
      );
    }
    await pass(5);
    t.same(peer.heard, ['483 INVITE', '200 OPTIONS']);
  });

  t.test('draining refuses new calls with Retry-After, and can be undone', async (t) => {
    const { us, peer, pass } = await scene(t);
    us.on('invite', (session) => session.progress(180));
    us.drain(true);
    peer.request({ method: 'OPTIONS' });
    peer.request({ method: 'INVITE', callId: 'c1', body: SDP });
    await pass(5);
    t.same(peer.heard, ['503 OPTIONS', '503 INVITE']);
    t.equal(peer.last('503 INVITE').header('Retry-After'), '10');

    us.drain(false);
    peer.clear();
    peer.request({ method: 'OPTIONS' });
    peer.request({ method: 'INVITE', callId: 'c2', body: SDP });
    await pass(5);
    t.same(peer.heard, ['200 OPTIONS', '180 INVITE']);
  });

  t.test('policy refuses before any state is made', async (t) => {
    const { us, peer, pass } = await scene(t, {
      policy: { admit: (request) => (request.callId === 'good' ? null : 'SIP_FORBIDDEN') },
    });
    us.on('invite', (session) => session.progress(180));
    peer.request({ method: 'INVITE', callId: 'bad', body: SDP });
    await pass(5);
    t.same(peer.heard, ['403 INVITE']);
    t.equal(us.counts.serverTransactions, 0);
    peer.request({ method: 'ACK', callId: 'bad', toTag: peer.last('403 INVITE').toTag });
    peer.request({ method: 'INVITE', callId: 'good', body: SDP });
    await pass(40_000);
    t.same(peer.heard, ['403 INVITE', '180 INVITE'], 'refused once, not repeated');
  });

  t.test('full tables refuse new calls and keep the old', async (t) => {
    for (const bounds of [{ sessionsMax: 1 }, { serverTransactionsMax: 1 }]) {
      const { us, peer, pass } = await scene(t, { bounds });
      us.on('invite', (session) => session.progress(180));
      peer.request({ method: 'INVITE', callId: 'one', body: SDP });
      peer.request({ method: 'INVITE', callId: 'two', body: SDP });
      await pass(5);
      t.same(peer.heard, ['180 INVITE', '503 INVITE']);
      t.ok(peer.last('503 INVITE').header('Retry-After'));
    }
  });

  t.test('an outgoing call over the bound ends as overloaded', async (t) => {
    for (const bounds of [{ sessionsMax: 0 }, { clientTransactionsMax: 0 }]) {
      const { us, pass } = await scene(t, { bounds });
      const uri = 'sip:them@10.0.0.2';
      const call = new Witness(us.invite({ uri, from: { uri: 'sip:us@10.0.0.1' }, sdp: SDP }));
      await pass(5);
      t.equal(call.end?.code, 'OVERLOADED');
      t.equal(us.counts.sessions, 0);
    }
  });
});

t.test('digest', async (t) => {
  const password = new Secret('right');
  const setup = async (t: Test): Promise<Scene> => {
    const clock = new SimClock({ seed: SEED });
    const nonceSecret = new Secret('k');
    const server = new DigestServer({ clock, realm: 'tandem', nonceSecret });
    const stage = await scene(t, {
      policy: {
        authenticate: () => ({
          kind: 'challenge',
          server,
          peer: '10.0.0.2',
          accountOf: (username) => (username === 'alice' ? { password } : null),
        }),
      },
    });
    stage.us.on('invite', (session) => session.progress(180));
    return stage;
  };
  const answerWith = (peer: ScriptPeer, username: string, word: string): string => {
    const client = new DigestClient({
      clock: new SimClock({ seed: SEED }),
      username,
      password: new Secret(word),
    });
    const request = { method: 'INVITE', uri: 'sip:us@10.0.0.1', body: SDP };
    const challenges = peer.last('401 INVITE').headers('WWW-Authenticate');
    return client.answer(challenges, request) ?? '';
  };

  t.test('the right password makes the call; the challenge leaves no state', async (t) => {
    const { us, peer, pass } = await setup(t);
    peer.request({ method: 'INVITE', body: SDP });
    await pass(5);
    t.same(peer.heard, ['401 INVITE']);
    t.equal(us.counts.serverTransactions, 0);

    const headers: [string, string][] = [['Authorization', answerWith(peer, 'alice', 'right')]];
    peer.request({ method: 'INVITE', cseq: 2, body: SDP, headers });
    await pass(5);
    t.same(peer.heard.slice(1), ['180 INVITE']);
  });

  t.test('a wrong password and an unknown user look the same', async (t) => {
    const answers: string[] = [];
    for (const [username, word] of [
      ['alice', 'wrong'],
      ['nobody', 'right'],
    ] as const) {
      const { peer, pass } = await setup(t);
      peer.request({ method: 'INVITE', body: SDP });
      await pass(5);
      const headers: [string, string][] = [['Authorization', answerWith(peer, username, word)]];
      peer.request({ method: 'INVITE', cseq: 2, body: SDP, headers });
      await pass(5);
      t.same(peer.heard, ['401 INVITE', '401 INVITE']);
      const last = peer.last('401 INVITE');
      answers.push(last.names().join(), String(last.sizeBytes));
    }
    t.same(answers.slice(0, 2), answers.slice(2));
  });

  t.test('malformed credentials are 400, and policy may refuse outright', async (t) => {
    const { peer, pass } = await setup(t);
    const headers: [string, string][] = [['Authorization', 'Digest username="alice"']];
    peer.request({ method: 'INVITE', body: SDP, headers });
    await pass(5);
    t.same(peer.heard, ['400 INVITE']);

    const refusing = await scene(t, {
      policy: { authenticate: () => ({ kind: 'refuse', code: 'SIP_FORBIDDEN' }) },
    });
    refusing.peer.request({ method: 'INVITE', body: SDP });
    await refusing.pass(5);
    t.same(refusing.peer.heard, ['403 INVITE']);
  });
});

t.test('OPTIONS and Allow tell what an INVITE from there would be told', async (t) => {
  const { us, world, pass } = await scene(t, {
    policy: {
      sessionPolicyOf: (_request, { address }) => ({
        reliable: address === '10.0.0.3' ? 'off' : 'support',
        sessionTimer: { ...DEFAULT_SESSION_TIMER, mode: 'off' },
        refer: address === '10.0.0.3' ? 'accept' : 'refuse',
      }),
    },
  });
  const methods = 'INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, PRACK, UPDATE, NOTIFY';
  for (const [address, allow, supported, events] of [
    ['10.0.0.3', `${methods}, REFER, SUBSCRIBE`, 'replaces, norefersub', 'refer'],
    ['10.0.0.4', methods, '100rel', undefined],
  ] as const) {
    const peer = await world.peer(address);
    peer.request({ method: 'OPTIONS' });
    peer.request({ method: 'PUBLISH' });
    await pass(5);
    const told = peer.last('200 OPTIONS');
    t.equal(told.header('Allow'), allow);
    t.equal(told.header('Supported'), supported);
    t.equal(told.header('Allow-Events'), events);
    t.equal(peer.last('405 PUBLISH').header('Allow'), allow);
  }
  t.equal(us.counts.serverTransactions, 0);
});

t.test('what is sips and comes in the clear is refused', async (t) => {
  const { us, peer, pass } = await scene(t);
  us.on('invite', (session) => session.accept(SDP));
  peer.request({ method: 'INVITE', uri: 'sips:us@10.0.0.1', body: SDP });
  peer.request({ method: 'OPTIONS', uri: 'SIPS:us@10.0.0.1', callId: 'o' });
  await pass(5);
  t.same(peer.heard, ['403 INVITE', '403 OPTIONS']);
});

t.test('where answers go', async (t) => {
  const ask = async (t: Test, via: string): Promise<string[]> => {
    const world = new SipWorld();
    await world.endpoint('10.0.0.1');
    const sender = await world.peer('10.0.0.2', 6000);
    const named = await world.peer('10.0.0.2', 5062);
    const standard = await world.peer('10.0.0.2', 5060);
    const other = await world.peer('10.0.0.9', 5062);
    const group = await world.peer('224.0.0.1', 5062);
    sender.raw(options('', via));
    await world.clock.advance(10);
    t.teardown(() => world.close());
    const all = { sender, named, standard, other, group };
    return Object.entries(all).flatMap(([name, peer]) =>
      peer.texts.map((answer) => `${name} ${/^via: (.*)$/im.exec(answer)?.[1]}`),
    );
  };

  t.test('without rport to the port that Via names', async (t) => {
    t.same(await ask(t, 'SIP/2.0/UDP 10.0.0.2:5062;branch=z9hG4bK1'), [
      'named SIP/2.0/UDP 10.0.0.2:5062;branch=z9hG4bK1',
    ]);
    const [answer = ''] = await ask(t, 'SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1');
    t.match(answer, /^standard/);
  });

  t.test('with rport to where it came from', async (t) => {
    const [answer = ''] = await ask(t, 'SIP/2.0/UDP 10.0.0.2:5062;rport;branch=z9hG4bK1');
    t.match(answer, /^sender .*rport=6000/);
  });

  t.test('never to an address that Via names', async (t) => {
    const [other = ''] = await ask(t, 'SIP/2.0/UDP 10.0.0.9:5062;branch=z9hG4bK1');
    t.match(other, /^named .*received=10\.0\.0\.2/);
    const [spoof = ''] = await ask(
      t,
      'SIP/2.0/UDP 10.0.0.9:5062;received=10.0.0.9;rport=5062;branch=z9hG4bK1',
    );
    t.match(spoof, /^sender .*rport=6000;received=10\.0\.0\.2/);
    const group = await ask(t, 'SIP/2.0/UDP 10.0.0.2:5062;maddr=224.0.0.1;branch=z9hG4bK1');
    t.equal(group.length, 1);
    t.match(group[0], /^named/);
  });
});

t.test('strangers', async (t) => {
  t.test('are answered at a rate, each address by its own, and dropped above it', async (t) => {
    const transport = { strangersPerSecond: 10, strangersBurst: 20 };
    const { world, us, pass } = await scene(t, { policy: STRICT, transport });
    const peers = await Promise.all(
      Array.from({ length: 200 }, (_, i) => world.peer('10.0.0.4', 6000 + i)),
    );
    const other = await world.peer('10.0.0.3');
    for (const peer of peers) peer.request({ method: 'OPTIONS' });
    other.request({ method: 'OPTIONS' });
    await pass(5);
    t.equal(
      peers.reduce((sum, peer) => sum + peer.received.length, 0),
      20,
    );
    t.equal(other.received.length, 1);
    t.equal(us.counts.limited, 180);
    await pass(1000);
    for (const peer of peers)
      peer.raw('OPTIONS sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.4;rport\r\n\r\n');
    await pass(5);
    const answers = peers.reduce((sum, peer) => sum + peer.texts.length, 0);
    t.equal(answers, 30, 'malformed ones take from the same bucket');
  });

  t.test('a call that stands is not limited', async (t) => {
    const transport = { strangersPerSecond: 0.001, strangersBurst: 1 };
    const { us, peer, pass } = await scene(t, { policy: STRICT, transport });
    us.on('invite', (session) => session.accept(SDP));
    peer.request({ method: 'INVITE', body: SDP });
    await pass(5);
    const { toTag } = peer.last('200 INVITE');
    peer.request({ method: 'ACK', toTag });
    peer.request({ method: 'OPTIONS', cseq: 2, toTag });
    peer.request({ method: 'INFO', cseq: 3, toTag });
    peer.request({ method: 'BYE', cseq: 4, toTag });
    await pass(5);
    t.same(peer.heard.slice(1), ['200 OPTIONS', '200 INFO', '200 BYE']);
  });

  t.test('get one answer to what cannot be read, and none to a response or an ACK', async (t) => {
    const { world, us, peer, pass } = await scene(t, { policy: STRICT });
    const other = await world.peer('10.0.0.3');
    const tail = '\r\nVia: SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKx\r\nCSeq: 1\r\n\r\n';
    peer.raw(`INVITE sip:a@10.0.0.1 SIP/2.0${tail}`);
    peer.raw(`ACK sip:a@10.0.0.1 SIP/2.0${tail}`);
    peer.raw(`SIP/2.0 200 OK${tail}`);
    other.raw('\x16\x03\x01\x02');
    peer.raw('\r\n\r\n');
    peer.raw('');
    await pass(40_000);
    t.equal(us.counts.malformed, 3, 'the ACK is not even read');
    t.same(
      peer.texts.map((text) => text.slice(0, 12)),
      ['SIP/2.0 400 '],
    );
    t.equal(us.counts.deadlines, 0);
  });

  t.test('a flood of calls that policy refuses makes no state and little traffic', async (t) => {
    const { world, us, peer, pass } = await scene(t, {
      policy: { ...STRICT, admit: () => 'SIP_FORBIDDEN' },
      transport: { strangersPerSecond: 1e6, strangersBurst: 1e6 },
    });
    for (let i = 0; i < 2000; i += 1) {
      peer.request({ method: 'INVITE', callId: `flood-${i}`, body: SDP });
    }
    await pass(5);
    t.equal(us.counts.serverTransactions, 0);
    t.equal(us.counts.deadlines, 0);
    const sum = (from: string): number =>
      world.network.packets
        .filter((packet) => packet.from.startsWith(from))
        .reduce((bytes, { text }) => bytes + text.length, 0);
    t.ok(sum('10.0.0.1:') < sum('10.0.0.2:'), 'fewer bytes out than in');
  });
});

t.test('streams', async (t) => {
  t.test('any cut of the bytes gives the same messages; CRLF CRLF gets a pong', async (t) => {
    const { world, pass } = await scene(t);
    const wire = new Wire(world);
    await pass(10);
    for (let i = 0; i < 20; i += 1) wire.socket.write(options() + options());
    await pass(100);
    t.equal(wire.statuses.length, 40);
    wire.received = '';
    wire.socket.write('\r\n\r\n');
    await pass(10);
    t.equal(wire.received, '\r\n');
    t.notOk(wire.isClosed);
  });

  t.test('a message has 10 s from its first byte, however it drips', async (t) => {
    const { world, us, pass } = await scene(t);
    const wire = new Wire(world);
    const silent = new Wire(world);
    await pass(1000);
    wire.socket.write(options());
    await pass(60_000);
    t.notOk(wire.isClosed, 'a peer that has spoken may be silent');
    t.ok(silent.isClosed, 'one that never spoke may not');
    for (const byte of options().slice(0, 12)) {
      wire.socket.write(byte);
      await pass(1000);
    }
    t.ok(wire.isClosed);
    t.equal(us.counts.connections, 0);
  });

  t.test('an idle connection is closed', async (t) => {
    const { world, pass } = await scene(t, {
      transport: { connection: { ...DEFAULT_CONNECTION, idleTimeoutMs: 30_000 } },
    });
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(options());
    await pass(29_000);
    t.notOk(wire.isClosed);
    wire.socket.write('\r\n\r\n');
    await pass(29_000);
    t.notOk(wire.isClosed, 'a ping keeps it');
    await pass(2000);
    t.ok(wire.isClosed);
  });

  t.test('lost framing is answered once, then closed', async (t) => {
    const { world, us, pass } = await scene(t);
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(options().replace('Content-Length: 0', 'Content-Length: x') + options());
    await pass(100);
    t.same(wire.statuses, [400]);
    t.ok(wire.isClosed);
    await pass(2000);
    t.equal(us.counts.connections, 0);
    t.equal(us.counts.deadlines, 0);
  });

  t.test('connections are capped by source and in all', async (t) => {
    const { world, us, pass } = await scene(t, {
      policy: STRICT,
      transport: { connectionsPerSourceMax: 3, connectionsMax: 5, connectionsPerSecondMax: 100 },
    });
    const near = Array.from({ length: 6 }, () => new Wire(world));
    await pass(10);
    const far = Array.from({ length: 6 }, () => new Wire(world, '10.0.0.3'));
    await pass(10);
    t.equal(near.filter(({ isClosed }) => !isClosed).length, 3);
    t.equal(far.filter(({ isClosed }) => !isClosed).length, 2);
    t.equal(us.counts.refusedConnections, 7);
    near[0]?.socket.destroy();
    await pass(10);
    const next = new Wire(world);
    await pass(10);
    t.notOk(next.isClosed, 'a place that is free again is given again');
    t.equal(DEFAULT_TRANSPORT.connectionsPerSourceMax, 100);
  });

  t.test('new connections of one source are limited in rate', async (t) => {
    const transport = { connectionsPerSecondMax: 5 };
    const { world, pass } = await scene(t, { policy: STRICT, transport });
    const wires = Array.from({ length: 20 }, () => new Wire(world));
    await pass(10);
    t.equal(wires.filter(({ isClosed }) => !isClosed).length, 5);
  });

  t.test('a call uses one connection, both ways', async (t) => {
    const { world, us, pass } = await scene(t);
    const them = await world.endpoint('10.0.0.3');
    const calls: Witness[] = [];
    them.on('invite', (session) => {
      calls.push(new Witness(session));
      session.accept(SDP);
    });
    const uri = 'sip:them@10.0.0.3;transport=tcp';
    const call = new Witness(us.invite({ uri, from: { uri: 'sip:us@10.0.0.1' }, sdp: SDP }));
    await pass(100);
    t.same(call.events, ['answered']);
    calls[0]?.session.hangup();
    await pass(100);
    t.match(call.events, ['answered', 'ended remote CALL_COMPLETED 200']);
    t.equal(us.counts.connections, 1);
    t.equal(them.counts.connections, 1);
  });

  t.test('a refused connection ends the call at once', async (t) => {
    const { us, pass } = await scene(t);
    const uri = 'sip:them@10.0.0.2;transport=tcp';
    const call = new Witness(us.invite({ uri, from: { uri: 'sip:us@10.0.0.1' }, sdp: SDP }));
    await pass(100);
    t.same(call.events, ['ended transport SIP_TRANSPORT 503']);
    t.equal(us.counts.sessions, 0);
    t.equal(us.counts.deadlines, 0);
  });

  t.test('the answer to a call whose connection is gone goes to the port in Via', async (t) => {
    const { world, us, pass } = await scene(t);
    const them = await world.endpoint('10.0.0.2', {
      listen: [{ transport: 'tcp', address: '10.0.0.2', port: 5062 }],
    });
    let answer = (): void => {};
    us.on('invite', (session) => {
      answer = () => session.accept(SDP);
    });
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(options(`Contact: <sip:peer@10.0.0.2>\r\n`).replaceAll('OPTIONS', 'INVITE'));
    await pass(10);
    wire.socket.destroy();
    await pass(10);
    answer();
    await pass(10);
    const last = world.network.packets.filter(({ text }) => text.startsWith('SIP/2.0 200')).at(0);
    t.equal(last?.to, '10.0.0.2:5062');
    t.equal(them.counts.connections, 1);
  });

  t.test('a peer that does not read is cut off', async (t) => {
    const { world, us, pass } = await scene(t, {
      transport: { connection: { ...DEFAULT_CONNECTION, sendQueueBytesMax: 300 } },
    });
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(options());
    await pass(10);
    t.ok(wire.isClosed, 'one answer is larger than its queue may be');
    t.equal(us.counts.connections, 0);
  });
});

t.test(
  'trace tells every message, which way it went, and whether it was a repetition',
  async (t) => {
    const { us, peer, pass } = await scene(t);
    const seen: TraceMessage[] = [];
    peer.request({ method: 'OPTIONS' });
    await pass(5);
    us.on('trace', (message) => seen.push(message));
    us.on('invite', (session) => session.accept(SDP));
    peer.request({ method: 'INVITE', branch: 'z9hG4bKt', body: SDP });
    await pass(5);
    peer.request({ method: 'INVITE', branch: 'z9hG4bKt', body: SDP });
    await pass(600);
    peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag });
    peer.raw('INVITE sip:a@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2\r\nCSeq: 1\r\n\r\n');
    await pass(5);

    const told = seen.map(({ direction, firstLine, retransmission }) => {
      return `${direction} ${firstLine}${retransmission ? ' again' : ''}`;
    });
    t.same(told, [
      'in INVITE sip:us@10.0.0.1 SIP/2.0',
      'out SIP/2.0 200 OK',
      'in INVITE sip:us@10.0.0.1 SIP/2.0 again',
      'out SIP/2.0 200 OK again',
      'in ACK sip:us@10.0.0.1 SIP/2.0',
      'out SIP/2.0 400 Bad Request',
    ]);
    t.match(seen[0], {
      callId: 'call-1',
      peer: { transport: 'udp', address: '10.0.0.2', port: 5060 },
    });
    t.ok(seen.every(({ bytes }) => bytes > 50));
  },
);

t.test('a listener of ours that throws hurts its own call only', async (t) => {
  const { us, peer, pass } = await scene(t);
  us.on('invite', (session) => {
    if (session.callId === 'bad') throw new Error('application fault');
    session.accept(SDP);
  });
  peer.request({ method: 'INVITE', callId: 'bad', body: SDP });
  peer.request({ method: 'INVITE', callId: 'good', body: SDP });
  await pass(5);
  t.equal(peer.count('200 INVITE'), 1);
});

t.test('nothing is sent where policy forbids it', async (t) => {
  const allowAddress = (address: string): boolean => address.startsWith('10.0.0.');
  const { world, us, peer, pass } = await scene(t, { policy: { allowAddress } });
  us.on('invite', (session) => session.accept(SDP));
  peer.raw(
    `INVITE sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKp\r\n` +
      `Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:us@10.0.0.1>\r\nCall-ID: p\r\n` +
      `CSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.7>\r\nContent-Length: 0\r\n\r\n`,
  );
  const uri = 'sip:them@192.0.2.1';
  const from = { uri: 'sip:us@10.0.0.1' };
  const call = new Witness(us.invite({ uri, from, sdp: SDP }));
  const target = { transport: 'udp', address: '192.0.2.2', port: 5060 } as const;
  const trunk = new Witness(us.invite({ uri, from, sdp: SDP, target }));
  await pass(33_000);
  // Nobody acknowledged the answer, so the call ends with BYE: to where the INVITE came from.
  peer.respond(peer.last('BYE'), 200);
  await pass(6000);

  t.equal(call.end?.code, 'SIP_TRANSPORT');
  t.equal(trunk.end?.code, 'SIP_TRANSPORT');
  t.same(
    world.network.packets.filter(({ to }) => to.startsWith('192.')),
    [],
  );
  t.equal(us.counts.sessions, 0);
});

t.test('on real sockets', async (t) => {
  const make = async (t: Test, address: string, port = 0): Promise<Endpoint> => {
    const endpoint = new Endpoint({
      clock: realClock,
      log: silentLog,
      metrics: new Metrics(),
      userAgent: 'tandem',
      listen: [
        { transport: 'udp', address, port },
        { transport: 'tcp', address, port },
      ],
    });
    t.teardown(() => endpoint.close());
    await endpoint.start();
    return endpoint;
  };

  for (const address of ['127.0.0.1', '::1']) {
    for (const transport of ['udp', 'tcp'] as const) {
      t.test(`a call over ${transport} and ${address}`, async (t) => {
        const us = await make(t, address);
        const them = await make(t, address);
        const port = them.locals.find((local) => local.transport === transport)?.port;
        const host = address.includes(':') ? `[${address}]` : address;
        them.on('invite', (session) => {
          session.progress(180);
          session.accept(SDP);
          session.on('acknowledged', () => session.hangup());
        });

        const uri = `sip:them@${host}:${port};transport=${transport}`;
        const session = us.invite({ uri, from: { uri: `sip:us@${host}` }, sdp: SDP });
        const call = new Witness(session);
        await new Promise((resolve) => session.once('ended', resolve));

        t.same(call.events, ['180', 'answered', 'ended remote CALL_COMPLETED 200']);
        t.equal(session.source.port, port);
      });
    }
  }

  t.test('a port that is taken is a readable error, and nothing stays open', async (t) => {
    const us = await make(t, '127.0.0.1');
    const taken = us.locals.find(({ transport }) => transport === 'tcp')?.port ?? 0;
    const error = await make(t, '127.0.0.1', taken).catch((thrown) => thrown);
    t.equal(error.code, 'LISTEN_FAILED');
    t.match(error.message, /tcp:\/\/127\.0\.0\.1:\d+ .*sip\.listen.*EADDRINUSE/);
    await us.close();
    await us.close();
  });
});

t.test('resolver', async (t) => {
  const setup = (
    lookup: (host: string) => Promise<string[]>,
    limits = {},
  ): { clock: SimClock; resolver: Resolver; asked: string[] } => {
    const clock = new SimClock({ seed: SEED });
    const asked: string[] = [];
    const counted = (host: string): Promise<string[]> => {
      asked.push(host);
      return lookup(host);
    };
    return { clock, asked, resolver: new Resolver({ clock, lookup: counted, limits }) };
  };
  const uri = (text: string): ReturnType<typeof parseUri> => parseUri(text);

  t.test('an address needs no lookup; transport and port come from the URI', async (t) => {
    const { asked, resolver } = setup(async () => []);
    t.same(resolver.literal(uri('sip:a@192.0.2.1')), [
      { transport: 'udp', address: '192.0.2.1', port: 5060, eitherTransport: true },
    ]);
    t.same(await resolver.resolve(uri('sip:[2001:db8::1]:5070;transport=TCP')), [
      { transport: 'tcp', address: '2001:db8::1', port: 5070, eitherTransport: false },
    ]);
    t.equal(resolver.literal(uri('sip:a@192.0.2.1;maddr=192.0.2.9'))?.[0]?.address, '192.0.2.9');
    t.equal(resolver.literal(uri('sip:[::ffff:c000:201]'))?.[0]?.address, '192.0.2.1');
    t.throws(() => resolver.literal(uri('sip:[::ffff:224.0.0.1]')), { code: 'SIP_TRANSPORT' });
    t.throws(() => resolver.literal(uri('sip:192.0.2.1;transport=sctp')), {
      code: 'SIP_TRANSPORT',
    });
    t.same(asked, []);
  });

  t.test('asks once for many, remembers, and keeps the last good answer', async (t) => {
    let isUp = true;
    const { clock, asked, resolver } = setup(async () => {
      if (!isUp) throw new Error('SERVFAIL');
      return ['192.0.2.1', 'not an address'];
    });
    const target = uri('sip:a@Example.org');
    await Promise.all([resolver.resolve(target), resolver.resolve(target)]);
    await resolver.resolve(target);
    t.same(asked, ['example.org']);

    isUp = false;
    await clock.advance(61_000);
    t.equal((await resolver.resolve(target))[0]?.address, '192.0.2.1');
    t.equal(asked.length, 2);
    await clock.advance(86_400_000);
    await t.rejects(resolver.resolve(target), { code: 'SIP_TRANSPORT' });
    await t.rejects(resolver.resolve(target), { code: 'SIP_TRANSPORT' });
    t.equal(asked.length, 3, 'a failure is remembered too');
  });

  t.test('does not wait for ever, and remembers no more names than it may', async (t) => {
    const { clock, resolver } = setup(() => new Promise(() => {}));
    const slow = t.rejects(resolver.resolve(uri('sip:a@example.org')), { code: 'SIP_TRANSPORT' });
    await clock.advance(2100);
    await slow;

    const small = setup(async () => ['192.0.2.1'], { entriesMax: 2 });
    for (const name of ['a', 'b', 'c', 'a']) await small.resolver.resolve(uri(`sip:${name}.org`));
    t.same(small.asked, ['a.org', 'b.org', 'c.org', 'a.org']);
  });

  t.test('knows what is one host, and what is private', async (t) => {
    for (const address of ['192.0.2.1', '127.0.0.1', '2001:db8::1', '::1'])
      t.ok(isUnicast(address));
    for (const address of ['0.0.0.0', '224.0.0.1', '255.255.255.255', '::', 'ff02::1', 'x']) {
      t.notOk(isUnicast(address), address);
    }
    for (const address of [
      '10.1.1.1',
      '172.31.0.1',
      '192.168.1.1',
      '100.64.0.1',
      'fd00::1',
      '::1',
    ]) {
      t.ok(isPrivate(address), address);
    }
    for (const address of ['172.32.0.1', '192.0.2.1', '100.128.0.1', '2001:db8::1']) {
      t.notOk(isPrivate(address), address);
    }
  });
});
