/**
 * Overload: new calls are refused before anything waits, strangers first and trunks last; what is
 * within a call never is; and all is as before soon after. The control runs against a model of a
 * server that does so many calls a second and no more, on a clock of its own.
 */
import t from 'tap';
import { restMsOf } from '../src/call/failover.ts';
import { TrunkHealth } from '../src/call/trunk-health.ts';
import { realClock } from '../src/core/clock.ts';
import { silentLog } from '../src/core/log.ts';
import { LoopMeter } from '../src/core/loop-load.ts';
import { Metrics } from '../src/core/metrics.ts';
import { newSid } from '../src/core/sid.ts';
import { DEFAULT_OVERLOAD, Overload } from '../src/sip/overload.ts';
import { TRUST_CLASSES, type TrustClass } from '../src/sip/trust.ts';
import { DEFAULT_TRUNK_POLICY } from '../src/store/trunk-policy.ts';
import { SDP } from './support/script-peer.ts';
import { SimClock } from './support/sim.ts';
import { SipWorld } from './support/sip-world.ts';

const SAMPLE_MS = 250;

/** A server that is done with `capacity` calls a second; what it cannot do at once waits. */
class Model {
  readonly overload = new Overload({ options: DEFAULT_OVERLOAD, seed: 'seed' });
  readonly #capacity: number;
  waiting = 0;
  nowMs = 0;
  #calls = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.overload.sample({ busy: 0, delayMs: 0, fullness: 0 }, 0);
  }

  /** One sample's time: calls that were done, and those of each class that were let in. */
  step(perSecond: Partial<Record<TrustClass, number>>) {
    const room = (this.#capacity * SAMPLE_MS) / 1000;
    const admitted = { known: 0, registered: 0, stranger: 0 };
    let refused = 0;
    for (const trust of TRUST_CLASSES) {
      const offered = Math.round(((perSecond[trust] ?? 0) * SAMPLE_MS) / 1000);
      for (let i = 0; i < offered; i += 1) {
        this.#calls += 1;
        if (this.overload.admits(trust, `call-${this.#calls}`)) admitted[trust] += 1;
        else refused += 1;
      }
    }
    // To refuse costs a hundredth of a call.
    const left = Math.max(0, room - refused / 100);
    const work = this.waiting + admitted.known + admitted.registered + admitted.stranger;
    const done = Math.min(left, work);
    this.waiting = work - done;
    this.nowMs += SAMPLE_MS;
    const busy = Math.min(1, (work + refused / 100) / room);
    const delayMs = (this.waiting / this.#capacity) * 1000;
    this.overload.sample({ busy, delayMs, fullness: 0 }, this.nowMs);
    return { done, admitted, refused };
  }

  run(seconds: number, perSecond: Partial<Record<TrustClass, number>>) {
    let done = 0;
    const admitted = { known: 0, registered: 0, stranger: 0 };
    for (let ms = 0; ms < seconds * 1000; ms += SAMPLE_MS) {
      const step = this.step(perSecond);
      done += step.done;
      for (const trust of TRUST_CLASSES) admitted[trust] += step.admitted[trust];
    }
    const rate = (count: number): number => count / seconds;
    const { known, registered, stranger } = admitted;
    const rates = { known: rate(known), registered: rate(registered), stranger: rate(stranger) };
    return { donePerSecond: rate(done), ...rates };
  }
}

t.test('below capacity nobody is refused', (t) => {
  const model = new Model(100);
  const { known } = model.run(60, { known: 80 });
  t.equal(known, 80);
  t.notOk(model.overload.isShedding);
  t.end();
});

t.test('at five times the rate goodput stays, nothing waits long, and it ends within 5 s', (t) => {
  const model = new Model(100);
  model.run(10, { known: 80 });
  model.run(5, { known: 400 });
  const { donePerSecond } = model.run(60, { known: 400 });
  t.ok(donePerSecond >= 0.9 * 80, `${donePerSecond} of 80 calls a second`);
  t.ok(model.waiting < 100 * 0.5, `${model.waiting} wait`);

  model.run(5, { known: 64 });
  t.notOk(model.overload.isShedding);
  t.equal(model.run(10, { known: 64 }).known, 64);
  t.end();
});

t.test('strangers are refused first, then phones, then trunks', (t) => {
  const model = new Model(100);
  model.run(10, { known: 40, registered: 30, stranger: 200 });
  const much = model.run(20, { known: 40, registered: 30, stranger: 200 });
  t.equal(much.known, 40);
  t.ok(much.registered > 28, `phones ${much.registered} of 30`);
  t.ok(much.stranger < 60, `strangers ${much.stranger} of 200`);

  model.run(10, { known: 40, registered: 200, stranger: 200 });
  const more = model.run(20, { known: 40, registered: 200, stranger: 200 });
  t.ok(more.known > 39, `trunks ${more.known} of 40`);
  t.ok(more.registered < 100, `phones ${more.registered} of 200`);
  t.ok(more.stranger < 2, `strangers ${more.stranger} of 200`);
  t.end();
});

t.test('a load that new calls do not make takes few of them', (t) => {
  const overload = new Overload({ options: DEFAULT_OVERLOAD, seed: 'seed' });
  let admitted = 0;
  for (let step = 0; step < 100; step += 1) {
    overload.sample({ busy: 1, delayMs: 2000, fullness: 0 }, step * SAMPLE_MS);
    for (let i = 0; i < 5; i += 1) if (overload.admits('known', `${step} ${i}`)) admitted += 1;
  }
  t.equal(admitted, 500, '20 calls a second are let in whatever is measured');
  t.end();
});

t.test('one slow moment refuses nobody, and there is no flutter between the marks', (t) => {
  const overload = new Overload({ options: DEFAULT_OVERLOAD, seed: 'seed' });
  let refused = 0;
  const step = (nowMs: number, busy: number, delayMs: number): void => {
    for (let i = 0; i < 25; i += 1) if (!overload.admits('known', `${nowMs} ${i}`)) refused += 1;
    overload.sample({ busy, delayMs, fullness: 0 }, nowMs);
  };
  for (let i = 0; i < 40; i += 1) step(i * SAMPLE_MS, 0.5, i === 20 ? 400 : 0);
  t.equal(refused, 0);
  const shares = new Set<number>();
  for (let i = 40; i < 60; i += 1) step(i * SAMPLE_MS, 1, 300);
  t.ok(overload.isShedding);
  for (let i = 60; i < 80; i += 1) {
    step(i * SAMPLE_MS, 0.86, 0);
    if (i > 66) shares.add(Math.round(overload.shareOf('known') * 20));
  }
  t.equal(shares.size, 1, 'between the marks the rate stays');
  t.end();
});

t.test('a repeated INVITE hears the same answer; Retry-After differs from call to call', (t) => {
  const overload = new Overload({ options: DEFAULT_OVERLOAD, seed: 'seed' });
  for (let i = 0; i < 40; i += 1) {
    for (let call = 0; call < 100; call += 1) overload.admits('known', `${i} ${call}`);
    overload.sample({ busy: 1, delayMs: 500, fullness: 0 }, i * SAMPLE_MS);
  }
  const waits = new Set<number>();
  let admitted = 0;
  let changed = 0;
  for (let call = 0; call < 1000; call += 1) {
    const isIn = overload.admits('known', `once ${call}`);
    if (isIn) admitted += 1;
    if (overload.admits('known', `once ${call}`) !== isIn) changed += 1;
    waits.add(overload.retryAfterSeconds(`once ${call}`));
  }
  t.equal(changed, 0);
  t.ok(Math.abs(admitted / 1000 - overload.shareOf('known')) < 0.05, 'as many as the share says');
  t.equal(Math.min(...waits), 5);
  t.equal(Math.max(...waits), 15);
  t.equal(waits.size, 11);
  const other = new Overload({ options: DEFAULT_OVERLOAD, seed: 'other' });
  t.not(
    [1, 2, 3, 4, 5, 6].map((n) => other.retryAfterSeconds(`once ${n}`)).join(),
    [1, 2, 3, 4, 5, 6].map((n) => overload.retryAfterSeconds(`once ${n}`)).join(),
    'and nobody can work it out',
  );
  t.end();
});

t.test('while new calls are refused, calls that stand and all else is served', async (t) => {
  const world = new SipWorld();
  t.teardown(() => world.close());
  const overload = new Overload({
    seed: 'seed',
    options: { ...DEFAULT_OVERLOAD, callsPerSecondMin: 0 },
  });
  const metrics = new Metrics();
  const us = await world.endpoint('10.0.0.1', { overload, metrics });
  const peer = await world.peer('10.0.0.2');
  us.on('invite', (session) => {
    session.progress(180);
    if (session.callId === 'stands') session.accept(SDP);
  });
  peer.request({ method: 'INVITE', callId: 'stands', branch: 'z9hG4bKstands', body: SDP });
  await world.clock.advance(5);
  const { toTag } = peer.last('200 INVITE');
  peer.request({ method: 'ACK', callId: 'stands', toTag });
  peer.request({ method: 'INVITE', callId: 'rings', branch: 'z9hG4bKrings', body: SDP });
  await world.clock.advance(5);
  for (let i = 0; i < 60; i += 1) {
    for (let n = 0; n < 50; n += 1) overload.admits('known', `${i} ${n}`);
    overload.sample({ busy: 1, delayMs: 5000, fullness: 1 }, i * SAMPLE_MS);
  }
  peer.clear();

  for (let i = 0; i < 20; i += 1) peer.request({ method: 'INVITE', callId: `n${i}`, body: SDP });
  await world.clock.advance(5);
  t.same(new Set(peer.heard), new Set(['503 INVITE']));
  t.match(peer.last('503 INVITE').header('Retry-After'), /^(?:[5-9]|1[0-5])$/);
  t.equal(us.counts.serverTransactions <= 2, true, 'and no state is made for it');
  t.match(await metrics.text(), 'tandem_sip_shed_total{trust="known"} 20');

  peer.clear();
  peer.request({ method: 'CANCEL', callId: 'rings', branch: 'z9hG4bKrings' });
  peer.request({ method: 'INFO', callId: 'stands', cseq: 2, toTag });
  peer.request({ method: 'INVITE', callId: 'stands', cseq: 3, toTag, body: SDP });
  peer.request({ method: 'BYE', callId: 'stands', cseq: 4, toTag });
  peer.request({ method: 'OPTIONS', callId: 'alive' });
  await world.clock.advance(50);
  for (const answer of ['200 CANCEL', '487 INVITE', '200 INFO', '200 BYE', '200 OPTIONS']) {
    t.ok(peer.count(answer) >= 1, answer);
  }
  t.equal(peer.count('503 INVITE'), 0, 'a re-INVITE is no new call');
});

t.test('the loop that is measured is this one', async (t) => {
  const meter = new LoopMeter();
  t.teardown(() => meter.close());
  await new Promise((resolve) => setTimeout(resolve, 120));
  meter.read();
  // The histogram begins anew with the next turn of its timer.
  await new Promise((resolve) => setTimeout(resolve, 120));
  const endMs = performance.now() + 400;
  while (performance.now() < endMs);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const { busy, delayMs } = meter.read();
  t.ok(busy > 0.6, `${busy}`);
  t.ok(delayMs > 60, `${delayMs}`);
});

t.test(
  'a gateway that answers 503 with Retry-After rests for so long, and no longer',
  async (t) => {
    const clock = new SimClock({ seed: 2 });
    const sid = newSid('TK', realClock);
    const uri = 'sip:gw.example';
    const ref = { trunkSid: sid, uri };
    const health = new TrunkHealth({
      clock,
      log: silentLog,
      metrics: new Metrics(),
      probe: () => Promise.resolve({ status: 200, durationMs: 5, problem: '' }),
    });
    t.teardown(() => health.close());
    health.watch([{ sid, policy: DEFAULT_TRUNK_POLICY.health, gateways: [{ uri }] }]);
    health.start();
    await clock.advance(2000);
    const end = {
      by: 'remote' as const,
      code: 'SIP_REFUSED' as never,
      status: 503,
      reason: 'Busy',
      headers: [['retry-after', ' 20 (a while);duration=60']] as const,
    };
    t.equal(restMsOf(end), 20_000);
    t.equal(restMsOf({ ...end, status: 500 }), 0);
    t.equal(restMsOf({ ...end, by: 'local' }), 0, 'our own word is none of theirs');
    t.equal(restMsOf({ ...end, headers: [] }), 0);

    health.report(ref, false, '503 Busy', restMsOf(end));
    t.equal(health.stateOf(ref), 'resting', 'one word is enough');
    await clock.advance(15_000);
    health.report(ref, false, '503 Busy', 1000);
    await clock.advance(4_900);
    t.equal(health.stateOf(ref), 'resting', 'a shorter one later shortens nothing');
    await clock.advance(200);
    t.equal(health.stateOf(ref), 'up');
    health.report(ref, false, '503 Busy', 86_400_000);
    await clock.advance(300_100);
    t.equal(health.stateOf(ref), 'up', 'nobody sends us away for a day');
  },
);
