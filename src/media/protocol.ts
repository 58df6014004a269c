/**
 * What gateway and media worker say to each other: the verbs of the control protocol with their
 * arguments and answers, and the events. Plain data, no behaviour; how it travels is `socket.ts`,
 * who answers is `worker.ts`, who asks is `engine.ts`.
 */
import type {
  DigitSource,
  Handle,
  PackedSettings,
  PackedStats,
  PlayEnd,
  RecordEnd,
  RecorderOptions,
  Started,
  Tone,
} from './binding.ts';

/** Counted up when either end would misread the other; `hello` compares. */
export const PROTOCOL = 4;

/** What a port can be told to play. Plain data; travels through leg commands. */
export type PlaySource =
  | { readonly kind: 'file'; readonly path: string }
  | ({ readonly kind: 'tone' } & Tone)
  | { readonly kind: 'digits'; readonly digits: string }
  | { readonly kind: 'silence'; readonly durationMs: number };

export interface PlayRequest {
  readonly playId: string;
  readonly source: PlaySource;
  /** 0 plays for ever. */
  readonly loop: number;
}

export type RecordRequest = Omit<RecorderOptions, 'port'> & { readonly recordId: string };

export interface PlayDone {
  readonly kind: 'playDone';
  readonly playId: string;
  readonly reason: PlayEnd;
  readonly playedMs: number;
}

export interface RecordDone {
  readonly kind: 'recordDone';
  readonly recordId: string;
  readonly reason: RecordEnd;
  readonly durationMs: number;
}

export type PortEvent =
  | {
      readonly kind: 'digit';
      readonly key: string;
      readonly durationMs: number;
      readonly source: DigitSource;
    }
  | PlayDone
  | RecordDone
  | { readonly kind: 'silent'; readonly silentMs: number }
  | { readonly kind: 'firstPacket' | 'active' | 'latched' };

export interface PortEventMessage {
  readonly port: Handle;
  readonly event: PortEvent;
}

export interface HelloResult extends Started {
  readonly worker: number;
  readonly pid: number;
  readonly ports: number;
}

export interface PortMade {
  readonly handle: Handle;
  readonly rtpPort: number;
  readonly rtcpPort: number;
}

/** What a worker still knows of a port when a gateway takes it back. */
export interface Attached {
  readonly rtpPort: number;
  readonly rtcpPort: number;
  readonly ssrc: number;
  readonly settings: PackedSettings | null;
  readonly plays: readonly string[];
  readonly recordings: readonly string[];
  /** Happened while no gateway listened, in order. */
  readonly missed: readonly PortEvent[];
}

type OnPort = { readonly port: Handle };
interface Exchange<Args, Result> {
  readonly args: Args;
  readonly result: Result;
}
type Nothing = Readonly<Record<string, never>>;
/** What a verb answers that has nothing to tell but that it was done. */
export const DONE: Nothing = {};

/** Every verb of the protocol. `play` and `record` answer the outcome when the id is an old one. */
export interface ControlVerbs {
  hello: Exchange<{ readonly protocol: number; readonly outlive: boolean }, HelloResult>;
  ping: Exchange<Nothing, { readonly ports: number }>;
  createPort: Exchange<
    {
      readonly address: string;
      readonly rtcpMux: boolean;
      readonly ssrc: number;
      readonly rtpPort?: number;
      /** What the port is to speak, where that is known already: saves a `setPort`. */
      readonly settings?: PackedSettings;
    },
    PortMade
  >;
  /** One for each SSRC, as far as there are free ones. */
  createPorts: Exchange<
    { readonly address: string; readonly rtcpMux: boolean; readonly ssrcs: readonly number[] },
    { readonly ports: readonly (PortMade & { readonly ssrc: number })[] }
  >;
  setPort: Exchange<OnPort & { readonly settings: PackedSettings }, Nothing>;
  /** `peer` 0 unbridges. */
  connect: Exchange<OnPort & { readonly peer: Handle }, Nothing>;
  ask: Exchange<OnPort, PackedStats>;
  /** Answers the last figures of the port; null when there is no such port. */
  closePort: Exchange<OnPort, { readonly stats: PackedStats | null }>;
  play: Exchange<
    OnPort & { readonly play: PlayRequest; readonly offsetMs: number },
    { readonly outcome: PlayDone | null; readonly clipMs: number }
  >;
  stop: Exchange<OnPort & { readonly playId: string }, Nothing>;
  record: Exchange<
    OnPort & { readonly record: RecordRequest },
    { readonly outcome: RecordDone | null }
  >;
  stopRecord: Exchange<OnPort & { readonly recordId: string }, Nothing>;
  pauseRecord: Exchange<OnPort & { readonly recordId: string; readonly paused: boolean }, Nothing>;
  attach: Exchange<OnPort, Attached>;
  list: Exchange<Nothing, { readonly ports: readonly Handle[] }>;
  /** Closes all ports, finishes files, ends the process. */
  quit: Exchange<Nothing, Nothing>;
}
export type ControlVerb = keyof ControlVerbs;
export type Args<V extends ControlVerb> = ControlVerbs[V]['args'];
export type Result<V extends ControlVerb> = ControlVerbs[V]['result'];
export type ControlHandlers = { readonly [V in ControlVerb]: (args: Args<V>) => Result<V> };

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly message: string;
  readonly fields: Readonly<Record<string, string | number | boolean>>;
}
