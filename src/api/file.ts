/**
 * A file as an HTTP answer: length, one range (RFC 9110 §14), validators. Not a decision about who
 * may have it: that was taken before. Several ranges at once are answered with the whole file, as
 * §14.2 allows.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { HttpReply, HttpRequest } from '../http/server.ts';

export interface MediaFile {
  readonly path: string;
  readonly contentType: string;
}

interface Range {
  readonly first: number;
  readonly last: number;
}

/** False when there is no such file. */
export async function sendFile(
  request: HttpRequest,
  reply: HttpReply,
  file: MediaFile,
): Promise<boolean> {
  const info = await stat(file.path).catch(() => null);
  if (!info?.isFile()) return false;
  const { size } = info;
  const etag = `"${size.toString(36)}-${Math.trunc(info.mtimeMs).toString(36)}"`;
  reply
    .header('accept-ranges', 'bytes')
    .header('etag', etag)
    .header('last-modified', info.mtime.toUTCString())
    .header('cache-control', 'private, no-cache')
    .type(file.contentType);
  if (request.headers['if-none-match'] === etag) {
    await reply.code(304).send();
    return true;
  }
  const ifRange = request.headers['if-range'];
  const isSame = ifRange === undefined || ifRange === etag;
  const range = isSame ? parseRange(request.headers.range, size) : 'whole';
  if (range === 'unsatisfiable') {
    await reply.code(416).header('content-range', `bytes */${size}`).send();
    return true;
  }
  const { first, last } = range === 'whole' ? { first: 0, last: size - 1 } : range;
  if (range !== 'whole') reply.code(206).header('content-range', `bytes ${first}-${last}/${size}`);
  reply.header('content-length', last - first + 1);
  if (request.method === 'HEAD' || last < first) await reply.send();
  // `end` is inclusive, as in the header.
  else await reply.send(createReadStream(file.path, { start: first, end: last }));
  return true;
}

function parseRange(header: string | undefined, size: number): Range | 'whole' | 'unsatisfiable' {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '');
  if (!match) return 'whole';
  const [, from = '', to = ''] = match;
  if (from === '' && to === '') return 'whole';
  if (from === '') {
    // The last so many bytes.
    const count = Math.min(Number(to), size);
    return count === 0 ? 'unsatisfiable' : { first: size - count, last: size - 1 };
  }
  const first = Number(from);
  const last = to === '' ? size - 1 : Math.min(Number(to), size - 1);
  if (first >= size) return 'unsatisfiable';
  return last < first ? 'whole' : { first, last };
}
