/** Why a call ends because another one did: what its peer is told, and in which words. */
import t from 'tap';
import { type CallEnd, type CallRecord, newCallRecord } from '../src/call/call-record.ts';
import { causeOf, localEnd, reasonsOf } from '../src/call/leg-signal.ts';
import { refusalFields, whyEnds } from '../src/call/told-end.ts';
import type { AccountSid, CallSid } from '../src/core/sid.ts';
import type { SessionEnd } from '../src/sip/session-report.ts';

const sid = (name: string): CallSid => `CA${name}` as CallSid;

function call(name: string, more: Partial<CallRecord> = {}): CallRecord {
  return newCallRecord({
    sid: sid(name),
    accountSid: 'AC' as AccountSid,
    direction: 'inbound',
    from: '+1',
    to: '+2',
    status: 'ringing',
    createdAtMs: 0,
    ...more,
  });
}

function ended(more: Partial<CallEnd>): Partial<CallRecord> {
  const end: CallEnd = {
    status: 'failed',
    code: 'SIP_REFUSED',
    fault: 'carrier',
    by: 'remote',
    sipStatus: 500,
    reason: '',
    sipHeaders: {},
    durationMs: 0,
    stats: null,
    ...more,
  };
  return { end, endedAtMs: 1 };
}

function world(...calls: readonly CallRecord[]): (sid: CallSid) => CallRecord | null {
  return (wanted) => calls.find((one) => one.sid === wanted) ?? null;
}

const PARENT = { childSids: [sid('b'), sid('c')] };
const CHILD = { parentCallSid: sid('a'), direction: 'outbound-dial' } as const;
const BUSY = ended({
  code: 'CALL_BUSY',
  sipStatus: 486,
  sipHeaders: { Reason: 'Q.850;cause=17;text="User busy"' },
});

t.test('a caller is refused as the last call for him was', async (t) => {
  const a = call('a', PARENT);
  const find = world(a, call('b', CHILD), call('c', { ...CHILD, ...BUSY }));
  const busy = {
    code: 'CALL_BUSY',
    sipStatus: 486,
    reasons: [{ protocol: 'Q.850', cause: 17, text: 'User busy' }],
  };
  t.strictSame(whyEnds(a, 'CALL_COMPLETED', find), busy);
  t.strictSame(whyEnds(a, 'CALL_REJECTED', find), busy);
  t.equal(whyEnds(a, 'CALL_BUSY', find), null, 'an application that says more is heard');
  t.equal(whyEnds(a, 'DRAINING', find), null);
});

t.test('what a carrier does not say is said for it', async (t) => {
  const a = call('a', PARENT);
  const of = (end: Partial<CallEnd>): object | null =>
    whyEnds(a, 'CALL_REJECTED', world(a, call('c', { ...CHILD, ...ended(end) })));
  t.match(of({ sipStatus: 404 }), {
    sipStatus: 404,
    reasons: [{ protocol: 'Q.850', cause: 1, text: 'Unallocated number' }],
  });
  t.match(of({ code: 'CALL_NO_ANSWER', by: 'local', sipStatus: 408 }), {
    code: 'CALL_NO_ANSWER',
    sipStatus: 408,
    reasons: [{ cause: 19 }],
  });
  t.match(of({ sipStatus: 503, sipHeaders: { reason: 'Q.850;cause=34' } }), {
    sipStatus: 500,
    reasons: [{ cause: 34 }],
  });
  t.equal(of({ code: 'CALL_CANCELED', sipStatus: 487 }), null, 'we gave that one up ourselves');
});

t.test('when a gateway wants to be asked again is told to the caller, within reason', async (t) => {
  const a = call('a', PARENT);
  const of = (sipStatus: number, retryAfter: string, by: CallEnd['by'] = 'remote') => {
    const end = ended({ by, sipStatus, sipHeaders: { 'Retry-After': retryAfter } });
    return whyEnds(a, 'CALL_COMPLETED', world(a, call('c', { ...CHILD, ...end }))) ?? undefined;
  };
  const told = (...[status, text, by]: Parameters<typeof of>): string[] =>
    refusalFields('SIP_REFUSED', 'x', of(status, text, by))
      .filter(([name]) => name === 'Retry-After')
      .map(([, value]) => value);

  t.strictSame(told(503, '17'), ['17']);
  t.strictSame(told(503, '18000;duration=3600'), ['300'], 'not for hours');
  t.strictSame(told(503, 'soon'), []);
  t.strictSame(told(500, '17'), [], 'another status has said nothing of the gateway');
  t.strictSame(told(503, '17', 'local'), []);
  const full = refusalFields('OVERLOADED', 'x', of(503, '17'));
  t.strictSame(
    full.filter(([name]) => name === 'Retry-After'),
    [['Retry-After', '17']],
    'once',
  );
});

t.test('a phone hears why its caller went, or that another one was faster', async (t) => {
  const gone = ended({ code: 'CALL_CANCELED', sipHeaders: { Reason: 'SIP;cause=31;text="x"' } });
  const b = call('b', CHILD);
  t.match(whyEnds(b, 'CALL_CANCELED', world(call('a', { ...PARENT, ...gone }), b)), {
    code: 'CALL_CANCELED',
    reasons: [{ protocol: 'SIP', cause: 31, text: 'x' }],
  });
  const winner = call('c', { ...CHILD, answeredAtMs: 5 });
  t.match(whyEnds(b, 'CALL_CANCELED', world(call('a', PARENT), b, winner)), {
    reasons: [{ protocol: 'SIP', cause: 200, text: 'Call completed elsewhere' }],
  });
  t.equal(whyEnds(b, 'CALL_NO_ANSWER', world(call('a', PARENT), b, winner)), null);
  const former = call('c', { ...CHILD, answeredAtMs: 5, ...ended({}) });
  t.equal(whyEnds(b, 'CALL_CANCELED', world(call('a', PARENT), b, former)), null);
  const ours = ended({ by: 'local', sipHeaders: { Reason: 'SIP;cause=31' } });
  t.equal(whyEnds(b, 'CALL_CANCELED', world(call('a', { ...PARENT, ...ours }), b)), null);
  t.equal(whyEnds(b, 'CALL_CANCELED', world(b)), null, 'nobody knows the caller any more');
});

t.test('who hung up on the partner tells the other one why', async (t) => {
  const a = call('a', { childSids: [sid('b')], answeredAtMs: 1 });
  const of = (more: Partial<CallRecord>): object | null =>
    whyEnds(a, 'CALL_COMPLETED', world(a, call('b', { ...CHILD, ...more })));
  const left = ended({ code: 'CALL_COMPLETED', sipHeaders: { Reason: 'Q.850;cause=41' } });
  t.match(of({ answeredAtMs: 1, ...left }), { sipStatus: 0, reasons: [{ cause: 41 }] });
  t.equal(of({ answeredAtMs: 1, ...ended({}) }), null, 'without a reason ours is plain');
  t.equal(of(BUSY), null, 'it was never joined with that one');
});

t.test('our own ends in the words of Q.850', async (t) => {
  const cause = (code: Parameters<typeof reasonsOf>[0]): number | null | undefined =>
    reasonsOf(code)[0]?.cause;
  t.equal(cause('CALL_COMPLETED'), 16);
  t.equal(cause('CALL_TIME_LIMIT'), 16);
  t.equal(cause('CALL_NO_ANSWER'), 19);
  t.equal(cause('CALL_BUSY'), 17);
  t.equal(cause('DRAINING'), 41);
  t.strictSame(reasonsOf('CALL_CANCELED'), []);
});

t.test('how a leg ended, by status and cause', async (t) => {
  const end = (more: Partial<SessionEnd>): SessionEnd => ({
    by: 'remote',
    code: 'SIP_REFUSED',
    status: 500,
    reason: '',
    headers: [],
    ...more,
  });
  t.equal(causeOf(end({ headers: [['Reason', 'Q.850;cause=17']] }), false), 'CALL_BUSY');
  t.equal(causeOf(end({ status: 480 }), false), 'CALL_NO_ANSWER');
  t.equal(causeOf(end({ status: 603 }), false), 'SIP_REFUSED');
  t.equal(causeOf(end({ status: 200, code: 'CALL_COMPLETED' }), false), 'CALL_COMPLETED');
  t.equal(causeOf(end({ status: 200 }), true), 'CALL_COMPLETED');
  t.equal(causeOf(end({ by: 'timeout', code: 'SIP_TIMEOUT', status: 408 }), false), 'SIP_TIMEOUT');
  t.equal(causeOf(localEnd('NO_TRUNK', ''), false), 'NO_TRUNK');
});
