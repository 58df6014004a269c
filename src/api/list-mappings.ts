/**
 * Lists as resources below the row that refers to them: mapped, shown and taken away by the list's
 * own sid. SIP domains and trunks do the same thing with other names; what a mapped list means is
 * not here.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid, Sid, SidPrefix } from '../core/sid.ts';
import { isSid } from '../core/sid.ts';
import type { AccessListRow, JsonObject } from '../store/store.ts';
import {
  asIs,
  created,
  DELETED,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestRequest,
  resource,
} from './api.ts';
import { heldRows, type ListRequest, PAGE_PARAMS, pageOf } from './page.ts';
import { badParameter } from './parameters.ts';
import { findRow, type RowKind } from './rows.ts';

interface Owner {
  readonly sid: string;
  readonly accountSid: AccountSid;
  readonly dateUpdatedMs: number;
}

export interface MappingKind<O extends Owner, P extends SidPrefix> {
  readonly owner: RowKind<O>;
  /** Of the path below the owner. */
  readonly part: string;
  /** Under which the lists stand. */
  readonly key: string;
  /** Names the list to be mapped. */
  readonly parameter: string;
  readonly prefix: P;
  readonly lists: { get(accountSid: AccountSid, sid: string): Promise<MappedList<P> | null> };
  readonly mappingsMax: number;
  readonly clock: Clock;
  sids(owner: O): readonly Sid<P>[];
  mapped(owner: O, sids: readonly Sid<P>[]): O;
  json(list: MappedList<P>, owner: O): JsonObject;
  page(request: ListRequest<MappedList<P>>): Promise<JsonObject>;
}

/** An access or credential list: they are one shape. */
export type MappedList<P extends SidPrefix> = Omit<AccessListRow, 'sid'> & {
  readonly sid: Sid<P>;
};

export function mappingResources<O extends Owner, P extends SidPrefix>(
  kind: MappingKind<O, P>,
): readonly Resource[] {
  return [listMapped(kind), mapList(kind), fetchMapped(kind), unmapList(kind)];
}

function listMapped<O extends Owner, P extends SidPrefix>(kind: MappingKind<O, P>): Resource {
  return resource({
    method: 'GET',
    path: `${kind.owner.path}/:sid/${kind.part}`,
    params: Type.Object(PAGE_PARAMS),
    interpret: (given) => ({ page: pageOf(given) }),
    async check({ page }, request) {
      const owner = await findRow(kind.owner, request);
      const found = await Promise.all(
        kind.sids(owner).map((sid) => kind.lists.get(owner.accountSid, sid)),
      );
      // A list in use is not deleted, but two nodes may do both at once.
      return { page, owner, lists: found.filter((list) => list !== null) };
    },
    act: async ({ page, owner, lists }, { url, raw }) =>
      ok(
        await kind.page({
          table: heldRows(lists),
          accountSid: owner.accountSid,
          where: [],
          page,
          key: kind.key,
          path: url,
          raw,
          json: (list) => kind.json(list, owner),
        }),
      ),
  });
}

function mapList<O extends Owner, P extends SidPrefix>(kind: MappingKind<O, P>): Resource {
  return resource({
    method: 'POST',
    path: `${kind.owner.path}/:sid/${kind.part}`,
    params: Type.Object({ [kind.parameter]: Type.String() }),
    idempotent: true,
    interpret: (given) => given[kind.parameter] ?? '',
    async check(sid, request) {
      const owner = await findRow(kind.owner, request);
      const list = isSid(kind.prefix, sid) ? await kind.lists.get(owner.accountSid, sid) : null;
      if (!list) {
        throw badParameter(kind.parameter, `"${sid.slice(0, 40)}" is not a list of this account`);
      }
      const sids = kind.sids(owner);
      if (sids.includes(list.sid)) {
        throw new GatewayError('SIP_LIST_MAPPED', { list: list.sid, owner: owner.sid });
      }
      if (sids.length >= kind.mappingsMax) {
        throw new GatewayError('REST_LIMIT', { limit: kind.mappingsMax, things: 'lists' });
      }
      return { owner: kind.mapped(owner, [...sids, list.sid]), list };
    },
    async act({ owner, list }) {
      await saveOwner(kind, owner);
      return created(kind.json(list, owner));
    },
  });
}

function fetchMapped<O extends Owner, P extends SidPrefix>(kind: MappingKind<O, P>): Resource {
  return resource({
    method: 'GET',
    path: `${kind.owner.path}/:sid/${kind.part}/:list`,
    params: Type.Object({}),
    interpret: asIs,
    async check(_given, request) {
      const { owner, sid } = await findMapped(kind, request);
      const list = await kind.lists.get(owner.accountSid, sid);
      if (!list) throw missing(request);
      return kind.json(list, owner);
    },
    act: async (body) => ok(body),
  });
}

function unmapList<O extends Owner, P extends SidPrefix>(kind: MappingKind<O, P>): Resource {
  return resource({
    method: 'DELETE',
    path: `${kind.owner.path}/:sid/${kind.part}/:list`,
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => findMapped(kind, request),
    async act({ owner, sid }) {
      const left = kind.sids(owner).filter((other) => other !== sid);
      await saveOwner(kind, kind.mapped(owner, left));
      return DELETED;
    },
  });
}

async function findMapped<O extends Owner, P extends SidPrefix>(
  kind: MappingKind<O, P>,
  request: RestRequest,
): Promise<{ owner: O; sid: Sid<P> }> {
  const owner = await findRow(kind.owner, request);
  const sid = pathSid(kind.prefix, request, 'list');
  if (!kind.sids(owner).includes(sid)) throw missing(request);
  return { owner, sid };
}

async function saveOwner<O extends Owner, P extends SidPrefix>(
  { owner, clock }: MappingKind<O, P>,
  row: O,
): Promise<void> {
  await owner.table.save({ ...row, dateUpdatedMs: clock.nowMs() });
}
