/**
 * Connection overrides in a webhook URL's fragment: `https://host/p#rc=2&rp=all&ct=500`.
 * They never go on the wire and are not signed. A value that is not valid is an error with its own
 * number (11240 unknown key, 11241 bad value), so that a typo does not silently mean the default.
 */
import { GatewayError } from '../core/errors.ts';
import { shown } from './url.ts';

export type RetryReason = '4xx' | '5xx' | 'ct' | 'rt';

export interface ConnectionPolicy {
  /** Time to a connected (and for https, secured) socket, ms. */
  readonly connectMs: number;
  /** Time from request sent to headers, and between body chunks, ms. */
  readonly readMs: number;
  /** Time for all tries together, ms. */
  readonly totalMs: number;
  readonly retries: number;
  readonly retryOn: ReadonlySet<RetryReason>;
}

const RANGES = {
  ct: { min: 100, max: 10_000 },
  rt: { min: 100, max: 15_000 },
  tt: { min: 100, max: 15_000 },
  rc: { min: 0, max: 5 },
} as const;

const REASONS: readonly RetryReason[] = ['4xx', '5xx', 'ct', 'rt'];
/** Keys that choose another network path; accepted so that URLs stay portable, without effect. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set(['e', 'sni']);

/** `defaults` with what the fragment of `url` overrides. */
export function connectionPolicy(url: string, defaults: ConnectionPolicy): ConnectionPolicy {
  const hash = url.indexOf('#');
  if (hash < 0 || hash === url.length - 1) return defaults;
  const found = {
    connectMs: defaults.connectMs,
    readMs: defaults.readMs,
    totalMs: defaults.totalMs,
  };
  let { retries, retryOn } = defaults;
  let totalGiven = false;
  for (const pair of url.slice(hash + 1).split('&')) {
    const equals = pair.indexOf('=');
    const key = equals < 0 ? pair : pair.slice(0, equals);
    const value = equals < 0 ? '' : pair.slice(equals + 1);
    if (key === 'rp') retryOn = reasons(url, pair, value);
    else if (key === 'rc') retries = bounded(url, pair, value, RANGES.rc);
    else if (key === 'ct') found.connectMs = bounded(url, pair, value, RANGES.ct);
    else if (key === 'rt') found.readMs = bounded(url, pair, value, RANGES.rt);
    else if (key === 'tt') {
      found.totalMs = bounded(url, pair, value, RANGES.tt);
      totalGiven = true;
    } else if (!WITHOUT_EFFECT.has(key)) {
      // Its value means nothing to us, so it may mean too much to be printed.
      throw new GatewayError('APP_OVERRIDE', { url: shown(url), override: key.slice(0, 40) });
    }
  }
  // Asking for a longer read than our own total would otherwise be cut without a word.
  if (!totalGiven) found.totalMs = Math.max(found.totalMs, found.readMs);
  return { ...found, retries, retryOn };
}

function bounded(
  url: string,
  pair: string,
  text: string,
  range: { min: number; max: number },
): number {
  const value = /^\d{1,5}$/.test(text) ? Number(text) : -1;
  if (value < range.min || value > range.max) {
    throw new GatewayError('APP_OVERRIDE_VALUE', {
      url: shown(url),
      override: pair,
      min: range.min,
      max: range.max,
    });
  }
  return value;
}

function reasons(url: string, pair: string, text: string): ReadonlySet<RetryReason> {
  const found = new Set<RetryReason>();
  for (const name of text.replace(/%2c/gi, ',').split(',')) {
    if (name === 'all') for (const reason of REASONS) found.add(reason);
    else {
      const reason = REASONS.find((known) => known === name);
      if (!reason) {
        throw new GatewayError('APP_OVERRIDE_POLICY', { url: shown(url), override: pair });
      }
      found.add(reason);
    }
  }
  return found;
}
