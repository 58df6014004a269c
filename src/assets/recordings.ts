/**
 * Where recordings lie and what they are: `recordings/<account>/<sid>.wav`, written by the media
 * engine, and an MP3 rendition made when somebody asks for it. Sids are checked before they become
 * a path, so nothing outside the folder can be named; the account is part of every path, so no
 * account reads another's.
 *
 * Not the rows (status, source, call): those are the store's.
 */
import { mkdir, open, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid, RecordingSid } from '../core/sid.ts';
import { isSid } from '../core/sid.ts';
import type { Transcoder } from './transcoder.ts';

export interface RecordingsOptions {
  /** Room that must be left on the disk for a new recording to begin. */
  readonly freeBytesMin: number;
}

export const DEFAULT_RECORDINGS_OPTIONS: RecordingsOptions = { freeBytesMin: 268_435_456 };

export interface RecordingInfo {
  readonly path: string;
  readonly bytes: number;
  readonly durationMs: number;
  readonly channels: 1 | 2;
  readonly sampleRateHz: number;
}

export interface RecordingsParts {
  /** `data.dir/recordings` */
  readonly directory: string;
  readonly transcoder: Transcoder;
  readonly options: RecordingsOptions;
}

export class Recordings {
  readonly #parts: RecordingsParts;
  readonly #renditions = new Map<string, Promise<string>>();

  constructor(parts: RecordingsParts) {
    this.#parts = parts;
  }

  /** Where the engine shall write. Throws REST_NOT_FOUND for what is no sid. */
  path(account: AccountSid, recording: RecordingSid): string {
    return `${this.#stem(account, recording)}.wav`;
  }

  /** The path of a new recording, its folder made. Throws DISK_FULL when little room is left. */
  async begin(account: AccountSid, recording: RecordingSid): Promise<string> {
    const path = this.path(account, recording);
    await mkdir(join(this.#parts.directory, account), { recursive: true, mode: 0o700 });
    const { bavail, bsize } = await statfs(this.#parts.directory);
    if (bavail * bsize < this.#parts.options.freeBytesMin) {
      throw new GatewayError('DISK_FULL', { path });
    }
    return path;
  }

  /** Null when there is no such file. A file under way counts as far as it is written. */
  async info(account: AccountSid, recording: RecordingSid): Promise<RecordingInfo | null> {
    const path = this.path(account, recording);
    const file = await open(path, 'r').catch(absent);
    if (file === null) return null;
    try {
      const { size: bytes } = await file.stat();
      const head = Buffer.alloc(HEADER_BYTES_MAX);
      const { bytesRead } = await file.read(head, 0, HEADER_BYTES_MAX, 0);
      return { path, bytes, ...measure(head.subarray(0, bytesRead), bytes) };
    } finally {
      await file.close();
    }
  }

  /** Path of the MP3, made on first demand and again when the WAV is newer. Null as in `info`. */
  async mp3(account: AccountSid, recording: RecordingSid): Promise<string | null> {
    const info = await this.info(account, recording);
    if (info === null) return null;
    const output = `${this.#stem(account, recording)}.mp3`;
    const under = this.#renditions.get(output);
    if (under !== undefined) return under;
    const made = this.#render(info, output).finally(() => this.#renditions.delete(output));
    this.#renditions.set(output, made);
    return made;
  }

  /** True when there was a file. */
  async delete(account: AccountSid, recording: RecordingSid): Promise<boolean> {
    const stem = this.#stem(account, recording);
    // A rendition under way would come back after its source is gone.
    await this.#renditions.get(`${stem}.mp3`)?.catch(() => undefined);
    const known = await stat(`${stem}.wav`).catch(absent);
    await Promise.all([rm(`${stem}.wav`, { force: true }), rm(`${stem}.mp3`, { force: true })]);
    return known !== null;
  }

  #stem(account: AccountSid, recording: RecordingSid): string {
    if (!isSid('AC', account) || !isSid('RE', recording)) {
      throw new GatewayError('REST_NOT_FOUND', { path: 'recording' });
    }
    return join(this.#parts.directory, account, recording);
  }

  async #render(info: RecordingInfo, output: string): Promise<string> {
    const [source, rendition] = await Promise.all([stat(info.path), stat(output).catch(absent)]);
    if (rendition !== null && rendition.mtimeMs >= source.mtimeMs) return output;
    const { channels } = info;
    await this.#parts.transcoder.toMp3({ input: info.path, output, channels });
    return output;
  }
}

/** The engine's header is far shorter; chunks before `data` are looked for this far. */
const HEADER_BYTES_MAX = 4_096;

/**
 * Format and length of a WAV by its chunks. A header that promises more than is there belongs to a
 * file whose writer died: then what is there counts.
 */
function measure(
  head: Buffer,
  fileBytes: number,
): { durationMs: number; channels: 1 | 2; sampleRateHz: number } {
  let channels: 1 | 2 = 1;
  let sampleRateHz = 8_000;
  let at = 12;
  while (at + 8 <= head.length) {
    const id = head.toString('latin1', at, at + 4);
    const bytes = head.readUInt32LE(at + 4);
    if (id === 'fmt ' && at + 16 <= head.length) {
      channels = head.readUInt16LE(at + 10) === 2 ? 2 : 1;
      sampleRateHz = head.readUInt32LE(at + 12) || sampleRateHz;
    }
    if (id === 'data') {
      const dataBytes = Math.min(bytes, fileBytes - at - 8);
      const durationMs = Math.round((dataBytes * 1000) / (sampleRateHz * channels * 2));
      return { durationMs, channels, sampleRateHz };
    }
    at += 8 + bytes + (bytes % 2);
  }
  return { durationMs: 0, channels, sampleRateHz };
}

function absent(thrown: NodeJS.ErrnoException): null {
  if (thrown.code === 'ENOENT' || thrown.code === 'ENOTDIR') return null;
  throw thrown;
}
