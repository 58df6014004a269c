/**
 * What a leg has said and what it was told: its events under their numbers, kept until the call
 * has them for sure, and the ids of commands it has seen with how each came out. Plain data in and
 * out; publishing is the one thing it does. Knows nothing of SIP or media.
 */
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import { callSubject, type LegCommand, type LegEvent, type LegFact, type LegId } from './leg.ts';

interface SeenCommand {
  readonly id: string;
  /** By what its outcome is known: a playId, a recordId, or the id itself. */
  readonly key: string;
  outcome: LegFact | null;
}

/** A command that was done: the only kind a rebuilt leg may not do again. */
export interface DoneCommand {
  readonly id: string;
  readonly outcome: LegFact;
}

/** Plain data: what a rebuilt leg needs to go on numbering and repeating. */
export interface OutboxRecord {
  readonly seq: number;
  readonly kept: readonly LegEvent[];
  readonly done: readonly DoneCommand[];
}

const NEW_OUTBOX: OutboxRecord = { seq: 0, kept: [], done: [] };

export interface OutboxOptions {
  readonly clock: Clock;
  readonly bus: Bus;
  readonly legId: LegId;
  readonly callSid: CallSid;
  /** Events held for a call that may ask again; the oldest goes first. */
  readonly eventsKeptMax: number;
  /** Command ids remembered. */
  readonly commandsSeenMax: number;
}

export class LegOutbox {
  readonly #options: OutboxOptions;
  readonly #subject: ReturnType<typeof callSubject>;
  #seq: number;
  #kept: LegEvent[];
  #seen: SeenCommand[];

  constructor(options: OutboxOptions, record: OutboxRecord = NEW_OUTBOX) {
    this.#options = options;
    this.#subject = callSubject(options.callSid);
    this.#seq = record.seq;
    this.#kept = [...record.kept];
    this.#seen = record.done.map(({ id, outcome }) => ({ id, key: '', outcome }));
  }

  /** Nothing is held that the call might still want. */
  get isAcknowledged(): boolean {
    return this.#kept.length === 0;
  }

  /** What was not done before a rebuild is new after it, so it is left out. */
  record(): OutboxRecord {
    const done: DoneCommand[] = [];
    for (const { id, outcome } of this.#seen) if (outcome !== null) done.push({ id, outcome });
    return { seq: this.#seq, kept: [...this.#kept], done };
  }

  /** Numbers, keeps and publishes an event; `key` says of which command it is the outcome. */
  emit(fact: LegFact, key: string | null = null): void {
    const { clock, legId, eventsKeptMax } = this.#options;
    this.#seq += 1;
    const event: LegEvent = { legId, seq: this.#seq, atMs: clock.nowMs(), ...fact };
    this.#kept.push(event);
    if (this.#kept.length > eventsKeptMax) this.#kept.shift();
    if (key !== null) this.#settle(key, fact);
    this.#publish(event);
  }

  /**
   * True when this command is new. A known one is not to be done again: how it came out, if it
   * did, is said once more here, under a new number.
   */
  takes(command: LegCommand): boolean {
    for (const seen of this.#seen) {
      if (seen.id !== command.id) continue;
      if (seen.outcome !== null) this.emit(seen.outcome);
      return false;
    }
    // Joined and parted undo each other: what was undone may be asked for again under its old id.
    if (command.kind === 'unbridge') this.#forget('bridged');
    else if (command.kind === 'bridge') this.#forget('unbridged');
    this.#seen.push({ id: command.id, key: outcomeKey(command), outcome: null });
    if (this.#seen.length > this.#options.commandsSeenMax) this.#seen.shift();
    return true;
  }

  /** Forgets what the call has for good: everything up to `seq`. */
  acknowledge(seq: number): void {
    this.#kept = this.#kept.filter((event) => event.seq > seq);
  }

  /** Forgets what the call has, up to `fromSeq`, and publishes the rest again. */
  repeat(fromSeq: number): void {
    this.acknowledge(fromSeq);
    for (const event of this.#kept) this.#publish(event);
  }

  #forget(outcome: LegFact['kind']): void {
    this.#seen = this.#seen.filter((seen) => seen.outcome?.kind !== outcome);
  }

  #publish(event: LegEvent): void {
    try {
      this.#options.bus.publish(this.#subject, event);
    } catch (thrown) {
      // The bus is full. The event is kept; the call sees the hole at the next one and asks.
      if (asGatewayError(thrown).code !== 'QUEUE_FULL') throw thrown;
    }
  }

  #settle(key: string, outcome: LegFact): void {
    for (let i = this.#seen.length - 1; i >= 0; i -= 1) {
      const seen = this.#seen[i];
      if (seen?.key === key && seen.outcome === null) seen.outcome = outcome;
    }
  }
}

function outcomeKey(command: LegCommand): string {
  switch (command.kind) {
    case 'play':
    case 'sendDigits':
      return `play ${command.playId}`;
    case 'record':
      return `record ${command.recordId}`;
    case 'answer':
    case 'ring':
      return command.kind;
    case 'reject':
    case 'hangup':
      return 'end';
    default:
      return command.id;
  }
}
