/**
 * Calls end to end, on a real endpoint and a real media worker, against a phone that shares no
 * code with them. Two tests keep calls movable: everything through a bus that only takes JSON, and
 * a call thrown away in mid-conversation and built again from its record.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Bridge } from '../src/call/bridge.ts';
import { Call } from '../src/call/call.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import {
  type CallNode,
  ended,
  Listener,
  type NodeOptions,
  startNode,
} from './support/call-node.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { tone, toneShare } from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const FOR_EVER = 0;

async function setUp(t: Test, options: NodeOptions = {}): Promise<CallNode> {
  const node = await startNode(options);
  t.teardown(() => node.close());
  return node;
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

function playTone(call: Call, playId: string, hz: number, loop = FOR_EVER): void {
  const source = { kind: 'tone', hz: [hz], onMs: 1_000, offMs: 0, levelDb: -10, count: 1 } as const;
  call.send({ id: playId, kind: 'play', playId, source, loop });
}

function bridged(a: Call, b: Call): Promise<Bridge> {
  const bridge = new Bridge({ a, b });
  return new Promise((resolve, reject) => {
    bridge.once('joined', () => resolve(bridge));
    bridge.once('failed', reject);
    bridge.join();
  });
}

for (const json of [false, true]) {
  t.test(
    `a call lives its life${json ? ' on a bus that only takes JSON' : ''}`,
    { skip },
    async (t) => {
      const node = await setUp(t, { json });
      const caller = await phoneFor(t, { user: '+15550001', sound: tone(700, 1) });
      const callee = await phoneFor(t, { user: 'bob', sound: tone(1_100, 1), onInvite: 'ring' });

      const answered = caller.call(`sip:+15559@127.0.0.1:${node.sipPort}`, node.sipPort);
      const call = await node.nextCall();
      const leg = new Listener(call);
      t.match(call.record, { status: 'ringing', from: '+15550001', to: '+15559' });
      call.act({ kind: 'ring', earlyMedia: false });
      await leg.event('ringing');
      call.act({ kind: 'answer' });
      await leg.event('answered');
      t.match((await answered).firstLine, '200');
      t.equal(call.record.status, 'in-progress');

      playTone(call, 'p1', 440);
      await delay(400);
      t.ok(toneShare(caller.heard(), 440) > 0.5, 'the caller hears the tone');
      call.send({ id: 's1', kind: 'stopPlay', playId: 'p1' });
      t.match(await leg.event('playDone'), { playId: 'p1', reason: 'stopped' });
      await caller.press('5#');
      await delay(100);
      t.equal(leg.digits(), '5#');

      const child = node.router.dial({
        parentCallSid: call.sid,
        target: { kind: 'sip', uri: callee.uri, credentials: null, headers: [['X-Team', 'blue']] },
        callerId: null,
        ringTimeoutMs: 10_000,
        statusCallback: null,
      });
      const childLeg = new Listener(child);
      await childLeg.event('ringing');
      t.equal(child.record.status, 'ringing');
      t.equal(
        header(await callee.waitFor((m) => m.firstLine.startsWith('INVITE')), 'x-team'),
        'blue',
      );
      callee.answer();
      await childLeg.event('answered');
      await bridged(call, child);
      t.equal(call.record.bridgedTo, child.sid);
      caller.forget();
      callee.forget();
      await delay(500);
      t.ok(toneShare(caller.heard(), 1_100) > 0.5, 'the caller hears the callee');
      t.ok(toneShare(callee.heard(), 700) > 0.5, 'the callee hears the caller');

      callee.hangup();
      t.match(await ended(child), { status: 'completed', code: 'CALL_COMPLETED', by: 'remote' });
      await leg.event('unbridged');
      call.hangup();
      t.match(await ended(call), { status: 'completed', by: 'local', sipStatus: 200 });
      await caller.waitFor((message) => message.firstLine.startsWith('BYE'));
      t.ok((call.record.end?.stats?.packetsReceived ?? 0) > 10, 'the record has the media figures');
      t.same(node.busErrors, []);
      t.same(
        node.notices
          .filter(({ call: { sid } }) => sid === child.sid)
          .map(({ call: c }) => c.status),
        ['queued', 'initiated', 'ringing', 'in-progress', 'completed'],
      );
      await delay(50);
      t.equal(node.router.size, 0);
      t.equal(node.edge.size, 0, 'acknowledged legs are gone');
      t.equal(node.journal.records, 0, 'and so are their records');
      const kinds = new Set(node.trace.entries(call.sid).map(({ kind }) => kind));
      t.same([...kinds].sort(), ['command', 'decision', 'leg', 'sip']);
    },
  );
}

t.test('a call thrown away in mid-conversation goes on from its record', { skip }, async (t) => {
  const node = await setUp(t, { json: true });
  const caller = await phoneFor(t, { sound: tone(700, 1) });
  const answered = caller.call(`sip:x@127.0.0.1:${node.sipPort}`, node.sipPort);
  const first = await node.nextCall();
  const before = new Listener(first);
  first.act({ kind: 'answer' });
  await answered;
  playTone(first, 'p1', 440, 1);
  await caller.press('12');
  await delay(100);
  first.saveFlow({ cursor: 3 });

  const record = JSON.parse(JSON.stringify(first.record));
  first.detach();
  await caller.press('34');
  await delay(1_000); // the tone ends meanwhile
  const { clock, log, bus, journal, trace, call: options } = node.routerDeps;
  const keeper = { onStatus: () => undefined, onEnded: () => undefined };
  const second = Call.restore(record, { clock, log, bus, journal, trace, keeper, options });
  const after = new Listener(second);
  await after.event('playDone');
  playTone(second, 'p1', 440, 1); // the flow does again what its record says is under way
  await caller.press('5');
  await delay(150);

  t.equal(before.digits() + after.digits(), '12345', 'no key lost, none doubled');
  t.same(second.record.flow, { cursor: 3 });
  t.equal(second.record.answeredAtMs, first.record.answeredAtMs);
  const seqs = [...before.events, ...after.events].map(({ seq }) => seq);
  t.same(
    seqs,
    seqs.map((_, index) => index + 2), // 1 was `offered`
    'every event once and in order',
  );
  const dones = after.events.filter(({ kind }) => kind === 'playDone');
  t.equal(dones.length, 2, 'the same play is not done again: its outcome is repeated');
  caller.hangup();
  t.match(await ended(second), { status: 'completed', by: 'remote', code: 'CALL_COMPLETED' });
  first.fail('LEG_LOST'); // the router of this node still had the object that was thrown away
});

t.test('a killed gateway goes on with its calls', { skip }, async (t) => {
  const dead = await startNode();
  const caller = await phoneFor(t, { sound: tone(700, 1) });
  const callee = await phoneFor(t, { sound: tone(1_100, 1) });
  void caller.call(`sip:x@127.0.0.1:${dead.sipPort}`, dead.sipPort);
  const call = await dead.nextCall();
  const leg = new Listener(call);
  call.act({ kind: 'answer' });
  await leg.event('answered');
  const child = dead.router.dial({
    parentCallSid: call.sid,
    target: { kind: 'sip', uri: callee.uri, credentials: null, headers: [] },
    callerId: null,
    ringTimeoutMs: 10_000,
    statusCallback: null,
  });
  await new Listener(child).event('answered');
  await bridged(call, child);
  call.saveFlow({ cursor: 7 });
  await dead.die();
  caller.forget();
  await delay(200);
  t.ok(toneShare(caller.heard(), 1_100) > 0.5, 'audio goes on while there is no gateway');

  const { directory, sipPort } = dead;
  const node = await setUp(t, { directory, sipPort });
  const restored = await node.nextCall();
  const restoredChild = node.router.find(child.sid);
  await caller.press('9');
  await delay(150);

  t.equal(node.router.size, 2);
  t.same(restored.record.flow, { cursor: 7 });
  t.equal(restored.record.bridgedTo, child.sid);
  t.equal(node.trace.entries(restored.sid).filter((e) => e.text === 'digit').length, 1);
  callee.hangup();
  await callee.waitFor(
    (m) => m.firstLine.startsWith('SIP/2.0 200') && /BYE/.test(header(m, 'cseq')),
  );
  t.match(restoredChild && (await ended(restoredChild)), { status: 'completed', by: 'remote' });
  restored.hangup();
  await caller.waitFor((message) => message.firstLine.startsWith('BYE'));
  t.match(await ended(restored), { status: 'completed', by: 'local' });
  t.ok(restored.record.end && restored.record.end.durationMs > 300);
});
