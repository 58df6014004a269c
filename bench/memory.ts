/**
 * What calls weigh: resident memory of all processes of the gateway per idle bridged call, and
 * whether memory stays where it is while many calls come and go. SIPp on both sides, no media.
 *
 * The collector of a quiet process may leave garbage lie for long. So memory is read twice: as it
 * is, which is what an operator sees, and after a collection (asked for through the inspector),
 * which is what calls hold. What calls leave behind is judged when their last transaction is over.
 *
 * node bench/memory.ts [--idle 1000] [--calls 10000] [--rate 100]
 */
import { parseArgs } from 'node:util';
import { childrenOf, freePort, residentKb, type TestGateway } from '../test/support/gateway.ts';
import { hasSipp, type SippRun, startSipp } from '../test/support/sipp.ts';
import { endWithin, printTable, skipBench, sleepMs, verdict } from './measure.ts';
import { endWithUs, NUMBER, startAnswerer, startTrunkedGateway } from './trunk.ts';

const IDLE_KB_PER_CALL_MAX = 150;
/** 1 MB of live JavaScript in 10,000 calls: less than one small object forgotten of each. */
const HEAP_BYTES_PER_CALL_MAX = 105;
/**
 * Resident memory also moves with the allocator's arenas and the workers' own garbage, which
 * nobody can collect from outside; a port forgotten of each call would be far more than this.
 */
const RESIDENT_GROWTH_PERCENT_MAX = 10;
const WARM_UP_CALLS = 100;
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
  readonly calls: number;
  readonly rate: number;
}

// --- The gateway under the scales -----------------------------------------------------------------

/** The collector of a process that runs with --inspect (Chrome DevTools protocol). */
class Collector {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (heapBytes: number) => void>();
  #id = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener('message', (event) => {
      const answer = JSON.parse(String(event.data)) as { id: number; result: { usedSize: number } };
      this.#waiting.get(answer.id)?.(answer.result.usedSize);
    });
  }

  static async of(gateway: TestGateway): Promise<Collector> {
    const url = /ws:\/\/\S+/.exec(gateway.lines.join('\n'))?.[0] ?? '';
    const socket = new WebSocket(url);
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener('open', () => resolve());
      socket.addEventListener('error', () => reject(new Error(`no inspector at "${url}"`)));
    });
    return new Collector(socket);
  }

  /** Collects twice, as what finalizers let go of is garbage only then. Returns the live bytes. */
  async collect(): Promise<number> {
    await this.#ask('HeapProfiler.collectGarbage');
    await this.#ask('HeapProfiler.collectGarbage');
    // Pages are given back by a task of the collector's own.
    await sleepMs(2000);
    return this.#ask('Runtime.getHeapUsage');
  }

  close(): void {
    this.#socket.close();
  }

  #ask(method: string): Promise<number> {
    this.#id += 1;
    const id = this.#id;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method }));
    });
  }
}

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
}

async function measureGrowth(
  gateway: TestGateway,
  collector: Collector,
  { calls, rate }: Setting,
): Promise<void> {
  const pid = gateway.process.pid ?? 0;
  await sleepMs(SETTLE_MS);
  const before = await weigh('before', gateway, collector);
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
  await sleepMs(SETTLE_MS);
  const after = await weigh(`${calls} calls later`, gateway, collector);
  process.stdout.write('\n');
  printTable([before, after]);
  const tenths = Array.from({ length: 10 }, (_, index) => {
    const part = samples.slice((index * samples.length) / 10, ((index + 1) * samples.length) / 10);
    return Math.round(Math.max(...part) / 1024);
  });
  process.stdout.write(`most resident in each tenth of the run, MB: ${tenths.join(' ')}\n\n`);
  const heapKb = after['heap kB'] - before['heap kB'];
  const heapBytes = (heapKb * 1024) / calls;
  const grownKb = after['collected kB'] - before['collected kB'];
  const grownPercent = (100 * grownKb) / before['collected kB'];
  verdict(succeeded === calls, `${calls} calls come and go: ${calls - succeeded} failed`);
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
}

async function bench(setting: Setting, limitSeconds: number): Promise<void> {
  const answerer = await startAnswerer(limitSeconds);
  const gateway = await startTrunkedGateway(answerer.port, {
    TANDEM_CALL_LIVE_MAX: '20000',
    NODE_OPTIONS: '--inspect=127.0.0.1:0',
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
  360 + (3 * setting.idle) / RAMP_PER_SECOND + (2 * setting.calls) / setting.rate;
endWithin(limitSeconds);
await bench(setting, limitSeconds);
