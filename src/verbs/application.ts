/**
 * Asks the application server what to do: the primary URI, and when that fails the secondary one,
 * which is told the error's number and the URL that failed. (Primary and secondary URI, S2.)
 *
 * Parameters are given; this file signs, sends, keeps cookies and judges the HTTP side. Whether
 * the document makes sense is `document`'s; a document that does not is handed back here through
 * `recover`, so that an error while reading or running it also reaches the secondary.
 */
import { Cookie, CookieJar } from 'tough-cookie';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import { first, type HttpClient, type HttpResponse } from '../http/client.ts';
import { type ConnectionPolicy, connectionPolicy } from '../http/overrides.ts';
import { encodeWebhook, signHop } from '../http/signature.ts';
import { shown, withoutUserInfo } from '../http/url.ts';

export type HttpMethod = 'GET' | 'POST';

export interface AppTarget {
  readonly url: string;
  readonly method: HttpMethod;
}

export interface AppRequest extends AppTarget {
  readonly fallback?: AppTarget | undefined;
  readonly params: Readonly<Record<string, string>>;
  readonly callSid: CallSid;
  readonly account: { readonly sid: AccountSid; readonly authToken: Secret };
  /** Cookies of this call so far, as `AppDocument.cookies` gave them. */
  readonly cookies?: string | undefined;
}

export interface AppDocument {
  /** The URL that answered, after redirects: relative URLs of the document start from it. */
  readonly url: string;
  readonly method: HttpMethod;
  /** Media type without parameters, lower case. */
  readonly contentType: string;
  readonly body: string;
  /** Plain text to keep with the call; '' when the app set none. */
  readonly cookies: string;
  /** Set when the secondary URI answered: why the primary did not. */
  readonly recoveredFrom: GatewayError | null;
}

/** One request as it happened, for the trace and for notifications. */
export interface WebhookTrace {
  readonly callSid: CallSid;
  readonly kind: 'document' | 'callback';
  readonly url: string;
  readonly method: HttpMethod;
  /** 0 when no answer came. */
  readonly status: number;
  readonly durationMs: number;
  readonly error: GatewayError | null;
}

export interface ApplicationOptions {
  readonly clock: Clock;
  readonly http: HttpClient;
  readonly policy: ConnectionPolicy;
  readonly bodyBytesMax: number;
  /** Cookie text kept per call, bytes; more is dropped whole. */
  readonly cookieBytesMax: number;
  readonly onWebhook: (trace: WebhookTrace) => void;
}

export const DEFAULT_APPLICATION = {
  bodyBytesMax: 1_048_576,
  cookieBytesMax: 8_192,
} as const;

export class Application {
  readonly #options: ApplicationOptions;

  constructor(options: ApplicationOptions) {
    this.#options = options;
  }

  /**
   * The document of the primary, or of the secondary when the primary failed. Throws the last
   * APP_* error when both did.
   */
  async fetch(request: AppRequest, signal?: AbortSignal): Promise<AppDocument> {
    try {
      return await this.#ask(request, null, signal);
    } catch (thrown) {
      if (signal?.aborted) throw thrown;
      return await this.recover(request, asGatewayError(thrown), signal);
    }
  }

  /** Asks the secondary because of `error`; throws that error when there is none. */
  recover(request: AppRequest, error: GatewayError, signal?: AbortSignal): Promise<AppDocument> {
    const { fallback } = request;
    if (!fallback) return Promise.reject(error);
    const params = {
      ...request.params,
      ErrorCode: String(error.row.number ?? 11200),
      // Another server may be asked; it has no business with the first one's password.
      ErrorUrl: withoutUserInfo(request.url),
    };
    return this.#ask({ ...request, ...fallback, params, fallback: undefined }, error, signal);
  }

  async #ask(
    request: AppRequest,
    recoveredFrom: GatewayError | null,
    signal: AbortSignal | undefined,
  ): Promise<AppDocument> {
    const startMs = this.#options.clock.monotonicMs();
    let status = 0;
    let error: GatewayError | null = null;
    try {
      const jar = parseCookies(request.cookies);
      const response = await this.#send(request, jar, signal);
      status = response.status;
      if (status < 200 || status > 299) {
        throw new GatewayError('APP_STATUS', { url: shown(request.url), status });
      }
      return this.#document(request, response, jar, recoveredFrom);
    } catch (thrown) {
      error = asGatewayError(thrown);
      throw thrown;
    } finally {
      const durationMs = this.#options.clock.monotonicMs() - startMs;
      const { callSid, url, method } = request;
      this.#options.onWebhook({
        callSid,
        kind: 'document',
        url,
        method,
        status,
        durationMs,
        error,
      });
    }
  }

  #send(
    request: AppRequest,
    jar: CookieJar,
    signal: AbortSignal | undefined,
  ): Promise<HttpResponse> {
    const { url, body, params } = encodeWebhook({
      ...request,
      params: Object.entries(request.params),
    });
    return this.#options.http.fetch({
      url,
      method: request.method,
      headers: {
        accept: 'text/xml, application/xml, text/html, audio/*, text/plain;q=0.8',
        'content-type': 'application/x-www-form-urlencoded; charset=utf-8',
        'i-twilio-idempotency-token': this.#options.clock.randomHex(16),
      },
      ...(body === undefined ? {} : { body }),
      bodyBytesMax: this.#options.bodyBytesMax,
      policy: connectionPolicy(request.url, this.#options.policy),
      prepare: (hop): Record<string, string> => {
        const signature = signHop(hop, params, request.account.authToken);
        const cookie = jar.getCookieStringSync(hop.url);
        return cookie === '' ? signature : { ...signature, cookie };
      },
      observe: (hop) => keepCookies(jar, hop.url, hop.headers['set-cookie']),
      ...(signal ? { signal } : {}),
    });
  }

  #document(
    request: AppRequest,
    response: HttpResponse,
    jar: CookieJar,
    recoveredFrom: GatewayError | null,
  ): AppDocument {
    const type = first(response.headers['content-type']);
    if (type === undefined) {
      throw new GatewayError('DOC_CONTENT_TYPE', { url: shown(request.url), type: '(none)' });
    }
    const cookies = formatCookies(jar);
    return {
      url: response.url,
      method: request.method,
      contentType: (type.split(';', 1)[0] ?? '').trim().toLowerCase(),
      body: response.body.toString('utf8'),
      cookies: cookies.length > this.#options.cookieBytesMax ? '' : cookies,
      recoveredFrom,
    };
  }
}

function parseCookies(text: string | undefined): CookieJar {
  if (text === undefined || text === '') return new CookieJar();
  return CookieJar.deserializeSync(text);
}

function formatCookies(jar: CookieJar): string {
  const data = jar.serializeSync();
  return !data || data.cookies.length === 0 ? '' : JSON.stringify(data);
}

const COOKIES_PER_ANSWER_MAX = 20;

function keepCookies(jar: CookieJar, url: string, header: string | string[] | undefined): void {
  const lines = header === undefined ? [] : [header].flat();
  for (const line of lines.slice(0, COOKIES_PER_ANSWER_MAX)) {
    const cookie = Cookie.parse(line);
    // A cookie for somebody else's domain is dropped, as a browser does, not an error.
    if (cookie) jar.setCookieSync(cookie, url, { ignoreError: true });
  }
}
