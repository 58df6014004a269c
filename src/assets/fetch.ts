/**
 * How the prompt library fetches: through the guarded HTTP client, as a stream, with the times of
 * a media fetch. What is cached for how long is the library's.
 */
import { first, type HttpClient } from '../http/client.ts';
import type { ConnectionPolicy } from '../http/overrides.ts';
import type { FetchMedia } from './library.ts';

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
