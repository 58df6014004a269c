/**
 * The sample rate a file claims, from its first bytes. A decoder believes it, and a file that
 * claims one sample a second unpacks to sixteen thousand times its size; so it is asked before.
 *
 * WAV (RIFF, RIFX, RF64), AIFF, AU, and the codecs of Ogg whose rate is the file's to choose; the
 * other formats have fixed ones. Not a parser: what it does not find here the limits of the child
 * still bound.
 */

/** Enough for the chunks that tools put before the one that counts. */
export const RATE_HEAD_BYTES = 4_096;

/** Null when the format has no such field, or not in `head`. */
export function claimedRateHz(head: Buffer): number | null {
  switch (head.toString('latin1', 0, 4)) {
    case 'RIFF':
    case 'RF64':
      return chunkRate(head, 'fmt ', false);
    case 'RIFX':
      return chunkRate(head, 'fmt ', true);
    case 'FORM':
      return chunkRate(head, 'COMM', true);
    case '.snd':
      return head.length < 20 ? null : head.readUInt32BE(16);
    case 'OggS':
      return oggRate(head);
    default:
      return null;
  }
}

function chunkRate(head: Buffer, wanted: 'fmt ' | 'COMM', isBigEndian: boolean): number | null {
  for (let at = 12; at + 26 <= head.length; ) {
    const bytes = isBigEndian ? head.readUInt32BE(at + 4) : head.readUInt32LE(at + 4);
    if (head.toString('latin1', at, at + 4) === wanted) {
      if (wanted === 'COMM') return extended(head, at + 16);
      return isBigEndian ? head.readUInt32BE(at + 12) : head.readUInt32LE(at + 12);
    }
    at += 8 + bytes + (bytes % 2);
  }
  return null;
}

/** IEEE 754 extended, 80 bits, as AIFF writes its rate. */
function extended(head: Buffer, at: number): number {
  const exponent = (head.readUInt16BE(at) & 0x7fff) - 16_383;
  return Number(head.readBigUInt64BE(at + 2)) * 2 ** (exponent - 63);
}

/** The first packet of an Ogg stream names its codec (Vorbis I §4.2.2; FLAC in Ogg). */
function oggRate(head: Buffer): number | null {
  const vorbis = head.indexOf('\x01vorbis', 0, 'latin1');
  if (vorbis >= 0 && vorbis + 16 <= head.length) return head.readUInt32LE(vorbis + 12);
  const flac = head.indexOf('fLaC', 0, 'latin1');
  // After the mark a block header of 4 bytes, sizes of 10, then 20 bits of rate.
  return flac < 0 || flac + 21 > head.length ? null : head.readUIntBE(flac + 18, 3) >> 4;
}
