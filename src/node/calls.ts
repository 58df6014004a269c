/**
 * Layer 3 of a node, built from the configuration: the edge where legs live, the router, and taking
 * back the calls of a former process.
 */
import { DEMO_PATH } from '../api/demo.ts';
import type { LocalBus } from '../bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../call/admission.ts';
import { DEFAULT_CALL_OPTIONS } from '../call/call.ts';
import { DEFAULT_EDGE, Edge } from '../call/edge.ts';
import type { Egress } from '../call/egress.ts';
import type { FileJournal } from '../call/journal.ts';
import { DEFAULT_LEG_MEDIA } from '../call/leg-media.ts';
import type { StoreRouteTable } from '../call/route-table.ts';
import { type CallNotice, DEFAULT_ROUTER, Router } from '../call/router.ts';
import { DEFAULT_LEG_OPTIONS, type LegRecord } from '../call/sip-leg.ts';
import type { TraceBook } from '../call/trace.ts';
import { classifyAddress } from '../core/address.ts';
import type { Log } from '../core/log.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { Resolver } from '../sip/resolver.ts';
import { codecsOf, listenSpecs, type NodeParts } from './base.ts';

export type Joined = NodeParts & { bus: LocalBus; journal: FileJournal; trace: TraceBook };

export function createEdge(
  parts: Joined & {
    endpoint: Endpoint;
    engine: MediaEngine;
    resolver: Resolver;
    egress: Egress;
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
    media: {
      ...DEFAULT_LEG_MEDIA,
      codecs: codecsOf(config),
      advertiseAddress: config['media.advertise'] || null,
      address6: config['media.address6'] || null,
      silentTimeoutMs: config['media.silentTimeoutMs'],
      inbandDtmf: config['media.inbandDtmf'],
      remote: {
        ...DEFAULT_LEG_MEDIA.remote,
        allowLoopbackMedia: classifyAddress(config['media.address']) === 'loopback',
        allowPrivateMedia: config['media.allowPrivate'],
      },
    },
    legs: { ...DEFAULT_LEG_OPTIONS, queueDepthMax: config['call.commandsMax'] },
    options: { ...DEFAULT_EDGE, legsMax: config['call.liveMax'] * 2 },
  });
}

export function createRouter(
  parts: Joined & { routes: StoreRouteTable },
  onNotice: (notice: CallNotice) => void,
): Router {
  const { config, clock, log, metrics, bus, journal, trace, routes, account } = parts;
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
    onNotice,
    call: { ...DEFAULT_CALL_OPTIONS, durationMsMax: config['call.timeLimitSeconds'] * 1000 },
    options: {
      ...DEFAULT_ROUTER,
      trustedSources: config['sip.trusted'],
      fromDomain: fromDomain(config),
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

/** Calls of a former process: legs first, so that each call finds its own. */
export async function takeBack(parts: {
  edge: Edge;
  router: Router;
  records: ReadonlyMap<string, object>;
  log: Log;
}): Promise<void> {
  const legs = [...parts.records].filter(([key]) => key.startsWith('leg.'));
  // The journal gives back what `SipLeg.snapshot` wrote, each line checked by its sum.
  await parts.edge.restore(legs.map(([, record]) => record as LegRecord));
  const calls = parts.router.restore(parts.records);
  if (calls > 0) parts.log.info({ calls, legs: legs.length }, 'calls taken back');
}

/** Host of the From URI on outgoing calls: what others know us by, else where we listen. */
function fromDomain(config: NodeParts['config']): string {
  const [first] = listenSpecs(config);
  const address = first?.address ?? '127.0.0.1';
  return config['sip.advertise'] || (address.includes(':') ? `[${address}]` : address);
}
