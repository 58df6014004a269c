/**
 * Where SIP may be sent: what the dial guard permits, who we know, and gateways of configured
 * trunks, whose names lead where their owner put them. A peer cannot choose our next hop by its
 * Contact or Record-Route beyond this. Media has rules of its own (`sdp/address`).
 */
import { LRUCache } from 'lru-cache';
import { type AddressGuard, unmapped } from '../core/address.ts';

export interface EgressOptions {
  readonly guard: AddressGuard;
  /** Sources and gateways that configuration names. */
  readonly isKnown: (address: string) => boolean;
  /** Addresses that gateways' names led to, remembered for their dialogs. */
  readonly gatewaysMax: number;
}

export const DEFAULT_EGRESS = { gatewaysMax: 10_000 } as const;

export class Egress {
  readonly #options: EgressOptions;
  readonly #gateways: LRUCache<string, true>;

  constructor(options: EgressOptions) {
    this.#options = options;
    this.#gateways = new LRUCache({ max: options.gatewaysMax });
  }

  permits(address: string): boolean {
    const { guard, isKnown } = this.#options;
    return guard.permits(address) || isKnown(address) || this.#gateways.has(unmapped(address));
  }

  /** A trunk's gateway is at `address`. */
  addGateway(address: string): void {
    this.#gateways.set(unmapped(address), true);
  }
}
