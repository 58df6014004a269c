/**
 * What the client and server cores of all sessions share (RFC 3261 §8.1, §8.2): sending a request
 * with a fresh Via, answering one with our name on it, and finding the way to the next hop. It
 * holds no call; sessions and the endpoint build on it.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
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
import {
  type Hop,
  isSecure,
  type Local,
  type PeerAddress,
  type SendOutcome,
  type Source,
} from './peer.ts';
import { ADDRESS_REFUSED, isPrivate, type Resolver, type Target } from './resolver.ts';
import type {
  ClientTransaction,
  ClientUser,
  ServerTransaction,
  TransactionTable,
} from './transaction.ts';
import type { Transport } from './transport.ts';
import type { Wheel } from './wheel.ts';

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
  /** Our name, on requests and on responses. */
  readonly #userAgent: HeaderField;
  readonly #server: HeaderField;

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
    this.#userAgent = ['User-Agent', parts.name];
    this.#server = ['Server', parts.name];
  }

  newTag(): string {
    return this.clock.randomHex(8);
  }

  newBranch(): string {
    return MAGIC_COOKIE + this.clock.randomHex(10);
  }

  via(local: Local, branch: string): string {
    // RFC 5923 §5: what we open may be used by the peer as well.
    const alias = local.transport === 'tls' ? ';alias' : '';
    return `SIP/2.0/${local.transport.toUpperCase()} ${local.sentBy};branch=${branch};rport${alias}`;
  }

  /**
   * The Contact we give to a peer that is reached from `local`. RFC 3261 §8.1.1.8, §12.1.1: sips
   * where the peer or we asked for it; nothing of that goes in the clear, so `local` is TLS then.
   */
  contact(local: Local, isSips = false): string {
    const scheme = isSips && isSecure(local.transport) ? 'sips' : 'sip';
    if (local.transport === 'udp') return `<sip:${local.sentBy}>`;
    // RFC 3261 §26.2.2: transport=tls is deprecated, and sips over TCP is TLS by itself.
    if (scheme === 'sips' && local.transport === 'tls') return `<sips:${local.sentBy}>`;
    // RFC 7118 §5.2.3: a URI says ws of both; on TLS or not is not its to say.
    const transport = local.transport === 'wss' ? 'ws' : local.transport;
    return `<${scheme}:${local.sentBy};transport=${transport}>`;
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

  /** What a response says of its sender's health: later requests go elsewhere first or not. */
  heard(peer: PeerAddress, response: SipMessage): void {
    const seconds = response.status === 503 ? response.header('Retry-After') : undefined;
    // RFC 3261 §21.5.4: without that field 503 says nothing of later requests.
    if (seconds === undefined) this.resolver.answered(peer);
    else this.resolver.refused(peer, 1000 * Number(/^\s*(\d{1,6})/.exec(seconds)?.[1] ?? 0));
  }

  /** Not a word came back, or nothing could be sent. */
  unheard(peer: PeerAddress): void {
    this.resolver.failed(peer);
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
  acknowledge(
    text: string,
    hop: Hop,
    callId: string,
    isRepeated: boolean,
    outcome: SendOutcome | null = null,
  ): void {
    if (this.transport.isTraced) this.transport.traceOut(text, hop.peer, callId, isRepeated);
    this.transport.send(text, hop.peer, hop.local, outcome);
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

  /** Answers; says nothing where a final answer went out already. */
  answer(transaction: ServerTransaction, status: number, options: ResponseOptions = {}): void {
    if (!transaction.isOpen) return;
    const response = responseTo(transaction.request, status, options);
    response.headers.push(this.#server);
    transaction.respond(response);
  }

  /** Answers and forgets: the same request gets the same answer again (§8.2.7). */
  answerStateless(
    request: SipMessage,
    source: Source,
    status: number,
    options: ResponseOptions = {},
  ): void {
    const bytesMax = this.transport.answerBytesMax(source, request.sizeBytes);
    const given = options.headers ?? [];
    // DEVIATES: RFC 3261 §8.2.1 and §11.2 want Allow and more. Of a source that may be forged they
    // would make the answer a weapon, and tell a scanner what we are.
    const headers = Number.isFinite(bytesMax)
      ? given.filter(([name]) => !DESCRIPTIVE.has(name))
      : [...given, this.#server];
    const nonce = nonceOf(given);
    if (nonce !== '') this.transport.challenged(source, nonce);
    const response = responseTo(request, status, { ...options, headers });
    this.transactions.respondStateless(request, source, response, bytesMax);
  }

  /**
   * The ways to `targets`, best first. RFC 3261 §18.1.1: TCP for what may not fit a packet, and UDP
   * after all when TCP fails. Throws `SIP_TRANSPORT` when policy refuses them all.
   */
  hopsTo(targets: readonly Target[], bytes: number): Hop[] {
    const isLarge = bytes + OWN_FIELDS_BYTES > this.transport.options.datagramBytesMax;
    const hops: Hop[] = [];
    for (const target of this.#reachable(targets)) {
      const { transport, address, port, serverName, eitherTransport } = target;
      if (isLarge && eitherTransport && this.transport.hasLocal('tcp', address)) {
        const peer: PeerAddress = { transport: 'tcp', address, port };
        hops.push({ peer, local: this.transport.localFor(peer) });
      }
      const name = serverName === undefined ? {} : { serverName };
      const peer = { transport, address, port, ...name };
      hops.push({ peer, local: this.transport.localFor(target) });
    }
    return hops;
  }

  /**
   * The way to the next hop of a dialog; told at once when no name has to be looked up. `near` is
   * where the peer was last heard from; requests go back there when what the peer names is refused
   * by policy.
   */
  reach(dialog: Dialog, near: Source | null, user: HopUser): void {
    let hop: Hop;
    try {
      const uri = dialog.nextHop();
      const way = dialog.routeSet.length === 0 ? near : null;
      if (way !== null && this.#stands(way, uri)) {
        const { transport, address, port, local } = way;
        user.onHop({ peer: { transport, address, port }, local });
        return;
      }
      const targets = this.resolver.literal(uri);
      if (targets === null) {
        void this.#resolve(uri, { better: way, back: near }, user);
        return;
      }
      hop = this.#hop(targets, way);
    } catch (thrown) {
      this.#turnBack(thrown, near, user);
      return;
    }
    user.onHop(hop);
  }

  /**
   * The peer's own connection needs no name looked up; a WebSocket client's leads nowhere anyway
   * (RFC 7118 §5.1). What is sips does not go on in the clear.
   */
  #stands(near: Source, uri: SipUri): boolean {
    if (near.connection === null || near.connection.isClosed) return false;
    if (uri.scheme === 'sips' && !isSecure(near.transport)) return false;
    return this.transport.allows(near.address);
  }

  async #resolve(
    uri: SipUri,
    ways: { better: Source | null; back: Source | null },
    user: HopUser,
  ): Promise<void> {
    let hop: Hop;
    try {
      hop = this.#hop(await this.resolver.resolve(uri), ways.better);
    } catch (thrown) {
      this.#turnBack(thrown, ways.back, user);
      return;
    }
    user.onHop(hop);
  }

  /** Where the peer named an address that we may not send to, it is answered where it speaks. */
  #turnBack(thrown: unknown, near: Source | null, user: HopUser): void {
    const error = asGatewayError(thrown);
    const isRefused = error.details.problem === ADDRESS_REFUSED;
    if (isRefused && near !== null && this.transport.allows(near.address)) {
      const { transport, address, port, local } = near;
      user.onHop({ peer: { transport, address, port }, local });
    } else {
      user.onNoHop(error);
    }
  }

  /** Never empty: throws `SIP_TRANSPORT` when policy refuses every target. */
  #allowed(targets: readonly Target[]): readonly Target[] {
    const allowed = targets.filter(({ address }) => this.transport.allows(address));
    if (allowed.length > 0) return allowed;
    const peer = targets[0]?.address ?? '';
    throw new GatewayError('SIP_TRANSPORT', { peer, problem: ADDRESS_REFUSED });
  }

  /**
   * Of a name's addresses those that a listener of ours can send to. Never empty: where there is
   * none, the first says why.
   */
  #reachable(targets: readonly Target[]): readonly Target[] {
    const allowed = this.#allowed(targets);
    const usable = allowed.filter(({ transport, address, listener }) => {
      return listener !== undefined || this.transport.hasLocal(transport, address);
    });
    return usable.length > 0 ? usable : allowed.slice(0, 1);
  }

  /**
   * The first of the targets, and after it the others; `near` instead, where that is better than
   * what the peer's Contact says.
   */
  #hop(targets: readonly Target[], near: Source | null): Hop {
    let hop: Hop | undefined;
    for (const peer of this.#reachable(targets).toReversed()) {
      const local = this.transport.localFor(peer);
      hop = hop === undefined ? { peer, local } : { peer, local, next: hop };
    }
    const first = hop as Hop;
    if (near !== null && isBetterWay(near, first.peer)) {
      const { transport, address, port, local } = near;
      return { peer: { transport, address, port }, local };
    }
    return first;
  }

  #withVia(request: OutgoingRequest, local: Local, branch: string): OutgoingRequest {
    const { method, uri, body } = request;
    const via: HeaderField = ['Via', this.via(local, branch)];
    return { method, uri, headers: [via, ...request.headers, this.#userAgent], body };
  }
}

/** Of the challenge among the fields of an answer; of several algorithms it is the same. */
function nonceOf(fields: readonly HeaderField[]): string {
  const challenge = fields.find(([name]) => name === 'WWW-Authenticate');
  return challenge === undefined ? '' : (/nonce="([^"]+)"/.exec(challenge[1])?.[1] ?? '');
}

/** About what an INVITE takes beside its SDP and the caller's own headers. */
const OWN_FIELDS_BYTES = 600;

/** Fields of answers that say what we can do, and ask for nothing. */
const DESCRIPTIVE = new Set([
  ...['Allow', 'Accept', 'Accept-Encoding', 'Accept-Language', 'Supported'],
  ...['Allow-Events', 'Recv-Info'],
]);

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
