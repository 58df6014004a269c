/**
 * The whole REST surface, 2010-04-01 and the v1 products, as one value: every resource row, behind
 * authentication, ready to be mounted. The list here is the list of what there is.
 */
import type { Explainer } from '../call/explain.ts';
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { Store } from '../store/store.ts';
import {
  type AuthenticationOptions,
  accountResources,
  BasicAuthentication,
  DEFAULT_AUTHENTICATION,
} from './accounts.ts';
import { type AdminParts, adminResources } from './admin.ts';
import { RestApi } from './api.ts';
import { applicationResources } from './applications.ts';
import { type CallControl, type CallTrace, callResources } from './calls.ts';
import { explainResources } from './explain.ts';
import { DEFAULT_IDEMPOTENCY, type IdempotencyOptions } from './idempotency.ts';
import { notificationResources } from './notifications.ts';
import { numberResources } from './numbers.ts';
import { type RecordingMedia, recordingResources } from './recordings.ts';
import { type RegistrationsView, registrationResources } from './registrations.ts';
import { routeResources } from './routes.ts';
import { sipDomainResources } from './sip-domains.ts';
import { sipListEntryResources } from './sip-list-entries.ts';
import { sipListResources } from './sip-lists.ts';
import { type TraceLookup, traceResources } from './traces.ts';
import { type TrunkHealthView, trunkHealthResources } from './trunk-health.ts';
import { trunkingResources } from './trunking.ts';
import { DEFAULT_TRUNKING_LIMITS, type TrunkingLimits } from './trunking-limits.ts';
import { trunkResources } from './trunks.ts';
import { Turns } from './turns.ts';

export type RestOptions = AuthenticationOptions & IdempotencyOptions & TrunkingLimits;
export const DEFAULT_REST: RestOptions = {
  ...DEFAULT_AUTHENTICATION,
  ...DEFAULT_IDEMPOTENCY,
  ...DEFAULT_TRUNKING_LIMITS,
};

export interface RestParts {
  readonly store: Store;
  readonly calls: CallControl;
  readonly media: RecordingMedia;
  readonly trace: CallTrace;
  /** Null: nobody watches trunks here. */
  readonly trunkHealth?: TrunkHealthView | null;
  /** Dry runs; absent: there are none here. */
  readonly explainer?: Pick<Explainer, 'explain'>;
  /** Histories by Call-ID; absent: none are kept here. */
  readonly traceOf?: TraceLookup;
  /** Registered phones; absent: none register here. */
  readonly registrations?: RegistrationsView;
  /** Of the node itself; absent: it is not run from here. */
  readonly admin?: AdminParts;
  /** Before every absolute address that is told. */
  readonly publicUrl: string;
  /** Names of this node, which no account may claim; absent: it has none. */
  readonly ownHosts?: ReadonlySet<string>;
  readonly options: RestOptions;
  readonly clock: Clock;
  readonly log: Log;
}

export function createRestApi(parts: RestParts): RestApi {
  const { store, clock, log, options } = parts;
  const health = parts.trunkHealth ?? null;
  const turns = new Turns();
  const { publicUrl, ownHosts = new Set<string>() } = parts;
  const trunking = { store, clock, limits: options, publicUrl, ownHosts };
  return new RestApi({
    resources: [
      ...accountResources(),
      ...callResources(parts),
      ...recordingResources(parts),
      ...notificationResources(parts),
      ...applicationResources(parts),
      ...trunkHealthResources({ store, health }),
      ...(parts.explainer === undefined ? [] : explainResources(parts.explainer)),
      ...(parts.registrations === undefined ? [] : registrationResources(parts.registrations)),
      ...(parts.traceOf === undefined ? [] : traceResources(parts.traceOf)),
      ...turns.of([
        ...numberResources(parts),
        ...trunkResources(trunking),
        ...routeResources(trunking),
        ...sipListResources(trunking),
        ...sipListEntryResources(trunking),
        ...sipDomainResources(trunking),
      ]),
    ],
    products: turns.of(trunkingResources(trunking)),
    admin: parts.admin === undefined ? [] : adminResources(parts.admin),
    authentication: new BasicAuthentication({ store, clock, options }),
    options,
    clock,
    log,
  });
}
