/**
 * STUN as a keep-alive on a SIP port (RFC 5626 §4.4.2, §5.4; RFC 5389): a Binding request is told
 * where it came from, by which a phone sees that its NAT has given it another address. Nothing else
 * of STUN is here: no attributes are read, no errors told.
 */
import { isIPv6, SocketAddress } from 'node:net';

const HEADER_BYTES = 20;
/** RFC 5389 §6. */
const COOKIE = 0x2112_a442;
const BINDING_REQUEST = 0x0001;
const BINDING_SUCCESS = 0x0101;
const XOR_MAPPED_ADDRESS = 0x0020;

/** The answer to a Binding request, one byte per character; null when `datagram` is none. */
export function stunAnswer(datagram: string, address: string, port: number): string | null {
  // SIP begins with a letter or a line end: one look tells nearly all.
  if (datagram.charCodeAt(0) !== 0 || datagram.length < HEADER_BYTES) return null;
  const request = Buffer.from(datagram, 'latin1');
  const isRequest = request.readUInt16BE(0) === BINDING_REQUEST;
  const isWhole = request.readUInt16BE(2) + HEADER_BYTES === request.length;
  if (!isRequest || !isWhole || request.readUInt32BE(4) !== COOKIE) return null;
  const ip = addressBytes(address);
  const answer = Buffer.alloc(HEADER_BYTES + 8 + ip.length);
  answer.writeUInt16BE(BINDING_SUCCESS, 0);
  answer.writeUInt16BE(8 + ip.length, 2);
  request.copy(answer, 4, 4, HEADER_BYTES);
  answer.writeUInt16BE(XOR_MAPPED_ADDRESS, HEADER_BYTES);
  answer.writeUInt16BE(4 + ip.length, HEADER_BYTES + 2);
  answer.writeUInt8(ip.length === 4 ? 1 : 2, HEADER_BYTES + 5);
  answer.writeUInt16BE(port ^ (COOKIE >>> 16), HEADER_BYTES + 6);
  // §15.2: with the cookie, and of IPv6 with the transaction's identifier after it.
  for (const [at, byte] of ip.entries()) {
    answer.writeUInt8(byte ^ request.readUInt8(4 + at), HEADER_BYTES + 8 + at);
  }
  return answer.toString('latin1');
}

function addressBytes(address: string): Buffer {
  if (!isIPv6(address)) return Buffer.from(address.split('.').map(Number));
  // Written out by the parser of the platform, so that only `::` is left to fill in.
  const { address: short } = new SocketAddress({ address, family: 'ipv6' });
  const [head = '', tail = ''] = short.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === '' ? [] : tail.split(':');
  const filled = [
    ...left,
    ...new Array<string>(8 - left.length - right.length).fill('0'),
    ...right,
  ];
  return Buffer.from(filled.map((group) => group.padStart(4, '0')).join(''), 'hex');
}
