/**
 * Real endpoints on loopback with TLS and WebSocket, certificates made for the occasion, and
 * requests as text for peers that are no endpoints.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { realClock, sleep } from '../../src/core/clock.ts';
import type { Log, LogFields } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import type { CertificateOptions } from '../../src/sip/certificates.ts';
import { type ConnectionOptions, DEFAULT_CONNECTION } from '../../src/sip/connection.ts';
import { Endpoint, type EndpointOptions } from '../../src/sip/endpoint.ts';
import { StreamLayers } from '../../src/sip/layers.ts';
import type { Source, TransportName } from '../../src/sip/peer.ts';
import type { TlsOptions } from '../../src/sip/tls.ts';
import type { TransportOptions } from '../../src/sip/transport.ts';
import type { WebSocketOptions } from '../../src/sip/websocket.ts';

class KeptLog implements Log {
  readonly lines: { level: string; fields: LogFields; message: string }[] = [];

  debug(fields: LogFields, message: string): void {
    this.lines.push({ level: 'debug', fields, message });
  }

  info(fields: LogFields, message: string): void {
    this.lines.push({ level: 'info', fields, message });
  }

  warn(fields: LogFields, message: string): void {
    this.lines.push({ level: 'warn', fields, message });
  }

  error(fields: LogFields, message: string): void {
    this.lines.push({ level: 'error', fields, message });
  }

  child(): Log {
    return this;
  }
}

export interface Stage {
  readonly endpoint: Endpoint;
  readonly metrics: Metrics;
  readonly log: KeptLog;
  /** Where each INVITE that policy was asked about came from. */
  readonly sources: Source[];
  port(transport: TransportName): number;
  /** A metric's value, by the beginning of its line. */
  metric(name: string): Promise<number>;
}

export interface StageOptions {
  listen?: readonly TransportName[];
  address?: string;
  certificates?: Partial<CertificateOptions>;
  tls?: Partial<TlsOptions>;
  webSocket?: Partial<WebSocketOptions>;
  connection?: Partial<ConnectionOptions>;
  transport?: Partial<TransportOptions>;
  trusts?: (address: string) => boolean;
  others?: Partial<EndpointOptions>;
}

/** An endpoint that takes every call that policy is asked about. */
export async function stage(t: Test, options: StageOptions = {}): Promise<Stage> {
  const { listen = ['tls'], address = '127.0.0.1', certificates, tls, webSocket } = options;
  const { trusts = () => false } = options;
  const [metrics, log, sources]: [Metrics, KeptLog, Source[]] = [new Metrics(), new KeptLog(), []];
  const layers = new StreamLayers({
    clock: realClock,
    log,
    ...(certificates === undefined ? {} : { certificates }),
    ...(tls === undefined ? {} : { tls }),
    ...(webSocket === undefined ? {} : { webSocket }),
  });
  const endpoint = new Endpoint({
    clock: realClock,
    log,
    metrics,
    layers,
    userAgent: 'tandem',
    listen: listen.map((transport) => ({ transport, address, port: 0 })),
    policy: {
      trusts,
      admit: (_, source) => {
        sources.push(source);
        return null;
      },
    },
    transport: {
      ...options.transport,
      connection: { ...DEFAULT_CONNECTION, ...options.connection },
    },
    ...options.others,
  });
  t.teardown(() => endpoint.close());
  await endpoint.start();
  return {
    endpoint,
    metrics,
    log,
    sources,
    port: (transport) => endpoint.locals.find((local) => local.transport === transport)?.port ?? 0,
    metric: async (name) => {
      const line = (await metrics.text()).split('\n').find((text) => text.startsWith(name));
      return Number(line?.split(' ').at(-1) ?? Number.NaN);
    },
  };
}

export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-tls-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits for what is to come true, up to two seconds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<boolean> {
  for (let turns = 0; turns < 200; turns += 1) {
    if (await condition()) return true;
    await sleep(realClock, 10);
  }
  return false;
}

let calls = 0;

/** A request as text. `contentLength` as it is to be said; null: not at all. */
export function request(options: {
  method?: string;
  transport: string;
  sentBy?: string;
  viaParams?: string;
  body?: string;
  contentLength?: number | null;
  callId?: string;
}): string {
  calls += 1;
  const { method = 'OPTIONS', transport, sentBy = 'peer.invalid', viaParams = '' } = options;
  const { body = '', contentLength = body.length, callId = `call-${calls}` } = options;
  const lines = [
    `${method} sip:us@127.0.0.1 SIP/2.0`,
    `Via: SIP/2.0/${transport} ${sentBy};branch=z9hG4bK${calls}${viaParams}`,
    'Max-Forwards: 70',
    `From: <sip:them@${sentBy}>;tag=t${calls}`,
    'To: <sip:us@127.0.0.1>',
    `Call-ID: ${callId}`,
    `CSeq: 1 ${method}`,
    `Contact: <sip:them@${sentBy};transport=${transport.toLowerCase()}>`,
    ...(body === '' ? [] : ['Content-Type: application/sdp']),
    ...(contentLength === null ? [] : [`Content-Length: ${contentLength}`]),
  ];
  return `${lines.join('\r\n')}\r\n\r\n${body}`;
}
