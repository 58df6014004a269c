/**
 * How a trunk does just now: each gateway as its probes and its calls have it, the calls under way
 * and the registration at the carrier. Read, never written; whoever watches trunks gives the view,
 * and a node without one says so instead of calling everything well.
 */
import { Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid, GatewaySid, TrunkSid } from '../core/sid.ts';
import type { JsonObject, Store } from '../store/store.ts';
import { asIs, missing, ok, pathSid, type Resource, resource, uriOf } from './api.ts';

export interface GatewayHealth {
  readonly sid: GatewaySid;
  readonly uri: string;
  /** `resting`: left out for a while because too many live calls failed there. */
  readonly state: 'up' | 'down' | 'resting' | 'unknown';
  /** Why it is in that state; '' when nobody has said. */
  readonly reason?: string;
  /** Since when it is in that state; null when it never was in another. */
  readonly sinceMs: number | null;
  /** Of the last OPTIONS: its status, 0 for no answer, and how long that took; null: none sent. */
  readonly optionsStatus: number | null;
  readonly optionsRoundTripMs: number | null;
  /** Of the live tries that are counted, the share that failed, 0 to 1; null: too few. */
  readonly failureShare: number | null;
}

export interface RegistrationHealth {
  readonly state: 'off' | 'registering' | 'registered' | 'failed';
  readonly sinceMs: number | null;
  /** Until when the carrier keeps it. */
  readonly expiresMs: number | null;
  /** Last final status; null: none yet. */
  readonly sipStatus: number | null;
}

export interface TrunkHealth {
  readonly gateways: readonly GatewayHealth[];
  /** Calls of this node. */
  readonly callsIn: number;
  readonly callsOut: number;
  readonly registration: RegistrationHealth;
}

export interface TrunkHealthView {
  /** Null: not a trunk that is watched (yet). */
  health(accountSid: AccountSid, trunkSid: TrunkSid): TrunkHealth | null;
}

function healthJson(accountSid: AccountSid, sid: TrunkSid, health: TrunkHealth): JsonObject {
  const { registration } = health;
  return {
    trunk_sid: sid,
    account_sid: accountSid,
    gateways: health.gateways.map((gateway) => ({
      sid: gateway.sid,
      uri: gateway.uri,
      state: gateway.state,
      reason: gateway.reason ?? '',
      since: iso(gateway.sinceMs),
      options_status: gateway.optionsStatus,
      options_round_trip_ms: gateway.optionsRoundTripMs,
      failure_share: gateway.failureShare,
    })),
    calls_in: health.callsIn,
    calls_out: health.callsOut,
    registration: {
      state: registration.state,
      since: iso(registration.sinceMs),
      expires: iso(registration.expiresMs),
      sip_status: registration.sipStatus,
    },
    uri: uriOf(accountSid, 'Trunks', sid, 'Health'),
  };
}

/** With its milliseconds: states change within a second. */
function iso(atMs: number | null): string | null {
  return atMs === null ? null : new Date(atMs).toISOString();
}

export function trunkHealthResources(o: {
  store: Store;
  health: TrunkHealthView | null;
}): readonly Resource[] {
  return [
    resource({
      method: 'GET',
      path: '/Trunks/:sid/Health',
      params: Type.Object({}),
      interpret: asIs,
      async check(_given, request) {
        const sid = pathSid('TK', request);
        if (!(await o.store.trunks.get(request.account.sid, sid))) throw missing(request);
        const health = o.health?.health(request.account.sid, sid) ?? null;
        if (health === null) throw new GatewayError('TRUNK_HEALTH_UNKNOWN');
        return healthJson(request.account.sid, sid, health);
      },
      act: async (body) => ok(body),
    }),
  ];
}
