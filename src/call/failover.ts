/**
 * What the end of one try means for the next: whether another gateway may do better, which of
 * several answers of a fork counts (RFC 3261 §16.7), and what Q.850 says behind a SIP status
 * (RFC 3326, RFC 3398). Pure; placing is `leg-placing.ts`, how a gateway fares `trunk-health.ts`.
 */
import { isQ850 } from '../sip/cause.ts';
import type { HeaderField } from '../sip/message.ts';
import type { SessionEnd } from '../sip/session.ts';
import { DEFAULT_TRUNK_POLICY, type FailoverPolicy } from '../store/trunk-policy.ts';
import type { CallEnd } from './call-record.ts';
import type { SipHeaders } from './leg.ts';

/** Four INVITEs over UDP, at 0, 500, 1500 and 3500 ms; any answer to one, a 100 too, is enough. */
export const PLAIN_NO_PROVISIONAL_MS = 4_000;

/**
 * For what is no trunk's: RFC 3263 §4.3, the next only when one cannot be reached, says nothing at
 * all for `noProvisionalMs` (0: until timer B), or says 503. Nobody's statuses or causes are read.
 */
export function plainFailover(noProvisionalMs = PLAIN_NO_PROVISIONAL_MS): FailoverPolicy {
  const { finalStatuses, triesMax } = DEFAULT_TRUNK_POLICY.failover;
  return { statuses: ['503'], finalStatuses, causes: [], noProvisionalMs, triesMax };
}

/** User busy, no answer from user, call rejected: said by who was called, wherever we ask. */
const CALLEES_CAUSES: ReadonlySet<number> = new Set([17, 19, 21]);

export interface Judgement {
  readonly isNext: boolean;
  /** The status, cause or silence that decided, in words. */
  readonly why: string;
}

/**
 * Whether the next target is tried. A cause is nearer to what happened than the status a carrier
 * made of it, so it is asked first; then the statuses that are final, then those that are not.
 */
export function judgeFailover(end: SessionEnd, policy: FailoverPolicy): Judgement {
  if (end.code === 'CALL_NO_ANSWER' && end.by !== 'remote') {
    return { isNext: false, why: 'nobody answered in time' };
  }
  if (end.by === 'timeout') return { isNext: true, why: 'no answer at all' };
  if (end.by === 'transport') return { isNext: true, why: 'not reached' };
  if (end.by === 'local') return { isNext: false, why: `we ended it: ${end.code}` };
  const causes = q850Causes(end);
  const listed = causes.find((cause) => policy.causes.includes(cause));
  if (listed !== undefined) return { isNext: true, why: `${end.status} with cause ${listed}` };
  const callees = causes.find((cause) => CALLEES_CAUSES.has(cause));
  if (callees !== undefined) return { isNext: false, why: `${end.status} with cause ${callees}` };
  const isFinal = policy.finalStatuses.some((one) => isStatus(end.status, one));
  const isNext = !isFinal && policy.statuses.some((one) => isStatus(end.status, one));
  return { isNext, why: String(end.status) };
}

/** Whether a try's end speaks against its gateway, rather than for it being at work. */
export function isGatewayFault(end: SessionEnd): boolean {
  if (end.by === 'local') return false;
  if (end.by !== 'remote') return end.code !== 'CALL_NO_ANSWER';
  if (end.status === 408) return true;
  // Whoever was called can cause no 5xx worth counting but 500; 501, 505 and 513 are our own doing.
  return end.status === 500 || (end.status >= 502 && end.status <= 504);
}

/** How long the gateway asked to be left alone with its 503 (RFC 3261 §21.5.4); 0: it did not. */
export function restMsOf({ by, status, headers }: SessionEnd): number {
  if (by !== 'remote' || status !== 503) return 0;
  return 1000 * secondsIn(headers);
}

/** The same as a field for whoever is told of the end. */
export function restFields(end: SessionEnd): SipHeaders {
  const restMs = restMsOf(end);
  return restMs === 0 ? {} : { [RETRY_AFTER]: String(restMs / 1000) };
}

/** A caller is sent away for no longer, however long a gateway would rest. */
const RETRY_AFTER_S_MAX = 300;

/** What a caller hears of the rest that the end of the call made for him tells; 0: nothing. */
export function retryAfterOf({ by, sipStatus, sipHeaders }: CallEnd): number {
  if (by !== 'remote' || sipStatus !== 503) return 0;
  return Math.min(secondsIn(Object.entries(sipHeaders)), RETRY_AFTER_S_MAX);
}

const RETRY_AFTER = 'Retry-After';

/** RFC 3261 §20.33: seconds; what may follow them is for people. */
function secondsIn(fields: readonly HeaderField[]): number {
  const wanted = RETRY_AFTER.toLowerCase();
  const field = fields.find(([name]) => name.toLowerCase() === wanted)?.[1] ?? '';
  return Number(/^\s*(\d{1,6})/.exec(field)?.[1] ?? 0);
}

/** `503`, `5xx`. */
function isStatus(status: number, written: string): boolean {
  const text = String(status);
  return /^\dxx$/i.test(written) ? text[0] === written[0] : text === written;
}

/** The Q.850 causes that a session ended with (RFC 3326 §2). */
function q850Causes({ reasonHeader }: SessionEnd): number[] {
  return (reasonHeader ?? []).flatMap(({ protocol, cause }) =>
    cause !== null && isQ850(protocol) ? [cause] : [],
  );
}

/**
 * The end that stands for all branches of a fork (RFC 3261 §16.7 step 6): a 6xx, else one of the
 * lowest class, and of 4xx those that the caller can do something about. A branch that was not
 * reached counts as 408 or 503, and 503 as 500, because it is about one branch alone.
 */
export function bestEnd(ends: readonly SessionEnd[]): SessionEnd | null {
  let best: SessionEnd | null = null;
  for (const end of ends) if (best === null || rank(end) < rank(best)) best = end;
  return best;
}

const HELPFUL: ReadonlySet<number> = new Set([401, 407, 415, 420, 484]);

function rank({ status }: SessionEnd): number {
  if (status >= 600) return 0;
  const step = HELPFUL.has(status) ? 0 : status === 408 || status === 503 ? 2 : 1;
  return Math.floor(status / 100) * 10 + step;
}
