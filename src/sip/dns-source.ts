/**
 * Questions to DNS through node:dns, that is c-ares: query ids, source ports, retries over several
 * servers, TCP for long answers, CNAMEs within one answer and the parsing of what comes back are
 * its business. Its ids and ports are random, but queries under way at once share a port, and it
 * does not mix letter case (0x20). Who wants more, or answers that are validated, lets a resolver
 * on this machine do it and names that one in `sip.dns.servers`. No search domain is ever appended:
 * a SIP URI names its host in full.
 *
 * The hosts file and `localhost` come first, as everywhere (RFC 6761 §6.3).
 */
import { Resolver as Ares } from 'node:dns/promises';
import { readFile, stat } from 'node:fs/promises';
import { isIP, isIPv6 } from 'node:net';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { DnsSource, Found, NaptrRecord, SrvRecord } from './dns.ts';

export interface DnsSourceOptions {
  /** `address` or `address:port`, IPv6 in brackets; none: the system's. */
  readonly servers: readonly string[];
  /** For one answer; within it each server is asked twice. */
  readonly queryTimeoutMs: number;
  readonly hostsFile: string;
  /** A larger one is left unread. */
  readonly hostsFileBytesMax: number;
  readonly hostsFileTtlMs: number;
}

export const DEFAULT_DNS_SOURCE: DnsSourceOptions = {
  servers: [],
  queryTimeoutMs: 2000,
  hostsFile: '/etc/hosts',
  hostsFileBytesMax: 1_000_000,
  hostsFileTtlMs: 30_000,
};

const NOTHING = { records: [], ttlMs: null };
/** It does not change. */
const LOCALHOST_TTL_MS = 3_600_000;

export class SystemDns implements DnsSource {
  readonly #options: DnsSourceOptions;
  readonly #hosts: HostsFile;
  #ares: Ares;

  /** Throws `CONFIG_BAD_VALUE`. */
  constructor(options: { clock: Clock; options: DnsSourceOptions }) {
    this.#options = options.options;
    this.#hosts = new HostsFile(options.clock, options.options);
    this.#ares = this.#open();
  }

  async naptr(name: string): Promise<Found<NaptrRecord>> {
    return await answered(async () => {
      return { records: await this.#ares.resolveNaptr(name), ttlMs: null };
    });
  }

  async srv(name: string): Promise<Found<SrvRecord>> {
    return await answered(async () => {
      return { records: await this.#ares.resolveSrv(name), ttlMs: null };
    });
  }

  async addresses(name: string, family: 4 | 6): Promise<Found<string>> {
    if (name === 'localhost' || name.endsWith('.localhost')) {
      return { records: [family === 4 ? '127.0.0.1' : '::1'], ttlMs: LOCALHOST_TTL_MS };
    }
    const known = await this.#hosts.of(name);
    if (known.length > 0) {
      const records = known.filter((address) => isIPv6(address) === (family === 6));
      return { records, ttlMs: this.#options.hostsFileTtlMs };
    }
    return await answered(async () => {
      const found =
        family === 4
          ? await this.#ares.resolve4(name, { ttl: true })
          : await this.#ares.resolve6(name, { ttl: true });
      const seconds = Math.min(...found.map(({ ttl }) => ttl));
      return { records: found.map(({ address }) => address), ttlMs: seconds * 1000 };
    });
  }

  /** The system's servers may have changed: they are read when a resolver is made. */
  reset(): void {
    if (this.#options.servers.length === 0) this.#ares = this.#open();
  }

  #open(): Ares {
    const { servers, queryTimeoutMs } = this.#options;
    // The next server is asked after a third of the time; c-ares waits twice as long for the second
    // round, which with one server takes the rest.
    const ares = new Ares({ timeout: Math.ceil(queryTimeoutMs / 3), tries: 2 });
    if (servers.length === 0) return ares;
    try {
      ares.setServers(servers);
    } catch (thrown) {
      const problem = asGatewayError(thrown).message;
      throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.dns.servers', problem });
    }
    return ares;
  }
}

/** What c-ares says of a name that is not there, or not with such a record: that is an answer. */
const NOT_THERE: ReadonlySet<string> = new Set(['ENOTFOUND', 'ENODATA']);

async function answered<R>(ask: () => Promise<Found<R>>): Promise<Found<R>> {
  try {
    return await ask();
  } catch (thrown) {
    const code = (thrown as NodeJS.ErrnoException).code ?? '';
    if (NOT_THERE.has(code)) return NOTHING;
    throw new GatewayError('SIP_TRANSPORT', { peer: 'DNS', problem: `DNS says ${code}` });
  }
}

class HostsFile {
  readonly #clock: Clock;
  readonly #options: DnsSourceOptions;
  #names: ReadonlyMap<string, readonly string[]> = new Map();
  #freshUntilMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | null = null;

  constructor(clock: Clock, options: DnsSourceOptions) {
    this.#clock = clock;
    this.#options = options;
  }

  async of(name: string): Promise<readonly string[]> {
    if (this.#clock.monotonicMs() >= this.#freshUntilMs) {
      this.#reading ??= this.#read();
      await this.#reading;
    }
    return this.#names.get(name) ?? [];
  }

  /** A file that cannot be read has no names in it. */
  async #read(): Promise<void> {
    const { hostsFile, hostsFileBytesMax, hostsFileTtlMs } = this.#options;
    try {
      const { size } = await stat(hostsFile);
      const text = size > hostsFileBytesMax ? '' : await readFile(hostsFile, 'latin1');
      this.#names = parseHosts(text);
    } catch {
      this.#names = new Map();
    } finally {
      this.#freshUntilMs = this.#clock.monotonicMs() + hostsFileTtlMs;
      this.#reading = null;
    }
  }
}

/** hosts(5): an address and its names on each line. */
export function parseHosts(text: string): Map<string, string[]> {
  const names = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [address = '', ...hosts] = (line.split('#', 1)[0] ?? '').trim().split(/\s+/);
    if (isIP(address) === 0) continue;
    for (const host of hosts) {
      const name = host.toLowerCase();
      const known = names.get(name);
      if (known === undefined) names.set(name, [address]);
      else if (!known.includes(address)) known.push(address);
    }
  }
  return names;
}
