/**
 * A key of this node that outlives it: made at the first start, kept in the data directory where
 * only its owner can read it. What it is for is its reader's.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';

const KEY_BYTES = 32;

/** Throws CONFIG_UNREADABLE for a file that holds no key. */
export function ensureKey(directory: string, name: string, clock: Clock): Secret {
  const file = join(directory, name);
  if (existsSync(file)) {
    const kept = readFileSync(file, 'utf8').trim();
    if (/^[0-9a-f]{64}$/.test(kept)) return new Secret(kept);
    throw new GatewayError('CONFIG_UNREADABLE', { file, problem: 'not a key' });
  }
  const made = clock.randomHex(KEY_BYTES);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  // Whole or not at all.
  writeFileSync(`${file}.new`, `${made}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
  return new Secret(made);
}
