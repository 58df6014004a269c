/**
 * One RTP port as the gateway sees it: commands go to the worker that carries it, events come
 * back. It remembers what it was told (settings, bridge, what plays), so that when its worker dies
 * the same UDP port is made again in the next one and told the same; the far end hears a gap and a
 * new SSRC (RFC 3550 §8.2 lets a source change it), the call hears `moved`.
 *
 * Not a leg: no SIP, no SDP. Created by `engine.ts` only.
 */
import { EventEmitter } from 'node:events';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Handle, PortSettings, PortStats, RecordEnd } from './binding.ts';
import { packSettings, unpackStats } from './packed.ts';
import type { PortEvents, PortRecord, PortRef } from './port-parts.ts';
import type {
  Args,
  ControlVerb,
  PlayRequest,
  PortEvent,
  RecordDone,
  RecordRequest,
  Result,
} from './protocol.ts';
import { type Playing, type Recording, remaining } from './replay.ts';
import { spliceRecording } from './splice.ts';
import type { LiveWorker } from './supervisor.ts';

export type { PortRecord, PortRef } from './port-parts.ts';

/** What a port needs of its engine. */
export interface PortHost {
  readonly clock: Clock;
  readonly closeTimeoutMs: number;
  readonly restoreTimeoutMs: number;
  readonly restoresMax: number;
  find(ref: PortRef): Port | undefined;
  /** Makes `ref` another name of `port`. */
  name(ref: PortRef, port: Port): void;
  forget(port: Port, names: readonly PortRef[], group: string): void;
  count(what: 'restored' | 'lost'): void;
}

type State = 'live' | 'restoring' | 'lost' | 'closed';

export class Port extends EventEmitter<PortEvents> {
  readonly #host: PortHost;
  readonly #names: PortRef[];
  #worker: LiveWorker;
  readonly #record: { -readonly [K in keyof PortRecord]: PortRecord[K] };
  #peer: Port | null = null;
  #state: State = 'live';
  readonly #playing = new Map<string, Playing>();
  readonly #recording = new Map<string, Recording>();
  #restores = 0;
  #downMs = 0;
  #restored: PromiseWithResolvers<boolean> | null = null;
  #giveUp: Timer | null = null;
  #drained: (() => void) | null = null;

  /** The record is the port's own from here on. */
  constructor(options: { host: PortHost; worker: LiveWorker; record: PortRecord }) {
    super();
    this.#host = options.host;
    this.#worker = options.worker;
    this.#record = options.record;
    this.#names = [options.record.ref];
    this.#host.name(options.record.ref, this);
  }

  get ref(): PortRef {
    return this.#record.ref;
  }

  /** As plain data; differs after `set`, `connect` and `moved`. */
  toRecord(): PortRecord {
    return { ...this.#record, peer: this.#peer?.ref ?? null };
  }

  get address(): string {
    return this.#record.address;
  }

  get rtpPort(): number {
    return this.#record.rtpPort;
  }

  get rtcpPort(): number {
    return this.#record.rtcpPort;
  }

  get isJoined(): boolean {
    return this.#peer !== null;
  }

  get worker(): LiveWorker {
    return this.#worker;
  }

  get state(): State {
    return this.#state;
  }

  async set(settings: PortSettings): Promise<void> {
    this.#record.settings = settings;
    await this.#tell('setPort', argsOf(settings));
  }

  /** An id that plays is left playing; the outcome of one that ended comes again. */
  async play(request: PlayRequest): Promise<void> {
    if (this.#playing.has(request.playId)) return;
    const startedMs = this.#host.clock.monotonicMs();
    const playing: Playing = { request, startedMs, heardMs: 0, clipMs: 0, isStopping: false };
    this.#playing.set(request.playId, playing);
    try {
      await this.#start(playing);
    } catch (thrown) {
      this.#playing.delete(request.playId);
      throw thrown;
    }
  }

  /** The outcome comes as playDone. Stopping what does not play is no error. */
  async stop(playId: string): Promise<void> {
    const playing = this.#playing.get(playId);
    if (playing !== undefined) playing.isStopping = true;
    await this.#tell('stop', (port) => ({ port, playId }));
  }

  /** Folders are made, the file is 0600. An id is never recorded twice. */
  async record(request: RecordRequest): Promise<void> {
    if (this.#recording.has(request.recordId)) return;
    const startedMs = this.#host.clock.monotonicMs();
    this.#recording.set(request.recordId, { request, startedMs, isPaused: false, parts: [] });
    try {
      const result = await this.#tell('record', (port) => ({ port, record: request }));
      this.#later(result?.outcome ?? null);
    } catch (thrown) {
      this.#recording.delete(request.recordId);
      throw thrown;
    }
  }

  async stopRecord(recordId: string): Promise<void> {
    await this.#tell('stopRecord', (port) => ({ port, recordId }));
  }

  async pauseRecord(recordId: string, paused: boolean): Promise<void> {
    const recording = this.#recording.get(recordId);
    if (recording !== undefined) recording.isPaused = paused;
    await this.#tell('pauseRecord', (port) => ({ port, recordId, paused }));
  }

  /**
   * Joins the audio of two ports of one worker, both ways, or lets go of the peer. What is so
   * already costs nothing: the second end of a bridge finds itself joined by the first.
   */
  async connect(other: PortRef | null): Promise<void> {
    const peer = other === null ? null : (this.#host.find(other) ?? null);
    if (other !== null && peer === null) throw unjoinable('no such port');
    // Both may be on their way to a new worker; they arrive together.
    if (!this.#isSettled) await this.settled();
    if (peer !== null && !peer.#isSettled) await peer.settled();
    if (peer !== null && peer.ref.worker !== this.ref.worker) {
      throw unjoinable('the ports are in different workers');
    }
    if (peer === this.#peer) return;
    this.#join(peer);
    try {
      await this.#tell('connect', (port) => ({ port, peer: peer?.ref.handle ?? 0 }));
    } catch (thrown) {
      if (this.#peer === peer) this.#join(null);
      throw thrown;
    }
  }

  async stats(): Promise<PortStats> {
    const ask = (port: Handle): Args<'ask'> => ({ port });
    return unpackStats((await this.#tell('ask', ask)) ?? (await this.#request('ask', ask)));
  }

  /**
   * When it returns, every recording has told its outcome and no event follows. The last figures,
   * null when no worker can tell them or they were told before. Idempotent.
   */
  async close(): Promise<PortStats | null> {
    if (this.#state === 'closed' || this.#state === 'lost') return null;
    const wasLive = this.#state === 'live';
    this.#state = 'closed';
    if (!wasLive) this.#endRecordings('portClosed');
    this.#join(null);
    this.#settle(false);
    let stats: PortStats | null = null;
    if (wasLive && !this.#worker.client.isClosed) {
      try {
        const { stats: last } = await this.#request('closePort', (port) => ({ port }));
        if (last !== null) stats = unpackStats(last);
      } catch {} // the worker is gone, and with it the port and its figures
    }
    if (this.#recording.size > 0) await this.#drain();
    this.#host.forget(this, this.#names, this.#record.group ?? '');
    return stats;
  }

  /**
   * Goes on with what another port plays and records, under new settings; that one closes, and
   * nothing is heard of it any more. A bridge is not taken over: its peer may be in another worker.
   */
  async takeOver(former: Port, settings: PortSettings): Promise<void> {
    const nowMs = this.#host.clock.monotonicMs();
    former.removeAllListeners();
    this.#record.settings = settings;
    this.#downMs = nowMs;
    for (const [playId, playing] of former.#playing) {
      playing.heardMs += Math.round(nowMs - playing.startedMs);
      this.#playing.set(playId, playing);
    }
    for (const [recordId, recording] of former.#recording) {
      this.#recording.set(recordId, recording);
      // It waits for its file to be whole; the parts are put together by this one.
      former.#recording.set(recordId, { ...recording, parts: [] });
    }
    try {
      await this.#replay();
    } catch (thrown) {
      // A worker that dies over it is followed by one that is told all of it.
      if (!this.#worker.client.isClosed) throw thrown;
      await this.settled();
    } finally {
      void former.close();
    }
  }

  // --- For the engine --------------------------------------------------------------------------

  /** An event of the worker. */
  take(event: PortEvent): void {
    switch (event.kind) {
      case 'playDone': {
        const { playId, reason, playedMs } = event;
        const heardMs = this.#playing.get(playId)?.heardMs ?? 0;
        this.#playing.delete(playId);
        this.emit('playDone', { playId, reason, playedMs: heardMs + playedMs });
        break;
      }
      case 'recordDone':
        this.#recorded(event);
        break;
      case 'digit': {
        const { key, durationMs, source } = event;
        this.emit('digit', { key, durationMs, source });
        break;
      }
      case 'silent':
        this.emit('silent', { silentMs: event.silentMs });
        break;
      case 'firstPacket':
      case 'active':
      case 'latched':
        this.emit(event.kind);
        break;
      default:
        event satisfies never;
    }
  }

  /** In a later turn: whoever gets this port adds its listeners in this one. */
  takeLater(events: readonly PortEvent[]): void {
    if (events.length === 0) return;
    setImmediate(() => {
      for (const event of events) this.take(event);
    });
  }

  /** The bridge as the worker has it already. */
  adoptPeer(peer: Port): void {
    this.#join(peer);
  }

  workerDown(): void {
    if (this.#state !== 'live') return;
    const nowMs = this.#host.clock.monotonicMs();
    this.#state = 'restoring';
    this.#restored = Promise.withResolvers<boolean>();
    for (const playing of this.#playing.values()) {
      playing.heardMs += Math.round(nowMs - playing.startedMs);
    }
    this.#downMs = nowMs;
    this.#giveUp = this.#host.clock.timer(this.#host.restoreTimeoutMs, () => this.lose());
    // What kills every worker it is given to must not be given to another one.
    this.#restores += 1;
    if (this.#restores > this.#host.restoresMax) this.lose();
  }

  /** Makes the port again in `worker`, on the same UDP port. */
  async restore(worker: LiveWorker): Promise<void> {
    const { address, rtcpMux, rtpPort } = this.#record;
    const ssrc = newSsrc(this.#host.clock);
    const wanted = { address, rtcpMux, ssrc, rtpPort };
    const made = await worker.client.request('createPort', wanted);
    if (this.#state !== 'restoring' || made.rtpPort !== rtpPort) {
      await worker.client.request('closePort', { port: made.handle });
      this.lose();
      return;
    }
    const ref: PortRef = { worker: worker.id, handle: made.handle };
    this.#worker = worker;
    Object.assign(this.#record, { ref, ssrc, rtcpPort: made.rtcpPort });
    this.#names.push(ref);
    this.#host.name(ref, this);
    await this.#replay();
    if (this.#state !== 'restoring') return;
    this.#state = 'live';
    this.#settle(true);
    this.#host.count('restored');
    this.emit('moved', { ref });
  }

  /** Bridges again what was bridged, once both ends are back. */
  async rejoin(): Promise<void> {
    const peer = this.#peer;
    if (this.#state !== 'live' || peer === null || peer.#state !== 'live') return;
    if (peer.ref.worker !== this.ref.worker) return;
    await this.#request('connect', (port) => ({ port, peer: peer.ref.handle }));
  }

  lose(): void {
    if (this.#state !== 'restoring') return;
    this.#state = 'lost';
    this.#join(null);
    this.#settle(false);
    this.#host.forget(this, this.#names, this.#record.group ?? '');
    this.#host.count('lost');
    this.#endRecordings('failed');
    // Later, as all events: whoever gets a port adds its listeners in that turn.
    const tell = (): void => void setImmediate(() => this.emit('lost'));
    this.#drain().then(tell, tell);
  }

  // --- Commands --------------------------------------------------------------------------------

  #request<V extends ControlVerb>(verb: V, argsOf: (port: Handle) => Args<V>): Promise<Result<V>> {
    return this.#worker.client.request(verb, argsOf(this.#record.ref.handle));
  }

  /** Null: the worker died over it, and the port made again was told already. */
  async #tell<V extends ControlVerb>(
    verb: V,
    argsOf: (port: Handle) => Args<V>,
  ): Promise<Result<V> | null> {
    // No turn is lost when the port is there: commands of one turn leave together and in order.
    if (!this.#isSettled) await this.settled();
    const worker = this.#worker;
    try {
      return await this.#request(verb, argsOf);
    } catch (thrown) {
      const isWorkerGone = worker.client.isClosed && this.#state !== 'closed';
      if (asGatewayError(thrown).code !== 'MEDIA_UNAVAILABLE' || !isWorkerGone) throw thrown;
      await this.settled();
      return null;
    }
  }

  get #isSettled(): boolean {
    return this.#restored === null && this.#state === 'live';
  }

  /** Waits for a port on its way to another worker; throws when there is none to wait for. */
  async settled(): Promise<void> {
    const isHere = this.#restored === null || (await this.#restored.promise);
    if (isHere && this.#state === 'live') return;
    throw new GatewayError('MEDIA_UNAVAILABLE', { problem: `the port is ${this.#state}` });
  }

  #settle(isHere: boolean): void {
    this.#giveUp?.cancel();
    this.#restored?.resolve(isHere);
    this.#restored = null;
  }

  async #start(playing: Playing): Promise<void> {
    const { request: play, heardMs: offsetMs } = playing;
    const result = await this.#tell('play', (port) => ({ port, play, offsetMs }));
    if (result === null) return;
    playing.clipMs = result.clipMs;
    this.#later(result.outcome);
  }

  async #replay(): Promise<void> {
    const { settings } = this.#record;
    const work: Promise<object>[] = [];
    if (settings !== null) work.push(this.#request('setPort', argsOf(settings)));
    const startedMs = this.#host.clock.monotonicMs();
    for (const playing of this.#playing.values()) {
      const { playId } = playing.request;
      const rest = remaining(playing);
      if (playing.isStopping || rest === null) {
        const reason = playing.isStopping ? 'stopped' : 'failed';
        this.#later({ kind: 'playDone', playId, reason, playedMs: 0 });
        continue;
      }
      playing.startedMs = startedMs;
      work.push(this.#request('play', (port) => ({ port, ...rest })));
    }
    for (const recording of this.#recording.values()) work.push(this.#recordOn(recording));
    await Promise.all(work);
  }

  /** Into a part of its own: a file that is there already would be written over. */
  async #recordOn({ request, startedMs, parts, isPaused }: Recording): Promise<Result<'record'>> {
    const nowMs = this.#host.clock.monotonicMs();
    const path = `${request.path}.${parts.length + 1}.part`;
    parts.push({ path, gapMs: nowMs - this.#downMs });
    const leftMs = Math.max(1, Math.round(request.maxMs - (nowMs - startedMs)));
    const maxMs = request.maxMs === 0 ? 0 : leftMs;
    const { recordId } = request;
    const record = { ...request, path, maxMs };
    const result = await this.#request('record', (port) => ({ port, record }));
    if (isPaused) {
      await this.#request('pauseRecord', (port) => ({ port, recordId, paused: true }));
    }
    return result;
  }

  /** The outcome is told when the file is whole. */
  #recorded(event: RecordDone): void {
    const { recordId, reason } = event;
    const recording = this.#recording.get(recordId);
    const tell = (durationMs: number): void => {
      this.#recording.delete(recordId);
      this.emit('recordDone', { recordId, reason, durationMs });
      if (this.#recording.size === 0) this.#drained?.();
    };
    if (recording === undefined || recording.parts.length === 0) {
      tell(event.durationMs);
      return;
    }
    spliceRecording(recording.request.path, recording.parts).then(tell, () => {
      tell(event.durationMs);
    });
  }

  /** For those no worker can tell of any more. */
  #endRecordings(reason: RecordEnd): void {
    for (const [recordId, { startedMs }] of this.#recording) {
      const durationMs = Math.round(this.#downMs - startedMs);
      this.#recorded({ kind: 'recordDone', recordId, reason, durationMs });
    }
  }

  #later(event: PortEvent | null): void {
    if (event !== null) this.takeLater([event]);
  }

  #join(peer: Port | null): void {
    if (this.#peer === peer) return;
    const former = this.#peer;
    if (former !== null && former.#peer === this) former.#peer = null;
    this.#peer = peer;
    if (peer === null) return;
    if (peer.#peer !== null) peer.#peer.#peer = null;
    peer.#peer = this;
  }

  /** Recorders finish their files after the port is closed. */
  async #drain(): Promise<void> {
    if (this.#recording.size === 0) return;
    await new Promise<void>((done) => {
      const timer = this.#host.clock.timer(this.#host.closeTimeoutMs, done);
      this.#drained = () => {
        timer.cancel();
        done();
      };
    });
  }
}

function argsOf(settings: PortSettings): (port: Handle) => Args<'setPort'> {
  const packed = packSettings(settings);
  return (port) => ({ port, settings: packed });
}

function unjoinable(problem: string): GatewayError {
  return new GatewayError('MEDIA_COMMAND', { op: 'connect', problem });
}

/** RFC 3550 §8: random, and 0 is left out because some peers read it as none. */
export function newSsrc(clock: Clock): number {
  return Number.parseInt(clock.randomHex(4), 16) || 1;
}
