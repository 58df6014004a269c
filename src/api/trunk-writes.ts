/**
 * Making and changing a trunk, whichever surface it is asked on: what each understands of its
 * parameters differs, what is checked and kept does not. Not the parameters (`trunks`, `trunking`)
 * and not the checks (`trunk-settings`).
 */
import type { Static, TObject } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { newSid } from '../core/sid.ts';
import type { TrunkRow } from '../store/store.ts';
import { BLANK_TRUNK, type TrunkSettings } from '../store/trunk-row.ts';
import { created, ok, type Resource, resource } from './api.ts';
import { checkLimit, findRow, type RowKind } from './rows.ts';
import { checkTrunk, type TrunkParts } from './trunk-settings.ts';

interface TrunkWrites<Params extends TObject, Change> {
  readonly kind: RowKind<TrunkRow>;
  readonly parts: TrunkParts & { readonly clock: Clock };
  readonly params: Params;
  /** Throws where a parameter is not valid, before anything is looked up. */
  readonly interpret: (given: Static<Params>) => Change;
  readonly changed: <Base extends TrunkSettings>(base: Base, change: Change) => Base;
}

export function createTrunk<Params extends TObject, Change>(
  o: TrunkWrites<Params, Change>,
): Resource {
  const { clock, limits } = o.parts;
  const { path, table, json } = o.kind;
  return resource({
    method: 'POST',
    path,
    params: o.params,
    idempotent: true,
    interpret: (given) => ({ change: o.interpret(given) }),
    async check({ change }, { account }) {
      const { sid: accountSid } = account;
      const wanted = o.changed(BLANK_TRUNK, change);
      await checkTrunk(o.parts, accountSid, wanted, null);
      await checkLimit({ table, accountSid, limit: limits.trunksMax, things: 'trunks' });
      return wanted;
    },
    async act(wanted, { account }) {
      const nowMs = clock.nowMs();
      const dates = { dateCreatedMs: nowMs, dateUpdatedMs: nowMs };
      const row: TrunkRow = {
        sid: newSid('TK', clock),
        accountSid: account.sid,
        ...wanted,
        ...dates,
      };
      await table.save(row);
      return created(json(row));
    },
  });
}

export function updateTrunk<Params extends TObject, Change>(
  o: TrunkWrites<Params, Change>,
): Resource {
  const { path, table, json } = o.kind;
  return resource({
    method: 'POST',
    path: `${path}/:sid`,
    params: o.params,
    interpret: (given) => ({ change: o.interpret(given) }),
    async check({ change }, request) {
      const former = await findRow(o.kind, request);
      const wanted = o.changed(former, change);
      await checkTrunk(o.parts, former.accountSid, wanted, former);
      return wanted;
    },
    async act(wanted) {
      const row: TrunkRow = { ...wanted, dateUpdatedMs: o.parts.clock.nowMs() };
      await table.save(row);
      return ok(json(row));
    },
  });
}
