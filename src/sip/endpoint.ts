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
import {
  authenticate,
  CallCredentials,
  type CredentialScope,
  type Credentials,
} from './challenge.ts';
import { Dialog, dialogOfRequest, formatParty } from './dialog.ts';
import { EndpointMetrics } from './endpoint-metrics.ts';
import {
  DEFAULT_BOUNDS,
  type EndpointBounds,
  type EndpointOptions,
  type EndpointPolicy,
  type OutgoingInvite,
} from './endpoint-options.ts';
import { DEFAULT_TIMERS } from './machine.ts';
import { encodeUtf8, type HeaderField, parseUri, type SipMessage } from './message.ts';
import type { ListenSpec, Local, PeerAddress, Source, TraceMessage } from './peer.ts';
import { Resolver, type Target } from './resolver.ts';
import { readOffer, screen, screenInvite } from './screening.ts';
import { Session, type SessionHost } from './session.ts';
import {
  DEFAULT_SESSION,
  printable,
  type SessionOptions,
  type SessionRecord,
} from './session-report.ts';
import { KernelSockets } from './sockets.ts';
import { TransactionTable } from './transaction.ts';
import { DEFAULT_TRANSPORT, Transport, type TransportUser } from './transport.ts';
import { ALLOW, UserAgent } from './user-agent.ts';
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
      connections: () => this.#transport.connectionCount,
    });
    const timers = { ...DEFAULT_TIMERS, ...options.timers };
    this.#transport = new Transport({
      sockets,
      wheel: this.#wheel,
      log,
      user: this,
      toTag: this.#statelessTag,
      allows: (address) => this.#resolver.allows(address) && (!isGiven || allowAddress(address)),
      trusts: (address) => policy.trusts?.(address) ?? false,
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

  /** Calls. What becomes of it comes as events of the session, never before this returns. */
  invite(options: OutgoingInvite): Session {
    const session = this.#newSession(options);
    this.#sessions.set(session.id, session);
    void this.#place(session, options);
    return session;
  }

  /** Takes up a dialog from plain data. Throws `SIP_NO_DIALOG`, or `SIP_TRANSPORT`. */
  restore(record: SessionRecord, options: { credentials?: Credentials } = {}): Session {
    const { id, direction, callId, peer, credentialScope: scope } = record;
    const { credentials } = options;
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
    });
    this.#sessions.set(id, session);
    return session;
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
    const { callId, firstLine, sizeBytes } = message;
    const retransmission = this.#transactions.isRepetition(message);
    this.#trace('in', callId, source, firstLine, sizeBytes, retransmission);
  }

  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void {
    const firstLine = text.slice(0, text.indexOf('\r\n'));
    this.#trace('out', callId, peer, firstLine, text.length, isRepeated);
  }

  release(session: Session): void {
    if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id);
  }

  #trace(
    direction: 'in' | 'out',
    callId: string,
    from: PeerAddress,
    firstLine: string,
    bytes: number,
    retransmission: boolean,
  ): void {
    const { transport, address, port } = from;
    const peer = { transport, address, port };
    const atMs = this.#clock.nowMs();
    const line = printable(firstLine);
    this.emit('trace', { atMs, direction, callId, peer, firstLine: line, bytes, retransmission });
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
    if (session === undefined && !this.#transport.mayAnswer(source.address)) return;
    const refusal = screen(request);
    if (refusal !== null) {
      this.#refuse(request, source, refusal.code, refusal.headers);
    } else if (request.method === 'OPTIONS') {
      this.#options(request, source);
    } else if (session !== undefined) {
      this.#inDialog(request, source, session);
    } else if (request.method !== 'INVITE' || request.toTag !== '') {
      this.#refuse(request, source, 'SIP_NO_DIALOG');
    } else {
      this.#invited(request, source);
    }
  }

  #sessionOf(request: SipMessage): Session | undefined {
    const session = this.#sessions.get(request.toTag);
    return session?.owns(request) ? session : undefined;
  }

  /** §9.2. The answer is 200 whether or not there was time left to cancel anything. */
  #cancel(cancel: SipMessage, source: Source): void {
    const invite = this.#transactions.inviteOf(cancel, source);
    if (invite === undefined) {
      if (this.#transport.mayAnswer(source.address)) {
        this.#refuse(cancel, source, 'SIP_NO_DIALOG');
      }
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
    const headers: HeaderField[] = [
      ['Allow', ALLOW],
      ['Accept', 'application/sdp'],
      ['Accept-Encoding', 'identity'],
      ['Accept-Language', 'en'],
      ['Supported', ''],
    ];
    this.ua.answerStateless(request, source, 200, { toTag: this.#statelessTag, headers });
  }

  #invited(request: SipMessage, source: Source): void {
    if (this.#transactions.isMerged(request)) {
      this.#refuse(request, source, 'SIP_LOOP');
      return;
    }
    const refusal = screenInvite(request);
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
    if (!this.#isAuthenticated(request, source)) return;
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
      host: this,
      id,
      direction: 'in',
      callId: dialog.callId,
      request,
      offer,
      credentials: null,
      state: 'early',
      source,
      near: source,
      dialog,
    });
    this.#sessions.set(id, session);
    session.receiveInvite(transaction);
    if (!this.emit('invite', session)) session.reject(480);
  }

  /** The SDP of an INVITE; null when it was refused for its body. */
  #offerOf(request: SipMessage, source: Source): string | null {
    const read = readOffer(request);
    if ('sdp' in read) return read.sdp;
    this.#refuse(request, source, read.refusal.code, read.refusal.headers);
    return null;
  }

  #isAuthenticated(request: SipMessage, source: Source): boolean {
    const verdict = this.#policy.authenticate?.(request, source);
    if (verdict === undefined) return true;
    const result = authenticate(request, verdict);
    if (result.kind === 'accepted') return true;
    if (result.kind === 'refused') this.#refuse(request, source, result.code);
    else this.#refuse(request, source, 'SIP_AUTH_REQUIRED', result.headers);
    return false;
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
    if (sip === 503) headers.push(['Retry-After', String(this.#bounds.retryAfterSeconds)]);
    this.ua.answerStateless(request, source, sip, { toTag: this.#statelessTag, headers });
    const peer = redact(source.address, 7);
    this.#log.debug({ code, method: request.method, peer }, 'request refused');
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
    });
  }

  /** Finds the way and sends the INVITE; whatever is wrong ends the session, not the caller. */
  async #place(session: Session, options: OutgoingInvite): Promise<void> {
    const { uri, from, to, headers = [], sdp, ringTimeoutMs } = options;
    const { maxForwards = MAX_FORWARDS } = options;
    try {
      if (maxForwards < 0) throw new GatewayError('SIP_TOO_MANY_HOPS');
      if (this.#sessions.size > this.#bounds.sessionsMax) {
        throw new GatewayError('OVERLOADED', { limit: 'sessions' });
      }
      const parsed = parseUri(uri);
      const { target } = options;
      const targets: readonly Target[] =
        target === undefined
          ? await this.#resolver.resolve(parsed)
          : [{ ...target, eitherTransport: target.eitherTransport ?? false }];
      // The caller gets to listen before anything can happen.
      await Promise.resolve();
      session.sendInvite({
        uri,
        localParty: formatParty(from.uri, encodeUtf8(from.display ?? '')),
        remoteParty: formatParty(to?.uri ?? uri),
        headers,
        sdp,
        hops: this.ua.hopsTo(targets, sdp.length + sizeOf(headers)),
        maxForwards,
        answerTimeoutMs: ringTimeoutMs ?? this.sessionOptions.ringTimeoutMs,
      });
    } catch (thrown) {
      await Promise.resolve();
      session.fail(asGatewayError(thrown));
    }
  }

  #broken(thrown: unknown): void {
    const { message, stack } = asGatewayError(thrown);
    this.#log.error({ problem: message, stack }, 'SIP handling failed');
  }
}

export interface EndpointCounts {
  readonly sessions: number;
  readonly clientTransactions: number;
  readonly serverTransactions: number;
  readonly connections: number;
  readonly deadlines: number;
  readonly malformed: number;
  readonly limited: number;
  readonly refusedConnections: number;
}

const NOWHERE: PeerAddress = { transport: 'udp', address: '', port: 0 };

/** RFC 3261 §8.1.1.6. */
const MAX_FORWARDS = 70;

function sizeOf(headers: readonly HeaderField[]): number {
  let bytes = 0;
  for (const [name, value] of headers) bytes += name.length + value.length + 4;
  return bytes;
}
