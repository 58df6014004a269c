/**
 * Session timers (RFC 4028) on a virtual clock: who refreshes, by what and when, intervals that are
 * too small, refreshers that die, timers that survive a restart.
 */
import t from 'tap';
import type { HeaderField } from '../src/sip/message.ts';
import { SDP } from './support/script-peer.ts';
import { answered, calling, incoming, isEmpty, talking, timerPolicy } from './support/sip-scene.ts';

const TIMER: HeaderField = ['Supported', 'timer'];
const ALLOWS: HeaderField = ['Allow', 'INVITE, ACK, BYE, CANCEL, UPDATE'];

function expires(value: string): HeaderField {
  return ['Session-Expires', value];
}

t.test('called', async (t) => {
  t.test('who asks for a timer gets it, and refreshes it', async (t) => {
    const { peer, pass, session, toTag, call } = await answered(t, {
      headers: [TIMER, expires('1800')],
    });
    const ok = peer.last('200 INVITE');
    t.equal(ok.header('Session-Expires'), '1800;refresher=uac');
    t.equal(ok.header('Require'), 'timer');
    t.match(ok.header('Supported'), /timer/);

    for (const cseq of [2, 3]) {
      await pass(900_000);
      const headers = [TIMER, expires('1800;refresher=uac')];
      peer.request({ method: 'UPDATE', cseq, toTag, headers });
      await pass(10);
      t.equal(peer.last('200 UPDATE').header('Session-Expires'), '1800;refresher=uac');
    }
    await pass(1_767_900);
    t.equal(session.state, 'confirmed');
    await pass(200);
    t.equal(peer.heard.at(-1), 'BYE', '32 s before its time is over');
    t.same(call.events, ['acknowledged', 'ended timeout SIP_SESSION_EXPIRED 408']);
  });

  t.test('a short session ends after two thirds of its time', async (t) => {
    const { peer, pass } = await answered(t, { headers: [TIMER, expires('90;refresher=uac')] });
    await pass(59_900);
    t.equal(peer.count('BYE'), 0);
    await pass(200);
    t.equal(peer.count('BYE'), 1);
  });

  t.test('or leaves it to us: UPDATE at half of it, where that is allowed', async (t) => {
    const { peer, pass, session } = await answered(t, {
      headers: [TIMER, ALLOWS, expires('1800;refresher=uas')],
    });
    t.equal(peer.last('200 INVITE').header('Require'), undefined);
    await pass(899_900);
    t.equal(peer.count('UPDATE'), 0);
    await pass(200);
    const update = peer.last('UPDATE');
    t.equal(update.header('Session-Expires'), '1800;refresher=uac', 'who asks now is the UAC');
    t.equal(update.header('Min-SE'), '90');
    t.equal(update.body, '');
    peer.respond(update, 200, { headers: [expires('1800;refresher=uac')] });
    await pass(900_100);
    t.equal(peer.count('UPDATE'), 2);
    t.equal(session.state, 'confirmed');
  });

  t.test('and re-INVITE with the same description, where it is not', async (t) => {
    const { peer, pass, session } = await answered(t, {
      headers: [TIMER, expires('1800;refresher=uas')],
    });
    const refreshed: boolean[] = [];
    session.on('reoffered', ({ isRefresh, sdp }) => refreshed.push(isRefresh && sdp === SDP));
    await pass(900_100);
    const invite = peer.last('INVITE');
    t.equal(invite.body, SDP, 'origin and version too');
    t.equal(invite.header('Session-Expires'), '1800;refresher=uac');
    peer.respond(invite, 200, { body: SDP, headers: [expires('1800;refresher=uac')] });
    await pass(10);
    t.equal(peer.heard.at(-1), 'ACK');
    t.same(refreshed, [true]);
  });

  t.test('an interval that is too small is 422; of who knows no timers it is not', async (t) => {
    const small = await incoming(t, { headers: [TIMER, expires('60')] });
    small.session.accept(SDP);
    await small.pass(10);
    t.same(small.peer.heard, ['422 INVITE']);
    t.equal(small.peer.last('422 INVITE').header('Min-SE'), '90');
    t.same(small.call.events, ['ended local CALL_REJECTED 422']);

    const proxy = await incoming(t, { headers: [expires('60')] });
    proxy.session.accept(SDP);
    await proxy.pass(10);
    t.equal(proxy.peer.last('200 INVITE').header('Session-Expires'), '90;refresher=uas');
  });

  t.test('policy: off, request, require', async (t) => {
    const off = await answered(t, {
      headers: [TIMER, expires('1800')],
      policy: { sessionTimer: timerPolicy({ mode: 'off' }) },
    });
    t.equal(off.peer.last('200 INVITE').header('Session-Expires'), undefined);
    await off.pass(7_200_000);
    t.equal(off.session.state, 'confirmed');

    const forced = await incoming(t, {
      headers: [['Require', 'timer']],
      policy: { sessionTimer: timerPolicy({ mode: 'off' }) },
    });
    forced.session.progress(180);
    await forced.pass(10);
    t.equal(forced.peer.last('420 INVITE').header('Unsupported'), 'timer');

    const asked = await answered(t, {
      policy: { sessionTimer: timerPolicy({ mode: 'request', expiresS: 600 }) },
    });
    t.equal(asked.peer.last('200 INVITE').header('Session-Expires'), '600;refresher=uas');

    const own = await incoming(t, { headers: [TIMER, ALLOWS, expires('20;refresher=uas')] });
    own.session.apply({ reliable: 'off', sessionTimer: timerPolicy({ minSeS: 20 }) });
    own.session.accept(SDP);
    await own.pass(10);
    own.peer.request({ method: 'ACK', toTag: own.peer.last('200 INVITE').toTag });
    await own.pass(10_100);
    t.equal(own.peer.last('UPDATE').header('Session-Expires'), '20;refresher=uac');
    t.equal(own.peer.last('UPDATE').header('Min-SE'), '20');

    const needed = await incoming(t, {
      policy: { sessionTimer: timerPolicy({ mode: 'require' }) },
    });
    needed.session.accept(SDP);
    await needed.pass(10);
    t.equal(needed.peer.last('421 INVITE').header('Require'), 'timer');
  });

  t.test('a re-INVITE without a word of it keeps it; a 422 to one changes nothing', async (t) => {
    const { peer, pass, toTag, offers, session } = await answered(t, {
      headers: [TIMER, expires('1800;refresher=uac')],
    });
    peer.request({ method: 'INVITE', cseq: 2, toTag, body: SDP, headers: [TIMER, expires('30')] });
    await pass(10);
    t.equal(peer.heard.at(-1), '422 INVITE');
    peer.request({ method: 'INVITE', cseq: 3, toTag, body: SDP, headers: [TIMER] });
    await pass(10);
    offers[0]?.answer(SDP);
    await pass(10);
    t.equal(peer.last('200 INVITE').header('Session-Expires'), '1800;refresher=uac');
    t.equal(session.state, 'confirmed');
  });
});

t.test('calling', async (t) => {
  const request = timerPolicy({ mode: 'request', expiresS: 1800 });

  t.test('what the peer asks for is taken where policy only accepts', async (t) => {
    const { peer, pass, call } = await talking(t, {}, [expires('600;refresher=uas')]);
    await pass(567_900);
    t.equal(peer.count('BYE'), 0);
    await pass(200);
    t.equal(peer.count('BYE'), 1);
    t.same(call.events.at(-1), 'ended timeout SIP_SESSION_EXPIRED 408');
  });

  t.test('a 2xx without a timer means that there is none', async (t) => {
    const { pass, session } = await talking(t, { sessionTimer: request });
    await pass(10_000_000);
    t.equal(session.state, 'confirmed');
  });

  t.test('422 makes us ask for more, and two that disagree do not loop', async (t) => {
    const { peer, pass, call } = await calling(t, { sessionTimer: request });
    const invite = peer.last('INVITE');
    t.equal(invite.header('Session-Expires'), '1800');
    t.equal(invite.header('Min-SE'), '90');
    peer.respond(invite, 422, { headers: [['Min-SE', '3600']] });
    await pass(10);
    const again = peer.last('INVITE');
    t.equal(again.header('Session-Expires'), '3600');
    t.equal(again.header('Min-SE'), '3600');
    t.equal(again.cseq, 2);
    t.equal(again.callId, invite.callId);

    peer.respond(again, 422, { headers: [['Min-SE', '4000']] });
    await pass(10);
    peer.respond(peer.last('INVITE'), 422, { headers: [['Min-SE', '5000']] });
    await pass(10);
    t.equal(peer.last('INVITE').cseq, 4);
    peer.respond(peer.last('INVITE'), 422, { headers: [['Min-SE', '6000']] });
    await pass(1000);
    t.equal(peer.last('INVITE').cseq, 4, 'bounded');
    t.same(call.events, ['ended remote SIP_REFUSED 422']);
  });

  t.test('a 422 that asks for no more than we did is final', async (t) => {
    const { peer, pass, call } = await calling(t, { sessionTimer: request });
    peer.respond(peer.last('INVITE'), 422, { headers: [['Min-SE', '90']] });
    await pass(10);
    t.same(call.events, ['ended remote SIP_REFUSED 422']);
  });

  t.test('a refresh that is 422 goes again; one with 405 goes by re-INVITE', async (t) => {
    const { peer, pass } = await talking(t, { sessionTimer: request }, [
      expires('1800;refresher=uac'),
      ALLOWS,
    ]);
    await pass(900_100);
    peer.respond(peer.last('UPDATE'), 422, { headers: [['Min-SE', '2400']] });
    await pass(10);
    t.equal(peer.last('UPDATE').header('Session-Expires'), '2400;refresher=uac');
    peer.respond(peer.last('UPDATE'), 405);
    await pass(10);
    t.equal(peer.heard.at(-1), 'INVITE');
    t.equal(peer.last('INVITE').body, SDP);
    peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [expires('2400;refresher=uac')] });
    await pass(1_200_100);
    t.equal(peer.count('INVITE'), 2);
  });

  t.test('a refresh that is refused goes again, until the time is over', async (t) => {
    const { peer, pass, call } = await talking(t, { sessionTimer: request }, [
      expires('90;refresher=uac'),
      ALLOWS,
    ]);
    peer.onMessage = (message) => {
      if (message.method === 'UPDATE' && message.isRequest) peer.respond(message, 603);
    };
    await pass(45_100);
    t.equal(peer.count('UPDATE'), 1);
    await pass(14_800);
    t.equal(peer.count('UPDATE'), 3);
    await pass(200);
    t.equal(peer.heard.at(-1), 'BYE');
    t.same(call.events.at(-1), 'ended timeout SIP_SESSION_EXPIRED 408');
  });

  t.test('a peer that forgot the call, or is gone, ends it', async (t) => {
    for (const status of [481, 0]) {
      const { peer, pass, call, us } = await talking(t, { sessionTimer: request }, [
        expires('1800;refresher=uac'),
        ALLOWS,
      ]);
      await pass(900_100);
      if (status > 0) peer.respond(peer.last('UPDATE'), status);
      await pass(32_100);
      t.equal(peer.last('BYE').method, 'BYE');
      t.same(call.events, ['answered', 'ended timeout SIP_NO_DIALOG 481']);
      peer.respond(peer.last('BYE'), 481);
      await pass(40_000);
      isEmpty(t, us);
    }
  });

  t.test('a refresh waits for a change that is under way', async (t) => {
    const { peer, pass, session } = await talking(t, { sessionTimer: request }, [
      expires('1800;refresher=uac'),
      ALLOWS,
    ]);
    await pass(899_000);
    session.reoffer(SDP.replace('1 1', '1 2'));
    await pass(2000);
    t.same(peer.heard.includes('UPDATE'), false);
    t.equal(peer.last('INVITE').header('Session-Expires'), '1800;refresher=uac');
    peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [expires('1800;refresher=uac')] });
    await pass(10_000);
    t.equal(peer.count('UPDATE'), 0, 'which was a refresh itself');
    await pass(890_100);
    t.equal(peer.count('UPDATE'), 1);
  });
});

t.test('a timer survives its process', async (t) => {
  const { world, us, peer, pass, session } = await talking(t, {}, [
    expires('1800;refresher=uac'),
    ['Require', 'timer'],
  ]);
  await pass(300_000);
  const record = JSON.parse(JSON.stringify(session.record()));
  t.match(record.timer, { expiresS: 1800, isRefresher: true });
  t.equal(record.localSdp, SDP);
  await us.close();
  await pass(100_000);
  const again = await world.endpoint('10.0.0.1');
  const restored = again.restore(record);
  t.same(restored.record(), record);
  await pass(499_800);
  t.equal(peer.count('INVITE'), 0);
  await pass(400);
  t.equal(peer.last('INVITE').body, SDP, '900 s after the answer, whatever was in between');
  peer.respond(peer.last('INVITE'), 200, { body: SDP, headers: [expires('1800;refresher=uac')] });
  await pass(900_100);
  t.equal(peer.count('INVITE'), 2);
});

t.test('a timer that ran out while nobody was there ends the call at once', async (t) => {
  const { world, us, peer, pass, session } = await talking(t, {}, [expires('90;refresher=uas')]);
  const record = session.record();
  t.equal(record.localSdp, undefined);
  await us.close();
  await pass(100_000);
  const again = await world.endpoint('10.0.0.1');
  again.restore(record);
  await pass(20);
  t.same(peer.heard, ['BYE']);
});
