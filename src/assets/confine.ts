/**
 * How a program that reads hostile bytes is started: behind `prlimit` (util-linux, part of every
 * Debian), which bounds its memory and time and lets it write no file, and where the system permits
 * in a network namespace of its own, so without a network. Both replace themselves by the program,
 * so the child that is killed is the program.
 */
import { spawn } from 'node:child_process';

export interface ConfinementOptions {
  /** Memory of the child beyond its program and libraries. */
  readonly memoryBytesMax: number;
  readonly cpuSecondsMax: number;
}

/** Addresses that a program and its libraries take up before they do anything. */
const PROGRAM_BYTES = 536_870_912;

/** Root may make a network namespace; others where they may make a user namespace. */
const NAMESPACES: readonly (readonly string[])[] = [['--net'], ['--user', '--net']];

/** Of `prlimit` and `unshare` when the program could not be started: not its own word. */
export const NOT_STARTED: ReadonlySet<number> = new Set([126, 127]);

let namespaces: Promise<readonly string[]> | null = null;

export async function confine(
  command: string,
  args: readonly string[],
  options: ConfinementOptions,
): Promise<{ readonly command: string; readonly args: readonly string[] }> {
  // What this system permits does not change while we run.
  namespaces ??= permitted();
  const { memoryBytesMax, cpuSecondsMax } = options;
  const limits = [
    `--data=${memoryBytesMax}`,
    `--as=${memoryBytesMax + PROGRAM_BYTES}`,
    `--cpu=${cpuSecondsMax}`,
    '--fsize=0',
    '--core=0',
  ];
  return { command: 'prlimit', args: [...limits, '--', ...(await namespaces), command, ...args] };
}

async function permitted(): Promise<readonly string[]> {
  for (const flags of NAMESPACES) {
    const words = ['unshare', ...flags, '--'];
    if (await succeeds([...words, 'true'])) return words;
  }
  return [];
}

function succeeds([command = '', ...args]: readonly string[]): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: 'ignore' });
    child.once('error', () => resolve(false));
    child.once('close', (code) => resolve(code === 0));
  });
}
