/**
 * Makes one recording of several: when a media worker dies, the next one records on into a part
 * file, and at the end the parts are put behind the first file with the gap as silence. Files of
 * the engine's own making only (PCM16 WAV, `native/file`); its header may be up to a second old
 * where a worker died, so the length of a file counts, not what its header says.
 */
import { type FileHandle, open, rm } from 'node:fs/promises';

export interface RecordingPart {
  readonly path: string;
  /** What was not recorded between the end of the file before and this one. */
  readonly gapMs: number;
}

interface Layout {
  readonly dataAt: number;
  readonly bytes: number;
  readonly bytesPerMs: number;
  readonly frameBytes: number;
}

const BLOCK_BYTES = 262_144;
const HEADER_BYTES_MAX = 4_096;
/** A gap longer than this was no gap between two workers. */
const GAP_MS_MAX = 30_000;

/** Puts the parts behind `path`, removes them; the duration of the whole. */
export async function spliceRecording(
  path: string,
  parts: readonly RecordingPart[],
): Promise<number> {
  const whole = await open(path, 'r+');
  try {
    const layout = await layoutOf(whole);
    let end = layout.dataAt + layout.bytes;
    for (const part of parts) end = await append(whole, layout, end, part);
    await patchSizes(whole, layout.dataAt, end);
    return Math.round((end - layout.dataAt) / layout.bytesPerMs);
  } finally {
    await whole.close();
  }
}

async function append(
  whole: FileHandle,
  layout: Layout,
  end: number,
  part: RecordingPart,
): Promise<number> {
  const file = await open(part.path, 'r').catch(() => null);
  // A part whose worker could not even begin it.
  if (file === null) return end;
  try {
    const { dataAt, bytes } = await layoutOf(file);
    const gapMs = Math.round(Math.min(part.gapMs, GAP_MS_MAX));
    const gapBytes =
      Math.floor((gapMs * layout.bytesPerMs) / layout.frameBytes) * layout.frameBytes;
    await whole.write(Buffer.alloc(gapBytes), 0, gapBytes, end);
    const block = Buffer.alloc(BLOCK_BYTES);
    for (let at = 0; at < bytes; at += BLOCK_BYTES) {
      const wanted = Math.min(BLOCK_BYTES, bytes - at);
      const { bytesRead } = await file.read(block, 0, wanted, dataAt + at);
      await whole.write(block, 0, bytesRead, end + gapBytes + at);
    }
    await rm(part.path, { force: true });
    return end + gapBytes + bytes;
  } finally {
    await file.close();
  }
}

async function layoutOf(file: FileHandle): Promise<Layout> {
  const { size } = await file.stat();
  const head = Buffer.alloc(HEADER_BYTES_MAX);
  const { bytesRead } = await file.read(head, 0, HEADER_BYTES_MAX, 0);
  let frameBytes = 2;
  let bytesPerMs = 16;
  for (let at = 12; at + 8 <= bytesRead; ) {
    const id = head.toString('latin1', at, at + 4);
    const chunkBytes = head.readUInt32LE(at + 4);
    if (id === 'fmt ' && at + 24 <= bytesRead) {
      bytesPerMs = head.readUInt32LE(at + 16) / 1000 || bytesPerMs;
      frameBytes = head.readUInt16LE(at + 20) || frameBytes;
    }
    at += 8;
    if (id === 'data') {
      const bytes = Math.floor((size - at) / frameBytes) * frameBytes;
      return { dataAt: at, bytes, bytesPerMs, frameBytes };
    }
    at += chunkBytes + (chunkBytes % 2);
  }
  // Its writer died before the header was out: nothing to keep.
  return { dataAt: size, bytes: 0, bytesPerMs, frameBytes };
}

async function patchSizes(file: FileHandle, dataAt: number, end: number): Promise<void> {
  const field = Buffer.alloc(4);
  field.writeUInt32LE(Math.min(end - 8, 0xffff_ffff));
  await file.write(field, 0, 4, 4);
  field.writeUInt32LE(Math.min(end - dataAt, 0xffff_ffff));
  await file.write(field, 0, 4, dataAt - 4);
}
