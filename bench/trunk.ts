/**
 * A gateway between two SIPps, set up as a user would: by REST a trunk whose gateway is the
 * answering SIPp, and a number that goes through to it. And that answering SIPp.
 */
import { freePort, startGateway, type TestGateway } from '../test/support/gateway.ts';
import type { Credentials } from '../test/support/kamailio.ts';
import { type SippRun, startSipp } from '../test/support/sipp.ts';
import { sleepMs } from './measure.ts';

export const NUMBER = '+15550123';
/** RTP ports outside the kernel's ephemeral range, enough for 2,500 bridged calls. */
const RTP_PORTS = { TANDEM_MEDIA_PORT_MIN: '20000', TANDEM_MEDIA_PORT_MAX: '29999' };

interface Answerer {
  readonly port: number;
  readonly run: SippRun;
}

/** How calls come to the server under test. */
export type BenchTransport = 'udp' | 'tcp' | 'tls';

/** How SIPp talks, as it cannot speak TLS. */
export function sippSide(transport: BenchTransport): 'udp' | 'tcp' {
  return transport === 'tls' ? 'tcp' : transport;
}

/** How SIPp is told of a transport: one socket for all calls. TLS is made in front of it. */
export const SIPP_TRANSPORT = { udp: 'u1', tcp: 't1', tls: 't1' } as const;

/** Answers every call for as long as the bench may take. */
export async function startAnswerer(
  timeoutSeconds: number,
  transport: BenchTransport = 'udp',
): Promise<Answerer> {
  const port = await freePort();
  const run = startSipp({
    scenario: 'answer',
    port,
    timeoutSeconds,
    transport: SIPP_TRANSPORT[transport],
  });
  endWithUs(run);
  await sleepMs(500);
  return { port, run };
}

/** Whatever ends the bench ends its SIPp too. */
export function endWithUs(run: SippRun): void {
  const kill = (): void => void run.process.kill('SIGKILL');
  process.once('exit', kill);
  run.process.once('exit', () => process.off('exit', kill));
}

/** The environment of a gateway that listens for TLS as well, and the port where it does. */
export async function listenForTls(
  credentials: Credentials,
): Promise<{ environment: Record<string, string>; tlsPort: number }> {
  const [plainPort, tlsPort] = [await freePort(), await freePort()];
  const environment = {
    TANDEM_SIP_LISTEN: [
      ...[`udp://127.0.0.1:${plainPort}`, `tcp://127.0.0.1:${plainPort}`],
      `tls://127.0.0.1:${tlsPort}`,
    ].join(),
    TANDEM_SIP_TLS_CERT_FILE: credentials.certFile,
    TANDEM_SIP_TLS_KEY_FILE: credentials.keyFile,
    TANDEM_SIP_TLS_CA_FILE: credentials.caFile,
  };
  return { environment, tlsPort };
}

export async function startTrunkedGateway(
  nextPort: number,
  environment: Record<string, string> = {},
  transport: BenchTransport = 'udp',
): Promise<TestGateway> {
  const gateway = await startGateway({ ...RTP_PORTS, ...environment });
  const kill = (): void => void gateway.process.kill('SIGKILL');
  process.once('exit', kill);
  gateway.process.once('exit', () => process.off('exit', kill));
  const trunk = await create(gateway, 'Trunks.json', {
    FriendlyName: 'bench',
    Gateways: JSON.stringify([
      { uri: `sip:127.0.0.1:${nextPort};transport=${sippSide(transport)}` },
    ]),
    NumberPattern: '+1555*',
    InboundAddress: '127.0.0.1/32',
  });
  await create(gateway, 'IncomingPhoneNumbers.json', { PhoneNumber: NUMBER, TrunkSid: trunk });
  // The route table follows the store.
  await sleepMs(500);
  return gateway;
}

export async function create(
  gateway: TestGateway,
  path: string,
  form: Record<string, string>,
): Promise<string> {
  const answer = await gateway.rest('POST', path, form);
  if (answer.status !== 201) throw new Error(`${path}: ${answer.status} ${answer.text}`);
  return String(answer.json.sid);
}
