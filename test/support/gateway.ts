/**
 * A whole gateway as a user runs it: its own process, its own data directory, free ports. Ends by
 * SIGTERM; what it printed is kept for the failure message.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const TEST_SID = `AC${'0123456789abcdef'.repeat(2)}`;
export const TEST_TOKEN = 'fedcba9876543210fedcba9876543210';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** What `npm start` says of memory; the header of `src/cli.ts` tells why. */
const START_FLAGS = ['--max-semi-space-size=16'];
const START_ENVIRONMENT = { MALLOC_ARENA_MAX: '2' };

export interface TestGateway {
  readonly process: ChildProcess;
  readonly sipPort: number;
  readonly httpBase: string;
  readonly dataDir: string;
  /** Standard output so far, one line an entry. */
  readonly lines: string[];
  /** GET or POST on the REST API of the test account. */
  rest(method: string, path: string, form?: Record<string, string>): Promise<RestAnswer>;
  metric(name: string): Promise<number>;
  /** Its exit code, once it has ended by itself or by a signal. */
  readonly exited: Promise<number | null>;
  /** SIGTERM and wait; resolves with the exit code. */
  stop(): Promise<number | null>;
  /** SIGKILL to the gateway alone, then another one in its place, once ready; stop that one. */
  crash(): Promise<TestGateway>;
}

export interface RestAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
  readonly json: any;
  readonly text: string;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address ? address.port : 0;
}

/** Each gateway of one test process gets its own slice of the RTP range. */
let slice = 0;

export async function startGateway(environment: Record<string, string> = {}): Promise<TestGateway> {
  const dataDir = mkdtempSync(join(tmpdir(), 'tandem-test-'));
  const sipPort = await freePort();
  const httpPort = await freePort();
  const portMin = 20_000 + ((process.pid * 7 + slice++) % 24) * 400;
  return launch({
    dataDir,
    sipPort,
    httpPort,
    environment: {
      TANDEM_SIP_LISTEN: `udp://127.0.0.1:${sipPort},tcp://127.0.0.1:${sipPort}`,
      TANDEM_HTTP_LISTEN: `127.0.0.1:${httpPort}`,
      TANDEM_HTTP_CLIENT_ALLOW: '127.0.0.0/8',
      TANDEM_DATA_DIR: dataDir,
      TANDEM_MEDIA_PORT_MIN: String(portMin),
      TANDEM_MEDIA_PORT_MAX: String(portMin + 399),
      TANDEM_MEDIA_QUARANTINE_MS: '0',
      TANDEM_MEDIA_WORKERS: '1',
      TANDEM_ACCOUNT_SID: TEST_SID,
      TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
      ...environment,
    },
  });
}

interface Place {
  readonly dataDir: string;
  readonly sipPort: number;
  readonly httpPort: number;
  readonly environment: Record<string, string>;
}

async function launch(place: Place): Promise<TestGateway> {
  const { dataDir, sipPort, httpPort, environment } = place;
  const child = spawn(process.execPath, [...START_FLAGS, 'src/cli.ts', 'start'], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...START_ENVIRONMENT, ...environment },
  });
  const lines: string[] = [];
  const exit = new Promise<number | null>((resolve) => child.on('exit', resolve));
  const ready = new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        lines.push(line);
        if (line.includes('"msg":"ready"')) resolve();
      });
    }
    void exit.then((code) =>
      reject(new Error(`gateway exited with ${code}:\n${lines.join('\n')}`)),
    );
  });
  await ready;
  const httpBase = `http://127.0.0.1:${httpPort}`;
  return {
    process: child,
    sipPort,
    httpBase,
    dataDir,
    lines,
    exited: exit,
    rest: (method, path, form) => rest(httpBase, method, path, form),
    metric: (name) => metric(httpBase, name),
    stop: async () => {
      if (child.exitCode === null) child.kill('SIGTERM');
      const code = await exit;
      rmSync(dataDir, { recursive: true, force: true });
      return code;
    },
    crash: async () => {
      child.kill('SIGKILL');
      await exit;
      return launch(place);
    },
  };
}

async function rest(
  base: string,
  method: string,
  path: string,
  form?: Record<string, string>,
): Promise<RestAnswer> {
  const response = await fetch(`${base}/2010-04-01/Accounts/${TEST_SID}/${path}`, {
    method,
    headers: {
      authorization: `Basic ${Buffer.from(`${TEST_SID}:${TEST_TOKEN}`).toString('base64')}`,
      ...(form ? { 'content-type': 'application/x-www-form-urlencoded' } : {}),
    },
    ...(form ? { body: new URLSearchParams(form).toString() } : {}),
  });
  const text = await response.text();
  const isJson = (response.headers.get('content-type') ?? '').includes('json');
  return { status: response.status, json: isJson ? JSON.parse(text) : null, text };
}

async function metric(base: string, name: string): Promise<number> {
  const text = await (await fetch(`${base}/metrics`)).text();
  const line = text.split('\n').find((entry) => entry.startsWith(`${name} `));
  return line === undefined ? Number.NaN : Number(line.slice(name.length + 1));
}

/** Resident memory of the gateway and all its workers, kB. */
export function residentKb(pid: number): number {
  let total = 0;
  for (const each of [pid, ...childrenOf(pid)]) {
    const match = /^VmRSS:\s+(\d+)/m.exec(readStatus(each));
    total += match ? Number(match[1]) : 0;
  }
  return total;
}

function readStatus(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8');
  } catch {
    return '';
  }
}

export function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    const direct = text === '' ? [] : text.split(' ').map(Number);
    return [...direct, ...direct.flatMap(childrenOf)];
  } catch {
    return [];
  }
}
