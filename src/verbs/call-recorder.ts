/**
 * Records a whole call from its answer to its end, as REST's `Record` asks for a call it creates.
 * What documents record is theirs (`record.ts`, `dial.ts`).
 *
 * The recording's sid is made of the call's, so beginning it twice is beginning it once.
 */
import type { Call } from '../call/call.ts';
import type { LegEvent } from '../call/leg.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { sidOf } from './flow.ts';
import { type RecordingNotices, recordingParameters } from './recording.ts';
import type { StatusCallbacks } from './status-callbacks.ts';
import type { RecordingEnd, RecordingStart, Recordings } from './verb.ts';

export interface CallRecording {
  readonly channels: 1 | 2;
  readonly track: RecordingStart['track'];
  readonly trimSilence: boolean;
  readonly callback: (RecordingNotices & { readonly url: string }) | null;
}

export interface CallRecorderParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly recordings: Recordings;
  readonly status: StatusCallbacks;
  /** Longest recording; the call's own limit usually ends it before. */
  readonly durationMsMax: number;
}

export const DEFAULT_CALL_RECORDER = { durationMsMax: 14_400_000 } as const;

const SOURCE = { inbound: 'in', outbound: 'out', both: 'both' } as const;

interface Open {
  readonly start: RecordingStart;
  readonly url: string;
}

export class CallRecorder {
  readonly #parts: CallRecorderParts;

  constructor(parts: CallRecorderParts) {
    this.#parts = parts;
  }

  /** Waits for the answer, if it has not come, and records. Never throws. */
  record(call: Call, wanted: CallRecording): void {
    let open: Open | null = null;
    const onLeg = (event: LegEvent): void => {
      if (event.kind === 'answered') {
        this.#begin(call, wanted).then(
          (begun) => {
            open = begun;
          },
          (thrown) => this.#failed(call, thrown),
        );
      } else if (event.kind === 'recordDone' && event.recordId === open?.start.sid) {
        call.off('leg', onLeg);
        this.#end(call, wanted, open, {
          status:
            event.reason === 'failed' ? 'failed' : event.durationMs > 0 ? 'completed' : 'absent',
          durationMs: event.durationMs,
        });
      }
    };
    call.on('leg', onLeg);
  }

  async #begin(call: Call, wanted: CallRecording): Promise<Open> {
    const { clock, recordings, durationMsMax } = this.#parts;
    const { channels, track } = wanted;
    const start: RecordingStart = {
      sid: sidOf('RE', call.sid, 'rest'),
      call: call.record,
      source: 'OutboundAPI',
      channels,
      track,
      startedAtMs: clock.nowMs(),
    };
    const { path, url } = await recordings.begin(start);
    call.act({
      kind: 'record',
      recordId: start.sid,
      path,
      channels,
      source: SOURCE[track],
      sampleRateHz: 8000,
      maxMs: durationMsMax,
      silenceMs: 0,
      trimSilence: wanted.trimSilence,
    });
    const open = { start, url };
    this.#tell(call, wanted, open, { status: 'in-progress', durationMs: 0 });
    return open;
  }

  #end(call: Call, wanted: CallRecording, open: Open, end: Omit<RecordingEnd, 'sid'>): void {
    this.#parts.recordings.finish({ sid: open.start.sid, ...end });
    this.#tell(call, wanted, open, end);
  }

  #tell(
    call: Call,
    wanted: CallRecording,
    open: Open,
    news: { readonly status: RecordingEnd['status'] | 'in-progress'; readonly durationMs: number },
  ): void {
    const { callback } = wanted;
    const event = news.status === 'failed' ? 'completed' : news.status;
    if (callback === null || !callback.events.includes(event)) return;
    this.#parts.status.notify(call.record, {
      url: callback.url,
      method: callback.method,
      params: recordingParameters({ ...open.start, url: open.url }, news),
    });
  }

  #failed(call: Call, thrown: Error): void {
    const error = asGatewayError(thrown);
    call.note('call', 'recording failed', error.code);
    this.#parts.log.warn({ callSid: call.sid, code: error.code }, 'recording not begun');
  }
}
