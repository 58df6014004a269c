/**
 * Whether media may be sent to an address that a session description names. Decided on the
 * address' value, never on how it is written; names are not resolved here and so are refused.
 *
 * The table of special addresses is `core/address`. RFC 4291 §2.5.5.2: the mapped form of a private
 * address is refused even where that address is allowed, as nobody who means well writes it so.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { classifyAddress, unmapped } from '../core/address.ts';
import { GatewayError } from '../core/errors.ts';

export interface MediaPolicy {
  /** RFC 1918, shared and unique local addresses: phones and trunks in our own network. */
  readonly allowPrivateMedia: boolean;
  /** 127.0.0.0/8 and ::1: everything on one machine. */
  readonly allowLoopbackMedia: boolean;
  /** Lower ports are other services', and sending to them is an attack by proxy. */
  readonly remotePortMin: number;
}

export const DEFAULT_MEDIA_POLICY: MediaPolicy = {
  allowPrivateMedia: true,
  allowLoopbackMedia: true,
  remotePortMin: 1024,
};

/** "0.0.0.0" or "::": the hold of RFC 2543; an address to which nothing is sent. */
export function isNowhere(host: string): boolean {
  return host === '0.0.0.0' || (isIPv6(host) && /^[0:]+$/.test(host));
}

/** The address to send to; throws SDP_REFUSED with the reason. */
export function mediaAddress(
  host: string,
  policy: MediaPolicy,
): { address: string; family: 4 | 6 } {
  if (isNowhere(host)) return { address: host, family: isIPv4(host) ? 4 : 6 };
  const address = isIPv6(host) && !host.includes('%') ? unmapped(host) : host;
  const isMapped = isIPv6(host) && isIPv4(address);
  const family = isIPv4(address) ? 4 : 6;
  if (family === 6 && (!isIPv6(address) || address.includes('%'))) {
    throw refused(`${host} is a name, and names are not resolved for media`);
  }
  const kind = classifyAddress(address);
  // Never a phone: "this network", metadata services, multicast, IPv4 in the clothes of IPv6.
  if (kind === 'linkLocal' || kind === 'reserved') throw refused(`no media to ${host}`);
  const isLoopback = kind === 'loopback';
  const isPrivate = kind === 'private';
  if (isMapped && (isLoopback || isPrivate)) throw refused(`no media to mapped ${host}`);
  if (isLoopback && !policy.allowLoopbackMedia) throw refused(`no media to loopback ${host}`);
  if (isPrivate && !policy.allowPrivateMedia) throw refused(`no media to private ${host}`);
  return { address, family };
}

export function refused(problem: string): GatewayError {
  return new GatewayError('SDP_REFUSED', { problem });
}
