/**
 * What concerns the node and not an account, below /admin, for who runs it: the first account,
 * with the same authentication as the rest.
 *
 *   GET /admin/drain      {"state":"serving"|"draining"|"leaving","since":…,"calls":…}
 *   POST /admin/drain     begins to drain: new calls and OPTIONS get 503, those that live go on
 *   DELETE /admin/drain   undoes that; 409 once the process was told to end
 *
 * All three may be repeated. Ours; the reference has nothing like it.
 */
import { Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import { asIs, DELETED, ok, type Resource, type RestRequest, resource } from './api.ts';

export interface DrainState {
  /** `leaving`: the process ends when the last call has. */
  readonly state: 'serving' | 'draining' | 'leaving';
  /** Wall clock; of the last change. */
  readonly sinceMs: number;
  /** Calls that live. */
  readonly calls: number;
}

export interface DrainControl {
  readonly state: DrainState;
  drain(): void;
  /** Throws DRAIN_FINAL. */
  undo(): void;
}

export interface AdminParts {
  readonly drain: DrainControl;
  /** Who may. */
  readonly accountSid: AccountSid;
}

export function adminResources({ drain, accountSid }: AdminParts): readonly Resource[] {
  const common = { path: '/drain', params: Type.Object({}), interpret: asIs };
  const check = (_wanted: object, { account }: RestRequest): void => {
    if (account.sid !== accountSid) throw new GatewayError('ADMIN_ONLY');
  };
  const shown = () => {
    const { state, sinceMs, calls } = drain.state;
    return ok({ state, since: new Date(sinceMs).toISOString(), calls });
  };
  return [
    resource({ ...common, method: 'GET', check, act: async () => shown() }),
    resource({
      ...common,
      method: 'POST',
      check,
      act: async () => {
        drain.drain();
        return shown();
      },
    }),
    resource({
      ...common,
      method: 'DELETE',
      check,
      act: async () => {
        drain.undo();
        return DELETED;
      },
    }),
  ];
}
