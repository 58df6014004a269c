/**
 * A session (RFC 3261 §13–15): one call leg of SIP, from INVITE to BYE, whoever began it. It turns
 * what transactions and the dialog report into a few events, and a few methods into requests and
 * responses. It carries SDP as text and knows no media, no routing, no application. Each mechanism
 * is a part of its own: `incoming.ts` and `outgoing.ts` the first INVITE, `own-changes.ts`
 * and `modification.ts` later ones, `session-timer.ts` how long it lives without a word.
 *
 * `ended` comes exactly once, as soon as it is decided; what the protocol still owes then (CANCEL,
 * ACK and BYE of an answer that crossed, BYE after a late ACK) is paid behind it.
 */
import { EventEmitter } from 'node:events';
import { asGatewayError, ERRORS, type ErrorCode, type GatewayError } from '../core/errors.ts';
import { OwnBye } from './bye.ts';
import { codeOfRefusal, codeOfStatus, q850Reason } from './cause.ts';
import { type Dialog, isSips } from './dialog.ts';
import { Incoming, type IncomingOwner } from './incoming.ts';
import type { InviteRemains } from './invite-head.ts';
import type { InviteServer } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { Modification, type ModificationOwner } from './modification.ts';
import { Outgoing, type OutgoingOwner, type OutgoingParts } from './outgoing.ts';
import { OwnChanges, type OwnChangesOwner } from './own-changes.ts';
import type { PeerAddress, Source } from './peer.ts';
import { type Reason, reasonFields } from './reason.ts';
import type { ReofferOptions, SessionHost, SessionParts } from './session-parts.ts';
import {
  endByPeer,
  endByTime,
  endByUs,
  type FinalOptions,
  type Offer,
  type ProgressOptions,
  type ProvisionalReport,
  printable,
  type Reoffered,
  type ReofferFailed,
  refusalOf,
  type SessionEnd,
  type SessionEvents,
  type SessionPolicy,
  type SessionRecord,
  type SessionState,
  sdpOf,
} from './session-report.ts';
import { SideRequests } from './side-requests.ts';
import type { ServerTransaction } from './transaction.ts';
import { DialogUsage } from './usage.ts';
import type { UserAgent } from './user-agent.ts';

export type { SessionHost } from './session-parts.ts';
export type { Offer, SessionEnd, SessionEvents, SessionRecord } from './session-report.ts';

export class Session
  extends EventEmitter<SessionEvents>
  implements IncomingOwner, OutgoingOwner, ModificationOwner, OwnChangesOwner
{
  /** Also the local tag. */
  readonly id: string;
  readonly direction: 'in' | 'out';
  readonly callId: string;
  /** The incoming INVITE. */
  readonly request: SipMessage | null;
  /** What an incoming INVITE offers; '' when it asks us to offer. */
  readonly offer: string;
  /** Who the policy knows the caller of an incoming INVITE to be, by what was proven; or null. */
  readonly identity: string | null;
  /** What the TLS certificate of an incoming INVITE's sender proves it to be (RFC 5922). */
  readonly certificateNames: readonly string[];
  /** Id of the session whose place its incoming INVITE is to take (RFC 3891). */
  readonly replaces: string | null;
  /** REFER, INFO and what else leaves the session as it is. */
  readonly side: SideRequests;
  readonly #host: SessionHost;
  readonly #ua: UserAgent;
  readonly #usage: DialogUsage;
  readonly #changes: OwnChanges;
  readonly #modification: Modification;
  readonly #bye: OwnBye;
  #state: SessionState;
  #source: PeerAddress;
  #incoming: Incoming | null = null;
  #outgoing: Outgoing | null = null;
  /** The policy of an incoming call was held against its INVITE. */
  #isJudged = false;

  constructor(options: SessionParts) {
    super();
    const { host, id, direction, credentials, dialog, near } = options;
    const { ua, sessionOptions } = host;
    const { policy = sessionOptions.policy } = options;
    this.#host = host;
    this.#ua = ua;
    this.id = id;
    this.direction = direction;
    this.callId = options.callId;
    this.request = options.request;
    this.offer = options.offer;
    this.identity = options.identity ?? null;
    this.replaces = options.replaces ?? null;
    this.certificateNames = near?.certificateNames ?? [];
    this.#state = options.state;
    this.#source = options.source;
    const own = { ua, id, direction, credentials, policy, dialog, near, options: sessionOptions };
    this.#usage = new DialogUsage(own);
    this.#changes = new OwnChanges({ usage: this.#usage, owner: this });
    const onSettled = (): void => this.onSettled();
    this.#bye = new OwnBye({ usage: this.#usage, onSettled });
    this.side = new SideRequests({ usage: this.#usage, to: this, onSettled });
    const { timer } = this.#changes;
    const parts = { usage: this.#usage, owner: this, timer };
    this.#modification = new Modification({ ...parts, changes: this.#changes, bye: this.#bye });
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Where it came from or went to; moves with the peer. */
  get source(): PeerAddress {
    return this.#source;
  }

  /** Incoming: whether our offer may or must go in `progress` already; PRACK brings the answer. */
  get earlyOffer(): 'no' | 'may' | 'must' {
    return this.#incoming?.earlyOffer ?? 'no';
  }

  /** Incoming: our description went out for good; `accept` needs none. */
  get hasDescribed(): boolean {
    return this.#incoming?.hasDescribed === true;
  }

  /**
   * Incoming: takes the policy of who calls, before anything is said to it. False when the INVITE
   * does not meet it; it is refused then, with 420, 421 or 422.
   */
  apply(policy: SessionPolicy): boolean {
    const { request } = this;
    if (this.#state !== 'early' || this.#incoming === null || request === null) return false;
    this.#isJudged = true;
    const refusal = this.#incoming.apply(policy, request);
    if (refusal !== null) this.reject(refusal.status, { headers: refusal.headers });
    return refusal === null;
  }

  /** Incoming: sends 180 to 183. With `sdp` it is early media. */
  progress(status: 180 | 181 | 182 | 183, options: ProgressOptions = {}): void {
    if (this.#mayAnswer()) this.#incoming?.progress(status, options);
  }

  /**
   * Incoming: answers, as soon as no PRACK is waited for. The 2xx is repeated until the peer
   * acknowledges it (§13.3.1.4). `sdp` says nothing when a description went out for good before.
   */
  accept(sdp: string, headers: readonly HeaderField[] = []): void {
    if (!this.#mayAnswer()) return;
    if (this.#incoming?.hasDescribed === false) this.#usage.localSdp = sdp;
    this.#incoming?.accept(sdp, headers);
  }

  /** Incoming: refuses with a final status of 300 to 699. */
  reject(status: number, options: FinalOptions = {}): void {
    if (this.#state !== 'early' || this.#usage.server === null) return;
    this.#refuse(status, options);
    this.#end(endByUs(codeOfRefusal(status), status, options));
  }

  /** Ends it in whatever way its state asks for: CANCEL, 487, BYE. */
  hangup(options: FinalOptions = {}): void {
    if (this.#state === 'terminated') return;
    const fields = [...reasonFields(options.reasonHeader), ...(options.headers ?? [])];
    if (this.#state === 'confirmed') {
      this.#sayBye(fields);
      this.#end(endByUs('CALL_COMPLETED', 200, options));
      return;
    }
    this.#outgoing?.cancel(fields);
    this.#refuse(487, options);
    this.#end(endByUs('CALL_CANCELED', 487, options));
  }

  /**
   * Offers `sdp` within the call: by re-INVITE, or by UPDATE while it is early. Glare is waited
   * out. `reoffered` or `reofferFailed` tells; in the end the session goes on as it was, or `ended`.
   */
  reoffer(sdp: string, options: ReofferOptions = {}): void {
    const { method = this.isConfirmed ? 'INVITE' : 'UPDATE', dialog: tag = '' } = options;
    const dialog = this.#usage.dialog ?? this.#outgoing?.early(tag)?.dialog;
    this.#changes.reoffer(sdp, this.#state === 'terminated' ? undefined : dialog, method);
  }

  /** Throws `SIP_NO_DIALOG` while there is no dialog to speak of. */
  record(): SessionRecord {
    const { id, direction, state } = this;
    const { transport, address, port } = this.#source;
    const peer = { transport, address, port };
    return { ...this.#usage.record(this.#changes.timer.record()), id, direction, state, peer };
  }

  /** While it is early, what another process needs to end it properly. */
  get remains(): InviteRemains | null {
    if (this.#state !== 'early') return null;
    return this.#outgoing?.remains ?? this.#usage.server?.remains(this.id) ?? null;
  }

  // From here on: for the endpoint and the parts of this session.

  /** Goes on with a session timer where a former process was. */
  resume({ timer, localSdp = '', unacknowledged }: SessionRecord): void {
    this.#usage.localSdp = localSdp;
    if (timer !== undefined) this.#changes.timer.restore(timer);
    if (unacknowledged !== undefined) this.#modification.repeat(unacknowledged);
  }

  /** The endpoint hands over the INVITE's transaction. */
  receiveInvite(transaction: ServerTransaction): void {
    const { request } = transaction;
    const { dialog } = this.#usage;
    const server = this.#modification.serve(transaction, this.offer === '');
    if (dialog === null) return;
    const own = { usage: this.#usage, owner: this, modification: this.#modification };
    this.#incoming = new Incoming({ ...own, timer: this.#changes.timer, server, dialog, request });
  }

  /** The endpoint knows where to send the INVITE. */
  sendInvite(parts: OutgoingParts): void {
    if (this.#state === 'terminated') {
      this.onSettled();
      return;
    }
    Object.assign(this.#usage, { localSdp: parts.sdp, isSips: isSips(parts.uri) });
    const { timer } = this.#changes;
    this.#outgoing = new Outgoing({ usage: this.#usage, owner: this, timer, parts });
    this.#source = parts.hops[0]?.peer ?? this.#source;
    try {
      this.#outgoing.start();
    } catch (thrown) {
      this.#outgoing = null;
      this.fail(asGatewayError(thrown));
    }
  }

  /** There is no way to where the call should go. */
  fail(error: GatewayError): void {
    const { code, message, row } = error;
    this.#end({ by: 'transport', code, status: row.sip, reason: message, headers: [] });
  }

  /** Whether a message within a dialog is of this one. */
  owns(message: SipMessage): boolean {
    const { dialog } = this.#usage;
    return dialog === null ? message.callId === this.callId : dialog.owns(message);
  }

  /** An ACK for one of our 2xx. */
  receiveAck(ack: SipMessage): void {
    const { server } = this.#usage;
    if (server?.cseq === ack.cseq) server.acknowledged(ack);
  }

  /** A 2xx that came again after its transaction was forgotten, or after a restart. */
  receiveStray(response: SipMessage): void {
    const { dialog, near } = this.#usage;
    if (this.direction !== 'out' || dialog === null) return;
    this.#ua.acknowledgeAgain(dialog, near, response.cseq);
  }

  /** A request within the dialog; its transaction has no answer yet. */
  receive(transaction: ServerTransaction): void {
    const { request, source } = transaction;
    const confirmed = this.#usage.dialog;
    const dialog = confirmed ?? this.#outgoing?.early(request.fromTag)?.dialog;
    // RFC 3262 §3: PRACK is matched by what it names, and its order says nothing.
    if (dialog?.advance(request.cseq) === false && request.method !== 'PRACK') {
      // §12.2.2: out of order. A peer that restarted its numbers must learn it.
      this.#ua.answer(transaction, 500, { headers: [['Retry-After', '1']] });
      return;
    }
    if (confirmed !== null) {
      this.#usage.near = source;
      this.#source = source;
    }
    if (request.method === 'BYE') this.#receiveBye(transaction);
    else if (dialog === undefined || !(this.isLive || this.side.outlives(request.method)))
      this.#ua.answer(transaction, 481);
    else this.#dispatch(transaction, dialog);
  }

  onAcknowledged(server: InviteServer, ack: SipMessage | null): void {
    const { dialog } = this.#usage;
    if (server.isOfferless && dialog?.offerBy === 'us' && !this.hasDescribed) {
      dialog.offerBy = 'nobody';
    }
    if (this.#bye.isOwed) this.#bye.pay();
    if (this.#state !== 'confirmed') return;
    const sdp = server.isOfferless && ack !== null ? sdpOf(ack) : null;
    this.emit('acknowledged', { sdp });
  }

  onNeverAcknowledged(server: InviteServer): void {
    this.#bye.sayAnyway();
    if (server === this.#usage.server) this.#end(endByTime('CALL_NO_ACK', 408));
  }

  onCanceled(server: InviteServer, cancel: SipMessage): void {
    this.#refuse(487, {}, server);
    if (this.#state !== 'early') return; // a re-INVITE: the session goes on (§14.2)
    this.#end(endByPeer('CALL_CANCELED', 487, cancel));
  }

  onUndecided(server: InviteServer): void {
    this.#refuse(this.#state === 'early' ? 480 : 488, {}, server);
    if (this.#state === 'early') this.#end(endByTime('CALL_NO_ANSWER', 480));
  }

  onAccepted(): void {
    this.#state = 'confirmed';
    this.emit('changed');
  }

  onEarlyAnswer(sdp: string): void {
    this.emit('earlyAnswer', { sdp });
  }

  onPrackLost(): void {
    const { sip: status } = ERRORS.SIP_NO_PRACK;
    this.#refuse(status, {});
    this.#end(endByTime('SIP_NO_PRACK', status));
  }

  onTrying(): void {
    if (this.#state === 'early') this.emit('trying');
  }

  onProvisional(report: ProvisionalReport): void {
    if (this.#state === 'early') this.emit('provisional', report);
  }

  onForkEnded(dialog: string, reasons: readonly Reason[]): void {
    if (this.#state === 'early') this.emit('forkEnded', { dialog, reasons });
  }

  onOfferRefused(status: number, reason: string): void {
    if (this.#state === 'early') this.#end(endByUs('CALL_REJECTED', status, { reason }));
  }

  onAnswered(dialog: Dialog, sdp: string, response: SipMessage, source: Source): void {
    this.#usage.dialog = dialog;
    this.#usage.near = source;
    this.#source = source;
    if (this.#state !== 'early') {
      // Hung up while the way to its Contact was looked up.
      this.#bye.sayAnyway();
      return;
    }
    this.#state = 'confirmed';
    this.#changes.timer.answered(response);
    this.emit('answered', { sdp, headers: response.fields() });
    this.emit('changed');
  }

  onUnreachable(error: GatewayError): void {
    this.fail(error);
    this.onSettled();
  }

  onRefused(response: SipMessage): void {
    this.#end(endByPeer(codeOfStatus(response.status), response.status, response));
  }

  onUnanswered(): void {
    this.#outgoing?.cancel(reasonFields([q850Reason(19)]));
    this.#end(endByTime('CALL_NO_ANSWER', 408));
  }

  onFailed(code: ErrorCode): void {
    const by = code === 'SIP_TIMEOUT' ? 'timeout' : 'transport';
    this.#end({ by, code, status: ERRORS[code].sip, reason: '', headers: [] });
  }

  get isLive(): boolean {
    return this.#state !== 'terminated';
  }

  /** Whether it has a dialog, early or not, of that Call-ID and tag of the peer (RFC 3891 §3). */
  isDialog(callId: string, remoteTag: string): boolean {
    const dialog = this.#usage.dialog ?? this.#outgoing?.early(remoteTag)?.dialog;
    return this.callId === callId && dialog?.remoteTag === remoteTag;
  }

  get mayBeReplaced(): boolean {
    return (this.#usage.policy.refer ?? 'refuse') !== 'refuse';
  }

  get isConfirmed(): boolean {
    return this.#state === 'confirmed';
  }

  get isPrackWaiting(): boolean {
    return this.#incoming?.isUnacknowledged === true;
  }

  onOffer(offer: Offer): boolean {
    return this.emit('offer', offer);
  }

  onModified(dialog: Dialog, sdp: string | null): void {
    if (sdp !== null) {
      this.#usage.localSdp = sdp;
      this.#outgoing?.overtake(dialog);
    }
    this.onChangeSettled();
  }

  onUnmodified(): void {
    this.#incoming?.release();
  }

  onReoffered(dialog: Dialog, change: Reoffered): void {
    this.#outgoing?.overtake(dialog);
    this.emit('reoffered', change);
  }

  onReofferFailed(failed: ReofferFailed): void {
    this.emit('reofferFailed', failed);
  }

  onChangeSettled(): void {
    this.#incoming?.release();
    if (this.#state === 'confirmed') this.emit('changed');
  }

  onSessionLost(code: ErrorCode, status: number, reason: string): void {
    if (this.#state !== 'confirmed') return;
    this.side.close();
    this.#sayBye([]);
    this.#end({ by: 'timeout', code, status, reason, headers: [] });
  }

  #dispatch(transaction: ServerTransaction, dialog: Dialog): void {
    const { method } = transaction.request;
    const incoming = this.#incoming;
    if (method === 'INVITE') this.#modification.receiveReinvite(transaction, dialog);
    else if (method === 'UPDATE') this.#modification.receiveUpdate(transaction, dialog);
    else if (method === 'PRACK' && incoming !== null) incoming.receivePrack(transaction);
    else if (method === 'PRACK') this.#ua.answer(transaction, 481);
    else this.side.receive(transaction, dialog);
  }

  #receiveBye(transaction: ServerTransaction): void {
    const { request } = transaction;
    const { server, dialog } = this.#usage;
    // BYE of a peer whose 2xx we have not seen: the network changed their order.
    if (dialog === null) this.#outgoing?.cancel([]);
    this.#ua.answer(transaction, 200);
    // §15.1.2: what is pending is answered with 487.
    this.#refuse(487, {});
    server?.finish();
    this.#bye.forget();
    this.#end(endByPeer('CALL_COMPLETED', 200, request));
    this.onSettled();
  }

  /** What is said without the policy of a trunk is said by the endpoint's own. */
  #mayAnswer(): boolean {
    if (this.#state !== 'early' || this.#incoming === null) return false;
    return this.#isJudged || this.apply(this.#usage.policy);
  }

  #refuse(status: number, options: FinalOptions, server = this.#usage.server): void {
    const { dialog } = this.#usage;
    if (server?.isPending !== true) return;
    if (dialog !== null && dialog.offerBy === 'peer') dialog.offerBy = 'nobody';
    this.#incoming?.stop();
    server.refuse(status, { toTag: this.id, ...refusalOf(status, options) });
  }

  #sayBye(fields: readonly HeaderField[]): void {
    this.#refuse(487, {});
    this.#bye.say(fields);
  }

  #end(end: SessionEnd): void {
    if (this.#state === 'terminated') return;
    this.#state = 'terminated';
    this.#changes.end(end.code);
    this.emit('ended', { ...end, reason: printable(end.reason) });
    this.onSettled();
  }

  /** Lets go of it when nothing is owed any more; transactions may know it for 32 s yet. */
  onSettled(): void {
    if (this.isLive || !this.#bye.isSettled || !this.side.isSettled) return;
    if (this.#outgoing?.isSettled === false) return;
    this.#outgoing?.leave();
    this.removeAllListeners();
    this.#host.release(this);
  }
}
