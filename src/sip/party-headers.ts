/**
 * Who calls, as header fields beside From say it: P-Asserted-Identity and P-Preferred-Identity
 * (RFC 3325), Remote-Party-ID (the draft before it, which carriers still send), and whether the
 * caller wants it told: Privacy (RFC 3323, RFC 3325 §9.3, RFC 7044 §10.1). Read and written; whom
 * to believe is a trunk's policy (`call/header-policy.ts`).
 *
 * A value that cannot be read is passed over: a field that only tells must not cost the call.
 */
import { formatParty } from './dialog.ts';
import { splitOutside } from './header.ts';
import { decodeUtf8, encodeUtf8 } from './message.ts';
import { type NameAddr, parseNameAddr, parseUri } from './uri.ts';

/** Values of one field that are read. RFC 3325 §9.1 allows two: one sip: or sips:, one tel:. */
const VALUES_MAX = 8;
const DISPLAY_CHARS_MAX = 128;

export interface PartyAddress {
  /** As text, not as bytes. */
  readonly display: string;
  readonly uri: string;
}

/** The comma-separated values of all lines of one field. */
export function fieldValues(lines: readonly string[]): readonly string[] {
  const values: string[] = [];
  for (const line of lines) {
    splitOutside(line, ',', values);
    if (values.length >= VALUES_MAX) break;
  }
  return values.slice(0, VALUES_MAX);
}

/** Null where the text is no address. */
export function readAddress(value: string): NameAddr | null {
  try {
    return parseNameAddr(value);
  } catch {
    return null;
  }
}

/** A display name as people read it, from the bytes of the wire. */
export function displayText(bytes: string): string {
  const text = decodeUtf8(bytes);
  // Latin-1 of an old phone is no UTF-8: its bytes are the characters.
  const readable = text.includes('\ufffd') ? bytes : text;
  return readable
    .replace(/\p{Cc}/gu, ' ')
    .trim()
    .slice(0, DISPLAY_CHARS_MAX);
}

/** `"display" <uri>` in the bytes of the wire. */
export function writeAddress({ display, uri }: PartyAddress): string {
  const plain = display
    .replace(/\p{Cc}/gu, ' ')
    .trim()
    .slice(0, DISPLAY_CHARS_MAX);
  return formatParty(uri, encodeUtf8(plain));
}

// --- P-Asserted-Identity, P-Preferred-Identity ------------------------------------------------

/**
 * At most one sip: or sips: and one tel:, in the order they came (RFC 3325 §9.1); of more the first
 * of each kind counts.
 */
export function readAsserted(lines: readonly string[]): readonly PartyAddress[] {
  const found: PartyAddress[] = [];
  const kinds = new Set<'sip' | 'tel'>();
  for (const value of fieldValues(lines)) {
    const address = readAddress(value);
    const scheme = address?.uri?.scheme;
    if (address === null || scheme === undefined) continue;
    const kind = scheme === 'tel' ? 'tel' : 'sip';
    if (kinds.has(kind)) continue;
    kinds.add(kind);
    found.push({ display: displayText(address.display), uri: address.uriText });
  }
  return found;
}

export function writeAsserted(parties: readonly PartyAddress[]): string {
  return parties.map(writeAddress).join(', ');
}

// --- Remote-Party-ID --------------------------------------------------------------------------

export interface RemoteParty extends PartyAddress {
  readonly party: string;
  /** Somebody in the network has checked it. */
  readonly isScreened: boolean;
  /** `full`, or the number but not the name, or the name but not the number, is withheld. */
  readonly privacy: 'full' | 'name' | 'uri' | 'off';
}

export function readRemoteParties(lines: readonly string[]): readonly RemoteParty[] {
  return fieldValues(lines).flatMap((value) => {
    const address = readAddress(value);
    if (address === null || address.uri === null) return [];
    const { params, uriText } = address;
    const said = params.get('privacy')?.toLowerCase() ?? 'off';
    return [
      {
        display: displayText(address.display),
        uri: uriText,
        party: params.get('party')?.toLowerCase() ?? 'calling',
        isScreened: params.get('screen')?.toLowerCase() === 'yes',
        // Words of the draft may be joined (`name-network`): what is not known hides all.
        privacy: said === 'off' || said === 'name' || said === 'uri' ? said : 'full',
      },
    ];
  });
}

export function writeRemoteParty({ party, isScreened, privacy, ...address }: RemoteParty): string {
  const screen = isScreened ? 'yes' : 'no';
  return `${writeAddress(address)};party=${party};screen=${screen};privacy=${privacy}`;
}

// --- Privacy ----------------------------------------------------------------------------------

const PRIVACY_TOKENS = ['header', 'session', 'user', 'none', 'critical', 'id', 'history'] as const;
export type PrivacyToken = (typeof PRIVACY_TOKENS)[number];

/** What is asked for; words nobody knows are left out. */
export function readPrivacy(lines: readonly string[]): ReadonlySet<PrivacyToken> {
  const tokens = new Set<PrivacyToken>();
  // RFC 3323 §4.2 has semicolons; commas are what a proxy makes of two fields.
  for (const word of lines.join(';').slice(0, 256).split(/[;,]/)) {
    const token = PRIVACY_TOKENS.find((known) => known === word.trim().toLowerCase());
    if (token !== undefined) tokens.add(token);
  }
  return tokens;
}

export function writePrivacy(tokens: Iterable<PrivacyToken>): string {
  return [...tokens].join(';');
}

/** Whether the caller is not to be told. `none` is a wish to be known (RFC 3323 §4.2). */
export function isWithheld(tokens: ReadonlySet<PrivacyToken>): boolean {
  if (tokens.has('none')) return false;
  return tokens.has('id') || tokens.has('user') || tokens.has('header');
}

/** RFC 3323 §4.1.1.3: who calls without a name. */
export const ANONYMOUS: PartyAddress = {
  display: 'Anonymous',
  uri: 'sip:anonymous@anonymous.invalid',
};

export function isAnonymous(uriText: string): boolean {
  try {
    const { user, host } = parseUri(uriText);
    return user.toLowerCase() === 'anonymous' || host.toLowerCase() === 'anonymous.invalid';
  } catch {
    return false;
  }
}
