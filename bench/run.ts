/**
 * Every bench, one after the other, as `npm run bench`. Each is also a command of its own with
 * options; this only adds up the verdicts.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const BENCHES = [
  ['parser'],
  ['calls'],
  ['calls', '--rate', '200'],
  ['calls', '--transport', 'tcp'],
  ['calls', '--transport', 'tls'],
  ['calls', '--work', 'app'],
  ['calls', '--work', 'register'],
  ['media'],
  ['memory'],
  ['flood'],
  ['overload'],
] as const;

let missed = 0;
for (const [name, ...options] of BENCHES) {
  process.stdout.write(`\n== ${[name, ...options].join(' ')}\n`);
  const file = fileURLToPath(new URL(`${name}.ts`, import.meta.url));
  const ran = spawnSync(process.execPath, [file, ...options], { stdio: 'inherit' });
  if (ran.status !== 0) missed += 1;
}
process.stdout.write(
  `\n${BENCHES.length - missed} of ${BENCHES.length} benches met every target\n`,
);
process.exitCode = missed === 0 ? 0 : 1;
