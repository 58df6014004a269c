/**
 * Transfers on a whole gateway, with audio: who hears whom before and after, what each party is
 * told, and what the application is. RFC 3515, 3891, 5589.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { House } from './support/house.ts';
import { delay, header, type Phone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
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

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

for (const side of ['callee', 'caller'] as const) {
  t.test(
    `blind transfer by the ${side}: the other two talk, he is told`,
    { skip, timeout: 25_000 },
    async (t) => {
      const scene = await transferHouse(t);
      const [a, b, c] = [await alice(scene), await bob(scene), await carol(scene)];
      if (side === 'callee') await join(scene, b, a);
      else await join(scene, a, b);
      await hears(t, b, ALICE_HZ, [CAROL_HZ]);

      const answer = await a.refer(`<${c.uri}>`, `Referred-By: <${a.uri}>`);
      t.match(answer.firstLine, '202');
      const invite = await c.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
      t.equal(header(invite, 'referred-by'), `<${a.uri}>`);
      await notifiedAs(a, 200);
      await gone(a);
      t.match(a.notified[0], 'SIP/2.0 100 Trying');
      t.equal(a.notified.at(-1), 'SIP/2.0 200 OK');
      await hearing([b, c]);
      await hears(t, b, CAROL_HZ, [ALICE_HZ]);
      await hears(t, c, BOB_HZ, [ALICE_HZ]);

      if (side === 'callee') {
        c.hangup();
        const { params } = await scene.app.waitFor('/dialled');
        t.match(params, { DialCallStatus: 'completed', DialBridged: 'true' });
      } else {
        b.hangup();
      }
      await gone(side === 'callee' ? b : c);
      t.equal(await live(scene), 0);
    },
  );
}

t.test(
  'a blind transfer that fails leaves the two as they were',
  { skip, timeout: 25_000 },
  async (t) => {
    const scene = await transferHouse(t);
    const [a, b] = [await alice(scene), await bob(scene)];
    const c = await carol(scene, { onInvite: 486 });
    await join(scene, b, a);

    await a.refer(`<${c.uri}>`);
    await notifiedAs(a, 486);
    t.notOk(a.notified.some((line) => line.startsWith('SIP/2.0 2')));
    await hears(t, b, ALICE_HZ, []);
    await hears(t, a, BOB_HZ, []);
    t.match((await a.refer('<sip:nobody@192.0.2.1>')).firstLine, '202');
    await a.waitFor(({ firstLine, body }) => {
      return firstLine.startsWith('NOTIFY') && /^SIP\/2\.0 (?!486)[3-6]/.test(body);
    });
    await hears(t, a, BOB_HZ, []);
    a.hangup();
    await gone(b);
    t.equal(await live(scene), 0);
  },
);

for (const side of ['callee', 'caller'] as const) {
  t.test(
    `who refers and hangs up at once (${side}) leaves them to talk`,
    { skip, timeout: 25_000 },
    async (t) => {
      const scene = await transferHouse(t);
      const [a, b] = [await alice(scene), await bob(scene)];
      const c = await carol(scene, { onInvite: 'ring' });
      if (side === 'callee') await join(scene, b, a);
      else await join(scene, a, b);

      await a.refer(`<${c.uri}>`);
      a.hangup();
      await c.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
      await delay(300);
      await hears(t, b, 480, [ALICE_HZ], 0.3);
      c.answer();
      await hearing([b, c]);
      await hears(t, b, CAROL_HZ, [ALICE_HZ]);
      await hears(t, c, BOB_HZ, [ALICE_HZ]);
      await notifiedAs(a, 200);
      c.hangup();
      await gone(b);
      t.equal(await live(scene), 0);
    },
  );
}

t.test(
  'who is left while it rings, and it fails, is let go',
  { skip, timeout: 25_000 },
  async (t) => {
    const scene = await transferHouse(t);
    const [a, b] = [await alice(scene), await bob(scene)];
    const c = await carol(scene, { onInvite: 'ring' });
    await join(scene, a, b);
    await a.refer(`<${c.uri}>`);
    a.hangup();
    await c.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    await delay(200);
    c.onInvite = 486;
    b.hangup();
    await c.waitFor(({ firstLine }) => firstLine.startsWith('CANCEL'));
    t.equal(await live(scene), 0);
  },
);

type Ways = 'called by one' | 'calling both' | 'called by both';
type Parties = Readonly<Record<'first' | 'second' | 'b' | 'c', Phone>>;

const CALLED = ['INVITE', 'ACK'] as const;
const CLEARED = 'BYE Q.850;cause=16';
const TRANSFERRED = ['NOTIFY 100 active', 'NOTIFY 200 terminated', CLEARED] as const;

/** What an attended transfer asks of each, in order; bob hangs up at its end. Nobody moves. */
const TOLD: Readonly<Record<Ways, Readonly<Record<keyof Parties, readonly string[]>>>> = {
  'called by one': {
    first: [...CALLED, ...TRANSFERRED],
    second: [CLEARED],
    b: [],
    c: [...CALLED, CLEARED],
  },
  'calling both': { first: TRANSFERRED, second: [CLEARED], b: CALLED, c: [...CALLED, CLEARED] },
  'called by both': {
    first: [...CALLED, ...TRANSFERRED],
    second: [...CALLED, CLEARED],
    b: [],
    c: [CLEARED],
  },
};

/** The requests that a phone got: of NOTIFY its fragment and state, of BYE its cause. */
function asked(phone: Phone): string[] {
  const requests = phone.received.filter(({ firstLine }) => !firstLine.startsWith('SIP/'));
  return requests.map((message) => {
    const method = message.firstLine.split(' ')[0] ?? '';
    const first = (name: string): string => header(message, name).split(/;(?!cause)/)[0] ?? '';
    if (method === 'BYE') return `BYE ${first('reason')}`;
    if (method !== 'NOTIFY') return method;
    return `NOTIFY ${message.body.split(' ')[1]} ${first('subscription-state')}`;
  });
}

/**
 * Each document hears once how its dial went, with the call that its caller talked to last, and of
 * the end of its call once.
 */
async function tellsTheApp(
  t: Test,
  { app, gateway }: House,
  ways: Ways,
  { first, second, b, c }: Parties,
): Promise<void> {
  /** The call whose document dialled this phone. */
  const callTo = ({ sipPort }: Phone): string => {
    const isIt = ({ path, params }: (typeof app.seen)[number]): boolean =>
      path === '/voice' && params.To?.includes(`:to${sipPort}@`) === true;
    return app.seen.find(isIt)?.params.CallSid ?? '';
  };
  const legOf = async (phone: Phone): Promise<string> => {
    const { json } = await gateway.rest('GET', `Calls.json?ParentCallSid=${callTo(phone)}`);
    return json.calls[0].sid;
  };
  const dials: Readonly<Record<Ways, () => Promise<(readonly [Phone, string])[]>>> = {
    'called by one': async () => [
      [first, await legOf(c)],
      [c, await legOf(c)],
    ],
    'calling both': async () => [
      [b, await legOf(b)],
      [c, await legOf(c)],
    ],
    'called by both': async () => [
      [first, callTo(second)],
      [second, callTo(first)],
    ],
  };
  for (const [dialled, DialCallSid] of await dials[ways]()) {
    const CallSid = callTo(dialled);
    const ofIt = ({ params }: (typeof app.seen)[number]): boolean => params.CallSid === CallSid;
    const { params } = await app.waitFor('/dialled', ofIt);
    t.match(params, { DialCallStatus: 'completed', DialBridged: 'true', DialCallSid });
    t.equal(params.DialSipResponseCode, '200');
    const end = await app.waitFor('/status', ofIt);
    t.match(end.params, { CallStatus: 'completed', SipResponseCode: '200' });
    t.equal(end.params.EndCode, 'CALL_COMPLETED');
    for (const path of ['/dialled', '/status']) {
      const times = app.seen.filter((one) => one.path === path && ofIt(one)).length;
      t.equal(times, 1, `${path} once`);
    }
  }
}

for (const ways of ['called by one', 'calling both', 'called by both'] as const) {
  t.test(
    `attended transfer between three phones, ${ways}`,
    { skip, timeout: 25_000 },
    async (t) => {
      const scene = await transferHouse(t);
      // One telephone with two lines: two phones with one voice.
      const [first, second] = [await alice(scene), await alice(scene)];
      const [b, c] = [await bob(scene), await carol(scene)];
      if (ways === 'calling both') await join(scene, first, b);
      else await join(scene, b, first);
      if (ways === 'called by both') await join(scene, c, second);
      else await join(scene, second, c);
      await hears(t, b, ALICE_HZ, [CAROL_HZ]);
      await hears(t, first, BOB_HZ, [CAROL_HZ]);
      await hears(t, second, CAROL_HZ, [BOB_HZ]);
      await hears(t, c, ALICE_HZ, [BOB_HZ]);

      const named = encodeURIComponent(second.replaces);
      const answer = await first.refer(
        `<sip:x@127.0.0.1:${scene.gateway.sipPort}?Replaces=${named}>`,
      );
      t.match(answer.firstLine, '202');
      await notifiedAs(first, 200);
      await Promise.all([gone(first), gone(second)]);
      await hearing([b, c]);
      await hears(t, b, CAROL_HZ, [ALICE_HZ]);
      await hears(t, c, BOB_HZ, [ALICE_HZ]);
      const invites = c.received.filter(({ firstLine }) => firstLine.startsWith('INVITE'));
      t.equal(invites.length, ways === 'called by both' ? 0 : 1, 'nobody is called again');

      b.hangup();
      await gone(c);
      t.equal(await live(scene), 0);
      const parties = { first, second, b, c };
      const told = Object.entries(parties).map(([name, phone]) => [name, asked(phone)]);
      t.same(Object.fromEntries(told), TOLD[ways]);
      await tellsTheApp(t, scene, ways, parties);
    },
  );
}

t.test(
  'an attended transfer that fails: he is told so, the app nothing, and they talk on',
  { skip, timeout: 25_000 },
  async (t) => {
    const scene = await transferHouse(t);
    const [a, b] = [await alice(scene), await bob(scene)];
    const c = await carol(scene, { onInvite: 481 });
    await join(scene, b, a);
    const count = scene.app.seen.length;
    const named = encodeURIComponent('other@there;to-tag=x;from-tag=y');
    await a.refer(`<${c.uri}?Replaces=${named}>`);
    await notifiedAs(a, 481);
    t.equal(a.notified[0], 'SIP/2.0 100 Trying');
    t.match(a.notified.at(-1), /^SIP\/2\.0 481 /);
    await hears(t, b, ALICE_HZ, [CAROL_HZ]);
    await hears(t, a, BOB_HZ, [CAROL_HZ]);
    const since = scene.app.seen.slice(count).filter(({ path }) => path === '/dialled');
    t.same(since, [], 'the dial goes on');
    a.hangup();
    await gone(b);
    const { params } = await scene.app.waitFor('/dialled');
    t.match(params, { DialCallStatus: 'completed', DialBridged: 'true' });
  },
);

t.test(
  'Replaces of somebody else’s dialog goes into our INVITE',
  { skip, timeout: 25_000 },
  async (t) => {
    const scene = await transferHouse(t);
    const [a, b, c] = [await alice(scene), await bob(scene), await carol(scene)];
    await join(scene, b, a);
    const named = encodeURIComponent('other@there;to-tag=x;from-tag=y');
    await a.refer(`<${c.uri}?Replaces=${named}>`);
    const invite = await c.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    t.equal(header(invite, 'replaces'), 'other@there;to-tag=x;from-tag=y');
    t.equal(header(invite, 'require'), 'replaces');
    await notifiedAs(a, 200);
    await gone(a);
  },
);

t.test('an INVITE with Replaces takes a place in a call', { skip, timeout: 25_000 }, async (t) => {
  const scene = await transferHouse(t);
  const [a, b] = [await alice(scene), await bob(scene)];
  await join(scene, b, a);
  const c = await carol(scene, { headers: [`Replaces: ${a.replaces}`, 'Require: replaces'] });
  const answer = await c.call(`sip:127.0.0.1:${scene.gateway.sipPort}`, scene.gateway.sipPort);
  t.match(answer.firstLine, '200');
  await gone(a);
  await hearing([b, c]);
  await hears(t, b, CAROL_HZ, [ALICE_HZ]);
  await hears(t, c, BOB_HZ, [ALICE_HZ]);
  const stale = await bob(scene, {
    headers: [`Replaces: ${a.replaces || 'x;to-tag=1;from-tag=2'}`],
  });
  const refused = await stale.call(`sip:127.0.0.1:${scene.gateway.sipPort}`, scene.gateway.sipPort);
  t.match(refused.firstLine, /481|603|400/);
  b.hangup();
  await gone(c);
  t.equal(await live(scene), 0);
});

t.test('where policy refuses, nothing changes', { skip, timeout: 25_000 }, async (t) => {
  const scene = await transferHouse(t, { TANDEM_SIP_REFER: 'refuse' });
  const [a, b, c] = [await alice(scene), await bob(scene), await carol(scene)];
  await join(scene, b, a);
  t.match((await a.refer(`<${c.uri}>`)).firstLine, '603');
  t.equal(c.received.length, 0);
  await hears(t, b, ALICE_HZ, []);
});

t.test('the application decides: referUrl', { skip, timeout: 25_000 }, async (t) => {
  const scene = await transferHouse(t, { TANDEM_SIP_REFER: 'application' });
  for (const side of ['callee', 'caller'] as const) {
    const [a, b, c] = [await alice(scene), await bob(scene), await carol(scene)];
    scene.app.on('/refer', () => `<Response><Dial><Sip>${c.uri}</Sip></Dial></Response>`);
    const attributes = 'referUrl="/refer"';
    if (side === 'callee') await join(scene, b, a, attributes);
    else await join(scene, a, b, attributes);
    const count = scene.app.seen.length;
    t.match((await a.refer('<sip:elsewhere@example.com>')).firstLine, '202');
    const { params } = await scene.app.waitFor('/refer', (request) => {
      return scene.app.seen.indexOf(request) >= count;
    });
    t.equal(params.ReferTransferTarget, 'sip:elsewhere@example.com');
    await notifiedAs(a, 200);
    await gone(a);
    await hearing([b, c]);
    await hears(t, b, CAROL_HZ, [ALICE_HZ]);
    c.hangup();
    await gone(b);
  }
  const [a, b] = [await alice(scene), await bob(scene)];
  await join(scene, b, a);
  t.match((await a.refer('<sip:elsewhere@example.com>')).firstLine, '603', 'without referUrl');
  const { json } = await scene.gateway.rest('GET', 'Notifications.json');
  t.ok(json.notifications.some((one: { error_code: string }) => one.error_code === '13802'));
  await hears(t, b, ALICE_HZ, []);
});

t.test(
  '<Refer> hands the caller over, and says how it went',
  { skip, timeout: 25_000 },
  async (t) => {
    const scene = await transferHouse(t);
    const { app, gateway } = scene;
    app.on('/voice', () => {
      return '<Response><Refer action="/referred"><Sip>sip:carol@example.com?X-Why=1</Sip></Refer></Response>';
    });
    app.on('/referred', () => '<Response><Hangup/></Response>');
    const result = async (phone: Phone, more: (p: Phone) => Promise<void>): Promise<object> => {
      const count = app.seen.length;
      await phone.call('sip:+15550200@127.0.0.1', gateway.sipPort);
      const refer = await phone.waitFor(({ firstLine }) => firstLine.startsWith('REFER'));
      t.equal(header(refer, 'refer-to'), '<sip:carol@example.com?X-Why=1>');
      await more(phone);
      const { params } = await app.waitFor('/referred', (one) => app.seen.indexOf(one) >= count);
      return params;
    };

    const took = await result(await alice(scene), async (phone) => {
      phone.notify('SIP/2.0 100 Trying', 'active;expires=60');
      phone.notify('SIP/2.0 200 OK', 'terminated;reason=noresource');
      await gone(phone);
    });
    t.match(took, {
      ReferCallStatus: 'in-progress',
      ReferSipResponseCode: '202',
      NotifySipResponseCode: '200',
    });
    const busy = await result(await alice(scene), async (phone) => {
      phone.notify('SIP/2.0 486 Busy Here', 'terminated;reason=noresource');
    });
    t.match(busy, { ReferCallStatus: 'busy', NotifySipResponseCode: '486' });
    const refused = await result(await alice(scene, { onRefer: 405 }), async () => undefined);
    t.match(refused, { ReferCallStatus: 'failed', ReferSipResponseCode: '405' });
    t.notOk('NotifySipResponseCode' in refused);
  },
);

const SIPP_SKIP = skip || (hasSipp() ? false : 'SIPp is not installed');

t.test('SIPp refers: taken and refused', { skip: SIPP_SKIP }, async (t) => {
  for (const [policy, scenario] of [
    ['accept', 'refer-taken'],
    ['refuse', 'refer-refused'],
  ] as const) {
    const scene = await transferHouse(t, { TANDEM_SIP_REFER: policy });
    const [b, c] = [await bob(scene), await carol(scene)];
    scene.app.on('/voice', () => `<Response><Dial><Sip>${b.uri}</Sip></Dial></Response>`);
    const run = startSipp({
      scenario,
      port: 5900 + Math.floor(Math.random() * 90),
      target: `127.0.0.1:${scene.gateway.sipPort}`,
      calls: 1,
      service: '+15550200',
      replace: { target: c.uri },
      timeoutSeconds: 20,
    });
    const { code, output } = await run.done;
    t.equal(code, 0, output);
  }
});
