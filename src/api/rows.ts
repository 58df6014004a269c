/**
 * What is the same for every resource that is one row of one table: finding it by the sid in the
 * path, fetching and deleting it. What differs (listing, creating, changing) is each one's own.
 */
import { Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid, SidPrefix } from '../core/sid.ts';
import type { Filter, JsonObject, Table } from '../store/store.ts';
import {
  asIs,
  DELETED,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestRequest,
  resource,
  uriOf,
} from './api.ts';
import { listPage, PAGE_PARAMS, pageOf } from './page.ts';

export interface RowKind<Row> {
  /** Of the list, as `/Trunks`. */
  readonly path: string;
  readonly prefix: SidPrefix;
  readonly table: Table<Row>;
  json(row: Row): JsonObject;
}

/** Its rows newest first, in pages, with no filter; `key` is what the rows stand under. */
export function listRows<Row extends { readonly sid: string; readonly dateCreatedMs: number }>(
  kind: RowKind<Row>,
  key: string,
): Resource {
  return resource({
    method: 'GET',
    path: kind.path,
    params: Type.Object(PAGE_PARAMS),
    interpret: (given) => ({ page: pageOf(given) }),
    check: asIs,
    async act({ page }, { account, raw }) {
      const { table, json } = kind;
      const path = uriOf(account, kind.path.slice(1));
      const where: Filter<Row>[] = [];
      return ok(
        await listPage({ table, accountSid: account.sid, where, page, key, path, raw, json }),
      );
    },
  });
}

/** Refuses one more than `limit`; `things` is what a refusal calls them. */
export async function checkLimit<Row>(o: {
  table: Table<Row>;
  accountSid: AccountSid;
  where?: readonly Filter<Row>[];
  limit: number;
  things: string;
}): Promise<void> {
  const { table, accountSid, where = [], limit, things } = o;
  if ((await table.count(accountSid, where)) < limit) return;
  throw new GatewayError('REST_LIMIT', { limit, things });
}

export async function findRow<Row>(kind: RowKind<Row>, request: RestRequest): Promise<Row> {
  const row = await kind.table.get(request.account.sid, pathSid(kind.prefix, request));
  if (!row) throw missing(request);
  return row;
}

export function fetchRow<Row>(kind: RowKind<Row>): Resource {
  return resource({
    method: 'GET',
    path: `${kind.path}/:sid`,
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => findRow(kind, request),
    act: async (row) => ok(kind.json(row)),
  });
}

export function removeRow<Row extends { readonly accountSid: AccountSid; readonly sid: string }>(
  kind: RowKind<Row>,
): Resource {
  return resource({
    method: 'DELETE',
    path: `${kind.path}/:sid`,
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => findRow(kind, request),
    async act(row) {
      await kind.table.remove(row.accountSid, row.sid);
      return DELETED;
    },
  });
}
