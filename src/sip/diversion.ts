/**
 * Where a call was before it came here: Diversion (RFC 5806), which carriers still send, and
 * History-Info (RFC 7044), which replaced it; each read into the same list of diversions and
 * written from it (RFC 7544). What an application sees of them is `call/header-policy.ts`.
 */
import { displayText, fieldValues, readAddress, writeAddress } from './party-headers.ts';
import { type Reason, readReasons } from './reason.ts';
import { formatUri, parseUri, type SipUri } from './uri.ts';

export interface Diversion {
  readonly display: string;
  /** Who diverted the call. */
  readonly uri: string;
  /** `user-busy`, `no-answer`, `unconditional`, `deflection`, …, or `unknown`. */
  readonly reason: string;
  /** Diversions that this entry stands for. */
  readonly counter: number;
  /** The diverting number is not to be told. */
  readonly isWithheld: boolean;
}

/** Diversions of one call that are read and written. */
const DIVERSIONS_MAX = 8;
const COUNTER_MAX = 99;

// --- Diversion --------------------------------------------------------------------------------

/** The latest first, as RFC 5806 §6 puts them. */
export function readDiversions(lines: readonly string[]): readonly Diversion[] {
  return fieldValues(lines).flatMap((value) => {
    const address = readAddress(value);
    if (address === null || address.uri === null) return [];
    const { params, uriText: uri } = address;
    const display = displayText(address.display);
    const counter = Number(/^\d{1,2}$/.exec(params.get('counter') ?? '')?.[0] ?? 1);
    const privacy = params.get('privacy')?.toLowerCase() ?? 'off';
    const reason = reasonWord(params.get('reason'));
    return [{ display, uri, reason, counter: Math.max(1, counter), isWithheld: privacy !== 'off' }];
  });
}

function reasonWord(given: string | undefined): string {
  const word = given?.toLowerCase() ?? '';
  return /^[a-z0-9-]{1,32}$/.test(word) ? word : 'unknown';
}

export function writeDiversions(diversions: readonly Diversion[]): string {
  return diversions
    .slice(0, DIVERSIONS_MAX)
    .map(({ display, uri, reason, counter, isWithheld }) => {
      const times = Math.min(counter, COUNTER_MAX);
      const privacy = isWithheld ? 'full' : 'off';
      return `${writeAddress({ display, uri })};reason=${reason};counter=${times};privacy=${privacy}`;
    })
    .join(', ');
}

// --- History-Info -----------------------------------------------------------------------------

export interface HistoryEntry {
  readonly display: string;
  /** Without its header fields. */
  readonly uri: SipUri;
  readonly index: string;
  /** Of its Reason field: why it was left (RFC 7044 §5, as RFC 4244 had it). */
  readonly reasons: readonly Reason[];
  /** Why the call came here: the `cause` of the URI (RFC 4458); 0 when it says none. */
  readonly cause: number;
  /** Index of the entry that it was diverted from (`mp`); '' when it was not. */
  readonly divertedFrom: string;
  readonly isWithheld: boolean;
}

/** In the order of the field, which is that of the hops (RFC 7044 §9). */
export function readHistory(lines: readonly string[]): readonly HistoryEntry[] {
  return fieldValues(lines).flatMap((value) => {
    const address = readAddress(value);
    const index = address?.params.get('index') ?? '';
    if (address === null || address.uri === null || !/^\d{1,4}(?:\.\d{1,4})*$/.test(index)) {
      return [];
    }
    const { uri, params } = address;
    const fields = uriFields(uri.headers);
    const cause = Number(/^[3-6]\d\d$/.exec(uri.params.get('cause') ?? '')?.[0] ?? 0);
    return [
      {
        display: displayText(address.display),
        uri: { ...uri, headers: '' },
        index,
        reasons: readReasons(fields.get('reason') ?? []),
        cause,
        divertedFrom: params.get('mp') ?? '',
        isWithheld: (fields.get('privacy') ?? []).some((word) => /\b(?:history|id)\b/i.test(word)),
      },
    ];
  });
}

/** Header fields of a URI, unescaped (RFC 3261 §19.1.1); names in lower case. */
function uriFields(headers: string): ReadonlyMap<string, string[]> {
  const fields = new Map<string, string[]>();
  for (const pair of headers.split('&')) {
    const equals = pair.indexOf('=');
    if (equals < 1) continue;
    try {
      const name = decodeURIComponent(pair.slice(0, equals)).toLowerCase();
      const value = decodeURIComponent(pair.slice(equals + 1));
      fields.set(name, [...(fields.get(name) ?? []), value]);
    } catch {
      // A broken escape says nothing.
    }
  }
  return fields;
}

/**
 * The diversions of a history, the latest first (RFC 7544 §6): an entry was left by diversion when
 * the one that follows from it says so in `mp` or in a cause of RFC 4458, or when it says itself
 * why it was left. A proxy's plain routing (`rc`, `np`) is none.
 */
export function diversionsOf(history: readonly HistoryEntry[]): readonly Diversion[] {
  const found: Diversion[] = [];
  for (const [at, entry] of history.entries()) {
    const from =
      entry.divertedFrom === ''
        ? history[at - 1]
        : history.find(({ index }) => index === entry.divertedFrom);
    if (from === undefined || from === entry) continue;
    const left = from.reasons.find(({ protocol }) => protocol.toUpperCase() === 'SIP')?.cause ?? 0;
    const cause = entry.cause === 0 ? left : entry.cause;
    if (cause === 0 && entry.divertedFrom === '') continue;
    const { cause: _, ...rest } = Object.fromEntries(from.uri.params);
    const uri = formatUri({ ...from.uri, params: new Map(Object.entries(rest)) });
    const reason = REASON_BY_CAUSE[cause] ?? 'unknown';
    found.push({ display: from.display, uri, reason, counter: 1, isWithheld: from.isWithheld });
  }
  return found.reverse();
}

/** RFC 7544 §7.2. */
const REASON_BY_CAUSE: Readonly<Record<number, string>> = {
  302: 'unconditional',
  404: 'unknown',
  408: 'no-answer',
  480: 'deflection',
  486: 'user-busy',
  487: 'deflection',
  503: 'unavailable',
};

/** RFC 7544 §7.1: the words that have no cause of their own are 404. */
const CAUSE_BY_REASON: Readonly<Record<string, number>> = {
  unconditional: 302,
  'no-answer': 408,
  deflection: 480,
  'user-busy': 486,
  unavailable: 503,
};

/**
 * A history that ends at `target`: the oldest diversion is `1`, what followed from it `1.1`, and so
 * on (RFC 7044 §10.3); each but the first says why the call came to it, and from whom.
 */
export function writeHistory(diversions: readonly Diversion[], target: string): string {
  const steps = diversions.slice(0, DIVERSIONS_MAX).toReversed();
  const entries: string[] = [];
  let index = '1';
  let reason = '';
  for (const { display, uri, isWithheld, reason: why } of steps) {
    entries.push(historyValue({ display, uri, index, reason, isWithheld }));
    reason = why;
    index = `${index}.1`;
  }
  entries.push(historyValue({ display: '', uri: target, index, reason, isWithheld: false }));
  return entries.join(', ');
}

function historyValue(entry: {
  readonly display: string;
  readonly uri: string;
  readonly index: string;
  /** Of the diversion that led here; '' for the first. */
  readonly reason: string;
  readonly isWithheld: boolean;
}): string {
  const { display, index, reason } = entry;
  const parsed = parseUri(entry.uri);
  const params = new Map(parsed.params);
  if (reason !== '') params.set('cause', String(CAUSE_BY_REASON[reason] ?? 404));
  const headers = entry.isWithheld ? 'Privacy=history' : '';
  const uri = formatUri({ ...parsed, params, headers });
  const from = reason === '' ? '' : `;mp=${index.slice(0, index.lastIndexOf('.'))}`;
  return `${writeAddress({ display, uri })};index=${index}${from}`;
}
