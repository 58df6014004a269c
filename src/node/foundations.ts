/**
 * Layer 1 of a node, built from the configuration: store, HTTP server and client, SIP endpoint,
 * media engine. Only which key becomes which option; no behaviour.
 */

import { join } from 'node:path';
import type { StoreRouteTable } from '../call/route-table.ts';
import { AddressGuard, AddressSet, classifyAddress } from '../core/address.ts';
import type { Config } from '../core/config.ts';
import { parseHostPort } from '../core/listen.ts';
import { DEFAULT_CALLBACK_POLICY } from '../events/callbacks.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient } from '../http/client.ts';
import { DEFAULT_HTTP_SERVER, HttpServer } from '../http/server.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine } from '../media/engine.ts';
import { DEFAULT_SUPERVISOR_OPTIONS, Supervisor } from '../media/supervisor.ts';
import { Endpoint } from '../sip/endpoint.ts';
import { Resolver } from '../sip/resolver.ts';
import type { FirstAccount } from '../store/account-file.ts';
import { DEFAULT_STORE } from '../store/sql.ts';
import { DEFAULT_SQLITE, openSqlite } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import { AGENT, type Base, listenSpecs, type NodeHealth } from './base.ts';

export function openStore({ config, log, clock, metrics }: Base): Promise<Store> {
  const name = config['store.url'].replace(/^sqlite:/, '');
  const path = name === '' ? join(config['data.dir'], 'tandem.db') : name;
  return openSqlite({
    options: { path, ...DEFAULT_SQLITE },
    clock,
    log,
    metrics,
    store: {
      ...DEFAULT_STORE,
      flushIntervalMs: config['store.flushMs'],
      queueRowsMax: config['store.queueMax'],
      callEventsMax: config['call.traceMax'],
    },
  });
}

export async function keepAccount(
  store: Store,
  account: FirstAccount,
  nowMs: number,
): Promise<void> {
  await store.accounts.save({
    sid: account.sid,
    authToken: account.authToken,
    friendlyName: 'First account',
    status: 'active',
    dateCreatedMs: nowMs,
    dateUpdatedMs: nowMs,
  });
}

export function createHttpServer({ config, log, clock, metrics }: Base, health: NodeHealth) {
  const { host, port } = parseHostPort('http.listen', config['http.listen']);
  return HttpServer.create({
    options: {
      ...DEFAULT_HTTP_SERVER,
      address: host,
      port,
      bodyBytesMax: config['http.bodyBytesMax'],
      rateRequestsMax:
        config['http.requestsPerSecondMax'] * (DEFAULT_HTTP_SERVER.rateWindowMs / 1000),
    },
    clock,
    log,
    metrics,
    health,
  });
}

export function createHttpClient({ config, clock }: Base, publicUrl: string): HttpClient {
  // Our own demo answers on loopback; nothing else there is opened by that.
  const own = parseHostPort('http.listen', config['http.listen']);
  const { port } = new URL(publicUrl);
  const endpoints = [`${own.host}:${own.port}`, `${own.host}:${port}`];
  return new HttpClient({
    clock,
    guard: new AddressGuard({ allow: config['http.client.allow'], endpoints }),
    userAgent: AGENT,
    ...DEFAULT_HTTP_CLIENT,
    connectionsPerOriginMax: config['http.client.connectionsPerOriginMax'],
  });
}

export function webhookPolicy(config: Config) {
  return {
    ...DEFAULT_CALLBACK_POLICY,
    connectMs: config['webhook.connectMs'],
    readMs: config['webhook.readMs'],
    totalMs: config['webhook.totalMs'],
  };
}

export function createEndpoint(
  base: Base,
  routes: StoreRouteTable,
): { endpoint: Endpoint; resolver: Resolver } {
  const { config, clock, log, metrics } = base;
  const resolver = new Resolver({ clock });
  const trusted = new AddressSet(config['sip.trusted']);
  const isKnown = (address: string): boolean => trusted.has(address) || routes.isTrunk(address);
  const endpoint = new Endpoint({
    clock,
    log,
    metrics,
    listen: listenSpecs(config),
    userAgent: AGENT,
    resolver,
    policy: {
      admit: (request, source) =>
        request.method === 'INVITE' && !isKnown(source.address) ? 'SIP_FORBIDDEN' : null,
      trusts: (address) => routes.isTrunk(address) || trusted.has(address),
    },
    transport: {
      connectionsMax: config['sip.connectionsMax'],
      connectionsPerSourceMax: config['sip.connectionsPerSourceMax'],
      strangersPerSecond: config['sip.strangersPerSecondMax'],
    },
    bounds: {
      clientTransactionsMax: config['sip.transactionsMax'],
      serverTransactionsMax: config['sip.transactionsMax'],
    },
  });
  return { endpoint, resolver };
}

export function createEngine({ config, clock, log, metrics }: Base): MediaEngine {
  const address = config['media.address'];
  const supervisor = new Supervisor({
    clock,
    log,
    dataDir: config['data.dir'],
    options: {
      ...DEFAULT_SUPERVISOR_OPTIONS,
      workers: config['media.workers'],
      address,
      portMin: config['media.portMin'],
      portMax: config['media.portMax'],
      quarantineMs: config['media.quarantineMs'],
    },
  });
  return new MediaEngine({
    clock,
    log,
    metrics,
    supervisor,
    address,
    options: DEFAULT_MEDIA_ENGINE_OPTIONS,
  });
}

/** Dialled SIP URIs may lead to the public net, to what is allowed, and to our own loopback. */
export function dialGuard(config: Config): AddressGuard {
  const isLocal = listenSpecs(config).every(
    ({ address }) => classifyAddress(address) === 'loopback',
  );
  const loopback = isLocal ? ['127.0.0.0/8', '::1/128'] : [];
  return new AddressGuard({ allow: [...config['sip.allow'], ...loopback] });
}
