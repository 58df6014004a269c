/**
 * The store over any SQL database that Kysely speaks: tables read through one connection pool and
 * written through the batch writer. Not a database: `sqlite` opens one and hands it here.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import {
  ACCESS_ADDRESSES,
  ACCESS_LISTS,
  ACCOUNTS,
  APPLICATIONS,
  CALL_TRACES,
  CALLS,
  CREDENTIAL_LISTS,
  CREDENTIALS,
  column,
  type Fields,
  Layout,
  NOTIFICATIONS,
  NUMBERS,
  RECORDINGS,
  ROUTES,
  SIP_DOMAINS,
  type SqlSchema,
  type SqlValue,
  type TableSpec,
  TRUNKS,
} from './schema.ts';
import type {
  AccessAddressRow,
  AccessListRow,
  AccountRow,
  ApplicationRow,
  CallEvent,
  CallRow,
  CallStatus,
  CallTraceRow,
  CallTraces,
  ConfigTable,
  CredentialListRow,
  CredentialRow,
  Filter,
  ListQuery,
  NotificationRow,
  NumberRow,
  RecordingRow,
  RouteRow,
  SipDomainRow,
  Store,
  StoreChange,
  Table,
  TrunkRow,
} from './store.ts';
import { packTrace, unpackTrace } from './trace-rows.ts';
import { type RowWrite, Upserts } from './upserts.ts';
import { DEFAULT_WRITER, Writer, type WriterOptions } from './writer.ts';

export interface StoreOptions extends WriterOptions {
  /** Trace lines kept of one call. */
  readonly callEventsMax: number;
}

export const DEFAULT_STORE: StoreOptions = { ...DEFAULT_WRITER, callEventsMax: 1_000 };

/** A live call is told of at least once more: when it ends. */
const isLive = (row: CallRow): boolean => row.endMs === null;

/** Calls that one prune removes at most: far below what a statement may bind. */
const PRUNE_ROWS_MAX = 10_000;

const ENDED: readonly CallStatus[] = ['completed', 'busy', 'failed', 'no-answer', 'canceled'];

/** What differs between databases besides their SQL. */
export interface Database {
  readonly db: Kysely<SqlSchema>;
  /** All in one transaction, in order; absent: as any database does it, through `db`. */
  write?(rows: readonly RowWrite[]): Promise<void>;
  /** A constraint of the schema refused the row: trying again is of no use. */
  isConflict(thrown: unknown): boolean;
  close(): Promise<void>;
}

/** What the tables share. */
interface Access {
  readonly database: Database;
  readonly writer: Writer<RowWrite>;
  write(rows: readonly RowWrite[]): Promise<void>;
  changed(table: string, accountSid: string, sid: string): void;
}

/** A row on its way to the database; it is turned into columns when its batch is written. */
class QueuedRow<Row extends Fields<Row>> implements RowWrite {
  readonly table: Layout<Row>;
  readonly row: Row;

  constructor(table: Layout<Row>, row: Row) {
    this.table = table;
    this.row = row;
  }

  values(): SqlValue[] {
    return this.table.values(this.row);
  }
}

class SqlTable<Row extends Fields<Row> & { readonly sid: string; readonly dateCreatedMs: number }>
  implements Table<Row>
{
  readonly #layout: Layout<Row>;
  readonly #access: Access;
  readonly #tenant: string;
  readonly #isPassing: (row: Row) => boolean;

  /** `isPassing`: such a row is sure to be put again, and need not be written soon. */
  constructor(o: { spec: TableSpec<Row>; access: Access; isPassing?: (row: Row) => boolean }) {
    this.#layout = new Layout(o.spec);
    this.#access = o.access;
    this.#isPassing = o.isPassing ?? (() => false);
    this.#tenant = column(o.spec.tenant);
  }

  put(row: Row): void {
    const { writer } = this.#access;
    const key = `${this.#layout.name}/${row.sid}`;
    const entry = new QueuedRow(this.#layout, row);
    if (this.#isPassing(row)) writer.hold(key, entry);
    else writer.put(key, entry);
  }

  async save(row: Row): Promise<void> {
    await this.#access.writer.flush();
    try {
      await this.#access.write([new QueuedRow(this.#layout, row)]);
    } catch (thrown) {
      if (this.#access.database.isConflict(thrown)) {
        throw new GatewayError('STORE_CONFLICT', { table: this.#layout.name }, { cause: thrown });
      }
      throw failure(thrown);
    }
    this.#access.changed(this.#layout.name, this.#tenantOf(row), row.sid);
  }

  async get(accountSid: AccountSid, sid: string): Promise<Row | null> {
    const entry = this.#access.writer.pending(`${this.#layout.name}/${sid}`);
    if (entry) {
      // Its key names this table: nobody else has put it.
      const { row } = entry as QueuedRow<Row>;
      return this.#tenantOf(row) === accountSid ? row : null;
    }
    const columns = await guarded(() =>
      this.#access.database.db
        .selectFrom(this.#layout.name)
        .selectAll()
        .where(this.#tenant, '=', accountSid)
        .where('sid', '=', sid)
        .executeTakeFirst(),
    );
    return columns ? this.#layout.row(columns) : null;
  }

  async list(query: ListQuery<Row>): Promise<readonly Row[]> {
    await this.#access.writer.flush();
    const order = query.backward ? 'asc' : 'desc';
    let select = this.#access.database.db
      .selectFrom(this.#layout.name)
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
    const rows = (await guarded(() => select.execute())).map((one) => this.#layout.row(one));
    return query.backward ? rows.reverse() : rows;
  }

  async remove(accountSid: AccountSid, sid: string): Promise<boolean> {
    await this.#access.writer.flush();
    const result = await guarded(() =>
      this.#access.database.db
        .deleteFrom(this.#layout.name)
        .where(this.#tenant, '=', accountSid)
        .where('sid', '=', sid)
        .executeTakeFirst(),
    );
    if (result.numDeletedRows === 0n) return false;
    this.#access.changed(this.#layout.name, accountSid, sid);
    return true;
  }

  async count(accountSid: AccountSid, where: readonly Filter<Row>[] = []): Promise<number> {
    await this.#access.writer.flush();
    let select = this.#access.database.db
      .selectFrom(this.#layout.name)
      .select((expression) => expression.fn.countAll<number>().as('count'))
      .where(this.#tenant, '=', accountSid);
    for (const filter of where) select = select.where(condition(filter));
    const found = await guarded(() => select.executeTakeFirst());
    return Number(found?.count ?? 0);
  }

  async all(rowsMax: number, where: readonly Filter<Row>[] = []): Promise<readonly Row[]> {
    await this.#access.writer.flush();
    let select = this.#access.database.db
      .selectFrom(this.#layout.name)
      .selectAll()
      .orderBy('date_created_ms')
      .orderBy('sid')
      .limit(rowsMax);
    for (const filter of where) select = select.where(condition(filter));
    const rows = await guarded(() => select.execute());
    return rows.map((one) => this.#layout.row(one));
  }

  #tenantOf(row: Row): string {
    return String(row[this.#layout.tenant]);
  }
}

class SqlCallTraces implements CallTraces {
  readonly #access: Access;
  readonly #layout = new Layout(CALL_TRACES);
  readonly #eventsMax: number;

  constructor(o: { access: Access; callEventsMax: number }) {
    this.#access = o.access;
    this.#eventsMax = o.callEventsMax;
  }

  put(row: CallTraceRow): void {
    const events = row.events.slice(0, this.#eventsMax);
    const key = `${this.#layout.name}/${row.callSid}`;
    this.#access.writer.put(key, new QueuedRow(this.#layout, packTrace({ ...row, events })));
  }

  async list(accountSid: AccountSid, callSid: CallSid): Promise<readonly CallEvent[]> {
    await this.#access.writer.flush();
    const columns = await guarded(() =>
      this.#access.database.db
        .selectFrom(this.#layout.name)
        .selectAll()
        .where('account_sid', '=', accountSid)
        .where('call_sid', '=', callSid)
        .executeTakeFirst(),
    );
    return columns ? unpackTrace(this.#layout.row(columns)) : [];
  }
}

const CONFIG_TABLES: ReadonlySet<string> = new Set<ConfigTable>([
  'accounts',
  'applications',
  'numbers',
  'trunks',
  'routes',
  'sip_domains',
  'access_lists',
  'access_addresses',
  'credential_lists',
  'credentials',
]);

export class SqlStore implements Store {
  readonly accounts: Table<AccountRow>;
  readonly applications: Table<ApplicationRow>;
  readonly numbers: Table<NumberRow>;
  readonly trunks: Table<TrunkRow>;
  readonly routes: Table<RouteRow>;
  readonly sipDomains: Table<SipDomainRow>;
  readonly accessLists: Table<AccessListRow>;
  readonly accessAddresses: Table<AccessAddressRow>;
  readonly credentialLists: Table<CredentialListRow>;
  readonly credentials: Table<CredentialRow>;
  readonly calls: Table<CallRow>;
  readonly callTraces: CallTraces;
  readonly recordings: Table<RecordingRow>;
  readonly notifications: Table<NotificationRow>;
  readonly #database: Database;
  readonly #writer: Writer<RowWrite>;
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
    const upserts = new Upserts(database.db);
    const write = (rows: readonly RowWrite[]): Promise<void> =>
      database.write ? database.write(rows) : upserts.write(rows);
    const sink = { write, isRefusal: (thrown: unknown) => database.isConflict(thrown) };
    this.#writer = new Writer({ options, clock, log, metrics, sink });
    const access: Access = {
      database,
      writer: this.#writer,
      write,
      changed: (table, accountSid, sid) => this.#changed(table, accountSid, sid),
    };
    this.accounts = new SqlTable({ spec: ACCOUNTS, access });
    this.applications = new SqlTable({ spec: APPLICATIONS, access });
    this.numbers = new SqlTable({ spec: NUMBERS, access });
    this.trunks = new SqlTable({ spec: TRUNKS, access });
    this.routes = new SqlTable({ spec: ROUTES, access });
    this.sipDomains = new SqlTable({ spec: SIP_DOMAINS, access });
    this.accessLists = new SqlTable({ spec: ACCESS_LISTS, access });
    this.accessAddresses = new SqlTable({ spec: ACCESS_ADDRESSES, access });
    this.credentialLists = new SqlTable({ spec: CREDENTIAL_LISTS, access });
    this.credentials = new SqlTable({ spec: CREDENTIALS, access });
    this.calls = new SqlTable({ spec: CALLS, access, isPassing: isLive });
    this.recordings = new SqlTable({ spec: RECORDINGS, access });
    this.notifications = new SqlTable({ spec: NOTIFICATIONS, access });
    this.callTraces = new SqlCallTraces({ access, callEventsMax: options.callEventsMax });
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
    const wanted = Math.min(rowsMax, PRUNE_ROWS_MAX);
    return guarded(() =>
      this.#database.db.transaction().execute(async (transaction) => {
        let gone = 0;
        // One account after the other: the index by account is by age within it.
        const accounts = await transaction.selectFrom(ACCOUNTS.name).select('sid').execute();
        for (const account of accounts) {
          if (gone >= wanted) break;
          const rows = await transaction
            .selectFrom(CALLS.name)
            .select('sid')
            .where('account_sid', '=', String(account.sid))
            .where('date_created_ms', '<', createdBeforeMs)
            .where('status', 'in', ENDED)
            .orderBy('date_created_ms')
            .limit(wanted - gone)
            .execute();
          const sids = rows.map((row) => String(row.sid));
          if (sids.length === 0) continue;
          await transaction.deleteFrom(CALLS.name).where('sid', 'in', sids).execute();
          await removeRecords(transaction, sids);
          gone += sids.length;
        }
        return gone;
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
  for (const table of [CALL_TRACES.name, NOTIFICATIONS.name]) {
    await transaction.deleteFrom(table).where('call_sid', 'in', sids).execute();
  }
}

function condition<Row>(filter: Filter<Row>) {
  const left = sql.ref(column(filter.field));
  if (filter.op !== 'contains') return sql<boolean>`${left} ${sql.raw(filter.op)} ${filter.value}`;
  const pattern = `%${String(filter.value).replace(/[\\%_]/g, '\\$&')}%`;
  return sql<boolean>`${left} like ${pattern} escape '\\'`;
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
