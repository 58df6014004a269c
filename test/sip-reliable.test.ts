/**
 * What happens before the answer: reliable provisional responses and PRACK from both sides
 * (RFC 3262), offers and answers that travel in them, several early dialogs of one INVITE, early
 * media's header (RFC 5009), branches that end (RFC 6228).
 */
import t from 'tap';
import type { HeaderField } from '../src/sip/message.ts';
import { SDP } from './support/script-peer.ts';
import { calling, incoming, isEmpty } from './support/sip-scene.ts';

const SUPPORTED: HeaderField[] = [['Supported', '100rel']];
const REQUIRED: HeaderField[] = [['Require', '100rel']];
/** Another description than SDP. */
const OTHER = SDP.replace('o=- 1 1', 'o=- 2 2');
const THIRD = SDP.replace('o=- 1 1', 'o=- 3 3');

function rack(rseq: string | undefined, cseq = 1): HeaderField[] {
  return [['RAck', `${rseq ?? ''} ${cseq} INVITE`]];
}

function reliable(rseq: number): HeaderField[] {
  return [
    ['Require', '100rel'],
    ['RSeq', String(rseq)],
  ];
}

t.test('reliable responses that we send', async (t) => {
  t.test('a description goes reliably to who can: repeated until PRACK', async (t) => {
    const { peer, session, pass, us, call } = await incoming(t, { headers: SUPPORTED });
    session.progress(180);
    session.progress(183, { sdp: OTHER });
    await pass(3000);
    t.same(peer.heard, ['180 INVITE', ...Array(3).fill('183 INVITE')], 'at 0, 500, 1500 ms');
    t.equal(peer.last('180 INVITE').header('RSeq'), undefined);
    const early = peer.last('183 INVITE');
    t.match(early.header('Require'), '100rel');
    t.match(early.header('Allow'), /UPDATE/);

    const headers = rack(early.header('RSeq'));
    peer.request({ method: 'PRACK', cseq: 2, toTag: early.toTag, headers });
    await pass(20_000);
    t.equal(peer.count('183 INVITE'), 3);
    t.equal(peer.last('200 PRACK').body, '');

    session.accept(OTHER);
    await pass(10);
    t.equal(peer.last('200 INVITE').body, '', 'what was said for good is not said again');
    peer.request({ method: 'ACK', toTag: early.toTag });
    peer.request({ method: 'BYE', cseq: 3, toTag: early.toTag });
    await pass(40_000);
    t.same(call.events, ['acknowledged', 'ended remote CALL_COMPLETED 200']);
    isEmpty(t, us);
  });

  t.test('a peer that cannot gets them plainly', async (t) => {
    const { peer, session, pass } = await incoming(t);
    session.progress(183, { sdp: SDP });
    await pass(3000);
    t.same(peer.heard, ['183 INVITE']);
    t.equal(peer.last('183 INVITE').header('RSeq'), undefined);
  });

  t.test('the 2xx waits for the PRACK of a description', async (t) => {
    const { peer, session, pass } = await incoming(t, { headers: SUPPORTED });
    session.progress(183, { sdp: SDP });
    session.accept(SDP);
    await pass(600);
    t.equal(session.state, 'early');
    t.same(peer.heard, ['183 INVITE', '183 INVITE']);

    const { toTag } = peer.last('183 INVITE');
    const headers = rack(peer.last('183 INVITE').header('RSeq'));
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers });
    await pass(10);
    t.same(peer.heard.slice(2), ['200 PRACK', '200 INVITE']);
    t.equal(session.state, 'confirmed');
  });

  t.test('a call hung up or canceled while its 2xx waits is refused', async (t) => {
    const { peer, session, pass, us, call } = await incoming(t, { headers: SUPPORTED });
    session.progress(183, { sdp: SDP });
    session.accept(SDP);
    await pass(10);
    peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite' });
    await pass(10);
    t.same(peer.heard.slice(1), ['200 CANCEL', '487 INVITE']);
    const { toTag } = peer.last('487 INVITE');
    peer.request({ method: 'ACK', branch: 'z9hG4bKinvite', toTag });
    await pass(40_000);
    t.same(call.events, ['ended remote CALL_CANCELED 487']);
    isEmpty(t, us);
  });

  t.test('64*T1 without PRACK is 504, and the call is over', async (t) => {
    const { peer, session, pass, call } = await incoming(t, { headers: SUPPORTED });
    session.progress(183, { sdp: SDP });
    await pass(31_900);
    t.equal(peer.count('183 INVITE'), 7, 'doubling without a bound');
    t.same(call.events, []);
    await pass(200);
    t.equal(peer.heard.at(-1), '504 INVITE');
    t.same(call.events, ['ended timeout SIP_NO_PRACK 504']);
  });

  t.test('where they are required each one is reliable, one after another', async (t) => {
    const { peer, session, pass } = await incoming(t, { headers: REQUIRED });
    session.progress(180);
    session.progress(183, { sdp: SDP });
    await pass(10);
    t.same(peer.heard, ['180 INVITE'], 'the second waits for the PRACK of the first');
    const first = Number(peer.last('180 INVITE').header('RSeq'));

    const { toTag } = peer.last('180 INVITE');
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers: rack(String(first + 1)) });
    await pass(10);
    t.equal(peer.heard.at(-1), '481 PRACK', 'of one that was not sent');
    peer.request({ method: 'PRACK', cseq: 4, toTag, headers: rack(String(first)) });
    await pass(10);
    t.same(peer.heard.slice(2), ['200 PRACK', '183 INVITE']);
    t.equal(peer.last('183 INVITE').header('RSeq'), String(first + 1));
    peer.request({ method: 'PRACK', cseq: 3, toTag, headers: rack(String(first + 1)) });
    await pass(10);
    t.equal(peer.heard.at(-1), '200 PRACK', 'in whatever order they come');
  });

  t.test('a 2xx does not wait for a PRACK without description, which is still good', async (t) => {
    const { peer, session, pass } = await incoming(t, { headers: REQUIRED });
    session.progress(180);
    session.accept(SDP);
    await pass(10);
    t.same(peer.heard, ['180 INVITE', '200 INVITE']);
    const { toTag } = peer.last('180 INVITE');
    const headers = rack(peer.last('180 INVITE').header('RSeq'));
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers });
    await pass(10);
    t.equal(peer.heard.at(-1), '200 PRACK');
  });

  t.test('policy and INVITE that do not go together: 421, 420', async (t) => {
    const asking = await incoming(t, { policy: { reliable: 'require' } });
    asking.session.progress(180);
    await asking.pass(10);
    t.same(asking.peer.heard, ['421 INVITE']);
    t.equal(asking.peer.last('421 INVITE').header('Require'), '100rel');
    t.same(asking.call.events, ['ended local CALL_REJECTED 421']);

    const asked = await incoming(t, { headers: REQUIRED, policy: { reliable: 'off' } });
    asked.session.accept(SDP);
    await asked.pass(10);
    t.same(asked.peer.heard, ['420 INVITE']);
    t.equal(asked.peer.last('420 INVITE').header('Unsupported'), '100rel');
  });

  t.test('without an offer, ours goes in the 183 and the answer in PRACK', async (t) => {
    const { peer, session, pass, call } = await incoming(t, { headers: SUPPORTED, body: '' });
    const answers: string[] = [];
    session.on('earlyAnswer', ({ sdp }) => answers.push(sdp));
    t.equal(session.earlyOffer, 'may');
    session.progress(183, { sdp: SDP });
    t.equal(session.earlyOffer, 'no');
    session.accept('');
    await pass(10);
    t.equal(peer.last('183 INVITE').body, SDP);

    const { toTag } = peer.last('183 INVITE');
    const headers = rack(peer.last('183 INVITE').header('RSeq'));
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers, body: OTHER });
    await pass(10);
    t.same(answers, [OTHER]);
    t.equal(peer.last('200 INVITE').body, '');
    peer.request({ method: 'ACK', toTag });
    await pass(10);
    t.same(call.events, ['acknowledged']);
  });

  t.test('nothing goes before the offer where responses must be reliable', async (t) => {
    const { peer, session, pass } = await incoming(t, { headers: REQUIRED, body: '' });
    t.equal(session.earlyOffer, 'must');
    session.progress(180);
    await pass(300);
    t.same(peer.heard, ['100 INVITE']);
    session.progress(180, { sdp: SDP });
    await pass(10);
    t.equal(peer.last('180 INVITE').body, SDP);
  });

  t.test('PRACK may bring a new offer; the 2xx waits for its answer', async (t) => {
    const { peer, session, pass, offers } = await incoming(t, { headers: SUPPORTED });
    session.progress(183, { sdp: SDP });
    session.accept(SDP);
    await pass(10);
    const { toTag } = peer.last('183 INVITE');
    const headers = rack(peer.last('183 INVITE').header('RSeq'));
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers, body: OTHER });
    await pass(10);
    t.equal(offers[0]?.sdp, OTHER);
    t.same(peer.heard, ['183 INVITE']);

    offers[0]?.answer(THIRD);
    await pass(10);
    t.same(peer.heard.slice(1), ['200 PRACK', '200 INVITE']);
    t.equal(peer.last('200 PRACK').body, THIRD);
    t.equal(peer.last('200 INVITE').body, '');
  });
});

t.test('PRACK that we send', async (t) => {
  t.test('one for each response, in order; what comes again gets no second one', async (t) => {
    const { peer, pass, call, session } = await calling(t);
    const invite = peer.last('INVITE');
    t.match(invite.header('Supported'), /100rel/);
    peer.respond(invite, 180, { headers: reliable(7) });
    await pass(10);
    const prack = peer.last('PRACK');
    t.equal(prack.header('RAck'), '7 1 INVITE');
    t.equal(prack.toTag, 'script');
    t.equal(prack.cseq, 2);
    peer.respond(prack, 200);
    peer.respond(invite, 180, { headers: reliable(7) });
    peer.respond(invite, 183, { headers: reliable(9), body: OTHER });
    await pass(1000);
    t.equal(peer.count('PRACK'), 1, '9 is ahead of 8, which was lost');

    peer.respond(invite, 183, { headers: reliable(8), body: SDP });
    await pass(10);
    peer.respond(invite, 183, { headers: reliable(9), body: OTHER });
    await pass(10);
    t.equal(peer.last('PRACK').header('RAck'), '9 1 INVITE');
    t.same(call.events, ['180', `183 ${SDP.length}`, '183'], 'the first answer is the answer');

    const answers: string[] = [];
    session.on('answered', ({ sdp }) => answers.push(sdp));
    peer.respond(invite, 200);
    await pass(10);
    t.same(answers, [SDP], 'and holds where the 2xx says nothing');
  });

  t.test('a PRACK that failed is made anew when the response comes again', async (t) => {
    const { peer, pass } = await calling(t);
    const invite = peer.last('INVITE');
    peer.respond(invite, 183, { headers: reliable(1), body: SDP });
    await pass(10);
    peer.respond(peer.last('PRACK'), 500);
    await pass(10);
    t.equal(peer.count('PRACK'), 1);
    peer.respond(invite, 183, { headers: reliable(1), body: SDP });
    await pass(10);
    t.equal(peer.count('PRACK'), 2);
    t.equal(peer.last('PRACK').header('RAck'), '1 1 INVITE');
    t.equal(peer.last('PRACK').cseq, 3);
  });

  t.test('none where policy is off; required where it says so', async (t) => {
    const off = await calling(t, { reliable: 'off' });
    t.notMatch(off.peer.last('INVITE').header('Supported'), /100rel/);
    off.peer.respond(off.peer.last('INVITE'), 183, { headers: reliable(1), body: SDP });
    await off.pass(1000);
    t.equal(off.peer.count('PRACK'), 0);
    t.same(off.call.events, [`183 ${SDP.length}`]);

    const required = await calling(t, { reliable: 'require' });
    t.equal(required.peer.last('INVITE').header('Require'), '100rel');
    required.peer.respond(required.peer.last('INVITE'), 420, {
      headers: [['Unsupported', '100rel']],
    });
    await required.pass(10);
    t.same(required.call.events, ['ended remote SIP_REFUSED 420']);
  });

  t.test('an INVITE without an offer: answered in PRACK', async (t) => {
    const { peer, pass, offers, call } = await calling(t, { sdp: '' });
    const invite = peer.last('INVITE');
    t.equal(invite.body, '');
    t.equal(invite.header('Content-Type'), undefined);
    peer.respond(invite, 183, { body: OTHER });
    await pass(10);
    t.equal(offers.length, 0, 'an offer has to come reliably');
    peer.respond(invite, 183, { headers: reliable(3), body: SDP });
    peer.respond(invite, 183, { headers: reliable(3), body: SDP });
    await pass(10);
    t.same([offers.length, peer.count('PRACK')], [1, 0], 'PRACK waits for the answer');
    offers[0]?.answer(OTHER);
    await pass(10);
    t.equal(peer.last('PRACK').body, OTHER);
    peer.respond(invite, 200);
    await pass(10);
    t.equal(peer.last('ACK').body, '');
    t.same(call.events, ['183', '183', 'answered']);
  });

  t.test('or in the ACK, which waits for it', async (t) => {
    const { peer, pass, offers, call } = await calling(t, { sdp: '' });
    const invite = peer.last('INVITE');
    peer.respond(invite, 200, { body: SDP });
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.same([offers.length, peer.count('ACK')], [1, 0]);
    offers[0]?.answer(OTHER);
    await pass(10);
    t.equal(peer.last('ACK').body, OTHER);
    t.same(call.events, ['answered']);
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.equal(peer.count('ACK'), 2);
    t.equal(peer.last('ACK').body, OTHER);
  });

  t.test('an offer in the 2xx that cannot be answered ends the call: ACK, BYE', async (t) => {
    const { peer, pass, offers, call, us } = await calling(t, { sdp: '' });
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    offers[0]?.refuse(488, 'no common codec');
    await pass(10);
    t.same(peer.heard, ['INVITE', 'ACK', 'BYE']);
    peer.respond(peer.last('BYE'), 200);
    t.same(call.events, ['ended local CALL_REJECTED 488']);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('hanging up while that offer is looked at: ACK, BYE', async (t) => {
    const { peer, pass, session, us } = await calling(t, { sdp: '' });
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    session.hangup();
    await pass(10);
    t.same(peer.heard, ['INVITE', 'ACK', 'BYE']);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });
});

t.test('several early dialogs of one INVITE', async (t) => {
  t.test('each has its own PRACK, target and numbers; the first 2xx wins', async (t) => {
    const { peer, world, pass, session, us } = await calling(t);
    const second = await world.peer('10.0.0.3');
    const told: string[] = [];
    session.on('provisional', ({ dialog, status, isReliable, sdp }) => {
      told.push(`${dialog} ${status} ${isReliable} ${sdp?.length ?? 0}`);
    });
    const invite = peer.last('INVITE');
    const contact: HeaderField = ['Contact', '<sip:b@10.0.0.3:5060>'];
    peer.respond(invite, 183, { toTag: 'a', headers: reliable(5), body: SDP });
    peer.respond(invite, 183, { toTag: 'b', headers: [contact, ...reliable(90)], body: OTHER });
    peer.respond(invite, 180, { toTag: 'b', headers: [contact, ...reliable(91)] });
    await pass(10);
    t.same(told, [`a 183 true ${SDP.length}`, `b 183 true ${OTHER.length}`, 'b 180 true 0']);
    t.same(peer.heard, ['INVITE', 'PRACK']);
    t.same(second.heard, ['PRACK', 'PRACK']);
    t.equal(second.last('PRACK').cseq, 3, 'numbers go on by dialog');
    for (const prack of second.received) second.respond(prack, 200);

    const answers: string[] = [];
    session.on('answered', ({ sdp }) => answers.push(sdp));
    peer.respond(invite, 200, { toTag: 'b', headers: [contact] });
    peer.respond(invite, 200, { toTag: 'a', body: SDP });
    await pass(10);
    t.same(answers, [OTHER], 'what was agreed in the dialog that won');
    t.same(peer.heard.slice(2), ['ACK', 'BYE'], 'the other one is acknowledged and ended');
    t.equal(peer.last('BYE').cseq, 3, 'after its PRACK');
    peer.respond(peer.last('BYE'), 200);
    t.equal(second.last('ACK').cseq, 1);

    session.hangup();
    await pass(10);
    t.equal(second.last('BYE').cseq, 4);
    second.respond(second.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('199 ends one of them, and says why', async (t) => {
    const { peer, pass, session, call } = await calling(t);
    const invite = peer.last('INVITE');
    t.match(invite.header('Supported'), /199/);
    const over: string[] = [];
    session.on('forkEnded', ({ dialog, reasons }) => over.push(`${dialog} ${reasons[0]?.cause}`));
    peer.respond(invite, 180, { toTag: 'a' });
    peer.respond(invite, 199, { toTag: 'a', headers: [['Reason', 'SIP;cause=486']] });
    await pass(10);
    t.same(over, ['a 486']);
    t.same(call.events, ['180']);
  });

  t.test('P-Early-Media is told with the response', async (t) => {
    const { peer, pass, session } = await calling(t);
    const told: unknown[] = [];
    session.on('provisional', ({ earlyMedia }) => told.push(earlyMedia));
    const fields = ['sendrecv', 'inactive, gated', 'SendOnly', 'gated', 'supported', null];
    for (const value of fields) {
      const headers: HeaderField[] = value === null ? [] : [['P-Early-Media', value]];
      peer.respond(peer.last('INVITE'), 183, { headers });
      await pass(10);
    }
    t.same(told, [
      { direction: 'sendrecv', isGated: false },
      { direction: 'inactive', isGated: true },
      { direction: 'sendonly', isGated: false },
      { direction: 'sendrecv', isGated: true },
      null,
      null,
    ]);
  });

  t.test('more of them than anybody needs get no PRACK', async (t) => {
    const { peer, pass } = await calling(t);
    for (let i = 0; i < 40; i += 1) {
      const headers = reliable(1);
      peer.respond(peer.last('INVITE'), 183, { toTag: `fork-${i}`, headers });
    }
    await pass(10);
    t.equal(peer.count('PRACK'), 16);
  });
});

t.test('a target that said nothing until it was given up', async (t) => {
  t.test('is asked no more, and undone when it speaks after all', async (t) => {
    const { peer, pass, session, us } = await calling(t);
    await pass(3100);
    t.equal(peer.count('INVITE'), 3, 'at 0, 500, 1500 ms');
    session.hangup();
    await pass(10_000);
    t.equal(peer.count('INVITE'), 3, 'and not again');
    const invite = peer.last('INVITE');
    peer.respond(invite, 180);
    await pass(10);
    t.equal(peer.heard.at(-1), 'CANCEL');
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.same(peer.heard.slice(-2), ['ACK', 'BYE']);
    peer.respond(peer.last('CANCEL'), 200);
    peer.respond(peer.last('BYE'), 200);
    await pass(70_000);
    isEmpty(t, us);
  });

  t.test('is told again where a packet may only have been lost', async (t) => {
    const { peer, pass, session } = await calling(t);
    await pass(600);
    session.hangup();
    await pass(10_000);
    t.ok(peer.count('INVITE') > 3, 'so that it answers, and can be cancelled');
    peer.respond(peer.last('INVITE'), 100);
    await pass(10);
    t.equal(peer.heard.at(-1), 'CANCEL');
  });
});
