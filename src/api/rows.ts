/**
 * What is the same for every resource that is one row of one table: finding it by the sid in the
 * path, fetching and deleting it. What differs (listing, creating, changing) is each one's own.
 */
import { Type } from 'typebox';
import type { AccountSid, SidPrefix } from '../core/sid.ts';
import type { JsonObject, Table } from '../store/store.ts';
import {
  asIs,
  DELETED,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestRequest,
  resource,
} from './api.ts';

export interface RowKind<Row> {
  /** Of the list, as `/Trunks`. */
  readonly path: string;
  readonly prefix: SidPrefix;
  readonly table: Table<Row>;
  json(row: Row): JsonObject;
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
