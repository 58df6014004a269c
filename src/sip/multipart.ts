/**
 * Finds the session description in a message's body, alone or inside multipart. Not a MIME
 * library: one content type is looked for, nothing is decoded, transfer encodings other than the
 * identity ones are refused.
 *
 * RFC 2046 §5.1 (grammar), RFC 5621 (SIP bodies). The rule is fixed: of multipart/alternative the
 * last description counts (RFC 2046 §5.1.4: the best comes last), of every other kind the first.
 * A description counts when it is for the session: one with another disposition (`early-session`,
 * RFC 3959) is a part like any other. An unknown part refuses the message only when it says
 * `handling=required`. DEVIATES: RFC 5621 §8.3 makes that the default, but trunks send ISUP and
 * location parts without saying that they are optional.
 */
import { GatewayError } from '../core/errors.ts';
import { splitOutside } from './header.ts';
import type { SipMessage } from './message.ts';

export interface MultipartLimits {
  readonly partsMax: number;
  readonly depthMax: number;
  readonly partHeadersMax: number;
}

const DEFAULT_MULTIPART_LIMITS: MultipartLimits = {
  partsMax: 16,
  depthMax: 3,
  partHeadersMax: 16,
};

const SDP = 'application/sdp';
const BOUNDARY_BYTES_MAX = 70;
const IDENTITY_ENCODINGS = new Set(['', '7bit', '8bit', 'binary']);

interface Part {
  readonly type: string;
  readonly params: ReadonlyMap<string, string>;
  readonly isSession: boolean;
  readonly handling: 'required' | 'optional' | '';
  readonly encoding: string;
  readonly body: string;
}

/**
 * The description's bytes, '' when the message has no body, or one that may be ignored (RFC 3261
 * §20.11). Throws SIP_MEDIA_TYPE (415) when there is a body but no description we may use,
 * SIP_MALFORMED (400) when multipart is broken.
 */
export function findSdp(
  message: SipMessage,
  limits: MultipartLimits = DEFAULT_MULTIPART_LIMITS,
): string {
  const body = message.body;
  if (body === '') return '';
  const encoding = message.header('Content-Encoding') ?? '';
  // Never inflated: 32 kB of gzip can be 32 MB of zeros.
  if (encoding !== '' && encoding.toLowerCase() !== 'identity') throw unsupported(encoding);
  const field = message.header('Content-Type') ?? '';
  const disposition = message.header('Content-Disposition');
  if (field === SDP && disposition === undefined) return body;
  const { type, params } = mediaType(field);
  const { isSession, handling } = readDisposition(disposition ?? '');
  if (type === SDP && isSession) return body;
  if (!type.startsWith('multipart/')) return ignored(type, handling === 'optional');
  const search = { parts: 0, limits, isOptional: true };
  const found = searchMultipart(type, params, body, search, 1);
  return found ?? ignored(type, handling === 'optional' || search.isOptional);
}

function ignored(type: string, isOptional: boolean): string {
  if (isOptional) return '';
  throw unsupported(type);
}

/**
 * What the sender wants done with a body (RFC 3261 §20.11): of a description nothing else than
 * `session`, which is also what is meant when nothing is said; `render` is what some say for it.
 */
function readDisposition(value: string): Pick<Part, 'isSession' | 'handling'> {
  const { type, params } = mediaType(value);
  const handling = params.get('handling')?.toLowerCase() ?? '';
  return {
    isSession: type === '' || type === 'session' || type === 'render',
    handling: handling === 'required' || handling === 'optional' ? handling : '',
  };
}

function searchMultipart(
  type: string,
  params: ReadonlyMap<string, string>,
  body: string,
  search: { parts: number; readonly limits: MultipartLimits; isOptional: boolean },
  depth: number,
): string | null {
  if (depth > search.limits.depthMax) throw malformed('multipart nested too deep');
  const isAlternative = type === 'multipart/alternative';
  let found: string | null = null;
  for (const text of splitParts(body, boundaryOf(params))) {
    search.parts += 1;
    if (search.parts > search.limits.partsMax) throw malformed('too many parts');
    const part = readPart(text, search.limits);
    let sdp: string | null = null;
    if (part.type.startsWith('multipart/')) {
      sdp = searchMultipart(part.type, part.params, part.body, search, depth + 1);
    } else if (part.type === SDP && part.isSession && IDENTITY_ENCODINGS.has(part.encoding)) {
      sdp = part.body;
    } else {
      if (part.handling === 'required') throw unsupported(part.type);
      search.isOptional &&= part.handling === 'optional';
    }
    if (sdp !== null && (found === null || isAlternative)) found = sdp;
  }
  return found;
}

function boundaryOf(params: ReadonlyMap<string, string>): string {
  const boundary = params.get('boundary') ?? '';
  if (boundary === '') throw malformed('multipart without a boundary');
  // RFC 2046 §5.1.1: 1 to 70 characters of a small set.
  if (
    boundary.length > BOUNDARY_BYTES_MAX ||
    !/^[\w'()+,\-./:=? ]*[\w'()+,\-./:=?]$/.test(boundary)
  ) {
    throw malformed('bad multipart boundary');
  }
  return boundary;
}

/** The texts between delimiters; what stands before the first and after the last is ignored. */
function splitParts(body: string, boundary: string): string[] {
  const parts: string[] = [];
  const delimiter = `--${boundary}`;
  let at = body.startsWith(delimiter) ? 0 : after(body, `\r\n${delimiter}`, 0);
  for (;;) {
    if (at < 0) throw malformed('multipart is not closed');
    const lineEnd = at + delimiter.length;
    if (body.startsWith('--', lineEnd)) return parts;
    const start = body.indexOf('\r\n', lineEnd);
    if (start < 0 || body.slice(lineEnd, start).trim() !== '') throw malformed('bad delimiter');
    // Looked for from the CRLF that ends this delimiter: a part may have no bytes at all.
    const next = after(body, `\r\n${delimiter}`, start);
    if (next < 0) throw malformed('multipart is not closed');
    parts.push(body.slice(start + 2, Math.max(next - 2, start + 2)));
    at = next;
  }
}

/** Where the delimiter itself starts, behind its CRLF; -1 when there is none. */
function after(body: string, delimiter: string, from: number): number {
  const at = body.indexOf(delimiter, from);
  return at < 0 ? -1 : at + 2;
}

function readPart(text: string, limits: MultipartLimits): Part {
  const isBare = text.startsWith('\r\n');
  const end = isBare ? 0 : text.indexOf('\r\n\r\n');
  if (end < 0) throw malformed('part without an empty line');
  const lines = isBare
    ? []
    : text
        .slice(0, end)
        .replaceAll(/\r\n[ \t]+/g, ' ')
        .split('\r\n');
  if (lines.length > limits.partHeadersMax) throw malformed('too many headers in a part');
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon < 1) throw malformed('bad header in a part');
    headers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim());
  }
  // RFC 2046 §5.1: text/plain unless it says otherwise. 'c' is SIP's compact form.
  const { type, params } = mediaType(
    headers.get('content-type') ?? headers.get('c') ?? 'text/plain',
  );
  return {
    type,
    params,
    ...readDisposition(headers.get('content-disposition') ?? ''),
    encoding: (headers.get('content-transfer-encoding') ?? '').toLowerCase(),
    body: text.slice(isBare ? 2 : end + 4),
  };
}

/** `type/subtype;name=value`, lower case but for the values. */
export function mediaType(value: string): { type: string; params: ReadonlyMap<string, string> } {
  const [type = '', ...rest] = splitOutside(value, ';', []);
  const params = new Map<string, string>();
  for (const part of rest) {
    const equals = part.indexOf('=');
    if (equals < 1) continue;
    const name = part.slice(0, equals).trim().toLowerCase();
    const raw = part.slice(equals + 1).trim();
    const isQuoted = raw.length >= 2 && raw.startsWith('"') && raw.endsWith('"');
    if (!params.has(name)) params.set(name, isQuoted ? raw.slice(1, -1) : raw);
  }
  return { type: type.replaceAll(/[ \t]/g, '').toLowerCase(), params };
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem });
}

function unsupported(type: string): GatewayError {
  return new GatewayError('SIP_MEDIA_TYPE', { type: type.slice(0, 64) });
}
