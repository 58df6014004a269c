/**
 * What an attacker on the network gets out of the endpoint: nobody's password, no echo louder than
 * the shout, no place held for nothing, no packet sent where policy forbids it, no control
 * character in a log.
 */
import t, { type Test } from 'tap';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DEFAULT_CONNECTION } from '../src/sip/connection.ts';
import type { Endpoint, OutgoingInvite } from '../src/sip/endpoint.ts';
import type { HeaderField } from '../src/sip/message.ts';
import type { TraceMessage } from '../src/sip/peer.ts';
import { Resolver } from '../src/sip/resolver.ts';
import type { Session } from '../src/sip/session.ts';
import type { StreamSocket } from '../src/sip/sockets.ts';
import { type ScriptPeer, SDP } from './support/script-peer.ts';
import { reoffered, SipWorld, Witness } from './support/sip-world.ts';

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

const STRICT = { trusts: (): boolean => false };
const CALL: OutgoingInvite = {
  uri: 'sip:them@10.0.0.2;transport=udp',
  from: { uri: 'sip:us@10.0.0.1' },
  sdp: SDP,
};

function digestChallenge(realm: string): { headers: HeaderField[] } {
  return { headers: [['WWW-Authenticate', `Digest realm="${realm}", nonce="n1", qop="auth"`]] };
}

t.test('whose password it is', async (t) => {
  const plain = { username: 'alice', password: new Secret('s3cret') };
  const pinned = { ...plain, realm: 'trunk' };

  /** A call that `peer` answers; its Contact leads to the thief. */
  const hijacked = async (
    t: Test,
    credentials: typeof plain,
    isChallenged: boolean,
  ): Promise<Scene & { call: Session; thief: ScriptPeer }> => {
    const stage = await scene(t);
    const thief = await stage.world.peer('10.6.6.6');
    const call = stage.us.invite({ ...CALL, credentials });
    await stage.pass(10);
    if (isChallenged) {
      stage.peer.respond(stage.peer.last('INVITE'), 401, digestChallenge('trunk'));
      await stage.pass(10);
      t.match(stage.peer.last('INVITE').header('Authorization'), /realm="trunk"/);
    }
    const headers: HeaderField[] = [['Contact', '<sip:thief@10.6.6.6>']];
    stage.peer.respond(stage.peer.last('INVITE'), 200, { body: SDP, headers });
    await stage.pass(10);
    t.same(thief.heard, ['ACK']);
    return { ...stage, call, thief };
  };

  for (const credentials of [plain, pinned]) {
    const kind = 'realm' in credentials ? 'with a realm' : 'without a realm';
    t.test(`BYE and re-INVITE tell it to no host that a Contact chose, ${kind}`, async (t) => {
      const { pass, call, thief } = await hijacked(t, credentials, true);
      const ours = reoffered(call, SDP).catch(() => 'refused');
      await pass(10);
      thief.respond(thief.last('INVITE'), 401, digestChallenge('trunk'));
      await pass(10);
      t.equal(await ours, 'refused');
      call.hangup();
      await pass(10);
      thief.respond(thief.last('BYE'), 401, digestChallenge('trunk'));
      await pass(10);
      t.same(thief.heard, ['ACK', 'INVITE', 'ACK', 'BYE']);
      t.notMatch(thief.texts.join(), /Authorization/);
    });
  }

  t.test('a call that was not challenged is not challenged within', async (t) => {
    const { us, peer, pass } = await scene(t);
    const call = us.invite({ ...CALL, credentials: plain });
    await pass(10);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    call.hangup();
    await pass(10);
    peer.respond(peer.last('BYE'), 401, digestChallenge('any'));
    await pass(10);
    t.same(peer.heard, ['INVITE', 'ACK', 'BYE']);
  });

  t.test('the realm of the INVITE is the realm of the call, after a restart too', async (t) => {
    const { world, us, peer, pass } = await scene(t);
    const call = us.invite({ ...CALL, credentials: plain });
    await pass(10);
    peer.respond(peer.last('INVITE'), 401, digestChallenge('trunk'));
    await pass(10);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    const record = JSON.parse(JSON.stringify(call.record()));
    await us.close();
    t.notMatch(JSON.stringify(record), /s3cret/);

    const again = await world.endpoint('10.0.0.1');
    const hangUp = async (record: Parameters<Endpoint['restore']>[0], realm: string) => {
      peer.clear();
      again.restore(record, { credentials: plain }).hangup();
      await pass(10);
      peer.respond(peer.last('BYE'), 401, digestChallenge(realm));
      await pass(10);
      return peer.count('BYE');
    };
    t.equal(await hangUp(record, 'elsewhere'), 1);
    t.equal(await hangUp(record, 'trunk'), 2);
    const { credentialScope: _, ...old } = record;
    t.equal(await hangUp(old, 'trunk'), 1, 'of a record without it nobody is asked');
  });
});

t.test('hops', async (t) => {
  t.test('an INVITE says as many as it is given, 70 when none', async (t) => {
    const { us, peer, pass } = await scene(t);
    for (const maxForwards of [undefined, 5, 0]) {
      us.invite({ ...CALL, ...(maxForwards === undefined ? {} : { maxForwards }) });
      await pass(5);
      t.equal(peer.last('INVITE').maxForwards, maxForwards ?? 70);
    }
    const call = new Witness(us.invite({ ...CALL, maxForwards: -1 }));
    await pass(5);
    t.same(call.events, ['ended transport SIP_TOO_MANY_HOPS 483']);
  });

  t.test('a call that goes in a circle ends', async (t) => {
    const { us, peer, pass } = await scene(t);
    const loop = { ...CALL, uri: 'sip:us@10.0.0.1' };
    us.on('invite', (session) => {
      const maxForwards = (session.request?.maxForwards ?? 70) - 1;
      const next = us.invite({ ...loop, maxForwards });
      next.on('ended', ({ status }) => session.reject(status));
    });
    peer.request({ method: 'INVITE', body: SDP });
    await pass(2000);
    t.match(peer.heard[0], '483 INVITE');
    await pass(40_000);
    t.equal(us.counts.sessions, 0);
  });
});

/** A scripted stream to our TCP listener. */
class Wire {
  readonly socket: StreamSocket;
  received = '';
  isClosed = false;

  constructor(world: SipWorld, address = '10.0.0.2') {
    this.socket = world.network.host(address).connect({ address: '10.0.0.1', port: 5060 });
    this.socket.listen({
      opened: () => {},
      data: (chunk) => {
        this.received += chunk.toString('latin1');
      },
      closed: () => {
        this.isClosed = true;
      },
    });
  }
}

function overTcp(method: string): string {
  return (
    `${method} sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.2:5062;branch=z9hG4bKw\r\n` +
    'Max-Forwards: 70\r\nFrom: <sip:peer@10.0.0.2>;tag=a\r\nTo: <sip:us@10.0.0.1>\r\n' +
    `Call-ID: w1\r\nCSeq: 1 ${method}\r\nContact: <sip:peer@10.0.0.2>\r\n` +
    'Content-Length: 0\r\n\r\n'
  );
}

t.test('connections that are held for nothing', async (t) => {
  t.test('pings are no message: who sends nothing else is closed in time', async (t) => {
    for (const policy of [STRICT, {}]) {
      const { world, us, pass } = await scene(t, { policy });
      const wire = new Wire(world);
      await pass(10);
      for (let i = 0; i < 12; i += 1) {
        wire.socket.write('\r\n\r\n');
        await pass(1000);
      }
      t.ok(wire.isClosed);
      t.equal(us.counts.connections, 0);
    }
  });

  t.test('a stranger may be idle for a minute, pings or not', async (t) => {
    const { world, pass } = await scene(t, { policy: STRICT });
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(overTcp('OPTIONS'));
    await pass(55_000);
    t.notOk(wire.isClosed);
    wire.socket.write('\r\n\r\n');
    await pass(6000);
    t.ok(wire.isClosed);
    t.equal(DEFAULT_CONNECTION.strangerIdleTimeoutMs, 60_000);
  });

  t.test('a stranger whose call was let in keeps the connection', async (t) => {
    const { world, us, pass } = await scene(t, { policy: STRICT });
    us.on('invite', (session) => session.accept(SDP));
    const wire = new Wire(world);
    await pass(10);
    wire.socket.write(overTcp('INVITE'));
    await pass(5);
    const toTag = /^To: .*;tag=(\w+)/m.exec(wire.received)?.[1];
    wire.socket.write(overTcp('ACK').replace('@10.0.0.1>\r\n', `@10.0.0.1>;tag=${toTag}\r\n`));
    await pass(600_000);
    t.notOk(wire.isClosed);
  });

  t.test('strangers cannot take the places of a trunk, nor a trunk all there are', async (t) => {
    const { world, us, pass } = await scene(t, {
      policy: { trusts: (address) => address === '10.0.0.3' },
      transport: {
        connectionsMax: 3,
        trustedConnectionsReserve: 2,
        connectionsPerSecondMax: 100,
      },
    });
    for (let i = 0; i < 5; i += 1) new Wire(world);
    await pass(10);
    t.equal(us.counts.connections, 3);
    const trunk = Array.from({ length: 4 }, () => new Wire(world, '10.0.0.3'));
    await pass(10);
    t.equal(trunk.filter(({ isClosed }) => !isClosed).length, 2);
  });
});

t.test('what a forged source is sent', async (t) => {
  const requests = (via: string): string[] => {
    const methods = ['OPTIONS', 'REGISTER', 'INVITE', 'FROB', 'BYE', 'CANCEL', 'SUBSCRIBE'];
    return methods.flatMap((method) =>
      ['', 'Require: a,b,c,d,e,f,g,h,i,j,k,l\r\n', 'Accept: text/plain\r\n'].map(
        (more) =>
          `${method} sip:a SIP/2.0\r\nv:SIP/2.0/UDP ${via};rport;branch=z9hG4bK${method}${more.length}` +
          `\r\nf:<sip:a>;tag=1\r\nt:sip:a\r\ni:${method}${more.length}\r\nCSeq:1 ${method}\r\n${more}\r\n`,
      ),
    );
  };
  const broken = [
    'X sip:a SIP/2.0\r\nv:SIP/2.0/UDP h\r\n\r\n',
    'OPTIONS sip:a SIP/2.0\r\nv:SIP/2.0/UDP h\r\nt:a\r\n\r\n',
  ];

  t.test('is never more than twice what came, and nothing about us', async (t) => {
    const admit = (): 'SIP_FORBIDDEN' => 'SIP_FORBIDDEN';
    const { us, peer, pass } = await scene(t, { policy: { ...STRICT, admit } });
    let answers = 0;
    for (const isDraining of [false, true]) {
      us.drain(isDraining);
      for (const text of [...requests('a'), ...requests('10.0.0.2'), ...broken]) {
        peer.clear();
        peer.raw(text);
        await pass(40_000);
        const bytes = peer.texts.reduce((sum, answer) => sum + answer.length, 0);
        t.ok(peer.texts.length <= 1);
        t.ok(bytes <= 2 * text.length, `${bytes} bytes for ${text.length}: ${text.slice(0, 10)}`);
        t.notMatch(peer.texts.join(), /^(?:Server|User-Agent|Allow|Accept|Supported)/m);
        answers += peer.texts.length;
      }
    }
    t.ok(answers > 60, `${answers} were answered all the same`);
  });

  t.test('who is trusted, or on a connection, gets the whole answer', async (t) => {
    const { peer, pass } = await scene(t);
    peer.request({ method: 'OPTIONS' });
    await pass(5);
    t.match(peer.last('200 OPTIONS').header('Allow'), /INVITE/);
    const { world, pass: passToo } = await scene(t, { policy: STRICT });
    const wire = new Wire(world);
    await passToo(10);
    wire.socket.write(overTcp('OPTIONS'));
    await passToo(10);
    t.match(wire.received, /^Allow: INVITE/m);
  });
});

t.test('the answers to CANCEL and to its INVITE have one To tag', async (t) => {
  const { us, peer, pass } = await scene(t);
  us.on('invite', (session) => session.progress(180));
  peer.request({ method: 'INVITE', branch: 'z9hG4bKc', body: SDP });
  await pass(5);
  peer.request({ method: 'CANCEL', branch: 'z9hG4bKc' });
  await pass(5);
  const tags = ['180 INVITE', '200 CANCEL', '487 INVITE'].map((what) => peer.last(what).toTag);
  t.equal(new Set(tags).size, 1);
  t.not(tags[0], '');
});

t.test('control characters reach no trace and no event', async (t) => {
  const { us, peer, pass } = await scene(t);
  const seen: TraceMessage[] = [];
  us.on('trace', (message) => seen.push(message));
  const call = us.invite(CALL);
  const reasons: string[] = [];
  call.on('ended', ({ reason }) => reasons.push(reason));
  await pass(10);
  peer.respond(peer.last('INVITE'), 404, { reason: 'No\x1b[2J\x07\x7f\x9bgone' });
  await pass(10);
  peer.request({ method: 'OPTIONS', callId: 'x' });
  await pass(10);
  t.equal(seen[1]?.firstLine, 'SIP/2.0 404 No?[2J???gone');
  t.same(reasons, ['No?[2J???gone']);
  t.notMatch(JSON.stringify(seen), /\\u00/);
});

t.test(
  'a large INVITE to an address that was resolved goes by TCP, to a given one by UDP',
  async (t) => {
    for (const eitherTransport of [true, false, undefined]) {
      const { world, us, pass } = await scene(t);
      const them = await world.endpoint('10.0.0.3');
      them.on('invite', (session) => session.accept(SDP));
      const where = { transport: 'udp', address: '10.0.0.3', port: 5060 } as const;
      const target = eitherTransport === undefined ? where : { ...where, eitherTransport };
      const headers: HeaderField[] = [['X-Long', 'x'.repeat(1300)]];
      const call = us.invite({ ...CALL, headers, target });
      await pass(100);
      t.equal(call.state, 'confirmed');
      t.equal(call.source.transport, eitherTransport === true ? 'tcp' : 'udp');
    }
  },
);

t.test('a Contact or a route that may not be reached', async (t) => {
  const allowAddress = (address: string): boolean => address.startsWith('10.0.0.');
  const refused: [name: string, field: HeaderField][] = [
    ['a Contact', ['Contact', '<sip:them@169.254.169.254>']],
    ['a Contact in other clothes', ['Contact', '<sip:them@[::ffff:169.254.169.254]>']],
    ['a Contact by name', ['Contact', '<sip:them@metadata.internal>']],
    ['a route', ['Record-Route', '<sip:192.168.7.7;lr>']],
    ['a multicast group', ['Contact', '<sip:them@224.0.0.1>']],
  ];
  const setup = async (t: Test): Promise<Scene> => {
    const world = new SipWorld();
    // A resolver of its own, as a gateway gives it, knows nothing of the endpoint's policy.
    const resolver = new Resolver({
      clock: world.clock,
      lookup: async () => ['169.254.169.254'],
    });
    const us = await world.endpoint('10.0.0.1', { policy: { allowAddress }, resolver });
    const peer = await world.peer('10.0.0.2');
    t.teardown(() => world.close());
    return { world, us, peer, pass: (ms) => world.clock.advance(ms) };
  };
  const strays = ({ world }: Scene): unknown[] =>
    world.network.packets.filter(({ to }) => !to.startsWith('10.0.0.'));

  for (const [name, field] of refused) {
    t.test(`${name}: ACK and BYE go to where the answer came from`, async (t) => {
      const stage = await setup(t);
      const { us, peer, pass } = stage;
      const call = us.invite(CALL);
      await pass(10);
      peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [field] });
      await pass(10);
      call.hangup();
      await pass(10);
      t.same(peer.heard, ['INVITE', 'ACK', 'BYE']);
      t.same(strays(stage), []);
    });

    t.test(`${name}: BYE and re-INVITE go to where the INVITE came from`, async (t) => {
      const stage = await setup(t);
      const { us, peer, pass } = stage;
      us.on('invite', (session) => {
        session.accept(SDP);
        session.on('acknowledged', () => void reoffered(session, SDP).then(() => session.hangup()));
      });
      peer.request({ method: 'INVITE', body: SDP, headers: [field] });
      await pass(10);
      peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag });
      await pass(10);
      peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [field] });
      await pass(10);
      t.same(peer.heard, ['200 INVITE', 'INVITE', 'ACK', 'BYE']);
      t.same(strays(stage), []);
    });
  }

  t.test('a call to a name that leads there fails, and sends nothing', async (t) => {
    const stage = await setup(t);
    const call = new Witness(stage.us.invite({ ...CALL, uri: 'sip:them@metadata.internal' }));
    await stage.pass(10);
    t.same(call.events, ['ended transport SIP_TRANSPORT 503']);
    t.same(stage.world.network.packets, []);
  });
});

t.test('100 comes after 200 ms, when nothing else did', async (t) => {
  const { us, peer, pass } = await scene(t);
  us.on('invite', (session) => {
    if (session.callId === 'quick') session.progress(180);
  });
  peer.request({ method: 'INVITE', callId: 'quick', body: SDP });
  peer.request({ method: 'INVITE', callId: 'slow', branch: 'z9hG4bKs', body: SDP });
  await pass(190);
  t.same(peer.heard, ['180 INVITE']);
  await pass(30);
  t.same(peer.heard, ['180 INVITE', '100 INVITE']);
  peer.request({ method: 'INVITE', callId: 'slow', branch: 'z9hG4bKs', body: SDP });
  await pass(5);
  t.equal(peer.count('100 INVITE'), 2, 'a repeated INVITE gets it again');
  await pass(59_000);
  t.equal(peer.heard.length, 3);
});

t.test('what was dropped is counted as something that only grows', async (t) => {
  const metrics = new Metrics();
  const { peer, pass } = await scene(t, {
    metrics,
    log: silentLog,
    policy: STRICT,
    transport: { strangersPerSecond: 1, strangersBurst: 1 },
  });
  peer.raw('INVITE sip:a SIP/2.0\r\n\r\n');
  for (let i = 0; i < 3; i += 1) peer.request({ method: 'OPTIONS' });
  await pass(5);
  const text = await metrics.text();
  t.match(text, /TYPE tandem_sip_malformed_total counter\ntandem_sip_malformed_total 1/);
  t.match(text, /TYPE tandem_sip_limited_total counter\ntandem_sip_limited_total 3/);
  t.match(text, 'tandem_sip_dropped_total{reason="answered"} 3');
});
