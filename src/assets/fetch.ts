/**
 * How the prompt library fetches: through the guarded HTTP client, as a stream, with the times of
 * a media fetch, into a file. What is cached for how long is the library's.
 */
import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { GatewayError } from '../core/errors.ts';
import { first, type HttpClient } from '../http/client.ts';
import type { ConnectionPolicy } from '../http/overrides.ts';

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

/** The library's own deadline bounds the whole; these bound its parts. */
const POLICY: ConnectionPolicy = {
  connectMs: 5_000,
  readMs: 15_000,
  totalMs: 30_000,
  retries: 0,
  retryOn: new Set(),
};

export function mediaFetcher(client: HttpClient, bodyBytesMax: number): FetchMedia {
  return async (url, conditions, signal) => {
    const { method, etag, lastModified } = conditions;
    const { status, headers, body } = await client.open({
      url,
      method,
      headers: {
        accept: 'audio/*',
        ...(etag === undefined ? {} : { 'if-none-match': etag }),
        ...(lastModified === undefined ? {} : { 'if-modified-since': lastModified }),
      },
      bodyBytesMax,
      policy: POLICY,
      signal,
    });
    const flat = Object.entries(headers).map(([name, value]) => [name, first(value)] as const);
    return { status, headers: Object.fromEntries(flat), body };
  };
}

/** Enough for every mark `recognizeFormat` knows. */
const HEAD_BYTES = 64;

/** To a file first: a slow origin must not keep a transcoder busy. Returns the first bytes. */
export async function download(
  body: AsyncIterable<Buffer>,
  path: string,
  limit: { readonly subject: string; readonly bytesMax: number },
  signal: AbortSignal,
): Promise<Buffer> {
  const { subject, bytesMax } = limit;
  let bytes = 0;
  let head = Buffer.alloc(0);
  const counted = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > bytesMax) {
        throw new GatewayError('APP_BODY_TOO_LARGE', { url: subject, limit: bytesMax });
      }
      if (head.length < HEAD_BYTES) head = Buffer.concat([head, chunk]).subarray(0, HEAD_BYTES);
      yield chunk;
    }
  };
  const file = createWriteStream(path, { flags: 'wx', mode: 0o600 });
  await pipeline(Readable.from(body), counted, file, { signal });
  if (bytes === 0)
    throw new GatewayError('PLAY_CONTENT', { url: subject, problem: 'an empty body' });
  return head;
}

const DISCARD_BYTES_MAX = 65_536;

/** Reads a body nobody wants, so that its connection can be used again. */
export async function discard(body: AsyncIterable<Buffer>): Promise<void> {
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > DISCARD_BYTES_MAX) return;
  }
}
