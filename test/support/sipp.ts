/**
 * SIPp as a peer: scenarios from test/peers, bounded runs, what it counted. Started and stopped
 * by process id, on loopback only.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SCENARIOS = fileURLToPath(new URL('../peers', import.meta.url));

export function hasSipp(): boolean {
  return existsSync('/usr/bin/sipp');
}

export interface SippOptions {
  /** A file of test/peers without `.xml`, or one of SIPp's own as `builtin:uas`. */
  readonly scenario: string;
  readonly port: number;
  /** `address:port` for a calling scenario. */
  readonly target?: string;
  readonly calls?: number;
  readonly perSecond?: number;
  readonly service?: string;
  readonly mediaPort?: number;
  /** `@name@` in the scenario becomes the value: for what SIPp's own keywords do not reach. */
  readonly replace?: Readonly<Record<string, string>>;
  readonly transport?: 'u1' | 't1';
  /** Where it is, for SIP and audio; 127.0.0.1 when absent. */
  readonly address?: string;
  readonly timeoutSeconds: number;
  readonly extra?: readonly string[];
}

export interface SippResult {
  /** 0 when every call went as the scenario says. */
  readonly code: number | null;
  /** Response times of `rtd="true"`, ms. */
  readonly responseMs: readonly number[];
  readonly succeeded: number;
  readonly failed: number;
  readonly output: string;
}

export interface SippRun {
  readonly process: ChildProcess;
  readonly done: Promise<SippResult>;
  stop(): Promise<SippResult>;
}

export function startSipp(options: SippOptions): SippRun {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-sipp-'));
  const scenario = options.scenario.startsWith('builtin:')
    ? ['-sn', options.scenario.slice(8)]
    : ['-sf', writeScenario(folder, options)];
  const { address: at = '127.0.0.1' } = options;
  const child = spawn(
    '/usr/bin/sipp',
    [
      ...(options.target ? [options.target] : []),
      ...scenario,
      ...['-i', at, '-mi', at, '-p', String(options.port)],
      ...['-t', options.transport ?? 'u1'],
      ...(options.mediaPort ? ['-mp', String(options.mediaPort)] : []),
      ...(options.calls ? ['-m', String(options.calls)] : []),
      ...(options.perSecond ? ['-r', String(options.perSecond)] : []),
      ...(options.service ? ['-s', options.service] : []),
      ...['-timeout', `${options.timeoutSeconds}s`, '-timeout_error'],
      ...['-trace_err', '-trace_stat', '-trace_rtt', '-fd', '60', '-rtt_freq', '50', '-nostdin'],
      ...(options.extra ?? []),
    ],
    { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk) => {
      output = (output + chunk).slice(-20_000);
    });
  }
  const done = new Promise<SippResult>((resolve) => {
    child.on('close', (code) => {
      const result = {
        code,
        output: output + readMatching(folder, '_errors.log'),
        ...counts(folder),
      };
      rmSync(folder, { recursive: true, force: true });
      resolve(result);
    });
  });
  return {
    process: child,
    done,
    stop: () => {
      // SIGUSR1 is SIPp's "end when the calls have ended"; a server scenario has none left.
      child.kill('SIGUSR1');
      const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
      return done.finally(() => clearTimeout(timer));
    },
  };
}

function writeScenario(folder: string, options: SippOptions): string {
  let text = readFileSync(join(SCENARIOS, `${options.scenario}.xml`), 'latin1');
  for (const [name, value] of Object.entries(options.replace ?? {})) {
    text = text.replaceAll(`@${name}@`, value);
  }
  const path = join(folder, `${options.scenario}.xml`);
  writeFileSync(path, text, 'latin1');
  return path;
}

function counts(folder: string): Pick<SippResult, 'responseMs' | 'succeeded' | 'failed'> {
  const rows = readMatching(folder, '_rtt.csv').split('\n').slice(1);
  const responseMs = rows.flatMap((row) => {
    const value = Number(row.split(';')[1]);
    return row === '' || Number.isNaN(value) ? [] : [value];
  });
  const table = readFirst(folder, (name) => /_\d+_\.csv$/.test(name))
    .trim()
    .split('\n');
  const names = table[0]?.split(';') ?? [];
  const last = table.at(-1)?.split(';') ?? [];
  const value = (name: string): number => Number(last[names.indexOf(name)] ?? 0);
  return {
    responseMs,
    succeeded: value('SuccessfulCall(C)'),
    failed: value('FailedCall(C)'),
  };
}

function readMatching(folder: string, ending: string): string {
  return readFirst(folder, (name) => name.endsWith(ending));
}

function readFirst(folder: string, match: (name: string) => boolean): string {
  const name = readdirSync(folder).find(match);
  return name === undefined ? '' : readFileSync(join(folder, name), 'utf8');
}
