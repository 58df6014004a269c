/**
 * PASSporT: the signed statement who calls whom (RFC 8225), in its SHAKEN form (RFC 8588). Written
 * deterministically, read strictly, signed and verified with ES256 and nothing else. Pure: no
 * clock, no certificates, no header fields; those are `identity-field.ts` and `call/`.
 *
 * RFC 8225 §4, §5, §9; RFC 7515 §3, §4.1.11, §5.2; RFC 7518 §3.4; RFC 8588 §4, §5.
 */
import { type KeyObject, sign, verify } from 'node:crypto';
import { GatewayError } from '../core/errors.ts';

/** RFC 8588 §4: full, partial, gateway. */
export type Attestation = 'A' | 'B' | 'C';

/** Who a call is from or to, as `canonicalParty` writes it. */
export interface Party {
  readonly kind: 'tn' | 'uri';
  readonly value: string;
}

export interface PassportClaims {
  /** Null only in a base PASSporT. */
  readonly attest: Attestation | null;
  readonly dest: { readonly tn: readonly string[]; readonly uri: readonly string[] };
  readonly iatS: number;
  readonly orig: Party;
  readonly origid: string | null;
}

export interface Passport {
  /** Always the full form, also when it came as the compact one. */
  readonly token: string;
  /** '' for a base PASSporT. */
  readonly ppt: string;
  readonly x5u: string;
  readonly claims: PassportClaims;
}

export const PASSPORT_LIMITS = {
  tokenBytesMax: 8192,
  x5uBytesMax: 2048,
  destinationsMax: 32,
  identityBytesMax: 2048,
  origidBytesMax: 128,
} as const;

/** RFC 7518 §3.4: r and s side by side, 32 bytes each; 86 characters. */
const SIGNATURE_BYTES = 64;

export function invalid(problem: string): GatewayError {
  return new GatewayError('STIR_INVALID', { problem });
}

// --- Writing ----------------------------------------------------------------------------------

export interface PassportToSign {
  /** '' writes a base PASSporT. */
  readonly ppt: '' | 'shaken';
  readonly x5u: string;
  readonly claims: PassportClaims;
}

/** The token in full form. `key` is an EC P-256 private key (`isP256`). */
export function signPassport(passport: PassportToSign, key: KeyObject): string {
  const input = signingInput(passport);
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}

/** Header and payload as RFC 8225 §9 has them: keys in order, no spaces, nothing empty. */
export function signingInput({ ppt, x5u, claims }: PassportToSign): string {
  const { attest, dest, iatS, orig, origid } = claims;
  const header = { alg: 'ES256', ...(ppt === '' ? {} : { ppt }), typ: 'passport', x5u };
  const payload = {
    ...(attest === null ? {} : { attest }),
    dest: {
      ...(dest.tn.length === 0 ? {} : { tn: [...dest.tn].sort() }),
      ...(dest.uri.length === 0 ? {} : { uri: [...dest.uri].sort() }),
    },
    iat: iatS,
    orig: { [orig.kind]: orig.value },
    ...(origid === null ? {} : { origid }),
  };
  return `${encodeJson(header)}.${encodeJson(payload)}`;
}

/** The members of both objects stand in lexicographic order above; JSON.stringify keeps it. */
function encodeJson(value: object): string {
  return Buffer.from(JSON.stringify(value), 'utf8').toString('base64url');
}

/** Whether ES256 may use the key: any other curve or kind would be another algorithm. */
export function isP256(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1';
}

// --- Reading ----------------------------------------------------------------------------------

/**
 * Takes a token in full form apart. Nothing in it is believed by that: see `verifySignature`.
 * Throws STIR_INVALID. A `ppt` that is not known is no error here: its claims are not read.
 */
export function parsePassport(token: string): Passport | { readonly ppt: string; claims: null } {
  if (token.length > PASSPORT_LIMITS.tokenBytesMax) throw invalid('the token is too long');
  const parts = token.split('.');
  const [header = '', payload = '', signature = ''] = parts;
  if (parts.length !== 3) throw invalid('the token has not three parts');
  decode(signature, 'signature');
  const head = parseObject(decode(header, 'header'), 'header');
  // One algorithm: what the token says never chooses how it is verified (RFC 8725 §3.1).
  if (head.alg !== 'ES256') throw invalid('alg is not ES256');
  if (head.typ !== 'passport') throw invalid('typ is not passport');
  // RFC 7515 §4.1.11: none of these extensions is understood here.
  if ('crit' in head) throw invalid('crit names an extension that is not known');
  const ppt = head.ppt ?? '';
  if (typeof ppt !== 'string' || ppt.length > 64) throw invalid('ppt is not a name');
  if (ppt !== '' && ppt !== 'shaken') return { ppt, claims: null };
  const x5u = head.x5u;
  if (typeof x5u !== 'string' || x5u === '' || x5u.length > PASSPORT_LIMITS.x5uBytesMax) {
    throw invalid('x5u is not a URL');
  }
  return {
    token,
    ppt,
    x5u,
    claims: readClaims(parseObject(decode(payload, 'payload'), 'payload'), ppt),
  };
}

/**
 * Whether the holder of `key` signed exactly this token. The signature must be written in the one
 * way base64url has for it: else a changed last character would still be "valid".
 */
export function verifySignature(token: string, key: KeyObject): boolean {
  if (!isP256(key)) return false;
  const dot = token.lastIndexOf('.');
  const text = token.slice(dot + 1);
  const signature = Buffer.from(text, 'base64url');
  if (signature.length !== SIGNATURE_BYTES || signature.toString('base64url') !== text)
    return false;
  const input = Buffer.from(token.slice(0, dot), 'latin1');
  return verify('sha256', input, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

/** Bytes of one part; text that base64url would write in another way is refused (RFC 7515 §2). */
function decode(text: string, part: string): Buffer {
  const bytes = Buffer.from(text, 'base64url');
  if (bytes.length === 0 || bytes.toString('base64url') !== text) {
    throw invalid(`the ${part} is not base64url`);
  }
  return bytes;
}

type Json = Readonly<Record<string, unknown>>;

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function parseObject(bytes: Buffer, part: string): Json {
  let text: string;
  let value: unknown;
  try {
    text = UTF8.decode(bytes);
    value = JSON.parse(text);
  } catch {
    throw invalid(`the ${part} is not JSON`);
  }
  if (!isObject(value)) throw invalid(`the ${part} is not an object`);
  // RFC 7515 §5.2: a name given twice is read differently by different readers.
  if (keysIn(text) !== keysOf(value)) throw invalid(`the ${part} has a name twice`);
  return value;
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Names of members in JSON text that is known to parse: the strings with a colon behind them. */
function keysIn(text: string): number {
  let count = 0;
  for (const match of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)) {
    if (match[1] !== undefined) count += 1;
  }
  return count;
}

/** The size of the token bounds the depth; each level of it costs at least two characters. */
function keysOf(value: unknown): number {
  let count = 0;
  const rest: unknown[] = [value];
  while (rest.length > 0) {
    const next = rest.pop();
    if (typeof next !== 'object' || next === null) continue;
    const members = Object.values(next);
    if (!Array.isArray(next)) count += members.length;
    rest.push(...members);
  }
  return count;
}

/** RFC 8225 §5; RFC 8588 §4 makes attest and origid part of the shaken form. */
function readClaims(payload: Json, ppt: string): PassportClaims {
  const { iat, orig, dest, attest, origid } = payload;
  // RFC 7519 §2: a number; text that looks like one is a draft's form.
  if (typeof iat !== 'number' || !Number.isSafeInteger(iat) || iat < 0) {
    throw invalid('iat is not a time');
  }
  if (!isObject(orig)) throw invalid('orig is missing');
  if (!isObject(dest)) throw invalid('dest is missing');
  const shaken = ppt === 'shaken';
  if (shaken && attest !== 'A' && attest !== 'B' && attest !== 'C') {
    throw invalid('attest is not A, B or C');
  }
  if (shaken && !isText(origid, PASSPORT_LIMITS.origidBytesMax)) {
    throw invalid('origid is missing');
  }
  return {
    attest: shaken ? (attest as Attestation) : null,
    dest: readDestinations(dest),
    iatS: iat,
    orig: readOrigin(orig, shaken),
    origid: shaken ? (origid as string) : null,
  };
}

/** RFC 8225 §5.2.1: one identity; in SHAKEN a telephone number (RFC 8588 §4). */
function readOrigin(orig: Json, isShaken: boolean): Party {
  const { tn, uri } = orig;
  if ((tn === undefined) === (uri === undefined)) throw invalid('orig is not one identity');
  if (tn === undefined && isShaken) throw invalid('orig is not a number');
  const value = tn ?? uri;
  if (!isText(value, PASSPORT_LIMITS.identityBytesMax)) throw invalid('orig is not text');
  return { kind: tn === undefined ? 'uri' : 'tn', value };
}

function readDestinations(dest: Json): PassportClaims['dest'] {
  const tn = readTexts(dest.tn);
  const uri = readTexts(dest.uri);
  const count = tn.length + uri.length;
  if (count === 0) throw invalid('dest names nobody');
  if (count > PASSPORT_LIMITS.destinationsMax) throw invalid('dest names too many');
  return { tn, uri };
}

function readTexts(value: unknown): readonly string[] {
  if (value === undefined) return [];
  const isList =
    Array.isArray(value) && value.every((one) => isText(one, PASSPORT_LIMITS.identityBytesMax));
  if (!isList) throw invalid('dest is not a list of texts');
  return value;
}

function isText(value: unknown, lengthMax: number): value is string {
  return typeof value === 'string' && value !== '' && value.length <= lengthMax;
}
