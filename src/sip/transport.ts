/**
 * The transport layer (RFC 3261 §18): listeners, connections, which way a message leaves, and where
 * a response goes back to (§18.2.2, RFC 3581). It turns bytes into messages and answers what is
 * malformed with one stateless reply; it never answers a response or an ACK. No transaction is
 * known here.
 *
 * A response goes to where the request truly came from; what a peer writes in `maddr`, `received`
 * or `rport` chooses no destination.
 */
import { isIPv6 } from 'node:net';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { type Log, redact } from '../core/log.ts';
import { type Connection, DEFAULT_CONNECTION } from './connection.ts';
import { Connections, type ConnectionsOptions } from './connections.ts';
import type { FramerItem } from './framing.ts';
import { DEFAULT_GATE, type DropReason, Gate, type GateOptions } from './gate.ts';
import type { StreamLayers } from './layers.ts';
import { DEFAULT_SIP_LIMITS, type SipLimits } from './limits.ts';
import { responseTo, type SipMessage, serializeResponse } from './message.ts';
import { type ParseFailure, type ParseResult, parseMessage } from './parser.ts';
import {
  isSecure,
  type ListenSpec,
  type Local,
  type PeerAddress,
  type ReturnPath,
  type SendOutcome,
  type Source,
  type TransportName,
} from './peer.ts';
import { refusalOf } from './refusal.ts';
import type { DatagramSocket, HandshakeFailure, Sockets, StreamListener } from './sockets.ts';
import { stunAnswer } from './stun.ts';
import { DEFAULT_TRUST, Trust, type TrustClass, type TrustOptions } from './trust.ts';
import type { Wheel } from './wheel.ts';

export type { ListenSpec, PeerAddress, TraceMessage } from './peer.ts';

export interface TransportUser {
  request(message: SipMessage, source: Source): void;
  response(message: SipMessage, source: Source): void;
  /** Whether a message that nobody has parsed belongs to a dialog or transaction of ours. */
  expects(text: string): boolean;
  /** Whether anybody looks at the trace: nothing is made for it otherwise. */
  readonly isTraced: boolean;
  traceIn(message: SipMessage, source: Source): void;
  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void;
}

export interface TransportOptions extends ConnectionsOptions, GateOptions, TrustOptions {
  /** Larger requests go by TCP when the peer's URI leaves the choice (RFC 3261 §18.1.1). */
  readonly datagramBytesMax: number;
}

export const DEFAULT_TRANSPORT: TransportOptions = {
  ...DEFAULT_GATE,
  ...DEFAULT_TRUST,
  connection: DEFAULT_CONNECTION,
  connectionsMax: 10_000,
  trustedConnectionsReserve: 1000,
  connectionsPerSourceMax: 100,
  connectionsPerSecondMax: 20,
  failedHandshakesPerMinuteMax: 20,
  datagramBytesMax: 1300,
};

export interface TransportCounters {
  readonly malformed: { inc(): void };
  readonly limited: { inc(): void };
  readonly dropped: { inc(labels: { reason: DropReason }): void };
  readonly handshakes: { inc(labels: { reason: HandshakeFailure }): void };
}

interface UdpPort extends Local {
  socket: DatagramSocket;
}

export class Transport {
  readonly options: TransportOptions;
  readonly #sockets: Sockets;
  readonly #wheel: Wheel;
  readonly #log: Log;
  readonly #limits: SipLimits;
  readonly #user: TransportUser;
  readonly #counters: TransportCounters;
  readonly #toTag: string;
  readonly #allows: (address: string) => boolean;
  readonly #trusts: (address: string) => boolean;
  readonly #isFlow: (peer: PeerAddress) => boolean;
  readonly #udp: UdpPort[] = [];
  readonly #streams: (Local & { listener: StreamListener })[] = [];
  readonly #layers: StreamLayers | null;
  readonly #connections: Connections;
  readonly #trust: Trust;
  readonly #gate: Gate;
  malformedCount = 0;
  limitedCount = 0;

  constructor(options: {
    sockets: Sockets;
    /** TLS and WebSocket; without it there is neither. */
    layers?: StreamLayers;
    wheel: Wheel;
    log: Log;
    user: TransportUser;
    /** The To tag of answers that leave no state behind. */
    toTag: string;
    /** Egress policy. */
    allows: (address: string) => boolean;
    /** Known peers: no rate limits, and places that are kept for them. */
    trusts: (address: string) => boolean;
    /** Phones that registered from there: their keep-alives are answered. */
    isFlow?: (peer: PeerAddress) => boolean;
    limits?: SipLimits;
    transport: TransportOptions;
    counters: TransportCounters;
  }) {
    this.options = options.transport;
    this.#sockets = options.sockets;
    this.#wheel = options.wheel;
    this.#log = options.log;
    this.#user = options.user;
    this.#counters = options.counters;
    this.#toTag = options.toTag;
    this.#allows = options.allows;
    this.#trusts = options.trusts;
    this.#isFlow = options.isFlow ?? (() => false);
    this.#limits = options.limits ?? DEFAULT_SIP_LIMITS;
    this.#trust = new Trust({
      knows: options.trusts,
      isFlow: this.#isFlow,
      options: options.transport,
    });
    this.#gate = new Gate({
      trust: this.#trust,
      log: options.log,
      options: options.transport,
      expects: (text) => this.#user.expects(text),
      onDrop: (reason) => this.#dropped(reason),
    });
    this.#layers = options.layers ?? null;
    this.#connections = new Connections({
      options: options.transport,
      sockets: options.sockets,
      layers: this.#layers,
      wheel: options.wheel,
      log: options.log,
      limits: this.#limits,
      trusts: options.trusts,
      onItem: (connection, item) => this.#framed(connection, item),
      onFailure: (reason) => this.#counters.handshakes.inc({ reason }),
    });
  }

  get isTraced(): boolean {
    return this.#user.isTraced;
  }

  get locals(): readonly Local[] {
    return [...this.#udp, ...this.#streams];
  }

  get connectionCount(): number {
    return this.#connections.count;
  }

  /** Connections that were refused for the number of them. */
  get refusedConnectionCount(): number {
    return this.#connections.refusedCount;
  }

  connectionCountOf(transport: TransportName): number {
    return this.#connections.countOf(transport);
  }

  /** False when the files hold nothing of use: what was in force stays so. */
  async reloadCertificates(): Promise<boolean> {
    return (await this.#layers?.reloadCertificates()) ?? false;
  }

  /** Whether a connection to `peer` stands: to a WebSocket there is no other way. */
  isConnected(peer: PeerAddress): boolean {
    return this.#connections.find(peer) !== undefined;
  }

  /** Throws `LISTEN_FAILED`. */
  async listen(spec: ListenSpec): Promise<Local> {
    const { address, port } = spec;
    try {
      if (spec.transport === 'udp') {
        const entry: Partial<UdpPort> = {};
        const socket = await this.#sockets.datagram(address, port, {
          datagram: (text, from, fromPort) => this.#datagram(text, from, fromPort, entry as Local),
          failed: (problem) => this.#log.warn({ problem }, 'UDP socket error'),
        });
        const local = Object.assign(entry, this.#describe(spec, socket.port), { socket });
        this.#udp.push(local);
        return local;
      }
      await this.#startLayer(spec.transport);
      const entry: Partial<Local> = {};
      const listener = await this.#sockets.listen(address, port, (socket) => {
        this.#connections.accept(socket, entry as Local);
      });
      const local = Object.assign(entry, this.#describe(spec, listener.port), { listener });
      this.#streams.push(local);
      return local;
    } catch (thrown) {
      if (thrown instanceof GatewayError && thrown.code === 'CONFIG_BAD_VALUE') throw thrown;
      throw new GatewayError('LISTEN_FAILED', {
        address: `${spec.transport}://${isIPv6(address) ? `[${address}]` : address}:${port}`,
        key: 'sip.listen',
        problem: asGatewayError(thrown).message,
      });
    }
  }

  async #startLayer(transport: TransportName): Promise<void> {
    if (transport === 'tcp') return;
    if (this.#layers !== null) return await this.#layers.start(transport);
    const problem = `${transport} is not available`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.listen', problem });
  }

  #describe(spec: ListenSpec, port: number): Local {
    const { transport, address, advertise } = spec;
    const isWildcard = address === '0.0.0.0' || address === '::';
    const family = isIPv6(address) ? 6 : 4;
    const host = advertise?.host ?? (isWildcard ? this.#sockets.hostAddress(family) : address);
    const shown = isIPv6(host) ? `[${host}]` : host;
    return { transport, address, port, sentBy: `${shown}:${advertise?.port ?? port}` };
  }

  /**
   * The listener that requests to `peer` are sent from and answered at: of its transport and
   * address family, loopback to loopback. Throws `SIP_TRANSPORT` when there is none.
   */
  localFor(peer: PeerAddress): Local {
    const { listener } = peer;
    const given = listener && this.locals.find((one) => isListener(one, peer, listener));
    const local = given ?? this.#localFor(peer.transport, peer.address);
    if (local !== undefined) return local;
    throw new GatewayError('SIP_TRANSPORT', {
      peer: peer.address,
      problem: `no ${peer.transport} listener for this address family`,
    });
  }

  #localFor(transport: PeerAddress['transport'], address: string): Local | undefined {
    const candidates: readonly Local[] = transport === 'udp' ? this.#udp : this.#streams;
    const isV6 = isIPv6(address);
    const isNear = isLoopback(address);
    let other: Local | undefined;
    for (const local of candidates) {
      if (local.transport !== transport || isIPv6(local.address) !== isV6) continue;
      if (isLoopback(local.address) === isNear) return local;
      other ??= local;
    }
    return other;
  }

  /** Whether requests to this address can be sent by `transport` at all. */
  hasLocal(transport: TransportName, address: string): boolean {
    return this.#localFor(transport, address) !== undefined;
  }

  /** Sends a request. `local` is the listener named in its Via. */
  send(text: string, peer: PeerAddress, local: Local, outcome: SendOutcome | null): void {
    if (!this.#allows(peer.address)) {
      this.#fail(outcome, 'the address is refused by policy');
    } else if (peer.transport === 'udp') {
      (local as UdpPort).socket.send(text, peer.port, peer.address);
    } else {
      const connection = this.#connections.to(peer, local);
      if (typeof connection === 'string') this.#fail(outcome, connection);
      else connection.send(text, outcome);
    }
  }

  /** Sends a response (RFC 3261 §18.2.2). */
  respond(text: string, path: ReturnPath): void {
    if (path.transport === 'udp') {
      (path.local as UdpPort).socket.send(text, path.port, path.address);
      return;
    }
    if (path.connection !== null && !path.connection.isClosed) {
      path.connection.send(text, null);
      return;
    }
    const { transport, address, sentByPort, local, serverName = '' } = path;
    if (!this.#allows(address)) return;
    const peer = { transport, address, port: sentByPort, serverName };
    const connection = this.#connections.to(peer, local);
    if (typeof connection !== 'string') connection.send(text, null);
  }

  /** RFC 3261 §18.2.2 with RFC 3581 §4; the address is always the true one. */
  returnPath(message: SipMessage, source: Source): ReturnPath {
    const { transport, address, local, connection } = source;
    const sentByPort = message.via.port ?? (isSecure(transport) ? 5061 : 5060);
    const symmetric = transport !== 'udp' || message.via.hasRport;
    const port = symmetric ? source.port : sentByPort;
    const path = { transport, address, port, local, connection, sentByPort };
    return transport === 'tls' ? { ...path, serverName: message.via.host } : path;
  }

  /** For the trace; only to be called while `isTraced`. */
  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void {
    this.#user.traceOut(text, peer, callId, isRepeated);
  }

  trustOf(peer: PeerAddress): TrustClass {
    return this.#trust.classOf(peer, this.#wheel.nowMs());
  }

  /** A request from there was let in: its sender is no stranger for a while. */
  proved(peer: PeerAddress): void {
    this.#gate.proved(peer, this.#wheel.nowMs());
  }

  challenged(peer: PeerAddress, nonce: string): void {
    this.#gate.challenged(peer, nonce);
  }

  /** Strangers and flows that are remembered. */
  get sourcesHeld(): number {
    return this.#gate.size + this.#trust.size;
  }

  #admits(text: string, source: Source): boolean {
    return this.#gate.admits(text, source, this.#wheel.nowMs());
  }

  #dropped(reason: DropReason): void {
    this.limitedCount += 1;
    this.#counters.limited.inc();
    this.#counters.dropped.inc({ reason });
  }

  /**
   * How many bytes an answer without a transaction may have. A datagram's source is whatever its
   * sender wrote there: of a stranger it may be the victim that our answer is meant to hit.
   */
  answerBytesMax(source: Source, requestBytes: number): number {
    const isProven = source.transport !== 'udp' || this.#trusts(source.address);
    return isProven ? Number.POSITIVE_INFINITY : AMPLIFICATION_MAX * requestBytes;
  }

  /** Egress policy. */
  allows(address: string): boolean {
    return this.#allows(address);
  }

  async close(): Promise<void> {
    const closing = [
      ...this.#udp.map(({ socket }) => socket.close()),
      ...this.#streams.map(({ listener }) => listener.close()),
    ];
    this.#connections.close();
    await Promise.all(closing);
    await this.#layers?.close();
  }

  #fail(outcome: SendOutcome | null, problem: string): void {
    if (outcome !== null) queueMicrotask(() => outcome.sendFailed(problem));
  }

  #datagram(text: string, address: string, port: number, local: Local): void {
    if (isKeepAlive(text)) return; // RFC 5626 §3.5.1 knows CRLF pings on streams only
    const source: Source = { transport: 'udp', address, port, local, connection: null };
    const pong = stunAnswer(text, address, port);
    if (pong !== null) {
      // Larger than what it answers: only who has proven to be there gets one.
      if (this.#isFlow(source)) (local as UdpPort).socket.send(pong, port, address);
      return;
    }
    if (!this.#admits(text, source)) return;
    this.#received(this.#parse(text, false), source, text.length);
  }

  #parse(text: string, stream: boolean): ParseResult {
    return parseMessage(text, { stream, limits: this.#limits });
  }

  #received(result: ParseResult, source: Source, bytes: number): void {
    if (!result.ok) {
      this.#malformed(result, source, bytes);
      return;
    }
    const { message } = result;
    if (message.isRequest) message.receivedFrom(source.address, source.port);
    if (this.#user.isTraced) this.#user.traceIn(message, source);
    if (message.isRequest) this.#user.request(message, source);
    else this.#user.response(message, source);
  }

  /** One answer, no state: the same bytes again get the same answer again. */
  #malformed(failed: ParseFailure, source: Source, bytes: number): void {
    if (failed.kind === 'keepalive') return;
    this.malformedCount += 1;
    this.#counters.malformed.inc();
    const problem = failed.error.message;
    this.#log.debug({ peer: redact(source.address, 7), problem }, 'malformed message');
    const { kind, reply } = failed;
    if (kind !== 'malformed' || reply === null || failed.isResponse || failed.isAck) return;
    const refusal = refusalOf(failed, this.#toTag);
    if (refusal === null) return;
    const { transport, address, local, connection } = source;
    const via = reply.vias[0] ?? '';
    const sentByPort = Number(VIA_PORT.exec(via)?.[1] ?? 5060);
    const isUsable = sentByPort > 0 && sentByPort < 65_536;
    const symmetric = transport !== 'udp' || /;\s*rport\b/i.test(via) || !isUsable;
    const port = symmetric ? source.port : sentByPort;
    const path = { transport, address, port, local, connection, sentByPort };
    const text = serializeResponse(refusal);
    if (text.length > this.answerBytesMax(source, bytes)) return;
    if (this.#user.isTraced) this.#user.traceOut(text, source, reply.callId, false);
    this.respond(text, path);
  }

  #framed(connection: Connection, item: FramerItem): void {
    if (item.kind === 'ping') {
      connection.pong();
      return;
    }
    const { transport, address, port, local, certificateNames } = connection;
    const isStream = transport === 'tcp' || transport === 'tls';
    const common: Source = { transport, address, port, local, connection };
    const source = isSecure(transport) ? { ...common, certificateNames } : common;
    const isAdmitted = this.#admits(item.kind === 'message' ? item.text : item.partial, source);
    if (item.kind === 'message') {
      if (!isAdmitted) return;
      const result = this.#parse(item.text, isStream);
      if (result.ok && transport === 'tls') this.#learn(connection, result.message);
      this.#received(result, source, item.text.length);
      return;
    }
    // Where the next message starts can no longer be known: answer if that is possible, and close.
    if (isAdmitted) this.#unframed(item, source, isStream);
    connection.end();
  }

  /** RFC 5923: what this TLS peer is reached by from now on. */
  #learn(connection: Connection, message: SipMessage): void {
    this.#connections.proven(connection);
    const hasProof = connection.isInbound && connection.certificateNames.length > 0;
    if (hasProof && message.isRequest && message.via.params.has('alias')) {
      this.#connections.alias(connection, message.via);
    }
  }

  #unframed(
    item: Extract<FramerItem, { kind: 'broken' }>,
    source: Source,
    isStream: boolean,
  ): void {
    const result = this.#parse(item.partial, isStream);
    if (result.ok) this.#refuseUnframed(result.message, source, item.error);
    else this.#malformed(result, source, item.partial.length);
  }

  /** A message that reads well by itself, and not with what came along with it. */
  #refuseUnframed(message: SipMessage, source: Source, error: GatewayError): void {
    this.malformedCount += 1;
    this.#counters.malformed.inc();
    const problem = error.message;
    this.#log.debug({ peer: redact(source.address, 7), problem }, 'malformed message');
    if (!message.isRequest || message.method === 'ACK') return;
    message.receivedFrom(source.address, source.port);
    const refusal = responseTo(message, error.row.sip, { toTag: this.#toTag });
    this.respond(serializeResponse(refusal), this.returnPath(message, source));
  }
}

/** Bytes sent to an unproven source, for each byte that came. */
const AMPLIFICATION_MAX = 2;

/** The port of a sent-by, in a Via that may be malformed elsewhere. */
const VIA_PORT = /^\s*SIP\s*\/\s*2\.0\s*\/\s*\S+\s+(?:\[[^\]]*\]|[^\s:;,]+)\s*:\s*(\d{1,5})\b/i;

function isListener(
  local: Local,
  { transport }: PeerAddress,
  { address, port }: NonNullable<PeerAddress['listener']>,
): boolean {
  return local.transport === transport && local.address === address && local.port === port;
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}

function isKeepAlive(text: string): boolean {
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charCodeAt(i);
    if (c !== 13 && c !== 10) return false;
  }
  return true;
}
