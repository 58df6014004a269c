/**
 * Header fields between carriers and a whole gateway, with SIPp on both sides: who is believed,
 * what an application is told, what goes on to the next carrier, and why calls end, both ways.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { DEFAULT_TRUNK_POLICY, type TrunkPolicyChange } from '../src/store/trunk-policy.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { freePort, startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { hasSipp, type SippRun, startSipp } from './support/sipp.ts';

const skip = hasSipp() && existsSync(ADDON_PATH) ? false : 'needs sipp and the media addon';

/** What carriers call us by, and what goes on through the carriers beyond. */
const OWN = '+15550100';
const PASSED = '+4930100';
const FORKED = '+15550102';
const REFUSE = '<Response><Reject/></Response>';
const FORK =
  '<Response><Dial answerOnBridge="true"><Number>+4930101</Number><Number>+4930102</Number>' +
  '</Dial></Response>';

/** SIPp reads scenarios as XML, and its expressions are POSIX ones. */
function exactly(text: string): string {
  const literal = text.replace(/[.*+?()|[\]{}^$]/g, (sign) => (sign === '^' ? '.' : `[${sign}]`));
  return xml(literal);
}

function xml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

const ANYTHING = '.';
const NOTHING = 'X-Never-There';
const SDP = [
  'v=0',
  'o=carrier 1 1 IN IP4 127.0.0.1',
  's=-',
  'c=IN IP4 127.0.0.1',
  't=0 0',
  'm=audio 31990 RTP/AVP 0',
  'a=rtpmap:0 PCMU/8000',
  '',
].join('\n');

interface Call {
  readonly scenario?: string;
  readonly uri?: string;
  readonly from?: string;
  readonly fields?: readonly string[];
  readonly status?: number;
  readonly expect?: string;
  readonly reason?: string;
  readonly bye?: string;
  readonly type?: string;
  readonly body?: string;
}

/** One gateway for all: carriers are trunks, and what each wants is changed between the calls. */
class World {
  readonly gateway: TestGateway;
  readonly app: AppServer;
  readonly #inbound: string;
  readonly #carriers: readonly { readonly sid: string; readonly port: number }[];

  private constructor(
    gateway: TestGateway,
    app: AppServer,
    inbound: string,
    carriers: readonly { readonly sid: string; readonly port: number }[],
  ) {
    this.gateway = gateway;
    this.app = app;
    this.#inbound = inbound;
    this.#carriers = carriers;
  }

  static async start(t: Test): Promise<World> {
    const app = await startAppServer({ authToken: TEST_TOKEN });
    t.teardown(() => app.close());
    const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '192.0.2.0/24' });
    t.teardown(() => gateway.stop());
    app.on('/voice', () => REFUSE);
    app.on('/fork', () => FORK);
    const inbound = await trunk(gateway, { InboundAddress: '127.0.0.1' });
    const carriers: { sid: string; port: number }[] = [];
    for (const pattern of [PASSED, '+4930101', '+4930102']) {
      const port = await freePort();
      const Gateways = JSON.stringify([{ uri: `sip:127.0.0.1:${port};transport=udp` }]);
      carriers.push({ sid: await trunk(gateway, { NumberPattern: pattern, Gateways }), port });
    }
    const number = async (PhoneNumber: string, more: Record<string, string>): Promise<void> => {
      const made = await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
        PhoneNumber,
        ...more,
      });
      if (made.status !== 201) throw new Error(made.text);
    };
    await number(OWN, { VoiceUrl: `${app.base}/voice` });
    await number(FORKED, { VoiceUrl: `${app.base}/fork` });
    await number(PASSED, { TrunkSid: carriers[0]?.sid ?? '' });
    return new World(gateway, app, inbound, carriers);
  }

  /** The policy of whom calls come from (`in`) or go to (`out`); all that is not said is default. */
  async policy(way: 'in' | 'out', policy: TrunkPolicyChange): Promise<void> {
    const sid = way === 'in' ? this.#inbound : (this.#carriers[0]?.sid ?? '');
    const set = await this.gateway.rest('POST', `Trunks/${sid}.json`, {
      Policy: JSON.stringify({
        headers: [],
        ...policy,
        identity: { ...DEFAULT_TRUNK_POLICY.identity, ...policy.identity },
      }),
    });
    if (set.status !== 200) throw new Error(set.text);
  }

  /** A carrier calls us; resolves when the scenario has run to its end. */
  async call(t: Test, call: Call): Promise<void> {
    const { scenario = 'party-call', status = 603, fields = [], expect = ANYTHING } = call;
    const run = startSipp({
      scenario,
      port: await freePort(),
      target: `127.0.0.1:${this.gateway.sipPort}`,
      calls: 1,
      timeoutSeconds: 20,
      replace: {
        uri: call.uri ?? `sip:${OWN}@127.0.0.1`,
        from: call.from ?? '"Ann" <sip:+15550001@carrier.example>',
        fields: ['X-Run: 1', ...fields].join('\n'),
        status: String(status),
        expect,
        reason: call.reason ?? '',
        bye: call.bye ?? ANYTHING,
        type: call.type ?? 'application/sdp',
        body: call.body ?? SDP,
      },
    });
    await ended(t, run, scenario);
  }

  /** What the application was told of the call that `call` makes. */
  async told(t: Test, call: Call): Promise<Record<string, string>> {
    const before = this.app.seen.length;
    await this.call(t, call);
    return this.app.seen.slice(before).find(({ path }) => path === '/voice')?.params ?? {};
  }

  /** The carrier that numbers of ours go out through, told what to expect. */
  carrier(scenario: string, replace: Record<string, string> = {}, at = 0): SippRun {
    const expected = { expect: ANYTHING, never: NOTHING, bye: ANYTHING, cancel: ANYTHING };
    return startSipp({
      scenario,
      port: this.#carriers[at]?.port ?? 0,
      calls: 1,
      timeoutSeconds: 20,
      replace: { ...expected, reason: 'Q.850;cause=16', status: '486 Busy Here', ...replace },
    });
  }

  /** A call that goes through us to the next carrier. */
  async through(
    t: Test,
    carrier: { readonly scenario: string; readonly replace?: Record<string, string> },
    call: Call,
  ): Promise<void> {
    const beyond = this.carrier(carrier.scenario, carrier.replace);
    await this.call(t, { uri: `sip:${PASSED}@127.0.0.1`, ...call });
    await ended(t, beyond, carrier.scenario);
  }
}

/** A scenario has run as it says. */
async function ended(t: Test, run: SippRun, name: string): Promise<void> {
  const { code, output } = await run.done;
  t.equal(code, 0, name);
  if (code !== 0) t.comment(output.slice(-1500));
}

async function trunk(gateway: TestGateway, form: Record<string, string>): Promise<string> {
  // Nothing but calls comes to a scenario.
  const Policy = JSON.stringify({ health: { optionsIntervalS: 0 } });
  const named = { FriendlyName: 'carrier', Policy, ...form };
  const made = await gateway.rest('POST', 'Trunks.json', named);
  if (made.status !== 201) throw new Error(made.text);
  return made.json.sid;
}

const PAI = 'P-Asserted-Identity: "Bob" <sip:+15550002@carrier.example>';

t.test('header fields between carriers', { skip }, async (t) => {
  const world = await World.start(t);
  const trusted = { identity: { trust: true } };

  await t.test('P-Asserted-Identity of a trusted carrier is the caller', async (t) => {
    await world.policy('in', trusted);
    const told = await world.told(t, { fields: [PAI] });
    t.match(told, { From: '+15550002', Caller: '+15550002', CallerName: 'Bob' });
    t.ok('SipHeader_P-Asserted-Identity' in told);
  });

  await t.test('P-Asserted-Identity of anybody else is nothing', async (t) => {
    await world.policy('in', {});
    const told = await world.told(t, { fields: [PAI, 'Diversion: <sip:+15550003@c>'] });
    t.match(told, { From: '+15550001', CallerName: 'Ann' });
    t.notOk('SipHeader_P-Asserted-Identity' in told);
    t.notOk('ForwardedFrom' in told);
  });

  await t.test('Privacy hides the caller from the application', async (t) => {
    await world.policy('in', trusted);
    const told = await world.told(t, {
      from: '"Anonymous" <sip:anonymous@anonymous.invalid>',
      fields: [PAI, 'Privacy: id'],
    });
    t.equal(told.From, 'anonymous');
    t.notMatch(JSON.stringify(told), '15550002');
  });

  await t.test(
    'Privacy goes on, with the identity only for a carrier that is trusted',
    async (t) => {
      await world.policy('in', trusted);
      const call = {
        from: '"Anonymous" <sip:anonymous@anonymous.invalid>',
        fields: [PAI, 'Privacy: id'],
        status: 486,
      };
      await world.policy('out', { identity: { send: 'pai' } });
      const anonymous = exactly('From: "Anonymous" <sip:anonymous@anonymous.invalid>');
      const scenario = 'carrier-refuses';
      await world.through(t, { scenario, replace: { expect: anonymous, never: '15550002' } }, call);
      await world.policy('out', { identity: { send: 'pai', trust: true } });
      const expect = exactly('P-Asserted-Identity: <sip:+15550002@');
      await world.through(t, { scenario, replace: { expect } }, call);
      await world.through(t, { scenario, replace: { expect: 'Privacy: id' } }, call);
    },
  );

  await t.test('Diversion and History-Info are ForwardedFrom', async (t) => {
    await world.policy('in', trusted);
    const diversion = 'Diversion: <sip:+15550003@carrier.example>;reason=user-busy;counter=1';
    t.match(await world.told(t, { fields: [diversion] }), { ForwardedFrom: '+15550003' });
    const history =
      `History-Info: <sip:+15550004@carrier.example>;index=1,` +
      ` <sip:${OWN}@us;cause=486>;index=1.1;mp=1`;
    t.match(await world.told(t, { fields: [history] }), { ForwardedFrom: '+15550004' });
  });

  await t.test('a call that goes on says where it was, in the words of the carrier', async (t) => {
    await world.policy('in', trusted);
    const call = {
      fields: ['Diversion: <sip:+15550003@carrier.example>;reason=user-busy'],
      status: 486,
    };
    const scenario = 'carrier-refuses';
    await world.policy('out', { identity: { diversion: 'diversion' } });
    const diversion = exactly(`Diversion: <sip:${PASSED}@`);
    await world.through(t, { scenario, replace: { expect: diversion } }, call);
    await world.policy('out', { identity: { diversion: 'history-info' } });
    const expect = exactly('History-Info: <sip:+15550003@carrier.example>;index=1,');
    await world.through(t, { scenario, replace: { expect, never: 'Diversion' } }, call);
    await world.policy('out', {});
    await world.through(t, { scenario, replace: { never: '15550003' } }, call);
  });

  await t.test('User-to-User passes or is dropped', async (t) => {
    const fields = ['User-to-User: 56a390f3;encoding=hex;purpose=isdn-uui'];
    const scenario = 'carrier-refuses';
    const call = { fields, status: 486 };
    await world.policy('in', {});
    await world.policy('out', {});
    const told = await world.told(t, { fields });
    t.equal(told['SipHeader_User-to-User'], '56a390f3;encoding=hex;purpose=isdn-uui');
    const passed = { expect: 'User-to-User: 56a390f3;encoding=hex' };
    await world.through(t, { scenario, replace: passed }, call);
    await world.policy('out', { identity: { userToUser: 'drop' } });
    await world.through(t, { scenario, replace: { never: 'User-to-User' } }, call);
    await world.policy('in', { identity: { userToUser: 'drop' } });
    t.notOk('SipHeader_User-to-User' in (await world.told(t, { fields })));
  });

  await t.test('rules set, remove and pass fields by name, both ways', async (t) => {
    await world.policy('in', {
      headers: [
        { direction: 'in', action: 'remove', name: 'X-Secret', value: '' },
        { direction: 'in', action: 'set', name: 'X-Region', value: 'eu' },
      ],
    });
    const told = await world.told(t, { fields: ['x-secret : 1', 'X-SECRET:2', 'X-Tag: 7'] });
    t.notMatch(JSON.stringify(told).toLowerCase(), 'x-secret');
    t.match(told, { 'SipHeader_X-Region': 'eu', 'SipHeader_X-Tag': '7' });
    await world.policy('out', {
      headers: [
        { direction: 'out', action: 'pass', name: 'X-Tag', value: '' },
        { direction: 'out', action: 'set', name: 'X-Account', value: '42' },
      ],
    });
    const call = { fields: ['X-Tag: 7', 'X-Other: 8'], status: 486 };
    const scenario = 'carrier-refuses';
    const both = { expect: 'X-Tag: 7', never: 'X-Other' };
    await world.through(t, { scenario, replace: both }, call);
    await world.through(t, { scenario, replace: { expect: 'X-Account: 42' } }, call);
  });

  await t.test('tel: in the Request-URI is a number, or refused', async (t) => {
    await world.policy('in', {});
    const told = await world.told(t, { uri: 'tel:+1-555-0100' });
    t.equal(told.To, OWN);
    await world.call(t, { uri: 'tel:+1-555-9999', status: 404 });
    await world.call(t, { uri: 'tel:---', status: 400 });
    const from = await world.told(t, { from: '<tel:+1-555-0007>' });
    t.equal(from.From, '+15550007');
  });

  await t.test('parts beside the description are passed over, or refuse the call', async (t) => {
    const boundary = 'multipart/mixed;boundary=part';
    const body = (handling: string): string =>
      [
        '--part',
        'Content-Type: application/isup;version=itu-t92+',
        `Content-Disposition: signal;handling=${handling}`,
        '',
        'x',
        '--part',
        'Content-Type: application/sdp',
        '',
        `${SDP}--part--`,
        '',
      ].join('\n');
    const told = await world.told(t, { type: boundary, body: body('optional') });
    t.equal(told.To, OWN, 'the call is taken');
    const refused = { type: boundary, body: body('required'), status: 415 };
    await world.call(t, { ...refused, expect: 'Accept: application/sdp' });
  });

  await t.test('a refusal beyond is the refusal here, with its cause', async (t) => {
    await world.policy('in', {});
    await world.policy('out', {});
    const scenario = 'carrier-refuses';
    const busy = { status: '486 Busy Here', reason: 'Q.850;cause=17;text="User busy"' };
    const expect = exactly('Reason: Q.850;cause=17;text="User busy"');
    await world.through(t, { scenario, replace: busy }, { status: 486, expect });
    const plain = { status: '404 Not Found', reason: 'SIP;cause=404' };
    const unknown = exactly('Reason: SIP;cause=404, Q.850;cause=1;text="Unallocated number"');
    await world.through(t, { scenario, replace: plain }, { status: 404, expect: unknown });
    const down = { status: '503 Service Unavailable', reason: 'Q.850;cause=34' };
    const congested = 'Q.850;cause=34';
    await world.through(t, { scenario, replace: down }, { status: 500, expect: congested });
    const { json } = await world.gateway.rest('GET', 'Calls.json?PageSize=10');
    t.ok(json.calls.some(({ status }: { status: string }) => status === 'busy'));
  });

  await t.test('a CANCEL goes on with its reason', async (t) => {
    const call = { scenario: 'caller-gives-up', reason: 'Q.850;cause=31;text="gave up"' };
    const cancel = exactly('Reason: Q.850;cause=31;text="gave up"');
    await world.through(t, { scenario: 'carrier-is-cancelled', replace: { cancel } }, call);
  });

  await t.test('a BYE goes on with its reason, from either side', async (t) => {
    const call = { scenario: 'caller-hangs-up', reason: 'SIP;cause=200;text="moved on"' };
    const bye = exactly('Reason: SIP;cause=200;text="moved on"');
    await world.through(t, { scenario: 'carrier-answers', replace: { bye } }, call);
    const beyond = { scenario: 'carrier-hangs-up', replace: { reason: 'Q.850;cause=41' } };
    const waiting = { scenario: 'caller-waits', bye: exactly('Reason: Q.850;cause=41') };
    await world.through(t, beyond, waiting);
  });

  await t.test('a BYE of ours gives the plain reason', async (t) => {
    const call = { scenario: 'caller-hangs-up', reason: '' };
    const bye = exactly('Reason: Q.850;cause=16;text="Normal call clearing"');
    await world.through(t, { scenario: 'carrier-answers', replace: { bye } }, call);
  });

  await t.test(
    'the slower phone of a fork hears that the call was completed elsewhere',
    async (t) => {
      const slow = world.carrier(
        'carrier-is-cancelled',
        { cancel: exactly('Reason: SIP;cause=200;text="Call completed elsewhere"') },
        1,
      );
      const fast = world.carrier('carrier-answers', {}, 2);
      const uri = `sip:${FORKED}@127.0.0.1`;
      await world.call(t, { scenario: 'caller-hangs-up', uri, reason: 'Q.850;cause=16' });
      await ended(t, slow, 'the slower phone');
      await ended(t, fast, 'the faster phone');
    },
  );
});
