/**
 * The far end of an RTP stream on loopback: a bare UDP socket that sends mu-law at its own pace and
 * keeps what it gets. Reads and writes RTP (RFC 3550 §5.1) and telephone events (RFC 4733) by hand,
 * so that nothing of the engine under test judges itself.
 */
import dgram from 'node:dgram';
import { decodeUlaw, encodeUlaw } from './sound.ts';

export interface RtpPacket {
  readonly atMs: number;
  readonly payloadType: number;
  readonly isMarked: boolean;
  readonly sequence: number;
  readonly timestamp: number;
  readonly ssrc: number;
  readonly payload: Buffer;
}

const FRAME_SAMPLES = 160;
export const EVENT_TYPE = 101;

export class RtpPeer {
  readonly #socket: dgram.Socket;
  readonly packets: RtpPacket[] = [];
  #sequence = 1000;
  #timestamp = 50_000;

  private constructor(socket: dgram.Socket) {
    this.#socket = socket;
    socket.on('message', (data) => this.#receive(data));
  }

  static async open(): Promise<RtpPeer> {
    const socket = dgram.createSocket('udp4');
    await new Promise<void>((done) => socket.bind(0, '127.0.0.1', done));
    return new RtpPeer(socket);
  }

  get port(): number {
    return this.#socket.address().port;
  }

  /** Audio packets as one sound, put where their timestamps say. */
  heard(ssrc?: number): Float64Array {
    const audio = this.packets.filter(
      (packet) => packet.payloadType === 0 && (ssrc === undefined || packet.ssrc === ssrc),
    );
    const first = audio[0]?.timestamp ?? 0;
    const last = audio.at(-1)?.timestamp ?? first;
    const sound = new Float64Array(((last - first) >>> 0) + FRAME_SAMPLES);
    for (const { timestamp, payload } of audio) {
      const at = (timestamp - first) >>> 0;
      if (at + payload.length <= sound.length) sound.set(decodeUlaw(payload), at);
    }
    return sound;
  }

  /** Keys in the order they came, each once (same timestamp: same key press). */
  keys(): string {
    const seen = new Set<number>();
    let keys = '';
    for (const { payloadType, timestamp, payload } of this.packets) {
      if (payloadType !== EVENT_TYPE || seen.has(timestamp)) continue;
      seen.add(timestamp);
      keys += '0123456789*#ABCD'[payload[0] ?? 99] ?? '?';
    }
    return keys;
  }

  /** Sends the sound in real time, one packet each 20 ms. */
  async speak(samples: Float64Array, toPort: number): Promise<void> {
    const startMs = performance.now();
    for (let at = 0; at + FRAME_SAMPLES <= samples.length; at += FRAME_SAMPLES) {
      this.#send(0, Buffer.from(encodeUlaw(samples.subarray(at, at + FRAME_SAMPLES))), toPort);
      this.#timestamp += FRAME_SAMPLES;
      const dueMs = startMs + ((at + FRAME_SAMPLES) * 1000) / 8000;
      await delay(Math.max(0, dueMs - performance.now()));
    }
  }

  /** One key press of 100 ms: five updates, then its end three times (RFC 4733 §2.5). */
  async press(key: string, toPort: number): Promise<void> {
    const event = '0123456789*#ABCD'.indexOf(key);
    for (let n = 1; n <= 8; n += 1) {
      const isEnd = n > 5;
      const payload = Buffer.from([event, (isEnd ? 0x80 : 0) | 10, 0, 0]);
      payload.writeUInt16BE(Math.min(n, 5) * FRAME_SAMPLES, 2);
      this.#send(EVENT_TYPE, payload, toPort, n === 1);
      if (!isEnd) await delay(20);
    }
    this.#timestamp += 8 * FRAME_SAMPLES;
  }

  async close(): Promise<void> {
    await new Promise<void>((done) => this.#socket.close(() => done()));
  }

  #send(payloadType: number, payload: Buffer, toPort: number, isMarked = false): void {
    const header = Buffer.alloc(12);
    header[0] = 0x80;
    header[1] = (isMarked ? 0x80 : 0) | payloadType;
    header.writeUInt16BE(this.#sequence & 0xffff, 2);
    header.writeUInt32BE(this.#timestamp >>> 0, 4);
    header.writeUInt32BE(0x1234_5678, 8);
    this.#sequence += 1;
    this.#socket.send(Buffer.concat([header, payload]), toPort, '127.0.0.1');
  }

  #receive(data: Buffer): void {
    // Multiplexed RTCP has packet types 200…204 (RFC 5761 §4).
    if (data.length < 12 || ((data[1] ?? 0) >= 200 && (data[1] ?? 0) <= 204)) return;
    this.packets.push({
      atMs: performance.now(),
      payloadType: (data[1] ?? 0) & 0x7f,
      isMarked: ((data[1] ?? 0) & 0x80) !== 0,
      sequence: data.readUInt16BE(2),
      timestamp: data.readUInt32BE(4),
      ssrc: data.readUInt32BE(8),
      payload: data.subarray(12 + ((data[0] ?? 0) & 0x0f) * 4),
    });
  }
}

export function delay(delayMs: number): Promise<void> {
  return new Promise((done) => setTimeout(done, delayMs));
}
