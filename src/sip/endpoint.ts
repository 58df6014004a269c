/**
 * The SIP endpoint: sockets below, sessions above, and between them the rules of RFC 3261 §8.2 on
 * what a request is, who may send it, and what it is answered. State is made last: what can be
 * refused by its looks, by its source or by policy is answered and forgotten.
 *
 * Composition of the stack is here too; nothing else builds a transport or a transaction table.
 */
import { EventEmitter } from 'node:events';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import { type Log, redact } from '../core/log.ts';
import { abilities } from './abilities.ts';
import {
  authenticate,
  CallCredentials,
  type CredentialScope,
  type Credentials,
} from './challenge.ts';
import { Dialog, dialogOfRequest } from './dialog.ts';
import { type EndpointCounts, EndpointMetrics } from './endpoint-metrics.ts';
import {
  DEFAULT_BOUNDS,
  type EndpointBounds,
  type EndpointOptions,
  type EndpointPolicy,
  type OutgoingInvite,
  type RestoreOptions,
} from './endpoint-options.ts';
import type { InviteRemains } from './invite-head.ts';
import { DEFAULT_TIMERS } from './machine.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Overload } from './overload.ts';
import { isOfOurs } from './peek.ts';
import type { ListenSpec, Local, PeerAddress, Source, TraceMessage } from './peer.ts';
import { placeInvite } from './place-invite.ts';
import { serveRegister } from './register-server.ts';
import { AbandonedInvite, refuseRemains } from './remains.ts';
import { judgeReplaces, type Replaces } from './replaces.ts';
import { Resolver } from './resolver.ts';
import { readOffer, screen, screenInvite } from './screening.ts';
import { Session, type SessionHost } from './session.ts';
import { DEFAULT_SESSION, type SessionOptions, type SessionRecord } from './session-report.ts';
import { KernelSockets } from './sockets.ts';
import { tracedIn, tracedOut } from './trace-message.ts';
import { TransactionTable } from './transaction.ts';
import { DEFAULT_TRANSPORT, Transport, type TransportUser } from './transport.ts';
import { UserAgent } from './user-agent.ts';
import { Wheel } from './wheel.ts';

export type { EndpointOptions, EndpointPolicy, OutgoingInvite } from './endpoint-options.ts';

export interface EndpointEvents {
  invite: [session: Session];
  trace: [message: TraceMessage];
}

export class Endpoint extends EventEmitter<EndpointEvents> implements TransportUser, SessionHost {
  readonly ua: UserAgent;
  readonly sessionOptions: SessionOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #listen: readonly ListenSpec[];
  readonly #policy: EndpointPolicy;
  readonly #bounds: EndpointBounds;
  readonly #transport: Transport;
  readonly #transactions: TransactionTable;
  readonly #resolver: Resolver;
  readonly #wheel: Wheel;
  readonly #sessions = new Map<string, Session>();
  readonly #metrics: EndpointMetrics;
  readonly #overload: Overload | null;
  /** To tag of all answers without state: a repeated request gets the same one (§8.2.7). */
  readonly #statelessTag: string;
  #isDraining = false;
  #isClosed = false;

  constructor(options: EndpointOptions) {
    super();
    const { clock, log, policy = {}, sockets = new KernelSockets() } = options;
    this.#clock = clock;
    this.#log = log;
    this.#listen = options.listen;
    this.#policy = policy;
    this.#overload = options.overload ?? null;
    this.#bounds = { ...DEFAULT_BOUNDS, ...options.bounds };
    this.sessionOptions = { ...DEFAULT_SESSION, ...options.session };
    this.#statelessTag = clock.randomHex(8);
    this.#wheel = new Wheel({ clock, onError: (error) => this.#broken(error) });
    const allowAddress = (address: string): boolean => policy.allowAddress?.(address) ?? true;
    const isGiven = options.resolver !== undefined; // our own asks `allowAddress` itself
    this.#resolver = options.resolver ?? new Resolver({ clock, allowAddress });
    this.#metrics = new EndpointMetrics({
      metrics: options.metrics,
      sessions: () => this.#sessions.size,
      transactions: () => this.#transactions.clientCount + this.#transactions.serverCount,
      connections: (transport) => this.#transport.connectionCountOf(transport),
    });
    const timers = { ...DEFAULT_TIMERS, ...options.timers };
    this.#transport = new Transport({
      sockets,
      ...(options.layers === undefined ? {} : { layers: options.layers }),
      wheel: this.#wheel,
      log,
      user: this,
      toTag: this.#statelessTag,
      allows: (address) => this.#resolver.allows(address) && (!isGiven || allowAddress(address)),
      trusts: (address) => policy.trusts?.(address) ?? false,
      isFlow: (peer) => policy.isFlow?.(peer) ?? false,
      transport: { ...DEFAULT_TRANSPORT, ...options.transport },
      counters: this.#metrics,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    });
    const { clientTransactionsMax, serverTransactionsMax } = this.#bounds;
    this.#transactions = new TransactionTable({
      sender: this.#transport,
      wheel: this.#wheel,
      options: { timers, clientTransactionsMax, serverTransactionsMax },
    });
    this.ua = new UserAgent({
      clock,
      wheel: this.#wheel,
      log,
      name: options.userAgent,
      timers,
      transport: this.#transport,
      transactions: this.#transactions,
      resolver: this.#resolver,
    });
  }

  /** Throws `LISTEN_FAILED`; nothing is left open then. */
  async start(): Promise<void> {
    try {
      for (const spec of this.#listen) await this.#transport.listen(spec);
    } catch (thrown) {
      await this.close();
      throw thrown;
    }
  }

  /** Where we listen, with the ports that were given. */
  get locals(): readonly Local[] {
    return this.#transport.locals;
  }

  get counts(): EndpointCounts {
    return {
      sessions: this.#sessions.size,
      clientTransactions: this.#transactions.clientCount,
      serverTransactions: this.#transactions.serverCount,
      connections: this.#transport.connectionCount,
      deadlines: this.#wheel.count,
      malformed: this.#transport.malformedCount,
      limited: this.#transport.limitedCount,
      refusedConnections: this.#transport.refusedConnectionCount,
    };
  }

  /** How full the fullest table is, 0 to 1. */
  get fullness(): number {
    const { sessionsMax, clientTransactionsMax, serverTransactionsMax } = this.#bounds;
    const { clientCount, serverCount } = this.#transactions;
    const ofTransactions = Math.max(
      clientCount / clientTransactionsMax,
      serverCount / serverTransactionsMax,
    );
    return Math.max(this.#sessions.size / sessionsMax, ofTransactions);
  }

  /** Calls. What becomes of it comes as events of the session, never before this returns. */
  invite(options: OutgoingInvite): Session {
    const session = this.#newSession(options);
    this.#sessions.set(session.id, session);
    const isFull = this.#sessions.size > this.#bounds.sessionsMax;
    const { ringTimeoutMs } = this.sessionOptions;
    void placeInvite(session, options, { ua: this.ua, isFull, ringTimeoutMs });
    return session;
  }

  /** Takes up a dialog from plain data. Throws `SIP_NO_DIALOG`, or `SIP_TRANSPORT`. */
  restore(record: SessionRecord, options: RestoreOptions = {}): Session {
    const { id, direction, callId, peer, credentialScope: scope } = record;
    const { credentials, policy = this.sessionOptions.policy } = options;
    if (record.state !== 'confirmed') throw new GatewayError('SIP_NO_DIALOG');
    const session = new Session({
      host: this,
      id,
      direction,
      callId,
      request: null,
      offer: '',
      credentials: this.#credentials(credentials, scope),
      state: 'confirmed',
      source: peer,
      near: { ...peer, local: this.#transport.localFor(peer), connection: null },
      dialog: new Dialog(record),
      policy,
    });
    this.#sessions.set(id, session);
    session.resume(record);
    return session;
  }

  /** Ends what a former process had under way and no dialog stands of: see `Session.remains`. */
  settle(remains: InviteRemains): void {
    if (remains.kind === 'sent') {
      new AbandonedInvite(this.ua, remains.head).cancel(remains.peer);
      return;
    }
    const retryAfter = String(this.#bounds.retryAfterSeconds);
    refuseRemains(this.ua, remains, 503, [['Retry-After', retryAfter]]);
  }

  /** The session that has that dialog with us, as its Replaces would name it. */
  sessionNamed({ toTag, fromTag, callId }: Replaces): Session | null {
    const session = this.#sessions.get(toTag);
    return session?.isDialog(callId, fromTag) ? session : null;
  }

  /** Reads the TLS certificates again; false when new ones are refused and the old ones stay. */
  reloadCertificates(): Promise<boolean> {
    return this.#transport.reloadCertificates();
  }

  /** New calls and OPTIONS get 503 while on; calls that stand go on. */
  drain(on: boolean): void {
    this.#isDraining = on;
  }

  /** Stops at once. Sessions that stand are left as they are: others may restore them. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#transactions.close();
    await this.#transport.close();
    this.#wheel.close();
    this.#sessions.clear();
  }

  // From here on: for the transport and the sessions.

  get isTraced(): boolean {
    return this.listenerCount('trace') > 0;
  }

  request(message: SipMessage, source: Source): void {
    try {
      this.#request(message, source);
    } catch (thrown) {
      this.#broken(thrown);
    }
  }

  response(message: SipMessage, source: Source): void {
    try {
      if (this.#transactions.response(message, source)) return;
      // RFC 3261 §18.1.2 would hand strays to the user: one that is of use is a repeated 2xx.
      if (message.cseqMethod !== 'INVITE' || message.status < 200 || message.status > 299) return;
      const session = this.#sessions.get(message.fromTag);
      if (session?.owns(message)) session.receiveStray(message);
    } catch (thrown) {
      this.#broken(thrown);
    }
  }

  traceIn(message: SipMessage, source: Source): void {
    const isRepeated = this.#transactions.isRepetition(message);
    this.emit('trace', tracedIn(message, source, this.#clock.nowMs(), isRepeated));
  }

  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void {
    this.emit('trace', tracedOut(text, peer, callId, this.#clock.nowMs(), isRepeated));
  }

  /** Our tags and branches are random, so who names one was told it. */
  expects(text: string): boolean {
    return isOfOurs(text, this.#sessions, this.#transactions);
  }

  release(session: Session): void {
    if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id);
  }

  #request(request: SipMessage, source: Source): void {
    if (this.#transactions.absorb(request)) return;
    if (request.method === 'ACK') {
      this.#sessionOf(request)?.receiveAck(request);
      return;
    }
    if (request.method === 'CANCEL') {
      this.#cancel(request, source);
      return;
    }
    const session = this.#sessionOf(request);
    if (session === undefined && this.#isShed(request, source)) return;
    const { registrar } = this.#policy;
    if (session === undefined && request.method === 'REGISTER' && registrar !== undefined) {
      serveRegister(registrar, request, source, {
        ...{ ua: this.ua, transactions: this.#transactions },
        // Who is registered here stays so: calls that live may still dial them.
        isDraining: this.#isDraining && this.#transport.trustOf(source) !== 'registered',
        toTag: this.#statelessTag,
        refuse: (code, headers) => this.#refuse(request, source, code, headers),
      });
      return;
    }
    const refusal = screen(request, source, () => this.#told(request, source));
    if (refusal !== null) {
      this.#refuse(request, source, refusal.code, refusal.headers);
    } else if (session !== undefined) {
      this.#inDialog(request, source, session);
    } else if (request.method === 'OPTIONS' && request.toTag === '') {
      this.#options(request, source);
    } else if (request.method !== 'INVITE' || request.toTag !== '') {
      this.#refuse(request, source, 'SIP_NO_DIALOG');
    } else {
      this.#invited(request, source);
    }
  }

  /** Answered 503 without a further look: what begins a call, while there is too much of that. */
  #isShed(request: SipMessage, source: Source): boolean {
    if (this.#overload === null || request.method !== 'INVITE' || request.toTag !== '')
      return false;
    const trust = this.#transport.trustOf(source);
    if (this.#overload.admits(trust, request.callId)) return false;
    this.#metrics.shed.inc({ trust });
    this.#refuse(request, source, 'OVERLOADED');
    return true;
  }

  #sessionOf(request: SipMessage): Session | undefined {
    const session = this.#sessions.get(request.toTag);
    return session?.owns(request) ? session : undefined;
  }

  /** §9.2. The answer is 200 whether or not there was time left to cancel anything. */
  #cancel(cancel: SipMessage, source: Source): void {
    const invite = this.#transactions.inviteOf(cancel, source);
    if (invite === undefined) {
      this.#refuse(cancel, source, 'SIP_NO_DIALOG');
      return;
    }
    const toTag = invite.toTag || this.#statelessTag;
    this.ua.answerStateless(cancel, source, 200, { toTag });
    if (invite.isOpen) invite.user?.onCancel(invite, cancel);
  }

  #inDialog(request: SipMessage, source: Source, session: Session): void {
    if (request.method === 'INVITE' && this.#offerOf(request, source) === null) return;
    const transaction = this.#transactions.accept(request, source, null);
    if (transaction === null) this.#refuse(request, source, 'OVERLOADED');
    else session.receive(transaction);
  }

  /** §11.2: what an INVITE would be told, without one. */
  #options(request: SipMessage, source: Source): void {
    if (this.#isDraining) {
      this.#refuse(request, source, 'DRAINING');
      return;
    }
    const headers = this.#told(request, source);
    this.ua.answerStateless(request, source, 200, { toTag: this.#statelessTag, headers });
  }

  #told(request: SipMessage, source: Source): HeaderField[] {
    const { sessionOptions: own } = this;
    const policy = this.#policy.sessionPolicyOf?.(request, source) ?? own.policy;
    return abilities('described', policy, own, this.#policy.registrar !== undefined);
  }

  #invited(request: SipMessage, source: Source): void {
    if (this.#transactions.isMerged(request)) {
      this.#refuse(request, source, 'SIP_LOOP');
      return;
    }
    const replaced = judgeReplaces(request, (tag) => this.#sessions.get(tag));
    const refusal = screenInvite(request) ?? replaced.refusal;
    if (refusal !== null) {
      this.#refuse(request, source, refusal.code, refusal.headers);
      return;
    }
    const offer = this.#offerOf(request, source);
    if (offer === null) return;
    const code = this.#isDraining ? 'DRAINING' : (this.#policy.admit?.(request, source) ?? null);
    if (code !== null) {
      this.#refuse(request, source, code);
      return;
    }
    const proof = this.#authenticate(request, source);
    if (proof === null) return;
    this.#transport.proved(source);
    // We listen before those who take calls, who find the old ones first.
    if (this.listenerCount('invite') === 0) {
      this.#refuse(request, source, 'NOT_READY');
      return;
    }
    const isFull = this.#sessions.size >= this.#bounds.sessionsMax;
    const transaction = isFull ? null : this.#transactions.accept(request, source, null);
    if (transaction === null) {
      this.#refuse(request, source, 'OVERLOADED');
      return;
    }
    const id = this.ua.newTag();
    transaction.toTag = id;
    source.connection?.welcome();
    const dialog = dialogOfRequest(request, id);
    const session = new Session({
      ...{ host: this, id, callId: dialog.callId, dialog, request, offer },
      direction: 'in',
      credentials: null,
      state: 'early',
      source,
      near: source,
      identity: proof.identity,
      replaces: replaced.session?.id ?? null,
    });
    this.#sessions.set(id, session);
    session.receiveInvite(transaction);
    this.emit('invite', session);
  }

  /** The SDP of an INVITE; null when it was refused for its body. */
  #offerOf(request: SipMessage, source: Source): string | null {
    const read = readOffer(request);
    if ('sdp' in read) return read.sdp;
    this.#refuse(request, source, read.refusal.code, read.refusal.headers);
    return null;
  }

  /** Who it is, as far as the policy knows; null when the request was answered for lack of it. */
  #authenticate(request: SipMessage, source: Source): { identity: string | null } | null {
    const verdict = this.#policy.authenticate?.(request, source);
    if (verdict === undefined) return { identity: null };
    const result = authenticate(request, verdict);
    if (result.kind === 'accepted') return result;
    if (result.kind === 'refused') this.#refuse(request, source, result.code);
    else this.#refuse(request, source, 'SIP_AUTH_REQUIRED', result.headers);
    return null;
  }

  /** Answers with the code's status and keeps nothing. */
  #refuse(
    request: SipMessage,
    source: Source,
    code: ErrorCode,
    fields: readonly HeaderField[] = [],
  ): void {
    this.#metrics.refusals.inc({ code });
    const { sip } = ERRORS[code];
    const headers = [...fields];
    if (sip === 503) headers.push(['Retry-After', this.#retryAfter(request)]);
    this.ua.answerStateless(request, source, sip, { toTag: this.#statelessTag, headers });
    const peer = redact(source.address, 7);
    this.#log.debug({ code, method: request.method, peer }, 'request refused');
  }

  /** Not the same for all: they would all come back at once. */
  #retryAfter({ callId }: SipMessage): string {
    const { retryAfterSeconds } = this.#bounds;
    return String(this.#overload?.retryAfterSeconds(callId) ?? retryAfterSeconds);
  }

  #credentials(
    credentials: Credentials | undefined,
    scope?: CredentialScope,
  ): CallCredentials | null {
    if (credentials === undefined) return null;
    const known = scope === undefined ? {} : { scope };
    return new CallCredentials({ clock: this.#clock, credentials, ...known });
  }

  #newSession(options: OutgoingInvite): Session {
    const { policy } = this.sessionOptions;
    const { reliable = policy.reliable, sessionTimer = policy.sessionTimer } = options;
    const { refer = policy.refer ?? 'refuse' } = options;
    return new Session({
      host: this,
      id: this.ua.newTag(),
      direction: 'out',
      callId: this.#clock.randomHex(16),
      request: null,
      offer: '',
      credentials: this.#credentials(options.credentials),
      state: 'early',
      source: options.target ?? NOWHERE,
      near: null,
      dialog: null,
      policy: { reliable, sessionTimer, refer },
    });
  }

  #broken(thrown: unknown): void {
    const { message, stack } = asGatewayError(thrown);
    this.#log.error({ problem: message, stack }, 'SIP handling failed');
  }
}

const NOWHERE: PeerAddress = { transport: 'udp', address: '', port: 0 };
