/**
 * Which header fields pass through a trunk, and what they say of the parties. Inbound: what an
 * application may see, and who calls, as far as the trunk is believed. Outbound: the caller as the
 * trunk wants him told, and the fields of the application that may go. Rules of a trunk work on
 * names in one spelling (`canonicalName`), never on text, so that `Name :`, compact forms, folds and
 * repetitions slip nothing past them. Pure: fields and policy come in, plain data goes out.
 *
 * RFC 3323, 3325, 5806, 7044, 7433. Fields of the protocol are written by `sip/` alone.
 */
import { writeDiversions, writeHistory } from '../sip/diversion.ts';
import { canonicalName } from '../sip/header.ts';
import { encodeUtf8, type HeaderField } from '../sip/message.ts';
import {
  ANONYMOUS,
  isAnonymous,
  type PartyAddress,
  writeAsserted,
  writePrivacy,
  writeRemoteParty,
} from '../sip/party-headers.ts';
import { type HeaderRule, PROTECTED_HEADERS, type TrunkPolicy } from '../store/trunk-policy.ts';
import type { Decisions } from './decision.ts';
import type { SipHeaders } from './leg.ts';
import { isTold } from './leg-signal.ts';
import { callerIdFor, formatOutbound } from './number-format.ts';
import { CLAIMS, NAMING, type PartyFacts, readParty, userToUserOf } from './party-facts.ts';
import { fromUriOf } from './route.ts';

export interface HeaderLimits {
  readonly headersMax: number;
  readonly headerCharsMax: number;
}

export const DEFAULT_HEADER_LIMITS: HeaderLimits = { headersMax: 32, headerCharsMax: 1024 };

type HeaderPolicy = Pick<TrunkPolicy, 'identity' | 'numbers' | 'callerId' | 'headers'>;

// --- Names ------------------------------------------------------------------------------------

/**
 * Whether a field is the protocol's: routing, dialog, body, authentication. In any spelling; the
 * families `Content-*`, `Proxy-*` and `Security-*` whole.
 */
export function isProtected(name: string): boolean {
  const canonical = canonicalName(name);
  return (
    PROTECTED_HEADERS.has(canonical) || PROTECTED_FAMILIES.test(canonical) || MORE.has(canonical)
  );
}

const PROTECTED_FAMILIES = /^(?:content|proxy|security|sip)-/;
const MORE: ReadonlySet<string> = new Set([
  'accept',
  'accept-encoding',
  'date',
  'expires',
  'join',
  'mime-version',
  'p-early-media',
  'retry-after',
  'server',
  'service-route',
  'subscription-state',
  'target-dialog',
  'timestamp',
  'user-agent',
  'warning',
]);

const NAME = /^[\w\-.!%*+`'~]{1,64}$/;
const VALUE_CHARS_MAX = 1024;

/** Why there may be no such rule; '' when there may. */
export function ruleProblem({ name, action, value }: HeaderRule): string {
  if (!NAME.test(name)) return `"${name}" is no name of a header field`;
  if (isProtected(name)) return `${name} belongs to the protocol`;
  if (action === 'set' && /\p{Cc}/u.test(value)) return `the value for ${name} is not one line`;
  if (value.length > VALUE_CHARS_MAX) return `the value for ${name} is too long`;
  return '';
}

/** The rules of one direction that can be carried out, by canonical name; the last one counts. */
function rulesOf(
  policy: HeaderPolicy,
  direction: 'in' | 'out',
  decisions: Decisions | null,
): ReadonlyMap<string, HeaderRule> {
  const rules = new Map<string, HeaderRule>();
  for (const rule of policy.headers) {
    if (rule.direction !== direction) continue;
    const problem = ruleProblem(rule);
    if (problem === '') rules.set(canonicalName(rule.name), rule);
    else decisions?.no('header', `a rule is not carried out: ${problem}`, 'Policy headers');
  }
  return rules;
}

/** One line without controls: a value never ends its field. */
function oneLine(value: string, charsMax: number): string {
  return value
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
    .slice(0, charsMax);
}

/** A compact name in full; any other as it came. */
function spelled(name: string): string {
  const bare = name.trim();
  if (bare.length > 1) return bare;
  return canonicalName(bare).replace(/(?:^|-)[a-z]/g, (start) => start.toUpperCase());
}

/** Of an INVITE what a policy may look at: From, Identity, and all that is not the protocol's. */
export function offeredFields(fields: readonly HeaderField[]): readonly HeaderField[] {
  return fields.filter(([name]) => {
    const canonical = canonicalName(name);
    return canonical === 'from' || canonical === 'identity' || !isProtected(canonical);
  });
}

// --- Inbound ----------------------------------------------------------------------------------

export interface InboundFacts {
  /** What the application may see. */
  readonly headers: SipHeaders;
  readonly party: PartyFacts;
}

/** What the fields of an INVITE say under `policy`; `decisions` is told what was not believed. */
export function inboundHeaders(
  fields: readonly HeaderField[],
  policy: HeaderPolicy,
  limits: HeaderLimits,
  decisions: Decisions | null = null,
): InboundFacts {
  const rules = rulesOf(policy, 'in', decisions);
  // One that a rule removes or sets is the rule's: what came under its name says nothing at all.
  const passed = fields.filter(([name]) => !isReplaced(rules.get(canonicalName(name))?.action));
  const party = readParty([...passed, ...setBy(rules)], policy, decisions);
  const headers = new Map<string, string>();
  const seen = new Set<string>();
  for (const [name, value] of passed) {
    const canonical = canonicalName(name);
    if (seen.has(canonical) || seen.size >= limits.headersMax) continue;
    if (!isToldInbound(canonical, rules.has(canonical), policy, party)) continue;
    seen.add(canonical);
    const text = canonical === 'user-to-user' ? party.userToUser : value;
    if (text !== '') headers.set(spelled(name), oneLine(text, limits.headerCharsMax));
  }
  for (const [name, value] of setBy(rules)) headers.set(name, oneLine(value, VALUE_CHARS_MAX));
  return { headers: Object.fromEntries(headers), party };
}

function isReplaced(action: HeaderRule['action'] | undefined): boolean {
  return action === 'remove' || action === 'set';
}

function setBy(rules: ReadonlyMap<string, HeaderRule>): readonly HeaderField[] {
  return [...rules.values()].flatMap(({ action, name, value }) =>
    action === 'set' ? [[name, value] as const] : [],
  );
}

function isToldInbound(
  name: string,
  isPassed: boolean,
  { identity }: HeaderPolicy,
  party: PartyFacts,
): boolean {
  if (CLAIMS.has(name) && !identity.trust) return false;
  if (NAMING.has(name) && party.isWithheld) return false;
  if (name === 'user-to-user' && identity.userToUser === 'drop') return false;
  if (isProtected(name) && name !== 'identity') return false;
  return isPassed || isTold(name);
}

/**
 * The parameters by which an application is told of the parties; empty ones are left out.
 * `verstat` and `passport` come from the check of the signature.
 */
export function partyParameters(
  { headers, party }: InboundFacts,
  stir: { readonly verstat: string; readonly passport: string } | null = null,
): Readonly<Record<string, string>> {
  const parameters: Record<string, string> = { From: party.from, Caller: party.from };
  if (party.name !== '') parameters.CallerName = party.name;
  if (party.forwardedFrom !== '') parameters.ForwardedFrom = party.forwardedFrom;
  if (stir !== null && stir.verstat !== '') parameters.StirVerstat = stir.verstat;
  if (stir !== null && stir.passport !== '') parameters.StirPassportToken = stir.passport;
  for (const [name, value] of Object.entries(headers)) parameters[`SipHeader_${name}`] = value;
  return parameters;
}

// --- Outbound ---------------------------------------------------------------------------------

/** A call to be placed through a trunk. */
export interface OutboundFacts {
  /** As the call's record has him: a number, a sip: address, `client:…`, `anonymous`. */
  readonly from: string;
  readonly name: string;
  /** Host of the URIs that are written for numbers. */
  readonly domain: string;
  /** The Request-URI. */
  readonly target: string;
  /** Fields that the application asks for. */
  readonly headers: readonly HeaderField[];
  /** The call it follows from: its caller, what its INVITE said, and the number that was called. */
  readonly parent: {
    readonly party: PartyFacts | null;
    readonly headers: SipHeaders;
    readonly from: string;
    readonly called: string;
  } | null;
}

export interface OutboundParties {
  readonly fromUri: string;
  readonly fromDisplay: string;
  /** Who calls, for a signature, also when he is withheld; '' where nobody is known. */
  readonly caller: string;
  readonly headers: readonly HeaderField[];
}

/** From, and all fields beside it that say who calls and why, as the trunk wants them. */
export function outboundHeaders(
  facts: OutboundFacts,
  policy: HeaderPolicy,
  decisions: Decisions | null = null,
): OutboundParties {
  const { domain } = facts;
  const shown = callerIdFor(facts.from, policy.callerId);
  decisions?.ok('identity', `caller: ${shown.withheld ? 'withheld' : shown.from}, ${shown.why}`);
  const parentParty = facts.parent?.party ?? null;
  const isParents = facts.parent !== null && facts.parent.from === facts.from;
  const isHidden = shown.withheld || (isParents && parentParty?.isWithheld === true);
  const known = isParents && isHidden && shown.from === facts.from ? parentParty?.asserted : '';
  const caller = writtenCaller(known || shown.from, policy);
  const uri = fromUriOf(caller, domain);
  const fields = new Map<string, HeaderField>();
  const put = (name: string, value: string): void => {
    if (value !== '') fields.set(canonicalName(name), [name, value]);
  };
  for (const field of facts.headers) putAppField(field, isHidden, policy, put, decisions);
  if (isHidden) put('Privacy', writePrivacy(['id']));
  const party = { display: isHidden ? '' : facts.name, uri };
  putIdentity(party, { isHidden, isKnown: !isAnonymous(uri) }, policy, put);
  putDiversions(facts, policy, put);
  if (policy.identity.userToUser === 'pass' && !fields.has('user-to-user')) {
    put('User-to-User', parentParty?.userToUser ?? '');
  }
  applyRules(facts, policy, fields, decisions);
  return {
    fromUri: isHidden ? ANONYMOUS.uri : uri,
    fromDisplay: isHidden ? ANONYMOUS.display : facts.name,
    caller: isAnonymous(uri) ? '' : caller,
    headers: [...fields.values()],
  };
}

/** A number as this trunk wants its callers written; anything else as it is. */
function writtenCaller(from: string, policy: HeaderPolicy): string {
  if (!/^\+?[\d*#]+$/.test(from)) return from;
  // What is cut off or put before is for the number that is dialled.
  const plain = { ...policy.numbers, stripDigits: 0, addPrefix: '' };
  return formatOutbound(from, plain).number;
}

type Put = (name: string, value: string) => void;

/** A field of the application: not the protocol's, one line, and naming nobody who is hidden. */
function putAppField(
  [name, value]: HeaderField,
  isHidden: boolean,
  { identity }: HeaderPolicy,
  put: Put,
  decisions: Decisions | null,
): void {
  const canonical = canonicalName(name);
  const isBad = !NAME.test(name) || isProtected(name) || /\p{Cc}/u.test(value);
  if (isBad || value.length > VALUE_CHARS_MAX) {
    decisions?.no('header', `${oneLine(name, 64)} of the application is left out`, 'the document');
    return;
  }
  if (isHidden && NAMING.has(canonical)) return;
  if (canonical !== 'user-to-user') {
    put(name, encodeUtf8(value));
    return;
  }
  if (identity.userToUser === 'pass') put('User-to-User', userToUserOf([value]));
}

/**
 * RFC 3325 §6, §9: an identity is told to whom the policy says; one that is withheld only to a
 * peer that is trusted to keep it.
 */
function putIdentity(
  party: PartyAddress,
  { isHidden, isKnown }: { isHidden: boolean; isKnown: boolean },
  { identity }: HeaderPolicy,
  put: Put,
): void {
  const { send, trust } = identity;
  if (!isKnown || (isHidden && !trust)) return;
  if (send === 'pai' || send === 'both') put('P-Asserted-Identity', writeAsserted([party]));
  if (send === 'rpid' || send === 'both') {
    const privacy = isHidden ? 'full' : 'off';
    const remote = { ...party, party: 'calling', isScreened: true, privacy } as const;
    put('Remote-Party-ID', writeRemoteParty(remote));
  }
}

/** A call that goes on with its caller's number was diverted by the number he called. */
function putDiversions(facts: OutboundFacts, { identity }: HeaderPolicy, put: Put): void {
  const { parent, domain, target } = facts;
  if (parent === null || identity.diversion === 'drop') return;
  const earlier = parent.party?.diversions ?? [];
  const uri = fromUriOf(parent.called, domain);
  const isForwarding = parent.from === facts.from && !isAnonymous(uri);
  const own = { display: '', uri, reason: 'unconditional', counter: 1, isWithheld: false };
  const diversions = isForwarding ? [own, ...earlier] : earlier;
  if (diversions.length === 0) return;
  if (identity.diversion === 'diversion') put('Diversion', writeDiversions(diversions));
  else put('History-Info', writeHistory(diversions, target));
}

/** Last, as the operator has the last word; `pass` takes a field over from the caller's INVITE. */
function applyRules(
  { parent }: OutboundFacts,
  policy: HeaderPolicy,
  fields: Map<string, HeaderField>,
  decisions: Decisions | null,
): void {
  for (const [canonical, rule] of rulesOf(policy, 'out', decisions)) {
    const { action, name, value } = rule;
    if (action === 'remove') fields.delete(canonical);
    else if (action === 'set')
      fields.set(canonical, [name, encodeUtf8(oneLine(value, VALUE_CHARS_MAX))]);
    else {
      const came = Object.entries(parent?.headers ?? {}).find(
        ([other]) => canonicalName(other) === canonical,
      );
      if (came !== undefined && !fields.has(canonical)) {
        fields.set(canonical, [name, oneLine(came[1], VALUE_CHARS_MAX)]);
      }
    }
  }
}
