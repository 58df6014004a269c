/**
 * User-to-User (RFC 7433): a few bytes that two applications tell each other with a call. Read so
 * far that what is passed on is one well-formed value of bounded size, and written anew; what the
 * bytes mean is theirs.
 */
import { splitOutside } from './header.ts';

export interface UserToUser {
  /** A token, or a quoted string with its quotes. */
  readonly data: string;
  /** Lower case; '' is text. */
  readonly encoding: string;
  readonly purpose: string;
  readonly content: string;
}

/** Octets of the data: RFC 7434 §6 has 128 for ISDN, other packages need not be smaller. */
const USER_TO_USER_OCTETS_MAX = 256;

const TOKEN = /^[!%'*+\-.\w`~]+$/;
const QUOTED = /^"(?:[^"\\\p{Cc}]|\\[^\p{Cc}])*"$/u;

/** Null for what is no such value, or too large. */
export function readUserToUser(value: string): UserToUser | null {
  if (value.length > 4 * USER_TO_USER_OCTETS_MAX) return null;
  const [data = '', ...params] = splitOutside(value, ';', []);
  if (!TOKEN.test(data) && !QUOTED.test(data)) return null;
  const known = new Map<string, string>();
  for (const param of params) {
    const [, name = '', given = ''] = /^([\w-]{1,32})\s*(?:=\s*(.*))?$/s.exec(param) ?? [];
    if (name === '' || (given !== '' && !TOKEN.test(given) && !QUOTED.test(given))) return null;
    if (!known.has(name.toLowerCase())) known.set(name.toLowerCase(), given);
  }
  const encoding = known.get('encoding')?.toLowerCase() ?? '';
  const isHex = encoding === 'hex';
  if (isHex && !/^(?:[0-9a-f]{2})+$/i.test(data)) return null;
  if ((isHex ? data.length / 2 : data.length) > USER_TO_USER_OCTETS_MAX) return null;
  return {
    data,
    encoding,
    purpose: known.get('purpose') ?? '',
    content: known.get('content') ?? '',
  };
}

export function writeUserToUser({ data, encoding, purpose, content }: UserToUser): string {
  let text = data;
  if (encoding !== '') text += `;encoding=${encoding}`;
  if (purpose !== '') text += `;purpose=${purpose}`;
  if (content !== '') text += `;content=${content}`;
  return text;
}
