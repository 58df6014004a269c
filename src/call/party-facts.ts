/**
 * Who calls, as an INVITE says it and as far as the trunk it came through is believed: number and
 * name of the caller, who vouches for them, whether he wants them told, and who diverted the call.
 * Pure; which fields an application sees, and what is written outbound, is `header-policy.ts`.
 *
 * RFC 3323, 3324, 3325, 5806, 7044, 7433.
 */
import { type Diversion, diversionsOf, readDiversions, readHistory } from '../sip/diversion.ts';
import { canonicalName } from '../sip/header.ts';
import type { HeaderField } from '../sip/message.ts';
import {
  displayText,
  fieldValues,
  isAnonymous,
  isWithheld,
  type PartyAddress,
  readAddress,
  readAsserted,
  readPrivacy,
  readRemoteParties,
} from '../sip/party-headers.ts';
import { readUserToUser, writeUserToUser } from '../sip/user-to-user.ts';
import type { TrunkPolicy } from '../store/trunk-policy.ts';
import type { Decisions } from './decision.ts';
import { partyOf } from './leg-signal.ts';
import { calledIn, readInbound } from './number-format.ts';

type PartyPolicy = Pick<TrunkPolicy, 'identity' | 'numbers'>;

/** Who calls, as far as the trunk is believed. Plain data, kept with the call. */
export interface PartyFacts {
  /** As the application sees the caller: E.164, a sip: address, or `anonymous`. */
  readonly from: string;
  readonly name: string;
  /** The caller asked not to be told. */
  readonly isWithheld: boolean;
  /** The caller that the trunk vouches for; '' when it does for none. For trusted peers only. */
  readonly asserted: string;
  /** Who diverted the call to us; '' when nobody did, or not to be told. */
  readonly forwardedFrom: string;
  /** The latest first. */
  readonly diversions: readonly Diversion[];
  readonly userToUser: string;
}

/** Claims that only a trusted peer may make (RFC 3325 §5; RFC 3324). */
export const CLAIMS: ReadonlySet<string> = new Set([
  'p-asserted-identity',
  'p-preferred-identity',
  'p-called-party-id',
  'remote-party-id',
  'privacy',
  'diversion',
  'history-info',
]);

/** Claims that name the caller. */
export const NAMING: ReadonlySet<string> = new Set([
  'p-asserted-identity',
  'p-preferred-identity',
  'remote-party-id',
]);

/** All lines of each field, whatever spelling each has. */
type Lines = ReadonlyMap<string, readonly string[]>;
const NO_LINES: readonly string[] = [];

function linesOf(fields: readonly HeaderField[]): Lines {
  const lines = new Map<string, string[]>();
  for (const [name, value] of fields) {
    const canonical = canonicalName(name);
    const known = lines.get(canonical);
    if (known === undefined) lines.set(canonical, [value]);
    else known.push(value);
  }
  return lines;
}

/** `decisions` is told what was not believed. */
export function readParty(
  fields: readonly HeaderField[],
  policy: PartyPolicy,
  decisions: Decisions | null,
): PartyFacts {
  const { trust, userToUser } = policy.identity;
  const lines = linesOf(fields);
  const from = readAddress(lines.get('from')?.[0] ?? '');
  const shown = { display: displayText(from?.display ?? ''), uri: from?.uriText ?? '' };
  if (!trust) tellUntrusted(lines, decisions);
  const claims = trust ? readClaims(lines) : NO_CLAIMS;
  const caller = claims.caller ?? shown;
  const withheld = claims.isWithheld || isAnonymous(shown.uri);
  // From that is anonymous, with nobody vouching for more, is all there is.
  const number = withheld ? 'anonymous' : readNumber(caller.uri, policy, decisions);
  const [latest] = claims.diversions;
  const hasForwarder = latest !== undefined && !latest.isWithheld && !isAnonymous(latest.uri);
  return {
    from: number,
    name: withheld ? '' : caller.display || shown.display,
    isWithheld: withheld,
    asserted: claims.caller === null ? '' : readNumber(claims.caller.uri, policy, null),
    forwardedFrom: hasForwarder ? readNumber(latest.uri, policy, null) : '',
    diversions: claims.diversions,
    userToUser: userToUser === 'drop' ? '' : userToUserOf(lines.get('user-to-user') ?? NO_LINES),
  };
}

interface Claims {
  readonly caller: PartyAddress | null;
  readonly isWithheld: boolean;
  readonly diversions: readonly Diversion[];
}

const NO_CLAIMS: Claims = { caller: null, isWithheld: false, diversions: [] };

function readClaims(lines: Lines): Claims {
  const of = (name: string): readonly string[] => lines.get(name) ?? NO_LINES;
  const asserted = readAsserted(of('p-asserted-identity'));
  const remote = readRemoteParties(of('remote-party-id'));
  const calling = remote.find(({ party }) => party === 'calling') ?? null;
  // A number is more than an address: of two identities the tel: one is what was dialled from.
  const tel = asserted.find(({ uri }) => /^tel:/i.test(uri));
  const [first] = asserted;
  const named = first && {
    display: first.display || (tel?.display ?? ''),
    uri: (tel ?? first).uri,
  };
  const diversions = readDiversions(of('diversion'));
  const history = readHistory(of('history-info'));
  const privacy = isWithheld(readPrivacy(of('privacy')));
  const hides = calling?.privacy ?? 'off';
  return {
    caller: named ?? (calling && hidden(calling, hides)),
    isWithheld: privacy || hides === 'full' || hides === 'uri',
    // Carriers that send both mean the same by them; Diversion says the reason more plainly.
    diversions: diversions.length > 0 ? diversions : diversionsOf(history),
  };
}

function hidden({ display, uri }: PartyAddress, hides: string): PartyAddress {
  return { uri, display: hides === 'name' ? '' : display };
}

function tellUntrusted(lines: Lines, decisions: Decisions | null): void {
  if (decisions === null) return;
  const names = [...lines.keys()].filter((name) => CLAIMS.has(name));
  if (names.length === 0) return;
  const what = `${names.join(', ')} of a peer that is not trusted are not read`;
  decisions.ok('identity', `${what} (Policy identity.trust)`);
}

/** The caller as the application sees him, a number in E.164 where the policy says so. */
function readNumber(uri: string, policy: PartyPolicy, decisions: Decisions | null): string {
  const plain = partyOf(uri);
  if (!/^\+?[\d*#]+$/.test(plain)) return plain;
  const { number, ok, why } = readInbound(plain, policy.numbers, contextOf(uri));
  if (!ok) {
    decisions?.no('number', `the caller's number: ${why}`, 'Policy numbers.countryCode');
  }
  return number;
}

function contextOf(uri: string): string {
  try {
    return calledIn(uri).context;
  } catch {
    return '';
  }
}

/** The values that are whole and of bounded size, written anew; '' for none. */
export function userToUserOf(lines: readonly string[]): string {
  return fieldValues(lines)
    .flatMap((value) => readUserToUser(value) ?? [])
    .slice(0, USER_TO_USER_VALUES_MAX)
    .map(writeUserToUser)
    .join(', ');
}

const USER_TO_USER_VALUES_MAX = 3;
