/**
 * SIP over TLS on real sockets: who may connect, whom we connect to, whose certificate is shown,
 * what a new one does to calls that stand, and what a hostile or broken peer costs.
 */

import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, connect as tcpConnect } from 'node:net';
import { join } from 'node:path';
import {
  type ConnectionOptions,
  connect,
  createServer as createTlsServer,
  type TLSSocket,
} from 'node:tls';
import t, { type Test } from 'tap';
import { realClock, sleep } from '../src/core/clock.ts';
import { namesHost, wildcardOf } from '../src/sip/certificate-names.ts';
import { parseUri } from '../src/sip/message.ts';
import { Resolver } from '../src/sip/resolver.ts';
import type { Session, SessionRecord } from '../src/sip/session.ts';
import { Authority, type Pair, replace } from './support/certificates.ts';
import { SDP } from './support/script-peer.ts';
import { Witness } from './support/sip-world.ts';
import { request, type Stage, stage, temporaryFolder, until } from './support/stream-world.ts';

const folder = temporaryFolder(t);
const good = new Authority(folder, 'good');
const evil = new Authority(folder, 'evil');
const ours = good.issue(['DNS:localhost', 'IP:127.0.0.1', 'IP:::1']);
const caFile = good.caFile;
const SERVER = { certificates: { ...ours, caFile } };

interface Outcome {
  readonly session: Session;
  readonly events: readonly string[];
  readonly problem: string;
}

/** A call from one to the other that the other answers and ends. */
async function call(from: Stage, to: Stage, uri: string): Promise<Outcome> {
  to.endpoint.removeAllListeners('invite');
  to.endpoint.on('invite', (session) => {
    session.accept(SDP);
    session.on('acknowledged', () => session.hangup());
  });
  const session = from.endpoint.invite({ uri, from: { uri: 'sip:us@localhost' }, sdp: SDP });
  const witness = new Witness(session);
  await new Promise((resolve) => session.once('ended', resolve));
  return { session, events: witness.events, problem: witness.end?.reason ?? '' };
}

/** A TLS client that is no SIP stack. */
function client(port: number, options: ConnectionOptions & { localAddress?: string } = {}): Client {
  return new Client(
    connect({
      host: '127.0.0.1',
      port,
      ca: readFileSync(caFile),
      servername: 'localhost',
      ...options,
    }),
  );
}

class Client {
  readonly socket: TLSSocket;
  received = '';
  problem = '';
  isClosed = false;

  constructor(socket: TLSSocket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.received += chunk.toString('latin1');
    });
    socket.on('error', (error: Error & { code?: string }) => {
      this.problem ||= error.code ?? error.message;
    });
    socket.on('close', () => {
      this.isClosed = true;
    });
  }

  /** True when it opened. */
  opened(): Promise<boolean> {
    return new Promise((resolve) => {
      this.socket.once('secureConnect', () => resolve(true));
      this.socket.once('close', () => resolve(false));
    });
  }

  /** What came back for `text`; '' when the connection was closed first. */
  async ask(text: string): Promise<string> {
    this.received = '';
    this.socket.write(text, 'latin1');
    await until(() => this.received.includes('\r\n\r\n') || this.isClosed);
    return this.received;
  }
}

function pem(pair: Pair): { cert: Buffer; key: Buffer } {
  return { cert: readFileSync(pair.certFile), key: readFileSync(pair.keyFile) };
}

const OPTIONS = { transport: 'TLS' };
const ENDED = ['answered', 'ended remote CALL_COMPLETED 200'];

t.test('a call', async (t) => {
  for (const [address, host] of [
    ['127.0.0.1', 'localhost'],
    ['127.0.0.1', '127.0.0.1'],
    ['::1', '[::1]'],
  ] as const) {
    t.test(`to ${host}, by name or address that the certificate has`, async (t) => {
      const us = await stage(t, { address, ...SERVER });
      const them = await stage(t, { address, ...SERVER });
      const traced: string[] = [];
      us.endpoint.on('trace', ({ peer }) => traced.push(peer.transport));

      for (const scheme of ['sip', 'sips'] as const) {
        const params = scheme === 'sip' ? ';transport=tls' : '';
        const { events } = await call(us, them, `${scheme}:x@${host}:${them.port('tls')}${params}`);
        t.same(events, ENDED, scheme);
      }

      t.same([...new Set(traced)], ['tls']);
      t.equal(us.endpoint.counts.connections, 1, 'both went over one connection');
      t.equal(await us.metric('tandem_sip_connections{transport="tls"}'), 1);
    });
  }

  t.test('Contact is sips where the call is, on both sides, and stays so', async (t) => {
    const us = await stage(t, SERVER);
    const them = await stage(t, SERVER);
    for (const scheme of ['sip', 'sips'] as const) {
      const sent: string[] = [];
      const records: SessionRecord[] = [];
      const keep = (session: Session): void => {
        sent.push(session.request?.header('Contact') ?? '');
        session.on('acknowledged', () => records.push(session.record()));
      };
      const params = scheme === 'sip' ? ';transport=tls' : '';
      them.endpoint.removeAllListeners('invite');
      them.endpoint.on('invite', (session) => {
        keep(session);
        session.accept(SDP);
        session.on('acknowledged', () => session.hangup());
      });
      const uri = `${scheme}:x@localhost:${them.port('tls')}${params}`;
      const session = us.endpoint.invite({ uri, from: { uri: 'sip:us@localhost' }, sdp: SDP });
      session.on('answered', () => records.push(session.record()));
      await new Promise((resolve) => session.once('ended', resolve));
      t.match(sent[0], new RegExp(`^<${scheme}:127`));
      t.equal(records.length, 2);
      for (const record of records) {
        t.match(record.remoteTarget, new RegExp(`^${scheme}:127`));
        t.equal(record.isSips === true, scheme === 'sips');
      }
    }
  });

  t.test('what is sips, or too large for a datagram, never goes in the clear', async (t) => {
    const us = await stage(t, { listen: ['udp', 'tcp'] });
    const them = await stage(t, { listen: ['udp', 'tcp', 'tls'], ...SERVER });
    const plain = await call(us, them, `sips:x@127.0.0.1:${them.port('tcp')}`);
    t.match(plain.problem + plain.events, /SIP_TRANSPORT/);

    const secure = await stage(t, { listen: ['udp', 'tcp', 'tls'], ...SERVER });
    const transports = new Set<string>();
    secure.endpoint.on('trace', ({ peer }) => transports.add(peer.transport));
    const session = secure.endpoint.invite({
      uri: `sip:x@localhost:${them.port('tls')};transport=tls`,
      from: { uri: 'sip:us@localhost' },
      sdp: SDP,
      headers: [['X-Large', 'x'.repeat(3000)]],
    });
    them.endpoint.on('invite', (incoming) => incoming.reject(486));
    await new Promise((resolve) => session.once('ended', resolve));
    t.same([...transports], ['tls']);
  });
});

t.test('which URIs lead to TLS, and whose certificate is asked for there', async (t) => {
  const resolver = new Resolver({ clock: realClock, lookup: async () => ['192.0.2.1'] });
  const targets = (text: string) => resolver.resolve(parseUri(text));
  const tls = { transport: 'tls', address: '192.0.2.1', eitherTransport: false };
  const serverName = 'a.example';

  t.same(await targets('sips:x@a.example'), [{ ...tls, port: 5061, serverName }]);
  t.same(await targets('sips:x@a.example:7;transport=tcp'), [{ ...tls, port: 7, serverName }]);
  t.same(await targets('sip:x@a.example;transport=TLS'), [{ ...tls, port: 5061, serverName }]);
  t.same(await targets('sips:x@a.example;maddr=192.0.2.2'), [
    { ...tls, address: '192.0.2.2', port: 5061, serverName },
  ]);
  for (const uri of ['sips:x@a.example;transport=udp', 'sip:x@a.example;transport=ws']) {
    await t.rejects(targets(uri), { code: 'SIP_TRANSPORT' }, uri);
  }
});

t.test('whom we connect to', async (t) => {
  const refused = async (
    t: Test,
    pair: Pair,
    options: { host?: string; tls?: { verifyPeers?: boolean; wildcardNames?: boolean } } = {},
  ): Promise<{ outcome: Outcome; us: Stage }> => {
    const us = await stage(t, { ...SERVER, tls: options.tls ?? {} });
    const them = await stage(t, { certificates: pair });
    const uri = `sip:x@${options.host ?? 'localhost'}:${them.port('tls')};transport=tls`;
    return { outcome: await call(us, them, uri), us };
  };

  const cases: [string, Pair, string, RegExp][] = [
    ['another name', good.issue(['DNS:elsewhere.example']), 'name', /elsewhere\.example's/],
    ['the name as common name only', good.issue([], { commonName: 'localhost' }), 'name', /nobody/],
    ['a URI of a person there', good.issue(['URI:sip:me@localhost']), 'name', /nobody/],
    ['a part of the name', good.issue(['DNS:host', 'DNS:localhost.example']), 'name', /host/],
    ['an authority nobody trusts', evil.issue(['DNS:localhost']), 'certificate', /unable|self/],
    [
      'an expired certificate',
      good.issue(['DNS:localhost'], { days: -1 }),
      'certificate',
      /expired/,
    ],
  ];
  for (const [what, pair, reason, problem] of cases) {
    t.test(`${what} is refused, and said`, async (t) => {
      const { outcome, us } = await refused(t, pair);
      t.match(outcome.events.join(), /SIP_TRANSPORT/);
      t.equal(await us.metric(`tandem_sip_handshakes_failed_total{reason="${reason}"}`), 1);
      const line = us.log.lines.find(({ message }) => message === 'no secure connection');
      t.match(String(line?.fields.problem), problem);
      t.equal(line?.level, 'warn');
    });
  }

  t.test('a URI of the domain is good, as RFC 5922 has it', async (t) => {
    const { outcome } = await refused(t, good.issue(['URI:sip:localhost']));
    t.same(outcome.events, ENDED);
  });

  t.test('without verification all are, and prove nothing', async (t) => {
    const tls = { verifyPeers: false };
    const { outcome } = await refused(t, evil.issue(['DNS:elsewhere.example']), { tls });
    t.same(outcome.events, ENDED);
  });

  t.test('a wildcard stands for one label, and only where that is allowed', async (t) => {
    const certificate = new X509Certificate(
      readFileSync(good.issue(['DNS:*.example.com', 'DNS:*.com']).certFile),
    );
    const named = (host: string, isAllowed: boolean) => namesHost(certificate, host, isAllowed);
    t.equal(named('sip.example.com', false), false);
    t.equal(named('SIP.example.com', true), true);
    t.equal(named('a.sip.example.com', true), false);
    t.equal(named('example.com', true), false);
    t.equal(wildcardOf('localhost'), '');
  });

  t.test('of one address with two names each name gets its own connection', async (t) => {
    const us = await stage(t, {
      ...SERVER,
      others: {
        resolver: new Resolver({
          clock: realClock,
          lookup: async () => ['127.0.0.1'],
        }),
      },
    });
    const them = await stage(t, {
      certificates: good.issue(['DNS:one.example', 'DNS:two.example']),
    });
    const only = await stage(t, { certificates: good.issue(['DNS:one.example']) });

    for (const name of ['one', 'two']) {
      const { events } = await call(us, them, `sips:x@${name}.example:${them.port('tls')}`);
      t.same(events, ENDED);
    }
    t.equal(us.endpoint.counts.connections, 1, 'the certificate has both');
    t.same((await call(us, only, `sips:x@one.example:${only.port('tls')}`)).events, ENDED);
    const { events } = await call(us, only, `sips:x@two.example:${only.port('tls')}`);
    t.match(events.join(), /SIP_TRANSPORT/, 'another name does not ride on it');
  });
});

t.test('who connects', async (t) => {
  const trunk = good.issue([
    'DNS:Trunk.example',
    'URI:sip:carrier.example',
    'URI:sip:me@x.example',
  ]);
  const stranger = evil.issue(['DNS:trunk.example']);

  t.test('is known by a certificate of a trusted authority, and by no other', async (t) => {
    const us = await stage(t, { ...SERVER, tls: { clientCertificate: 'request' } });
    us.endpoint.on('invite', (session) => session.reject(486));
    for (const [options, names] of [
      [pem(trunk), ['trunk.example', 'carrier.example']],
      [pem(stranger), []],
      [pem(good.issue(['DNS:trunk.example'], { days: -1 })), []],
      [{}, []],
    ] as const) {
      const peer = client(us.port('tls'), options);
      t.match(await peer.ask(request({ ...OPTIONS, method: 'INVITE' })), /^SIP\/2.0 486/);
      t.same(us.sources.at(-1)?.certificateNames, names);
      peer.socket.destroy();
    }
  });

  t.test('needs one where it is required', async (t) => {
    const us = await stage(t, { ...SERVER, tls: { clientCertificate: 'require' } });
    const known = client(us.port('tls'), pem(trunk));
    t.match(await known.ask(request(OPTIONS)), /^SIP\/2.0 200/);
    for (const options of [pem(stranger), {}]) {
      const peer = client(us.port('tls'), options);
      t.equal(await peer.ask(request(OPTIONS)), '');
    }
    const failed = 'tandem_sip_handshakes_failed_total';
    t.ok(await until(async () => (await us.metric(`${failed}{reason="certificate"}`)) >= 1));
    t.equal(us.endpoint.counts.connections, 1);
  });

  t.test('is asked for none by default, and proves none', async (t) => {
    const us = await stage(t, SERVER);
    const peer = client(us.port('tls'), pem(trunk));
    us.endpoint.on('invite', (session) => session.reject(486));
    await peer.ask(request({ ...OPTIONS, method: 'INVITE' }));
    t.same(us.sources[0]?.certificateNames, []);
  });

  t.test('speaks TLS 1.2 or better', async (t) => {
    const us = await stage(t, SERVER);
    const strict = await stage(t, { certificates: { ...ours, minVersion: 'TLSv1.3' } });
    const opens = (port: number, version: 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3') =>
      client(port, {
        minVersion: version,
        maxVersion: version,
        ciphers: 'DEFAULT@SECLEVEL=0',
      }).opened();
    t.equal(await opens(us.port('tls'), 'TLSv1.1'), false);
    t.equal(await opens(us.port('tls'), 'TLSv1.2'), true);
    t.equal(await opens(us.port('tls'), 'TLSv1.3'), true);
    t.equal(await opens(strict.port('tls'), 'TLSv1.2'), false);
    t.equal(await opens(strict.port('tls'), 'TLSv1.3'), true);
    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="protocol"}'), 1);
  });
});

t.test('which certificate is shown', async (t) => {
  const directory = join(temporaryFolder(t), 'live');
  const put = (name: string, pair: Pair): void => {
    mkdirSync(join(directory, name), { recursive: true });
    writeFileSync(join(directory, name, 'fullchain.pem'), readFileSync(pair.certFile));
    writeFileSync(join(directory, name, 'privkey.pem'), readFileSync(pair.keyFile));
  };
  put('a', good.issue(['DNS:a.example', 'DNS:alias.example']));
  put('wild', good.issue(['DNS:*.wild.example']));
  const us = await stage(t, { certificates: { ...ours, directory, watchMs: 0 } });
  const shown = async (servername: string): Promise<string> => {
    const peer = client(us.port('tls'), { servername, rejectUnauthorized: false });
    await peer.opened();
    const names = peer.socket.getPeerCertificate().subjectaltname ?? '';
    peer.socket.destroy();
    return names;
  };

  t.match(await shown('a.example'), /DNS:a\.example/);
  t.match(await shown('ALIAS.example'), /DNS:a\.example/);
  t.match(await shown('x.wild.example'), /\*\.wild/);
  t.match(await shown('x.y.wild.example'), /localhost/, 'the first one for who is nobody');
  t.match(await shown(''), /localhost/, 'and for who asks for none');

  put('b', good.issue(['DNS:b.example']));
  t.match(await shown('b.example'), /localhost/);
  t.equal(await us.endpoint.reloadCertificates(), true);
  t.match(await shown('b.example'), /b\.example/);
});

t.test('a folder of certificates is enough', async (t) => {
  const directory = join(temporaryFolder(t), 'live');
  const put = (name: string, pair: Pair): void => {
    mkdirSync(join(directory, name), { recursive: true });
    writeFileSync(join(directory, name, 'fullchain.pem'), readFileSync(pair.certFile));
    writeFileSync(join(directory, name, 'privkey.pem'), readFileSync(pair.keyFile));
  };
  const start = () => stage(t, { certificates: { directory, watchMs: 0 } });
  await t.rejects(start(), { message: /"sip\.tls\.directory": .*live .*ENOENT/ });
  mkdirSync(directory);
  writeFileSync(join(directory, 'README'), 'as certbot does');
  await t.rejects(start(), {
    code: 'CONFIG_BAD_VALUE',
    message: /"sip\.tls\.directory": .*live has no folder with fullchain\.pem/,
  });

  put('b.example', good.issue(['DNS:b.example']));
  put('a.example', good.issue(['DNS:a.example']));
  const us = await start();
  const shown = async (servername: string): Promise<string> => {
    const peer = client(us.port('tls'), { servername, rejectUnauthorized: false });
    await peer.opened();
    const names = peer.socket.getPeerCertificate().subjectaltname ?? '';
    peer.socket.destroy();
    return names;
  };

  t.match(await shown('b.example'), /DNS:b\.example/);
  t.match(await shown('a.example'), /DNS:a\.example/);
  t.match(await shown('nobody.example'), /DNS:a\.example/, 'the first by name for all others');
  t.match(await shown(''), /DNS:a\.example/);
  const said = us.log.lines.find(({ message }) => message.includes('sip.tls.certFile is empty'));
  t.match(said?.fields, { file: join(directory, 'a.example', 'fullchain.pem') });

  rmSync(directory, { recursive: true });
  t.equal(await us.endpoint.reloadCertificates(), false);
  t.match(await shown(''), /DNS:a\.example/, 'what is taken away does not end it');
});

t.test('a new certificate', async (t) => {
  const start = async (t: Test): Promise<{ us: Stage; pair: Pair }> => {
    const pair = good.issue(['DNS:localhost', 'DNS:first.example']);
    const us = await stage(t, { certificates: { ...pair, watchMs: 30 } });
    return { us, pair };
  };
  const shown = async (us: Stage): Promise<string> => {
    const peer = client(us.port('tls'));
    await peer.opened();
    const names = peer.socket.getPeerCertificate().subjectaltname ?? '';
    peer.socket.destroy();
    return names;
  };

  t.test('is shown to who comes, and drops nobody who is there', async (t) => {
    const { us, pair } = await start(t);
    const standing = client(us.port('tls'));
    t.match(await standing.ask(request(OPTIONS)), /^SIP\/2.0 200/);

    replace(pair, good.issue(['DNS:localhost', 'DNS:second.example']));

    t.ok(await until(async () => (await shown(us)).includes('second')));
    t.match(await standing.ask(request(OPTIONS)), /^SIP\/2.0 200/);
    t.notOk(standing.isClosed);
  });

  for (const [what, breakIt] of [
    ['is cut off', (pair: Pair) => writeFileSync(pair.certFile, 'no certificate')],
    [
      'has another key',
      (pair: Pair) => writeFileSync(pair.keyFile, readFileSync(good.issue([]).keyFile)),
    ],
    ['has expired', (pair: Pair) => replace(pair, good.issue(['DNS:localhost'], { days: -1 }))],
  ] as const) {
    t.test(`that ${what} is refused in one line, and the old one stays`, async (t) => {
      const { us, pair } = await start(t);
      breakIt(pair);
      const complaints = (): string[] =>
        us.log.lines
          .filter(({ level }) => level === 'error')
          .map(({ fields, message }) => `${message} ${fields.problem}`);
      t.ok(await until(() => complaints().length > 0));
      await sleep(realClock, 100);
      t.equal(complaints().length, 1, 'not again at each look');
      t.match(complaints()[0], /refused, the old ones stay.*sip\.tls\.certFile/);
      t.match(await shown(us), /first\.example/);

      replace(pair, good.issue(['DNS:localhost', 'DNS:mended.example']));
      t.ok(await until(async () => (await shown(us)).includes('mended')), 'and mended later');
    });
  }
});

t.test('start', async (t) => {
  const problem = (options: Parameters<typeof stage>[1]) =>
    stage(t, options).then(
      () => '',
      (error) => `${error.code} ${error.message}`,
    );
  t.match(await problem({}), /CONFIG_BAD_VALUE .*"sip\.tls\.certFile": must name/);
  t.match(
    await problem({ certificates: { certFile: ours.certFile } }),
    /"sip\.tls\.keyFile": must be named/,
  );
  t.match(
    await problem({ certificates: { ...ours, certFile: join(folder, 'none.pem') } }),
    /"sip\.tls\.certFile": .*none\.pem .*ENOENT/,
  );
  t.match(
    await problem({ certificates: { ...ours, keyFile: evil.issue([]).keyFile } }),
    /"sip\.tls\.certFile": .*mismatch/,
  );
});

t.test('what a hostile peer costs', async (t) => {
  t.test('who does not shake hands in time is closed', async (t) => {
    const us = await stage(t, { ...SERVER, connection: { handshakeTimeoutMs: 150 } });
    const silent = tcpConnect(us.port('tls'), '127.0.0.1');
    const half = tcpConnect(us.port('tls'), '127.0.0.1');
    half.write(Buffer.from('16030100c8010000c4', 'hex')); // the beginning of a hello
    for (const socket of [silent, half]) socket.on('error', () => {});

    await Promise.all(
      [silent, half].map((socket) => new Promise((resolve) => socket.on('close', resolve))),
    );

    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="timeout"}'), 2);
    t.equal(us.endpoint.counts.connections, 0);
  });

  t.test('failed handshakes are counted, and end in refusal before any crypto', async (t) => {
    const us = await stage(t, { ...SERVER, transport: { failedHandshakesPerMinuteMax: 3 } });
    for (let n = 0; n < 3; n += 1) {
      const socket = tcpConnect(us.port('tls'), '127.0.0.1').on('error', () => {});
      socket.end('INVITE sip:us@127.0.0.1 SIP/2.0\r\n\r\n');
      socket.resume();
      await new Promise((resolve) => socket.on('close', resolve));
    }
    t.ok(await until(() => us.endpoint.counts.connections === 0));

    t.equal(await client(us.port('tls')).opened(), false);
    t.equal(us.endpoint.counts.refusedConnections, 1);
    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="protocol"}'), 3);

    const elsewhere = client(us.port('tls'), { localAddress: '127.0.0.2' });
    t.equal(await elsewhere.opened(), true, 'others are not hurt');
  });

  t.test('no source has more than its connections, shaking hands or not', async (t) => {
    const us = await stage(t, { ...SERVER, transport: { connectionsPerSecondMax: 1000 } });
    const sockets = Array.from({ length: 120 }, () =>
      tcpConnect(us.port('tls'), '127.0.0.1').on('error', () => {}),
    );
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
    });
    let closed = 0;
    for (const socket of sockets) {
      socket.on('close', () => {
        closed += 1;
      });
    }
    t.ok(await until(() => closed === 20), `${closed} of 120 were closed`);
    t.equal(us.endpoint.counts.connections, 100);
    t.equal(us.endpoint.counts.refusedConnections, 20);
  });

  t.test('half a message is waited for, not for ever', async (t) => {
    const us = await stage(t, { ...SERVER, connection: { messageTimeoutMs: 150 } });
    const peer = client(us.port('tls'));
    peer.socket.write(request(OPTIONS).slice(0, 40));
    t.ok(await until(() => peer.isClosed));
    t.equal(peer.received, '');
  });

  t.test('renegotiation is not offered', async (t) => {
    const us = await stage(t, SERVER);
    const peer = client(us.port('tls'), { maxVersion: 'TLSv1.2' });
    await peer.opened();
    const problem = await new Promise<string>((resolve) => {
      peer.socket.on('error', (error: Error & { code?: string }) => resolve(error.code ?? ''));
      peer.socket.on('close', () => resolve('closed'));
      if (!peer.socket.renegotiate({}, (error) => resolve(error?.message ?? 'done'))) {
        resolve('refused');
      }
    });
    t.not(problem, 'done');
  });
});

t.test('which connection leads to a peer', async (t) => {
  t.test('an alias is believed of who has proven its name, RFC 5923', async (t) => {
    const us = await stage(t, { ...SERVER, tls: { clientCertificate: 'request' } });
    const listening = createTlsServer(pem(good.issue(['DNS:localhost'])));
    let dialled = 0;
    listening.on('connection', () => {
      dialled += 1;
    });
    await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve));
    t.teardown(() => listening.close());
    const { port = 0 } = listening.address() as { port?: number };
    const sentBy = `localhost:${port}`;

    const reached = async (options: ConnectionOptions): Promise<boolean> => {
      const peer = client(us.port('tls'), options);
      await peer.ask(request({ ...OPTIONS, sentBy, viaParams: ';alias' }));
      peer.received = '';
      const before = dialled;
      us.endpoint.invite({
        uri: `sips:them@${sentBy}`,
        from: { uri: 'sip:us@localhost' },
        sdp: SDP,
      });
      await until(() => peer.received.startsWith('INVITE ') || dialled > before);
      peer.socket.destroy();
      await until(() => peer.isClosed);
      return peer.received.startsWith('INVITE ');
    };

    t.equal(await reached(pem(good.issue(['DNS:elsewhere.example']))), false, 'another name');
    t.equal(await reached(pem(evil.issue(['DNS:localhost']))), false, 'not signed');
    t.equal(await reached({}), false, 'no certificate');
  });

  t.test('and by the alias nothing is dialled', async (t) => {
    const us = await stage(t, { ...SERVER, tls: { clientCertificate: 'request' } });
    const peer = client(us.port('tls'), pem(good.issue(['DNS:localhost'])));
    await peer.ask(request({ ...OPTIONS, sentBy: 'localhost:5999', viaParams: ';alias' }));
    peer.received = '';
    us.endpoint.invite({
      uri: 'sips:them@localhost:5999',
      from: { uri: 'sip:us@localhost' },
      sdp: SDP,
    });
    t.ok(await until(() => peer.received.startsWith('INVITE sips:them@localhost:5999')));
    t.match(peer.received, /^Via: SIP\/2\.0\/TLS 127\.0\.0\.1:\d+;branch=\w+;rport;alias\r$/m);
    t.match(peer.received, /^Contact: <sips:127\.0\.0\.1:\d+>\r$/m);
    t.equal(us.endpoint.counts.connections, 1);
  });
});

t.test('keep-alive', async (t) => {
  /** A TCP server; what it does with what comes. */
  const carrier = async (
    t: Test,
    answer: (text: string) => string,
  ): Promise<{
    port: number;
    heard: () => string;
    isClosed: () => boolean;
  }> => {
    let heard = '';
    let isClosed = false;
    const server = createServer((socket) => {
      socket.on('data', (chunk) => {
        heard += chunk.toString('latin1');
        const back = answer(chunk.toString('latin1'));
        if (back !== '') socket.write(back);
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        isClosed = true;
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const { port = 0 } = server.address() as { port?: number };
    return { port, heard: () => heard, isClosed: () => isClosed };
  };
  const dial = async (t: Test, port: number): Promise<void> => {
    const connection = { pingMs: 60, pongTimeoutMs: 60 };
    const us = await stage(t, { listen: ['tcp'], connection });
    us.endpoint.invite({
      uri: `sip:them@127.0.0.1:${port};transport=tcp`,
      from: { uri: 'sip:us@localhost' },
      sdp: SDP,
    });
  };
  const pings = (text: string): number => text.split('\r\n\r\n\r\n\r\n').length - 1;

  t.test('a double CRLF is answered by one, on TCP and TLS', async (t) => {
    const us = await stage(t, SERVER);
    const peer = client(us.port('tls'));
    peer.socket.write('\r\n\r\n');
    t.ok(await until(() => peer.received === '\r\n'));
  });

  t.test('who we connected to is pinged, and kept while it answers', async (t) => {
    const them = await carrier(t, (text) => (text === '\r\n\r\n' ? '\r\n' : ''));
    await dial(t, them.port);
    await sleep(realClock, 500);
    t.notOk(them.isClosed());
    t.ok(them.heard().endsWith('\r\n\r\n\r\n\r\n'), 'pings came');
    const pinged = them.heard().split(SDP)[1] ?? '';
    t.match(pinged, /^(\r\n\r\n)+$/, 'and no pong for a pong');
  });

  t.test('who answered once and does not any more is closed', async (t) => {
    let count = 0;
    const them = await carrier(t, (text) => {
      if (text !== '\r\n\r\n') return '';
      count += 1;
      return count < 3 ? '\r\n' : '';
    });
    await dial(t, them.port);
    t.ok(await until(() => them.isClosed()));
    t.equal(count, 3);
  });

  t.test('who never answers pings is left in peace', async (t) => {
    const them = await carrier(t, () => '');
    await dial(t, them.port);
    await sleep(realClock, 400);
    t.notOk(them.isClosed());
    t.ok(pings(them.heard()) >= 2);
  });
});

t.test('a second request hidden behind the first is never processed', async (t) => {
  const us = await stage(t, { listen: ['tcp', 'tls'], ...SERVER, trusts: () => true });
  us.endpoint.on('invite', (session) => session.reject(486));
  const hidden = request({ ...OPTIONS, method: 'INVITE', callId: 'smuggled' });
  const head = (fields: string): string =>
    request({ ...OPTIONS, contentLength: null }).replace('\r\n\r\n', `\r\n${fields}\r\n\r\n`);
  const games: [string, string][] = [
    ['two lengths', head('Content-Length: 0\r\nContent-Length: 9999')],
    ['two lengths, one short', head(`l: ${hidden.length}\r\nContent-Length: 0`)],
    ['a negative length', head('Content-Length: -1')],
    ['a sign', head('Content-Length: +0')],
    ['hexadecimal', head('Content-Length: 0x0')],
    ['a list', head('Content-Length: 0, 0')],
    ['2^32', head('Content-Length: 4294967296')],
    ['2^64', head('Content-Length: 18446744073709551616')],
    ['none at all', head('X-Other: 1')],
    ['a bare LF before it', head('X-Other: 1\nContent-Length: 0')],
    ['a bare CR before it', head('X-Other: 1\rContent-Length: 0')],
    ['a NUL in it', head('Content-Length: 0\0')],
    ['as a body', head(`Content-Type: text/plain\r\nContent-Length: ${hidden.length}`)],
    ['a transfer encoding', head('Transfer-Encoding: chunked\r\nContent-Length: 99999')],
  ];
  for (const transport of ['tcp', 'tls'] as const) {
    for (const [what, first] of games) {
      const socket =
        transport === 'tcp'
          ? tcpConnect(us.port('tcp'), '127.0.0.1')
          : client(us.port('tls')).socket;
      socket.on('error', () => {});
      socket.resume();
      socket.write(first + hidden, 'latin1');
      await sleep(realClock, 15);
      socket.destroy();
      t.notOk(
        us.sources.some(({ transport: name }) => name === transport),
        `${transport}: ${what}`,
      );
    }
  }
  await sleep(realClock, 50);
  t.same(us.sources, []);
});
