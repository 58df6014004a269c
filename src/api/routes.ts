/**
 * Number routing rules: which trunk a number goes out through, by longest prefix, then priority,
 * then cost (the order is told where the row is: `RouteRow` in `store/store`). Our own resource:
 *
 *   FriendlyName   text
 *   Pattern        a number, or a prefix that ends in `*`
 *   Priority       0 to 65535, lowest first                             (10)
 *   Cost           per minute; of equals the cheapest is tried first    (0)
 *   TrunkSid       a trunk of the account
 *   Enabled        true | false                                         (true)
 */
import { type Static, Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { isSid, newSid, type TrunkSid } from '../core/sid.ts';
import type { Filter, JsonObject, RouteRow, Store } from '../store/store.ts';
import { asIs, created, ok, type Resource, type RestRequest, resource, uriOf } from './api.ts';
import { listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { badParameter, optionalBoolean, optionalText, unpunctuated } from './parameters.ts';
import { checkLimit, fetchRow, findRow, type RowKind, removeRow } from './rows.ts';
import type { TrunkingLimits } from './trunking-limits.ts';
import { isNumberPattern } from './trunks.ts';

const OPTIONAL = {
  FriendlyName: Type.Optional(Type.String({ maxLength: 64 })),
  Priority: Type.Optional(Type.Integer({ minimum: 0, maximum: 65_535 })),
  Cost: optionalText,
  Enabled: optionalBoolean,
};
const CREATE = Type.Object({ ...OPTIONAL, Pattern: Type.String(), TrunkSid: Type.String() });
const UPDATE = Type.Object({ ...OPTIONAL, Pattern: optionalText, TrunkSid: optionalText });

type Change = Partial<Omit<RouteRow, 'sid' | 'accountSid' | 'dateCreatedMs' | 'dateUpdatedMs'>>;

function routeJson(row: RouteRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    friendly_name: row.friendlyName,
    pattern: row.pattern,
    priority: row.priority,
    cost: row.costPerMinute,
    trunk_sid: row.trunkSid,
    enabled: row.enabled,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Routes', row.sid),
  };
}

function pattern(text: string): string {
  const value = unpunctuated(text);
  if (isNumberPattern(value)) return value;
  throw badParameter('Pattern', 'must be a number, or a prefix that ends in "*"');
}

function cost(text: string): number {
  if (/^\d{1,6}(?:\.\d{1,6})?$/.test(text)) return Number(text);
  throw badParameter('Cost', 'must be a number such as 0.0125, not negative');
}

function trunkSid(text: string): TrunkSid {
  if (isSid('TK', text)) return text;
  throw badParameter('TrunkSid', 'is not a sid of a trunk');
}

function interpret(given: Static<typeof UPDATE>): Change {
  return {
    ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
    ...(given.Pattern !== undefined && { pattern: pattern(given.Pattern) }),
    ...(given.Priority !== undefined && { priority: given.Priority }),
    ...(given.Cost !== undefined && { costPerMinute: cost(given.Cost) }),
    ...(given.TrunkSid !== undefined && { trunkSid: trunkSid(given.TrunkSid) }),
    ...(given.Enabled !== undefined && { enabled: given.Enabled }),
  };
}

async function checkTrunk(store: Store, change: Change, { account }: RestRequest): Promise<void> {
  if (change.trunkSid === undefined) return;
  if (await store.trunks.get(account.sid, change.trunkSid)) return;
  throw badParameter('TrunkSid', 'is not a trunk of this account');
}

function listRoutes({ table, json }: RowKind<RouteRow>): Resource {
  return resource({
    method: 'GET',
    path: '/Routes',
    params: Type.Object({ ...PAGE_PARAMS, TrunkSid: optionalText, Pattern: optionalText }),
    interpret(given) {
      const where: Filter<RouteRow>[] = [];
      if (given.TrunkSid) where.push({ field: 'trunkSid', op: '=', value: given.TrunkSid });
      if (given.Pattern) where.push({ field: 'pattern', op: '=', value: pattern(given.Pattern) });
      return { page: pageOf(given), where };
    },
    check: asIs,
    async act({ page, where }, { account, raw }) {
      const at = { accountSid: account.sid, key: 'routes', path: uriOf(account, 'Routes') };
      return ok(await listPage({ table, where, page, raw, json, ...at }));
    },
  });
}

type Parts = { store: Store; clock: Clock; limits: TrunkingLimits };

function createRoute(
  { table, json }: RowKind<RouteRow>,
  { store, clock, limits }: Parts,
): Resource {
  return resource({
    method: 'POST',
    path: '/Routes',
    params: CREATE,
    idempotent: true,
    interpret: (given) => ({
      ...interpret(given),
      pattern: pattern(given.Pattern),
      trunkSid: trunkSid(given.TrunkSid),
    }),
    async check(change, request) {
      await checkTrunk(store, change, request);
      const accountSid = request.account.sid;
      await checkLimit({ table, accountSid, limit: limits.routesMax, things: 'routes' });
      return change;
    },
    async act(change, { account }) {
      const nowMs = clock.nowMs();
      const row: RouteRow = {
        sid: newSid('RT', clock),
        accountSid: account.sid,
        friendlyName: '',
        priority: 10,
        costPerMinute: 0,
        enabled: true,
        ...change,
        dateCreatedMs: nowMs,
        dateUpdatedMs: nowMs,
      };
      await table.save(row);
      return created(json(row));
    },
  });
}

function updateRoute(kind: RowKind<RouteRow>, { store, clock }: Parts): Resource {
  return resource({
    method: 'POST',
    path: '/Routes/:sid',
    params: UPDATE,
    interpret,
    async check(change, request) {
      const row = await findRow(kind, request);
      await checkTrunk(store, change, request);
      return { ...row, ...change };
    },
    async act(changed) {
      const row: RouteRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await kind.table.save(row);
      return ok(kind.json(row));
    },
  });
}

export function routeResources(parts: Parts): readonly Resource[] {
  const kind: RowKind<RouteRow> = {
    path: '/Routes',
    prefix: 'RT',
    table: parts.store.routes,
    json: routeJson,
  };
  return [
    listRoutes(kind),
    createRoute(kind, parts),
    fetchRow(kind),
    updateRoute(kind, parts),
    removeRow(kind),
  ];
}
