/**
 * Our registrations at carriers: one for each enabled trunk whose policy says so, for as long as it
 * says so. Tells how each stands, and whose a call is that comes to a contact we registered. How
 * one is made and kept is `sip/register-client.ts`.
 *
 * Each contact carries a random parameter that only its carrier was told. A call whose Request-URI
 * brings it back is that carrier's, from whatever address of its network it comes. It is
 * journalled, with the Call-ID: a gateway that was restarted refreshes its binding instead of
 * leaving it behind.
 */
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { TrunkSid } from '../core/sid.ts';
import { parseUri, type SipMessage } from '../sip/message.ts';
import {
  RegisterClient,
  type RegisterClientOptions,
  type RegisterStatus,
} from '../sip/register-client.ts';
import type { Target } from '../sip/resolver.ts';
import type { UserAgent } from '../sip/user-agent.ts';
import type { Journal, JournalSource } from './journal.ts';
import type { TrunkRoute } from './route.ts';

export interface TrunkRegistrationsOptions {
  /** Registrations at once. */
  readonly registrationsMax: number;
  /** The first ones after a start are spread over this long. */
  readonly spreadMs: number;
  readonly client: RegisterClientOptions;
}

export const DEFAULT_TRUNK_REGISTRATIONS: Omit<TrunkRegistrationsOptions, 'client'> = {
  registrationsMax: 1_000,
  spreadMs: 2_000,
};

/** What outlives a restart. */
interface Line {
  readonly line: string;
  readonly callId: string;
}

interface Registered {
  readonly client: RegisterClient;
  readonly line: string;
  /** What it was made of: another makes another client. */
  readonly made: string;
}

const KEY = 'line.';
const LINE_BYTES = 8;

export class TrunkRegistrations {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #journal: Journal;
  readonly #ua: UserAgent;
  readonly #resolve: (gateway: string) => Promise<readonly Target[]>;
  readonly #options: TrunkRegistrationsOptions;
  readonly #trunks = new Map<TrunkSid, Registered>();
  readonly #ofLine = new Map<string, TrunkSid>();
  readonly #lines = new Map<TrunkSid, Line>();
  readonly #changes;
  #wanted: readonly TrunkRoute[] = [];
  #isStarted = false;
  #isLeaving = false;

  constructor(parts: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    journal: Journal;
    ua: UserAgent;
    /** A gateway's addresses; they are let through the egress guard. */
    resolve: (gateway: string) => Promise<readonly Target[]>;
    options: TrunkRegistrationsOptions;
  }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#journal = parts.journal;
    this.#ua = parts.ua;
    this.#resolve = parts.resolve;
    this.#options = parts.options;
    const { metrics } = parts;
    metrics.gauge('tandem_trunk_registrations', 'Registrations that stand at carriers', () =>
      [...this.#trunks.values()].reduce(
        (sum, { client }) => sum + (client.status.state === 'registered' ? 1 : 0),
        0,
      ),
    );
    this.#changes = metrics.counter(
      'tandem_trunk_registration_changes_total',
      'Registrations at carriers by the state they went into',
      ['state'],
    );
  }

  /** What a former process told its carriers; before `start`. */
  restore(records: ReadonlyMap<string, object>): void {
    for (const [key, value] of records) {
      // The journal wrote what `#lineOf` gave it, and checked that it is whole.
      if (key.startsWith(KEY)) this.#lines.set(key.slice(KEY.length) as TrunkSid, value as Line);
    }
  }

  /** The trunks there are now, of all accounts. */
  watch(trunks: readonly TrunkRoute[]): void {
    this.#wanted = trunks.filter(
      ({ isEnabled, policy }) => isEnabled && policy.registration.enabled,
    );
    if (this.#isStarted && !this.#isLeaving) this.#reconcile(0);
  }

  start(): void {
    this.#isStarted = true;
    this.#reconcile(this.#options.spreadMs);
  }

  /** Null: this trunk does not register. */
  statusOf(sid: TrunkSid): RegisterStatus | null {
    return this.#trunks.get(sid)?.client.status ?? null;
  }

  /** The trunk whose contact a request is sent to. */
  trunkOf(request: Pick<SipMessage, 'uri'>): TrunkSid | null {
    if (this.#ofLine.size === 0 || !request.uri.includes(';line=')) return null;
    try {
      const line = parseUri(request.uri).params.get('line');
      return line === undefined ? null : (this.#ofLine.get(line) ?? null);
    } catch (thrown) {
      if (thrown instanceof GatewayError) return null;
      throw thrown;
    }
  }

  /** Takes all back, so that carriers send their calls elsewhere; off, registers anew. */
  async drain(on: boolean): Promise<void> {
    if (on === this.#isLeaving || !this.#isStarted) return;
    this.#isLeaving = on;
    if (on) await Promise.all([...this.#trunks.values()].map(({ client }) => client.leave()));
    else {
      for (const { client } of this.#trunks.values()) client.start();
      this.#reconcile(0);
    }
  }

  /** Takes all back. */
  async close(): Promise<void> {
    await this.drain(true);
    for (const { client } of this.#trunks.values()) client.close();
    this.#trunks.clear();
    this.#ofLine.clear();
  }

  #reconcile(spreadMs: number): void {
    const wanted = new Map(this.#wanted.map((trunk) => [trunk.sid, trunk]));
    for (const [sid, { made }] of [...this.#trunks]) {
      const trunk = wanted.get(sid);
      if (trunk === undefined || madeOf(trunk) !== made) this.#end(sid);
    }
    for (const trunk of this.#wanted) {
      if (this.#trunks.has(trunk.sid)) continue;
      if (this.#trunks.size >= this.#options.registrationsMax) {
        this.#log.error({ registrations: this.#trunks.size }, 'too many trunks register');
        return;
      }
      this.#begin(trunk, this.#clock.random() * spreadMs);
    }
  }

  #begin(trunk: TrunkRoute, delayMs: number): void {
    const { sid, credentials, gateways, policy } = trunk;
    const aor = addressOfRecord(trunk);
    if (aor === null) {
      const fix = 'Policy registration.addressOfRecord, or the Username of the trunk';
      this.#log.warn({ trunkSid: sid, fix }, 'trunk cannot register: it has no address');
      return;
    }
    const { line, callId } = this.#lineOf(sid);
    const client = new RegisterClient({
      ua: this.#ua,
      account: {
        aor,
        user: aor.slice(aor.indexOf(':') + 1, aor.lastIndexOf('@')),
        line,
        callId,
        expiresS: policy.registration.expiresS,
        credentials: credentials && {
          username: credentials.username,
          password: credentials.password,
          ...(credentials.realm === null ? {} : { realm: credentials.realm }),
        },
        gateways: gateways.toSorted((a, b) => a.priority - b.priority).map(({ uri }) => uri),
      },
      resolve: this.#resolve,
      onChange: (status) => this.#changed(sid, status),
      options: this.#options.client,
    });
    this.#trunks.set(sid, { client, line, made: madeOf(trunk) });
    this.#ofLine.set(line, sid);
    client.start(delayMs);
  }

  /** What follows it is another contact, or the two would take each other's bindings away. */
  #end(sid: TrunkSid): void {
    const registered = this.#trunks.get(sid);
    if (registered === undefined) return;
    this.#trunks.delete(sid);
    this.#ofLine.delete(registered.line);
    void registered.client.leave();
    this.#lines.delete(sid);
    this.#journal.remove(KEY + sid);
  }

  #lineOf(sid: TrunkSid): Line {
    const known = this.#lines.get(sid);
    if (known !== undefined) return known;
    const made: Line = {
      line: this.#clock.randomHex(LINE_BYTES),
      callId: this.#clock.randomHex(16),
    };
    this.#lines.set(sid, made);
    const source: JournalSource = { snapshot: () => made };
    this.#journal.put(KEY + sid, source);
    return made;
  }

  #changed(trunkSid: TrunkSid, status: RegisterStatus): void {
    const { state, gateway, reason, sipStatus } = status;
    this.#changes.inc({ state });
    const level = state === 'failed' ? 'warn' : 'info';
    this.#log[level]({ trunkSid, state, gateway, reason, sipStatus }, 'registration changed');
  }
}

function addressOfRecord({ policy, credentials, gateways }: TrunkRoute): string | null {
  const given = policy.registration.addressOfRecord;
  if (given !== '') return /^sips?:/i.test(given) ? given.replace(/^sips/i, 'sip') : `sip:${given}`;
  const [first] = gateways;
  if (credentials === null || first === undefined) return null;
  const { host } = parseUri(first.uri);
  const user = encodeURIComponent(credentials.username).replaceAll('%2B', '+');
  return `sip:${user}@${host.includes(':') ? `[${host}]` : host}`;
}

/** The password by itself never leaves it: only whether it is another. */
function madeOf({ gateways, credentials, policy }: TrunkRoute): string {
  const { username = '', realm = '' } = credentials ?? {};
  const password = credentials?.password.reveal() ?? '';
  return JSON.stringify([gateways, username, realm, password, policy.registration]);
}
