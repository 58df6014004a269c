/**
 * Whom a call is told to come from when it goes on to an address instead of a trunk, what its
 * record says of the account's numbers, and that nothing begins before the node is up. Real
 * endpoint and media.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { LiveCallControl, type LiveCallControlOptions } from '../src/api/call-control.ts';
import type { Call } from '../src/call/call.ts';
import { callRow } from '../src/call/ledger.ts';
import { Router } from '../src/call/router.ts';
import { realClock } from '../src/core/clock.ts';
import { Metrics } from '../src/core/metrics.ts';
import type { CallSid, NumberSid } from '../src/core/sid.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import {
  ACCOUNT,
  APPLICATION,
  type CallNode,
  ended,
  type NodeOptions,
  startNode,
} from './support/call-node.ts';
import { header, type Phone, type PhoneOptions, type SipIn, startPhone } from './support/phone.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

async function setUp(t: Test, options: NodeOptions = {}): Promise<CallNode> {
  const node = await startNode({ mediaPorts: [24_600, 24_799], ...options });
  t.teardown(() => node.close());
  return node;
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

function invited(phone: Phone): Promise<SipIn> {
  return phone.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
}

function dial(node: CallNode, call: Call, uri: string, callerId: string | null = null): Call {
  return node.router.dial({
    parentCallSid: call.sid,
    target: { kind: 'sip', uri, credentials: null, headers: [['X-Team', 'blue']] },
    callerId,
    ringTimeoutMs: 10_000,
    statusCallback: null,
  });
}

/** Everybody is believed: what calls come by is a trunk that says who calls and who is withheld. */
const TRUSTING = trunkRoute({ policy: { identity: { trust: true } } });

async function trusting(t: Test): Promise<CallNode> {
  return setUp(t, {
    inbound: (user) => ({
      kind: 'application',
      accountSid: ACCOUNT,
      application: APPLICATION,
      statusCallback: null,
      to: user,
      from: '',
      trunkSid: TRUSTING.sid,
      trunk: TRUSTING,
    }),
  });
}

t.test(
  'a withheld caller is withheld from a phone that is dialled by its address',
  { skip },
  async (t) => {
    const node = await trusting(t);
    const caller = await phoneFor(t, {
      user: '+4930111',
      headers: [
        'P-Asserted-Identity: "Ann" <sip:+4930111@127.0.0.1>',
        'Privacy: id',
        'User-to-User: 56a390f3d2b7310023;encoding=hex',
      ],
    });
    const callee = await phoneFor(t, { user: 'bob', onInvite: 486 });
    void caller.call(`sip:+4930222@127.0.0.1:${node.sipPort}`, node.sipPort);
    const call = await node.nextCall();

    const child = dial(node, call, callee.uri);

    const invite = await invited(callee);
    t.equal(header(invite, 'privacy'), 'id');
    t.notMatch(invite.headers.get('from')?.join(), /4930111|Ann/);
    t.match(header(invite, 'user-to-user'), '56a390f3d2b7310023', 'what he sends along goes along');
    t.equal(header(invite, 'x-team'), 'blue');
    await ended(child);
    call.hangup();
    await ended(call);
  },
);

t.test('the name of a caller goes on with his number, and with no other', { skip }, async (t) => {
  const node = await trusting(t);
  const identity = 'P-Asserted-Identity: "Ann" <sip:+4930111@127.0.0.1>';
  const caller = await phoneFor(t, { user: '+4930111', headers: [identity] });
  void caller.call(`sip:+4930222@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const fromOf = async (callerId: string | null): Promise<string> => {
    const callee = await phoneFor(t, { user: 'bob', onInvite: 486 });
    const child = dial(node, call, callee.uri, callerId);
    const invite = await invited(callee);
    await ended(child);
    return header(invite, 'from');
  };

  t.match(await fromOf(null), /^"Ann" <sip:\+4930111@/);
  t.match(await fromOf('+4930999'), /^<sip:\+4930999@/);
  call.hangup();
  await ended(call);
});

t.test('a call that goes on from another shows its caller as that one did', { skip }, async (t) => {
  const node = await trusting(t);
  const identity = 'P-Asserted-Identity: "Ann" <sip:+4930111@127.0.0.1>';
  const caller = await phoneFor(t, { user: '+4930111', headers: [identity, 'Privacy: none'] });
  void caller.call(`sip:+4930222@127.0.0.1:${node.sipPort}`, node.sipPort);
  const call = await node.nextCall();
  const callee = await phoneFor(t, { user: 'bob', onInvite: 486 });

  const onward = node.router.originate({
    accountSid: ACCOUNT,
    from: '+4930111',
    application: APPLICATION,
    target: { kind: 'sip', uri: callee.uri, credentials: null, headers: [] },
    ringTimeoutMs: 10_000,
    statusCallback: null,
    forwards: call.sid,
  });

  const invite = await invited(callee);
  t.match(header(invite, 'from'), /^"Ann" <sip:\+4930111@/);
  t.equal(header(invite, 'max-forwards'), '69', 'a loop by way of it must end too');
  await ended(onward);
  call.hangup();
  await ended(call);
});

t.test('a call has no start before it is placed, and the number it is of', { skip }, async (t) => {
  const sid = `PN${'7'.repeat(32)}` as NumberSid;
  const node = await setUp(t);
  const callee = await phoneFor(t, { user: 'bob', onInvite: 486 });
  node.routerDeps.routes.numberSid = (_account, number) => (number === '+4930999' ? sid : null);

  const call = node.router.originate({
    accountSid: ACCOUNT,
    from: '+4930999',
    application: APPLICATION,
    target: { kind: 'sip', uri: callee.uri, credentials: null, headers: [] },
    ringTimeoutMs: 10_000,
    statusCallback: null,
  });
  const before = callRow(call.record, 0);
  await ended(call);
  const after = callRow(call.record, 0);

  t.match(before, { startMs: null, phoneNumberSid: sid });
  t.ok((after.startMs ?? 0) >= call.record.createdAtMs);
});

t.test(
  'a call asked for before the node is up is refused so that it is asked again',
  { skip },
  async (t) => {
    const node = await setUp(t);
    const router = new Router({ ...node.routerDeps, metrics: new Metrics() });
    const request = {
      accountSid: ACCOUNT,
      from: '+4930999',
      application: APPLICATION,
      target: { kind: 'number', number: '+4930123' } as const,
      ringTimeoutMs: 10_000,
      statusCallback: null,
    };

    t.throws(() => router.originate(request), { code: 'NOT_READY', row: { http: 503 } });
    t.equal(router.size, 0);
    const control = new LiveCallControl({ clock: realClock, router } as LiveCallControlOptions);
    const sid = `CA${'1'.repeat(32)}` as CallSid;
    const end = control.end(sid, 'completed');
    await t.rejects(end, { code: 'NOT_READY' }, 'nor is a call called over that may come back');
  },
);
