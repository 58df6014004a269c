/**
 * How wide a block of addresses may be that an account says its calls come from. Who is in it
 * counts as known on the whole node, past the limits for strangers.
 */
import { BlockList, isIP } from 'node:net';
import { unmapped } from '../core/address.ts';

const PREFIX_MIN_4 = 8;
const PREFIX_MIN_6 = 32;
/** Of `::ffff:0:0/96`, in which every IPv4 address lies. */
const MAPPED_BITS = 96;

export const TOO_WIDE =
  `is wider than /${PREFIX_MIN_4} (IPv4) or /${PREFIX_MIN_6} (IPv6); ` +
  'trunk.wideAddressBlocks allows it';

/** Of a valid block: `address` or `address/prefix`. */
export function isWideBlock(block: string): boolean {
  const [network = '', written] = block.split('/');
  if (written === undefined) return false;
  const prefix = Number(written);
  if (isIP(network) === 4) return prefix < PREFIX_MIN_4;
  return (
    prefix < PREFIX_MIN_6 || (prefix < MAPPED_BITS + PREFIX_MIN_4 && hasMapped(network, prefix))
  );
}

/** Whether IPv4 addresses lie in an IPv6 block. */
function hasMapped(network: string, prefix: number): boolean {
  if (isIP(unmapped(network)) === 4) return true;
  const block = new BlockList();
  block.addSubnet(network, prefix, 'ipv6');
  return block.check('::ffff:0:0', 'ipv6');
}
