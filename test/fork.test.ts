/**
 * One address, several phones: all ring at once, the first to answer has the call and the others
 * stop; of refusals the best is told (RFC 3261 §16.7). A lower q rings only after the higher.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import {
  ACCOUNT,
  APPLICATION,
  type CallNode,
  ended,
  Listener,
  startNode,
} from './support/call-node.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const ADDRESS = 'sip:bob@office.example';

interface World {
  readonly node: CallNode;
  readonly phones: readonly Phone[];
  call(): Call;
}

async function world(
  t: Test,
  contacts: readonly (PhoneOptions & { readonly q?: number })[],
): Promise<World> {
  const phones: Phone[] = [];
  for (const options of contacts) phones.push(await startPhone(options));
  const node = await startNode({
    contactsOf: (uri) =>
      uri === ADDRESS
        ? phones.map((phone, index) => {
            const peer = { transport: 'udp', address: '127.0.0.1', port: phone.sipPort } as const;
            const target = { uri: phone.uri, peer, trusted: true };
            return { target, q: contacts[index]?.q ?? 1 };
          })
        : null,
  });
  t.teardown(async () => {
    await node.close();
    await Promise.all(phones.map((phone) => phone.close()));
  });
  return {
    node,
    phones,
    call: () =>
      node.router.originate({
        accountSid: ACCOUNT,
        from: '+15551234567',
        application: APPLICATION,
        target: { kind: 'sip', uri: ADDRESS, credentials: null, headers: [['X-A', 'b']] },
        ringTimeoutMs: 5_000,
        statusCallback: null,
      }),
  };
}

function got(phone: Phone | undefined, method: string): number {
  return phone?.received.filter(({ firstLine }) => firstLine.startsWith(method)).length ?? -1;
}

t.test('both phones ring, the second answers, the first is told and stops', { skip }, async (t) => {
  const { phones, call, node } = await world(t, [{ onInvite: 'ring' }, { onInvite: 'ring' }]);
  const [first, second] = phones;
  const placed = call();
  const leg = new Listener(placed);
  for (const phone of phones) await phone.waitFor((m) => m.firstLine.startsWith('INVITE'));
  await leg.event('ringing');
  await delay(50);
  second?.answer();
  await leg.event('answered');

  const cancel = await first?.waitFor((m) => m.firstLine.startsWith('CANCEL'));
  t.match(cancel && header(cancel, 'reason'), /SIP;cause=200/);
  t.equal(leg.events.filter(({ kind }) => kind === 'ringing').length, 1, 'rings once');
  t.equal(got(second, 'CANCEL'), 0);
  second?.hangup();
  t.match(await ended(placed), { status: 'completed', by: 'remote' });
  await delay(50);
  t.equal(node.endpoint.counts.sessions, 0, 'nothing is left of the other branch');
});

t.test('two answers at once: one has the call, the other gets BYE', { skip }, async (t) => {
  const { phones, call } = await world(t, [{}, {}]);
  const placed = call();
  await new Listener(placed).event('answered');
  await delay(200);
  // The CANCEL of the one that was too late crossed its answer (§9.1).
  const byes = phones.map((phone) => got(phone, 'BYE'));
  t.same(byes.toSorted(), [0, 1]);
  placed.hangup();
  await ended(placed);
  await delay(100);
  t.same(
    phones.map((phone) => got(phone, 'BYE')),
    [1, 1],
  );
});

t.test('of refusals the best is told, and a 6xx ends it for all', { skip }, async (t) => {
  const some = await world(t, [{ onInvite: 503 }, { onInvite: 486 }]);
  t.match(await ended(some.call()), { status: 'busy', sipStatus: 486 });
  const all = await world(t, [{ onInvite: 'ring' }, { onInvite: 603 }]);
  t.match(await ended(all.call()), { status: 'failed', sipStatus: 603 });
  await all.phones[0]?.waitFor((m) => m.firstLine.startsWith('CANCEL'));
});

t.test('a lower q rings only when the higher do not take it', { skip }, async (t) => {
  const { phones, call } = await world(t, [
    { q: 0.5 },
    { q: 1, onInvite: 486 },
    { q: 1, onInvite: 480 },
  ]);
  const placed = call();
  await new Listener(placed).event('answered');
  t.same(
    phones.map((phone) => got(phone, 'INVITE')),
    [1, 1, 1],
  );
  placed.hangup();
  await ended(placed);
});

t.test('hung up while several ring: all stop, and the call is canceled', { skip }, async (t) => {
  const { phones, call } = await world(t, [{ onInvite: 'ring' }, { onInvite: 'ring' }]);
  const placed = call();
  for (const phone of phones) await phone.waitFor((m) => m.firstLine.startsWith('INVITE'));
  await delay(50);
  placed.hangup('CALL_CANCELED');
  t.match(await ended(placed), { status: 'canceled' });
  for (const phone of phones) await phone.waitFor((m) => m.firstLine.startsWith('CANCEL'));
});

t.test('an address of ours without a phone is told so at once', { skip }, async (t) => {
  const { call } = await world(t, []);
  t.match(await ended(call()), { status: 'failed', code: 'NOT_REGISTERED', sipStatus: 480 });
});
