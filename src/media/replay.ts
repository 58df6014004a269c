/**
 * What a port remembers of its plays and recordings so that another worker can go on with them, and
 * what of a play is left then. Values only: who tells the worker is `port.ts`.
 */
import type { PlayRequest, RecordRequest } from './protocol.ts';
import type { RecordingPart } from './splice.ts';

export interface Playing {
  readonly request: PlayRequest;
  startedMs: number;
  /** Heard before the present worker took over. */
  heardMs: number;
  clipMs: number;
  isStopping: boolean;
}

export interface Recording {
  readonly request: RecordRequest;
  readonly startedMs: number;
  isPaused: boolean;
  /** What was recorded after each death of a worker. */
  readonly parts: RecordingPart[];
}

/** What of a play is still to be heard after `heardMs`; null for what must not be heard twice. */
export function remaining(playing: Playing): { play: PlayRequest; offsetMs: number } | null {
  const { request, heardMs, clipMs } = playing;
  const { source, loop } = request;
  if (source.kind === 'digits') return null;
  if (source.kind === 'silence') {
    if (loop === 0) return { play: request, offsetMs: 0 };
    const durationMs = Math.max(0, source.durationMs * loop - heardMs);
    return { play: { ...request, source: { ...source, durationMs }, loop: 1 }, offsetMs: 0 };
  }
  if (source.kind === 'tone' || clipMs === 0) return { play: request, offsetMs: 0 };
  const loopsHeard = Math.floor(heardMs / clipMs);
  if (loop === 0) return { play: request, offsetMs: heardMs % clipMs };
  // Heard to its end, only the word of it was lost: from the end on.
  if (loopsHeard >= loop) return { play: { ...request, loop: 1 }, offsetMs: clipMs };
  return { play: { ...request, loop: loop - loopsHeard }, offsetMs: heardMs % clipMs };
}
