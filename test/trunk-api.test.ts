/**
 * SIP trunking driven by the official helper library, unchanged but for its base URLs: trunks of
 * trunking v1 with all that lies below them, SIP domains, credential lists and IP access control
 * lists with their mappings, and numbers on trunks.
 */
import t from 'tap';
import { DEFAULT_TRUNK_POLICY } from '../src/store/trunk-policy.ts';
import { refusal, startRest } from './support/rest-world.ts';

const PASSWORD = 'Sesame-Open-12';
const NOBODY = '0'.repeat(32);

t.test('a trunk is made, read, listed, changed and removed', async (t) => {
  const { client, base, store, account } = await startRest(t);
  const { trunks } = client.trunking.v1;

  const made = await trunks.create({
    friendlyName: 'carrier',
    domainName: 'Carrier.pstn.example',
    disasterRecoveryUrl: 'http://app.example/late',
    disasterRecoveryMethod: 'GET',
    transferMode: 'sip-only',
    transferCallerId: 'from-transferor',
    secure: true,
    cnamLookupEnabled: false,
  });

  t.match(made.sid, /^TK[0-9a-f]{32}$/);
  t.match(made, {
    accountSid: account.sid,
    friendlyName: 'carrier',
    domainName: 'carrier.pstn.example',
    disasterRecoveryUrl: 'http://app.example/late',
    disasterRecoveryMethod: 'GET',
    transferMode: 'sip-only',
    transferCallerId: 'from-transferor',
    secure: true,
    cnamLookupEnabled: false,
    recording: { mode: 'do-not-record', trim: 'do-not-trim' },
    authType: '',
    authTypeSet: [],
    url: `${base}/v1/Trunks/${made.sid}`,
  });
  t.ok(made.dateCreated instanceof Date && !Number.isNaN(made.dateCreated.getTime()));
  t.match(made.links, { origination_urls: `${base}/v1/Trunks/${made.sid}/OriginationUrls` });
  const row = await store.trunks.get(account.sid, made.sid);
  t.match(row, { tlsOnly: true, policy: { srtp: 'required', refer: 'accept' } });

  const changed = await trunks(made.sid).update({ transferMode: 'disable-all', secure: false });
  t.match(changed, { friendlyName: 'carrier', transferMode: 'disable-all', secure: false });
  const after = await store.trunks.get(account.sid, made.sid);
  t.strictSame(after?.policy, DEFAULT_TRUNK_POLICY);
  t.equal((await trunks(made.sid).fetch()).domainName, 'carrier.pstn.example');
  t.match(await trunks(made.sid).recordings().fetch(), { mode: 'do-not-record' });
  t.equal(
    await refusal(trunks(made.sid).recordings().update({ mode: 'record-from-answer' })),
    '400 20001',
    'what is not done is not promised',
  );

  t.equal(await trunks(made.sid).remove(), true);
  t.equal(await refusal(trunks(made.sid).fetch()), '404 20404');
  t.equal(await refusal(trunks(`TK${NOBODY}`).remove()), '404 20404');
});

t.test('pages of trunks are followed by their absolute addresses', async (t) => {
  const { client, base } = await startRest(t);
  const { trunks } = client.trunking.v1;
  const names = Array.from({ length: 7 }, (_, index) => `trunk ${index}`);
  for (const friendlyName of names) await trunks.create({ friendlyName });

  const listed = await trunks.list({ pageSize: 3 });
  const first = await trunks.page({ pageSize: 3 });
  const second = await first.nextPage();
  const back = await second?.previousPage();

  t.strictSame(
    listed.map(({ friendlyName }) => friendlyName),
    names.reverse(),
    'newest first',
  );
  t.equal(first.nextPageUrl?.startsWith(`${base}/v1/Trunks?`), true);
  t.equal(second?.instances[0]?.friendlyName, 'trunk 3');
  t.strictSame(
    back?.instances.map(({ sid }) => sid),
    first.instances.map(({ sid }) => sid),
  );
});

t.test('origination URLs are the gateways of the trunk', async (t) => {
  const { client, store, account } = await startRest(t);
  const { sid } = await client.trunking.v1.trunks.create();
  const urls = client.trunking.v1.trunks(sid).originationUrls;
  const settings = { weight: 20, priority: 5, enabled: true, friendlyName: 'first' };

  const made = await urls.create({ ...settings, sipUrl: 'sip:gw1.example:5061;transport=tls' });
  const others = await Promise.all(
    [2, 3, 4].map((number) => urls.create({ ...settings, sipUrl: `sips:gw${number}.example` })),
  );

  t.match(made, { ...settings, trunkSid: sid, sipUrl: 'sip:gw1.example:5061;transport=tls' });
  t.equal((await urls.list({ pageSize: 2 })).length, 4, 'none is lost when several come at once');
  const changed = await client.trunking.v1
    .trunks(sid)
    .originationUrls(made.sid)
    .update({ enabled: false, weight: 1 });
  t.match(changed, { sid: made.sid, enabled: false, weight: 1, priority: 5 });
  const row = await store.trunks.get(account.sid, sid);
  t.match(row?.gateways[0], { sid: made.sid, uri: made.sipUrl, weight: 1, enabled: false });
  t.equal(await urls(others[0]?.sid ?? '').remove(), true);
  t.equal((await urls.list()).length, 3);
  t.equal(await refusal(urls(others[0]?.sid ?? '').fetch()), '404 20404');
  const wrong = (change: object) =>
    refusal(urls.create({ ...settings, sipUrl: 'sip:gw.example', ...change }));
  t.equal(await wrong({ sipUrl: 'http://gw.example' }), '400 20001');
  t.equal(await wrong({ weight: 0 }), '400 20001');
  t.equal(await wrong({ priority: 65_536 }), '400 20001');
});

t.test('lists are put on a trunk, and guarded while they are there', async (t) => {
  const { client } = await startRest(t);
  const { sid } = await client.trunking.v1.trunks.create();
  const trunk = client.trunking.v1.trunks(sid);
  const users = await client.sip.credentialLists.create({ friendlyName: 'users' });
  const access = await client.sip.ipAccessControlLists.create({ friendlyName: 'offices' });

  const mapped = await trunk.credentialsLists.create({ credentialListSid: users.sid });
  await trunk.ipAccessControlLists.create({ ipAccessControlListSid: access.sid });

  t.match(mapped, { sid: users.sid, trunkSid: sid, friendlyName: 'users' });
  t.match(await trunk.fetch(), {
    authType: 'IP_ACL,CREDENTIAL_LIST',
    authTypeSet: ['IP_ACL', 'CREDENTIAL_LIST'],
  });
  t.match(await trunk.ipAccessControlLists.list(), [{ sid: access.sid, friendlyName: 'offices' }]);
  t.match(await trunk.credentialsLists(users.sid).fetch(), { sid: users.sid });
  const again = trunk.credentialsLists.create({ credentialListSid: users.sid });
  t.equal(await refusal(again), '400 21231', 'once');
  const unknown = trunk.credentialsLists.create({ credentialListSid: `CL${NOBODY}` });
  t.equal(await refusal(unknown), '400 20001');
  t.equal(await refusal(client.sip.credentialLists(users.sid).remove()), '400 20009');
  t.equal(await refusal(client.sip.ipAccessControlLists(access.sid).remove()), '400 20009');

  t.equal(await trunk.credentialsLists(users.sid).remove(), true);
  t.equal(await refusal(trunk.credentialsLists(users.sid).fetch()), '404 20404');
  t.equal(await client.sip.credentialLists(users.sid).remove(), true);
  t.equal((await trunk.fetch()).authType, 'IP_ACL');
});

t.test('numbers go on a trunk from either side, and come off it', async (t) => {
  const { client } = await startRest(t);
  const { sid } = await client.trunking.v1.trunks.create();
  const trunk = client.trunking.v1.trunks(sid);
  const numbers = client.incomingPhoneNumbers;
  const one = await numbers.create({ phoneNumber: '+4930100', voiceUrl: 'http://app.example/' });
  const two = await numbers.create({ phoneNumber: '+4930200', trunkSid: sid });

  const mapped = await trunk.phoneNumbers.create({ phoneNumberSid: one.sid });

  t.match(mapped, { sid: one.sid, trunkSid: sid, phoneNumber: '+4930100' });
  t.match(mapped.capabilities, { voice: true });
  const listed = await trunk.phoneNumbers.list();
  t.strictSame(new Set(listed.map((number) => number.sid)), new Set([one.sid, two.sid]));
  t.equal((await numbers(one.sid).fetch()).trunkSid, sid);
  t.equal(await trunk.phoneNumbers(one.sid).remove(), true);
  t.match(await numbers(one.sid).fetch(), { trunkSid: null, voiceUrl: 'http://app.example/' });
  t.equal(await refusal(trunk.phoneNumbers(one.sid).fetch()), '404 20404');
  const unknown = trunk.phoneNumbers.create({ phoneNumberSid: `PN${NOBODY}` });
  t.equal(await refusal(unknown), '400 20001');
  await trunk.remove();
  t.equal((await numbers(two.sid).fetch()).trunkSid, null);
});

t.test('credentials are kept to the reference’s rules, and passwords never told', async (t) => {
  const { client, store, account, ask } = await startRest(t, { rest: { credentialsMax: 3 } });
  const list = await client.sip.credentialLists.create({ friendlyName: 'phones' });
  const { credentials } = client.sip.credentialLists(list.sid);

  const made = await credentials.create({ username: 'alice', password: PASSWORD });

  t.match(made, { credentialListSid: list.sid, username: 'alice' });
  t.match(made.sid, /^CR/);
  const path = `/SIP/CredentialLists/${list.sid}/Credentials/${made.sid}.json`;
  const shown = await ask('GET', path);
  t.notMatch(JSON.stringify(shown.body), /assword|Sesame/i);
  const row = await store.credentials.get(account.sid, made.sid);
  t.equal(row?.password.reveal(), PASSWORD);
  await credentials(made.sid).update({ password: 'Another-Word-99' });
  const changed = await store.credentials.get(account.sid, made.sid);
  t.equal(changed?.password.reveal(), 'Another-Word-99');

  const create = (username: string, password: string) =>
    refusal(credentials.create({ username, password }));
  t.equal(await create('alice', PASSWORD), '409 20409');
  for (const password of ['Short-1', 'no-upper-case-1', 'NO-LOWER-CASE-1', 'No-Digit-At-All']) {
    t.equal(await create('bob', password), '400 21224', password);
  }
  t.equal(await refusal(credentials(made.sid).update({ password: 'short' })), '400 21224');
  for (const username of ['b'.repeat(33), 'b:b', 'b"b', 'b b', 'b\\b', 'bø']) {
    t.equal(await create(username, PASSWORD), '400 21222', username);
  }
  t.equal(await create('b'.repeat(32), PASSWORD), 'none');
  t.equal(await create('1440013725.28', PASSWORD), 'none');
  t.equal(await create('one-more', PASSWORD), '400 20001', 'a list has its bound');
  t.equal((await credentials.list()).length, 3);
  t.equal(await credentials(made.sid).remove(), true);
  t.equal(await refusal(credentials(made.sid).fetch()), '404 20404');
  const elsewhere = await client.sip.credentialLists.create({ friendlyName: 'others' });
  const [left] = await credentials.list();
  const wrong = client.sip.credentialLists(elsewhere.sid).credentials(left?.sid ?? '');
  t.equal(await refusal(wrong.fetch()), '404 20404', 'an entry is in its own list only');
});

t.test('addresses with their prefix, of both families', async (t) => {
  const { client } = await startRest(t);
  const list = await client.sip.ipAccessControlLists.create({ friendlyName: 'offices' });
  const { ipAddresses } = client.sip.ipAccessControlLists(list.sid);
  const add = (ipAddress: string, cidrPrefixLength?: number) =>
    ipAddresses.create({
      friendlyName: 'Berlin',
      ipAddress,
      ...(cidrPrefixLength !== undefined && { cidrPrefixLength }),
    });

  t.match(await add('192.0.2.1'), { ipAddress: '192.0.2.1', cidrPrefixLength: 32 });
  t.match(await add('2001:DB8::'), { ipAddress: '2001:db8::', cidrPrefixLength: 128 });
  const wide = await add('198.51.100.0', 24);
  t.equal(wide.cidrPrefixLength, 24);
  const renamed = await ipAddresses(wide.sid).update({ friendlyName: 'Bonn' });
  t.match(renamed, { friendlyName: 'Bonn', ipAddress: '198.51.100.0', cidrPrefixLength: 24 });
  const moved = await ipAddresses(wide.sid).update({ ipAddress: '203.0.113.7' });
  t.match(moved, { ipAddress: '203.0.113.7', cidrPrefixLength: 32 });

  t.equal(await refusal(add('192.0.2.1')), '400 20001', 'once in a list');
  t.equal(await refusal(add('192.0.2')), '400 20001');
  t.equal(await refusal(add('192.0.2.9', 33)), '400 20001');
  t.equal(await refusal(add('0.0.0.0', 0)), '400 20001', 'everybody is no list');
  t.equal(await refusal(add('fe80::1%eth0')), '400 20001');
  t.equal((await ipAddresses.list()).length, 3);
  t.equal(await ipAddresses(wide.sid).remove(), true);
  const changed = await client.sip.ipAccessControlLists(list.sid).update({ friendlyName: 'two' });
  t.equal(changed.friendlyName, 'two');
  t.match(changed.subresourceUris, { ip_addresses: /IpAddresses\.json$/ });
  t.equal(await client.sip.ipAccessControlLists(list.sid).remove(), true);
});

t.test('a SIP domain with its application and its mappings, old and new', async (t) => {
  const { client, store, account } = await startRest(t);
  const made = await client.sip.domains.create({
    domainName: 'Office.sip.example',
    friendlyName: 'office',
    voiceUrl: 'http://app.example/voice',
    voiceMethod: 'GET',
    voiceFallbackUrl: 'http://app.example/late',
    voiceStatusCallbackUrl: 'http://app.example/status',
    sipRegistration: true,
    secure: true,
  });
  const users = await client.sip.credentialLists.create({ friendlyName: 'users' });
  const access = await client.sip.ipAccessControlLists.create({ friendlyName: 'offices' });
  const domain = client.sip.domains(made.sid);
  const { calls, registrations } = domain.auth;

  t.match(made, {
    domainName: 'office.sip.example',
    authType: '',
    voiceMethod: 'GET',
    voiceStatusCallbackUrl: 'http://app.example/status',
    sipRegistration: true,
    secure: true,
    emergencyCallingEnabled: false,
  });
  const one = await calls.credentialListMappings.create({ credentialListSid: users.sid });
  t.match(one, { sid: users.sid, accountSid: account.sid, friendlyName: 'users' });
  await calls.ipAccessControlListMappings.create({ ipAccessControlListSid: access.sid });
  await registrations.credentialListMappings.create({ credentialListSid: users.sid });
  t.equal((await domain.fetch()).authType, 'IP_ACL,CREDENTIAL_LIST');
  t.match(await calls.credentialListMappings.list(), [{ sid: users.sid }]);
  t.match(await registrations.credentialListMappings.list(), [{ sid: users.sid }]);
  t.match(await domain.credentialListMappings.list(), [{ sid: users.sid, domainSid: made.sid }]);
  t.match(await domain.ipAccessControlListMappings(access.sid).fetch(), {
    uri: /IpAccessControlListMappings/,
  });
  const again = domain.credentialListMappings.create({ credentialListSid: users.sid });
  t.equal(await refusal(again), '400 21231', 'the old path is that of calls');

  t.equal(await domain.credentialListMappings(users.sid).remove(), true);
  t.equal((await calls.credentialListMappings.list()).length, 0);
  t.equal(await refusal(client.sip.credentialLists(users.sid).remove()), '400 20009');
  t.equal(await registrations.credentialListMappings(users.sid).remove(), true);
  t.equal(await client.sip.credentialLists(users.sid).remove(), true);
  const row = await store.sipDomains.get(account.sid, made.sid);
  t.strictSame(row?.callAccessListSids, [access.sid]);
  const updated = await domain.update({ voiceUrl: '', domainName: 'new.sip.example' });
  t.match(updated, { voiceUrl: null, domainName: 'new.sip.example', friendlyName: 'office' });
  t.equal(await domain.remove(), true);
  t.equal(await client.sip.ipAccessControlLists(access.sid).remove(), true);
});

t.test('a host name means one thing, over all accounts', async (t) => {
  const { client, other, ask } = await startRest(t);
  const stranger = await other();
  await client.sip.domains.create({ domainName: 'a.example' });
  await client.trunking.v1.trunks.create({ domainName: 'b.example' });
  await ask('POST', '/Trunks', [['InboundDomain', 'c.example']]);

  for (const name of ['a.example', 'B.example', 'c.example']) {
    const domain = stranger.client.sip.domains.create({ domainName: name });
    t.equal(await refusal(domain), '400 21231', name);
    const trunk = stranger.client.trunking.v1.trunks.create({ domainName: name });
    t.equal(await refusal(trunk), '400 21248', name);
  }
  t.match(await stranger.client.trunking.v1.trunks.create({ domainName: 'aa.example' }), {
    domainName: 'aa.example',
  });
  for (const name of ['', 'a..b', '-a.example', 'a b', '192.0.2.1', `${'a'.repeat(64)}.example`]) {
    t.equal(await refusal(client.sip.domains.create({ domainName: name })), '400 21231', name);
  }
  const claims = ['one.example', 'two.example', 'three.example'];
  const raced = await Promise.all(
    claims.flatMap((domainName) => [
      refusal(client.sip.domains.create({ domainName })),
      refusal(stranger.client.trunking.v1.trunks.create({ domainName })),
    ]),
  );
  t.equal(raced.filter((one) => one === 'none').length, claims.length, 'also when two ask at once');
});

t.test('what would have no effect is refused instead of kept', async (t) => {
  const { client } = await startRest(t);
  const create = (change: object) =>
    refusal(client.sip.domains.create({ domainName: 'a.example', ...change }));

  t.equal(await create({ emergencyCallingEnabled: true }), '400 20001');
  t.equal(await create({ byocTrunkSid: `BY${NOBODY}` }), '400 20001');
  t.equal(await create({ emergencyCallingEnabled: false }), 'none');

  const trunk = (change: object) => refusal(client.trunking.v1.trunks.create(change));
  t.equal(await trunk({ cnamLookupEnabled: true }), '400 20001', 'nobody here knows names');
  t.equal(await trunk({ cnamLookupEnabled: false }), 'none');
});

t.test('who is told of the phones of a domain', async (t) => {
  const { ask } = await startRest(t);
  const domain = '/SIP/Domains';
  const made = await ask('POST', domain, [['DomainName', 'a.example']]);
  t.match(made.body, {
    registration_callback_url: null,
    registration_callback_method: 'POST',
    registration_callback_events: ['registered', 'unregistered', 'expired'],
  });
  const set = (...fields: [string, string][]) => ask('POST', `${domain}/${made.body.sid}`, fields);
  const told = await set(
    ['RegistrationCallbackUrl', 'https://app.example/phones'],
    ['RegistrationCallbackMethod', 'GET'],
    ['RegistrationCallbackEvent', 'expired'],
    ['RegistrationCallbackEvent', 'refreshed registered'],
  );
  t.match(told.body, {
    registration_callback_url: 'https://app.example/phones',
    registration_callback_method: 'GET',
    registration_callback_events: ['registered', 'refreshed', 'expired'],
  });
  t.equal((await set(['RegistrationCallbackUrl', 'ftp://app.example'])).status, 400);
  t.equal((await set(['RegistrationCallbackEvent', 'refused'])).status, 400, 'not a word of it');
  const off = await set(['RegistrationCallbackUrl', ''], ['RegistrationCallbackEvent', '']);
  t.match(off.body, {
    registration_callback_url: null,
    registration_callback_events: ['registered', 'unregistered', 'expired'],
  });
});

t.test('an account sees and touches its own rows only, and has its bounds', async (t) => {
  const rest = { trunksMax: 2, domainsMax: 1, credentialListsMax: 1, accessListsMax: 1 };
  const { client, other } = await startRest(t, { rest });
  const stranger = await other();
  const trunk = await client.trunking.v1.trunks.create();
  const list = await client.sip.credentialLists.create({ friendlyName: 'users' });
  const theirs = await stranger.client.trunking.v1.trunks.create();

  t.equal(await refusal(stranger.client.trunking.v1.trunks(trunk.sid).fetch()), '404 20404');
  t.equal(await refusal(stranger.client.sip.credentialLists(list.sid).remove()), '404 20404');
  const foreign = stranger.client.trunking.v1
    .trunks(theirs.sid)
    .credentialsLists.create({ credentialListSid: list.sid });
  t.equal(await refusal(foreign), '400 20001', 'another account’s list opens no trunk');
  const made = await Promise.all([1, 2, 3].map(() => refusal(client.trunking.v1.trunks.create())));
  t.strictSame(made.sort(), ['400 20001', '400 20001', 'none'], 'a bound holds against a rush');
  const more = client.sip.credentialLists.create({ friendlyName: 'more' });
  t.equal(await refusal(more), '400 20001');
  t.equal((await stranger.client.trunking.v1.trunks.list()).length, 1);
});
