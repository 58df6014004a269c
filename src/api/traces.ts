/**
 * What is known of an INVITE by its Call-ID: `GET Traces.json?CallId=…`. Of a call it is the call's
 * own history; of one that was refused, what was compared and what failed first, for as long as it
 * is remembered. A refused one that was for nobody's number is told to the operator's account only.
 */
import { Type } from 'typebox';
import { firstFailure, sentence } from '../call/decision.ts';
import type { TraceOfCallId } from '../call/trace.ts';
import { ERRORS } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import type { JsonObject } from '../store/store.ts';
import { missing, ok, type Resource, resource, uriOf } from './api.ts';

/** Null when nothing is known, or nothing that this account may know. */
export type TraceLookup = (callId: string, accountSid: AccountSid) => TraceOfCallId | null;

function traceJson(callId: string, accountSid: AccountSid, found: TraceOfCallId): JsonObject {
  const { callSid, refused, entries } = found;
  const failed = refused === null ? null : firstFailure(refused.decisions);
  return {
    call_id: callId,
    account_sid: accountSid,
    call_sid: callSid,
    code: refused?.code ?? null,
    fault: refused === null ? null : ERRORS[refused.code].fault,
    sip_status: refused === null ? null : ERRORS[refused.code].sip,
    verdict: failed === null ? (refused?.text ?? null) : sentence(failed),
    uri: `${uriOf(accountSid, 'Traces')}?CallId=${encodeURIComponent(callId)}`,
    trace: entries.map(({ atMs, kind, text, detail }, index) => {
      return { seq: index + 1, at: new Date(atMs).toISOString(), kind, data: { text, detail } };
    }),
  };
}

export function traceResources(lookup: TraceLookup): readonly Resource[] {
  return [
    resource({
      method: 'GET',
      path: '/Traces',
      params: Type.Object({ CallId: Type.String({ minLength: 1, maxLength: 512 }) }),
      interpret: ({ CallId }) => CallId,
      check: (callId: string) => callId,
      async act(callId, request) {
        const { sid } = request.account;
        const found = lookup(callId, sid);
        if (found === null) throw missing(request);
        return ok(traceJson(callId, sid, found));
      },
    }),
  ];
}
