/**
 * A SIP leg: one dialog (RFC 3261 §12–15) and one media port, driven by leg commands and speaking
 * leg events (`leg.ts`). Knows nothing of calls, routes or verbs. Offers and answers: `leg-media.ts`,
 * numbers of events: `leg-outbox.ts`, outgoing legs: `leg-placing.ts`. An error in a command is an
 * event; an error of ours ends this leg.
 */
import type { Bus, Subscription } from '../bus/bus.ts';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { CallSid } from '../core/sid.ts';
import type { PortStats } from '../media/binding.ts';
import type { MediaEngine } from '../media/engine.ts';
import type { Port } from '../media/port.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { HeaderField } from '../sip/message.ts';
import type { Session, SessionEnd, SessionEvents, SessionRecord } from '../sip/session.ts';
import type { Journal } from './journal.ts';
import { type LegCommand, type LegFact, type LegId, legSubject, type SipHeaders } from './leg.ts';
import {
  type CheckedOffer,
  LegMedia,
  type LegMediaPolicy,
  type LegMediaRecord,
} from './leg-media.ts';
import { LegOutbox, type OutboxRecord } from './leg-outbox.ts';
import { LegQueue } from './leg-queue.ts';
import {
  applicationHeaders,
  causeOf,
  localEnd,
  refusalHeaders,
  refusalStatus,
} from './leg-signal.ts';

export interface LegOptions {
  readonly eventsKeptMax: number;
  readonly commandsSeenMax: number;
  /** Commands and session events of one leg that wait for their turn. */
  readonly queueDepthMax: number;
  /** How long an ended leg still repeats its last events to a call that comes back. */
  readonly lingerMs: number;
  /** A key heard twice, in different ways, within this time is one key. */
  readonly digitRepeatMs: number;
  /** Header fields kept for the application, and the length of each. */
  readonly headersMax: number;
  readonly headerCharsMax: number;
}

export const DEFAULT_LEG_OPTIONS: LegOptions = {
  eventsKeptMax: 64,
  commandsSeenMax: 32,
  queueDepthMax: 128,
  lingerMs: 10_000,
  digitRepeatMs: 400,
  headersMax: 32,
  headerCharsMax: 1024,
};

export interface LegDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly bus: Bus;
  readonly journal: Journal;
  readonly endpoint: Endpoint;
  readonly engine: MediaEngine;
  readonly media: LegMediaPolicy;
  readonly options: LegOptions;
  /** The leg is over and nobody will ask for it again. */
  readonly onClosed: (leg: SipLeg) => void;
}

export type LegPhase = 'early' | 'answered' | 'ended';

/** A leg as plain data: everything `restore` needs. */
export interface LegRecord {
  readonly legId: LegId;
  readonly callSid: CallSid;
  readonly direction: 'in' | 'out';
  readonly phase: LegPhase;
  readonly session: SessionRecord | null;
  readonly media: LegMediaRecord;
  readonly outbox: OutboxRecord;
  readonly sipHeaders: SipHeaders;
}

export class SipLeg {
  readonly legId: LegId;
  readonly callSid: CallSid;
  readonly direction: 'in' | 'out';
  readonly media: LegMedia;
  readonly #deps: LegDeps;
  readonly #outbox: LegOutbox;
  readonly #queue: LegQueue;
  readonly #journalKey: string;
  readonly #commands: Subscription;
  #phase: LegPhase = 'early';
  #session: Session | null = null;
  #sipHeaders: SipHeaders = {};
  /** The offer of the INVITE, null when it had none; dropped once answered. */
  #offer: CheckedOffer | null = null;
  /** Why we end it, when we do. */
  #endCode: ErrorCode | null = null;
  #earlyMedia = false;
  #linger: Timer | null = null;

  constructor(
    options: {
      legId: LegId;
      callSid: CallSid;
      direction: 'in' | 'out';
      /** See `LegOrder`; an inbound leg begins one of its own. */
      group: CallSid;
      mediaRecord?: LegMediaRecord;
      outbox?: OutboxRecord;
    },
    deps: LegDeps,
  ) {
    const { clock, engine, bus } = deps;
    const { legId, callSid, direction, group, mediaRecord, outbox } = options;
    this.legId = legId;
    this.callSid = callSid;
    this.direction = direction;
    this.#deps = deps;
    const { eventsKeptMax, commandsSeenMax, queueDepthMax } = deps.options;
    this.#outbox = new LegOutbox(
      { clock, bus, legId, callSid, eventsKeptMax, commandsSeenMax },
      outbox,
    );
    this.#queue = new LegQueue({ depthMax: queueDepthMax });
    this.#journalKey = `leg.${legId}`;
    this.media = new LegMedia({
      clock,
      group,
      engine,
      policy: deps.media,
      digitRepeatMs: deps.options.digitRepeatMs,
      tell: (fact, key) => this.#emit(fact, key),
      onLost: (error) => this.fail(error),
      ...(mediaRecord === undefined ? {} : { record: mediaRecord }),
    });
    this.#commands = bus.subscribe(legSubject(legId), (command) => this.#onCommand(command));
  }

  /** A leg for an INVITE that was admitted. `ended` when it was cancelled meanwhile. */
  static inbound(
    options: {
      legId: LegId;
      callSid: CallSid;
      session: Session;
      /** The INVITE's description, null when it has none. */
      offer: CheckedOffer | null;
      sipHeaders: SipHeaders;
      ended: SessionEnd | null;
    },
    deps: LegDeps,
  ): SipLeg {
    const { legId, callSid, session, ended, offer, sipHeaders } = options;
    const leg = new SipLeg({ legId, callSid, direction: 'in', group: callSid }, deps);
    leg.#offer = offer;
    leg.#sipHeaders = sipHeaders;
    leg.attachSession(session);
    leg.#emit({ kind: 'offered', earlyOffer: offer !== null });
    if (ended !== null) leg.#onSessionEnd(ended);
    return leg;
  }

  /** A leg brought back from its record: dialog and port are taken up where they were. */
  static async restore(record: LegRecord, deps: LegDeps): Promise<SipLeg> {
    const { legId, callSid, direction, media, outbox } = record;
    const group = callSid;
    const leg = new SipLeg({ legId, callSid, direction, group, mediaRecord: media, outbox }, deps);
    leg.#phase = record.phase;
    leg.#sipHeaders = record.sipHeaders;
    if (record.phase === 'ended') {
      leg.#startLinger();
      return leg;
    }
    try {
      if (record.phase !== 'answered' || record.session === null || media.port === null) {
        throw new GatewayError('LEG_LOST');
      }
      leg.attachSession(deps.endpoint.restore(record.session));
      await leg.media.adopt(media.port);
      leg.#changed();
    } catch (thrown) {
      leg.fail(thrown);
    }
    return leg;
  }

  get phase(): LegPhase {
    return this.#phase;
  }

  /** Somebody told it to end before it could; placing stops at the next step. */
  get isEnding(): boolean {
    return this.#endCode !== null || this.#phase === 'ended';
  }

  snapshot(): LegRecord {
    return {
      legId: this.legId,
      callSid: this.callSid,
      direction: this.direction,
      phase: this.#phase,
      // Before the answer there is no dialog that could be taken up again.
      session: this.#phase === 'answered' ? (this.#session?.record() ?? null) : null,
      media: this.media.record(),
      outbox: this.#outbox.record(),
      sipHeaders: this.#sipHeaders,
    };
  }

  /** Runs `work` in the leg's queue; what it throws ends the leg. */
  queue(work: () => Promise<void> | void): void {
    this.#queue.run(work, this.#onFailed);
  }
  readonly #onFailed = (thrown: unknown): void => this.fail(thrown);

  // --- Session --------------------------------------------------------------------------------

  /** Listens to a dialog; on outgoing legs called once per try. */
  attachSession(session: Session): void {
    this.#session = session;
    session.on('offer', (offer) => this.queue(() => this.#onReoffer(offer)));
    session.on('acknowledged', ({ sdp }) => this.queue(() => this.#onAcknowledged(sdp)));
    session.on('digit', ({ key, durationMs }) => this.media.digit(key, durationMs, 'info'));
    session.on('changed', () => this.#changed());
    // While an outgoing leg is being placed its end may mean the next try: `leg-placing.ts` hears.
    if (this.direction === 'in' || this.#phase === 'answered') {
      session.on('ended', (end) => this.#onSessionEnd(end));
    }
    this.#changed();
  }

  /** A try of an outgoing leg failed and another follows. */
  betweenSessions(): void {
    this.#session = null;
  }

  rings(sipStatus: number, earlyMedia: boolean): void {
    this.#earlyMedia ||= earlyMedia;
    this.#emit({ kind: 'ringing', sipStatus, earlyMedia: this.#earlyMedia }, 'ring');
  }

  /** Audio can flow in both directions: the leg is answered, whoever answered. */
  answered(headers: Iterable<HeaderField>): void {
    const { port } = this.media;
    if (port === null || this.#phase !== 'early') return;
    this.#phase = 'answered';
    this.#offer = null;
    this.media.forgetAnswer();
    if (this.direction === 'out') {
      this.#sipHeaders = applicationHeaders(headers, this.#deps.options);
    }
    this.#emit(this.#answeredFact(port), 'answer');
  }

  #answeredFact(port: Port): LegFact {
    return {
      kind: 'answered',
      port: port.ref,
      sipCallId: this.#session?.callId ?? '',
      sipHeaders: this.#sipHeaders,
    };
  }

  /** The peer offers anew: hold, resume, another address or codec. A bridge stays as it is. */
  async #onReoffer(offer: SessionEvents['offer'][0]): Promise<void> {
    if (this.#phase === 'ended') return;
    const wasOnHold = this.media.onHold;
    try {
      // RFC 3261 §14.2: one without a description asks us to offer; the answer is in the ACK.
      if (offer.sdp === '') offer.answer(await this.media.offer(this.#offerTo()));
      else offer.answer(await this.media.answerAgain(offer.sdp));
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#deps.log.info({ callSid: this.callSid, code: error.code }, 'new offer refused');
      offer.refuse(error.row.sip, error.message);
    }
    this.#tellHold(wasOnHold);
    this.#changed();
  }

  /** An ACK. It brings the answer when the offer was ours (RFC 3261 §13.2.2.4, §14.1). */
  #onAcknowledged(sdp: string | null): Promise<void> | void {
    if (this.#phase === 'ended') return;
    return this.media.isOffering ? this.#onLateAnswer(sdp) : this.media.prove();
  }

  async #onLateAnswer(sdp: string | null): Promise<void> {
    const wasOnHold = this.media.onHold;
    if (this.#phase === 'early') {
      await this.media.accept(sdp ?? '', true);
      this.answered([]);
      return;
    }
    try {
      await this.media.accept(sdp ?? '', true);
      this.#tellHold(wasOnHold);
    } catch (thrown) {
      // The former agreement still stands (RFC 3261 §14.1): audio goes on as it was.
      this.#deps.log.info(
        { callSid: this.callSid, code: asGatewayError(thrown).code },
        'answer in ACK not usable',
      );
    }
    this.#changed();
  }

  #tellHold(wasOnHold: boolean): void {
    const { onHold } = this.media;
    if (onHold !== wasOnHold) this.#emit({ kind: 'hold', onHold });
  }

  // --- Commands -------------------------------------------------------------------------------

  #onCommand(command: LegCommand): void {
    if (command.kind === 'attach') {
      if (command.repeat === false) this.#outbox.acknowledge(command.fromSeq);
      else this.#outbox.repeat(command.fromSeq);
      if (this.#phase === 'ended' && this.#outbox.isAcknowledged) this.#dispose();
      return;
    }
    if (this.#phase === 'ended' || !this.#outbox.takes(command)) return;
    if (command.kind === 'hangup') {
      // Not behind work that may hang itself: a far end that never answers must still end.
      this.#hangup(command.code, command.reason);
      return;
    }
    this.#queue.run(
      () => this.#obey(command),
      (thrown) => {
        const { code, details } = asGatewayError(thrown);
        const { id, kind } = command;
        this.#deps.log.info({ callSid: this.callSid, kind, code }, 'leg command failed');
        this.#emit({ kind: 'commandFailed', id, code, details }, id);
      },
    );
  }

  #obey(command: LegCommand): Promise<void> | void {
    if (this.isEnding) return;
    switch (command.kind) {
      case 'ring':
        return this.#ring(command.earlyMedia);
      case 'answer':
        return this.#answer();
      case 'reject':
        return this.#reject(command.sipStatus, command.reason);
      case 'hangup':
      case 'attach':
        return;
      default:
        return this.media.obey(command);
    }
  }

  #ring(earlyMedia: boolean): Promise<void> | void {
    const session = this.#session;
    if (this.direction !== 'in' || this.#phase !== 'early' || session === null) return;
    // Without an offer there is nothing to answer early (RFC 3261 §13.2.1).
    if (earlyMedia && this.#offer !== null) return this.#ringWithAudio(session, this.#offer);
    session.progress(180);
    this.rings(180, false);
  }

  async #ringWithAudio(session: Session, offer: CheckedOffer): Promise<void> {
    const sdp = await this.#answerOffer(offer);
    if (this.isEnding) return;
    session.progress(183, { sdp });
    this.rings(183, true);
  }

  async #answer(): Promise<void> {
    const session = this.#session;
    const { port } = this.media;
    if (this.direction !== 'in' || session === null) return;
    if (this.#phase === 'answered' && port !== null) {
      this.#emit(this.#answeredFact(port), 'answer');
      return;
    }
    const offer = this.#offer;
    const sdp = await (offer === null
      ? this.media.offer(this.#offerTo())
      : this.#answerOffer(offer));
    if (this.isEnding) return;
    session.accept(sdp);
    if (offer !== null) this.answered([]);
  }

  /** The answer to the INVITE's offer. One that cannot be given refuses the INVITE. */
  async #answerOffer(offer: CheckedOffer): Promise<string> {
    try {
      return await this.media.answer(offer);
    } catch (thrown) {
      this.fail(thrown);
      throw thrown;
    }
  }

  #offerTo(): { near: null; peer: string } {
    return { near: null, peer: this.#session?.source.address ?? '' };
  }

  #reject(status: number, reason: string): void {
    if (this.direction !== 'in' || this.#phase !== 'early') return;
    this.#endCode = status === 486 || status === 600 ? 'CALL_BUSY' : 'CALL_REJECTED';
    this.#session?.reject(status, reason === '' ? {} : { reason });
  }

  #hangup(code: ErrorCode, reason?: string): void {
    if (this.isEnding) return;
    this.#endCode = code;
    const session = this.#session;
    if (session === null) {
      this.#onSessionEnd(localEnd(code, reason ?? ERRORS[code].text));
    } else if (this.direction === 'in' && session.state === 'early') {
      const text = reason ?? ERRORS[code].text;
      const options = { retryAfterSeconds: 5, warnAgent: 'tandem' };
      const headers = refusalHeaders(code, text, options);
      session.reject(refusalStatus(code), { headers });
    } else session.hangup(reason === undefined ? {} : { reason });
    this.#changed();
  }

  // --- End ------------------------------------------------------------------------------------

  /** Ends this leg because of a fault on our side, or of what we were sent. */
  fail(thrown: unknown): void {
    if (this.isEnding) return;
    const error = asGatewayError(thrown);
    const isOurs = error.row.fault === 'gateway';
    this.#deps.log[isOurs ? 'error' : 'info'](
      { callSid: this.callSid, code: error.code, err: error },
      'leg failed',
    );
    this.#hangup(error.code, error.message);
  }

  /** The dialog is over, or an outgoing leg has no further place to try. */
  end(end: SessionEnd): void {
    this.#onSessionEnd(end);
  }

  #onSessionEnd(end: SessionEnd): void {
    if (this.#phase === 'ended') return;
    const code = this.#endCode ?? causeOf(end, this.#phase === 'answered');
    this.#phase = 'ended';
    this.#changed();
    // After what is under way, but not bounded by its queue: an end is never refused.
    this.#queue.whenIdle(() => this.#finish(end, code), this.#onFailed);
  }

  async #finish(end: SessionEnd, code: ErrorCode): Promise<void> {
    let stats: PortStats | null = null;
    try {
      stats = await this.media.close();
    } catch (thrown) {
      // A worker that is gone has no figures; the call's end must not wait for them.
      this.#deps.log.debug({ callSid: this.callSid, err: asGatewayError(thrown) }, 'no port stats');
    }
    const fact: LegFact = {
      kind: 'ended',
      code,
      by: end.by === 'remote' ? 'remote' : 'local',
      sipStatus: end.status,
      reason: end.reason,
      sipCallId: this.#session?.callId ?? '',
      headers: applicationHeaders(end.headers, this.#deps.options),
      stats,
    };
    this.#session = null;
    this.#startLinger();
    this.#emit(fact, 'end');
  }

  #startLinger(): void {
    this.#linger = this.#deps.clock.timer(this.#deps.options.lingerMs, () => this.#dispose());
  }

  #dispose(): void {
    this.#linger?.cancel();
    this.#commands.close();
    this.#deps.journal.remove(this.#journalKey);
    this.#deps.onClosed(this);
  }

  #emit(fact: LegFact, key: string | null = null): void {
    this.#outbox.emit(fact, key);
    this.#changed();
  }

  /** Without a dialog a leg cannot be taken up again: its call finds no record and knows. */
  #changed(): void {
    if (this.#phase !== 'early') this.#deps.journal.put(this.#journalKey, this);
  }
}
