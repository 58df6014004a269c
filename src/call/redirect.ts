/**
 * 3xx to an INVITE of ours (RFC 3261 §8.1.3.4): where the callee says to try instead, as groups of
 * targets by q, those alone that policy lets us try. A contact on a gateway of the same trunk is
 * trusted as that gateway is and sees the trunk's credentials; any other is a dialled address like
 * those of strangers, and sees none. 305 and 380 name no place to call and end the leg.
 */
import { type Diversion, writeDiversions, writeHistory } from '../sip/diversion.ts';
import { splitOutside } from '../sip/header.ts';
import { formatUri, type HeaderField, parseNameAddr, parseUri } from '../sip/message.ts';
import type { SessionEnd } from '../sip/session.ts';
import type { LegGroup, LegTarget } from './leg.ts';

/** Contacts of one 3xx that are looked at. */
const CONTACTS_MAX = 10;
const TOLD_CHARS_MAX = 256;
/** RFC 7544 §7.2 gives each its word. */
const REASONS: Readonly<Record<number, string>> = {
  300: 'unknown',
  301: 'unconditional',
  302: 'unconditional',
};

export interface Redirection {
  /** In the order to try; none: the leg ends with the 3xx. */
  readonly groups: readonly LegGroup[];
  /** For the call's history. */
  readonly why: string;
}

/** What of the ways that a leg went may not be gone again. */
export class RedirectGuard {
  readonly #gateways: ReadonlySet<string>;
  readonly #tried = new Set<string>();
  #count = 0;

  constructor(groups: readonly LegGroup[]) {
    const targets = groups.flatMap((group) => group.targets);
    const gateways = targets.flatMap(({ gateway }) => (gateway === undefined ? [] : [gateway]));
    this.#gateways = new Set(gateways.map(placeOf));
    for (const { uri } of targets) this.#tried.add(keyOf(uri));
  }

  follow(end: SessionEnd, group: LegGroup, from: LegTarget): Redirection {
    const { status } = end;
    const { mode, redirectsMax } = group.policy.redirect;
    if (REASONS[status] === undefined) return { groups: [], why: '' };
    const written = (): string => writtenIn(end.headers);
    if (mode === 'refuse') return { groups: [], why: `redirect not followed: ${written()}` };
    if (this.#count >= redirectsMax) return { groups: [], why: `too many redirects: ${written()}` };
    this.#count += 1;
    const contacts = contactsOf(end.headers);
    const told = contacts.map(({ uri }) => uri).join(' ');
    const fresh = contacts.filter(({ uri }) => {
      const key = keyOf(uri);
      const isNew = !this.#tried.has(key);
      this.#tried.add(key);
      return isNew;
    });
    if (fresh.length === 0) return { groups: [], why: `redirect loops: ${told}` };
    const headers = withDiversion(group.headers, from.uri, status, fresh[0]?.uri ?? '');
    // RFC 3261 §16.6: the highest q first, and those that have the same at once.
    const byQ = Map.groupBy(fresh, ({ q }) => q);
    const groups = [...byQ.values()].flatMap((equals) => this.#groupsOf(equals, group, headers));
    return { groups, why: `redirected: ${told}` };
  }

  /** Trusted and other contacts apart: the trunk's credentials are for its own gateways. */
  #groupsOf(
    contacts: readonly Contact[],
    group: LegGroup,
    headers: readonly HeaderField[],
  ): LegGroup[] {
    const isOurs = ({ uri }: Contact): boolean => this.#gateways.has(placeOf(uri));
    const ours = contacts.filter(isOurs).map(({ uri }) => ({ uri, peer: null, trusted: true }));
    const others = contacts.filter((contact) => !isOurs(contact));
    const targets = others.map(({ uri }) => ({ uri, peer: null, trusted: false }));
    return [
      ...(ours.length === 0 ? [] : [{ ...group, targets: ours, headers }]),
      ...(targets.length === 0 ? [] : [{ ...group, targets, headers, credentials: null }]),
    ];
  }
}

interface Contact {
  readonly uri: string;
  readonly q: number;
}

/** What nobody looks at closer is told as it came. */
function writtenIn(fields: Iterable<HeaderField>): string {
  const values = [...fields].flatMap(([name, value]) => (isContact(name) ? [value] : []));
  return (values[0] ?? '').slice(0, TOLD_CHARS_MAX);
}

function isContact(name: string): boolean {
  return /^(?:contact|m)$/i.test(name);
}

/** Best first. What is no SIP address, or wants more than to be called, is left out. */
function contactsOf(fields: Iterable<HeaderField>): readonly Contact[] {
  const contacts: Contact[] = [];
  let looked = 0;
  for (const [name, value] of fields) {
    if (!isContact(name)) continue;
    for (const one of splitOutside(value, ',', [])) {
      if (one === '') continue;
      looked += 1;
      if (looked > CONTACTS_MAX) break;
      const contact = contactOf(one);
      if (contact !== null) contacts.push(contact);
    }
  }
  return contacts.toSorted((a, b) => b.q - a.q);
}

function contactOf(value: string): Contact | null {
  try {
    const { uri, params } = parseNameAddr(value.trim());
    if (uri === null || (uri.scheme !== 'sip' && uri.scheme !== 'sips')) return null;
    const written = params.get('q') ?? '1';
    const q = /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(written) ? Number(written) : 0;
    const dropped = new Set(['method', 'maddr']);
    const kept = new Map([...uri.params].filter(([name]) => !dropped.has(name)));
    return { uri: formatUri({ ...uri, params: kept, headers: '' }), q };
  } catch {
    return null;
  }
}

/** What two URIs have in common that lead to the same place. */
function keyOf(uri: string): string {
  try {
    return `${parseUri(uri).user}@${placeOf(uri)}`;
  } catch {
    return uri;
  }
}

function placeOf(uri: string): string {
  try {
    const { host, port, scheme } = parseUri(uri);
    return `${host.toLowerCase()}:${port ?? (scheme === 'sips' ? 5061 : 5060)}`;
  } catch {
    return uri;
  }
}

/** RFC 5806 §3, RFC 7044: who is called now learns where the call was before. */
function withDiversion(
  headers: readonly HeaderField[],
  uri: string,
  status: number,
  next: string,
): readonly HeaderField[] {
  const reason = REASONS[status] ?? 'unknown';
  const diversion: Diversion = { display: '', uri, reason, counter: 1, isWithheld: false };
  const before = headers.find(([name]) => name.toLowerCase() === 'diversion')?.[1];
  const rest = headers.filter(([name]) => !/^(?:diversion|history-info)$/i.test(name));
  const latest = writeDiversions([diversion]);
  const all = before === undefined ? latest : `${latest}, ${before}`;
  return [...rest, ['Diversion', all], ['History-Info', writeHistory([diversion], next)]];
}
