/**
 * The transaction layer (RFC 3261 §17): the table that finds the transaction of a message, the two
 * kinds of transaction as their users see them, and the driver that carries out what the machines
 * decide. A message is made into text once and that text is sent again; nothing here allocates per
 * retransmission. Dialogs are not known here, nor is any rule about what to answer.
 *
 * Bounded: a full table refuses new server transactions (`accept` returns null) and new client
 * transactions (`OVERLOADED`); what goes on already is not touched.
 */
import { GatewayError } from '../core/errors.ts';
import { type ClientMachine, clientMachine } from './client-transaction.ts';
import { Action, type Actions, type MachineOptions, type TransactionTimers } from './machine.ts';
import {
  detach,
  type HeaderField,
  type OutgoingRequest,
  type OutgoingResponse,
  type SipMessage,
  serializeRequest,
  serializeResponse,
  transactionKey,
} from './message.ts';
import type { Local, PeerAddress, ReturnPath, SendOutcome, Source } from './peer.ts';
import {
  InviteServerMachine,
  NonInviteServerMachine,
  type ServerMachine,
} from './server-transaction.ts';
import { Deadline, type Wheel } from './wheel.ts';

/** What the table needs of the transport. */
export interface Sender {
  send(text: string, peer: PeerAddress, local: Local, outcome: SendOutcome | null): void;
  respond(text: string, path: ReturnPath): void;
  returnPath(message: SipMessage, source: Source): ReturnPath;
  readonly isTraced: boolean;
  traceOut(text: string, peer: PeerAddress, callId: string, isRepeated: boolean): void;
}

export interface ClientUser {
  /** Every response the transaction lets through; for INVITE each 2xx again. */
  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void;
  /** No final response in time, or the request could not be sent. Nothing follows. */
  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void;
}

export interface ServerUser {
  /** CANCEL came for this INVITE, which has no final response yet (RFC 3261 §9.2). */
  onCancel(transaction: ServerTransaction, cancel: SipMessage): void;
  /** Timer H: our refusal was never acknowledged. Nothing can be done about it. */
  onUnacknowledged(transaction: ServerTransaction): void;
}

/** What only waits to be forgotten waits up to so much longer: many are then forgotten at once. */
const FORGET_GRAIN_MS = 250;

export interface TransactionOptions {
  readonly timers: TransactionTimers;
  readonly clientTransactionsMax: number;
  readonly serverTransactionsMax: number;
}

export class ClientTransaction extends Deadline implements SendOutcome {
  readonly key: string;
  readonly method: string;
  readonly callId: string;
  readonly peer: PeerAddress;
  readonly local: Local;
  readonly machine: ClientMachine;
  /** The request as it is sent; '' once it is answered, as it is not sent again then. */
  text: string;
  user: ClientUser | null;
  #request: OutgoingRequest | null;
  readonly #table: TransactionTable;

  constructor(options: {
    key: string;
    request: OutgoingRequest;
    callId: string;
    peer: PeerAddress;
    local: Local;
    machine: ClientMachine;
    user: ClientUser;
    table: TransactionTable;
  }) {
    super();
    this.key = options.key;
    this.method = options.request.method;
    this.#request = options.request;
    this.callId = options.callId;
    this.peer = options.peer;
    this.local = options.local;
    this.machine = options.machine;
    this.text = serializeRequest(options.request);
    this.user = options.user;
    this.#table = options.table;
  }

  /** Of an INVITE until a 2xx comes, of others until they are answered; throws INTERNAL then. */
  get request(): OutgoingRequest {
    if (this.#request === null) throw new GatewayError('INTERNAL', { problem: 'answered already' });
    return this.#request;
  }

  /** It is answered. For 32 s it knows repetitions of that; it must not keep the call so long. */
  settle(): void {
    const isAccepted = this.machine.state === 'accepted';
    this.text = '';
    if (!isAccepted) this.user = null;
    if (isAccepted || this.method !== 'INVITE') this.#request = null;
  }

  /** RFC 3261 §9.1: CANCEL was sent; wait for the final response 64*T1 and no longer. */
  abandon(): void {
    this.#table.abandon(this);
  }

  sendFailed(): void {
    this.#table.clientFailed(this);
  }

  override expire(nowMs: number): void {
    this.#table.clientExpired(this, nowMs);
  }
}

export class ServerTransaction extends Deadline {
  readonly key: string;
  /** Out-of-dialog requests only: what two copies of one request share (RFC 3261 §8.2.2.2). */
  readonly mergeKey: string;
  readonly method: string;
  readonly source: Source;
  readonly path: ReturnPath;
  readonly machine: ServerMachine;
  readonly callId: string;
  user: ServerUser | null;
  /** Our tag in its responses, for the answer to a CANCEL (§9.2); '' when the request has it. */
  toTag = '';
  /** The last response, as it was sent; '' before the first. */
  text = '';
  #request: SipMessage | null;
  readonly #table: TransactionTable;

  constructor(options: {
    key: string;
    mergeKey: string;
    request: SipMessage;
    source: Source;
    path: ReturnPath;
    machine: ServerMachine;
    user: ServerUser | null;
    table: TransactionTable;
  }) {
    super();
    this.key = options.key;
    this.mergeKey = options.mergeKey;
    this.method = options.request.method;
    this.source = options.source;
    this.path = options.path;
    this.machine = options.machine;
    this.callId = detach(options.request.callId);
    this.#request = options.request;
    this.user = options.user;
    this.#table = options.table;
  }

  /** Until it is answered, and not in the 32 s after that; throws INTERNAL then. */
  get request(): SipMessage {
    if (this.#request === null) throw new GatewayError('INTERNAL', { problem: 'answered already' });
    return this.#request;
  }

  /** Whether a final response can still be sent. */
  get isOpen(): boolean {
    return this.machine.state === 'proceeding' || this.machine.state === 'trying';
  }

  /** Sends a response; one that comes after the final one is dropped. */
  respond(response: OutgoingResponse): void {
    this.#table.respond(this, response);
    if (this.isOpen) return;
    this.#request = null;
    if (!this.machine.isWaiting) this.user = null;
  }

  /** The ACK of the 2xx came: it is not sent again. */
  settle(): void {
    this.text = '';
  }

  /** Sends the 2xx to an INVITE once more (RFC 3261 §13.3.1.4). */
  repeat(): void {
    this.#table.repeat(this);
  }

  /** Sends the last provisional response once more, unless it was 100 (RFC 3261 §13.3.1.1). */
  remind(): void {
    if (!this.text.startsWith('SIP/2.0 100')) this.#table.remind(this);
  }

  override expire(nowMs: number): void {
    this.#table.serverExpired(this, nowMs);
  }
}

export class TransactionTable {
  readonly #sender: Sender;
  readonly #wheel: Wheel;
  readonly #options: TransactionOptions;
  readonly #clients = new Map<string, ClientTransaction>();
  readonly #servers = new Map<string, ServerTransaction>();
  readonly #merge = new Map<string, ServerTransaction>();
  readonly #onDatagrams: MachineOptions;
  readonly #onStreams: MachineOptions;

  constructor(options: { sender: Sender; wheel: Wheel; options: TransactionOptions }) {
    const { timers } = options.options;
    this.#onDatagrams = { timers, reliable: false };
    this.#onStreams = { timers, reliable: true };
    this.#sender = options.sender;
    this.#wheel = options.wheel;
    this.#options = options.options;
  }

  get clientCount(): number {
    return this.#clients.size;
  }

  get serverCount(): number {
    return this.#servers.size;
  }

  /** `branch|method`. */
  hasClient(key: string): boolean {
    return this.#clients.has(key);
  }

  /** Starts a client transaction and sends its request. Throws `OVERLOADED`. */
  request(options: {
    request: OutgoingRequest;
    branch: string;
    callId: string;
    peer: PeerAddress;
    local: Local;
    user: ClientUser;
    /** It was sent by a former process, and only its answer is waited for. */
    isSent?: boolean;
  }): ClientTransaction {
    const { request, branch, callId, peer, local, user, isSent = false } = options;
    if (this.#clients.size >= this.#options.clientTransactionsMax) {
      throw new GatewayError('OVERLOADED', { limit: 'client transactions' });
    }
    const how = this.#machineOptions(peer);
    const machine = clientMachine(request.method, how, isSent);
    const key = `${branch}|${request.method}`;
    const transaction = new ClientTransaction({
      key,
      request,
      callId,
      peer,
      local,
      machine,
      user,
      table: this,
    });
    this.#clients.set(key, transaction);
    this.#doClient(transaction, machine.start(this.#wheel.nowMs()), false);
    return transaction;
  }

  /** True when a transaction took the response. */
  response(response: SipMessage, source: Source): boolean {
    const transaction = this.#clients.get(response.key);
    if (transaction === undefined) return false;
    const actions = transaction.machine.response(response.status, this.#wheel.nowMs());
    if ((actions & Action.ack) !== 0) this.#acknowledge(transaction, response);
    // Before the user is told: it may start the next transaction, and must find this one settled.
    this.#doClient(transaction, actions, true);
    if ((actions & Action.deliver) !== 0)
      transaction.user?.onResponse(transaction, response, source);
    if (!transaction.machine.isWaiting) transaction.settle();
    return true;
  }

  /** Makes a server transaction for a request that `absorb` did not know; null when full. */
  accept(request: SipMessage, source: Source, user: ServerUser | null): ServerTransaction | null {
    if (this.#servers.size >= this.#options.serverTransactionsMax) return null;
    const how = this.#machineOptions(source);
    const isInvite = request.method === 'INVITE';
    const transaction = new ServerTransaction({
      // Kept for 32 s: cut from the request, they would keep all of it.
      key: detach(request.key),
      mergeKey: request.toTag === '' ? detach(mergeKey(request)) : '',
      request,
      source,
      path: this.#sender.returnPath(request, source),
      machine: isInvite ? new InviteServerMachine(how) : new NonInviteServerMachine(how),
      user,
      table: this,
    });
    this.#servers.set(transaction.key, transaction);
    if (transaction.mergeKey !== '') this.#merge.set(transaction.mergeKey, transaction);
    return transaction;
  }

  /** True when the request is a repetition, or an ACK that ends a refused INVITE. */
  absorb(request: SipMessage): boolean {
    const transaction = this.#servers.get(request.key);
    if (transaction === undefined) return false;
    const { machine } = transaction;
    if (request.method !== 'ACK') {
      this.#doServer(transaction, machine.repeated(), true);
      return true;
    }
    const actions = machine.acknowledged(this.#wheel.nowMs());
    this.#doServer(transaction, actions, true);
    return (actions & Action.deliver) === 0; // else an ACK of a 2xx: the dialog's
  }

  isRepetition(message: SipMessage): boolean {
    if (message.isRequest) return this.#servers.has(message.key);
    const state = this.#clients.get(message.key)?.machine.state;
    return state === 'completed' || state === 'accepted';
  }

  /** RFC 3261 §8.2.2.2: the same request, come another way. `absorb` has said no already. */
  isMerged(request: SipMessage): boolean {
    return this.#merge.has(mergeKey(request));
  }

  /** The INVITE that a CANCEL asks to end (§9.2). It must come from where the INVITE came from. */
  inviteOf(cancel: SipMessage, source: Source): ServerTransaction | undefined {
    const transaction = this.#servers.get(transactionKey(cancel, 'INVITE'));
    return transaction?.source.address === source.address ? transaction : undefined;
  }

  /** Answers without a transaction; says nothing when that takes more than `bytesMax`. */
  respondStateless(
    request: SipMessage,
    source: Source,
    response: OutgoingResponse,
    bytesMax: number,
  ): void {
    const path = this.#sender.returnPath(request, source);
    const text = textOf(response);
    if (text.length > bytesMax) return;
    if (this.#sender.isTraced) this.#sender.traceOut(text, path, request.callId, false);
    this.#sender.respond(text, path);
  }

  /** Ends everything at once and tells nobody. */
  close(): void {
    for (const transaction of this.#clients.values()) this.#wheel.clear(transaction);
    for (const transaction of this.#servers.values()) this.#wheel.clear(transaction);
    this.#clients.clear();
    this.#servers.clear();
    this.#merge.clear();
  }

  /** For the transactions themselves, from here on. */

  respond(transaction: ServerTransaction, response: OutgoingResponse): void {
    const actions = transaction.machine.respond(response.status, this.#wheel.nowMs());
    if ((actions & Action.send) !== 0) transaction.text = textOf(response);
    this.#doServer(transaction, actions, false);
  }

  repeat(transaction: ServerTransaction): void {
    this.#doServer(transaction, transaction.machine.respond(200, this.#wheel.nowMs()), true);
  }

  remind(transaction: ServerTransaction): void {
    this.#doServer(transaction, Action.send, true);
  }

  abandon(transaction: ClientTransaction): void {
    transaction.machine.abandon(this.#wheel.nowMs());
    this.#doClient(transaction, Action.none, false);
  }

  clientFailed(transaction: ClientTransaction): void {
    const { state } = transaction.machine;
    if (this.#clients.get(transaction.key) !== transaction) return;
    // A final response came by another way: what failed to be sent was an ACK or a repetition.
    if (state === 'completed' || state === 'accepted') return;
    this.#doClient(transaction, Action.end, false);
    transaction.user?.onFailure(transaction, 'SIP_TRANSPORT');
  }

  clientExpired(transaction: ClientTransaction, nowMs: number): void {
    const actions = transaction.machine.expire(nowMs);
    this.#doClient(transaction, actions, true);
    if ((actions & Action.timeout) !== 0) transaction.user?.onFailure(transaction, 'SIP_TIMEOUT');
  }

  serverExpired(transaction: ServerTransaction, nowMs: number): void {
    const actions = transaction.machine.expire(nowMs);
    this.#doServer(transaction, actions, true);
    if ((actions & Action.timeout) !== 0) transaction.user?.onUnacknowledged(transaction);
  }

  #doClient(transaction: ClientTransaction, actions: Actions, isRepeated: boolean): void {
    if ((actions & Action.send) !== 0) {
      const { text, peer, local, callId } = transaction;
      if (this.#sender.isTraced) this.#sender.traceOut(text, peer, callId, isRepeated);
      this.#sender.send(text, peer, local, transaction);
    }
    if ((actions & Action.end) !== 0) {
      this.#wheel.clear(transaction);
      this.#clients.delete(transaction.key);
    } else {
      this.#watch(transaction);
    }
  }

  #doServer(transaction: ServerTransaction, actions: Actions, isRepeated: boolean): void {
    if ((actions & Action.send) !== 0 && transaction.text !== '') {
      const { text, path, callId } = transaction;
      if (this.#sender.isTraced) this.#sender.traceOut(text, path, callId, isRepeated);
      this.#sender.respond(text, path);
    }
    if ((actions & Action.end) !== 0) {
      this.#wheel.clear(transaction);
      this.#servers.delete(transaction.key);
      const { mergeKey: key } = transaction;
      if (key !== '' && this.#merge.get(key) === transaction) this.#merge.delete(key);
    } else {
      this.#watch(transaction);
    }
  }

  #watch(transaction: ClientTransaction | ServerTransaction): void {
    const { deadlineMs, isWaiting } = transaction.machine;
    const grains = Math.ceil(deadlineMs / FORGET_GRAIN_MS);
    this.#wheel.set(transaction, isWaiting ? deadlineMs : grains * FORGET_GRAIN_MS);
  }

  #machineOptions(peer: PeerAddress): MachineOptions {
    return peer.transport === 'udp' ? this.#onDatagrams : this.#onStreams;
  }

  /** The ACK of a refusal: hop by hop, on the INVITE's own branch (RFC 3261 §17.1.1.3). */
  #acknowledge(transaction: ClientTransaction, response: SipMessage): void {
    const { request, peer, local, callId } = transaction;
    const text = serializeRequest({
      method: 'ACK',
      uri: request.uri,
      headers: ackHeaders(request, response),
      body: '',
    });
    if (this.#sender.isTraced) this.#sender.traceOut(text, peer, callId, false);
    this.#sender.send(text, peer, local, null);
  }
}

/**
 * A quoted display name may hold NUL (RFC 4475 §3.1.1.2), which is never sent: what was copied from
 * the request loses it then. Peers match by tags, not by names.
 */
function textOf(response: OutgoingResponse): string {
  try {
    return serializeResponse(response);
  } catch {
    const headers = response.headers.map(([name, value]): HeaderField => {
      return [name, value.replaceAll('\0', '')];
    });
    return serializeResponse({ ...response, headers });
  }
}

function mergeKey(request: SipMessage): string {
  return `${request.callId}|${request.fromTag}|${request.cseq}|${request.method}`;
}

function ackHeaders(request: OutgoingRequest, response: SipMessage): HeaderField[] {
  const headers: HeaderField[] = [];
  for (const field of request.headers) {
    switch (field[0]) {
      case 'Via':
      case 'From':
      case 'Call-ID':
      case 'Max-Forwards':
      case 'Route':
        headers.push(field);
        break;
      case 'To':
        headers.push(['To', response.header('To') ?? field[1]]);
        break;
      case 'CSeq':
        headers.push(['CSeq', `${Number.parseInt(field[1], 10)} ACK`]);
        break;
    }
  }
  return headers;
}
