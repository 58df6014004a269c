/**
 * What a REST client asks of a call, from parameters to plain data: the parameters of create and
 * update, and their meaning. Not the doing: `CallControl` in `calls` does it.
 *
 * Where a parameter is known to the reference but has no meaning here (answering machine
 * detection, for one), it is not in the schema, so the frame ignores it with a warning.
 */
import { type Static, Type } from 'typebox';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import type { AccountSid, ApplicationSid, CallSid } from '../core/sid.ts';
import type { ApplicationRow, HttpMethod } from '../store/store.ts';
import { readCallToken } from '../verbs/call-token.ts';
import {
  badParameter,
  httpMethod,
  httpUrl,
  optionalBoolean,
  optionalMethod,
  optionalText,
  optionalTexts,
  optionalUrl,
  type ParameterError,
  unpunctuated,
} from './parameters.ts';

/** Longest document given as a parameter; longer ones are fetched by URL. */
const TWIML_MAX = 4_000;
const RING_TIMEOUT_MAX_S = 600;
const TIME_LIMIT_MAX_S = 86_400;

export interface AppUrl {
  readonly url: string;
  readonly method: HttpMethod;
}

export type CallSource =
  | ({ readonly kind: 'url' } & AppUrl)
  | { readonly kind: 'twiml'; readonly twiml: string };

const CALL_EVENTS = ['initiated', 'ringing', 'answered', 'completed'] as const;
export type CallEventName = (typeof CALL_EVENTS)[number];
const RECORDING_EVENTS = ['in-progress', 'completed', 'absent'] as const;
export type RecordingEventName = (typeof RECORDING_EVENTS)[number];

export interface StatusCallback extends AppUrl {
  readonly events: readonly CallEventName[];
}

export interface RecordSpec {
  readonly channels: 1 | 2;
  readonly track: 'inbound' | 'outbound' | 'both';
  readonly trimSilence: boolean;
  readonly callback: (AppUrl & { readonly events: readonly RecordingEventName[] }) | null;
}

/** A call to be made. Already checked: addresses have a known form, URLs are absolute. */
export interface CallSpec {
  readonly accountSid: AccountSid;
  /** E.164 or digits, `client:name`, or `sip:…` with its headers. */
  readonly to: string;
  readonly from: string;
  /** Shown to the callee instead of `from`. */
  readonly callerId: string | null;
  /** What to do once it is answered; of the application when one was named. */
  readonly source: CallSource;
  readonly applicationSid: ApplicationSid | null;
  /** The call that it goes on from, by the token that its application was given. */
  readonly forwards: CallSid | null;
  readonly fallback: AppUrl | null;
  readonly statusCallback: StatusCallback | null;
  /** Digits to play once it is answered, before the document. */
  readonly sendDigits: string | null;
  readonly ringTimeoutMs: number;
  readonly timeLimitMs: number | null;
  readonly record: RecordSpec | null;
  readonly credentials: { readonly username: string; readonly password: Secret } | null;
}

/** A change of a live call; null leaves that part as it is. */
export interface CallChange {
  readonly source: CallSource | null;
  readonly fallback: AppUrl | null;
  readonly statusCallback: StatusCallback | null;
}

export interface CallUpdate {
  readonly change: CallChange | null;
  readonly end: 'canceled' | 'completed' | null;
  readonly timeLimitMs: number | null;
}

const DOCUMENT_PARAMS = {
  Url: optionalText,
  Twiml: Type.Optional(Type.String()),
  Method: httpMethod,
  FallbackUrl: optionalText,
  FallbackMethod: httpMethod,
  StatusCallback: optionalText,
  StatusCallbackMethod: httpMethod,
  StatusCallbackEvent: optionalTexts,
  TimeLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: TIME_LIMIT_MAX_S })),
};
export const DOCUMENT_DEFAULTS = {
  Method: 'POST',
  FallbackMethod: 'POST',
  StatusCallbackMethod: 'POST',
} as const;

const DocumentSchema = Type.Object(DOCUMENT_PARAMS);
type DocumentArguments = Static<typeof DocumentSchema>;

export const UPDATE_PARAMS = Type.Object({
  ...DOCUMENT_PARAMS,
  Status: Type.Optional(Type.Union([Type.Literal('canceled'), Type.Literal('completed')])),
});

export const CREATE_PARAMS = Type.Object({
  ...DOCUMENT_PARAMS,
  To: Type.String({ minLength: 1, maxLength: 2_048 }),
  From: Type.String({ minLength: 1, maxLength: 512 }),
  ApplicationSid: optionalText,
  CallerId: optionalText,
  CallToken: optionalText,
  SendDigits: Type.Optional(Type.String({ pattern: '^[0-9A-D#*wW]{0,32}$' })),
  Timeout: Type.Integer({ minimum: 1, maximum: RING_TIMEOUT_MAX_S }),
  Record: optionalBoolean,
  RecordingChannels: Type.Optional(Type.Union([Type.Literal('mono'), Type.Literal('dual')])),
  RecordingTrack: Type.Optional(
    Type.Union([Type.Literal('inbound'), Type.Literal('outbound'), Type.Literal('both')]),
  ),
  RecordingStatusCallback: optionalText,
  RecordingStatusCallbackMethod: optionalMethod,
  RecordingStatusCallbackEvent: optionalTexts,
  Trim: Type.Optional(Type.Union([Type.Literal('trim-silence'), Type.Literal('do-not-trim')])),
  SipAuthUsername: optionalText,
  SipAuthPassword: optionalText,
});
export const CREATE_DEFAULTS = { ...DOCUMENT_DEFAULTS, Timeout: '60' } as const;
export type CreateArguments = Static<typeof CREATE_PARAMS>;

export const CREATE_ERRORS = {
  To: (value) => {
    if (!value) return new GatewayError('CALL_NO_TO');
    return new GatewayError('CALL_BAD_TO', { to: value.slice(0, 64) });
  },
  From: (value) => {
    if (!value) return new GatewayError('CALL_NO_FROM');
    return new GatewayError('CALL_BAD_FROM', { from: value.slice(0, 64) });
  },
  SendDigits: (value) =>
    new GatewayError('CALL_SEND_DIGITS', { digits: (value ?? '').slice(0, 64) }),
  Timeout: (value) => new GatewayError('CALL_BAD_TIMEOUT', { value: (value ?? '').slice(0, 64) }),
} as const satisfies Record<string, ParameterError>;

/** As a `CallSpec`, but what an application gives is not known yet. */
export interface WantedCall extends Omit<CallSpec, 'source' | 'accountSid' | 'forwards'> {
  readonly callToken: string | null;
  readonly source: CallSource | null;
}

export function interpretCreate(given: CreateArguments): WantedCall {
  const to = address(given.To);
  if (to === null) throw new GatewayError('CALL_BAD_TO', { to: given.To.slice(0, 64) });
  const from = callerOf(given.From, to);
  if (from === null) throw new GatewayError('CALL_BAD_FROM', { from: given.From.slice(0, 64) });
  const callerId = given.CallerId ? callerOf(given.CallerId, to) : null;
  if (given.CallerId && !callerId) throw badParameter('CallerId', 'is not valid');
  const username = given.SipAuthUsername;
  return {
    to,
    from,
    callerId,
    source: sourceOf(given),
    callToken: given.CallToken || null,
    applicationSid: given.ApplicationSid ? (given.ApplicationSid as ApplicationSid) : null,
    fallback: appUrl(given.FallbackUrl, given.FallbackMethod),
    statusCallback: statusCallbackOf(given),
    sendDigits: given.SendDigits || null,
    ringTimeoutMs: given.Timeout * 1000,
    timeLimitMs: given.TimeLimit === undefined ? null : given.TimeLimit * 1000,
    record: given.Record ? recordOf(given) : null,
    credentials: username ? { username, password: new Secret(given.SipAuthPassword ?? '') } : null,
  };
}

export function interpretUpdate(given: Static<typeof UPDATE_PARAMS>): CallUpdate {
  const change: CallChange = {
    source: sourceOf(given),
    fallback: appUrl(given.FallbackUrl, given.FallbackMethod),
    statusCallback: statusCallbackOf(given),
  };
  const isChange = change.source || change.fallback || change.statusCallback;
  return {
    change: isChange ? change : null,
    end: given.Status ?? null,
    timeLimitMs: given.TimeLimit === undefined ? null : given.TimeLimit * 1000,
  };
}

/** The call that a token names, when it was made for this account and its caller is shown. */
export function forwardedCall({ callToken, callerId, from }: WantedCall, key: Secret) {
  if (callToken === null) return null;
  const token = readCallToken(callToken, key);
  if (token === null) throw badParameter('CallToken', 'is not valid');
  if (token.from !== (callerId ?? from)) {
    throw badParameter('CallToken', 'is of a call of another caller');
  }
  return token.callSid;
}

/** An application overrides the URLs of the request, as in the reference. */
export function applyApplication(wanted: WantedCall, row: ApplicationRow): WantedCall {
  return {
    ...wanted,
    source: row.voiceUrl ? { kind: 'url', url: row.voiceUrl, method: row.voiceMethod } : null,
    fallback: row.voiceFallbackUrl
      ? { url: row.voiceFallbackUrl, method: row.voiceFallbackMethod }
      : null,
    statusCallback: row.statusCallback
      ? {
          url: row.statusCallback,
          method: row.statusCallbackMethod,
          events: wanted.statusCallback?.events ?? ['completed'],
        }
      : null,
  };
}

/** Url wins over Twiml when both are given (32019 in the reference is a warning). */
function sourceOf(given: DocumentArguments): CallSource | null {
  if (given.Url) {
    const url = httpUrl(given.Url);
    if (url === null) throw new GatewayError('CALL_BAD_URL', { url: given.Url.slice(0, 256) });
    return { kind: 'url', url, method: given.Method };
  }
  if (!given.Twiml) return null;
  if (given.Twiml.length > TWIML_MAX)
    throw new GatewayError('TWIML_TOO_LONG', { limit: TWIML_MAX });
  return { kind: 'twiml', twiml: given.Twiml };
}

function appUrl(value: string | undefined, method: HttpMethod): AppUrl | null {
  const url = optionalUrl(value);
  return url === null ? null : { url, method };
}

function statusCallbackOf(given: DocumentArguments): StatusCallback | null {
  const target = appUrl(given.StatusCallback, given.StatusCallbackMethod);
  if (!target) return null;
  return { ...target, events: eventsOf(given.StatusCallbackEvent, CALL_EVENTS) };
}

function recordOf(given: CreateArguments): RecordSpec {
  const target = appUrl(
    given.RecordingStatusCallback,
    given.RecordingStatusCallbackMethod ?? 'POST',
  );
  return {
    channels: given.RecordingChannels === 'dual' ? 2 : 1,
    track: given.RecordingTrack ?? 'both',
    trimSilence: given.Trim !== 'do-not-trim',
    callback: target && {
      ...target,
      events: eventsOf(given.RecordingStatusCallbackEvent, RECORDING_EVENTS),
    },
  };
}

/** Repeated or in one, by spaces or commas; unknown names are left out; none: `completed`. */
function eventsOf<E extends string>(
  values: readonly string[] | undefined,
  known: readonly E[],
): readonly E[] {
  const names = (values ?? []).flatMap((value) => value.split(/[\s,]+/));
  const events = known.filter((name) => names.includes(name));
  return events.length > 0 ? events : known.filter((name) => name === 'completed');
}

/** What can be dialled: a number without its punctuation, a client or a SIP address. */
function address(value: string): string | null {
  if (/^client:[\x21-\x7e]{1,256}$/.test(value)) return value;
  if (/^sips?:[^\s<>"]{1,2000}$/i.test(value)) return value;
  const digits = unpunctuated(value);
  return /^\+?[0-9*#]{1,20}$/.test(digits) ? digits : null;
}

/** To a SIP address any short name may call, to the rest a number or a client. */
function callerOf(value: string, to: string): string | null {
  const known = address(value);
  if (known !== null) return known;
  return /^sips?:/i.test(to) && /^[A-Za-z0-9_.+-]{1,64}$/.test(value) ? value : null;
}
