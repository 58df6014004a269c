/**
 * Keeps the way open to phones behind a NAT that registered over UDP: an OPTIONS now and then,
 * whose answer is what the NAT counts (RFC 4787 §4.3: what comes from outside need not). Streams do
 * this by themselves, and phones that manage their flows ask for it (RFC 5626 §4.4). Who does not
 * answer is not struck off: a binding ends when it expires.
 */
import type { Clock, Timer } from '../core/clock.ts';
import type { Binding } from '../sip/binding.ts';
import type { Location } from './location.ts';

/** An interval is done in so many parts, so that not all phones answer at once. */
const PARTS = 20;

export class PhoneKeepAlive {
  readonly #clock: Clock;
  readonly #location: Location;
  readonly #ping: (binding: Binding) => void;
  readonly #intervalMs: number;
  #timer: Timer | null = null;
  #part = 0;

  constructor(parts: {
    clock: Clock;
    location: Location;
    ping: (binding: Binding) => void;
    /** 0: never. */
    intervalMs: number;
  }) {
    this.#clock = parts.clock;
    this.#location = parts.location;
    this.#ping = parts.ping;
    this.#intervalMs = parts.intervalMs;
  }

  start(): void {
    if (this.#intervalMs > 0) this.#arm();
  }

  close(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  #arm(): void {
    this.#timer = this.#clock.timer(this.#intervalMs / PARTS, () => {
      this.#turn();
      this.#arm();
    });
  }

  #turn(): void {
    let index = 0;
    for (const { binding } of this.#location.all()) {
      const { flow, isFlowOnly, regId } = binding;
      if (flow.transport !== 'udp' || !isFlowOnly || regId > 0) continue;
      if (index % PARTS === this.#part) this.#ping(binding);
      index += 1;
    }
    this.#part = (this.#part + 1) % PARTS;
  }
}
