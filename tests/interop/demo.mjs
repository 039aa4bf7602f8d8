// `mcp_proxy --demo`: every line that it prints to be pasted into a shell is run in one, and answers.
import { execFile } from 'node:child_process';
import { assert, check, finish, freePort, start, until } from './lib.mjs';

const port = await freePort();
const server = start(process.env.PROXY_BIN, ['--demo', '--listen', `127.0.0.1:${port}`], { env: { PROXY_TOKEN: '', HOST: '', PORT: '' } });
const lines = await until('the lines to paste', () => {
  const found = server.output.split('\n').filter((line) => line.startsWith('curl '));
  return found.length >= 5 && server.output.endsWith('\n') && found;
});
const shell = (line) => new Promise((resolve) => {
  execFile('bash', ['-c', line], { timeout: 15_000 }, (error, out, err) => resolve({ code: error?.code ?? 0, out, err }));
});
const tokens = new Set(lines.map((line) => /(?:X-Proxy-Token: |proxy_token=)([^'&]+)/.exec(line)?.[1]));
await check('one token is printed, of 32 characters at least', async () => {
  assert.equal(tokens.size, 1);
  assert.ok([...tokens][0].length >= 32);
});
const wanted = [
  ['by path', (line) => line.includes('/proxy/http'), /"serverInfo"/],
  ['by header', (line) => line.includes('X-Target-Url'), /"serverInfo"/],
  ['by envelope, echo', (line) => line.includes('"mcp_server_url"') && line.includes('echo'), /hello/],
  ['by envelope, a second call in the same session', (line) => line.includes('"mcp_server_url"') && line.includes('add'), /"text":\s*"5"|\b5\b/],
  ['a WebSocket', (line) => line.includes('/ws?'), /^HTTP\/1\.1 101 /],
];
for (const [name, which, answer] of wanted) {
  await check(`the printed line answers: ${name}`, async () => {
    const line = lines.find(which);
    assert.ok(line, 'the line is printed');
    const got = await shell(line);
    assert.match(got.out, answer, `exit ${got.code}: ${got.out} ${got.err}`);
  });
}
await check('no printed line is left out here', async () => {
  assert.deepEqual(lines.filter((line) => !wanted.some(([, which]) => which(line))), []);
});
await check('the same lines without their token are refused', async () => {
  const got = await shell(lines[0].replace([...tokens][0], 'x'.repeat(40)).replace('curl -sS', 'curl -sS -o /dev/null -w "%{http_code}"'));
  assert.equal(got.out, '401');
});
await check('no address but the demo\'s own is open', async () => {
  const closed = lines[0].replace(/127\.0\.0\.1:\d+\/mcp/, '127.0.0.1:1/mcp').replace('curl -sS', 'curl -sS -o /dev/null -w "%{http_code}"');
  assert.equal((await shell(closed)).out, '403');
});
await finish();
