/**
 * Documents as apps write them, and as nobody should: what is read out of them, what is only
 * warned about, what is refused, and that refusing is quick whatever is sent.
 */
import t from 'tap';
import type { DialTarget } from '../src/call/route.ts';
import { GatewayError } from '../src/core/errors.ts';
import { type Noun, numberNoun, readNoun } from '../src/verbs/dial-nouns.ts';
import { documentText, escapeXml, parseDocument } from '../src/verbs/document.ts';
import { VERBS } from '../src/verbs/interpreter.ts';
import { type Output, readOutput } from '../src/verbs/output.ts';
import { flag, matching, method, oneOf, Reader, someOf, whole } from '../src/verbs/schema.ts';
import { DEFAULT_XML_LIMITS, parseXml, type XmlElement } from '../src/verbs/xml.ts';

const LIMITS = DEFAULT_XML_LIMITS;
const READERS = new Map(VERBS.map((verb) => [verb.name, verb.bind]));

function read(text: string) {
  const { verbs, warnings } = parseDocument({ text, url: 'u', readers: READERS, limits: LIMITS });
  return {
    verbs: verbs.map((verb) => verb?.name ?? null),
    numbers: warnings.map(({ number }) => number),
    warnings,
  };
}

function codeOf(work: () => void): string {
  try {
    work();
    return 'no error';
  } catch (thrown) {
    return thrown instanceof GatewayError ? thrown.code : String(thrown);
  }
}

function element(text: string): XmlElement {
  return parseXml(text, 'u', LIMITS);
}

function output(text: string): { output: Output | null; numbers: number[] } {
  const reader = new Reader();
  const read = readOutput(element(text), reader);
  return { output: read, numbers: reader.warnings.map(({ number }) => number) };
}

function noun(text: string): { noun: Noun; numbers: number[] } {
  const reader = new Reader();
  const read = readNoun(element(text), reader);
  return { noun: read, numbers: reader.warnings.map(({ number }) => number) };
}

t.test('a document that does not parse, or is none, says so with its number', async (t) => {
  const table: readonly (readonly [string, string, string])[] = [
    ['blank before the declaration', ' <?xml version="1.0"?><Response/>', 'DOC_PARSE'],
    ['no end tag', '<Response><Say>x</Response>', 'DOC_PARSE'],
    ['text behind the root', '<Response/>x', 'DOC_PARSE'],
    ['two roots', '<Response/><Response/>', 'DOC_PARSE'],
    ['an attribute twice', '<Response><Play loop="1" loop="2"/></Response>', 'DOC_PARSE'],
    ['an unknown entity', '<Response><Say>&nbsp;</Say></Response>', 'DOC_PARSE'],
    ['a bare ampersand', '<Response><Play>/a?x=1&y=2</Play></Response>', 'DOC_PARSE'],
    ['a character XML cannot carry', '<Response><Say>&#1;</Say></Response>', 'DOC_PARSE'],
    ['a DOCTYPE', '<!DOCTYPE Response><Response/>', 'DOC_PARSE'],
    ['words', 'hello', 'DOC_PARSE'],
    ['JSON', '{"verbs":[]}', 'DOC_PARSE'],
    ['another root', '<response/>', 'DOC_ROOT'],
    ['a root of another namespace', '<a:Response xmlns:a="b"/>', 'DOC_ROOT'],
    ['nothing', '', 'APP_BODY_EMPTY'],
    ['blanks', ' \n', 'APP_BODY_EMPTY'],
    ['more than 64 kB', `<Response>${' '.repeat(65_536)}</Response>`, 'APP_BODY_TOO_LARGE'],
    [
      '64 kB in bytes, not characters',
      `<Response>${'é'.repeat(32_768)}</Response>`,
      'APP_BODY_TOO_LARGE',
    ],
  ];
  for (const [name, text, code] of table)
    t.equal(
      codeOf(() => read(text)),
      code,
      name,
    );
});

t.test('an error says where', async (t) => {
  try {
    read('<Response>\n  <Say>one</Say>\n  <Say>two</Sya>\n</Response>');
    t.fail('no error');
  } catch (thrown) {
    t.match((thrown as Error).message, /3:\d+: unexpected close tag/);
  }
});

t.test(
  'declaration, BOM, comments, CDATA and foreign attributes are no reason to complain',
  async (t) => {
    const text =
      '\uFEFF<?xml version="1.0" encoding="UTF-8"?>\n<!-- hi --><?app x?>' +
      '<Response xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="x">' +
      '<Say><![CDATA[a < b]]></Say><!-- there --></Response>\n';
    const { verbs, warnings } = read(text);

    t.same(verbs, ['Say']);
    t.same(warnings, []);
  },
);

t.test('what is not understood is a warning and the rest runs', async (t) => {
  const table: readonly (readonly [string, readonly (string | null)[], readonly number[]])[] = [
    ['<say>x</say><Say>x</Say>', ['Say'], [12200]],
    ['<Bogus><Say>x</Say></Bogus><Hangup/>', ['Hangup'], [12200]],
    ['<Say colour="red">x</Say>', ['Say'], [12200]],
    ['words<Hangup/>', ['Hangup'], [12200]],
    ['<Hangup>now</Hangup>', ['Hangup'], [12200]],
    ['<Say></Say>', ['Say'], [13520]],
    ['<Play></Play>', ['Play'], [13410]],
    ['<Play digits="1x2"></Play>', ['Play'], [13430, 13410]],
    ['<Pause length="soon"/>', ['Pause'], [13910]],
    ['<Pause length="-1"/>', ['Pause'], [13910]],
    ['<Gather timeout="0"/>', ['Gather'], [13313]],
    ['<Gather numDigits="x"/>', ['Gather'], [13314]],
    ['<Gather><Dial>1</Dial></Gather>', ['Gather'], [13320]],
    ['<Gather input="speech"/>', ['Gather'], [12200]],
    ['<Dial timeout="1">1</Dial>', ['Dial'], [13212]],
    ['<Dial callerId="&lt;x&gt;">1</Dial>', ['Dial'], [13214]],
    ['<Dial><Say>x</Say></Dial>', ['Dial'], [13215]],
    ['<Dial timeLimit="x">1</Dial>', ['Dial'], [13216]],
    ['<Dial record="maybe">1</Dial>', ['Dial'], [13217]],
    ['<Dial sequential="si">1</Dial>', ['Dial'], [13218]],
    ['<Dial answerOnBridge="1">1</Dial>', ['Dial'], [13219]],
    ['<Dial ringTone="xx">1</Dial>', ['Dial'], [13220]],
    ['<Dial><Number sendDigits="call me">1</Number></Dial>', ['Dial'], [13222]],
    ['<Dial referUrl="/r" callReason="r" passports="p">1</Dial>', ['Dial'], [12200, 12200]],
    ['<Dial><Number byoc="BY1">1</Number></Dial>', ['Dial'], [12200]],
    ['<Redirect method="PUT">/x</Redirect>', ['Redirect'], [13710]],
    ['<Reject reason="rude"/>', ['Reject'], [13810]],
    ['<Record transcribe="true"/>', ['Record'], [12200]],
    ['<Connect><Stream url="wss://x"/></Connect><Hangup/>', [null, 'Hangup'], [12200]],
    ['<Leave/>', [null], [12200]],
    ['<Hangup><Parameter name="a" value="b"/></Hangup>', ['Hangup'], []],
  ];
  for (const [body, verbs, numbers] of table) {
    const found = read(`<Response>${body}</Response>`);
    t.same([found.verbs, found.numbers], [verbs, numbers], body);
  }
});

t.test('a warning about keys does not repeat them', async (t) => {
  const { warnings } = read('<Response><Play digits="1234 5678"/></Response>');

  t.match(warnings[0]?.text, '<Play digits="…">: expected keys');
});

t.test('a warning says where', async (t) => {
  const { warnings } = read('<Response>\n<Say>x</Say>\n <Bogus/></Response>');

  t.match(warnings, [{ line: 3, text: '<Bogus> is not a verb; it is left out' }]);
});

t.test('every verb of the vocabulary is in the table once, with a line about it', async (t) => {
  const vocabulary =
    'Connect Dial Echo Enqueue Gather Hangup Leave Pause Pay Play Prompt Queue Record Redirect ' +
    'Refer Reject Say Sms Start Stop';

  t.same(VERBS.map(({ name }) => name).sort(), vocabulary.split(' '));
  t.ok(VERBS.every(({ doc }) => doc.length > 10));
});

t.test('attributes take their defaults and the words apps use', async (t) => {
  t.same(whole({ absent: 5, min: 1, max: 9 }).read('12'), { value: 9, isValid: false });
  t.same(whole({ absent: 5, min: 1, max: 9 }).read(' 7 '), { value: 7, isValid: true });
  t.same(whole({ absent: 5, min: 1, max: 9 }).read('1e3'), { value: 5, isValid: false });
  t.same(flag({ absent: true }).read('False'), { value: false, isValid: true });
  t.same(method('POST').read('get'), { value: 'GET', isValid: true });
  t.same(oneOf(['a', 'b'], { absent: 'a', aliases: { true: 'b' } }).read('true'), {
    value: 'b',
    isValid: true,
  });
  t.same(someOf(['a', 'b'], { absent: ['a'] }).read(' b  c '), { value: ['b'], isValid: false });
  t.same(matching(/^[0-9#*]?$/, 'one key', { absent: '#' }).read(''), { value: '', isValid: true });
});

t.test('outputs: words with markup, files, keys, pauses', async (t) => {
  t.same(output('<Say>Hi <break time="1s"/><emphasis>you</emphasis></Say>').output, {
    kind: 'say',
    speech: {
      content: [
        'Hi ',
        { name: 'break', attributes: { time: '1s' }, children: [] },
        { name: 'emphasis', attributes: {}, children: ['you'] },
      ],
      voice: '',
      language: '',
    },
    loop: 1,
  });
  t.match(output('<Say voice="alice" language="de-DE" loop="0">x</Say>').output, {
    speech: { voice: 'alice', language: 'de-DE' },
    loop: 0,
  });
  t.same(output('<Say>a<Custom>b</Custom>c</Say>'), {
    output: { kind: 'say', speech: { content: ['a', 'c'], voice: '', language: '' }, loop: 1 },
    numbers: [12200],
  });
  t.match(output('<Say><sub alias="World Wide Web"/></Say>').numbers, []);
  t.same(output('<Play loop="2"> /a.mp3 </Play>').output, {
    kind: 'play',
    url: '/a.mp3',
    loop: 2,
    digits: null,
  });
  t.same(output('<Play digits="1w2#"/>'), {
    output: { kind: 'play', url: '', loop: 1, digits: '1w2#' },
    numbers: [],
  });
  t.same(output('<Pause/>').output, { kind: 'pause', durationMs: 1000 });
  t.same(output('<Pause length="3"/>').output, { kind: 'pause', durationMs: 3000 });
});

t.test('numbers are taken as people write them', async (t) => {
  const table: readonly (readonly [string, string | null])[] = [
    ['+1 (415) 555-0100', '+14155550100'],
    ['415.555.0100', '4155550100'],
    ['1001', '1001'],
    ['*98#', '*98#'],
    ['', null],
    ['alice', null],
    ['+', null],
    ['1'.repeat(33), null],
    ['sip:a@b', null],
  ];
  for (const [written, number] of table) {
    const { candidates, problem } = numberNoun(written);
    if (number === null) t.equal(problem?.code, 'DIAL_NUMBER', written);
    else t.same(candidates[0]?.target, { kind: 'number', number }, written);
  }
});

t.test('a SIP noun: URI, credentials, headers that may be set', async (t) => {
  const { noun: sip, numbers } = noun(
    '<Sip username="u" password="p" url="/w" statusCallback="/s" statusCallbackEvent="initiated answered">' +
      'sip:bob@example.com;transport=tcp?X-One=1%202&amp;User-to-User=ab&amp;X-Twilio-Evil=1&amp;From=x&amp;X-Split=a%0D%0AVia:b</Sip>',
  );
  const target: DialTarget = {
    kind: 'sip',
    uri: 'sip:bob@example.com;transport=tcp',
    credentials: { username: 'u', password: 'p' },
    headers: [
      ['X-One', '1 2'],
      ['User-to-User', 'ab'],
    ],
  };

  t.same(sip.candidates, [{ target, priority: 0, weight: 1 }]);
  t.same(sip.whisper, { url: '/w', method: 'POST' });
  t.same(sip.statusCallback, { url: '/s', method: 'POST', events: ['initiated', 'answered'] });
  t.same(numbers, [32113, 32113, 32113], 'reserved, standard and splitting headers are left out');
});

t.test('a SIP noun in its structured form has several addresses', async (t) => {
  const { noun: sip, numbers } = noun(
    '<Sip><Uri priority="2">sip:b@x</Uri><Uri priority="1" weight="10" username="u" password="p">sips:a@x</Uri>' +
      '<Headers><Header name="X-A" value="1"/></Headers></Sip>',
  );

  t.match(sip.candidates, [
    {
      priority: 2,
      weight: 1,
      target: { uri: 'sip:b@x', credentials: null, headers: [['X-A', '1']] },
    },
    { priority: 1, weight: 10, target: { uri: 'sips:a@x', credentials: { username: 'u' } } },
  ]);
  t.same(numbers, []);
});

t.test('what cannot be dialled keeps its place with an error', async (t) => {
  t.equal(noun('<Sip>bob@example.com</Sip>').noun.problem?.code, 'DIAL_SIP_URI');
  t.equal(noun('<Sip/>').noun.problem?.code, 'DIAL_SIP_URI');
  t.equal(noun(`<Sip>sip:${'b'.repeat(300)}@x</Sip>`).noun.problem?.code, 'DIAL_SIP_URI');
  t.same(noun('<Conference>room</Conference>'), {
    noun: {
      kind: 'other',
      candidates: [],
      problem: { code: 'DIAL_NOUN', details: { noun: 'Conference' } },
      whisper: null,
      statusCallback: null,
      sendDigits: null,
    },
    numbers: [13215],
  });
  t.same(noun('<Number machineDetection="Enable">1</Number>').numbers, [12200]);
});

t.test('content types decide what an answer is', async (t) => {
  const text = (contentType: string, body: string) =>
    documentText({ url: 'http://a/x.mp3?a=1&b=2', contentType, body }, LIMITS);
  const twiml = '<Response><Say>x</Say></Response>';

  for (const type of ['text/xml', 'application/xml', 'text/html; charset=utf-8', 'TEXT/XML']) {
    t.equal(text(type, twiml), twiml, type);
  }
  t.equal(
    text('audio/mpeg', 'ID3'),
    '<Response><Play>http://a/x.mp3?a=1&amp;b=2</Play></Response>',
  );
  t.equal(text('text/plain', twiml), twiml, 'plain text that parses is a document');
  t.equal(
    text('text/plain', 'fish & <chips>'),
    '<Response><Say>fish &amp; &lt;chips&gt;</Say></Response>',
  );
  t.equal(
    codeOf(() => text('text/plain', '')),
    'APP_BODY_EMPTY',
  );
  t.equal(
    codeOf(() => text('application/json', '{}')),
    'DOC_CONTENT_TYPE',
  );
  t.equal(
    codeOf(() => text('', twiml)),
    'DOC_CONTENT_TYPE',
  );
});

t.test('escaped text comes back as it was, but for what XML cannot carry', async (t) => {
  const text = 'a <b> & "c" \u0007\u{1F600}\uFFFF]]>';
  const root = element(`<x>${escapeXml(text)}</x>`);

  t.same(root.children.join(''), 'a <b> & "c" \u{1F600}]]>');
});

t.test('hostile documents are refused quickly', async (t) => {
  const lol = Array.from({ length: 9 }, (_, i) => `<!ENTITY l${i + 1} "${`&l${i};`.repeat(10)}">`);
  const table: readonly (readonly [string, string])[] = [
    ['entity bomb', `<!DOCTYPE x [<!ENTITY l0 "l">${lol.join('')}]><Response>&l9;</Response>`],
    [
      'external entity',
      '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Response>&e;</Response>',
    ],
    ['unclosed DTD', `<!DOCTYPE x [${'<!ENTITY a "b">'.repeat(4000)}`],
    ['depth', '<Response>'.repeat(6_000)],
    ['depth, whole', `${'<a>'.repeat(4_000)}${'</a>'.repeat(4_000)}`],
    ['nodes', `<Response>${'<a/>'.repeat(12_000)}</Response>`],
    ['text nodes', `<Response>${'<a/>x'.repeat(6_000)}</Response>`],
    ['comments', `<Response>${'<!---->'.repeat(9_000)}x${'<!---->'.repeat(200)}<`],
    ['attributes', `<Response ${Array.from({ length: 8_000 }, (_, i) => `a${i}=""`).join(' ')}/>`],
    ['one attribute, long', `<Response a="${'x'.repeat(1_000_000)}"/>`],
    ['character references', `<Response>${'&#78;'.repeat(12_000)}</Respons>`],
    ['unclosed attribute', `<Response a="${'<'.repeat(60_000)}`],
    ['unclosed CDATA', `<Response><![CDATA[${']'.repeat(60_000)}`],
    ['unclosed comment', `<Response><!--${'- '.repeat(30_000)}`],
    ['tag name', `<${'a'.repeat(60_000)}`],
    ['100 MB', 'x'.repeat(100_000_000)],
    ['no XML at all', '\0'.repeat(60_000)],
    ['lone surrogates', `<Response>${'\uD800'.repeat(20_000)}</Response>`],
  ];
  for (const [name, text] of table) {
    // The best of three: what it costs us, not what else the machine was doing.
    let code = '';
    let tookMs = Number.POSITIVE_INFINITY;
    for (let run = 0; run < 3; run += 1) {
      const startMs = performance.now();
      code = codeOf(() => read(text));
      tookMs = Math.min(tookMs, performance.now() - startMs);
    }
    t.match(code, /^(DOC_PARSE|APP_BODY_TOO_LARGE)$/, name);
    t.ok(tookMs < 50, `${name}: ${tookMs.toFixed(1)} ms`);
  }
});

t.test('documents damaged at random never do more than fail', async (t) => {
  const whole =
    '<?xml version="1.0" encoding="UTF-8"?><Response><Gather input="dtmf speech" numDigits="1" action="/a?x=1&amp;y=2">' +
    '<Say voice="Polly.Joanna">Hi<break/></Say></Gather><Dial answerOnBridge="true" record="record-from-answer-dual">' +
    '<Sip><Uri priority="1" weight="10">sip:x@y</Uri><Headers><Header name="X-A" value="b"/></Headers></Sip>' +
    '<Client><Identity>bob</Identity></Client></Dial><Record/><Play digits="1"/></Response>';
  let seed = 12345;
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  const bad: string[] = [];
  for (let i = 0; i < 2_000; i += 1) {
    const chars = [...whole];
    for (let change = random(4); change >= 0; change -= 1) {
      const from = whole[random(whole.length)] ?? '';
      if (random(2) === 0) chars.splice(random(chars.length), 1 + random(8));
      else chars.splice(random(chars.length), 0, from.repeat(1 + random(3)));
    }
    const code = codeOf(() => read(chars.join('')));
    if (!/^(no error|DOC_PARSE|DOC_ROOT)$/.test(code)) bad.push(`${code}: ${chars.join('')}`);
  }

  t.same(bad, []);
});
