/**
 * The rows of numbers, applications, trunks, routes, domains and lists, arranged so that a call
 * asks no more than a few maps. Made anew after each change and never changed itself. Which rows
 * answer which question is `route-table.ts`'s.
 */
import { AddressSet } from '../core/address.ts';
import type { AccountSid } from '../core/sid.ts';
import type {
  AccessAddressRow,
  ApplicationRow,
  CredentialRow,
  NumberRow,
  RouteRow,
  SipDomainRow,
  TrunkRow,
} from '../store/store.ts';
import type { InboundAccount } from './inbound-digest.ts';
import type { RouteRule, TrunkRoute } from './route.ts';
import { usableGateways } from './trunk-choice.ts';
import {
  type Claim,
  domainClaim,
  type Lists,
  type Login,
  trunkClaim,
  trunkLabel,
} from './trunk-match.ts';

export interface Rows {
  readonly numbers: readonly NumberRow[];
  readonly applications: readonly ApplicationRow[];
  readonly trunks: readonly TrunkRow[];
  readonly routes: readonly RouteRow[];
  readonly sipDomains: readonly SipDomainRow[];
  readonly accessAddresses: readonly AccessAddressRow[];
  readonly credentials: readonly CredentialRow[];
}

export interface KnownTrunk {
  readonly row: TrunkRow;
  readonly claim: Claim;
  readonly route: TrunkRoute;
}

export interface KnownDomain {
  readonly row: SipDomainRow;
  readonly claim: Claim;
}

export interface Snapshot {
  /** By the number as written, with and without its plus sign. */
  readonly numbers: ReadonlyMap<string, NumberRow>;
  /** By its last digits: what somebody may have meant who wrote it in another way. */
  readonly byEnding: ReadonlyMap<string, readonly NumberRow[]>;
  /** `sip:` addresses with globs, in order of age. */
  readonly addresses: readonly NumberRow[];
  readonly applications: ReadonlyMap<string, ApplicationRow>;
  readonly trunks: readonly KnownTrunk[];
  /** By a host name that means one. */
  readonly trunkOfHost: ReadonlyMap<string, KnownTrunk>;
  readonly domains: ReadonlyMap<string, KnownDomain>;
  /** What calls prove themselves with, by the name they do it with. */
  readonly logins: ReadonlyMap<string, readonly InboundAccount[]>;
  readonly byAccount: ReadonlyMap<AccountSid, readonly TrunkRoute[]>;
  readonly rulesOf: ReadonlyMap<AccountSid, readonly RouteRule[]>;
  /** Addresses that calls of enabled trunks and of domains come from. */
  readonly sources: AddressSet;
  /** Somebody from an unknown address could prove something. */
  readonly isProvable: boolean;
}

export const NO_ROWS: Rows = {
  numbers: [],
  applications: [],
  trunks: [],
  routes: [],
  sipDomains: [],
  accessAddresses: [],
  credentials: [],
};

/** Digits at the end of a number that tell it from others however it is written. */
const ENDING_DIGITS = 7;

/** `ownHosts`: names of the node itself, which mean no row even where one has them. */
export function snapshotOf(rows: Rows, ownHosts: ReadonlySet<string>): Snapshot {
  const lists = listsOf(rows);
  const trunks = rows.trunks.map((row) => {
    return { row, claim: trunkClaim(row, lists), route: trunkRoute(row) };
  });
  const sipDomains = rows.sipDomains.filter(({ domainName }) => !ownHosts.has(domainName));
  const domains = sipDomains.map((row) => ({ row, claim: domainClaim(row, lists) }));
  const claims = [...trunks, ...domains].map(({ claim }) => claim);
  const enabled = claims.filter(({ isEnabled }) => isEnabled);
  const dialled = rows.numbers.filter(({ phoneNumber }) => !phoneNumber.startsWith('sip:'));
  return {
    numbers: new Map(dialled.flatMap(spellings)),
    byEnding: groupBy(
      dialled.filter(({ phoneNumber }) => endingOf(phoneNumber) !== null),
      ({ phoneNumber }) => endingOf(phoneNumber) ?? '',
    ),
    addresses: rows.numbers.filter(({ phoneNumber }) => phoneNumber.startsWith('sip:')),
    applications: new Map(rows.applications.map((row) => [row.sid, row])),
    trunks,
    trunkOfHost: new Map(
      trunks.flatMap((trunk) => {
        const hosts = trunk.claim.hosts.filter((host) => !ownHosts.has(host));
        return hosts.map((host) => [host, trunk] as const);
      }),
    ),
    domains: new Map(domains.map((domain) => [domain.row.domainName, domain])),
    logins: loginsOf(enabled),
    byAccount: groupBy(
      trunks.map(({ route }) => route),
      ({ accountSid }) => accountSid,
    ),
    rulesOf: groupBy(rows.routes, ({ accountSid }) => accountSid),
    sources: new AddressSet(sourcesOf(rows, enabled, lists)),
    isProvable: enabled.some(
      ({ hasLogins, certificateNames }) => hasLogins || certificateNames.size > 0,
    ),
  };
}

function listsOf({ accessAddresses, credentials }: Rows): Lists {
  const addresses = new Map<string, string[]>();
  for (const { accessListSid, ipAddress, cidrPrefixLength } of accessAddresses) {
    append(addresses, accessListSid, `${ipAddress}/${cidrPrefixLength}`);
  }
  const logins = new Map<string, Login[]>();
  for (const { credentialListSid, username, password } of credentials) {
    append(logins, credentialListSid, { username, password });
  }
  return { addresses, logins };
}

function sourcesOf(rows: Rows, enabled: readonly Claim[], lists: Lists): string[] {
  const isEnabled = new Set(enabled.map(({ sid }) => sid));
  const named = [
    ...rows.trunks.map(({ sid, accessListSids }) => ({ sid, lists: accessListSids })),
    ...rows.sipDomains.map(({ sid, callAccessListSids }) => ({ sid, lists: callAccessListSids })),
  ];
  const listed = named.flatMap((one) =>
    isEnabled.has(one.sid) ? one.lists.flatMap((sid) => lists.addresses.get(sid) ?? []) : [],
  );
  const own = rows.trunks.flatMap(({ enabled: isOn, inboundAddresses }) =>
    isOn ? inboundAddresses : [],
  );
  return [...own, ...listed];
}

function loginsOf(claims: readonly Claim[]): Map<string, InboundAccount[]> {
  const logins = new Map<string, InboundAccount[]>();
  for (const { sid, logins: own } of claims) {
    for (const { username, password } of own) append(logins, username, { sid, password });
  }
  return logins;
}

function trunkRoute(row: TrunkRow): TrunkRoute {
  const { username, password, realm } = row;
  return {
    sid: row.sid,
    accountSid: row.accountSid,
    name: trunkLabel(row),
    isEnabled: row.enabled,
    tlsOnly: row.tlsOnly,
    numberPatterns: row.numberPatterns,
    gateways: usableGateways(row),
    credentials: username === null || password === null ? null : { username, password, realm },
    policy: row.policy,
  };
}

/** Host names that rows claim, with whose they are. */
export function hostsOf(
  rows: Pick<Rows, 'trunks' | 'sipDomains'>,
): readonly { readonly sid: string; readonly hosts: readonly string[] }[] {
  return [
    ...rows.sipDomains.map(({ sid, domainName }) => ({ sid, hosts: [domainName] })),
    ...rows.trunks.map(({ sid, domainName, inboundDomains }) => {
      return { sid, hosts: [domainName ?? '', ...inboundDomains] };
    }),
  ];
}

function spellings(row: NumberRow): [string, NumberRow][] {
  const { phoneNumber } = row;
  const other = phoneNumber.startsWith('+') ? phoneNumber.slice(1) : `+${phoneNumber}`;
  return [
    [phoneNumber, row],
    [other, row],
  ];
}

/** The last digits of what may be a number; null when it has too few to tell anything. */
export function endingOf(number: string): string | null {
  const digits = number.replace(/[^0-9]/g, '');
  return digits.length < ENDING_DIGITS ? null : digits.slice(-ENDING_DIGITS);
}

function groupBy<T, K>(rows: readonly T[], keyOf: (row: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const row of rows) append(groups, keyOf(row), row);
  return groups;
}

function append<K, T>(map: Map<K, T[]>, key: K, value: T): void {
  const known = map.get(key);
  if (known === undefined) map.set(key, [value]);
  else known.push(value);
}
