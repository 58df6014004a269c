/**
 * How many INVITEs of 900 bytes one CPU-second parses, keys of both transaction kinds included.
 * Medians of several rounds of CPU time (not wall time, so that a busy machine does not lie).
 * Not a test: test/sip-parser.test.ts holds the verdicts. Run: node bench/parser.ts
 */
import { transactionKey } from '../src/sip/message.ts';
import { parseMessage } from '../src/sip/parser.ts';

const ROUNDS = 9;
const MESSAGES_PER_ROUND = 40_000;
const DISTINCT = 64;
const SIZE_BYTES = 900;

/** Messages that differ where calls differ, so that no cache of the engine answers for us. */
function invite(n: number): Buffer {
  const id = (n * 2_654_435_761).toString(16).padStart(12, '0');
  const sdp = [
    'v=0',
    `o=carrier 53655765${n} 2353687637 IN IP4 198.51.100.7`,
    's=-',
    'c=IN IP4 198.51.100.7',
    't=0 0',
    `m=audio ${20_000 + n * 2} RTP/AVP 8 0 101`,
    'a=rtpmap:8 PCMA/8000',
    'a=rtpmap:0 PCMU/8000',
    'a=rtpmap:101 telephone-event/8000',
    'a=fmtp:101 0-15',
    'a=ptime:20',
    '',
  ].join('\r\n');
  const head = [
    `INVITE sip:+14155550${100 + n}@203.0.113.9:5060;transport=udp SIP/2.0`,
    `Via: SIP/2.0/UDP 198.51.100.7:5060;rport;branch=z9hG4bK${id}`,
    'Max-Forwards: 70',
    `From: "Alice" <sip:+14155551234@carrier.example.net>;tag=${id}f`,
    `To: <sip:+14155550${100 + n}@203.0.113.9>`,
    `Call-ID: ${id}-6a1f@198.51.100.7`,
    `CSeq: ${n + 1} INVITE`,
    'Contact: <sip:+14155551234@198.51.100.7:5060>',
    'Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK',
    'Supported: timer, 100rel',
    'User-Agent: carrier-sbc/7.2',
    'Content-Type: application/sdp',
    `Content-Length: ${sdp.length}`,
  ].join('\r\n');
  const missing = SIZE_BYTES - head.length - sdp.length - 4;
  const padding = missing > 10 ? `\r\nX-Trunk: ${'t'.repeat(missing - 11)}` : '';
  return Buffer.from(`${head}${padding}\r\n\r\n${sdp}`, 'latin1');
}

function round(messages: readonly Buffer[]): number {
  const before = process.cpuUsage();
  let keyBytes = 0;
  for (let i = 0; i < MESSAGES_PER_ROUND; i += 1) {
    // A new string each time, as the socket makes one.
    const text = (messages[i % DISTINCT] as Buffer).toString('latin1');
    const result = parseMessage(text, { stream: false });
    if (!result.ok) throw result.error;
    keyBytes += transactionKey(result.message).length;
    keyBytes += transactionKey(result.message, 'CANCEL').length;
  }
  const spent = process.cpuUsage(before);
  if (keyBytes === 0) process.exitCode = 1;
  return spent.user + spent.system;
}

const messages = Array.from({ length: DISTINCT }, (_, n) => invite(n));
const sizes = messages.map((message) => message.length);
round(messages);
const spentUs = Array.from({ length: ROUNDS }, () => round(messages)).sort((a, b) => a - b);
const medianUs = spentUs[Math.floor(ROUNDS / 2)] as number;
const eachUs = medianUs / MESSAGES_PER_ROUND;
const low = ((spentUs[0] as number) / MESSAGES_PER_ROUND).toFixed(2);
const high = ((spentUs[ROUNDS - 1] as number) / MESSAGES_PER_ROUND).toFixed(2);
process.stdout.write(
  `parser: ${Math.round(1e6 / eachUs)} messages per CPU-second, ${eachUs.toFixed(2)} µs each ` +
    `(${low} to ${high} over ${ROUNDS} rounds of ${MESSAGES_PER_ROUND}; ` +
    `${Math.min(...sizes)} to ${Math.max(...sizes)} bytes)\n`,
);
