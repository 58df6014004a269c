/**
 * The figures of one endpoint: what it holds now, and what it dropped or refused since its start.
 * Only names and help texts; nothing is decided here.
 */
import type { Counter } from 'prom-client';
import type { Metrics } from '../core/metrics.ts';

export class EndpointMetrics {
  readonly refusals: Counter<'code'>;
  readonly malformed: Counter;
  readonly limited: Counter;

  constructor(options: {
    metrics: Metrics;
    sessions: () => number;
    transactions: () => number;
    connections: () => number;
  }) {
    const { metrics, sessions, transactions, connections } = options;
    metrics.gauge('tandem_sip_sessions', 'SIP sessions held', sessions);
    metrics.gauge('tandem_sip_transactions', 'SIP transactions held', transactions);
    metrics.gauge('tandem_sip_connections', 'SIP stream connections open', connections);
    this.malformed = metrics.counter(
      'tandem_sip_malformed_total',
      'SIP messages that could not be read',
    );
    this.limited = metrics.counter(
      'tandem_sip_limited_total',
      'Requests of strangers that were dropped over their rate',
    );
    this.refusals = metrics.counter('tandem_sip_refusals_total', 'Requests refused without state', [
      'code',
    ]);
  }
}
