/**
 * Our own session descriptions as text: the session's lines, the one audio stream that is ours, and
 * m= lines of others that are not taken. What they say is decided in `offer-answer`.
 *
 * RFC 8866 (the order of lines); RFC 5761 and RFC 3605 (RTCP).
 */
import type { OwnFormats } from './own-formats.ts';
import type { Direction, SdpMedia } from './sdp.ts';

export interface LocalMedia {
  readonly address: string;
  readonly family: 4 | 6;
  readonly port: number;
  /** `port + 1` when not given. */
  readonly rtcpPort?: number;
}

export interface Origin {
  readonly local: LocalMedia;
  /** Of our o= line, as decimal text; `version` grows by one whenever our text changes. */
  readonly sessionId: string;
  readonly version: number;
}

/** In packets we send and take. */
export const PTIME_MAX_MS = 120;

export function sessionLines({ local, sessionId, version }: Origin, timing: string): string {
  const address = `IN IP${local.family} ${local.address}`;
  const origin = `o=- ${sessionId} ${version} ${address}`;
  return `v=0\r\n${origin}\r\ns=-\r\nc=${address}\r\nt=${timing}\r\n`;
}

export interface OwnMedia {
  readonly formats: OwnFormats;
  readonly local: LocalMedia;
  readonly direction: Direction;
  readonly ptimeMs: number;
  readonly rtcpMux: boolean;
  readonly protocol: string;
  readonly isOffer: boolean;
}

export function mediaLines(own: OwnMedia): string {
  const { local } = own;
  const { types, lines } = own.formats;
  const times = `a=ptime:${own.ptimeMs}\r\na=maxptime:${PTIME_MAX_MS}\r\n`;
  const mux = own.rtcpMux ? 'a=rtcp-mux\r\n' : '';
  // An offer names the port to fall back to; an answer that muxes has no other (RFC 5761 §5.1).
  const hasRtcp = !own.rtcpMux || own.isOffer;
  const rtcp = hasRtcp ? `a=rtcp:${local.rtcpPort ?? local.port + 1}\r\n` : '';
  const head = `m=audio ${local.port} ${own.protocol}${types}\r\n`;
  return `${head}${lines}${times}a=${own.direction}\r\n${mux}${rtcp}`;
}

/** An m= line that is not taken, or not in use any more (RFC 3264 §6, §8). */
export function declinedLine({ kind, protocol, formats }: SdpMedia): string {
  return `m=${kind} 0 ${protocol} ${formats.join(' ')}\r\n`;
}
