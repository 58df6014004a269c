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
  bridge: Bridge | null;
  whisper: Whisper | null;
}

export class Children implements ChildCalls {
  readonly #options: ChildrenOptions;
  readonly #children = new Map<CallSid, Child>();

  constructor(options: ChildrenOptions) {
    this.#options = options;
  }

  place(request: DialRequest): void {
    this.#watch(this.#options.table.dial(request));
  }

  record(sid: CallSid): CallRecord | null {
    return this.#find(sid)?.call.record ?? this.#options.table.record(sid);
  }

  send(sid: CallSid, id: string, action: LegAction): void {
    this.#find(sid)?.call.send({ id, ...action });
  }

  hangup(sid: CallSid, code: ErrorCode): void {
    this.#find(sid)?.call.hangup(code);
  }

  whisper(sid: CallSid, from: WhisperSource): void {
    const child = this.#find(sid);
    if (child === undefined || child.whisper !== null || this.isWhispered(sid)) return;
    child.whisper = this.#options.startWhisper(child.call, from);
    // `done` never rejects
    void child.whisper.done.then(() => this.#options.onEvent({ kind: 'child', sid, event: null }));
  }

  isWhispered(sid: CallSid): boolean {
    const flow = asFlow(this.record(sid)?.flow ?? null);
    return flow !== null && flow.restriction === 'whisper' && flow.isOver;
  }

  bridgeEarly(sid: CallSid): void {
    const child = this.#find(sid);
    if (child === undefined || child.bridge !== null) return;
    child.bridge = new Bridge({ a: this.#options.parent, b: child.call, isEarly: true });
    child.bridge.join();
  }

  bridge(sid: CallSid): void {
    const child = this.#find(sid);
    if (child === undefined || child.bridge?.isEarly === false) return;
    // The audio stays joined while the one takes over from the other.
    child.bridge?.leave();
    child.bridge = new Bridge({ a: this.#options.parent, b: child.call });
    child.bridge.join();
  }

  part(sid: CallSid, id: string): void {
    const child = this.#children.get(sid);
    // One that ended by itself has parted them already; one that a former process made has not.
    if (child === undefined || child.bridge === null) {
      this.#options.parent.send({ id, kind: 'unbridge' });
      return;
    }
    child.bridge.close();
    child.bridge = null;
  }

  /** Stops watching. The calls and what joins them go on. */
  close(): void {
    for (const { call, onLeg, onEnded, whisper } of this.#children.values()) {
      call.off('leg', onLeg);
      call.off('ended', onEnded);
      whisper?.close();
    }
    this.#children.clear();
  }

  /** Also one that a former process placed, which is watched from now on. */
  #find(sid: CallSid): Child | undefined {
    const known = this.#children.get(sid);
    if (known !== undefined) return known;
    const call = this.#options.table.find(sid);
    return call && this.#watch(call);
  }

  #watch(call: Call): Child {
    const { sid } = call;
    const known = this.#children.get(sid);
    if (known !== undefined) return known;
    const onLeg = (event: LegEvent): void => {
      if (SEEN.has(event.kind)) this.#options.onEvent({ kind: 'child', sid, event });
    };
    const onEnded = (): void => this.#options.onEvent({ kind: 'child', sid, event: null });
    const child: Child = { call, onLeg, onEnded, bridge: null, whisper: null };
    this.#children.set(sid, child);
    call.on('leg', onLeg);
    call.on('ended', onEnded);
    return child;
  }
}
