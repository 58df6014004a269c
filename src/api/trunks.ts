/**
 * Trunks: the carriers and PBXs that calls come from and go to. An administrator's resource in our
 * own shape under the account's path (the reference's trunks, which are the same rows, are
 * `trunking`):
 *
 *   FriendlyName       text
 *   Enabled            true | false                                   (true)
 *   Gateways           JSON [{"uri":"sip:host:port","priority":10,"weight":10,"enabled":true}]
 *                      lowest priority first, weight shares among equals
 *   Username, Password, Realm      digest credentials for its challenges; empty clears
 *   InboundUsername, InboundPassword   what its calls from any other address prove themselves with
 *                      (digest); no two trunks share a name; empty clears
 *   InboundAddress     repeated: CIDR block or address its calls come from
 *   AccessListSid, CredentialListSid   repeated: lists of the account, of more such addresses and
 *                      users
 *   DomainName         a host name of its own; InboundDomain repeated: more Request-URI hosts that
 *                      mean it
 *   CertificateName    repeated: names of verified TLS certificates that mean it
 *   TlsOnly            true | false                                   (false)
 *   NumberPattern      repeated: a number, or a prefix that ends in `*`, that it takes outbound
 *   Policy             JSON, any part of it: see `trunk-policy`; empty goes back to the defaults
 *
 * A repeated parameter replaces the whole list; one empty value clears it. Passwords are never
 * told back.
 */
import { isIP } from 'node:net';
import { type Static, Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { Secret } from '../core/log.ts';
import { type AccessListSid, type CredentialListSid, isSid } from '../core/sid.ts';
import type { JsonObject, TrunkRow } from '../store/store.ts';
import type { TrunkPolicyChange } from '../store/trunk-policy.ts';
import type { TrunkSettings } from '../store/trunk-row.ts';
import { type Resource, uriOf } from './api.ts';
import { domainName, hostName, hostProblem } from './hosts.ts';
import { rfc2822 } from './page.ts';
import {
  badParameter,
  optionalBoolean,
  optionalText,
  optionalTexts,
  unpunctuated,
} from './parameters.ts';
import { fetchRow, listRows, type RowKind, removeRow } from './rows.ts';
import {
  type GivenGateway,
  gatewayJson,
  parseGateways,
  replacedGateways,
} from './trunk-gateways.ts';
import { changedPolicy, parsePolicy } from './trunk-policy.ts';
import type { TrunkParts } from './trunk-settings.ts';
import { createTrunk, updateTrunk } from './trunk-writes.ts';

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
  AccessListSid: optionalTexts,
  CredentialListSid: optionalTexts,
  DomainName: optionalText,
  InboundDomain: optionalTexts,
  CertificateName: optionalTexts,
  TlsOnly: optionalBoolean,
  NumberPattern: optionalTexts,
  Policy: Type.Optional(Type.String({ maxLength: 32_768 })),
});

/** What is given; gateways and policy depend on what is there. */
interface Change extends Partial<Omit<TrunkSettings, 'gateways' | 'policy'>> {
  readonly gateways?: readonly GivenGateway[];
  readonly policy?: TrunkPolicyChange | null;
}

function trunkJson(row: TrunkRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    friendly_name: row.friendlyName,
    enabled: row.enabled,
    gateways: row.gateways.map(gatewayJson),
    username: row.username,
    realm: row.realm,
    inbound_username: row.inboundUsername,
    inbound_addresses: row.inboundAddresses,
    access_list_sids: row.accessListSids,
    credential_list_sids: row.credentialListSids,
    domain_name: row.domainName,
    inbound_domains: row.inboundDomains,
    certificate_names: row.certificateNames,
    tls_only: row.tlsOnly,
    number_patterns: row.numberPatterns,
    policy: row.policy,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Trunks', row.sid),
    subresource_uris: { health: uriOf(row.accountSid, 'Trunks', row.sid, 'Health') },
  };
}

/** The repeated values, each once, without the empty one that clears. */
function parseList<T extends string = string>(
  name: string,
  values: readonly string[],
  isValid: (value: string) => boolean,
): readonly T[] {
  const list = values.map((value) => value.trim()).filter((value) => value !== '');
  if (list.length > LIST_MAX) throw badParameter(name, `has more than ${LIST_MAX} values`);
  const wrong = list.find((value) => !isValid(value));
  if (wrong !== undefined) throw badParameter(name, `"${wrong.slice(0, 64)}" is not valid`);
  return [...new Set(list)] as T[];
}

function parseHosts(name: string, values: readonly string[]): readonly string[] {
  return parseList(name, values.map(hostName), (value) => hostProblem(value) === null);
}

function isAddressBlock(value: string): boolean {
  const [address = '', prefix, ...rest] = value.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  if (prefix === undefined) return true;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}

export function isNumberPattern(value: string): boolean {
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
    ...(given.TlsOnly !== undefined && { tlsOnly: given.TlsOnly }),
    ...(given.DomainName !== undefined && {
      domainName: given.DomainName === '' ? null : domainName(given.DomainName),
    }),
    ...(given.Policy !== undefined && { policy: parsePolicy(given.Policy) }),
    ...interpretLists(given),
  };
}

function interpretLists(given: Static<typeof TRUNK_PARAMS>): Change {
  return {
    ...(given.InboundAddress && {
      inboundAddresses: parseList('InboundAddress', given.InboundAddress, isAddressBlock),
    }),
    ...(given.AccessListSid && {
      accessListSids: parseList<AccessListSid>('AccessListSid', given.AccessListSid, (value) =>
        isSid('AL', value),
      ),
    }),
    ...(given.CredentialListSid && {
      credentialListSids: parseList<CredentialListSid>(
        'CredentialListSid',
        given.CredentialListSid,
        (value) => isSid('CL', value),
      ),
    }),
    ...(given.InboundDomain && {
      inboundDomains: parseHosts('InboundDomain', given.InboundDomain),
    }),
    ...(given.CertificateName && {
      // RFC 5922 §7.2: whole names; one with a wildcard means nobody in SIP.
      certificateNames: parseHosts('CertificateName', given.CertificateName),
    }),
    ...(given.NumberPattern && {
      numberPatterns: parseList(
        'NumberPattern',
        given.NumberPattern.map(unpunctuated),
        isNumberPattern,
      ),
    }),
  };
}

function secretOf(text: string): Secret | null {
  return text === '' ? null : new Secret(text);
}

function changed<Base extends TrunkSettings>(base: Base, change: Change, clock: Clock): Base {
  const { gateways, policy, ...plain } = change;
  return {
    ...base,
    ...plain,
    ...(gateways && { gateways: replacedGateways(gateways, base.gateways, clock) }),
    ...(policy !== undefined && { policy: changedPolicy(policy, base.policy) }),
  };
}

type Parts = TrunkParts & { readonly clock: Clock };

export function trunkResources(parts: Parts): readonly Resource[] {
  const kind: RowKind<TrunkRow> = {
    path: '/Trunks',
    prefix: 'TK',
    table: parts.store.trunks,
    json: trunkJson,
  };
  const writes = {
    kind,
    parts,
    params: TRUNK_PARAMS,
    interpret: interpretTrunk,
    changed: <Base extends TrunkSettings>(base: Base, change: Change): Base =>
      changed(base, change, parts.clock),
  };
  return [
    listRows(kind, 'trunks'),
    createTrunk(writes),
    fetchRow(kind),
    updateTrunk(writes),
    removeRow(kind),
  ];
}
