/**
 * What a caller hears before his call is answered: the callee's own early media, in a 183 of his
 * where he is not answered himself, our ringing tone where there is none; and how a call ends that
 * was heard and then refused. On a whole gateway, by the tones that arrive.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
import { tone, toneShare } from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const OURS = '+4930100';
/** Of the American ringing tone. */
const RINGING_HZ = 440;
const CALLER_HZ = 700;
const CALLEE_HZ = 1100;

interface World {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  readonly uri: string;
}

/** Calls to our number run `twiml`. */
async function world(t: Test, twiml: string, gatewayPort = 9): Promise<World> {
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '::1/128' });
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/voice', () => `<Response>${twiml}</Response>`);
  app.on('/after', () => '<Response/>');
  t.teardown(async () => {
    await gateway.stop();
    await app.close();
  });
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    InboundAddress: '127.0.0.1',
    NumberPattern: '+49*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${gatewayPort};transport=udp` }]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, identity: { trust: true } }),
  });
  if (made.status !== 201) throw new Error(made.text);
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: OURS,
    VoiceUrl: `${app.base}/voice`,
  });
  return { gateway, app, uri: `sip:${OURS}@127.0.0.1:${gateway.sipPort}` };
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

function early(t: Test): Promise<Phone> {
  return phoneFor(t, { onInvite: 'early', sound: tone(CALLEE_HZ, 1) });
}

function sip(phone: Phone): string {
  return `<Sip>${phone.uri};transport=udp</Sip>`;
}

/** First lines of responses, without 100. */
function answers(phone: Phone): string[] {
  return phone.received
    .map(({ firstLine }) => firstLine)
    .filter((line) => line.startsWith('SIP/2.0 ') && !line.startsWith('SIP/2.0 100'));
}

/** How much of what is heard from now on is that tone. */
async function share(phone: Phone, hz: number, ms = 500): Promise<number> {
  phone.forget();
  await delay(ms);
  const heard = phone.heard();
  return heard.samples.length === 0 ? 0 : toneShare(heard, hz);
}

t.test('a caller who is not answered hears the callee in a 183', { skip }, async (t) => {
  const callee = await early(t);
  const { gateway, uri } = await world(t, `<Dial answerOnBridge="true">${sip(callee)}</Dial>`);
  const caller = await phoneFor(t, { sound: tone(CALLER_HZ, 1) });

  const final = caller.call(uri, gateway.sipPort);
  const progress = await caller.waitFor(({ firstLine }) => firstLine.startsWith('SIP/2.0 183'));
  await delay(200);
  t.match(progress.body, /m=audio \d+ RTP\/AVP 0/);
  // Longer than what goes to an address that nothing was heard from.
  t.ok((await share(caller, CALLEE_HZ, 900)) > 0.9, 'before the answer');
  t.ok(caller.heard().samples.length > 6000, 'and without end');
  t.notMatch(answers(caller).join(), '200');

  callee.answer();
  t.match((await final).firstLine, 'SIP/2.0 200');
  await delay(200);
  t.ok((await share(caller, CALLEE_HZ)) > 0.9, 'and after it');
  t.ok((await share(callee, CALLER_HZ)) > 0.9, 'the callee hears the caller');
  caller.hangup();
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
});

t.test('without audio of the callee there is a 180, and no 183', { skip }, async (t) => {
  const callee = await phoneFor(t, { onInvite: 'ring' });
  const { gateway, uri } = await world(t, `<Dial answerOnBridge="true">${sip(callee)}</Dial>`);
  const caller = await phoneFor(t);
  const final = caller.call(uri, gateway.sipPort);
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  await delay(400);
  callee.refuse(404);
  t.match((await final).firstLine, 'SIP/2.0 404');
  t.same(answers(caller), ['SIP/2.0 180 Ringing', 'SIP/2.0 404 Not Found']);
  t.equal(caller.heard().samples.length, 0);
});

t.test('who was heard and refuses is refused to the caller', { skip }, async (t) => {
  const callee = await early(t);
  const { gateway, app, uri } = await world(
    t,
    `<Dial answerOnBridge="true" action="/after"><Sip statusCallback="/told"
      statusCallbackEvent="completed">${callee.uri};transport=udp</Sip></Dial>`,
  );
  app.on('/told', () => '<Response/>');
  const caller = await phoneFor(t);
  const final = caller.call(uri, gateway.sipPort);
  await caller.waitFor(({ firstLine }) => firstLine.startsWith('SIP/2.0 183'));
  await delay(300);
  callee.refuse(486);
  t.match((await final).firstLine, 'SIP/2.0 486');
  const { params } = await app.waitFor('/after');
  t.match(params, { DialCallStatus: 'busy', DialSipResponseCode: '486' });
  const told = await app.waitFor('/told');
  const end = { EndCode: 'CALL_BUSY', EndFault: 'caller', SipReason: 'No' };
  t.match(told.params, { CallStatus: 'busy', SipResponseCode: '486', ...end });
});

t.test(
  'an answered caller hears our ringing tone only where there is no other',
  { skip },
  async (t) => {
    const ringing = await phoneFor(t, { onInvite: 'ring' });
    const first = await early(t);
    const { gateway, uri } = await world(
      t,
      `<Dial sequential="true">${sip(first)}${sip(ringing)}</Dial>`,
    );
    const caller = await phoneFor(t, { sound: tone(CALLER_HZ, 1) });
    t.match((await caller.call(uri, gateway.sipPort)).firstLine, 'SIP/2.0 200');

    await first.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    await delay(400);
    t.ok((await share(caller, CALLEE_HZ)) > 0.9, 'the callee who has something to say');
    t.ok((await share(caller, RINGING_HZ)) < 0.05, 'and nothing else');
    first.refuse(486);
    await ringing.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    await delay(400);
    t.ok((await share(caller, RINGING_HZ)) > 0.3, 'then our tone for the one who only rings');
    ringing.sound = tone(CALLEE_HZ, 1);
    ringing.answer();
    await delay(500);
    t.ok((await share(caller, CALLEE_HZ)) > 0.9, 'until he answers');
    t.ok((await share(ringing, CALLER_HZ)) > 0.9);
    caller.hangup();
    await ringing.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
  },
);

t.test('a whisper is not for the caller, who hears it ring on', { skip }, async (t) => {
  const callee = await early(t);
  const { gateway, app, uri } = await world(
    t,
    `<Dial><Sip url="/whisper">${callee.uri};transport=udp</Sip></Dial>`,
  );
  app.on('/whisper', () => '<Response><Pause length="2"/></Response>');
  const caller = await phoneFor(t);
  t.match((await caller.call(uri, gateway.sipPort)).firstLine, 'SIP/2.0 200');
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  await delay(500);
  t.ok((await share(caller, CALLEE_HZ)) > 0.9);
  callee.answer();
  await app.waitFor('/whisper');
  await delay(300);
  t.ok((await share(caller, CALLEE_HZ)) < 0.05, 'the callee listens to his whisper');
  await delay(1800);
  t.ok((await share(caller, CALLEE_HZ)) > 0.9, 'then they talk');
  caller.hangup();
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
});

const sippSkip = skip || !hasSipp();

t.test(
  'SIPp is heard early and refuses: with P-Early-Media as asked',
  { skip: sippSkip },
  async (t) => {
    const port = 15_300;
    const { gateway, uri } = await world(
      t,
      '<Dial answerOnBridge="true"><Number>+4930555</Number></Dial>',
      port,
    );
    for (const [fields, isHeard] of [
      ['P-Early-Media: sendonly', true],
      ['P-Early-Media: inactive', false],
    ] as const) {
      const callee = startSipp({
        scenario: 'early-refuses',
        ...{ port, mediaPort: 15_304, calls: 1, timeoutSeconds: 15 },
        replace: { fields, expect: 'P-Early-Media: supported', status: '480 Away' },
      });
      await delay(300);
      const caller = await phoneFor(t, { headers: ['P-Early-Media: supported'] });
      t.match((await caller.call(uri, gateway.sipPort)).firstLine, 'SIP/2.0 480');
      const progress = caller.received.find(({ firstLine }) => firstLine.startsWith('SIP/2.0 183'));
      t.equal(progress !== undefined, isHeard, fields);
      if (progress !== undefined) t.equal(header(progress, 'p-early-media'), 'sendonly');
      const result = await callee.done;
      t.equal(result.code, 0, result.output.slice(-2000));
    }
  },
);

t.test('SIPp is heard early and answers', { skip: sippSkip }, async (t) => {
  const port = 15_310;
  const { gateway, uri } = await world(
    t,
    '<Dial answerOnBridge="true"><Number>+4930555</Number></Dial>',
    port,
  );
  const callee = startSipp({
    scenario: 'early-answers',
    ...{ port, mediaPort: 15_314, calls: 1, timeoutSeconds: 15 },
  });
  await delay(300);
  const caller = await phoneFor(t);
  t.match((await caller.call(uri, gateway.sipPort)).firstLine, 'SIP/2.0 200');
  const [progress] = answers(caller).filter((line) => line.startsWith('SIP/2.0 183'));
  t.ok(progress, 'a 183 came before it');
  t.notOk(
    caller.received.some(({ headers }) => headers.has('p-early-media')),
    'not asked for',
  );
  await delay(200);
  caller.hangup();
  const result = await callee.done;
  t.equal(result.code, 0, result.output.slice(-2000));
});
