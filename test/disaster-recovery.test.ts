/**
 * Numbers on a trunk: their calls pass through that trunk alone, and where none of its origination
 * URLs is reached, its disaster recovery URL says what becomes of the caller.
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_SID, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { type Phone, type PhoneOptions, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const NUMBER = '+4930100';

interface House {
  readonly app: AppServer;
  readonly gateway: TestGateway;
  phone(options?: PhoneOptions): Promise<Phone>;
}

async function house(t: Test): Promise<House> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({ TANDEM_DRAIN_DEADLINE_MS: '0' });
  const phones: Phone[] = [];
  t.teardown(async () => {
    await Promise.all(phones.map((phone) => phone.close()));
    await gateway.stop();
    await app.close();
  });
  const phone = async (options: PhoneOptions = {}): Promise<Phone> => {
    const made = await startPhone(options);
    phones.push(made);
    return made;
  };
  return { app, gateway, phone };
}

/** As the official library writes it: trunking v1, with all that lies below a trunk. */
async function v1(gateway: TestGateway, path: string, form: Record<string, string>) {
  const response = await fetch(`${gateway.httpBase}/v1/Trunks${path}`, {
    method: 'POST',
    headers: {
      authorization: `Basic ${Buffer.from(`${TEST_SID}:${TEST_TOKEN}`).toString('base64')}`,
      'content-type': 'application/x-www-form-urlencoded',
    },
    body: new URLSearchParams(form).toString(),
  });
  const text = await response.text();
  if (response.status > 299) throw new Error(`${path}: ${response.status} ${text}`);
  return JSON.parse(text);
}

/** A trunk with the number and these origination URLs, the first of them first. */
async function trunk(
  { gateway, app }: House,
  ports: readonly number[],
  more: Record<string, string> = { DisasterRecoveryUrl: `${app.base}/disaster` },
): Promise<string> {
  const { sid } = await v1(gateway, '', { FriendlyName: 'office', ...more });
  for (const [index, port] of ports.entries()) {
    await v1(gateway, `/${sid}/OriginationUrls`, {
      FriendlyName: `pbx ${index}`,
      SipUrl: `sip:127.0.0.1:${port};transport=udp`,
      Priority: String(index + 1),
      Weight: '1',
      Enabled: 'true',
    });
  }
  const made = await gateway.rest('POST', 'IncomingPhoneNumbers.json', { PhoneNumber: NUMBER });
  await v1(gateway, `/${sid}/PhoneNumbers`, { PhoneNumberSid: made.json.sid });
  return sid;
}

/** One that takes everything and says nothing. */
async function silentPort(t: Test): Promise<number> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => void socket.close());
  return (socket.address() as AddressInfo).port;
}

function invited(phone: Phone): number {
  return phone.received.filter(({ firstLine }) => firstLine.startsWith('INVITE')).length;
}

function call({ gateway }: House, caller: Phone) {
  return caller.call(`sip:${NUMBER}@127.0.0.1`, gateway.sipPort);
}

t.test('nobody is reached: the disaster recovery URL answers', { skip }, async (t) => {
  const scene = await house(t);
  const [full, broken] = [
    await scene.phone({ onInvite: 503 }),
    await scene.phone({ onInvite: 500 }),
  ];
  const sid = await trunk(scene, [full.sipPort, await silentPort(t), broken.sipPort], {
    DisasterRecoveryUrl: `${scene.app.base}/disaster?site=1`,
    DisasterRecoveryMethod: 'GET',
  });
  // Any number goes to another trunk, but for those that are on one.
  const elsewhere = await scene.phone();
  await scene.gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    NumberPattern: '*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${elsewhere.sipPort};transport=udp` }]),
  });
  await scene.gateway.rest('POST', `Trunks/${sid}.json`, {
    Policy: JSON.stringify({ failover: { noProvisionalMs: 600 } }),
  });
  scene.app.on('/disaster', () => '<Response><Record maxLength="5"/></Response>');
  const caller = await scene.phone();
  const answer = await call(scene, caller);

  t.match(answer.firstLine, '200', 'the document answers');
  const asked = await scene.app.waitFor('/disaster');
  t.ok(asked.isSigned);
  t.match(asked, {
    method: 'GET',
    params: { site: '1', To: NUMBER, DialCallStatus: 'failed', CallStatus: 'ringing' },
  });
  t.same([invited(full), invited(broken), invited(elsewhere)], [1, 1, 0]);
  t.equal(scene.app.seen.length, 1, 'asked once');
});

t.test('what its document dials in vain asks it no second time', { skip }, async (t) => {
  const scene = await house(t);
  const full = await scene.phone({ onInvite: 503 });
  await trunk(scene, [full.sipPort]);
  scene.app.on(
    '/disaster',
    () => `<Response><Dial answerOnBridge="true">${NUMBER}</Dial><Reject/></Response>`,
  );
  const answer = await call(scene, await scene.phone());
  t.match(answer.firstLine, /SIP\/2\.0 [45]/);
  t.equal(scene.app.seen.length, 1);
});

t.test('who was reached and would not has the last word', { skip }, async (t) => {
  const scene = await house(t);
  const busy = await scene.phone({ onInvite: 486 });
  await trunk(scene, [busy.sipPort]);
  t.match((await call(scene, await scene.phone())).firstLine, '486');
  t.same(scene.app.seen, [], 'busy is no disaster');
});

t.test('a trunk without origination URLs cannot be reached', { skip }, async (t) => {
  const scene = await house(t);
  await trunk(scene, []);
  scene.app.on('/disaster', () => '<Response><Reject reason="busy"/></Response>');
  t.match((await call(scene, await scene.phone())).firstLine, '486');
  t.match((await scene.app.waitFor('/disaster')).params, { ErrorCode: '13224' });
});

t.test('without that URL the caller is refused as the trunk refused', { skip }, async (t) => {
  const scene = await house(t);
  const full = await scene.phone({ onInvite: 503 });
  await trunk(scene, [full.sipPort], {});
  t.match((await call(scene, await scene.phone())).firstLine, /SIP\/2\.0 50[03]/);
  t.equal(invited(full), 1);
});
