/**
 * Caller identity of this node: signs outbound callers, verifies inbound ones, and says what a
 * trunk's policy makes of the result. The order of checks is from cheap to dear, so that a token
 * about another call or another time never makes this node fetch anything.
 *
 * RFC 8224 §5, §6; RFC 8588; RFC 9410 (the Reason of a failure). Not the token (`sip/passport`),
 * not the field (`sip/identity-field`), not the certificates (`certificates`, `certificate-path`).
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import type { Config } from '../core/config.ts';
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { HttpClient } from '../http/client.ts';
import {
  canonicalParty,
  checkClaims,
  formatIdentity,
  type IdentityRequest,
  identityValues,
  type NumberRules,
  parseIdentity,
  passportOf,
} from '../sip/identity-field.ts';
import { type HeaderField, reasonPhrase, type SipMessage } from '../sip/message.ts';
import {
  type Attestation,
  invalid,
  isP256,
  type Passport,
  signPassport,
  verifySignature,
} from '../sip/passport.ts';
import type { StirPolicy } from '../store/trunk-policy.ts';
import { checkAuthority, checkDates, readCertificates } from './certificate-path.ts';
import { Certificates, type CertificatesOptions, DEFAULT_CERTIFICATES } from './certificates.ts';
import type { Decision } from './decision.ts';
import { WatchedFile } from './watched-file.ts';

export interface StirOptions {
  /** '' signs nothing. */
  readonly keyFile: string;
  readonly certificateUrl: string;
  readonly attestation: Attestation;
  /** '' makes one at the start. */
  readonly originationId: string;
  /** '' verifies nobody. */
  readonly trustAnchors: string;
  /** The longest that `verify` takes. */
  readonly verifyMs: number;
  readonly freshnessMs: number;
  readonly requireTnAuthList: boolean;
  /** Identity fields of one request; more are refused. */
  readonly identitiesMax: number;
  /** How often the files are looked at. */
  readonly fileCheckMs: number;
  readonly certificates: CertificatesOptions;
}

export const DEFAULT_STIR: StirOptions = {
  keyFile: '',
  certificateUrl: '',
  attestation: 'C',
  originationId: '',
  trustAnchors: '',
  verifyMs: 2000,
  freshnessMs: 60_000,
  requireTnAuthList: true,
  identitiesMax: 8,
  fileCheckMs: 5000,
  certificates: DEFAULT_CERTIFICATES,
};

/** The keys `stir.*` as options, checked against each other. Throws CONFIG_BAD_VALUE. */
export function stirOptions(config: Config): StirOptions {
  const options: StirOptions = {
    ...DEFAULT_STIR,
    keyFile: config['stir.keyFile'],
    certificateUrl: config['stir.certificateUrl'],
    attestation: config['stir.attestation'] as Attestation,
    originationId: config['stir.originationId'],
    trustAnchors: config['stir.trustAnchors'],
    verifyMs: config['stir.verifyMs'],
    freshnessMs: config['stir.freshnessSeconds'] * 1000,
    requireTnAuthList: config['stir.requireTnAuthList'],
    certificates: {
      ...DEFAULT_CERTIFICATES,
      certificatesMax: config['stir.certificatesMax'],
      ports: config['stir.certificatePorts'].map(readPort),
      allowHttp: config['stir.allowHttp'],
    },
  };
  const { keyFile, certificateUrl, originationId } = options;
  if (keyFile !== '' && !/^https:\/\/[^\s<>"?#@]+$/.test(certificateUrl)) {
    refuse('stir.certificateUrl', 'must be an https URL without query when stir.keyFile is set');
  }
  if (originationId !== '' && !UUID.test(originationId)) {
    refuse('stir.originationId', 'must be a UUID');
  }
  return options;
}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

function readPort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) refuse('stir.certificatePorts', `"${text}" is no port`);
  return port;
}

function refuse(key: string, problem: string): never {
  throw new GatewayError('CONFIG_BAD_VALUE', { key, problem });
}

// --- Shapes: plain data, so that a question and its answer may cross the bus -------------------

export interface StirSignRequest {
  /** A number or a sip: or tel: URI, as the INVITE's From (or P-Asserted-Identity) says it. */
  readonly from: string;
  /** As its To says it. */
  readonly to: string;
  /** What is known of the caller; without it the configured one. */
  readonly attest?: Attestation;
  readonly numbers?: NumberRules;
}

/** What `verify` reads of a request. */
export interface StirHeaders {
  readonly identity: readonly string[];
  readonly date: string | null;
}

export interface StirQuery {
  /** Who the request says calls: P-Asserted-Identity where the trunk is trusted, else From. */
  readonly from: string;
  /** The To URI, not the Request-URI: that one changes on the way. */
  readonly to: string;
  /** When the request came, wall clock: waiting for a certificate makes no signature old. */
  readonly nowMs: number;
  readonly numbers?: NumberRules;
}

export type Verstat = 'TN-Validation-Passed' | 'TN-Validation-Failed' | 'No-TN-Validation';

export interface StirResult {
  readonly verstat: Verstat;
  /** Claimed by the token, also when it failed; null when it has none or was not readable. */
  readonly attestation: Attestation | null;
  /** Why it did not pass; null when it did. */
  readonly code: ErrorCode | null;
  readonly reason: string;
  /** For StirPassportToken: in full form, of the field that the result is about. */
  readonly token: string | null;
  readonly origid: string | null;
  /** Provider of the signer's certificate, when it passed and names one. */
  readonly providerCode: string | null;
}

export function stirHeaders(message: SipMessage): StirHeaders {
  return { identity: message.headers('Identity'), date: message.header('Date') ?? null };
}

/** The words applications know. A base PASSporT attests nothing they have a word for. */
export function stirVerstat({ verstat, attestation }: StirResult): string {
  if (verstat === 'No-TN-Validation') return verstat;
  if (attestation !== null) return `${verstat}-${attestation}`;
  return verstat === 'TN-Validation-Passed' ? 'No-TN-Validation' : verstat;
}

/** What an application is told beside the call's own parameters. */
export function stirParameters(result: StirResult): readonly (readonly [string, string])[] {
  const verstat = ['StirVerstat', stirVerstat(result)] as const;
  return result.token === null ? [verstat] : [verstat, ['StirPassportToken', result.token]];
}

export interface StirRefusal {
  readonly code: ErrorCode;
  readonly status: number;
  /** Reason phrase of the response: 403 has one of its own here (RFC 8224 §6.2.2). */
  readonly phrase: string;
  readonly headers: readonly HeaderField[];
}

/** The refusal that `require` makes of what did not pass; null lets the call in. */
export function stirRefusal(policy: StirPolicy, { code }: StirResult): StirRefusal | null {
  if (policy.verify !== 'require' || code === null) return null;
  const status = ERRORS[code].sip;
  return { code, status, phrase: stirPhrase(code), headers: [stirReason(code)] };
}

/** RFC 9410 §4: tells the signer what failed, in a refusal or beside a call that goes on. */
export function stirReason(code: ErrorCode): HeaderField {
  return ['Reason', `STIR ;cause=${ERRORS[code].sip} ;text="${stirPhrase(code)}"`];
}

/** Reason phrase of a refusal for `code`. */
export function stirPhrase(code: ErrorCode): string {
  return code === 'STIR_STALE' ? 'Stale Date' : reasonPhrase(ERRORS[code].sip);
}

/** All that a call needs to know of its caller's verification. */
export interface StirJudgement {
  readonly result: StirResult;
  readonly refusal: StirRefusal | null;
  readonly decision: Decision;
}

/** For the explanation of a call: what was compared, and what to change where it was refused. */
function stirDecision(result: StirResult, isRefused: boolean): Decision {
  const { reason, providerCode, code } = result;
  const by = providerCode === null ? '' : ` by provider ${providerCode}`;
  const what = `caller identity is ${stirVerstat(result)}${by}: ${reason}`;
  const isOurs = code === 'STIR_CREDENTIAL';
  const fix = isRefused ? `the trunk's Stir.verify${isOurs ? ' or stir.trustAnchors' : ''}` : '';
  return { step: 'identity', ok: !isRefused, what, fix };
}

// --- The service ------------------------------------------------------------------------------

const NOTHING = {
  attestation: null,
  token: null,
  origid: null,
  providerCode: null,
} as const satisfies Partial<StirResult>;

export class Stir {
  readonly #clock: Clock;
  readonly #options: StirOptions;
  readonly #certificates: Certificates;
  readonly #files: WatchedFile[] = [];
  readonly #log: Log;
  readonly #origid: string;
  readonly #count: (result: Verstat | 'signed') => void;
  #key: KeyObject | null = null;

  constructor(o: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    http: Pick<HttpClient, 'fetch'>;
    options: StirOptions;
  }) {
    const { clock, log, options } = o;
    this.#clock = clock;
    this.#log = log;
    this.#options = options;
    this.#certificates = new Certificates({ http: o.http, options: options.certificates });
    this.#origid = options.originationId || uuid(clock.randomHex(16));
    const help = 'Callers signed and verified (RFC 8224)';
    const counter = o.metrics.counter('tandem_stir_total', help, ['result']);
    this.#count = (result) => counter.inc({ result });
    const file = (key: string, path: string, take: (text: string) => void): void => {
      const checkMs = options.fileCheckMs;
      if (path !== '') this.#files.push(new WatchedFile({ clock, log, key, path, checkMs, take }));
    };
    file('stir.keyFile', options.keyFile, (text) => {
      this.#key = readKey(text);
    });
    file('stir.trustAnchors', options.trustAnchors, (text) => this.#trust(text));
  }

  get canSign(): boolean {
    return this.#key !== null;
  }

  get canVerify(): boolean {
    return this.#certificates.hasAnchors;
  }

  /** Reads the key and the authorities. Throws CONFIG_BAD_VALUE naming the key of a bad file. */
  async start(): Promise<void> {
    for (const file of this.#files) await file.start();
    if (this.canSign) this.#log.info({ origid: this.#origid }, 'callers are signed');
  }

  /** Looks at the files now rather than in a while. */
  async reload(): Promise<void> {
    for (const file of this.#files) await file.check();
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  /**
   * The Identity field for an outbound INVITE (RFC 8224 §5.1, RFC 8588 §5); null when the trunk or
   * this node does not sign, or when the caller is no number of the world: an extension or a name
   * is nothing that others could hold us to.
   */
  sign(policy: StirPolicy, request: StirSignRequest): HeaderField | null {
    const key = this.#key;
    if (!policy.sign || key === null) return null;
    const orig = canonicalParty(request.from, request.numbers);
    const to = canonicalParty(request.to, request.numbers);
    if (orig?.kind !== 'tn' || !E164.test(orig.value) || to === null) return null;
    const { attestation, certificateUrl: x5u } = this.#options;
    const claims = {
      attest: request.attest ?? attestation,
      dest: { tn: [], uri: [], [to.kind]: [to.value] },
      iatS: Math.floor(this.#clock.nowMs() / 1000),
      orig,
      origid: this.#origid,
    };
    const token = signPassport({ ppt: 'shaken', x5u, claims }, key);
    this.#count('signed');
    return ['Identity', formatIdentity(token, x5u, 'shaken')];
  }

  /** `verify` under a trunk's policy; null at once where that does not want to know. */
  async judge(
    policy: StirPolicy,
    headers: StirHeaders,
    query: StirQuery,
  ): Promise<StirJudgement | null> {
    if (policy.verify === 'off') return null;
    const result = await this.verify(headers, query);
    const refusal = stirRefusal(policy, result);
    return { result, refusal, decision: stirDecision(result, refusal !== null) };
  }

  /** Never rejects, and never takes longer than `verifyMs`. */
  async verify(headers: StirHeaders, query: StirQuery): Promise<StirResult> {
    const { verifyMs } = this.#options;
    const { promise: late, resolve } = Promise.withResolvers<StirResult>();
    const waiting = { isOver: false };
    // A fetch goes on behind it: its answer serves the next call.
    const timer = this.#clock.timer(verifyMs, () => {
      const reason = `not verified within ${verifyMs} ms`;
      const code = 'STIR_INFO_UNREACHABLE';
      resolve({ ...NOTHING, verstat: 'No-TN-Validation', code, reason });
    });
    try {
      const result = await Promise.race([this.#verify(headers, query, waiting), late]);
      this.#count(result.verstat);
      return result;
    } finally {
      waiting.isOver = true;
      timer.cancel();
    }
  }

  async #verify(
    headers: StirHeaders,
    query: StirQuery,
    waiting: { readonly isOver: boolean },
  ): Promise<StirResult> {
    const from = canonicalParty(query.from, query.numbers);
    const to = canonicalParty(query.to, query.numbers);
    let values: readonly string[];
    try {
      values = identityValues(headers.identity, this.#options.identitiesMax);
      if (values.length > 0 && (from === null || to === null))
        throw invalid('the request has no caller or callee that can be compared');
    } catch (thrown) {
      return this.#failed(thrown, null);
    }
    if (values.length === 0) return absent('there is none');
    if (!this.canVerify) {
      const reason = 'stir.trustAnchors names no authority';
      return { ...NOTHING, verstat: 'No-TN-Validation', code: 'STIR_CREDENTIAL', reason };
    }
    const request = { from, to, date: headers.date } as IdentityRequest;
    let worst: StirResult | null = null;
    for (const value of values) {
      const result = await this.#verifyOne(value, request, query.nowMs);
      // RFC 8224 §6.2: one that passes is enough; of those that do not, the first is told.
      if (result?.code === null) return result;
      worst ??= result;
      // Nobody hears of the rest, and each may be another fetch.
      if (waiting.isOver) break;
    }
    return worst ?? absent('none is of a kind that is known');
  }

  /** Null when the field counts as absent. */
  async #verifyOne(
    value: string,
    request: IdentityRequest,
    nowMs: number,
  ): Promise<StirResult | null> {
    let passport: Passport | null = null;
    try {
      passport = passportOf(parseIdentity(value), request);
      if (passport === null) return null;
      checkClaims(passport, { ...request, nowMs, freshnessMs: this.#options.freshnessMs });
      const certificate = await this.#certificates.get(passport.x5u, nowMs);
      checkDates(certificate, nowMs);
      checkAuthority(certificate, request.from, this.#options.requireTnAuthList);
      if (!verifySignature(passport.token, certificate.key)) {
        throw invalid('it was not made with the key of its certificate');
      }
      return {
        ...claimsOf(passport),
        verstat: 'TN-Validation-Passed',
        code: null,
        reason: 'verified',
        providerCode: certificate.tnAuthList?.providerCodes[0] ?? null,
      };
    } catch (thrown) {
      return this.#failed(thrown, passport);
    }
  }

  /** What could not be looked at was not validated; what was looked at and is wrong has failed. */
  #failed(thrown: unknown, passport: Passport | null): StirResult {
    const { code, message: reason } = asGatewayError(thrown);
    // A fault of ours costs this caller the verdict, not the call; it must not stay unseen.
    if (code === 'INTERNAL') this.#log.error({ problem: reason }, 'verification broke');
    const isUnknown = code === 'STIR_INFO_UNREACHABLE' || code === 'INTERNAL';
    const verstat = isUnknown ? 'No-TN-Validation' : 'TN-Validation-Failed';
    return { ...NOTHING, ...(passport === null ? {} : claimsOf(passport)), verstat, code, reason };
  }

  #trust(text: string): void {
    const anchors = readCertificates(Buffer.from(text, 'latin1'), ANCHORS_MAX);
    if (anchors.length === 0) {
      throw new GatewayError('STIR_CREDENTIAL', { problem: 'there is no readable certificate' });
    }
    this.#certificates.setAnchors(anchors);
  }
}

/** The list of a country's authorities has tens. */
const ANCHORS_MAX = 1000;

function absent(problem: string): StirResult {
  const { code, message: reason } = new GatewayError('STIR_NO_IDENTITY', { problem });
  return { ...NOTHING, verstat: 'No-TN-Validation', code, reason };
}

function claimsOf({ token, claims }: Passport): Omit<StirResult, 'verstat' | 'code' | 'reason'> {
  return { attestation: claims.attest, token, origid: claims.origid, providerCode: null };
}

/** The shortest numbers with a country code have seven digits. */
const E164 = /^[1-9][0-9]{6,14}$/;

function readKey(text: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch {
    // Its words may quote the file.
    throw new GatewayError('STIR_CREDENTIAL', { problem: 'there is no readable private key' });
  }
  if (!isP256(key))
    throw new GatewayError('STIR_CREDENTIAL', { problem: 'the key is not EC P-256' });
  return key;
}

/** RFC 9562 §5.4: 16 random bytes as version 4. */
function uuid(hex: string): string {
  const version = `4${hex.slice(13, 16)}`;
  const variant = ((Number.parseInt(hex.slice(16, 18), 16) & 0x3f) | 0x80).toString(16);
  const last = hex.slice(20, 32);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${version}-${variant}${hex.slice(18, 20)}-${last}`;
}
