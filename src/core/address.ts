/**
 * IP addresses as bytes: which may be spoken to, and CIDR lists of who may speak to us.
 *
 * Decisions are made on parsed bytes only, never on text: `127.1`, `0x7f000001` or
 * `::ffff:127.0.0.1` are all loopback or no address at all. Not a resolver and not a socket: the
 * HTTP client and the SIP and media egress ask here with the address they are about to use.
 */
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net';
import { GatewayError } from './errors.ts';

export type AddressClass =
  | 'public'
  | 'loopback'
  | 'private'
  | 'linkLocal'
  | 'documentation'
  | 'reserved';

type Range = readonly [network: string, prefix: number, family: 'ipv4' | 'ipv6'];

/** RFC 6890 registries, RFC 1918, 3927, 4193, 4291, 6598, 7526, 9637; first match counts. */
const CLASSES: readonly (readonly [AddressClass, readonly Range[]])[] = [
  [
    'loopback',
    [
      ['127.0.0.0', 8, 'ipv4'],
      ['::1', 128, 'ipv6'],
    ],
  ],
  [
    'linkLocal',
    [
      ['169.254.0.0', 16, 'ipv4'],
      ['fe80::', 10, 'ipv6'],
    ],
  ],
  [
    'private',
    [
      ['10.0.0.0', 8, 'ipv4'],
      ['172.16.0.0', 12, 'ipv4'],
      ['192.168.0.0', 16, 'ipv4'],
      ['100.64.0.0', 10, 'ipv4'],
      ['fc00::', 7, 'ipv6'],
    ],
  ],
  [
    // Routed nowhere: harmless to name, useless to speak to.
    'documentation',
    [
      ['192.0.2.0', 24, 'ipv4'],
      ['198.51.100.0', 24, 'ipv4'],
      ['203.0.113.0', 24, 'ipv4'],
      ['2001:db8::', 32, 'ipv6'],
      ['3fff::', 20, 'ipv6'],
    ],
  ],
  [
    'reserved',
    [
      ['0.0.0.0', 8, 'ipv4'],
      ['192.0.0.0', 24, 'ipv4'],
      ['192.88.99.0', 24, 'ipv4'],
      ['198.18.0.0', 15, 'ipv4'],
      ['224.0.0.0', 3, 'ipv4'],
      // Embedded IPv4 (Teredo, 6to4) would reach a v4 host past the v4 rules.
      ['2001::', 23, 'ipv6'],
      ['2002::', 16, 'ipv6'],
    ],
  ],
];

const LISTS: readonly (readonly [AddressClass, BlockList])[] = CLASSES.map(([name, ranges]) => {
  const list = new BlockList();
  for (const [network, prefix, family] of ranges) list.addSubnet(network, prefix, family);
  return [name, list];
});

/**
 * RFC 4291 §2.4: the only block global unicast is given out of. What lies outside and has no class
 * of its own is reserved: IPv4-compatible, SIIT and NAT64 forms, site-local, segment routing,
 * discard, multicast, and whatever is defined next.
 */
const GLOBAL_UNICAST = new BlockList();
GLOBAL_UNICAST.addSubnet('2000::', 3, 'ipv6');

/** Verdicts on addresses that are remembered; then all are forgotten: strangers come in floods. */
const REMEMBERED_MAX = 1024;

/**
 * Answers of a pure question about an address. A call asks the same few about the same two or
 * three addresses some dozen times, and each answer makes native objects.
 */
class Remembered<Verdict extends AddressClass | boolean> {
  readonly #verdicts = new Map<string, Verdict>();
  readonly #judge: (address: string) => Verdict;

  constructor(judge: (address: string) => Verdict) {
    this.#judge = judge;
  }

  of(address: string): Verdict {
    const known = this.#verdicts.get(address);
    if (known !== undefined) return known;
    const verdict = this.#judge(address);
    if (this.#verdicts.size >= REMEMBERED_MAX) this.#verdicts.clear();
    this.#verdicts.set(address, verdict);
    return verdict;
  }
}

const CLASS_OF = new Remembered<AddressClass>(classOf);

/** The class of an IP literal. IPv4-mapped IPv6 is judged as its IPv4. Not an IP: BAD_ADDRESS. */
export function classifyAddress(address: string): AddressClass {
  return CLASS_OF.of(address);
}

function classOf(address: string): AddressClass {
  const plain = unmapped(address);
  const family = isIPv4(plain) ? 'ipv4' : 'ipv6';
  if (isIP(plain) === 0) throw new GatewayError('BAD_ADDRESS', { address });
  for (const [name, list] of LISTS) if (list.check(plain, family)) return name;
  return family === 'ipv4' || GLOBAL_UNICAST.check(plain, family) ? 'public' : 'reserved';
}

/** `::ffff:a.b.c.d` in any spelling as `a.b.c.d`; everything else as it is, brackets removed. */
export function unmapped(address: string): string {
  const bare = address.startsWith('[') && address.endsWith(']') ? address.slice(1, -1) : address;
  if (!isIPv6(bare)) return bare;
  const zone = bare.indexOf('%');
  const text = zone < 0 ? bare : bare.slice(0, zone);
  // The URL parser is the one normaliser at hand that writes every spelling in one way.
  const normal = new URL(`http://[${text}]`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(normal);
  if (!mapped) return text;
  const high = Number.parseInt(mapped[1] ?? '0', 16);
  const low = Number.parseInt(mapped[2] ?? '0', 16);
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
}

/** A set of addresses given as CIDRs (`10.0.0.0/8`, `2001:db8::/32`) or single addresses. */
export class AddressSet {
  readonly #list = new BlockList();
  readonly #holds = new Remembered<boolean>((address) => this.#check(address));
  readonly isEmpty: boolean;

  /** Throws BAD_ADDRESS naming the entry that is not one. */
  constructor(entries: readonly string[]) {
    for (const entry of entries) this.#add(entry);
    this.isEmpty = entries.length === 0;
  }

  has(address: string): boolean {
    return !this.isEmpty && this.#holds.of(address);
  }

  #check(address: string): boolean {
    const plain = unmapped(address);
    if (isIP(plain) === 0) return false;
    return this.#list.check(plain, isIPv4(plain) ? 'ipv4' : 'ipv6');
  }

  #add(entry: string): void {
    const slash = entry.indexOf('/');
    const network = slash < 0 ? entry : entry.slice(0, slash);
    const family = isIPv4(network) ? 'ipv4' : 'ipv6';
    const bits = family === 'ipv4' ? 32 : 128;
    const prefixText = slash < 0 ? String(bits) : entry.slice(slash + 1);
    const prefix = /^\d{1,3}$/.test(prefixText) ? Number(prefixText) : -1;
    if (isIP(network) === 0 || prefix < 0 || prefix > bits) {
      throw new GatewayError('BAD_ADDRESS', { address: entry });
    }
    this.#list.addSubnet(network, prefix, family);
  }
}

/**
 * Whether this gateway may open a connection to, or send a packet to, an address. Public ones are
 * allowed; loopback, private, link-local and reserved ones only when `allow` has them.
 */
export class AddressGuard {
  readonly #allow: AddressSet;
  readonly #endpoints: ReadonlySet<string>;

  constructor(options: {
    allow: readonly string[];
    /** Single `address:port` pairs, such as this gateway's own demo. */
    endpoints?: readonly string[];
  }) {
    this.#allow = new AddressSet(options.allow);
    this.#endpoints = new Set(options.endpoints ?? []);
  }

  permits(address: string, port?: number): boolean {
    const plain = unmapped(address);
    if (isIP(plain) === 0) return false;
    if (port !== undefined && this.#endpoints.has(`${plain}:${port}`)) return true;
    return this.#allow.has(plain) || classifyAddress(plain) === 'public';
  }
}
