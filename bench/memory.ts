/**
 * What calls weigh: resident memory of all processes of the gateway per idle bridged call, and
 * whether memory stays where it is while many calls come and go. SIPp on both sides, no media.
 *
 * A collector lets memory rise and fall, so growth is judged by the floors: the least that is
 * resident in the second fifth of the run against the least in the last fifth.
 *
 * node bench/memory.ts [--idle 1000] [--calls 10000] [--rate 100]
 */
import { parseArgs } from 'node:util';
import { childrenOf, freePort, residentKb, type TestGateway } from '../test/support/gateway.ts';
import { hasSipp, type SippRun, startSipp } from '../test/support/sipp.ts';
import { endWithin, median, printTable, skipBench, sleepMs, verdict } from './measure.ts';
import { endWithUs, NUMBER, startAnswerer, startTrunkedGateway } from './trunk.ts';

const IDLE_KB_PER_CALL_MAX = 150;
/** Of what a call leaves behind: one small forgotten object is more. */
const LEFT_BYTES_PER_CALL_MAX = 512;
const WARM_UP_CALLS = 1000;
const RAMP_PER_SECOND = 50;
const SAMPLES = 5;
const HOLD_MS = 1000;
/** Longer than transactions live after their call (RFC 3261 §17, 64·T1). */
const SETTLE_MS = 35_000;

interface Setting {
  readonly idle: number;
  readonly calls: number;
  readonly rate: number;
}

async function startCalls(
  gateway: TestGateway,
  load: { calls: number; rate: number; holdMs: number },
): Promise<SippRun> {
  const run = startSipp({
    scenario: 'call',
    port: await freePort(),
    target: `127.0.0.1:${gateway.sipPort}`,
    service: NUMBER,
    calls: load.calls,
    perSecond: load.rate,
    timeoutSeconds: Math.ceil(load.calls / load.rate + load.holdMs / 1000) + 40,
    extra: ['-d', String(load.holdMs), '-l', String(load.calls)],
  });
  endWithUs(run);
  return run;
}

/** Waits until all calls are up, each with two ports, or half a minute is over. */
async function allUp(gateway: TestGateway, calls: number): Promise<number> {
  const endMs = performance.now() + 30_000;
  let ports = 0;
  while (performance.now() < endMs) {
    ports = await gateway.metric('media_ports');
    if (ports >= 2 * calls) break;
    await sleepMs(250);
  }
  return ports / 2;
}

/** kB of the gateway process itself and of its workers. */
async function weigh(gateway: TestGateway): Promise<{ all: number; workers: number }> {
  const pid = gateway.process.pid ?? 0;
  const all: number[] = [];
  const workers: number[] = [];
  for (let sample = 0; sample < SAMPLES; sample++) {
    all.push(residentKb(pid));
    workers.push(childrenOf(pid).reduce((sum, child) => sum + residentKb(child), 0));
    await sleepMs(500);
  }
  return { all: median(all), workers: median(workers) };
}

async function measureIdle(gateway: TestGateway, idle: number): Promise<void> {
  const before = await weigh(gateway);
  const rampMs = (idle / RAMP_PER_SECOND) * 1000;
  const holdMs = rampMs + 15_000;
  const run = await startCalls(gateway, { calls: idle, rate: RAMP_PER_SECOND, holdMs });
  await sleepMs(rampMs);
  const up = await allUp(gateway, idle);
  await sleepMs(3000);
  const with_ = await weigh(gateway);
  const result = await run.done;
  await sleepMs(5000);
  const after = await weigh(gateway);
  printTable([
    { 'resident kB': 'no call', all: before.all, 'media workers': before.workers },
    { 'resident kB': `${up} idle calls`, all: with_.all, 'media workers': with_.workers },
    { 'resident kB': 'they ended', all: after.all, 'media workers': after.workers },
  ]);
  const perCall = (with_.all - before.all) / idle;
  process.stdout.write('\n');
  verdict(
    up === idle && result.succeeded === idle,
    `${idle} bridged calls at once: ${up} up, ${idle - result.succeeded} failed`,
  );
  verdict(
    perCall <= IDLE_KB_PER_CALL_MAX,
    `an idle bridged call weighs ${perCall.toFixed(1)} kB (at most ${IDLE_KB_PER_CALL_MAX})`,
  );
}

async function measureGrowth(gateway: TestGateway, calls: number, rate: number): Promise<void> {
  const pid = gateway.process.pid ?? 0;
  const run = await startCalls(gateway, { calls, rate, holdMs: HOLD_MS });
  const samples: number[] = [];
  let isDone = false;
  const result = run.done.finally(() => {
    isDone = true;
  });
  while (!isDone) {
    await sleepMs(1000);
    samples.push(residentKb(pid));
  }
  const { succeeded } = await result;
  const fifth = Math.floor(samples.length / 5);
  const fifths = Array.from({ length: 5 }, (_, index) =>
    samples.slice(index * fifth, (index + 1) * fifth),
  );
  process.stdout.write('\n');
  printTable(
    fifths.map((part, index) => ({
      [`fifth of ${calls} calls`]: index + 1,
      'least kB': Math.min(...part),
      'median kB': median(part),
      'most kB': Math.max(...part),
    })),
  );
  const grownKb = Math.min(...(fifths[4] ?? [])) - Math.min(...(fifths[1] ?? []));
  // From the middle of the second fifth to the middle of the last.
  const leftBytes = (grownKb * 1024) / (calls * 0.6);
  process.stdout.write('\n');
  verdict(succeeded === calls, `${calls} calls come and go: ${calls - succeeded} failed`);
  verdict(
    leftBytes <= LEFT_BYTES_PER_CALL_MAX,
    `memory is flat: ${(grownKb / 1024).toFixed(1)} MB in ${Math.round(calls * 0.6)} calls, ` +
      `${Math.round(leftBytes)} bytes a call (at most ${LEFT_BYTES_PER_CALL_MAX})`,
  );
}

async function bench(setting: Setting, limitSeconds: number): Promise<void> {
  const answerer = await startAnswerer(limitSeconds);
  const gateway = await startTrunkedGateway(answerer.port, { TANDEM_CALL_LIVE_MAX: '20000' });
  try {
    const warmUp = { calls: WARM_UP_CALLS, rate: setting.rate, holdMs: HOLD_MS };
    await (await startCalls(gateway, warmUp)).done;
    await sleepMs(SETTLE_MS);
    await measureIdle(gateway, setting.idle);
    await measureGrowth(gateway, setting.calls, setting.rate);
  } finally {
    await gateway.stop();
    await answerer.run.stop();
  }
}

const { values } = parseArgs({
  options: {
    idle: { type: 'string', default: '1000' },
    calls: { type: 'string', default: '10000' },
    rate: { type: 'string', default: '100' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
const setting = {
  idle: Number(values.idle),
  calls: Number(values.calls),
  rate: Number(values.rate),
};
const limitSeconds =
  240 + (2 * setting.idle) / RAMP_PER_SECOND + (2 * setting.calls) / setting.rate;
endWithin(limitSeconds);
await bench(setting, limitSeconds);
