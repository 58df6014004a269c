/**
 * Where SIP may be sent: what the dial guard permits, where phones registered from, and within
 * dialogs also the gateways that trunks were dialled at and the sources of calls that were taken.
 * What accounts say of their trunks opens nothing by itself: a gateway is reached by dialling its
 * trunk, never by naming its address. A peer cannot choose our next hop by its Contact or
 * Record-Route beyond this. Media has rules of its own (`sdp/address`).
 */
import { LRUCache } from 'lru-cache';
import { type AddressGuard, unmapped } from '../core/address.ts';

export interface EgressOptions {
  readonly guard: AddressGuard;
  /** Phones have registered from there. */
  readonly isRegistered: (address: string) => boolean;
  /** Addresses remembered for the dialogs with them, beside those that anybody may dial. */
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

  /** Whether anybody may dial it. */
  permits(address: string): boolean {
    const { guard, isRegistered } = this.#options;
    return guard.permits(address) || isRegistered(address);
  }

  /** Whether a request may go there, within the dialogs that there are too. */
  reaches(address: string): boolean {
    return this.permits(address) || this.#gateways.get(unmapped(address)) === true;
  }

  /** A trunk that is dialled has its gateway at `address`, or a call from there is taken. */
  addGateway(address: string): void {
    if (!this.#options.guard.permits(address)) this.#gateways.set(unmapped(address), true);
  }
}
