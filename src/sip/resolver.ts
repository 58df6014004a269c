/**
 * Where a SIP URI is reached: addresses, ports and transports to try, in order (RFC 3263 §4). An
 * address is taken as it is; a port asks for addresses only; a transport for the SRV records of
 * that transport; neither for NAPTR first, then for SRV of each transport that we have. What is
 * remembered of DNS is `dns.ts`, which records count is `service-records.ts`.
 *
 * The answer is judged once and then used: who sends keeps to these addresses for a transaction and
 * all its retransmissions. Nothing is sent to an address that `allowAddress` refuses, whatever name
 * led to it, and the certificate of a TLS peer has to name the host of the URI, not one that DNS
 * led to.
 */
import { isIP, isIPv4, isIPv6 } from 'node:net';
import { unmapped } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { DEFAULT_DNS, DnsCache, type DnsOptions, type DnsSource, type Inquiry } from './dns.ts';
import { DEFAULT_DNS_SOURCE, SystemDns } from './dns-source.ts';
import type { ListenSpec, PeerAddress } from './peer.ts';
import { drawn, SRV_PREFIX, servicesOf, type Way } from './service-records.ts';
import { DEFAULT_TARGET_MEMORY, TargetMemory, type TargetMemoryOptions } from './target-memory.ts';
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

export interface ResolverOptions extends DnsOptions, TargetMemoryOptions {
  /** Targets of one URI: so often a transaction can be tried (RFC 3263 §4.3). */
  readonly addressesMax: number;
  /** Questions to DNS for one URI; what is remembered costs none. */
  readonly queriesPerUriMax: number;
}

const DEFAULT_RESOLVER: ResolverOptions = {
  ...DEFAULT_DNS,
  ...DEFAULT_TARGET_MEMORY,
  addressesMax: 8,
  queriesPerUriMax: 10,
};

/** A transport that we have, and to which kind of address. In the order of preference. */
interface Reach {
  readonly way: Way;
  readonly family: 4 | 6;
}

/** What a name stands for before its addresses are known. */
interface Place {
  readonly way: Way;
  readonly host: string;
  readonly port: number;
}

export class Resolver {
  readonly #clock: Clock;
  readonly #dns: DnsCache;
  readonly #memory: TargetMemory;
  readonly #reach: readonly Reach[];
  /** In the order of preference. */
  readonly #ways: readonly Way[];
  readonly #allowAddress: (address: string) => boolean;
  readonly #options: ResolverOptions;

  constructor(options: {
    clock: Clock;
    log?: Log;
    /** What we can send from, best first; all of them when it is left out. */
    listen?: readonly Pick<ListenSpec, 'transport' | 'address'>[];
    dns?: DnsSource;
    /** Instead of DNS: addresses by name, and no other records. */
    lookup?: Lookup;
    allowAddress?: (address: string) => boolean;
    limits?: Partial<ResolverOptions>;
  }) {
    const { clock, log, lookup } = options;
    this.#clock = clock;
    this.#options = { ...DEFAULT_RESOLVER, ...options.limits };
    const { queryTimeoutMs } = this.#options;
    const source =
      options.dns ??
      (lookup === undefined
        ? new SystemDns({ clock, options: { ...DEFAULT_DNS_SOURCE, queryTimeoutMs } })
        : new LookupSource(lookup));
    const logged = log === undefined ? {} : { log };
    this.#dns = new DnsCache({ clock, source, options: this.#options, ...logged });
    this.#memory = new TargetMemory({ clock, options: this.#options });
    this.#reach = options.listen === undefined ? EVERYWHERE : reachOf(options.listen);
    this.#ways = [...new Set(this.#reach.map(({ way }) => way))];
    this.#allowAddress = options.allowAddress ?? (() => true);
  }

  /** Egress policy: whether anything may be sent to `address`. */
  allows(address: string): boolean {
    return isUnicast(address) && this.#allowAddress(address);
  }

  /** The targets of `uri` when no name has to be looked up, else null. */
  literal(uri: SipUri): Target[] | null {
    const host = hostOf(uri);
    if (isIP(host) === 0) return null;
    const way = this.#wayOf(uri);
    const port = uri.port ?? portOf(way);
    return this.#judged(uri, [targetOf(uri, { way, host, port }, host)]);
  }

  /** Never empty; rejects with `SIP_TRANSPORT` when there is no usable target. */
  async resolve(uri: SipUri): Promise<Target[]> {
    const literal = this.literal(uri);
    if (literal !== null) return literal;
    const host = hostOf(uri).toLowerCase().replace(/\.$/, '');
    // What ends in a number is read as an address by some and asked of DNS by others: neither here.
    if (/(?:^|\.)(?:\d+|0x[\da-f]*)$/.test(host)) throw unresolved(uri.host, 'not a host name');
    const inquiry: Inquiry = {
      queriesLeft: this.#options.queriesPerUriMax,
      isDistrustful: false,
      problem: '',
    };
    let targets = await this.#find(uri, host, inquiry);
    if (targets.length === 0) {
      // DEVIATES: RFC 8767 §4 believes in a name's end at once. A resolver that is broken says so
      // of every name, so what worked until now goes on for as long as without any answer.
      inquiry.isDistrustful = true;
      targets = await this.#find(uri, host, inquiry);
    }
    if (targets.length === 0) throw unresolved(uri.host, inquiry.problem || 'no address');
    return this.#memory.ranked(this.#judged(uri, targets));
  }

  /** Nothing was heard from there, or nothing could be sent: the next calls try it last. */
  failed(peer: PeerAddress): void {
    this.#memory.failed(peer);
  }

  /** It said 503 and when to come back. */
  refused(peer: PeerAddress, retryAfterMs: number): void {
    this.#memory.refused(peer, retryAfterMs);
  }

  /** It is at work. */
  answered(peer: PeerAddress): void {
    this.#memory.answered(peer);
  }

  async #find(uri: SipUri, host: string, inquiry: Inquiry): Promise<Target[]> {
    const { addressesMax } = this.#options;
    const places = (await this.#placesOf(uri, host, inquiry)).slice(0, addressesMax);
    // All at once, as each may take its time; the first places get the questions that are left.
    const found = await Promise.all(places.map((place) => this.#targetsOf(uri, place, inquiry)));
    const targets = new Map<string, Target>();
    for (const target of found.flat()) {
      const key = `${target.transport} ${target.address} ${target.port}`;
      if (!targets.has(key)) targets.set(key, target);
    }
    return [...targets.values()].slice(0, addressesMax);
  }

  /** RFC 3263 §4.1 and §4.2; never a place that the URI itself does not allow. */
  async #placesOf(uri: SipUri, host: string, inquiry: Inquiry): Promise<Place[]> {
    const way = this.#wayOf(uri);
    if (uri.port !== undefined) return [{ way, host, port: uri.port }];
    const plain = { way, host, port: portOf(way) };
    if (uri.params.has('transport')) {
      return (await this.#servers(way, `${SRV_PREFIX[way]}.${host}`, inquiry)) ?? [plain];
    }
    const usable = this.#ways.filter((one) => uri.scheme !== 'sips' || one === 'tls');
    const chosen = await this.#chosenByDomain(host, usable, inquiry);
    if (chosen.length > 0) return chosen;
    // "the client constructs SRV queries for those transport protocols it supports"
    const all = await Promise.all(
      usable.map((one) => this.#servers(one, `${SRV_PREFIX[one]}.${host}`, inquiry)),
    );
    const first = all.find((places) => places !== null && places.length > 0);
    if (first) return first;
    // The domain may have said that the very transport which is left is not served.
    return all[usable.indexOf(way)] ?? [plain];
  }

  /** By its NAPTR records: of the first order that leads anywhere, all that we can use. */
  async #chosenByDomain(host: string, usable: readonly Way[], inquiry: Inquiry): Promise<Place[]> {
    const records = await this.#dns.naptr(host, inquiry);
    for (const group of servicesOf(records, (way) => usable.includes(way))) {
      const found = await Promise.all(
        group.map(({ way, name }) => this.#servers(way, name, inquiry)),
      );
      const places = found.flatMap((servers) => servers ?? []);
      if (places.length > 0) return places;
    }
    return [];
  }

  /** Of one SRV name, as drawn; null when it has no records, none when it says there is no such. */
  async #servers(way: Way, name: string, inquiry: Inquiry): Promise<Place[] | null> {
    const records = await this.#dns.srv(name, inquiry);
    if (records.length === 0) return null;
    const named = records.filter((record) => record.name !== '' && record.name !== '.');
    return drawn(named, () => this.#clock.random()).map(({ name: target, port }) => {
      return { way, host: target.toLowerCase().replace(/\.$/, ''), port };
    });
  }

  async #targetsOf(uri: SipUri, place: Place, inquiry: Inquiry): Promise<Target[]> {
    const { way, host } = place;
    if (isIP(host) !== 0) return [targetOf(uri, place, unmapped(host))];
    const families = this.#reach.filter((one) => one.way === way).map(({ family }) => family);
    if (families.length === 0) inquiry.problem = `no ${way} listener`;
    const found = await Promise.all(
      families.map((family) => this.#dns.addresses(host, family, inquiry)),
    );
    return found
      .flat()
      .filter((address) => isIP(address) !== 0)
      .map((address) => targetOf(uri, place, unmapped(address)));
  }

  /** Without those that policy refuses. */
  #judged(uri: SipUri, targets: readonly Target[]): Target[] {
    const allowed = targets.filter(({ address }) => this.allows(address));
    if (allowed.length > 0) return allowed;
    throw unresolved(uri.host, ADDRESS_REFUSED);
  }

  /** What the URI says, and where it says nothing the default that we have. */
  #wayOf(uri: SipUri): Way {
    const way = transportOf(uri);
    const isOpen = way === 'udp' && !uri.params.has('transport');
    return isOpen && !this.#ways.includes('udp') && this.#ways.includes('tcp') ? 'tcp' : way;
  }
}

const EVERYWHERE: readonly Reach[] = (['udp', 'tcp', 'tls'] as const).flatMap((way) => [
  { way, family: 4 } as const,
  { way, family: 6 } as const,
]);

/** RFC 7984 §4: both families, of which the one that is listened on first is preferred. */
function reachOf(listen: readonly Pick<ListenSpec, 'transport' | 'address'>[]): Reach[] {
  const reach: Reach[] = [];
  for (const { transport, address } of listen) {
    const way = transport;
    // RFC 7118 §5: a WebSocket is nobody's to open but its client's.
    if (way === 'ws' || way === 'wss') continue;
    const family = isIPv6(address) ? 6 : 4;
    if (!reach.some((one) => one.way === way && one.family === family)) reach.push({ way, family });
  }
  return reach;
}

function targetOf(uri: SipUri, { way, port }: Place, address: string): Target {
  const eitherTransport = way !== 'tls' && !uri.params.has('transport');
  const target: Target = { transport: way, address, port, eitherTransport };
  return way === 'tls' ? { ...target, serverName: uri.host } : target;
}

function portOf(way: Way): number {
  return way === 'tls' ? 5061 : 5060;
}

/** RFC 3261 §26.2.2: sips is TLS whatever stream it names. A WebSocket is nobody's to open but its
 * client's (RFC 7118 §5). */
function transportOf(uri: SipUri): Way {
  const named = uri.params.get('transport')?.toLowerCase();
  if (uri.scheme === 'sips' && (named === undefined || named === 'tcp')) return 'tls';
  if (uri.scheme !== 'tel' && named === 'tls') return 'tls';
  if (uri.scheme === 'sip' && named === undefined) return 'udp';
  if (uri.scheme === 'sip' && (named === 'udp' || named === 'tcp')) return named;
  throw new GatewayError('SIP_TRANSPORT', {
    peer: uri.host,
    problem: `transport ${named ?? uri.scheme} is not available`,
  });
}

/** Addresses by a function of the host's name; asked once for both families. */
class LookupSource implements DnsSource {
  readonly #lookup: Lookup;
  readonly #pending = new Map<string, Promise<readonly string[]>>();

  constructor(lookup: Lookup) {
    this.#lookup = lookup;
  }

  async naptr() {
    return NOTHING;
  }

  async srv() {
    return NOTHING;
  }

  async addresses(host: string, family: 4 | 6) {
    const pending = this.#pending.get(host) ?? this.#lookup(host);
    this.#pending.set(host, pending);
    try {
      const found = await pending;
      return { records: found.filter((address) => isIP(address) === family), ttlMs: null };
    } finally {
      this.#pending.delete(host);
    }
  }
}

const NOTHING = { records: [], ttlMs: null };

function unresolved(host: string, problem: string): GatewayError {
  return new GatewayError('SIP_TRANSPORT', { peer: host, problem });
}

/**
 * The host to go to. RFC 3261 §19.1.1: maddr wins. An IPv4 address in IPv6 clothes is judged, and
 * reached, as what it is, however it is spelled.
 */
function hostOf(uri: SipUri): string {
  return unmapped(uri.params.get('maddr') ?? uri.host);
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
