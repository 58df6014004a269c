/**
 * A bridge: two calls that hear each other. It asks both legs to join their ports and watches that
 * it stays so; the audio itself goes port to port and never comes here. Not a mix (three and more)
 * and not the decision who is joined (a verb's).
 *
 * The command ids depend only on the two calls and their ports, so a bridge made again after a
 * rebuild does not join twice: legs that are joined say `bridged` once more.
 */
import { EventEmitter } from 'node:events';
import type { ErrorCode } from '../core/errors.ts';
import type { Call } from './call.ts';
import type { CallEnd } from './call-record.ts';
import type { LegCommand, LegEvent } from './leg.ts';

export interface BridgeEvents {
  /** Both legs are joined. */
  joined: [];
  /** It could not be joined; both calls go on. */
  failed: [code: ErrorCode];
  /** It is over: closed, or one of the two ended. */
  ended: [endedBy: Call | null];
}

interface Side {
  readonly call: Call;
  commandId: string;
  isJoined: boolean;
}

export class Bridge extends EventEmitter<BridgeEvents> {
  readonly #a: Side;
  readonly #b: Side;
  readonly isEarly: boolean;
  #isAnnounced = false;
  #isOver = false;

  /**
   * Both calls must have their ports, which are what is joined: they are answered, or `isEarly`,
   * which makes the callee heard before that and says of neither call that it talks to the other.
   */
  constructor(options: { a: Call; b: Call; isEarly?: boolean }) {
    super();
    this.isEarly = options.isEarly ?? false;
    this.#a = { call: options.a, commandId: '', isJoined: false };
    this.#b = { call: options.b, commandId: '', isJoined: false };
    for (const side of [this.#a, this.#b]) {
      side.call.on('leg', side === this.#a ? this.#onLegA : this.#onLegB);
      side.call.on('ended', side === this.#a ? this.#onEndA : this.#onEndB);
    }
  }

  get isJoined(): boolean {
    return this.#a.isJoined && this.#b.isJoined;
  }

  /** Joins the two. A port that moves to another worker is joined again by the engine itself. */
  join(): void {
    this.#joinSide(this.#a, this.#b);
    this.#joinSide(this.#b, this.#a);
  }

  /** Parts the two; both calls go on. Idempotent. */
  close(): void {
    if (this.#isOver) return;
    part(this.#a, this.#b);
    part(this.#b, this.#a);
    this.#end(null);
  }

  /** Leaves the two as they are: another bridge is theirs now. */
  leave(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopListening();
  }

  #joinSide(side: Side, other: Side): void {
    const peer = other.call.record.port;
    if (peer === null || this.#isOver) return;
    side.isJoined = false;
    side.commandId = `${this.isEarly ? 'e' : 'b'}.${other.call.sid}.${peer.worker}.${peer.handle}`;
    if (!this.isEarly) side.call.relate({ bridgedTo: other.call.sid });
    side.call.send({
      id: side.commandId,
      kind: 'bridge',
      peer,
      peerLegId: other.call.record.legId,
    });
  }

  readonly #onLegA = (event: LegEvent): void => this.#onLeg(this.#a, this.#b, event);
  readonly #onLegB = (event: LegEvent): void => this.#onLeg(this.#b, this.#a, event);
  readonly #onEndA = (_end: CallEnd): void => this.#end(this.#a.call);
  readonly #onEndB = (_end: CallEnd): void => this.#end(this.#b.call);

  #onLeg(side: Side, other: Side, event: LegEvent): void {
    switch (event.kind) {
      case 'bridged':
        if (event.peerLegId !== other.call.record.legId) return;
        side.isJoined = true;
        if (!this.isJoined || this.#isAnnounced) return;
        this.#isAnnounced = true;
        this.emit('joined');
        break;
      case 'info':
        // RFC 6086: end to end, as far as policy lets it pass.
        if (this.isJoined) other.call.send(passedOn(event));
        break;
      case 'commandFailed':
        if (event.id !== side.commandId || this.#isOver) return;
        this.#end(null, event.code);
        break;
      default:
        break;
    }
  }

  #end(endedBy: Call | null, failure: ErrorCode | null = null): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopListening();
    if (endedBy !== null) this.#release(endedBy);
    this.#forget(this.#a, this.#b);
    this.#forget(this.#b, this.#a);
    if (failure !== null) this.emit('failed', failure);
    this.emit('ended', endedBy);
  }

  #stopListening(): void {
    this.#a.call.off('leg', this.#onLegA);
    this.#b.call.off('leg', this.#onLegB);
    this.#a.call.off('ended', this.#onEndA);
    this.#b.call.off('ended', this.#onEndB);
  }

  /** The one that stays must not be joined to a port that is gone. */
  #release(gone: Call): void {
    if (gone === this.#a.call) part(this.#b, this.#a);
    else part(this.#a, this.#b);
  }

  #forget({ call }: Side, other: Side): void {
    if (call.isLive && call.record.bridgedTo === other.call.sid) call.relate({ bridgedTo: null });
  }
}

function passedOn(info: Extract<LegEvent, { kind: 'info' }>): LegCommand {
  const { legId, seq, contentType, body } = info;
  const id = `info.${legId}.${seq}`;
  return { id, kind: 'sendInfo', package: info.package, contentType, body };
}

/** A leg that is ending lets go by itself; one that was joined with another since stays so. */
function part(side: Side, other: Side): void {
  const { isLive, record } = side.call;
  if (!isLive || record.endingCode !== null || side.commandId === '') return;
  if (record.bridgedTo !== null && record.bridgedTo !== other.call.sid) return;
  side.call.send({ id: `${side.commandId}.end`, kind: 'unbridge' });
}
