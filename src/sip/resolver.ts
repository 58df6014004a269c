/**
 * Where a SIP URI is reached: addresses, port and transport to try, in order. Now: IP literals,
 * host names through one injected lookup, `;transport=` and `maddr`. The answer is a list and the
 * call asynchronous, which is what NAPTR and SRV records (RFC 3263) will need and nothing more.
 *
 * A name that stops resolving keeps its last good answer for a day: an established carrier must not
 * be lost with a resolver. Nothing is sent to an address that `allowAddress` refuses, whatever name
 * led to it.
 */
import { lookup as dnsLookup } from 'node:dns/promises';
import { isIP, isIPv4, isIPv6, SocketAddress } from 'node:net';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { PeerAddress } from './peer.ts';
import type { SipUri } from './uri.ts';

/** The `problem` of a `SIP_TRANSPORT` that policy caused, not the network. */
export const ADDRESS_REFUSED = 'the address is refused by policy';

/** The addresses of a host name; rejects when there are none. */
export type Lookup = (host: string) => Promise<readonly string[]>;

/** A place to send a request to. */
export interface Target extends PeerAddress {
  /** The URI names no transport: a large request may take TCP instead (RFC 3261 §18.1.1). */
  readonly eitherTransport: boolean;
}

export interface ResolverOptions {
  readonly lookupTimeoutMs: number;
  readonly cacheEntriesMax: number;
  /** How long an answer is used without asking again. */
  readonly cacheMs: number;
  /** How long an answer is used when asking again fails. */
  readonly staleMs: number;
  /** How long a failure is remembered. */
  readonly failureMs: number;
  readonly addressesMax: number;
}

const DEFAULT_RESOLVER: ResolverOptions = {
  lookupTimeoutMs: 2000,
  cacheEntriesMax: 4096,
  cacheMs: 60_000,
  staleMs: 86_400_000,
  failureMs: 5000,
  addressesMax: 8,
};

interface CacheEntry {
  addresses: readonly string[];
  freshUntilMs: number;
  staleUntilMs: number;
  pending: Promise<readonly string[]> | null;
}

export class Resolver {
  readonly #clock: Clock;
  readonly #lookup: Lookup;
  readonly #allowAddress: (address: string) => boolean;
  readonly #options: ResolverOptions;
  /** In order of use: the first entry is the one to drop. */
  readonly #cache = new Map<string, CacheEntry>();

  constructor(options: {
    clock: Clock;
    lookup?: Lookup;
    allowAddress?: (address: string) => boolean;
    limits?: Partial<ResolverOptions>;
  }) {
    this.#clock = options.clock;
    this.#lookup = options.lookup ?? systemLookup;
    this.#allowAddress = options.allowAddress ?? (() => true);
    this.#options = { ...DEFAULT_RESOLVER, ...options.limits };
  }

  /** Egress policy: whether anything may be sent to `address`. */
  allows(address: string): boolean {
    return isUnicast(address) && this.#allowAddress(address);
  }

  /** The targets of `uri` when no name has to be looked up, else null. */
  literal(uri: SipUri): Target[] | null {
    const host = hostOf(uri);
    return isIP(host) === 0 ? null : this.#targets(uri, [host]);
  }

  /** Never empty; rejects with `SIP_TRANSPORT` when there is no usable target. */
  async resolve(uri: SipUri): Promise<Target[]> {
    const literal = this.literal(uri);
    return literal ?? this.#targets(uri, await this.#addresses(hostOf(uri)));
  }

  #targets(uri: SipUri, addresses: readonly string[]): Target[] {
    const named = uri.params.get('transport')?.toLowerCase();
    if (uri.scheme !== 'sip' || (named !== undefined && named !== 'udp' && named !== 'tcp')) {
      const transport = uri.scheme === 'sip' ? String(named) : uri.scheme;
      throw new GatewayError('SIP_TRANSPORT', {
        peer: uri.host,
        problem: `transport ${transport} is not available`,
      });
    }
    const targets: Target[] = [];
    for (const address of addresses) {
      if (!this.allows(address)) continue;
      targets.push({
        transport: named ?? 'udp',
        address,
        port: uri.port ?? 5060,
        eitherTransport: named === undefined,
      });
    }
    if (targets.length > 0) return targets;
    throw new GatewayError('SIP_TRANSPORT', {
      peer: uri.host,
      problem: ADDRESS_REFUSED,
    });
  }

  #addresses(host: string): Promise<readonly string[]> {
    const name = host.toLowerCase();
    const nowMs = this.#clock.monotonicMs();
    const entry = this.#cache.get(name) ?? {
      addresses: [],
      freshUntilMs: 0,
      staleUntilMs: 0,
      pending: null,
    };
    this.#cache.delete(name);
    this.#cache.set(name, entry);
    if (this.#cache.size > this.#options.cacheEntriesMax) {
      const oldest = this.#cache.keys().next().value;
      if (oldest !== undefined) this.#cache.delete(oldest);
    }
    if (entry.freshUntilMs > nowMs) {
      if (entry.addresses.length > 0) return Promise.resolve(entry.addresses);
      return Promise.reject(unresolved(host, 'not found a moment ago'));
    }
    entry.pending ??= this.#refresh(name, entry);
    return entry.pending;
  }

  async #refresh(host: string, entry: CacheEntry): Promise<readonly string[]> {
    const { cacheMs, staleMs, failureMs, addressesMax } = this.#options;
    try {
      const found = (await this.#lookupInTime(host)).filter((text) => isIP(text) !== 0);
      if (found.length === 0) throw unresolved(host, 'no address');
      const nowMs = this.#clock.monotonicMs();
      entry.addresses = found.slice(0, addressesMax);
      entry.freshUntilMs = nowMs + cacheMs;
      entry.staleUntilMs = nowMs + staleMs;
      return entry.addresses;
    } catch (thrown) {
      const nowMs = this.#clock.monotonicMs();
      entry.freshUntilMs = nowMs + failureMs;
      if (entry.staleUntilMs > nowMs) return entry.addresses;
      entry.addresses = [];
      throw unresolved(host, asGatewayError(thrown).message);
    } finally {
      entry.pending = null;
    }
  }

  #lookupInTime(host: string): Promise<readonly string[]> {
    return new Promise((resolve, reject) => {
      const timer = this.#clock.timer(this.#options.lookupTimeoutMs, () => {
        reject(unresolved(host, 'no answer in time'));
      });
      this.#lookup(host)
        .then(resolve, reject)
        .finally(() => timer.cancel());
    });
  }
}

async function systemLookup(host: string): Promise<readonly string[]> {
  const found = await dnsLookup(host, { all: true, verbatim: true });
  return found.map(({ address }) => address);
}

function unresolved(host: string, problem: string): GatewayError {
  return new GatewayError('SIP_TRANSPORT', { peer: host, problem });
}

/** The host to go to. RFC 3261 §19.1.1: maddr wins. */
function hostOf(uri: SipUri): string {
  const address = uri.params.get('maddr')?.replace(/^\[(.*)\]$/, '$1') ?? uri.host;
  if (!isIPv6(address) || !/ffff/i.test(address)) return address;
  // An IPv4 address in IPv6 clothes is judged, and reached, as what it is, however it is spelled.
  const canonical = new SocketAddress({ address, family: 'ipv6' }).address;
  return canonical.startsWith('::ffff:') && canonical.includes('.')
    ? canonical.slice(7)
    : canonical;
}

/** One host can be meant: not multicast, broadcast or unspecified. */
export function isUnicast(address: string): boolean {
  if (isIPv4(address)) {
    const first = Number.parseInt(address, 10);
    return first > 0 && first < 224;
  }
  if (!isIPv6(address)) return false;
  const lower = address.toLowerCase();
  return !lower.startsWith('ff') && !/^[0:.]*$/.test(lower);
}

/** Loopback, private (RFC 1918, RFC 4193), shared (RFC 6598) or link-local. */
export function isPrivate(address: string): boolean {
  if (isIPv4(address)) {
    const [a = 0, b = 0] = address.split('.').map(Number);
    if (a === 10 || a === 127) return true;
    if (a === 172) return b >= 16 && b < 32;
    if (a === 192) return b === 168;
    if (a === 169) return b === 254;
    return a === 100 && b >= 64 && b < 128;
  }
  const lower = address.toLowerCase();
  return lower === '::1' || /^f[cd]/.test(lower) || /^fe[89ab]/.test(lower);
}

/** Never the address of a service that others are meant to call: RFC 3927, fe80::/10. */
export function isLinkLocal(address: string): boolean {
  return address.startsWith('169.254.') || /^fe[89ab]/i.test(address);
}
