/**
 * Offer and answer of a leg as SIP carries them (RFC 3264; RFC 3261 §13.2.1, §14; RFC 3262 §5;
 * RFC 3311): which description goes out with which word, and what one that came in means. Between
 * the session, which knows messages, and `leg-media.ts`, which knows descriptions and the port.
 */
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { CallSid } from '../core/sid.ts';
import type { PortRef } from '../media/port.ts';
import type { JudgedOffer } from '../sdp/offer-answer.ts';
import type { HeaderField, SipMessage } from '../sip/message.ts';
import type { Offer, Session, SessionEvents } from '../sip/session.ts';
import type { LegMedia } from './leg-media.ts';

/** The leg whose offers they are. */
export interface LegOffersOwner {
  readonly callSid: CallSid;
  readonly phase: 'early' | 'answered' | 'ended';
  readonly isEnding: boolean;
  rings(sipStatus: number, earlyMedia: boolean): void;
  /** Audio can flow in both directions. */
  answered(): void;
  fail(thrown: unknown): void;
  /** One after another; what `work` throws ends the leg. */
  queue(work: () => Promise<void> | void): void;
  onHoldChanged(onHold: boolean): void;
  onAgreed(): void;
}

export class LegOffers {
  readonly #owner: LegOffersOwner;
  readonly #media: LegMedia;
  readonly #log: Log;
  /** The offer of the INVITE, null when it had none; dropped once answered. */
  #offer: JudgedOffer | null = null;
  /** Who called is known well enough to be sent audio that nobody has acknowledged. */
  #mayHearEarly = false;
  /** The 2xx was asked for; the answer to an offer of ours has not come. */
  #isAnswering = false;

  constructor(options: { owner: LegOffersOwner; media: LegMedia; log: Log }) {
    this.#owner = options.owner;
    this.#media = options.media;
    this.#log = options.log;
  }

  /** Listens to what is offered and answered in a dialog. */
  attach(session: Session): void {
    const owner = this.#owner;
    session.on('offer', (offer) => owner.queue(() => this.#onOffer(offer, session)));
    session.on('acknowledged', ({ sdp }) => owner.queue(() => this.#onAcknowledged(sdp)));
    session.on('earlyAnswer', ({ sdp }) => owner.queue(() => this.#onEarlyAnswer(sdp)));
    session.on('reoffered', (answer) => owner.queue(() => this.#onReoffered(answer, session)));
    session.on('reofferFailed', (failed) => {
      owner.queue(() => this.#onReofferFailed(failed, session));
    });
  }

  /** What the INVITE of an inbound leg offers. */
  begin(offer: JudgedOffer | null, mayHearEarly: boolean): void {
    this.#offer = offer;
    this.#mayHearEarly = mayHearEarly;
  }

  /** The leg is answered: nothing of its beginning is asked for again. */
  settle(): void {
    this.#offer = null;
    this.#media.forgetAnswer();
  }

  /** Everything that is said before the answer. With audio where the INVITE lets us. */
  ring(session: Session, earlyMedia: boolean): Promise<void> | void {
    const { earlyOffer } = session;
    if (this.#offer !== null && earlyMedia) return this.#ringWithAudio(session, this.#offer);
    // RFC 3261 §13.2.1: without an offer, ours may go first where PRACK can bring the answer; and
    // has to where everything must be reliable.
    if (earlyOffer === 'must' || (earlyOffer === 'may' && earlyMedia)) {
      return this.#ringWithOffer(session, earlyMedia);
    }
    session.progress(180);
    this.#owner.rings(180, false);
  }

  async #ringWithAudio(session: Session, offer: JudgedOffer): Promise<void> {
    if (this.#mayHearEarly) await this.#media.prove();
    const sdp = await this.#answerInvite(offer);
    if (this.#owner.isEnding) return;
    session.progress(183, { sdp, headers: earlyMediaFields(session.request) });
    this.#owner.rings(183, true);
  }

  async #ringWithOffer(session: Session, earlyMedia: boolean): Promise<void> {
    const sdp = await this.#media.offer(offerTo(session));
    if (this.#owner.isEnding) return;
    const status = earlyMedia ? 183 : 180;
    session.progress(status, { sdp, headers: earlyMediaFields(session.request) });
    this.#owner.rings(status, earlyMedia);
  }

  async answer(session: Session): Promise<void> {
    const offer = this.#offer;
    if (session.hasDescribed) {
      // Our description went out for good; the 2xx follows when the session has its PRACK.
      session.accept('');
      if (this.#media.isOffering) this.#isAnswering = true;
      else this.#owner.answered();
      return;
    }
    const sdp = await (offer === null
      ? this.#media.offer(offerTo(session))
      : this.#answerInvite(offer));
    if (this.#owner.isEnding) return;
    session.accept(sdp);
    if (offer === null) this.#isAnswering = true;
    else this.#owner.answered();
  }

  /** Our description for an INVITE that takes over a dialog: its offer answered, or one of ours. */
  answerNew(session: Session): Promise<string> {
    if (session.offer !== '') return this.#media.answerAgain(session.offer);
    if (this.#owner.phase === 'early') this.#isAnswering = true;
    return this.#media.offer(offerTo(session));
  }

  /** The answer to the INVITE's offer. One that cannot be given refuses the INVITE. */
  async #answerInvite(offer: JudgedOffer): Promise<string> {
    try {
      return await this.#media.answer(offer);
    } catch (thrown) {
      this.#owner.fail(thrown);
      throw thrown;
    }
  }

  /** PRACK brought the answer to our offer (RFC 3262 §5). */
  async #onEarlyAnswer(sdp: string): Promise<void> {
    if (this.#owner.phase !== 'early' || !this.#media.isOffering) return;
    await this.#media.accept(sdp, true);
    if (this.#isAnswering) this.#owner.answered();
  }

  /** An ACK. It brings the answer when the offer was ours (RFC 3261 §13.2.2.4, §14.1). */
  #onAcknowledged(sdp: string | null): Promise<void> | void {
    if (this.#owner.phase === 'ended') return;
    this.#owner.onAgreed();
    return this.#media.isOffering ? this.#onLateAnswer(sdp ?? '') : this.#media.prove();
  }

  async #onLateAnswer(sdp: string): Promise<void> {
    if (this.#owner.phase === 'early') {
      await this.#media.accept(sdp, true);
      this.#owner.answered();
      return;
    }
    await this.#change('answer in ACK not usable', () => this.#media.accept(sdp, true));
  }

  /** The peer offers anew: hold, resume, another address or codec. A bridge stays as it is. */
  async #onOffer(offer: Offer, session: Session): Promise<void> {
    if (this.#owner.phase === 'ended') return;
    try {
      // RFC 3261 §14.2: one without a description asks us to offer; the answer is in the ACK.
      await this.#change('', async () => {
        if (offer.sdp === '') offer.answer(await this.#media.offer(offerTo(session)));
        else offer.answer(await this.#media.answerAgain(offer.sdp));
      });
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#log.info({ callSid: this.#owner.callSid, code: error.code }, 'new offer refused');
      offer.refuse(error.row.sip, error.message);
    }
  }

  /**
   * Asks the peer to talk to a port in another worker (RFC 3261 §14.1). Not waited for: an offer of
   * the peer's that is in the way has to be answered meanwhile.
   */
  async move(session: Session | null, id: string, near: PortRef): Promise<void> {
    if (session?.state !== 'confirmed') {
      throw new GatewayError('CALL_NOT_LIVE', { status: 'not answered' });
    }
    const sdp = await this.#media.beginMove(id, near);
    if (sdp !== null && !this.#owner.isEnding) session.reoffer(sdp);
  }

  async #onMoved(answer: string, session: Session): Promise<void> {
    try {
      await this.#change('', () => this.#media.endMove(answer));
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#log.info({ callSid: this.#owner.callSid, code: error.code }, 'port not moved');
      this.#media.dropMove(error);
      // It said yes, and may send there by now.
      session.reoffer(this.#media.offerAgain());
    }
  }

  /** The peer will not have an offer of ours, or cannot be asked. */
  #onReofferFailed(failed: SessionEvents['reofferFailed'][0], { state }: Session): void {
    if (this.#owner.phase === 'ended') return;
    const { callSid } = this.#owner;
    // Of a dialog that ends, or whose place another one took, its end says nothing of the offer.
    const code = state === 'terminated' ? 'SIP_NO_DIALOG' : failed.code;
    const { status } = failed;
    this.#log.info({ callSid, code, status }, 'offer of ours refused');
    this.#media.dropMove(new GatewayError(code, { status, reason: '' }));
  }

  /** The peer answered an offer of ours within the call, or the one that stands, sent again. */
  #onReoffered(
    { sdp, offer }: SessionEvents['reoffered'][0],
    session: Session,
  ): Promise<void> | void {
    if (this.#owner.phase === 'ended') return;
    if (this.#media.isMove(offer)) return this.#onMoved(sdp, session);
    return this.#change('answer to our offer not usable', () => {
      return this.#media.acceptAgain(offer, sdp);
    });
  }

  /** Tells when hold began or ended by it. What fails leaves what was agreed (RFC 3261 §14.1). */
  async #change(failure: string, change: () => Promise<void>): Promise<void> {
    const wasOnHold = this.#media.onHold;
    try {
      await change();
    } catch (thrown) {
      if (failure === '') throw thrown;
      const { code } = asGatewayError(thrown);
      this.#log.info({ callSid: this.#owner.callSid, code }, failure);
    }
    const { onHold } = this.#media;
    if (onHold !== wasOnHold) this.#owner.onHoldChanged(onHold);
    this.#owner.onAgreed();
  }
}

/**
 * RFC 5009 §5.2: who says that he knows the field is told in which direction audio may flow before
 * the answer; the caller only listens. Nobody else is (§8).
 */
function earlyMediaFields(invite: SipMessage | null): HeaderField[] {
  const words = invite?.list('P-Early-Media') ?? [];
  const isKnown = words.some((word) => word.toLowerCase() === 'supported');
  return isKnown ? [['P-Early-Media', 'sendonly']] : [];
}

function offerTo(session: Session): { near: null; peer: string } {
  return { near: null, peer: session.source.address };
}
