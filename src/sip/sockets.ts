/**
 * UDP and TCP sockets behind small interfaces, so that the transport runs the same on the kernel
 * and on a simulated network. Only this file opens SIP sockets; TLS and WebSocket run on top of
 * them (`layers.ts`). It knows no SIP: datagrams and bytes pass through. All text is latin1, one
 * character per byte.
 *
 * A datagram is sent at once, to an address, never to a name. What the kernel refuses is lost like
 * any datagram, and the transaction's timers deal with it.
 */
import { createServer, isIPv6, connect as netConnect, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { openUdpSocket, type UdpSocket } from './udp-socket.ts';

export interface DatagramEvents {
  datagram(text: string, address: string, port: number): void;
  failed(problem: string): void;
}

export interface DatagramSocket {
  readonly address: string;
  readonly port: number;
  send(text: string, port: number, address: string): void;
  close(): Promise<void>;
}

export interface StreamEvents {
  opened(): void;
  data(chunk: Buffer): void;
  /** The peer answered `StreamSocket.ping`. */
  alive?(): void;
  /** Once, last. `problem` is '' when the peer closed in order. */
  closed(problem: string): void;
}

export interface StreamSocket {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
  /** Bytes accepted by `write` and not yet by the kernel. */
  readonly queuedBytes: number;
  listen(events: StreamEvents): void;
  write(text: string): void;
  /** Sends what is queued, then closes. */
  end(): void;
  destroy(): void;
  /** The kernel's own, for what runs on top of it; absent on a simulated network. */
  readonly kernel?: Socket;
  /** What the peer has proven to be (`Source.certificateNames`); of TLS only. */
  readonly certificateNames?: readonly string[];
  /** What the handshake failed for, known when `closed` is told. */
  readonly failure?: HandshakeFailure | null;
  /** Asks the peer for a sign of life, where the protocol below SIP has one. */
  ping?(): void;
}

/** Why a connection on top of TCP was not agreed on: a closed set, as it is a metric's label. */
export type HandshakeFailure =
  | 'certificate'
  | 'closed'
  | 'name'
  | 'origin'
  | 'protocol'
  | 'subprotocol'
  | 'timeout'
  | 'upgrade';

export interface StreamListener {
  readonly address: string;
  readonly port: number;
  /** Stops accepting; open connections are their owner's to close. */
  close(): Promise<void>;
}

export interface ConnectOptions {
  readonly address: string;
  readonly port: number;
  /** The address to connect from; the system's choice when absent. */
  readonly localAddress?: string;
}

export interface Sockets {
  datagram(address: string, port: number, events: DatagramEvents): Promise<DatagramSocket>;
  listen(
    address: string,
    port: number,
    accept: (socket: StreamSocket) => void,
  ): Promise<StreamListener>;
  connect(options: ConnectOptions): StreamSocket;
  /** An address of this host that others can reach it by: what a wildcard listener announces. */
  hostAddress(family: 4 | 6): string;
}

export interface SocketOptions {
  /** Kernel receive buffer of each UDP socket; 0 leaves the system's. */
  readonly receiveBufferBytes: number;
  /** Connections the kernel may hold before they are accepted. */
  readonly backlogMax: number;
  /** Told every address before anything is sent or opened; a test's witness. */
  readonly onEgress?: (address: string, port: number) => void;
}

const DEFAULT_SOCKETS: SocketOptions = {
  receiveBufferBytes: 4 * 1024 * 1024,
  backlogMax: 511,
};

class KernelDatagramSocket implements DatagramSocket {
  readonly address: string;
  readonly port: number;
  readonly #socket: UdpSocket;
  readonly #onEgress: ((address: string, port: number) => void) | undefined;

  constructor(options: { socket: UdpSocket; onEgress: SocketOptions['onEgress'] }) {
    this.#socket = options.socket;
    this.#onEgress = options.onEgress;
    this.address = options.socket.address;
    this.port = options.socket.port;
  }

  send(text: string, port: number, address: string): void {
    this.#onEgress?.(address, port);
    this.#socket.send(text, port, address);
  }

  async close(): Promise<void> {
    this.#socket.close();
  }
}

export class KernelStreamSocket implements StreamSocket {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly certificateNames: readonly string[];
  readonly #socket: Socket;

  /** `certificateNames` where the socket is TLS and its handshake is over. */
  constructor(options: {
    socket: Socket;
    address: string;
    port: number;
    certificateNames?: readonly string[];
  }) {
    this.#socket = options.socket;
    this.certificateNames = options.certificateNames ?? [];
    this.remoteAddress = options.address;
    this.remotePort = options.port;
    options.socket.setNoDelay(true);
  }

  get kernel(): Socket {
    return this.#socket;
  }

  get localAddress(): string {
    return plainAddress(this.#socket.localAddress ?? '');
  }

  get localPort(): number {
    return this.#socket.localPort ?? 0;
  }

  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  listen(events: StreamEvents): void {
    let problem = '';
    this.#socket.on('connect', () => events.opened());
    this.#socket.on('data', (chunk: Buffer) => events.data(chunk));
    this.#socket.on('error', (error) => {
      problem = error.message;
    });
    this.#socket.on('end', () => this.#socket.end());
    this.#socket.on('close', () => events.closed(problem));
  }

  write(text: string): void {
    if (!this.#socket.destroyed) this.#socket.write(text, 'latin1');
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** An IPv4 peer on a dual-stack socket, without the IPv6 wrapping. */
function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}

/** The kernel's sockets. */
export class KernelSockets implements Sockets {
  readonly #options: SocketOptions;

  constructor(options: Partial<SocketOptions> = {}) {
    this.#options = { ...DEFAULT_SOCKETS, ...options };
  }

  async datagram(address: string, port: number, events: DatagramEvents): Promise<DatagramSocket> {
    const socket = openUdpSocket(
      address,
      port,
      // A burst of calls must wait in the kernel while a long turn of the loop runs.
      this.#options.receiveBufferBytes,
      (text, from, fromPort) => events.datagram(text, from, fromPort),
      (problem) => events.failed(problem),
    );
    return new KernelDatagramSocket({ socket, onEgress: this.#options.onEgress });
  }

  listen(
    address: string,
    port: number,
    accept: (socket: StreamSocket) => void,
  ): Promise<StreamListener> {
    return new Promise((resolve, reject) => {
      const server = createServer({ allowHalfOpen: true }, (socket) => {
        const from = plainAddress(socket.remoteAddress ?? '');
        const stream = { socket, address: from, port: socket.remotePort ?? 0 };
        if (from === '')
          socket.destroy(); // gone before it was accepted
        else accept(new KernelStreamSocket(stream));
      });
      server.once('error', reject);
      const { backlogMax } = this.#options;
      const ipv6Only = isIPv6(address);
      server.listen({ host: address, port, backlog: backlogMax, exclusive: true, ipv6Only }, () => {
        server.removeListener('error', reject);
        server.on('error', () => {}); // an accept that failed (descriptors) is the peer's to retry
        resolve(listenerOf(server));
      });
    });
  }

  connect(options: ConnectOptions): StreamSocket {
    this.#options.onEgress?.(options.address, options.port);
    const { address, port, localAddress } = options;
    const from = localAddress === undefined ? {} : { localAddress };
    const socket = netConnect({ host: address, port, allowHalfOpen: true, ...from });
    return new KernelStreamSocket({ socket, address, port });
  }

  hostAddress(family: 4 | 6): string {
    for (const addresses of Object.values(networkInterfaces())) {
      for (const { address, family: kind, internal } of addresses ?? []) {
        if (!internal && kind === `IPv${family}` && !address.startsWith('fe80:')) return address;
      }
    }
    return family === 4 ? '127.0.0.1' : '::1';
  }
}

function listenerOf(server: Server): StreamListener {
  const bound = server.address();
  const where = bound !== null && typeof bound === 'object' ? bound : { address: '', port: 0 };
  return {
    address: where.address,
    port: where.port,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
