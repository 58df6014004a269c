/**
 * The gateway's side of the media plane: gives out ports, picks the worker that carries each, and
 * brings ports back after either process died. When a worker dies its ports are made again, on the
 * same UDP ports, in the worker that takes its slot; when the gateway dies its successor adopts
 * the ports from their records.
 *
 * No media passes here, and nothing here knows what a call is.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { Handle, PortSettings } from './binding.ts';
import { packSettings, unpackSettings } from './packed.ts';
import { newSsrc, Port, type PortHost, type PortRecord, type PortRef } from './port.ts';
import type { Attached, PortEventMessage } from './protocol.ts';
import { type SpareKind, type SparePort, SparePorts } from './spares.ts';
import { type LiveWorker, SLOTS_MAX, type Supervisor } from './supervisor.ts';

export type { Port } from './port.ts';

export interface MediaEngineOptions {
  /** Ports of one worker; above it new calls are refused, live ones keep their quality. */
  readonly portsPerWorkerMax: number;
  /** A closing port waits so long for its recorders. */
  readonly closeTimeoutMs: number;
  /** A port whose worker died is given up when no other took over in time. */
  readonly restoreTimeoutMs: number;
  /** Worker deaths a port may live through: one that kills its worker again and again is lost. */
  readonly restoresMax: number;
  /** Ports made ahead of need, of one kind in one worker; few where the worker has few. */
  readonly sparePortsMax: number;
}

export const DEFAULT_MEDIA_ENGINE_OPTIONS: MediaEngineOptions = {
  portsPerWorkerMax: 4_000,
  closeTimeoutMs: 2_000,
  restoreTimeoutMs: 10_000,
  restoresMax: 3,
  sparePortsMax: 64,
};

export interface PortRequest {
  readonly rtcpMux: boolean;
  /** Beside this port, so that the two can be bridged. */
  readonly near?: PortRef;
  /** Local address; by default that of `media.address`. */
  readonly address?: string;
  /** Ports of one group are made in one worker, whichever comes first: they may be bridged. */
  readonly group?: string;
  /** What the port is to speak, when that is known already. */
  readonly settings?: PortSettings;
}

export class MediaEngine {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #supervisor: Supervisor;
  readonly #options: MediaEngineOptions;
  readonly #address: string;
  /** By every name a port has had: worker, then handle. How many a worker has is its load. */
  readonly #ports = new Map<number, Map<Handle, Port>>();
  readonly #live = new Set<Port>();
  /** Ports asked for and not made yet, by worker. */
  readonly #asked = new Map<number, number>();
  /** Where the ports of a group are, and how many they are. */
  readonly #groups = new Map<string, { worker: LiveWorker; ports: number }>();
  readonly #host: PortHost;
  readonly #spares: SparePorts;

  constructor(parts: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    supervisor: Supervisor;
    /** `media.address`. */
    address: string;
    options: MediaEngineOptions;
  }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#supervisor = parts.supervisor;
    this.#options = parts.options;
    this.#address = parts.address;
    this.#host = this.#makeHost(parts.metrics);
    this.#spares = new SparePorts({
      clock: parts.clock,
      portsMax: parts.options.sparePortsMax,
    });
    this.#supervisor.on('up', (worker) => this.#up(worker));
    this.#supervisor.on('down', (worker) => this.#down(worker));
    this.#supervisor.on('parked', (slot) => this.#parked(slot));
  }

  /** Ports in use. */
  get size(): number {
    return this.#live.size;
  }

  start(): Promise<void> {
    return this.#supervisor.start();
  }

  /** Whether the port is there, be it on its way to another worker. */
  has(ref: PortRef): boolean {
    const state = this.#find(ref)?.state;
    return state === 'live' || state === 'restoring';
  }

  /** Local address of ports that ask for none. */
  get address(): string {
    return this.#address;
  }

  async createPort(request: PortRequest): Promise<Port> {
    const { group = '' } = request;
    const near = request.near === undefined ? null : this.#find(request.near);
    if (near === undefined) throw unavailable('the port to be near to is gone');
    if (near !== null && near.state !== 'live') await near.settled();
    const worker = near === null ? this.#workerOf(group) : near.worker;
    const load = this.#load(worker);
    if (load >= this.#options.portsPerWorkerMax) {
      throw new GatewayError('OVERLOADED', { limit: 'media.portsPerWorkerMax' });
    }
    const { address = this.#address, rtcpMux, settings = null } = request;
    const kind = { address, rtcpMux };
    this.#enter(group, worker);
    try {
      const spare = this.#spares.take(worker, kind);
      const made = spare ?? (await this.#make(worker, kind, settings));
      const { handle, rtpPort, rtcpPort, ssrc } = made;
      const ref = { worker: worker.id, handle };
      const peer = null;
      const record = { ref, address, rtcpMux, rtpPort, rtcpPort, ssrc, group, settings, peer };
      const port = this.#add(worker, record);
      if (spare !== null && settings !== null) this.#begin(port, settings);
      this.#spares.refill(worker, kind);
      return port;
    } catch (thrown) {
      this.#leave(group);
      throw thrown;
    }
  }

  /**
   * Takes back a port of an earlier gateway: from the worker that still carries it, with what it
   * missed, or made again on the same UDP port (`moved`), or not at all (`lost`). Events come in a
   * later turn of the event loop: add listeners in the one that gets the port.
   */
  async adoptPort(record: PortRecord): Promise<Port> {
    const alive = this.#supervisor.live.find((worker) => worker.id === record.ref.worker);
    const attached = alive === undefined ? null : await this.#attach(alive, record.ref);
    if (alive !== undefined && attached !== null) {
      const { missed, rtpPort, rtcpPort, ssrc } = attached;
      const settings = attached.settings === null ? null : unpackSettings(attached.settings);
      this.#enter(record.group ?? '', alive);
      const port = this.#add(alive, { ...record, rtpPort, rtcpPort, ssrc, settings });
      port.takeLater(missed);
      this.#rebridge(port, record.peer);
      return port;
    }
    // Its slot tells whose share of the ports it was.
    const slot = record.ref.worker % SLOTS_MAX;
    const heir = this.#supervisor.live.find((worker) => worker.slot === slot);
    const worker = heir ?? this.#leastLoaded();
    this.#enter(record.group ?? '', worker);
    const port = this.#add(worker, { ...record });
    port.workerDown();
    if (heir === undefined) port.lose();
    else await this.#restore(port, heir);
    this.#rebridge(port, record.peer);
    if (port.state === 'live')
      port.rejoin().catch((thrown) => this.#failed('bridge', asGatewayError(thrown)));
    return port;
  }

  /** Closes what earlier gateways left in adopted workers and nobody took back. */
  async closeUnclaimed(): Promise<number> {
    let closed = 0;
    for (const worker of this.#supervisor.live) {
      if (!worker.isAdopted) continue;
      const { id, client } = worker;
      const { ports } = await client.request('list', {});
      const unclaimed = ports.filter((handle) => {
        return !this.#find({ worker: id, handle }) && !this.#spares.has(worker, handle);
      });
      closed += unclaimed.length;
      await Promise.all(unclaimed.map((port) => client.request('closePort', { port })));
    }
    return closed;
  }

  /** `leaveWorkers`: ports go on without us, for the next gateway to adopt. Idempotent. */
  async close(options: { leaveWorkers: boolean } = { leaveWorkers: false }): Promise<void> {
    if (options.leaveWorkers) {
      // The next gateway makes its own; a worker that is gone has none to give back.
      const { live } = this.#supervisor;
      await Promise.allSettled(live.map((worker) => this.#spares.giveBack(worker)));
    } else await Promise.all([...this.#live].map((port) => port.close()));
    await this.#supervisor.close(options);
  }

  // --- Workers that come and go ----------------------------------------------------------------

  #up(worker: LiveWorker): void {
    worker.client.on('events', (events) => this.#dispatch(worker, events));
    const waiting = [...this.#live].filter(
      (port) => port.state === 'restoring' && port.worker.slot === worker.slot,
    );
    if (waiting.length === 0) return;
    const startedMs = this.#clock.monotonicMs();
    Promise.all(waiting.map((port) => this.#restore(port, worker)))
      .then(() => Promise.all(waiting.map((port) => port.rejoin())))
      .then(() => {
        const tookMs = Math.round(this.#clock.monotonicMs() - startedMs);
        const restored = waiting.filter((port) => port.state === 'live').length;
        const fields = { slot: worker.slot, ports: waiting.length, restored, tookMs };
        this.#log.warn(fields, 'ports made again');
      })
      .catch((thrown) => this.#failed('restore', asGatewayError(thrown)));
  }

  #down(worker: LiveWorker): void {
    for (const port of this.#live) if (port.worker.id === worker.id) port.workerDown();
    this.#asked.delete(worker.id);
    this.#spares.forget(worker);
  }

  #parked(slot: number): void {
    for (const port of this.#live) if (port.worker.slot === slot) port.lose();
  }

  async #restore(port: Port, worker: LiveWorker): Promise<void> {
    try {
      await port.restore(worker);
    } catch (thrown) {
      this.#failed('restore', asGatewayError(thrown));
      // When the worker died again over it the port waits for the next one.
      if (!worker.client.isClosed) port.lose();
    }
  }

  async #attach(worker: LiveWorker, ref: PortRef): Promise<Attached | null> {
    try {
      return await worker.client.request('attach', { port: ref.handle });
    } catch (thrown) {
      this.#failed('attach', asGatewayError(thrown));
      return null;
    }
  }

  #dispatch(worker: LiveWorker, events: readonly PortEventMessage[]): void {
    const ports = this.#ports.get(worker.id);
    for (const { port, event } of events) ports?.get(port)?.take(event);
  }

  // --- Ports -----------------------------------------------------------------------------------

  #find(ref: PortRef): Port | undefined {
    return this.#ports.get(ref.worker)?.get(ref.handle);
  }

  #add(worker: LiveWorker, record: PortRecord): Port {
    const port = new Port({ host: this.#host, worker, record });
    this.#live.add(port);
    return port;
  }

  /** Asks the worker for one port, as there is no spare one. */
  async #make(
    worker: LiveWorker,
    kind: SpareKind,
    settings: PortSettings | null,
  ): Promise<SparePort> {
    const ssrc = newSsrc(this.#clock);
    const args = {
      ...kind,
      ssrc,
      ...(settings === null ? {} : { settings: packSettings(settings) }),
    };
    this.#asked.set(worker.id, (this.#asked.get(worker.id) ?? 0) + 1);
    try {
      return { ...(await worker.client.request('createPort', args)), ssrc };
    } finally {
      this.#asked.set(worker.id, (this.#asked.get(worker.id) ?? 1) - 1);
    }
  }

  /** Nobody waits for the first settings of a spare port: one that cannot have them is lost. */
  #begin(port: Port, settings: PortSettings): void {
    port.set(settings).catch(async (thrown) => {
      if (port.state !== 'live') return;
      this.#failed('set', asGatewayError(thrown));
      await port.close();
      port.emit('lost');
    });
  }

  /** A bridge of the record: the end that is adopted second finds the first. */
  #rebridge(port: Port, peer: PortRef | null): void {
    const other = peer === null ? undefined : this.#find(peer);
    if (other !== undefined && port.state === 'live') port.adoptPeer(other);
  }

  /** The worker that has the group, as long as it lives or another takes its slot. */
  #workerOf(group: string): LiveWorker {
    const known = group === '' ? undefined : this.#groups.get(group);
    if (known === undefined) return this.#leastLoaded();
    const { slot } = known.worker;
    return this.#supervisor.live.find((worker) => worker.slot === slot) ?? this.#leastLoaded();
  }

  #enter(group: string, worker: LiveWorker): void {
    if (group === '') return;
    const known = this.#groups.get(group);
    if (known === undefined) this.#groups.set(group, { worker, ports: 1 });
    else known.ports += 1;
  }

  #leave(group: string): void {
    const known = this.#groups.get(group);
    if (known === undefined) return;
    known.ports -= 1;
    if (known.ports === 0) this.#groups.delete(group);
  }

  #leastLoaded(): LiveWorker {
    let best: LiveWorker | null = null;
    for (const worker of this.#supervisor.live) {
      if (best === null || this.#load(worker) < this.#load(best)) best = worker;
    }
    if (best !== null) return best;
    throw unavailable('none is up');
  }

  #load(worker: LiveWorker): number {
    return (this.#ports.get(worker.id)?.size ?? 0) + (this.#asked.get(worker.id) ?? 0);
  }

  #makeHost(metrics: Metrics): PortHost {
    const restored = metrics.counter(
      'tandem_media_ports_after_worker_death_total',
      'Ports whose worker died, by what became of them',
      ['outcome'],
    );
    metrics.gauge('tandem_media_ports', 'RTP ports in use', () => this.#live.size);
    metrics.gauge('tandem_media_workers', 'Media workers up', () => this.#supervisor.live.length);
    const { closeTimeoutMs, restoreTimeoutMs, restoresMax } = this.#options;
    return {
      clock: this.#clock,
      closeTimeoutMs,
      restoreTimeoutMs,
      restoresMax,
      find: (ref) => this.#find(ref),
      name: (ref, port) => {
        const ports = this.#ports.get(ref.worker) ?? new Map<Handle, Port>();
        this.#ports.set(ref.worker, ports.set(ref.handle, port));
      },
      forget: (port, names, group) => {
        this.#live.delete(port);
        this.#leave(group);
        for (const { worker, handle } of names) {
          const ports = this.#ports.get(worker);
          ports?.delete(handle);
          if (ports?.size === 0) this.#ports.delete(worker);
        }
      },
      count: (outcome) => restored.inc({ outcome }),
    };
  }

  #failed(what: string, error: GatewayError): void {
    this.#log.warn({ what, code: error.code, problem: error.message }, 'media port trouble');
  }
}

function unavailable(problem: string): GatewayError {
  return new GatewayError('MEDIA_UNAVAILABLE', { problem });
}
