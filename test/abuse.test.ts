/**
 * Mutated messages beside honest calls: 200 a second beside 20 calls a second. No call fails, and
 * nothing stays behind: what is alive before the run and after it differs by less than a leak of
 * half a kilobyte a mutant would. `ABUSE_SECONDS` shortens or lengthens the run; the seed is printed.
 */
import { createSocket } from 'node:dgram';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Collector, INSPECTED } from './support/collector.ts';
import { freePort, residentKb, startGateway, type TestGateway } from './support/gateway.ts';
import { delay } from './support/phone.ts';
import { hasSipp, type SippResult, startSipp } from './support/sipp.ts';

const TORTURE = fileURLToPath(new URL('../../shared/data/torture/', import.meta.url));
const SECONDS = Number(process.env.ABUSE_SECONDS ?? 60);
const MUTANTS_PER_SECOND = 200;
const CALLS_PER_SECOND = 20;
/**
 * Before the first weighing: fills the rings of 1,000 ended calls (`call/router.ts`,
 * `call/trace.ts`), lets every path that mutants take be compiled, and every pool find its size.
 */
const WARM_UP = { seconds: 12, callsPerSecond: 100 };
/** Half of the smallest leak that must not pass, which is 500 bytes. */
const BYTES_PER_MUTANT_MAX = 250;
/** What the contents of full rings differ by from one time to the next. */
const HEAP_NOISE_BYTES = 2 ** 20;

const OWN_SEEDS = [
  'INVITE sip:demo@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKx\r\n' +
    'Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:demo@127.0.0.1>\r\nCall-ID: x\r\n' +
    'CSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1:9>\r\nContent-Length: 0\r\n\r\n',
];

function seeds(): Buffer[] {
  const own = OWN_SEEDS.map((text) => Buffer.from(text, 'latin1'));
  if (!existsSync(TORTURE)) return own;
  const files = readdirSync(TORTURE, { recursive: true, encoding: 'utf8' });
  const messages = files
    .filter((name) => /\.(sip|dat)$/.test(name))
    .map((name) => readFileSync(join(TORTURE, name)));
  return [...own, ...messages.filter((message) => message.length > 0 && message.length < 20_000)];
}

/** Small, fast, repeatable (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function mutate(message: Buffer, other: Buffer, random: () => number): Buffer {
  const at = (length: number): number => Math.floor(random() * length);
  let out = Buffer.from(message);
  for (let count = 1 + at(4); count > 0; count--) {
    const position = at(out.length);
    switch (at(6)) {
      case 0:
        out[position] = at(256);
        break;
      case 1:
        out = Buffer.concat([out.subarray(0, position), out.subarray(position + at(40))]);
        break;
      case 2:
        out = Buffer.concat([
          out.subarray(0, position),
          other.subarray(at(other.length)),
          out.subarray(position),
        ]);
        break;
      case 3:
        out = Buffer.concat([
          out.subarray(0, position),
          Buffer.from('\r\n'),
          out.subarray(position),
        ]);
        break;
      case 4:
        out = Buffer.concat([
          out.subarray(0, position),
          Buffer.alloc(at(300), at(256)),
          out.subarray(position),
        ]);
        break;
      default:
        out = out.subarray(0, Math.max(1, position));
    }
    if (out.length === 0) return Buffer.from('x');
  }
  return out.subarray(0, 60_000);
}

/** Sends mutants beside honest calls until both are done. */
async function abuse(
  gateway: TestGateway,
  load: { seconds: number; callsPerSecond: number; mutant: () => Buffer },
): Promise<SippResult> {
  const { seconds, callsPerSecond, mutant } = load;
  const honest = startSipp({
    scenario: 'call-answered',
    port: await freePort(),
    target: `127.0.0.1:${gateway.sipPort}`,
    service: 'demo',
    calls: callsPerSecond * seconds,
    perSecond: callsPerSecond,
    timeoutSeconds: seconds + 30,
  });
  const socket = createSocket('udp4');
  for (let tick = 0; tick < seconds * 10; tick++) {
    for (let count = 0; count < MUTANTS_PER_SECOND / 10; count++) {
      socket.send(mutant(), gateway.sipPort, '127.0.0.1');
    }
    await delay(100);
  }
  const result = await honest.done;
  socket.close();
  return result;
}

/**
 * A mutant whose INVITE was answered never sends ACK: 32 s (Timer H), then our BYE that nobody
 * answers: 32 s more (Timer F).
 */
async function untilQuiet(gateway: TestGateway): Promise<void> {
  for (let waited = 0; waited < 75; waited++) {
    if ((await gateway.metric('tandem_sip_transactions')) === 0) return;
    await delay(1000);
  }
}

const OPTIONS = {
  timeout: (SECONDS + 230) * 1000,
  skip: !hasSipp() && 'needs sipp',
};

t.test('mutated messages hurt no call and leave nothing behind', OPTIONS, async (t) => {
  const seed = Number(process.env.TANDEM_SEED ?? Math.floor(Math.random() * 2 ** 31));
  t.comment(`seed ${seed}`);
  const random = generator(seed);
  const corpus = seeds();
  const pick = (): Buffer => corpus[Math.floor(random() * corpus.length)] ?? Buffer.from('x');
  const mutant = (): Buffer => mutate(pick(), pick(), random);
  const gateway = await startGateway({
    ...INSPECTED,
    TANDEM_MEDIA_PORT_MIN: '24000',
    TANDEM_MEDIA_PORT_MAX: '27999',
  });
  t.teardown(() => gateway.stop());
  const collector = await Collector.of(gateway);
  t.teardown(() => collector.close());

  await abuse(gateway, { ...WARM_UP, mutant });
  await untilQuiet(gateway);
  const before = await collector.collect();
  const result = await abuse(gateway, {
    seconds: SECONDS,
    callsPerSecond: CALLS_PER_SECOND,
    mutant,
  });
  const residentMb = residentKb(gateway.process.pid ?? 0) / 1024;
  await untilQuiet(gateway);
  const after = await collector.collect();

  t.equal(result.failed, 0, `seed ${seed}: ${result.output.slice(-1500)}`);
  t.equal(result.succeeded, CALLS_PER_SECOND * SECONDS);
  t.equal(await gateway.metric('tandem_sip_transactions'), 0, 'no transaction is left');
  t.equal(await gateway.metric('tandem_calls_live'), 0, 'no call is left');
  const mutants = MUTANTS_PER_SECOND * SECONDS;
  const left = after - before;
  t.comment(
    `alive: ${mb(before)} MB, ${mutants} mutants later ${mb(after)} MB, ` +
      `${Math.round(left / mutants)} bytes each; ${residentMb.toFixed(0)} MB resident`,
  );
  t.ok(left <= mutants * BYTES_PER_MUTANT_MAX + HEAP_NOISE_BYTES, 'a mutant leaves nothing');
  t.ok(residentMb < 500, 'and the processes stay small');
});

function mb(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
