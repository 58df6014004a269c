/**
 * Codecs by name: which of those that a trunk names the node has, and which of an offer's. The
 * negotiation itself is `sdp/offer-answer.ts`.
 */
import { CODEC_NAMES, type CodecName } from '../core/codec.ts';
import type { JudgedOffer } from '../sdp/offer-answer.ts';

/** Of `names`, in their order, the codecs among `ours`; all of ours when none is named. */
export function codecsNamed(
  names: readonly string[],
  ours: readonly CodecName[],
): readonly CodecName[] {
  if (names.length === 0) return ours;
  return names.flatMap((name) => {
    const known = CODEC_NAMES.find((one) => one.toLowerCase() === name.toLowerCase());
    return known !== undefined && ours.includes(known) ? [known] : [];
  });
}

/** The codecs of an offer that we have, best first. */
export function commonCodecs({ media }: JudgedOffer): readonly CodecName[] {
  return [media.codec, ...media.otherPayloadTypes.map(({ codec }) => codec)];
}
