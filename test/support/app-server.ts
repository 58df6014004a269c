/**
 * An application server for tests: routes to handlers, remembers every request, and checks the
 * signature of each with the official library's own validator.
 */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import twilio from 'twilio';

export interface AppRequestSeen {
  readonly method: string;
  readonly path: string;
  /** Form of a POST or query of a GET. */
  readonly params: Record<string, string>;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly atMs: number;
  readonly isSigned: boolean;
}

export type AppHandler = (request: AppRequestSeen, response: ServerResponse) => string | undefined;

export interface AppServer {
  readonly base: string;
  readonly seen: AppRequestSeen[];
  /** Answers `path`: a returned string is sent as TwiML; undefined means the handler answered. */
  on(path: string, handler: AppHandler): void;
  /** Resolves with the first request of `path` (from now or before) that `accept` takes. */
  waitFor(path: string, accept?: (request: AppRequestSeen) => boolean): Promise<AppRequestSeen>;
  close(): Promise<void>;
}

export async function startAppServer(options: { authToken: string }): Promise<AppServer> {
  const handlers = new Map<string, AppHandler>();
  const seen: AppRequestSeen[] = [];
  const waiting: { check: () => boolean }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8');
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      const url = new URL(request.url ?? '/', base);
      const form = request.method === 'POST' ? new URLSearchParams(body) : url.searchParams;
      const params = Object.fromEntries(form);
      const entry: AppRequestSeen = {
        method: request.method ?? '',
        path: url.pathname,
        params,
        headers: request.headers,
        atMs: performance.now(),
        isSigned: twilio.validateRequest(
          options.authToken,
          String(request.headers['x-twilio-signature'] ?? ''),
          `${base}${request.url}`,
          request.method === 'POST' ? params : {},
        ),
      };
      seen.push(entry);
      const handler = handlers.get(url.pathname);
      if (!handler) response.writeHead(404).end();
      else {
        const document = handler(entry, response);
        if (document !== undefined) {
          response.writeHead(200, { 'content-type': 'text/xml' }).end(document);
        }
      }
      for (const waiter of [...waiting]) waiter.check();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    base,
    seen,
    on: (path, handler) => {
      handlers.set(path, handler);
    },
    waitFor: (path, accept = () => true) =>
      new Promise((resolve) => {
        const check = (): boolean => {
          const found = seen.find((entry) => entry.path === path && accept(entry));
          if (!found) return false;
          const at = waiting.indexOf(waiter);
          if (at >= 0) waiting.splice(at, 1);
          resolve(found);
          return true;
        };
        const waiter = { check };
        waiting.push(waiter);
        check();
      }),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
