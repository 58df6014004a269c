/**
 * What is told of requests that share a dialog with a session and leave it as it is: INFO that
 * passes through, REFER both ways. Data and promises alone; who makes them is `info.ts`,
 * `refer.ts` and `referring.ts`.
 */
import type { HeaderField } from './message.ts';
import type { Replaces } from './replaces.ts';

/** The one event package that is known here (RFC 3515). */
export const ALLOW_EVENTS_FIELD: HeaderField = ['Allow-Events', 'refer'];

/** An INFO that passes through. */
export interface InfoMessage {
  /** Info-Package; '' of the old kind. */
  readonly package: string;
  readonly contentType: string;
  readonly body: string;
}

/** Whom a Refer-To names. */
export interface ReferTarget {
  /** Without header fields and method. */
  readonly uri: string;
  readonly replaces: Replaces | null;
  /** Fields that the URI wants in the INVITE and that a stranger may set: X-… */
  readonly headers: readonly HeaderField[];
}

/** What the peer asks for: exactly one of `accept` and `refuse` is to be called, soon. */
export interface Referral extends ReferTarget {
  /** The CSeq of the REFER: its name within the dialog. */
  readonly id: string;
  /** Referred-By as it came; '' when there is none. */
  readonly referredBy: string;
  /** 202, and the first NOTIFY: 100. */
  accept(): void;
  refuse(status: number, reason?: string): void;
  /** A status of the call that was asked for. The first final one is the last word. */
  tell(status: number, reason?: string): void;
  /** Calls back, once, when the peer has been told all, or cannot be. */
  whenTold(done: () => void): void;
}

/** How a REFER of ours goes; the one with `isOver` is the last. */
export interface ReferProgress {
  readonly id: number;
  /** Of the answer to REFER itself; 408 when there was none, 0 while there is none. */
  readonly status: number;
  /** Of the call it asked for, as the peer says; 0 as long as it says nothing. */
  readonly outcome: number;
  readonly isOver: boolean;
}
