/**
 * rtpengine (Debian's package, userspace forwarding) as the yardstick for media, and the few
 * commands of its control protocol that set up a call: bencoded dictionaries over UDP.
 */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import { freePort } from '../test/support/gateway.ts';
import { sleepMs } from './measure.ts';

export interface Rtpengine {
  readonly pid: number;
  /** The session description rtpengine made of ours. */
  offer(call: string, sdp: string, flags?: Dictionary): Promise<string>;
  answer(call: string, sdp: string, flags?: Dictionary): Promise<string>;
  /** Ends a call at once, without the delay for late packets. */
  remove(call: string): Promise<void>;
  stop(): Promise<void>;
}

type Bencoded = string | number | readonly Bencoded[] | Dictionary;
type Dictionary = { readonly [key: string]: Bencoded };

export function hasRtpengine(): boolean {
  return existsSync('/usr/bin/rtpengine');
}

export async function startRtpengine(options: {
  portMin: number;
  portMax: number;
}): Promise<Rtpengine> {
  const port = await freePort();
  const child = spawn(
    '/usr/bin/rtpengine',
    [
      ...['--foreground', '--log-stderr', '--log-level=3', '--table=-1', '--config-file=none'],
      ...['--interface=127.0.0.1', `--listen-ng=127.0.0.1:${port}`],
      ...[`--port-min=${options.portMin}`, `--port-max=${options.portMax}`, '--num-threads=2'],
    ],
    { stdio: 'ignore' },
  );
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  // Whatever ends the bench ends it too.
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  await sleepMs(1500);
  const ask = (message: Dictionary): Promise<Dictionary> => exchange(port, message);
  const command = async (message: Dictionary): Promise<string> => {
    const answer = await ask(message);
    if (answer.result !== 'ok') throw new Error(`rtpengine: ${JSON.stringify(answer)}`);
    return String(answer.sdp);
  };
  const base = { ICE: 'remove', replace: ['origin', 'session-connection'] };
  return {
    pid: child.pid ?? 0,
    offer: (call, sdp, flags = {}) =>
      command({ command: 'offer', 'call-id': call, 'from-tag': 'a', sdp, ...base, ...flags }),
    answer: (call, sdp, flags = {}) =>
      command({
        command: 'answer',
        'call-id': call,
        'from-tag': 'a',
        'to-tag': 'b',
        sdp,
        ...base,
        ...flags,
      }),
    remove: async (call) => {
      await ask({ command: 'delete', 'call-id': call, 'from-tag': 'a', 'delete-delay': 0 });
    },
    stop: async () => {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
      await gone;
      clearTimeout(timer);
      process.off('exit', kill);
    },
  };
}

let cookie = 0;

async function exchange(port: number, message: Dictionary): Promise<Dictionary> {
  const socket = createSocket('udp4');
  cookie += 1;
  const mine = `c${cookie}`;
  try {
    return await new Promise<Dictionary>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('rtpengine does not answer')), 3000);
      socket.on('message', (data) => {
        clearTimeout(timer);
        const text = data.toString('latin1');
        resolve(decode(text, text.indexOf(' ') + 1).value as Dictionary);
      });
      socket.send(Buffer.from(`${mine} ${encode(message)}`, 'latin1'), port, '127.0.0.1');
    });
  } finally {
    socket.close();
  }
}

function encode(value: Bencoded): string {
  if (typeof value === 'string') return `${value.length}:${value}`;
  if (typeof value === 'number') return `i${value}e`;
  if (Array.isArray(value)) return `l${value.map(encode).join('')}e`;
  const entries = Object.entries(value as Dictionary).sort(([a], [b]) => (a < b ? -1 : 1));
  return `d${entries.map(([key, item]) => encode(key) + encode(item)).join('')}e`;
}

function decode(text: string, at: number): { value: Bencoded; next: number } {
  const kind = text[at] ?? '';
  if (kind === 'i') {
    const end = text.indexOf('e', at);
    return { value: Number(text.slice(at + 1, end)), next: end + 1 };
  }
  if (kind === 'l' || kind === 'd') {
    const items: Bencoded[] = [];
    let next = at + 1;
    while (text[next] !== 'e') {
      const item = decode(text, next);
      items.push(item.value);
      next = item.next;
    }
    if (kind === 'l') return { value: items, next: next + 1 };
    const pairs: [string, Bencoded][] = [];
    for (let index = 0; index + 1 < items.length; index += 2) {
      pairs.push([String(items[index]), items[index + 1] ?? '']);
    }
    return { value: Object.fromEntries(pairs), next: next + 1 };
  }
  const colon = text.indexOf(':', at);
  const end = colon + 1 + Number(text.slice(at, colon));
  return { value: text.slice(colon + 1, end), next: end };
}
