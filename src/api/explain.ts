/**
 * A dry run: what would be done with a call. `POST Explain` with
 *
 *   From, To            numbers or SIP addresses
 *   Source              address, `address:port` or `[v6]:port` that the INVITE comes from; without
 *                       it the account itself places the call
 *   Transport           udp | tcp | tls | ws | wss                                          (udp)
 *   Sdp                 the session description of the INVITE
 *   CertificateName     repeated: names of the peer's TLS certificate
 *
 * Nothing is placed, sent or counted. Ours; the reference has nothing like it.
 */
import { isIP } from 'node:net';
import { Type } from 'typebox';
import type { Explainer, ExplainRequest, Explanation } from '../call/explain.ts';
import type { AccountSid } from '../core/sid.ts';
import type { JsonObject } from '../store/store.ts';
import { ok, type Resource, resource, uriOf } from './api.ts';
import { badParameter, optionalText, optionalTexts, text } from './parameters.ts';

const PARAMS = Type.Object({
  From: text,
  To: Type.String({ minLength: 1, maxLength: 256 }),
  Source: optionalText,
  Transport: Type.Optional(
    Type.Union([
      Type.Literal('udp'),
      Type.Literal('tcp'),
      Type.Literal('tls'),
      Type.Literal('ws'),
      Type.Literal('wss'),
    ]),
  ),
  Sdp: optionalText,
  CertificateName: optionalTexts,
});

const SIP_PORT = 5060;

function sourceOf(written: string, transport: NonNullable<ExplainRequest['source']>['transport']) {
  const match = /^(?:\[([^\]]+)\]|([^:]+|[^[\]]*:[^[\]]*:[^[\]]*))(?::(\d{1,5}))?$/.exec(written);
  const address = match?.[1] ?? match?.[2] ?? '';
  if (isIP(address) === 0) throw badParameter('Source', 'is no IP address');
  return { transport, address, port: match?.[3] === undefined ? SIP_PORT : Number(match[3]) };
}

function explanationJson(accountSid: AccountSid, found: Explanation): JsonObject {
  return {
    account_sid: accountSid,
    direction: found.direction,
    outcome: found.outcome,
    verdict: found.verdict,
    code: found.code,
    sip_status: found.sipStatus,
    trunk_sid: found.trunkSid,
    to: found.to,
    application: found.application,
    targets: found.targets,
    decisions: found.decisions.map(({ step, ok: isMet, what, fix }) => {
      return { step, ok: isMet, what, fix };
    }),
    uri: uriOf(accountSid, 'Explain'),
  };
}

export function explainResources(explainer: Pick<Explainer, 'explain'>): readonly Resource[] {
  return [
    resource({
      method: 'POST',
      path: '/Explain',
      params: PARAMS,
      interpret(given, { account }): ExplainRequest {
        const { From, To, Source, Transport = 'udp', Sdp, CertificateName = [] } = given;
        return {
          from: From,
          to: To,
          source: Source ? sourceOf(Source, Transport) : null,
          certificateNames: CertificateName.map((name) => name.toLowerCase()),
          accountSid: account.sid,
          ...(Sdp ? { sdp: Sdp } : {}),
        };
      },
      check: (wanted: ExplainRequest) => wanted,
      act: async (wanted) =>
        ok(explanationJson(wanted.accountSid, await explainer.explain(wanted))),
    }),
  ];
}
