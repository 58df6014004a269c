/**
 * The router: which calls may start, what each is for and where it goes, and the table of those
 * that live. It answers the edge's offers, places children for a dial and calls for REST, counts,
 * and tells every change of status as plain data. Not the lookup's rows (`RouteTable` is injected),
 * not the legs (`edge.ts`), not what an application does with a call.
 */
import { EventEmitter } from 'node:events';
import type { Bus, Subscription } from '../bus/bus.ts';
import { AddressSet } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { type AccountSid, type CallSid, newSid, type TrunkSid } from '../core/sid.ts';
import { parseUri } from '../sip/message.ts';
import type { Admission } from './admission.ts';
import {
  Call,
  type CallDeps,
  type CallOptions,
  newCallRecord,
  RING_TIMEOUT_MS_MAX,
} from './call.ts';
import type { CallApplication, CallRecord, StatusCallback } from './call-record.ts';
import { FINAL_STATUSES } from './call-record.ts';
import type { Journal } from './journal.ts';
import {
  type LegOffer,
  type LegOrder,
  type LegVerdict,
  legSubject,
  MAX_FORWARDS,
  OFFERS,
  ORDERS,
} from './leg.ts';
import { partyOf, unescapeUser } from './leg-signal.ts';
import { Recent } from './recent.ts';
import {
  type DialRequest,
  type DialTarget,
  fromUriOf,
  gatewayUri,
  type InboundRoute,
  type OriginateRequest,
  orderGateways,
  type RouteTable,
  selectTrunk,
  targetName,
} from './route.ts';
import type { TraceBook } from './trace.ts';

/** A change of a call, for the store, for status callbacks, for whoever counts. A copy. */
export interface CallNotice {
  readonly type: 'call.created' | 'call.status' | 'call.completed';
  readonly atMs: number;
  readonly call: CallRecord;
}

/** What answers calls that nobody claims, from sources that are trusted. */
export interface DefaultRoute {
  readonly accountSid: AccountSid;
  readonly application: CallApplication;
  readonly statusCallback: StatusCallback | null;
}

export interface RouterOptions {
  readonly defaultRoute: DefaultRoute | null;
  /** CIDRs whose unclaimed calls go to the default route. */
  readonly trustedSources: readonly string[];
  /** Host of the From URI on outgoing calls. */
  readonly fromDomain: string;
  /** How long an edge may take to accept an order. */
  readonly orderTimeoutMs: number;
  readonly ringTimeoutMsMax: number;
  /** Records of ended calls that can still be asked for. */
  readonly endedCallsMax: number;
}

export const DEFAULT_ROUTER: Omit<RouterOptions, 'fromDomain'> = {
  defaultRoute: null,
  trustedSources: ['127.0.0.0/8', '::1/128'],
  orderTimeoutMs: 5_000,
  ringTimeoutMsMax: RING_TIMEOUT_MS_MAX,
  endedCallsMax: 1_000,
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
  readonly #trusted: AddressSet;
  readonly #calls = new Map<CallSid, Call>();
  readonly #ended: Recent<CallSid, CallRecord>;
  #offers: Subscription | null = null;
  #onEmpty: (() => void)[] = [];
  readonly #endedTotal;

  constructor(deps: RouterDeps) {
    super();
    this.#deps = deps;
    const { clock, log, bus, journal, trace, metrics } = deps;
    this.#callDeps = { clock, log, bus, journal, trace, options: deps.call };
    this.#trusted = new AddressSet(deps.options.trustedSources);
    this.#ended = new Recent({ max: deps.options.endedCallsMax });
    metrics.gauge('tandem_calls_live', 'Calls that have not ended', () => this.#calls.size);
    this.#endedTotal = metrics.counter('tandem_calls_ended_total', 'Calls that ended', [
      'direction',
      'status',
      'code',
      'fault',
    ]);
  }

  start(): void {
    this.#offers = this.#deps.bus.respond(OFFERS, (offer) => this.#onOffer(offer));
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
    this.#offers?.close();
    const end = (): void => {
      for (const call of [...this.#calls.values()]) call.hangup('DRAINING');
    };
    const timer = this.#deps.clock.timer(options.graceMs, end);
    await this.idle();
    timer.cancel();
  }

  /** A child of a live call. Throws CALL_NOT_LIVE, DIAL_NUMBER, or why it is not admitted. */
  dial(request: DialRequest): Call {
    const known = request.sid === undefined ? undefined : this.#calls.get(request.sid);
    if (known !== undefined) return known;
    const parent = this.#calls.get(request.parentCallSid);
    if (parent === undefined) throw new GatewayError('CALL_NOT_LIVE', { status: 'ended' });
    const { record } = parent;
    const call = this.#make(request, {
      accountSid: record.accountSid,
      direction: 'outbound-dial',
      from: request.callerId ?? record.from,
      parentCallSid: record.sid,
      endsWithParent: true,
    });
    parent.addChild(call.sid);
    this.#place(call, request, parent);
    return call;
  }

  /** A call of its own, run by `request.application` once answered. Throws as `dial` does. */
  originate(request: OriginateRequest): Call {
    const known = request.sid === undefined ? undefined : this.#calls.get(request.sid);
    if (known !== undefined) return known;
    const { accountSid, from, application, sendDigits } = request;
    const call = this.#make(request, {
      accountSid,
      direction: 'outbound-api',
      from,
      application,
      sendDigits: sendDigits ?? null,
    });
    this.#run(call);
    this.#place(call, request, null);
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
      this.#deps.trace.open(record.sid);
      this.#deps.trace.bindSip(record.sip.callId, record.sid);
      this.#deps.admission.restored(record.accountSid);
      const call = Call.restore(record, this.#callDeps);
      this.#watch(call);
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

  async #onOffer(offer: LegOffer): Promise<LegVerdict> {
    try {
      return await this.#admit(offer);
    } catch (thrown) {
      const { code, details } = asGatewayError(thrown);
      return { admitted: false, code, details };
    }
  }

  async #admit(offer: LegOffer): Promise<LegVerdict> {
    const uri = parseUri(offer.requestUri);
    const user = unescapeUser(uri.user);
    const from = partyOf(offer.fromUri);
    const { source, headers } = offer;
    const query = { user, host: uri.host, from, source, headers };
    const route = (await this.#deps.routes.inbound(query)) ?? this.#unclaimed(offer, from);
    if (route.kind === 'refused') {
      return { admitted: false, code: route.code, details: route.details };
    }
    const { accountSid } = route;
    const refusal = this.#deps.admission.admit({ accountSid, direction: 'inbound' });
    if (refusal !== null) return { admitted: false, ...refusal };
    const call = this.#create(
      newCallRecord({
        sid: newSid('CA', this.#deps.clock),
        accountSid,
        direction: 'inbound',
        from: route.from,
        to: route.to,
        status: 'ringing',
        createdAtMs: this.#deps.clock.nowMs(),
        ringingAtMs: this.#deps.clock.nowMs(),
        callerName: offer.fromDisplay,
        forwardedFrom: offer.forwardedFrom,
        trunkSid: route.trunkSid,
        application: route.application,
        statusCallback: route.statusCallback,
        sip: {
          callId: offer.sipCallId,
          domain: uri.host,
          sourceAddress: offer.source.address,
          headers: offer.headers,
          maxForwards: offer.maxForwards,
        },
      }),
    );
    // Only from `offered` on does the leg hear commands.
    call.once('leg', (event) => {
      if (event.kind === 'offered') this.#run(call);
    });
    return { admitted: true, callSid: call.sid };
  }

  /** Nobody claims the number: ours to answer when we trust who calls. */
  #unclaimed(offer: LegOffer, from: string): InboundRoute {
    const { defaultRoute } = this.#deps.options;
    const { address } = offer.source;
    if (defaultRoute === null || !this.#trusted.has(address)) {
      return { kind: 'refused', code: 'NO_ROUTE', details: { target: partyOf(offer.requestUri) } };
    }
    const to = partyOf(offer.requestUri);
    return { kind: 'application', ...defaultRoute, to, from, trunkSid: null };
  }

  // --- Outbound -------------------------------------------------------------------------------

  #make(
    request: DialRequest | OriginateRequest,
    given: Pick<CallRecord, 'accountSid' | 'direction' | 'from'> & Partial<CallRecord>,
  ): Call {
    const { accountSid, direction } = given;
    const to = targetName(request.target);
    const refusal = this.#deps.admission.admit({ accountSid, direction });
    if (refusal !== null) throw new GatewayError(refusal.code, refusal.details);
    return this.#create(
      newCallRecord({
        sid: request.sid ?? newSid('CA', this.#deps.clock),
        to,
        status: 'queued',
        createdAtMs: this.#deps.clock.nowMs(),
        callerName: request.callerName ?? '',
        timeLimitMs: request.timeLimitMs ?? null,
        statusCallback: request.statusCallback,
        ...given,
      }),
    );
  }

  /** Never rejects: what goes wrong from here on is how the call ends. */
  #place(call: Call, request: DialRequest | OriginateRequest, parent: Call | null): void {
    this.#order(call, request, parent).catch((thrown: unknown) => {
      const error = asGatewayError(thrown);
      call.fail(error.code, error.message);
    });
  }

  async #order(
    call: Call,
    request: DialRequest | OriginateRequest,
    parent: Call | null,
  ): Promise<void> {
    const { record } = call;
    const { target } = request;
    const maxForwards = parent === null ? MAX_FORWARDS : forwardsOf(parent.record) - 1;
    // A call that comes round again and again through us and others (RFC 7332).
    if (maxForwards < 0) throw new GatewayError('SIP_TOO_MANY_HOPS');
    const way = await this.#way(record.accountSid, target);
    if (record.endingCode !== null) {
      // Hung up while we looked: there is no leg that could say so.
      call.fail(record.endingCode);
      return;
    }
    const order: LegOrder = {
      legId: record.legId,
      callSid: record.sid,
      accountSid: record.accountSid,
      targets: way.targets,
      fromUri: fromUriOf(record.from, this.#deps.options.fromDomain),
      fromDisplay: record.callerName,
      headers: target.kind === 'sip' ? target.headers : [],
      credentials: way.credentials,
      ringTimeoutMs: Math.min(request.ringTimeoutMs, this.#deps.options.ringTimeoutMsMax),
      near: parent?.record.port ?? null,
      group: parent?.sid ?? call.sid,
      maxForwards,
    };
    call.note('call', 'placing', way.targets.map(({ uri }) => uri).join(' '));
    const { orderTimeoutMs } = this.#deps.options;
    await this.#deps.bus.request(ORDERS, order, { timeoutMs: orderTimeoutMs });
    call.markInitiated(way.trunkSid);
    // Told to end while nobody was there to hear it.
    call.insist();
  }

  async #way(
    accountSid: AccountSid,
    target: DialTarget,
  ): Promise<Pick<LegOrder, 'targets' | 'credentials'> & { trunkSid: TrunkSid | null }> {
    if (target.kind === 'sip') {
      const { credentials } = target;
      return {
        targets: [{ uri: target.uri, peer: null, trusted: false }],
        credentials: credentials === null ? null : { ...credentials, realm: null },
        trunkSid: null,
      };
    }
    const { number } = target;
    const trunk = selectTrunk(await this.#deps.routes.trunks(accountSid), number);
    if (trunk === null) throw new GatewayError('NO_TRUNK', { target: number });
    const gateways = orderGateways(trunk.gateways, () => this.#deps.clock.random());
    const targets = gateways.map(({ uri }) => ({
      uri: gatewayUri(uri, number),
      peer: null,
      trusted: true,
    }));
    const { credentials } = trunk;
    if (credentials === null) return { targets, credentials: null, trunkSid: trunk.sid };
    const password = credentials.password.reveal();
    return { targets, credentials: { ...credentials, password }, trunkSid: trunk.sid };
  }

  // --- The table ------------------------------------------------------------------------------

  #create(record: CallRecord): Call {
    this.#deps.trace.open(record.sid);
    const call = Call.create(record, this.#callDeps);
    this.#watch(call);
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

  #watch(call: Call): void {
    this.#calls.set(call.sid, call);
    call.on('status', (status) => {
      if (!FINAL_STATUSES.has(status)) this.#tell('call.status', call);
    });
    call.on('ended', () => this.#onEnded(call));
  }

  #onEnded(call: Call): void {
    const { record } = call;
    this.#calls.delete(call.sid);
    this.#ended.add(call.sid, record);
    this.#deps.admission.ended(record.accountSid);
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
    const notice: CallNotice = { type, atMs: this.#deps.clock.nowMs(), call: { ...call.record } };
    try {
      this.#deps.onNotice(notice);
    } catch (thrown) {
      // Whoever keeps records must not decide whether a call lives.
      const error = asGatewayError(thrown);
      this.#deps.log.error({ callSid: call.sid, err: error }, 'notice not taken');
    }
  }
}

function forwardsOf({ sip }: CallRecord): number {
  return Math.min(sip.maxForwards ?? MAX_FORWARDS, MAX_FORWARDS);
}
