/**
 * The edge: where SIP legs live. It makes a leg of every INVITE the router admits, and of every
 * order the router gives, and brings legs back after a restart. It joins `sip/` and `media/` to the
 * leg protocol; which call a leg belongs to and what is done with it is decided over the bus.
 */

import type { Subscription } from '../bus/bus.ts';
import { asGatewayError, type ErrorCode, type ErrorDetails, GatewayError } from '../core/errors.ts';
import { redact } from '../core/log.ts';
import type { CallSid } from '../core/sid.ts';
import { parseNameAddr, type SipMessage, type SipUri } from '../sip/message.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { Egress } from './egress.ts';
import {
  type LegId,
  type LegOffer,
  type LegOrder,
  legIdOf,
  MAX_FORWARDS,
  OFFERS,
  ORDERS,
  type SipHeaders,
} from './leg.ts';
import { type CheckedOffer, checkOffer } from './leg-media.ts';
import { LegPlacing, type ResolvedPeer } from './leg-placing.ts';
import { applicationHeaders, forwardedFrom, refusalHeaders, refusalStatus } from './leg-signal.ts';
import { type LegDeps, type LegRecord, SipLeg } from './sip-leg.ts';
import type { TraceBook } from './trace.ts';

export interface EdgeOptions {
  /** How long the router may take to say what an INVITE is for. */
  readonly offerTimeoutMs: number;
  /** INVITEs sent for one outgoing leg. */
  readonly triesMax: number;
  /** Retry-After of a 503. */
  readonly retryAfterSeconds: number;
  /** Legs at once, both directions; the router's own bound should be the one that is met. */
  readonly legsMax: number;
}

export const DEFAULT_EDGE: EdgeOptions = {
  offerTimeoutMs: 5_000,
  triesMax: 6,
  retryAfterSeconds: 5,
  legsMax: 20_000,
};

export interface EdgeDeps extends Omit<LegDeps, 'onClosed' | 'options'> {
  readonly trace: TraceBook;
  readonly resolve: (uri: SipUri) => Promise<readonly ResolvedPeer[]>;
  /** Whom a dialled URI may lead to. */
  readonly egress: Egress;
  readonly legs: LegDeps['options'];
  readonly options: EdgeOptions;
}

export class Edge {
  readonly #deps: EdgeDeps;
  readonly #legDeps: LegDeps;
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
      onClosed: (leg) => this.#legs.delete(leg.legId),
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
      work.push(
        SipLeg.restore(record, this.#legDeps).then((leg) => {
          this.#legs.set(leg.legId, leg);
        }),
      );
    }
    await Promise.all(work);
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
      this.#refuse(session, 'OVERLOADED', { limit: 'legs' });
      return;
    }
    try {
      // An offer nobody could answer is refused before an application is bothered with it.
      const { media, engine, options } = this.#deps;
      const { offer: sdp } = session;
      const checked = sdp === '' ? null : checkOffer(sdp, engine.address, media);
      const offer = this.#offerOf(session, request);
      const { headers } = offer;
      const timeoutMs = options.offerTimeoutMs;
      const verdict = await this.#deps.bus.request(OFFERS, offer, { timeoutMs });
      if (verdict.admitted) {
        this.#takeIn(verdict.callSid, { session, offer: checked, headers, ended: state.ended });
      } else if (state.ended === null) this.#refuse(session, verdict.code, verdict.details);
    } catch (thrown) {
      const { code, details } = asGatewayError(thrown);
      if (state.ended === null) this.#refuse(session, code, details);
    }
  }

  #takeIn(
    callSid: CallSid,
    admitted: {
      session: Session;
      offer: CheckedOffer | null;
      headers: SipHeaders;
      ended: SessionEnd | null;
    },
  ): void {
    const legId = legIdOf(callSid);
    const { headers: sipHeaders, ...rest } = admitted;
    this.#deps.trace.bindSip(rest.session.callId, callSid);
    const leg = SipLeg.inbound({ legId, callSid, sipHeaders, ...rest }, this.#legDeps);
    this.#legs.set(legId, leg);
  }

  #refuse(session: Session, code: ErrorCode, details: ErrorDetails): void {
    const text = new GatewayError(code, details).message;
    const source = redact(session.source.address, 7);
    this.#deps.log.info({ code, source }, 'INVITE refused');
    const { retryAfterSeconds } = this.#deps.options;
    const headers = refusalHeaders(code, text, { retryAfterSeconds, warnAgent: 'tandem' });
    session.reject(refusalStatus(code), { headers });
  }

  #offerOf(session: Session, request: SipMessage): LegOffer {
    const from = parseNameAddr(request.header('From') ?? '');
    const to = parseNameAddr(request.header('To') ?? '');
    return {
      source: session.source,
      requestUri: request.uri,
      fromUri: from.uriText,
      fromDisplay: from.display,
      toUri: to.uriText,
      sipCallId: session.callId,
      headers: applicationHeaders(request.fields(), this.#deps.legs),
      forwardedFrom: forwardedFrom(request),
      maxForwards: request.maxForwards ?? MAX_FORWARDS,
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
    const { clock, log, endpoint, resolve, egress, options, trace } = this.#deps;
    const { triesMax } = options;
    const onSession = (sipCallId: string): void => trace.bindSip(sipCallId, callSid);
    const placing = { clock, log, endpoint, resolve, egress, triesMax, onSession };
    new LegPlacing(leg, order, placing).start();
    return { legId };
  }
}
