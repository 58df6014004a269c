/**
 * A carrier's worst day, happening: real INVITEs are refused and real calls fail, and the trace of
 * each tells in one sentence, with the key to change, what a dry run tells of the same INVITE.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, header, type Phone, type SipIn, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const NUMBER = '+49301234567';
const CALLER = '+491';
/** Rows are read anew after a change. */
const SETTLE_MS = 150;
/** What the phone offers. */
const PCMU = [
  'v=0',
  'o=- 1 1 IN IP4 127.0.0.1',
  's=-',
  'c=IN IP4 127.0.0.1',
  't=0 0',
  'm=audio 40000 RTP/AVP 0 101',
  'a=rtpmap:0 PCMU/8000',
  'a=rtpmap:101 telephone-event/8000',
  'a=fmtp:101 0-15',
  'a=ptime:20',
  '',
].join('\r\n');

// biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
type Json = any;

interface World {
  readonly gateway: TestGateway;
  readonly trunk: string;
  /** The carrier, as we call it: it rings. */
  readonly carrier: Phone;
  change(form: Record<string, string>): Promise<void>;
  /** The dry run. */
  explain(form: Record<string, string>): Promise<Json>;
  /** A phone of the carrier's that calls us, and what it got. */
  invite(to: string): Promise<{ phone: Phone; answer: SipIn }>;
}

/** A carrier at 127.0.0.1, which is its trunk's as long as InboundAddress says so. */
async function world(t: Test, policy: object = {}): Promise<World> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/voice', () => '<Response><Gather timeout="20"/></Response>');
  const gateway = await startGateway({
    TANDEM_SIP_TRUSTED: '::1/128',
    TANDEM_DRAIN_DEADLINE_MS: '0',
  });
  const carrier = await startPhone({ onInvite: 'ring' });
  const phones = [carrier];
  t.teardown(async () => {
    await gateway.stop();
    await Promise.all(phones.map((phone) => phone.close()));
    await app.close();
  });
  const make = async (path: string, form: Record<string, string>): Promise<string> => {
    const made = await gateway.rest('POST', path, form);
    if (made.status >= 300) throw new Error(`${path}: ${made.text}`);
    await delay(SETTLE_MS);
    return made.json.sid;
  };
  const trunk = await make('Trunks.json', {
    FriendlyName: 'Carrier',
    InboundAddress: '127.0.0.1/32',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${carrier.sipPort}` }]),
    NumberPattern: '+49*',
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...policy }),
  });
  await make('IncomingPhoneNumbers.json', {
    PhoneNumber: NUMBER,
    VoiceUrl: `${app.base}/voice`,
  });
  return {
    ...{ gateway, trunk, carrier },
    change: async (form) => {
      await make(`Trunks/${trunk}.json`, form);
    },
    explain: async (form) => {
      const answer = await gateway.rest('POST', 'Explain.json', { From: CALLER, ...form });
      t.equal(answer.status, 200, answer.text);
      return answer.json;
    },
    invite: async (to) => {
      const phone = await startPhone({ user: CALLER });
      phones.push(phone);
      return { phone, answer: await phone.call(`sip:${to}@127.0.0.1`, gateway.sipPort) };
    },
  };
}

/** A real INVITE is refused as the dry run says, and its trace has the dry run’s sentence. */
async function refusedAsExplained(
  t: Test,
  { gateway, explain, invite }: World,
  given: { to: string; status: number; what: string; keys: readonly string[] },
): Promise<void> {
  const { to, status, what, keys } = given;
  const dry = await explain({ To: to, Source: '127.0.0.1', Sdp: PCMU });
  t.match(dry, { outcome: 'refused', sip_status: status }, `${to}: ${status}`);
  const sentence = String(dry.verdict).replace(`Refused with ${status}: `, '');
  t.ok(sentence.startsWith(`${what}: change `), sentence);
  for (const key of keys) t.match(sentence, key);

  const { answer } = await invite(to);
  t.match(answer.firstLine, new RegExp(`^SIP/2\\.0 ${status} `));
  const callId = encodeURIComponent(header(answer, 'call-id'));
  const { json } = await gateway.rest('GET', `Traces.json?CallId=${callId}`);
  t.equal(json.verdict, sentence, 'in the same words');
  t.match(json, { code: dry.code, sip_status: status, call_sid: null });
  t.same(decisionsOf(json), dry.decisions.map(told), 'after the same comparisons');
}

/** Of a trace: what was compared, and the key of each that failed. */
function decisionsOf({ trace }: Json): string[] {
  const decisions = trace.filter(({ kind }: Json) => kind === 'decision');
  return decisions.map(({ data }: Json) => `${data.text} [${data.detail}]`);
}

function told({ step, ok, what, fix }: Json): string {
  return `${ok ? 'ok' : 'no'} ${step}: ${what} [${fix}]`;
}

t.test('refused INVITEs are traced in the words of the dry run', { skip }, async (t) => {
  const here = await world(t);
  const { trunk, change } = here;

  await refusedAsExplained(t, here, {
    to: '0301234567',
    status: 404,
    what: `0301234567 is no number of ours, but ${NUMBER} is`,
    keys: ['Policy.numbers.inbound', 'Policy.numbers.countryCode', trunk],
  });

  await change({ Policy: JSON.stringify({ codecs: ['opus'] }) });
  await refusedAsExplained(t, here, {
    to: NUMBER,
    status: 488,
    what: 'offered PCMU, the trunk has opus',
    keys: ['Policy.codecs', trunk],
  });

  await change({ InboundAddress: '192.0.2.0/24' });
  await refusedAsExplained(t, here, {
    to: NUMBER,
    status: 403,
    what: `127.0.0.1 is no source of trunk "Carrier" (${trunk})`,
    keys: ['InboundAddress', 'access list'],
  });

  // The keys are the right ones: changed, the same INVITE is taken.
  const numbers = { inbound: 'e164', countryCode: '49', nationalPrefix: '0' };
  await change({
    InboundAddress: '127.0.0.1/32',
    Policy: JSON.stringify({ codecs: ['PCMU'], numbers }),
  });
  const { phone, answer } = await here.invite('0301234567');
  t.match(answer.firstLine, '200');
  phone.hangup();
});

t.test('the call above a limit is traced in the words of the dry run', { skip }, async (t) => {
  const here = await world(t, { limits: { callsInMax: 1, callsOutMax: 1 } });
  const { trunk, gateway, carrier, explain, change } = here;
  const name = `trunk "Carrier" (${trunk})`;

  t.test('in', async (t) => {
    const { phone, answer } = await here.invite(NUMBER);
    t.match(answer.firstLine, '200');
    await refusedAsExplained(t, here, {
      to: NUMBER,
      status: 503,
      what: `${name} has 1 of 1 calls in`,
      keys: ['Policy.limits.callsInMax', trunk],
    });
    await change({ Policy: JSON.stringify({ limits: { callsInMax: 2 } }) });
    const second = await here.invite(NUMBER);
    t.match(second.answer.firstLine, '200', 'with that key changed it is taken');
    for (const one of [phone, second.phone]) one.hangup();
  });

  t.test('out', async (t) => {
    const what = `${name} has 1 of 1 calls out`;
    const form = { To: '+4930', From: CALLER, Twiml: '<Response/>' };
    const first = await gateway.rest('POST', 'Calls.json', form);
    await carrier.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    const dry = await explain({ To: '+4930' });
    t.match(dry, { direction: 'outbound', outcome: 'refused', code: 'TRUNK_LIMIT' });
    t.ok(dry.verdict.startsWith(`Refused with 503: ${what}: change `), dry.verdict);
    t.match(dry.verdict, 'Policy.limits.callsOutMax');

    const { json: placed } = await gateway.rest('POST', 'Calls.json', form);
    const read = async () => (await gateway.rest('GET', `Calls/${placed.sid}.json`)).json;
    for (let tries = 0; tries < 40 && (await read()).status !== 'failed'; tries += 1) {
      await delay(50);
    }
    t.match(await read(), { status: 'failed', end_code: 'TRUNK_LIMIT', sip_status: 503 });
    const { json } = await gateway.rest('GET', `Calls/${placed.sid}/Trace.json`);
    t.same(decisionsOf(json), dry.decisions.map(told), 'after the same comparisons');
    const failed = json.trace.find(({ data }: Json) => data.text.startsWith('no '));
    const { text, detail } = failed.data;
    t.equal(text, `no limit: ${what}`);
    t.equal(detail, `Policy.limits.callsOutMax of trunk ${trunk}`);
    await gateway.rest('POST', `Calls/${first.json.sid}.json`, { Status: 'completed' });
  });
});
