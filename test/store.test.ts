/**
 * The store: rows come back as they went in, the writer keeps order and loses nothing that it can
 * keep, lists turn pages while rows come and go, and one account never sees another's.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';
import { Kysely, SqliteDialect } from 'kysely';
import t from 'tap';
import { newCallRecord } from '../src/call/call-record.ts';
import { Ledger } from '../src/call/ledger.ts';
import { DEFAULT_TRACE, TraceBook } from '../src/call/trace.ts';
import { type Clock, realClock } from '../src/core/clock.ts';
import { loadConfig } from '../src/core/config.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, type CallSid, newSid } from '../src/core/sid.ts';
import { keepAccount } from '../src/node/foundations.ts';
import { ensureAccount, type FirstAccount, readAccount } from '../src/store/account-file.ts';
import { MIGRATIONS, migrate } from '../src/store/migrations.ts';
import { DEFAULT_PRUNING, Pruning } from '../src/store/pruning.ts';
import type { SqlSchema } from '../src/store/schema.ts';
import { DEFAULT_STORE, SqlStore, type StoreOptions } from '../src/store/sql.ts';
import { openSqlite } from '../src/store/sqlite.ts';
import type {
  AccountRow,
  CallRow,
  NotificationRow,
  NumberRow,
  RecordingRow,
  Store,
  StoreChange,
  TrunkRow,
} from '../src/store/store.ts';
import { trunkPolicy } from '../src/store/trunk-policy.ts';
import { BLANK_TRUNK, DEFAULT_TRUNKING } from '../src/store/trunk-row.ts';
import { DEFAULT_WRITER, Writer, type WriterOptions } from '../src/store/writer.ts';

/** A clock whose timers fire when told, after `passMs` of its monotonic time. */
function handClock() {
  const due = new Set<() => void>();
  const delaysMs: number[] = [];
  let nowMs = 0;
  const clock: Clock = {
    ...realClock,
    monotonicMs: () => nowMs,
    timer(delayMs, fn) {
      delaysMs.push(delayMs);
      due.add(fn);
      return { cancel: () => due.delete(fn) };
    },
  };
  return {
    clock,
    /** Of every timer that was begun. */
    delaysMs,
    fire(passMs = 0) {
      nowMs += passMs;
      const now = [...due];
      due.clear();
      for (const fn of now) fn();
      return now.length;
    },
  };
}

function open(
  o: { path?: string; clock?: Clock; store?: Partial<StoreOptions>; metrics?: Metrics } = {},
) {
  return openSqlite({
    options: { path: o.path ?? ':memory:', busyTimeoutMs: 20 },
    clock: o.clock ?? realClock,
    log: silentLog,
    metrics: o.metrics ?? new Metrics(),
    store: { ...DEFAULT_STORE, ...o.store },
  });
}

function account(sid = newSid('AC', realClock)): AccountRow {
  return {
    sid,
    authToken: new Secret('0123456789abcdef'),
    friendlyName: 'test',
    status: 'active',
    dateCreatedMs: 1,
    dateUpdatedMs: 1,
  };
}

function call(accountSid: AccountSid, change: Partial<CallRow> = {}): CallRow {
  return {
    sid: newSid('CA', realClock),
    accountSid,
    parentCallSid: null,
    to: '+4930123456',
    from: '+4930654321',
    status: 'completed',
    direction: 'inbound',
    phoneNumberSid: null,
    trunkSid: null,
    groupSid: null,
    answeredBy: null,
    forwardedFrom: null,
    callerName: 'Ünal "x" \'y\'',
    queueTimeMs: 0,
    startMs: 1_700_000_000_123,
    answerMs: null,
    endMs: 1_700_000_009_456,
    durationS: 9,
    endCode: 'CALL_COMPLETED',
    endFault: 'caller',
    sipStatus: 200,
    dateCreatedMs: 1_700_000_000_000,
    dateUpdatedMs: 1_700_000_000_000,
    ...change,
  };
}

async function storeWithAccount(o: Parameters<typeof open>[0] = {}) {
  const store = await open(o);
  const row = account();
  await store.accounts.save(row);
  return { store, ac: row.sid };
}

const VOICE = {
  voiceUrl: 'http://app/voice',
  voiceMethod: 'GET',
  voiceFallbackUrl: null,
  voiceFallbackMethod: 'POST',
  statusCallback: null,
  statusCallbackMethod: 'POST',
  voiceCallerIdLookup: true,
} as const;

function number(accountSid: AccountSid, change: Partial<NumberRow> = {}): NumberRow {
  return {
    ...VOICE,
    sid: newSid('PN', realClock),
    accountSid,
    friendlyName: 'main',
    phoneNumber: '+4930100',
    voiceApplicationSid: null,
    trunkSid: null,
    dateCreatedMs: 5,
    dateUpdatedMs: 6,
    ...change,
  };
}

t.test('rows of every table come back as they went in', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const application = {
    ...VOICE,
    sid: newSid('AP', realClock),
    accountSid: ac,
    friendlyName: 'a',
    dateCreatedMs: 2,
    dateUpdatedMs: 3,
  };
  const gateway = {
    sid: newSid('OU', realClock),
    friendlyName: 'first',
    uri: 'sip:10.0.0.1',
    priority: 1,
    weight: 2,
    enabled: true,
    dateCreatedMs: 2,
    dateUpdatedMs: 3,
  };
  const trunk: TrunkRow = {
    ...BLANK_TRUNK,
    sid: newSid('TK', realClock),
    accountSid: ac,
    friendlyName: 'carrier',
    enabled: false,
    gateways: [gateway],
    accessListSids: [newSid('AL', realClock)],
    credentialListSids: [newSid('CL', realClock)],
    domainName: 'carrier.example',
    inboundDomains: ['in.example'],
    certificateNames: ['sbc.example'],
    tlsOnly: true,
    policy: trunkPolicy({ dtmf: 'info', limits: { callsMax: 7 } }),
    trunking: { ...DEFAULT_TRUNKING, disasterRecoveryUrl: 'http://app/late' },
    username: 'u',
    password: new Secret('hidden'),
    realm: null,
    inboundUsername: 'pbx',
    inboundPassword: new Secret('hidden too'),
    inboundAddresses: ['10.0.0.0/8'],
    numberPatterns: ['+49*'],
    dateCreatedMs: 2,
    dateUpdatedMs: 3,
  };
  const recording: RecordingRow = {
    sid: newSid('RE', realClock),
    accountSid: ac,
    callSid: newSid('CA', realClock),
    status: 'completed',
    source: 'RecordVerb',
    track: 'both',
    channels: 2,
    startMs: 4,
    durationS: 5,
    errorCode: null,
    path: 'recordings/x.wav',
    dateCreatedMs: 2,
    dateUpdatedMs: 3,
  };
  const notification: NotificationRow = {
    sid: newSid('NO', realClock),
    accountSid: ac,
    callSid: null,
    level: 'warning',
    errorCode: 12200,
    messageText: 'x=1&y=%20',
    messageMs: 7,
    requestUrl: 'http://app/',
    requestMethod: 'POST',
    requestVariables: null,
    responseHeaders: null,
    responseBody: '<Response/>',
    dateCreatedMs: 2,
    dateUpdatedMs: 3,
  };
  const aCall = call(ac);
  const aNumber = number(ac, { voiceApplicationSid: application.sid, trunkSid: trunk.sid });
  const events = [{ seq: 1, atMs: 8, kind: 'sip', data: { a: [1], ü: 'x' } }];

  await store.applications.save(application);
  await store.trunks.save(trunk);
  await store.numbers.save(aNumber);
  store.calls.put(aCall);
  store.recordings.put(recording);
  store.notifications.put(notification);
  store.callTraces.put({ callSid: aCall.sid, accountSid: ac, events });
  await store.flush();

  t.strictSame(await store.applications.get(ac, application.sid), application);
  t.strictSame(await store.numbers.get(ac, aNumber.sid), aNumber);
  t.strictSame(await store.calls.get(ac, aCall.sid), aCall);
  t.strictSame(await store.recordings.get(ac, recording.sid), recording);
  t.strictSame(await store.notifications.get(ac, notification.sid), notification);
  t.strictSame(await store.callTraces.list(ac, aCall.sid), events);
  const back = await store.trunks.get(ac, trunk.sid);
  t.equal(back?.password?.reveal(), 'hidden');
  t.equal(back?.inboundPassword?.reveal(), 'hidden too');
  const open = { password: null, inboundPassword: null };
  t.strictSame({ ...back, ...open }, { ...trunk, ...open });
  t.equal((await store.accounts.get(ac, ac))?.authToken.reveal(), '0123456789abcdef');
});

t.test('a queued row is read at once, from get and from lists', async (t) => {
  const { clock } = handClock();
  const { store, ac } = await storeWithAccount({ clock });
  t.teardown(() => store.close());
  const row = call(ac, { status: 'ringing' });

  store.calls.put(row);
  store.calls.put({ ...row, status: 'in-progress' });
  const fetched = await store.calls.get(ac, row.sid);
  const listed = await store.calls.list({
    accountSid: ac,
    where: [{ field: 'status', op: '=', value: 'in-progress' }],
    rowsMax: 10,
  });

  t.equal(fetched?.status, 'in-progress');
  t.strictSame(
    listed.map((one) => one.sid),
    [row.sid],
  );
  const queued = call(ac);
  store.calls.put(queued);
  t.equal(await store.calls.remove(ac, queued.sid), true, 'and can be removed');
  t.equal(await store.calls.get(ac, queued.sid), null);
});

t.test('one account cannot read, list or remove what is another’s', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const other = account();
  await store.accounts.save(other);
  const queued = call(ac);
  const kept = call(ac);
  await store.calls.save(kept);
  store.calls.put(queued);

  for (const row of [queued, kept]) {
    t.equal(await store.calls.get(other.sid, row.sid), null);
    t.equal(await store.removeCall(other.sid, row.sid), false);
    t.equal(await store.calls.remove(other.sid, row.sid), false);
  }
  t.strictSame(await store.calls.list({ accountSid: other.sid, where: [], rowsMax: 9 }), []);
  t.equal((await store.calls.list({ accountSid: ac, where: [], rowsMax: 9 })).length, 2);
});

t.test('pages neither skip nor repeat while rows come and go', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  // Several share a millisecond: the sid decides.
  const rows = Array.from({ length: 25 }, (_, i) => call(ac, { dateCreatedMs: 1000 + (i >> 1) }));
  for (const row of rows) store.calls.put(row);

  const seen: CallRow[] = [];
  for (;;) {
    const last = seen.at(-1);
    const page = await store.calls.list({
      accountSid: ac,
      where: [],
      rowsMax: 4,
      ...(last && { position: last }),
    });
    if (page.length === 0) break;
    seen.push(...page);
    store.calls.put(call(ac, { dateCreatedMs: 5000 }));
    await store.removeCall(ac, page.at(-1)?.sid as CallSid);
  }
  const newestFirst = [...rows].sort(
    (a, b) => b.dateCreatedMs - a.dateCreatedMs || (a.sid < b.sid ? 1 : -1),
  );

  t.strictSame(
    seen.map((row) => row.sid),
    newestFirst.map((row) => row.sid),
  );
});

t.test('lists filter by comparison and by part of a text, wildcards being plain', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  for (const [index, to] of ['+1555', '+1%55', '+2555'].entries()) {
    store.calls.put(call(ac, { to, startMs: index, dateCreatedMs: index }));
  }
  const find = async (where: Parameters<Store['calls']['list']>[0]['where']) =>
    (await store.calls.list({ accountSid: ac, where, rowsMax: 9 })).map((row) => row.to);

  t.strictSame(await find([{ field: 'to', op: 'contains', value: '555' }]), ['+2555', '+1555']);
  t.strictSame(await find([{ field: 'to', op: 'contains', value: '%5' }]), ['+1%55']);
  t.strictSame(await find([{ field: 'startMs', op: '>=', value: 1 }]), ['+2555', '+1%55']);
  t.strictSame(await find([{ field: 'to', op: '=', value: "' or 1=1 --" }]), []);
});

t.test('a saved row is on disk, and only its owner may read the file', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-store-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'deep', 'tandem.db');
  const { store, ac } = await storeWithAccount({ path });
  const row = call(ac);
  store.calls.put(row);

  await store.close();
  await store.close();
  const again = await open({ path });
  t.teardown(() => again.close());

  t.strictSame(await again.calls.get(ac, row.sid), row);
  t.equal(statSync(path).mode & 0o777, 0o600);
});

t.test('a database of a newer program is refused in plain words', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-store-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'tandem.db');
  await (await open({ path })).close();
  const raw = new Sqlite(path);
  raw.prepare('insert into schema_versions values (?, ?, ?)').run(99, 'from the future', 1);
  raw.close();

  const known = MIGRATIONS.at(-1)?.version;
  await t.rejects(open({ path }), { code: 'STORE_NEWER', details: { found: 99, known } });
});

t.test('traces of an older database are one row each, as they were', async (t) => {
  const connection = new Sqlite(':memory:');
  const db = new Kysely<SqlSchema>({ dialect: new SqliteDialect({ database: connection }) });
  t.teardown(() => db.destroy());
  await migrate({ db, clock: realClock, migrations: MIGRATIONS.slice(0, 1) });
  connection.exec("insert into accounts values ('AC1', 'x', '', 'active', 1, 1)");
  const insert = connection.prepare('insert into call_events values (?, ?, ?, ?, ?, ?)');
  for (let i = 0; i < 450; i += 1) {
    for (const seq of [2, 1]) insert.run(`CA${i}`, 'AC1', seq, 10 + seq, 'sip', '{"text":"<-"}');
  }

  await migrate({ db, clock: realClock });

  const kept = await db.selectFrom('call_traces').selectAll().execute();
  t.equal(kept.length, 450);
  t.strictSame(JSON.parse(String(kept[7]?.events)), [
    { seq: 1, atMs: 11, kind: 'sip', data: { text: '<-' } },
    { seq: 2, atMs: 12, kind: 'sip', data: { text: '<-' } },
  ]);
});

t.test('a trace is read as it was, in whatever way it was kept', async (t) => {
  const path = join(mkdtempSync(join(tmpdir(), 'tandem-store-')), 'tandem.db');
  const { store, ac } = await storeWithAccount({ path });
  t.teardown(() => store.close());
  const events = [1, 2].map((seq) => {
    return { seq, atMs: seq, kind: 'sip', data: { text: `<- ${seq}`, detail: '' } };
  });
  const other = { seq: 3, atMs: 5, kind: 'verb', data: { text: 'Dial' } };
  const all = [...events, other];
  const lists = events.map(({ atMs, data }) => [atMs, 'sip', data.text, data.detail]);
  const [callSid, ofLists] = [newSid('CA', realClock), newSid('CA', realClock)];
  const connection = new Sqlite(path);
  const insert = connection.prepare('insert into call_traces values (?, ?, ?)');
  insert.run(callSid, ac, JSON.stringify(all));
  insert.run(ofLists, ac, JSON.stringify([...lists, [5, 'verb', other.data]]));

  t.strictSame(await store.callTraces.list(ac, callSid), all, 'before it was lists');
  t.strictSame(await store.callTraces.list(ac, ofLists), all, 'with times from the epoch');
  store.callTraces.put({ callSid, accountSid: ac, events: all });
  t.strictSame(await store.callTraces.list(ac, callSid), all, 'as it is written now');
  store.callTraces.put({ callSid, accountSid: ac, events: [] });
  t.strictSame(await store.callTraces.list(ac, callSid), [], 'also without a line');
  connection.close();
});

t.test('a migration that fails leaves the version before it, whole', async (t) => {
  const db = new Kysely<SqlSchema>({
    dialect: new SqliteDialect({ database: new Sqlite(':memory:') }),
  });
  t.teardown(() => db.destroy());
  const broken = {
    version: MIGRATIONS.length + 1,
    name: 'breaks half way',
    async up(inside: Kysely<SqlSchema>) {
      await inside.schema.createTable('half').addColumn('x', 'text').execute();
      await inside.schema.createTable('calls').addColumn('x', 'text').execute();
    },
  };

  await t.rejects(migrate({ db, clock: realClock, migrations: [...MIGRATIONS, broken] }));
  const versions = await db.selectFrom('schema_versions').select('version').execute();
  const tables = await db.introspection.getTables();

  t.strictSame(
    versions.map((row) => row.version),
    MIGRATIONS.map((one) => one.version),
  );
  t.notOk(tables.some((table) => table.name === 'half'));
  await migrate({ db, clock: realClock });
});

t.test('a locked database keeps rows waiting and takes them when it is free', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-store-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'tandem.db');
  const { store, ac } = await storeWithAccount({ path });
  t.teardown(() => store.close());
  const rival = new Sqlite(path);
  t.teardown(() => rival.close());
  const row = call(ac);

  rival.exec('begin immediate');
  store.calls.put(row);
  await t.rejects(store.flush(), { code: 'STORE_FAILED' });
  t.strictSame(await store.calls.get(ac, row.sid), row);
  rival.exec('rollback');
  await store.flush();

  const kept = rival.prepare('select count(*) as n from calls where sid = ?').get(row.sid);
  t.strictSame(kept, { n: 1 });
});

t.test('a row that breaks a constraint is lost alone, and counted', async (t) => {
  const metrics = new Metrics();
  const { store, ac } = await storeWithAccount({ metrics });
  t.teardown(() => store.close());
  const good = [call(ac), call(ac)];
  const orphan = call(newSid('AC', realClock));

  store.calls.put(good[0] as CallRow);
  store.calls.put(orphan);
  store.calls.put(good[1] as CallRow);
  await store.flush();

  const listed = await store.calls.list({ accountSid: ac, where: [], rowsMax: 9 });
  t.strictSame(new Set(listed.map((row) => row.sid)), new Set(good.map((row) => row.sid)));
  t.equal(await store.calls.get(orphan.accountSid, orphan.sid), null);
  t.match(await metrics.text(), 'store_rows_dropped_total{reason="refused"} 1');
});

t.test('a number is claimed once over all accounts', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const other = account();
  await store.accounts.save(other);
  await store.numbers.save(number(ac));

  await t.rejects(store.numbers.save(number(other.sid)), { code: 'STORE_CONFLICT' });
});

t.test('a removed trunk leaves its numbers, without it', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const trunkSid = newSid('TK', realClock);
  await store.trunks.save({
    ...BLANK_TRUNK,
    sid: trunkSid,
    accountSid: ac,
    dateCreatedMs: 1,
    dateUpdatedMs: 1,
  });
  const row = number(ac, { trunkSid });
  await store.numbers.save(row);
  const changes: StoreChange[] = [];
  store.onChange((change) => changes.push(change));

  await store.trunks.remove(ac, trunkSid);

  t.equal((await store.numbers.get(ac, row.sid))?.trunkSid, null);
  t.strictSame(
    (await store.numbers.all(10)).map((one) => one.sid),
    [row.sid],
  );
  t.strictSame(changes, [{ table: 'trunks', accountSid: ac, sid: trunkSid }]);
});

t.test('removing and pruning calls takes their trace along, and spares live ones', async (t) => {
  const { store, ac } = await storeWithAccount({ store: { callEventsMax: 3 } });
  t.teardown(() => store.close());
  const gone = call(ac, { dateCreatedMs: 10 });
  const old = call(ac, { dateCreatedMs: 20 });
  const live = call(ac, { dateCreatedMs: 20, status: 'in-progress' });
  const young = call(ac, { dateCreatedMs: 900 });
  for (const row of [gone, old, live, young]) {
    store.calls.put(row);
    const events = [1, 2, 3, 4, 5].map((seq) => ({ seq, atMs: seq, kind: 'x', data: {} }));
    store.callTraces.put({ callSid: row.sid, accountSid: ac, events });
  }

  t.equal((await store.callTraces.list(ac, live.sid)).length, 3, 'bounded for each call');
  t.equal(await store.removeCall(ac, gone.sid), true);
  t.equal(await store.pruneCalls(500, 100), 1);
  const left = await store.calls.list({ accountSid: ac, where: [], rowsMax: 9 });
  t.strictSame(
    left.map((row) => row.sid),
    [young.sid, live.sid],
  );
  t.strictSame(await store.callTraces.list(ac, gone.sid), []);
  t.strictSame(await store.callTraces.list(ac, old.sid), []);
  t.equal((await store.callTraces.list(ac, young.sid)).length, 3);
});

t.test('pruning takes the old calls of every account, as many as it may', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const other = account();
  await store.accounts.save(other);
  for (const sid of [ac, other.sid]) {
    for (let i = 0; i < 3; i += 1) store.calls.put(call(sid, { dateCreatedMs: i }));
  }

  t.equal(await store.pruneCalls(2, 3), 3);
  t.equal(await store.pruneCalls(2, 3), 1);
  t.equal(await store.pruneCalls(2, 3), 0);
  t.equal((await store.calls.all(9)).length, 2);
});

t.test('a live call is not written before its end, unless it lasts or is asked for', async (t) => {
  const { clock, fire } = handClock();
  const metrics = new Metrics();
  const options = { path: ':memory:', busyTimeoutMs: 20 };
  const store = await openSqlite({ options, clock, log: silentLog, metrics });
  t.teardown(() => store.close());
  const { sid: ac } = account();
  await store.accounts.save(account(ac));
  const written = async (): Promise<string> =>
    /rows_written_total (\d+)/.exec(await metrics.text())?.[1] ?? '';
  const live = call(ac, { status: 'ringing', endMs: null });

  store.calls.put(live);
  fire(DEFAULT_STORE.flushIntervalMs);
  await new Promise(setImmediate);
  t.equal(await written(), '0', 'it will change again');
  t.strictSame(await store.calls.get(ac, live.sid), live);
  store.calls.put({ ...live, status: 'completed', endMs: 5 });
  fire();
  await new Promise(setImmediate);
  t.equal(await written(), '1');

  const listed = call(ac, { status: 'ringing', endMs: null });
  store.calls.put(listed);
  t.equal((await store.calls.list({ accountSid: ac, where: [], rowsMax: 9 })).length, 2);
  t.equal(await written(), '2');
});

t.test('a call of ten states and forty trace lines is two rows', async (t) => {
  const { clock } = handClock();
  const metrics = new Metrics();
  const options = { path: ':memory:', busyTimeoutMs: 20 };
  const store = await openSqlite({ options, clock, log: silentLog, metrics });
  t.teardown(() => store.close());
  const { sid: accountSid } = account();
  await store.accounts.save(account(accountSid));
  const trace = new TraceBook({ clock, ...DEFAULT_TRACE });
  const ledger = new Ledger({ store, trace });
  const record = newCallRecord({
    sid: newSid('CA', realClock),
    accountSid,
    direction: 'inbound',
    from: '+1',
    to: '+2',
    status: 'in-progress',
    createdAtMs: 1,
  });
  trace.open(record.sid);

  for (let i = 0; i < 40; i += 1) trace.add(record.sid, 'sip', `<- ${i}`);
  for (let i = 0; i < 9; i += 1) ledger.take({ type: 'call.status', call: record, atMs: i });
  ledger.take({ type: 'call.completed', call: record, atMs: 10 });
  await store.flush();

  t.match(await metrics.text(), 'store_rows_written_total 2');
  t.equal((await store.callTraces.list(accountSid, record.sid)).length, 40);
  t.equal((await store.calls.get(accountSid, record.sid))?.dateUpdatedMs, 10);
});

t.test('a database without a way of its own is written through Kysely', async (t) => {
  const connection = new Sqlite(':memory:');
  const db = new Kysely<SqlSchema>({ dialect: new SqliteDialect({ database: connection }) });
  await migrate({ db, clock: realClock });
  const store = new SqlStore({
    database: { db, isConflict: () => false, close: () => db.destroy() },
    options: DEFAULT_STORE,
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
  });
  t.teardown(() => store.close());
  const owner = account();
  await store.accounts.save(owner);
  const rows = Array.from({ length: 70 }, (_, i) => call(owner.sid, { dateCreatedMs: i }));

  for (const row of rows) store.calls.put({ ...row, status: 'ringing' });
  await store.flush();
  for (const row of rows) store.calls.put(row);
  const events = [{ seq: 1, atMs: 1, kind: 'x', data: {} }];
  const [{ sid: callSid }] = rows as [CallRow];
  store.callTraces.put({ callSid, accountSid: owner.sid, events });

  const listed = await store.calls.list({ accountSid: owner.sid, where: [], rowsMax: 100 });
  t.strictSame(listed, rows.toReversed());
  t.strictSame(await store.callTraces.list(owner.sid, callSid), events);
});

t.test('writes of the writer do not break into a transaction of the store', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  for (let i = 0; i < 50; i += 1) store.calls.put(call(ac, { dateCreatedMs: i }));
  await store.flush();

  const work: Promise<unknown>[] = [];
  for (let i = 0; i < 20; i += 1) {
    store.calls.put(call(ac, { dateCreatedMs: 1_000 + i }));
    work.push(store.pruneCalls(i, 10), store.flush(), store.calls.save(call(ac)));
  }

  t.equal((await Promise.allSettled(work)).filter((one) => one.status === 'rejected').length, 0);
});

t.test('old calls go by themselves, batch after batch, and then each hour', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  for (let i = 0; i < 5; i += 1) store.calls.put(call(ac, { dateCreatedMs: 1_000 + i }));
  const young = call(ac, { dateCreatedMs: realClock.nowMs() });
  store.calls.put(young);
  const delays: number[] = [];
  const { clock, fire } = handClock();
  const seen: Clock = {
    ...clock,
    timer: (delayMs, fn) => {
      delays.push(delayMs);
      return clock.timer(delayMs, fn);
    },
  };
  const options = { ...DEFAULT_PRUNING, batchRowsMax: 2 };
  const pruning = new Pruning({ store, clock: seen, log: silentLog, options });

  pruning.start();
  for (let round = 0; round < 3; round += 1) {
    t.equal(fire(), 1);
    while (delays.length < round + 2) await new Promise((resolve) => setImmediate(resolve));
  }

  const { firstAfterMs, pauseMs, intervalMs } = options;
  t.strictSame(delays, [firstAfterMs, pauseMs, pauseMs, intervalMs]);
  const left = await store.calls.list({ accountSid: ac, where: [], rowsMax: 9 });
  t.strictSame(left, [young]);
  await pruning.close();
  t.equal(fire(), 0, 'and not after close');
});

t.test('zero days keeps every call', async (t) => {
  const { store } = await storeWithAccount();
  t.teardown(() => store.close());
  const { clock, fire } = handClock();
  const options = { ...DEFAULT_PRUNING, keepCallsMs: 0 };
  new Pruning({ store, clock, log: silentLog, options }).start();
  t.equal(fire(), 0);
});

t.test('a start leaves the kept account as it is, but for a changed token', async (t) => {
  const { store, ac } = await storeWithAccount();
  t.teardown(() => store.close());
  const kept = { ...account(ac), status: 'suspended', friendlyName: 'Mine' } as const;
  await store.accounts.save(kept);
  const given = { sid: ac, authToken: kept.authToken, isNew: false };

  await keepAccount(store, given, realClock);
  const same = await store.accounts.get(ac, ac);
  await keepAccount(store, { ...given, authToken: new Secret('rotated') }, realClock);
  const rotated = await store.accounts.get(ac, ac);
  const fresh = newSid('AC', realClock);
  await keepAccount(store, { ...given, sid: fresh }, realClock);

  t.match(same, { status: 'suspended', friendlyName: 'Mine', dateCreatedMs: 1, dateUpdatedMs: 1 });
  t.match(rotated, { status: 'suspended', dateCreatedMs: 1 });
  t.equal(rotated?.authToken.reveal(), 'rotated');
  t.match(await store.accounts.get(fresh, fresh), { status: 'active' });
});

t.test('a configured half of the account stands above the kept half, and is kept', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-account-'));
  t.teardown(() => rmSync(dataDir, { recursive: true }));
  const config = (given: Record<string, string> = {}) =>
    loadConfig({ environment: { TANDEM_DATA_DIR: dataDir, ...given } });
  const plain = (found: FirstAccount) => [found.sid, found.authToken.reveal()];
  const token = 'a'.repeat(32);
  const sid = newSid('AC', realClock);

  const made = ensureAccount(config(), realClock);
  t.equal(made.isNew, true);
  const rotation = config({ TANDEM_ACCOUNT_AUTH_TOKEN: token });
  t.strictSame(plain(readAccount(rotation)), [made.sid, token]);
  const rotated = ensureAccount(rotation, realClock);
  t.strictSame(plain(rotated), [made.sid, token]);
  t.equal(rotated.isNew, false);
  t.strictSame(plain(readAccount(config())), [made.sid, token], 'also without the variable');
  ensureAccount(config({ TANDEM_ACCOUNT_SID: sid }), realClock);
  t.strictSame(plain(readAccount(config())), [sid, token]);
  t.equal(statSync(join(dataDir, 'account.json')).mode & 0o777, 0o600);
});

interface Batches {
  readonly written: string[][];
  failing: boolean;
}

function writerOver(options: Partial<WriterOptions> = {}) {
  const { clock, fire, delaysMs } = handClock();
  const metrics = new Metrics();
  const batches: Batches = { written: [], failing: false };
  const writer = new Writer<string>({
    options: { ...DEFAULT_WRITER, ...options },
    clock,
    log: silentLog,
    metrics,
    sink: {
      async write(entries) {
        await Promise.resolve();
        if (batches.failing) throw new Sqlite.SqliteError('disk I/O error', 'SQLITE_IOERR');
        batches.written.push([...entries]);
      },
      isRefusal: () => false,
    },
  });
  return { writer, batches, fire, metrics, delaysMs };
}

t.test('the writer gathers rows and writes them in the order of their first put', async (t) => {
  const { writer, batches, fire } = writerOver({ batchRowsMax: 3 });

  writer.put('a', 'a1');
  writer.put('b', 'b1');
  t.strictSame(batches.written, [], 'nothing is written while the caller runs');
  writer.put('a', 'a2');
  writer.put('c', 'c1');
  writer.put('d', 'd1');
  t.equal(fire(), 1);
  await writer.flush();

  t.strictSame(batches.written, [['a2', 'b1', 'c1'], ['d1']]);
});

t.test('a row that will change again is held back, in its order, for so long', async (t) => {
  const { writer, batches, fire } = writerOver({ holdMs: 1_000, flushIntervalMs: 10 });

  writer.hold('a', 'a1');
  writer.hold('b', 'b1');
  fire(500);
  writer.hold('a', 'a2');
  writer.hold('c', 'c1');
  writer.put('b', 'b2');
  fire();
  await new Promise(setImmediate);
  t.strictSame(batches.written, [['b2']], 'a row that is put is written with the next batch');
  t.equal(writer.pending('a'), 'a2');
  t.equal(writer.depth, 2);
  fire(500);
  fire();
  await new Promise(setImmediate);
  t.strictSame(batches.written, [['b2'], ['a2']], 'held from its first word on');
  await writer.flush();
  t.strictSame(batches.written, [['b2'], ['a2'], ['c1']], 'who asks for a flush waits for all');
  t.equal(writer.depth, 0);
});

t.test('a row that waits to be written is not held back again', async (t) => {
  const { writer, batches, fire } = writerOver({ holdMs: 1_000 });

  writer.put('a', 'a1');
  writer.hold('a', 'a2');
  fire();
  await new Promise(setImmediate);

  t.strictSame(batches.written, [['a2']]);
  t.equal(writer.depth, 0);
});

t.test('a database that is away is asked again after growing pauses', async (t) => {
  const { writer, batches, fire, delaysMs } = writerOver({
    flushIntervalMs: 10,
    retryMinMs: 200,
    retryMaxMs: 1_000,
  });
  batches.failing = true;
  writer.put('a', 'a');
  const tick = async (): Promise<void> => {
    fire();
    await new Promise(setImmediate);
  };

  for (let tries = 0; tries < 5; tries += 1) await tick();
  t.strictSame(delaysMs, [10, 200, 400, 800, 1_000, 1_000]);
  batches.failing = false;
  await tick();
  await tick();
  writer.put('b', 'b');

  t.strictSame(batches.written, [['a']]);
  t.equal(delaysMs.at(-1), 10, 'and as before once it is back');
});

t.test('what is held never comes after what was put later', async (t) => {
  const { writer, batches, fire } = writerOver({ holdMs: 1_000 });
  batches.failing = true;
  writer.put('a', 'a1');
  const flushed = writer.flush();
  writer.hold('a', 'a2');
  await t.rejects(flushed, { code: 'STORE_FAILED' });
  t.equal(writer.pending('a'), 'a2');
  writer.put('a', 'a3');
  batches.failing = false;
  fire(2_000);
  await writer.flush();

  t.strictSame(batches.written, [['a3']]);
});

t.test('after a failed batch nothing is lost, doubled or reordered', async (t) => {
  const { writer, batches, fire } = writerOver({ batchRowsMax: 2 });
  batches.failing = true;

  for (const key of ['a', 'b', 'c']) writer.put(key, `${key}1`);
  const flushed = writer.flush();
  t.equal(writer.pending('b'), 'b1', 'found while it is being written');
  writer.put('a', 'a2');
  await t.rejects(flushed, { code: 'STORE_FAILED' });
  t.equal(writer.pending('a'), 'a2');
  t.equal(writer.pending('b'), 'b1');
  batches.failing = false;
  t.equal(fire(), 1, 'it tries again by itself');
  await writer.flush();

  t.strictSame(batches.written, [['a2', 'b1'], ['c1']]);
  t.equal(writer.pending('a'), undefined);
});

t.test('the queue is bounded: what is over is dropped, counted and does not throw', async (t) => {
  const { writer, batches, metrics } = writerOver({ queueRowsMax: 2 });

  writer.hold('a', 'a0');
  for (const key of ['a', 'b', 'c']) writer.put(key, key);
  writer.hold('d', 'd');
  writer.put('b', 'b2');
  await writer.flush();

  t.strictSame(batches.written, [['a', 'b2']]);
  t.match(await metrics.text(), 'store_rows_dropped_total{reason="full"} 2');
});

t.test('what cannot be written at close is counted as lost', async (t) => {
  const { writer, batches, metrics } = writerOver();
  batches.failing = true;
  writer.put('a', 'a');

  await writer.close();
  writer.put('b', 'b');

  t.match(await metrics.text(), 'store_rows_dropped_total{reason="closed"} 1');
});
