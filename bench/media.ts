/**
 * What media costs: CPU time per relayed packet and per call that is transcoded between PCMU and
 * Opus, of one media worker and of rtpengine in userspace, with the same speech, in turns, in one
 * run. Only the relay's own process is measured; packets are counted where they arrive.
 *
 * Both do what they do by default: Opus at 32 kbit/s in both, at the complexity each chooses.
 *
 * node bench/media.ts [--rounds 3] [--seconds 4] [--relay 60] [--transcode 20]
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_LEG_MEDIA } from '../src/call/media-terms.ts';
import { realClock } from '../src/core/clock.ts';
import { CODECS } from '../src/core/codec.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { ADDON_PATH, DIRECTIONS, LATCH, type PortSettings } from '../src/media/binding.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine, type Port } from '../src/media/engine.ts';
import { DEFAULT_SUPERVISOR_OPTIONS, Supervisor } from '../src/media/supervisor.ts';
import {
  aim,
  endWithin,
  median,
  printTable,
  skipBench,
  sleepMs,
  threadSeconds,
  verdict,
} from './measure.ts';
import {
  capturedPayloads,
  isOpusSound,
  isUlawSound,
  type LegShape,
  type LoadLeg,
  RtpLoad,
  ulawPayloads,
} from './rtp-load.ts';
import { hasRtpengine, startRtpengine } from './rtpengine.ts';

/** Of rtpengine's cost. */
const RELAY_RATIO_AIM = 0.6;
const TRANSCODE_RATIO_AIM = 1 / 3;
const ENDS_WITHIN_SECONDS = 118;
const WARM_UP_MS = 1000;
const OPUS_TYPE = CODECS.opus.payloadType;
const SPEECH = new URL('../../shared/data/media/speech-en.ulaw', import.meta.url).pathname;
const OPUS_CAPTURE = new URL('../../shared/data/media/rtp-opus-20ms-fec.pcap', import.meta.url)
  .pathname;
const OPUS_CAPTURE_PORT = 41_000;

type CodecName = 'PCMU' | 'opus';

interface Party {
  readonly codec: CodecName;
  readonly leg: LoadLeg;
}

/** A relay under test. */
interface Relay {
  readonly name: string;
  readonly pid: number;
  /** Makes a call between two parties and tells each where to send. */
  join(a: Party, b: Party): Promise<void>;
  endCalls(): Promise<void>;
  close(): Promise<void>;
}

interface Run {
  readonly relay: string;
  readonly cpuSeconds: number;
  readonly seconds: number;
  /** In the window that was measured. */
  readonly packets: number;
  readonly lost: number;
  readonly foreign: number;
  /** The least over all legs of the share of packets with sound in them, %. */
  readonly soundPercent: number;
}

// --- The two relays -------------------------------------------------------------------------------

async function startWorker(): Promise<Relay> {
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-bench-'));
  const portRange = { portMin: 17_000, portMax: 18_999 };
  const supervisor = new Supervisor({
    clock: realClock,
    log: silentLog,
    dataDir,
    options: { ...DEFAULT_SUPERVISOR_OPTIONS, ...portRange, workers: 1 },
  });
  const engine = new MediaEngine({
    clock: realClock,
    log: silentLog,
    metrics: new Metrics(),
    supervisor,
    address: '127.0.0.1',
    options: DEFAULT_MEDIA_ENGINE_OPTIONS,
  });
  await engine.start();
  let ports: Port[] = [];
  return {
    name: 'tandem',
    pid: supervisor.live[0]?.pid ?? 0,
    join: async (a, b) => {
      const first = await engine.createPort({ rtcpMux: false });
      const second = await engine.createPort({ rtcpMux: false, near: first.ref });
      ports.push(first, second);
      await first.set(settingsOf(a));
      await second.set(settingsOf(b));
      await first.connect(second.ref);
      a.leg.target = first.rtpPort;
      b.leg.target = second.rtpPort;
    },
    endCalls: async () => {
      await Promise.all(ports.map((port) => port.close()));
      ports = [];
    },
    close: async () => {
      await engine.close();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

/** As a leg sets its port when the peer offers telephone-event too. */
function settingsOf({ codec, leg }: Party): PortSettings {
  const { payloadType } = leg;
  return {
    remote: { address: '127.0.0.1', port: leg.port, rtcpPort: leg.port, rtcpMux: false },
    codec: CODECS[codec].nativeId,
    payloadType,
    receivePayloadType: payloadType,
    ptimeMs: 20,
    dtmf: {
      payloadType: 101,
      receivePayloadType: 101,
      clockRateHz: CODECS[codec].clockRateHz,
    },
    direction: DIRECTIONS.sendrecv,
    latch: LATCH[DEFAULT_LEG_MEDIA.latch],
    opus: {
      bitrate: DEFAULT_LEG_MEDIA.opusBitrate,
      complexity: DEFAULT_LEG_MEDIA.opusComplexity,
      fec: true,
      dtx: false,
    },
    jitter: { minMs: DEFAULT_LEG_MEDIA.jitterMinMs, maxMs: DEFAULT_LEG_MEDIA.jitterMaxMs },
    silentTimeoutMs: DEFAULT_LEG_MEDIA.silentTimeoutMs,
    inbandDtmf: false,
  };
}

async function startPeer(): Promise<Relay> {
  const rtpengine = await startRtpengine({ portMin: 19_000, portMax: 19_999 });
  let calls: string[] = [];
  let count = 0;
  return {
    name: 'rtpengine',
    pid: rtpengine.pid,
    join: async (a, b) => {
      count += 1;
      const call = `bench-${count}`;
      calls.push(call);
      const isTranscoded = a.codec !== b.codec;
      // It writes the bit rate as the fourth part; the third are the channels of RFC 7587.
      const codec = { mask: ['PCMU'], transcode: ['opus/48000/2/32000'] };
      const offered = await rtpengine.offer(call, sdpOf(a), isTranscoded ? { codec } : {});
      if (b.codec === 'opus') b.leg.payloadType = opusTypeOf(offered);
      const answered = await rtpengine.answer(call, sdpOf(b));
      b.leg.target = portOf(offered);
      a.leg.target = portOf(answered);
    },
    endCalls: async () => {
      for (const call of calls) await rtpengine.remove(call);
      calls = [];
    },
    close: () => rtpengine.stop(),
  };
}

function sdpOf({ codec, leg }: Party): string {
  const map = codec === 'opus' ? 'opus/48000/2' : 'PCMU/8000';
  return [
    'v=0',
    'o=bench 1 1 IN IP4 127.0.0.1',
    's=-',
    'c=IN IP4 127.0.0.1',
    't=0 0',
    `m=audio ${leg.port} RTP/AVP ${leg.payloadType}`,
    `a=rtpmap:${leg.payloadType} ${map}`,
    `a=rtcp:${leg.port}`,
    'a=ptime:20',
    '',
  ].join('\r\n');
}

function portOf(sdp: string): number {
  return Number(/^m=audio (\d+)/m.exec(sdp)?.[1] ?? 0);
}

function opusTypeOf(sdp: string): number {
  const type = /^a=rtpmap:(\d+) opus\/48000/m.exec(sdp)?.[1];
  if (type === undefined) throw new Error(`rtpengine does not offer Opus:\n${sdp}`);
  return Number(type);
}

// --- One run --------------------------------------------------------------------------------------

const SHAPES: Readonly<Record<CodecName, () => LegShape>> = {
  PCMU: () => ({
    payloadType: CODECS.PCMU.payloadType,
    payloads: ulawPayloads(SPEECH),
    clockStep: 160,
    isSound: isUlawSound,
  }),
  opus: () => ({
    payloadType: OPUS_TYPE,
    payloads: capturedPayloads(OPUS_CAPTURE, OPUS_CAPTURE_PORT),
    clockStep: 960,
    isSound: isOpusSound,
  }),
};

async function measure(
  relay: Relay,
  callCount: number,
  codecs: readonly [CodecName, CodecName],
  seconds: number,
): Promise<Run> {
  const load = new RtpLoad();
  const shapes = { a: SHAPES[codecs[0]](), b: SHAPES[codecs[1]]() };
  for (let call = 0; call < callCount; call++) {
    const a = await load.addLeg(shapes.a);
    const b = await load.addLeg(shapes.b);
    await relay.join({ codec: codecs[0], leg: a }, { codec: codecs[1], leg: b });
  }
  load.start();
  await sleepMs(WARM_UP_MS);
  const before = snapshot(load, relay);
  await sleepMs(seconds * 1000);
  const after = snapshot(load, relay);
  await load.stop();
  await relay.endCalls();
  await load.close();
  // Gaps in what arrives, or less in the window than was sent in it, whatever says more; one
  // packet a leg may be under way.
  const missing = load.legs.map((leg, index) => {
    const sent = (after.sent[index] ?? 0) - (before.sent[index] ?? 0);
    const received = (after.received[index] ?? 0) - (before.received[index] ?? 0);
    return Math.max(0, leg.expected - leg.received, sent - received - 1);
  });
  return {
    relay: relay.name,
    cpuSeconds: after.cpuSeconds - before.cpuSeconds,
    seconds: (after.atMs - before.atMs) / 1000,
    packets: sum(after.received) - sum(before.received),
    lost: sum(missing),
    foreign: sum(load.legs.map((leg) => leg.foreign)),
    soundPercent: Math.min(...load.legs.map((leg) => (100 * leg.sounding) / leg.received)),
  };
}

function snapshot(load: RtpLoad, relay: Relay) {
  return {
    atMs: performance.now(),
    cpuSeconds: threadSeconds(relay.pid),
    sent: load.legs.map((leg) => leg.sent),
    received: load.legs.map((leg) => leg.received),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

// --- The bench ------------------------------------------------------------------------------------

async function compare(
  relays: readonly Relay[],
  rounds: number,
  run: (relay: Relay) => Promise<Run>,
): Promise<Run[]> {
  const runs: Run[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const relay of relays) runs.push(await run(relay));
  }
  return runs;
}

/** Prints a row for each relay and returns tandem's share of rtpengine's median. */
function report(
  runs: readonly Run[],
  what: string,
  cost: (run: Run) => number,
): { ratio: number; text: string } {
  const names = [...new Set(runs.map((run) => run.relay))];
  const medians = names.map((name) => {
    const own = runs.filter((run) => run.relay === name);
    const costs = own.map(cost);
    const row = {
      relay: name,
      [what]: median(costs),
      least: Math.min(...costs),
      most: Math.max(...costs),
      packets: sum(own.map((run) => run.packets)),
      lost: sum(own.map((run) => run.lost)),
      'wrong codec': sum(own.map((run) => run.foreign)),
      'sound %': Math.round(Math.min(...own.map((run) => run.soundPercent))),
    };
    return { row, cost: median(costs) };
  });
  printTable(medians.map(({ row }) => row));
  const [ours = Number.NaN, theirs = Number.NaN] = medians.map(({ cost }) => cost);
  return { ratio: ours / theirs, text: `${ours.toFixed(2)} against ${theirs.toFixed(2)}` };
}

function judge(runs: readonly Run[]): void {
  const own = runs.filter((run) => run.relay === 'tandem');
  const wrong = sum(own.map((run) => run.lost + run.foreign));
  const total = sum(own.map((run) => run.packets));
  verdict(wrong === 0, `every packet arrives in the right codec: ${wrong} of ${total} did not`);
  verdict(
    runs.every((run) => run.soundPercent > 25),
    'what arrives is speech, on every leg of both',
  );
}

async function idle(relays: readonly Relay[]): Promise<void> {
  const before = relays.map((relay) => threadSeconds(relay.pid));
  await sleepMs(2000);
  const costs = relays.map((relay, index) => {
    const perSecond = (threadSeconds(relay.pid) - (before[index] ?? 0)) / 2;
    return `${relay.name} ${(perSecond * 1000).toFixed(2)} ms CPU per second`;
  });
  process.stdout.write(`idle, no port: ${costs.join(', ')}\n`);
}

async function bench(options: {
  rounds: number;
  seconds: number;
  relay: number;
  transcode: number;
}): Promise<void> {
  const { rounds, seconds, relay: relayed, transcode } = options;
  const relays: Relay[] = [];
  try {
    relays.push(await startWorker(), await startPeer());
    await idle(relays);
    process.stdout.write(`\nrelay, ${relayed} PCMU calls, ${rounds} rounds of ${seconds} s\n`);
    const relay = await compare(relays, rounds, (each) =>
      measure(each, relayed, ['PCMU', 'PCMU'], seconds),
    );
    const perPacket = report(relay, 'µs per packet', (run) => (run.cpuSeconds / run.packets) * 1e6);
    process.stdout.write(`\ntranscode, ${transcode} PCMU-Opus calls, ${rounds} rounds\n`);
    const coded = await compare(relays, rounds, (each) =>
      measure(each, transcode, ['PCMU', 'opus'], seconds),
    );
    const perCall = report(
      coded,
      '% of a core per call',
      (run) => ((run.cpuSeconds / run.seconds) * 100) / transcode,
    );
    process.stdout.write('\n');
    judge([...relay, ...coded]);
    aim(
      perPacket.ratio <= RELAY_RATIO_AIM,
      `relay costs ${perPacket.ratio.toFixed(2)} of rtpengine (${perPacket.text} µs a packet; aim ${RELAY_RATIO_AIM})`,
    );
    aim(
      perCall.ratio <= TRANSCODE_RATIO_AIM,
      `transcoding costs ${perCall.ratio.toFixed(2)} of rtpengine (${perCall.text} % of a core a call; aim ${TRANSCODE_RATIO_AIM.toFixed(2)})`,
    );
  } finally {
    await Promise.all(relays.map((relay) => relay.close()));
  }
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '4' },
    relay: { type: 'string', default: '60' },
    transcode: { type: 'string', default: '20' },
  },
});
if (!existsSync(ADDON_PATH)) skipBench('the media engine is not built');
if (!existsSync(SPEECH) || !existsSync(OPUS_CAPTURE)) skipBench('no speech in ../shared/data');
if (!hasRtpengine()) skipBench('rtpengine is not installed');
endWithin(ENDS_WITHIN_SECONDS);
await bench({
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  relay: Number(values.relay),
  transcode: Number(values.transcode),
});
