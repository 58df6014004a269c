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

/**
 * A new identifier: 48 bits of time, then 80 of chance. New rows so lie side by side in every index
 * of the store, which costs a third of what random keys cost; when a thing was made is no secret.
 */
export function newSid<P extends SidPrefix>(prefix: P, clock: Clock): Sid<P> {
  const time = clock.nowMs().toString(16).padStart(12, '0');
  return `${prefix}${time}${clock.randomHex(10)}` as Sid<P>;
}

export function isSid<P extends SidPrefix>(prefix: P, text: string): text is Sid<P> {
  return text.length === 34 && text.startsWith(prefix) && /^[0-9a-fA-F]{32}$/.test(text.slice(2));
}
