/**
 * baresip as a peer: an independent phone with Opus, G.722 and PCMU, told what to do over its TCP
 * control port (JSON in netstrings), playing a WAV and writing what it hears to another.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Pair } from './certificates.ts';
import { freePort } from './gateway.ts';
import { readWav, type Sound, writeWav } from './sound.ts';

const MODULES = '/usr/lib/baresip/modules';

export function hasBaresip(): boolean {
  return existsSync('/usr/bin/baresip') && existsSync(`${MODULES}/aufile.so`);
}

export interface BaresipOptions {
  /** As baresip names them, in order: `opus/48000/1`, `PCMU/8000/1`, `G722/16000/1`. */
  readonly codecs: readonly string[];
  /** Mono WAV played in a loop as the microphone. */
  readonly microphone: string;
  readonly isAnsweringAtOnce: boolean;
  /** Registers there instead of being called directly. */
  readonly registration?: {
    readonly user: string;
    readonly domain: string;
    readonly password: string;
    /** `host:port` of the registrar. */
    readonly proxy: string;
    readonly transport?: 'udp' | 'tcp' | 'tls';
  };
  /** Speaks TLS: whom it believes, and what it shows when it is asked. */
  readonly tls?: { readonly caFile: string; readonly certificate?: Pair };
  /** SDES keys offered beside plain RTP, or nothing but SRTP (RFC 4568). */
  readonly srtp?: 'offered' | 'required';
}

export interface BaresipEvent {
  readonly type: string;
  readonly param: string;
  readonly [name: string]: unknown;
}

export class Baresip {
  readonly sipPort: number;
  readonly events: BaresipEvent[] = [];
  readonly #child: ChildProcess;
  readonly #control: Socket;
  readonly #folder: string;
  readonly #waiters: { type: string; resolve: (event: BaresipEvent) => void }[] = [];

  private constructor(parts: {
    child: ChildProcess;
    control: Socket;
    folder: string;
    sipPort: number;
  }) {
    this.#child = parts.child;
    this.#control = parts.control;
    this.#folder = parts.folder;
    this.sipPort = parts.sipPort;
    let buffered = '';
    parts.control.setEncoding('utf8').on('data', (chunk) => {
      buffered += chunk;
      for (;;) {
        const colon = buffered.indexOf(':');
        const size = Number(buffered.slice(0, colon));
        if (colon < 0 || buffered.length < colon + 2 + size) return;
        const event = JSON.parse(buffered.slice(colon + 1, colon + 1 + size));
        buffered = buffered.slice(colon + 2 + size);
        this.#onEvent(event);
      }
    });
  }

  static async start(options: BaresipOptions): Promise<Baresip> {
    const folder = mkdtempSync(join(tmpdir(), 'tandem-baresip-'));
    const sipPort = await freePort();
    const controlPort = await freePort();
    const microphone = join(folder, 'microphone.wav');
    const rateHz = loop(options.microphone, microphone);
    const tls = options.tls === undefined ? [] : tlsLines(folder, options.tls);
    const place = { folder, sipPort, controlPort, microphone, rateHz, tls };
    writeFileSync(join(folder, 'config'), configuration(place));
    const answer = options.isAnsweringAtOnce ? ';answermode=auto' : '';
    const codecs = `audio_codecs=${options.codecs.join(',')}`;
    writeFileSync(join(folder, 'accounts'), `${accountOf(options, sipPort)}${answer};${codecs}\n`);
    writeFileSync(join(folder, 'contacts'), '');
    const child = spawn('/usr/bin/baresip', ['-4', '-f', folder], {
      stdio: 'ignore',
      cwd: folder,
    });
    const control = await connectSoon(controlPort);
    return new Baresip({ child, control, folder, sipPort });
  }

  command(command: string, params = ''): void {
    const text = JSON.stringify({ command, params, token: command });
    this.#control.write(`${text.length}:${text},`);
  }

  dial(uri: string): void {
    this.command('dial', uri);
  }

  /** Presses one key for 100 ms and lets go. */
  async press(key: string): Promise<void> {
    this.command('sndcode', key);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }

  hangup(): void {
    this.command('hangup');
  }

  waitFor(type: string): Promise<BaresipEvent> {
    const known = this.events.find((event) => event.type === type);
    if (known) return Promise.resolve(known);
    return new Promise((resolve) => this.#waiters.push({ type, resolve }));
  }

  /** What was heard in the last call, from the decoder's dump. Read it after the call has ended. */
  heard(): Sound {
    const file = readdirSync(this.#folder)
      .filter((name) => name.endsWith('-dec.wav'))
      .sort()
      .at(-1);
    return file === undefined
      ? { rateHz: 8000, samples: new Float64Array() }
      : readWav(join(this.#folder, file));
  }

  async close(): Promise<void> {
    this.command('quit');
    const gone = new Promise((resolve) => this.#child.on('exit', resolve));
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 2000);
    if (this.#child.exitCode === null) await gone;
    clearTimeout(timer);
    this.#control.destroy();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #onEvent(event: BaresipEvent): void {
    this.events.push(event);
    for (const waiter of [...this.#waiters]) {
      if (waiter.type !== event.type) continue;
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
      waiter.resolve(event);
    }
  }
}

function accountOf({ registration, srtp, tls }: BaresipOptions, sipPort: number): string {
  const keys = { offered: ';mediaenc=srtp', required: ';mediaenc=srtp-mand' };
  const more = srtp === undefined ? '' : keys[srtp];
  if (registration === undefined) {
    const over = tls === undefined ? '' : ';transport=tls';
    return `<sip:baresip@127.0.0.1:${sipPort}${over}>;regint=0${more}`;
  }
  const { user, domain, password, proxy, transport = 'udp' } = registration;
  const way = `outbound="sip:${proxy};transport=${transport}"${more}`;
  return `<sip:${user}@${domain};transport=${transport}>;auth_pass=${password};regint=60;${way}`;
}

/** It takes certificate and key from one file. */
function tlsLines(folder: string, { caFile, certificate }: NonNullable<BaresipOptions['tls']>) {
  const lines = [`sip_cafile ${caFile}`];
  if (certificate === undefined) return lines;
  const file = join(folder, 'certificate.pem');
  writeFileSync(file, [certificate.keyFile, certificate.certFile].map(readText).join('\n'));
  return [...lines, `sip_certificate ${file}`];
}

function readText(path: string): string {
  return readFileSync(path, 'utf8');
}

/** baresip hangs up when its microphone's file ends, so it gets a long one. */
function loop(from: string, to: string): number {
  const { rateHz, samples } = readWav(from);
  const times = Math.ceil((MICROPHONE_SECONDS * rateHz) / samples.length);
  const long = new Float64Array(samples.length * times);
  for (let index = 0; index < times; index++) long.set(samples, index * samples.length);
  writeWav(to, { rateHz, samples: long });
  return rateHz;
}

const MICROPHONE_SECONDS = 90;

function configuration(place: {
  folder: string;
  sipPort: number;
  controlPort: number;
  microphone: string;
  rateHz: number;
  tls: readonly string[];
}): string {
  const modules = [
    'account',
    'menu',
    'ctrl_tcp',
    'opus',
    'g711',
    'g722',
    'aufile',
    'sndfile',
    'srtp',
    'aubridge',
    'ausine',
  ];
  return [
    `module_path ${MODULES}`,
    `sip_listen 127.0.0.1:${place.sipPort}`,
    ...place.tls,
    ...modules.map(
      (name) => `module${['account', 'menu', 'ctrl_tcp'].includes(name) ? '_app' : ''} ${name}.so`,
    ),
    `ctrl_tcp_listen 127.0.0.1:${place.controlPort}`,
    `audio_source aufile,${place.microphone}`,
    'audio_player aubridge,nil',
    'audio_alert aubridge,nil2',
    `ausrc_srate ${place.rateHz}`,
    'auplay_srate 48000',
    'ausrc_channels 1',
    'auplay_channels 1',
    'net_interface 127.0.0.1',
    'audio_buffer 20-160',
    'rtp_ports 31000-31999',
    'rtcp_mux no',
    'jitter_buffer_delay 1-10',
    `snd_path ${place.folder}`,
    'opus_bitrate 28000',
    'opus_stereo no',
    'opus_sprop_stereo no',
    '',
  ].join('\n');
}

async function connectSoon(port: number): Promise<Socket> {
  for (let tries = 0; ; tries++) {
    try {
      return await new Promise<Socket>((resolve, reject) => {
        const socket = connect(port, '127.0.0.1', () => resolve(socket)).once('error', reject);
      });
    } catch (error) {
      if (tries > 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
