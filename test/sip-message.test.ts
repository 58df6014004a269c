/**
 * SIP messages as values: what is copied into responses, what keys tell apart, what may be sent,
 * and the small readers on which the rest of the stack stands (URIs, addresses, multipart).
 */
import t from 'tap';
import { asGatewayError } from '../src/core/errors.ts';
import {
  decodeUtf8,
  detach,
  encodeUtf8,
  formatUri,
  type HeaderField,
  parseNameAddr,
  parseUri,
  responseTo,
  type SipMessage,
  serializeRequest,
  serializeResponse,
  transactionKey,
} from '../src/sip/message.ts';
import { findSdp } from '../src/sip/multipart.ts';
import { parseMessage } from '../src/sip/parser.ts';

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

function parsed(text: string): SipMessage {
  const result = parseMessage(text, { stream: false });
  if (!result.ok) throw result.error;
  return result.message;
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (thrown) {
    return asGatewayError(thrown).code;
  }
  return 'ok';
}

t.test('Via is stamped with the true source', async (t) => {
  const stamped = (via: string): string | undefined => {
    const message = parsed(INVITE.replace(/Via: .*\r/, `Via: ${via}\r`));
    message.receivedFrom('203.0.113.5', 4000);
    return message.header('Via');
  };
  const head = 'SIP/2.0/UDP 192.0.2.1:5066';
  t.equal(
    stamped(`${head};rport;branch=z9hG4bKabc`),
    `${head};branch=z9hG4bKabc;rport=4000;received=203.0.113.5`,
  );
  t.equal(
    stamped(`${head};received=9.9.9.9;branch=z9hG4bKabc, SIP/2.0/UDP p;branch=z9hG4bKx`),
    `${head};branch=z9hG4bKabc;received=203.0.113.5, SIP/2.0/UDP p;branch=z9hG4bKx`,
  );
  t.equal(
    stamped('SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKa'),
    'SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKa',
  );
});

t.test('transaction keys tell apart what must be apart', async (t) => {
  const key = (text: string, method?: string): string => transactionKey(parsed(text), method);
  const invite = key(INVITE);
  const other = (from: string | RegExp, to: string): string => key(INVITE.replaceAll(from, to));
  t.equal(other('INVITE', 'ACK'), invite);
  t.equal(key(INVITE.replaceAll('INVITE', 'CANCEL'), 'INVITE'), invite);
  t.not(other('INVITE', 'CANCEL'), invite);
  t.not(other('bKabc', 'bKabd'), invite);
  t.not(other('192.0.2.1:5066', '192.0.2.1:5067'), invite);
  const old = INVITE.replace('z9hG4bKabc', 'abc');
  t.equal(
    key(old.replaceAll('INVITE', 'ACK').replace('bob@example.com>', 'bob@example.com>;tag=9')),
    key(old),
  );
  t.not(key(old.replace('CSeq: 3', 'CSeq: 4')), key(old));
  t.not(key(old.replace('tag=1', 'tag=2')), key(old));
});

t.test('a response copies what it must', async (t) => {
  const request = parsed(INVITE);
  request.receivedFrom('192.0.2.1', 5066);
  const ok = serializeResponse(
    responseTo(request, 200, { toTag: 'me', body: 'v=0', headers: [['Server', 'x']] }),
  );
  t.equal(
    ok,
    [
      'SIP/2.0 200 OK',
      'Via: SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKabc;rport=5066;received=192.0.2.1',
      'Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>',
      'From: "Al, ice" <sip:alice@example.com>;tag=1',
      'To: <sip:bob@example.com>;tag=me',
      'Call-ID: c1@192.0.2.1',
      'CSeq: 3 INVITE',
      'Server: x',
      'Content-Type: application/sdp',
      'Content-Length: 3',
      '',
      'v=0',
    ].join('\r\n'),
  );
  const response = parsed(ok);
  t.equal(response.status, 200);
  t.equal(response.method, 'INVITE');
  t.equal(response.toTag, 'me');
  t.notMatch(serializeResponse(responseTo(request, 404)), /Record-Route/);
});

t.test('what was read and sent again is the same', async (t) => {
  const message = parsed(INVITE);
  const again = serializeRequest({
    method: message.method,
    uri: message.uri,
    headers: message.fields(),
    body: message.body,
  });
  t.same(parsed(again).fields(), message.fields());
  t.match(again, /X-Odd: kept, as it came\r\n/);
});

t.test('nothing can start a header of its own', async (t) => {
  const send = (field: HeaderField, more: { uri?: string; body?: string } = {}): string =>
    codeOf(() =>
      serializeRequest({
        method: 'INVITE',
        uri: more.uri ?? 'sip:a@b',
        headers: [field],
        body: more.body ?? '',
      }),
    );
  t.equal(send(['X', 'ok']), 'ok');
  for (const bad of ['a\r\nB: c', 'a\nb', 'a\rb', 'a\0b', 'a\u010ab', 'a\u010d']) {
    t.equal(send(['X', bad]), 'SIP_MALFORMED', JSON.stringify(bad));
    t.equal(send([bad, 'x']), 'SIP_MALFORMED');
    t.equal(send(['X', 'ok'], { uri: `sip:${bad}` }), 'SIP_MALFORMED');
  }
  t.equal(send(['X', 'ok'], { body: '\u0100' }), 'SIP_MALFORMED');
  t.equal(send(['X', encodeUtf8('Ċ日')]), 'ok');
  t.equal(decodeUtf8(encodeUtf8('Ċ日é')), 'Ċ日é');
  t.equal(
    codeOf(() => serializeResponse({ status: 200, reason: 'a\r\nb', headers: [], body: '' })),
    'SIP_MALFORMED',
  );
  const twice = serializeRequest({ method: 'A', uri: 'sip:b', headers: [['l', '9']], body: 'xy' });
  t.match(twice, /\r\nContent-Length: 2\r\n\r\nxy$/);
  t.notMatch(twice, /9/);
});

t.test('URIs are read and written', async (t) => {
  const texts = [
    'sip:example.com',
    'sip:alice:secret@example.com:5070;transport=tcp;lr?Subject=a&Priority=b',
    'sips:+1-212@[2001:db8::1]:5061',
    'tel:+1-201-555-0123;phone-context=example.com',
    'sip:1000@127.0.0.1',
  ];
  for (const text of texts) t.equal(formatUri(parseUri(text)), text);
  const full = parseUri(texts[1] as string);
  t.match(full, { user: 'alice', password: 'secret', host: 'example.com', port: 5070 });
  t.equal(full.params.get('transport'), 'tcp');
  t.equal(parseUri(texts[2] as string).host, '2001:db8::1');
  const bad = [
    'sip:',
    'sip:@a',
    'sip:a@',
    'sip:a@b:0',
    'sip:a@b:65536',
    'sip:a@b:x',
    'sip:a%4@b',
    'sip:a@b;',
    'sip:a@b;=x',
    'sip:a@1.2.3.256',
    'sip:a@1.2.3',
    'sip:a@01.2.3.4',
    'sip:a@b..c',
    'sip:a b@c',
    'sip:a@[::1',
    'sip:a@[g::1]',
    'sip:2001:db8::1',
    '<sip:a@b>',
    'sip:a@b@c',
    'tel:',
    'alice',
  ];
  for (const text of bad)
    t.equal(
      codeOf(() => parseUri(text)),
      'SIP_MALFORMED',
      text,
    );
  t.equal(
    codeOf(() => parseUri('http://a')),
    'SIP_SCHEME',
  );
});

t.test('addresses are read', async (t) => {
  const of = (text: string): string => codeOf(() => parseNameAddr(text));
  const full = parseNameAddr('"A \\"B\\" <c>" <sip:a@b;x=y>;tag=1;q="0, 5";flag');
  t.equal(full.display, 'A "B" <c>');
  t.equal(full.uri?.params.get('x'), 'y');
  t.same(
    [...full.params],
    [
      ['tag', '1'],
      ['q', '0, 5'],
      ['flag', undefined],
    ],
  );
  t.equal(parseNameAddr('Bob Smith <sip:b@c>').display, 'Bob Smith');
  t.equal(parseNameAddr('sip:a@b;tag=2').params.get('tag'), '2');
  t.equal(parseNameAddr('<http://a/b>;tag=1').uri, null);
  t.equal(parseNameAddr('<http://a/b>;tag=1').uriText, 'http://a/b');
  for (const bad of [
    '"a <sip:a@b>',
    'a, b <sip:a@b>',
    '<sip:a@b',
    '< sip:a@b>',
    'sip:a@b?x=y',
    '<sip:a@b>;',
    '<sip:a@b>;tag=',
    '<sip:a@b>;tag=1;tag=2',
    '',
  ]) {
    t.equal(of(bad), 'SIP_MALFORMED', bad);
  }
});

t.test('a detached string is equal and apart', async (t) => {
  const message = parsed(INVITE);
  t.equal(detach(message.callId), message.callId);
  t.equal(detach(''), '');
  t.equal(detach('\u00e9\u00ff'), '\u00e9\u00ff');
});

t.test('multipart: one rule for which description counts', async (t) => {
  const body = (type: string, ...parts: string[]): SipMessage => {
    const text = `${parts.map((part) => `--b\r\n${part}\r\n`).join('')}--b--\r\n`;
    return parsed(
      INVITE.replace(
        'Content-Length: 4',
        `c: multipart/${type};boundary="b"\r\nl: ${text.length}`,
      ).replace(/body$/, text),
    );
  };
  const sdp = (text: string): string => `Content-Type: application/sdp\r\n\r\n${text}`;
  t.equal(findSdp(body('mixed', sdp('one'), sdp('two'))), 'one');
  t.equal(findSdp(body('alternative', sdp('one'), sdp('two'))), 'two');
  t.equal(findSdp(body('mixed', 'Content-Type: text/x\r\n\r\nx', sdp('two'))), 'two');
  const required = 'Content-Type: a/b\r\nContent-Disposition: x;handling=required\r\n\r\nx';
  t.equal(
    codeOf(() => findSdp(body('mixed', sdp('one'), required))),
    'SIP_MEDIA_TYPE',
  );
  t.equal(
    codeOf(() => findSdp(body('mixed', '\r\nplain'))),
    'SIP_MEDIA_TYPE',
  );
  t.equal(
    codeOf(() => findSdp(body('mixed', ...Array<string>(17).fill(sdp('x'))))),
    'SIP_MALFORMED',
  );
  t.equal(
    codeOf(() => findSdp(parsed(INVITE))),
    'SIP_MEDIA_TYPE',
  );
  t.equal(findSdp(parsed(INVITE.replace(/Length: 4[\s\S]*/, 'Length: 0\r\n\r\n'))), '');
});
