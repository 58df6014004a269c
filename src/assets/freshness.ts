/**
 * How long a fetched file may be played without asking again, and how to ask: RFC 9111 as a private
 * cache reads it. Header fields in, plain data out; storing and fetching is `library.ts`.
 */
import type { GatewayError } from '../core/errors.ts';

export interface Freshness {
  /** Wall clock; a persistent cache has no other. */
  readonly freshUntilMs: number;
  readonly etag?: string;
  readonly lastModified?: string;
  /** The origin forbids to play a stale copy even when it is down (§5.2.2.2, §5.2.2.4). */
  readonly mustRevalidate: boolean;
  /** False: for those who asked now and nobody else (no-store, POST). */
  readonly isKept: boolean;
}

export const NEVER_STALE: Freshness = {
  freshUntilMs: Number.MAX_SAFE_INTEGER,
  mustRevalidate: false,
  isKept: true,
};

export const NOT_KEPT: Freshness = { freshUntilMs: 0, mustRevalidate: true, isKept: false };

export type Headers = Readonly<Record<string, string | undefined>>;

const DAY_MS = 86_400_000;
const YEAR_MS = 365 * DAY_MS;
/** Share of a file's age that it is taken to stay as it is (§4.2.2). */
const HEURISTIC_SHARE = 0.1;

/** `askedMs`: when the request was made, so that a slow answer is not taken for a fresh one. */
export function freshnessOf(headers: Headers, askedMs: number, defaultFreshMs: number): Freshness {
  const directives = parseDirectives(headers['cache-control'] ?? '');
  if (directives.has('no-store') || headers.vary?.trim() === '*') return NOT_KEPT;
  const mustAsk = directives.has('no-cache');
  const lifetimeMs = mustAsk ? 0 : lifetimeOf(headers, directives, askedMs, defaultFreshMs);
  const ageMs = seconds(headers.age) ?? 0;
  const { etag, 'last-modified': lastModified } = headers;
  return {
    freshUntilMs: askedMs + Math.max(0, Math.min(lifetimeMs, YEAR_MS) - ageMs),
    ...(etag === undefined ? {} : { etag }),
    ...(lastModified === undefined ? {} : { lastModified }),
    mustRevalidate: mustAsk || directives.has('must-revalidate'),
    isKept: true,
  };
}

/** The order of §4.2.1; s-maxage is for shared caches and this is none. */
function lifetimeOf(
  headers: Headers,
  directives: ReadonlyMap<string, string>,
  askedMs: number,
  defaultFreshMs: number,
): number {
  const maxAge = directives.get('max-age');
  // A lifetime nobody can read is none at all (§4.2.1).
  if (maxAge !== undefined) return seconds(maxAge) ?? 0;
  const dateMs = parseDate(headers.date) ?? askedMs;
  if (headers.expires !== undefined) return (parseDate(headers.expires) ?? 0) - dateMs;
  const modifiedMs = parseDate(headers['last-modified']);
  if (modifiedMs === null) return defaultFreshMs;
  const heuristicMs = Math.max(0, dateMs - modifiedMs) * HEURISTIC_SHARE;
  return Math.min(DAY_MS, Math.max(defaultFreshMs, heuristicMs));
}

/** Whether a stale copy is better than this error: only when the origin could not be heard. */
export function mayServeStale(freshness: Freshness, error: GatewayError): boolean {
  if (freshness.mustRevalidate) return false;
  switch (error.code) {
    case 'APP_TIMEOUT':
    case 'APP_UNREACHABLE':
    case 'APP_DNS':
    case 'APP_TLS':
    case 'APP_PROTOCOL':
      return true;
    case 'APP_STATUS':
      return Number(error.details.status) >= 500;
    default:
      return false;
  }
}

function parseDirectives(text: string): Map<string, string> {
  const directives = new Map<string, string>();
  for (const [, name = '', quoted, plain] of text.matchAll(
    /([a-zA-Z-]+)(?:\s*=\s*(?:"([^"]*)"|([^",\s]*)))?/g,
  )) {
    directives.set(name.toLowerCase(), quoted ?? plain ?? '');
  }
  return directives;
}

/** delta-seconds (§1.2.2) as ms. */
function seconds(text: string | undefined): number | null {
  return text !== undefined && /^\d{1,10}$/.test(text.trim()) ? Number(text) * 1000 : null;
}

function parseDate(text: string | undefined): number | null {
  const ms = text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}
