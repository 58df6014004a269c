/**
 * What a node knows of its trunks, built from the configuration: the watch over their gateways,
 * dry runs, and the traces of refused INVITEs. Only which part meets which; no behaviour.
 */
import { LiveTrunkHealth } from '../api/live-trunk-health.ts';
import type { RestParts } from '../api/surface.ts';
import type { Bus } from '../bus/bus.ts';
import type { Edge } from '../call/edge.ts';
import type { Egress } from '../call/egress.ts';
import { Explainer } from '../call/explain.ts';
import type { StoreRouteTable } from '../call/route-table.ts';
import type { Router } from '../call/router.ts';
import type { TraceBook } from '../call/trace.ts';
import { DEFAULT_TRUNK_HEALTH, TRUNK_HEALTH, TrunkHealth } from '../call/trunk-health.ts';
import { asGatewayError } from '../core/errors.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import { parseUri } from '../sip/message.ts';
import { type PingResult, ping } from '../sip/ping.ts';
import type { Resolver } from '../sip/resolver.ts';
import { dialTarget } from '../verbs/dial-target.ts';
import type { NodeParts } from './base.ts';
import { fromDomain } from './calls.ts';
import type { Registry } from './registrations.ts';

export function createTrunkHealth(
  parts: NodeParts & {
    bus: Bus;
    endpoint: Endpoint;
    resolver: Resolver;
    egress: Egress;
    routes: StoreRouteTable;
  },
): TrunkHealth {
  const { config, clock, log, metrics, endpoint, resolver, egress, routes } = parts;
  const from = `sip:${fromDomain(config)}`;
  const timeoutMs = config['trunk.probeTimeoutMs'];
  const probe = async (uri: string): Promise<PingResult> => {
    try {
      const targets = await resolver.resolve(parseUri(uri));
      for (const { address } of targets) egress.addGateway(address);
      return await ping(endpoint.ua, { uri, from, targets, timeoutMs });
    } catch (thrown) {
      return { status: 0, durationMs: 0, problem: asGatewayError(thrown).message };
    }
  };
  const options = { ...DEFAULT_TRUNK_HEALTH, probesMax: config['trunk.probesMax'] };
  const health = new TrunkHealth({
    ...{ clock, log, metrics, probe, options },
    onChange: (change) => parts.bus.publish(TRUNK_HEALTH, change),
  });
  routes.watch((trunks) => {
    const watched = trunks.filter(({ isEnabled }) => isEnabled);
    health.watch(
      watched.map(({ sid, policy, gateways }) => ({ sid, policy: policy.health, gateways })),
    );
  });
  return health;
}

/** What REST tells of trunks and of calls that were not. */
export function trunkViews(
  parts: NodeParts & {
    routes: StoreRouteTable;
    router: Router;
    edge: Edge;
    trace: TraceBook;
    trunkHealth: TrunkHealth;
    registry: Registry;
  },
): Pick<RestParts, 'trunkHealth' | 'explainer' | 'traceOf' | 'registrations'> {
  const { config, account, routes, router, edge, trace, trunkHealth: watch } = parts;
  return {
    trunkHealth: new LiveTrunkHealth({
      ...{ routes, watch, live: (sid) => router.liveOn(sid) },
      registrationOf: (sid) => parts.registry.healthOf(sid),
    }),
    registrations: parts.registry.view,
    explainer: new Explainer({
      routes,
      router,
      registered: parts.registry.callers,
      reach: edge.reach,
      mediaOf: (sdp) => edge.mediaOf(sdp),
      domain: fromDomain(config),
      dialTarget: (written) => dialTarget(written, null),
    }),
    traceOf: (callId, accountSid) => {
      const found = trace.byCallId(callId);
      if (found === null) return null;
      const { callSid, refused } = found;
      const owner = callSid === null ? refused?.accountSid : router.record(callSid)?.accountSid;
      // Calls for nobody's number concern who runs the node.
      return (owner ?? account.sid) === accountSid ? found : null;
    },
  };
}
