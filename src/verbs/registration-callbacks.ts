/**
 * Tells applications which phones of their domains come and go (`location.ts` says it on the bus),
 * as signed callbacks through `events/callbacks`, in order for each address and never in the way of
 * a REGISTER. Refused attempts are not told: anybody could make us call an application by them.
 *
 * A domain has a few lines, and all events of an address go through one of them: a city of phones
 * that comes back at once, or a server that is slow, takes that many connections and no more from
 * the calls that ask the same server.
 */
import { LRUCache } from 'lru-cache';
import type { Bus, Subscription } from '../bus/bus.ts';
import { REGISTRATIONS, type RegistrationNotice } from '../call/location.ts';
import type { RegistrationCallback } from '../call/registrar-accounts.ts';
import type { Clock } from '../core/clock.ts';
import type { Log, Secret } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import { type AccountSid, newSid, type SipDomainSid } from '../core/sid.ts';
import { type CallbackOutcome, Callbacks, DEFAULT_CALLBACK_POLICY } from '../events/callbacks.ts';
import type { HttpClient } from '../http/client.ts';
import { addressOf } from '../sip/binding.ts';
import { parseUri } from '../sip/message.ts';
import { rfc2822 } from './parameters.ts';

export interface RegistrationCallbacksOptions {
  /** Callbacks of one domain that are under way at a time. */
  readonly linesPerDomain: number;
  /** Waiting in one line, and in all of all domains; what is over either is dropped and counted. */
  readonly queuePerLineMax: number;
  readonly queueMax: number;
  /** Addresses whose events are numbered; the one that was quiet for longest begins anew. */
  readonly addressesMax: number;
}

export const DEFAULT_REGISTRATION_CALLBACKS: RegistrationCallbacksOptions = {
  linesPerDomain: 8,
  queuePerLineMax: 1_000,
  queueMax: 20_000,
  addressesMax: 65_536,
};

interface RegistrationCallbacksParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly bus: Bus;
  readonly http: HttpClient;
  /** Who is told of a domain's phones; null: nobody. */
  readonly callbackOf: (domainSid: SipDomainSid) => RegistrationCallback | null;
  /** Null for an account that is not known (any more): nobody is told. */
  readonly authToken: (accountSid: AccountSid) => Secret | null;
  readonly options: RegistrationCallbacksOptions;
}

export class RegistrationCallbacks {
  readonly #parts: RegistrationCallbacksParts;
  readonly #callbacks: Callbacks;
  /** Events told of an address so far. */
  readonly #told: LRUCache<string, number>;
  readonly #outcomes;
  #subscription: Subscription | null = null;

  constructor(parts: RegistrationCallbacksParts) {
    const { clock, log, metrics, http, options } = parts;
    this.#parts = parts;
    this.#told = new LRUCache({ max: options.addressesMax });
    this.#outcomes = metrics.counter(
      'tandem_registration_callbacks_total',
      'Registration callbacks by what became of them',
      ['outcome'],
    );
    this.#callbacks = new Callbacks({
      ...{ clock, log, http, policy: DEFAULT_CALLBACK_POLICY },
      queuePerLineMax: options.queuePerLineMax,
      queueMax: options.queueMax,
      onOutcome: (outcome) => this.#outcomes.inc({ outcome: wordOf(outcome) }),
    });
    metrics.gauge(
      'tandem_registration_callbacks_waiting',
      'Registration callbacks that wait or are under way',
      () => this.#callbacks.queued,
    );
  }

  /** Before the first phone comes, and before those are forgotten whose time is over. */
  start(): void {
    this.#subscription ??= this.#parts.bus.subscribe(REGISTRATIONS, (notice) => this.#tell(notice));
  }

  /** Resolves when everything queued has been told, or after `timeoutMs`. */
  drain(timeoutMs: number): Promise<void> {
    return this.#callbacks.drain(timeoutMs);
  }

  close(): void {
    this.#subscription?.close();
    this.#subscription = null;
  }

  #tell(notice: RegistrationNotice): void {
    const { aor, accountSid, domainSid } = notice.registration;
    const { callbackOf, authToken: tokenOf, clock, options } = this.#parts;
    const callback = callbackOf(domainSid);
    if (callback === null || !callback.events.some((event) => notice.type.endsWith(`.${event}`))) {
      return;
    }
    const authToken = tokenOf(accountSid);
    if (authToken === null) return;
    const sequenceNo = this.#told.get(aor) ?? 0;
    this.#told.set(aor, sequenceNo + 1);
    const { url, method } = callback;
    const params = { EventSid: newSid('EV', clock), SequenceNumber: String(sequenceNo) };
    this.#callbacks.send({
      callSid: null,
      line: `${domainSid} ${lineOf(aor, options.linesPerDomain)}`,
      ...{ url, method, authToken },
      params: Object.entries({ ...params, ...parametersOf(notice) }),
    });
  }
}

function parametersOf(notice: RegistrationNotice): Record<string, string> {
  const { type, atMs, registration, contacts } = notice;
  const { sid, aor, accountSid, domainSid, binding } = registration;
  const address = addressOf(parseUri(aor));
  const isHere = type === 'registration.registered' || type === 'registration.refreshed';
  const lifeMs = isHere ? binding.expiresAtMs - binding.updatedAtMs : 0;
  return {
    AccountSid: accountSid,
    RegistrationEvent: type.slice(type.indexOf('.') + 1),
    Timestamp: rfc2822(atMs),
    SipDomain: address?.host ?? '',
    SipDomainSid: domainSid,
    SipUser: address?.user ?? '',
    RegistrationSid: sid,
    Contact: binding.contact,
    ContactCount: String(contacts),
    Expires: String(Math.max(0, Math.round(lifeMs / 1000))),
    SourceIp: binding.flow.address,
    SourcePort: String(binding.flow.port),
    Transport: binding.flow.transport,
    ...(binding.userAgent === '' ? {} : { UserAgent: binding.userAgent }),
  };
}

function wordOf({ error }: CallbackOutcome): 'told' | 'dropped' | 'failed' {
  if (error === null) return 'told';
  return error.code === 'QUEUE_FULL' ? 'dropped' : 'failed';
}

/** The same for an address each time, so that what is told of it stays in order. */
function lineOf(aor: string, lines: number): number {
  let hash = 0;
  for (let at = 0; at < aor.length; at += 1) hash = (hash * 31 + aor.charCodeAt(at)) >>> 0;
  return hash % lines;
}
