/**
 * The edge: where SIP legs live. It makes a leg of every INVITE the router admits, and of every
 * order the router gives, and brings legs back after a restart. It joins `sip/` and `media/` to the
 * leg protocol; which call a leg belongs to and what is done with it is decided over the bus.
 */

import type { Subscription } from '../bus/bus.ts';
import {
  asGatewayError,
  describe,
  ERRORS,
  type ErrorCode,
  type ErrorDetails,
  GatewayError,
} from '../core/errors.ts';
import { redact } from '../core/log.ts';
import type { JudgedOffer } from '../sdp/offer-answer.ts';
import { parseNameAddr, type SipMessage } from '../sip/message.ts';
import type { Local } from '../sip/peer.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { Decision } from './decision.ts';
import type { Egress } from './egress.ts';
import { offeredFields } from './header-policy.ts';
import { codecFix } from './inbound.ts';
import {
  type LegId,
  type LegOffer,
  type LegOrder,
  type LegVerdict,
  legIdOf,
  MAX_FORWARDS,
  OFFERS,
  ORDERS,
} from './leg.ts';
import { commonCodecs } from './leg-codecs.ts';
import { LegPlacing, type PlacingDeps } from './leg-placing.ts';
import { refusalHeaders, refusalStatus } from './leg-signal.ts';
import { checkOffer, isPlainTerms, lookAtOffer, termsOf } from './media-terms.ts';
import { Reach, type ReachParts } from './reach.ts';
import { replaceLeg } from './replacing.ts';
import { type LegDeps, type LegRecord, SipLeg } from './sip-leg.ts';
import { stirPhrase } from './stir.ts';
import type { RefusedInvite, TraceBook } from './trace.ts';
import type { GatewayReport } from './trunk-health.ts';

export interface EdgeOptions {
  /** How long the router may take to say what an INVITE is for. */
  readonly offerTimeoutMs: number;
  /** INVITEs sent for one outgoing leg. */
  readonly triesMax: number;
  /** How long the router may take to give a place in another trunk's limits, its pace included. */
  readonly slotTimeoutMs: number;
  /** Retry-After of a 503 at least; up to twice as much, by chance. */
  readonly retryAfterSeconds: number;
  /** Legs at once, both directions; the router's own bound should be the one that is met. */
  readonly legsMax: number;
}

export const DEFAULT_EDGE: EdgeOptions = {
  offerTimeoutMs: 5_000,
  triesMax: 6,
  slotTimeoutMs: 5_000,
  retryAfterSeconds: 5,
  legsMax: 20_000,
};

export interface EdgeDeps extends Omit<LegDeps, 'onClosed' | 'options' | 'isOurs' | 'callOf'> {
  readonly trace: TraceBook;
  readonly resolve: ReachParts['resolve'];
  /** Whom a dialled URI may lead to. */
  readonly egress: Egress;
  readonly legs: LegDeps['options'];
  readonly options: EdgeOptions;
  /** Signs callers (RFC 8224); absent: nobody is signed. */
  readonly sign?: NonNullable<PlacingDeps['sign']>;
  /** How a gateway did, whatever the callee said. */
  readonly onGateway?: GatewayReport;
}

export class Edge {
  /** Whether what is dialled can be reached; here for dry runs too. */
  readonly reach: Reach;
  readonly #deps: EdgeDeps;
  readonly #legDeps: LegDeps;
  readonly #placing: PlacingDeps;
  readonly #legs = new Map<LegId, SipLeg>();
  readonly #onInviteBound = (session: Session): void => this.#onInvite(session);
  #orders: Subscription | null = null;

  constructor(deps: EdgeDeps) {
    this.#deps = deps;
    const { clock, log, bus, journal, endpoint, engine, media, legs } = deps;
    this.#legDeps = {
      clock,
      log,
      bus,
      journal,
      endpoint,
      engine,
      media,
      options: legs,
      isOurs: (host) => endpoint.locals.some((local) => isAt(local, host)),
      credentialsOf: deps.credentialsOf,
      callOf: ({ replaces }) => {
        const session = replaces && endpoint.sessionNamed(replaces);
        return session === null ? null : (this.#legWith(session.id)?.callSid ?? null);
      },
      onClosed: (legId) => this.#legs.delete(legId),
    };
    const { resolve, egress, options, trace } = deps;
    const { transport } = endpoint.ua;
    const hasLocal: ReachParts['hasLocal'] = (...where) => transport.hasLocal(...where);
    this.reach = new Reach({ resolve, egress, hasLocal });
    const { triesMax, slotTimeoutMs } = options;
    const onGateway = deps.onGateway ?? (() => undefined);
    const limits = { triesMax, slotTimeoutMs };
    this.#placing = {
      ...{ clock, log, bus, endpoint, reach: this.reach, trace, onGateway, ...limits },
      ...(deps.sign === undefined ? {} : { sign: deps.sign }),
    };
  }

  get size(): number {
    return this.#legs.size;
  }

  start(): void {
    this.#deps.endpoint.on('invite', this.#onInviteBound);
    this.#orders = this.#deps.bus.respond(ORDERS, (order) => this.#onOrder(order));
  }

  /** Legs of a former process, from their journal records. One that fails ends by itself. */
  async restore(records: Iterable<LegRecord>): Promise<void> {
    const work: Promise<void>[] = [];
    for (const record of records) {
      const { session } = record;
      if (session !== null) this.#deps.egress.addGateway(session.peer.address);
      work.push(
        SipLeg.restore(record, this.#legDeps).then((leg) => {
          this.#legs.set(leg.legId, leg);
        }),
      );
    }
    await Promise.all(work);
  }

  /** What is told of a description to who decides; throws why an INVITE with it is refused. */
  mediaOf(sdp: string): Pick<LegOffer, 'codecs' | 'srtp'> {
    const { engine, media } = this.#deps;
    return mediaOf(lookAtOffer(sdp, engine.address, media));
  }

  /** Takes no more legs. Those that are here live on until their calls end them. */
  close(): Promise<void> {
    this.#deps.endpoint.off('invite', this.#onInviteBound);
    this.#orders?.close();
    return Promise.resolve();
  }

  #onInvite(session: Session): void {
    this.#admit(session).catch((thrown: unknown) => {
      const error = asGatewayError(thrown);
      this.#deps.log.error({ code: error.code, err: error }, 'INVITE not handled');
      session.reject(error.row.sip);
    });
  }

  async #admit(session: Session): Promise<void> {
    // It may be cancelled while the router thinks.
    const state: { ended: SessionEnd | null } = { ended: null };
    session.on('ended', (end) => {
      state.ended ??= end;
    });
    const { request } = session;
    if (request === null) return;
    if (this.#legs.size >= this.#deps.options.legsMax) {
      this.#refuse(session, { code: 'OVERLOADED', details: { limit: 'legs' } });
      return;
    }
    try {
      // An offer nobody could answer is refused before an application is bothered with it.
      const { options } = this.#deps;
      const checked = this.#look(session);
      const offer = this.#offerOf(session, request, checked);
      if (session.replaces !== null) {
        this.#deps.egress.addGateway(session.source.address);
        const { bus, log } = this.#deps;
        await replaceLeg({ session, leg: this.#legWith(session.replaces), offer, bus, log });
        return;
      }
      const timeoutMs = options.offerTimeoutMs;
      const verdict = await this.#deps.bus.request(OFFERS, offer, { timeoutMs });
      if (verdict.admitted) {
        const { ended } = state;
        this.#takeIn({ session, verdict, checked: checked?.judged ?? null, ended });
      } else if (state.ended === null) this.#refuse(session, verdict);
    } catch (thrown) {
      const { code, details } = asGatewayError(thrown);
      if (state.ended === null) this.#refuse(session, { code, details });
    }
  }

  #legWith(sessionId: string): SipLeg | undefined {
    return this.#legs.values().find((leg) => leg.sessionId === sessionId);
  }

  /** What the INVITE offers, as far as the node can say; null when it offers nothing. */
  #look({ offer }: Session): LookedAt | null {
    const { media, engine } = this.#deps;
    return offer === '' ? null : lookAtOffer(offer, engine.address, media);
  }

  #takeIn(admitted: {
    session: Session;
    verdict: Admitted;
    checked: JudgedOffer | null;
    ended: SessionEnd | null;
  }): void {
    const { session, verdict, checked, ended } = admitted;
    this.#deps.egress.addGateway(session.source.address);
    const { callSid, policy, trunkSid } = verdict;
    const { media, engine } = this.#deps;
    const offer =
      session.offer === '' || isPlainTerms(policy)
        ? checked
        : checkOffer(session.offer, engine.address, termsOf(media, policy));
    // Audio before the ACK goes to whom we know, or to where the INVITE itself came from.
    const isKnown = trunkSid !== null || session.identity !== null;
    const mayHearEarly = isKnown || offer?.media.remote.address === session.source.address;
    const legId = legIdOf(callSid);
    this.#deps.trace.bindSip(session.callId, callSid);
    const known = { legId, callSid, session, offer, policy, mayHearEarly, ended };
    this.#legs.set(legId, SipLeg.inbound(known, this.#legDeps));
  }

  #refuse(session: Session, refusal: Refused): void {
    const { code, details, accountSid = null, decisions = [] } = refusal;
    const text = new GatewayError(code, details).message;
    const source = redact(session.source.address, 7);
    this.#deps.log.info({ code, source }, 'INVITE refused');
    const { retryAfterSeconds: leastS } = this.#deps.options;
    // Not the same for all: they would all come back at once.
    const retryAfterSeconds = leastS + Math.floor(this.#deps.clock.random() * (leastS + 1));
    const headers = refusalHeaders(code, text, { retryAfterSeconds, warnAgent: 'tandem' });
    session.reject(refusalStatus(code), { headers, ...phraseOf(code) });
    const sipCallId = session.callId;
    const told = decisions.some(({ ok }) => !ok) ? decisions : [...decisions, ...plainly(refusal)];
    const invite = { sipCallId, code, text, accountSid, isStranger: false };
    this.#deps.trace.refuse({ ...invite, decisions: told });
  }

  #offerOf(session: Session, request: SipMessage, offer: LookedAt | null): LegOffer {
    const from = parseNameAddr(request.header('From') ?? '');
    const to = parseNameAddr(request.header('To') ?? '');
    return {
      source: session.source,
      requestUri: request.uri,
      fromUri: from.uriText,
      toUri: to.uriText,
      sipCallId: session.callId,
      fields: offeredFields(request.fields()),
      maxForwards: request.maxForwards ?? MAX_FORWARDS,
      identity: session.identity,
      certificateNames: session.certificateNames,
      date: request.header('Date') ?? null,
      ...(offer === null ? { codecs: [], srtp: null } : mediaOf(offer)),
    };
  }

  #onOrder(order: LegOrder): { legId: LegId } {
    const { legId, callSid, group } = order;
    // The same order again, from a call that was rebuilt: the leg is there.
    if (this.#legs.has(legId)) return { legId };
    if (this.#legs.size >= this.#deps.options.legsMax) {
      throw new GatewayError('OVERLOADED', { limit: 'legs' });
    }
    const leg = new SipLeg({ legId, callSid, direction: 'out', group }, this.#legDeps);
    this.#legs.set(legId, leg);
    new LegPlacing(leg, order, this.#placing).start();
    return { legId };
  }
}

/** As a Contact of ours would name it, or as who looked it up knows it. */
function isAt({ address, sentBy }: Local, host: string): boolean {
  return address === host || sentBy.replace(/:\d+$/, '') === host;
}

type LookedAt = ReturnType<typeof lookAtOffer>;
type Admitted = Extract<LegVerdict, { admitted: true }>;

function mediaOf({ judged, srtp }: LookedAt): Pick<LegOffer, 'codecs' | 'srtp'> {
  return { codecs: judged === null ? [] : commonCodecs(judged), srtp };
}

/** A refusal that was decided here or by the router. */
interface Refused extends Partial<Pick<RefusedInvite, 'accountSid' | 'decisions'>> {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
}

/** RFC 8224 §6.2.2 has a phrase of its own for a refusal that shares its status with others. */
function phraseOf(code: ErrorCode): { readonly reason?: string } {
  return code.startsWith('STIR_') ? { reason: stirPhrase(code) } : {};
}

/** What decided it, where nobody has written that down. */
function plainly({ code, details }: Refused): readonly Decision[] {
  const what = describe(code, details);
  const isMedia = ERRORS[code].sip === 488;
  const step = isMedia ? 'codec' : 'admission';
  return [{ step, ok: false, what, fix: isMedia ? codecFix(code) : '' }];
}
