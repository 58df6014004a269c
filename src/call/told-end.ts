/**
 * What the end of one call tells the other that hangs on it: a caller whose callee was busy hears
 * busy, and why; a phone whose caller gave up hears his reason; the phones of a fork that were too
 * slow hear that another one answered. Pure; who ends when is decided by whoever runs the calls.
 *
 * RFC 3326 (Reason), RFC 6432 (Q.850 in responses), RFC 3261 §16.7.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import {
  ANSWERED_ELSEWHERE,
  causeOfStatus,
  isQ850,
  passedStatus,
  q850Reason,
  reasonsIn,
} from '../sip/cause.ts';
import type { HeaderField } from '../sip/message.ts';
import { type Reason, reasonFields } from '../sip/reason.ts';
import type { CallEnd, CallRecord } from './call-record.ts';
import { retryAfterOf } from './failover.ts';
import type { EndCause } from './leg.ts';
import { refusalHeaders } from './leg-signal.ts';

type Find = (sid: CallSid) => CallRecord | null;

/** Why `call` is about to end with `code`, as far as another call is the reason; else null. */
export function whyEnds(call: CallRecord, code: ErrorCode, find: Find): EndCause | null {
  if (call.parentCallSid !== null) return causeOfParent(call, call.parentCallSid, code, find);
  if (call.childSids.length === 0) return null;
  if (call.answeredAtMs !== null) return causeOfPartner(call, code, find);
  return call.direction === 'inbound' ? causeOfCallee(call, code, find) : null;
}

/** A dialled call: its caller went, or another phone was faster. */
function causeOfParent(
  call: CallRecord,
  parentSid: CallSid,
  code: ErrorCode,
  find: Find,
): EndCause | null {
  const parent = find(parentSid);
  if (parent === null) return null;
  if (parent.end !== null) return parent.end.by === 'remote' ? passed(parent.end, code) : null;
  const isElsewhere = parent.childSids.some((sid) => {
    const sibling = sid === call.sid ? null : find(sid);
    return sibling !== null && sibling.answeredAtMs !== null && sibling.end === null;
  });
  if (code !== 'CALL_CANCELED' || !isElsewhere) return null;
  return { code, sipStatus: 0, reasons: [ANSWERED_ELSEWHERE] };
}

/** A call that was joined with another until that one's far end hung up. */
function causeOfPartner(call: CallRecord, code: ErrorCode, find: Find): EndCause | null {
  if (code !== 'CALL_COMPLETED') return null;
  const partner = find(call.childSids.at(-1) as CallSid);
  if (partner === null || partner.end === null || partner.answeredAtMs === null) return null;
  return partner.end.by === 'remote' ? passed(partner.end, code) : null;
}

function passed({ sipHeaders }: CallEnd, code: ErrorCode): EndCause | null {
  const reasons = reasonsOf(sipHeaders);
  return reasons.length === 0 ? null : { code, sipStatus: 0, reasons };
}

/**
 * A caller who was never answered is refused as the last call that was tried for him was, unless
 * whoever runs his call says more than that it is over.
 */
function causeOfCallee(call: CallRecord, code: ErrorCode, find: Find): EndCause | null {
  if (code !== 'CALL_COMPLETED' && code !== 'CALL_REJECTED') return null;
  for (const sid of call.childSids.toReversed()) {
    const callee = find(sid);
    const end = callee?.end ?? null;
    if (callee === null || end === null || end.code === 'CALL_CANCELED') continue;
    if (callee.answeredAtMs !== null) return null;
    const given = reasonsOf(end.sipHeaders);
    const cause = end.code === 'CALL_NO_ANSWER' ? 19 : causeOfStatus(end.sipStatus);
    const hasCause = given.some(({ protocol }) => isQ850(protocol)) || cause === null;
    const reasons = hasCause ? given : [...given, q850Reason(cause)];
    const retryAfterS = retryAfterOf(end);
    return {
      ...{ code: end.code, sipStatus: passedStatus(end.sipStatus), reasons },
      ...(retryAfterS === 0 ? {} : { retryAfterS }),
    };
  }
  return null;
}

/** Told to a caller who is refused where nobody said when to come back. */
const RETRY_AFTER_S = 5;

/**
 * What goes with the refusal of a caller for `code`; `cause`: on account of another call's end. What
 * a gateway said of its 503 goes with the 500 that the caller gets for it (RFC 3261 §21.5.1).
 */
export function refusalFields(code: ErrorCode, text: string, cause?: EndCause): HeaderField[] {
  const { retryAfterS: retryAfterSeconds = RETRY_AFTER_S } = cause ?? {};
  const own = refusalHeaders(code, text, { retryAfterSeconds, warnAgent: 'tandem' });
  if (cause === undefined) return own;
  const isTold = own.some(([name]) => name === 'Retry-After') || cause.retryAfterS === undefined;
  const rest: HeaderField[] = isTold ? [] : [['Retry-After', String(retryAfterSeconds)]];
  return [...own, ...rest, ...reasonFields(cause.reasons)];
}

function reasonsOf(headers: CallEnd['sipHeaders']): readonly Reason[] {
  return reasonsIn(Object.entries(headers));
}
