/**
 * Applications: named sets of URLs that numbers and calls refer to, so that many of them change in
 * one place. What a call does with them is the router's.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { newSid } from '../core/sid.ts';
import type { ApplicationRow, JsonObject, Store } from '../store/store.ts';
import { API_VERSION, asIs, created, ok, type Resource, resource, uriOf } from './api.ts';
import { listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { optionalText } from './parameters.ts';
import { fetchRow, findRow, type RowKind, removeRow } from './rows.ts';
import { NO_VOICE, VOICE_PARAMS, voiceChange, voiceJson } from './voice-settings.ts';

const FRIENDLY_NAME = Type.Optional(Type.String({ maxLength: 64 }));

function applicationJson(row: ApplicationRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    api_version: API_VERSION,
    friendly_name: row.friendlyName,
    ...voiceJson(row),
    sms_status_callback: null,
    message_status_callback: null,
    public_application_connect_enabled: false,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Applications', row.sid),
  };
}

function listApplications({ table, json }: RowKind<ApplicationRow>): Resource {
  return resource({
    method: 'GET',
    path: '/Applications',
    params: Type.Object({ ...PAGE_PARAMS, FriendlyName: optionalText }),
    interpret: (given) => ({ page: pageOf(given), name: given.FriendlyName }),
    check: asIs,
    act: async ({ page, name }, { account, raw }) =>
      ok(
        await listPage({
          table,
          accountSid: account.sid,
          where: name ? [{ field: 'friendlyName', op: '=', value: name }] : [],
          page,
          key: 'applications',
          path: uriOf(account, 'Applications'),
          raw,
          json,
        }),
      ),
  });
}

function createApplication({ table, json }: RowKind<ApplicationRow>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/Applications',
    params: Type.Object({ ...VOICE_PARAMS, FriendlyName: FRIENDLY_NAME }),
    idempotent: true,
    interpret: (given) => ({ name: given.FriendlyName ?? '', change: voiceChange(given) }),
    check: asIs,
    async act({ name, change }, { account }) {
      const nowMs = clock.nowMs();
      const row: ApplicationRow = {
        sid: newSid('AP', clock),
        accountSid: account.sid,
        friendlyName: name,
        ...NO_VOICE,
        ...change,
        dateCreatedMs: nowMs,
        dateUpdatedMs: nowMs,
      };
      await table.save(row);
      return created(json(row));
    },
  });
}

function updateApplication(kind: RowKind<ApplicationRow>, clock: Clock): Resource {
  return resource({
    method: 'POST',
    path: '/Applications/:sid',
    params: Type.Object({ ...VOICE_PARAMS, FriendlyName: FRIENDLY_NAME }),
    interpret: (given) => ({
      ...voiceChange(given),
      ...(given.FriendlyName !== undefined && { friendlyName: given.FriendlyName }),
    }),
    check: async (change, request) => ({ ...(await findRow(kind, request)), ...change }),
    async act(changed) {
      const row: ApplicationRow = { ...changed, dateUpdatedMs: clock.nowMs() };
      await kind.table.save(row);
      return ok(kind.json(row));
    },
  });
}

export function applicationResources(o: { store: Store; clock: Clock }): readonly Resource[] {
  const kind: RowKind<ApplicationRow> = {
    path: '/Applications',
    prefix: 'AP',
    table: o.store.applications,
    json: applicationJson,
  };
  return [
    listApplications(kind),
    createApplication(kind, o.clock),
    fetchRow(kind),
    updateApplication(kind, o.clock),
    removeRow(kind),
  ];
}
