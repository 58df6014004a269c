/**
 * What each verb makes the legs do and tells the app, as an app's author would see it.
 */
import t from 'tap';
import { newCallRecord } from '../src/call/call-record.ts';
import type { ApplicationSid, CallSid } from '../src/core/sid.ts';
import { resolveUrl } from '../src/verbs/context.ts';
import { sidOf } from '../src/verbs/flow.ts';
import { rfc2822, seconds, standardParameters } from '../src/verbs/parameters.ts';
import { runScenario, SCENARIOS } from './support/flow-scenarios.ts';
import { ACCOUNT } from './support/flow-world.ts';

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

  t.throws(() => resolveUrl('ftp://a/b', document), { code: 'APP_URL' });
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

t.test('durations and dates are told as apps expect them', async (t) => {
  t.same([0, 1, 1499, 1500, 61_000].map(seconds), ['0', '1', '1', '2', '61']);
  t.equal(rfc2822(Date.UTC(2010, 7, 31, 20, 36, 28)), 'Tue, 31 Aug 2010 20:36:28 +0000');
});
