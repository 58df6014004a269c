/**
 * Trunking v1: the reference's face of the same trunks that `trunks` shows whole. Its words are
 * laid onto ours: TransferMode onto `policy.refer`, Secure onto `tlsOnly` and `policy.srtp`,
 * origination URLs onto gateways (`origination-urls`). What could have no effect is refused: nobody
 * here knows the names behind numbers, so CnamLookupEnabled is false, and calls of a trunk are
 * recorded by their application, so `Recording` takes the one mode that is true.
 */
import { type Static, Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import type { JsonObject, TrunkRow } from '../store/store.ts';
import { trunkPolicy } from '../store/trunk-policy.ts';
import type { TrunkSettings } from '../store/trunk-row.ts';
import { asIs, ok, type Resource, resource } from './api.ts';
import { domainName } from './hosts.ts';
import { originationUrlResources } from './origination-urls.ts';
import { iso8601, listMetaPage, PAGE_PARAMS, pageOf } from './page.ts';
import {
  badParameter,
  optionalBoolean,
  optionalMethod,
  optionalText,
  optionalUrl,
} from './parameters.ts';
import { fetchRow, findRow, type RowKind, removeRow } from './rows.ts';
import type { TrunkParts } from './trunk-settings.ts';
import { createTrunk, updateTrunk } from './trunk-writes.ts';
import { trunkPartResources } from './trunking-parts.ts';
import { words } from './words.ts';

const PARAMS = Type.Object({
  FriendlyName: Type.Optional(Type.String({ maxLength: 64 })),
  DomainName: optionalText,
  DisasterRecoveryUrl: optionalText,
  DisasterRecoveryMethod: optionalMethod,
  TransferMode: Type.Optional(words('disable-all', 'enable-all', 'sip-only')),
  TransferCallerId: Type.Optional(words('from-transferee', 'from-transferor')),
  Secure: optionalBoolean,
  CnamLookupEnabled: optionalBoolean,
});

const NOT_RECORDED = { mode: 'do-not-record', trim: 'do-not-trim' } as const;
const RECORDING = Type.Object({
  Mode: Type.Optional(words(NOT_RECORDED.mode)),
  Trim: Type.Optional(words(NOT_RECORDED.trim)),
});

const PARTS = {
  origination_urls: 'OriginationUrls',
  credential_lists: 'CredentialLists',
  ip_access_control_lists: 'IpAccessControlLists',
  phone_numbers: 'PhoneNumbers',
  recording: 'Recording',
};

export type TrunkingParts = TrunkParts & {
  readonly clock: Clock;
  /** What clients reach us by; every address that is told begins with it. */
  readonly publicUrl: string;
};

function transferMode({ policy, trunking }: TrunkSettings): string {
  if (policy.refer === 'refuse') return 'disable-all';
  return trunking.transferSipOnly ? 'sip-only' : 'enable-all';
}

function trunkJson(row: TrunkRow, publicUrl: string): JsonObject {
  const url = `${publicUrl}/v1/Trunks/${row.sid}`;
  const types = [
    ...(row.accessListSids.length > 0 ? ['IP_ACL'] : []),
    ...(row.credentialListSids.length > 0 ? ['CREDENTIAL_LIST'] : []),
  ];
  const { trunking } = row;
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    friendly_name: row.friendlyName,
    domain_name: row.domainName,
    disaster_recovery_url: trunking.disasterRecoveryUrl,
    disaster_recovery_method: trunking.disasterRecoveryMethod,
    transfer_mode: transferMode(row),
    transfer_caller_id: trunking.transferCallerId,
    secure: row.tlsOnly && row.policy.srtp === 'required',
    cnam_lookup_enabled: false,
    recording: NOT_RECORDED,
    auth_type: types.join(','),
    auth_type_set: types,
    // The engine answers where media comes from, for every trunk.
    symmetric_rtp_enabled: true,
    date_created: iso8601(row.dateCreatedMs),
    date_updated: iso8601(row.dateUpdatedMs),
    url,
    links: Object.fromEntries(
      Object.entries(PARTS).map(([name, part]) => [name, `${url}/${part}`]),
    ),
  };
}

type Given = Static<typeof PARAMS>;

/** What would be believed to work: better refused than kept without effect. */
function possible(given: Given): Given {
  if (given.CnamLookupEnabled !== true) return given;
  const why = 'this gateway has no source of names for numbers';
  throw badParameter('CnamLookupEnabled', `cannot be true: ${why}`);
}

function changed<Base extends TrunkSettings>(base: Base, given: Given): Base {
  const { FriendlyName, DomainName, Secure } = given;
  return {
    ...base,
    ...(FriendlyName !== undefined && { friendlyName: FriendlyName }),
    ...(DomainName !== undefined && {
      domainName: DomainName === '' ? null : domainName(DomainName),
    }),
    ...(Secure !== undefined && { tlsOnly: Secure }),
    policy: changedPolicy(base, given),
    trunking: changedTrunking(base, given),
  };
}

function changedPolicy(base: TrunkSettings, given: Given): TrunkSettings['policy'] {
  const { policy } = base;
  const refer = { 'disable-all': 'refuse', 'enable-all': 'accept', 'sip-only': 'accept' } as const;
  const { TransferMode: mode, Secure } = given;
  // Whom the transfer is put to is a finer word than this surface has: it stays.
  const isKept = mode !== undefined && refer[mode] === 'accept' && policy.refer === 'application';
  return trunkPolicy(
    {
      ...(mode !== undefined && !isKept && { refer: refer[mode] }),
      ...(Secure === true && { srtp: 'required' }),
      ...(Secure === false && policy.srtp === 'required' && { srtp: 'off' }),
    },
    policy,
  );
}

function changedTrunking({ trunking }: TrunkSettings, given: Given): TrunkSettings['trunking'] {
  const { DisasterRecoveryUrl, DisasterRecoveryMethod, TransferMode, TransferCallerId } = given;
  return {
    ...trunking,
    ...(DisasterRecoveryUrl !== undefined && {
      disasterRecoveryUrl: optionalUrl(DisasterRecoveryUrl),
    }),
    ...(DisasterRecoveryMethod && { disasterRecoveryMethod: DisasterRecoveryMethod }),
    ...(TransferMode && { transferSipOnly: TransferMode === 'sip-only' }),
    ...(TransferCallerId && { transferCallerId: TransferCallerId }),
  };
}

function listTrunks({ table, json }: RowKind<TrunkRow>, { publicUrl }: TrunkingParts): Resource {
  return resource({
    method: 'GET',
    path: '/Trunks',
    params: Type.Object(PAGE_PARAMS),
    interpret: (given) => ({ page: pageOf(given) }),
    check: asIs,
    async act({ page }, { account, raw }) {
      const at = { accountSid: account.sid, key: 'trunks', path: '/v1/Trunks' };
      return ok(await listMetaPage({ table, where: [], page, raw, json, ...at }, publicUrl));
    },
  });
}

function recording(kind: RowKind<TrunkRow>): readonly Resource[] {
  const common = {
    path: '/Trunks/:sid/Recording',
    interpret: asIs,
    act: async () => ok(NOT_RECORDED),
  };
  const check = async (_given: object, request: Parameters<typeof findRow>[1]) => {
    await findRow(kind, request);
  };
  return [
    resource({ ...common, method: 'GET', params: Type.Object({}), check }),
    resource({ ...common, method: 'POST', params: RECORDING, check }),
  ];
}

export function trunkingResources(parts: TrunkingParts): readonly Resource[] {
  const kind: RowKind<TrunkRow> = {
    path: '/Trunks',
    prefix: 'TK',
    table: parts.store.trunks,
    json: (row) => trunkJson(row, parts.publicUrl),
  };
  const writes = { kind, parts, params: PARAMS, interpret: possible, changed };
  return [
    listTrunks(kind, parts),
    createTrunk(writes),
    fetchRow(kind),
    updateTrunk(writes),
    removeRow(kind),
    ...recording(kind),
    ...originationUrlResources({ trunks: kind, clock: parts.clock, publicUrl: parts.publicUrl }),
    ...trunkPartResources(kind, parts),
  ];
}
