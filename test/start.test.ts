/**
 * Starting and stopping as an operator sees it: configuration mistakes, readiness, drain with live
 * calls, and the command line against a running gateway.
 */
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { loadConfig, printConfig } from '../src/core/config.ts';
import { startAppServer } from './support/app-server.ts';
import { childrenOf, freePort, startGateway, TEST_SID, TEST_TOKEN } from './support/gateway.ts';
import { delay, startPhone } from './support/phone.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function tandem(args: readonly string[], environment: Record<string, string> = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const options = { cwd: ROOT, env: { ...process.env, ...environment }, timeout: 30_000 };
    execFile(process.execPath, ['src/cli.ts', ...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
      resolve({ code, stdout, stderr });
    });
  });
}

t.test('a mistyped key stops the start and names the nearest one', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-config-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'tandem.jsonc');
  writeFileSync(file, '{ // a comment\n  "sip.listn": ["udp://127.0.0.1:5060"],\n}\n');

  const ran = await tandem(['start', '--config', file]);

  t.equal(ran.code, 1);
  t.match(ran.stderr, 'unknown configuration key "sip.listn"; did you mean "sip.listen"?');
  t.match((await tandem(['start'], { TANDEM_SIP_LISTN: 'x' })).stderr, 'TANDEM_SIP_LISTEN');
});

t.test('bad values say which key and why', async (t) => {
  const load = (environment: Record<string, string>) => () => loadConfig({ environment });
  t.throws(load({ TANDEM_MEDIA_PORT_MIN: '80' }), { message: /media\.portMin.*below 1024/ });
  t.throws(load({ TANDEM_LOG_LEVEL: 'loud' }), { message: /log\.level.*debug, info/ });
  t.throws(load({ TANDEM_ACCOUNT_SID: 'ACx' }), { message: /account\.sid/ });
  t.throws(load({ TANDEM_CALL_LIVE_MAX: '' }), { message: /call\.liveMax/ });
  t.throws(load({ TANDEM_MEDIA_INBAND_DTMF: 'yes' }), { message: /true or false/ });
  t.throws(load({ TANDEM_SIP_LISTEN: 'udp://0.0.0.0:5060' }), { message: /sip\.advertise/ });
  t.throws(load({ TANDEM_MEDIA_ADDRESS: '0.0.0.0' }), { message: /media\.advertise/ });
  t.throws(load({ TANDEM_HTTP_LISTEN: '[::]:8080' }), { message: /http\.publicUrl/ });
  t.equal(
    loadConfig({ environment: { TANDEM_SIP_LISTEN: 'udp://[::1]:5070' } })['sip.listen'].length,
    1,
  );
  const nested = join(mkdtempSync(join(tmpdir(), 'tandem-config-')), 'a.jsonc');
  writeFileSync(nested, '{ "sip": { "listen": ["udp://127.0.0.1:1"] }, "log.level": "debug" }');
  t.equal(loadConfig({ file: nested, environment: {} })['log.level'], 'debug');
  writeFileSync(nested, printConfig());
  t.doesNotThrow(() => loadConfig({ file: nested, environment: {} }), 'the printed file loads');
});

t.test('a port that is taken, or taken by the kernel, is a readable reason', async (t) => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const address = taken.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-start-'));
  t.teardown(() => {
    taken.close();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const busy = await tandem(['start'], {
    TANDEM_HTTP_LISTEN: `127.0.0.1:${port}`,
    TANDEM_DATA_DIR: dataDir,
  });
  const ephemeral = await tandem(['start'], {
    TANDEM_MEDIA_PORT_MIN: '40000',
    TANDEM_MEDIA_PORT_MAX: '41000',
    TANDEM_DATA_DIR: dataDir,
  });

  t.equal(busy.code, 1);
  t.match(busy.stderr, /cannot listen on 127\.0\.0\.1:\d+ \(key "http\.listen"\)/);
  t.equal(ephemeral.code, 1);
  t.match(ephemeral.stderr, 'ephemeral ports');
  t.match(ephemeral.stderr, 'sysctl');
});

t.test('a database that is not spoken to is refused, without its password', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-start-'));
  t.teardown(() => rmSync(dataDir, { recursive: true, force: true }));

  const ran = await tandem(['start'], {
    TANDEM_STORE_URL: 'postgres://user:hunter2@127.0.0.1/tandem',
    TANDEM_DATA_DIR: dataDir,
  });

  t.equal(ran.code, 1);
  t.match(ran.stderr, 'configuration key "store.url": must begin with sqlite:, not with postgres:');
  t.notMatch(ran.stderr + ran.stdout, 'hunter2');
});

t.test('a node whose media worker is gone is not ready until there is another', async (t) => {
  const gateway = await startGateway();
  t.teardown(() => gateway.stop());
  const ready = async () => {
    const response = await fetch(`${gateway.httpBase}/readyz`);
    return { status: response.status, text: await response.text() };
  };
  const [worker] = childrenOf(gateway.process.pid ?? 0);
  t.equal((await ready()).status, 200);

  process.kill(worker ?? 0, 'SIGKILL');
  let seen = await ready();
  for (let i = 0; i < 200 && seen.status === 200; i += 1) seen = await ready();

  t.match(seen, { status: 503, text: /"media"/ });
  for (let i = 0; i < 100 && seen.status !== 200; i += 1) {
    await delay(100);
    seen = await ready();
  }
  t.equal(seen.status, 200);
});

t.test('the first start makes an account and prints it once', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-first-'));
  t.teardown(() => rmSync(dataDir, { recursive: true, force: true }));
  const start = async (): Promise<string> => {
    const sip = await freePort();
    const child = spawn(process.execPath, ['src/cli.ts', 'start'], {
      cwd: ROOT,
      env: {
        ...process.env,
        TANDEM_DATA_DIR: dataDir,
        TANDEM_SIP_LISTEN: `udp://127.0.0.1:${sip}`,
        TANDEM_HTTP_LISTEN: `127.0.0.1:${await freePort()}`,
        TANDEM_MEDIA_WORKERS: '1',
      },
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (text) => {
        output += text;
        if (output.includes('"msg":"ready"')) child.kill('SIGTERM');
      });
    }
    await new Promise((resolve) => child.on('exit', resolve));
    return output;
  };

  const first = await start();
  const second = await start();

  t.match(first, /account {3}AC[0-9a-f]{32} {2}token [0-9a-f]{32}/);
  t.match(first, /dial {6}sip:demo@127\.0\.0\.1:\d+/);
  t.match(second, /account {3}AC[0-9a-f]{32}\n/);
  t.notMatch(second, 'token');
  t.equal(statSync(join(dataDir, 'account.json')).mode & 0o777, 0o600);
  t.equal(first.split('\n').filter((line) => line.includes('"msg":"ready"')).length, 1);
});

t.test('a drain refuses new calls, lets live ones end, and then exits', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({ TANDEM_APP_URL: `${app.base}/voice` });
  const live = await startPhone();
  const late = await startPhone();
  t.teardown(async () => {
    await Promise.all([live.close(), late.close(), app.close()]);
    await gateway.stop();
  });
  // A pause as the first verb would delay the answer.
  app.on('/voice', () => '<Response><Play digits="1"/><Pause length="60"/></Response>');
  t.equal((await fetch(`${gateway.httpBase}/readyz`)).status, 200);
  t.match((await live.call('sip:x@127.0.0.1', gateway.sipPort)).firstLine, '200');

  gateway.process.kill('SIGTERM');
  await delay(300);
  const refused = await late.call('sip:x@127.0.0.1', gateway.sipPort);
  const ready = await fetch(`${gateway.httpBase}/readyz`);
  const alive = await fetch(`${gateway.httpBase}/livez`);

  t.match(refused.firstLine, 'SIP/2.0 503');
  t.ok(refused.headers.has('retry-after'));
  t.equal(ready.status, 503);
  t.equal(alive.status, 200);
  t.equal(gateway.process.exitCode, null, 'it waits for the live call');
  const endedMs = performance.now();
  live.hangup();
  t.equal(await gateway.exited, 0);
  t.ok(performance.now() - endedMs < 3000, 'and leaves soon after it');
});

t.test('at the deadline of a drain what is left is hung up', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({
    TANDEM_APP_URL: `${app.base}/voice`,
    TANDEM_APP_STATUS_CALLBACK_URL: `${app.base}/status`,
    TANDEM_DRAIN_DEADLINE_MS: '1000',
  });
  const live = await startPhone();
  t.teardown(async () => {
    await Promise.all([live.close(), app.close()]);
  });
  // A pause as the first verb would delay the answer.
  app.on('/voice', () => '<Response><Play digits="1"/><Pause length="60"/></Response>');
  app.on('/status', () => '<Response/>');
  await live.call('sip:x@127.0.0.1', gateway.sipPort);

  const stopped = gateway.stop();
  await live.waitFor((message) => message.firstLine.startsWith('BYE'));

  t.equal(await stopped, 0);
  const status = await app.waitFor('/status');
  t.equal(status.params.CallStatus, 'completed', 'and the application was told');
});

t.test('the command line places a call and shows its trace', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway();
  const phone = await startPhone();
  t.teardown(async () => {
    await Promise.all([phone.close(), app.close()]);
    await gateway.stop();
  });
  app.on('/voice', () => '<Response><Play digits="3"/><Hangup/></Response>');
  const environment = {
    TANDEM_HTTP_LISTEN: gateway.httpBase.slice('http://'.length),
    TANDEM_ACCOUNT_SID: TEST_SID,
    TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
  };

  const placed = await tandem(['call', phone.uri, '--app', `${app.base}/voice`], environment);
  const sid = /CA[0-9a-f]{32}/.exec(placed.stdout)?.[0] ?? '';
  const trace = await tandem(['trace', sid], environment);

  t.equal(placed.code, 0, placed.stderr);
  t.match(placed.stdout, 'completed');
  t.strictSame(phone.keysHeard, ['3']);
  t.match(trace.stdout, /INVITE sip:/);
  t.match(trace.stdout, /200 OK/);
  t.match(trace.stdout, /webhook: POST .*\/voice 200 \(\d+ ms\)/);
  t.match(trace.stdout, /verb: Play/);
  t.match(trace.stdout, /BYE/);
  t.match(
    trace.stdout,
    /call: media \(received \d+, lost 0 \(0\.0 %\), jitter \d+\.\d ms, sent \d+/,
  );
  const stored = await gateway.rest('GET', `Calls/${sid}/Trace.json`);
  t.match(stored.json.trace.at(-1), { kind: 'call', data: { text: 'media' } });
  const metrics = await (await fetch(`${gateway.httpBase}/metrics`)).text();
  t.match(metrics, 'tandem_media_jitter_seconds_count{direction="outbound-api"} 1\n');
});

t.test('a call from the command line that fails says how, why and whose fault it is', async (t) => {
  const gateway = await startGateway({ TANDEM_SIP_NO_PROVISIONAL_MS: '600' });
  const busy = await startPhone({ onInvite: 486 });
  t.teardown(async () => {
    await busy.close();
    await gateway.stop();
  });
  const environment = {
    TANDEM_HTTP_LISTEN: gateway.httpBase.slice('http://'.length),
    TANDEM_ACCOUNT_SID: TEST_SID,
    TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
  };
  const call = (to: string) =>
    tandem(
      ['call', to, '--from', '+4930999', '--twiml', '<Response><Pause/></Response>'],
      environment,
    );

  const [refused, silent, nowhere] = await Promise.all([
    call(busy.uri),
    call(`sip:x@127.0.0.1:${await freePort()}`),
    call('+4930123'),
  ]);

  t.match(refused, { code: 1, stdout: /busy\nSIP 486 CALL_BUSY: \S.*\nfault: caller\n/ });
  const said = /failed\nSIP 408 SIP_TIMEOUT: no provisional response in 600 ms\nfault: carrier\n/;
  t.match(silent, { code: 1, stdout: said });
  t.match(nowhere, {
    code: 1,
    stdout: /failed\nSIP 404 NO_TRUNK\n {2}route: .*; change .*\nfault: app\n/,
  });
});

t.test('the command line says what is wrong and what to do', async (t) => {
  const gateway = await startGateway();
  t.teardown(() => gateway.stop());
  const environment = {
    TANDEM_HTTP_LISTEN: gateway.httpBase.slice('http://'.length),
    TANDEM_ACCOUNT_SID: TEST_SID,
    TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
  };
  const nobody = `CA${'0'.repeat(32)}`;
  const [typo, option, unknown, stranger, nowhere, place] = await Promise.all([
    tandem(['trace', 'CA123'], environment),
    tandem(['call', '--ap', 'x'], environment),
    tandem(['trace', nobody], environment),
    tandem(['trace', nobody], { ...environment, TANDEM_ACCOUNT_AUTH_TOKEN: 'wrong' }),
    tandem(['trace', nobody], {
      ...environment,
      TANDEM_HTTP_LISTEN: `127.0.0.1:${await freePort()}`,
    }),
    tandem(['call', 'sip:x@127.0.0.1', '--app', 'no url'], environment),
  ]);

  t.match(typo, { code: 2, stderr: '"CA123" is no CallSid: that is CA and 32 hex digits' });
  t.match(option, { code: 2, stderr: /Unknown option '--ap'.*\n\ntandem start/ });
  t.match(unknown, { code: 1, stderr: `knows no call ${nobody} of account ${TEST_SID}` });
  t.match(stranger, { code: 1, stderr: /does not take this token.*TANDEM_ACCOUNT_AUTH_TOKEN/ });
  t.match(nowhere, { code: 1, stderr: /no gateway answers there.*npm start.*http\.listen/ });
  t.match(place, { code: 1, stderr: 'Url is not a valid URL: no url' });
  for (const { stderr } of [typo, option, unknown, stranger, nowhere, place]) {
    t.notMatch(stderr, /internal error|node:internal|at async/);
  }
});

t.test('help is shown to who asks for it, wherever it stands', async (t) => {
  for (const words of [['help'], ['--help'], ['call', '--help'], ['start', '-h']]) {
    const ran = await tandem(words);
    t.match(ran, { code: 0, stderr: '' }, words.join(' '));
    t.match(ran.stdout, 'tandem call <uri|number>', words.join(' '));
  }
});

t.test('another server on the port of the gateway is named as such', async (t) => {
  const other = createHttpServer((_request, response) => response.end('<html>'));
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.teardown(() => other.close());
  const address = other.address();
  const port = typeof address === 'object' && address ? address.port : 0;

  const ran = await tandem(['trace', `CA${'0'.repeat(32)}`], {
    TANDEM_HTTP_LISTEN: `127.0.0.1:${port}`,
    TANDEM_ACCOUNT_SID: TEST_SID,
    TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
  });

  t.match(ran, { code: 1, stderr: 'is not tandem' });
});
