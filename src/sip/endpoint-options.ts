/**
 * What an endpoint is made with: the policy it asks, its bounds and their defaults, and what a call
 * is made with.
 */
import type { Clock } from '../core/clock.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { AuthVerdict, Credentials } from './challenge.ts';
import type { StreamLayers } from './layers.ts';
import type { SipLimits } from './limits.ts';
import type { TransactionTimers } from './machine.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Overload } from './overload.ts';
import type { ListenSpec, PeerAddress, Source } from './peer.ts';
import type { Registrar } from './registrar.ts';
import type { Resolver } from './resolver.ts';
import type { SessionOptions, SessionPolicy } from './session-report.ts';
import type { Sockets } from './sockets.ts';
import type { TransportOptions } from './transport.ts';

/** What the gateway decides about requests and peers. Each is asked before any state is made. */
export interface EndpointPolicy {
  /** An out-of-dialog request: null lets it in, a code refuses it. */
  admit?(request: SipMessage, source: Source): ErrorCode | null;
  /** An INVITE that was admitted: whether its sender has to prove who they are. */
  authenticate?(request: SipMessage, source: Source): AuthVerdict;
  /** How its sender would have a call, for OPTIONS and Allow; the endpoint's own when absent. */
  sessionPolicyOf?(request: SipMessage, source: Source): SessionPolicy;
  /** A peer we know by address: no rate limits, connections of its own, full answers. */
  trusts?(address: string): boolean;
  /** Whether a phone registered over this flow: its keep-alives are answered. */
  isFlow?(peer: PeerAddress): boolean;
  /** Where phones register; without one REGISTER is refused (405). */
  readonly registrar?: Registrar;
  /** Whether a request may be sent to an address. */
  allowAddress?(address: string): boolean;
}

export interface EndpointBounds {
  readonly sessionsMax: number;
  readonly clientTransactionsMax: number;
  readonly serverTransactionsMax: number;
  /** Told to who is refused for load or drain, in Retry-After. */
  readonly retryAfterSeconds: number;
}

export const DEFAULT_BOUNDS: EndpointBounds = {
  sessionsMax: 20_000,
  clientTransactionsMax: 100_000,
  serverTransactionsMax: 100_000,
  retryAfterSeconds: 10,
};

export interface EndpointOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly listen: readonly ListenSpec[];
  readonly userAgent: string;
  readonly sockets?: Sockets;
  /** TLS and WebSocket, for `listen` to name them. The endpoint closes it. */
  readonly layers?: StreamLayers;
  readonly resolver?: Resolver;
  readonly policy?: EndpointPolicy;
  readonly timers?: Partial<TransactionTimers>;
  readonly transport?: Partial<TransportOptions>;
  readonly session?: Partial<SessionOptions>;
  readonly bounds?: Partial<EndpointBounds>;
  readonly limits?: SipLimits;
  /** Who is let in under load; without it all are. */
  readonly overload?: Overload;
}

/** What of a session is not in its record. */
export interface RestoreOptions {
  readonly credentials?: Credentials;
  /** The endpoint's own where absent. */
  readonly policy?: SessionPolicy;
}

export interface OutgoingInvite {
  readonly uri: string;
  readonly from: { readonly uri: string; readonly display?: string };
  readonly to?: { readonly uri: string };
  readonly headers?: readonly HeaderField[];
  /** '' asks the peer to make the offer, which comes as an `offer` event. */
  readonly sdp: string;
  readonly credentials?: Credentials;
  /**
   * Skips resolution: a trunk's gateway. With `eitherTransport` its transport was nobody's choice,
   * and a large INVITE may go by TCP instead (RFC 3261 §18.1.1).
   */
  readonly target?: PeerAddress & { readonly eitherTransport?: boolean };
  /** One less than the INVITE had that this one is made for (RFC 7332); 70 when there was none. */
  readonly maxForwards?: number;
  readonly ringTimeoutMs?: number;
  /** How the peer wants its calls; the endpoint's own where absent. */
  readonly reliable?: SessionPolicy['reliable'];
  readonly sessionTimer?: SessionPolicy['sessionTimer'];
  readonly refer?: NonNullable<SessionPolicy['refer']>;
}
