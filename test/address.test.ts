/**
 * Addresses by their class: every block that is not public by its registry is not public here, in
 * whatever spelling, for connections and for media alike.
 */
import t from 'tap';
import { type AddressClass, AddressGuard, classifyAddress } from '../src/core/address.ts';
import { asGatewayError } from '../src/core/errors.ts';
import { DEFAULT_MEDIA_POLICY, mediaAddress } from '../src/sdp/address.ts';

const CLASSES: Readonly<Record<AddressClass, readonly string[]>> = {
  public: ['8.8.8.8', '172.32.0.1', '2606:4700::1111', '2a00::1', '::ffff:8.8.8.8'],
  loopback: ['127.0.0.1', '127.255.0.1', '::1', '::ffff:127.0.0.1', '0:0:0:0:0:ffff:7f00:1'],
  private: ['10.0.0.1', '172.16.0.1', '192.168.1.1', '100.64.0.1', 'fd00::1', '::ffff:a00:1'],
  linkLocal: ['169.254.169.254', 'fe80::1', '::ffff:169.254.169.254'],
  documentation: ['192.0.2.1', '198.51.100.1', '203.0.113.1', '2001:db8::1', '3fff::1'],
  reserved: [
    ...['0.0.0.0', '192.0.0.8', '192.88.99.1', '198.18.0.1', '224.0.0.1', '255.255.255.255'],
    // IPv4 in the clothes of IPv6: compatible, SIIT, NAT64, 6to4, Teredo.
    ...['::127.0.0.1', '::a00:1', '::ffff:0:127.0.0.1', '64:ff9b::7f00:1', '64:ff9b:1::a00:1'],
    ...['2002:7f00:1::1', '2001:0:7f00:1::1'],
    ...['::', '100::1', 'fec0::1', '5f00::1', 'ff02::1', '4000::1', '1::1'],
  ],
};

for (const [name, addresses] of Object.entries(CLASSES)) {
  t.test(`what is ${name}`, async (t) => {
    const guard = new AddressGuard({ allow: [] });
    for (const address of addresses) {
      t.equal(classifyAddress(address), name, address);
      t.equal(guard.permits(address), name === 'public', address);
    }
  });
}

t.test('media goes to no reserved block, however it is allowed to stay at home', async (t) => {
  for (const address of [...CLASSES.reserved, ...CLASSES.linkLocal]) {
    if (address === '0.0.0.0' || address === '::') continue; // hold, to which nothing is sent
    try {
      mediaAddress(address, DEFAULT_MEDIA_POLICY);
      t.fail(address);
    } catch (thrown) {
      t.equal(asGatewayError(thrown).code, 'SDP_REFUSED', address);
    }
  }
  for (const address of ['8.8.8.8', '10.0.0.1', '127.0.0.1', '2a00::1', 'fd00::1']) {
    t.equal(mediaAddress(address, DEFAULT_MEDIA_POLICY).address, address);
  }
});
