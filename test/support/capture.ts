/**
 * What really went over the wire: tcpdump on loopback, and the RTP of one direction out of it.
 * For peers such as SIPp that cannot keep what they hear. Needs root.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeUlaw, type Sound } from './sound.ts';

export function canCapture(): boolean {
  return existsSync('/usr/bin/tcpdump') && process.getuid?.() === 0;
}

export interface RtpPacket {
  readonly type: number;
  readonly marker: boolean;
  readonly sequence: number;
  readonly timestamp: number;
  readonly ssrc: number;
  readonly payload: Buffer;
  /** Seconds since the epoch. */
  readonly at: number;
}

export interface Capture {
  /** Ends the capture and reads the RTP that went to `port`. */
  rtpTo(port: number): Promise<RtpPacket[]>;
}

/** Captures UDP to and from `port` on loopback. Resolves when the capture runs. */
export async function capture(port: number): Promise<Capture> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-capture-'));
  const file = join(folder, 'rtp.pcap');
  const child: ChildProcess = spawn(
    '/usr/bin/tcpdump',
    [
      '-i',
      'lo',
      '-U',
      '-n',
      '-s',
      '0',
      '-B',
      '8192',
      '-Z',
      'root',
      '-w',
      file,
      'udp',
      'port',
      String(port),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  await new Promise<void>((resolve) => {
    child.stderr?.on('data', (text) => {
      if (String(text).includes('listening')) resolve();
    });
  });
  return {
    rtpTo: async (to) => {
      child.kill('SIGINT');
      await gone;
      const packets = readRtp(readFileSync(file), to);
      rmSync(folder, { recursive: true, force: true });
      return packets;
    },
  };
}

/** RTP version 2 packets to a UDP port, in order of arrival, from a little-endian pcap. */
export function readRtp(pcap: Buffer, port: number): RtpPacket[] {
  const isNano = pcap.readUInt32LE(0) === 0xa1b23c4d;
  const linkBytes = pcap.readUInt32LE(20) === 1 ? 14 : 4;
  const packets: RtpPacket[] = [];
  for (let at = 24; at + 16 <= pcap.length; ) {
    const seconds = pcap.readUInt32LE(at) + pcap.readUInt32LE(at + 4) / (isNano ? 1e9 : 1e6);
    const size = pcap.readUInt32LE(at + 8);
    const packet = rtpOf(pcap.subarray(at + 16 + linkBytes, at + 16 + size), port, seconds);
    if (packet) packets.push(packet);
    at += 16 + size;
  }
  return packets;
}

function rtpOf(ip: Buffer, port: number, at: number): RtpPacket | null {
  if ((ip[0] ?? 0) >> 4 !== 4 || ip[9] !== 17) return null;
  const udp = ip.subarray(((ip[0] ?? 0) & 15) * 4);
  if (udp.length < 20 || udp.readUInt16BE(2) !== port) return null;
  const rtp = udp.subarray(8);
  const type = (rtp[1] ?? 0) & 0x7f;
  if ((rtp[0] ?? 0) >> 6 !== 2 || (type >= 72 && type <= 76)) return null;
  return {
    type,
    marker: ((rtp[1] ?? 0) & 0x80) !== 0,
    sequence: rtp.readUInt16BE(2),
    timestamp: rtp.readUInt32BE(4),
    ssrc: rtp.readUInt32BE(8),
    payload: rtp.subarray(12 + ((rtp[0] ?? 0) & 15) * 4),
    at,
  };
}

/** The PCMU packets as one sound, placed by timestamp of the first SSRC seen. */
export function soundOf(packets: readonly RtpPacket[]): Sound {
  const ulaw = packets.filter((packet) => packet.type === 0 && packet.ssrc === packets[0]?.ssrc);
  const first = ulaw[0]?.timestamp ?? 0;
  const last = ulaw.at(-1);
  if (!last) return { rateHz: 8000, samples: new Float64Array() };
  const length = ((last.timestamp - first) >>> 0) + last.payload.length;
  const samples = new Float64Array(Math.min(length, 8000 * 600));
  for (const packet of ulaw) {
    const offset = (packet.timestamp - first) >>> 0;
    if (offset + packet.payload.length <= samples.length)
      samples.set(decodeUlaw(packet.payload), offset);
  }
  return { rateHz: 8000, samples };
}
