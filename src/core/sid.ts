/**
 * Branded identifiers: two letters that name the kind, then 32 hex digits, as existing apps expect.
 * Not a registry: whether a sid exists is the store's to say.
 */
import type { Clock } from './clock.ts';

declare const tag: unique symbol;

export type SidPrefix =
  | 'AC'
  | 'AL'
  | 'AP'
  | 'CA'
  | 'CL'
  | 'CR'
  | 'EV'
  | 'IP'
  | 'NO'
  | 'OU'
  | 'PN'
  | 'RE'
  | 'RG'
  | 'RT'
  | 'SD'
  | 'SK'
  | 'TK';
export type Sid<P extends SidPrefix> = string & { readonly [tag]: P };
export type AccountSid = Sid<'AC'>;
export type ApplicationSid = Sid<'AP'>;
export type CallSid = Sid<'CA'>;
export type RecordingSid = Sid<'RE'>;
export type NumberSid = Sid<'PN'>;
export type TrunkSid = Sid<'TK'>;
export type AccessListSid = Sid<'AL'>;
export type CredentialListSid = Sid<'CL'>;
export type GatewaySid = Sid<'OU'>;
export type RegistrationSid = Sid<'RG'>;
export type RouteSid = Sid<'RT'>;
export type SipDomainSid = Sid<'SD'>;

/** The millisecond of the newest identifier of this process, and its place within it. */
let newestMs = -1;
let serial = 0;

/**
 * A new identifier: 48 bits of time, 16 that count on from a random start within one millisecond,
 * then 64 of chance (as RFC 9562 §6.2, method 1, has it). New rows so lie side by side in every
 * index of the store, which costs a third of what random keys cost, and of two made by one process
 * the older comes first. When a thing was made is no secret.
 */
export function newSid<P extends SidPrefix>(prefix: P, clock: Clock): Sid<P> {
  const nowMs = clock.nowMs();
  const chance = clock.randomHex(10);
  // The upper half is left to count into: 32,768 identifiers in a millisecond.
  serial = nowMs === newestMs ? serial + 1 : Number.parseInt(chance.slice(0, 4), 16) >> 1;
  newestMs = nowMs;
  const time = nowMs.toString(16).padStart(12, '0');
  const place = (serial & 0xffff).toString(16).padStart(4, '0');
  return `${prefix}${time}${place}${chance.slice(4)}` as Sid<P>;
}

export function isSid<P extends SidPrefix>(prefix: P, text: string): text is Sid<P> {
  return text.length === 34 && text.startsWith(prefix) && /^[0-9a-fA-F]{32}$/.test(text.slice(2));
}
