/**
 * The media half of a SIP leg: one port, and the session descriptions that say how to reach it and
 * what it speaks (RFC 3264 offer/answer as it applies to one audio stream). Holds what is needed
 * to answer again later: the origin's id and version, and what was agreed last. Not signaling: when
 * a description is sent, and in which message, is `sip-leg.ts`.
 */
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { PortSettings, PortStats } from '../media/binding.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Port, PortRecord, PortRef } from '../media/port.ts';
import {
  acceptAnswer,
  type JudgedOffer,
  type LocalMedia,
  makeOffer,
  type NegotiatedMedia,
  type OwnOffer,
  offeredFamily,
  writeAnswer,
} from '../sdp/offer-answer.ts';
import { parseSdp } from '../sdp/sdp.ts';
import { srtpRefusal } from '../sdp/security.ts';
import { InfoDigits } from './info-digits.ts';
import type { LegId } from './leg.ts';
import type { LegMediaOptions, LegMediaRecord, MediaCommand } from './leg-media-options.ts';
import {
  familyOf,
  hasAddress,
  hasEvents,
  judge,
  type LegMediaPolicy,
  localAddress,
  portSettings,
  type TrunkTerms,
  termsOf,
} from './media-terms.ts';

export class LegMedia {
  readonly #options: LegMediaOptions;
  readonly #engine: MediaEngine;
  #policy: LegMediaPolicy;
  readonly #sessionId: string;
  #port: Port | null = null;
  #opening: Promise<Port> | null = null;
  /** The peer has shown that it hears what we send it, so audio to it is no trap for others. */
  #isProven: boolean;
  #version: number;
  #localSdp: string;
  /** It has m= lines beside ours, whose places later ones must keep (RFC 3264 §8). */
  #hasOtherLines: boolean;
  /** The offer of ours that waits for its answer, as it was made. */
  #ownOffer: OwnOffer | null = null;
  #isOffering: boolean;
  #agreed: NegotiatedMedia | null;
  #onHold: boolean;
  /** The offer that `#localSdp` answers: the same offer gets the same answer. */
  #answeredOffer = '';
  /** Before the answer: the last one that was accepted, and whether an UPDATE came after it. */
  #accepted = NOTHING;
  #bridgedTo: LegId | null;
  /** A port that the peer was asked to talk to instead. */
  #move: Move | null = null;
  #keys: InfoDigits | null = null;
  #lastDigit = { key: '', source: '', endedMs: Number.NEGATIVE_INFINITY };
  #isClosed = false;

  constructor(options: LegMediaOptions) {
    const { clock, engine, policy, record } = options;
    this.#options = options;
    this.#engine = engine;
    this.#policy = policy;
    // RFC 8866 §5.2: numeric; unique is enough.
    this.#sessionId = record?.sessionId ?? String(Math.floor(clock.random() * 2 ** 48));
    this.#version = record?.version ?? 0;
    this.#localSdp = record?.localSdp ?? '';
    this.#hasOtherLines = this.#localSdp !== '';
    this.#isOffering = record?.isOffering ?? false;
    this.#agreed = record?.agreed ?? null;
    this.#onHold = record?.onHold ?? false;
    this.#bridgedTo = record?.bridgedTo ?? null;
    // Who answered for a former process was heard by it: its ACK cannot be waited for again.
    this.#isProven = record !== null;
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

  /** How its trunk wants it, from now on. */
  useTerms(trunk: TrunkTerms): void {
    this.#policy = termsOf(this.#options.policy, trunk);
  }

  record(): LegMediaRecord {
    const port = this.#port?.toRecord() ?? null;
    return {
      port: port && { ...port, settings: null },
      sessionId: this.#sessionId,
      version: this.#version,
      localSdp: this.#isOffering || this.#hasOtherLines ? this.#localSdp : '',
      isOffering: this.#isOffering,
      agreed: this.#agreed,
      onHold: this.#onHold,
      bridgedTo: this.#bridgedTo,
    };
  }

  /** Takes a port back that a former process of this node made. */
  async adopt(record: PortRecord): Promise<Port> {
    const settings = this.#agreed && this.#settings(this.#agreed);
    const port = await this.#engine.adoptPort({ ...record, settings });
    this.#attach(port);
    this.#opening = Promise.resolve(port);
    if (settings !== null) await port.set(settings);
    return port;
  }

  /** The answer to the INVITE's offer. A port that is made for it comes speaking what it says. */
  async answer(judged: JudgedOffer): Promise<string> {
    const { offer, media } = judged;
    if (this.#answeredOffer === offer.text) return this.#localSdp;
    const isNew = this.#opening === null;
    const settings = this.#settings(media);
    const port = await this.#open({ near: null, family: offeredFamily(offer), settings });
    if (!isNew) await port.set(settings);
    return this.#answered(judged, port);
  }

  /** The answer to a new offer within the call; the port speaks it once this resolves. */
  async answerAgain(text: string): Promise<string> {
    const offer = parseSdp(text);
    if (this.#answeredOffer === text) return this.#localSdp;
    const port = await this.#open({ near: null, family: offeredFamily(offer) });
    const judged = judge(offer, familyOf(port.address), this.#policy, this.#agreed);
    await port.set(this.#settings(judged.media));
    this.#accepted = { ...this.#accepted, isOvertaken: true };
    return this.#answered(judged, port);
  }

  #answered(judged: JudgedOffer, port: Port): string {
    const origin = this.#origin(port);
    // RFC 3264 §8: what says the same as before has the same version, as refreshes do.
    const same = writeAnswer(judged, { ...origin, version: this.#version - 1 });
    const sdp = same === this.#localSdp ? same : writeAnswer(judged, origin);
    this.#agree(judged.media);
    if (sdp !== same) this.#version += 1;
    this.#localSdp = sdp;
    this.#hasOtherLines = judged.offer.media.length > 1;
    this.#isOffering = false;
    this.#answeredOffer = judged.offer.text;
    return sdp;
  }

  /** The peer acknowledged our answer: it is where it says it is (RFC 3261 §13.3.1.4). */
  prove(): Promise<void> | void {
    if (this.#isProven) return;
    this.#isProven = true;
    if (this.#agreed !== null) return this.#port?.set(this.#settings(this.#agreed));
  }

  /** The INVITE is answered: its answer is not needed once more. */
  forgetAnswer(): void {
    this.#answeredOffer = '';
    this.#accepted = NOTHING;
    if (!this.#isOffering) this.#ownOffer = null;
  }

  /**
   * Our offer, for an INVITE or for the 2xx to one that had none. `peer` is the address SIP goes
   * to: who is reached over IPv6 is offered IPv6 where we have it.
   */
  async offer(options: { readonly near: PortRef | null; readonly peer: string }): Promise<string> {
    const { near, peer } = options;
    // Nothing may go out in the clear that must not, whoever forgot to ask before.
    const refusal = srtpRefusal(null, this.#policy.trunk.srtp);
    if (refusal !== null) throw refusal;
    const port = await this.#open({ near, family: this.#familyFor(peer) });
    const offer = this.#makeOffer(port);
    this.#ownOffer = offer;
    this.#localSdp = offer.sdp;
    this.#isOffering = true;
    this.#answeredOffer = '';
    return offer.sdp;
  }

  #makeOffer(port: Port): OwnOffer {
    const offer = makeOffer({
      ...this.#origin(port),
      codecs: this.#policy.codecs,
      events: hasEvents(this.#policy),
      ptimeMs: this.#policy.trunk.ptimeMs,
      rtcpMux: this.#policy.rtcpMux,
      ...(this.#agreed === null ? {} : { previous: this.#agreed }),
      ...(this.#localSdp === '' ? {} : { previousSdp: this.#localSdp }),
    });
    this.#version += 1;
    return offer;
  }

  /**
   * Makes a port beside `near` and the offer that says so; null when ours is there already. What
   * is agreed stands until `endMove`. `id` is the command whose outcome is told.
   */
  async beginMove(id: string, near: PortRef): Promise<string | null> {
    const port = this.#port;
    if (port === null || this.#agreed === null) throw withoutAudio();
    if (port.ref.worker === near.worker) {
      this.#options.tell({ kind: 'portMoved', port: port.ref }, id);
      return null;
    }
    // RFC 3264 §4: one offer at a time.
    if (this.#move !== null || this.#isOffering) throw new GatewayError('SIP_GLARE');
    // Silent until it is agreed to: two sources at once are noise to the peer.
    const made = await this.#make({ near, address: port.address });
    const offer = this.#makeOffer(made);
    this.#move = { id, port: made, offer };
    return offer.sdp;
  }

  /** The offer is that of an open move. */
  isMove(offer: string): boolean {
    return this.#move?.offer.sdp === offer;
  }

  /** The peer answered it: its port is ours from here on, with all that the former one did. */
  async endMove(answer: string): Promise<void> {
    const move = this.#move;
    const former = this.#port;
    if (move === null || former === null) return;
    const media = this.#read(move.offer, answer);
    this.#move = null;
    this.#agree(media);
    this.#localSdp = move.offer.sdp;
    this.#attach(move.port);
    this.#opening = Promise.resolve(move.port);
    try {
      await move.port.takeOver(former, this.#settings(media));
    } catch (thrown) {
      this.#options.onLost(asGatewayError(thrown));
      return;
    }
    this.#options.tell({ kind: 'portMoved', port: move.port.ref }, move.id);
  }

  /** It came to nothing: what was agreed stands. */
  dropMove({ code, details }: Pick<GatewayError, 'code' | 'details'>): void {
    const move = this.#move;
    if (move === null) return;
    this.#move = null;
    void move.port.close();
    this.#options.tell({ kind: 'commandFailed', id: move.id, code, details }, move.id);
  }

  /** What stands, for a peer that was told otherwise. */
  offerAgain(): string {
    if (this.#port === null) throw withoutAudio();
    return this.#makeOffer(this.#port).sdp;
  }

  /**
   * Takes the peer's answer to our last offer. Early media and the final answer may both bring
   * one; each is applied, `isFinal` closes the offer. Throws when it cannot be used; the promise
   * is for who must know that the port was told, commands that follow come after it anyway.
   */
  accept(answer: string, isFinal: boolean): Promise<void> {
    const port = this.#port;
    if ((!this.#isOffering && this.#ownOffer === null) || port === null) {
      throw new GatewayError('SDP_MALFORMED', { problem: 'no offer' });
    }
    // The dialog that gave this answer has changed it by UPDATE since: that is what holds.
    const isKnown = this.#accepted.isOvertaken && this.#accepted.answer === answer;
    const media = (isKnown && this.#agreed) || this.#read(this.#ownOffer ?? this.#localSdp, answer);
    if (!isKnown) this.#accepted = { answer, isOvertaken: false };
    this.#agree(media);
    if (isFinal) {
      this.#ownOffer = null;
      this.#isOffering = false;
      this.#isProven = true;
    }
    return port.set(this.#settings(media));
  }

  /** The answer to an offer that was sent within the call: a new one, or the one that stands. */
  async acceptAgain(offer: string, answer: string): Promise<void> {
    const media = this.#read(offer, answer);
    const isSame = JSON.stringify(media) === JSON.stringify(this.#agreed);
    this.#agree(media);
    this.#isOffering = false;
    if (!isSame) await this.#port?.set(this.#settings(media));
  }

  #read(offer: OwnOffer | string, answer: string): NegotiatedMedia {
    const { remote: policy, trunk } = this.#policy;
    const { ptimeMs } = trunk;
    return acceptAnswer({ offer, answer: parseSdp(answer), policy, ptimeMs });
  }

  /** Carries out a command for the port. Before there is a port it is out of place. */
  async obey(command: MediaCommand): Promise<void> {
    const port = this.#port;
    if (port === null) throw withoutAudio();
    switch (command.kind) {
      case 'play': {
        const { playId, source, loop } = command;
        return port.play({ playId, source, loop });
      }
      case 'sendDigits': {
        const { playId, digits } = command;
        if (this.#policy.trunk.dtmf === 'info') return this.#infoDigits().send(playId, digits);
        return port.play({ playId, source: { kind: 'digits', digits }, loop: 1 });
      }
      case 'stopPlay':
        return this.#keys?.stop(command.playId) === true ? undefined : port.stop(command.playId);
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

  #infoDigits(): InfoDigits {
    const { clock, sendInfo: send, tell } = this.#options;
    this.#keys ??= new InfoDigits({
      ...{ clock, send },
      tell: (playId, reason, playedMs) => {
        tell({ kind: 'playDone', playId, reason, playedMs }, `play ${playId}`);
      },
    });
    return this.#keys;
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
    this.#keys?.close();
    void this.#move?.port.close();
    this.#move = null;
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
    this.#opening ??= this.#begin(wanted);
    return this.#opening;
  }

  async #begin({ near, family, settings }: WantedPort): Promise<Port> {
    const { group } = this.#options;
    const address = localAddress(family, this.#engine.address, this.#policy);
    const port = await this.#make({ near, address, group, ...(settings && { settings }) });
    this.#attach(port);
    return port;
  }

  async #make(wanted: Omit<WantedPort, 'family'> & { address: string; group?: string }) {
    const { near, ...request } = wanted;
    // Who it is to be joined with has hung up: nobody's fault, and nobody to call for.
    if (near !== null && !this.#engine.has(near)) throw new GatewayError('CALL_CANCELED');
    const port = await this.#engine.createPort({
      // With a socket of its own for RTCP, should the peer not take it on the other.
      rtcpMux: false,
      ...request,
      ...(near === null ? {} : { near }),
    });
    if (this.#isClosed) {
      await port.close();
      throw new GatewayError('LEG_LOST');
    }
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

  #origin(port: Port): { local: LocalMedia; sessionId: string; version: number } {
    return { local: this.#local(port), sessionId: this.#sessionId, version: this.#version };
  }

  #settings(media: NegotiatedMedia): PortSettings {
    return portSettings(media, this.#policy, this.#isProven);
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

function withoutAudio(): GatewayError {
  return new GatewayError('CALL_NOT_LIVE', { status: 'without audio' });
}

interface Move {
  readonly id: string;
  readonly port: Port;
  readonly offer: OwnOffer;
}

const NOTHING = { answer: '', isOvertaken: false };

interface WantedPort {
  readonly near: PortRef | null;
  readonly family: 4 | 6;
  readonly settings?: PortSettings;
}
