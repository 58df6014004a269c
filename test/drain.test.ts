/**
 * Drain as an operator does it, on a whole gateway: everybody who could bring new calls is told so
 * at once, calls that live notice nothing, and undoing it brings all back.
 */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { DrainState } from '../src/api/admin.ts';
import { realClock } from '../src/core/clock.ts';
import { GatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { NodeHealth } from '../src/node/base.ts';
import { DrainSwitch } from '../src/node/drain.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_SID, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, startPhone } from './support/phone.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const skip = existsSync(ADDON_PATH) ? false : 'needs the media addon';
const KEY = Buffer.from(`${TEST_SID}:${TEST_TOKEN}`).toString('base64');

async function admin(gateway: TestGateway, method: string, key = KEY) {
  const response = await fetch(`${gateway.httpBase}/admin/drain`, {
    method,
    headers: { authorization: `Basic ${key}` },
  });
  const text = await response.text();
  return { status: response.status, json: text === '' ? null : JSON.parse(text) };
}

async function tandem(gateway: TestGateway, ...words: string[]) {
  const child = spawn(process.execPath, ['src/cli.ts', ...words], {
    cwd: ROOT,
    env: {
      ...process.env,
      TANDEM_HTTP_LISTEN: gateway.httpBase.slice('http://'.length),
      TANDEM_ACCOUNT_SID: TEST_SID,
      TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text;
    });
  }
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { code, output };
}

/** The answer to an OPTIONS. */
async function options(gateway: TestGateway): Promise<string> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  const answer = new Promise<string>((resolve) => {
    socket.once('message', (message) => resolve(message.toString('latin1')));
  });
  socket.send(
    `OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:${port};branch=z9hG4bK${port};rport\r\n` +
      `Max-Forwards: 70\r\nFrom: <sip:a@127.0.0.1>;tag=a\r\nTo: <sip:x@127.0.0.1>\r\n` +
      `Call-ID: o${port}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n`,
    gateway.sipPort,
    '127.0.0.1',
  );
  const text = await answer;
  socket.close();
  return text;
}

async function world(t: Test): Promise<{ app: AppServer; gateway: TestGateway }> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({
    TANDEM_APP_URL: `${app.base}/voice`,
    TANDEM_DRAIN_DEADLINE_MS: '5000',
  });
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
  });
  app.on('/voice', () => '<Response><Play digits="1"/><Pause length="60"/></Response>');
  return { app, gateway };
}

t.test(
  'drain and undo: who brings calls is told at once, calls that live go on',
  { skip },
  async (t) => {
    const { app, gateway } = await world(t);
    const live = await startPhone();
    const late = await startPhone();
    const next = await startPhone();
    t.teardown(() => Promise.all([live.close(), late.close(), next.close()]));
    const order = { To: late.uri, From: 'tandem', Url: `${app.base}/voice` };
    t.match((await live.call('sip:x@127.0.0.1', gateway.sipPort)).firstLine, '200');
    t.match((await admin(gateway, 'GET')).json, { state: 'serving', calls: 1 });

    const begun = await admin(gateway, 'POST');
    t.equal(begun.status, 200);
    t.match(begun.json, { state: 'draining', calls: 1, since: /^\d{4}-.*Z$/ });
    const refused = await late.call('sip:x@127.0.0.1', gateway.sipPort);
    t.match(refused.firstLine, 'SIP/2.0 503');
    const waitS = Number(refused.headers.get('retry-after')?.[0]);
    t.ok(waitS >= 5 && waitS <= 15, `Retry-After ${waitS}`);
    const answer = await options(gateway);
    t.match(answer, /^SIP\/2\.0 503 /);
    t.match(answer, /\r\nRetry-After: \d+\r\n/);
    const ordered = await gateway.rest('POST', 'Calls.json', order);
    t.equal(ordered.status, 503);
    t.match(ordered.json.message, 'draining');
    const ready = await fetch(`${gateway.httpBase}/readyz`);
    t.equal(ready.status, 503);
    t.match(await ready.text(), 'draining');
    t.equal((await fetch(`${gateway.httpBase}/livez`)).status, 200);
    t.equal((await admin(gateway, 'POST')).status, 200, 'again is no mistake');
    await delay(500);
    t.equal(await gateway.metric('tandem_calls_live'), 1, 'the call that lived does');
    t.equal(gateway.process.exitCode, null, 'and nothing ends by itself');

    t.equal((await admin(gateway, 'DELETE')).status, 204);
    t.equal((await admin(gateway, 'DELETE')).status, 204);
    t.match((await next.call('sip:x@127.0.0.1', gateway.sipPort)).firstLine, '200');
    next.hangup();
    t.match(await options(gateway), /^SIP\/2\.0 200 /);
    t.equal((await gateway.rest('POST', 'Calls.json', order)).status, 201);
    t.equal((await fetch(`${gateway.httpBase}/readyz`)).status, 200);
  },
);

t.test('tandem drain, tandem drain --undo, and whose word it is', { skip }, async (t) => {
  const { gateway } = await world(t);
  const drained = await tandem(gateway, 'drain');
  t.strictSame(drained, { code: 0, output: 'draining, 0 calls live\n' });
  t.equal((await fetch(`${gateway.httpBase}/readyz`)).status, 503);
  const undone = await tandem(gateway, 'drain', '--undo');
  t.strictSame(undone, { code: 0, output: 'serving, 0 calls live\n' });
  t.equal((await fetch(`${gateway.httpBase}/readyz`)).status, 200);

  const nobody = Buffer.from(`${TEST_SID}:wrong`).toString('base64');
  t.equal((await admin(gateway, 'POST', nobody)).status, 401);
  t.equal((await fetch(`${gateway.httpBase}/readyz`)).status, 200);
});

t.test(
  'a drain for the end of the process is not undone; a second signal stops',
  { skip },
  async (t) => {
    const { gateway } = await world(t);
    const live = await startPhone();
    t.teardown(() => live.close());
    await live.call('sip:x@127.0.0.1', gateway.sipPort);

    gateway.process.kill('SIGTERM');
    await delay(200);
    const refused = await admin(gateway, 'DELETE');
    t.equal(refused.status, 409);
    t.match(refused.json.message, 'told to end');
    t.match((await admin(gateway, 'GET')).json, { state: 'leaving', calls: 1 });
    gateway.process.kill('SIGTERM');
    t.equal(await gateway.exited, 1);
  },
);

t.test('the switch turns every part, each time, and waits for carriers to know', async (t) => {
  const turns: string[] = [];
  const router = { size: 3, drain: (on: boolean) => turns.push(`router ${on}`) };
  const health = new NodeHealth();
  health.isStarted = true;
  let isFailing = true;
  const drain = new DrainSwitch({
    ...{ clock: realClock, log: silentLog, health, router },
    endpoint: { drain: (on) => turns.push(`endpoint ${on}`) },
    registrations: {
      drain: async (on) => {
        await delay(10);
        turns.push(`registrations ${on}`);
        if (isFailing) throw new GatewayError('SIP_TIMEOUT');
      },
    },
  });
  const states: DrainState['state'][] = [drain.state.state];
  drain.drain();
  states.push(drain.state.state);
  t.same(health.notReady(), ['draining']);
  drain.undo();
  states.push(drain.state.state);
  t.same(health.notReady(), []);
  isFailing = false;
  await drain.leave();
  states.push(drain.state.state);
  t.same(states, ['serving', 'draining', 'serving', 'leaving']);
  t.throws(() => drain.undo(), { code: 'DRAIN_FINAL' });
  t.same(
    turns.filter((turn) => !turn.startsWith('registrations')),
    [
      'endpoint true',
      'router true',
      'endpoint false',
      'router false',
      'endpoint true',
      'router true',
    ],
  );
  t.same(
    turns.filter((turn) => turn.startsWith('registrations')),
    ['registrations true', 'registrations false', 'registrations true'],
    'in order, whatever failed before',
  );
});
