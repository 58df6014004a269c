/**
 * Writes the README's tables from the tables in the code: `npm run tables`. The tidy test says when
 * they differ.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { describeRow } from '../../src/core/config.ts';
import { CONFIG_ROWS, type ConfigRow } from '../../src/core/config-table.ts';
import { ERRORS, type ErrorRow } from '../../src/core/errors.ts';
import { VERBS } from '../../src/verbs/interpreter.ts';

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

const lines: string[] = ['## Verbs', '', '| verb | what it does | attributes |', '|---|---|---|'];
for (const { name, doc, attributes } of VERBS) {
  lines.push(`| \`${name}\` | ${cell(doc)} | ${attributes.join(', ')} |`);
}
lines.push('', '## Configuration', '');
lines.push(
  'One JSONC file named by `--config` or `TANDEM_CONFIG`; every key also by environment: dots and capitals become',
  'underscores (`sip.listen` is `TANDEM_SIP_LISTEN`), lists are separated by commas. `config/tandem.jsonc` has every key.',
  '',
);
lines.push('| key | default | |', '|---|---|---|');
for (const [key, row] of Object.entries(CONFIG_ROWS) as [string, ConfigRow][]) {
  lines.push(
    `| \`${key}\` | ${cell(JSON.stringify(row.default))} | ${cell(row.doc + describeRow(row))} |`,
  );
}
lines.push(
  '',
  '## Errors',
  '',
  'Whose fault it is decides who is alarmed. The number is what existing apps know.',
  '',
);
lines.push('| code | HTTP | SIP | number | fault | text |', '|---|---|---|---|---|---|');
for (const [code, row] of Object.entries(ERRORS) as [string, ErrorRow][]) {
  const { http, sip, number, fault, text } = row;
  lines.push(`| \`${code}\` | ${http} | ${sip} | ${number ?? ''} | ${fault} | ${cell(text)} |`);
}
const file = new URL('../../README.md', import.meta.url);
const readme = readFileSync(file, 'utf8');
const start = readme.indexOf('## Verbs\n');
const end = readme.indexOf('## Dependencies\n');
writeFileSync(file, `${readme.slice(0, start)}${lines.join('\n')}\n\n${readme.slice(end)}`);
