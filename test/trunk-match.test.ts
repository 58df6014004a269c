/**
 * Whose call an INVITE is: trunks by source address, access list, host name, certificate and
 * digest, SIP domains with their own lists, and what is told of a call that is nobody's.
 */
import t, { type Test } from 'tap';
import { Decisions } from '../src/call/decision.ts';
import type { InboundQuery } from '../src/call/route.ts';
import { DEFAULT_ROUTE_TABLE, StoreRouteTable } from '../src/call/route-table.ts';
import { realClock } from '../src/core/clock.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import { DigestProver } from '../src/sip/digest-prover.ts';
import { DEFAULT_REGISTRAR } from '../src/sip/registrar-options.ts';
import { DEFAULT_STORE } from '../src/store/sql.ts';
import { openSqlite } from '../src/store/sqlite.ts';
import type { Store, TrunkRow } from '../src/store/store.ts';
import { trunkPolicy } from '../src/store/trunk-policy.ts';
import { BLANK_TRUNK } from '../src/store/trunk-row.ts';

const DATES = { dateCreatedMs: 1, dateUpdatedMs: 1 };
const NUMBER = '+4930100';

interface World {
  readonly store: Store;
  readonly account: AccountSid;
  trunk(change: Partial<TrunkRow>): Promise<TrunkRow>;
  accessList(
    ...blocks: readonly (readonly [string, number])[]
  ): Promise<TrunkRow['accessListSids'][number]>;
  credentialList(username: string): Promise<TrunkRow['credentialListSids'][number]>;
  ask(change?: Partial<InboundQuery>): Promise<{
    readonly route: ReturnType<StoreRouteTable['inbound']>;
    readonly standing: string;
    readonly told: string;
  }>;
}

async function world(t: Test): Promise<World> {
  const store = await openSqlite({
    options: { path: ':memory:', busyTimeoutMs: 20 },
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    store: DEFAULT_STORE,
  });
  t.teardown(() => store.close());
  const account = newSid('AC', realClock);
  const authToken = new Secret('x');
  const owner = { sid: account, authToken, friendlyName: '', status: 'active', ...DATES } as const;
  await store.accounts.save(owner);
  await store.numbers.save({
    sid: newSid('PN', realClock),
    accountSid: account,
    friendlyName: 'main',
    phoneNumber: NUMBER,
    voiceApplicationSid: null,
    trunkSid: null,
    voiceUrl: 'http://app/voice',
    voiceMethod: 'POST',
    voiceFallbackUrl: null,
    voiceFallbackMethod: 'POST',
    statusCallback: null,
    statusCallbackMethod: 'POST',
    voiceCallerIdLookup: false,
    ...DATES,
  });
  const row = <P extends 'AL' | 'IP' | 'CL' | 'CR' | 'TK'>(prefix: P) => {
    return { sid: newSid(prefix, realClock), accountSid: account, friendlyName: 'x', ...DATES };
  };
  return {
    store,
    account,
    async trunk(change) {
      const made: TrunkRow = { ...BLANK_TRUNK, ...row('TK'), ...change };
      await store.trunks.save(made);
      return made;
    },
    async accessList(...blocks) {
      const list = row('AL');
      await store.accessLists.save(list);
      for (const [ipAddress, cidrPrefixLength] of blocks) {
        const entry = { ...row('IP'), accessListSid: list.sid, ipAddress, cidrPrefixLength };
        await store.accessAddresses.save(entry);
      }
      return list.sid;
    },
    async credentialList(username) {
      const list = row('CL');
      await store.credentialLists.save(list);
      const { friendlyName: _, ...credential } = row('CR');
      const password = new Secret('Geheimnis123');
      await store.credentials.save({
        ...credential,
        credentialListSid: list.sid,
        username,
        password,
      });
      return list.sid;
    },
    async ask(change = {}) {
      const options = { ...DEFAULT_ROUTE_TABLE, realm: 'r', trustedSources: ['10.0.0.1'] };
      const base = { clock: realClock, log: silentLog };
      const proving = { secret: new Secret('k'), options: DEFAULT_REGISTRAR };
      const prover = new DigestProver({ ...base, ...proving });
      const table = new StoreRouteTable({ ...base, store, prover, options });
      await table.start();
      const query: InboundQuery = {
        source: { transport: 'udp', address: '192.0.2.1', port: 5060 },
        user: NUMBER,
        host: '198.51.100.1',
        from: '+491',
        identity: null,
        certificateNames: [],
        ...change,
      };
      const decisions = new Decisions();
      const { standing } = table.explainSource(query, new Decisions());
      const route = table.inbound(query, decisions);
      const told = decisions.list.map(({ ok, what, fix }) => `${ok ? '+' : '-'} ${what} [${fix}]`);
      return { route, standing, told: told.join('\n') };
    },
  };
}

const REFUSED = { kind: 'refused', code: 'SIP_FORBIDDEN' };
const FROM = (address: string) => ({ source: { transport: 'udp', address, port: 5060 } as const });

t.test('by address: its own blocks and those of its access lists', async (t) => {
  const w = await world(t);
  const list = await w.accessList(['192.0.2.0', 24], ['2001:db8::', 32]);
  const trunk = await w.trunk({ inboundAddresses: ['203.0.113.7'], accessListSids: [list] });

  for (const address of ['203.0.113.7', '192.0.2.200', '2001:db8::5', '::ffff:192.0.2.9']) {
    t.match((await w.ask(FROM(address))).route, { trunkSid: trunk.sid }, address);
  }
  const { route, standing, told } = await w.ask(FROM('203.0.113.8'));
  t.match(route, REFUSED);
  t.equal(standing, 'not');
  t.match(told, `203.0.113.8 is no source of trunk "x" (${trunk.sid})`);
  t.match(told, `[InboundAddress or an access list of ${trunk.sid}]`);
});

t.test('an empty access list lets nobody in', async (t) => {
  const w = await world(t);
  await w.trunk({ accessListSids: [await w.accessList()] });
  t.match((await w.ask()).route, REFUSED);
});

t.test('addresses and credentials are both required where both are set', async (t) => {
  const w = await world(t);
  const credentialListSids = [await w.credentialList('pbx')];
  const trunk = await w.trunk({ inboundAddresses: ['192.0.2.1'], credentialListSids });

  const asked = await w.ask();
  t.equal(asked.standing, 'challenge');
  t.match(asked.route, REFUSED, 'the address alone is not enough');
  t.match((await w.ask({ identity: trunk.sid })).route, { trunkSid: trunk.sid });
  const elsewhere = await w.ask({ ...FROM('192.0.2.2'), identity: trunk.sid });
  t.match(elsewhere.route, REFUSED, 'nor is the name');
  t.equal(elsewhere.standing, 'not', 'and nobody else is asked for it');
});

t.test('by host name: of several trunks at one address the one that is meant', async (t) => {
  const w = await world(t);
  const inboundAddresses = ['192.0.2.1'];
  const any = await w.trunk({ inboundAddresses });
  const named = await w.trunk({ inboundAddresses, inboundDomains: ['b.example'] });

  t.match((await w.ask({ host: 'B.example' })).route, { trunkSid: named.sid });
  t.match((await w.ask()).route, { trunkSid: any.sid });
  const bare = await w.trunk({ domainName: 'c.example' });
  const { route, told } = await w.ask({ host: 'c.example' });
  t.match(route, REFUSED, 'a name is no proof');
  t.match(told, `nothing proves that a call from 192.0.2.1 is one of trunk "x" (${bare.sid})`);
  const trusted = await w.ask({ ...FROM('10.0.0.1'), host: 'c.example' });
  t.match(trusted.route, { trunkSid: bare.sid }, 'unless the source is trusted anyway');
});

t.test('by the name in a verified certificate, or over TLS only', async (t) => {
  const w = await world(t);
  const trunk = await w.trunk({ certificateNames: ['SBC.example'] });
  const source = { transport: 'tls', address: '192.0.2.1', port: 5061 } as const;
  const certificateNames = ['sbc.example'];

  t.match((await w.ask({ source, certificateNames })).route, { trunkSid: trunk.sid });
  t.match((await w.ask({ source })).route, REFUSED);
  await w.trunk({ ...trunk, tlsOnly: true, certificateNames: [], inboundAddresses: ['192.0.2.1'] });
  t.match((await w.ask({ source })).route, { trunkSid: trunk.sid });
  const { route, told } = await w.ask();
  t.match(route, REFUSED);
  t.match(told, /takes calls over TLS only, and this came over udp/);
});

t.test('a domain asks its own lists, and without any nobody may call it', async (t) => {
  const w = await world(t);
  const domain = {
    sid: newSid('SD', realClock),
    accountSid: w.account,
    friendlyName: 'office',
    domainName: 'office.example',
    voiceUrl: 'http://app/office',
    voiceMethod: 'POST',
    voiceFallbackUrl: null,
    voiceFallbackMethod: 'POST',
    statusCallback: null,
    statusCallbackMethod: 'POST',
    sipRegistration: false,
    secure: false,
    callAccessListSids: [await w.accessList(['192.0.2.1', 32])],
    callCredentialListSids: [await w.credentialList('desk')],
    registrationCredentialListSids: [],
    registrationCallback: null,
    registrationCallbackMethod: 'POST',
    registrationCallbackEvents: [],
    ...DATES,
  } as const;
  await w.store.sipDomains.save(domain);
  const call = { host: 'office.example', user: 'bob' };

  t.equal((await w.ask(call)).standing, 'challenge');
  t.match((await w.ask({ ...call, identity: domain.sid })).route, {
    application: { url: 'http://app/office' },
    to: 'sip:bob@office.example',
    trunkSid: null,
  });
  t.match((await w.ask({ ...call, ...FROM('192.0.2.2'), identity: domain.sid })).route, REFUSED);
  const nobody = { callAccessListSids: [], callCredentialListSids: [] };
  await w.store.sipDomains.save({ ...domain, ...nobody });
  const { route, told } = await w.ask(call);
  t.match(route, REFUSED);
  t.match(told, `IpAccessControlListMappings or CredentialListMappings of ${domain.sid}`);
});

t.test('a number in the carrier’s own format is read, or the format to set is told', async (t) => {
  const w = await world(t);
  const inboundAddresses = ['192.0.2.1'];
  const trunk = await w.trunk({ inboundAddresses });
  const { route, told } = await w.ask({ user: '030100' });
  t.equal(route, null);
  t.match(told, '030100 is none of our numbers', 'too short to guess');
  const numbers = { inbound: 'e164', countryCode: '49' } as const;
  await w.trunk({ ...trunk, policy: trunkPolicy({ numbers }) });
  t.match((await w.ask({ user: '030100' })).route, null, 'a short number stays one');
  t.match((await w.ask({ user: '4930100' })).route, { to: NUMBER });
  t.match((await w.ask({ user: '004930100' })).route, { to: NUMBER, trunkSid: trunk.sid });
});
