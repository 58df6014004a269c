/**
 * The caps on one SIP message. Each is a bound an attacker would otherwise choose for us; none is
 * below what RFC 4475's longest legal message needs.
 */
import { DEFAULT_URI_LIMITS } from './grammar.ts';

export interface SipLimits {
  readonly messageBytesMax: number;
  readonly startLineBytesMax: number;
  readonly methodBytesMax: number;
  readonly headerBytesMax: number;
  readonly headersMax: number;
  /** Values of Via, of Route and of Record-Route, each. */
  readonly hopsMax: number;
  readonly contactsMax: number;
  /** Fields of Authorization and Proxy-Authorization, together. */
  readonly credentialsMax: number;
  readonly callIdBytesMax: number;
  readonly tagBytesMax: number;
  readonly branchBytesMax: number;
  readonly uriBytesMax: number;
  readonly uriParamsMax: number;
}

export const DEFAULT_SIP_LIMITS: SipLimits = {
  messageBytesMax: 65_536,
  startLineBytesMax: 2048,
  methodBytesMax: 64,
  headerBytesMax: 8192,
  headersMax: 200,
  hopsMax: 40,
  contactsMax: 10,
  credentialsMax: 16,
  callIdBytesMax: 256,
  tagBytesMax: 256,
  branchBytesMax: 256,
  ...DEFAULT_URI_LIMITS,
};
