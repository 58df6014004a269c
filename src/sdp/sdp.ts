/**
 * Text to `Sdp`: the one place where session descriptions from outside are read. `sdp-transform`
 * knows the grammar of attributes but accepts anything, so lines, numbers and structure are
 * checked here first. Not negotiation (`offer-answer`) and no judgement on addresses (`address`).
 *
 * RFC 8866 (RFC 4566), RFC 3605 (rtcp), RFC 5761 (rtcp-mux), RFC 5888 (groups). Numbers of o= stay
 * text: they may have more digits than a double.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { type MediaDescription, parse } from 'sdp-transform';
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
  readonly rtcp: { readonly port: number; readonly host: string | undefined } | null;
  readonly rtcpMux: boolean;
}

export interface SdpConnection {
  readonly family: 4 | 6;
  /** Address or name. */
  readonly host: string;
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

interface Section {
  readonly head: string;
  readonly lines: string[];
}

/** Throws SDP_MALFORMED with what is wrong. */
export function parseSdp(text: string, limits: SdpLimits = DEFAULT_SDP_LIMITS): Sdp {
  const sections = splitSections(text, limits);
  const [session, ...mediaSections] = sections;
  if (session === undefined) throw malformed('empty');
  if (mediaSections.length > limits.mediaMax) throw malformed('too many m= lines');
  for (const section of sections) checkSection(section);
  // Session lines are read here; of the library, attributes only.
  const parsed = parse(attributesOf(sections));
  const sessionConnection = connectionOf(session.lines);
  const sessionDirection = parsed.direction;
  const media = mediaSections.map((section, index) => {
    const body = parsed.media[index];
    if (body === undefined) throw malformed('bad m= line');
    const connection = connectionOf(section.lines) ?? sessionConnection;
    return toMedia(section.head, body, { connection, direction: sessionDirection, limits });
  });
  checkGroups(session.lines, mediaSections);
  return { text, origin: originOf(session.lines), timing: timingOf(session.lines), media };
}

/** The a= lines, each where it belongs, and the m= lines that they belong to. */
function attributesOf(sections: readonly Section[]): string {
  let text = '';
  for (const { head, lines } of sections) {
    if (head !== '') text += `m=${head}\n`;
    for (const line of lines) if (line.startsWith('a=')) text += `${line}\n`;
  }
  return text;
}

/** Session section first, then one for each m= line. RFC 8866 §5: bare LF is tolerated, CR not. */
function splitSections(text: string, limits: SdpLimits): Section[] {
  if (text.length > limits.bytesMax) throw malformed('too long');
  const lines = text.split('\n', limits.linesMax + 2);
  while (lines.at(-1) === '' || lines.at(-1) === '\r') lines.pop();
  if (lines.length > limits.linesMax) throw malformed('too many lines');
  const session: Section = { head: '', lines: [] };
  const sections = [session];
  let section = session;
  for (const raw of lines) {
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
    if (line.length > limits.lineBytesMax) throw malformed('line too long');
    if (!isLine(line)) throw malformed(`bad line "${line.slice(0, 24)}"`);
    if (line.startsWith('m=')) {
      section = { head: line.slice(2), lines: [] };
      sections.push(section);
    } else {
      section.lines.push(line);
    }
  }
  checkOrder(session.lines);
  for (const { lines: own } of sections.slice(1)) {
    if (own.some((line) => !'icbka'.includes(line.charAt(0))))
      throw malformed('session line after m=');
  }
  return sections;
}

/** One small letter, '=' and what has no meaning for lines. */
function isLine(line: string): boolean {
  const type = line.charCodeAt(0);
  if (!(type >= 97 && type <= 122) || line.charCodeAt(1) !== 61) return false;
  return !line.includes('\0') && !line.includes('\r');
}

/** RFC 8866 §5: v=, o=, s= open a description, each once; t= is required. */
function checkOrder(lines: readonly string[]): void {
  if (lines[0] !== 'v=0') throw malformed('does not start with v=0');
  if (lines[1]?.startsWith('o=') !== true) throw malformed('no o= after v=');
  if (lines[2]?.startsWith('s=') !== true) throw malformed('no s= after o=');
  if (lines.slice(3).some((line) => 'vos'.includes(line.charAt(0))))
    throw malformed('repeated line');
  if (!lines.some((line) => line.startsWith('t='))) throw malformed('no t=');
}

/** Attributes whose wrong values have hurt others; the rest may say what it likes. */
const CHECKS: ReadonlyMap<string, RegExp> = new Map([
  ['fmtp', /^fmtp:[^\s:]+ +\S/],
  ['rtpmap', /^rtpmap:\d{1,3} +[^\s/]+\/[1-9]\d{0,6}(?:\/\d{1,3})? *$/],
  ['ptime', /^ptime:\d{1,5}(?:\.\d{1,6})? *$/],
  ['maxptime', /^maxptime:\d{1,5}(?:\.\d{1,6})? *$/],
  ['rtcp', /^rtcp:\d{1,5}(?: IN IP[46] \S+)? *$/],
  ['T38FaxMaxDatagram', /^T38FaxMaxDatagram:\d{1,9}$/],
  ['T38FaxMaxBuffer', /^T38FaxMaxBuffer:\d{1,9}$/],
]);

function checkSection(section: Section): void {
  for (const line of section.lines) {
    if (!line.startsWith('a=')) continue;
    const colon = line.indexOf(':');
    const name = colon < 0 ? line.slice(2).trimEnd() : line.slice(2, colon);
    if (CHECKS.get(name)?.test(line.slice(2)) === false) throw malformed(`bad a=${name}`);
  }
}

/** RFC 5888 §9.2: a mid names one m= line, and a group names mids that are there, each once. */
function checkGroups(sessionLines: readonly string[], media: readonly Section[]): void {
  const mids = media.flatMap(({ lines }) =>
    lines.filter((line) => line.startsWith('a=mid:')).map((line) => line.slice(6).trim()),
  );
  if (new Set(mids).size !== mids.length) throw malformed('two m= lines of one mid');
  for (const line of sessionLines) {
    if (!line.startsWith('a=group:')) continue;
    const members = line.trim().split(/ +/).slice(1);
    const isKnown = members.every((mid) => mids.includes(mid));
    if (!isKnown || new Set(members).size !== members.length) throw malformed('bad a=group');
  }
}

function originOf(lines: readonly string[]): Sdp['origin'] {
  const parts = (lines[1] ?? '').slice(2).split(' ');
  const [, sessionId = '', version = '', network, type, host = ''] = parts;
  const isNumbers = /^\d{1,128}$/.test(sessionId) && /^\d{1,128}$/.test(version);
  if (parts.length !== 6 || !isNumbers || network !== 'IN' || !/^IP[46]$/.test(type ?? '')) {
    throw malformed('bad o=');
  }
  return { sessionId, version, host };
}

function timingOf(lines: readonly string[]): string {
  const timing = lines.find((line) => line.startsWith('t='))?.slice(2) ?? '';
  if (!/^\d{1,20} \d{1,20}$/.test(timing)) throw malformed('bad t=');
  return timing;
}

const NAME = /^(?:[A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9-]*\.?$/;

/** RFC 8866 §5.7. Several c= lines are several multicast layers: none of ours. */
function connectionOf(lines: readonly string[]): SdpConnection | null {
  const found = lines.filter((line) => line.startsWith('c='));
  const [first] = found;
  if (first === undefined) return null;
  const match = /^c=IN IP([46]) ([^\s/]+)(?:\/\d{1,3}){0,2} *$/.exec(first);
  if (match === null || found.length > 1) throw malformed('bad c=');
  const family = match[1] === '4' ? 4 : 6;
  const host = match[2] ?? '';
  const isAddress = family === 4 ? isIPv4(host) : isIPv6(host) && !host.includes('%');
  // What is no strict address may be a name, but "0177.0.0.1" and "127.1" are neither.
  if (!isAddress && !NAME.test(host)) throw malformed('bad address in c=');
  return { family, host };
}

interface MediaContext {
  readonly connection: SdpConnection | null;
  readonly direction: Direction | undefined;
  readonly limits: SdpLimits;
}

function toMedia(head: string, body: MediaDescription, context: MediaContext): SdpMedia {
  const match = /^([A-Za-z0-9._-]+) (\d{1,5})(?:\/\d{1,3})? ([A-Za-z0-9/._-]+)((?: +\S+)+) *$/.exec(
    head,
  );
  const [, kind = '', portText = '', protocol = '', list = ''] = match ?? [];
  const port = Number(portText);
  if (match === null || port > 65_535) throw malformed('bad m= line');
  const formats = list.trim().split(/ +/);
  const isRtp = /(?:^|\/)RTP\//.test(protocol);
  // A payload type has 7 bits; a higher number is passed over, no number at all is malformed.
  if (isRtp && formats.some((format) => !/^\d{1,3}$/.test(format)))
    throw malformed('bad payload type');
  const rtcp =
    body.rtcp === undefined ? null : { port: Number(body.rtcp.port), host: body.rtcp.address };
  if (rtcp !== null && rtcp.port > 65_535) throw malformed('bad a=rtcp');
  return {
    kind,
    port,
    protocol,
    formats,
    codecs: isRtp ? toFormats(formats.slice(0, context.limits.formatsMax), body) : [],
    connection: context.connection,
    direction: body.direction ?? context.direction ?? 'sendrecv',
    ptimeMs: body.ptime === undefined ? undefined : Number(body.ptime),
    maxptimeMs: body.maxptime === undefined ? undefined : Number(body.maxptime),
    rtcp,
    rtcpMux: body.rtcpMux !== undefined,
  };
}

function toFormats(formats: readonly string[], body: MediaDescription): SdpFormat[] {
  const found = new Map<number, SdpFormat>();
  for (const format of formats) {
    const payloadType = Number(format);
    if (payloadType > 127 || found.has(payloadType)) continue;
    const map = body.rtp.find((row) => row.payload === payloadType);
    const [encoding, clockRateHz] = map
      ? [map.codec, map.rate]
      : (STATIC_FORMATS.get(payloadType) ?? []);
    if (encoding === undefined || clockRateHz === undefined) continue;
    const fmtp = body.fmtp.find((row) => row.payload === payloadType)?.config ?? '';
    const channels = Number(map?.encoding ?? 1);
    found.set(payloadType, { payloadType, encoding, clockRateHz, channels, fmtp: String(fmtp) });
  }
  return [...found.values()];
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SDP_MALFORMED', { problem });
}
