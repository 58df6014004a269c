/**
 * Answers to messages that could not be read: what RFC 3261 §8.2.6 copies, as far as it is there
 * and harmless, and nothing invented. Runs for refused messages only; makes no state.
 */
import type { GatewayError } from '../core/errors.ts';
import { HEADER, headerIdAt } from './header.ts';
import { type HeaderField, type OutgoingResponse, reasonPhrase } from './message.ts';

/** What a refusal can be answered with: fields as they came, '' where one was missing or unsafe. */
export interface RefusalParts {
  readonly vias: readonly string[];
  readonly from: string;
  readonly to: string;
  readonly callId: string;
  readonly cseq: string;
}

/** A refusal without state: what could be copied of RFC 3261 §8.2.6, and nothing invented. */
export function refusalOf(
  failed: { readonly reply: RefusalParts | null; readonly error: GatewayError },
  toTag: string,
): OutgoingResponse | null {
  const { reply, error } = failed;
  if (reply === null) return null;
  const headers: HeaderField[] = reply.vias.map((via) => ['Via', via] as const);
  if (reply.from !== '') headers.push(['From', reply.from]);
  const hasTag = reply.to.includes(';tag=') || reply.to === '';
  if (reply.to !== '') headers.push(['To', hasTag ? reply.to : `${reply.to};tag=${toTag}`]);
  if (reply.callId !== '') headers.push(['Call-ID', reply.callId]);
  if (reply.cseq !== '') headers.push(['CSeq', reply.cseq]);
  const status = error.row.sip;
  return { status, reason: reasonPhrase(status), headers, body: '' };
}

const REFUSAL_VIAS_MAX = 40;
const REFUSAL_LINES_MAX = 200;

/** Fields to copy into a refusal, read without faith: a line with a control character is left. */
export function refusalParts(text: string, start: number): RefusalParts | null {
  const end = text.indexOf('\r\n\r\n', start);
  const head = text.slice(start, end < 0 ? text.length : end).replaceAll(/\r\n[ \t]+/g, ' ');
  const vias: string[] = [];
  const first = new Map<number, string>();
  for (const line of head.split('\r\n', REFUSAL_LINES_MAX)) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0)).trimEnd();
    const id = headerIdAt(name, 0, name.length);
    const value = line.slice(colon + 1).trim();
    if (id === 0 || value === '' || hasControl(value)) continue;
    if (id !== HEADER.VIA && !first.has(id)) first.set(id, value);
    if (id === HEADER.VIA && vias.length < REFUSAL_VIAS_MAX) vias.push(value);
  }
  if (vias.length === 0) return null;
  return {
    vias,
    from: first.get(HEADER.FROM) ?? '',
    to: first.get(HEADER.TO) ?? '',
    callId: first.get(HEADER.CALL_ID) ?? '',
    cseq: first.get(HEADER.CSEQ) ?? '',
  };
}

function hasControl(value: string): boolean {
  for (let p = 0; p < value.length; p += 1) if (value.charCodeAt(p) < 32) return true;
  return false;
}
