/**
 * Recordings: metadata from the store, audio from files. The audio is private: the same
 * credentials as for everything else, of the account that owns it, and every read is logged
 * (recordings that anyone with the URL could fetch are reliability row 24).
 *
 * `…/Recordings/RE….json` is the metadata; `.wav`, `.mp3` and no extension are the audio, the last
 * being the WAV: that is the URL that webhooks carry.
 */
import { Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { CallSid } from '../core/sid.ts';
import type { Filter, JsonObject, RecordingRow, Store } from '../store/store.ts';
import {
  API_VERSION,
  asIs,
  DELETED,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestReply,
  type RestRequest,
  resource,
  uriOf,
} from './api.ts';
import { type CallControl, findCall } from './calls.ts';
import type { MediaFile } from './file.ts';
import { dateFilters, dateParams, listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { optionalText } from './parameters.ts';

/** Where the audio is. Null: there is none (yet). */
export interface RecordingMedia {
  wav(recording: RecordingRow): Promise<MediaFile | null>;
  /** Made when it is first asked for. */
  mp3(recording: RecordingRow): Promise<MediaFile | null>;
  /** All files of it; none is no error. */
  remove(recording: RecordingRow): Promise<void>;
}

export interface RecordingParts {
  readonly store: Store;
  readonly calls: CallControl;
  readonly media: RecordingMedia;
  readonly log: Log;
}

const UNDER_WAY: ReadonlySet<string> = new Set(['in-progress', 'paused', 'stopped', 'processing']);

function recordingJson(row: RecordingRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    call_sid: row.callSid,
    conference_sid: null,
    api_version: API_VERSION,
    channels: row.channels,
    track: row.track,
    duration: row.durationS === null ? null : String(row.durationS),
    start_time: rfc2822(row.startMs),
    status: row.status,
    source: row.source,
    error_code: row.errorCode,
    price: null,
    price_unit: 'USD',
    encryption_details: null,
    media_url: uriOf(row.accountSid, 'Recordings', row.sid).replace(/\.json$/, ''),
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Recordings', row.sid),
    subresource_uris: {
      add_on_results: uriOf(row.accountSid, 'Recordings', row.sid, 'AddOnResults'),
      transcriptions: uriOf(row.accountSid, 'Recordings', row.sid, 'Transcriptions'),
    },
  };
}

const LIST_PARAMS = Type.Object({
  ...PAGE_PARAMS,
  CallSid: optionalText,
  ...dateParams('DateCreated'),
});

/** `/Recordings` and `/Calls/{sid}/Recordings` differ in which call they speak of. */
function listRecordings(parts: RecordingParts, path: '/Recordings' | '/Calls/:callSid/Recordings') {
  return resource({
    method: 'GET',
    path,
    params: LIST_PARAMS,
    interpret(given) {
      const where = dateFilters<RecordingRow>('DateCreated', 'dateCreatedMs', given);
      return { page: pageOf(given), where, callSid: given.CallSid ?? null };
    },
    async check({ page, where, callSid }, request) {
      const of = path === '/Recordings' ? callSid : await callInPath(parts, request);
      const filters: Filter<RecordingRow>[] = [...where];
      if (of) filters.push({ field: 'callSid', op: '=', value: of });
      const at = path === '/Recordings' || !of ? ['Recordings'] : ['Calls', of, 'Recordings'];
      return { page, where: filters, uri: uriOf(request.account, ...at) };
    },
    act: async ({ page, where, uri }, { account, raw }) =>
      ok(
        await listPage({
          table: parts.store.recordings,
          accountSid: account.sid,
          where,
          page,
          key: 'recordings',
          path: uri,
          raw,
          json: recordingJson,
        }),
      ),
  });
}

async function callInPath(parts: RecordingParts, request: RestRequest): Promise<CallSid> {
  // Recordings outlive their call, so a deleted call's are listed as long as there are any.
  const sid = pathSid('CA', request, 'callSid');
  const where: Filter<RecordingRow>[] = [{ field: 'callSid', op: '=', value: sid }];
  const { store } = parts;
  const [one] = await store.recordings.list({ accountSid: request.account.sid, where, rowsMax: 1 });
  if (!one) await findCall(parts, request, 'callSid');
  return sid;
}

async function find(parts: RecordingParts, request: RestRequest): Promise<RecordingRow> {
  const row = await parts.store.recordings.get(request.account.sid, pathSid('RE', request));
  const { callSid } = request.path;
  if (!row || (callSid !== undefined && callSid !== row.callSid)) throw missing(request);
  return row;
}

async function audio(
  parts: RecordingParts,
  row: RecordingRow,
  request: RestRequest,
): Promise<RestReply> {
  if (UNDER_WAY.has(row.status)) throw missing(request);
  const isMp3 = request.extension === 'mp3';
  const file = await (isMp3 ? parts.media.mp3(row) : parts.media.wav(row));
  if (!file) throw missing(request);
  const fields = { accountSid: row.accountSid, recordingSid: row.sid, callSid: row.callSid };
  parts.log.info({ ...fields, kind: isMp3 ? 'mp3' : 'wav' }, 'recording read');
  return { kind: 'file', file };
}

function fetchRecording(parts: RecordingParts, path: string): Resource {
  return resource({
    method: 'GET',
    path,
    params: Type.Object({}),
    extensions: ['wav', 'mp3'],
    interpret: asIs,
    check: (_given, request) => find(parts, request),
    act: async (row, request) =>
      request.extension === 'json' ? ok(recordingJson(row)) : audio(parts, row, request),
  });
}

function deleteRecording(parts: RecordingParts, path: string): Resource {
  return resource({
    method: 'DELETE',
    path,
    params: Type.Object({}),
    interpret: asIs,
    async check(_given, request) {
      const row = await find(parts, request);
      if (UNDER_WAY.has(row.status)) throw new GatewayError('REST_STILL_LIVE');
      return row;
    },
    async act(row) {
      // Files first: a row without files can be deleted again, files without a row never would be.
      await parts.media.remove(row);
      await parts.store.recordings.remove(row.accountSid, row.sid);
      const fields = { accountSid: row.accountSid, recordingSid: row.sid, callSid: row.callSid };
      parts.log.info(fields, 'recording deleted');
      return DELETED;
    },
  });
}

export function recordingResources(parts: RecordingParts): readonly Resource[] {
  return [
    listRecordings(parts, '/Recordings'),
    listRecordings(parts, '/Calls/:callSid/Recordings'),
    ...['/Recordings/:sid', '/Calls/:callSid/Recordings/:sid'].flatMap((path) => [
      fetchRecording(parts, path),
      deleteRecording(parts, path),
    ]),
  ];
}
