/**
 * Dialling an address that registers with us: its contacts as targets to fork to, each over the
 * flow it registered by (RFC 5626 §5.3), through the proxies it named (RFC 3327 §5.4), or at the
 * address it gave (RFC 3261 §16.5); and one phone alone where a GRUU names it (RFC 5627 §5.6).
 */
import { isIP } from 'node:net';
import { GatewayError } from '../core/errors.ts';
import type { AccountSid } from '../core/sid.ts';
import { addressOf, type Binding, contactTransport, type Flow } from '../sip/binding.ts';
import type { Gruu } from '../sip/gruu.ts';
import { parseUri, type SipUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { RegistrarAccounts } from '../sip/registrar.ts';
import type { LegTarget } from './leg.ts';
import type { Location } from './location.ts';
import type { ContactTarget } from './outbound.ts';

export class Contacts {
  readonly #location: Location;
  readonly #accounts: RegistrarAccounts;
  readonly #gruu: Gruu;
  readonly #isConnected: (peer: PeerAddress) => boolean;

  constructor(parts: {
    location: Location;
    accounts: RegistrarAccounts;
    gruu: Gruu;
    /** A connection to the peer stands. */
    isConnected: (peer: PeerAddress) => boolean;
  }) {
    this.#location = parts.location;
    this.#accounts = parts.accounts;
    this.#gruu = parts.gruu;
    this.#isConnected = parts.isConnected;
  }

  /**
   * Null when the address is not one that registers here for that account. Throws
   * REGISTER_FLOW_FAILED when it is registered, and all its connections are gone.
   */
  targetsOf(text: string, accountSid: AccountSid): readonly ContactTarget[] | null {
    const uri = readUri(text);
    if (uri === null || uri.scheme === 'tel') return null;
    const domain = this.#accounts.domain(uri.host.toLowerCase());
    // Phones of others are behind their application: they are called as any address is.
    if (domain === null || domain.accountSid !== accountSid) return null;
    const bindings = this.#bindingsOf(uri, domain.name);
    const reachable = bindings.filter((binding) => this.#isReachable(binding));
    if (bindings.length > 0 && reachable.length === 0) {
      for (const { id } of bindings) this.#location.remove(accountSid, id);
      throw new GatewayError('REGISTER_FLOW_FAILED', { uri: text });
    }
    return onePerInstance(reachable).map((binding) => ({
      q: binding.q,
      target: targetOf(binding, this.#isConnected),
    }));
  }

  #bindingsOf(uri: SipUri, domainName: string): readonly Binding[] {
    const gruu = this.#gruu.read(uri);
    if (gruu?.kind === 'epoch') {
      const found = this.#location.ofEpoch(gruu.epoch);
      return found?.aor.endsWith(`@${domainName}`) ? [found.binding] : [];
    }
    const address = addressOf(uri);
    const all = address === null ? [] : this.#location.bindings(address.aor);
    return gruu === null ? all : all.filter(({ instance }) => instance === gruu.instance);
  }

  #isReachable({ flow, isFlowOnly }: Binding): boolean {
    return !isFlowOnly || flow.transport === 'udp' || this.#isConnected(peerOf(flow));
  }
}

function readUri(text: string): SipUri | null {
  try {
    return parseUri(text);
  } catch (thrown) {
    if (thrown instanceof GatewayError) return null;
    throw thrown;
  }
}

/** RFC 5626 §5.3: of the flows of one phone one is used, or it would ring twice. */
function onePerInstance(bindings: readonly Binding[]): Binding[] {
  const newest = bindings.toSorted((a, b) => b.updatedAtMs - a.updatedAtMs);
  const seen = new Set<string>();
  return newest.filter(({ instance, regId }) => {
    if (instance === '' || regId === 0) return true;
    if (seen.has(instance)) return false;
    seen.add(instance);
    return true;
  });
}

function targetOf(binding: Binding, isConnected: (peer: PeerAddress) => boolean): LegTarget {
  const { contact: uri, path, flow, isFlowOnly } = binding;
  if (path.length > 0) return { uri, peer: null, trusted: false, route: path };
  const peer = peerOf(flow);
  if (isFlowOnly || (flow.transport !== 'udp' && isConnected(peer))) {
    return { uri, peer, trusted: true };
  }
  return { uri, peer: directPeer(parseUri(uri), flow), trusted: false };
}

function peerOf({ transport, address, port, listener }: Flow): PeerAddress {
  return { transport, address, port, listener };
}

/**
 * A phone that registered over UDP is called over UDP, however large the request: it may listen
 * nowhere else. Null leaves the way to the resolver.
 */
function directPeer(contact: SipUri, flow: Flow): PeerAddress | null {
  const isLiteral = isIP(contact.host) !== 0;
  if (!isLiteral || flow.transport !== 'udp' || contactTransport(contact) !== 'udp') return null;
  const { host: address, port = 5060 } = contact;
  return { transport: 'udp', address, port, listener: flow.listener };
}
