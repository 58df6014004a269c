/**
 * A world without a kernel: a virtual clock, and a network between simulated hosts that loses,
 * delays, reorders, duplicates and cuts what is sent, all drawn from one seed. The stack under test
 * runs on it unchanged, through the same `Clock` and `Sockets` as on the real thing, so 32 s of
 * protocol time pass in microseconds and a failing run can be repeated.
 */
import { isIPv6 } from 'node:net';
import type { Clock, Timer } from '../../src/core/clock.ts';
import type {
  ConnectOptions,
  DatagramEvents,
  DatagramSocket,
  Sockets,
  StreamEvents,
  StreamListener,
  StreamSocket,
} from '../../src/sip/sockets.ts';

/** The seed of this run: TANDEM_SEED, or the time. Print it when a test fails. */
export const SEED = Number(process.env.TANDEM_SEED ?? Date.now() % 1_000_000_007);

/** mulberry32: small, fast, good enough to shake a protocol. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

interface Entry extends Timer {
  atMs: number;
  order: number;
  fn: (() => void) | null;
}

/** A clock that stands still until `advance` moves it. */
export class SimClock implements Clock {
  readonly #random: () => number;
  readonly #startMs = 1_790_000_000_000;
  /** A binary heap by time, then by order of arming. */
  readonly #heap: Entry[] = [];
  #nowMs = 0;
  #order = 0;
  #armed = 0;

  constructor(options: { seed: number }) {
    this.#random = seededRandom(options.seed);
  }

  /** Timers that wait. */
  get armedCount(): number {
    return this.#armed;
  }

  nowMs(): number {
    return this.#startMs + this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  random(): number {
    return this.#random();
  }

  randomHex(bytes: number): string {
    let hex = '';
    for (let i = 0; i < bytes; i += 1) {
      hex += Math.floor(this.#random() * 256)
        .toString(16)
        .padStart(2, '0');
    }
    return hex;
  }

  timer(delayMs: number, fn: () => void): Timer {
    const entry: Entry = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      order: this.#order,
      fn,
      cancel: () => {
        if (entry.fn !== null) this.#armed -= 1;
        entry.fn = null;
      },
    };
    this.#order += 1;
    this.#armed += 1;
    this.#push(entry);
    return entry;
  }

  /** Lets `durationMs` pass; between two events, promises run until none has anything to do. */
  async advance(durationMs: number): Promise<void> {
    const endMs = this.#nowMs + durationMs;
    await settle();
    for (let next = this.#heap[0]; next !== undefined && next.atMs <= endMs; next = this.#heap[0]) {
      this.#pop();
      if (next.fn === null) continue;
      const { fn } = next;
      next.fn = null;
      this.#armed -= 1;
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      fn();
      await settle();
    }
    this.#nowMs = endMs;
  }

  #push(entry: Entry): void {
    const heap = this.#heap;
    let i = heap.length;
    heap.push(entry);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!isBefore(entry, heap[parent] as Entry)) break;
      heap[i] = heap[parent] as Entry;
      i = parent;
    }
    heap[i] = entry;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Entry;
    if (heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      const right = child + 1;
      if (right < heap.length && isBefore(heap[right] as Entry, heap[child] as Entry))
        child = right;
      if (!isBefore(heap[child] as Entry, last)) break;
      heap[i] = heap[child] as Entry;
      i = child;
    }
    heap[i] = last;
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export interface Weather {
  /** Chance that a datagram is lost. */
  loss: number;
  /** Chance that it comes twice. */
  duplication: number;
  /** Each takes a time between these; so they overtake each other. */
  delayMinMs: number;
  delayMaxMs: number;
  /** Larger datagrams are lost. */
  mtuBytes: number;
}

const FAIR: Weather = {
  loss: 0,
  duplication: 0,
  delayMinMs: 1,
  delayMaxMs: 1,
  mtuBytes: 65_507,
};

export interface Packet {
  readonly atMs: number;
  readonly from: string;
  readonly to: string;
  readonly text: string;
  readonly isLost: boolean;
}

/** Addresses, listeners and the weather between them. */
export class SimNetwork {
  readonly clock: SimClock;
  weather: Weather;
  /** Every datagram and every write on a stream, lost ones too. */
  readonly packets: Packet[] = [];
  /** Loses what it says true to, before the weather is asked. */
  drop: (packet: { from: string; to: string; text: string }) => boolean = () => false;
  /** Switched off for long runs. */
  isRecording = true;
  readonly #random: () => number;
  readonly #ports = new Map<string, SimDatagramSocket>();
  readonly #listeners = new Map<string, (socket: StreamSocket) => void>();
  readonly #streams = new Set<SimStream>();
  #nextPort = 40_000;

  constructor(options: { clock: SimClock; seed: number; weather?: Partial<Weather> }) {
    this.clock = options.clock;
    this.#random = seededRandom(options.seed ^ 0x5f356495);
    this.weather = { ...FAIR, ...options.weather };
  }

  /** The sockets of one host. */
  host(address: string): Sockets {
    return {
      datagram: async (at, port, events) => this.#bind(at, port, events),
      listen: async (at, port, accept) => this.#listen(at, port, accept),
      connect: (options) => this.#connect(options, address),
      hostAddress: () => address,
    };
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  send(from: SimDatagramSocket, address: string, port: number, text: string): void {
    const { loss, duplication, mtuBytes } = this.weather;
    const to = key(address, port);
    const source = key(from.address, from.port);
    const isLost =
      this.drop({ from: source, to, text }) || this.#random() < loss || text.length > mtuBytes;
    this.#record(source, to, text, isLost);
    if (isLost) return;
    const copies = this.#random() < duplication ? 2 : 1;
    for (let i = 0; i < copies; i += 1) {
      this.clock.timer(this.delayMs(), () => {
        const target = this.#ports.get(to);
        target?.events.datagram(text, from.address, from.port);
      });
    }
  }

  delayMs(): number {
    const { delayMinMs, delayMaxMs } = this.weather;
    return delayMinMs + this.#random() * (delayMaxMs - delayMinMs);
  }

  /** Cuts a stream's bytes where it likes. */
  cut(text: string): string[] {
    const pieces: string[] = [];
    for (let start = 0; start < text.length; ) {
      const size = this.#random() < 0.5 ? text.length : 1 + Math.floor(this.#random() * 400);
      pieces.push(text.slice(start, start + size));
      start += size;
    }
    return pieces;
  }

  unbind(address: string, port: number): void {
    this.#ports.delete(key(address, port));
  }

  forget(stream: SimStream): void {
    this.#streams.delete(stream);
  }

  recordStream(from: SimStream, text: string): void {
    const source = key(from.localAddress, from.localPort);
    this.#record(source, key(from.remoteAddress, from.remotePort), text, false);
  }

  #record(from: string, to: string, text: string, isLost: boolean): void {
    if (!this.isRecording) return;
    this.packets.push({ atMs: this.clock.monotonicMs(), from, to, text, isLost });
  }

  #bind(address: string, port: number, events: DatagramEvents): DatagramSocket {
    const at = port === 0 ? this.#freePort() : port;
    if (this.#ports.has(key(address, at))) throw new Error('address in use');
    const socket = new SimDatagramSocket({ network: this, address, port: at, events });
    this.#ports.set(key(address, at), socket);
    return socket;
  }

  #listen(address: string, port: number, accept: (socket: StreamSocket) => void): StreamListener {
    const at = port === 0 ? this.#freePort() : port;
    this.#listeners.set(key(address, at), accept);
    return {
      address,
      port: at,
      close: async () => {
        this.#listeners.delete(key(address, at));
      },
    };
  }

  #connect(options: ConnectOptions, hostAddress: string): StreamSocket {
    const localAddress = options.localAddress ?? hostAddress;
    const localPort = this.#freePort();
    const { address, port } = options;
    const near = new SimStream({ network: this, localAddress, localPort, address, port });
    this.#streams.add(near);
    this.clock.timer(2 * this.delayMs(), () => {
      const accept = this.#listeners.get(key(address, port));
      if (near.isClosed) return;
      if (accept === undefined) {
        near.lose('connection refused');
        return;
      }
      const far = new SimStream({
        network: this,
        localAddress: address,
        localPort: port,
        address: localAddress,
        port: localPort,
      });
      this.#streams.add(far);
      near.join(far);
      accept(far);
      near.events?.opened();
    });
    return near;
  }

  #freePort(): number {
    this.#nextPort += 1;
    return this.#nextPort;
  }
}

function key(address: string, port: number): string {
  return isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

class SimDatagramSocket implements DatagramSocket {
  readonly address: string;
  readonly port: number;
  readonly events: DatagramEvents;
  readonly #network: SimNetwork;

  constructor(options: {
    network: SimNetwork;
    address: string;
    port: number;
    events: DatagramEvents;
  }) {
    this.#network = options.network;
    this.address = options.address;
    this.port = options.port;
    this.events = options.events;
  }

  send(text: string, port: number, address: string): void {
    this.#network.send(this, address, port, text);
  }

  async close(): Promise<void> {
    this.#network.unbind(this.address, this.port);
  }
}

/** One end of a connection: in order and without loss, in pieces of any size. */
class SimStream implements StreamSocket {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
  readonly queuedBytes = 0;
  events: StreamEvents | null = null;
  isClosed = false;
  readonly #network: SimNetwork;
  #far: SimStream | null = null;
  /** When the last piece arrives: nothing overtakes it. */
  #arrivalMs = 0;

  constructor(options: {
    network: SimNetwork;
    localAddress: string;
    localPort: number;
    address: string;
    port: number;
  }) {
    this.#network = options.network;
    this.localAddress = options.localAddress;
    this.localPort = options.localPort;
    this.remoteAddress = options.address;
    this.remotePort = options.port;
  }

  join(far: SimStream): void {
    this.#far = far;
    far.#far = this;
  }

  listen(events: StreamEvents): void {
    this.events = events;
  }

  write(text: string): void {
    const far = this.#far;
    if (far === null || this.isClosed) return;
    this.#network.recordStream(this, text);
    for (const piece of this.#network.cut(text)) {
      this.#later(() => {
        if (!far.isClosed) far.events?.data(Buffer.from(piece, 'latin1'));
      });
    }
  }

  end(): void {
    const far = this.#far;
    this.#later(() => far?.lose(''));
    this.#later(() => this.lose(''));
  }

  destroy(): void {
    const far = this.#far;
    if (this.isClosed) return;
    this.#later(() => far?.lose('connection reset'));
    this.#network.clock.timer(0, () => this.lose(''));
  }

  lose(problem: string): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#network.forget(this);
    this.events?.closed(problem);
  }

  #later(fn: () => void): void {
    const { clock } = this.#network;
    const nowMs = clock.monotonicMs();
    this.#arrivalMs = Math.max(this.#arrivalMs, nowMs + this.#network.delayMs());
    clock.timer(this.#arrivalMs - nowMs, fn);
  }
}
