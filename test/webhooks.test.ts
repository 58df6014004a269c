/**
 * Primary and secondary URI: whatever the primary does, the secondary is asked within 5 s with the
 * right error, and the caller hears its document.
 */
import type { ServerResponse } from 'node:http';
import t from 'tap';
import { startAppServer } from './support/app-server.ts';
import { freePort, startGateway, TEST_TOKEN } from './support/gateway.ts';
import { startPhone } from './support/phone.ts';

const BEYOND = '<Response><Play digits="9"/><Hangup/></Response>';

interface Fault {
  readonly name: string;
  readonly errorCode: string;
  /** Answers on the app server; absent: nobody listens at the primary's port. */
  readonly answer?: (response: ServerResponse) => void;
}

const FAULTS: readonly Fault[] = [
  { name: 'down', errorCode: '11205' },
  { name: 'hanging', errorCode: '11205', answer: () => undefined },
  {
    name: 'answering 500',
    errorCode: '11200',
    answer: (response) => {
      response.writeHead(500, { 'content-type': 'text/xml' }).end('<Response/>');
    },
  },
  {
    name: 'answering HTML',
    errorCode: '12102',
    answer: (response) => {
      response
        .writeHead(200, { 'content-type': 'text/html' })
        .end('<html><body><p>It works!</p></body></html>');
    },
  },
  {
    name: 'answering broken HTML',
    errorCode: '12100',
    answer: (response) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<html><p>oops<br></html>');
    },
  },
  {
    name: 'answering 10 MB',
    errorCode: '11750',
    answer: (response) => {
      response.writeHead(200, { 'content-type': 'text/xml' });
      response.on('error', () => undefined);
      response.end(Buffer.alloc(10_000_000, 'x'));
    },
  },
  {
    name: 'answering an image',
    errorCode: '12300',
    answer: (response) => {
      response.writeHead(200, { 'content-type': 'image/png' }).end('x');
    },
  },
];

for (const fault of FAULTS) {
  t.test(
    `primary ${fault.name}: the secondary is asked within 5 s and the call goes on`,
    async (t) => {
      const app = await startAppServer({ authToken: TEST_TOKEN });
      const nobody = await freePort();
      const primary = fault.answer ? `${app.base}/primary` : `http://127.0.0.1:${nobody}/primary`;
      const gateway = await startGateway({
        TANDEM_APP_URL: primary,
        TANDEM_APP_FALLBACK_URL: `${app.base}/secondary`,
      });
      const caller = await startPhone();
      t.teardown(async () => {
        await caller.close();
        await gateway.stop();
        await app.close();
      });
      app.on('/primary', (_, response) => {
        fault.answer?.(response);
        return undefined;
      });
      app.on('/secondary', () => BEYOND);

      const startedMs = performance.now();
      const answer = await caller.call('sip:x@127.0.0.1', gateway.sipPort);
      const asked = await app.waitFor('/secondary');

      t.match(answer.firstLine, 'SIP/2.0 200');
      t.ok(asked.atMs - startedMs < 5000, `asked after ${Math.round(asked.atMs - startedMs)} ms`);
      t.equal(asked.params.ErrorCode, fault.errorCode);
      t.equal(asked.params.ErrorUrl, primary);
      t.ok(asked.isSigned);
      await caller.waitFor((message) => message.firstLine.startsWith('BYE'));
      t.strictSame(caller.keysHeard, ['9'], 'the secondary document was run');
      const sid = String(asked.params.CallSid);
      const notes = await gateway.rest('GET', `Calls/${sid}/Notifications.json`);
      t.equal(
        notes.json.notifications[0].error_code,
        fault.errorCode,
        'and the failure is on record',
      );
    },
  );
}

t.test('cookies come back, redirects are followed, relative actions resolve', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({ TANDEM_APP_URL: `${app.base}/old/voice` });
  const caller = await startPhone();
  t.teardown(async () => {
    await caller.close();
    await gateway.stop();
    await app.close();
  });
  app.on('/old/voice', (_, response) => {
    response.writeHead(307, { location: '/new/voice', 'set-cookie': 'session=abc; Path=/' }).end();
    return undefined;
  });
  app.on('/new/voice', () => '<Response><Redirect method="GET">next?x=1</Redirect></Response>');
  app.on('/new/next', () => '<Response><Hangup/></Response>');

  await caller.call('sip:x@127.0.0.1', gateway.sipPort);
  const next = await app.waitFor('/new/next');

  t.equal(next.method, 'GET');
  t.equal(next.params.x, '1');
  t.match(next.params.CallSid, /^CA/);
  t.match(next.headers.cookie, 'session=abc');
  t.ok(next.isSigned, 'a signed GET covers its query');
});

t.test('what an app writes into a URL is in no log, trace or notification', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const secret = app.base.replace('//', '//user:CANARY@');
  const gateway = await startGateway({
    TANDEM_APP_URL: `${secret}/voice`,
    TANDEM_LOG_LEVEL: 'debug',
  });
  const caller = await startPhone();
  t.teardown(async () => {
    await caller.close();
    await gateway.stop();
    await app.close();
  });
  app.on(
    '/voice',
    () => `<Response><Bogus/><Play>${secret}/missing.wav?tok=CANARY</Play></Response>`,
  );

  await caller.call('sip:x@127.0.0.1', gateway.sipPort);
  const { params } = await app.waitFor('/voice');
  await caller.waitFor((message) => message.firstLine.startsWith('BYE'));

  const call = `Calls/${params.CallSid}`;
  const notes = await gateway.rest('GET', `${call}/Notifications.json`);
  t.same(notes.json.notifications.map((note: { error_code: string }) => note.error_code).sort(), [
    '11200',
    '12200',
  ]);
  t.match(notes.text, `${app.base}/missing.wav`);
  const trace = await gateway.rest('GET', `${call}/Trace.json`);
  t.equal(trace.status, 200);
  t.match(trace.text, '/voice');
  const logged = gateway.lines.filter((line) => line.startsWith('{')).join('\n');
  for (const text of [notes.text, trace.text, logged]) t.notMatch(text, 'CANARY');
});
