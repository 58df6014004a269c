/**
 * Kamailio in two roles. As the yardstick: the smallest configuration that makes it a stateful
 * proxy and a registrar that asks for digests; a proxy does less than a back-to-back user agent,
 * the ratio says how much. As the front of a server under test, for SIPp cannot speak TLS: TCP on
 * SIPp's side, TLS on the other, the same for every server; its CPU time counts for nobody.
 */
import { freePort } from '../test/support/gateway.ts';
import {
  type Credentials,
  type KamailioOptions,
  startKamailio,
  TLS_MODULE,
} from '../test/support/kamailio.ts';

export interface PeerProcess {
  readonly pid: number;
  /** Where calls come to: by TLS when there is a certificate, else by UDP and TCP. */
  readonly port: number;
  stop(): Promise<void>;
}

export interface YardstickOptions {
  /** Where calls go on. */
  readonly nextPort: number;
  readonly nextTransport: 'udp' | 'tcp';
  /** Whom it registers, as a realm with one user in it. */
  readonly phone: { readonly realm: string; readonly password: string };
  /** Calls come by TLS when there are some. */
  readonly credentials: Credentials | undefined;
}

export async function startYardstick(options: YardstickOptions): Promise<PeerProcess> {
  const [port, tlsPort] = [await freePort(), await freePort()];
  const { credentials } = options;
  const configuration = yardstick(port, tlsPort, options);
  return credentials ? run(tlsPort, { configuration, credentials }) : run(port, { configuration });
}

/** In front of the server that listens for TLS at `serverPort`. */
export async function startFront(
  serverPort: number,
  credentials: Credentials,
): Promise<PeerProcess> {
  const port = await freePort();
  return run(port, { configuration: front(port, await freePort(), serverPort), credentials });
}

async function run(port: number, options: KamailioOptions): Promise<PeerProcess> {
  const { pid, stop } = await startKamailio(options);
  return { pid, port, stop };
}

const IN_DIALOG = `
  if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) t_relay(); exit; }
    sl_send_reply("404", "Not here");
    exit;
  }
  t_check_trans();
`;

function yardstick(port: number, tlsPort: number, options: YardstickOptions): string {
  const { nextPort, nextTransport, credentials } = options;
  const { realm, password } = options.phone;
  return `
debug=0
fork=yes
children=2
tcp_children=2
listen=udp:127.0.0.1:${port}
listen=tcp:127.0.0.1:${port}
${credentials ? `listen=tls:127.0.0.1:${tlsPort}` : ''}
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
${credentials ? TLS_MODULE : ''}
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
  ${IN_DIALOG}
  if (is_method("INVITE")) record_route();
  $du = "sip:127.0.0.1:${nextPort};transport=${nextTransport}";
  if (!t_relay()) sl_reply_error();
  exit;
}
`;
}

/** One process for each side's connections, so that there are as few of them as can be. */
function front(port: number, tlsPort: number, serverPort: number): string {
  return `
debug=0
fork=yes
tcp_children=1
listen=tcp:127.0.0.1:${port}
listen=tls:127.0.0.1:${tlsPort}
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "sl.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
${TLS_MODULE}
request_route {
  if (!mf_process_maxfwd_header("70")) { sl_send_reply("483", "Too Many Hops"); exit; }
  ${IN_DIALOG}
  if (is_method("INVITE")) record_route();
  $du = "sip:127.0.0.1:${serverPort};transport=tls";
  if (!t_relay()) sl_reply_error();
  exit;
}
`;
}
