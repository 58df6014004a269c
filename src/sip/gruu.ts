/**
 * Globally routable URIs of one phone of an address (RFC 5627): the public one names the phone's
 * instance beside its address, the temporary one names neither. Makes and reads them; keeps
 * nothing, so as many temporary ones may be given out as are asked for (RFC 5627 appendix A.2).
 *
 * A temporary GRUU is one AES block (what binding, and chance) with a MAC over it: two of the same
 * phone have nothing in common, and nobody else can make one.
 */
import { createCipheriv, createDecipheriv, createHmac, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import type { Secret } from '../core/log.ts';
import type { SipUri } from './message.ts';

const EPOCH_BYTES = 8;
const CHANCE_BYTES = 8;
const BLOCK_BYTES = EPOCH_BYTES + CHANCE_BYTES;
const MAC_BYTES = 10;
const PREFIX = 'tgruu.';

export type GruuTarget =
  | { readonly kind: 'instance'; readonly instance: string }
  /** Of whoever has that epoch. */
  | { readonly kind: 'epoch'; readonly epoch: string };

export class Gruu {
  readonly #clock: Clock;
  readonly #key: Buffer;
  readonly #macKey: Buffer;

  constructor({ clock, secret }: { clock: Clock; secret: Secret }) {
    this.#clock = clock;
    const derive = (purpose: string): Buffer =>
      createHmac('sha256', secret.reveal()).update(purpose).digest();
    this.#key = derive('gruu').subarray(0, 16);
    this.#macKey = derive('gruu mac');
  }

  newEpoch(): string {
    return this.#clock.randomHex(EPOCH_BYTES);
  }

  /** `aor` is `sip:user@domain`, `instance` `<urn:…>`. */
  publicUri(aor: string, instance: string): string {
    return `${aor};gr=${escapeParam(instance.slice(1, -1))}`;
  }

  /** Another one each time. */
  temporaryUri(domain: string, epoch: string): string {
    const plain = Buffer.from(epoch + this.#clock.randomHex(CHANCE_BYTES), 'hex');
    const cipher = createCipheriv('aes-128-ecb', this.#key, null).setAutoPadding(false);
    const block = Buffer.concat([cipher.update(plain), cipher.final()]);
    const token = Buffer.concat([block, this.#mac(block)]).toString('base64url');
    return `sip:${PREFIX}${token}@${domain};gr`;
  }

  /** Whom a URI at one of our domains means by its GRUU; null when it is none, or not ours. */
  read(uri: SipUri): GruuTarget | null {
    if (uri.user.startsWith(PREFIX)) return this.#readTemporary(uri.user.slice(PREFIX.length));
    const value = uri.params.get('gr');
    if (value === undefined || value === '') return null;
    return { kind: 'instance', instance: `<${unescapeParam(value)}>` };
  }

  #readTemporary(token: string): GruuTarget | null {
    const raw = Buffer.from(token, 'base64url');
    if (raw.length !== BLOCK_BYTES + MAC_BYTES) return null;
    const block = raw.subarray(0, BLOCK_BYTES);
    if (!timingSafeEqual(this.#mac(block), raw.subarray(BLOCK_BYTES))) return null;
    const cipher = createDecipheriv('aes-128-ecb', this.#key, null).setAutoPadding(false);
    const plain = Buffer.concat([cipher.update(block), cipher.final()]);
    return { kind: 'epoch', epoch: plain.toString('hex', 0, EPOCH_BYTES) };
  }

  #mac(block: Buffer): Buffer {
    return createHmac('sha256', this.#macKey).update(block).digest().subarray(0, MAC_BYTES);
  }
}

/** RFC 3261 §25.1: what a URI parameter's value may hold as it is. */
function escapeParam(text: string): string {
  return text.replaceAll(
    /[^\w.!~*'()[\]/:&+$-]/g,
    (c) => `%${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}

function unescapeParam(text: string): string {
  return text.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
