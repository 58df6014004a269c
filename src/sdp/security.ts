/**
 * What an offer has of SRTP, and whether that goes together with what a trunk wants. The engine
 * carries plain RTP: SRTP that is only preferred is done without, and where there is nothing else
 * the offer is refused, never answered in the clear. Which line is taken is `offer-answer`.
 *
 * RFC 3711 and RFC 5124 (profiles), RFC 4568 (a=crypto). Keys beside RTP/AVP are how many devices
 * say that SRTP would be welcome; RFC 8643 §3 has them answered in plain where it is not to be had.
 */
import { GatewayError } from '../core/errors.ts';
import type { Sdp, SdpMedia } from './sdp.ts';

export type SrtpMode = 'off' | 'preferred' | 'required';

/** `also`: beside plain RTP, as another m= line or as keys; `only`: there is nothing else. */
export type OfferedSrtp = 'none' | 'also' | 'only';

/** The feedback profile of RFC 4585 differs from plain RTP only in when RTCP is sent. */
const PLAIN = new Set(['RTP/AVP', 'RTP/AVPF']);
const SECURE = /(?:^|\/)RTP\/SAVPF?$/;

export function isPlain({ protocol }: SdpMedia): boolean {
  return PLAIN.has(protocol);
}

export function offeredSrtp(offer: Sdp): OfferedSrtp {
  let hasPlain = false;
  let hasSecure = false;
  for (const media of offer.media) {
    if (media.kind !== 'audio' || media.port === 0) continue;
    if (isPlain(media)) hasPlain = true;
    if (media.hasCrypto || SECURE.test(media.protocol)) hasSecure = true;
  }
  if (!hasSecure) return 'none';
  return hasPlain ? 'also' : 'only';
}

/** Null when an offer that has this of SRTP can be answered. `offered` null: ours is asked for. */
export function srtpRefusal(offered: OfferedSrtp | null, mode: SrtpMode): GatewayError | null {
  if (mode === 'required') {
    if (offered === 'none') return new GatewayError('SRTP_REQUIRED');
    return new GatewayError('SRTP_UNSUPPORTED', { mode });
  }
  if (offered !== 'only') return null;
  if (mode === 'off') return new GatewayError('SRTP_OFF');
  return new GatewayError('SRTP_UNSUPPORTED', { mode });
}
