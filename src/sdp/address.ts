/**
 * Whether media may be sent to an address that a session description names. Decided on the
 * address' value, never on how it is written; names are not resolved here and so are refused.
 *
 * RFC 6890 (special addresses), RFC 4291 §2.5.5.2 (mapped): the mapped form of a private address
 * is refused even where that address is allowed, as nobody who means well writes it so.
 */
import { BlockList, isIPv4, isIPv6 } from 'node:net';
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

function ranges(v4: readonly string[], v6: readonly string[]): BlockList {
  const list = new BlockList();
  const add = (range: string, family: 'ipv4' | 'ipv6'): void => {
    const [net = '', prefix = ''] = range.split('/');
    list.addSubnet(net, Number(prefix), family);
  };
  for (const range of v4) add(range, 'ipv4');
  for (const range of v6) add(range, 'ipv6');
  return list;
}

const LOOPBACK = ranges(['127.0.0.0/8'], ['::1/128']);
const PRIVATE = ranges(
  ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10'],
  ['fc00::/7'],
);
/** Never a phone: "this network", link-local with the metadata services, multicast, reserved. */
const NEVER = ranges(
  ['0.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4'],
  ['::/128', 'fe80::/10', 'ff00::/8', '64:ff9b::/96', '2002::/16'],
);

/** The IPv4 address inside a mapped IPv6 one, in either notation; null when it is none. */
function unmapped(address: string): string | null {
  const match = /^(?:0{0,4}:){2,5}ffff:(?:([0-9a-f]{1,4}):([0-9a-f]{1,4})|([0-9.]+))$/i.exec(
    address,
  );
  if (match === null) return null;
  if (match[3] !== undefined) return match[3];
  const high = Number.parseInt(match[1] ?? '', 16);
  const low = Number.parseInt(match[2] ?? '', 16);
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
}

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
  const inner = isIPv6(host) ? unmapped(host) : null;
  const address = inner ?? host;
  const family = isIPv4(address) ? 4 : 6;
  if (family === 6 && (!isIPv6(address) || address.includes('%'))) {
    throw refused(`${host} is a name, and names are not resolved for media`);
  }
  const type = family === 4 ? 'ipv4' : 'ipv6';
  if (NEVER.check(address, type)) throw refused(`no media to ${host}`);
  const isLoopback = LOOPBACK.check(address, type);
  const isPrivate = PRIVATE.check(address, type);
  if (inner !== null && (isLoopback || isPrivate)) throw refused(`no media to mapped ${host}`);
  if (isLoopback && !policy.allowLoopbackMedia) throw refused(`no media to loopback ${host}`);
  if (isPrivate && !policy.allowPrivateMedia) throw refused(`no media to private ${host}`);
  return { address, family };
}

export function refused(problem: string): GatewayError {
  return new GatewayError('SDP_REFUSED', { problem });
}
