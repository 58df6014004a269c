/**
 * The REST surface, asked by the official client library where it can be, and by plain requests
 * where a library would not go: bad credentials, methods, bodies, ranges, other accounts. Calls
 * are kept by a small in-memory implementation of what the surface needs of them.
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import twilio from 'twilio';
import type { CallChange, CallSpec } from '../src/api/call-spec.ts';
import type { CallControl, CallView } from '../src/api/calls.ts';
import { createRestApi, DEFAULT_REST, type RestOptions } from '../src/api/surface.ts';
import { formatTrace } from '../src/api/trace-text.ts';
import { realClock } from '../src/core/clock.ts';
import { GatewayError } from '../src/core/errors.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, type CallSid, newSid, type RecordingSid } from '../src/core/sid.ts';
import { DEFAULT_HTTP_SERVER, HttpServer, type HttpServerOptions } from '../src/http/server.ts';
import { openSqlite } from '../src/store/sqlite.ts';
import type { AccountRow, CallEvent, CallRow, RecordingRow, Store } from '../src/store/store.ts';
import { callToken } from '../src/verbs/call-token.ts';

const TOKEN = 'f00dfeedf00dfeedf00dfeedf00dfeed';

/** Calls that ring until told otherwise. */
class MemoryCalls implements CallControl {
  readonly views = new Map<CallSid, CallView>();
  readonly specs: CallSpec[] = [];
  readonly changes: { sid: CallSid; change: CallChange }[] = [];
  readonly limits: { sid: CallSid; timeLimitMs: number }[] = [];
  readonly #store: Store;

  constructor(o: { store: Store }) {
    this.#store = o.store;
  }

  async create(spec: CallSpec): Promise<CallView> {
    this.specs.push(spec);
    const row = callRow(spec.accountSid, { to: spec.to, from: spec.from, status: 'queued' });
    this.set(row);
    return row;
  }

  async redirect(sid: CallSid, change: CallChange): Promise<CallView> {
    this.changes.push({ sid, change });
    return this.#find(sid);
  }

  async end(sid: CallSid, status: 'canceled' | 'completed'): Promise<CallView> {
    const row: CallView = { ...this.#find(sid), status, endMs: realClock.nowMs(), durationS: 7 };
    this.#store.calls.put(row);
    this.views.delete(sid);
    return row;
  }

  async setTimeLimit(sid: CallSid, timeLimitMs: number): Promise<CallView> {
    this.limits.push({ sid, timeLimitMs });
    return this.#find(sid);
  }

  live(sid: CallSid): CallView | null {
    return this.views.get(sid) ?? null;
  }

  set(view: CallView): void {
    this.views.set(view.sid, view);
    this.#store.calls.put(view);
  }

  #find(sid: CallSid): CallView {
    const view = this.views.get(sid);
    if (!view) throw new GatewayError('CALL_NOT_LIVE', { status: 'completed' });
    return view;
  }
}

function callRow(accountSid: AccountSid, change: Partial<CallRow> = {}): CallRow {
  return {
    sid: newSid('CA', realClock),
    accountSid,
    parentCallSid: null,
    to: '+15550001',
    from: '+15550002',
    status: 'completed',
    direction: 'outbound-api',
    phoneNumberSid: null,
    trunkSid: null,
    groupSid: null,
    answeredBy: null,
    forwardedFrom: null,
    callerName: null,
    queueTimeMs: 0,
    startMs: null,
    answerMs: null,
    endMs: null,
    durationS: null,
    endCode: null,
    endFault: null,
    sipStatus: null,
    dateCreatedMs: realClock.nowMs(),
    dateUpdatedMs: realClock.nowMs(),
    ...change,
  };
}

function recordingRow(call: CallRow, change: Partial<RecordingRow> = {}): RecordingRow {
  return {
    sid: newSid('RE', realClock),
    accountSid: call.accountSid,
    callSid: call.sid,
    status: 'completed',
    source: 'RecordVerb',
    track: 'both',
    channels: 1,
    startMs: Date.UTC(2026, 0, 2, 3, 4, 5),
    durationS: 12,
    errorCode: null,
    path: 'x.wav',
    dateCreatedMs: Date.UTC(2026, 0, 2, 3, 4, 5),
    dateUpdatedMs: Date.UTC(2026, 0, 2, 3, 4, 5),
    ...change,
  };
}

interface World {
  readonly store: Store;
  readonly calls: MemoryCalls;
  readonly account: AccountRow;
  readonly base: string;
  readonly port: number;
  readonly client: ReturnType<typeof twilio>;
  readonly notReady: string[];
  readonly traces: Map<CallSid, readonly CallEvent[]>;
  /** Files by recording; removed ones leave. */
  readonly audio: Map<RecordingSid, string>;
  readonly server: HttpServer;
  ask(path: string, init?: RequestInit & { as?: AccountRow | null }): Promise<Response>;
  asOther(account: AccountRow): ReturnType<typeof twilio>;
}

async function addAccount(store: Store, change: Partial<AccountRow> = {}): Promise<AccountRow> {
  const row: AccountRow = {
    sid: newSid('AC', realClock),
    authToken: new Secret(TOKEN),
    friendlyName: 'test',
    status: 'active',
    dateCreatedMs: Date.UTC(2010, 7, 31, 20, 36, 28),
    dateUpdatedMs: Date.UTC(2010, 7, 31, 20, 36, 28),
    ...change,
  };
  await store.accounts.save(row);
  return row;
}

function clientOf(account: AccountRow, base: string): ReturnType<typeof twilio> {
  const client = twilio(account.sid, account.authToken.reveal());
  client.api.baseUrl = base;
  return client;
}

async function start(
  t: Test,
  o: { http?: Partial<HttpServerOptions>; rest?: Partial<RestOptions> } = {},
): Promise<World> {
  const metrics = new Metrics();
  const common = { clock: realClock, log: silentLog };
  const options = { path: ':memory:', busyTimeoutMs: 50 };
  const store = await openSqlite({ ...common, metrics, options });
  const account = await addAccount(store);
  const calls = new MemoryCalls({ store });
  const notReady: string[] = [];
  const traces: World['traces'] = new Map();
  const audio: World['audio'] = new Map();
  const server = await HttpServer.create({
    ...common,
    metrics,
    options: { ...DEFAULT_HTTP_SERVER, port: 0, ...o.http },
    health: { notReady: () => notReady },
  });
  const file = (recording: RecordingRow, contentType: string) => {
    const path = audio.get(recording.sid);
    return path === undefined ? null : { path, contentType };
  };
  const api = createRestApi({
    ...common,
    store,
    calls,
    media: {
      wav: async (recording) => file(recording, 'audio/x-wav'),
      mp3: async (recording) => file(recording, 'audio/mpeg'),
      remove: async (recording) => void audio.delete(recording.sid),
    },
    trace: (sid) => traces.get(sid) ?? null,
    publicUrl: 'http://127.0.0.1',
    options: { ...DEFAULT_REST, ...o.rest },
  });
  await api.mount(server.app);
  const { port } = await server.listen();
  t.teardown(async () => {
    await server.close();
    await store.close();
  });
  const base = `http://127.0.0.1:${port}`;
  return {
    store,
    calls,
    account,
    base,
    port,
    notReady,
    traces,
    audio,
    server,
    client: clientOf(account, base),
    asOther: (other) => clientOf(other, base),
    ask(path, { as = account, ...init } = {}) {
      const headers = new Headers(init.headers);
      if (as) headers.set('authorization', basic(as.sid, as.authToken.reveal()));
      return fetch(`${base}${path}`, { ...init, headers });
    },
  };
}

function basic(user: string, password: string): string {
  return `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
}

function form(fields: Record<string, string>): RequestInit {
  return { method: 'POST', body: new URLSearchParams(fields) };
}

/** The answer's fields; most are text, the rest is only compared. */
async function json(response: Response): Promise<Record<string, string>> {
  return (await response.json()) as Record<string, string>;
}

function path(world: World, rest: string): string {
  return `/2010-04-01/Accounts/${world.account.sid}${rest}`;
}

const URL_SOURCE = { to: '+1 (555) 000-1', from: '+15550002', url: 'http://app/voice?a=1&b=2' };

t.test('a call that goes on from another shows its caller by the token of that call', async (t) => {
  const world = await start(t);
  const { client, calls, account } = world;
  const callSid = `CA${'5'.repeat(32)}` as CallSid;
  const token = callToken({ callSid, from: '+15550002' }, account.authToken);
  const foreign = callToken({ callSid, from: '+15550002' }, new Secret('of somebody else'));

  await client.calls.create({ ...URL_SOURCE, callToken: token });
  t.equal(calls.specs[0]?.forwards, callSid);
  await client.calls.create({
    ...URL_SOURCE,
    from: '+1999',
    callerId: '+15550002',
    callToken: token,
  });
  t.equal(calls.specs[1]?.forwards, callSid, 'it is who is shown that counts');
  await client.calls.create(URL_SOURCE);
  t.equal(calls.specs[2]?.forwards, null);

  for (const change of [
    { callToken: foreign },
    { callToken: 'anything' },
    { callToken: token, from: '+15550003' },
  ]) {
    await t.rejects(client.calls.create({ ...URL_SOURCE, ...change }), {
      code: 20001,
      status: 400,
    });
  }
  t.equal(calls.specs.length, 3, 'nothing was called');
});

t.test('a call names only those resources below it that there are', async (t) => {
  const world = await start(t);
  const made = await world.client.calls.create(URL_SOURCE);

  for (const [name, uri] of Object.entries(made.subresourceUris)) {
    const { status } = await world.ask(uri);
    t.equal(status, 200, name);
  }
  t.ok(Object.keys(made.subresourceUris).length >= 3);
});

t.test('the client library creates, fetches, changes and ends a call', async (t) => {
  const world = await start(t);
  const { client, calls } = world;

  const made = await client.calls.create({
    ...URL_SOURCE,
    method: 'GET',
    statusCallback: 'http://app/status',
    statusCallbackEvent: ['initiated', 'answered'],
    sendDigits: 'ww1',
    timeout: 20,
    timeLimit: 90,
    record: true,
    recordingChannels: 'dual',
    sipAuthUsername: 'u',
    sipAuthPassword: 'p',
  });
  const sid = made.sid as CallSid;
  t.match(calls.specs[0], {
    to: '+15550001',
    source: { kind: 'url', url: URL_SOURCE.url, method: 'GET' },
    statusCallback: { url: 'http://app/status', method: 'POST', events: ['initiated', 'answered'] },
    sendDigits: 'ww1',
    ringTimeoutMs: 20_000,
    timeLimitMs: 90_000,
    record: { channels: 2, track: 'both', trimSilence: true, callback: null },
    credentials: { username: 'u' },
  });
  t.equal(made.status, 'queued');
  t.equal((await client.calls(sid).fetch()).sid, sid);

  const live = calls.live(sid) as CallView;
  calls.set({ ...live, status: 'in-progress', startMs: Date.UTC(2026, 1, 3, 4, 5, 6) });
  const redirected = await client.calls(sid).update({ twiml: '<Response/>', timeLimit: 30 });
  t.equal(redirected.status, 'in-progress');
  t.strictSame(redirected.startTime, new Date(Date.UTC(2026, 1, 3, 4, 5, 6)));
  t.strictSame(calls.changes, [
    {
      sid,
      change: {
        source: { kind: 'twiml', twiml: '<Response/>' },
        fallback: null,
        statusCallback: null,
      },
    },
  ]);
  t.strictSame(calls.limits, [{ sid, timeLimitMs: 30_000 }]);

  await t.rejects(client.calls(sid).remove(), { code: 20009, status: 400 });
  await t.rejects(client.calls(sid).update({ status: 'canceled' }), { code: 21220 });
  const ended = await client.calls(sid).update({ status: 'completed' });
  t.equal(ended.status, 'completed');
  t.equal(ended.duration, '7');
  await t.rejects(client.calls(sid).update({ url: 'http://app/2' }), { code: 21220, status: 400 });

  t.equal(await client.calls(sid).remove(), true);
  await t.rejects(client.calls(sid).fetch(), { code: 20404, status: 404 });
});

t.test('a call has every field of the reference, null where nothing is known', async (t) => {
  const world = await start(t);
  const at = Date.UTC(2010, 7, 31, 20, 36, 28);
  const dates = { startMs: at, dateCreatedMs: at, dateUpdatedMs: at };
  const row = callRow(world.account.sid, { ...dates, to: '+14155551234' });
  world.store.calls.put(row);

  for (const suffix of ['', '.json']) {
    const response = await world.ask(path(world, `/Calls/${row.sid}${suffix}`));
    const body = await json(response);
    const own = path(world, `/Calls/${row.sid}`);
    t.match(response.headers.get('content-type'), 'application/json');
    t.match(body, { subresource_uris: { recordings: `${own}/Recordings.json` } });
    t.strictSame(
      { ...body, subresource_uris: null },
      {
        sid: row.sid,
        account_sid: row.accountSid,
        parent_call_sid: null,
        to: '+14155551234',
        to_formatted: '(415) 555-1234',
        from: '+15550002',
        from_formatted: '+15550002',
        phone_number_sid: null,
        status: 'completed',
        start_time: 'Tue, 31 Aug 2010 20:36:28 +0000',
        end_time: null,
        duration: null,
        price: null,
        price_unit: 'USD',
        direction: 'outbound-api',
        answered_by: null,
        api_version: '2010-04-01',
        forwarded_from: null,
        group_sid: null,
        caller_name: null,
        queue_time: '0',
        trunk_sid: null,
        date_created: 'Tue, 31 Aug 2010 20:36:28 +0000',
        date_updated: 'Tue, 31 Aug 2010 20:36:28 +0000',
        uri: `${own}.json`,
        subresource_uris: null,
        end_code: null,
        end_fault: null,
        sip_status: null,
      },
    );
  }
});

t.test('creating a call says what is wrong with it, in the reference’s numbers', async (t) => {
  const world = await start(t);
  const { client, calls } = world;
  const create = (change: object) => client.calls.create({ ...URL_SOURCE, ...change });
  const none = { url: undefined };

  await t.rejects(create({ to: '' }), { code: 21201, status: 400 });
  await t.rejects(create({ to: 'not a number' }), { code: 21211 });
  await t.rejects(create({ from: '' }), { code: 21213 });
  await t.rejects(create({ from: 'someone else' }), { code: 21212 });
  await t.rejects(create({ from: 'alice' }), { code: 21212 }, 'a name calls SIP only');
  await t.rejects(create({ url: 'app/voice' }), { code: 21205 });
  await t.rejects(create({ url: 'ftp://app/voice' }), { code: 21205 });
  await t.rejects(create(none), { code: 21205 });
  await t.rejects(create({ sendDigits: '12x' }), { code: 21206 });
  await t.rejects(create({ timeout: 0 }), { code: 21208 });
  await t.rejects(create({ timeout: 'soon' }), { code: 21208 });
  await t.rejects(create({ timeLimit: -1 }), { code: 20001 });
  await t.rejects(create({ method: 'PUT' }), { code: 20001, message: /Method/ });
  await t.rejects(create({ ...none, twiml: `<!--${'x'.repeat(4000)}-->` }), { code: 32018 });
  const unknown = `AP${'0'.repeat(32)}`;
  await t.rejects(create({ ...none, applicationSid: unknown }), { code: 21218 });
  t.strictSame(calls.specs, []);

  await create({ to: 'sip:bob@[::1]:5070;transport=tcp?X-a=b', from: 'alice' });
  await create({ to: 'client:bob', from: 'client:alice', method: 'get' });
  t.strictSame(
    calls.specs.map(({ to, from }) => [to, from]),
    [
      ['sip:bob@[::1]:5070;transport=tcp?X-a=b', 'alice'],
      ['client:bob', 'client:alice'],
    ],
  );
});

t.test('a call of an application takes its URLs', async (t) => {
  const world = await start(t);
  const { client, calls } = world;
  const application = await client.applications.create({
    voiceUrl: 'http://app/voice',
    voiceMethod: 'GET',
    voiceFallbackUrl: 'http://spare/voice',
    statusCallback: 'http://app/status',
  });

  await client.calls.create({ to: '100', from: '200', applicationSid: application.sid });

  t.match(calls.specs[0], {
    applicationSid: application.sid,
    source: { kind: 'url', url: 'http://app/voice', method: 'GET' },
    fallback: { url: 'http://spare/voice', method: 'POST' },
    statusCallback: { url: 'http://app/status', events: ['completed'] },
  });
});

t.test('a repeated create with one idempotency token makes one call', async (t) => {
  const world = await start(t);
  const fields = { To: '100', From: '200', Twiml: '<Response/>' };
  const create = (token: string, change = {}) =>
    world.ask(path(world, '/Calls.json'), {
      ...form({ ...fields, ...change }),
      headers: { 'I-Twilio-Idempotency-Token': token },
    });

  const replies = await Promise.all([create('one'), create('one')]);
  const sids = await Promise.all(replies.map(async (reply) => (await json(reply)).sid));
  t.equal(sids[0], sids[1]);
  t.equal(world.calls.specs.length, 1);
  t.equal((await create('one', { To: '101' })).status, 409, 'another call under that token');
  t.equal((await create('two')).status, 201);
  t.equal((await create('three', { To: '' })).status, 400);
  t.equal((await create('three')).status, 201, 'a refused create is not remembered');
  t.equal(world.calls.specs.length, 3);
});

t.test('lists turn pages through the client library, each call once', async (t) => {
  const world = await start(t);
  const { client, store, account } = world;
  const rows = Array.from({ length: 230 }, (_, index) =>
    callRow(account.sid, { dateCreatedMs: 1_000_000 + (index >> 2), to: '+15551111' }),
  );
  for (const row of rows) store.calls.put(row);
  store.calls.put(callRow(account.sid, { dateCreatedMs: 1_000_001, to: '+15552222' }));
  const all = new Set(rows.map((row) => row.sid as string));

  const listed = await client.calls.list({ to: '+15551111' });
  t.equal(listed.length, 230);
  t.strictSame(new Set(listed.map((call) => call.sid)), all);
  t.equal((await client.calls.list({ pageSize: 100 })).length, 231);
  t.equal((await client.calls.list({ limit: 7 })).length, 7);

  const seen: string[] = [];
  await new Promise<void>((resolve, reject) => {
    client.calls.each(
      {
        pageSize: 40,
        to: '+15551111',
        done: (error?: Error) => (error ? reject(error) : resolve()),
      },
      (call) => void seen.push(call.sid),
    );
  });
  t.equal(seen.length, 230);
  t.equal(new Set(seen).size, 230);

  const first = await client.calls.page({ pageSize: 50, to: '+15551111' });
  const second = await first.nextPage();
  const back = await second?.previousPage();
  const sidsOf = (page: { instances: { sid: string }[] } | undefined) =>
    page?.instances.map((call) => call.sid);
  t.strictSame(sidsOf(back), sidsOf(first));
  await t.rejects(client.calls.page({ pageSize: 1001 }), { code: 20007, status: 400 });
});

t.test('the list envelope is the reference’s', async (t) => {
  const world = await start(t);
  const lists = path(world, '/Calls.json');
  const get = async (query: string) => json(await world.ask(`${lists}${query}`));

  t.strictSame(await get('?Status=busy'), {
    calls: [],
    page: 0,
    page_size: 50,
    start: 0,
    end: 0,
    uri: `${lists}?Status=busy&PageSize=50&Page=0`,
    first_page_uri: `${lists}?Status=busy&PageSize=50&Page=0`,
    next_page_uri: null,
    previous_page_uri: null,
  });
  const rows = [1, 2, 3].map((dateCreatedMs) => callRow(world.account.sid, { dateCreatedMs }));
  for (const row of rows) world.store.calls.put(row);
  const page = await get('?PageSize=2');
  t.match(page, { page: 0, page_size: 2, start: 0, end: 1 });
  t.match(page.next_page_uri ?? '', new RegExp(`PageSize=2&Page=1&PageToken=PA${rows[1]?.sid}`));
  const next = await (await world.ask(page.next_page_uri ?? '')).json();
  t.match(next, { page: 1, start: 2, end: 2, next_page_uri: null, calls: [{ sid: rows[0]?.sid }] });
  const bare = await get(`?PageSize=2&Page=1&PageToken=PA${rows[1]?.sid}`);
  t.match(bare.calls, [{ sid: rows[0]?.sid }], 'a token without its date still works');
  t.match(await get('?PageSize=2&Page=1'), { calls: [{ sid: rows[0]?.sid }] });

  for (const query of ['?PageSize=1001', '?PageSize=0', '?PageToken=x', '?Page=-1']) {
    t.equal((await world.ask(`${lists}${query}`)).status, 400, query);
  }
  t.equal((await get('?PageSize=1001')).code, 20007);
});

t.test('a word that is none of those a parameter knows is refused with those', async (t) => {
  const world = await start(t);
  const row = callRow(world.account.sid, { status: 'in-progress', endMs: null });
  world.store.calls.put(row);
  const lists = path(world, '/Calls.json');
  const list = async (status: string) => json(await world.ask(`${lists}?Status=${status}`));
  const update = (status: string) =>
    world.client.calls(row.sid).update({ status: status as 'completed' });

  t.match(await list('bogus'), {
    status: 400,
    code: 20001,
    message:
      'Status must be one of queued, ringing, in-progress, completed, busy, failed, no-answer, canceled',
  });
  t.match(await list('initiated'), { status: 400 }, 'which is a word of callbacks');
  t.match(await list('In-Progress'), { calls: [{ sid: row.sid }] });
  t.match(await list(''), { calls: [{ sid: row.sid }] }, 'no filter');
  await t.rejects(update('bogus'), {
    status: 400,
    code: 20001,
    message: 'Status must be one of canceled, completed',
  });
  await t.rejects(update('busy'), { code: 20001 });
});

t.test('calls are filtered as the client library asks, with < and > in the key', async (t) => {
  const world = await start(t);
  const { client, account } = world;
  const add = (change: Partial<CallRow>) => {
    const row = callRow(account.sid, change);
    world.store.calls.put(row);
    return row.sid;
  };
  const july5 = add({ startMs: Date.UTC(2026, 6, 5, 23, 59, 59, 900), from: '+1', status: 'busy' });
  const july6 = add({ startMs: Date.UTC(2026, 6, 6, 12), parentCallSid: july5 });
  const july7 = add({ startMs: Date.UTC(2026, 6, 7), endMs: Date.UTC(2026, 6, 8) });
  const find = async (filter: Parameters<typeof client.calls.list>[0]) =>
    (await client.calls.list(filter)).map((call) => call.sid).sort();
  const noon = new Date(Date.UTC(2026, 6, 6, 12));

  t.strictSame(await find({ startTime: new Date(Date.UTC(2026, 6, 6)) }), [july6]);
  t.strictSame(await find({ startTimeAfter: noon }), [july6, july7].sort());
  t.strictSame(await find({ startTimeBefore: noon }), [july5, july6].sort());
  t.strictSame(await find({ startTimeBefore: new Date(Date.UTC(2026, 6, 6)) }), [july5]);
  t.strictSame(await find({ endTimeAfter: noon }), [july7]);
  t.strictSame(await find({ startTimeAfter: noon, startTimeBefore: noon }), [july6]);
  t.strictSame(await find({ status: 'busy' }), [july5]);
  t.strictSame(await find({ parentCallSid: july5 }), [july6]);
  t.strictSame(await find({ from: '+1' }), [july5]);
  const days = await world.ask(
    path(world, '/Calls.json?StartTime<=2026-07-06&StartTime>=2026-07-06'),
  );
  t.match(await days.json(), {
    calls: [{ sid: july6 }, { sid: july5 }].filter((c) => c.sid === july6),
  });
  t.equal((await world.ask(path(world, '/Calls?StartTime>=yesterday'))).status, 400);
});

t.test('recordings: metadata by the library, audio by HTTP, with ranges', async (t) => {
  const world = await start(t);
  const { client, store, account, audio } = world;
  const folder = mkdtempSync(join(tmpdir(), 'tandem-api-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const bytes = Buffer.from(Array.from({ length: 1000 }, (_, index) => index % 251));
  const file = join(folder, 'x.wav');
  writeFileSync(file, bytes);
  const call = callRow(account.sid);
  store.calls.put(call);
  const row = recordingRow(call);
  const other = recordingRow(callRow(account.sid), { dateCreatedMs: Date.UTC(2026, 0, 9) });
  const growing = recordingRow(call, { status: 'in-progress', dateCreatedMs: 1 });
  for (const one of [row, other, growing]) store.recordings.put(one);
  audio.set(row.sid, file);
  audio.set(growing.sid, file);

  const fetched = await client.recordings(row.sid).fetch();
  t.match(fetched, {
    sid: row.sid,
    callSid: call.sid,
    duration: '12',
    channels: 1,
    source: 'RecordVerb',
  });
  const sids = async (list: Promise<{ sid: string }[]>) => (await list).map((one) => one.sid);
  t.strictSame(await sids(client.recordings.list()), [other.sid, row.sid, growing.sid]);
  t.strictSame(await sids(client.recordings.list({ callSid: call.sid })), [row.sid, growing.sid]);
  t.strictSame(await sids(client.calls(call.sid).recordings.list()), [row.sid, growing.sid]);
  const january5 = new Date(Date.UTC(2026, 0, 5));
  t.strictSame(await sids(client.recordings.list({ dateCreatedAfter: january5 })), [other.sid]);
  t.equal((await client.calls(call.sid).recordings(row.sid).fetch()).sid, row.sid);

  const at = path(world, `/Recordings/${row.sid}`);
  const get = (suffix: string, headers = {}) => world.ask(`${at}${suffix}`, { headers });
  for (const [suffix, type] of [
    ['', 'audio/x-wav'],
    ['.wav', 'audio/x-wav'],
    ['.mp3', 'audio/mpeg'],
  ]) {
    const whole = await get(suffix ?? '');
    t.equal(whole.headers.get('content-type'), type);
    t.equal(whole.headers.get('content-length'), '1000');
    t.ok(bytes.equals(Buffer.from(await whole.arrayBuffer())), `${suffix} is the file`);
  }
  const ranges: [string, number, string | null, Buffer][] = [
    ['bytes=0-9', 206, 'bytes 0-9/1000', bytes.subarray(0, 10)],
    ['bytes=990-', 206, 'bytes 990-999/1000', bytes.subarray(990)],
    ['bytes=-5', 206, 'bytes 995-999/1000', bytes.subarray(995)],
    ['bytes=5-99999', 206, 'bytes 5-999/1000', bytes.subarray(5)],
    ['bytes=1000-', 416, 'bytes */1000', Buffer.alloc(0)],
    ['bytes=0-1,5-6', 200, null, bytes],
    ['lines=1-2', 200, null, bytes],
  ];
  for (const [range, status, contentRange, body] of ranges) {
    const response = await get('.wav', { range });
    t.equal(response.status, status, range);
    t.equal(response.headers.get('content-range'), contentRange, range);
    t.ok(body.equals(Buffer.from(await response.arrayBuffer())), range);
  }
  const head = await world.ask(`${at}.wav`, { method: 'HEAD' });
  t.equal(head.headers.get('content-length'), '1000');
  const etag = head.headers.get('etag') ?? '';
  t.equal((await get('.wav', { 'if-none-match': etag })).status, 304);
  t.equal((await get('.wav', { range: 'bytes=0-1', 'if-range': '"older"' })).status, 200);

  t.equal((await world.ask(`${at}.wav`, { as: null })).status, 401, 'private');
  t.equal((await get('.ogg')).status, 404);
  t.equal((await world.ask(path(world, `/Recordings/${growing.sid}.wav`))).status, 404);
  t.equal((await world.ask(path(world, `/Recordings/${other.sid}.wav`))).status, 404, 'no file');
  await t.rejects(client.recordings(growing.sid).remove(), { code: 20009 });
  t.equal(await client.recordings(row.sid).remove(), true);
  t.notOk(audio.has(row.sid));
  await t.rejects(client.recordings(row.sid).fetch(), { code: 20404, status: 404 });
});

t.test('applications: created, listed, changed in part, cleared, removed', async (t) => {
  const world = await start(t);
  const { client } = world;

  const made = await client.applications.create({ friendlyName: 'ivr', voiceUrl: 'http://a/' });
  t.match(made, { friendlyName: 'ivr', voiceUrl: 'http://a/', voiceMethod: 'POST' });
  await client.applications.create({ friendlyName: 'other' });
  const named = await client.applications.list({ friendlyName: 'ivr' });
  t.strictSame(
    named.map((one) => one.sid),
    [made.sid],
  );
  const changed = await client
    .applications(made.sid)
    .update({ voiceUrl: '', voiceFallbackUrl: 'https://b/', voiceCallerIdLookup: true });
  t.match(changed, {
    friendlyName: 'ivr',
    voiceFallbackUrl: 'https://b/',
    voiceCallerIdLookup: true,
  });
  t.equal(changed.voiceUrl, null);
  await t.rejects(client.applications(made.sid).update({ voiceUrl: 'nonsense' }), { code: 21205 });
  const long = 'x'.repeat(65);
  await t.rejects(client.applications.create({ friendlyName: long }), { code: 20001 });
  t.equal(await client.applications(made.sid).remove(), true);
  await t.rejects(client.applications(made.sid).fetch(), { code: 20404, status: 404 });
});

t.test('numbers: claimed once, tied to what the account has', async (t) => {
  const world = await start(t);
  const { client } = world;
  const application = await client.applications.create({ voiceUrl: 'http://a/' });
  const other = world.asOther(await addAccount(world.store));

  const made = await client.incomingPhoneNumbers.create({
    phoneNumber: '+49 30 123456',
    voiceApplicationSid: application.sid,
  });
  t.match(made, { phoneNumber: '+4930123456', friendlyName: '+4930123456' });
  t.match(made.capabilities, { voice: true, sms: false });
  const sip = await client.incomingPhoneNumbers.create({
    phoneNumber: 'sip:Sales@*',
    voiceUrl: 'http://b/',
  });
  t.equal(sip.phoneNumber, 'sip:sales@*');
  const found = await client.incomingPhoneNumbers.list({ phoneNumber: '30123' });
  t.strictSame(
    found.map((one) => one.sid),
    [made.sid],
  );

  const create = (o: object) => other.incomingPhoneNumbers.create(o);
  await t.rejects(create({ phoneNumber: '+4930123456' }), { code: 21422, status: 400 });
  await t.rejects(create({ phoneNumber: 'hello' }), { code: 21421 });
  await t.rejects(create({}), { code: 21421 });
  const foreign = { phoneNumber: '100', voiceApplicationSid: application.sid };
  await t.rejects(create(foreign), { code: 21218 }, 'another account’s application');

  const cleared = await client.incomingPhoneNumbers(made.sid).update({ voiceApplicationSid: '' });
  t.equal(cleared.voiceApplicationSid, null);
  t.equal(await client.incomingPhoneNumbers(made.sid).remove(), true);
  t.match(await create({ phoneNumber: '+4930123456' }), { phoneNumber: '+4930123456' });
});

t.test('trunks: gateways, credentials that are not told back, lists that replace', async (t) => {
  const world = await start(t);
  const at = path(world, '/Trunks');
  const post = async (where: string, fields: [string, string][]) => {
    const body = new URLSearchParams(fields);
    const response = await world.ask(where, { method: 'POST', body });
    return { status: response.status, body: await json(response) };
  };
  const gateways = '[{"uri":"sip:gw1.example:5060"},{"uri":"sip:gw2.example","priority":20}]';

  const made = await post(at, [
    ['FriendlyName', 'carrier'],
    ['Gateways', gateways],
    ['Username', 'me'],
    ['Password', 'very-secret'],
    ['InboundUsername', 'pbx'],
    ['InboundPassword', 'even-more-secret'],
    ['InboundAddress', '192.0.2.0/24'],
    ['InboundAddress', '2001:db8::1'],
    ['NumberPattern', '+49*'],
  ]);
  t.equal(made.status, 201);
  t.match(made.body, {
    enabled: true,
    gateways: [
      { uri: 'sip:gw1.example:5060', priority: 10, weight: 10, enabled: true },
      { uri: 'sip:gw2.example', priority: 20 },
    ],
    username: 'me',
    inbound_username: 'pbx',
    inbound_addresses: ['192.0.2.0/24', '2001:db8::1'],
    number_patterns: ['+49*'],
  });
  t.notMatch(JSON.stringify(made.body), /secret/);
  const namesake = await post(at, [
    ['InboundUsername', 'pbx'],
    ['InboundPassword', 'x'],
  ]);
  t.match(namesake, { status: 400, body: { message: /InboundUsername.*taken/ } });

  const one = `${at}/${made.body.sid}`;
  const changed = await post(one, [
    ['NumberPattern', ''],
    ['Enabled', 'false'],
  ]);
  t.match(changed.body, { friendly_name: 'carrier', enabled: false, number_patterns: [] });
  for (const wrong of [
    ['Gateways', 'sip:gw1.example'],
    ['Gateways', '[{"uri":"http://gw1.example"}]'],
    ['Gateways', '[{"uri":"sip:gw1","prio":1}]'],
    ['InboundAddress', '192.0.2.0/33'],
    ['NumberPattern', '*49'],
    ['Password', ''],
    ['InboundUsername', ''],
  ] satisfies [string, string][]) {
    t.equal((await post(one, [wrong])).status, 400, wrong.join('='));
  }
  const kept = await world.store.trunks.all(9);
  t.equal(kept[0]?.password?.reveal(), 'very-secret');
  t.equal((await world.ask(one, { method: 'DELETE' })).status, 204);
  t.equal((await world.ask(one)).status, 404);
});

t.test('a call’s trace and notifications are read while it lives and after', async (t) => {
  const world = await start(t);
  const { client, store, account, traces } = world;
  const call = callRow(account.sid);
  store.calls.put(call);
  const line = { seq: 1, atMs: 0, kind: 'sip' };
  traces.set(call.sid, [{ ...line, data: { firstLine: 'INVITE' } }]);
  store.callTraces.put({
    callSid: call.sid,
    accountSid: account.sid,
    events: [{ ...line, data: { firstLine: 'stored' } }],
  });
  store.notifications.put({
    sid: newSid('NO', realClock),
    accountSid: account.sid,
    callSid: call.sid,
    level: 'error',
    errorCode: 11200,
    messageText: 'Msg=x',
    messageMs: 0,
    requestUrl: 'http://a/',
    requestMethod: 'POST',
    requestVariables: 'A=1',
    responseHeaders: null,
    responseBody: null,
    dateCreatedMs: 0,
    dateUpdatedMs: 0,
  });

  const trace = async () => json(await world.ask(path(world, `/Calls/${call.sid}/Trace.json`)));
  t.match((await trace()).trace, [
    { seq: 1, at: '1970-01-01T00:00:00.000Z', kind: 'sip', data: { firstLine: 'INVITE' } },
  ]);
  traces.delete(call.sid);
  t.match((await trace()).trace, [{ data: { firstLine: 'stored' } }]);

  const [told] = await client.calls(call.sid).notifications.list({ log: 0 });
  t.match(told, { log: '0', errorCode: '11200', moreInfo: /11200$/, requestUrl: 'http://a/' });
  t.strictSame(await client.calls(call.sid).notifications.list({ log: 1 }), []);
  const whole = await client
    .calls(call.sid)
    .notifications(told?.sid ?? '')
    .fetch();
  t.equal(whole.requestVariables, 'A=1');
  await t.rejects(client.calls(`CA${'0'.repeat(32)}`).notifications.list(), {
    code: 20404,
    status: 404,
  });
});

t.test('wrong credentials all get the same answer', async (t) => {
  const world = await start(t);
  const { sid } = world.account;
  const stranger = newSid('AC', realClock);
  const own = path(world, '.json');
  const wrong: (string | null)[] = [
    null,
    basic(sid, 'wrong'),
    basic(sid, ''),
    basic(stranger, TOKEN),
    basic('', ''),
    'Basic !!!',
    `Bearer ${TOKEN}`,
    basic(sid, `${TOKEN}x`),
  ];

  const answers = new Set<string>();
  for (const authorization of wrong) {
    const headers: Record<string, string> = authorization === null ? {} : { authorization };
    const response = await fetch(`${world.base}${own}`, { headers });
    const challenge = response.headers.get('www-authenticate');
    answers.add(`${response.status} ${challenge} ${await response.text()}`);
  }
  t.equal(answers.size, 1);
  t.match([...answers][0], /^401 Basic realm="tandem API" {"code":20003,"message":"Authenticate"/);
  const unknown = await fetch(`${world.base}/2010-04-01/Nothing`);
  t.equal(unknown.status, 401, 'unknown paths are not told apart without credentials');
  await unknown.text();

  const account = await world.client.api.accounts(sid).fetch();
  t.match(account, { sid, status: 'active', friendlyName: 'test' });
  t.strictSame(account.dateCreated, new Date(Date.UTC(2010, 7, 31, 20, 36, 28)));
  await world.store.accounts.save({ ...world.account, status: 'suspended' });
  await t.rejects(world.client.api.accounts(sid).fetch(), { status: 403, code: 20005 });
});

t.test('nothing of another account can be read or changed', async (t) => {
  const world = await start(t);
  const { store, client, calls, account, audio } = world;
  const stranger = await addAccount(store);
  const call = callRow(account.sid, { status: 'in-progress' });
  calls.set(call);
  const recording = recordingRow(call);
  store.recordings.put(recording);
  audio.set(recording.sid, '/dev/null');
  const application = await client.applications.create({ voiceUrl: 'http://a/' });
  const number = await client.incomingPhoneNumbers.create({ phoneNumber: '100' });

  for (const [method, at] of [
    ['GET', ''],
    ['GET', '/Calls'],
    ['GET', `/Calls/${call.sid}`],
    ['POST', `/Calls/${call.sid}`],
    ['DELETE', `/Calls/${call.sid}`],
    ['GET', `/Calls/${call.sid}/Trace`],
    ['GET', `/Calls/${call.sid}/Recordings`],
    ['GET', `/Calls/${call.sid}/Notifications`],
    ['GET', `/Recordings/${recording.sid}.wav`],
    ['GET', `/Recordings/${recording.sid}.json`],
    ['DELETE', `/Recordings/${recording.sid}`],
    ['GET', `/Applications/${application.sid}`],
    ['POST', `/Applications/${application.sid}`],
    ['DELETE', `/Applications/${application.sid}`],
    ['DELETE', `/IncomingPhoneNumbers/${number.sid}`],
  ] as const) {
    const body = method === 'POST' ? { body: new URLSearchParams({ Status: 'completed' }) } : {};
    for (const owner of at === '' || at === '/Calls'
      ? [account.sid]
      : [account.sid, stranger.sid]) {
      const where = `/2010-04-01/Accounts/${owner}${at}`;
      const response = await world.ask(where, { as: stranger, method, ...body });
      t.equal(response.status, 404, `${method} ${at}`);
      t.match(await response.json(), { code: 20404 });
    }
  }
  t.ok(calls.live(call.sid));
  t.strictSame(await world.asOther(stranger).calls.list(), []);
  t.strictSame(await world.asOther(stranger).recordings.list(), []);
});

t.test('methods that a resource does not have are refused with those it has', async (t) => {
  const world = await start(t);
  const put = await world.ask(path(world, '/Calls.json'), { method: 'PUT', body: '{}' });
  t.equal(put.status, 405);
  t.equal(put.headers.get('allow'), 'POST, GET, HEAD');
  t.match(await put.json(), { code: 20004, status: 405, more_info: /errors\/20004$/ });
  const post = await world.ask(path(world, `/Calls/CA${'0'.repeat(32)}/Trace`), { method: 'POST' });
  t.equal(post.status, 405);
  t.equal(post.headers.get('allow'), 'GET, HEAD');
});

t.test('malformed requests get an answer in the same shape, and the server lives', async (t) => {
  const world = await start(t, { http: { bodyBytesMax: 2_000, headerBytesMax: 4_096 } });
  const at = path(world, '/Calls.json');
  const send = async (contentType: string, body: string) => {
    const headers = { 'content-type': contentType };
    const response = await world.ask(at, { method: 'POST', headers, body });
    const json = await response.json();
    t.match(json, { code: Number, message: String, more_info: String, status: response.status });
    return response.status;
  };
  const type = 'application/x-www-form-urlencoded';

  t.equal(await send('application/json', '{"To":'), 415);
  t.equal(await send('multipart/form-data; boundary=x', '--x'), 415);
  t.equal(await send(type, '%zz=%&&==&To=%ff'), 400);
  t.equal(await send(type, '__proto__=1&constructor=2&To=1'), 400);
  t.equal(await send(type, `To=${'1'.repeat(3_000)}`), 413);
  t.equal((await world.ask(at, { method: 'POST' })).status, 400, 'no body at all');
  const long = await fetch(`${world.base}/`, { headers: { 'x-long': 'x'.repeat(8_000) } });
  t.equal(long.status, 431);
  t.match(await long.json(), { code: 20431, status: 431 });
  for (const odd of [
    '/Calls/..%2f..%2fetc',
    '/Calls/%00',
    '/Calls/CA%zz',
    `/${'x'.repeat(2_000)}`,
  ]) {
    t.ok([400, 404].includes((await world.ask(path(world, odd))).status), odd.slice(0, 20));
  }
  const raw = await new Promise<string>((resolve, reject) => {
    const socket = connect(world.port, '127.0.0.1', () => socket.write('GARBAGE\r\n\r\n'));
    let text = '';
    socket.on('data', (chunk) => (text += chunk)).on('error', reject);
    socket.on('close', () => resolve(text));
  });
  t.match(raw, /^HTTP\/1\.1 400/);
  const [, told = ''] = raw.split('\r\n\r\n');
  t.match(JSON.parse(told), { code: 20400, message: String, more_info: String, status: 400 });
  t.equal((await world.ask(path(world, '.json'))).status, 200);
});

t.test('parameters that are unknown are ignored', async (t) => {
  const world = await start(t);
  const call = await world.client.calls.create({ ...URL_SOURCE, machineDetection: 'Enable' });
  t.equal(call.status, 'queued');
});

t.test('too many requests get 429, health checks never do', async (t) => {
  const world = await start(t, { http: { rateRequestsMax: 3 } });
  const statuses: number[] = [];
  for (let i = 0; i < 5; i += 1) statuses.push((await world.ask(path(world, '.json'))).status);
  t.strictSame(statuses, [200, 200, 200, 429, 429]);
  const refused = await world.ask('/2010-04-01/no/such/path', { as: null });
  t.equal(refused.status, 429, 'unknown paths and strangers count too');
  t.ok(Number(refused.headers.get('retry-after')) >= 1);
  t.match(await refused.json(), { code: 20429, status: 429 });
  await t.rejects(world.client.calls.list(), { code: 20429 });
  for (let i = 0; i < 5; i += 1) t.equal((await fetch(`${world.base}/livez`)).status, 200);
});

/** A connection from that loopback address that has asked once and stays open. */
async function idleFrom(world: World, localAddress: string): Promise<Socket> {
  const socket = connect({ port: world.port, host: '127.0.0.1', localAddress });
  // Who is refused sees a reset.
  socket.on('error', () => undefined);
  socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
  await Promise.race([once(socket, 'data'), once(socket, 'close')]);
  return socket;
}

t.test('one address that hoards connections does not shut out health checks', async (t) => {
  const world = await start(t, { http: { connectionsMax: 20, connectionsPerSourceMax: 10 } });
  const held: Socket[] = [];
  t.teardown(() => {
    for (const socket of held) socket.destroy();
  });

  for (let i = 0; i < 25; i += 1) held.push(await idleFrom(world, '127.0.0.2'));

  t.equal(held.filter((socket) => !socket.closed).length, 10);
  t.match(await (await fetch(`${world.base}/livez`)).json(), { status: 'alive' });
  const metrics = await (await fetch(`${world.base}/metrics`)).text();
  t.match(metrics, 'connections_refused_total{limit="connectionsPerSourceMax"} 15');
  held.pop()?.destroy();
  for (const socket of held) socket.destroy();
  await delay(50);
  const again = await idleFrom(world, '127.0.0.2');
  held.push(again);
  t.notOk(again.closed, 'what was closed no longer counts');
});

t.test('many addresses that hoard connections lose their idle ones', async (t) => {
  const world = await start(t, { http: { connectionsMax: 20, connectionsPerSourceMax: 10 } });
  const held: Socket[] = [];
  t.teardown(() => {
    for (const socket of held) socket.destroy();
  });

  for (let i = 0; i < 60; i += 1) held.push(await idleFrom(world, `127.0.0.${2 + (i % 30)}`));
  t.ok(held.filter((socket) => !socket.closed).length <= 20);

  // What is dropped while all are taken makes room for the next.
  const answers: boolean[] = [];
  for (let i = 0; i < 3; i += 1) {
    await delay(110);
    const probe = await idleFrom(world, '127.0.0.1');
    held.push(probe);
    answers.push(probe.bytesRead > 0);
  }
  t.strictSame(answers.slice(1), [true, true]);
});

t.test(
  'behind a proxy the limits are of the client it saw, not of what clients claim',
  async (t) => {
    const world = await start(t, { http: { rateRequestsMax: 2, trustProxy: true } });
    const ask = async (forwarded: string) => {
      const headers = { 'x-forwarded-for': forwarded };
      return (await world.ask(path(world, '.json'), { headers })).status;
    };

    t.equal(await ask('10.0.0.1, 192.0.2.1'), 200);
    t.equal(await ask('10.0.0.2, 192.0.2.1'), 200);
    t.equal(await ask('10.0.0.3, 192.0.2.1'), 429, 'another invented address does not help');
    t.equal(await ask('192.0.2.2'), 200);
  },
);

t.test('a trace cannot steer the terminal it is shown on', async (t) => {
  const hostile = 'INVITE sip:\u001b]0;x\u0007\u009b2J\u202e\r\nfake';
  const shown = formatTrace([
    {
      seq: 1,
      at: '2026-01-02T03:04:05.000Z',
      kind: 'sip',
      data: { text: `<- ${hostile}`, detail: '\u001b[2J' },
    },
    {
      seq: 2,
      at: '2026-01-02T03:04:05.100Z',
      kind: 'verb',
      data: { text: hostile, detail: hostile },
    },
  ]);

  t.notMatch(shown.replaceAll('\n', ''), /[\p{Cc}\p{Cf}]/u);
  t.match(shown, 'INVITE sip:');
  t.equal(shown.trimEnd().split('\n').length, 5, 'and no line is made up');
});

t.test('alive, ready and metrics are three questions', async (t) => {
  const world = await start(t);
  const get = async (at: string) => {
    const response = await fetch(`${world.base}${at}`);
    return { status: response.status, text: await response.text() };
  };

  t.equal((await get('/readyz')).status, 200);
  world.notReady.push('draining');
  t.match(await get('/readyz'), { status: 503, text: /draining/ });
  t.equal((await get('/livez')).status, 200, 'draining is not death');
  await world.ask(path(world, '/Calls.json')).then((response) => response.text());
  const metrics = await get('/metrics');
  t.match(metrics.text, 'route="/2010-04-01/Accounts/:accountSid/Calls.json"');
  t.notMatch(metrics.text, world.account.sid, 'labels are closed sets');
});

t.test('a store that fails is told as such, without its secrets', async (t) => {
  const world = await start(t);
  await world.ask(path(world, '.json'));
  await world.store.close();

  const response = await world.ask(path(world, `/Calls/CA${'0'.repeat(32)}`));

  t.equal(response.status, 503);
  t.strictSame(await response.json(), {
    code: 20503,
    message: 'the store failed',
    more_info: 'https://www.twilio.com/docs/errors/20503',
    status: 503,
  });
});

t.test('a sender that does not finish its headers is cut off', async (t) => {
  const world = await start(t, { http: { headersTimeoutMs: 300 } });
  const startedMs = realClock.monotonicMs();

  const text = await new Promise<string>((resolve, reject) => {
    const socket = connect(world.port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nHo'));
    let got = '';
    socket.on('data', (chunk) => (got += chunk)).on('error', reject);
    socket.on('close', () => resolve(got));
  });

  t.match(text, /^HTTP\/1\.1 408/);
  t.ok(realClock.monotonicMs() - startedMs < 3_000);
});

t.test('closing lets a request under way finish, and cuts one that does not', async (t) => {
  const options = { ...DEFAULT_HTTP_SERVER, port: 0, closeTimeoutMs: 300 };
  const metrics = new Metrics();
  const health = { notReady: () => [] };
  const server = await HttpServer.create({
    options,
    clock: realClock,
    log: silentLog,
    metrics,
    health,
  });
  const { promise: answer, resolve: finish } = Promise.withResolvers<string>();
  let entered = 0;
  const reached = new Promise<void>((resolve) => {
    const enter = () => {
      entered += 1;
      if (entered === 2) resolve();
    };
    server.app.get('/slow', () => {
      enter();
      return answer;
    });
    server.app.get('/never', () => {
      enter();
      return new Promise(() => undefined);
    });
  });
  const { port } = await server.listen();
  const slow = fetch(`http://127.0.0.1:${port}/slow`).then((response) => response.text());
  const never = fetch(`http://127.0.0.1:${port}/never`);
  never.catch(() => undefined);
  await reached;

  const closed = server.close();
  finish('done');

  t.equal(await slow, 'done');
  await t.rejects(never);
  await closed;
  await t.rejects(fetch(`http://127.0.0.1:${port}/livez`));
});

t.test('a handler that hangs is answered for', async (t) => {
  const world = await start(t, { http: { handlerTimeoutMs: 100 } });
  world.calls.create = () => new Promise(() => undefined);

  const response = await world.ask(
    path(world, '/Calls'),
    form({ To: '1', From: '2', Url: 'http://a/' }),
  );

  t.equal(response.status, 503);
  t.match(await response.json(), { code: 20503 });
});

t.test('an address that is taken is named, close is idempotent', async (t) => {
  const world = await start(t);
  const second = await HttpServer.create({
    options: { ...DEFAULT_HTTP_SERVER, port: world.port },
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    health: { notReady: () => [] },
  });

  await t.rejects(second.listen(), {
    code: 'LISTEN_FAILED',
    details: { address: `127.0.0.1:${world.port}`, key: 'http.listen' },
  });
  await second.close();
  await second.close();
});
