/**
 * A certification authority for tests of caller identity: keys and certificates made with openssl
 * in a folder of their own, as carriers' are, with the extensions each test asks for.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Issued {
  readonly keyFile: string;
  readonly file: string;
  readonly key: string;
  readonly pem: string;
}

export interface IssueOptions {
  /** Of its files, and its subject unless that is given. */
  readonly name: string;
  readonly subject?: string;
  /** Absent: signs itself. */
  readonly by?: Issued;
  /** Lines of an extension section of openssl. */
  readonly extensions: readonly string[];
  readonly algorithm?: 'P-256' | 'P-384' | 'RSA';
  readonly digest?: 'sha256' | 'sha1';
}

export const CA_EXTENSIONS = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign'];

/** TNAuthList with one service provider code of four characters (RFC 8226 §9). */
export function providerCode(code: string): string {
  const hex = Buffer.from(code, 'latin1').toString('hex');
  return `1.3.6.1.5.5.7.1.26=DER:3008a0061604${hex}`;
}

export const SIGNER_EXTENSIONS = [
  'basicConstraints=critical,CA:FALSE',
  'keyUsage=critical,digitalSignature',
  providerCode('709J'),
];

export class StirCa {
  readonly folder = mkdtempSync(join(tmpdir(), 'tandem-stir-'));

  issue(o: IssueOptions): Issued {
    const { name, subject = name, by, extensions, algorithm = 'P-256', digest = 'sha256' } = o;
    const path = (ending: string): string => join(this.folder, `${name}.${ending}`);
    const keyOptions =
      algorithm === 'RSA'
        ? ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048']
        : ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${algorithm}`];
    openssl('genpkey', ...keyOptions, '-out', path('key'));
    openssl('req', '-new', '-key', path('key'), '-subj', `/CN=${subject}`, '-out', path('csr'));
    writeFileSync(path('ext'), ['[x]', ...extensions, ''].join('\n'));
    const issuer = by ? ['-CA', by.file, '-CAkey', by.keyFile] : ['-signkey', path('key')];
    const common = ['-extfile', path('ext'), '-extensions', 'x', '-days', '30', `-${digest}`];
    const serial = ['-set_serial', String(serialOf(name))];
    openssl(
      'x509',
      '-req',
      '-in',
      path('csr'),
      ...issuer,
      ...common,
      ...serial,
      '-out',
      path('pem'),
    );
    return {
      keyFile: path('key'),
      file: path('pem'),
      key: readFileSync(path('key'), 'latin1'),
      pem: readFileSync(path('pem'), 'latin1'),
    };
  }

  write(name: string, text: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, text);
    return path;
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function serialOf(name: string): number {
  return [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1_000_003, 7);
}

function openssl(...parameters: string[]): void {
  execFileSync('openssl', parameters, { stdio: ['ignore', 'ignore', 'pipe'] });
}
