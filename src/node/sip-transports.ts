/**
 * What the SIP transports of a node are made with: TLS, WebSocket, and the bounds of connections.
 * Only which key becomes which option; no behaviour.
 */
import { DEFAULT_LEG_POLICY, type LegPolicy } from '../call/leg.ts';
import type { Config } from '../core/config.ts';
import { type ConnectionOptions, DEFAULT_CONNECTION } from '../sip/connection.ts';
import { DEFAULT_GATE, type GateOptions } from '../sip/gate.ts';
import { StreamLayers } from '../sip/layers.ts';
import { DEFAULT_TRUST, type TrustOptions } from '../sip/trust.ts';
import type { ReferMode } from '../store/trunk-policy.ts';
import type { Base } from './base.ts';

/** Throws `CONFIG_BAD_VALUE`. */
export function createLayers({ config, clock, log, metrics }: Base): StreamLayers {
  const clientCertificate = config['sip.tls.clientCertificate'];
  const layers = new StreamLayers({
    clock,
    log,
    certificates: {
      certFile: config['sip.tls.certFile'],
      keyFile: config['sip.tls.keyFile'],
      caFile: config['sip.tls.caFile'],
      directory: config['sip.tls.directory'],
      minVersion: config['sip.tls.minVersion'] === '1.3' ? 'TLSv1.3' : 'TLSv1.2',
      watchMs: config['sip.tls.watchMs'],
    },
    tls: {
      clientCertificate: clientCertificate as 'off' | 'request' | 'require',
      verifyPeers: config['sip.tls.verifyPeers'],
      wildcardNames: config['sip.tls.wildcardNames'],
    },
    webSocket: {
      origins: config['sip.ws.origins'],
      allowWithoutOrigin: config['sip.ws.allowWithoutOrigin'],
    },
  });
  metrics.gauge(
    'tandem_sip_certificate_expires_seconds',
    'When the first of the TLS certificates expires, in Unix time',
    () => layers.certificateExpiresAtMs / 1000,
  );
  return layers;
}

/** Of who comes through no trunk. */
export function plainPolicy(config: Config): LegPolicy {
  return { ...DEFAULT_LEG_POLICY, refer: config['sip.refer'] as ReferMode };
}

/** What strangers and phones may cost. */
export function gateOptions(config: Config): GateOptions & TrustOptions {
  const strangersPerSecond = config['sip.strangersPerSecondMax'];
  const registeredPerSecond = config['sip.registeredPerSecondMax'];
  return {
    ...DEFAULT_GATE,
    ...DEFAULT_TRUST,
    strangersPerSecond,
    strangersBurst: 2 * strangersPerSecond,
    strangersTotalPerSecond: config['sip.strangersTotalPerSecondMax'],
    strangersWindowMs: config['sip.strangersWindowMs'],
    strangersAnsweredMs: config['sip.strangersAnsweredMs'],
    strangersStrikesMax: config['sip.strangersStrikesMax'],
    strangersSilenceMs: config['sip.strangersSilenceMs'],
    scanners: config['sip.scanners'].map((word) => word.toLowerCase()),
    scannerSilenceMs: config['sip.scannerSilenceMs'],
    registeredPerSecond,
    registeredBurst: 4 * registeredPerSecond,
    provenMs: config['sip.provenMs'],
  };
}

export function connectionOptions(config: Config): ConnectionOptions {
  return {
    ...DEFAULT_CONNECTION,
    connectTimeoutMs: config['sip.connectTimeoutMs'],
    handshakeTimeoutMs: config['sip.handshakeTimeoutMs'],
    strangerIdleTimeoutMs: config['sip.strangerIdleTimeoutMs'],
    pingMs: config['sip.pingMs'],
    admissionTimeoutMs: config['sip.ws.admissionTimeoutMs'],
    webSocketPingMs: config['sip.ws.pingMs'],
  };
}
