/**
 * A DNS zone in memory: what `sip/dns` asks, answered from a table, and each question noted. It can
 * fall silent, refuse, or lie that nothing exists.
 */
import type { DnsSource, Found, NaptrRecord, SrvRecord } from '../../src/sip/dns.ts';

export interface Zone {
  /** `order preference flags service regexp replacement`, as in a zone file. */
  readonly naptr?: Readonly<Record<string, readonly string[]>>;
  /** `priority weight port target` */
  readonly srv?: Readonly<Record<string, readonly string[]>>;
  readonly a?: Readonly<Record<string, readonly string[]>>;
  readonly aaaa?: Readonly<Record<string, readonly string[]>>;
}

export class ZoneDns implements DnsSource {
  zone: Zone;
  state: 'up' | 'silent' | 'broken' | 'empty' = 'up';
  ttlMs = 10_000;
  readonly asked: string[] = [];
  resets = 0;

  constructor(zone: Zone) {
    this.zone = zone;
  }

  naptr(name: string): Promise<Found<NaptrRecord>> {
    return this.#answer('naptr', name, null, (text) => {
      const [order, preference, flags = '', service = '', regexp, replacement = ''] =
        text.split(' ');
      return {
        order: Number(order),
        preference: Number(preference),
        flags,
        service,
        regexp: regexp === '-' ? '' : (regexp ?? ''),
        replacement,
      };
    });
  }

  srv(name: string): Promise<Found<SrvRecord>> {
    return this.#answer('srv', name, null, (text) => {
      const [priority, weight, port, target = ''] = text.split(' ');
      return {
        priority: Number(priority),
        weight: Number(weight),
        port: Number(port),
        name: target,
      };
    });
  }

  addresses(name: string, family: 4 | 6): Promise<Found<string>> {
    return this.#answer(family === 4 ? 'a' : 'aaaa', name, this.ttlMs, (text) => text);
  }

  reset(): void {
    this.resets += 1;
  }

  async #answer<R>(
    kind: keyof Zone,
    name: string,
    ttlMs: number | null,
    read: (text: string) => R,
  ): Promise<Found<R>> {
    this.asked.push(`${kind} ${name}`);
    if (this.state === 'silent') return new Promise(() => {});
    if (this.state === 'broken') throw new Error('SERVFAIL');
    const texts = this.state === 'empty' ? [] : (this.zone[kind]?.[name] ?? []);
    return { records: texts.map(read), ttlMs };
  }
}
