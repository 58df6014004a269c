/**
 * The media plane from the gateway's side: control protocol, supervision, and ports as they are
 * heard by a bare RTP peer. Real workers with the real addon.
 */
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { realClock } from '../src/core/clock.ts';
import { asGatewayError, GatewayError } from '../src/core/errors.ts';
import { createLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { ADDON_PATH, decodeEvents, loadAddon, type PortSettings } from '../src/media/binding.ts';
import {
  DEFAULT_MEDIA_ENGINE_OPTIONS,
  MediaEngine,
  type MediaEngineOptions,
} from '../src/media/engine.ts';
import { DEFAULT_CONTROL_LIMITS } from '../src/media/frames.ts';
import { packSettings, unpackSettings } from '../src/media/packed.ts';
import type { Port } from '../src/media/port.ts';
import type { PortEvents } from '../src/media/port-parts.ts';
import { type ControlHandlers, DONE } from '../src/media/protocol.ts';
import { checkPortRange, slicePorts } from '../src/media/range.ts';
import { ControlClient, ControlServer } from '../src/media/socket.ts';
import {
  DEFAULT_SUPERVISOR_OPTIONS,
  Supervisor,
  type SupervisorOptions,
  socketDirectory,
} from '../src/media/supervisor.ts';
import { delay, EVENT_TYPE, RtpPeer } from './support/rtp-peer.ts';
import {
  firstChannel,
  likeness,
  readChannels as readWav,
  shareAt,
  sine,
  wavOf,
} from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'native/build is missing: build the addon first';
const SPEECH = new URL('../../shared/data/media/speech-en-8k.wav', import.meta.url).pathname;
/** Below the engine's default range, apart for each run. */
const FIRST_PORT = 11_000 + (process.pid % 60) * 100;
const log = createLog({ level: process.env.TEST_LOG === undefined ? 'silent' : 'debug' });

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (thrown) => asGatewayError(thrown).code,
  );
}

/** Socket paths are short; the folders of `t.testdir` are not. */
function shortDir(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'media-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Waits for what a test expects, with a limit that a slow machine does not reach. */
async function until(isTrue: () => boolean, what: string, limitMs = 8_000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!isTrue()) {
    if (performance.now() > endMs) throw new NotInTime(what);
    await delay(5);
  }
}
class NotInTime extends Error {
  constructor(what: string) {
    super(`not in time: ${what}`);
  }
}

// --- Start-up checks ------------------------------------------------------------------------------

t.test('media ports inside the kernel ephemeral range are refused with the way out', async (t) => {
  const check = (portMin: number, portMax: number, ephemeral = '32768\t60999\n') =>
    codeOf((async () => checkPortRange({ portMin, portMax, ephemeral }))());

  t.equal(await check(20_000, 29_999), 'none');
  t.equal(await check(61_000, 65_535), 'none');
  t.equal(await check(30_000, 32_768), 'PORTS_IN_EPHEMERAL_RANGE');
  t.equal(await check(60_999, 61_500), 'PORTS_IN_EPHEMERAL_RANGE');
  t.equal(await check(20_000, 29_999, ''), 'none', 'no such file, no such check');
  t.throws(
    () => checkPortRange({ portMin: 30_000, portMax: 39_999, ephemeral: '32768 60999' }),
    /30000-39999 .* 32768-60999.*sysctl -w net\.ipv4\.ip_local_port_range="1024 29999"/,
  );
  t.throws(
    () => checkPortRange({ portMin: 20_000, portMax: 29_999, ephemeral: '1024 65535' }),
    /"30000 65535"/,
  );
});

t.test('each worker has its own even-aligned share of the ports', async (t) => {
  t.same(slicePorts(20_001, 20_010, 2), [
    { portMin: 20_002, portMax: 20_005 },
    { portMin: 20_006, portMax: 20_009 },
  ]);
  t.throws(() => slicePorts(20_000, 20_002, 2), /too small for 2 workers/);
});

t.test('the socket folder is private and its path always fits', async (t) => {
  const root = shortDir(t);
  const near = socketDirectory(root);
  t.equal(near, join(root, 'run'));
  t.equal(statSync(near).mode & 0o777, 0o700);

  const deep = join(root, 'd'.repeat(120));
  const far = socketDirectory(deep, root);
  t.ok(Buffer.byteLength(join(far, '255.sock')) < 108);
  t.equal(socketDirectory(deep, root), far, 'the next gateway finds it again');

  chmodSync(near, 0o755);
  t.throws(() => socketDirectory(root), /mode 0700/);
});

t.test('an addon that is not built is told with the command that builds it', async (t) => {
  t.throws(() => loadAddon('/nowhere/tandem_media.node'), /cmake --build native\/build/);
  t.equal(await codeOf((async () => loadAddon('/nowhere/x.node'))()), 'ADDON_MISSING');
});

t.test('settings are the same after their way to a worker and back', async (t) => {
  const all = settingsFor(4000, { proven: false });
  const none = settingsFor(4000, { proven: true, remote: null, dtmf: null });

  for (const settings of [all, none]) {
    t.strictSame(unpackSettings(JSON.parse(JSON.stringify(packSettings(settings)))), settings);
  }
});

t.test('event records are read as they were written', async (t) => {
  const batch = new ArrayBuffer(5 * 32);
  const view = new DataView(batch);
  const records = [
    [1, 7, 11, 2 * 120 + 1],
    [2, 8, 1, 340],
    [3, 9, 4, 1234],
    [5, 7, 15000, 0],
    [99, 7, 0, 0],
  ] as const;
  records.forEach(([type, handle, a, b], index) => {
    view.setUint32(index * 32, type, true);
    view.setFloat64(index * 32 + 8, handle, true);
    view.setFloat64(index * 32 + 16, a, true);
    view.setFloat64(index * 32 + 24, b, true);
  });

  t.strictSame(decodeEvents(batch, 5), [
    { kind: 'digit', handle: 7, key: '#', durationMs: 120, source: 'inband' },
    { kind: 'playDone', handle: 8, reason: 'stopped', playedMs: 340 },
    { kind: 'recordDone', handle: 9, reason: 'portClosed', durationMs: 1234 },
    { kind: 'silent', handle: 7, silentMs: 15000 },
  ]);
  t.equal(decodeEvents(batch, 2).length, 2);
});

// --- Control protocol -----------------------------------------------------------------------------

async function makeControl(
  t: Test,
  limits = DEFAULT_CONTROL_LIMITS,
  more: Partial<ControlHandlers> = {},
) {
  const path = join(shortDir(t), 'c.sock');
  const order: number[] = [];
  const hello = { worker: 1, pid: 2, ports: 0, backend: 'epoll', scheduling: 'normal' } as const;
  const handlers = {
    hello: () => hello,
    ping: () => ({ ports: 3 }),
    closePort: ({ port }: { port: number }) => {
      order.push(port);
      return { stats: null };
    },
    ...more,
  } as Partial<ControlHandlers> as ControlHandlers;
  const server = new ControlServer({ path, limits, handlers });
  await server.listen();
  t.teardown(() => server.close());
  const connect = (): Promise<ControlClient> =>
    ControlClient.connect({ path, clock: realClock, limits });
  return { path, order, server, connect };
}
const HELLO = { protocol: 1, outlive: false };

t.test('commands are pipelined and keep their order', async (t) => {
  const { order, connect } = await makeControl(t);
  const client = await connect();
  const numbers = Array.from({ length: 2_000 }, (_, n) => n);

  await client.request('hello', HELLO);
  const startedMs = performance.now();
  await Promise.all(numbers.map((port) => client.request('closePort', { port })));
  const tookMs = performance.now() - startedMs;

  t.same(order, numbers);
  t.comment(`${((tookMs * 1000) / numbers.length).toFixed(1)} us a command, both ends`);
  await client.close();
  t.equal(await codeOf(client.request('ping', {})), 'MEDIA_UNAVAILABLE');
});

t.test('settings of a port that did not leave yet are replaced by newer ones', async (t) => {
  const told: { port: number; codec: number }[] = [];
  const { connect } = await makeControl(t, DEFAULT_CONTROL_LIMITS, {
    setPort: ({ port, settings }) => {
      told.push({ port, codec: settings[4] });
      if (settings[4] > 3) throw new GatewayError('MEDIA_COMMAND', { op: 'set', problem: 'codec' });
      return DONE;
    },
    connect: () => DONE,
  });
  const client = await connect();
  await client.request('hello', HELLO);
  const set = (port: number, codec: number) =>
    client.request('setPort', { port, settings: packSettings(settingsFor(9, { codec })) });

  const work = [set(1, 0), set(2, 1), set(1, 3), client.request('connect', { port: 1, peer: 2 })];
  t.same(await Promise.all(work), [DONE, DONE, DONE, DONE], 'each is answered');
  t.same(told, [
    { port: 1, codec: 3 },
    { port: 2, codec: 1 },
  ]);

  const bad = [set(1, 0), set(2, 99), set(3, 0)].map((each) => codeOf(each));
  t.same(await Promise.all(bad), ['none', 'MEDIA_COMMAND', 'none'], 'to whom it belongs');
  await set(1, 2);
  t.same(told.at(-1), { port: 1, codec: 2 }, 'what left already is not replaced');
  await client.close();
});

t.test('frames are bounded in size and number, and a late answer is given up', async (t) => {
  const limits = { ...DEFAULT_CONTROL_LIMITS, frameBytesMax: 1000, pendingMax: 2 };
  const { connect, path } = await makeControl(t, limits);
  const client = await connect();
  await client.request('hello', HELLO);

  const long = { port: 1, playId: 'x'.repeat(2000) };
  t.equal(await codeOf(client.request('stop', long)), 'MEDIA_COMMAND');
  const two = [client.request('ping', {}), client.request('ping', {})];
  t.equal(await codeOf(client.request('ping', {})), 'QUEUE_FULL');
  await Promise.all(two);

  const flood = net.connect(path);
  flood.write('x'.repeat(3000));
  await once(flood, 'close');
  const mute = net.createServer().listen(`${path}.mute`);
  await once(mute, 'listening');
  const slow = await ControlClient.connect({
    path: `${path}.mute`,
    clock: realClock,
    limits: { ...limits, requestTimeoutMs: 30 },
  });
  t.equal(await codeOf(slow.request('ping', {})), 'MEDIA_UNAVAILABLE');
  t.equal(slow.pendingCount, 0);
  await slow.close();
  mute.close();
});

t.test('what is out of sequence or no gateway breaks the connection', async (t) => {
  const { path } = await makeControl(t);
  const lines = [
    'not json\n',
    '{"id":1,"verb":"ping","args":{}}\n',
    '{"id":2,"verb":"hello","args":{}}\n',
    '{"id":1,"verb":"constructor","args":{}}\n',
    '{"id":1,"verb":"hello","args":{}}\n{"id":3,"verb":"ping","args":{}}\n',
  ];

  for (const line of lines) {
    const socket = net.connect(path);
    socket.on('error', () => undefined);
    socket.resume();
    socket.write(line);
    await once(socket, 'close');
    t.pass(line.trim());
  }
});

t.test('a newer gateway fences the older one off, and events have an owner', async (t) => {
  const { server, connect } = await makeControl(t);
  t.equal(server.tell([{ port: 1, event: { kind: 'active' } }]), false, 'nobody listens');
  const older = await connect();
  await older.request('hello', HELLO);
  const newer = await connect();
  const fenced = once(older, 'closed');
  await newer.request('hello', HELLO);
  await fenced;

  const events: number[] = [];
  newer.on('events', (list) => events.push(...list.map(({ port }) => port)));
  const many = Array.from({ length: 1000 }, (_, port) => ({
    port,
    event: { kind: 'active' } as const,
  }));
  t.equal(server.tell(many), true);
  await until(() => events.length === 1000, 'all events');

  t.same(
    events,
    many.map(({ port }) => port),
  );
  await newer.close();
});

// --- Engine ---------------------------------------------------------------------------------------

let nextPorts = FIRST_PORT;

interface Plane {
  readonly engine: MediaEngine;
  readonly supervisor: Supervisor;
}

function makePlane(
  dataDir: string,
  options: Partial<SupervisorOptions> = {},
  engineOptions: Partial<MediaEngineOptions> = {},
): Plane {
  const portMin = options.portMin ?? nextPorts;
  nextPorts = Math.max(nextPorts, portMin + 20);
  const supervisor = new Supervisor({
    clock: realClock,
    log,
    dataDir,
    options: {
      ...DEFAULT_SUPERVISOR_OPTIONS,
      workers: 1,
      portMin,
      portMax: portMin + 19,
      realtimePriority: 0,
      ...options,
    },
  });
  const engine = new MediaEngine({
    clock: realClock,
    log,
    metrics: new Metrics(),
    supervisor,
    address: '127.0.0.1',
    options: { ...DEFAULT_MEDIA_ENGINE_OPTIONS, ...engineOptions },
  });
  return { engine, supervisor };
}

async function startPlane(t: Test, options: Partial<SupervisorOptions> = {}): Promise<Plane> {
  const plane = makePlane(shortDir(t), options);
  t.teardown(() => plane.engine.close());
  await plane.engine.start();
  return plane;
}

function settingsFor(remotePort: number, change: Partial<PortSettings> = {}): PortSettings {
  return {
    remote: { address: '127.0.0.1', port: remotePort, rtcpPort: remotePort, rtcpMux: true },
    codec: 0,
    payloadType: 0,
    receivePayloadType: 0,
    ptimeMs: 20,
    dtmf: { payloadType: EVENT_TYPE, receivePayloadType: EVENT_TYPE, clockRateHz: 8000 },
    direction: 0,
    latch: 0,
    opus: { bitrate: 24_000, complexity: 5, fec: true, dtx: false },
    jitter: { minMs: 20, maxMs: 200 },
    silentTimeoutMs: 15_000,
    inbandDtmf: false,
    ...change,
  };
}

async function openLeg(t: Test, engine: MediaEngine, near?: Port) {
  const port = await engine.createPort({
    rtcpMux: true,
    ...(near === undefined ? {} : { near: near.ref }),
  });
  const peer = await RtpPeer.open();
  t.teardown(() => peer.close());
  await port.set(settingsFor(peer.port));
  const events: string[] = [];
  const seen: { [K in keyof PortEvents]: PortEvents[K][] } = {
    digit: [],
    playDone: [],
    recordDone: [],
    firstPacket: [],
    latched: [],
    silent: [],
    active: [],
    moved: [],
    lost: [],
  };
  const listen = (to: Port): void => {
    to.on('digit', (event) => seen.digit.push([event]));
    to.on('playDone', (event) => seen.playDone.push([event]));
    to.on('recordDone', (event) => seen.recordDone.push([event]));
    to.on('moved', (event) => seen.moved.push([event]));
    to.on('lost', () => seen.lost.push([]));
  };
  listen(port);
  return { port, peer, events, seen, listen };
}

function writeWav(t: Test, samples: Float64Array, name = 'prompt.wav'): string {
  const path = join(shortDir(t), name);
  writeFileSync(path, wavOf([samples], 8000));
  return path;
}

/** A second and a half of real speech, or a sweep where the samples are not at hand. */
function speech(): Float64Array {
  if (existsSync(SPEECH)) return firstChannel(readWav(SPEECH)).slice(8_000, 20_000);
  return Float64Array.from({ length: 12_000 }, (_, n) => 0.4 * Math.sin(n * (0.1 + n / 40_000)));
}

const pressTimes = (seen: { digit: unknown[] }): number => seen.digit.length;

t.test('a prompt is heard as it is, and its end is told once', { skip }, async (t) => {
  const { engine } = await startPlane(t);
  const { port, peer, seen } = await openLeg(t, engine);
  const prompt = speech();
  const path = writeWav(t, prompt);

  await port.play({ playId: 'a', source: { kind: 'file', path }, loop: 1 });
  await port.play({ playId: 'a', source: { kind: 'file', path }, loop: 1 });
  await until(() => seen.playDone.length > 0, 'playDone');
  await delay(60);

  const { score } = likeness(prompt, peer.heard(), 4_000);
  t.ok(score > 0.97, `correlation ${score.toFixed(3)}`);
  t.match(seen.playDone, [[{ playId: 'a', reason: 'finished' }]]);
  const playedMs = seen.playDone[0]?.[0].playedMs ?? 0;
  t.ok(Math.abs(playedMs - prompt.length / 8) < 45, `${playedMs} ms played`);

  await port.play({ playId: 'a', source: { kind: 'file', path }, loop: 1 });
  await until(() => seen.playDone.length === 2, 'the outcome again');
  t.match(
    seen.playDone[1],
    [{ playId: 'a', reason: 'finished', playedMs }],
    'repeated, not redone',
  );
  await port.close();
  t.equal(engine.size, 0);
});

t.test('tones, digits and silence are played, and can be stopped', { skip }, async (t) => {
  const { engine } = await startPlane(t);
  const { port, peer, seen } = await openLeg(t, engine);
  const tone = { kind: 'tone', hz: [425], onMs: 400, offMs: 0, levelDb: -12, count: 1 } as const;
  const done = (playId: string) => seen.playDone.find(([event]) => event.playId === playId)?.[0];

  await port.play({ playId: 'tone', source: tone, loop: 1 });
  await until(() => done('tone') !== undefined, 'tone');
  t.ok(shareAt(peer.heard().subarray(0, 3200), 8000, 425) > 0.8, 'it is 425 Hz');
  await port.play({ playId: 'keys', source: { kind: 'digits', digits: '12w#' }, loop: 1 });
  await until(() => done('keys') !== undefined, 'digits');
  t.equal(peer.keys(), '12#');
  await port.play({ playId: 'pause', source: { kind: 'silence', durationMs: 60 }, loop: 2 });
  await until(() => done('pause') !== undefined, 'silence');
  t.ok(Math.abs((done('pause')?.playedMs ?? 0) - 120) < 60);

  await port.play({ playId: 'ever', source: { ...tone, count: 0 }, loop: 0 });
  await port.play({ playId: 'still', source: { kind: 'silence', durationMs: 10 }, loop: 0 });
  await delay(60);
  await port.stop('ever');
  await port.stop('still');
  await port.stop('never was');
  await until(() => done('ever') !== undefined && done('still') !== undefined, 'stopped');
  t.match(done('ever'), { reason: 'stopped' });
  t.match(done('still'), { reason: 'stopped' });
});

t.test('what the peer says is recorded and its keys are told', { skip }, async (t) => {
  const { engine } = await startPlane(t);
  const { port, peer, seen } = await openLeg(t, engine);
  const said = speech();
  const path = join(shortDir(t), 'recordings', 'AC1', 'RE1.wav');

  const request = { channels: 1, source: 'in', sampleRateHz: 8000, maxMs: 60_000 } as const;
  const record = { ...request, recordId: 'r', path, silenceMs: 0, trimSilence: false };
  await port.record(record);
  await port.record(record);
  await peer.speak(said, port.rtpPort);
  await peer.press('5', port.rtpPort);
  await until(() => pressTimes(seen) > 0, 'digit');
  const stats = await port.stats();
  await port.close();

  t.match(seen.digit, [[{ key: '5', source: 'rfc4733' }]]);
  t.match(
    seen.recordDone,
    [[{ recordId: 'r', reason: 'portClosed' }]],
    'told before close returns',
  );
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
  const { score } = likeness(said, firstChannel(readWav(path)), 4_000);
  t.ok(score > 0.9, `correlation ${score.toFixed(3)}`);
  t.ok(stats.packetsReceived >= said.length / 160);
  t.equal(stats.wrongSource, 0);
});

// --- Spare ports ----------------------------------------------------------------------------------

/** So many that some can be spared. */
const manyPorts = () => ({ portMin: nextPorts, portMax: nextPorts + 127 });

/** A first port is asked for; while it is made others get ready. */
async function startWithSpares(t: Test, options: Partial<SupervisorOptions> = {}) {
  const plane = await startPlane(t, { ...manyPorts(), ...options });
  const first = await plane.engine.createPort({ rtcpMux: true });
  // Answers come in order: when this one is here, the spares are too.
  await delay(DEFAULT_CONTROL_LIMITS.patienceMs * 2);
  await first.stats();
  return { ...plane, first };
}

t.test('a call has its port at once even while its worker is busy', { skip }, async (t) => {
  const { engine, first } = await startWithSpares(t);
  const peer = await RtpPeer.open();
  t.teardown(() => peer.close());

  process.kill(first.worker.pid, 'SIGSTOP');
  const settings = settingsFor(peer.port);
  const port = await engine.createPort({ rtcpMux: true, near: first.ref, settings });
  t.not(port.rtpPort, first.rtpPort);
  t.same(port.toRecord().settings, settings);
  process.kill(first.worker.pid, 'SIGCONT');
  const tone = { kind: 'tone', hz: [425], onMs: 200, offMs: 0, levelDb: -12, count: 1 } as const;
  await port.play({ playId: 'x', source: tone, loop: 1 });
  await once(port, 'playDone');

  t.ok(peer.packets.length > 5, 'it has the settings it was asked for with');
  t.same(new Set(peer.packets.map(({ ssrc }) => ssrc)), new Set([port.toRecord().ssrc]));
  t.equal(engine.size, 2, 'spare ports are not in use');
});

t.test('a spare port that cannot have its settings is told lost', { skip }, async (t) => {
  const { engine } = await startWithSpares(t);

  const port = await engine.createPort({ rtcpMux: true, settings: settingsFor(9, { codec: 99 }) });
  await once(port, 'lost');

  t.equal(engine.size, 1);
});

t.test('spare ports leave a small range to calls of every kind', { skip }, async (t) => {
  const { engine } = await startWithSpares(t, { portMin: nextPorts, portMax: nextPorts + 3 });

  t.ok(await engine.createPort({ rtcpMux: false }), 'the last port is no spare of another kind');
  t.equal(await codeOf(engine.createPort({ rtcpMux: true })), 'PORTS_EXHAUSTED');
});

t.test('a new gateway keeps its own spare ports in a worker it took over', { skip }, async (t) => {
  const dataDir = shortDir(t);
  const options = { outlive: true, ...manyPorts() };
  const first = makePlane(dataDir, options);
  await first.engine.start();
  const left = await first.engine.createPort({ rtcpMux: true });
  await first.engine.close({ leaveWorkers: true });
  const second = makePlane(dataDir, options);
  t.teardown(() => second.engine.close());
  await second.engine.start();
  const port = await second.engine.createPort({ rtcpMux: true });

  t.equal(port.worker.pid, left.worker.pid, 'the same worker');
  t.equal(await second.engine.closeUnclaimed(), 1, 'the port of a call, and no spare one');
  const next = await second.engine.createPort({ rtcpMux: true });
  t.ok(await next.stats(), 'a spare port is still there');
});

t.test('two bridged ports hear each other, and no more when let go', { skip }, async (t) => {
  const { engine } = await startPlane(t, { workers: 2 });
  const a = await openLeg(t, engine);
  const b = await openLeg(t, engine, a.port);
  const c = await openLeg(t, engine);
  const said = speech().subarray(0, 6_400);

  t.equal(b.port.ref.worker, a.port.ref.worker, 'near is the same worker');
  t.not(c.port.ref.worker, a.port.ref.worker, 'the least loaded one otherwise');
  t.equal(await codeOf(a.port.connect(c.port.ref)), 'MEDIA_COMMAND');
  t.equal(await codeOf(a.port.connect({ worker: 1, handle: 2 })), 'MEDIA_COMMAND');
  await a.port.connect(b.port.ref);
  t.same(b.port.toRecord().peer, a.port.ref);
  await a.peer.speak(said, a.port.rtpPort);
  await delay(100);
  const { score } = likeness(said, b.peer.heard(), 4_000);
  t.ok(score > 0.9, `correlation ${score.toFixed(3)}`);

  await b.port.connect(null);
  t.equal(a.port.toRecord().peer, null);
  await delay(60);
  b.peer.packets.length = 0;
  await a.peer.speak(sine(1000, 8000, 300), a.port.rtpPort);
  t.ok(shareAt(b.peer.heard(), 8000, 1000) < 0.1, 'nothing of it is heard');
});

t.test(
  'ports survive their worker: same UDP port, prompt, bridge, recording',
  { skip },
  async (t) => {
    const { engine } = await startPlane(t);
    const a = await openLeg(t, engine);
    const b = await openLeg(t, engine, a.port);
    const before = a.port.ref;
    const rtpPort = a.port.rtpPort;
    const prompt = sine(700, 8000, 2_400, 0.3);
    const path = writeWav(t, prompt);
    const folder = shortDir(t);
    const file = join(folder, 'call.wav');
    const request = { channels: 1, source: 'in', sampleRateHz: 8000, maxMs: 60_000 } as const;

    await a.port.record({
      ...request,
      recordId: 'r',
      path: file,
      silenceMs: 0,
      trimSilence: false,
    });
    await a.port.connect(b.port.ref);
    await a.port.play({ playId: 'p', source: { kind: 'file', path }, loop: 1 });
    const talking = a.peer.speak(sine(500, 8000, 2_400, 0.3), rtpPort);
    await delay(600);
    const killedMs = performance.now();
    process.kill(a.port.worker.pid, 'SIGKILL');
    await until(() => a.seen.moved.length + b.seen.moved.length === 2, 'moved');
    await until(() => (a.peer.packets.at(-1)?.atMs ?? 0) > killedMs + 30, 'audio again');
    const again = a.peer.packets.find((packet) => packet.atMs > killedMs + 30);
    t.comment(`media gap ${Math.round((again?.atMs ?? 0) - killedMs)} ms`);
    await talking;
    await until(() => a.seen.playDone.length > 0, 'playDone');

    t.equal(a.port.rtpPort, rtpPort);
    t.notSame(a.port.ref, before);
    t.same(a.seen.moved, [[{ ref: a.port.ref }]]);
    t.equal(new Set(a.peer.packets.map(({ ssrc }) => ssrc)).size, 2, 'no SSRC is used again');
    t.match(a.seen.playDone, [[{ playId: 'p', reason: 'finished' }]]);
    const playedMs = a.seen.playDone[0]?.[0].playedMs ?? 0;
    t.ok(Math.abs(playedMs - 2_400) < 150, `${playedMs} of 2400 ms, the gap counted as heard`);
    b.peer.packets.length = 0;
    await a.peer.speak(sine(900, 8000, 400), rtpPort);
    t.ok(shareAt(b.peer.heard().subarray(800), 8000, 900) > 0.6, 'still bridged');
    t.same(a.port.toRecord().peer, b.port.ref);
    await b.port.connect(before);
    t.pass('the old name of a moved port still means it');

    await a.port.stopRecord('r');
    await until(() => a.seen.recordDone.length > 0, 'recordDone');
    t.match(a.seen.recordDone, [[{ recordId: 'r', reason: 'stopped' }]]);
    const heard = firstChannel(readWav(file));
    t.equal(a.seen.recordDone[0]?.[0].durationMs, Math.round(heard.length / 8));
    t.ok(heard.length / 8 > 2_000, `${heard.length / 8} ms in one file`);
    t.ok(shareAt(heard.subarray(800, 3_200), 8000, 500) > 0.6, 'before the crash');
    const after = Array.from({ length: 40 }, (_, n) => heard.subarray(n * 800, n * 800 + 1_600));
    t.ok(
      after.some((window) => shareAt(window, 8000, 900) > 0.6),
      'and after it',
    );
    t.same(readdirSync(folder), ['call.wav'], 'no part is left');
  },
);

t.test('a port takes over what one in another worker plays and records', { skip }, async (t) => {
  const { engine } = await startPlane(t, { workers: 2 });
  const a = await openLeg(t, engine);
  const b = await openLeg(t, engine);
  t.not(b.port.ref.worker, a.port.ref.worker, 'in different workers');
  const path = writeWav(t, sine(700, 8000, 2_000, 0.3));
  const file = join(shortDir(t), 'call.wav');
  const request = { channels: 1, source: 'in', sampleRateHz: 8000, maxMs: 60_000 } as const;
  const record = { ...request, recordId: 'r', path: file, silenceMs: 0, trimSilence: false };
  await a.port.record(record);
  await a.port.play({ playId: 'p', source: { kind: 'file', path }, loop: 1 });
  await a.peer.speak(sine(500, 8000, 800, 0.3), a.port.rtpPort);

  await b.port.takeOver(a.port, settingsFor(a.peer.port));
  await a.peer.speak(sine(1000, 8000, 800, 0.3), b.port.rtpPort);
  await until(() => b.seen.playDone.length > 0, 'playDone');
  const playedMs = b.seen.playDone[0]?.[0].playedMs ?? 0;
  t.ok(Math.abs(playedMs - 2_000) < 150, `${playedMs} of 2000 ms`);
  await b.port.stopRecord('r');
  await until(() => b.seen.recordDone.length > 0, 'recordDone');
  t.match(b.seen.recordDone, [[{ recordId: 'r', reason: 'stopped' }]]);
  const heard = firstChannel(readWav(file));
  t.equal(b.seen.recordDone[0]?.[0].durationMs, Math.round(heard.length / 8));
  t.ok(shareAt(heard.subarray(800, 4_800), 8000, 500) > 0.6, 'from before');
  const after = Array.from({ length: 40 }, (_, n) => heard.subarray(n * 400, n * 400 + 1_600));
  t.ok(
    after.some((part) => shareAt(part, 8000, 1000) > 0.6),
    'and from after, in one file',
  );
  t.same(a.seen.recordDone, [], 'the former one says nothing more');
  t.equal(a.port.state, 'closed');
  t.equal(engine.size, 1);
});

t.test('a worker that hangs is killed and replaced', { skip }, async (t) => {
  const { engine } = await startPlane(t, { pingIntervalMs: 50, pingTimeoutMs: 400 });
  const { port, seen } = await openLeg(t, engine);
  const { pid } = port.worker;

  process.kill(pid, 'SIGSTOP');
  await until(() => seen.moved.length > 0, 'moved');

  t.not(port.worker.pid, pid);
  t.notOk(existsSync(`/proc/${pid}/exe`) && isAlive(pid), 'it can never send again');
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

t.test('a slot over its restart budget is parked and its ports are lost', { skip }, async (t) => {
  const { engine, supervisor } = await startPlane(t, {
    workers: 2,
    restartsMax: 1,
    parkMs: 60_000,
  });
  const a = await openLeg(t, engine);
  const b = await openLeg(t, engine);

  process.kill(a.port.worker.pid, 'SIGKILL');
  await until(() => a.seen.moved.length === 1, 'first restart');
  process.kill(a.port.worker.pid, 'SIGKILL');
  await until(() => a.seen.lost.length === 1, 'lost');

  t.equal(supervisor.live.length, 1);
  t.equal(await codeOf(a.port.stats()), 'MEDIA_UNAVAILABLE');
  t.same(b.seen.lost, [], 'other calls go on');
  const c = await engine.createPort({ rtcpMux: true });
  t.equal(c.ref.worker, b.port.ref.worker, 'new calls go to the worker that is left');
  t.equal(
    await codeOf(engine.createPort({ rtcpMux: true, near: a.port.ref })),
    'MEDIA_UNAVAILABLE',
  );
});

t.test('the next gateway takes the ports back with what it missed', { skip }, async (t) => {
  const dataDir = shortDir(t);
  const portMin = nextPorts;
  const first = makePlane(dataDir, { outlive: true, portMin });
  await first.engine.start();
  const a = await openLeg(t, first.engine);
  const left = await openLeg(t, first.engine);
  const path = writeWav(t, sine(700, 8000, 3_000, 0.3));
  await a.port.play({ playId: 'short', source: { kind: 'silence', durationMs: 250 }, loop: 1 });
  await a.port.play({ playId: 'long', source: { kind: 'file', path }, loop: 1 });
  const record = a.port.toRecord();
  const { pid } = a.port.worker;
  await first.engine.close({ leaveWorkers: true });
  await a.peer.press('7', record.rtpPort);
  await delay(300);
  const packetsBefore = a.peer.packets.length;

  const second = makePlane(dataDir, { outlive: true, portMin });
  t.teardown(() => second.engine.close());
  await second.engine.start();
  const port = await second.engine.adoptPort(record);
  a.listen(port);
  await until(() => a.seen.playDone.length > 0, 'missed outcome');

  t.equal(port.worker.pid, pid, 'the same worker');
  t.same(port.ref, record.ref);
  t.ok(packetsBefore >= 12, 'audio went on without a gateway');
  t.match(a.seen.playDone, [[{ playId: 'short', reason: 'finished' }]]);
  t.match(a.seen.digit, [[{ key: '7' }]]);
  await port.play({ playId: 'long', source: { kind: 'file', path }, loop: 1 });
  await port.play({ playId: 'short', source: { kind: 'silence', durationMs: 250 }, loop: 1 });
  await until(() => a.seen.playDone.length === 3, 'both outcomes');
  const played = a.seen.playDone.find(([event]) => event.playId === 'long')?.[0].playedMs ?? 0;
  t.ok(Math.abs(played - 3_000) < 150, `played once, in one go (${played} ms)`);

  t.equal(await second.engine.closeUnclaimed(), 1, 'the port nobody took back');
  t.equal(second.engine.size, 1);
  t.same(left.seen.lost, []);
});

t.test('a port whose worker is gone is made again, or told lost', { skip }, async (t) => {
  const dataDir = shortDir(t);
  const portMin = nextPorts;
  const first = makePlane(dataDir, { workers: 2, portMin });
  await first.engine.start();
  const a = await openLeg(t, first.engine);
  const b = await openLeg(t, first.engine);
  const records = [a.port.toRecord(), b.port.toRecord()].sort((x, y) => x.rtpPort - y.rtpPort);
  const [kept, gone] = records;
  if (kept === undefined || gone === undefined) throw new NotInTime('two records');
  await first.engine.close();

  const second = makePlane(dataDir, { workers: 1, portMin });
  t.teardown(() => second.engine.close());
  await second.engine.start();
  const port = await second.engine.adoptPort(kept);
  const lost = await second.engine.adoptPort(gone);
  await once(lost, 'lost');

  t.equal(port.rtpPort, kept.rtpPort);
  t.notSame(port.ref, kept.ref);
  t.equal(port.state, 'live');
  t.not(port.toRecord().ssrc, kept.ssrc);
  const peer = kept.rtpPort === a.port.rtpPort ? a.peer : b.peer;
  peer.packets.length = 0;
  const tone = { kind: 'tone', hz: [425], onMs: 300, offMs: 0, levelDb: -12, count: 1 } as const;
  await port.play({ playId: 'x', source: tone, loop: 1 });
  await once(port, 'playDone');
  t.ok(peer.packets.length > 5, 'its settings were played back');
});

t.test('workers end with their gateway unless told to outlive it', { skip }, async (t) => {
  const { engine, supervisor } = makePlane(shortDir(t));
  await engine.start();
  const [worker] = supervisor.live;
  if (worker === undefined) throw new NotInTime('a worker');

  await engine.close({ leaveWorkers: true });
  await until(() => !isAlive(worker.pid), 'gone');
  t.equal(await codeOf(engine.createPort({ rtcpMux: true })), 'MEDIA_UNAVAILABLE');
});

t.test(
  'start fails with a reason when the addon or the ports cannot be had',
  { skip },
  async (t) => {
    const missing = new Supervisor({
      clock: realClock,
      log,
      dataDir: shortDir(t),
      addonPath: '/nowhere/tandem_media.node',
      options: { ...DEFAULT_SUPERVISOR_OPTIONS, workers: 2 },
    });
    t.equal(await codeOf(missing.start()), 'ADDON_MISSING');
    t.same(missing.live, []);

    const { engine } = await startPlane(t, { portMin: nextPorts, portMax: nextPorts + 3 });
    await Promise.all([engine.createPort({ rtcpMux: true }), engine.createPort({ rtcpMux: true })]);
    t.equal(await codeOf(engine.createPort({ rtcpMux: true })), 'PORTS_EXHAUSTED');
  },
);

t.test(
  'a recording into a folder that cannot be made is refused, the port lives',
  { skip },
  async (t) => {
    const { engine } = await startPlane(t);
    const { port } = await openLeg(t, engine);
    const folder = shortDir(t);
    const blocked = join(folder, 'file');
    writeFileSync(blocked, 'x');
    mkdirSync(join(folder, 'ok'));
    const request = { channels: 1, source: 'both', sampleRateHz: 8000, maxMs: 0 } as const;
    const record = { ...request, recordId: 'r', silenceMs: 0, trimSilence: false };

    t.equal(
      await codeOf(port.record({ ...record, path: join(blocked, 'a.wav') })),
      'MEDIA_COMMAND',
    );
    const none = join(folder, 'none.wav');
    const play = { playId: 'x', source: { kind: 'file', path: none }, loop: 1 } as const;
    t.equal(await codeOf(port.play(play)), 'MEDIA_COMMAND');
    await port.record({ ...record, path: join(folder, 'ok', 'a.wav') });
    await port.close();
    t.ok(existsSync(join(folder, 'ok', 'a.wav')));
  },
);
