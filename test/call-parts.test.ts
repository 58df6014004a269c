/** The parts of call/ that need neither SIP nor media: journal, routes, admission, history, holes. */
import { appendFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { DEFAULT_LOCAL_BUS, LocalBus } from '../src/bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../src/call/admission.ts';
import { Call, type CallDeps, DEFAULT_CALL_OPTIONS, newCallRecord } from '../src/call/call.ts';
import { Deadline } from '../src/call/deadline.ts';
import { DEFAULT_JOURNAL, FileJournal, noJournal } from '../src/call/journal.ts';
import { callSubject, type LegCommand, type LegFact, legSubject } from '../src/call/leg.ts';
import { LegOutbox } from '../src/call/leg-outbox.ts';
import { LegQueue } from '../src/call/leg-queue.ts';
import { partyOf } from '../src/call/leg-signal.ts';
import { Recent } from '../src/call/recent.ts';
import { fromUriOf, gatewayUri } from '../src/call/route.ts';
import { DEFAULT_ROUTER } from '../src/call/router.ts';
import { DEFAULT_LEG_OPTIONS } from '../src/call/sip-leg.ts';
import { DEFAULT_TRACE, TraceBook } from '../src/call/trace.ts';
import { type Clock, realClock } from '../src/core/clock.ts';
import { asGatewayError, GatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { type AccountSid, type CallSid, newSid } from '../src/core/sid.ts';

const ACCOUNT = `AC${'a'.repeat(32)}` as AccountSid;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const cell = (value: object): { snapshot(): object } => ({ snapshot: () => value });

// Timers of the clock do not keep a process alive; a test that waits for one needs something that does.
const alive = setInterval(() => undefined, 1_000);
t.teardown(() => clearInterval(alive));

async function folder(t: Test): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'tandem-journal-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

function journalIn(
  directory: string,
  options: Partial<typeof DEFAULT_JOURNAL> = {},
  log = silentLog,
): FileJournal {
  return new FileJournal({ ...DEFAULT_JOURNAL, clock: realClock, log, directory, ...options });
}

t.test('journal: the last word on each key comes back', async (t) => {
  const directory = await folder(t);
  const first = journalIn(directory);
  t.equal((await first.start()).size, 0);
  const state = { n: 0, text: 'grüße\n"' };
  const counter = cell(state);
  for (let n = 1; n <= 100; n += 1) {
    state.n = n;
    first.put('call.1', counter);
  }
  first.put('call.2', cell({ n: 2 }));
  await first.flush();
  first.put('call.3', cell({ n: 3 }));
  first.remove('call.2');
  first.put('never', cell({}));
  first.remove('never');
  await first.close();

  const lines = (await readFile(join(directory, 'journal.1'), 'utf8')).trim().split('\n');
  t.equal(lines.length, 4, 'a hundred changes of one batch are one line');
  const second = journalIn(directory);
  const records = await second.start();
  t.same(Object.fromEntries(records), {
    'call.1': { n: 100, text: 'grüße\n"' },
    'call.3': { n: 3 },
  });
  await second.close();
});

t.test('journal: a damaged tail or line costs that line only', async (t) => {
  const directory = await folder(t);
  const first = journalIn(directory);
  await first.start();
  for (let n = 0; n < 5; n += 1) first.put(`call.${n}`, cell({ n }));
  await first.close();
  const path = join(directory, 'journal.1');
  const text = await readFile(path, 'latin1');
  await writeFile(path, text.replace('"n":2', '"n":7'), 'latin1');
  await appendFile(path, '00000000 ["call.9",{"n":9}]\ndeadbeef ["call.8",{"n"', 'latin1');

  const second = journalIn(directory);
  const records = await second.start();

  t.same([...records.keys()].sort(), ['call.0', 'call.1', 'call.3', 'call.4']);
  t.equal(second.damagedLines, 3);
  await second.close();
});

t.test('journal: it is compacted while it is written, and loses nothing', async (t) => {
  const directory = await folder(t);
  const journal = journalIn(directory, { compactBytesMin: 20_000, batchRecordsMax: 7 });
  await journal.start();
  const pad = 'x'.repeat(100);
  for (let round = 0; round < 30; round += 1) {
    for (let n = 0; n < 20; n += 1) journal.put(`call.${n}`, cell({ round, n, pad }));
    if (round % 3 === 0) journal.remove(`call.${round % 20}`);
    await journal.flush();
  }
  await journal.close();

  const files = await readdir(directory);
  t.equal(files.length, 1, 'older files are gone');
  t.ok((await stat(join(directory, files[0] ?? ''))).size < 30_000, 'and it stays small');
  const again = journalIn(directory);
  const records = await again.start();
  t.equal(records.size, 20);
  for (const record of records.values()) t.match(record, { round: 29 });
  await again.close();
});

t.test('journal: what was loaded survives a second restart before anybody takes it', async (t) => {
  const directory = await folder(t);
  const first = journalIn(directory);
  await first.start();
  first.put('leg.1', cell({ n: 1 }));
  await first.close();
  const second = journalIn(directory);
  await second.start();
  await second.close();

  const third = journalIn(directory);
  t.same([...(await third.start())], [['leg.1', { n: 1 }]]);
  third.remove('leg.1');
  await third.close();
  const fourth = journalIn(directory);
  t.equal((await fourth.start()).size, 0);
  await fourth.close();
});

t.test('journal: a disk that cannot be written is told once, and tried again', async (t) => {
  const directory = await folder(t);
  const told: string[] = [];
  const log = { ...silentLog, error: (_: object, text: string) => told.push(text) } as never;
  const journal = journalIn(directory, { retryMs: 10, batchMs: 1 }, log);
  await journal.start();
  await journal.flush();
  let isBroken = true;
  journal.put('call.1', {
    snapshot: () => {
      if (isBroken) throw new RangeError('no space left');
      return { n: 1 };
    },
  });
  await new Promise((resolve) => setTimeout(resolve, 60));
  t.same(told, ['journal cannot be written']);

  isBroken = false;
  await new Promise((resolve) => setTimeout(resolve, 60));
  await journal.close();
  const again = journalIn(directory);
  t.same([...(await again.start())], [['call.1', { n: 1 }]]);
  t.equal(again.damagedLines, 0);
  await again.close();
});

t.test('routes: who is called, and who calls, as URIs', async (t) => {
  t.equal(
    gatewayUri('sip:gw.example:5070;transport=tcp', '*21#'),
    'sip:*21%23@gw.example:5070;transport=tcp',
  );
  t.equal(fromUriOf('+15551234', 'us.example'), 'sip:+15551234@us.example');
  t.equal(fromUriOf('client:al ice', 'us.example'), 'sip:al%20ice@us.example');
  t.equal(fromUriOf('', 'us.example'), 'sip:anonymous@anonymous.invalid');
  t.equal(partyOf('sip:+15551234@host;user=phone'), '+15551234');
  t.equal(partyOf('tel:+1-555-1234'), '+15551234');
  t.equal(partyOf('sip:%2B15551234@host'), '+15551234');
  t.equal(partyOf('sip:a%20b%0d%3B%40%C3%BC@host'), 'sip:a%20b%0D%3B%40ü@host');
  t.equal(fromUriOf('sip:a"b>;tag=x@host', 'us.example'), 'sip:a%22b%3E;tag=x@host');
  t.equal(fromUriOf('sip:ü%40x@host;user=phone', ''), 'sip:%C3%BC%40x@host;user=phone');
  t.equal(fromUriOf('sip:a@host>;tag=evil', ''), 'sip:anonymous@anonymous.invalid');
  t.equal(fromUriOf('sip:a@ho\r\nst', ''), 'sip:anonymous@anonymous.invalid');
  t.equal(partyOf('sip:bob@host.example:5070;x=y'), 'sip:bob@host.example');
});

t.test('admission: bounds in all, per account and per second', async (t) => {
  let nowMs = 0;
  const clock: Clock = { ...realClock, monotonicMs: () => nowMs };
  const admission = new BoundedAdmission({
    ...DEFAULT_ADMISSION,
    clock,
    liveCallsMax: 30,
    liveCallsPerAccountMax: 25,
    callsPerSecondMax: 1_000,
    callsPerSecondPerAccountMax: 10,
    burstSeconds: 1,
  });
  const ask = (n: number): string => {
    const accountSid = `AC${n}` as AccountSid;
    return admission.admit({ accountSid, direction: 'inbound' })?.code ?? 'ok';
  };

  const first = Array.from({ length: 12 }, () => ask(1));
  t.equal(first.filter((code) => code === 'ok').length, 10, 'a burst of one second');
  t.equal(ask(2), 'ok', "another account's calls do not suffer");
  nowMs = 2_000;
  for (let n = 0; n < 10; n += 1) t.equal(ask(1), 'ok');
  nowMs = 4_000;
  for (let n = 0; n < 5; n += 1) t.equal(ask(1), 'ok');
  t.equal(ask(1), 'OVERLOADED', 'live calls of one account');
  for (let n = 0; n < 4; n += 1) t.equal(ask(3), 'ok');
  t.equal(ask(3), 'OVERLOADED', 'live calls in all');
  admission.ended('AC3' as AccountSid);
  t.equal(ask(3), 'ok');
  admission.drain(true);
  admission.ended('AC3' as AccountSid);
  t.equal(ask(3), 'DRAINING');
});

t.test('history: the beginning and the end of a call are kept, and it is bounded', async (t) => {
  const clock = realClock;
  const trace = new TraceBook({ ...DEFAULT_TRACE, clock, entriesPerCallMax: 8, endedCallsMax: 2 });
  const sids = [1, 2, 3].map(() => newSid('CA', clock));
  const [sid] = sids as [CallSid];
  const peer = { transport: 'udp', address: '127.0.0.1', port: 1 } as const;
  const message = { atMs: 1, direction: 'in', callId: 'x', peer, bytes: 5 } as const;
  trace.sip({ ...message, firstLine: 'INVITE', retransmission: false });

  trace.open(sid);
  trace.bindSip('x', sid);
  for (let n = 0; n < 20; n += 1) trace.add(sid, 'verb', `v${n}`);

  t.same(
    trace.entries(sid).map(({ text }) => text),
    ['<- INVITE', 'v0', 'v14', 'v15', 'v16', 'v17', 'v18', 'v19'],
  );
  t.equal(trace.dropped(sid), 13);
  trace.sip({ ...message, firstLine: 'SIP/2.0 486 \x1b[2J\x9bBusy\r\n', retransmission: false });
  t.equal(trace.entries(sid).at(-1)?.text, '<- SIP/2.0 486  [2J Busy  ', 'for a terminal');
  for (const other of sids) {
    trace.open(other);
    trace.end(other);
  }
  t.same(trace.entries(sid), [], 'the oldest ended call is forgotten');
  trace.sip({ ...message, firstLine: 'BYE', retransmission: false });
  t.same(trace.entries(sid), [], 'and so is its Call-ID');
});

function legLess(
  t: Test,
  limits = { eventsKeptMax: 8, commandsSeenMax: 8 },
): { call: Call; outbox: LegOutbox; bus: LocalBus; sid: CallSid } {
  const clock = realClock;
  const bus = new LocalBus({
    ...DEFAULT_LOCAL_BUS,
    clock,
    onError: (error) => t.fail(error.message),
  });
  const deps: CallDeps = {
    clock,
    log: silentLog,
    bus,
    journal: noJournal,
    trace: new TraceBook({ ...DEFAULT_TRACE, clock }),
    keeper: { onStatus: () => undefined, onEnded: () => undefined },
    options: DEFAULT_CALL_OPTIONS,
  };
  const sid = newSid('CA', clock);
  const record = newCallRecord({
    sid,
    accountSid: ACCOUNT,
    direction: 'inbound',
    from: '1',
    to: '2',
    status: 'ringing',
    createdAtMs: 0,
  });
  const call = Call.create(record, deps);
  const { legId } = record;
  const outbox = new LegOutbox({ clock, bus, legId, callSid: sid, ...limits });
  return { call, outbox, bus, sid };
}

const digit = (key: string): LegFact => ({
  kind: 'digit',
  key,
  durationMs: 100,
  source: 'rfc4733',
});

t.test('events that a bus loses are asked for again', async (t) => {
  const { call, outbox, bus, sid } = legLess(t);
  const keys: string[] = [];
  call.on('leg', (event) => event.kind === 'digit' && keys.push(event.key));
  const lossy = bus.publish.bind(bus);
  let isLosing = false;
  bus.publish = ((subject, message) => {
    if (!(isLosing && subject === callSubject(sid))) lossy(subject, message);
  }) as typeof bus.publish;
  bus.subscribe(legSubject(call.record.legId), (command) => {
    if (command.kind === 'attach') outbox.repeat(command.fromSeq);
  });

  outbox.emit(digit('1'));
  isLosing = true;
  outbox.emit(digit('2'));
  outbox.emit(digit('3'));
  isLosing = false;
  outbox.emit(digit('4'));
  outbox.emit(digit('5'));
  await turn();

  t.equal(keys.join(''), '12345');
  isLosing = true;
  for (const key of 'ABCDABCDAB') outbox.emit(digit(key)); // more than the leg keeps
  isLosing = false;
  outbox.emit(digit('6'));
  await turn();
  t.equal(keys.join(''), '12345DABCDAB6', 'what the leg has forgotten is left out');
  call.fail('LEG_LOST');
});

t.test('a call does not wait for ever for what its leg has forgotten', async (t) => {
  const { call, outbox, bus, sid } = legLess(t);
  const publish = bus.publish.bind(bus);
  bus.publish = ((subject, message) => {
    const isLost = subject === callSubject(sid) && (message as { seq: number }).seq === 2;
    if (!isLost) publish(subject, message);
  }) as typeof bus.publish;

  for (let seq = 1; seq <= 300; seq += 1) {
    outbox.emit(digit('1'));
    await turn();
  }

  t.equal(call.record.legSeq, 300, 'nobody repeated event 2, and it goes on');
  call.fail('LEG_LOST');
});

t.test('a full bus costs a leg nothing; what else goes wrong there is told', async (t) => {
  const { call, outbox, bus, sid } = legLess(t);
  const keys: string[] = [];
  call.on('leg', (event) => event.kind === 'digit' && keys.push(event.key));
  bus.subscribe(legSubject(call.record.legId), (command) => {
    if (command.kind === 'attach') outbox.repeat(command.fromSeq);
  });
  const publish = bus.publish.bind(bus);
  let refusal: GatewayError | null = new GatewayError('QUEUE_FULL', { depth: 1 });
  bus.publish = ((subject, message) => {
    if (refusal !== null && subject === callSubject(sid)) throw refusal;
    publish(subject, message);
  }) as typeof bus.publish;

  outbox.emit(digit('1'));
  refusal = null;
  outbox.emit(digit('2'));
  await turn();
  t.equal(keys.join(''), '12', 'what found no room is asked for');
  refusal = new GatewayError('INTERNAL', { problem: 'x' });
  t.throws(() => outbox.emit(digit('3')), { code: 'INTERNAL' });
  call.fail('LEG_LOST');
});

t.test('the queue of a leg is bounded, but never for its end', async (t) => {
  const queue = new LegQueue({ depthMax: 2 });
  const done: string[] = [];
  const refused: string[] = [];
  let release = (): void => undefined;
  const hanging = new Promise<void>((resolve) => {
    release = resolve;
  });
  const run = (name: string): void => {
    const work = (): void => void done.push(name);
    queue.run(work, (thrown) => refused.push(`${name} ${asGatewayError(thrown).code}`));
  };
  const unexpected = (thrown: unknown): void => {
    t.fail(String(thrown));
  };

  queue.run(() => hanging, unexpected);
  for (const name of ['1', '2', '3']) run(name);
  queue.whenIdle(() => void done.push('end'), unexpected);
  t.same(refused, ['3 QUEUE_FULL']);
  t.same(done, []);
  release();
  await turn();

  t.same(done, ['1', '2', 'end']);
});

t.test('a long call does not make its leg grow', async (t) => {
  const { call, outbox, bus } = legLess(t, DEFAULT_LEG_OPTIONS);
  bus.subscribe(legSubject(call.record.legId), (command) => {
    if (command.kind === 'attach' && command.repeat === false) {
      outbox.acknowledge(command.fromSeq);
    }
  });
  for (let n = 0; n < 70; n += 1) {
    const playId = `0.${n}.play`;
    const source = { kind: 'file', path: '/x.wav' } as const;
    outbox.takes({ id: playId, kind: 'play', playId, source, loop: 1 });
    outbox.emit({ kind: 'playDone', playId, reason: 'finished', playedMs: 1 }, `play ${playId}`);
    await turn();
  }
  const record = outbox.record();

  t.equal(call.record.legSeq, 70);
  t.ok(record.kept.length <= 16, 'what the call has is not kept');
  t.ok(JSON.stringify(record).length < 8_000, `${JSON.stringify(record).length} bytes`);
  call.fail('LEG_LOST');
});

t.test('a call may wait for an answer as long as it may ring', async (t) => {
  t.ok(DEFAULT_CALL_OPTIONS.setupMsMax > DEFAULT_ROUTER.ringTimeoutMsMax);
});

t.test('a command with a known id is not done again, its outcome is repeated', async (t) => {
  const { call, outbox } = legLess(t);
  const seen: string[] = [];
  call.on('leg', (event) => seen.push(`${event.seq} ${event.kind}`));
  const play: LegCommand = {
    id: 'a',
    kind: 'play',
    playId: 'p',
    source: { kind: 'silence', durationMs: 10 },
    loop: 1,
  };

  t.equal(outbox.takes(play), true);
  t.equal(outbox.takes(play), false, 'under way: nothing to say yet');
  outbox.emit({ kind: 'playDone', playId: 'p', reason: 'finished', playedMs: 10 }, 'play p');
  t.equal(outbox.takes(play), false);
  await turn();

  t.same(seen, ['1 playDone', '2 playDone']);
  const copy = JSON.parse(JSON.stringify(outbox.record()));
  t.same(copy, outbox.record(), 'its state is plain data');
  call.fail('LEG_LOST');
});

t.test('two legs that were parted can be joined again under the same id', async (t) => {
  const { call, outbox } = legLess(t);
  const bridge = {
    id: 'b',
    kind: 'bridge',
    peer: { worker: 0, handle: 1 },
    peerLegId: 'x',
  } as const;

  t.equal(outbox.takes(bridge), true);
  outbox.emit({ kind: 'bridged', peerLegId: 'x' }, 'b');
  t.equal(outbox.takes(bridge), false);
  t.equal(outbox.takes({ id: 'b.end', kind: 'unbridge' }), true);
  outbox.emit({ kind: 'unbridged', peerLegId: 'x' }, 'b.end');
  t.equal(outbox.takes(bridge), true);
  outbox.emit({ kind: 'bridged', peerLegId: 'x' }, 'b');
  t.equal(outbox.takes({ id: 'b.end', kind: 'unbridge' }), true);
  call.fail('LEG_LOST');
});

/** Time that moves when told, and how many timers were begun in it. */
function handClock(): { clock: Clock; pass(ms: number): void; begun(): number } {
  const timers = new Map<number, { atMs: number; fn: () => void }>();
  let nowMs = 0;
  let no = 0;
  const clock: Clock = {
    ...realClock,
    monotonicMs: () => nowMs,
    timer: (delayMs, fn) => {
      no += 1;
      const mine = no;
      timers.set(mine, { atMs: nowMs + delayMs, fn });
      return { cancel: () => void timers.delete(mine) };
    },
  };
  const pass = (ms: number): void => {
    const untilMs = nowMs + ms;
    for (;;) {
      const due = [...timers].filter(([, { atMs }]) => atMs <= untilMs);
      const [first] = due.sort(([, a], [, b]) => a.atMs - b.atMs);
      if (first === undefined) break;
      timers.delete(first[0]);
      nowMs = first[1].atMs;
      first[1].fn();
    }
    nowMs = untilMs;
  };
  return { clock, pass, begun: () => no };
}

t.test('a deadline that moves is kept where it was moved to, once', async (t) => {
  const { clock, pass, begun } = handClock();
  const due: string[] = [];
  const deadline = new Deadline<string>(clock, (kind) => due.push(kind));

  deadline.set(100, 'setup');
  pass(50);
  deadline.set(1_000, 'later');
  t.equal(begun(), 1, 'moved later: the timer that runs will do');
  pass(999);
  t.same(due, [], 'not at the former time, nor a moment too soon');
  pass(1);
  t.same(due, ['later']);
  deadline.set(1_000, 'limit');
  deadline.set(10, 'end');
  pass(10);
  t.same(due, ['later', 'end'], 'moved earlier');
  pass(10_000);
  t.same(due, ['later', 'end'], 'what it took the place of never comes');
  deadline.set(10, 'cancelled');
  deadline.cancel();
  pass(10_000);
  t.same(due, ['later', 'end']);
});

t.test('of ended calls the latest are remembered', async (t) => {
  const recent = new Recent<string, number>({ max: 3 });
  for (let n = 1; n <= 5; n += 1) {
    recent.add(`call ${n}`, n);
    recent.get('call 1');
  }

  const found = [1, 2, 3, 4, 5].map((n) => recent.get(`call ${n}`));
  t.same(found, [undefined, undefined, 3, 4, 5], 'asking for one keeps it no longer');
});
