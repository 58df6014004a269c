/**
 * What runs a walked call: an application that rings, answers, plays, dials, bridges, transfers and
 * hangs up at random times, in any order that the call allows and in some that it does not.
 */
import { Bridge } from '../../src/call/bridge.ts';
import type { Call } from '../../src/call/call.ts';
import type { LegEvent } from '../../src/call/leg.ts';
import type { DialTarget } from '../../src/call/route.ts';
import type { Router } from '../../src/call/router.ts';
import { asGatewayError } from '../../src/core/errors.ts';
import type { SimClock } from './sim.ts';

export interface WalkAppParts {
  readonly clock: SimClock;
  readonly random: () => number;
  readonly router: Router;
  readonly call: Call;
  /** Somebody to dial. */
  target(): DialTarget;
}

const DIALS_MAX = 3;

export class WalkApp {
  readonly #parts: WalkAppParts;
  #dials = 0;
  #plays = 0;

  constructor(parts: WalkAppParts) {
    this.#parts = parts;
  }

  start(): void {
    const { call } = this.#parts;
    const { direction } = call.record;
    call.on('leg', (event) => this.#onLeg(event));
    if (direction !== 'inbound') {
      if (this.#chance(0.3)) this.#later(15_000, () => call.hangup('CALL_CANCELED'));
      return;
    }
    const roll = this.#parts.random();
    if (roll < 0.08) this.#later(3_000, () => this.#reject());
    else if (roll < 0.12) this.#ring();
    else if (roll < 0.35) this.#answerAlone();
    else {
      if (this.#chance(0.6)) this.#ring();
      this.#later(500, () => this.#dial());
    }
    if (this.#chance(0.15)) this.#later(40_000, () => call.hangup());
    if (this.#chance(0.1)) this.#later(10_000, () => this.#whatever());
  }

  #onLeg(event: LegEvent): void {
    const { call } = this.#parts;
    if (event.kind !== 'answered') return;
    if (this.#chance(0.2)) call.setTimeLimit(Math.ceil(this.#any(60_000)));
    if (call.record.direction === 'inbound') return;
    if (this.#chance(0.5)) this.#later(2_000, () => this.#dial());
    else this.#play();
  }

  #ring(): void {
    this.#parts.call.act({ kind: 'ring', earlyMedia: this.#chance(0.4) });
  }

  #reject(): void {
    const sipStatus = this.#chance(0.5) ? 486 : 603;
    this.#parts.call.act({ kind: 'reject', sipStatus, reason: '' });
  }

  #answerAlone(): void {
    const { call } = this.#parts;
    if (this.#chance(0.5)) this.#ring();
    this.#later(6_000, () => {
      call.act({ kind: 'answer' });
      if (this.#chance(0.5)) this.#play();
      this.#later(40_000, () => call.hangup());
    });
  }

  #play(): void {
    this.#plays += 1;
    const playId = `p${this.#plays}`;
    const source = { kind: 'tone', hz: [440], onMs: 1, offMs: 0, levelDb: -20, count: 1 } as const;
    this.#parts.call.act({ kind: 'play', playId, source, loop: 1 });
    if (this.#chance(0.3))
      this.#later(3_000, () => this.#parts.call.act({ kind: 'stopPlay', playId }));
  }

  #dial(): void {
    const { call, router, target } = this.#parts;
    if (!call.isLive || this.#dials >= DIALS_MAX) return;
    this.#dials += 1;
    let child: Call;
    try {
      child = router.dial({
        parentCallSid: call.sid,
        callerId: null,
        target: target(),
        ringTimeoutMs: 2_000 + this.#any(25_000),
        ...(this.#chance(0.2) ? { timeLimitMs: 1 + this.#any(50_000) } : {}),
        statusCallback: null,
      });
    } catch (thrown) {
      call.hangup(asGatewayError(thrown).code);
      return;
    }
    this.#join(child);
    child.on('leg', ({ kind }) => {
      if (kind === 'ringing' && this.#chance(0.7)) this.#ring();
      if (kind === 'answered') call.act({ kind: 'answer' });
    });
    child.on('ended', () => {
      if (this.#chance(0.3)) this.#dial();
      else if (this.#chance(0.9)) call.hangup('CALL_COMPLETED');
    });
    if (this.#chance(0.1)) this.#later(20_000, () => child.hangup('CALL_CANCELED'));
    if (this.#chance(0.08)) this.#later(30_000, () => this.#transfer(child));
  }

  /** The two hear each other once both are answered; now and then they are parted again. */
  #join(child: Call): void {
    const { call } = this.#parts;
    let isJoined = false;
    const join = (): void => {
      if (isJoined || !call.isLive || !child.isLive) return;
      if (call.record.port === null || child.record.port === null) return;
      isJoined = true;
      const bridge = new Bridge({ a: call, b: child });
      bridge.join();
      if (this.#chance(0.1)) this.#later(20_000, () => bridge.close());
    };
    call.on('leg', ({ kind }) => kind === 'answered' && join());
    child.on('leg', ({ kind }) => kind === 'answered' && join());
  }

  /** We ask a peer to call somebody else. */
  #transfer(call: Call): void {
    call.act({ kind: 'refer', uri: 'sip:somebody@10.0.1.3', headers: [], referredBy: '' });
  }

  /** Commands out of place. */
  #whatever(): void {
    const { call } = this.#parts;
    const roll = this.#parts.random();
    if (roll < 0.2) call.act({ kind: 'answer' });
    else if (roll < 0.4) call.act({ kind: 'unbridge' });
    else if (roll < 0.6) this.#play();
    else if (roll < 0.8) call.act({ kind: 'sendDigits', playId: 'd', digits: '12w3' });
    else this.#reject();
  }

  #later(withinMs: number, fn: () => void): void {
    this.#parts.clock.timer(this.#any(withinMs), fn);
  }

  #any(max: number): number {
    return this.#parts.random() * max;
  }

  #chance(share: number): boolean {
    return this.#parts.random() < share;
  }
}
