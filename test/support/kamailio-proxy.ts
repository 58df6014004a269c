/**
 * Kamailio as the network around tandem: a record-routing proxy that is the carrier in front of it
 * (numbers of tandem's go there, over UDP, TCP or TLS) and the one behind it (what tandem sends
 * goes on to a subscriber over UDP). It decides by the number called, and keeps no registrations.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Pair } from './certificates.ts';

const MODULES = '/usr/lib/x86_64-linux-gnu/kamailio/modules/';
const READY_MS_MAX = 10_000;

export function hasKamailioTls(): boolean {
  return existsSync('/usr/sbin/kamailio') && existsSync(`${MODULES}tls.so`);
}

export interface ProxyOptions {
  /** UDP and TCP; one more is TLS's. */
  readonly port: number;
  readonly tlsPort: number;
  readonly certificate: Pair & { readonly caFile: string };
  /** Where numbers of tandem's go: `sip:127.0.0.1:5060;transport=tcp`. */
  readonly tandem: string;
  /** Numbers of tandem's begin with this; all others are subscribers. */
  readonly tandemPrefix: string;
  /** Where subscribers are, by what their numbers begin with. */
  readonly subscribers: Readonly<Record<string, number>>;
}

export interface ProxyRun {
  /** A line for each INVITE that it took: from which transport, to whom. */
  invites(): readonly string[];
  log(): string;
  stop(): Promise<void>;
}

export async function startProxy(options: ProxyOptions): Promise<ProxyRun> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-proxy-'));
  const file = join(folder, 'kamailio.cfg');
  const tls = join(folder, 'tls.cfg');
  writeFileSync(tls, tlsConfiguration(options));
  writeFileSync(file, configuration(options, tls));
  let output = '';
  const child: ChildProcess = spawn(
    '/usr/sbin/kamailio',
    ['-DD', '-E', '-e', '-f', file, '-m', '64', '-M', '8', '-Y', folder, '-w', folder],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      output = (output + chunk).slice(-100_000);
    });
  }
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), 5_000);
    await gone;
    clearTimeout(timer);
    rmSync(folder, { recursive: true, force: true });
  };
  const startMs = Date.now();
  while (!output.includes('PROXY READY')) {
    if (child.exitCode !== null || Date.now() - startMs > READY_MS_MAX) {
      await stop();
      throw new Error(`kamailio does not start:\n${output.slice(-3000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    invites: () => output.split('\n').filter((line) => line.includes('PROXY INVITE')),
    log: () => output,
    stop,
  };
}

function tlsConfiguration({ certificate }: ProxyOptions): string {
  const lines = [
    'method = TLSv1.2+',
    `certificate = ${certificate.certFile}`,
    `private_key = ${certificate.keyFile}`,
    `ca_list = ${certificate.caFile}`,
  ].join('\n');
  return `
[server:default]
${lines}
verify_certificate = no
require_certificate = no
[client:default]
${lines}
verify_certificate = yes
require_certificate = yes
`;
}

function configuration(options: ProxyOptions, tls: string): string {
  const { port, tlsPort, tandem, tandemPrefix, subscribers } = options;
  const ways = Object.entries(subscribers).map(
    ([prefix, at]) => `if ($rU =~ "^\\${prefix}") { $du = "sip:127.0.0.1:${at}"; }`,
  );
  return `
debug=2
log_stderror=yes
fork=yes
children=1
tcp_children=1
enable_tls=yes
listen=udp:127.0.0.1:${port}
listen=tcp:127.0.0.1:${port}
listen=tls:127.0.0.1:${tlsPort}
mpath="${MODULES}"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "xlog.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "tls.so"
modparam("tls", "config", "${tls}")
modparam("rr", "enable_double_rr", 1)
event_route[tm:local-request] { exit; }
event_route[core:worker-one-init] { xlog("L_ERR", "PROXY READY\\n"); }
request_route {
  if (!mf_process_maxfwd_header("20")) { sl_send_reply("483", "Too Many Hops"); exit; }
  if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) t_relay(); exit; }
    sl_send_reply("404", "Not here");
    exit;
  }
  if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; }
  t_check_trans();
  if (!is_method("INVITE")) { sl_send_reply("405", "Not here"); exit; }
  record_route();
  if ($rU =~ "^\\${tandemPrefix}") { $du = "${tandem}"; }
  ${ways.join('\n  ')}
  if ($du == $null) { sl_send_reply("404", "No such number"); exit; }
  xlog("L_ERR", "PROXY INVITE by $pr for $rU to $du\\n");
  if (!t_relay()) sl_reply_error();
  exit;
}
`;
}
