/**
 * The one batched writer: rows queue here, off the signaling path, and go to the database in one
 * transaction each `flushIntervalMs` or `batchRowsMax` rows. Not SQL: the sink it is given writes.
 *
 * A later put of the same key replaces the earlier one in its place, so a call that changes state
 * five times within an interval is one row, and rows that refer to it still come after it. A row
 * that is sure to change again is held back for longer: most short calls are written once. When
 * the database is away the queue waits and retries with growing pauses; when it is full, rows are
 * dropped, counted and told: memory is not the place to survive an outage of hours. A row that the
 * database refuses for itself is dropped alone and does not hold up the others.
 */
import { setImmediate } from 'node:timers/promises';
import type { Clock, Timer } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';

export interface WriterOptions {
  /** Longest time a row waits before it is written. */
  readonly flushIntervalMs: number;
  /** The same for a row that is sure to change again. */
  readonly holdMs: number;
  /** Rows in one transaction: bounds how long the process writes in one go. */
  readonly batchRowsMax: number;
  /** Rows that may wait, all tables together. */
  readonly queueRowsMax: number;
  /** First pause after a failed batch; doubles up to `retryMaxMs`. */
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
}

export const DEFAULT_WRITER: WriterOptions = {
  flushIntervalMs: 250,
  /** Most calls are answered or over within it; what a crash could cost is in the journal too. */
  holdMs: 5_000,
  /** About 3 ms of SQLite for call rows with their indexes; measured 60,000 rows a second. */
  batchRowsMax: 200,
  /** About 50 MB; ten minutes of 30 calls a second at five rows each. */
  queueRowsMax: 100_000,
  retryMinMs: 200,
  retryMaxMs: 5_000,
};

/** `Entry` is whatever the sink knows how to write. */
export interface Sink<Entry> {
  /** All in one transaction, in order. */
  write(entries: readonly Entry[]): Promise<void>;
  /** Whether the database refuses this row for itself, so that trying again is of no use. */
  isRefusal(thrown: unknown): boolean;
}

interface Waiting<Entry> {
  readonly seq: number;
  entry: Entry;
}

interface Held<Entry> {
  readonly dueMs: number;
  entry: Entry;
}

export class Writer<Entry> {
  readonly #options: WriterOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #sink: Sink<Entry>;
  readonly #written;
  readonly #dropped;
  /** Map order is the order of first puts; that is the order of writing. */
  #queue = new Map<string, Waiting<Entry>>();
  #writing = new Map<string, Waiting<Entry>>();
  /** In the order in which they are due. What is here is newer than in the other two. */
  readonly #held = new Map<string, Held<Entry>>();
  #holdTimer: Timer | null = null;
  #seq = 0;
  #timer: Timer | null = null;
  #draining: Promise<void> | null = null;
  /** Pause before the next try; 0 while the database takes what it is given. */
  #retryMs = 0;
  #isFull = false;
  #isClosed = false;

  constructor(o: {
    options: WriterOptions;
    clock: Clock;
    log: Log;
    metrics: Metrics;
    sink: Sink<Entry>;
  }) {
    this.#options = o.options;
    this.#clock = o.clock;
    this.#log = o.log;
    this.#sink = o.sink;
    this.#written = o.metrics.counter(
      'tandem_store_rows_written_total',
      'Rows written by the batch writer',
    );
    this.#dropped = o.metrics.counter('tandem_store_rows_dropped_total', 'Rows lost', ['reason']);
    o.metrics.gauge('tandem_store_queue_rows', 'Rows that wait to be written', () => this.depth);
  }

  get depth(): number {
    return this.#queue.size + this.#writing.size + this.#held.size;
  }

  put(key: string, entry: Entry): void {
    const wasHeld = this.#held.delete(key);
    const waiting = this.#queue.get(key);
    if (waiting) waiting.entry = entry;
    else if (wasHeld || this.#hasRoom()) this.#enqueue(key, entry);
  }

  /** As `put`, for a row that is sure to change again: `flush` and `pending` see it at once. */
  hold(key: string, entry: Entry): void {
    const held = this.#held.get(key);
    if (held) held.entry = entry;
    else if (this.#queue.has(key)) this.put(key, entry);
    else if (this.#hasRoom()) {
      const { holdMs } = this.#options;
      this.#held.set(key, { dueMs: this.#clock.monotonicMs() + holdMs, entry });
      this.#armHold(holdMs);
    }
  }

  /** The newest entry of that key that may not be in the database yet. */
  pending(key: string): Entry | undefined {
    return (this.#held.get(key) ?? this.#queue.get(key) ?? this.#writing.get(key))?.entry;
  }

  /** Resolves when what was put so far is written; rejects when the database fails meanwhile. */
  flush(): Promise<void> {
    this.#release(Number.POSITIVE_INFINITY);
    return this.#writeQueued();
  }

  async #writeQueued(): Promise<void> {
    const upTo = this.#seq;
    while (this.#oldestSeq() <= upTo) {
      this.#timer?.cancel();
      this.#timer = null;
      this.#draining ??= this.#drain().finally(() => this.#drained());
      await this.#draining;
    }
  }

  /** A last flush; what the database does not take even now is counted as lost. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    try {
      await this.flush();
    } catch (thrown) {
      this.#dropped.inc({ reason: 'closed' }, this.depth);
      this.#log.error(
        { rows: this.depth, problem: String(thrown) },
        'store closed with unwritten rows',
      );
    }
    this.#isClosed = true;
    this.#timer?.cancel();
    this.#timer = null;
    this.#holdTimer?.cancel();
    this.#holdTimer = null;
  }

  #enqueue(key: string, entry: Entry): void {
    this.#seq += 1;
    this.#queue.set(key, { seq: this.#seq, entry });
    if (this.#draining) return;
    if (this.#queue.size === this.#options.batchRowsMax && this.#retryMs === 0) {
      this.#timer?.cancel();
      this.#timer = null;
      this.#arm(0);
    } else {
      this.#arm(this.#options.flushIntervalMs);
    }
  }

  /** Queues the held rows that are due by then. */
  #release(byMs: number): void {
    for (const [key, { dueMs, entry }] of this.#held) {
      if (dueMs > byMs) return;
      this.put(key, entry);
    }
  }

  #oldestSeq(): number {
    const first = this.#writing.values().next().value ?? this.#queue.values().next().value;
    return first?.seq ?? Number.POSITIVE_INFINITY;
  }

  /** Whether one row more may wait; otherwise it is counted as lost. */
  #hasRoom(): boolean {
    if (!this.#isClosed && this.depth < this.#options.queueRowsMax) {
      this.#isFull = false;
      return true;
    }
    this.#drop();
    return false;
  }

  #drop(): void {
    this.#dropped.inc({ reason: 'full' });
    if (this.#isFull) return;
    this.#isFull = true;
    this.#log.error({ rows: this.depth }, 'store queue is full: rows are lost');
  }

  #arm(delayMs: number): void {
    this.#timer ??= this.#clock.timer(delayMs, () => {
      this.#timer = null;
      // The failure is logged and retried by the drain itself.
      this.#writeQueued().catch(() => undefined);
    });
  }

  #armHold(delayMs: number): void {
    this.#holdTimer ??= this.#clock.timer(delayMs, () => {
      this.#holdTimer = null;
      this.#release(this.#clock.monotonicMs());
      // Not one by one: what is due meanwhile goes into the same batch.
      if (this.#held.size > 0) this.#armHold(this.#options.flushIntervalMs);
    });
  }

  /** One batch after another until the queue is empty or the database fails. */
  async #drain(): Promise<void> {
    while (this.#queue.size > 0) {
      const batch = new Map<string, Waiting<Entry>>();
      for (const [key, waiting] of this.#queue) {
        if (batch.size === this.#options.batchRowsMax) break;
        batch.set(key, waiting);
      }
      for (const key of batch.keys()) this.#queue.delete(key);
      this.#writing = batch;
      try {
        await this.#write([...batch.values()].map((waiting) => waiting.entry));
      } catch (thrown) {
        this.#requeue();
        throw this.#failed(thrown);
      }
      this.#writing = new Map();
      this.#retryMs = 0;
      // SQLite writes within this turn of the event loop: let packets and timers in between.
      await setImmediate();
    }
  }

  #drained(): void {
    this.#draining = null;
    if (this.#queue.size === 0 || this.#isClosed) return;
    this.#arm(this.#retryMs || this.#options.flushIntervalMs);
  }

  /** The batch, or when one of its rows is refused, row by row so that only that one is lost. */
  async #write(entries: readonly Entry[]): Promise<void> {
    try {
      await this.#sink.write(entries);
      this.#written.inc(entries.length);
      return;
    } catch (thrown) {
      if (!this.#sink.isRefusal(thrown)) throw thrown;
      if (entries.length === 1) {
        this.#dropped.inc({ reason: 'refused' });
        this.#log.error({ problem: String(thrown) }, 'the database refused a row: it is lost');
        return;
      }
    }
    for (const entry of entries) await this.#write([entry]);
  }

  /** Puts the failed batch back in front; a newer value of a key that came meanwhile wins. */
  #requeue(): void {
    const queue = new Map<string, Waiting<Entry>>();
    for (const [key, waiting] of this.#writing) {
      queue.set(key, { seq: waiting.seq, entry: this.#queue.get(key)?.entry ?? waiting.entry });
    }
    for (const [key, waiting] of this.#queue) {
      if (!queue.has(key)) queue.set(key, waiting);
    }
    this.#queue = queue;
    this.#writing = new Map();
  }

  #failed(thrown: unknown): GatewayError {
    const problem = thrown instanceof Error ? thrown.message : String(thrown);
    const { retryMinMs, retryMaxMs } = this.#options;
    this.#retryMs = Math.min(Math.max(this.#retryMs * 2, retryMinMs), retryMaxMs);
    this.#log.warn(
      { problem, rows: this.#queue.size, retryMs: this.#retryMs },
      'store write failed',
    );
    return new GatewayError('STORE_FAILED', { problem }, { cause: thrown });
  }
}
