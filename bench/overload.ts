/**
 * Five times the calls that the gateway is rated for, through a trunk: how many of them it still
 * carries a second (goodput), and how soon all is well again after it. A call is good when SIPp ran
 * it from INVITE to the answer of its BYE; the rest got 503.
 *
 * node bench/overload.ts [--rated 60] [--times 5] [--seconds 30]
 */
import { parseArgs } from 'node:util';
import { freePort, type TestGateway } from '../test/support/gateway.ts';
import { hasSipp, startSipp } from '../test/support/sipp.ts';
import { endWithin, percentile, printTable, skipBench, sleepMs, verdict } from './measure.ts';
import { endWithUs, NUMBER, startAnswerer, startTrunkedGateway } from './trunk.ts';

const GOODPUT_MIN = 0.9;
const RECOVERY_SECONDS = 5;
const HOLD_MS = 1000;
/** Of what it is rated for, once the overload is over. */
const AFTER = 0.8;

interface Phase {
  readonly name: string;
  readonly offered: number;
  readonly good: number;
  readonly failed: number;
  readonly ringMs: readonly number[];
  readonly shed: number;
  /** What it really took: a machine that is too slow for SIPp offers less than was asked. */
  readonly seconds: number;
}

async function shedTotal(gateway: TestGateway): Promise<number> {
  const text = await (await fetch(`${gateway.httpBase}/metrics`)).text();
  const found = text.matchAll(/^tandem_sip_shed_total\{trust="\w+"\} (\d+)$/gm);
  return [...found].reduce((sum, [, count]) => sum + Number(count), 0);
}

async function phase(
  gateway: TestGateway,
  name: string,
  perSecond: number,
  seconds: number,
): Promise<Phase> {
  const before = await shedTotal(gateway);
  const startMs = performance.now();
  const run = startSipp({
    scenario: 'call',
    port: await freePort(),
    target: `127.0.0.1:${gateway.sipPort}`,
    service: NUMBER,
    calls: perSecond * seconds,
    perSecond,
    timeoutSeconds: seconds + 60,
    extra: ['-d', String(HOLD_MS), '-l', String(perSecond * 40)],
  });
  endWithUs(run);
  const { succeeded: good, failed, responseMs: ringMs } = await run.done;
  const took = Math.max(seconds, (performance.now() - startMs - HOLD_MS) / 1000);
  return {
    name,
    offered: perSecond * seconds,
    good,
    failed,
    ringMs,
    shed: (await shedTotal(gateway)) - before,
    seconds: took,
  };
}

const { values } = parseArgs({
  options: {
    rated: { type: 'string', default: '60' },
    times: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '30' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
const rated = Number(values.rated);
const seconds = Number(values.seconds);
const limitSeconds = 4 * seconds + 240;
endWithin(limitSeconds);
const answerer = await startAnswerer(limitSeconds);
const gateway = await startTrunkedGateway(answerer.port, { TANDEM_CALL_PER_SECOND_MAX: '2000' });
try {
  await phase(gateway, 'warm-up', rated, 10);
  const phases = [await phase(gateway, 'rated', rated, seconds)];
  const over = await phase(gateway, 'overload', rated * Number(values.times), seconds);
  phases.push(over);
  await sleepMs(RECOVERY_SECONDS * 1000);
  const after = await phase(gateway, 'after', Math.round(rated * AFTER), Math.ceil(seconds / 2));
  phases.push(after);
  printTable(
    phases.map(({ name, offered, good, failed, ringMs, shed, seconds: took }) => {
      const p99 = percentile(ringMs, 99);
      return {
        phase: name,
        seconds: Math.round(took),
        offered,
        good,
        failed,
        'shed early': shed,
        '180 p99 ms': p99,
      };
    }),
  );
  const goodput = over.good / over.seconds;
  const words = `goodput ${goodput.toFixed(1)} of ${rated} calls a second`;
  verdict(goodput >= GOODPUT_MIN * rated, `${words} (at least ${GOODPUT_MIN * rated})`);
  verdict(after.failed === 0, `${RECOVERY_SECONDS} s later no call fails: ${after.failed}`);
} finally {
  await gateway.stop();
  await answerer.run.stop();
}
