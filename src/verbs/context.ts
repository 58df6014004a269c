/**
 * What one verb is given while it runs: the services behind it, narrowed to its call, its place in
 * the flow and its document. Made when the verb starts, closed when it is over, and with it the
 * prompts it was given are let go of: however long it waits or repeats them, they stay till then.
 */
import type { Call } from '../call/call.ts';
import type { CallRecord, Passage } from '../call/call-record.ts';
import type { LegAction } from '../call/leg.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { shown } from '../http/url.ts';
import type { Course } from './course.ts';
import type { FlowDocument, FlowEvent, FlowRecord } from './flow.ts';
import type {
  ChildCalls,
  Notice,
  Prompt,
  Prompts,
  Recordings,
  VerbContext,
  VerbOptions,
} from './verb.ts';

export interface RunningVerbOptions {
  readonly call: Call;
  readonly course: Course;
  /** Of the call's account. */
  readonly prompts: () => Prompts;
  readonly recordings: Recordings;
  readonly children: ChildCalls;
  readonly options: VerbOptions;
  readonly document: FlowDocument;
  readonly notify: (notice: Notice) => void;
  readonly report: (error: GatewayError) => void;
}

export class RunningVerb implements VerbContext {
  readonly id: string;
  readonly #parts: RunningVerbOptions;
  readonly #held: Prompt[] = [];
  #prompts: Prompts | null = null;
  #isOver = false;

  constructor(parts: RunningVerbOptions) {
    this.#parts = parts;
    const { documentNo, cursor } = parts.course.flow;
    this.id = `v${documentNo}.${cursor}`;
  }

  /** Made for the verbs that say something. */
  get prompts(): Prompts {
    if (this.#prompts !== null) return this.#prompts;
    const { course } = this.#parts;
    const source = this.#parts.prompts();
    this.#prompts = {
      audio: (url) => this.#prompt(source.audio(url, course.signal)),
      speech: (request) => this.#prompt(source.speech(request, course.signal)),
    };
    return this.#prompts;
  }

  /** The verb is over. Idempotent. */
  close(): void {
    this.#isOver = true;
    if (this.#held.length === 0) return;
    for (const prompt of this.#held.splice(0)) prompt.release();
  }

  /** Waiting for a prompt ends with the call, with a redirect, and some time in any case. */
  #prompt(work: Promise<Prompt>): Promise<Prompt> {
    const held = work.then((prompt) => {
      // It may come when nobody waits for it any more.
      if (this.#isOver) prompt.release();
      else this.#held.push(prompt);
      return prompt;
    });
    return this.#parts.course.within(held, this.#parts.options.promptMsMax);
  }

  get passage(): Passage | null {
    const { document, call } = this.#parts;
    return document.url === null ? (call.record.application?.passage ?? null) : null;
  }

  get call(): CallRecord {
    return this.#parts.call.record;
  }

  get state(): object | null {
    return this.#parts.course.flow.state;
  }

  get recordings(): Recordings {
    return this.#parts.recordings;
  }

  get children(): ChildCalls {
    return this.#parts.children;
  }

  get options(): VerbOptions {
    return this.#parts.options;
  }

  save(state: object): void {
    this.#parts.course.save({ state });
  }

  send(step: string, action: LegAction): void {
    if (this.#parts.course.why === 'closed') return;
    this.#parts.call.send({ id: `${this.id}.${step}`, ...action });
  }

  next(untilMs?: number): Promise<FlowEvent | null> {
    return this.#parts.course.next(untilMs);
  }

  nowMs(): number {
    return this.#parts.course.nowMs();
  }

  resolve(url: string | null): string {
    return resolveUrl(url, this.#parts.document);
  }

  notify(notice: Notice): void {
    try {
      this.#parts.notify({ ...notice, url: this.resolve(notice.url) });
    } catch (thrown) {
      this.report(asGatewayError(thrown));
    }
  }

  takeRefer(refer: (FlowRecord['refer'] & object) | null): void {
    this.#parts.course.save({ refer });
  }

  report(error: GatewayError): void {
    this.#parts.report(error);
  }
}

const HTTP_URL = /^https?:\/\//i;

/**
 * An absolute URL as it was written, because the app signs and compares that very string; a
 * relative one against the document it stands in (RFC 3986 §5).
 */
export function resolveUrl(written: string | null, document: FlowDocument): string {
  const base = document.url;
  if (written === null || written.trim() === '') {
    if (base === null) throw new GatewayError('APP_URL', { url: '(none: the document is inline)' });
    return base;
  }
  const url = written.trim();
  if (HTTP_URL.test(url)) {
    if (!URL.canParse(url)) throw new GatewayError('APP_URL', { url: shown(url) });
    return url;
  }
  // Another scheme is no relative reference; `//host/path` and `?query` are.
  if (/^[a-z][a-z0-9+.-]*:/i.test(url)) throw new GatewayError('APP_URL', { url: shown(url) });
  if (base === null) throw new GatewayError('RELATIVE_ACTION', { url: shown(url) });
  const resolved = URL.parse(url, base);
  if (resolved === null) throw new GatewayError('APP_URL', { url: shown(url) });
  return resolved.href;
}
