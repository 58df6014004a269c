/**
 * The certificates of those who sign callers, by URL: fetched past the address guard, once for all
 * who wait, kept for as long as the origin says within bounds, failures remembered for a while.
 * What makes one trustworthy is `certificate-path.ts`; which URL a call names, `stir.ts`.
 *
 * The URL comes from a stranger's request: RFC 8224 §12.4 warns of fetches as a weapon. So there
 * is https only, few ports, no credentials, no query, few redirects each held to the same, bounds
 * on size, time and number at once; and the client refuses private and link-local addresses.
 */
import type { X509Certificate } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { type Freshness, freshnessOf, mayServeStale } from '../assets/freshness.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { first, type HttpClient, type HttpResponse } from '../http/client.ts';
import { shown } from '../http/url.ts';
import {
  readCertificates,
  type SigningCertificate,
  signingCertificate,
} from './certificate-path.ts';

export interface CertificatesOptions {
  readonly certificatesMax: number;
  /** Fetches under way at one time; more are refused, not queued: the call cannot wait. */
  readonly fetchesMax: number;
  /** Of them to one origin, so that a slow one leaves room for the others. */
  readonly fetchesPerOriginMax: number;
  readonly bodyBytesMax: number;
  readonly redirectsMax: number;
  readonly connectMs: number;
  readonly readMs: number;
  /** Of one fetch with its redirects; it goes on when the call that began it no longer waits. */
  readonly fetchMs: number;
  /** Bounds on what the origin says; a default where it says nothing. */
  readonly freshMsMin: number;
  readonly freshMsMax: number;
  readonly freshMsDefault: number;
  /** An origin that is down does not take its certificate back: used so long past its time. */
  readonly staleMsMax: number;
  readonly failureMs: number;
  /** An empty list allows every port. */
  readonly ports: readonly number[];
  readonly allowHttp: boolean;
}

export const DEFAULT_CERTIFICATES: CertificatesOptions = {
  certificatesMax: 1000,
  fetchesMax: 64,
  fetchesPerOriginMax: 8,
  bodyBytesMax: 65_536,
  redirectsMax: 3,
  connectMs: 2000,
  readMs: 2000,
  fetchMs: 5000,
  freshMsMin: 60_000,
  freshMsMax: 86_400_000,
  freshMsDefault: 3_600_000,
  staleMsMax: 86_400_000,
  failureMs: 30_000,
  ports: [443, 8443],
  allowHttp: false,
};

interface Kept {
  readonly certificate: SigningCertificate;
  readonly freshness: Freshness;
  readonly freshUntilMs: number;
}

interface Failed {
  readonly error: GatewayError;
  readonly untilMs: number;
}

export class Certificates {
  readonly #http: Pick<HttpClient, 'fetch'>;
  readonly #options: CertificatesOptions;
  readonly #kept: LRUCache<string, Kept>;
  /** Apart from what is kept, so that URLs made up by strangers push no good one out. */
  readonly #failed: LRUCache<string, Failed>;
  readonly #fetching = new Map<string, Promise<SigningCertificate>>();
  #anchors: readonly X509Certificate[] = [];
  /** Counts changes of the anchors: a path found before is not one afterwards. */
  #epoch = 0;

  constructor(o: { http: Pick<HttpClient, 'fetch'>; options: CertificatesOptions }) {
    this.#http = o.http;
    this.#options = o.options;
    const { certificatesMax: max } = o.options;
    this.#kept = new LRUCache({ max });
    this.#failed = new LRUCache({ max });
  }

  get hasAnchors(): boolean {
    return this.#anchors.length > 0;
  }

  /** Whom to trust from now on. Whatever was found under others is found anew. */
  setAnchors(anchors: readonly X509Certificate[]): void {
    this.#anchors = anchors;
    this.#epoch += 1;
    this.#kept.clear();
    this.#failed.clear();
    this.#fetching.clear();
  }

  /**
   * The certificate at `url` with its path to an authority, at wall time `nowMs`. Rejects with
   * STIR_BAD_INFO, STIR_INFO_UNREACHABLE or STIR_CREDENTIAL. Its dates are the caller's to check.
   */
  get(url: string, nowMs: number): Promise<SigningCertificate> {
    const kept = this.#kept.get(url);
    if (kept !== undefined && nowMs < kept.freshUntilMs) return Promise.resolve(kept.certificate);
    const failed = this.#failed.get(url);
    if (failed !== undefined && nowMs < failed.untilMs) return Promise.reject(failed.error);
    const fetching = this.#fetching.get(url);
    if (fetching !== undefined) return fetching;
    if (!this.#hasRoom(url)) {
      const problem = `${this.#fetching.size} others are being fetched`;
      return Promise.reject(
        new GatewayError('STIR_INFO_UNREACHABLE', { url: shown(url), problem }),
      );
    }
    const work = this.#renew(url, nowMs, kept);
    this.#fetching.set(url, work);
    const done = (): void => {
      if (this.#fetching.get(url) === work) this.#fetching.delete(url);
    };
    work.then(done, done);
    return work;
  }

  #hasRoom(url: string): boolean {
    const { fetchesMax, fetchesPerOriginMax } = this.#options;
    const origin = URL.parse(url)?.origin;
    const ofOrigin = [...this.#fetching.keys()].filter((one) => URL.parse(one)?.origin === origin);
    return this.#fetching.size < fetchesMax && ofOrigin.length < fetchesPerOriginMax;
  }

  async #renew(url: string, nowMs: number, old: Kept | undefined): Promise<SigningCertificate> {
    const epoch = this.#epoch;
    const { failureMs, staleMsMax } = this.#options;
    try {
      const response = await this.#fetch(url);
      const certificate = signingCertificate(this.#read(url, response), this.#anchors);
      const kept = { certificate, ...this.#freshness(response, nowMs) };
      if (epoch === this.#epoch) this.#kept.set(url, kept);
      return certificate;
    } catch (thrown) {
      const cause = asGatewayError(thrown);
      if (epoch !== this.#epoch) throw infoError(url, cause);
      const isUsable = old !== undefined && nowMs < old.freshUntilMs + staleMsMax;
      if (isUsable && mayServeStale(old.freshness, cause)) {
        this.#kept.set(url, {
          ...old,
          freshUntilMs: Math.max(old.freshUntilMs, nowMs + failureMs),
        });
        return old.certificate;
      }
      const error = infoError(url, cause);
      this.#kept.delete(url);
      this.#failed.set(url, { error, untilMs: nowMs + failureMs });
      throw error;
    }
  }

  async #fetch(url: string): Promise<HttpResponse> {
    const { bodyBytesMax, connectMs, readMs, fetchMs, redirectsMax } = this.#options;
    checkUrl(url, this.#options);
    let hops = 0;
    const response = await this.#http.fetch({
      url,
      method: 'GET',
      headers: {
        accept:
          'application/x-pem-file, application/pem-certificate-chain, application/pkix-cert, */*;q=0.1',
      },
      bodyBytesMax,
      policy: { connectMs, readMs, totalMs: fetchMs, retries: 0, retryOn: new Set() },
      prepare: (hop) => {
        // A redirect is the same stranger's wish as the URL itself.
        checkUrl(hop.url, this.#options);
        hops += 1;
        if (hops > redirectsMax + 1) {
          throw new GatewayError('APP_REDIRECTS', { url: shown(url), limit: redirectsMax });
        }
        return {};
      },
    });
    if (response.status !== 200) {
      throw new GatewayError('APP_STATUS', { url: shown(url), status: response.status });
    }
    return response;
  }

  #read(url: string, { body }: HttpResponse): readonly X509Certificate[] {
    const certificates = readCertificates(body);
    if (certificates.length === 0) {
      throw new GatewayError('STIR_BAD_INFO', { url: shown(url), problem: 'it is no certificate' });
    }
    return certificates;
  }

  /** What the origin says (RFC 9111), but never so little that each call would fetch it. */
  #freshness({ headers }: HttpResponse, nowMs: number): Omit<Kept, 'certificate'> {
    const { freshMsMin, freshMsMax, freshMsDefault } = this.#options;
    const flat = Object.entries(headers).map(([name, value]) => [name, first(value)] as const);
    const freshness = freshnessOf(Object.fromEntries(flat), nowMs, freshMsDefault);
    const freshMs = Math.min(freshMsMax, Math.max(freshMsMin, freshness.freshUntilMs - nowMs));
    return { freshness, freshUntilMs: nowMs + freshMs };
  }
}

function checkUrl(url: string, options: CertificatesOptions): void {
  const problem = urlProblem(url, options);
  if (problem !== null) throw new GatewayError('STIR_BAD_INFO', { url: shown(url), problem });
}

function urlProblem(text: string, { allowHttp, ports }: CertificatesOptions): string | null {
  const url = URL.parse(text);
  if (url === null) return 'it is no URL';
  const isSecure = url.protocol === 'https:';
  if (!isSecure && !(allowHttp && url.protocol === 'http:')) return 'it is not https';
  if (url.username !== '' || url.password !== '') return 'it has a user name';
  // A query makes one address as many as one likes, and a fragment never reaches the origin.
  if (/[?#]/.test(text)) return 'it has a query or a fragment';
  const port = url.port === '' ? (isSecure ? 443 : 80) : Number(url.port);
  const isListed = ports.length === 0 || ports.includes(port);
  return isListed ? null : `port ${port} is none of stir.certificatePorts`;
}

/** The client's errors in the terms of RFC 8224 §6.2.2: it is wrong, or only not there now. */
function infoError(url: string, cause: GatewayError): GatewayError {
  const { code } = cause;
  if (code.startsWith('STIR_')) return cause;
  const details = { url: shown(url), problem: cause.message };
  const isDown =
    code === 'APP_STATUS'
      ? Number(cause.details.status) >= 500 || cause.details.status === 429
      : !REFUSED.has(code);
  return new GatewayError(isDown ? 'STIR_INFO_UNREACHABLE' : 'STIR_BAD_INFO', details, { cause });
}

const REFUSED: ReadonlySet<string> = new Set([
  'APP_URL',
  'APP_ADDRESS_REFUSED',
  'APP_REDIRECTS',
  'APP_BODY_TOO_LARGE',
  'APP_PROTOCOL',
]);
