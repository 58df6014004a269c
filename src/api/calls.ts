/**
 * Calls: create, read, change, end, delete, and their trace. What is live is changed through
 * `CallControl`; what remains of a call is read from the store. A read takes the live view when
 * there is one, because it is newer than any row.
 */
import { Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import { type CallSid, isSid } from '../core/sid.ts';
import type { CallEvent, CallRow, CallStatus, Filter, JsonObject, Store } from '../store/store.ts';
import {
  API_VERSION,
  asIs,
  created,
  DELETED,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestRequest,
  resource,
  uriOf,
} from './api.ts';
import {
  applyApplication,
  type CallChange,
  type CallSpec,
  CREATE_DEFAULTS,
  CREATE_ERRORS,
  CREATE_PARAMS,
  DOCUMENT_DEFAULTS,
  forwardedCall,
  interpretCreate,
  interpretUpdate,
  UPDATE_PARAMS,
  type WantedCall,
} from './call-spec.ts';
import { dateFilters, dateParams, listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { optionalText } from './parameters.ts';

/** A call as it is told: the row it has or will have. */
export type CallView = CallRow;

/**
 * What the surface needs of the calls themselves. Each method rejects with a GatewayError; one
 * that finds the call ended meanwhile rejects with CALL_NOT_LIVE. Views are as after the change.
 */
export interface CallControl {
  /** Queues or starts the call; resolves when it has a sid, not when it is answered. */
  create(spec: CallSpec): Promise<CallView>;
  /** Another document for a call in progress; parts that are null stay. */
  redirect(sid: CallSid, change: CallChange): Promise<CallView>;
  /** `canceled`: only before it is answered; `completed`: at any time. */
  end(sid: CallSid, status: 'canceled' | 'completed'): Promise<CallView>;
  /** Counted from the answer. */
  setTimeLimit(sid: CallSid, timeLimitMs: number): Promise<CallView>;
  /** The view of a call that has not ended, or null. */
  live(sid: CallSid): CallView | null;
}

/** The trace of a call still in memory, in order; null when it is not. */
export type CallTrace = (sid: CallSid) => readonly CallEvent[] | null;

export interface CallParts {
  readonly store: Store;
  readonly calls: CallControl;
  readonly trace: CallTrace;
}

const ENDED: ReadonlySet<CallStatus> = new Set<CallStatus>([
  'completed',
  'busy',
  'failed',
  'no-answer',
  'canceled',
]);

/** What a list may ask for; `initiated` is a word of callbacks only. */
const STATUS = Type.Union([
  Type.Literal('queued'),
  Type.Literal('ringing'),
  Type.Literal('in-progress'),
  Type.Literal('completed'),
  Type.Literal('busy'),
  Type.Literal('failed'),
  Type.Literal('no-answer'),
  Type.Literal('canceled'),
]);

/** Those that there are: the reference has more, which would be answered with 404. */
const SUBRESOURCES = {
  notifications: 'Notifications',
  recordings: 'Recordings',
  trace: 'Trace',
};

function callJson(call: CallView): JsonObject {
  const subresources = Object.entries(SUBRESOURCES).map(
    ([name, part]) => [name, uriOf(call.accountSid, 'Calls', call.sid, part)] as const,
  );
  return {
    sid: call.sid,
    account_sid: call.accountSid,
    parent_call_sid: call.parentCallSid,
    to: call.to,
    to_formatted: formatted(call.to),
    from: call.from,
    from_formatted: formatted(call.from),
    phone_number_sid: call.phoneNumberSid,
    status: call.status,
    start_time: rfc2822(call.startMs),
    end_time: rfc2822(call.endMs),
    duration: call.durationS === null ? null : String(call.durationS),
    price: null,
    price_unit: 'USD',
    direction: call.direction,
    answered_by: call.answeredBy,
    api_version: API_VERSION,
    forwarded_from: call.forwardedFrom,
    group_sid: call.groupSid,
    caller_name: call.callerName,
    queue_time: String(call.queueTimeMs),
    trunk_sid: call.trunkSid,
    date_created: rfc2822(call.dateCreatedMs),
    date_updated: rfc2822(call.dateUpdatedMs),
    uri: uriOf(call.accountSid, 'Calls', call.sid),
    subresource_uris: Object.fromEntries(subresources),
    // Ours: why it ended. Client libraries leave out fields that they do not know.
    end_code: call.endCode,
    end_fault: call.endFault,
    sip_status: call.sipStatus,
  };
}

/** North American numbers in their national form; others as they are. */
function formatted(address: string): string {
  const match = /^\+1(\d{3})(\d{3})(\d{4})$/.exec(address);
  return match ? `(${match[1]}) ${match[2]}-${match[3]}` : address;
}

/** The call in the path, of this account, live or stored. */
export async function findCall(
  parts: Pick<CallParts, 'store' | 'calls'>,
  request: RestRequest,
  name = 'sid',
): Promise<CallView> {
  const sid = pathSid('CA', request, name);
  const live = parts.calls.live(sid);
  if (live?.accountSid === request.account.sid) return live;
  const row = await parts.store.calls.get(request.account.sid, sid);
  if (!row) throw missing(request);
  return row;
}

function createCall({ store, calls }: CallParts): Resource {
  return resource({
    method: 'POST',
    path: '/Calls',
    params: CREATE_PARAMS,
    defaults: CREATE_DEFAULTS,
    errors: CREATE_ERRORS,
    idempotent: true,
    interpret: interpretCreate,
    async check(asked, { account }): Promise<CallSpec> {
      let wanted: WantedCall = asked;
      const { applicationSid } = asked;
      if (applicationSid !== null) {
        const row = isSid('AP', applicationSid)
          ? await store.applications.get(account.sid, applicationSid)
          : null;
        if (!row) throw new GatewayError('CALL_APPLICATION', { sid: applicationSid.slice(0, 64) });
        wanted = applyApplication(asked, row);
      }
      const { source } = wanted;
      if (!source) throw new GatewayError('CALL_BAD_URL', { url: '(none is given)' });
      const forwards = forwardedCall(asked, account.authToken);
      return { ...wanted, source, forwards, accountSid: account.sid };
    },
    act: async (spec) => created(callJson(await calls.create(spec))),
  });
}

function listCalls({ store, calls }: CallParts): Resource {
  return resource({
    method: 'GET',
    path: '/Calls',
    params: Type.Object({
      ...PAGE_PARAMS,
      To: optionalText,
      From: optionalText,
      ParentCallSid: optionalText,
      // A word that no call can have would be an empty list for ever: refused, as others are.
      Status: Type.Optional(STATUS),
      ...dateParams('StartTime'),
      ...dateParams('EndTime'),
    }),
    interpret(given) {
      const where: Filter<CallRow>[] = [
        ...dateFilters<CallRow>('StartTime', 'startMs', given),
        ...dateFilters<CallRow>('EndTime', 'endMs', given),
      ];
      if (given.To) where.push({ field: 'to', op: '=', value: given.To });
      if (given.From) where.push({ field: 'from', op: '=', value: given.From });
      if (given.Status) where.push({ field: 'status', op: '=', value: given.Status });
      if (given.ParentCallSid) {
        where.push({ field: 'parentCallSid', op: '=', value: given.ParentCallSid });
      }
      return { page: pageOf(given), where };
    },
    check: asIs,
    act: async ({ page, where }, { account, raw }) =>
      ok(
        await listPage({
          table: store.calls,
          accountSid: account.sid,
          where,
          page,
          key: 'calls',
          path: uriOf(account, 'Calls'),
          raw,
          // A filter looked at the row; what is told is not older than that.
          json: (row) => callJson(calls.live(row.sid) ?? row),
        }),
      ),
  });
}

function updateCall(parts: CallParts): Resource {
  const { calls } = parts;
  return resource({
    method: 'POST',
    path: '/Calls/:sid',
    params: UPDATE_PARAMS,
    defaults: DOCUMENT_DEFAULTS,
    interpret: interpretUpdate,
    async check(update, request) {
      const call = await findCall(parts, request);
      const isOver = ENDED.has(call.status);
      const isAnswered = call.status === 'in-progress';
      const isNothing = !update.change && !update.end && update.timeLimitMs === null;
      const isTooLate = update.end === 'canceled' && isAnswered;
      const isTooEarly = update.change !== null && update.end === null && !isAnswered;
      if (!isNothing && (isOver || isTooLate || isTooEarly)) {
        throw new GatewayError('CALL_NOT_LIVE', { status: call.status });
      }
      return { call, update };
    },
    async act({ call, update }) {
      const { change, end, timeLimitMs } = update;
      // What ends the call makes the rest pointless.
      if (end) return ok(callJson(await calls.end(call.sid, end)));
      let view = call;
      if (timeLimitMs !== null) view = await calls.setTimeLimit(call.sid, timeLimitMs);
      if (change) view = await calls.redirect(call.sid, change);
      return ok(callJson(view));
    },
  });
}

function deleteCall(parts: CallParts): Resource {
  return resource({
    method: 'DELETE',
    path: '/Calls/:sid',
    params: Type.Object({}),
    interpret: asIs,
    async check(_given, request) {
      const call = await findCall(parts, request);
      if (!ENDED.has(call.status)) throw new GatewayError('REST_STILL_LIVE');
      return call;
    },
    async act(call) {
      await parts.store.removeCall(call.accountSid, call.sid);
      return DELETED;
    },
  });
}

/**
 * `{call_sid, account_sid, uri, trace: [{seq, at, kind, data}]}`: the messages, requests and state
 * changes of one call, bounded, oldest first, `at` in ISO 8601 with ms. Ours.
 */
function fetchTrace(parts: CallParts): Resource {
  return resource({
    method: 'GET',
    path: '/Calls/:callSid/Trace',
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => findCall(parts, request, 'callSid'),
    async act(call) {
      const events =
        parts.trace(call.sid) ?? (await parts.store.callTraces.list(call.accountSid, call.sid));
      return ok({
        call_sid: call.sid,
        account_sid: call.accountSid,
        uri: uriOf(call.accountSid, 'Calls', call.sid, 'Trace'),
        trace: events.map(({ seq, atMs, kind, data }) => {
          return { seq, at: new Date(atMs).toISOString(), kind, data };
        }),
      });
    },
  });
}

export function callResources(parts: CallParts): readonly Resource[] {
  const fetch = resource({
    method: 'GET',
    path: '/Calls/:sid',
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => findCall(parts, request),
    act: async (call) => ok(callJson(call)),
  });
  return [
    createCall(parts),
    listCalls(parts),
    fetch,
    updateCall(parts),
    deleteCall(parts),
    fetchTrace(parts),
  ];
}
