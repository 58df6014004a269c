/**
 * Text to `Sdp`: the one place where session descriptions are read. One pass over the lines, each
 * read by the rule of its kind; attributes that nobody here acts on are passed over. Not
 * negotiation (`offer-answer`) and no judgement on addresses (`address`).
 *
 * RFC 8866 (RFC 4566), RFC 3605 (rtcp), RFC 5761 (rtcp-mux), RFC 5888 (groups). Numbers of o= stay
 * text: they may have more digits than a double.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { GatewayError } from '../core/errors.ts';

export interface SdpLimits {
  readonly bytesMax: number;
  readonly lineBytesMax: number;
  readonly linesMax: number;
  readonly mediaMax: number;
  /** Formats of one m= line that are looked at; what is listed beyond them is passed over. */
  readonly formatsMax: number;
}

const DEFAULT_SDP_LIMITS: SdpLimits = {
  bytesMax: 65_536,
  lineBytesMax: 8192,
  linesMax: 4096,
  mediaMax: 32,
  formatsMax: 64,
};

export type Direction = 'sendrecv' | 'sendonly' | 'recvonly' | 'inactive';

export interface SdpFormat {
  readonly payloadType: number;
  readonly encoding: string;
  readonly clockRateHz: number;
  readonly channels: number;
  /** '' when there is none. */
  readonly fmtp: string;
}

export interface SdpMedia {
  /** audio, video, image, application … */
  readonly kind: string;
  readonly port: number;
  readonly protocol: string;
  /** As listed, unchecked beyond form: what a refusal repeats. */
  readonly formats: readonly string[];
  /** RTP formats with a known meaning, in the order listed. */
  readonly codecs: readonly SdpFormat[];
  /** The m= line's c= or else the session's; null when neither is there. */
  readonly connection: SdpConnection | null;
  readonly direction: Direction;
  readonly ptimeMs: number | undefined;
  readonly maxptimeMs: number | undefined;
  readonly rtcp: SdpRtcp | null;
  readonly rtcpMux: boolean;
  /** Keys for SRTP are offered, in whatever profile (RFC 4568). */
  readonly hasCrypto: boolean;
}

export interface SdpConnection {
  readonly family: 4 | 6;
  /** Address or name. */
  readonly host: string;
}

interface SdpRtcp {
  readonly port: number;
  readonly host: string | undefined;
}

export interface Sdp {
  readonly text: string;
  readonly origin: { readonly sessionId: string; readonly version: string; readonly host: string };
  /** The t= line's value, which an answer repeats (RFC 3264 §6). */
  readonly timing: string;
  readonly media: readonly SdpMedia[];
}

/** Formats of RFC 3551 tables 4 and 5 that need no rtpmap. */
const STATIC_FORMATS: ReadonlyMap<number, readonly [encoding: string, clockRateHz: number]> =
  new Map([
    [0, ['PCMU', 8000]],
    [3, ['GSM', 8000]],
    [4, ['G723', 8000]],
    [8, ['PCMA', 8000]],
    [9, ['G722', 8000]],
    [13, ['CN', 8000]],
    [15, ['G728', 8000]],
    [18, ['G729', 8000]],
    [26, ['JPEG', 90_000]],
    [31, ['H261', 90_000]],
    [34, ['H263', 90_000]],
  ]);

/** What the session's own lines say, or those of one m= line. */
interface Section {
  /** Of the m= line; '' for the session. */
  readonly head: string;
  connection: SdpConnection | null;
  direction: Direction | null;
  readonly maps: Omit<SdpFormat, 'fmtp'>[];
  readonly fmtps: { readonly payloadType: number; readonly config: string }[];
  ptimeMs: number | undefined;
  maxptimeMs: number | undefined;
  rtcp: SdpRtcp | null;
  rtcpMux: boolean;
  hasCrypto: boolean;
  readonly mids: string[];
  readonly groups: string[];
}

function newSection(head: string): Section {
  return {
    head,
    connection: null,
    direction: null,
    maps: [],
    fmtps: [],
    ptimeMs: undefined,
    maxptimeMs: undefined,
    rtcp: null,
    rtcpMux: false,
    hasCrypto: false,
    mids: [],
    groups: [],
  };
}

/** Throws SDP_MALFORMED with what is wrong. */
export function parseSdp(text: string, limits: SdpLimits = DEFAULT_SDP_LIMITS): Sdp {
  const lines = linesOf(text, limits);
  // RFC 8866 §5: v=, o=, s= open a description, each once; t= is required.
  if (lines[0] !== 'v=0') throw malformed('does not start with v=0');
  const origin = originOf(lines[1] ?? '');
  if (lines[2]?.startsWith('s=') !== true) throw malformed('no s= after o=');
  const session = newSection('');
  const sections: Section[] = [];
  let section = session;
  let timing: string | null = null;
  for (let at = 3; at < lines.length; at += 1) {
    const line = lines[at] as string;
    const type = line.charAt(0);
    if (type === 'm') {
      section = newSection(line.slice(2));
      sections.push(section);
    } else if (type === 'a') readAttribute(line, section);
    else if (type === 'c') readConnection(line, section);
    else if (section !== session) {
      if (!'ibk'.includes(type)) throw malformed('session line after m=');
    } else if (type === 't') timing ??= timingOf(line);
    else if ('vos'.includes(type)) throw malformed('repeated line');
  }
  if (timing === null) throw malformed('no t=');
  if (sections.length > limits.mediaMax) throw malformed('too many m= lines');
  checkGroups(session, sections);
  const media = sections.map((own) => toMedia(own, session, limits.formatsMax));
  return { text, origin, timing, media };
}

/** RFC 8866 §5: bare LF is tolerated, CR not; nor is an empty line, except at the end. */
function linesOf(text: string, limits: SdpLimits): string[] {
  if (text.length > limits.bytesMax) throw malformed('too long');
  if (text.includes('\0')) throw malformed('a null character');
  const lines: string[] = [];
  let isOver = false;
  for (let start = 0; start < text.length; ) {
    const feed = text.indexOf('\n', start);
    const stop = feed < 0 ? text.length : feed;
    const isCrLf = stop > start && text.charCodeAt(stop - 1) === 13;
    const line = text.slice(start, isCrLf ? stop - 1 : stop);
    start = stop + 1;
    if (line === '') {
      isOver = true;
      continue;
    }
    if (lines.length >= limits.linesMax) throw malformed('too many lines');
    if (line.length > limits.lineBytesMax) throw malformed('line too long');
    if (isOver || !isLine(line)) throw malformed(`bad line "${line.slice(0, 24)}"`);
    lines.push(line);
  }
  return lines;
}

/** One small letter, '=' and no line's end in what follows. */
function isLine(line: string): boolean {
  const type = line.charCodeAt(0);
  if (!(type >= 97 && type <= 122) || line.charCodeAt(1) !== 61) return false;
  return !line.includes('\r');
}

const ORIGIN = /^o=[^ ]* (\d{1,128}) (\d{1,128}) IN IP[46] ([^ ]*)$/;

function originOf(line: string): Sdp['origin'] {
  const match = ORIGIN.exec(line);
  if (match === null) throw malformed('bad o=');
  const [, sessionId = '', version = '', host = ''] = match;
  return { sessionId, version, host };
}

function timingOf(line: string): string {
  if (!/^t=\d{1,20} \d{1,20}$/.test(line)) throw malformed('bad t=');
  return line.slice(2);
}

const CONNECTION = /^c=IN IP([46]) ([^\s/]+)(?:\/\d{1,3}){0,2} *$/;
const NAME = /^(?:[A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9-]*\.?$/;

/** RFC 8866 §5.7. Several c= lines are several multicast layers: none of ours. */
function readConnection(line: string, section: Section): void {
  const match = CONNECTION.exec(line);
  if (match === null || section.connection !== null) throw malformed('bad c=');
  const family = match[1] === '4' ? 4 : 6;
  const host = match[2] ?? '';
  const isAddress = family === 4 ? isIPv4(host) : isIPv6(host) && !host.includes('%');
  // What is no strict address may be a name, but "0177.0.0.1" and "127.1" are neither.
  if (!isAddress && !NAME.test(host)) throw malformed('bad address in c=');
  section.connection = { family, host };
}

const RTPMAP = /^a=rtpmap:(\d{1,3}) +([^\s/]+)\/([1-9]\d{0,6})(?:\/(\d{1,3}))? *$/;
/** Other things than payload types have parameters too. */
const FMTP = /^a=fmtp:(?:(\d{1,3})|[^\s:]+) +(\S.*)$/s;
const PACKET_TIME = /^a=(?:max)?ptime:(\d{1,5}(?:\.\d{1,6})?) *$/;
const RTCP = /^a=rtcp:(\d{1,5})(?: IN IP[46] (\S+))? *$/;
const FAX_SIZE = /^a=T38FaxMax(?:Buffer|Datagram):\d{1,9}$/;

/** What we act on, and what with a wrong value has hurt others; the rest may say what it likes. */
function readAttribute(line: string, section: Section): void {
  const colon = line.indexOf(':');
  const name = colon < 0 ? line.slice(2).trimEnd() : line.slice(2, colon);
  switch (name) {
    case 'rtpmap': {
      const [, type, encoding = '', rate, channels] = matched(RTPMAP, line, name);
      section.maps.push({
        payloadType: Number(type),
        encoding,
        clockRateHz: Number(rate),
        channels: channels === undefined ? 1 : Number(channels),
      });
      return;
    }
    case 'fmtp': {
      const [, type, config = ''] = matched(FMTP, line, name);
      section.fmtps.push({ payloadType: Number(type), config });
      return;
    }
    case 'ptime':
      section.ptimeMs = Number(matched(PACKET_TIME, line, name)[1]);
      return;
    case 'maxptime':
      section.maxptimeMs = Number(matched(PACKET_TIME, line, name)[1]);
      return;
    case 'rtcp': {
      const [, port, host] = matched(RTCP, line, name);
      section.rtcp = { port: Number(port), host };
      return;
    }
    case 'rtcp-mux':
      section.rtcpMux = true;
      return;
    case 'crypto':
      section.hasCrypto = true;
      return;
    case 'sendrecv':
    case 'sendonly':
    case 'recvonly':
    case 'inactive':
      section.direction = name;
      return;
    case 'mid':
      section.mids.push(line.slice(6).trim());
      return;
    case 'group':
      section.groups.push(line);
      return;
    case 'T38FaxMaxBuffer':
    case 'T38FaxMaxDatagram':
      matched(FAX_SIZE, line, name);
      return;
    default:
  }
}

function matched(pattern: RegExp, line: string, name: string): RegExpExecArray {
  const match = pattern.exec(line);
  if (match === null) throw malformed(`bad a=${name}`);
  return match;
}

/** RFC 5888 §9.2: a mid names one m= line, and a group names mids that are there, each once. */
function checkGroups(session: Section, media: readonly Section[]): void {
  const mids = media.flatMap((section) => section.mids);
  if (mids.length === 0 && session.groups.length === 0) return;
  if (new Set(mids).size !== mids.length) throw malformed('two m= lines of one mid');
  for (const line of session.groups) {
    const members = line.trim().split(/ +/).slice(1);
    const isKnown = members.every((mid) => mids.includes(mid));
    if (!isKnown || new Set(members).size !== members.length) throw malformed('bad a=group');
  }
}

const MEDIA = /^([A-Za-z0-9._-]+) (\d{1,5})(?:\/\d{1,3})? ([A-Za-z0-9/._-]+)((?: +\S+)+) *$/;

function toMedia(section: Section, session: Section, formatsMax: number): SdpMedia {
  const match = MEDIA.exec(section.head);
  const [, kind = '', portText = '', protocol = '', list = ''] = match ?? [];
  const port = Number(portText);
  if (match === null || port > 65_535) throw malformed('bad m= line');
  const formats = list.split(' ').filter((format) => format !== '');
  const isRtp = protocol.startsWith('RTP/') || protocol.includes('/RTP/');
  // A payload type has 7 bits; a higher number is passed over, no number at all is malformed.
  if (isRtp && formats.some((format) => !/^\d{1,3}$/.test(format)))
    throw malformed('bad payload type');
  const { rtcp } = section;
  if (rtcp !== null && rtcp.port > 65_535) throw malformed('bad a=rtcp');
  return {
    kind,
    port,
    protocol,
    formats,
    codecs: isRtp ? toFormats(formats.slice(0, formatsMax), section) : [],
    connection: section.connection ?? session.connection,
    direction: section.direction ?? session.direction ?? 'sendrecv',
    ptimeMs: section.ptimeMs,
    maxptimeMs: section.maxptimeMs,
    rtcp,
    rtcpMux: section.rtcpMux,
    hasCrypto: section.hasCrypto,
  };
}

function toFormats(formats: readonly string[], { maps, fmtps }: Section): SdpFormat[] {
  const found: SdpFormat[] = [];
  for (const format of formats) {
    const payloadType = Number(format);
    if (payloadType > 127 || found.some((one) => one.payloadType === payloadType)) continue;
    const map = maps.find((one) => one.payloadType === payloadType);
    const [encoding, clockRateHz] = map
      ? [map.encoding, map.clockRateHz]
      : (STATIC_FORMATS.get(payloadType) ?? []);
    if (encoding === undefined || clockRateHz === undefined) continue;
    const fmtp = fmtps.find((one) => one.payloadType === payloadType)?.config ?? '';
    found.push({ payloadType, encoding, clockRateHz, channels: map?.channels ?? 1, fmtp });
  }
  return found;
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SDP_MALFORMED', { problem });
}
