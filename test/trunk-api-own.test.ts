/**
 * Our own resources, asked by plain requests: trunks with their whole policy, and refusals that
 * name the field; routes; the health of a trunk as its watcher tells it.
 */
import t from 'tap';
import type { TrunkHealth } from '../src/api/trunk-health.ts';
import { DEFAULT_TRUNK_POLICY } from '../src/store/trunk-policy.ts';
import { refusal, startRest } from './support/rest-world.ts';

const NOBODY = '0'.repeat(32);

t.test('a policy is given in parts, and shown whole', async (t) => {
  const { ask } = await startRest(t);
  const policy = (value: object): [string, string] => ['Policy', JSON.stringify(value)];

  const made = await ask('POST', '/Trunks.json', [
    ['FriendlyName', 'carrier'],
    policy({ srtp: 'preferred', codecs: ['PCMA'], limits: { callsMax: 30 } }),
  ]);

  t.equal(made.status, 201);
  t.strictSame(made.body.policy, {
    ...DEFAULT_TRUNK_POLICY,
    srtp: 'preferred',
    codecs: ['PCMA'],
    limits: { ...DEFAULT_TRUNK_POLICY.limits, callsMax: 30 },
  });
  const at = `/Trunks/${made.body.sid}.json`;
  const rules = [{ direction: 'out', action: 'set', name: 'X-Carrier', value: 'a' }];
  const next = await ask('POST', at, [policy({ limits: { callsInMax: 5 }, headers: rules })]);
  t.match(next.body.policy, {
    srtp: 'preferred',
    limits: { callsMax: 30, callsInMax: 5 },
    headers: rules,
  });
  const posted = await ask('POST', at, [policy(next.body.policy)]);
  t.strictSame(posted.body.policy, next.body.policy, 'what is shown can be given back');
  const kept = await ask('POST', at, [['FriendlyName', 'other']]);
  t.strictSame(kept.body.policy, next.body.policy, 'what is not given stays');
  const cleared = await ask('POST', at, [['Policy', '']]);
  t.strictSame(cleared.body.policy, DEFAULT_TRUNK_POLICY);
  t.strictSame((await ask('GET', at)).body, cleared.body);
});

t.test('a wrong policy is told by its field and what that may be', async (t) => {
  const { ask } = await startRest(t);
  const wrong: [object | string, string][] = [
    [{ srtp: 'always' }, 'Policy.srtp must be one of off, preferred, required'],
    [{ srpt: 'off' }, 'Policy.srpt is unknown; there are codecs, ptimeMs, srtp, dtmf'],
    [
      { sessionTimer: { mod: 1 } },
      'Policy.sessionTimer.mod is unknown; there are mode, expiresS, minSeS, refresher',
    ],
    [{ sessionTimer: 90 }, 'Policy.sessionTimer must be a JSON object'],
    [{ sessionTimer: { minSeS: 89 } }, 'Policy.sessionTimer.minSeS must be a whole number from 90'],
    [{ sessionTimer: { minSeS: 3600 } }, 'Policy.sessionTimer.minSeS must not be above expiresS'],
    [{ codecs: ['PCMU', 'G729'] }, 'Policy.codecs[1] must be one of PCMU, PCMA, G722, opus'],
    [{ ptimeMs: 25 }, 'Policy.ptimeMs must be a multiple of 10'],
    [{ failover: { statuses: ['2xx'] } }, 'Policy.failover.statuses[0] must be a status'],
    [{ failover: { causes: [128] } }, 'Policy.failover.causes[0] must be a whole number from 1'],
    [{ health: { failureRateMax: 1.5 } }, 'Policy.health.failureRateMax must be a number from 0'],
    [{ identity: { trust: 'yes' } }, 'Policy.identity.trust must be true or false'],
    [{ callerId: { mode: 'allowed' } }, 'Policy.callerId.allowed must have a number'],
    [{ registration: { enabled: true } }, 'Policy.registration.enabled needs Username'],
    [{ headers: [{ direction: 'in', action: 'set' }] }, 'Policy.headers[0].name is required'],
    [[], 'Policy must be a JSON object'],
    ['{', 'Policy is not JSON'],
  ];
  for (const [value, message] of wrong) {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    const { status, body } = await ask('POST', '/Trunks', [['Policy', text]]);
    t.match({ status, code: body.code }, { status: 400, code: 20001 }, text);
    t.equal(body.message.slice(0, message.length), message);
  }
});

t.test('a header rule can neither smuggle a field nor break the protocol', async (t) => {
  const { ask } = await startRest(t);
  const rule = async (change: object) => {
    const headers = [{ direction: 'out', action: 'set', name: 'X-A', value: 'b', ...change }];
    const { status } = await ask('POST', '/Trunks', [['Policy', JSON.stringify({ headers })]]);
    return status;
  };

  t.equal(await rule({}), 201);
  for (const value of ['a\r\nVia: x', 'a\nb', 'a\0b', 'x'.repeat(513)]) {
    t.equal(await rule({ value }), 400, JSON.stringify(value.slice(0, 20)));
  }
  for (const name of [
    'Via',
    'vIA',
    'v',
    'Contact',
    'Content-Length',
    'Server',
    'Authorization',
    'X A',
    '',
  ]) {
    t.equal(await rule({ name }), 400, name);
  }
});

t.test('names, certificates and lists of a trunk', async (t) => {
  const { ask, client, other } = await startRest(t);
  const access = await client.sip.ipAccessControlLists.create({ friendlyName: 'offices' });
  const users = await client.sip.credentialLists.create({ friendlyName: 'users' });
  const made = await ask('POST', '/Trunks', [
    ['DomainName', 'Own.example'],
    ['InboundDomain', 'in.example'],
    ['InboundDomain', 'IN.example'],
    ['InboundDomain', 'two.example'],
    ['CertificateName', 'sbc.carrier.example'],
    ['AccessListSid', access.sid],
    ['CredentialListSid', users.sid],
    ['TlsOnly', 'true'],
  ]);

  t.match(made.body, {
    domain_name: 'own.example',
    inbound_domains: ['in.example', 'two.example'],
    certificate_names: ['sbc.carrier.example'],
    access_list_sids: [access.sid],
    credential_list_sids: [users.sid],
    tls_only: true,
  });
  t.equal(await refusal(client.sip.ipAccessControlLists(access.sid).remove()), '400 20009');
  const stranger = await other();
  const theirs = await stranger.client.sip.credentialLists.create({ friendlyName: 'x' });
  const at = `/Trunks/${made.body.sid}`;
  for (const field of [
    ['AccessListSid', `AL${NOBODY}`],
    ['CredentialListSid', theirs.sid],
    ['CredentialListSid', access.sid],
    ['InboundDomain', 'a..b'],
    ['InboundDomain', '192.0.2.1'],
    ['CertificateName', '*.carrier.example'],
    ['DomainName', 'not a name'],
    ['TlsOnly', 'perhaps'],
  ] satisfies [string, string][]) {
    t.equal((await ask('POST', at, [field])).status, 400, field.join('='));
  }
  const kept = await ask('POST', at, [['InboundDomain', 'two.example']]);
  t.strictSame(kept.body.inbound_domains, ['two.example'], 'its own name it may keep');
  const freed = await ask('POST', '/Trunks', [['InboundDomain', 'in.example']]);
  t.equal(freed.status, 201, 'and what it gave up is free');
  t.match(await ask('POST', '/Trunks', [['InboundDomain', 'own.example']]), {
    status: 400,
    body: { code: 21248 },
  });
});

t.test('a gateway stays itself when the list is written anew', async (t) => {
  const { ask } = await startRest(t);
  const gateways = (value: object): [string, string] => ['Gateways', JSON.stringify(value)];
  const made = await ask('POST', '/Trunks', [
    gateways([{ uri: 'sip:a.example' }, { uri: 'sip:b.example', friendlyName: 'second' }]),
  ]);
  const at = `/Trunks/${made.body.sid}`;
  const [a, b] = made.body.gateways;

  const turned = await ask('POST', at, [
    gateways([
      { uri: 'sip:b.example', priority: 1 },
      { ...a, uri: 'sip:moved.example' },
    ]),
  ]);

  t.strictSame(turned.body.gateways, [
    { ...b, priority: 1 },
    { ...a, uri: 'sip:moved.example' },
  ]);
  const listed = await ask('GET', `/v1/Trunks/${made.body.sid}/OriginationUrls`);
  t.equal(listed.body.origination_urls.length, 2);
  const refused = await ask('POST', at, [gateways([{ uri: 'sip:a' }, { uri: 'x' }])]);
  t.match(refused.body.message, 'Gateways[1].uri must be a sip: or sips: URI');
});

t.test('both surfaces write one trunk', async (t) => {
  const { ask, client } = await startRest(t);
  const made = await ask('POST', '/Trunks', [['Policy', '{"refer":"application"}']]);
  const trunk = client.trunking.v1.trunks(made.body.sid);

  t.equal((await trunk.fetch()).transferMode, 'enable-all');
  const limited = await trunk.update({ transferMode: 'sip-only' });

  t.equal(limited.transferMode, 'sip-only');
  const at = `/Trunks/${made.body.sid}`;
  t.equal((await ask('GET', at)).body.policy.refer, 'application', 'who is asked stays');
  await ask('POST', at, [
    ['TlsOnly', 'true'],
    ['Policy', '{"srtp":"required","refer":"refuse"}'],
  ]);
  t.match(await trunk.fetch(), { transferMode: 'disable-all', secure: true });
});

t.test('a pattern with a plus is kept as it is written, escaped in the form or not', async (t) => {
  const { ask } = await startRest(t);
  const written = ['+*', '+49*', '*'];

  const trunk = await ask(
    'POST',
    '/Trunks',
    written.map((value) => ['NumberPattern', value]),
  );
  t.strictSame(trunk.body.number_patterns, written);
  // What a form makes of a plus that nobody escaped.
  const bare = await ask('POST', `/Trunks/${trunk.body.sid}`, [
    ['NumberPattern', ' *'],
    ['NumberPattern', ' 49*'],
  ]);
  t.strictSame(bare.body.number_patterns, ['+*', '+49*']);
  for (const [given, kept] of [
    ['+*', '+*'],
    [' *', '+*'],
    [' (49) 30*', '+4930*'],
    ['49*', '49*'],
  ] as const) {
    const { body } = await ask('POST', '/Routes', [
      ['TrunkSid', trunk.body.sid],
      ['Pattern', given],
    ]);
    t.equal(body.pattern, kept, JSON.stringify(given));
  }
  const number = await ask('POST', '/IncomingPhoneNumbers', [['PhoneNumber', ' 4930123456']]);
  t.equal(number.body.phone_number, '+4930123456');
});

t.test('routes: patterns over trunks, with priority and cost', async (t) => {
  const { ask, client } = await startRest(t, { rest: { routesMax: 3 } });
  const trunk = await client.trunking.v1.trunks.create();
  const create = (...fields: [string, string][]) =>
    ask('POST', '/Routes.json', [['TrunkSid', trunk.sid], ...fields]);

  const made = await create(
    ['FriendlyName', 'Berlin'],
    ['Pattern', '+49 (30)*'],
    ['Priority', '5'],
    ['Cost', '0.0125'],
  );

  t.equal(made.status, 201);
  t.match(made.body, {
    sid: /^RT[0-9a-f]{32}$/,
    friendly_name: 'Berlin',
    pattern: '+4930*',
    priority: 5,
    cost: 0.0125,
    trunk_sid: trunk.sid,
    enabled: true,
  });
  const at = `/Routes/${made.body.sid}.json`;
  const changed = await ask('POST', at, [
    ['Enabled', 'false'],
    ['Cost', '0'],
  ]);
  t.match(changed.body, { enabled: false, cost: 0, priority: 5, pattern: '+4930*' });
  for (const field of [
    ['Pattern', '*49'],
    ['Pattern', ''],
    ['Cost', '-1'],
    ['Cost', '1e3'],
    ['Priority', '70000'],
    ['TrunkSid', `TK${NOBODY}`],
    ['TrunkSid', 'carrier'],
  ] satisfies [string, string][]) {
    t.match(
      await ask('POST', at, [field]),
      { status: 400, body: { code: 20001 } },
      field.join('='),
    );
  }
  t.equal((await ask('POST', '/Routes', [['Pattern', '*']])).status, 400, 'a trunk is needed');
  t.match((await create(['Pattern', '*'])).body, { priority: 10, cost: 0, enabled: true });
  t.equal((await create(['Pattern', '+1*'])).status, 201);
  t.match((await create(['Pattern', '+2*'])).body, {
    message: 'no more than 3 routes are possible',
  });
  const filtered = await ask('GET', '/Routes?Pattern=%2B4930*');
  t.equal(filtered.body.routes.length, 1);
  t.equal((await ask('GET', `/Routes?TrunkSid=${trunk.sid}&PageSize=2`)).body.routes.length, 2);
  t.equal((await ask('DELETE', at)).status, 204);
  t.equal((await ask('GET', at)).status, 404);
  await client.trunking.v1.trunks(trunk.sid).remove();
  t.equal((await ask('GET', '/Routes')).body.routes.length, 0, 'routes go with their trunk');
});

t.test('the health of a trunk is what its watcher says', async (t) => {
  const health: TrunkHealth = {
    gateways: [
      {
        sid: `OU${NOBODY}` as TrunkHealth['gateways'][0]['sid'],
        uri: 'sip:a.example',
        state: 'resting',
        reason: 'too many calls failed',
        sinceMs: 1_000,
        optionsStatus: 200,
        optionsRoundTripMs: 12.5,
        failureShare: 0.75,
      },
    ],
    callsIn: 3,
    callsOut: 4,
    registration: { state: 'registered', sinceMs: 0, expiresMs: 600_000, sipStatus: 200 },
  };
  const watched = new Set<string>();
  const { ask, client, other } = await startRest(t, {
    trunkHealth: { health: (_account, sid) => (watched.has(sid) ? health : null) },
  });
  const trunk = await client.trunking.v1.trunks.create();
  const at = `/Trunks/${trunk.sid}/Health`;

  t.match(await ask('GET', at), { status: 503, body: { message: /does not watch/ } });
  watched.add(trunk.sid);
  t.strictSame((await ask('GET', `${at}.json`)).body, {
    trunk_sid: trunk.sid,
    account_sid: trunk.accountSid,
    gateways: [
      {
        sid: `OU${NOBODY}`,
        uri: 'sip:a.example',
        state: 'resting',
        reason: 'too many calls failed',
        since: '1970-01-01T00:00:01.000Z',
        options_status: 200,
        options_round_trip_ms: 12.5,
        failure_share: 0.75,
      },
    ],
    calls_in: 3,
    calls_out: 4,
    registration: {
      state: 'registered',
      since: '1970-01-01T00:00:00.000Z',
      expires: '1970-01-01T00:10:00.000Z',
      sip_status: 200,
    },
    uri: `/2010-04-01/Accounts/${trunk.accountSid}/Trunks/${trunk.sid}/Health.json`,
  });
  const stranger = await other();
  const theirs = await stranger.client.trunking.v1.trunks.create();
  watched.add(theirs.sid);
  t.equal((await ask('GET', `/Trunks/${theirs.sid}/Health`)).status, 404);
});

t.test('a node that watches no trunks says so', async (t) => {
  const { ask, client } = await startRest(t);
  const trunk = await client.trunking.v1.trunks.create();
  const told = await ask('GET', `/Trunks/${trunk.sid}/Health`);
  t.match(told, { status: 503, body: { code: 20503 } });
});

t.test('the v1 surface asks who it is, and knows its methods and paths', async (t) => {
  const { base, ask } = await startRest(t);
  t.equal((await fetch(`${base}/v1/Trunks`)).status, 401);
  t.equal((await ask('PUT', '/v1/Trunks')).status, 405);
  t.match(await ask('GET', '/v1/Nothing'), { status: 404, body: { code: 20404 } });
  const { body } = await ask('GET', '/v1/Trunks?PageSize=5');
  t.strictSame(body, {
    trunks: [],
    meta: {
      key: 'trunks',
      page: 0,
      page_size: 5,
      url: `${base}/v1/Trunks?PageSize=5&Page=0`,
      first_page_url: `${base}/v1/Trunks?PageSize=5&Page=0`,
      next_page_url: null,
      previous_page_url: null,
    },
  });
});
