/**
 * Kamailio as a peer: runs one configuration on loopback and waits until each of its listeners
 * answers. Configurations stand where they are used: `kamailio-carrier.ts`, `kamailio-proxy.ts`,
 * `bench/kamailio.ts`. Ended by process id.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import type { Pair } from './certificates.ts';
import { childrenOf } from './gateway.ts';

const PROGRAM = '/usr/sbin/kamailio';
const MODULES = '/usr/lib/x86_64-linux-gnu/kamailio/modules/';
const READY_MS_MAX = 10_000;
/** How long one OPTIONS is waited for, and how long until the next one after a refused connection. */
const PROBE_MS = 500;
const PROBE_AGAIN_MS = 30;
const STOP_MS_MAX = 5_000;
const OUTPUT_CHARS_MAX = 100_000;

/** What a side of TLS shows, and whom it believes. */
export interface Credentials extends Pair {
  readonly caFile: string;
}

export interface KamailioOptions {
  /** Complete but for the modules' path. Its `listen=` lines say what has to answer. */
  readonly configuration: string;
  /** For configurations with `TLS_MODULE`: shown to both sides, servers are verified. */
  readonly credentials?: Credentials;
}

export interface Kamailio {
  readonly pid: number;
  /** What it printed last. */
  log(): string;
  stop(): Promise<void>;
}

/** Loads and sets up TLS in a configuration; `startKamailio` writes the file. */
export const TLS_MODULE = `
enable_tls=yes
loadmodule "tls.so"
modparam("tls", "config", "tls.cfg")
`;

export function hasKamailio(...modules: readonly string[]): boolean {
  return existsSync(PROGRAM) && modules.every((name) => existsSync(`${MODULES}${name}.so`));
}

export async function startKamailio(options: KamailioOptions): Promise<Kamailio> {
  const { configuration, credentials } = options;
  const folder = mkdtempSync(join(tmpdir(), 'tandem-kamailio-'));
  const file = join(folder, 'kamailio.cfg');
  writeFileSync(file, configuration);
  if (credentials) writeFileSync(join(folder, 'tls.cfg'), tlsConfiguration(credentials));
  const child = spawn(
    PROGRAM,
    ['-DD', '-E', '-f', file, '-L', MODULES, '-m', '256', '-M', '16', '-Y', folder, '-w', folder],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output = (output + chunk).slice(-OUTPUT_CHARS_MAX);
    });
  }
  const stop = stopper(child, folder);
  const deadlineMs = Date.now() + READY_MS_MAX;
  for (const listener of listenersOf(configuration)) {
    while (!(await answers(listener))) {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadlineMs) {
        await stop();
        const { transport, port } = listener;
        throw new Error(`kamailio does not answer at ${transport} port ${port}:\n${output}`);
      }
      await sleepMs(PROBE_AGAIN_MS);
    }
  }
  return { pid: child.pid ?? 0, log: () => output, stop };
}

/** SIGTERM, as it takes its own processes with it; whatever ends us ends it too. */
function stopper(child: ChildProcess, folder: string): () => Promise<void> {
  const kill = (): void => void child.kill('SIGTERM');
  process.once('exit', kill);
  const gone = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  return async () => {
    kill();
    const timer = setTimeout(() => {
      for (const pid of childrenOf(child.pid ?? 0)) process.kill(pid, 'SIGKILL');
      child.kill('SIGKILL');
    }, STOP_MS_MAX);
    await gone;
    clearTimeout(timer);
    process.off('exit', kill);
    rmSync(folder, { recursive: true, force: true });
  };
}

interface Listener {
  readonly transport: string;
  readonly host: string;
  readonly port: number;
}

function listenersOf(configuration: string): Listener[] {
  const lines = configuration.matchAll(/^listen=(udp|tcp|tls):([^:\s]+):(\d+)/gm);
  return [...lines].map(([, transport = '', host = '', port]) => {
    return { transport, host, port: Number(port) };
  });
}

/** One OPTIONS that goes no further than here, whatever the configuration does with others. */
function answers(listener: Listener): Promise<boolean> {
  const { transport, host, port } = listener;
  const options = [
    `OPTIONS sip:${host}:${port} SIP/2.0`,
    `Via: SIP/2.0/${transport.toUpperCase()} ${host}:9;branch=z9hG4bK${Date.now()};rport`,
    `From: <sip:ready@${host}>;tag=1`,
    `To: <sip:${host}:${port}>`,
    `Call-ID: ready-${Date.now()}@${host}`,
    'CSeq: 1 OPTIONS',
    'Max-Forwards: 0',
    'Content-Length: 0',
    '\r\n',
  ].join('\r\n');
  return transport === 'udp'
    ? answersDatagram(listener, options)
    : answersStream(listener, options);
}

function answersDatagram({ host, port }: Listener, options: string): Promise<boolean> {
  const socket = createSocket('udp4');
  return new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => resolve(false), PROBE_MS);
    socket.once('message', () => {
      clearTimeout(timer);
      resolve(true);
    });
    socket.send(options, port, host);
  }).finally(() => socket.close());
}

function answersStream({ transport, host, port }: Listener, options: string): Promise<boolean> {
  // Whether its certificate is good is asked by those it is for.
  const socket =
    transport === 'tls'
      ? connectTls({ host, port, rejectUnauthorized: false })
      : connectTcp({ host, port });
  return new Promise<boolean>((resolve) => {
    socket.setTimeout(PROBE_MS, () => resolve(false));
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
    socket.once('data', () => resolve(true));
    socket.write(options);
  }).finally(() => socket.destroy());
}

function sleepMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function tlsConfiguration({ certFile, keyFile, caFile }: Credentials): string {
  const shown = [
    'method = TLSv1.2+',
    `certificate = ${certFile}`,
    `private_key = ${keyFile}`,
    `ca_list = ${caFile}`,
  ].join('\n');
  return `
[server:default]
${shown}
verify_certificate = no
require_certificate = no
[client:default]
${shown}
verify_certificate = yes
require_certificate = yes
`;
}
