/**
 * The formats of our own descriptions: which payload types an offer of ours gives to its codecs and
 * their events, and the lines that say so. What is taken of them is `offer-answer`.
 *
 * RFC 3551 (static types), RFC 3264 §8.3.2 (numbers stay), RFC 4733 (events), RFC 7587 (Opus).
 */
import { CODECS, type CodecName } from '../core/codec.ts';
import type { SdpFormat } from './sdp.ts';

const EVENT_PT_8000 = 101;
const EVENT_PT_48000 = 110;
const DYNAMIC_FIRST = 96;
const DYNAMIC_LAST = 127;

/** What a stream uses, as far as a new offer must keep to it. */
export interface InUse {
  readonly codec: CodecName;
  readonly receivePayloadType: number;
  readonly dtmf: { readonly receivePayloadType: number; readonly clockRateHz: number } | null;
}

/** Formats as they stand in a description of ours: many calls have the same. */
export interface OwnFormats {
  readonly formats: readonly SdpFormat[];
  /** What the m= line ends with. */
  readonly types: string;
  /** Their a= lines. */
  readonly lines: string;
}

export function ownFormats(formats: readonly SdpFormat[]): OwnFormats {
  let types = '';
  let lines = '';
  for (const { payloadType, encoding, clockRateHz, channels, fmtp } of formats) {
    types += ` ${payloadType}`;
    lines += `a=rtpmap:${payloadType} ${encoding}/${clockRateHz}`;
    lines += channels > 1 ? `/${channels}\r\n` : '\r\n';
    if (fmtp !== '') lines += `a=fmtp:${payloadType} ${fmtp}\r\n`;
  }
  return { formats, types, lines };
}

export function codecFormat(codec: CodecName, payloadType: number): SdpFormat {
  const { encoding, clockRateHz, rtpmapChannels: channels } = CODECS[codec];
  const fmtp = codec === 'opus' ? 'useinbandfec=1' : '';
  return { payloadType, encoding, clockRateHz, channels, fmtp };
}

export function eventFormat(payloadType: number, clockRateHz: number): SdpFormat {
  return { payloadType, encoding: 'telephone-event', clockRateHz, channels: 1, fmtp: '0-15' };
}

/** A first offer's depend on the list alone, which is one and the same for all calls. */
const FIRST_FORMATS = {
  withEvents: new WeakMap<readonly CodecName[], OwnFormats>(),
  without: new WeakMap<readonly CodecName[], OwnFormats>(),
};

/** Every codec, then a telephone-event for each clock in use; in our order of preference. */
export function offeredFormats(
  codecs: readonly CodecName[],
  hasEvents: boolean,
  previous: InUse | undefined,
): OwnFormats {
  if (previous !== undefined) return ownFormats(numberedFormats(codecs, hasEvents, previous));
  const first = hasEvents ? FIRST_FORMATS.withEvents : FIRST_FORMATS.without;
  const known = first.get(codecs);
  if (known !== undefined) return known;
  const formats = ownFormats(numberedFormats(codecs, hasEvents, undefined));
  first.set(codecs, formats);
  return formats;
}

function numberedFormats(
  wanted: readonly CodecName[],
  hasEvents: boolean,
  previous: InUse | undefined,
): SdpFormat[] {
  const codecs = inUseFirst(wanted, previous);
  const taken = new Set<number>();
  const formats: SdpFormat[] = [];
  const take = (usual: number): number => {
    let payloadType = usual;
    for (let n = DYNAMIC_FIRST; taken.has(payloadType) && n <= DYNAMIC_LAST; n += 1)
      payloadType = n;
    taken.add(payloadType);
    return payloadType;
  };
  // What is in use keeps its numbers (RFC 3264 §8.3.2), so they are taken before the others'.
  const kept = previous && take(previous.receivePayloadType);
  const keptEvent = previous?.dtmf && take(previous.dtmf.receivePayloadType);
  for (const codec of codecs) {
    const isKept = kept !== undefined && codec === previous?.codec;
    formats.push(codecFormat(codec, isKept ? kept : take(CODECS[codec].payloadType)));
  }
  const clocks = hasEvents ? codecs.map((codec) => CODECS[codec].clockRateHz) : [];
  for (const clockRateHz of new Set(clocks)) {
    const isKept = typeof keptEvent === 'number' && previous?.dtmf?.clockRateHz === clockRateHz;
    const usual = clockRateHz === 48_000 ? EVENT_PT_48000 : EVENT_PT_8000;
    formats.push(eventFormat(isKept ? keptEvent : take(usual), clockRateHz));
  }
  return formats;
}

function inUseFirst(
  codecs: readonly CodecName[],
  previous: InUse | undefined,
): readonly CodecName[] {
  if (previous === undefined || !codecs.includes(previous.codec)) return codecs;
  return [previous.codec, ...codecs.filter((codec) => codec !== previous.codec)];
}
