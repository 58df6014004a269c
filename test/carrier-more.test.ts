/**
 * More that carriers test, by SIPp with real sockets, success and refusal of each: 3xx, early media
 * by P-Early-Media, descriptions in multipart, and registrations with Path and outbound flows. The
 * scenarios are in test/peers.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { Call } from '../src/call/call.ts';
import type { InboundRoute } from '../src/call/route.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { ACCOUNT, APPLICATION, type CallNode, ended, startNode } from './support/call-node.ts';
import { freePort, startGateway, type TestGateway } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, type SippOptions, type SippResult, startSipp } from './support/sipp.ts';
import { trunkRoute } from './support/trunk.ts';

const skip = hasSipp() && existsSync(ADDON_PATH) ? false : 'needs sipp and the media addon';

function succeeded(t: Test, result: SippResult, what: string): void {
  t.equal(result.code, 0, `${what} ${result.code === 0 ? '' : result.output.slice(-3000)}`);
}

/** RTP ports are even (RFC 3550 §11). */
async function freeMediaPort(): Promise<number> {
  return 2 * Math.floor((await freePort()) / 2);
}

// --- SIPp calls us ----------------------------------------------------------------------------

function routeTo(user: string): InboundRoute {
  return {
    kind: 'application',
    accountSid: ACCOUNT,
    application: APPLICATION,
    statusCallback: null,
    ...{ to: user, from: '+15550100', trunkSid: null, trunk: null },
  };
}

async function serve(node: CallNode): Promise<void> {
  for (;;) {
    const call = await node.nextCall();
    call.act({ kind: 'ring', earlyMedia: true });
    void delay(200).then(() => call.act({ kind: 'answer' }));
  }
}

t.test('SIPp calls', { skip }, async (t) => {
  const node = await startNode({ inbound: routeTo, mediaPorts: [25_600, 25_699] });
  t.teardown(() => node.close());
  void serve(node);
  const run = async (
    scenario: string,
    replace: NonNullable<SippOptions['replace']>,
  ): Promise<SippResult> => {
    return startSipp({
      ...{ scenario, replace, calls: 1, timeoutSeconds: 15, service: 'ring' },
      port: await freePort(),
      target: `127.0.0.1:${node.sipPort}`,
      mediaPort: await freeMediaPort(),
    }).done;
  };

  t.test('P-Early-Media: told to who knows it, and to nobody else', async (t) => {
    const told = 'P-Early-Media: sendonly';
    const known = { fields: 'P-Early-Media: supported', told, check: 'check_it' };
    succeeded(t, await run('early-caller', known), 'supported');
    for (const fields of ['Subject: none', 'P-Early-Media: sendrecv']) {
      const unknown = { fields, told: 'P-Early-Media', check: 'check_it_inverse' };
      succeeded(t, await run('early-caller', unknown), fields);
    }
  });

  t.test('multipart: the description is found, what must be understood is 415', async (t) => {
    const isup = 'Content-Type: application/isup;version=itu-t92+';
    const inside = '01004800';
    for (const part of [
      isup,
      `${isup}\nContent-Disposition: signal;handling=optional`,
      'Content-Type: application/vnd.example+xml\nContent-Disposition: render;handling=optional',
    ]) {
      const name = part.replace('\n', ' ');
      succeeded(t, await run('multipart-caller', { part, inside }), name);
    }
    const calls = (): number => new Set(node.notices.map(({ call }) => call.sid)).size;
    const before = calls();
    const part = `${isup}\nContent-Disposition: signal;handling=required`;
    const refused = { part, inside, status: '415', told: 'Accept: [^\\r]*application/sdp' };
    succeeded(t, await run('multipart-refused', refused), 'required and unknown');
    t.equal(calls(), before, 'was no call');
  });
});

// --- We call SIPp -----------------------------------------------------------------------------

t.test('SIPp sends us elsewhere', { skip }, async (t) => {
  /** We call the first, which names the other, where SIPp does `scenario`. */
  const moved = async (
    t: Test,
    given: { mode: 'follow' | 'refuse'; status?: string; contact?: string; scenario?: string },
  ): Promise<{ call: Call; first: Promise<SippResult>; other: Promise<SippResult> | null }> => {
    const [port, otherPort] = [await freePort(), await freePort()];
    const { mode, scenario, status = '302 Moved Temporarily' } = given;
    const { contact = `<sip:there@127.0.0.1:${otherPort};transport=udp>` } = given;
    const common = { calls: 1, timeoutSeconds: 20 };
    const replace = { contact: contact.replace('@self@', `127.0.0.1:${port}`), status };
    const first = startSipp({ ...common, scenario: 'redirects', port, replace });
    const other =
      scenario === undefined
        ? null
        : startSipp({
            ...{ ...common, scenario, port: otherPort, replace: { status: '486 Busy Here' } },
            mediaPort: await freeMediaPort(),
          });
    const gateways = [{ uri: `sip:127.0.0.1:${port};transport=udp`, priority: 1, weight: 1 }];
    const node = await startNode({
      trunks: [trunkRoute({ gateways, policy: { redirect: { mode } } })],
      mediaPorts: [25_700, 25_799],
    });
    t.teardown(() => node.close());
    await delay(400);
    const call = node.router.originate({
      ...{ accountSid: ACCOUNT, from: '+15551234567', application: APPLICATION },
      ...{ statusCallback: null, ringTimeoutMs: 10_000 },
      target: { kind: 'number', number: '+15557654321' },
    });
    return { call, first: first.done, other: other?.done ?? null };
  };

  t.test('followed: the other answers', async (t) => {
    for (const status of ['302 Moved Temporarily', '301 Moved', '300 Choices']) {
      const { call, first, other } = await moved(t, {
        ...{ mode: 'follow', status, scenario: 'answer' },
      });
      while (call.record.status !== 'in-progress' && call.isLive) await delay(20);
      t.equal(call.record.status, 'in-progress', status);
      call.hangup();
      t.match(await ended(call), { status: 'completed' });
      succeeded(t, await first, 'the first is acknowledged');
      if (other !== null) succeeded(t, await other, 'the other has the call');
    }
  });

  t.test('followed: the other refuses, and that is the outcome', async (t) => {
    const { call, first, other } = await moved(t, { mode: 'follow', scenario: 'refuse' });
    t.match(await ended(call), { status: 'busy', sipStatus: 486 });
    succeeded(t, await first, 'acknowledged');
    if (other !== null) succeeded(t, await other, 'acknowledged too');
  });

  t.test('refused: by policy, back to where it came from, or with another use', async (t) => {
    for (const [what, given] of [
      ['policy', { mode: 'refuse' }],
      ['a loop', { mode: 'follow', contact: '<sip:+15557654321@@self@;transport=udp>' }],
      ['use proxy', { mode: 'follow', status: '305 Use Proxy' }],
      ['no SIP', { mode: 'follow', contact: '<mailto:carol@example.com>' }],
    ] as const) {
      const { call, first } = await moved(t, given);
      t.match(await ended(call), { status: 'failed' }, what);
      succeeded(t, await first, `${what}: acknowledged`);
    }
  });
});

// --- SIPp registers ---------------------------------------------------------------------------

const DOMAIN = 'phones.example';
const PASSWORD = 'Correct-Horse-9';
const INSTANCE = '+sip.instance="<urn:uuid:0f81d4fa-7dec-41d0-a765-00a0c91e6bf6>"';

async function registrar(t: Test): Promise<TestGateway> {
  const gateway = await startGateway({
    TANDEM_DRAIN_DEADLINE_MS: '0',
    TANDEM_REGISTRAR_PER_SECOND_MAX: '100',
  });
  t.teardown(() => gateway.stop());
  const make = async (path: string, form: Record<string, string>): Promise<string> => {
    const { status, json, text } = await gateway.rest('POST', `SIP/${path}.json`, form);
    if (status !== 201) throw new Error(`${path}: ${status} ${text}`);
    return json.sid;
  };
  const CredentialListSid = await make('CredentialLists', { FriendlyName: 'phones' });
  const alice = { Username: 'alice', Password: PASSWORD };
  await make(`CredentialLists/${CredentialListSid}/Credentials`, alice);
  const domain = await make('Domains', { DomainName: DOMAIN, SipRegistration: 'true' });
  await make(`Domains/${domain}/Auth/Registrations/CredentialListMappings`, { CredentialListSid });
  // Rows are read anew after a change.
  await delay(150);
  return gateway;
}

t.test('SIPp registers through Path and over flows', { skip }, async (t) => {
  const gateway = await registrar(t);
  const run = async (
    scenario: 'register-with' | 'register-requires',
    replace: Readonly<Record<string, string>>,
  ): Promise<SippResult> => {
    const common = { domain: DOMAIN, user: 'alice', password: PASSWORD };
    return startSipp({
      ...{ scenario, calls: 1, timeoutSeconds: 15, port: await freePort() },
      target: `127.0.0.1:${gateway.sipPort}`,
      replace: { ...common, expires: '600', status: '200', params: '', ...replace },
      // What it signs is the Request-URI; by itself it would say where it sends to.
      extra: ['-auth_uri', DOMAIN],
    }).done;
  };
  const held = async (): Promise<number> => {
    const { json } = await gateway.rest('GET', 'SIP/Registrations.json');
    return json.registrations.length;
  };
  const flow = { params: `;${INSTANCE};reg-id=1`, fields: 'Supported: path, outbound, gruu' };
  const path = 'Path: <sip:edge@127.0.0.1:5999;lr>';

  t.test('taken', async (t) => {
    const told = 'Path: .sip:edge@127.0.0.1:5999;lr.';
    const through = { fields: `Supported: path\n${path}`, told };
    succeeded(t, await run('register-with', through), 'Path is told back');
    t.equal(await held(), 1);
    for (const [told, what] of [
      ['Require: outbound', 'a flow'],
      ['Flow-Timer: [0-9]+', 'the same flow, with its timer'],
      ['pub-gruu=', 'and its GRUU'],
    ] as const) {
      succeeded(t, await run('register-with', { ...flow, told }), what);
      t.equal(await held(), 2, 'one flow is one registration');
    }
    const second = { ...flow, params: `;${INSTANCE};reg-id=2`, told: 'reg-id=2' };
    succeeded(t, await run('register-with', second), 'a second flow of one phone');
    t.equal(await held(), 3);
    const edge = `Supported: path, outbound\n${path.replace(';lr', ';lr;ob')}`;
    const over = { ...flow, fields: edge, told: 'Require: outbound' };
    succeeded(t, await run('register-with', over), 'a flow through an edge that keeps it');
    const required = { ...flow, fields: 'Require: outbound', told: 'Require: outbound' };
    succeeded(t, await run('register-with', required), 'required');
  });

  t.test('refused', async (t) => {
    const before = await held();
    const edge = { ...flow, fields: `Supported: path, outbound\n${path}` };
    const told = '439 First Hop Lacks Outbound Support';
    succeeded(t, await run('register-with', { ...edge, status: '439', told }), '439');
    const unknown = { fields: path, status: '420', told: 'Unsupported: path' };
    succeeded(t, await run('register-with', unknown), 'Path of a phone that knows none');
    const magic = { fields: 'Require: path, magic', status: '420', told: 'Unsupported: magic' };
    succeeded(t, await run('register-requires', magic), 'what nobody knows');
    const two = `;${INSTANCE};reg-id=7, <sip:b@127.0.0.1>;${INSTANCE};reg-id=8`;
    const several = { ...flow, params: two, status: '400', told: 'SIP/2.0 400' };
    succeeded(t, await run('register-with', several), 'two flows in one request');
    t.equal(await held(), before, 'nothing of it is held');
  });
});
