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
import { Connection, type ConnectionOptions, DEFAULT_CONNECTION } from './connection.ts';
import { type FramerItem, StreamFramer } from './framing.ts';
import type { SipLimits } from './limits.ts';
import { type SipMessage, serializeResponse } from './message.ts';
import { type ParseFailure, type ParseResult, parseMessage } from './parser.ts';
import type { ListenSpec, Local, PeerAddress, ReturnPath, SendOutcome, Source } from './peer.ts';
import { refusalOf } from './refusal.ts';
import type { DatagramSocket, Sockets, StreamListener, StreamSocket } from './sockets.ts';
import { SourceLimit } from './source-limit.ts';
import type { Wheel } from './wheel.ts';

export type { ListenSpec, PeerAddress, TraceMessage } from './peer.ts';

export interface TransportUser {
  request(message: SipMessage, source: Source): void;
  response(message: SipMessage, source: Source): void;
  /** Whether anybody looks at the trace: nothing is made for it otherwise. */
  readonly isTraced: boolean;
  traceIn(message: SipMessage, source: Source): void;
  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void;
}

export interface TransportOptions {
  readonly connection: ConnectionOptions;
  readonly connectionsMax: number;
  /** So many more may be open, for sources that are trusted: strangers cannot lock a trunk out. */
  readonly trustedConnectionsReserve: number;
  readonly connectionsPerSourceMax: number;
  readonly connectionsPerSecondMax: number;
  /** Requests of strangers that may be answered, per source. */
  readonly strangersPerSecond: number;
  readonly strangersBurst: number;
  readonly strangersSourcesMax: number;
  /** Larger requests go by TCP when the peer's URI leaves the choice (RFC 3261 §18.1.1). */
  readonly datagramBytesMax: number;
}

export const DEFAULT_TRANSPORT: TransportOptions = {
  connection: DEFAULT_CONNECTION,
  connectionsMax: 10_000,
  trustedConnectionsReserve: 1000,
  connectionsPerSourceMax: 100,
  connectionsPerSecondMax: 20,
  strangersPerSecond: 50,
  strangersBurst: 100,
  strangersSourcesMax: 16_384,
  datagramBytesMax: 1300,
};

export interface TransportCounters {
  readonly malformed: { inc(): void };
  readonly limited: { inc(): void };
}

interface UdpPort extends Local {
  socket: DatagramSocket;
}

export class Transport {
  readonly options: TransportOptions;
  readonly #sockets: Sockets;
  readonly #wheel: Wheel;
  readonly #log: Log;
  readonly #limits: SipLimits | undefined;
  readonly #user: TransportUser;
  readonly #counters: TransportCounters;
  readonly #toTag: string;
  readonly #allows: (address: string) => boolean;
  readonly #trusts: (address: string) => boolean;
  readonly #udp: UdpPort[] = [];
  readonly #tcp: (Local & { listener: StreamListener })[] = [];
  readonly #connections = new Map<string, Connection>();
  readonly #perSource = new Map<string, number>();
  readonly #strangers: SourceLimit;
  readonly #newcomers: SourceLimit;
  malformedCount = 0;
  limitedCount = 0;
  refusedConnectionCount = 0;

  constructor(options: {
    sockets: Sockets;
    wheel: Wheel;
    log: Log;
    user: TransportUser;
    /** The To tag of answers that leave no state behind. */
    toTag: string;
    /** Egress policy. */
    allows: (address: string) => boolean;
    /** Known peers: no rate limits, and places that are kept for them. */
    trusts: (address: string) => boolean;
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
    this.#limits = options.limits;
    const { strangersPerSecond, strangersBurst, strangersSourcesMax } = options.transport;
    const { connectionsPerSecondMax } = options.transport;
    this.#strangers = new SourceLimit({
      perSecond: strangersPerSecond,
      burst: strangersBurst,
      sourcesMax: strangersSourcesMax,
    });
    this.#newcomers = new SourceLimit({
      perSecond: connectionsPerSecondMax,
      burst: connectionsPerSecondMax,
      sourcesMax: strangersSourcesMax,
    });
  }

  get isTraced(): boolean {
    return this.#user.isTraced;
  }

  get locals(): readonly Local[] {
    return [...this.#udp, ...this.#tcp];
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Throws `LISTEN_FAILED`. */
  async listen(spec: ListenSpec): Promise<Local> {
    const { address, port } = spec;
    try {
      if (spec.transport === 'udp') {
        const entry: Partial<UdpPort> = {};
        const socket = await this.#sockets.datagram(address, port, {
          datagram: (data, from, fromPort) => this.#datagram(data, from, fromPort, entry as Local),
          failed: (problem) => this.#log.warn({ problem }, 'UDP socket error'),
        });
        const local = Object.assign(entry, this.#describe(spec, socket.port), { socket });
        this.#udp.push(local);
        return local;
      }
      const entry: Partial<Local> = {};
      const listener = await this.#sockets.listen(address, port, (socket) => {
        this.#accept(socket, entry as Local);
      });
      const local = Object.assign(entry, this.#describe(spec, listener.port), { listener });
      this.#tcp.push(local);
      return local;
    } catch (thrown) {
      throw new GatewayError('LISTEN_FAILED', {
        address: `${spec.transport}://${isIPv6(address) ? `[${address}]` : address}:${port}`,
        key: 'sip.listen',
        problem: asGatewayError(thrown).message,
      });
    }
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
    const local = this.#localFor(peer.transport, peer.address);
    if (local !== undefined) return local;
    throw new GatewayError('SIP_TRANSPORT', {
      peer: peer.address,
      problem: `no ${peer.transport} listener for this address family`,
    });
  }

  #localFor(transport: PeerAddress['transport'], address: string): Local | undefined {
    const candidates: readonly Local[] =
      transport === 'udp' ? this.#udp : transport === 'tcp' ? this.#tcp : [];
    const isV6 = isIPv6(address);
    const isNear = isLoopback(address);
    let other: Local | undefined;
    for (const local of candidates) {
      if (isIPv6(local.address) !== isV6) continue;
      if (isLoopback(local.address) === isNear) return local;
      other ??= local;
    }
    return other;
  }

  /** Whether requests to this address can be sent by `transport` at all. */
  hasLocal(transport: 'udp' | 'tcp', address: string): boolean {
    return this.#localFor(transport, address) !== undefined;
  }

  /** Sends a request. `local` is the listener named in its Via. */
  send(text: string, peer: PeerAddress, local: Local, outcome: SendOutcome | null): void {
    if (!this.#allows(peer.address)) {
      this.#fail(outcome, 'the address is refused by policy');
    } else if (peer.transport === 'udp') {
      (local as UdpPort).socket.send(text, peer.port, peer.address);
    } else if (peer.transport === 'tcp') {
      this.#connectionTo(peer, local).send(text, outcome);
    } else {
      this.#fail(outcome, `transport ${peer.transport} is not available`);
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
    const { transport, address, sentByPort, local } = path;
    if (!this.#allows(address)) return;
    this.#connectionTo({ transport, address, port: sentByPort }, local).send(text, null);
  }

  /** RFC 3261 §18.2.2 with RFC 3581 §4; the address is always the true one. */
  returnPath(message: SipMessage, source: Source): ReturnPath {
    const { transport, address, local, connection } = source;
    const sentByPort = message.via.port ?? 5060;
    const symmetric = transport !== 'udp' || message.via.hasRport;
    const port = symmetric ? source.port : sentByPort;
    return { transport, address, port, local, connection, sentByPort };
  }

  /** For the trace; only to be called while `isTraced`. */
  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void {
    this.#user.traceOut(text, peer, callId, isRepeated);
  }

  /** Whether a stranger at `address` may be answered now; known peers always. */
  mayAnswer(address: string): boolean {
    if (this.#trusts(address)) return true;
    if (this.#strangers.take(address, this.#wheel.nowMs())) return true;
    this.limitedCount += 1;
    this.#counters.limited.inc();
    return false;
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
      ...this.#tcp.map(({ listener }) => listener.close()),
    ];
    for (const connection of [...this.#connections.values()]) connection.close('closing down');
    await Promise.all(closing);
  }

  #fail(outcome: SendOutcome | null, problem: string): void {
    if (outcome !== null) queueMicrotask(() => outcome.sendFailed(problem));
  }

  #datagram(data: Buffer, address: string, port: number, local: Local): void {
    if (isKeepAlive(data)) return; // RFC 5626 §3.5.1 knows CRLF pings on streams only
    const source: Source = { transport: 'udp', address, port, local, connection: null };
    this.#received(parseMessage(data, this.#parseOptions(false)), source, data.length);
  }

  #parseOptions(stream: boolean): { stream: boolean; limits?: SipLimits } {
    return this.#limits === undefined ? { stream } : { stream, limits: this.#limits };
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
    if (!this.mayAnswer(source.address)) return;
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

  #accept(socket: StreamSocket, local: Local): void {
    const { connectionsMax, connectionsPerSourceMax, trustedConnectionsReserve } = this.options;
    const from = socket.remoteAddress;
    const isTrusted = this.#trusts(from);
    const isWelcome = isTrusted
      ? this.#connections.size < connectionsMax + trustedConnectionsReserve
      : this.#connections.size < connectionsMax &&
        (this.#perSource.get(from) ?? 0) < connectionsPerSourceMax &&
        this.#newcomers.take(from, this.#wheel.nowMs());
    if (!isWelcome) {
      this.refusedConnectionCount += 1;
      socket.listen(DISCARD);
      socket.destroy();
      return;
    }
    this.#adopt(socket, local, { isInbound: true, isTrusted });
  }

  #connectionTo(peer: PeerAddress, local: Local): Connection {
    const known = this.#connections.get(`${peer.address}|${peer.port}`);
    if (known !== undefined) return known;
    const isWildcard = local.address === '0.0.0.0' || local.address === '::';
    const socket = this.#sockets.connect({
      address: peer.address,
      port: peer.port,
      ...(isWildcard ? {} : { localAddress: local.address }),
    });
    return this.#adopt(socket, local, { isInbound: false, isTrusted: false });
  }

  #adopt(
    socket: StreamSocket,
    local: Local,
    how: { isInbound: boolean; isTrusted: boolean },
  ): Connection {
    const connection = new Connection({
      socket,
      local,
      ...how,
      owner: this,
      framer: new StreamFramer(this.#limits === undefined ? {} : { limits: this.#limits }),
      wheel: this.#wheel,
      limits: this.options.connection,
    });
    this.#connections.set(`${connection.address}|${connection.port}`, connection);
    if (how.isInbound) {
      this.#perSource.set(connection.address, (this.#perSource.get(connection.address) ?? 0) + 1);
    }
    return connection;
  }

  /** A connection's report; not for others. */
  framed(connection: Connection, item: FramerItem): void {
    if (item.kind === 'ping') {
      connection.pong();
      return;
    }
    const { address, port, local } = connection;
    const source: Source = { transport: 'tcp', address, port, local, connection };
    if (item.kind === 'message') {
      this.#received(parseMessage(item.data, this.#parseOptions(true)), source, item.data.length);
      return;
    }
    // Where the next message starts can no longer be known: answer if that is possible, and close.
    const result = parseMessage(item.partial, this.#parseOptions(true));
    const failed = result.ok ? { ...NO_REPLY, error: item.error } : result;
    this.#malformed(failed, source, item.partial.length);
    connection.end();
  }

  /** A connection's report; not for others. */
  closed(connection: Connection): void {
    const key = `${connection.address}|${connection.port}`;
    if (this.#connections.get(key) === connection) this.#connections.delete(key);
    if (!connection.isInbound) return;
    const left = (this.#perSource.get(connection.address) ?? 1) - 1;
    if (left > 0) this.#perSource.set(connection.address, left);
    else this.#perSource.delete(connection.address);
  }
}

/** Bytes sent to an unproven source, for each byte that came. */
const AMPLIFICATION_MAX = 2;

/** The port of a sent-by, in a Via that may be malformed elsewhere. */
const VIA_PORT = /^\s*SIP\s*\/\s*2\.0\s*\/\s*\S+\s+(?:\[[^\]]*\]|[^\s:;,]+)\s*:\s*(\d{1,5})\b/i;

const NO_REPLY = {
  ok: false,
  kind: 'malformed',
  reply: null,
  isResponse: false,
  isAck: false,
} as const;

const DISCARD = { opened: () => {}, data: () => {}, closed: () => {} };

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}

function isKeepAlive(data: Buffer): boolean {
  for (let i = 0; i < data.length; i += 1) {
    if (data[i] !== 13 && data[i] !== 10) return i === 4 && data.length < 4;
  }
  return true;
}
