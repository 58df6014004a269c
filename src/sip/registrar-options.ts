/**
 * The bounds of a registrar and their defaults.
 */
import { type AttemptLimitOptions, DEFAULT_ATTEMPT_LIMIT } from './attempt-limit.ts';
import type { DigestAlgorithm } from './digest.ts';

export interface RegistrarOptions {
  readonly expiresMinS: number;
  readonly expiresMaxS: number;
  readonly expiresDefaultS: number;
  /** Bindings of one address. */
  readonly contactsMax: number;
  /** REGISTER requests of one address. */
  readonly perSecondMax: number;
  readonly pathMax: number;
  /** What phones that manage their flows are told to ping within (RFC 5626 §4.4). */
  readonly flowTimerS: number;
  /**
   * Of the challenges, best first (RFC 8760 §2.4). Phones and tools in the field (SIPp, baresip of
   * its time) answer nothing at all when SHA-256 stands beside MD5, so who wants it asks for it.
   */
  readonly algorithms: readonly DigestAlgorithm[];
  readonly nonceLifetimeMs: number;
  /** Used nonces remembered, a realm. */
  readonly noncesMax: number;
  /** Addresses whose pace is remembered. */
  readonly addressesMax: number;
  readonly attempts: AttemptLimitOptions;
}

export const DEFAULT_REGISTRAR: RegistrarOptions = {
  expiresMinS: 60,
  expiresMaxS: 3600,
  expiresDefaultS: 3600,
  contactsMax: 10,
  perSecondMax: 5,
  pathMax: 8,
  flowTimerS: 120,
  algorithms: ['MD5'],
  nonceLifetimeMs: 300_000,
  noncesMax: 50_000,
  addressesMax: 65_536,
  attempts: DEFAULT_ATTEMPT_LIMIT,
};
