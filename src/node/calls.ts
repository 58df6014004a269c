/**
 * Layer 3 of a node, built from the configuration: the edge where legs live, the router, and taking
 * back the calls of a former process.
 */
import { DEMO_PATH } from '../api/demo.ts';
import type { LocalBus } from '../bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../call/admission.ts';
import { DEFAULT_CALL_OPTIONS } from '../call/call.ts';
import type { CallRecord } from '../call/call-record.ts';
import type { Contacts } from '../call/contacts.ts';
import { DEFAULT_EDGE, Edge } from '../call/edge.ts';
import type { Egress } from '../call/egress.ts';
import type { FileJournal } from '../call/journal.ts';
import { callRow } from '../call/ledger.ts';
import { DEFAULT_LEG_MEDIA } from '../call/media-terms.ts';
import type { StoreRouteTable } from '../call/route-table.ts';
import { type CallNotice, DEFAULT_ROUTER, Router } from '../call/router.ts';
import { DEFAULT_LEG_OPTIONS, type LegRecord } from '../call/sip-leg.ts';
import type { Stir } from '../call/stir.ts';
import type { TraceBook } from '../call/trace.ts';
import { type ReferQuestion, Transfers } from '../call/transfer.ts';
import type { TrunkHealth } from '../call/trunk-health.ts';
import { classifyAddress } from '../core/address.ts';
import type { TrunkSid } from '../core/sid.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { Resolver } from '../sip/resolver.ts';
import { codecsOf, listenSpecs, type NodeParts } from './base.ts';
import { MediaQuality } from './media-quality.ts';
import { plainPolicy } from './sip-transports.ts';

export type Joined = NodeParts & { bus: LocalBus; journal: FileJournal; trace: TraceBook };

/** What a trunk wants of signatures was asked before there is an order for an edge. */
const SIGNS = { sign: true, verify: 'off' } as const;

export function createEdge(
  parts: Joined & {
    endpoint: Endpoint;
    engine: MediaEngine;
    resolver: Resolver;
    egress: Egress;
    trunkHealth: TrunkHealth;
    routes: StoreRouteTable;
    stir: Stir;
  },
): Edge {
  const { config, clock, log, bus, journal, trace, endpoint, engine, resolver, egress } = parts;
  return new Edge({
    clock,
    log,
    bus,
    journal,
    trace,
    endpoint,
    engine,
    resolve: (uri) => resolver.resolve(uri),
    egress,
    sign: (request) => parts.stir.sign(SIGNS, request),
    credentialsOf: (trunkSid) => parts.routes.credentialsOf(trunkSid),
    onGateway: (...said) => parts.trunkHealth.report(...said),
    media: {
      ...DEFAULT_LEG_MEDIA,
      codecs: codecsOf(config),
      advertiseAddress: config['media.advertise'] || null,
      address6: config['media.address6'] || null,
      rtcpMux: config['media.rtcpMux'],
      silentTimeoutMs: config['media.silentTimeoutMs'],
      inbandDtmf: config['media.inbandDtmf'],
      remote: {
        ...DEFAULT_LEG_MEDIA.remote,
        allowLoopbackMedia: classifyAddress(config['media.address']) === 'loopback',
        allowPrivateMedia: config['media.allowPrivate'],
      },
    },
    legs: { ...DEFAULT_LEG_OPTIONS, queueDepthMax: config['call.commandsMax'] },
    options: {
      ...DEFAULT_EDGE,
      // The router waits for a caller's certificate.
      offerTimeoutMs: DEFAULT_EDGE.offerTimeoutMs + config['stir.verifyMs'],
      slotTimeoutMs: DEFAULT_EDGE.slotTimeoutMs + config['trunk.waitMs'],
      legsMax: config['call.liveMax'] * 2,
    },
  });
}

export function createRouter(
  parts: Joined & {
    routes: StoreRouteTable;
    trunkHealth: TrunkHealth;
    contacts: Contacts;
    stir: Stir;
  },
  onNotice: (notice: CallNotice) => void,
): Router {
  const { config, clock, log, metrics, bus, journal, trace, routes, account } = parts;
  const quality = new MediaQuality({ metrics, trace });
  const admission = new BoundedAdmission({
    clock,
    ...DEFAULT_ADMISSION,
    liveCallsMax: config['call.liveMax'],
    liveCallsPerAccountMax: config['call.liveMax'],
    callsPerSecondMax: config['call.perSecondMax'],
    callsPerSecondPerAccountMax: config['call.perSecondMax'],
  });
  const url = config['app.url'] || `${parts.publicUrl}${DEMO_PATH}`;
  const callback = config['app.statusCallbackUrl'];
  return new Router({
    clock,
    log,
    metrics,
    bus,
    journal,
    trace,
    admission,
    routes,
    stir: parts.stir,
    stateOf: (gateway) => parts.trunkHealth.stateOf(gateway),
    contactsOf: (uri, accountSid) => parts.contacts.targetsOf(uri, accountSid),
    onNotice: (notice) => {
      quality.take(notice);
      onNotice(notice);
    },
    call: { ...DEFAULT_CALL_OPTIONS, durationMsMax: config['call.timeLimitSeconds'] * 1000 },
    options: {
      ...DEFAULT_ROUTER,
      trustedSources: config['sip.trusted'],
      fromDomain: fromDomain(config),
      plainPolicy: plainPolicy(config),
      plainNoProvisionalMs: config['sip.noProvisionalMs'],
      trunkWaitMs: config['trunk.waitMs'],
      defaultRoute: {
        accountSid: account.sid,
        application: {
          applicationSid: null,
          url,
          method: config['app.method'] === 'GET' ? 'GET' : 'POST',
          fallbackUrl: config['app.fallbackUrl'] || null,
          fallbackMethod: 'POST',
          document: null,
        },
        statusCallback:
          callback === '' ? null : { url: callback, method: 'POST', events: ['completed'] },
      },
    },
  });
}

export function createTransfers(
  { config, log, bus, router, routes }: Joined & { router: Router; routes: StoreRouteTable },
  ask: (question: ReferQuestion) => boolean,
): Transfers {
  const ringTimeoutMs = config['sip.ringTimeoutMs'];
  const ofTrunk = (sid: TrunkSid) => routes.transfersOf(sid);
  return new Transfers({ bus, log, table: router, ask, ringTimeoutMs, ofTrunk });
}

/** Calls of a former process: legs first, so that each call finds its own. */
export async function takeBack(
  parts: Pick<Joined, 'clock' | 'log' | 'store' | 'journal'> & {
    edge: Edge;
    router: Router;
    records: ReadonlyMap<string, object>;
  },
): Promise<void> {
  const { clock, log, store, edge, router } = parts;
  const records = await withoutEnded(parts);
  const legs = [...records].filter(([key]) => key.startsWith('leg.'));
  // The journal gives back what `SipLeg.snapshot` wrote, each line checked by its sum.
  await edge.restore(legs.map(([, record]) => record as LegRecord));
  const calls = router.restore(records);
  // The former process may have died before it wrote their rows; lists read nothing else.
  for (const { record } of router.calls()) store.calls.put(callRow(record, clock.nowMs()));
  if (calls > 0) log.info({ calls, legs: legs.length }, 'calls taken back');
}

/**
 * The records but those of calls whose row says that they ended: the former process died before it
 * could strike them off. Their legs, if any, are hung up for want of a call.
 */
async function withoutEnded({
  store,
  journal,
  records,
}: Pick<Joined, 'store' | 'journal'> & {
  records: ReadonlyMap<string, object>;
}): Promise<ReadonlyMap<string, object>> {
  const live = new Map(records);
  for (const [key, record] of records) {
    if (!key.startsWith('call.')) continue;
    const { accountSid, sid } = record as CallRecord;
    // A store that is away must not cost a call.
    const row = await store.calls.get(accountSid, sid).catch(() => null);
    if (row === null || row.endMs === null) continue;
    live.delete(key);
    journal.remove(key);
  }
  return live;
}

/** Host of the From URI on outgoing calls: what others know us by, else where we listen. */
export function fromDomain(config: NodeParts['config']): string {
  const [first] = listenSpecs(config);
  const address = first?.address ?? '127.0.0.1';
  return config['sip.advertise'] || (address.includes(':') ? `[${address}]` : address);
}
