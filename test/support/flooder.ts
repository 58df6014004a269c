/**
 * A flood of INVITEs over UDP, run as a process of its own: from many addresses of 127.0.0.0/8, so
 * that each is another stranger that can be answered, at a steady pace. Every address counts what it
 * was answered. Arguments: target port, sources, INVITEs a second, seconds. Prints one line of JSON.
 */
import { createSocket, type Socket } from 'node:dgram';

const [port = 0, sources = 0, perSecond = 0, seconds = 0] = process.argv.slice(2).map(Number);
const TICK_MS = 10;
/** Answers may still be on their way. */
const LINGER_MS = 1000;

const answers: number[] = [];
const statuses: Record<string, number> = {};

function addressOf(index: number): string {
  return `127.${8 + (index >> 16)}.${(index >> 8) & 255}.${1 + ((index & 255) % 254)}`;
}

async function bound(index: number): Promise<Socket> {
  const socket = createSocket('udp4');
  answers[index] = 0;
  socket.on('message', (message) => {
    answers[index] = (answers[index] ?? 0) + 1;
    const status = message.toString('latin1', 8, 11);
    statuses[status] = (statuses[status] ?? 0) + 1;
  });
  // What the kernel does not take is lost, as on any network.
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => socket.bind(0, addressOf(index), resolve));
  return socket;
}

function invite(count: number, host: string): string {
  return [
    `INVITE sip:+15550123@127.0.0.1:${port} SIP/2.0`,
    `Via: SIP/2.0/UDP ${host};branch=z9hG4bKflood${count};rport`,
    `From: <sip:stranger@${host}>;tag=f${count}`,
    `To: <sip:+15550123@127.0.0.1:${port}>`,
    `Call-ID: flood-${count}@${host}`,
    'CSeq: 1 INVITE',
    `Contact: <sip:stranger@${host}>`,
    'Max-Forwards: 70',
    'Content-Type: application/sdp',
    'Content-Length: 129',
    '',
    'v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n' +
      'm=audio 9000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv      \r\n',
  ].join('\r\n');
}

const sockets = await Promise.all(Array.from({ length: sources }, (_, index) => bound(index)));
const hosts = sockets.map((socket) => `${socket.address().address}:${socket.address().port}`);
const startMs = performance.now();
let sent = 0;
await new Promise<void>((resolve) => {
  const timer = setInterval(() => {
    const elapsedMs = performance.now() - startMs;
    const due = Math.min((elapsedMs * perSecond) / 1000, perSecond * seconds);
    while (sent < due) {
      const index = sent % sources;
      sockets[index]?.send(invite(sent, hosts[index] ?? ''), port, '127.0.0.1');
      sent += 1;
    }
    if (elapsedMs < seconds * 1000) return;
    clearInterval(timer);
    setTimeout(resolve, LINGER_MS);
  }, TICK_MS);
});
const replies = answers.reduce((sum, each) => sum + each, 0);
const most = Math.max(...answers);
const tookSeconds = (performance.now() - startMs - LINGER_MS) / 1000;
process.stdout.write(
  `${JSON.stringify({ sent, sources, replies, most, statuses, perSecond: Math.round(sent / tookSeconds) })}\n`,
);
for (const socket of sockets) socket.close();
