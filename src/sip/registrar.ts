/**
 * The registrar (RFC 3261 §10.3): who may say where an address of ours is reached, and what they
 * say. `judge` makes no state and tells a stranger nothing: whether a user exists, has given a
 * wrong password or has to wait, the answer is the same challenge, after the same work. `bind`
 * changes all bindings of a request or none.
 *
 * Path (RFC 3327), GRUU (RFC 5627) and outbound flows (RFC 5626) are read here; the bindings are
 * kept by the location service, accounts are others'. We are the phones' first hop and their
 * registrar in one, so a flow needs no token: it is the connection, or the pair of UDP addresses.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, type ErrorCode, type ErrorDetails, GatewayError } from '../core/errors.ts';
import { type Log, redact, type Secret } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { type AccountSid, newSid, type SipDomainSid } from '../core/sid.ts';
import {
  type Address,
  addressOf,
  type Binding,
  contactField,
  flowOf,
  isFlowOnly,
  isOutboundPath,
  type NewContact,
  optionTags,
  readContacts,
  readPath,
  replaces,
  secondsOf,
} from './binding.ts';
import type { AuthVerdict } from './challenge.ts';
import type { DigestAccount } from './digest.ts';
import { DigestProver, type Proof } from './digest-prover.ts';
import type { Gruu } from './gruu.ts';
import { detach, type HeaderField, parseNameAddr, parseUri, type SipMessage } from './message.ts';
import { isSecure, type Source } from './peer.ts';
import type { RegistrarOptions } from './registrar-options.ts';
import { SourceLimit } from './source-limit.ts';

/** A domain at which phones may register. */
export interface RegistrarDomain {
  readonly sid: SipDomainSid;
  readonly accountSid: AccountSid;
  /** Lower case; the realm of its challenges. */
  readonly name: string;
  /** TLS, or nothing. */
  readonly isSecure: boolean;
}

export interface RegistrarAccounts {
  /** Null: not a domain of ours, or one where nobody may register. */
  domain(name: string): RegistrarDomain | null;
  find(domain: RegistrarDomain, username: string): DigestAccount | null;
}

/** Keeps bindings; what has expired is not among them. */
export interface LocationService {
  bindings(aor: string): readonly Binding[];
  /** In place of all that there are; false, and nothing changed, when there is no room. */
  update(address: Address, domain: RegistrarDomain, bindings: readonly Binding[]): boolean;
}

/** A REGISTER whose sender has proven whose it is. */
export interface JudgedRegister {
  readonly address: Address;
  readonly domain: RegistrarDomain;
  readonly path: readonly string[];
}

/** Answered, and forgotten. */
export interface RegisterRefusal {
  readonly code: ErrorCode;
  readonly headers: readonly HeaderField[];
}

export interface RegisterAnswer {
  readonly status: number;
  readonly headers: readonly HeaderField[];
}

const SUPPORTED = ['path', 'outbound', 'gruu'] as const;
const SUPPORTED_FIELD: HeaderField = ['Supported', SUPPORTED.join(', ')];
/** RFC 5626 §11.6. */
const NO_OUTBOUND = 439;

export class Registrar {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #location: LocationService;
  readonly #accounts: RegistrarAccounts;
  readonly #gruu: Gruu;
  readonly #options: RegistrarOptions;
  readonly #pace: SourceLimit;
  readonly #outcomes;
  /** Also of those who call: failures of both count together. */
  readonly prover: DigestProver;

  constructor(parts: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    location: LocationService;
    accounts: RegistrarAccounts;
    gruu: Gruu;
    /** Signs nonces. */
    secret: Secret;
    options: RegistrarOptions;
  }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#location = parts.location;
    this.#accounts = parts.accounts;
    this.#gruu = parts.gruu;
    this.#options = parts.options;
    this.prover = new DigestProver(parts);
    const { perSecondMax, addressesMax } = parts.options;
    this.#pace = new SourceLimit({
      perSecond: perSecondMax,
      burst: perSecondMax,
      sourcesMax: addressesMax,
    });
    this.#outcomes = parts.metrics.counter(
      'tandem_sip_registers_total',
      'REGISTER requests by what became of them',
      ['outcome'],
    );
  }

  /** Whose it is, or how it is refused. Makes no state for whoever has proven nothing. */
  judge(request: SipMessage, source: Source): JudgedRegister | RegisterRefusal {
    try {
      const judged = this.#judge(request, source);
      if ('code' in judged) this.#outcomes.inc({ outcome: judged.code });
      return judged;
    } catch (thrown) {
      const { code } = asGatewayError(thrown);
      this.#outcomes.inc({ outcome: code });
      return { code, headers: [] };
    }
  }

  /** Carries out what was judged. */
  bind(judged: JudgedRegister, request: SipMessage, source: Source): RegisterAnswer {
    try {
      const answer = this.#bind(judged, request, source);
      this.#outcomes.inc({ outcome: answer.status === 200 ? 'accepted' : String(answer.status) });
      return answer;
    } catch (thrown) {
      const error = asGatewayError(thrown);
      this.#outcomes.inc({ outcome: error.code });
      this.#log.info({ code: error.code, aor: redact(judged.address.aor) }, 'REGISTER refused');
      return { status: error.row.sip, headers: warnings(error, this.#options) };
    }
  }

  /**
   * An INVITE to a domain where phones register: that its caller is one of them. The proof is of
   * the same domain and by the same password; its identity is what routing knows a registered phone
   * by. `user`: who is registered where it comes from; null: nobody, and that cannot be told.
   */
  proveCaller(
    request: SipMessage,
    source: Source,
    { domain, user }: { readonly domain: RegistrarDomain; readonly user: string | null },
  ): AuthVerdict {
    const server = this.prover.serverOf(domain.name);
    const accountOf = (name: string): DigestAccount | null => this.#accounts.find(domain, name);
    let isStale = false;
    try {
      const proof = this.#prove(request, source, domain);
      if (proof.kind === 'right') {
        if (proof.username !== user) return { kind: 'refuse', code: 'SIP_FORBIDDEN' };
        return { kind: 'accept', identity: registeredAt(domain.sid) };
      }
      isStale = proof.kind === 'stale';
    } catch (thrown) {
      if (!(thrown instanceof GatewayError)) throw thrown;
    }
    const peer = source.address;
    return { kind: 'challenge', server, peer, accountOf: isStale ? accountOf : () => null };
  }

  /** Failures and proofs that are remembered. */
  get attemptsHeld(): number {
    return this.prover.attemptsHeld;
  }

  // --- Who it is ------------------------------------------------------------------------------

  #judge(request: SipMessage, source: Source): JudgedRegister | RegisterRefusal {
    const required = optionTags(request, 'Require');
    const unsupported = [...required].filter((tag) => !SUPPORTED.some((own) => own === tag));
    if (unsupported.length > 0)
      return refusal('SIP_EXTENSION', [['Unsupported', unsupported.join(', ')]]);
    const { uri } = parseNameAddr(request.header('To') ?? '');
    const address = uri === null ? null : addressOf(uri);
    const domain = address === null ? null : this.#accounts.domain(address.host);
    // Names of domains are no secret, names of users are: what follows is the same for all users.
    if (address === null || domain === null) return refusal('REGISTER_NO_DOMAIN');
    if (domain.isSecure && !isSecure(source.transport)) return refusal('SIP_FORBIDDEN');
    const challenge = this.#challenge(request, source, domain, address);
    if (challenge !== null) return challenge;
    const path = readPath(request, this.#options.pathMax);
    // RFC 3327 §5.3: who put Path there did it for a phone that knows nothing of it.
    if (path.length > 0 && !optionTags(request, 'Supported').has('path')) {
      return refusal('SIP_EXTENSION', [['Unsupported', 'path']]);
    }
    return { address, domain, path };
  }

  /** Null when the sender is who the address belongs to. */
  #challenge(
    request: SipMessage,
    source: Source,
    domain: RegistrarDomain,
    address: Address,
  ): RegisterRefusal | null {
    const proof = this.#prove(request, source, domain);
    if (proof.kind === 'right') {
      // Everybody speaks for himself, whether the other exists or not (§10.3 item 4).
      return proof.username === address.user ? null : refusal('SIP_FORBIDDEN');
    }
    const server = this.prover.serverOf(domain.name);
    const fields = server.challenge(proof.kind === 'stale', source.address);
    return refusal(
      'SIP_AUTH_REQUIRED',
      fields.map((value): HeaderField => ['WWW-Authenticate', value]),
    );
  }

  #prove(request: SipMessage, source: Source, domain: RegistrarDomain): Proof<DigestAccount> {
    const realm = domain.name;
    return this.prover.prove(
      request,
      source,
      { server: this.prover.serverOf(realm), realm },
      (username) => {
        const account = this.#accounts.find(domain, username);
        return account === null ? [] : [account];
      },
    );
  }

  // --- What it says ---------------------------------------------------------------------------

  #bind(judged: JudgedRegister, request: SipMessage, source: Source): RegisterAnswer {
    const { address, domain, path } = judged;
    if (!this.#pace.take(address.aor.slice(4).replaceAll(':', ' '), this.#clock.monotonicMs())) {
      throw new GatewayError('REGISTER_RATE', { limit: this.#options.perSecondMax });
    }
    const contacts = readContacts(request, CONTACTS_READ_MAX);
    const held = this.#location.bindings(address.aor);
    if (contacts !== '*' && contacts.length === 0) return this.#list(judged, held, request, false);
    const supported = optionTags(request, 'Supported');
    const isFirstHop = request.list('Via').length === 1 && path.length === 0;
    const hasOutbound = supported.has('outbound') || optionTags(request, 'Require').has('outbound');
    const hasFlows = hasOutbound && contacts !== '*' && contacts.some(({ regId }) => regId > 0);
    // RFC 5626 §6: a proxy between us that keeps no flows would have to be gone through.
    if (hasFlows && !isFirstHop && !isOutboundPath(path)) return NO_OUTBOUND_ANSWER;
    const next =
      contacts === '*'
        ? this.#none(held, request)
        : this.#next(contacts, held, { judged, request, source, hasFlows });
    if (next.length > this.#options.contactsMax) {
      throw new GatewayError('REGISTER_CONTACTS', { limit: this.#options.contactsMax });
    }
    if (!this.#location.update(address, domain, next)) {
      throw new GatewayError('OVERLOADED', { limit: 'registrations' });
    }
    return this.#list(judged, next, request, hasFlows);
  }

  /** §10.3 item 6. */
  #none(held: readonly Binding[], request: SipMessage): readonly Binding[] {
    if (secondsOf(request.header('Expires')) !== 0) {
      throw new GatewayError('SIP_MALFORMED', { problem: '"*" without Expires: 0' });
    }
    for (const binding of held) checkOrder(binding, request);
    return [];
  }

  /** §10.3 item 7. */
  #next(
    contacts: readonly NewContact[],
    held: readonly Binding[],
    given: { judged: JudgedRegister; request: SipMessage; source: Source; hasFlows: boolean },
  ): readonly Binding[] {
    const { request, hasFlows } = given;
    const general = secondsOf(request.header('Expires'));
    const { expiresDefaultS, expiresMinS, expiresMaxS } = this.#options;
    let next = [...held];
    let added = 0;
    for (const one of contacts) {
      const contact = hasFlows ? one : { ...one, regId: 0 };
      const wantedS = contact.expiresS ?? general ?? expiresDefaultS;
      if (wantedS > 0 && wantedS < expiresMinS) {
        throw new GatewayError('REGISTER_TOO_BRIEF', { minimum: expiresMinS });
      }
      const known = next.find((each) => replaces(contact, each, parseUri(each.contact)));
      if (known !== undefined) checkOrder(known, request);
      if (wantedS === 0) {
        next = next.filter((each) => each !== known);
        continue;
      }
      added += 1;
      const expiresS = Math.min(wantedS, expiresMaxS);
      const binding = this.#newBinding(contact, known, { ...given, expiresS });
      if (known === undefined) next.push(binding);
      else next = next.map((each) => (each === known ? binding : each));
    }
    // RFC 5626 §6: a flow is one contact's.
    if (hasFlows && added > 1) {
      throw new GatewayError('SIP_MALFORMED', { problem: 'a flow with several Contacts' });
    }
    return next;
  }

  #newBinding(
    contact: NewContact,
    known: Binding | undefined,
    given: { judged: JudgedRegister; request: SipMessage; source: Source; expiresS: number },
  ): Binding {
    const { request, source, expiresS, judged } = given;
    const { instance, regId, q } = contact;
    const nowMs = this.#clock.nowMs();
    const hasGruu = instance !== '' && optionTags(request, 'Supported').has('gruu');
    const keepsEpoch = known !== undefined && known.callId === request.callId;
    // RFC 5627 §5.4: another Call-ID is another life of the phone, and ends its temporary GRUUs.
    const epoch = keepsEpoch && known.epoch !== '' ? known.epoch : this.#gruu.newEpoch();
    const hasPath = judged.path.length > 0;
    return {
      id: known?.id ?? newSid('RG', this.#clock),
      contact: detach(contact.text),
      instance: detach(instance),
      regId,
      q,
      callId: detach(request.callId),
      cseq: request.cseq,
      createdAtMs: known?.createdAtMs ?? nowMs,
      updatedAtMs: nowMs,
      expiresAtMs: nowMs + expiresS * 1000,
      path: judged.path.map(detach),
      flow: flowOf(source),
      isFlowOnly: !hasPath && (regId > 0 || isFlowOnly(contact.uri, request, source)),
      epoch: hasGruu ? epoch : '',
      userAgent: detach((request.header('User-Agent') ?? '').slice(0, USER_AGENT_CHARS_MAX)),
    };
  }

  /** §10.3 item 8. */
  #list(
    { address, domain, path }: JudgedRegister,
    bindings: readonly Binding[],
    request: SipMessage,
    hasFlows: boolean,
  ): RegisterAnswer {
    const nowMs = this.#clock.nowMs();
    const hasGruu = optionTags(request, 'Supported').has('gruu');
    const headers: HeaderField[] = bindings.map((binding) => {
      const leftS = Math.max(0, Math.ceil((binding.expiresAtMs - nowMs) / 1000));
      const gruu = hasGruu ? this.#gruuFields(binding, address, domain) : '';
      return ['Contact', contactField(binding, leftS, gruu)];
    });
    for (const value of path) headers.push(['Path', value]);
    headers.push(SUPPORTED_FIELD, ['Date', new Date(nowMs).toUTCString()]);
    if (hasFlows) {
      headers.push(['Require', 'outbound'], ['Flow-Timer', String(this.#options.flowTimerS)]);
    }
    return { status: 200, headers };
  }

  #gruuFields({ instance, epoch }: Binding, { aor }: Address, { name }: RegistrarDomain): string {
    if (epoch === '') return '';
    const temporary = this.#gruu.temporaryUri(name, epoch);
    return `;pub-gruu="${this.#gruu.publicUri(aor, instance)}";temp-gruu="${temporary}"`;
  }
}

const USER_AGENT_CHARS_MAX = 128;
/** In one request; how many an address may have is an option. */
const CONTACTS_READ_MAX = 100;
const NO_OUTBOUND_ANSWER: RegisterAnswer = { status: NO_OUTBOUND, headers: [] };

/** What a caller is known by who is registered at a domain and has proven to be. */
export function registeredAt(domainSid: string): string {
  return `registered:${domainSid}`;
}

function refusal(code: ErrorCode, headers: readonly HeaderField[] = []): RegisterRefusal {
  return { code, headers };
}

/** §10.3 item 7: what was said later counts, and a request that comes late changes nothing. */
function checkOrder(binding: Binding, request: SipMessage): void {
  if (binding.callId !== request.callId || binding.cseq < request.cseq) return;
  throw new GatewayError('REGISTER_OUT_OF_ORDER', { cseq: request.cseq });
}

/** What a phone has to know to do better. */
function warnings(error: GatewayError, options: RegistrarOptions): HeaderField[] {
  const { code }: { code: ErrorCode; details: ErrorDetails } = error;
  if (code === 'REGISTER_TOO_BRIEF') return [['Min-Expires', String(options.expiresMinS)]];
  if (code === 'REGISTER_RATE') return [['Retry-After', '1']];
  if (code === 'REGISTER_CONTACTS') return [['Warning', `399 tandem "${error.message}"`]];
  return [];
}
