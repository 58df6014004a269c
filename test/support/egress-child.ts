/**
 * Runs inside a network namespace whose only way out is a wire to nowhere: a whole gateway as it
 * ships, every torture message on UDP and TCP, then the time that dialogs and transactions live.
 * Prints what the gateway answered and how many packets left through it.
 */
import { createSocket } from 'node:dgram';
import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { startGateway } from './gateway.ts';
import { delay } from './phone.ts';

const [folder = '', waitSeconds = '36'] = process.argv.slice(2);

function tcp(port: number, data: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.end(data));
    socket.on('error', () => undefined);
    socket.on('close', () => resolve());
    socket.setTimeout(200, () => socket.destroy());
    socket.resume();
  });
}

/** Eight figures of what came, then bytes and packets of what was sent (proc(5), /proc/net/dev). */
function packetsSent(device: string): number {
  const line = readFileSync('/proc/net/dev', 'utf8')
    .split('\n')
    .find((entry) => entry.trim().startsWith(`${device}:`));
  return Number(line?.split(':')[1]?.trim().split(/\s+/)[9] ?? Number.NaN);
}

const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((name) => /\.(sip|dat)$/.test(name))
  .map((name) => readFileSync(`${folder}/${name}`));
const gateway = await startGateway();
const udp = createSocket('udp4');
let answers = 0;
udp.on('message', () => {
  answers += 1;
});
for (const file of files) {
  udp.send(file, gateway.sipPort, '127.0.0.1');
  await delay(10);
}
for (const file of files) await tcp(gateway.sipPort, file);
await delay(Number(waitSeconds) * 1000);
const sent = packetsSent('outside');
const live = await gateway.metric('tandem_calls_live');
udp.close();
const code = await gateway.stop();
process.stdout.write(`${JSON.stringify({ messages: files.length, answers, sent, live, code })}\n`);
