/**
 * What passes a trunk: which fields an application sees, whom the gateway believes, how the caller
 * is told onwards, and that no spelling of a field slips past a rule.
 */
import t from 'tap';
import { Decisions } from '../src/call/decision.ts';
import {
  type InboundFacts,
  inboundHeaders,
  isProtected,
  type OutboundFacts,
  outboundHeaders,
  partyParameters,
  ruleProblem,
} from '../src/call/header-policy.ts';
import { GatewayError } from '../src/core/errors.ts';
import { type HeaderField, serializeRequest } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import {
  DEFAULT_TRUNK_POLICY,
  type HeaderRule,
  type TrunkPolicy,
  type TrunkPolicyChange,
  trunkPolicy,
} from '../src/store/trunk-policy.ts';

const LIMITS = { headersMax: 8, headerCharsMax: 64 };
const TRUSTED = policyOf({ identity: { trust: true } });

function policyOf(change: TrunkPolicyChange): TrunkPolicy {
  return trunkPolicy(change);
}

/** An INVITE as it comes off the wire, with these lines in it. */
function fieldsOf(
  lines: readonly string[],
  from = '"Ann" <sip:+15550001@a.example>',
): HeaderField[] {
  const text = [
    'INVITE sip:+15550100@us SIP/2.0',
    'Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx',
    'Max-Forwards: 70',
    `From: ${from};tag=1`,
    'To: <sip:+15550100@us>',
    'Call-ID: c',
    'CSeq: 1 INVITE',
    'Contact: <sip:a@192.0.2.1>',
    ...lines,
    'Content-Length: 0',
  ].join('\r\n');
  const result = parseMessage(`${text}\r\n\r\n`, { stream: false });
  if (!result.ok) throw new GatewayError('SIP_MALFORMED');
  return result.message.fields();
}

function read(lines: readonly string[], policy = TRUSTED, from?: string): InboundFacts {
  return inboundHeaders(fieldsOf(lines, from), policy, LIMITS);
}

function rule(
  action: HeaderRule['action'],
  name: string,
  value = '',
  direction: 'in' | 'out' = 'in',
): HeaderRule {
  return { direction, action, name, value };
}

// --- Inbound ----------------------------------------------------------------------------------

t.test('a trusted peer says who calls; another one does not', async (t) => {
  const lines = [
    'P-Asserted-Identity: "Bob" <sip:+15550002@carrier.example>, <tel:+1-555-0002>',
    'Diversion: <sip:+15550003@carrier.example>;reason=no-answer',
    'X-Tag: 7',
  ];
  const trusted = read(lines);
  t.match(trusted.party, {
    from: '+15550002',
    name: 'Bob',
    isWithheld: false,
    asserted: '+15550002',
    forwardedFrom: '+15550003',
  });
  t.ok('P-Asserted-Identity' in trusted.headers);
  t.ok('Diversion' in trusted.headers);
  const decisions = new Decisions();
  const stranger = inboundHeaders(fieldsOf(lines), DEFAULT_TRUNK_POLICY, LIMITS, decisions);
  t.match(stranger.party, { from: '+15550001', name: 'Ann', asserted: '', forwardedFrom: '' });
  t.strictSame(stranger.headers, { 'X-Tag': '7' });
  t.match(decisions.list[0]?.what, 'p-asserted-identity, diversion');
});

t.test('Remote-Party-ID where nothing better is there, and its privacy', async (t) => {
  t.match(read(['Remote-Party-ID: "Cat" <sip:+15550005@c>;party=calling;privacy=off']).party, {
    from: '+15550005',
    name: 'Cat',
  });
  t.match(read(['Remote-Party-ID: "Cat" <sip:+15550005@c>;privacy=full']).party, {
    from: 'anonymous',
    name: '',
    isWithheld: true,
    asserted: '+15550005',
  });
  t.match(read(['Remote-Party-ID: "Cat" <sip:+15550005@c>;privacy=name']).party, {
    from: '+15550005',
    name: 'Ann',
  });
  t.equal(read(['Remote-Party-ID: <sip:+15550005@c>;party=called']).party.from, '+15550001');
});

t.test('a caller who is withheld is not told to the application in any field', async (t) => {
  const lines = [
    'Privacy: id;critical',
    'P-Asserted-Identity: <sip:+15550002@carrier.example>',
    'Remote-Party-ID: <sip:+15550002@carrier.example>',
    'P-Preferred-Identity: <sip:+15550002@carrier.example>',
  ];
  const { party, headers } = read(lines, TRUSTED, '"Anonymous" <sip:anonymous@anonymous.invalid>');
  t.match(party, { from: 'anonymous', name: '', isWithheld: true, asserted: '+15550002' });
  t.notMatch(JSON.stringify(headers), '15550002');
  t.notMatch(JSON.stringify(partyParameters({ party, headers })), '15550002');
});

t.test(
  'who forwarded the call: Diversion before History-Info, and not when it is hidden',
  async (t) => {
    const history =
      'History-Info: <sip:+15550003@h>;index=1, <sip:+15550100@us;cause=302>;index=1.1;mp=1';
    t.equal(read([history]).party.forwardedFrom, '+15550003');
    t.equal(
      read([history, 'Diversion: <sip:+15550004@h>;reason=user-busy']).party.forwardedFrom,
      '+15550004',
    );
    t.equal(read(['Diversion: <sip:+15550004@h>;privacy=full']).party.forwardedFrom, '');
    t.equal(read([history], DEFAULT_TRUNK_POLICY).party.forwardedFrom, '');
  },
);

t.test('numbers of the caller are read in the format of the trunk', async (t) => {
  const numbers = { inbound: 'e164', countryCode: '49' } as const;
  const policy = policyOf({ identity: { trust: true }, numbers });
  t.equal(read([], policy, '<sip:030123456@c>').party.from, '+4930123456');
  t.equal(read(['P-Asserted-Identity: <tel:0049-30-123456>'], policy).party.from, '+4930123456');
  const decisions = new Decisions();
  const fields = fieldsOf([], '<sip:7123456789@c>');
  t.equal(inboundHeaders(fields, policy, LIMITS, decisions).party.from, '7123456789');
  t.match(decisions.list, [{ step: 'number', ok: false, fix: 'Policy numbers.countryCode' }]);
});

t.test('User-to-User passes whole or not at all', async (t) => {
  const line = 'User-to-User: 56a3;encoding=hex;purpose=x;junk=1';
  const passed = read([line], DEFAULT_TRUNK_POLICY);
  t.equal(passed.headers['User-to-User'], '56a3;encoding=hex;purpose=x');
  t.equal(passed.party.userToUser, '56a3;encoding=hex;purpose=x');
  const dropped = read([line], policyOf({ identity: { userToUser: 'drop' } }));
  t.notOk('User-to-User' in dropped.headers);
  t.equal(dropped.party.userToUser, '');
  t.equal(read(['User-to-User: 5;encoding=hex'], DEFAULT_TRUNK_POLICY).party.userToUser, '');
});

t.test('rules on what comes in: remove, set, pass', async (t) => {
  const lines = ['X-Secret: 1', 'Subject: hello', 'P-Asserted-Identity: <sip:+15550002@c>'];
  const headers = [
    rule('remove', 'x-secret'),
    rule('pass', 'Subject'),
    rule('set', 'X-Region', 'eu'),
    rule('remove', 'P-Asserted-Identity'),
  ];
  const facts = read(lines, policyOf({ identity: { trust: true }, headers }));
  t.strictSame(facts.headers, { Subject: 'hello', 'X-Region': 'eu' });
  t.equal(facts.party.from, '+15550001', 'a field that is removed says nothing');
});

t.test('the application is told in parameters', async (t) => {
  const facts = read([
    'P-Asserted-Identity: "Bob" <sip:+15550002@c>',
    'Diversion: <sip:+15550003@c>',
    'X-Tag: 7',
  ]);
  const stir = { verstat: 'TN-Validation-Passed-A', passport: 'e.y.z' };
  t.match(partyParameters(facts, stir), {
    From: '+15550002',
    Caller: '+15550002',
    CallerName: 'Bob',
    ForwardedFrom: '+15550003',
    StirVerstat: 'TN-Validation-Passed-A',
    StirPassportToken: 'e.y.z',
    'SipHeader_X-Tag': '7',
  });
  t.notOk('StirVerstat' in partyParameters(facts));
});

// --- Smuggling --------------------------------------------------------------------------------

const CLAIM = '<sip:+15559999@evil.example>';

t.test('header smuggling: no spelling of a trusted field gets in from a stranger', async (t) => {
  const spellings = [
    `P-Asserted-Identity : ${CLAIM}`,
    `P-Asserted-Identity\t: ${CLAIM}`,
    `p-asserted-identity:${CLAIM}`,
    `P-ASSERTED-IDENTITY:\r\n ${CLAIM}`,
    `P-Asserted-Identity: ,${CLAIM}`,
    `Diversion : ${CLAIM}`,
    `HISTORY-INFO: ${CLAIM};index=1`,
    `Remote-Party-ID :\r\n\t${CLAIM}`,
    'Privacy : id',
  ];
  for (const line of spellings) {
    const { headers, party } = read([line], DEFAULT_TRUNK_POLICY);
    t.strictSame(headers, {}, JSON.stringify(line));
    t.match(party, { from: '+15550001', asserted: '', forwardedFrom: '', isWithheld: false });
  }
});

t.test(
  'header smuggling: a rule takes every repetition, spelling and fold of its field',
  async (t) => {
    const lines = [
      'X-Secret: 1',
      'x-secret : 2',
      'X-SECRET:\r\n 3',
      'X-Secret\t:\t4, 5',
      'X-Other: kept',
    ];
    const removed = policyOf({ headers: [rule('remove', 'X-Secret')] });
    t.strictSame(read(lines, removed).headers, { 'X-Other': 'kept' });
    const set = policyOf({ headers: [rule('set', 'X-Secret', 'ours')] });
    t.strictSame(read(lines, set).headers, { 'X-Other': 'kept', 'X-Secret': 'ours' });
    const compact = policyOf({ headers: [rule('pass', 'Subject')] });
    t.strictSame(read(['s: hi'], compact).headers, { Subject: 'hi' }, 'a letter is its long name');
    const gone = policyOf({ headers: [rule('pass', 'Subject'), rule('remove', 's')] });
    t.strictSame(read(['Subject: hi', 's: ho'], gone).headers, {});
  },
);

t.test('header smuggling: of a field that is repeated the first counts, by any name', async (t) => {
  const { headers } = read(['X-A: first', 'x-a: second', 'X-A : third'], DEFAULT_TRUNK_POLICY);
  t.strictSame(headers, { 'X-A': 'first' });
  const twice = read(['P-Asserted-Identity: <sip:+15550002@c>', `p-asserted-identity : ${CLAIM}`]);
  t.equal(twice.party.from, '+15550002');
});

t.test(
  'header smuggling: the protocol’s own fields are no rule’s and no application’s',
  async (t) => {
    const names = (
      'Via v From f To t Call-ID i CSeq Contact m Route Record-Route Max-Forwards Content-Type c ' +
      'Content-Length l Content-Disposition Content-Anything Authorization Proxy-Authorization ' +
      'Proxy-Anything Require Supported k Allow Session-Expires x RSeq RAck Replaces Identity y ' +
      'Min-SE Event o Refer-To r Path Date Timestamp'
    ).split(' ');
    for (const name of names) {
      for (const spelling of [name, name.toUpperCase(), `${name} `, `\t${name}`]) {
        t.ok(isProtected(spelling), JSON.stringify(spelling));
      }
      t.match(ruleProblem(rule('set', name, 'x', 'out')), 'belongs to the protocol', name);
    }
    for (const name of ['X-Via', 'Subject', 'Call-Info', 'Organization', 'P-Charging-Vector']) {
      t.notOk(isProtected(name), name);
      t.equal(ruleProblem(rule('set', name, 'x')), '');
    }
    t.match(ruleProblem(rule('set', 'Via ', 'x')), 'no name');
    t.match(ruleProblem(rule('set', 'X-A\r\nVia', 'x')), 'no name');
    t.match(ruleProblem(rule('set', 'X-A', 'x\r\nVia: y')), 'not one line');
    t.match(ruleProblem(rule('set', 'X-A', 'x'.repeat(2000))), 'too long');
  },
);

t.test(
  'header smuggling: a rule that may not be is not carried out, and that is told',
  async (t) => {
    const decisions = new Decisions();
    const headers = [
      rule('set', 'Via', 'SIP/2.0/UDP evil', 'out'),
      rule('remove', 'From', '', 'out'),
      rule('set', 'X-Fine', 'yes', 'out'),
    ];
    const { headers: fields } = outboundHeaders(FACTS, policyOf({ headers }), decisions);
    t.strictSame(fields, [['X-Fine', 'yes']]);
    t.equal(decisions.list.filter(({ step, ok }) => step === 'header' && !ok).length, 2);
  },
);

t.test('header smuggling: nothing an application sets starts a field of its own', async (t) => {
  const bad: HeaderField[] = [
    ['X-A', 'x\r\nVia: SIP/2.0/UDP evil'],
    ['X-B', 'x\0'],
    ['X-C\r\nRoute', '<sip:evil>'],
    ['Route', '<sip:evil>'],
    ['m', '<sip:evil>'],
    ['Content-Length ', '0'],
    ['X-D', 'y'.repeat(5000)],
    ['X-E', 'Ċ'],
    ['X-Fine', 'yes'],
  ];
  const { headers } = outboundHeaders({ ...FACTS, headers: bad }, DEFAULT_TRUNK_POLICY);
  t.strictSame(
    headers.map(([name]) => name),
    ['X-E', 'X-Fine'],
  );
  const text = serializeRequest({ method: 'INVITE', uri: 'sip:a@b', headers, body: '' });
  t.equal(text.split('\r\n').length, 6, 'first line, two fields, length, empty line');
});

t.test('header smuggling: controls and length of what comes in are bounded', async (t) => {
  const { headers } = read(
    [`X-Long: ${'a'.repeat(500)}`, 'X-Fold: a\r\n\tb\r\n c', ...many(20)],
    DEFAULT_TRUNK_POLICY,
  );
  t.equal(headers['X-Long']?.length, LIMITS.headerCharsMax);
  t.equal(headers['X-Fold'], 'a b c');
  t.equal(Object.keys(headers).length, LIMITS.headersMax);
  t.equal(Object.getPrototypeOf(headers), Object.prototype);
});

function many(count: number): string[] {
  return Array.from({ length: count }, (_, at) => `X-N${at}: ${at}`);
}

// --- Outbound ---------------------------------------------------------------------------------

const FACTS: OutboundFacts = {
  from: '+15550100',
  name: 'Zoë',
  domain: 'us.example',
  target: 'sip:+15550200@carrier.example',
  headers: [],
  parent: null,
};

const ANN: InboundFacts = read(['X-Tag: 7', 'User-to-User: 56a3;encoding=hex']);

function following(facts: InboundFacts): OutboundFacts {
  const { party, headers } = facts;
  const parent = { party, headers, from: party.from, called: '+15550100' };
  return { ...FACTS, from: party.from, name: party.name, parent };
}

function fieldsAs(facts: OutboundFacts, change: TrunkPolicyChange): Record<string, string> {
  return Object.fromEntries(outboundHeaders(facts, policyOf(change)).headers);
}

t.test('identity is sent as the policy says', async (t) => {
  t.strictSame(fieldsAs(FACTS, {}), {});
  const pai = fieldsAs(FACTS, { identity: { send: 'pai' } });
  t.equal(pai['P-Asserted-Identity'], '"Zo\xc3\xab" <sip:+15550100@us.example>');
  const both = fieldsAs(FACTS, { identity: { send: 'both' } });
  t.match(both['Remote-Party-ID'], ';party=calling;screen=yes;privacy=off');
  t.ok(both['P-Asserted-Identity']);
  const { fromUri, fromDisplay, caller } = outboundHeaders(FACTS, policyOf({}));
  t.strictSame(
    { fromUri, fromDisplay, caller },
    { fromUri: 'sip:+15550100@us.example', fromDisplay: 'Zoë', caller: '+15550100' },
  );
});

t.test(
  'a caller who is withheld goes out anonymous, and is named to trusted peers only',
  async (t) => {
    const hidden = following(
      read(
        ['Privacy: id', 'P-Asserted-Identity: "Bob" <sip:+15550002@c>'],
        TRUSTED,
        '<sip:anonymous@anonymous.invalid>',
      ),
    );
    const open = outboundHeaders(hidden, policyOf({ identity: { send: 'both' } }));
    t.equal(open.fromUri, 'sip:anonymous@anonymous.invalid');
    t.equal(open.fromDisplay, 'Anonymous');
    t.strictSame(open.headers, [['Privacy', 'id']]);
    const trusted = outboundHeaders(hidden, policyOf({ identity: { send: 'both', trust: true } }));
    t.equal(trusted.fromUri, 'sip:anonymous@anonymous.invalid');
    t.strictSame(Object.fromEntries(trusted.headers), {
      Privacy: 'id',
      'P-Asserted-Identity': '<sip:+15550002@us.example>',
      'Remote-Party-ID': '<sip:+15550002@us.example>;party=calling;screen=yes;privacy=full',
    });
    const policy = { callerId: { mode: 'fixed', fallback: '' } } as const;
    t.match(outboundHeaders(FACTS, policyOf(policy)).headers, [['Privacy', 'id']]);
  },
);

t.test('a call that goes on says where it was', async (t) => {
  const facts = following(read(['Diversion: <sip:+15550003@c>;reason=user-busy']));
  t.strictSame(fieldsAs(facts, { identity: { diversion: 'drop' } }), {});
  t.equal(
    fieldsAs(facts, { identity: { diversion: 'diversion' } }).Diversion,
    '<sip:+15550100@us.example>;reason=unconditional;counter=1;privacy=off, ' +
      '<sip:+15550003@c>;reason=user-busy;counter=1;privacy=off',
  );
  t.match(
    fieldsAs(facts, { identity: { diversion: 'history-info' } })['History-Info'],
    /^<sip:\+15550003@c>;index=1, .*;index=1\.1;mp=1, <sip:\+15550200@carrier.example;cause=302>;index=1\.1\.1/,
  );
  const own = { ...facts, from: '+15550100' };
  t.notMatch(
    fieldsAs(own, { identity: { diversion: 'diversion' } }).Diversion,
    'unconditional',
    'with our own number as caller nobody was diverted by us',
  );
});

t.test('User-to-User goes on, or the application’s own, or none', async (t) => {
  t.strictSame(fieldsAs(following(ANN), {}), { 'User-to-User': '56a3;encoding=hex' });
  t.strictSame(fieldsAs(following(ANN), { identity: { userToUser: 'drop' } }), {});
  const own = { ...following(ANN), headers: [['User-to-User', '77;encoding=hex']] as const };
  t.strictSame(fieldsAs(own, {}), { 'User-to-User': '77;encoding=hex' });
});

t.test('rules on what goes out have the last word', async (t) => {
  const headers = [
    rule('pass', 'x-tag', '', 'out'),
    rule('set', 'P-Asserted-Identity', '<sip:main@us.example>', 'out'),
    rule('remove', 'X-Internal', '', 'out'),
    rule('remove', 'X-Tag', '', 'in'),
  ];
  const facts = { ...following(ANN), headers: [['X-Internal', '1']] as const };
  t.strictSame(fieldsAs(facts, { headers, identity: { send: 'pai', userToUser: 'drop' } }), {
    'P-Asserted-Identity': '<sip:main@us.example>',
    'x-tag': '7',
  });
});

t.test('the caller is written in the format of the trunk, without its dial prefix', async (t) => {
  const numbers = { outbound: 'plain', addPrefix: '99' } as const;
  const { fromUri } = outboundHeaders(FACTS, policyOf({ numbers }));
  t.equal(fromUri, 'sip:15550100@us.example');
  const callerId = { mode: 'allowed', allowed: ['+1'], fallback: '+15550000' } as const;
  t.equal(outboundHeaders(FACTS, policyOf({ callerId })).fromUri, 'sip:+15550000@us.example');
});
