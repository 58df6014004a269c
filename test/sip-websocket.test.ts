/**
 * SIP over WebSocket (RFC 7118) on real sockets: a browser's way in, by Node's own WebSocket, and
 * everything a hostile client may put in its place, by hand.
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import t, { type Test } from 'tap';
import { realClock, sleep } from '../src/core/clock.ts';
import { Authority } from './support/certificates.ts';
import { SDP } from './support/script-peer.ts';
import { Witness } from './support/sip-world.ts';
import {
  request,
  type Stage,
  type StageOptions,
  stage,
  temporaryFolder,
  until,
} from './support/stream-world.ts';

const ORIGIN = 'https://phone.example.com';
const PAGES = { origins: [ORIGIN] };

function webStage(t: Test, options: StageOptions = {}): Promise<Stage> {
  return stage(t, { listen: ['ws'], webSocket: PAGES, ...options });
}

/** A page's connection. Node's WebSocket lets us be any page. */
class Page {
  readonly socket: WebSocket;
  readonly heard: string[] = [];
  code = 0;

  constructor(url: string, protocols: string[] = ['sip'], origin: string | null = ORIGIN) {
    const headers = origin === null ? {} : { Origin: origin };
    // Beyond the standard's two arguments, for us who are no browser.
    const options = { protocols, headers } as unknown as string[];
    this.socket = new WebSocket(url, options);
    this.socket.binaryType = 'arraybuffer';
    this.socket.addEventListener('message', ({ data }) => {
      this.heard.push(
        typeof data === 'string' ? data : Buffer.from(data as ArrayBuffer).toString('latin1'),
      );
    });
    this.socket.addEventListener('close', ({ code }) => {
      this.code = code;
    });
    this.socket.addEventListener('error', () => {});
  }

  opened(): Promise<boolean> {
    return new Promise((resolve) => {
      this.socket.addEventListener('open', () => resolve(true));
      this.socket.addEventListener('close', () => resolve(false));
    });
  }

  async ask(text: string | Uint8Array): Promise<string> {
    const before = this.heard.length;
    this.socket.send(text);
    await until(() => this.heard.length > before || this.code !== 0);
    return this.heard[before] ?? '';
  }
}

/** The same by hand: every byte is ours. */
class Raw {
  readonly socket: Socket;
  received = Buffer.alloc(0);
  isClosed = false;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('data', (chunk) => {
      this.received = Buffer.concat([this.received, chunk]);
    });
    this.socket.on('error', () => {});
    this.socket.on('close', () => {
      this.isClosed = true;
    });
  }

  get text(): string {
    return this.received.toString('latin1');
  }

  /** The status of the upgrade; 0 when the connection was just closed. */
  async upgrade(fields: readonly string[] = []): Promise<number> {
    this.socket.write(`${[...UPGRADE, ...fields].join('\r\n')}\r\n\r\n`);
    await until(() => this.text.includes('\r\n\r\n') || this.isClosed);
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(this.text)?.[1] ?? 0);
    this.received = this.received.subarray(this.text.indexOf('\r\n\r\n') + 4);
    return status;
  }

  /** One frame, masked as RFC 6455 §5.3 wants. */
  frame(opcode: number, payload: string | Buffer, isFinal = true): void {
    this.socket.write(frame(opcode, payload, isFinal));
  }

  /** The status of the close frame that came, once it did. */
  async closeCode(): Promise<number> {
    await until(() => this.isClosed || this.received.includes(0x88));
    const at = this.received.indexOf(0x88);
    return at < 0 ? 0 : this.received.readUInt16BE(at + 2);
  }
}

const UPGRADE = [
  'GET / HTTP/1.1',
  'Host: 127.0.0.1',
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Version: 13',
];
const WELCOME = [`Origin: ${ORIGIN}`, 'Sec-WebSocket-Protocol: sip'];
const [CONTINUED, TEXT, BINARY, PING] = [0, 1, 2, 9];

function frame(opcode: number, payload: string | Buffer, isFinal = true): Buffer {
  const body = Buffer.from(payload as string, 'latin1');
  const mask = randomBytes(4);
  const first = (isFinal ? 0x80 : 0) | opcode;
  let head = Buffer.from([first, 0x80 | body.length]);
  if (body.length > 125) {
    const isLong = body.length > 65_535;
    head = Buffer.alloc(isLong ? 10 : 4);
    head[0] = first;
    head[1] = 0x80 | (isLong ? 127 : 126);
    if (isLong) head.writeBigUInt64BE(BigInt(body.length), 2);
    else head.writeUInt16BE(body.length, 2);
  }
  const masked = body.map((byte, i) => byte ^ (mask[i % 4] as number));
  return Buffer.concat([head, mask, masked]);
}

/** Fields of the upgrade with one of them changed. */
function upgradeWith(line: string): string {
  const name = line.slice(0, line.indexOf(':'));
  return [...UPGRADE, ...WELCOME]
    .map((old) => (old.startsWith(`${name}:`) ? line : old))
    .join('\r\n');
}

const OPTIONS = { transport: 'WS' };

t.test('a page', async (t) => {
  t.test('is answered on its connection, with and without Content-Length', async (t) => {
    const us = await webStage(t);
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`);
    t.ok(await page.opened());
    t.equal(page.socket.protocol, 'sip');
    t.equal(page.socket.extensions, '');

    const sentBy = 'df7jal23ls0d.invalid';
    t.match(await page.ask(request({ ...OPTIONS, sentBy })), /^SIP\/2\.0 200 OK\r\n/);
    t.match(
      page.heard[0],
      new RegExp(`^Via: SIP/2\\.0/WS ${sentBy};.*;received=127\\.0\\.0\\.1\\r$`, 'm'),
    );
    t.match(await page.ask(request({ ...OPTIONS, contentLength: null })), /^SIP\/2\.0 200 OK\r\n/);
    t.match(await page.ask(Buffer.from(request(OPTIONS))), /^SIP\/2\.0 200 OK\r\n/, 'binary too');
    t.equal(await us.metric('tandem_sip_connections{transport="ws"}'), 1);
    page.socket.close();
    t.ok(await until(() => us.endpoint.counts.connections === 0));
  });

  t.test('has a call: what we ask of it comes back over its own connection', async (t) => {
    const us = await webStage(t);
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`);
    await page.opened();
    let witness: Witness | null = null;
    us.endpoint.on('invite', (session) => {
      witness = new Witness(session);
      session.accept(SDP);
      session.on('acknowledged', () => session.hangup());
    });

    const invite = request({ ...OPTIONS, method: 'INVITE', body: SDP, contentLength: null });
    page.socket.send(invite);
    t.ok(await until(() => page.heard.some((text) => text.startsWith('SIP/2.0 200'))));
    const answer = page.heard.find((text) => text.startsWith('SIP/2.0 200')) ?? '';
    t.match(answer, /^Contact: <sip:127\.0\.0\.1:\d+;transport=ws>\r$/m);
    const to = /^To: (.*)\r$/m.exec(answer)?.[1] ?? '';
    const ack = invite.replace(/INVITE/g, 'ACK').replace(/^To: .*\r$/m, `To: ${to}\r`);
    page.socket.send(ack.slice(0, ack.indexOf('\r\n\r\n') + 4).replace(/z9hG4bK\d+/, 'z9hG4bKack'));

    t.ok(await until(() => page.heard.some((text) => text.startsWith('BYE '))));
    const bye = page.heard.find((text) => text.startsWith('BYE ')) ?? '';
    t.match(bye, /^BYE sip:them@peer\.invalid;transport=ws SIP\/2\.0\r\n/);
    t.match(bye, /^Via: SIP\/2\.0\/WS 127\.0\.0\.1:\d+;branch=/m);
    const fields = bye.split('\r\n').filter((line) => /^(Via|From|To|Call-ID|CSeq):/.test(line));
    page.socket.send(`SIP/2.0 200 OK\r\n${fields.join('\r\n')}\r\n\r\n`);
    t.ok(await until(() => witness?.ends === 1));
    page.socket.close();
  });

  t.test('is reached while it is there, and never called back', async (t) => {
    const us = await webStage(t);
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`);
    await page.opened();
    us.endpoint.on('invite', (session) => session.reject(486));
    await page.ask(request({ ...OPTIONS, method: 'INVITE', body: SDP }));
    const [source] = us.sources;
    const target = { transport: 'ws', address: '127.0.0.1', port: source?.port ?? 0 } as const;
    const ring = () =>
      new Witness(
        us.endpoint.invite({
          uri: 'sip:them@peer.invalid;transport=ws',
          from: { uri: 'sip:us@localhost' },
          sdp: SDP,
          target,
        }),
      );

    ring();
    t.ok(await until(() => page.heard.some((text) => text.startsWith('INVITE '))));
    page.socket.close();
    await until(() => us.endpoint.counts.connections === 0);
    const late = ring();
    t.ok(await until(() => late.ends === 1));
    t.equal(late.end?.code, 'SIP_TRANSPORT');
    t.equal(us.endpoint.counts.connections, 0);
  });

  t.test('comes over TLS too', async (t) => {
    const authority = new Authority(temporaryFolder(t));
    const certificates = { ...authority.issue(['DNS:localhost']), caFile: authority.caFile };
    const us = await webStage(t, {
      listen: ['wss'],
      certificates,
      tls: { clientCertificate: 'request' },
    });
    const socket = tlsConnect({
      port: us.port('wss'),
      host: '127.0.0.1',
      rejectUnauthorized: false,
    });
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1');
    });
    t.teardown(() => socket.destroy());
    socket.write(`${[...UPGRADE, ...WELCOME].join('\r\n')}\r\n\r\n`);
    t.ok(await until(() => received.startsWith('HTTP/1.1 101')));
    socket.write(frame(TEXT, request({ transport: 'WSS' })));
    t.ok(await until(() => received.includes('SIP/2.0 200 OK\r\nVia: SIP/2.0/WSS ')));
    t.equal(await us.metric('tandem_sip_connections{transport="wss"}'), 1);

    const plain = new Raw(us.port('wss'));
    t.equal(await plain.upgrade(WELCOME), 0, 'and in no other way');
  });
});

t.test('who may connect', async (t) => {
  t.test('pages that are named, no others, and no programs unless it is said', async (t) => {
    const us = await webStage(t);
    const opens = async (stage: Stage, origin: string | null): Promise<boolean> => {
      const raw = new Raw(stage.port('ws'));
      t.teardown(() => raw.socket.destroy());
      const fields = origin === null ? [] : [`Origin: ${origin}`];
      return (await raw.upgrade([...fields, 'Sec-WebSocket-Protocol: sip'])) === 101;
    };

    t.equal(await opens(us, ORIGIN), true);
    for (const origin of [
      'http://phone.example.com',
      'https://phone.example.com.evil.example',
      'https://evil.example',
      `http://127.0.0.1:${us.port('ws')}`,
      'https://phone.example.com:444',
      'null',
      '',
      '*',
    ]) {
      t.equal(await opens(us, origin), false, origin);
    }
    t.equal(await opens(us, null), false, 'no Origin');
    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="origin"}'), 9);

    const open = await webStage(t, { webSocket: { allowWithoutOrigin: true } });
    t.equal(await opens(open, null), true, 'no Origin, where that is allowed');
    t.equal(await opens(open, ORIGIN), false, 'no page is, unless named');
  });

  t.test('an origin that is none is said at the start', async (t) => {
    for (const origin of ['*', 'phone.example.com', 'https://a.example/path', 'wss://a.example']) {
      const problem = await webStage(t, { webSocket: { origins: [origin] } }).catch(
        (error) => error,
      );
      t.match(problem.message, /"sip\.ws\.origins": ".*" is no origin/, origin);
    }
  });

  t.test('the upgrade has to be one, for sip', async (t) => {
    const us = await webStage(t, { transport: { failedHandshakesPerMinuteMax: 1000 } });
    const status = async (text: string): Promise<number> => {
      const raw = new Raw(us.port('ws'));
      raw.socket.write(`${text}\r\n\r\n`);
      await until(() => raw.text.includes('\r\n\r\n') || raw.isClosed);
      t.teardown(() => raw.socket.destroy());
      return Number(/^HTTP\/1\.1 (\d{3})/.exec(raw.text)?.[1] ?? 0);
    };

    t.equal(await status([...UPGRADE, `Origin: ${ORIGIN}`].join('\r\n')), 400, 'no subprotocol');
    t.equal(await status(upgradeWith('Sec-WebSocket-Protocol: xmpp, msrp')), 400);
    t.equal(await status(upgradeWith('Sec-WebSocket-Protocol: xmpp, sip')), 101);
    t.equal(await status(upgradeWith('Sec-WebSocket-Version: 8')), 426);
    t.equal(await status(upgradeWith('Sec-WebSocket-Key: short')), 400);
    t.equal(await status('GET / HTTP/1.1\r\nHost: x'), 426);
    t.equal(await status('INVITE sip:us@x SIP/2.0\r\nHost: x'), 400);
    t.equal(await status(`GET / HTTP/1.1\r\nX: ${'x'.repeat(9000)}`), 400, 'a large head');
    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="subprotocol"}'), 2);
  });

  t.test('no source has more than its connections', async (t) => {
    const us = await webStage(t, { transport: { connectionsPerSecondMax: 1000 } });
    const raws = Array.from({ length: 110 }, () => new Raw(us.port('ws')));
    t.teardown(() => {
      for (const { socket } of raws) socket.destroy();
    });
    t.ok(await until(() => raws.filter(({ isClosed }) => isClosed).length === 10));
    t.equal(us.endpoint.counts.connections, 100);
  });

  t.test('an upgrade that drips is closed', async (t) => {
    const us = await webStage(t, { connection: { handshakeTimeoutMs: 150 } });
    const raw = new Raw(us.port('ws'));
    raw.socket.write('GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ');
    for (let n = 0; n < 20 && !raw.isClosed; n += 1) {
      raw.socket.write('x');
      await sleep(realClock, 20);
    }
    t.ok(await until(() => raw.isClosed));
    t.equal(await us.metric('tandem_sip_handshakes_failed_total{reason="timeout"}'), 1);
  });
});

t.test('a stranger', async (t) => {
  const connection = { admissionTimeoutMs: 200, idleTimeoutMs: 60_000 };

  t.test('who sends nothing that is let in is closed in time, whatever it sends', async (t) => {
    const us = await webStage(t, { connection });
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`);
    await page.opened();
    const startMs = realClock.monotonicMs();
    while (page.code === 0 && realClock.monotonicMs() - startMs < 2000) {
      if (page.socket.readyState === 1) page.socket.send(request(OPTIONS));
      await sleep(realClock, 30);
    }
    const tookMs = realClock.monotonicMs() - startMs;
    t.ok(tookMs > 150 && tookMs < 600, `${tookMs} ms`);
  });

  t.test('whose half message never ends is closed as well', async (t) => {
    const us = await webStage(t, { connection });
    const raw = new Raw(us.port('ws'));
    await raw.upgrade(WELCOME);
    raw.socket.write(frame(TEXT, request(OPTIONS)).subarray(0, 40));
    t.ok(await until(() => raw.isClosed));
    t.equal(raw.received.length, 0);
  });

  t.test('whose call was let in stays', async (t) => {
    const us = await webStage(t, { connection });
    us.endpoint.on('invite', (session) => session.reject(486));
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`);
    await page.opened();
    t.match(await page.ask(request({ ...OPTIONS, method: 'INVITE', body: SDP })), /^SIP\/2.0 486/);
    await sleep(realClock, 400);
    t.equal(page.code, 0);
    page.socket.close();
  });
});

t.test('messages and frames', async (t) => {
  const raw = async (t: Test, us: Stage): Promise<Raw> => {
    const peer = new Raw(us.port('ws'));
    t.teardown(() => peer.socket.destroy());
    t.equal(await peer.upgrade(WELCOME), 101);
    return peer;
  };

  t.test('fragments make one message, 64 of them at most', async (t) => {
    const us = await webStage(t);
    const send = (peer: Raw, count: number): void => {
      const text = request(OPTIONS);
      const size = Math.ceil(text.length / count);
      for (let n = 0; n < count; n += 1) {
        const opcode = n === 0 ? TEXT : CONTINUED;
        peer.frame(opcode, text.slice(n * size, (n + 1) * size), n === count - 1);
      }
    };
    const few = await raw(t, us);
    send(few, 64);
    t.ok(await until(() => few.text.includes('SIP/2.0 200 OK')));
    const many = await raw(t, us);
    send(many, 65);
    t.equal(await many.closeCode(), 1008);
    t.notMatch(many.text, /SIP/);
  });

  t.test('what is too large is refused by its header alone', async (t) => {
    const us = await webStage(t);
    const whole = await raw(t, us);
    whole.socket.write(frame(TEXT, 'x'.repeat(65_537)).subarray(0, 14));
    t.equal(await whole.closeCode(), 1009);
    const pieces = await raw(t, us);
    for (let n = 0; n < 9; n += 1)
      pieces.frame(n === 0 ? TEXT : CONTINUED, 'x'.repeat(8000), false);
    t.equal(await pieces.closeCode(), 1009);
    t.ok(await until(() => us.endpoint.counts.connections === 0));
  });

  t.test('compression is offered in vain, and not understood', async (t) => {
    const us = await webStage(t);
    const peer = new Raw(us.port('ws'));
    t.teardown(() => peer.socket.destroy());
    peer.socket.write(
      `${[...UPGRADE, ...WELCOME, 'Sec-WebSocket-Extensions: permessage-deflate'].join('\r\n')}\r\n\r\n`,
    );
    await until(() => peer.text.includes('\r\n\r\n'));
    t.match(peer.text, /^HTTP\/1\.1 101/);
    t.notMatch(peer.text, /Extensions/i);
    peer.received = Buffer.alloc(0);
    const bomb = frame(BINARY, 'bomb');
    bomb[0] = (bomb[0] as number) | 0x40; // RSV1: compressed
    peer.socket.write(bomb);
    t.equal(await peer.closeCode(), 1002);
  });

  t.test('frames against the rules are refused', async (t) => {
    const us = await webStage(t);
    const unmasked = frame(TEXT, 'OPTIONS');
    for (const [what, bytes, code] of [
      ['unmasked', Buffer.from([0x81, 2, 65, 65]), 1002],
      ['a reserved opcode', Buffer.concat([Buffer.from([0x83]), unmasked.subarray(1)]), 1002],
      ['a continuation of nothing', frame(CONTINUED, 'x'), 1002],
      ['a long ping', frame(PING, 'x'.repeat(126)), 1002],
      ['text that is no UTF-8', frame(TEXT, '\xff\xfe'), 1007],
    ] as const) {
      const peer = await raw(t, us);
      peer.socket.write(bytes);
      t.equal(await peer.closeCode(), code, what);
    }
  });

  t.test('two messages in one are refused, and the second is never read', async (t) => {
    const us = await webStage(t, { trusts: () => true });
    us.endpoint.on('invite', (session) => session.reject(486));
    const hidden = request({ ...OPTIONS, method: 'INVITE', callId: 'smuggled' });
    const head = (fields: string): string =>
      request({ ...OPTIONS, contentLength: null }).replace('\r\n\r\n', `\r\n${fields}\r\n\r\n`);
    for (const [what, text, status] of [
      ['after a length of 0', head('Content-Length: 0') + hidden, 400],
      ['after leading empty lines', `\r\n\r\n${head('Content-Length: 0')}${hidden}`, 400],
      ['with a longer length', head('Content-Length: 9999') + hidden, 400],
      ['with two lengths', head(`l: ${hidden.length}\r\nContent-Length: 0`) + hidden, 400],
      ['with a length that is none', head('Content-Length: 0x0') + hidden, 400],
      ['without a length, as a body', head('X-Other: 1') + hidden, 0],
    ] as const) {
      const peer = await raw(t, us);
      peer.frame(TEXT, text);
      await until(() => peer.isClosed || peer.text.includes('SIP/2.0'));
      if (status > 0) {
        t.match(peer.text, new RegExp(`SIP/2\\.0 ${status} `), what);
        t.equal(await peer.closeCode(), 1008, `${what}: closed`);
      }
    }
    t.same(us.sources, []);
  });

  t.test('several messages in one packet are several', async (t) => {
    const us = await webStage(t);
    const peer = await raw(t, us);
    const frames = [1, 2, 3].map(() => frame(TEXT, request(OPTIONS)));
    peer.socket.write(Buffer.concat(frames));
    t.ok(await until(() => peer.text.split('SIP/2.0 200 OK').length === 4));
  });

  t.test('bytes that are no UTF-8 go and come in binary frames', async (t) => {
    const us = await webStage(t);
    const peer = await raw(t, us);
    peer.frame(BINARY, request({ ...OPTIONS, callId: '\xe9\xff' }));
    t.ok(await until(() => peer.text.includes('SIP/2.0')));
    t.equal(peer.received[0], 0x82);
    t.match(peer.text, /Call-ID: \xe9\xff\r\n/);
  });
});

t.test('signs of life', async (t) => {
  t.test('pings are answered, CRLF ones as well, and a flood of them not one by one', async (t) => {
    const us = await webStage(t);
    const peer = new Raw(us.port('ws'));
    t.teardown(() => peer.socket.destroy());
    await peer.upgrade(WELCOME);
    peer.frame(PING, 'abc');
    t.ok(await until(() => peer.received.equals(Buffer.from('\x8a\x03abc', 'latin1'))));
    peer.received = Buffer.alloc(0);
    peer.frame(TEXT, '\r\n\r\n');
    t.ok(await until(() => peer.received.equals(Buffer.from('\x81\x02\r\n', 'latin1'))));
  });

  t.test('who does not answer ours is closed, who does stays', async (t) => {
    const connection = { webSocketPingMs: 60, pongTimeoutMs: 100 };
    const us = await webStage(t, { connection, trusts: () => true });
    const page = new Page(`ws://127.0.0.1:${us.port('ws')}`); // answers by itself
    await page.opened();
    const deaf = new Raw(us.port('ws'));
    await deaf.upgrade(WELCOME);
    t.ok(await until(() => deaf.isClosed));
    t.equal(deaf.received[0], 0x89, 'it was pinged');
    t.equal(page.code, 0);
    page.socket.close();
  });

  t.test('who does not read is closed when too much waits for it', async (t) => {
    const us = await webStage(t, {
      trusts: () => true,
      connection: { sendQueueBytesMax: 20_000 },
    });
    const peer = new Raw(us.port('ws'));
    t.teardown(() => peer.socket.destroy());
    await peer.upgrade(WELCOME);
    peer.socket.pause();
    const one = frame(TEXT, request(OPTIONS));
    const many = Buffer.concat(Array.from({ length: 500 }, () => one));
    const isOver = async (): Promise<boolean> => {
      if (us.endpoint.counts.connections === 0) return true;
      peer.socket.write(many);
      return false;
    };
    t.ok(await until(isOver));
  });
});
