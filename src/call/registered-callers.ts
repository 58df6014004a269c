/**
 * Who is known by a registration. Calls of our own phones: an INVITE that comes from where its
 * caller is registered, to the domain it is registered at; the phone proves itself once more with
 * the password it registered with, and is then as good as any caller the domain lets in. And calls
 * of carriers to a contact that we registered with them, which nobody else was told.
 */
import { GatewayError } from '../core/errors.ts';
import type { TrunkSid } from '../core/sid.ts';
import { type Address, addressOf } from '../sip/binding.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { parseNameAddr, parseUri, type SipMessage, type SipUri } from '../sip/message.ts';
import type { PeerAddress, Source } from '../sip/peer.ts';
import {
  type Registrar,
  type RegistrarAccounts,
  type RegistrarDomain,
  registeredAt,
} from '../sip/registrar.ts';
import type { AskedCaller, RegisteredParties, SourceStanding } from './caller-standing.ts';
import type { Decisions } from './decision.ts';
import type { Location } from './location.ts';

export class RegisteredCallers implements RegisteredParties {
  readonly #location: Location;
  readonly #accounts: RegistrarAccounts;
  readonly #registrar: Registrar;
  readonly #trunkOf: (request: Pick<SipMessage, 'uri'>) => TrunkSid | null;

  constructor(parts: {
    location: Location;
    accounts: RegistrarAccounts;
    registrar: Registrar;
    /** Whose contact a request is sent to that we registered. */
    trunkOf: (request: Pick<SipMessage, 'uri'>) => TrunkSid | null;
  }) {
    this.#location = parts.location;
    this.#accounts = parts.accounts;
    this.#registrar = parts.registrar;
    this.#trunkOf = parts.trunkOf;
  }

  /** Whether it may be of one of those; who is registered where is not told to anybody. */
  isOurs(request: SipMessage): boolean {
    return this.#trunkOf(request) !== null || this.#domainOf(request) !== null;
  }

  authenticate(request: SipMessage, source: Source): AuthVerdict | null {
    const trunkSid = this.#trunkOf(request);
    if (trunkSid !== null) return { kind: 'accept', identity: registeredAt(trunkSid) };
    const caller = this.#callerOf(source, partiesOf(request));
    if (caller === null) return null;
    const { domain, address } = caller;
    return this.#registrar.proveCaller(request, source, { domain, user: address.user });
  }

  /** Nobody who is registered, at a domain where phones are: the same challenge as to those. */
  challenge(request: SipMessage, source: Source): AuthVerdict | null {
    const domain = this.#domainOf(request);
    if (domain === null) return null;
    return this.#registrar.proveCaller(request, source, { domain, user: null });
  }

  challenges(requestUri: string): boolean {
    try {
      return this.#accounts.domain(parseUri(requestUri).host.toLowerCase()) !== null;
    } catch (thrown) {
      if (thrown instanceof GatewayError) return false;
      throw thrown;
    }
  }

  #domainOf(request: SipMessage): RegistrarDomain | null {
    return this.#accounts.domain(request.host.toLowerCase());
  }

  look({ requestUri, fromUri, source }: AskedCaller, decisions: Decisions): SourceStanding | null {
    const trunkSid = this.#trunkOf({ uri: requestUri });
    if (trunkSid !== null) {
      decisions.ok('source', `it is sent to the contact that trunk ${trunkSid} was given`);
      return { standing: 'is', identity: registeredAt(trunkSid) };
    }
    const parties = () => ({ from: parseUri(fromUri), host: parseUri(requestUri).host });
    const caller = this.#callerOf(source, parties);
    if (caller === null) return null;
    const { address, domain } = caller;
    const where = `domain ${domain.name} (${domain.sid})`;
    const what = `${address.user} is registered from here: asked for the password of ${where}`;
    decisions.ok('digest', what);
    return { standing: 'challenge', identity: registeredAt(domain.sid) };
  }

  #callerOf(
    source: PeerAddress,
    parties: () => { readonly from: SipUri | null; readonly host: string },
  ): { address: Address; domain: RegistrarDomain } | null {
    if (this.#location.size === 0 || !this.#location.isSource(source.address)) return null;
    try {
      const { from, host } = parties();
      const address = from === null ? null : addressOf(from);
      const domain = address === null ? null : this.#accounts.domain(address.host);
      if (address === null || domain === null) return null;
      if (host.toLowerCase() !== domain.name) return null;
      return this.#location.isAt(address.aor, source) ? { address, domain } : null;
    } catch (thrown) {
      if (thrown instanceof GatewayError) return null;
      throw thrown;
    }
  }
}

function partiesOf(request: SipMessage) {
  return () => ({ from: parseNameAddr(request.header('From') ?? '').uri, host: request.host });
}
