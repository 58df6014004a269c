/** The pure parts of outbound routing: the choice of trunks and gateways, failover, limits, health. */
import t from 'tap';
import { Decisions } from '../src/call/decision.ts';
import { bestEnd, isGatewayFault, judgeFailover, plainFailover } from '../src/call/failover.ts';
import { legPolicyOf } from '../src/call/leg.ts';
import type { RouteRule } from '../src/call/route.ts';
import {
  chooseTrunks,
  matchesPattern,
  orderGateways,
  orderWays,
} from '../src/call/trunk-choice.ts';
import { TrunkHealth } from '../src/call/trunk-health.ts';
import { TrunkLimiter } from '../src/call/trunk-limits.ts';
import { realClock } from '../src/core/clock.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type CallSid, newSid, type TrunkSid } from '../src/core/sid.ts';
import type { SessionEnd } from '../src/sip/session.ts';
import { DEFAULT_TRUNK_POLICY } from '../src/store/trunk-policy.ts';
import { SimClock } from './support/sim.ts';
import { trunkRoute } from './support/trunk.ts';

t.test('patterns take numbers, in linear time', async (t) => {
  t.ok(matchesPattern('+4930123', '+49*'));
  t.ok(matchesPattern('+4930123', '+*'));
  t.notOk(matchesPattern('030123', '+*'), 'the plus is a part of it');
  t.ok(matchesPattern('100', '1??'));
  t.ok(matchesPattern('anything', '*'));
  t.notOk(matchesPattern('+4930123', '+4930?'));
  t.notOk(matchesPattern('1', ''));
  t.notOk(matchesPattern('a'.repeat(5_000), `${'a*'.repeat(2_000)}b`));
});

t.test('gateways by priority, and by weight within one', async (t) => {
  const gateways = [
    { uri: 'c', priority: 2, weight: 1 },
    { uri: 'a', priority: 1, weight: 90 },
    { uri: 'b', priority: 1, weight: 10 },
  ];
  const order = (draw: number): string =>
    orderGateways(gateways, () => draw)
      .map(({ uri }) => uri)
      .join('');
  t.equal(order(0), 'abc');
  t.equal(order(0.95), 'bac');
});

const [A, B, C] = ['A', 'B', 'C'].map((name) => trunkRoute({ name, numberPatterns: ['+4*'] }));

function rule(pattern: string, trunk = A, change: Partial<RouteRule> = {}): RouteRule {
  return {
    sid: 'RT' as never,
    pattern,
    priority: 10,
    costPerMinute: 1,
    trunkSid: trunk?.sid as TrunkSid,
    enabled: true,
    dateCreatedMs: 1,
    ...change,
  };
}

function chosen(number: string, routes: readonly RouteRule[], trunks = [A, B, C]): string {
  const usable = trunks.filter((trunk) => trunk !== undefined);
  const decisions = new Decisions();
  return chooseTrunks({ number, trunks: usable, routes, decisions })
    .map(({ name }) => name)
    .join('');
}

t.test(
  'routes: longest, then priority, then cost; trunks without a route after them',
  async (t) => {
    t.equal(chosen('+4930', []), 'ABC', 'patterns alone keep the order of the trunks');
    t.equal(chosen('+4930', [rule('+4*', C), rule('+49*', B)]), 'BCA');
    t.equal(
      chosen('+4930', [rule('+49*', B), rule('+4930', C)]),
      'CBA',
      'a whole number is longest',
    );
    t.equal(chosen('+4930', [rule('+4*', B), rule('+4*', C, { priority: 1 })]), 'CBA');
    t.equal(chosen('+4930', [rule('+4*', B), rule('+4*', C, { costPerMinute: 0.5 })]), 'CBA');
    t.equal(
      chosen('+4330', [rule('+49*', B)]),
      'AC',
      'a trunk with routes is reached by them only',
    );
    t.equal(chosen('+4930', [rule('+4*', B, { enabled: false })]), 'ABC');
  },
);

t.test('why no trunk takes a number is told with what to change', async (t) => {
  const told = (trunks: readonly ReturnType<typeof trunkRoute>[]) => {
    const decisions = new Decisions();
    t.same(chooseTrunks({ number: '0049', trunks, routes: [], decisions }), []);
    return decisions.list;
  };
  t.match(told([trunkRoute({ numberPatterns: ['+49*', '+43*'] })]), [
    { step: 'route', ok: false, what: 'number 0049 matches none of +49*, +43*' },
  ]);
  t.match(told([trunkRoute({ isEnabled: false })])[1], { step: 'trunk', fix: /^Enabled of trunk/ });
  t.match(told([trunkRoute({ gateways: [] })])[1], { step: 'gateway', fix: /^Gateways of trunk/ });
});

t.test('what is down or resting comes last, over all trunks, and never not at all', async (t) => {
  const gateways = (name: string) =>
    [1, 2].map((priority) => ({ uri: `${name}${priority}`, priority, weight: 1 }));
  const trunks = ['a', 'b'].map((name) => trunkRoute({ gateways: gateways(name) }));
  const order = (states: Record<string, 'down' | 'resting'>): string => {
    const stateOf = ({ uri }: { uri: string }) => states[uri] ?? 'up';
    const decisions = new Decisions();
    return orderWays({ trunks, stateOf, random: () => 0, decisions })
      .map(({ gateway }) => gateway.uri)
      .join(' ');
  };
  t.equal(order({}), 'a1 a2 b1 b2');
  t.equal(order({ a1: 'down', b1: 'resting' }), 'a2 b2 b1 a1');
  t.equal(order({ a1: 'down', a2: 'down', b1: 'down', b2: 'down' }), 'a1 a2 b1 b2');
});

function end(status: number, change: Partial<SessionEnd> = {}): SessionEnd {
  const plain = { by: 'remote', code: 'SIP_REFUSED', reason: '', reasonHeader: [], headers: [] };
  return { ...plain, status, ...change } as SessionEnd;
}

function cause(value: number): Partial<SessionEnd> {
  return { reasonHeader: [{ protocol: 'Q.850', cause: value, text: '' }] };
}

t.test('failover: by status, by cause, by silence', async (t) => {
  const { failover } = DEFAULT_TRUNK_POLICY;
  const isNext = (one: SessionEnd, policy = failover) => judgeFailover(one, policy).isNext;
  t.ok(isNext(end(503)));
  t.notOk(isNext(end(486)));
  t.notOk(isNext(end(603)));
  t.notOk(isNext(end(404)));
  t.ok(isNext(end(404), { ...failover, statuses: ['4xx'] }));
  t.notOk(isNext(end(486), { ...failover, statuses: ['4xx'] }), 'final, whatever the list says');
  t.ok(isNext(end(480, cause(34))), 'no circuit');
  t.notOk(isNext(end(503, cause(17))), 'the user is busy, wherever we ask');
  t.ok(isNext(end(408, { by: 'timeout', code: 'SIP_TIMEOUT' })));
  t.ok(isNext(end(503, { by: 'transport', code: 'SIP_TRANSPORT' })));
  t.notOk(isNext(end(408, { by: 'timeout', code: 'CALL_NO_ANSWER' })), 'it rang long enough');
  t.notOk(isNext(end(500, { by: 'local', code: 'PORTS_EXHAUSTED' })), 'our own fault');
  t.notOk(isNext(end(500), plainFailover()));
  t.ok(isGatewayFault(end(503)));
  t.notOk(isGatewayFault(end(486)));
  t.notOk(isGatewayFault(end(501)));
});

t.test('of a fork the best refusal counts (RFC 3261 §16.7)', async (t) => {
  const best = (...statuses: number[]) => bestEnd(statuses.map((status) => end(status)))?.status;
  t.equal(best(486, 603, 302), 603);
  t.equal(best(503, 486, 408), 486);
  t.equal(best(404, 407), 407);
  t.equal(best(500, 302), 302);
  t.equal(best(503, 500), 500);
  t.equal(best(), undefined);
});

t.test('a leg knows the parts of its trunk’s policy by which it lives', async (t) => {
  t.match(legPolicyOf(DEFAULT_TRUNK_POLICY), {
    codecs: [],
    ptimeMs: 20,
  });
});

function limiterOf(limits: Partial<typeof DEFAULT_TRUNK_POLICY.limits>, options = {}) {
  const clock = new SimClock({ seed: 1 });
  const trunk = {
    sid: newSid('TK', realClock),
    name: 'x',
    limits: { ...DEFAULT_TRUNK_POLICY.limits, ...limits },
  };
  return { clock, trunk, limiter: new TrunkLimiter({ clock, options }) };
}

const call = (): CallSid => newSid('CA', realClock);

t.test('caps: per direction and together, given back when a call ends or moves on', async (t) => {
  const { trunk, limiter } = limiterOf({ callsMax: 3, callsInMax: 2 });
  const calls = [call(), call(), call(), call()] as const;
  t.ok(limiter.takeIn(trunk, calls[0]).ok);
  t.ok(limiter.takeIn(trunk, calls[1]).ok);
  t.match(limiter.takeIn(trunk, calls[2]), {
    ok: false,
    fix: `Policy.limits.callsInMax of trunk ${trunk.sid}`,
  });
  t.match(await limiter.takeOut(trunk, calls[2]), { ok: true });
  t.match(await limiter.takeOut(trunk, calls[3]), { ok: false, fix: /callsMax/ });
  t.match(limiter.live(trunk.sid), { in: 2, out: 1 });
  const other = { ...trunk, sid: newSid('TK', realClock) };
  t.match(await limiter.takeOut(other, calls[2]), { ok: true });
  t.match(limiter.live(trunk.sid), { in: 2, out: 0 }, 'a call is in one trunk');
  limiter.release(calls[0]);
  limiter.release(calls[0]);
  t.match(limiter.live(trunk.sid), { in: 1, out: 0 });
  t.match(limiter.look(trunk, 'in'), { ok: true });
  t.match(limiter.live(trunk.sid), { in: 1, out: 0 }, 'a look counts nothing');
});

t.test('pace: a second’s calls at once, then each in its turn, and not for ever', async (t) => {
  const { clock, trunk, limiter } = limiterOf({ callsPerSecondOut: 2 }, { waitMsMax: 1_000 });
  const taken: number[] = [];
  const take = () =>
    Promise.resolve(limiter.takeOut(trunk, call())).then((decision) => {
      if (decision.ok) taken.push(clock.monotonicMs());
      return decision;
    });
  const all = [take(), take(), take(), take(), take()];
  t.match(await all[4], { ok: false, fix: /callsPerSecondOut/ }, 'over a second of waiting');
  await clock.advance(2_000);
  t.same(taken, [0, 0, 500, 1_000]);
  t.match(await take(), { ok: true });
});

t.test('an inbound call over the pace is refused at once', async (t) => {
  const { clock, trunk, limiter } = limiterOf({ callsPerSecondIn: 1 });
  t.ok(limiter.takeIn(trunk, call()).ok);
  t.notOk(limiter.takeIn(trunk, call()).ok);
  await clock.advance(1_000);
  t.ok(limiter.takeIn(trunk, call()).ok);
});

t.test('health: probes, live failures, rest, and what is told of each', async (t) => {
  const clock = new SimClock({ seed: 2 });
  const sid = newSid('TK', realClock);
  const uri = 'sip:gw.example';
  let status = 200;
  let probes = 0;
  const changes: string[] = [];
  const health = new TrunkHealth({
    clock,
    log: silentLog,
    metrics: new Metrics(),
    onChange: ({ from, to }) => changes.push(`${from}>${to}`),
    probe: () => {
      probes += 1;
      return Promise.resolve({ status, durationMs: 5, problem: status === 0 ? 'no answer' : '' });
    },
  });
  const policy = { ...DEFAULT_TRUNK_POLICY.health, triesMin: 4, restS: 10 };
  health.watch([{ sid, policy, gateways: [{ uri }] }]);
  health.start();
  const ref = { trunkSid: sid, uri };
  t.equal(health.stateOf(ref), 'unknown');
  await clock.advance(1_000);
  t.equal(health.stateOf(ref), 'up', 'the first probe comes soon');
  t.match(health.view(sid), [{ uri, state: 'up', lastProbe: { status: 200, isGood: true } }]);

  status = 0;
  await clock.advance(34_000);
  t.equal(health.stateOf(ref), 'up', 'one silence is none');
  await clock.advance(33_000);
  t.equal(health.stateOf(ref), 'down');
  t.match(health.view(sid)[0]?.reason, /no answer/);
  status = 405;
  await clock.advance(34_000);
  t.equal(health.stateOf(ref), 'up', 'who refuses OPTIONS is there');

  for (const isGood of [true, false, true, false]) health.report(ref, isGood, '503');
  t.equal(health.stateOf(ref), 'resting', 'half of four calls failed');
  t.match(health.view(sid)[0]?.reason, '2 of 4 calls failed');
  await clock.advance(10_001);
  t.equal(health.stateOf(ref), 'up', 'and it has rested');
  t.same(changes, ['unknown>up', 'up>down', 'down>up', 'up>resting', 'resting>up']);

  const before = probes;
  health.watch([]);
  await clock.advance(120_000);
  t.equal(probes, before, 'what is gone is not asked');
  t.same(health.view(sid), []);
  health.close();
});

t.test('probes are bounded in number, however many gateways there are', async (t) => {
  const clock = new SimClock({ seed: 3 });
  let running = 0;
  let most = 0;
  const health = new TrunkHealth({
    clock,
    log: silentLog,
    metrics: new Metrics(),
    options: { probesMax: 3 },
    probe: () => {
      running += 1;
      most = Math.max(most, running);
      return new Promise((resolve) => {
        clock.timer(300, () => {
          running -= 1;
          resolve({ status: 200, durationMs: 300, problem: '' });
        });
      });
    },
  });
  const gateways = Array.from({ length: 20 }, (_, index) => ({ uri: `sip:gw${index}` }));
  const sid = newSid('TK', realClock);
  health.watch([{ sid, policy: DEFAULT_TRUNK_POLICY.health, gateways }]);
  health.start();
  await clock.advance(5_000);
  t.equal(most, 3);
  t.ok(health.view(sid).every(({ state }) => state === 'up'));
  health.close();
});
