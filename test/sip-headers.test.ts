/**
 * Header fields that say who calls and why it ended: read, written, and mapped between SIP, Q.850
 * and our own codes; telephone numbers in URIs; bodies with other things beside the description.
 */
import t from 'tap';
import { ERRORS, GatewayError } from '../src/core/errors.ts';
import {
  ANSWERED_ELSEWHERE,
  causeOfStatus,
  codeOfEnd,
  codeOfRefusal,
  codeOfStatus,
  passedStatus,
  q850Causes,
  q850Reason,
  statusOfCause,
  textOfCause,
} from '../src/sip/cause.ts';
import {
  type Diversion,
  diversionsOf,
  readDiversions,
  readHistory,
  writeDiversions,
  writeHistory,
} from '../src/sip/diversion.ts';
import { canonicalName } from '../src/sip/header.ts';
import type { SipMessage } from '../src/sip/message.ts';
import { findSdp } from '../src/sip/multipart.ts';
import { parseMessage } from '../src/sip/parser.ts';
import {
  displayText,
  isAnonymous,
  isWithheld,
  readAsserted,
  readPrivacy,
  readRemoteParties,
  writeAsserted,
  writePrivacy,
  writeRemoteParty,
} from '../src/sip/party-headers.ts';
import { readReasons, reasonFields } from '../src/sip/reason.ts';
import { parseUri, telephoneOf } from '../src/sip/uri.ts';
import { readUserToUser, writeUserToUser } from '../src/sip/user-to-user.ts';

// --- Causes -----------------------------------------------------------------------------------

t.test('causes become the statuses of RFC 3398 §7.2.4.1', async (t) => {
  const table = {
    1: 404,
    2: 404,
    3: 404,
    17: 486,
    18: 408,
    19: 480,
    20: 480,
    21: 403,
    22: 410,
    23: 410,
    26: 404,
    27: 502,
    28: 484,
    29: 501,
    31: 480,
    34: 503,
    38: 503,
    41: 503,
    42: 503,
    47: 503,
    55: 403,
    57: 403,
    58: 503,
    65: 488,
    70: 488,
    79: 501,
    87: 403,
    88: 503,
    102: 504,
    111: 500,
    127: 500,
  };
  for (const [cause, status] of Object.entries(table)) {
    t.equal(statusOfCause(Number(cause)), status, `cause ${cause}`);
  }
});

t.test('statuses become the causes of RFC 3398 §8.2.6.1', async (t) => {
  const table = {
    400: 41,
    401: 21,
    402: 21,
    403: 21,
    404: 1,
    405: 63,
    406: 79,
    407: 21,
    408: 102,
    410: 22,
    413: 127,
    414: 127,
    415: 79,
    416: 127,
    420: 127,
    421: 127,
    423: 127,
    480: 18,
    481: 41,
    482: 25,
    483: 25,
    484: 28,
    485: 1,
    486: 17,
    500: 41,
    501: 79,
    502: 38,
    503: 41,
    504: 102,
    505: 127,
    513: 127,
    600: 17,
    603: 21,
    604: 1,
  };
  for (const [status, cause] of Object.entries(table)) {
    t.equal(causeOfStatus(Number(status)), cause, `status ${status}`);
  }
  t.equal(causeOfStatus(487), null, 'no cause says that the caller gave up');
  t.equal(causeOfStatus(488), 31);
  t.equal(causeOfStatus(488, 304), 65, 'media type not available: no such bearer');
  t.equal(causeOfStatus(606, 399), 31);
});

t.test('every cause and every status has an answer, and it is one that refuses', async (t) => {
  for (let cause = 0; cause < 200; cause += 1) {
    const status = statusOfCause(cause);
    t.ok(status >= 400 && status < 700, `cause ${cause} → ${status}`);
  }
  for (let status = 300; status < 700; status += 1) {
    const cause = causeOfStatus(status);
    t.ok(cause === null || (cause > 0 && cause < 128 && textOfCause(cause) !== ''), `${status}`);
    const passed = passedStatus(status);
    t.ok(passed >= 400 && passed < 700, `${status} is passed on as ${passed}`);
  }
});

t.test('what a caller is told of the other leg', async (t) => {
  for (const status of [404, 410, 480, 484, 486, 488, 600, 603, 604, 607]) {
    t.equal(passedStatus(status), status);
  }
  t.equal(passedStatus(401), 403, 'the credentials are ours, not his');
  t.equal(passedStatus(407), 403);
  t.equal(passedStatus(503), 500, 'one trunk down is not all of us down');
  t.equal(passedStatus(415), 500, 'it was our INVITE that was not understood');
  t.equal(passedStatus(302), 480);
  t.equal(passedStatus(200), 480);
});

t.test('our codes come from one table, and the cause decides before the status', async (t) => {
  t.equal(codeOfStatus(486), 'CALL_BUSY');
  t.equal(codeOfStatus(600), 'CALL_BUSY');
  t.equal(codeOfStatus(408), 'CALL_NO_ANSWER');
  t.equal(codeOfStatus(487), 'CALL_CANCELED');
  t.equal(codeOfStatus(403), 'SIP_REFUSED');
  t.equal(codeOfRefusal(403), 'CALL_REJECTED');
  t.equal(codeOfRefusal(486), 'CALL_BUSY');
  t.equal(codeOfEnd(503, [17]), 'CALL_BUSY');
  t.equal(codeOfEnd(480, [17]), 'CALL_BUSY');
  t.equal(codeOfEnd(500, [19]), 'CALL_NO_ANSWER');
  t.equal(codeOfEnd(486, [34]), 'CALL_BUSY', 'a cause that says less than the status');
  t.equal(codeOfEnd(503, []), 'SIP_REFUSED');
});

t.test('Reason: several protocols, quotes, comments of others', async (t) => {
  const both = 'SIP ;cause=486 ;text="Busy, \\"really\\"; yes", Q.850;cause=17;text="User busy"';
  t.strictSame(readReasons([both]), [
    { protocol: 'SIP', cause: 486, text: 'Busy, "really"; yes' },
    { protocol: 'Q.850', cause: 17, text: 'User busy' },
  ]);
  t.strictSame(readReasons(['Q.850;cause=16', 'preemption;cause=1;x']), [
    { protocol: 'Q.850', cause: 16, text: '' },
    { protocol: 'preemption', cause: 1, text: '' },
  ]);
  t.strictSame(readReasons(['Q.850;text=";cause=17;"']), [
    { protocol: 'Q.850', cause: null, text: ';cause=17;' },
  ]);
  t.strictSame(readReasons(['', ';cause=1', 'a b;cause=1', 'SIP;cause=x']), [
    { protocol: 'SIP', cause: null, text: '' },
  ]);
  t.strictSame(reasonFields([q850Reason(17)]), [['Reason', 'Q.850;cause=17;text="User busy"']]);
  t.strictSame(reasonFields([ANSWERED_ELSEWHERE]), [
    ['Reason', 'SIP;cause=200;text="Call completed elsewhere"'],
  ]);
  const wild = { protocol: 'SIP', cause: 500, text: 'a"b\\c\r\nVia: x' };
  const [[, written = ''] = []] = reasonFields([wild]);
  t.notMatch(written, /[\r\n]/);
  t.equal(readReasons([written])[0]?.text, 'a"b\\c  Via: x');
});

t.test('causes are found in any Reason field, and in nothing else', async (t) => {
  t.strictSame(
    q850Causes([
      ['reason', 'SIP;cause=503, q.850;cause=34'],
      ['REASON', 'Q.850 ; cause = 38'],
      ['X-Reason', 'Q.850;cause=17'],
      ['Reason', 'Q.850;cause=999'],
    ]),
    [34, 38],
  );
});

// --- Parties ----------------------------------------------------------------------------------

t.test('P-Asserted-Identity: one sip: and one tel:, whatever else is there', async (t) => {
  t.strictSame(readAsserted(['"Zoë" <sip:+15550001@a.example;user=phone>, tel:+1-555-0001']), [
    { display: displayText('Zoë'), uri: 'sip:+15550001@a.example;user=phone' },
    { display: '', uri: 'tel:+1-555-0001' },
  ]);
  t.strictSame(
    readAsserted(['<sip:first@a.example>', '<sip:second@a.example>', '<mailto:x@y>', 'nonsense <']),
    [{ display: '', uri: 'sip:first@a.example' }],
  );
  t.equal(
    writeAsserted([
      { display: 'A "B"', uri: 'sip:+1555@h' },
      { display: '', uri: 'tel:+1555' },
    ]),
    '"A \\"B\\"" <sip:+1555@h>, <tel:+1555>',
  );
  const zoe = writeAsserted([{ display: 'Zoë', uri: 'sip:z@h' }]);
  t.equal(readAsserted([zoe])[0]?.display, 'Zoë', 'a name survives the wire');
});

t.test('Remote-Party-ID: party, screening, privacy', async (t) => {
  const [called, calling] = readRemoteParties([
    '<sip:+1000@h>;party=called',
    '"Ann" <sip:+15550002@h>;screen=yes;Party=calling;privacy=full',
  ]);
  t.equal(called?.party, 'called');
  t.strictSame(calling, {
    display: 'Ann',
    uri: 'sip:+15550002@h',
    party: 'calling',
    isScreened: true,
    privacy: 'full',
  });
  t.equal(readRemoteParties(['<sip:a@h>;privacy=name-network'])[0]?.privacy, 'full');
  if (calling) {
    t.equal(
      writeRemoteParty(calling),
      '"Ann" <sip:+15550002@h>;party=calling;screen=yes;privacy=full',
    );
  }
});

t.test('Privacy: words, separators, and the wish to be known', async (t) => {
  t.strictSame([...readPrivacy(['id;critical'])], ['id', 'critical']);
  t.strictSame([...readPrivacy(['ID , user', 'bogus'])], ['id', 'user']);
  t.equal(isWithheld(readPrivacy(['id'])), true);
  t.equal(isWithheld(readPrivacy(['user;header'])), true);
  t.equal(isWithheld(readPrivacy(['none'])), false);
  t.equal(isWithheld(readPrivacy(['id;none'])), false);
  t.equal(isWithheld(readPrivacy(['critical'])), false);
  t.equal(writePrivacy(['id', 'critical']), 'id;critical');
  t.equal(isAnonymous('sip:anonymous@anonymous.invalid'), true);
  t.equal(isAnonymous('sip:Anonymous@carrier.example'), true);
  t.equal(isAnonymous('sip:+1555@carrier.example'), false);
  t.equal(isAnonymous('not a uri'), false);
});

// --- Diversions -------------------------------------------------------------------------------

const BUSY: Diversion = {
  display: '',
  uri: 'sip:+15550003@h',
  reason: 'user-busy',
  counter: 1,
  isWithheld: false,
};
const ALWAYS: Diversion = { ...BUSY, uri: 'sip:+15550004@h', reason: 'unconditional' };

t.test('Diversion is read and written', async (t) => {
  const read = readDiversions([
    '<sip:+15550003@h>;reason=User-Busy;counter=2;privacy=full',
    '<tel:+1-555-0004>;reason="no-answer", broken <sip:',
  ]);
  t.match(read, [
    { uri: 'sip:+15550003@h', reason: 'user-busy', counter: 2, isWithheld: true },
    { uri: 'tel:+1-555-0004', reason: 'no-answer', counter: 1, isWithheld: false },
  ]);
  t.equal(read.length, 2);
  t.strictSame(readDiversions([writeDiversions([BUSY, ALWAYS])]), [BUSY, ALWAYS]);
});

t.test('History-Info says the same as Diversion, both ways', async (t) => {
  const written = writeHistory([BUSY, ALWAYS], 'sip:+15550009@trunk;transport=udp');
  t.equal(
    written,
    '<sip:+15550004@h>;index=1, ' +
      '<sip:+15550003@h;cause=302>;index=1.1;mp=1, ' +
      '<sip:+15550009@trunk;transport=udp;cause=486>;index=1.1.1;mp=1.1',
  );
  t.strictSame(diversionsOf(readHistory([written])), [BUSY, ALWAYS]);
  const hidden = writeHistory([{ ...BUSY, isWithheld: true }], 'tel:+1555');
  t.match(hidden, '<sip:+15550003@h?Privacy=history>;index=1');
  t.equal(diversionsOf(readHistory([hidden]))[0]?.isWithheld, true);
});

t.test('History-Info as others write it', async (t) => {
  // RFC 4244: why it was left stands in a Reason within the URI.
  const old = [
    '<sip:+15550003@h?Reason=SIP%3Bcause%3D408%3Btext%3D%22a%2Cb%22>;index=1',
    '<sip:+15550009@us>;index=1.1',
  ];
  t.match(diversionsOf(readHistory(old)), [{ uri: 'sip:+15550003@h', reason: 'no-answer' }]);
  // A proxy that only routed: the same party under another address.
  const routed = ['<sip:+1@a>;index=1', '<sip:+1@b>;index=1.1;rc=1'];
  t.strictSame(diversionsOf(readHistory(routed)), []);
  const wild = [
    '<sip:a@h>;index=x',
    '<sip:b@h?Reason=%zz>;index=1',
    'junk',
    '<sip:c@h>;index=1.1;mp=9',
  ];
  t.strictSame(diversionsOf(readHistory(wild)), []);
});

// --- User-to-User -----------------------------------------------------------------------------

t.test('User-to-User: what is whole and small is written anew', async (t) => {
  const written = (value: string): string | null => {
    const read = readUserToUser(value);
    return read && writeUserToUser(read);
  };
  t.equal(
    written('56a390f3d2b7310023a2;encoding=hex;purpose=foo;content=bar'),
    '56a390f3d2b7310023a2;encoding=hex;purpose=foo;content=bar',
  );
  t.equal(written('"a;b, c" ;purpose=isdn-uui'), '"a;b, c";purpose=isdn-uui');
  t.equal(written('04FF;Encoding=HEX;other=1'), '04FF;encoding=hex');
  t.equal(written('04F;encoding=hex'), null, 'half an octet');
  t.equal(written('xyz;encoding=hex'), null);
  t.equal(written('a b'), null);
  t.equal(written(''), null);
  t.equal(written(`${'ab'.repeat(256)};encoding=hex`)?.length, 525);
  t.equal(written(`${'ab'.repeat(257)};encoding=hex`), null, 'too large');
});

// --- Numbers in URIs --------------------------------------------------------------------------

t.test('tel: URIs and sip: URIs with numbers give the number', async (t) => {
  const number = (text: string): string | null => telephoneOf(parseUri(text))?.number ?? null;
  t.equal(number('tel:+1-(555).123'), '+1555123');
  t.equal(number('sip:+1-555-123@h'), '+1555123');
  t.equal(number('sip:1-555@h'), null, 'without user=phone it may be a name');
  t.equal(number('sip:1-555@h;user=phone'), '1555');
  t.equal(number('sip:%2B1555@h'), '+1555');
  t.equal(number('sip:bob@h;user=phone'), null);
  const local = telephoneOf(parseUri('tel:7042;phone-context=+1-555;ext=12;isub=a'));
  t.equal(local?.context, '+1-555');
  t.strictSame([...(local?.params.keys() ?? [])], ['ext', 'isub']);
  const user = telephoneOf(parseUri('sip:7042;phone-context=example.com@h;user=phone'));
  t.match(user, { number: '7042', context: 'example.com' });
  t.throws(() => parseUri('tel:---'), { code: 'SIP_MALFORMED' });
  t.throws(() => parseUri('tel:+'), { code: 'SIP_MALFORMED' });
  t.throws(() => parseUri('tel:+1555*2'), { code: 'SIP_MALFORMED' });
});

t.test('one name for all its spellings', async (t) => {
  t.equal(canonicalName('P-ASSERTED-IDENTITY '), 'p-asserted-identity');
  t.equal(canonicalName('v'), 'via');
  t.equal(canonicalName('\tM'), 'contact');
  t.equal(canonicalName('X-Own'), 'x-own');
  t.equal(canonicalName('a'), 'accept-contact');
});

// --- Bodies -----------------------------------------------------------------------------------

function invite(headers: readonly string[], body: string): SipMessage {
  const lines = [
    'INVITE sip:us@h SIP/2.0',
    'Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx',
    'Max-Forwards: 70',
    'From: <sip:a@h>;tag=1',
    'To: <sip:us@h>',
    'Call-ID: c',
    'CSeq: 1 INVITE',
    'Contact: <sip:a@192.0.2.1>',
    ...headers,
    `Content-Length: ${body.length}`,
  ];
  const result = parseMessage(`${lines.join('\r\n')}\r\n\r\n${body}`, { stream: false });
  if (!result.ok) throw new GatewayError('SIP_MALFORMED');
  return result.message;
}

function multipart(...parts: readonly string[]): SipMessage {
  const body = `${parts.map((part) => `--b\r\n${part}\r\n`).join('')}--b--\r\n`;
  return invite(['Content-Type: multipart/mixed;boundary=b'], body);
}

t.test('bodies beside the description: what is optional is passed over', async (t) => {
  const sdp = 'Content-Type: application/sdp\r\n\r\nv=0';
  const isup = 'Content-Type: application/ISUP;version=itu-t92+\r\n';
  const signal = 'Content-Disposition: signal;handling=';
  t.equal(findSdp(multipart(`${isup}${signal}optional\r\n\r\n\x01\x00`, sdp)), 'v=0');
  t.equal(findSdp(multipart(sdp, 'Content-Type: application/pidf+xml\r\n\r\n<x/>')), 'v=0');
  const early = 'Content-Type: application/sdp\r\nContent-Disposition: early-session\r\n\r\nv=1';
  t.equal(findSdp(multipart(early, sdp)), 'v=0', 'a description of something else');
  const session = 'Content-Type: application/sdp\r\nContent-Disposition: Session;handling=required';
  t.equal(findSdp(multipart(`${session}\r\n\r\nv=2`)), 'v=2');
  t.equal(findSdp(multipart(`${isup}${signal}optional\r\n\r\nx`)), '', 'none of it counts');
  const alone = ['Content-Type: application/isup', 'Content-Disposition: signal;handling=optional'];
  t.equal(findSdp(invite(alone, 'x')), '');
});

t.test('bodies beside the description: a required one that nobody knows is 415', async (t) => {
  const sdp = 'Content-Type: application/sdp\r\n\r\nv=0';
  const refused = (message: SipMessage): number => {
    try {
      findSdp(message);
      return 0;
    } catch (thrown) {
      return thrown instanceof GatewayError ? ERRORS[thrown.code].sip : -1;
    }
  };
  const part = (disposition: string): string =>
    `Content-Type: application/x\r\nContent-Disposition: ${disposition}\r\n\r\nx`;
  t.equal(refused(multipart(sdp, part('signal;handling=required'))), 415);
  t.equal(refused(multipart(sdp, part('signal; Handling = "REQUIRED"'))), 415);
  t.equal(refused(multipart(sdp, part('signal;handling=requiredly'))), 0);
  t.equal(refused(invite(['Content-Type: application/isup'], 'x')), 415);
  t.equal(refused(multipart('Content-Type: text/plain\r\n\r\nx')), 415);
});
