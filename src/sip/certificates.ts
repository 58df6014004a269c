/**
 * Our certificates and whom we trust: read from files, checked, and read again when they change.
 * New handshakes use the new ones, connections that stand are left alone. What does not fit
 * together (half of a pair was replaced, a file is cut off, it has expired) is refused with a line
 * in the log, and the old ones stay. No handshake is made here.
 */
import { constants, X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { domainsOf, wildcardOf } from './certificate-names.ts';

export interface CertificateOptions {
  /** PEM, leaf first; '': the first of `directory` is shown to who names nobody we know. */
  readonly certFile: string;
  readonly keyFile: string;
  /** PEM of who may sign peers' certificates, instead of the public authorities. */
  readonly caFile: string;
  /** A folder as certbot keeps it: per name a folder with fullchain.pem and privkey.pem. */
  readonly directory: string;
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  /** How often the files are looked at; 0: only when asked. */
  readonly watchMs: number;
}

export const DEFAULT_CERTIFICATES: CertificateOptions = {
  certFile: '',
  keyFile: '',
  caFile: '',
  directory: '',
  minVersion: 'TLSv1.2',
  watchMs: 10_000,
};

/** Folders read in `directory`; more are a mistake in its path. */
const FOLDERS_MAX = 1000;
const SOON_MS = 14 * 86_400_000;

interface Loaded {
  readonly server: SecureContextOptions | null;
  readonly client: SecureContext;
  readonly byName: ReadonlyMap<string, SecureContext>;
  readonly expiresAtMs: number;
  readonly names: readonly string[];
  /** The file of the default certificate; '' without one. */
  readonly defaultFile: string;
}

interface Pair {
  readonly key: string;
  readonly certFile: string;
  readonly keyFile: string;
}

export class Certificates {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #options: CertificateOptions;
  readonly #changed: () => void;
  #loaded: Loaded | null = null;
  /** State of the files at the last reading, whatever came of it. */
  #seen = '';
  #timer: Timer | null = null;
  #reading: Promise<boolean> | null = null;
  #isClosed = false;

  constructor(options: {
    clock: Clock;
    log: Log;
    certificates: CertificateOptions;
    /** Told when others are in force. */
    changed: () => void;
  }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#options = options.certificates;
    this.#changed = options.changed;
  }

  /** The default certificate, for who names none or one that we do not hold. */
  get server(): SecureContextOptions | null {
    return this.#loaded?.server ?? null;
  }

  /** What we show where we call, and whom we believe there. */
  get client(): SecureContext | null {
    return this.#loaded?.client ?? null;
  }

  /** When the first of ours expires; Infinity without any. */
  get expiresAtMs(): number {
    return this.#loaded?.expiresAtMs ?? Number.POSITIVE_INFINITY;
  }

  /** The certificate that holds `name` (RFC 6066 §3), if it is not the default one. */
  forName(name: string): SecureContext | undefined {
    const byName = this.#loaded?.byName;
    const wanted = name.toLowerCase();
    return byName?.get(wanted) ?? byName?.get(wildcardOf(wanted));
  }

  /** Reads the files; throws `CONFIG_BAD_VALUE`. From then on they are watched. */
  async start(): Promise<void> {
    if (this.#loaded !== null) return;
    this.#seen = await this.#state();
    this.#put(await this.#load());
    this.#watch();
  }

  /** True when what the files hold is in force. */
  reload(): Promise<boolean> {
    this.#reading ??= this.#reload().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#reading;
  }

  async #reload(): Promise<boolean> {
    try {
      this.#seen = await this.#state();
      const loaded = await this.#load();
      const nowMs = this.#clock.nowMs();
      if (loaded.expiresAtMs <= nowMs && this.expiresAtMs > nowMs) {
        throw new GatewayError('CONFIG_BAD_VALUE', {
          key: 'sip.tls.certFile',
          problem: 'the new certificate has expired',
        });
      }
      this.#put(loaded);
      this.#changed();
      return true;
    } catch (thrown) {
      const problem = asGatewayError(thrown).message;
      this.#log.error({ problem }, 'new TLS certificates refused, the old ones stay in force');
      return false;
    }
  }

  #put(loaded: Loaded): void {
    this.#loaded = loaded;
    const { names, expiresAtMs, defaultFile } = loaded;
    if (loaded.server === null) return;
    const expires = new Date(expiresAtMs).toISOString();
    this.#log.info({ names, expires }, 'TLS certificates in force');
    if (this.#options.certFile === '') {
      const what = 'sip.tls.certFile is empty: the first of sip.tls.directory is the default';
      this.#log.info({ file: defaultFile }, what);
    }
    if (expiresAtMs < this.#clock.nowMs() + SOON_MS) {
      this.#log.warn({ expires }, 'a TLS certificate expires soon, or has');
    }
  }

  #watch(): void {
    const { watchMs } = this.#options;
    if (watchMs === 0 || this.#isClosed) return;
    this.#timer = this.#clock.timer(watchMs, () => {
      void this.#look().finally(() => this.#watch());
    });
  }

  async #look(): Promise<void> {
    if ((await this.#state()) !== this.#seen && !this.#isClosed) await this.reload();
  }

  /** Changes whenever a file does; links are followed, as certbot moves those. */
  async #state(): Promise<string> {
    const { caFile } = this.#options;
    const files = (await this.#pairs()).flatMap(({ certFile, keyFile }) => [certFile, keyFile]);
    if (caFile !== '') files.push(caFile);
    const states = files.map(async (file) => {
      const found = await stat(file).catch(() => null);
      return `${file} ${found?.mtimeMs} ${found?.size} ${found?.ino}`;
    });
    return (await Promise.all(states)).join('\n');
  }

  async #pairs(): Promise<Pair[]> {
    const { certFile, keyFile, directory } = this.#options;
    const pairs: Pair[] = [];
    if (certFile !== '') pairs.push({ key: 'sip.tls.certFile', certFile, keyFile });
    if (directory === '') return pairs;
    const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
    const folders = entries.filter((entry) => !entry.isFile()).map(({ name }) => name);
    for (const name of folders.sort().slice(0, FOLDERS_MAX)) {
      pairs.push({
        key: 'sip.tls.directory',
        certFile: join(directory, name, 'fullchain.pem'),
        keyFile: join(directory, name, 'privkey.pem'),
      });
    }
    return pairs;
  }

  async #load(): Promise<Loaded> {
    const { caFile, minVersion } = this.#options;
    const ca = caFile === '' ? {} : { ca: await readPem('sip.tls.caFile', caFile) };
    // RFC 5746 has no use here, and each renegotiation is work that the peer chooses.
    const common = { ...ca, minVersion, secureOptions: constants.SSL_OP_NO_RENEGOTIATION };
    let server: SecureContextOptions | null = null;
    const byName = new Map<string, SecureContext>();
    let expiresAtMs = Number.POSITIVE_INFINITY;
    if (this.#options.certFile !== '' && this.#options.keyFile === '') {
      const problem = 'must be named, as sip.tls.certFile is';
      throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.tls.keyFile', problem });
    }
    const pairs = await this.#pairs();
    if (pairs.length === 0) await this.#noPairs();
    for (const { key, certFile, keyFile } of pairs) {
      const cert = await readPem(key, certFile);
      const secret = await readPem(key, keyFile);
      const options = { ...common, cert, key: secret };
      const { context, leaf } = checked(key, certFile, options);
      expiresAtMs = Math.min(expiresAtMs, Date.parse(leaf.validTo));
      server ??= options;
      for (const name of domainsOf(leaf)) if (!byName.has(name)) byName.set(name, context);
    }
    const client = checkedClient(server ?? common);
    const defaultFile = pairs[0]?.certFile ?? '';
    return { server, client, byName, expiresAtMs, names: [...byName.keys()], defaultFile };
  }

  /** Throws where certificates are named, and there is none. */
  async #noPairs(): Promise<void> {
    const key = 'sip.tls.directory';
    const { directory } = this.#options;
    if (directory === '') return;
    await readdir(directory).catch((thrown: unknown) => {
      throw badFile(key, directory, asGatewayError(thrown).message);
    });
    throw badFile(key, directory, 'has no folder with fullchain.pem and privkey.pem in it');
  }
}

async function readPem(key: string, file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (thrown) {
    throw badFile(key, file, asGatewayError(thrown).message);
  }
}

/** Certificate and key as one: throws when they are not a pair. */
function checked(
  key: string,
  file: string,
  options: SecureContextOptions & { cert: string },
): { context: SecureContext; leaf: X509Certificate } {
  try {
    return { context: createSecureContext(options), leaf: new X509Certificate(options.cert) };
  } catch (thrown) {
    throw badFile(key, file, asGatewayError(thrown).message);
  }
}

function checkedClient(options: SecureContextOptions): SecureContext {
  try {
    return createSecureContext(options);
  } catch (thrown) {
    throw badFile('sip.tls.caFile', '', asGatewayError(thrown).message);
  }
}

function badFile(key: string, file: string, problem: string): GatewayError {
  return new GatewayError('CONFIG_BAD_VALUE', { key, problem: `${file} ${problem}`.trim() });
}
