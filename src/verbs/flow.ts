/**
 * Where a call's application stands, as plain data, and the names of what it does.
 *
 * A `FlowRecord` lies in the call's record and so in the journal. Whoever reads it can go on from
 * there: the document's text, which verb runs, that verb's own state, and the events that came but
 * were not taken yet. Everything a verb causes is named after its place in the flow, never by
 * chance: done again after a rebuild it has the same name, and leg and router then know it.
 *
 * There is one record for each call, changed in place by its `Course` alone: the journal reads it
 * when it writes, so what was in between is nobody's to copy.
 */
import { hash } from 'node:crypto';
import type { HttpMethod } from '../call/call-record.ts';
import type { LegEvent } from '../call/leg.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import type { CallSid, Sid, SidPrefix } from '../core/sid.ts';

/** What may be in a document: everything, or what may be said to a callee before the bridge. */
type Restriction = 'none' | 'whisper';

export interface FlowDocument {
  readonly text: string;
  /** Where it came from, after redirects; null for one that was handed over inline. */
  readonly url: string | null;
  readonly method: HttpMethod;
  /** The secondary URI gave it, or it is the policy's own: an error in it ends the call. */
  readonly isLast: boolean;
}

/** A document to be asked for; what runs now is over. */
export interface FlowRequest {
  readonly url: string;
  readonly method: HttpMethod;
  /** Beyond the standard parameters. */
  readonly params: Readonly<Record<string, string>>;
  /** Set when the secondary URI is to be asked because of this. */
  readonly error: { readonly code: ErrorCode; readonly details: ErrorDetails } | null;
}

/** What a verb hears: its own leg, or that something changed with a child call. */
export type FlowEvent =
  | LegEvent
  | { readonly kind: 'child'; readonly sid: CallSid; readonly event: LegEvent | null };

export interface FlowRecord {
  readonly version: 1;
  readonly restriction: Restriction;
  /** Number of the present document within its call, from 1; 0 before the first. */
  readonly documentNo: number;
  readonly document: FlowDocument | null;
  /** Verb that runs, counted from 0 among those directly below the root. */
  readonly cursor: number;
  /** What that verb keeps; null until it has kept something. */
  readonly state: object | null;
  readonly request: FlowRequest | null;
  /** Given from outside: the running verb is to be interrupted for this document. */
  readonly redirect: FlowDocument | FlowRequest | null;
  readonly inbox: FlowEvent[];
  /** Documents in a row in which nothing was heard, said or awaited. */
  readonly idleDocuments: number;
  /** Cookies of the app server, as the application client made them. */
  readonly cookies: string;
  /** Who is asked what to do when the far end would transfer the call; absent: nobody. */
  readonly refer?: { readonly url: string; readonly method: HttpMethod } | null;
  /** Code the call ends with when the verbs run out. */
  readonly endCode: ErrorCode;
  readonly isOver: boolean;
}

export function newFlow(): FlowRecord {
  return {
    version: 1,
    restriction: 'none',
    documentNo: 0,
    document: null,
    cursor: 0,
    state: null,
    request: null,
    redirect: null,
    inbox: [],
    idleDocuments: 0,
    cookies: '',
    endCode: 'CALL_COMPLETED',
    isOver: false,
  };
}

/** Nothing was begun. */
export function isNew(flow: FlowRecord): boolean {
  const { documentNo, document, request, redirect } = flow;
  return documentNo === 0 && document === null && request === null && redirect === null;
}

/** The record in a call's journal, if it is one of ours. */
export function asFlow(kept: object | null): FlowRecord | null {
  return kept !== null && 'version' in kept && kept.version === 1 ? (kept as FlowRecord) : null;
}

/**
 * A sid that the same place of the same flow always gets: the time its call's sid begins with, then
 * 80 bits of a hash. By time, as all sids: rows with random keys cost the database twice as much.
 */
export function sidOf<P extends SidPrefix>(prefix: P, callSid: CallSid, place: string): Sid<P> {
  const hex = hash('sha256', `${callSid}/${prefix}/${place}`, 'hex');
  return `${prefix}${callSid.slice(2, 14)}${hex.slice(0, 20)}` as Sid<P>;
}

type Why = 'ended' | 'redirected' | 'closed';

/**
 * Thrown by a wait that ends because of something else than what it waits for. Every call ends with
 * one, so there are three for all of them: where it was thrown says nothing, and taking a stack
 * costs more than all else about it.
 */
export class Interruption extends Error {
  static readonly #all: Readonly<Record<Why, Interruption>> = {
    ended: new Interruption('ended'),
    redirected: new Interruption('redirected'),
    closed: new Interruption('closed'),
  };
  readonly why: Why;

  private constructor(why: Why) {
    super(`interrupted: ${why}`);
    this.name = 'Interruption';
    this.why = why;
    // Of this file's loading, which would only mislead.
    this.stack = `${this.name}: ${this.message}`;
  }

  static of(why: Why): Interruption {
    return Interruption.#all[why];
  }
}
