/**
 * What is kept: rows as plain readonly data, and the interface by which they are read and written.
 * Not SQL (`table`, `sqlite`), not the schema's history (`migrations`), and no idea of what a call
 * is: only what remains of one. Dates are ms since the Unix epoch, durations name their unit.
 *
 * Two ways to write, by what the writer can wait for. `put` queues and never blocks or throws: the
 * signaling path uses it, and a store outage costs it nothing until the queue's bound. `save`
 * resolves when the row is on disk: the REST surface uses it, because 201 means kept.
 */

import type { Secret } from '../core/log.ts';
import type {
  AccessListSid,
  AccountSid,
  ApplicationSid,
  CallSid,
  CredentialListSid,
  GatewaySid,
  NumberSid,
  RecordingSid,
  RouteSid,
  Sid,
  SipDomainSid,
  TrunkSid,
} from '../core/sid.ts';
import type { TrunkPolicy } from './trunk-policy.ts';

/** Plain data that survives being written as text and read back. */
export type Json = string | number | boolean | null | readonly Json[] | JsonObject;
export type JsonObject = { readonly [key: string]: Json };

export type HttpMethod = 'GET' | 'POST';

export interface AccountRow {
  readonly sid: AccountSid;
  readonly authToken: Secret;
  readonly friendlyName: string;
  readonly status: 'active' | 'suspended' | 'closed';
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** Where to ask what to do with a call; `null` URL: not set. */
export interface VoiceSettings {
  readonly voiceUrl: string | null;
  readonly voiceMethod: HttpMethod;
  readonly voiceFallbackUrl: string | null;
  readonly voiceFallbackMethod: HttpMethod;
  readonly statusCallback: string | null;
  readonly statusCallbackMethod: HttpMethod;
  readonly voiceCallerIdLookup: boolean;
}

export interface ApplicationRow extends VoiceSettings {
  readonly sid: ApplicationSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export interface NumberRow extends VoiceSettings {
  readonly sid: NumberSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  /** E.164, a bare extension, or a `sip:` address in which `*` stands for any run of characters. */
  readonly phoneNumber: string;
  /** Set: overrides the URLs of this row. */
  readonly voiceApplicationSid: ApplicationSid | null;
  /** Set: calls to this number go to the trunk, not to an application. */
  readonly trunkSid: TrunkSid | null;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** RFC 2782 order: lowest priority first, weight shares among equals. */
export type TrunkGateway = {
  readonly sid: GatewaySid;
  readonly friendlyName: string;
  readonly uri: string;
  readonly priority: number;
  readonly weight: number;
  readonly enabled: boolean;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
};

/** What the reference's trunks have besides. */
export type TrunkingSettings = {
  /** Asked for a document when no gateway of the trunk takes a call that came for it. */
  readonly disasterRecoveryUrl: string | null;
  readonly disasterRecoveryMethod: HttpMethod;
  /** Of transfers that `policy.refer` lets happen: to SIP addresses only. */
  readonly transferSipOnly: boolean;
  /** Whom the target of a transfer sees: who is transferred, or who transfers him. */
  readonly transferCallerId: 'from-transferee' | 'from-transferor';
};

export type TrunkTransfers = Pick<TrunkingSettings, 'transferSipOnly' | 'transferCallerId'>;

export interface TrunkRow {
  readonly sid: TrunkSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  readonly enabled: boolean;
  readonly gateways: readonly TrunkGateway[];
  /** Digest credentials with which we answer this trunk's challenges; realm null: any it names. */
  readonly username: string | null;
  readonly password: Secret | null;
  readonly realm: string | null;
  /** What its calls from other addresses prove themselves with; no two trunks share a name. */
  readonly inboundUsername: string | null;
  readonly inboundPassword: Secret | null;
  /** CIDR blocks from which its calls come. */
  readonly inboundAddresses: readonly string[];
  /** Lists of the account: more addresses, and more credentials, that its calls come with. */
  readonly accessListSids: readonly AccessListSid[];
  readonly credentialListSids: readonly CredentialListSid[];
  /** Its own name as a host, lower case; no other trunk or domain has it. */
  readonly domainName: string | null;
  /** More Request-URI hosts that mean this trunk, lower case, each claimed once. */
  readonly inboundDomains: readonly string[];
  /** Names of verified TLS certificates (RFC 5922 §7.1) that mean this trunk. */
  readonly certificateNames: readonly string[];
  /** Calls over anything but TLS are refused inbound and not placed outbound. */
  readonly tlsOnly: boolean;
  /** What it takes outbound: a number, or a prefix that ends in `*`. */
  readonly numberPatterns: readonly string[];
  readonly policy: TrunkPolicy;
  readonly trunking: TrunkingSettings;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** Addresses that calls may come from; trunks and domains refer to it. */
export interface AccessListRow {
  readonly sid: AccessListSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export interface AccessAddressRow {
  readonly sid: Sid<'IP'>;
  readonly accountSid: AccountSid;
  readonly accessListSid: AccessListSid;
  readonly friendlyName: string;
  readonly ipAddress: string;
  readonly cidrPrefixLength: number;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** Users who may call or register; trunks and domains refer to it. */
export interface CredentialListRow {
  readonly sid: CredentialListSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/**
 * The password itself and not its hashes: A1 holds the realm (RFC 7616 §3.4.2), a list is shared by
 * domains of different realms, and it may be mapped to another one long after the password was
 * given. A hash of A1 is as good as the password to a thief of the file anyway. It is never told.
 */
export interface CredentialRow {
  readonly sid: Sid<'CR'>;
  readonly accountSid: AccountSid;
  readonly credentialListSid: CredentialListSid;
  /** Once in a list, case and all. */
  readonly username: string;
  readonly password: Secret;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** What a domain's application can be told of its phones. */
export const REGISTRATION_EVENTS = ['registered', 'refreshed', 'unregistered', 'expired'] as const;
export type RegistrationEvent = (typeof REGISTRATION_EVENTS)[number];

/** A host name whose calls go to an application, and at which phones may register. */
export interface SipDomainRow extends Omit<VoiceSettings, 'voiceCallerIdLookup'> {
  readonly sid: SipDomainSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  /** Lower case; over all accounts, no trunk or other domain has it. */
  readonly domainName: string;
  readonly sipRegistration: boolean;
  /** TLS and SRTP, or no call. */
  readonly secure: boolean;
  /** Lists of the account. Without any for calls nobody may call, as in the reference. */
  readonly callAccessListSids: readonly AccessListSid[];
  readonly callCredentialListSids: readonly CredentialListSid[];
  readonly registrationCredentialListSids: readonly CredentialListSid[];
  /** Told when its phones come and go; null: nobody is. */
  readonly registrationCallback: string | null;
  readonly registrationCallbackMethod: HttpMethod;
  readonly registrationCallbackEvents: readonly RegistrationEvent[];
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/**
 * Which trunk a number goes out through. Of the enabled routes of an account whose pattern takes
 * the number the trunks are tried in this order, and this is the one place that says so:
 *
 *   1. the longer pattern first (digits before the `*`; a whole number before any prefix),
 *   2. then the lower priority,
 *   3. then the lower cost,
 *   4. then the older route, then the lower sid.
 *
 * A trunk that has no route at all is still reached by its own `numberPatterns`, after these.
 */
export interface RouteRow {
  readonly sid: RouteSid;
  readonly accountSid: AccountSid;
  readonly friendlyName: string;
  /** A number, or a prefix that ends in `*`. */
  readonly pattern: string;
  readonly priority: number;
  /** In whatever currency the operator compares in. */
  readonly costPerMinute: number;
  readonly trunkSid: TrunkSid;
  readonly enabled: boolean;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export type CallStatus =
  | 'queued'
  | 'ringing'
  | 'in-progress'
  | 'completed'
  | 'busy'
  | 'failed'
  | 'no-answer'
  | 'canceled';

export type CallDirection =
  | 'inbound'
  | 'outbound-api'
  | 'outbound-dial'
  | 'trunking-terminating'
  | 'trunking-originating';

export interface CallRow {
  readonly sid: CallSid;
  readonly accountSid: AccountSid;
  readonly parentCallSid: CallSid | null;
  readonly to: string;
  readonly from: string;
  readonly status: CallStatus;
  readonly direction: CallDirection;
  readonly phoneNumberSid: NumberSid | null;
  readonly trunkSid: TrunkSid | null;
  readonly groupSid: string | null;
  readonly answeredBy: string | null;
  readonly forwardedFrom: string | null;
  readonly callerName: string | null;
  readonly queueTimeMs: number;
  readonly startMs: number | null;
  readonly answerMs: number | null;
  readonly endMs: number | null;
  readonly durationS: number | null;
  /** Why it ended: a code of core/errors.ts, whose fault, and the SIP status seen or sent. */
  readonly endCode: string | null;
  readonly endFault: string | null;
  readonly sipStatus: number | null;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

/** One line of a call's trace; `seq` counts from 1 within the call, without gaps. */
export type CallEvent = {
  readonly seq: number;
  readonly atMs: number;
  readonly kind: string;
  readonly data: JsonObject;
};

/** All that is kept of what happened to one call, oldest first. */
export interface CallTraceRow {
  readonly callSid: CallSid;
  readonly accountSid: AccountSid;
  readonly events: readonly CallEvent[];
}

export type RecordingStatus =
  | 'in-progress'
  | 'paused'
  | 'stopped'
  | 'processing'
  | 'completed'
  | 'absent'
  | 'failed';

export interface RecordingRow {
  readonly sid: RecordingSid;
  readonly accountSid: AccountSid;
  readonly callSid: CallSid;
  readonly status: RecordingStatus;
  /** `RecordVerb`, `DialVerb`, `OutboundAPI`, `StartCallRecordingAPI`, … */
  readonly source: string;
  readonly track: 'inbound' | 'outbound' | 'both';
  readonly channels: 1 | 2;
  readonly startMs: number | null;
  readonly durationS: number | null;
  readonly errorCode: number | null;
  /** The WAV file, relative to the data directory. */
  readonly path: string;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export interface NotificationRow {
  readonly sid: Sid<'NO'>;
  readonly accountSid: AccountSid;
  readonly callSid: CallSid | null;
  readonly level: 'error' | 'warning';
  readonly errorCode: number;
  readonly messageText: string;
  readonly messageMs: number;
  readonly requestUrl: string | null;
  readonly requestMethod: HttpMethod | null;
  readonly requestVariables: string | null;
  readonly responseHeaders: string | null;
  readonly responseBody: string | null;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export type FilterValue = string | number;

/** `contains` looks for the value anywhere in the text (of JSON: as it is written). */
export interface Filter<Row> {
  readonly field: keyof Row & string;
  readonly op: '=' | '<' | '<=' | '>' | '>=' | 'contains';
  readonly value: FilterValue;
}

/** A place between two rows of a list; it stands even when its row is deleted. */
export interface Position {
  readonly dateCreatedMs: number;
  readonly sid: string;
}

export interface ListQuery<Row> {
  readonly accountSid: AccountSid;
  readonly where: readonly Filter<Row>[];
  readonly rowsMax: number;
  /** Rows to leave out from the start; for callers that know only page numbers. */
  readonly skip?: number;
  /** Older than this position, or newer when `backward`. */
  readonly position?: Position;
  readonly backward?: boolean;
}

export interface Table<Row> {
  /** Queues an insert or replacement by sid; seen by `get` at once. Never throws or waits. */
  put(row: Row): void;
  /** Inserts or replaces, after everything queued before; on disk when it resolves. */
  save(row: Row): Promise<void>;
  /** A row of another account is not there. */
  get(accountSid: AccountSid, sid: string): Promise<Row | null>;
  /** Newest first (by creation, then sid), also when `backward`; includes what is queued. */
  list(query: ListQuery<Row>): Promise<readonly Row[]>;
  /** False when there was none. */
  remove(accountSid: AccountSid, sid: string): Promise<boolean>;
  /** How many an account has. */
  count(accountSid: AccountSid, where?: readonly Filter<Row>[]): Promise<number>;
  /** Every account's rows, oldest first, at most `rowsMax`: for tables of configuration. */
  all(rowsMax: number, where?: readonly Filter<Row>[]): Promise<readonly Row[]>;
}

export interface CallTraces {
  /** Queues it; events over `callEventsMax` are left out, so one call cannot fill the disk. */
  put(row: CallTraceRow): void;
  /** In order of seq, empty when nothing is kept; includes what is queued. */
  list(accountSid: AccountSid, callSid: CallSid): Promise<readonly CallEvent[]>;
}

export type ConfigTable =
  | 'accounts'
  | 'applications'
  | 'numbers'
  | 'trunks'
  | 'routes'
  | 'sip_domains'
  | 'access_lists'
  | 'access_addresses'
  | 'credential_lists'
  | 'credentials';

/**
 * Told after a save or removal, so that those who keep a cache of configuration can reload. What
 * goes with a row (a list's entries, a trunk's routes) is not told of by itself.
 */
export interface StoreChange {
  readonly table: ConfigTable;
  readonly accountSid: AccountSid;
  readonly sid: string;
}

export interface Store {
  readonly accounts: Table<AccountRow>;
  readonly applications: Table<ApplicationRow>;
  readonly numbers: Table<NumberRow>;
  readonly trunks: Table<TrunkRow>;
  readonly routes: Table<RouteRow>;
  readonly sipDomains: Table<SipDomainRow>;
  readonly accessLists: Table<AccessListRow>;
  readonly accessAddresses: Table<AccessAddressRow>;
  readonly credentialLists: Table<CredentialListRow>;
  readonly credentials: Table<CredentialRow>;
  readonly calls: Table<CallRow>;
  readonly callTraces: CallTraces;
  readonly recordings: Table<RecordingRow>;
  readonly notifications: Table<NotificationRow>;
  /** Also removes the call's trace and notifications; recordings stay, as the API promises. */
  removeCall(accountSid: AccountSid, sid: CallSid): Promise<boolean>;
  /** Removes ended calls that were created before, at most `rowsMax`; how many went. */
  pruneCalls(createdBeforeMs: number, rowsMax: number): Promise<number>;
  onChange(listener: (change: StoreChange) => void): void;
  /** Resolves when all that was queued so far is on disk; rejects STORE_FAILED, keeping it. */
  flush(): Promise<void>;
  /** Flushes once more, then closes. Idempotent. */
  close(): Promise<void>;
}
