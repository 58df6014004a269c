/**
 * The next server of a name takes over within the transaction (RFC 3263 §4.3): INVITE and what
 * follows it in the dialog, ACK too. On the simulated network, with a zone of our own.
 */
import t, { type Test } from 'tap';
import type { Endpoint } from '../src/sip/endpoint.ts';
import { Resolver } from '../src/sip/resolver.ts';
import { SDP } from './support/script-peer.ts';
import { reoffered, SipWorld, Witness } from './support/sip-world.ts';
import { type Zone, ZoneDns } from './support/zone.ts';

const SERVERS: Zone = {
  srv: {
    '_sip._udp.pbx.example': ['1 0 5060 10.0.0.2', '2 0 5060 10.0.0.3', '3 0 5060 10.0.0.4'],
    '_sip._tcp.pbx.example': ['1 0 5060 10.0.0.2', '2 0 5060 10.0.0.5'],
    '_sip._tcp.off.example': ['1 0 5060 10.0.0.6', '2 0 5060 10.0.0.7'],
  },
};
const CALL = {
  uri: 'sip:them@pbx.example;transport=udp',
  from: { uri: 'sip:us@10.0.0.1' },
  sdp: SDP,
};

async function scene(t: Test, zone = SERVERS): Promise<{ world: SipWorld; us: Endpoint }> {
  const world = new SipWorld();
  t.teardown(() => world.close());
  const dns = new ZoneDns(zone);
  const us = await world.endpoint('10.0.0.1', {
    resolver: new Resolver({ clock: world.clock, dns }),
  });
  return { world, us };
}

t.test('silence, then 503, then an answer: one INVITE that goes three ways', async (t) => {
  const { world, us } = await scene(t);
  const dead = await world.peer('10.0.0.2');
  const busy = await world.peer('10.0.0.3');
  const good = await world.peer('10.0.0.4');
  const busyFields: [string, string][] = [['Retry-After', '120']];

  const call = new Witness(us.invite(CALL));
  await world.clock.advance(32_100);
  busy.respond(busy.last('INVITE'), 503, { headers: busyFields });
  await world.clock.advance(10);
  good.respond(good.last('INVITE'), 200, { body: SDP });
  await world.clock.advance(10);

  t.same(call.events, ['answered']);
  const sent = [dead, busy, good].map((peer) => peer.last('INVITE'));
  const same = new Set(sent.map(({ callId, fromTag, cseq }) => `${callId} ${fromTag} ${cseq}`));
  t.equal(same.size, 1, 'who gets two of them can tell');
  t.equal(new Set(sent.map(({ via }) => via.branch)).size, 3);

  const next = new Witness(us.invite(CALL));
  await world.clock.advance(10);
  t.equal(good.count('INVITE'), 2, 'the next call waits for nobody');
  good.respond(good.last('INVITE'), 486);
  await world.clock.advance(10);
  t.equal(next.end?.status, 486);

  const before = busy.count('INVITE');
  await world.clock.advance(31_000);
  const heard = dead.count('INVITE');
  const later = us.invite(CALL);
  await world.clock.advance(32_100);
  t.ok(dead.count('INVITE') > heard, 'what was silent gets another chance');
  t.equal(busy.count('INVITE'), before, 'who said when to come back is heeded');
  t.equal(good.count('INVITE'), 3);
  good.respond(good.last('INVITE'), 486);
  later.hangup();
  call.session.hangup();
  await world.clock.advance(10);
  good.respond(good.last('BYE'), 200);
  await world.clock.advance(70_000);
  t.equal(us.counts.sessions, 0);
  t.equal(us.counts.deadlines, 0);
});

t.test('given up for its silence, a server is tried last', async (t) => {
  const { world, us } = await scene(t);
  const dead = await world.peer('10.0.0.2');
  const good = await world.peer('10.0.0.3');

  us.invite(CALL).hangup();
  const quick = us.invite(CALL);
  await world.clock.advance(100);
  quick.hangup();
  const still = us.invite(CALL);
  await world.clock.advance(100);
  t.equal(good.count('INVITE'), 0, 'a quick hang-up says nothing of it');
  await world.clock.advance(500);
  still.hangup();
  us.invite(CALL);
  await world.clock.advance(100);
  t.equal(good.count('INVITE'), 1);
  t.ok(dead.count('INVITE') >= 2);
});

t.test('a connection refused leads on at once, and all refused is an end', async (t) => {
  const { world, us } = await scene(t);
  const them = await world.endpoint('10.0.0.5');
  const sources: string[] = [];
  them.on('invite', (session) => {
    sources.push(session.source.transport);
    session.reject(486);
  });

  const uri = 'sip:them@pbx.example;transport=tcp';
  const call = new Witness(us.invite({ ...CALL, uri }));
  await world.clock.advance(100);
  t.equal(call.end?.status, 486);
  t.same(sources, ['tcp']);

  const none = new Witness(us.invite({ ...CALL, uri: uri.replace('pbx', 'off') }));
  await world.clock.advance(100);
  t.equal(none.end?.code, 'SIP_TRANSPORT');
});

t.test('in the dialog: BYE, re-INVITE and ACK find the next server of the Contact', async (t) => {
  const contact: [string, string] = ['Contact', '<sip:them@pbx.example;transport=udp>'];
  const answered = async (t: Test, zone = SERVERS, fields = contact) => {
    const { world, us } = await scene(t, zone);
    const near = await world.peer('10.0.0.9');
    const call = new Witness(us.invite({ ...CALL, uri: 'sip:them@10.0.0.9' }));
    await world.clock.advance(10);
    near.respond(near.last('INVITE'), 200, { body: SDP, headers: [fields] });
    await world.clock.advance(10);
    t.same(call.events, ['answered']);
    return { world, us, call };
  };

  t.test('BYE after 503 and after silence', async (t) => {
    const { world, us, call } = await answered(t);
    const busy = await world.peer('10.0.0.2');
    const dead = await world.peer('10.0.0.3');
    const good = await world.peer('10.0.0.4');

    call.session.hangup();
    await world.clock.advance(10);
    busy.respond(busy.last('BYE'), 503);
    await world.clock.advance(33_000);
    good.respond(good.last('BYE'), 200);
    await world.clock.advance(70_000);

    const byes = [busy, dead, good].map((peer) => peer.last('BYE'));
    t.equal(new Set(byes.map(({ cseq, callId }) => `${cseq} ${callId}`)).size, 1);
    t.equal(new Set(byes.map(({ via }) => via.branch)).size, 3);
    t.equal(us.counts.sessions, 0);
    t.equal(us.counts.deadlines, 0);
  });

  t.test('three are asked and no more', async (t) => {
    const srv = {
      '_sip._udp.pbx.example': [2, 3, 4, 5, 6].map((n) => `${n} 0 5060 10.0.0.${n}`),
    };
    const { world, us, call } = await answered(t, { srv });
    const peers = await Promise.all([2, 3, 4, 5, 6].map((n) => world.peer(`10.0.0.${n}`)));

    call.session.hangup();
    await world.clock.advance(300_000);

    t.same(
      peers.map((peer) => peer.count('BYE') > 0),
      [true, true, true, false, false],
    );
    t.equal(us.counts.sessions, 0);
  });

  t.test('re-INVITE', async (t) => {
    const { world, call } = await answered(t);
    const busy = await world.peer('10.0.0.2');
    const good = await world.peer('10.0.0.3');

    const changed = reoffered(call.session, SDP);
    await world.clock.advance(10);
    busy.respond(busy.last('INVITE'), 503);
    await world.clock.advance(10);
    good.respond(good.last('INVITE'), 200, { body: SDP });
    await world.clock.advance(10);

    t.equal((await changed).sdp, SDP);
    t.equal(good.last('INVITE').cseq, busy.last('INVITE').cseq);
    t.not(good.last('INVITE').via.branch, busy.last('INVITE').via.branch);
  });

  t.test('ACK, where a connection cannot be had', async (t) => {
    const tcp: [string, string] = ['Contact', '<sip:them@pbx.example;transport=tcp>'];
    const { world, us } = await scene(t);
    await world.endpoint('10.0.0.5');
    const near = await world.peer('10.0.0.9');
    us.invite({ ...CALL, uri: 'sip:them@10.0.0.9' });
    await world.clock.advance(10);
    near.respond(near.last('INVITE'), 200, { body: SDP, headers: [tcp] });
    await world.clock.advance(100);

    const acks = world.network.packets.filter(({ text }) => text.startsWith('ACK '));
    t.same(
      acks.map(({ to }) => to),
      ['10.0.0.5:5060'],
    );
  });
});

t.test('addresses of a family that we do not speak are passed over', async (t) => {
  const zone = { a: { 'h.example': ['10.0.0.2'] }, aaaa: { 'h.example': ['2001:db8::2'] } };
  const { world, us } = await scene(t, zone);
  const good = await world.peer('10.0.0.2');

  us.invite({ ...CALL, uri: 'sip:them@h.example:5060' });
  await world.clock.advance(10);

  t.equal(good.count('INVITE'), 1);
});
