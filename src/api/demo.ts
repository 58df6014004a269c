/**
 * The built-in demo application: what answers when nothing is configured, so that a first call is
 * heard. It is an ordinary application server that happens to live in this process: asked over
 * HTTP, answering with documents, knowing nothing of the gateway's inside.
 */
import formbody from '@fastify/formbody';
import type { HttpApp } from '../http/server.ts';

export const DEMO_PATH = '/demo/voice';

const DEMO_WELCOME =
  'Welcome to tandem. Press 1 to record a message and hear it back. ' +
  'Press 2 to hear your number. Press 3 to hang up.';

type Form = Readonly<Record<string, string | undefined>>;

/** Path → document. `Digits`, `From` and `RecordingUrl` are the parameters the gateway sends. */
const DOCUMENTS: Readonly<Record<string, (form: Form) => string>> = {
  [DEMO_PATH]: () =>
    `<Gather numDigits="1" timeout="10" action="/demo/choice"><Say>${DEMO_WELCOME}</Say></Gather>` +
    '<Say>No key was pressed. Goodbye.</Say>',
  '/demo/choice': (form) => choice(form.Digits ?? '', form.From ?? ''),
  '/demo/recorded': (form) =>
    form.RecordingUrl === undefined || form.RecordingUrl === ''
      ? `<Say>Nothing was recorded.</Say><Redirect>${DEMO_PATH}</Redirect>`
      : `<Say>You said:</Say><Play>${escapeXml(form.RecordingUrl)}</Play>` +
        `<Redirect>${DEMO_PATH}</Redirect>`,
};

/** A plugin of the HTTP server: its form parser stays its own. */
export async function demoApplication(server: HttpApp): Promise<void> {
  await server.register(formbody);
  for (const [path, document] of Object.entries(DOCUMENTS)) {
    server.route({
      method: ['GET', 'POST'],
      url: path,
      handler: (request, reply) => {
        const form = { ...(request.query as Form), ...((request.body ?? {}) as Form) };
        return reply.type('text/xml').send(`<Response>${document(form)}</Response>`);
      },
    });
  }
}

function choice(digit: string, from: string): string {
  switch (digit) {
    case '1':
      return (
        '<Say>Speak after the tone. Press any key when you are done.</Say>' +
        '<Record maxLength="30" timeout="5" playBeep="true" action="/demo/recorded"/>'
      );
    case '2':
      return (
        `<Say>You are calling from ${escapeXml(spoken(from))}.</Say>` +
        `<Redirect>${DEMO_PATH}</Redirect>`
      );
    case '3':
      return '<Say>Goodbye.</Say><Hangup/>';
    default:
      return `<Say>That key does nothing.</Say><Redirect>${DEMO_PATH}</Redirect>`;
  }
}

/** Digits one by one; of an address its user part. */
function spoken(from: string): string {
  const user = from.replace(/^sips?:/, '').split('@', 1)[0] ?? '';
  return /^\+?\d+$/.test(user) ? [...user].join(' ').replace('+', 'plus') : user.slice(0, 64);
}

function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
