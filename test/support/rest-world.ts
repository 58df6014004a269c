/**
 * The REST surface alone, over an in-memory database: for resources that are configuration. There
 * are no calls here, and nobody watches trunks unless the test does.
 */
import type { Test } from 'tap';
import twilio from 'twilio';
import type { CallControl } from '../../src/api/calls.ts';
import { createRestApi, DEFAULT_REST, type RestOptions } from '../../src/api/surface.ts';
import type { TrunkHealthView } from '../../src/api/trunk-health.ts';
import { realClock } from '../../src/core/clock.ts';
import { Secret, silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import { newSid } from '../../src/core/sid.ts';
import { DEFAULT_HTTP_SERVER, HttpServer } from '../../src/http/server.ts';
import { openSqlite } from '../../src/store/sqlite.ts';
import type { AccountRow, Store } from '../../src/store/store.ts';
import { freePort } from './gateway.ts';

export type Client = ReturnType<typeof twilio>;

export interface RestAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
  readonly body: any;
}

export interface RestWorld {
  readonly store: Store;
  readonly account: AccountRow;
  readonly base: string;
  /** The official library, pointed here for every product. */
  readonly client: Client;
  /** Another account and its library. */
  other(): Promise<{ account: AccountRow; client: Client }>;
  /** `path` is below the account; or absolute, as `/v1/Trunks`. */
  ask(method: string, path: string, fields?: readonly [string, string][]): Promise<RestAnswer>;
}

const noCalls: CallControl = {
  create: () => Promise.reject(new Error('no calls here')),
  redirect: () => Promise.reject(new Error('no calls here')),
  end: () => Promise.reject(new Error('no calls here')),
  setTimeLimit: () => Promise.reject(new Error('no calls here')),
  live: () => null,
};

function clientOf(account: AccountRow, base: string): Client {
  const client = twilio(account.sid, account.authToken.reveal());
  client.api.baseUrl = base;
  client.trunking.baseUrl = base;
  return client;
}

async function addAccount(store: Store): Promise<AccountRow> {
  const row: AccountRow = {
    sid: newSid('AC', realClock),
    authToken: new Secret(realClock.randomHex(16)),
    friendlyName: 'test',
    status: 'active',
    dateCreatedMs: 1,
    dateUpdatedMs: 1,
  };
  await store.accounts.save(row);
  return row;
}

export async function startRest(
  t: Test,
  o: { rest?: Partial<RestOptions>; trunkHealth?: TrunkHealthView } = {},
): Promise<RestWorld> {
  const common = { clock: realClock, log: silentLog };
  const metrics = new Metrics();
  const options = { path: ':memory:', busyTimeoutMs: 50 };
  const store = await openSqlite({ ...common, metrics, options });
  const account = await addAccount(store);
  const port = await freePort();
  const base = `http://127.0.0.1:${port}`;
  const server = await HttpServer.create({
    ...common,
    metrics,
    options: { ...DEFAULT_HTTP_SERVER, port, rateRequestsMax: 100_000 },
    health: { notReady: () => [] },
  });
  const api = createRestApi({
    ...common,
    store,
    calls: noCalls,
    media: { wav: async () => null, mp3: async () => null, remove: async () => undefined },
    trace: () => null,
    publicUrl: base,
    trunkHealth: o.trunkHealth ?? null,
    options: { ...DEFAULT_REST, ...o.rest },
  });
  await api.mount(server.app);
  await server.listen();
  t.teardown(async () => {
    await server.close();
    await store.close();
  });
  const basic = Buffer.from(`${account.sid}:${account.authToken.reveal()}`).toString('base64');
  return {
    store,
    account,
    base,
    client: clientOf(account, base),
    async other() {
      const row = await addAccount(store);
      return { account: row, client: clientOf(row, base) };
    },
    async ask(method, path, fields) {
      const below = path.startsWith('/v1') ? '' : `/2010-04-01/Accounts/${account.sid}`;
      const response = await fetch(`${base}${below}${path}`, {
        method,
        headers: { authorization: `Basic ${basic}` },
        ...(fields && { body: new URLSearchParams(fields) }),
      });
      const text = await response.text();
      return { status: response.status, body: text === '' ? null : JSON.parse(text) };
    },
  };
}

/** `status code` of a refusal, as the library tells it. */
export function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: { status?: number; code?: number }) => `${error.status} ${error.code}`,
  );
}
