// The official conformance suite, direct and through the proxy: whatever passes direct must pass through, check by check.
// usage: node conformance.mjs [2025-11-25|2026-07-28 ...]
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { assert, atEnd, check, everything, finish, freePort, HERE, listening, MODULES, node, proxy, tap, TOKEN, viaPath } from './lib.mjs';

const suite = path.join(MODULES, '@modelcontextprotocol/conformance/dist/index.js');
const wanted = process.argv.slice(2);
const out = mkdtempSync(path.join(tmpdir(), 'portcullis-conformance-'));
atEnd(() => rmSync(out, { recursive: true, force: true }));

const old = wanted.length === 0 || wanted.includes('2025-11-25') ? await everything('streamableHttp') : undefined;
const newPort = await freePort();
node([path.join(HERE, 'conformance-server.mjs'), String(newPort)]);
await listening(newPort);
const oldTap = old && (await tap(old.port));
const newTap = await tap(newPort);
const server = await proxy({ ports: [newTap.port, oldTap?.port].filter(Boolean) });

/**
 * The suite's command line sends no headers of its own choosing, so this hop adds the token and names the target. Streams both
 * ways; the Host and Origin that the suite makes up (its DNS rebinding scenario) arrive at the proxy as they are.
 */
async function withHeaders(targetUrl, style) {
  const front = http.createServer((request, response) => {
    const headers = { ...request.headers, 'x-proxy-token': TOKEN };
    let url = '/forward';
    if (style === 'header') headers['x-target-url'] = targetUrl;
    else url = new URL(viaPath(server, targetUrl)).href.slice(server.url.length);
    // What the suite addressed to this hop is addressed to the proxy; a name of its own invention stays.
    if (/^(127\.0\.0\.1|localhost)(:\d+)?$/.test(headers.host ?? '')) headers.host = `127.0.0.1:${server.port}`;
    if (/^http:\/\/(127\.0\.0\.1|localhost)(:\d+)?$/.test(headers.origin ?? '')) headers.origin = `http://127.0.0.1:${server.port}`;
    const upstream = http.request({ host: '127.0.0.1', port: server.port, path: url, method: request.method, headers, agent: false }, (answer) => {
      response.writeHead(answer.statusCode, answer.rawHeaders);
      response.flushHeaders();
      answer.pipe(response);
      answer.on('error', () => response.destroy());
    });
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  });
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve));
  atEnd(() => { front.closeAllConnections(); front.close(); });
  return `http://127.0.0.1:${front.address().port}/mcp`;
}

async function run(url, revision, label) {
  const dir = path.join(out, `${label}-${revision}`);
  const child = node([suite, 'server', '--url', url, '--requirements', revision, '-o', dir], { cwd: out });
  const timer = setTimeout(() => child.kill('SIGKILL'), 240_000);
  await child.ended;
  clearTimeout(timer);
  const verdicts = new Map();
  for (const scenario of readdirSync(dir)) {
    const name = scenario.replace(/^server-/, '').replace(/-\d{4}-\d\d-\d\dT.*$/, '');
    const count = new Map();
    for (const result of JSON.parse(readFileSync(path.join(dir, scenario, 'checks.json'), 'utf8'))) {
      const nth = (count.get(result.id) ?? 0) + 1;
      count.set(result.id, nth);
      verdicts.set(`${name} / ${result.id}${nth > 1 ? ` #${nth}` : ''}`, result);
    }
  }
  return verdicts;
}

const rounds = [
  ...(old ? [{ revision: '2025-11-25', plain: old.port, tapped: oldTap.port }] : []),
  ...(wanted.length === 0 || wanted.includes('2026-07-28') ? [{ revision: '2026-07-28', plain: newPort, tapped: newTap.port }] : []),
];
for (const { revision, plain, tapped } of rounds) {
  const direct = await run(`http://127.0.0.1:${plain}/mcp`, revision, 'direct');
  const good = [...direct].filter(([, result]) => result.status === 'SUCCESS').map(([name]) => name);
  await check(`${revision}: the suite runs direct (${good.length} of ${direct.size} checks pass)`, async () => {
    assert.ok(good.length >= (revision === '2026-07-28' ? 120 : 20), `only ${good.length} pass direct`);
  });
  if (server.direct) continue;
  for (const style of ['path', 'header']) {
    const url = await withHeaders(`http://127.0.0.1:${tapped}/mcp`, style);
    const through = await run(url, revision, style);
    let same = 0;
    for (const name of good) {
      const result = through.get(name);
      if (result?.status === 'SUCCESS') { same += 1; continue; }
      await check(`${revision} by ${style}: ${name}`, async () => {
        assert.fail(result ? `${result.status} ${result.errorMessage ?? ''}` : 'the check is not in the results');
      });
    }
    await check(`${revision} by ${style}: ${same} of ${good.length} checks that pass direct pass through`, async () => {
      assert.equal(same, good.length);
    });
  }
}
if (!server.direct) {
  await check('the token is in no byte sent upstream and in no line that the server printed', async () => {
    assert.ok(newTap.bytes().length > 10_000, 'the recorder saw the traffic');
    assert.ok(!newTap.bytes().includes(TOKEN) && !oldTap?.bytes().includes(TOKEN));
    assert.ok(!server.leaks());
  });
}
await finish();
