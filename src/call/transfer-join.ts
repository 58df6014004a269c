/**
 * Joins two answered calls that were not placed for each other: their ports may be in different
 * media workers, and only ports of one worker can be joined. Then one of the two gets a port beside
 * the other's, which its peer is asked to talk to by re-INVITE (RFC 3261 §14.1); where it will not,
 * the other one is asked. Until a peer has agreed both hear whom they heard before.
 *
 * Who is joined with whom, and what becomes of them when it fails, is `transfer.ts`.
 */
import { EventEmitter } from 'node:events';
import { ERRORS, type ErrorCode } from '../core/errors.ts';
import { Bridge } from './bridge.ts';
import type { Call } from './call.ts';
import type { LegEvent } from './leg.ts';

export interface JoinFailure {
  readonly code: ErrorCode;
  /** What the peer said that would not move; else what `code` stands for. */
  readonly sipStatus: number;
}

export interface JoiningEvents {
  joined: [];
  /** No port is on its way any more: what was joined before can be joined again. */
  failed: [failure: JoinFailure];
}

/** Of these the peer is gone, and the call with it: no reason to ask the other one. */
const GONE: ReadonlySet<ErrorCode> = new Set(['SIP_NO_DIALOG', 'SIP_TIMEOUT', 'CALL_CANCELED']);

export class Joining extends EventEmitter<JoiningEvents> {
  readonly #a: Call;
  readonly #b: Call;
  /** Whom to move if need be, in this order. */
  readonly #movers: Call[];
  #moving: { readonly call: Call; readonly commandId: string } | null = null;
  #failure: JoinFailure | null = null;
  #isOver = false;

  /** `b` is the one that is moved, if either is. */
  constructor(options: { a: Call; b: Call }) {
    super();
    this.#a = options.a;
    this.#b = options.b;
    this.#movers = [options.b, options.a];
  }

  start(): void {
    for (const call of [this.#a, this.#b]) {
      call.on('leg', call === this.#a ? this.#onLegA : this.#onLegB);
      call.on('ended', call === this.#a ? this.#onEndA : this.#onEndB);
    }
    this.#step();
  }

  #step(): void {
    const [a, b] = [this.#a.record.port, this.#b.record.port];
    if (a === null || b === null) this.#fail({ code: 'CALL_NOT_LIVE', sipStatus: 481 });
    else if (a.worker === b.worker) this.#bridge();
    else this.#move();
  }

  #move(): void {
    const call = this.#movers.shift();
    const near = (call === this.#a ? this.#b : this.#a).record.port;
    if (call === undefined || near === null) {
      this.#fail(this.#failure ?? { code: 'MEDIA_UNAVAILABLE', sipStatus: 503 });
      return;
    }
    // A fresh id: what was refused once may be agreed to later.
    const commandId = call.act({ kind: 'move', near });
    this.#moving = { call, commandId };
  }

  readonly #onLegA = (event: LegEvent): void => this.#onLeg(this.#a, event);
  readonly #onLegB = (event: LegEvent): void => this.#onLeg(this.#b, event);
  readonly #onEndA = (): void => this.#onEnd(this.#a);
  readonly #onEndB = (): void => this.#onEnd(this.#b);

  #onLeg(call: Call, event: LegEvent): void {
    const moving = this.#moving;
    if (moving?.call !== call) return;
    if (event.kind === 'portMoved') this.#moved();
    else if (event.kind === 'commandFailed' && event.id === moving.commandId) {
      const { code, details } = event;
      this.#failure ??= { code, sipStatus: refusal(Number(details.status), ERRORS[code].sip) };
      if (GONE.has(code)) this.#movers.length = 0;
      this.#moved();
    }
  }

  /** The one that is being moved is waited for: its port must not change under what follows. */
  #onEnd(call: Call): void {
    this.#failure ??= { code: 'CALL_NOT_LIVE', sipStatus: 487 };
    this.#movers.length = 0;
    if (this.#moving === null || this.#moving.call === call) this.#fail(this.#failure);
  }

  #moved(): void {
    this.#moving = null;
    if (this.#a.isLive && this.#b.isLive) this.#step();
    else this.#fail(this.#failure ?? { code: 'CALL_NOT_LIVE', sipStatus: 487 });
  }

  #bridge(): void {
    this.#movers.length = 0;
    const bridge = new Bridge({ a: this.#a, b: this.#b });
    bridge.once('joined', () => {
      if (this.#finish()) this.emit('joined');
    });
    bridge.once('failed', (code) => this.#fail({ code, sipStatus: 503 }));
    bridge.join();
  }

  #fail(failure: JoinFailure): void {
    if (this.#finish()) this.emit('failed', failure);
  }

  #finish(): boolean {
    if (this.#isOver) return false;
    this.#isOver = true;
    this.#a.off('leg', this.#onLegA).off('ended', this.#onEndA);
    this.#b.off('leg', this.#onLegB).off('ended', this.#onEndB);
    return true;
  }
}

/** What was said, else what is meant: never that it went well. */
function refusal(said: number, meant: number): number {
  return [said, meant].find((status) => status >= 300) ?? 487;
}
