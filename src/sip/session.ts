/**
 * A session (RFC 3261 §13–15): one call leg of SIP, from INVITE to BYE, whoever began it. It turns
 * what transactions and the dialog report into a few events, and a few methods into requests and
 * responses. It carries SDP as text and knows no media, no routing, no application.
 *
 * `ended` comes exactly once, as soon as it is decided; what the protocol still owes then (CANCEL,
 * ACK and BYE of an answer that crossed, BYE after a late ACK) is paid behind it.
 */
import { EventEmitter } from 'node:events';
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import { Bye, type ByeOwner } from './bye.ts';
import type { CallCredentials } from './challenge.ts';
import type { Dialog } from './dialog.ts';
import { answerInfo } from './info.ts';
import type { ChallengeAnswer } from './invite-client.ts';
import { InviteServer, type InviteServerOwner } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { Outgoing, type OutgoingOwner, type OutgoingParts } from './outgoing.ts';
import type { PeerAddress, Source } from './peer.ts';
import { Reinvite, type ReinviteOwner } from './reinvite.ts';
import {
  codeOfRefusal,
  codeOfStatus,
  type FinalOptions,
  type ProgressOptions,
  plainText,
  printable,
  type SessionEnd,
  type SessionEvents,
  type SessionOptions,
  type SessionRecord,
  type SessionState,
  sdpOf,
  warning,
} from './session-report.ts';
import type { ServerTransaction } from './transaction.ts';
import { ALLOW, type UserAgent } from './user-agent.ts';

export type { Offer, SessionEnd, SessionEvents, SessionRecord } from './session-report.ts';

/** What a session needs of the endpoint. */
export interface SessionHost {
  readonly ua: UserAgent;
  readonly sessionOptions: SessionOptions;
  /** Nothing more will come from or for this session. */
  release(session: Session): void;
}

export interface SessionParts {
  readonly host: SessionHost;
  readonly id: string;
  readonly direction: 'in' | 'out';
  readonly callId: string;
  readonly request: SipMessage | null;
  /** The SDP of `request`; '' when it has none, or there is no request. */
  readonly offer: string;
  readonly credentials: CallCredentials | null;
  readonly state: SessionState;
  readonly source: PeerAddress;
  readonly near: Source | null;
  /** Incoming and restored sessions have theirs from the start. */
  readonly dialog: Dialog | null;
}

export class Session
  extends EventEmitter<SessionEvents>
  implements InviteServerOwner, OutgoingOwner, ReinviteOwner, ByeOwner
{
  /** Also the local tag. */
  readonly id: string;
  readonly direction: 'in' | 'out';
  readonly callId: string;
  /** The incoming INVITE. */
  readonly request: SipMessage | null;
  /** What an incoming INVITE offers; '' when it asks us to offer. */
  readonly offer: string;
  readonly #host: SessionHost;
  readonly #ua: UserAgent;
  readonly #credentials: CallCredentials | null;
  #state: SessionState;
  #source: PeerAddress;
  /** Where the peer was last heard from, and on what. */
  #near: Source | null;
  #dialog: Dialog | null;
  #outgoing: Outgoing | null = null;
  #server: InviteServer | null = null;
  #reinvite: Reinvite | null = null;
  /** BYE is owed, but the peer has not acknowledged our 2xx yet (§15). */
  #owedBye: readonly HeaderField[] | null = null;
  #byes = 0;
  readonly #challenge = (): ChallengeAnswer | null => this.#credentials?.forDialog() ?? null;

  constructor(options: SessionParts) {
    super();
    this.#host = options.host;
    this.#ua = options.host.ua;
    this.id = options.id;
    this.direction = options.direction;
    this.callId = options.callId;
    this.request = options.request;
    this.offer = options.offer;
    this.#credentials = options.credentials;
    this.#state = options.state;
    this.#source = options.source;
    this.#near = options.near;
    this.#dialog = options.dialog;
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Where it came from or went to; moves with the peer. */
  get source(): PeerAddress {
    return this.#source;
  }

  /** Incoming: sends 180 to 183. With `sdp` it is early media. */
  progress(status: 180 | 181 | 182 | 183, options: ProgressOptions = {}): void {
    const server = this.#server;
    if (this.#state !== 'early' || server === null) return;
    server.progress(status, {
      toTag: this.id,
      headers: [...this.#contact(server), ...(options.headers ?? [])],
      ...(options.sdp === undefined ? {} : { body: options.sdp }),
    });
  }

  /** Incoming: answers. The 2xx is repeated until the peer acknowledges it (§13.3.1.4). */
  accept(sdp: string, headers: readonly HeaderField[] = []): void {
    const server = this.#server;
    if (this.#state !== 'early' || server === null) return;
    const fields = [...this.#contact(server), ['Allow', ALLOW] as const, ...headers];
    server.accept({ toTag: this.id, headers: fields, body: sdp });
    this.#state = 'confirmed';
    this.emit('changed');
  }

  /** Incoming: refuses with a final status of 300 to 699. */
  reject(status: number, options: FinalOptions = {}): void {
    if (this.#state !== 'early' || this.#server === null) return;
    this.#refuse(this.#server, status, options);
    const { reason = '', headers = [] } = options;
    this.#end({ by: 'local', code: codeOfRefusal(status), status, reason, headers });
  }

  /** Ends it in whatever way its state asks for: CANCEL, 487, BYE. */
  hangup(options: FinalOptions = {}): void {
    const { reason = '', headers = [] } = options;
    if (this.#state === 'terminated') return;
    if (this.#state === 'early') {
      this.#outgoing?.cancel(headers);
      if (this.#server !== null) this.#refuse(this.#server, 487, options);
      this.#end({ by: 'local', code: 'CALL_CANCELED', status: 487, reason, headers });
      return;
    }
    this.#bye(headers);
    this.#end({ by: 'local', code: 'CALL_COMPLETED', status: 200, reason, headers });
  }

  /**
   * Offers `sdp` within the call and resolves with the answer. Glare is waited out. Rejects with
   * the error that says why; the session then goes on as it was, or has `ended`.
   */
  reinvite(sdp: string): Promise<{ sdp: string }> {
    const dialog = this.#dialog;
    if (this.#state !== 'confirmed' || dialog === null) {
      return Promise.reject(new GatewayError('SIP_NO_DIALOG'));
    }
    if (this.#reinvite !== null) return Promise.reject(new GatewayError('SIP_GLARE'));
    const { reinviteTimeoutMs, reinviteAttemptsMax } = this.#host.sessionOptions;
    const reinvite = new Reinvite({
      ua: this.#ua,
      owner: this,
      dialog,
      near: this.#near,
      body: sdp,
      challenge: this.#challenge,
      ownsCallId: this.direction === 'out',
      answerTimeoutMs: reinviteTimeoutMs,
      attemptsMax: reinviteAttemptsMax,
    });
    this.#reinvite = reinvite;
    reinvite.start();
    return reinvite.answer;
  }

  /** Throws `SIP_NO_DIALOG` while there is no dialog to speak of. */
  record(): SessionRecord {
    if (this.#dialog === null) throw new GatewayError('SIP_NO_DIALOG');
    const { id, direction, state } = this;
    const { transport, address, port } = this.#source;
    const scope = this.#credentials?.scope;
    return {
      ...this.#dialog.record(),
      ...{ id, direction, state, peer: { transport, address, port } },
      ...(scope === undefined ? {} : { credentialScope: scope }),
    };
  }

  // From here on: for the endpoint and the parts of this session.

  /** The endpoint hands over the INVITE's transaction. */
  receiveInvite(transaction: ServerTransaction): void {
    this.#server = this.#serve(transaction, this.offer === '');
  }

  /** The endpoint knows where to send the INVITE. */
  sendInvite(parts: Omit<OutgoingParts, 'callId' | 'localTag'>): void {
    if (this.#state === 'terminated') {
      this.onSettled();
      return;
    }
    this.#outgoing = new Outgoing({
      ua: this.#ua,
      owner: this,
      parts: { ...parts, callId: this.callId, localTag: this.id },
      challenge: this.#credentials?.forInvite(parts.hops) ?? null,
      dialogChallenge: this.#challenge,
    });
    const [hop] = parts.hops;
    if (hop !== undefined) this.#source = hop.peer;
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
    if (this.#dialog !== null) return this.#dialog.owns(message);
    return message.callId === this.callId;
  }

  /** An ACK for one of our 2xx. */
  receiveAck(ack: SipMessage): void {
    if (this.#server?.cseq === ack.cseq) this.#server.acknowledged(ack);
  }

  /** A 2xx that came again after its transaction was forgotten, or after a restart. */
  receiveStray(response: SipMessage): void {
    const dialog = this.#dialog;
    if (this.direction !== 'out' || dialog === null) return;
    this.#ua.acknowledgeAgain(dialog, this.#near, response.cseq);
  }

  /** A request within the dialog; its transaction has no answer yet. */
  receive(transaction: ServerTransaction): void {
    const { request, source } = transaction;
    if (this.#dialog === null) {
      this.#receiveEarly(transaction);
      return;
    }
    if (!this.#dialog.advance(request.cseq)) {
      // §12.2.2: out of order. A peer that restarted its numbers must learn it.
      this.#ua.answer(transaction, 500, { headers: [['Retry-After', '1']] });
      return;
    }
    this.#near = source;
    this.#source = source;
    if (request.method === 'BYE') this.#receiveBye(transaction);
    else if (request.method === 'INVITE') this.#receiveReinvite(transaction);
    else if (request.method === 'INFO') answerInfo(this.#ua, transaction, this);
    else this.#ua.answer(transaction, 405, { headers: [['Allow', ALLOW]] });
  }

  onAcknowledged(server: InviteServer, ack: SipMessage | null): void {
    if (this.#owedBye !== null) {
      const fields = this.#owedBye;
      this.#owedBye = null;
      this.#sendBye(fields);
      return;
    }
    if (this.#state !== 'confirmed') return;
    let sdp: string | null = null;
    if (server.isOfferless && ack !== null) sdp = sdpOf(ack);
    this.emit('acknowledged', { sdp });
  }

  onNeverAcknowledged(server: InviteServer): void {
    const fields = this.#owedBye ?? [];
    this.#owedBye = null;
    this.#sendBye(fields);
    if (server === this.#server) {
      this.#end({ by: 'timeout', code: 'CALL_NO_ACK', status: 408, reason: '', headers: [] });
    }
  }

  onCanceled(server: InviteServer, cancel: SipMessage): void {
    this.#refuse(server, 487, {});
    if (this.#state !== 'early') return; // a re-INVITE: the session goes on (§14.2)
    this.#endRemote('CALL_CANCELED', 487, cancel);
  }

  onUndecided(server: InviteServer): void {
    this.#refuse(server, this.#state === 'early' ? 480 : 488, {});
    if (this.#state !== 'early') return;
    this.#end({ by: 'timeout', code: 'CALL_NO_ANSWER', status: 480, reason: '', headers: [] });
  }

  onProvisional(response: SipMessage): void {
    if (this.#state !== 'early') return;
    const { status, reason } = response;
    this.emit('provisional', { status, reason, sdp: sdpOf(response), headers: response.fields() });
  }

  onAnswered(dialog: Dialog, response: SipMessage, source: Source): void {
    this.#dialog = dialog;
    this.#near = source;
    this.#source = source;
    if (this.#state !== 'early') {
      // Hung up while the way to its Contact was looked up.
      this.#sendBye([]);
      return;
    }
    this.#state = 'confirmed';
    this.emit('answered', { sdp: sdpOf(response) ?? '', headers: response.fields() });
    this.emit('changed');
  }

  onUnreachable(error: GatewayError): void {
    this.fail(error);
    this.onSettled();
  }

  onRefused(response: SipMessage): void {
    const { status, reason } = response;
    const headers = response.fields();
    this.#end({ by: 'remote', code: codeOfStatus(status), status, reason, headers });
  }

  onUnanswered(): void {
    this.#outgoing?.cancel([]);
    this.#end({ by: 'timeout', code: 'CALL_NO_ANSWER', status: 408, reason: '', headers: [] });
  }

  onFailed(code: ErrorCode): void {
    const by = code === 'SIP_TIMEOUT' ? 'timeout' : 'transport';
    this.#end({ by, code, status: ERRORS[code].sip, reason: '', headers: [] });
  }

  get isInviteWaiting(): boolean {
    return this.#server?.isPending === true;
  }

  onReinvited(): void {
    this.#reinvite = null;
    this.emit('changed');
  }

  onReinviteFailed(error: GatewayError, isFatal: boolean): void {
    this.#reinvite = null;
    if (!isFatal || this.#state !== 'confirmed') return;
    this.#bye([]);
    const { code, message, row } = error;
    this.#end({ by: 'timeout', code, status: row.sip, reason: message, headers: [] });
  }

  onByeDone(): void {
    this.#byes -= 1;
    this.onSettled();
  }

  /** BYE of a peer whose 2xx we have not seen: the network changed their order. */
  #receiveEarly(transaction: ServerTransaction): void {
    if (transaction.request.method !== 'BYE' || this.direction !== 'out') {
      this.#ua.answer(transaction, 481);
      return;
    }
    this.#outgoing?.cancel([]);
    this.#receiveBye(transaction);
  }

  #receiveBye(transaction: ServerTransaction): void {
    const { request } = transaction;
    this.#ua.answer(transaction, 200);
    // §15.1.2: what is pending is answered with 487.
    if (this.#server !== null) {
      if (this.#server.isPending) this.#refuse(this.#server, 487, {});
      this.#server.finish();
    }
    this.#owedBye = null;
    this.#endRemote('CALL_COMPLETED', 200, request);
    this.onSettled();
  }

  #receiveReinvite(transaction: ServerTransaction): void {
    const server = this.#server;
    if (this.#state === 'terminated') {
      this.#ua.answer(transaction, 481);
    } else if (server?.isPending === true) {
      // §14.2: two at once. Up to 10 s, by chance, keeps both sides out of step.
      const seconds = String(Math.floor(this.#ua.clock.random() * 11));
      this.#ua.answer(transaction, 500, { headers: [['Retry-After', seconds]] });
    } else if (this.#reinvite?.isAsking === true || server?.isUnacknowledged === true) {
      this.#receiveGlare(transaction);
    } else {
      this.#offer(transaction);
    }
  }

  #receiveGlare(transaction: ServerTransaction): void {
    const server = this.#server;
    // RFC 5407 §3.1.4: its ACK was lost or overtaken, but it has our answer, or it could not offer.
    if (server?.isUnacknowledged === true && !server.isOfferless && this.#owedBye === null) {
      server.acknowledged(null);
      if (this.#reinvite?.isAsking !== true) {
        this.#offer(transaction);
        return;
      }
    }
    this.#ua.answer(transaction, 491);
  }

  #offer(transaction: ServerTransaction): void {
    const { request } = transaction;
    const sdp = sdpOf(request) ?? '';
    const server = this.#serve(transaction, sdp === '');
    this.#server = server;
    const isHeard = this.emit('offer', {
      sdp,
      answer: (answer) => this.#answerOffer(server, answer),
      // §14.2: refused, and the session is what it was.
      refuse: (status, reason) => {
        this.#refuse(server, status, reason === undefined ? {} : { reason });
      },
    });
    if (!isHeard) this.#refuse(server, 488, {});
  }

  #answerOffer(server: InviteServer, sdp: string): void {
    if (!server.isPending || this.#state !== 'confirmed') return;
    this.#dialog?.refresh(server.transaction.request);
    const headers = [...this.#contact(server), ['Allow', ALLOW] as const];
    server.accept({ toTag: '', headers, body: sdp });
    this.emit('changed');
  }

  #serve(transaction: ServerTransaction, isOfferless: boolean): InviteServer {
    const limits = this.#host.sessionOptions;
    return new InviteServer({ ua: this.#ua, owner: this, transaction, isOfferless, limits });
  }

  #contact(server: InviteServer): HeaderField[] {
    return [['Contact', this.#ua.contact(server.transaction.source.local)]];
  }

  #refuse(server: InviteServer, status: number, options: FinalOptions): void {
    const { reason, headers = [] } = options;
    const isMedia = status === 488 || status === 606;
    const why = isMedia && reason !== undefined ? [warning(reason)] : [];
    const phrase = reason === undefined ? {} : { reason: plainText(reason) };
    server.refuse(status, { toTag: this.id, headers: [...headers, ...why], ...phrase });
  }

  /** §15: the callee may not send BYE before the ACK of its 2xx, or before it has given it up. */
  #bye(headers: readonly HeaderField[]): void {
    if (this.#server?.isPending === true) this.#refuse(this.#server, 487, {});
    if (this.#server?.isUnacknowledged === true) this.#owedBye = headers;
    else this.#sendBye(headers);
  }

  #sendBye(fields: readonly HeaderField[]): void {
    const dialog = this.#dialog;
    if (dialog === null) return;
    this.#byes += 1;
    const challenge = this.#challenge();
    new Bye({ ua: this.#ua, owner: this, dialog, fields, challenge }).send(this.#near);
  }

  /** BYE or CANCEL: why, it may say in Reason (RFC 3326). */
  #endRemote(code: ErrorCode, status: number, request: SipMessage): void {
    const reason = request.header('Reason') ?? '';
    this.#end({ by: 'remote', code, status, reason, headers: request.fields() });
  }

  #end(end: SessionEnd): void {
    if (this.#state === 'terminated') return;
    this.#state = 'terminated';
    this.#reinvite?.abandon(end.code);
    this.emit('ended', { ...end, reason: printable(end.reason) });
    this.onSettled();
  }

  /** Lets go of the session when it has ended and nothing is owed any more. */
  onSettled(): void {
    if (this.#state !== 'terminated' || this.#byes > 0 || this.#owedBye !== null) return;
    if (this.#outgoing === null || this.#outgoing.isSettled) this.#host.release(this);
  }
}
