/**
 * What calls weigh: resident memory of all processes of the gateway per idle bridged call, and
 * whether memory stays where it is while many calls come and go. SIPp on both sides, no media.
 *
 * The collector of a quiet process may leave garbage lie for long. So memory is read twice: as it
 * is, which is what an operator sees, and after a collection (asked for through the inspector),
 * which is what calls hold. What calls leave behind is judged when their last transaction is over,
 * series after series, once everything that is bounded has reached its bound.
 *
 * node bench/memory.ts [--idle 1000] [--calls 10000] [--series 4] [--rate 100]
 */
import { parseArgs } from 'node:util';
import { Collector, INSPECTED } from '../test/support/collector.ts';
import { childrenOf, freePort, residentKb, type TestGateway } from '../test/support/gateway.ts';
import { hasSipp, type SippRun, startSipp } from '../test/support/sipp.ts';
import { endWithin, printTable, skipBench, sleepMs, verdict } from './measure.ts';
import { endWithUs, NUMBER, startAnswerer, startTrunkedGateway } from './trunk.ts';

const IDLE_KB_PER_CALL_MAX = 150;
/** Where a standing pair of dialogs has to come to. */
const PAIR_KB_MAX = 20;
/** 1 MB of live JavaScript in 10,000 calls: less than one small object forgotten of each. */
const HEAP_BYTES_PER_CALL_MAX = 105;
/**
 * Resident memory also moves by some MB with the allocator's arenas and the workers' own garbage,
 * which nobody can collect from outside. A port forgotten of each call would be far more.
 */
const RESIDENT_GROWTH_PERCENT_MAX = 3;
/** All processes, at any moment: a gateway shall leave half of a machine of 1 GB alone. */
const RESIDENT_MB_MAX = 512;
/** Before idle calls are weighed: code is loaded and compiled, and little more. */
const WARM_UP_CALLS = 100;
/**
 * Before growth is judged: what has a bound reaches it. The rings of 1,000 ended calls
 * (`call/router.ts`, `call/trace.ts`) are full long before; the last are the pages that SQLite
 * caches, the hot paths' machine code, and the new space of the workers' heaps.
 */
const FILL_CALLS = 10_000;
const RAMP_PER_SECOND = 50;
const HOLD_MS = 1000;
/** Longer than transactions live after their call (RFC 3261 §17: 64·T1 is 32 s). */
const SETTLE_MS = 36_000;

type Weight = {
  readonly when: string;
  /** All processes, as it is. */
  readonly 'resident kB': number;
  /** All processes, after a collection in the gateway. */
  readonly 'collected kB': number;
  /** Of these, the media workers. */
  readonly 'media workers kB': number;
  /** Of these, live JavaScript of the gateway. */
  readonly 'heap kB': number;
};

interface Setting {
  readonly idle: number;
  /** In all series together. */
  readonly calls: number;
  readonly series: number;
  readonly rate: number;
}

// --- The gateway under the scales -----------------------------------------------------------------

async function weigh(when: string, gateway: TestGateway, collector: Collector): Promise<Weight> {
  const pid = gateway.process.pid ?? 0;
  const resident = residentKb(pid);
  const heapBytes = await collector.collect();
  return {
    when,
    'resident kB': resident,
    'collected kB': residentKb(pid),
    'media workers kB': childrenOf(pid).reduce((sum, child) => sum + residentKb(child), 0),
    'heap kB': Math.round(heapBytes / 1024),
  };
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
    ports = await gateway.metric('tandem_media_ports');
    if (ports >= 2 * calls) break;
    await sleepMs(250);
  }
  return ports / 2;
}

// --- The two questions ----------------------------------------------------------------------------

async function measureIdle(
  gateway: TestGateway,
  collector: Collector,
  idle: number,
): Promise<void> {
  const before = await weigh('no call yet', gateway, collector);
  const rampMs = (idle / RAMP_PER_SECOND) * 1000;
  // The first call must last until the last one is up and all are weighed.
  const holdMs = rampMs + SETTLE_MS + 15_000;
  const run = await startCalls(gateway, { calls: idle, rate: RAMP_PER_SECOND, holdMs });
  await sleepMs(rampMs);
  const up = await allUp(gateway, idle);
  const first = await weigh(`${up} just set up`, gateway, collector);
  await sleepMs(SETTLE_MS);
  const later = await weigh(`${up} idle`, gateway, collector);
  const { succeeded } = await run.done;
  printTable([before, first, later]);
  const perCall = (later['collected kB'] - before['collected kB']) / idle;
  const atMost = (first['resident kB'] - before['collected kB']) / idle;
  process.stdout.write('\n');
  verdict(
    up === idle && succeeded === idle,
    `${idle} bridged calls at once: ${up} up, ${idle - succeeded} failed`,
  );
  verdict(
    perCall <= IDLE_KB_PER_CALL_MAX && atMost <= IDLE_KB_PER_CALL_MAX,
    `an idle bridged call weighs ${perCall.toFixed(1)} kB; with the garbage of its set-up ` +
      `${atMost.toFixed(1)} kB (at most ${IDLE_KB_PER_CALL_MAX})`,
  );
  verdict(
    perCall <= PAIR_KB_MAX,
    `a standing pair of dialogs weighs ${perCall.toFixed(1)} kB (at most ${PAIR_KB_MAX})`,
  );
}

/** Calls that come and go; resolves when their last transaction is over. */
async function runSeries(
  gateway: TestGateway,
  load: { calls: number; rate: number },
): Promise<{ failed: number; peakMb: number }> {
  const pid = gateway.process.pid ?? 0;
  let peakKb = 0;
  const sampling = setInterval(() => {
    peakKb = Math.max(peakKb, residentKb(pid));
  }, 500);
  const { succeeded } = await (await startCalls(gateway, { ...load, holdMs: HOLD_MS })).done;
  await sleepMs(SETTLE_MS);
  clearInterval(sampling);
  return { failed: load.calls - succeeded, peakMb: Math.round(peakKb / 1024) };
}

async function measureGrowth(
  gateway: TestGateway,
  collector: Collector,
  { calls, series, rate }: Setting,
): Promise<void> {
  const fill = await runSeries(gateway, { calls: FILL_CALLS, rate });
  const first = await weigh(`after ${FILL_CALLS} to warm up`, gateway, collector);
  const weights = [first];
  let last = first;
  let { failed, peakMb } = fill;
  for (let number = 1; number <= series; number++) {
    const ran = await runSeries(gateway, { calls: Math.round(calls / series), rate });
    failed += ran.failed;
    peakMb = Math.max(peakMb, ran.peakMb);
    last = await weigh(`${Math.round((number * calls) / series)} later`, gateway, collector);
    weights.push(last);
  }
  process.stdout.write('\n');
  printTable(weights);
  process.stdout.write('\n');
  const heapKb = last['heap kB'] - first['heap kB'];
  const heapBytes = (heapKb * 1024) / calls;
  const grownKb = last['collected kB'] - first['collected kB'];
  const grownPercent = (100 * grownKb) / first['collected kB'];
  verdict(failed === 0, `${FILL_CALLS + calls} calls come and go: ${failed} failed`);
  verdict(
    heapBytes <= HEAP_BYTES_PER_CALL_MAX,
    `calls leave nothing on the heap: ${heapKb} kB after ${calls} calls, ` +
      `${Math.round(heapBytes)} bytes each (at most ${HEAP_BYTES_PER_CALL_MAX})`,
  );
  verdict(
    grownPercent <= RESIDENT_GROWTH_PERCENT_MAX,
    `memory is flat: ${grownKb} kB more resident after ${calls} calls, ` +
      `${grownPercent.toFixed(1)} % (at most ${RESIDENT_GROWTH_PERCENT_MAX})`,
  );
  verdict(
    peakMb <= RESIDENT_MB_MAX,
    `and never balloons: ${peakMb} MB resident at most, uncollected (at most ${RESIDENT_MB_MAX})`,
  );
}

async function bench(setting: Setting, limitSeconds: number): Promise<void> {
  const answerer = await startAnswerer(limitSeconds);
  const gateway = await startTrunkedGateway(answerer.port, {
    TANDEM_CALL_LIVE_MAX: '20000',
    ...INSPECTED,
  });
  try {
    const collector = await Collector.of(gateway);
    const warmUp = { calls: WARM_UP_CALLS, rate: RAMP_PER_SECOND, holdMs: HOLD_MS };
    await (await startCalls(gateway, warmUp)).done;
    await sleepMs(SETTLE_MS);
    await measureIdle(gateway, collector, setting.idle);
    await measureGrowth(gateway, collector, setting);
    collector.close();
  } finally {
    await gateway.stop();
    await answerer.run.stop();
  }
}

const { values } = parseArgs({
  options: {
    idle: { type: 'string', default: '1000' },
    calls: { type: 'string', default: '10000' },
    series: { type: 'string', default: '4' },
    rate: { type: 'string', default: '100' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
const setting = {
  idle: Number(values.idle),
  calls: Number(values.calls),
  series: Number(values.series),
  rate: Number(values.rate),
};
const limitSeconds =
  360 +
  (3 * setting.idle) / RAMP_PER_SECOND +
  (2 * (FILL_CALLS + setting.calls)) / setting.rate +
  (setting.series * SETTLE_MS) / 1000;
endWithin(limitSeconds);
await bench(setting, limitSeconds);
