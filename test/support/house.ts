/**
 * What conversations are tried in: a gateway, the application server that drives it, and phones,
 * all gone when the test ends.
 */
import type { Test } from 'tap';
import { type AppServer, startAppServer } from './app-server.ts';
import { startGateway, TEST_TOKEN, type TestGateway } from './gateway.ts';
import { type Phone, type PhoneOptions, startPhone } from './phone.ts';

export interface House {
  readonly app: AppServer;
  readonly gateway: TestGateway;
  phone(options?: PhoneOptions): Promise<Phone>;
}

/** `/voice` and what follows is the test's to say; `/status` is answered. */
export async function house(t: Test, environment: Record<string, string> = {}): Promise<House> {
  const app = await startAppServer({ authToken: TEST_TOKEN });
  const gateway = await startGateway({
    TANDEM_APP_URL: `${app.base}/voice`,
    TANDEM_APP_STATUS_CALLBACK_URL: `${app.base}/status`,
    ...environment,
  });
  app.on('/status', () => '<Response/>');
  const phones: Phone[] = [];
  t.teardown(async () => {
    await Promise.all(phones.map((phone) => phone.close()));
    await gateway.stop();
    await app.close();
  });
  return {
    app,
    gateway,
    phone: async (options) => {
      const phone = await startPhone(options);
      phones.push(phone);
      return phone;
    },
  };
}
