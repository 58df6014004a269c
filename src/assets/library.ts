/**
 * The prompt library: what calls play, as files the media engine can read, each made once. A URL is
 * fetched and transcoded, a text is spoken, and the result lies under `data.dir/cache` by the hash
 * of what was asked; a hundred calls that ask for the same at once cause one fetch.
 *
 * It is a private HTTP cache per account (RFC 9111): Cache-Control and Expires say how long a file
 * is fresh, ETag and Last-Modified how to ask again; when the origin is down a stale prompt is
 * played unless the origin forbade that (§4.2.4). POST is never kept. Bounded by bytes and number;
 * what a call holds is not evicted until it lets go, so an account may hold only its share.
 * Fetching is handed in: redirects, address guard and connection limits are the HTTP client's.
 */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { shown } from '../http/url.ts';
import { discard, download, type FetchMedia } from './fetch.ts';
import { type Freshness, freshnessOf, mayServeStale, NEVER_STALE, NOT_KEPT } from './freshness.ts';
import { Holds } from './holds.ts';
import type { SpeechProvider, SpeechRequest } from './speech.ts';
import { recognizeFormat, type SampleRateHz, type Transcoder } from './transcoder.ts';

export type PromptRequest = {
  readonly sampleRateHz?: SampleRateHz;
  /** Whose call it is: accounts do not share what they fetched, and each holds only its share. */
  readonly scope: string;
} & (
  | {
      readonly kind: 'url';
      readonly url: string;
      readonly method?: 'GET' | 'POST';
    }
  | { readonly kind: 'speech'; readonly speech: SpeechRequest }
);

export interface Prompt {
  readonly path: string;
  readonly durationMs: number;
  /** Says that the file is no longer played; until then it stays. Idempotent. */
  release(): void;
}

export interface LibraryOptions {
  readonly bytesMax: number;
  readonly entriesMax: number;
  readonly fetchBytesMax: number;
  /** Fetch, transcoding and the wait for both. */
  readonly prepareTimeoutMs: number;
  /** Without a word of the origin about freshness (RFC 9111 §4.2.2 lets us choose). */
  readonly defaultFreshMs: number;
  /** How long a stale prompt stands in for an origin that is down. */
  readonly staleMsMax: number;
  /** Of `bytesMax` and `entriesMax`: what calls of one account may hold at one time. */
  readonly accountSharePercent: number;
  readonly sampleRateHz: SampleRateHz;
}

export const DEFAULT_LIBRARY_OPTIONS: LibraryOptions = {
  bytesMax: 1_073_741_824,
  entriesMax: 20_000,
  fetchBytesMax: 104_857_600,
  prepareTimeoutMs: 30_000,
  defaultFreshMs: 60_000,
  staleMsMax: 86_400_000,
  accountSharePercent: 50,
  sampleRateHz: 16_000,
};

interface Entry {
  readonly key: string;
  readonly path: string;
  durationMs: number;
  bytes: number;
  freshness: Freshness;
  /** What made it or asked for it anew last; those who wait there will hold it. */
  flight: Flight | null;
}

/** What lies beside each file, so that the cache outlives the process. */
interface Sidecar {
  readonly durationMs: number;
  readonly freshness: Freshness;
}

interface Flight {
  readonly key: string;
  readonly promise: Promise<Entry>;
  readonly signal: AbortSignal;
  abort(reason: Error | undefined): void;
  waiting: number;
}

export interface LibraryParts {
  readonly clock: Clock;
  readonly log: Log;
  /** `data.dir/cache` */
  readonly directory: string;
  readonly fetchMedia: FetchMedia;
  readonly transcoder: Transcoder;
  readonly speech: SpeechProvider;
  readonly options: LibraryOptions;
}

export class Library {
  readonly #parts: LibraryParts;
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #flights = new Map<string, Flight>();
  readonly #holds = new Holds();
  #bytes = 0;

  constructor(parts: LibraryParts) {
    this.#parts = parts;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Takes up what an earlier process left; removes what it left half done. */
  async start(): Promise<void> {
    const { directory, log } = this.#parts;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const names = await readdir(directory);
    const found: { entry: Entry; usedMs: number }[] = [];
    for (const name of names) {
      if (/^[0-9a-f]{64}\.json$/.test(name)) continue;
      const restored = await this.#restore(name);
      if (restored !== null) found.push(restored);
      else await rm(join(directory, name), { force: true, recursive: true });
    }
    found.sort((a, b) => a.usedMs - b.usedMs);
    for (const { entry } of found) this.#insert(entry);
    for (const name of names) {
      if (!name.endsWith('.json') || this.#entries.has(name.slice(0, -5))) continue;
      await rm(join(directory, name), { force: true });
    }
    this.#makeRoom(0);
    log.info({ entries: this.#entries.size, bytes: this.#bytes }, 'prompt cache ready');
  }

  /** The prompt as a file, held until released. Throws PLAY_CONTENT, SAY_…, APP_…, OVERLOADED. */
  async prepare(request: PromptRequest, signal?: AbortSignal): Promise<Prompt> {
    const key = this.#key(request);
    const known = this.#entries.get(key);
    if (known !== undefined && this.#isFresh(known)) {
      const isThere = await stat(known.path).catch(() => null);
      if (isThere !== null && this.#entries.get(key) === known) {
        return this.#hold(known, request.scope);
      }
      this.#remove(known);
    }
    this.#checkShare({ key, bytes: 0 }, request.scope);
    // Not shared: every POST asks anew.
    const isShared = request.kind === 'speech' || request.method !== 'POST';
    const flightKey = isShared ? key : `${key}-${this.#parts.clock.randomHex(8)}`;
    const flight = this.#flights.get(flightKey) ?? this.#launch(flightKey, request);
    return this.#join(flight, request.scope, signal);
  }

  async close(): Promise<void> {
    const flights = [...this.#flights.values()];
    const reason = new GatewayError('MEDIA_UNAVAILABLE', { problem: 'closing' });
    for (const flight of flights) flight.abort(reason);
    await Promise.allSettled(flights.map((flight) => flight.promise));
  }

  // --- One fetch for all who wait --------------------------------------------------------------

  #launch(key: string, request: PromptRequest): Flight {
    const { clock, options } = this.#parts;
    const controller = new AbortController();
    const url = request.kind === 'url' ? shown(request.url) : 'speech';
    const timeoutMs = options.prepareTimeoutMs;
    const deadline = clock.timer(timeoutMs, () => {
      controller.abort(new GatewayError('APP_TIMEOUT', { url, timeoutMs }));
    });
    const { promise, resolve, reject } = Promise.withResolvers<Entry>();
    const flight: Flight = {
      key,
      promise,
      signal: controller.signal,
      abort: (reason) => controller.abort(reason),
      waiting: 0,
    };
    const landed = (): void => {
      deadline.cancel();
      this.#land(flight);
    };
    promise.then((entry) => {
      landed();
      this.#leave(entry.key);
    }, landed);
    this.#flights.set(key, flight);
    this.#make(flight, request).then(resolve, reject);
    return flight;
  }

  #land(flight: Flight): void {
    if (this.#flights.get(flight.key) === flight) this.#flights.delete(flight.key);
  }

  /** A caller that leaves leaves the others their fetch; the last one ends it. */
  async #join(flight: Flight, scope: string, signal?: AbortSignal): Promise<Prompt> {
    signal?.throwIfAborted();
    flight.waiting += 1;
    const left = Promise.withResolvers<never>();
    const leave = (): void => left.reject(signal?.reason);
    signal?.addEventListener('abort', leave, { once: true });
    let entry: Entry | null = null;
    try {
      entry = await Promise.race([flight.promise, left.promise]);
      // Before it counts as no longer waited for, so that nothing evicts it in between.
      return this.#hold(entry, scope);
    } finally {
      signal?.removeEventListener('abort', leave);
      flight.waiting -= 1;
      if (flight.waiting === 0) {
        this.#land(flight);
        flight.abort(signal?.reason);
      }
      if (entry !== null) this.#leave(entry.key);
    }
  }

  async #make(flight: Flight, request: PromptRequest): Promise<Entry> {
    const sampleRateHz = request.sampleRateHz ?? this.#parts.options.sampleRateHz;
    if (request.kind === 'speech') return this.#speak(flight, request.speech, sampleRateHz);
    const known = this.#entries.get(flight.key);
    try {
      return await this.#fetch(flight, request, sampleRateHz);
    } catch (thrown) {
      if (known === undefined || !this.#mayServeStale(known, asGatewayError(thrown))) throw thrown;
      const { code } = asGatewayError(thrown);
      this.#parts.log.warn({ code }, 'prompt origin is down, playing the stale copy');
      known.flight = flight;
      return known;
    }
  }

  async #speak(flight: Flight, speech: SpeechRequest, sampleRateHz: SampleRateHz): Promise<Entry> {
    const { key, signal } = flight;
    const input = await this.#parts.speech.synthesize(speech, signal);
    const wav = { input, format: 'wav', sampleRateHz, subject: 'speech' } as const;
    const file = await this.#parts.transcoder.toWav({ ...wav, output: this.#path(key) }, signal);
    return this.#store(flight, key, file, NEVER_STALE);
  }

  async #fetch(
    flight: Flight,
    request: PromptRequest & { kind: 'url' },
    sampleRateHz: SampleRateHz,
  ): Promise<Entry> {
    const { key, signal } = flight;
    const { clock, fetchMedia, transcoder, options } = this.#parts;
    const { url, method = 'GET' } = request;
    // Errors are told to people and kept in logs; what the URL carries may be secret.
    const subject = shown(url);
    const known = method === 'GET' ? this.#entries.get(key) : undefined;
    const askedMs = clock.nowMs();
    const response = await fetchMedia(url, { method, ...validators(known) }, signal);
    const told = freshnessOf(response.headers, askedMs, options.defaultFreshMs);
    const freshness = method === 'GET' ? told : NOT_KEPT;
    if (response.status === 304 && known !== undefined) {
      await discard(response.body);
      known.flight = flight;
      return this.#refresh(known, freshness);
    }
    if (response.status < 200 || response.status > 299) {
      await discard(response.body);
      throw new GatewayError('APP_STATUS', { url: subject, status: response.status });
    }
    const input = join(this.#parts.directory, `${key}.${clock.randomHex(4)}.fetched`);
    try {
      const limit = { subject, bytesMax: options.fetchBytesMax };
      const head = await download(response.body, input, limit, signal);
      const type = response.headers['content-type'] ?? '';
      const format = recognizeFormat(head, type);
      if (format === null) {
        const problem = `content type ${type.slice(0, 80) || 'unknown'}`;
        throw new GatewayError('PLAY_CONTENT', { url: subject, problem });
      }
      // What may not be kept must not take the place of what another call was given.
      const name = freshness.isKept ? key : `${key}-${clock.randomHex(8)}`;
      const wav = { input, format, sampleRateHz, output: this.#path(name), subject };
      const file = await transcoder.toWav(wav, signal);
      if (!freshness.isKept && known !== undefined) this.#disown(known);
      return await this.#store(flight, name, file, freshness);
    } finally {
      await rm(input, { force: true });
    }
  }

  // --- Entries ---------------------------------------------------------------------------------

  #key(request: PromptRequest): string {
    const rate = request.sampleRateHz ?? this.#parts.options.sampleRateHz;
    const parts =
      request.kind === 'url'
        ? ['url', request.scope, request.method ?? 'GET', request.url, rate]
        : ['speech', this.#parts.speech.identify(request.speech), rate];
    return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
  }

  #path(key: string): string {
    return join(this.#parts.directory, `${key}.wav`);
  }

  #sidecar(key: string): string {
    return join(this.#parts.directory, `${key}.json`);
  }

  #isFresh(entry: Entry): boolean {
    return this.#parts.clock.nowMs() < entry.freshness.freshUntilMs;
  }

  #mayServeStale(entry: Entry, error: GatewayError): boolean {
    const staleMs = this.#parts.clock.nowMs() - entry.freshness.freshUntilMs;
    return mayServeStale(entry.freshness, error) && staleMs <= this.#parts.options.staleMsMax;
  }

  async #store(
    flight: Flight,
    key: string,
    file: { readonly path: string; readonly durationMs: number; readonly bytes: number },
    freshness: Freshness,
  ): Promise<Entry> {
    const replaced = this.#entries.get(key);
    if (replaced !== undefined) this.#bytes -= replaced.bytes;
    this.#entries.delete(key);
    const entry: Entry = { key, ...file, freshness, flight };
    try {
      this.#makeRoom(file.bytes);
    } catch (thrown) {
      await rm(file.path, { force: true });
      throw thrown;
    }
    this.#insert(entry);
    if (freshness.isKept) await this.#writeSidecar(entry);
    return entry;
  }

  async #refresh(entry: Entry, freshness: Freshness): Promise<Entry> {
    // A 304 repeats only what changed (RFC 9111 §4.3.4).
    const etag = freshness.etag ?? entry.freshness.etag;
    const lastModified = freshness.lastModified ?? entry.freshness.lastModified;
    entry.freshness = {
      ...freshness,
      ...(etag === undefined ? {} : { etag }),
      ...(lastModified === undefined ? {} : { lastModified }),
    };
    await this.#writeSidecar(entry);
    return entry;
  }

  async #writeSidecar({ key, durationMs, freshness }: Entry): Promise<void> {
    const path = this.#sidecar(key);
    const sidecar: Sidecar = { durationMs, freshness };
    const partial = `${path}.${this.#parts.clock.randomHex(4)}.part`;
    await writeFile(partial, JSON.stringify(sidecar), { mode: 0o600 });
    await rename(partial, path);
  }

  async #restore(name: string): Promise<{ entry: Entry; usedMs: number } | null> {
    if (!/^[0-9a-f]{64}\.wav$/.test(name)) return null;
    const key = name.slice(0, -4);
    const path = this.#path(key);
    try {
      const text = await readFile(this.#sidecar(key), 'utf8');
      const { durationMs, freshness } = JSON.parse(text) as Sidecar;
      const { size: bytes, mtimeMs: usedMs } = await stat(path);
      return { entry: { key, path, durationMs, bytes, freshness, flight: null }, usedMs };
    } catch {
      return null;
    }
  }

  #insert(entry: Entry): void {
    this.#entries.set(entry.key, entry);
    this.#bytes += entry.bytes;
  }

  #hold(entry: Entry, scope: string): Prompt {
    const { key, path, durationMs } = entry;
    this.#checkShare(entry, scope);
    const letGo = this.#holds.take(entry, scope);
    if (this.#entries.delete(key)) this.#entries.set(key, entry);
    return {
      path,
      durationMs,
      release: () => {
        if (letGo()) this.#leave(key);
      },
    };
  }

  /** Throws when this file would be more than an account may keep from being evicted. */
  #checkShare(file: { readonly key: string; readonly bytes: number }, scope: string): void {
    if (this.#holds.isHeldBy(file.key, scope)) return;
    const { bytesMax, entriesMax, accountSharePercent } = this.#parts.options;
    const share = accountSharePercent / 100;
    const { bytes, files } = this.#holds.used(scope);
    if (bytes + file.bytes <= bytesMax * share && files < entriesMax * share) return;
    throw new GatewayError('OVERLOADED', { limit: 'cache.accountSharePercent' });
  }

  /** Somebody has done with it: what may not be kept goes with the last one. */
  #leave(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.freshness.isKept || this.#isHeld(entry)) return;
    this.#remove(entry);
  }

  /** Its origin says now that it may not be kept. */
  #disown(entry: Entry): void {
    entry.freshness = NOT_KEPT;
    rmSync(this.#sidecar(entry.key), { force: true });
    if (!this.#holds.has(entry.key)) this.#remove(entry);
  }

  /** Evicts what nobody plays, oldest use first, until `bytes` more fit. */
  #makeRoom(bytes: number): void {
    const { bytesMax, entriesMax } = this.#parts.options;
    const fits = (): boolean =>
      this.#bytes + bytes <= bytesMax && this.#entries.size + (bytes > 0 ? 1 : 0) <= entriesMax;
    for (const entry of this.#entries.values()) {
      if (fits()) return;
      if (!this.#isHeld(entry)) this.#remove(entry);
    }
    if (!fits()) throw new GatewayError('OVERLOADED', { limit: 'cache.bytesMax' });
  }

  #isHeld({ key, flight }: Entry): boolean {
    return this.#holds.has(key) || this.#flights.has(key) || (flight?.waiting ?? 0) > 0;
  }

  #remove(entry: Entry): void {
    if (this.#entries.get(entry.key) !== entry) return;
    this.#entries.delete(entry.key);
    this.#bytes -= entry.bytes;
    for (const path of [entry.path, this.#sidecar(entry.key)]) {
      // At once: a removal under way could hit the file that takes its place.
      rmSync(path, { force: true });
    }
  }
}

function validators(entry: Entry | undefined): { etag?: string; lastModified?: string } {
  if (entry === undefined) return {};
  const { etag, lastModified } = entry.freshness;
  return {
    ...(etag === undefined ? {} : { etag }),
    ...(lastModified === undefined ? {} : { lastModified }),
  };
}
