/**
 * Kamailio as the yardstick: the smallest configuration that makes it a stateful proxy and a
 * registrar that asks for digests, started on loopback for one run. A proxy does less than a
 * back-to-back user agent; the ratio says how much.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleepMs } from './measure.ts';

export interface PeerProcess {
  readonly pid: number;
  readonly port: number;
  stop(): Promise<void>;
}

export function hasKamailio(): boolean {
  return existsSync('/usr/sbin/kamailio');
}

export interface KamailioOptions {
  readonly port: number;
  /** Where calls go on, by the transport they came with. */
  readonly nextPort: number;
  /** Whom it registers, as a realm with one user in it. */
  readonly phone: { readonly realm: string; readonly password: string };
}

export async function startKamailio(options: KamailioOptions): Promise<PeerProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-kamailio-'));
  const file = join(folder, 'kamailio.cfg');
  writeFileSync(file, configuration(options));
  const child: ChildProcess = spawn(
    '/usr/sbin/kamailio',
    ['-DD', '-E', '-f', file, '-m', '256', '-M', '16', '-Y', folder, '-w', folder],
    { stdio: 'ignore' },
  );
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  // Whatever ends the bench ends it too; SIGTERM, as it must take its own children with it.
  const kill = (): void => void child.kill('SIGTERM');
  process.once('exit', kill);
  await sleepMs(1500);
  return {
    pid: child.pid ?? 0,
    port: options.port,
    stop: async () => {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
      await gone;
      clearTimeout(timer);
      process.off('exit', kill);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function configuration(options: KamailioOptions): string {
  const { realm, password } = options.phone;
  return `
debug=0
log_stderror=no
fork=yes
children=2
tcp_children=2
listen=udp:127.0.0.1:${options.port}
listen=tcp:127.0.0.1:${options.port}
mpath="/usr/lib/x86_64-linux-gnu/kamailio/modules/"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "auth.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("rr", "append_fromtag", 1)
request_route {
  if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
  if (is_method("REGISTER")) {
    if (!pv_www_authenticate("${realm}", "${password}", "0")) {
      www_challenge("${realm}", "1");
      exit;
    }
    if (!save("location")) sl_reply_error();
    exit;
  }
  if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) t_relay(); exit; }
    sl_send_reply("404", "Not here");
    exit;
  }
  t_check_trans();
  if (is_method("INVITE")) record_route();
  $du = "sip:127.0.0.1:${options.nextPort};transport=" + $proto;
  if (!t_relay()) sl_reply_error();
  exit;
}
`;
}
