/**
 * The book of recordings: a row in the store for each, and where its audio lies. Verbs begin and
 * finish entries by sid, twice if they must; files are `assets/recordings`'.
 */
import type { Recordings as RecordingFiles } from '../assets/recordings.ts';
import type { Clock } from '../core/clock.ts';
import type { RecordingSid } from '../core/sid.ts';
import type { RecordingRow, Store } from '../store/store.ts';
import type { RecordingEnd, RecordingStart, Recordings } from './verb.ts';

export interface RecordingBookOptions {
  readonly clock: Clock;
  readonly store: Store;
  readonly files: RecordingFiles;
  /** Base of the URLs told to applications, without a slash at the end. */
  readonly publicUrl: string;
  /** Recordings under way that are remembered; the store has the rest. */
  readonly openMax: number;
}

export const DEFAULT_RECORDING_BOOK = { openMax: 20_000 } as const;

export class RecordingBook implements Recordings {
  readonly #options: RecordingBookOptions;
  readonly #open = new Map<RecordingSid, RecordingRow>();

  constructor(options: RecordingBookOptions) {
    this.#options = options;
  }

  async begin(start: RecordingStart): Promise<{ readonly path: string; readonly url: string }> {
    const { clock, store, files, publicUrl, openMax } = this.#options;
    const { accountSid } = start.call;
    const path = files.path(accountSid, start.sid);
    const url = `${publicUrl}/2010-04-01/Accounts/${accountSid}/Recordings/${start.sid}`;
    if (this.#open.has(start.sid)) return { path, url };
    await files.begin(accountSid, start.sid);
    const nowMs = clock.nowMs();
    const row: RecordingRow = {
      sid: start.sid,
      accountSid,
      callSid: start.call.sid,
      status: 'in-progress',
      source: start.source,
      track: start.track,
      channels: start.channels,
      startMs: start.startedAtMs,
      durationS: null,
      errorCode: null,
      path,
      dateCreatedMs: nowMs,
      dateUpdatedMs: nowMs,
    };
    if (this.#open.size >= openMax) this.#forgetOldest();
    this.#open.set(start.sid, row);
    store.recordings.put(row);
    return { path, url };
  }

  finish(end: RecordingEnd): void {
    const row = this.#open.get(end.sid);
    if (!row) return;
    this.#open.delete(end.sid);
    this.#options.store.recordings.put({
      ...row,
      status: end.status,
      durationS: Math.round(end.durationMs / 1000),
      dateUpdatedMs: this.#options.clock.nowMs(),
    });
  }

  #forgetOldest(): void {
    const [oldest] = this.#open.keys();
    if (oldest !== undefined) this.#open.delete(oldest);
  }
}
