/**
 * Whether an INVITE becomes a call, and whose: the table's answer, codecs, the trunk's limits and
 * the node's own, in this order, each written down as it is looked at. The same steps serve a dry
 * run, which takes no place anywhere. Not the table's rows (`route-table.ts`), not the call.
 */
import { AddressSet } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, describe, type ErrorCode, type ErrorDetails } from '../core/errors.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import { type OfferedSrtp, type SrtpMode, srtpRefusal } from '../sdp/security.ts';
import { canonicalName } from '../sip/header.ts';
import { DEFAULT_TRUNK_POLICY, type TrunkPolicy } from '../store/trunk-policy.ts';
import type { Admission, Refusal } from './admission.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import type { Decisions } from './decision.ts';
import { DEFAULT_HEADER_LIMITS, type InboundFacts, inboundHeaders } from './header-policy.ts';
import { DEFAULT_LEG_POLICY, type LegOffer, type LegPolicy, legPolicyOf } from './leg.ts';
import { partyOf } from './leg-signal.ts';
import { calledIn } from './number-format.ts';
import type { InboundQuery, InboundRoute, RouteTable } from './route.ts';
import type { Stir, StirResult } from './stir.ts';
import type { TrunkLimiter } from './trunk-limits.ts';

/** What answers calls that nobody claims, from sources that are trusted. */
export interface DefaultRoute {
  readonly accountSid: AccountSid;
  readonly application: CallApplication;
  readonly statusCallback: StatusCallback | null;
}

export type AdmittedRoute = Extract<InboundRoute, { kind: 'application' }>;

export type InboundVerdict =
  | {
      readonly kind: 'admitted';
      readonly route: AdmittedRoute;
      readonly query: InboundQuery;
      readonly policy: LegPolicy;
      /** What the trunk is believed to say of the caller, and what the application may see. */
      readonly facts: InboundFacts;
      /** Of the caller's signature; null where nobody asked. */
      readonly stir: StirResult | null;
    }
  | {
      readonly kind: 'refused';
      readonly code: ErrorCode;
      readonly details: ErrorDetails;
      readonly accountSid: AccountSid | null;
    };

/** What is looked at of an INVITE. */
export type InboundOffer = Pick<
  LegOffer,
  | 'source'
  | 'requestUri'
  | 'fromUri'
  | 'toUri'
  | 'fields'
  | 'identity'
  | 'certificateNames'
  | 'codecs'
  | 'srtp'
  | 'date'
>;

export interface InboundParts {
  readonly clock: Clock;
  readonly routes: RouteTable;
  readonly admission: Admission;
  readonly limiter: TrunkLimiter;
  readonly defaultRoute: DefaultRoute | null;
  /** CIDRs whose unclaimed calls go to the default route. */
  readonly trustedSources: readonly string[];
  /** Of legs that come through no trunk; absent: the defaults. */
  readonly plainPolicy?: LegPolicy;
  /** Checks callers' signatures where a trunk asks for it; absent: nobody's. */
  readonly stir?: Pick<Stir, 'judge'>;
}

interface Asked {
  readonly offer: InboundOffer;
  readonly query: InboundQuery;
  /** Null in a dry run. */
  readonly callSid: CallSid | null;
  readonly decisions: Decisions;
}

export class Inbound {
  readonly #parts: InboundParts;
  readonly #trusted: AddressSet;

  constructor(parts: InboundParts) {
    this.#parts = parts;
    this.#trusted = new AddressSet(parts.trustedSources);
  }

  /** Takes the call's places when it is admitted; at once when the table knows at once. */
  judge(
    offer: InboundOffer,
    callSid: CallSid,
    decisions: Decisions,
  ): Promise<InboundVerdict> | InboundVerdict {
    return this.#judge(offer, callSid, decisions);
  }

  /** What `judge` would say now, without counting. */
  look(offer: InboundOffer, decisions: Decisions): Promise<InboundVerdict> | InboundVerdict {
    return this.#judge(offer, null, decisions);
  }

  #judge(
    offer: InboundOffer,
    callSid: CallSid | null,
    decisions: Decisions,
  ): Promise<InboundVerdict> | InboundVerdict {
    try {
      const query = queryOf(offer);
      const found = this.#parts.routes.inbound(query, decisions);
      const asked = { offer, query, callSid, decisions };
      const verdict =
        found instanceof Promise
          ? found.then((route) => this.#admit(asked, route))
          : this.#admit(asked, found);
      return verdict instanceof Promise ? verdict.catch(refusalOf) : verdict;
    } catch (thrown) {
      return refusalOf(thrown);
    }
  }

  #admit(asked: Asked, found: InboundRoute | null): Promise<InboundVerdict> | InboundVerdict {
    const { offer, query, decisions } = asked;
    const route = found ?? this.#unclaimed(offer, query, decisions);
    if (route.kind === 'refused') return { accountSid: null, ...route };
    const { accountSid, trunk = null } = route;
    const { plainPolicy = DEFAULT_LEG_POLICY } = this.#parts;
    const policy = trunk === null ? plainPolicy : legPolicyOf(trunk.policy);
    const secure = judgeSrtp(offer.srtp, policy.srtp, trunk?.sid ?? '', decisions);
    if (secure !== null) return { kind: 'refused', ...secure, accountSid };
    if (!hasCodec(offer.codecs, policy.codecs, trunk?.sid ?? '', decisions)) {
      const offered = offer.codecs.join(', ');
      return { kind: 'refused', code: 'NO_COMMON_CODEC', details: { offered }, accountSid };
    }
    const believed = trunk?.policy ?? DEFAULT_TRUNK_POLICY;
    const facts = inboundHeaders(offer.fields, believed, DEFAULT_HEADER_LIMITS, decisions);
    const admitted = { kind: 'admitted', route, query, policy, facts, stir: null } as const;
    const judging = this.#verify(asked, believed, facts);
    if (judging === null) return this.#takeIn(asked, admitted);
    return judging.then((judgement) => {
      if (judgement === null) return this.#takeIn(asked, admitted);
      const { result, refusal, decision } = judgement;
      decisions.add([decision]);
      if (refusal === null) return this.#takeIn(asked, { ...admitted, stir: result });
      const details = { problem: result.reason };
      return { kind: 'refused', code: refusal.code, details, accountSid };
    });
  }

  /**
   * Of the caller's signature (RFC 8224 §6), before any place is taken; null where the trunk does
   * not ask. In a dry run no certificate is fetched: what is there would be looked at.
   */
  #verify(
    { offer, callSid, decisions }: Asked,
    { stir: policy, numbers }: TrunkPolicy,
    { party }: InboundFacts,
  ): ReturnType<Stir['judge']> | null {
    const { stir, clock } = this.#parts;
    if (policy.verify === 'off' || stir === undefined) return null;
    const identity = offer.fields.flatMap(([name, value]) =>
      canonicalName(name) === 'identity' ? [value] : [],
    );
    if (callSid === null && identity.length > 0) {
      decisions.ok('identity', `the caller's signature would be verified (${policy.verify})`);
      return null;
    }
    const from = party.asserted || offer.fromUri;
    const query = { from, to: offer.toUri, nowMs: clock.nowMs(), numbers };
    return stir.judge(policy, { identity, date: offer.date }, query);
  }

  /** Takes its places in the limits, where there is room. */
  #takeIn(asked: Asked, admitted: Extract<InboundVerdict, { kind: 'admitted' }>): InboundVerdict {
    const { callSid } = asked;
    const { route } = admitted;
    const { accountSid, trunk = null } = route;
    const refusal = this.#takePlaces(asked, route);
    if (refusal !== null) return { kind: 'refused', ...refusal, accountSid };
    if (callSid !== null && trunk !== null) {
      const limited = { sid: trunk.sid, name: trunk.name, limits: trunk.policy.limits };
      this.#parts.limiter.takeIn(limited, callSid);
    }
    return admitted;
  }

  /** The trunk's limits and the node's; the node's place is taken when there is a call. */
  #takePlaces(
    { callSid, decisions }: { callSid: CallSid | null; decisions: Decisions },
    { accountSid, trunk = null }: AdmittedRoute,
  ): Refusal | null {
    if (trunk !== null) {
      const { sid, name, policy } = trunk;
      const limit = this.#parts.limiter.look({ sid, name, limits: policy.limits }, 'in');
      decisions.add([limit]);
      if (!limit.ok) return { code: 'TRUNK_LIMIT', details: { problem: limit.what } };
    }
    const { admission } = this.#parts;
    const request = { accountSid, direction: 'inbound' } as const;
    const refusal = callSid === null ? admission.look(request) : admission.admit(request);
    tellAdmission(refusal, decisions);
    return refusal;
  }

  /** Nobody claims the number: ours to answer when we trust who calls. */
  #unclaimed(offer: InboundOffer, query: InboundQuery, decisions: Decisions): InboundRoute {
    const { defaultRoute } = this.#parts;
    const to = partyOf(offer.requestUri);
    if (defaultRoute === null || !this.#trusted.has(query.source.address)) {
      return { kind: 'refused', code: 'NO_ROUTE', details: { target: to } };
    }
    if (!decisions.overrule('number', 'so app.url has it')) {
      decisions.ok('route', `nobody else claims ${to}, so app.url has it`);
    }
    return { kind: 'application', ...defaultRoute, to, from: query.from, trunkSid: null };
  }
}

/** What to change when a description is refused. */
export function codecFix(code: ErrorCode): string {
  if (code.startsWith('SRTP_')) return 'Policy.srtp of the trunk, or what is offered';
  return code === 'NO_COMMON_CODEC' ? 'sip.codecs, or what the caller offers' : 'what is offered';
}

/** What the node's own admission said. */
export function tellAdmission(refusal: Refusal | null, decisions: Decisions): void {
  if (refusal === null) {
    decisions.ok('admission', 'the node has room');
    return;
  }
  const fix = refusal.code === 'DRAINING' ? '' : 'call.liveMax or call.perSecondMax';
  decisions.no('admission', describe(refusal.code, refusal.details), fix);
}

export function queryOf(offer: InboundOffer): InboundQuery {
  const { source, identity, certificateNames } = offer;
  const called = calledIn(offer.requestUri);
  const from = partyOf(offer.fromUri);
  const to = identity === null ? {} : { to: calledIn(offer.toUri) };
  return { ...called, ...to, from, source, identity, certificateNames };
}

/** Null when what is offered of SRTP goes together with what the trunk wants. */
function judgeSrtp(
  offered: OfferedSrtp | null,
  mode: SrtpMode,
  trunkSid: string,
  decisions: Decisions,
): Refusal | null {
  const refusal = srtpRefusal(offered, mode);
  if (refusal !== null) {
    const { code, details, message } = refusal;
    decisions.no('codec', message, trunkSid === '' ? 'what is offered' : srtpFix(trunkSid));
    return { code, details };
  }
  if (offered === 'also') decisions.ok('codec', `SRTP is offered and not taken: it is ${mode}`);
  return null;
}

function srtpFix(trunkSid: string): string {
  return `Policy.srtp of trunk ${trunkSid}, or what is offered`;
}

/** Whether a trunk that names codecs has one of those that are offered. */
function hasCodec(
  offered: readonly string[],
  wanted: readonly string[],
  trunkSid: string,
  decisions: Decisions,
): boolean {
  // Without an offer ours is made, and names what the trunk may speak.
  if (offered.length === 0 || wanted.length === 0) return true;
  const names = wanted.map((name) => name.toLowerCase());
  const common = offered.filter((name) => names.includes(name.toLowerCase()));
  const what = `offered ${offered.join(', ')}, the trunk has ${wanted.join(', ')}`;
  if (common.length > 0) decisions.ok('codec', what);
  else decisions.no('codec', what, `Policy.codecs of trunk ${trunkSid}`);
  return common.length > 0;
}

function refusalOf(thrown: unknown): InboundVerdict {
  const { code, details } = asGatewayError(thrown);
  return { kind: 'refused', code, details, accountSid: null };
}
