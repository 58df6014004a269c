/**
 * What the store keeps of SIP: trunks with their policy, lists, domains and routes come back as
 * they went in, a database of the last release is brought along with all it holds, and what
 * refers to a row goes with it or stands in its way.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';
import { Kysely, SqliteDialect } from 'kysely';
import t, { type Test } from 'tap';
import { realClock } from '../src/core/clock.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import { MIGRATIONS, migrate } from '../src/store/migrations.ts';
import type { SqlSchema } from '../src/store/schema.ts';
import { openSqlite } from '../src/store/sqlite.ts';
import type {
  AccessAddressRow,
  AccessListRow,
  CredentialListRow,
  CredentialRow,
  RouteRow,
  SipDomainRow,
  Store,
  StoreChange,
  TrunkRow,
} from '../src/store/store.ts';
import { DEFAULT_TRUNK_POLICY, trunkPolicy } from '../src/store/trunk-policy.ts';
import { BLANK_TRUNK, DEFAULT_TRUNKING } from '../src/store/trunk-row.ts';

/** The schema that was released before trunks had policies. */
const RELEASED = 4;

const DATES = { dateCreatedMs: 2, dateUpdatedMs: 3 };

function openAt(path: string): Promise<Store> {
  const options = { path, busyTimeoutMs: 20 };
  return openSqlite({ options, clock: realClock, log: silentLog, metrics: new Metrics() });
}

async function open(t: Test): Promise<{ store: Store; ac: AccountSid }> {
  const store = await openAt(':memory:');
  t.teardown(() => store.close());
  return { store, ac: await addAccount(store) };
}

async function addAccount(store: Store): Promise<AccountSid> {
  const sid = newSid('AC', realClock);
  const authToken = new Secret('0123456789abcdef');
  await store.accounts.save({ sid, authToken, friendlyName: '', status: 'active', ...DATES });
  return sid;
}

function trunk(accountSid: AccountSid, change: Partial<TrunkRow> = {}): TrunkRow {
  return { ...BLANK_TRUNK, sid: newSid('TK', realClock), accountSid, ...DATES, ...change };
}

function domain(accountSid: AccountSid, change: Partial<SipDomainRow> = {}): SipDomainRow {
  return {
    sid: newSid('SD', realClock),
    accountSid,
    friendlyName: 'office',
    domainName: 'office.example',
    voiceUrl: 'http://app/voice',
    voiceMethod: 'GET',
    voiceFallbackUrl: null,
    voiceFallbackMethod: 'POST',
    statusCallback: 'http://app/status',
    statusCallbackMethod: 'POST',
    sipRegistration: true,
    secure: false,
    callAccessListSids: [newSid('AL', realClock)],
    callCredentialListSids: [],
    registrationCredentialListSids: [newSid('CL', realClock)],
    registrationCallback: 'http://app/phones',
    registrationCallbackMethod: 'GET',
    registrationCallbackEvents: ['registered', 'refreshed'],
    ...DATES,
    ...change,
  };
}

function route(accountSid: AccountSid, trunkSid: TrunkRow['sid']): RouteRow {
  const sid = newSid('RT', realClock);
  const rest = { friendlyName: 'de', pattern: '+49*', priority: 3, costPerMinute: 0.0125 };
  return { sid, accountSid, trunkSid, enabled: true, ...rest, ...DATES };
}

function lists(accountSid: AccountSid) {
  const access: AccessListRow = {
    sid: newSid('AL', realClock),
    accountSid,
    friendlyName: 'offices',
    ...DATES,
  };
  const address: AccessAddressRow = {
    sid: newSid('IP', realClock),
    accountSid,
    accessListSid: access.sid,
    friendlyName: 'Berlin',
    ipAddress: '192.0.2.0',
    cidrPrefixLength: 24,
    ...DATES,
  };
  const users: CredentialListRow = {
    sid: newSid('CL', realClock),
    accountSid,
    friendlyName: 'phones',
    ...DATES,
  };
  const user: CredentialRow = {
    sid: newSid('CR', realClock),
    accountSid,
    credentialListSid: users.sid,
    username: 'alice',
    password: new Secret('Sesame-Open-12'),
    ...DATES,
  };
  return { access, address, users, user };
}

t.test('lists, domains and routes come back as they went in', async (t) => {
  const { store, ac } = await open(t);
  const { access, address, users, user } = lists(ac);
  const carrier = trunk(ac);
  const office = domain(ac);
  const cheap = route(ac, carrier.sid);

  await store.accessLists.save(access);
  await store.accessAddresses.save(address);
  await store.credentialLists.save(users);
  await store.credentials.save(user);
  await store.sipDomains.save(office);
  await store.trunks.save(carrier);
  await store.routes.save(cheap);

  t.strictSame(await store.accessLists.get(ac, access.sid), access);
  t.strictSame(await store.accessAddresses.get(ac, address.sid), address);
  t.strictSame(await store.credentialLists.get(ac, users.sid), users);
  t.strictSame(await store.sipDomains.get(ac, office.sid), office);
  t.strictSame(await store.routes.get(ac, cheap.sid), cheap);
  t.strictSame(await store.trunks.get(ac, carrier.sid), carrier);
  const back = await store.credentials.get(ac, user.sid);
  t.equal(back?.password.reveal(), 'Sesame-Open-12');
  t.notMatch(JSON.stringify(back), /Sesame/, 'nor is it printed with its row');
  const stranger = await addAccount(store);
  t.equal(await store.credentials.get(stranger, user.sid), null, 'another account has no such row');
});

t.test('whoever keeps a cache hears of every table of configuration', async (t) => {
  const { store, ac } = await open(t);
  const { access, address, users, user } = lists(ac);
  const carrier = trunk(ac);
  const cheap = route(ac, carrier.sid);
  const office = domain(ac);
  const changes: StoreChange[] = [];
  store.onChange((change) => changes.push(change));

  await store.accessLists.save(access);
  await store.accessAddresses.save(address);
  await store.credentialLists.save(users);
  await store.credentials.save(user);
  await store.sipDomains.save(office);
  await store.trunks.save(carrier);
  await store.routes.save(cheap);
  await store.routes.remove(ac, cheap.sid);

  t.strictSame(
    changes.map(({ table }) => table),
    [
      'access_lists',
      'access_addresses',
      'credential_lists',
      'credentials',
      'sip_domains',
      'trunks',
      'routes',
      'routes',
    ],
  );
});

t.test('a user is once in a list, a name once over all accounts', async (t) => {
  const { store, ac } = await open(t);
  const other = await addAccount(store);
  const { access, address, users, user } = lists(ac);
  await store.accessLists.save(access);
  await store.accessAddresses.save(address);
  await store.credentialLists.save(users);
  await store.credentials.save(user);
  await store.sipDomains.save(domain(ac));
  await store.trunks.save(trunk(ac, { domainName: 'carrier.example' }));
  await store.trunks.save(trunk(ac));
  await store.trunks.save(trunk(ac));

  const conflict = { code: 'STORE_CONFLICT' };
  const again = { ...user, sid: newSid('CR', realClock) };
  await t.rejects(store.credentials.save(again), conflict);
  await store.credentials.save({ ...again, username: 'Alice' });
  const twin = { ...address, sid: newSid('IP', realClock) };
  await t.rejects(store.accessAddresses.save(twin), conflict);
  await t.rejects(store.sipDomains.save(domain(other)), conflict);
  await t.rejects(store.trunks.save(trunk(other, { domainName: 'carrier.example' })), conflict);
});

t.test('entries go with their list, routes with their trunk', async (t) => {
  const { store, ac } = await open(t);
  const { access, address, users, user } = lists(ac);
  const carrier = trunk(ac);
  const cheap = route(ac, carrier.sid);
  await store.accessLists.save(access);
  await store.accessAddresses.save(address);
  await store.credentialLists.save(users);
  await store.credentials.save(user);
  await store.trunks.save(carrier);
  await store.routes.save(cheap);

  await store.accessLists.remove(ac, access.sid);
  await store.credentialLists.remove(ac, users.sid);
  await store.trunks.remove(ac, carrier.sid);

  t.equal(await store.accessAddresses.get(ac, address.sid), null);
  t.equal(await store.credentials.get(ac, user.sid), null);
  t.equal(await store.routes.get(ac, cheap.sid), null);
});

t.test('rows are counted and found by what a list of them holds', async (t) => {
  const { store, ac } = await open(t);
  const other = await addAccount(store);
  await store.trunks.save(trunk(ac, { inboundDomains: ['a.example', 'b.example'] }));
  await store.trunks.save(trunk(ac, { inboundDomains: ['bb.example'] }));
  await store.trunks.save(trunk(other));

  t.equal(await store.trunks.count(ac), 2);
  t.equal(await store.trunks.count(other), 1);
  const has = (value: string) =>
    store.trunks.all(9, [{ field: 'inboundDomains', op: 'contains', value }]);
  t.equal((await has('"b.example"')).length, 1, 'a whole name, not the end of another');
  t.equal((await has('b.example')).length, 2);
  t.equal(await store.trunks.count(ac, [{ field: 'enabled', op: '=', value: 0 }]), 0);
});

t.test('a database of the last release keeps its trunks, and they gain a policy', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-store-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'tandem.db');
  const connection = new Sqlite(path);
  const db = new Kysely<SqlSchema>({ dialect: new SqliteDialect({ database: connection }) });
  await migrate({ db, clock: realClock, migrations: MIGRATIONS.slice(0, RELEASED) });
  const ac = newSid('AC', realClock);
  const sids = Array.from({ length: 450 }, () => newSid('TK', realClock));
  connection.prepare('insert into accounts values (?, ?, ?, ?, 1, 1)').run(ac, 'x', '', 'active');
  const insert = connection.prepare(
    `insert into trunks (sid, account_sid, date_created_ms, date_updated_ms, friendly_name, enabled,
     gateways, username, password, realm, inbound_addresses, number_patterns, inbound_username,
     inbound_password) values (?, ?, 5, 6, 'old', 1, ?, 'me', 'secret', null, ?, ?, ?, 'pw')`,
  );
  const gateways = [
    { uri: 'sip:a.example', priority: 1, weight: 2, enabled: true },
    { uri: 'sip:b.example', priority: 2, weight: 1, enabled: false },
  ];
  for (const [index, sid] of sids.entries()) {
    insert.run(sid, ac, JSON.stringify(gateways), '["192.0.2.1"]', '["+49*"]', `pbx${index}`);
  }
  const number = newSid('PN', realClock);
  connection
    .prepare(
      `insert into numbers values (?, ?, 1, 1, 'main', null, 'POST', null, 'POST', null, 'POST', 0,
       '+4930100', null, ?)`,
    )
    .run(number, ac, sids[0]);
  await db.destroy();

  const store = await openAt(path);
  t.teardown(() => store.close());
  const [first, ...rest] = await store.trunks.all(1_000);

  t.equal(rest.length, sids.length - 1);
  t.match(first, {
    friendlyName: 'old',
    inboundAddresses: ['192.0.2.1'],
    numberPatterns: ['+49*'],
    gateways,
    domainName: null,
    inboundDomains: [],
    certificateNames: [],
    accessListSids: [],
    credentialListSids: [],
    tlsOnly: false,
  });
  t.strictSame(first?.policy, DEFAULT_TRUNK_POLICY);
  t.strictSame(first?.trunking, DEFAULT_TRUNKING);
  t.equal(first?.password?.reveal(), 'secret');
  const named = [first, ...rest].flatMap((row) => row?.gateways ?? []);
  t.equal(
    new Set(named.map(({ sid }) => sid)).size,
    2 * sids.length,
    'each gateway by its own sid',
  );
  t.ok(
    named.every(({ sid, dateCreatedMs }) => /^OU[0-9a-f]{32}$/.test(sid) && dateCreatedMs === 5),
  );
  t.equal(
    (await store.numbers.get(ac, number))?.trunkSid,
    sids[0],
    'its numbers still refer to it',
  );
});

t.test('a policy that an older version wrote is completed when it is read', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-store-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'tandem.db');
  const store = await openAt(path);
  t.teardown(() => store.close());
  const ac = await addAccount(store);
  const row = trunk(ac);
  await store.trunks.save(row);
  const connection = new Sqlite(path);
  connection
    .prepare('update trunks set policy = ?, trunking = ?')
    .run('{"dtmf":"info","limits":{"callsMax":7},"gone":1}', '{"transferSipOnly":true}');
  connection.close();

  const back = await store.trunks.get(ac, row.sid);

  t.strictSame(back?.policy, trunkPolicy({ dtmf: 'info', limits: { callsMax: 7 } }));
  t.strictSame(back?.trunking, { ...DEFAULT_TRUNKING, transferSipOnly: true });
});
