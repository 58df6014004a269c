/**
 * Calls that only pass: a number that is on a trunk needs no application, and goes straight on
 * through that trunk and no other. Where none of its gateways can be reached, the trunk's disaster
 * recovery URL says what becomes of the caller; where somebody there was reached and would not, the
 * caller is refused as he was (`told-end.ts`), never answered. Not the calling out (`<Dial>`).
 */
import { reasonsIn } from '../sip/cause.ts';
import type { NumberRow, TrunkRow, VoiceSettings } from '../store/store.ts';
import type { FailoverPolicy } from '../store/trunk-policy.ts';
import type { CallApplication, CallEnd, CallRecord, Passage } from './call-record.ts';
import { judgeFailover } from './failover.ts';
import type { DialTarget } from './route.ts';

/** What a number's calls run; `trunk`: the row that it is on, which overrides `voice`. */
export function applicationOf(
  { trunkSid, phoneNumber, voiceApplicationSid }: NumberRow,
  voice: VoiceSettings,
  trunk: TrunkRow | undefined,
): CallApplication {
  const isPassed = trunkSid !== null;
  return {
    applicationSid: voiceApplicationSid,
    url: isPassed ? null : voice.voiceUrl,
    method: voice.voiceMethod,
    fallbackUrl: isPassed ? null : voice.voiceFallbackUrl,
    fallbackMethod: voice.voiceFallbackMethod,
    document: isPassed ? passingDocument(phoneNumber) : null,
    ...(trunk === undefined ? {} : { passage: passageOf(trunk) }),
  };
}

/** Where a call to the number goes out again; nothing when it does not. */
export function passesTo({ phoneNumber: number, trunkSid }: NumberRow): { passesTo?: DialTarget } {
  return trunkSid === null ? {} : { passesTo: { kind: 'number', number, trunkSid } };
}

function passingDocument(number: string): string {
  const text = number.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  const dial = `<Dial answerOnBridge="true"><Number>${text}</Number></Dial>`;
  return `<Response>${dial}<Reject/></Response>`;
}

function passageOf({ sid, trunking, policy }: TrunkRow): Passage {
  const { disasterRecoveryUrl: url, disasterRecoveryMethod: method } = trunking;
  const { failover } = policy;
  return { trunkSid: sid, recovery: url === null ? null : { url, method, failover } };
}

/**
 * Whether a call never got to anybody: all that was tried failed in a way that makes one go on to
 * the next gateway, or nothing could be tried at all. `call` null: it was not even placed.
 */
export function isUnreached(
  call: Pick<CallRecord, 'answeredAtMs' | 'ringingAtMs' | 'end'> | null,
  failover: FailoverPolicy,
): boolean {
  if (call === null) return true;
  const { end, answeredAtMs, ringingAtMs } = call;
  if (end === null || answeredAtMs !== null) return false;
  if (end.by === 'remote') return isGoneOnFrom(end, failover);
  // Silence of one gateway after the other until nobody waited any more is no callee's doing.
  return end.status === 'failed' || (end.status === 'no-answer' && ringingAtMs === null);
}

function isGoneOnFrom(given: CallEnd, failover: FailoverPolicy): boolean {
  const { code, sipStatus: status, reason, sipHeaders } = given;
  const reasonHeader = reasonsIn(Object.entries(sipHeaders));
  const end = { by: 'remote', code, status, reason, reasonHeader, headers: [] } as const;
  return judgeFailover(end, failover).isNext;
}
