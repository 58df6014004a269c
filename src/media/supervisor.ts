/**
 * Keeps the media workers running: spawns them with this process' own node binary, shakes hands,
 * asks for a sign of life, starts dead ones again within a budget, and takes over those that an
 * earlier gateway left behind. One slot per worker; a slot keeps its share of the RTP ports, so
 * that a worker started again can bind the very ports its predecessor had.
 *
 * Not media: what a worker does is `worker.ts`, what its ports mean is `engine.ts`. A worker that
 * hangs is killed, never waited for: one that wakes up later must not send a single packet.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { lstatSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Clock, Timer } from '../core/clock.ts';
import { sleep } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { StartOptions } from './binding.ts';
import { ADDON_PATH } from './binding.ts';
import { type ControlLimits, DEFAULT_CONTROL_LIMITS } from './frames.ts';
import { PROTOCOL } from './protocol.ts';
import { slicePorts } from './range.ts';
import { ControlClient } from './socket.ts';

/** What a worker process is started with, as its only argument (JSON). */
export interface WorkerArguments {
  /** Names one life of one worker: `worker % SLOTS_MAX` is its slot, the rest is random. */
  readonly worker: number;
  readonly socketPath: string;
  readonly addonPath: string;
  readonly start: StartOptions;
  readonly limits: ControlLimits;
  readonly clips: { readonly entriesMax: number; readonly bytesMax: number };
  /** Finished plays and recordings remembered per port, so that an id is never done twice. */
  readonly outcomesMax: number;
  /** Events kept per port while no gateway listens. */
  readonly missedMax: number;
  /** A worker that may outlive its gateway waits so long for the next one. */
  readonly orphanMs: number;
}

export interface SupervisorOptions {
  /** 0: one per core. */
  readonly workers: number;
  readonly address: string;
  readonly portMin: number;
  readonly portMax: number;
  readonly quarantineMs: number;
  readonly realtimePriority: number;
  readonly clipPreloadBytesMax: number;
  readonly clipEntriesMax: number;
  readonly clipBytesMax: number;
  readonly outcomesMax: number;
  readonly missedMax: number;
  /** Workers go on without a gateway, for at most `orphanMs`. */
  readonly outlive: boolean;
  readonly orphanMs: number;
  readonly readyTimeoutMs: number;
  readonly pingIntervalMs: number;
  /** No sign of life for so long: the worker is killed and replaced. */
  readonly pingTimeoutMs: number;
  readonly restartsMax: number;
  readonly restartWindowMs: number;
  readonly restartDelayMs: number;
  readonly restartDelayMsMax: number;
  /** A slot over its budget rests so long, then gets a fresh one. */
  readonly parkMs: number;
  readonly stopTimeoutMs: number;
  readonly limits: ControlLimits;
}

export const DEFAULT_SUPERVISOR_OPTIONS: SupervisorOptions = {
  workers: 0,
  address: '127.0.0.1',
  portMin: 20_000,
  portMax: 29_999,
  quarantineMs: 30_000,
  realtimePriority: 50,
  clipPreloadBytesMax: 4_194_304,
  clipEntriesMax: 512,
  clipBytesMax: 268_435_456,
  outcomesMax: 64,
  missedMax: 256,
  outlive: false,
  orphanMs: 120_000,
  readyTimeoutMs: 15_000,
  pingIntervalMs: 500,
  pingTimeoutMs: 2_000,
  restartsMax: 5,
  restartWindowMs: 60_000,
  restartDelayMs: 20,
  restartDelayMsMax: 5_000,
  parkMs: 300_000,
  stopTimeoutMs: 3_000,
  limits: DEFAULT_CONTROL_LIMITS,
};

export const SLOTS_MAX = 256;
/** sun_path holds 108 bytes with its ending zero (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 107;
const WORKER_SCRIPT = fileURLToPath(new URL('../worker.ts', import.meta.url));
/** MB: its JavaScript only passes commands on, and a young heap of 16 MB would be all garbage. */
const WORKER_FLAGS = ['--max-semi-space-size=1'];
/** All that a worker gets of our environment: it needs no secrets. */
const WORKER_ENVIRONMENT = [
  'MALLOC_ARENA_MAX',
  'LANG',
  'TZ',
  'LD_PRELOAD',
  'LD_LIBRARY_PATH',
  'ASAN_OPTIONS',
];

export interface LiveWorker {
  readonly slot: number;
  readonly id: number;
  readonly pid: number;
  readonly client: ControlClient;
  /** How many its share of the port range is good for. */
  readonly portsMax: number;
  /** Left behind by an earlier gateway, with its ports. */
  readonly isAdopted: boolean;
}

interface SupervisorEvents {
  up: [worker: LiveWorker];
  down: [worker: LiveWorker];
  /** Over its restart budget: what it carried is lost, the node goes on with the others. */
  parked: [slot: number];
}

export interface SupervisorParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly dataDir: string;
  readonly options: SupervisorOptions;
  readonly addonPath?: string;
}

export class Supervisor extends EventEmitter<SupervisorEvents> {
  readonly #parts: SupervisorParts;
  readonly #slots: Slot[] = [];

  constructor(parts: SupervisorParts) {
    super();
    this.#parts = parts;
  }

  /** Resolves when every worker answers; rejects with the reason of the first that cannot. */
  async start(): Promise<void> {
    const { options, dataDir } = this.#parts;
    const count = options.workers === 0 ? availableParallelism() : options.workers;
    const directory = socketDirectory(dataDir);
    const slices = slicePorts(options.portMin, options.portMax, Math.min(count, SLOTS_MAX));
    slices.forEach((slice, index) => {
      const path = join(directory, `${index}.sock`);
      const slot = new Slot({ ...this.#parts, supervisor: this, index, path, ...slice });
      this.#slots.push(slot);
    });
    try {
      await Promise.all(this.#slots.map((slot) => slot.start()));
    } catch (thrown) {
      await this.close();
      throw thrown;
    }
  }

  get live(): readonly LiveWorker[] {
    return this.#slots.flatMap((slot) => (slot.live === null ? [] : [slot.live]));
  }

  isParked(slot: number): boolean {
    return this.#slots[slot]?.isParked ?? true;
  }

  /** `leaveWorkers`: they stay for the next gateway, when they may outlive this one. Idempotent. */
  async close(options: { leaveWorkers: boolean } = { leaveWorkers: false }): Promise<void> {
    await Promise.all(this.#slots.map((slot) => slot.close(options)));
  }
}

interface SlotParts extends SupervisorParts {
  readonly supervisor: Supervisor;
  readonly index: number;
  readonly path: string;
  readonly portMin: number;
  readonly portMax: number;
}

interface Launched {
  readonly client: ControlClient;
  readonly child: ChildProcess | null;
  /** Start time from /proc, so that a pid used again is never killed. */
  readonly stamp: string;
}

class Slot {
  readonly #parts: SlotParts;
  #live: LiveWorker | null = null;
  #launched: Launched | null = null;
  #restartsMs: number[] = [];
  #isParked = false;
  #closing = new AbortController();
  #ping: Timer | null = null;

  constructor(parts: SlotParts) {
    this.#parts = parts;
  }

  get live(): LiveWorker | null {
    return this.#live;
  }

  get isParked(): boolean {
    return this.#isParked;
  }

  async start(): Promise<void> {
    const adopted = await this.#adopt();
    if (!adopted) await this.#spawn();
  }

  async close(options: { leaveWorkers: boolean }): Promise<void> {
    this.#closing.abort(new GatewayError('MEDIA_UNAVAILABLE', { problem: 'closing' }));
    this.#ping?.cancel();
    const launched = this.#launched;
    if (launched === null) return;
    this.#launched = null;
    this.#live = null;
    if (options.leaveWorkers && this.#parts.options.outlive) {
      launched.child?.unref();
      return launched.client.close();
    }
    const ended = new Promise<void>((done) => launched.client.once('closed', () => done()));
    await launched.client.request('quit', {}).catch(() => undefined);
    await this.#within(this.#parts.options.stopTimeoutMs, ended);
    await launched.client.close();
    await this.#kill(launched);
  }

  /** Takes over a worker that listens on our path already; false when there is none. */
  async #adopt(): Promise<boolean> {
    const { clock, options, path, log, index } = this.#parts;
    let client: ControlClient;
    try {
      client = await ControlClient.connect({ path, clock, limits: options.limits });
    } catch {
      return false;
    }
    try {
      await this.#greet({ client, child: null, stamp: '' });
      log.info({ slot: index, pid: this.#live?.pid }, 'media worker taken over');
      return true;
    } catch (thrown) {
      // Of another version or broken: it ends by itself, as no gateway speaks to it.
      log.warn({ slot: index, problem: asGatewayError(thrown).message }, 'media worker refused us');
      await client.close();
      return false;
    }
  }

  async #spawn(): Promise<void> {
    const { clock, options, path } = this.#parts;
    rmSync(path, { force: true });
    const program = [...WORKER_FLAGS, WORKER_SCRIPT, JSON.stringify(this.#arguments())];
    const child = spawn(process.execPath, program, {
      // Its own session: a terminal's Ctrl-C is for the gateway, which drains first.
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: pick(process.env, WORKER_ENVIRONMENT),
    });
    child.unref();
    let client: ControlClient | null = null;
    try {
      await this.#listening(child);
      client = await ControlClient.connect({ path, clock, limits: options.limits });
      await this.#greet({ client, child, stamp: startStamp(child.pid ?? 0) });
    } catch (thrown) {
      await client?.close();
      child.kill('SIGKILL');
      throw thrown;
    }
  }

  #arguments(): WorkerArguments {
    const { clock, options, index, path, portMin, portMax, addonPath } = this.#parts;
    return {
      worker: Number.parseInt(clock.randomHex(5), 16) * SLOTS_MAX + index,
      socketPath: path,
      addonPath: addonPath ?? ADDON_PATH,
      start: {
        realtimePriority: options.realtimePriority,
        address: options.address,
        portMin,
        portMax,
        quarantineMs: options.quarantineMs,
        clipPreloadBytesMax: options.clipPreloadBytesMax,
      },
      limits: options.limits,
      clips: { entriesMax: options.clipEntriesMax, bytesMax: options.clipBytesMax },
      outcomesMax: options.outcomesMax,
      missedMax: options.missedMax,
      orphanMs: options.orphanMs,
    };
  }

  /** The worker writes one line when its socket listens; then its output is ours no more. */
  #listening(child: ChildProcess): Promise<void> {
    const { clock, options } = this.#parts;
    return new Promise((done, reject) => {
      const fail = (problem: string): void => {
        deadline.cancel();
        reject(new GatewayError('MEDIA_UNAVAILABLE', { problem }));
      };
      const deadline = clock.timer(options.readyTimeoutMs, () => fail('worker does not get ready'));
      child.once('error', (error) => fail(error.message));
      child.once('exit', (code, signal) => fail(`worker ended at start (${signal ?? code})`));
      child.stdout?.once('data', () => {
        deadline.cancel();
        child.stdout?.destroy();
        done();
      });
    });
  }

  /** `hello`: the worker loads the addon on the first one, so this is also where that fails. */
  async #greet(launched: Launched): Promise<void> {
    const { options, index, supervisor, log, portMin, portMax } = this.#parts;
    const { client } = launched;
    const hello = await client.request('hello', { protocol: PROTOCOL, outlive: options.outlive });
    this.#closing.signal.throwIfAborted();
    const isAdopted = launched.child === null;
    const stamp = isAdopted ? startStamp(hello.pid) : launched.stamp;
    this.#launched = { ...launched, stamp };
    const portsMax = Math.floor((portMax - portMin + 1) / 2);
    const live = { slot: index, id: hello.worker, pid: hello.pid, client, portsMax, isAdopted };
    this.#live = live;
    client.on('log', (line) => log[line.level]({ slot: index, ...line.fields }, line.message));
    client.once('closed', (problem) => this.#down(problem));
    this.#watch(client);
    const { pid, backend, scheduling } = hello;
    log.info({ slot: index, pid, backend, scheduling }, 'media worker up');
    supervisor.emit('up', live);
  }

  /** One question every `pingIntervalMs`; silence since the last answer is the measure. */
  #watch(client: ControlClient): void {
    const { clock, options, log, index } = this.#parts;
    let heardMs = clock.monotonicMs();
    let askedMs = heardMs;
    const beat = (): void => {
      if (client.isClosed) return;
      const nowMs = clock.monotonicMs();
      // A gateway that itself stood still for long must not blame its workers.
      const stoodStill = nowMs - askedMs > options.pingIntervalMs * 3;
      if (!stoodStill && nowMs - heardMs > options.pingTimeoutMs) {
        log.error({ slot: index, silentMs: Math.round(nowMs - heardMs) }, 'media worker hangs');
        void client.close();
        return;
      }
      askedMs = nowMs;
      client.request('ping', {}).then(
        () => {
          heardMs = clock.monotonicMs();
        },
        () => undefined,
      );
      this.#ping = clock.timer(options.pingIntervalMs, beat);
    };
    beat();
  }

  #down(problem: string): void {
    const launched = this.#launched;
    const live = this.#live;
    if (launched === null || live === null || this.#closing.signal.aborted) return;
    const { log, index, supervisor } = this.#parts;
    this.#ping?.cancel();
    this.#live = null;
    this.#launched = null;
    log.error({ slot: index, pid: live.pid, problem }, 'media worker down');
    supervisor.emit('down', live);
    this.#restart(launched).catch((thrown) => {
      if (this.#closing.signal.aborted) return;
      log.error({ slot: index, problem: asGatewayError(thrown).message }, 'media slot gave up');
    });
  }

  /** Tries until a worker is up; the budget turns a crash loop into a parked slot. */
  async #restart(dead: Launched): Promise<void> {
    const { clock, options, log, index } = this.#parts;
    const { signal } = this.#closing;
    await this.#kill(dead);
    for (;;) {
      const nowMs = clock.monotonicMs();
      this.#restartsMs = this.#restartsMs.filter((ms) => nowMs - ms < options.restartWindowMs);
      if (this.#restartsMs.length >= options.restartsMax) await this.#park(signal);
      const doubled = options.restartDelayMs * 2 ** this.#restartsMs.length;
      const delayMs = Math.min(doubled, options.restartDelayMsMax) * (0.5 + clock.random() / 2);
      this.#restartsMs.push(nowMs);
      await sleep(clock, delayMs, signal);
      try {
        return await this.#spawn();
      } catch (thrown) {
        signal.throwIfAborted();
        log.error({ slot: index, problem: asGatewayError(thrown).message }, 'media worker failed');
      }
    }
  }

  async #park(signal: AbortSignal): Promise<void> {
    const { clock, options, log, index, supervisor } = this.#parts;
    this.#isParked = true;
    log.error({ slot: index, restarts: this.#restartsMs.length }, 'media worker parked');
    supervisor.emit('parked', index);
    await sleep(clock, options.parkMs, signal);
    this.#isParked = false;
    this.#restartsMs = [];
  }

  /** Makes sure that the process is gone: fencing, and its ports can be bound again. */
  async #kill(launched: Launched): Promise<void> {
    const { child } = launched;
    if (child === null) {
      if (launched.stamp === '' || launched.stamp !== startStamp(stampPid(launched.stamp))) return;
      process.kill(stampPid(launched.stamp), 'SIGKILL');
      return;
    }
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.ref();
    const exited = new Promise<void>((done) => child.once('exit', () => done()));
    child.kill('SIGKILL');
    await this.#within(this.#parts.options.stopTimeoutMs, exited);
  }

  async #within(delayMs: number, work: Promise<void>): Promise<void> {
    const over = new AbortController();
    await Promise.race([work, sleep(this.#parts.clock, delayMs, over.signal).catch(() => {})]);
    over.abort();
  }
}

/** `pid:start time`, or '' when there is no such process. */
function startStamp(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // Fields are counted behind the command in parentheses, which may itself hold anything.
    const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
    return startTime === undefined ? '' : `${pid}:${startTime}`;
  } catch {
    return '';
  }
}

function stampPid(stamp: string): number {
  return Number.parseInt(stamp, 10);
}

function pick(all: NodeJS.ProcessEnv, names: readonly string[]): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(all).filter(([name]) => names.includes(name)));
}

/**
 * The folder of the control sockets, made private: `data.dir/run`, or a folder of ours below the
 * system's temporary one when the path would not fit into a socket address. Always the same for
 * one data folder, so that the next gateway finds the workers of this one.
 */
export function socketDirectory(dataDir: string, temporary: string = tmpdir()): string {
  const preferred = resolve(dataDir, 'run');
  const longest = Buffer.byteLength(join(preferred, `${SLOTS_MAX - 1}.sock`));
  const hash = createHash('sha256').update(preferred).digest('hex').slice(0, 16);
  const fallback = join(temporary, `tandem-${process.getuid?.() ?? 0}-${hash}`);
  const directory = longest <= SOCKET_PATH_BYTES_MAX ? preferred : fallback;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const stat = lstatSync(directory);
  const isOurs = stat.isDirectory() && stat.uid === (process.getuid?.() ?? stat.uid);
  if (!isOurs || (stat.mode & 0o077) !== 0) {
    const problem = `${directory} must be a folder of ours that nobody else can enter (mode 0700)`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'data.dir', problem });
  }
  return directory;
}
