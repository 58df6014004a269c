/**
 * What an interpreter is built from: the services behind it, its bounds and their defaults.
 */
import type { Call } from '../call/call.ts';
import type { HttpMethod } from '../call/call-record.ts';
import type { Clock } from '../core/clock.ts';
import type { GatewayError } from '../core/errors.ts';
import type { Log, Secret } from '../core/log.ts';
import type { AccountSid, CallSid } from '../core/sid.ts';
import type { AppDocument, AppRequest } from './application.ts';
import type { CallTable, Whisper } from './children.ts';
import type { DocumentCache } from './document-cache.ts';
import {
  type BoundVerb,
  DEFAULT_VERB_OPTIONS,
  type Notice,
  type Prompts,
  type Recordings,
  type VerbOptions,
} from './verb.ts';
import { DEFAULT_XML_LIMITS, type XmlLimits } from './xml.ts';

export interface Account {
  readonly sid: AccountSid;
  readonly authToken: Secret;
}

/** The app server, as `application.ts` asks it. */
interface DocumentSource {
  fetch(request: AppRequest, signal?: AbortSignal): Promise<AppDocument>;
  recover(request: AppRequest, error: GatewayError, signal?: AbortSignal): Promise<AppDocument>;
}

export interface DocumentAddress {
  readonly url: string;
  readonly method: HttpMethod;
}

/** Something the app's author should know. */
export interface FlowReport {
  readonly callSid: CallSid;
  readonly accountSid: AccountSid;
  readonly level: 'warning' | 'error';
  /** Of the dictionary; null where it has none. */
  readonly number: number | null;
  readonly text: string;
  /** The document it happened in; null when it was inline. */
  readonly url: string | null;
}

export interface InterpreterParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly application: DocumentSource;
  readonly documents: DocumentCache<BoundVerb | null>;
  readonly promptsOf: (accountSid: AccountSid) => Prompts;
  readonly recordings: Recordings;
  readonly calls: CallTable;
  readonly accountOf: (sid: AccountSid) => Promise<Account> | Account;
  /** Queues a callback; never fails. */
  readonly notify: (callSid: CallSid, accountSid: AccountSid, notice: Notice) => void;
  readonly onReport: (report: FlowReport) => void;
  /** Runs what a callee hears before the bridge, from its record where there is one. */
  readonly startWhisper: (child: Call, from: DocumentAddress) => Whisper;
  readonly options: InterpreterOptions;
}

export interface InterpreterOptions {
  readonly verbs: VerbOptions;
  readonly xml: XmlLimits;
  /** Documents in a row in which nothing was heard, said or awaited; the call ends beyond it. */
  readonly documentsIdleMax: number;
  /** So many of them come at once; each further one waits `documentIntervalMs`. */
  readonly documentsIdleFree: number;
  readonly documentIntervalMs: number;
  readonly inboxMax: number;
  /** Said when neither URI gave a usable document; '' hangs up without a word. */
  readonly errorText: string;
}

export const DEFAULT_INTERPRETER_OPTIONS: InterpreterOptions = {
  verbs: DEFAULT_VERB_OPTIONS,
  xml: DEFAULT_XML_LIMITS,
  documentsIdleMax: 1000,
  documentsIdleFree: 10,
  documentIntervalMs: 250,
  inboxMax: 256,
  errorText: 'We are sorry. An application error has occurred. Goodbye.',
};
