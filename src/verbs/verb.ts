/**
 * What a verb is and what it sees. A verb is a row: how it is written, and what it does with a
 * `VerbContext`. It cannot reach the router, the store or another call, except its own children.
 *
 * How a verb survives the loss of this process: it keeps its state with `save`, and `run` given
 * that state does again whatever the state says is under way. Commands done twice have the same id,
 * so the leg does them once and repeats how they ended. An event stays in the flow until the verb
 * saves or waits again; so `save` comes before the next `await`, always.
 */
import type { SpeechRequest } from '../assets/speech.ts';
import type { CallRecord, HttpMethod, Passage } from '../call/call-record.ts';
import type { LegAction } from '../call/leg.ts';
import type { DialRequest } from '../call/route.ts';
import { type ErrorCode, GatewayError } from '../core/errors.ts';
import type { CallSid, RecordingSid } from '../core/sid.ts';
import type { FlowEvent } from './flow.ts';
import type { AttributeTable, ElementRow, Reader } from './schema.ts';
import type { XmlElement } from './xml.ts';

export interface VerbContext<S extends object = object> {
  /** The call as it is now: who, whence, since when. */
  readonly call: CallRecord;
  /** Names this verb within its call; everything it causes is named `${id}.${step}`. */
  readonly id: string;
  /** What this verb saved last; null when it runs for the first time. */
  readonly state: S | null;
  readonly prompts: Prompts;
  readonly recordings: Recordings;
  readonly children: ChildCalls;
  readonly options: VerbOptions;
  /** Set in the one document that is no application's: that which passes a call on to a trunk. */
  readonly passage: Passage | null;
  save(state: S): void;
  /** Gives the leg a command, with an id made of `step`. */
  send(step: string, action: LegAction): void;
  /** The next event, or null at `untilMs` (on the scale of `nowMs`). Rejects `Interruption`. */
  next(untilMs?: number): Promise<FlowEvent | null>;
  /** Wall clock that does not jump while this process lives. */
  nowMs(): number;
  /** An absolute URL; `null` means the present document. Throws APP_URL, RELATIVE_ACTION. */
  resolve(url: string | null): string;
  /**
   * Tells the app something beside the call: standard parameters and these, to a URL as written.
   * Never fails.
   */
  notify(callback: Notice): void;
  /** Who is asked, as long as this verb runs, when somebody in the call would transfer it. */
  takeRefer(address: { readonly url: string; readonly method: HttpMethod } | null): void;
  /** Something failed that does not stop the verb: told to the app's author, not to the app. */
  report(error: GatewayError): void;
}

export interface Notice {
  readonly url: string;
  readonly method: HttpMethod;
  readonly params: Readonly<Record<string, string>>;
}

export interface VerbOptions {
  /** Waiting for a recording's last word after it was told to stop. */
  readonly recordEndMsMax: number;
  /** Waiting for a prompt to be fetched or spoken. */
  readonly promptMsMax: number;
  /** Waiting for a callee beyond its ring timeout, which its leg keeps itself. */
  readonly dialGraceMs: number;
  /** Waiting for an inbound call to be answered: the answer is repeated for 32 s (Timer H). */
  readonly answerMsMax: number;
}

export const DEFAULT_VERB_OPTIONS: VerbOptions = {
  recordEndMsMax: 5_000,
  promptMsMax: 35_000,
  dialGraceMs: 5_000,
  answerMsMax: 40_000,
};

/** Audio made ready to be played: fetched, spoken, converted, kept until it is released. */
export interface Prompt {
  readonly path: string;
  readonly durationMs: number;
  /** Idempotent. A verb need not: what it was given is let go of when it is over. */
  release(): void;
}

/** The prompts of one account. Who aborts `signal` no longer waits for it. */
export interface Prompts {
  audio(url: string, signal?: AbortSignal): Promise<Prompt>;
  /** With its markup; voice and language '' are as configured. */
  speech(request: SpeechRequest, signal?: AbortSignal): Promise<Prompt>;
}

interface RecordingPlace {
  readonly path: string;
  readonly url: string;
}

export interface RecordingStart {
  readonly sid: RecordingSid;
  readonly call: CallRecord;
  readonly source: 'RecordVerb' | 'DialVerb' | 'OutboundAPI';
  readonly channels: 1 | 2;
  readonly track: 'inbound' | 'outbound' | 'both';
  readonly startedAtMs: number;
}

export interface RecordingEnd {
  readonly sid: RecordingSid;
  /** `absent`: nothing was heard, there is no file worth keeping. */
  readonly status: 'completed' | 'absent' | 'failed';
  readonly durationMs: number;
}

/** The book of recordings. Both are idempotent by sid. */
export interface Recordings {
  begin(start: RecordingStart): Promise<RecordingPlace> | RecordingPlace;
  finish(end: RecordingEnd): void;
}

/** The calls this one made. All are named by sids chosen beforehand, all are idempotent. */
export interface ChildCalls {
  /** Throws when it cannot even be tried (OVERLOADED…). */
  place(request: DialRequest): void;
  /** As it is now, or as it ended; null when nothing is known of it. */
  record(sid: CallSid): CallRecord | null;
  /** Gives its leg a command of that id. */
  send(sid: CallSid, id: string, action: LegAction): void;
  hangup(sid: CallSid, code: ErrorCode): void;
  /** Runs a restricted document on it; a `child` event comes when `isWhispered`. */
  whisper(sid: CallSid, from: { readonly url: string; readonly method: HttpMethod }): void;
  isWhispered(sid: CallSid): boolean;
  /** Lets this call hear it before it is answered; `bridge` takes over from there. */
  bridgeEarly(sid: CallSid): void;
  /** Joins its audio with this call's. */
  bridge(sid: CallSid): void;
  /** Makes sure that they are no longer joined; `id` names the command should one be needed. */
  part(sid: CallSid, id: string): void;
}

/** How a verb ended, and so what comes after it. */
export type Outcome =
  | { readonly kind: 'next' }
  | {
      readonly kind: 'document';
      readonly url: string;
      readonly method: HttpMethod;
      readonly params: Readonly<Record<string, string>>;
    }
  | { readonly kind: 'hangup'; readonly code: ErrorCode };

export const NEXT: Outcome = { kind: 'next' };

export interface VerbRow<T extends AttributeTable, A, S extends object> extends ElementRow<T, A> {
  /** One line for the table of verbs. */
  readonly doc: string;
  /** Whether the call must have been answered before; true unless said otherwise. */
  needsAnswer?(args: A): boolean;
  /** Set when a callee must not meet this verb before the bridge: the error that says so. */
  readonly whisperError?: ErrorCode;
  run(args: A, context: VerbContext<S>): Promise<Outcome>;
  /** Stops what the saved state says is under way; must not wait for long. */
  interrupt?(args: A, context: VerbContext<S>): Promise<void> | void;
}

/** A verb of a document, its arguments inside. */
export interface BoundVerb {
  readonly name: string;
  readonly needsAnswer: boolean;
  readonly whisperError: ErrorCode | null;
  run(context: VerbContext): Promise<Outcome>;
  interrupt(context: VerbContext): Promise<void>;
}

/** A row whose types are closed over, so that rows of all verbs stand in one table. */
export interface Verb {
  readonly name: string;
  readonly doc: string;
  readonly attributes: readonly string[];
  readonly children: readonly string[];
  /** False for those that only give a warning. */
  readonly isAvailable: boolean;
  /** Null when the element does nothing here (a warning was given). */
  bind(element: XmlElement, reader: Reader): BoundVerb | null;
}

export function verb<T extends AttributeTable, A, S extends object>(row: VerbRow<T, A, S>): Verb {
  return {
    name: row.name,
    doc: row.doc,
    attributes: Object.keys(row.attributes),
    children: row.children,
    isAvailable: true,
    bind(element, reader) {
      const args = reader.read(row, element);
      // The state in a verb's context is what this same row saved there.
      return {
        name: row.name,
        needsAnswer: row.needsAnswer?.(args) ?? true,
        whisperError: row.whisperError ?? null,
        run: (context) => row.run(args, context as VerbContext<S>),
        interrupt: async (context) => row.interrupt?.(args, context as VerbContext<S>),
      };
    },
  };
}

/** Answers the call if that was not done; the id is the verb's, so it is done once. */
export async function answer(context: VerbContext): Promise<void> {
  if (context.call.answeredAtMs !== null) return;
  context.send('answer', { kind: 'answer' });
  const untilMs = context.nowMs() + context.options.answerMsMax;
  while (context.call.answeredAtMs === null) {
    const event = await context.next(untilMs);
    if (event === null) throw new GatewayError('CALL_NO_ACK');
    if (event.kind === 'commandFailed' && event.id === `${context.id}.answer`) {
      throw new GatewayError(event.code, event.details);
    }
  }
}

/** A verb of the vocabulary that this gateway does not do yet: said so, and left out. */
export function notYet(name: string): Verb {
  return {
    name,
    doc: 'not available: a warning, and the next verb runs',
    attributes: [],
    children: [],
    isAvailable: false,
    bind(element, reader) {
      reader.warn(element, 12200, `<${name}> is not available here; it is left out`);
      return null;
    },
  };
}
