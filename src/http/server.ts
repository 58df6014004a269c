/**
 * The HTTP server: listening, limits, the shape of errors, health and metrics. Not a REST surface:
 * the layers above mount their routes on it. Every limit stands here because it must hold before
 * any route sees a request (slow senders: reliability row 28).
 *
 * Errors have the shape that existing REST clients parse: code, message, more_info, status. What
 * went wrong inside is logged, never told to the peer.
 */
import { type Server, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import rateLimit from '@fastify/rate-limit';
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, describe, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { type ConnectionOptions, limitConnections } from './connections.ts';

export interface HttpServerOptions extends ConnectionOptions {
  readonly address: string;
  /** 0: any free port. */
  readonly port: number;
  readonly bodyBytesMax: number;
  /** Request line and headers together. */
  readonly headerBytesMax: number;
  readonly headersMax: number;
  /** A connection must have sent whole headers after this long, a whole request after the next. */
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** A handler that has not answered by then is answered for with 503. */
  readonly handlerTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  /** Requests of one source address within `rateWindowMs`; above it 429. */
  readonly rateRequestsMax: number;
  readonly rateWindowMs: number;
  /** Source addresses remembered for the rate limit. */
  readonly rateSourcesMax: number;
  /** How long close waits for requests under way before it cuts them. */
  readonly closeTimeoutMs: number;
  /** The peer is a proxy: what it put last into X-Forwarded-For is where a request came from. */
  readonly trustProxy: boolean;
}

export const DEFAULT_HTTP_SERVER: HttpServerOptions = {
  address: '127.0.0.1',
  port: 8080,
  /** A REST request is a form; the largest, a call with its Twiml, is a few kB. */
  bodyBytesMax: 262_144,
  headerBytesMax: 16_384,
  headersMax: 100,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 15_000,
  /** Below the 30 s after which the usual client library gives up. */
  handlerTimeoutMs: 25_000,
  /** Longer than a load balancer's usual 60 s, so that it, not we, ends idle connections. */
  keepAliveTimeoutMs: 65_000,
  connectionsMax: 2_000,
  connectionsPerSourceMax: 100,
  rateRequestsMax: 2_000,
  rateWindowMs: 10_000,
  rateSourcesMax: 10_000,
  closeTimeoutMs: 5_000,
  trustProxy: false,
};

/** What orchestrators ask. Alive says only that this process runs: no dependency may fail it. */
export interface Health {
  /** Empty: ready for traffic; else the reasons why not (draining, media down, …). */
  notReady(): readonly string[];
}

export interface ErrorBody {
  readonly code: number;
  readonly message: string;
  readonly more_info: string;
  readonly status: number;
}

export type HttpApp = FastifyInstance;
export type HttpRequest = FastifyRequest;
export type HttpReply = FastifyReply;

/** Never limited by rate: a prober must not be told 429 when the node is busy. */
const UNLIMITED: ReadonlySet<string> = new Set(['/livez', '/readyz', '/metrics']);
const MORE_INFO = 'https://www.twilio.com/docs/errors/';

export class HttpServer {
  readonly app: HttpApp;
  readonly #options: HttpServerOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  #closing: Promise<void> | null = null;

  private constructor(o: { app: HttpApp; options: HttpServerOptions; clock: Clock; log: Log }) {
    this.app = o.app;
    this.#options = o.options;
    this.#clock = o.clock;
    this.#log = o.log;
  }

  /** Routes are mounted on `app` between this and `listen`. */
  static async create(o: {
    options: HttpServerOptions;
    clock: Clock;
    log: Log;
    metrics: Metrics;
    health: Health;
  }): Promise<HttpServer> {
    const { options } = o;
    const app = fastify({
      bodyLimit: options.bodyBytesMax,
      requestTimeout: options.requestTimeoutMs,
      keepAliveTimeout: options.keepAliveTimeoutMs,
      forceCloseConnections: 'idle',
      // One hop: what stands further left in X-Forwarded-For is the client's own word.
      trustProxy: options.trustProxy && ((_address, hop) => hop === 0),
      http: {
        maxHeaderSize: options.headerBytesMax,
        headersTimeout: options.headersTimeoutMs,
        // Timeouts are only looked at this often.
        connectionsCheckingInterval: Math.ceil(options.headersTimeoutMs / 10),
      },
      clientErrorHandler: refuseUnparsed,
      frameworkErrors: (error, _request, reply) => sendError(reply, httpError(error, options)),
    });
    app.server.maxHeadersCount = options.headersMax;
    limitConnections({ server: app.server, options, clock: o.clock, metrics: o.metrics });
    app.setErrorHandler<FastifyError>((error, request, reply) => {
      const told = httpError(error, options);
      if (told.row.http >= 500) {
        const path = request.routeOptions.url ?? '';
        // A refusal of ours (draining, overloaded) is no fault of the code: no stack, no alarm.
        if (told.row.http === 503) o.log.warn({ code: told.code, path }, 'request refused');
        else {
          const problem = error.stack ?? error.message;
          o.log.error({ code: told.code, path, problem }, 'request failed');
        }
      }
      return sendError(reply, told);
    });
    app.setNotFoundHandler((request, reply) => sendError(reply, notFound(request)));
    await limitRate(app, options);
    limitTime(app, options.handlerTimeoutMs, o.clock);
    countRequests(app, o.metrics, o.clock);
    addHealth(app, o.health, o.metrics);
    return new HttpServer({ app, options, clock: o.clock, log: o.log });
  }

  /** The socket server, for those who take WebSocket upgrades. */
  get server(): Server {
    return this.app.server;
  }

  async listen(): Promise<{ address: string; port: number }> {
    const { address, port } = this.#options;
    try {
      await this.app.listen({ host: address, port });
    } catch (thrown) {
      const problem = thrown instanceof Error ? thrown.message : String(thrown);
      const details = { address: `${address}:${port}`, key: 'http.listen', problem };
      throw new GatewayError('LISTEN_FAILED', details, { cause: thrown });
    }
    const bound = this.app.server.address();
    return { address, port: bound !== null && typeof bound === 'object' ? bound.port : port };
  }

  /** Takes no more, lets requests under way finish, then cuts what is left. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const timer = this.#clock.timer(this.#options.closeTimeoutMs, () => {
      this.#log.warn({}, 'HTTP requests were cut at close');
      this.app.server.closeAllConnections();
    });
    await this.app.close();
    timer.cancel();
  }
}

/** First of all hooks and on unknown paths too, so that guessing costs an attacker his quota. */
async function limitRate(app: HttpApp, options: HttpServerOptions): Promise<void> {
  await app.register(rateLimit, {
    global: false,
    max: options.rateRequestsMax,
    timeWindow: options.rateWindowMs,
    cache: options.rateSourcesMax,
    allowList: (request) => UNLIMITED.has(request.url.split('?', 1)[0] ?? ''),
    errorResponseBuilder: () => new GatewayError('REST_TOO_MANY'),
  });
  app.addHook('onRequest', app.rateLimit());
}

/**
 * An answer in any case, before the client gives up. By ourselves: fastify's own `handlerTimeout`
 * ends with the request's body, so it never fires for a POST. The handler's work goes on unheard;
 * an answer that has begun, as a long download, is not cut.
 */
function limitTime(app: HttpApp, handlerTimeoutMs: number, clock: Clock): void {
  const timers = new WeakMap<HttpRequest, Timer>();
  app.addHook('onRequest', async (request, reply) => {
    const timer = clock.timer(handlerTimeoutMs, () => {
      if (!reply.sent) reply.send(new GatewayError('OVERLOADED', { limit: 'no answer in time' }));
    });
    timers.set(request, timer);
  });
  app.addHook('onResponse', async (request) => timers.get(request)?.cancel());
}

function countRequests(app: HttpApp, metrics: Metrics, clock: Clock): void {
  const seconds = metrics.histogram(
    'tandem_http_request_seconds',
    'Time to answer, by route',
    [0.005, 0.02, 0.1, 0.5, 2, 10],
    ['method', 'route', 'status'],
  );
  const startedMs = new WeakMap<HttpRequest, number>();
  app.addHook('onRequest', async (request) => {
    startedMs.set(request, clock.monotonicMs());
  });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    const labels = { method: request.method, route, status: String(reply.statusCode) };
    const started = startedMs.get(request);
    if (started !== undefined) seconds.observe(labels, (clock.monotonicMs() - started) / 1000);
  });
}

function addHealth(app: HttpApp, health: Health, metrics: Metrics): void {
  app.get('/livez', async () => ({ status: 'alive' }));
  app.get('/readyz', async (_request, reply) => {
    const reasons = health.notReady();
    if (reasons.length === 0) return { status: 'ready' };
    return reply.code(503).send({ status: 'not ready', reasons });
  });
  app.get('/metrics', async (_request, reply) => {
    reply.type(metrics.registry.contentType);
    return metrics.text();
  });
}

/** Any thrown thing as an error we have a row for; what fastify refuses keeps its meaning. */
function httpError(error: FastifyError | GatewayError, options: HttpServerOptions): GatewayError {
  if (error instanceof GatewayError) return error;
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new GatewayError('REST_BODY_TOO_LARGE', { limit: options.bodyBytesMax });
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new GatewayError('REST_MEDIA_TYPE');
  }
  const status = error.statusCode ?? 500;
  if (status >= 400 && status < 500)
    return new GatewayError('REST_BODY', { problem: error.message });
  return asGatewayError(error);
}

export function notFound(request: HttpRequest): GatewayError {
  const path = request.url.split('?', 1)[0] ?? '';
  return new GatewayError('REST_NOT_FOUND', { path: path.slice(0, 256) });
}

function errorBody(error: GatewayError): ErrorBody {
  const { http, number } = error.row;
  // Where the dictionary has no number: the general ones are 20000 + HTTP status.
  const code = number ?? 20_000 + http;
  // The text of our own failures names files and addresses: the log has them, the peer does not.
  const message = http >= 500 ? describe(error.code).replace(/[\s:]+$/, '') : error.message;
  return { code, message, more_info: `${MORE_INFO}${code}`, status: http };
}

/** What Node's parser refuses never becomes a request: answered on the bare socket, then closed. */
function refuseUnparsed(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  let status = 400;
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') status = 408;
  else if (error.code === 'HPE_HEADER_OVERFLOW') status = 431;
  const reason = STATUS_CODES[status] ?? '';
  const code = 20_000 + status;
  const body: ErrorBody = { code, message: reason, more_info: `${MORE_INFO}${code}`, status };
  const text = JSON.stringify(body);
  const head = `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json; charset=utf-8`;
  socket.end(`${head}\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`);
  // Its sender may go on sending: nothing more is read.
  socket.destroySoon();
}

function sendError(reply: HttpReply, error: GatewayError): HttpReply {
  if (error.row.http === 503) reply.header('retry-after', '1');
  return reply.code(error.row.http).send(errorBody(error));
}
