/**
 * What `<Record>` and `<Dial record>` share: the attributes that ask to be told about a recording,
 * and the telling. Where audio goes and what is kept about it is behind `Recordings`.
 */
import type { RecordingSid } from '../core/sid.ts';
import { rfc2822, seconds } from './parameters.ts';
import { method, oneOf, someOf, url } from './schema.ts';
import type { RecordingEnd, RecordingStart, VerbContext } from './verb.ts';

export const RECORDING_ATTRIBUTES = {
  recordingStatusCallback: url(),
  recordingStatusCallbackMethod: method(),
  recordingStatusCallbackEvent: someOf(['in-progress', 'completed', 'absent'], {
    absent: ['completed'],
  }),
};

export function trim(absent: 'trim-silence' | 'do-not-trim') {
  return oneOf(['trim-silence', 'do-not-trim'], { absent });
}

/** Who is told about a recording, and when. */
export interface RecordingNotices {
  readonly url: string | null;
  readonly method: 'GET' | 'POST';
  readonly events: readonly ('in-progress' | 'completed' | 'absent')[];
}

export function recordingNotices(values: {
  readonly recordingStatusCallback: string | null;
  readonly recordingStatusCallbackMethod: 'GET' | 'POST';
  readonly recordingStatusCallbackEvent: RecordingNotices['events'];
}): RecordingNotices {
  return {
    url: values.recordingStatusCallback,
    method: values.recordingStatusCallbackMethod,
    events: values.recordingStatusCallbackEvent,
  };
}

/** A recording that was begun: enough to tell about it and to end it. */
export interface OpenRecording {
  readonly sid: RecordingSid;
  readonly url: string;
  readonly source: RecordingStart['source'];
  readonly channels: 1 | 2;
  readonly track: RecordingStart['track'];
  readonly startedAtMs: number;
}

export function recordingBegan(
  open: OpenRecording,
  notices: RecordingNotices,
  context: VerbContext,
): void {
  tell(open, notices, context, { status: 'in-progress', durationMs: 0 });
}

/** Closes the book on it and says so. */
export function recordingEnded(
  open: OpenRecording,
  notices: RecordingNotices,
  context: VerbContext,
  end: Omit<RecordingEnd, 'sid'>,
): void {
  context.recordings.finish({ sid: open.sid, ...end });
  tell(open, notices, context, end);
}

function tell(
  open: OpenRecording,
  notices: RecordingNotices,
  context: VerbContext,
  news: {
    readonly status: RecordingEnd['status'] | 'in-progress';
    readonly durationMs: number;
  },
): void {
  // Who wants to hear of the end wants to hear of a bad end too.
  const event = news.status === 'failed' ? 'completed' : news.status;
  if (notices.url === null || !notices.events.includes(event)) return;
  context.notify({
    url: notices.url,
    method: notices.method,
    params: recordingParameters(open, news),
  });
}

export function recordingParameters(
  open: OpenRecording,
  news: { readonly status: RecordingEnd['status'] | 'in-progress'; readonly durationMs: number },
): Record<string, string> {
  return {
    RecordingSid: open.sid,
    RecordingUrl: open.url,
    RecordingStatus: news.status,
    RecordingDuration: seconds(news.durationMs),
    RecordingChannels: String(open.channels),
    RecordingStartTime: rfc2822(open.startedAtMs),
    RecordingSource: open.source,
    RecordingTrack: open.track,
    ...(news.status === 'absent' ? { ErrorCode: '16101' } : {}),
  };
}
