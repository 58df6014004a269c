/**
 * The route table that the store's rows make: numbers, applications and trunks, kept in memory so
 * that a call's setup never waits for the database and survives its loss. Reloaded after a change.
 * Which trunk and which gateway is `route.ts`'s.
 */
import { isIP } from 'node:net';
import { AddressSet, unmapped } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { AccountSid, TrunkSid } from '../core/sid.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import type { SipMessage } from '../sip/message.ts';
import { parseUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { ApplicationRow, NumberRow, Store, TrunkRow, VoiceSettings } from '../store/store.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import {
  DEFAULT_INBOUND_DIGEST,
  type InboundAccount,
  InboundDigest,
  type InboundDigestOptions,
} from './inbound-digest.ts';
import type { RouteTable, TrunkRoute } from './route.ts';
import { type InboundQuery, type InboundRoute, matchesPattern } from './route.ts';

export interface StoreRouteTableOptions extends InboundDigestOptions {
  /** Rows of each kind held in memory; more are not seen, and that is logged. */
  readonly rowsMax: number;
  /** Sources beside trunks that may call a number. */
  readonly trustedSources: readonly string[];
}

export const DEFAULT_ROUTE_TABLE = { ...DEFAULT_INBOUND_DIGEST, rowsMax: 100_000 } as const;

interface KnownTrunk {
  readonly row: TrunkRow;
  readonly sources: AddressSet;
  readonly route: TrunkRoute;
}

interface Snapshot {
  /** By the number as written, with and without its plus sign. */
  readonly numbers: ReadonlyMap<string, NumberRow>;
  /** `sip:` addresses with globs, in order of age. */
  readonly addresses: readonly NumberRow[];
  readonly applications: ReadonlyMap<string, ApplicationRow>;
  readonly trunks: readonly KnownTrunk[];
  /** Enabled trunks whose calls prove themselves, by the name they do it with. */
  readonly byUsername: ReadonlyMap<string, InboundAccount>;
  readonly byAccount: ReadonlyMap<AccountSid, readonly TrunkRoute[]>;
  /** Addresses of gateways that are written as such. */
  readonly gateways: ReadonlySet<string>;
}

const EMPTY: Snapshot = {
  numbers: new Map(),
  addresses: [],
  applications: new Map(),
  trunks: [],
  byUsername: new Map(),
  byAccount: new Map(),
  gateways: new Set(),
};

export class StoreRouteTable implements RouteTable {
  readonly #store: Store;
  readonly #log: Log;
  readonly #options: StoreRouteTableOptions;
  readonly #trusted: AddressSet;
  readonly #digest: InboundDigest;
  #snapshot = EMPTY;
  #loading: Promise<void> | null = null;
  #isStale = false;

  constructor(parts: {
    store: Store;
    clock: Clock;
    log: Log;
    options: StoreRouteTableOptions;
  }) {
    this.#store = parts.store;
    this.#log = parts.log;
    this.#options = parts.options;
    this.#trusted = new AddressSet(parts.options.trustedSources);
    this.#digest = new InboundDigest({
      clock: parts.clock,
      options: parts.options,
      accountOf: (username) => this.#snapshot.byUsername.get(username) ?? null,
    });
  }

  async start(): Promise<void> {
    this.#store.onChange((change) => {
      if (change.table !== 'accounts') this.#reload();
    });
    await this.#load();
  }

  inbound(query: InboundQuery): Promise<InboundRoute | null> {
    return Promise.resolve(this.#inbound(query));
  }

  trunks(accountSid: AccountSid): Promise<readonly TrunkRoute[]> {
    return Promise.resolve(this.#snapshot.byAccount.get(accountSid) ?? []);
  }

  #inbound(query: InboundQuery): InboundRoute | null {
    const trunk = this.#trunkOf(query.source.address) ?? this.#provenTrunk(query);
    const number = this.#numberOf(query);
    if (!number) return null;
    const isOwnTrunk = trunk?.row.accountSid === number.accountSid;
    if (!isOwnTrunk && !this.#trusted.has(query.source.address)) {
      // A number is called by its carriers; anybody else is a stranger whatever he dials.
      const problem = `${query.source.address} is no source of the trunks of this number`;
      return { kind: 'refused', code: 'SIP_FORBIDDEN', details: { problem } };
    }
    return {
      kind: 'application',
      accountSid: number.accountSid,
      application: this.#applicationOf(number),
      statusCallback: statusCallbackOf(this.#voiceOf(number)),
      to: number.phoneNumber.startsWith('sip:')
        ? `sip:${query.user}@${query.host}`
        : number.phoneNumber,
      from: query.from,
      trunkSid: isOwnTrunk ? (trunk?.row.sid ?? null) : null,
    };
  }

  /** Whether its calls need no proof: from a trunk's address or a trusted one. */
  isKnown(address: string): boolean {
    return this.#trunkOf(address) !== undefined || this.#trusted.has(address);
  }

  /** Whether some trunk's gateway is at this address, by number; names are known when dialled. */
  isGateway(address: string): boolean {
    return this.#snapshot.gateways.has(address);
  }

  /** Whether an unknown address is told no at once: nobody there could prove anything. */
  refuses(address: string): boolean {
    return this.#snapshot.byUsername.size === 0 && !this.isKnown(address);
  }

  /** Who has to prove whose call it is. */
  authenticate(request: SipMessage, source: PeerAddress): AuthVerdict {
    if (this.isKnown(source.address)) return { kind: 'accept' };
    return this.#digest.authenticate(request, source);
  }

  #trunkOf(address: string): KnownTrunk | undefined {
    return this.#snapshot.trunks.find(({ row, sources }) => row.enabled && sources.has(address));
  }

  #provenTrunk(query: InboundQuery): KnownTrunk | undefined {
    const trunkSid = this.#digest.take(query);
    if (trunkSid === null) return undefined;
    return this.#snapshot.trunks.find(({ row }) => row.enabled && row.sid === trunkSid);
  }

  #numberOf(query: InboundQuery): NumberRow | undefined {
    const exact = this.#snapshot.numbers.get(query.user);
    if (exact) return exact;
    const address = `sip:${query.user}@${query.host}`;
    return this.#snapshot.addresses.find((row) => matchesPattern(address, row.phoneNumber));
  }

  #voiceOf(number: NumberRow): VoiceSettings {
    const sid = number.voiceApplicationSid;
    return (sid === null ? undefined : this.#snapshot.applications.get(sid)) ?? number;
  }

  #applicationOf(number: NumberRow): CallApplication {
    const voice = this.#voiceOf(number);
    return {
      applicationSid: number.voiceApplicationSid,
      url: number.trunkSid === null ? voice.voiceUrl : null,
      method: voice.voiceMethod,
      fallbackUrl: voice.voiceFallbackUrl,
      fallbackMethod: voice.voiceFallbackMethod,
      document: number.trunkSid === null ? null : passThrough(number.phoneNumber),
    };
  }

  /** One reload at a time; changes that come during it cause one more. */
  #reload(): void {
    if (this.#loading) {
      this.#isStale = true;
      return;
    }
    this.#loading = this.#load()
      .catch((error: Error) => this.#log.error({ err: error }, 'route table not reloaded'))
      .finally(() => {
        this.#loading = null;
        if (!this.#isStale) return;
        this.#isStale = false;
        this.#reload();
      });
  }

  async #load(): Promise<void> {
    const { rowsMax } = this.#options;
    const [numbers, applications, trunks] = await Promise.all([
      this.#store.numbers.all(rowsMax),
      this.#store.applications.all(rowsMax),
      this.#store.trunks.all(rowsMax),
    ]);
    for (const rows of [numbers, applications, trunks]) {
      if (rows.length === rowsMax) this.#log.error({ rowsMax }, 'route table is full');
    }
    const known = trunks.map(knownTrunk);
    this.#snapshot = {
      numbers: new Map(numbers.flatMap((row) => spellings(row))),
      addresses: numbers.filter((row) => row.phoneNumber.startsWith('sip:')),
      applications: new Map(applications.map((row) => [row.sid, row])),
      trunks: known,
      byUsername: new Map(trunks.flatMap((row) => inboundAccount(row))),
      byAccount: routesByAccount(known),
      gateways: new Set(known.flatMap(gatewayAddresses)),
    };
  }
}

function gatewayAddresses({ row }: KnownTrunk): string[] {
  return row.gateways.flatMap(({ uri }) => {
    const host = unmapped(parseUri(uri).host);
    return isIP(host) === 0 ? [] : [host];
  });
}

function routesByAccount(trunks: readonly KnownTrunk[]): Map<AccountSid, TrunkRoute[]> {
  const byAccount = new Map<AccountSid, TrunkRoute[]>();
  for (const { row, route } of trunks) {
    const routes = byAccount.get(row.accountSid);
    if (routes) routes.push(route);
    else byAccount.set(row.accountSid, [route]);
  }
  return byAccount;
}

function inboundAccount(row: TrunkRow): [string, InboundAccount][] {
  const { enabled, inboundUsername: username, inboundPassword: password } = row;
  if (!enabled || username === null || password === null) return [];
  return [[username, { trunkSid: row.sid, password }]];
}

function spellings(row: NumberRow): [string, NumberRow][] {
  const { phoneNumber } = row;
  if (phoneNumber.startsWith('sip:')) return [];
  const other = phoneNumber.startsWith('+') ? phoneNumber.slice(1) : `+${phoneNumber}`;
  return [
    [phoneNumber, row],
    [other, row],
  ];
}

function knownTrunk(row: TrunkRow): KnownTrunk {
  return { row, sources: new AddressSet(row.inboundAddresses), route: trunkRoute(row) };
}

function trunkRoute(row: TrunkRow): TrunkRoute {
  const { username, password, realm } = row;
  return {
    sid: row.sid as TrunkSid,
    isEnabled: row.enabled,
    numberPatterns: row.numberPatterns,
    gateways: row.gateways.filter((gateway) => gateway.enabled),
    credentials: username === null || password === null ? null : { username, password, realm },
  };
}

/** A number that belongs to a trunk needs no application: the call goes through to the trunk. */
function passThrough(number: string): string {
  const text = number.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<Response><Dial answerOnBridge="true"><Number>${text}</Number></Dial></Response>`;
}

function statusCallbackOf(voice: VoiceSettings): StatusCallback | null {
  const { statusCallback: url, statusCallbackMethod: method } = voice;
  return url === null ? null : { url, method, events: ['completed'] };
}
