/**
 * SIP over WebSocket (RFC 7118 on RFC 6455): the HTTP upgrade on a connection that TCP or TLS has
 * opened, and the WebSocket as a stream socket whose every chunk is one message. The server's side
 * only: a WebSocket peer is reached by the connection that it opened, never called.
 *
 * A page in any browser can open a WebSocket to us in its user's name and network, so who opens
 * one is judged by Origin (RFC 6455 §10.2), and none is let in that is not listed. "The same host"
 * is no safe default: the attacker chooses the name that leads to us (DNS rebinding), and then
 * Origin and Host agree.
 */
import { isUtf8 } from 'node:buffer';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { GatewayError } from '../core/errors.ts';
import type { HandshakeFailure, StreamEvents, StreamSocket } from './sockets.ts';
import type { Handshake } from './upgrade.ts';

export interface WebSocketOptions {
  /** Origins of pages that may connect: `https://phone.example.com`. */
  readonly origins: readonly string[];
  /** Clients that name no Origin, as no browser does. */
  readonly allowWithoutOrigin: boolean;
  readonly messageBytesMax: number;
  readonly fragmentsMax: number;
  readonly handshakeBytesMax: number;
  readonly handshakeFieldsMax: number;
}

export const DEFAULT_WEBSOCKET: WebSocketOptions = {
  origins: [],
  allowWithoutOrigin: false,
  messageBytesMax: 65_536,
  fragmentsMax: 64,
  handshakeBytesMax: 8192,
  handshakeFieldsMax: 100,
};

/** RFC 7118 §4. */
const SUBPROTOCOL = 'sip';
/** Pieces of one frame that wait for its end: packets, not fragments. */
const CHUNKS_MAX = 1024;
const POLICY_VIOLATION = 1008;

interface Shaking {
  readonly handshake: Handshake;
  readonly below: Socket;
  readonly certificateNames: readonly string[];
}

export class WebSockets {
  readonly #options: WebSocketOptions;
  readonly #origins: ReadonlySet<string>;
  /** It never listens: connections are handed to it. */
  readonly #http: Server;
  readonly #server: WebSocketServer;
  readonly #shaking = new WeakMap<Duplex, Shaking>();

  /** Throws `CONFIG_BAD_VALUE` for what is no origin. */
  constructor(options: WebSocketOptions) {
    this.#options = options;
    this.#origins = new Set(options.origins.map(originOf));
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      // Compression keeps a window for each peer, and lets a small message become a large one.
      perMessageDeflate: false,
      maxPayload: options.messageBytesMax,
      maxFragments: options.fragmentsMax,
      maxBufferedChunks: CHUNKS_MAX,
      handleProtocols: () => SUBPROTOCOL,
    });
    this.#server.on('wsClientError', (error, socket) => {
      this.#refuse(socket, 400, 'upgrade', error.message);
    });
    this.#http = createServer({ maxHeaderSize: options.handshakeBytesMax });
    this.#http.maxHeadersCount = options.handshakeFieldsMax;
    this.#http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    this.#http.on('request', ({ socket }) => {
      this.#refuse(socket, 426, 'upgrade', 'no WebSocket was asked for');
    });
    this.#http.on('clientError', (error, socket) => {
      this.#refuse(socket, 400, 'upgrade', error.message);
    });
  }

  /** Answers an upgrade on `below`, a TCP or TLS connection of which nothing was read yet. */
  serve(below: Socket, handshake: Handshake, certificateNames: readonly string[] = []): void {
    this.#shaking.set(below, { handshake, below, certificateNames });
    this.#http.emit('connection', below);
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { origin, 'sec-websocket-protocol': offered = '' } = request.headers;
    const isWelcome =
      origin === undefined ? this.#options.allowWithoutOrigin : this.#isListed(origin);
    if (!isWelcome) {
      const shown = origin === undefined ? 'no Origin' : `Origin ${origin.slice(0, 100)}`;
      this.#refuse(socket, 403, 'origin', `${shown} is not allowed by sip.ws.origins`);
      return;
    }
    if (!offered.split(',').some((name) => name.trim().toLowerCase() === SUBPROTOCOL)) {
      this.#refuse(socket, 400, 'subprotocol', 'subprotocol sip is not offered');
      return;
    }
    // RFC 6455 §4.4. Its drafts name the origin elsewhere.
    if (request.headers['sec-websocket-version'] !== '13') {
      this.#refuse(socket, 426, 'upgrade', 'another WebSocket version');
      return;
    }
    const shaking = this.#shaking.get(socket);
    this.#server.handleUpgrade(request, socket, head, (webSocket) => {
      if (shaking === undefined) webSocket.terminate();
      else shaking.handshake.opened(new WebSocketStream({ webSocket, ...shaking }));
    });
  }

  #isListed(origin: string): boolean {
    return this.#origins.has(origin.toLowerCase());
  }

  /** Nothing is said of what would be let in: the log has it, and the metric. */
  #refuse(socket: Duplex, status: number, failure: HandshakeFailure, problem: string): void {
    this.#shaking.get(socket)?.handshake.failed(failure, problem);
    if (!socket.writable) {
      socket.destroy();
      return;
    }
    const fields = 'Connection: close\r\nContent-Length: 0\r\nSec-WebSocket-Version: 13\r\n\r\n';
    socket.end(`HTTP/1.1 ${status} ${REASONS[status]}\r\n${fields}`);
    // Closed when the peer has read it and closes too; the handshake's deadline does it else.
    socket.resume();
  }
}

const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  426: 'Upgrade Required',
};

class WebSocketStream implements StreamSocket {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
  readonly certificateNames: readonly string[];
  readonly #webSocket: WebSocket;

  constructor(options: {
    webSocket: WebSocket;
    below: Socket;
    certificateNames: readonly string[];
  }) {
    this.#webSocket = options.webSocket;
    this.certificateNames = options.certificateNames;
    const { remoteAddress, remotePort, localAddress, localPort } = options.below;
    this.remoteAddress = remoteAddress ?? '';
    this.remotePort = remotePort ?? 0;
    this.localAddress = localAddress ?? '';
    this.localPort = localPort ?? 0;
  }

  get queuedBytes(): number {
    return this.#webSocket.bufferedAmount;
  }

  listen(events: StreamEvents): void {
    let problem = '';
    this.#webSocket.on('message', (data) => events.data(data as Buffer));
    this.#webSocket.on('pong', () => events.alive?.());
    this.#webSocket.on('error', (error) => {
      problem = error.message;
    });
    this.#webSocket.on('close', () => events.closed(problem));
  }

  /** RFC 7118 §4.2: a text frame is UTF-8 (RFC 6455 §5.6); what is not goes in a binary one. */
  write(text: string): void {
    const bytes = Buffer.from(text, 'latin1');
    this.#webSocket.send(bytes, { binary: !isUtf8(bytes) });
  }

  end(): void {
    this.#webSocket.close(POLICY_VIOLATION);
  }

  destroy(): void {
    this.#webSocket.terminate();
  }

  ping(): void {
    this.#webSocket.ping();
  }
}

/** As browsers write it: scheme, host, and the port where it is not the scheme's own. */
function originOf(text: string): string {
  const url = URL.parse(text);
  const isOrigin = url !== null && /^https?:$/.test(url.protocol) && url.pathname === '/';
  if (isOrigin && url.search === '' && url.hash === '' && url.username === '') return url.origin;
  const problem = `"${text}" is no origin, as https://phone.example.com is`;
  throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.ws.origins', problem });
}
