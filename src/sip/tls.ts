/**
 * SIP over TLS (RFC 3261 §26.2, RFC 5246, RFC 8446): handshakes on connections that TCP has opened,
 * both ways, and what the peer has proven by them. Which certificate is ours is `certificates.ts`;
 * what its names mean is `certificate-names.ts`.
 *
 * The limits on a source are asked before a connection comes here: refusing costs no crypto.
 */
import { X509Certificate } from 'node:crypto';
import { isIP, type Socket } from 'node:net';
import { connect, createServer, type Server, type TLSSocket } from 'node:tls';
import { GatewayError } from '../core/errors.ts';
import { domainsOf, namesHost } from './certificate-names.ts';
import type { Certificates } from './certificates.ts';
import { type HandshakeFailure, KernelStreamSocket } from './sockets.ts';
import type { Handshake } from './upgrade.ts';

export interface TlsOptions {
  /** Whether who connects is asked for a certificate, and let in without a good one. */
  readonly clientCertificate: 'off' | 'request' | 'require';
  /** Where we connect to: a good certificate for the host of the URI, or no connection. */
  readonly verifyPeers: boolean;
  /** DEVIATES: RFC 5922 §7.2 matches no wildcards; some carriers have no other certificate. */
  readonly wildcardNames: boolean;
}

export const DEFAULT_TLS: TlsOptions = {
  clientCertificate: 'off',
  verifyPeers: true,
  wildcardNames: false,
};

/** A handshake that is over, before anything is read. */
export interface SecureHandshake {
  secured(socket: TLSSocket, certificateNames: readonly string[]): void;
  failed(failure: HandshakeFailure, problem: string): void;
}

export class Tls {
  readonly #options: TlsOptions;
  readonly #certificates: Certificates;
  /** It never listens: connections are handed to it. Made at the first, when there is a context. */
  #server: Server | null = null;
  readonly #shaking = new Map<string, SecureHandshake>();

  constructor(options: { tls: TlsOptions; certificates: Certificates }) {
    this.#options = options.tls;
    this.#certificates = options.certificates;
  }

  /** Throws `CONFIG_BAD_VALUE` without a certificate, or with a bad one. */
  async start(): Promise<void> {
    await this.#certificates.start();
    if (this.#certificates.server === null) {
      const problem =
        'must name a certificate, as sip.listen has tls:// or wss://; or sip.tls.directory a folder of them';
      throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.tls.certFile', problem });
    }
    this.#server ??= this.#createServer();
  }

  /** Handshakes from now on are made with what the certificates are now. */
  renew(): void {
    const { server } = this.#certificates;
    if (server !== null) this.#server?.setSecureContext(server);
  }

  /** Answers a handshake. */
  serve(kernel: Socket, handshake: SecureHandshake): void {
    const key = keyOf(kernel);
    this.#shaking.set(key, handshake);
    kernel.once('close', () => {
      if (this.#shaking.get(key) === handshake) this.#shaking.delete(key);
    });
    this.#server?.emit('connection', kernel);
  }

  /** Begins one, as soon as `kernel` is connected; `serverName` is whom the peer has to be. */
  dial(kernel: Socket, serverName: string, handshake: SecureHandshake): void {
    const { verifyPeers, wildcardNames } = this.#options;
    const { client } = this.#certificates;
    if (client === null) {
      handshake.failed('certificate', 'TLS has no certificates');
      kernel.destroy();
      return;
    }
    let misnamed = '';
    const socket = connect({
      socket: kernel,
      secureContext: client,
      // RFC 6066 §3: an address is no server name.
      ...(isIP(serverName) === 0 && serverName !== '' ? { servername: serverName } : {}),
      rejectUnauthorized: verifyPeers,
      checkServerIdentity: (_, { raw }) => {
        if (!verifyPeers) return undefined;
        const certificate = new X509Certificate(raw);
        if (namesHost(certificate, serverName, wildcardNames)) return undefined;
        misnamed = `its certificate is not ${serverName}'s but ${holderOf(certificate)}'s`;
        return new GatewayError('SIP_TRANSPORT', { peer: serverName, problem: misnamed });
      },
    });
    socket.once('secureConnect', () => handshake.secured(socket, provenNames(socket)));
    socket.once('error', (error: Error & { code?: string }) => {
      if (misnamed !== '') handshake.failed('name', misnamed);
      else handshake.failed(failureOf(error, socket), error.message);
    });
  }

  #createServer(): Server {
    const { clientCertificate } = this.#options;
    const server = createServer({
      ...this.#certificates.server,
      requestCert: clientCertificate !== 'off',
      rejectUnauthorized: clientCertificate === 'require',
      SNICallback: (name, done) => done(null, this.#certificates.forName(name)),
      // Our own deadline, on the clock that tests can hold, comes long before this one.
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    });
    server.on('secureConnection', (socket) => {
      const handshake = this.#take(socket);
      if (handshake === undefined) socket.destroy();
      else handshake.secured(socket, provenNames(socket));
    });
    server.on('tlsClientError', (error, socket) => {
      this.#take(socket)?.failed(failureOf(error, socket), problemOf(error, socket));
    });
    return server;
  }

  #take(socket: TLSSocket): SecureHandshake | undefined {
    const key = keyOf(socket);
    const handshake = this.#shaking.get(key);
    this.#shaking.delete(key);
    return handshake;
  }
}

const HANDSHAKE_TIMEOUT_MS = 120_000;

/** TLS as what SIP is spoken on. */
export function secureStream(handshake: Handshake, kernel: Socket): SecureHandshake {
  const address = kernel.remoteAddress ?? '';
  const port = kernel.remotePort ?? 0;
  return {
    secured: (socket, certificateNames) => {
      handshake.opened(new KernelStreamSocket({ socket, address, port, certificateNames }));
    },
    failed: (failure, problem) => handshake.failed(failure, problem),
  };
}

/** No two connections that are open have the same four. */
function keyOf(socket: Socket): string {
  const { remoteAddress, remotePort, localAddress, localPort } = socket;
  return `${remoteAddress}|${remotePort}|${localAddress}|${localPort}`;
}

/** None of a certificate that nobody we trust has signed. */
function provenNames(socket: TLSSocket): readonly string[] {
  if (!socket.authorized) return [];
  const { raw } = socket.getPeerCertificate() as { raw?: Buffer };
  return raw === undefined ? [] : domainsOf(new X509Certificate(raw));
}

function holderOf(certificate: X509Certificate): string {
  return domainsOf(certificate).slice(0, 4).join(', ') || 'nobody';
}

function failureOf(error: Error & { code?: string }, socket: TLSSocket): HandshakeFailure {
  const { code = '' } = error;
  if (socket.authorizationError) return 'certificate';
  if (/^E(CONN|PIPE|TIMEDOUT|HOST|NET)/.test(code)) return 'closed';
  return /CERT|ISSUER|SIGNATURE|UNABLE_TO|ALERT_UNKNOWN_CA/.test(code) ? 'certificate' : 'protocol';
}

function problemOf(error: Error, socket: TLSSocket): string {
  const reason = socket.authorizationError as Error | string | undefined;
  return reason ? `client certificate: ${String(reason)}` : error.message;
}
