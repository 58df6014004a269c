/**
 * What the parts of one session share: its INVITE usage of a dialog (RFC 5057 §3). Who we are in
 * it, how the peer is reached, which extensions are in use, which INVITE of the peer came last.
 * Fields and hardly a rule: `session.ts` makes it and tells what happens.
 */
import { GatewayError } from '../core/errors.ts';
import { abilities } from './abilities.ts';
import type { CallCredentials } from './challenge.ts';
import type { Dialog } from './dialog.ts';
import type { InviteServer } from './invite-server.ts';
import type { HeaderField } from './message.ts';
import type { Local, Source } from './peer.ts';
import type { SessionOptions, SessionPolicy, SessionRecord } from './session-report.ts';
import type { SessionTimerRecord } from './session-timer.ts';
import type { UserAgent } from './user-agent.ts';

/** What of a record is the session's own. */
type Whereabouts = Pick<SessionRecord, 'id' | 'direction' | 'state' | 'peer'>;

export class DialogUsage {
  readonly ua: UserAgent;
  /** Our tag. */
  readonly id: string;
  readonly direction: 'in' | 'out';
  readonly credentials: CallCredentials | null;
  readonly options: SessionOptions;
  policy: SessionPolicy;
  /** Of an outgoing call, not before its 2xx; what is early is `early-dialog.ts`. */
  dialog: Dialog | null;
  /** Where the peer was last heard from, and on what. */
  near: Source | null;
  /** The peer's INVITE that came last, first of the call or within it. */
  server: InviteServer | null = null;
  /** Our last description that was agreed on, '' before that: what a refresh repeats. */
  localSdp = '';
  /** Asked for with a sips URI, by the peer or by us: our Contact is one too. */
  isSips: boolean;

  constructor(options: {
    ua: UserAgent;
    id: string;
    direction: 'in' | 'out';
    credentials: CallCredentials | null;
    options: SessionOptions;
    policy: SessionPolicy;
    dialog: Dialog | null;
    near: Source | null;
  }) {
    this.ua = options.ua;
    this.id = options.id;
    this.direction = options.direction;
    this.credentials = options.credentials;
    this.options = options.options;
    this.policy = options.policy;
    this.dialog = options.dialog;
    this.near = options.near;
    this.isSips = options.dialog?.isSips ?? false;
  }

  /** As plain data. Throws `SIP_NO_DIALOG` while there is no dialog to speak of. */
  record(timer: SessionTimerRecord | null): Omit<SessionRecord, keyof Whereabouts> {
    const { dialog, credentials, localSdp } = this;
    if (dialog === null) throw new GatewayError('SIP_NO_DIALOG');
    const scope = credentials?.scope;
    const unacknowledged = this.server?.unacknowledged ?? null;
    return {
      ...dialog.record(),
      ...(scope === undefined ? {} : { credentialScope: scope }),
      ...(timer === null ? {} : { timer }),
      ...(unacknowledged === null ? {} : { unacknowledged }),
      ...(timer?.isRefresher === true ? { localSdp } : {}),
    };
  }

  contact(local: Local): HeaderField {
    return ['Contact', this.ua.contact(local, this.isSips)];
  }

  /** What we can, on requests within the dialog and on 2xx (RFC 3261 §20.37). */
  abilities(): readonly HeaderField[] {
    return abilities('standing', this.policy, this.options);
  }

  /** The same on the first INVITE, and what policy asks of the peer there. */
  firstAbilities(): HeaderField[] {
    return abilities('first', this.policy, this.options);
  }

  /** Told to OPTIONS. */
  allAbilities(): HeaderField[] {
    return abilities('described', this.policy, this.options);
  }
}
