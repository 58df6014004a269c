/**
 * What a trunk says of media, on a whole gateway: packet times as they are on the wire, SRTP that
 * is off, preferred or required, keys as events, in INFO or as tones. Every refusal says why.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { startGateway, type TestGateway } from './support/gateway.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
import { toneShare } from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const NUMBER = '+4930100';
const CRYPTO = 'a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz';

async function gatewayFor(t: Test): Promise<TestGateway> {
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '::1/128' });
  t.teardown(() => gateway.stop());
  return gateway;
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

/** A trunk for calls both ways, from this machine and to `port`; changed by `setPolicy`. */
async function trunkFor(gateway: TestGateway, port: number, policy: TrunkPolicyChange) {
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    InboundAddress: '127.0.0.1',
    NumberPattern: '+49*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${port};transport=udp` }]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...policy }),
  });
  if (made.status !== 201) throw new Error(made.text);
  return made.json.sid as string;
}

async function setPolicy(gateway: TestGateway, trunk: string, policy: TrunkPolicyChange) {
  const set = await gateway.rest('POST', `Trunks/${trunk}.json`, {
    Policy: JSON.stringify(policy),
  });
  if (set.status !== 200) throw new Error(set.text);
}

async function numberFor(gateway: TestGateway): Promise<string> {
  const made = await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: NUMBER,
    VoiceUrl: `${gateway.httpBase}/demo/voice`,
  });
  if (made.status !== 201) throw new Error(made.text);
  return `sip:${NUMBER}@127.0.0.1:${gateway.sipPort}`;
}

async function place(gateway: TestGateway, twiml: string, more: Record<string, string> = {}) {
  const { json, text } = await gateway.rest('POST', 'Calls.json', {
    To: '+4930123',
    From: '+4930999',
    Twiml: `<Response>${twiml}</Response>`,
    ...more,
  });
  if (json?.sid === undefined) throw new Error(text);
  return json.sid as string;
}

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
async function until(gateway: TestGateway, sid: string, statuses: readonly string[]): Promise<any> {
  for (let tries = 0; tries < 200; tries += 1) {
    const { json } = await gateway.rest('GET', `Calls/${sid}.json`);
    if (statuses.includes(json.status)) return json;
    await delay(50);
  }
  throw new Error(`call ${sid} did not become ${statuses.join(', ')}`);
}

const OVER = ['completed', 'busy', 'failed', 'no-answer', 'canceled'];

async function hangUp(gateway: TestGateway, sid: string): Promise<void> {
  await gateway.rest('POST', `Calls/${sid}.json`, { Status: 'completed' });
  await until(gateway, sid, OVER);
}

async function traceOf(gateway: TestGateway, sid: string): Promise<string> {
  const { json } = await gateway.rest('GET', `Calls/${sid}/Trace.json`);
  return json.trace
    .map((line: { kind: string; data: { text: string; detail: string } }) => {
      return `${line.kind} ${line.data.text} (${line.data.detail})`;
    })
    .join('\n');
}

async function refusalOf(gateway: TestGateway, callId: string) {
  const path = `Traces.json?CallId=${encodeURIComponent(callId)}`;
  return (await gateway.rest('GET', path)).json;
}

function inviteTo(phone: Phone): string {
  return phone.received.find(({ firstLine }) => firstLine.startsWith('INVITE'))?.body ?? '';
}

t.test('packets are as long as the trunk says, and as the peer asks', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  for (const [ptimeMs, lines, wants] of [
    [10, [], 10],
    [30, [], 30],
    [60, [], 60],
    [60, ['a=ptime:20'], 20],
    [20, ['a=ptime:40', 'a=maxptime:30'], 30],
  ] as const) {
    const callee = await phoneFor(t, { media: { lines } });
    const trunk = await trunkFor(gateway, callee.sipPort, { ptimeMs });
    const sid = await place(gateway, '<Play digits="wwwwww"/><Pause length="20"/>');
    await until(gateway, sid, ['in-progress']);
    await delay(600);
    t.match(inviteTo(callee), new RegExp(`^a=ptime:${ptimeMs}\r$`, 'm'));
    t.same([...callee.packetMs], [wants], `ptime ${ptimeMs}, answered with ${lines.join()}`);
    await hangUp(gateway, sid);
    await gateway.rest('DELETE', `Trunks/${trunk}.json`);
  }
  const caller = await phoneFor(t, { media: { lines: [] } });
  await trunkFor(gateway, caller.sipPort, { ptimeMs: 30 });
  const uri = await numberFor(gateway);
  const answered = await caller.call(uri, gateway.sipPort);
  t.match(answered.body, /^a=ptime:30\r$/m);
  await delay(400);
  t.same([...caller.packetMs], [30]);
  caller.hangup();
});

t.test('SRTP is refused, done without or asked for, as the trunk says', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  const trunk = await trunkFor(gateway, 9, {});
  const uri = await numberFor(gateway);
  const offers = {
    none: {},
    keys: { lines: [CRYPTO] },
    only: { profile: 'RTP/SAVP', lines: [CRYPTO] },
  } as const;
  const fix = `Policy.srtp of trunk ${trunk}, or what is offered`;
  for (const [srtp, offer, code, why] of [
    ['off', 'none', '', ''],
    ['off', 'keys', '', ''],
    ['off', 'only', 'SRTP_OFF', 'SRTP is off for this trunk (policy.srtp)'],
    ['preferred', 'keys', '', ''],
    ['preferred', 'only', 'SRTP_UNSUPPORTED', 'this node cannot carry SRTP'],
    ['required', 'none', 'SRTP_REQUIRED', 'none is offered'],
    ['required', 'keys', 'SRTP_UNSUPPORTED', 'this node cannot carry SRTP'],
    ['required', 'only', 'SRTP_UNSUPPORTED', 'this node cannot carry SRTP'],
  ] as const) {
    const name = `${srtp}, offered ${offer}`;
    await setPolicy(gateway, trunk, { srtp });
    const caller = await phoneFor(t, { media: offers[offer] });
    const final = await caller.call(uri, gateway.sipPort);
    if (code === '') {
      t.match(final.firstLine, 'SIP/2.0 200', name);
      t.match(final.body, /m=audio \d+ RTP\/AVP 0/);
      t.notMatch(final.body, /crypto/);
      caller.hangup();
      continue;
    }
    t.match(final.firstLine, 'SIP/2.0 488', name);
    t.ok(header(final, 'warning').startsWith('302 tandem "'), header(final, 'warning'));
    t.ok(header(final, 'warning').includes(why), header(final, 'warning'));
    const told = await refusalOf(gateway, header(final, 'call-id'));
    t.match(told, { code, sip_status: 488 });
    t.ok(told.verdict.includes(fix), told.verdict);
  }
});

t.test('a trunk that requires SRTP is sent no INVITE in the clear', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  const callee = await phoneFor(t);
  const trunk = await trunkFor(gateway, callee.sipPort, { srtp: 'required' });
  const sid = await place(gateway, '<Pause length="20"/>');
  const call = await until(gateway, sid, OVER);
  t.match(call, { status: 'failed', end_code: 'SRTP_UNSUPPORTED', sip_status: 488 });
  t.equal(inviteTo(callee), '');
  t.match(await traceOf(gateway, sid), `Policy.srtp of trunk ${trunk}`);

  await setPolicy(gateway, trunk, { srtp: 'preferred' });
  const next = await place(gateway, '<Pause length="20"/>');
  await until(gateway, next, ['in-progress']);
  t.match(inviteTo(callee), /m=audio \d+ RTP\/AVP /);
  t.match(await traceOf(gateway, next), 'would have SRTP: plain RTP is offered');
  await hangUp(gateway, next);
});

t.test('keys go as the trunk takes them', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  for (const dtmf of ['rfc4733', 'info', 'inband'] as const) {
    const callee = await phoneFor(t);
    const trunk = await trunkFor(gateway, callee.sipPort, { dtmf });
    const sid = await place(gateway, '<Play digits="5w#"/><Pause length="20"/>');
    await until(gateway, sid, ['in-progress']);
    await delay(1800);
    t.equal(/telephone-event/.test(inviteTo(callee)), dtmf === 'rfc4733', `${dtmf} is offered`);
    const infos = callee.received.filter(({ firstLine }) => firstLine.startsWith('INFO'));
    t.same(
      infos.map(({ body, headers }) => [headers.get('content-type')?.[0], body]),
      dtmf === 'info'
        ? ['5', '#'].map((key) => {
            return ['application/dtmf-relay', `Signal=${key}\r\nDuration=160\r\n`];
          })
        : [],
    );
    t.same(callee.keysHeard, dtmf === 'rfc4733' ? ['5', '#'] : []);
    const heard = callee.heard();
    // Of 5: 770 and 1336 Hz.
    const start = heard.samples.findIndex((sample) => Math.abs(sample) > 0.05);
    const key = { rateHz: 8000, samples: heard.samples.subarray(start, start + 480) };
    if (dtmf === 'inband') t.ok(toneShare(key, 770) + toneShare(key, 1336) > 0.8, 'as a tone');
    else t.equal(start, -1, 'nothing in the audio');
    await hangUp(gateway, sid);
    await gateway.rest('DELETE', `Trunks/${trunk}.json`);
  }
});

t.test('SIPp offers SRTP: taken in plain, and refused', { skip: skip || !hasSipp() }, async (t) => {
  const gateway = await gatewayFor(t);
  const trunk = await trunkFor(gateway, 9, { srtp: 'preferred' });
  const uri = await numberFor(gateway);
  const run = (scenario: string, profile: string, expect: string) =>
    startSipp({
      scenario,
      port: 15_280,
      mediaPort: 15_284,
      target: `127.0.0.1:${gateway.sipPort}`,
      calls: 1,
      timeoutSeconds: 15,
      replace: {
        ...{ uri, profile, expect, line: CRYPTO, status: '488' },
        ...{ from: '<sip:+4930999@127.0.0.1>', fields: 'Supported: timer' },
      },
    }).done;
  const taken = await run('carrier-calls', 'RTP/AVP', 'm=audio [0-9]+ RTP/AVP 0');
  t.equal(taken.code, 0, taken.output.slice(-2000));
  await setPolicy(gateway, trunk, { srtp: 'off' });
  const why = 'Warning: 302 tandem .SRTP is off for this trunk';
  const refused = await run('carrier-call-refused', 'RTP/SAVP', why);
  t.equal(refused.code, 0, refused.output.slice(-2000));
});
