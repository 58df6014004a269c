/**
 * How far a sender is trusted before a word of its message is believed: by where it comes from
 * alone. `known`: an address of a trunk or a trusted one, or a flow over which somebody has proven
 * whose they are a while ago. `registered`: the flow of a phone's registration. All others are
 * strangers. What each class may cost is `gate.ts`, who is shed first `overload.ts`; whom the
 * addresses belong to is the policy's to know.
 *
 * A flow is transport, address and port: who shares an address with a phone is not the phone.
 */
import type { PeerAddress } from './peer.ts';
import { sourceKey } from './source-limit.ts';

/** The last is shed first. */
export const TRUST_CLASSES = ['known', 'registered', 'stranger'] as const;
export type TrustClass = (typeof TRUST_CLASSES)[number];

export interface TrustOptions {
  /** How long a flow is known after a proof over it. */
  readonly provenMs: number;
  /** Flows that are known by a proof; who was heard of longest ago is forgotten first. */
  readonly provenMax: number;
}

export const DEFAULT_TRUST: TrustOptions = { provenMs: 3_600_000, provenMax: 16_384 };

export class Trust {
  readonly #options: TrustOptions;
  readonly #knows: (address: string) => boolean;
  readonly #isFlow: (peer: PeerAddress) => boolean;
  /** When each proof was given. */
  readonly #proven = new Map<string, number>();

  constructor(parts: {
    knows: (address: string) => boolean;
    isFlow: (peer: PeerAddress) => boolean;
    options: TrustOptions;
  }) {
    this.#knows = parts.knows;
    this.#isFlow = parts.isFlow;
    this.#options = parts.options;
  }

  /** Flows held by a proof. */
  get size(): number {
    return this.#proven.size;
  }

  knows(address: string): boolean {
    return this.#knows(address);
  }

  classOf(peer: PeerAddress, nowMs: number): TrustClass {
    if (this.#knows(peer.address)) return 'known';
    if (this.#isFlow(peer)) return 'registered';
    if (this.#proven.size === 0) return 'stranger';
    const key = flowKey(peer);
    const atMs = this.#proven.get(key);
    if (atMs === undefined) return 'stranger';
    if (nowMs - atMs <= this.#options.provenMs) return 'known';
    this.#proven.delete(key);
    return 'stranger';
  }

  /** A request that came from there was let in. */
  proved(peer: PeerAddress, nowMs: number): void {
    if (this.#knows(peer.address)) return;
    const key = flowKey(peer);
    this.#proven.delete(key);
    this.#proven.set(key, nowMs);
    if (this.#proven.size <= this.#options.provenMax) return;
    const oldest = this.#proven.keys().next().value;
    if (oldest !== undefined) this.#proven.delete(oldest);
  }
}

/** What counts as one flow; of IPv6 all addresses of a /64 are one. */
export function flowKey({ transport, address, port }: PeerAddress): string {
  return `${transport} ${sourceKey(address)} ${port}`;
}
