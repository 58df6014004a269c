/**
 * Trunks: the carriers and PBXs that calls come from and go to. An administrator's resource in our
 * own shape under the account's path (the reference has trunks in another product):
 *
 *   FriendlyName       text
 *   Enabled            true | false                                   (true)
 *   Gateways           JSON [{"uri":"sip:host:port","priority":10,"weight":10,"enabled":true}]
 *                      lowest priority first, weight shares among equals
 *   Username, Password, Realm      digest credentials for its challenges; empty clears
 *   InboundUsername, InboundPassword   what its calls from any other address prove themselves with
 *                      (digest); no two trunks share a name; empty clears
 *   InboundAddress     repeated: CIDR block or address its calls come from
 *   NumberPattern      repeated: a number, or a prefix that ends in `*`, that it takes outbound
 *
 * A repeated parameter replaces the whole list; one empty value clears it. Passwords are never
 * told back.
 */
import { isIP } from 'node:net';
import { type Static, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import { newSid } from '../core/sid.ts';
import type { JsonObject, Store, Table, TrunkGateway, TrunkRow } from '../store/store.ts';
import { asIs, created, ok, type Resource, resource, uriOf } from './api.ts';
import { listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { badParameter, optionalBoolean, optionalText, optionalTexts } from './parameters.ts';
import { fetchRow, findRow, type RowKind, removeRow } from './rows.ts';

const GATEWAYS_MAX = 32;
const LIST_MAX = 256;

const TRUNK_PARAMS = Type.Object({
  FriendlyName: Type.Optional(Type.String({ maxLength: 64 })),
  Enabled: optionalBoolean,
  Gateways: optionalText,
  Username: optionalText,
  Password: optionalText,
  Realm: optionalText,
  InboundUsername: optionalText,
  InboundPassword: optionalText,
  InboundAddress: optionalTexts,
  NumberPattern: optionalTexts,
});

const GATEWAYS = Compile(
  Type.Array(
    Type.Object(
      {
        uri: Type.String({ pattern: '^sips?:[^\\s<>"]{1,255}$' }),
        priority: Type.Optional(Type.Integer({ minimum: 0, maximum: 65_535 })),
        weight: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })),
        enabled: Type.Optional(Type.Boolean()),
      },
      { additionalProperties: false },
    ),
    { maxItems: GATEWAYS_MAX },
  ),
);

type Change = Partial<Omit<TrunkRow, 'sid' | 'accountSid' | 'dateCreatedMs' | 'dateUpdatedMs'>>;

function trunkJson(row: TrunkRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    friendly_name: row.friendlyName,
    enabled: row.enabled,
    gateways: row.gateways,
    username: row.username,
    realm: row.realm,
    inbound_username: row.inboundUsername,
    inbound_addresses: row.inboundAddresses,
    number_patterns: row.numberPatterns,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Trunks', row.sid),
  };
}

function parseGateways(value: string): readonly TrunkGateway[] {
  let list: unknown;
  try {
    list = value === '' ? [] : JSON.parse(value);
  } catch {
    throw badParameter('Gateways', 'is not JSON');
  }
  if (!GATEWAYS.Check(list)) {
    const [first] = GATEWAYS.Errors(list);
    throw badParameter('Gateways', `${first?.instancePath ?? ''} ${first?.message ?? ''}`);
  }
  return list.map(({ uri, priority = 10, weight = 10, enabled = true }) => {
    return { uri, priority, weight, enabled };
  });
}

/** The repeated values, without the empty one that clears. */
function parseList(
  name: string,
  values: readonly string[],
  isValid: (value: string) => boolean,
): readonly string[] {
  const list = values.map((value) => value.trim()).filter((value) => value !== '');
  if (list.length > LIST_MAX) throw badParameter(name, `has more than ${LIST_MAX} values`);
  const wrong = list.find((value) => !isValid(value));
  if (wrong !== undefined) throw badParameter(name, `"${wrong.slice(0, 64)}" is not valid`);
  return list;
}

function isAddressBlock(value: string): boolean {
  const [address = '', prefix, ...rest] = value.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  if (prefix === undefined) return true;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}

function isNumberPattern(value: string): boolean {
  return /^(?:\+?\d{1,20}\*?|\+?\*)$/.test(value);
}

function interpretTrunk(given: Static<typeof TRUNK_PARAMS>): Change {
  const { Username, Password, Realm, InboundUsername } = given;
  return {
    ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
    ...(given.Enabled !== undefined && { enabled: given.Enabled }),
    ...(given.Gateways !== undefined && { gateways: parseGateways(given.Gateways) }),
    ...(Username !== undefined && { username: Username || null }),
    ...(Password !== undefined && { password: secretOf(Password) }),
    ...(Realm !== undefined && { realm: Realm || null }),
    ...(InboundUsername !== undefined && { inboundUsername: InboundUsername || null }),
    ...(given.InboundPassword !== undefined && {
      inboundPassword: secretOf(given.InboundPassword),
    }),
    ...(given.InboundAddress && {
      inboundAddresses: parseList('InboundAddress', given.InboundAddress, isAddressBlock),
    }),
    ...(given.NumberPattern && {
      numberPatterns: parseList('NumberPattern', given.NumberPattern, isNumberPattern),
    }),
  };
}

function secretOf(text: string): Secret | null {
  return text === '' ? null : new Secret(text);
}

type Credentials = Pick<TrunkRow, 'username' | 'password' | 'inboundUsername' | 'inboundPassword'>;

const NO_CREDENTIALS: Credentials = {
  username: null,
  password: null,
  inboundUsername: null,
  inboundPassword: null,
};

/** A user without a password, or the reverse, would fail at the first challenge: say so now. */
function checkCredentials<T extends Credentials>(trunk: T): T {
  if ((trunk.username === null) !== (trunk.password === null)) {
    throw badParameter('Username', 'and Password go together');
  }
  if ((trunk.inboundUsername === null) !== (trunk.inboundPassword === null)) {
    throw badParameter('InboundUsername', 'and InboundPassword go together');
  }
  return trunk;
}

/** Whose call it is is told by that name alone. */
async function save(table: Table<TrunkRow>, row: TrunkRow): Promise<void> {
  try {
    await table.save(row);
  } catch (thrown) {
    if (!(thrown instanceof GatewayError) || thrown.code !== 'STORE_CONFLICT') throw thrown;
    throw badParameter('InboundUsername', 'is taken by another trunk');
  }
}

function listTrunks({ table, json }: RowKind<TrunkRow>): Resource {
  return resource({
    method: 'GET',
    path: '/Trunks',
    params: Type.Object(PAGE_PARAMS),
    interpret: (given) => ({ page: pageOf(given) }),
    check: asIs,
    act: async ({ page }, { account, raw }) =>
      ok(
        await listPage({
          table,
          accountSid: account.sid,
          where: [],
          page,
          key: 'trunks',
          path: uriOf(account, 'Trunks'),
          raw,
          json,
        }),
      ),
  });
}

function createTrunk({ table, json }: RowKind<TrunkRow>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/Trunks',
    params: TRUNK_PARAMS,
    idempotent: true,
    interpret: interpretTrunk,
    check: (change) => checkCredentials({ ...NO_CREDENTIALS, ...change }),
    async act(change, { account }) {
      const nowMs = clock.nowMs();
      const row: TrunkRow = {
        sid: newSid('TK', clock),
        accountSid: account.sid,
        friendlyName: '',
        enabled: true,
        gateways: [],
        realm: null,
        inboundAddresses: [],
        numberPatterns: [],
        ...change,
        dateCreatedMs: nowMs,
        dateUpdatedMs: nowMs,
      };
      await save(table, row);
      return created(json(row));
    },
  });
}

function updateTrunk(kind: RowKind<TrunkRow>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/Trunks/:sid',
    params: TRUNK_PARAMS,
    interpret: interpretTrunk,
    check: async (change, request) =>
      checkCredentials({ ...(await findRow(kind, request)), ...change }),
    async act(changed) {
      const row: TrunkRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await save(kind.table, row);
      return ok(kind.json(row));
    },
  });
}

export function trunkResources(o: { store: Store; clock: Clock }): readonly Resource[] {
  const kind: RowKind<TrunkRow> = {
    path: '/Trunks',
    prefix: 'TK',
    table: o.store.trunks,
    json: trunkJson,
  };
  return [
    listTrunks(kind),
    createTrunk(kind, o.clock),
    fetchRow(kind),
    updateTrunk(kind, o.clock),
    removeRow(kind),
  ];
}
