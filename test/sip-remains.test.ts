/**
 * The process that had an INVITE under way is gone, and another has its record: what the far end
 * sees. The record goes through JSON, as a journal writes it.
 */
import t, { type Test } from 'tap';
import { Secret } from '../src/core/log.ts';
import type { Endpoint } from '../src/sip/endpoint.ts';
import type { InviteRemains } from '../src/sip/invite-head.ts';
import type { SessionRecord } from '../src/sip/session.ts';
import { SDP } from './support/script-peer.ts';
import { type Call, calling, incoming, isEmpty } from './support/sip-scene.ts';

const T1_MS = 500;

/** As a journal has it. */
function written<T>(record: T | null): T {
  if (record === null) throw new Error('there is nothing to write');
  return JSON.parse(JSON.stringify(record));
}

/** Another endpoint in the place of the one of `call`, and what that one left. */
async function killed(call: Call): Promise<{ again: Endpoint; remains: InviteRemains }> {
  const remains = written(call.session.remains);
  const again = await successor(call);
  return { again, remains };
}

async function successor({ us, peer, world }: Call): Promise<Endpoint> {
  await us.close();
  peer.clear();
  return world.endpoint('10.0.0.1');
}

async function ringing(t: Test): Promise<Call> {
  const call = await calling(t, { headers: [['X-Secret', 'of an application']] });
  call.peer.respond(call.peer.last('INVITE'), 180);
  await call.pass(10);
  return call;
}

t.test('a caller who rings is refused with the tag he knows, until his ACK comes', async (t) => {
  const call = await incoming(t, { headers: [['Record-Route', '<sip:10.0.0.7;lr>']] });
  const { peer, session, pass } = call;
  session.progress(180);
  await pass(10);
  const { toTag } = peer.last('180 INVITE');
  const { again, remains } = await killed(call);

  again.settle(remains);
  again.settle(remains);
  await pass(10);

  t.same(peer.heard, ['503 INVITE'], 'once, though it was asked twice');
  const refusal = peer.last('503 INVITE');
  t.equal(refusal.toTag, toTag);
  t.match(refusal.header('Retry-After'), /^\d+$/);
  await pass(4 * T1_MS);
  t.ok(peer.count('503 INVITE') > 2, 'timer G repeats it');
  peer.request({ method: 'ACK', branch: 'z9hG4bKinvite', toTag });
  await pass(10);
  const count = peer.count('503 INVITE');
  await pass(64 * T1_MS);
  t.equal(peer.count('503 INVITE'), count, 'and the ACK ends that');
  isEmpty(t, again);
});

t.test(
  'a caller who gives up meanwhile hears that there is nothing to cancel any more',
  async (t) => {
    const call = await incoming(t);
    call.session.progress(180);
    const { again, remains } = await killed(call);
    again.settle(remains);
    await call.pass(10);

    call.peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite' });
    await call.pass(10);

    t.equal(call.peer.count('200 CANCEL'), 1);
    t.notOk(call.peer.heard.includes('487 INVITE'), 'he was refused already');
  },
);

t.test('a callee who rings is told to stop, and his 487 is acknowledged', async (t) => {
  const call = await ringing(t);
  const { peer, pass } = call;
  const invite = peer.last('INVITE');
  const { again, remains } = await killed(call);
  t.notMatch(JSON.stringify(remains), /application|v=0/, 'nothing is kept that is not needed');

  again.settle(remains);
  await pass(10);

  const cancel = peer.last('CANCEL');
  t.equal(cancel.via.branch, invite.via.branch);
  t.match(cancel, {
    uri: invite.uri,
    callId: invite.callId,
    cseq: invite.cseq,
    fromTag: invite.fromTag,
  });
  peer.respond(cancel, 200);
  peer.respond(invite, 487);
  await pass(10);
  t.equal(peer.last('ACK').via.branch, invite.via.branch);
  peer.respond(invite, 487);
  await pass(10);
  t.equal(peer.count('ACK'), 2, 'each time it comes');
  await pass(64 * T1_MS + 1000);
  t.equal(peer.count('CANCEL'), 1);
  isEmpty(t, again);
});

t.test('a callee who answers all the same is acknowledged and hung up', async (t) => {
  const call = await ringing(t);
  const { peer, pass } = call;
  const invite = peer.last('INVITE');
  const { again, remains } = await killed(call);
  again.settle(remains);
  await pass(10);

  peer.respond(invite, 200, { body: SDP });
  await pass(10);
  const bye = peer.last('BYE');
  peer.respond(bye, 200);
  peer.respond(invite, 200, { body: SDP });
  await pass(10);

  t.same(peer.heard, ['CANCEL', 'ACK', 'BYE', 'ACK']);
  t.match(bye, { callId: invite.callId, fromTag: invite.fromTag, toTag: 'script' });
  t.ok(bye.cseq > invite.cseq);
  await pass(128 * T1_MS);
  isEmpty(t, again);
});

t.test('a callee of whom nothing was heard gets CANCEL, and is forgotten', async (t) => {
  const call = await calling(t);
  const { again, remains } = await killed(call);

  again.settle(remains);
  await call.pass(10);
  t.same(call.peer.heard, ['CANCEL']);
  await call.pass(128 * T1_MS);

  isEmpty(t, again);
});

t.test('what has its final answer leaves nothing to end', async (t) => {
  const { session } = await incoming(t);
  session.reject(486);
  t.equal(session.remains, null);

  const called = await ringing(t);
  called.peer.respond(called.peer.last('INVITE'), 200, { body: SDP });
  await called.pass(10);
  t.equal(called.session.remains, null);
});

for (const body of [SDP, '']) {
  t.test(
    `an answer without its ACK is repeated${body === '' ? ', offer and all' : ''}`,
    async (t) => {
      const call = await incoming(t, { body });
      const { peer, session, pass } = call;
      session.accept(SDP, [['X-Answer', 'so']]);
      await pass(10);
      const first = peer.last('200 INVITE');
      const record: SessionRecord = written(session.record());
      const again = await successor(call);

      const restored = again.restore(record);
      const offers: string[] = [];
      restored.on('acknowledged', ({ sdp }) => offers.push(sdp ?? 'none'));
      await pass(4 * T1_MS);

      t.ok(peer.count('200 INVITE') > 2, 'as often as RFC 3261 §13.3.1.4 says');
      const repeated = peer.last('200 INVITE');
      t.equal(repeated.toTag, first.toTag);
      t.equal(repeated.body, first.body);
      t.equal(repeated.header('X-Answer'), 'so');
      peer.request({ method: 'ACK', toTag: first.toTag, body: body === '' ? SDP : '' });
      await pass(10);
      const count = peer.count('200 INVITE');
      await pass(4 * T1_MS);
      t.equal(peer.count('200 INVITE'), count, 'until the ACK comes');
      t.same(offers, [body === '' ? SDP : 'none']);
      t.notOk('unacknowledged' in restored.record(), 'which is not waited for any more');
      restored.hangup();
      await pass(10);
      t.equal(peer.count('BYE'), 1);
    },
  );
}

t.test('an answer that is never acknowledged is hung up, in the second process too', async (t) => {
  const call = await incoming(t);
  call.session.accept(SDP);
  const record: SessionRecord = written(call.session.record());
  const again = await successor(call);

  const restored = again.restore(record, {
    credentials: { username: 'u', password: new Secret('p') },
  });
  await call.pass(64 * T1_MS + 100);

  t.equal(restored.state, 'terminated');
  t.equal(call.peer.count('BYE'), 1);
});
