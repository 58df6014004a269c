/**
 * The built addon itself, through its six verbs: two bare RTP peers on loopback, captures of real
 * phones sent into it, and what comes out judged by ear. What the engine does without Node is in
 * `test/native/engine_test*.cc`; what the gateway makes of it in `media-engine.test.ts`.
 */
import dgram from 'node:dgram';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import {
  ADDON_PATH,
  DIRECTIONS,
  decodeEvents,
  type Handle,
  LATCH,
  loadAddon,
  type MediaAddon,
  type NativeEvent,
  type PortSettings,
  type PortStats,
} from '../src/media/binding.ts';
import { packSettings, unpackStats } from '../src/media/packed.ts';
import { delay, RtpPeer } from './support/rtp-peer.ts';
import { firstChannel, readChannels as readWav, shareAt, sine, wavOf } from './support/sound.ts';

const skip = existsSync(ADDON_PATH) ? false : 'native/build is missing: build the addon first';
const captures = new URL('../../shared/data/media/', import.meta.url);
const skipCaptures = skip || (existsSync(captures) ? false : 'the captures are not here');
const FIRST_PORT = 17_000 + (process.pid % 50) * 100;
const START = {
  realtimePriority: 0,
  address: '127.0.0.1',
  portMin: FIRST_PORT,
  portMax: FIRST_PORT + 89,
  quarantineMs: 0,
  clipPreloadBytesMax: 1 << 20,
};

const events: NativeEvent[] = [];
let addon: MediaAddon | null = null;

function engine(): MediaAddon {
  if (addon === null) {
    addon = loadAddon();
    addon.start(START, (batch, count) => events.push(...decodeEvents(batch, count)));
  }
  return addon;
}

function settings(port: number, more: Partial<PortSettings> = {}): PortSettings {
  return {
    remote: { address: '127.0.0.1', port, rtcpPort: port + 1, rtcpMux: false },
    codec: 0,
    payloadType: 0,
    receivePayloadType: 0,
    ptimeMs: 20,
    dtmf: { payloadType: 101, receivePayloadType: 101, clockRateHz: 8000 },
    direction: DIRECTIONS.sendrecv,
    latch: LATCH.off,
    opus: { bitrate: 0, complexity: 5, fec: true, dtx: false },
    jitter: { minMs: 20, maxMs: 200 },
    silentTimeoutMs: 0,
    inbandDtmf: false,
    ...more,
  };
}

const OPUS: Partial<PortSettings> = {
  codec: 3,
  payloadType: 96,
  receivePayloadType: 96,
  dtmf: { payloadType: 97, receivePayloadType: 97, clockRateHz: 48_000 },
};

interface Leg {
  readonly handle: Handle;
  readonly rtpPort: number;
}

function leg(remotePort: number, more: Partial<PortSettings> = {}): Leg {
  const options = { address: '127.0.0.1', rtcpMux: false, ssrc: 0x5555_0001 };
  const { handle, rtpPort } = engine().create('port', options);
  engine().set(handle, packSettings(settings(remotePort, more)));
  return { handle, rtpPort };
}

function figures(handle: Handle): PortStats {
  return unpackStats(engine().ask(handle));
}

function eventsOf(handle: Handle, kind: NativeEvent['kind']): NativeEvent[] {
  return events.filter((event) => event.handle === handle && event.kind === kind);
}

async function until(isDone: () => boolean, timeoutMs = 3000): Promise<boolean> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    if (isDone()) return true;
    if (performance.now() >= endMs) return false;
    await delay(5);
  }
}

/** UDP payloads of a classic pcap file over Ethernet and IPv4. */
function udpOf(name: string): Buffer[] {
  const file = readFileSync(new URL(name, captures));
  const datagrams: Buffer[] = [];
  for (let at = 24; at + 16 <= file.length; ) {
    const bytes = file.readUInt32LE(at + 8);
    const frame = file.subarray(at + 16, at + 16 + bytes);
    at += 16 + bytes;
    const isUdp = frame.readUInt16BE(12) === 0x0800 && frame[23] === 17;
    const ip = 14 + ((frame[14] ?? 0) & 0x0f) * 4;
    if (isUdp) datagrams.push(frame.subarray(ip + 8, ip + frame.readUInt16BE(ip + 4)));
  }
  return datagrams;
}

/** Sends to `port` what a phone once sent, one packet each `everyMs`. */
async function replay(
  packets: readonly Buffer[],
  from: dgram.Socket,
  port: number,
  everyMs: number,
) {
  const startMs = performance.now();
  for (const [index, packet] of packets.entries()) {
    from.send(packet, port, '127.0.0.1');
    const dueMs = startMs + (index + 1) * everyMs;
    if (dueMs > performance.now()) await delay(dueMs - performance.now());
  }
}

async function socket(): Promise<dgram.Socket> {
  const made = dgram.createSocket('udp4');
  await new Promise<void>((done) => made.bind(0, '127.0.0.1', done));
  return made;
}

t.test('exports are the six verbs of the contract', { skip }, async (t) => {
  const expected = ['ask', 'close', 'connect', 'create', 'set', 'start'];

  t.same(Object.keys(engine()).sort(), expected);
  t.throws(() => engine().start(START, () => {}), { code: 'MEDIA_COMMAND' });
});

t.test('bad arguments are refused with a code', { skip }, async (t) => {
  const { handle } = engine().create('port', { address: '127.0.0.1', rtcpMux: false, ssrc: 1 });
  const refused = { code: 'MEDIA_COMMAND' };
  const remote = { address: 'example.com', port: 4000, rtcpPort: 4001, rtcpMux: false };

  t.throws(() => engine().set(handle, packSettings(settings(4000, { remote }))), refused);
  t.throws(() => engine().set(handle, packSettings(settings(4000, { codec: 9 }))), refused);
  t.throws(
    () => engine().set(handle, packSettings(settings(4000, { ptimeMs: Number.NaN }))),
    refused,
  );
  t.throws(() => engine().create('clip', { path: '/nonexistent.wav' }), refused);
  const play = { port: handle, clip: 0, digits: '12x', loop: 1, offsetMs: 0 };
  t.throws(() => engine().create('player', play), refused);
  engine().close(handle);
  engine().close(handle);
  t.throws(() => engine().ask(handle), refused);
});

t.test('a call of one codec is relayed, its digits told once', { skip }, async (t) => {
  const alice = await RtpPeer.open();
  const bob = await RtpPeer.open();
  const a = leg(alice.port);
  const b = leg(bob.port);
  engine().connect(a.handle, b.handle);

  await alice.speak(sine(440, 8000, 400), a.rtpPort);
  await alice.press('7', a.rtpPort);
  await alice.speak(sine(440, 8000, 400), a.rtpPort);
  await delay(60);

  t.equal(figures(a.handle).mode, 'relay');
  t.ok(shareAt(bob.heard().subarray(1000, 2600), 8000, 440) > 0.9, 'the tone is heard');
  t.equal(bob.keys(), '7');
  t.match(eventsOf(a.handle, 'digit'), [{ key: '7', durationMs: 100, source: 'rfc4733' }]);
  const relayed = bob.packets.filter((packet) => packet.atMs > 0).slice(5);
  const isSeamless = relayed.every(
    (packet, index) =>
      index === 0 || packet.sequence === (((relayed[index - 1]?.sequence ?? 0) + 1) & 0xffff),
  );
  t.ok(isSeamless, 'no gap in the sequence numbers');
  for (const each of [a, b]) engine().close(each.handle);
  await Promise.all([alice.close(), bob.close()]);
});

t.test('what an Opus phone said is understood in mu-law', { skip: skipCaptures }, async (t) => {
  const browser = await socket();
  const phone = await RtpPeer.open();
  const a = leg(browser.address().port, OPUS);
  const b = leg(phone.port);
  const speech = udpOf('rtp-opus-20ms-fec.pcap').slice(0, 150);
  const payloadType = (speech[0]?.[1] ?? 0) & 0x7f;
  const numbers = { payloadType, receivePayloadType: payloadType };
  engine().set(a.handle, packSettings(settings(browser.address().port, { ...OPUS, ...numbers })));
  engine().connect(a.handle, b.handle);

  await replay(speech, browser, a.rtpPort, 20);

  const stats = figures(a.handle);
  t.equal(stats.mode, 'transcode');
  t.equal(stats.badPackets + stats.wrongSource, 0);
  const heard = phone.heard();
  const energy = heard.reduce((sum, sample) => sum + sample * sample, 0) / heard.length;
  t.ok(Math.sqrt(energy) > 0.01, 'speech, not silence');
  for (const each of [a, b]) engine().close(each.handle);
  browser.close();
  await phone.close();
});

t.test('sixteen digits of a real phone are all told', { skip: skipCaptures }, async (t) => {
  const phone = await socket();
  const a = leg(phone.address().port);
  const packets = udpOf('rtp-dtmf-rfc4733-16digits.pcap');
  const types = new Set(packets.map((packet) => (packet[1] ?? 0) & 0x7f));
  const event = [...types].find((type) => type >= 96) ?? 101;
  const dtmf = { payloadType: event, receivePayloadType: event, clockRateHz: 8000 };
  engine().set(a.handle, packSettings(settings(phone.address().port, { dtmf })));

  await replay(packets, phone, a.rtpPort, 4);
  await until(() => eventsOf(a.handle, 'digit').length >= 16);
  await delay(150);

  const keys = events.map((event) =>
    event.kind === 'digit' && event.handle === a.handle ? event.key : '',
  );
  t.equal(keys.join(''), '0123456789*#ABCD');
  engine().close(a.handle);
  phone.close();
});

t.test('loss of a bad line is counted', { skip: skipCaptures }, async (t) => {
  const phone = await socket();
  const a = leg(phone.address().port);
  const packets = udpOf('rtp-pcmu-loss5.pcap');
  const sequences = packets.map((packet) => packet.readUInt16BE(2));
  const span = (((sequences.at(-1) ?? 0) - (sequences[0] ?? 0)) & 0xffff) + 1;

  await replay(packets, phone, a.rtpPort, 1);
  await delay(60);

  const stats = figures(a.handle);
  t.equal(stats.packetsReceived, packets.length);
  t.equal(stats.packetsLost, span - packets.length);
  t.ok(stats.packetsLost > 0);
  engine().close(a.handle);
  phone.close();
});

t.test('a prompt is heard and recorded, and both say how they ended', { skip }, async (t) => {
  const folder = t.testdir({ 'prompt.wav': wavOf([sine(800, 16_000, 600)], 16_000) });
  const phone = await RtpPeer.open();
  const a = leg(phone.port);
  const path = join(folder, 'out.wav');
  const recorder = engine().create('recorder', {
    port: a.handle,
    path,
    channels: 2,
    source: 'both',
    sampleRateHz: 8000,
    maxMs: 0,
    silenceMs: 0,
    trimSilence: false,
  }).handle;
  const clip = engine().create('clip', { path: join(folder, 'prompt.wav') });
  t.equal(clip.durationMs, 600);

  const play = { port: a.handle, clip: clip.handle, loop: 1, offsetMs: 0 };
  const player = engine().create('player', play).handle;
  await phone.speak(sine(500, 8000, 800), a.rtpPort);
  t.ok(await until(() => eventsOf(player, 'playDone').length === 1));
  engine().close(recorder);
  t.ok(await until(() => eventsOf(recorder, 'recordDone').length === 1));

  t.match(eventsOf(player, 'playDone'), [{ reason: 'finished' }]);
  t.match(eventsOf(recorder, 'recordDone'), [{ reason: 'stopped' }]);
  const start = phone.packets.findIndex((packet) => packet.payload.some((byte) => byte < 0x70));
  const sound = phone.heard().subarray(start * 160);
  t.ok(shareAt(sound.subarray(800, 4000), 8000, 800) > 0.9, 'the phone hears the prompt');
  const recorded = readWav(path);
  t.equal(recorded.channels.length, 2);
  t.ok(shareAt(firstChannel(recorded).subarray(1600, 4800), 8000, 500) > 0.9, 'left: the phone');
  const right = recorded.channels[1] ?? new Float64Array(0);
  t.ok(shareAt(right.subarray(800, 4000), 8000, 800) > 0.9, 'right: the prompt');
  engine().close(a.handle);
  await phone.close();
});

t.test('a stranger is not heard, a phone behind NAT is', { skip }, async (t) => {
  const phone = await RtpPeer.open();
  const stranger = await RtpPeer.open();
  const strict = leg(phone.port);
  const open = leg(9, { latch: LATCH.sameAddress });

  await stranger.speak(sine(440, 8000, 200), strict.rtpPort);
  await phone.speak(sine(440, 8000, 200), open.rtpPort);
  await delay(60);

  t.equal(figures(strict.handle).packetsReceived, 0);
  t.equal(figures(strict.handle).wrongSource, 10);
  t.equal(stranger.packets.length, 0);
  t.equal(figures(open.handle).packetsReceived, 7, 'three packets are the proof');
  t.equal(figures(open.handle).peerAddress, `127.0.0.1:${phone.port}`);
  t.equal(eventsOf(open.handle, 'latched').length, 1);
  for (const each of [strict, open]) engine().close(each.handle);
  await Promise.all([phone.close(), stranger.close()]);
});

t.test('a phone takes back what an attacker of its IP took first', { skip }, async (t) => {
  const phone = await RtpPeer.open();
  const attacker = await RtpPeer.open();
  const a = leg(phone.port, { latch: LATCH.sameAddress });

  await attacker.speak(sine(440, 8000, 200), a.rtpPort);
  await until(() => eventsOf(a.handle, 'latched').length === 1);
  await delay(1200);
  await phone.speak(sine(440, 8000, 100), a.rtpPort);
  await until(() => eventsOf(a.handle, 'latched').length === 2);
  const heardBefore = attacker.packets.length;
  await attacker.press('7', a.rtpPort);
  await delay(300);

  t.equal(figures(a.handle).peerAddress, `127.0.0.1:${phone.port}`);
  t.ok(attacker.packets.length - heardBefore <= 5, 'media left the attacker');
  t.same(eventsOf(a.handle, 'digit'), [], 'and so did its keys');
  engine().close(a.handle);
  await Promise.all([phone.close(), attacker.close()]);
});

t.test('who never acknowledged gets 20 packets, and the rest once it did', { skip }, async (t) => {
  const victim = await RtpPeer.open();
  const a = leg(victim.port, { proven: false });
  await delay(700);

  t.ok(victim.packets.length <= 20 && victim.packets.length > 10, `${victim.packets.length}`);
  t.throws(
    () => engine().set(a.handle, packSettings(settings(victim.port, { proven: 1 as never }))),
    {
      code: 'MEDIA_COMMAND',
    },
  );
  engine().set(a.handle, packSettings(settings(victim.port, { proven: true })));
  t.ok(await until(() => victim.packets.length > 40), 'an acknowledged call is served');
  engine().close(a.handle);
  await victim.close();
});

t.test('handle 0 is the engine itself', { skip }, async (t) => {
  const before = engine().ask(0);
  const { handle } = engine().create('port', { address: '127.0.0.1', rtcpMux: true, ssrc: 1 });

  t.match(engine().ask(0), { ports: before.ports + 1, eventsDropped: 0, earlyPortReuses: 0 });
  engine().close(handle);
  t.equal(engine().ask(0).ports, before.ports);
});

t.test('the pool ends with a code, and a dead port can be made again', { skip }, async (t) => {
  const options = { address: '127.0.0.1', rtcpMux: false, ssrc: 3 };
  const made: { handle: Handle; rtpPort: number }[] = [];
  const fill = () => {
    for (let n = 0; n < 100; n += 1) made.push(engine().create('port', options));
  };

  t.throws(fill, { code: 'PORTS_EXHAUSTED' });
  t.ok(made.length > 30);
  const last = made.pop();
  if (last === undefined) return;
  engine().close(last.handle);
  const again = () => engine().create('port', { ...options, rtpPort: last.rtpPort });
  t.ok(
    await until(() => {
      try {
        made.push(again());
      } catch {
        return false;
      }
      return true;
    }),
  );
  t.equal(made.at(-1)?.rtpPort, last.rtpPort);
  for (const each of made) engine().close(each.handle);
});

t.test('a thread with its own engine can be stopped at any moment', { skip }, async (t) => {
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    const addon = require(workerData.path);
    addon.start(workerData.start, () => {});
    addon.create('port', { address: '127.0.0.1', rtcpMux: true, ssrc: 1 });
    parentPort.postMessage('up');
    setInterval(() => {}, 1000);`;
  const start = { ...START, portMin: FIRST_PORT + 90, portMax: FIRST_PORT + 99 };
  const worker = new Worker(source, { eval: true, workerData: { path: ADDON_PATH, start } });
  await new Promise((up) => worker.once('message', up));

  t.equal(await worker.terminate(), 1);
});
