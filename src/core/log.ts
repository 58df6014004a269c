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

export function createLog(options: { level: LogLevel; destination?: number }): Log {
  return pino(
    {
      level: options.level,
      base: null,
      messageKey: 'msg',
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    pino.destination({ dest: options.destination ?? 1, sync: true }),
  );
}

export const silentLog: Log = createLog({ level: 'silent' });

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
