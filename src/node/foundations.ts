/**
 * Layer 1 of a node, built from the configuration: store, HTTP server and client, SIP endpoint and
 * the table it asks who may call, media engine. Only which key becomes which option; no behaviour.
 */

import { join } from 'node:path';
import { DEFAULT_CALL_OPTIONS } from '../call/call.ts';
import { DEFAULT_EGRESS, Egress } from '../call/egress.ts';
import { InboundGate } from '../call/inbound-gate.ts';
import { legPolicyOf } from '../call/leg.ts';
import { DEFAULT_ROUTE_TABLE, StoreRouteTable } from '../call/route-table.ts';
import { Stir, stirOptions } from '../call/stir.ts';
import type { TraceBook } from '../call/trace.ts';
import { AddressGuard, classifyAddress } from '../core/address.ts';
import type { Config } from '../core/config.ts';
import { GatewayError } from '../core/errors.ts';
import { parseHostPort } from '../core/listen.ts';
import { DEFAULT_CALLBACK_POLICY } from '../events/callbacks.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient } from '../http/client.ts';
import { DEFAULT_HTTP_SERVER, HttpServer } from '../http/server.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine } from '../media/engine.ts';
import { DEFAULT_SUPERVISOR_OPTIONS, Supervisor } from '../media/supervisor.ts';
import { DEFAULT_DNS_SOURCE, SystemDns } from '../sip/dns-source.ts';
import { Endpoint } from '../sip/endpoint.ts';
import type { Overload } from '../sip/overload.ts';
import { Resolver } from '../sip/resolver.ts';
import type { FirstAccount } from '../store/account-file.ts';
import { DEFAULT_PRUNING, Pruning } from '../store/pruning.ts';
import { DEFAULT_STORE } from '../store/sql.ts';
import { DEFAULT_SQLITE, openSqlite } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import {
  AGENT,
  type Base,
  listenSpecs,
  type NodeHealth,
  type NodeParts,
  ownHostsOf,
} from './base.ts';
import type { Registry } from './registrations.ts';
import { connectionOptions, createLayers, gateOptions, plainPolicy } from './sip-transports.ts';

const DAY_MS = 86_400_000;

export function openStore({ config, log, clock, metrics }: Base): Promise<Store> {
  const path = storePath(config);
  return openSqlite({
    options: { path, ...DEFAULT_SQLITE },
    clock,
    log,
    metrics,
    store: {
      ...DEFAULT_STORE,
      flushIntervalMs: config['store.flushMs'],
      holdMs: config['store.holdMs'],
      queueRowsMax: config['store.queueMax'],
      callEventsMax: config['call.traceMax'],
    },
  });
}

/** Only the scheme of a refused URL is told: the rest of it may be a password. */
function storePath(config: Config): string {
  const url = config['store.url'];
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1];
  if (scheme?.toLowerCase() !== 'sqlite') {
    const problem = `must begin with sqlite:${scheme === undefined ? '' : `, not with ${scheme}:`}`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'store.url', problem });
  }
  return url.slice('sqlite:'.length) || join(config['data.dir'], 'tandem.db');
}

/** Makes the first account's row; of one that is there only a changed token is written. */
export async function keepAccount(
  store: Store,
  account: FirstAccount,
  clock: Base['clock'],
): Promise<void> {
  const { sid, authToken } = account;
  const nowMs = clock.nowMs();
  const kept = await store.accounts.get(sid, sid);
  if (kept === null) {
    await store.accounts.save({
      sid,
      authToken,
      friendlyName: 'First account',
      status: 'active',
      dateCreatedMs: nowMs,
      dateUpdatedMs: nowMs,
    });
  } else if (kept.authToken.reveal() !== authToken.reveal()) {
    await store.accounts.save({ ...kept, authToken, dateUpdatedMs: nowMs });
  }
}

export function createPruning({ config, log, clock, store }: NodeParts): Pruning {
  const keepCallsMs = config['store.keepCallsDays'] * DAY_MS;
  return new Pruning({ store, clock, log, options: { ...DEFAULT_PRUNING, keepCallsMs } });
}

export function createHttpServer({ config, log, clock, metrics }: Base, health: NodeHealth) {
  const { host, port } = parseHostPort('http.listen', config['http.listen']);
  return HttpServer.create({
    options: {
      ...DEFAULT_HTTP_SERVER,
      address: host,
      port,
      bodyBytesMax: config['http.bodyBytesMax'],
      connectionsPerSourceMax: config['http.connectionsPerSourceMax'],
      trustProxy: config['http.trustProxy'],
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
    redirectsMax: config['webhook.redirectsMax'],
  });
}

/** Certificates of others' callers come past the same address guard as everything of the web. */
export function createStir({ config, clock, log, metrics }: Base, http: HttpClient): Stir {
  return new Stir({ clock, log, metrics, http, options: stirOptions(config) });
}

export function webhookPolicy(config: Config) {
  return {
    ...DEFAULT_CALLBACK_POLICY,
    connectMs: config['webhook.connectMs'],
    readMs: config['webhook.readMs'],
    totalMs: config['webhook.totalMs'],
  };
}

export function createRoutes(
  { config, clock, log, store, publicUrl }: NodeParts,
  { registrar }: Registry,
): StoreRouteTable {
  return new StoreRouteTable({
    store,
    clock,
    log,
    prover: registrar.prover,
    options: {
      ...DEFAULT_ROUTE_TABLE,
      trustedSources: config['sip.trusted'],
      realm: config['sip.advertise'] || 'tandem',
      ownHosts: ownHostsOf(config, publicUrl),
    },
  });
}

export function createEndpoint(
  base: Base & { overload: Overload },
  routes: StoreRouteTable,
  trace: TraceBook,
  { registrar, callers, location }: Registry,
): { endpoint: Endpoint; resolver: Resolver; egress: Egress } {
  const { config, clock, log, metrics } = base;
  const resolver = createResolver(base);
  const egress = new Egress({
    guard: dialGuard(config),
    isRegistered: (address) => location.isSource(address),
    ...DEFAULT_EGRESS,
  });
  const gate = new InboundGate({ routes, trace, registered: callers });
  const endpoint = new Endpoint({
    clock,
    log,
    metrics,
    listen: listenSpecs(config),
    layers: createLayers(base),
    overload: base.overload,
    userAgent: AGENT,
    resolver,
    policy: {
      admit: (request, source) => gate.admit(request, source),
      authenticate: (request, source) => gate.authenticate(request, source),
      sessionPolicyOf: (request, source) => {
        const trunk = routes.trunkPolicyOf(request, source);
        return trunk === null ? plainPolicy(config) : legPolicyOf(trunk);
      },
      trusts: (address) => routes.isKnown(address),
      allowAddress: (address) => egress.reaches(address),
      isFlow: (peer) => location.isFlow(peer),
      registrar,
    },
    transport: {
      connectionsMax: config['sip.connectionsMax'],
      trustedConnectionsReserve: config['sip.trustedConnectionsReserve'],
      connectionsPerSourceMax: config['sip.connectionsPerSourceMax'],
      ...gateOptions(config),
      failedHandshakesPerMinuteMax: config['sip.failedHandshakesPerMinuteMax'],
      connection: connectionOptions(config),
    },
    session: {
      ringTimeoutMs: config['sip.ringTimeoutMs'],
      decisionTimeoutMs: DEFAULT_CALL_OPTIONS.setupMsMax,
      infoPass: config['sip.infoPass'],
      infoBytesMax: config['sip.infoBytesMax'],
    },
    bounds: {
      sessionsMax: config['call.liveMax'] * 2,
      clientTransactionsMax: config['sip.transactionsMax'],
      serverTransactionsMax: config['sip.transactionsMax'],
    },
  });
  return { endpoint, resolver, egress };
}

export function createEngine(
  { config, clock, log, metrics }: Base,
  health: NodeHealth,
): MediaEngine {
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
  health.workers = () => supervisor.live.length;
  return new MediaEngine({
    clock,
    log,
    metrics,
    supervisor,
    address,
    options: {
      ...DEFAULT_MEDIA_ENGINE_OPTIONS,
      sparePortsMax: config['media.sparePortsMax'],
    },
  });
}

function createResolver({ config, clock, log }: Base): Resolver {
  const servers = config['sip.dns.servers'];
  const queryTimeoutMs = config['sip.dns.timeoutMs'];
  const source =
    isLoopbackOnly(config) && servers.length === 0
      ? { lookup: loopbackLookup }
      : {
          dns: new SystemDns({
            clock,
            options: { ...DEFAULT_DNS_SOURCE, servers, queryTimeoutMs },
          }),
        };
  return new Resolver({
    clock,
    log,
    listen: listenSpecs(config),
    ...source,
    limits: {
      queryTimeoutMs,
      serviceTtlMs: config['sip.dns.cacheMs'],
      ttlMaxMs: config['sip.dns.ttlMaxMs'],
      staleMs: config['sip.dns.staleMs'],
      failedMs: config['sip.dns.failedTargetMs'],
    },
  });
}

function isLoopbackOnly(config: Config): boolean {
  return listenSpecs(config).every(({ address }) => classifyAddress(address) === 'loopback');
}

/** From loopback nothing else can be reached, so no name is asked of the network. */
function loopbackLookup(host: string): Promise<readonly string[]> {
  return Promise.resolve(/^localhost\.?$/i.test(host) ? ['127.0.0.1', '::1'] : []);
}

/** Dialled SIP URIs may lead to the public net, to what is allowed, and to our own loopback. */
function dialGuard(config: Config): AddressGuard {
  const loopback = isLoopbackOnly(config) ? ['127.0.0.0/8', '::1/128'] : [];
  return new AddressGuard({ allow: [...config['sip.allow'], ...loopback] });
}
