/**
 * How a row lies in SQL: for each table its fields and their kinds, and the layout that turns a
 * row into columns and back. One description serves every database, because it uses only
 * what all have: text, numbers and null (no booleans or dates in SQLite; PostgreSQL gives 64-bit
 * integers as text). A column is the field's name in snake case.
 */
import { Secret } from '../core/log.ts';
import type {
  AccessAddressRow,
  AccessListRow,
  AccountRow,
  ApplicationRow,
  CallRow,
  CredentialListRow,
  CredentialRow,
  Json,
  NotificationRow,
  NumberRow,
  RecordingRow,
  RouteRow,
  SipDomainRow,
  TrunkRow,
  VoiceSettings,
} from './store.ts';
import type { KeptTrace } from './trace-rows.ts';
import { completeTrunk } from './trunk-row.ts';

export type SqlValue = string | number | null;
export type SqlRow = Record<string, SqlValue>;
/** Tables and columns are named by the specs below, so the compiler has no list of them. */
export type SqlSchema = Record<string, SqlRow>;

export type FieldKind = 'text' | 'number' | 'boolean' | 'json' | 'secret';
export type FieldValue = Json | Secret;
/** A row whose every field can be kept. */
export type Fields<Row> = { readonly [F in keyof Row]: FieldValue };

export interface TableSpec<Row> {
  readonly name: string;
  /** Primary key. */
  readonly key: readonly (keyof Row & string)[];
  /** The field that says whose row it is; no read of an account goes without it. */
  readonly tenant: keyof Row & string;
  readonly fields: { readonly [F in keyof Row]-?: FieldKind };
  /** What JSON of an older version of this program lacks. */
  complete?(row: Row): Row;
}

const DATES = { dateCreatedMs: 'number', dateUpdatedMs: 'number' } as const;
const RESOURCE = { sid: 'text', accountSid: 'text', ...DATES } as const;
const VOICE = {
  voiceUrl: 'text',
  voiceMethod: 'text',
  voiceFallbackUrl: 'text',
  voiceFallbackMethod: 'text',
  statusCallback: 'text',
  statusCallbackMethod: 'text',
  voiceCallerIdLookup: 'boolean',
} as const satisfies Record<keyof VoiceSettings, FieldKind>;

export const ACCOUNTS: TableSpec<AccountRow> = {
  name: 'accounts',
  key: ['sid'],
  tenant: 'sid',
  fields: { sid: 'text', authToken: 'secret', friendlyName: 'text', status: 'text', ...DATES },
};

export const APPLICATIONS: TableSpec<ApplicationRow> = {
  name: 'applications',
  key: ['sid'],
  tenant: 'accountSid',
  fields: { ...RESOURCE, ...VOICE, friendlyName: 'text' },
};

export const NUMBERS: TableSpec<NumberRow> = {
  name: 'numbers',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    ...VOICE,
    friendlyName: 'text',
    phoneNumber: 'text',
    voiceApplicationSid: 'text',
    trunkSid: 'text',
  },
};

export const TRUNKS: TableSpec<TrunkRow> = {
  name: 'trunks',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    friendlyName: 'text',
    enabled: 'boolean',
    gateways: 'json',
    username: 'text',
    password: 'secret',
    realm: 'text',
    inboundUsername: 'text',
    inboundPassword: 'secret',
    inboundAddresses: 'json',
    accessListSids: 'json',
    credentialListSids: 'json',
    domainName: 'text',
    inboundDomains: 'json',
    certificateNames: 'json',
    tlsOnly: 'boolean',
    numberPatterns: 'json',
    policy: 'json',
    trunking: 'json',
  },
  complete: completeTrunk,
};

export const ROUTES: TableSpec<RouteRow> = {
  name: 'routes',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    friendlyName: 'text',
    pattern: 'text',
    priority: 'number',
    costPerMinute: 'number',
    trunkSid: 'text',
    enabled: 'boolean',
  },
};

export const SIP_DOMAINS: TableSpec<SipDomainRow> = {
  name: 'sip_domains',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    friendlyName: 'text',
    domainName: 'text',
    voiceUrl: 'text',
    voiceMethod: 'text',
    voiceFallbackUrl: 'text',
    voiceFallbackMethod: 'text',
    statusCallback: 'text',
    statusCallbackMethod: 'text',
    sipRegistration: 'boolean',
    secure: 'boolean',
    callAccessListSids: 'json',
    callCredentialListSids: 'json',
    registrationCredentialListSids: 'json',
    registrationCallback: 'text',
    registrationCallbackMethod: 'text',
    registrationCallbackEvents: 'json',
  },
};

export const ACCESS_LISTS: TableSpec<AccessListRow> = {
  name: 'access_lists',
  key: ['sid'],
  tenant: 'accountSid',
  fields: { ...RESOURCE, friendlyName: 'text' },
};

export const ACCESS_ADDRESSES: TableSpec<AccessAddressRow> = {
  name: 'access_addresses',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    accessListSid: 'text',
    friendlyName: 'text',
    ipAddress: 'text',
    cidrPrefixLength: 'number',
  },
};

export const CREDENTIAL_LISTS: TableSpec<CredentialListRow> = {
  name: 'credential_lists',
  key: ['sid'],
  tenant: 'accountSid',
  fields: { ...RESOURCE, friendlyName: 'text' },
};

export const CREDENTIALS: TableSpec<CredentialRow> = {
  name: 'credentials',
  key: ['sid'],
  tenant: 'accountSid',
  fields: { ...RESOURCE, credentialListSid: 'text', username: 'text', password: 'secret' },
};

export const CALLS: TableSpec<CallRow> = {
  name: 'calls',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    parentCallSid: 'text',
    to: 'text',
    from: 'text',
    status: 'text',
    direction: 'text',
    phoneNumberSid: 'text',
    trunkSid: 'text',
    groupSid: 'text',
    answeredBy: 'text',
    forwardedFrom: 'text',
    callerName: 'text',
    queueTimeMs: 'number',
    startMs: 'number',
    answerMs: 'number',
    endMs: 'number',
    durationS: 'number',
    endCode: 'text',
    endFault: 'text',
    sipStatus: 'number',
  },
};

export const CALL_TRACES: TableSpec<KeptTrace> = {
  name: 'call_traces',
  key: ['callSid'],
  tenant: 'accountSid',
  fields: { callSid: 'text', accountSid: 'text', events: 'json' },
};

export const RECORDINGS: TableSpec<RecordingRow> = {
  name: 'recordings',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    callSid: 'text',
    status: 'text',
    source: 'text',
    track: 'text',
    channels: 'number',
    startMs: 'number',
    durationS: 'number',
    errorCode: 'number',
    path: 'text',
  },
};

export const NOTIFICATIONS: TableSpec<NotificationRow> = {
  name: 'notifications',
  key: ['sid'],
  tenant: 'accountSid',
  fields: {
    ...RESOURCE,
    callSid: 'text',
    level: 'text',
    errorCode: 'number',
    messageText: 'text',
    messageMs: 'number',
    requestUrl: 'text',
    requestMethod: 'text',
    requestVariables: 'text',
    responseHeaders: 'text',
    responseBody: 'text',
  },
};

export function column(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** A table as SQL names it: what a statement's text depends on. */
export interface TableShape {
  readonly name: string;
  /** In the order in which `Layout.values` gives them. */
  readonly columns: readonly string[];
  readonly key: readonly string[];
}

/** One table's rows to columns and back; names are worked out once, not for every row. */
export class Layout<Row extends Fields<Row>> implements TableShape {
  readonly name: string;
  readonly columns: readonly string[];
  readonly key: readonly string[];
  readonly tenant: keyof Row & string;
  readonly #fields: readonly (keyof Row & string)[];
  readonly #kinds: readonly FieldKind[];
  readonly #complete: (row: Row) => Row;

  constructor(spec: TableSpec<Row>) {
    this.name = spec.name;
    this.#complete = spec.complete ?? ((row) => row);
    this.tenant = spec.tenant;
    this.key = spec.key.map(column);
    this.#fields = Object.keys(spec.fields) as (keyof Row & string)[];
    this.#kinds = this.#fields.map((field) => spec.fields[field]);
    this.columns = this.#fields.map(column);
  }

  values(row: Row): SqlValue[] {
    return this.#fields.map((field) => encodeValue(row[field]));
  }

  /** What lies in a database that this program wrote has its row's shape. */
  row(columns: SqlRow): Row {
    const row: Record<string, FieldValue> = {};
    for (const [index, field] of this.#fields.entries()) {
      const value = columns[this.columns[index] as string] ?? null;
      row[field] = decodeValue(this.#kinds[index] as FieldKind, value);
    }
    return this.#complete(row as Row);
  }
}

function encodeValue(value: FieldValue): SqlValue {
  if (value === null || typeof value === 'string' || typeof value === 'number') return value;
  if (typeof value === 'boolean') return value ? 1 : 0;
  if (value instanceof Secret) return value.reveal();
  return JSON.stringify(value);
}

function decodeValue(kind: FieldKind, value: SqlValue): FieldValue {
  if (value === null) return null;
  switch (kind) {
    case 'text':
      return String(value);
    case 'number':
      return Number(value);
    case 'boolean':
      return Number(value) !== 0;
    case 'secret':
      return new Secret(String(value));
    case 'json':
      return JSON.parse(String(value)) as Json;
  }
}
