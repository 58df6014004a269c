/**
 * Attended transfers between calls whose ports are in different media workers: one of the two that
 * stay is asked to another port, and what becomes of everybody when it agrees, when it will not,
 * and when somebody or the gateway goes away meanwhile. RFC 3261 §14.1, 3891, 5589.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { House } from './support/house.ts';
import { delay, type Phone, type SipIn } from './support/phone.ts';
import {
  ALICE_HZ,
  alice,
  BOB_HZ,
  bob,
  CAROL_HZ,
  carol,
  gone,
  hearing,
  hears,
  join,
  live,
  notifiedAs,
  transferHouse,
} from './support/transfer-house.ts';

const options = {
  skip: existsSync(ADDON_PATH) ? false : 'the media addon is not built',
  timeout: 40_000,
};

interface Scene extends House {
  /** One telephone with two lines: `first` talks to bob, `second` to carol. */
  readonly first: Phone;
  readonly second: Phone;
  readonly b: Phone;
  readonly c: Phone;
  /** What bob and carol were called with, or were answered. */
  readonly asked: { readonly b: number; readonly c: number };
}

/** Two calls, each in a worker of its own: the second goes where there is less to do. */
async function twoCalls(t: Test, environment: Record<string, string> = {}): Promise<Scene> {
  const scene = await transferHouse(t, { TANDEM_MEDIA_WORKERS: '2', ...environment });
  const [first, second] = [await alice(scene), await alice(scene)];
  const [b, c] = [await bob(scene), await carol(scene)];
  await join(scene, b, first);
  await join(scene, second, c);
  await hears(t, b, ALICE_HZ, [CAROL_HZ]);
  await hears(t, c, ALICE_HZ, [BOB_HZ]);
  const asked = { b: reinvites(b).length, c: reinvites(c).length };
  return { ...scene, first, second, b, c, asked };
}

function reinvites(phone: Phone): SipIn[] {
  return phone.received.filter(({ firstLine, headers }) => {
    return firstLine.startsWith('INVITE') && /;tag=/.test(headers.get('to')?.[0] ?? '');
  });
}

/** Our port in a description. */
function portOf({ body }: SipIn): number {
  return Number(/^m=audio (\d+)/m.exec(body)?.[1]);
}

/** The transferor asks: what `second` talks to is for whom `first` talks to. */
async function transfer(t: Test, { first, second, gateway }: Scene): Promise<void> {
  const named = encodeURIComponent(second.replaces);
  const answer = await first.refer(`<sip:x@127.0.0.1:${gateway.sipPort}?Replaces=${named}>`);
  t.match(answer.firstLine, '202');
}

/** What the trace of his call says of a transfer that failed. */
async function told({ gateway }: House, phone: Phone): Promise<string | undefined> {
  const to = `sip:x@127.0.0.1:${phone.sipPort}`;
  const { json } = await gateway.rest('GET', `Calls.json?To=${encodeURIComponent(to)}`);
  const of = await gateway.rest('GET', `Calls/${json.calls[0].sid}/Trace.json`);
  const lines: { data: { text: string; detail: string } }[] = of.json.trace;
  return lines.find(({ data }) => data.text === 'not transferred')?.data.detail;
}

async function ports({ gateway }: House, wanted: number): Promise<number> {
  for (let tries = 0; tries < 60; tries += 1) {
    if ((await gateway.metric('tandem_media_ports')) === wanted) break;
    await delay(50);
  }
  return gateway.metric('tandem_media_ports');
}

async function joined(t: Test, scene: Scene): Promise<void> {
  const { b, c } = scene;
  await hearing([b, c]);
  await hears(t, b, CAROL_HZ, [ALICE_HZ]);
  await hears(t, c, BOB_HZ, [ALICE_HZ]);
  t.equal(await ports(scene, 2), 2, 'the port that was left is closed');
  b.hangup();
  await gone(c);
  t.equal(await live(scene), 0);
  t.equal(await ports(scene, 0), 0);
}

/** Everybody hears whom they heard before, and each call still ends as one. */
async function asBefore(t: Test, scene: Scene): Promise<void> {
  const { first, second, b, c } = scene;
  t.equal(await ports(scene, 4), 4, 'the port that was made for it is closed');
  await hears(t, b, ALICE_HZ, [CAROL_HZ]);
  await hears(t, first, BOB_HZ, [CAROL_HZ]);
  await hears(t, c, ALICE_HZ, [BOB_HZ]);
  await hears(t, second, CAROL_HZ, [BOB_HZ]);
  first.hangup();
  await gone(b);
  await hears(t, c, ALICE_HZ, [BOB_HZ]);
  c.hangup();
  await gone(second);
  t.equal(await live(scene), 0);
  t.equal(await ports(scene, 0), 0);
}

t.test(
  'two of different workers are joined, and one is asked to another port',
  options,
  async (t) => {
    const scene = await twoCalls(t);
    const { first, second, c } = scene;
    await transfer(t, scene);
    await notifiedAs(first, 200);
    await Promise.all([gone(first), gone(second)]);
    t.same(first.notified, ['SIP/2.0 100 Trying', 'SIP/2.0 200 OK']);
    t.equal(reinvites(c).length, 1, 'asked once');
    const [invite] = c.received.filter(({ firstLine }) => firstLine.startsWith('INVITE'));
    const [again] = reinvites(c);
    t.not(again && portOf(again), invite && portOf(invite), 'to another port');
    t.equal(reinvites(scene.b).length, 0, 'bob is left alone');
    await joined(t, scene);
  },
);

t.test('who will not move lets the other one be asked', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, b, c } = scene;
  c.onInvite = 488;
  await transfer(t, scene);
  await notifiedAs(first, 200);
  t.equal(reinvites(c).length, 1);
  t.equal(reinvites(b).length, 1);
  await joined(t, scene);
});

for (const [status, text] of [
  [488, /^SIP\/2\.0 488 /],
  [603, /^SIP\/2\.0 603 /],
] as const) {
  t.test(`nobody will move (${status}): he is told so, and all talk on`, options, async (t) => {
    const scene = await twoCalls(t);
    const { first, second, b, c } = scene;
    b.onInvite = status;
    c.onInvite = status;
    await transfer(t, scene);
    await notifiedAs(first, status);
    t.equal(first.notified[0], 'SIP/2.0 100 Trying');
    t.match(first.notified.at(-1), text);
    t.equal(second.notified.length, 0);
    t.notOk(
      scene.app.seen.some(({ path }) => path === '/dialled'),
      'the dials go on',
    );
    t.equal(await told(scene, first), `SIP_REFUSED ${status}`);
    await asBefore(t, scene);
  });
}

t.test('what was refused once is agreed to later', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, b, c } = scene;
  b.onInvite = 488;
  c.onInvite = 488;
  await transfer(t, scene);
  await notifiedAs(first, 488);
  b.onInvite = 'answer';
  c.onInvite = 'answer';
  await transfer(t, scene);
  await notifiedAs(first, 200);
  await joined(t, scene);
});

t.test('a peer that is asking us itself (491) is asked again', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, c } = scene;
  c.onInvite = 491;
  await transfer(t, scene);
  await c.waitFor((message) => reinvites(c).includes(message));
  c.onInvite = 'answer';
  await notifiedAs(first, 200);
  t.equal(reinvites(c).length, 2, 'after the time that RFC 3261 §14.1 gives');
  await joined(t, scene);
});

t.test('who refers and hangs up at once leaves them to talk', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, second, c } = scene;
  c.onInvite = 'ring';
  await transfer(t, scene);
  await c.waitFor((message) => reinvites(c).includes(message));
  first.hangup();
  second.hangup();
  await delay(300);
  const dialled = scene.app.seen.filter(({ path, params }) => {
    return path === '/dialled' && params.To?.includes(`to${first.sipPort}@`);
  });
  t.equal(dialled.length, 0, 'bob waits in his dial');
  c.answer();
  await notifiedAs(first, 200);
  await joined(t, scene);
});

t.test('who hangs up while he is asked ends his own call, and no other', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, second, b, c } = scene;
  c.onInvite = 'ring';
  await transfer(t, scene);
  await c.waitFor((message) => reinvites(c).includes(message));
  c.hangup();
  await gone(second);
  await notifiedAs(first, 481);
  await hears(t, b, ALICE_HZ, [CAROL_HZ]);
  await hears(t, first, BOB_HZ, [CAROL_HZ]);
  t.equal(await ports(scene, 2), 2);
  b.hangup();
  await gone(first);
  t.equal(await live(scene), 0);
});

t.test(
  'who hangs up while the other is asked ends his own call, and no other',
  options,
  async (t) => {
    const scene = await twoCalls(t);
    const { first, second, b, c } = scene;
    c.onInvite = 'ring';
    await transfer(t, scene);
    await c.waitFor((message) => reinvites(c).includes(message));
    b.hangup();
    await gone(first);
    c.onInvite = 'answer';
    c.answer();
    // There, and back beside whom he talks to.
    await c.waitFor((message) => reinvites(c).indexOf(message) === 1);
    await delay(300);
    await hearing([second, c]);
    await hears(t, c, ALICE_HZ, [BOB_HZ]);
    await hears(t, second, CAROL_HZ, [BOB_HZ]);
    t.equal(await ports(scene, 2), 2);
    second.hangup();
    await gone(c);
    t.equal(await live(scene), 0);
  },
);

t.test('a gateway that dies meanwhile goes on where it was', options, async (t) => {
  const scene = await twoCalls(t);
  const { first, second, c } = scene;
  c.onInvite = 'ring';
  await transfer(t, scene);
  await c.waitFor((message) => reinvites(c).includes(message));
  await delay(200);
  c.onInvite = 'answer';
  const next = await scene.gateway.crash();
  t.teardown(() => next.stop());
  await c.waitFor((message) => reinvites(c).indexOf(message) === 1);
  await Promise.all([gone(first), gone(second)]);
  await joined(t, { ...scene, gateway: next });
});
