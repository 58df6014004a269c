/**
 * Which interpreter runs which call. The router hands calls over, REST redirects them, a restart
 * hands them over again; nobody else makes interpreters. Holds them while they run, nothing more.
 */
import type { Call } from '../call/call.ts';
import type { CallApplication, HttpMethod } from '../call/call-record.ts';
import type { ReferQuestion } from '../call/transfer.ts';
import { GatewayError } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import { DEFAULT_DOCUMENT_CACHE, DocumentCache } from './document-cache.ts';
import { asFlow } from './flow.ts';
import { Interpreter, READERS } from './interpreter.ts';
import type { DocumentAddress, InterpreterParts } from './interpreter-parts.ts';

function referOf({ record }: Call): { url: string; method: HttpMethod } | null {
  return asFlow(record.flow)?.refer ?? null;
}

export class Flows {
  readonly #parts: InterpreterParts;
  readonly #running = new Map<CallSid, Interpreter>();
  #isClosed = false;

  constructor(parts: Omit<InterpreterParts, 'documents' | 'startWhisper'>) {
    const options = DEFAULT_DOCUMENT_CACHE;
    this.#parts = {
      ...parts,
      documents: new DocumentCache({ readers: READERS, limits: parts.options.xml, options }),
      startWhisper: (child, from: DocumentAddress) =>
        this.#hold(child, Interpreter.whisper(child, from, this.#parts)),
    };
  }

  get size(): number {
    return this.#running.size;
  }

  /** Runs a call's application from where its record says it is. */
  run(call: Call): void {
    if (this.#isClosed || this.#running.has(call.sid)) return;
    // What a callee hears before the bridge is its caller's to go on with.
    if (asFlow(call.record.flow)?.restriction === 'whisper') return;
    this.#hold(call, Interpreter.start(call, this.#parts));
  }

  /** Gives a live call another application. Throws CALL_NOT_LIVE. */
  redirect(call: Call, application: CallApplication): void {
    const { status, endingCode } = call.record;
    if (!call.isLive || endingCode !== null) throw new GatewayError('CALL_NOT_LIVE', { status });
    call.setApplication(application);
    const running = this.#running.get(call.sid);
    if (running !== undefined && !running.isOver && !running.isWhisper) {
      running.redirect(null);
      return;
    }
    running?.close();
    this.#hold(call, Interpreter.takeOver(call, this.#parts, null));
  }

  /**
   * Somebody would transfer his partner to `uri`: the document of the running verb's `referUrl`
   * says what becomes of the partner. False when there is none.
   */
  refer({ referrer, partner, uri }: ReferQuestion): boolean {
    const address = referOf(partner) ?? referOf(referrer);
    if (address === null) {
      const { row, message: text } = new GatewayError('REFER_NO_URL');
      const { sid: callSid, accountSid } = referrer.record;
      const number = row.number ?? null;
      this.#parts.onReport({ callSid, accountSid, level: 'warning', number, text, url: null });
      return false;
    }
    const to = { ...address, params: { ReferTransferTarget: uri }, error: null };
    const running = this.#running.get(partner.sid);
    if (running !== undefined && !running.isOver && !running.isWhisper) {
      running.redirect(to);
      return true;
    }
    running?.close();
    const { application } = referrer.record;
    if (application !== null) partner.setApplication(application);
    this.#hold(partner, Interpreter.takeOver(partner, this.#parts, to));
    return true;
  }

  /** Lets go of all calls as they are; their records say how to go on. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const running = [...this.#running.values()];
    for (const interpreter of running) interpreter.close();
    await Promise.all(running.map((interpreter) => interpreter.done));
  }

  #hold(call: Call, interpreter: Interpreter): Interpreter {
    this.#running.set(call.sid, interpreter);
    // `done` never rejects
    void interpreter.done.then(() => {
      if (this.#running.get(call.sid) === interpreter) this.#running.delete(call.sid);
    });
    return interpreter;
  }
}
