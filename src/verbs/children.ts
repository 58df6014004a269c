/**
 * The calls a call made, as its verbs may use them: placed, watched, ended, whispered to, joined.
 * Holds the `Call` and `Bridge` objects so that no verb has to; what must outlive this process is
 * in the children's own records and in the verb's state, never here.
 */
import { Bridge } from '../call/bridge.ts';
import type { Call } from '../call/call.ts';
import type { CallRecord, HttpMethod } from '../call/call-record.ts';
import type { LegAction, LegEvent } from '../call/leg.ts';
import type { DialRequest } from '../call/route.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import { asFlow, type FlowEvent } from './flow.ts';
import type { ChildCalls } from './verb.ts';

/** The router, as far as verbs need it. */
export interface CallTable {
  dial(request: DialRequest): Call;
  find(sid: CallSid): Call | undefined;
  /** Of a live call, or of one that ended lately. */
  record(sid: CallSid): CallRecord | null;
}

/** Something that runs a document on a call and can be let go of. */
export interface Whisper {
  readonly done: Promise<void>;
  close(): void;
}

interface WhisperSource {
  readonly url: string;
  readonly method: HttpMethod;
}

export interface ChildrenOptions {
  readonly parent: Call;
  readonly table: CallTable;
  readonly onEvent: (event: FlowEvent) => void;
  readonly startWhisper: (child: Call, from: WhisperSource) => Whisper;
}

/** What a parent must see of its children at once; everything else it reads from their records. */
const SEEN: ReadonlySet<LegEvent['kind']> = new Set<LegEvent['kind']>([
  'ringing',
  'answered',
  'playDone',
  'unbridged',
  'commandFailed',
]);

interface Child {
  readonly call: Call;
  readonly onLeg: (event: LegEvent) => void;
  readonly onEnded: () => void;
}

export class Children implements ChildCalls {
  readonly #options: ChildrenOptions;
  readonly #children = new Map<CallSid, Child>();
  readonly #bridges = new Map<CallSid, Bridge>();
  readonly #whispers = new Map<CallSid, Whisper>();

  constructor(options: ChildrenOptions) {
    this.#options = options;
  }

  place(request: DialRequest): void {
    this.#watch(this.#options.table.dial(request));
  }

  record(sid: CallSid): CallRecord | null {
    return this.#find(sid)?.record ?? this.#options.table.record(sid);
  }

  send(sid: CallSid, id: string, action: LegAction): void {
    this.#find(sid)?.send({ id, ...action });
  }

  hangup(sid: CallSid, code: ErrorCode): void {
    this.#find(sid)?.hangup(code);
  }

  whisper(sid: CallSid, from: WhisperSource): void {
    const call = this.#find(sid);
    if (call === undefined || this.#whispers.has(sid) || this.isWhispered(sid)) return;
    const whisper = this.#options.startWhisper(call, from);
    this.#whispers.set(sid, whisper);
    // `done` never rejects
    void whisper.done.then(() => this.#options.onEvent({ kind: 'child', sid, event: null }));
  }

  isWhispered(sid: CallSid): boolean {
    const flow = asFlow(this.record(sid)?.flow ?? null);
    return flow !== null && flow.restriction === 'whisper' && flow.isOver;
  }

  bridge(sid: CallSid): void {
    const call = this.#find(sid);
    if (call === undefined || this.#bridges.has(sid)) return;
    const bridge = new Bridge({ a: this.#options.parent, b: call });
    this.#bridges.set(sid, bridge);
    bridge.join();
  }

  part(sid: CallSid, id: string): void {
    const bridge = this.#bridges.get(sid);
    this.#bridges.delete(sid);
    // One that ended by itself has parted them already; one that a former process made has not.
    if (bridge !== undefined) bridge.close();
    else this.#options.parent.send({ id, kind: 'unbridge' });
  }

  /** Stops watching. The calls and what joins them go on. */
  close(): void {
    for (const { call, onLeg, onEnded } of this.#children.values()) {
      call.off('leg', onLeg);
      call.off('ended', onEnded);
    }
    this.#children.clear();
    for (const whisper of this.#whispers.values()) whisper.close();
    this.#whispers.clear();
  }

  /** Also one that a former process placed, which is watched from now on. */
  #find(sid: CallSid): Call | undefined {
    const known = this.#children.get(sid);
    if (known !== undefined) return known.call;
    const call = this.#options.table.find(sid);
    if (call !== undefined) this.#watch(call);
    return call;
  }

  #watch(call: Call): void {
    if (this.#children.has(call.sid)) return;
    const { sid } = call;
    const onLeg = (event: LegEvent): void => {
      if (SEEN.has(event.kind)) this.#options.onEvent({ kind: 'child', sid, event });
    };
    const onEnded = (): void => this.#options.onEvent({ kind: 'child', sid, event: null });
    this.#children.set(sid, { call, onLeg, onEnded });
    call.on('leg', onLeg);
    call.on('ended', onEnded);
  }
}
