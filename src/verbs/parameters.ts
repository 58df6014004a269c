/**
 * The parameters that go with every request to an app server, made of the call's record alone.
 * What a verb adds is the verb's; how they are encoded and signed is `http/signature`.
 */
import type { CallRecord } from '../call/call-record.ts';
import type { Secret } from '../core/log.ts';
import { callTokenParameter } from './call-token.ts';

const API_VERSION = '2010-04-01';

export type Parameters = Readonly<Record<string, string>>;

/**
 * Where the numbers are registered: known to carriers that sell them and not told in SIP. Existing
 * apps read these by name, so they are there, and empty, as they are for a number nobody knows.
 */
const NOWHERE_KNOWN: Parameters = Object.fromEntries(
  ['From', 'To', 'Caller', 'Called'].flatMap((party) =>
    ['City', 'State', 'Zip', 'Country'].map((part) => [`${party}${part}`, ''] as const),
  ),
);

/** With `key`, the account's, also what lets an application go on for the caller. */
export function standardParameters(call: CallRecord, key: Secret | null = null): Parameters {
  return {
    CallSid: call.sid,
    AccountSid: call.accountSid,
    From: call.from,
    To: call.to,
    // The names before "From" and "To"; existing apps still read them.
    Caller: call.from,
    Called: call.to,
    ...NOWHERE_KNOWN,
    CallStatus: call.status,
    ApiVersion: API_VERSION,
    Direction: call.direction,
    ...given('ParentCallSid', call.parentCallSid),
    ...given('ForwardedFrom', call.forwardedFrom),
    ...given('CallerName', call.callerName),
    ...given('ApplicationSid', call.application?.applicationSid),
    ...(key === null ? {} : callTokenParameter(call, key)),
    ...sipParameters(call),
  };
}

/** Only headers that the leg let through are in the record, so all of them may be told. */
function sipParameters(call: CallRecord): Parameters {
  const { callId, domain, sourceAddress, headers, stir } = call.sip;
  if (callId === '') return {};
  const parameters: Record<string, string> = {
    SipCallId: callId,
    ...given('SipDomain', domain),
    ...given('SipSourceIp', sourceAddress),
    ...stir,
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
