/**
 * Where a call goes that we place: which trunks and gateways for a number, or the contacts of an
 * address, as groups of targets in the order to try; and the place it takes in a trunk's limits
 * before it goes there. The rules of the choice are `trunk-choice.ts`, the trying `leg-placing.ts`.
 */
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid, CallSid, TrunkSid } from '../core/sid.ts';
import type { HeaderField } from '../sip/message.ts';
import { DEFAULT_TRUNK_POLICY } from '../store/trunk-policy.ts';
import type { Decisions } from './decision.ts';
import { plainFailover } from './failover.ts';
import { type OutboundFacts, outboundHeaders } from './header-policy.ts';
import {
  DEFAULT_LEG_POLICY,
  type LegGroup,
  type LegPolicy,
  type LegSigning,
  type LegTarget,
  legPolicyOf,
} from './leg.ts';
import { formatOutbound } from './number-format.ts';
import { type DialTarget, gatewayUri, type RouteTable, type TrunkRoute } from './route.ts';
import { chooseTrunks, orderWays, trunkOfNumber } from './trunk-choice.ts';
import type { GatewayRef, GatewayState } from './trunk-health.ts';
import type { LimitedTrunk, TrunkLimiter } from './trunk-limits.ts';

/** A place where a registered address can be reached now. */
export interface ContactTarget {
  readonly target: LegTarget;
  /** RFC 3261 §20.10: higher is tried first, equals at once. */
  readonly q: number;
}

export interface OutboundParts {
  readonly clock: Clock;
  readonly routes: RouteTable;
  readonly limiter: TrunkLimiter;
  /** How a gateway fares; absent: nobody knows. */
  readonly stateOf?: (gateway: GatewayRef) => GatewayState;
  /** Of an address that registers with us; null for one that does not, however it is written. */
  readonly contactsOf?: (uri: string, accountSid: AccountSid) => readonly ContactTarget[] | null;
  /** Host of the From URI. */
  readonly fromDomain: string;
  /** Of legs that go through no trunk; absent: the defaults. */
  readonly plainPolicy?: LegPolicy;
  /** How long one of them may say nothing at all; 0: until timer B. Absent: the default. */
  readonly plainNoProvisionalMs?: number;
  /** Whether there is a key to sign callers with; absent: there is none. */
  readonly canSign?: () => boolean;
}

export interface OutboundRequest {
  readonly accountSid: AccountSid;
  readonly target: DialTarget;
  readonly from: string;
  readonly callerName: string;
  /** The call that it follows from. */
  readonly parent?: OutboundFacts['parent'];
}

export class Outbound {
  readonly #parts: OutboundParts;

  constructor(parts: OutboundParts) {
    this.#parts = parts;
  }

  /** Groups in the order to try, never none; throws why there are none. */
  async plan(request: OutboundRequest, decisions: Decisions): Promise<readonly LegGroup[]> {
    const { target } = request;
    if (target.kind === 'number') return this.#numberGroups(request, target, decisions);
    return this.#addressGroups(request, target, decisions);
  }

  /**
   * Takes a place in the first trunk that has one, waiting for its pace if need be; the groups of
   * trunks before it are left out. Throws TRUNK_LIMIT when there is room nowhere.
   */
  async take(
    groups: readonly LegGroup[],
    call: { readonly sid: CallSid; readonly accountSid: AccountSid },
    decisions: Decisions,
  ): Promise<readonly LegGroup[]> {
    const full = new Set<TrunkSid>();
    let problem = '';
    for (const { trunkSid } of groups) {
      if (trunkSid === null) return groups.filter((group) => !isIn(group, full));
      if (full.has(trunkSid)) continue;
      const limit = await this.takePlace(call, trunkSid, decisions);
      if (limit === null) return groups.filter((group) => !isIn(group, full));
      problem ||= limit;
      full.add(trunkSid);
    }
    throw new GatewayError('TRUNK_LIMIT', { problem });
  }

  /** Null when the call has its place in the trunk now, else why not. */
  async takePlace(
    call: { readonly sid: CallSid; readonly accountSid: AccountSid },
    trunkSid: TrunkSid,
    decisions: Decisions,
  ): Promise<string | null> {
    const trunk = await this.#trunk(call.accountSid, trunkSid);
    if (trunk === undefined) return `trunk ${trunkSid} is gone`;
    const limit = await this.#parts.limiter.takeOut(limitedOf(trunk), call.sid);
    decisions.add([limit]);
    return limit.ok ? null : limit.what;
  }

  /** What `take` would find now, for each trunk of the groups, counting nothing. */
  async look(
    groups: readonly LegGroup[],
    accountSid: AccountSid,
    decisions: Decisions,
  ): Promise<boolean> {
    const sids = new Set(groups.map(({ trunkSid }) => trunkSid));
    let hasRoom = false;
    for (const sid of sids) {
      const trunk = sid === null ? undefined : await this.#trunk(accountSid, sid);
      const limit = trunk && this.#parts.limiter.look(limitedOf(trunk), 'out');
      if (limit !== undefined) decisions.add([limit]);
      hasRoom ||= limit?.ok ?? sid === null;
    }
    return hasRoom;
  }

  async #trunk(accountSid: AccountSid, sid: TrunkSid): Promise<TrunkRoute | undefined> {
    const trunks = await this.#parts.routes.trunks(accountSid);
    return trunks.find((trunk) => trunk.sid === sid);
  }

  async #numberGroups(
    request: OutboundRequest,
    { number, trunkSid }: Extract<DialTarget, { kind: 'number' }>,
    decisions: Decisions,
  ): Promise<readonly LegGroup[]> {
    const { accountSid } = request;
    const { clock, routes: table, stateOf = nobodyKnows } = this.#parts;
    const trunks = await table.trunks(accountSid);
    const routes = (await table.rules?.(accountSid)) ?? [];
    const chosen =
      trunkSid === undefined
        ? chooseTrunks({ number, trunks, routes, decisions })
        : trunkOfNumber({ number, trunks, trunkSid, decisions });
    if (chosen.length === 0) throw new GatewayError('NO_TRUNK', { target: number });
    const random = (): number => clock.random();
    const usable = chosen.filter((trunk) => isCarried(trunk, decisions));
    // Before any INVITE: a call that must not be heard by others is not placed in the clear.
    if (usable.length === 0) throw new GatewayError('SRTP_UNSUPPORTED', { mode: 'required' });
    const ways = orderWays({ trunks: usable, stateOf, random, decisions });
    const written = new Map(usable.map((trunk) => [trunk, writtenFor(trunk, number, decisions)]));
    const groups = ways.flatMap(({ trunk, gateway }) => {
      const user = written.get(trunk) ?? null;
      if (user === null) return [];
      const to = { uri: gatewayUri(gateway.uri, user), gateway: gateway.uri };
      return [this.#trunkGroup(request, trunk, to, decisions)];
    });
    if (groups.length === 0) throw new GatewayError('DIAL_NUMBER', { number });
    return groups;
  }

  #trunkGroup(
    request: OutboundRequest,
    trunk: TrunkRoute,
    to: { readonly uri: string; readonly gateway: string },
    decisions: Decisions,
  ): LegGroup {
    const { credentials, policy } = trunk;
    const { from, callerName: name, parent = null } = request;
    const facts = {
      from,
      name,
      domain: this.#parts.fromDomain,
      target: to.uri,
      headers: [],
      parent,
    };
    const written = outboundHeaders(facts, policy, decisions);
    const { fromUri, fromDisplay, caller, headers } = written;
    const stir = this.#signing(request, trunk, caller, decisions);
    return {
      targets: [{ ...to, peer: null, trusted: true }],
      trunkSid: trunk.sid,
      ...{ fromUri, fromDisplay, stir },
      // RFC 5009 §5.1, §8: asked for among those only who believe each other.
      headers: policy.identity.trust ? [...headers, ['P-Early-Media', 'supported']] : headers,
      credentials: credentials && { ...credentials, password: credentials.password.reveal() },
      policy: legPolicyOf(policy),
      failover: policy.failover,
    };
  }

  /**
   * How the caller is attested (RFC 8588 §4): A where the account has the number, B where it is a
   * call of its own with another, and what the node is set to where it only passes a call on. Null:
   * unsigned, which carriers take as they take calls from networks without signatures; a call is
   * not lost for want of a key, and the trace says what is missing.
   */
  #signing(
    { accountSid, from, parent = null }: OutboundRequest,
    { name, policy }: TrunkRoute,
    caller: string,
    decisions: Decisions,
  ): LegSigning | null {
    if (!policy.stir.sign) return null;
    const { routes, canSign } = this.#parts;
    if (caller === '' || canSign?.() !== true) {
      const why = caller === '' ? 'nobody is known to call' : 'this node has no key';
      decisions.no('identity', `unsigned, which trunk ${name} does not want: ${why}`, SIGNING_FIX);
      return null;
    }
    const { numbers } = policy;
    if (routes.owns?.(accountSid, from) === true) {
      decisions.ok('identity', `signed with attestation A: the account has ${from}`);
      return { caller, attest: 'A', numbers };
    }
    const isPassed = parent !== null && parent.party !== null && parent.from === from;
    const what = isPassed ? 'stir.attestation: it comes from another network' : 'attestation B';
    decisions.ok('identity', `signed with ${what}`);
    return { caller, attest: isPassed ? null : 'B', numbers };
  }

  /** The contacts of an address of ours, else the address itself. */
  #addressGroups(
    request: OutboundRequest,
    target: Extract<DialTarget, { kind: 'sip' }>,
    decisions: Decisions,
  ): readonly LegGroup[] {
    const { uri, credentials, headers } = target;
    const { from, callerName: name, parent = null } = request;
    const facts = { from, name, domain: this.#parts.fromDomain, target: uri, headers, parent };
    // A caller who is withheld is so for a phone of ours and for any other address too.
    const written = outboundHeaders(facts, DEFAULT_TRUNK_POLICY, decisions);
    const group = {
      trunkSid: null,
      ...{ fromUri: written.fromUri, fromDisplay: written.fromDisplay },
      headers: [...written.headers, ...replacing(target)],
      credentials: credentials === null ? null : { ...credentials, realm: null },
      policy: this.#parts.plainPolicy ?? DEFAULT_LEG_POLICY,
      failover: plainFailover(this.#parts.plainNoProvisionalMs),
    };
    const contacts = this.#parts.contactsOf?.(uri, request.accountSid) ?? null;
    if (contacts === null) return [{ ...group, targets: [{ uri, peer: null, trusted: false }] }];
    if (contacts.length === 0) {
      const fix = 'the phone, so that it registers (SIP/Registrations lists those that do)';
      decisions.no('gateway', `${uri} is not registered`, fix);
      throw new GatewayError('NOT_REGISTERED', { uri });
    }
    decisions.ok('gateway', `${uri} is registered at ${contacts.length} contacts`);
    // RFC 3261 §16.6: the highest q first, and those that have the same at once.
    const byQ = Map.groupBy(
      contacts.toSorted((a, b) => b.q - a.q),
      ({ q }) => q,
    );
    return [...byQ.values()].map((equals) => {
      const failover = { ...group.failover, ...CONTACTS_FAILOVER };
      return { ...group, failover, targets: equals.map((one) => one.target) };
    });
  }
}

/** RFC 3261 §16.7: of contacts with a lower q any refusal but a 6xx makes the next be tried. */
const CONTACTS_FAILOVER = { statuses: ['3xx', '4xx', '5xx'], finalStatuses: [] };

/** RFC 3891 §4: who does not know the field must not ring as if called anew. */
function replacing({ replaces = '' }: Extract<DialTarget, { kind: 'sip' }>): HeaderField[] {
  return replaces === ''
    ? []
    : [
        ['Replaces', replaces],
        ['Require', 'replaces'],
      ];
}

function isIn({ trunkSid }: LegGroup, trunks: ReadonlySet<TrunkSid>): boolean {
  return trunkSid !== null && trunks.has(trunkSid);
}

/** False for one that wants SRTP and nothing else. */
function isCarried({ sid, name, policy }: TrunkRoute, decisions: Decisions): boolean {
  if (policy.srtp === 'off') return true;
  const isRequired = policy.srtp === 'required';
  if (isRequired) {
    const what = `trunk ${name} requires SRTP, which this node cannot carry`;
    decisions.no('codec', what, `Policy.srtp of trunk ${sid}`);
  } else decisions.ok('codec', `trunk ${name} would have SRTP: plain RTP is offered`);
  return !isRequired;
}

const SIGNING_FIX = 'stir.keyFile, or Policy.stir.sign of the trunk';

function limitedOf({ sid, name, policy }: TrunkRoute): LimitedTrunk {
  return { sid, name, limits: policy.limits };
}

function nobodyKnows(): GatewayState {
  return 'unknown';
}

/** The number as a trunk wants it; null when it cannot be written so. */
function writtenFor(trunk: TrunkRoute, number: string, decisions: Decisions): string | null {
  const { ok, number: written, why } = formatOutbound(number, trunk.policy.numbers);
  if (ok) {
    decisions.ok('number', `${number} is ${written} for trunk ${trunk.name}: ${why}`);
    return written;
  }
  decisions.no('number', why, `Policy.numbers of trunk ${trunk.sid}`);
  return null;
}
