/**
 * Certificate authorities for tests, made with openssl in a folder that goes with the test. They
 * sign what they are asked to, the wrong and the expired as well.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Pair {
  readonly certFile: string;
  readonly keyFile: string;
}

export class Authority {
  readonly caFile: string;
  readonly #folder: string;
  readonly #keyFile: string;
  #serial = 1;

  constructor(folder: string, name = 'authority') {
    this.#folder = join(folder, name);
    mkdirSync(this.#folder, { recursive: true });
    this.caFile = join(this.#folder, 'ca.pem');
    this.#keyFile = join(this.#folder, 'ca-key.pem');
    newKey(this.#keyFile);
    const subject = ['-subj', `/CN=${name}`, '-days', '2', '-out', this.caFile];
    openssl('req', '-x509', '-new', '-key', this.#keyFile, ...subject);
  }

  /** `sans` as openssl writes them: `DNS:a.example`, `IP:127.0.0.1`, `URI:sip:a.example`. */
  issue(sans: readonly string[], options: { days?: number; commonName?: string } = {}): Pair {
    const { days = 2, commonName = 'tandem test' } = options;
    this.#serial += 1;
    const base = join(this.#folder, `leaf-${this.#serial}`);
    const [certFile, keyFile] = [`${base}.pem`, `${base}-key.pem`];
    newKey(keyFile);
    openssl('req', '-new', '-key', keyFile, '-subj', `/CN=${commonName}`, '-out', `${base}.csr`);
    const names = sans.length > 0 ? `subjectAltName=${sans.join(',')}\n` : '';
    writeFileSync(`${base}.ext`, `${names}basicConstraints=CA:FALSE\n`);
    const signer = ['-CA', this.caFile, '-CAkey', this.#keyFile, '-set_serial', `${this.#serial}`];
    const what = ['-in', `${base}.csr`, '-extfile', `${base}.ext`, '-days', `${days}`];
    openssl('x509', '-req', ...what, ...signer, '-out', certFile);
    return { certFile, keyFile };
  }
}

/** Puts one pair where another was, as a renewal does. */
export function replace(old: Pair, fresh: Pair): void {
  writeFileSync(old.certFile, readFileSync(fresh.certFile));
  writeFileSync(old.keyFile, readFileSync(fresh.keyFile));
}

function newKey(file: string): void {
  openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', file);
}

function openssl(...parameters: string[]): void {
  execFileSync('openssl', parameters, { stdio: ['ignore', 'ignore', 'pipe'] });
}
