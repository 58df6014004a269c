/**
 * Kamailio as a carrier's registrar: takes REGISTER with digest, and calls whoever registered. What
 * it knows can be asked for over its own control, here by an OPTIONS of ours: 200 with the contact.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const MODULES = '/usr/lib/x86_64-linux-gnu/kamailio/modules/';

export function hasKamailio(): boolean {
  return existsSync('/usr/sbin/kamailio') && existsSync(`${MODULES}registrar.so`);
}

export interface CarrierOptions {
  readonly port: number;
  readonly domain: string;
  readonly username: string;
  readonly password: string;
  /** Registrations for less are told 423. */
  readonly expiresMinS?: number;
}

export interface Carrier {
  readonly port: number;
  /** What it printed: each `REG …` line is a registration that it took or ended. */
  log(): string;
  stop(): Promise<void>;
}

export async function startCarrier(options: CarrierOptions): Promise<Carrier> {
  const folder = mkdtempSync(join(tmpdir(), 'tandem-carrier-'));
  const file = join(folder, 'kamailio.cfg');
  writeFileSync(file, configuration(options));
  const log = join(folder, 'log');
  writeFileSync(log, '');
  let output = '';
  const child: ChildProcess = spawn(
    '/usr/sbin/kamailio',
    ['-DD', '-E', '-e', '-f', file, '-m', '64', '-M', '8', '-Y', folder, '-w', folder],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      output = (output + chunk).slice(-50_000);
    });
  }
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  return {
    port: options.port,
    log: () => output + readFileSync(log, 'utf8'),
    stop: async () => {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 5_000);
      await gone;
      clearTimeout(timer);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function configuration(options: CarrierOptions): string {
  const { port, domain, username, password, expiresMinS = 0 } = options;
  return `
debug=2
log_stderror=yes
fork=yes
children=1
disable_tcp=yes
listen=udp:127.0.0.1:${port}
alias="${domain}"
mpath="${MODULES}"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "xlog.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "min_expires", 0)
modparam("registrar", "default_expires", 3600)
request_route {
  if (is_method("REGISTER")) {
    if (!pv_www_authenticate("${domain}", "${password}", "0")) {
      www_challenge("${domain}", "1");
      exit;
    }
    if ($au != "${username}") { sl_send_reply("403", "Forbidden"); exit; }
    if (${expiresMinS} > 0 && $hdr(Expires) != "0" && $(hdr(Expires){s.int}) < ${expiresMinS}) {
      append_to_reply("Min-Expires: ${expiresMinS}\\r\\n");
      sl_send_reply("423", "Interval Too Brief");
      exit;
    }
    if (!save("location")) sl_reply_error();
    xlog("L_ERR", "REG $tU expires $hdr(Expires) contact $ct\\n");
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
  if (is_method("INVITE")) {
    record_route();
    # As carriers do: what was dialled stays in To, the Request-URI becomes the contact.
    $rU = "${username}";
    $rd = "${domain}";
    if (!lookup("location")) { sl_send_reply("404", "Not registered"); exit; }
    if (!t_relay()) sl_reply_error();
    exit;
  }
  sl_send_reply("200", "OK");
}
`;
}
