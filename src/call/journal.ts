/**
 * The journal: the latest record of everything that must outlive this process (calls, legs), in an
 * append-only log in the data directory. A restarted gateway loads it and goes on. Not the store:
 * it holds only what is live, and forgets a call when the call ends.
 *
 * A line is `crc32 json`, the JSON being `[key, record]`, or `[key]` once it is gone. Writes are
 * batched, and a record is only turned into text when its batch is written, so ten changes in one
 * batch cost one. When the log has grown it is compacted without a pause: a new file is begun, the
 * live records are written into it batch by batch, then the old file goes. A loader reads the
 * files in order and takes the last word on each key; a damaged line is counted and skipped, so a
 * torn tail after a crash costs at most the changes of the last batch.
 */
import { writeFileSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';

export interface JournalSource {
  /** The present state as plain data. Called when the batch is written. */
  snapshot(): object;
}

export interface Journal {
  /** The state under `key` changed. */
  put(key: string, source: JournalSource): void;
  remove(key: string): void;
}

/** For nodes that are told to forget their calls when they die, and for tests. */
export const noJournal: Journal = { put: () => undefined, remove: () => undefined };

export interface FileJournalOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly directory: string;
  /** How long changes are gathered before they are written. */
  readonly batchMs: number;
  /** Records turned into text in one go; the rest waits for the next turn of the event loop. */
  readonly batchRecordsMax: number;
  /** The log is compacted when it is larger than this and twice its live part. */
  readonly compactBytesMin: number;
  /** A record larger than this is not written (and is reported). */
  readonly recordBytesMax: number;
  readonly recordsMax: number;
  /** After a failed write (disk full) it is tried again this often. */
  readonly retryMs: number;
}

export const DEFAULT_JOURNAL: Omit<FileJournalOptions, 'clock' | 'log' | 'directory'> = {
  batchMs: 50,
  batchRecordsMax: 200,
  compactBytesMin: 16_777_216,
  recordBytesMax: 262_144,
  recordsMax: 100_000,
  retryMs: 1_000,
};

interface Entry {
  source: JournalSource;
  bytes: number;
  /** Its key is in `#dirty`: most changes come while one before them still waits. */
  isDirty: boolean;
}

/** A record read from the log that nobody has taken over yet. */
class Loaded implements JournalSource {
  readonly #record: object;
  constructor(record: object) {
    this.#record = record;
  }
  snapshot(): object {
    return this.#record;
  }
}

export class FileJournal implements Journal {
  readonly #options: FileJournalOptions;
  readonly #entries = new Map<string, Entry>();
  /** Keys whose last word is not on disk yet; removal when there is no entry. */
  readonly #dirty = new Set<string>();
  #file: FileHandle | null = null;
  #generation = 0;
  /** Both count characters, of which nearly all are one byte. */
  #fileBytes = 0;
  #liveBytes = 0;
  /** Keys still to be copied while a compaction runs. */
  #copying: string[] | null = null;
  #timer: Timer | null = null;
  #writing: Promise<void> | null = null;
  #isFailing = false;
  #isClosed = false;
  /** Damaged or unreadable lines met by `start`. */
  damagedLines = 0;

  constructor(options: FileJournalOptions) {
    this.#options = options;
  }

  get records(): number {
    return this.#entries.size;
  }

  /** Opens the log and gives back what it held. Each record stays until `put` or `remove`. */
  async start(): Promise<ReadonlyMap<string, object>> {
    const { directory } = this.#options;
    await mkdir(directory, { recursive: true });
    const generations = (await readdir(directory))
      .map((name) => /^journal\.(\d{1,12})$/.exec(name)?.[1])
      .filter((digits) => digits !== undefined)
      .map(Number)
      .sort((a, b) => a - b);
    const records = new Map<string, object>();
    for (const generation of generations) {
      const read = readLines(await readFile(this.#path(generation), 'latin1'), records);
      this.damagedLines += read.damaged;
    }
    this.#generation = (generations.at(-1) ?? 0) + 1;
    this.#file = await open(this.#path(this.#generation), 'a', 0o600);
    for (const [key, record] of records) {
      this.#entries.set(key, { source: new Loaded(record), bytes: 0, isDirty: false });
    }
    this.#copying = [...records.keys()];
    this.#schedule(0);
    return records;
  }

  put(key: string, source: JournalSource): void {
    if (this.#isClosed) return;
    const entry = this.#entries.get(key);
    if (entry !== undefined) {
      entry.source = source;
      if (entry.isDirty) return;
      entry.isDirty = true;
    } else if (this.#entries.size >= this.#options.recordsMax) {
      this.#options.log.error({ key, records: this.#entries.size }, 'journal is full');
      return;
    } else this.#entries.set(key, { source, bytes: 0, isDirty: true });
    this.#dirty.add(key);
    this.#schedule(this.#options.batchMs);
  }

  remove(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined || this.#isClosed) return;
    this.#entries.delete(key);
    this.#liveBytes -= entry.bytes;
    // What was never written needs no word that it is gone (also not while it is being copied:
    // then the older file has it and `bytes` says so, or it is one of `start`'s).
    const isOnDisk = entry.bytes > 0 || entry.source instanceof Loaded || this.#copying !== null;
    if (isOnDisk) this.#dirty.add(key);
    else this.#dirty.delete(key);
    this.#schedule(this.#options.batchMs);
  }

  /** Resolves when everything put so far is written. */
  async flush(): Promise<void> {
    while (!this.#isFailing && (this.#hasWork() || this.#writing !== null)) {
      this.#timer?.cancel();
      this.#timer = null;
      await this.#run();
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    await this.flush();
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#file?.close();
    this.#file = null;
  }

  #hasWork(): boolean {
    return this.#dirty.size > 0 || this.#copying !== null;
  }

  #schedule(delayMs: number): void {
    if (this.#timer !== null || this.#writing !== null || this.#file === null) return;
    this.#timer = this.#options.clock.timer(delayMs, () => {
      this.#timer = null;
      void this.#run();
    });
  }

  /** One batch, and another soon while there is more. Never rejects. */
  #run(): Promise<void> {
    this.#writing ??= this.#write().then(() => {
      this.#writing = null;
      if (this.#hasWork()) this.#schedule(this.#isFailing ? this.#options.retryMs : 0);
    });
    return this.#writing;
  }

  async #write(): Promise<void> {
    const taken = this.#take();
    try {
      this.#append(taken);
      if (this.#isFailing) this.#options.log.info({}, 'journal is written again');
      this.#isFailing = false;
      await this.#endOfCopy();
    } catch (thrown) {
      const problem = asGatewayError(thrown).message;
      if (!this.#isFailing) this.#options.log.error({ problem }, 'journal cannot be written');
      this.#isFailing = true;
      for (const key of taken) this.#dirty.add(key);
    }
  }

  #take(): string[] {
    const { batchRecordsMax } = this.#options;
    const keys: string[] = [];
    for (const key of this.#dirty) {
      if (keys.length >= batchRecordsMax) break;
      keys.push(key);
      this.#dirty.delete(key);
    }
    while (this.#copying !== null && this.#copying.length > 0 && keys.length < batchRecordsMax) {
      const key = this.#copying.pop();
      if (key !== undefined && this.#entries.has(key)) keys.push(key);
    }
    return keys;
  }

  /**
   * On this thread: the page cache takes a batch in less time than another thread needs to wake up
   * for it. It outlives this process; a disk that stalls holds us up no more than the store does.
   */
  #append(keys: readonly string[]): void {
    const file = this.#file;
    if (file === null || keys.length === 0) return;
    // A write that failed may have left half a line.
    let text = this.#isFailing ? '\n' : '';
    for (const key of keys) text += this.#line(key);
    writeFileSync(file.fd, text);
    this.#fileBytes += text.length;
  }

  #line(key: string): string {
    const entry = this.#entries.get(key);
    if (entry !== undefined) entry.isDirty = false;
    const json = JSON.stringify(entry === undefined ? [key] : [key, entry.source.snapshot()]);
    // Counted only when the length in characters leaves a doubt (UTF-8: at most 3 for each).
    const { recordBytesMax } = this.#options;
    const bytes = json.length * 3 > recordBytesMax ? Buffer.byteLength(json) : json.length;
    if (bytes > recordBytesMax) {
      this.#options.log.error({ key, bytes }, 'record too large for the journal');
      return '';
    }
    const line = `${crc32(json).toString(16).padStart(8, '0')} ${json}\n`;
    if (entry !== undefined) {
      this.#liveBytes += line.length - entry.bytes;
      entry.bytes = line.length;
    }
    return line;
  }

  /** Ends a compaction when all is copied, begins one when the log has grown. */
  async #endOfCopy(): Promise<void> {
    const { compactBytesMin, directory } = this.#options;
    if (this.#copying !== null) {
      if (this.#copying.length > 0) return;
      await this.#file?.datasync();
      for (const name of await readdir(directory)) {
        const digits = /^journal\.(\d{1,12})$/.exec(name)?.[1];
        if (digits !== undefined && Number(digits) < this.#generation) {
          await rm(join(directory, name), { force: true });
        }
      }
      this.#copying = null;
      return;
    }
    if (this.#fileBytes < Math.max(compactBytesMin, 2 * this.#liveBytes)) return;
    const next = await open(this.#path(this.#generation + 1), 'a', 0o600);
    await this.#file?.close();
    this.#file = next;
    this.#generation += 1;
    this.#fileBytes = 0;
    this.#copying = [...this.#entries.keys()];
  }

  #path(generation: number): string {
    return join(this.#options.directory, `journal.${generation}`);
  }
}

/** Applies the lines of one file to `records`; the last word on each key stays. */
function readLines(text: string, records: Map<string, object>): { damaged: number } {
  let damaged = 0;
  let at = 0;
  while (at < text.length) {
    let end = text.indexOf('\n', at);
    const isWhole = end >= 0;
    if (end < 0) end = text.length;
    const line = isWhole ? readLine(text.slice(at, end)) : null;
    // An empty line only ends what a failed write may have left.
    if (line === null) damaged += end > at ? 1 : 0;
    else if (line.record === null) records.delete(line.key);
    else {
      records.delete(line.key);
      records.set(line.key, line.record);
    }
    at = end + 1;
  }
  return { damaged };
}

function readLine(line: string): { key: string; record: object | null } | null {
  const body = Buffer.from(line.slice(9), 'latin1');
  if (line[8] !== ' ' || Number.parseInt(line.slice(0, 8), 16) !== crc32(body)) return null;
  try {
    const parsed: unknown = JSON.parse(body.toString('utf8'));
    if (!Array.isArray(parsed)) return null;
    const [key, record] = parsed as unknown[];
    if (typeof key !== 'string') return null;
    return { key, record: typeof record === 'object' ? record : null };
  } catch {
    return null;
  }
}
