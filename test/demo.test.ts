/**
 * A newcomer's first call: the gateway without configuration, called by SIPp and by baresip; each
 * hears the prompt, presses keys, is recorded, and hears the recording.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Baresip, hasBaresip } from './support/baresip.ts';
import { canCapture, capture, soundOf } from './support/capture.ts';
import { freePort, startGateway, type TestGateway } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, startSipp } from './support/sipp.ts';
import { find, readWav, type Sound } from './support/sound.ts';

const MEDIA = fileURLToPath(new URL('../../shared/data/media/', import.meta.url));
const hasMedia = existsSync(MEDIA);

/** The prompts the gateway made for itself, longest first. */
function prompts(gateway: TestGateway): Sound[] {
  const folder = join(gateway.dataDir, 'cache');
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => path.endsWith('.wav') && statSync(path).isFile())
    .map(readWav)
    .sort((a, b) => b.samples.length / b.rateHz - a.samples.length / a.rateHz);
}

/** Seconds `from` to `to` of a sound. */
function part(sound: Sound, from: number, to: number): Sound {
  const samples = sound.samples.subarray(from * sound.rateHz, to * sound.rateHz);
  return { rateHz: sound.rateHz, samples };
}

const SKIP_SIPP =
  (!hasSipp() || !canCapture() || !hasMedia) &&
  'needs sipp, tcpdump as root, and the shared media folder';
const SKIP_BARESIP = (!hasBaresip() || !hasMedia) && 'needs baresip and the shared media folder';

t.test('SIPp calls the demo and hears prompt and recording', { skip: SKIP_SIPP }, async (t) => {
  const gateway = await startGateway();
  t.teardown(() => gateway.stop());
  const mediaPort = 30_000 + (process.pid % 200) * 4;
  const wire = await capture(mediaPort);

  const result = await startSipp({
    scenario: 'demo',
    port: await freePort(),
    target: `127.0.0.1:${gateway.sipPort}`,
    calls: 1,
    mediaPort,
    replace: { speech: join(MEDIA, 'speech-en.ulaw') },
    timeoutSeconds: 60,
  }).done;

  t.equal(result.code, 0, result.output.slice(-2000));
  const heard = soundOf(await wire.rtpTo(mediaPort));
  const [welcome] = prompts(gateway);
  if (!welcome) throw new Error('the gateway made no prompt');
  const prompt = find(heard, part(welcome, 0, 5));
  t.ok(prompt.correlation > 0.9, `the prompt is heard: ${prompt.correlation.toFixed(3)}`);
  const speech = readWav(join(MEDIA, 'speech-en-8k.wav'));
  const echo = find(heard, part(speech, 0.5, 3));
  t.ok(echo.correlation > 0.9, `the recording is heard: ${echo.correlation.toFixed(3)}`);
  t.ok(echo.offsetMs > prompt.offsetMs + 15_000, 'after it was made');
  const calls = await gateway.rest('GET', 'Calls.json');
  t.equal(calls.json.calls.length, 1);
  t.equal(calls.json.calls[0].status, 'completed');
  const recordings = await gateway.rest('GET', 'Recordings.json');
  t.equal(recordings.json.recordings.length, 1);
});

t.test('baresip calls the demo over Opus and hears both too', { skip: SKIP_BARESIP }, async (t) => {
  const gateway = await startGateway();
  t.teardown(() => gateway.stop());
  const phone = await Baresip.start({
    codecs: ['opus/48000/1'],
    microphone: join(MEDIA, 'speech-en-48k.wav'),
    isAnsweringAtOnce: false,
  });
  t.teardown(() => phone.close());

  phone.dial(`sip:demo@127.0.0.1:${gateway.sipPort}`);
  await phone.waitFor('CALL_ESTABLISHED');
  await delay(10_500);
  await phone.press('1');
  await delay(11_000);
  await phone.press('5');
  await delay(9_000);
  phone.hangup();
  await delay(500);

  const heard = phone.heard();
  const [welcome] = prompts(gateway);
  if (!welcome) throw new Error('the gateway made no prompt');
  const prompt = find(heard, part(welcome, 0, 5));
  t.ok(prompt.correlation > 0.8, `the prompt is heard: ${prompt.correlation.toFixed(3)}`);
  const recordings = await gateway.rest('GET', 'Recordings.json');
  t.equal(recordings.json.recordings.length, 1);
  const speech = readWav(join(MEDIA, 'speech-en-48k.wav'));
  const [{ sid }] = recordings.json.recordings;
  const recorded = readWav(recordingPath(gateway, sid));
  const inFile = find(recorded, part(speech, 1, 3));
  t.ok(
    inFile.correlation > 0.8,
    `the recording holds the speech: ${inFile.correlation.toFixed(3)}`,
  );
  const echo = find(heard, part(recorded, 1, 4));
  t.ok(echo.correlation > 0.8, `the recording is heard: ${echo.correlation.toFixed(3)}`);
});

function recordingPath(gateway: TestGateway, sid: string): string {
  const folder = join(gateway.dataDir, 'recordings');
  const name = readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((entry) =>
    entry.endsWith(`${sid}.wav`),
  );
  return join(folder, name ?? '');
}
