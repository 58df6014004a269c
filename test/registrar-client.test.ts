/**
 * Registering at carriers, on a simulated network: the client alone against scripted gateways, and
 * the registrations of trunks as a whole against a registrar of ours.
 */
import t, { type Test } from 'tap';
import { TrunkRegistrations } from '../src/call/registration.ts';
import type { TrunkRoute } from '../src/call/route.ts';
import { Secret, silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import type { TrunkSid } from '../src/core/sid.ts';
import type { Endpoint } from '../src/sip/endpoint.ts';
import { type HeaderField, parseUri, type SipMessage } from '../src/sip/message.ts';
import {
  DEFAULT_REGISTER_CLIENT,
  type RegisterAccount,
  RegisterClient,
  type RegisterStatus,
} from '../src/sip/register-client.ts';
import { trunkPolicy } from '../src/store/trunk-policy.ts';
import {
  ACCOUNT,
  DOMAIN,
  KeptJournal,
  PASSWORD,
  type RegistrarWorld,
  registrarWorld,
} from './support/registrar-world.ts';
import type { ScriptPeer } from './support/script-peer.ts';
import { SipWorld } from './support/sip-world.ts';

interface Scene {
  readonly world: SipWorld;
  readonly us: Endpoint;
  readonly client: RegisterClient;
  readonly gateways: readonly ScriptPeer[];
  readonly changes: RegisterStatus[];
  pass(ms: number): Promise<void>;
}

type Answer = (request: SipMessage, gateway: ScriptPeer) => void;

async function scene(
  t: Test,
  answers: readonly Answer[],
  account: Partial<RegisterAccount> = {},
): Promise<Scene> {
  const world = new SipWorld();
  const us = await world.endpoint('10.0.0.1');
  const gateways: ScriptPeer[] = [];
  for (const [index, answer] of answers.entries()) {
    const gateway = await world.peer(`10.0.0.${index + 2}`);
    gateway.onMessage = (request) => answer(request, gateway);
    gateways.push(gateway);
  }
  const changes: RegisterStatus[] = [];
  const client = new RegisterClient({
    ua: us.ua,
    account: {
      aor: 'sip:4930100@carrier.example',
      user: '4930100',
      line: 'ab12',
      callId: 'kept',
      expiresS: 600,
      credentials: { username: 'u', password: new Secret('p') },
      gateways: gateways.map(({ address }) => `sip:${address}`),
      ...account,
    },
    resolve: (gateway) => us.ua.resolver.resolve(parseUri(gateway)),
    onChange: (status) => changes.push(status),
    options: DEFAULT_REGISTER_CLIENT,
  });
  t.teardown(async () => {
    client.close();
    await world.close();
  });
  return { world, us, client, gateways, changes, pass: (ms) => world.clock.advance(ms) };
}

function say(status: number, headers: readonly HeaderField[] = []): Answer {
  return (request, gateway) => gateway.respond(request, status, { headers });
}

/** As a registrar does: what it was given, for so long. */
function take(expiresS = 600): Answer {
  return (request, gateway) => {
    const contact = request.header('Contact')?.replace(/;expires=.*/, '') ?? '';
    const isLeaving = request.header('Expires') === '0';
    const fields: HeaderField[] = isLeaving ? [] : [['Contact', `${contact};expires=${expiresS}`]];
    gateway.respond(request, 200, { headers: fields });
  };
}

t.test('registers, refreshes in time, and takes it back', async (t) => {
  const { client, gateways, changes, pass } = await scene(t, [take(600)]);
  const [gateway] = gateways as [ScriptPeer];
  client.start();
  await pass(50);
  const first = gateway.last('REGISTER');
  t.equal(first.uri, 'sip:carrier.example');
  t.match(first.header('To'), '<sip:4930100@carrier.example>');
  t.match(first.header('Contact'), '<sip:4930100@10.0.0.1:5060;line=ab12>;expires=600');
  t.equal(client.status.state, 'registered');
  t.equal(client.status.sipStatus, 200);
  t.equal(client.status.gateway, 'sip:10.0.0.2');
  await pass(449_000);
  t.equal(gateway.count('REGISTER'), 1);
  await pass(62_000);
  t.equal(gateway.count('REGISTER'), 2, 'between 75 and 85 % of its time');
  const second = gateway.last('REGISTER');
  t.equal(second.callId, first.callId);
  t.ok(second.cseq > first.cseq);
  t.equal(second.fromTag, first.fromTag);

  const left = client.leave();
  await pass(50);
  await left;
  t.equal(gateway.last('REGISTER').header('Expires'), '0');
  await pass(3_600_000);
  t.equal(gateway.count('REGISTER'), 3);
  t.same(
    changes.map(({ state }) => state),
    ['registered', 'left'],
  );
});

t.test('answers a challenge, once; a wrong password is no reason to hurry', async (t) => {
  const challenge: HeaderField = ['WWW-Authenticate', 'Digest realm="c", nonce="n1", qop="auth"'];
  const { client, gateways, pass } = await scene(t, [
    (request, gateway) => {
      if (request.header('Authorization') === undefined) say(401, [challenge])(request, gateway);
      else take()(request, gateway);
    },
  ]);
  client.start();
  await pass(50);
  t.equal(client.status.state, 'registered');
  t.equal(gateways[0]?.count('REGISTER'), 2);

  const never = await scene(t, [say(401, [challenge])]);
  never.client.start();
  await never.pass(2_000);
  t.equal(never.gateways[0]?.count('REGISTER'), 2, 'no loop');
  t.equal(never.client.status.state, 'failed');
  t.equal(never.client.status.sipStatus, 401);
  await never.pass(3_600_000);
  const tries = never.gateways[0]?.count('REGISTER') ?? 0;
  t.ok(tries > 8 && tries < 60, `${tries} in an hour`);
});

t.test('takes a longer time when the carrier asks for it', async (t) => {
  const { client, gateways, pass } = await scene(
    t,
    [
      (request, gateway) => {
        const isBrief = Number(request.header('Expires')) < 1800;
        (isBrief ? say(423, [['Min-Expires', '1800']]) : take(1800))(request, gateway);
      },
    ],
    { expiresS: 120 },
  );
  client.start();
  await pass(50);
  t.equal(client.status.state, 'registered');
  t.same(
    gateways[0]?.received.map((one) => one.header('Expires')),
    ['120', '1800'],
  );
  const endless = await scene(t, [say(423, [['Min-Expires', '600']])]);
  endless.client.start();
  await endless.pass(2_000);
  t.equal(endless.gateways[0]?.count('REGISTER'), 1, 'what is asked for is what we have');
  t.equal(endless.client.status.state, 'failed');
});

t.test('goes to the next gateway when one is silent, refuses or is in trouble', async (t) => {
  const { client, gateways, pass } = await scene(t, [() => {}, say(503), say(403), take()]);
  client.start();
  await pass(7_900);
  t.equal(client.status.state, 'registering');
  await pass(300);
  t.equal(client.status.state, 'registered');
  t.equal(client.status.gateway, 'sip:10.0.0.5');
  await pass(520_000);
  t.equal(gateways[3]?.count('REGISTER'), 2, 'refreshed where it is');
  t.ok((gateways[1]?.count('REGISTER') ?? 0) === 1);
});

t.test(
  'waits longer and longer, as long as it is told, and never at the same moment',
  async (t) => {
    const { client, gateways, pass } = await scene(t, [say(500, [['Retry-After', '90']])]);
    client.start();
    await pass(1_000);
    t.equal(client.status.state, 'failed');
    t.match(client.status.reason, '500');
    await pass(88_000);
    t.equal(gateways[0]?.count('REGISTER'), 1);
    await pass(3_000);
    t.equal(gateways[0]?.count('REGISTER'), 2);
    await pass(24 * 3_600_000);
    const count = gateways[0]?.count('REGISTER') ?? 0;
    t.ok(count > 130 && count < 320, `${count} in a day: every 5 to 10 minutes in the end`);
  },
);

t.test('a registration that the carrier did not keep is none', async (t) => {
  const { client, pass } = await scene(t, [
    say(200, [['Contact', '<sip:someone@else>;expires=60']]),
  ]);
  client.start();
  await pass(50);
  t.equal(client.status.state, 'failed');
  t.equal(client.status.expiresAtMs, null);
});

t.test('a failed refresh is told, and what the carrier still has is told too', async (t) => {
  let isUp = true;
  const { client, pass } = await scene(t, [
    (request, gateway) => (isUp ? take(100) : say(500))(request, gateway),
  ]);
  client.start();
  await pass(50);
  isUp = false;
  await pass(86_000);
  t.equal(client.status.state, 'failed');
  t.ok(client.status.expiresAtMs !== null, 'calls may still come');
  await pass(100_000);
  t.equal(client.status.expiresAtMs, null);
  isUp = true;
  await pass(300_000);
  t.equal(client.status.state, 'registered');
});

// --- Trunks -------------------------------------------------------------------------------------

const TRUNK = `TK${'7'.repeat(32)}` as TrunkSid;

function trunk(more: Partial<TrunkRoute> & { expiresS?: number; aor?: string } = {}): TrunkRoute {
  const { expiresS = 600, aor = 'alice@phones.example', ...rest } = more;
  return {
    sid: TRUNK,
    accountSid: ACCOUNT,
    name: 'Carrier',
    isEnabled: true,
    tlsOnly: false,
    numberPatterns: [],
    gateways: [{ uri: 'sip:10.0.0.1', priority: 1, weight: 1 }],
    credentials: { username: 'alice', password: new Secret(PASSWORD), realm: null },
    policy: trunkPolicy({ registration: { enabled: true, addressOfRecord: aor, expiresS } }),
    ...rest,
  };
}

async function trunks(t: Test, journal = new KeptJournal(), carrier?: RegistrarWorld) {
  const registrar = carrier ?? (await registrarWorld(t));
  const us = await registrar.world.endpoint(carrier ? '10.0.0.21' : '10.0.0.20');
  const own = new TrunkRegistrations({
    clock: registrar.world.clock,
    log: silentLog,
    metrics: new Metrics(),
    journal,
    ua: us.ua,
    resolve: (gateway) => us.ua.resolver.resolve(parseUri(gateway)),
    options: { registrationsMax: 2, spreadMs: 0, client: DEFAULT_REGISTER_CLIENT },
  });
  return { registrar, us, own, journal };
}

t.test(
  'a trunk registers when its policy says so, and calls to its contact are known',
  async (t) => {
    const { registrar, own } = await trunks(t);
    own.watch([trunk()]);
    t.equal(registrar.location.size, 0, 'not before it is started');
    own.start();
    await registrar.pass(100);
    const [binding] = registrar.location.bindings(`sip:alice@${DOMAIN.name}`);
    t.equal(own.statusOf(TRUNK)?.state, 'registered');
    const contact = binding?.contact ?? '';
    t.match(contact, /^sip:alice@10\.0\.0\.20:5060;line=[0-9a-f]{16}$/);
    const called = (uri: string) => own.trunkOf({ uri } as SipMessage);
    t.equal(called(contact), TRUNK);
    t.equal(called(contact.replace(/line=.*/, 'line=0000000000000000')), null);
    t.equal(called('sip:alice@10.0.0.20'), null);

    own.watch([trunk()]);
    await registrar.pass(100);
    t.same(registrar.events(), ['registered 1'], 'nothing has changed');
    own.watch([trunk({ aor: 'bob@phones.example', credentials: bobs() })]);
    await registrar.pass(100);
    t.same(registrar.events().sort(), ['registered 1', 'registered 1', 'unregistered 0']);
    t.equal(registrar.location.bindings(`sip:bob@${DOMAIN.name}`).length, 1);
    t.equal(registrar.location.bindings(`sip:alice@${DOMAIN.name}`).length, 0);

    own.watch([trunk({ isEnabled: false })]);
    await registrar.pass(100);
    t.equal(registrar.location.size, 0);
    t.equal(own.statusOf(TRUNK), null);
  },
);

function bobs(): TrunkRoute['credentials'] {
  return { username: 'bob', password: new Secret(PASSWORD), realm: null };
}

t.test('a drain takes registrations back, and undoing it brings them again', async (t) => {
  const { registrar, own } = await trunks(t);
  own.watch([trunk()]);
  own.start();
  await registrar.pass(100);
  const drained = own.drain(true);
  await registrar.pass(100);
  await drained;
  t.equal(registrar.location.size, 0);
  t.equal(own.statusOf(TRUNK)?.state, 'left');
  await own.drain(false);
  await registrar.pass(100);
  t.equal(own.statusOf(TRUNK)?.state, 'registered');
  const closed = own.close();
  await registrar.pass(100);
  await closed;
  t.equal(registrar.location.size, 0);
});

t.test(
  'a gateway that was killed refreshes its contact instead of leaving it behind',
  async (t) => {
    const { registrar, own, us, journal } = await trunks(t);
    own.watch([trunk()]);
    own.start();
    await registrar.pass(100);
    const [before] = registrar.location.bindings(`sip:alice@${DOMAIN.name}`);
    await us.close();
    const records = journal.read();
    await registrar.pass(5_000);

    const again = await registrar.world.endpoint('10.0.0.20');
    const next = new TrunkRegistrations({
      clock: registrar.world.clock,
      log: silentLog,
      metrics: new Metrics(),
      journal: new KeptJournal(),
      ua: again.ua,
      resolve: (gateway) => again.ua.resolver.resolve(parseUri(gateway)),
      options: { registrationsMax: 2, spreadMs: 0, client: DEFAULT_REGISTER_CLIENT },
    });
    next.restore(records);
    next.watch([trunk()]);
    next.start();
    await registrar.pass(100);
    const bindings = registrar.location.bindings(`sip:alice@${DOMAIN.name}`);
    t.equal(bindings.length, 1);
    t.equal(bindings[0]?.contact, before?.contact);
    t.ok((bindings[0]?.cseq ?? 0) > (before?.cseq ?? 0));
  },
);

t.test('bounded, and without an address there is nothing to register', async (t) => {
  const { registrar, own } = await trunks(t);
  const sid = (n: number) => `TK${String(n).repeat(32)}` as TrunkSid;
  own.watch([
    trunk({ sid: sid(1), aor: '', credentials: null }),
    ...[2, 3, 4].map((n) => trunk({ sid: sid(n) })),
  ]);
  own.start();
  await registrar.pass(100);
  t.same(
    [1, 2, 3, 4].map((n) => own.statusOf(sid(n))?.state ?? 'none'),
    ['none', 'registered', 'registered', 'none'],
  );
});
