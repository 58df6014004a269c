/**
 * Why a call ended, in three languages: the status of SIP, the cause of Q.850, our own code. Each
 * way between them is one function over one table. Not the Reason field that carries them
 * (`reason.ts`), and not which end is told to whom (`call/`).
 *
 * RFC 3398 §7.2.4.1 (cause to status) and §8.2.6.1 (status to cause); RFC 3326; RFC 6432 (causes in
 * responses); RFC 5079, 8197 and 8688 for statuses that came later.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { HeaderField } from './message.ts';
import { type Reason, readReasons } from './reason.ts';

interface CauseRow {
  readonly text: string;
  /** RFC 3398 §7.2.4.1; 0 where that table has none. */
  readonly status: number;
}

/**
 * Q.850 table 1. What RFC 3398 leaves out goes by its class, as the last row of each says; but 24
 * is what 433 stands for (RFC 5079), and 25 what 483 is written as the other way.
 */
const CAUSES: Readonly<Record<number, CauseRow>> = {
  1: { text: 'Unallocated number', status: 404 },
  2: { text: 'No route to transit network', status: 404 },
  3: { text: 'No route to destination', status: 404 },
  4: { text: 'Send special information tone', status: 0 },
  5: { text: 'Misdialled trunk prefix', status: 0 },
  6: { text: 'Channel unacceptable', status: 0 },
  7: { text: 'Call awarded in an established channel', status: 0 },
  8: { text: 'Preemption', status: 0 },
  9: { text: 'Preemption, circuit reserved for reuse', status: 0 },
  14: { text: 'Query on release: ported number', status: 0 },
  // §7.2.4.1: a release that is no failure is BYE or CANCEL; an INVITE is told what is left.
  16: { text: 'Normal call clearing', status: 480 },
  17: { text: 'User busy', status: 486 },
  18: { text: 'No user responding', status: 408 },
  19: { text: 'No answer from the user', status: 480 },
  20: { text: 'Subscriber absent', status: 480 },
  21: { text: 'Call rejected', status: 403 },
  22: { text: 'Number changed', status: 410 },
  23: { text: 'Redirection to new destination', status: 410 },
  24: { text: 'Call rejected due to feature at the destination', status: 433 },
  25: { text: 'Exchange routing error', status: 483 },
  26: { text: 'Non-selected user clearing', status: 404 },
  27: { text: 'Destination out of order', status: 502 },
  28: { text: 'Invalid number format', status: 484 },
  29: { text: 'Facility rejected', status: 501 },
  30: { text: 'Response to status enquiry', status: 0 },
  31: { text: 'Normal, unspecified', status: 480 },
  34: { text: 'No circuit available', status: 503 },
  38: { text: 'Network out of order', status: 503 },
  39: { text: 'Permanent connection out of service', status: 0 },
  40: { text: 'Permanent connection operational', status: 0 },
  41: { text: 'Temporary failure', status: 503 },
  42: { text: 'Switching equipment congestion', status: 503 },
  43: { text: 'Access information discarded', status: 0 },
  44: { text: 'Requested circuit not available', status: 0 },
  46: { text: 'Precedence call blocked', status: 0 },
  47: { text: 'Resource unavailable, unspecified', status: 503 },
  49: { text: 'Quality of service unavailable', status: 0 },
  50: { text: 'Requested facility not subscribed', status: 0 },
  53: { text: 'Outgoing calls barred within closed user group', status: 0 },
  55: { text: 'Incoming calls barred within closed user group', status: 403 },
  57: { text: 'Bearer capability not authorized', status: 403 },
  58: { text: 'Bearer capability not presently available', status: 503 },
  62: { text: 'Inconsistent access information', status: 0 },
  63: { text: 'Service or option not available, unspecified', status: 503 },
  65: { text: 'Bearer capability not implemented', status: 488 },
  66: { text: 'Channel type not implemented', status: 0 },
  69: { text: 'Requested facility not implemented', status: 0 },
  70: { text: 'Only restricted digital information available', status: 488 },
  79: { text: 'Service or option not implemented', status: 501 },
  81: { text: 'Invalid call reference', status: 0 },
  82: { text: 'Identified channel does not exist', status: 0 },
  83: { text: 'A suspended call exists, but not this one', status: 0 },
  84: { text: 'Call identity in use', status: 0 },
  85: { text: 'No call suspended', status: 0 },
  86: { text: 'Call of that identity was cleared', status: 0 },
  87: { text: 'User not member of closed user group', status: 403 },
  88: { text: 'Incompatible destination', status: 503 },
  90: { text: 'Closed user group does not exist', status: 0 },
  91: { text: 'Invalid transit network selection', status: 0 },
  95: { text: 'Invalid message, unspecified', status: 500 },
  96: { text: 'Mandatory information element missing', status: 0 },
  97: { text: 'Message type not implemented', status: 0 },
  98: { text: 'Message not compatible with call state', status: 0 },
  99: { text: 'Information element not implemented', status: 0 },
  100: { text: 'Invalid information element contents', status: 0 },
  101: { text: 'Message not compatible with call state', status: 0 },
  102: { text: 'Recovery on timer expiry', status: 504 },
  103: { text: 'Parameter not implemented, passed on', status: 0 },
  110: { text: 'Parameter not recognized, message discarded', status: 0 },
  111: { text: 'Protocol error, unspecified', status: 500 },
  127: { text: 'Interworking, unspecified', status: 500 },
};

/** Q.850: a cause that is not known counts as the last one of its class. */
const CLASS_CAUSES = [31, 31, 47, 63, 79, 95, 111, 127] as const;

/** The status that says `cause` (RFC 3398 §7.2.4.1). */
export function statusOfCause(cause: number): number {
  const status = CAUSES[cause]?.status ?? 0;
  if (status !== 0) return status;
  const ofClass = CLASS_CAUSES[cause >> 4] ?? 127;
  return CAUSES[ofClass]?.status ?? 500;
}

export function textOfCause(cause: number): string {
  return CAUSES[cause]?.text ?? '';
}

/** RFC 3398 §8.2.6.1; null: no cause says it. 606 and 488 go by Warning, else `31`. */
const STATUS_CAUSES: Readonly<Record<number, number | null>> = {
  400: 41,
  401: 21,
  402: 21,
  403: 21,
  404: 1,
  405: 63,
  406: 79,
  407: 21,
  408: 102,
  410: 22,
  413: 127,
  414: 127,
  415: 79,
  416: 127,
  420: 127,
  421: 127,
  423: 127,
  428: 21,
  433: 24,
  436: 21,
  437: 21,
  438: 21,
  480: 18,
  481: 41,
  482: 25,
  483: 25,
  484: 28,
  485: 1,
  486: 17,
  487: null,
  488: 31,
  500: 41,
  501: 79,
  502: 38,
  503: 41,
  504: 102,
  505: 127,
  513: 127,
  600: 17,
  603: 21,
  604: 1,
  606: 31,
  607: 21,
  608: 21,
};

/**
 * The cause that says `status` (RFC 3398 §8.2.6.1), null when none does. `warnCode` is that of a
 * Warning field: for 488 and 606 it decides, where it speaks of the media.
 */
export function causeOfStatus(status: number, warnCode = 0): number | null {
  if ((status === 488 || status === 606) && BEARER_WARNINGS.has(warnCode)) return 65;
  const cause = STATUS_CAUSES[status];
  if (cause !== undefined) return cause;
  if (status < 300) return status < 200 ? null : 16;
  if (status < 400) return 23;
  // RFC 3261 §8.1.3.2: what is not known counts as the first of its class.
  return status < 600 ? 41 : 21;
}

/** Protocol, addresses, transport, media type or format of the description cannot be had. */
const BEARER_WARNINGS: ReadonlySet<number> = new Set([300, 301, 302, 304, 305]);

/** How a call that a peer refused ended, by its status alone. */
export function codeOfStatus(status: number): ErrorCode {
  switch (status) {
    case 486:
    case 600:
      return 'CALL_BUSY';
    case 408:
    case 480:
      return 'CALL_NO_ANSWER';
    case 487:
      return 'CALL_CANCELED';
    default:
      return 'SIP_REFUSED';
  }
}

/** How a call that we refused ended. */
export function codeOfRefusal(status: number): ErrorCode {
  const code = codeOfStatus(status);
  return code === 'SIP_REFUSED' ? 'CALL_REJECTED' : code;
}

/**
 * The same with its causes: carriers write busy and not answered behind many a status, and the
 * cause is nearer to the person called. Other causes say no more than the status does.
 */
export function codeOfEnd(status: number, causes: readonly number[]): ErrorCode {
  for (const cause of causes) {
    if (cause === 17) return 'CALL_BUSY';
    if (cause >= 18 && cause <= 20) return 'CALL_NO_ANSWER';
  }
  return codeOfStatus(status);
}

/** The causes in Reason fields (RFC 3326 §2), each value of each field. */
export function q850Causes(fields: Iterable<HeaderField>): number[] {
  return reasonsIn(fields).flatMap(({ protocol, cause }) => {
    return cause !== null && cause < 128 && isQ850(protocol) ? [cause] : [];
  });
}

export function reasonsIn(fields: Iterable<HeaderField>): readonly Reason[] {
  const values: string[] = [];
  for (const [name, value] of fields) if (name.toLowerCase() === 'reason') values.push(value);
  return values.length === 0 ? [] : readReasons(values);
}

export function isQ850(protocol: string): boolean {
  return protocol.toUpperCase() === 'Q.850';
}

export function q850Reason(cause: number): Reason {
  return { protocol: 'Q.850', cause, text: textOfCause(cause) };
}

/** RFC 3326 §3.1: another branch of the fork answered, so the phone is to list no missed call. */
export const ANSWERED_ELSEWHERE: Reason = {
  protocol: 'SIP',
  cause: 200,
  text: 'Call completed elsewhere',
};

/**
 * The status that tells a caller how the callee's leg ended. What is about the INVITE we wrote or
 * the names we have (401, 415, 420, …) is our affair and 500 to the caller, 503 too: it would make
 * him take all of us for down (RFC 3261 §16.7 step 6). A redirection we did not follow is 480.
 */
export function passedStatus(status: number): number {
  if (status < 300 || status > 699) return 480;
  if (status < 400) return 480;
  if (status >= 600) return status;
  return TOLD_STATUSES.has(status) ? status : status === 401 || status === 407 ? 403 : 500;
}

const TOLD_STATUSES: ReadonlySet<number> = new Set([
  402, 403, 404, 408, 410, 433, 480, 482, 483, 484, 485, 486, 487, 488, 500, 501, 502, 504,
]);
