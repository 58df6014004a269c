/**
 * The gateway process is killed while calls are being set up, and started again: whoever still
 * rings is told, an answer that nobody acknowledged is said again, and a trunk that wants to know
 * who hangs up is told that too.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import {
  type HeaderField,
  responseTo,
  type SipMessage,
  serializeRequest,
  serializeResponse,
} from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { delay, header, type Phone, type PhoneOptions, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
/** Longer than the journal gathers. */
const WRITTEN_MS = 400;

async function phoneFor(t: Test, options: PhoneOptions = {}): Promise<Phone> {
  const phone = await startPhone(options);
  t.teardown(() => phone.close());
  return phone;
}

/** A gateway whose calls run `document`; `place` holds the one that runs now. */
async function gatewayFor(t: Test, document: () => string): Promise<{ now: TestGateway }> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  app.on('/voice', document);
  const place = { now: await startGateway({ TANDEM_APP_URL: `${app.base}/voice` }) };
  t.teardown(async () => {
    await place.now.stop();
    await app.close();
  });
  return place;
}

/** A SIP peer without a will of its own. */
class Peer {
  readonly heard: SipMessage[] = [];
  readonly port: number;
  onRequest: (request: SipMessage) => void = () => undefined;
  readonly #socket: Socket;

  static async open(t: Test): Promise<Peer> {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    t.teardown(() => socket.close());
    return new Peer(socket);
  }

  constructor(socket: Socket) {
    this.#socket = socket;
    this.port = (socket.address() as AddressInfo).port;
    socket.on('message', (data) => {
      const read = parseMessage(data.toString('latin1'), { stream: false });
      if (!read.ok) return;
      this.heard.push(read.message);
      if (read.message.isRequest) this.onRequest(read.message);
    });
  }

  send(text: string, port: number): void {
    this.#socket.send(Buffer.from(text, 'latin1'), port, '127.0.0.1');
  }

  /** To where the request's Via says. */
  answer(request: SipMessage, status: number, headers: HeaderField[] = [], body = ''): void {
    const contact: HeaderField = ['Contact', `<sip:peer@127.0.0.1:${this.port}>`];
    const all = [contact, ...headers];
    const response = responseTo(request, status, { toTag: 'peer', headers: all, body });
    this.send(serializeResponse(response), request.via.port ?? 5060);
  }

  async until(match: (message: SipMessage) => boolean): Promise<SipMessage> {
    for (;;) {
      const known = this.heard.find(match);
      if (known !== undefined) return known;
      await delay(20);
    }
  }
}

const SDP = [
  'v=0',
  'o=- 1 1 IN IP4 127.0.0.1',
  's=-',
  'c=IN IP4 127.0.0.1',
  't=0 0',
  'm=audio 40000 RTP/AVP 0',
  '',
].join('\r\n');

t.test('a caller who rings is refused, a callee who rings is told to stop', { skip }, async (t) => {
  const callee = await phoneFor(t, { user: 'bob', onInvite: 'ring' });
  const caller = await phoneFor(t);
  const dial = `<Dial answerOnBridge="true"><Sip>${callee.uri}</Sip></Dial>`;
  const place = await gatewayFor(t, () => `<Response>${dial}</Response>`);

  const final = caller.call('sip:x@127.0.0.1', place.now.sipPort);
  const ringing = await caller.waitFor(({ firstLine }) => firstLine.startsWith('SIP/2.0 180'));
  const invite = await callee.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  await delay(WRITTEN_MS);
  place.now = await place.now.crash();

  const refused = await final;
  t.match(refused.firstLine, /^SIP\/2\.0 503 /);
  t.equal(header(refused, 'to'), header(ringing, 'to'), 'with the tag of what he was told before');
  t.match(header(refused, 'retry-after'), /^\d+$/);
  const cancel = await callee.waitFor(({ firstLine }) => firstLine.startsWith('CANCEL'));
  t.equal(header(cancel, 'via'), header(invite, 'via'), 'on the branch of the INVITE');
  t.equal(header(cancel, 'call-id'), header(invite, 'call-id'));
  const ack = await callee.waitFor(({ firstLine }) => firstLine.startsWith('ACK'));
  t.equal(header(ack, 'via'), header(invite, 'via'), 'its 487 is acknowledged');
  const { json } = await place.now.rest('GET', 'Calls.json');
  t.same(
    json.calls.map((call: { status: string }) => call.status),
    ['canceled', 'failed'],
  );
});

t.test('an answer that nobody acknowledged yet is said again', { skip }, async (t) => {
  const place = await gatewayFor(t, () => '<Response><Gather timeout="30"/></Response>');
  const caller = await Peer.open(t);
  const request = (method: string, branch: string, to: string, body = ''): string =>
    serializeRequest({
      method,
      uri: `sip:x@127.0.0.1:${place.now.sipPort}`,
      headers: [
        ['Via', `SIP/2.0/UDP 127.0.0.1:${caller.port};branch=${branch}`],
        ['Max-Forwards', '70'],
        ['From', '<sip:caller@127.0.0.1>;tag=caller'],
        ['To', to],
        ['Call-ID', 'unacknowledged'],
        ['CSeq', `1 ${method}`],
        ['Contact', `<sip:caller@127.0.0.1:${caller.port}>`],
        ...(body === '' ? [] : [['Content-Type', 'application/sdp'] as const]),
      ],
      body,
    });
  caller.send(request('INVITE', 'z9hG4bK-invite', '<sip:x@127.0.0.1>', SDP), place.now.sipPort);
  const answer = await caller.until(({ status }) => status === 200);
  await delay(WRITTEN_MS);

  place.now = await place.now.crash();
  caller.heard.length = 0;

  const again = await caller.until(({ status }) => status === 200);
  t.equal(again.body, answer.body);
  t.equal(again.toTag, answer.toTag);
  caller.send(request('ACK', 'z9hG4bK-ack', answer.header('To') ?? ''), place.now.sipPort);
  await delay(100);
  caller.heard.length = 0;
  await delay(1_200);
  t.same(caller.heard, [], 'until it is acknowledged, and the call goes on');
  const { json } = await place.now.rest('GET', 'Calls.json?Status=in-progress');
  t.equal(json.calls.length, 1);
  await place.now.rest('POST', `Calls/${json.calls[0].sid}.json`, { Status: 'completed' });
  caller.answer(await caller.until(({ method }) => method === 'BYE'), 200);
});

t.test('a trunk that challenges the BYE of a taken-back call is answered', { skip }, async (t) => {
  const place = await gatewayFor(t, () => '<Response/>');
  const carrier = await Peer.open(t);
  const challenge = (nonce: string): HeaderField[] => [
    ['Proxy-Authenticate', `Digest realm="carrier.example", nonce="${nonce}", qop="auth"`],
  ];
  carrier.onRequest = (request) => {
    if (request.method === 'ACK') return;
    const isProven = request.header('Proxy-Authorization') !== undefined;
    if (!isProven) carrier.answer(request, 407, challenge(request.method));
    else carrier.answer(request, 200, [], request.method === 'INVITE' ? SDP : '');
  };
  const password = 'only-in-the-store';
  await place.now.rest('POST', 'Trunks.json', {
    FriendlyName: 'carrier',
    NumberPattern: '+49*',
    Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${carrier.port};transport=udp` }]),
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 } }),
    Username: 'us',
    Password: password,
  });
  const made = await place.now.rest('POST', 'Calls.json', {
    To: '+4930123',
    From: '+4930999',
    Twiml: '<Response><Pause length="30"/></Response>',
  });
  t.match(made.json, { start_time: null, status: 'queued' }, 'it has not begun');
  await carrier.until(({ method, cseqMethod }) => method === 'ACK' && cseqMethod === 'ACK');
  await carrier.until((one) => one.header('Proxy-Authorization') !== undefined);
  await delay(1_000);
  const journal = join(place.now.dataDir, 'journal');
  const text = readdirSync(journal).map((name) => readFileSync(join(journal, name), 'utf8'));
  t.notMatch(text.join(), password, 'no journal has the password');
  t.match(text.join(), 'carrier.example', 'but whom it is for');

  place.now = await place.now.crash();
  const ended = await place.now.rest('POST', `Calls/${made.json.sid}.json`, {
    Status: 'completed',
  });

  t.equal(ended.status, 200);
  const bye = await carrier.until((one) => {
    return one.method === 'BYE' && one.header('Proxy-Authorization') !== undefined;
  });
  t.match(bye.header('Proxy-Authorization'), 'nonce="BYE"');
});
