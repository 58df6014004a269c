/**
 * The prompt library: what calls play, as files the media engine can read, each made once. A URL is
 * fetched and transcoded, a text is spoken, and the result lies under `data.dir/cache` by the hash
 * of what was asked; a hundred calls that ask for the same at once cause one fetch.
 *
 * It is a private HTTP cache per account (RFC 9111): Cache-Control and Expires say how long a file
 * is fresh, ETag and Last-Modified how to ask again; when the origin is down a stale prompt is
 * played unless the origin forbade that (§4.2.4). POST is never kept. Bounded by bytes and number;
 * what a call still plays is not evicted. Fetching is handed in: redirects, address guard and
 * connection limits are the HTTP client's.
 */
import { createHash } from 'node:crypto';
import { createWriteStream, rmSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { type Freshness, freshnessOf, mayServeStale, NEVER_STALE, NOT_KEPT } from './freshness.ts';
import type { SpeechProvider, SpeechRequest } from './speech.ts';
import { recognizeFormat, type SampleRateHz, type Transcoder } from './transcoder.ts';

export interface MediaResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: AsyncIterable<Buffer>;
}

/** The HTTP client, as the library needs it. Rejects with the APP_ rows. */
export type FetchMedia = (
  url: string,
  conditions: {
    readonly method: 'GET' | 'POST';
    readonly etag?: string;
    readonly lastModified?: string;
  },
  signal: AbortSignal,
) => Promise<MediaResponse>;

export type PromptRequest = { readonly sampleRateHz?: SampleRateHz } & (
  | {
      readonly kind: 'url';
      /** Whose call it is: accounts do not share what they fetched. */
      readonly scope: string;
      readonly url: string;
      readonly method?: 'GET' | 'POST';
    }
  | { readonly kind: 'speech'; readonly speech: SpeechRequest }
);

export interface Prompt {
  readonly path: string;
  readonly durationMs: number;
  /** Says that the file is no longer played. Idempotent. */
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
  /** A prompt that nobody released counts as played to its end after so long. */
  readonly holdMsMax: number;
  readonly sampleRateHz: SampleRateHz;
}

export const DEFAULT_LIBRARY_OPTIONS: LibraryOptions = {
  bytesMax: 1_073_741_824,
  entriesMax: 20_000,
  fetchBytesMax: 104_857_600,
  prepareTimeoutMs: 30_000,
  defaultFreshMs: 60_000,
  staleMsMax: 86_400_000,
  holdMsMax: 14_400_000,
  sampleRateHz: 16_000,
};

interface Entry {
  readonly key: string;
  readonly path: string;
  durationMs: number;
  bytes: number;
  freshness: Freshness;
  /** Until when each call that plays it holds it, monotonic ms. */
  readonly holds: Set<{ untilMs: number }>;
}

/** What lies beside each file, so that the cache outlives the process. */
interface Sidecar {
  readonly durationMs: number;
  readonly freshness: Freshness;
}

interface Flight {
  readonly key: string;
  readonly promise: Promise<Entry>;
  readonly controller: AbortController;
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
      if (isThere !== null && this.#entries.get(key) === known) return this.#hold(known);
      this.#remove(known);
    }
    // Not shared: every POST asks anew.
    const isShared = request.kind === 'speech' || request.method !== 'POST';
    const flightKey = isShared ? key : `${key}-${this.#parts.clock.randomHex(8)}`;
    const flight = this.#flights.get(flightKey) ?? this.#launch(flightKey, request);
    return this.#hold(await this.#join(flight, signal));
  }

  async close(): Promise<void> {
    const flights = [...this.#flights.values()];
    const reason = new GatewayError('MEDIA_UNAVAILABLE', { problem: 'closing' });
    for (const flight of flights) flight.controller.abort(reason);
    await Promise.allSettled(flights.map((flight) => flight.promise));
  }

  // --- One fetch for all who wait --------------------------------------------------------------

  #launch(key: string, request: PromptRequest): Flight {
    const { clock, options } = this.#parts;
    const controller = new AbortController();
    const url = request.kind === 'url' ? request.url : 'speech';
    const timeoutMs = options.prepareTimeoutMs;
    const deadline = clock.timer(timeoutMs, () => {
      controller.abort(new GatewayError('APP_TIMEOUT', { url, timeoutMs }));
    });
    const promise = this.#make(key, request, controller.signal);
    const flight: Flight = { key, promise, controller, waiting: 0 };
    const landed = (): void => {
      deadline.cancel();
      this.#land(flight);
    };
    promise.then(landed, landed);
    this.#flights.set(key, flight);
    return flight;
  }

  #land(flight: Flight): void {
    if (this.#flights.get(flight.key) === flight) this.#flights.delete(flight.key);
  }

  /** A caller that leaves leaves the others their fetch; the last one ends it. */
  async #join(flight: Flight, signal?: AbortSignal): Promise<Entry> {
    signal?.throwIfAborted();
    flight.waiting += 1;
    const left = Promise.withResolvers<never>();
    const leave = (): void => left.reject(signal?.reason);
    signal?.addEventListener('abort', leave, { once: true });
    try {
      return await Promise.race([flight.promise, left.promise]);
    } finally {
      signal?.removeEventListener('abort', leave);
      flight.waiting -= 1;
      if (flight.waiting === 0) {
        this.#land(flight);
        flight.controller.abort(signal?.reason);
      }
    }
  }

  async #make(key: string, request: PromptRequest, signal: AbortSignal): Promise<Entry> {
    const sampleRateHz = request.sampleRateHz ?? this.#parts.options.sampleRateHz;
    if (request.kind === 'speech') return this.#speak(key, request.speech, sampleRateHz, signal);
    const known = this.#entries.get(key);
    try {
      return await this.#fetch(key, request, sampleRateHz, signal);
    } catch (thrown) {
      if (known === undefined || !this.#mayServeStale(known, asGatewayError(thrown))) throw thrown;
      const { code } = asGatewayError(thrown);
      this.#parts.log.warn({ code }, 'prompt origin is down, playing the stale copy');
      return known;
    }
  }

  async #speak(
    key: string,
    speech: SpeechRequest,
    sampleRateHz: SampleRateHz,
    signal: AbortSignal,
  ): Promise<Entry> {
    const input = await this.#parts.speech.synthesize(speech, signal);
    const wav = { input, format: 'wav', sampleRateHz, subject: 'speech' } as const;
    const file = await this.#parts.transcoder.toWav({ ...wav, output: this.#path(key) }, signal);
    return this.#store(key, file, NEVER_STALE);
  }

  async #fetch(
    key: string,
    request: PromptRequest & { kind: 'url' },
    sampleRateHz: SampleRateHz,
    signal: AbortSignal,
  ): Promise<Entry> {
    const { clock, fetchMedia, transcoder, options } = this.#parts;
    const { url, method = 'GET' } = request;
    const known = method === 'GET' ? this.#entries.get(key) : undefined;
    const askedMs = clock.nowMs();
    const response = await fetchMedia(url, { method, ...validators(known) }, signal);
    const told = freshnessOf(response.headers, askedMs, options.defaultFreshMs);
    const freshness = method === 'GET' ? told : NOT_KEPT;
    if (response.status === 304 && known !== undefined) {
      await discard(response.body);
      return this.#refresh(known, freshness);
    }
    if (response.status < 200 || response.status > 299) {
      await discard(response.body);
      throw new GatewayError('APP_STATUS', { url, status: response.status });
    }
    const input = join(this.#parts.directory, `${key}.${clock.randomHex(4)}.fetched`);
    try {
      const head = await this.#download(url, response.body, input, signal);
      const type = response.headers['content-type'] ?? '';
      const format = recognizeFormat(head, type);
      if (format === null) {
        const problem = `content type ${type.slice(0, 80) || 'unknown'}`;
        throw new GatewayError('PLAY_CONTENT', { url, problem });
      }
      const output = this.#path(key);
      const wav = { input, format, sampleRateHz, output, subject: url };
      const file = await transcoder.toWav(wav, signal);
      return await this.#store(key, file, freshness);
    } finally {
      await rm(input, { force: true });
    }
  }

  /** To a file first: a slow origin must not keep a transcoder busy. Returns the first bytes. */
  async #download(
    url: string,
    body: AsyncIterable<Buffer>,
    path: string,
    signal: AbortSignal,
  ): Promise<Buffer> {
    const limit = this.#parts.options.fetchBytesMax;
    let bytes = 0;
    let head = Buffer.alloc(0);
    const counted = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const chunk of source) {
        bytes += chunk.length;
        if (bytes > limit) throw new GatewayError('APP_BODY_TOO_LARGE', { url, limit });
        if (head.length < HEAD_BYTES) head = Buffer.concat([head, chunk]).subarray(0, HEAD_BYTES);
        yield chunk;
      }
    };
    const file = createWriteStream(path, { flags: 'wx', mode: 0o600 });
    await pipeline(Readable.from(body), counted, file, { signal });
    if (bytes === 0) throw new GatewayError('PLAY_CONTENT', { url, problem: 'an empty body' });
    return head;
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

  #isFresh(entry: Entry): boolean {
    return this.#parts.clock.nowMs() < entry.freshness.freshUntilMs;
  }

  #mayServeStale(entry: Entry, error: GatewayError): boolean {
    const staleMs = this.#parts.clock.nowMs() - entry.freshness.freshUntilMs;
    return mayServeStale(entry.freshness, error) && staleMs <= this.#parts.options.staleMsMax;
  }

  async #store(
    key: string,
    file: { readonly path: string; readonly durationMs: number; readonly bytes: number },
    freshness: Freshness,
  ): Promise<Entry> {
    const replaced = this.#entries.get(key);
    if (replaced !== undefined) this.#bytes -= replaced.bytes;
    this.#entries.delete(key);
    const holds = replaced?.holds ?? new Set<{ untilMs: number }>();
    const entry: Entry = { key, ...file, freshness, holds };
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
    const path = join(this.#parts.directory, `${key}.json`);
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
      const text = await readFile(join(this.#parts.directory, `${key}.json`), 'utf8');
      const { durationMs, freshness } = JSON.parse(text) as Sidecar;
      const { size: bytes, mtimeMs: usedMs } = await stat(path);
      return { entry: { key, path, durationMs, bytes, freshness, holds: new Set() }, usedMs };
    } catch {
      return null;
    }
  }

  #insert(entry: Entry): void {
    this.#entries.set(entry.key, entry);
    this.#bytes += entry.bytes;
  }

  #hold(entry: Entry): Prompt {
    const { clock, options } = this.#parts;
    const hold = { untilMs: clock.monotonicMs() + options.holdMsMax };
    entry.holds.add(hold);
    if (this.#entries.delete(entry.key)) this.#entries.set(entry.key, entry);
    return {
      path: entry.path,
      durationMs: entry.durationMs,
      release: () => {
        entry.holds.delete(hold);
        const present = this.#entries.get(entry.key);
        if (present === undefined || present.freshness.isKept) return;
        if (!this.#isHeld(present)) this.#remove(present);
      },
    };
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

  #isHeld(entry: Entry): boolean {
    const nowMs = this.#parts.clock.monotonicMs();
    for (const hold of entry.holds) if (hold.untilMs < nowMs) entry.holds.delete(hold);
    return entry.holds.size > 0 || this.#flights.has(entry.key);
  }

  #remove(entry: Entry): void {
    if (this.#entries.get(entry.key) !== entry) return;
    this.#entries.delete(entry.key);
    this.#bytes -= entry.bytes;
    const sidecar = join(this.#parts.directory, `${entry.key}.json`);
    for (const path of [entry.path, sidecar]) {
      // At once: a removal under way could hit the file that takes its place.
      rmSync(path, { force: true });
    }
  }
}

/** Enough for every mark `recognizeFormat` knows. */
const HEAD_BYTES = 64;

function validators(entry: Entry | undefined): { etag?: string; lastModified?: string } {
  if (entry === undefined) return {};
  const { etag, lastModified } = entry.freshness;
  return {
    ...(etag === undefined ? {} : { etag }),
    ...(lastModified === undefined ? {} : { lastModified }),
  };
}

/** Reads a body nobody wants, so that its connection can be used again. */
async function discard(body: AsyncIterable<Buffer>): Promise<void> {
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > DISCARD_BYTES_MAX) return;
  }
}

const DISCARD_BYTES_MAX = 65_536;
