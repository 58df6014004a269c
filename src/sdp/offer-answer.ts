/**
 * Offers and answers for one audio stream over plain RTP: which codec, which payload types, where
 * to, which way. Text and values in, text and values out; ports and sockets are the caller's. Not
 * for WebRTC (`webrtc/`), and SRTP is not negotiated: a secure-only offer is refused, never
 * answered in the clear.
 *
 * RFC 3264; RFC 3551; RFC 4733 (telephone-event); RFC 7587 (Opus); RFC 5761, RFC 3605 (RTCP);
 * RFC 6337 (hold). Exactly one codec is answered, with its telephone-event: then the peer cannot
 * change codec in the middle of a stream.
 */
import { CODEC_NAMES, CODECS, type CodecName } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';
import { isNowhere, type MediaPolicy, mediaAddress, refused } from './address.ts';
import { type Offered, readOffered } from './offered.ts';
import { type Direction, parseSdp, type Sdp, type SdpFormat, type SdpMedia } from './sdp.ts';

export interface LocalMedia {
  readonly address: string;
  readonly family: 4 | 6;
  readonly port: number;
  /** `port + 1` when not given. */
  readonly rtcpPort?: number;
}

export interface OpusSettings {
  readonly stereo: boolean;
  readonly useInbandFec: boolean;
  readonly maxAverageBitrate?: number;
  readonly dtx: boolean;
}

export interface NegotiatedMedia {
  readonly codec: CodecName;
  /** What we send with. */
  readonly payloadType: number;
  /** What we are sent. */
  readonly receivePayloadType: number;
  readonly ptimeMs: number;
  readonly dtmf: {
    readonly payloadType: number;
    readonly receivePayloadType: number;
    readonly clockRateHz: number;
  } | null;
  readonly remote: {
    readonly address: string;
    readonly port: number;
    readonly rtcpPort: number;
    readonly rtcpMux: boolean;
  };
  /** Ours: `recvonly` means that we do not send. */
  readonly direction: Direction;
  /** The peer does not want to hear us: sendonly, inactive or an address of zeros. */
  readonly onHold: boolean;
  readonly opus?: OpusSettings;
  /** Further codecs in common that were not chosen, with the payload types we would send. */
  readonly otherPayloadTypes: readonly {
    readonly codec: CodecName;
    readonly payloadType: number;
  }[];
}

export interface AnswerOptions {
  readonly offer: Sdp;
  /** What we can; the order is the offerer's. */
  readonly codecs: readonly CodecName[];
  readonly local: LocalMedia;
  /** Of our o= line, as decimal text; `version` grows by one whenever our text changes. */
  readonly sessionId: string;
  readonly version: number;
  readonly policy: MediaPolicy;
  /** What we would like; the offer may allow less. */
  readonly direction?: Direction;
  /** What was in use before a re-offer: kept as long as it is still offered. */
  readonly previous?: NegotiatedMedia;
  readonly rtcpMux?: boolean;
}

export interface OfferOptions {
  /** In our order of preference. */
  readonly codecs: readonly CodecName[];
  readonly local: LocalMedia;
  readonly sessionId: string;
  readonly version: number;
  readonly direction?: Direction;
  readonly ptimeMs?: number;
  readonly rtcpMux?: boolean;
  readonly previous?: NegotiatedMedia;
  /** Our last description in this dialog: its m= lines keep their number and place. */
  readonly previousSdp?: string;
}

export interface AcceptOptions {
  /** The text we sent. */
  readonly offer: string;
  readonly answer: Sdp;
  readonly policy: MediaPolicy;
}

const PTIME_DEFAULT_MS = 20;
const PTIME_MIN_MS = 10;
const PTIME_MAX_MS = 120;
const EVENT_PT_8000 = 101;
const EVENT_PT_48000 = 110;
const DYNAMIC_FIRST = 96;
const DYNAMIC_LAST = 127;
/** Plain RTP. The feedback profile of RFC 4585 differs only in when RTCP is sent. */
const PROFILES = new Set(['RTP/AVP', 'RTP/AVPF']);

/** The codec a format of theirs is, by name, clock and channels; null when we do not have it. */
function codecOf(format: SdpFormat): CodecName | null {
  for (const name of CODEC_NAMES) {
    const row = CODECS[name];
    if (row.clockRateHz !== format.clockRateHz || row.rtpmapChannels !== format.channels) continue;
    if (row.encoding.toLowerCase() === format.encoding.toLowerCase()) return name;
  }
  return null;
}

interface Match {
  readonly codec: CodecName;
  readonly format: SdpFormat;
}

function matches(formats: readonly SdpFormat[], codecs: readonly CodecName[]): Match[] {
  const found: Match[] = [];
  for (const format of formats) {
    const codec = codecOf(format);
    if (codec !== null && codecs.includes(codec)) found.push({ codec, format });
  }
  return found;
}

/** The family an answer must have a port of: that of the first audio line that can be used. */
export function offeredFamily(offer: Sdp): 4 | 6 {
  const media = offer.media.find((line) => isUsable(line)) ?? offer.media[0];
  return media?.connection?.family ?? 4;
}

function isUsable(media: SdpMedia): boolean {
  return media.kind === 'audio' && media.port !== 0 && PROFILES.has(media.protocol);
}

/** Throws NO_COMMON_CODEC, or SDP_REFUSED with what policy or protocol forbids. */
export function answerOffer(options: AnswerOptions): { sdp: string; media: NegotiatedMedia } {
  const { offer, codecs, local, previous } = options;
  const index = chooseLine(offer, codecs);
  const media = offer.media[index] as SdpMedia;
  const common = matches(media.codecs, codecs);
  const chosen = common.find(({ codec }) => codec === previous?.codec) ?? (common[0] as Match);
  const event = eventFor(media.codecs, CODECS[chosen.codec].clockRateHz);
  const rtcpMux = media.rtcpMux && (options.rtcpMux ?? true);
  const target = remoteOf(media, options.policy, rtcpMux);
  if (target.family !== local.family && !isNowhere(target.remote.address)) {
    throw refused(`media address of IPv${target.family}, ours is IPv${local.family}`);
  }
  const offered = heldDirection(media);
  const direction = intersect(reverse(offered), options.direction ?? 'sendrecv');
  const ptimeMs = packetTime(media);
  const result: NegotiatedMedia = {
    codec: chosen.codec,
    payloadType: chosen.format.payloadType,
    receivePayloadType: chosen.format.payloadType,
    ptimeMs,
    dtmf: event && { ...event, receivePayloadType: event.payloadType },
    remote: target.remote,
    direction,
    onHold: offered === 'sendonly' || offered === 'inactive',
    otherPayloadTypes: others(common, chosen),
    ...(chosen.codec === 'opus' ? { opus: opusSettings(chosen.format.fmtp) } : {}),
  };
  const formats = [codecFormat(chosen.codec, chosen.format.payloadType)];
  if (event !== null) formats.push(eventFormat(event.payloadType, event.clockRateHz));
  const own = mediaLines({
    formats,
    local,
    direction,
    ptimeMs,
    rtcpMux,
    protocol: media.protocol,
    isOffer: false,
  });
  const lines = sessionLines(options, offer.timing);
  for (const [i, line] of offer.media.entries()) {
    // RFC 3264 §6: every m= line is answered in its place; what is not taken, with port 0.
    if (i === index) lines.push(...own);
    else lines.push(`m=${line.kind} 0 ${line.protocol} ${line.formats.join(' ')}`);
  }
  return { sdp: `${lines.join('\r\n')}\r\n`, media: result };
}

/** The first audio line over plain RTP that has a codec of ours; throws the best reason if none. */
function chooseLine(offer: Sdp, codecs: readonly CodecName[]): number {
  const index = offer.media.findIndex(
    (media) => isUsable(media) && matches(media.codecs, codecs).length > 0,
  );
  if (index >= 0) return index;
  const audio = offer.media.filter((media) => media.kind === 'audio' && media.port !== 0);
  if (audio.length === 0) throw refused('no audio is offered');
  const plain = audio.filter((media) => PROFILES.has(media.protocol));
  if (plain.length === 0)
    throw refused(`no audio over RTP/AVP: offered ${audio[0]?.protocol ?? ''}`);
  throw noCommonCodec(plain);
}

function noCommonCodec(media: readonly SdpMedia[]): GatewayError {
  const names = media.flatMap((line) =>
    line.codecs.map((format) => `${format.encoding}/${format.clockRateHz}`),
  );
  const listed = names.length > 0 ? names : media.flatMap((line) => line.formats);
  const offered = [...new Set(listed)].slice(0, 16).join(', ');
  return new GatewayError('NO_COMMON_CODEC', { offered });
}

interface Target {
  readonly remote: NegotiatedMedia['remote'];
  readonly family: 4 | 6;
}

/** Where to send, after policy. On an old-style hold the address is zeros: nothing is sent. */
function remoteOf(media: SdpMedia, policy: MediaPolicy, rtcpMux: boolean): Target {
  if (media.connection === null) throw refused('no c= line');
  const { address, family } = mediaAddress(media.connection.host, policy);
  const { port } = media;
  if (port < policy.remotePortMin) throw refused(`media port ${port}`);
  let rtcpPort = rtcpMux ? port : port + 1;
  if (!rtcpMux && media.rtcp !== null) {
    rtcpPort = media.rtcp.port;
    // RFC 3605 lets RTCP go to another host; a report to a third party is nobody's need.
    const { host } = media.rtcp;
    if (host !== undefined && mediaAddress(host, policy).address !== address) {
      throw refused('RTCP to another address than RTP');
    }
  }
  if (rtcpPort < policy.remotePortMin || rtcpPort > 65_535) throw refused(`RTCP port ${rtcpPort}`);
  return { remote: { address, port, rtcpPort, rtcpMux }, family };
}

/** Their direction with the hold of RFC 2543 read as what it means: do not send to us. */
function heldDirection(media: SdpMedia): Direction {
  const isHeld = media.connection !== null && isNowhere(media.connection.host);
  return isHeld ? intersect(media.direction, 'sendonly') : media.direction;
}

function reverse(direction: Direction): Direction {
  if (direction === 'sendonly') return 'recvonly';
  return direction === 'recvonly' ? 'sendonly' : direction;
}

function intersect(a: Direction, b: Direction): Direction {
  const sends = canSend(a) && canSend(b);
  const receives = canReceive(a) && canReceive(b);
  if (sends) return receives ? 'sendrecv' : 'sendonly';
  return receives ? 'recvonly' : 'inactive';
}

function canSend(direction: Direction): boolean {
  return direction === 'sendrecv' || direction === 'sendonly';
}

function canReceive(direction: Direction): boolean {
  return direction === 'sendrecv' || direction === 'recvonly';
}

/** What they want to get, as far as we make it: whole tens, 10 to 120 ms, not above maxptime. */
function packetTime(media: SdpMedia): number {
  const wanted =
    media.ptimeMs === undefined || media.ptimeMs === 0 ? PTIME_DEFAULT_MS : media.ptimeMs;
  const most =
    media.maxptimeMs === undefined || media.maxptimeMs === 0 ? PTIME_MAX_MS : media.maxptimeMs;
  const bounded = Math.min(wanted, most, PTIME_MAX_MS);
  return Math.max(PTIME_MIN_MS, Math.floor(bounded / 10) * 10);
}

/**
 * The telephone-event of the codec's clock (RFC 4733 §2.1: events share the stream's timestamps).
 * Endpoints that offer Opus with events at 8000 only do exist; theirs is better than none.
 */
function eventFor(
  formats: readonly SdpFormat[],
  clockRateHz: number,
): { payloadType: number; clockRateHz: number } | null {
  const events = formats.filter(({ encoding }) => encoding.toLowerCase() === 'telephone-event');
  const event = events.find((format) => format.clockRateHz === clockRateHz) ?? events[0];
  return event === undefined
    ? null
    : { payloadType: event.payloadType, clockRateHz: event.clockRateHz };
}

function others(common: readonly Match[], chosen: Match): NegotiatedMedia['otherPayloadTypes'] {
  return common
    .filter((match) => match !== chosen)
    .map(({ codec, format }) => ({ codec, payloadType: format.payloadType }));
}

/** RFC 7587 §6.1: what they would like to receive; unknown or absurd values are passed over. */
function opusSettings(fmtp: string): OpusSettings {
  const values = new Map<string, string>();
  for (const part of fmtp.split(';')) {
    const [name = '', value = ''] = part.split('=');
    values.set(name.trim().toLowerCase(), value.trim());
  }
  const bitrate = Number(values.get('maxaveragebitrate') ?? Number.NaN);
  const hasBitrate = bitrate >= 6000 && bitrate <= 510_000;
  return {
    stereo: values.get('stereo') === '1',
    useInbandFec: values.get('useinbandfec') === '1',
    dtx: values.get('usedtx') === '1',
    ...(hasBitrate ? { maxAverageBitrate: Math.floor(bitrate) } : {}),
  };
}

interface OwnFormat {
  readonly payloadType: number;
  readonly rtpmap: string;
  readonly fmtp: string;
}

function codecFormat(codec: CodecName, payloadType: number): OwnFormat {
  const row = CODECS[codec];
  const channels = row.rtpmapChannels > 1 ? `/${row.rtpmapChannels}` : '';
  const rtpmap = `${row.encoding}/${row.clockRateHz}${channels}`;
  return { payloadType, rtpmap, fmtp: codec === 'opus' ? 'useinbandfec=1' : '' };
}

function eventFormat(payloadType: number, clockRateHz: number): OwnFormat {
  return { payloadType, rtpmap: `telephone-event/${clockRateHz}`, fmtp: '0-15' };
}

interface OwnMedia {
  readonly formats: readonly OwnFormat[];
  readonly local: LocalMedia;
  readonly direction: Direction;
  readonly ptimeMs: number;
  readonly rtcpMux: boolean;
  readonly protocol: string;
  readonly isOffer: boolean;
}

function mediaLines(own: OwnMedia): string[] {
  const { formats, local } = own;
  const list = formats.map((format) => format.payloadType).join(' ');
  const lines = [`m=audio ${local.port} ${own.protocol} ${list}`];
  for (const { payloadType, rtpmap, fmtp } of formats) {
    lines.push(`a=rtpmap:${payloadType} ${rtpmap}`);
    if (fmtp !== '') lines.push(`a=fmtp:${payloadType} ${fmtp}`);
  }
  lines.push(`a=ptime:${own.ptimeMs}`, `a=maxptime:${PTIME_MAX_MS}`, `a=${own.direction}`);
  if (own.rtcpMux) lines.push('a=rtcp-mux');
  // An offer names the port to fall back to; an answer that muxes has no other (RFC 5761 §5.1).
  if (!own.rtcpMux || own.isOffer) lines.push(`a=rtcp:${local.rtcpPort ?? local.port + 1}`);
  return lines;
}

function sessionLines(
  options: { readonly local: LocalMedia; readonly sessionId: string; readonly version: number },
  timing: string,
): string[] {
  const address = `IN IP${options.local.family} ${options.local.address}`;
  const origin = `o=- ${options.sessionId} ${options.version} ${address}`;
  return ['v=0', origin, 's=-', `c=${address}`, `t=${timing}`];
}

/** Every codec with a telephone-event for each clock in use, in our order of preference. */
export function makeOffer(options: OfferOptions): { sdp: string } {
  const { local, previous } = options;
  const codecs = inUseFirst(options.codecs, previous);
  const taken = new Set<number>();
  const formats: OwnFormat[] = [];
  const take = (wanted: number): number => {
    let payloadType = wanted;
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
  for (const clockRateHz of new Set(codecs.map((codec) => CODECS[codec].clockRateHz))) {
    const isKept = typeof keptEvent === 'number' && previous?.dtmf?.clockRateHz === clockRateHz;
    const usual = clockRateHz === 48_000 ? EVENT_PT_48000 : EVENT_PT_8000;
    formats.push(eventFormat(isKept ? keptEvent : take(usual), clockRateHz));
  }
  const own = mediaLines({
    formats,
    local,
    direction: options.direction ?? 'sendrecv',
    ptimeMs: options.ptimeMs ?? previous?.ptimeMs ?? PTIME_DEFAULT_MS,
    rtcpMux: options.rtcpMux ?? false,
    protocol: 'RTP/AVP',
    isOffer: true,
  });
  const lines = sessionLines(options, '0 0');
  lines.push(...inPlace(own, options.previousSdp));
  return { sdp: `${lines.join('\r\n')}\r\n` };
}

function inUseFirst(
  codecs: readonly CodecName[],
  previous: NegotiatedMedia | undefined,
): CodecName[] {
  if (previous === undefined || !codecs.includes(previous.codec)) return [...codecs];
  return [previous.codec, ...codecs.filter((codec) => codec !== previous.codec)];
}

/** RFC 3264 §8: a later offer has at least the m= lines of before; those not in use at port 0. */
function inPlace(own: readonly string[], previousSdp: string | undefined): string[] {
  if (previousSdp === undefined) return [...own];
  const before = parseSdp(previousSdp).media;
  const place = Math.max(
    before.findIndex((media) => media.kind === 'audio' && media.port !== 0),
    0,
  );
  return before.flatMap((media, index) =>
    index === place ? own : [`m=${media.kind} 0 ${media.protocol} ${media.formats.join(' ')}`],
  );
}

/** What their answer makes of our offer. Throws NO_COMMON_CODEC, SDP_REFUSED or SDP_MALFORMED. */
export function acceptAnswer(options: AcceptOptions): NegotiatedMedia {
  const ours = readOffered(options.offer);
  const { answer, policy } = options;
  const media = answer.media[ours.index];
  if (media === undefined) {
    throw new GatewayError('SDP_MALFORMED', { problem: 'the answer lacks our m= line' });
  }
  if (media.port === 0) throw refused('the answer declines audio');
  if (media.kind !== 'audio' || !PROFILES.has(media.protocol)) {
    throw refused(`the answer is ${media.kind} over ${media.protocol}`);
  }
  const offeredCodecs = matches(ours.formats, CODEC_NAMES);
  const common = matches(
    media.codecs,
    offeredCodecs.map(({ codec }) => codec),
  );
  const [chosen] = common;
  if (chosen === undefined) throw noCommonCodec([media]);
  const receive = offeredCodecs.find(({ codec }) => codec === chosen.codec) as Match;
  const rtcpMux = ours.rtcpMux && media.rtcpMux;
  const { remote, family } = remoteOf(media, policy, rtcpMux);
  if (family !== ours.family && !isNowhere(remote.address)) {
    throw refused(`media address of IPv${family}, ours is not`);
  }
  const answered = heldDirection(media);
  return {
    codec: chosen.codec,
    payloadType: chosen.format.payloadType,
    receivePayloadType: receive.format.payloadType,
    ptimeMs: packetTime(media),
    dtmf: answeredEvent(ours, media, CODECS[chosen.codec].clockRateHz),
    remote,
    direction: intersect(ours.direction, reverse(answered)),
    onHold: answered === 'sendonly' || answered === 'inactive',
    otherPayloadTypes: others(common, chosen),
    ...(chosen.codec === 'opus' ? { opus: opusSettings(chosen.format.fmtp) } : {}),
  };
}

/** Events count only at a clock both listed; each side names its own payload type for it. */
function answeredEvent(
  ours: Offered,
  theirs: SdpMedia,
  clockRateHz: number,
): NegotiatedMedia['dtmf'] {
  const event = eventFor(theirs.codecs, clockRateHz);
  if (event === null) return null;
  const own = ours.formats.find(
    (format) => format.encoding === 'telephone-event' && format.clockRateHz === event.clockRateHz,
  );
  return own === undefined ? null : { ...event, receivePayloadType: own.payloadType };
}
