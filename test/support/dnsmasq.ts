/**
 * A real DNS server for tests: Debian's dnsmasq on a loopback port, with the records it is given and
 * nobody to ask further. Started and stopped by process id.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Resolver } from 'node:dns/promises';
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { freePort } from './gateway.ts';
import { delay } from './phone.ts';

const PROGRAM = '/usr/sbin/dnsmasq';

export function hasDnsmasq(): boolean {
  return existsSync(PROGRAM);
}

export interface DnsServer {
  /** `127.0.0.1:port`, as `sip.dns.servers` takes it. */
  readonly address: string;
  stop(): Promise<void>;
  /** Again, on the same port. */
  start(): Promise<void>;
  /** Takes every question and answers none, until it is thawed or stopped. */
  freeze(isFrozen: boolean): void;
}

/**
 * All of it below `.test`. `records` are options of dnsmasq without the dashes: `srv-host=…`,
 * `naptr-record=…`, `host-record=…`.
 */
export async function startDnsmasq(records: readonly string[]): Promise<DnsServer> {
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  let child: ChildProcess | null = null;
  const server: DnsServer = {
    address,
    stop: async () => {
      const running = child;
      child = null;
      if (running === null || running.exitCode !== null) return;
      const ended = new Promise((resolve) => running.once('exit', resolve));
      running.kill('SIGTERM');
      running.kill('SIGCONT');
      await ended;
    },
    freeze: (isFrozen) => {
      child?.kill(isFrozen ? 'SIGSTOP' : 'SIGCONT');
    },
    start: async () => {
      child = spawn(
        PROGRAM,
        [
          ...['--keep-in-foreground', '--conf-file=/dev/null', '--pid-file=', '--no-hosts'],
          ...['--no-resolv', '--no-poll', '--local=/test/', `--user=${userInfo().username}`],
          ...['--listen-address=127.0.0.1', '--bind-interfaces', `--port=${port}`],
          ...['host-record=up.test,127.0.0.1', ...records].map((record) => `--${record}`),
        ],
        { stdio: ['ignore', 'ignore', 'pipe'] },
      );
      let problem = '';
      child.stderr?.setEncoding('utf8').on('data', (text) => {
        problem += text;
      });
      await answers(address, () => problem);
    },
  };
  await server.start();
  return server;
}

async function answers(address: string, problem: () => string): Promise<void> {
  const resolver = new Resolver({ timeout: 100, tries: 1 });
  resolver.setServers([address]);
  for (let tries = 0; tries < 50; tries += 1) {
    try {
      await resolver.resolve4('up.test');
      return;
    } catch {
      await delay(50);
    }
  }
  throw new Error(`dnsmasq does not answer: ${problem()}`);
}
