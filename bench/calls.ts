/**
 * What a call costs: SIPp calls SIPp through tandem as a back-to-back user agent, and through
 * Kamailio as a stateful proxy, in turns, in one run, at the same rate. A proxy makes no second
 * call, no media port and no record; the ratio says what those cost. No media flows. Other works
 * than bridging are in `works.ts`. SIPp runs on one processor and either server on the others.
 *
 * Over TLS a Kamailio in front of each server, the same for both, takes what SIPp sends by TCP
 * there by TLS, over one connection or two; calls go on to the answering SIPp by TCP. Only the
 * CPU time of the server behind it counts, but what it takes is in the times to 180. It may put
 * several messages into one write, so `tls` beside `tcp` is not what the encryption costs.
 *
 * node bench/calls.ts [--work bridge|app|register] [--transport udp|tcp|tls]
 *                     [--rounds 3] [--rate 100] [--seconds 10] [--hold 1000]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Authority } from '../test/support/certificates.ts';
import { freePort } from '../test/support/gateway.ts';
import { type Credentials, hasKamailio } from '../test/support/kamailio.ts';
import { hasSipp, type SippResult, startSipp } from '../test/support/sipp.ts';
import { startFront, startYardstick } from './kamailio.ts';
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
import { describePins, pinLoad, startPinned } from './pin.ts';
import {
  type BenchTransport,
  endWithUs,
  listenForTls,
  SIPP_TRANSPORT,
  sippSide,
  startAnswerer,
  startTrunkedGateway,
} from './trunk.ts';
import { KAMAILIO_WORK, PHONES, prepare, TANDEM_WORK, WORKS, type WorkName } from './works.ts';

/** Up to 200 calls per second. */
const RING_P95_MS_MAX = 5;
/** Of Kamailio's cost: what a first version may take, and where it has to come to. */
const RATIOS_MAX = [3, 1.6] as const;
/** Records are written, and transactions end, after a call did (RFC 3261 timers I, J, K: T4). */
const SETTLE_MS = 2000;
/**
 * The compiler of the JavaScript engine works on the first thousands of calls in a process's life,
 * which is weeks: those are not measured. Kamailio gets the same.
 */
const WARM_UP = { calls: 4000, rate: 250 };

/** Lines of SIPp's about one round that failed. */
const COMPLAINTS_MAX = 10;

interface Server {
  readonly name: string;
  readonly work: (typeof TANDEM_WORK)[WorkName];
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
  readonly work: WorkName;
  readonly transport: BenchTransport;
  readonly rate: number;
  readonly seconds: number;
  readonly holdMs: number;
}

async function startTandem(
  nextPort: number,
  { transport, work }: Load,
  credentials: Credentials | undefined,
): Promise<Server> {
  const tls = credentials && (await listenForTls(credentials));
  const gateway = await startPinned(() =>
    startTrunkedGateway(nextPort, tls?.environment, transport),
  );
  const endWork = await prepare(gateway, work);
  return {
    name: 'tandem',
    work: TANDEM_WORK[work],
    pid: gateway.process.pid ?? 0,
    port: tls?.tlsPort ?? gateway.sipPort,
    stop: async () => {
      await gateway.stop();
      endWork();
    },
  };
}

async function startKamailio(
  nextPort: number,
  { transport, work }: Load,
  credentials: Credentials | undefined,
): Promise<Server> {
  const options = { nextPort, nextTransport: sippSide(transport), phone: PHONES, credentials };
  const peer = await startPinned(() => startYardstick(options));
  return { name: 'kamailio', work: KAMAILIO_WORK[work], ...peer };
}

/** SIPp calls the front; what is measured is what stands behind it. */
async function behindFront(server: Server, credentials: Credentials): Promise<Server> {
  const front = await startFront(server.port, credentials);
  return {
    ...server,
    port: front.port,
    stop: async () => {
      await front.stop();
      await server.stop();
    },
  };
}

async function startServers(nextPort: number, load: Load): Promise<Server[]> {
  const credentials = load.transport === 'tls' ? issueCredentials() : undefined;
  const servers = [
    await startTandem(nextPort, load, credentials),
    await startKamailio(nextPort, load, credentials),
  ];
  if (!credentials) return servers;
  return Promise.all(servers.map((server) => behindFront(server, credentials)));
}

/** One certificate for this machine: both servers and both fronts show it. */
function issueCredentials(): Credentials {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const authority = new Authority(folder);
  return { ...authority.issue(['IP:127.0.0.1']), caFile: authority.caFile };
}

async function call(server: Server, load: Load, calls: number): Promise<SippResult> {
  const { scenario, service, replace, extra } = server.work;
  const run = startSipp({
    scenario,
    port: await freePort(),
    target: `127.0.0.1:${server.port}`,
    service,
    replace,
    transport: SIPP_TRANSPORT[load.transport],
    calls,
    perSecond: load.rate,
    timeoutSeconds: Math.ceil(calls / load.rate) + 20,
    extra: ['-d', String(load.holdMs), ...extra],
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
    problem: failed === 0 ? '' : complaints(result.output),
  };
}

/** What SIPp says went wrong, without the messages it prints whole. */
function complaints(output: string): string {
  const lines = output
    .split(/\n|(?=\d{4}-\d\d-\d\d\t\d\d:)/)
    .filter((line) => /^\d{4}-\d\d-\d\d\t/.test(line) && !line.includes('Dead call'));
  return (lines.length > 0 ? lines.slice(-COMPLAINTS_MAX) : [output.slice(-1500)]).join('\n');
}

/** From INVITE to 180. */
function ringTimes(runs: readonly Run[]) {
  const ringMs = runs.flatMap((run) => run.ringMs);
  return {
    '180 p50 ms': percentile(ringMs, 50),
    'p95 ms': median(runs.map((run) => percentile(run.ringMs, 95))),
    'p99 ms': percentile(ringMs, 99),
    'max ms': Math.max(...ringMs),
  };
}

/**
 * SIPp reads the kernel's coarse clock, so a time may be none: it is told as less than the shortest
 * that was seen.
 */
function inWords(ms: number, runs: readonly Run[]): string {
  if (!Number.isFinite(ms)) return 'none';
  if (ms > 0) return String(ms);
  const told = runs.flatMap((run) => run.ringMs).filter((ringMs) => ringMs > 0);
  return `<${told.length > 0 ? Math.min(...told) : 1}`;
}

function allInWords(times: Readonly<Record<string, number>>, runs: readonly Run[]) {
  const entries = Object.entries(times).map(([name, ms]) => [name, inWords(ms, runs)] as const);
  return Object.fromEntries(entries);
}

function report(runs: readonly Run[], work: WorkName): void {
  const { rings, unit } = TANDEM_WORK[work];
  const names = [...new Set(runs.map((run) => run.server))];
  const rows = names.map((name) => {
    const own = runs.filter((run) => run.server === name);
    const costs = own.map((run) => run.cpuMsPerCall);
    return {
      server: name,
      calls: own.reduce((sum, run) => sum + run.calls, 0),
      failed: own.reduce((sum, run) => sum + run.failed, 0),
      ...(rings ? allInWords(ringTimes(own), runs) : {}),
      'CPU ms each': median(costs),
      least: Math.min(...costs),
      most: Math.max(...costs),
    };
  });
  printTable(rows);
  for (const run of runs) if (run.problem !== '') process.stdout.write(`${run.problem}\n`);
  const [ours, theirs] = rows;
  if (!ours || !theirs) return;
  const ratio = ours['CPU ms each'] / theirs['CPU ms each'];
  process.stdout.write('\n');
  verdict(ours.failed === 0, `no ${unit} fails: ${ours.failed} of ${ours.calls} failed`);
  if (rings) {
    const p95Ms = ringTimes(runs.filter((run) => run.server === ours.server))['p95 ms'];
    verdict(
      p95Ms <= RING_P95_MS_MAX,
      `INVITE to 180, p95: ${inWords(p95Ms, runs)} ms (at most ${RING_P95_MS_MAX})`,
    );
  }
  const costs = `${ours['CPU ms each'].toFixed(2)} against ${theirs['CPU ms each'].toFixed(2)}`;
  for (const most of RATIOS_MAX) {
    const what = `a ${unit} costs ${ratio.toFixed(2)} of kamailio (${costs} CPU ms; at most ${most})`;
    verdict(ratio <= most, what);
  }
}

async function bench(rounds: number, load: Load, limitSeconds: number): Promise<void> {
  pinLoad();
  const answerer = await startAnswerer(limitSeconds, load.transport);
  const servers = await startServers(answerer.port, load);
  try {
    const warmUp = { ...load, rate: WARM_UP.rate };
    for (const server of servers) await call(server, warmUp, WARM_UP.calls);
    const runs: Run[] = [];
    for (let round = 0; round < rounds; round++) {
      for (const server of servers) runs.push(await measure(server, load));
    }
    const { rate, holdMs, work, transport } = load;
    const what = `${work} over ${transport}, ${rate} per second, held ${holdMs} ms`;
    process.stdout.write(`${what}, ${rounds} rounds in turns; ${describePins()}\n`);
    report(runs, work);
  } finally {
    for (const server of servers) await server.stop();
    await answerer.run.stop();
  }
}

const { values } = parseArgs({
  options: {
    work: { type: 'string', default: 'bridge' },
    transport: { type: 'string', default: 'udp' },
    rounds: { type: 'string', default: '3' },
    rate: { type: 'string', default: '100' },
    seconds: { type: 'string', default: '10' },
    hold: { type: 'string', default: '1000' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
if (!hasKamailio()) skipBench('Kamailio is not installed');
if (values.transport === 'tls' && !hasKamailio('tls')) {
  skipBench('kamailio-tls-modules is not installed');
}
const rounds = Number(values.rounds);
const work = WORKS.find((name) => name === values.work);
const transport = (['udp', 'tcp', 'tls'] as const).find((name) => name === values.transport);
if (work === undefined) skipBench(`--work is one of ${WORKS.join(', ')}`);
if (transport === undefined) skipBench('--transport is udp, tcp or tls');
const load = {
  work,
  transport,
  rate: Number(values.rate),
  seconds: Number(values.seconds),
  holdMs: Number(values.hold),
};
const limitSeconds = 120 + 2 * rounds * (load.seconds + load.holdMs / 1000 + 30);
endWithin(limitSeconds);
await bench(rounds, load, limitSeconds);
