/**
 * Who may hold connections to the HTTP server: one source only so many, and when most are taken the
 * idle ones are closed, so that no client can keep everybody else, health probes included, outside.
 * Not a rate limit: that counts requests. An IPv6 source is its /64, the smallest block given out.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { unmapped } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import type { Metrics } from '../core/metrics.ts';

export interface ConnectionOptions {
  readonly connectionsMax: number;
  /** Of one source address; a proxy in front of us is one, and so are all behind it. */
  readonly connectionsPerSourceMax: number;
}

/** Above this share of `connectionsMax` a connection that waits for a request is closed. */
const CROWDED_SHARE = 0.8;
/** Looking for idle connections walks all of them: not for each new one. */
const CLOSE_IDLE_EACH_MS = 100;

/** Must be called before the server listens. */
export function limitConnections(o: {
  server: Server;
  options: ConnectionOptions;
  clock: Clock;
  metrics: Metrics;
}): void {
  const { server, options, clock } = o;
  const perSource = new Map<string, number>();
  let open = 0;
  let closedIdleMs = Number.NEGATIVE_INFINITY;
  const refused = o.metrics.counter(
    'tandem_http_connections_refused_total',
    'Connections cut at once because there were too many',
    ['limit'],
  );
  o.metrics.gauge('tandem_http_connections', 'Open HTTP connections', () => open);
  server.maxConnections = options.connectionsMax;
  const makeRoom = (): void => {
    const nowMs = clock.monotonicMs();
    const isCrowded = open > options.connectionsMax * CROWDED_SHARE;
    if (!isCrowded || nowMs - closedIdleMs < CLOSE_IDLE_EACH_MS) return;
    closedIdleMs = nowMs;
    server.closeIdleConnections();
  };
  server.on('drop', () => {
    refused.inc({ limit: 'connectionsMax' });
    makeRoom();
  });
  server.on('connection', (socket: Socket) => {
    const source = sourceOf(socket.remoteAddress ?? '');
    const held = perSource.get(source) ?? 0;
    if (held >= options.connectionsPerSourceMax) {
      refused.inc({ limit: 'connectionsPerSourceMax' });
      socket.destroy();
      return;
    }
    perSource.set(source, held + 1);
    open += 1;
    socket.once('close', () => {
      open -= 1;
      const left = (perSource.get(source) ?? 1) - 1;
      if (left > 0) perSource.set(source, left);
      else perSource.delete(source);
    });
    makeRoom();
  });
}

function sourceOf(address: string): string {
  const plain = unmapped(address);
  if (!plain.includes(':')) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? 0 : tail.split(':').length;
  while (tail !== undefined && groups.length + after < 8) groups.push('0');
  return groups.slice(0, 4).join(':');
}
