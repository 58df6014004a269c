/**
 * SIP in: the verdict on every message of the torture set that can be given from the message
 * alone, framing of streams however they are cut, and what is sent again is what was read.
 */
import { existsSync, readFileSync } from 'node:fs';
import t from 'tap';
import { asGatewayError } from '../src/core/errors.ts';
import { type FramerItem, StreamFramer } from '../src/sip/framing.ts';
import {
  decodeUtf8,
  parseNameAddr,
  parseUri,
  responseTo,
  type SipMessage,
  serializeResponse,
} from '../src/sip/message.ts';
import { findSdp } from '../src/sip/multipart.ts';
import { type ParseFailure, parseMessage } from '../src/sip/parser.ts';
import { refusalOf } from '../src/sip/refusal.ts';

interface Entry {
  name: string;
  file: string;
  section: string;
  expect: 'accept' | 'reject' | 'error';
  status?: number;
  alsoAllowed?: (string | number)[];
  onStream?: string;
  kind: string;
}

const DATA = new URL('../../shared/data/torture/', import.meta.url);
const HAS_DATA = existsSync(new URL('index.json', DATA));
const SKIP = { skip: !HAS_DATA && 'no torture data' };

function entries(): Entry[] {
  return JSON.parse(readFileSync(new URL('index.json', DATA), 'utf8')) as Entry[];
}

function textOf(entry: Entry): string {
  return readFileSync(new URL(entry.file, DATA), 'latin1');
}

/**
 * Well formed, but refused by what stands above the parser: methods, extensions, authentication,
 * dialogs, routing. The parser must accept these and hand up what the decision needs.
 */
const DECIDED_ABOVE = new Set([
  ...['unksm2', 'bext01', 'invut', 'regaut01', 'bcast', 'zeromf', 'sdp01', 'response-unsolicited'],
  ...['ruri-metadata-ip', 'refer-file', 'contact-star-nonzero', 'auth-no-params', 'message-unauth'],
  ...['auth-dup-response', 'auth-uri-mismatch', 'rack-without-invite', 'bye-unknown', 'ack-stray'],
  'content-encoding-gzip-bomb',
]);

/** Refused earlier than the main verdict says, with a status the set allows as well. */
const REFUSED_EARLIER = new Map([
  ['register-contacts-500', 513],
  ['replaces-bogus', 513],
]);

function isBodyMatter(name: string): boolean {
  return name.startsWith('sdp-') || name.startsWith('mp-');
}

function parsed(text: string): SipMessage {
  const result = parseMessage(text, { stream: false });
  if (!result.ok) throw result.error;
  return result.message;
}

function failed(text: string, stream = false): ParseFailure {
  const result = parseMessage(text, { stream });
  if (result.ok) throw new TypeError('was accepted');
  return result;
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (thrown) {
    return asGatewayError(thrown).code;
  }
  return 'ok';
}

t.test('torture messages get their verdict', SKIP, async (t) => {
  const wrong: string[] = [];
  const all = entries();
  for (const entry of all) {
    // The one message of the set that is about streams alone.
    const stream = entry.name === 'cl-missing-stream';
    const result = parseMessage(textOf(entry), { stream });
    const verdict = result.ok ? 'accept' : result.error.row.sip;
    const isAccepted =
      entry.expect === 'accept' || DECIDED_ABOVE.has(entry.name) || isBodyMatter(entry.name);
    const status = REFUSED_EARLIER.get(entry.name) ?? entry.status;
    const isFine = isAccepted
      ? result.ok
      : !result.ok && (status === undefined || verdict === status);
    if (!isFine) wrong.push(`${entry.name}: ${verdict}, not ${entry.expect} ${status ?? ''}`);
    // A refusal with a status must be sendable, unless the set allows to drop the message.
    if (!isAccepted && entry.status !== undefined && !result.ok) {
      const mayDrop = entry.alsoAllowed?.some((other) => String(other).startsWith('drop'));
      if (refusalOf(result, 'x') === null && !mayDrop) wrong.push(`${entry.name}: no answer`);
    }
  }
  t.same(wrong, []);
  t.equal(all.length, 164);
});

t.test('what is no request is never answered', SKIP, async (t) => {
  const answered: string[] = [];
  for (const entry of entries()) {
    const result = parseMessage(textOf(entry), { stream: false });
    if (result.ok || entry.status !== undefined) continue;
    const reply = refusalOf(result, 'x');
    if (reply !== null) answered.push(entry.name);
  }
  t.same(answered, []);
});

t.test('torture messages on a stream', SKIP, async (t) => {
  const wrong: string[] = [];
  for (const entry of entries()) {
    const framer = new StreamFramer();
    const items = framer.push(Buffer.from(textOf(entry), 'latin1'));
    const kinds = items.map(({ kind }) => kind).join(' ');
    const expected = streamKinds(entry.onStream);
    if (expected !== null && !expected.test(kinds)) wrong.push(`${entry.name}: ${kinds}`);
    if (entry.onStream === 'wait-then-timeout' && !framer.hasPartial) wrong.push(entry.name);
  }
  t.same(wrong, []);
});

function streamKinds(onStream: string | undefined): RegExp | null {
  if (onStream === undefined) return null;
  if (onStream.startsWith('error-and-close')) return /(?:^| )broken$/;
  // One of the set's second messages declares less than its body: its tail is garbage.
  if (onStream === 'two-messages') return /^message message(?: broken)?$/;
  if (onStream === 'wait-then-timeout') return /^$/;
  if (onStream === 'pong') return /^ping$/;
  return onStream === 'close' ? /^broken$/ : /^unknown verdict$/;
}

t.test('multipart bodies of the torture set', SKIP, async (t) => {
  const found: Record<string, string> = {};
  for (const entry of entries().filter(({ name }) => name.startsWith('mp-'))) {
    const message = parsed(textOf(entry));
    found[entry.name] = codeOf(() => findSdp(message));
    const isAccepted = entry.expect === 'accept';
    t.equal(found[entry.name] === 'ok', isAccepted, `${entry.name}: ${found[entry.name]}`);
  }
  const isup = entries().find(({ name }) => name === 'mp-related-isup') as Entry;
  t.match(findSdp(parsed(textOf(isup))), /^v=0\r\n[\s\S]*a=sendrecv(\r\n)?$/);
});

t.test('what was tortuous is read right', SKIP, async (t) => {
  const of = (name: string): SipMessage =>
    parsed(textOf(entries().find((entry) => entry.name === name) as Entry));
  const wsinv = of('wsinv');
  t.equal(wsinv.cseq, 9);
  t.equal(wsinv.maxForwards, 68);
  t.equal(wsinv.toTag, '1918181833n');
  t.equal(wsinv.fromTag, '98asjd8');
  t.equal(wsinv.via.host, '192.0.2.2');
  t.equal(wsinv.via.branch, '390skdjuw');
  t.equal(wsinv.list('Via').length, 3);
  t.equal(wsinv.header('UnknownHeaderWithUnusualValue'), ';;,,;;,;');
  t.equal(wsinv.header('newfangledheader'), 'newfangled value continued newfangled value');
  t.equal(wsinv.header('Subject'), '');
  t.equal(parseNameAddr(wsinv.header('From') ?? '').display, 'J Rosenberg \\"');
  t.equal(parseNameAddr(wsinv.header('Contact') ?? '').params.get('q'), '0.33');
  t.equal(parseUri(of('esc01').uri).user, 'sips%3Auser%40example.com');
  t.equal(of('esc02').method, 'RE%47IST%45R');
  t.equal(parseUri(of('semiuri').uri).user, 'user;par=u%40example.net');
  const escnull = of('escnull')
    .list('Contact')
    .map((text) => parseNameAddr(text).uri?.user);
  t.equal(new Set(escnull).size, 2);
  t.equal(of('dblreq').body, '');
  t.equal(of('mpart01').body.length, 553);
  t.same([...of('cparam01').list('Contact')].length, 1);
  t.equal(parseNameAddr(of('cparam01').header('Contact') ?? '').params.has('unknownparam'), true);
  t.equal(
    parseNameAddr(of('cparam02').header('Contact') ?? '').uri?.params.has('unknownparam'),
    true,
  );
  t.match(parseNameAddr(of('regescrt').header('Contact') ?? '').uri?.headers, /^Route=/);
  t.equal(parseUri(of('port-ambiguous').uri).port, undefined);
  t.equal(parseUri(of('port-unambiguous').uri).port, 5070);
  t.equal(of('via-received-param-with-delim').via.params.get('received'), '[2001:db8::9:255]');
  t.equal(decodeUtf8(of('unreason').reason).length < of('unreason').reason.length, true);
  t.equal(of('proto-pollution').header('__proto__') === undefined, false);
});

const INVITE = [
  'INVITE sip:bob@example.com SIP/2.0',
  'Via: SIP/2.0/UDP 192.0.2.1:5066;rport;branch=z9hG4bKabc',
  'Max-Forwards: 70',
  'From: "Al, ice" <sip:alice@example.com>;tag=1',
  'To: <sip:bob@example.com>',
  'Call-ID: c1@192.0.2.1',
  'CSeq: 3 INVITE',
  'Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>',
  'X-Odd  :  kept, as it came ',
  'Content-Length: 4',
  '',
  'body',
].join('\r\n');

function without(name: string): string {
  return INVITE.split('\r\n')
    .filter((line) => !line.startsWith(`${name}:`))
    .join('\r\n');
}

function withLine(line: string): string {
  return INVITE.replace('Content-Length', `${line}\r\nContent-Length`);
}

t.test('a request is read', async (t) => {
  const message = parsed(INVITE);
  t.equal(message.method, 'INVITE');
  t.equal(message.uri, 'sip:bob@example.com');
  t.equal(message.callId, 'c1@192.0.2.1');
  t.equal(message.body, 'body');
  t.equal(message.header('x-odd'), 'kept, as it came');
  t.equal(message.header('i'), 'c1@192.0.2.1');
  t.same(message.list('record-route'), ['<sip:p1.example.com;lr>', '<sip:p2.example.com;lr>']);
  t.equal(message.names()[7], 'X-Odd');
  t.equal(message.via.transport, 'UDP');
  t.equal(message.via.port, 5066);
  t.equal(parsed(`\r\n\r\n${INVITE}`).sizeBytes, INVITE.length + 4);
});

t.test('each required header is required, and once', async (t) => {
  for (const name of ['Via', 'From', 'To', 'Call-ID', 'CSeq']) {
    t.equal(failed(without(name)).error.code, 'SIP_MALFORMED', name);
  }
  for (const line of ['From: <sip:a@b>', 'i: x', 't: <sip:x@y>', 'l: 4', 'Max-Forwards: 70']) {
    t.equal(failed(withLine(line)).error.code, 'SIP_MALFORMED', line);
  }
  t.equal(failed(without('Via')).reply, null);
  t.not(failed(without('To')).reply, null);
});

t.test('caps have their own statuses', async (t) => {
  const of = (text: string): number => failed(text).error.row.sip;
  t.equal(of(withLine(`X: ${'y'.repeat(8192)}`)), 513);
  t.equal(of(withLine(Array(200).fill('X: y').join('\r\n'))), 513);
  t.equal(of(withLine(`Route: ${Array(41).fill('<sip:a>').join(',')}`)), 513);
  t.equal(of(withLine(Array(40).fill('Via: SIP/2.0/UDP h').join('\r\n'))), 513);
  t.equal(of(INVITE.replace('bob@', `${'b'.repeat(2048)}@`)), 414);
  t.equal(of(INVITE.replace('example.com SIP', `example.com${';p'.repeat(33)} SIP`)), 414);
  t.equal(of(INVITE.replace('tag=1', `tag=${'1'.repeat(257)}`)), 400);
  t.equal(of(INVITE.replace('bKabc', `bK${'a'.repeat(257)}`)), 400);
  t.equal(of(INVITE.replace('c1@', `${'c'.repeat(256)}@`)), 400);
  t.equal(of(INVITE + 'x'.repeat(65_536)), 513);
});

t.test('bytes that would mean two things are refused', async (t) => {
  const of = (text: string): string => failed(text).error.code;
  t.equal(of(withLine('A: b\nTo: c')), 'SIP_MALFORMED');
  t.equal(of(withLine('A: b\rTo: c')), 'SIP_MALFORMED');
  t.equal(of(withLine('A: b\0')), 'SIP_MALFORMED');
  t.equal(of(withLine('A b')), 'SIP_MALFORMED');
  t.equal(of(withLine('A b: c')), 'SIP_MALFORMED');
  t.equal(of(INVITE.replace('Length: 4', 'Length: 5')), 'SIP_MALFORMED');
  t.equal(of(INVITE.replace('Length: 4', 'Length: 0x4')), 'SIP_MALFORMED');
  t.equal(of(INVITE.replace('Length: 4', 'Length:')), 'SIP_MALFORMED');
  t.equal(of(INVITE.replace('SIP/2.0\r', 'SIP/3.0\r')), 'SIP_VERSION');
  t.equal(of(INVITE.replace('sip:bob@example.com SIP', 'h323:bob SIP')), 'SIP_SCHEME');
  t.equal(failed(INVITE.slice(0, 40)).error.code, 'SIP_MALFORMED');
  t.equal(parsed(INVITE.replace('Length: 4', 'Length: 2')).body, 'bo');
});

t.test('noise, keep-alives, responses and ACKs get no answer', async (t) => {
  t.equal(failed('\r\n\r\n').kind, 'keepalive');
  t.equal(failed('').kind, 'keepalive');
  t.equal(failed('GET / HTTP/1.1\r\n\r\n').kind, 'garbage');
  t.equal(failed('\x16\x03\x01\x02\x00').kind, 'garbage');
  const ack = failed(without('Call-ID').replace('INVITE sip', 'ACK sip'));
  t.equal(ack.isAck, true);
  t.equal(ack.reply, null);
  const response = failed(without('Call-ID').replace(/^INVITE.*\r\n/, 'SIP/2.0 200 OK\r\n'));
  t.equal(response.isResponse, true);
  t.equal(response.reply, null);
});

t.test('random bytes never throw', async (t) => {
  let seed = 0x5eed;
  const next = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
    return seed % below;
  };
  const bytes = Buffer.from(INVITE);
  let accepted = 0;
  for (let round = 0; round < 5000; round += 1) {
    const mutated = Buffer.from(bytes);
    for (let i = next(4); i >= 0; i -= 1) mutated[next(mutated.length)] = next(256);
    const cut = round % 5 === 0 ? mutated.subarray(0, next(mutated.length)) : mutated;
    const result = parseMessage(cut.toString('latin1'), { stream: round % 2 === 0 });
    if (result.ok) {
      accepted += 1;
      for (const name of result.message.names()) result.message.list(name);
      serializeResponse(responseTo(result.message, 400));
    } else {
      refusalOf(result, 'x');
    }
  }
  t.ok(accepted > 200 && accepted < 4800, `${accepted} of 5000 accepted`);
});

function describe(items: readonly FramerItem[]): string[] {
  return items.map((item) => {
    if (item.kind === 'message') return `message ${item.text}`;
    return item.kind === 'broken' ? `broken ${item.error.code}` : 'ping';
  });
}

t.test('a stream cut anywhere gives the same messages', async (t) => {
  const options = INVITE.replaceAll('INVITE', 'OPTIONS').replace(
    'Content-Length: 4',
    'l  :\r\n 00004',
  );
  const good = `${INVITE}\r\n\r\n${options}${INVITE.replaceAll('\r\nX-Odd', '\r\nY')}`;
  const bad = [
    `${good}garbage without end\r\n`,
    `${good}${without('Content-Length')}`,
    `${good}${withLine('l: 9')}`,
    `${good}${withLine('A: b\nc')}`,
    good,
  ];
  let seed = 7;
  const next = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const wrong: string[] = [];
  for (const text of bad) {
    const whole = describe(new StreamFramer().push(Buffer.from(text)));
    if (whole.filter((item) => item.startsWith('message')).length !== 3) wrong.push('not three');
    for (let round = 0; round < 200; round += 1) {
      const framer = new StreamFramer();
      const items: FramerItem[] = [];
      for (let at = 0; at < text.length; ) {
        const size = round === 0 ? 1 : 1 + next(round % 2 === 0 ? 9 : 900);
        items.push(...framer.push(Buffer.from(text.slice(at, at + size))));
        at += size;
      }
      if (describe(items).join('\0') !== whole.join('\0')) wrong.push(`round ${round}`);
    }
  }
  t.same(wrong, []);
});

t.test('a broken stream stays broken and is answered from what came', async (t) => {
  const framer = new StreamFramer();
  const [item] = framer.push(Buffer.from(INVITE.replace('Length: 4', 'Length: -4')));
  t.equal(item?.kind, 'broken');
  t.same(framer.push(Buffer.from(INVITE)), []);
  t.equal(framer.hasPartial, false);
  t.equal(framer.heldBytes, 0);
  if (item?.kind !== 'broken') return;
  const reply = refusalOf(failed(item.partial, true), 'x');
  t.equal(reply?.status, 400);
  t.same(
    reply?.headers.map(([name]) => name),
    ['Via', 'From', 'To', 'Call-ID', 'CSeq'],
  );
});

t.test('a stream holds no more than one message', async (t) => {
  const framer = new StreamFramer();
  const line = Buffer.from(`X: ${'y'.repeat(1000)}\r\n`);
  let items = framer.push(Buffer.from('INVITE sip:a@b SIP/2.0\r\n'));
  for (let n = 0; n < 70 && items.length === 0; n += 1) items = framer.push(line);
  t.match(items[0], { kind: 'broken', error: { code: 'SIP_TOO_LARGE' } });
  const large = new StreamFramer().push(Buffer.from(INVITE.replace('Length: 4', 'Length: 65537')));
  t.equal(large[0]?.kind, 'broken');
  const started = process.cpuUsage();
  const slow = new StreamFramer();
  for (let n = 0; n < 60_000; n += 1) slow.push(Buffer.from('\r\n'.charAt(n % 2)));
  for (const byte of Buffer.from(`INVITE sip:a@b SIP/2.0\r\nX: ${'y'.repeat(60_000)}`)) {
    slow.push(Buffer.from([byte]));
  }
  t.ok(process.cpuUsage(started).user < 2_000_000, 'linear in single bytes');
  t.equal(slow.hasPartial, true);
});
