/**
 * What SIP's stream transports put on top of TCP: nothing, TLS, WebSocket, or WebSocket on TLS
 * (RFC 3261 §18, §26.2; RFC 7118). One object for all listeners of an endpoint; the certificates
 * belong to it. Connections are counted and limited elsewhere, before they come here.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import { type CertificateOptions, Certificates, DEFAULT_CERTIFICATES } from './certificates.ts';
import { isSecure, type TransportName } from './peer.ts';
import type { StreamSocket } from './sockets.ts';
import { DEFAULT_TLS, secureStream, Tls, type TlsOptions } from './tls.ts';
import { type Handshake, UpgradedStream } from './upgrade.ts';
import { DEFAULT_WEBSOCKET, type WebSocketOptions, WebSockets } from './websocket.ts';

type Begin = (kernel: Socket, handshake: Handshake) => void;

export class StreamLayers {
  readonly #certificates: Certificates;
  readonly #tls: Tls;
  readonly #webSockets: WebSockets;

  /** Throws `CONFIG_BAD_VALUE`. */
  constructor(options: {
    clock: Clock;
    log: Log;
    certificates?: Partial<CertificateOptions>;
    tls?: Partial<TlsOptions>;
    webSocket?: Partial<WebSocketOptions>;
  }) {
    const { clock, log } = options;
    this.#certificates = new Certificates({
      clock,
      log,
      certificates: { ...DEFAULT_CERTIFICATES, ...options.certificates },
      changed: () => this.#tls.renew(),
    });
    const certificates = this.#certificates;
    this.#tls = new Tls({ tls: { ...DEFAULT_TLS, ...options.tls }, certificates });
    this.#webSockets = new WebSockets({ ...DEFAULT_WEBSOCKET, ...options.webSocket });
  }

  /** When the first of our certificates expires, wall clock; Infinity without any. */
  get certificateExpiresAtMs(): number {
    return this.#certificates.expiresAtMs;
  }

  /** Before the first listener of `transport`. Throws `CONFIG_BAD_VALUE`. */
  async start(transport: TransportName): Promise<void> {
    if (isSecure(transport)) await this.#tls.start();
  }

  /** Reads the certificates again, now; false when they were refused and the old ones stay. */
  reloadCertificates(): Promise<boolean> {
    return this.#certificates.reload();
  }

  /** The stream that SIP is spoken on, of a connection that was accepted. */
  accept(below: StreamSocket, transport: TransportName): StreamSocket {
    const webSocket: Begin = (kernel, handshake) => this.#webSockets.serve(kernel, handshake);
    const tls: Begin = (kernel, handshake) => {
      this.#tls.serve(kernel, secureStream(handshake, kernel));
    };
    const both: Begin = (kernel, handshake) => {
      this.#tls.serve(kernel, {
        secured: (socket, names) => this.#webSockets.serve(socket, handshake, names),
        failed: (failure, problem) => handshake.failed(failure, problem),
      });
    };
    if (transport === 'tls') return upgraded(below, tls);
    if (transport === 'ws') return upgraded(below, webSocket);
    if (transport === 'wss') return upgraded(below, both);
    return below;
  }

  /** The same of a connection that we open, to `serverName`. */
  dial(below: StreamSocket, serverName: string): StreamSocket {
    return upgraded(below, (kernel, handshake) => {
      this.#tls.dial(kernel, serverName, secureStream(handshake, kernel));
    });
  }

  close(): Promise<void> {
    return this.#certificates.close();
  }
}

/** A simulated network has no kernel below, and so nobody on it who could listen in. */
function upgraded(below: StreamSocket, begin: Begin): StreamSocket {
  const { kernel } = below;
  return kernel === undefined ? below : new UpgradedStream({ below, kernel, begin });
}
