/**
 * Incoming numbers: which application or trunk answers which called address. There is no carrier
 * to buy from, so creating one states that calls to it reach this gateway. Beside numbers, a `sip:`
 * address in which `*` stands for any characters may be claimed (`sip:sales@*`, `sip:*@pbx.local`).
 */
import { type Static, Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { type ApplicationSid, isSid, newSid, type TrunkSid } from '../core/sid.ts';
import type { Filter, JsonObject, NumberRow, Store } from '../store/store.ts';
import {
  API_VERSION,
  asIs,
  created,
  ok,
  type Resource,
  type RestRequest,
  resource,
  uriOf,
} from './api.ts';
import { listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { badParameter, optionalText, unpunctuated } from './parameters.ts';
import { fetchRow, findRow, type RowKind, removeRow } from './rows.ts';
import { NO_VOICE, VOICE_PARAMS, voiceChange, voiceJson } from './voice-settings.ts';

const SETTINGS = {
  ...VOICE_PARAMS,
  FriendlyName: Type.Optional(Type.String({ maxLength: 64 })),
  VoiceApplicationSid: optionalText,
  TrunkSid: optionalText,
};
const SettingsSchema = Type.Object(SETTINGS);

type Change = Partial<Omit<NumberRow, 'sid' | 'accountSid' | 'dateCreatedMs' | 'dateUpdatedMs'>>;

function numberJson(row: NumberRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    api_version: API_VERSION,
    phone_number: row.phoneNumber,
    friendly_name: row.friendlyName,
    ...voiceJson(row),
    voice_application_sid: row.voiceApplicationSid,
    trunk_sid: row.trunkSid,
    voice_receive_mode: 'voice',
    capabilities: { voice: true, sms: false, mms: false, fax: false },
    sms_application_sid: null,
    address_requirements: 'none',
    address_sid: null,
    bundle_sid: null,
    identity_sid: null,
    emergency_status: 'Inactive',
    emergency_address_sid: null,
    emergency_address_status: null,
    beta: false,
    origin: 'hosted',
    status: 'in-use',
    type: null,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'IncomingPhoneNumbers', row.sid),
  };
}

/** E.164 or a bare extension without its punctuation, or a SIP address in lower case. */
function phoneNumber(value: string): string {
  const digits = unpunctuated(value);
  if (/^\+?[0-9*#]{1,20}$/.test(digits)) return digits;
  const address = value.toLowerCase();
  if (/^sips?:[^\s<>"@]{1,128}@[^\s<>"@]{1,128}$/.test(address)) return address;
  throw new GatewayError('NUMBER_INVALID', { phoneNumber: value.slice(0, 64) });
}

/** '' clears a reference; text that is no sid at all cannot name anything of this account. */
function reference<S extends ApplicationSid | TrunkSid>(
  prefix: 'AP' | 'TK',
  name: string,
  value: string,
): S | null {
  if (value === '') return null;
  if (!isSid(prefix, value)) throw badParameter(name, 'is not a sid');
  return value as string as S;
}

function interpretSettings(given: Static<typeof SettingsSchema>): Change {
  return {
    ...voiceChange(given),
    ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
    ...(given.VoiceApplicationSid !== undefined && {
      voiceApplicationSid: reference<ApplicationSid>(
        'AP',
        'VoiceApplicationSid',
        given.VoiceApplicationSid,
      ),
    }),
    ...(given.TrunkSid !== undefined && {
      trunkSid: reference<TrunkSid>('TK', 'TrunkSid', given.TrunkSid),
    }),
  };
}

/** What a number refers to must be of the same account. */
async function checkReferences(store: Store, change: Change, request: RestRequest): Promise<void> {
  const { sid } = request.account;
  const { voiceApplicationSid, trunkSid } = change;
  if (voiceApplicationSid && !(await store.applications.get(sid, voiceApplicationSid))) {
    throw new GatewayError('CALL_APPLICATION', { sid: voiceApplicationSid });
  }
  if (trunkSid && !(await store.trunks.get(sid, trunkSid))) {
    throw badParameter('TrunkSid', 'is not a trunk of this account');
  }
}

async function save(store: Store, row: NumberRow): Promise<void> {
  try {
    await store.numbers.save(row);
  } catch (thrown) {
    if (!(thrown instanceof GatewayError) || thrown.code !== 'STORE_CONFLICT') throw thrown;
    throw new GatewayError('NUMBER_TAKEN', { phoneNumber: row.phoneNumber }, { cause: thrown });
  }
}

function listNumbers(store: Store): Resource {
  return resource({
    method: 'GET',
    path: '/IncomingPhoneNumbers',
    params: Type.Object({ ...PAGE_PARAMS, PhoneNumber: optionalText, FriendlyName: optionalText }),
    interpret(given) {
      const where: Filter<NumberRow>[] = [];
      // A pattern in the reference is digits with `*`; the digits anywhere are near enough.
      const digits = given.PhoneNumber?.replace(/[\s().*-]/g, '');
      if (digits) where.push({ field: 'phoneNumber', op: 'contains', value: digits });
      if (given.FriendlyName) {
        where.push({ field: 'friendlyName', op: '=', value: given.FriendlyName });
      }
      return { page: pageOf(given), where };
    },
    check: asIs,
    act: async ({ page, where }, { account, raw }) =>
      ok(
        await listPage({
          table: store.numbers,
          accountSid: account.sid,
          where,
          page,
          key: 'incoming_phone_numbers',
          path: uriOf(account, 'IncomingPhoneNumbers'),
          raw,
          json: numberJson,
        }),
      ),
  });
}

function createNumber(store: Store, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/IncomingPhoneNumbers',
    params: Type.Object({
      ...SETTINGS,
      PhoneNumber: Type.String({ minLength: 1, maxLength: 300 }),
    }),
    errors: {
      PhoneNumber: (value) =>
        new GatewayError('NUMBER_INVALID', { phoneNumber: (value ?? '').slice(0, 64) }),
    },
    idempotent: true,
    interpret: (given) => ({
      ...interpretSettings(given),
      phoneNumber: phoneNumber(given.PhoneNumber),
    }),
    async check(change, request) {
      await checkReferences(store, change, request);
      return change;
    },
    async act(change, { account }) {
      const nowMs = clock.nowMs();
      const row: NumberRow = {
        sid: newSid('PN', clock),
        accountSid: account.sid,
        friendlyName: change.phoneNumber,
        ...NO_VOICE,
        voiceApplicationSid: null,
        trunkSid: null,
        ...change,
        dateCreatedMs: nowMs,
        dateUpdatedMs: nowMs,
      };
      await save(store, row);
      return created(numberJson(row));
    },
  });
}

function updateNumber(kind: RowKind<NumberRow>, store: Store, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/IncomingPhoneNumbers/:sid',
    params: SettingsSchema,
    interpret: interpretSettings,
    async check(change, request) {
      const row = await findRow(kind, request);
      await checkReferences(store, change, request);
      return { ...row, ...change };
    },
    async act(changed) {
      const row: NumberRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await save(store, row);
      return ok(numberJson(row));
    },
  });
}

export function numberResources(o: { store: Store; clock: Clock }): readonly Resource[] {
  const { store, clock } = o;
  const kind: RowKind<NumberRow> = {
    path: '/IncomingPhoneNumbers',
    prefix: 'PN',
    table: store.numbers,
    json: numberJson,
  };
  return [
    listNumbers(store),
    createNumber(store, clock),
    fetchRow(kind),
    updateNumber(kind, store, clock),
    removeRow(kind),
  ];
}
