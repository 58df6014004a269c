/**
 * Certificates that vouch for callers: reading what was fetched, the path from the signer's to a
 * configured authority, and what RFC 8226 puts into them. Pure: no fetching, no clock; validity is
 * asked with a time. Revocation lists are not read; lifetimes of these certificates are short.
 *
 * RFC 5280 §4.2, §6.1; RFC 8226 §4, §6, §9; the DER of ITU-T X.690 §8.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { GatewayError } from '../core/errors.ts';
import { isP256, type Party } from '../sip/passport.ts';

/** TNAuthList (RFC 8226 §9). No list at all: the certificate stands for no number. */
export interface TnAuthList {
  readonly providerCodes: readonly string[];
  readonly numbers: readonly string[];
  readonly ranges: readonly { readonly start: string; readonly count: number }[];
}

export interface SigningCertificate {
  readonly key: KeyObject;
  /** From the signer's up to, and with, the authority's. */
  readonly path: readonly X509Certificate[];
  readonly tnAuthList: TnAuthList | null;
}

/** Certificates in one answer; what a chain of carriers' has is two or three. */
const CERTIFICATES_MAX = 8;

function untrusted(problem: string): GatewayError {
  return new GatewayError('STIR_CREDENTIAL', { problem });
}

/** One DER certificate (RFC 2585 §4.1) or PEM text with some; empty when it is neither. */
export function readCertificates(
  body: Buffer,
  certificatesMax = CERTIFICATES_MAX,
): readonly X509Certificate[] {
  try {
    if (body[0] === TAG.SEQUENCE) return [new X509Certificate(body)];
    const blocks = body.toString('latin1').matchAll(PEM);
    const texts = [...blocks].slice(0, certificatesMax + 1).map(([text]) => text);
    if (texts.length > certificatesMax) return [];
    return texts.map((text) => new X509Certificate(text));
  } catch {
    // OpenSSL's words about a broken certificate help nobody.
    return [];
  }
}

const PEM = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]{1,65536}-----END CERTIFICATE-----/g;

// --- The path (RFC 5280 §6.1) -----------------------------------------------------------------

/**
 * The signer's certificate (the first) with its path to one of `anchors`. Throws STIR_CREDENTIAL.
 * Dates are not looked at: a path outlives the moment it is found in, `checkDates` does not.
 */
export function signingCertificate(
  certificates: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
): SigningCertificate {
  const [signer, ...others] = certificates;
  if (signer === undefined) throw untrusted('there is none');
  if (!isP256(signer.publicKey)) throw untrusted('its key is not EC P-256');
  const path = findPath(signer, others, anchors);
  const extensions = path.map(readExtensions);
  const [own] = extensions;
  if (own?.keyUsage !== undefined && (own.keyUsage & KEY_USAGE.DIGITAL_SIGNATURE) === 0) {
    throw untrusted('it is not for signatures');
  }
  extensions.forEach((each, index) => {
    if (each.unknownCritical !== '') {
      throw untrusted(`it has the critical extension ${each.unknownCritical}`);
    }
    // The authority's own limit is its own business (RFC 5280 §6.1.1 d), yet costs nothing to keep.
    if (each.pathLength !== undefined && index - 1 > each.pathLength) {
      throw untrusted('its path is longer than an authority allows');
    }
  });
  return { key: signer.publicKey, path, tnAuthList: own?.tnAuthList ?? null };
}

function findPath(
  signer: X509Certificate,
  others: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
): readonly X509Certificate[] {
  const path: X509Certificate[] = [signer];
  const unused = new Set(others);
  for (let current = signer; ; ) {
    if (anchors.some((anchor) => anchor.raw.equals(current.raw))) return path;
    checkStrength(current);
    const anchor = anchors.find((one) => isIssuedBy(current, one));
    if (anchor !== undefined) return [...path, anchor];
    const issuer = [...unused].find((one) => isIssuedBy(current, one));
    if (issuer === undefined) throw untrusted('it leads to no authority of stir.trustAnchors');
    unused.delete(issuer);
    path.push(issuer);
    current = issuer;
  }
}

/** Names, key identifiers and key usage (`checkIssued`), the CA flag, and the signature itself. */
function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

/** Collisions can be made for SHA-1 and older digests. */
function checkStrength(certificate: X509Certificate): void {
  const { signatureAlgorithm } = certificate;
  if (!/sha-?(?:256|384|512)/i.test(signatureAlgorithm ?? '')) {
    throw untrusted(`it is signed with ${signatureAlgorithm}`);
  }
}

/** Throws STIR_CREDENTIAL when any certificate of the path is not valid at that time. */
export function checkDates({ path }: SigningCertificate, nowMs: number): void {
  for (const certificate of path) {
    if (nowMs < certificate.validFromDate.getTime()) throw untrusted('it is not valid yet');
    if (nowMs > certificate.validToDate.getTime()) throw untrusted('it has expired');
  }
}

/**
 * Whether the certificate may speak for the caller: a number by its TNAuthList, where a provider's
 * code stands for all numbers of that provider (RFC 8226 §9), an address by the name of its domain
 * (RFC 8224 §7.1, RFC 5922 §7.2). Throws STIR_CREDENTIAL.
 */
export function checkAuthority(
  certificate: SigningCertificate,
  caller: Party,
  requireTnAuthList: boolean,
): void {
  const { path, tnAuthList } = certificate;
  if (caller.kind === 'uri') {
    const host = caller.value.slice(caller.value.lastIndexOf('@') + 1);
    const options = { subject: 'never', wildcards: false } as const;
    if (path[0]?.checkHost(host, options) === undefined) {
      throw untrusted(`it is not for the domain ${host}`);
    }
    return;
  }
  if (tnAuthList === null) {
    if (requireTnAuthList) throw untrusted('it has no list of numbers (TNAuthList)');
    return;
  }
  const { providerCodes, numbers, ranges } = tnAuthList;
  const isListed =
    providerCodes.length > 0 ||
    numbers.includes(caller.value) ||
    ranges.some((range) => isWithin(caller.value, range));
  if (!isListed) throw untrusted('it is for other numbers than the caller');
}

/** A range has numbers of one length (RFC 8226 §9); digits only, so it is one of whole numbers. */
function isWithin(number: string, { start, count }: TnAuthList['ranges'][number]): boolean {
  if (number.length !== start.length || !/^[0-9]+$/.test(number + start)) return false;
  const distance = BigInt(number) - BigInt(start);
  return distance >= 0n && distance < BigInt(count);
}

// --- Extensions -------------------------------------------------------------------------------

const TAG = {
  BOOLEAN: 0x01,
  INTEGER: 0x02,
  BIT_STRING: 0x03,
  OCTET_STRING: 0x04,
  OID: 0x06,
  IA5_STRING: 0x16,
  SEQUENCE: 0x30,
  CONTEXT_0: 0xa0,
  CONTEXT_1: 0xa1,
  CONTEXT_2: 0xa2,
  CONTEXT_3: 0xa3,
} as const;

/** First octet of the bit string: bit 0 is the highest. */
const KEY_USAGE = { DIGITAL_SIGNATURE: 0x80 } as const;

const OID = {
  KEY_USAGE: '551d0f',
  BASIC_CONSTRAINTS: '551d13',
  TN_AUTH_LIST: '2b0601050507011a',
} as const;

/** Critical ones that need nothing done here, or that OpenSSL has checked while it read. */
const HARMLESS: ReadonlySet<string> = new Set([
  OID.KEY_USAGE,
  OID.BASIC_CONSTRAINTS,
  OID.TN_AUTH_LIST,
  '551d0e', // subjectKeyIdentifier
  '551d11', // subjectAltName
  '551d1f', // cRLDistributionPoints
  '551d20', // certificatePolicies
  '551d23', // authorityKeyIdentifier
  '551d25', // extKeyUsage
]);

/** JWTClaimConstraints and its successor (RFC 8226 §8, RFC 9118): they bind, critical or not. */
const CLAIM_CONSTRAINTS: ReadonlySet<string> = new Set(['2b0601050507011b', '2b06010505070121']);

interface Extensions {
  /** First octet of the usage bits. */
  readonly keyUsage: number | undefined;
  readonly pathLength: number | undefined;
  readonly tnAuthList: TnAuthList | undefined;
  /** Hex of the identifier; '' when there is none. */
  readonly unknownCritical: string;
}

function readExtensions(certificate: X509Certificate): Extensions {
  let keyUsage: number | undefined;
  let pathLength: number | undefined;
  let tnAuthList: TnAuthList | undefined;
  let unknownCritical = '';
  for (const extension of extensionsOf(certificate.raw)) {
    const [id, ...rest] = elements(extension);
    const name = expect(id, TAG.OID).toString('hex');
    const isCritical = rest[0]?.tag === TAG.BOOLEAN && rest[0].content[0] !== 0;
    const value = expect(rest.at(-1), TAG.OCTET_STRING);
    if (name === OID.KEY_USAGE) keyUsage = expect(only(value), TAG.BIT_STRING)[1] ?? 0;
    if (name === OID.BASIC_CONSTRAINTS) pathLength = readPathLength(value);
    if (name === OID.TN_AUTH_LIST) tnAuthList = readTnAuthList(value);
    const mayPass = HARMLESS.has(name) || (!isCritical && !CLAIM_CONSTRAINTS.has(name));
    if (!mayPass) unknownCritical = name;
  }
  return { keyUsage, pathLength, tnAuthList, unknownCritical };
}

/** Certificate → TBSCertificate → [3] → SEQUENCE OF Extension (RFC 5280 §4.1). */
function extensionsOf(raw: Buffer): readonly Buffer[] {
  const [tbs] = elements(expect(only(raw), TAG.SEQUENCE));
  const field = elements(expect(tbs, TAG.SEQUENCE)).find(({ tag }) => tag === TAG.CONTEXT_3);
  if (field === undefined) return [];
  const list = elements(expect(only(field.content), TAG.SEQUENCE));
  return list.map((one) => expect(one, TAG.SEQUENCE));
}

function readPathLength(value: Buffer): number | undefined {
  const last = elements(expect(only(value), TAG.SEQUENCE)).at(-1);
  return last?.tag === TAG.INTEGER ? readInteger(last.content) : undefined;
}

/** TNEntry ::= CHOICE { spc [0], range [1], one [2] }, explicitly tagged (RFC 8226 §9). */
function readTnAuthList(value: Buffer): TnAuthList {
  const providerCodes: string[] = [];
  const numbers: string[] = [];
  const ranges: { start: string; count: number }[] = [];
  for (const { tag, content } of elements(expect(only(value), TAG.SEQUENCE))) {
    if (tag === TAG.CONTEXT_0) {
      providerCodes.push(expect(only(content), TAG.IA5_STRING).toString('latin1'));
    } else if (tag === TAG.CONTEXT_1) {
      const [start, count] = elements(expect(only(content), TAG.SEQUENCE));
      ranges.push({
        start: expect(start, TAG.IA5_STRING).toString('latin1'),
        count: readInteger(expect(count, TAG.INTEGER)),
      });
    } else if (tag === TAG.CONTEXT_2) {
      numbers.push(expect(only(content), TAG.IA5_STRING).toString('latin1'));
    } else {
      throw untrusted('its list of numbers is malformed');
    }
  }
  return { providerCodes, numbers, ranges };
}

// --- DER --------------------------------------------------------------------------------------

interface Element {
  readonly tag: number;
  readonly content: Buffer;
}

/** The elements side by side in `bytes`. Single-octet tags and definite lengths, as in DER. */
function elements(bytes: Buffer): readonly Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at] ?? 0;
    const first = bytes[at + 1] ?? 0x80;
    const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
    const start = at + 2 + lengthBytes;
    const isSound = (tag & 0x1f) !== 0x1f && first !== 0x80 && lengthBytes <= 4;
    if (!isSound || start > bytes.length) throw untrusted('it is malformed');
    const length = lengthBytes === 0 ? first : bytes.readUIntBE(at + 2, lengthBytes);
    if (start + length > bytes.length) throw untrusted('it is malformed');
    found.push({ tag, content: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return found;
}

function only(bytes: Buffer): Element | undefined {
  const [element, ...more] = elements(bytes);
  return more.length === 0 ? element : undefined;
}

function expect(element: Element | undefined, tag: number): Buffer {
  if (element?.tag !== tag) throw untrusted('it is malformed');
  return element.content;
}

/** Not negative, and not beyond what counts of numbers can be. */
function readInteger(content: Buffer): number {
  if (content.length === 0 || content.length > 6 || ((content[0] ?? 0) & 0x80) !== 0) {
    throw untrusted('it is malformed');
  }
  return content.readUIntBE(0, content.length);
}
