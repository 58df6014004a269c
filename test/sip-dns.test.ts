/**
 * RFC 3263 with everything real: dnsmasq, a whole gateway and SIPp as the carrier's servers. One of
 * them is dead, NAPTR chooses the transport, and DNS dies while calls go on.
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { realClock } from '../src/core/clock.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import { SystemDns } from '../src/sip/dns-source.ts';
import { parseUri } from '../src/sip/message.ts';
import { Resolver } from '../src/sip/resolver.ts';
import { hasDnsmasq, startDnsmasq } from './support/dnsmasq.ts';
import { freePort, startGateway, type TestGateway } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, type SippRun, startSipp } from './support/sipp.ts';

const noDns = hasDnsmasq() ? false : 'dnsmasq is not installed';
const skip = noDns || (hasSipp() && existsSync(ADDON_PATH) ? false : 'no SIPp, or no media addon');

/** Takes everything and says nothing. */
async function deadServer(t: Test): Promise<{ port: number; heard: string[] }> {
  const socket = createSocket('udp4');
  const heard: string[] = [];
  socket.on('message', (data) => heard.push(data.toString('latin1').split('\r\n')[0] ?? ''));
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  return { port: (socket.address() as AddressInfo).port, heard };
}

async function carrier(t: Test, transport: 'u1' | 't1'): Promise<{ port: number; run: SippRun }> {
  const port = await freePort();
  const run = startSipp({ scenario: 'answer', port, transport, timeoutSeconds: 60 });
  t.teardown(() => run.stop());
  await delay(300);
  return { port, run };
}

async function trunkTo(gateway: TestGateway, uri: string, pattern: string): Promise<void> {
  const made = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: pattern,
    NumberPattern: pattern,
    Gateways: JSON.stringify([{ uri, priority: 1 }]),
    Policy: JSON.stringify({
      health: { optionsIntervalS: 0 },
      failover: { noProvisionalMs: 700 },
    }),
  });
  if (made.status !== 201) throw new Error(made.text);
}

/** Places a call, waits until it stands or is over, and ends it. */
async function call(
  gateway: TestGateway,
  to: string,
): Promise<{ status: string; tookMs: number; text: string }> {
  const startMs = performance.now();
  const { json, text } = await gateway.rest('POST', 'Calls.json', {
    To: to,
    From: '+4930999',
    Twiml: '<Response><Pause length="20"/></Response>',
  });
  if (json?.sid === undefined) throw new Error(text);
  for (let tries = 0; tries < 400; tries += 1) {
    const now = await gateway.rest('GET', `Calls/${json.sid}.json`);
    const { status } = now.json;
    if (status !== 'queued' && status !== 'ringing' && status !== 'initiated') {
      const tookMs = performance.now() - startMs;
      await gateway.rest('POST', `Calls/${json.sid}.json`, { Status: 'completed' });
      return { status, tookMs, text: now.text };
    }
    await delay(25);
  }
  throw new Error(`call to ${to} neither stands nor ended`);
}

function sourceAt(server: string): SystemDns {
  const options = {
    servers: [server],
    queryTimeoutMs: 1_000,
    hostsFile: '/dev/null',
    hostsFileBytesMax: 0,
    hostsFileTtlMs: 1_000,
  };
  return new SystemDns({ clock: realClock, options });
}

t.test('the records of a real server, as we read them', { skip: noDns }, async (t) => {
  const dns = await startDnsmasq([
    'naptr-record=all.test,20,10,s,SIP+D2U,,_sip._udp.all.test',
    'naptr-record=all.test,10,10,s,SIP+D2T,,_sip._tcp.all.test',
    'srv-host=_sip._tcp.all.test,b.all.test,5070,20,0',
    'srv-host=_sip._tcp.all.test,a.all.test,5060,10,5',
    'host-record=a.all.test,192.0.2.1,2001:db8::1,77',
    'host-record=b.all.test,192.0.2.2,77',
    'cname=alias.all.test,a.all.test',
  ]);
  t.teardown(() => dns.stop());
  const source = sourceAt(dns.address);
  const resolver = new Resolver({ clock: realClock, dns: source });
  const targets = async (uri: string): Promise<string[]> => {
    const found = await resolver.resolve(parseUri(uri));
    return found.map(({ transport, address, port }) => `${transport} ${address} ${port}`);
  };

  t.same(await targets('sip:x@all.test'), [
    'tcp 192.0.2.1 5060',
    'tcp 2001:db8::1 5060',
    'tcp 192.0.2.2 5070',
  ]);
  t.same(await source.addresses('a.all.test', 4), { records: ['192.0.2.1'], ttlMs: 77_000 });
  t.same(await targets('sip:x@alias.all.test:5080'), [
    'udp 192.0.2.1 5080',
    'udp 2001:db8::1 5080',
  ]);
  for (const name of ['none.test', 'elsewhere.example']) {
    await t.rejects(targets(`sip:x@${name}`), { code: 'SIP_TRANSPORT' }, name);
  }
});

t.test('a server that lies', async (t) => {
  /** The question back as an answer: the name, a type, and data of that type. */
  const answer = (question: Buffer, type: number, data: Buffer): Buffer => {
    const head = Buffer.from(question.subarray(0, 12));
    head.writeUInt16BE(0x8180, 2);
    head.writeUInt16BE(1, 6);
    head.writeUInt16BE(0, 10);
    const end = question.indexOf(0, 12) + 5;
    const record = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, data.length]);
    return Buffer.concat([head, question.subarray(12, end), record, data]);
  };
  const address = (last: number): Buffer => Buffer.from([192, 0, 2, last]);
  let reply = (question: Buffer): Buffer[] => [question];
  const socket = createSocket('udp4');
  socket.on('message', (question, { port }) => {
    for (const text of reply(question)) socket.send(text, port, '127.0.0.1');
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  const source = sourceAt(`127.0.0.1:${(socket.address() as AddressInfo).port}`);
  const ask = async (name: string): Promise<readonly string[]> => {
    const found = source.addresses(name, 4).catch(() => ({ records: ['failed'] }));
    return (await found).records;
  };

  reply = (question) => {
    const right = answer(question, 1, address(1));
    const spoofed = Array.from({ length: 100 }, (_, i) => {
      const wrong = answer(question, 1, address(66));
      wrong.writeUInt16BE((question.readUInt16BE(0) + 1 + i) & 0xffff, 0);
      return wrong;
    });
    return [...spoofed, right];
  };
  t.same(await ask('spoofed.test'), ['192.0.2.1'], 'who does not know the id is not heard');

  reply = (question) => [answer(question, 5, Buffer.from([0xc0, 12]))];
  t.notOk(
    (await ask('loop.test')).some((text) => text !== 'failed'),
    'a name for itself ends',
  );

  reply = (question) => [Buffer.concat([question.subarray(0, 14), Buffer.alloc(40, 0xc0)])];
  t.same(await ask('garbage.test'), ['failed']);
});

t.test('a carrier by name: one server dead, then DNS too', { skip }, async (t) => {
  const dead = await deadServer(t);
  const answering = await carrier(t, 'u1');
  const viaTcp = await carrier(t, 't1');
  const unused = await deadServer(t);
  const dns = await startDnsmasq([
    `srv-host=_sip._udp.carrier.test,sbc1.carrier.test,${dead.port},10,0`,
    `srv-host=_sip._udp.carrier.test,sbc2.carrier.test,${answering.port},20,0`,
    'host-record=sbc1.carrier.test,127.0.0.1,1',
    'host-record=sbc2.carrier.test,127.0.0.1,1',
    'naptr-record=chooses.test,10,10,s,SIP+D2T,,_sip._tcp.chooses.test',
    'naptr-record=chooses.test,20,10,s,SIP+D2U,,_sip._udp.chooses.test',
    `srv-host=_sip._tcp.chooses.test,sbc2.carrier.test,${viaTcp.port},10,0`,
    `srv-host=_sip._udp.chooses.test,sbc2.carrier.test,${unused.port},10,0`,
    `srv-host=_sip._udp.late.test,sbc2.carrier.test,${answering.port},10,0`,
  ]);
  t.teardown(() => dns.stop());
  const gateway = await startGateway({
    TANDEM_SIP_DNS_SERVERS: dns.address,
    TANDEM_SIP_DNS_CACHE_MS: '1000',
    TANDEM_SIP_DNS_TIMEOUT_MS: '1000',
  });
  t.teardown(() => gateway.stop());
  await trunkTo(gateway, 'sip:carrier.test;transport=udp', '+49*');
  await trunkTo(gateway, 'sip:chooses.test', '+33*');
  await trunkTo(gateway, 'sip:late.test', '+44*');

  const first = await call(gateway, '+4930123');
  t.equal(first.status, 'in-progress', 'the second server answers');
  t.ok(dead.heard.length > 0, 'the first was asked first');
  t.ok(first.tookMs < 2_000, `${first.tookMs} ms`);

  const before = dead.heard.length;
  const second = await call(gateway, '+4930124');
  t.equal(second.status, 'in-progress');
  t.ok(second.tookMs < 600, `${second.tookMs} ms: who is dead is known`);
  t.equal(dead.heard.filter((line) => line.startsWith('INVITE')).length, before);

  t.equal((await call(gateway, '+33123')).status, 'in-progress', 'NAPTR says TCP');
  t.same(unused.heard, []);

  dns.freeze(true);
  await delay(1_200);
  const patient = await call(gateway, '+33125');
  t.equal(patient.status, 'in-progress', 'DNS is silent');
  t.ok(patient.tookMs < 1_500, `${patient.tookMs} ms`);

  await dns.stop();
  await delay(1_200);
  for (const number of ['+4930125', '+33124', '+4930126', '+33125']) {
    const { status, tookMs, text } = await call(gateway, number);
    t.equal(status, 'in-progress', `${number} without DNS: ${text.slice(-100)}`);
    t.ok(tookMs < 2_500, `${tookMs} ms`);
  }
  const unknown = await call(gateway, '+44123');
  t.equal(unknown.status, 'failed', 'what was never known cannot be');

  await dns.start();
  await delay(5_500);
  t.equal((await call(gateway, '+44124')).status, 'in-progress', 'DNS is there again');
  await gateway.stop();
  const { failed } = await answering.run.stop();
  t.equal(failed, 0);
});
