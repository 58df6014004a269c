/**
 * Prompts, speech and recordings with the real ffmpeg and espeak-ng: what comes out is listened to.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { FetchMedia, MediaResponse } from '../src/assets/fetch.ts';
import { freshnessOf } from '../src/assets/freshness.ts';
import { DEFAULT_LIBRARY_OPTIONS, Library, type LibraryOptions } from '../src/assets/library.ts';
import { DEFAULT_RECORDINGS_OPTIONS, Recordings } from '../src/assets/recordings.ts';
import { claimedRateHz } from '../src/assets/source-rate.ts';
import { DEFAULT_SPEECH_OPTIONS, EspeakSpeech, type SpeechNode } from '../src/assets/speech.ts';
import {
  DEFAULT_TRANSCODER_OPTIONS,
  JobPool,
  recognizeFormat,
  Transcoder,
  type TranscoderOptions,
} from '../src/assets/transcoder.ts';
import { resolveVoice } from '../src/assets/voices.ts';
import { type Clock, realClock } from '../src/core/clock.ts';
import { asGatewayError, GatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import { AccountPrompts } from '../src/verbs/prompts.ts';
import {
  encodeUlaw,
  firstChannel,
  likeness,
  readChannels,
  shareAt,
  sine,
  wavOf,
} from './support/sound.ts';

const MEDIA = new URL('../../shared/data/media/', import.meta.url).pathname;
const RATE_HZ = 8000;

function makeTranscoder(options: Partial<TranscoderOptions> = {}): Transcoder {
  return new Transcoder({
    clock: realClock,
    options: { ...DEFAULT_TRANSCODER_OPTIONS, ...options },
  });
}

function makeSpeech(): EspeakSpeech {
  return new EspeakSpeech({ clock: realClock, options: DEFAULT_SPEECH_OPTIONS });
}

/** The code a promise ends with. */
async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (thrown) => asGatewayError(thrown).code,
  );
}

t.test('formats are told by their first bytes, headerless ones by their type', async (t) => {
  const head = (text: string): Buffer => Buffer.from(text, 'latin1');

  t.equal(recognizeFormat(head('RIFF\x10\0\0\0WAVEfmt '), 'audio/mpeg'), 'wav');
  t.equal(recognizeFormat(head('FORM\0\0\0\x10AIFF'), 'audio/x-aiff'), 'aiff');
  t.equal(recognizeFormat(head('OggS\0\x02'), ''), 'ogg');
  t.equal(recognizeFormat(head('ID3\x04'), 'application/octet-stream'), 'mp3');
  t.equal(recognizeFormat(head('\xff\xfb\x90\x44'), 'audio/mpeg'), 'mp3');
  t.equal(recognizeFormat(head('\xff\xff\xff\xff'), 'audio/ulaw'), 'mulaw');
  t.equal(recognizeFormat(head('\xd2\x9c'), 'audio/x-gsm'), 'gsm');
  t.equal(recognizeFormat(head('<html>'), 'text/html'), null);
  t.equal(recognizeFormat(head('RIFF\x10\0\0\0WAVEfmt '), 'text/html'), null);
  t.equal(recognizeFormat(head('#EXTM3U\n'), 'audio/mpegurl'), null);
  t.equal(recognizeFormat(head('RIFF\x10\0\0\0AVI '), 'application/octet-stream'), null);
});

t.test('every format a <Play> may name sounds like its source', async (t) => {
  const directory = t.testdir();
  const transcoder = makeTranscoder();
  const tone = sine(440, RATE_HZ, 1200);
  const wav = wavOf([tone], RATE_HZ);
  const source = join(directory, 'source.wav');
  writeFileSync(source, wav);
  const mp3 = await transcoder.toMp3({
    input: source,
    output: join(directory, 'a.mp3'),
    channels: 1,
  });
  const inputs = [
    { format: 'wav', input: wav },
    { format: 'mp3', input: readFileSync(mp3.path) },
    { format: 'mulaw', input: Buffer.from(encodeUlaw(tone)) },
  ] as const;

  for (const { format, input } of inputs) {
    for (const sampleRateHz of [8000, 16000] as const) {
      const output = join(directory, `${format}-${sampleRateHz}.wav`);
      const file = await transcoder.toWav({ input, format, sampleRateHz, output, subject: format });
      const sound = readChannels(file.path);

      t.equal(sound.sampleRateHz, sampleRateHz);
      t.equal(sound.channels.length, 1);
      // An MP3 from a pipe has no place to say how much its encoder added at both ends.
      t.ok(
        Math.abs(file.durationMs - 1200) < (format === 'mp3' ? 250 : 10),
        `${file.durationMs} ms`,
      );
      const middle = firstChannel(sound).subarray(sampleRateHz / 4, sampleRateHz);
      t.ok(
        shareAt(middle, sampleRateHz, 440) > 0.98,
        `${format} at ${sampleRateHz} is a clean 440 Hz`,
      );
      t.equal(statSync(file.path).mode & 0o777, 0o600, 'nobody else may read it');
    }
  }
  t.same(
    readdirSync(directory).filter((name) => name.endsWith('.part')),
    [],
  );
});

t.test('an Opus file of real speech is the speech', { skip: !existsSync(MEDIA) }, async (t) => {
  const directory = t.testdir();
  const input = readFileSync(`${MEDIA}speech-en.opus`);
  const output = join(directory, 'speech.wav');
  const wanted = firstChannel(readChannels(`${MEDIA}speech-en-8k.wav`)).subarray(8000, 24000);

  const job = { input, format: 'ogg', sampleRateHz: 8000, output, subject: 'speech' } as const;
  const file = await makeTranscoder().toWav(job);

  const heard = firstChannel(readChannels(file.path)).subarray(7900, 25000);
  t.ok(likeness(wanted, heard, 400).score > 0.8);
});

t.test('hostile and broken files are refused, and leave nothing behind', async (t) => {
  const directory = t.testdir();
  const secret = join(directory, 'secret.txt');
  writeFileSync(secret, 'secret');
  const playlist = `#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile://${secret}\n#EXT-X-ENDLIST\n`;
  const transcoder = makeTranscoder();
  const attempt = (input: Buffer, format: 'wav' | 'mp3'): Promise<string> => {
    const output = join(directory, 'out.wav');
    return codeOf(transcoder.toWav({ input, format, sampleRateHz: 8000, output, subject: 'x' }));
  };

  t.equal(await attempt(Buffer.from(playlist), 'wav'), 'PLAY_CONTENT');
  t.equal(await attempt(Buffer.from(playlist), 'mp3'), 'PLAY_CONTENT');
  t.equal(await attempt(Buffer.from('RIFF\xff\xff\xff\xffWAVE', 'latin1'), 'wav'), 'PLAY_CONTENT');
  t.equal(await attempt(Buffer.alloc(0), 'mp3'), 'PLAY_CONTENT');
  // A WAV whose format tag names a video codec's audio (AC-3) is not on the decoder list.
  const ac3 = wavOf([sine(440, 8000, 50)], 8000);
  ac3.writeUInt16LE(0x2000, 20);
  t.equal(await attempt(ac3, 'wav'), 'PLAY_CONTENT');
  t.same(readdirSync(directory), ['secret.txt']);
});

t.test('a decoder is stopped by time, by size and by its caller', async (t) => {
  const directory = t.testdir();
  const output = join(directory, 'out.wav');
  const long = { input: Buffer.alloc(4_000_000), format: 'mulaw', sampleRateHz: 16000 } as const;
  const job = { ...long, output, subject: 'bomb' };

  const tooLong = makeTranscoder({ durationMsMax: 3_000 }).toWav(job);
  t.match(await tooLong.catch((error) => error.message), /longer than 3 s/);
  const slow = makeTranscoder({ timeoutMs: 1 }).toWav(job);
  t.match(await slow.catch((error) => error.message), /within 1 ms/);
  const given = new AbortController();
  const left = makeTranscoder().toWav(job, given.signal);
  setImmediate(() => given.abort(new GatewayError('CALL_CANCELED')));
  t.equal(await codeOf(left), 'CALL_CANCELED');
  const missing = makeTranscoder({ command: 'no-such-program' }).toWav(job);
  t.equal(await codeOf(missing), 'INTERNAL');
  t.same(readdirSync(directory), []);
});

/** A hundred kB that claim to be `rateHz`: at 1 Hz more than a day of audio. */
function wavClaiming(rateHz: number): Buffer {
  const wav = wavOf([new Float64Array(50_000)], 8000);
  wav.writeUInt32LE(rateHz, 24);
  wav.writeUInt32LE((rateHz * 2) % 2 ** 32, 28);
  return wav;
}

t.test('a small WAV that claims one sample a second does not become gigabytes', async (t) => {
  const directory = t.testdir();
  const output = join(directory, 'out.wav');
  const job = { format: 'wav', sampleRateHz: 16000, output, subject: 'bomb' } as const;
  const source = join(directory, 'source.wav');
  writeFileSync(source, wavClaiming(1));

  for (const rateHz of [0, 1, 3_999, 192_001, 0xffffffff]) {
    const made = makeTranscoder().toWav({ ...job, input: wavClaiming(rateHz) });
    const message = await made.then(
      () => 'played',
      (error) => error.message,
    );
    t.match(message, `a sample rate of ${rateHz} Hz`);
  }
  t.equal(await codeOf(makeTranscoder().toWav({ ...job, input: source })), 'PLAY_CONTENT');
  // Where the claim is not seen, the child itself is bounded.
  const unseen = makeTranscoder({ sourceRateHzMin: 0, durationMsMax: 86_400_000 });
  t.equal(await codeOf(unseen.toWav({ ...job, input: wavClaiming(1) })), 'PLAY_CONTENT');
  t.equal((await makeTranscoder().toWav({ ...job, input: wavClaiming(44_100) })).durationMs, 1134);
});

t.test('the rate a file claims is found in every format that has one', async (t) => {
  const kinds: readonly (readonly string[])[] = [
    ['wav', 'pcm_s16le'],
    ['aiff', 'pcm_s16be'],
    ['au', 'pcm_mulaw'],
    ['ogg', 'flac'],
    ['ogg', 'vorbis', '-strict', '-2', '-ac', '2'],
  ];
  for (const [format = '', codec = '', ...more] of kinds) {
    const tone = ['-f', 'lavfi', '-i', 'sine=440:r=11025:d=0.1', '-c:a', codec, ...more];
    const args = ['-nostdin', '-loglevel', 'error', ...tone, '-f', format, 'pipe:1'];
    const { stdout } = spawnSync('ffmpeg', args);
    t.equal(claimedRateHz(stdout.subarray(0, 4096)), 11_025, `${format} ${codec}`);
  }
  t.equal(claimedRateHz(Buffer.from('ID3')), null);
  t.equal(claimedRateHz(Buffer.from('RIFF....WAVEfmt ')), null, 'cut short');
  t.equal(claimedRateHz(Buffer.from('FORM....AIFFCOMM')), null);
});

t.test('the decoder runs within bounds of memory and time, and writes no file', async (t) => {
  const directory = t.testdir();
  const command = join(directory, 'decoder');
  const asked = 'echo "$(ulimit -d) $(ulimit -t) $(ulimit -f) $(ulimit -c)" >&2; exit 1';
  writeFileSync(command, `#!/bin/sh\n${asked}\n`, { mode: 0o700 });
  const job = { input: Buffer.alloc(100), format: 'mulaw', sampleRateHz: 8000 } as const;
  const output = join(directory, 'out.wav');

  const made = makeTranscoder({ command }).toWav({ ...job, output, subject: 'x' });
  const message = await made.then(
    () => 'played',
    (error) => error.message,
  );
  t.match(message, /: 262144 10 0 0$/);

  writeFileSync(command, '#!/bin/sh\nkill -XCPU $$\n', { mode: 0o700 });
  const spent = makeTranscoder({ command }).toWav({ ...job, output, subject: 'x' });
  t.match(await spent.catch((error) => error.message), /more time or memory/);
});

t.test('jobs wait their turn, leave when given up, and too many are refused', async (t) => {
  const pool = new JobPool({ jobsMax: 1, queueDepthMax: 1 });
  const gate = Promise.withResolvers<void>();
  const given = new AbortController();
  let running = 0;
  const work = async (): Promise<void> => {
    running += 1;
    t.equal(running, 1);
    await gate.promise;
    running -= 1;
  };

  const first = pool.run(work);
  const second = pool.run(work, given.signal);
  t.equal(await codeOf(pool.run(work)), 'QUEUE_FULL');
  given.abort(new GatewayError('CALL_CANCELED'));
  t.equal(await codeOf(second), 'CALL_CANCELED');
  const third = pool.run(work);
  gate.resolve();
  await Promise.all([first, third]);
  t.equal(running, 0);
  t.equal(pool.depth, 0);
});

// --- Speech ---------------------------------------------------------------------------------------

t.test('voices that applications name become a language and a gender', async (t) => {
  t.same(resolveVoice('man', 'en-GB'), { language: 'en-gb', isMale: true });
  t.same(resolveVoice('woman', 'de-DE'), { language: 'de', isMale: false });
  t.same(resolveVoice('alice', 'zh-HK'), { language: 'yue', isMale: false });
  t.same(resolveVoice('Polly.Matthew-Neural', 'fr-FR'), { language: 'en-us', isMale: true });
  t.same(resolveVoice('Polly.Mía-Generative', ''), { language: 'es-419', isMale: false });
  t.same(resolveVoice('Polly.Unheard', 'it-IT'), { language: 'it', isMale: false });
  t.same(resolveVoice('Google.de-DE-Wavenet-B', 'en-US'), { language: 'de', isMale: true });
  t.same(resolveVoice('Google.cmn-CN-Chirp3-HD-Kore', ''), { language: 'cmn', isMale: false });
  t.same(resolveVoice('alice', 'tlh'), { language: 'en-us', isMale: false });
});

const say = (content: SpeechNode[], voice = '', language = '') => ({ content, voice, language });
const element = (
  name: string,
  attributes: Record<string, string>,
  ...children: SpeechNode[]
): SpeechNode => ({ name, attributes, children });

t.test('markup is built from a list and text cannot become markup', async (t) => {
  const speech = makeSpeech();
  const markupOf = (...content: SpeechNode[]): string =>
    JSON.parse(speech.identify(say(content)))[3] as string;

  t.equal(markupOf('a < b & c'), '<speak>a &lt; b &amp; c</speak>\n');
  t.equal(
    markupOf('<audio src="/etc/passwd"/>'),
    '<speak>&lt;audio src="/etc/passwd"/&gt;</speak>\n',
  );
  t.equal(markupOf('[[h@l0U]]'), '<speak>[ [h@l0U]]</speak>\n');
  t.equal(markupOf('[[[h@l0U]]'), '<speak>[ [ [h@l0U]]</speak>\n');
  for (const split of [
    markupOf('[', '[h@l0U]]'),
    markupOf('[', element('w', {}, '[h@l0U]]')),
    markupOf(element('phoneme', {}, '['), element('sub', { alias: '[h@l0U]]' })),
  ]) {
    t.notMatch(split, '[[', 'nor when it is put together from pieces');
  }
  t.equal(markupOf(element('audio', { src: '/etc/passwd' }, 'hi')), '<speak>hi</speak>\n');
  t.equal(
    markupOf('x', element('break', { time: '99s' })),
    '<speak>x<break time="10000ms"/></speak>\n',
  );
  t.equal(
    markupOf(element('prosody', { rate: 'slow', pitch: '"><audio' }, 'x')),
    '<speak><prosody rate="slow">x</prosody></speak>\n',
  );
  t.equal(markupOf(element('say-as', { 'interpret-as': 'digits' }, '42')), '<speak>4 2</speak>\n');
  t.equal(
    markupOf(element('say-as', { 'interpret-as': 'ordinal' }, '22')),
    '<speak>22nd</speak>\n',
  );
  t.equal(
    markupOf(element('sub', { alias: 'World Wide Web' }, 'WWW')),
    '<speak>World Wide Web</speak>\n',
  );
  t.equal(
    markupOf(element('lang', { 'xml:lang': 'fr-FR' }, 'bonjour')),
    '<speak><voice xml:lang="fr-fr">bonjour</voice></speak>\n',
  );
});

t.test('speech has limits', async (t) => {
  const speech = makeSpeech();
  const code = (content: SpeechNode[], voice = ''): Promise<string> =>
    codeOf((async () => speech.identify(say(content, voice)))());
  const deep = Array.from({ length: 40 }).reduce<SpeechNode>((n) => element('p', {}, n), 'x');

  t.equal(await code(['   ']), 'SAY_EMPTY');
  t.equal(await code([]), 'SAY_EMPTY');
  t.equal(await code(['x'.repeat(4097)]), 'SAY_TOO_LONG');
  t.equal(await code(['x'.repeat(3001)], 'Polly.Joanna'), 'SAY_TOO_LONG');
  t.equal(await code(['x'.repeat(4096)]), 'none');
  t.equal(await code([deep]), 'DOC_SCHEMA');
  t.equal(await code(Array.from({ length: 1001 }, () => element('p', {}, 'x'))), 'DOC_SCHEMA');
});

t.test('a break is heard as silence and a slow voice takes longer', async (t) => {
  const directory = t.testdir();
  const speech = makeSpeech();
  const transcoder = makeTranscoder();
  const spoken = async (name: string, ...content: SpeechNode[]): Promise<number> => {
    const input = await speech.synthesize(say(content));
    const output = join(directory, `${name}.wav`);
    const job = { input, format: 'wav', sampleRateHz: 8000, output, subject: name } as const;
    return (await transcoder.toWav(job)).durationMs;
  };

  const plain = await spoken('plain', 'Good morning.', ' Welcome.');
  const paused = await spoken(
    'paused',
    'Good morning.',
    element('break', { time: '2s' }),
    ' Welcome.',
  );
  const slow = await spoken(
    'slow',
    element('prosody', { rate: 'x-slow' }, 'Good morning. Welcome.'),
  );

  t.ok(plain > 600, `${plain} ms`);
  t.ok(paused - plain > 1500, `the break adds ${paused - plain} ms`);
  t.ok(slow > plain * 1.2, `slow takes ${slow} of ${plain} ms`);
});

// --- Library --------------------------------------------------------------------------------------

interface Origin {
  readonly fetchMedia: FetchMedia;
  readonly asked: { url: string; method: string; etag: string; lastModified: string }[];
  answer: (
    count: number,
  ) => Partial<Omit<MediaResponse, 'body'>> & { body?: Buffer; error?: string };
}

function makeOrigin(answer: Origin['answer']): Origin {
  const asked: Origin['asked'] = [];
  const origin: Origin = {
    asked,
    answer,
    fetchMedia: async (url, conditions) => {
      const { method, etag = '', lastModified = '' } = conditions;
      asked.push({ url, method, etag, lastModified });
      const { status = 200, headers = {}, body, error } = origin.answer(asked.length);
      if (error !== undefined) throw new GatewayError('APP_UNREACHABLE', { url, problem: error });
      const bytes = body ?? wavOf([sine(300, RATE_HZ, 100)], RATE_HZ);
      return {
        status,
        headers: { 'content-type': 'audio/wav', ...headers },
        body: (async function* () {
          if (status !== 304) yield bytes;
        })(),
      };
    },
  };
  return origin;
}

/** A clock whose wall time a test can move. */
function movableClock(): Clock & { skipMs: number } {
  const clock = {
    ...realClock,
    skipMs: 0,
    nowMs: () => realClock.nowMs() + clock.skipMs,
  };
  return clock;
}

function makeLibrary(parts: {
  directory: string;
  origin: Origin;
  clock?: Clock;
  options?: Partial<LibraryOptions>;
}): Library {
  return new Library({
    clock: parts.clock ?? realClock,
    log: silentLog,
    directory: parts.directory,
    fetchMedia: parts.origin.fetchMedia,
    transcoder: makeTranscoder(),
    speech: makeSpeech(),
    options: { ...DEFAULT_LIBRARY_OPTIONS, ...parts.options },
  });
}

const urlPrompt = (url: string) => ({ kind: 'url', scope: 'AC1', url }) as const;
const PLAIN = 'http://app.test/a.wav';

t.test('a hundred callers at once cause one fetch', async (t) => {
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'max-age=60' } }));
  const library = makeLibrary({ directory: t.testdir(), origin });
  await library.start();

  const calls = Array.from({ length: 100 }, () => library.prepare(urlPrompt(PLAIN)));
  const prompts = await Promise.all(calls);
  await library.prepare(urlPrompt(PLAIN));

  t.equal(origin.asked.length, 1);
  t.equal(new Set(prompts.map((prompt) => prompt.path)).size, 1);
  t.equal(prompts[0]?.durationMs, 100);
});

t.test('accounts do not share what they fetched, nor do GET and POST', async (t) => {
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'max-age=60' } }));
  const library = makeLibrary({ directory: t.testdir(), origin });
  await library.start();

  await library.prepare(urlPrompt(PLAIN));
  await library.prepare({ ...urlPrompt(PLAIN), scope: 'AC2' });
  const post = await library.prepare({ ...urlPrompt(PLAIN), method: 'POST' });
  const again = await library.prepare({ ...urlPrompt(PLAIN), method: 'POST' });

  t.equal(origin.asked.length, 4, 'POST is never kept');
  t.not(post.path, again.path);
  post.release();
  t.notOk(existsSync(post.path), 'what may not be kept goes when it was played');
  t.ok(existsSync(again.path));
});

t.test(
  'a stale prompt is asked for with its ETag and Last-Modified; 304 keeps the file',
  async (t) => {
    const clock = movableClock();
    const modified = 'Wed, 01 Jan 2025 00:00:00 GMT';
    const validators = { etag: '"v1"', 'last-modified': modified, 'cache-control': 'max-age=10' };
    const origin = makeOrigin((count) =>
      count === 1
        ? { headers: validators }
        : { status: 304, headers: { 'cache-control': 'max-age=10' } },
    );
    const library = makeLibrary({ directory: t.testdir(), origin, clock });
    await library.start();

    const first = await library.prepare(urlPrompt(PLAIN));
    clock.skipMs = 11_000;
    const second = await library.prepare(urlPrompt(PLAIN));
    await library.prepare(urlPrompt(PLAIN));
    clock.skipMs = 22_000;
    await library.prepare(urlPrompt(PLAIN));

    t.equal(second.path, first.path);
    t.equal(origin.asked.length, 3, 'fresh again after the 304');
    t.match(origin.asked[1], { etag: '"v1"', lastModified: modified });
    t.match(
      origin.asked[2],
      { etag: '"v1"' },
      'validators outlive a 304 that does not repeat them',
    );
  },
);

t.test('a changed prompt is heard after revalidation', async (t) => {
  const origin = makeOrigin((count) => ({
    headers: { 'cache-control': 'no-cache', etag: `"${count}"` },
    body: wavOf([sine(count === 1 ? 400 : 800, RATE_HZ, 200)], RATE_HZ),
  }));
  const library = makeLibrary({ directory: t.testdir(), origin, options: { sampleRateHz: 8000 } });
  await library.start();
  const heard = (path: string, hz: number): number =>
    shareAt(firstChannel(readChannels(path)), RATE_HZ, hz);

  const first = await library.prepare(urlPrompt(PLAIN));
  t.ok(heard(first.path, 400) > 0.9);
  const second = await library.prepare(urlPrompt(PLAIN));
  t.ok(heard(second.path, 800) > 0.9);
});

t.test('an origin that is down is covered by the stale copy, unless it forbade that', async (t) => {
  const clock = movableClock();
  let control = 'max-age=10';
  const origin = makeOrigin(() => ({ headers: { 'cache-control': control, etag: '"1"' } }));
  const healthy = origin.answer;
  const library = makeLibrary({ directory: t.testdir(), origin, clock });
  await library.start();

  const first = await library.prepare(urlPrompt(PLAIN));
  clock.skipMs = 11_000;
  origin.answer = () => ({ error: 'connection refused' });
  t.equal((await library.prepare(urlPrompt(PLAIN))).path, first.path);
  origin.answer = () => ({ status: 503 });
  t.equal((await library.prepare(urlPrompt(PLAIN))).path, first.path);
  origin.answer = () => ({ status: 404 });
  t.equal(await codeOf(library.prepare(urlPrompt(PLAIN))), 'APP_STATUS', 'gone is gone');
  origin.answer = healthy;
  control = 'max-age=10, must-revalidate';
  await library.prepare(urlPrompt(PLAIN));
  clock.skipMs = 22_000;
  origin.answer = () => ({ error: 'connection refused' });
  t.equal(await codeOf(library.prepare(urlPrompt(PLAIN))), 'APP_UNREACHABLE');
});

t.test('what is no audio is PLAY_CONTENT, too large a body is refused', async (t) => {
  const directory = t.testdir();
  const origin = makeOrigin(() => ({
    headers: { 'content-type': 'text/html' },
    body: Buffer.from('<html>'),
  }));
  const library = makeLibrary({ directory, origin, options: { fetchBytesMax: 1000 } });
  await library.start();

  t.equal(await codeOf(library.prepare(urlPrompt(PLAIN))), 'PLAY_CONTENT');
  origin.answer = () => ({ body: Buffer.alloc(1001) });
  t.equal(await codeOf(library.prepare(urlPrompt(PLAIN))), 'APP_BODY_TOO_LARGE');
  origin.answer = () => ({ body: Buffer.alloc(0) });
  t.equal(await codeOf(library.prepare(urlPrompt(PLAIN))), 'PLAY_CONTENT');
  t.same(readdirSync(directory), []);
});

t.test('a caller that leaves does not take the fetch from the others', async (t) => {
  const gate = Promise.withResolvers<void>();
  const origin = makeOrigin(() => ({}));
  const signals: AbortSignal[] = [];
  const slow: Origin = {
    ...origin,
    fetchMedia: async (url, conditions, signal) => {
      signals.push(signal);
      await gate.promise;
      return origin.fetchMedia(url, conditions, signal);
    },
  };
  const library = makeLibrary({ directory: t.testdir(), origin: slow });
  await library.start();
  const leaves = new AbortController();

  const left = library.prepare(urlPrompt(PLAIN), leaves.signal);
  const stays = library.prepare(urlPrompt(PLAIN));
  await new Promise(setImmediate);
  leaves.abort(new GatewayError('CALL_CANCELED'));
  t.equal(await codeOf(left), 'CALL_CANCELED');
  t.equal(signals[0]?.aborted, false);
  gate.resolve();
  t.ok((await stays).durationMs > 0);

  const alone = new AbortController();
  const last = library.prepare(urlPrompt('http://app.test/b.wav'), alone.signal);
  await new Promise(setImmediate);
  alone.abort(new GatewayError('CALL_CANCELED'));
  t.equal(await codeOf(last), 'CALL_CANCELED');
  t.equal(signals[1]?.aborted, true, 'the last one to leave ends the fetch');
});

t.test('the cache keeps its bounds and never evicts what is played', async (t) => {
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'max-age=600' } }));
  const directory = t.testdir();
  const library = makeLibrary({
    directory,
    origin,
    options: { entriesMax: 2, accountSharePercent: 100 },
  });
  await library.start();
  const get = (name: string) => library.prepare(urlPrompt(`http://app.test/${name}`));

  const a = await get('a');
  const b = await get('b');
  t.equal(await codeOf(get('c')), 'OVERLOADED', 'both are being played');
  b.release();
  await get('c');
  t.ok(existsSync(a.path), 'a is still played');
  t.notOk(existsSync(b.path), 'b made room');
  t.equal(library.size, 2);
  t.equal(readdirSync(directory).filter((name) => name.endsWith('.wav')).length, 2);
});

t.test('one account cannot hold the whole cache', async (t) => {
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'max-age=600' } }));
  const options = { entriesMax: 4, accountSharePercent: 50 };
  const library = makeLibrary({ directory: t.testdir(), origin, options });
  await library.start();
  const get = (scope: string, name: string) =>
    library.prepare({ kind: 'url', scope, url: `http://app.test/${name}` });

  const a = await get('AC1', 'a');
  const b = await get('AC1', 'b');
  const again = await get('AC1', 'b');
  t.equal(await codeOf(get('AC1', 'c')), 'OVERLOADED');
  t.equal(origin.asked.length, 2, 'and it is not even fetched');
  await get('AC2', 'c');
  b.release();
  t.equal(await codeOf(get('AC1', 'd')), 'OVERLOADED', 'another call plays it still');
  again.release();
  again.release();
  await get('AC1', 'd');
  a.release();

  const bytes = makeLibrary({ directory: t.testdir(), origin, options: { bytesMax: 9_000 } });
  await bytes.start();
  const first = await bytes.prepare(urlPrompt('http://app.test/a'));
  t.equal(await codeOf(bytes.prepare(urlPrompt('http://app.test/b'))), 'OVERLOADED');
  first.release();
  await bytes.prepare(urlPrompt('http://app.test/b'));
});

t.test('a prompt that may not be kept stays until its call has done with it', async (t) => {
  const timers: (() => void)[] = [];
  const clock: Clock = {
    ...realClock,
    timer: (delayMs, fn) => {
      if (delayMs > 60_000) timers.push(fn);
      return delayMs > 60_000 ? { cancel: () => undefined } : realClock.timer(delayMs, fn);
    },
  };
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'no-store' } }));
  const library = makeLibrary({ directory: t.testdir(), origin });
  await library.start();
  const accountSid = newSid('AC', realClock);
  const recordings = new Recordings({
    directory: t.testdir(),
    transcoder: makeTranscoder(),
    options: DEFAULT_RECORDINGS_OPTIONS,
  });
  const parts = { accountSid, clock, library, recordings, publicUrl: 'http://gw' };
  const prompts = new AccountPrompts(parts);

  const waiting = await prompts.audio(PLAIN);
  for (const fire of timers) fire();
  t.ok(existsSync(waiting.path), 'however long it waits to be played');
  const other = await prompts.audio(PLAIN);
  t.not(other.path, waiting.path, 'and nobody else is given it or puts his own in its place');
  waiting.release();
  t.notOk(existsSync(waiting.path));
  t.ok(existsSync(other.path));
  other.release();
  t.equal(library.size, 0);
});

t.test('an origin that takes back its leave to keep a prompt is heeded', async (t) => {
  const clock = movableClock();
  let control = 'max-age=10';
  const origin = makeOrigin(() => ({ headers: { 'cache-control': control } }));
  const directory = t.testdir();
  const library = makeLibrary({ directory, origin, clock });
  await library.start();
  const played = await library.prepare(urlPrompt(PLAIN));
  (await library.prepare(urlPrompt(PLAIN))).release();

  clock.skipMs = 11_000;
  control = 'no-store';
  (await library.prepare(urlPrompt(PLAIN))).release();
  t.ok(existsSync(played.path), 'a call is playing it');
  played.release();
  t.same(readdirSync(directory), []);
});

t.test('what a URL carries is in no error about it', async (t) => {
  const url = 'http://user:CANARY@app.test/a.wav?tok=CANARY';
  const origin = makeOrigin(() => ({ status: 404 }));
  const options = { fetchBytesMax: 1000 };
  const library = makeLibrary({ directory: t.testdir(), origin, options });
  await library.start();
  const answers: Parameters<typeof makeOrigin>[0][] = [
    () => ({ status: 404 }),
    () => ({ headers: { 'content-type': 'text/html' }, body: Buffer.from('<html>') }),
    () => ({ body: Buffer.alloc(0) }),
    () => ({ body: Buffer.alloc(1001) }),
    () => ({ body: Buffer.from('RIFF\xff\xff\xff\xffWAVE', 'latin1') }),
    () => ({ body: wavClaiming(1).subarray(0, 900) }),
  ];
  const told = (thrown: unknown): string => {
    const { message, details, stack } = asGatewayError(thrown);
    return JSON.stringify([message, details, stack]);
  };
  for (const answer of answers) {
    origin.answer = answer;
    const text = await library.prepare(urlPrompt(url)).then(() => 'played', told);
    t.match(text, 'http://app.test/a.wav');
    t.notMatch(text, 'CANARY');
  }
  const late = makeLibrary({
    directory: t.testdir(),
    origin: {
      ...origin,
      fetchMedia: (_url, _conditions, signal) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => reject(asGatewayError(signal.reason)));
        }),
    },
    options: { prepareTimeoutMs: 20 },
  });
  await late.start();
  // Nothing else keeps the process awake for the deadline.
  const awake = setTimeout(() => undefined, 1_000);
  t.notMatch(await late.prepare(urlPrompt(url)).then(() => 'CANARY', told), 'CANARY');
  clearTimeout(awake);
});

t.test('the cache outlives the process and sweeps what was half done', async (t) => {
  const directory = t.testdir({ 'rest.fetched': 'x', [`${'0'.repeat(64)}.wav`]: 'no sidecar' });
  const origin = makeOrigin(() => ({ headers: { 'cache-control': 'max-age=600' } }));
  const before = makeLibrary({ directory, origin });
  await before.start();
  const prompt = await before.prepare(urlPrompt(PLAIN));
  await before.close();

  const after = makeLibrary({ directory, origin });
  await after.start();
  const again = await after.prepare(urlPrompt(PLAIN));

  t.equal(origin.asked.length, 1);
  t.equal(again.path, prompt.path);
  t.equal(again.durationMs, prompt.durationMs);
  t.equal(readdirSync(directory).length, 2, 'the file and its sidecar');
});

t.test('speech is spoken once and kept', async (t) => {
  const library = makeLibrary({ directory: t.testdir(), origin: makeOrigin(() => ({})) });
  await library.start();
  const speech = { content: ['Hello, and welcome.'], voice: 'woman', language: 'en-US' };

  const startedMs = performance.now();
  const first = await library.prepare({ kind: 'speech', scope: 'AC1', speech });
  const spokenMs = performance.now() - startedMs;
  const second = await library.prepare({ kind: 'speech', scope: 'AC1', speech });
  const man = await library.prepare({
    kind: 'speech',
    scope: 'AC1',
    speech: { ...speech, voice: 'man' },
  });

  t.equal(second.path, first.path);
  t.not(man.path, first.path);
  const sound = readChannels(first.path);
  t.equal(sound.sampleRateHz, 16000);
  t.ok(Math.max(...firstChannel(sound)) > 0.05, 'it is not silence');
  t.comment(`first prompt after ${Math.round(spokenMs)} ms`);
});

t.test('freshness follows the header fields', async (t) => {
  const askedMs = Date.parse('Wed, 01 Jan 2025 00:00:00 GMT');
  const date = 'Wed, 01 Jan 2025 00:00:00 GMT';
  const forMs = (headers: Record<string, string>): number =>
    Math.max(0, freshnessOf(headers, askedMs, 5_000).freshUntilMs - askedMs);

  t.equal(forMs({ 'cache-control': 'public, max-age=30' }), 30_000);
  t.equal(forMs({ 'cache-control': 'max-age=30', age: '12' }), 18_000);
  t.equal(forMs({ 'cache-control': 'max-age=30', expires: '0' }), 30_000, 'max-age wins');
  t.equal(forMs({ 'cache-control': 'max-age="40"' }), 40_000);
  t.equal(forMs({ 'cache-control': 'max-age=soon' }), 0);
  t.equal(forMs({ date, expires: 'Wed, 01 Jan 2025 00:01:00 GMT' }), 60_000);
  t.equal(forMs({ expires: '-1' }), 0);
  t.equal(forMs({ date, 'last-modified': 'Tue, 31 Dec 2024 22:20:00 GMT' }), 600_000);
  t.equal(forMs({}), 5_000);
  t.equal(forMs({ 'cache-control': 'no-cache, max-age=30' }), 0);
  t.equal(freshnessOf({ 'cache-control': 'no-store' }, askedMs, 5_000).isKept, false);
});

// --- Recordings -----------------------------------------------------------------------------------

t.test('recordings lie in their account, have a length, an MP3, and go', async (t) => {
  const directory = join(t.testdir(), 'recordings');
  const transcoder = makeTranscoder();
  const recordings = new Recordings({ directory, transcoder, options: DEFAULT_RECORDINGS_OPTIONS });
  const account = newSid('AC', realClock);
  const sid = newSid('RE', realClock);

  t.equal(await recordings.info(account, sid), null);
  t.equal(await recordings.mp3(account, sid), null);
  const path = await recordings.begin(account, sid);
  t.equal(path, join(directory, account, `${sid}.wav`));
  writeFileSync(path, wavOf([sine(440, 8000, 500), sine(660, 8000, 500)], 8000));
  t.match(await recordings.info(account, sid), {
    durationMs: 500,
    channels: 2,
    sampleRateHz: 8000,
  });

  const [mp3, same] = await Promise.all([
    recordings.mp3(account, sid),
    recordings.mp3(account, sid),
  ]);
  t.equal(mp3, same);
  const made = statSync(mp3 ?? '').mtimeMs;
  await recordings.mp3(account, sid);
  t.equal(statSync(mp3 ?? '').mtimeMs, made, 'made once');
  const output = join(directory, 'heard.wav');
  const job = {
    input: mp3 ?? '',
    format: 'mp3',
    sampleRateHz: 8000,
    output,
    subject: 'mp3',
  } as const;
  const heard = firstChannel(readChannels((await transcoder.toWav(job)).path)).subarray(1000, 4000);
  t.ok(
    shareAt(heard, 8000, 440) > 0.3 && shareAt(heard, 8000, 660) > 0.3,
    'both channels are there',
  );

  t.equal(await recordings.delete(account, sid), true);
  t.equal(await recordings.delete(account, sid), false);
  t.same(readdirSync(join(directory, account)), []);
});

t.test('a recording cut short by a crash counts as far as it goes', async (t) => {
  const directory = t.testdir();
  const options = DEFAULT_RECORDINGS_OPTIONS;
  const recordings = new Recordings({ directory, transcoder: makeTranscoder(), options });
  const account = newSid('AC', realClock);
  const sid = newSid('RE', realClock);
  const path = await recordings.begin(account, sid);
  const whole = wavOf([sine(440, 8000, 1000)], 8000);

  writeFileSync(path, whole.subarray(0, 44 + 8000));
  t.match(await recordings.info(account, sid), { durationMs: 500 });
  writeFileSync(path, whole.subarray(0, 30));
  t.match(await recordings.info(account, sid), { durationMs: 0 });
});

t.test('no name leads out of the folder, and a full disk is told', async (t) => {
  const root = t.testdir({ 'secret.wav': 'x' });
  const directory = join(root, 'recordings');
  mkdirSync(directory);
  const parts = { directory, transcoder: makeTranscoder() };
  const recordings = new Recordings({ ...parts, options: DEFAULT_RECORDINGS_OPTIONS });
  const account = newSid('AC', realClock);
  const sid = newSid('RE', realClock);
  const evil = ['..', '../secret', `AC${'.'.repeat(32)}`, `${account}/..`, ''] as AccountSid[];

  for (const name of evil) {
    t.equal(await codeOf(recordings.info(name, sid)), 'REST_NOT_FOUND', name);
    t.equal(await codeOf(recordings.delete(name, sid)), 'REST_NOT_FOUND', name);
  }
  const full = new Recordings({ ...parts, options: { freeBytesMin: Number.MAX_SAFE_INTEGER } });
  t.equal(await codeOf(full.begin(account, sid)), 'DISK_FULL');
});
