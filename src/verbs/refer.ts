/**
 * `<Refer>`: hands the caller over to a SIP address of somebody else, by REFER (RFC 3515). What
 * the peer answers and notifies is told to `action`; when it has taken the call, ours ends, as the
 * transferor's does (RFC 5589 §6), and what `action` answers runs for nobody.
 */
import { GatewayError } from '../core/errors.ts';
import { sipTarget } from './dial-target.ts';
import { type FlowEvent, Interruption } from './flow.ts';
import { type ElementRow, method, url } from './schema.ts';
import { NEXT, type Outcome, type VerbContext, type VerbRow, verb } from './verb.ts';

const ATTRIBUTES = { action: url(), method: method() };

interface Refer {
  readonly action: string | null;
  readonly method: 'GET' | 'POST';
  /** As written; what is no SIP address is told when the verb runs. */
  readonly target: string;
}

interface ReferState {
  /** Of REFER itself, and of the call as the peer told; 0: not told. */
  readonly sipStatus: number;
  readonly notifiedStatus: number;
  readonly isOver: boolean;
}

const SIP_ROW: ElementRow<Record<never, never>, string> = {
  name: 'Sip',
  attributes: {},
  children: [],
  hasText: true,
  read: (_values, { text }) => text,
};

const ROW: VerbRow<typeof ATTRIBUTES, Refer, ReferState> = {
  name: 'Refer',
  doc: 'hands the caller over to a SIP address',
  attributes: ATTRIBUTES,
  children: ['Sip'],
  hasText: false,
  read(values, { children, reader }) {
    const [target = ''] = children.map((child) => reader.read(SIP_ROW, child));
    return { action: values.action, method: values.method, target };
  },
  run: refer,
};

export const REFER = verb(ROW);

async function refer(args: Refer, context: VerbContext<ReferState>): Promise<Outcome> {
  const action = args.action === null ? null : context.resolve(args.action);
  const target = sipTarget(args.target, null);
  if (target === null || target.kind !== 'sip') {
    throw new GatewayError('REFER_NOT_SIP', { uri: args.target.slice(0, 64) });
  }
  const { uri, headers } = target;
  const { from, to, direction } = context.call;
  const ours = direction === 'inbound' ? to : from;
  const referredBy = /^sips?:/i.test(ours) ? ours : '';
  context.send('refer', { kind: 'refer', uri, headers, referredBy });
  try {
    while (context.state?.isOver !== true) take(await context.next(), context);
    if (isTaken(context.state)) {
      context.send('bye', { kind: 'hangup', code: 'CALL_COMPLETED' });
      for (;;) await context.next();
    }
  } catch (thrown) {
    // The peer may hang up as soon as it has the other call.
    if (!(thrown instanceof Interruption) || thrown.why !== 'ended') throw thrown;
  }
  if (action === null) return NEXT;
  return { kind: 'document', url: action, method: args.method, params: result(context.state) };
}

function take(event: FlowEvent | null, context: VerbContext<ReferState>): void {
  if (event?.kind !== 'referProgress' || event.id !== `${context.id}.refer`) return;
  const { sipStatus, notifiedStatus, isOver } = event;
  context.save({ sipStatus, notifiedStatus, isOver });
}

function isTaken(state: ReferState | null): boolean {
  return state !== null && state.notifiedStatus >= 200 && state.notifiedStatus < 300;
}

function result(state: ReferState | null): Readonly<Record<string, string>> {
  const { sipStatus = 0, notifiedStatus = 0 } = state ?? {};
  return {
    ReferCallStatus: statusOf(sipStatus, notifiedStatus),
    ...(sipStatus === 0 ? {} : { ReferSipResponseCode: String(sipStatus) }),
    ...(notifiedStatus === 0 ? {} : { NotifySipResponseCode: String(notifiedStatus) }),
  };
}

/** In the words of a call's status. A transfer that was begun and not told of goes on. */
function statusOf(sipStatus: number, notifiedStatus: number): string {
  if (sipStatus >= 300) return 'failed';
  if (notifiedStatus < 300) return sipStatus === 0 ? 'canceled' : 'in-progress';
  switch (notifiedStatus) {
    case 486:
    case 600:
      return 'busy';
    case 408:
    case 480:
      return 'no-answer';
    case 487:
      return 'canceled';
    default:
      return 'failed';
  }
}
