/**
 * The Identity header field (RFC 8224 §4) around a PASSporT: reading and writing it in full and
 * compact form, whom a request is from and to in the one spelling both sides sign (§8), and
 * whether a PASSporT speaks about this request now (§6.2). Pure; signatures are `passport.ts`,
 * certificates and policy `call/`.
 */
import { GatewayError } from '../core/errors.ts';
import { splitOutside } from './header.ts';
import {
  invalid,
  PASSPORT_LIMITS,
  type Party,
  type Passport,
  parsePassport,
  signingInput,
} from './passport.ts';
import { parseUri } from './uri.ts';

/** How national spellings become E.164 (§8.3); the numbers section of a trunk's policy fits. */
export interface NumberRules {
  /** Digits, without plus; '' leaves national numbers as they are. */
  readonly countryCode: string;
  readonly internationalPrefix: string;
  readonly nationalPrefix: string;
}

export interface IdentityField {
  /** As it came; the compact form begins with two dots. */
  readonly token: string;
  readonly isCompact: boolean;
  /** The URL in `info`. */
  readonly info: string;
  /** As the parameter says; null when there is none. */
  readonly ppt: string | null;
}

// --- The field --------------------------------------------------------------------------------

/** The value of an Identity field in full form, as SHAKEN asks for it. */
export function formatIdentity(token: string, info: string, ppt: '' | 'shaken'): string {
  return `${token};info=<${info}>;alg=ES256${ppt === '' ? '' : `;ppt=${ppt}`}`;
}

/**
 * The values of all Identity fields of a request. The grammar has one value a field, yet fields of
 * a name are folded into one on the way (RFC 3261 §7.3.1), and no value has a bare comma.
 */
export function identityValues(fields: readonly string[], valuesMax: number): readonly string[] {
  const values: string[] = [];
  for (const field of fields) {
    if (field.length > FIELD_BYTES_MAX) throw invalid('an Identity field is too long');
    splitOutside(field, ',', values);
    if (values.length > valuesMax) throw invalid('too many Identity fields');
  }
  return values;
}

const FIELD_BYTES_MAX = 2 * (PASSPORT_LIMITS.tokenBytesMax + PASSPORT_LIMITS.x5uBytesMax);

/** Reads one value (§4). Throws STIR_INVALID; STIR_BAD_INFO when it names no certificate. */
export function parseIdentity(value: string): IdentityField {
  const [token = '', ...rest] = splitOutside(value, ';', []);
  const full = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;
  const isCompact = /^\.\.[A-Za-z0-9_-]+$/.test(token);
  if (token.length > PASSPORT_LIMITS.tokenBytesMax || !(isCompact || full.test(token))) {
    throw invalid('the Identity field has no token');
  }
  const params = readParams(rest);
  const alg = params.get('alg');
  if (alg !== undefined && alg !== 'ES256') throw invalid('alg is not ES256');
  const info = /^<([\x21-\x3b\x3d\x3f-\x7e]{1,2048})>$/.exec(params.get('info') ?? '')?.[1];
  if (info === undefined) {
    throw new GatewayError('STIR_BAD_INFO', { url: '', problem: 'info is missing or no URL' });
  }
  return { token, isCompact, info, ppt: params.get('ppt') ?? null };
}

function readParams(parts: readonly string[]): ReadonlyMap<string, string> {
  if (parts.length > PARAMS_MAX) throw invalid('too many parameters');
  const params = new Map<string, string>();
  for (const part of parts) {
    const equals = part.indexOf('=');
    const name = (equals < 0 ? part : part.slice(0, equals)).trim().toLowerCase();
    // Some signers quote what the grammar has as a token.
    const value = equals < 0 ? '' : part.slice(equals + 1).trim();
    if (name === '' || params.has(name)) throw invalid(`parameter "${name}" is not given once`);
    params.set(name, /^"[A-Za-z0-9._-]*"$/.test(value) ? value.slice(1, -1) : value);
  }
  return params;
}

const PARAMS_MAX = 16;

export interface IdentityRequest {
  readonly from: Party;
  readonly to: Party;
  /** The Date field of the request; only the compact form needs it. */
  readonly date: string | null;
}

/**
 * The PASSporT of a field, null when it is of a kind that is not known here: such a field counts
 * as absent (§6.2 step 1), `div` (RFC 8946) and `rcd` among them. Throws STIR_*.
 */
export function passportOf(field: IdentityField, request: IdentityRequest): Passport | null {
  if (field.ppt !== null && field.ppt !== '' && field.ppt !== 'shaken') return null;
  const passport = parsePassport(field.isCompact ? expand(field, request) : field.token);
  if (passport.claims === null) return null;
  if (field.ppt !== null && field.ppt !== passport.ppt) throw invalid('ppt differs from the field');
  // What is fetched must be what was signed.
  if (passport.x5u !== field.info) {
    const problem = 'info and x5u differ';
    throw new GatewayError('STIR_BAD_INFO', { url: field.info, problem });
  }
  return passport;
}

/**
 * RFC 8224 §4.1.2, RFC 8225 §7: what the compact form leaves out is in the request itself. Claims
 * of an extension are not, so it exists for base PASSporTs only.
 */
function expand(field: IdentityField, { from, to, date }: IdentityRequest): string {
  if (field.ppt === 'shaken') throw invalid('the compact form cannot carry attest and origid');
  const iatMs = DATE.test(date ?? '') ? Date.parse(date ?? '') : Number.NaN;
  if (Number.isNaN(iatMs)) throw invalid('the compact form needs a Date field');
  const input = signingInput({
    ppt: '',
    x5u: field.info,
    claims: {
      attest: null,
      dest: { tn: [], uri: [], [to.kind]: [to.value] },
      iatS: iatMs / 1000,
      orig: from,
      origid: null,
    },
  });
  return `${input}${field.token.slice(1)}`;
}

/** RFC 3261 §20.17: the one format of a Date field, always in GMT. */
const DATE = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/;

/**
 * Whether the PASSporT is about this call, now (§6.2 steps 3 and 5). Throws STIR_STALE or
 * STIR_INVALID. A token is good for the whole window, several times: forks, retries after a
 * challenge and a carrier's next route all carry the same one, so its use is not counted (§12.1).
 */
export function checkClaims(
  { claims }: Passport,
  o: Omit<IdentityRequest, 'date'> & { readonly nowMs: number; readonly freshnessMs: number },
): void {
  const ageMs = o.nowMs - claims.iatS * 1000;
  if (Math.abs(ageMs) > o.freshnessMs) {
    const ageSeconds = Math.round(ageMs / 1000);
    throw new GatewayError('STIR_STALE', { ageSeconds, limit: o.freshnessMs / 1000 });
  }
  if (!isSame(claims.orig, o.from)) throw invalid('it names another caller');
  const named = claims.dest[o.to.kind];
  if (!named.some((value) => isSame({ kind: o.to.kind, value }, o.to))) {
    throw invalid('it names another callee');
  }
}

/** Signers exist that leave a plus in a number; it makes no other number of it. */
function isSame(claimed: Party, actual: Party): boolean {
  if (claimed.kind !== actual.kind) return false;
  if (claimed.value === actual.value) return true;
  if (claimed.kind === 'tn') return canonicalNumber(claimed.value) === actual.value;
  const party = canonicalParty(claimed.value);
  return party?.kind === 'uri' && party.value === actual.value;
}

// --- Parties (§8) -----------------------------------------------------------------------------

/** E.164 has 15 digits; service codes of networks may have more. */
const NUMBER_DIGITS_MAX = 32;

/**
 * A telephone number as it is signed (§8.3): digits, `#` and `*` only, no plus and no separators,
 * national spellings made international by `rules`. Null when the text is no number.
 */
export function canonicalNumber(text: string, rules?: NumberRules): string | null {
  if (!/^\+?[0-9*#().\- ]+$/.test(text)) return null;
  const digits = text.replace(/[^0-9*#]/g, '');
  if (digits === '' || digits.length > NUMBER_DIGITS_MAX) return null;
  const isNational = !text.startsWith('+') && /^[0-9]+$/.test(digits);
  return isNational && rules !== undefined ? international(digits, rules) : digits;
}

function international(digits: string, rules: NumberRules): string {
  const { countryCode, internationalPrefix, nationalPrefix } = rules;
  if (countryCode === '') return digits;
  if (internationalPrefix !== '' && digits.startsWith(internationalPrefix)) {
    return digits.slice(internationalPrefix.length);
  }
  if (nationalPrefix !== '' && digits.startsWith(nationalPrefix)) {
    return countryCode + digits.slice(nationalPrefix.length);
  }
  // Ten digits are a whole number of the North American plan; elsewhere lengths vary, and what has
  // no prefix is taken as E.164 whose plus was left out.
  return countryCode === '1' && digits.length === 10 ? `1${digits}` : digits;
}

/**
 * Who a number, a `tel:` or a `sip:` URI names (§8.1): a telephone number where it is one, else
 * the address without what only says how to reach it. Null when it names nobody that can be signed.
 */
export function canonicalParty(text: string, rules?: NumberRules): Party | null {
  if (!/^(?:sips?|tel):/i.test(text)) return numberParty(canonicalNumber(text, rules));
  try {
    const uri = parseUri(text);
    if (uri.scheme === 'tel') return telParty(uri.user, uri.params.get('phone-context'), rules);
    // RFC 4904 puts parameters into the user part, RFC 3261 §19.1.2 may escape its characters.
    const user = decodeURIComponent(uri.user.replace(/;.*$/s, ''));
    const isNumber =
      uri.params.get('user')?.toLowerCase() === 'phone' || /^\+?[0-9*#().-]{2,}$/.test(user);
    const number = isNumber ? canonicalNumber(user, rules) : null;
    if (number !== null) return { kind: 'tn', value: number };
    if (uri.user === '' || uri.host === '') return null;
    const host = uri.host.includes(':') ? `[${uri.host}]` : uri.host;
    return { kind: 'uri', value: `${uri.scheme}:${uri.user}@${host.toLowerCase()}` };
  } catch {
    // Not a URI of ours, or a broken escape: nobody we could compare.
    return null;
  }
}

function telParty(user: string, context: string | undefined, rules?: NumberRules): Party | null {
  // RFC 3966 §5.1.4: a local number is only a number together with its context.
  const isLocal = !user.startsWith('+') && context?.startsWith('+') === true;
  return numberParty(canonicalNumber(isLocal ? `${context}${user}` : user, rules));
}

function numberParty(value: string | null): Party | null {
  return value === null ? null : { kind: 'tn', value };
}
