/**
 * RFC 4475, RFC 5118 and this project's own malformed and malicious messages, sent to a real
 * endpoint on loopback over UDP, TCP, TLS and WebSocket: each is answered as its verdict says, by one answer, and
 * nothing is ever sent to an address that is not loopback.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import t, { type Test } from 'tap';
import { realClock, sleep } from '../src/core/clock.ts';
import { asGatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DEFAULT_MEDIA_POLICY } from '../src/sdp/address.ts';
import { answerOffer, offeredFamily } from '../src/sdp/offer-answer.ts';
import { parseSdp } from '../src/sdp/sdp.ts';
import { DEFAULT_CONNECTION } from '../src/sip/connection.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import { StreamLayers } from '../src/sip/layers.ts';
import type { TransportName } from '../src/sip/peer.ts';
import { Resolver } from '../src/sip/resolver.ts';
import type { Session } from '../src/sip/session.ts';
import { KernelSockets } from '../src/sip/sockets.ts';
import { Authority } from './support/certificates.ts';
import { temporaryFolder } from './support/stream-world.ts';
import { allowedBy, bytesOf, finals, judge, readVerdicts } from './support/torture.ts';

/** Half a message on TCP is given up after this; the real default is 10 s. */
const MESSAGE_TIMEOUT_MS = 400;
const SILENCE_MS = 250;
/** T1 of the endpoint: 64 of it, and the BYE of unacknowledged answers, fit into the test. */
const T1_MS = 20;

/** Answers what it can, as a gateway does, without media. */
function handle(session: Session): void {
  try {
    const offer = session.offer;
    if (offer === '') {
      session.accept('v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n');
      return;
    }
    const parsed = parseSdp(offer);
    const family = offeredFamily(parsed);
    const { sdp } = answerOffer({
      offer: parsed,
      codecs: ['PCMU', 'PCMA', 'G722', 'opus'],
      local: { address: family === 4 ? '127.0.0.1' : '::1', port: 20_000, family },
      sessionId: '1',
      version: 1,
      policy: DEFAULT_MEDIA_POLICY,
    });
    session.accept(sdp);
  } catch (thrown) {
    const error = asGatewayError(thrown);
    session.reject(error.row.sip, { reason: error.message });
  }
}

interface Target {
  readonly endpoint: Endpoint;
  port(transport: TransportName): number;
  /** A stream to it, ready to be written to. */
  connect(transport: 'tcp' | 'tls', localAddress: string): Promise<Socket>;
  /** Every address that something was sent or connected to. */
  readonly egress: Set<string>;
}

async function startTarget(t: Test, trusts = () => false): Promise<Target> {
  const authority = new Authority(temporaryFolder(t));
  const egress = new Set<string>();
  const isLoopback = (address: string): boolean => address.startsWith('127.') || address === '::1';
  const endpoint = new Endpoint({
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    userAgent: 'tandem',
    listen: [
      { transport: 'udp', address: '127.0.0.1', port: 0 },
      { transport: 'tcp', address: '127.0.0.1', port: 0 },
      { transport: 'tls', address: '127.0.0.1', port: 0 },
      { transport: 'ws', address: '127.0.0.1', port: 0 },
    ],
    layers: new StreamLayers({
      clock: realClock,
      log: silentLog,
      certificates: authority.issue(['DNS:localhost']),
      webSocket: { allowWithoutOrigin: true },
    }),
    sockets: new KernelSockets({ onEgress: (address) => egress.add(address) }),
    resolver: new Resolver({
      clock: realClock,
      lookup: () => Promise.reject(new Error('no names here')),
      allowAddress: isLoopback,
    }),
    policy: { allowAddress: isLoopback, trusts },
    timers: { t1Ms: T1_MS, t2Ms: 4 * T1_MS },
    transport: {
      connection: {
        ...DEFAULT_CONNECTION,
        connectTimeoutMs: 1000,
        messageTimeoutMs: MESSAGE_TIMEOUT_MS,
        lingerMs: 200,
      },
    },
  });
  endpoint.on('invite', handle);
  await endpoint.start();
  t.teardown(() => endpoint.close());
  const port = (transport: TransportName): number =>
    endpoint.locals.find((local) => local.transport === transport)?.port ?? 0;
  return {
    endpoint,
    egress,
    port,
    connect: async (transport, localAddress) => {
      const socket = connect({ host: '127.0.0.1', port: port(transport), localAddress });
      if (transport === 'tcp') return socket;
      const secure = tlsConnect({ socket, rejectUnauthorized: false });
      await once(secure, 'secureConnect');
      return secure;
    },
  };
}

/** Sends one datagram and hears what comes back, at the sending port and at the one Via names. */
async function overUdp(port: number, address: string, data: Buffer): Promise<string[]> {
  const via =
    /^(?:v|via)\s*:\s*sip\s*\/\s*2\.0\s*\/\s*\S+\s+(?:\[[^\]]*\]|[^\s:;,]+)\s*:\s*(\d+)/im;
  const viaPort = Number(via.exec(data.toString('latin1'))?.[1] ?? 5060);
  const replies: string[] = [];
  let heard = (): void => {};
  const open = async (at: number): Promise<ReturnType<typeof createSocket>> => {
    const socket = createSocket('udp4');
    socket.on('message', (reply) => {
      replies.push(reply.toString('latin1'));
      if (finals(replies).length > 0) heard();
    });
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind(at, address, resolve);
    });
    return socket;
  };
  const sender = await open(0);
  const isPort = viaPort > 0 && viaPort < 65_536;
  const listener = isPort ? await open(viaPort).catch(() => null) : null;
  const final = new Promise<void>((resolve) => {
    heard = resolve;
  });
  sender.send(data, port, '127.0.0.1');
  await Promise.race([final, sleep(realClock, SILENCE_MS)]);
  await sleep(realClock, 30); // a second answer would come right behind
  sender.close();
  listener?.close();
  return replies;
}

/** Sends bytes on a new connection; what came back, and whether it was closed. */
async function overStream(
  socket: Socket,
  data: Buffer,
  waitMs: number,
): Promise<{ replies: string[]; received: string; isClosed: boolean }> {
  let received = '';
  let isClosed = false;
  let done = (): void => {};
  const end = new Promise<void>((resolve) => {
    done = resolve;
  });
  socket.on('data', (chunk) => {
    received += chunk.toString('latin1');
  });
  socket.on('error', () => {});
  socket.on('end', () => {
    isClosed = true;
    done();
  });
  socket.on('close', () => {
    isClosed = true;
    done();
  });
  socket.write(data);
  await Promise.race([end, sleep(realClock, waitMs)]);
  socket.destroy();
  return { replies: received.split(/(?=SIP\/2\.0 \d{3} )/), received, isClosed };
}

/** Sends bytes as one message. */
async function overWebSocket(
  port: number,
  data: Buffer,
): Promise<{ replies: string[]; isClosed: boolean }> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, 'sip');
  socket.binaryType = 'arraybuffer';
  const replies: string[] = [];
  let isClosed = false;
  await new Promise<void>((resolve) => {
    socket.addEventListener('open', () => socket.send(new Uint8Array(data)));
    socket.addEventListener('error', () => resolve());
    socket.addEventListener('close', () => {
      isClosed = true;
      resolve();
    });
    socket.addEventListener('message', ({ data: reply }) => {
      const isText = typeof reply === 'string';
      replies.push(isText ? reply : Buffer.from(reply as ArrayBuffer).toString('latin1'));
      // A second answer, or the end, would come right behind.
      if (finals(replies).length > 0) void sleep(realClock, 60).then(resolve);
    });
    void sleep(realClock, SILENCE_MS).then(resolve);
  });
  socket.close();
  return { replies, isClosed };
}

/** The body is as long as the one Content-Length says, if there is one. */
function isWhole(text: string): boolean {
  const message = text.replace(/^(?:\r\n)+/, '');
  const end = message.indexOf('\r\n\r\n');
  const head = end < 0 ? message : message.slice(0, end + 2);
  const lengths = [...head.matchAll(/^(?:content-length|l)[ \t]*:[ \t\r\n]*(.*?)[ \t]*\r$/gim)];
  if (end < 0 || lengths.length === 0) return !/(^|[^\r])\n/.test(head);
  const [, length = ''] = lengths[0] ?? [];
  const isPlain = lengths.length === 1 && /^\d{1,8}$/.test(length);
  return isPlain && Number(length) === message.length - end - 4;
}

async function inBatches<T>(
  items: readonly T[],
  size: number,
  run: (item: T, i: number) => Promise<void>,
): Promise<void> {
  for (let i = 0; i < items.length; i += size) {
    await Promise.all(items.slice(i, i + size).map((item, j) => run(item, i + j)));
  }
}

/** Each message comes from its own address, so that rate limits and ports do not mix. */
function addressOf(index: number, net: number): string {
  return `127.77.${net}.${index + 1}`;
}

const verdicts = readVerdicts();
if (verdicts === null) {
  t.pass('skipped', { skip: 'the torture messages are not here' });
} else {
  t.test('over UDP each message gets its verdict', async (t) => {
    const target = await startTarget(t);

    await inBatches(verdicts, 48, async (verdict, i) => {
      const data = bytesOf(verdict);
      const replies = await overUdp(target.port('udp'), addressOf(i, 1), data);
      judge(t, verdict, allowedBy(verdict, data.toString('latin1')), finals(replies));
    });

    // The dialogs that nobody acknowledged end meanwhile, with BYE to places that policy bars.
    await sleep(realClock, 64 * T1_MS + 200);
    t.same(
      [...target.egress].filter((address) => !address.startsWith('127.')),
      [],
    );
    await settled(t, target);
  });

  for (const transport of ['tcp', 'tls'] as const) {
    const name = transport.toUpperCase();
    t.test(`over ${name} each message gets its verdict, and lost framing closes`, async (t) => {
      const target = await startTarget(t);

      await inBatches(verdicts, 48, async (verdict, i) => {
        const data = bytesOf(verdict);
        const text = data.toString('latin1');
        const { onStream = '' } = verdict;
        const isUnframed =
          verdict.kind === 'request' && !/^(?:content-length|l)[ \t]*:/im.test(text);
        const waits = onStream === 'wait-then-timeout' || verdict.bodyBytes === null;
        const closes = onStream.startsWith('error-and-close') || (isUnframed && !waits);
        const waitMs = waits ? MESSAGE_TIMEOUT_MS + 300 : SILENCE_MS;
        const address = addressOf(i, transport === 'tcp' ? 2 : 3);
        const socket = await target.connect(transport, address);
        const result = await overStream(socket, data, waitMs);
        const statuses = finals(result.replies);
        const isOver = closes || waits || onStream === 'close';
        if (isOver) t.ok(result.isClosed, `${verdict.name}: closed`);
        if (onStream === 'pong') t.equal(result.received, '\r\n', `${verdict.name}: pong`);
        else if (waits || onStream === 'close') t.same(statuses, [], `${verdict.name}: no answer`);
        else if (onStream === 'two-messages') t.equal(statuses.length, 2, `${verdict.name}: both`);
        else if (closes)
          t.ok(
            statuses.every((s) => s >= 400),
            `${verdict.name}: ${statuses}`,
          );
        else judge(t, verdict, allowedBy(verdict, text), statuses);
      });

      await sleep(realClock, 64 * T1_MS + 200);
      t.same(
        [...target.egress].filter((address) => !address.startsWith('127.')),
        [],
      );
      await settled(t, target);
      t.equal(target.endpoint.counts.connections, 0);
    });
  }

  t.test(
    'over WebSocket each message gets its verdict, and what hides another closes',
    async (t) => {
      const target = await startTarget(t, () => true);

      await inBatches(verdicts, 48, async (verdict) => {
        const data = bytesOf(verdict);
        const text = data.toString('latin1');
        const allowed = allowedBy(verdict, text);
        const result = await overWebSocket(target.port('ws'), data);
        const statuses = finals(result.replies);
        if (verdict.onStream === 'pong') {
          t.same(result.replies, ['\r\n'], `${verdict.name}: pong`);
        } else if (isWhole(text)) {
          judge(t, verdict, allowed, statuses);
        } else {
          // RFC 7118 §5: the frame and Content-Length name two ends of one message.
          t.ok(result.isClosed, `${verdict.name}: closed`);
          t.ok(
            statuses.length <= 1 && statuses.every((status) => status >= 400),
            `${verdict.name}: ${statuses}`,
          );
        }
      });

      await sleep(realClock, 64 * T1_MS + 200);
      t.same(
        [...target.egress].filter((address) => !address.startsWith('127.')),
        [],
      );
      await settled(t, target);
    },
  );
}

/** After the timers of everything above, nothing is left of it. */
async function settled(t: Test, target: Target): Promise<void> {
  for (let i = 0; i < 40; i += 1) {
    if (target.endpoint.counts.sessions === 0) break;
    await sleep(realClock, 100);
  }
  t.equal(target.endpoint.counts.sessions, 0, 'no session is left');
}
