/**
 * Runs documents on one call: asks the app, runs verb after verb, follows `action` and redirects,
 * and when something fails asks the secondary URI once, then does what policy says.
 *
 * Where it stands is the call's flow record (`flow.ts`), so an interpreter may be thrown away at
 * any time: another one made for the same call goes on. What verbs there are is the `VERBS` table;
 * what they do is in their files.
 */
import type { Call } from '../call/call.ts';
import { type CallApplication, type HttpMethod, wasInVain } from '../call/call-record.ts';
import { sleep } from '../core/clock.ts';
import { asGatewayError, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { AppDocument, AppRequest } from './application.ts';
import { Children } from './children.ts';
import { RunningVerb } from './context.ts';
import { HANG_UP, REDIRECT, REJECT } from './control.ts';
import { Course } from './course.ts';
import { DIAL } from './dial.ts';
import { type Document, documentText, escapeXml, type VerbReaders } from './document.ts';
import {
  asFlow,
  type FlowDocument,
  type FlowRecord,
  type FlowRequest,
  Interruption,
  isNew,
  newFlow,
} from './flow.ts';
import { GATHER } from './input.ts';
import type {
  Account,
  DocumentAddress,
  FlowReport,
  InterpreterParts,
} from './interpreter-parts.ts';
import { PAUSE, PLAY, SAY } from './output.ts';
import { standardParameters } from './parameters.ts';
import { RECORD } from './record.ts';
import { REFER } from './refer.ts';
import { answer, type BoundVerb, type Notice, notYet, type Outcome, type Verb } from './verb.ts';

/** The vocabulary. A verb is one row: its name, attributes, children and doc line are in it. */
export const VERBS: readonly Verb[] = [
  SAY,
  PLAY,
  PAUSE,
  GATHER,
  RECORD,
  DIAL,
  REDIRECT,
  HANG_UP,
  REJECT,
  REFER,
  notYet('Connect'),
  notYet('Echo'),
  notYet('Enqueue'),
  notYet('Leave'),
  notYet('Pay'),
  notYet('Prompt'),
  notYet('Queue'),
  notYet('Sms'),
  notYet('Start'),
  notYet('Stop'),
];

export const READERS: VerbReaders<BoundVerb | null> = new Map(
  VERBS.map((verb) => [verb.name, verb.bind]),
);

export class Interpreter {
  /** Resolves when there is nothing left to run, or after `close`. Never rejects. */
  readonly done: Promise<void>;
  readonly #parts: InterpreterParts;
  readonly #call: Call;
  readonly #course: Course;
  readonly #children: Children;
  #parsed: { readonly documentNo: number; readonly document: Document<BoundVerb | null> } | null =
    null;

  private constructor(call: Call, flow: FlowRecord, parts: InterpreterParts) {
    this.#parts = parts;
    this.#call = call;
    const { inboxMax } = parts.options;
    this.#course = new Course({ call, clock: parts.clock, flow, inboxMax });
    this.#children = new Children({
      parent: call,
      table: parts.calls,
      onEvent: (event) => this.#course.post(event),
      startWhisper: parts.startWhisper,
    });
    this.done = this.#run();
  }

  /** Runs the call's own application: from its record where there is one, else from the start. */
  static start(call: Call, parts: InterpreterParts): Interpreter {
    return new Interpreter(call, asFlow(call.record.flow) ?? newFlow(), parts);
  }

  /** Runs what a callee hears before the bridge. The call goes on when it is over. */
  static whisper(call: Call, from: DocumentAddress, parts: InterpreterParts): Interpreter {
    const request: FlowRequest = { ...from, params: {}, error: null };
    const flow = asFlow(call.record.flow) ?? { ...newFlow(), restriction: 'whisper', request };
    return new Interpreter(call, flow, parts);
  }

  /** Takes over a call that ran something else, or nothing: a callee whom REST redirects. */
  static takeOver(call: Call, parts: InterpreterParts, to: FlowRequest | null): Interpreter {
    // Numbers go on, so that ids of what is done now differ from those of what was done.
    const documentNo = asFlow(call.record.flow)?.documentNo ?? 0;
    if (call.record.bridgedTo !== null) call.act({ kind: 'unbridge' });
    call.saveFlow({
      ...newFlow(),
      documentNo,
      redirect: to ?? firstPlace(call.record.application),
    });
    return Interpreter.start(call, parts);
  }

  get isOver(): boolean {
    return this.#course.flow.isOver || this.#course.why === 'closed';
  }

  /** Whether it runs only what a callee hears before the bridge. */
  get isWhisper(): boolean {
    return this.#course.flow.restriction === 'whisper';
  }

  /** Interrupts the running verb; goes on there, or begins with the call's application anew. */
  redirect(to: FlowRequest | null): void {
    this.#course.save({ redirect: to ?? firstPlace(this.#call.record.application) });
    this.#course.interrupt('redirected');
  }

  /** Lets go of the call as it is; another interpreter may go on from its record. */
  close(): void {
    this.#course.close();
    this.#children.close();
  }

  async #run(): Promise<void> {
    const course = this.#course;
    // A turn later, so that who makes one has it in his hands before anything happens.
    await null;
    try {
      if (isNew(course.flow)) await this.#begin();
      while (!course.flow.isOver) {
        try {
          await this.#step();
        } catch (thrown) {
          this.#stepFailed(thrown);
        }
      }
    } catch (thrown) {
      this.#stopped(thrown);
    }
    if (course.why !== 'closed') this.close();
  }

  /** Every error of a step ends here: interruptions decide what runs next, faults go to the app. */
  #stepFailed(thrown: unknown): void {
    if (!(thrown instanceof Interruption)) this.#failed(asGatewayError(thrown));
    else if (thrown.why !== 'redirected') throw thrown;
  }

  /** Anything but the end of the call or of this object is a fault of ours. */
  #stopped(thrown: unknown): void {
    if (thrown instanceof Interruption) {
      if (thrown.why === 'ended') this.#course.save({ isOver: true, inbox: [] });
      return;
    }
    const error = asGatewayError(thrown);
    this.#parts.log.error({ callSid: this.#call.sid, err: error }, 'interpreter failed');
    this.#call.hangup(error.code, error.message);
  }

  /** Before the first document: an outgoing call is answered, and sent the keys it waits for. */
  async #begin(): Promise<void> {
    const { record } = this.#call;
    const course = this.#course;
    if (record.direction !== 'inbound') {
      while (record.answeredAtMs === null) await course.next();
      if (record.sendDigits !== null) await this.#sendDigits(record.sendDigits);
    }
    course.save({ redirect: firstPlace(record.application) });
  }

  async #sendDigits(digits: string): Promise<void> {
    const playId = 'v0.sendDigits';
    this.#call.send({ id: playId, kind: 'sendDigits', playId, digits });
    for (;;) {
      const event = await this.#course.next();
      if (event?.kind === 'playDone' && event.playId === playId) return;
      if (event?.kind === 'commandFailed' && event.id === playId) return;
    }
  }

  #step(): Promise<void> {
    const { flow } = this.#course;
    if (flow.redirect !== null) return this.#redirected(flow.redirect);
    if (flow.request !== null) return this.#ask(flow.request);
    return this.#runVerb();
  }

  /** Stops what runs, then takes what was handed over. */
  async #redirected(redirect: FlowDocument | FlowRequest): Promise<void> {
    const course = this.#course;
    course.goOn();
    const { document, request } = course.flow;
    if (document !== null && request === null) {
      const context = this.#context(document);
      try {
        await this.#verb()?.interrupt(context);
      } catch (thrown) {
        if (thrown instanceof Interruption) throw thrown;
        this.#report(asGatewayError(thrown));
      }
      // Another one may have come meanwhile; it has nothing left to interrupt.
      course.save({ state: null });
    }
    if (course.flow.redirect !== redirect) return;
    if ('error' in redirect && redirect.error !== null) this.#report(errorOf(redirect.error));
    this.#enter(placeOf(redirect));
  }

  // --- Documents ---------------------------------------------------------------------------------

  async #ask(request: FlowRequest): Promise<void> {
    const { application } = this.#parts;
    const course = this.#course;
    await this.#idleGuard();
    const account = await this.#parts.accountOf(this.#call.record.accountSid);
    const asked = this.#appRequest(request, account);
    let answered: AppDocument;
    try {
      answered =
        request.error === null
          ? await application.fetch(asked, course.signal)
          : await application.recover(asked, errorOf(request.error), course.signal);
    } catch (thrown) {
      // The secondary was asked already, where there is one. An abort says why in its own way.
      if (course.why !== null) throw Interruption.of(course.why);
      this.#policy(asGatewayError(thrown));
      return;
    }
    const { url, method, cookies, recoveredFrom } = answered;
    if (recoveredFrom !== null && request.error === null) this.#report(recoveredFrom);
    const isLast = recoveredFrom !== null;
    course.save({ cookies });
    try {
      const text = documentText(answered, this.#parts.options.xml);
      this.#enter({ document: { text, url, method, isLast }, request: null });
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#report(error);
      if (isLast) this.#policy(error, true);
      else this.#recover(error, { url: request.url, method: request.method });
    }
  }

  #appRequest(request: FlowRequest, account: Account): AppRequest {
    const call = this.#call.record;
    const { application } = call;
    const fallbackUrl = this.#course.flow.restriction === 'none' ? application?.fallbackUrl : null;
    return {
      url: request.url,
      method: request.method,
      params: { ...standardParameters(call, account.authToken), ...request.params },
      callSid: call.sid,
      account,
      cookies: this.#course.flow.cookies,
      ...(application && fallbackUrl
        ? { fallback: { url: fallbackUrl, method: application.fallbackMethod } }
        : {}),
    };
  }

  /** Makes a document the present one. Throws when its text is none. */
  #enter(place: Pick<FlowRecord, 'document' | 'request'>): void {
    const course = this.#course;
    const next = { ...place, redirect: null, cursor: 0, state: null, refer: null };
    if (place.document === null) {
      course.save(next);
      return;
    }
    const documentNo = course.flow.documentNo + 1;
    const document = this.#parse(place.document);
    this.#parsed = { documentNo, document };
    course.save({ ...next, documentNo, idleDocuments: course.flow.idleDocuments + 1 });
    for (const { number, text, line, column } of document.warnings) {
      this.#tell('warning', number, `${line}:${column}: ${text}`, place.document.url);
    }
  }

  #parse({ text, url }: FlowDocument): Document<BoundVerb | null> {
    return this.#parts.documents.read(text, url ?? '(inline)');
  }

  /** A flow that only goes from document to document must end some time, and not be fast. */
  async #idleGuard(): Promise<void> {
    const { documentsIdleMax, documentsIdleFree, documentIntervalMs } = this.#parts.options;
    const { idleDocuments } = this.#course.flow;
    if (idleDocuments < documentsIdleFree) return;
    if (idleDocuments >= documentsIdleMax) {
      throw new GatewayError('DOC_LOOP', { limit: documentsIdleMax });
    }
    await sleep(this.#parts.clock, documentIntervalMs, this.#course.signal);
  }

  // --- Verbs -------------------------------------------------------------------------------------

  /** The verb that runs; undefined at the end of the document, null for one that does nothing. */
  #verb(): BoundVerb | null | undefined {
    const { documentNo, document, cursor } = this.#course.flow;
    if (document !== null && this.#parsed?.documentNo !== documentNo) {
      this.#parsed = { documentNo, document: this.#parse(document) };
    }
    return this.#parsed?.document.verbs[cursor];
  }

  async #runVerb(): Promise<void> {
    const course = this.#course;
    const { document, restriction, cursor, state } = course.flow;
    const verb = this.#verb();
    if (verb === null) {
      course.save({ cursor: cursor + 1, state: null });
      return;
    }
    if (document === null || verb === undefined) {
      await this.#runOut(document);
      return;
    }
    if (restriction === 'whisper' && verb.whisperError !== null) {
      throw new GatewayError(verb.whisperError);
    }
    const context = this.#context(document);
    let outcome: Outcome;
    try {
      if (verb.needsAnswer) await answer(context);
      if (state === null) course.dropDigits();
      this.#call.note('verb', verb.name, context.id);
      outcome = await verb.run(context);
    } finally {
      context.close();
    }
    await this.#apply(outcome);
  }

  #context(document: FlowDocument): RunningVerb {
    const { promptsOf, recordings, options } = this.#parts;
    return new RunningVerb({
      call: this.#call,
      course: this.#course,
      prompts: () => promptsOf(this.#call.record.accountSid),
      recordings,
      children: this.#children,
      options: options.verbs,
      document,
      notify: (notice) => this.#notify(notice),
      report: (error) => this.#report(error),
    });
  }

  async #apply(outcome: Outcome): Promise<void> {
    const course = this.#course;
    switch (outcome.kind) {
      case 'next':
        course.save({ cursor: course.flow.cursor + 1, state: null, refer: null });
        return;
      case 'document': {
        const { url, method, params } = outcome;
        const request: FlowRequest = { url, method, params, error: null };
        if (course.why === 'ended') await this.#lastWord(request);
        else course.save({ request, state: null });
        return;
      }
      case 'hangup':
        await this.#hangup(outcome.code);
        return;
      default:
        outcome satisfies never;
    }
  }

  /** The call is gone but the app shall know how its verb ended; what it answers is nobody's. */
  async #lastWord(request: FlowRequest): Promise<void> {
    // A bare redirect has no outcome to tell.
    if (Object.keys(request.params).length === 0) throw Interruption.of('ended');
    try {
      const account = await this.#parts.accountOf(this.#call.record.accountSid);
      await this.#parts.application.fetch(this.#appRequest(request, account));
    } catch (thrown) {
      this.#report(asGatewayError(thrown));
    }
    throw Interruption.of('ended');
  }

  /** No verb is left. */
  async #runOut(document: FlowDocument | null): Promise<void> {
    const { restriction, endCode } = this.#course.flow;
    if (restriction === 'whisper' && endCode === 'CALL_COMPLETED') {
      this.#course.save({ isOver: true, document: null });
      return;
    }
    // The far end went first: nobody is left to answer or to hang up.
    if (this.#course.why === 'ended') return this.#course.save({ isOver: true, inbox: [] });
    const isTaken = endCode === 'CALL_COMPLETED' && !wasInVain(this.#call.record);
    if (document !== null && isTaken) await answer(this.#context(document));
    await this.#hangup(endCode);
  }

  async #hangup(code: ErrorCode): Promise<void> {
    this.#call.hangup(code);
    for (;;) await this.#course.next();
  }

  // --- When something fails ----------------------------------------------------------------------

  /** A verb could not be done: the secondary may know better, once. */
  #failed(error: GatewayError): void {
    this.#report(error);
    const { document } = this.#course.flow;
    if (error.code === 'DOC_LOOP' || document === null || document.isLast) {
      this.#policy(error, true);
      return;
    }
    const { url } = error.details;
    const blamed = typeof url === 'string' ? url : (document.url ?? '');
    this.#recover(error, { url: blamed, method: document.method });
  }

  #recover(error: GatewayError, blamed: { url: string; method: HttpMethod }): void {
    const { application } = this.#call.record;
    if (this.#course.flow.restriction !== 'none' || !application?.fallbackUrl) {
      this.#policy(error, true);
      return;
    }
    const { code, details } = error;
    const request = { ...blamed, params: {}, error: { code, details } };
    this.#course.save({ request, redirect: null, state: null });
  }

  /** Neither URI helped: say so, and hang up with the error as the call's ending. */
  #policy(error: GatewayError, isReported = false): void {
    if (!isReported) this.#report(error);
    const course = this.#course;
    const { errorText } = this.#parts.options;
    const isTold = course.flow.endCode !== 'CALL_COMPLETED';
    course.save({ endCode: isTold ? course.flow.endCode : error.code });
    const text =
      errorText === '' || isTold
        ? '<Response/>'
        : `<Response><Say>${escapeXml(errorText)}</Say></Response>`;
    const document = { text, url: null, method: 'POST' as const, isLast: true };
    this.#enter({ document, request: null });
  }

  #report(error: GatewayError): void {
    const { url } = error.details;
    const where = typeof url === 'string' ? url : (this.#course.flow.document?.url ?? null);
    this.#tell('error', error.row.number ?? null, error.message, where);
    if (error.row.fault === 'gateway') {
      const { code } = error;
      this.#parts.log.error({ callSid: this.#call.sid, code, err: error }, 'verb failed');
    }
  }

  #tell(level: FlowReport['level'], number: number | null, text: string, url: string | null): void {
    const { sid: callSid, accountSid } = this.#call.record;
    this.#parts.log.info({ callSid, severity: level, number, text }, 'document report');
    this.#parts.onReport({ callSid, accountSid, level, number, text, url });
  }

  #notify(notice: Notice): void {
    const call = this.#call.record;
    const params = { ...standardParameters(call), ...notice.params };
    this.#parts.notify(call.sid, call.accountSid, { ...notice, params });
  }
}

/** Where an application begins. One without URL and document fails like a URL that is none. */
function firstPlace(application: CallApplication | null): FlowDocument | FlowRequest {
  const method = application?.method ?? 'POST';
  if (application?.document) {
    return { text: application.document, url: null, method, isLast: false };
  }
  const error = application?.url ? null : { code: 'APP_URL' as const, details: { url: '(none)' } };
  return { url: application?.url ?? '', method, params: {}, error };
}

/** Where a flow stands that goes on with `redirect`. */
function placeOf(redirect: FlowDocument | FlowRequest): Pick<FlowRecord, 'document' | 'request'> {
  return 'text' in redirect
    ? { document: redirect, request: null }
    : { document: null, request: redirect };
}

function errorOf(error: NonNullable<FlowRequest['error']>): GatewayError {
  return new GatewayError(error.code, error.details);
}
