/**
 * The Reason field (RFC 3326): why a request was sent, or why a final response was given, in the
 * terms of one protocol or several. Read into plain data and written from it; what a cause of
 * Q.850 means, and which status answers it, is not known here.
 */
import { unquote } from './grammar.ts';
import { splitOutside } from './header.ts';
import { decodeUtf8, encodeUtf8, type HeaderField, type SipMessage } from './message.ts';

export interface Reason {
  /** `SIP`, `Q.850`, … as it came. */
  readonly protocol: string;
  /** A status or a Q.850 cause; null when the field names none. */
  readonly cause: number | null;
  readonly text: string;
}

/** Values of one message that are read; each protocol gives one (§2). */
const REASONS_MAX = 4;
const TEXT_CHARS_MAX = 128;

/** In the order they stand; malformed ones are passed over. */
export function reasonsOf(message: SipMessage): readonly Reason[] {
  if (message.header('Reason') === undefined) return NONE;
  return readReasons(message.headers('Reason'));
}

/** The values of Reason fields, as `reasonsOf` reads them. */
export function readReasons(fields: readonly string[]): readonly Reason[] {
  const values: string[] = [];
  for (const field of fields.slice(0, REASONS_MAX)) splitOutside(field, ',', values);
  return values.slice(0, REASONS_MAX).flatMap((value) => readReason(value) ?? []);
}

function readReason(value: string): Reason | null {
  const [protocol = '', ...params] = splitOutside(value, ';', []);
  if (!/^[!%'*+\-.\w`~]{1,32}$/.test(protocol)) return null;
  let cause: number | null = null;
  let text = '';
  for (const param of params) {
    const [, name = '', written = ''] = /^(\w+)\s*=\s*(.*)$/s.exec(param) ?? [];
    const word = name.toLowerCase();
    if (word === 'cause' && /^\d{1,4}$/.test(written)) cause ??= Number(written);
    const isQuoted = written.length > 1 && written.startsWith('"') && written.endsWith('"');
    const plain = isQuoted ? unquote(written.slice(1, -1)) : written;
    if (word === 'text' && text === '') text = decodeUtf8(plain).slice(0, TEXT_CHARS_MAX);
  }
  return { protocol, cause, text };
}

/** One field for all of them; none for none. */
export function reasonFields(reasons: readonly Reason[] | undefined): HeaderField[] {
  if (reasons === undefined || reasons.length === 0) return [];
  const values = reasons.slice(0, REASONS_MAX).map(({ protocol, cause, text }) => {
    const code = cause === null ? '' : `;cause=${cause}`;
    if (text === '') return `${protocol}${code}`;
    const words = text.slice(0, TEXT_CHARS_MAX).replace(/\p{Cc}/gu, ' ');
    return `${protocol}${code};text="${encodeUtf8(words).replace(/["\\]/g, '\\$&')}"`;
  });
  return [['Reason', values.join(', ')]];
}

const NONE: readonly Reason[] = [];
