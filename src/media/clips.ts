/**
 * Prompts a worker has open in the addon, by path, bounded by number and size. The files are the
 * asset library's; here is only what keeps a prompt that many calls play from being read anew for
 * each of them. Runs inside the worker process.
 */
import { statSync } from 'node:fs';
import { GatewayError } from '../core/errors.ts';
import type { Handle, MediaAddon } from './binding.ts';

/** `create` and its kin, with whatever the addon throws turned into a row of the error table. */
export function guarded<T>(op: string, work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    const code = (thrown as { code?: string }).code ?? '';
    const problem = thrown instanceof Error ? thrown.message : String(thrown);
    if (code === 'PORTS_EXHAUSTED') throw new GatewayError(code, { range: problem });
    throw new GatewayError('MEDIA_COMMAND', { op, problem }, { cause: thrown });
  }
}

export interface Clip {
  readonly path: string;
  readonly handle: Handle;
  readonly durationMs: number;
  readonly bytes: number;
  /** Tells a file that was replaced under its name. */
  readonly stamp: string;
  users: number;
}

/** Prompts by path, least recently used first; one in use is never closed. */
export class ClipCache {
  readonly #addon: MediaAddon;
  readonly #bounds: { readonly entriesMax: number; readonly bytesMax: number };
  readonly #byPath = new Map<string, Clip>();
  #bytes = 0;

  constructor(options: { addon: MediaAddon; entriesMax: number; bytesMax: number }) {
    this.#addon = options.addon;
    this.#bounds = options;
  }

  take(path: string): Clip {
    const stat = guarded('clip', () => statSync(path));
    const stamp = `${stat.ino}:${stat.mtimeMs}:${stat.size}`;
    const known = this.#byPath.get(path);
    this.#byPath.delete(path);
    if (known !== undefined && known.stamp === stamp) {
      known.users += 1;
      this.#byPath.set(path, known);
      return known;
    }
    if (known !== undefined) this.#drop(known);
    const { handle, durationMs } = guarded('clip', () => this.#addon.create('clip', { path }));
    const clip: Clip = { path, handle, durationMs, bytes: stat.size, stamp, users: 1 };
    this.#byPath.set(path, clip);
    this.#bytes += clip.bytes;
    this.#evict();
    return clip;
  }

  release(clip: Clip): void {
    clip.users -= 1;
    if (clip.users === 0 && this.#byPath.get(clip.path) !== clip) this.#addon.close(clip.handle);
    else this.#evict();
  }

  #evict(): void {
    for (const clip of this.#byPath.values()) {
      const { entriesMax, bytesMax } = this.#bounds;
      if (this.#byPath.size <= entriesMax && this.#bytes <= bytesMax) return;
      if (clip.users > 0) continue;
      this.#byPath.delete(clip.path);
      this.#drop(clip);
    }
  }

  /** Out of the table already; closed now or by its last user. */
  #drop(clip: Clip): void {
    this.#bytes -= clip.bytes;
    if (clip.users === 0) this.#addon.close(clip.handle);
  }
}
