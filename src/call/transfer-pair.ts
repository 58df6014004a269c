/**
 * The end of an attended transfer whose two dialogs are both ours (RFC 3891): two calls lose who
 * asked for it and get each other. Their records say so before anything is asked of a peer, so
 * that each may hang up at any time and a restarted node goes on where it was; when it fails, the
 * records and the audio are as before. Who may ask, and who is told, is `transfer.ts`.
 */
import type { CallSid } from '../core/sid.ts';
import type { Call } from './call.ts';
import type { CallRecord } from './call-record.ts';
import { type JoinFailure, Joining } from './transfer-join.ts';

/** What a call's end takes with it. */
export type Ends = Pick<CallRecord, 'endsWithParent' | 'endsWith'>;

/** One of the two dialogs. */
export interface TransferSide {
  /** Of the one who asks. */
  readonly leaver: Call;
  readonly stayer: Call;
  /** What the stayer's record said before. */
  readonly before: Ends;
}

export class TransferPair {
  readonly first: TransferSide;
  readonly second: TransferSide;
  /** What became of it; once. */
  readonly #onDone: (pair: TransferPair, failure: JoinFailure | null) => void;

  constructor(options: {
    first: TransferSide;
    second: TransferSide;
    onDone: (pair: TransferPair, failure: JoinFailure | null) => void;
  }) {
    this.first = options.first;
    this.second = options.second;
    this.#onDone = options.onDone;
  }

  /** One of the four, which no other transfer may be about meanwhile. */
  has(call: Call): boolean {
    return this.#sides().some(([{ leaver, stayer }]) => leaver === call || stayer === call);
  }

  isStayer(sid: CallSid): boolean {
    return this.first.stayer.sid === sid || this.second.stayer.sid === sid;
  }

  start(): void {
    for (const [{ leaver, stayer }, { stayer: next }] of this.#sides()) {
      // Each finds the other by it when it ends, after a restart as well.
      const { childSids } = stayer.record;
      if (!childSids.includes(next.sid)) stayer.relate({ childSids: [...childSids, next.sid] });
      leaver.relate({ transferredTo: next.sid });
    }
    const joining = new Joining({ a: this.first.stayer, b: this.second.stayer });
    joining.once('joined', () => this.#onDone(this, null));
    joining.once('failed', (failure) => {
      this.#undo();
      this.#onDone(this, failure);
    });
    joining.start();
  }

  /** A leaver that does not wait for the outcome: the document of his partner has the next one. */
  left(sid: CallSid): void {
    for (const [{ leaver, stayer }, { stayer: next }] of this.#sides()) {
      if (leaver.sid === sid && next.isLive) next.relate({ bridgedTo: stayer.sid });
    }
  }

  #undo(): void {
    for (const [{ leaver, stayer, before }, { stayer: next }] of this.#sides()) {
      if (leaver.isLive) leaver.relate({ transferredTo: null });
      if (!stayer.isLive) continue;
      const { endsWith, bridgedTo } = stayer.record;
      const childSids = stayer.record.childSids.filter((sid) => sid !== next.sid);
      stayer.relate({ childSids, ...(bridgedTo === next.sid ? { bridgedTo: null } : {}) });
      if (leaver.isLive) {
        stayer.relate(before);
        new Joining({ a: leaver, b: stayer }).start();
      } else if (endsWith === next.sid) {
        // He has nobody any more; a document that runs him goes on by itself.
        stayer.hangup('CALL_COMPLETED');
      }
    }
  }

  #sides(): readonly (readonly [side: TransferSide, other: TransferSide])[] {
    return [
      [this.first, this.second],
      [this.second, this.first],
    ];
  }
}

/**
 * Transfers that a former process began and did not end: two that have each other in their records
 * while who gave them away is still there.
 */
export function interrupted(
  calls: Iterable<Call>,
  find: (sid: CallSid) => Call | undefined,
): { first: TransferSide; second: TransferSide }[] {
  const found: { first: TransferSide; second: TransferSide }[] = [];
  const leavers = new Map<string, Call>();
  const all = [...calls];
  for (const call of all) {
    const { bridgedTo, transferredTo } = call.record;
    if (bridgedTo !== null && transferredTo !== null) {
      leavers.set(`${bridgedTo} ${transferredTo}`, call);
    }
  }
  for (const [key, leaver] of leavers) {
    const [stayer, next] = key.split(' ').map((sid) => find(sid as CallSid));
    if (stayer === undefined || next === undefined || stayer === next) continue;
    const other = leavers.get(`${next.sid} ${stayer.sid}`);
    if (other === undefined || found.some(({ second }) => second.leaver === leaver)) continue;
    if (!isMutual(stayer, next)) continue;
    found.push({
      first: { leaver, stayer, before: endsBefore(leaver, stayer, next.sid) },
      second: { leaver: other, stayer: next, before: endsBefore(other, next, stayer.sid) },
    });
  }
  return found;
}

function isMutual({ record: a }: Call, { record: b }: Call): boolean {
  return a.childSids.includes(b.sid) && b.childSids.includes(a.sid);
}

/** As `detach` found it, read from what it made of it. */
function endsBefore(leaver: Call, { record }: Call, next: CallSid): Ends {
  const { endsWithParent, endsWith, parentCallSid } = record;
  if (endsWith !== next) return { endsWithParent, endsWith };
  const isChild = parentCallSid === leaver.sid;
  return { endsWithParent: isChild, endsWith: isChild ? null : leaver.sid };
}
