/**
 * A small text file that an operator replaces while the node runs: read at the start, and again
 * when its time, size or inode change. Asked now and then instead of watched, because notices of
 * the kernel are lost over mounts and atomic renames, and a key need not change within a second.
 */
import { readFile, stat } from 'node:fs/promises';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';

const FILE_BYTES_MAX = 1_048_576;

export class WatchedFile {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #key: string;
  readonly #path: string;
  readonly #checkMs: number;
  readonly #take: (text: string) => void;
  #mark = '';
  #timer: Timer | null = null;
  #isClosed = false;

  constructor(o: {
    clock: Clock;
    log: Log;
    /** The configuration key that names the file, for messages. */
    key: string;
    path: string;
    checkMs: number;
    /** Takes the content or throws; what it threw on is not taken, the earlier content stays. */
    take: (text: string) => void;
  }) {
    this.#clock = o.clock;
    this.#log = o.log;
    this.#key = o.key;
    this.#path = o.path;
    this.#checkMs = o.checkMs;
    this.#take = o.take;
  }

  /** Reads it the first time; what is wrong then is an error of configuration. */
  async start(): Promise<void> {
    try {
      await this.#read();
    } catch (thrown) {
      const { message: problem } = asGatewayError(thrown);
      throw new GatewayError(
        'CONFIG_BAD_VALUE',
        { key: this.#key, problem: `${this.#path}: ${problem}` },
        { cause: thrown },
      );
    }
    this.#arm();
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.cancel();
  }

  #arm(): void {
    if (this.#isClosed) return;
    this.#timer = this.#clock.timer(this.#checkMs, () => {
      void this.check().then(() => this.#arm());
    });
  }

  /** Looks whether it changed. Never rejects: a broken file is told and the earlier one stays. */
  async check(): Promise<void> {
    try {
      const isChanged = await this.#read();
      if (isChanged) this.#log.info({ key: this.#key }, 'file read again');
    } catch (thrown) {
      const { message } = asGatewayError(thrown);
      this.#log.warn({ key: this.#key, problem: message }, 'changed file not taken');
    }
  }

  async #read(): Promise<boolean> {
    const { mtimeMs, size, ino } = await stat(this.#path);
    const mark = `${mtimeMs} ${size} ${ino}`;
    if (mark === this.#mark) return false;
    if (size > FILE_BYTES_MAX) throw new GatewayError('INTERNAL', { problem: 'it is too large' });
    // Set first: a broken file is told once, not at each look.
    this.#mark = mark;
    const text = await readFile(this.#path, 'latin1');
    if (!this.#isClosed) this.#take(text);
    return true;
  }
}
