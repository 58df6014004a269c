/**
 * The store over any SQL database that Kysely speaks: tables read through one connection pool and
 * written through the batch writer. Not a database: `sqlite` opens one and hands it here.
 */
import { CompiledQuery, type Kysely, sql, type Transaction } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import {
  ACCOUNTS,
  APPLICATIONS,
  CALL_EVENTS,
  CALLS,
  column,
  decode,
  encode,
  type Fields,
  NOTIFICATIONS,
  NUMBERS,
  RECORDINGS,
  type SqlRow,
  type SqlSchema,
  type TableSpec,
  TRUNKS,
} from './schema.ts';
import type {
  AccountRow,
  ApplicationRow,
  CallEventRow,
  CallEvents,
  CallRow,
  CallStatus,
  ConfigTable,
  Filter,
  ListQuery,
  NotificationRow,
  NumberRow,
  RecordingRow,
  Store,
  StoreChange,
  Table,
  TrunkRow,
} from './store.ts';
import { DEFAULT_WRITER, Writer, type WriterOptions } from './writer.ts';

export interface StoreOptions extends WriterOptions {
  /** Trace lines kept of one call. */
  readonly callEventsMax: number;
}

export const DEFAULT_STORE: StoreOptions = { ...DEFAULT_WRITER, callEventsMax: 1_000 };

/** Rows of one statement: at 30 columns far below what SQLite (32,766) and PostgreSQL bind. */
const STATEMENT_ROWS_MAX = 32;
/** Calls that one prune removes at most, for the same reason. */
const PRUNE_ROWS_MAX = 10_000;

const ENDED: readonly CallStatus[] = ['completed', 'busy', 'failed', 'no-answer', 'canceled'];

/** What differs between databases besides their SQL. */
export interface Database {
  readonly db: Kysely<SqlSchema>;
  /** A constraint of the schema refused the row: trying again is of no use. */
  isConflict(thrown: unknown): boolean;
  close(): Promise<void>;
}

/** One row to be written, free of its type; `columns` are made when the batch is. */
interface Entry {
  readonly table: string;
  readonly key: readonly string[];
  columns(): SqlRow;
}

/** What the tables share. */
interface Access {
  readonly database: Database;
  readonly writer: Writer<Entry>;
  readonly upserts: Upserts;
  changed(table: string, accountSid: string, sid: string): void;
}

class SqlTable<Row extends Fields<Row> & { readonly sid: string; readonly dateCreatedMs: number }>
  implements Table<Row>
{
  readonly #spec: TableSpec<Row>;
  readonly #access: Access;
  readonly #tenant: string;
  /** Rows that the writer may still hold, by sid; the writer says which do. */
  readonly #entries = new WeakMap<Entry, Row>();

  constructor(o: { spec: TableSpec<Row>; access: Access }) {
    this.#spec = o.spec;
    this.#access = o.access;
    this.#tenant = column(o.spec.tenant);
  }

  put(row: Row): void {
    const entry = entryOf(this.#spec, row);
    this.#entries.set(entry, row);
    this.#access.writer.put(`${this.#spec.name}/${row.sid}`, entry);
  }

  async save(row: Row): Promise<void> {
    await this.#access.writer.flush();
    try {
      await this.#access.upserts.run(this.#access.database.db, [entryOf(this.#spec, row)]);
    } catch (thrown) {
      if (this.#access.database.isConflict(thrown)) {
        throw new GatewayError('STORE_CONFLICT', { table: this.#spec.name }, { cause: thrown });
      }
      throw failure(thrown);
    }
    this.#access.changed(this.#spec.name, this.#tenantOf(row), row.sid);
  }

  async get(accountSid: AccountSid, sid: string): Promise<Row | null> {
    const entry = this.#access.writer.pending(`${this.#spec.name}/${sid}`);
    const waiting = entry && this.#entries.get(entry);
    if (waiting) return this.#tenantOf(waiting) === accountSid ? waiting : null;
    const columns = await guarded(() =>
      this.#access.database.db
        .selectFrom(this.#spec.name)
        .selectAll()
        .where(this.#tenant, '=', accountSid)
        .where('sid', '=', sid)
        .executeTakeFirst(),
    );
    return columns ? decode(this.#spec, columns) : null;
  }

  async list(query: ListQuery<Row>): Promise<readonly Row[]> {
    await this.#access.writer.flush();
    const order = query.backward ? 'asc' : 'desc';
    let select = this.#access.database.db
      .selectFrom(this.#spec.name)
      .selectAll()
      .where(this.#tenant, '=', query.accountSid)
      .orderBy('date_created_ms', order)
      .orderBy('sid', order)
      .limit(query.rowsMax);
    for (const filter of query.where) select = select.where(condition(filter));
    if (query.skip) select = select.offset(query.skip);
    const { position } = query;
    if (position) {
      const op = query.backward ? '>' : '<';
      select = select.where((is) =>
        is.or([
          is('date_created_ms', op, position.dateCreatedMs),
          is.and([is('date_created_ms', '=', position.dateCreatedMs), is('sid', op, position.sid)]),
        ]),
      );
    }
    const rows = (await guarded(() => select.execute())).map((one) => decode(this.#spec, one));
    return query.backward ? rows.reverse() : rows;
  }

  async remove(accountSid: AccountSid, sid: string): Promise<boolean> {
    await this.#access.writer.flush();
    const result = await guarded(() =>
      this.#access.database.db
        .deleteFrom(this.#spec.name)
        .where(this.#tenant, '=', accountSid)
        .where('sid', '=', sid)
        .executeTakeFirst(),
    );
    if (result.numDeletedRows === 0n) return false;
    this.#access.changed(this.#spec.name, accountSid, sid);
    return true;
  }

  async all(rowsMax: number): Promise<readonly Row[]> {
    await this.#access.writer.flush();
    const rows = await guarded(() =>
      this.#access.database.db
        .selectFrom(this.#spec.name)
        .selectAll()
        .orderBy('date_created_ms')
        .orderBy('sid')
        .limit(rowsMax)
        .execute(),
    );
    return rows.map((one) => decode(this.#spec, one));
  }

  #tenantOf(row: Row): string {
    return String(row[this.#spec.tenant]);
  }
}

class SqlCallEvents implements CallEvents {
  readonly #access: Access;
  readonly #perCallMax: number;

  constructor(o: { access: Access; callEventsMax: number }) {
    this.#access = o.access;
    this.#perCallMax = o.callEventsMax;
  }

  append(row: CallEventRow): void {
    if (row.seq > this.#perCallMax) return;
    const key = `${CALL_EVENTS.name}/${row.callSid}/${row.seq}`;
    this.#access.writer.put(key, entryOf(CALL_EVENTS, row));
  }

  async list(accountSid: AccountSid, callSid: CallSid): Promise<readonly CallEventRow[]> {
    await this.#access.writer.flush();
    const rows = await guarded(() =>
      this.#access.database.db
        .selectFrom(CALL_EVENTS.name)
        .selectAll()
        .where('account_sid', '=', accountSid)
        .where('call_sid', '=', callSid)
        .orderBy('seq')
        .limit(this.#perCallMax)
        .execute(),
    );
    return rows.map((one) => decode(CALL_EVENTS, one));
  }
}

const CONFIG_TABLES: ReadonlySet<string> = new Set<ConfigTable>([
  'accounts',
  'applications',
  'numbers',
  'trunks',
]);

export class SqlStore implements Store {
  readonly accounts: Table<AccountRow>;
  readonly applications: Table<ApplicationRow>;
  readonly numbers: Table<NumberRow>;
  readonly trunks: Table<TrunkRow>;
  readonly calls: Table<CallRow>;
  readonly callEvents: CallEvents;
  readonly recordings: Table<RecordingRow>;
  readonly notifications: Table<NotificationRow>;
  readonly #database: Database;
  readonly #writer: Writer<Entry>;
  readonly #listeners: ((change: StoreChange) => void)[] = [];
  #closing: Promise<void> | null = null;

  constructor(o: {
    database: Database;
    options: StoreOptions;
    clock: Clock;
    log: Log;
    metrics: Metrics;
  }) {
    const { database, options, clock, log, metrics } = o;
    this.#database = database;
    const upserts = new Upserts();
    const sink = {
      write: (entries: readonly Entry[]) =>
        database.db.transaction().execute((transaction) => upserts.run(transaction, entries)),
      isRefusal: (thrown: unknown) => database.isConflict(thrown),
    };
    this.#writer = new Writer({ options, clock, log, metrics, sink });
    const access: Access = {
      database,
      writer: this.#writer,
      upserts,
      changed: (table, accountSid, sid) => this.#changed(table, accountSid, sid),
    };
    this.accounts = new SqlTable({ spec: ACCOUNTS, access });
    this.applications = new SqlTable({ spec: APPLICATIONS, access });
    this.numbers = new SqlTable({ spec: NUMBERS, access });
    this.trunks = new SqlTable({ spec: TRUNKS, access });
    this.calls = new SqlTable({ spec: CALLS, access });
    this.recordings = new SqlTable({ spec: RECORDINGS, access });
    this.notifications = new SqlTable({ spec: NOTIFICATIONS, access });
    this.callEvents = new SqlCallEvents({ access, callEventsMax: options.callEventsMax });
  }

  async removeCall(accountSid: AccountSid, sid: CallSid): Promise<boolean> {
    await this.#writer.flush();
    return guarded(() =>
      this.#database.db.transaction().execute(async (transaction) => {
        const { numDeletedRows } = await transaction
          .deleteFrom(CALLS.name)
          .where('account_sid', '=', accountSid)
          .where('sid', '=', sid)
          .executeTakeFirst();
        if (numDeletedRows === 0n) return false;
        await removeRecords(transaction, [sid]);
        return true;
      }),
    );
  }

  async pruneCalls(createdBeforeMs: number, rowsMax: number): Promise<number> {
    await this.#writer.flush();
    return guarded(() =>
      this.#database.db.transaction().execute(async (transaction) => {
        const rows = await transaction
          .selectFrom(CALLS.name)
          .select('sid')
          .where('date_created_ms', '<', createdBeforeMs)
          .where('status', 'in', ENDED)
          .orderBy('date_created_ms')
          .limit(Math.min(rowsMax, PRUNE_ROWS_MAX))
          .execute();
        const sids = rows.map((row) => String(row.sid));
        if (sids.length === 0) return 0;
        await transaction.deleteFrom(CALLS.name).where('sid', 'in', sids).execute();
        await removeRecords(transaction, sids);
        return sids.length;
      }),
    );
  }

  onChange(listener: (change: StoreChange) => void): void {
    this.#listeners.push(listener);
  }

  flush(): Promise<void> {
    return this.#writer.flush();
  }

  close(): Promise<void> {
    this.#closing ??= this.#writer.close().then(() => this.#database.close());
    return this.#closing;
  }

  #changed(table: string, accountSid: string, sid: string): void {
    if (!CONFIG_TABLES.has(table)) return;
    const change = { table: table as ConfigTable, accountSid: accountSid as AccountSid, sid };
    for (const listener of this.#listeners) listener(change);
  }
}

async function removeRecords(transaction: Transaction<SqlSchema>, sids: string[]): Promise<void> {
  for (const table of [CALL_EVENTS.name, NOTIFICATIONS.name]) {
    await transaction.deleteFrom(table).where('call_sid', 'in', sids).execute();
  }
}

function entryOf<Row extends Fields<Row>>(spec: TableSpec<Row>, row: Row): Entry {
  return { table: spec.name, key: spec.key.map(column), columns: () => encode(spec, row) };
}

function condition<Row>(filter: Filter<Row>) {
  const left = sql.ref(column(filter.field));
  if (filter.op !== 'contains') return sql<boolean>`${left} ${sql.raw(filter.op)} ${filter.value}`;
  const pattern = `%${String(filter.value).replace(/[\\%_]/g, '\\$&')}%`;
  return sql<boolean>`${left} like ${pattern} escape '\\'`;
}

/**
 * Writes entries in order, runs of one table in one statement each. Building a statement costs ten
 * times what running it does, so its text is built once for each table and number of rows.
 */
class Upserts {
  readonly #texts = new Map<string, string>();

  async run(db: Kysely<SqlSchema>, entries: readonly Entry[]): Promise<void> {
    let start = 0;
    while (start < entries.length) {
      const first = entries[start] as Entry;
      const rows: SqlRow[] = [];
      for (const entry of entries.slice(start, start + STATEMENT_ROWS_MAX)) {
        if (entry.table !== first.table) break;
        rows.push(entry.columns());
      }
      const values = rows.flatMap((row) => Object.values(row));
      await db.executeQuery(CompiledQuery.raw(this.#text(db, first, rows), values));
      start += rows.length;
    }
  }

  /** Columns stand in the order of the table's spec in every row, so one text fits all. */
  #text(db: Kysely<SqlSchema>, entry: Entry, rows: readonly SqlRow[]): string {
    const name = `${entry.table}/${rows.length}`;
    const known = this.#texts.get(name);
    if (known !== undefined) return known;
    const changing = Object.keys(rows[0] ?? {}).filter((one) => !entry.key.includes(one));
    const { sql: text } = db
      .insertInto(entry.table)
      .values(rows)
      .onConflict((conflict) =>
        conflict.columns([...entry.key]).doUpdateSet((excluded) => {
          const set: Record<string, ReturnType<typeof excluded.ref>> = {};
          for (const one of changing) set[one] = excluded.ref(`excluded.${one}`);
          return set;
        }),
      )
      .compile();
    this.#texts.set(name, text);
    return text;
  }
}

async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    throw failure(thrown);
  }
}

function failure(thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown;
  const problem = thrown instanceof Error ? thrown.message : String(thrown);
  return new GatewayError('STORE_FAILED', { problem }, { cause: thrown });
}
