/**
 * Audio files through ffmpeg: anything a `<Play>` may name to the WAV the media engine reads, and
 * recordings to MP3. One short-lived child per job, never more than a few, never for long.
 *
 * The input is hostile until proven otherwise (a playlist that names local files, a bomb that
 * unpacks to terabytes), so the child gets bytes on its standard input and nothing else: the
 * demuxer is forced to the format we recognized, only decoders of that list may run, its only
 * protocol is the pipe, its memory, time and length are bounded (`confine.ts`), and we write the
 * file ourselves.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { constants, setPriority } from 'node:os';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { confine, NOT_STARTED } from './confine.ts';
import { claimedRateHz, RATE_HEAD_BYTES } from './source-rate.ts';

export type AudioFormat = 'mp3' | 'wav' | 'aiff' | 'gsm' | 'mulaw' | 'au' | 'ogg';
export type SampleRateHz = 8000 | 16000;

/** What ffmpeg is told of each: its demuxer, the decoders that may run, what raw formats lack. */
const FORMATS: Record<AudioFormat, { readonly codecs: string; readonly input: readonly string[] }> =
  {
    mp3: { codecs: 'mp3float,mp3,mp2float,mp2', input: [] },
    wav: {
      codecs:
        'pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_alaw,pcm_mulaw,' +
        'adpcm_ms,adpcm_ima_wav,gsm_ms,mp3float,mp3',
      input: [],
    },
    aiff: {
      codecs: 'pcm_s8,pcm_u8,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s32be,pcm_f32be,pcm_alaw,pcm_mulaw',
      input: [],
    },
    gsm: { codecs: 'gsm', input: ['-sample_rate', '8000'] },
    mulaw: { codecs: 'pcm_mulaw', input: ['-sample_rate', '8000'] },
    au: { codecs: 'pcm_mulaw,pcm_alaw,pcm_s8,pcm_s16be', input: [] },
    ogg: { codecs: 'libopus,opus,vorbis,flac', input: [] },
  };

const CONTENT_TYPES: Readonly<Record<string, AudioFormat>> = {
  'audio/mpeg': 'mp3',
  'audio/mp3': 'mp3',
  'audio/x-mp3': 'mp3',
  'audio/mpeg3': 'mp3',
  'audio/wav': 'wav',
  'audio/wave': 'wav',
  'audio/x-wav': 'wav',
  'audio/vnd.wave': 'wav',
  'audio/aiff': 'aiff',
  'audio/x-aiff': 'aiff',
  'audio/x-aifc': 'aiff',
  'audio/gsm': 'gsm',
  'audio/x-gsm': 'gsm',
  'audio/ulaw': 'mulaw',
  'audio/basic': 'mulaw',
  'audio/pcmu': 'mulaw',
  'audio/ogg': 'ogg',
  'audio/opus': 'ogg',
  'application/ogg': 'ogg',
};
/** Says nothing: the first bytes decide. */
const VAGUE_TYPES = ['', 'application/octet-stream', 'binary/octet-stream', 'audio/unknown'];

/**
 * The format of an audio file, by its first bytes where it has any mark, else by its content type;
 * null for what is no audio we play. Headerless formats (GSM, mu-law) exist only by their type.
 */
export function recognizeFormat(head: Buffer, contentType: string): AudioFormat | null {
  const type = (contentType.split(';')[0] ?? '').trim().toLowerCase();
  const declared = CONTENT_TYPES[type] ?? null;
  if (declared === null && !VAGUE_TYPES.includes(type) && !type.startsWith('audio/')) return null;
  const text = head.toString('latin1', 0, 12);
  if (/^(RIFF|RIFX|RF64)....WAVE/s.test(text)) return 'wav';
  if (/^FORM....AIF[FC]/s.test(text)) return 'aiff';
  if (text.startsWith('OggS')) return 'ogg';
  if (text.startsWith('.snd')) return 'au';
  if (text.startsWith('ID3')) return 'mp3';
  const sync = head.length >= 2 ? head.readUInt16BE(0) : 0;
  // MPEG audio: eleven ones, a version and a layer that are not reserved (ISO 11172-3 §2.4.2.3).
  const isFrame = (sync & 0xffe0) === 0xffe0 && (sync & 0x0018) !== 0x0008 && (sync & 0x0006) !== 0;
  if (isFrame && declared !== 'mulaw' && declared !== 'gsm') return 'mp3';
  // An MP3 may begin with rubbish before its first frame; the headerless formats always do.
  return declared === 'gsm' || declared === 'mulaw' || declared === 'mp3' ? declared : null;
}

export interface TranscoderOptions {
  readonly command: string;
  /** Children at one time. */
  readonly jobsMax: number;
  readonly queueDepthMax: number;
  /** From start of the child to its end. */
  readonly timeoutMs: number;
  readonly cpuSecondsMax: number;
  /** Memory of the child beyond its program and libraries, and its largest single allocation. */
  readonly memoryBytesMax: number;
  /** Longest audio that is played. */
  readonly durationMsMax: number;
  /** Largest MP3 of a recording. */
  readonly renditionBytesMax: number;
  /** Rates a file may claim: telephones' lowest to the highest anybody records at. */
  readonly sourceRateHzMin: number;
  readonly sourceRateHzMax: number;
}

export const DEFAULT_TRANSCODER_OPTIONS: TranscoderOptions = {
  command: 'ffmpeg',
  jobsMax: 2,
  queueDepthMax: 256,
  timeoutMs: 10_000,
  cpuSecondsMax: 10,
  memoryBytesMax: 268_435_456,
  durationMsMax: 3_600_000, // 115 MB at 16 kHz
  renditionBytesMax: 134_217_728,
  sourceRateHzMin: 4_000,
  sourceRateHzMax: 192_000,
};

export interface AudioFile {
  readonly path: string;
  readonly durationMs: number;
  readonly bytes: number;
}

/** Jobs that run a child: some at a time, the others wait, too many are refused. */
export class JobPool {
  readonly #options: { readonly jobsMax: number; readonly queueDepthMax: number };
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(options: { jobsMax: number; queueDepthMax: number }) {
    this.#options = options;
  }

  get depth(): number {
    return this.#waiting.length;
  }

  async run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    if (this.#running < this.#options.jobsMax) this.#running += 1;
    else await this.#wait(signal);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }

  /** Resolves with the place of a job that ended. */
  #wait(signal?: AbortSignal): Promise<void> {
    const depth = this.#waiting.length;
    if (depth >= this.#options.queueDepthMax) throw new GatewayError('QUEUE_FULL', { depth });
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal?.removeEventListener('abort', leave);
        resolve();
      };
      const leave = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(go), 1);
        reject(signal?.reason);
      };
      this.#waiting.push(go);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }
}

/** Why a child was stopped, or null when it ended well. */
type JobFailure = 'timeout' | 'too long' | 'too much' | 'no audio' | null;

interface Job {
  readonly input: string | Buffer;
  readonly output: string;
  readonly args: readonly string[];
  readonly header: Buffer;
  /** What errors call the source. */
  readonly subject: string;
  readonly outputBytesMax: number;
}

export class Transcoder {
  readonly #clock: Clock;
  readonly #options: TranscoderOptions;
  readonly #pool: JobPool;
  readonly #children = new Set<ChildProcess>();

  constructor(parts: { clock: Clock; options: TranscoderOptions }) {
    this.#clock = parts.clock;
    this.#options = parts.options;
    this.#pool = new JobPool(parts.options);
  }

  /**
   * PCM16 mono WAV at `sampleRateHz` in `output`, which appears whole or not at all.
   * `subject` names the source in errors: PLAY_CONTENT when it cannot be decoded.
   */
  toWav(
    job: {
      input: string | Buffer;
      format: AudioFormat;
      sampleRateHz: SampleRateHz;
      output: string;
      subject: string;
    },
    signal?: AbortSignal,
  ): Promise<AudioFile> {
    const { codecs, input } = FORMATS[job.format];
    const args = [
      ...['-codec_whitelist', codecs, '-protocol_whitelist', 'pipe', '-f', job.format, ...input],
      ...['-i', 'pipe:0', '-map', '0:a:0', '-vn', '-sn', '-dn', '-map_metadata', '-1'],
      ...['-ac', '1', '-ar', String(job.sampleRateHz), '-f', 's16le', 'pipe:1'],
    ];
    const outputBytesMax = (this.#options.durationMsMax * job.sampleRateHz * 2) / 1000;
    return this.#pool.run(async () => {
      await this.#checkRate(job);
      const header = Buffer.alloc(WAV_HEADER_BYTES);
      const write: Job = { ...job, args, header, outputBytesMax };
      const bytes = await this.#write(write, signal, async (file, dataBytes) => {
        await file.write(wavHeader(dataBytes, job.sampleRateHz), 0, WAV_HEADER_BYTES, 0);
      });
      const durationMs = Math.round(((bytes - WAV_HEADER_BYTES) * 1000) / (job.sampleRateHz * 2));
      return { path: job.output, durationMs, bytes };
    }, signal);
  }

  /** A WAV of ours to MP3, mono 32 kbit/s or stereo 64. */
  toMp3(
    job: { input: string; output: string; channels: 1 | 2 },
    signal?: AbortSignal,
  ): Promise<{ path: string; bytes: number }> {
    const args = [
      ...['-codec_whitelist', FORMATS.wav.codecs, '-protocol_whitelist', 'pipe', '-f', 'wav'],
      ...['-i', 'pipe:0', '-map', '0:a:0', '-c:a', 'libmp3lame', '-b:a'],
      ...[job.channels === 2 ? '64k' : '32k', '-write_xing', '0', '-f', 'mp3', 'pipe:1'],
    ];
    return this.#pool.run(async () => {
      const write: Job = {
        ...job,
        args,
        header: Buffer.alloc(0),
        subject: 'recording',
        outputBytesMax: this.#options.renditionBytesMax,
      };
      const bytes = await this.#write(write, signal, async () => {});
      return { path: job.output, bytes };
    }, signal);
  }

  /** Kills what runs. Idempotent. */
  async close(): Promise<void> {
    const ends = [...this.#children].map((child) => once(child, 'close'));
    for (const child of this.#children) child.kill('SIGKILL');
    await Promise.all(ends);
  }

  async #checkRate(job: { input: string | Buffer; subject: string }): Promise<void> {
    const { sourceRateHzMin, sourceRateHzMax } = this.#options;
    const rateHz = claimedRateHz(await headOf(job.input));
    if (rateHz === null || (rateHz >= sourceRateHzMin && rateHz <= sourceRateHzMax)) return;
    const problem = `a sample rate of ${rateHz} Hz is not within ${sourceRateHzMin}..${sourceRateHzMax}`;
    throw new GatewayError('PLAY_CONTENT', { url: job.subject, problem });
  }

  /** Runs the child into a file beside `output`; renames it when all went well. */
  async #write(
    job: Job,
    signal: AbortSignal | undefined,
    finish: (file: FileHandle, dataBytes: number) => Promise<void>,
  ): Promise<number> {
    const partial = `${job.output}.${this.#clock.randomHex(4)}.part`;
    try {
      const file = await open(partial, 'wx', 0o600);
      let bytes = job.header.length;
      try {
        await file.write(job.header);
        bytes += await this.#child(job, file, signal);
        await finish(file, bytes - job.header.length);
      } finally {
        await file.close();
      }
      await rename(partial, job.output);
      return bytes;
    } catch (thrown) {
      await rm(partial, { force: true });
      const code = (thrown as NodeJS.ErrnoException).code ?? '';
      if (code !== 'ENOSPC' && code !== 'EDQUOT') throw thrown;
      throw new GatewayError('DISK_FULL', { path: job.output }, { cause: thrown as Error });
    }
  }

  async #child(job: Job, file: FileHandle, signal: AbortSignal | undefined): Promise<number> {
    const { command, timeoutMs, memoryBytesMax } = this.#options;
    const fixed = ['-nostdin', '-hide_banner', '-loglevel', 'error', '-threads', '1'];
    const alone = ['-max_alloc', String(memoryBytesMax)];
    const confined = await confine(command, [...fixed, ...alone, ...job.args], this.#options);
    signal?.throwIfAborted();
    const child = spawn(confined.command, confined.args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH ?? '', LANG: 'C' },
    });
    this.#children.add(child);
    const ended = closed(child);
    yieldToAudio(child);
    let failure: JobFailure = null;
    const stop = (why: JobFailure): void => {
      failure ??= why;
      child.kill('SIGKILL');
    };
    const timer = this.#clock.timer(timeoutMs, () => stop('timeout'));
    const onAbort = (): void => stop('timeout');
    signal?.addEventListener('abort', onAbort, { once: true });
    const fed = feed(job.input, child);
    const heard = complaint(child.stderr);
    try {
      const bytes = await drain(child.stdout, file, job.outputBytesMax, () => stop('too long'));
      const exitCode = await ended;
      signal?.throwIfAborted();
      if (exitCode !== null && NOT_STARTED.has(exitCode)) {
        throw new GatewayError('INTERNAL', { problem: heard() });
      }
      // A signal that is not ours is the kernel's: a limit was reached.
      if (exitCode === null) failure ??= 'too much';
      else if (exitCode !== 0 || bytes === 0) failure ??= 'no audio';
      await fed;
      if (failure === null) return bytes;
      throw this.#refused(job, failure, heard());
    } finally {
      timer.cancel();
      signal?.removeEventListener('abort', onAbort);
      child.kill('SIGKILL');
      await ended.catch(() => undefined);
      this.#children.delete(child);
    }
  }

  #refused(job: Job, failure: NonNullable<JobFailure>, said: string): GatewayError {
    const { timeoutMs, durationMsMax } = this.#options;
    const problems = {
      timeout: `not decoded within ${timeoutMs} ms`,
      'too long': `longer than ${durationMsMax / 1000} s or ${job.outputBytesMax} bytes`,
      'too much': 'it takes more time or memory than a file may',
      'no audio': said || 'it holds no audio',
    };
    return new GatewayError('PLAY_CONTENT', { url: job.subject, problem: problems[failure] });
  }
}

async function headOf(input: string | Buffer): Promise<Buffer> {
  if (typeof input !== 'string') return input.subarray(0, RATE_HEAD_BYTES);
  const file = await open(input, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(RATE_HEAD_BYTES), 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Rejects when the program cannot be started, which is our fault and not the file's. */
function closed(child: ChildProcess): Promise<number | null> {
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', (error) => {
      reject(new GatewayError('INTERNAL', { problem: error.message }, { cause: error }));
    });
    child.once('close', (code) => resolve(code));
  });
  ended.catch(() => undefined);
  return ended;
}

/** Transcoding may wait; the audio of live calls may not. */
function yieldToAudio(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    setPriority(child.pid, constants.priority.PRIORITY_LOW);
  } catch {
    // It ended already, or the system does not let us: it is only a courtesy.
  }
}

/** A child that has seen enough closes its input: no failure of ours. */
async function feed(input: string | Buffer, child: ChildProcess): Promise<void> {
  const stdin = child.stdin;
  if (stdin === null) return;
  stdin.on('error', () => undefined);
  if (typeof input !== 'string') {
    stdin.end(input);
    return;
  }
  try {
    await pipeline(createReadStream(input), stdin);
  } catch (thrown) {
    const code = (thrown as NodeJS.ErrnoException).code ?? '';
    if (!['EPIPE', 'ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET'].includes(code)) throw thrown;
  }
}

async function drain(
  stdout: Readable | null,
  file: FileHandle,
  bytesMax: number,
  tooLong: () => void,
): Promise<number> {
  let bytes = 0;
  for await (const chunk of (stdout ?? []) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bytesMax) {
      tooLong();
      break;
    }
    await file.write(chunk);
  }
  return bytes;
}

/** The first line the child complains with, without anything it repeats of its input. */
function complaint(stderr: Readable | null): () => string {
  let text = '';
  stderr?.on('data', (chunk: Buffer) => {
    if (text.length < 512) text += chunk.toString('latin1');
  });
  return () => (text.split('\n')[0] ?? '').replace(/[^ -~]/g, '').slice(0, 200);
}

const WAV_HEADER_BYTES = 44;

/** Canonical header of PCM16 mono (RIFF WAVE, format 1). */
function wavHeader(dataBytes: number, sampleRateHz: number): Buffer {
  const header = Buffer.alloc(WAV_HEADER_BYTES);
  header.write('RIFF', 0, 'latin1');
  header.writeUInt32LE(dataBytes + WAV_HEADER_BYTES - 8, 4);
  header.write('WAVEfmt ', 8, 'latin1');
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(sampleRateHz, 24);
  header.writeUInt32LE(sampleRateHz * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write('data', 36, 'latin1');
  header.writeUInt32LE(dataBytes, 40);
  return header;
}
