/**
 * Notifications: what went wrong while a call's application was asked or its document run, as the
 * debugger of the reference tells it. Read only; others write them.
 */
import { Type } from 'typebox';
import type { Filter, JsonObject, NotificationRow, Store } from '../store/store.ts';
import {
  API_VERSION,
  asIs,
  missing,
  ok,
  pathSid,
  type Resource,
  type RestRequest,
  resource,
  uriOf,
} from './api.ts';
import { type CallControl, findCall } from './calls.ts';
import { dateFilters, dateParams, listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';

export interface NotificationParts {
  readonly store: Store;
  readonly calls: CallControl;
}

const MORE_INFO = 'https://www.twilio.com/docs/errors/';

const LIST_PARAMS = Type.Object({
  ...PAGE_PARAMS,
  Log: Type.Optional(Type.Integer({ minimum: 0, maximum: 1 })),
  ...dateParams('MessageDate'),
});

function notificationJson(row: NotificationRow): JsonObject {
  return {
    sid: row.sid,
    account_sid: row.accountSid,
    call_sid: row.callSid,
    api_version: API_VERSION,
    log: row.level === 'error' ? '0' : '1',
    error_code: String(row.errorCode),
    more_info: `${MORE_INFO}${row.errorCode}`,
    message_text: row.messageText,
    message_date: rfc2822(row.messageMs),
    request_url: row.requestUrl,
    request_method: row.requestMethod,
    request_variables: row.requestVariables,
    response_headers: row.responseHeaders,
    response_body: row.responseBody,
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(row.accountSid, 'Notifications', row.sid),
  };
}

/** In a list only what tells them apart; requests and responses may be large. */
function briefJson(row: NotificationRow): JsonObject {
  return notificationJson({
    ...row,
    requestVariables: null,
    responseHeaders: null,
    responseBody: null,
  });
}

type ListPath = '/Notifications' | '/Calls/:callSid/Notifications';

function listNotifications(parts: NotificationParts, path: ListPath): Resource {
  return resource({
    method: 'GET',
    path,
    params: LIST_PARAMS,
    interpret(given) {
      const where = dateFilters<NotificationRow>('MessageDate', 'messageMs', given);
      if (given.Log !== undefined) {
        where.push({ field: 'level', op: '=', value: given.Log === 0 ? 'error' : 'warning' });
      }
      return { page: pageOf(given), where };
    },
    async check({ page, where }, request) {
      if (path === '/Notifications') {
        return { page, where, uri: uriOf(request.account, 'Notifications') };
      }
      const { sid } = await findCall(parts, request, 'callSid');
      const ofCall: Filter<NotificationRow>[] = [{ field: 'callSid', op: '=', value: sid }];
      const uri = uriOf(request.account, 'Calls', sid, 'Notifications');
      return { page, where: [...ofCall, ...where], uri };
    },
    act: async ({ page, where, uri }, { account, raw }) =>
      ok(
        await listPage({
          table: parts.store.notifications,
          accountSid: account.sid,
          where,
          page,
          key: 'notifications',
          path: uri,
          raw,
          json: briefJson,
        }),
      ),
  });
}

async function find(parts: NotificationParts, request: RestRequest): Promise<NotificationRow> {
  const row = await parts.store.notifications.get(request.account.sid, pathSid('NO', request));
  const { callSid } = request.path;
  if (!row || (callSid !== undefined && callSid !== row.callSid)) throw missing(request);
  return row;
}

function fetchNotification(parts: NotificationParts, path: string): Resource {
  return resource({
    method: 'GET',
    path,
    params: Type.Object({}),
    interpret: asIs,
    check: (_given, request) => find(parts, request),
    act: async (row) => ok(notificationJson(row)),
  });
}

export function notificationResources(parts: NotificationParts): readonly Resource[] {
  return [
    listNotifications(parts, '/Notifications'),
    listNotifications(parts, '/Calls/:callSid/Notifications'),
    fetchNotification(parts, '/Notifications/:sid'),
    fetchNotification(parts, '/Calls/:callSid/Notifications/:sid'),
  ];
}
