/**
 * What lies below a trunk in trunking v1 and is a row of its own: the lists that let its calls in,
 * and the numbers that are called through it.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { type AccessListSid, type CredentialListSid, isSid } from '../core/sid.ts';
import type { JsonObject, NumberRow, TrunkRow } from '../store/store.ts';
import {
  API_VERSION,
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
import { type MappedList, mappingResources } from './list-mappings.ts';
import { iso8601, type ListRequest, listMetaPage, PAGE_PARAMS, pageOf } from './page.ts';
import { badParameter } from './parameters.ts';
import { findRow, type RowKind } from './rows.ts';
import type { TrunkParts } from './trunk-settings.ts';
import { voiceJson } from './voice-settings.ts';

type Parts = TrunkParts & { readonly clock: Clock; readonly publicUrl: string };

function dates(row: { readonly dateCreatedMs: number; readonly dateUpdatedMs: number }) {
  return { date_created: iso8601(row.dateCreatedMs), date_updated: iso8601(row.dateUpdatedMs) };
}

function lists(kind: RowKind<TrunkRow>, parts: Parts): readonly Resource[] {
  const { store, clock, limits, publicUrl } = parts;
  const common = {
    owner: kind,
    clock,
    mappingsMax: limits.mappingsMax,
  };
  const shown = <P extends 'AL' | 'CL'>(part: string) => ({
    part,
    json: (list: MappedList<P>, trunk: TrunkRow): JsonObject => ({
      sid: list.sid,
      account_sid: list.accountSid,
      trunk_sid: trunk.sid,
      friendly_name: list.friendlyName,
      ...dates(list),
      url: `${publicUrl}/v1/Trunks/${trunk.sid}/${part}/${list.sid}`,
    }),
    page: (request: ListRequest<MappedList<P>>) => listMetaPage(request, publicUrl),
  });
  return [
    ...mappingResources<TrunkRow, 'CL'>({
      ...common,
      ...shown<'CL'>('CredentialLists'),
      key: 'credential_lists',
      parameter: 'CredentialListSid',
      prefix: 'CL',
      lists: store.credentialLists,
      sids: (row) => row.credentialListSids,
      mapped: (row, credentialListSids: readonly CredentialListSid[]) => {
        return { ...row, credentialListSids };
      },
    }),
    ...mappingResources<TrunkRow, 'AL'>({
      ...common,
      ...shown<'AL'>('IpAccessControlLists'),
      key: 'ip_access_control_lists',
      parameter: 'IpAccessControlListSid',
      prefix: 'AL',
      lists: store.accessLists,
      sids: (row) => row.accessListSids,
      mapped: (row, accessListSids: readonly AccessListSid[]) => ({ ...row, accessListSids }),
    }),
  ];
}

function numberJson(row: NumberRow, trunk: TrunkRow, publicUrl: string): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    trunk_sid: trunk.sid,
    phone_number: row.phoneNumber,
    friendly_name: row.friendlyName,
    api_version: API_VERSION,
    ...voiceJson(row),
    voice_application_sid: row.voiceApplicationSid,
    sms_application_sid: null,
    address_requirements: 'none',
    beta: false,
    capabilities: { voice: true, sms: false, mms: false, fax: false },
    ...dates(row),
    url: `${publicUrl}/v1/Trunks/${trunk.sid}/PhoneNumbers/${row.sid}`,
    links: {
      phone_number: `${publicUrl}/${API_VERSION}/Accounts/${row.accountSid}/IncomingPhoneNumbers/${row.sid}.json`,
    },
  };
}

function phoneNumbers(kind: RowKind<TrunkRow>, parts: Parts): readonly Resource[] {
  const { store, clock, publicUrl } = parts;
  const list = '/Trunks/:sid/PhoneNumbers';
  const find = async (request: RestRequest): Promise<{ trunk: TrunkRow; row: NumberRow }> => {
    const trunk = await findRow(kind, request);
    const row = await store.numbers.get(trunk.accountSid, pathSid('PN', request, 'number'));
    if (!row || row.trunkSid !== trunk.sid) throw missing(request);
    return { trunk, row };
  };
  return [
    resource({
      method: 'GET',
      path: list,
      params: Type.Object(PAGE_PARAMS),
      interpret: (given) => ({ page: pageOf(given) }),
      check: async ({ page }, request) => ({ page, trunk: await findRow(kind, request) }),
      async act({ page, trunk }, { url, raw }) {
        const request: ListRequest<NumberRow> = {
          table: store.numbers,
          accountSid: trunk.accountSid,
          where: [{ field: 'trunkSid', op: '=', value: trunk.sid }],
          page,
          key: 'phone_numbers',
          path: url,
          raw,
          json: (row) => numberJson(row, trunk, publicUrl),
        };
        return ok(await listMetaPage(request, publicUrl));
      },
    }),
    resource({
      method: 'POST',
      path: list,
      params: Type.Object({ PhoneNumberSid: Type.String() }),
      idempotent: true,
      interpret: (given) => given.PhoneNumberSid,
      async check(sid, request) {
        const trunk = await findRow(kind, request);
        const row = isSid('PN', sid) ? await store.numbers.get(trunk.accountSid, sid) : null;
        if (!row) throw badParameter('PhoneNumberSid', 'is not a number of this account');
        return { trunk, row };
      },
      async act({ trunk, row }) {
        const now: NumberRow = { ...row, trunkSid: trunk.sid, dateUpdatedMs: clock.nowMs() };
        await store.numbers.save(now);
        return created(numberJson(now, trunk, publicUrl));
      },
    }),
    resource({
      method: 'GET',
      path: `${list}/:number`,
      params: Type.Object({}),
      interpret: asIs,
      check: (_given, request) => find(request),
      act: async ({ trunk, row }) => ok(numberJson(row, trunk, publicUrl)),
    }),
    resource({
      method: 'DELETE',
      path: `${list}/:number`,
      params: Type.Object({}),
      interpret: asIs,
      check: (_given, request) => find(request),
      async act({ row }) {
        await store.numbers.save({ ...row, trunkSid: null, dateUpdatedMs: clock.nowMs() });
        return DELETED;
      },
    }),
  ];
}

/** `kind` is the trunk as trunking v1 has it. */
export function trunkPartResources(kind: RowKind<TrunkRow>, parts: Parts): readonly Resource[] {
  return [...lists(kind, parts), ...phoneNumbers(kind, parts)];
}
