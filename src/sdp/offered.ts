/**
 * What our own offer said, read back from the text that `makeOffer` wrote when its answer comes.
 * Only for that text: nothing is checked, and what we never write is not looked for. Descriptions
 * of others are read by `sdp`.
 */
import type { Direction, SdpFormat } from './sdp.ts';

export interface Offered {
  /** The place of our m= line among those of the offer; -1 when all are at port 0. */
  readonly index: number;
  readonly family: 4 | 6;
  /** In our order of preference. */
  readonly formats: readonly SdpFormat[];
  readonly direction: Direction;
  readonly rtcpMux: boolean;
}

const DIRECTIONS = ['sendrecv', 'sendonly', 'recvonly', 'inactive'] as const;

export function readOffered(text: string): Offered {
  const formats: SdpFormat[] = [];
  let family: 4 | 6 = 4;
  let direction: Direction = 'sendrecv';
  let rtcpMux = false;
  let place = -1;
  let index = -1;
  for (const line of text.split('\r\n')) {
    if (line.startsWith('m=')) {
      // RFC 3264 §8: lines that are not in use any more stand beside ours, at port 0.
      place += 1;
      if (index < 0 && line.split(' ', 2)[1] !== '0') index = place;
    } else if (line.startsWith('c=IN IP6')) {
      family = 6;
    } else if (index === place && line.startsWith('a=')) {
      if (line.startsWith('a=rtpmap:')) formats.push(formatOf(line));
      else if (line === 'a=rtcp-mux') rtcpMux = true;
      else direction = DIRECTIONS.find((name) => line === `a=${name}`) ?? direction;
    }
  }
  return { index, family, formats, direction, rtcpMux };
}

/** `a=rtpmap:111 opus/48000/2` */
function formatOf(line: string): SdpFormat {
  const space = line.indexOf(' ');
  const [encoding = '', rate, channels] = line.slice(space + 1).split('/');
  return {
    payloadType: Number(line.slice('a=rtpmap:'.length, space)),
    encoding,
    clockRateHz: Number(rate),
    channels: Number(channels ?? 1),
    fmtp: '',
  };
}
