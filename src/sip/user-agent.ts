/**
 * What the client and server cores of all sessions share (RFC 3261 §8.1, §8.2): sending a request
 * with a fresh Via, answering one with our name on it, and finding the way to the next hop. It
 * holds no call; sessions and the endpoint build on it.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, type GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { Dialog } from './dialog.ts';
import type { TransactionTimers } from './machine.ts';
import {
  type HeaderField,
  MAGIC_COOKIE,
  type OutgoingRequest,
  type ResponseOptions,
  responseTo,
  type SipMessage,
  type SipUri,
  serializeRequest,
} from './message.ts';
import type { Hop, Local, PeerAddress, Source } from './peer.ts';
import { isPrivate, type Resolver, type Target } from './resolver.ts';
import type {
  ClientTransaction,
  ClientUser,
  ServerTransaction,
  TransactionTable,
} from './transaction.ts';
import type { Transport } from './transport.ts';
import type { Wheel } from './wheel.ts';

/** Methods that are carried out. Others that are known get 405, and 501 is for the rest. */
export const ALLOW = 'INVITE, ACK, BYE, CANCEL, OPTIONS, INFO';

export interface HopUser {
  onHop(hop: Hop): void;
  onNoHop(error: GatewayError): void;
}

export class UserAgent {
  readonly clock: Clock;
  readonly wheel: Wheel;
  readonly log: Log;
  readonly name: string;
  readonly timers: TransactionTimers;
  readonly transport: Transport;
  readonly transactions: TransactionTable;
  readonly resolver: Resolver;

  constructor(parts: {
    clock: Clock;
    wheel: Wheel;
    log: Log;
    name: string;
    timers: TransactionTimers;
    transport: Transport;
    transactions: TransactionTable;
    resolver: Resolver;
  }) {
    this.clock = parts.clock;
    this.wheel = parts.wheel;
    this.log = parts.log;
    this.name = parts.name;
    this.timers = parts.timers;
    this.transport = parts.transport;
    this.transactions = parts.transactions;
    this.resolver = parts.resolver;
  }

  newTag(): string {
    return this.clock.randomHex(8);
  }

  newBranch(): string {
    return MAGIC_COOKIE + this.clock.randomHex(10);
  }

  via(local: Local, branch: string): string {
    return `SIP/2.0/${local.transport.toUpperCase()} ${local.sentBy};branch=${branch};rport`;
  }

  /** The Contact we give to a peer that is reached from `local`. */
  contact(local: Local): string {
    return local.transport === 'udp'
      ? `<sip:${local.sentBy}>`
      : `<sip:${local.sentBy};transport=${local.transport}>`;
  }

  /** Starts a client transaction; `request` comes without its Via. Throws `OVERLOADED`. */
  request(request: OutgoingRequest, hop: Hop, user: ClientUser, callId: string): ClientTransaction {
    const branch = this.newBranch();
    return this.transactions.request({
      request: this.#withVia(request, hop.local, branch),
      branch,
      callId,
      peer: hop.peer,
      local: hop.local,
      user,
    });
  }

  /** CANCEL goes on the branch of its INVITE (§9.1). */
  cancel(
    invite: ClientTransaction,
    fields: readonly HeaderField[],
    user: ClientUser,
  ): ClientTransaction {
    const headers: HeaderField[] = [];
    for (const field of invite.request.headers) {
      if (field[0] === 'CSeq') headers.push(['CSeq', `${Number.parseInt(field[1], 10)} CANCEL`]);
      else if (CANCEL_FIELDS.has(field[0])) headers.push(field);
    }
    headers.push(...fields);
    const { peer, local, callId, key } = invite;
    const request = { method: 'CANCEL', uri: invite.request.uri, headers, body: '' };
    const branch = key.slice(0, key.indexOf('|'));
    return this.transactions.request({ request, branch, callId, peer, local, user });
  }

  /** The bytes of an ACK for a 2xx: a request without a transaction (§13.2.2.4). */
  acknowledgement(request: OutgoingRequest, local: Local): string {
    return serializeRequest(this.#withVia(request, local, this.newBranch()));
  }

  /** Sends what `acknowledgement` made, the first time or again. */
  acknowledge(text: string, hop: Hop, callId: string, isRepeated: boolean): void {
    if (this.transport.isTraced) this.transport.traceOut(text, hop.peer, callId, isRepeated);
    this.transport.send(text, hop.peer, hop.local, null);
  }

  /** The ACK of a 2xx whose own ACK is not kept any more. */
  acknowledgeAgain(dialog: Dialog, near: Source | null, sequence: number): void {
    const request = dialog.request('ACK', sequence);
    this.reach(dialog, near, {
      onHop: (hop) => {
        this.acknowledge(this.acknowledgement(request, hop.local), hop, dialog.callId, true);
      },
      onNoHop: () => {},
    });
  }

  answer(transaction: ServerTransaction, status: number, options: ResponseOptions = {}): void {
    const fields: HeaderField[] = [['Server', this.name], ...(options.headers ?? [])];
    transaction.respond(responseTo(transaction.request, status, { ...options, headers: fields }));
  }

  /** Answers and forgets: the same request gets the same answer again (§8.2.7). */
  answerStateless(
    request: SipMessage,
    source: Source,
    status: number,
    options: ResponseOptions = {},
  ): void {
    const fields: HeaderField[] = [['Server', this.name], ...(options.headers ?? [])];
    const response = responseTo(request, status, { ...options, headers: fields });
    this.transactions.respondStateless(request, source, response);
  }

  /**
   * The way to the next hop of a dialog; told at once when no name has to be looked up. `near` is
   * where the peer was last heard from.
   */
  reach(dialog: Dialog, near: Source | null, user: HopUser): void {
    let hop: Hop;
    try {
      const uri = dialog.nextHop();
      const way = dialog.routeSet.length === 0 ? near : null;
      const targets = this.resolver.literal(uri);
      if (targets === null) {
        void this.#resolve(uri, way, user);
        return;
      }
      hop = this.#hop(targets, way);
    } catch (thrown) {
      user.onNoHop(asGatewayError(thrown));
      return;
    }
    user.onHop(hop);
  }

  async #resolve(uri: SipUri, near: Source | null, user: HopUser): Promise<void> {
    let hop: Hop;
    try {
      hop = this.#hop(await this.resolver.resolve(uri), near);
    } catch (thrown) {
      user.onNoHop(asGatewayError(thrown));
      return;
    }
    user.onHop(hop);
  }

  /** `near` instead of the target, where it is better than what the peer's Contact says. */
  #hop(targets: readonly Target[], near: Source | null): Hop {
    const [peer] = targets as [Target];
    if (near !== null && isBetterWay(near, peer)) {
      const { transport, address, port, local } = near;
      return { peer: { transport, address, port }, local };
    }
    return { peer, local: this.transport.localFor(peer) };
  }

  #withVia(request: OutgoingRequest, local: Local, branch: string): OutgoingRequest {
    const via: HeaderField = ['Via', this.via(local, branch)];
    return { ...request, headers: [via, ...request.headers, ['User-Agent', this.name]] };
  }
}

/** RFC 3261 §9.1: what CANCEL has in common with its INVITE; CSeq is made anew. */
const CANCEL_FIELDS = new Set(['Via', 'Route', 'Max-Forwards', 'From', 'To', 'Call-ID']);

/**
 * A peer behind a NAT names an address that only its own network knows; and a connection that it
 * opened and keeps open is the one way that certainly leads to it (RFC 5923).
 */
function isBetterWay(near: Source, target: PeerAddress): boolean {
  if (near.connection !== null) return !near.connection.isClosed;
  if (near.transport !== target.transport || near.address === target.address) return false;
  return isPrivate(target.address) && !isPrivate(near.address);
}
