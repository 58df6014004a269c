/**
 * What the Calls resource asks of live calls, done: router and application host below, rows of the
 * ledger above. Every change is by way of the call itself, so REST and documents cannot disagree.
 */
import type { Call, CallApplication } from '../call/call.ts';
import { callRow } from '../call/ledger.ts';
import type { DialTarget } from '../call/route.ts';
import type { Router } from '../call/router.ts';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import type { CallRecorder } from '../verbs/call-recorder.ts';
import { dialTarget } from '../verbs/dial-target.ts';
import type { Flows } from '../verbs/flows.ts';
import type { CallChange, CallSpec } from './call-spec.ts';
import type { CallControl, CallView } from './calls.ts';

export interface LiveCallControlOptions {
  readonly clock: Clock;
  readonly router: Router;
  readonly flows: Flows;
  readonly recorder: CallRecorder;
}

export class LiveCallControl implements CallControl {
  readonly #options: LiveCallControlOptions;

  constructor(options: LiveCallControlOptions) {
    this.#options = options;
  }

  async create(spec: CallSpec): Promise<CallView> {
    const { router } = this.#options;
    const call = router.originate({
      accountSid: spec.accountSid,
      from: spec.callerId ?? spec.from,
      target: targetOf(spec),
      application: applicationOf(spec),
      statusCallback: spec.statusCallback,
      ringTimeoutMs: spec.ringTimeoutMs,
      ...(spec.timeLimitMs === null ? {} : { timeLimitMs: spec.timeLimitMs }),
      ...(spec.forwards === null ? {} : { forwards: spec.forwards }),
      ...(spec.sendDigits === null ? {} : { sendDigits: spec.sendDigits }),
    });
    if (spec.record !== null) this.#options.recorder.record(call, spec.record);
    return this.#view(call);
  }

  async redirect(sid: CallSid, change: CallChange): Promise<CallView> {
    const call = this.#find(sid);
    const application = changedApplication(call.record.application, change);
    if (change.statusCallback !== null) call.setStatusCallback(change.statusCallback);
    if (change.source !== null) this.#options.flows.redirect(call, application);
    else if (change.fallback !== null) call.setApplication(application);
    return this.#view(call);
  }

  async end(sid: CallSid, status: 'canceled' | 'completed'): Promise<CallView> {
    const call = this.#find(sid);
    const isAnswered = call.record.answeredAtMs !== null;
    if (status === 'canceled' && isAnswered) {
      throw new GatewayError('CALL_NOT_LIVE', { status: call.record.status });
    }
    call.hangup(isAnswered ? 'CALL_COMPLETED' : 'CALL_CANCELED');
    return this.#view(call);
  }

  async setTimeLimit(sid: CallSid, timeLimitMs: number): Promise<CallView> {
    const call = this.#find(sid);
    call.setTimeLimit(timeLimitMs);
    return this.#view(call);
  }

  live(sid: CallSid): CallView | null {
    const call = this.#options.router.find(sid);
    return call === undefined ? null : this.#view(call);
  }

  #find(sid: CallSid): Call {
    const { router } = this.#options;
    // Its call may be about to be taken back: that it has ended would be a lie.
    if (!router.isStarted) throw new GatewayError('NOT_READY');
    const call = router.find(sid);
    if (call) return call;
    throw new GatewayError('CALL_NOT_LIVE', { status: router.record(sid)?.status ?? 'ended' });
  }

  #view(call: Call): CallView {
    return callRow(call.record, this.#options.clock.nowMs());
  }
}

function targetOf(spec: CallSpec): DialTarget {
  const { credentials } = spec;
  const pair =
    credentials === null
      ? null
      : { username: credentials.username, password: credentials.password.reveal() };
  const target = dialTarget(spec.to, pair);
  if (target === null) throw new GatewayError('CALL_BAD_TO', { to: spec.to.slice(0, 64) });
  return target;
}

function applicationOf(spec: CallSpec): CallApplication {
  const { source, fallback } = spec;
  return {
    applicationSid: spec.applicationSid,
    url: source.kind === 'url' ? source.url : null,
    method: source.kind === 'url' ? source.method : 'POST',
    fallbackUrl: fallback?.url ?? null,
    fallbackMethod: fallback?.method ?? 'POST',
    document: source.kind === 'twiml' ? source.twiml : null,
  };
}

/** What the change does not name stays as it was. */
function changedApplication(known: CallApplication | null, change: CallChange): CallApplication {
  const { source, fallback } = change;
  const kept = known ?? NO_APPLICATION;
  return {
    ...kept,
    ...(source?.kind === 'url' ? { url: source.url, method: source.method, document: null } : {}),
    ...(source?.kind === 'twiml' ? { url: null, document: source.twiml } : {}),
    ...(fallback === null ? {} : { fallbackUrl: fallback.url, fallbackMethod: fallback.method }),
  };
}

const NO_APPLICATION: CallApplication = {
  applicationSid: null,
  url: null,
  method: 'POST',
  fallbackUrl: null,
  fallbackMethod: 'POST',
  document: null,
};
