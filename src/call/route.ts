/**
 * Where a call goes: the table the router asks, and the pure part of the answers (which trunk
 * takes a number, in which order its gateways are tried). Not the store that holds the rows (the
 * table is injected) and not the placing itself (`router.ts`).
 */
import { type ErrorCode, type ErrorDetails, GatewayError } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import type { AccountSid, CallSid, TrunkSid } from '../core/sid.ts';
import { formatUri, parseUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import type { SipHeaders } from './leg.ts';

// --- Inbound ----------------------------------------------------------------------------------

export interface InboundQuery {
  /** User part of the Request-URI, unescaped: a number or a name. */
  readonly user: string;
  readonly host: string;
  readonly from: string;
  readonly source: PeerAddress;
  readonly headers: SipHeaders;
}

export type InboundRoute =
  | {
      readonly kind: 'application';
      readonly accountSid: AccountSid;
      readonly application: CallApplication;
      readonly statusCallback: StatusCallback | null;
      /** To and From as the application shall see them (E.164 or sip: URI). */
      readonly to: string;
      readonly from: string;
      readonly trunkSid: TrunkSid | null;
    }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly details: ErrorDetails };

// --- Outbound ---------------------------------------------------------------------------------

export interface TrunkGateway {
  /** `sip:host:port;transport=…`; the dialled number becomes its user part. */
  readonly uri: string;
  /** Lower is tried first; among equals by weight (as RFC 2782 does it). */
  readonly priority: number;
  readonly weight: number;
}

export interface TrunkRoute {
  readonly sid: TrunkSid;
  readonly isEnabled: boolean;
  /** Globs over the dialled number: `*` any run, `?` one character. None at all takes nothing. */
  readonly numberPatterns: readonly string[];
  readonly gateways: readonly TrunkGateway[];
  /** With which a challenge of this trunk is answered; realm null: whatever realm it names. */
  readonly credentials: {
    readonly username: string;
    readonly password: Secret;
    readonly realm: string | null;
  } | null;
}

export interface RouteTable {
  /** The application a number or address belongs to; null when nobody claims it. */
  inbound(query: InboundQuery): Promise<InboundRoute | null>;
  /** The account's trunks in order of preference. */
  trunks(accountSid: AccountSid): Promise<readonly TrunkRoute[]>;
}

export type DialTarget =
  | { readonly kind: 'number'; readonly number: string }
  | {
      readonly kind: 'sip';
      /** `sip:user@host[;params]`, without headers. */
      readonly uri: string;
      readonly credentials: { readonly username: string; readonly password: string } | null;
      /** Header fields for the INVITE (X-… and User-to-User); checked by whoever parsed them. */
      readonly headers: readonly (readonly [name: string, value: string])[];
    };

interface PlaceRequest {
  /** Chosen beforehand by who must find the call again after a rebuild; a live one is returned. */
  readonly sid?: CallSid;
  readonly target: DialTarget;
  readonly callerName?: string;
  readonly ringTimeoutMs: number;
  readonly timeLimitMs?: number;
  readonly statusCallback: StatusCallback | null;
}

/** A child call, as `<Dial>` makes it. */
export interface DialRequest extends PlaceRequest {
  readonly parentCallSid: CallSid;
  /** Null shows the parent's caller. */
  readonly callerId: string | null;
}

/** A call of its own, as REST makes it. */
export interface OriginateRequest extends PlaceRequest {
  readonly accountSid: AccountSid;
  readonly from: string;
  readonly application: CallApplication;
  readonly sendDigits?: string;
}

/** True when `number` is taken by one of the globs. Linear time: one backtrack point. */
export function matchesPattern(number: string, pattern: string): boolean {
  let at = 0;
  let inPattern = 0;
  let star = -1;
  let starAt = 0;
  while (at < number.length) {
    const want = pattern[inPattern];
    if (want === '*') {
      star = inPattern;
      starAt = at;
      inPattern += 1;
    } else if (want === '?' || want === number[at]) {
      at += 1;
      inPattern += 1;
    } else if (star >= 0) {
      starAt += 1;
      at = starAt;
      inPattern = star + 1;
    } else return false;
  }
  while (pattern[inPattern] === '*') inPattern += 1;
  return inPattern === pattern.length;
}

/** The first enabled trunk with a gateway whose patterns take the number. */
export function selectTrunk(trunks: readonly TrunkRoute[], number: string): TrunkRoute | null {
  for (const trunk of trunks) {
    if (!trunk.isEnabled || trunk.gateways.length === 0) continue;
    if (trunk.numberPatterns.some((pattern) => matchesPattern(number, pattern))) return trunk;
  }
  return null;
}

/**
 * Gateways in the order to try: by priority, within one priority drawn by weight without
 * replacement. Weight 0 still gets a small chance (RFC 2782: "a very small chance").
 */
export function orderGateways(
  gateways: readonly TrunkGateway[],
  random: () => number,
): TrunkGateway[] {
  if (gateways.length < 2) return [...gateways];
  const rest = gateways.toSorted((a, b) => a.priority - b.priority);
  const ordered: TrunkGateway[] = [];
  while (rest.length > 0) {
    const priority = rest[0]?.priority;
    const end = rest.findIndex((gateway) => gateway.priority !== priority);
    const count = end < 0 ? rest.length : end;
    let total = 0;
    for (let i = 0; i < count; i += 1) total += weightOf(rest[i]);
    let draw = random() * total;
    let pick = 0;
    while (pick < count - 1 && draw >= weightOf(rest[pick])) {
      draw -= weightOf(rest[pick]);
      pick += 1;
    }
    ordered.push(...rest.splice(pick, 1));
  }
  return ordered;
}

function weightOf(gateway: TrunkGateway | undefined): number {
  return Math.max(gateway?.weight ?? 0, 0.01);
}

/** What a target is called in a call's `to`. Throws DIAL_NUMBER for what cannot be dialled. */
export function targetName(target: DialTarget): string {
  if (target.kind === 'sip') return target.uri;
  if (!/^\+?[0-9A-Za-z*#._-]{1,64}$/.test(target.number)) {
    throw new GatewayError('DIAL_NUMBER', { number: target.number.slice(0, 64) });
  }
  return target.number;
}

/** The Request-URI for a number at a trunk's gateway. */
export function gatewayUri(gateway: string, number: string): string {
  return formatUri({ ...parseUri(gateway), user: number.replaceAll('#', '%23') });
}

/** RFC 3323 §4.1.1.3. */
const ANONYMOUS_URI = 'sip:anonymous@anonymous.invalid';

/** The From URI for a caller: a SIP address, written anew, or a number or name at our domain. */
export function fromUriOf(caller: string, domain: string): string {
  if (/^sips?:/i.test(caller)) return sipCaller(caller);
  const name = caller.startsWith('client:') ? caller.slice(7) : caller;
  if (name === '' || name === 'anonymous') return ANONYMOUS_URI;
  return `sip:${encodeURIComponent(name).replaceAll('%2B', '+')}@${domain}`;
}

/** Escapes what a user part may not hold (RFC 3261 §25.1); what is then no SIP URI is withheld. */
function sipCaller(caller: string): string {
  const userAt = caller.indexOf(':') + 1;
  const hostAt = caller.lastIndexOf('@') + 1;
  const user = caller.slice(userAt, Math.max(userAt, hostAt - 1));
  const escaped = user.replace(/%[0-9A-Fa-f]{2}|[^\w.!~*'()&=+$,;?/-]/gu, (part) =>
    part.length === 3 && part.startsWith('%') ? part : encodeURIComponent(part),
  );
  const host = caller.slice(Math.max(userAt, hostAt));
  try {
    const uri = parseUri(`${caller.slice(0, userAt)}${escaped === '' ? '' : `${escaped}@`}${host}`);
    return formatUri({ ...uri, headers: '' });
  } catch {
    return ANONYMOUS_URI;
  }
}
