/**
 * The schema's history: ordered steps, each run once and in its own transaction, and the version
 * table that says which have run. Not the present shape in one place: that is `schema`. A step
 * that was released is never edited; a change is a new step.
 *
 * Portable on purpose: text, bigint and integer columns, no database's own types or clauses, so
 * that the same steps make a SQLite file and a PostgreSQL database.
 */
import { createHash } from 'node:crypto';
import type { CreateTableBuilder, Kysely } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { SqlSchema } from './schema.ts';

export interface Migration {
  /** 1, 2, 3 … without gaps. */
  readonly version: number;
  readonly name: string;
  up(db: Kysely<SqlSchema>): Promise<void>;
}

type Columns = CreateTableBuilder<string, string>;

function resourceTable(db: Kysely<SqlSchema>, name: string): Columns {
  return db.schema
    .createTable(name)
    .addColumn('sid', 'text', (column) => column.primaryKey())
    .addColumn('account_sid', 'text', (column) => column.notNull().references('accounts.sid'))
    .addColumn('date_created_ms', 'bigint', (column) => column.notNull())
    .addColumn('date_updated_ms', 'bigint', (column) => column.notNull());
}

function voiceColumns(table: Columns): Columns {
  return table
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('voice_url', 'text')
    .addColumn('voice_method', 'text', (column) => column.notNull())
    .addColumn('voice_fallback_url', 'text')
    .addColumn('voice_fallback_method', 'text', (column) => column.notNull())
    .addColumn('status_callback', 'text')
    .addColumn('status_callback_method', 'text', (column) => column.notNull())
    .addColumn('voice_caller_id_lookup', 'integer', (column) => column.notNull());
}

async function configurationTables(db: Kysely<SqlSchema>): Promise<void> {
  await db.schema
    .createTable('accounts')
    .addColumn('sid', 'text', (column) => column.primaryKey())
    .addColumn('auth_token', 'text', (column) => column.notNull())
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('status', 'text', (column) => column.notNull())
    .addColumn('date_created_ms', 'bigint', (column) => column.notNull())
    .addColumn('date_updated_ms', 'bigint', (column) => column.notNull())
    .execute();
  await voiceColumns(resourceTable(db, 'applications')).execute();
  await resourceTable(db, 'trunks')
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('enabled', 'integer', (column) => column.notNull())
    .addColumn('gateways', 'text', (column) => column.notNull())
    .addColumn('username', 'text')
    .addColumn('password', 'text')
    .addColumn('realm', 'text')
    .addColumn('inbound_addresses', 'text', (column) => column.notNull())
    .addColumn('number_patterns', 'text', (column) => column.notNull())
    .execute();
  await voiceColumns(resourceTable(db, 'numbers'))
    // Two accounts cannot both be called on one number.
    .addColumn('phone_number', 'text', (column) => column.notNull().unique())
    .addColumn('voice_application_sid', 'text', (column) =>
      column.references('applications.sid').onDelete('set null'),
    )
    .addColumn('trunk_sid', 'text', (column) =>
      column.references('trunks.sid').onDelete('set null'),
    )
    .execute();
}

async function recordTables(db: Kysely<SqlSchema>): Promise<void> {
  await resourceTable(db, 'calls')
    .addColumn('parent_call_sid', 'text')
    .addColumn('to', 'text', (column) => column.notNull())
    .addColumn('from', 'text', (column) => column.notNull())
    .addColumn('status', 'text', (column) => column.notNull())
    .addColumn('direction', 'text', (column) => column.notNull())
    .addColumn('phone_number_sid', 'text')
    .addColumn('trunk_sid', 'text')
    .addColumn('group_sid', 'text')
    .addColumn('answered_by', 'text')
    .addColumn('forwarded_from', 'text')
    .addColumn('caller_name', 'text')
    .addColumn('queue_time_ms', 'bigint', (column) => column.notNull())
    .addColumn('start_ms', 'bigint')
    .addColumn('answer_ms', 'bigint')
    .addColumn('end_ms', 'bigint')
    .addColumn('duration_s', 'integer')
    .addColumn('end_code', 'text')
    .addColumn('end_fault', 'text')
    .addColumn('sip_status', 'integer')
    .execute();
  // No reference to calls: a trace line may be queued before the call's row, and prune is explicit.
  await db.schema
    .createTable('call_events')
    .addColumn('call_sid', 'text', (column) => column.notNull())
    .addColumn('account_sid', 'text', (column) => column.notNull().references('accounts.sid'))
    .addColumn('seq', 'integer', (column) => column.notNull())
    .addColumn('at_ms', 'bigint', (column) => column.notNull())
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('data', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('call_events_key', ['call_sid', 'seq'])
    .execute();
  await resourceTable(db, 'recordings')
    .addColumn('call_sid', 'text', (column) => column.notNull())
    .addColumn('status', 'text', (column) => column.notNull())
    .addColumn('source', 'text', (column) => column.notNull())
    .addColumn('track', 'text', (column) => column.notNull())
    .addColumn('channels', 'integer', (column) => column.notNull())
    .addColumn('start_ms', 'bigint')
    .addColumn('duration_s', 'integer')
    .addColumn('error_code', 'integer')
    .addColumn('path', 'text', (column) => column.notNull())
    .execute();
  await resourceTable(db, 'notifications')
    .addColumn('call_sid', 'text')
    .addColumn('level', 'text', (column) => column.notNull())
    .addColumn('error_code', 'integer', (column) => column.notNull())
    .addColumn('message_text', 'text', (column) => column.notNull())
    .addColumn('message_ms', 'bigint', (column) => column.notNull())
    .addColumn('request_url', 'text')
    .addColumn('request_method', 'text')
    .addColumn('request_variables', 'text')
    .addColumn('response_headers', 'text')
    .addColumn('response_body', 'text')
    .execute();
}

/** Each list is one range of one index: an account's rows, newest first. */
async function indexes(db: Kysely<SqlSchema>): Promise<void> {
  for (const table of [
    'applications',
    'numbers',
    'trunks',
    'calls',
    'recordings',
    'notifications',
  ]) {
    await db.schema
      .createIndex(`${table}_by_account`)
      .on(table)
      .columns(['account_sid', 'date_created_ms', 'sid'])
      .execute();
  }
  await db.schema.createIndex('calls_by_age').on('calls').column('date_created_ms').execute();
  for (const [table, column] of [
    ['calls', 'parent_call_sid'],
    ['recordings', 'call_sid'],
    ['notifications', 'call_sid'],
  ] as const) {
    await db.schema.createIndex(`${table}_by_call`).on(table).column(column).execute();
  }
}

/** Calls whose events are folded in one go. */
const FOLD_CALLS_MAX = 200;

/** A row a call instead of one an event: a call's trace is written and read as a whole only. */
async function foldCallEvents(db: Kysely<SqlSchema>): Promise<void> {
  await db.schema
    .createTable('call_traces')
    .addColumn('call_sid', 'text', (column) => column.primaryKey())
    .addColumn('account_sid', 'text', (column) => column.notNull().references('accounts.sid'))
    .addColumn('events', 'text', (column) => column.notNull())
    .execute();
  let after = '';
  for (;;) {
    const calls = await db
      .selectFrom('call_events')
      .select(['call_sid', 'account_sid'])
      .distinct()
      .where('call_sid', '>', after)
      .orderBy('call_sid')
      .limit(FOLD_CALLS_MAX)
      .execute();
    for (const { call_sid, account_sid } of calls) {
      if (call_sid === undefined || account_sid === undefined) continue;
      const lines = await db
        .selectFrom('call_events')
        .selectAll()
        .where('call_sid', '=', call_sid)
        .orderBy('seq')
        .execute();
      const events = lines.map(({ seq, at_ms, kind, data }) => {
        return { seq: Number(seq), atMs: Number(at_ms), kind, data: JSON.parse(String(data)) };
      });
      await db
        .insertInto('call_traces')
        .values({ call_sid, account_sid, events: JSON.stringify(events) })
        .execute();
    }
    const last = calls.at(-1)?.call_sid;
    if (last === undefined) break;
    after = String(last);
  }
  await db.schema.dropTable('call_events').execute();
}

async function inboundCredentials(db: Kysely<SqlSchema>): Promise<void> {
  await db.schema.alterTable('trunks').addColumn('inbound_username', 'text').execute();
  await db.schema.alterTable('trunks').addColumn('inbound_password', 'text').execute();
  // The name alone says whose call it is. Rows without one do not collide.
  await db.schema
    .createIndex('trunks_by_inbound_username')
    .unique()
    .on('trunks')
    .column('inbound_username')
    .execute();
}

/** Each index is paid for by every call; these find the same rows for less. */
async function cheaperCallIndexes(db: Kysely<SqlSchema>): Promise<void> {
  // Pruning goes account by account along `calls_by_account`.
  await db.schema.dropIndex('calls_by_age').execute();
  await db.schema.dropIndex('calls_by_call').execute();
  await db.schema
    .createIndex('calls_by_call')
    .on('calls')
    .column('parent_call_sid')
    .where('parent_call_sid', 'is not', null)
    .execute();
}

/** Trunks read in one go; there are few. */
const GATEWAY_ROWS_MAX = 200;

async function trunkPolicies(db: Kysely<SqlSchema>): Promise<void> {
  const lists = [
    'inbound_domains',
    'certificate_names',
    'access_list_sids',
    'credential_list_sids',
  ];
  for (const name of lists) await addTrunkColumn(db, name, '[]');
  for (const name of ['policy', 'trunking']) await addTrunkColumn(db, name, '{}');
  await db.schema.alterTable('trunks').addColumn('domain_name', 'text').execute();
  await db.schema
    .alterTable('trunks')
    .addColumn('tls_only', 'integer', (column) => column.notNull().defaultTo(0))
    .execute();
  await db.schema
    .createIndex('trunks_by_domain_name')
    .unique()
    .on('trunks')
    .column('domain_name')
    .execute();
  await nameGateways(db);
}

async function addTrunkColumn(db: Kysely<SqlSchema>, name: string, json: string): Promise<void> {
  await db.schema
    .alterTable('trunks')
    .addColumn(name, 'text', (column) => column.notNull().defaultTo(json))
    .execute();
}

/** A gateway gets a sid and dates of its own. Made of its place, for a step has no clock. */
async function nameGateways(db: Kysely<SqlSchema>): Promise<void> {
  let after = '';
  for (;;) {
    const rows = await db
      .selectFrom('trunks')
      .select(['sid', 'gateways', 'date_created_ms'])
      .where('sid', '>', after)
      .orderBy('sid')
      .limit(GATEWAY_ROWS_MAX)
      .execute();
    for (const row of rows) {
      const gateways = (JSON.parse(String(row.gateways)) as object[]).map((gateway, index) => {
        const digest = createHash('sha256').update(`${row.sid}/${index}`).digest('hex');
        const atMs = Number(row.date_created_ms);
        const name = { sid: `OU${digest.slice(0, 32)}`, friendlyName: '' };
        return { ...name, ...gateway, dateCreatedMs: atMs, dateUpdatedMs: atMs };
      });
      await db
        .updateTable('trunks')
        .set({ gateways: JSON.stringify(gateways) })
        .where('sid', '=', row.sid ?? null)
        .execute();
    }
    const last = rows.at(-1)?.sid;
    if (last === undefined) return;
    after = String(last);
  }
}

async function sipTables(db: Kysely<SqlSchema>): Promise<void> {
  for (const name of ['access_lists', 'credential_lists']) {
    await resourceTable(db, name)
      .addColumn('friendly_name', 'text', (column) => column.notNull())
      .execute();
  }
  await resourceTable(db, 'access_addresses')
    .addColumn('access_list_sid', 'text', (column) =>
      column.notNull().references('access_lists.sid').onDelete('cascade'),
    )
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('ip_address', 'text', (column) => column.notNull())
    .addColumn('cidr_prefix_length', 'integer', (column) => column.notNull())
    .addUniqueConstraint('access_addresses_once', [
      'access_list_sid',
      'ip_address',
      'cidr_prefix_length',
    ])
    .execute();
  await resourceTable(db, 'credentials')
    .addColumn('credential_list_sid', 'text', (column) =>
      column.notNull().references('credential_lists.sid').onDelete('cascade'),
    )
    .addColumn('username', 'text', (column) => column.notNull())
    .addColumn('password', 'text', (column) => column.notNull())
    .addUniqueConstraint('credentials_once', ['credential_list_sid', 'username'])
    .execute();
  await resourceTable(db, 'sip_domains')
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('domain_name', 'text', (column) => column.notNull().unique())
    .addColumn('voice_url', 'text')
    .addColumn('voice_method', 'text', (column) => column.notNull())
    .addColumn('voice_fallback_url', 'text')
    .addColumn('voice_fallback_method', 'text', (column) => column.notNull())
    .addColumn('status_callback', 'text')
    .addColumn('status_callback_method', 'text', (column) => column.notNull())
    .addColumn('sip_registration', 'integer', (column) => column.notNull())
    .addColumn('secure', 'integer', (column) => column.notNull())
    .addColumn('call_access_list_sids', 'text', (column) => column.notNull())
    .addColumn('call_credential_list_sids', 'text', (column) => column.notNull())
    .addColumn('registration_credential_list_sids', 'text', (column) => column.notNull())
    .execute();
  await resourceTable(db, 'routes')
    .addColumn('friendly_name', 'text', (column) => column.notNull())
    .addColumn('pattern', 'text', (column) => column.notNull())
    .addColumn('priority', 'integer', (column) => column.notNull())
    .addColumn('cost_per_minute', 'double precision', (column) => column.notNull())
    .addColumn('trunk_sid', 'text', (column) =>
      column.notNull().references('trunks.sid').onDelete('cascade'),
    )
    .addColumn('enabled', 'integer', (column) => column.notNull())
    .execute();
}

const SIP_TABLES = [
  'access_lists',
  'access_addresses',
  'credential_lists',
  'credentials',
  'sip_domains',
  'routes',
] as const;

async function sipIndexes(db: Kysely<SqlSchema>): Promise<void> {
  for (const table of SIP_TABLES) {
    await db.schema
      .createIndex(`${table}_by_account`)
      .on(table)
      .columns(['account_sid', 'date_created_ms', 'sid'])
      .execute();
  }
  await db.schema.createIndex('routes_by_trunk').on('routes').column('trunk_sid').execute();
}

async function registrationCallbacks(db: Kysely<SqlSchema>): Promise<void> {
  await db.schema.alterTable('sip_domains').addColumn('registration_callback', 'text').execute();
  const texts = [
    ['registration_callback_method', 'POST'],
    ['registration_callback_events', '["registered","unregistered","expired"]'],
  ] as const;
  for (const [name, value] of texts) {
    await db.schema
      .alterTable('sip_domains')
      .addColumn(name, 'text', (column) => column.notNull().defaultTo(value))
      .execute();
  }
}

export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: 'accounts, configuration, records of calls',
    async up(db) {
      await configurationTables(db);
      await recordTables(db);
      await indexes(db);
    },
  },
  { version: 2, name: 'one row for the trace of a call', up: foldCallEvents },
  { version: 3, name: 'credentials of calls from trunks', up: inboundCredentials },
  { version: 4, name: 'fewer index entries for a call', up: cheaperCallIndexes },
  { version: 5, name: 'policies, domains and names of trunks', up: trunkPolicies },
  {
    version: 6,
    name: 'access and credential lists, domains, routes',
    async up(db) {
      await sipTables(db);
      await sipIndexes(db);
    },
  },
  { version: 7, name: 'who is told of registrations', up: registrationCallbacks },
];

/** Brings the database to the newest known version; refuses one that is newer still. */
export async function migrate(o: {
  db: Kysely<SqlSchema>;
  clock: Clock;
  migrations?: readonly Migration[];
}): Promise<void> {
  const migrations = o.migrations ?? MIGRATIONS;
  await o.db.schema
    .createTable('schema_versions')
    .ifNotExists()
    .addColumn('version', 'integer', (column) => column.primaryKey())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('applied_ms', 'bigint', (column) => column.notNull())
    .execute();
  const known = migrations.at(-1)?.version ?? 0;
  const found = await version(o.db);
  if (found > known) throw new GatewayError('STORE_NEWER', { found, known });
  for (const step of migrations) {
    if (step.version <= found) continue;
    await o.db.transaction().execute(async (transaction) => {
      await step.up(transaction);
      // Last, and under the primary key: of two processes that migrate at once, one is refused.
      await transaction
        .insertInto('schema_versions')
        .values({ version: step.version, name: step.name, applied_ms: o.clock.nowMs() })
        .execute();
    });
  }
}

async function version(db: Kysely<SqlSchema>): Promise<number> {
  const row = await db
    .selectFrom('schema_versions')
    .select((expression) => expression.fn.max('version').as('version'))
    .executeTakeFirst();
  return Number(row?.version ?? 0);
}
