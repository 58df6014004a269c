/**
 * Sessions against a scripted peer on a simulated network: the races of INVITE, CANCEL, ACK and
 * BYE, forks, glare, challenges; then hundreds of calls between two endpoints in bad weather.
 */
import t, { type Test } from 'tap';
import { Secret } from '../src/core/log.ts';
import type { Endpoint, OutgoingInvite } from '../src/sip/endpoint.ts';
import type { Offer, Session } from '../src/sip/session.ts';
import { type ScriptPeer, SDP } from './support/script-peer.ts';
import { SEED, seededRandom } from './support/sim.ts';
import { reoffered, SipWorld, Witness } from './support/sip-world.ts';

interface Scene {
  world: SipWorld;
  us: Endpoint;
  peer: ScriptPeer;
  /** Lets time pass. */
  pass(durationMs: number): Promise<void>;
}

async function scene(t: Test, options: Parameters<SipWorld['endpoint']>[1] = {}): Promise<Scene> {
  const world = new SipWorld();
  const us = await world.endpoint('10.0.0.1', options);
  const peer = await world.peer('10.0.0.2');
  t.teardown(() => world.close());
  return { world, us, peer, pass: (ms) => world.clock.advance(ms) };
}

/** An incoming call that rings. */
async function ringing(t: Test, body = SDP): Promise<Scene & { call: Witness }> {
  const stage = await scene(t);
  const calls: Witness[] = [];
  stage.us.on('invite', (session) => {
    calls.push(new Witness(session));
    session.progress(180);
  });
  stage.peer.request({ method: 'INVITE', branch: 'z9hG4bKinvite', body });
  await stage.pass(10);
  return { ...stage, call: present(calls[0]) };
}

/** An incoming call that was answered and acknowledged. */
async function answered(t: Test): Promise<Scene & { call: Witness; toTag: string }> {
  const stage = await ringing(t);
  stage.call.session.accept(SDP);
  await stage.pass(10);
  const { toTag } = stage.peer.last('200 INVITE');
  stage.peer.request({ method: 'ACK', toTag });
  await stage.pass(10);
  stage.peer.clear();
  return { ...stage, toTag };
}

/** An outgoing call; the peer has the INVITE. */
async function calling(
  t: Test,
  options: Partial<OutgoingInvite> = {},
  endpoint: Parameters<SipWorld['endpoint']>[1] = {},
): Promise<Scene & { call: Witness }> {
  const stage = await scene(t, endpoint);
  const call = new Witness(stage.us.invite({ ...CALL, ...options }));
  await stage.pass(10);
  return { ...stage, call };
}

/** An outgoing call that the peer answered. */
async function talking(t: Test): Promise<Scene & { call: Witness; fromTag: string }> {
  const stage = await calling(t);
  const invite = stage.peer.last('INVITE');
  stage.peer.respond(invite, 200, { body: SDP });
  await stage.pass(10);
  stage.peer.clear();
  return { ...stage, fromTag: invite.fromTag };
}

const CALL: OutgoingInvite = {
  uri: 'sip:them@10.0.0.2;transport=udp',
  from: { uri: 'sip:us@10.0.0.1', display: 'Us "quoted"' },
  sdp: SDP,
};

function present<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error('not there');
  return value;
}

function isEmpty(t: Test, us: Endpoint): void {
  const { sessions, clientTransactions, serverTransactions, deadlines } = us.counts;
  t.same(
    { sessions, clientTransactions, serverTransactions, deadlines },
    { sessions: 0, clientTransactions: 0, serverTransactions: 0, deadlines: 0 },
    `nothing is left behind, seed ${SEED}`,
  );
}

t.test('incoming', async (t) => {
  t.test('100 comes at once, and a repeated INVITE makes no second call', async (t) => {
    const { us, peer, pass } = await ringing(t);
    peer.request({ method: 'INVITE', branch: 'z9hG4bKinvite', body: SDP });
    await pass(10);

    t.same(peer.heard, ['180 INVITE', '180 INVITE']);
    t.equal(us.counts.sessions, 1);
  });

  t.test('the 2xx is repeated until ACK comes', async (t) => {
    const { us, peer, pass, call } = await ringing(t);
    peer.clear();

    call.session.accept(SDP);
    await pass(3000);
    t.equal(peer.count('200 INVITE'), 3, 'at 0, 500, 1500 ms');
    peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag });
    await pass(60_000);

    t.equal(peer.count('200 INVITE'), 3);
    t.same(call.events, ['acknowledged']);
    t.equal(us.counts.serverTransactions, 0);
    t.equal(us.counts.deadlines, 0);
  });

  t.test('late and repeated ACKs are absorbed', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    peer.request({ method: 'ACK', toTag });
    peer.request({ method: 'ACK', toTag: 'unknown' });
    await pass(100);
    t.same(peer.heard, []);
    t.same(call.events, ['acknowledged']);
  });

  t.test('an answer that is never acknowledged is ended with BYE after 64*T1', async (t) => {
    const { us, peer, pass, call } = await ringing(t);
    peer.clear();

    call.session.accept(SDP);
    await pass(32_100);

    t.equal(peer.count('200 INVITE'), 11);
    t.equal(peer.heard.at(-1), 'BYE');
    t.same(call.events, ['ended timeout CALL_NO_ACK 408']);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('CANCEL before the answer: 200, 487, ended', async (t) => {
    const { us, peer, pass, call } = await ringing(t);
    peer.clear();

    peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite' });
    await pass(10);

    t.same(peer.heard, ['200 CANCEL', '487 INVITE']);
    t.same(call.events, ['ended remote CALL_CANCELED 487']);
    peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite' });
    const { toTag } = peer.last('487 INVITE');
    peer.request({ method: 'ACK', branch: 'z9hG4bKinvite', toTag });
    await pass(10);
    t.equal(peer.count('200 CANCEL'), 2, 'a repeated CANCEL is answered again');
    t.equal(call.ends, 1);
    await pass(6000);
    isEmpty(t, us);
  });

  t.test('CANCEL that comes after the answer changes nothing', async (t) => {
    const { peer, pass, call } = await ringing(t);
    call.session.accept(SDP);

    peer.request({ method: 'CANCEL', branch: 'z9hG4bKinvite' });
    await pass(10);
    peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag });
    await pass(10);

    t.equal(peer.count('200 CANCEL'), 1);
    t.same(call.events, ['acknowledged']);
    t.equal(call.session.state, 'confirmed');
  });

  t.test('CANCEL for nothing is 481', async (t) => {
    const { peer, pass } = await scene(t);
    peer.request({ method: 'CANCEL' });
    await pass(10);
    t.same(peer.heard, ['481 CANCEL']);
  });

  t.test('hanging up before the ACK sends BYE after it', async (t) => {
    const { us, peer, pass, call } = await ringing(t);
    call.session.accept(SDP);
    call.session.hangup();
    call.session.hangup();
    await pass(1000);
    t.equal(peer.count('BYE'), 0, 'RFC 3261 §15: not before the ACK');
    t.same(call.events, ['ended local CALL_COMPLETED 200']);

    peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag });
    await pass(10);

    t.equal(peer.count('BYE'), 1);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('hanging up while it rings refuses with 487', async (t) => {
    const { peer, pass, call } = await ringing(t);
    call.session.hangup();
    await pass(10);
    t.equal(peer.heard.at(-1), '487 INVITE');
  });

  t.test('a refusal is repeated until its ACK, with a Warning that says why', async (t) => {
    const { us, peer, pass, call } = await ringing(t);

    call.session.reject(488, { reason: 'no codec\r\nin "common"' });
    await pass(10);

    const refusal = peer.last('488 INVITE');
    t.equal(refusal.header('Warning'), '399 tandem "no codec  in  common "');
    await pass(2000);
    t.equal(peer.count('488 INVITE'), 3);
    peer.request({ method: 'ACK', branch: 'z9hG4bKinvite', toTag: refusal.toTag });
    await pass(6000);
    t.equal(peer.count('488 INVITE'), 3);
    isEmpty(t, us);
  });

  t.test('BYE while it rings ends the INVITE too', async (t) => {
    const { peer, pass, call } = await ringing(t);
    const { toTag } = peer.last('180 INVITE');
    peer.clear();

    peer.request({ method: 'BYE', cseq: 2, toTag });
    await pass(10);

    t.same(peer.heard.sort(), ['200 BYE', '487 INVITE']);
    t.same(call.events, ['ended remote CALL_COMPLETED 200']);
  });

  t.test('a call that nobody decides on is kept alive each minute, then given up', async (t) => {
    const { peer, pass, call } = await ringing(t);
    peer.clear();
    await pass(299_000);
    t.same(new Set(peer.heard), new Set(['180 INVITE']));
    t.equal(peer.heard.length, 4);
    await pass(2000);
    t.match(peer.heard, /480 INVITE/);
    t.same(call.events, ['ended timeout CALL_NO_ANSWER 480']);
  });

  t.test('without an offer, ours is in the 2xx and the answer in the ACK', async (t) => {
    const { peer, pass, call } = await ringing(t, '');
    let sdp: string | null = null;
    call.session.on('acknowledged', (event) => {
      sdp = event.sdp;
    });
    t.equal(call.session.offer, '');

    call.session.accept(SDP);
    await pass(10);
    peer.request({ method: 'ACK', toTag: peer.last('200 INVITE').toTag, body: SDP });
    await pass(10);

    t.equal(sdp, SDP);
  });

  t.test('is asked to come again when nobody takes calls yet', async (t) => {
    const { us, peer, pass } = await scene(t);
    peer.request({ method: 'INVITE', body: SDP });
    await pass(10);
    t.same(peer.heard, ['503 INVITE']);
    t.ok(Number(peer.last('503 INVITE').header('Retry-After')) > 0);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('the same INVITE by another way is 482', async (t) => {
    const { peer, pass } = await ringing(t);
    peer.clear();
    peer.request({ method: 'INVITE', branch: 'z9hG4bKother', body: SDP });
    await pass(10);
    t.same(peer.heard, ['482 INVITE']);
  });
});

t.test('within a dialog', async (t) => {
  const offers = (session: Session): Offer[] => {
    const list: Offer[] = [];
    session.on('offer', (offer) => list.push(offer));
    return list;
  };

  t.test('BYE is answered, repeated BYE again, and the dialog is gone', async (t) => {
    const { us, peer, pass, call, toTag } = await answered(t);
    const headers: [string, string][] = [['Reason', 'Q.850;cause=16']];
    peer.request({ method: 'BYE', cseq: 2, toTag, branch: 'z9hG4bKbye', headers });
    peer.request({ method: 'BYE', cseq: 2, toTag, branch: 'z9hG4bKbye', headers });
    await pass(10);

    t.same(peer.heard, ['200 BYE', '200 BYE']);
    t.equal(call.end?.reason, 'Q.850;cause=16');
    t.equal(call.ends, 1);
    peer.request({ method: 'BYE', cseq: 3, toTag });
    await pass(10);
    t.equal(peer.heard.at(-1), '481 BYE');
    await pass(33_000);
    isEmpty(t, us);
  });

  t.test('BYE that crosses ours is answered too', async (t) => {
    const { us, peer, pass, call, toTag } = await answered(t);
    call.session.hangup();
    await pass(10);
    peer.request({ method: 'BYE', cseq: 2, toTag });
    await pass(10);
    t.same(peer.heard, ['BYE', '200 BYE']);
    t.equal(call.ends, 1);
    peer.respond(peer.last('BYE'), 481);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('a peer that forgets to answer BYE is given up after timer F', async (t) => {
    const { us, peer, pass, call } = await answered(t);
    call.session.hangup();
    await pass(33_000);
    t.equal(peer.count('BYE'), 11);
    isEmpty(t, us);
  });

  t.test('a re-INVITE is an offer; its 2xx waits for ACK and moves the target', async (t) => {
    const { world, peer, pass, call, toTag } = await answered(t);
    const list = offers(call.session);
    const moved = await world.peer('10.0.0.3', 5070);

    const headers: [string, string][] = [['Contact', '<sip:peer@10.0.0.3:5070>']];
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: `${SDP}a=sendonly\r\n`, headers });
    await pass(10);
    t.match(list[0]?.sdp, /sendonly/);
    list[0]?.answer(SDP);
    await pass(700);
    t.equal(peer.count('200 INVITE'), 2);
    peer.request({ method: 'ACK', cseq: 2, toTag });
    await pass(10);
    call.session.hangup();
    await pass(10);

    // Two Contacts came; the first is the dialog's. The peer did not move.
    t.equal(peer.count('BYE') + moved.count('BYE'), 1);
    t.same(call.events.slice(0, 2), ['acknowledged', 'acknowledged']);
  });

  t.test('a re-INVITE that is refused leaves the call as it was', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    const list = offers(call.session);
    const before = call.session.record();

    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP, branch: 'z9hG4bKre' });
    await pass(10);
    list[0]?.refuse(488, 'no');
    list[0]?.answer(SDP);
    await pass(10);
    peer.request({ method: 'ACK', cseq: 2, toTag, branch: 'z9hG4bKre' });
    await pass(100);

    t.same(peer.heard, ['488 INVITE']);
    t.equal(call.session.state, 'confirmed');
    t.same(call.session.record(), { ...before, remoteSequence: 2 });
  });

  t.test('a re-INVITE that nobody hears is 488', async (t) => {
    const { peer, pass, toTag } = await answered(t);
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP });
    await pass(10);
    t.same(peer.heard, ['488 INVITE']);
  });

  t.test('a second re-INVITE while the first is open is 500 with Retry-After', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    offers(call.session);
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP });
    peer.request({ method: 'INVITE', cseq: 3, toTag, body: SDP });
    await pass(10);
    t.same(peer.heard, ['500 INVITE']);
    t.match(peer.last('500 INVITE').header('Retry-After'), /^\d+$/);
  });

  t.test('a re-INVITE can be canceled, and the call goes on', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    offers(call.session);
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP, branch: 'z9hG4bKre' });
    await pass(10);
    peer.request({ method: 'CANCEL', cseq: 2, toTag, branch: 'z9hG4bKre' });
    await pass(10);
    t.same(peer.heard, ['200 CANCEL', '487 INVITE']);
    t.equal(call.session.state, 'confirmed');
  });

  t.test('a re-INVITE that overtakes the ACK proves the ACK', async (t) => {
    const { peer, pass, call } = await ringing(t);
    const list = offers(call.session);
    call.session.accept(SDP);
    await pass(10);
    const { toTag } = peer.last('200 INVITE');
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP });
    await pass(5000);
    t.equal(list.length, 1);
    t.equal(peer.count('200 INVITE'), 1, 'no more repetitions');
    t.same(call.events, ['acknowledged']);
  });

  t.test('glare: while ours is out, theirs gets 491', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    offers(call.session);
    const ours = reoffered(call.session, SDP);
    await pass(10);
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP });
    await pass(10);
    t.same(peer.heard, ['INVITE', '491 INVITE']);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    t.same(await after(pass, 10, ours), { sdp: SDP });
    t.equal(peer.heard.at(-1), 'ACK');
  });

  t.test('glare: 491 to ours is waited out by who made the Call-ID for 2.1 to 4 s', async (t) => {
    const { peer, pass, call } = await talking(t);
    const ours = reoffered(call.session, SDP);
    await pass(10);
    peer.respond(peer.last('INVITE'), 491);
    await pass(2100);
    t.equal(peer.count('INVITE'), 1);
    await pass(2000);
    t.equal(peer.last('INVITE').cseq, 3, 'a new one');
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    t.same(await after(pass, 10, ours), { sdp: SDP });
  });

  t.test('glare: the other side waits for up to 2 s, and gives up in the end', async (t) => {
    const { peer, pass, call } = await answered(t);
    const ours = reoffered(call.session, SDP).catch((error) => error.code);
    peer.onMessage = (message) => {
      if (message.method === 'INVITE' && message.isRequest) peer.respond(message, 491);
    };
    await pass(2050);
    t.equal(peer.count('INVITE') > 1, true);
    t.equal(await after(pass, 10_000, ours), 'SIP_GLARE');
    t.equal(call.session.state, 'confirmed');
  });

  t.test('a re-INVITE of ours that is refused leaves the call as it was', async (t) => {
    const { peer, pass, call } = await talking(t);
    const ours = reoffered(call.session, SDP).catch((error) => error.details.status);
    await pass(10);
    peer.respond(peer.last('INVITE'), 488);
    t.equal(await after(pass, 10, ours), 488);
    t.same(peer.heard, ['INVITE', 'ACK']);
    t.equal(call.session.state, 'confirmed');
  });

  t.test('481 to a re-INVITE of ours ends the call', async (t) => {
    const { us, peer, pass, call } = await talking(t);
    const ours = reoffered(call.session, SDP).catch((error) => error.code);
    await pass(10);
    peer.respond(peer.last('INVITE'), 481);
    t.equal(await after(pass, 10, ours), 'SIP_NO_DIALOG');
    t.match(call.events, ['answered', 'ended timeout SIP_NO_DIALOG 481']);
    t.equal(peer.heard.at(-1), 'BYE');
    peer.respond(peer.last('BYE'), 481);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('requests out of order are 500, other requests what they deserve', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    const ask = async (method: string, cseq: number, more = {}): Promise<string> => {
      peer.request({ method, cseq, toTag, ...more });
      await pass(10);
      return peer.heard.at(-1) ?? '';
    };

    t.equal(await ask('OPTIONS', 2), '200 OPTIONS');
    t.match(peer.last('200 OPTIONS').header('Allow'), /INVITE/);
    t.equal(await ask('BYE', 1), '500 BYE');
    t.equal(await ask('UPDATE', 3), '200 UPDATE');
    t.equal(await ask('PRACK', 3), '481 PRACK');
    t.equal(await ask('REFER', 4), '603 REFER');
    t.equal(await ask('FROB', 4), '501 FROB');
    t.equal(await ask('INFO', 5), '200 INFO');
    t.equal(await ask('INFO', 6, { body: 'x' }), '415 INFO');
    t.equal(await ask('INVITE', 7, { headers: [['Require', 'frob']] }), '420 INVITE');
    t.equal(peer.last('420 INVITE').header('Unsupported'), 'frob');
    t.equal(call.session.state, 'confirmed');
  });

  t.test('a request with a wrong tag or Call-ID is 481', async (t) => {
    const { peer, pass, toTag } = await answered(t);
    peer.request({ method: 'BYE', cseq: 2, toTag, fromTag: 'other' });
    peer.request({ method: 'BYE', cseq: 2, toTag, callId: 'other' });
    peer.request({ method: 'INFO', cseq: 2, toTag: 'other' });
    await pass(10);
    t.same(peer.heard, ['481 BYE', '481 BYE', '481 INFO']);
  });

  t.test('a digit in INFO is told once', async (t) => {
    const { peer, pass, call, toTag } = await answered(t);
    const info = (): void => {
      peer.raw(
        `INFO sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKinfo\r\n` +
          `From: <sip:peer@10.0.0.2>;tag=peer\r\nTo: <sip:us@10.0.0.1>;tag=${toTag}\r\n` +
          `Call-ID: call-1\r\nCSeq: 2 INFO\r\nMax-Forwards: 70\r\n` +
          `Content-Type: application/dtmf-relay\r\nContent-Length: 24\r\n\r\n` +
          `Signal=5\r\nDuration=250\r\n`,
      );
    };
    info();
    info();
    await pass(10);
    t.same(peer.heard, ['200 INFO', '200 INFO']);
    t.same(call.events, ['acknowledged', 'digit 5 250']);
  });
});

async function after<T>(
  pass: (durationMs: number) => Promise<void>,
  durationMs: number,
  promise: Promise<T>,
): Promise<T> {
  await pass(durationMs);
  return promise;
}

t.test('outgoing', async (t) => {
  t.test('rings, is answered, is acknowledged as often as the answer comes', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    const invite = peer.last('INVITE');
    t.equal(invite.header('From'), `"Us \\"quoted\\"" <sip:us@10.0.0.1>;tag=${call.session.id}`);

    peer.respond(invite, 100);
    peer.respond(invite, 180);
    await pass(5000);
    t.equal(peer.count('INVITE'), 1, 'a provisional response stops timer A');
    peer.respond(invite, 183, { body: SDP });
    await pass(10);
    peer.respond(invite, 200, { body: SDP });
    await pass(500);
    peer.respond(invite, 200, { body: SDP });
    await pass(10);

    t.same(call.events, ['180', `183 ${SDP.length}`, 'answered']);
    t.equal(peer.count('ACK'), 2);
    t.equal(peer.last('ACK').uri, 'sip:peer@10.0.0.2:5060');
    t.equal(peer.last('ACK').cseq, 1);
    call.session.hangup();
    await pass(10);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('a 2xx that comes when its transaction is gone is acknowledged again', async (t) => {
    const { peer, pass, call } = await calling(t);
    const invite = peer.last('INVITE');
    peer.respond(invite, 200, { body: SDP });
    await pass(40_000);
    peer.clear();
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.same(peer.heard, ['ACK']);
    t.same(call.events, ['answered']);
  });

  t.test('a peer that is not there: timer B', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    await pass(32_000);
    t.equal(peer.count('INVITE'), 7);
    t.same(call.events, ['ended timeout SIP_TIMEOUT 408']);
    isEmpty(t, us);
  });

  for (const [status, code] of [
    [486, 'CALL_BUSY'],
    [480, 'CALL_NO_ANSWER'],
    [404, 'SIP_REFUSED'],
    [603, 'SIP_REFUSED'],
    [302, 'SIP_REFUSED'],
  ] as const) {
    t.test(`${status} ends it as ${code}, and is acknowledged each time`, async (t) => {
      const { us, peer, pass, call } = await calling(t);
      const invite = peer.last('INVITE');
      peer.respond(invite, status, { headers: [['X-Why', 'because']] });
      peer.respond(invite, status);
      await pass(10);
      t.equal(peer.count('ACK'), 2);
      t.same(call.events, [`ended remote ${code} ${status}`]);
      t.ok(call.end?.headers.some(([name, value]) => name === 'X-Why' && value === 'because'));
      await pass(33_000);
      isEmpty(t, us);
    });
  }

  t.test('CANCEL waits for a provisional response', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    call.session.hangup();
    await pass(1000);
    t.equal(peer.count('CANCEL'), 0);
    t.same(call.events, ['ended local CALL_CANCELED 487']);

    const invite = peer.last('INVITE');
    peer.respond(invite, 180);
    await pass(10);
    t.equal(peer.count('CANCEL'), 1);
    const cancel = peer.last('CANCEL');
    t.equal(cancel.via.branch, invite.via.branch);
    t.equal(cancel.cseq, invite.cseq);
    peer.respond(cancel, 200);
    peer.respond(invite, 487);
    await pass(10);
    t.equal(peer.heard.at(-1), 'ACK');
    t.equal(call.events.length, 1);
    await pass(33_000);
    isEmpty(t, us);
  });

  t.test('CANCEL that crosses the answer: ACK, then BYE', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    const invite = peer.last('INVITE');
    peer.respond(invite, 180);
    await pass(10);
    call.session.hangup();
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.same(peer.heard, ['INVITE', 'CANCEL', 'ACK', 'BYE']);
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.equal(peer.heard.at(-1), 'ACK', 'the repeated answer is acknowledged, not ended twice');
    peer.respond(peer.last('CANCEL'), 200);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    t.equal(call.ends, 1);
    isEmpty(t, us);
  });

  t.test('an answer without a provisional response crosses the hang-up: ACK, BYE', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    call.session.hangup();
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    t.same(peer.heard, ['INVITE', 'ACK', 'BYE']);
    peer.respond(peer.last('BYE'), 200);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('a canceled peer that says nothing more is forgotten after 64*T1', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    peer.respond(peer.last('INVITE'), 180);
    await pass(10);
    call.session.hangup();
    await pass(33_000);
    t.equal(peer.count('CANCEL'), 11);
    isEmpty(t, us);
  });

  t.test('hanging up before the INVITE was sent sends nothing', async (t) => {
    const { us, peer, pass } = await scene(t);
    const call = new Witness(us.invite(CALL));
    call.session.hangup();
    await pass(1000);
    t.same(peer.heard, []);
    isEmpty(t, us);
  });

  t.test('it rings for as long as it is told', async (t) => {
    const { us, peer, pass, call } = await calling(t, { ringTimeoutMs: 20_000 });
    const invite = peer.last('INVITE');
    peer.respond(invite, 180);
    await pass(20_100);
    t.same(call.events, ['180', 'ended timeout CALL_NO_ANSWER 408']);
    t.equal(peer.heard.at(-1), 'CANCEL');
    peer.respond(peer.last('CANCEL'), 200);
    peer.respond(invite, 487);
    await pass(33_000);
    isEmpty(t, us);
  });

  t.test('a fork answers twice: the first is the call, the second gets ACK and BYE', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    const invite = peer.last('INVITE');
    peer.respond(invite, 200, { toTag: 'one', body: SDP });
    peer.respond(invite, 200, { toTag: 'two', body: SDP });
    await pass(10);

    const byes = peer.received.filter(({ method }) => method === 'BYE');
    const acks = peer.received.filter(({ method }) => method === 'ACK');
    t.same(
      byes.map(({ toTag }) => toTag),
      ['two'],
    );
    t.same(
      acks.map(({ toTag }) => toTag),
      ['one', 'two'],
    );
    t.same(call.events, ['answered']);
    peer.respond(peer.last('BYE'), 200);
    peer.respond(invite, 200, { toTag: 'two', body: SDP });
    await pass(10);
    t.equal(peer.count('BYE'), 1);
    t.equal(peer.last('ACK').toTag, 'two');
    await pass(40_000);
    t.equal(us.counts.sessions, 1);
    t.equal(us.counts.deadlines, 0);
  });

  t.test('BYE that overtakes the answer ends the call', async (t) => {
    const { us, peer, pass, call } = await calling(t);
    const invite = peer.last('INVITE');
    const { callId, fromTag } = invite;
    peer.request({ method: 'BYE', callId, fromTag: 'script', toTag: fromTag });
    await pass(10);
    peer.respond(invite, 200, { body: SDP });
    await pass(10);
    t.same(call.events, ['ended remote CALL_COMPLETED 200']);
    t.same(peer.heard, ['INVITE', '200 BYE', 'ACK', 'BYE']);
    peer.respond(peer.last('BYE'), 481);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('requests follow the route set of the answer, loose and strict', async (t) => {
    for (const [route, uri, rest] of [
      ['<sip:10.0.0.2;lr>', 'sip:peer@10.0.0.2:5060', '<sip:10.0.0.2;lr>'],
      ['<sip:10.0.0.2>', 'sip:10.0.0.2', '<sip:peer@10.0.0.2:5060>'],
    ] as const) {
      const { peer, pass } = await calling(t);
      peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [['Record-Route', route]] });
      await pass(10);
      t.equal(peer.last('ACK').uri, uri);
      t.equal(peer.last('ACK').header('Route'), rest);
    }
  });

  t.test('503 and silence lead to the next address of the name', async (t) => {
    const world = new SipWorld();
    t.teardown(() => world.close());
    const lookup = async (): Promise<string[]> => ['10.0.0.8', '10.0.0.9', '10.0.0.2'];
    const { Resolver } = await import('../src/sip/resolver.ts');
    const us = await world.endpoint('10.0.0.1', {
      resolver: new Resolver({ clock: world.clock, lookup }),
    });
    const busy = await world.peer('10.0.0.9');
    const good = await world.peer('10.0.0.2');

    const call = new Witness(us.invite({ ...CALL, uri: 'sip:them@example.org;transport=udp' }));
    await world.clock.advance(33_000);
    busy.respond(busy.last('INVITE'), 503);
    await world.clock.advance(10);
    good.respond(good.last('INVITE'), 200, { body: SDP });
    await world.clock.advance(10);

    t.same(call.events, ['answered']);
  });

  t.test('a name that does not resolve, a URI that is none', async (t) => {
    const { Resolver } = await import('../src/sip/resolver.ts');
    const world = new SipWorld();
    t.teardown(() => world.close());
    const lookup = (): Promise<string[]> => Promise.reject(new Error('ENOTFOUND'));
    const us = await world.endpoint('10.0.0.1', {
      resolver: new Resolver({ clock: world.clock, lookup }),
    });
    const uris = ['sip:a@example.org', 'http://example.org', 'sips:a@10.0.0.2', 'sip:a@224.0.0.1'];

    const calls = uris.map((uri) => new Witness(us.invite({ ...CALL, uri })));
    await world.clock.advance(3000);

    t.same(
      calls.map(({ end }) => end?.code),
      ['SIP_TRANSPORT', 'SIP_SCHEME', 'SIP_TRANSPORT', 'SIP_TRANSPORT'],
    );
    isEmpty(t, us);
  });

  t.test('a large request goes by TCP, and by UDP after all when that fails', async (t) => {
    const { world, us, peer, pass } = await scene(t);
    const uri = 'sip:them@10.0.0.2';
    const sdp = SDP + 'a=x\r\n'.repeat(300);

    us.invite({ ...CALL, uri, sdp });
    await pass(100);
    t.same(peer.heard, ['INVITE'], 'nobody listens on TCP there');
    t.equal(peer.last('INVITE').via.transport, 'UDP');

    const them = await world.endpoint('10.0.0.3');
    let transport = '';
    them.on('invite', (session) => {
      transport = session.source.transport;
      session.accept(SDP);
    });
    const call = new Witness(us.invite({ ...CALL, uri: 'sip:them@10.0.0.3', sdp }));
    await pass(100);
    t.equal(transport, 'tcp');
    t.same(call.events, ['answered']);
  });
});

t.test('challenges', async (t) => {
  const credentials = { username: 'alice', password: new Secret('s3cret'), realm: 'trunk' };
  const challenge = (nonce: string, more = ''): { headers: [string, string][] } => ({
    headers: [['WWW-Authenticate', `Digest realm="trunk", nonce="${nonce}", qop="auth"${more}`]],
  });

  t.test('is answered once per nonce, with a new CSeq on the same Call-ID', async (t) => {
    const { us, peer, pass, call } = await calling(t, { credentials });
    const first = peer.last('INVITE');
    peer.respond(first, 401, challenge('n1'));
    await pass(10);
    const second = peer.last('INVITE');
    t.equal(second.cseq, first.cseq + 1);
    t.equal(second.callId, first.callId);
    t.not(second.via.branch, first.via.branch);
    t.match(second.header('Authorization'), /username="alice".*nonce="n1"/);
    t.notMatch(second.header('Authorization'), /s3cret/);

    peer.respond(second, 401, challenge('n2'));
    await pass(10);

    t.same(call.events, ['ended remote SIP_REFUSED 401']);
    t.equal(peer.count('INVITE'), 2);
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('a stale nonce is worth another try', async (t) => {
    const { peer, pass, call } = await calling(t, { credentials });
    peer.respond(peer.last('INVITE'), 401, challenge('n1'));
    await pass(10);
    peer.respond(peer.last('INVITE'), 401, challenge('n2', ', stale=true'));
    await pass(10);
    t.match(peer.last('INVITE').header('Authorization'), /nonce="n2"/);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    t.same(call.events, ['answered']);
  });

  t.test('BYE and re-INVITE are challenged on their own', async (t) => {
    const { us, peer, pass, call } = await calling(t, { credentials });
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await pass(10);
    const ours = reoffered(call.session, SDP);
    await pass(10);
    const proxy = 'Digest realm="trunk", nonce="n1", algorithm=SHA-256, qop="auth"';
    peer.respond(peer.last('INVITE'), 407, { headers: [['Proxy-Authenticate', proxy]] });
    await pass(10);
    t.match(peer.last('INVITE').header('Proxy-Authorization'), /alice/);
    peer.respond(peer.last('INVITE'), 200, { body: SDP });
    await after(pass, 10, ours);
    call.session.hangup();
    await pass(10);
    peer.respond(peer.last('BYE'), 401, challenge('n1'));
    await pass(10);
    t.match(peer.last('BYE').header('Authorization'), /alice/);
    peer.respond(peer.last('BYE'), 401, challenge('n1'));
    await pass(40_000);
    t.equal(peer.count('BYE') > 2, false);
    isEmpty(t, us);
  });

  t.test('no other realm, and nobody but who was asked, gets an answer', async (t) => {
    const { world, peer, pass, call } = await calling(t, { credentials });
    const thief = await world.peer('10.6.6.6');
    const invite = peer.last('INVITE');

    thief.respond(invite, 401, challenge('n1'));
    await pass(10);
    t.equal(peer.count('INVITE'), 1);
    t.equal(thief.count('INVITE'), 0);
    t.same(call.events, ['ended remote SIP_REFUSED 401']);

    const other = new Witness(call.session);
    t.equal(other.events.length, 0);
    const { peer: peer2, pass: pass2, call: call2 } = await calling(t, { credentials });
    const strange = 'Digest realm="elsewhere", nonce="n1"';
    peer2.respond(peer2.last('INVITE'), 401, { headers: [['WWW-Authenticate', strange]] });
    await pass2(10);
    t.equal(peer2.count('INVITE'), 1);
    t.same(call2.events, ['ended remote SIP_REFUSED 401']);
  });

  t.test('without credentials a challenge is a refusal', async (t) => {
    const { peer, pass, call } = await calling(t);
    peer.respond(peer.last('INVITE'), 401, challenge('n1'));
    await pass(10);
    t.same(call.events, ['ended remote SIP_REFUSED 401']);
  });
});

t.test('a session brought back from its record', async (t) => {
  const { world, us, peer, pass, call, toTag } = await answered(t);
  const record = JSON.parse(JSON.stringify(call.session.record()));
  await us.close();
  const again = await world.endpoint('10.0.0.1');

  const session = again.restore(record);
  const witness = new Witness(session);
  session.on('offer', (offer) => offer.answer(SDP));
  peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP });
  await pass(10);
  t.same(peer.heard, ['200 INVITE']);
  peer.request({ method: 'ACK', cseq: 2, toTag });
  await pass(10);
  const ours = reoffered(session, SDP);
  await pass(10);
  peer.respond(peer.last('INVITE'), 200, { body: SDP });
  t.same(await after(pass, 10, ours), { sdp: SDP });
  peer.request({ method: 'BYE', cseq: 3, toTag });
  await pass(10);

  t.same(witness.events, ['acknowledged', 'ended remote CALL_COMPLETED 200']);
  await pass(40_000);
  isEmpty(t, again);
  t.throws(() => again.restore({ ...record, state: 'early' }), { code: 'SIP_NO_DIALOG' });
});

/** What one side of a call does, by chance, as long as the call stands. */
class Walker {
  readonly #world: SipWorld;
  readonly #random: () => number;
  readonly witness: Witness;
  offers = 0;
  answers = 0;

  constructor(options: { world: SipWorld; random: () => number; session: Session }) {
    this.#world = options.world;
    this.#random = options.random;
    this.witness = new Witness(options.session);
    options.session.on('offer', (offer) => {
      this.#later(300, () => {
        if (this.#random() < 0.8) offer.answer(SDP);
        else offer.refuse(488, 'not now');
      });
    });
  }

  decide(): void {
    const { session } = this.witness;
    const chance = this.#random();
    if (chance < 0.5) this.#later(500, () => session.progress(180));
    if (chance < 0.75) this.#later(4000, () => session.accept(SDP));
    else if (chance < 0.9) this.#later(4000, () => session.reject(chance < 0.8 ? 486 : 603));
    // The others ring until the caller has enough.
  }

  live(): void {
    const { session } = this.witness;
    if (this.#random() < 0.4) this.#later(20_000, () => session.hangup());
    for (let i = 0; i < 2; i += 1) {
      if (this.#random() < 0.5) this.#later(15_000, () => this.#offer());
    }
  }

  #offer(): void {
    this.offers += 1;
    reoffered(this.witness.session, SDP).then(
      () => {
        this.answers += 1;
      },
      () => {},
    );
  }

  #later(withinMs: number, fn: () => void): void {
    this.#world.clock.timer(this.#random() * withinMs, fn);
  }
}

t.test('1,000 calls in bad weather all end, once, and leave nothing', async (t) => {
  const random = seededRandom(SEED);
  const weather = { loss: 0.2, duplication: 0.1, delayMinMs: 5, delayMaxMs: 250 };
  const world = new SipWorld({ weather });
  world.network.isRecording = false;
  const near = await world.endpoint('10.0.0.1');
  const far = await world.endpoint('10.0.0.2');
  const walkers: Walker[] = [];
  const walk = (session: Session): Walker => {
    const walker = new Walker({ world, random, session });
    walkers.push(walker);
    return walker;
  };
  far.on('invite', (session) => {
    const walker = walk(session);
    walker.decide();
    session.on('acknowledged', () => walker.live());
  });

  for (let i = 0; i < 1000; i += 1) {
    world.clock.timer(random() * 30_000, () => {
      const transport = random() < 0.2 ? 'tcp' : 'udp';
      const uri = `sip:them@10.0.0.2;transport=${transport}`;
      const { session } = walk(near.invite({ ...CALL, uri, ringTimeoutMs: 30_000 })).witness;
      session.once('answered', () =>
        walkers.find(({ witness }) => witness.session === session)?.live(),
      );
      if (random() < 0.2) world.clock.timer(random() * 5000, () => session.hangup());
    });
  }
  await world.clock.advance(70_000);
  for (const { witness } of walkers) witness.session.hangup();
  // Long enough for the last idle connection as well.
  await world.clock.advance(1_000_000);

  const seed = `seed ${SEED}`;
  const inbound = walkers.filter(({ witness }) => witness.session.direction === 'in');
  const spoken = walkers.filter(({ witness }) => witness.events.includes('answered'));
  t.ok(inbound.length > 800, `${inbound.length} calls came through, ${seed}`);
  t.ok(spoken.length > 400, `${spoken.length} were answered, ${seed}`);
  t.ok(
    walkers.some(({ answers }) => answers > 0),
    `offers were answered, ${seed}`,
  );
  for (const { witness } of walkers) {
    if (witness.ends !== 1) t.fail(`${witness.events.join(', ')}, ${seed}`);
  }
  isEmpty(t, near);
  isEmpty(t, far);
  await world.close();
});
