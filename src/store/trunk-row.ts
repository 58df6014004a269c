/**
 * A trunk that says nothing: the fields of a row besides whose and which it is, and the completion
 * of rows that an older version of this program wrote. Not the row's type (`store`) and not what a
 * policy means (`trunk-policy`).
 */
import type { TrunkingSettings, TrunkRow } from './store.ts';
import { DEFAULT_TRUNK_POLICY, trunkPolicy } from './trunk-policy.ts';

export const DEFAULT_TRUNKING: TrunkingSettings = {
  disasterRecoveryUrl: null,
  disasterRecoveryMethod: 'POST',
  transferSipOnly: false,
  transferCallerId: 'from-transferee',
};

export type TrunkSettings = Omit<
  TrunkRow,
  'sid' | 'accountSid' | 'dateCreatedMs' | 'dateUpdatedMs'
>;

export const BLANK_TRUNK: TrunkSettings = {
  friendlyName: '',
  enabled: true,
  gateways: [],
  username: null,
  password: null,
  realm: null,
  inboundUsername: null,
  inboundPassword: null,
  inboundAddresses: [],
  accessListSids: [],
  credentialListSids: [],
  domainName: null,
  inboundDomains: [],
  certificateNames: [],
  tlsOnly: false,
  numberPatterns: [],
  policy: DEFAULT_TRUNK_POLICY,
  trunking: DEFAULT_TRUNKING,
};

/** Sections and fields that came after the row was written have their defaults. */
export function completeTrunk(row: TrunkRow): TrunkRow {
  return {
    ...row,
    policy: trunkPolicy(row.policy),
    trunking: { ...DEFAULT_TRUNKING, ...row.trunking },
  };
}
