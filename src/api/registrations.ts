/**
 * Registered phones: the contacts at which the addresses of the account's SIP domains are reached
 * just now. Our own resource: the reference has none. What can be done with one is to end it; the
 * phone may register again, unless its user was taken out of the list.
 */
import { Type } from 'typebox';
import type { AccountSid, SipDomainSid } from '../core/sid.ts';
import type { JsonObject } from '../store/store.ts';
import { asIs, DELETED, missing, ok, pathSid, type Resource, resource, uriOf } from './api.ts';
import { heldRows, iso8601, listPage, PAGE_PARAMS, pageOf, rfc2822 } from './page.ts';
import { optionalText } from './parameters.ts';

/** One contact, as it is told. */
export interface RegisteredContact {
  readonly sid: string;
  readonly domainSid: SipDomainSid;
  /** `sip:user@domain`. */
  readonly address: string;
  readonly contact: string;
  /** Where it registered from. */
  readonly transport: string;
  readonly source: string;
  readonly q: number;
  readonly instance: string;
  readonly userAgent: string;
  readonly expiresMs: number;
  readonly dateCreatedMs: number;
  readonly dateUpdatedMs: number;
}

export interface RegistrationsView {
  list(accountSid: AccountSid): readonly RegisteredContact[];
  /** False when the account has none such. */
  remove(accountSid: AccountSid, sid: string): boolean;
}

const PATH = '/SIP/Registrations';

function contactJson(accountSid: AccountSid, row: RegisteredContact): JsonObject {
  return {
    sid: row.sid,
    account_sid: accountSid,
    domain_sid: row.domainSid,
    address: row.address,
    contact: row.contact,
    transport: row.transport,
    source: row.source,
    q: row.q,
    instance: row.instance,
    user_agent: row.userAgent,
    expires: iso8601(row.expiresMs),
    date_created: rfc2822(row.dateCreatedMs),
    date_updated: rfc2822(row.dateUpdatedMs),
    uri: uriOf(accountSid, 'SIP', 'Registrations', row.sid),
  };
}

export function registrationResources(view: RegistrationsView): readonly Resource[] {
  return [
    resource({
      method: 'GET',
      path: PATH,
      params: Type.Object({ ...PAGE_PARAMS, Address: optionalText, DomainSid: optionalText }),
      interpret: (given) => ({ ...given, page: pageOf(given) }),
      check: asIs,
      async act({ page, Address: address, DomainSid: domainSid }, { account, raw }) {
        const rows = view
          .list(account.sid)
          .filter((row) => !address || row.address === address)
          .filter((row) => !domainSid || row.domainSid === domainSid);
        return ok(
          await listPage({
            table: heldRows(rows),
            accountSid: account.sid,
            where: [],
            page,
            key: 'registrations',
            path: uriOf(account, 'SIP', 'Registrations'),
            raw,
            json: (row) => contactJson(account.sid, row),
          }),
        );
      },
    }),
    resource({
      method: 'GET',
      path: `${PATH}/:sid`,
      params: Type.Object({}),
      interpret: asIs,
      check(_given, request) {
        const sid = pathSid('RG', request);
        const row = view.list(request.account.sid).find((one) => one.sid === sid);
        if (row === undefined) throw missing(request);
        return row;
      },
      act: async (row, { account }) => ok(contactJson(account.sid, row)),
    }),
    resource({
      method: 'DELETE',
      path: `${PATH}/:sid`,
      params: Type.Object({}),
      interpret: asIs,
      check: (_given, request) => pathSid('RG', request),
      async act(sid, request) {
        if (!view.remove(request.account.sid, sid)) throw missing(request);
        return DELETED;
      },
    }),
  ];
}
