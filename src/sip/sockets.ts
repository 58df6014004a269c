/**
 * UDP and TCP sockets behind small interfaces, so that the transport runs the same on the kernel
 * and on a simulated network. Only this file opens SIP sockets. It knows no SIP: datagrams and
 * bytes pass through. All text is latin1, one character per byte.
 *
 * Sending a datagram takes no callback and no name lookup: the destination is always an address.
 * What the kernel refuses is lost like any datagram, and the transaction's timers deal with it.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createServer, isIPv6, connect as netConnect, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';

export interface DatagramEvents {
  datagram(data: Buffer, address: string, port: number): void;
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
}

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

type LookupCallback = (error: Error | null, address: string, family: number) => void;

/** Destinations are addresses already, so `dgram` must not take its turn in the resolver queue. */
function noLookup(address: string, _options: unknown, done: LookupCallback): void {
  done(null, address, isIPv6(address) ? 6 : 4);
}

class KernelDatagramSocket implements DatagramSocket {
  readonly address: string;
  readonly port: number;
  readonly #socket: UdpSocket;
  readonly #onEgress: ((address: string, port: number) => void) | undefined;
  #closed = false;

  constructor(options: { socket: UdpSocket; onEgress: SocketOptions['onEgress'] }) {
    this.#socket = options.socket;
    this.#onEgress = options.onEgress;
    const bound = options.socket.address();
    this.address = bound.address;
    this.port = bound.port;
  }

  send(text: string, port: number, address: string): void {
    if (this.#closed) return;
    this.#onEgress?.(address, port);
    this.#socket.send(Buffer.from(text, 'latin1'), port, address);
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    return new Promise((resolve) => this.#socket.close(() => resolve()));
  }
}

class KernelStreamSocket implements StreamSocket {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly #socket: Socket;

  constructor(options: { socket: Socket; address: string; port: number }) {
    this.#socket = options.socket;
    this.remoteAddress = options.address;
    this.remotePort = options.port;
    options.socket.setNoDelay(true);
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

  datagram(address: string, port: number, events: DatagramEvents): Promise<DatagramSocket> {
    const { receiveBufferBytes, onEgress } = this.#options;
    return new Promise((resolve, reject) => {
      const ipv6 = isIPv6(address);
      const socket = createSocket({
        type: ipv6 ? 'udp6' : 'udp4',
        ipv6Only: ipv6,
        lookup: noLookup,
      });
      socket.once('error', reject);
      socket.bind({ address, port, exclusive: true }, () => {
        socket.removeListener('error', reject);
        socket.on('error', (error) => events.failed(error.message));
        socket.on('message', (data: Buffer, from: RemoteInfo) => {
          events.datagram(data, from.address, from.port);
        });
        // A burst of calls must wait in the kernel while a long turn of the loop runs.
        if (receiveBufferBytes > 0) socket.setRecvBufferSize(receiveBufferBytes);
        resolve(new KernelDatagramSocket({ socket, onEgress }));
      });
    });
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
