/**
 * Kamailio as the network around tandem: a record-routing proxy that is the carrier in front of it
 * (numbers of tandem's go there, over UDP, TCP or TLS) and the one behind it (what tandem sends
 * goes on to a subscriber over UDP). It decides by the number called, and keeps no registrations.
 */
import { type Credentials, startKamailio, TLS_MODULE } from './kamailio.ts';

export interface ProxyOptions {
  /** UDP and TCP; one more is TLS's. */
  readonly port: number;
  readonly tlsPort: number;
  readonly certificate: Credentials;
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
  const { log, stop } = await startKamailio({
    configuration: configuration(options),
    credentials: options.certificate,
  });
  return {
    invites: () =>
      log()
        .split('\n')
        .filter((line) => line.includes('PROXY INVITE')),
    log,
    stop,
  };
}

function configuration(options: ProxyOptions): string {
  const { port, tlsPort, tandem, tandemPrefix, subscribers } = options;
  const ways = Object.entries(subscribers).map(
    ([prefix, at]) => `if ($rU =~ "^\\${prefix}") { $du = "sip:127.0.0.1:${at}"; }`,
  );
  return `
debug=2
fork=yes
children=1
tcp_children=1
listen=udp:127.0.0.1:${port}
listen=tcp:127.0.0.1:${port}
listen=tls:127.0.0.1:${tlsPort}
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "xlog.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
${TLS_MODULE}
modparam("rr", "enable_double_rr", 1)
event_route[tm:local-request] { exit; }
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
