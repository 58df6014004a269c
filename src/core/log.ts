/**
 * Structured logs: one JSON object a line. Numbers, addresses, digits and bodies go through
 * `redact`, secrets never come here at all (`Secret` prints as dots). Not a trace: what one call
 * did is kept by `call/trace`.
 */
import { pino } from 'pino';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';
export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  child(fields: LogFields): Log;
}

/**
 * Lines are gathered for `FLUSH_MS` and written without waiting: a reader of our standard output
 * that stalls must not stop signaling. What is gathered is written when the process exits.
 */
export function createLog(options: { level: LogLevel; destination?: number }): Log {
  const destination = pino.destination({
    dest: options.destination ?? 1,
    sync: false,
    minLength: GATHER_BYTES,
    periodicFlush: FLUSH_MS,
    maxLength: WAITING_BYTES_MAX,
  });
  if (options.level !== 'silent') process.once('exit', () => destination.flushSync());
  return pino(
    {
      level: options.level,
      base: null,
      messageKey: 'msg',
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination,
  );
}

/** Each write wakes another thread, so a busy node shall say most within one. */
const FLUSH_MS = 250;
/** Just below the 16 KiB that one write takes. */
const GATHER_BYTES = 16_000;
/** Lines that a stalled reader has not taken; beyond it they are dropped. */
const WAITING_BYTES_MAX = 16_777_216;

export const silentLog: Log = pino({ level: 'silent' });

/** Keeps the first `keep` characters of a number, address or name: enough to tell calls apart. */
export function redact(text: string, keep = 4): string {
  return text.length <= keep ? '*'.repeat(text.length) : `${text.slice(0, keep)}…(${text.length})`;
}

/** A value that cannot be printed by mistake: every way to make it text gives dots. */
export class Secret {
  readonly #value: string;
  constructor(value: string) {
    this.#value = value;
  }
  reveal(): string {
    return this.#value;
  }
  toString(): string {
    return '••••';
  }
  toJSON(): string {
    return '••••';
  }
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return '••••';
  }
}
