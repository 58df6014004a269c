/**
 * Every scenario again, with the gateway dropped at each step on the way and built anew from the
 * calls' records as JSON: what comes of it is the same, and nothing is done twice.
 */
import t from 'tap';
import { runScenario, SCENARIOS } from './support/flow-scenarios.ts';

for (const scenario of SCENARIOS) {
  t.test(scenario.name, async (t) => {
    const reference = await runScenario(scenario);
    const differences: string[] = [];
    for (let crashAt = 1; crashAt < reference.steps; crashAt += 1) {
      const world = await runScenario(scenario, crashAt);
      // A call that has ended is in no journal: what its app was still to be told may be lost.
      const asked = world.lostLastWord
        ? scenario.asked.slice(0, world.asked.length)
        : scenario.asked;
      const seen = JSON.stringify([world.effects, world.asked, world.told, world.calls.length]);
      const wanted = JSON.stringify([scenario.effects, asked, scenario.told ?? [], 0]);
      if (seen !== wanted) differences.push(`step ${crashAt}: ${seen}`);
    }

    t.same(differences, [], `the same after a crash at any of ${reference.steps} steps`);
  });
}
