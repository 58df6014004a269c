/**
 * House style as a test: layers, cycles, sizes, banned calls, one loader of each addon, and the
 * README's tables against the tables in the code. Runs in about a second, so it runs first.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { printConfig } from '../src/core/config.ts';
import { CONFIG_ROWS } from '../src/core/config-table.ts';
import { ERRORS } from '../src/core/errors.ts';
import { VERBS } from '../src/verbs/interpreter.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** A folder or file imports lower layers and its own folder only; changing this table is a visible diff. */
const LAYERS: readonly (readonly string[])[] = [
  ['core'],
  ['sip', 'sdp', 'media', 'store', 'bus', 'http'],
  ['assets', 'streams', 'webrtc', 'cluster', 'events', 'tenant'],
  ['call', 'taskrouter', 'presence.ts', 'usage.ts'],
  ['queue.ts'],
  ['verbs'],
  ['api', 'console'],
  ['node'],
  ['main.ts', 'worker.ts'],
  ['cli.ts'],
];

const LINES_MAX = 500;
const FUNCTION_LINES_MAX = 70;
const COLUMNS_MAX = 100;

/** Where each call is allowed, and what to use elsewhere. */
const BANNED: readonly { pattern: RegExp; allowed: RegExp; instead: string }[] = [
  { pattern: /\bDate\.now\(/, allowed: /^src\/core\/clock\.ts$/, instead: 'clock.nowMs()' },
  {
    pattern: /\bnew Date\(\)/,
    allowed: /^src\/core\/clock\.ts$/,
    instead: 'new Date(clock.nowMs())',
  },
  {
    pattern: /\bset(Timeout|Interval)\(/,
    allowed: /^src\/core\/clock\.ts$/,
    instead: 'clock.timer()',
  },
  {
    pattern: /\bAbortSignal\.timeout\(/,
    allowed: /^$/,
    instead: 'clock.timer() and an AbortController',
  },
  { pattern: /\bMath\.random\(/, allowed: /^src\/core\/clock\.ts$/, instead: 'clock.random()' },
  {
    pattern: /\brandom(UUID|Bytes)\b/,
    allowed: /^src\/core\/clock\.ts$/,
    instead: 'clock.randomHex()',
  },
  {
    pattern: /\bperformance\.now\(/,
    allowed: /^src\/core\/clock\.ts$/,
    instead: 'clock.monotonicMs()',
  },
  {
    pattern: /\bthrow new (Type|Range)?Error\(/,
    allowed: /^src\/core\/errors\.ts$/,
    instead: 'GatewayError',
  },
  { pattern: /\bconsole\./, allowed: /^$/, instead: 'log, or process.stdout in the command line' },
  { pattern: /: any\b|\bas any\b|<any>/, allowed: /^$/, instead: 'a type' },
  { pattern: /^export default\b/, allowed: /^$/, instead: 'a named export' },
  {
    pattern: /\.node'/,
    allowed: /^src\/(media\/binding|sip\/udp-socket)\.ts$/,
    instead: 'media/binding or sip/udp-socket',
  },
  { pattern: /\b(TODO|FIXME|XXX)\b/, allowed: /^$/, instead: 'an issue, or the work' },
];

function files(folder: string, ending: RegExp): string[] {
  const path = join(ROOT, folder);
  if (!existsSync(path)) return [];
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((name) => ending.test(name) && !/(^|\/)(build|node_modules)\//.test(name))
    .map((name) => join(folder, name))
    .sort();
}

const SOURCES = files('src', /\.ts$/).map((path) => ({
  path,
  text: readFileSync(join(ROOT, path), 'utf8'),
}));
const NATIVE = files('native', /\.(cc|h)$/).map((path) => ({
  path,
  text: readFileSync(join(ROOT, path), 'utf8'),
}));

function layerOf(path: string): { layer: number; place: string } {
  const place = path.split('/')[1] ?? '';
  return { layer: LAYERS.findIndex((names) => names.includes(place)), place };
}

function importsOf(source: { path: string; text: string }): string[] {
  return [...source.text.matchAll(/(?:from|import|import\()\s*'(\.[^']+)'/g)].map((match) =>
    relative(ROOT, resolve(ROOT, dirname(source.path), match[1] ?? '')),
  );
}

t.test('every file imports lower layers and its own folder only', async (t) => {
  const wrong: string[] = [];
  for (const source of SOURCES) {
    const from = layerOf(source.path);
    if (from.layer < 0) wrong.push(`${source.path}: not in the layer table`);
    for (const target of importsOf(source)) {
      const to = layerOf(target);
      const isOwn = from.place === to.place && !from.place.endsWith('.ts');
      if (!isOwn && to.layer >= from.layer) wrong.push(`${source.path} → ${target}`);
    }
  }
  t.strictSame(wrong, []);
});

t.test('no import cycles, types included', async (t) => {
  const graph = new Map(SOURCES.map((source) => [source.path, importsOf(source)]));
  const state = new Map<string, 'open' | 'done'>();
  const cycles: string[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    if (state.get(path) === 'done') return;
    if (state.get(path) === 'open') {
      cycles.push([...trail.slice(trail.indexOf(path)), path].join(' → '));
      return;
    }
    state.set(path, 'open');
    for (const next of graph.get(path) ?? []) visit(next, [...trail, path]);
    state.set(path, 'done');
  };
  for (const path of graph.keys()) visit(path, []);
  t.strictSame(cycles, []);
});

t.test('files, functions and lines keep their size', async (t) => {
  const wrong: string[] = [];
  for (const { path, text } of [...SOURCES, ...NATIVE]) {
    const lines = text.split('\n');
    const isTable = /-table\.ts$|core\/errors\.ts$/.test(path);
    if (lines.length > LINES_MAX && !isTable) wrong.push(`${path}: ${lines.length} lines`);
    lines.forEach((line, index) => {
      const isText = /['"`].{40,}['"`]|https?:|^\/\/ -+ |^ *\/\/ -+/.test(line);
      if (line.length > COLUMNS_MAX && !isText && !isTable) {
        wrong.push(`${path}:${index + 1}: ${line.length} columns`);
      }
    });
    if (path.endsWith('.ts')) wrong.push(...longFunctions(path, lines));
  }
  t.strictSame(wrong, []);
});

/** A formatted function ends at the first `}` with the indentation it began with. */
function longFunctions(path: string, lines: readonly string[]): string[] {
  const wrong: string[] = [];
  lines.forEach((line, start) => {
    const opening =
      /^( *)(?:export )?(?:async )?(?:function\b|(?:static |readonly |#|get |set )*[\w#]+\(.*\).*\{$)/;
    const match = opening.exec(line);
    if (!match || !/\{$/.test(line) || /^ *(if|for|while|switch|catch|return|else)\b/.test(line))
      return;
    const close = `${match[1]}}`;
    const end = lines.findIndex((other, index) => index > start && other.startsWith(close));
    if (end - start > FUNCTION_LINES_MAX) wrong.push(`${path}:${start + 1}: ${end - start} lines`);
  });
  return wrong;
}

t.test('banned calls are not made', async (t) => {
  const wrong: string[] = [];
  for (const { path, text } of SOURCES) {
    text.split('\n').forEach((line, index) => {
      if (/^\s*(\*|\/\/|\/\*)/.test(line)) return;
      for (const { pattern, allowed, instead } of BANNED) {
        if (pattern.test(line) && !allowed.test(path)) {
          wrong.push(`${path}:${index + 1}: ${line.trim().slice(0, 60)} (use ${instead})`);
        }
      }
    });
  }
  t.strictSame(wrong, []);
});

t.test('each file opens by saying what it is', async (t) => {
  const silent = [
    ...SOURCES.filter(({ text }) => !/^(#!.*\n)?\/\*\*\n/.test(text)),
    ...NATIVE.filter(({ text }) => !/^\/[/*]/.test(text)),
  ];
  t.strictSame(
    silent.map(({ path }) => path),
    [],
  );
});

t.test('folders and files have names of the field', async (t) => {
  const vague = /(^|\/)(utils?|helpers?|common|misc|manager|service|index)(\.ts|\/|$)/;
  t.strictSame(
    SOURCES.filter(({ path }) => vague.test(path)).map(({ path }) => path),
    [],
  );
});

/** What each addon exports to its one loader. */
const BORDERS = {
  'native/binding.cc': ['start', 'create', 'set', 'connect', 'ask', 'close'],
  'native/net/binding.cc': ['send', 'close'],
} as const;

t.test('only binding.cc knows Node, and both sides of the border agree', async (t) => {
  const strangers = NATIVE.filter(
    ({ path, text }) => /napi\.h|node_api|uv\.h/.test(text) && !(path in BORDERS),
  );
  t.strictSame(
    strangers.map(({ path }) => path),
    [],
  );
  for (const [border, verbs] of Object.entries(BORDERS)) {
    const binding = NATIVE.find(({ path }) => path === border)?.text ?? '';
    const exported = [...binding.matchAll(/InstanceMethod[^"]*"(\w+)"/g)].map(
      (match) => match[1] ?? '',
    );
    for (const verb of verbs) t.ok(exported.includes(verb), `${border} exports ${verb}`);
  }
});

const README = readFileSync(join(ROOT, 'README.md'), 'utf8');

/** First cells, in backticks, of the table below the heading. */
function documented(heading: string): string[] {
  const start = README.indexOf(`## ${heading}`);
  const rest = start < 0 ? '' : README.slice(start + 3);
  const end = rest.search(/\n## /);
  const section = end < 0 ? rest : rest.slice(0, end);
  return [...section.matchAll(/^\| `([^`]+)`/gm)].map((match) => match[1] ?? '');
}

t.test('the README names every error, key and verb, and no other', async (t) => {
  t.strictSame(documented('Errors').sort(), Object.keys(ERRORS).sort());
  t.strictSame(documented('Configuration').sort(), Object.keys(CONFIG_ROWS).sort());
  t.strictSame(documented('Verbs').sort(), VERBS.map((verb) => verb.name).sort());
});

t.test('config/tandem.jsonc is what the table prints', async (t) => {
  const path = join(ROOT, 'config/tandem.jsonc');
  t.equal(
    readFileSync(path, 'utf8'),
    printConfig(),
    'write it with: npm run tandem -- config --print',
  );
});

t.test('departures from standards are listed in the README', async (t) => {
  const missing = SOURCES.concat(NATIVE).flatMap(({ path, text }) =>
    /DEVIATES:/.test(text) && !README.includes(path) ? [path] : [],
  );
  t.strictSame(missing, []);
});

interface Locked {
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

t.test('the lock file has every optional package, so that npm ci takes it', async (t) => {
  // A registry that lacks another platform's binary makes npm drop its entry; npm 11 then calls
  // the lock incomplete on every other machine.
  const text = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');
  const { packages } = JSON.parse(text) as { packages: Record<string, Locked> };
  const missing = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) =>
        !(`node_modules/${name}` in packages) && !(`${path}/node_modules/${name}` in packages),
    ),
  );
  t.strictSame(missing, []);
  t.notMatch(text, '"resolved"', 'and names no registry');
});

t.test('every configuration key is read by somebody', async (t) => {
  const text = SOURCES.filter(({ path }) => !/-table\.ts$/.test(path))
    .map((source) => source.text)
    .join('\n');
  const unread = Object.keys(CONFIG_ROWS).filter((key) => !text.includes(`config['${key}']`));
  t.strictSame(unread, []);
});

t.test('every error of the table is raised by somebody', async (t) => {
  const text = SOURCES.filter(({ path }) => path !== 'src/core/errors.ts')
    .map((source) => source.text)
    .join('\n');
  t.strictSame(
    Object.keys(ERRORS).filter((code) => !text.includes(`'${code}'`)),
    [],
  );
});

t.test('configuration keys named in error texts exist', async (t) => {
  const named = Object.values(ERRORS).flatMap(
    ({ text }) => text.match(/\b[a-z]+(\.[a-zA-Z]+)+\b/g) ?? [],
  );
  const unknown = named.filter(
    (key) => !(key in CONFIG_ROWS) && !/^(?:net|policy)\.|\.ts$/.test(key),
  );
  t.strictSame(unknown, []);
});
