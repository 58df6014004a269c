/**
 * The first account: given by configuration, or made at the first start and kept in the data
 * directory, readable by its owner only, where the command line finds it again.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import type { Config } from '../core/config.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import { type AccountSid, isSid, newSid } from '../core/sid.ts';

export interface FirstAccount {
  readonly sid: AccountSid;
  readonly authToken: Secret;
  /** Its token was made just now: the one time it is shown. */
  readonly isNew: boolean;
}

const TOKEN_BYTES = 16;

/** The account as configured or kept. Throws CONFIG_BAD_VALUE when there is none yet. */
export function readAccount(config: Config): FirstAccount {
  const known = findAccount(config);
  if (known) return known;
  const problem = `no account in ${file(config)}: start the gateway once, or set it`;
  throw new GatewayError('CONFIG_BAD_VALUE', { key: 'account.sid', problem });
}

/** As `readAccount`, but makes what is missing, and keeps what is configured for later starts. */
export function ensureAccount(config: Config, clock: Clock): FirstAccount {
  const kept = readKept(config);
  const { sid: knownSid, authToken: knownToken } = merged(config, kept);
  const sid = knownSid ?? newSid('AC', clock);
  const authToken = knownToken ?? clock.randomHex(TOKEN_BYTES);
  const isMade = knownSid === null || knownToken === null;
  const isChanged = kept !== null && (kept.sid !== sid || kept.authToken !== authToken);
  if (isMade || isChanged) keep(config, { sid, authToken });
  return { sid, authToken: new Secret(authToken), isNew: knownToken === null };
}

interface Kept {
  readonly sid: AccountSid;
  readonly authToken: string;
}

function findAccount(config: Config): FirstAccount | null {
  // With both halves given the file is nobody's business: it may not even be ours to read.
  const isWhole = config['account.sid'] !== '' && config['account.authToken'] !== '';
  const { sid, authToken } = merged(config, isWhole ? null : readKept(config));
  if (sid === null || authToken === null) return null;
  return { sid, authToken: new Secret(authToken), isNew: false };
}

/** Each configured half stands above the kept one: a token alone is a rotation. */
function merged(
  config: Config,
  kept: Kept | null,
): { readonly sid: AccountSid | null; readonly authToken: string | null } {
  const sid = config['account.sid'];
  return {
    sid: isSid('AC', sid) ? sid : (kept?.sid ?? null),
    authToken: config['account.authToken'] || (kept?.authToken ?? null),
  };
}

function readKept(config: Config): Kept | null {
  if (!existsSync(file(config))) return null;
  const kept = parseKept(readFileSync(file(config), 'utf8'));
  if (kept !== null) return kept;
  throw new GatewayError('CONFIG_UNREADABLE', { file: file(config), problem: 'not an account' });
}

function parseKept(text: string): Kept | null {
  let kept: Partial<Record<keyof Kept, string>> | null;
  try {
    kept = JSON.parse(text);
  } catch {
    return null;
  }
  const { sid, authToken } = kept ?? {};
  return isSid('AC', sid ?? '') && typeof authToken === 'string'
    ? { sid: sid as AccountSid, authToken }
    : null;
}

/** Whole or not at all: a start that is cut off leaves the former account. */
function keep(config: Config, account: Kept): void {
  mkdirSync(config['data.dir'], { recursive: true, mode: 0o700 });
  const draft = `${file(config)}.new`;
  rmSync(draft, { force: true });
  writeFileSync(draft, `${JSON.stringify(account)}\n`, { mode: 0o600 });
  renameSync(draft, file(config));
}

function file(config: Config): string {
  return join(config['data.dir'], 'account.json');
}
