/**
 * The first account: given by configuration, or made at the first start and kept in the data
 * directory, readable by its owner only, where the command line finds it again.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import type { Config } from '../core/config.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import { type AccountSid, isSid, newSid } from '../core/sid.ts';

export interface FirstAccount {
  readonly sid: AccountSid;
  readonly authToken: Secret;
  /** Made just now: the one time its token is shown. */
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

/** As `readAccount`, but makes what is missing. */
export function ensureAccount(config: Config, clock: Clock): FirstAccount {
  const known = findAccount(config);
  if (known) return known;
  const sid = isSid('AC', config['account.sid']) ? config['account.sid'] : newSid('AC', clock);
  const authToken = config['account.authToken'] || clock.randomHex(TOKEN_BYTES);
  mkdirSync(config['data.dir'], { recursive: true, mode: 0o700 });
  writeFileSync(file(config), `${JSON.stringify({ sid, authToken })}\n`, { mode: 0o600 });
  return { sid, authToken: new Secret(authToken), isNew: true };
}

function findAccount(config: Config): FirstAccount | null {
  const sid = config['account.sid'];
  const authToken = config['account.authToken'];
  if (isSid('AC', sid) && authToken !== '') {
    return { sid, authToken: new Secret(authToken), isNew: false };
  }
  if (!existsSync(file(config))) return null;
  const kept = JSON.parse(readFileSync(file(config), 'utf8')) as { sid: string; authToken: string };
  if (!isSid('AC', kept.sid) || typeof kept.authToken !== 'string') {
    throw new GatewayError('CONFIG_UNREADABLE', { file: file(config), problem: 'not an account' });
  }
  return { sid: kept.sid, authToken: new Secret(kept.authToken), isNew: false };
}

function file(config: Config): string {
  return join(config['data.dir'], 'account.json');
}
