/**
 * The media worker process: loads the addon, and does on behalf of a gateway what the control
 * protocol asks (`media/protocol.ts`). It holds what must outlive a gateway: ports, what plays and
 * records on them under which id, the outcome of each, and events nobody could be told.
 *
 * No call, no URL, no signaling. Every handler is synchronous and short; audio has its own thread
 * in the addon. Started by `media/supervisor.ts` with one JSON argument; writes one line to
 * standard output when its socket listens.
 */
import { mkdirSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Clock, realClock, type Timer } from './core/clock.ts';
import { GatewayError } from './core/errors.ts';
import type {
  Handle,
  MediaAddon,
  NativeEvent,
  PackedSettings,
  PlayerOptions,
  Started,
} from './media/binding.ts';
import { decodeEvents, loadAddon } from './media/binding.ts';
import { type Clip, ClipCache, guarded } from './media/clips.ts';
import type {
  Args,
  Attached,
  ControlHandlers,
  PlayDone,
  PlayRequest,
  PlaySource,
  PortEvent,
  PortEventMessage,
  RecordDone,
  Result,
} from './media/protocol.ts';
import { DONE, PROTOCOL } from './media/protocol.ts';
import { ControlServer } from './media/socket.ts';
import type { WorkerArguments } from './media/supervisor.ts';

/** Recordings and sockets are ours alone: 0600 and 0700 from the moment they are made. */
const PRIVATE_UMASK = 0o077;
/** Time that recorders get to write their last block when the worker is told to end. */
const QUIT_GRACE_MS = 500;

// --- Ports -------------------------------------------------------------------------------------

/** Something with an id that runs on a port and ends with an outcome. */
interface Effect {
  readonly kind: 'play' | 'record';
  readonly id: string;
  readonly clip: Clip | null;
  /** 0: silence, timed here. */
  handle: Handle;
  timer: Timer | null;
  readonly startedMs: number;
  outcome: PlayDone | RecordDone | null;
  /** Whether the outcome left for a gateway. */
  isTold: boolean;
}

interface MediaPort {
  readonly handle: Handle;
  readonly rtpPort: number;
  readonly rtcpPort: number;
  readonly ssrc: number;
  settings: PackedSettings | null;
  /** By kind and id, oldest first. */
  readonly effects: Map<string, Effect>;
  missed: PortEvent[];
  isClosed: boolean;
}

class MediaWorker {
  readonly #options: WorkerArguments;
  readonly #clock: Clock;
  readonly #server: ControlServer;
  readonly #ports = new Map<Handle, MediaPort>();
  /** Players and recorders to the port they work on. */
  readonly #effects = new Map<Handle, { readonly port: MediaPort; readonly effect: Effect }>();
  #started: { addon: MediaAddon; clips: ClipCache; engine: Started } | null = null;
  #mayOutlive = false;
  #orphan: Timer | null = null;
  #isQuitting = false;

  constructor(options: WorkerArguments, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    const { socketPath: path, limits } = options;
    this.#server = new ControlServer({ path, limits, handlers: this.#handlers() });
    this.#server.on('gateway', (isConnected) => this.#gateway(isConnected));
  }

  async listen(): Promise<void> {
    await this.#server.listen();
    // Nobody may have come for us at all.
    this.#orphan = this.#clock.timer(this.#options.orphanMs, () => this.quit());
  }

  /** A signal for the whole group is the gateway's business while there is one. */
  signalled(): void {
    if (!this.#server.isConnected) this.quit();
  }

  /** Finishes files, then ends the process. */
  quit(): void {
    if (this.#isQuitting) return;
    this.#isQuitting = true;
    for (const port of this.#ports.values()) this.#closePort(port);
    const check = (leftMs: number): void => {
      if (leftMs <= 0 || this.#effects.size === 0) {
        void this.#server.close();
        this.#clock.timer(20, () => process.exit(0));
        return;
      }
      this.#clock.timer(10, () => check(leftMs - 10));
    };
    // One turn for the answer to `quit` to leave.
    this.#clock.timer(1, () => check(QUIT_GRACE_MS));
  }

  #gateway(isConnected: boolean): void {
    this.#orphan?.cancel();
    if (isConnected || this.#isQuitting) return;
    const waitMs = this.#mayOutlive ? this.#options.orphanMs : 0;
    this.#orphan = this.#clock.timer(waitMs, () => this.quit());
  }

  #handlers(): ControlHandlers {
    return {
      hello: (args) => this.#hello(args),
      ping: () => ({ ports: this.#ports.size }),
      createPort: (args) => this.#createPort(args),
      createPorts: (args) => this.#createPorts(args),
      setPort: ({ port, settings }) => {
        const found = this.#port(port);
        guarded('set', () => this.#media().addon.set(port, settings));
        found.settings = settings;
        return DONE;
      },
      connect: ({ port, peer }) => {
        guarded('connect', () => this.#media().addon.connect(port, peer));
        return DONE;
      },
      ask: ({ port }) => guarded('ask', () => this.#media().addon.ask(port)),
      closePort: ({ port }) => {
        const found = this.#ports.get(port);
        if (found === undefined || found.isClosed) return { stats: null };
        const stats = guarded('ask', () => this.#media().addon.ask(port));
        this.#closePort(found);
        return { stats };
      },
      play: (args) => this.#play(args),
      stop: ({ port, playId }) => this.#stop(port, `play ${playId}`),
      record: (args) => this.#record(args),
      stopRecord: ({ port, recordId }) => this.#stop(port, `record ${recordId}`),
      pauseRecord: ({ port, recordId, paused }) => {
        const effect = this.#port(port).effects.get(`record ${recordId}`);
        if (effect !== undefined && effect.outcome === null) {
          guarded('set', () => this.#media().addon.set(effect.handle, { paused }));
        }
        return DONE;
      },
      attach: ({ port }) => this.#attach(this.#port(port)),
      list: () => ({ ports: [...this.#ports.keys()] }),
      quit: () => {
        this.quit();
        return DONE;
      },
    };
  }

  #hello(args: Args<'hello'>): Result<'hello'> {
    if (args.protocol !== PROTOCOL) {
      // Nobody who speaks our version is left to command us.
      this.quit();
      const problem = `worker speaks version ${PROTOCOL}, gateway ${args.protocol}`;
      throw new GatewayError('MEDIA_UNAVAILABLE', { problem });
    }
    this.#mayOutlive = args.outlive;
    try {
      this.#started ??= this.#start();
    } catch (thrown) {
      this.quit();
      throw thrown;
    }
    const { worker } = this.#options;
    return { worker, pid: process.pid, ports: this.#ports.size, ...this.#started.engine };
  }

  #start(): { addon: MediaAddon; clips: ClipCache; engine: Started } {
    const addon = loadAddon(this.#options.addonPath);
    const engine = guarded('start', () =>
      addon.start(this.#options.start, (batch, count) => this.#receive(decodeEvents(batch, count))),
    );
    return { addon, clips: new ClipCache({ addon, ...this.#options.clips }), engine };
  }

  #media(): { addon: MediaAddon; clips: ClipCache } {
    if (this.#started !== null) return this.#started;
    throw new GatewayError('MEDIA_UNAVAILABLE', { problem: 'not started' });
  }

  #port(handle: Handle): MediaPort {
    const port = this.#ports.get(handle);
    if (port !== undefined && !port.isClosed) return port;
    throw new GatewayError('MEDIA_COMMAND', { op: 'port', problem: `no port ${handle}` });
  }

  #createPort({ settings, ...options }: Args<'createPort'>): Result<'createPort'> {
    const { addon } = this.#media();
    const { handle, rtpPort, rtcpPort } = guarded('port', () => addon.create('port', options));
    try {
      if (settings !== undefined) guarded('set', () => addon.set(handle, settings));
    } catch (thrown) {
      addon.close(handle);
      throw thrown;
    }
    this.#ports.set(handle, {
      handle,
      rtpPort,
      rtcpPort,
      ssrc: options.ssrc,
      settings: settings ?? null,
      effects: new Map<string, Effect>(),
      missed: [],
      isClosed: false,
    });
    return { handle, rtpPort, rtcpPort };
  }

  #createPorts({ ssrcs, ...kind }: Args<'createPorts'>): Result<'createPorts'> {
    const ports: Result<'createPorts'>['ports'][number][] = [];
    try {
      for (const ssrc of ssrcs) ports.push({ ...this.#createPort({ ...kind, ssrc }), ssrc });
    } catch {} // nobody waits for these; whoever asks for one port hears why there is none
    return { ports };
  }

  /** Forgotten once its recorders have told their outcome. */
  #closePort(port: MediaPort): void {
    if (port.isClosed) return;
    port.isClosed = true;
    for (const effect of port.effects.values()) {
      if (effect.outcome === null && effect.kind === 'play') this.#end(port, effect);
    }
    guarded('close', () => this.#media().addon.close(port.handle));
    this.#forget(port);
  }

  #forget(port: MediaPort): void {
    if (!port.isClosed) return;
    for (const effect of port.effects.values()) if (effect.outcome === null) return;
    this.#ports.delete(port.handle);
  }

  #play({ port: handle, play, offsetMs }: Args<'play'>): Result<'play'> {
    const port = this.#port(handle);
    const known = port.effects.get(`play ${play.playId}`);
    if (known !== undefined) {
      return { outcome: known.outcome as PlayDone | null, clipMs: known.clip?.durationMs ?? 0 };
    }
    const { addon, clips } = this.#media();
    const clip = play.source.kind === 'file' ? clips.take(play.source.path) : null;
    const effect = this.#effect('play', play.playId, clip);
    try {
      if (play.source.kind === 'silence') this.#silence(port, effect, play.source, play.loop);
      else {
        const options = playerOptions(handle, clip?.handle ?? 0, play, offsetMs);
        effect.handle = guarded('play', () => addon.create('player', options)).handle;
      }
    } catch (thrown) {
      if (clip !== null) clips.release(clip);
      throw thrown;
    }
    this.#keep(port, effect);
    return { outcome: null, clipMs: clip?.durationMs ?? 0 };
  }

  #silence(
    port: MediaPort,
    effect: Effect,
    source: { readonly durationMs: number },
    loop: number,
  ): void {
    if (loop === 0) return;
    effect.timer = this.#clock.timer(source.durationMs * loop, () => this.#silent(port, effect));
  }

  #silent(port: MediaPort, effect: Effect, reason: 'finished' | 'stopped' = 'finished'): void {
    effect.timer?.cancel();
    const playedMs = Math.round(this.#clock.monotonicMs() - effect.startedMs);
    this.#done(port, effect, { kind: 'playDone', playId: effect.id, reason, playedMs });
  }

  #record({ port: handle, record }: Args<'record'>): Result<'record'> {
    const port = this.#port(handle);
    const known = port.effects.get(`record ${record.recordId}`);
    if (known !== undefined) return { outcome: known.outcome as RecordDone | null };
    const { recordId, ...options } = record;
    const effect = this.#effect('record', recordId, null);
    effect.handle = guarded('record', () => {
      mkdirSync(dirname(options.path), { recursive: true });
      return this.#media().addon.create('recorder', { port: handle, ...options });
    }).handle;
    this.#keep(port, effect);
    return { outcome: null };
  }

  #effect(kind: Effect['kind'], id: string, clip: Clip | null): Effect {
    const startedMs = this.#clock.monotonicMs();
    return { kind, id, clip, handle: 0, timer: null, startedMs, outcome: null, isTold: false };
  }

  #keep(port: MediaPort, effect: Effect): void {
    port.effects.set(`${effect.kind} ${effect.id}`, effect);
    if (effect.handle !== 0) this.#effects.set(effect.handle, { port, effect });
    for (const [key, old] of port.effects) {
      if (port.effects.size <= this.#options.outcomesMax) return;
      if (old.outcome !== null) port.effects.delete(key);
    }
  }

  /** The outcome follows as an event; stopping what ended or never was is no error. */
  #stop(handle: Handle, key: string): Result<'stop'> {
    const port = this.#port(handle);
    const effect = port.effects.get(key);
    if (effect !== undefined && effect.outcome === null) this.#end(port, effect);
    return DONE;
  }

  #end(port: MediaPort, effect: Effect): void {
    if (effect.handle === 0) this.#silent(port, effect, 'stopped');
    else guarded('close', () => this.#media().addon.close(effect.handle));
  }

  #attach(port: MediaPort): Attached {
    const running = [...port.effects.values()].filter((effect) => effect.outcome === null);
    const outcomes: PortEvent[] = [];
    for (const effect of port.effects.values()) {
      if (effect.outcome !== null && !effect.isTold) outcomes.push(effect.outcome);
      effect.isTold ||= effect.outcome !== null;
    }
    const missed = [...port.missed, ...outcomes];
    port.missed = [];
    return {
      rtpPort: port.rtpPort,
      rtcpPort: port.rtcpPort,
      ssrc: port.ssrc,
      settings: port.settings,
      plays: running.filter(({ kind }) => kind === 'play').map(({ id }) => id),
      recordings: running.filter(({ kind }) => kind === 'record').map(({ id }) => id),
      missed,
    };
  }

  // --- Events of the addon ---------------------------------------------------------------------

  #receive(events: readonly NativeEvent[]): void {
    const told: { message: PortEventMessage; effect: Effect | null; port: MediaPort }[] = [];
    for (const event of events) {
      const running = this.#effects.get(event.handle);
      const port = running?.port ?? this.#ports.get(event.handle);
      if (port === undefined) continue;
      const outward = running === undefined ? outwardEvent(event) : outcome(event, running.effect);
      if (outward === null) continue;
      if (running !== undefined) this.#finish(port, running.effect, outward as PlayDone);
      const effect = running?.effect ?? null;
      told.push({ message: { port: port.handle, event: outward }, effect, port });
    }
    this.#tell(told);
  }

  #done(port: MediaPort, effect: Effect, event: PlayDone): void {
    this.#finish(port, effect, event);
    this.#tell([{ message: { port: port.handle, event }, effect, port }]);
  }

  #finish(port: MediaPort, effect: Effect, event: PlayDone | RecordDone): void {
    effect.outcome = event;
    if (effect.handle !== 0) {
      this.#effects.delete(effect.handle);
      // Its handle stays ours until closed; closing one that ended by itself is harmless.
      guarded('close', () => this.#media().addon.close(effect.handle));
    }
    if (effect.clip !== null) this.#media().clips.release(effect.clip);
    this.#forget(port);
  }

  /** To the gateway, or kept: outcomes by their id, the rest in order and bounded. */
  #tell(
    told: readonly { message: PortEventMessage; effect: Effect | null; port: MediaPort }[],
  ): void {
    const isTold = this.#server.tell(told.map(({ message }) => message));
    for (const { message, effect, port } of told) {
      if (effect !== null) effect.isTold = isTold;
      else if (!isTold) {
        if (port.missed.length >= this.#options.missedMax) port.missed.shift();
        port.missed.push(message.event);
      }
    }
  }
}

function playerOptions(
  port: Handle,
  clip: Handle,
  play: PlayRequest,
  offsetMs: number,
): PlayerOptions {
  const source: PlaySource = play.source;
  const common = { port, clip, loop: play.loop, offsetMs };
  if (source.kind === 'digits') return { ...common, digits: source.digits };
  if (source.kind !== 'tone') return common;
  const { kind: _, ...tone } = source;
  return { ...common, tone };
}

/** What a player's or recorder's event means under the id it was started with. */
function outcome(event: NativeEvent, effect: Effect): PlayDone | RecordDone | null {
  if (event.kind === 'playDone') {
    const { kind, reason, playedMs } = event;
    return { kind, playId: effect.id, reason, playedMs };
  }
  if (event.kind !== 'recordDone') return null;
  const { kind, reason, durationMs } = event;
  return { kind, recordId: effect.id, reason, durationMs };
}

function outwardEvent(event: NativeEvent): PortEvent | null {
  if (event.kind === 'playDone' || event.kind === 'recordDone') return null;
  const { handle: _, ...outward } = event;
  return outward;
}

async function run(): Promise<void> {
  process.umask(PRIVATE_UMASK);
  const worker = new MediaWorker(JSON.parse(process.argv[2] ?? '') as WorkerArguments, realClock);
  process.on('SIGTERM', () => worker.signalled());
  process.on('SIGINT', () => worker.signalled());
  process.on('SIGHUP', () => worker.signalled());
  await worker.listen();
  writeSync(1, 'ready\n');
}

await run();
