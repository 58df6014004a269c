/**
 * Origination URLs of trunking v1: the gateways of a trunk one by one. They lie inside the trunk's
 * row, so each change writes the trunk.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { JsonObject, TrunkGateway, TrunkRow } from '../store/store.ts';
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
import { heldRows, iso8601, listMetaPage, PAGE_PARAMS, pageOf } from './page.ts';
import { badParameter } from './parameters.ts';
import { findRow, type RowKind } from './rows.ts';
import { GATEWAYS_MAX, newGateway } from './trunk-gateways.ts';

const LIST = '/Trunks/:sid/OriginationUrls';

const CREATE = {
  FriendlyName: Type.String({ maxLength: 64 }),
  SipUrl: Type.String({ pattern: '^sips?:[^\\s<>"]{1,255}$' }),
  Priority: Type.Integer({ minimum: 0, maximum: 65_535 }),
  Weight: Type.Integer({ minimum: 1, maximum: 65_535 }),
  Enabled: Type.Boolean(),
};
const UPDATE = {
  FriendlyName: Type.Optional(CREATE.FriendlyName),
  SipUrl: Type.Optional(CREATE.SipUrl),
  Priority: Type.Optional(CREATE.Priority),
  Weight: Type.Optional(CREATE.Weight),
  Enabled: Type.Optional(CREATE.Enabled),
};
const badUrl = () => badParameter('SipUrl', 'must be a sip: or sips: URI');

interface UrlKind {
  readonly trunks: RowKind<TrunkRow>;
  readonly clock: Clock;
  readonly publicUrl: string;
}

function urlJson({ publicUrl }: UrlKind, trunk: TrunkRow, gateway: TrunkGateway): JsonObject {
  return {
    sid: gateway.sid,
    account_sid: trunk.accountSid,
    trunk_sid: trunk.sid,
    friendly_name: gateway.friendlyName,
    sip_url: gateway.uri,
    priority: gateway.priority,
    weight: gateway.weight,
    enabled: gateway.enabled,
    date_created: iso8601(gateway.dateCreatedMs),
    date_updated: iso8601(gateway.dateUpdatedMs),
    url: `${publicUrl}/v1/Trunks/${trunk.sid}/OriginationUrls/${gateway.sid}`,
  };
}

interface Found {
  readonly trunk: TrunkRow;
  readonly gateway: TrunkGateway;
}

async function findUrl({ trunks }: UrlKind, request: RestRequest): Promise<Found> {
  const trunk = await findRow(trunks, request);
  const sid = pathSid('OU', request, 'url');
  const gateway = trunk.gateways.find((one) => one.sid === sid);
  if (!gateway) throw missing(request);
  return { trunk, gateway };
}

async function save(
  { trunks, clock }: UrlKind,
  trunk: TrunkRow,
  gateways: readonly TrunkGateway[],
): Promise<void> {
  await trunks.table.save({ ...trunk, gateways, dateUpdatedMs: clock.nowMs() });
}

function listUrls(kind: UrlKind): Resource {
  return resource({
    method: 'GET',
    path: LIST,
    params: Type.Object(PAGE_PARAMS),
    interpret: (given) => ({ page: pageOf(given) }),
    check: async ({ page }, request) => ({ page, trunk: await findRow(kind.trunks, request) }),
    async act({ page, trunk }, { url, raw }) {
      const table = heldRows(trunk.gateways);
      const at = { accountSid: trunk.accountSid, key: 'origination_urls', path: url };
      const json = (gateway: TrunkGateway): JsonObject => urlJson(kind, trunk, gateway);
      return ok(await listMetaPage({ ...at, table, json, where: [], page, raw }, kind.publicUrl));
    },
  });
}

function createUrl(kind: UrlKind): Resource {
  return resource({
    method: 'POST',
    path: LIST,
    params: Type.Object(CREATE),
    errors: { SipUrl: badUrl },
    idempotent: true,
    interpret: (given) => ({
      uri: given.SipUrl,
      friendlyName: given.FriendlyName,
      priority: given.Priority,
      weight: given.Weight,
      enabled: given.Enabled,
    }),
    async check(wanted, request) {
      const trunk = await findRow(kind.trunks, request);
      if (trunk.gateways.length >= GATEWAYS_MAX) {
        throw new GatewayError('REST_LIMIT', { limit: GATEWAYS_MAX, things: 'URLs of a trunk' });
      }
      return { trunk, wanted };
    },
    async act({ trunk, wanted }) {
      const gateway = newGateway(wanted, kind.clock);
      await save(kind, trunk, [...trunk.gateways, gateway]);
      return created(urlJson(kind, trunk, gateway));
    },
  });
}

function updateUrl(kind: UrlKind): Resource {
  return resource({
    method: 'POST',
    path: `${LIST}/:url`,
    params: Type.Object(UPDATE),
    errors: { SipUrl: badUrl },
    interpret: (given) => ({
      ...(given.SipUrl !== undefined && { uri: given.SipUrl }),
      ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
      ...(given.Priority !== undefined && { priority: given.Priority }),
      ...(given.Weight !== undefined && { weight: given.Weight }),
      ...(given.Enabled !== undefined && { enabled: given.Enabled }),
    }),
    check: async (change, request) => ({ change, ...(await findUrl(kind, request)) }),
    async act({ change, trunk, gateway }) {
      const now = { ...gateway, ...change, dateUpdatedMs: kind.clock.nowMs() };
      const gateways = trunk.gateways.map((one) => (one === gateway ? now : one));
      await save(kind, trunk, gateways);
      return ok(urlJson(kind, trunk, now));
    },
  });
}

/** `trunks`: as trunking v1 has them. */
export function originationUrlResources(kind: UrlKind): readonly Resource[] {
  const one = { path: `${LIST}/:url`, params: Type.Object({}), interpret: asIs };
  return [
    listUrls(kind),
    createUrl(kind),
    resource({
      ...one,
      method: 'GET',
      check: (_given, request) => findUrl(kind, request),
      act: async ({ trunk, gateway }) => ok(urlJson(kind, trunk, gateway)),
    }),
    updateUrl(kind),
    resource({
      ...one,
      method: 'DELETE',
      check: (_given, request) => findUrl(kind, request),
      async act({ trunk, gateway }) {
        const left = trunk.gateways.filter((other) => other !== gateway);
        await save(kind, trunk, left);
        return DELETED;
      },
    }),
  ];
}
