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
import { parseNameAddr, type SipMessage } from '../sip/message.ts';
import type { Source } from '../sip/peer.ts';
import {
  type Registrar,
  type RegistrarAccounts,
  type RegistrarDomain,
  registeredAt,
} from '../sip/registrar.ts';
import type { RegisteredParties } from './inbound-gate.ts';
import type { Location } from './location.ts';

export class RegisteredCallers implements RegisteredParties {
  readonly #location: Location;
  readonly #accounts: RegistrarAccounts;
  readonly #registrar: Registrar;
  readonly #trunkOf: (request: SipMessage) => TrunkSid | null;

  constructor(parts: {
    location: Location;
    accounts: RegistrarAccounts;
    registrar: Registrar;
    /** Whose contact a request is sent to that we registered. */
    trunkOf: (request: SipMessage) => TrunkSid | null;
  }) {
    this.#location = parts.location;
    this.#accounts = parts.accounts;
    this.#registrar = parts.registrar;
    this.#trunkOf = parts.trunkOf;
  }

  /** Whether it comes from one of those, as far as its looks tell. */
  isOurs(request: SipMessage, source: Source): boolean {
    return this.#trunkOf(request) !== null || this.#callerOf(request, source) !== null;
  }

  authenticate(request: SipMessage, source: Source): AuthVerdict | null {
    const trunkSid = this.#trunkOf(request);
    if (trunkSid !== null) return { kind: 'accept', identity: registeredAt(trunkSid) };
    const caller = this.#callerOf(request, source);
    return caller === null ? null : this.#registrar.proveCaller(request, source, caller);
  }

  #callerOf(
    request: SipMessage,
    source: Source,
  ): { address: Address; domain: RegistrarDomain } | null {
    if (this.#location.size === 0 || !this.#location.isSource(source.address)) return null;
    try {
      const { uri } = parseNameAddr(request.header('From') ?? '');
      const address = uri === null ? null : addressOf(uri);
      const domain = address === null ? null : this.#accounts.domain(address.host);
      if (address === null || domain === null) return null;
      if (request.host.toLowerCase() !== domain.name) return null;
      return this.#location.isAt(address.aor, source) ? { address, domain } : null;
    } catch (thrown) {
      if (thrown instanceof GatewayError) return null;
      throw thrown;
    }
  }
}
