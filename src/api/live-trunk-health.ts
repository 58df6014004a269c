/**
 * The view of trunks that the surface tells, put together from what this node knows of them: its
 * gateways' health, the calls it counts, and the registration at the carrier where there is one.
 */
import type { StoreRouteTable } from '../call/route-table.ts';
import type { TrunkHealth as GatewayWatch } from '../call/trunk-health.ts';
import type { AccountSid, GatewaySid, TrunkSid } from '../core/sid.ts';
import type { RegistrationHealth, TrunkHealth, TrunkHealthView } from './trunk-health.ts';

export interface LiveTrunkHealthParts {
  readonly routes: Pick<StoreRouteTable, 'trunks'>;
  readonly watch: GatewayWatch;
  readonly live: (sid: TrunkSid) => { readonly in: number; readonly out: number };
  /** Absent, or null for a trunk that does not register. */
  readonly registrationOf?: (sid: TrunkSid) => RegistrationHealth | null;
}

const NO_REGISTRATION: RegistrationHealth = {
  state: 'off',
  sinceMs: null,
  expiresMs: null,
  sipStatus: null,
};

export class LiveTrunkHealth implements TrunkHealthView {
  readonly #parts: LiveTrunkHealthParts;

  constructor(parts: LiveTrunkHealthParts) {
    this.#parts = parts;
  }

  health(accountSid: AccountSid, trunkSid: TrunkSid): TrunkHealth | null {
    const { routes, watch, live, registrationOf } = this.#parts;
    const trunk = routes.trunks(accountSid).find(({ sid }) => sid === trunkSid);
    if (trunk === undefined) return null;
    const known = new Map(watch.view(trunkSid).map((gateway) => [gateway.uri, gateway]));
    const calls = live(trunkSid);
    return {
      gateways: trunk.gateways.map(({ sid, uri }) => {
        const gateway = known.get(uri);
        const { tries = 0, failures = 0, lastProbe = null } = gateway ?? {};
        return {
          sid: sid ?? ('' as GatewaySid),
          uri,
          state: gateway?.state ?? 'unknown',
          reason: gateway?.reason ?? '',
          sinceMs: gateway?.sinceMs ?? null,
          optionsStatus: lastProbe?.status ?? null,
          optionsRoundTripMs: lastProbe === null ? null : Math.round(lastProbe.durationMs),
          failureShare: tries < trunk.policy.health.triesMin ? null : failures / tries,
        };
      }),
      callsIn: calls.in,
      callsOut: calls.out,
      registration: registrationOf?.(trunkSid) ?? NO_REGISTRATION,
    };
  }
}
