/**
 * The media half of a SIP leg: one port, and the session descriptions that say how to reach it and
 * what it speaks (RFC 3264 offer/answer as it applies to one audio stream). Holds what is needed
 * to answer again later: the origin's id and version, and what was agreed last. Not signaling: when
 * a description is sent, and in which message, is `sip-leg.ts`.
 */
import { isIPv6 } from 'node:net';
import type { Clock } from '../core/clock.ts';
import { CODECS, type CodecName } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';
import { DIRECTIONS, LATCH, type PortSettings, type PortStats } from '../media/binding.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Port, PortRecord, PortRef } from '../media/port.ts';
import { DEFAULT_MEDIA_POLICY, type MediaPolicy } from '../sdp/address.ts';
import { acceptAnswer, answerOffer, makeOffer, type NegotiatedMedia } from '../sdp/offer-answer.ts';
import { parseSdp } from '../sdp/sdp.ts';
import type { LegCommand, LegFact, LegId } from './leg.ts';

/** What a leg may speak and whom it may send audio to. */
export interface LegMediaPolicy {
  /** In order of preference; all are offered. */
  readonly codecs: readonly CodecName[];
  /** Address written into SDP instead of the port's own: the public one behind a NAT. */
  readonly advertiseAddress: string | null;
  readonly latch: keyof typeof LATCH;
  /** To which addresses that a peer names audio may be sent. */
  readonly remote: MediaPolicy;
  readonly jitterMinMs: number;
  readonly jitterMaxMs: number;
  /** No RTP for so long is reported (it ends nothing). 0: never. */
  readonly silentTimeoutMs: number;
  /** Listen for keys in the audio when the peer does not offer telephone-event. */
  readonly inbandDtmf: boolean;
  readonly opusBitrate: number;
  readonly opusComplexity: number;
}

export const DEFAULT_LEG_MEDIA: LegMediaPolicy = {
  codecs: ['opus', 'G722', 'PCMU', 'PCMA'],
  advertiseAddress: null,
  latch: 'sameAddress',
  remote: DEFAULT_MEDIA_POLICY,
  jitterMinMs: 20,
  jitterMaxMs: 200,
  silentTimeoutMs: 30_000,
  inbandDtmf: true,
  opusBitrate: 32_000,
  opusComplexity: 5,
};

/** Plain data: what a rebuilt leg needs to find its port and to answer a re-INVITE. */
export interface LegMediaRecord {
  readonly port: PortRecord | null;
  readonly sessionId: string;
  readonly version: number;
  /** Our last description; `isOffering` when it is an offer that waits for its answer. */
  readonly localSdp: string;
  readonly isOffering: boolean;
  readonly agreed: NegotiatedMedia | null;
  readonly onHold: boolean;
  readonly bridgedTo: LegId | null;
}

export interface LegMediaOptions {
  readonly clock: Clock;
  readonly engine: MediaEngine;
  readonly policy: LegMediaPolicy;
  readonly digitRepeatMs: number;
  /** Where events of the port go; `key` names the command an event is the outcome of. */
  readonly tell: (fact: LegFact, key: string | null) => void;
  /** The port cannot be brought back. */
  readonly onLost: (error: GatewayError) => void;
  readonly record?: LegMediaRecord;
}

/** The leg commands that are for the port alone. */
export type MediaCommand = Exclude<
  LegCommand,
  { kind: 'ring' | 'answer' | 'reject' | 'hangup' | 'attach' }
>;

export class LegMedia {
  readonly #options: LegMediaOptions;
  readonly #engine: MediaEngine;
  readonly #policy: LegMediaPolicy;
  readonly #sessionId: string;
  #port: Port | null = null;
  #opening: Promise<Port> | null = null;
  #version: number;
  #localSdp: string;
  #isOffering: boolean;
  #agreed: NegotiatedMedia | null;
  #onHold: boolean;
  /** The offer that `#localSdp` answers: the same offer gets the same answer. */
  #answeredOffer = '';
  #bridgedTo: LegId | null;
  #lastDigit = { key: '', source: '', endedMs: Number.NEGATIVE_INFINITY };
  #isClosed = false;

  constructor(options: LegMediaOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#policy = options.policy;
    // RFC 8866 §5.2: numeric; unique is enough. 12 hex digits stay below 2^53.
    this.#sessionId =
      options.record?.sessionId ?? String(Number.parseInt(options.clock.randomHex(6), 16));
    this.#version = options.record?.version ?? 0;
    this.#localSdp = options.record?.localSdp ?? '';
    this.#isOffering = options.record?.isOffering ?? false;
    this.#agreed = options.record?.agreed ?? null;
    this.#onHold = options.record?.onHold ?? false;
    this.#bridgedTo = options.record?.bridgedTo ?? null;
  }

  get port(): Port | null {
    return this.#port;
  }

  /** The peer put us on hold (RFC 3264 §8.4). */
  get onHold(): boolean {
    return this.#onHold;
  }

  /** An offer of ours waits for its answer. */
  get isOffering(): boolean {
    return this.#isOffering;
  }

  record(): LegMediaRecord {
    return {
      port: this.#port?.toRecord() ?? null,
      sessionId: this.#sessionId,
      version: this.#version,
      localSdp: this.#localSdp,
      isOffering: this.#isOffering,
      agreed: this.#agreed,
      onHold: this.#onHold,
      bridgedTo: this.#bridgedTo,
    };
  }

  /** The port, made on first need. */
  open(near: PortRef | null = null): Promise<Port> {
    this.#opening ??= this.#make(near);
    return this.#opening;
  }

  /** Takes a port back that a former process of this node made. */
  async adopt(record: PortRecord): Promise<Port> {
    const port = await this.#engine.adoptPort(record);
    this.#attach(port);
    this.#opening = Promise.resolve(port);
    return port;
  }

  /** The answer to the peer's offer; the port speaks what was agreed once this resolves. */
  async answer(offer: string): Promise<string> {
    if (this.#answeredOffer === offer) return this.#localSdp;
    const port = await this.open();
    const { sdp, media } = this.#negotiate(offer, port);
    await this.#apply(port, media);
    this.#version += 1;
    this.#localSdp = sdp;
    this.#isOffering = false;
    this.#answeredOffer = offer;
    return sdp;
  }

  /** The INVITE is answered: its answer is not needed once more. */
  forgetAnswer(): void {
    this.#answeredOffer = '';
  }

  /** Our offer, for an INVITE or for the 2xx to one that had none. */
  async offer(near: PortRef | null = null): Promise<string> {
    const port = await this.open(near);
    const { sdp } = makeOffer({
      codecs: this.#policy.codecs,
      local: localOf(this.#address(port), port.rtpPort, port.rtcpPort),
      sessionId: this.#sessionId,
      version: this.#version,
      rtcpMux: false,
      ...(this.#agreed === null ? {} : { previous: this.#agreed }),
      ...(this.#localSdp === '' ? {} : { previousSdp: this.#localSdp }),
    });
    this.#version += 1;
    this.#localSdp = sdp;
    this.#isOffering = true;
    this.#answeredOffer = '';
    return sdp;
  }

  /**
   * Takes the peer's answer to our last offer. Early media and the final answer may both bring
   * one; each is applied, `isFinal` closes the offer.
   */
  async accept(answer: string, isFinal: boolean): Promise<void> {
    const port = await this.open();
    if (!this.#isOffering) throw new GatewayError('SDP_MALFORMED', { problem: 'no offer' });
    const media = acceptAnswer({
      offer: this.#localSdp,
      answer: parseSdp(answer),
      policy: this.#policy.remote,
    });
    await this.#apply(port, media);
    if (isFinal) this.#isOffering = false;
  }

  /** Carries out a command for the port. Before there is a port it is out of place. */
  async obey(command: MediaCommand): Promise<void> {
    const port = this.#port;
    if (port === null) throw new GatewayError('CALL_NOT_LIVE', { status: 'without audio' });
    switch (command.kind) {
      case 'play':
        return port.play({
          playId: command.playId,
          source: command.source,
          loop: command.loop,
        });
      case 'sendDigits': {
        const { playId, digits } = command;
        return port.play({ playId, source: { kind: 'digits', digits }, loop: 1 });
      }
      case 'stopPlay':
        return port.stop(command.playId);
      case 'record': {
        const { id: _id, kind: _kind, ...request } = command;
        return port.record(request);
      }
      case 'stopRecord':
        return port.stopRecord(command.recordId);
      case 'pauseRecord':
        return port.pauseRecord(command.recordId, command.paused);
      case 'bridge':
        await port.connect(command.peer);
        this.#bridgedTo = command.peerLegId;
        this.#options.tell({ kind: 'bridged', peerLegId: command.peerLegId }, command.id);
        return;
      case 'unbridge': {
        const peerLegId = this.#bridgedTo ?? '';
        this.#bridgedTo = null;
        await port.connect(null);
        this.#options.tell({ kind: 'unbridged', peerLegId }, command.id);
        return;
      }
      default:
        command satisfies never;
    }
  }

  /** A key, by whatever way. The same key by another way at the same time is the same key. */
  digit(key: string, durationMs: number, source: 'rfc4733' | 'inband' | 'info'): void {
    const last = this.#lastDigit;
    const endedMs = this.#options.clock.monotonicMs();
    // INFO comes at the press or after it, RFC 4733 events when the key is let go: compare spans.
    const gapMs = endedMs - durationMs - last.endedMs;
    if (last.key === key && last.source !== source && gapMs < this.#options.digitRepeatMs) return;
    this.#lastDigit = { key, source, endedMs };
    this.#options.tell({ kind: 'digit', key, durationMs, source }, null);
  }

  async stats(): Promise<PortStats | null> {
    return this.#port === null ? null : this.#port.stats();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    // A port that is still being made is closed by `#make` when it comes.
    await this.#port?.close();
  }

  async #make(near: PortRef | null): Promise<Port> {
    const port = await this.#engine.createPort(
      near === null ? { rtcpMux: false } : { rtcpMux: false, near },
    );
    if (this.#isClosed) {
      await port.close();
      throw new GatewayError('LEG_LOST');
    }
    this.#attach(port);
    return port;
  }

  #attach(port: Port): void {
    const { tell, onLost } = this.#options;
    this.#port = port;
    port.on('digit', ({ key, durationMs, source }) => this.digit(key, durationMs, source));
    port.on('playDone', (done) => tell({ kind: 'playDone', ...done }, `play ${done.playId}`));
    port.on('recordDone', (done) => {
      tell({ kind: 'recordDone', ...done }, `record ${done.recordId}`);
    });
    port.on('silent', ({ silentMs }) => tell({ kind: 'silent', silentMs }, null));
    port.on('active', () => tell({ kind: 'active' }, null));
    port.on('moved', ({ ref }) => tell({ kind: 'portMoved', port: ref }, null));
    port.on('lost', () => {
      onLost(new GatewayError('MEDIA_UNAVAILABLE', { problem: 'the port is lost' }));
    });
  }

  #negotiate(offer: string, port: Port): { sdp: string; media: NegotiatedMedia } {
    return answerOffer({
      offer: parseSdp(offer),
      codecs: this.#policy.codecs,
      local: localOf(this.#address(port), port.rtpPort, port.rtcpPort),
      sessionId: this.#sessionId,
      version: this.#version,
      policy: this.#policy.remote,
      rtcpMux: false,
      ...(this.#agreed === null ? {} : { previous: this.#agreed }),
    });
  }

  #address(port: Port): string {
    return this.#policy.advertiseAddress ?? port.address;
  }

  async #apply(port: Port, media: NegotiatedMedia): Promise<void> {
    this.#onHold = media.onHold;
    this.#agreed = media;
    await port.set(portSettings(media, this.#policy));
  }
}

function localOf(
  address: string,
  port: number,
  rtcpPort: number,
): { address: string; port: number; rtcpPort: number; family: 4 | 6 } {
  return { address, port, rtcpPort, family: isIPv6(address) ? 6 : 4 };
}

/** Throws when an offer could never be answered, before anything is made for it. */
export function checkOffer(offer: string, policy: LegMediaPolicy): void {
  answerOffer({
    offer: parseSdp(offer),
    codecs: policy.codecs,
    local: localOf('127.0.0.1', 9_000, 9_001),
    sessionId: '0',
    version: 0,
    policy: policy.remote,
  });
}

/** What was agreed, as the engine wants it told. */
function portSettings(media: NegotiatedMedia, policy: LegMediaPolicy): PortSettings {
  const maxBitrate = media.opus?.maxAverageBitrate ?? policy.opusBitrate;
  return {
    remote: {
      address: media.remote.address,
      port: media.remote.port,
      rtcpPort: media.remote.rtcpPort,
      rtcpMux: media.remote.rtcpMux,
    },
    codec: CODECS[media.codec].nativeId,
    payloadType: media.payloadType,
    receivePayloadType: media.receivePayloadType,
    ptimeMs: media.ptimeMs,
    dtmf: media.dtmf,
    direction: DIRECTIONS[media.direction],
    latch: LATCH[policy.latch],
    opus: {
      bitrate: Math.min(maxBitrate, policy.opusBitrate),
      complexity: policy.opusComplexity,
      fec: media.opus?.useInbandFec ?? false,
      dtx: media.opus?.dtx ?? false,
    },
    jitter: { minMs: policy.jitterMinMs, maxMs: policy.jitterMaxMs },
    silentTimeoutMs: policy.silentTimeoutMs,
    inbandDtmf: policy.inbandDtmf && media.dtmf === null,
  };
}
