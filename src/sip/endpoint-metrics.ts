/**
 * The figures of one endpoint: what it holds now, and what it dropped or refused since its start.
 * Only names and help texts; nothing is decided here.
 */
import type { Counter } from 'prom-client';
import type { Metrics } from '../core/metrics.ts';
import { DROP_REASONS } from './gate.ts';
import { TRANSPORTS, type TransportName } from './peer.ts';
import type { HandshakeFailure } from './sockets.ts';
import { TRUST_CLASSES } from './trust.ts';

export class EndpointMetrics {
  readonly refusals: Counter<'code'>;
  readonly malformed: Counter;
  readonly limited: Counter;
  readonly dropped: Counter<'reason'>;
  readonly shed: Counter<'trust'>;
  readonly handshakes: Counter<'reason'>;

  constructor(options: {
    metrics: Metrics;
    sessions: () => number;
    transactions: () => number;
    connections: (transport: TransportName) => number;
  }) {
    const { metrics, sessions, transactions, connections } = options;
    metrics.gauge('tandem_sip_sessions', 'SIP sessions held', sessions);
    metrics.gauge('tandem_sip_transactions', 'SIP transactions held', transactions);
    metrics.gauges('tandem_sip_connections', 'SIP connections open', 'transport', () =>
      STREAMS.map((transport) => [transport, connections(transport)] as const),
    );
    this.handshakes = metrics.counter(
      'tandem_sip_handshakes_failed_total',
      'TLS and WebSocket connections, in and out, that were not agreed on',
      ['reason'],
    );
    for (const reason of FAILURES) this.handshakes.inc({ reason }, 0);
    this.malformed = metrics.counter(
      'tandem_sip_malformed_total',
      'SIP messages that could not be read',
    );
    this.limited = metrics.counter(
      'tandem_sip_limited_total',
      'Messages of strangers and phones that were dropped unread',
    );
    this.dropped = metrics.counter(
      'tandem_sip_dropped_total',
      'Messages that were dropped unread, by reason',
      ['reason'],
    );
    for (const reason of DROP_REASONS) this.dropped.inc({ reason }, 0);
    this.shed = metrics.counter(
      'tandem_sip_shed_total',
      'New calls that were refused for load, by the trust their source has',
      ['trust'],
    );
    for (const trust of TRUST_CLASSES) this.shed.inc({ trust }, 0);
    this.refusals = metrics.counter('tandem_sip_refusals_total', 'Requests refused without state', [
      'code',
    ]);
  }
}

const STREAMS = TRANSPORTS.filter((transport) => transport !== 'udp');

/** Shown from the start: an alarm can be put on what has not happened yet. */
const FAILURES: readonly HandshakeFailure[] = [
  ...(['certificate', 'closed', 'name', 'origin'] as const),
  ...(['protocol', 'subprotocol', 'timeout', 'upgrade'] as const),
];

export interface EndpointCounts {
  readonly sessions: number;
  readonly clientTransactions: number;
  readonly serverTransactions: number;
  readonly connections: number;
  readonly deadlines: number;
  readonly malformed: number;
  readonly limited: number;
  readonly refusedConnections: number;
}
