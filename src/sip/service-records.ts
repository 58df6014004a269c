/**
 * Which of the NAPTR and SRV records of a domain are meant for us, and in which order (RFC 3263
 * §4.1, §4.2; RFC 2782; RFC 3403). Pure: chance comes in as a function.
 */
import type { NaptrRecord, SrvRecord } from './dns.ts';

/** What requests can be sent by without being asked first. */
export type Way = 'udp' | 'tcp' | 'tls';

/** RFC 3263 §4.2. */
export const SRV_PREFIX: Readonly<Record<Way, string>> = {
  udp: '_sip._udp',
  tcp: '_sip._tcp',
  tls: '_sips._tcp',
};

/**
 * RFC 3263 §4.1. SIP+D2W and SIPS+D2W (RFC 7118 §6) are left out with every other service: nobody
 * but a WebSocket's client can open it, so as a client we have no such transport.
 */
const SERVICES: Readonly<Record<string, Way>> = {
  'SIP+D2U': 'udp',
  'SIP+D2T': 'tcp',
  'SIPS+D2T': 'tls',
};

/** A service of the domain, and the name its SRV records have. */
export interface Service {
  readonly way: Way;
  readonly name: string;
}

/**
 * The services that we can use, grouped by ORDER, in each group the preferred first. RFC 3403 §4.1:
 * a later group is for who can use nothing of the former ones.
 */
export function servicesOf(
  records: readonly NaptrRecord[],
  speaks: (way: Way) => boolean,
): Service[][] {
  const groups = new Map<number, { service: Service; preference: number }[]>();
  for (const { order, preference, flags, service, regexp, replacement } of records) {
    const way = SERVICES[service.toUpperCase()];
    const name = replacement.toLowerCase().replace(/\.$/, '');
    // §4.1: what leads to SRV records has the flag "s" and no expression to rewrite the URI by.
    if (way === undefined || !speaks(way) || flags.toLowerCase() !== 's') continue;
    if (regexp !== '' || name === '') continue;
    const group = groups.get(order) ?? [];
    group.push({ service: { way, name }, preference });
    groups.set(order, group);
  }
  return [...groups]
    .sort(([a], [b]) => a - b)
    .map(([, group]) =>
      group.sort((a, b) => a.preference - b.preference).map(({ service }) => service),
    );
}

/**
 * In the order in which they are to be tried (RFC 2782): lower priorities first, and of one
 * priority a draw in which the weight is the number of lots. `random` is uniform in [0, 1).
 */
export function drawn(records: readonly SrvRecord[], random: () => number): SrvRecord[] {
  const left = [...records].sort(
    // Those without weight stand first, so that they are drawn by a lot of 0 only.
    (a, b) => a.priority - b.priority || Math.sign(a.weight) - Math.sign(b.weight),
  );
  const order: SrvRecord[] = [];
  while (left.length > 0) {
    const { priority } = left[0] as SrvRecord;
    const rivals = left.filter((one) => one.priority === priority);
    order.push(...left.splice(lotOf(rivals, random), 1));
  }
  return order;
}

/** The place of who is drawn. */
function lotOf(rivals: readonly SrvRecord[], random: () => number): number {
  const lots = rivals.reduce((sum, { weight }) => sum + weight, 0);
  if (lots === 0) return Math.floor(random() * rivals.length);
  // RFC 2782 draws from 0 to the sum; the 0 is for those without weight, and where there are none
  // it would favour whoever stands first.
  const least = rivals[0]?.weight === 0 ? 0 : 1;
  const lot = least + Math.floor(random() * (lots + 1 - least));
  let passed = 0;
  return rivals.findIndex(({ weight }) => {
    passed += weight;
    return passed >= lot;
  });
}
