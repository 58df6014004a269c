/**
 * SQLite in the data directory: the default database. The only file with what is SQLite's own: its
 * pragmas, prepared statements and error codes. SQLite runs on the calling thread, so it is kept
 * quick instead of patient: WAL, no sync per commit, a short busy timeout, and the batch writer's
 * retries.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import Sqlite from 'better-sqlite3';
import { Kysely, SqliteDialect } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { migrate } from './migrations.ts';
import type { SqlSchema, TableShape } from './schema.ts';
import { type Database, DEFAULT_STORE, SqlStore, type StoreOptions } from './sql.ts';
import type { Store } from './store.ts';
import { type RowWrite, upsertText } from './upserts.ts';

export interface SqliteOptions {
  /** File name, or `:memory:`. Folders on the way are made. */
  readonly path: string;
  /** How long a statement may wait, and the process with it, for another program's lock. */
  readonly busyTimeoutMs: number;
}

export const DEFAULT_SQLITE = { busyTimeoutMs: 250 } as const satisfies Partial<SqliteOptions>;

export async function openSqlite(o: {
  options: SqliteOptions;
  clock: Clock;
  log: Log;
  metrics: Metrics;
  store?: StoreOptions;
}): Promise<Store> {
  const database = open(o.options);
  try {
    await migrate({ db: database.db, clock: o.clock });
  } catch (thrown) {
    await database.close();
    if (thrown instanceof GatewayError) throw thrown;
    throw unusable(o.options.path, thrown);
  }
  const { clock, log, metrics } = o;
  return new SqlStore({ database, options: o.store ?? DEFAULT_STORE, clock, log, metrics });
}

function open(options: SqliteOptions): Database {
  let connection: Sqlite.Database;
  try {
    if (options.path !== ':memory:') makePrivateFile(options.path);
    connection = new Sqlite(options.path, { timeout: options.busyTimeoutMs });
    connection.pragma('journal_mode = WAL');
    // In WAL mode a power cut may lose the last commits but cannot damage the file.
    connection.pragma('synchronous = NORMAL');
    connection.pragma('foreign_keys = ON');
    // KiB. The library's own 16 MB brings no speed: what is written is rarely read again.
    connection.pragma('cache_size = -2000');
  } catch (thrown) {
    throw unusable(options.path, thrown);
  }
  const db = new Kysely<SqlSchema>({ dialect: new SqliteDialect({ database: connection }) });
  return {
    db,
    write: preparedWrite(connection, db),
    isConflict: (thrown) =>
      thrown instanceof Sqlite.SqliteError && thrown.code.startsWith('SQLITE_CONSTRAINT'),
    close: () => db.destroy(),
  };
}

/**
 * Kysely prepares a statement each time it runs one, which costs more than running it: what is
 * written for every call is prepared once here.
 */
function preparedWrite(
  connection: Sqlite.Database,
  db: Kysely<SqlSchema>,
): (rows: readonly RowWrite[]) => Promise<void> {
  const statements = new Map<TableShape, Sqlite.Statement>();
  const statementOf = (table: TableShape): Sqlite.Statement => {
    let statement = statements.get(table);
    if (statement === undefined) {
      statement = connection.prepare(upsertText(db, table, 1));
      statements.set(table, statement);
    }
    return statement;
  };
  const writeAll = connection.transaction((rows: readonly RowWrite[]) => {
    for (const row of rows) statementOf(row.table).run(row.values());
  });
  // Under Kysely's lock of the connection: never inside a transaction that it has open.
  return (rows) => db.connection().execute(async () => writeAll(rows));
}

/** The file holds auth tokens and trunk passwords: its owner's alone. WAL files take its mode. */
function makePrivateFile(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  closeSync(openSync(path, 'a', 0o600));
}

function unusable(path: string, thrown: unknown): GatewayError {
  const problem = thrown instanceof Error ? thrown.message : String(thrown);
  return new GatewayError('STORE_FAILED', { problem: `${path}: ${problem}` }, { cause: thrown });
}
