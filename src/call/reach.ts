/**
 * Whether a place that a call is to go to can be reached from here: where its name leads, whether
 * that address may be called, judged as bytes, and whether we listen on a transport for it. The
 * same for a leg that is placed (`leg-branch.ts`) and for a dry run, which looks no name up.
 * Gateways of configured trunks are trusted to be where they are.
 */
import { isIP } from 'node:net';
import { unmapped } from '../core/address.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { parseNameAddr, parseUri, type SipUri } from '../sip/message.ts';
import type { PeerAddress, TransportName } from '../sip/peer.ts';
import type { Decisions } from './decision.ts';
import type { Egress } from './egress.ts';
import type { LegTarget } from './leg.ts';

/** An address; `eitherTransport` when its URI named none, so that a large request may go by TCP. */
export type ResolvedPeer = PeerAddress & { readonly eitherTransport?: boolean };

export interface ReachParts {
  readonly resolve: (uri: SipUri) => Promise<readonly ResolvedPeer[]>;
  readonly egress: Egress;
  /** Whether requests to this address can be sent by that transport. */
  readonly hasLocal: (transport: TransportName, address: string) => boolean;
}

/** Of each family one, for a name whose addresses nobody has asked for. */
const ANYWHERE = ['192.0.2.1', '2001:db8::1'];

export class Reach {
  readonly #parts: ReachParts;

  constructor(parts: ReachParts) {
    this.#parts = parts;
  }

  /** Where to send to, never nowhere; throws why there is none. */
  async find(target: LegTarget, decisions: Decisions): Promise<readonly ResolvedPeer[]> {
    if (target.peer !== null) return [target.peer];
    const { uri, text } = nextOf(target);
    const found = await this.#resolve(uri, text, decisions);
    const { egress } = this.#parts;
    if (target.trusted) for (const { address } of found) egress.addGateway(address);
    return this.#usable(target, found, decisions);
  }

  /** What `find` would throw, as far as that is known without asking DNS; null: nothing. */
  async look(target: LegTarget, decisions: Decisions): Promise<GatewayError | null> {
    if (target.peer !== null) return null;
    try {
      const { uri, text } = nextOf(target);
      const host = unmapped(uri.params.get('maddr') ?? uri.host);
      if (isIP(host) === 0) this.#lookAtName(uri, text, decisions);
      else this.#usable(target, await this.#resolve(uri, text, decisions), decisions);
      return null;
    } catch (thrown) {
      return asGatewayError(thrown);
    }
  }

  async #resolve(uri: SipUri, text: string, decisions: Decisions) {
    try {
      return await this.#parts.resolve(uri);
    } catch (thrown) {
      const { message } = asGatewayError(thrown);
      const fix = message.includes(' listener') ? 'sip.listen' : '';
      decisions.no('gateway', `${text} leads nowhere: ${message}`, fix);
      throw thrown;
    }
  }

  #usable(
    { uri, trusted }: LegTarget,
    found: readonly ResolvedPeer[],
    decisions: Decisions,
  ): readonly ResolvedPeer[] {
    const { egress, hasLocal } = this.#parts;
    const [first] = found;
    const shown = first?.address ?? '';
    const permitted = found.filter((one) => trusted || egress.permits(one.address));
    if (permitted.length === 0) {
      decisions.no('gateway', `${uri} leads to ${shown}, which may not be called`, 'sip.allow');
      throw new GatewayError('DIAL_ADDRESS_REFUSED', { uri });
    }
    const usable = permitted.filter(({ transport, address, listener }) => {
      return listener !== undefined || hasLocal(transport, address);
    });
    if (usable.length > 0) return usable;
    throw this.#unheard(uri, permitted[0]?.transport ?? 'udp', shown, decisions);
  }

  /** Of a name only the transport is known, where it says one. */
  #lookAtName(uri: SipUri, text: string, decisions: Decisions): void {
    const way = transportOf(uri);
    const isHeard = ANYWHERE.some((address) => way !== null && this.#parts.hasLocal(way, address));
    if (way !== null && !isHeard) throw this.#unheard(text, way, uri.host, decisions);
    decisions.ok('gateway', `${uri.host} is not resolved: a dry run asks no DNS`);
  }

  /** Nothing can be sent there, as there is nowhere to be answered. */
  #unheard(uri: string, way: TransportName, peer: string, decisions: Decisions): GatewayError {
    const what = `${uri} needs ${way} to ${peer}, and this node has no such listener`;
    decisions.no('gateway', what, 'sip.listen');
    const problem = `no ${way} listener for this address family`;
    return new GatewayError('SIP_TRANSPORT', { peer, problem });
  }
}

/** The first place to go to: a proxy on the way, or the target itself. */
function nextOf({ uri, route = [] }: LegTarget): { uri: SipUri; text: string } {
  const [first] = route;
  const text = first === undefined ? uri : parseNameAddr(first).uriText;
  return { uri: parseUri(text), text };
}

/** What a URI says of it; null where it leaves the choice to DNS. */
function transportOf({ scheme, params }: SipUri): TransportName | null {
  if (scheme === 'sips') return 'tls';
  const named = params.get('transport')?.toLowerCase();
  return named === 'udp' || named === 'tcp' || named === 'tls' ? named : null;
}
