/**
 * The frame of the REST surface: authentication, version, methods, parameters, idempotency, and
 * the five steps that every request goes through in the same order: defaults, arguments,
 * interpretation, cross-checks, act. Not a resource: those are rows made with `resource()` in the
 * files beside this one. A row is all there is to say about a resource's method.
 */
import formbody from '@fastify/formbody';
import type { Static, TObject } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { isSid, type Sid, type SidPrefix } from '../core/sid.ts';
import { type HttpApp, type HttpReply, type HttpRequest, notFound } from '../http/server.ts';
import type { AccountRow, JsonObject } from '../store/store.ts';
import { type MediaFile, sendFile } from './file.ts';
import { Idempotency, type IdempotencyOptions } from './idempotency.ts';
import { type ParameterError, Parameters, type RawForm, rawForm } from './parameters.ts';

export const API_VERSION = '2010-04-01';
const ACCOUNTS_PATH = `/${API_VERSION}/Accounts`;
/** Below it lie the reference's products that came later; the account is who asks. */
const PRODUCTS_VERSION = 'v1';
/** The node's own, which is nobody's product. */
const ADMIN = 'admin';
const IDEMPOTENCY_HEADER = 'i-twilio-idempotency-token';
const IDEMPOTENCY_TOKEN_MAX = 256;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

export type Extension = '' | 'json' | 'wav' | 'mp3';

export interface RestRequest {
  /** Authenticated, and the one in the path where one is there. */
  readonly account: AccountRow;
  /** Named parts of the path, without extension. */
  readonly path: Readonly<Record<string, string>>;
  readonly extension: Extension;
  readonly url: string;
  readonly raw: RawForm;
}

export type RestReply =
  | { readonly kind: 'json'; readonly status: 200 | 201; readonly body: JsonObject }
  | { readonly kind: 'deleted' }
  | { readonly kind: 'file'; readonly file: MediaFile };

/** `Given` are the typed parameters, `Wanted` what they mean, `Checked` what will be done. */
export interface Definition<S extends TObject, Wanted, Checked> {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /**
   * Below /2010-04-01/Accounts/{AccountSid}, where `''` is the account itself, or for a product
   * below /v1; `:name` is a part.
   */
  readonly path: string;
  readonly params: S;
  /** Step 1: text of parameters that were not given. */
  readonly defaults?: { readonly [K in keyof Static<S>]?: string };
  /** Step 2 goes wrong: the error for that parameter, where the general one will not do. */
  readonly errors?: { readonly [K in keyof Static<S>]?: ParameterError };
  /** Other than none and `json`. */
  readonly extensions?: readonly Extension[];
  /** Honours the idempotency token: creates. */
  readonly idempotent?: boolean;
  /** Step 3: pure; from parameters to what the rest of the program speaks. */
  interpret(given: Static<S>, request: RestRequest): Wanted;
  /** Step 4: against the other parameters, rows and the state of the world. */
  check(wanted: Wanted, request: RestRequest): Promise<Checked> | Checked;
  /** Step 5. */
  act(checked: Checked, request: RestRequest): Promise<RestReply>;
}

/** A definition with its types closed over: a row of the surface. */
export interface Resource {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly extensions: readonly Extension[];
  readonly idempotent: boolean;
  handle(request: RestRequest, onIgnored: (names: readonly string[]) => void): Promise<RestReply>;
}

export function resource<S extends TObject, Wanted, Checked>(
  definition: Definition<S, Wanted, Checked>,
): Resource {
  const parameters = new Parameters({
    schema: definition.params,
    errors: definition.errors ?? {},
  });
  const defaults = (definition.defaults ?? {}) as Readonly<Record<string, string>>;
  return {
    method: definition.method,
    path: definition.path,
    extensions: ['', 'json', ...(definition.extensions ?? [])],
    idempotent: definition.idempotent ?? false,
    async handle(request, onIgnored) {
      const given = parameters.parse(request.raw, defaults);
      if (given.ignored.length > 0) onIgnored(given.ignored);
      const wanted = definition.interpret(given.values, request);
      const checked = await definition.check(wanted, request);
      return definition.act(checked, request);
    },
  };
}

/** For a step in which a row has nothing to say. */
export function asIs<T>(value: T): T {
  return value;
}

export function ok(body: JsonObject): RestReply {
  return { kind: 'json', status: 200, body };
}

export function created(body: JsonObject): RestReply {
  return { kind: 'json', status: 201, body };
}

export const DELETED: RestReply = { kind: 'deleted' };

export function missing(request: RestRequest): GatewayError {
  return new GatewayError('REST_NOT_FOUND', { path: request.url.slice(0, 256) });
}

/** The sid in the path; one that is none cannot be found. */
export function pathSid<P extends SidPrefix>(
  prefix: P,
  request: RestRequest,
  name = 'sid',
): Sid<P> {
  const text = request.path[name] ?? '';
  if (!isSid(prefix, text)) throw missing(request);
  return text;
}

/** Host-relative address of a resource: what the `uri` fields hold. */
export function uriOf(account: AccountRow | string, ...parts: string[]): string {
  const sid = typeof account === 'string' ? account : account.sid;
  return `${[ACCOUNTS_PATH, sid, ...parts].join('/')}.json`;
}

/** Says who asks; throws REST_AUTH for everything it does not know. */
export interface Authentication {
  authenticate(authorization: string | undefined): Promise<AccountRow>;
}

export class RestApi {
  readonly #resources: readonly Resource[];
  readonly #products: readonly Resource[];
  readonly #admin: readonly Resource[];
  readonly #authentication: Authentication;
  readonly #idempotency: Idempotency<RestReply>;
  readonly #log: Log;
  readonly #accounts = new WeakMap<HttpRequest, AccountRow>();

  constructor(o: {
    resources: readonly Resource[];
    products: readonly Resource[];
    admin: readonly Resource[];
    authentication: Authentication;
    options: IdempotencyOptions;
    clock: Clock;
    log: Log;
  }) {
    this.#resources = o.resources;
    this.#products = o.products;
    this.#admin = o.admin;
    this.#authentication = o.authentication;
    this.#idempotency = new Idempotency({ options: o.options, clock: o.clock });
    this.#log = o.log;
  }

  /** Adds the surface to a server that does not listen yet. */
  async mount(app: HttpApp): Promise<void> {
    await this.#mount(app, API_VERSION, byPath('/Accounts/:accountSid', this.#resources));
    await this.#mount(app, PRODUCTS_VERSION, byPath('', this.#products));
    await this.#mount(app, ADMIN, byPath('', this.#admin));
  }

  async #mount(
    app: HttpApp,
    version: string,
    paths: ReadonlyMap<string, readonly Resource[]>,
  ): Promise<void> {
    await app.register(
      async (scope) => {
        scope.removeAllContentTypeParsers();
        await scope.register(formbody);
        // After the server's rate limit, before the body is read, and on unknown paths too.
        scope.addHook('onRequest', (request, reply) => this.#authenticate(request, reply));
        scope.setNotFoundHandler((request) => {
          throw notFound(request);
        });
        for (const [path, rows] of paths) this.#route(scope, path, rows);
      },
      { prefix: `/${version}` },
    );
  }

  #route(scope: HttpApp, path: string, rows: readonly Resource[]): void {
    const isNamed = path.slice(path.lastIndexOf('/')).startsWith('/:');
    // The extension of a named part comes with its value; that of a list is another path.
    const urls = isNamed ? [path] : [path, `${path}.json`];
    const allowed = rows.flatMap((row) => (row.method === 'GET' ? ['GET', 'HEAD'] : [row.method]));
    for (const url of urls) {
      for (const row of rows) {
        scope.route({
          // By ourselves, because fastify's own HEAD would read a whole recording to drop it.
          method: row.method === 'GET' ? ['GET', 'HEAD'] : row.method,
          exposeHeadRoute: false,
          url,
          handler: (request, reply) => this.#handle(row, request, reply),
        });
      }
      scope.route({
        method: METHODS.filter((method) => !allowed.includes(method)),
        url,
        // Before the body is read: what is in it makes no difference.
        onRequest: async (request, reply) => {
          reply.header('allow', allowed.join(', '));
          const at = request.url.split('?', 1)[0] ?? '';
          throw new GatewayError('REST_METHOD', { method: request.method, path: at });
        },
        handler: () => undefined,
      });
    }
  }

  async #authenticate(request: HttpRequest, reply: HttpReply): Promise<void> {
    reply.header('cache-control', 'no-store').header('x-content-type-options', 'nosniff');
    try {
      const account = await this.#authentication.authenticate(request.headers.authorization);
      this.#accounts.set(request, account);
    } catch (thrown) {
      if (thrown instanceof GatewayError && thrown.code === 'REST_AUTH') {
        reply.header('www-authenticate', 'Basic realm="tandem API"');
      }
      throw thrown;
    }
  }

  async #handle(row: Resource, request: HttpRequest, reply: HttpReply): Promise<HttpReply> {
    const rest = this.#restRequest(row, request);
    const work = (): Promise<RestReply> =>
      row.handle(rest, (names) => {
        const parameters = names.slice(0, 10).map((name) => name.slice(0, 64));
        const { sid } = rest.account;
        this.#log.warn({ accountSid: sid, path: row.path, parameters }, 'parameters ignored');
      });
    const token = row.idempotent ? request.headers[IDEMPOTENCY_HEADER] : undefined;
    if (typeof token !== 'string' || token === '' || token.length > IDEMPOTENCY_TOKEN_MAX) {
      return this.#send(request, reply, await work());
    }
    const scope = `${rest.account.sid} ${row.path} ${JSON.stringify(rest.path)}`;
    const done = await this.#idempotency.run({ scope, token, form: rest.raw, work });
    return this.#send(request, reply, done);
  }

  #restRequest(row: Resource, request: HttpRequest): RestRequest {
    const account = this.#accounts.get(request);
    const parts: Record<string, string> = { ...(request.params as Record<string, string>) };
    let extension: Extension = '';
    const last = row.path === '' ? 'accountSid' : (row.path.split('/:').at(-1) ?? '');
    const named = parts[last];
    const dot = named?.lastIndexOf('.') ?? -1;
    if (named !== undefined && dot >= 0) {
      const found = row.extensions.find((one) => one === named.slice(dot + 1));
      if (!found) throw notFound(request);
      extension = found;
      parts[last] = named.slice(0, dot);
    }
    // Another account's resource is not there for this one, whether it exists or not.
    if (!account || (parts.accountSid ?? account.sid) !== account.sid) throw notFound(request);
    const url = request.url.split('?', 1)[0] ?? '';
    const raw = rawForm(row.method === 'POST' ? request.body : request.query);
    return { account, path: parts, extension, url, raw };
  }

  async #send(request: HttpRequest, reply: HttpReply, done: RestReply): Promise<HttpReply> {
    switch (done.kind) {
      case 'json':
        return reply.code(done.status).type('application/json').send(JSON.stringify(done.body));
      case 'deleted':
        return reply.code(204).send();
      case 'file':
        if (!(await sendFile(request, reply, done.file))) throw notFound(request);
        return reply;
    }
  }
}

function byPath(prefix: string, resources: readonly Resource[]): Map<string, Resource[]> {
  const paths = new Map<string, Resource[]>();
  for (const row of resources) {
    const path = `${prefix}${row.path}`;
    paths.set(path, [...(paths.get(path) ?? []), row]);
  }
  return paths;
}
