/**
 * The router: which calls may start, what each is for and where it goes, and the table of those
 * that live. It answers the edge's offers, places children for a dial and calls for REST, counts,
 * and tells every change of status as plain data. Not the lookup's rows (`RouteTable` is injected),
 * not the legs (`edge.ts`), not what an application does with a call.
 */
import { EventEmitter } from 'node:events';
import type { Bus, Subscription } from '../bus/bus.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { type CallSid, newSid, type TrunkSid } from '../core/sid.ts';
import type { Admission, AdmissionRequest, Refusal } from './admission.ts';
import {
  Call,
  type CallDeps,
  type CallOptions,
  newCallRecord,
  RING_TIMEOUT_MS_MAX,
} from './call.ts';
import { CallOrders } from './call-orders.ts';
import { type CallRecord, FINAL_STATUSES } from './call-record.ts';
import { Decisions } from './decision.ts';
import { PLAIN_NO_PROVISIONAL_MS } from './failover.ts';
import { type DefaultRoute, Inbound, type InboundVerdict, tellAdmission } from './inbound.ts';
import type { Journal } from './journal.ts';
import {
  DEFAULT_LEG_POLICY,
  type LegOffer,
  type LegOrder,
  type LegPolicy,
  type LegVerdict,
  legSubject,
  OFFERS,
  SLOTS,
} from './leg.ts';
import { Outbound, type OutboundParts } from './outbound.ts';
import { Recent } from './recent.ts';
import { type DialRequest, type OriginateRequest, type RouteTable, targetName } from './route.ts';
import { type Stir, stirParameters } from './stir.ts';
import { whyEnds } from './told-end.ts';
import type { TraceBook } from './trace.ts';
import { TrunkLimiter } from './trunk-limits.ts';

export type { DefaultRoute } from './inbound.ts';

/**
 * A change of a call, for the store, for status callbacks, for whoever counts. The record is the
 * call's own and moves on with it: who keeps a notice copies it.
 */
export interface CallNotice {
  readonly type: 'call.created' | 'call.status' | 'call.completed';
  readonly atMs: number;
  readonly call: CallRecord;
}

export interface RouterOptions {
  readonly defaultRoute: DefaultRoute | null;
  /** CIDRs whose unclaimed calls go to the default route. */
  readonly trustedSources: readonly string[];
  /** Host of the From URI on outgoing calls. */
  readonly fromDomain: string;
  /** How legs live that go through no trunk. */
  readonly plainPolicy: LegPolicy;
  /** How long an address that is no trunk's may say nothing at all to an INVITE; 0: Timer B. */
  readonly plainNoProvisionalMs: number;
  /** How long an edge may take to accept an order. */
  readonly orderTimeoutMs: number;
  readonly ringTimeoutMsMax: number;
  /** Records of ended calls that can still be asked for. */
  readonly endedCallsMax: number;
  /** How long an outgoing call waits for its turn under a trunk's calls per second. */
  readonly trunkWaitMs: number;
}

export const DEFAULT_ROUTER: Omit<RouterOptions, 'fromDomain'> = {
  defaultRoute: null,
  trustedSources: ['127.0.0.0/8', '::1/128'],
  plainPolicy: DEFAULT_LEG_POLICY,
  plainNoProvisionalMs: PLAIN_NO_PROVISIONAL_MS,
  orderTimeoutMs: 5_000,
  ringTimeoutMsMax: RING_TIMEOUT_MS_MAX,
  endedCallsMax: 1_000,
  trunkWaitMs: 2_000,
};

export interface RouterDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly bus: Bus;
  readonly journal: Journal;
  readonly trace: TraceBook;
  readonly admission: Admission;
  readonly routes: RouteTable;
  readonly onNotice: (notice: CallNotice) => void;
  readonly call: CallOptions;
  readonly options: RouterOptions;
  /** How gateways fare, and where registered addresses are; absent: nobody knows. */
  readonly stateOf?: NonNullable<OutboundParts['stateOf']>;
  readonly contactsOf?: NonNullable<OutboundParts['contactsOf']>;
  /** Caller identity; absent: nobody is verified or signed. */
  readonly stir?: Pick<Stir, 'judge' | 'canSign'>;
}

export interface RouterEvents {
  /**
   * A call that an application runs: an inbound one when it can be answered, an originated one
   * from the start, a restored one (its `record.flow` says where it was).
   */
  call: [call: Call];
}

export class Router extends EventEmitter<RouterEvents> {
  readonly #deps: RouterDeps;
  readonly #callDeps: CallDeps;
  readonly #limiter: TrunkLimiter;
  /** Who may call, and where calls go; here for dry runs too. */
  readonly inbound: Inbound;
  readonly outbound: Outbound;
  readonly #orders: CallOrders;
  readonly #calls = new Map<CallSid, Call>();
  readonly #ended: Recent<CallSid, CallRecord>;
  readonly #services: Subscription[] = [];
  #onEmpty: (() => void)[] = [];
  #isStarted = false;
  readonly #endedTotal;

  constructor(deps: RouterDeps) {
    super();
    this.#deps = deps;
    const { clock, log, bus, journal, trace, metrics } = deps;
    const keeper = {
      onStatus: (call: Call) => this.#tell('call.status', call),
      onEnded: (call: Call) => this.#onEnded(call),
      whyEnds: ({ record }: Call, code: ErrorCode) =>
        whyEnds(record, code, (sid) => this.record(sid)),
    };
    this.#callDeps = { clock, log, bus, journal, trace, keeper, options: deps.call };
    const { routes, admission, options, stateOf, contactsOf, stir } = deps;
    const { trunkWaitMs: waitMsMax } = options;
    const limiter = new TrunkLimiter({ clock, options: { waitMsMax } });
    this.#limiter = limiter;
    const parts = { clock, routes, admission, limiter, ...options };
    this.inbound = new Inbound({ ...parts, ...(stir === undefined ? {} : { stir }) });
    this.outbound = new Outbound({
      ...{ clock, routes, limiter, fromDomain: options.fromDomain },
      plainPolicy: options.plainPolicy,
      plainNoProvisionalMs: options.plainNoProvisionalMs,
      canSign: () => stir?.canSign === true,
      ...(stateOf === undefined ? {} : { stateOf }),
      ...(contactsOf === undefined ? {} : { contactsOf }),
    });
    const { orderTimeoutMs, ringTimeoutMsMax } = options;
    const bounds = { orderTimeoutMs, ringTimeoutMsMax };
    this.#orders = new CallOrders({ bus, outbound: this.outbound, limiter, trace, ...bounds });
    this.#ended = new Recent({ max: deps.options.endedCallsMax });
    metrics.gauge('tandem_calls_live', 'Calls that have not ended', () => this.#calls.size);
    this.#endedTotal = metrics.counter('tandem_calls_ended_total', 'Calls that ended', [
      'direction',
      'status',
      'code',
      'fault',
    ]);
  }

  /** From now on calls may begin; those of a former process are back before. */
  start(): void {
    this.#isStarted = true;
    const { bus } = this.#deps;
    this.#services.push(
      bus.respond(OFFERS, (offer) => this.#onOffer(offer)),
      bus.respond(SLOTS, (asked) => this.#orders.slot(this.#calls.get(asked.callSid), asked)),
    );
  }

  get isStarted(): boolean {
    return this.#isStarted;
  }

  get size(): number {
    return this.#calls.size;
  }

  /** A live call. */
  find(sid: CallSid): Call | undefined {
    return this.#calls.get(sid);
  }

  /** A live call's record, or that of one that ended lately. */
  record(sid: CallSid): CallRecord | null {
    return this.#calls.get(sid)?.record ?? this.#ended.get(sid) ?? null;
  }

  calls(): IterableIterator<Call> {
    return this.#calls.values();
  }

  /** What a new call would be told by the node's own limits now. */
  wouldAdmit(request: AdmissionRequest): Refusal | null {
    return this.#deps.admission.look(request);
  }

  /** Calls of a trunk now. */
  liveOn(sid: TrunkSid): { readonly in: number; readonly out: number } {
    return this.#limiter.live(sid);
  }

  /** New calls are refused; those that live go on, and may still dial. Can be undone. */
  drain(on: boolean): void {
    this.#deps.admission.drain(on);
  }

  /** Resolves when no call lives. */
  async idle(): Promise<void> {
    if (this.#calls.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onEmpty.push(resolve);
    });
  }

  /**
   * Ends what is left after `graceMs`, each call with a BYE and its record, and returns when none
   * lives. Idempotent.
   */
  async close(options: { readonly graceMs: number } = { graceMs: 0 }): Promise<void> {
    this.drain(true);
    const end = (): void => {
      for (const call of [...this.#calls.values()]) call.hangup('DRAINING');
    };
    const timer = this.#deps.clock.timer(options.graceMs, end);
    await this.idle();
    timer.cancel();
    for (const service of this.#services) service.close();
    this.#limiter.close();
  }

  /** A child of a live call. Throws CALL_NOT_LIVE, DIAL_NUMBER, or why it is not admitted. */
  dial(request: DialRequest): Call {
    const known = request.sid === undefined ? undefined : this.#calls.get(request.sid);
    if (known !== undefined) return known;
    const parent = this.#calls.get(request.parentCallSid);
    if (parent === undefined) throw new GatewayError('CALL_NOT_LIVE', { status: 'ended' });
    const { record } = parent;
    const from = request.callerId ?? record.from;
    const call = this.#make(request, {
      accountSid: record.accountSid,
      direction: 'outbound-dial',
      from,
      callerName: request.callerName ?? nameOf(record, from),
      parentCallSid: record.sid,
      endsWithParent: true,
    });
    parent.relate({ childSids: [...record.childSids, call.sid] });
    this.#orders.place(call, request, { parent, origin: record });
    return call;
  }

  /** A call of its own, run by `request.application` once answered. Throws as `dial` does. */
  originate(request: OriginateRequest): Call {
    const known = request.sid === undefined ? undefined : this.#calls.get(request.sid);
    if (known !== undefined) return known;
    if (!this.#isStarted) throw new GatewayError('NOT_READY');
    const { accountSid, from, application, sendDigits } = request;
    const forwarded = request.forwards === undefined ? null : this.record(request.forwards);
    const call = this.#make(request, {
      accountSid,
      callerName: request.callerName ?? nameOf(forwarded, from),
      direction: 'outbound-api',
      from,
      application,
      sendDigits: sendDigits ?? null,
    });
    this.#run(call);
    this.#orders.place(call, request, { parent: null, origin: forwarded });
    return call;
  }

  /** Takes back the calls of a former process; the legs must be back before. */
  restore(records: ReadonlyMap<string, object>): number {
    const calls: Call[] = [];
    for (const [key, value] of records) {
      if (!key.startsWith('call.')) continue;
      // The journal wrote what `Call.snapshot` gave it, and checked that it is whole.
      const record = newCallRecord(value as CallRecord);
      if (FINAL_STATUSES.has(record.status) || this.#calls.has(record.sid)) continue;
      this.#deps.trace.open(record.sid, record.accountSid);
      this.#deps.trace.bindSip(record.sip.callId, record.sid);
      this.#deps.admission.restored(record.accountSid);
      const way = record.direction === 'inbound' ? 'in' : 'out';
      if (record.trunkSid !== null) this.#limiter.restored(record.trunkSid, way, record.sid);
      const call = Call.restore(record, this.#callDeps);
      this.#calls.set(call.sid, call);
      call.note('call', 'restored');
      calls.push(call);
    }
    for (const call of calls) {
      const { application, flow, legId } = call.record;
      if (application !== null || flow !== null) this.#run(call);
      if (!records.has(`leg.${legId}`)) call.fail('LEG_LOST');
    }
    this.#endOrphans(records);
    return calls.length;
  }

  /** A leg whose call is not known any more would live for ever: nobody could end it. */
  #endOrphans(records: ReadonlyMap<string, object>): void {
    for (const [key, value] of records) {
      if (!key.startsWith('leg.')) continue;
      const { legId, callSid } = value as Pick<LegOrder, 'legId' | 'callSid'>;
      if (this.#calls.has(callSid)) continue;
      const command = { id: 'orphan', kind: 'hangup', code: 'LEG_LOST' } as const;
      this.#deps.bus.publish(legSubject(legId), command);
    }
  }

  // --- Inbound --------------------------------------------------------------------------------

  /** The verdict comes at once when the table knows at once. */
  #onOffer(offer: LegOffer): Promise<LegVerdict> | LegVerdict {
    const decisions = new Decisions();
    const callSid = newSid('CA', this.#deps.clock);
    const verdict = this.inbound.judge(offer, callSid, decisions);
    return verdict instanceof Promise
      ? verdict.then((later) => this.#admit(offer, callSid, later, decisions))
      : this.#admit(offer, callSid, verdict, decisions);
  }

  #admit(
    offer: LegOffer,
    sid: CallSid,
    verdict: InboundVerdict,
    { list: decisions }: Decisions,
  ): LegVerdict {
    if (verdict.kind === 'refused') {
      const { code, details, accountSid } = verdict;
      return { admitted: false, code, details, accountSid, decisions };
    }
    const { route, query, policy, facts, stir } = verdict;
    const { party, headers } = facts;
    const { accountSid, trunkSid } = route;
    const call = this.#create(
      newCallRecord({
        sid,
        accountSid,
        direction: 'inbound',
        from: party.from,
        to: route.to,
        status: 'ringing',
        createdAtMs: this.#deps.clock.nowMs(),
        ringingAtMs: this.#deps.clock.nowMs(),
        callerName: party.name,
        forwardedFrom: party.forwardedFrom,
        phoneNumberSid: route.phoneNumberSid ?? null,
        trunkSid,
        application: route.application,
        statusCallback: route.statusCallback,
        sip: {
          callId: offer.sipCallId,
          domain: query.host,
          sourceAddress: offer.source.address,
          headers,
          party,
          maxForwards: offer.maxForwards,
          ...(stir === null ? {} : { stir: Object.fromEntries(stirParameters(stir)) }),
        },
      }),
    );
    this.#deps.trace.decide(sid, decisions);
    // Only from `offered` on does the leg hear commands.
    call.once('leg', (event) => {
      if (event.kind === 'offered') this.#run(call);
    });
    return { admitted: true, callSid: call.sid, trunkSid, policy, decisions };
  }

  // --- Outbound -------------------------------------------------------------------------------

  #make(
    request: DialRequest | OriginateRequest,
    given: Pick<CallRecord, 'accountSid' | 'direction' | 'from'> & Partial<CallRecord>,
  ): Call {
    const { accountSid, direction, from } = given;
    const to = targetName(request.target);
    const refusal = this.#deps.admission.admit({ accountSid, direction });
    const decisions = new Decisions();
    tellAdmission(refusal, decisions);
    if (refusal !== null) {
      // There is no call of its own to tell it of: the one that dials has it in its history.
      if (given.parentCallSid) this.#deps.trace.decide(given.parentCallSid, decisions.list);
      throw new GatewayError(refusal.code, refusal.details);
    }
    const call = this.#create(
      newCallRecord({
        sid: request.sid ?? newSid('CA', this.#deps.clock),
        to,
        status: 'queued',
        createdAtMs: this.#deps.clock.nowMs(),
        phoneNumberSid: this.#deps.routes.numberSid?.(accountSid, from) ?? null,
        timeLimitMs: request.timeLimitMs ?? null,
        statusCallback: request.statusCallback,
        ...given,
      }),
    );
    this.#deps.trace.decide(call.sid, decisions.list);
    return call;
  }

  // --- The table ------------------------------------------------------------------------------

  #create(record: CallRecord): Call {
    this.#deps.trace.open(record.sid, record.accountSid);
    const call = Call.create(record, this.#callDeps);
    this.#calls.set(call.sid, call);
    this.#deps.trace.bindSip(record.sip.callId, record.sid);
    this.#tell('call.created', call);
    return call;
  }

  /** Gives the call to what runs it. A fault there ends this call alone. */
  #run(call: Call): void {
    try {
      this.emit('call', call);
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#deps.log.error({ callSid: call.sid, code: error.code, err: error }, 'call not run');
      call.hangup(error.code, error.message);
    }
  }

  #onEnded(call: Call): void {
    const { record } = call;
    this.#calls.delete(call.sid);
    this.#ended.add(call.sid, record);
    this.#deps.admission.ended(record.accountSid);
    this.#limiter.release(record.sid);
    this.#deps.trace.end(call.sid);
    for (const sid of record.childSids) {
      const child = this.#calls.get(sid);
      if (child?.record.endsWithParent !== true) continue;
      child.hangup(child.record.answeredAtMs === null ? 'CALL_CANCELED' : 'CALL_COMPLETED');
    }
    const { direction, status, end } = record;
    const code = end?.code ?? 'INTERNAL';
    const fault = end?.fault ?? 'gateway';
    this.#endedTotal.inc({ direction, status, code, fault });
    this.#tell('call.completed', call);
    if (this.#calls.size > 0) return;
    const waiting = this.#onEmpty;
    this.#onEmpty = [];
    for (const tell of waiting) tell();
  }

  #tell(type: CallNotice['type'], call: Call): void {
    try {
      this.#deps.onNotice({ type, atMs: this.#deps.clock.nowMs(), call: call.record });
    } catch (thrown) {
      // Whoever keeps records must not decide whether a call lives.
      const error = asGatewayError(thrown);
      this.#deps.log.error({ callSid: call.sid, err: error }, 'notice not taken');
    }
  }
}

/** The name of a caller goes on with his number, and with no other's. */
function nameOf(origin: CallRecord | null, from: string): string {
  return origin?.from === from ? origin.callerName : '';
}
