/**
 * How numbers are written: read from a carrier into E.164, written to a carrier the way it wants
 * them, and which number may be shown as the caller. Pure; which trunk's policy holds is decided
 * elsewhere, and so is what a number that does not fit means for the call.
 *
 * ITU-T E.164; RFC 3966 for what a URI says with a number: of its parameters `phone-context` makes
 * a local number whole, `ext`, `isub`, `postd` and those of number portability (RFC 4694) are
 * dropped, as no carrier's switch and no application of ours dials by them.
 */
import { parseUri, type Telephone, telephoneOf } from '../sip/uri.ts';
import type { CallerIdPolicy, NumberPolicy } from '../store/trunk-policy.ts';
import { unescapeUser } from './leg-signal.ts';

export interface NumberReading {
  /** As it came where it could not be read. */
  readonly number: string;
  readonly ok: boolean;
  /** What was done, or why it could not be. */
  readonly why: string;
}

/** E.164 §6: at most 15 digits. No country has numbers of less than 7 with its code. */
const E164 = /^\+[1-9]\d{6,14}$/;
/** Emergency, service and extension numbers are dialled as they are, and have no country. */
const SHORT_DIGITS_MAX = 6;

/** Whether it is digits, as people or switches write them; anything else is a name. */
function isNumber(text: string): boolean {
  return /^\+?[\d*#().\s-]+$/.test(text) && /\d/.test(text);
}

/** RFC 3966 §5.1.1: separators are for people. */
function bare(text: string): string {
  return text.replace(/[().\s-]/g, '');
}

/**
 * A number of a carrier as the rest of the gateway has it. `context` is a `phone-context`
 * (RFC 3966 §5.1.5): one that begins with a plus stands before the number.
 */
export function readInbound(number: string, policy: NumberPolicy, context = ''): NumberReading {
  if (!isNumber(number)) return { number, ok: true, why: 'a name' };
  const hasContext = !number.startsWith('+') && /^\+[\d().-]+$/.test(context);
  const whole = hasContext ? bare(context) + bare(number) : bare(number);
  const changed = stripAndAdd(whole, policy);
  if (policy.inbound === 'as-is') return { number: changed, ok: true, why: 'as it came' };
  const read = toE164(changed, policy);
  return read.ok ? read : { ...read, number: changed };
}

/** A number as the carrier wants it. What has no country code is written as it is. */
export function formatOutbound(number: string, policy: NumberPolicy): NumberReading {
  if (!isNumber(number)) return { number, ok: true, why: 'a name' };
  const plain = bare(number);
  if (policy.outbound === 'as-is') {
    return { number: stripAndAdd(plain, policy), ok: true, why: 'as it is' };
  }
  const read = toE164(plain, policy);
  if (!read.ok) return { ...read, number: plain };
  const isWhole = read.number.startsWith('+');
  const written = isWhole ? writeE164(read.number, policy) : read.number;
  return { number: stripAndAdd(written, policy), ok: true, why: read.why };
}

function writeE164(number: string, policy: NumberPolicy): string {
  const { outbound, countryCode, internationalPrefix, nationalPrefix } = policy;
  const digits = number.slice(1);
  switch (outbound) {
    case 'plain':
      return digits;
    case 'international':
      return internationalPrefix + digits;
    case 'national':
      return countryCode !== '' && digits.startsWith(countryCode)
        ? nationalPrefix + digits.slice(countryCode.length)
        : internationalPrefix + digits;
    default:
      return number;
  }
}

/** `stripDigits` counts digits: a plus is no digit, and goes when one after it does. */
function stripAndAdd(number: string, { stripDigits, addPrefix }: NumberPolicy): string {
  if (stripDigits === 0) return addPrefix + (addPrefix === '' ? number : unplus(number));
  return addPrefix + unplus(number).slice(stripDigits);
}

function unplus(number: string): string {
  return number.startsWith('+') ? number.slice(1) : number;
}

function toE164(number: string, policy: NumberPolicy): NumberReading {
  const { countryCode, internationalPrefix, nationalPrefix } = policy;
  const fail = (why: string): NumberReading => ({ number, ok: false, why });
  if (number.startsWith('+')) {
    if (E164.test(number)) return { number, ok: true, why: 'E.164' };
    return fail(`${number} is no E.164 number: 7 to 15 digits, and none begins with 0`);
  }
  if (/[*#]/.test(number)) return { number, ok: true, why: 'a service code' };
  if (number.length <= SHORT_DIGITS_MAX) return { number, ok: true, why: 'a short number' };
  const found = (digits: string, why: string): NumberReading => {
    const whole = `+${digits}`;
    return E164.test(whole)
      ? { number: whole, ok: true, why }
      : fail(`${whole} is no E.164 number`);
  };
  if (internationalPrefix !== '' && number.startsWith(internationalPrefix)) {
    return found(number.slice(internationalPrefix.length), `after ${internationalPrefix}`);
  }
  if (nationalPrefix !== '' && number.startsWith(nationalPrefix)) {
    if (countryCode === '') return fail(`${number} is national, and no countryCode is set`);
    const digits = countryCode + number.slice(nationalPrefix.length);
    return found(digits, `national, after ${nationalPrefix}`);
  }
  if (countryCode === '') return fail(`${number} has no prefix, and no countryCode is set`);
  if (number.startsWith(countryCode)) return found(number, `begins with ${countryCode}`);
  if (nationalPrefix === '') return found(countryCode + number, 'national');
  return fail(
    `${number} begins with none of ${internationalPrefix}, ${nationalPrefix}, ${countryCode}`,
  );
}

// --- Numbers in URIs --------------------------------------------------------------------------

/**
 * What a Request-URI, or any other, calls: the user part and the host. Of a number (tel:, or sip:
 * with one in its user part) the user is the number without separators and parameters. Throws as
 * `parseUri` does.
 */
export function calledIn(uriText: string): {
  readonly user: string;
  readonly host: string;
  /** `phone-context`, for `readInbound`. */
  readonly context: string;
} {
  const uri = parseUri(uriText);
  const phone: Telephone | null = telephoneOf(uri);
  if (phone === null) return { user: unescapeUser(uri.user), host: uri.host, context: '' };
  return { user: phone.number, host: uri.host, context: phone.context };
}

// --- The caller that is shown -----------------------------------------------------------------

export interface ShownCaller {
  readonly from: string;
  /** Nobody is to be told who calls. */
  readonly withheld: boolean;
  readonly why: string;
}

/** Who may be shown as the caller by this trunk. */
export function callerIdFor(from: string, policy: CallerIdPolicy): ShownCaller {
  const { mode, allowed, fallback } = policy;
  const isNobody = from === '' || /^(?:sips?:)?anonymous(?:@|$)/i.test(from);
  if (mode === 'as-is') {
    if (isNobody) return { from, withheld: true, why: 'the caller is withheld' };
    return { from, withheld: false, why: 'callerId.mode is as-is' };
  }
  if (mode === 'allowed' && !isNobody) {
    const digits = digitsOf(from);
    if (digits !== '' && allowed.some((one) => digitsOf(one) === digits)) {
      return { from, withheld: false, why: `${from} is allowed` };
    }
  }
  const rule = mode === 'fixed' ? 'callerId.mode is fixed' : `${from} is not in callerId.allowed`;
  if (fallback === '') return { from, withheld: true, why: `${rule}, and fallback is empty` };
  // A caller who is withheld stays so: a number in his place must not make a name of him.
  return { from: fallback, withheld: isNobody, why: `${rule}: fallback ${fallback}` };
}

/** Of a number or of the user part of an address. */
function digitsOf(from: string): string {
  const user = /^(?:sips?:|tel:)?([^@;]*)/i.exec(from)?.[1] ?? '';
  const plain = bare(user);
  return /^\+?[\d*#]+$/.test(plain) ? unplus(plain) : '';
}
