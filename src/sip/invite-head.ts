/**
 * An INVITE under way as plain data, for a journal: of the request only those fields that its
 * responses, its CANCEL and its ACK are made of (RFC 3261 §8.2.6, §9.1, §17.1.1.3). No description,
 * no credentials, nothing of an application. What another process does with it is `remains.ts`.
 */
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import type { PeerAddress } from './peer.ts';

/** The request line of an INVITE, and its fields. */
export interface InviteHead {
  readonly uri: string;
  readonly fields: readonly HeaderField[];
}

export type InviteRemains =
  /** It came, and has no final answer. */
  | {
      readonly kind: 'received';
      readonly head: InviteHead;
      /** Ours, as its provisional answers had it. */
      readonly toTag: string;
      readonly peer: PeerAddress;
    }
  /** It was sent, and no final answer has come. */
  | { readonly kind: 'sent'; readonly head: InviteHead; readonly peer: PeerAddress };

const RECEIVED_FIELDS: ReadonlySet<string> = new Set([
  ...['via', 'v', 'from', 'f', 'to', 't', 'call-id', 'i', 'cseq', 'max-forwards', 'record-route'],
]);
const SENT_FIELDS: ReadonlySet<string> = new Set([
  ...['via', 'route', 'max-forwards', 'from', 'to', 'call-id', 'cseq'],
]);

/** With its Via as it was stamped when it came: its answers must go the way it came. */
export function headOfReceived(request: SipMessage): InviteHead {
  const fields = request.fields().filter(([name]) => RECEIVED_FIELDS.has(name.toLowerCase()));
  return { uri: request.uri, fields };
}

export function headOfSent({ uri, headers }: OutgoingRequest): InviteHead {
  return { uri, fields: headers.filter(([name]) => SENT_FIELDS.has(name.toLowerCase())) };
}
