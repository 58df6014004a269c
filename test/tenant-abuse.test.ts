/**
 * Two accounts on one node, and one of them means harm: names, address blocks, number rewriting,
 * dry runs and Call-IDs must not reach what is the other's or the node's.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { DatabaseSync } from 'node:sqlite';
import t, { type Test } from 'tap';
import { DEFAULT_EGRESS, Egress } from '../src/call/egress.ts';
import { DEFAULT_TRACE, TraceBook } from '../src/call/trace.ts';
import { AddressGuard } from '../src/core/address.ts';
import { realClock } from '../src/core/clock.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import { type RestAnswer, startGateway, TEST_SID, type TestGateway } from './support/gateway.ts';

const NUMBER = '+15551230000';
const EVIL = `AC${'b'.repeat(32)}`;
const TOKEN = 'b'.repeat(32);
const SETTLED_MS = 400;
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, SETTLED_MS));

type Form = Record<string, string>;

interface World {
  readonly gateway: TestGateway;
  /** Of every application that was asked. */
  readonly asked: string[];
  readonly app: string;
  evil(method: string, path: string, form?: Form): Promise<RestAnswer>;
  /** Final status of an INVITE from a source of the victim's carrier. */
  invite(source: string, host: string, user?: string): Promise<number>;
}

/** The victim's carrier is at 127.0.5.1. */
async function world(t: Test, environment: Form = {}): Promise<World> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.setHeader('content-type', 'text/xml');
    response.end('<Response><Reject/></Response>');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const app = `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
  const gateway = await startGateway({
    TANDEM_SIP_TRUSTED: '127.9.9.9/32',
    TANDEM_SIP_ADVERTISE: 'sip.gw.example',
    ...environment,
  });
  t.teardown(async () => {
    server.close();
    await gateway.stop();
  });
  addAccount(gateway.dataDir);
  await gateway.rest('POST', 'Trunks.json', { InboundAddress: '127.0.5.1' });
  const number = { PhoneNumber: NUMBER, VoiceUrl: `${app}/victim` };
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', number);
  await settled();
  return {
    ...{ gateway, asked, app },
    evil: (method, path, form) => restOf(gateway, method, path, form),
    invite: (source, host, user = NUMBER) => invite(t, gateway.sipPort, { source, host, user }),
  };
}

function addAccount(dataDir: string): void {
  const database = new DatabaseSync(`${dataDir}/tandem.db`);
  const row = { ...database.prepare('select * from accounts').get() };
  const columns = Object.keys(row);
  const given = { ...row, sid: EVIL, auth_token: TOKEN } as Record<string, string>;
  database
    .prepare(`insert into accounts (${columns}) values (${columns.map(() => '?')})`)
    .run(...columns.map((name) => given[name] ?? ''));
  database.close();
}

async function restOf(
  { httpBase }: TestGateway,
  method: string,
  path: string,
  form?: Form,
): Promise<RestAnswer> {
  const response = await fetch(`${httpBase}/2010-04-01/Accounts/${EVIL}/${path}`, {
    method,
    headers: { authorization: `Basic ${Buffer.from(`${EVIL}:${TOKEN}`).toString('base64')}` },
    ...(form ? { body: new URLSearchParams(form) } : {}),
  });
  const text = await response.text();
  return { status: response.status, text, json: text === '' ? null : JSON.parse(text) };
}

let calls = 0;

async function invite(
  t: Test,
  port: number,
  { source, host, user }: { source: string; host: string; user: string },
): Promise<number> {
  const socket = createSocket('udp4');
  socket.bind(0, source);
  await once(socket, 'listening');
  const { address, port: own } = socket.address();
  calls += 1;
  const id = `${process.pid}-${calls}`;
  const sdp =
    `v=0\r\no=- 1 1 IN IP4 ${address}\r\ns=-\r\nc=IN IP4 ${address}\r\nt=0 0\r\n` +
    'm=audio 40000 RTP/AVP 0\r\n';
  const fields = [
    `INVITE sip:${user}@${host} SIP/2.0`,
    `Via: SIP/2.0/UDP ${address}:${own};rport;branch=z9hG4bK${id}`,
    'Max-Forwards: 70',
    `From: <sip:+1999@x>;tag=f${id}`,
    `To: <sip:${user}@${host}>`,
    `Call-ID: ${id}`,
    'CSeq: 1 INVITE',
    `Contact: <sip:x@${address}:${own}>`,
    'Content-Type: application/sdp',
    `Content-Length: ${sdp.length}`,
  ];
  const final = new Promise<number>((resolve) => {
    socket.on('message', (data) => {
      const status = Number(/^SIP\/2\.0 (\d{3})/.exec(data.toString('latin1'))?.[1] ?? 0);
      if (status >= 200) resolve(status);
    });
  });
  socket.send(`${fields.join('\r\n')}\r\n\r\n${sdp}`, port, '127.0.0.1');
  t.teardown(() => socket.close());
  return final;
}

t.test('the name of the gateway itself is nobody’s domain and no trunk’s', async (t) => {
  const { gateway, evil, invite, asked, app } = await world(t, {
    TANDEM_HTTP_PUBLIC_URL: 'http://api.gw.example',
    TANDEM_NODE_NAME: 'node1.gw.example',
  });
  for (const name of ['sip.gw.example', 'SIP.gw.example', 'api.gw.example', 'node1.gw.example']) {
    const taken = { status: 400, json: { code: 21231 } };
    const domain = { DomainName: name, VoiceUrl: `${app}/evil` };
    t.match(await evil('POST', 'SIP/Domains.json', domain), taken, name);
    t.match(await evil('POST', 'Trunks.json', { InboundDomain: name }), taken, name);
    t.match(await evil('POST', 'Trunks.json', { DomainName: name }), taken, name);
  }
  const other = await evil('POST', 'SIP/Domains.json', { DomainName: 'b.example' });
  t.equal(other.status, 201);

  // From before that was refused.
  const database = new DatabaseSync(`${gateway.dataDir}/tandem.db`);
  database.prepare('update sip_domains set domain_name = ?').run('sip.gw.example');
  database.close();
  for (const name of ['c.example', 'd.example']) {
    await evil('POST', 'SIP/Domains.json', { DomainName: name });
    await settled();
  }
  await invite('127.0.5.1', 'sip.gw.example');
  t.same(asked, ['/victim']);
  t.equal(gateway.lines.filter((line) => line.includes('is claimed by a row')).length, 1);
});

t.test('a wide block of addresses makes no stranger known', async (t) => {
  const { evil, gateway } = await world(t);
  const wide = [
    '0.0.0.0/0',
    '128.0.0.0/1',
    '8.0.0.0/7',
    '::/0',
    '2000::/3',
    '::ffff:0:0/96',
    '::/64',
  ];
  for (const InboundAddress of wide) {
    t.match(await evil('POST', 'Trunks.json', { InboundAddress }), { status: 400 }, InboundAddress);
  }
  for (const InboundAddress of [
    '10.0.0.0/8',
    '2001:db8::/32',
    '2001:db8::1',
    '::ffff:10.0.0.0/104',
  ]) {
    t.match(await evil('POST', 'Trunks.json', { InboundAddress }), { status: 201 }, InboundAddress);
  }
  const list = await evil('POST', 'SIP/IpAccessControlLists.json', { FriendlyName: 'x' });
  const entries = `SIP/IpAccessControlLists/${list.json.sid}/IpAddresses`;
  const entry = { FriendlyName: 'x', IpAddress: '0.0.0.0', CidrPrefixLength: '1' };
  t.equal((await evil('POST', `${entries}.json`, entry)).status, 400);
  const narrow = await evil('POST', `${entries}.json`, { ...entry, CidrPrefixLength: '8' });
  t.equal(narrow.status, 201);
  const widened = await evil('POST', `${entries}/${narrow.json.sid}.json`, {
    CidrPrefixLength: '1',
  });
  t.equal(widened.status, 400);

  // The row above says 10.0.0.0/8, a gateway besides: neither lets anybody dial there.
  await evil('POST', 'Trunks.json', { Gateways: JSON.stringify([{ uri: 'sip:10.0.0.5' }]) });
  await settled();
  const call = { To: 'sip:x@10.0.0.5', From: '+15550001111', Url: 'http://127.0.0.1:9/' };
  await gateway.rest('POST', 'Calls.json', call);
  await settled();
  t.ok(
    gateway.lines.some((line) => line.includes('DIAL_ADDRESS_REFUSED')) ||
      (await failure(gateway)).includes('DIAL_ADDRESS_REFUSED'),
  );
});

async function failure(gateway: TestGateway): Promise<string> {
  const { json } = await gateway.rest('GET', 'Calls.json');
  const trace = await gateway.rest('GET', `Calls/${json.calls[0].sid}/Trace.json`);
  return trace.text;
}

t.test('where wide blocks are allowed they are taken', async (t) => {
  const { evil } = await world(t, { TANDEM_TRUNK_WIDE_ADDRESS_BLOCKS: 'true' });
  t.equal((await evil('POST', 'Trunks.json', { InboundAddress: '0.0.0.0/0' })).status, 201);
});

t.test('a gateway of one trunk is no address for everybody to dial', (t) => {
  const guard = new AddressGuard({ allow: ['10.9.0.0/16'] });
  const egress = new Egress({ guard, isRegistered: () => false, ...DEFAULT_EGRESS });
  const inside = ['127.0.0.1', '169.254.169.254', '10.0.0.5', '::ffff:10.0.0.1', '224.0.0.1'];
  for (const address of inside) {
    t.notOk(egress.reaches(address), address);
    egress.addGateway(address);
    t.ok(egress.reaches(address), `${address}: within its dialogs`);
    t.notOk(egress.permits(address), `${address}: not dialled`);
  }
  t.ok(egress.permits('10.9.0.1'), 'what sip.allow has');
  t.end();
});

const STEALING = { inbound: 'as-is', stripDigits: 15, addPrefix: '+4477000' };

t.test('rewriting numbers takes no call of a shared carrier', async (t) => {
  const { gateway, evil, invite, asked, app } = await world(t);
  const shared = { InboundAddress: '127.0.6.1' };
  // Older than the victim's, so that it would be asked first.
  const Policy = JSON.stringify({ numbers: STEALING });
  await evil('POST', 'Trunks.json', { ...shared, Policy });
  const number = { PhoneNumber: '+4477000', VoiceUrl: `${app}/evil` };
  await evil('POST', 'IncomingPhoneNumbers.json', number);
  const german = { inbound: 'e164', countryCode: '1', nationalPrefix: '' };
  const read = { ...shared, Policy: JSON.stringify({ numbers: german }) };
  const made = await gateway.rest('POST', 'Trunks.json', read);
  t.equal(made.status, 201, made.text);
  await settled();

  await invite('127.0.6.1', '127.0.0.1');
  t.same(asked, ['/victim'], 'the dialled number first');

  t.equal(await invite('127.0.6.1', '127.0.0.1', '5551230000'), 404, 'both read it as theirs');
  t.same(asked, ['/victim']);
  await settled();
  t.ok(gateway.lines.some((line) => line.includes('trunks of several accounts')));
});

t.test('a dry run tells no number of another account', async (t) => {
  const { evil } = await world(t, { TANDEM_SIP_TRUSTED: '127.9.9.9/32' });
  const numbers = { inbound: 'as-is', countryCode: '49' };
  const Policy = JSON.stringify({ numbers });
  await evil('POST', 'Trunks.json', { InboundAddress: '127.0.7.7', Policy });
  await evil('POST', 'Trunks.json', { InboundAddress: '127.0.5.1', Policy });
  await settled();
  for (const Source of ['127.0.7.7', '127.9.9.9', '127.0.5.1']) {
    for (const To of ['1230000', '+99991230000']) {
      const { status, text } = await evil('POST', 'Explain.json', { From: '+1', To, Source });
      t.equal(status, 200);
      t.notMatch(text, NUMBER, `${To} from ${Source}`);
      t.notMatch(text, /PN[0-9a-f]{32}/);
      const isTrusted = Source === '127.9.9.9';
      t.match(text, isTrusted ? 'is not a number of this account' : 'is none of our numbers');
    }
  }
});

t.test('a Call-ID of one account’s call does not move to another’s', (t) => {
  const trace = new TraceBook({ ...DEFAULT_TRACE, clock: realClock });
  const [victim, thief] = [newSid('CA', realClock), newSid('CA', realClock)];
  const peer = { transport: 'udp', address: '127.0.0.1', port: 1 } as const;
  const message = { atMs: 1, direction: 'in', callId: 'x', peer, bytes: 5 } as const;
  trace.open(victim, TEST_SID as AccountSid);
  trace.bindSip('x', victim);
  trace.open(thief, EVIL as AccountSid);
  trace.bindSip('x', thief);
  trace.sip({ ...message, firstLine: 'BYE', retransmission: false });

  t.equal(trace.byCallId('x')?.callSid, victim);
  t.same(trace.entries(thief), []);
  t.equal(trace.entries(victim).at(-1)?.text, '<- BYE');
  trace.bindSip('y', thief);
  trace.sip({ ...message, firstLine: 'ACK', retransmission: false });
  t.equal(trace.entries(victim).at(-1)?.text, '<- ACK', 'still bound');
  t.end();
});
