/**
 * Accounts: who a request comes from, and the account as a resource. Basic authentication with the
 * account's sid and auth token. Whether the sid or the token was wrong cannot be told from the
 * answer, nor from its time: both are compared as digests, and an unknown account is compared with
 * a token that nobody has.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { type AccountSid, isSid } from '../core/sid.ts';
import type { AccountRow, JsonObject, Store } from '../store/store.ts';
import { type Authentication, asIs, ok, type Resource, resource, uriOf } from './api.ts';
import { rfc2822 } from './page.ts';

export interface AuthenticationOptions {
  /** Accounts remembered, known and unknown, between requests. */
  readonly accountsMax: number;
  /** How old what is remembered may be before the store is asked again. */
  readonly accountRefreshMs: number;
  /** How old it may be while the store does not answer. */
  readonly accountStaleMs: number;
}

export const DEFAULT_AUTHENTICATION: AuthenticationOptions = {
  accountsMax: 10_000,
  accountRefreshMs: 10_000,
  accountStaleMs: 86_400_000,
};

interface Remembered {
  readonly row: AccountRow | null;
  readonly atMs: number;
}

export class BasicAuthentication implements Authentication {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #options: AuthenticationOptions;
  readonly #remembered: LRUCache<AccountSid, Remembered>;
  /** Compared with when there is no such account. */
  readonly #nobody: Buffer;

  constructor(o: { store: Store; clock: Clock; options: AuthenticationOptions }) {
    this.#store = o.store;
    this.#clock = o.clock;
    this.#options = o.options;
    this.#remembered = new LRUCache({ max: o.options.accountsMax });
    this.#nobody = digest(o.clock.randomHex(32));
    o.store.onChange((change) => {
      if (change.table === 'accounts') this.#remembered.delete(change.accountSid);
    });
  }

  async authenticate(authorization: string | undefined): Promise<AccountRow> {
    const { sid, token } = credentials(authorization);
    const account = isSid('AC', sid) ? await this.#account(sid) : null;
    const expected = account ? digest(account.authToken.reveal()) : this.#nobody;
    const isRight = timingSafeEqual(digest(token), expected);
    if (!account || !isRight) throw new GatewayError('REST_AUTH');
    if (account.status !== 'active') {
      throw new GatewayError('REST_ACCOUNT_INACTIVE', { status: account.status });
    }
    return account;
  }

  /** From memory while it is fresh, or as long as the store is away. */
  async #account(sid: AccountSid): Promise<AccountRow | null> {
    const known = this.#remembered.get(sid);
    const ageMs = known ? this.#clock.monotonicMs() - known.atMs : Number.POSITIVE_INFINITY;
    if (known && ageMs <= this.#options.accountRefreshMs) return known.row;
    try {
      const row = await this.#store.accounts.get(sid, sid);
      this.#remembered.set(sid, { row, atMs: this.#clock.monotonicMs() });
      return row;
    } catch (thrown) {
      if (known && ageMs <= this.#options.accountStaleMs) return known.row;
      throw thrown;
    }
  }
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** RFC 7617; anything else gives credentials that fit nobody. */
function credentials(authorization: string | undefined): { sid: string; token: string } {
  const match = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization ?? '');
  const decoded = Buffer.from(match?.[1] ?? '', 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon < 0) return { sid: '', token: '' };
  return { sid: decoded.slice(0, colon), token: decoded.slice(colon + 1) };
}

const SUBRESOURCES = {
  applications: 'Applications',
  calls: 'Calls',
  incoming_phone_numbers: 'IncomingPhoneNumbers',
  notifications: 'Notifications',
  recordings: 'Recordings',
  routes: 'Routes',
  trunks: 'Trunks',
};

/** The auth token is not told back: whoever asks has it. */
function accountJson(row: AccountRow): JsonObject {
  const subresources = Object.entries(SUBRESOURCES).map(
    ([name, part]) => [name, uriOf(row, part)] as const,
  );
  return {
    sid: row.sid,
    owner_account_sid: row.sid,
    friendly_name: row.friendlyName,
    status: row.status,
    type: 'Full',
    auth_token: null,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row),
    subresource_uris: Object.fromEntries(subresources),
  };
}

export function accountResources(): readonly Resource[] {
  return [
    resource({
      method: 'GET',
      path: '',
      params: Type.Object({}),
      interpret: asIs,
      check: asIs,
      act: async (_checked, request) => ok(accountJson(request.account)),
    }),
  ];
}
