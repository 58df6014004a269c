/**
 * The domains at which phones may register and the passwords of their users, from the store's rows
 * (domains with SipRegistration, and the credential lists mapped to their registrations), in memory
 * so that a REGISTER never waits for the database. Made anew after each change.
 */
import type { Log } from '../core/log.ts';
import type { SipDomainSid } from '../core/sid.ts';
import type { DigestAccount } from '../sip/digest.ts';
import type { RegistrarAccounts, RegistrarDomain } from '../sip/registrar.ts';
import type {
  CredentialRow,
  HttpMethod,
  RegistrationEvent,
  SipDomainRow,
  Store,
  StoreChange,
} from '../store/store.ts';

export interface RegistrarAccountsOptions {
  /** Rows of each kind held in memory; more are not seen, and that is logged. */
  readonly rowsMax: number;
}

export const DEFAULT_REGISTRAR_ACCOUNTS: RegistrarAccountsOptions = { rowsMax: 100_000 };

/** Who is told of a domain's phones, and of what. */
export interface RegistrationCallback {
  readonly url: string;
  readonly method: HttpMethod;
  readonly events: readonly RegistrationEvent[];
}

interface Known {
  readonly domain: RegistrarDomain;
  readonly users: ReadonlyMap<string, DigestAccount>;
}

const TABLES: ReadonlySet<StoreChange['table']> = new Set([
  'sip_domains',
  'credentials',
  'credential_lists',
] as const);

export class StoreRegistrarAccounts implements RegistrarAccounts {
  readonly #store: Store;
  readonly #log: Log;
  readonly #options: RegistrarAccountsOptions;
  readonly #onLoad: () => void;
  #domains: ReadonlyMap<string, Known> = new Map();
  #callbacks: ReadonlyMap<SipDomainSid, RegistrationCallback> = new Map();
  #loading: Promise<void> | null = null;
  #isStale = false;

  constructor(parts: {
    store: Store;
    log: Log;
    options: RegistrarAccountsOptions;
    /** After each reading of the rows. */
    onLoad: () => void;
  }) {
    this.#store = parts.store;
    this.#log = parts.log;
    this.#options = parts.options;
    this.#onLoad = parts.onLoad;
  }

  async start(): Promise<void> {
    this.#store.onChange(({ table }) => {
      if (TABLES.has(table)) this.#reload();
    });
    await this.#load();
  }

  domain(name: string): RegistrarDomain | null {
    return this.#domains.get(name)?.domain ?? null;
  }

  find(domain: RegistrarDomain, username: string): DigestAccount | null {
    return this.#domains.get(domain.name)?.users.get(username) ?? null;
  }

  /** Whether a user may (still) register at a domain. */
  has(domainSid: SipDomainSid, host: string, user: string): boolean {
    const known = this.#domains.get(host);
    return known?.domain.sid === domainSid && known.users.has(user);
  }

  /** Also of a domain that takes no registrations any more: its last phones are leaving. */
  callbackOf(domainSid: SipDomainSid): RegistrationCallback | null {
    return this.#callbacks.get(domainSid) ?? null;
  }

  /** One at a time; changes that come during it cause one more. */
  #reload(): void {
    if (this.#loading !== null) {
      this.#isStale = true;
      return;
    }
    this.#loading = this.#load()
      .catch((error: Error) => this.#log.error({ err: error }, 'registrar accounts not reloaded'))
      .finally(() => {
        this.#loading = null;
        if (!this.#isStale) return;
        this.#isStale = false;
        this.#reload();
      });
  }

  async #load(): Promise<void> {
    const { rowsMax } = this.#options;
    const [domains, credentials] = await Promise.all([
      this.#store.sipDomains.all(rowsMax),
      this.#store.credentials.all(rowsMax),
    ]);
    if (domains.length === rowsMax || credentials.length === rowsMax) {
      this.#log.error({ rowsMax }, 'registrar accounts are full');
    }
    this.#domains = knownOf(domains, credentials);
    this.#callbacks = new Map(domains.flatMap(callbackEntry));
    this.#onLoad();
  }
}

function callbackEntry(row: SipDomainRow): [SipDomainSid, RegistrationCallback][] {
  const { registrationCallback: url, registrationCallbackMethod: method } = row;
  if (url === null) return [];
  return [[row.sid, { url, method, events: row.registrationCallbackEvents }]];
}

function knownOf(
  domains: readonly SipDomainRow[],
  credentials: readonly CredentialRow[],
): ReadonlyMap<string, Known> {
  const byList = Map.groupBy(credentials, (row) => row.credentialListSid);
  const open = domains.filter(({ sipRegistration }) => sipRegistration);
  return new Map(
    open.map((row) => {
      const { sid, accountSid, domainName: name, secure: isSecure } = row;
      const rows = row.registrationCredentialListSids.flatMap((list) => byList.get(list) ?? []);
      const users = new Map(rows.map(({ username, password }) => [username, { password }]));
      return [name, { domain: { sid, accountSid, name, isSecure }, users }];
    }),
  );
}
