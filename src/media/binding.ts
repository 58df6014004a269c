/**
 * The native border, seen from JavaScript: the types of the addon in `native/` and the only code
 * that loads it. Six verbs and one batch of event records; its twin is `native/binding.cc`.
 *
 * Not a policy: clips, ids and outcomes are the worker's (`worker.ts`), calls never come here.
 * Handles are an index and a generation packed into a double-safe integer, so that a stale one is
 * refused and never means somebody else's port.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { DTMF_KEYS } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';

export type Handle = number;

/** Our direction as the engine counts it, in the words of RFC 3264. */
export const DIRECTIONS = { sendrecv: 0, sendonly: 1, recvonly: 2, inactive: 3 } as const;
/**
 * Which sources besides the address in SDP may move the address we send to: the same IP from any
 * port, or anybody within a second of the settings. The address in SDP always may, and stays.
 */
export const LATCH = { off: 0, sameAddress: 1, anySource: 2 } as const;

export interface StartOptions {
  /** Priority of the audio thread under SCHED_FIFO; 0 leaves it an ordinary thread. */
  readonly realtimePriority: number;
  readonly address: string;
  readonly portMin: number;
  readonly portMax: number;
  readonly quarantineMs: number;
  /** Clips up to this size are kept in memory, larger ones are read block by block. */
  readonly clipPreloadBytesMax: number;
}

/** The whole of what a port is told; plain data, so that it can be journalled and replayed. */
export interface PortSettings {
  readonly remote: {
    readonly address: string;
    readonly port: number;
    readonly rtcpPort: number;
    readonly rtcpMux: boolean;
  } | null;
  /** `nativeId` of the row in `core/codec.ts`. */
  readonly codec: number;
  readonly payloadType: number;
  readonly receivePayloadType: number;
  readonly ptimeMs: number;
  readonly dtmf: {
    readonly payloadType: number;
    readonly receivePayloadType: number;
    readonly clockRateHz: number;
  } | null;
  readonly direction: number;
  readonly latch: number;
  readonly opus: {
    readonly bitrate: number;
    readonly complexity: number;
    readonly fec: boolean;
    readonly dtx: boolean;
  };
  readonly jitter: { readonly minMs: number; readonly maxMs: number };
  readonly silentTimeoutMs: number;
  readonly inbandDtmf: boolean;
  /**
   * Whether `remote` is known to be really there: it acknowledged our answer, or answered us. While
   * false it gets 20 packets in all, until RTP comes from it or these settings say otherwise: a
   * forged offer must not aim us at somebody. Absent: true.
   */
  readonly proven?: boolean;
}

export interface PortOptions {
  readonly address: string;
  readonly rtcpMux: boolean;
  readonly ssrc: number;
  readonly phase?: number;
  /** Exactly this even port, without its quarantine: a port of a dead worker is made again. */
  readonly rtpPort?: number;
}

export interface Tone {
  readonly hz: readonly number[];
  readonly onMs: number;
  readonly offMs: number;
  readonly levelDb: number;
  /** On/off periods; 0 for ever. */
  readonly count: number;
}

export interface PlayerOptions {
  readonly port: Handle;
  /** 0: `tone` or `digits` is played. */
  readonly clip: Handle;
  readonly tone?: Tone;
  /** 0-9 * # A-D; `w` waits 500 ms, `W` 1 s. */
  readonly digits?: string;
  /** 0 plays for ever. */
  readonly loop: number;
  readonly offsetMs: number;
}

export interface RecorderOptions {
  readonly port: Handle;
  readonly path: string;
  readonly channels: 1 | 2;
  /** `in` is what the port hears from its peer; with 2 channels: 1 is in, 2 is out. */
  readonly source: 'in' | 'out' | 'both';
  readonly sampleRateHz: 8000 | 16000;
  readonly maxMs: number;
  /** 0 switches the end by silence off. */
  readonly silenceMs: number;
  readonly trimSilence: boolean;
}

export interface PortStats {
  readonly packetsReceived: number;
  readonly bytesReceived: number;
  readonly packetsSent: number;
  readonly bytesSent: number;
  readonly packetsLost: number;
  readonly jitterMs: number;
  /** -1 while no report told it (RFC 3550 §6.4.1). */
  readonly roundTripMs: number;
  readonly remoteLossFraction: number;
  readonly lateDiscards: number;
  readonly concealedMs: number;
  readonly jitterBufferMs: number;
  readonly badPackets: number;
  readonly wrongSource: number;
  readonly mode: 'idle' | 'relay' | 'transcode' | 'local';
  readonly lastPacketAgoMs: number;
  readonly ssrcIn: number;
  readonly ssrcOut: number;
  readonly peerAddress: string;
}

/** `PortSettings` as they travel: see `packed.ts`. */
export type PackedSettings = readonly [
  remoteAddress: string | null,
  remotePort: number,
  remoteRtcpPort: number,
  remoteRtcpMux: boolean,
  codec: number,
  payloadType: number,
  receivePayloadType: number,
  ptimeMs: number,
  hasDtmf: boolean,
  dtmfPayloadType: number,
  dtmfReceivePayloadType: number,
  dtmfClockRateHz: number,
  direction: number,
  latch: number,
  opusBitrate: number,
  opusComplexity: number,
  opusFec: boolean,
  opusDtx: boolean,
  jitterMinMs: number,
  jitterMaxMs: number,
  silentTimeoutMs: number,
  inbandDtmf: boolean,
  proven: boolean,
];

/** `PortStats` as they travel. */
export type PackedStats = readonly [
  packetsReceived: number,
  bytesReceived: number,
  packetsSent: number,
  bytesSent: number,
  packetsLost: number,
  jitterMs: number,
  roundTripMs: number,
  remoteLossFraction: number,
  lateDiscards: number,
  concealedMs: number,
  jitterBufferMs: number,
  badPackets: number,
  wrongSource: number,
  mode: number,
  lastPacketAgoMs: number,
  ssrcIn: number,
  ssrcOut: number,
  peerAddress: string,
];

/** Of the whole engine; counters since its start. */
export interface EngineStats {
  readonly ports: number;
  /** Events nobody took in time; never digits or outcomes, which wait. */
  readonly eventsDropped: number;
  /** Ports used again before their quarantine was over, because all others were in use. */
  readonly earlyPortReuses: number;
}

export interface Started {
  readonly backend: 'epoll' | 'uring';
  /** How the audio thread is scheduled: `fifo` needs a privilege, `normal` has none. */
  readonly scheduling: 'fifo' | 'nice' | 'normal';
}

export interface MediaAddon {
  /** Once per process, before anything else. */
  start(options: StartOptions, onEvents: (batch: ArrayBuffer, count: number) => void): Started;
  create(
    kind: 'port',
    options: PortOptions,
  ): { readonly handle: Handle; readonly rtpPort: number; readonly rtcpPort: number };
  create(
    kind: 'clip',
    options: { readonly path: string },
  ): { readonly handle: Handle; readonly durationMs: number };
  create(kind: 'player', options: PlayerOptions): { readonly handle: Handle };
  create(kind: 'recorder', options: RecorderOptions): { readonly handle: Handle };
  set(port: Handle, settings: PackedSettings): void;
  set(recorder: Handle, settings: { readonly paused: boolean }): void;
  /** Bridges two ports; `b` 0 unbridges. */
  connect(a: Handle, b: Handle): void;
  ask(engine: 0): EngineStats;
  ask(port: Handle): PackedStats;
  close(handle: Handle): void;
}

export type PlayEnd = 'finished' | 'stopped' | 'failed';
export type RecordEnd = 'stopped' | 'maxMs' | 'silence' | 'failed' | 'portClosed';
export type DigitSource = 'rfc4733' | 'inband';

export type NativeEvent =
  | {
      readonly kind: 'digit';
      readonly handle: Handle;
      readonly key: string;
      readonly durationMs: number;
      readonly source: DigitSource;
    }
  | {
      readonly kind: 'playDone';
      readonly handle: Handle;
      readonly reason: PlayEnd;
      readonly playedMs: number;
    }
  | {
      readonly kind: 'recordDone';
      readonly handle: Handle;
      readonly reason: RecordEnd;
      readonly durationMs: number;
    }
  | { readonly kind: 'silent'; readonly handle: Handle; readonly silentMs: number }
  | { readonly kind: 'firstPacket' | 'active' | 'latched'; readonly handle: Handle };

/** u32 type, u32 reserved, f64 handle, f64 a, f64 b; little-endian. */
const RECORD_BYTES = 32;
const PLAY_ENDS: readonly PlayEnd[] = ['finished', 'stopped', 'failed'];
const RECORD_ENDS: readonly RecordEnd[] = ['stopped', 'maxMs', 'silence', 'failed', 'portClosed'];

/** The events of one batch, in order. Records of an unknown type are left out. */
export function decodeEvents(batch: ArrayBuffer, count: number): NativeEvent[] {
  const view = new DataView(batch);
  const events: NativeEvent[] = [];
  const end = Math.min(count * RECORD_BYTES, batch.byteLength - (batch.byteLength % RECORD_BYTES));
  for (let at = 0; at < end; at += RECORD_BYTES) {
    const event = decodeEvent(
      view.getUint32(at, true),
      view.getFloat64(at + 8, true),
      view.getFloat64(at + 16, true),
      view.getFloat64(at + 24, true),
    );
    if (event !== null) events.push(event);
  }
  return events;
}

function decodeEvent(type: number, handle: Handle, a: number, b: number): NativeEvent | null {
  switch (type) {
    case 1: {
      // The lowest bit tells where the key was heard, the rest is its length.
      const source: DigitSource = b % 2 === 1 ? 'inband' : 'rfc4733';
      return { kind: 'digit', handle, key: DTMF_KEYS[a] ?? '', durationMs: b >>> 1, source };
    }
    case 2:
      return { kind: 'playDone', handle, reason: PLAY_ENDS[a] ?? 'failed', playedMs: b };
    case 3:
      return { kind: 'recordDone', handle, reason: RECORD_ENDS[a] ?? 'failed', durationMs: b };
    case 4:
      return { kind: 'firstPacket', handle };
    case 5:
      return { kind: 'silent', handle, silentMs: a };
    case 6:
      return { kind: 'active', handle };
    case 7:
      return { kind: 'latched', handle };
    default:
      return null;
  }
}

export const ADDON_PATH = fileURLToPath(
  new URL('../../native/build/Release/tandem_media.node', import.meta.url),
);
const BUILD_COMMAND =
  'cmake -S native -B native/build -G Ninja -DCMAKE_BUILD_TYPE=Release && cmake --build native/build';

/** Loads the addon into this process; throws ADDON_MISSING with the command that builds it. */
export function loadAddon(path: string = ADDON_PATH): MediaAddon {
  try {
    return createRequire(import.meta.url)(path) as MediaAddon;
  } catch (thrown) {
    const why = thrown instanceof Error ? (thrown.message.split('\n')[0] ?? '') : String(thrown);
    const problem = `${why}; build it with: ${BUILD_COMMAND}`;
    throw new GatewayError('ADDON_MISSING', { problem }, { cause: thrown });
  }
}
