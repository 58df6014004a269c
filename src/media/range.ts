/**
 * The RTP port range: each worker's share of it, and the check that the kernel does not hand the
 * same ports to outgoing sockets. Not the pool inside a share with its quarantine: that is the
 * engine's (`native/port_pool`).
 */
import { readFileSync } from 'node:fs';
import { GatewayError } from '../core/errors.ts';

/** Equal even-aligned shares, one per slot. */
export function slicePorts(
  portMin: number,
  portMax: number,
  count: number,
): { portMin: number; portMax: number }[] {
  const first = portMin + (portMin % 2);
  const pairs = Math.floor((portMax - first + 1) / 2);
  const share = Math.floor(pairs / count);
  if (share < 1) {
    const problem = `${portMin}-${portMax} is too small for ${count} workers`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'media.portMax', problem });
  }
  return Array.from({ length: count }, (_, index) => ({
    portMin: first + index * share * 2,
    portMax: first + (index + 1) * share * 2 - 1,
  }));
}

/**
 * Refuses RTP ports that the kernel also gives to outgoing sockets: such a port is taken at random
 * moments, and a call then fails for no visible reason.
 */
export function checkPortRange(options: {
  portMin: number;
  portMax: number;
  /** Content of /proc/sys/net/ipv4/ip_local_port_range; read from there when not given. */
  ephemeral?: string;
}): void {
  const { portMin, portMax } = options;
  const text = options.ephemeral ?? readEphemeral();
  const [low = Number.NaN, high = Number.NaN] = text.trim().split(/\s+/).map(Number);
  if (!(portMin <= high && portMax >= low)) return;
  // Whatever is wider, above or below our ports, stays the kernel's.
  const [newLow, newHigh] =
    65_535 - portMax >= portMin - 1024 ? [portMax + 1, 65_535] : [1024, portMin - 1];
  throw new GatewayError('PORTS_IN_EPHEMERAL_RANGE', {
    range: `${portMin}-${portMax}`,
    ephemeral: `${low}-${high}`,
    fix: `sysctl -w net.ipv4.ip_local_port_range="${newLow} ${newHigh}"`,
  });
}

function readEphemeral(): string {
  try {
    return readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'latin1');
  } catch {
    return '';
  }
}
