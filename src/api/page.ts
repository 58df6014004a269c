/**
 * Lists: the envelopes of the 2010-04-01 surface and of the v1 products, page tokens and date
 * filters. A page token names
 * the place after a row, not an offset, so rows that come while a client turns pages neither shift
 * nor repeat others, and it carries the row's date, so the place stands when the row is deleted.
 */
import { type Static, Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import type { Filter, Json, JsonObject, ListQuery, Table } from '../store/store.ts';
import { badParameter, optionalText, type RawForm } from './parameters.ts';

const PAGE_SIZE_MAX = 1_000;
const PAGE_SIZE_DEFAULT = 50;
/** Pages by number alone cost the database all rows before them. */
const SKIP_ROWS_MAX = 100_000;
const DAY_MS = 86_400_000;

export const PAGE_PARAMS = {
  PageSize: Type.Optional(Type.Integer({ minimum: 1 })),
  Page: Type.Optional(Type.Integer({ minimum: 0 })),
  PageToken: optionalText,
};
const PageSchema = Type.Object(PAGE_PARAMS);
type PageArguments = Static<typeof PageSchema>;

export interface Page {
  readonly rows: number;
  readonly number: number;
  readonly token: PageToken | null;
}

/** Text: `PA` (onwards) or `PB` (back), the sid, `_`, its creation in ms in base 36. */
interface PageToken {
  readonly backward: boolean;
  readonly sid: string;
  readonly dateCreatedMs: number | null;
}

export function pageOf(args: PageArguments): Page {
  const rows = args.PageSize ?? PAGE_SIZE_DEFAULT;
  if (rows > PAGE_SIZE_MAX) throw new GatewayError('REST_PAGE_SIZE', { limit: PAGE_SIZE_MAX });
  const number = args.Page ?? 0;
  const token = args.PageToken ? parseToken(args.PageToken) : null;
  if (!token && number * rows > SKIP_ROWS_MAX) {
    throw badParameter('Page', 'is too far for a page number: follow next_page_uri');
  }
  return { rows, number, token };
}

function parseToken(value: string): PageToken {
  const match = /^P([AB])([A-Z]{2}[0-9a-f]{32})(?:_([0-9a-z]{1,10}))?$/.exec(value);
  if (!match) throw badParameter('PageToken', 'is not valid');
  const [, direction, sid = '', date] = match;
  return {
    backward: direction === 'B',
    sid,
    dateCreatedMs: date === undefined ? null : Number.parseInt(date, 36),
  };
}

function formatToken(backward: boolean, row: Listed): string {
  return `P${backward ? 'B' : 'A'}${row.sid}_${row.dateCreatedMs.toString(36)}`;
}

interface Listed {
  readonly sid: string;
  readonly dateCreatedMs: number;
}

export interface ListRequest<Row> {
  readonly table: Pick<Table<Row>, 'get' | 'list'>;
  readonly accountSid: AccountSid;
  readonly where: readonly Filter<Row>[];
  readonly page: Page;
  /** The name under which the rows stand; clients take the first array they find. */
  readonly key: string;
  /** Path of the list, host-relative; `.json` is at its end where the surface has that. */
  readonly path: string;
  /** As it came: filters are repeated in the links to other pages. */
  readonly raw: RawForm;
  json(row: Row): JsonObject;
}

interface Turned<Row> {
  readonly rows: readonly Row[];
  readonly own: string;
  readonly first: string;
  readonly next: string | null;
  readonly previous: string | null;
}

/** One page with its envelope. */
export async function listPage<Row extends Listed>(o: ListRequest<Row>): Promise<JsonObject> {
  const { page } = o;
  const { rows, own, first, next, previous } = await turn(o);
  const start = page.number * page.rows;
  return {
    [o.key]: rows.map((row) => o.json(row)),
    page: page.number,
    page_size: page.rows,
    start,
    end: start + Math.max(rows.length - 1, 0),
    uri: own,
    first_page_uri: first,
    next_page_uri: next,
    previous_page_uri: previous,
  } satisfies Record<string, Json>;
}

/** As the v1 products have it: `publicUrl` is before every address, for clients take them as is. */
export async function listMetaPage<Row extends Listed>(
  o: ListRequest<Row>,
  publicUrl: string,
): Promise<JsonObject> {
  const { rows, own, first, next, previous } = await turn(o);
  const absolute = (uri: string | null) => (uri === null ? null : `${publicUrl}${uri}`);
  return {
    [o.key]: rows.map((row) => o.json(row)),
    meta: {
      key: o.key,
      page: o.page.number,
      page_size: o.page.rows,
      url: absolute(own),
      first_page_url: absolute(first),
      next_page_url: absolute(next),
      previous_page_url: absolute(previous),
    },
  } satisfies Record<string, Json>;
}

async function turn<Row extends Listed>(o: ListRequest<Row>): Promise<Turned<Row>> {
  const { page } = o;
  const query: ListQuery<Row> = {
    accountSid: o.accountSid,
    where: o.where,
    // One more than told, to know whether there is another page.
    rowsMax: page.rows + 1,
    ...(await place(o)),
  };
  const found = await o.table.list(query);
  const hasMore = found.length > page.rows;
  const isBack = page.token?.backward === true;
  const rows = isBack ? found.slice(-page.rows) : found.slice(0, page.rows);
  const first = rows[0];
  const last = rows.at(-1);
  const hasNext = isBack ? rows.length > 0 : hasMore;
  const hasPrevious = isBack ? hasMore : page.number > 0;
  return {
    rows,
    own: pageUri(o, page.number, o.raw.PageToken?.at(-1)),
    first: pageUri(o, 0),
    next: hasNext && last ? pageUri(o, page.number + 1, formatToken(false, last)) : null,
    previous:
      hasPrevious && first
        ? pageUri(o, Math.max(page.number - 1, 0), formatToken(true, first))
        : null,
  };
}

/** Rows at hand, as those that lie inside another row, in the order and pages of a table. */
export function heldRows<Row extends Listed>(rows: readonly Row[]): ListRequest<Row>['table'] {
  const sorted = [...rows].sort((a, b) => (isNewer(a, b) ? -1 : 1));
  return {
    get: async (_account, sid) => sorted.find((row) => row.sid === sid) ?? null,
    async list({ rowsMax, skip = 0, position, backward }) {
      if (!position) return sorted.slice(skip, skip + rowsMax);
      if (!backward) return sorted.filter((row) => isNewer(position, row)).slice(0, rowsMax);
      return sorted.filter((row) => isNewer(row, position)).slice(-rowsMax);
    },
  };
}

function isNewer(one: Listed, other: Listed): boolean {
  if (one.dateCreatedMs !== other.dateCreatedMs) return one.dateCreatedMs > other.dateCreatedMs;
  return one.sid > other.sid;
}

async function place<Row extends Listed>(
  o: ListRequest<Row>,
): Promise<Pick<ListQuery<Row>, 'skip' | 'position' | 'backward'>> {
  const { token, number, rows } = o.page;
  if (!token) return { skip: number * rows };
  const { sid, backward } = token;
  if (token.dateCreatedMs !== null) {
    return { position: { sid, dateCreatedMs: token.dateCreatedMs }, backward };
  }
  // A bare `PA<sid>`, as another program may have kept it: the row must still be there.
  const row = await o.table.get(o.accountSid, sid);
  if (!row) throw badParameter('PageToken', 'is of a row that is gone');
  return { position: { sid, dateCreatedMs: row.dateCreatedMs }, backward };
}

/** Host-relative, as the client libraries put their own base before it. */
function pageUri<Row>(o: ListRequest<Row>, number: number, token?: string): string {
  const query = new URLSearchParams();
  for (const [key, values] of Object.entries(o.raw)) {
    if (key in PAGE_PARAMS) continue;
    for (const value of values) query.append(key, value);
  }
  query.append('PageSize', String(o.page.rows));
  query.append('Page', String(number));
  if (token) query.append('PageToken', token);
  return `${o.path}?${query}`;
}

/** Parameters of a date filter: on that day, on or before, on or after. The keys are literal. */
export function dateParams<N extends string>(name: N) {
  return {
    [name]: optionalText,
    [`${name}<`]: optionalText,
    [`${name}>`]: optionalText,
  } as Record<N | `${N}<` | `${N}>`, typeof optionalText>;
}

/**
 * `Name` is a day of UTC whatever time stands with it; `Name<` and `Name>` are inclusive, and a
 * date without time in `Name<` includes that day.
 */
export function dateFilters<Row>(
  name: string,
  field: keyof Row & string,
  args: Readonly<Record<string, string | number | undefined>>,
): Filter<Row>[] {
  const filters: Filter<Row>[] = [];
  const [day, before, after] = [name, `${name}<`, `${name}>`].map((key) => String(args[key] ?? ''));
  if (day) {
    const atMs = parseDate(name, day);
    const startMs = atMs - (((atMs % DAY_MS) + DAY_MS) % DAY_MS);
    filters.push({ field, op: '>=', value: startMs });
    filters.push({ field, op: '<', value: startMs + DAY_MS });
  }
  if (before) {
    const atMs = parseDate(name, before);
    if (isDateOnly(before)) filters.push({ field, op: '<', value: atMs + DAY_MS });
    // Clients send whole seconds: the rest of that second is included.
    else filters.push({ field, op: '<', value: atMs - (atMs % 1000) + 1000 });
  }
  if (after) filters.push({ field, op: '>=', value: parseDate(name, after) });
  return filters;
}

function isDateOnly(value: string): boolean {
  return /^\d{4}-\d{2}-\d{2}$/.test(value);
}

/** ISO 8601, or RFC 2822 as we print it; text without zone is UTC. */
function parseDate(name: string, value: string): number {
  const iso = /^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$/;
  const match = iso.exec(value);
  const hasNoZone = match?.[1] !== undefined && match[4] === undefined;
  const isRfc2822 = /^[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} /.test(value);
  const atMs = match || isRfc2822 ? Date.parse(hasNoZone ? `${value}Z` : value) : Number.NaN;
  if (Number.isNaN(atMs)) throw badParameter(name, 'is not a date (YYYY-MM-DD or ISO 8601)');
  return atMs;
}

/** `Tue, 31 Aug 2010 20:36:28 +0000` */
export function rfc2822(atMs: number | null): string | null {
  return atMs === null ? null : new Date(atMs).toUTCString().replace('GMT', '+0000');
}

/** `2014-05-14T10:50:02Z`: the v1 products' dates. */
export function iso8601(atMs: number): string {
  return new Date(atMs).toISOString().replace(/\.\d{3}Z$/, 'Z');
}
