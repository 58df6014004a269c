/** A SIP domain at which alice and bob may register with a digest, made over REST. */
import type { TestGateway } from './gateway.ts';

export interface PhoneDomain {
  readonly listSid: string;
  readonly domainSid: string;
}

/** `form` is what the domain has beside its name. */
export async function makePhoneDomain(
  gateway: TestGateway,
  options: { name: string; password: string; form: Record<string, string> },
): Promise<PhoneDomain> {
  const make = async (path: string, form: Record<string, string>): Promise<string> => {
    const { status, json, text } = await gateway.rest('POST', `SIP/${path}.json`, form);
    if (status !== 201) throw new Error(`${path}: ${status} ${text}`);
    return json.sid;
  };
  const listSid = await make('CredentialLists', { FriendlyName: 'phones' });
  for (const Username of ['alice', 'bob']) {
    const credential = { Username, Password: options.password };
    await make(`CredentialLists/${listSid}/Credentials`, credential);
  }
  const domainSid = await make('Domains', {
    DomainName: options.name,
    SipRegistration: 'true',
    ...options.form,
  });
  await make(`Domains/${domainSid}/Auth/Registrations/CredentialListMappings`, {
    CredentialListSid: listSid,
  });
  return { listSid, domainSid };
}
