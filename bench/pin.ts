/**
 * Keeps the load and the server under test off each other's processors, for quieter figures: the
 * first processor is for SIPp, what stands in front and this process, all others are for whichever
 * server is measured. Every process inherits its set when it is started. Without `taskset` or with
 * one processor nothing is pinned.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

interface Processors {
  readonly load: string;
  readonly server: string;
}

const PROCESSORS = split();

/** From now on what is started counts as load; `startPinned` is for the others. */
export function pinLoad(): void {
  if (PROCESSORS) pinUs(PROCESSORS.load);
}

/** Starts a server under test; nothing else may be started meanwhile. */
export async function startPinned<Started>(start: () => Promise<Started>): Promise<Started> {
  if (!PROCESSORS) return start();
  pinUs(PROCESSORS.server);
  try {
    return await start();
  } finally {
    pinUs(PROCESSORS.load);
  }
}

/** For the head of a bench's output. */
export function describePins(): string {
  if (!PROCESSORS) return 'nothing pinned to processors';
  return `load on processor ${PROCESSORS.load}, either server on ${PROCESSORS.server}`;
}

function split(): Processors | undefined {
  if (!existsSync('/usr/bin/taskset')) return undefined;
  const allowed = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'latin1'));
  const [load, ...server] = (allowed?.[1] ?? '').split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  return server.length > 0 ? { load: String(load), server: server.join() } : undefined;
}

/** All threads of this process, as any of them may be the one that starts another. */
function pinUs(processors: string): void {
  const parameters = ['-a', '-c', '-p', processors, String(process.pid)];
  execFileSync('/usr/bin/taskset', parameters, { stdio: 'ignore' });
}
