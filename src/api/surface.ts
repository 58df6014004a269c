/**
 * The whole 2010-04-01 surface as one value: every resource row, behind authentication, ready to
 * be mounted. The list here is the list of what there is.
 */
import type { Clock } from '../core/clock.ts';
import type { Log } from '../core/log.ts';
import type { Store } from '../store/store.ts';
import {
  type AuthenticationOptions,
  accountResources,
  BasicAuthentication,
  DEFAULT_AUTHENTICATION,
} from './accounts.ts';
import { RestApi } from './api.ts';
import { applicationResources } from './applications.ts';
import { type CallControl, type CallTrace, callResources } from './calls.ts';
import { DEFAULT_IDEMPOTENCY, type IdempotencyOptions } from './idempotency.ts';
import { notificationResources } from './notifications.ts';
import { numberResources } from './numbers.ts';
import { type RecordingMedia, recordingResources } from './recordings.ts';
import { trunkResources } from './trunks.ts';

export type RestOptions = AuthenticationOptions & IdempotencyOptions;
export const DEFAULT_REST: RestOptions = { ...DEFAULT_AUTHENTICATION, ...DEFAULT_IDEMPOTENCY };

export interface RestParts {
  readonly store: Store;
  readonly calls: CallControl;
  readonly media: RecordingMedia;
  readonly trace: CallTrace;
  readonly options: RestOptions;
  readonly clock: Clock;
  readonly log: Log;
}

export function createRestApi(parts: RestParts): RestApi {
  const { store, clock, log, options } = parts;
  return new RestApi({
    resources: [
      ...accountResources(),
      ...callResources(parts),
      ...recordingResources(parts),
      ...notificationResources(parts),
      ...applicationResources(parts),
      ...numberResources(parts),
      ...trunkResources(parts),
    ],
    authentication: new BasicAuthentication({ store, clock, options }),
    options,
    clock,
    log,
  });
}
