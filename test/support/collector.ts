/**
 * Collects the garbage of a gateway under test, through its inspector (Chrome DevTools protocol).
 * What is on the heap then is alive: without that, a heap says mostly how long ago its last
 * collection was. Not a profiler, and not for media workers: they take no flags from outside.
 */
import { delay } from './phone.ts';

/** The environment of a gateway that can be asked; on a port that the system picks. */
export const INSPECTED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' };

/** `Runtime.getHeapUsage`; the other methods used here answer nothing. */
interface HeapUsage {
  readonly usedSize: number;
  /** What buffers hold outside of the heap. */
  readonly backingStorageSize: number;
}

export class Collector {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (usage: HeapUsage) => void>();
  #id = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener('message', (event) => {
      const answer = JSON.parse(String(event.data)) as { id: number; result: HeapUsage };
      this.#waiting.get(answer.id)?.(answer.result);
      this.#waiting.delete(answer.id);
    });
  }

  /** `gateway` was started with `INSPECTED`. */
  static async of(gateway: { readonly lines: readonly string[] }): Promise<Collector> {
    const url = /ws:\/\/\S+/.exec(gateway.lines.join('\n'))?.[0] ?? '';
    const socket = new WebSocket(url);
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener('open', () => resolve());
      socket.addEventListener('error', () => reject(new Error(`no inspector at "${url}"`)));
    });
    return new Collector(socket);
  }

  /** Collects twice, as what finalizers let go of is garbage only then. Returns the live bytes. */
  async collect(): Promise<number> {
    await this.#ask('HeapProfiler.collectGarbage');
    await this.#ask('HeapProfiler.collectGarbage');
    // Pages are given back by a task of the collector's own.
    await delay(2000);
    const { usedSize, backingStorageSize } = await this.#ask('Runtime.getHeapUsage');
    return usedSize + backingStorageSize;
  }

  close(): void {
    this.#socket.close();
  }

  #ask(method: string): Promise<HeapUsage> {
    this.#id += 1;
    const id = this.#id;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method }));
    });
  }
}
