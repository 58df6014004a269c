/**
 * A flood of strangers beside a trunk's calls, and what it left behind; for the test and the bench.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  type BenchTransport,
  NUMBER,
  SIPP_TRANSPORT,
  startAnswerer,
  startTrunkedGateway,
} from '../../bench/trunk.ts';
import { Collector, INSPECTED } from './collector.ts';
import { freePort, residentKb, type TestGateway } from './gateway.ts';
import { delay } from './phone.ts';
import { type SippResult, startSipp } from './sipp.ts';

const FLOODER = fileURLToPath(new URL('flooder.ts', import.meta.url));

/**
 * Before the first weighing: fills the rings of 1,000 ended calls, two to a call through a trunk,
 * and lets every path be compiled and every pool find its size.
 */
const WARM_UP = { seconds: 12, callsPerSecond: 50 };

export interface FloodLoad {
  readonly seconds: number;
  readonly callsPerSecond: number;
  readonly invitesPerSecond: number;
  readonly sources: number;
}

export interface FloodCount {
  readonly sent: number;
  readonly perSecond: number;
  readonly replies: number;
  /** Of any one stranger. */
  readonly most: number;
  readonly statuses: Readonly<Record<string, number>>;
}

export interface FloodResult {
  readonly flood: FloodCount;
  readonly calls: SippResult;
  /** Live bytes, after a collection, with no call left. */
  readonly heapBefore: number;
  readonly heapAfter: number;
  readonly residentKbBefore: number;
  readonly residentKbMost: number;
}

function startFlood(port: number, load: FloodLoad): Promise<FloodCount> {
  const { sources, invitesPerSecond, seconds } = load;
  const numbers = [port, sources, invitesPerSecond, seconds].map(String);
  const child = spawn(process.execPath, [FLOODER, ...numbers], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(output) as FloodCount);
      else reject(new Error(`the flooder ended with ${code}`));
    });
  });
}

async function trunkCalls(
  gateway: TestGateway,
  seconds: number,
  perSecond: number,
  transport: BenchTransport = 'udp',
) {
  const run = startSipp({
    scenario: 'call',
    port: await freePort(),
    transport: SIPP_TRANSPORT[transport],
    target: `127.0.0.1:${gateway.sipPort}`,
    service: NUMBER,
    calls: seconds * perSecond,
    perSecond,
    timeoutSeconds: seconds + 40,
    extra: ['-d', '500'],
  });
  return run.done;
}

async function untilQuiet(gateway: TestGateway): Promise<void> {
  for (let waited = 0; waited < 45; waited += 1) {
    const left = await gateway.metric('tandem_sip_transactions');
    if (left + (await gateway.metric('tandem_calls_live')) === 0) return;
    await delay(1000);
  }
}

/** Only 127.0.0.1 is known: the trunk. All other addresses of loopback are strangers. */
export async function flooded(load: FloodLoad): Promise<FloodResult> {
  const answerer = await startAnswerer(load.seconds + 200);
  const gateway = await startTrunkedGateway(answerer.port, {
    ...INSPECTED,
    TANDEM_SIP_TRUSTED: '127.0.0.1/32',
  });
  const collector = await Collector.of(gateway);
  try {
    await startFlood(gateway.sipPort, { ...load, seconds: 2 });
    // By TCP, whose transactions need not wait for repetitions before it is quiet.
    await trunkCalls(gateway, WARM_UP.seconds, WARM_UP.callsPerSecond, 'tcp');
    await untilQuiet(gateway);
    const heapBefore = await collector.collect();
    const pid = gateway.process.pid ?? 0;
    const residentKbBefore = residentKb(pid);
    let residentKbMost = residentKbBefore;
    const watch = setInterval(() => {
      residentKbMost = Math.max(residentKbMost, residentKb(pid));
    }, 500);
    const [flood, calls] = await Promise.all([
      startFlood(gateway.sipPort, load),
      trunkCalls(gateway, load.seconds, load.callsPerSecond),
    ]);
    clearInterval(watch);
    await untilQuiet(gateway);
    const heapAfter = await collector.collect();
    return { flood, calls, heapBefore, heapAfter, residentKbBefore, residentKbMost };
  } finally {
    collector.close();
    await answerer.run.stop();
    await gateway.stop();
  }
}
