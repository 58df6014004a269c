/**
 * Which cached files are being played, and for whom: those are never evicted, so what one account
 * may keep that way is bounded by its share. Counts only; the files are the library's.
 */

export interface HeldFile {
  readonly key: string;
  readonly bytes: number;
}

interface Used {
  bytes: number;
  files: number;
}

const NOTHING: Readonly<Used> = { bytes: 0, files: 0 };

export class Holds {
  /** By file, then by account: how many plays, and the bytes it was counted with. */
  readonly #files = new Map<string, Map<string, { count: number; readonly bytes: number }>>();
  readonly #used = new Map<string, Used>();

  has(key: string): boolean {
    return this.#files.has(key);
  }

  isHeldBy(key: string, account: string): boolean {
    return this.#files.get(key)?.has(account) === true;
  }

  /** What an account keeps from being evicted; a file it plays many times counts once. */
  used(account: string): Readonly<Used> {
    return this.#used.get(account) ?? NOTHING;
  }

  /** Returns how to let go again: idempotent, true when it was the last to hold the file. */
  take(file: HeldFile, account: string): () => boolean {
    const holders = this.#files.get(file.key) ?? new Map();
    this.#files.set(file.key, holders);
    const hold = holders.get(account) ?? { count: 0, bytes: file.bytes };
    holders.set(account, hold);
    hold.count += 1;
    if (hold.count === 1) this.#add(account, file.bytes, 1);
    let isHeld = true;
    return () => {
      if (!isHeld) return false;
      isHeld = false;
      hold.count -= 1;
      if (hold.count > 0) return false;
      this.#add(account, -hold.bytes, -1);
      holders.delete(account);
      return holders.size === 0 && this.#files.delete(file.key);
    };
  }

  #add(account: string, bytes: number, files: number): void {
    const used = this.#used.get(account) ?? { bytes: 0, files: 0 };
    used.bytes += bytes;
    used.files += files;
    if (used.files > 0) this.#used.set(account, used);
    else this.#used.delete(account);
  }
}
