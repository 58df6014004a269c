/** Numbers as carriers write them and as they want them written, and who may be shown as caller. */
import t from 'tap';
import { calledIn, callerIdFor, formatOutbound, readInbound } from '../src/call/number-format.ts';
import { DEFAULT_TRUNK_POLICY, type NumberPolicy } from '../src/store/trunk-policy.ts';

const AS_IS = DEFAULT_TRUNK_POLICY.numbers;
const GERMAN: NumberPolicy = { ...AS_IS, inbound: 'e164', outbound: 'e164', countryCode: '49' };
const AMERICAN: NumberPolicy = {
  ...GERMAN,
  countryCode: '1',
  internationalPrefix: '011',
  nationalPrefix: '',
};

t.test('inbound numbers become E.164', async (t) => {
  const read = (number: string, policy = GERMAN, context = ''): string => {
    const { number: found, ok } = readInbound(number, policy, context);
    return ok ? found : `! ${found}`;
  };
  t.equal(read('+4930123456'), '+4930123456');
  t.equal(read('004930123456'), '+4930123456');
  t.equal(read('030123456'), '+4930123456');
  t.equal(read('4930123456'), '+4930123456');
  t.equal(read('+49 (30) 12-34.56'), '+4930123456');
  t.equal(read('15551234567', AMERICAN), '+15551234567');
  t.equal(read('5551234567', AMERICAN), '+15551234567');
  t.equal(read('0114930123456', AMERICAN), '+4930123456');
  t.equal(read('112'), '112', 'a short number is dialled as it is');
  t.equal(read('*21*30#'), '*21*30#');
  t.equal(read('alice'), 'alice');
  t.equal(read('7042', GERMAN, '+49-30-12'), '+4930127042', 'RFC 3966 §5.1.5');
  t.equal(read('030123456', GERMAN, 'example.com'), '+4930123456', 'a domain is no prefix');
});

t.test('a wrong number format is told in one sentence', async (t) => {
  const why = (number: string, policy = GERMAN): string => {
    const reading = readInbound(number, policy);
    t.equal(reading.ok, false, number);
    t.equal(reading.number, number, 'and nothing is made up');
    return reading.why;
  };
  t.match(why('+012345678'), 'no E.164 number');
  t.match(why(`+${'1'.repeat(16)}`), 'no E.164 number');
  t.match(why('+12345'), 'no E.164 number');
  t.match(why('7123456789'), 'begins with none of 00, 0, 49');
  t.match(why('030123456', { ...GERMAN, countryCode: '' }), 'no countryCode');
});

t.test('outbound numbers are written as the carrier wants them', async (t) => {
  const write = (number: string, policy: Partial<NumberPolicy>): string =>
    formatOutbound(number, { ...GERMAN, ...policy }).number;
  t.equal(write('+4930123456', { outbound: 'e164' }), '+4930123456');
  t.equal(write('+4930123456', { outbound: 'plain' }), '4930123456');
  t.equal(write('+4930123456', { outbound: 'international' }), '004930123456');
  t.equal(write('+4930123456', { outbound: 'national' }), '030123456');
  t.equal(write('+15551234567', { outbound: 'national' }), '0015551234567');
  t.equal(write('030123456', { outbound: 'e164' }), '+4930123456');
  t.equal(write('112', { outbound: 'international' }), '112');
  t.equal(write('+4930123456', { outbound: 'as-is' }), '+4930123456');
  t.equal(write('+4930123456', { outbound: 'plain', addPrefix: '9' }), '94930123456');
  t.equal(write('+4930123456', { outbound: 'plain', stripDigits: 2, addPrefix: '0' }), '030123456');
  t.equal(write('+4930123456', { outbound: 'e164', stripDigits: 2 }), '30123456');
  const reading = formatOutbound('7123456789', GERMAN);
  t.equal(reading.ok, false);
  t.equal(reading.number, '7123456789');
});

t.test('as-is changes nothing but what is asked for', async (t) => {
  t.equal(readInbound('004930123', AS_IS).number, '004930123');
  t.equal(readInbound('99004930123', { ...AS_IS, stripDigits: 2 }).number, '004930123');
  t.equal(readInbound('30123', { ...AS_IS, addPrefix: '+49' }).number, '+4930123');
});

t.test('what a Request-URI calls', async (t) => {
  t.strictSame(calledIn('tel:+1-555-0100;isub=4'), { user: '+15550100', host: '', context: '' });
  t.strictSame(calledIn('tel:0100;phone-context=+1555'), {
    user: '0100',
    host: '',
    context: '+1555',
  });
  t.strictSame(calledIn('sip:+1-555-0100;rn=+1999@trunk.example;user=phone'), {
    user: '+15550100',
    host: 'trunk.example',
    context: '',
  });
  t.strictSame(calledIn('sip:j%C3%BC@h'), { user: 'jü', host: 'h', context: '' });
});

t.test('who may be shown as the caller', async (t) => {
  const asIs = DEFAULT_TRUNK_POLICY.callerId;
  t.match(callerIdFor('+15550100', asIs), { from: '+15550100', withheld: false });
  t.match(callerIdFor('anonymous', asIs), { withheld: true });
  t.match(callerIdFor('', asIs), { withheld: true });
  const fixed = { mode: 'fixed', allowed: [], fallback: '+15550199' } as const;
  t.match(callerIdFor('+15550100', fixed), { from: '+15550199', withheld: false });
  t.match(callerIdFor('anonymous', fixed), { from: '+15550199', withheld: true });
  t.match(callerIdFor('+15550100', { ...fixed, fallback: '' }), { withheld: true });
  const some = { mode: 'allowed', allowed: ['+1 555 0100'], fallback: '+15550199' } as const;
  t.match(callerIdFor('+15550100', some), { from: '+15550100', withheld: false });
  t.match(callerIdFor('sip:15550100@h', some), { from: 'sip:15550100@h', withheld: false });
  const other = callerIdFor('+15550111', some);
  t.match(other, { from: '+15550199', withheld: false });
  t.match(other.why, '+15550111 is not in callerId.allowed');
});
