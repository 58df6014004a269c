/**
 * An application that joins two phones, three people with a voice of their own, and who hears
 * whom: what transfers are tried in.
 */
import t, { type Test } from 'tap';
import { type House, house } from './house.ts';
import { delay, type Phone, type PhoneOptions } from './phone.ts';
import { tone, toneShare } from './sound.ts';

export const ALICE_HZ = 600;
export const BOB_HZ = 700;
export const CAROL_HZ = 1100;

/** A house in which whoever is in a call may transfer it. */
export function transferHouse(t: Test, environment: Record<string, string> = {}): Promise<House> {
  return house(t, {
    TANDEM_SIP_REFER: 'accept',
    TANDEM_DRAIN_DEADLINE_MS: '0',
    ...environment,
  });
}

/** `caller` dials through the application, which dials `callee`; they talk. */
export async function join(
  { gateway, app }: House,
  caller: Phone,
  callee: Phone,
  attributes = '',
): Promise<void> {
  const name = `to${callee.sipPort}`;
  app.on('/voice', ({ params }) => {
    const port = /to(\d+)/.exec(params.To ?? '')?.[1] ?? '';
    return `<Response><Dial action="/dialled" ${attributes}><Sip>sip:x@127.0.0.1:${port}</Sip></Dial></Response>`;
  });
  app.on('/dialled', () => '<Response><Hangup/></Response>');
  const answer = await caller.call(`sip:${name}@127.0.0.1`, gateway.sipPort);
  t.match(answer.firstLine, '200');
  await callee.waitFor(({ firstLine }) => firstLine.startsWith('ACK'));
  await hearing([caller, callee]);
}

/** Until every phone hears something. */
export async function hearing(phones: readonly Phone[]): Promise<void> {
  for (const phone of phones) phone.forget();
  for (let tries = 0; tries < 60; tries += 1) {
    if (phones.every((phone) => phone.heard().samples.length > 4000)) break;
    await delay(50);
  }
}

export async function hears(
  t: Test,
  phone: Phone,
  hz: number,
  others: readonly number[],
  share = 0.8,
): Promise<void> {
  phone.forget();
  await delay(700);
  const sound = phone.heard();
  t.ok(toneShare(sound, hz) > share, `${phone.uri} hears ${hz} Hz: ${toneShare(sound, hz)}`);
  for (const other of others) {
    t.ok(toneShare(sound, other) < 0.1, `and not ${other} Hz: ${toneShare(sound, other)}`);
  }
}

export function gone(phone: Phone): Promise<unknown> {
  return phone.waitFor(({ firstLine }) => firstLine.startsWith('BYE'));
}

export function notifiedAs(phone: Phone, status: number): Promise<unknown> {
  return phone.waitFor(({ firstLine, body }) => {
    return firstLine.startsWith('NOTIFY') && body.startsWith(`SIP/2.0 ${status}`);
  });
}

export async function live({ gateway }: House): Promise<number> {
  for (let tries = 0; tries < 60; tries += 1) {
    const { json } = await gateway.rest('GET', 'Calls.json?Status=in-progress');
    if (json.calls.length === 0) return 0;
    await delay(50);
  }
  return (await gateway.rest('GET', 'Calls.json?Status=in-progress')).json.calls.length;
}

export function alice({ phone }: House, more: PhoneOptions = {}): Promise<Phone> {
  return phone({ user: 'alice', sound: tone(ALICE_HZ, 1), ...more });
}

export function bob({ phone }: House, more: PhoneOptions = {}): Promise<Phone> {
  return phone({ user: 'bob', sound: tone(BOB_HZ, 1), ...more });
}

export function carol({ phone }: House, more: PhoneOptions = {}): Promise<Phone> {
  return phone({ user: 'carol', sound: tone(CAROL_HZ, 1), ...more });
}
