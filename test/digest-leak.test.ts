/**
 * Digest leak: the password of a trunk, in any form, goes to nobody but the trunk. Whoever else
 * answers with a challenge that names the trunk's realm gets nothing to search for it in.
 */
import t, { type Test } from 'tap';
import { Secret } from '../src/core/log.ts';
import type { HeaderField } from '../src/sip/message.ts';
import { type ScriptPeer, SDP } from './support/script-peer.ts';
import { reoffered, SipWorld, Witness } from './support/sip-world.ts';

const REALM = 'carrier.example';
const TRUNK = '10.0.0.2';
const CALL = {
  uri: `sip:them@${TRUNK};transport=udp`,
  from: { uri: 'sip:us@10.0.0.1' },
  sdp: SDP,
  credentials: { username: 'tandem', password: new Secret('s3cret'), realm: REALM },
};
const CHALLENGES = 1000;

/** A challenge of either kind, as the trunk itself would make it. */
function challenge(count: number, realm = REALM): { status: number; headers: HeaderField[] } {
  const isProxy = count % 2 === 1;
  const value = `Digest realm="${realm}", nonce="n${count}", qop="auth", algorithm=MD5`;
  const name = isProxy ? 'Proxy-Authenticate' : 'WWW-Authenticate';
  return { status: isProxy ? 407 : 401, headers: [[name, value]] };
}

async function scene(t: Test) {
  const world = new SipWorld();
  const us = await world.endpoint('10.0.0.1');
  const trunk = await world.peer(TRUNK);
  t.teardown(() => world.close());
  /** Who was sent an answer to a challenge. */
  const told = (): string[] => {
    const leaks = world.network.packets.filter(({ from, text }) => {
      return from.startsWith('10.0.0.1') && /^(?:proxy-)?authorization/im.test(text);
    });
    return leaks.map(({ to }) => to.split(/[ :]/).find((part) => part.startsWith('10.')) ?? to);
  };
  return { world, us, trunk, told, pass: (ms: number) => world.clock.advance(ms) };
}

/** Answers the last request of that kind in the trunk's name, from elsewhere. */
function forge(thief: ScriptPeer, trunk: ScriptPeer, what: string, count: number): void {
  const { status, headers } = challenge(count);
  thief.respond(trunk.last(what), status, { headers, toTag: `thief${count}` });
}

t.test(
  'digest leak: 1,000 challenges to an INVITE, from peers that are not the trunk',
  async (t) => {
    const { world, us, trunk, told, pass } = await scene(t);
    const thieves = await Promise.all(
      Array.from({ length: 20 }, (_, i) => world.peer(`10.6.6.${i + 1}`)),
    );
    for (let count = 0; count < CHALLENGES; ) {
      const call = new Witness(us.invite(CALL));
      await pass(5);
      // With the very branch, so that it is the answer to our request in all but its source.
      for (const thief of thieves) forge(thief, trunk, 'INVITE', count++);
      await pass(5);
      call.session.hangup();
      await pass(5);
      trunk.clear();
    }
    t.same(told(), []);
    await pass(64_000);
  },
);

t.test('digest leak: within a call, wherever the callee leads its requests', async (t) => {
  const { world, us, trunk, told, pass } = await scene(t);
  const thief = await world.peer('10.6.6.6');
  for (let count = 0; count < CHALLENGES / 10; count += 4) {
    const call = us.invite(CALL);
    await pass(5);
    const { status, headers } = challenge(count);
    trunk.respond(trunk.last('INVITE'), status, { headers });
    await pass(5);
    const lead: HeaderField[] = [['Contact', '<sip:thief@10.6.6.6>']];
    trunk.respond(trunk.last('INVITE'), 200, { body: SDP, headers: lead });
    await pass(5);
    const again = reoffered(call, SDP).catch(() => 'refused');
    await pass(5);
    forge(thief, thief, 'INVITE', count + 1);
    await pass(5);
    t.equal(await again, 'refused');
    call.hangup();
    await pass(5);
    for (const more of [2, 3]) forge(thief, thief, 'BYE', count + more);
    await pass(5);
    trunk.clear();
    thief.clear();
  }
  const heard = new Set(told());
  t.same([...heard], [TRUNK], 'the trunk’s own challenge is answered, and no other');
  t.notMatch(thief.texts.join(), /authorization/i);
});

t.test('digest leak: the trunk itself is answered in its own realm, and once', async (t) => {
  const { us, trunk, told, pass } = await scene(t);
  const call = new Witness(us.invite(CALL));
  await pass(5);
  const other = challenge(0, 'elsewhere.example');
  trunk.respond(trunk.last('INVITE'), other.status, { headers: other.headers });
  await pass(5);
  t.equal(call.end?.status, 401);
  t.same(told(), [], 'another realm is nothing we have a password for');

  new Witness(us.invite(CALL));
  await pass(5);
  for (let count = 0; count < 5; count += 1) {
    const { status, headers } = challenge(2 * count);
    trunk.respond(trunk.last('INVITE'), status, { headers });
    await pass(5);
  }
  t.same(told(), [TRUNK]);
});

t.test('digest leak: challenges to nothing that we asked', async (t) => {
  const { world, us, told, pass } = await scene(t);
  const thief = await world.peer('10.6.6.6');
  const call = us.invite(CALL);
  await pass(5);
  for (let count = 0; count < CHALLENGES; count += 1) {
    const { status, headers } = challenge(count);
    const [[name, value] = ['', '']] = headers;
    thief.raw(
      `SIP/2.0 ${status} No\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK${count}\r\n` +
        `From: <sip:us@10.0.0.1>;tag=${call.id}\r\nTo: <sip:them@${TRUNK}>;tag=x\r\n` +
        `Call-ID: ${call.callId}\r\nCSeq: 1 INVITE\r\n${name}: ${value}\r\nContent-Length: 0\r\n\r\n`,
    );
  }
  await pass(50);
  t.same(told(), []);
});
