/**
 * How much of SIP configuration one account may have, and how much by default.
 */

export interface TrunkingLimits {
  readonly trunksMax: number;
  readonly routesMax: number;
  readonly domainsMax: number;
  readonly accessListsMax: number;
  /** In one list. */
  readonly accessAddressesMax: number;
  readonly credentialListsMax: number;
  /** In one list. */
  readonly credentialsMax: number;
  /** Lists that one trunk or domain refers to. */
  readonly mappingsMax: number;
  /** Blocks of addresses may be of any width. */
  readonly wideAddressBlocks: boolean;
}

/** The reference's, where it says so; a carrier's rate deck is some thousand prefixes. */
export const DEFAULT_TRUNKING_LIMITS: TrunkingLimits = {
  trunksMax: 100,
  routesMax: 10_000,
  domainsMax: 100,
  accessListsMax: 100,
  accessAddressesMax: 100,
  credentialListsMax: 100,
  credentialsMax: 1_000,
  mappingsMax: 100,
  wideAddressBlocks: false,
};
