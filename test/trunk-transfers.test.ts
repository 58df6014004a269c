/**
 * What a trunk's TransferMode and TransferCallerId, as trunking v1 has them, make of a REFER that
 * comes through it: where to, and whom the target sees.
 */
import { existsSync } from 'node:fs';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { type AppServer, startAppServer } from './support/app-server.ts';
import { startGateway, TEST_SID, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const NUMBER = '+4930100';
const ELSEWHERE = '+4930222';

interface Scene {
  readonly app: AppServer;
  readonly gateway: TestGateway;
  /** The phone system behind the trunk, which answers its number and then refers. */
  readonly office: Phone;
  readonly caller: Phone;
  readonly target: Phone;
  readonly set: (settings: Record<string, string>) => Promise<void>;
}

/** A caller talks with the office behind a trunk; another trunk leads to all other numbers. */
async function scene(t: Test, settings: Record<string, string>): Promise<Scene> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({ TANDEM_DRAIN_DEADLINE_MS: '0' });
  const phones: Phone[] = [];
  t.teardown(async () => {
    await Promise.all(phones.map((phone) => phone.close()));
    await gateway.stop();
    await app.close();
  });
  const phone = async (options: PhoneOptions): Promise<Phone> => {
    const made = await startPhone(options);
    phones.push(made);
    return made;
  };
  const [office, caller, target] = [
    await phone({ user: 'office' }),
    await phone({ user: '+4989777' }),
    await phone({ user: 'target' }),
  ];
  const trunk = async (port: number, pattern: string): Promise<string> => {
    const made = await gateway.rest('POST', 'Trunks.json', {
      FriendlyName: pattern,
      NumberPattern: pattern,
      Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${port};transport=udp` }]),
    });
    return made.json.sid;
  };
  const sid = await trunk(office.sipPort, '+4930100');
  await trunk(target.sipPort, '+4930222');
  const set = async (form: Record<string, string>): Promise<void> => {
    const response = await fetch(`${gateway.httpBase}/v1/Trunks/${sid}`, {
      method: 'POST',
      headers: {
        authorization: `Basic ${Buffer.from(`${TEST_SID}:${TEST_TOKEN}`).toString('base64')}`,
        'content-type': 'application/x-www-form-urlencoded',
      },
      body: new URLSearchParams(form).toString(),
    });
    if (response.status !== 200) throw new Error(await response.text());
    await delay(100);
  };
  await set(settings);
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', { PhoneNumber: NUMBER, TrunkSid: sid });
  await delay(100);
  const answer = await caller.call(`sip:${NUMBER}@127.0.0.1`, gateway.sipPort);
  t.match(answer.firstLine, '200');
  await office.waitFor(({ firstLine }) => firstLine.startsWith('ACK'));
  await delay(300);
  return { app, gateway, office, caller, target, set };
}

const toNumber = ({ gateway }: Scene): string => `<sip:${ELSEWHERE}@127.0.0.1:${gateway.sipPort}>`;

function invited(phone: Phone): number {
  return phone.received.filter(({ firstLine }) => firstLine.startsWith('INVITE')).length;
}

async function fromOf(target: Phone): Promise<string> {
  const invite = await target.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  return /sip:([^@]+)@/.exec(header(invite, 'from'))?.[1] ?? '';
}

t.test(
  'the target sees who is transferred, unless it shall see who transfers',
  { skip },
  async (t) => {
    for (const [TransferCallerId, seen] of [
      ['from-transferee', '+4989777'],
      ['from-transferor', NUMBER],
    ] as const) {
      const s = await scene(t, { TransferMode: 'enable-all', TransferCallerId });
      t.match((await s.office.refer(toNumber(s))).firstLine, '202', TransferCallerId);
      t.equal(await fromOf(s.target), seen, TransferCallerId);
    }
  },
);

t.test('sip-only: to an address, and to no number', { skip }, async (t) => {
  const s = await scene(t, { TransferMode: 'sip-only' });
  t.match((await s.office.refer(toNumber(s))).firstLine, '603');
  t.match((await s.office.refer(`<tel:${ELSEWHERE}>`)).firstLine, /SIP\/2\.0 [46]/);
  await delay(200);
  t.equal(invited(s.target), 0, 'nobody was called');
  t.match((await s.office.refer(`<${s.target.uri}>`)).firstLine, '202');
  t.equal(await fromOf(s.target), '+4989777');
});

t.test('disable-all: nothing', { skip }, async (t) => {
  const s = await scene(t, { TransferMode: 'disable-all' });
  t.match((await s.office.refer(`<${s.target.uri}>`)).firstLine, /SIP\/2\.0 (?:405|603)/);
  await delay(200);
  t.equal(invited(s.target), 0);
});
