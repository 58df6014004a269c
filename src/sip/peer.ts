/**
 * Addresses and ways: how the parts of the stack name a peer, one of our listeners, where a message
 * came from and where its answer goes. Plain types, no behaviour.
 */

export const TRANSPORTS = ['udp', 'tcp', 'tls', 'ws', 'wss'] as const;
export type TransportName = (typeof TRANSPORTS)[number];

export interface PeerAddress {
  readonly transport: TransportName;
  readonly address: string;
  readonly port: number;
  /**
   * The host of the URI that led here, before any record was followed: what the certificate of a
   * TLS peer has to name (RFC 5922 §7.1, RFC 3263 §4).
   */
  readonly serverName?: string;
  /** The listener of ours to send from; of a peer behind NAT, which lets in nothing else. */
  readonly listener?: { readonly address: string; readonly port: number };
}

export interface ListenSpec {
  readonly transport: TransportName;
  readonly address: string;
  readonly port: number;
  /** What Via and Contact say instead of the listen address: the public name behind a NAT. */
  readonly advertise?: { readonly host: string; readonly port?: number };
}

/** One of our listeners, as others see it. */
export interface Local {
  readonly transport: TransportName;
  readonly address: string;
  readonly port: number;
  /** `host:port` for Via and Contact. */
  readonly sentBy: string;
}

/** Told when a message could not be sent; never from within `send`. */
export interface SendOutcome {
  sendFailed(problem: string): void;
}

/** A stream connection, as others than its owner see it. */
export interface Wire {
  readonly isClosed: boolean;
  /** A call or a registration that came over it was let in: it is worth keeping. */
  welcome(): void;
  send(text: string, outcome: SendOutcome | null): void;
}

/** Where a message came from, and on what. */
export interface Source extends PeerAddress {
  readonly local: Local;
  readonly connection: Wire | null;
  /**
   * The domains that the peer has proven to be by its certificate (RFC 5922 §7.1), in lower case.
   * Only of a certificate that a trusted authority signed; none or absent otherwise.
   */
  readonly certificateNames?: readonly string[];
}

/** Where the responses to one request go. */
export interface ReturnPath extends PeerAddress {
  readonly local: Local;
  readonly connection: Wire | null;
  /** For when the connection is gone (RFC 3261 §18.2.2): the port that Via names. */
  readonly sentByPort: number;
}

/** A way out: where to, and from which of our listeners. */
export interface Hop {
  readonly peer: PeerAddress;
  readonly local: Local;
  /** Where the request goes when this way fails (RFC 3263 §4.3). */
  readonly next?: Hop;
}

export interface TraceMessage {
  readonly atMs: number;
  readonly direction: 'in' | 'out';
  readonly callId: string;
  readonly peer: PeerAddress;
  readonly firstLine: string;
  readonly bytes: number;
  readonly retransmission: boolean;
}

/** What went out encrypted to a verified peer must not go on in the clear. */
export function isSecure(transport: TransportName): boolean {
  return transport === 'tls' || transport === 'wss';
}

export function isSamePeer(a: PeerAddress, b: PeerAddress): boolean {
  return a.transport === b.transport && a.address === b.address && a.port === b.port;
}
