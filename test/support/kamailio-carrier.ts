/**
 * Kamailio as a carrier's registrar: takes REGISTER with digest, and calls whoever registered. What
 * it knows can be asked for over its own control, here by an OPTIONS of ours: 200 with the contact.
 */
import { startKamailio } from './kamailio.ts';

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
  const { log, stop } = await startKamailio({ configuration: configuration(options) });
  return { port: options.port, log, stop };
}

function configuration(options: CarrierOptions): string {
  const { port, domain, username, password, expiresMinS = 0 } = options;
  return `
debug=2
fork=yes
children=1
disable_tcp=yes
listen=udp:127.0.0.1:${port}
alias="${domain}"
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
