/**
 * A port as plain data: its name, what it takes to make it again, the events it tells. The port
 * itself is `port.ts`.
 */
import type { DigitSource, Handle, PlayEnd, PortSettings, RecordEnd } from './binding.ts';

/** Names a port; plain data, goes through messages. Old names of a moved port stay good. */
export interface PortRef {
  readonly worker: number;
  readonly handle: Handle;
}

/** All that is needed to take a port back, or to make it again. */
export interface PortRecord {
  readonly ref: PortRef;
  readonly address: string;
  readonly rtcpMux: boolean;
  readonly rtpPort: number;
  readonly rtcpPort: number;
  readonly ssrc: number;
  readonly settings: PortSettings | null;
  readonly peer: PortRef | null;
  /** Ports of one group are made in one worker; '' belongs to none. */
  readonly group?: string;
}

export interface PortEvents {
  digit: [{ key: string; durationMs: number; source: DigitSource }];
  playDone: [{ playId: string; reason: PlayEnd; playedMs: number }];
  recordDone: [{ recordId: string; reason: RecordEnd; durationMs: number }];
  firstPacket: [];
  /** The address we send to was learnt from what arrived. */
  latched: [];
  silent: [{ silentMs: number }];
  active: [];
  /** Its worker died; the same UDP port lives in another one under a new name. */
  moved: [{ ref: PortRef }];
  /** Its worker died and the port could not be made again. The last event. */
  lost: [];
}
