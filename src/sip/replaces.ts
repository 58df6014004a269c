/**
 * Replaces (RFC 3891): the field that names a dialog whose place an INVITE takes, read from an
 * INVITE or out of a Refer-To, written into one of ours, and matched against our dialogs. Who may
 * take whose place is policy, and how a call takes the new dialog is `call/replacing.ts`.
 */
import type { ErrorCode } from '../core/errors.ts';
import type { SipMessage } from './message.ts';

export interface Replaces {
  readonly callId: string;
  /** As the UA that gets the field sees them: `toTag` is its own (§3). */
  readonly toTag: string;
  readonly fromTag: string;
  readonly isEarlyOnly: boolean;
}

/** RFC 3891 §6.1; null when it is not one. */
export function parseReplaces(value: string): Replaces | null {
  const [first = '', ...params] = value.split(';').map((part) => part.trim());
  if (!/^[^\s;,<>]{1,256}$/.test(first)) return null;
  let toTag: string | null = null;
  let fromTag: string | null = null;
  let isEarlyOnly = false;
  for (const param of params) {
    const [name = '', tag = ''] = param.split('=').map((part) => part.trim());
    const word = name.toLowerCase();
    if (word === 'early-only') isEarlyOnly = true;
    else if (word !== 'to-tag' && word !== 'from-tag') continue;
    else if (!/^[^\s;,<>"=]{1,128}$/.test(tag)) return null;
    else if (word === 'to-tag' && toTag === null) toTag = tag;
    else if (word === 'from-tag' && fromTag === null) fromTag = tag;
    else return null;
  }
  if (toTag === null || fromTag === null) return null;
  return { callId: first, toTag, fromTag, isEarlyOnly };
}

export function writeReplaces({ callId, toTag, fromTag, isEarlyOnly }: Replaces): string {
  const early = isEarlyOnly ? ';early-only' : '';
  return `${callId};to-tag=${toTag};from-tag=${fromTag}${early}`;
}

/** What a session tells of itself here. */
export interface Replaceable {
  readonly direction: 'in' | 'out';
  readonly state: 'early' | 'confirmed' | 'terminated';
  /** Policy lets others take its place. */
  readonly mayBeReplaced: boolean;
  /** Whether it has a dialog of this Call-ID and tag of the peer. */
  isDialog(callId: string, remoteTag: string): boolean;
}

/** What an INVITE comes to by its Replaces (§3). */
export interface Replacement<S> {
  readonly refusal: { readonly code: ErrorCode; readonly headers: readonly [] } | null;
  /** Whose place it takes; null: it begins a call of its own. */
  readonly session: S | null;
}

/**
 * The session whose place an INVITE would take. `find` knows sessions by our tag; those that have
 * ended are among them as long as the protocol owes them something.
 */
export function judgeReplaces<S extends Replaceable>(
  request: SipMessage,
  find: (tag: string) => S | undefined,
): Replacement<S> {
  const fields = request.headers('Replaces');
  if (fields.length === 0) return { refusal: null, session: null };
  const replaces = fields.length === 1 ? parseReplaces(fields[0] ?? '') : null;
  // §3: more than one, or with a Join (RFC 3911), asks for what nobody can do.
  if (replaces === null || request.header('Join') !== undefined) return refused('SIP_MALFORMED');
  const session = find(replaces.toTag);
  if (session?.mayBeReplaced !== true || !session.isDialog(replaces.callId, replaces.fromTag)) {
    return refused('SIP_NO_DIALOG');
  }
  if (session.state === 'terminated') return refused('SIP_DIALOG_OVER');
  if (session.state === 'confirmed' && replaces.isEarlyOnly) return refused('SIP_DIALOG_ANSWERED');
  // §3: only an early dialog that we began can be taken over; one that rings here cannot.
  const ringsHere = session.state === 'early' && session.direction === 'in';
  return ringsHere ? refused('SIP_NO_DIALOG') : { refusal: null, session };
}

function refused(code: ErrorCode): Replacement<never> {
  return { refusal: { code, headers: [] }, session: null };
}
