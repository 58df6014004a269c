/**
 * Digest authentication, both ways: challenges and their verification for what comes in, responses
 * for what we send. Takes input and time, returns output; knows no accounts, no transactions. Not
 * a ban list: the caller counts failures by source.
 *
 * RFC 7616 and RFC 8760 (SHA-256), RFC 2617 (MD5, as most phones still do), RFC 3261 §22. Nonces
 * are signed, so none is remembered until it is used rightly; the counters of used ones are kept in
 * a bounded table, and what the bound pushes out is never valid again. A wrong user and a wrong
 * password take the same path, the same hashes and the same answer.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import { closingQuote, unquote } from './grammar.ts';
import { decodeUtf8, encodeUtf8 } from './message.ts';
import { parseUri } from './uri.ts';

export type DigestAlgorithm = 'MD5' | 'SHA-256';

/** How a client names an algorithm and what computes it; '-sess' hashes A1 once more. */
const HASHES: ReadonlyMap<string, string> = new Map([
  ['md5', 'md5'],
  ['sha-256', 'sha256'],
  ['sha-512-256', 'sha512-256'],
]);

export interface DigestServerOptions {
  readonly clock: Clock;
  readonly realm: string;
  /** Signs nonces. Kept between starts, it lets phones go on without a new challenge. */
  readonly nonceSecret: Secret;
  readonly nonceLifetimeMs?: number;
  /** Counters of used nonces that are remembered. */
  readonly noncesMax?: number;
  /** In the order offered: the first is the one we would rather have (RFC 8760 §2.4). */
  readonly algorithms?: readonly DigestAlgorithm[];
}

/** 5 minutes: one registration refresh of a phone behind NAT, and little for a thief. */
const DEFAULT_NONCE_LIFETIME_MS = 300_000;
const DEFAULT_NONCES_MAX = 10_000;
const DEFAULT_ALGORITHMS: readonly DigestAlgorithm[] = ['SHA-256', 'MD5'];

/** What an account has: its password, or the hashes of `username:realm:password` alone. */
export type DigestAccount =
  | { readonly password: Secret }
  | { readonly ha1: Readonly<Partial<Record<DigestAlgorithm, string>>> };

/** Credentials as sent, checked for form only. */
export interface DigestCredentials {
  /** Bytes, one per character: `decodeUtf8` before looking it up. */
  readonly username: string;
  readonly realm: string;
  readonly nonce: string;
  readonly uri: string;
  readonly response: string;
  readonly algorithm: DigestAlgorithm;
  readonly cnonce: string;
  readonly nc: string;
}

export type DigestVerdict =
  | { readonly ok: true; readonly username: string }
  | { readonly ok: false; readonly reason: 'wrong' | 'stale' | 'replayed' };

const PARAMS_MAX = 32;
const NONCE_BYTES = 32;
const SIGNATURE_BYTES = 16;
/** A clock set back must not make nonces of the future last for hours. */
const FUTURE_MS_MAX = 5000;
/** Requests on UDP overtake each other: a count may come late by this much, never twice. */
const NC_WINDOW = 32;

/** A server that calls every nonce stale would be answered for ever. */
const UNPROVEN_MAX = 3;

interface NonceUse {
  readonly issuedMs: number;
  highest: number;
  /** Bit n: count `highest - n` was used. */
  seen: number;
}

export class DigestServer {
  readonly #clock: Clock;
  readonly #realm: string;
  readonly #secret: Secret;
  readonly #lifetimeMs: number;
  readonly #noncesMax: number;
  readonly #algorithms: readonly DigestAlgorithm[];
  readonly #uses = new Map<string, NonceUse>();
  /** Nonces issued up to then were pushed out of the table: their counts are forgotten. */
  #forgottenMs = 0;
  readonly #nobody: string;

  constructor(options: DigestServerOptions) {
    this.#clock = options.clock;
    this.#realm = encodeUtf8(options.realm);
    this.#secret = options.nonceSecret;
    this.#lifetimeMs = options.nonceLifetimeMs ?? DEFAULT_NONCE_LIFETIME_MS;
    this.#noncesMax = options.noncesMax ?? DEFAULT_NONCES_MAX;
    this.#algorithms = options.algorithms ?? DEFAULT_ALGORITHMS;
    this.#nobody = options.clock.randomHex(16);
  }

  /**
   * Values of WWW-Authenticate or Proxy-Authenticate, one field each. A nonce issued to a `peer`
   * is good from there alone: who uses it can be reached at the address it seems to come from.
   */
  challenge(stale = false, peer = ''): string[] {
    const nonce = this.#issue(peer);
    const tail = `, qop="auth"${stale ? ', stale=true' : ''}`;
    const head = `Digest realm="${quoted(this.#realm)}", nonce="${nonce}"`;
    return this.#algorithms.map((algorithm) => `${head}, algorithm=${algorithm}${tail}`);
  }

  /**
   * The credentials for our realm among the values of (Proxy-)Authorization; null when there are
   * none (then challenge). Throws SIP_MALFORMED when they are Digest but not well formed.
   */
  read(values: readonly string[]): DigestCredentials | null {
    let found: DigestCredentials | null = null;
    for (const value of values) {
      const params = digestParams(value);
      if (params === null) continue;
      const credentials = toCredentials(params);
      if (credentials.realm !== this.#realm || found !== null) continue;
      if (this.#algorithms.includes(credentials.algorithm)) found = credentials;
    }
    return found;
  }

  /**
   * `account` is null when nobody has that name: the same hashes are computed and the answer is
   * the same. On `stale` challenge again with `stale`; on the others challenge plainly.
   */
  verify(
    credentials: DigestCredentials,
    request: { readonly method: string; readonly uri: string },
    account: DigestAccount | null,
    peer = '',
  ): DigestVerdict {
    const expected = this.#expected(credentials, request.method, account);
    const isRight = equal(expected, credentials.response);
    const isSameUri = equivalent(credentials.uri, request.uri);
    const issuedMs = this.#issuedMs(credentials.nonce, peer);
    if (issuedMs === null || !isRight || !isSameUri || account === null) {
      return { ok: false, reason: 'wrong' };
    }
    const ageMs = this.#clock.nowMs() - issuedMs;
    if (ageMs > this.#lifetimeMs || ageMs < -FUTURE_MS_MAX) return { ok: false, reason: 'stale' };
    const problem = this.#use(credentials.nonce, issuedMs, Number.parseInt(credentials.nc, 16));
    if (problem !== null) return { ok: false, reason: problem };
    return { ok: true, username: credentials.username };
  }

  /** Whether we issued it, to that peer and lately: else a wrong response tells nothing. */
  isFresh(nonce: string, peer = ''): boolean {
    const issuedMs = this.#issuedMs(nonce, peer);
    return issuedMs !== null && this.#clock.nowMs() - issuedMs <= this.#lifetimeMs;
  }

  /** Nonces in the table, for metrics and tests. */
  get noncesHeld(): number {
    return this.#uses.size;
  }

  /** Same work for nobody as for somebody: one A1 is hashed, needed or not. */
  #expected(sent: DigestCredentials, method: string, account: DigestAccount | null): string {
    const { algorithm } = sent;
    const isPassword = account !== null && 'password' in account;
    const password = isPassword ? encodeUtf8(account.password.reveal()) : this.#nobody;
    let ha1 = digest(algorithm, `${sent.username}:${sent.realm}:${password}`);
    // Without a stored hash of this algorithm the decoy stays, which no password gives.
    if (account !== null && 'ha1' in account) ha1 = account.ha1[algorithm]?.toLowerCase() ?? ha1;
    const ha2 = digest(algorithm, `${method}:${sent.uri}`);
    return digest(algorithm, `${ha1}:${sent.nonce}:${sent.nc}:${sent.cnonce}:auth:${ha2}`);
  }

  /** Time, chance and a signature over both and the realm, as base64url. */
  #issue(peer: string): string {
    const raw = Buffer.alloc(NONCE_BYTES);
    raw.writeUIntBE(this.#clock.nowMs(), 0, 6);
    raw.write(this.#clock.randomHex(10), 6, 'hex');
    this.#sign(raw.subarray(0, 16), peer).copy(raw, 16);
    return raw.toString('base64url');
  }

  #sign(head: Buffer, peer: string): Buffer {
    const hmac = createHmac('sha256', this.#secret.reveal()).update(head).update(this.#realm);
    if (peer !== '') hmac.update('\0').update(peer);
    return hmac.digest().subarray(0, SIGNATURE_BYTES);
  }

  /** When one of our nonces was issued; null when it is not ours. */
  #issuedMs(nonce: string, peer: string): number | null {
    const raw = Buffer.alloc(NONCE_BYTES);
    const isWhole =
      raw.write(nonce, 'base64url') === NONCE_BYTES && raw.toString('base64url') === nonce;
    const isOurs = timingSafeEqual(this.#sign(raw.subarray(0, 16), peer), raw.subarray(16));
    return isWhole && isOurs ? raw.readUIntBE(0, 6) : null;
  }

  /** Marks the count as used. RFC 7616 §3.4: a count seen before is a replay. */
  #use(nonce: string, issuedMs: number, count: number): 'replayed' | 'stale' | null {
    const use = this.#uses.get(nonce);
    if (use === undefined) {
      if (issuedMs <= this.#forgottenMs) return 'stale';
      this.#makeRoom();
      this.#uses.set(nonce, { issuedMs, highest: count, seen: 1 });
      return null;
    }
    const ahead = count - use.highest;
    if (ahead > 0) {
      use.seen = ahead >= NC_WINDOW ? 1 : (use.seen << ahead) | 1;
      use.highest = count;
      return null;
    }
    if (-ahead >= NC_WINDOW || ((use.seen >>> -ahead) & 1) === 1) return 'replayed';
    use.seen |= 1 << -ahead;
    return null;
  }

  /** Forgets what has expired, and the oldest when the table is full. */
  #makeRoom(): void {
    const expiredMs = this.#clock.nowMs() - this.#lifetimeMs;
    for (const [nonce, use] of this.#uses) {
      const isFull = this.#uses.size >= this.#noncesMax;
      if (use.issuedMs > expiredMs && !isFull) return;
      this.#forgottenMs = Math.max(this.#forgottenMs, use.issuedMs);
      this.#uses.delete(nonce);
    }
  }
}

/** What to store instead of a password. */
export function digestHa1(
  algorithm: DigestAlgorithm,
  options: { readonly username: string; readonly realm: string; readonly password: Secret },
): string {
  const { username, realm, password } = options;
  return digest(algorithm, encodeUtf8(`${username}:${realm}:${password.reveal()}`));
}

function digest(algorithm: DigestAlgorithm, text: string): string {
  return hash(algorithm.toLowerCase(), text);
}

/** `text` is bytes, one per character: what came is so already, what is ours is encoded. */
function hash(name: string, text: string): string {
  return createHash(HASHES.get(name) ?? 'md5')
    .update(text, 'latin1')
    .digest('hex');
}

function equal(expected: string, sent: string): boolean {
  const a = Buffer.from(expected, 'latin1');
  const b = Buffer.alloc(a.length);
  b.write(sent.toLowerCase(), 'latin1');
  return timingSafeEqual(a, b) && sent.length === expected.length;
}

/** RFC 3261 §22.4 item 7 with §19.1.4: the same resource, however written. */
function equivalent(sent: string, uri: string): boolean {
  if (sent === uri) return true;
  try {
    const a = parseUri(sent);
    const b = parseUri(uri);
    const isSameHost = a.host.toLowerCase() === b.host.toLowerCase() && a.port === b.port;
    return a.scheme === b.scheme && a.user === b.user && isSameHost;
  } catch (thrown) {
    if (thrown instanceof GatewayError) return false;
    throw thrown;
  }
}

/** The parameters of a Digest value by lower-case name; null when it is of another scheme. */
export function digestParams(value: string): ReadonlyMap<string, string> | null {
  if (!/^digest(?:[ \t]|$)/i.test(value)) return null;
  const params = new Map<string, string>();
  let p = 6;
  for (;;) {
    while (p < value.length && ' \t,'.includes(value.charAt(p))) p += 1;
    if (p >= value.length) return params;
    const equals = value.indexOf('=', p);
    if (equals < 0) throw malformed('parameter without a value');
    const name = value.slice(p, equals).trim().toLowerCase();
    if (!/^[a-z0-9_-]+$/.test(name)) throw malformed('bad parameter name');
    if (params.has(name)) throw malformed(`two ${name} parameters`);
    if (params.size >= PARAMS_MAX) throw malformed('too many parameters');
    p = equals + 1;
    while (p < value.length && ' \t'.includes(value.charAt(p))) p += 1;
    if (value.charAt(p) === '"') {
      const close = closingQuote(value, p, value.length);
      if (close < 0) throw malformed('unbalanced quote');
      params.set(name, unquote(value.slice(p + 1, close)));
      p = close + 1;
      while (p < value.length && ' \t'.includes(value.charAt(p))) p += 1;
      if (p < value.length && value.charAt(p) !== ',') throw malformed('no comma');
    } else {
      const comma = value.indexOf(',', p);
      const end = comma < 0 ? value.length : comma;
      params.set(name, value.slice(p, end).trim());
      p = end;
    }
  }
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem: `credentials: ${problem}` });
}

function toCredentials(params: ReadonlyMap<string, string>): DigestCredentials {
  const need = (name: string): string => {
    const value = params.get(name);
    if (value === undefined || value === '') throw malformed(`no ${name}`);
    return value;
  };
  const named = (params.get('algorithm') ?? 'MD5').toUpperCase();
  const credentials = {
    username: need('username'),
    realm: need('realm'),
    nonce: need('nonce'),
    uri: need('uri'),
    response: need('response'),
    cnonce: need('cnonce'),
    nc: need('nc'),
    // Another algorithm is not one we offered; `read` then finds no credentials for us.
    algorithm: named as DigestAlgorithm,
  };
  if (!/^[0-9a-f]{8}$/i.test(credentials.nc)) throw malformed('bad nc');
  if (need('qop').toLowerCase() !== 'auth') throw malformed('qop is not auth');
  if (!/^[0-9a-f]+$/i.test(credentials.response)) throw malformed('bad response');
  return credentials;
}

export interface DigestClientOptions {
  readonly clock: Clock;
  readonly username: string;
  readonly password: Secret;
  /** Only challenges of this realm are answered. Without it, of whoever we sent the request to. */
  readonly realm?: string;
}

export interface DigestRequest {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
}

interface Challenge {
  readonly realm: string;
  readonly nonce: string;
  readonly opaque: string | undefined;
  /** As the server wrote it; undefined when it wrote none. */
  readonly algorithm: string | undefined;
  readonly qop: 'auth' | 'auth-int' | undefined;
  readonly isStale: boolean;
}

/** Answers one peer's challenges; one object a registration or call. */
export class DigestClient {
  readonly #clock: Clock;
  readonly #username: string;
  readonly #password: Secret;
  readonly #realm: string | undefined;
  #challenge: Challenge | null = null;
  #count = 0;
  /** Answers given since the last one that was accepted. */
  #unproven = 0;

  constructor(options: DigestClientOptions) {
    this.#clock = options.clock;
    this.#username = options.username;
    this.#password = options.password;
    this.#realm = options.realm === undefined ? undefined : encodeUtf8(options.realm);
  }

  /**
   * The value to send back, null when no challenge can or should be answered: another realm (the
   * leak of CVE-2021-41158), an unknown algorithm, or the same refusal of what was just answered.
   */
  answer(challenges: readonly string[], request: DigestRequest): string | null {
    for (const value of challenges) {
      const challenge = readChallenge(value);
      if (challenge === null) continue;
      if (this.#realm !== undefined && challenge.realm !== this.#realm) continue;
      const isRefusal = this.#unproven > 0 && !challenge.isStale;
      if (isRefusal || this.#unproven >= UNPROVEN_MAX) return null;
      if (this.#challenge?.nonce !== challenge.nonce) this.#count = 0;
      this.#challenge = challenge;
      return this.next(request);
    }
    return null;
  }

  /** The realm that was answered last; undefined before the first answer. */
  get answeredRealm(): string | undefined {
    const realm = this.#challenge?.realm;
    return realm === undefined ? undefined : decodeUtf8(realm);
  }

  /** Credentials for a further request under the last challenge; null before the first one. */
  next(request: DigestRequest): string | null {
    const challenge = this.#challenge;
    if (challenge === null) return null;
    this.#count += 1;
    this.#unproven += 1;
    const nc = this.#count.toString(16).padStart(8, '0');
    return respond(challenge, request, {
      username: this.#username,
      password: this.#password,
      nc,
      cnonce: this.#clock.randomHex(12),
    });
  }

  /** A request with our credentials was not refused with 401 or 407: a new round may begin. */
  accepted(): void {
    this.#unproven = 0;
  }
}

function readChallenge(value: string): Challenge | null {
  let params: ReadonlyMap<string, string> | null = null;
  try {
    params = digestParams(value);
  } catch (thrown) {
    if (!(thrown instanceof GatewayError)) throw thrown;
  }
  const realm = params?.get('realm');
  const nonce = params?.get('nonce');
  if (params === null || realm === undefined || nonce === undefined) return null;
  const algorithm = params.get('algorithm');
  if (!HASHES.has(hashName(algorithm))) return null;
  const offered = params
    .get('qop')
    ?.toLowerCase()
    .split(',')
    .map((qop) => qop.trim());
  const qop =
    offered?.find((name) => name === 'auth') ?? offered?.find((name) => name === 'auth-int');
  if (offered !== undefined && qop === undefined) return null;
  return {
    realm,
    nonce,
    algorithm,
    opaque: params.get('opaque'),
    qop: qop as Challenge['qop'],
    isStale: params.get('stale')?.toLowerCase() === 'true',
  };
}

function hashName(algorithm: string | undefined): string {
  return (algorithm ?? 'MD5').toLowerCase().replace(/-sess$/, '');
}

function respond(
  challenge: Challenge,
  request: DigestRequest,
  own: { username: string; password: Secret; nc: string; cnonce: string },
): string {
  const { realm, nonce, qop, algorithm, opaque } = challenge;
  const name = hashName(algorithm);
  const username = encodeUtf8(own.username);
  let ha1 = hash(name, `${username}:${realm}:${encodeUtf8(own.password.reveal())}`);
  if (algorithm?.toLowerCase().endsWith('-sess')) ha1 = hash(name, `${ha1}:${nonce}:${own.cnonce}`);
  const entity =
    qop === 'auth-int'
      ? `:${createHash(HASHES.get(name) ?? 'md5')
          .update(request.body, 'latin1')
          .digest('hex')}`
      : '';
  const ha2 = hash(name, `${request.method}:${request.uri}${entity}`);
  // RFC 2617 §3.2.2.1: a challenge without qop is of RFC 2069.
  const middle = qop === undefined ? nonce : `${nonce}:${own.nc}:${own.cnonce}:${qop}`;
  const response = hash(name, `${ha1}:${middle}:${ha2}`);
  let value = `Digest username="${quoted(username)}", realm="${quoted(realm)}"`;
  value += `, nonce="${quoted(nonce)}", uri="${request.uri}", response="${response}"`;
  if (algorithm !== undefined) value += `, algorithm=${algorithm}`;
  if (opaque !== undefined) value += `, opaque="${quoted(opaque)}"`;
  if (qop !== undefined) value += `, qop=${qop}, nc=${own.nc}, cnonce="${own.cnonce}"`;
  return value;
}

function quoted(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"');
}
