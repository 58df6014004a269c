/**
 * A stream of SIP may arrive in any pieces. 100,000 of them, cut and joined from a seed, give the
 * messages that were put in and the verdicts that each gets by itself; and where framing is lost,
 * nothing after it is read.
 */
import { createHash } from 'node:crypto';
import t from 'tap';
import { FrameFramer, type FramerItem, StreamFramer } from '../src/sip/framing.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { SEED, seededRandom } from './support/sim.ts';
import { request } from './support/stream-world.ts';
import { bytesOf, readVerdicts } from './support/torture.ts';

const RUNS = 100_000;

/** Pieces that a stream is made of, whole and broken, small enough for many runs. */
function parts(): Buffer[] {
  const own = [
    request({ transport: 'TCP' }),
    request({ transport: 'TCP', method: 'INVITE', body: 'v=0\r\n' }),
    request({ transport: 'TCP', body: '\r\n\r\n\r\n' }),
    request({ transport: 'TCP', body: request({ transport: 'TCP', method: 'INVITE' }) }),
    request({ transport: 'TCP', contentLength: null }),
    request({ transport: 'TCP', contentLength: -1 }),
    request({ transport: 'TCP', contentLength: 4_294_967_296 }),
    '\r\n\r\n',
    '\r\n\r\n\r\n',
    '\r',
    '\u0016\u0003\u0001',
  ];
  const torture = (readVerdicts() ?? []).map(bytesOf).filter((data) => data.length < 1500);
  return [...own.map((text) => Buffer.from(text, 'latin1')), ...torture];
}

/** One line for each thing that came out. */
function verdicts(items: readonly FramerItem[]): string {
  const lines: string[] = [];
  for (const item of items) {
    if (item.kind === 'ping') continue; // one a read is enough, so they depend on the reads
    lines.push(item.kind === 'message' ? verdictOf(item.text) : 'broken');
  }
  return lines.join('\n');
}

const known = new Map<string, string>();

function verdictOf(text: string): string {
  const found = known.get(text);
  if (found !== undefined) return found;
  const result = parseMessage(text, { stream: true });
  const what = result.ok ? `${result.message.method} ${result.message.callId}` : result.error.code;
  const verdict = `${what} ${createHash('sha1').update(text, 'latin1').digest('hex')}`;
  known.set(text, verdict);
  return verdict;
}

t.test(`however a stream is cut, its messages are the same (seed ${SEED})`, async (t) => {
  const random = seededRandom(SEED);
  const below = (n: number): number => Math.floor(random() * n);
  const all = parts();
  let wrong = '';
  let cuts = 0;
  let messages = 0;

  for (let run = 0; run < RUNS && wrong === ''; run += 1) {
    const chosen = Array.from({ length: 1 + below(4) }, () => all[below(all.length)] as Buffer);
    const stream = Buffer.concat(chosen);
    const whole = verdicts(new StreamFramer().push(Buffer.from(stream)));
    const framer = new StreamFramer();
    const items: FramerItem[] = [];
    const sizeMax = 1 + below(random() < 0.1 ? 8 : 700);
    for (let at = 0; at < stream.length; cuts += 1) {
      const size = 1 + below(sizeMax);
      // A copy, as the kernel would give one: pieces must not share memory.
      items.push(...framer.push(Buffer.from(stream.subarray(at, at + size))));
      at += size;
    }
    const cut = verdicts(items);
    if (cut !== whole) wrong = `run ${run}: ${stream.toString('latin1')}`;
    messages += items.filter(({ kind }) => kind === 'message').length;
  }

  t.equal(wrong, '', `${RUNS} streams in ${cuts} pieces gave ${messages} messages`);
});

t.test('a message that is whole by itself is the same message on a stream', async (t) => {
  const random = seededRandom(SEED);
  const whole = parts().filter((data) => {
    const items = new StreamFramer().push(Buffer.from(data));
    const [item] = items;
    return items.length === 1 && item?.kind === 'message' && item.text.length === data.length;
  });
  let wrong = '';

  for (let run = 0; run < 5000 && wrong === ''; run += 1) {
    const chosen = Array.from(
      { length: 1 + Math.floor(random() * 5) },
      () => whole[Math.floor(random() * whole.length)] as Buffer,
    );
    const alone = chosen.map((data) => verdictOf(data.toString('latin1')));
    const merged = verdicts(new StreamFramer().push(Buffer.concat(chosen)));
    if (merged !== alone.join('\n')) wrong = `run ${run}`;
  }

  t.equal(wrong, '');
  t.ok(whole.length > 20 || readVerdicts() === null, `${whole.length} such messages`);
});

t.test('one frame of a WebSocket is one message, or none', async (t) => {
  const random = seededRandom(SEED);
  const all = parts();
  let several = '';

  for (let run = 0; run < 20_000 && several === ''; run += 1) {
    const count = 1 + Math.floor(random() * 3);
    const data = Buffer.concat(
      Array.from({ length: count }, () => all[Math.floor(random() * all.length)] as Buffer),
    );
    const items = new FrameFramer().push(data);
    if (items.length > 1) several = data.toString('latin1');
    const [item] = items;
    if (item?.kind !== 'message') continue;
    const parsed = parseMessage(item.text, { stream: false });
    if (!parsed.ok) continue;
    // What was read has to be all that was there.
    const text = item.text.replace(/^(\r\n)+/, '');
    const bodyBytes = text.length - text.indexOf('\r\n\r\n') - 4;
    if (parsed.message.body.length !== bodyBytes) several = item.text;
  }

  t.equal(several, '');
});
