/**
 * What every part of a node is built with: configuration, log, clock, metrics, the first account,
 * and the few words of the configuration that mean more than a value.
 */

import { unmapped } from '../core/address.ts';
import type { realClock } from '../core/clock.ts';
import { CODEC_NAMES, type CodecName } from '../core/codec.ts';
import type { Config } from '../core/config.ts';
import { GatewayError } from '../core/errors.ts';
import { parseListen } from '../core/listen.ts';
import type { Log } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { HttpServer } from '../http/server.ts';
import { type ListenSpec, TRANSPORTS } from '../sip/peer.ts';
import type { FirstAccount } from '../store/account-file.ts';
import type { Store } from '../store/store.ts';

export const VERSION = '0.1.0';
export const AGENT = `tandem/${VERSION}`;

export interface Base {
  readonly config: Config;
  readonly log: Log;
  readonly clock: typeof realClock;
  readonly metrics: Metrics;
  readonly account: FirstAccount;
}

export class NodeHealth {
  isStarted = false;
  isDraining = false;
  /** The media workers that live; null until there is an engine. */
  workers: (() => number) | null = null;

  notReady(): readonly string[] {
    const reasons: string[] = [];
    if (!this.isStarted) reasons.push('starting');
    if (this.isDraining) reasons.push('draining');
    // Without one no call can be taken; the supervisor is starting another.
    if (this.workers !== null && this.workers() === 0) reasons.push('media');
    return reasons;
  }
}

export interface NodeParts extends Base {
  readonly store: Store;
  readonly http: HttpServer;
  readonly publicUrl: string;
  readonly health: NodeHealth;
}

export function listenSpecs(config: Config): ListenSpec[] {
  return config['sip.listen'].map((text) => {
    const { transport: named, address, port } = parseListen('sip.listen', text, TRANSPORTS);
    const transport = TRANSPORTS.find((name) => name === named) ?? 'udp';
    const host = config['sip.advertise'];
    const advertise = host === '' ? {} : { advertise: { host } };
    return { transport, address, port, ...advertise };
  });
}

/** Names and addresses of this node itself: in a Request-URI they mean no account's anything. */
export function ownHostsOf(config: Config, publicUrl: string): ReadonlySet<string> {
  const listeners = listenSpecs(config).map(({ address }) => address);
  const named = [config['sip.advertise'], config['node.name'], new URL(publicUrl).hostname];
  const hosts = [...listeners, ...named].map((host) => unmapped(host).toLowerCase());
  return new Set(hosts.filter((host) => host !== ''));
}

export function codecsOf(config: Config): CodecName[] {
  return config['sip.codecs'].map((text) => {
    const known = CODEC_NAMES.find((name) => name.toLowerCase() === text.toLowerCase());
    if (known) return known;
    const problem = `"${text}" is none of ${CODEC_NAMES.join(', ')}`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.codecs', problem });
  });
}
