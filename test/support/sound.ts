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

export function readWav(path: string): Sound {
  const channels = readWavChannels(path);
  return { rateHz: channels.rateHz, samples: channels.channels[0] ?? new Float64Array() };
}

function readWavChannels(path: string): { rateHz: number; channels: Float64Array[] } {
  const data = readFileSync(path);
  let rateHz = 8000;
  let count = 1;
  for (let at = 12; at + 8 <= data.length; ) {
    const id = data.toString('latin1', at, at + 4);
    const size = data.readUInt32LE(at + 4);
    if (id === 'fmt ') {
      count = data.readUInt16LE(at + 10);
      rateHz = data.readUInt32LE(at + 12);
    } else if (id === 'data') {
      const end = Math.min(data.length, at + 8 + size);
      const frames = Math.floor((end - at - 8) / (2 * count));
      const channels = Array.from({ length: count }, () => new Float64Array(frames));
      for (let frame = 0; frame < frames; frame++) {
        for (let channel = 0; channel < count; channel++) {
          const value = data.readInt16LE(at + 8 + 2 * (frame * count + channel)) / 32768;
          (channels[channel] as Float64Array)[frame] = value;
        }
      }
      return { rateHz, channels };
    }
    at += 8 + size + (size & 1);
  }
  return { rateHz, channels: [new Float64Array()] };
}

export function writeWav(path: string, sound: Sound): void {
  const bytes = sound.samples.length * 2;
  const data = Buffer.alloc(44 + bytes);
  data.write('RIFF', 0, 'latin1');
  data.writeUInt32LE(36 + bytes, 4);
  data.write('WAVEfmt ', 8, 'latin1');
  data.writeUInt32LE(16, 16);
  data.writeUInt16LE(1, 20);
  data.writeUInt16LE(1, 22);
  data.writeUInt32LE(sound.rateHz, 24);
  data.writeUInt32LE(sound.rateHz * 2, 28);
  data.writeUInt16LE(2, 32);
  data.writeUInt16LE(16, 34);
  data.write('data', 36, 'latin1');
  data.writeUInt32LE(bytes, 40);
  sound.samples.forEach((value, index) => {
    data.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(value * 32767))), 44 + 2 * index);
  });
  writeFileSync(path, data);
}

export function tone(hz: number, seconds: number, rateHz = 8000, level = 0.3): Sound {
  const samples = Float64Array.from(
    { length: Math.round(seconds * rateHz) },
    (_, index) => level * Math.sin((2 * Math.PI * hz * index) / rateHz),
  );
  return { rateHz, samples };
}

/** Share of the sound's power at `hz` (Goertzel over blocks of 50 ms, averaged over those heard). */
export function toneShare(sound: Sound, hz: number): number {
  const block = Math.round(sound.rateHz / 20);
  let share = 0;
  let heard = 0;
  for (let start = 0; start + block <= sound.samples.length; start += block) {
    const piece = sound.samples.subarray(start, start + block);
    const power = piece.reduce((sum, value) => sum + value * value, 0);
    if (power / block < 1e-5) continue;
    heard += 1;
    share += (2 * goertzel(piece, hz, sound.rateHz)) / (block * power);
  }
  return heard === 0 ? 0 : share / heard;
}

function goertzel(samples: Float64Array, hz: number, rateHz: number): number {
  const coefficient = 2 * Math.cos((2 * Math.PI * hz) / rateHz);
  let before = 0;
  let last = 0;
  for (const value of samples) {
    const next = value + coefficient * last - before;
    before = last;
    last = next;
  }
  return last * last + before * before - coefficient * last * before;
}

export function rms(sound: Sound): number {
  const { samples } = sound;
  if (samples.length === 0) return 0;
  return Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
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
