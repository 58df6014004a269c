/**
 * A binding: one contact of an address of record and how it is reached, as plain data (RFC 3261
 * §10.3, RFC 5626, RFC 3327). Reads contacts of a REGISTER, compares them, and writes them for its
 * answer. Which bindings there are is the location service's, what is done to them the registrar's.
 */
import { isIP } from 'node:net';
import { GatewayError } from '../core/errors.ts';
import { splitOutside } from './header.ts';
import { decodeUtf8, formatUri, parseNameAddr, type SipMessage, type SipUri } from './message.ts';
import type { PeerAddress, Source, TransportName } from './peer.ts';
import { isLinkLocal, isPrivate, isUnicast } from './resolver.ts';

/** Where a REGISTER came from, and on which of our listeners: a NAT lets in nothing else. */
export interface Flow extends PeerAddress {
  readonly listener: { readonly address: string; readonly port: number };
}

export interface Binding {
  /** Its own identifier; the same through all refreshes. */
  readonly id: string;
  /** The URI to call, as the phone wrote it. */
  readonly contact: string;
  /** `<urn:uuid:…>`; '' when it names none (RFC 5626 §4.1). */
  readonly instance: string;
  /** RFC 5626 §4.2; 0: the phone does not manage its flows. */
  readonly regId: number;
  /** RFC 3261 §20.10, 0 to 1. */
  readonly q: number;
  readonly callId: string;
  readonly cseq: number;
  /** Wall clock. */
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly expiresAtMs: number;
  /** Route set of requests to it (RFC 3327), first hop first. */
  readonly path: readonly string[];
  readonly flow: Flow;
  /** Only its flow leads to it: its contact names an address of another network, or none. */
  readonly isFlowOnly: boolean;
  /** What temporary GRUUs of it begin with (RFC 5627); '' when it has none. */
  readonly epoch: string;
  readonly userAgent: string;
}

/** One Contact of a REGISTER. */
export interface NewContact {
  readonly uri: SipUri;
  readonly text: string;
  readonly instance: string;
  readonly regId: number;
  readonly q: number;
  /** Seconds; null: whatever Expires says, or the default. */
  readonly expiresS: number | null;
}

const CONTACT_CHARS_MAX = 512;
const INSTANCE_CHARS_MAX = 200;
/** RFC 5626 §4.2: 1 to 2^31-1. */
const REG_ID_MAX = 2_147_483_647;

/** `*`, or the contacts; none when it asks what there is. Throws SIP_MALFORMED, SIP_SCHEME. */
export function readContacts(request: SipMessage, contactsMax: number): '*' | NewContact[] {
  const values = request.list('Contact').filter((value) => value !== '');
  if (values.includes('*')) {
    if (values.length === 1) return '*';
    throw malformed('"*" is not the only Contact');
  }
  if (values.length > contactsMax) throw malformed(`more than ${contactsMax} Contacts`);
  return values.map(readContact);
}

function readContact(value: string): NewContact {
  const { uri, uriText, params } = parseNameAddr(value);
  if (uri === null || uri.scheme === 'tel' || uri.host === '') {
    throw new GatewayError('SIP_SCHEME', { scheme: uriText.slice(0, uriText.indexOf(':')) });
  }
  if (uri.headers !== '') throw malformed('a Contact with header fields');
  if (uriText.length > CONTACT_CHARS_MAX) throw malformed('a Contact over its limit');
  const instance = unquoted(params.get('+sip.instance') ?? '');
  if (instance.length > INSTANCE_CHARS_MAX || !/^(?:<[\x21-\x7e]+>)?$/.test(instance)) {
    throw malformed('+sip.instance');
  }
  const regId = Number(/^\d{1,10}$/.exec(params.get('reg-id') ?? '')?.[0] ?? 0);
  if (regId > REG_ID_MAX) throw malformed('reg-id');
  return {
    uri,
    text: formatUri(uri),
    instance,
    // RFC 5626 §6: without an instance it means nothing.
    regId: instance === '' ? 0 : regId,
    q: quality(params.get('q')),
    expiresS: secondsOf(params.get('expires')),
  };
}

function unquoted(text: string): string {
  return text.startsWith('"') ? text.slice(1, -1).replaceAll(/\\(.)/g, '$1') : text;
}

/** RFC 3261 §20.10. */
function quality(text: string | undefined): number {
  if (text === undefined) return 1;
  if (/^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(text)) return Number(text);
  throw malformed('q');
}

/** Null when it says nothing that can be read: RFC 3261 §20.19 makes that the default. */
export function secondsOf(text: string | undefined): number | null {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return null;
  return Number(text);
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem: `registration: ${problem}` });
}

/** The values of Path, first hop first; each a name-addr that can stand in a Route. */
export function readPath(request: SipMessage, pathMax: number): string[] {
  const path = request.list('Path').filter((value) => value !== '');
  if (path.length > pathMax) throw malformed(`more than ${pathMax} Path values`);
  for (const value of path) {
    const { uri } = parseNameAddr(value);
    if (uri === null || uri.scheme === 'tel' || !value.includes('<')) throw malformed('Path');
  }
  return path;
}

/** Whether the first proxy that a REGISTER passed keeps its flow (RFC 5626 §5.1). */
export function isOutboundPath(path: readonly string[]): boolean {
  // Path is written front to back: the last value is of the proxy next to the phone.
  const edge = path.at(-1);
  return edge !== undefined && parseNameAddr(edge).uri?.params.has('ob') === true;
}

/** RFC 3261 §19.1.4, for those parts that tell contacts apart. */
function isSameUri(a: SipUri, b: SipUri): boolean {
  if (a.scheme !== b.scheme || a.user !== b.user || a.port !== b.port) return false;
  if (a.password !== b.password || a.host.toLowerCase() !== b.host.toLowerCase()) return false;
  for (const name of new Set([...a.params.keys(), ...b.params.keys()])) {
    const isKnown = a.params.has(name) && b.params.has(name);
    if (!isKnown && !MEANINGFUL.has(name)) continue;
    const [left, right] = [a.params.get(name) ?? '', b.params.get(name) ?? ''];
    if (left.toLowerCase() !== right.toLowerCase()) return false;
  }
  return true;
}

/** Parameters that make another URI even where one of the two lacks them. */
const MEANINGFUL = new Set(['user', 'ttl', 'method', 'maddr', 'transport']);

/** Whether a new contact takes the place of a binding (RFC 5626 §6, else RFC 3261 §10.3). */
export function replaces(contact: NewContact, binding: Binding, uri: SipUri): boolean {
  const hasFlows = contact.regId > 0 || binding.regId > 0;
  if (!hasFlows) return isSameUri(contact.uri, uri);
  return contact.regId === binding.regId && contact.instance === binding.instance;
}

export function flowOf(source: Source): Flow {
  const { transport, address, port, local } = source;
  const listener = { address: local.address, port: local.port };
  return { transport, address, port, listener };
}

/**
 * Whether a contact can be reached only where its REGISTER came from. A WebSocket takes no
 * connections (RFC 7118 §5.1); an address of somebody's own network is not in ours; and where a
 * NAT has changed the port, the port that the phone knows of is not the one outside.
 */
export function isFlowOnly(contact: SipUri, request: SipMessage, source: Source): boolean {
  const { transport, address } = source;
  if (transport === 'ws' || transport === 'wss') return true;
  const host = contact.host.toLowerCase();
  if (isIP(host) === 0) return /(?:^|\.)(?:invalid|local|localhost)\.?$/.test(host);
  if (host !== address) return isPrivate(host) || isLinkLocal(host) || !isUnicast(host);
  const isDatagram = transport === 'udp';
  return isDatagram && (request.via.port ?? 5060) !== source.port;
}

/** As the answer to a REGISTER lists it, `fields` after it. */
export function contactField(binding: Binding, expiresS: number, fields: string): string {
  const { contact, q, instance, regId } = binding;
  let text = `<${contact}>;expires=${expiresS}`;
  if (q !== 1) text += `;q=${q}`;
  if (instance !== '') text += `;+sip.instance="${instance}"`;
  if (regId > 0) text += `;reg-id=${regId}`;
  return text + fields;
}

/** The transport that a contact itself asks for. */
export function contactTransport(uri: SipUri): TransportName {
  const named = uri.params.get('transport')?.toLowerCase();
  if (uri.scheme === 'sips') return named === 'ws' ? 'wss' : 'tls';
  const known = (['tcp', 'tls', 'ws'] as const).find((name) => name === named);
  return known ?? 'udp';
}

/** Tags of a field such as Supported, lower case. */
export function optionTags(request: SipMessage, name: string): ReadonlySet<string> {
  const tags: string[] = [];
  for (const line of request.headers(name)) splitOutside(line, ',', tags);
  return new Set(tags.map((tag) => tag.trim().toLowerCase()).filter((tag) => tag !== ''));
}

/** Whom a registration is of. */
export interface Address {
  /** `sip:user@domain`, the same for all spellings: the key of its bindings. */
  readonly aor: string;
  /** The user as text, nothing escaped. */
  readonly user: string;
  /** Lower case. */
  readonly host: string;
}

/** The address of record that a URI means (RFC 3261 §10.3 item 5); null when it has no user. */
export function addressOf(uri: SipUri): Address | null {
  if (uri.scheme === 'tel' || uri.user === '') return null;
  const bytes = uri.user.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  const escaped = bytes.replaceAll(
    /[^\w.!~*'()&=+$,;?/-]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`,
  );
  const host = uri.host.toLowerCase();
  return { aor: `sip:${escaped}@${host}`, user: decodeUtf8(bytes), host };
}
