/**
 * Runs every test file through tap and ends with one plain line of totals, whatever reporter a
 * reader likes. Not a runner of its own: tap does the work, this counts.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const child = spawn('tap', ['run', ...process.argv.slice(2)], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
let passed = 0;
let failed = 0;
let skipped = 0;
for await (const line of createInterface({ input: child.stdout })) {
  process.stdout.write(`${line}\n`);
  const assertion = /^ +(not )?ok \d+(.*)$/.exec(line);
  // Only leaves count: a line that closes a subtest carries its time.
  if (!assertion || /# time=/.test(line)) continue;
  if (/# SKIP/i.test(assertion[2] ?? '')) skipped += 1;
  else if (assertion[1]) failed += 1;
  else passed += 1;
}
const code = await new Promise<number>((resolve) => {
  if (child.exitCode !== null) resolve(child.exitCode);
  else child.on('close', (status) => resolve(status ?? 1));
});
process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
process.exitCode = passed === 0 || failed > 0 ? 1 : code;
