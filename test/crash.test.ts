/**
 * The gateway process dies in the middle of calls and another takes its place: what a caller, an
 * application and a client of the REST API notice of it.
 */
import t from 'tap';
import { startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN } from './support/gateway.ts';
import { delay, startPhone } from './support/phone.ts';

t.test('a call in progress is listed at once, hears keys and ends properly', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const first = await startGateway({
    TANDEM_APP_URL: `${app.base}/voice`,
    TANDEM_APP_STATUS_CALLBACK_URL: `${app.base}/status`,
  });
  let gateway = first;
  const caller = await startPhone();
  t.teardown(async () => {
    await caller.close();
    await gateway.stop();
    await app.close();
  });
  app.on(
    '/voice',
    () =>
      '<Response><Gather numDigits="1" timeout="30" action="/digit"><Play digits="9"/></Gather></Response>',
  );
  app.on('/digit', () => '<Response><Play digits="4"/><Pause length="20"/></Response>');
  app.on('/status', () => '<Response/>');
  await caller.call('sip:x@127.0.0.1', gateway.sipPort);
  // Longer than the journal gathers, shorter than the row of a live call is held back.
  await delay(1000);

  gateway = await first.crash();

  const { json } = await gateway.rest('GET', 'Calls.json?Status=in-progress');
  t.match(json.calls, [{ direction: 'inbound', status: 'in-progress', end_time: null }]);
  t.equal(json.calls.length, 1);
  await caller.press('7');
  const digit = await app.waitFor('/digit');
  t.match(digit.params, { Digits: '7', CallSid: json.calls[0]?.sid });
  await delay(500);
  t.ok(caller.keysHeard.includes('4'), 'and the caller hears what comes then');
  caller.hangup();
  const status = await app.waitFor('/status');
  t.match(status.params, { CallStatus: 'completed', CallSid: json.calls[0]?.sid });
  const ended = await gateway.rest('GET', 'Calls.json');
  t.match(ended.json.calls, [{ status: 'completed', sid: json.calls[0]?.sid }]);

  gateway = await gateway.crash();

  t.same((await gateway.rest('GET', 'Calls.json?Status=in-progress')).json.calls, []);
  const trace = await gateway.rest('GET', `Calls/${json.calls[0]?.sid}/Trace.json`);
  t.match(trace.json.trace.at(-1), { data: { text: 'media', detail: /^received \d+, lost / } });
});
