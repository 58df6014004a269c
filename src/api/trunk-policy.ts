/**
 * The `Policy` parameter of a trunk: any part of `store/trunk-policy.ts` as JSON, checked field by
 * field, laid over what the trunk has. Sections are merged, lists replaced. What a policy means is
 * not here.
 */
import { type TProperties, Type } from 'typebox';
import { ruleProblem } from '../call/header-policy.ts';
import { CODEC_NAMES } from '../core/codec.ts';
import { type TrunkPolicy, type TrunkPolicyChange, trunkPolicy } from '../store/trunk-policy.ts';
import { JsonParameter } from './json-parameter.ts';
import { badParameter } from './parameters.ts';
import { words } from './words.ts';

const LIST_MAX = 64;
const NUMBERS_MAX = 1_000;
const CALLS_MAX = 1_000_000;
const CALLS_PER_SECOND_MAX = 10_000;
/** RFC 4028 §5: below 90 s a session would be refreshed all the time. */
const MIN_SE_MIN_S = 90;
const HOUR_S = 3_600;
const DAY_S = 86_400;

function section<P extends TProperties>(fields: P) {
  return Type.Partial(Type.Object(fields), { additionalProperties: false });
}

function whole(minimum: number, maximum: number) {
  const description = `must be a whole number from ${minimum} to ${maximum}`;
  return Type.Integer({ minimum, maximum, description });
}

function number(minimum: number, maximum: number) {
  const description = `must be a number from ${minimum} to ${maximum}`;
  return Type.Number({ minimum, maximum, description });
}

function textOf(pattern: string, what: string) {
  return Type.String({ pattern, description: `must be ${what}` });
}

function listOf(maxItems: number) {
  return { maxItems, description: `must be a list of at most ${maxItems}` };
}

const truth = Type.Boolean({ description: 'must be true or false' });
const dialled = textOf('^\\d{0,6}$', 'at most 6 digits');
const status = textOf('^[3-6](?:\\d\\d|xx)$', 'a status as 503, or a class as 5xx');

const NUMBERS = section({
  inbound: words('as-is', 'e164'),
  outbound: words('as-is', 'e164', 'plain', 'international', 'national'),
  countryCode: textOf('^(?:[1-9]\\d{0,2})?$', 'the digits of a country code, without plus'),
  internationalPrefix: dialled,
  nationalPrefix: dialled,
  stripDigits: whole(0, 15),
  addPrefix: textOf('^\\+?[0-9*#]{0,15}$', 'at most 15 digits'),
});

const CALLER_ID = section({
  mode: words('as-is', 'fixed', 'allowed'),
  allowed: Type.Array(textOf('^\\+?[0-9*#]{1,32}$', 'a number'), listOf(NUMBERS_MAX)),
  fallback: textOf('^(?:\\+?[0-9*#]{1,32})?$', 'a number, or empty to withhold it'),
});

const HEADER_RULE = Type.Object(
  {
    direction: words('in', 'out'),
    action: words('pass', 'set', 'remove'),
    // RFC 3261 §25.1: a token.
    name: textOf("^[A-Za-z0-9.!%*_+`'~-]{1,64}$", 'the name of a header field'),
    // Without control characters: it cannot end its line and begin another field.
    value: Type.Optional(textOf('^[^\\u0000-\\u001f\\u007f]{0,512}$', 'one line of text')),
  },
  { additionalProperties: false },
);

const POLICY = section({
  codecs: Type.Array(words(...CODEC_NAMES), listOf(LIST_MAX)),
  ptimeMs: whole(10, 120),
  srtp: words('off', 'preferred', 'required'),
  dtmf: words('rfc4733', 'info', 'inband'),
  sessionTimer: section({
    mode: words('off', 'accept', 'request', 'require'),
    expiresS: whole(MIN_SE_MIN_S, DAY_S),
    minSeS: whole(MIN_SE_MIN_S, DAY_S),
    refresher: words('auto', 'uac', 'uas'),
  }),
  reliable: words('off', 'support', 'require'),
  numbers: NUMBERS,
  callerId: CALLER_ID,
  identity: section({
    trust: truth,
    send: words('none', 'pai', 'rpid', 'both'),
    diversion: words('drop', 'diversion', 'history-info'),
    userToUser: words('drop', 'pass'),
  }),
  stir: section({ sign: truth, verify: words('off', 'report', 'require') }),
  headers: Type.Array(HEADER_RULE, listOf(LIST_MAX)),
  refer: words('refuse', 'accept', 'application'),
  redirect: section({ mode: words('refuse', 'follow'), redirectsMax: whole(1, 10) }),
  failover: section({
    statuses: Type.Array(status, listOf(LIST_MAX)),
    finalStatuses: Type.Array(status, listOf(LIST_MAX)),
    causes: Type.Array(whole(1, 127), listOf(LIST_MAX)),
    noProvisionalMs: whole(200, 60_000),
    triesMax: whole(1, 32),
  }),
  limits: section({
    callsMax: whole(0, CALLS_MAX),
    callsInMax: whole(0, CALLS_MAX),
    callsOutMax: whole(0, CALLS_MAX),
    callsPerSecondIn: number(0, CALLS_PER_SECOND_MAX),
    callsPerSecondOut: number(0, CALLS_PER_SECOND_MAX),
  }),
  health: section({
    optionsIntervalS: whole(0, HOUR_S),
    failuresToDown: whole(1, 100),
    successesToUp: whole(1, 100),
    failureRateMax: number(0, 1),
    triesMin: whole(1, 10_000),
    restS: whole(1, HOUR_S),
  }),
  registration: section({
    enabled: truth,
    addressOfRecord: textOf(
      '^(?:sips?:[^\\s<>"@]{1,128}@[^\\s<>"@]{1,128})?$',
      'a SIP address, or empty for the user name at the registrar',
    ),
    expiresS: whole(60, DAY_S),
  }),
});

const PARAMETER = new JsonParameter({ name: 'Policy', schema: POLICY });

/** What the parameter says, not yet laid over anything; '' goes back to the defaults. */
export function parsePolicy(text: string): TrunkPolicyChange | null {
  if (text === '') return null;
  const { headers, ...given } = PARAMETER.parse(text);
  const rules = headers?.map((rule) => ({ ...rule, value: rule.value ?? '' }));
  for (const [index, rule] of (rules ?? []).entries()) {
    const problem = ruleProblem(rule);
    if (problem !== '') throw badParameter(`Policy.headers[${index}]`, `cannot be: ${problem}`);
  }
  return { ...given, ...(rules && { headers: rules }) };
}

/** The change over what the trunk has, and what its fields must be to each other. */
export function changedPolicy(change: TrunkPolicyChange | null, base: TrunkPolicy): TrunkPolicy {
  const policy = change === null ? trunkPolicy({}) : trunkPolicy(change, base);
  const { sessionTimer, callerId } = policy;
  if (sessionTimer.minSeS > sessionTimer.expiresS) {
    throw badParameter('Policy.sessionTimer.minSeS', 'must not be above expiresS');
  }
  if (callerId.mode === 'allowed' && callerId.allowed.length === 0) {
    throw badParameter('Policy.callerId.allowed', 'must have a number when mode is allowed');
  }
  if (policy.ptimeMs % 10 !== 0) {
    throw badParameter('Policy.ptimeMs', 'must be a multiple of 10');
  }
  return policy;
}
