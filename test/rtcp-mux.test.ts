/**
 * RTCP on the port of RTP (RFC 5761), negotiated in SDP and heard on the wire: both directions of
 * the reports, and the loss that the far end tells of, over the real engine.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { LegMedia } from '../src/call/leg-media.ts';
import { checkOffer, DEFAULT_LEG_MEDIA } from '../src/call/media-terms.ts';
import { realClock } from '../src/core/clock.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { type CallNode, startNode } from './support/call-node.ts';
import { delay } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const SENDER_REPORT = 200;
const RECEIVER_REPORT = 201;

async function setUp(t: Test): Promise<CallNode> {
  const node = await startNode({ mediaPorts: [24_800, 24_999] });
  t.teardown(() => node.close());
  return node;
}

/** What came in on one UDP port, and a stream that goes out of it. */
class Far {
  readonly socket: Socket;
  readonly reports: Buffer[] = [];
  rtp = 0;
  ssrc = 0;
  #sequence = 0;

  static async open(t: Test): Promise<Far> {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    t.teardown(() => socket.close());
    return new Far(socket);
  }

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('message', (data) => {
      const type = data[1] ?? 0;
      if (type >= 200 && type <= 204) this.reports.push(data);
      else {
        this.rtp += 1;
        this.ssrc = data.readUInt32BE(8);
      }
    });
  }

  get port(): number {
    return (this.socket.address() as AddressInfo).port;
  }

  speak(to: number): void {
    const packet = Buffer.alloc(172, 0xff);
    packet[0] = 0x80;
    packet[1] = 0;
    packet.writeUInt16BE(this.#sequence, 2);
    packet.writeUInt32BE(this.#sequence * 160, 4);
    packet.writeUInt32BE(77, 8);
    this.#sequence += 1;
    this.socket.send(packet, to, '127.0.0.1');
  }

  /** A receiver report that a quarter of what `ssrc` sent was lost (RFC 3550 §6.4.2). */
  report(to: number, ssrc: number): void {
    const report = Buffer.alloc(32);
    report[0] = 0x81;
    report[1] = RECEIVER_REPORT;
    report.writeUInt16BE(7, 2);
    report.writeUInt32BE(77, 4);
    report.writeUInt32BE(ssrc, 8);
    report[12] = 64;
    this.socket.send(report, to, '127.0.0.1');
  }
}

function description(port: number, ...lines: string[]): string {
  const head = ['v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 'c=IN IP4 127.0.0.1', 't=0 0'];
  return [...head, `m=audio ${port} RTP/AVP 0`, ...lines, ''].join('\r\n');
}

function legMedia(node: CallNode, rtcpMux = false): LegMedia {
  return new LegMedia({
    clock: realClock,
    group: 'mux',
    engine: node.engine,
    policy: { ...DEFAULT_LEG_MEDIA, rtcpMux },
    digitRepeatMs: 0,
    tell: () => undefined,
    sendInfo: () => undefined,
    onLost: () => undefined,
    record: null,
  });
}

function rtpPortOf(sdp: string): number {
  return Number(/^m=audio (\d+)/m.exec(sdp)?.[1]);
}

/** Talks, and reports once from `reporter` to `to`, until a report came to one of the sockets. */
async function talk(
  media: LegMedia,
  far: Far,
  own: number,
  { reporter, to }: { reporter: Far; to: number },
): Promise<void> {
  await media.obey({
    id: 'p',
    kind: 'play',
    playId: 'p',
    source: { kind: 'tone', hz: [440], onMs: 1_000, offMs: 0, levelDb: -20, count: 1 },
    loop: 0,
  });
  for (let turn = 0; turn < 450; turn += 1) {
    far.speak(own);
    if (turn === 25) reporter.report(to, far.ssrc);
    await delay(20);
    if (turn > 30 && [far, reporter].some(({ reports }) => reports.length > 0)) return;
  }
}

t.test('it is answered where it is offered, and reports come and go there', { skip }, async (t) => {
  const node = await setUp(t);
  const far = await Far.open(t);
  const media = legMedia(node);
  const offer = description(far.port, 'a=rtcp-mux');

  const answer = await media.answer(checkOffer(offer, '127.0.0.1', DEFAULT_LEG_MEDIA));
  t.match(answer, /^a=rtcp-mux\r$/m);
  t.notMatch(answer, /^a=rtcp:/m, 'RFC 5761 §5.1.1: there is no other port');
  await media.prove();
  const own = rtpPortOf(answer);
  await talk(media, far, own, { reporter: far, to: own });

  t.ok(far.reports.length > 0, 'our report comes to the port of their RTP');
  t.equal(far.reports[0]?.[1], SENDER_REPORT);
  t.equal(far.reports[0]?.readUInt32BE(4), far.ssrc, 'of the stream that we send');
  const stats = await media.close();
  t.ok((stats?.packetsReceived ?? 0) > 50);
  t.equal(stats?.badPackets, 0, 'theirs was no broken RTP');
  t.equal(stats?.remoteLossFraction, 0.25, 'it was heard on the port of our RTP');
});

t.test('without it reports go where a=rtcp says, or to the port after', { skip }, async (t) => {
  const node = await setUp(t);
  const far = await Far.open(t);
  const reports = await Far.open(t);
  const media = legMedia(node);
  const offer = description(far.port, `a=rtcp:${reports.port}`);

  const answer = await media.answer(checkOffer(offer, '127.0.0.1', DEFAULT_LEG_MEDIA));
  t.notMatch(answer, /rtcp-mux/);
  t.match(answer, `a=rtcp:${rtpPortOf(answer) + 1}\r\n`);
  await media.prove();
  const own = rtpPortOf(answer);
  await talk(media, far, own, { reporter: reports, to: own + 1 });

  t.equal(far.reports.length, 0);
  t.ok(reports.reports.length > 0);
  t.equal((await media.close())?.remoteLossFraction, 0.25);
});

t.test(
  'it is offered when it is configured, and given up where it is not taken',
  { skip },
  async (t) => {
    const node = await setUp(t);
    const far = await Far.open(t);
    const near = { near: null, peer: '127.0.0.1' };

    t.notMatch(await legMedia(node).offer(near), /rtcp-mux/);
    const taken = legMedia(node, true);
    t.match(
      await taken.offer(near),
      /^a=rtcp-mux\r\na=rtcp:\d+\r$/m,
      'with the port to fall back to',
    );
    await taken.accept(description(far.port, 'a=rtcp-mux'), true);
    t.match(taken.record().agreed?.remote, { rtcpMux: true, rtcpPort: far.port });
    const refused = legMedia(node, true);
    await refused.offer(near);
    await refused.accept(description(far.port), true);
    t.match(refused.record().agreed?.remote, { rtcpMux: false, rtcpPort: far.port + 1 });
    await Promise.all([taken.close(), refused.close()]);
  },
);
