/**
 * Which number of its account a trunk's policy makes of what is dialled. Whose it is where several
 * trunks read it is `route-table.ts`'s.
 */
import { registeredAt } from '../sip/registrar.ts';
import type { NumberRow } from '../store/store.ts';
import { readInbound } from './number-format.ts';
import type { InboundQuery } from './route.ts';
import type { KnownTrunk, Snapshot } from './route-snapshot.ts';

export function readBy(
  numbers: Snapshot['numbers'],
  { row }: KnownTrunk,
  query: InboundQuery,
): NumberRow | undefined {
  const isOurContact = query.identity === registeredAt(row.sid);
  for (const { user, context } of isOurContact ? [query.to ?? query, query] : [query]) {
    const read = readInbound(user, row.policy.numbers, context);
    const found = numbers.get(read.number);
    if (found?.accountSid === row.accountSid) return found;
  }
  return undefined;
}

/** For people: as it was dialled, and as the trunk reads it. */
export function shownAs({ user, context }: InboundQuery, { row }: KnownTrunk): string {
  const { number } = readInbound(user, row.policy.numbers, context);
  return number === user ? user : `${user}, read as ${number},`;
}
