/**
 * UDP on the native sockets: bytes, order, bounds and ends, on loopback. What a gateway does with
 * what comes is tested elsewhere; the socket without Node is tested in test/native/udp_test.cc.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import t, { type Test } from 'tap';
import { type DatagramSocket, KernelSockets } from '../src/sip/sockets.ts';

const SOCKETS = new URL('../src/sip/sockets.ts', import.meta.url).href;
const EVERY_BYTE = String.fromCharCode(...Array.from({ length: 256 }, (_, n) => n));
const BATCH = 32;

interface Heard {
  readonly text: string;
  readonly address: string;
  readonly port: number;
}

/** A socket that keeps what it hears; `onText` may react. */
class Ear {
  readonly heard: Heard[] = [];
  onText: (text: string) => void = () => {};
  readonly socket: DatagramSocket;

  static async open(t: Test, address = '127.0.0.1', port = 0): Promise<Ear> {
    let ear: Ear | null = null;
    const socket = await new KernelSockets().datagram(address, port, {
      datagram: (text, from, fromPort) => ear?.take({ text, address: from, port: fromPort }),
      failed: (problem) => t.fail(problem),
    });
    t.teardown(() => socket.close());
    ear = new Ear(socket);
    return ear;
  }

  constructor(socket: DatagramSocket) {
    this.socket = socket;
  }

  take(datagram: Heard): void {
    this.heard.push(datagram);
    this.onText(datagram.text);
  }

  get texts(): string[] {
    return this.heard.map(({ text }) => text);
  }

  async until(count: number): Promise<void> {
    for (let turns = 0; this.heard.length < count && turns < 20_000; turns += 1) await turn();
  }

  say(text: string, to: Ear): void {
    this.socket.send(text, to.socket.port, to.socket.address);
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A program of its own; it has `open(events)`, a socket on loopback. */
function run(body: string): Promise<{ code: number; out: string; err: string }> {
  const text = `
    const { KernelSockets } = await import('${SOCKETS}');
    const open = (datagram) =>
      new KernelSockets().datagram('127.0.0.1', 0, { datagram, failed() {} });
    ${body}`;
  return new Promise((resolve) => {
    const args = ['--input-type=module', '-e', text];
    execFile(process.execPath, args, { timeout: 20_000 }, (error, out, err) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, out, err });
    });
  });
}

for (const address of ['127.0.0.1', '::1']) {
  t.test(`datagrams go and come back on ${address}, every byte as it was`, async (t) => {
    const [a, b] = [await Ear.open(t, address), await Ear.open(t, address)];

    b.onText = (text) => b.socket.send(text, b.heard[0]?.port ?? 0, b.heard[0]?.address ?? '');
    for (const text of [EVERY_BYTE, '', 'last']) a.say(text, b);
    await a.until(3);

    t.same(a.texts, [EVERY_BYTE, '', 'last']);
    t.match(a.heard[0], { address, port: b.socket.port });
    t.match(b.heard[0], { address, port: a.socket.port });
  });
}

t.test('a wildcard of each family has the port for itself', async (t) => {
  const v4 = await Ear.open(t, '0.0.0.0');
  const v6 = await Ear.open(t, '::', v4.socket.port);
  const [a, b] = [await Ear.open(t, '127.0.0.1'), await Ear.open(t, '::1')];

  a.socket.send('four', v4.socket.port, '127.0.0.1');
  b.socket.send('six', v4.socket.port, '::1');
  await Promise.all([v4.until(1), v6.until(1)]);

  t.match(v4.heard, [{ text: 'four', address: '127.0.0.1' }]);
  t.match(v6.heard, [{ text: 'six', address: '::1' }]);
});

t.test('what cannot be bound says why', async (t) => {
  const { port } = (await Ear.open(t)).socket;
  const problem = (address: string): Promise<Error & { code?: string }> =>
    Ear.open(t, address, port).then(
      () => t.fail('was bound'),
      (thrown) => thrown,
    );

  t.match(await problem('127.0.0.1'), {
    code: 'EADDRINUSE',
    message: `bind EADDRINUSE 127.0.0.1:${port}`,
  });
  t.match(await problem('192.0.2.1'), { code: 'EADDRNOTAVAIL' });
  t.match(await problem('localhost'), { code: 'EINVAL' });
});

t.test('a flood is taken in order, and one batch a turn', async (t) => {
  const [a, b] = [await Ear.open(t), await Ear.open(t)];
  const beside = await Ear.open(t);
  const texts = Array.from({ length: 5 * BATCH }, (_, n) => `${n}`);
  const perTurn: number[] = [];
  let besideAt = -1;
  beside.onText = () => {
    besideAt = b.heard.length;
  };

  for (const text of texts) a.say(text, b);
  a.say('let me in', beside);
  for (let before = 0; b.heard.length < texts.length; before = b.heard.length) {
    await turn();
    perTurn.push(b.heard.length - before);
    if (perTurn.length > 20_000) break;
  }

  t.same(b.texts, texts);
  t.equal(Math.max(...perTurn), BATCH);
  t.ok(besideAt >= 0 && besideAt <= BATCH, `another socket was heard after ${besideAt}`);
});

t.test('what a batch queued is done before the next', async (t) => {
  const [a, b] = [await Ear.open(t), await Ear.open(t)];
  const order: string[] = [];
  b.onText = () => {
    order.push('datagram');
    queueMicrotask(() => order.push('microtask'));
    process.nextTick(() => order.push('tick'));
  };

  for (let n = 0; n < BATCH + 1; n += 1) a.say('x', b);
  await b.until(BATCH + 1);

  const batch = (size: number): string[] =>
    ['datagram', 'tick', 'microtask'].flatMap((what) => Array<string>(size).fill(what));
  t.same(order, [...batch(BATCH), ...batch(1)]);
});

t.test('the largest datagram is whole, a larger one is lost', async (t) => {
  const [a, b] = [await Ear.open(t), await Ear.open(t)];
  const largest = EVERY_BYTE.repeat(256).slice(0, 65_507);

  for (const text of [largest, `${largest}x`, 'x'.repeat(200_000), 'small']) a.say(text, b);
  await b.until(2);

  t.ok(b.texts[0] === largest, 'as it was');
  t.same(b.texts.slice(1), ['small']);
});

t.test('what the kernel refuses is lost, and the socket goes on', async (t) => {
  const [a, b] = [await Ear.open(t), await Ear.open(t)];
  const gone = await Ear.open(t);
  await gone.socket.close();

  for (let n = 0; n < 3; n += 1) a.say('nobody there', gone); // ICMP comes back
  a.socket.send('no port', 0, '127.0.0.1');
  a.socket.send('another family', b.socket.port, '::1');
  a.socket.send('no zone', b.socket.port, 'fe80::1%nowhere');
  for (const name of ['', 'localhost', '127.1', 'x'.repeat(500)]) {
    a.socket.send('no address', b.socket.port, name);
  }
  a.socket.send('a broadcast', b.socket.port, '255.255.255.255');
  await turn();
  a.say('hello', b);
  b.say('hello', a);
  await Promise.all([a.until(1), b.until(1)]);

  t.same([...a.texts, ...b.texts], ['hello', 'hello']);
});

t.test('more sources than are remembered keep their names', async (t) => {
  const ear = await Ear.open(t, '0.0.0.0');
  const addresses = Array.from({ length: 600 }, (_, n) => `127.1.${n >> 8}.${n & 255}`);

  for (const round of [0, 1]) {
    for (const [n, address] of addresses.entries()) {
      const source = await new KernelSockets().datagram(address, 0, {
        datagram: () => {},
        failed: () => {},
      });
      source.send(address, ear.socket.port, '127.0.0.1');
      await source.close();
      await ear.until(round * addresses.length + n + 1);
    }
  }

  t.same(
    ear.heard.map(({ address }) => address),
    [...addresses, ...addresses],
  );
});

t.test('a socket closed by a datagram hears no more of the batch', async (t) => {
  const [a, b] = [await Ear.open(t), await Ear.open(t)];
  b.onText = () => void b.socket.close();

  for (let n = 0; n < 3; n += 1) a.say(`${n}`, b);
  await b.until(1);
  b.say('said after the end', a);
  await b.socket.close();
  const next = await Ear.open(t, '127.0.0.1', b.socket.port); // the port is free at once
  a.say('for the next', next);
  await next.until(1);

  t.same([b.texts, next.texts, a.texts], [['0'], ['for the next'], []]);
});

t.test('a closed socket keeps no descriptor and no process', async (t) => {
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  for (let n = 0; n < 500; n += 1) await (await Ear.open(t)).socket.close();
  t.equal(descriptors(), before);

  const { code, out } = await run(`
    const socket = await open(() => socket.close().then(() => console.log('closed')));
    socket.send('x', socket.port, '127.0.0.1');`);
  t.same([code, out], [0, 'closed\n']);
});

t.test('an exception while a datagram is read is an uncaught one', async (t) => {
  const died = await run(`
    const socket = await open(() => { throw new TypeError('of the reader'); });
    socket.send('x', socket.port, '127.0.0.1');`);
  t.equal(died.code, 1);
  t.match(died.err, /TypeError: of the reader\n\s+at /);

  const survived = await run(`
    const heard = [];
    process.on('uncaughtException', (error) => heard.push(error.message));
    const socket = await open((text) => {
      heard.push(text);
      if (text === '3') socket.close().then(() => console.log(heard.join()));
      else throw new TypeError('no ' + text);
    });
    for (const text of '123') socket.send(text, socket.port, '127.0.0.1');`);
  t.same([survived.code, survived.out], [0, '1,no 1,2,no 2,3\n']);
});

t.test('a thread may end with its sockets open and busy', async (t) => {
  const from = await Ear.open(t);
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
     import('${SOCKETS}').then(async ({ KernelSockets }) => {
       const events = { datagram() { for (const end = Date.now() + 5; Date.now() < end; ); }, failed() {} };
       const open = () => new KernelSockets().datagram('127.0.0.1', 0, events);
       const socket = await open();
       await open();
       void (await open()).close();
       parentPort.postMessage(socket.port);
     });`,
    { eval: true },
  );
  const [port] = (await once(worker, 'message')) as [number];

  for (let n = 0; n < 200; n += 1) from.socket.send('x', port, '127.0.0.1');
  await turn();
  await worker.terminate();

  const next = await Ear.open(t, '127.0.0.1', port);
  from.say('still here', next);
  await next.until(1);
  t.same(next.texts, ['still here']);
});
