/**
 * The parameters that go with every request to an app server, made of the call's record alone.
 * What a verb adds is the verb's; how they are encoded and signed is `http/signature`.
 */
import type { CallRecord } from '../call/call-record.ts';

const API_VERSION = '2010-04-01';

export type Parameters = Readonly<Record<string, string>>;

export function standardParameters(call: CallRecord): Parameters {
  return {
    CallSid: call.sid,
    AccountSid: call.accountSid,
    From: call.from,
    To: call.to,
    // The names before "From" and "To"; existing apps still read them.
    Caller: call.from,
    Called: call.to,
    CallStatus: call.status,
    ApiVersion: API_VERSION,
    Direction: call.direction,
    ...given('ParentCallSid', call.parentCallSid),
    ...given('ForwardedFrom', call.forwardedFrom),
    ...given('CallerName', call.callerName),
    ...given('ApplicationSid', call.application?.applicationSid),
    ...sipParameters(call),
  };
}

/** Only headers that the leg let through are in the record, so all of them may be told. */
function sipParameters(call: CallRecord): Parameters {
  const { callId, domain, sourceAddress, headers } = call.sip;
  if (callId === '') return {};
  const parameters: Record<string, string> = {
    SipCallId: callId,
    ...given('SipDomain', domain),
    ...given('SipSourceIp', sourceAddress),
  };
  for (const [name, value] of Object.entries(headers)) parameters[`SipHeader_${name}`] = value;
  return parameters;
}

function given(name: string, value: string | null | undefined): Parameters {
  return value === null || value === undefined || value === '' ? {} : { [name]: value };
}

/** Whole seconds, as durations are told: anything that lasted at all lasted one. */
export function seconds(durationMs: number): string {
  return durationMs <= 0 ? '0' : String(Math.max(1, Math.round(durationMs / 1000)));
}

/** RFC 2822, in GMT: `Tue, 31 Aug 2010 20:36:28 +0000`. */
export function rfc2822(atMs: number): string {
  return new Date(atMs).toUTCString().replace('GMT', '+0000');
}
