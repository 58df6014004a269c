/**
 * The registrar on a simulated network: what RFC 3261 §10.3 says of bindings, and what Path, GRUU
 * and outbound flows add to it.
 */
import t from 'tap';
import { PhoneKeepAlive } from '../src/call/phone-keep-alive.ts';
import { Secret } from '../src/core/log.ts';
import type { Binding } from '../src/sip/binding.ts';
import { responseTo, type SipMessage, serializeResponse } from '../src/sip/message.ts';
import {
  ACCOUNT,
  ACCOUNTS,
  contactsOf,
  DOMAIN,
  OTHER_ACCOUNT,
  PASSWORD,
  type RegistrarWorld,
  RegPhone,
  registrarWorld,
} from './support/registrar-world.ts';
import { SDP } from './support/script-peer.ts';

const AOR = 'sip:alice@phones.example';

function targets(world: RegistrarWorld, uri = AOR): string[] {
  return (world.contacts.targetsOf(uri, ACCOUNT) ?? []).map(({ q, target }) => {
    const { peer, route = [] } = target;
    const way = peer === null ? route.join(' ') : `${peer.transport}:${peer.address}:${peer.port}`;
    return `${q} ${target.uri} ${way}`.trim();
  });
}

t.test('bindings', async (t) => {
  t.test('a phone registers by SHA-256 or MD5, is asked again, refreshes and leaves', async (t) => {
    for (const algorithm of ['SHA-256', 'MD5'] as const) {
      const world = await registrarWorld(t);
      const phone = await RegPhone.udp(world, '10.0.0.2');
      const asked = await phone.ask('REGISTER');
      t.equal(asked.status, 401);
      t.equal(asked.headers('WWW-Authenticate').length, 2);
      t.equal(world.us.counts.serverTransactions, 0, 'nothing is kept for who proved nothing');
      t.equal(world.registrar.attemptsHeld, 0);

      const done = await phone.ask('REGISTER', { algorithm }, asked);
      t.equal(done.status, 200);
      t.same(contactsOf(done), ['<sip:alice@10.0.0.2:5060>;expires=3600']);
      t.equal(done.header('Supported'), 'path, outbound, gruu');
      t.match(done.header('Date'), /GMT$/);
      t.same(targets(world), ['1 sip:alice@10.0.0.2:5060 udp:10.0.0.2:5060']);

      await world.pass(1_800_000);
      t.same(contactsOf(await phone.register({ algorithm, contacts: [] })), [
        '<sip:alice@10.0.0.2:5060>;expires=1800',
      ]);
      await phone.register({ algorithm });
      await world.pass(3_599_000);
      t.equal(world.location.size, 1, 'it was refreshed');
      const left = await phone.register({ algorithm, headers: [['Expires', '0']] });
      t.same(contactsOf(left), []);
      t.equal(world.location.size, 0);
      t.same(world.events(), ['registered 1', 'unregistered 0']);
    }
  });

  t.test('a phone that says no more is forgotten when its time is over', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register({ headers: [['Expires', '60']] });
    await world.pass(59_000);
    t.equal(targets(world).length, 1);
    await world.pass(1_500);
    t.same(targets(world), []);
    t.equal(world.location.size, 0);
    t.same(world.events(), ['registered 1', 'expired 0']);
    t.equal(world.journal.read().size, 0);
  });

  t.test('several contacts fork by q, and each has its own time', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const answer = await phone.register({
      contacts: [
        '<sip:alice@10.0.0.2>;q=0.5;expires=120, <sip:alice@10.0.0.2:5070>;q=0.7',
        '"Alice" <sip:alice@10.0.0.2:5080>;expires=90;q=0.7',
      ],
      headers: [['Expires', '600']],
    });
    t.same(contactsOf(answer), [
      '<sip:alice@10.0.0.2>;expires=120;q=0.5',
      '<sip:alice@10.0.0.2:5070>;expires=600;q=0.7',
      '<sip:alice@10.0.0.2:5080>;expires=90;q=0.7',
    ]);
    t.same(
      targets(world)
        .map((one) => one.slice(0, 3))
        .sort(),
      ['0.5', '0.7', '0.7'],
    );
    await world.pass(100_000);
    t.equal(targets(world).length, 2);
  });

  t.test('expiry has bounds: 423 below, cut above, the default without a word', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const brief = await phone.register({ headers: [['Expires', '59']] });
    t.equal(brief.status, 423);
    t.equal(brief.header('Min-Expires'), '60');
    t.equal(world.location.size, 0);
    const long = await phone.register({ headers: [['Expires', '4294967295']] });
    t.same(contactsOf(long), ['<sip:alice@10.0.0.2:5060>;expires=3600']);
    const odd = await phone.register({ headers: [['Expires', 'soon']] });
    t.same(contactsOf(odd), ['<sip:alice@10.0.0.2:5060>;expires=3600']);
  });

  t.test('all of a request or nothing of it', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register({ contacts: ['<sip:old@10.0.0.2>'] });
    const refused = await phone.register({
      contacts: ['<sip:old@10.0.0.2>;expires=0', '<sip:new@10.0.0.2>;expires=5'],
    });
    t.equal(refused.status, 423);
    t.match(targets(world), [/sip:old@10\.0\.0\.2/]);
    for (const contacts of [
      ['<sip:new@10.0.0.2>;q=2'],
      ['<sip:new@10.0.0.2?Subject=x>'],
      ['<mailto:alice@example.com>'],
      ['*', '<sip:new@10.0.0.2>'],
      [`<sip:${'x'.repeat(600)}@10.0.0.2>`],
    ]) {
      const { status } = await phone.register({ contacts });
      t.ok(status === 400 || status === 416, `${status} ${contacts}`);
    }
    t.match(targets(world), [/sip:old@10\.0\.0\.2/]);
  });

  t.test('the star takes all away, and only with Expires: 0', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register({ contacts: ['<sip:a@10.0.0.2>', '<sip:b@10.0.0.2>'] });
    t.equal((await phone.register({ contacts: ['*'] })).status, 400);
    t.equal(world.location.size, 2);
    const { status } = await phone.register({ contacts: ['*'], headers: [['Expires', '0']] });
    t.equal(status, 200);
    t.equal(world.location.size, 0);
  });

  t.test('what comes late changes nothing; what comes twice is answered twice', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const asked = await phone.ask('REGISTER');
    const text = phone.text('REGISTER', {}, asked);
    phone.send(text);
    phone.send(text);
    await world.pass(10);
    t.same(
      phone.received.slice(-2).map(({ status }) => status),
      [200, 200],
    );

    await world.pass(33_000);
    phone.cseq = 0;
    const late = await phone.register({ contacts: ['<sip:alice@10.0.0.2:5060>;expires=0'] });
    t.equal(late.status, 500);
    t.equal(world.location.size, 1);
    await world.pass(33_000);
    phone.cseq = 0;
    t.equal((await phone.register({ contacts: ['*'], headers: [['Expires', '0']] })).status, 500);

    phone.callId = 'another-life';
    const { status } = await phone.register({ headers: [['Expires', '0']] });
    t.equal(status, 200);
    t.equal(world.location.size, 0);
  });

  t.test('contacts are the same however they are written', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register({ contacts: ['<sip:alice@10.0.0.2:5060;x=1;transport=udp>'] });
    await phone.register({ contacts: ['<sip:alice@10.0.0.2:5060;transport=UDP>'] });
    t.equal(world.location.size, 1);
    await phone.register({ contacts: ['<sip:alice@10.0.0.2:5060>'] });
    t.equal(world.location.size, 2, 'without a transport it is another (§19.1.4)');
  });

  t.test('bounded: contacts of an address, its requests a second, and all together', async (t) => {
    const world = await registrarWorld(t, { bindingsMax: 12 });
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const ten = Array.from({ length: 10 }, (_, index) => `<sip:a${index}@10.0.0.2>`);
    t.equal((await phone.register({ contacts: ten })).status, 200);
    const eleventh = await phone.register({ contacts: ['<sip:one-more@10.0.0.2>'] });
    t.equal(eleventh.status, 403);
    t.match(eleventh.header('Warning'), /10 contacts at most/);
    t.equal((await phone.register({ contacts: ten })).status, 200, 'refreshing goes on');
    const bob = await RegPhone.udp(world, '10.0.0.3');
    const many = ['<sip:1@10.0.0.3>', '<sip:2@10.0.0.3>', '<sip:3@10.0.0.3>'];
    t.equal((await bob.register({ user: 'bob', contacts: many })).status, 503);
    t.equal(world.location.size, 10);

    const paced = await registrarWorld(t, { registrar: { perSecondMax: 5 } });
    const busy = await RegPhone.udp(paced, '10.0.0.2');
    const statuses: number[] = [];
    for (let i = 0; i < 10; i += 1) statuses.push((await busy.register({})).status);
    t.same(statuses.slice(0, 5), [200, 200, 200, 200, 200]);
    t.equal(statuses.at(-1), 503);
    await paced.pass(1_000);
    t.equal((await busy.register({})).status, 200);
  });

  t.test('only our domains, and what they ask for', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    t.equal((await phone.register({ domain: 'other.example' })).status, 404);
    t.equal((await phone.register({ domain: '10.0.0.1' })).status, 404);
    t.equal((await phone.register({ domain: 'secure.example' })).status, 403, 'TLS only');
    t.equal((await phone.register({ domain: 'PHONES.example' })).status, 200);
    const odd = await phone.register({ headers: [['Require', 'path, frob, gruu']] });
    t.equal(odd.status, 420);
    t.equal(odd.header('Unsupported'), 'frob');
  });

  t.test('draining sends phones to another node', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register();
    world.us.drain(true);
    t.equal((await phone.register()).status, 503);
    t.equal(targets(world).length, 1, 'it can still be called');
    world.us.drain(false);
    t.equal((await phone.register()).status, 200);
  });

  t.test('names beyond ASCII, however they are escaped', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const username = Buffer.from('büro', 'utf8').toString('latin1');
    const user = 'b%C3%BCro';
    const contacts = ['<sip:x@10.0.0.2>'];
    t.equal((await phone.register({ user, username, contacts })).status, 200);
    t.match(targets(world, 'sip:%62%c3%bcro@phones.example'), [/x@10/]);
  });
});

t.test('where a phone is reached', async (t) => {
  t.test('a phone behind NAT is called where it came from', async (t) => {
    const world = await registrarWorld(t);
    // Its Via and Contact say what its own network knows; the packets come from outside.
    const phone = await RegPhone.udp(world, '203.0.113.9', 31_000);
    await phone.register({ contacts: ['<sip:alice@192.168.1.5:5060>'] });
    t.same(targets(world), ['1 sip:alice@192.168.1.5:5060 udp:203.0.113.9:31000']);
    const [entry] = world.contacts.targetsOf(AOR, ACCOUNT) ?? [];
    t.same(entry?.target.peer?.listener, { address: '10.0.0.1', port: 5060 });
    t.ok(world.location.isSource('203.0.113.9'));
    t.notOk(world.location.isSource('192.168.1.5'));
  });

  t.test('over the connection it registered by, and 430 when that is gone', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.tcp(world, '10.0.0.2');
    await phone.register({ contacts: ['<sip:alice@x7.invalid;transport=tcp>'] });
    t.match(targets(world), [/tcp:10\.0\.0\.2:\d+$/]);
    const call = world.us.invite({
      uri: 'sip:alice@x7.invalid;transport=tcp',
      from: { uri: 'sip:bob@phones.example' },
      sdp: SDP,
      ...targetOf(world),
    });
    await world.pass(10);
    const invite = phone.received.at(-1);
    t.equal(invite?.method, 'INVITE');
    if (invite === undefined) return;
    phone.send(
      serializeResponse(
        responseTo(invite, 200, {
          toTag: 'callee',
          headers: [['Contact', '<sip:alice@x7.invalid;transport=tcp>']],
          body: SDP,
        }),
      ),
    );
    await world.pass(10);
    t.same(
      phone.received.slice(-1).map(({ method }) => method),
      ['ACK'],
    );
    call.hangup();
    await world.pass(10);
    t.equal(phone.received.at(-1)?.method, 'BYE', 'its name leads nowhere, its connection does');
    phone.close();
    await world.pass(10);
    t.throws(() => targets(world), { code: 'REGISTER_FLOW_FAILED' });
    t.equal(world.location.size, 0, 'RFC 5626 §5.3: it is no binding any more');
    t.same(targets(world), []);
  });

  t.test('the way to phones behind NAT on UDP is kept open, and to no others', async (t) => {
    const world = await registrarWorld(t);
    const behind = await RegPhone.udp(world, '203.0.113.9', 31_000);
    const open = await RegPhone.udp(world, '10.0.0.2');
    const wired = await RegPhone.tcp(world, '10.0.0.3');
    await behind.register({ contacts: ['<sip:alice@192.168.1.5>'] });
    await open.register({});
    await wired.register({ contacts: ['<sip:alice@x.invalid;transport=tcp>'] });
    const asked: Binding[] = [];
    const keepAlive = new PhoneKeepAlive({
      clock: world.world.clock,
      location: world.location,
      ping: (binding) => asked.push(binding),
      intervalMs: 25_000,
    });
    keepAlive.start();
    await world.pass(250_500);
    t.equal(asked.length, 10);
    t.same([...new Set(asked.map(({ contact }) => contact))], ['sip:alice@192.168.1.5']);
    keepAlive.close();
    await world.pass(60_000);
    t.equal(asked.length, 10);
  });

  t.test('another account’s phones are not dialled past their application', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register();
    t.equal(world.contacts.targetsOf(AOR, OTHER_ACCOUNT), null);
    t.equal(world.contacts.targetsOf('sip:alice@elsewhere.example', ACCOUNT), null);
    t.equal(world.contacts.targetsOf('nonsense', ACCOUNT), null);
    t.same(world.contacts.targetsOf('sip:nobody@phones.example', ACCOUNT), []);
  });

  t.test('Path: only for who asked for it, stored, told back, and gone through', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const path = ['Path', '<sip:p2@10.0.0.8;lr>, <sip:p1@10.0.0.9;lr>'] as const;
    const refused = await phone.register({ headers: [path] });
    t.equal(refused.status, 420);
    t.equal(refused.header('Unsupported'), 'path');
    const headers = [path, ['Supported', 'path']] as const;
    const done = await phone.register({ headers });
    t.same(done.list('Path'), ['<sip:p2@10.0.0.8;lr>', '<sip:p1@10.0.0.9;lr>']);
    t.same(targets(world), ['1 sip:alice@10.0.0.2:5060 <sip:p2@10.0.0.8;lr> <sip:p1@10.0.0.9;lr>']);
    t.equal(
      (
        await phone.register({
          headers: [
            ['Path', '10.0.0.9'],
            ['Supported', 'path'],
          ],
        })
      ).status,
      400,
    );
  });
});

t.test('outbound flows (RFC 5626)', async (t) => {
  const instance = '"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>"';
  const supported = ['Supported', 'path, outbound'] as const;
  const contact = (n: number, host = '10.0.0.2') =>
    `<sip:alice@${host}:5060>;reg-id=${n};+sip.instance=${instance}`;

  t.test('a new flow takes the place of the old one, whatever its contact', async (t) => {
    const world = await registrarWorld(t);
    const old = await RegPhone.tcp(world, '10.0.0.2');
    const done = await old.register({ contacts: [contact(1)], headers: [supported] });
    t.equal(done.header('Require'), 'outbound');
    t.equal(done.header('Flow-Timer'), '120');
    t.match(contactsOf(done), [/;reg-id=1$/]);
    const [first] = targets(world);

    const fresh = await RegPhone.tcp(world, '10.0.0.2');
    fresh.callId = 'second';
    await fresh.register({ contacts: [contact(1, '10.9.9.9')], headers: [supported] });
    t.equal(world.location.size, 1);
    t.not(targets(world)[0], first);
    t.same(world.events(), ['registered 1'], 'to others it is the same registration');
  });

  t.test('two flows of one phone ring once; the other is there when one is gone', async (t) => {
    const world = await registrarWorld(t);
    const one = await RegPhone.tcp(world, '10.0.0.2');
    const two = await RegPhone.tcp(world, '10.0.0.3');
    await one.register({ contacts: [contact(1)], headers: [supported] });
    await world.pass(1_000);
    await two.register({ contacts: [contact(2)], headers: [supported] });
    t.equal(world.location.size, 2);
    t.match(targets(world), [/tcp:10\.0\.0\.3/]);
    two.close();
    await world.pass(10);
    t.match(targets(world), [/tcp:10\.0\.0\.2/]);
  });

  t.test('a proxy that keeps no flows is refused, one that does is not', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const vias = ['SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKproxy1'];
    const refused = await phone.register({ contacts: [contact(1)], headers: [supported], vias });
    t.equal(refused.status, 439);
    const path = ['Path', '<sip:edge@10.0.0.2;lr;ob>'] as const;
    const more = ['SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKproxy2'];
    phone.callId = 'again';
    const done = await phone.register({
      contacts: [contact(1)],
      headers: [supported, path],
      vias: more,
    });
    t.equal(done.status, 200, done.firstLine);
    t.equal(done.header('Require'), 'outbound');
    t.match(targets(world), [/<sip:edge@10\.0\.0\.2;lr;ob>$/]);
  });

  t.test(
    'one flow, one contact; without the option the number of the flow is nothing',
    async (t) => {
      const world = await registrarWorld(t);
      const phone = await RegPhone.udp(world, '10.0.0.2');
      const two = [contact(1), '<sip:other@10.0.0.2>'];
      t.equal((await phone.register({ contacts: two, headers: [supported] })).status, 400);
      const plain = await phone.register({ contacts: [contact(1)] });
      t.equal(plain.header('Require'), undefined);
      t.notMatch(contactsOf(plain)[0], /reg-id/);
    },
  );

  t.test('keep-alives: STUN on a flow over UDP, and nothing for strangers', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const stranger = await RegPhone.udp(world, '10.0.0.66');
    const ask = '\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl';
    await phone.register({ contacts: [contact(1)], headers: [supported] });
    phone.send(ask);
    stranger.send(ask);
    await world.pass(10);
    const answer = Buffer.from(phone.raw.at(-1) ?? '', 'latin1');
    t.equal(answer.length, 32);
    t.equal(answer.readUInt16BE(0), 0x0101);
    t.equal(answer.toString('latin1', 8, 20), 'abcdefghijkl');
    t.equal(answer.readUInt16BE(26) ^ 0x2112, 5060);
    t.equal(((answer.readUInt32BE(28) ^ 0x2112_a442) >>> 0).toString(16), 'a000002');
    t.same(stranger.raw, []);
  });
});

t.test('GRUU (RFC 5627)', async (t) => {
  const urn = 'urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6';
  const supported = ['Supported', 'gruu'] as const;
  const gruus = (answer: SipMessage): { pub: string; temp: string } => {
    const [contact = ''] = contactsOf(answer);
    return {
      pub: /pub-gruu="([^"]+)"/.exec(contact)?.[1] ?? '',
      temp: /temp-gruu="([^"]+)"/.exec(contact)?.[1] ?? '',
    };
  };

  t.test('the public one names one phone, the temporary ones name it to nobody else', async (t) => {
    const world = await registrarWorld(t);
    const [one, two] = [
      await RegPhone.udp(world, '10.0.0.2'),
      await RegPhone.udp(world, '10.0.0.3'),
    ];
    const contacts = [`<sip:alice@10.0.0.2:5060>;+sip.instance="<${urn}>"`];
    const first = gruus(await one.register({ contacts, headers: [supported] }));
    await two.register({});
    const second = gruus(await one.register({ contacts, headers: [supported] }));
    t.equal(first.pub, `sip:alice@phones.example;gr=${urn}`);
    t.equal(first.pub, second.pub);
    t.not(first.temp, second.temp);
    t.notMatch(first.temp, /alice|f81d4fae/);
    t.equal(targets(world).length, 2);
    for (const uri of [first.pub, first.temp, second.temp]) {
      t.match(targets(world, uri), [/^1 sip:alice@10\.0\.0\.2:5060 /], uri);
    }
    t.same(targets(world, `${AOR};gr=urn:uuid:other`), []);
    const forged = first.temp.replace(
      /tgruu\.(.)/,
      (_, c: string) => `tgruu.${c === 'A' ? 'B' : 'A'}`,
    );
    t.same(targets(world, forged), []);
    t.notMatch(contactsOf(await two.register({}))[0], /gruu/, 'only for who asks');
  });

  t.test('temporary ones end with the life of the phone that they were made in', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    const contacts = [`<sip:alice@10.0.0.2:5060>;+sip.instance="<${urn}>"`];
    const before = gruus(await phone.register({ contacts, headers: [supported] }));
    phone.callId = 'rebooted';
    const after = gruus(await phone.register({ contacts, headers: [supported] }));
    t.same(targets(world, before.temp), []);
    t.equal(targets(world, after.temp).length, 1);
    t.equal(targets(world, before.pub).length, 1);
  });
});

t.test('what outlives a restart, and what does not', async (t) => {
  t.test('phones are known to the next process, until they expire', async (t) => {
    const world = await registrarWorld(t);
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register({ headers: [['Expires', '100']] });
    await phone.register({ contacts: ['<sip:desk@10.0.0.2:5070>'] });
    const records = world.journal.read();
    t.equal(records.size, 1);

    const next = await registrarWorld(t);
    await next.pass(90_000);
    t.equal(next.location.restore(records), 2);
    t.same(next.events(), [], 'nothing has happened to them');
    t.equal(targets(next).length, 2);
    await next.pass(15_000);
    t.equal(targets(next).length, 1);
    t.same(next.events(), ['expired 1']);

    const late = await registrarWorld(t);
    await late.pass(4_000_000);
    t.equal(late.location.restore(records), 0);
    await late.pass(0);
    t.same(late.events(), ['expired 0', 'expired 0']);
    t.equal(late.journal.read().size, 0);
  });

  t.test('a user that is taken out is not reached any more; an operator can end one', async (t) => {
    const users = new Set(['alice', 'bob']);
    const world = await registrarWorld(t, {
      accounts: {
        domain: ACCOUNTS.domain,
        find: (_, name) => (users.has(name) ? { password: new Secret(PASSWORD) } : null),
      },
    });
    const phone = await RegPhone.udp(world, '10.0.0.2');
    await phone.register();
    await phone.register({ user: 'bob' });
    users.delete('alice');
    world.location.retain((aor, sid) => sid === DOMAIN.sid && !aor.includes('alice'));
    t.same(targets(world), []);
    const [bob] = world.location.registrations(ACCOUNT);
    t.equal(bob?.aor, 'sip:bob@phones.example');
    t.notOk(world.location.remove(OTHER_ACCOUNT, bob?.sid ?? ''), 'not another’s');
    t.ok(world.location.remove(ACCOUNT, bob?.sid ?? ''));
    t.equal(world.location.size, 0);
  });
});

function targetOf(world: RegistrarWorld) {
  const peer = world.contacts.targetsOf(AOR, ACCOUNT)?.[0]?.target.peer;
  return peer ? { target: peer } : {};
}
