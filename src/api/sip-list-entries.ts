/**
 * What is in the lists: addresses with their prefix, and users with their password. A password is
 * taken and changed but never told. What a list is for is `sip-lists` and whoever refers to it.
 */
import { isIP } from 'node:net';
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import { newSid, type SidPrefix } from '../core/sid.ts';
import type {
  AccessAddressRow,
  AccessListRow,
  CredentialListRow,
  CredentialRow,
  Filter,
  JsonObject,
  Store,
  Table,
} from '../store/store.ts';
import { isWideBlock, TOO_WIDE } from './address-block.ts';
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
  uriOf,
} from './api.ts';
import { listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { badParameter } from './parameters.ts';
import { checkLimit, findRow, type RowKind } from './rows.ts';
import { accessLists, credentialLists } from './sip-lists.ts';
import type { TrunkingLimits } from './trunking-limits.ts';

const USERNAME_MAX = 32;
const PASSWORD_MIN = 12;
const PASSWORD_MAX = 128;

const NAME = Type.String({ minLength: 1, maxLength: 255 });
const ADDRESS = Type.String({ minLength: 1, maxLength: 45 });
const PREFIX = Type.Optional(Type.Integer({ minimum: 1, maximum: 128 }));

/** Entries of one kind of list; `:sid` in a path is the list, `:entry` the entry. */
interface EntryKind<List, Row> {
  readonly list: RowKind<List>;
  readonly part: string;
  readonly key: string;
  readonly prefix: SidPrefix;
  readonly table: Table<Row>;
  readonly listField: keyof Row & string;
  json(row: Row): JsonObject;
}

type Entry = AccessAddressRow | CredentialRow;

async function findEntry<List extends { readonly sid: string }, Row extends Entry>(
  kind: EntryKind<List, Row>,
  request: RestRequest,
): Promise<Row> {
  const list = await findRow(kind.list, request);
  const row = await kind.table.get(request.account.sid, pathSid(kind.prefix, request, 'entry'));
  if (!row || row[kind.listField] !== list.sid) throw missing(request);
  return row;
}

function readEntries<List extends { readonly sid: string }, Row extends Entry>(
  kind: EntryKind<List, Row>,
): readonly Resource[] {
  const path = `${kind.list.path}/:sid/${kind.part}`;
  const of = (list: List): Filter<Row>[] => [{ field: kind.listField, op: '=', value: list.sid }];
  return [
    resource({
      method: 'GET',
      path,
      params: Type.Object(PAGE_PARAMS),
      interpret: (given) => pageOf(given),
      check: async (page, request) => ({ page, list: await findRow(kind.list, request) }),
      async act({ page, list }, { account, raw }) {
        const { table, key, json } = kind;
        const at = uriOf(account, kind.list.path.slice(1), list.sid, kind.part);
        const where = of(list);
        return ok(
          await listPage({ table, accountSid: account.sid, where, page, key, path: at, raw, json }),
        );
      },
    }),
    resource({
      method: 'GET',
      path: `${path}/:entry`,
      params: Type.Object({}),
      interpret: asIs,
      check: (_given, request) => findEntry(kind, request),
      act: async (row) => ok(kind.json(row)),
    }),
    resource({
      method: 'DELETE',
      path: `${path}/:entry`,
      params: Type.Object({}),
      interpret: asIs,
      check: (_given, request) => findEntry(kind, request),
      async act({ accountSid, sid }) {
        await kind.table.remove(accountSid, sid);
        return DELETED;
      },
    }),
  ];
}

function addressJson(row: AccessAddressRow): JsonObject {
  const list = ['SIP', 'IpAccessControlLists', row.accessListSid];
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    ip_access_control_list_sid: row.accessListSid,
    friendly_name: row.friendlyName,
    ip_address: row.ipAddress,
    cidr_prefix_length: row.cidrPrefixLength,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, ...list, 'IpAddresses', row.sid),
  };
}

/** A whole address unless it says otherwise; every address there is would be no list. */
function addressBlock(
  ipAddress: string,
  given: number | undefined,
): Pick<AccessAddressRow, 'ipAddress' | 'cidrPrefixLength'> {
  const family = isIP(ipAddress);
  if (family === 0 || ipAddress.includes('%')) {
    throw badParameter('IpAddress', `"${ipAddress.slice(0, 45)}" is not an IP address`);
  }
  const bits = family === 4 ? 32 : 128;
  if (given !== undefined && given > bits) {
    throw badParameter('CidrPrefixLength', `must be at most ${bits}`);
  }
  return { ipAddress: ipAddress.toLowerCase(), cidrPrefixLength: given ?? bits };
}

function checkWidth(
  { ipAddress, cidrPrefixLength }: Pick<AccessAddressRow, 'ipAddress' | 'cidrPrefixLength'>,
  { wideAddressBlocks }: TrunkingLimits,
): void {
  if (wideAddressBlocks || !isWideBlock(`${ipAddress}/${cidrPrefixLength}`)) return;
  throw badParameter('CidrPrefixLength', TOO_WIDE);
}

async function saveAddress(store: Store, row: AccessAddressRow): Promise<JsonObject> {
  const block = `${row.ipAddress}/${row.cidrPrefixLength}`;
  await store.accessAddresses
    .save(row)
    .catch(orTaken(() => badParameter('IpAddress', `${block} is in the list already`)));
  return addressJson(row);
}

/** What the database refused because there is one like it, in the client's words. */
function orTaken(refusal: () => GatewayError): (thrown: Error) => never {
  return (thrown) => {
    if (thrown instanceof GatewayError && thrown.code === 'STORE_CONFLICT') throw refusal();
    throw thrown;
  };
}

type Parts = { store: Store; clock: Clock; limits: TrunkingLimits };

function addresses({ store, clock, limits }: Parts): readonly Resource[] {
  const kind: EntryKind<AccessListRow, AccessAddressRow> = {
    list: accessLists(store),
    part: 'IpAddresses',
    key: 'ip_addresses',
    prefix: 'IP',
    table: store.accessAddresses,
    listField: 'accessListSid',
    json: addressJson,
  };
  const path = `${kind.list.path}/:sid/${kind.part}`;
  const create = resource({
    method: 'POST',
    path,
    params: Type.Object({ FriendlyName: NAME, IpAddress: ADDRESS, CidrPrefixLength: PREFIX }),
    idempotent: true,
    interpret: (given) => ({
      friendlyName: given.FriendlyName,
      ...addressBlock(given.IpAddress, given.CidrPrefixLength),
    }),
    async check(wanted, request) {
      const list = await findRow(kind.list, request);
      checkWidth(wanted, limits);
      await checkEntries(kind, list, limits.accessAddressesMax);
      return { ...wanted, accessListSid: list.sid };
    },
    async act(wanted, { account }) {
      const entry = newEntry(newSid('IP', clock), clock);
      return created(await saveAddress(store, { ...entry, ...wanted, accountSid: account.sid }));
    },
  });
  const update = resource({
    method: 'POST',
    path: `${path}/:entry`,
    params: Type.Object({
      FriendlyName: Type.Optional(NAME),
      IpAddress: Type.Optional(ADDRESS),
      CidrPrefixLength: PREFIX,
    }),
    interpret: (change) => ({ change }),
    async check({ change }, request) {
      const row = await findEntry(kind, request);
      const { FriendlyName = row.friendlyName, IpAddress, CidrPrefixLength } = change;
      // Another address without a prefix is a whole one, as when it is made.
      const prefix =
        CidrPrefixLength ?? (IpAddress === undefined ? row.cidrPrefixLength : undefined);
      const block = addressBlock(IpAddress ?? row.ipAddress, prefix);
      checkWidth(block, limits);
      return { ...row, friendlyName: FriendlyName, ...block };
    },
    act: async (row) => ok(await saveAddress(store, { ...row, dateUpdatedMs: clock.nowMs() })),
  });
  return [...readEntries(kind), create, update];
}

function newEntry<S>(
  sid: S,
  clock: Clock,
): { sid: S } & Record<'dateCreatedMs' | 'dateUpdatedMs', number> {
  const nowMs = clock.nowMs();
  return { sid, dateCreatedMs: nowMs, dateUpdatedMs: nowMs };
}

async function checkEntries<List extends { readonly sid: string }, Row extends Entry>(
  kind: EntryKind<List, Row>,
  list: List & { readonly accountSid: Entry['accountSid'] },
  limit: number,
): Promise<void> {
  const where: Filter<Row>[] = [{ field: kind.listField, op: '=', value: list.sid }];
  const { table } = kind;
  await checkLimit({
    table,
    accountSid: list.accountSid,
    where,
    limit,
    things: 'entries in a list',
  });
}

function credentialJson(row: CredentialRow): JsonObject {
  const list = ['SIP', 'CredentialLists', row.credentialListSid];
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    credential_list_sid: row.credentialListSid,
    username: row.username,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, ...list, 'Credentials', row.sid),
  };
}

/** RFC 7616 §3.4.4: no colon, which ends the name within A1. */
function username(text: string): string {
  const problem =
    text.length > USERNAME_MAX
      ? `it has more than ${USERNAME_MAX} characters`
      : 'it must be letters, digits and signs, without spaces, quotes, backslashes and colons';
  if (text.length <= USERNAME_MAX && /^[!#-9;-[\]-~]+$/.test(text)) return text;
  throw new GatewayError('SIP_USERNAME_INVALID', { problem });
}

/** The rule of the reference, and no character that cannot be typed. */
function password(text: string): Secret {
  const rules: readonly (readonly [boolean, string])[] = [
    [text.length >= PASSWORD_MIN, `it has less than ${PASSWORD_MIN} characters`],
    [text.length <= PASSWORD_MAX, `it has more than ${PASSWORD_MAX} characters`],
    [/\p{Lu}/u.test(text), 'it has no upper-case letter'],
    [/\p{Ll}/u.test(text), 'it has no lower-case letter'],
    [/[0-9]/.test(text), 'it has no digit'],
    [!/\p{Cc}/u.test(text), 'it has a control character'],
  ];
  const broken = rules.find(([isKept]) => !isKept);
  if (broken) throw new GatewayError('SIP_PASSWORD_WEAK', { problem: broken[1] });
  return new Secret(text);
}

function credentials({ store, clock, limits }: Parts): readonly Resource[] {
  const kind: EntryKind<CredentialListRow, CredentialRow> = {
    list: credentialLists(store),
    part: 'Credentials',
    key: 'credentials',
    prefix: 'CR',
    table: store.credentials,
    listField: 'credentialListSid',
    json: credentialJson,
  };
  const path = `${kind.list.path}/:sid/${kind.part}`;
  const create = resource({
    method: 'POST',
    path,
    params: Type.Object({ Username: Type.String({ minLength: 1 }), Password: Type.String() }),
    idempotent: true,
    interpret: (given) => ({
      username: username(given.Username),
      password: password(given.Password),
    }),
    async check(wanted, request) {
      const list = await findRow(kind.list, request);
      await checkEntries(kind, list, limits.credentialsMax);
      return { ...wanted, credentialListSid: list.sid };
    },
    async act(wanted, { account }) {
      const row = { ...newEntry(newSid('CR', clock), clock), ...wanted, accountSid: account.sid };
      await store.credentials
        .save(row)
        .catch(orTaken(() => new GatewayError('SIP_USERNAME_TAKEN', { username: row.username })));
      return created(credentialJson(row));
    },
  });
  const update = resource({
    method: 'POST',
    path: `${path}/:entry`,
    params: Type.Object({ Password: Type.Optional(Type.String()) }),
    interpret: ({ Password }) => (Password === undefined ? {} : { password: password(Password) }),
    check: async (change, request) => ({ ...(await findEntry(kind, request)), ...change }),
    async act(changed) {
      const row: CredentialRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await store.credentials.save(row);
      return ok(credentialJson(row));
    },
  });
  return [...readEntries(kind), create, update];
}

export function sipListEntryResources(parts: Parts): readonly Resource[] {
  return [...addresses(parts), ...credentials(parts)];
}
