/**
 * The terms on which a leg speaks: the node's own and its trunk's, put together, and what follows
 * from them for an offer that came and for the engine's settings. Pure; the port and what was
 * agreed on are `leg-media.ts`, the negotiation itself is `sdp/offer-answer.ts`.
 */
import { CODECS, type CodecName } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';
import { DIRECTIONS, LATCH, type PortSettings } from '../media/binding.ts';
import { DEFAULT_MEDIA_POLICY, type MediaPolicy } from '../sdp/address.ts';
import {
  type JudgedOffer,
  judgeOffer,
  type NegotiatedMedia,
  offeredFamily,
} from '../sdp/offer-answer.ts';
import { parseSdp, type Sdp } from '../sdp/sdp.ts';
import { type OfferedSrtp, offeredSrtp } from '../sdp/security.ts';
import { DEFAULT_LEG_POLICY, type LegPolicy } from './leg.ts';
import { codecsNamed } from './leg-codecs.ts';

/** What a trunk has to say of media. */
export type TrunkTerms = Pick<LegPolicy, 'codecs' | 'ptimeMs' | 'srtp' | 'dtmf'>;

/** What a leg may speak and whom it may send audio to. */
export interface LegMediaPolicy {
  /** In order of preference; all are offered. */
  readonly codecs: readonly CodecName[];
  /** Address written into SDP instead of a port's own of that family: the public one behind NAT. */
  readonly advertiseAddress: string | null;
  /** `media.address6`: for peers with IPv6 media where `media.address` is IPv4; null has none. */
  readonly address6: string | null;
  readonly latch: keyof typeof LATCH;
  /** Offer RTCP on the RTP port (RFC 5761); it is taken wherever it is offered. */
  readonly rtcpMux: boolean;
  /** To which addresses that a peer names audio may be sent. */
  readonly remote: MediaPolicy;
  readonly jitterMinMs: number;
  readonly jitterMaxMs: number;
  /** No RTP for so long is reported (it ends nothing). 0: never. */
  readonly silentTimeoutMs: number;
  /** Listen for keys in the audio when the peer does not offer telephone-event. */
  readonly inbandDtmf: boolean;
  readonly opusBitrate: number;
  readonly opusComplexity: number;
  /** What a trunk says of its calls; of who has none, the defaults. */
  readonly trunk: TrunkTerms;
}

export const DEFAULT_LEG_MEDIA: LegMediaPolicy = {
  codecs: ['opus', 'G722', 'PCMU', 'PCMA'],
  advertiseAddress: null,
  address6: null,
  latch: 'sameAddress',
  rtcpMux: false,
  remote: DEFAULT_MEDIA_POLICY,
  jitterMinMs: 20,
  jitterMaxMs: 200,
  silentTimeoutMs: 30_000,
  inbandDtmf: true,
  opusBitrate: 32_000,
  opusComplexity: 5,
  trunk: DEFAULT_LEG_POLICY,
};

/** `policy` for the calls of a trunk; codecs that it does not name are left out. */
export function termsOf(policy: LegMediaPolicy, trunk: TrunkTerms): LegMediaPolicy {
  return { ...policy, codecs: codecsNamed(trunk.codecs, policy.codecs), trunk };
}

/** Whether keys go as RFC 4733 events, where the peer has them. */
export function hasEvents({ trunk }: LegMediaPolicy): boolean {
  return trunk.dtmf === 'rfc4733';
}

/**
 * Whether keys are listened for in the audio. From a peer that sends them in INFO the tone, which
 * some of them leave in the audio, would be the same key once more.
 */
function hearsTones({ trunk, inbandDtmf }: LegMediaPolicy): boolean {
  return trunk.dtmf === 'inband' || (trunk.dtmf === 'rfc4733' && inbandDtmf);
}

export function familyOf(address: string): 4 | 6 {
  // Addresses only, never names: a colon is enough to tell.
  return address.includes(':') ? 6 : 4;
}

export function hasAddress(family: 4 | 6, main: string, policy: LegMediaPolicy): boolean {
  return familyOf(main) === family || (family === 6 && policy.address6 !== null);
}

/** Our address for media of a family; `main` is `media.address`. Throws SDP_REFUSED. */
export function localAddress(family: 4 | 6, main: string, policy: LegMediaPolicy): string {
  if (familyOf(main) === family) return main;
  if (family === 6 && policy.address6 !== null) return policy.address6;
  throw new GatewayError('SDP_REFUSED', { problem: `there is no IPv${family} media here` });
}

/** Throws when an offer could never be answered, before anything is made for it. */
export function checkOffer(text: string, main: string, policy: LegMediaPolicy): JudgedOffer {
  const offer = parseSdp(text);
  const family = offeredFamily(offer);
  return judge(offer, familyOf(localAddress(family, main, policy)), policy, null);
}

/**
 * An offer as far as it can be judged before its trunk is known: what nobody could answer throws,
 * and one that has nothing but SRTP, which is that trunk's to judge, is not looked into further.
 */
export function lookAtOffer(
  text: string,
  main: string,
  policy: LegMediaPolicy,
): { readonly judged: JudgedOffer | null; readonly srtp: OfferedSrtp } {
  const srtp = offeredSrtp(parseSdp(text));
  return { judged: srtp === 'only' ? null : checkOffer(text, main, policy), srtp };
}

/** Whether a trunk says anything of media that the node does not say by itself. */
export function isPlainTerms({ codecs, ptimeMs, srtp, dtmf }: TrunkTerms): boolean {
  const own = DEFAULT_LEG_POLICY;
  return codecs.length === 0 && ptimeMs === own.ptimeMs && srtp !== 'required' && dtmf === own.dtmf;
}

export function judge(
  offer: Sdp,
  family: 4 | 6,
  policy: LegMediaPolicy,
  previous: NegotiatedMedia | null,
): JudgedOffer {
  const { codecs, remote } = policy;
  const { srtp, ptimeMs } = policy.trunk;
  const known = previous === null ? {} : { previous };
  const terms = { codecs, srtp, ptimeMs, events: hasEvents(policy) };
  // RTCP on the RTP port where the peer offers it (RFC 5761 §5.1.1): our ports read both there.
  return judgeOffer({ offer, family, policy: remote, ...terms, ...known });
}

/** What was agreed, as the engine wants it told. */
export function portSettings(
  media: NegotiatedMedia,
  policy: LegMediaPolicy,
  isProven: boolean,
): PortSettings {
  const maxBitrate = media.opus?.maxAverageBitrate ?? policy.opusBitrate;
  return {
    remote: media.remote,
    codec: CODECS[media.codec].nativeId,
    payloadType: media.payloadType,
    receivePayloadType: media.receivePayloadType,
    ptimeMs: media.ptimeMs,
    dtmf: media.dtmf,
    direction: DIRECTIONS[media.direction],
    latch: LATCH[policy.latch],
    opus: {
      bitrate: Math.min(maxBitrate, policy.opusBitrate),
      complexity: policy.opusComplexity,
      fec: media.opus?.useInbandFec ?? false,
      dtx: media.opus?.dtx ?? false,
    },
    jitter: { minMs: policy.jitterMinMs, maxMs: policy.jitterMaxMs },
    silentTimeoutMs: policy.silentTimeoutMs,
    inbandDtmf: hearsTones(policy) && media.dtmf === null,
    proven: isProven,
  };
}
