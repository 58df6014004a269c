/**
 * What each verb makes the legs do and tells the app, as an app's author would see it.
 */
import t from 'tap';
import {
  type CallRecord,
  newCallRecord,
  type StatusCallbackEvent,
} from '../src/call/call-record.ts';
import { Secret } from '../src/core/log.ts';
import type { ApplicationSid, CallSid } from '../src/core/sid.ts';
import { readCallToken } from '../src/verbs/call-token.ts';
import { resolveUrl } from '../src/verbs/context.ts';
import { DEFAULT_DOCUMENT_CACHE, DocumentCache } from '../src/verbs/document-cache.ts';
import { Interruption, sidOf } from '../src/verbs/flow.ts';
import { rfc2822, seconds, standardParameters } from '../src/verbs/parameters.ts';
import { StatusCallbacks } from '../src/verbs/status-callbacks.ts';
import { DEFAULT_XML_LIMITS } from '../src/verbs/xml.ts';
import { runScenario, SCENARIOS } from './support/flow-scenarios.ts';
import { ACCOUNT } from './support/flow-world.ts';

/** Sent, and empty, as what they say is not known here. */
const UNKNOWN_PLACES = {
  FromCity: '',
  FromState: '',
  FromZip: '',
  FromCountry: '',
  ToCity: '',
  ToState: '',
  ToZip: '',
  ToCountry: '',
  CallerCity: '',
  CallerState: '',
  CallerZip: '',
  CallerCountry: '',
  CalledCity: '',
  CalledState: '',
  CalledZip: '',
  CalledCountry: '',
};

for (const scenario of SCENARIOS) {
  t.test(scenario.name, async (t) => {
    const world = await runScenario(scenario);

    t.same(world.effects, scenario.effects, 'what the legs did');
    t.same(world.asked, scenario.asked, 'what the app was asked');
    t.same(world.told, scenario.told ?? [], 'what the app was told');
    const numbers = world.reports.map(({ number }) => number);
    t.same(numbers, scenario.reports ?? [], 'what was reported');
    const { end } = scenario;
    if (end !== undefined) t.equal(world.ended.at(-1)?.end?.code, end, 'how the call ended');
    t.equal(world.calls.length, 0, 'no call is left');
    t.equal(world.held, 0, 'no prompt is held any more');
    t.ok(
      [...world.recordings.values()].every((entry) => entry !== null),
      'no recording is open',
    );
  });
}

t.test('parameters that go with every request', async (t) => {
  const call = newCallRecord({
    sid: `CA${'1'.repeat(32)}` as CallSid,
    accountSid: ACCOUNT,
    direction: 'outbound-dial',
    from: '+15550002',
    to: 'sip:bob@example.com',
    status: 'in-progress',
    createdAtMs: 0,
    parentCallSid: `CA${'2'.repeat(32)}` as CallSid,
    callerName: 'Ann',
    forwardedFrom: '+15550009',
    application: {
      applicationSid: `AP${'3'.repeat(32)}` as ApplicationSid,
      url: null,
      method: 'POST',
      fallbackUrl: null,
      fallbackMethod: 'POST',
      document: null,
    },
    sip: {
      callId: 'abc',
      domain: 'example.com',
      sourceAddress: '192.0.2.1',
      headers: { 'X-One': '1' },
    },
  });

  t.same(standardParameters(call), {
    CallSid: call.sid,
    AccountSid: ACCOUNT,
    From: '+15550002',
    To: 'sip:bob@example.com',
    Caller: '+15550002',
    Called: 'sip:bob@example.com',
    ...UNKNOWN_PLACES,
    CallStatus: 'in-progress',
    ApiVersion: '2010-04-01',
    Direction: 'outbound-dial',
    ParentCallSid: call.parentCallSid,
    ForwardedFrom: '+15550009',
    CallerName: 'Ann',
    ApplicationSid: call.application?.applicationSid,
    SipCallId: 'abc',
    SipDomain: 'example.com',
    SipSourceIp: '192.0.2.1',
    'SipHeader_X-One': '1',
  });
});

t.test('a call that came has a token that only its account can have made', async (t) => {
  const key = new Secret('the token of the account');
  const record = newCallRecord({
    sid: `CA${'1'.repeat(32)}` as CallSid,
    accountSid: ACCOUNT,
    direction: 'inbound',
    from: '+15550001',
    to: '+15550002',
    status: 'ringing',
    createdAtMs: 0,
  });

  const { CallToken: token = '' } = standardParameters(record, key);

  t.same(readCallToken(token, key), { callSid: record.sid, from: '+15550001' });
  t.equal(readCallToken(token, new Secret('another')), null);
  for (const bad of ['', '.', 'x.y', `${token}x`, `x${token}`, `${token}.`, token.slice(1)]) {
    t.equal(readCallToken(bad, key), null, bad);
  }
  t.notOk('CallToken' in standardParameters({ ...record, direction: 'outbound-api' }, key));
  t.notOk('CallToken' in standardParameters(record));
});

t.test('a call that has nothing to say about itself says nothing', async (t) => {
  const call = newCallRecord({
    sid: `CA${'1'.repeat(32)}` as CallSid,
    accountSid: ACCOUNT,
    direction: 'inbound',
    from: 'a',
    to: 'b',
    status: 'ringing',
    createdAtMs: 0,
  });

  t.notMatch(Object.keys(standardParameters(call)).join(), /Parent|Forwarded|CallerName|Sip/);
});

t.test('URLs of a document are resolved against it, absolute ones left as written', async (t) => {
  const document = { text: '', url: 'http://a/b/c?d=1', method: 'POST', isLast: false } as const;
  const inline = { ...document, url: null };
  const table: readonly (readonly [string | null, string])[] = [
    [null, 'http://a/b/c?d=1'],
    ['', 'http://a/b/c?d=1'],
    ['x', 'http://a/b/x'],
    ['/x?y#rc=2', 'http://a/x?y#rc=2'],
    ['?y', 'http://a/b/c?y'],
    ['//h/x', 'http://h/x'],
    ["HTTPS://user:p@H/x?a='b'#rt=5", "HTTPS://user:p@H/x?a='b'#rt=5"],
  ];
  for (const [url, resolved] of table) t.equal(resolveUrl(url, document), resolved, String(url));

  t.throws(() => resolveUrl('ftp://u:CANARY@a/b?CANARY', document), {
    code: 'APP_URL',
    message: 'invalid URL ftp://a/b',
  });
  t.throws(() => resolveUrl('http://u:CANARY@a b/c', document), {
    message: 'invalid URL http://a b/c',
  });
  t.throws(() => resolveUrl('javascript:alert(1)', document), { code: 'APP_URL' });
  t.throws(() => resolveUrl('http://', document), { code: 'APP_URL' });
  t.throws(() => resolveUrl('/x', inline), { code: 'RELATIVE_ACTION' });
  t.throws(() => resolveUrl(null, inline), { code: 'APP_URL' });
});

t.test('sids made of a place are well-formed, and differ where places differ', async (t) => {
  const call = `CA${'1'.repeat(32)}` as CallSid;

  t.match(sidOf('RE', call, 'v1.0'), /^RE[0-9a-f]{32}$/);
  t.equal(sidOf('CA', call, 'v1.0.0.0'), sidOf('CA', call, 'v1.0.0.0'));
  t.not(sidOf('CA', call, 'v1.0.0.0'), sidOf('CA', call, 'v1.0.0.1'));
});

/** What a receiver is told of the course of one call: number, status. */
function toldOf(
  events: readonly StatusCallbackEvent[],
  direction: CallRecord['direction'],
  course: readonly Partial<CallRecord>[],
): string[] {
  const told: string[] = [];
  const status = new StatusCallbacks({
    callbacks: {
      send: ({ params }) => {
        const found = Object.fromEntries(params);
        told.push(`${found.SequenceNumber} ${found.CallStatus}`);
      },
    },
    authToken: () => new Secret('x'),
  });
  let call = newCallRecord({
    sid: `CA${'1'.repeat(32)}` as CallSid,
    accountSid: ACCOUNT,
    direction,
    from: 'a',
    to: 'b',
    status: direction === 'inbound' ? 'ringing' : 'queued',
    createdAtMs: 0,
    statusCallback: { url: 'http://app/s', method: 'POST', events },
  });
  status.take({ type: 'call.created', atMs: 0, call });
  for (const change of course) {
    call = { ...call, ...change, statusNo: call.statusNo + 1 };
    status.take({ type: change.end ? 'call.completed' : 'call.status', atMs: 0, call });
  }
  return told;
}

t.test('sequence numbers start at 0 and count what the receiver asked for', async (t) => {
  const all = ['initiated', 'ringing', 'answered', 'completed'] as const;
  const initiated = { status: 'initiated' } as const;
  const ringing = { status: 'ringing', ringingAtMs: 1 } as const;
  const answered = { status: 'in-progress', answeredAtMs: 2 } as const;
  const end = { durationMs: 0, sipStatus: 0 } as NonNullable<CallRecord['end']>;
  const completed = { status: 'completed', end } as const;
  const whole = [initiated, ringing, answered, completed];

  t.same(toldOf(all, 'outbound-api', whole), [
    '0 initiated',
    '1 ringing',
    '2 in-progress',
    '3 completed',
  ]);
  t.same(toldOf(['completed'], 'outbound-api', whole), ['0 completed']);
  t.same(toldOf(['answered', 'completed'], 'outbound-dial', whole), [
    '0 in-progress',
    '1 completed',
  ]);
  t.same(toldOf(all, 'outbound-api', [initiated, answered, completed]), [
    '0 initiated',
    '1 in-progress',
    '2 completed',
  ]);
  t.same(toldOf(all, 'outbound-api', [{ status: 'failed', end }]), ['0 failed']);
  t.same(toldOf(all, 'inbound', [answered, completed]), [
    '0 ringing',
    '1 in-progress',
    '2 completed',
  ]);
});

t.test(
  'a document is read once for all calls that are given it, and never a bad one',
  async (t) => {
    let reads = 0;
    const readers = new Map([['Say', () => ++reads]]);
    const options = { ...DEFAULT_DOCUMENT_CACHE, documentsMax: 2 };
    const cache = new DocumentCache({ readers, limits: DEFAULT_XML_LIMITS, options });
    const text = (words: string): string => `<Response><Say>${words}</Say></Response>`;

    t.equal(cache.read(text('a'), 'u'), cache.read(text('a'), 'elsewhere'));
    cache.read(text('b'), 'u');
    cache.read(text('c'), 'u');
    cache.read(text('a'), 'u');
    t.equal(reads, 4, 'what was pushed out is read anew');
    t.throws(() => cache.read('<Response>', 'u'), { code: 'DOC_PARSE' });
    t.throws(() => cache.read('<Response>', 'u'), { code: 'DOC_PARSE' });
  },
);

t.test('a ringing tone is stopped only where one sounded', async (t) => {
  for (const scenario of SCENARIOS.filter(({ name }) => name.startsWith('Dial'))) {
    t.same((await runScenario(scenario)).needlessStops, [], scenario.name);
  }
});

t.test('the end of a wait costs no stack', async (t) => {
  t.equal(Interruption.of('ended'), Interruption.of('ended'));
  t.match(Interruption.of('ended'), { why: 'ended', message: 'interrupted: ended' });
  t.notMatch(Interruption.of('ended').stack, /\bat /);
});

t.test('durations and dates are told as apps expect them', async (t) => {
  t.same([0, 1, 1499, 1500, 61_000].map(seconds), ['0', '1', '1', '2', '61']);
  t.equal(rfc2822(Date.UTC(2010, 7, 31, 20, 36, 28)), 'Tue, 31 Aug 2010 20:36:28 +0000');
});
