/** Identifiers: their shape, and that of two the older comes first. */
import t from 'tap';
import { realClock } from '../src/core/clock.ts';
import { isSid, newSid } from '../src/core/sid.ts';
import { SimClock } from './support/sim.ts';

t.test('of two made by one process the older comes first, in one millisecond too', (t) => {
  // Its time stands still: all of them are of one millisecond.
  const clock = new SimClock({ seed: 7 });
  const sids = Array.from({ length: 20_000 }, () => newSid('TK', clock));
  t.ok(sids.every((sid) => isSid('TK', sid)));
  t.equal(new Set(sids).size, sids.length);
  t.same([...sids].sort(), sids);
  t.end();
});

t.test('the part that is chance differs from one to the next', (t) => {
  const tails = Array.from({ length: 1000 }, () => newSid('CA', realClock).slice(18));
  t.equal(new Set(tails).size, tails.length);
  t.end();
});
