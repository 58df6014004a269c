/**
 * Strangers flood a gateway while a trunk calls through it: what becomes of the trunk's calls, how
 * much the strangers are told, and what they cost in memory.
 *
 * node bench/flood.ts [--rate 5000] [--sources 1000] [--calls 20] [--seconds 60]
 */
import { parseArgs } from 'node:util';
import { flooded } from '../test/support/flood.ts';
import { hasSipp } from '../test/support/sipp.ts';
import { endWithin, percentile, printTable, skipBench, verdict } from './measure.ts';

const HEAP_GROWTH_BYTES_MAX = 3 * 2 ** 20;
const RESIDENT_GROWTH_MB_MAX = 100;

const { values } = parseArgs({
  options: {
    rate: { type: 'string', default: '5000' },
    sources: { type: 'string', default: '1000' },
    calls: { type: 'string', default: '20' },
    seconds: { type: 'string', default: '60' },
  },
});
if (!hasSipp()) skipBench('SIPp is not installed');
const seconds = Number(values.seconds);
endWithin(seconds + 240);
const { flood, calls, ...memory } = await flooded({
  seconds,
  callsPerSecond: Number(values.calls),
  invitesPerSecond: Number(values.rate),
  sources: Number(values.sources),
});
const heapBytes = memory.heapAfter - memory.heapBefore;
const residentMb = (memory.residentKbMost - memory.residentKbBefore) / 1024;
printTable([
  {
    'INVITEs of strangers': flood.sent,
    'a second': flood.perSecond,
    strangers: Number(values.sources),
    replies: flood.replies,
    'most to one': flood.most,
    'trunk calls': calls.succeeded + calls.failed,
    failed: calls.failed,
    '180 p99 ms': percentile(calls.responseMs, 99),
    'heap bytes kept': heapBytes,
    'resident MB more': Math.round(residentMb),
  },
]);
verdict(calls.failed === 0, `no trunk call fails: ${calls.failed} of ${calls.succeeded}`);
verdict(flood.most <= 1, `replies to one stranger: ${flood.most} (at most 1)`);
verdict(heapBytes <= HEAP_GROWTH_BYTES_MAX, `live heap after it: ${heapBytes} bytes more`);
verdict(
  residentMb <= RESIDENT_GROWTH_MB_MAX,
  `resident meanwhile: ${Math.round(residentMb)} MB more`,
);
