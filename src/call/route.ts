/**
 * Where a call goes: what is asked of the table of routes and what it answers, what a call to be
 * placed is described by, and the URIs it is placed with. Not the store that holds the rows (the
 * table is injected), not the choice of a trunk (`trunk-choice.ts`), not the placing.
 */
import { type ErrorCode, type ErrorDetails, GatewayError } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import type { AccountSid, CallSid, GatewaySid, NumberSid, TrunkSid } from '../core/sid.ts';
import { formatUri, parseUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { RouteRow } from '../store/store.ts';
import type { TrunkPolicy } from '../store/trunk-policy.ts';
import type { CallApplication, StatusCallback } from './call-record.ts';
import type { Decisions } from './decision.ts';

// --- Inbound ----------------------------------------------------------------------------------

export interface InboundQuery {
  /** User part of the Request-URI, unescaped: a number or a name. */
  readonly user: string;
  readonly host: string;
  /** `phone-context` of a local number (RFC 3966 §5.1.5). */
  readonly context?: string;
  /**
   * Of To. A carrier that calls the contact we registered says there which of its numbers is meant;
   * of anybody else it means nothing (RFC 3261 §8.2.2.1).
   */
  readonly to?: { readonly user: string; readonly context?: string };
  readonly from: string;
  readonly source: PeerAddress;
  /** Verified names of the peer's TLS certificate. */
  readonly certificateNames: readonly string[];
  /** What the caller has proven by digest (`inbound-digest.ts`); null: nothing. */
  readonly identity: string | null;
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
      /** Of the number that was called, where it is one of the account's. */
      readonly phoneNumberSid?: NumberSid;
      /** Of the trunk; null where there is none, and the defaults hold. */
      readonly trunk?: TrunkRoute | null;
      /** The number goes out again through its trunk; explained with the way it takes. */
      readonly passesTo?: DialTarget;
    }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly details: ErrorDetails };

// --- Outbound ---------------------------------------------------------------------------------

export interface TrunkGateway {
  readonly sid?: GatewaySid;
  /** `sip:host:port;transport=…`; the dialled number becomes its user part. */
  readonly uri: string;
  /** Lower is tried first; among equals by weight (as RFC 2782 does it). */
  readonly priority: number;
  readonly weight: number;
}

export interface TrunkRoute {
  readonly sid: TrunkSid;
  readonly accountSid: AccountSid;
  /** For people: `"Carrier" (TK…)`. */
  readonly name: string;
  readonly isEnabled: boolean;
  readonly tlsOnly: boolean;
  /** Globs over the dialled number: `*` any run, `?` one character. None at all takes nothing. */
  readonly numberPatterns: readonly string[];
  /** Those a call may use. */
  readonly gateways: readonly TrunkGateway[];
  /** With which a challenge of this trunk is answered; realm null: whatever realm it names. */
  readonly credentials: {
    readonly username: string;
    readonly password: Secret;
    readonly realm: string | null;
  } | null;
  readonly policy: TrunkPolicy;
}

/** What of a route's row is looked at. */
export type RouteRule = Pick<
  RouteRow,
  'sid' | 'pattern' | 'priority' | 'costPerMinute' | 'trunkSid' | 'enabled' | 'dateCreatedMs'
>;

/** A table in memory answers at once, which saves a call its turns; one elsewhere may not. */
export interface RouteTable {
  /**
   * The application a number or address belongs to; null when nobody claims it. What was compared
   * is told to `decisions`.
   */
  inbound(
    query: InboundQuery,
    decisions: Decisions,
  ): Promise<InboundRoute | null> | InboundRoute | null;
  /** The account's trunks in order of preference. */
  trunks(accountSid: AccountSid): Promise<readonly TrunkRoute[]> | readonly TrunkRoute[];
  /** Whether the account has that number; a table that cannot say leaves it out. */
  owns?(accountSid: AccountSid, number: string): boolean;
  /** The account's number, to tell whose call it is; a table that cannot say leaves it out. */
  numberSid?(accountSid: AccountSid, number: string): NumberSid | null;
  /** Rules over those trunks; a table without any leaves it out. */
  rules?(accountSid: AccountSid): Promise<readonly RouteRule[]> | readonly RouteRule[];
}

export type DialTarget =
  | {
      readonly kind: 'number';
      readonly number: string;
      /** The trunk that the number is on: no other takes it. Absent: routing decides. */
      readonly trunkSid?: TrunkSid;
    }
  | {
      readonly kind: 'sip';
      /** `sip:user@host[;params]`, without headers. */
      readonly uri: string;
      readonly credentials: { readonly username: string; readonly password: string } | null;
      /** Header fields for the INVITE (X-… and User-to-User); checked by whoever parsed them. */
      readonly headers: readonly (readonly [name: string, value: string])[];
      /** The dialog at the target whose place the call takes (RFC 3891); absent: none. */
      readonly replaces?: string;
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
  /** The call that it goes on from: its caller is shown, and what he wants kept is kept. */
  readonly forwards?: CallSid;
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
