import t from 'tap';
import { World } from './support/flow-world.ts';

t.test('x', async (t) => {
  const world = new World({ app: { '/voice': '<Say>hello</Say><Gather numDigits="2" action="/g"><Play>http://m/a.wav</Play></Gather><Say>bye</Say>', '/g': '<Dial action="/d"><Number>100</Number></Dial>' , '/d': '<Record action="/r"/>'},
   callees: {'100': {ringAfterMs: 500, answerAfterMs: 2000, hangupAfterMs: 5000}}});
  const leg = await world.callIn();
  world.at(1500, () => leg.press('12'));
  world.at(12000, () => leg.press('#'));
  await world.run();
  console.log(world.effects, world.asked, world.reports, world.ended.map(c => [c.status, c.end?.code]), world.steps);
});
