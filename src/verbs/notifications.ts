/**
 * What an application's author should know: warnings and errors of documents and webhooks, as rows
 * for `Calls/{sid}/Notifications` and as lines of the call's trace. The author knows the queries of
 * his own URLs, and needs them to find the request; a password is nobody's to read.
 */
import type { TraceBook } from '../call/trace.ts';
import type { Clock } from '../core/clock.ts';
import { newSid } from '../core/sid.ts';
import { withoutUserInfo } from '../http/url.ts';
import type { Store } from '../store/store.ts';
import type { FlowReport } from './interpreter-parts.ts';

/** An error that has no number in the dictionary is told as "HTTP retrieval failure". */
const GENERAL_ERROR = 11200;

export class Notifications {
  readonly #clock: Clock;
  readonly #store: Store;
  readonly #trace: TraceBook;

  constructor(parts: { clock: Clock; store: Store; trace: TraceBook }) {
    this.#clock = parts.clock;
    this.#store = parts.store;
    this.#trace = parts.trace;
  }

  take(report: FlowReport): void {
    const errorCode = report.number ?? GENERAL_ERROR;
    this.#trace.add(report.callSid, 'verb', `${report.level} ${errorCode}`, report.text);
    const nowMs = this.#clock.nowMs();
    this.#store.notifications.put({
      sid: newSid('NO', this.#clock),
      accountSid: report.accountSid,
      callSid: report.callSid,
      level: report.level,
      errorCode,
      messageText: report.text,
      messageMs: nowMs,
      requestUrl: report.url === null ? null : withoutUserInfo(report.url),
      requestMethod: null,
      requestVariables: null,
      responseHeaders: null,
      responseBody: null,
      dateCreatedMs: nowMs,
      dateUpdatedMs: nowMs,
    });
  }
}
