/**
 * Changes within a call and before its answer: UPDATE from both sides (RFC 3311), offers of ours,
 * and who has to wait when two ask at once (RFC 3261 §14, RFC 3311 §5.2).
 */
import t from 'tap';
import type { HeaderField } from '../src/sip/message.ts';
import type { Session } from '../src/sip/session.ts';
import type { Reoffered, ReofferFailed } from '../src/sip/session-report.ts';
import { SDP } from './support/script-peer.ts';
import { answered, calling, incoming, isEmpty, talking } from './support/sip-scene.ts';

const OTHER = SDP.replace('o=- 1 1', 'o=- 2 2');
const THIRD = SDP.replace('o=- 1 1', 'o=- 3 3');
const ALLOWS: HeaderField[] = [['Allow', 'INVITE, ACK, BYE, CANCEL, UPDATE, PRACK']];
const MOVED: HeaderField[] = [['Contact', '<sip:peer@10.0.0.2:5060;moved=yes>']];

/** What became of our offers. */
function outcomes(session: Session): { done: Reoffered[]; failed: ReofferFailed[] } {
  const told = { done: [] as Reoffered[], failed: [] as ReofferFailed[] };
  session.on('reoffered', (one) => told.done.push(one));
  session.on('reofferFailed', (one) => told.failed.push(one));
  return told;
}

t.test('UPDATE of the peer', async (t) => {
  t.test('without an offer it moves the target, and is answered at once', async (t) => {
    const { peer, pass, session, toTag, offers } = await answered(t);
    peer.request({ method: 'UPDATE', cseq: 2, toTag, headers: MOVED });
    await pass(10);
    const answer = peer.last('200 UPDATE');
    t.equal(answer.body, '');
    t.match(answer.header('Contact'), /10\.0\.0\.1/);
    t.match(answer.header('Allow'), /UPDATE/);
    t.equal(offers.length, 0);
    session.hangup();
    await pass(10);
    t.match(peer.last('BYE').uri, /moved=yes/);
  });

  t.test('with an offer it is answered like a re-INVITE, but for the ACK', async (t) => {
    const { peer, pass, toTag, offers, session } = await answered(t);
    peer.request({ method: 'UPDATE', cseq: 2, toTag, body: OTHER, headers: MOVED });
    await pass(10);
    t.equal(offers[0]?.sdp, OTHER);
    t.equal(peer.count('200 UPDATE'), 0);
    offers[0]?.answer(THIRD);
    offers[0]?.refuse(488);
    await pass(2000);
    t.equal(peer.last('200 UPDATE').body, THIRD);
    t.equal(peer.count('200 UPDATE'), 1);
    t.match(session.record().remoteTarget, /moved=yes/);
  });

  t.test('refused, the call and its target are what they were', async (t) => {
    const { peer, pass, toTag, offers, session, call } = await answered(t);
    peer.request({ method: 'UPDATE', cseq: 2, toTag, body: OTHER, headers: MOVED });
    await pass(10);
    offers[0]?.refuse(488, 'no common codec');
    await pass(10);
    t.match(peer.last('488 UPDATE').header('Warning'), /no common codec/);
    t.notMatch(session.record().remoteTarget, /moved/);
    t.same(call.events, ['acknowledged']);
  });

  t.test('nobody decides: 504 in time; a body that is no SDP: 415', async (t) => {
    const { peer, pass, toTag } = await answered(t);
    peer.request({ method: 'UPDATE', cseq: 2, toTag, body: OTHER });
    await pass(8100);
    t.equal(peer.heard.at(-1), '504 UPDATE');
    const headers: HeaderField[] = [['Content-Encoding', 'gzip']];
    peer.request({ method: 'UPDATE', cseq: 3, toTag, body: OTHER, headers });
    await pass(10);
    t.equal(peer.heard.at(-1), '415 UPDATE');
  });

  t.test('two at once: 500 with Retry-After, for re-INVITE too', async (t) => {
    const { peer, pass, toTag, offers } = await answered(t);
    peer.request({ method: 'UPDATE', cseq: 2, toTag, body: OTHER });
    peer.request({ method: 'UPDATE', cseq: 3, toTag, body: THIRD });
    peer.request({ method: 'INVITE', cseq: 4, toTag, body: THIRD });
    await pass(10);
    t.same(peer.heard.slice(-2), ['500 UPDATE', '500 INVITE']);
    const seconds = Number(peer.last('500 UPDATE').header('Retry-After'));
    t.ok(seconds >= 0 && seconds <= 10);
    t.equal(offers.length, 1);
    offers[0]?.answer(SDP);
    await pass(10);
    t.equal(peer.heard.at(-1), '200 UPDATE');

    peer.request({ method: 'INVITE', cseq: 5, toTag, body: OTHER });
    peer.request({ method: 'UPDATE', cseq: 6, toTag, body: THIRD });
    peer.request({ method: 'UPDATE', cseq: 7, toTag });
    await pass(10);
    t.same(peer.heard.slice(-2), ['500 UPDATE', '200 UPDATE'], 'a refresh may go meanwhile');
  });

  t.test('glare: an offer of ours is out, so theirs is 491', async (t) => {
    const { peer, pass, toTag, session } = await answered(t, { headers: ALLOWS });
    for (const method of ['INVITE', 'UPDATE'] as const) {
      session.reoffer(OTHER, { method });
      await pass(10);
      const cseq = method === 'INVITE' ? 2 : 4;
      peer.request({ method: 'UPDATE', cseq, toTag, body: THIRD });
      peer.request({ method: 'INVITE', cseq: cseq + 1, toTag, body: THIRD });
      await pass(10);
      t.same(peer.heard.slice(-2), ['491 UPDATE', '491 INVITE'], method);
      peer.respond(peer.last(method), 200, { body: SDP });
      await pass(10);
    }
  });

  t.test('glare: our offer in a 2xx waits for its ACK', async (t) => {
    const { peer, pass, toTag, offers } = await answered(t);
    peer.request({ method: 'INVITE', cseq: 2, toTag });
    await pass(10);
    offers[0]?.answer(OTHER);
    await pass(10);
    peer.request({ method: 'UPDATE', cseq: 3, toTag, body: THIRD });
    await pass(10);
    t.equal(peer.heard.at(-1), '491 UPDATE');
    peer.request({ method: 'ACK', cseq: 2, toTag, body: SDP });
    peer.request({ method: 'UPDATE', cseq: 4, toTag, body: THIRD });
    await pass(10);
    t.equal(offers.length, 2);
  });

  t.test('before the answer: not before ours is known, then like later', async (t) => {
    const headers: HeaderField[] = [['Supported', '100rel'], ...ALLOWS];
    const { peer, pass, session, offers } = await incoming(t, { headers });
    session.progress(180);
    await pass(10);
    const { toTag } = peer.last('180 INVITE');
    peer.request({ method: 'UPDATE', cseq: 2, toTag, body: OTHER });
    await pass(10);
    t.equal(peer.heard.at(-1), '500 UPDATE', 'the offer of the INVITE has no answer');

    session.progress(183, { sdp: SDP });
    await pass(10);
    const rack: HeaderField = ['RAck', `${peer.last('183 INVITE').header('RSeq')} 1 INVITE`];
    peer.request({ method: 'PRACK', cseq: 3, toTag, headers: [rack] });
    peer.request({ method: 'UPDATE', cseq: 4, toTag, body: OTHER });
    await pass(10);
    t.equal(offers.length, 1);
    session.accept('');
    await pass(10);
    t.equal(peer.count('200 INVITE'), 0, 'the 2xx waits for it');
    offers[0]?.answer(THIRD);
    await pass(10);
    t.same(peer.heard.slice(-2), ['200 UPDATE', '200 INVITE']);
    t.equal(peer.last('200 INVITE').body, '');
  });

  t.test('in an early dialog of a fork: answered there', async (t) => {
    const { peer, pass, offers, session } = await calling(t);
    const invite = peer.last('INVITE');
    const rel = (n: number): HeaderField[] => [['Require', '100rel'], ['RSeq', `${n}`], ...ALLOWS];
    peer.respond(invite, 183, { toTag: 'a', headers: rel(1), body: SDP });
    peer.respond(invite, 183, { toTag: 'b', headers: rel(1) });
    await pass(10);
    const { fromTag: toTag, callId } = invite;
    const ours = { method: 'UPDATE', callId, toTag, body: OTHER };
    peer.request({ ...ours, fromTag: 'a' });
    peer.request({ ...ours, fromTag: 'b' });
    peer.request({ ...ours, fromTag: 'c' });
    await pass(10);
    t.same(peer.heard.slice(-2), ['491 UPDATE', '481 UPDATE'], 'b has no answer, c is nobody');
    t.same([offers.length, offers[0]?.dialog], [1, 'a']);
    offers[0]?.answer(THIRD);
    await pass(10);
    t.equal(peer.heard.at(-1), '200 UPDATE');

    const answers: string[] = [];
    session.on('answered', ({ sdp }) => answers.push(sdp));
    peer.respond(invite, 200, { toTag: 'a' });
    await pass(10);
    t.same(answers, [''], 'the UPDATE said the last word');
  });
});

t.test('offers of ours', async (t) => {
  t.test('by re-INVITE, and by UPDATE where that is asked for', async (t) => {
    const { peer, pass, session } = await talking(t, {}, ALLOWS);
    const told = outcomes(session);
    session.reoffer(OTHER);
    await pass(10);
    t.equal(peer.last('INVITE').body, OTHER);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    t.equal(peer.heard.at(-1), 'ACK');
    session.reoffer(THIRD, { method: 'UPDATE' });
    await pass(10);
    t.equal(peer.last('UPDATE').body, THIRD);
    t.equal(peer.last('UPDATE').header('Content-Type'), 'application/sdp');
    peer.respond(peer.last('UPDATE'), 200, { body: SDP, headers: MOVED });
    await pass(10);
    t.same(told.done, [
      { sdp: SDP, offer: OTHER, isRefresh: false },
      { sdp: SDP, offer: THIRD, isRefresh: false },
    ]);
    t.match(session.record().remoteTarget, /moved=yes/);
    t.same(told.failed, []);
  });

  t.test('refused, busy, or out of place: the call goes on as it was', async (t) => {
    const { peer, pass, session, call } = await talking(t);
    const told = outcomes(session);
    session.reoffer(OTHER);
    session.reoffer(THIRD);
    await pass(10);
    peer.respond(peer.last('INVITE'), 488);
    await pass(10);
    t.same(told.failed, [
      { status: 0, code: 'SIP_GLARE' },
      { status: 488, code: 'SIP_REFUSED' },
    ]);
    t.equal(session.state, 'confirmed');
    session.hangup();
    session.reoffer(OTHER);
    t.same(told.failed[2], { status: 0, code: 'SIP_NO_DIALOG' });
    t.equal(call.ends, 1);
  });

  t.test('UPDATE meets glare: waited out, asked again, given up in the end', async (t) => {
    const { peer, pass, session } = await talking(t, {}, ALLOWS);
    const told = outcomes(session);
    session.reoffer(OTHER, { method: 'UPDATE' });
    peer.onMessage = (message) => peer.respond(message, 491);
    await pass(20_000);
    t.equal(peer.count('UPDATE'), 4);
    const [first = 0, ...later] = peer.atMs;
    let beforeMs = first;
    for (const atMs of later) {
      const gapMs = atMs - beforeMs;
      t.ok(gapMs >= 2100 && gapMs <= 4020, `we made the Call-ID: ${gapMs} ms`);
      beforeMs = atMs;
    }
    t.same(told.failed, [{ status: 491, code: 'SIP_GLARE' }]);
    t.equal(session.state, 'confirmed');
  });

  t.test('500 with Retry-After: asked again then; without one, not', async (t) => {
    const { peer, pass, session } = await talking(t, {}, ALLOWS);
    const told = outcomes(session);
    session.reoffer(OTHER, { method: 'UPDATE' });
    await pass(10);
    peer.respond(peer.last('UPDATE'), 500, { headers: [['Retry-After', '7']] });
    await pass(6900);
    t.equal(peer.count('UPDATE'), 1);
    await pass(200);
    t.equal(peer.count('UPDATE'), 2);
    peer.respond(peer.last('UPDATE'), 500);
    await pass(20_000);
    t.equal(peer.count('UPDATE'), 2);
    t.same(told.failed, [{ status: 500, code: 'SIP_REFUSED' }]);
  });

  t.test('481 to UPDATE ends the call, 405 teaches', async (t) => {
    const { peer, pass, session, call } = await talking(t, {}, ALLOWS);
    const told = outcomes(session);
    session.reoffer(OTHER, { method: 'UPDATE' });
    await pass(10);
    peer.respond(peer.last('UPDATE'), 405);
    await pass(10);
    t.equal(session.record().allowsUpdate, undefined);
    session.reoffer(OTHER, { method: 'UPDATE' });
    await pass(10);
    peer.respond(peer.last('UPDATE'), 481);
    await pass(10);
    t.equal(peer.heard.at(-1), 'BYE');
    t.same(call.events, ['answered', 'ended timeout SIP_NO_DIALOG 481']);
    t.equal(told.failed.length, 2);
  });

  t.test('before the answer: by UPDATE, where the peer allows it', async (t) => {
    const rel: HeaderField[] = [
      ['Require', '100rel'],
      ['RSeq', '1'],
    ];
    const plain = await calling(t);
    const none = outcomes(plain.session);
    plain.session.reoffer(OTHER);
    plain.peer.respond(plain.peer.last('INVITE'), 183, { headers: rel, body: SDP });
    await plain.pass(10);
    plain.session.reoffer(OTHER);
    t.same(
      none.failed.map(({ code }) => code),
      ['SIP_NO_DIALOG', 'SIP_METHOD_REFUSED'],
    );

    const { peer, pass, session } = await calling(t);
    const told = outcomes(session);
    const invite = peer.last('INVITE');
    peer.respond(invite, 183, { toTag: 'a', headers: [...rel, ...ALLOWS], body: SDP });
    peer.respond(invite, 183, { toTag: 'b', headers: [...rel, ...ALLOWS], body: SDP });
    await pass(10);
    session.reoffer(OTHER, { dialog: 'b' });
    await pass(10);
    const update = peer.last('UPDATE');
    t.equal(update.toTag, 'b');
    t.equal(update.cseq, 3);
    peer.respond(update, 200, { toTag: 'b', body: THIRD });
    await pass(10);
    t.same(told.done, [{ sdp: THIRD, offer: OTHER, isRefresh: false }]);
  });

  t.test('of the called party too, once its PRACK is there', async (t) => {
    const headers: HeaderField[] = [['Supported', '100rel'], ...ALLOWS];
    const { peer, pass, session, us } = await incoming(t, { headers });
    const told = outcomes(session);
    session.progress(183, { sdp: SDP });
    await pass(10);
    const { toTag } = peer.last('183 INVITE');
    const rack: HeaderField = ['RAck', `${peer.last('183 INVITE').header('RSeq')} 1 INVITE`];
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers: [rack] });
    await pass(10);
    session.reoffer(OTHER);
    session.accept('');
    await pass(10);
    t.same(peer.heard.slice(-2), ['200 PRACK', 'UPDATE'], 'the 2xx waits for the answer');
    peer.respond(peer.last('UPDATE'), 200, { body: THIRD });
    await pass(10);
    t.equal(peer.heard.at(-1), '200 INVITE');
    t.equal(told.done.length, 1);
    peer.request({ method: 'ACK', toTag });
    peer.request({ method: 'BYE', cseq: 3, toTag });
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('not before that PRACK, and the 2xx does not wait for it twice', async (t) => {
    const headers: HeaderField[] = [['Supported', '100rel'], ...ALLOWS];
    const { peer, pass, session } = await incoming(t, { headers });
    const answers: string[] = [];
    session.on('earlyAnswer', ({ sdp }) => answers.push(sdp));
    session.progress(183, { sdp: SDP });
    session.reoffer(OTHER);
    await pass(10);
    t.same(peer.heard, ['183 INVITE']);
    const { toTag } = peer.last('183 INVITE');
    const rack: HeaderField = ['RAck', `${peer.last('183 INVITE').header('RSeq')} 1 INVITE`];
    peer.request({ method: 'PRACK', cseq: 2, toTag, headers: [rack] });
    await pass(2100);
    t.equal(peer.last('UPDATE').body, OTHER);
    t.same(answers, [], 'a PRACK without a description answers nothing');
  });

  t.test('an UPDATE that is open when the 2xx comes stays open: theirs is 491', async (t) => {
    const rel: HeaderField[] = [['Require', '100rel'], ['RSeq', '1'], ...ALLOWS];
    const { peer, pass, session } = await calling(t);
    const invite = peer.last('INVITE');
    peer.respond(invite, 183, { headers: rel, body: SDP });
    await pass(10);
    session.reoffer(OTHER);
    peer.respond(invite, 200);
    await pass(10);
    const { fromTag: toTag, callId } = invite;
    peer.request({ method: 'UPDATE', callId, toTag, fromTag: 'script', body: THIRD });
    await pass(10);
    t.equal(peer.heard.at(-1), '491 UPDATE');
  });

  t.test('an UPDATE that nobody answers ends the call', async (t) => {
    const { peer, pass, session, call } = await talking(t, {}, ALLOWS);
    session.reoffer(OTHER, { method: 'UPDATE' });
    await pass(32_100);
    t.equal(peer.heard.at(-1), 'BYE');
    t.same(call.events, ['answered', 'ended timeout SIP_NO_DIALOG 481']);
  });
});

t.test('Reason', async (t) => {
  t.test('of the peer is read from BYE, CANCEL and refusals', async (t) => {
    const reasons: HeaderField[] = [['Reason', 'Q.850;cause=17;text="busy", SIP ;cause=486']];
    const expected = [
      { protocol: 'Q.850', cause: 17, text: 'busy' },
      { protocol: 'SIP', cause: 486, text: '' },
    ];
    const ended = await answered(t);
    ended.peer.request({ method: 'BYE', cseq: 2, toTag: ended.toTag, headers: reasons });
    await ended.pass(10);
    t.same(ended.call.end?.reasonHeader, expected);

    const canceled = await incoming(t);
    canceled.peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite', headers: reasons });
    await canceled.pass(10);
    t.same(canceled.call.end?.reasonHeader, expected);

    const refused = await calling(t);
    refused.peer.respond(refused.peer.last('INVITE'), 486, { headers: reasons });
    await refused.pass(10);
    t.same(refused.call.end?.reasonHeader, expected);
  });

  t.test('of ours is sent in BYE, CANCEL and refusals', async (t) => {
    const reasonHeader = [{ protocol: 'Q.850', cause: 16, text: 'Normal "clearing"' }];
    const line = 'Q.850;cause=16;text="Normal \\"clearing\\""';
    const ended = await talking(t);
    ended.session.hangup({ reasonHeader });
    await ended.pass(10);
    t.equal(ended.peer.last('BYE').header('Reason'), line);

    const canceled = await calling(t);
    canceled.peer.respond(canceled.peer.last('INVITE'), 180);
    await canceled.pass(10);
    canceled.session.hangup({ reasonHeader });
    await canceled.pass(10);
    t.equal(canceled.peer.last('CANCEL').header('Reason'), line);

    const refused = await incoming(t);
    refused.session.reject(480, { reasonHeader });
    await refused.pass(10);
    t.equal(refused.peer.last('480 INVITE').header('Reason'), line);
    t.same(refused.call.end?.reasonHeader, reasonHeader);
  });
});
