/**
 * The test programs of the native code, built with address and undefined-behaviour sanitizers and
 * run without Node. Building takes a minute the first time; ninja knows what changed after that.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const BUILD = 'native/build/asan';
/** Each with more tests than this. */
const PROGRAMS = { dsp_test: 20, engine_test: 20, udp_test: 4 } as const;

function run(program: string, args: readonly string[]): string {
  try {
    return execFileSync(program, args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 1 << 26 });
  } catch (error) {
    // A sanitizer report is on standard error; what was printed before it says which test ran.
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    return `${stdout ?? ''}\nnot ok - ${program} ended badly: ${(stderr ?? String(error)).slice(-4000)}`;
  }
}

t.test('native code passes its tests under sanitizers', { timeout: 900_000 }, async (t) => {
  const flags = ['-DCMAKE_BUILD_TYPE=Release', '-DTANDEM_SANITIZE=address'];
  run('cmake', ['-S', 'native', '-B', BUILD, '-G', 'Ninja', ...flags]);
  const built = run('ninja', ['-C', BUILD, ...Object.keys(PROGRAMS)]);
  t.notMatch(built, /not ok/, built.slice(-3000));
  for (const [program, testsMin] of Object.entries(PROGRAMS)) {
    await t.test(program, async (t) => {
      const lines = run(`${BUILD}/${program}`, []).split('\n');
      const verdicts = lines.filter((line) => /^(not )?ok\b/.test(line));
      t.ok(verdicts.length > testsMin, `${verdicts.length} tests ran`);
      for (const verdict of verdicts) {
        t.ok(verdict.startsWith('ok'), verdict.replace(/^(not )?ok[ \d]*-? ?/, ''));
      }
    });
  }
});
