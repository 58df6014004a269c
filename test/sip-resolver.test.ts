/**
 * Where a URI leads (RFC 3263): each branch of the procedure on a zone of our own, the draw of RFC
 * 2782, what is remembered and for how long, and what remains of it when DNS is down, slow or lies.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { realClock } from '../src/core/clock.ts';
import { parseHosts, SystemDns } from '../src/sip/dns-source.ts';
import { parseUri } from '../src/sip/message.ts';
import { Resolver, type ResolverOptions, type Target } from '../src/sip/resolver.ts';
import { drawn, servicesOf } from '../src/sip/service-records.ts';
import { SEED, SimClock, seededRandom } from './support/sim.ts';
import { type Zone, ZoneDns } from './support/zone.ts';

const LISTEN = [
  { transport: 'udp', address: '192.0.2.100' },
  { transport: 'tcp', address: '192.0.2.100' },
  { transport: 'tls', address: '192.0.2.100' },
] as const;

interface Scene {
  readonly clock: SimClock;
  readonly dns: ZoneDns;
  readonly resolver: Resolver;
  /** `transport address:port`, in order. */
  targets(uri: string): Promise<string[]>;
}

function scene(
  zone: Zone,
  options: {
    limits?: Partial<ResolverOptions>;
    listen?: ConstructorParameters<typeof Resolver>[0]['listen'];
    allowAddress?: (address: string) => boolean;
  } = {},
): Scene {
  const clock = new SimClock({ seed: SEED });
  const dns = new ZoneDns(zone);
  const { limits = {}, listen = LISTEN, allowAddress = () => true } = options;
  const resolver = new Resolver({ clock, dns, limits, listen, allowAddress });
  const targets = async (uri: string): Promise<string[]> => {
    return (await resolver.resolve(parseUri(uri))).map(shown);
  };
  return { clock, dns, resolver, targets };
}

function shown({ transport, address, port }: Target): string {
  return `${transport} ${address}:${port}`;
}

const CARRIER: Zone = {
  naptr: {
    'carrier.example': [
      '20 10 s SIP+D2U - _sip._udp.carrier.example',
      '10 20 S sip+d2t - _sip._tcp.carrier.example.',
      '10 10 s SIPS+D2T - _sips._tcp.carrier.example',
    ],
  },
  srv: {
    '_sip._udp.carrier.example': ['10 0 5060 a.carrier.example', '20 0 5070 b.carrier.example'],
    '_sip._tcp.carrier.example': ['10 0 5060 a.carrier.example.'],
    '_sips._tcp.carrier.example': ['10 0 5061 a.carrier.example'],
  },
  a: {
    'carrier.example': ['192.0.2.9'],
    'a.carrier.example': ['192.0.2.1'],
    'b.carrier.example': ['192.0.2.2', '192.0.2.3'],
  },
};

t.test('the procedure of RFC 3263', async (t) => {
  t.test('an address and a named port or transport need no more than they say', async (t) => {
    const { dns, targets } = scene(CARRIER);

    t.same(await targets('sip:x@192.0.2.7'), ['udp 192.0.2.7:5060']);
    t.same(await targets('sips:x@192.0.2.7'), ['tls 192.0.2.7:5061']);
    t.same(await targets('sip:x@192.0.2.7:5080;transport=tcp'), ['tcp 192.0.2.7:5080']);
    t.same(await targets('sip:x@carrier.example;maddr=192.0.2.8'), ['udp 192.0.2.8:5060']);
    t.same(dns.asked, []);

    t.same(await targets('sip:x@carrier.example:5080'), ['udp 192.0.2.9:5080']);
    t.same(await targets('sips:x@carrier.example:5080'), ['tls 192.0.2.9:5080']);
    t.same(await targets('sip:x@carrier.example:5080;transport=tcp'), ['tcp 192.0.2.9:5080']);
    t.same(dns.asked, ['a carrier.example'], 'no NAPTR, no SRV');
  });

  t.test('a transport without a port asks for its servers, then for addresses', async (t) => {
    const { dns, targets } = scene({
      ...CARRIER,
      a: { ...CARRIER.a, 'plain.example': ['192.0.2.4'] },
    });

    t.same(await targets('sip:x@carrier.example;transport=udp'), [
      'udp 192.0.2.1:5060',
      'udp 192.0.2.2:5070',
      'udp 192.0.2.3:5070',
    ]);
    t.same(await targets('sip:x@carrier.example;transport=tls'), ['tls 192.0.2.1:5061']);
    t.same(await targets('sips:x@carrier.example;transport=tcp'), ['tls 192.0.2.1:5061']);
    t.notOk(dns.asked.some((question) => question.startsWith('naptr')));
    t.same(await targets('sip:x@plain.example;transport=tcp'), ['tcp 192.0.2.4:5060']);
    t.same(await targets('sip:x@plain.example;transport=tls'), ['tls 192.0.2.4:5061']);
  });

  t.test('NAPTR: the first order that we can use, in it by preference', async (t) => {
    const all = scene(CARRIER);
    t.same(await all.targets('sip:x@CARRIER.example.'), [
      'tls 192.0.2.1:5061',
      'tcp 192.0.2.1:5060',
    ]);
    t.same(await all.targets('sips:x@carrier.example'), ['tls 192.0.2.1:5061'], 'sips is TLS only');

    const udp = scene(CARRIER, { listen: [{ transport: 'udp', address: '192.0.2.100' }] });
    t.same(
      await udp.targets('sip:x@carrier.example'),
      ['udp 192.0.2.1:5060', 'udp 192.0.2.2:5070', 'udp 192.0.2.3:5070'],
      'what we do not listen for is passed over',
    );
    await t.rejects(udp.targets('sips:x@carrier.example'), { code: 'SIP_TRANSPORT' });
  });

  t.test('NAPTR that means nothing to us is as none', async (t) => {
    const naptr = {
      'carrier.example': [
        '1 1 s SIP+D2W - _sip._ws.carrier.example',
        '2 1 u E2U+sip !^.*$!sip:x@evil.example! .',
        '3 1 s SIP+D2U !.*!_sip._udp.evil.example! _sip._udp.evil.example',
        '4 1 a SIP+D2T - evil.example',
        '5 1 s SIP+D2T - _sip._tcp.nothing.example',
      ],
    };
    const { dns, targets } = scene({ ...CARRIER, naptr });

    t.same((await targets('sip:x@carrier.example'))[0], 'udp 192.0.2.1:5060');
    t.notOk(dns.asked.some((question) => question.includes('evil')));
    t.same(
      servicesOf([], () => true),
      [],
    );
  });

  t.test('without NAPTR the servers of the transport that we prefer', async (t) => {
    const zone = { srv: CARRIER.srv ?? {}, a: CARRIER.a ?? {} };
    t.same((await scene(zone).targets('sip:x@carrier.example'))[0], 'udp 192.0.2.1:5060');
    const listen = [...LISTEN].reverse();
    t.same(await scene(zone, { listen }).targets('sip:x@carrier.example'), ['tls 192.0.2.1:5061']);
    t.same(await scene(zone).targets('sips:x@carrier.example'), ['tls 192.0.2.1:5061']);
  });

  t.test('without any record but addresses: UDP 5060, or TLS 5061', async (t) => {
    const { dns, targets } = scene({ a: { 'plain.example': ['192.0.2.4'] } });

    t.same(await targets('sip:x@plain.example'), ['udp 192.0.2.4:5060']);
    t.same(dns.asked, [
      'naptr plain.example',
      'srv _sip._udp.plain.example',
      'srv _sip._tcp.plain.example',
      'srv _sips._tcp.plain.example',
      'a plain.example',
    ]);
    t.same(await targets('sips:x@plain.example'), ['tls 192.0.2.4:5061']);
    t.same(await targets('sip:x@y;maddr=plain.example'), ['udp 192.0.2.4:5060']);
    const listen = [{ transport: 'tcp', address: '192.0.2.100' }] as const;
    const tcp = scene({ a: { 'plain.example': ['192.0.2.4'] } }, { listen });
    t.same(await tcp.targets('sip:x@plain.example'), ['tcp 192.0.2.4:5060']);
  });

  t.test('a service that is said not to exist is not looked for elsewhere', async (t) => {
    const zone = {
      srv: { '_sip._udp.none.example': ['0 0 0 .'], '_sip._tcp.none.example': ['0 0 0 '] },
      a: { 'none.example': ['192.0.2.4'] },
    };
    const { targets } = scene(zone);

    await t.rejects(targets('sip:x@none.example'), { code: 'SIP_TRANSPORT' });
    await t.rejects(targets('sip:x@none.example;transport=tcp'), { code: 'SIP_TRANSPORT' });
  });

  t.test('the certificate is of the host that was asked for', async (t) => {
    const { resolver } = scene(CARRIER);
    const names = async (uri: string) =>
      (await resolver.resolve(parseUri(uri))).map(({ serverName }) => serverName);

    t.same(await names('sips:x@carrier.example'), ['carrier.example']);
    t.same(await names('sips:x@carrier.example;maddr=192.0.2.5'), ['carrier.example']);
    t.same(await names('sip:x@carrier.example;transport=udp'), [undefined, undefined, undefined]);
  });

  t.test('both families, the one that is listened on first before the other', async (t) => {
    const zone = {
      a: { 'dual.example': ['192.0.2.4'] },
      aaaa: { 'dual.example': ['2001:db8::4', '::ffff:192.0.2.4', '::ffff:c000:205'] },
    };
    const v4 = { transport: 'udp', address: '192.0.2.100' } as const;
    const v6 = { transport: 'udp', address: '2001:db8::100' } as const;

    const both = scene(zone, { listen: [v6, v4] });
    t.same(
      await both.targets('sip:x@dual.example:5060'),
      ['udp 2001:db8::4:5060', 'udp 192.0.2.4:5060', 'udp 192.0.2.5:5060'],
      'a mapped address is what it is, and each is there once',
    );
    const only = scene(zone, { listen: [v4] });
    t.same(await only.targets('sip:x@dual.example:5060'), ['udp 192.0.2.4:5060']);
    t.same(only.dns.asked, ['a dual.example']);
  });
});

t.test('what is not to be reached', async (t) => {
  t.test('policy judges each address, whatever name and spelling led to it', async (t) => {
    const zone = {
      srv: { '_sip._udp.evil.example': ['1 0 5060 127.0.0.1', '2 0 5060 in.evil.example'] },
      a: { 'in.evil.example': ['10.0.0.1', '192.0.2.4', '224.0.0.1', '0.0.0.0'] },
      aaaa: { 'in.evil.example': ['::ffff:127.0.0.1', '::ffff:7f00:1'] },
    };
    const judged: string[] = [];
    const allowAddress = (address: string): boolean => {
      judged.push(address);
      return address === '192.0.2.4';
    };
    const listen = [...LISTEN, { transport: 'udp', address: '2001:db8::100' } as const];
    const { resolver, targets } = scene(zone, { allowAddress, listen });

    t.same(await targets('sip:x@evil.example'), ['udp 192.0.2.4:5060']);
    t.same(new Set(judged), new Set(['127.0.0.1', '10.0.0.1', '192.0.2.4']));
    const only = { srv: { '_sip._udp.evil.example': ['1 0 5060 127.0.0.1'] } };
    await t.rejects(scene(only, { allowAddress }).targets('sip:x@evil.example'), {
      message: /the address is refused by policy/,
    });
    t.throws(() => resolver.literal(parseUri('sip:[::ffff:127.0.0.1]')), { code: 'SIP_TRANSPORT' });
  });

  t.test('numbers that are no address are not asked of anybody', async (t) => {
    const { dns, targets } = scene({});
    for (const host of ['127.1', '2130706433', '0x7f000001', 'a.0x7f', '256.1.1.1']) {
      await t.rejects(targets(`sip:x@y;maddr=${host}`), { code: 'SIP_TRANSPORT' }, host);
    }
    t.same(dns.asked, []);
  });

  t.test('a huge zone costs ten questions and leads to eight targets', async (t) => {
    const many = Array.from({ length: 300 }, (_, i) => `${i} 0 5060 h${i}.big.example`);
    const a = Object.fromEntries(
      many.map((_, i) => [
        `h${i}.big.example`,
        Array.from({ length: 40 }, (_, j) => `198.51.100.${j + 1}`),
      ]),
    );
    const big = scene({ srv: { '_sip._udp.big.example': many }, a });

    const found = await big.targets('sip:x@big.example');
    t.equal(found.length, 8);
    t.equal(big.dns.asked.length, 10);
    t.same(big.dns.asked.slice(4, 6), ['a h0.big.example', 'a h1.big.example'], 'the best first');
  });
});

t.test('the draw of RFC 2782', async (t) => {
  const record = (name: string, priority: number, weight: number) => {
    return { name, port: 5060, priority, weight };
  };

  t.test('is by weight within a priority', async (t) => {
    const records = [
      record('b', 1, 30),
      record('a', 1, 60),
      record('c', 1, 10),
      record('z', 2, 99),
    ];
    const random = seededRandom(4711);
    const firsts = new Map<string, number>();
    const rounds = 20_000;
    for (let i = 0; i < rounds; i += 1) {
      const order = drawn(records, random);
      if (order.length !== 4 || order[3]?.name !== 'z') t.fail('another priority came before');
      const first = order[0]?.name ?? '';
      firsts.set(first, (firsts.get(first) ?? 0) + 1);
    }
    for (const [name, share] of Object.entries({ a: 0.6, b: 0.3, c: 0.1 })) {
      const seen = (firsts.get(name) ?? 0) / rounds;
      // Four standard deviations.
      t.ok(
        Math.abs(seen - share) < 4 * Math.sqrt((share * (1 - share)) / rounds),
        `${name} ${seen}`,
      );
    }
  });

  t.test(
    'leaves those without weight a small chance, and an even one among themselves',
    async (t) => {
      const random = seededRandom(42);
      const count = (records: ReturnType<typeof record>[], name: string): number => {
        let times = 0;
        for (let i = 0; i < 10_000; i += 1)
          times += drawn(records, random)[0]?.name === name ? 1 : 0;
        return times / 10_000;
      };
      const rare = count([record('w', 1, 99), record('0', 1, 0)], '0');
      t.ok(rare > 0 && rare < 0.02, `${rare}`);
      const even = count([record('x', 1, 0), record('y', 1, 0)], 'x');
      t.ok(even > 0.45 && even < 0.55, `${even}`);
    },
  );

  t.test('comes from the clock, so a run can be repeated', async (t) => {
    const zone = {
      srv: { '_sip._udp.w.example': Array.from({ length: 6 }, (_, i) => `1 10 506${i} 192.0.2.1`) },
    };
    const once = await scene(zone).targets('sip:x@w.example;transport=udp');
    const again = await scene(zone).targets('sip:x@w.example;transport=udp');
    t.same(once, again);
    t.equal(once.length, 6);
  });
});

t.test('what is remembered', async (t) => {
  const URI = 'sip:x@carrier.example;transport=udp';

  t.test('each record for its time, one question in flight for a name', async (t) => {
    const { clock, dns, targets } = scene(CARRIER);

    await Promise.all([targets(URI), targets(URI), targets(URI)]);
    t.same(dns.asked, [
      'srv _sip._udp.carrier.example',
      'a a.carrier.example',
      'a b.carrier.example',
    ]);
    await clock.advance(9_000);
    await targets(URI);
    t.equal(dns.asked.length, 3);
    await clock.advance(2_000);
    await targets(URI);
    t.equal(dns.asked.length, 5, 'addresses say for how long');
    await clock.advance(50_000);
    await targets(URI);
    t.equal(dns.asked.length, 8, 'SRV is asked for again after a minute');
  });

  t.test('times to live stay within bounds', async (t) => {
    const { clock, dns, targets } = scene({ a: { 'h.example': ['192.0.2.1'] } });
    const ask = async (): Promise<number> => {
      await targets('sip:x@h.example:5060');
      return dns.asked.length;
    };

    dns.ttlMs = 0;
    t.equal(await ask(), 1);
    t.equal(await ask(), 1, 'a second at least');
    await clock.advance(1_001);
    dns.ttlMs = 10 ** 12;
    t.equal(await ask(), 2);
    await clock.advance(3_600_001);
    t.equal(await ask(), 3, 'an hour at most');
  });

  t.test('that there is nothing, for half a minute', async (t) => {
    const { clock, dns, targets } = scene({});
    const ask = () => t.rejects(targets('sip:x@gone.example:5060'), { code: 'SIP_TRANSPORT' });

    await ask();
    await ask();
    t.equal(dns.asked.length, 1);
    dns.zone = { a: { 'gone.example': ['192.0.2.1'] } };
    await clock.advance(30_001);
    t.same(await targets('sip:x@gone.example:5060'), ['udp 192.0.2.1:5060']);
  });

  t.test('no more names than it may', async (t) => {
    const { dns, targets } = scene(
      { a: { 'a.example': ['192.0.2.1'], 'b.example': ['192.0.2.2'] } },
      { limits: { entriesMax: 4 } },
    );
    for (const name of ['a', 'a', 'b', 'a']) await targets(`sip:x@${name}.example:5060`);
    t.same(dns.asked, ['a a.example', 'a b.example', 'a a.example']);
  });

  t.test('no more questions at once than it may', async (t) => {
    const { clock, dns, targets } = scene({}, { limits: { queriesMax: 3 } });
    dns.state = 'silent';
    const all = ['a', 'b', 'c', 'd', 'e'].map((name) =>
      targets(`sip:x@${name}.example:5060`).catch((thrown) => thrown.details.problem),
    );
    await clock.advance(2_001);
    const problems = await Promise.all(all);
    t.equal(dns.asked.length, 3);
    t.equal(problems.filter((problem) => problem === 'DNS is overloaded').length, 2);
  });
});

t.test('DNS in trouble', async (t) => {
  const EXPECTED = ['tls 192.0.2.1:5061', 'tcp 192.0.2.1:5060'];

  for (const state of ['silent', 'broken', 'empty'] as const) {
    t.test(`${state}: a carrier that was known goes on for a day`, async (t) => {
      const { clock, dns, targets } = scene(CARRIER);
      t.same(await targets('sip:x@carrier.example'), EXPECTED);

      dns.state = state;
      let failed = 0;
      let waitedMs = 0;
      for (let hour = 1; hour < 24; hour += 1) {
        await clock.advance(3_600_000 - 10_000);
        const startMs = clock.monotonicMs();
        let doneMs = startMs + 10_000;
        const asking = targets('sip:x@carrier.example').then(
          (found) => {
            doneMs = clock.monotonicMs();
            if (found.join() !== EXPECTED.join()) failed += 1;
          },
          () => {
            failed += 1;
          },
        );
        await clock.advance(10_000);
        await asking;
        waitedMs = Math.max(waitedMs, doneMs - startMs);
      }
      t.equal(failed, 0);
      t.ok(waitedMs <= 500, `${waitedMs} ms`);

      await clock.advance(3_600_000 * 25);
      const late = t.rejects(targets('sip:x@carrier.example'), { code: 'SIP_TRANSPORT' });
      await clock.advance(10_000);
      await late;
      dns.state = 'up';
      await clock.advance(31_000);
      t.same(await targets('sip:x@carrier.example'), EXPECTED, 'and is there again');
    });
  }

  t.test('silence for an unknown name ends, and is not asked for again at once', async (t) => {
    const { clock, dns, targets } = scene(CARRIER);
    dns.state = 'silent';
    const asking = t.rejects(targets('sip:x@carrier.example:5060'), {
      message: /no answer in time/,
    });
    await clock.advance(2_001);
    await asking;
    await t.rejects(targets('sip:x@carrier.example:5060'), { code: 'SIP_TRANSPORT' });
    t.equal(dns.asked.length, 1);
  });

  t.test('several failures in a row have the servers looked up anew', async (t) => {
    const { clock, dns, targets } = scene(CARRIER);
    dns.state = 'broken';
    for (let i = 0; i < 3; i += 1) {
      await t.rejects(targets('sip:x@carrier.example:5060'));
      await clock.advance(5_001);
    }
    t.equal(dns.resets, 1);
    for (const name of ['a', 'b', 'c']) await t.rejects(targets(`sip:x@${name}.example:5060`));
    t.equal(dns.resets, 2, 'once for many, as it reads files');
  });

  t.test('a slow new answer is taken in when it comes', async (t) => {
    const { clock, dns, targets } = scene({ a: { 'h.example': ['192.0.2.1'] } });
    await targets('sip:x@h.example:5060');
    await clock.advance(20_000);
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const plain = dns.addresses.bind(dns);
    dns.addresses = async (name, family) => {
      await held;
      return plain(name, family);
    };
    dns.zone = { a: { 'h.example': ['192.0.2.2'] } };

    const old = targets('sip:x@h.example:5060');
    await clock.advance(600);
    t.same(await old, ['udp 192.0.2.1:5060']);
    release();
    await clock.advance(1);
    t.same(await targets('sip:x@h.example:5060'), ['udp 192.0.2.2:5060']);
  });
});

t.test('targets that failed of late are tried last, for a while', async (t) => {
  const URI = 'sip:x@carrier.example;transport=udp';
  const [A, B, C] = ['udp 192.0.2.1:5060', 'udp 192.0.2.2:5070', 'udp 192.0.2.3:5070'];
  const a = { transport: 'udp', address: '192.0.2.1', port: 5060 } as const;
  const { clock, resolver, targets } = scene(CARRIER);
  t.same(await targets(URI), [A, B, C]);

  resolver.failed(a);
  t.same(await targets(URI), [B, C, A], 'but they are tried');
  t.same(await targets('sip:x@192.0.2.1'), [A]);
  await clock.advance(30_001);
  t.same(await targets(URI), [A, B, C]);

  resolver.failed(a);
  resolver.answered(a);
  t.same(await targets(URI), [A, B, C]);

  resolver.refused(a, 40_000);
  await clock.advance(39_000);
  t.same(await targets(URI), [B, C, A], 'Retry-After is heeded');
  await clock.advance(1_001);
  t.same(await targets(URI), [A, B, C]);
  resolver.refused(a, 10 ** 9);
  await clock.advance(300_001);
  t.same(await targets(URI), [A, B, C], 'within bounds');
});

t.test('the hosts file and localhost come before DNS', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'tandem-hosts-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const hostsFile = join(folder, 'hosts');
  await writeFile(
    hostsFile,
    '192.0.2.1 Carrier # x\n2001:db8::1\tcarrier sbc\n# 1.1.1.1 no\nx y\n',
  );
  const options = {
    servers: ['127.0.0.1:9'],
    queryTimeoutMs: 200,
    hostsFile,
    hostsFileBytesMax: 1000,
    hostsFileTtlMs: 30_000,
  };
  const dns = new SystemDns({ clock: realClock, options });

  t.same((await dns.addresses('carrier', 4)).records, ['192.0.2.1']);
  t.same((await dns.addresses('carrier', 6)).records, ['2001:db8::1']);
  t.same((await dns.addresses('sbc', 4)).records, [], 'it is known, and has no such address');
  t.same((await dns.addresses('localhost', 4)).records, ['127.0.0.1']);
  t.same((await dns.addresses('x.localhost', 6)).records, ['::1']);
  await t.rejects(dns.srv('_sip._udp.carrier'), { code: 'SIP_TRANSPORT' }, 'nobody is there');
  t.equal(parseHosts('').size, 0);

  const missing = new SystemDns({
    clock: realClock,
    options: { ...options, hostsFile: join(folder, 'none') },
  });
  await t.rejects(missing.addresses('carrier', 4), { code: 'SIP_TRANSPORT' });
  t.throws(() => new SystemDns({ clock: realClock, options: { ...options, servers: ['dns.x'] } }), {
    code: 'CONFIG_BAD_VALUE',
    details: { key: 'sip.dns.servers' },
  });
});
