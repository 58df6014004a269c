/**
 * The gateway as it ships, shut into a network namespace: all torture messages, and nothing leaves
 * loopback, neither SIP nor media nor a question to a name server.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const TORTURE = fileURLToPath(new URL('../../shared/data/torture', import.meta.url));
const CHILD = fileURLToPath(new URL('support/egress-child.ts', import.meta.url));
/** An answered call that nobody acknowledges ends with a BYE after 32 s (RFC 3261 §13.3.1.4). */
const WAIT_SECONDS = 36;

const NAMESPACE = [
  'set -e',
  'ip link set lo up',
  'ip link add outside type veth peer name far',
  // The kernel's own IPv6 housekeeping is not ours to count.
  'sysctl -qw net.ipv6.conf.outside.disable_ipv6=1 net.ipv6.conf.far.disable_ipv6=1',
  'ip addr add 10.99.0.1/24 dev outside',
  'ip link set outside up',
  'ip link set far up',
  'ip route add default dev outside',
  'exec "$@"',
].join('; ');

function enter(command: readonly string[]) {
  return spawnSync('unshare', ['-n', 'sh', '-c', NAMESPACE, 'sh', ...command], {
    encoding: 'utf8',
    timeout: (WAIT_SECONDS + 60) * 1000,
  });
}

const SKIP =
  (!existsSync(TORTURE) && 'needs the shared torture folder') ||
  (enter(['true']).status !== 0 && 'needs root and network namespaces');

t.test('nothing leaves loopback, whatever arrives', { skip: SKIP, timeout: 120_000 }, async (t) => {
  const ran = enter([process.execPath, CHILD, TORTURE, String(WAIT_SECONDS)]);

  t.equal(ran.status, 0, ran.stderr);
  const told = JSON.parse(ran.stdout.trim().split('\n').at(-1) ?? '{}');
  t.ok(told.messages > 150, `${told.messages} messages`);
  t.ok(told.answers > 80, `${told.answers} answers`);
  t.equal(told.sent, 0, 'packets that left');
  t.equal(told.live, 0, 'calls that are left');
});
