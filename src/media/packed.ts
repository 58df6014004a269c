/**
 * Settings and figures of a port as arrays in a fixed order, as they travel to the addon and back:
 * every call has some of each, and names would be most of their cost on the socket and in the
 * addon. The worker passes both on as they are; the native twins are `read_settings`, which also
 * checks what it reads, and `tell` in `native/binding.cc`.
 */
import type { PackedSettings, PackedStats, PortSettings, PortStats } from './binding.ts';

const NO_REMOTE = { address: null, port: 0, rtcpPort: 0, rtcpMux: false };
const NO_DTMF = { payloadType: 0, receivePayloadType: 0, clockRateHz: 8000 };
const MODES: readonly PortStats['mode'][] = ['idle', 'relay', 'transcode', 'local'];

export function packSettings(settings: PortSettings): PackedSettings {
  const { opus, jitter } = settings;
  const remote = settings.remote ?? NO_REMOTE;
  const dtmf = settings.dtmf ?? NO_DTMF;
  return [
    remote.address,
    remote.port,
    remote.rtcpPort,
    remote.rtcpMux,
    settings.codec,
    settings.payloadType,
    settings.receivePayloadType,
    settings.ptimeMs,
    settings.dtmf !== null,
    dtmf.payloadType,
    dtmf.receivePayloadType,
    dtmf.clockRateHz,
    settings.direction,
    settings.latch,
    opus.bitrate,
    opus.complexity,
    opus.fec,
    opus.dtx,
    jitter.minMs,
    jitter.maxMs,
    settings.silentTimeoutMs,
    settings.inbandDtmf,
    settings.proven ?? true,
  ];
}

export function unpackSettings(packed: PackedSettings): PortSettings {
  const [address, port, rtcpPort, rtcpMux, codec, payloadType, receivePayloadType] = packed;
  const dtmf = {
    payloadType: packed[9],
    receivePayloadType: packed[10],
    clockRateHz: packed[11],
  };
  return {
    remote: address === null ? null : { address, port, rtcpPort, rtcpMux },
    codec,
    payloadType,
    receivePayloadType,
    ptimeMs: packed[7],
    dtmf: packed[8] ? dtmf : null,
    direction: packed[12],
    latch: packed[13],
    opus: { bitrate: packed[14], complexity: packed[15], fec: packed[16], dtx: packed[17] },
    jitter: { minMs: packed[18], maxMs: packed[19] },
    silentTimeoutMs: packed[20],
    inbandDtmf: packed[21],
    proven: packed[22],
  };
}

export function unpackStats(packed: PackedStats): PortStats {
  return {
    packetsReceived: packed[0],
    bytesReceived: packed[1],
    packetsSent: packed[2],
    bytesSent: packed[3],
    packetsLost: packed[4],
    jitterMs: packed[5],
    roundTripMs: packed[6],
    remoteLossFraction: packed[7],
    lateDiscards: packed[8],
    concealedMs: packed[9],
    jitterBufferMs: packed[10],
    badPackets: packed[11],
    wrongSource: packed[12],
    mode: MODES[packed[13]] ?? 'idle',
    lastPacketAgoMs: packed[14],
    ssrcIn: packed[15],
    ssrcOut: packed[16],
    peerAddress: packed[17],
  };
}
