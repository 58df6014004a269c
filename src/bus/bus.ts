/**
 * The bus: how parts that may live on different nodes talk. Publish and subscribe, request and
 * reply, queue groups; subjects are tokens joined by dots, `*` stands for one token and a last `>`
 * for the rest. This file has the interface and the in-process bus, the one a single node runs on.
 *
 * What users may rely on, with any driver: delivery is asynchronous, messages of one subject come
 * in the order they were published, a message is plain data that neither side changes afterwards.
 * What they may not: that a message arrives at all (who needs that keeps it until acknowledged).
 */
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';

declare const carries: unique symbol;
declare const answers: unique symbol;

/** A subject whose messages are `T`. */
export type Subject<T extends object> = string & { readonly [carries]: T };

/** A subject whose messages `T` are answered with `R`. */
export type Service<T extends object, R extends object> = string & {
  readonly [carries]: T;
  readonly [answers]: R;
};

export interface Subscription {
  /** Nothing is delivered after this, also not what waits already. Idempotent. */
  close(): void;
}

export interface SubscribeOptions {
  /** Members of one queue group share the messages: each goes to one of them. */
  readonly queue?: string;
}

export interface Bus {
  /** Throws QUEUE_FULL when too many messages wait for delivery. */
  publish<T extends object>(subject: Subject<T>, message: T): void;
  subscribe<T extends object>(
    subject: Subject<T>,
    handler: (message: T, subject: string) => void,
    options?: SubscribeOptions,
  ): Subscription;
  /** The answer of one responder. Rejects BUS_NO_RESPONDER at once, BUS_TIMEOUT, or its error. */
  request<T extends object, R extends object>(
    service: Service<T, R>,
    message: T,
    options: { readonly timeoutMs: number },
  ): Promise<R>;
  /** Answers requests; of several responders each request goes to one. */
  respond<T extends object, R extends object>(
    service: Service<T, R>,
    handler: (message: T) => Promise<R> | R,
  ): Subscription;
  close(): Promise<void>;
}

export interface LocalBusOptions {
  readonly clock: Clock;
  /** A handler threw: the bus goes on, the owner decides what that means. */
  readonly onError: (error: GatewayError, subject: string) => void;
  /** Messages waiting for delivery, over all subjects. */
  readonly queueDepthMax: number;
  /** Requests waiting for an answer. */
  readonly requestsMax: number;
  /** Messages delivered in one go before sockets and timers get their turn. */
  readonly burstMax: number;
  /** Puts every message through JSON, as a bus between processes would. */
  readonly json: boolean;
}

export const DEFAULT_LOCAL_BUS: Omit<LocalBusOptions, 'clock' | 'onError'> = {
  queueDepthMax: 100_000,
  requestsMax: 10_000,
  burstMax: 512,
  json: false,
};

interface Reply {
  settle(answer: object | null, error: GatewayError | null): void;
  /** The request was handed over; what was answered at once needs no timer. */
  startTimer(): void;
}

interface Envelope {
  readonly subject: string;
  readonly message: object;
  readonly reply: Reply | null;
}

type Handler = (message: object, subject: string) => void;

class LocalSubscription implements Subscription {
  readonly subject: string;
  readonly queue: string;
  readonly handler: Handler | null;
  readonly responder: ((message: object) => Promise<object> | object) | null;
  isClosed = false;
  readonly #bus: LocalBus;

  constructor(options: {
    bus: LocalBus;
    subject: string;
    queue: string;
    handler?: Handler;
    responder?: (message: object) => Promise<object> | object;
  }) {
    this.#bus = options.bus;
    this.subject = options.subject;
    this.queue = options.queue;
    this.handler = options.handler ?? null;
    this.responder = options.responder ?? null;
  }

  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#bus.forget(this);
  }
}

export class LocalBus implements Bus {
  readonly #options: LocalBusOptions;
  /** By exact subject; almost every subject has one subscriber, so no array for that. */
  readonly #exact = new Map<string, LocalSubscription | LocalSubscription[]>();
  #wild: LocalSubscription[] = [];
  #queue: Envelope[] = [];
  #head = 0;
  #isDraining = false;
  #isScheduled = false;
  #isClosed = false;
  #turn = 0;
  readonly #pending = new Set<PendingRequest>();
  readonly #onTurn = (): void => this.#drain();

  constructor(options: LocalBusOptions) {
    this.#options = options;
  }

  /** Messages that wait for delivery. */
  get depth(): number {
    return this.#queue.length - this.#head;
  }

  /** 1: nothing more is taken. */
  get fullness(): number {
    return this.depth / this.#options.queueDepthMax;
  }

  publish<T extends object>(subject: Subject<T>, message: T): void {
    this.#enqueue({ subject, message: this.#copy(message), reply: null });
  }

  subscribe<T extends object>(
    subject: Subject<T>,
    handler: (message: T, subject: string) => void,
    options: SubscribeOptions = {},
  ): Subscription {
    const queue = options.queue ?? '';
    // The subject's type says what its messages are; nobody else can publish to it.
    return this.#add(
      new LocalSubscription({ bus: this, subject, queue, handler: handler as Handler }),
    );
  }

  respond<T extends object, R extends object>(
    service: Service<T, R>,
    handler: (message: T) => Promise<R> | R,
  ): Subscription {
    const responder = handler as (message: object) => Promise<object> | object;
    return this.#add(
      new LocalSubscription({ bus: this, subject: service, queue: 'responder', responder }),
    );
  }

  request<T extends object, R extends object>(
    service: Service<T, R>,
    message: T,
    options: { readonly timeoutMs: number },
  ): Promise<R> {
    if (this.#pending.size >= this.#options.requestsMax) {
      return Promise.reject(new GatewayError('QUEUE_FULL', { depth: this.#pending.size }));
    }
    if (this.#isClosed) {
      return Promise.reject(new GatewayError('BUS_NO_RESPONDER', { subject: service }));
    }
    const pending = new PendingRequest({
      clock: this.#options.clock,
      subject: service,
      timeoutMs: options.timeoutMs,
      pending: this.#pending,
    });
    try {
      this.#enqueue({ subject: service, message: this.#copy(message), reply: pending });
    } catch (thrown) {
      pending.settle(null, asGatewayError(thrown));
    }
    return pending.promise as Promise<R>;
  }

  close(): Promise<void> {
    this.#isClosed = true;
    this.#queue = [];
    this.#head = 0;
    for (const pending of [...this.#pending]) {
      pending.settle(null, new GatewayError('BUS_NO_RESPONDER', { subject: pending.subject }));
    }
    this.#exact.clear();
    this.#wild = [];
    return Promise.resolve();
  }

  /** Called by a subscription that closes. */
  forget(subscription: LocalSubscription): void {
    const { subject } = subscription;
    if (isWild(subject)) {
      this.#wild = this.#wild.filter((other) => other !== subscription);
      return;
    }
    const held = this.#exact.get(subject);
    if (held === subscription) this.#exact.delete(subject);
    else if (Array.isArray(held)) {
      const rest = held.filter((other) => other !== subscription);
      if (rest.length === 0) this.#exact.delete(subject);
      else this.#exact.set(subject, rest);
    }
  }

  #add(subscription: LocalSubscription): Subscription {
    const { subject } = subscription;
    if (isWild(subject)) {
      this.#wild = [...this.#wild, subscription];
      return subscription;
    }
    const held = this.#exact.get(subject);
    if (held === undefined) this.#exact.set(subject, subscription);
    else
      this.#exact.set(
        subject,
        Array.isArray(held) ? [...held, subscription] : [held, subscription],
      );
    return subscription;
  }

  #copy<T extends object>(message: T): T {
    return this.#options.json ? (JSON.parse(JSON.stringify(message)) as T) : message;
  }

  #enqueue(envelope: Envelope): void {
    if (this.#isClosed) return;
    if (this.depth >= this.#options.queueDepthMax) {
      throw new GatewayError('QUEUE_FULL', { depth: this.depth });
    }
    this.#queue.push(envelope);
    if (this.#isDraining || this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(this.#onTurn);
  }

  #drain(): void {
    this.#isScheduled = false;
    this.#isDraining = true;
    let left = this.#options.burstMax;
    while (this.#head < this.#queue.length && left > 0) {
      const envelope = this.#queue[this.#head] as Envelope;
      this.#head += 1;
      left -= 1;
      this.#deliver(envelope);
      envelope.reply?.startTimer();
    }
    this.#isDraining = false;
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
      return;
    }
    // Two parts that answer each other at once must not keep the sockets waiting.
    this.#queue = this.#queue.slice(this.#head);
    this.#head = 0;
    this.#isScheduled = true;
    setImmediate(this.#onTurn);
  }

  #deliver(envelope: Envelope): void {
    const held = this.#exact.get(envelope.subject);
    if (this.#wild.length === 0 && held !== undefined && !Array.isArray(held)) {
      this.#hand(held, envelope);
      return;
    }
    const takers = this.#takers(envelope.subject, held);
    for (const taker of takers) this.#hand(taker, envelope);
    if (takers.length > 0 || envelope.reply === null) return;
    const { subject, reply } = envelope;
    reply.settle(null, new GatewayError('BUS_NO_RESPONDER', { subject }));
  }

  /** Everybody without a group, and one of each group, members taking turns. */
  #takers(
    subject: string,
    held: LocalSubscription | LocalSubscription[] | undefined,
  ): LocalSubscription[] {
    const all = held === undefined ? [] : Array.isArray(held) ? [...held] : [held];
    for (const wild of this.#wild) if (matchesSubject(subject, wild.subject)) all.push(wild);
    const groups = new Map<string, LocalSubscription[]>();
    const takers: LocalSubscription[] = [];
    for (const one of all) {
      if (one.queue === '') takers.push(one);
      else groups.set(one.queue, [...(groups.get(one.queue) ?? []), one]);
    }
    this.#turn += 1;
    for (const members of groups.values()) {
      const member = members[this.#turn % members.length];
      if (member) takers.push(member);
    }
    return takers;
  }

  #hand(taker: LocalSubscription, envelope: Envelope): void {
    if (taker.isClosed) return;
    try {
      if (taker.responder !== null) this.#answer(taker.responder, envelope);
      else taker.handler?.(envelope.message, envelope.subject);
    } catch (thrown) {
      const error = asGatewayError(thrown);
      if (envelope.reply !== null) envelope.reply.settle(null, error);
      else this.#options.onError(error, envelope.subject);
    }
  }

  #answer(responder: (message: object) => Promise<object> | object, envelope: Envelope): void {
    const { reply } = envelope;
    const answer = responder(envelope.message);
    if (!(answer instanceof Promise)) {
      reply?.settle(this.#copy(answer), null);
      return;
    }
    answer.then(
      (later: object) => reply?.settle(this.#copy(later), null),
      (thrown: unknown) => reply?.settle(null, asGatewayError(thrown)),
    );
  }
}

class PendingRequest implements Reply {
  readonly subject: string;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #pending: Set<PendingRequest>;
  readonly #outcome = Promise.withResolvers<object>();
  #timer: Timer | null = null;

  constructor(options: {
    clock: Clock;
    subject: string;
    timeoutMs: number;
    /** All that wait; it leaves them when it is settled. */
    pending: Set<PendingRequest>;
  }) {
    this.#clock = options.clock;
    this.subject = options.subject;
    this.#timeoutMs = options.timeoutMs;
    this.#pending = options.pending;
    this.#pending.add(this);
  }

  get promise(): Promise<object> {
    return this.#outcome.promise;
  }

  startTimer(): void {
    if (!this.#pending.has(this)) return;
    const { subject } = this;
    const timeoutMs = this.#timeoutMs;
    this.#timer = this.#clock.timer(timeoutMs, () =>
      this.settle(null, new GatewayError('BUS_TIMEOUT', { subject, timeoutMs })),
    );
  }

  settle(answer: object | null, error: GatewayError | null): void {
    if (!this.#pending.delete(this)) return;
    this.#timer?.cancel();
    if (error !== null) this.#outcome.reject(error);
    else this.#outcome.resolve(answer ?? {});
  }
}

function isWild(subject: string): boolean {
  return subject.includes('*') || subject.endsWith('>');
}

/** Whether a subject falls under a pattern: `*` one token, a last `>` one token or more. */
export function matchesSubject(subject: string, pattern: string): boolean {
  const have = subject.split('.');
  const want = pattern.split('.');
  for (let i = 0; i < want.length; i += 1) {
    if (want[i] === '>' && i === want.length - 1) return have.length > i;
    if (i >= have.length) return false;
    if (want[i] !== '*' && want[i] !== have[i]) return false;
  }
  return have.length === want.length;
}
