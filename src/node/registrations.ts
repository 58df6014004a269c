/**
 * Registrations of a node, built from the configuration: phones that register here, and trunks at
 * which we do. Only which part meets which; no behaviour.
 */

import type { RegisteredContact, RegistrationsView } from '../api/registrations.ts';
import type { RegistrationHealth } from '../api/trunk-health.ts';
import type { Bus } from '../bus/bus.ts';
import { Contacts } from '../call/contacts.ts';
import type { Egress } from '../call/egress.ts';
import type { Journal } from '../call/journal.ts';
import { Location, type Registration } from '../call/location.ts';
import { PhoneKeepAlive } from '../call/phone-keep-alive.ts';
import { RegisteredCallers } from '../call/registered-callers.ts';
import { DEFAULT_REGISTRAR_ACCOUNTS, StoreRegistrarAccounts } from '../call/registrar-accounts.ts';
import { DEFAULT_TRUNK_REGISTRATIONS, TrunkRegistrations } from '../call/registration.ts';
import type { StoreRouteTable } from '../call/route-table.ts';
import { GatewayError } from '../core/errors.ts';
import type { SipDomainSid, TrunkSid } from '../core/sid.ts';
import type { HttpClient } from '../http/client.ts';
import { addressOf, type Binding } from '../sip/binding.ts';
import type { DigestAlgorithm } from '../sip/digest.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import { Gruu } from '../sip/gruu.ts';
import { parseUri } from '../sip/message.ts';
import { ping } from '../sip/ping.ts';
import { DEFAULT_REGISTER_CLIENT } from '../sip/register-client.ts';
import { Registrar } from '../sip/registrar.ts';
import { DEFAULT_REGISTRAR } from '../sip/registrar-options.ts';
import type { Resolver } from '../sip/resolver.ts';
import { ensureKey } from '../store/key-file.ts';
import {
  DEFAULT_REGISTRATION_CALLBACKS,
  RegistrationCallbacks,
} from '../verbs/registration-callbacks.ts';
import type { NodeParts } from './base.ts';
import { fromDomain } from './calls.ts';

const ALGORITHMS: readonly DigestAlgorithm[] = ['SHA-256', 'MD5'];

/** How long a phone may take to answer; what matters is that it is asked. */
const KEEP_ALIVE_TIMEOUT_MS = 4_000;

/** What the endpoint needs; made before it. */
export class Registry {
  readonly location: Location;
  readonly accounts: StoreRegistrarAccounts;
  readonly gruu: Gruu;
  readonly registrar: Registrar;
  readonly callers: RegisteredCallers;
  /** Set once there is an endpoint to register with. */
  trunks: TrunkRegistrations | null = null;

  constructor(parts: NodeParts & { journal: Journal; bus: Bus }) {
    const { config, clock, log, metrics, store, journal, bus } = parts;
    const secret = ensureKey(config['data.dir'], 'registrar.key', clock);
    this.gruu = new Gruu({ clock, secret });
    const bindingsMax = config['registrar.bindingsMax'];
    const options = { bindingsMax };
    const isRefreshTold = (sid: SipDomainSid): boolean =>
      this.accounts.callbackOf(sid)?.events.includes('refreshed') === true;
    const kept = { clock, log, metrics, journal, bus };
    this.location = new Location({ ...kept, options, isRefreshTold });
    this.accounts = new StoreRegistrarAccounts({
      store,
      log,
      options: DEFAULT_REGISTRAR_ACCOUNTS,
      onLoad: () => this.#retain(),
    });
    const { location, accounts, gruu } = this;
    this.registrar = new Registrar({
      ...{ clock, log, metrics, location, accounts, gruu, secret },
      options: {
        ...DEFAULT_REGISTRAR,
        expiresMinS: config['registrar.expiresMinSeconds'],
        expiresMaxS: config['registrar.expiresMaxSeconds'],
        expiresDefaultS: config['registrar.expiresDefaultSeconds'],
        contactsMax: config['registrar.contactsMax'],
        perSecondMax: config['registrar.perSecondMax'],
        flowTimerS: config['registrar.flowTimerSeconds'],
        algorithms: algorithmsOf(config['registrar.algorithms']),
        attempts: {
          ...DEFAULT_REGISTRAR.attempts,
          sourceFailuresFree: config['registrar.sourceFailuresMax'],
        },
      },
    });
    const { registrar } = this;
    const trunkOf = (request: Parameters<TrunkRegistrations['trunkOf']>[0]) =>
      this.trunks?.trunkOf(request) ?? null;
    this.callers = new RegisteredCallers({ location, accounts, registrar, trunkOf });
  }

  /** After the journal is read, before anything comes in. */
  async start(records: ReadonlyMap<string, object>): Promise<void> {
    // First who may be here and who is told: phones leave as soon as they are known again.
    await this.accounts.start();
    this.location.restore(records);
    this.#retain();
    this.trunks?.restore(records);
  }

  /** A user that is taken out of a list is not reached any more. */
  #retain(): void {
    this.location.retain((aor, domainSid) => {
      const address = addressOf(parseUri(aor));
      return address !== null && this.accounts.has(domainSid, address.host, address.user);
    });
  }

  /** For REST. */
  get view(): RegistrationsView {
    return {
      list: (accountSid) => [...this.location.registrations(accountSid)].map(shown),
      remove: (accountSid, sid) => this.location.remove(accountSid, sid),
    };
  }

  /** For the health of trunks. */
  healthOf(sid: TrunkSid): RegistrationHealth | null {
    const status = this.trunks?.statusOf(sid) ?? null;
    if (status === null) return null;
    const { state, sinceMs, expiresAtMs: expiresMs, sipStatus } = status;
    return { state: state === 'left' ? 'off' : state, sinceMs, expiresMs, sipStatus };
  }
}

type Reach = NodeParts & {
  registry: Registry;
  endpoint: Endpoint;
  resolver: Resolver;
  egress: Egress;
};

/** What there is once there is an endpoint. */
export interface Reachable {
  readonly contacts: Contacts;
  /** After everything that takes calls. */
  start(): void;
  /** Takes our registrations at carriers back, so that calls go elsewhere; off, makes them anew. */
  drain(on: boolean): Promise<void>;
  close(): Promise<void>;
}

export function joinRegistry(
  parts: Reach & { journal: Journal; routes: StoreRouteTable },
): Reachable {
  const { registry } = parts;
  const keepAlive = createKeepAlive(parts);
  const trunks = createTrunkRegistrations(parts);
  return {
    contacts: createContacts(parts),
    start: () => {
      keepAlive.start();
      trunks.start();
    },
    drain: (on) => trunks.drain(on),
    close: async () => {
      keepAlive.close();
      await trunks.close();
      registry.location.close();
    },
  };
}

function createContacts({ registry, endpoint }: Reach): Contacts {
  const { location, accounts, gruu } = registry;
  const isConnected = (peer: Parameters<Endpoint['ua']['transport']['isConnected']>[0]) =>
    endpoint.ua.transport.isConnected(peer);
  return new Contacts({ location, accounts, gruu, isConnected });
}

function createKeepAlive({ config, clock, registry, endpoint }: Reach): PhoneKeepAlive {
  const from = `sip:${fromDomain(config)}`;
  const timeoutMs = KEEP_ALIVE_TIMEOUT_MS;
  return new PhoneKeepAlive({
    clock,
    location: registry.location,
    intervalMs: config['registrar.keepAliveMs'],
    ping: ({ contact: uri, flow }: Binding) => {
      const targets = [{ ...flow, eitherTransport: false }];
      void ping(endpoint.ua, { uri, from, targets, timeoutMs });
    },
  });
}

function createTrunkRegistrations(
  parts: Reach & { journal: Journal; routes: StoreRouteTable },
): TrunkRegistrations {
  const { config, clock, log, metrics, journal, registry, endpoint, resolver, egress } = parts;
  const trunks = new TrunkRegistrations({
    ...{ clock, log, metrics, journal, ua: endpoint.ua },
    resolve: async (gateway) => {
      const targets = await resolver.resolve(parseUri(gateway));
      for (const { address } of targets) egress.addGateway(address);
      return targets;
    },
    options: {
      ...DEFAULT_TRUNK_REGISTRATIONS,
      client: {
        ...DEFAULT_REGISTER_CLIENT,
        timeoutMs: config['registration.timeoutMs'],
        retryMinMs: config['registration.retryMinMs'],
        retryMaxMs: config['registration.retryMaxMs'],
      },
    },
  });
  registry.trunks = trunks;
  parts.routes.watch((all) => trunks.watch(all));
  return trunks;
}

/** Tells the applications of domains which phones come and go. */
export function createRegistrationCallbacks(
  parts: NodeParts & { registry: Registry; bus: Bus; client: HttpClient },
): RegistrationCallbacks {
  const { config, clock, log, metrics, account, registry, bus, client: http } = parts;
  return new RegistrationCallbacks({
    ...{ clock, log, metrics, bus, http },
    callbackOf: (sid) => registry.accounts.callbackOf(sid),
    authToken: (sid) => (sid === account.sid ? account.authToken : null),
    options: { ...DEFAULT_REGISTRATION_CALLBACKS, queueMax: config['registrar.callbacksMax'] },
  });
}

function algorithmsOf(names: readonly string[]): DigestAlgorithm[] {
  const key = 'registrar.algorithms';
  if (names.length === 0) throw new GatewayError('CONFIG_BAD_VALUE', { key, problem: 'none' });
  return names.map((name) => {
    const known = ALGORITHMS.find((one) => one === name.toUpperCase());
    if (known !== undefined) return known;
    const problem = `"${name}" is none of ${ALGORITHMS.join(', ')}`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key, problem });
  });
}

function shown({ sid, domainSid, aor, binding }: Registration): RegisteredContact {
  const { contact, flow, q, instance, userAgent, createdAtMs, updatedAtMs, expiresAtMs } = binding;
  const { transport, address, port } = flow;
  return {
    ...{ sid, domainSid, address: aor, contact, transport, q, instance, userAgent },
    source: `${address.includes(':') ? `[${address}]` : address}:${port}`,
    expiresMs: expiresAtMs,
    dateCreatedMs: createdAtMs,
    dateUpdatedMs: updatedAtMs,
  };
}
