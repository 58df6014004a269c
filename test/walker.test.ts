/**
 * 20,000 random dialogs through one node: early and late offers, reliable responses, session
 * timers, forks, redirections, CANCEL against 200, BYE against BYE, offers that cross, transfers,
 * failover, messages lost, doubled, overtaken, late, out of place or never sent. Whatever was said,
 * in the end nothing is held, and each call has one record that can be true.
 */
import t from 'tap';
import { SEED as CHOSEN } from './support/sim.ts';
import { shrink, told, type Walk, walk } from './support/walker.ts';

/**
 * The same walk every time, so that a failure is a change of ours; another one when it is asked
 * for: `node test/walker.test.ts --random`, or TANDEM_SEED for one that failed.
 */
const isChosen = process.argv.includes('--random') || process.env.TANDEM_SEED !== undefined;
const SEED = isChosen ? CHOSEN : 20_000;

const DIALOGS = Number(process.env.TANDEM_WALKS ?? 20_000);
/** Of one world: few enough to be made smaller soon when they fail. */
const CALLS = 500;
const CPU_SECONDS_MAX = 90;

/** What a walk of this size must have met: so many of each in 20,000 dialogs. */
const MET: Readonly<Record<string, number>> = {
  '200 INVITE': 5_000,
  '487 INVITE': 1_000,
  '481 CANCEL': 300,
  '200 PRACK': 2_000,
  '481 PRACK': 300,
  '200 UPDATE': 500,
  '491 UPDATE': 50,
  '491 INVITE': 20,
  '422 INVITE': 50,
  '421 INVITE': 200,
  '420 INVITE': 50,
  '483 INVITE': 50,
  '488 INVITE': 200,
  '302 INVITE': 50,
  '202 REFER': 10,
  '603 REFER': 50,
  '405 MESSAGE': 20,
};

t.test(`${DIALOGS} random dialogs leave nothing behind, and one record each`, async (t) => {
  t.comment(`seed ${SEED}`);
  const before = process.cpuUsage();
  const said = new Map<string, number>();
  const sum = { dialogs: 0, calls: 0, answered: 0 };
  for (let seed = SEED; sum.dialogs < DIALOGS; seed += 1) {
    const calls = Array.from({ length: CALLS }, (_, index) => index + 1);
    const result = await walk(seed, calls);
    if (result.problems.length > 0) {
      const smallest = await shrink(seed, calls);
      t.fail(`seed ${seed}: ${account(smallest, result)}`);
      return;
    }
    sum.dialogs += result.dialogs;
    sum.calls += result.calls;
    sum.answered += result.answered;
    for (const [what, count] of result.said) said.set(what, (said.get(what) ?? 0) + count);
  }
  const { user, system } = process.cpuUsage(before);
  const cpuSeconds = (user + system) / 1e6;
  const { dialogs, calls, answered } = sum;
  t.pass(`seed ${SEED}: ${dialogs} dialogs, ${calls} calls, ${answered} answered, nothing is left`);
  t.ok(cpuSeconds < CPU_SECONDS_MAX, `${cpuSeconds.toFixed(1)} s of CPU`);
  for (const [what, least] of Object.entries(MET)) {
    const count = said.get(what) ?? 0;
    t.ok(count >= leastOf(least, dialogs / 20_000), `${count} times ${what}`);
  }
  t.ok(answered > calls / 4, 'enough of them were answered');
});

/** A short walk meets what is rare by chance: three standard deviations below its share will do. */
function leastOf(least: number, share: number): number {
  const expected = least * share;
  return share >= 1 ? least : Math.max(0, Math.floor(expected - 3 * Math.sqrt(expected)));
}

function account(smallest: Walk, whole: Walk): string {
  // What goes wrong only in company is told by the whole.
  const walked = smallest.problems.length > 0 ? smallest : whole;
  return `${walked.problems.slice(0, 10).join('\n')}\n${told(smallest)}`;
}
