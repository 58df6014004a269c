/**
 * Ports made ahead of need. A call must know its port before it can say so in SDP; taken from
 * here it costs no round trip to the worker, and no wake-up of both processes, which is most of
 * what a command costs. Spares have no settings: they neither send nor read what arrives.
 *
 * Not a promise: what is not here is asked for in the ordinary way.
 */
import type { Clock } from '../core/clock.ts';
import type { Handle } from './binding.ts';
import { newSsrc } from './port.ts';
import type { PortMade } from './protocol.ts';
import type { LiveWorker } from './supervisor.ts';

export interface SparePort extends PortMade {
  readonly ssrc: number;
}

/** Spares are alike when they differ in nothing that is said at their making. */
export interface SpareKind {
  readonly address: string;
  readonly rtcpMux: boolean;
}

/** The spares of one kind in one worker. */
interface Pile {
  readonly worker: LiveWorker;
  readonly kind: SpareKind;
  readonly ports: SparePort[];
  /** More are being made. */
  filling: Promise<void> | null;
}

/** Spares hold at most one of so many ports of a worker: another kind of call needs them too. */
const PORTS_PER_SPARE = 16;

export class SparePorts {
  readonly #clock: Clock;
  readonly #portsMax: number;
  /** One or two for each worker. */
  readonly #piles: Pile[] = [];

  constructor(options: {
    clock: Clock;
    /** Of one kind in one worker; 0 keeps none. */
    portsMax: number;
  }) {
    this.#clock = options.clock;
    this.#portsMax = options.portsMax;
  }

  take(worker: LiveWorker, kind: SpareKind): SparePort | null {
    return this.#find(worker, kind)?.ports.pop() ?? null;
  }

  /** Whoever took a port, or had to ask for one, sees to it that the next finds some. */
  refill(worker: LiveWorker, kind: SpareKind): void {
    const countMax = Math.min(this.#portsMax, Math.floor(worker.portsMax / PORTS_PER_SPARE));
    if (countMax === 0 || worker.client.isClosed) return;
    const pile = this.#find(worker, kind) ?? this.#begin(worker, kind);
    // Half a pile at a time: many ports then cost one command.
    if (pile.filling !== null || pile.ports.length > countMax / 2) return;
    pile.filling = this.#fill(pile, countMax - pile.ports.length);
  }

  has(worker: LiveWorker, handle: Handle): boolean {
    return this.#of(worker).some(({ ports }) => ports.some((port) => port.handle === handle));
  }

  /** The worker is gone, and with it its ports. */
  forget(worker: LiveWorker): void {
    for (const pile of this.#of(worker)) this.#piles.splice(this.#piles.indexOf(pile), 1);
  }

  /** Closes those of a worker, also what is being made. */
  async giveBack(worker: LiveWorker): Promise<void> {
    const piles = this.#of(worker);
    await Promise.all(piles.map(({ filling }) => filling));
    const ports = piles.flatMap((pile) => pile.ports.splice(0));
    await Promise.all(
      ports.map(({ handle: port }) => worker.client.request('closePort', { port })),
    );
  }

  #of(worker: LiveWorker): Pile[] {
    return this.#piles.filter((pile) => pile.worker === worker);
  }

  #find(worker: LiveWorker, { address, rtcpMux }: SpareKind): Pile | undefined {
    return this.#piles.find(({ worker: owner, kind }) => {
      return owner === worker && kind.rtcpMux === rtcpMux && kind.address === address;
    });
  }

  #begin(worker: LiveWorker, kind: SpareKind): Pile {
    const pile: Pile = { worker, kind, ports: [], filling: null };
    this.#piles.push(pile);
    return pile;
  }

  async #fill(pile: Pile, count: number): Promise<void> {
    const { worker, kind, ports } = pile;
    const ssrcs = Array.from({ length: count }, () => newSsrc(this.#clock));
    try {
      const made = await worker.client.request('createPorts', { ...kind, ssrcs });
      ports.push(...made.ports);
    } catch {} // nobody waits for spares: who finds none asks for one port, and hears why
    pile.filling = null;
  }
}
