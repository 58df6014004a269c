/**
 * Ears for tests: reads WAV files, decodes mu-law, and says how alike two sounds are and how loud
 * a frequency is. Independent of the engine under test on purpose.
 */
import { readFileSync } from 'node:fs';

export interface Sound {
  readonly sampleRateHz: number;
  /** One array per channel, -1…1. */
  readonly channels: readonly Float64Array[];
}

export function readWav(path: string): Sound {
  const file = readFileSync(path);
  let at = 12;
  let sampleRateHz = 0;
  let count = 1;
  while (at + 8 <= file.length) {
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
  return { sampleRateHz, channels: [new Float64Array(0)] };
}

export function firstChannel(sound: Sound): Float64Array {
  return sound.channels[0] ?? new Float64Array(0);
}

/** ITU-T G.711 mu-law. */
export function decodeMuLaw(bytes: Uint8Array): Float64Array {
  return Float64Array.from(bytes, (byte) => {
    const code = ~byte & 0xff;
    const magnitude = (((code & 0x0f) << 3) + 0x84) << ((code >> 4) & 7);
    return ((code & 0x80 ? -1 : 1) * (magnitude - 0x84)) / 32768;
  });
}

export function encodeMuLaw(samples: Float64Array): Uint8Array {
  return Uint8Array.from(samples, (sample) => {
    const value = Math.max(-32635, Math.min(32635, Math.round(sample * 32768)));
    const magnitude = Math.abs(value) + 0x84;
    const exponent = Math.max(0, 31 - Math.clz32(magnitude) - 7);
    const mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    return ~((value < 0 ? 0x80 : 0) | (exponent << 4) | mantissa) & 0xff;
  });
}

/** Best normalized correlation of `heard` with `wanted` over shifts of 0…`shiftMax` samples. */
export function likeness(
  wanted: Float64Array,
  heard: Float64Array,
  shiftMax: number,
): { score: number; shift: number } {
  let best = { score: 0, shift: 0 };
  for (let shift = 0; shift <= shiftMax; shift += 1) {
    const length = Math.min(wanted.length, heard.length - shift);
    if (length < wanted.length / 2) break;
    let cross = 0;
    let energyA = 0;
    let energyB = 0;
    for (let n = 0; n < length; n += 1) {
      const a = wanted[n] ?? 0;
      const b = heard[n + shift] ?? 0;
      cross += a * b;
      energyA += a * a;
      energyB += b * b;
    }
    const score = cross / Math.sqrt(energyA * energyB || 1);
    if (score > best.score) best = { score, shift };
  }
  return best;
}

/** Share of the energy of `samples` that lies at `hz` (Goertzel), 0…1. */
export function shareAt(samples: Float64Array, sampleRateHz: number, hz: number): number {
  const coefficient = 2 * Math.cos((2 * Math.PI * hz) / sampleRateHz);
  let s1 = 0;
  let s2 = 0;
  let energy = 0;
  for (const sample of samples) {
    const s0 = sample + coefficient * s1 - s2;
    s2 = s1;
    s1 = s0;
    energy += sample * sample;
  }
  const power = s1 * s1 + s2 * s2 - coefficient * s1 * s2;
  return energy === 0 ? 0 : (2 * power) / (samples.length * energy);
}

export function sine(hz: number, sampleRateHz: number, durationMs: number, level = 0.5) {
  const samples = new Float64Array(Math.round((sampleRateHz * durationMs) / 1000));
  for (let n = 0; n < samples.length; n += 1) {
    samples[n] = level * Math.sin((2 * Math.PI * hz * n) / sampleRateHz);
  }
  return samples;
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
      file.writeInt16LE(Math.round(sample * 32767), 44 + (n * channels.length + index) * 2);
    });
  });
  return file;
}
