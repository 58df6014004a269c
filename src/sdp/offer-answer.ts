/**
 * Offers and answers for one audio stream over plain RTP: which codec, which payload types, where
 * to, which way. Text and values in, text and values out; ports and sockets are the caller's. Not
 * for WebRTC (`webrtc/`), and SRTP is not negotiated (`security.ts` says what becomes of it).
 *
 * RFC 3264; RFC 3551; RFC 4733 (telephone-event); RFC 7587 (Opus); RFC 5761, RFC 3605 (RTCP);
 * RFC 6337 (hold). Exactly one codec is answered, with its telephone-event: then the peer cannot
 * change codec in the middle of a stream.
 */
import { CODEC_NAMES, CODECS, type CodecName } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';
import { isNowhere, type MediaPolicy, mediaAddress, refused } from './address.ts';
import { codecFormat, eventFormat, offeredFormats, ownFormats } from './own-formats.ts';
import { type Direction, parseSdp, type Sdp, type SdpFormat, type SdpMedia } from './sdp.ts';
import { isPlain, offeredSrtp, type SrtpMode, srtpRefusal } from './security.ts';
import { declinedLine, mediaLines, type Origin, PTIME_MAX_MS, sessionLines } from './written.ts';

export type { LocalMedia } from './written.ts';

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

export interface JudgeOptions {
  readonly offer: Sdp;
  /** What we can; the order is the offerer's. */
  readonly codecs: readonly CodecName[];
  /** Of the port that is, or will be, ours. */
  readonly family: 4 | 6;
  readonly policy: MediaPolicy;
  /** What we would like; the offer may allow less. */
  readonly direction?: Direction;
  /** What was in use before a re-offer: kept as long as it is still offered. */
  readonly previous?: NegotiatedMedia;
  readonly rtcpMux?: boolean;
  /** Absent: off. */
  readonly srtp?: SrtpMode;
  /** Whether keys go as telephone-event (RFC 4733) where the offer has it; absent: they do. */
  readonly events?: boolean;
  /** Of packets both ways where the offer names no time. */
  readonly ptimeMs?: number;
}

/** An offer and what is taken of it: all that an answer says, except where our port is. */
export interface JudgedOffer {
  readonly offer: Sdp;
  /** Place of the m= line that is taken; -1 when the peer has stopped its audio. */
  readonly index: number;
  readonly media: NegotiatedMedia;
}

export type AnswerOptions = Omit<JudgeOptions, 'family'> & Origin;

export interface OfferOptions extends Origin {
  /** In our order of preference. */
  readonly codecs: readonly CodecName[];
  readonly direction?: Direction;
  readonly ptimeMs?: number;
  /** Whether telephone-event is offered; absent: it is. */
  readonly events?: boolean;
  readonly rtcpMux?: boolean;
  readonly previous?: NegotiatedMedia;
  /** Our last description in this dialog: its m= lines keep their number and place. */
  readonly previousSdp?: string;
}

/** What an offer of ours says, as its answer is read by. */
export interface OwnOffer {
  readonly sdp: string;
  /** The place of our m= line among those of the offer. */
  readonly index: number;
  readonly family: 4 | 6;
  /** In our order of preference, with events. */
  readonly formats: readonly SdpFormat[];
  readonly direction: Direction;
  readonly rtcpMux: boolean;
}

export interface AcceptOptions {
  /** As it was made; its text where nothing else is left of it. */
  readonly offer: OwnOffer | string;
  readonly answer: Sdp;
  readonly policy: MediaPolicy;
  /** Of packets we send where the answer names no time: what our offer asked for. */
  readonly ptimeMs?: number;
}

const PTIME_DEFAULT_MS = 20;
const PTIME_MIN_MS = 10;
/** RFC 6716 §2.1.4: Opus has frames of so many milliseconds, and none between. */
const OPUS_TIMES_MS: readonly number[] = [60, 40, 20, 10];

/** Ours by what an rtpmap says of them. */
const CODEC_OF: ReadonlyMap<string, CodecName> = new Map(
  CODEC_NAMES.map((name) => {
    const { encoding, clockRateHz, rtpmapChannels } = CODECS[name];
    return [rtpmapKey(encoding, clockRateHz, rtpmapChannels), name];
  }),
);

/** Name, clock and channels together are the codec; names have no case (RFC 8866 §6.6). */
function rtpmapKey(encoding: string, clockRateHz: number, channels: number): string {
  return `${encoding.toLowerCase()}/${clockRateHz}/${channels}`;
}

interface Match {
  readonly codec: CodecName;
  readonly format: SdpFormat;
}

function matches(formats: readonly SdpFormat[], codecs: readonly CodecName[]): Match[] {
  const found: Match[] = [];
  for (const format of formats) {
    const { encoding, clockRateHz, channels } = format;
    const codec = CODEC_OF.get(rtpmapKey(encoding, clockRateHz, channels));
    if (codec !== undefined && codecs.includes(codec)) found.push({ codec, format });
  }
  return found;
}

/** The family an answer must have a port of: that of the first audio line that can be used. */
export function offeredFamily(offer: Sdp): 4 | 6 {
  const media = offer.media.find((line) => isUsable(line)) ?? offer.media[0];
  return media?.connection?.family ?? 4;
}

function isUsable(media: SdpMedia): boolean {
  return media.kind === 'audio' && media.port !== 0 && isPlain(media);
}

/** Both at once, where the port is there before the offer. Throws as `judgeOffer` does. */
export function answerOffer(options: AnswerOptions): { sdp: string; media: NegotiatedMedia } {
  const judged = judgeOffer({ ...options, family: options.local.family });
  return { sdp: writeAnswer(judged, options), media: judged.media };
}

/** Throws NO_COMMON_CODEC, SRTP_*, or SDP_REFUSED with what policy or protocol forbids. */
export function judgeOffer(options: JudgeOptions): JudgedOffer {
  const { offer, family, previous } = options;
  if (previous !== undefined && isStopped(offer)) {
    return { offer, index: -1, media: { ...previous, direction: 'inactive', onHold: true } };
  }
  const refusal = srtpRefusal(offeredSrtp(offer), options.srtp ?? 'off');
  if (refusal !== null) throw refusal;
  const { index, common } = chooseLine(offer, options.codecs);
  const media = offer.media[index] as SdpMedia;
  const chosen = common.find(({ codec }) => codec === previous?.codec) ?? (common[0] as Match);
  const rtcpMux = media.rtcpMux && (options.rtcpMux ?? true);
  const target = remoteOf(media, options.policy, rtcpMux);
  if (target.family !== family && !isNowhere(target.remote.address)) {
    throw refused(`media address of IPv${target.family}, ours is IPv${family}`);
  }
  const hasEvents = options.events ?? true;
  const event = hasEvents ? eventFor(media.codecs, CODECS[chosen.codec].clockRateHz) : null;
  const agreed = agree({
    media,
    common,
    chosen,
    receivePayloadType: chosen.format.payloadType,
    dtmf: event && { ...event, receivePayloadType: event.payloadType },
    remote: target.remote,
    direction: options.direction ?? 'sendrecv',
    ptimeMs: options.ptimeMs ?? PTIME_DEFAULT_MS,
  });
  return { offer, index, media: agreed };
}

/** The answer to an offer that was judged, for the port that was made for it. */
export function writeAnswer({ offer, index, media }: JudgedOffer, origin: Origin): string {
  const formats = [codecFormat(media.codec, media.payloadType)];
  const { dtmf } = media;
  if (dtmf !== null) formats.push(eventFormat(dtmf.payloadType, dtmf.clockRateHz));
  let sdp = sessionLines(origin, offer.timing);
  for (const [i, line] of offer.media.entries()) {
    // RFC 3264 §6: every m= line is answered in its place; what is not taken, with port 0.
    if (i !== index) sdp += declinedLine(line);
    else {
      sdp += mediaLines({
        formats: ownFormats(formats),
        local: origin.local,
        direction: media.direction,
        ptimeMs: media.ptimeMs,
        rtcpMux: media.remote.rtcpMux,
        protocol: line.protocol,
        isOffer: false,
      });
    }
  }
  return sdp;
}

interface Agreement {
  readonly media: SdpMedia;
  readonly common: readonly Match[];
  readonly chosen: Match;
  readonly receivePayloadType: number;
  readonly dtmf: NegotiatedMedia['dtmf'];
  readonly remote: NegotiatedMedia['remote'];
  /** What we would have. */
  readonly direction: Direction;
  readonly ptimeMs: number;
}

function agree(agreement: Agreement): NegotiatedMedia {
  const { media, chosen } = agreement;
  const theirs = heldDirection(media);
  const agreed: NegotiatedMedia = {
    codec: chosen.codec,
    payloadType: chosen.format.payloadType,
    receivePayloadType: agreement.receivePayloadType,
    ptimeMs: packetTime(media, chosen.codec, agreement.ptimeMs),
    dtmf: agreement.dtmf,
    remote: agreement.remote,
    direction: intersect(reverse(theirs), agreement.direction),
    onHold: theirs === 'sendonly' || theirs === 'inactive',
    otherPayloadTypes: others(agreement.common, chosen),
  };
  if (chosen.codec !== 'opus') return agreed;
  return { ...agreed, opus: opusSettings(chosen.format.fmtp) };
}

/**
 * RFC 3264 §8.2: the audio of a call is taken away with port 0, which old phones do to hold. The
 * call stands, every line is answered with port 0, and a later offer brings the audio back.
 */
function isStopped(offer: Sdp): boolean {
  const audio = offer.media.filter(({ kind }) => kind === 'audio');
  return audio.length > 0 && audio.every(({ port }) => port === 0);
}

interface Choice {
  readonly index: number;
  readonly common: readonly Match[];
}

/** The first audio line over plain RTP that has a codec of ours; throws the best reason if none. */
function chooseLine(offer: Sdp, codecs: readonly CodecName[]): Choice {
  for (const [index, media] of offer.media.entries()) {
    const common = isUsable(media) ? matches(media.codecs, codecs) : [];
    if (common.length > 0) return { index, common };
  }
  const audio = offer.media.filter((media) => media.kind === 'audio' && media.port !== 0);
  if (audio.length === 0) throw refused('no audio is offered');
  const plain = audio.filter(isPlain);
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

/**
 * What they want to get, else what we would have, as far as we make it: whole tens, 10 to 120 ms,
 * not above maxptime.
 */
function packetTime(media: SdpMedia, codec: CodecName, ours: number): number {
  const wanted = media.ptimeMs === undefined || media.ptimeMs === 0 ? ours : media.ptimeMs;
  const most =
    media.maxptimeMs === undefined || media.maxptimeMs === 0 ? PTIME_MAX_MS : media.maxptimeMs;
  const bounded = Math.min(wanted, most, PTIME_MAX_MS);
  const timeMs = Math.max(PTIME_MIN_MS, Math.floor(bounded / 10) * 10);
  if (codec !== 'opus') return timeMs;
  return OPUS_TIMES_MS.find((one) => one <= timeMs) ?? PTIME_MIN_MS;
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

/** Every codec, with a telephone-event for each clock in use, in our order of preference. */
export function makeOffer(options: OfferOptions): OwnOffer {
  const { local, previous, previousSdp, direction = 'sendrecv', rtcpMux = false } = options;
  const formats = offeredFormats(options.codecs, options.events ?? true, previous);
  const own = mediaLines({
    formats,
    local,
    direction,
    ptimeMs: previous?.ptimeMs ?? options.ptimeMs ?? PTIME_DEFAULT_MS,
    rtcpMux,
    protocol: 'RTP/AVP',
    isOffer: true,
  });
  // RFC 3264 §8: a later offer has at least the m= lines of before; those not in use at port 0.
  const before = previousSdp === undefined ? [] : parseSdp(previousSdp).media;
  const index = Math.max(before.findIndex(isOwn), 0);
  let sdp = sessionLines(options, '0 0');
  for (const [i, line] of before.entries()) sdp += i === index ? own : declinedLine(line);
  if (before.length === 0) sdp += own;
  return { sdp, index, family: local.family, formats: formats.formats, direction, rtcpMux };
}

/** In a description of ours, the m= line that is in use. */
function isOwn({ kind, port }: SdpMedia): boolean {
  return kind === 'audio' && port !== 0;
}

/** What an offer of ours said, of its text. */
function readOffer(sdp: string): OwnOffer | null {
  const { media } = parseSdp(sdp);
  const index = media.findIndex(isOwn);
  const own = media[index];
  if (own === undefined) return null;
  const { codecs: formats, connection, direction, rtcpMux } = own;
  return { sdp, index, family: connection?.family ?? 4, formats, direction, rtcpMux };
}

/** What their answer makes of our offer. Throws NO_COMMON_CODEC, SDP_REFUSED or SDP_MALFORMED. */
export function acceptAnswer(options: AcceptOptions): NegotiatedMedia {
  const { offer, answer, policy } = options;
  const ours = typeof offer === 'string' ? readOffer(offer) : offer;
  const media = ours === null ? undefined : answer.media[ours.index];
  if (ours === null || media === undefined) {
    throw new GatewayError('SDP_MALFORMED', { problem: 'the answer lacks our m= line' });
  }
  if (media.port === 0) throw refused('the answer declines audio');
  if (media.kind !== 'audio' || !isPlain(media)) {
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
  const { remote, family } = remoteOf(media, policy, ours.rtcpMux && media.rtcpMux);
  if (family !== ours.family && !isNowhere(remote.address)) {
    throw refused(`media address of IPv${family}, ours is not`);
  }
  return agree({
    media,
    common,
    chosen,
    receivePayloadType: receive.format.payloadType,
    dtmf: answeredEvent(ours, media, CODECS[chosen.codec].clockRateHz),
    remote,
    direction: ours.direction,
    ptimeMs: options.ptimeMs ?? PTIME_DEFAULT_MS,
  });
}

/** Events count only at a clock both listed; each side names its own payload type for it. */
function answeredEvent(
  ours: OwnOffer,
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
