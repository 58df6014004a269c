/**
 * A bounded RTP load with real speech: each leg sends a packet every 20 ms from its own socket and
 * counts what comes back in its own codec. Runs beside the relay under test, in this process, so
 * only the relay's own CPU time is ever quoted.
 */
import { createSocket, type Socket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { readRtp } from '../test/support/capture.ts';
import { sleepMs } from './measure.ts';

export interface LoadLeg {
  readonly port: number;
  /** Where this leg sends to, once known. */
  target: number;
  /** Sent and expected; the relay may number a dynamic one itself, before the load starts. */
  payloadType: number;
  readonly payloads: readonly Uint8Array[];
  readonly clockStep: number;
  sent: number;
  received: number;
  /** Sequence numbers between the first and the last received. */
  expected: number;
  /** Packets in another codec than this leg's: not relayed as it should be. */
  foreign: number;
  /** Of the received ones, those that hold more than silence. */
  sounding: number;
  readonly isSound: (packet: Uint8Array) => boolean;
}

export type LegShape = Pick<LoadLeg, 'payloadType' | 'payloads' | 'clockStep' | 'isSound'>;

interface Running extends LoadLeg {
  readonly socket: Socket;
  readonly ssrc: number;
  next: number;
  highest: number;
}

const STEPS = 20;
const STEP_MS = 1;
const HEADER_BYTES = 12;
/** An Opus packet of silence has one or two bytes of payload (RFC 6716 §2.1.9), speech many. */
const OPUS_SPEECH_BYTES_MIN = 20;

/** PCMU that leaves the lowest segment somewhere, looked at every 20 samples. */
export function isUlawSound(packet: Uint8Array): boolean {
  if (packet.length !== HEADER_BYTES + 160) return false;
  for (let at = HEADER_BYTES; at < packet.length; at += 20) {
    if (((packet[at] ?? 0xff) & 0x70) !== 0x70) return true;
  }
  return false;
}

export function isOpusSound(packet: Uint8Array): boolean {
  return packet.length >= HEADER_BYTES + OPUS_SPEECH_BYTES_MIN;
}

/** Speech as 20 ms PCMU payloads. */
export function ulawPayloads(file: string): Uint8Array[] {
  const data = readFileSync(file);
  const count = Math.floor(data.length / 160);
  return Array.from({ length: count }, (_, index) => data.subarray(index * 160, index * 160 + 160));
}

/** The payloads of a captured stream: real Opus packets, for instance. */
export function capturedPayloads(file: string, port: number): Uint8Array[] {
  return readRtp(readFileSync(file), port).map((packet) => packet.payload);
}

export class RtpLoad {
  readonly #legs: Running[] = [];
  #isRunning = false;
  #done: Promise<void> = Promise.resolve();

  async addLeg(shape: LegShape): Promise<LoadLeg> {
    const socket = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
    await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
    const leg: Running = {
      ...shape,
      socket,
      port: (socket.address() as AddressInfo).port,
      target: 0,
      sent: 0,
      received: 0,
      foreign: 0,
      sounding: 0,
      ssrc: 0x1000 + this.#legs.length,
      expected: 0,
      highest: 0,
      next: (this.#legs.length * 7) % shape.payloads.length,
    };
    socket.on('message', (packet) => receive(leg, packet));
    this.#legs.push(leg);
    return leg;
  }

  get legs(): readonly LoadLeg[] {
    return this.#legs;
  }

  /** Sends until `stop`. Legs are spread over the 20 ms, as real phones are. */
  start(): void {
    this.#isRunning = true;
    this.#done = this.#send();
  }

  /** Resolves when what was under way has come back. */
  async stop(): Promise<void> {
    this.#isRunning = false;
    await this.#done;
    await sleepMs(300);
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#legs.map((leg) => new Promise<void>((resolve) => leg.socket.close(() => resolve()))),
    );
  }

  async #send(): Promise<void> {
    const startMs = performance.now();
    for (let step = 0; this.#isRunning; step++) {
      for (let index = step % STEPS; index < this.#legs.length; index += STEPS) {
        const leg = this.#legs[index];
        if (leg) send(leg);
      }
      const aheadMs = startMs + (step + 1) * STEP_MS - performance.now();
      if (aheadMs > 0) await sleepMs(aheadMs);
    }
  }
}

function receive(leg: Running, packet: Buffer): void {
  const type = packet[1] ?? 0;
  // RTCP shares the port here (RFC 5761 §4).
  if (type >= 192 && type <= 223) return;
  if ((type & 0x7f) !== leg.payloadType) {
    leg.foreign += 1;
    return;
  }
  const sequence = packet.readUInt16BE(2);
  const step = leg.received === 0 ? 1 : ((sequence - leg.highest) << 16) >> 16;
  if (step > 0) {
    leg.expected += step;
    leg.highest = sequence;
  }
  leg.received += 1;
  if (leg.isSound(packet)) leg.sounding += 1;
}

function send(leg: Running): void {
  const payload = leg.payloads[leg.next] ?? new Uint8Array();
  const packet = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  packet[0] = 0x80;
  packet[1] = leg.payloadType | (leg.sent === 0 ? 0x80 : 0);
  packet.writeUInt16BE(leg.sent & 0xffff, 2);
  packet.writeUInt32BE((leg.sent * leg.clockStep) >>> 0, 4);
  packet.writeUInt32BE(leg.ssrc, 8);
  packet.set(payload, HEADER_BYTES);
  leg.socket.send(packet, leg.target, '127.0.0.1');
  leg.sent += 1;
  leg.next = (leg.next + 1) % leg.payloads.length;
}
