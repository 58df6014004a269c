/**
 * RFC 4475, RFC 5118 and this project's own malformed and malicious messages, sent to a real
 * endpoint on loopback over UDP and TCP: each is answered as its verdict says, by one answer, and
 * nothing is ever sent to an address that is not loopback.
 */
import { createSocket } from 'node:dgram';
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { realClock, sleep } from '../src/core/clock.ts';
import { asGatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DEFAULT_MEDIA_POLICY } from '../src/sdp/address.ts';
import { answerOffer, offeredFamily } from '../src/sdp/offer-answer.ts';
import { parseSdp } from '../src/sdp/sdp.ts';
import { Endpoint } from '../src/sip/endpoint.ts';
import { Resolver } from '../src/sip/resolver.ts';
import type { Session } from '../src/sip/session.ts';
import { KernelSockets } from '../src/sip/sockets.ts';

interface Verdict {
  readonly name: string;
  readonly file: string;
  readonly expect: 'accept' | 'reject' | 'error';
  readonly status?: number;
  readonly alsoAllowed?: readonly (number | string)[];
  readonly kind: 'request' | 'response' | 'garbage';
  readonly onStream?: string;
  /** null: the headers never end. */
  readonly bodyBytes: number | null;
}

const DATA = new URL('../../shared/data/torture/', import.meta.url);
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
  readonly udpPort: number;
  readonly tcpPort: number;
  /** Every address that something was sent or connected to. */
  readonly egress: Set<string>;
}

async function startTarget(t: Test): Promise<Target> {
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
    ],
    sockets: new KernelSockets({ onEgress: (address) => egress.add(address) }),
    resolver: new Resolver({
      clock: realClock,
      lookup: () => Promise.reject(new Error('no names here')),
      allowAddress: isLoopback,
    }),
    policy: { allowAddress: isLoopback },
    timers: { t1Ms: T1_MS, t2Ms: 4 * T1_MS },
    transport: {
      connection: {
        connectTimeoutMs: 1000,
        messageTimeoutMs: MESSAGE_TIMEOUT_MS,
        idleTimeoutMs: 60_000,
        strangerIdleTimeoutMs: 60_000,
        lingerMs: 200,
        sendQueueBytesMax: 1_000_000,
        openingMessagesMax: 8,
      },
    },
  });
  endpoint.on('invite', handle);
  await endpoint.start();
  t.teardown(() => endpoint.close());
  const [udp, tcp] = endpoint.locals;
  return { endpoint, egress, udpPort: udp?.port ?? 0, tcpPort: tcp?.port ?? 0 };
}

/** The first final status of each transaction, in order; provisional ones and repeats left out. */
function finals(replies: readonly string[]): number[] {
  const seen = new Set<string>();
  const statuses: number[] = [];
  for (const reply of replies) {
    const status = Number(/^SIP\/2\.0 (\d{3}) /.exec(reply)?.[1] ?? 0);
    const key = /^cseq:.*$/im.exec(reply)?.[0] ?? '';
    if (status < 200 || seen.has(key)) continue;
    seen.add(key);
    statuses.push(status);
  }
  return statuses;
}

/** What a well-formed request gets when the verdict names no status. */
function acceptedStatuses(text: string): number[] {
  const method = /^\s*(\S+) /.exec(text)?.[1];
  // It claims a dialog that is not there: well formed, and nobody's.
  if (/^(?:to|t)\s*:[^\r]*(?:\r\n[ \t][^\r]*)*;\s*tag\s*=/im.test(text)) return [481];
  if (method === 'OPTIONS') return [200];
  if (method !== 'INVITE') return [401, 403, 405];
  // RFC 5737 and RFC 3849: no media is sent to addresses of documentation.
  return /^[co]=.* IN IP[46] (?:192\.0\.2\.|2001:db8:|::ffff:192\.0\.2\.)/im.test(text)
    ? [200, 488]
    : [200];
}

interface Allowed {
  readonly statuses: ReadonlySet<number>;
  readonly silence: boolean;
}

function allowedBy(verdict: Verdict, text: string): Allowed {
  const statuses = new Set<number>();
  let silence = verdict.kind === 'response';
  if (verdict.status !== undefined) statuses.add(verdict.status);
  else if (verdict.expect !== 'accept') silence = true;
  else if (verdict.kind === 'request') for (const s of acceptedStatuses(text)) statuses.add(s);
  for (const also of verdict.alsoAllowed ?? []) {
    const status = Number.parseInt(String(also), 10);
    if (status > 0) statuses.add(status);
    else if (String(also).startsWith('drop')) silence = true;
    else if (String(also).startsWith('accept')) {
      for (const accepted of acceptedStatuses(text)) statuses.add(accepted);
    }
  }
  return { statuses, silence };
}

function judge(t: Test, verdict: Verdict, allowed: Allowed, statuses: readonly number[]): void {
  const [status] = statuses;
  const expected = [...allowed.statuses, ...(allowed.silence ? ['silence'] : [])].join(' or ');
  const isRight = status === undefined ? allowed.silence : allowed.statuses.has(status);
  t.ok(isRight, `${verdict.name}: ${status ?? 'silence'}, expected ${expected}`);
  t.ok(statuses.length <= 1, `${verdict.name}: one answer`);
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
async function overTcp(
  port: number,
  address: string,
  data: Buffer,
  waitMs: number,
): Promise<{ replies: string[]; received: string; isClosed: boolean }> {
  const socket = connect({ host: '127.0.0.1', port, localAddress: address });
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

async function inBatches<T>(
  items: readonly T[],
  size: number,
  run: (item: T, i: number) => Promise<void>,
): Promise<void> {
  for (let i = 0; i < items.length; i += size) {
    await Promise.all(items.slice(i, i + size).map((item, j) => run(item, i + j)));
  }
}

function bytesOf(verdict: Verdict): Buffer {
  return readFileSync(new URL(verdict.file, DATA));
}

/** Each message comes from its own address, so that rate limits and ports do not mix. */
function addressOf(index: number, net: number): string {
  return `127.77.${net}.${index + 1}`;
}

if (!existsSync(new URL('index.json', DATA))) {
  t.pass('skipped', { skip: 'the torture messages are not here' });
} else {
  const verdicts = JSON.parse(
    readFileSync(new URL('index.json', DATA), 'utf8'),
  ) as readonly Verdict[];

  t.test('over UDP each message gets its verdict', async (t) => {
    const target = await startTarget(t);

    await inBatches(verdicts, 48, async (verdict, i) => {
      const data = bytesOf(verdict);
      const replies = await overUdp(target.udpPort, addressOf(i, 1), data);
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

  t.test('over TCP each message gets its verdict, and framing that is lost closes', async (t) => {
    const target = await startTarget(t);

    await inBatches(verdicts, 48, async (verdict, i) => {
      const data = bytesOf(verdict);
      const text = data.toString('latin1');
      const { onStream = '' } = verdict;
      const isUnframed = verdict.kind === 'request' && !/^(?:content-length|l)[ \t]*:/im.test(text);
      const waits = onStream === 'wait-then-timeout' || verdict.bodyBytes === null;
      const closes = onStream.startsWith('error-and-close') || (isUnframed && !waits);
      const waitMs = waits ? MESSAGE_TIMEOUT_MS + 300 : SILENCE_MS;
      const address = addressOf(i, 2);
      const result = await overTcp(target.tcpPort, address, data, waitMs);
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

/** After the timers of everything above, nothing is left of it. */
async function settled(t: Test, target: Target): Promise<void> {
  for (let i = 0; i < 40; i += 1) {
    if (target.endpoint.counts.sessions === 0) break;
    await sleep(realClock, 100);
  }
  t.equal(target.endpoint.counts.sessions, 0, 'no session is left');
}
