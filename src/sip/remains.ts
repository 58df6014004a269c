/**
 * What is left of an INVITE when the process that had it under way is gone, as plain data, and how
 * another process ends it properly: a caller who still rings is refused (RFC 3261 §17.2.1), a
 * callee who still rings is told to stop (§9.1), and one who answers all the same is acknowledged
 * and hung up (§13.2.2.4, §15). Not a dialog that stands: that is taken up again (`session.ts`).
 */
import { GatewayError } from '../core/errors.ts';
import { Bye, type ByeOwner } from './bye.ts';
import { dialogOfResponse, formatParty } from './dialog.ts';
import type { InviteHead, InviteRemains } from './invite-head.ts';
import { type HeaderField, parseNameAddr, type SipMessage, serializeRequest } from './message.ts';
import { parseMessage } from './parser.ts';
import type { Hop, PeerAddress, Source } from './peer.ts';
import type { ClientTransaction, ClientUser, ServerTransaction } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

/** The transaction of an INVITE of a former process; null when it is there already, or no more. */
export function acceptAgain(
  ua: UserAgent,
  head: InviteHead,
  source: Source,
): ServerTransaction | null {
  const headers = [...head.fields];
  const text = serializeRequest({ method: 'INVITE', uri: head.uri, headers, body: '' });
  const parsed = parseMessage(text, { stream: false });
  if (!parsed.ok) throw parsed.error;
  if (ua.transactions.isRepetition(parsed.message)) return null;
  return ua.transactions.accept(parsed.message, source, null);
}

/** Where a former process heard a peer. The connection, if it was one, has gone with it. */
function sourceAt(ua: UserAgent, peer: PeerAddress): Source {
  return { ...peer, local: ua.transport.localFor(peer), connection: null };
}

/** The final answer that is owed. Timers G and H repeat it until its ACK comes (§17.2.1). */
export function refuseRemains(
  ua: UserAgent,
  { head, toTag, peer }: InviteRemains & { readonly kind: 'received' },
  status: number,
  headers: HeaderField[],
): void {
  const transaction = acceptAgain(ua, head, sourceAt(ua, peer));
  if (transaction === null) return;
  transaction.toTag = toTag;
  ua.answer(transaction, status, { toTag, headers });
}

/** Acknowledged and hung up are the answers of so many branches of a fork. */
const BRANCHES_MAX = 16;

const NOBODY: ClientUser = { onResponse: () => {}, onFailure: () => {} };

/** An INVITE that a former process sent, and nobody wants any more. */
export class AbandonedInvite implements ClientUser {
  readonly #ua: UserAgent;
  readonly #head: InviteHead;
  /** By the callee's tag: sends the ACK of its 2xx, null until the way to it is known. */
  readonly #acknowledge = new Map<string, (() => void) | null>();

  constructor(ua: UserAgent, head: InviteHead) {
    this.#ua = ua;
    this.#head = head;
  }

  /**
   * DEVIATES: §9.1 has CANCEL wait for a provisional answer, so that it cannot overtake its INVITE.
   * That was sent before this process began; an answer to it may have come while nobody listened,
   * and another one may not come for minutes.
   */
  cancel(peer: PeerAddress): void {
    const ua = this.#ua;
    const { uri, fields } = this.#head;
    const branch = /;\s*branch=([^\s;,]+)/i.exec(this.#field('Via'))?.[1] ?? '';
    const local = ua.transport.localFor(peer);
    const request = { method: 'INVITE', uri, headers: [...fields], body: '' };
    const callId = this.#field('Call-ID');
    const sent = { request, branch, callId, peer, local, user: this, isSent: true };
    ua.cancel(ua.transactions.request(sent), [], NOBODY);
  }

  onResponse(_transaction: ClientTransaction, response: SipMessage, source: Source): void {
    const { status, toTag } = response;
    if (status < 200 || status > 299) return;
    const known = this.#acknowledge.get(toTag);
    if (known !== undefined) known?.();
    else if (this.#acknowledge.size < BRANCHES_MAX) this.#hangUp(response, source);
  }

  onFailure(): void {
    // Nobody there has anything to say any more.
  }

  /** §9.1: CANCEL has no effect on who has answered already. */
  #hangUp(response: SipMessage, source: Source): void {
    const ua = this.#ua;
    const { toTag, cseq, callId } = response;
    this.#acknowledge.set(toTag, null);
    const { uriText, display, params } = parseNameAddr(this.#field('From'));
    const dialog = dialogOfResponse(response, {
      localParty: formatParty(uriText, display),
      localTag: params.get('tag') ?? '',
      sequence: cseq,
      uri: this.#head.uri,
    });
    const owner: ByeOwner = {
      onByeHop: (_bye, hop: Hop) => {
        const text = ua.acknowledgement(dialog.request('ACK', cseq), hop.local);
        const send = (isRepeated: boolean) => ua.acknowledge(text, hop, callId, isRepeated);
        this.#acknowledge.set(toTag, () => send(true));
        send(false);
      },
      onByeDone: () => {},
    };
    new Bye({ ua, owner, dialog, fields: [], challenge: null }).send(source);
  }

  #field(wanted: string): string {
    const field = this.#head.fields.find(([name]) => name === wanted);
    if (field === undefined) throw new GatewayError('INTERNAL', { problem: `no ${wanted}` });
    return field[1];
  }
}
