/**
 * The codecs tandem speaks, as data: what SDP names them and what the engine needs to know.
 * Not the coding itself (`native/codec`), not negotiation (`sdp/offer-answer`).
 */

export interface CodecRow {
  /** Encoding name of the RTP payload format, as registered (compared without case). */
  readonly encoding: string;
  /** RTP clock, Hz (G.722 says 8000 for historical reasons, RFC 3551 §4.5.2). */
  readonly clockRateHz: number;
  /** Rate of the samples the codec really carries, Hz. */
  readonly sampleRateHz: number;
  /** Channels in rtpmap (Opus always says 2, RFC 7587 §4.1); 1 is not written. */
  readonly rtpmapChannels: number;
  /** Static payload type (RFC 3551 table 4), or the dynamic one we offer. */
  readonly payloadType: number;
  /** Number by which the native engine knows it (`native/codec.h`, CodecId). */
  readonly nativeId: number;
}

export const CODECS = {
  PCMU: {
    encoding: 'PCMU',
    clockRateHz: 8000,
    sampleRateHz: 8000,
    rtpmapChannels: 1,
    payloadType: 0,
    nativeId: 0,
  },
  PCMA: {
    encoding: 'PCMA',
    clockRateHz: 8000,
    sampleRateHz: 8000,
    rtpmapChannels: 1,
    payloadType: 8,
    nativeId: 1,
  },
  G722: {
    encoding: 'G722',
    clockRateHz: 8000,
    sampleRateHz: 16000,
    rtpmapChannels: 1,
    payloadType: 9,
    nativeId: 2,
  },
  opus: {
    encoding: 'opus',
    clockRateHz: 48000,
    sampleRateHz: 48000,
    rtpmapChannels: 2,
    payloadType: 96,
    nativeId: 3,
  },
} as const satisfies Record<string, CodecRow>;

export type CodecName = keyof typeof CODECS;
export const CODEC_NAMES = Object.keys(CODECS) as readonly CodecName[];

/** Keys that telephone-event carries (RFC 4733 §3.2), by event code. */
export const DTMF_KEYS = '0123456789*#ABCD';
