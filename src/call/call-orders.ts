/**
 * From a call that shall be placed to a leg that places it: where it goes, its place in a trunk's
 * limits, and the order to an edge; and a place in another trunk's when the edge would try that
 * one. What is compared on the way goes into the call's trace. The choice itself is `outbound.ts`.
 */
import type { Bus } from '../bus/bus.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Call } from './call.ts';
import type { CallRecord } from './call-record.ts';
import { Decisions } from './decision.ts';
import type { OutboundFacts } from './header-policy.ts';
import { type LegGroup, type LegOrder, MAX_FORWARDS, ORDERS, type SlotRequest } from './leg.ts';
import type { Outbound } from './outbound.ts';
import type { DialRequest, DialTarget, OriginateRequest } from './route.ts';
import type { TraceBook } from './trace.ts';
import type { TrunkLimiter } from './trunk-limits.ts';

export interface CallOrdersParts {
  readonly bus: Bus;
  readonly outbound: Outbound;
  readonly limiter: TrunkLimiter;
  readonly trace: TraceBook;
  /** How long an edge may take to accept an order. */
  readonly orderTimeoutMs: number;
  readonly ringTimeoutMsMax: number;
}

/** What a call follows from. */
export interface Origin {
  /** The call that dials it: near its port, and in its group. */
  readonly parent: Call | null;
  /** Whose caller it goes on for: the parent, or a call that is named (`forwards`). */
  readonly origin: CallRecord | null;
}

export class CallOrders {
  readonly #parts: CallOrdersParts;

  constructor(parts: CallOrdersParts) {
    this.#parts = parts;
  }

  /** Never rejects: what goes wrong from here on is how the call ends. */
  place(call: Call, request: DialRequest | OriginateRequest, from: Origin): void {
    this.#order(call, request, from).catch((thrown: unknown) => {
      const error = asGatewayError(thrown);
      call.fail(error.code, error.message);
    });
  }

  async #order(call: Call, request: DialRequest | OriginateRequest, from: Origin): Promise<void> {
    const { record } = call;
    const { target } = request;
    const { parent, origin } = from;
    const maxForwards = origin === null ? MAX_FORWARDS : forwardsOf(origin) - 1;
    // A call that comes round again and again through us and others (RFC 7332).
    if (maxForwards < 0) throw new GatewayError('SIP_TOO_MANY_HOPS');
    const groups = await this.#groups(call, target, origin);
    if (record.endingCode !== null) {
      // Hung up while we looked, or waited: there is no leg that could say so.
      call.fail(record.endingCode);
      return;
    }
    if (!call.isLive) return;
    const order: LegOrder = {
      legId: record.legId,
      callSid: record.sid,
      accountSid: record.accountSid,
      groups,
      ringTimeoutMs: Math.min(request.ringTimeoutMs, this.#parts.ringTimeoutMsMax),
      near: parent?.record.port ?? null,
      group: parent?.sid ?? call.sid,
      maxForwards,
    };
    call.note('call', 'placing', groups.flatMap(urisOf).join(' '));
    const { bus, orderTimeoutMs } = this.#parts;
    await bus.request(ORDERS, order, { timeoutMs: orderTimeoutMs });
    call.markInitiated(groups[0]?.trunkSid ?? null);
    // Told to end while nobody was there to hear it.
    call.insist();
  }

  /** Where it goes, with its place taken; what was compared is in its trace either way. */
  async #groups(
    call: Call,
    target: DialTarget,
    origin: CallRecord | null,
  ): Promise<readonly LegGroup[]> {
    const { sid, accountSid, from, callerName } = call.record;
    const { outbound, limiter, trace } = this.#parts;
    const decisions = new Decisions();
    try {
      const asked = {
        accountSid,
        target,
        from,
        callerName,
        parent: origin && parentOf(origin),
      };
      const groups = await outbound.plan(asked, decisions);
      return await outbound.take(groups, { sid, accountSid }, decisions);
    } finally {
      trace.decide(sid, decisions.list);
      // It ended while it waited for its turn.
      if (!call.isLive) limiter.release(sid);
    }
  }

  /** An edge would try another trunk for a call. */
  async slot(call: Call | undefined, { trunkSid }: SlotRequest): Promise<{ isGranted: boolean }> {
    if (call === undefined) return { isGranted: false };
    const { outbound, limiter, trace } = this.#parts;
    const decisions = new Decisions();
    const { sid, accountSid } = call.record;
    const problem = await outbound.takePlace({ sid, accountSid }, trunkSid, decisions);
    trace.decide(sid, decisions.list);
    if (!call.isLive) limiter.release(sid);
    const isGranted = problem === null && call.isLive;
    if (isGranted) call.setTrunk(trunkSid);
    return { isGranted };
  }
}

/** What a call tells of itself to one that it dials. */
function parentOf({ from, to, sip }: CallRecord): OutboundFacts['parent'] {
  return { party: sip.party ?? null, headers: sip.headers, from, called: to };
}

function urisOf({ targets }: LegGroup): string[] {
  return targets.map(({ uri }) => uri);
}

function forwardsOf({ sip }: CallRecord): number {
  return Math.min(sip.maxForwards ?? MAX_FORWARDS, MAX_FORWARDS);
}
