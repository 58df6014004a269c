/**
 * The HTTP client: every request tandem makes goes through here, and so past the address guard.
 *
 * Names are resolved once, the bytes of each address are checked, and the socket is connected to
 * the address that was checked, so neither a literal, a redirect nor a name that changes its
 * answer reaches a private host. Bodies, redirects, headers and times are bounded. It does not
 * know what it fetches: documents are `verbs/application`, prompts `assets/library`, callbacks
 * `events/callbacks`.
 */
import { lookup as dnsLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { Agent, buildConnector, type Dispatcher, errors, request } from 'undici';
import { type AddressGuard, unmapped } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { ConnectionPolicy, RetryReason } from './overrides.ts';
import { shown } from './url.ts';

export interface HttpClientOptions {
  readonly clock: Clock;
  readonly guard: AddressGuard;
  readonly userAgent: string;
  /** Sockets kept to one origin; more requests wait for one of them. */
  readonly connectionsPerOriginMax: number;
  /** Origins with live pools; the least used is closed beyond it. */
  readonly originsMax: number;
  readonly redirectsMax: number;
  readonly keepAliveMs: number;
  readonly headerBytesMax: number;
  /** Injected for tests; the system's resolver otherwise. */
  readonly resolve?: (host: string) => Promise<readonly string[]>;
}

export const DEFAULT_HTTP_CLIENT = {
  connectionsPerOriginMax: 64,
  originsMax: 256,
  redirectsMax: 10,
  keepAliveMs: 10_000,
  headerBytesMax: 16_384,
} as const;

export interface HttpRequest {
  readonly url: string;
  readonly method: 'GET' | 'POST' | 'HEAD';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly bodyBytesMax: number;
  readonly policy: ConnectionPolicy;
  /**
   * Called before each hop with the URL as it is sent, so that cookies and signatures fit what is
   * really asked. What it gives wins over `headers`.
   */
  readonly prepare?: (hop: { url: string; method: string }) => Readonly<Record<string, string>>;
  /** Called with each hop's response headers. */
  readonly observe?: (hop: { url: string; headers: HttpHeaders }) => void;
  readonly signal?: AbortSignal;
}

export type HttpHeaders = Readonly<Record<string, string | string[] | undefined>>;

export interface HttpResponse {
  /** The URL that answered, after redirects. */
  readonly url: string;
  readonly status: number;
  readonly headers: HttpHeaders;
  readonly body: Buffer;
  readonly tries: number;
}

interface Hop<B> {
  readonly status: number;
  readonly headers: HttpHeaders;
  readonly body: B;
}

export interface HttpStream {
  readonly url: string;
  readonly status: number;
  readonly headers: HttpHeaders;
  /** Bounded by `bodyBytesMax`. Read it to its end, or destroy it by leaving the loop. */
  readonly body: AsyncIterable<Buffer>;
}

/** No body is read of an answer that is only followed; this much is drained to keep the socket. */
const DRAIN_BYTES_MAX = 65_536;

export class HttpClient {
  readonly #options: HttpClientOptions;
  /** By connect timeout: undici's agents fix it when they are made; few distinct values exist. */
  readonly #agents = new Map<number, Agent>();
  #isClosed = false;

  constructor(options: HttpClientOptions) {
    this.#options = options;
  }

  /**
   * One request with its retries and redirects, within `policy.totalMs` in all. Any status is an
   * answer; what is thrown are APP_* errors. After 301, 302 and 303 a POST becomes GET (RFC 9110
   * §15.4).
   */
  async fetch(input: HttpRequest): Promise<HttpResponse> {
    const late = new AbortController();
    const timer = this.#options.clock.timer(input.policy.totalMs, () => late.abort());
    try {
      return await this.#tryFetch(input, late.signal);
    } finally {
      timer.cancel();
    }
  }

  /**
   * One request whose body is read as it comes. No retries; the caller's signal is the deadline of
   * the whole, connect and read times are the policy's.
   */
  async open(input: HttpRequest & { readonly signal: AbortSignal }): Promise<HttpStream> {
    try {
      return await this.#follow(input, input.signal, (response) => bounded(response, input));
    } catch (thrown) {
      if (input.signal.aborted) throw input.signal.reason;
      throw translate(thrown, input, false).error;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const agents = [...this.#agents.values()];
    this.#agents.clear();
    await Promise.all(agents.map((agent) => agent.destroy()));
  }

  async #tryFetch(input: HttpRequest, deadline: AbortSignal): Promise<HttpResponse> {
    const signal = input.signal ? AbortSignal.any([deadline, input.signal]) : deadline;
    for (let tries = 1; ; tries++) {
      const mayRetry = tries <= input.policy.retries;
      try {
        const response = await this.#follow(input, signal, readBody);
        const reason = retryReason(response.status);
        if (!mayRetry || !reason || !input.policy.retryOn.has(reason))
          return { ...response, tries };
      } catch (thrown) {
        if (input.signal?.aborted) throw input.signal.reason;
        const { error, reason } = translate(thrown, input, deadline.aborted);
        if (!mayRetry || deadline.aborted || !reason || !input.policy.retryOn.has(reason))
          throw error;
      }
    }
  }

  async #follow<B>(
    input: HttpRequest,
    signal: AbortSignal,
    take: (response: Dispatcher.ResponseData, input: HttpRequest) => Promise<B> | B,
  ): Promise<Hop<B> & { readonly url: string }> {
    let url = parseUrl(input.url);
    let { method, body } = input;
    for (let redirects = 0; ; redirects++) {
      const response = await this.#ask(input, { url, method, body, signal });
      const { statusCode: status, headers } = response;
      const location = isRedirect(status) ? first(headers.location) : undefined;
      if (location === undefined) {
        return { url: url.href, status, headers, body: await take(response, input) };
      }
      await response.body.dump({ limit: DRAIN_BYTES_MAX, signal });
      if (redirects >= this.#options.redirectsMax) {
        throw new GatewayError('APP_REDIRECTS', { url: shown(input.url), limit: redirects });
      }
      const next = parseUrl(location, url);
      // Credentials in the URL are for the origin they were written for.
      if (next.origin !== url.origin) next.username = next.password = '';
      if (status <= 303 && method === 'POST') {
        method = 'GET';
        body = undefined;
      }
      url = next;
    }
  }

  async #ask(
    input: HttpRequest,
    hop: { url: URL; method: HttpRequest['method']; body: string | undefined; signal: AbortSignal },
  ): Promise<Dispatcher.ResponseData> {
    const { url } = hop;
    const sent = `${url.origin}${url.pathname}${url.search}`;
    const headers: Record<string, string> = {
      'user-agent': this.#options.userAgent,
      ...input.headers,
      ...input.prepare?.({ url: sent, method: hop.method }),
    };
    if (url.username !== '') headers.authorization = basic(url);
    if (hop.body === undefined) delete headers['content-type'];
    const response = await request(sent, {
      dispatcher: this.#agent(input.policy.connectMs),
      method: hop.method,
      headers,
      body: hop.body ?? null,
      headersTimeout: input.policy.readMs,
      bodyTimeout: input.policy.readMs,
      signal: hop.signal,
    });
    input.observe?.({ url: sent, headers: response.headers });
    return response;
  }

  #agent(connectMs: number): Agent {
    if (this.#isClosed) throw new GatewayError('APP_UNREACHABLE', { url: '', problem: 'closed' });
    const known = this.#agents.get(connectMs);
    if (known) return known;
    const agent = new Agent({
      connect: this.#connector(connectMs),
      connections: this.#options.connectionsPerOriginMax,
      maxOrigins: this.#options.originsMax,
      keepAliveTimeout: this.#options.keepAliveMs,
      maxHeaderSize: this.#options.headerBytesMax,
      pipelining: 1,
      allowH2: false,
    });
    // Overrides may name any value; a hostile app must not grow this map.
    if (this.#agents.size >= AGENTS_MAX) this.#evictAgent();
    this.#agents.set(connectMs, agent);
    return agent;
  }

  #evictAgent(): void {
    const [oldest] = this.#agents;
    if (!oldest) return;
    this.#agents.delete(oldest[0]);
    // Graceful: requests under way end first. Nothing waits for it.
    void oldest[1].close().catch(() => undefined);
  }

  #connector(connectMs: number): buildConnector.connector {
    const connect = buildConnector({ timeout: connectMs, allowH2: false });
    return (options, callback) => {
      this.#permitted(options.hostname, portOf(options)).then(
        (addresses) => this.#connectFirst(connect, options, addresses, callback),
        (error: Error) => callback(error, null),
      );
    };
  }

  /** Tries one address after the other, as RFC 8305 §6 asks at the least. */
  #connectFirst(
    connect: buildConnector.connector,
    options: buildConnector.Options,
    addresses: readonly string[],
    callback: buildConnector.Callback,
  ): void {
    const [address, ...rest] = addresses;
    if (address === undefined) {
      callback(new GatewayError('APP_DNS', { url: options.hostname, problem: 'no address' }), null);
      return;
    }
    const servername = options.servername ?? (isIP(options.hostname) ? '' : options.hostname);
    connect({ ...options, hostname: address, servername }, (...result) => {
      if (result[0] && rest.length > 0) this.#connectFirst(connect, options, rest, callback);
      else callback(...result);
    });
  }

  async #permitted(hostname: string, port: number): Promise<readonly string[]> {
    const bare = unmapped(hostname);
    const addresses = isIP(bare) ? [bare] : await this.#resolve(hostname);
    const permitted = addresses.filter((address) => this.#options.guard.permits(address, port));
    if (permitted.length === 0) {
      const address = addresses[0] ?? hostname;
      throw new GatewayError('APP_ADDRESS_REFUSED', { url: hostname, address });
    }
    return permitted.slice(0, ADDRESSES_TRIED_MAX);
  }

  async #resolve(hostname: string): Promise<readonly string[]> {
    try {
      if (this.#options.resolve) return await this.#options.resolve(hostname);
      return (await dnsLookup(hostname, { all: true })).map((entry) => entry.address);
    } catch (cause) {
      const problem = cause instanceof Error ? cause.message : String(cause);
      throw new GatewayError('APP_DNS', { url: hostname, problem }, { cause });
    }
  }
}

function portOf(options: buildConnector.Options): number {
  return Number(options.port) || (options.protocol === 'https:' ? 443 : 80);
}

const AGENTS_MAX = 16;
const ADDRESSES_TRIED_MAX = 4;

async function readBody(response: Dispatcher.ResponseData, input: HttpRequest): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(bounded(response, input)));
}

async function* bounded(
  response: Dispatcher.ResponseData,
  input: HttpRequest,
): AsyncGenerator<Buffer> {
  const { body } = response;
  // What is thrown away may still fail; nobody is left to hear it.
  body.on('error', () => undefined);
  const encoding = first(response.headers['content-encoding']);
  if (encoding !== undefined && encoding !== 'identity') {
    // We never ask for one, so this is a bomb or a broken server; inflating it is not our risk.
    body.destroy();
    const problem = `content-encoding ${encoding.slice(0, 20)} was not asked for`;
    throw new GatewayError('APP_PROTOCOL', { url: shown(input.url), problem });
  }
  let sizeBytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length;
    if (sizeBytes > input.bodyBytesMax) {
      const limit = input.bodyBytesMax;
      throw new GatewayError('APP_BODY_TOO_LARGE', { url: shown(input.url), limit });
    }
    yield chunk;
  }
}

function parseUrl(text: string, base?: URL): URL {
  const url = URL.parse(text, base?.href);
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new GatewayError('APP_URL', { url: shown(text) });
  }
  return url;
}

function basic(url: URL): string {
  const pair = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return `Basic ${Buffer.from(pair, 'utf8').toString('base64')}`;
}

function isRedirect(status: number): boolean {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308;
}

function retryReason(status: number): RetryReason | null {
  if (status >= 500) return '5xx';
  return status >= 400 ? '4xx' : null;
}

export function first(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

interface Translated {
  readonly error: GatewayError;
  readonly reason: RetryReason | null;
}

function translate(thrown: unknown, input: HttpRequest, isLate: boolean): Translated {
  const url = shown(input.url);
  const timeout = (timeoutMs: number, reason: RetryReason): Translated => ({
    error: new GatewayError('APP_TIMEOUT', { url, timeoutMs }, { cause: thrown }),
    reason,
  });
  if (isLate) return timeout(input.policy.totalMs, 'rt');
  if (thrown instanceof GatewayError) {
    const error = new GatewayError(thrown.code, { ...thrown.details, url }, { cause: thrown });
    return { error, reason: thrown.code === 'APP_DNS' ? 'ct' : null };
  }
  if (thrown instanceof errors.ConnectTimeoutError) return timeout(input.policy.connectMs, 'ct');
  if (thrown instanceof errors.HeadersTimeoutError || thrown instanceof errors.BodyTimeoutError) {
    return timeout(input.policy.readMs, 'rt');
  }
  const problem = thrown instanceof Error ? thrown.message : String(thrown);
  const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
  if (/^(ERR_TLS|ERR_SSL|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|ERR_OSSL|HOSTNAME)/.test(code)) {
    return {
      error: new GatewayError('APP_TLS', { url, problem }, { cause: thrown }),
      reason: 'ct',
    };
  }
  const isParser = thrown instanceof Error && thrown.name === 'HTTPParserError';
  if (isParser || /^(HPE_|UND_ERR_(HEADERS_OVERFLOW|RES|INFO|NOT_SUPPORTED))/.test(code)) {
    return {
      error: new GatewayError('APP_PROTOCOL', { url, problem }, { cause: thrown }),
      reason: null,
    };
  }
  return {
    error: new GatewayError('APP_UNREACHABLE', { url, problem }, { cause: thrown }),
    reason: 'ct',
  };
}
