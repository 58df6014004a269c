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
import type { DigestProver } from '../sip/digest-prover.ts';
import { parseUri, type SipMessage } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { registeredAt } from '../sip/registrar.ts';
import type { NumberRow, Store, TrunkTransfers, VoiceSettings } from '../store/store.ts';
import type { TrunkPolicy } from '../store/trunk-policy.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import { Decisions } from './decision.ts';
import { type InboundAccount, InboundDigest } from './inbound-digest.ts';
import { readInbound } from './number-format.ts';
import { readBy, shownAs } from './number-reading.ts';
import { applicationOf, passesTo } from './pass-through.ts';
import type { InboundQuery, InboundRoute, RouteRule, RouteTable, TrunkRoute } from './route.ts';
import {
  endingOf,
  hostsOf,
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
  /** Names of the node itself: they mean no trunk and no domain. */
  readonly ownHosts?: ReadonlySet<string>;
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
  readonly #ownHosts: ReadonlySet<string>;
  readonly #told = new Set<string>(); // rows whose host name is ours
  #snapshot: Snapshot = snapshotOf(NO_ROWS, new Set());
  #loading: Promise<void> | null = null;
  #isStale = false;

  constructor(parts: {
    store: Store;
    clock: Clock;
    log: Log;
    prover: DigestProver;
    options: StoreRouteTableOptions;
  }) {
    const { store, clock, log, prover, options } = parts;
    this.#store = store;
    this.#log = log;
    this.#options = options;
    this.#ownHosts = options.ownHosts ?? new Set();
    this.#trusted = new AddressSet(options.trustedSources);
    this.#digest = new InboundDigest({ clock, prover, realm: options.realm });
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

  /** To what its calls may be transferred, and whom the target sees. */
  transfersOf(sid: TrunkSid): TrunkTransfers | null {
    return this.#snapshot.trunks.find(({ row }) => row.sid === sid)?.row.trunking ?? null;
  }

  rules(accountSid: AccountSid): readonly RouteRule[] {
    return this.#snapshot.rulesOf.get(accountSid) ?? [];
  }

  inbound(query: InboundQuery, decisions: Decisions = new Decisions()): InboundRoute | null {
    const caller = this.#callerOf(query.source, query.host, query);
    const domain = this.#snapshot.domains.get(caller.host);
    if (domain !== undefined) return this.#toDomain(domain, query, caller, decisions);
    const trunks = this.#trunksOf(caller).filter(({ claim }) => standingOf(claim, caller) === 'is');
    const number = this.#numberOf(query, trunks, caller);
    if (number === 'contested') return this.#contested(query, trunks, decisions);
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
      ...passesTo(number),
    };
  }

  /** Whether calls come from it: an address of a trunk or domain, or a trusted one. */
  isKnown(address: string): boolean {
    return this.#snapshot.sources.has(address) || this.#trusted.has(address);
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
    const domain = this.#snapshot.domains.has(caller.host) ? caller.host : null;
    const accountsOf = (username: string) => this.#accounts(username, claims);
    return this.#digest.authenticate(request, source, domain, accountsOf);
  }

  /** Of the trunk that a call from there would be of; null when none is known to be it. */
  trunkPolicyOf(request: SipMessage, source: KnownSource): TrunkPolicy | null {
    const given = { certificateNames: source.certificateNames ?? [], identity: null };
    const caller = this.#callerOf(source, parseUri(request.uri).host, given);
    const { standing, claims } = this.#standing(caller);
    if (standing !== 'is' && standing !== 'known') return null;
    const sid = claims[0]?.sid;
    return this.#snapshot.trunks.find(({ row }) => row.sid === sid)?.row.policy ?? null;
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

  /** Whose trunk, domain or number that is; null when there is none. */
  ownerOf(sid: string): AccountSid | null {
    const { trunks, domains, numbers, addresses } = this.#snapshot;
    const known = [...trunks, ...domains.values()].map(({ row }) => row);
    const all = [...known, ...numbers.values(), ...addresses];
    return all.find((row) => row.sid === sid)?.accountSid ?? null;
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

  /** What is dialled as it is comes first: an account's way to read it must not take it away. */
  #numberOf(
    query: InboundQuery,
    trunks: readonly KnownTrunk[],
    { isTrusted }: Caller,
  ): NumberRow | 'contested' | undefined {
    const { numbers, addresses } = this.#snapshot;
    const exact = numbers.get(query.user);
    const isCarried = trunks.some(({ row }) => row.accountSid === exact?.accountSid);
    const isOurContact = trunks.some(({ row }) => query.identity === registeredAt(row.sid));
    const isWhole = query.context === undefined || query.context === '';
    if (exact && (isCarried || isTrusted) && isWhole && !isOurContact) return exact;
    const read = trunks.flatMap((trunk) => readBy(numbers, trunk, query) ?? []);
    const [first] = read;
    if (read.some(({ accountSid }) => accountSid !== first?.accountSid)) return 'contested';
    if (first ?? exact) return first ?? exact;
    const address = `sip:${query.user}@${query.host}`;
    return addresses.find((row) => matchesPattern(address, row.phoneNumber));
  }

  /** Trunks of two accounts make numbers of both of it: neither gets the other's call. */
  #contested(
    query: InboundQuery,
    trunks: readonly KnownTrunk[],
    decisions: Decisions,
  ): InboundRoute {
    const { numbers } = this.#snapshot;
    const readers = trunks.filter((trunk) => readBy(numbers, trunk, query) !== undefined);
    const sids = readers.map(({ row }) => row.sid);
    this.#log.warn({ trunks: sids }, 'trunks of several accounts read a number as theirs');
    const what = `${query.user} is read as numbers of several accounts`;
    decisions.no('number', what, `Policy.numbers of ${sids.join(', ')}`);
    const target = `sip:${query.user}@${query.host}`;
    return { kind: 'refused', code: 'NO_ROUTE', details: { target } };
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
    const ofAccount = new Map(trunks.map((each) => [each.row.accountSid, each]));
    if (trunk === undefined) {
      const near = this.#near(query.user);
      // Of whichever account: told to its owner only, which its sid sees to.
      if (near !== undefined) {
        const what = `${query.user} is no number of ours, but ${near.phoneNumber} is`;
        decisions.no('number', what, `the PhoneNumber of ${near.sid}, or what is dialled`);
      }
    }
    const isTold = [...ofAccount.values()].map((each) => this.#tellNear(query, each, decisions));
    if (trunk !== undefined && !isTold.includes(false)) return;
    // How one account reads it is not told to the others.
    const shown = trunk !== undefined && ofAccount.size === 1 ? shownAs(query, trunk) : query.user;
    decisions.no('number', `${shown} is none of our numbers`, 'IncomingPhoneNumbers');
  }

  /** Whether the trunk's account has a number that may have been meant. */
  #tellNear(query: InboundQuery, trunk: KnownTrunk, decisions: Decisions): boolean {
    const { accountSid, policy, sid } = trunk.row;
    const near = this.#near(query.user, accountSid);
    if (near === undefined) return false;
    const read = readInbound(query.user, policy.numbers, query.context);
    const why = read.ok ? '' : ` (${read.why})`;
    const what = `${shownAs(query, trunk)} is no number of ours, but ${near.phoneNumber} is${why}`;
    const fields = 'Policy.numbers.inbound and Policy.numbers.countryCode';
    decisions.no('number', what, `${fields} of trunk ${sid}`);
    return true;
  }

  /** The number that may have been meant, of one account or of any. */
  #near(user: string, accountSid: AccountSid | null = null): NumberRow | undefined {
    const found = this.#snapshot.byEnding.get(endingOf(user) ?? '') ?? [];
    return found.find((row) => accountSid === null || row.accountSid === accountSid);
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
    const trunk = this.#snapshot.trunks.find(({ row }) => row.sid === number.trunkSid);
    return applicationOf(number, voice, trunk?.row);
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

  /** Rows that name this node, from before that was refused: they are not looked at. */
  #tellOwnHosts(rows: Pick<Rows, 'trunks' | 'sipDomains'>): void {
    for (const { sid, hosts } of hostsOf(rows)) {
      const name = hosts.find((host) => this.#ownHosts.has(host));
      if (name === undefined || this.#told.has(sid)) continue;
      this.#told.add(sid);
      this.#log.warn({ sid, name }, 'a host name of this node is claimed by a row: left out');
    }
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
    this.#snapshot = snapshotOf(rows, this.#ownHosts);
    this.#tellOwnHosts(rows);
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

function statusCallbackOf(voice: VoiceSettings): StatusCallback | null {
  return callbackOf(voice.statusCallback, voice.statusCallbackMethod);
}

function callbackOf(url: string | null, method: 'GET' | 'POST'): StatusCallback | null {
  return url === null ? null : { url, method, events: ['completed'] };
}
