/**
 * The first INVITE of a call that we were sent (RFC 3261 §13.3), while it is early: what is said
 * before the answer and how surely (RFC 3262 §3), where offer and answer go meanwhile, and a 2xx
 * that has to wait. The transaction itself and the ACK are `invite-server.ts`.
 */
import type { Dialog } from './dialog.ts';
import type { InviteServer } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Modification } from './modification.ts';
import { type Provisional, ReliableProvisionals } from './reliable.ts';
import { type ProgressOptions, type SessionPolicy, sdpOf } from './session-report.ts';
import { judgeTimer, requires, type SessionTimer, supports } from './session-timer.ts';
import type { ServerTransaction } from './transaction.ts';
import type { DialogUsage } from './usage.ts';

export interface IncomingOwner {
  /** PRACK brought the answer to our offer. */
  onEarlyAnswer(sdp: string): void;
  /** The 2xx went out. */
  onAccepted(): void;
  onPrackLost(): void;
}

/** Why policy and the INVITE do not go together. */
export interface PolicyRefusal {
  readonly status: 420 | 421 | 422;
  readonly headers: readonly HeaderField[];
}

interface Acceptance {
  readonly sdp: string;
  readonly headers: readonly HeaderField[];
}

export class Incoming {
  readonly #usage: DialogUsage;
  readonly #owner: IncomingOwner;
  readonly #timer: SessionTimer;
  readonly #modification: Modification;
  readonly #server: InviteServer;
  readonly #dialog: Dialog;
  readonly #supportsReliable: boolean;
  readonly #requiresReliable: boolean;
  #provisionals: ReliableProvisionals | null = null;
  /** Session-Expires and what goes with it in the 2xx. */
  #timerFields: readonly HeaderField[] = [];
  #agreement: SessionTimer['agreement'] = null;
  /** Our description went out reliably: later ones would say nothing (RFC 3261 §13.2.1). */
  #hasDescribed = false;
  /** That description was an offer, and its answer has not come. */
  #awaitsAnswer = false;
  /** The 2xx, while a PRACK or an offer has to be dealt with first. */
  #held: Acceptance | null = null;

  constructor(options: {
    usage: DialogUsage;
    owner: IncomingOwner;
    timer: SessionTimer;
    modification: Modification;
    server: InviteServer;
    dialog: Dialog;
    request: SipMessage;
  }) {
    const { usage, server, dialog, request } = options;
    this.#usage = usage;
    this.#owner = options.owner;
    this.#timer = options.timer;
    this.#modification = options.modification;
    this.#server = server;
    this.#dialog = dialog;
    this.#requiresReliable = requires(request, '100rel');
    this.#supportsReliable = this.#requiresReliable || supports(request, '100rel');
    dialog.offerBy = server.isOfferless ? 'nobody' : 'peer';
  }

  /** Offer and answer went through before the 2xx, or an offer of ours is out: it has no SDP. */
  get hasDescribed(): boolean {
    return this.#hasDescribed;
  }

  /**
   * Whether our offer goes in a provisional response, where the INVITE has none: PRACK would bring
   * the answer. The first reliable response has to make it (RFC 3261 §13.2.1).
   */
  get earlyOffer(): 'no' | 'may' | 'must' {
    if (!this.#server.isOfferless || this.#hasDescribed) return 'no';
    if (this.#isReliable({})) return 'must';
    return this.#isReliable({ sdp: 'any' }) ? 'may' : 'no';
  }

  /** Our description waits for its PRACK: no UPDATE of ours may go before it (RFC 3311 §5.1). */
  get isUnacknowledged(): boolean {
    return this.#provisionals?.holdsDescription === true;
  }

  /** Takes the policy of who calls. What cannot be met is for the owner to refuse with. */
  apply(policy: SessionPolicy, request: SipMessage): PolicyRefusal | null {
    this.#usage.policy = policy;
    this.#timer.use(policy.sessionTimer);
    const { reliable, sessionTimer } = policy;
    const unsupported: string[] = [];
    if (reliable === 'off' && this.#requiresReliable) unsupported.push('100rel');
    if (sessionTimer.mode === 'off' && requires(request, 'timer')) unsupported.push('timer');
    if (unsupported.length > 0) {
      return { status: 420, headers: [['Unsupported', unsupported.join(', ')]] };
    }
    if (reliable === 'require' && !this.#supportsReliable) {
      return { status: 421, headers: [['Require', '100rel']] };
    }
    const verdict = judgeTimer(request, sessionTimer, null);
    if (verdict.kind === 'refused') return verdict;
    this.#timerFields = verdict.headers;
    this.#agreement = verdict.agreement;
    return null;
  }

  progress(status: number, options: ProgressOptions): void {
    const { sdp = '', headers = [] } = options;
    const isReliable = this.#isReliable(options);
    const isOpen = this.#held !== null || (sdp === '' && this.earlyOffer === 'must');
    // Too late, or an offer has to come first: nothing that the peer could not do without.
    if (isOpen) return;
    const body = this.#hasDescribed ? '' : sdp;
    const fields = [this.#contact(), ...headers];
    // RFC 3311 §4: who may send UPDATE now has to know it now.
    if (isReliable) fields.push(...this.#usage.abilities());
    const answer = { toTag: this.#usage.id, headers: fields, body };
    if (!isReliable && this.#provisionals === null) {
      this.#server.progress(status, answer);
      return;
    }
    if (isReliable && body !== '') this.#hasDescribed = true;
    const { ua } = this.#usage;
    this.#provisionals ??= new ReliableProvisionals({ ua, owner: this, server: this.#server });
    this.#provisionals.send({ status, answer, isReliable });
  }

  /** The 2xx, now or as soon as it may go (RFC 3262 §3). */
  accept(sdp: string, headers: readonly HeaderField[]): void {
    if (this.#held !== null) return;
    this.#held = { sdp, headers };
    this.release();
  }

  /** A PRACK came, or an offer was settled: what has waited for it goes out. */
  release(): void {
    this.#provisionals?.proceed();
    const held = this.#held;
    if (held === null || !this.#server.isPending) return;
    const isOffering = this.#hasDescribed && this.#dialog.offerBy !== 'nobody';
    if (isOffering || this.#provisionals?.holdsDescription === true) return;
    this.#held = null;
    this.stop();
    const fields = [this.#contact(), ...this.#usage.abilities(), ...this.#timerFields];
    const body = this.#hasDescribed ? '' : held.sdp;
    if (!this.#hasDescribed) this.#dialog.offerBy = this.#server.isOfferless ? 'us' : 'nobody';
    const all = [...fields, ...held.headers];
    this.#server.accept({ toTag: this.#usage.id, headers: all, body });
    this.#timer.agree(this.#agreement);
    this.#owner.onAccepted();
  }

  /** A final response goes out, of whatever kind. */
  stop(): void {
    this.#provisionals?.stop();
  }

  /** RFC 3262 §3, §5. Also after the 2xx, for what it did not wait for. */
  receivePrack(transaction: ServerTransaction): void {
    const { ua } = this.#usage;
    const { request } = transaction;
    const acknowledged = this.#provisionals?.acknowledge(request) ?? null;
    if (acknowledged === null) {
      ua.answer(transaction, 481);
      return;
    }
    const sdp = sdpOf(request) ?? '';
    if (acknowledged.answer.body !== '' && this.#awaitsAnswer) {
      ua.answer(transaction, 200);
      this.#awaitsAnswer = false;
      this.#dialog.offerBy = 'nobody';
      this.#owner.onEarlyAnswer(sdp);
    } else if (sdp !== '' && this.#hasDescribed && this.#dialog.offerBy === 'nobody') {
      this.#modification.receivePrack(transaction, this.#dialog);
    } else {
      ua.answer(transaction, 200);
    }
    this.release();
  }

  onProvisionalSent({ answer, isReliable }: Provisional): void {
    if (!isReliable || answer.body === '') return;
    this.#awaitsAnswer = this.#server.isOfferless;
    this.#dialog.offerBy = this.#awaitsAnswer ? 'us' : 'nobody';
    this.#usage.localSdp = answer.body ?? '';
  }

  onPrackLost(): void {
    this.#owner.onPrackLost();
  }

  /** What the peer requires, or what matters where it can: SDP of an offer or answer. */
  #isReliable(options: ProgressOptions): boolean {
    const { reliable } = this.#usage.policy;
    if (!this.#supportsReliable || reliable === 'off') return false;
    if (this.#requiresReliable || reliable === 'require') return true;
    return options.reliable ?? (options.sdp ?? '') !== '';
  }

  #contact(): HeaderField {
    return this.#usage.contact(this.#server.transaction.source.local);
  }
}
