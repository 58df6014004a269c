/**
 * The route table that the store's rows make: whose call an INVITE is, which application a number
 * belongs to, which trunks an account has. Kept in memory so that a call's setup never waits for
 * the database and survives its loss; reloaded after a change. The choice of a trunk for a number
 * is `trunk-choice.ts`, the standing of one trunk `trunk-match.ts`.
 */
import { AddressSet } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { AccountSid, NumberSid, TrunkSid } from '../core/sid.ts';
import type { AuthVerdict, Credentials } from '../sip/challenge.ts';
import { parseUri, type SipMessage } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { registeredAt } from '../sip/registrar.ts';
import type { NumberRow, Store, VoiceSettings } from '../store/store.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import { Decisions } from './decision.ts';
import { type InboundAccount, InboundDigest } from './inbound-digest.ts';
import { readInbound } from './number-format.ts';
import type { InboundQuery, InboundRoute, RouteRule, RouteTable, TrunkRoute } from './route.ts';
import {
  endingOf,
  type KnownDomain,
  type KnownTrunk,
  NO_ROWS,
  type Rows,
  type Snapshot,
  snapshotOf,
} from './route-snapshot.ts';
import { matchesPattern } from './trunk-choice.ts';
import { type Caller, type Claim, type Standing, standingOf } from './trunk-match.ts';

export interface StoreRouteTableOptions {
  /** Rows of each kind held in memory; more are not seen, and that is logged. */
  readonly rowsMax: number;
  /** Sources beside trunks that may call a number. */
  readonly trustedSources: readonly string[];
  /** Of the challenges to calls that have to prove whose they are. */
  readonly realm: string;
}

export const DEFAULT_ROUTE_TABLE = { rowsMax: 100_000 } as const;

/** A source, with what a TLS connection tells of it. */
export type KnownSource = PeerAddress & { readonly certificateNames?: readonly string[] };

/** Trunks that are told to be the wrong ones, when none is the right one. */
const CANDIDATES_TOLD_MAX = 4;

export class StoreRouteTable implements RouteTable {
  readonly #store: Store;
  readonly #log: Log;
  readonly #options: StoreRouteTableOptions;
  readonly #trusted: AddressSet;
  readonly #digest: InboundDigest;
  readonly #onLoad: ((trunks: readonly TrunkRoute[]) => void)[] = [];
  #snapshot: Snapshot = snapshotOf(NO_ROWS);
  #loading: Promise<void> | null = null;
  #isStale = false;

  constructor(parts: {
    store: Store;
    clock: Clock;
    log: Log;
    options: StoreRouteTableOptions;
  }) {
    const { store, clock, log, options } = parts;
    this.#store = store;
    this.#log = log;
    this.#options = options;
    this.#trusted = new AddressSet(options.trustedSources);
    this.#digest = new InboundDigest({ clock, realm: options.realm });
  }

  async start(): Promise<void> {
    this.#store.onChange((change) => {
      if (change.table !== 'accounts') this.#reload();
    });
    await this.#load();
  }

  /** Tells all trunks, of every account, now and whenever they may have changed. */
  watch(listener: (trunks: readonly TrunkRoute[]) => void): void {
    this.#onLoad.push(listener);
    listener(this.#snapshot.trunks.map(({ route }) => route));
  }

  trunks(accountSid: AccountSid): readonly TrunkRoute[] {
    return this.#snapshot.byAccount.get(accountSid) ?? [];
  }

  owns(accountSid: AccountSid, number: string): boolean {
    return this.#snapshot.numbers.get(number)?.accountSid === accountSid;
  }

  numberSid(accountSid: AccountSid, number: string): NumberSid | null {
    const row = this.#snapshot.numbers.get(number);
    return row?.accountSid === accountSid ? row.sid : null;
  }

  /** With which a trunk's challenges are answered, also for a call of a former process. */
  credentialsOf(sid: TrunkSid): Credentials | null {
    const known = this.#snapshot.trunks.find(({ row }) => row.sid === sid)?.route.credentials;
    if (!known) return null;
    const { realm, ...pair } = known;
    return realm === null ? pair : { ...pair, realm };
  }

  rules(accountSid: AccountSid): readonly RouteRule[] {
    return this.#snapshot.rulesOf.get(accountSid) ?? [];
  }

  inbound(query: InboundQuery, decisions: Decisions = new Decisions()): InboundRoute | null {
    const caller = this.#callerOf(query.source, query.host, query);
    const domain = this.#snapshot.domains.get(caller.host);
    if (domain !== undefined) return this.#toDomain(domain, query, caller, decisions);
    const trunks = this.#trunksOf(caller).filter(({ claim }) => standingOf(claim, caller) === 'is');
    const number = this.#numberOf(query, trunks);
    if (number === undefined) {
      this.#tellUnclaimed(query, caller, trunks, decisions);
      return null;
    }
    const trunk = trunks.find(({ row }) => row.accountSid === number.accountSid);
    if (trunk === undefined && !caller.isTrusted) {
      // A number is called by its carriers; anybody else is a stranger whatever he dials.
      const own = this.#snapshot.trunks.filter(({ row }) => row.accountSid === number.accountSid);
      this.#tellStrange(caller, own, decisions);
      const problem = `${query.source.address} is no source of the trunks of this number`;
      return { kind: 'refused', code: 'SIP_FORBIDDEN', details: { problem } };
    }
    tellStanding(caller, trunk?.claim ?? null, decisions);
    decisions.ok('number', `${query.user} is number ${number.phoneNumber} (${number.sid})`);
    const isAddress = number.phoneNumber.startsWith('sip:');
    return {
      kind: 'application',
      accountSid: number.accountSid,
      application: this.#applicationOf(number),
      statusCallback: statusCallbackOf(this.#voiceOf(number)),
      to: isAddress ? `sip:${query.user}@${query.host}` : number.phoneNumber,
      phoneNumberSid: number.sid,
      from: query.from,
      trunkSid: trunk?.row.sid ?? null,
      trunk: trunk?.route ?? null,
      ...(number.trunkSid === null ? {} : { passesTo: number.phoneNumber }),
    };
  }

  /** Whether calls come from it: an address of a trunk or domain, or a trusted one. */
  isKnown(address: string): boolean {
    return this.#snapshot.sources.has(address) || this.#trusted.has(address);
  }

  /** Whether some trunk's gateway is at this address, by number; names are known when dialled. */
  isGateway(address: string): boolean {
    return this.#snapshot.gateways.has(address);
  }

  /** Whether an unknown address is told no at once: nobody there could prove anything. */
  refuses(address: string): boolean {
    return !this.#snapshot.isProvable && !this.isKnown(address);
  }

  /** Who has to prove whose call it is. */
  authenticate(request: SipMessage, source: KnownSource): AuthVerdict {
    const { certificateNames = [] } = source;
    const given = { certificateNames, identity: null };
    const caller = this.#callerOf(source, parseUri(request.uri).host, given);
    const { standing, claims } = this.#standing(caller);
    if (standing === 'is') return { kind: 'accept' };
    if (standing === 'not') return { kind: 'refuse', code: 'SIP_FORBIDDEN' };
    return this.#digest.authenticate(request, (username) => this.#accounts(username, claims));
  }

  /**
   * What `authenticate` would find, in words; for refusals and dry runs. `identity` is what the
   * caller would have proven if it could prove everything that it may be asked for.
   */
  explainSource(
    query: InboundQuery,
    decisions: Decisions,
  ): { standing: 'is' | 'challenge' | 'not'; identity: string | null } {
    const caller = this.#callerOf(query.source, query.host, query);
    const { standing, claims } = this.#standing(caller);
    if (standing === 'not') {
      const domain = this.#snapshot.domains.get(caller.host);
      if (domain !== undefined) standingOf(domain.claim, caller, decisions);
      else this.#tellStrange(caller, this.#likely(query, caller), decisions);
    }
    if (standing === 'is' || standing === 'not') return { standing, identity: null };
    return { standing: 'challenge', identity: claims.map(({ sid }) => sid).join(' ') };
  }

  /** Whose trunk or domain that is; null when there is none. */
  ownerOf(sid: string): AccountSid | null {
    const { trunks, domains } = this.#snapshot;
    const known = [...trunks, ...domains.values()].find(({ row }) => row.sid === sid);
    return known?.row.accountSid ?? null;
  }

  /** The best standing that a caller has anywhere, and where it has it. */
  #standing(caller: Caller): { standing: Standing; claims: readonly Claim[] } {
    const domain = this.#snapshot.domains.get(caller.host);
    if (domain !== undefined) {
      const standing = standingOf(domain.claim, caller, null);
      return { standing, claims: [domain.claim] };
    }
    const known: Claim[] = [];
    const possible: Claim[] = [];
    for (const { claim } of this.#trunksOf(caller)) {
      const standing = standingOf(claim, caller);
      if (standing === 'is') return { standing, claims: [claim] };
      if (standing === 'known') known.push(claim);
      else if (standing === 'may') possible.push(claim);
    }
    if (known.length > 0) return { standing: 'known', claims: [...known, ...possible] };
    if (caller.isTrusted) return { standing: 'is', claims: [] };
    return { standing: possible.length > 0 ? 'may' : 'not', claims: possible };
  }

  #accounts(username: string, claims: readonly Claim[]): readonly InboundAccount[] {
    const found = this.#snapshot.logins.get(username) ?? [];
    return found.filter((account) => claims.some(({ sid }) => sid === account.sid));
  }

  #callerOf(
    source: PeerAddress,
    host: string,
    given: Pick<Caller, 'certificateNames' | 'identity'>,
  ): Caller {
    const { certificateNames, identity } = given;
    const isTrusted = this.#trusted.has(source.address);
    return { source, host: host.toLowerCase(), certificateNames, identity, isTrusted };
  }

  /** A host name that is a trunk's means that one; else all that are known by anything else. */
  #trunksOf({ host, identity }: Caller): readonly KnownTrunk[] {
    const named = this.#snapshot.trunkOfHost.get(host);
    if (named !== undefined) return [named];
    const { trunks } = this.#snapshot;
    // To the contact that we registered with a carrier only that carrier calls.
    const registered = trunks.find(({ row }) => identity === registeredAt(row.sid));
    return registered === undefined ? trunks.filter(isNameless) : [registered];
  }

  #toDomain(
    domain: KnownDomain,
    query: InboundQuery,
    caller: Caller,
    decisions: Decisions,
  ): InboundRoute {
    const { row } = domain;
    if (standingOf(domain.claim, caller, decisions) !== 'is') {
      const problem = `the caller is nobody of domain ${row.domainName}`;
      return { kind: 'refused', code: 'SIP_FORBIDDEN', details: { problem } };
    }
    if (row.voiceUrl === null) {
      decisions.no(
        'route',
        `domain ${row.domainName} has no application`,
        `VoiceUrl of ${row.sid}`,
      );
      const target = `sip:${query.user}@${query.host}`;
      return { kind: 'refused', code: 'NO_ROUTE', details: { target } };
    }
    decisions.ok('route', `domain ${row.domainName} has the application ${row.voiceUrl}`);
    return {
      kind: 'application',
      accountSid: row.accountSid,
      application: {
        applicationSid: null,
        url: row.voiceUrl,
        method: row.voiceMethod,
        fallbackUrl: row.voiceFallbackUrl,
        fallbackMethod: row.voiceFallbackMethod,
        document: null,
      },
      statusCallback: callbackOf(row.statusCallback, row.statusCallbackMethod),
      to: `sip:${query.user}@${query.host}`,
      from: query.from,
      trunkSid: null,
    };
  }

  #numberOf(query: InboundQuery, trunks: readonly KnownTrunk[]): NumberRow | undefined {
    const { numbers, addresses } = this.#snapshot;
    for (const { row } of trunks) {
      const isOurContact = query.identity === registeredAt(row.sid);
      for (const { user, context } of isOurContact ? [query.to ?? query, query] : [query]) {
        const read = readInbound(user, row.policy.numbers, context);
        const found = numbers.get(read.number);
        if (found?.accountSid === row.accountSid) return found;
      }
    }
    const exact = numbers.get(query.user);
    if (exact) return exact;
    const address = `sip:${query.user}@${query.host}`;
    return addresses.find((row) => matchesPattern(address, row.phoneNumber));
  }

  #tellUnclaimed(
    query: InboundQuery,
    caller: Caller,
    trunks: readonly KnownTrunk[],
    decisions: Decisions,
  ): void {
    const [trunk] = trunks;
    if (trunk === undefined && !caller.isTrusted) {
      this.#tellStrange(caller, this.#likely(query, caller), decisions);
      return;
    }
    tellStanding(caller, trunk?.claim ?? null, decisions);
    const near = this.#near(query.user);
    const policy = trunk?.row.policy.numbers;
    const read = policy && readInbound(query.user, policy, query.context);
    const isRead = read !== undefined && read.number !== query.user;
    const shown = isRead ? `${query.user}, read as ${read.number},` : query.user;
    if (near === undefined) {
      decisions.no('number', `${shown} is none of our numbers`, 'IncomingPhoneNumbers');
      return;
    }
    const why = read === undefined || read.ok ? '' : ` (${read.why})`;
    const what = `${shown} is no number of ours, but ${near.phoneNumber} is${why}`;
    const fix =
      trunk === undefined
        ? `the PhoneNumber of ${near.sid}, or what is dialled`
        : `Policy.numbers.inbound and Policy.numbers.countryCode of trunk ${trunk.row.sid}`;
    decisions.no('number', what, fix);
  }

  /** The number that may have been meant. */
  #near(user: string): NumberRow | undefined {
    const digits = endingOf(user);
    return digits === null ? undefined : this.#snapshot.byEnding.get(digits);
  }

  /** Trunks that the caller may have meant to come from: the number's own account's first. */
  #likely(query: InboundQuery, caller: Caller): readonly KnownTrunk[] {
    const number = this.#snapshot.numbers.get(query.user) ?? this.#near(query.user);
    const all = this.#trunksOf(caller);
    if (number === undefined) return all;
    const own = all.filter(({ row }) => row.accountSid === number.accountSid);
    return own.length > 0 ? own : all;
  }

  #tellStrange(caller: Caller, trunks: readonly KnownTrunk[], decisions: Decisions): void {
    const { address } = caller.source;
    const before = decisions.list.length;
    for (const { claim } of trunks.slice(0, CANDIDATES_TOLD_MAX)) {
      standingOf(claim, caller, decisions);
    }
    if (decisions.list.length > before) return;
    const fix = 'InboundAddress of a trunk, or sip.trusted';
    decisions.no('source', `${address} is the source of no trunk`, fix);
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
    const store = this.#store;
    const loaded = await Promise.all([
      store.numbers.all(rowsMax),
      store.applications.all(rowsMax),
      store.trunks.all(rowsMax),
      store.routes.all(rowsMax),
      store.sipDomains.all(rowsMax),
      store.accessAddresses.all(rowsMax),
      store.credentials.all(rowsMax),
    ]);
    if (loaded.some(({ length }) => length === rowsMax)) {
      this.#log.error({ rowsMax }, 'route table is full');
    }
    const [numbers, applications, trunks, routes, sipDomains, accessAddresses, credentials] =
      loaded;
    const lists = { sipDomains, accessAddresses, credentials };
    const rows: Rows = { numbers, applications, trunks, routes, ...lists };
    this.#snapshot = snapshotOf(rows);
    const watched = this.#snapshot.trunks.map(({ route }) => route);
    for (const listener of this.#onLoad) listener(watched);
  }
}

/** Known by more than a host name, so that a call to another host may be its too. */
function isNameless({ claim }: KnownTrunk): boolean {
  return claim.hasAddresses || claim.hasLogins || claim.certificateNames.size > 0;
}

function tellStanding(caller: Caller, claim: Claim | null, decisions: Decisions): void {
  if (claim !== null) standingOf(claim, caller, decisions);
  else decisions.ok('source', `${caller.source.address} is one of sip.trusted`);
}

/**
 * A number that belongs to a trunk needs no application: the call goes through to the trunk. When
 * nobody answers there the caller is refused as the trunk refused (`told-end.ts`), never answered.
 */
function passThrough(number: string): string {
  const text = number.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<Response><Dial answerOnBridge="true"><Number>${text}</Number></Dial><Reject/></Response>`;
}

function statusCallbackOf(voice: VoiceSettings): StatusCallback | null {
  return callbackOf(voice.statusCallback, voice.statusCallbackMethod);
}

function callbackOf(url: string | null, method: 'GET' | 'POST'): StatusCallback | null {
  return url === null ? null : { url, method, events: ['completed'] };
}
