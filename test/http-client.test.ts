/**
 * The HTTP client against a real server on loopback: guard, limits, redirects, retries, errors.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import t from 'tap';
import { AddressGuard, AddressSet, classifyAddress } from '../src/core/address.ts';
import { realClock } from '../src/core/clock.ts';
import { GatewayError } from '../src/core/errors.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import type { AccountSid, CallSid } from '../src/core/sid.ts';
import { Callbacks, DEFAULT_CALLBACKS } from '../src/events/callbacks.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient, type HttpRequest } from '../src/http/client.ts';
import { type ConnectionPolicy, connectionPolicy } from '../src/http/overrides.ts';
import { signableUrl, signWebhook } from '../src/http/signature.ts';
import { shown, withoutUserInfo } from '../src/http/url.ts';
import { Application, DEFAULT_APPLICATION } from '../src/verbs/application.ts';
import { startAppServer } from './support/app-server.ts';

const POLICY: ConnectionPolicy = {
  connectMs: 500,
  readMs: 500,
  totalMs: 1000,
  retries: 0,
  retryOn: new Set(['ct']),
};

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(handler: Handler): Promise<{ server: Server; base: string }> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, base: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function client(options: { allow?: string[]; resolve?: (host: string) => Promise<string[]> } = {}) {
  return new HttpClient({
    clock: realClock,
    guard: new AddressGuard({ allow: options.allow ?? ['127.0.0.0/8'] }),
    userAgent: 'tandem-test',
    ...DEFAULT_HTTP_CLIENT,
    ...(options.resolve ? { resolve: options.resolve } : {}),
  });
}

function get(url: string, more: Partial<HttpRequest> = {}): HttpRequest {
  return { url, method: 'GET', bodyBytesMax: 10_000, policy: POLICY, ...more };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (thrown) {
    return thrown instanceof GatewayError ? thrown.code : `foreign: ${String(thrown)}`;
  }
}

t.test('the signature equals the published vector', async (t) => {
  const signature = signWebhook({
    url: 'https://mycompany.com/myapp.php?foo=1&bar=2',
    params: [
      ['CallSid', 'CA1234567890ABCDE'],
      ['Caller', '+14158675309'],
      ['Digits', '1234'],
      ['From', '+14158675309'],
      ['To', '+18005551212'],
    ],
    authToken: new Secret('12345'),
  });

  t.equal(signature, 'RSOYDt4T1cUTdK1PDd93/VVr8B8=');
  t.equal(signableUrl('https://u:p@h.example/a?b=1#rc=2'), 'https://h.example/a?b=1');
});

t.test('addresses are judged by their bytes, in every spelling', async (t) => {
  const guard = new AddressGuard({ allow: [] });
  const hostile = [
    '127.0.0.1',
    '::1',
    '::ffff:127.0.0.1',
    '::ffff:7f00:1',
    '0:0:0:0:0:ffff:7f00:0001',
    '169.254.169.254',
    '::ffff:169.254.169.254',
    '10.1.2.3',
    '172.31.255.255',
    '192.168.0.1',
    '100.64.0.1',
    'fe80::1',
    'fd00::1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
    '0.0.0.0',
    '::',
    '224.0.0.1',
    '255.255.255.255',
    'not an address',
    '0x7f000001',
    '127.1',
  ];
  t.strictSame(
    hostile.filter((address) => guard.permits(address)),
    [],
  );
  t.ok(guard.permits('8.8.8.8'));
  t.ok(guard.permits('2606:4700::1111'));
  t.equal(classifyAddress('172.32.0.1'), 'public');
  t.ok(new AddressSet(['10.0.0.0/8']).has('::ffff:10.2.3.4'));
  t.throws(() => new AddressSet(['10.0.0.0/33']), { code: 'BAD_ADDRESS' });
});

t.test('no form of a URL reaches a private address', async (t) => {
  let hits = 0;
  const { server, base } = await serve((_, response) => {
    hits += 1;
    response.end('secret');
  });
  const { port } = server.address() as AddressInfo;
  const guarded = client({
    allow: [],
    resolve: async (host) => (host === 'rebind.example' ? ['127.0.0.1'] : ['::ffff:7f00:1']),
  });
  const urls = [
    base,
    `http://localhost:${port}/`,
    `http://127.1:${port}/`,
    `http://0x7f000001:${port}/`,
    `http://2130706433:${port}/`,
    `http://0177.0.0.1:${port}/`,
    `http://[::1]:${port}/`,
    `http://[::ffff:127.0.0.1]:${port}/`,
    `http://rebind.example:${port}/`,
    `http://mapped.example:${port}/`,
  ];

  for (const url of urls)
    t.equal(await codeOf(guarded.fetch(get(url))), 'APP_ADDRESS_REFUSED', url);

  t.equal(hits, 0);
  await guarded.close();
  server.close();
});

t.test('a redirect goes through the guard too', async (t) => {
  const { server, base } = await serve((_, response) => {
    response.writeHead(302, { location: 'http://127.0.0.2:1/' }).end();
  });
  const guarded = client({ allow: ['127.0.0.1'] });

  t.equal(await codeOf(guarded.fetch(get(base))), 'APP_ADDRESS_REFUSED');

  await guarded.close();
  server.close();
});

t.test('POST becomes GET after 302 and stays POST after 307', async (t) => {
  const seen: string[] = [];
  const { server, base } = await serve((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      seen.push(`${request.method} ${request.url} ${body}`);
      if (request.url === '/a') response.writeHead(302, { location: '/done' }).end('moved');
      else if (request.url === '/b') response.writeHead(307, { location: '/done' }).end();
      else response.end('ok');
    });
  });
  const http = client();
  const post = { method: 'POST', body: 'x=1' } as const;

  const response = await http.fetch(get(`${base}/a`, post));
  await http.fetch(get(`${base}/b`, post));

  t.equal(response.url, `${base}/done`);
  t.strictSame(seen, ['POST /a x=1', 'GET /done ', 'POST /b x=1', 'POST /done x=1']);
  await http.close();
  server.close();
});

t.test('each way to fail has its code', async (t) => {
  const { server, base } = await serve((request, response) => {
    if (request.url === '/loop') response.writeHead(302, { location: '/loop' }).end();
    else if (request.url === '/big') response.end(Buffer.alloc(20_000));
    else if (request.url === '/zip') {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('x');
    } else if (request.url === '/drip') {
      response.writeHead(200);
      const drip = setInterval(() => response.write('x'), 100);
      response.on('close', () => clearInterval(drip));
    }
  });
  const garbage = createTcpServer((socket) => socket.end('HTP/9 what\r\n\r\n'));
  await new Promise<void>((resolve) => garbage.listen(0, '127.0.0.1', resolve));
  const closed = createTcpServer();
  await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
  const closedPort = (closed.address() as AddressInfo).port;
  await new Promise((resolve) => closed.close(resolve));
  const http = client();
  const garbageUrl = `http://127.0.0.1:${(garbage.address() as AddressInfo).port}/`;

  t.equal(await codeOf(http.fetch(get(`${base}/loop`))), 'APP_REDIRECTS');
  t.equal(await codeOf(http.fetch(get(`${base}/big`))), 'APP_BODY_TOO_LARGE');
  t.equal(await codeOf(http.fetch(get(`${base}/zip`))), 'APP_PROTOCOL');
  t.equal(await codeOf(http.fetch(get(`${base}/hang`))), 'APP_TIMEOUT');
  t.equal(await codeOf(http.fetch(get(`${base}/drip`))), 'APP_TIMEOUT');
  t.equal(await codeOf(http.fetch(get(garbageUrl))), 'APP_PROTOCOL');
  t.equal(await codeOf(http.fetch(get(`http://127.0.0.1:${closedPort}/`))), 'APP_UNREACHABLE');
  t.equal(await codeOf(http.fetch(get('ftp://127.0.0.1/'))), 'APP_URL');
  t.equal(await codeOf(http.fetch(get(base.replace('http', 'https')))), 'APP_TLS');
  const lost = client({ resolve: () => Promise.reject(new Error('ENOTFOUND')) });
  t.equal(await codeOf(lost.fetch(get('http://no.example/'))), 'APP_DNS');
  await Promise.all([http.close(), lost.close()]);
  server.closeAllConnections();
  server.close();
  garbage.close();
});

t.test('overrides change retries and times, and bad ones are refused', async (t) => {
  let hits = 0;
  const { server, base } = await serve((_, response) => {
    hits += 1;
    response.writeHead(hits < 3 ? 503 : 200).end('ok');
  });
  const http = client();
  const url = `${base}/#rc=2&rp=5xx,ct&ct=300`;
  const policy = connectionPolicy(url, POLICY);

  const response = await http.fetch(get(url, { policy }));

  t.equal(response.status, 200);
  t.equal(response.tries, 3);
  t.equal(policy.connectMs, 300);
  t.throws(() => connectionPolicy('http://h/#rc=9', POLICY), { code: 'APP_OVERRIDE_VALUE' });
  t.throws(() => connectionPolicy('http://h/#zz=1', POLICY), { code: 'APP_OVERRIDE' });
  t.throws(() => connectionPolicy('http://h/#rp=6xx', POLICY), { code: 'APP_OVERRIDE_POLICY' });
  await http.close();
  server.close();
});

t.test('every hop of a redirected webhook is signed as its receiver sees it', async (t) => {
  const authToken = new Secret('f'.repeat(32));
  const app = await startAppServer({ authToken: authToken.reveal() });
  for (const status of [302, 307]) {
    app.on(`/${status}`, (_, response) => {
      response.writeHead(status, { location: `/end?after=${status}&a='b'` }).end();
      return undefined;
    });
  }
  app.on('/end', () => '<Response/>');
  const http = client();
  const parts = { clock: realClock, http, policy: POLICY };
  const application = new Application({
    ...parts,
    ...DEFAULT_APPLICATION,
    onWebhook: () => undefined,
  });
  const callbacks = new Callbacks({
    ...parts,
    ...DEFAULT_CALLBACKS,
    log: silentLog,
    onOutcome: () => undefined,
  });
  const callSid = `CA${'1'.repeat(32)}` as CallSid;
  const account = { sid: `AC${'1'.repeat(32)}` as AccountSid, authToken };
  for (const method of ['POST', 'GET'] as const) {
    for (const status of [302, 307]) {
      const url = `${app.base.replace('//', '//user:pass@')}/${status}?x=${method}#ct=400`;
      await application.fetch({
        url,
        method,
        params: { Digits: '1', From: '+1' },
        callSid,
        account,
      });
      callbacks.send({ callSid, url, method, params: [['CallStatus', 'busy']], authToken });
    }
  }
  await callbacks.drain(2_000);

  t.equal(app.seen.length, 16);
  t.same(
    app.seen.filter((request) => !request.isSigned).map(({ method, path }) => `${method} ${path}`),
    [],
  );
  const posted = app.seen.filter(({ path, method }) => path === '/end' && method === 'POST');
  t.same(posted.map(({ params }) => params.Digits ?? params.CallStatus).sort(), ['1', 'busy']);
  await http.close();
  await app.close();
});

t.test('a URL is shown without what may be secret in it, in every spelling', async (t) => {
  const table: readonly (readonly [string, string, string])[] = [
    ['http://u:p@h/a?b=1#c', 'http://h/a', 'http://h/a?b=1#c'],
    ['http://h/a?mail=u@x', 'http://h/a', 'http://h/a?mail=u@x'],
    ['http://u:p@q@h/x@y', 'http://h/x@y', 'http://h/x@y'],
    ['https:u:p@h/q?1', 'https://h/q', 'https://h/q?1'],
    ['http://u:p@not a host/x?k', 'http://not a host/x', 'http://not a host/x?k'],
    ['/x?y=1', '/x', '/x?y=1'],
    ['sip:bob@h', 'sip:bob@h', 'sip:bob@h'],
  ];
  for (const [url, brief, whole] of table) {
    t.equal(shown(url), brief, url);
    t.equal(withoutUserInfo(url), whole, url);
  }
  t.throws(() => connectionPolicy('http://u:p@h/?t=1#key=CANARY', POLICY), {
    message: 'http://h/: bad connection override key',
  });
});
