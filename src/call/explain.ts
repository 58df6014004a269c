/**
 * What would be done with a call, without doing it: the same steps that a real one goes through,
 * each condition written down, nothing counted, nothing sent. For "why was my call rejected", and
 * for trying a configuration before a carrier does. In words for people: one sentence with the key
 * to change, and the list of everything that was compared.
 */
import { asGatewayError, ERRORS, type ErrorCode, GatewayError } from '../core/errors.ts';
import type { AccountSid, TrunkSid } from '../core/sid.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { explainCaller, type RegisteredParties } from './caller-standing.ts';
import { type Decision, Decisions, firstFailure, sentence } from './decision.ts';
import {
  type AdmittedRoute,
  codecFix,
  type InboundOffer,
  queryOf,
  tellAdmission,
} from './inbound.ts';
import type { LegGroup, SipHeaders } from './leg.ts';
import type { Reach } from './reach.ts';
import type { DialTarget } from './route.ts';
import type { StoreRouteTable } from './route-table.ts';
import type { Router } from './router.ts';

export interface ExplainRequest {
  /** Numbers or SIP addresses. */
  readonly from: string;
  readonly to: string;
  /** Where the INVITE would come from; null: the account places the call itself. */
  readonly source: PeerAddress | null;
  readonly headers?: SipHeaders;
  /** Its session description; absent: nothing is said about codecs. */
  readonly sdp?: string;
  /** Names of its TLS certificate. */
  readonly certificateNames?: readonly string[];
  /** Who asks: other accounts' configuration is not told. */
  readonly accountSid: AccountSid;
}

export interface Explanation {
  readonly direction: 'inbound' | 'outbound';
  /** `challenged`: admitted when it proves one of the names that it is asked for. */
  readonly outcome: 'admitted' | 'challenged' | 'refused';
  readonly code: ErrorCode | null;
  /** What the INVITE would be answered at first; 0 where there would be none to answer. */
  readonly sipStatus: number;
  /** One sentence: what would happen, or what failed first and what to change. */
  readonly verdict: string;
  readonly trunkSid: TrunkSid | null;
  /** The number or address as the application would see it. */
  readonly to: string;
  /** The URL that is asked what to do with the call; null when no application is. */
  readonly application: string | null;
  /** Where it would go out, in the order to try. */
  readonly targets: readonly string[];
  readonly decisions: readonly Decision[];
}

export interface ExplainerParts {
  readonly routes: StoreRouteTable;
  readonly router: Pick<Router, 'inbound' | 'outbound' | 'wouldAdmit'>;
  /** Who is known by a registration. */
  readonly registered: RegisteredParties;
  /** Whether what is dialled can be reached from here. */
  readonly reach: Pick<Reach, 'look'>;
  /** What of a description is looked at; throws why it would be refused. */
  readonly mediaOf: (sdp: string) => Pick<InboundOffer, 'codecs' | 'srtp'>;
  /** Whom a number is dialled at when only the number is given. */
  readonly domain: string;
  /** A number or address as it is dialled; null for what is neither. */
  readonly dialTarget: (written: string) => DialTarget | null;
}

export class Explainer {
  readonly #parts: ExplainerParts;

  constructor(parts: ExplainerParts) {
    this.#parts = parts;
  }

  async explain(request: ExplainRequest): Promise<Explanation> {
    const decisions = new Decisions();
    const { source } = request;
    const found = await (source === null
      ? this.#outbound(request, decisions)
      : this.#inbound(request, source, decisions));
    return this.#private(found, request.accountSid);
  }

  // --- Inbound --------------------------------------------------------------------------------

  async #inbound(
    request: ExplainRequest,
    source: PeerAddress,
    decisions: Decisions,
  ): Promise<Explanation> {
    const about = { direction: 'inbound', to: request.to } as const;
    const { router } = this.#parts;
    const asked = this.#offerOf(request, source, { codecs: [], srtp: null });
    const caller = { ...asked, query: queryOf(asked) };
    const found = explainCaller(caller, this.#parts, decisions);
    const { standing, identity, isAskedInVain = false } = found;
    if (standing === 'not') {
      return refused(about, 'SIP_FORBIDDEN', decisions, isAskedInVain ? 401 : 403);
    }
    let media: Pick<InboundOffer, 'codecs' | 'srtp'> = { codecs: [], srtp: null };
    try {
      if (request.sdp !== undefined) media = this.#parts.mediaOf(request.sdp);
    } catch (thrown) {
      const { code, message } = asGatewayError(thrown);
      decisions.no('codec', message, codecFix(code));
      return refused(about, code, decisions);
    }
    const offer = { ...this.#offerOf(request, source, media), identity };
    const verdict = await router.inbound.look(offer, decisions);
    if (verdict.kind === 'refused') return refused(about, verdict.code, decisions);
    const { route } = verdict;
    if (route.accountSid !== request.accountSid) return notYours(about);
    const targets = await this.#passedTo(route, decisions);
    if (targets instanceof GatewayError) return refused(about, targets.code, decisions);
    return admitted({ route, targets, isChallenged: standing === 'challenge' }, decisions);
  }

  #offerOf(
    request: ExplainRequest,
    source: PeerAddress,
    media: Pick<InboundOffer, 'codecs' | 'srtp'>,
  ): InboundOffer {
    const { from, to, headers = {}, certificateNames = [] } = request;
    const host = source.address.includes(':') ? `[${source.address}]` : source.address;
    const fromUri = uriOf(from, host);
    return {
      source,
      requestUri: uriOf(to, this.#parts.domain),
      toUri: uriOf(to, this.#parts.domain),
      fromUri,
      fields: [['From', `<${fromUri}>`], ...Object.entries(headers)],
      identity: null,
      certificateNames,
      date: null,
      ...media,
    };
  }

  /** A number that belongs to a trunk goes out again at once. */
  async #passedTo(
    { passesTo: target, accountSid, from }: AdmittedRoute,
    decisions: Decisions,
  ): Promise<readonly string[] | GatewayError> {
    if (target === undefined) return [];
    return this.#place({ accountSid, target, from, callerName: '' }, decisions);
  }

  // --- Outbound -------------------------------------------------------------------------------

  async #outbound(request: ExplainRequest, decisions: Decisions): Promise<Explanation> {
    const { from, to, accountSid } = request;
    const about = { direction: 'outbound', to } as const;
    const target = this.#parts.dialTarget(to);
    if (target === null) {
      decisions.no('number', `${to} is neither a number nor a SIP address`, 'To');
      return refused(about, 'DIAL_NUMBER', decisions);
    }
    const admission = this.#parts.router.wouldAdmit({ accountSid, direction: 'outbound-api' });
    tellAdmission(admission, decisions);
    if (admission !== null) return refused(about, admission.code, decisions);
    const targets = await this.#place({ accountSid, target, from, callerName: '' }, decisions);
    if (targets instanceof GatewayError) return refused(about, targets.code, decisions);
    const [first = ''] = targets;
    const more = targets.length > 1 ? `, then ${targets.length - 1} more` : '';
    return {
      ...NOTHING,
      ...about,
      outcome: 'admitted',
      verdict: `The call would be placed to ${first}${more}.`,
      targets,
      decisions: decisions.list,
    };
  }

  async #place(
    request: Parameters<Router['outbound']['plan']>[0],
    decisions: Decisions,
  ): Promise<readonly string[] | GatewayError> {
    const { outbound } = this.#parts.router;
    try {
      const groups = await outbound.plan(request, decisions);
      if (!(await outbound.look(groups, request.accountSid, decisions))) {
        return new GatewayError('TRUNK_LIMIT');
      }
      return await this.#reached(groups, decisions);
    } catch (thrown) {
      return asGatewayError(thrown);
    }
  }

  /** Those that an INVITE could be sent to; when there is none, why. */
  async #reached(
    groups: readonly LegGroup[],
    decisions: Decisions,
  ): Promise<readonly string[] | GatewayError> {
    const reached: string[] = [];
    let problem: GatewayError | null = null;
    for (const target of groups.flatMap(({ targets }) => targets)) {
      const found = await this.#parts.reach.look(target, decisions);
      if (found === null) reached.push(target.uri);
      // The leg ends with what it was told last.
      else problem = found;
    }
    return reached.length === 0 && problem !== null ? problem : reached;
  }

  /** Names of other accounts' trunks, domains and numbers are theirs. */
  #private(found: Explanation, accountSid: AccountSid): Explanation {
    const isOwn = (sid: string): boolean => this.#parts.routes.ownerOf(sid) === accountSid;
    const sids = (text: string): readonly string[] =>
      text.match(/\b(?:TK|SD|PN)[0-9a-f]{32}\b/g) ?? [];
    const decisions = found.decisions.filter(({ what, fix }) =>
      [...sids(what), ...sids(fix)].every(isOwn),
    );
    if (decisions.length === found.decisions.length) return found;
    if (found.outcome !== 'refused') return { ...found, decisions };
    const failed = firstFailure(decisions);
    const verdict =
      failed === null
        ? `Refused with ${found.sipStatus}: it comes from no source of this account's trunks.`
        : `Refused with ${found.sipStatus}: ${sentence(failed)}`;
    return { ...found, verdict, decisions };
  }
}

const NOTHING = {
  code: null,
  sipStatus: 0,
  trunkSid: null,
  application: null,
  targets: [],
} as const;

type About = Pick<Explanation, 'direction' | 'to'>;

function refused(
  about: About,
  code: ErrorCode,
  decisions: Decisions,
  sip: number = ERRORS[code].sip,
): Explanation {
  const { text } = ERRORS[code];
  const failed = firstFailure(decisions.list);
  const why = failed === null ? `${text.replace(/:? ?%\w+/g, '')}.` : sentence(failed);
  return {
    ...NOTHING,
    ...about,
    outcome: 'refused',
    code,
    sipStatus: sip,
    verdict: `Refused with ${sip}: ${why}`,
    decisions: decisions.list,
  };
}

/** Nothing of it is told to somebody else. */
function notYours(about: About): Explanation {
  const verdict = `${about.to} is not a number of this account.`;
  return { ...NOTHING, ...about, outcome: 'refused', sipStatus: 404, verdict, decisions: [] };
}

function admitted(
  how: { route: AdmittedRoute; targets: readonly string[]; isChallenged: boolean },
  decisions: Decisions,
): Explanation {
  const { route, targets, isChallenged } = how;
  const { application, trunkSid, to, trunk = null } = route;
  const whose = trunk === null ? '' : ` from trunk ${trunk.name}`;
  const first = targets[0];
  const then = first === undefined ? `${application.url ?? 'its document'}` : first;
  const does = first === undefined ? 'is asked what to do' : 'is called at once';
  const start = isChallenged ? 'Asked for a password first; then a' : 'A';
  return {
    ...NOTHING,
    direction: 'inbound',
    outcome: isChallenged ? 'challenged' : 'admitted',
    sipStatus: isChallenged ? 401 : 100,
    verdict: `${start}dmitted${whose} as a call to ${to}: ${then} ${does}.`,
    trunkSid,
    to,
    application: application.url,
    targets,
    decisions: decisions.list,
  };
}

/** As a Request-URI or From would say it. */
function uriOf(written: string, host: string): string {
  if (/^(?:sips?|tel):/i.test(written)) return written;
  return `sip:${encodeURIComponent(written).replaceAll('%2B', '+').replaceAll('%40', '@')}${
    written.includes('@') ? '' : `@${host}`
  }`;
}
