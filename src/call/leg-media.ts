/**
 * The media half of a SIP leg: one port, and the session descriptions that say how to reach it and
 * what it speaks (RFC 3264 offer/answer as it applies to one audio stream). Holds what is needed
 * to answer again later: the origin's id and version, and what was agreed last. Not signaling: when
 * a description is sent, and in which message, is `sip-leg.ts`.
 */
import type { Clock } from '../core/clock.ts';
import { CODECS, type CodecName } from '../core/codec.ts';
import { GatewayError } from '../core/errors.ts';
import { DIRECTIONS, LATCH, type PortSettings, type PortStats } from '../media/binding.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Port, PortRecord, PortRef } from '../media/port.ts';
import { DEFAULT_MEDIA_POLICY, type MediaPolicy } from '../sdp/address.ts';
import {
  acceptAnswer,
  answerOffer,
  type LocalMedia,
  makeOffer,
  type NegotiatedMedia,
  offeredFamily,
} from '../sdp/offer-answer.ts';
import { parseSdp, type Sdp } from '../sdp/sdp.ts';
import type { LegCommand, LegFact, LegId } from './leg.ts';

/** What a leg may speak and whom it may send audio to. */
export interface LegMediaPolicy {
  /** In order of preference; all are offered. */
  readonly codecs: readonly CodecName[];
  /** Address written into SDP instead of a port's own of that family: the public one behind NAT. */
  readonly advertiseAddress: string | null;
  /** `media.address6`: for peers with IPv6 media where `media.address` is IPv4; null has none. */
  readonly address6: string | null;
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
  address6: null,
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

/** An offer that can be answered, as it was read and judged once. */
export interface CheckedOffer {
  readonly sdp: Sdp;
  readonly media: NegotiatedMedia;
}

export interface LegMediaOptions {
  readonly clock: Clock;
  /** Legs that may be bridged have one name for it: their ports are made in one worker. */
  readonly group: string;
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
  /** The peer has shown that it hears what we send it, so audio to it is no trap for others. */
  #isProven: boolean;
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
    // Who answered for a former process was heard by it: its ACK cannot be waited for again.
    this.#isProven = options.record !== undefined;
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

  /** Takes a port back that a former process of this node made. */
  async adopt(record: PortRecord): Promise<Port> {
    const port = await this.#engine.adoptPort(record);
    this.#attach(port);
    this.#opening = Promise.resolve(port);
    const { settings } = record;
    if (settings !== null) await port.set(withProof(settings, true));
    return port;
  }

  /** The answer to the INVITE's offer. A port that is made for it comes speaking what it says. */
  async answer(offered: CheckedOffer): Promise<string> {
    const { sdp: offer } = offered;
    if (this.#answeredOffer === offer.text) return this.#localSdp;
    const isNew = this.#opening === null;
    const settings = portSettings(offered.media, this.#policy, this.#isProven);
    const port = await this.#open({ near: null, family: offeredFamily(offer), settings });
    if (!isNew) await port.set(settings);
    return this.#answered(offer, this.#negotiate(offer, port));
  }

  /** The answer to a new offer within the call; the port speaks it once this resolves. */
  async answerAgain(text: string): Promise<string> {
    const offer = parseSdp(text);
    if (this.#answeredOffer === text) return this.#localSdp;
    const port = await this.#open({ near: null, family: offeredFamily(offer) });
    const result = this.#negotiate(offer, port);
    await port.set(portSettings(result.media, this.#policy, this.#isProven));
    return this.#answered(offer, result);
  }

  #answered(offer: Sdp, result: { sdp: string; media: NegotiatedMedia }): string {
    this.#agree(result.media);
    this.#version += 1;
    this.#localSdp = result.sdp;
    this.#isOffering = false;
    this.#answeredOffer = offer.text;
    return result.sdp;
  }

  /** The peer acknowledged our answer: it is where it says it is (RFC 3261 §13.3.1.4). */
  prove(): Promise<void> | void {
    const settings = this.#port?.toRecord().settings ?? null;
    if (this.#isProven) return;
    this.#isProven = true;
    if (settings !== null) return this.#port?.set(withProof(settings, true));
  }

  /** The INVITE is answered: its answer is not needed once more. */
  forgetAnswer(): void {
    this.#answeredOffer = '';
  }

  /**
   * Our offer, for an INVITE or for the 2xx to one that had none. `peer` is the address SIP goes
   * to: who is reached over IPv6 is offered IPv6 where we have it.
   */
  async offer(options: { readonly near: PortRef | null; readonly peer: string }): Promise<string> {
    const { near, peer } = options;
    const port = await this.#open({ near, family: this.#familyFor(peer) });
    const { sdp } = makeOffer({
      codecs: this.#policy.codecs,
      local: this.#local(port),
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
   * one; each is applied, `isFinal` closes the offer. Throws when it cannot be used; the promise
   * is for who must know that the port was told, commands that follow come after it anyway.
   */
  accept(answer: string, isFinal: boolean): Promise<void> {
    const port = this.#port;
    if (!this.#isOffering || port === null) {
      throw new GatewayError('SDP_MALFORMED', { problem: 'no offer' });
    }
    const media = acceptAnswer({
      offer: this.#localSdp,
      answer: parseSdp(answer),
      policy: this.#policy.remote,
    });
    this.#agree(media);
    if (isFinal) {
      this.#isOffering = false;
      this.#isProven = true;
    }
    return port.set(portSettings(media, this.#policy, this.#isProven));
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
        // Closing the other port parted the two already.
        if (port.isJoined) await port.connect(null);
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

  /** Resolves with the last figures of the port; null when there are none. */
  close(): Promise<PortStats | null> {
    // A port that is still being made is closed by `#make` when it comes.
    if (this.#isClosed || this.#port === null) {
      this.#isClosed = true;
      return Promise.resolve(null);
    }
    this.#isClosed = true;
    return this.#port.close();
  }

  /** The port, made on first need. */
  #open(wanted: WantedPort): Promise<Port> {
    this.#opening ??= this.#make(wanted);
    return this.#opening;
  }

  async #make({ near, family, settings }: WantedPort): Promise<Port> {
    const port = await this.#engine.createPort({
      rtcpMux: false,
      address: localAddress(family, this.#engine.address, this.#policy),
      group: this.#options.group,
      ...(near === null ? {} : { near }),
      ...(settings === undefined ? {} : { settings }),
    });
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

  #negotiate(offer: Sdp, port: Port): { sdp: string; media: NegotiatedMedia } {
    return answerOffer({
      offer,
      codecs: this.#policy.codecs,
      local: this.#local(port),
      sessionId: this.#sessionId,
      version: this.#version,
      policy: this.#policy.remote,
      rtcpMux: false,
      ...(this.#agreed === null ? {} : { previous: this.#agreed }),
    });
  }

  #local({ address, rtpPort: port, rtcpPort }: Port): LocalMedia {
    const family = familyOf(address);
    const advertised = this.#policy.advertiseAddress;
    const isOurs = advertised !== null && familyOf(advertised) === family;
    return { address: isOurs ? advertised : address, port, rtcpPort, family };
  }

  /** That of the address SIP goes to, when we have media of that family. */
  #familyFor(peer: string): 4 | 6 {
    const { address } = this.#engine;
    const own = familyOf(address);
    return hasAddress(familyOf(peer), address, this.#policy) ? familyOf(peer) : own;
  }

  #agree(media: NegotiatedMedia): void {
    this.#onHold = media.onHold;
    this.#agreed = media;
  }
}

interface WantedPort {
  readonly near: PortRef | null;
  readonly family: 4 | 6;
  readonly settings?: PortSettings;
}

function familyOf(address: string): 4 | 6 {
  // Addresses only, never names: a colon is enough to tell.
  return address.includes(':') ? 6 : 4;
}

function hasAddress(family: 4 | 6, main: string, policy: LegMediaPolicy): boolean {
  return familyOf(main) === family || (family === 6 && policy.address6 !== null);
}

/** Our address for media of a family; `main` is `media.address`. Throws SDP_REFUSED. */
function localAddress(family: 4 | 6, main: string, policy: LegMediaPolicy): string {
  if (familyOf(main) === family) return main;
  if (family === 6 && policy.address6 !== null) return policy.address6;
  throw new GatewayError('SDP_REFUSED', { problem: `there is no IPv${family} media here` });
}

/** Throws when an offer could never be answered, before anything is made for it. */
export function checkOffer(text: string, main: string, policy: LegMediaPolicy): CheckedOffer {
  const sdp = parseSdp(text);
  const family = offeredFamily(sdp);
  const { media } = answerOffer({
    offer: sdp,
    codecs: policy.codecs,
    // Ports that stand for those of the answer: nothing of theirs is in `media`.
    local: { address: localAddress(family, main, policy), family, port: 9_000, rtcpPort: 9_001 },
    sessionId: '0',
    version: 0,
    policy: policy.remote,
    rtcpMux: false,
  });
  return { sdp, media };
}

function withProof(settings: PortSettings, proven: boolean): PortSettings {
  return { ...settings, proven };
}

/** What was agreed, as the engine wants it told. */
function portSettings(
  media: NegotiatedMedia,
  policy: LegMediaPolicy,
  isProven: boolean,
): PortSettings {
  const maxBitrate = media.opus?.maxAverageBitrate ?? policy.opusBitrate;
  const settings: PortSettings = {
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
  return withProof(settings, isProven);
}
