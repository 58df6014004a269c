/** The bus' contract, run on the in-process bus in both modes: as it is, and through JSON. */
import t from 'tap';
import {
  DEFAULT_LOCAL_BUS,
  LocalBus,
  matchesSubject,
  type Service,
  type Subject,
} from '../src/bus/bus.ts';
import { type Clock, realClock } from '../src/core/clock.ts';
import { GatewayError } from '../src/core/errors.ts';

interface Note {
  readonly n: number;
  readonly text?: string;
}

const subject = (name: string): Subject<Note> => name as Subject<Note>;
const service = (name: string): Service<Note, Note> => name as Service<Note, Note>;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function makeBus(options: Partial<typeof DEFAULT_LOCAL_BUS> = {}): {
  bus: LocalBus;
  errors: GatewayError[];
} {
  const errors: GatewayError[] = [];
  const bus = new LocalBus({
    ...DEFAULT_LOCAL_BUS,
    ...options,
    clock: realClock,
    onError: (error) => errors.push(error),
  });
  return { bus, errors };
}

for (const json of [false, true]) {
  t.test(`bus, ${json ? 'json' : 'plain'} mode`, async (t) => {
    t.test('delivers later, in order, to everybody who listens', async (t) => {
      const { bus } = makeBus({ json });
      const a: number[] = [];
      const b: number[] = [];
      bus.subscribe(subject('x.1'), ({ n }) => a.push(n));
      bus.subscribe(subject('x.1'), ({ n }) => b.push(n));

      for (let n = 0; n < 2_000; n += 1) bus.publish(subject('x.1'), { n });
      t.equal(a.length, 0, 'not before the publisher is done');
      for (let i = 0; i < 10; i += 1) await turn();

      t.same(
        a,
        Array.from({ length: 2_000 }, (_, n) => n),
      );
      t.same(b, a);
    });

    t.test('a closed subscription gets nothing more, not even what waits', async (t) => {
      const { bus } = makeBus({ json });
      const got: number[] = [];
      const subscription = bus.subscribe(subject('x'), ({ n }) => got.push(n));
      bus.publish(subject('x'), { n: 1 });
      await turn();
      bus.publish(subject('x'), { n: 2 });

      subscription.close();
      subscription.close();
      await turn();

      t.same(got, [1]);
    });

    t.test('wildcards see the subjects they name', async (t) => {
      const { bus } = makeBus({ json });
      const got: string[] = [];
      bus.subscribe(subject('call.*'), (_note, name) => got.push(`* ${name}`));
      bus.subscribe(subject('call.>'), (_note, name) => got.push(`> ${name}`));

      bus.publish(subject('call.1'), { n: 1 });
      bus.publish(subject('call.1.x'), { n: 1 });
      bus.publish(subject('leg.1'), { n: 1 });
      await turn();

      t.same(got, ['* call.1', '> call.1', '> call.1.x']);
    });

    t.test('members of a queue group share, others get all', async (t) => {
      const { bus } = makeBus({ json });
      const counts = { a: 0, b: 0, all: 0 };
      bus.subscribe(subject('job'), () => (counts.a += 1), { queue: 'workers' });
      bus.subscribe(subject('job'), () => (counts.b += 1), { queue: 'workers' });
      bus.subscribe(subject('job'), () => (counts.all += 1));

      for (let n = 0; n < 10; n += 1) bus.publish(subject('job'), { n });
      await turn();

      t.same(counts, { a: 5, b: 5, all: 10 });
    });

    t.test('a request is answered once, errors keep their code', async (t) => {
      const { bus } = makeBus({ json });
      bus.respond(service('double'), ({ n }) => {
        if (n < 0) throw new GatewayError('CALL_BAD_TO', { to: String(n) });
        return { n: 2 * n };
      });

      t.same(await bus.request(service('double'), { n: 21 }, { timeoutMs: 1_000 }), { n: 42 });
      await t.rejects(bus.request(service('double'), { n: -1 }, { timeoutMs: 1_000 }), {
        code: 'CALL_BAD_TO',
        details: { to: '-1' },
      });
      await t.rejects(bus.request(service('nobody'), { n: 1 }, { timeoutMs: 1_000 }), {
        code: 'BUS_NO_RESPONDER',
      });
    });

    t.test('a handler that throws hurts nobody else', async (t) => {
      const { bus, errors } = makeBus({ json });
      const got: number[] = [];
      bus.subscribe(subject('x'), () => {
        throw new GatewayError('INTERNAL', { problem: 'on purpose' });
      });
      bus.subscribe(subject('x'), ({ n }) => got.push(n));

      bus.publish(subject('x'), { n: 1 });
      bus.publish(subject('x'), { n: 2 });
      await turn();

      t.same(got, [1, 2]);
      t.equal(errors.length, 2);
    });
  });
}

t.test('json mode hands over a copy, as a bus between processes would', async (t) => {
  const { bus } = makeBus({ json: true });
  const sent = { n: 1, text: undefined, at: new Date(0) } as unknown as Note;
  let got: Note | null = null;
  bus.subscribe(subject('x'), (note) => {
    got = note;
  });

  bus.publish(subject('x'), sent);
  await turn();

  t.not(got, sent);
  t.same(got, { n: 1, at: '1970-01-01T00:00:00.000Z' });
});

t.test('too many waiting messages are refused, not kept', async (t) => {
  const { bus } = makeBus({ queueDepthMax: 3 });
  const got: number[] = [];
  bus.subscribe(subject('x'), ({ n }) => got.push(n));

  for (let n = 0; n < 3; n += 1) bus.publish(subject('x'), { n });
  t.throws(() => bus.publish(subject('x'), { n: 3 }), { code: 'QUEUE_FULL' });
  await turn();
  bus.publish(subject('x'), { n: 4 });
  await turn();

  t.same(got, [0, 1, 2, 4]);
});

t.test('two parts that answer each other for ever leave the event loop its turn', async (t) => {
  const { bus } = makeBus();
  bus.subscribe(subject('ping'), (note) => bus.publish(subject('pong'), note));
  bus.subscribe(subject('pong'), (note) => bus.publish(subject('ping'), note));

  bus.publish(subject('ping'), { n: 1 });
  for (let i = 0; i < 5; i += 1) await turn();
  await bus.close();

  t.equal(bus.depth, 0);
});

t.test('a request whose answer does not come ends in time, or when the bus closes', async (t) => {
  const timers: (() => void)[] = [];
  const clock: Clock = {
    ...realClock,
    timer: (_delayMs, fn) => {
      timers.push(fn);
      return { cancel: () => undefined };
    },
  };
  const bus = new LocalBus({ ...DEFAULT_LOCAL_BUS, clock, onError: () => undefined });
  bus.respond(service('never'), () => new Promise<Note>(() => undefined));

  const late = bus.request(service('never'), { n: 1 }, { timeoutMs: 5 });
  await turn();
  for (const fire of timers) fire();
  await t.rejects(late, { code: 'BUS_TIMEOUT' });

  const cut = bus.request(service('never'), { n: 1 }, { timeoutMs: 5 });
  await turn();
  await bus.close();
  await t.rejects(cut, { code: 'BUS_NO_RESPONDER' });
  const after = bus.request(service('never'), { n: 1 }, { timeoutMs: 5 });
  await t.rejects(after, { code: 'BUS_NO_RESPONDER' }, 'nor is one kept that comes after');
});

t.test('a request that is answered at once costs no timer', async (t) => {
  let timers = 0;
  const clock: Clock = {
    ...realClock,
    timer: (delayMs, fn) => {
      timers += 1;
      return realClock.timer(delayMs, fn);
    },
  };
  const bus = new LocalBus({ ...DEFAULT_LOCAL_BUS, clock, onError: () => undefined });
  bus.respond(service('now'), ({ n }) => ({ n: n + 1 }));

  t.same(await bus.request(service('now'), { n: 1 }, { timeoutMs: 5 }), { n: 2 });
  t.equal(timers, 0);
});

t.test('subject patterns', async (t) => {
  t.ok(matchesSubject('a.b', 'a.b'));
  t.ok(matchesSubject('a.b', '*.b'));
  t.ok(matchesSubject('a.b.c', 'a.>'));
  t.notOk(matchesSubject('a', 'a.>'));
  t.notOk(matchesSubject('a.b.c', 'a.*'));
  t.notOk(matchesSubject('a.b', 'a.b.c'));
});
