/**
 * Whose call an INVITE is: the trunk, or the SIP domain, that its source address, its Request-URI's
 * host, its verified TLS certificate and its proven name say it is. Pure: what was proven comes in
 * (`inbound-digest.ts` does that), the standing of each trunk goes out.
 *
 * A host name means one trunk or domain, and proves nothing. Address lists and certificates are
 * ways to say where calls come from: one of them has to hold where any is set. Credentials are
 * asked for besides: where both are set both are required.
 */
import { AddressSet } from '../core/address.ts';
import type { Secret } from '../core/log.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { registeredAt } from '../sip/registrar.ts';
import type { SipDomainRow, TrunkRow } from '../store/store.ts';
import type { Decisions } from './decision.ts';

/** What is known of who calls before anything is asked of them. */
export interface Caller {
  readonly source: PeerAddress;
  /** Of the Request-URI, lower case. */
  readonly host: string;
  /** Verified names of the TLS certificate, lower case. */
  readonly certificateNames: readonly string[];
  /** Sids of all that its digest has proven, with spaces between; null: nothing. */
  readonly identity: string | null;
  /** The configuration trusts its address. */
  readonly isTrusted: boolean;
}

export interface Login {
  readonly username: string;
  readonly password: Secret;
}

/** How somebody's calls are told from those of others. */
export interface Claim {
  readonly sid: string;
  /** For people: `"Carrier" (TK…)`. */
  readonly name: string;
  /** Words for the fields to change: trunks and domains have different ones. */
  readonly fields: {
    readonly addresses: string;
    readonly credentials: string;
    readonly secure: string;
  };
  readonly isEnabled: boolean;
  readonly tlsOnly: boolean;
  /** Host names that mean it. */
  readonly hosts: readonly string[];
  readonly addresses: AddressSet;
  readonly certificateNames: ReadonlySet<string>;
  readonly logins: readonly Login[];
  /** There are address lists, even if they are empty: then nobody is in them. */
  readonly hasAddresses: boolean;
  readonly hasLogins: boolean;
}

/**
 * `is`: it is theirs. `known`: it comes from where theirs come from, but has to prove its name;
 * `may`: it may be theirs if it proves its name; `not`: it is not.
 */
export type Standing = 'is' | 'known' | 'may' | 'not';

/** `decisions` null: nobody wants to know why. */
export function standingOf(
  claim: Claim,
  caller: Caller,
  decisions: Decisions | null = null,
): Standing {
  const { name } = claim;
  const { transport, address } = caller.source;
  if (!claim.isEnabled) {
    decisions?.no('trunk', `${name} is switched off`, `Enabled of ${claim.sid}`);
    return 'not';
  }
  if (claim.tlsOnly && transport !== 'tls' && transport !== 'wss') {
    const what = `${name} takes calls over TLS only, and this came over ${transport}`;
    decisions?.no('source', what, `${claim.fields.secure} of ${claim.sid}, or the transport`);
    return 'not';
  }
  const isPlaced = placeOf(claim, caller);
  if (isPlaced === false) {
    decisions?.no('source', notPlaced(claim, caller), `${claim.fields.addresses} of ${claim.sid}`);
    return 'not';
  }
  if (isPlaced) decisions?.ok('source', `${address} is a source of ${name}`);
  const proven = caller.identity?.split(' ') ?? [];
  if (proven.includes(registeredAt(claim.sid))) {
    decisions?.ok('digest', `the caller is registered at ${name} and has proven it`);
    return 'is';
  }
  if (claim.hasLogins) {
    if (proven.includes(claim.sid)) {
      decisions?.ok('digest', `the caller has proven a name of ${name}`);
      return 'is';
    }
    const what = `the caller has proven no name of ${name}`;
    decisions?.no('digest', what, `${claim.fields.credentials} of ${claim.sid}, or what is sent`);
    return isPlaced ? 'known' : 'may';
  }
  if (isPlaced) return 'is';
  // Its name is all there is, and a name is no proof.
  if (caller.isTrusted) return 'is';
  const what = `nothing proves that a call from ${address} is one of ${name}`;
  const { addresses, credentials } = claim.fields;
  decisions?.no('source', what, `${addresses} or ${credentials} of ${claim.sid}`);
  return 'not';
}

/** Null when nothing is said about where its calls come from. */
function placeOf(claim: Claim, caller: Caller): boolean | null {
  if (!claim.hasAddresses && claim.certificateNames.size === 0) return null;
  if (claim.addresses.has(caller.source.address)) return true;
  return caller.certificateNames.some((name) => claim.certificateNames.has(name));
}

function notPlaced(claim: Claim, { source, certificateNames }: Caller): string {
  const { name } = claim;
  if (claim.certificateNames.size === 0) return `${source.address} is no source of ${name}`;
  const shown = certificateNames.length === 0 ? 'no certificate' : certificateNames.join(', ');
  return `${source.address} with ${shown} is no source of ${name}`;
}

/** The rows that lists consist of, by the list's sid. */
export interface Lists {
  readonly addresses: ReadonlyMap<string, readonly string[]>;
  readonly logins: ReadonlyMap<string, readonly Login[]>;
}

export function trunkClaim(row: TrunkRow, lists: Lists): Claim {
  const logins = row.credentialListSids.flatMap((sid) => lists.logins.get(sid) ?? []);
  const { inboundUsername: username, inboundPassword: password } = row;
  if (username !== null && password !== null) logins.push({ username, password });
  const listed = row.accessListSids.flatMap((sid) => lists.addresses.get(sid) ?? []);
  const addresses = [...row.inboundAddresses, ...listed];
  return {
    sid: row.sid,
    name: `trunk ${trunkLabel(row)}`,
    fields: {
      addresses: 'InboundAddress or an access list',
      credentials: 'InboundUsername',
      secure: 'TlsOnly',
    },
    isEnabled: row.enabled,
    tlsOnly: row.tlsOnly,
    hosts: [...(row.domainName === null ? [] : [row.domainName]), ...row.inboundDomains],
    addresses: new AddressSet(addresses),
    certificateNames: new Set(row.certificateNames.map((name) => name.toLowerCase())),
    logins,
    hasAddresses: row.inboundAddresses.length + row.accessListSids.length > 0,
    hasLogins: row.credentialListSids.length > 0 || (username !== null && password !== null),
  };
}

export function domainClaim(row: SipDomainRow, lists: Lists): Claim {
  const listed = row.callAccessListSids.flatMap((sid) => lists.addresses.get(sid) ?? []);
  return {
    sid: row.sid,
    name: `domain ${row.domainName}`,
    fields: {
      addresses: 'IpAccessControlListMappings',
      credentials: 'CredentialListMappings',
      secure: 'Secure',
    },
    isEnabled: true,
    tlsOnly: row.secure,
    hosts: [row.domainName],
    addresses: new AddressSet(listed),
    certificateNames: new Set(),
    logins: row.callCredentialListSids.flatMap((sid) => lists.logins.get(sid) ?? []),
    hasAddresses: row.callAccessListSids.length > 0,
    hasLogins: row.callCredentialListSids.length > 0,
  };
}

/** A trunk as people know it. */
export function trunkLabel({ sid, friendlyName }: TrunkRow): string {
  return friendlyName === '' ? sid : `"${friendlyName}" (${sid})`;
}
