/**
 * What a call costs: SIPp calls SIPp through tandem as a back-to-back user agent, and through
 * Kamailio as a stateful proxy, in turns, in one run, at the same rate. A proxy makes no second
 * call, no media port and no record; the ratio says what those cost. No media flows.
 *
 * node bench/calls.ts [--rounds 3] [--rate 100] [--seconds 10] [--hold 1000]
 */
import { parseArgs } from 'node:util';
import { freePort } from '../test/support/gateway.ts';
import { hasSipp, type SippResult, startSipp } from '../test/support/sipp.ts';
import { hasKamailio, startKamailio } from './kamailio.ts';
import {
  cpuSeconds,
  endWithin,
  median,
  percentile,
  printTable,
  skipBench,
  sleepMs,
  verdict,
} from './measure.ts';
import { endWithUs, NUMBER, startAnswerer, startTrunkedGateway } from './trunk.ts';

const RING_P95_MS_MAX = 10;
/** Of Kamailio's cost. */
const RATIO_MAX = 3;
/** Records are written, and transactions end, after a call did (RFC 3261 timers I, J, K: T4). */
const SETTLE_MS = 2000;
const WARM_UP_CALLS = 300;

interface Server {
  readonly name: string;
  readonly pid: number;
  readonly port: number;
  stop(): Promise<void>;
}

interface Run {
  readonly server: string;
  readonly calls: number;
  readonly failed: number;
  readonly ringMs: readonly number[];
  readonly cpuMsPerCall: number;
  readonly problem: string;
}

interface Load {
  readonly rate: number;
  readonly seconds: number;
  readonly holdMs: number;
}

async function startServers(nextPort: number): Promise<Server[]> {
  const gateway = await startTrunkedGateway(nextPort);
  const kamailio = await startKamailio({ port: await freePort(), nextPort });
  return [
    {
      name: 'tandem',
      pid: gateway.process.pid ?? 0,
      port: gateway.sipPort,
      stop: async () => void (await gateway.stop()),
    },
    { name: 'kamailio', ...kamailio },
  ];
}

async function call(server: Server, load: Load, calls: number): Promise<SippResult> {
  const run = startSipp({
    scenario: 'call',
    port: await freePort(),
    target: `127.0.0.1:${server.port}`,
    service: NUMBER,
    calls,
    perSecond: load.rate,
    timeoutSeconds: Math.ceil(calls / load.rate) + 20,
    extra: ['-d', String(load.holdMs)],
  });
  endWithUs(run);
  return run.done;
}

async function measure(server: Server, load: Load): Promise<Run> {
  const calls = load.rate * load.seconds;
  const before = cpuSeconds(server.pid);
  const result = await call(server, load, calls);
  await sleepMs(SETTLE_MS);
  const spentMs = (cpuSeconds(server.pid) - before) * 1000;
  const failed = calls - result.succeeded;
  return {
    server: server.name,
    calls,
    failed,
    ringMs: result.responseMs,
    cpuMsPerCall: spentMs / calls,
    problem: failed === 0 ? '' : result.output.slice(-1500),
  };
}

function report(runs: readonly Run[]): void {
  const names = [...new Set(runs.map((run) => run.server))];
  const rows = names.map((name) => {
    const own = runs.filter((run) => run.server === name);
    const ringMs = own.flatMap((run) => run.ringMs);
    const costs = own.map((run) => run.cpuMsPerCall);
    return {
      server: name,
      calls: own.reduce((sum, run) => sum + run.calls, 0),
      failed: own.reduce((sum, run) => sum + run.failed, 0),
      '180 p50 ms': percentile(ringMs, 50),
      'p95 ms': median(own.map((run) => percentile(run.ringMs, 95))),
      'p99 ms': percentile(ringMs, 99),
      'max ms': Math.max(...ringMs),
      'CPU ms per call': median(costs),
      least: Math.min(...costs),
      most: Math.max(...costs),
    };
  });
  printTable(rows);
  for (const run of runs) if (run.problem !== '') process.stdout.write(`${run.problem}\n`);
  const [ours, theirs] = rows;
  if (!ours || !theirs) return;
  const ratio = ours['CPU ms per call'] / theirs['CPU ms per call'];
  process.stdout.write('\n');
  verdict(ours.failed === 0, `no call fails: ${ours.failed} of ${ours.calls} failed`);
  verdict(
    ours['p95 ms'] <= RING_P95_MS_MAX,
    `INVITE to 180, p95: ${ours['p95 ms']} ms (at most ${RING_P95_MS_MAX})`,
  );
  verdict(
    ratio <= RATIO_MAX,
    `a call costs ${ratio.toFixed(2)} of kamailio (${ours['CPU ms per call'].toFixed(2)} against ` +
      `${theirs['CPU ms per call'].toFixed(2)} CPU ms; at most ${RATIO_MAX})`,
  );
}

async function bench(rounds: number, load: Load, limitSeconds: number): Promise<void> {
  const answerer = await startAnswerer(limitSeconds);
  const servers = await startServers(answerer.port);
  try {
    for (const server of servers) await call(server, load, WARM_UP_CALLS);
    const runs: Run[] = [];
    for (let round = 0; round < rounds; round++) {
      for (const server of servers) runs.push(await measure(server, load));
    }
    const { rate, holdMs } = load;
    process.stdout.write(`${rate} calls per second of ${holdMs} ms, ${rounds} rounds in turns\n`);
    report(runs);
  } finally {
    for (const server of servers) await server.stop();
    await answerer.run.stop();
  }
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    rate: { type: 'string', default: '100' },
    seconds: { type: 'string', default: '10' },
    hold: { type: 'string', default: '1000' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
if (!hasKamailio()) skipBench('Kamailio is not installed');
const rounds = Number(values.rounds);
const load = {
  rate: Number(values.rate),
  seconds: Number(values.seconds),
  holdMs: Number(values.hold),
};
const limitSeconds = 60 + 2 * rounds * (load.seconds + load.holdMs / 1000 + 30);
endWithin(limitSeconds);
await bench(rounds, load, limitSeconds);
