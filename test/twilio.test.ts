/**
 * The official helper library, unchanged but for its base URL, drives live calls: create, list with
 * paging, redirect, complete, recordings.
 */
import t from 'tap';
import twilio from 'twilio';
import { startAppServer } from './support/app-server.ts';
import { startGateway, TEST_SID, TEST_TOKEN } from './support/gateway.ts';
import { delay, startPhone } from './support/phone.ts';
import { find, tone, toneShare } from './support/sound.ts';

t.test('a call is created, redirected live, completed, and its recording fetched', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway();
  const phone = await startPhone({ sound: tone(600, 1) });
  t.teardown(async () => {
    await phone.close();
    await gateway.stop();
    await app.close();
  });
  const client = twilio(TEST_SID, TEST_TOKEN);
  client.api.baseUrl = gateway.httpBase;
  app.on('/first', () => '<Response><Pause length="60"/></Response>');
  app.on(
    '/second',
    () =>
      '<Response><Play digits="42"/><Record maxLength="2" playBeep="false" action="/recorded"/></Response>',
  );
  app.on('/recorded', () => '<Response><Pause length="60"/></Response>');
  app.on('/status', () => '<Response/>');

  const call = await client.calls.create({
    to: phone.uri,
    from: '+15550123',
    url: `${app.base}/first`,
    statusCallback: `${app.base}/status`,
    statusCallbackEvent: ['initiated', 'ringing', 'answered', 'completed'],
  });
  t.match(call.sid, /^CA[0-9a-f]{32}$/);
  const first = await app.waitFor('/first');
  t.match(first.params, {
    CallSid: call.sid,
    Direction: 'outbound-api',
    CallStatus: 'in-progress',
  });
  t.equal((await client.calls(call.sid).fetch()).status, 'in-progress');

  const redirected = await client.calls(call.sid).update({ url: `${app.base}/second` });
  t.equal(redirected.sid, call.sid);
  const recorded = await app.waitFor('/recorded');
  t.strictSame(phone.keysHeard, ['4', '2'], 'the redirected document was heard');
  t.match(recorded.params.RecordingUrl, gateway.httpBase);

  const completed = await client.calls(call.sid).update({ status: 'completed' });
  t.equal(completed.sid, call.sid);
  await phone.waitFor((message) => message.firstLine.startsWith('BYE'));
  const ended = await app.waitFor(
    '/status',
    (request) => request.params.CallStatus === 'completed',
  );
  await delay(200);
  t.equal((await client.calls(call.sid).fetch()).status, 'completed');
  const sequence = app.seen
    .filter((request) => request.path === '/status')
    .map((request) => `${request.params.SequenceNumber} ${request.params.CallStatus}`);
  t.strictSame(sequence, ['0 initiated', '1 ringing', '2 in-progress', '3 completed']);
  t.match(ended.params.CallbackSource, 'call-progress-events');

  const recordings = await client.recordings.list({ callSid: call.sid });
  t.equal(recordings.length, 1);
  const media = await fetch(`${gateway.httpBase}${recordings[0]?.uri.replace('.json', '.wav')}`, {
    headers: {
      authorization: `Basic ${Buffer.from(`${TEST_SID}:${TEST_TOKEN}`).toString('base64')}`,
    },
  });
  const wav = Buffer.from(await media.arrayBuffer());
  t.equal(wav.toString('latin1', 0, 4), 'RIFF');
  const samples = Float64Array.from(
    { length: (wav.length - 44) >> 1 },
    (_, index) => wav.readInt16LE(44 + 2 * index) / 32768,
  );
  t.ok(
    toneShare({ rateHz: 8000, samples }, 600) > 0.9,
    'the recording holds what the phone played',
  );
  t.ok(find({ rateHz: 8000, samples }, tone(600, 0.5)).correlation > 0.9);
  t.ok(
    app.seen.length >= 6 && app.seen.every((request) => request.isSigned),
    'validateRequest accepts all',
  );
  await client.recordings(recordings[0]?.sid ?? '').remove();
  t.equal((await client.recordings.list()).length, 0);
});

t.test('lists page through many calls, and mistakes have their codes', async (t) => {
  const gateway = await startGateway();
  const phone = await startPhone({ onInvite: 486 });
  t.teardown(async () => {
    await phone.close();
    await gateway.stop();
  });
  const client = twilio(TEST_SID, TEST_TOKEN);
  client.api.baseUrl = gateway.httpBase;
  const COUNT = 25;
  const made = await Promise.all(
    Array.from({ length: COUNT }, () =>
      client.calls.create({
        to: phone.uri,
        from: '+15550123',
        twiml: '<Response><Hangup/></Response>',
      }),
    ),
  );
  await delay(1000);

  const listed = await client.calls.list({ pageSize: 7 });
  t.strictSame(new Set(listed.map((call) => call.sid)), new Set(made.map((call) => call.sid)));
  t.equal(listed.length, COUNT);
  t.ok(listed.every((call) => call.status === 'busy'));
  t.equal((await client.calls.list({ status: 'busy', limit: 3 })).length, 3);
  t.equal((await client.calls.list({ status: 'completed' })).length, 0);
  t.equal((await client.calls.list({ startTimeAfter: new Date('2100-01-01') })).length, 0);

  const problem = (work: Promise<unknown>) =>
    work.then(
      () => 'none',
      (error: { status: number; code: number }) => `${error.status} ${error.code}`,
    );
  const sid = made[0]?.sid ?? '';
  t.equal(
    await problem(client.calls.create({ to: 'not a target', from: '+1', twiml: '<Response/>' })),
    '400 21211',
  );
  t.equal(await problem(client.calls(sid).update({ status: 'completed' })), '400 21220');
  t.equal(await problem(client.calls(`CA${'0'.repeat(32)}`).fetch()), '404 20404');
  t.ok(await client.calls(sid).remove());
  t.equal(await problem(client.calls(sid).fetch()), '404 20404');
  const stranger = twilio(TEST_SID, 'wrong');
  stranger.api.baseUrl = gateway.httpBase;
  t.equal(await problem(stranger.calls.list()), '401 20003');
});

t.test('a call created with Record is recorded on two channels, and its end is told', async (t) => {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway();
  const phone = await startPhone({ sound: tone(600, 1) });
  t.teardown(async () => {
    await phone.close();
    await gateway.stop();
    await app.close();
  });
  const client = twilio(TEST_SID, TEST_TOKEN);
  client.api.baseUrl = gateway.httpBase;
  app.on('/recorded', () => '<Response/>');

  const call = await client.calls.create({
    to: phone.uri,
    from: '+15550123',
    twiml: '<Response><Pause length="2"/></Response>',
    record: true,
    recordingChannels: 'dual',
    recordingStatusCallback: `${app.base}/recorded`,
  });
  const told = await app.waitFor('/recorded');

  t.match(told.params, { CallSid: call.sid, RecordingStatus: 'completed', RecordingChannels: '2' });
  t.ok(told.isSigned);
  const [recording] = await client.calls(call.sid).recordings.list();
  t.equal(recording?.sid, told.params.RecordingSid);
  t.equal(recording?.channels, 2);
  t.equal(recording?.source, 'OutboundAPI');
});
