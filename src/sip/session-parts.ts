/**
 * What a session is made with, and what it needs of the endpoint that makes it.
 */
import type { CallCredentials } from './challenge.ts';
import type { Dialog } from './dialog.ts';
import type { SipMessage } from './message.ts';
import type { PeerAddress, Source } from './peer.ts';
import type { SessionOptions, SessionPolicy, SessionState } from './session-report.ts';
import type { UserAgent } from './user-agent.ts';

/** What a session needs of the endpoint. */
export interface SessionHost {
  readonly ua: UserAgent;
  readonly sessionOptions: SessionOptions;
  /** Nothing more will come from or for this session. */
  release(session: { readonly id: string }): void;
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
  /** Of an incoming INVITE: who the policy found it to be; null when it found nobody. */
  readonly identity?: string | null;
  /** Of an incoming INVITE: the id of the session whose place it is to take (RFC 3891). */
  readonly replaces?: string | null;
  /** How the peer wants its calls; the endpoint's own when absent. */
  readonly policy?: SessionPolicy;
}

/** What a change is asked with, and in which early dialog, where there are several. */
export interface ReofferOptions {
  readonly method?: 'INVITE' | 'UPDATE';
  readonly dialog?: string;
}
