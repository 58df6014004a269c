/**
 * What any way of writing a trunk must hold: its lists are the account's, its names nobody else's,
 * its credentials whole. Both surfaces save through here, so that none of them can make a trunk
 * that the other would refuse.
 */
import { GatewayError } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import type { Store, TrunkRow } from '../store/store.ts';
import type { TrunkSettings } from '../store/trunk-row.ts';
import { isWideBlock, TOO_WIDE } from './address-block.ts';
import { checkHosts } from './hosts.ts';
import { badParameter } from './parameters.ts';
import type { TrunkingLimits } from './trunking-limits.ts';

export interface TrunkParts {
  readonly store: Store;
  readonly limits: TrunkingLimits;
  /** Names of this node, which are no account's. */
  readonly ownHosts: ReadonlySet<string>;
}

/** `former`: what the trunk is now, or null for a new one; what has not changed is not asked. */
export async function checkTrunk(
  parts: TrunkParts,
  accountSid: AccountSid,
  wanted: TrunkSettings,
  former: TrunkRow | null,
): Promise<void> {
  const { store, limits } = parts;
  checkCredentials(wanted);
  checkBlocks(wanted, former, limits);
  await checkUsername(store, wanted, former);
  await checkLists({ store, accountSid, limit: limits.mappingsMax }, wanted, former);
  const hosts = [...(wanted.domainName ? [wanted.domainName] : []), ...wanted.inboundDomains];
  const known = new Set([former?.domainName, ...(former?.inboundDomains ?? [])]);
  await checkHosts(
    parts,
    hosts.filter((name) => !known.has(name)),
    { sid: former?.sid ?? null, code: 'TRUNK_DOMAIN_TAKEN' },
  );
}

/** Who comes from there is known to the whole node: a wide block would make strangers known. */
function checkBlocks(
  { inboundAddresses }: TrunkSettings,
  former: TrunkRow | null,
  { wideAddressBlocks }: TrunkingLimits,
): void {
  if (wideAddressBlocks) return;
  const known = former?.inboundAddresses ?? [];
  const wide = inboundAddresses.find((block) => !known.includes(block) && isWideBlock(block));
  if (wide !== undefined) throw badParameter('InboundAddress', `"${wide}" ${TOO_WIDE}`);
}

/** A user without a password, or the reverse, would fail at the first challenge: say so now. */
function checkCredentials(trunk: TrunkSettings): void {
  if ((trunk.username === null) !== (trunk.password === null)) {
    throw badParameter('Username', 'and Password go together');
  }
  if ((trunk.inboundUsername === null) !== (trunk.inboundPassword === null)) {
    throw badParameter('InboundUsername', 'and InboundPassword go together');
  }
  if (trunk.policy.registration.enabled && trunk.username === null) {
    throw badParameter('Policy.registration.enabled', 'needs Username and Password');
  }
}

/** Whose call it is is told by that name alone. */
async function checkUsername(
  store: Store,
  { inboundUsername }: TrunkSettings,
  former: TrunkRow | null,
): Promise<void> {
  if (inboundUsername === null || inboundUsername === former?.inboundUsername) return;
  const where = [{ field: 'inboundUsername', op: '=', value: inboundUsername }] as const;
  const [holder] = await store.trunks.all(1, where);
  if (holder) throw badParameter('InboundUsername', 'is taken by another trunk');
}

async function checkLists(
  { store, accountSid, limit }: { store: Store; accountSid: AccountSid; limit: number },
  wanted: TrunkSettings,
  former: TrunkRow | null,
): Promise<void> {
  const kinds = [
    ['AccessListSid', 'accessListSids', store.accessLists],
    ['CredentialListSid', 'credentialListSids', store.credentialLists],
  ] as const;
  for (const [parameter, field, table] of kinds) {
    if (wanted[field].length > limit)
      throw new GatewayError('REST_LIMIT', { limit, things: 'lists' });
    const known: readonly string[] = former?.[field] ?? [];
    for (const sid of wanted[field]) {
      if (known.includes(sid)) continue;
      if (await table.get(accountSid, sid)) continue;
      throw badParameter(parameter, `"${sid.slice(0, 40)}" is not a list of this account`);
    }
  }
}
