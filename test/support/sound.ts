/**
 * What is heard, as numbers: tone power, correlation of a recording with the prompt it should
 * hold, segmental SNR after alignment, µ-law both ways, WAV in and out. Independent of the engine
 * under test on purpose: nothing here calls it.
 */
import { readFileSync, writeFileSync } from 'node:fs';

export interface Sound {
  readonly rateHz: number;
  /** Mono, -1..1. */
  readonly samples: Float64Array;
}

/** A WAV with all its channels. */
export interface Channels {
  readonly sampleRateHz: number;
  /** One array per channel, -1..1. */
  readonly channels: readonly Float64Array[];
}

export function readWav(path: string): Sound {
  const read = readChannels(path);
  return { rateHz: read.sampleRateHz, samples: firstChannel(read) };
}

/** What is there of it: a header may promise more. */
export function readChannels(path: string): Channels {
  const file = readFileSync(path);
  let sampleRateHz = 8000;
  let count = 1;
  for (let at = 12; at + 8 <= file.length; ) {
    const id = file.toString('latin1', at, at + 4);
    const bytes = Math.min(file.readUInt32LE(at + 4), file.length - at - 8);
    if (id === 'fmt ') {
      count = file.readUInt16LE(at + 10);
      sampleRateHz = file.readUInt32LE(at + 12);
    }
    if (id === 'data') {
      const frames = Math.floor(bytes / 2 / count);
      const channels = Array.from({ length: count }, () => new Float64Array(frames));
      channels.forEach((channel, index) => {
        for (let n = 0; n < frames; n += 1) {
          channel[n] = file.readInt16LE(at + 8 + (n * count + index) * 2) / 32768;
        }
      });
      return { sampleRateHz, channels };
    }
    at += 8 + bytes + (bytes % 2);
  }
  return { sampleRateHz, channels: [new Float64Array()] };
}

export function firstChannel(sound: Channels): Float64Array {
  return sound.channels[0] ?? new Float64Array();
}

export function writeWav(path: string, sound: Sound): void {
  writeFileSync(path, wavOf([sound.samples], sound.rateHz));
}

/** Interleaved PCM16 WAV of the channels given. */
export function wavOf(channels: readonly Float64Array[], sampleRateHz: number): Buffer {
  const frames = channels[0]?.length ?? 0;
  const file = Buffer.alloc(44 + frames * channels.length * 2);
  file.write('RIFF', 0, 'latin1');
  file.writeUInt32LE(file.length - 8, 4);
  file.write('WAVEfmt ', 8, 'latin1');
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(channels.length, 22);
  file.writeUInt32LE(sampleRateHz, 24);
  file.writeUInt32LE(sampleRateHz * channels.length * 2, 28);
  file.writeUInt16LE(channels.length * 2, 32);
  file.writeUInt16LE(16, 34);
  file.write('data', 36, 'latin1');
  file.writeUInt32LE(file.length - 44, 40);
  channels.forEach((channel, index) => {
    channel.forEach((sample, n) => {
      const value = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
      file.writeInt16LE(value, 44 + (n * channels.length + index) * 2);
    });
  });
  return file;
}

export function sine(hz: number, rateHz: number, durationMs: number, level = 0.5): Float64Array {
  return Float64Array.from(
    { length: Math.round((rateHz * durationMs) / 1000) },
    (_, index) => level * Math.sin((2 * Math.PI * hz * index) / rateHz),
  );
}

export function tone(hz: number, seconds: number, rateHz = 8000, level = 0.3): Sound {
  return { rateHz, samples: sine(hz, rateHz, seconds * 1000, level) };
}

/** Share of the sound's power at `hz` (over blocks of 50 ms, averaged over those heard). */
export function toneShare(sound: Sound, hz: number): number {
  const block = Math.round(sound.rateHz / 20);
  let share = 0;
  let heard = 0;
  for (let start = 0; start + block <= sound.samples.length; start += block) {
    const piece = sound.samples.subarray(start, start + block);
    if (energyOf(piece) / block < 1e-5) continue;
    heard += 1;
    share += shareAt(piece, sound.rateHz, hz);
  }
  return heard === 0 ? 0 : share / heard;
}

/** Share of the energy of `samples` that lies at `hz` (Goertzel), 0..1. */
export function shareAt(samples: Float64Array, rateHz: number, hz: number): number {
  const coefficient = 2 * Math.cos((2 * Math.PI * hz) / rateHz);
  let before = 0;
  let last = 0;
  for (const value of samples) {
    const next = value + coefficient * last - before;
    before = last;
    last = next;
  }
  const power = last * last + before * before - coefficient * last * before;
  const energy = energyOf(samples);
  return energy === 0 ? 0 : (2 * power) / (samples.length * energy);
}

function energyOf(samples: Float64Array): number {
  return samples.reduce((sum, value) => sum + value * value, 0);
}

export function rms(sound: Sound): number {
  const { samples } = sound;
  if (samples.length === 0) return 0;
  return Math.sqrt(energyOf(samples) / samples.length);
}

/** Linear interpolation: enough to compare speech below 3.4 kHz, not to listen to. */
function resample(sound: Sound, rateHz: number): Sound {
  if (sound.rateHz === rateHz) return sound;
  const step = sound.rateHz / rateHz;
  const width = Math.max(1, Math.round(step));
  const samples = Float64Array.from(
    { length: Math.floor(sound.samples.length / step) },
    (_, index) => {
      let sum = 0;
      const start = Math.floor(index * step);
      for (let offset = 0; offset < width; offset++) sum += sound.samples[start + offset] ?? 0;
      return sum / width;
    },
  );
  return { rateHz, samples };
}

export interface Match {
  /** Normalised cross-correlation at the best alignment, -1..1. */
  readonly correlation: number;
  /** Where `part` begins in `whole`, ms. */
  readonly offsetMs: number;
}

/**
 * Looks for `part` in `whole`: coarse by 5 ms energy envelope, then fine by samples. Both at 8 kHz.
 * Speech against other speech or noise stays below 0.3; against itself through G.711 above 0.95.
 */
export function find(whole: Sound, part: Sound): Match {
  const haystack = resample(whole, 8000).samples;
  const needle = resample(part, 8000).samples;
  if (needle.length === 0 || haystack.length < needle.length / 2)
    return { correlation: 0, offsetMs: 0 };
  const best = { correlation: 0, offset: 0 };
  for (const coarse of envelopeCandidates(haystack, needle)) {
    for (let offset = coarse - 60; offset <= coarse + 60; offset++) {
      const correlation = correlationAt(haystack, needle, offset);
      if (correlation > best.correlation) Object.assign(best, { correlation, offset });
    }
  }
  return { correlation: best.correlation, offsetMs: best.offset / 8 };
}

const ENVELOPE_STEP = 40;
const CANDIDATES = 12;

function envelope(samples: Float64Array): Float64Array {
  const length = Math.floor(samples.length / ENVELOPE_STEP);
  const out = new Float64Array(length);
  let mean = 0;
  for (let index = 0; index < length; index++) {
    let sum = 0;
    for (let at = 0; at < ENVELOPE_STEP; at++)
      sum += Math.abs(samples[index * ENVELOPE_STEP + at] ?? 0);
    out[index] = sum;
    mean += sum / length;
  }
  return out.map((value) => value - mean);
}

function envelopeCandidates(haystack: Float64Array, needle: Float64Array): number[] {
  const long = envelope(haystack);
  const short = envelope(needle);
  const scores: { offset: number; score: number }[] = [];
  for (let shift = -Math.floor(short.length / 4); shift < long.length - short.length / 2; shift++) {
    scores.push({ offset: shift * ENVELOPE_STEP, score: correlationAt(long, short, shift) });
  }
  scores.sort((a, b) => b.score - a.score);
  return scores.slice(0, CANDIDATES).map((entry) => entry.offset);
}

/** Best normalised correlation of `heard` with `wanted` over shifts of 0..`shiftMax` samples. */
export function likeness(
  wanted: Float64Array,
  heard: Float64Array,
  shiftMax: number,
): { score: number; shift: number } {
  let best = { score: 0, shift: 0 };
  for (let shift = 0; shift <= shiftMax && heard.length - shift > wanted.length / 2; shift += 1) {
    const score = correlationAt(heard, wanted, shift);
    if (score > best.score) best = { score, shift };
  }
  return best;
}

/** Samples beyond the end of `haystack` count as silence. */
function correlationAt(haystack: Float64Array, needle: Float64Array, offset: number): number {
  let cross = 0;
  let left = 0;
  let right = 0;
  for (let index = 0; index < needle.length; index++) {
    const a = haystack[offset + index] ?? 0;
    const b = needle[index] ?? 0;
    cross += a * b;
    left += a * a;
    right += b * b;
  }
  return left === 0 || right === 0 ? 0 : cross / Math.sqrt(left * right);
}

/**
 * Segmental SNR in dB: per 20 ms segment that holds speech, gain-matched, clamped to -10..35 as
 * usual, averaged. `offsetMs` from `find`.
 */
export function segmentalSnr(whole: Sound, part: Sound, offsetMs: number): number {
  const heard = resample(whole, 8000).samples;
  const sent = resample(part, 8000).samples;
  const start = Math.round(offsetMs * 8);
  const values: number[] = [];
  for (let at = 0; at + 160 <= sent.length; at += 160) {
    let cross = 0;
    let power = 0;
    for (let index = at; index < at + 160; index++) {
      cross += (heard[start + index] ?? 0) * (sent[index] ?? 0);
      power += (sent[index] ?? 0) ** 2;
    }
    if (power / 160 < 1e-4) continue;
    const gain = cross / power;
    let noise = 1e-12;
    for (let index = at; index < at + 160; index++) {
      noise += ((heard[start + index] ?? 0) - gain * (sent[index] ?? 0)) ** 2;
    }
    values.push(Math.max(-10, Math.min(35, 10 * Math.log10((gain * gain * power) / noise))));
  }
  return values.length === 0 ? -10 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

const ULAW_DECODE = Float64Array.from({ length: 256 }, (_, code) => {
  const bits = ~code & 0xff;
  const magnitude = (((bits & 0x0f) << 3) + 0x84) << ((bits & 0x70) >> 4);
  return ((bits & 0x80) !== 0 ? 0x84 - magnitude : magnitude - 0x84) / 32768;
});

export function decodeUlaw(payload: Uint8Array): Float64Array {
  return Float64Array.from(payload, (code) => ULAW_DECODE[code] ?? 0);
}

export function encodeUlaw(samples: Float64Array): Uint8Array {
  return Uint8Array.from(samples, (value) => {
    const sample = Math.max(-32635, Math.min(32635, Math.round(value * 32767)));
    const sign = sample < 0 ? 0x80 : 0;
    const biased = Math.abs(sample) + 0x84;
    const exponent = Math.max(0, 31 - Math.clz32(biased) - 7);
    const mantissa = (biased >> (exponent + 3)) & 0x0f;
    return ~(sign | (exponent << 4) | mantissa) & 0xff;
  });
}
