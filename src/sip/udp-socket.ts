/**
 * The native border of UDP, seen from JavaScript: the only code that loads the addon of
 * `native/net`; its twin is `native/net/binding.cc`. A datagram comes as one latin1 string and goes
 * as one, without a Buffer, a request object or a callback for it. SIP is not known here, and
 * who may be sent to is not asked.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { GatewayError } from '../core/errors.ts';

export interface UdpSocket {
  readonly address: string;
  readonly port: number;
  /** Never throws: what the kernel does not take now is lost. Nothing once closed. */
  send(text: string, port: number, address: string): void;
  /** At once; no callback runs after it. */
  close(): void;
}

interface NetAddon {
  /** Binds, to one address family; throws an error with the system's code. */
  readonly UdpSocket: new (
    address: string,
    port: number,
    receiveBufferBytes: number,
    datagram: (text: string, address: string, port: number) => void,
    failed: (problem: string) => void,
  ) => UdpSocket;
}

const ADDON_PATH = fileURLToPath(
  new URL('../../native/build/Release/tandem_net.node', import.meta.url),
);

/** Throws ADDON_MISSING, or the system's error when it refuses the address. */
export function openUdpSocket(
  ...parameters: ConstructorParameters<NetAddon['UdpSocket']>
): UdpSocket {
  return new (load().UdpSocket)(...parameters);
}

function load(): NetAddon {
  try {
    return createRequire(import.meta.url)(ADDON_PATH) as NetAddon;
  } catch (thrown) {
    const why = thrown instanceof Error ? (thrown.message.split('\n')[0] ?? '') : String(thrown);
    const problem = `${why}; build it with: sh config/setup.sh`;
    throw new GatewayError('ADDON_MISSING', { problem }, { cause: thrown });
  }
}
