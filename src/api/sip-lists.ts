/**
 * IP access control lists and credential lists: names under which a trunk or a SIP domain refers to
 * addresses or users. The two are one shape with different entries; those are `sip-list-entries`.
 * A list that anything refers to cannot be deleted: it would open or close a door unnoticed.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { newSid, type Sid } from '../core/sid.ts';
import type {
  AccessListRow,
  CredentialListRow,
  JsonObject,
  SipDomainRow,
  Store,
  TrunkRow,
} from '../store/store.ts';
import { asIs, created, DELETED, ok, type Resource, resource, uriOf } from './api.ts';
import { rfc2822 } from './page.ts';
import { checkLimit, fetchRow, findRow, listRows, type RowKind } from './rows.ts';
import type { TrunkingLimits } from './trunking-limits.ts';

const PARAMS = Type.Object({ FriendlyName: Type.String({ minLength: 1, maxLength: 64 }) });

type ListRow<P extends 'AL' | 'CL'> = Omit<AccessListRow, 'sid'> & { readonly sid: Sid<P> };

interface ListKind<P extends 'AL' | 'CL'> extends RowKind<ListRow<P>> {
  readonly prefix: P;
  /** Of the rows in a list of lists. */
  readonly key: string;
  readonly limit: number;
  /** Where rows that refer to a list name it. */
  readonly trunkField: 'accessListSids' | 'credentialListSids';
  readonly domainFields: readonly (keyof SipDomainRow & string)[];
}

export function accessLists(store: Store): RowKind<AccessListRow> {
  return {
    path: '/SIP/IpAccessControlLists',
    prefix: 'AL',
    table: store.accessLists,
    json: (row) => listJson(row, 'IpAccessControlLists', 'ip_addresses', 'IpAddresses'),
  };
}

export function credentialLists(store: Store): RowKind<CredentialListRow> {
  return {
    path: '/SIP/CredentialLists',
    prefix: 'CL',
    table: store.credentialLists,
    json: (row) => listJson(row, 'CredentialLists', 'credentials', 'Credentials'),
  };
}

function listJson(
  row: AccessListRow | CredentialListRow,
  part: string,
  entries: string,
  entriesPart: string,
): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    friendly_name: row.friendlyName,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'SIP', part, row.sid),
    subresource_uris: { [entries]: uriOf(row.accountSid, 'SIP', part, row.sid, entriesPart) },
  };
}

function createList<P extends 'AL' | 'CL'>(kind: ListKind<P>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: kind.path,
    params: PARAMS,
    idempotent: true,
    interpret: asIs,
    async check({ FriendlyName }, { account }) {
      const { table, limit } = kind;
      await checkLimit({ table, accountSid: account.sid, limit, things: 'lists' });
      return FriendlyName;
    },
    async act(friendlyName, { account }) {
      const nowMs = clock.nowMs();
      const dates = { dateCreatedMs: nowMs, dateUpdatedMs: nowMs };
      const sid = newSid(kind.prefix, clock);
      const row = { sid, accountSid: account.sid, friendlyName, ...dates };
      await kind.table.save(row);
      return created(kind.json(row));
    },
  });
}

function updateList<P extends 'AL' | 'CL'>(kind: ListKind<P>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: `${kind.path}/:sid`,
    params: PARAMS,
    interpret: asIs,
    check: async ({ FriendlyName }, request) => {
      return { ...(await findRow(kind, request)), friendlyName: FriendlyName };
    },
    async act(changed) {
      const row = { ...changed, dateUpdatedMs: clock.nowMs() };
      await kind.table.save(row);
      return ok(kind.json(row));
    },
  });
}

function removeList<P extends 'AL' | 'CL'>(kind: ListKind<P>, store: Store): Resource {
  return resource({
    method: 'DELETE',
    path: `${kind.path}/:sid`,
    params: Type.Object({}),
    interpret: asIs,
    async check(_given, request) {
      const row = await findRow(kind, request);
      const user = await userOf(kind, store, row);
      if (user) throw new GatewayError('REST_IN_USE', { sid: row.sid, user: user.sid });
      return row;
    },
    async act({ accountSid, sid }) {
      await kind.table.remove(accountSid, sid);
      return DELETED;
    },
  });
}

/** Some row that refers to the list. */
async function userOf<P extends 'AL' | 'CL'>(
  kind: ListKind<P>,
  store: Store,
  { accountSid, sid }: ListRow<P>,
): Promise<TrunkRow | SipDomainRow | null> {
  const has = { op: 'contains', value: sid } as const;
  const one = { accountSid, rowsMax: 1 };
  const [trunk] = await store.trunks.list({ ...one, where: [{ field: kind.trunkField, ...has }] });
  if (trunk) return trunk;
  for (const field of kind.domainFields) {
    const [domain] = await store.sipDomains.list({ ...one, where: [{ field, ...has }] });
    if (domain) return domain;
  }
  return null;
}

function resourcesOf<P extends 'AL' | 'CL'>(
  kind: ListKind<P>,
  { store, clock }: { store: Store; clock: Clock },
): readonly Resource[] {
  return [
    listRows(kind, kind.key),
    createList(kind, clock),
    fetchRow(kind),
    updateList(kind, clock),
    removeList(kind, store),
  ];
}

export function sipListResources(o: {
  store: Store;
  clock: Clock;
  limits: TrunkingLimits;
}): readonly Resource[] {
  const access: ListKind<'AL'> = {
    ...accessLists(o.store),
    prefix: 'AL',
    key: 'ip_access_control_lists',
    limit: o.limits.accessListsMax,
    trunkField: 'accessListSids',
    domainFields: ['callAccessListSids'],
  };
  const credentials: ListKind<'CL'> = {
    ...credentialLists(o.store),
    prefix: 'CL',
    key: 'credential_lists',
    limit: o.limits.credentialListsMax,
    trunkField: 'credentialListSids',
    domainFields: ['callCredentialListSids', 'registrationCredentialListSids'],
  };
  return [...resourcesOf(access, o), ...resourcesOf(credentials, o)];
}
