/**
 * Configuration: one table. A key has a type, a unit in its name where it has one, a range, a
 * default and a reason; the file is JSONC, every key can be set by environment too, and what is
 * unknown is a start-up error that names the nearest key. `config/tandem.jsonc` is printed from
 * here. Rows are in `config-table.ts`; this file reads, checks and prints.
 */
import { readFileSync } from 'node:fs';
import { type ParseError, parse, printParseErrorCode } from 'jsonc-parser';
import { CONFIG_ROWS, type ConfigRow, type ConfigType } from './config-table.ts';
import { GatewayError } from './errors.ts';

type Rows = typeof CONFIG_ROWS;
export type ConfigKey = keyof Rows;
type ValueOf<R extends ConfigRow> = R['type'] extends 'integer' | 'number'
  ? number
  : R['type'] extends 'boolean'
    ? boolean
    : R['type'] extends 'list'
      ? readonly string[]
      : string;
export type Config = { readonly [K in ConfigKey]: ValueOf<Rows[K]> };
type AnyValue = string | number | boolean | readonly string[];

const ROWS: Readonly<Record<string, ConfigRow>> = CONFIG_ROWS;

/** The environment's name of a key: `account.authToken` → `TANDEM_ACCOUNT_AUTH_TOKEN`. */
function environmentName(key: string): string {
  const snake = key.replace(/([a-z0-9])([A-Z])/g, '$1_$2').replaceAll('.', '_');
  return `TANDEM_${snake.toUpperCase()}`;
}

/** Names of the environment that start with TANDEM_ but are not keys. */
const NOT_KEYS: ReadonlySet<string> = new Set(['TANDEM_CONFIG', 'TANDEM_SEED', 'TANDEM_SHARED']);

/**
 * Defaults, then the file, then the environment; then every value against its row, then the rows
 * against each other. Throws CONFIG_* naming the key.
 */
export function loadConfig(options: {
  file?: string | undefined;
  environment: Readonly<Record<string, string | undefined>>;
  overrides?: Partial<Config>;
}): Config {
  const values: Record<string, AnyValue> = {};
  for (const [key, row] of Object.entries(ROWS)) values[key] = row.default;
  if (options.file !== undefined) Object.assign(values, readConfigFile(options.file));
  Object.assign(values, readEnvironment(options.environment), options.overrides);
  const config = values as unknown as Config;
  crossCheck(config);
  return config;
}

/** The table as a commented JSONC file with every key at its default. */
export function printConfig(): string {
  const lines = [
    '// Every key of tandem with its default. Printed from src/core/config-table.ts; a test keeps',
    '// it so. Copy what you change. Environment: dots and capitals become underscores,',
    '// sip.listen is TANDEM_SIP_LISTEN; lists are separated by commas.',
    '{',
  ];
  const entries = Object.entries(ROWS);
  entries.forEach(([key, row], index) => {
    const comma = index === entries.length - 1 ? '' : ',';
    lines.push(`  // ${row.doc}${describeRow(row)}`);
    lines.push(`  ${JSON.stringify(key)}: ${JSON.stringify(row.default)}${comma}`);
  });
  lines.push('}', '');
  return lines.join('\n');
}

export function describeRow(row: ConfigRow): string {
  const parts: string[] = [];
  if (row.unit) parts.push(row.unit);
  if (row.min !== undefined || row.max !== undefined)
    parts.push(`${row.min ?? ''}..${row.max ?? ''}`);
  if (row.oneOf) parts.push(row.oneOf.join(' | '));
  return parts.length === 0 ? '' : ` (${parts.join(', ')})`;
}

function readConfigFile(file: string): Record<string, AnyValue> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const problem = cause instanceof Error ? cause.message : String(cause);
    throw new GatewayError('CONFIG_UNREADABLE', { file, problem }, { cause });
  }
  const problems: ParseError[] = [];
  const tree: unknown = parse(text, problems, { allowTrailingComma: true });
  const [first] = problems;
  if (first || typeof tree !== 'object' || tree === null || Array.isArray(tree)) {
    const line = first ? text.slice(0, first.offset).split('\n').length : 1;
    const what = first ? printParseErrorCode(first.error) : 'not an object';
    throw new GatewayError('CONFIG_UNREADABLE', { file, problem: `line ${line}: ${what}` });
  }
  const found: Record<string, AnyValue> = {};
  flatten(tree as Record<string, unknown>, '', found);
  return found;
}

/** `{ "sip": { "listen": … } }` and `{ "sip.listen": … }` are the same. */
function flatten(
  tree: Record<string, unknown>,
  prefix: string,
  found: Record<string, AnyValue>,
): void {
  for (const [name, value] of Object.entries(tree)) {
    const key = prefix === '' ? name : `${prefix}.${name}`;
    const isGroup = typeof value === 'object' && value !== null && !Array.isArray(value);
    if (isGroup && !(key in ROWS)) flatten(value as Record<string, unknown>, key, found);
    else found[key] = checkValue(key, value);
  }
}

function readEnvironment(
  environment: Readonly<Record<string, string | undefined>>,
): Record<string, AnyValue> {
  const byName = new Map(Object.keys(ROWS).map((key) => [environmentName(key), key]));
  const found: Record<string, AnyValue> = {};
  for (const [name, text] of Object.entries(environment)) {
    if (!name.startsWith('TANDEM_') || NOT_KEYS.has(name) || text === undefined) continue;
    const key = byName.get(name);
    if (key === undefined) {
      throw new GatewayError('CONFIG_UNKNOWN_KEY', {
        key: name,
        hint: hint(name, [...byName.keys()]),
      });
    }
    found[key] = checkValue(key, fromText(ROWS[key]?.type ?? 'string', text));
  }
  return found;
}

function fromText(type: ConfigType, text: string): unknown {
  if (type === 'list') return text === '' ? [] : text.split(',').map((part) => part.trim());
  if (type === 'boolean') return text === 'true' ? true : text === 'false' ? false : text;
  if (type === 'integer' || type === 'number') return text.trim() === '' ? text : Number(text);
  return text;
}

function checkValue(key: string, value: unknown): AnyValue {
  const row = ROWS[key];
  if (!row) {
    throw new GatewayError('CONFIG_UNKNOWN_KEY', { key, hint: hint(key, Object.keys(ROWS)) });
  }
  const problem = problemOf(row, value);
  if (problem !== null) throw new GatewayError('CONFIG_BAD_VALUE', { key, problem });
  return value as AnyValue;
}

function problemOf(row: ConfigRow, value: unknown): string | null {
  switch (row.type) {
    case 'integer':
    case 'number': {
      if (typeof value !== 'number' || !Number.isFinite(value))
        return `must be a number${describeRow(row)}`;
      if (row.type === 'integer' && !Number.isInteger(value)) return 'must be a whole number';
      if (row.min !== undefined && value < row.min) return `${value} is below ${row.min}`;
      if (row.max !== undefined && value > row.max) return `${value} is above ${row.max}`;
      return null;
    }
    case 'boolean':
      return typeof value === 'boolean' ? null : 'must be true or false';
    case 'list':
      return Array.isArray(value) && value.every((item) => typeof item === 'string')
        ? null
        : 'must be a list of strings';
    case 'string':
    case 'secret':
      if (typeof value !== 'string') return 'must be a string';
      if (row.oneOf && !row.oneOf.includes(value)) return `must be one of ${row.oneOf.join(', ')}`;
      return null;
  }
}

function hint(key: string, known: readonly string[]): string {
  let best = '';
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(key.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return bestDistance <= Math.max(3, key.length / 2) ? `; did you mean "${best}"?` : '';
}

/** Levenshtein's distance, two rows at a time. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current[j] = Math.min(change, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1);
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}

/** Relations between rows that no single range can say. */
function crossCheck(config: Config): void {
  const portMin = config['media.portMin'];
  if (config['media.portMax'] < portMin + 3) {
    refuse('media.portMax', `must leave room for two pairs above media.portMin ${portMin}`);
  }
  if (config['sip.listen'].length === 0) refuse('sip.listen', 'must name at least one address');
  const sid = config['account.sid'];
  if (sid !== '' && !/^AC[0-9a-f]{32}$/.test(sid)) {
    refuse('account.sid', 'must be AC and 32 hex digits');
  }
  if (config['webhook.totalMs'] < config['webhook.readMs']) {
    refuse('webhook.totalMs', 'must not be below webhook.readMs');
  }
  checkWildcards(config);
}

/** Listening everywhere is fine; telling others "everywhere" as our address is not. */
function checkWildcards(config: Config): void {
  const isWildcard = (text: string): boolean => /(^|\/\/)(0\.0\.0\.0|\[::\]|::)(:|$)/.test(text);
  if (config['sip.listen'].some(isWildcard) && config['sip.advertise'] === '') {
    refuse('sip.advertise', 'must name the address others reach, as sip.listen is a wildcard');
  }
  if (isWildcard(config['media.address']) && config['media.advertise'] === '') {
    refuse('media.advertise', 'must name the address others reach, as media.address is a wildcard');
  }
  if (isWildcard(config['http.listen']) && config['http.publicUrl'] === '') {
    refuse('http.publicUrl', 'must be the URL applications reach, as http.listen is a wildcard');
  }
}

function refuse(key: ConfigKey, problem: string): never {
  throw new GatewayError('CONFIG_BAD_VALUE', { key, problem });
}
