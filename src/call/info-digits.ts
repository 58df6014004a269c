/**
 * Keys sent to a peer as SIP INFO, where its trunk wants them so: one after another, each when the
 * one before was answered and has had its time, because a peer that gets two at once may take them
 * in any order. Pauses are waited out here. How an INFO is sent is `sip/side-requests.ts`.
 *
 * No RFC describes `application/dtmf-relay`; RFC 6086 §4.1 leaves it to what peers have agreed.
 */
import type { Clock, Timer } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import type { LegFact } from './leg.ts';

/** A key and the silence after it: what the slowest of the usual receivers can tell apart. */
const KEY_MS = 160;
const GAP_MS = 90;
const PAUSES_MS: Readonly<Record<string, number>> = { w: 500, W: 1000 };
/** Sequences of one leg that wait for the one before them. */
const WAITING_MAX = 16;

/** `onDone` gets the status that answered it. */
export type SendInfo = (
  info: { readonly contentType: string; readonly body: string },
  onDone: (status: number) => void,
) => void;

interface Sequence {
  readonly playId: string;
  readonly keys: readonly string[];
  at: number;
  readonly sinceMs: number;
}

type Reason = Extract<LegFact, { kind: 'playDone' }>['reason'];

export class InfoDigits {
  readonly #clock: Clock;
  readonly #send: SendInfo;
  readonly #tell: (playId: string, reason: Reason, playedMs: number) => void;
  readonly #sequences: Sequence[] = [];
  #timer: Timer | null = null;
  /** What the present key still waits for: its time, its answer. */
  #waitsFor = 0;

  constructor(options: {
    clock: Clock;
    send: SendInfo;
    tell: (playId: string, reason: Reason, playedMs: number) => void;
  }) {
    this.#clock = options.clock;
    this.#send = options.send;
    this.#tell = options.tell;
  }

  /** Idempotent by `playId` as long as that one is under way. Throws QUEUE_FULL. */
  send(playId: string, digits: string): void {
    if (this.#sequences.some((one) => one.playId === playId)) return;
    if (this.#sequences.length >= WAITING_MAX) {
      throw new GatewayError('QUEUE_FULL', { depth: WAITING_MAX });
    }
    const sinceMs = this.#clock.monotonicMs();
    this.#sequences.push({ playId, keys: [...digits], at: 0, sinceMs });
    if (this.#sequences.length === 1) this.#next();
  }

  /** True when it was one of these. */
  stop(playId: string): boolean {
    const sequence = this.#sequences.find((one) => one.playId === playId);
    if (sequence === undefined) return false;
    this.#finish(sequence, 'stopped');
    return true;
  }

  close(): void {
    this.#timer?.cancel();
    this.#sequences.length = 0;
  }

  #next(): void {
    const [sequence] = this.#sequences;
    if (sequence === undefined) return;
    const key = sequence.keys[sequence.at];
    if (key === undefined) {
      this.#finish(sequence, 'finished');
      return;
    }
    sequence.at += 1;
    const pauseMs = PAUSES_MS[key];
    const step = (): void => {
      this.#waitsFor -= 1;
      if (this.#waitsFor === 0 && this.#sequences[0] === sequence) this.#next();
    };
    this.#waitsFor = pauseMs === undefined ? 2 : 1;
    this.#timer = this.#clock.timer(pauseMs ?? KEY_MS + GAP_MS, step);
    if (pauseMs !== undefined) return;
    const body = `Signal=${key.toUpperCase()}\r\nDuration=${KEY_MS}\r\n`;
    this.#send({ contentType: 'application/dtmf-relay', body }, (status) => {
      // A sequence that was stopped meanwhile waits for nothing.
      if (this.#sequences[0] !== sequence) return;
      if (status < 300) step();
      else this.#finish(sequence, 'failed');
    });
  }

  #finish(sequence: Sequence, reason: Reason): void {
    const isFirst = this.#sequences[0] === sequence;
    this.#sequences.splice(this.#sequences.indexOf(sequence), 1);
    if (isFirst) this.#timer?.cancel();
    this.#tell(sequence.playId, reason, this.#clock.monotonicMs() - sequence.sinceMs);
    if (isFirst) this.#next();
  }
}
