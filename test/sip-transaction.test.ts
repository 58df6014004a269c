/**
 * Transactions: every timer of RFC 3261 §17 and RFC 6026, on the machines alone and in the table,
 * and the wheel that keeps their time.
 */
import t from 'tap';
import { InviteClientMachine, NonInviteClientMachine } from '../src/sip/client-transaction.ts';
import { Action, type Actions, DEFAULT_TIMERS } from '../src/sip/machine.ts';
import {
  type HeaderField,
  type OutgoingRequest,
  responseTo,
  type SipMessage,
} from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';
import type { Local, PeerAddress, ReturnPath, Source } from '../src/sip/peer.ts';
import { InviteServerMachine, NonInviteServerMachine } from '../src/sip/server-transaction.ts';
import { SourceLimit } from '../src/sip/source-limit.ts';
import {
  type ClientTransaction,
  type Sender,
  type ServerTransaction,
  TransactionTable,
} from '../src/sip/transaction.ts';
import { Deadline, Wheel } from '../src/sip/wheel.ts';
import { SEED, SimClock, seededRandom } from './support/sim.ts';

const timers = DEFAULT_TIMERS;

interface Timed {
  readonly deadlineMs: number;
  expire(nowMs: number): Actions;
}

/** Runs a machine's deadlines until it has none or `untilMs`; what it did, when. */
function run(machine: Timed, untilMs = 1e9): [atMs: number, actions: Actions][] {
  const done: [number, Actions][] = [];
  while (machine.deadlineMs <= untilMs) {
    const atMs = machine.deadlineMs;
    done.push([atMs, machine.expire(atMs)]);
  }
  return done;
}

t.test('client INVITE on UDP', async (t) => {
  t.test('timer A doubles without a limit, timer B ends it at 64*T1', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: false });

    const first = machine.start(0);
    const later = run(machine);

    t.equal(first, Action.send);
    t.same(later, [
      [500, Action.send],
      [1500, Action.send],
      [3500, Action.send],
      [7500, Action.send],
      [15_500, Action.send],
      [31_500, Action.send],
      [32_000, Action.timeout | Action.end],
    ]);
    t.equal(machine.state, 'terminated');
  });

  t.test('a provisional response stops A and B for as long as it rings', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: false });
    machine.start(0);

    t.equal(machine.response(180, 100), Action.deliver);
    t.same(run(machine), []);
    t.equal(machine.response(183, 600_000), Action.deliver);
    t.equal(machine.state, 'proceeding');
  });

  t.test('a refusal is acknowledged each time it comes, told once, kept for timer D', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: false });
    machine.start(0);

    t.equal(machine.response(486, 100), Action.ack | Action.deliver);
    t.equal(machine.response(486, 600), Action.ack);
    t.equal(machine.response(200, 700), Action.none, 'a 2xx after a refusal is nobody’s');
    t.same(run(machine), [[100 + timers.timerDMs, Action.end]]);
    t.ok(timers.timerDMs >= 32_000);
  });

  t.test('every 2xx is told, for timer M', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: false });
    machine.start(0);

    t.equal(machine.response(200, 100), Action.deliver);
    t.equal(machine.response(200, 600), Action.deliver);
    t.equal(machine.response(486, 700), Action.none);
    t.equal(machine.response(180, 700), Action.none);
    t.same(run(machine), [[100 + 64 * timers.t1Ms, Action.end]]);
  });

  t.test('once canceled, the final response is waited for 64*T1 and no longer', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: false });
    machine.start(0);
    machine.response(180, 100);

    machine.abandon(1000);

    t.same(run(machine), [[33_000, Action.timeout | Action.end]]);
  });
});

t.test('client INVITE on TCP', async (t) => {
  t.test('is never repeated; timer B still ends it', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: true });
    machine.start(0);
    t.same(run(machine), [[32_000, Action.timeout | Action.end]]);
  });

  t.test('a refusal ends it at once: timer D is zero', async (t) => {
    const machine = new InviteClientMachine({ timers, reliable: true });
    machine.start(0);
    t.equal(machine.response(486, 100), Action.ack | Action.deliver | Action.end);
    t.same(run(machine), []);
  });
});

t.test('client non-INVITE', async (t) => {
  t.test('timer E doubles up to T2, timer F ends it', async (t) => {
    const machine = new NonInviteClientMachine({ timers, reliable: false });
    machine.start(0);

    const done = run(machine);

    t.same(
      done.map(([atMs]) => atMs),
      [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000],
    );
    t.equal(done.at(-1)?.[1], Action.timeout | Action.end);
  });

  t.test('in Proceeding timer E is T2, and F runs on', async (t) => {
    const machine = new NonInviteClientMachine({ timers, reliable: false });
    machine.start(0);

    t.equal(machine.response(100, 200), Action.deliver);

    t.same(
      run(machine).map(([atMs]) => atMs),
      [500, 4500, 8500, 12_500, 16_500, 20_500, 24_500, 28_500, 32_000],
    );
  });

  t.test('timer K keeps it for T4 on UDP and not at all on TCP', async (t) => {
    const udp = new NonInviteClientMachine({ timers, reliable: false });
    const tcp = new NonInviteClientMachine({ timers, reliable: true });
    udp.start(0);
    tcp.start(0);

    t.equal(udp.response(200, 100), Action.deliver);
    t.equal(udp.response(200, 200), Action.none);
    t.same(run(udp), [[100 + timers.t4Ms, Action.end]]);
    t.equal(tcp.response(200, 100), Action.deliver | Action.end);
  });

  t.test('on TCP it is never repeated', async (t) => {
    const machine = new NonInviteClientMachine({ timers, reliable: true });
    machine.start(0);
    t.same(run(machine), [[32_000, Action.timeout | Action.end]]);
  });
});

t.test('server INVITE', async (t) => {
  t.test('timer G repeats a refusal up to T2, timer H gives it up', async (t) => {
    const machine = new InviteServerMachine({ timers, reliable: false });

    t.equal(machine.respond(486, 0), Action.send);
    const done = run(machine);

    t.same(
      done.map(([atMs]) => atMs),
      [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000],
    );
    t.equal(done.at(-1)?.[1], Action.timeout | Action.end);
  });

  t.test('ACK stops it; timer I absorbs late ones for T4 on UDP, not at all on TCP', async (t) => {
    const udp = new InviteServerMachine({ timers, reliable: false });
    const tcp = new InviteServerMachine({ timers, reliable: true });
    udp.respond(486, 0);
    tcp.respond(486, 0);

    t.equal(udp.acknowledged(100), Action.none);
    t.equal(udp.acknowledged(200), Action.none);
    t.equal(udp.repeated(), Action.none, 'Confirmed answers nothing');
    t.same(run(udp), [[100 + timers.t4Ms, Action.end]]);
    t.equal(tcp.acknowledged(100), Action.end);
  });

  t.test('on TCP a refusal is not repeated; timer H still ends it', async (t) => {
    const machine = new InviteServerMachine({ timers, reliable: true });
    machine.respond(486, 0);
    t.same(run(machine), [[32_000, Action.timeout | Action.end]]);
  });

  t.test('after a 2xx a repeated INVITE is absorbed until timer L', async (t) => {
    const machine = new InviteServerMachine({ timers, reliable: false });
    machine.respond(180, 0);
    t.equal(machine.repeated(), Action.send);

    t.equal(machine.respond(200, 100), Action.send);

    t.equal(machine.repeated(), Action.none);
    t.equal(machine.respond(200, 600), Action.send, 'the session repeats its 2xx through it');
    t.equal(machine.respond(486, 700), Action.none);
    t.equal(machine.acknowledged(700), Action.deliver);
    t.same(run(machine), [[100 + 64 * timers.t1Ms, Action.end]]);
  });

  t.test('takes one final response', async (t) => {
    const machine = new InviteServerMachine({ timers, reliable: false });
    machine.respond(486, 0);
    t.equal(machine.respond(200, 10), Action.none);
    t.equal(machine.respond(180, 10), Action.none);
  });
});

t.test('server non-INVITE', async (t) => {
  t.test('is silent while nothing is decided, repeats what was said, until timer J', async (t) => {
    const machine = new NonInviteServerMachine({ timers, reliable: false });

    t.equal(machine.repeated(), Action.none);
    t.equal(machine.respond(200, 0), Action.send);
    t.equal(machine.repeated(), Action.send);
    t.equal(machine.respond(500, 10), Action.none);
    t.same(run(machine), [[32_000, Action.end]]);
  });

  t.test('on TCP timer J is zero', async (t) => {
    const machine = new NonInviteServerMachine({ timers, reliable: true });
    t.equal(machine.respond(200, 0), Action.send | Action.end);
  });
});

class Mark extends Deadline {
  readonly firedMs: number[] = [];
  override expire(nowMs: number): void {
    this.firedMs.push(nowMs);
  }
}

t.test('wheel', async (t) => {
  const setup = (): { clock: SimClock; wheel: Wheel; errors: unknown[] } => {
    const errors: unknown[] = [];
    const clock = new SimClock({ seed: SEED });
    return { clock, errors, wheel: new Wheel({ clock, onError: (error) => errors.push(error) }) };
  };

  t.test('fires once, within a tick after the deadline, at any distance', async (t) => {
    const { clock, wheel } = setup();
    const random = seededRandom(SEED);
    const marks = Array.from({ length: 500 }, () => ({
      mark: new Mark(),
      due: random() * 200_000,
    }));
    for (const { mark, due } of marks) wheel.set(mark, due);

    await clock.advance(201_000);

    for (const { mark, due } of marks) {
      t.equal(mark.firedMs.length, 1, `seed ${SEED}`);
      const late = (mark.firedMs[0] ?? 0) - due;
      if (late < 0 || late > 10) t.fail(`${late} ms after its deadline, seed ${SEED}`);
    }
    t.equal(wheel.count, 0);
    t.equal(clock.armedCount, 0, 'an idle wheel holds no timer');
  });

  t.test('a deadline can be moved and cleared', async (t) => {
    const { clock, wheel } = setup();
    const moved = new Mark();
    const cleared = new Mark();
    wheel.set(moved, 100);
    wheel.set(moved, 300);
    wheel.set(cleared, 100);
    wheel.clear(cleared);

    await clock.advance(1000);

    t.same(moved.firedMs, [300]);
    t.same(cleared.firedMs, []);
  });

  t.test('an expiry may arm again and clear its neighbours', async (t) => {
    const { clock, wheel } = setup();
    const victim = new Mark();
    class Chain extends Deadline {
      left = 3;
      override expire(nowMs: number): void {
        wheel.clear(victim);
        this.left -= 1;
        if (this.left > 0) wheel.set(this, nowMs + 5);
      }
    }
    const chain = new Chain();
    wheel.set(victim, 100);
    wheel.set(chain, 100);

    await clock.advance(1000);

    t.equal(chain.left, 0);
    t.same(victim.firedMs, []);
    t.equal(clock.armedCount, 0);
  });

  t.test('an expiry that throws does not stop the others', async (t) => {
    const { clock, wheel, errors } = setup();
    class Broken extends Deadline {
      override expire(): void {
        throw new Error('broken');
      }
    }
    const mark = new Mark();
    wheel.set(mark, 100);
    wheel.set(new Broken(), 100);
    wheel.set(new Broken(), 50);

    await clock.advance(1000);

    t.same(mark.firedMs, [100]);
    t.equal(errors.length, 2);
  });
});

const LOCAL: Local = { transport: 'udp', address: '10.0.0.1', port: 5060, sentBy: '10.0.0.1:5060' };
const PEER: PeerAddress = { transport: 'udp', address: '10.0.0.2', port: 5060 };
const SOURCE: Source = { ...PEER, local: LOCAL, connection: null };

/** Keeps what would go out. */
class Outbox implements Sender {
  readonly isTraced = false;
  readonly sent: string[] = [];
  send(text: string): void {
    this.sent.push(text);
  }
  respond(text: string): void {
    this.sent.push(text);
  }
  returnPath(_message: SipMessage, source: Source): ReturnPath {
    return { ...source, sentByPort: 5060 };
  }
  traceOut(): void {}
  get firstLines(): string[] {
    return this.sent.map((text) => text.slice(0, text.indexOf('\r\n')));
  }
}

function setupTable(bounds: { clients?: number; servers?: number } = {}): {
  clock: SimClock;
  wheel: Wheel;
  outbox: Outbox;
  table: TransactionTable;
} {
  const clock = new SimClock({ seed: SEED });
  const outbox = new Outbox();
  const wheel = new Wheel({ clock, onError: (error) => t.fail(String(error)) });
  const { clients = 100, servers = 100 } = bounds;
  const options = { timers, clientTransactionsMax: clients, serverTransactionsMax: servers };
  return { clock, wheel, outbox, table: new TransactionTable({ sender: outbox, wheel, options }) };
}

function parse(text: string): SipMessage {
  const result = parseMessage(text, { stream: false });
  if (!result.ok) throw result.error;
  return result.message;
}

function received(
  method: string,
  options: { branch?: string; via?: string; to?: string } = {},
): SipMessage {
  const { branch = 'z9hG4bKone', via = `10.0.0.2:5060;branch=${branch}`, to = '' } = options;
  return parse(
    `${method} sip:us@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP ${via}\r\nMax-Forwards: 70\r\n` +
      `From: <sip:them@10.0.0.2>;tag=theirs\r\nTo: <sip:us@10.0.0.1>${to}\r\nCall-ID: c1\r\n` +
      `CSeq: 7 ${method}\r\nContact: <sip:them@10.0.0.2>\r\nContent-Length: 0\r\n\r\n`,
  );
}

function outgoing(method: string): OutgoingRequest {
  const headers: HeaderField[] = [
    ['Via', 'SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKout'],
    ['Route', '<sip:proxy@10.0.0.2;lr>'],
    ['Max-Forwards', '70'],
    ['From', '<sip:us@10.0.0.1>;tag=ours'],
    ['To', '<sip:them@10.0.0.2>'],
    ['Call-ID', 'c2'],
    ['CSeq', `3 ${method}`],
    ['Contact', '<sip:us@10.0.0.1>'],
    ['X-Own', 'not for the ACK'],
  ];
  return { method, uri: 'sip:them@10.0.0.2', headers, body: '' };
}

class Log {
  readonly events: string[] = [];
  onResponse(_transaction: ClientTransaction, response: SipMessage): void {
    this.events.push(String(response.status));
  }
  onFailure(_transaction: ClientTransaction, code: string): void {
    this.events.push(code);
  }
  onCancel(_transaction: ServerTransaction): void {
    this.events.push('cancel');
  }
  onUnacknowledged(_transaction: ServerTransaction): void {
    this.events.push('unacknowledged');
  }
}

function answerFrom(request: OutgoingRequest, status: number, toTag: string): SipMessage {
  const lines = request.headers
    .filter(([name]) => ['Via', 'From', 'Call-ID', 'CSeq'].includes(name))
    .map(([name, value]) => `${name}: ${value}`);
  const to = `To: <sip:them@10.0.0.2>;tag=${toTag}`;
  return parse(
    `SIP/2.0 ${status} Whatever\r\n${[...lines, to].join('\r\n')}\r\nContent-Length: 0\r\n\r\n`,
  );
}

t.test('table', async (t) => {
  t.test('repeats the bytes of a request and forgets the transaction at the end', async (t) => {
    const { clock, wheel, outbox, table } = setupTable();
    const user = new Log();
    const parts = { branch: 'z9hG4bKout', callId: 'c2', peer: PEER, local: LOCAL, user };

    table.request({ ...parts, request: outgoing('OPTIONS') });
    await clock.advance(40_000);

    t.equal(outbox.sent.length, 11);
    t.equal(new Set(outbox.sent).size, 1, 'the same bytes each time');
    t.same(user.events, ['SIP_TIMEOUT']);
    t.equal(table.clientCount, 0);
    t.equal(wheel.count, 0);
  });

  t.test(
    'the ACK of a refusal has the INVITE’s branch and route and the answer’s To',
    async (t) => {
      const { clock, outbox, table } = setupTable();
      const user = new Log();
      const request = outgoing('INVITE');
      table.request({
        request,
        branch: 'z9hG4bKout',
        callId: 'c2',
        peer: PEER,
        local: LOCAL,
        user,
      });
      outbox.sent.length = 0;

      table.response(answerFrom(request, 486, 'theirs'), SOURCE);
      table.response(answerFrom(request, 486, 'theirs'), SOURCE);

      t.same(user.events, ['486']);
      t.equal(outbox.sent.length, 2);
      const ack = parse(outbox.sent[0] ?? '');
      t.equal(ack.method, 'ACK');
      t.equal(ack.uri, 'sip:them@10.0.0.2');
      t.equal(ack.via.branch, 'z9hG4bKout');
      t.equal(ack.cseq, 3);
      t.equal(ack.toTag, 'theirs');
      t.equal(ack.header('Route'), '<sip:proxy@10.0.0.2;lr>');
      t.equal(ack.header('X-Own'), undefined);
      t.equal(ack.header('Contact'), undefined);
      await clock.advance(33_000);
      t.equal(table.clientCount, 0);
    },
  );

  t.test('what was answered keeps its user only for as long as it has news for it', async (t) => {
    const { table } = setupTable();
    const user = new Log();
    const parts = { branch: 'z9hG4bKout', callId: 'c2', peer: PEER, local: LOCAL, user };
    const invite = table.request({ ...parts, request: outgoing('INVITE') });
    const bye = table.request({ ...parts, request: outgoing('BYE') });
    const server = table.accept(received('INVITE'), SOURCE, user);

    table.response(answerFrom(invite.request, 180, 'theirs'), SOURCE);
    t.equal(invite.user, user, 'more is to come');
    table.response(answerFrom(invite.request, 200, 'theirs'), SOURCE);
    table.response(answerFrom(bye.request, 200, 'theirs'), SOURCE);
    server?.respond(responseTo(server.request, 200));

    t.equal(invite.user, user, 'another branch may answer too');
    t.equal(bye.user, null);
    t.equal(server?.user, null, 'nothing is left to cancel');
    t.throws(() => invite.request);
    t.throws(() => server?.request);
    t.equal(table.clientCount + table.serverCount, 3, 'repetitions are still known');
  });

  t.test('a response of another branch or method finds no transaction', async (t) => {
    const { table } = setupTable();
    const user = new Log();
    const request = outgoing('INVITE');
    table.request({
      request,
      branch: 'z9hG4bKother',
      callId: 'c2',
      peer: PEER,
      local: LOCAL,
      user,
    });

    t.notOk(table.response(answerFrom(request, 200, 'x'), SOURCE));
    t.same(user.events, []);
  });

  t.test('a failure to send is told once, and not after the final response', async (t) => {
    const { table } = setupTable();
    const user = new Log();
    const parts = { callId: 'c2', peer: PEER, local: LOCAL, user };
    const lost = table.request({ ...parts, request: outgoing('BYE'), branch: 'z9hG4bKlost' });
    const request = outgoing('INVITE');
    const done = table.request({ ...parts, request, branch: 'z9hG4bKout' });
    table.response(answerFrom(request, 200, 'x'), SOURCE);

    lost.sendFailed();
    lost.sendFailed();
    done.sendFailed();

    t.same(user.events, ['200', 'SIP_TRANSPORT']);
  });

  t.test('a repeated request gets the last response, an ACK ends the refusal', async (t) => {
    const { clock, outbox, table } = setupTable();
    const user = new Log();
    const invite = received('INVITE');
    t.notOk(table.absorb(invite));
    const transaction = table.accept(invite, SOURCE, user);

    t.ok(table.absorb(received('INVITE')), 'before any response: absorbed in silence');
    t.equal(outbox.sent.length, 0);
    transaction?.respond(responseTo(invite, 100));
    t.ok(table.absorb(received('INVITE')));
    transaction?.respond(responseTo(invite, 486, { toTag: 'ours' }));
    t.ok(table.absorb(received('INVITE')));
    t.same(outbox.firstLines, [
      'SIP/2.0 100 Trying',
      'SIP/2.0 100 Trying',
      'SIP/2.0 486 Busy Here',
      'SIP/2.0 486 Busy Here',
    ]);

    t.ok(table.absorb(received('ACK', { to: ';tag=ours' })));
    t.ok(table.absorb(received('ACK', { to: ';tag=ours' })), 'late ACKs are absorbed');
    await clock.advance(4900);
    t.equal(table.serverCount, 1);
    await clock.advance(200);
    t.equal(table.serverCount, 0);
    t.same(user.events, []);
  });

  t.test('an ACK of a 2xx is not absorbed: it is the dialog’s', async (t) => {
    const { table } = setupTable();
    const old = { via: '10.0.0.2:5060' }; // RFC 2543: the ACK matches its INVITE's transaction
    const invite = received('INVITE', old);
    const transaction = table.accept(invite, SOURCE, null);
    transaction?.respond(responseTo(invite, 200, { toTag: 'ours' }));

    t.notOk(table.absorb(received('ACK', { ...old, to: ';tag=ours' })));
    t.notOk(table.absorb(received('ACK', { branch: 'z9hG4bKack', to: ';tag=ours' })));
  });

  t.test('an unacknowledged refusal is told to the user', async (t) => {
    const { clock, table } = setupTable();
    const user = new Log();
    const invite = received('INVITE');
    table.accept(invite, SOURCE, user)?.respond(responseTo(invite, 486, { toTag: 'ours' }));

    await clock.advance(33_000);

    t.same(user.events, ['unacknowledged']);
    t.equal(table.serverCount, 0);
  });

  t.test('the same request by another way is a merged one, while the first lives', async (t) => {
    const { clock, table } = setupTable();
    const invite = received('INVITE');
    t.notOk(table.isMerged(invite));
    const transaction = table.accept(invite, SOURCE, null);

    t.ok(table.isMerged(received('INVITE', { branch: 'z9hG4bKtwo' })));
    transaction?.respond(responseTo(invite, 200, { toTag: 'ours' }));
    t.ok(table.isMerged(received('INVITE', { branch: 'z9hG4bKtwo' })));
    await clock.advance(33_000);
    t.notOk(table.isMerged(received('INVITE', { branch: 'z9hG4bKtwo' })));
  });

  t.test('an answered request is repeated to, but no longer kept', async (t) => {
    const { outbox, table } = setupTable();
    const bye = received('BYE');
    const transaction = table.accept(bye, SOURCE, null);

    t.equal(transaction?.request, bye);
    transaction?.respond(responseTo(bye, 200));

    t.throws(() => transaction?.request, { code: 'INTERNAL' });
    t.ok(table.absorb(bye));
    t.equal(outbox.sent.length, 2);
    t.equal(outbox.sent[0], outbox.sent[1]);
  });

  t.test('CANCEL finds its INVITE by branch, and only from the same source', async (t) => {
    const { table } = setupTable();
    const transaction = table.accept(received('INVITE'), SOURCE, null);

    t.equal(table.inviteOf(received('CANCEL'), SOURCE), transaction);
    t.equal(table.inviteOf(received('CANCEL', { branch: 'z9hG4bKx' }), SOURCE), undefined);
    t.equal(table.inviteOf(received('CANCEL'), { ...SOURCE, address: '10.6.6.6' }), undefined);
  });

  t.test('is bounded on both sides', async (t) => {
    const { table } = setupTable({ clients: 1, servers: 1 });
    const parts = { callId: 'c2', peer: PEER, local: LOCAL, user: new Log() };
    table.accept(received('INVITE'), SOURCE, null);
    table.request({ ...parts, request: outgoing('BYE'), branch: 'z9hG4bKone' });

    t.equal(table.accept(received('BYE', { branch: 'z9hG4bKtwo' }), SOURCE, null), null);
    t.throws(() => table.request({ ...parts, request: outgoing('BYE'), branch: 'z9hG4bKtwo' }), {
      code: 'OVERLOADED',
    });
  });
});

t.test('source limit', async (t) => {
  t.test('lets a burst pass, then the rate', async (t) => {
    const limit = new SourceLimit({ perSecond: 10, burst: 20, sourcesMax: 100 });
    const take = (nowMs: number): number => {
      let taken = 0;
      while (limit.take('192.0.2.1', nowMs)) taken += 1;
      return taken;
    };

    t.equal(take(0), 20);
    t.equal(take(500), 5);
    t.equal(take(60_000), 20);
    t.ok(limit.take('192.0.2.2', 500), 'another source has its own');
  });

  t.test('an IPv6 source is its /64', async (t) => {
    const limit = new SourceLimit({ perSecond: 1, burst: 1, sourcesMax: 100 });

    t.ok(limit.take('2001:db8:0:1::1', 0));
    t.notOk(limit.take('2001:db8:0:1:ffff::2', 0));
    t.ok(limit.take('2001:db8:0:2::1', 0));
    t.ok(limit.take('2001:db8::1', 0));
    t.notOk(limit.take('2001:db8::2', 0));
  });

  t.test('the table keeps its size whatever comes', async (t) => {
    const limit = new SourceLimit({ perSecond: 1, burst: 1, sourcesMax: 10 });
    for (let i = 0; i < 1000; i += 1) limit.take(`10.0.${i >> 8}.${i & 255}`, i);
    t.equal(limit.size, 10);
  });
});
