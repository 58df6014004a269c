/**
 * Stranger flood of 5,000 INVITEs a second beside 20 trunk calls a second: the trunk's calls all
 * succeed, no stranger gets more than one reply, and memory is flat. Here for some seconds; the
 * whole minute is `node bench/flood.ts`.
 */
import { existsSync } from 'node:fs';
import t from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { flooded } from './support/flood.ts';
import { hasSipp } from './support/sipp.ts';

const SECONDS = Number(process.env.FLOOD_SECONDS ?? 8);
const LOAD = { seconds: SECONDS, callsPerSecond: 20, invitesPerSecond: 5000, sources: 500 };
/** What the rings of the calls' records differ by from one time to the next. */
const HEAP_NOISE_BYTES = 3 * 2 ** 20;
const RESIDENT_GROWTH_KB_MAX = 100 * 1024;
const skip = hasSipp() && existsSync(ADDON_PATH) ? false : 'needs sipp and the media addon';

t.test(
  'stranger flood: trunk calls all succeed, one reply a stranger at most, memory flat',
  { skip, timeout: (SECONDS + 200) * 1000 },
  async (t) => {
    const { flood, calls, ...memory } = await flooded(LOAD);

    t.comment(JSON.stringify(flood));
    t.equal(calls.failed, 0, calls.output.slice(-1500));
    t.equal(calls.succeeded, SECONDS * LOAD.callsPerSecond);
    t.equal(flood.sent, SECONDS * LOAD.invitesPerSecond, 'the flood was one');
    t.ok(flood.most <= 1, `${flood.most} replies to one stranger`);
    t.same(
      Object.keys(flood.statuses).filter((status) => status !== '403'),
      [],
    );
    const { heapBefore, heapAfter, residentKbBefore, residentKbMost } = memory;
    t.comment(
      `heap ${heapBefore} → ${heapAfter}; resident ${residentKbBefore} → ${residentKbMost}`,
    );
    t.ok(heapAfter - heapBefore < HEAP_NOISE_BYTES, 'nothing of it stays');
    t.ok(residentKbMost - residentKbBefore < RESIDENT_GROWTH_KB_MAX, 'nor takes much meanwhile');
  },
);
