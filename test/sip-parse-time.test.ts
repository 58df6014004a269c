/**
 * No message makes the reader work more than its size deserves: shapes that invite a scanner to
 * start over are read in about the time of an ordinary message of the same size, and twice the
 * size takes about twice the time. CPU time, the least of several runs, and wide bounds: what is
 * looked for is a factor of hundreds.
 */
import t from 'tap';
import { Secret } from '../src/core/log.ts';
import { authenticate } from '../src/sip/challenge.ts';
import { dialogOfRequest } from '../src/sip/dialog.ts';
import { DigestServer } from '../src/sip/digest.ts';
import { StreamFramer } from '../src/sip/framing.ts';
import type { SipMessage } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { refusalOf } from '../src/sip/refusal.ts';
import { readOffer, screen, screenInvite } from '../src/sip/screening.ts';
import { SimClock } from './support/sim.ts';

/** Of the time of an ordinary message of the same size. */
const FACTOR_MAX = 20;
/** Four times the bytes: 4 when linear, 16 when quadratic. */
const GROWTH_MAX = 9;
/** Below this nothing stalls, and the clock's grain makes ratios meaningless. */
const NEGLIGIBLE_MS = 0.5;
const RUNS = 5;
const LINE_BYTES = 8000;

const server = new DigestServer({
  clock: new SimClock({ seed: 1 }),
  realm: 'r',
  nonceSecret: new Secret('k'),
});

function invite(headers: string, body = '', type = 'application/sdp'): string {
  return (
    'INVITE sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKx;rport\r\n' +
    'Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:us@10.0.0.1>\r\nCall-ID: c\r\n' +
    `CSeq: 1 INVITE\r\nContact: <sip:a@10.0.0.2>\r\n${headers}` +
    `Content-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  );
}

/** As many lines of one header, each as long as may be, as `bytes` hold. */
function lines(name: string, bytes: number, unit: string, start = ''): string {
  let text = '';
  while (text.length < bytes) {
    const room = Math.min(LINE_BYTES, bytes - text.length);
    text += `${name}: ${start}${unit.repeat(Math.ceil(room / unit.length))}\r\n`;
  }
  return text;
}

const part = (text: string): string => `--b\r\nContent-Type: text/plain\r\n\r\n${text}\r\n`;

/** Each makes a message of about so many bytes. */
const SHAPES: Readonly<Record<string, (bytes: number) => string>> = {
  'Route of quotes': (n) => invite(lines('Route', n, '"', ',')),
  'Route of escaped quotes': (n) => invite(lines('Route', n, '\\"', ',"')),
  'Record-Route of quotes': (n) => invite(lines('Record-Route', n, '"\\', ',')),
  'Record-Route of pairs of quotes': (n) => invite(lines('Record-Route', n, '""', ',')),
  'Via of quotes': (n) => invite(lines('Via', n, '"', 'SIP/2.0/UDP h;a=b,')),
  'Via of brackets': (n) => invite(lines('Via', n, '[', 'SIP/2.0/UDP ')),
  'Contact of words': (n) => invite(lines('Contact', n, 'a ')),
  'Contact of brackets': (n) => invite(lines('Contact', n, '<')),
  'Contact of quotes': (n) => invite(lines('Contact', n, '" ', '<sip:a>,')),
  'Contact of parameters': (n) => invite(lines('Contact', n, ';a="\\""', '<sip:a@b>')),
  'Require of commas': (n) => invite(lines('Require', n, ',')),
  'Require of options': (n) => invite(lines('Require', n, 'a,')),
  'Require of quotes': (n) => invite(lines('Require', n, '"')),
  'Accept of commas': (n) => invite(lines('Accept', n, ',')),
  'Accept of types': (n) => invite(lines('Accept', n, 'a/b;q=0,')),
  'Accept of semicolons': (n) => invite(lines('Accept', n, ';')),
  'Accept of quotes and brackets': (n) => invite(lines('Accept', n, '<"')),
  'Authorization of commas': (n) => invite(lines('Authorization', n, ',', 'Digest ')),
  'Authorization of quotes': (n) => invite(lines('Authorization', n, 'a="\\"",', 'Digest ')),
  'Authorization of equals': (n) => invite(lines('Authorization', n, ' =', 'Digest a')),
  'folds without end': (n) => invite(lines('Subject', n, 'a\r\n ')),
  'empty folds': (n) => invite(lines('Call-Info', n, '\r\n\t')),
  'lines without a colon': (n) => invite('a\r\n'.repeat(n / 3)),
  'lines without a name': (n) => invite(':\r\n'.repeat(Math.min(150, n / 3)) + lines('a', n, ' ')),
  'NUL in quotes': (n) => invite(lines('Subject', n, '\\\0', '"')),
  'spaces before a colon': (n) => invite(`${`X${' '.repeat(LINE_BYTES)}: a\r\n`.repeat(n / 8000)}`),
  'CR without LF': (n) => invite(`Subject: ${'\r'.repeat(n)}\r\n`),
  'LF without CR': (n) => invite(`Subject: ${'\n'.repeat(n)}\r\n`),
  colons: (n) => `${invite('').slice(0, -4)}\r\n${':'.repeat(n)}\r\n\r\n`,
  'an endless request line': (n) => `INVITE sip:${'a:'.repeat(n / 2)}@b SIP/2.0\r\n\r\n`,
  'a request line of spaces': (n) => `INVITE ${' '.repeat(n)}SIP/2.0\r\n\r\n`,
  'a Via of spaces that is refused': (n) =>
    `X\r\nVia: SIP/2.0/UDP ${' '.repeat(n)}\r\nA: SIP/2.0\r\n\r\n`,
  'Vias that are refused': (n) =>
    `OPTIONS sip: SIP/2.0\r\n${lines('Via', n, 'h ;rport', 'SIP / 2.0 / UDP ')}\r\n`,
  'half boundaries': (n) =>
    invite('', `--b\r\n\r\n${'\r\n--'.repeat(n / 4)}`, 'multipart/mixed;boundary=bb'),
  'boundaries of one letter': (n) =>
    invite('', `\r\n--${'a'.repeat(n)}`, `multipart/mixed;boundary=${'a'.repeat(70)}`),
  parts: (n) => invite('', `${part('x').repeat(n / 40)}--b--`, 'multipart/mixed;boundary=b'),
  'empty parts': (n) => invite('', '--b\r\n\r\n'.repeat(n / 7), 'multipart/mixed;boundary=b'),
  'a part of headers': (n) =>
    invite('', `--b\r\n${'a\r\n '.repeat(n / 4)}\r\n\r\n--b--`, 'multipart/mixed;boundary=b'),
  'a part of semicolons': (n) =>
    invite(
      '',
      `--b\r\nContent-Disposition: a${'; '.repeat(n / 2)}\r\n\r\nx\r\n--b--`,
      'multipart/mixed;boundary=b',
    ),
  'a media type of quotes': (n) => invite('', 'x', `a/b${';"'.repeat(Math.min(n, 8000) / 2)}`),
  'empty lines': (n) => '\r\n'.repeat(n / 2) + invite(''),
};

const SOURCE = { transport: 'udp', address: '10.0.0.2', port: 5060 } as const;

/** Everything that is done with a message before somebody is known to have sent it. */
function read(data: Buffer): void {
  const result = parseMessage(data.toString('latin1'), { stream: false });
  if (!result.ok) refusalOf(result, 'tag');
  else if (screen(result.message, SOURCE, () => []) === null) readInvite(result.message);
  const framer = new StreamFramer();
  for (const item of framer.push(data)) {
    if (item.kind === 'message') parseMessage(item.text, { stream: true });
  }
}

function readInvite(message: SipMessage): void {
  message.receivedFrom('10.0.0.2', 5060);
  screenInvite(message);
  readOffer(message);
  authenticate(message, { kind: 'challenge', server, peer: '', accountOf: () => null });
  try {
    dialogOfRequest(message, 'tag');
  } catch {
    // A Route that is no address: what counts is how soon that was found.
  }
}

function leastMs(data: Buffer): number {
  let least = Number.POSITIVE_INFINITY;
  for (let run = 0; run < RUNS; run += 1) {
    const before = process.cpuUsage();
    read(data);
    const { user, system } = process.cpuUsage(before);
    least = Math.min(least, (user + system) / 1000);
  }
  return least;
}

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1');

t.test('a hostile message of 64 kB is read as fast as any other', async (t) => {
  const ordinary = bytesOf(
    invite(
      lines('Record-Route', 60_000, '<sip:a@b;lr>, ').slice(0, 400) +
        lines('X-Filler', 56_000, 'text '),
    ),
  );
  for (let i = 0; i < 20; i += 1) read(ordinary);
  const ordinaryMs = Math.max(leastMs(ordinary), NEGLIGIBLE_MS / 5);
  for (const [name, shape] of Object.entries(SHAPES)) {
    const [small, large] = [bytesOf(shape(15_000)), bytesOf(shape(62_000))];
    for (let i = 0; i < 3; i += 1) read(small);
    const smallMs = leastMs(small);
    const ms = leastMs(large);
    if (process.env.SHOW) console.log(name, smallMs, ms, ordinaryMs);
    t.ok(ms < FACTOR_MAX * ordinaryMs, `${name}: ${ms} ms, an ordinary message ${ordinaryMs} ms`);
    const isLinear = ms < NEGLIGIBLE_MS || ms < GROWTH_MAX * smallMs;
    t.ok(isLinear, `${name}: ${smallMs} ms for 15 kB, ${ms} ms for 62 kB`);
  }
});
