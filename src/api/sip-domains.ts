/**
 * SIP domains: host names whose calls go to an application, and at which phones may register. Whom
 * a domain lets in is told by the lists mapped to it: for calls, addresses and users; for
 * registrations, users. The mappings lie at two paths, the older one without `Auth`, which is the
 * calls' of today. What a domain does with a call is `call/`'s.
 */
import { type Static, Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { type AccessListSid, type CredentialListSid, newSid } from '../core/sid.ts';
import {
  type AccessListRow,
  type CredentialListRow,
  type JsonObject,
  REGISTRATION_EVENTS,
  type RegistrationEvent,
  type SipDomainRow,
  type Store,
} from '../store/store.ts';
import { API_VERSION, created, ok, type Resource, resource, uriOf } from './api.ts';
import { checkHosts, domainName } from './hosts.ts';
import { mappingResources } from './list-mappings.ts';
import { listPage, rfc2822 } from './page.ts';
import {
  badParameter,
  optionalBoolean,
  optionalMethod,
  optionalText,
  optionalTexts,
  optionalUrl,
} from './parameters.ts';
import { checkLimit, fetchRow, findRow, listRows, type RowKind, removeRow } from './rows.ts';
import type { TrunkingLimits } from './trunking-limits.ts';

const SETTINGS = {
  FriendlyName: Type.Optional(Type.String({ maxLength: 64 })),
  VoiceUrl: optionalText,
  VoiceMethod: optionalMethod,
  VoiceFallbackUrl: optionalText,
  VoiceFallbackMethod: optionalMethod,
  VoiceStatusCallbackUrl: optionalText,
  VoiceStatusCallbackMethod: optionalMethod,
  SipRegistration: optionalBoolean,
  RegistrationCallbackUrl: optionalText,
  RegistrationCallbackMethod: optionalMethod,
  RegistrationCallbackEvent: optionalTexts,
  Secure: optionalBoolean,
  EmergencyCallingEnabled: optionalBoolean,
  ByocTrunkSid: optionalText,
  EmergencyCallerSid: optionalText,
};
const CREATE = Type.Object({ ...SETTINGS, DomainName: Type.String() });
const UPDATE = Type.Object({ ...SETTINGS, DomainName: optionalText });

type Change = Partial<Omit<SipDomainRow, 'sid' | 'accountSid' | 'dateCreatedMs' | 'dateUpdatedMs'>>;
interface Parts {
  readonly store: Store;
  readonly clock: Clock;
  readonly limits: TrunkingLimits;
  /** Names of this node, which are no account's. */
  readonly ownHosts: ReadonlySet<string>;
}

/** A phone refreshes every few minutes, which says nothing new: told to who asks for it. */
const DEFAULT_EVENTS = REGISTRATION_EVENTS.filter((event) => event !== 'refreshed');

const BLANK: Omit<
  SipDomainRow,
  'sid' | 'accountSid' | 'domainName' | 'dateCreatedMs' | 'dateUpdatedMs'
> = {
  friendlyName: '',
  voiceUrl: null,
  voiceMethod: 'POST',
  voiceFallbackUrl: null,
  voiceFallbackMethod: 'POST',
  statusCallback: null,
  statusCallbackMethod: 'POST',
  sipRegistration: false,
  secure: false,
  callAccessListSids: [],
  callCredentialListSids: [],
  registrationCredentialListSids: [],
  registrationCallback: null,
  registrationCallbackMethod: 'POST',
  registrationCallbackEvents: DEFAULT_EVENTS,
};

function domainJson(row: SipDomainRow): JsonObject {
  const at = (...parts: string[]) =>
    uriOf(row.accountSid, 'SIP', 'Domains', ...[row.sid, ...parts]);
  const types = [
    ...(row.callAccessListSids.length > 0 ? ['IP_ACL'] : []),
    ...(row.callCredentialListSids.length > 0 ? ['CREDENTIAL_LIST'] : []),
  ];
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    api_version: API_VERSION,
    domain_name: row.domainName,
    friendly_name: row.friendlyName,
    auth_type: types.join(','),
    voice_url: row.voiceUrl,
    voice_method: row.voiceMethod,
    voice_fallback_url: row.voiceFallbackUrl,
    voice_fallback_method: row.voiceFallbackMethod,
    voice_status_callback_url: row.statusCallback,
    voice_status_callback_method: row.statusCallbackMethod,
    sip_registration: row.sipRegistration,
    registration_callback_url: row.registrationCallback,
    registration_callback_method: row.registrationCallbackMethod,
    registration_callback_events: row.registrationCallbackEvents,
    secure: row.secure,
    emergency_calling_enabled: false,
    emergency_caller_sid: null,
    byoc_trunk_sid: null,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: at(),
    subresource_uris: {
      credential_list_mappings: at('CredentialListMappings'),
      ip_access_control_list_mappings: at('IpAccessControlListMappings'),
    },
  };
}

/** What would be believed to work: better refused than kept without effect. */
function refuseMissing(given: Static<typeof UPDATE>): void {
  if (given.EmergencyCallingEnabled === true) {
    throw badParameter('EmergencyCallingEnabled', 'cannot be true: there are no emergency calls');
  }
  for (const name of ['ByocTrunkSid', 'EmergencyCallerSid'] as const) {
    if (given[name]) throw badParameter(name, 'must be empty: there is no such resource here');
  }
}

function registrationCallback(given: Static<typeof UPDATE>): Change {
  const { RegistrationCallbackUrl: url, RegistrationCallbackMethod: method } = given;
  const { RegistrationCallbackEvent: events } = given;
  return {
    ...(url !== undefined && { registrationCallback: optionalUrl(url) }),
    ...(method && { registrationCallbackMethod: method }),
    ...(events && { registrationCallbackEvents: eventsOf(events) }),
  };
}

/** Repeated or in one, by spaces or commas; none at all: those told by default. */
function eventsOf(given: readonly string[]): readonly RegistrationEvent[] {
  const names = given.flatMap((text) => text.split(/[\s,]+/)).filter((name) => name !== '');
  const known: readonly string[] = REGISTRATION_EVENTS;
  if (names.some((name) => !known.includes(name))) {
    throw badParameter('RegistrationCallbackEvent', `must be some of ${known.join(', ')}`);
  }
  if (names.length === 0) return DEFAULT_EVENTS;
  return REGISTRATION_EVENTS.filter((event) => names.includes(event));
}

function interpretDomain(given: Static<typeof UPDATE>): Change {
  refuseMissing(given);
  return {
    ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
    ...(given.DomainName !== undefined && { domainName: domainName(given.DomainName) }),
    ...(given.VoiceUrl !== undefined && { voiceUrl: optionalUrl(given.VoiceUrl) }),
    ...(given.VoiceMethod && { voiceMethod: given.VoiceMethod }),
    ...(given.VoiceFallbackUrl !== undefined && {
      voiceFallbackUrl: optionalUrl(given.VoiceFallbackUrl),
    }),
    ...(given.VoiceFallbackMethod && { voiceFallbackMethod: given.VoiceFallbackMethod }),
    ...(given.VoiceStatusCallbackUrl !== undefined && {
      statusCallback: optionalUrl(given.VoiceStatusCallbackUrl),
    }),
    ...(given.VoiceStatusCallbackMethod && {
      statusCallbackMethod: given.VoiceStatusCallbackMethod,
    }),
    ...(given.SipRegistration !== undefined && { sipRegistration: given.SipRegistration }),
    ...registrationCallback(given),
    ...(given.Secure !== undefined && { secure: given.Secure }),
  };
}

function createDomain(kind: RowKind<SipDomainRow>, parts: Parts): Resource {
  const { clock, limits } = parts;
  return resource({
    method: 'POST',
    path: kind.path,
    params: CREATE,
    idempotent: true,
    interpret: (given) => ({ ...interpretDomain(given), domainName: domainName(given.DomainName) }),
    async check(change, { account }) {
      await checkHosts(parts, [change.domainName], { sid: null, code: 'SIP_DOMAIN_TAKEN' });
      const { table } = kind;
      const limit = limits.domainsMax;
      await checkLimit({ table, accountSid: account.sid, limit, things: 'domains' });
      return change;
    },
    async act(change, { account }) {
      const nowMs = clock.nowMs();
      const dates = { dateCreatedMs: nowMs, dateUpdatedMs: nowMs };
      const sid = newSid('SD', clock);
      const row: SipDomainRow = { sid, accountSid: account.sid, ...BLANK, ...change, ...dates };
      await kind.table.save(row);
      return created(kind.json(row));
    },
  });
}

function updateDomain(kind: RowKind<SipDomainRow>, parts: Parts): Resource {
  const { clock } = parts;
  return resource({
    method: 'POST',
    path: `${kind.path}/:sid`,
    params: UPDATE,
    interpret: interpretDomain,
    async check(change, request) {
      const row = await findRow(kind, request);
      const wanted = { ...row, ...change };
      await checkHosts(parts, [wanted.domainName], { sid: row.sid, code: 'SIP_DOMAIN_TAKEN' });
      return wanted;
    },
    async act(changed) {
      const row: SipDomainRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await kind.table.save(row);
      return ok(kind.json(row));
    },
  });
}

type Lists = AccessListRow | CredentialListRow;

/** As `Auth` shows a mapped list; the older path says of which domain besides. */
function mappingJson(list: Lists): JsonObject {
  return {
    sid: list.sid,
    account_sid: list.accountSid,
    friendly_name: list.friendlyName,
    date_created: rfc2822(list.dateCreatedMs),
    date_updated: rfc2822(list.dateUpdatedMs),
  };
}

function mappings(owner: RowKind<SipDomainRow>, { store, clock, limits }: Parts): Resource[] {
  const mappingsMax = limits.mappingsMax;
  const common = { owner, clock, mappingsMax, page: listPage };
  const access = { ...common, parameter: 'IpAccessControlListSid', prefix: 'AL' } as const;
  const users = { ...common, parameter: 'CredentialListSid', prefix: 'CL' } as const;
  const ofCalls = {
    access: {
      ...access,
      lists: store.accessLists,
      sids: (row: SipDomainRow) => row.callAccessListSids,
      mapped: (row: SipDomainRow, sids: readonly AccessListSid[]) => {
        return { ...row, callAccessListSids: sids };
      },
    },
    users: {
      ...users,
      lists: store.credentialLists,
      sids: (row: SipDomainRow) => row.callCredentialListSids,
      mapped: (row: SipDomainRow, sids: readonly CredentialListSid[]) => {
        return { ...row, callCredentialListSids: sids };
      },
    },
  };
  const legacy = (part: string) => ({
    part,
    json: (list: Lists, row: SipDomainRow) => ({
      ...mappingJson(list),
      domain_sid: row.sid,
      uri: uriOf(row.accountSid, 'SIP', 'Domains', row.sid, part, list.sid),
    }),
  });
  const auth = (part: string) => ({ part: `Auth/${part}`, key: 'contents', json: mappingJson });
  const accessPart = 'IpAccessControlListMappings';
  const usersPart = 'CredentialListMappings';
  return [
    ...mappingResources({
      ...ofCalls.access,
      ...legacy(accessPart),
      key: 'ip_access_control_list_mappings',
    }),
    ...mappingResources({
      ...ofCalls.users,
      ...legacy(usersPart),
      key: 'credential_list_mappings',
    }),
    ...mappingResources({ ...ofCalls.access, ...auth(`Calls/${accessPart}`) }),
    ...mappingResources({ ...ofCalls.users, ...auth(`Calls/${usersPart}`) }),
    ...mappingResources({
      ...ofCalls.users,
      sids: (row) => row.registrationCredentialListSids,
      mapped: (row, sids: readonly CredentialListSid[]) => {
        return { ...row, registrationCredentialListSids: sids };
      },
      ...auth(`Registrations/${usersPart}`),
    }),
  ];
}

export function sipDomainResources(parts: Parts): readonly Resource[] {
  const kind: RowKind<SipDomainRow> = {
    path: '/SIP/Domains',
    prefix: 'SD',
    table: parts.store.sipDomains,
    json: domainJson,
  };
  return [
    listRows(kind, 'domains'),
    createDomain(kind, parts),
    fetchRow(kind),
    updateDomain(kind, parts),
    removeRow(kind),
    ...mappings(kind, parts),
  ];
}
