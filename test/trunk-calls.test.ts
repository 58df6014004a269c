/**
 * Calls through trunks, on a whole gateway and phones of our own: failover by what a gateway says
 * or does not say, limits and pace, health, and what the trace tells of each.
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { startGateway, type TestGateway } from './support/gateway.ts';
import { delay, type Phone, type PhoneOptions, type SipIn, startPhone } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

async function gatewayFor(t: Test, environment: Record<string, string> = {}): Promise<TestGateway> {
  const gateway = await startGateway(environment);
  t.teardown(() => gateway.stop());
  return gateway;
}

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

/** A socket that takes everything and says nothing. */
async function silentPort(t: Test): Promise<{ port: number; heard: string[] }> {
  const socket = createSocket('udp4');
  const heard: string[] = [];
  socket.on('message', (data) => heard.push(data.toString('latin1').split('\r\n')[0] ?? ''));
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  return { port: (socket.address() as AddressInfo).port, heard };
}

interface TrunkOptions {
  readonly ports: readonly number[];
  readonly policy?: TrunkPolicyChange;
  readonly more?: Record<string, string>;
}

async function trunkFor(gateway: TestGateway, options: TrunkOptions): Promise<string> {
  const gateways = options.ports.map((port, index) => {
    return { uri: `sip:127.0.0.1:${port};transport=udp`, priority: index + 1 };
  });
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    NumberPattern: '+49*',
    Gateways: JSON.stringify(gateways),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...options.policy }),
    ...options.more,
  });
  if (made.status !== 201) throw new Error(made.text);
  return made.json.sid;
}

const TWIML = '<Response><Pause length="20"/></Response>';

async function place(gateway: TestGateway, to = '+4930123'): Promise<string> {
  const { json, text } = await gateway.rest('POST', 'Calls.json', {
    To: to,
    From: '+4930999',
    Twiml: TWIML,
  });
  if (json?.sid === undefined) throw new Error(text);
  return json.sid;
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

async function hangUp(gateway: TestGateway, sids: readonly string[]): Promise<void> {
  for (const sid of sids) {
    await gateway.rest('POST', `Calls/${sid}.json`, { Status: 'completed' });
    await until(gateway, sid, OVER);
  }
}

async function traceOf(gateway: TestGateway, sid: string): Promise<string> {
  const { json } = await gateway.rest('GET', `Calls/${sid}/Trace.json`);
  return json.trace
    .map((line: { kind: string; data: { text: string; detail: string } }) => {
      return `${line.kind} ${line.data.text} (${line.data.detail})`;
    })
    .join('\n');
}

function invites(phone: Phone): SipIn[] {
  return phone.received.filter(({ firstLine }) => firstLine.startsWith('INVITE'));
}

t.test(
  'first gateway dead, second says 503, third answers: one call, in time',
  { skip },
  async (t) => {
    const gateway = await gatewayFor(t);
    const dead = await silentPort(t);
    const busy = await phoneFor(t, { onInvite: 503 });
    const good = await phoneFor(t);
    const trunk = await trunkFor(gateway, {
      ports: [dead.port, busy.sipPort, good.sipPort],
      policy: { failover: { noProvisionalMs: 400 }, health: { optionsIntervalS: 0, triesMin: 1 } },
    });

    const startMs = Date.now();
    const sid = await place(gateway);
    const call = await until(gateway, sid, ['in-progress', ...OVER]);
    const tookMs = Date.now() - startMs;

    t.equal(call.status, 'in-progress');
    t.equal(call.trunk_sid, trunk);
    t.ok(tookMs < 2_500, `${tookMs} ms for a silent gateway of 400 ms and a 503`);
    t.equal(invites(busy).length, 1);
    t.equal(invites(good).length, 1);
    const trace = await traceOf(gateway, sid);
    t.match(trace, /call gateway failed: no answer at all/);
    t.match(trace, /call gateway failed: 503/);
    const { json } = await gateway.rest('GET', `Trunks/${trunk}/Health.json`);
    t.match(
      json.gateways.map(({ state }: { state: string }) => state),
      ['resting', 'resting', 'up'],
      'the health view shows it',
    );
    t.match(json.gateways[1].reason, /503/);
    t.equal(json.calls_out, 1);

    const again = await place(gateway);
    await until(gateway, again, ['in-progress', ...OVER]);
    t.equal(invites(busy).length, 1, 'what rests is tried last');
    t.match(await traceOf(gateway, again), /resting: tried last/);
    await hangUp(gateway, [sid, again]);
    t.equal((await gateway.rest('GET', `Trunks/${trunk}/Health.json`)).json.calls_out, 0);
  },
);

t.test('what is final ends it, and a cause says more than a status', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  const cases = [
    { status: 486, cause: 0, tries: 1, ends: 'busy' },
    { status: 603, cause: 0, tries: 1, ends: 'failed' },
    { status: 480, cause: 34, tries: 2, ends: 'in-progress' },
    { status: 503, cause: 17, tries: 1, ends: 'busy' },
    { status: 404, cause: 0, tries: 1, ends: 'failed' },
  ];
  for (const { status, cause, tries, ends } of cases) {
    const reason = cause === 0 ? '' : `Reason: Q.850;cause=${cause};text="x"`;
    const first = await scripted(t, `SIP/2.0 ${status} No`, reason);
    const second = await phoneFor(t);
    const trunk = await trunkFor(gateway, { ports: [first, second.sipPort] });
    const sid = await place(gateway);
    const call = await until(gateway, sid, ['in-progress', ...OVER]);
    t.equal(call.status, ends, `${status} with cause ${cause}`);
    t.equal(1 + invites(second).length, tries, `${status} with cause ${cause}`);
    if (ends === 'in-progress') await hangUp(gateway, [sid]);
    t.equal((await gateway.rest('DELETE', `Trunks/${trunk}.json`)).status, 204);
  }
});

/** Answers every INVITE with one status and, if need be, one more field; its port. */
async function scripted(t: Test, statusLine: string, field: string): Promise<number> {
  const socket = createSocket('udp4');
  socket.on('message', (data, peer) => {
    const text = data.toString('latin1');
    if (!text.startsWith('INVITE')) return;
    const kept = text
      .split('\r\n')
      .filter((line) => /^(?:via|from|to|call-id|cseq):/i.test(line))
      .map((line) => (/^to:/i.test(line) ? `${line};tag=s` : line));
    const lines = [statusLine, ...kept, ...(field === '' ? [] : [field]), 'Content-Length: 0'];
    socket.send(`${lines.join('\r\n')}\r\n\r\n`, peer.port, peer.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  return (socket.address() as AddressInfo).port;
}

t.test('over a trunk’s cap the next trunk is taken, and then there is 503', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  const [one, other] = [await phoneFor(t), await phoneFor(t)];
  const limits = { callsOutMax: 1 };
  const first = await trunkFor(gateway, { ports: [one.sipPort], policy: { limits } });
  const second = await trunkFor(gateway, { ports: [other.sipPort], policy: { limits } });

  const a = await until(gateway, await place(gateway), ['in-progress', ...OVER]);
  const b = await until(gateway, await place(gateway), ['in-progress', ...OVER]);
  const c = await until(gateway, await place(gateway), ['in-progress', ...OVER]);

  t.same([a.trunk_sid, b.trunk_sid], [first, second]);
  t.match(c, { status: 'failed', end_code: 'TRUNK_LIMIT', sip_status: 503 });
  const fix = `Policy.limits.callsOutMax of trunk ${first}`;
  t.match(await traceOf(gateway, c.sid), `has 1 of 1 calls out (${fix})`);
  await hangUp(gateway, [a.sid, b.sid]);
});

t.test(
  'a trunk that fails gives its place to the next, which has limits too',
  { skip },
  async (t) => {
    const gateway = await gatewayFor(t);
    const [bad, good] = [await phoneFor(t, { onInvite: 503 }), await phoneFor(t)];
    const health = { optionsIntervalS: 0, failureRateMax: 1 };
    const first = await trunkFor(gateway, { ports: [bad.sipPort], policy: { health } });
    const second = await trunkFor(gateway, {
      ports: [good.sipPort],
      policy: { health, limits: { callsOutMax: 1 } },
      more: { Username: 'us', Password: 'secret' },
    });
    const calls = async (trunk: string) =>
      (await gateway.rest('GET', `Trunks/${trunk}/Health.json`)).json.calls_out;

    const a = await until(gateway, await place(gateway), ['in-progress', ...OVER]);
    t.match(a, { status: 'in-progress', trunk_sid: second });
    t.same([await calls(first), await calls(second)], [0, 1], 'it is counted where it is');
    const b = await until(gateway, await place(gateway), ['in-progress', ...OVER]);
    t.match(b, { status: 'failed', sip_status: 503 });
    t.equal(invites(good).length, 1, 'no INVITE over the limit');
    t.equal(invites(bad).length, 2);
    t.match(await traceOf(gateway, b.sid), `Policy.limits.callsOutMax of trunk ${second}`);
    await hangUp(gateway, [a.sid]);
    t.same([await calls(first), await calls(second)], [0, 0]);
  },
);

t.test('outgoing calls over the pace wait their turn', { skip }, async (t) => {
  const gateway = await gatewayFor(t);
  const callee = await scripted(t, 'SIP/2.0 486 Busy', '');
  await trunkFor(gateway, { ports: [callee], policy: { limits: { callsPerSecondOut: 5 } } });

  const startMs = Date.now();
  const sids = await Promise.all(Array.from({ length: 9 }, () => place(gateway)));
  const calls = await Promise.all(sids.map((sid) => until(gateway, sid, OVER)));
  const tookMs = Date.now() - startMs;

  t.same([...new Set(calls.map(({ status }) => status))], ['busy'], 'each is placed');
  t.ok(tookMs > 700, `five at once and four more at 5 a second: ${tookMs} ms`);
});

t.test(
  'an inbound trunk over its cap gets 503 and is told when to come back',
  { skip },
  async (t) => {
    const gateway = await gatewayFor(t, { TANDEM_SIP_TRUSTED: '::1/128' });
    await gateway.rest('POST', 'Trunks.json', {
      FriendlyName: 'in',
      InboundAddress: '127.0.0.1',
      Policy: JSON.stringify({ limits: { callsInMax: 1 } }),
    });
    await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
      PhoneNumber: '+4930100',
      VoiceUrl: `${gateway.httpBase}/demo/voice`,
    });
    const uri = `sip:+4930100@127.0.0.1:${gateway.sipPort}`;
    const caller = await phoneFor(t);
    t.match((await caller.call(uri, gateway.sipPort)).firstLine, '200');
    const second = await phoneFor(t);
    const refused = await second.call(uri, gateway.sipPort);
    t.match(refused.firstLine, '503');
    t.ok(Number(refused.headers.get('retry-after')?.[0]) > 0);
    const callId = refused.headers.get('call-id')?.[0] ?? '';
    const path = `Traces.json?CallId=${encodeURIComponent(callId)}`;
    const { json } = await gateway.rest('GET', path);
    t.match(json, { code: 'TRUNK_LIMIT', sip_status: 503, fault: 'carrier', call_sid: null });
    t.match(json.verdict, /has 1 of 1 calls in: change Policy\.limits\.callsInMax of that trunk/);
    caller.hangup();
  },
);

t.test('OPTIONS tell which gateway is down before a call has to', { skip }, async (t) => {
  const gateway = await gatewayFor(t, { TANDEM_TRUNK_PROBE_TIMEOUT_MS: '200' });
  const dead = await silentPort(t);
  const good = await phoneFor(t);
  const trunk = await trunkFor(gateway, {
    ports: [dead.port, good.sipPort],
    policy: { health: { optionsIntervalS: 1, failuresToDown: 1 } },
  });
  let states: string[] = [];
  for (let tries = 0; tries < 60 && states.join() !== 'down,up'; tries += 1) {
    const { json } = await gateway.rest('GET', `Trunks/${trunk}/Health.json`);
    states = json.gateways.map(({ state }: { state: string }) => state);
    await delay(50);
  }
  t.same(states, ['down', 'up']);
  const sid = await place(gateway);
  await until(gateway, sid, ['in-progress', ...OVER]);
  t.notOk(
    dead.heard.some((line) => line.startsWith('INVITE')),
    'the dead one is not asked first',
  );
  t.equal(await gateway.metric('tandem_trunk_gateways_down'), 1);
  await hangUp(gateway, [sid]);
});

t.test('SIPp as carrier: one refuses, one answers', { skip: skip || !hasSipp() }, async (t) => {
  const gateway = await gatewayFor(t);
  const refusing = startSipp({
    scenario: 'refuse',
    port: 15_270,
    calls: 5,
    timeoutSeconds: 20,
    replace: { status: '503 Service Unavailable' },
  });
  const answering = startSipp({
    scenario: 'answer',
    port: 15_272,
    calls: 5,
    mediaPort: 15_274,
    timeoutSeconds: 20,
  });
  await trunkFor(gateway, { ports: [15_270, 15_272], policy: { health: { failureRateMax: 1 } } });
  const sids = await Promise.all(Array.from({ length: 5 }, () => place(gateway)));
  for (const sid of sids) {
    t.equal((await until(gateway, sid, ['in-progress', ...OVER])).status, 'in-progress');
  }
  await hangUp(gateway, sids);
  t.match(await refusing.done, { code: 0, succeeded: 5 });
  t.match(await answering.done, { succeeded: 5, failed: 0 });
});
