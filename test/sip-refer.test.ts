/**
 * REFER both ways and the subscription it makes (RFC 3515, 3892, 4488, 6665), Replaces (RFC 3891),
 * INFO packages (RFC 6086), on a simulated network.
 */
import t, { type Test } from 'tap';
import type { HeaderField, SipMessage } from '../src/sip/message.ts';
import { parseReplaces, writeReplaces } from '../src/sip/replaces.ts';
import type { Session } from '../src/sip/session.ts';
import type { InfoMessage, ReferProgress, Referral } from '../src/sip/side-report.ts';
import { SDP } from './support/script-peer.ts';
import { answered, type Call, incoming, isEmpty, scene, talking } from './support/sip-scene.ts';

const ACCEPT = { policy: { refer: 'accept' } } as const;
const REFER_TO: HeaderField = ['Refer-To', '<sip:carol@10.0.0.3>'];

/** A call whose peer may refer; what it asks for is kept. */
async function referable(
  t: Test,
): Promise<Awaited<ReturnType<typeof answered>> & { referrals: Referral[] }> {
  const stage = await answered(t, ACCEPT);
  const referrals: Referral[] = [];
  stage.session.on('refer', (referral) => referrals.push(referral));
  stage.peer.clear();
  return { ...stage, referrals };
}

/** What each NOTIFY said: state of the subscription and status line. */
function notified({ peer }: Pick<Call, 'peer'>): string[] {
  return peer.received
    .filter((message) => message.isRequest && message.method === 'NOTIFY')
    .map((notify) => `${stateOf(notify)} ${notify.body.trim()}`);
}

function stateOf(notify: SipMessage): string {
  return (notify.header('Subscription-State') ?? '').replace(/expires=\d+/, 'expires');
}

/** The peer answers every request of ours. */
function agreeable({ peer }: Pick<Call, 'peer'>, status = 200): void {
  peer.onMessage = (message) => {
    if (message.isRequest && message.method !== 'ACK') peer.respond(message, status);
  };
}

t.test('REFER of the peer', async (t) => {
  t.test('accepted, it is told the truth, and the subscription ends with it', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals, us } = stage;
    agreeable(stage);

    const by: HeaderField = ['Referred-By', '<sip:alice@10.0.0.2>'];
    peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO, by] });
    await pass(10);
    const [referral] = referrals;
    t.match(referral, { uri: 'sip:carol@10.0.0.3', replaces: null, id: '2', referredBy: by[1] });
    t.equal(peer.count('202 REFER'), 0, 'nothing is said before somebody decides');
    referral?.accept();
    await pass(10);
    t.ok(peer.last('202 REFER').header('Contact'));
    const first = peer.last('NOTIFY');
    t.equal(first.header('Event'), 'refer');
    t.equal(first.header('Content-Type'), 'message/sipfrag;version=2.0');
    referral?.tell(180);
    await pass(10);
    let told = 0;
    referral?.whenTold(() => {
      told += 1;
    });
    referral?.tell(486, 'Busy Here');
    await pass(10);
    referral?.tell(200);
    await pass(1000);
    t.same(notified(stage), [
      'active;expires SIP/2.0 100 Trying',
      'active;expires SIP/2.0 180 Ringing',
      'terminated;reason=noresource SIP/2.0 486 Busy Here',
    ]);
    t.equal(told, 1);
    peer.request({ method: 'BYE', cseq: 3, toTag });
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('NOTIFYs never overtake each other, and old news is left out', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO] });
    await pass(10);

    referrals[0]?.accept();
    for (const status of [180, 183, 200]) referrals[0]?.tell(status);
    await pass(100);
    t.equal(notified(stage).length, 1, 'the first has no answer yet');
    peer.respond(peer.last('NOTIFY'), 200);
    await pass(10);
    t.same(notified(stage).slice(1), ['terminated;reason=noresource SIP/2.0 200 OK']);
  });

  t.test('several at once are told apart by id', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    agreeable(stage);
    for (const cseq of [2, 3]) {
      peer.request({ method: 'REFER', cseq, toTag, headers: [REFER_TO] });
      await pass(10);
      referrals.at(-1)?.accept();
      await pass(10);
    }
    referrals[0]?.tell(200);
    referrals[1]?.tell(404);
    await pass(10);
    const said = peer.received.flatMap((message) => {
      return message.method === 'NOTIFY' && message.isRequest
        ? [`${message.header('Event')} ${message.body.slice(8, 11)}`]
        : [];
    });
    t.same(said, ['refer 100', 'refer;id=3 100', 'refer 200', 'refer;id=3 404']);
  });

  t.test('too many at once wait', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag } = stage;
    for (let cseq = 2; cseq < 7; cseq++) {
      peer.request({ method: 'REFER', cseq, toTag, headers: [REFER_TO] });
    }
    await pass(10);
    t.equal(peer.last('480 REFER').cseq, 6);
  });

  t.test('SUBSCRIBE refreshes, and ends with 0', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    agreeable(stage);
    peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO] });
    await pass(10);
    referrals[0]?.accept();
    await pass(10);
    const event: HeaderField = ['Event', 'refer;id=2'];
    const subscribe = async (cseq: number, ...headers: HeaderField[]): Promise<string> => {
      peer.request({ method: 'SUBSCRIBE', cseq, toTag, headers });
      await pass(10);
      return peer.heard.findLast((heard) => heard.endsWith('SUBSCRIBE')) ?? '';
    };

    t.equal(await subscribe(3, event, ['Expires', '30']), '200 SUBSCRIBE');
    t.equal(peer.last('200 SUBSCRIBE').header('Expires'), '30');
    t.equal(await subscribe(4, ['Event', 'presence']), '489 SUBSCRIBE');
    t.equal(await subscribe(5, ['Event', 'refer;id=9']), '481 SUBSCRIBE');
    t.equal(await subscribe(6, event, ['Expires', '0']), '200 SUBSCRIBE');
    t.equal(notified(stage).at(-1), 'terminated;reason=timeout SIP/2.0 100 Trying');
    const count = notified(stage).length;
    referrals[0]?.tell(200);
    await pass(1000);
    t.equal(notified(stage).length, count, 'nobody wants to know');
    t.equal(await subscribe(7, event), '481 SUBSCRIBE');
  });

  t.test('a subscription that nobody refreshes times out', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    agreeable(stage);
    peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO] });
    await pass(10);
    referrals[0]?.accept();
    await pass(241_000);
    t.equal(notified(stage).at(-1), 'terminated;reason=timeout SIP/2.0 100 Trying');
  });

  t.test('it outlives BYE, and its end lets the dialog go', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals, us } = stage;
    agreeable(stage);
    peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO] });
    await pass(10);
    referrals[0]?.accept();
    peer.request({ method: 'BYE', cseq: 3, toTag });
    await pass(10);
    t.equal(stage.session.state, 'terminated');
    peer.request({ method: 'INFO', cseq: 4, toTag });
    await pass(10);
    t.equal(peer.heard.at(-1), '481 INFO');
    referrals[0]?.tell(200);
    await pass(10);
    t.equal(notified(stage).at(-1), 'terminated;reason=noresource SIP/2.0 200 OK');
    await pass(40_000);
    isEmpty(t, us);
  });

  t.test('481 to a NOTIFY ends the subscription, and so does silence', async (t) => {
    for (const status of [481, 0]) {
      const stage = await referable(t);
      const { peer, pass, toTag, referrals } = stage;
      if (status > 0) agreeable(stage, status);
      peer.request({ method: 'REFER', cseq: 2, toTag, headers: [REFER_TO] });
      await pass(10);
      referrals[0]?.accept();
      let told = false;
      referrals[0]?.whenTold(() => {
        told = true;
      });
      await pass(33_000);
      t.ok(told, String(status));
      peer.clear();
      referrals[0]?.tell(200);
      await pass(1000);
      t.same(peer.heard, [], 'nobody is told');
      t.equal(stage.session.state, 'confirmed', 'the call goes on');
    }
  });

  t.test('Refer-Sub: false is granted', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    const headers: HeaderField[] = [REFER_TO, ['Refer-Sub', 'false'], ['Require', 'norefersub']];
    peer.request({ method: 'REFER', cseq: 2, toTag, headers });
    await pass(10);
    referrals[0]?.accept();
    referrals[0]?.tell(200);
    await pass(1000);
    t.equal(peer.last('202 REFER').header('Refer-Sub'), 'false');
    t.same(notified(stage), []);
  });

  t.test('what it may ask for', async (t) => {
    const stage = await referable(t);
    const { peer, pass, toTag, referrals } = stage;
    const cases: [status: number | null, ...fields: HeaderField[]][] = [
      [400],
      [400, REFER_TO, REFER_TO],
      [400, ['Refer-To', 'nonsense']],
      [416, ['Refer-To', '<http://example.com>']],
      [501, ['Refer-To', '<sip:c@10.0.0.3;method=MESSAGE>']],
      [400, ['Refer-To', '<sip:c@10.0.0.3?Replaces=a%40b>']],
      [null, ['Refer-To', '<sip:c@10.0.0.3;method=INVITE>']],
      [null, ['Refer-To', '<sip:c@10.0.0.3?Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2&X-A=b>']],
      [null, ['Refer-To', '<sip:c@10.0.0.3?X-A=b%0D%0AVia%3A%20x&Via=y>']],
      [null, ['Refer-To', 'sip:c@10.0.0.3']],
    ];
    for (const [at, [status, ...headers]] of cases.entries()) {
      peer.clear();
      peer.request({ method: 'REFER', cseq: at + 2, toTag, headers });
      await pass(10);
      if (status !== null) t.equal(peer.heard.at(-1), `${status} REFER`, headers.join());
      else referrals.at(-1)?.refuse(403);
    }
    await pass(10);
    t.equal(referrals.length, 4);
    const replaces = { callId: 'a@b', toTag: '1', fromTag: '2', isEarlyOnly: false };
    t.match(referrals[1], { uri: 'sip:c@10.0.0.3', replaces, headers: [['X-A', 'b']] });
    t.same(referrals[2]?.headers, [], 'no field is smuggled in');
  });

  t.test('undecided it is declined, and so it is where nobody listens', async (t) => {
    const stage = await referable(t);
    stage.peer.request({ method: 'REFER', cseq: 2, toTag: stage.toTag, headers: [REFER_TO] });
    await stage.pass(8100);
    t.equal(stage.peer.heard.at(-1), '603 REFER');
    stage.session.removeAllListeners('refer');
    stage.peer.request({ method: 'REFER', cseq: 3, toTag: stage.toTag, headers: [REFER_TO] });
    await stage.pass(10);
    t.equal(stage.peer.last('603 REFER').cseq, 3);
  });

  t.test('Allow names it where policy lets it in, and nowhere else', async (t) => {
    const open = await answered(t, ACCEPT);
    t.match(open.peer.last('200 INVITE').header('Allow'), /REFER, SUBSCRIBE/);
    t.match(open.peer.last('200 INVITE').header('Supported'), /replaces, norefersub/);
    t.equal(open.peer.last('200 INVITE').header('Allow-Events'), 'refer');
    const closed = await answered(t);
    t.notMatch(closed.peer.last('200 INVITE').header('Allow'), /REFER/);
    t.notMatch(closed.peer.last('200 INVITE').header('Supported'), /replaces/);
    closed.peer.request({ method: 'OPTIONS', cseq: 2, toTag: closed.toTag });
    open.peer.request({ method: 'OPTIONS', cseq: 2, toTag: open.toTag });
    await open.pass(10);
    await closed.pass(10);
    t.match(open.peer.last('200 OPTIONS').header('Supported'), /replaces/);
    t.notMatch(closed.peer.last('200 OPTIONS').header('Allow'), /REFER/);
  });
});

t.test('REFER of ours', async (t) => {
  async function referring(t: Test): Promise<Call & { said: ReferProgress[]; fromTag: string }> {
    const stage = await talking(t);
    const said: ReferProgress[] = [];
    stage.session.on('referProgress', (progress) => said.push(progress));
    return { ...stage, said };
  }

  function notify(
    stage: Call & { fromTag: string },
    more: { cseq: number; body: string } & {
      state?: string;
      event?: string;
    },
  ): void {
    const { state = 'active;expires=60', event = 'refer', ...rest } = more;
    const invite = stage.session;
    stage.peer.request({
      method: 'NOTIFY',
      callId: invite.callId,
      fromTag: 'script',
      toTag: stage.fromTag,
      headers: [
        ['Event', event],
        ['Subscription-State', state],
        ['Content-Type', 'message/sipfrag'],
      ],
      ...rest,
    });
  }

  t.test('goes on until its NOTIFY says the end', async (t) => {
    const stage = await referring(t);
    const { peer, pass, session, said } = stage;
    const replaces = { callId: 'x@y', toTag: 'a', fromTag: 'b', isEarlyOnly: false };
    session.side.refer('sip:carol@10.0.0.3', { replaces, referredBy: 'sip:us@10.0.0.1' });
    await pass(10);
    const refer = peer.last('REFER');
    t.equal(
      refer.header('Refer-To'),
      '<sip:carol@10.0.0.3?Replaces=x%40y%3Bto-tag%3Da%3Bfrom-tag%3Db&Require=replaces>',
    );
    t.equal(refer.header('Referred-By'), '<sip:us@10.0.0.1>');
    peer.respond(refer, 202);
    await pass(10);
    notify(stage, { cseq: 1, body: 'SIP/2.0 100 Trying\r\n' });
    await pass(10);
    notify(stage, { cseq: 2, body: 'SIP/2.0 180 Ringing', event: `refer;id=${refer.cseq}` });
    await pass(10);
    notify(stage, { cseq: 3, body: 'SIP/2.0 200 OK\r\n', state: 'terminated;reason=noresource' });
    await pass(10);
    t.same(
      said.map(({ status, outcome, isOver }) => [status, outcome, isOver]),
      [
        [202, 0, false],
        [202, 100, false],
        [202, 180, false],
        [202, 200, true],
      ],
    );
    notify(stage, { cseq: 4, body: 'SIP/2.0 200 OK\r\n' });
    await pass(10);
    t.equal(peer.heard.at(-1), '481 NOTIFY', 'nobody waits for it any more');
  });

  t.test('a NOTIFY that overtakes the 202 counts', async (t) => {
    const stage = await referring(t);
    stage.session.side.refer('sip:carol@10.0.0.3', {});
    await stage.pass(10);
    notify(stage, { cseq: 1, body: 'SIP/2.0 603 Decline', state: 'terminated;reason=noresource' });
    await stage.pass(10);
    t.same(stage.said, []);
    stage.peer.respond(stage.peer.last('REFER'), 202);
    await stage.pass(10);
    t.match(stage.said, [{ status: 202, outcome: 603, isOver: true }]);
  });

  t.test('refused, unanswered, without a word, without a subscription', async (t) => {
    const refused = await referring(t);
    refused.session.side.refer('sip:carol@10.0.0.3', {});
    await refused.pass(10);
    refused.peer.respond(refused.peer.last('REFER'), 405);
    await refused.pass(10);
    t.match(refused.said, [{ status: 405, outcome: 0, isOver: true }]);

    const silent = await referring(t);
    silent.session.side.refer('sip:carol@10.0.0.3', {});
    await silent.pass(33_000);
    t.match(silent.said, [{ status: 408, outcome: 0, isOver: true }]);

    const wordless = await referring(t);
    wordless.session.side.refer('sip:carol@10.0.0.3', {});
    await wordless.pass(10);
    wordless.peer.respond(wordless.peer.last('REFER'), 202);
    await wordless.pass(241_000);
    t.match(wordless.said.at(-1), { status: 202, outcome: 0, isOver: true });

    const quiet = await referring(t);
    quiet.session.side.refer('sip:carol@10.0.0.3', {});
    await quiet.pass(10);
    quiet.peer.respond(quiet.peer.last('REFER'), 202, { headers: [['Refer-Sub', 'false']] });
    await quiet.pass(10);
    t.match(quiet.said, [{ status: 202, outcome: 0, isOver: true }]);
  });

  t.test('a peer that ends the call first is still heard', async (t) => {
    const stage = await referring(t);
    stage.session.side.refer('sip:carol@10.0.0.3', {});
    await stage.pass(10);
    stage.peer.respond(stage.peer.last('REFER'), 202);
    const { callId } = stage.session;
    const toTag = stage.fromTag;
    stage.peer.request({ method: 'BYE', cseq: 1, callId, fromTag: 'script', toTag });
    await stage.pass(10);
    notify(stage, { cseq: 2, body: 'SIP/2.0 200 OK', state: 'terminated;reason=noresource' });
    await stage.pass(10);
    t.match(stage.said.at(-1), { outcome: 200, isOver: true });
    await stage.pass(40_000);
    isEmpty(t, stage.us);
  });

  t.test('NOTIFY of another event is 489, and without REFER 481', async (t) => {
    const stage = await referring(t);
    notify(stage, { cseq: 1, body: 'SIP/2.0 200 OK', event: 'presence' });
    await stage.pass(10);
    t.equal(stage.peer.heard.at(-1), '489 NOTIFY');
    notify(stage, { cseq: 2, body: 'SIP/2.0 200 OK' });
    await stage.pass(10);
    t.equal(stage.peer.heard.at(-1), '481 NOTIFY');
  });
});

t.test('Replaces', async (t) => {
  const named = (toTag: string, more = ''): HeaderField => [
    'Replaces',
    `call-1;to-tag=${toTag};from-tag=peer${more}`,
  ];

  t.test('is read and written', async (t) => {
    const text = 'a@b;to-tag=1;from-tag=2;early-only';
    const read = parseReplaces(text);
    t.same(read, { callId: 'a@b', toTag: '1', fromTag: '2', isEarlyOnly: true });
    t.equal(read && writeReplaces(read), text);
    for (const bad of [
      '',
      'a@b',
      'a@b;to-tag=1',
      'a b;to-tag=1;from-tag=2',
      ';to-tag=1;from-tag=2',
    ]) {
      t.equal(parseReplaces(bad), null, bad);
    }
    t.equal(parseReplaces('a;to-tag=1;to-tag=2;from-tag=3'), null, 'twice');
  });

  t.test('names the session, or the INVITE is refused as RFC 3891 §3 says', async (t) => {
    const stage = await answered(t, ACCEPT);
    const { peer, pass, us, toTag, session } = stage;
    const came: Session[] = [];
    us.on('invite', (invited) => came.push(invited));
    let calls = 1;
    const invite = async (...headers: HeaderField[]): Promise<string> => {
      calls += 1;
      const callId = `call-${calls}`;
      const branch = `z9hG4bKr${calls}`;
      peer.request({ method: 'INVITE', callId, branch, headers, body: SDP, fromTag: 'new' });
      await pass(10);
      return peer.heard.at(-1) ?? '';
    };

    t.equal(await invite(named('nobody')), '481 INVITE');
    t.equal(await invite(['Replaces', `call-1;to-tag=${toTag};from-tag=other`]), '481 INVITE');
    t.equal(await invite(['Replaces', 'nonsense']), '400 INVITE');
    t.equal(await invite(named(toTag), named(toTag)), '400 INVITE');
    t.equal(await invite(named(toTag), ['Join', 'x;to-tag=1;from-tag=2']), '400 INVITE');
    t.equal(await invite(named(toTag, ';early-only')), '486 INVITE');
    const before = came.length;
    await invite(named(toTag), ['Require', 'replaces']);
    t.equal(came.length, before + 1);
    t.equal(came.at(-1)?.replaces, session.id);
    session.hangup();
    await pass(10);
    t.equal(await invite(named(toTag)), '603 INVITE', 'it has just ended');
  });

  t.test('one that rings here cannot be taken over, and none where policy forbids', async (t) => {
    const ringing = await incoming(t, ACCEPT);
    ringing.session.progress(180);
    await ringing.pass(10);
    const { toTag } = ringing.peer.last('180 INVITE');
    const headers = [named(toTag)];
    const again = { method: 'INVITE', callId: 'c2', branch: 'z9hG4bK2', headers, body: SDP };
    ringing.peer.request(again);
    await ringing.pass(10);
    t.equal(ringing.peer.heard.at(-1), '481 INVITE');

    const closed = await answered(t);
    closed.peer.request({ ...again, headers: [named(closed.toTag)] });
    await closed.pass(10);
    t.equal(closed.peer.heard.at(-1), '481 INVITE');
  });

  t.test('without it an INVITE begins a call', async (t) => {
    const { us, peer, pass } = await scene(t, { refer: 'accept' });
    const came: Session[] = [];
    us.on('invite', (session) => came.push(session));
    peer.request({ method: 'INVITE', body: SDP, headers: [['Require', 'replaces']] });
    await pass(10);
    t.equal(came[0]?.replaces, null);
  });
});

t.test('INFO', async (t) => {
  async function passing(t: Test): Promise<
    Awaited<ReturnType<typeof answered>> & {
      infos: InfoMessage[];
      ask(cseq: number, headers: HeaderField[], body: string): Promise<string>;
    }
  > {
    const stage = await answered(t);
    const { options } = { options: stage.us.sessionOptions };
    Object.assign(options, { infoPass: ['x-badge', 'application/x-note'], infoBytesMax: 32 });
    const infos: InfoMessage[] = [];
    stage.session.on('info', (info) => infos.push(info));
    const { peer, pass, toTag } = stage;
    const ask = async (cseq: number, headers: HeaderField[], body: string): Promise<string> => {
      peer.request({ method: 'INFO', cseq, toTag, headers, body });
      await pass(10);
      return peer.heard.at(-1) ?? '';
    };
    return { ...stage, infos, ask };
  }

  t.test('a package that policy names passes, another is 469 and told what does', async (t) => {
    const { peer, infos, ask, call } = await passing(t);
    const type: HeaderField = ['Content-Type', 'application/x-badge'];
    t.equal(await ask(2, [['Info-Package', 'X-Badge'], type], 'seven'), '200 INFO');
    t.same(infos, [{ package: 'X-Badge', contentType: 'application/x-badge', body: 'seven' }]);
    t.equal(await ask(3, [['Info-Package', 'other'], type], 'x'), '469 INFO');
    t.equal(peer.last('469 INFO').header('Recv-Info'), 'x-badge');
    t.equal(await ask(4, [['Content-Type', 'application/x-note']], 'a note'), '200 INFO');
    t.match(infos[1], { package: '', body: 'a note' });
    t.equal(await ask(5, [type], 'x'), '415 INFO');
    t.match(peer.last('415 INFO').header('Accept'), /dtmf-relay.*x-note/);
    t.equal(await ask(6, [['Info-Package', 'x-badge'], type], 'x'.repeat(33)), '413 INFO');
    const relay: HeaderField = ['Content-Type', 'application/dtmf-relay'];
    t.equal(await ask(7, [relay], 'Signal=5\r\nDuration=100'), '200 INFO');
    t.same(call.events.at(-1), 'digit 5 100');
  });

  t.test('one of ours says its package', async (t) => {
    const { peer, pass, session } = await passing(t);
    session.side.sendInfo({ package: 'x-badge', contentType: 'text/plain', body: 'hello' });
    await pass(10);
    const info = peer.last('INFO');
    t.equal(info.header('Info-Package'), 'x-badge');
    t.equal(info.header('Content-Disposition'), 'Info-Package');
    t.equal(info.body, 'hello');
  });
});
