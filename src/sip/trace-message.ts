/**
 * A message as the trace tells it: first line, size, who with, and whether it was seen before.
 * Plain data, made only while somebody looks.
 */
import type { SipMessage } from './message.ts';
import type { PeerAddress, TraceMessage } from './peer.ts';
import { printable } from './session-report.ts';

export function tracedIn(
  message: SipMessage,
  from: PeerAddress,
  atMs: number,
  retransmission: boolean,
): TraceMessage {
  const { callId, firstLine, sizeBytes } = message;
  return traced('in', { atMs, callId, from, firstLine, bytes: sizeBytes, retransmission });
}

export function tracedOut(
  text: string,
  to: PeerAddress,
  callId: string,
  atMs: number,
  retransmission: boolean,
): TraceMessage {
  const firstLine = text.slice(0, text.indexOf('\r\n'));
  return traced('out', { atMs, callId, from: to, firstLine, bytes: text.length, retransmission });
}

function traced(
  direction: 'in' | 'out',
  told: Omit<TraceMessage, 'direction' | 'peer'> & { from: PeerAddress },
): TraceMessage {
  const { atMs, callId, from, firstLine, bytes, retransmission } = told;
  const { transport, address, port } = from;
  const peer = { transport, address, port };
  return { atMs, direction, callId, peer, firstLine: printable(firstLine), bytes, retransmission };
}
