/**
 * `<Record>`: a beep, then what the caller says until a key, silence, the longest allowed time or
 * the end of the call; then the app is told where it is. Who said nothing at all is not told
 * about: the next verb runs. Transcription is not available here.
 */
import { Interruption, sidOf } from './flow.ts';
import { isPlayed, playIdOf, stop } from './output.ts';
import { seconds } from './parameters.ts';
import {
  type OpenRecording,
  RECORDING_ATTRIBUTES,
  type RecordingNotices,
  recordingBegan,
  recordingEnded,
  recordingNotices,
  trim,
} from './recording.ts';
import { flag, matching, method, url, whole, withoutEffect } from './schema.ts';
import { NEXT, type Outcome, type VerbContext, type VerbRow, verb } from './verb.ts';

const ATTRIBUTES = {
  action: url(),
  method: method('POST', 13612),
  timeout: whole({ absent: 5, min: 0, max: 3600, number: 13613 }),
  finishOnKey: matching(/^[0-9#*]{0,12}$/, 'keys 0-9 # *', {
    absent: '1234567890*#',
    number: 13614,
  }),
  maxLength: whole({ absent: 3600, min: 1, max: 14_400, number: 13615 }),
  playBeep: flag({ absent: true, number: 13616 }),
  trim: trim('trim-silence'),
  ...RECORDING_ATTRIBUTES,
  transcribe: flag({ absent: false, number: 13617 }),
  transcribeCallback: url(),
  recordingConfigurationId: withoutEffect(),
};

/** What every answering machine sounds like. */
const BEEP = { hz: [1000], onMs: 400, offMs: 0, levelDb: -12, count: 1 };

interface Take {
  readonly action: string | null;
  readonly method: 'GET' | 'POST';
  readonly silenceMs: number;
  readonly maxMs: number;
  readonly finishOnKey: string;
  readonly hasBeep: boolean;
  readonly trimSilence: boolean;
  readonly notices: RecordingNotices;
}

interface RecordState {
  /** Null while it beeps. */
  readonly open: OpenRecording | null;
  /** The key that ended it. */
  readonly key: string;
}

interface Captured {
  readonly durationMs: number;
  readonly isFailed: boolean;
  /** The key, `hangup`, or '' when it ended by silence or length. */
  readonly by: string;
}

const ROW: VerbRow<typeof ATTRIBUTES, Take, RecordState> = {
  name: 'Record',
  doc: 'records the caller, then asks `action`',
  attributes: ATTRIBUTES,
  children: [],
  hasText: false,
  read(values, { element, reader }) {
    if (values.transcribe || values.transcribeCallback !== null) {
      reader.warn(element, 12200, '<Record transcribe>: there is no transcription here');
    }
    return {
      action: values.action,
      method: values.method,
      silenceMs: values.timeout * 1000,
      maxMs: values.maxLength * 1000,
      finishOnKey: values.finishOnKey,
      hasBeep: values.playBeep,
      trimSilence: values.trim === 'trim-silence',
      notices: recordingNotices(values),
    };
  },
  async run(take, context) {
    // Before anything is said: who has nowhere to send it must not leave a message.
    const action = context.resolve(take.action);
    if (context.state === null) context.save({ open: null, key: '' });
    if (context.state?.open === null && take.hasBeep) await beep(context);
    const open = await begin(take, context);
    const captured = await capture(take, open, context);
    return end(take, open, captured, action, context);
  },
  async interrupt(take, context) {
    const open = context.state?.open ?? null;
    if (open === null) {
      stop(context, 'beep');
      return;
    }
    context.send('stop', { kind: 'stopRecord', recordId: open.sid });
    const { durationMs, isFailed } = await ending(open, take, context, '');
    close(take, open, { durationMs, isFailed, by: '' }, context);
  },
};

export const RECORD = verb(ROW);

async function beep(context: VerbContext<RecordState>): Promise<void> {
  const playId = playIdOf(context, 'beep');
  context.send('beep', { kind: 'play', playId, source: { kind: 'tone', ...BEEP }, loop: 1 });
  for (;;) {
    const event = await context.next();
    if (event !== null && isPlayed(event, context, 'beep')) return;
  }
}

/** The same after a rebuild: sid, path and command are what they were. */
async function begin(take: Take, context: VerbContext<RecordState>): Promise<OpenRecording> {
  const known = context.state?.open ?? null;
  const sid = known?.sid ?? sidOf('RE', context.call.sid, context.id);
  const startedAtMs = known?.startedAtMs ?? context.nowMs();
  const shape = { source: 'RecordVerb', channels: 1, track: 'inbound', startedAtMs } as const;
  const { path, url } = await context.recordings.begin({ sid, call: context.call, ...shape });
  const open = known ?? { sid, url, ...shape };
  if (known === null) {
    context.save({ open, key: '' });
    recordingBegan(open, take.notices, context);
  }
  context.send('record', {
    kind: 'record',
    recordId: sid,
    path,
    channels: 1,
    source: 'in',
    sampleRateHz: 8000,
    maxMs: take.maxMs,
    silenceMs: take.silenceMs,
    trimSilence: take.trimSilence,
  });
  return open;
}

async function capture(
  take: Take,
  open: OpenRecording,
  context: VerbContext<RecordState>,
): Promise<Captured> {
  try {
    for (let key = context.state?.key ?? ''; ; ) {
      if (key !== '') {
        context.send('stop', { kind: 'stopRecord', recordId: open.sid });
        return await ending(open, take, context, key);
      }
      // The recorder keeps the length itself; this is for one that never answers.
      const lateMs = open.startedAtMs + take.maxMs + context.options.recordEndMsMax;
      const event = await context.next(lateMs);
      if (event === null) return unheard(open, take, context, '');
      if (event.kind === 'recordDone' && event.recordId === open.sid) return captured(event, '');
      if (event.kind === 'commandFailed' && event.id === `${context.id}.record`) {
        return { durationMs: 0, isFailed: true, by: '' };
      }
      if (event.kind === 'digit' && take.finishOnKey.includes(event.key)) {
        key = event.key;
        context.save({ open, key });
      }
    }
  } catch (thrown) {
    if (!(thrown instanceof Interruption) || thrown.why !== 'ended') throw thrown;
    return unheard(open, take, context, 'hangup');
  }
}

/** Waits for the recorder's last word after it was told to stop. */
async function ending(
  open: OpenRecording,
  take: Take,
  context: VerbContext<RecordState>,
  by: string,
): Promise<Captured> {
  const untilMs = context.nowMs() + context.options.recordEndMsMax;
  try {
    for (;;) {
      const event = await context.next(untilMs);
      if (event === null) break;
      if (event.kind === 'recordDone' && event.recordId === open.sid) return captured(event, by);
    }
  } catch (thrown) {
    if (!(thrown instanceof Interruption) || thrown.why !== 'ended') throw thrown;
  }
  return unheard(open, take, context, by);
}

function captured(
  event: { readonly reason: string; readonly durationMs: number },
  by: string,
): Captured {
  return {
    durationMs: event.durationMs,
    isFailed: event.reason === 'failed',
    by: event.reason === 'portClosed' ? 'hangup' : by,
  };
}

/** The recorder said nothing: what it must have by the clock (its file is valid at any time). */
function unheard(
  open: OpenRecording,
  take: Take,
  context: VerbContext<RecordState>,
  by: string,
): Captured {
  const durationMs = Math.min(take.maxMs, Math.max(0, context.nowMs() - open.startedAtMs));
  return { durationMs, isFailed: false, by };
}

function end(
  take: Take,
  open: OpenRecording,
  captured: Captured,
  action: string,
  context: VerbContext<RecordState>,
): Outcome {
  close(take, open, captured, context);
  // Nothing was said: the app is not asked, unless it is to learn that the caller is gone.
  if (captured.durationMs === 0 && captured.by !== 'hangup') return NEXT;
  return {
    kind: 'document',
    url: action,
    method: take.method,
    params: {
      RecordingUrl: open.url,
      RecordingSid: open.sid,
      RecordingDuration: seconds(captured.durationMs),
      Digits: captured.by,
    },
  };
}

function close(
  take: Take,
  open: OpenRecording,
  { durationMs, isFailed }: Captured,
  context: VerbContext<RecordState>,
): void {
  const status = isFailed ? 'failed' : durationMs === 0 ? 'absent' : 'completed';
  recordingEnded(open, take.notices, context, { status, durationMs });
}
