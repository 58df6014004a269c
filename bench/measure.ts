/**
 * What the benches share: CPU time of a process with all its children, medians, a table and
 * verdicts on standard output. CPU time is read from the kernel, so a noisy machine moves it little.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { childrenOf } from '../test/support/gateway.ts';

/** USER_HZ is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** User and system time of `pid` and all below it, seconds. */
export function cpuSeconds(pid: number): number {
  let ticks = 0;
  for (const each of [pid, ...childrenOf(pid)]) {
    try {
      const text = readFileSync(`/proc/${each}/stat`, 'latin1');
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
      ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // It ended between listing and reading: what it used is gone from this sum.
    }
  }
  return ticks / TICKS_PER_SECOND;
}

/**
 * CPU time of the threads that `pid` has now, seconds, in the scheduler's own nanoseconds: for
 * windows of a few seconds in which hundredths of a second would be coarse. Threads that end take
 * their time with them, so only for processes whose threads stay.
 */
export function threadSeconds(pid: number): number {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const text = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1');
    nanoseconds += Number(text.split(' ')[0]);
  }
  return nanoseconds / 1e9;
}

export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** Nearest rank. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
}

export function printTable(rows: readonly Readonly<Record<string, string | number>>[]): void {
  const names = Object.keys(rows[0] ?? {});
  const cells = rows.map((row) => names.map((name) => format(row[name])));
  const widths = names.map((name, column) =>
    Math.max(name.length, ...cells.map((row) => row[column]?.length ?? 0)),
  );
  const line = (values: readonly string[]): string =>
    values.map((value, column) => value.padEnd(widths[column] ?? 0)).join('  ');
  process.stdout.write(`${[names, ...cells].map(line).join('\n')}\n`);
}

function format(value: string | number | undefined): string {
  if (typeof value !== 'number') return value ?? '';
  return Number.isInteger(value) ? String(value) : value.toFixed(3);
}

/** One line for one target; a miss becomes the exit code. */
export function verdict(isMet: boolean, text: string): void {
  process.stdout.write(`${isMet ? 'PASS' : 'MISS'}  ${text}\n`);
  if (!isMet) process.exitCode = 1;
}

/** Why a bench cannot run here; not a miss. */
export function skipBench(reason: string): never {
  process.stdout.write(`SKIP  ${reason}\n`);
  process.exit(0);
}

/** Ends this process when a bench hangs; what it started ends with it. */
export function endWithin(seconds: number): void {
  const timer = setTimeout(() => {
    process.stdout.write(`MISS  not finished within ${seconds} s\n`);
    process.exit(1);
  }, seconds * 1000);
  timer.unref();
}

export function sleepMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A figure on its way: printed against what it should become, without failing the bench. */
export function aim(isMet: boolean, text: string): void {
  process.stdout.write(`${isMet ? 'PASS' : 'AIM '}  ${text}\n`);
}
