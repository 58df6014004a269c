/**
 * A SIP leg: one dialog (RFC 3261 §12–15) and one media port, driven by leg commands and speaking
 * leg events (`leg.ts`). Knows nothing of calls, routes or verbs. Offers: `leg-offers.ts`, numbers of
 * events: `leg-outbox.ts`, placing: `leg-placing.ts`. A bad command is an event, ours ends the leg.
 */
import type { Subscription } from '../bus/bus.ts';
import type { Timer } from '../core/clock.ts';
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { CallSid, TrunkSid } from '../core/sid.ts';
import type { PortStats } from '../media/binding.ts';
import type { Port } from '../media/port.ts';
import type { JudgedOffer } from '../sdp/offer-answer.ts';
import type { HeaderField } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { reasonFields } from '../sip/reason.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import { restFields } from './failover.ts';
import {
  DEFAULT_LEG_POLICY,
  type EndCause,
  type LegCommand,
  type LegFact,
  type LegId,
  type LegPolicy,
  legSubject,
  type SipHeaders,
} from './leg.ts';
import { LegMedia } from './leg-media.ts';
import type { LegMediaRecord } from './leg-media-options.ts';
import { LegOffers, type LegOffersOwner } from './leg-offers.ts';
import type { LegDeps, LegPhase, LegRecord, Placing } from './leg-options.ts';
import { LegOutbox, type OutboxRecord } from './leg-outbox.ts';
import { LegQueue } from './leg-queue.ts';
import { LegRefer, type LegReferOwner } from './leg-refer.ts';
import { sipPart, takeUp } from './leg-remains.ts';
import {
  applicationHeaders,
  causeOf,
  endHeaders,
  localEnd,
  reasonsOf,
  refusalStatus,
} from './leg-signal.ts';
import type { ReferFact } from './referral.ts';
import { refusalFields } from './told-end.ts';

export {
  DEFAULT_LEG_OPTIONS,
  type LegDeps,
  type LegOptions,
  type LegRecord,
} from './leg-options.ts';

export class SipLeg implements LegOffersOwner, LegReferOwner {
  readonly legId: LegId;
  readonly callSid: CallSid;
  readonly direction: 'in' | 'out';
  readonly media: LegMedia;
  /** Through which an outgoing leg goes. */
  trunkSid: TrunkSid | null = null;
  readonly #deps: LegDeps;
  readonly #offers: LegOffers;
  readonly #refer: LegRefer;
  readonly #outbox: LegOutbox;
  readonly #queue: LegQueue;
  readonly #journalKey: string;
  readonly #commands: Subscription;
  #phase: LegPhase = 'early';
  #session: Session | null = null;
  /** Of the answer to an outgoing leg. */
  #sipHeaders: SipHeaders = {};
  #policy = DEFAULT_LEG_POLICY;
  #placing: Placing | null = null;
  /** Why we end it, when we do. */
  #endCode: ErrorCode | null = null;
  #earlyMedia = false;
  /** What placing began is not its dialog any more. */
  #isReplaced = false;
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
      sendInfo: (info, onDone) => this.#session?.side.sendInfo({ package: '', ...info }, onDone),
      onLost: (error) => this.fail(error),
      record: mediaRecord ?? null,
    });
    this.#offers = new LegOffers({ owner: this, media: this.media, log: deps.log });
    this.#refer = new LegRefer(this, deps);
    this.#commands = bus.subscribe(legSubject(legId), (command) => this.#onCommand(command));
  }

  /** A leg for an INVITE that was admitted. `ended` when it was cancelled meanwhile. */
  static inbound(
    options: {
      legId: LegId;
      callSid: CallSid;
      session: Session;
      /** The INVITE's description, null when it has none. */
      offer: JudgedOffer | null;
      policy: LegPolicy;
      mayHearEarly: boolean;
      ended: SessionEnd | null;
    },
    deps: LegDeps,
  ): SipLeg {
    const { legId, callSid, session, ended, offer } = options;
    const leg = new SipLeg({ legId, callSid, direction: 'in', group: callSid }, deps);
    leg.usePolicy(options.policy);
    leg.#offers.begin(offer, options.mayHearEarly);
    leg.attachSession(session);
    leg.#emit({ kind: 'offered', earlyOffer: offer !== null });
    if (ended !== null) leg.#onSessionEnd(ended);
    // What the trunk's policy and the INVITE cannot agree on is refused here; the session ends.
    else session.apply(options.policy);
    return leg;
  }

  /** A leg brought back from its record: dialog and port are taken up where they were. */
  static async restore(record: LegRecord, deps: LegDeps): Promise<SipLeg> {
    const { legId, callSid, direction, media, outbox } = record;
    const group = callSid;
    const leg = new SipLeg({ legId, callSid, direction, group, mediaRecord: media, outbox }, deps);
    leg.#phase = record.phase;
    if (record.policy !== undefined) leg.usePolicy(record.policy);
    leg.#sipHeaders = record.sipHeaders;
    leg.trunkSid = record.trunkSid ?? null;
    if (record.phase === 'ended') {
      leg.#startLinger();
      return leg;
    }
    try {
      const session = takeUp(record, deps);
      if (session !== null) leg.attachSession(session);
      if (record.phase !== 'answered' || session === null || media.port === null) {
        throw new GatewayError('LEG_LOST');
      }
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
      ...sipPart(this.#phase, this.#session, this.#placing),
      media: this.media.record(),
      outbox: this.#outbox.record(),
      sipHeaders: this.#sipHeaders,
      ...(this.#policy === DEFAULT_LEG_POLICY ? {} : { policy: this.#policy }),
      ...(this.trunkSid === null ? {} : { trunkSid: this.trunkSid }),
    };
  }

  /** How its trunk wants this leg. */
  get policy(): LegPolicy {
    return this.#policy;
  }

  /** It is with another trunk from now on: what is offered next is for that one. */
  usePolicy(policy: LegPolicy): void {
    this.#policy = policy;
    this.media.useTerms(policy);
  }

  /** Who is asked to stop when the leg is told to end before it is answered. */
  placeWith(placing: Placing): void {
    this.#placing = placing;
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
    this.#refer.attach(session);
    this.#offers.attach(session);
    session.on('digit', ({ key, durationMs }) => this.media.digit(key, durationMs, 'info'));
    session.on('changed', () => this.#changed());
    // While an outgoing leg is being placed its end may mean the next try: `leg-placing.ts` hears.
    if (session.direction === 'in' || this.#phase === 'answered') {
      session.on('ended', (end) => {
        if (session === this.#session) this.#onSessionEnd(end);
      });
    }
    this.#changed();
  }

  get sessionId(): string | null {
    return this.#session?.id ?? null;
  }

  /** Where its peer was last heard from. */
  get peer(): PeerAddress | null {
    return this.#session?.source ?? null;
  }

  get referMode(): LegPolicy['refer'] {
    return this.#policy.refer;
  }

  tell(fact: ReferFact, key: string | null): void {
    if (this.#phase !== 'ended') this.#emit(fact, key);
  }

  onTransferred(): void {
    this.#hangup('CALL_COMPLETED');
  }

  /** Another dialog takes the place of its own (RFC 3891 §3), which ends. The bridge stays. */
  async replaceSession(session: Session): Promise<void> {
    if (this.isEnding || !session.apply(this.#policy)) {
      session.reject(481);
      return;
    }
    let sdp: string;
    try {
      sdp = await this.#offers.answerNew(session);
    } catch (thrown) {
      const { row, message } = asGatewayError(thrown);
      return session.reject(row.sip, { reason: message });
    }
    const old = this.#session;
    if (this.isEnding || session.state !== 'early') return session.reject(481);
    this.#isReplaced = true;
    this.attachSession(session);
    session.accept(sdp);
    if (this.#placing === null) old?.hangup();
    else this.#placing.abort('', []);
    this.#placing = null;
    if (session.offer !== '') this.answered();
    this.#emit({ kind: 'replaced', sipCallId: session.callId });
  }

  /** A try of an outgoing leg failed and another follows. */
  betweenSessions(): void {
    this.#session = null;
  }

  rings(sipStatus: number, earlyMedia: boolean): void {
    this.#earlyMedia ||= earlyMedia;
    const port = this.#earlyMedia ? (this.media.port?.ref ?? null) : null;
    this.#emit({ kind: 'ringing', sipStatus, earlyMedia: this.#earlyMedia, port }, 'ring');
  }

  /** Audio can flow in both directions: the leg is answered, whoever answered. */
  answered(headers: Iterable<HeaderField> = []): void {
    const { port } = this.media;
    if (port === null || this.#phase !== 'early') return;
    this.#phase = 'answered';
    this.#placing = null;
    this.#offers.settle();
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

  /** The peer put us on hold or took us back (RFC 3264 §8.4). */
  onHoldChanged(onHold: boolean): void {
    this.#emit({ kind: 'hold', onHold });
  }

  /** Other media than before may be agreed. */
  onAgreed(): void {
    this.#changed();
  }

  // --- Commands -------------------------------------------------------------------------------

  #onCommand(command: LegCommand): void {
    if (command.kind === 'attach') {
      if (command.repeat === false) this.#outbox.acknowledge(command.fromSeq);
      else this.#outbox.repeat(command.fromSeq);
      if (this.#phase === 'ended' && this.#outbox.isAcknowledged) this.#dispose();
      return;
    }
    // RFC 5057 §4.2: who referred and hung up is told all the same.
    if (command.kind === 'referOutcome' && this.#phase === 'ended') this.#refer.obey(command);
    if (this.#phase === 'ended' || !this.#outbox.takes(command)) return;
    if (command.kind === 'hangup') {
      // Not behind work that may hang itself: a far end that never answers must still end.
      this.#hangup(command.code, command.reason, command.cause);
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
      case 'move':
        return this.#offers.move(this.#session, command.id, command.near);
      case 'referOutcome':
      case 'refer':
      case 'sendInfo':
        return this.#refer.obey(command);
      default:
        return this.media.obey(command);
    }
  }

  #ring(earlyMedia: boolean): Promise<void> | void {
    const session = this.#session;
    if (this.direction !== 'in' || this.#phase !== 'early' || session === null) return;
    return this.#offers.ring(session, earlyMedia);
  }

  async #answer(): Promise<void> {
    const { port } = this.media;
    if (this.direction !== 'in' || this.#session === null) return;
    if (this.#phase === 'answered' && port !== null) {
      this.#emit(this.#answeredFact(port), 'answer');
      return;
    }
    await this.#offers.answer(this.#session);
  }

  #reject(status: number, reason: string): void {
    if (this.direction !== 'in' || this.#phase !== 'early') return;
    // Our offer in a 2xx waits for its answer in the ACK: only BYE ends that (RFC 3261 §15).
    if (this.#session?.state === 'confirmed') this.#hangup('CALL_REJECTED');
    if (this.isEnding) return;
    this.#endCode = status === 486 || status === 600 ? 'CALL_BUSY' : 'CALL_REJECTED';
    this.#session?.reject(status, reason === '' ? {} : { reason });
  }

  #hangup(code: ErrorCode, reason?: string, cause?: EndCause): void {
    if (this.isEnding) return;
    this.#endCode = code;
    const session = this.#session;
    const text = reason ?? ERRORS[code].text;
    const why = reasonFields(cause?.reasons ?? reasonsOf(code));
    if (this.#placing !== null) {
      this.#onSessionEnd(this.#placing.abort(reason ?? '', why) ?? localEnd(code, text));
    } else if (session === null) {
      this.#onSessionEnd(localEnd(code, text));
    } else if (this.direction === 'in' && session.state === 'early') {
      const status = cause?.sipStatus || refusalStatus(code);
      session.reject(status, { headers: refusalFields(code, text, cause) });
    } else session.hangup({ headers: why, ...(reason === undefined ? {} : { reason }) });
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
    if (!this.#isReplaced) this.#onSessionEnd(end);
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
      headers: { ...endHeaders(end, this.#deps.options), ...restFields(end) },
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
    if (this.#refer.isWaiting) {
      this.#startLinger(); // it ends by its subscription's own time
      return;
    }
    this.#refer.close();
    this.#commands.close();
    this.#deps.journal.remove(this.#journalKey);
    this.#deps.onClosed(this.legId);
  }

  #emit(fact: LegFact, key: string | null = null): void {
    this.#outbox.emit(fact, key);
    this.#changed();
  }

  /** Early ones too: they are not taken up again, but who rings is told (`leg-remains.ts`). */
  #changed(): void {
    this.#deps.journal.put(this.#journalKey, this);
  }
}
