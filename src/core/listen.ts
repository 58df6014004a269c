/**
 * Addresses as they stand in the configuration: `host:port`, `udp://host:port`, IPv6 in brackets.
 * Errors name the key they came from.
 */
import { isIP } from 'node:net';
import { GatewayError } from './errors.ts';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export interface ListenAddress {
  readonly transport: string;
  readonly address: string;
  readonly port: number;
}

export function parseHostPort(key: string, text: string): HostPort {
  const match = /^(\[[^\]]+\]|[^:[\]]+):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match?.[1] || port > 65_535) {
    throw new GatewayError('CONFIG_BAD_VALUE', { key, problem: `"${text}" is not host:port` });
  }
  return { host: match[1].replace(/^\[|\]$/g, ''), port };
}

/** `udp://127.0.0.1:5060`; the address must be an IP address, the transport one of `known`. */
export function parseListen(key: string, text: string, known: readonly string[]): ListenAddress {
  const match = /^([a-z]+):\/\/(.+)$/.exec(text);
  const transport = match?.[1] ?? '';
  if (!known.includes(transport)) {
    const problem = `"${text}" must begin with one of ${known.map((name) => `${name}://`).join(' ')}`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key, problem });
  }
  const { host, port } = parseHostPort(key, match?.[2] ?? '');
  if (isIP(host) === 0) {
    throw new GatewayError('CONFIG_BAD_VALUE', { key, problem: `"${host}" is not an IP address` });
  }
  return { transport, address: host, port };
}

export function formatHostPort({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}
