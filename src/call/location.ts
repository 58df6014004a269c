/**
 * Where the addresses of our phones are reached: their bindings, as plain data in memory and in the
 * journal, so that a gateway that was restarted still knows its phones. Tells who came, left and
 * was forgotten. Who may register is `sip/registrar.ts`'s, what is dialled `contacts.ts`'s.
 *
 * Bindings expire on the monotonic clock: a wall clock that is set forward forgets no phone. What
 * is shown and journalled is wall time.
 */
import type { Bus, Subject } from '../bus/bus.ts';
import { unmapped } from '../core/address.ts';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError } from '../core/errors.ts';
import { type Log, redact } from '../core/log.ts';
import type { Metrics } from '../core/metrics.ts';
import type { AccountSid, RegistrationSid, SipDomainSid } from '../core/sid.ts';
import type { Address, Binding } from '../sip/binding.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { LocationService, RegistrarDomain } from '../sip/registrar.ts';
import type { RegistrationEvent } from '../store/store.ts';
import type { Journal, JournalSource } from './journal.ts';

/** A binding and whose it is: what lists show and events carry. */
export interface Registration {
  readonly sid: RegistrationSid;
  readonly accountSid: AccountSid;
  readonly domainSid: SipDomainSid;
  readonly aor: string;
  readonly binding: Binding;
}

/** Something that happened to a registration; plain data. */
export interface RegistrationNotice {
  /** That one is refreshed is told for those domains only whose owners want to hear it. */
  readonly type: `registration.${RegistrationEvent}`;
  readonly atMs: number;
  readonly registration: Registration;
  /** Contacts that the address has now. */
  readonly contacts: number;
}

export const REGISTRATIONS = 'registrations' as Subject<RegistrationNotice>;

export interface LocationOptions {
  /** Bindings of all addresses. */
  readonly bindingsMax: number;
}

/** What the journal keeps of one address. */
interface AddressRecord {
  readonly aor: string;
  readonly accountSid: AccountSid;
  readonly domainSid: SipDomainSid;
  readonly bindings: readonly Binding[];
}

class Entry implements JournalSource {
  readonly aor: string;
  readonly accountSid: AccountSid;
  readonly domainSid: SipDomainSid;
  bindings: readonly Binding[] = [];
  /** Monotonic, by the id of the binding. */
  deadlines: ReadonlyMap<string, number> = new Map();
  timer: Timer | null = null;

  constructor({ aor, accountSid, domainSid }: Omit<AddressRecord, 'bindings'>) {
    this.aor = aor;
    this.accountSid = accountSid;
    this.domainSid = domainSid;
  }

  snapshot(): AddressRecord {
    const { aor, accountSid, domainSid, bindings } = this;
    return { aor, accountSid, domainSid, bindings };
  }

  registration(binding: Binding): Registration {
    const { aor, accountSid, domainSid } = this;
    return { sid: binding.id as RegistrationSid, aor, accountSid, domainSid, binding };
  }
}

const KEY = 'reg.';
/** Timers are no further ahead: a longer one is armed again. */
const TIMER_MS_MAX = 3_600_000;

export class Location implements LocationService {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #journal: Journal;
  readonly #bus: Bus;
  readonly #options: LocationOptions;
  readonly #isRefreshTold: (domainSid: SipDomainSid) => boolean;
  readonly #addresses = new Map<string, Entry>();
  /** Source addresses, and flows, of bindings: how many have each. */
  readonly #sources = new Map<string, number>();
  readonly #flows = new Map<string, number>();
  readonly #epochs = new Map<string, { readonly entry: Entry; readonly id: string }>();
  readonly #events;
  #size = 0;
  #isClosed = false;

  constructor(parts: {
    clock: Clock;
    log: Log;
    metrics: Metrics;
    journal: Journal;
    bus: Bus;
    options: LocationOptions;
    /** Whether anybody wants to hear of each refresh; absent: nobody. */
    isRefreshTold?: (domainSid: SipDomainSid) => boolean;
  }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#journal = parts.journal;
    this.#bus = parts.bus;
    this.#options = parts.options;
    this.#isRefreshTold = parts.isRefreshTold ?? (() => false);
    const { metrics } = parts;
    metrics.gauge('tandem_sip_bindings', 'Contacts of registered addresses', () => this.#size);
    this.#events = metrics.counter('tandem_sip_registration_events_total', 'Phones by event', [
      'event',
    ]);
  }

  /** Bindings held. */
  get size(): number {
    return this.#size;
  }

  bindings(aor: string): readonly Binding[] {
    const entry = this.#addresses.get(aor);
    if (entry === undefined) return [];
    const nowMs = this.#clock.monotonicMs();
    return entry.bindings.filter(({ id }) => (entry.deadlines.get(id) ?? 0) > nowMs);
  }

  update(address: Address, domain: RegistrarDomain, bindings: readonly Binding[]): boolean {
    const { aor } = address;
    const held = this.#addresses.get(aor);
    const grown = this.#size - (held?.bindings.length ?? 0) + bindings.length;
    const isMore = bindings.length > (held?.bindings.length ?? 0);
    if (isMore && grown > this.#options.bindingsMax) return false;
    const { sid: domainSid, accountSid } = domain;
    this.#set(held ?? new Entry({ aor, domainSid, accountSid }), bindings, 'unregistered');
    return true;
  }

  /** Takes back what a former process knew; what expired meanwhile is forgotten. */
  restore(records: ReadonlyMap<string, object>): number {
    for (const [key, value] of records) {
      if (!key.startsWith(KEY)) continue;
      // The journal wrote what `Entry.snapshot` gave it, and checked that it is whole.
      const record = value as AddressRecord;
      if (this.#addresses.has(record.aor)) continue;
      const nowMs = this.#clock.nowMs();
      const live = record.bindings.filter(({ expiresAtMs }) => expiresAtMs > nowMs);
      const entry = new Entry(record);
      entry.bindings = record.bindings;
      this.#addresses.set(record.aor, entry);
      this.#count(entry, entry.bindings, 1);
      this.#set(entry, live, 'expired', true);
    }
    return this.#size;
  }

  /** Of an account, newest first. */
  *registrations(accountSid: AccountSid): IterableIterator<Registration> {
    for (const entry of this.#addresses.values()) {
      if (entry.accountSid !== accountSid) continue;
      for (const binding of entry.bindings) yield entry.registration(binding);
    }
  }

  /** Ends one as if its phone had; false when there is none of that account. */
  remove(accountSid: AccountSid, sid: string): boolean {
    for (const entry of this.#addresses.values()) {
      if (entry.accountSid !== accountSid) continue;
      const left = entry.bindings.filter(({ id }) => id !== sid);
      if (left.length === entry.bindings.length) continue;
      this.#set(entry, left, 'unregistered');
      return true;
    }
    return false;
  }

  /** Ends what may not be any more: users that were taken out of a list, domains that are gone. */
  retain(isAllowed: (aor: string, domainSid: SipDomainSid) => boolean): void {
    for (const entry of [...this.#addresses.values()]) {
      if (!isAllowed(entry.aor, entry.domainSid)) this.#set(entry, [], 'unregistered');
    }
  }

  /** Whether a phone registered from this address: it may be sent to, whatever network it is in. */
  isSource(address: string): boolean {
    return this.#sources.has(unmapped(address));
  }

  /** Whether the address of record was registered from where `source` is. */
  isAt(aor: string, source: PeerAddress): boolean {
    const address = unmapped(source.address);
    return this.bindings(aor).some(({ flow }) => unmapped(flow.address) === address);
  }

  /** Whether a phone registered over exactly this flow. */
  isFlow(peer: PeerAddress): boolean {
    return this.#flows.has(flowKey(peer));
  }

  /** All of all accounts. */
  *all(): IterableIterator<Registration> {
    for (const entry of this.#addresses.values()) {
      for (const binding of entry.bindings) yield entry.registration(binding);
    }
  }

  /** Whose temporary GRUUs begin with `epoch`. */
  ofEpoch(epoch: string): Registration | null {
    const found = this.#epochs.get(epoch);
    const binding = found?.entry.bindings.find(({ id }) => id === found.id);
    return found === undefined || binding === undefined ? null : found.entry.registration(binding);
  }

  /** No more timers; what stands is in the journal. */
  close(): void {
    this.#isClosed = true;
    for (const { timer } of this.#addresses.values()) timer?.cancel();
  }

  #set(
    entry: Entry,
    bindings: readonly Binding[],
    end: 'unregistered' | 'expired',
    isRestored = false,
  ): void {
    const before = entry.bindings;
    this.#count(entry, before, -1);
    this.#count(entry, bindings, 1);
    entry.bindings = bindings;
    entry.deadlines = this.#deadlines(entry, before);
    const key = KEY + entry.aor;
    if (bindings.length === 0) {
      this.#addresses.delete(entry.aor);
      this.#journal.remove(key);
    } else {
      this.#addresses.set(entry.aor, entry);
      this.#journal.put(key, entry);
    }
    this.#arm(entry);
    if (isRestored && before.length === bindings.length) return;
    const now = new Set(bindings.map(({ id }) => id));
    const then = new Map(before.map((one) => [one.id, one]));
    for (const one of before) if (!now.has(one.id)) this.#tell(end, entry, one);
    for (const one of bindings) if (!then.has(one.id)) this.#tell('registered', entry, one);
    if (!this.#isRefreshTold(entry.domainSid)) return;
    for (const one of bindings) {
      if (then.has(one.id) && then.get(one.id) !== one) this.#publish('refreshed', entry, one);
    }
  }

  /** One that was not refreshed keeps the deadline it had, whatever the wall clock says now. */
  #deadlines(entry: Entry, before: readonly Binding[]): ReadonlyMap<string, number> {
    const same = new Set(before);
    const nowMs = this.#clock.nowMs();
    const monotonicMs = this.#clock.monotonicMs();
    return new Map(
      entry.bindings.map((binding) => {
        const known = same.has(binding) ? entry.deadlines.get(binding.id) : undefined;
        return [binding.id, known ?? monotonicMs + binding.expiresAtMs - nowMs] as const;
      }),
    );
  }

  #arm(entry: Entry): void {
    entry.timer?.cancel();
    entry.timer = null;
    if (entry.bindings.length === 0 || this.#isClosed) return;
    const dueMs = Math.min(...entry.deadlines.values());
    const delayMs = Math.min(TIMER_MS_MAX, Math.max(0, dueMs - this.#clock.monotonicMs()));
    entry.timer = this.#clock.timer(delayMs, () => {
      const nowMs = this.#clock.monotonicMs();
      const isLive = ({ id }: Binding): boolean => (entry.deadlines.get(id) ?? 0) > nowMs;
      if (entry.bindings.every(isLive)) this.#arm(entry);
      else this.#set(entry, entry.bindings.filter(isLive), 'expired');
    });
  }

  #count(entry: Entry, bindings: readonly Binding[], by: 1 | -1): void {
    this.#size += by * bindings.length;
    for (const { id, flow, epoch } of bindings) {
      tally(this.#sources, unmapped(flow.address), by);
      tally(this.#flows, flowKey(flow), by);
      if (epoch === '') continue;
      if (by > 0) this.#epochs.set(epoch, { entry, id });
      else this.#epochs.delete(epoch);
    }
  }

  #tell(event: 'registered' | 'unregistered' | 'expired', entry: Entry, binding: Binding): void {
    this.#events.inc({ event });
    const { aor, accountSid, domainSid, bindings } = entry;
    const contacts = bindings.length;
    const { transport } = binding.flow;
    this.#log.info(
      { accountSid, domainSid, aor: redact(aor), transport, contacts },
      `phone ${event}`,
    );
    this.#publish(event, entry, binding);
  }

  #publish(event: RegistrationEvent, entry: Entry, binding: Binding): void {
    try {
      this.#bus.publish(REGISTRATIONS, {
        type: `registration.${event}`,
        atMs: this.#clock.nowMs(),
        registration: entry.registration(binding),
        contacts: entry.bindings.length,
      });
    } catch (thrown) {
      // A bus that is full must not undo what the phone was told.
      this.#log.warn({ code: asGatewayError(thrown).code }, 'registration not told');
    }
  }
}

function tally(counts: Map<string, number>, key: string, by: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

function flowKey({ transport, address, port }: PeerAddress): string {
  return `${transport} ${unmapped(address)} ${port}`;
}
