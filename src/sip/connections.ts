/**
 * The stream connections of one endpoint: who may open one, which one leads to a peer, and how many
 * there are. What comes over them goes to the transport; nothing of SIP is read here but a Via.
 *
 * A connection is found by transport, address and port of its far end. What the peer says of itself
 * leads to a connection only where its certificate proves it (RFC 5923 §4): anybody could claim to
 * be reached where somebody else is.
 */
import { isIP } from 'node:net';
import { type Log, redact } from '../core/log.ts';
import { Connection, type ConnectionOptions, type ConnectionOwner } from './connection.ts';
import { FrameFramer, type FramerItem, StreamFramer } from './framing.ts';
import type { StreamLayers } from './layers.ts';
import type { SipLimits } from './limits.ts';
import type { Local, PeerAddress, TransportName } from './peer.ts';
import type { HandshakeFailure, Sockets, StreamSocket } from './sockets.ts';
import { SourceLimit, sourceKey } from './source-limit.ts';
import type { Wheel } from './wheel.ts';

export interface ConnectionsOptions {
  readonly connection: ConnectionOptions;
  readonly connectionsMax: number;
  /** So many more may be open, for sources that are trusted: strangers cannot lock a trunk out. */
  readonly trustedConnectionsReserve: number;
  readonly connectionsPerSourceMax: number;
  readonly connectionsPerSecondMax: number;
  /** TLS and WebSocket handshakes of one source that may fail; then it is not let in. */
  readonly failedHandshakesPerMinuteMax: number;
  readonly strangersSourcesMax: number;
}

/** TLS peers whose name is remembered beside their address. */
const PEER_NAMES_MAX = 1024;

export class Connections implements ConnectionOwner {
  readonly #options: ConnectionsOptions;
  readonly #sockets: Sockets;
  readonly #layers: StreamLayers | null;
  readonly #wheel: Wheel;
  readonly #log: Log;
  readonly #limits: SipLimits;
  readonly #trusts: (address: string) => boolean;
  readonly #onItem: (connection: Connection, item: FramerItem) => void;
  readonly #onFailure: (failure: HandshakeFailure) => void;
  readonly #all = new Set<Connection>();
  readonly #byPeer = new Map<string, Connection>();
  /** Further keys of a connection, to be taken back with it. */
  readonly #keys = new Map<Connection, string[]>();
  readonly #perSource = new Map<string, number>();
  readonly #newcomers: SourceLimit;
  readonly #failures: SourceLimit;
  /** The name that a TLS peer at an address has proven, for when only its address is known. */
  readonly #peerNames = new Map<string, string>();
  refusedCount = 0;

  constructor(options: {
    options: ConnectionsOptions;
    sockets: Sockets;
    layers: StreamLayers | null;
    wheel: Wheel;
    log: Log;
    limits: SipLimits;
    trusts: (address: string) => boolean;
    onItem: (connection: Connection, item: FramerItem) => void;
    onFailure: (failure: HandshakeFailure) => void;
  }) {
    this.#options = options.options;
    this.#sockets = options.sockets;
    this.#layers = options.layers;
    this.#wheel = options.wheel;
    this.#log = options.log;
    this.#limits = options.limits;
    this.#trusts = options.trusts;
    this.#onItem = options.onItem;
    this.#onFailure = options.onFailure;
    const { connectionsPerSecondMax, failedHandshakesPerMinuteMax } = options.options;
    const { strangersSourcesMax: sourcesMax } = options.options;
    this.#newcomers = new SourceLimit({
      perSecond: connectionsPerSecondMax,
      burst: connectionsPerSecondMax,
      sourcesMax,
    });
    this.#failures = new SourceLimit({
      perSecond: failedHandshakesPerMinuteMax / 60,
      burst: failedHandshakesPerMinuteMax,
      sourcesMax,
    });
  }

  get count(): number {
    return this.#all.size;
  }

  countOf(transport: TransportName): number {
    let count = 0;
    for (const connection of this.#all) if (connection.transport === transport) count += 1;
    return count;
  }

  /** Takes a connection, or refuses it: at once, before any handshake costs anything. */
  accept(socket: StreamSocket, local: Local): void {
    const isTrusted = this.#trusts(socket.remoteAddress);
    if (!this.#isWelcome(socket.remoteAddress, isTrusted)) {
      this.refusedCount += 1;
      socket.listen(DISCARD);
      socket.destroy();
      return;
    }
    const stream = this.#layers?.accept(socket, local.transport) ?? socket;
    this.#adopt(stream, local, { isInbound: true, isTrusted });
  }

  /** The connection that leads to `peer`, opened if there is none; else what speaks against it. */
  to(peer: PeerAddress, local: Local): Connection | string {
    const known = this.find(peer);
    if (known !== undefined) return known;
    const { transport, address, port } = peer;
    if (transport !== 'tcp' && transport !== 'tls') {
      return 'its WebSocket is closed, and only the peer can open one';
    }
    const { connectionsMax, trustedConnectionsReserve } = this.#options;
    if (this.#all.size >= connectionsMax + trustedConnectionsReserve) {
      return 'too many connections (sip.connectionsMax)';
    }
    const isWildcard = local.address === '0.0.0.0' || local.address === '::';
    const socket = this.#sockets.connect({
      address,
      port,
      ...(isWildcard ? {} : { localAddress: local.address }),
    });
    const how = { isInbound: false, isTrusted: false };
    if (transport === 'tcp') return this.#adopt(socket, local, how);
    const serverName = this.#nameOf(peer);
    const stream = this.#layers?.dial(socket, serverName) ?? socket;
    return this.#adopt(stream, local, { ...how, serverName });
  }

  /** An open connection to `peer`; of TLS one whose other end may speak for the name asked for. */
  find(peer: PeerAddress): Connection | undefined {
    const { transport, address, port, serverName = '' } = peer;
    const plain = `${transport}|${address}|${port}`;
    if (transport !== 'tls' || serverName === '') return this.#byPeer.get(plain);
    const name = serverName.toLowerCase();
    const named = this.#byPeer.get(`${plain}|${name}`);
    if (named !== undefined) return named;
    // An address in a URI says no more than where to go: what is there is what was meant.
    const there = this.#byPeer.get(plain);
    const isMeant = isIP(name) !== 0 || there?.certificateNames.includes(name);
    return isMeant ? there : undefined;
  }

  /**
   * RFC 5923 §8.2: requests to where the peer says it listens may go over this connection, if the
   * peer asks for that and its certificate has the name that it gives itself.
   */
  alias(connection: Connection, sentBy: { host: string; port: number | undefined }): void {
    const { host, port = 5061 } = sentBy;
    const name = host.toLowerCase();
    if (!connection.isInbound || !connection.certificateNames.includes(name)) return;
    this.#name(connection, `tls|${connection.address}|${port}|${name}`);
  }

  close(): void {
    for (const connection of [...this.#all]) connection.close('closing down');
  }

  /** A connection's report; not for others. */
  framed(connection: Connection, item: FramerItem): void {
    this.#onItem(connection, item);
  }

  /** A connection's report; not for others. */
  closed(connection: Connection): void {
    this.#all.delete(connection);
    for (const key of this.#keys.get(connection) ?? []) {
      if (this.#byPeer.get(key) === connection) this.#byPeer.delete(key);
    }
    this.#keys.delete(connection);
    if (connection.failure !== null) this.#failed(connection, connection.failure);
    if (!connection.isInbound) return;
    const source = sourceKey(connection.address);
    const left = (this.#perSource.get(source) ?? 1) - 1;
    if (left > 0) this.#perSource.set(source, left);
    else this.#perSource.delete(source);
  }

  /** A message came over it: its handshake is over, and what it has proven can be kept. */
  proven(connection: Connection): void {
    const { serverName, address, isInbound } = connection;
    if (isInbound || serverName === '' || isIP(serverName) !== 0) return;
    this.#peerNames.delete(address);
    this.#peerNames.set(address, serverName);
    if (this.#peerNames.size <= PEER_NAMES_MAX) return;
    const oldest = this.#peerNames.keys().next().value;
    if (oldest !== undefined) this.#peerNames.delete(oldest);
  }

  #isWelcome(from: string, isTrusted: boolean): boolean {
    const { connectionsMax, connectionsPerSourceMax, trustedConnectionsReserve } = this.#options;
    if (isTrusted) return this.#all.size < connectionsMax + trustedConnectionsReserve;
    const nowMs = this.#wheel.nowMs();
    return (
      this.#all.size < connectionsMax &&
      (this.#perSource.get(sourceKey(from)) ?? 0) < connectionsPerSourceMax &&
      !this.#failures.isSpent(from, nowMs) &&
      this.#newcomers.take(from, nowMs)
    );
  }

  /**
   * Whom a TLS peer has to be. A Contact names its host by address more often than not: then it has
   * to be who proved to be there before, as no certificate has that address.
   */
  #nameOf({ address, serverName = '' }: PeerAddress): string {
    const isName = serverName !== '' && isIP(serverName) === 0;
    return isName ? serverName.toLowerCase() : (this.#peerNames.get(address) ?? address);
  }

  #adopt(
    socket: StreamSocket,
    local: Local,
    how: { isInbound: boolean; isTrusted: boolean; serverName?: string },
  ): Connection {
    const { transport } = local;
    const isFramed = transport === 'ws' || transport === 'wss';
    const limits = this.#limits;
    const connection = new Connection({
      socket,
      local,
      ...how,
      owner: this,
      framer: isFramed ? new FrameFramer({ limits }) : new StreamFramer({ limits }),
      wheel: this.#wheel,
      limits: this.#options.connection,
    });
    this.#all.add(connection);
    const key = `${transport}|${connection.address}|${connection.port}`;
    // Of two that we opened to one place, for two names, the first is the one its dialogs know.
    if (how.isInbound || !this.#byPeer.has(key)) this.#name(connection, key);
    if (connection.serverName !== '') this.#name(connection, `${key}|${connection.serverName}`);
    if (how.isInbound) {
      const source = sourceKey(connection.address);
      this.#perSource.set(source, (this.#perSource.get(source) ?? 0) + 1);
    }
    return connection;
  }

  #name(connection: Connection, key: string): void {
    const keys = this.#keys.get(connection) ?? [];
    if (keys.length >= KEYS_MAX || this.#byPeer.get(key) === connection) return;
    this.#byPeer.set(key, connection);
    keys.push(key);
    this.#keys.set(connection, keys);
  }

  #failed(connection: Connection, failure: HandshakeFailure): void {
    const { transport, address, isInbound, serverName, problem } = connection;
    this.#onFailure(failure);
    const fields = { peer: redact(address, 7), transport, failure, problem };
    if (!isInbound) this.#log.warn({ ...fields, serverName }, 'no secure connection');
    else this.#log.debug(fields, 'handshake failed');
    if (isInbound && !this.#trusts(address)) this.#failures.take(address, this.#wheel.nowMs());
  }
}

/** Names that one connection may have here: its own two, and one that its peer gives itself. */
const KEYS_MAX = 3;

const DISCARD = { opened: () => {}, data: () => {}, closed: () => {} };
