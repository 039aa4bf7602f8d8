// Chromium, with the official clients in a page of one loopback origin and the proxy on another.
import { build } from 'esbuild';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Client as ClientV2, StreamableHTTPClientTransport as HttpV2, UnauthorizedError } from '@modelcontextprotocol/client';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { assert, atEnd, check, everything, finish, freePort, HERE, listening, node, proxy, sleep, TOKEN, tap, until } from './lib.mjs';

if (!process.env.PROXY_BIN) {
  console.log('PROXY_BIN must name the built example mcp_proxy');
  process.exit(2);
}
const scratch = mkdtempSync(path.join(tmpdir(), 'portcullis-browser-'));
atEnd(() => rmSync(scratch, { recursive: true, force: true }));
const bundle = (entry, platform, outfile) => build({
  entryPoints: [path.join(HERE, 'browser', entry)], bundle: true, format: 'esm', platform, outfile: path.join(scratch, outfile), logLevel: 'error',
  define: platform === 'browser' ? { 'process.env.NODE_ENV': '"production"' } : {},
});
await bundle('page.ts', 'browser', 'page.js');
await bundle('oauth.ts', 'node', 'wrapper.mjs');
const { readFileSync } = await import('node:fs');
const script = readFileSync(path.join(scratch, 'page.js'));

/** A server for pages of an app; two of them are two origins. */
async function pages() {
  const server = http.createServer((request, response) => {
    if (request.url === '/page.js') response.writeHead(200, { 'content-type': 'text/javascript' }).end(script);
    else if (request.url === '/') response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><title>app</title><script type=module src=/page.js></script>');
    else response.writeHead(404).end();
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => { server.closeAllConnections(); server.close(); });
  return `http://127.0.0.1:${server.address().port}`;
}
const app = await pages();
const stranger = await pages();

/** A hostile and helpful origin: pages with scripts, cookies and policies of its own, events, and a WebSocket echo. */
const requests = [];
const hostile = {
  'set-cookie': 'planted=1; path=/', 'strict-transport-security': 'max-age=99', 'clear-site-data': '"*"', 'service-worker-allowed': '/',
  'alt-svc': 'h3=":1"', 'access-control-allow-origin': '*', 'access-control-allow-credentials': 'true', 'refresh': '0; url=/ran?refresh',
};
const origin = http.createServer((request, response) => {
  requests.push({ method: request.method, url: request.url, headers: request.headers });
  const url = new URL(request.url, 'http://origin');
  const here = `http://127.0.0.1:${origin.address().port}`;
  const run = `fetch('${here}/ran?fetch',{mode:'no-cors'});new Image().src='${here}/ran?image'`;
  if (url.pathname === '/page.html') response.writeHead(200, { ...hostile, refresh: '', 'content-type': 'text/html' }).end(`<!doctype html><title>x</title><body><script>${run}</script><svg onload="${run}"></svg>`);
  else if (url.pathname === '/page.svg') response.writeHead(200, { 'content-type': 'image/svg+xml' }).end(`<svg xmlns="http://www.w3.org/2000/svg"><script>${run}</script></svg>`);
  else if (url.pathname === '/untyped') response.writeHead(200, {}).end(`<!doctype html><script>${run}</script>`);
  else if (url.pathname === '/worker.js') response.writeHead(200, { ...hostile, refresh: '', 'content-type': 'text/javascript' }).end('self.x=1');
  else if (url.pathname === '/csp') response.writeHead(200, { 'content-type': 'text/html', 'content-security-policy': 'sandbox allow-scripts allow-same-origin' }).end(`<script>${run}</script>`);
  else if (url.pathname === '/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: one\n\n');
    const timer = setTimeout(() => response.write('data: two\n\n'), 200);
    response.on('close', () => clearTimeout(timer));
  } else if (url.pathname === '/plain') response.writeHead(200, { ...hostile, refresh: '', 'retry-after': '7', 'content-type': 'text/plain' }).end('plain');
  else response.writeHead(204).end();
});
const sockets = new WebSocketServer({ server: origin, path: '/echo', handleProtocols: (offered) => (offered.has('echo.v2') ? 'echo.v2' : false) });
sockets.on('connection', (socket, request) => {
  requests.push({ method: 'UPGRADE', url: request.url, headers: request.headers });
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
atEnd(() => { for (const client of sockets.clients) client.terminate(); origin.closeAllConnections(); origin.close(); });
const originPort = origin.address().port;
const far = `http://127.0.0.1:${originPort}`;

const streamable = await everything('streamableHttp');
const streamableTap = await tap(streamable.port);
const modernPort = await freePort();
node([path.join(HERE, 'conformance-server.mjs'), String(modernPort)]);
await listening(modernPort);
const authorization = await authorizationServer();
const server = await proxy({ ports: [streamableTap.port, modernPort, originPort, authorization.port], origins: [app] });
const mcp = `http://127.0.0.1:${streamableTap.port}/mcp`;
const modern = `http://127.0.0.1:${modernPort}/mcp`;

const profile = path.join(scratch, 'profile');
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost'],
});
atEnd(() => browser.close());
console.log(`     Chromium ${browser.browser()?.version() ?? ''}`);

const open = async (base) => {
  const page = await browser.newPage();
  await page.goto(`${base}/`);
  await page.waitForFunction(() => typeof globalThis.tryFetch === 'function');
  return page;
};
const mine = await open(app);
const theirs = await open(stranger);

for (const [way, kind] of [['byHeader', 'v2'], ['byHeader', 'v1'], ['byPath', 'v2'], ['byPath', 'v1']]) {
  await check(`${way} with ${kind === 'v1' ? 'sdk 1.32' : 'client 2.4'}: tools/list, tools/call, progress, DELETE`, async () => {
    const got = await mine.evaluate(([fn, ...args]) => globalThis[fn](...args),
      [way, server.url, TOKEN, mcp, kind, 'echo', { message: 'from Chromium' }, 'trigger-long-running-operation']);
    assert.ok(got.tools.includes('echo'));
    assert.equal(got.text, 'Echo: from Chromium');
    assert.ok(got.progress.length >= 2, `progress ${got.progress}`);
    assert.match(got.session, /^[0-9a-f-]{36}$/);
    assert.ok(streamableTap.bytes().includes('DELETE /mcp'), 'the DELETE arrived');
  });
}
for (const way of ['byHeader', 'byPath']) {
  await check(`${way} with client 2.4: the 2026-07-28 revision, without a downgrade`, async () => {
    const got = await mine.evaluate(([fn, ...args]) => globalThis[fn](...args), [way, server.url, TOKEN, modern, 'v2', 'test_simple_text', {}, 'test_tool_with_progress']);
    assert.equal(got.version, '2026-07-28');
    assert.match(got.text, /simple text response/);
    assert.deepEqual(got.progress, [0, 50, 100]);
  });
}

await check('headers that nobody knew beforehand pass the preflight and arrive (Mcp-Param-*)', async () => {
  const headers = { 'x-proxy-token': TOKEN, 'x-target-url': `${far}/plain`, 'mcp-param-region': '=?base64?bcO8bmNoZW4=?=', 'mcp-method': 'tools/call', 'mcp-name': 'x', 'content-type': 'application/json' };
  const got = await mine.evaluate(([url, options]) => globalThis.tryFetch(url, options), [`${server.url}/forward`, { method: 'POST', body: '{}', headers }]);
  assert.equal(got.status, 200, JSON.stringify(got));
  const seen = requests.at(-1);
  for (const name of ['mcp-param-region', 'mcp-method', 'mcp-name']) assert.equal(seen.headers[name], headers[name]);
});
await check('the upstream sees nothing of the browser: no Origin, Referer, Sec-, Cookie', async () => {
  const head = streamableTap.bytes().toString('latin1');
  assert.ok(head.length > 3000);
  for (const name of ['origin:', 'referer:', 'sec-', 'cookie:', 'x-proxy-token', 'x-target-url']) {
    assert.ok(!new RegExp(`\r\n${name}`, 'i').test(head), name);
  }
});
await check('a page of another origin cannot use the proxy, and nothing reaches the upstream', async () => {
  const before = requests.length;
  for (const init of [{ headers: { 'x-proxy-token': TOKEN } }, { method: 'POST', body: 'x', headers: { 'x-proxy-token': TOKEN } }, { mode: 'no-cors' }]) {
    const got = await theirs.evaluate(([url, options]) => globalThis.tryFetch(url, options), [`${server.url}/proxy/${far}/plain`, init]);
    assert.ok(got.error || got.status === 0, JSON.stringify(got));
  }
  assert.equal(requests.length, before);
});
await check('a page of another origin cannot open events or a WebSocket, even with the token', async () => {
  const before = requests.length;
  assert.deepEqual(await theirs.evaluate((url) => globalThis.events(url, 1), `${server.url}/proxy/${far}/events?proxy_token=${TOKEN}`), ['error']);
  const got = await theirs.evaluate((url) => globalThis.talk(url, ['echo.v2'], 'hello'), `ws://127.0.0.1:${server.port}/proxy/${far}/echo?proxy_token=${TOKEN}`);
  assert.equal(got.code, 1006);
  assert.equal(requests.length, before);
});
await check('exposed headers can be read, the upstream\'s own CORS headers are gone', async () => {
  const got = await mine.evaluate(([url, options, wanted]) => globalThis.tryFetch(url, options, wanted),
    [`${server.url}/proxy/${far}/plain`, { headers: { 'x-proxy-token': TOKEN } }, ['retry-after', 'ratelimit']]);
  assert.equal(got.status, 200, JSON.stringify(got));
  assert.equal(got.headers['retry-after'], '7');
  const refused = await mine.evaluate(([url, options, wanted]) => globalThis.tryFetch(url, options, wanted),
    [`${server.url}/proxy/${far}/plain`, { headers: { 'x-proxy-token': 'x'.repeat(40) } }, ['www-authenticate']]);
  assert.equal(refused.status, 401, 'a refusal can be read too');
  assert.ok(refused.headers['www-authenticate']);
});

// What a browser's engine would hide is asked by a plain client.
const plain = (method, target, headers) => new Promise((resolve, reject) => {
  const request = http.request({ host: '127.0.0.1', port: server.port, method, path: target, headers, agent: false }, (answer) => {
    let text = '';
    answer.on('data', (data) => { text += data; });
    answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, raw: answer.rawHeaders, text }));
  });
  request.on('error', reject).end();
});
const preflight = { origin: app, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type,mcp-param-region,mcp-protocol-version,x-proxy-token,x-target-url' };
await check('a preflight is answered before authentication, with the requested headers and for this origin only', async () => {
  const answer = await plain('OPTIONS', '/forward', preflight);
  assert.ok(answer.status === 200 || answer.status === 204, `${answer.status}`);
  assert.equal(answer.headers['access-control-allow-origin'], app);
  for (const name of preflight['access-control-request-headers'].split(',')) assert.ok(answer.headers['access-control-allow-headers'].toLowerCase().includes(name), name);
  assert.match(answer.headers['access-control-allow-methods'], /DELETE/);
  assert.match(answer.headers.vary ?? '', /origin/i);
  const foreign = await plain('OPTIONS', '/forward', { ...preflight, origin: stranger });
  assert.equal(foreign.headers['access-control-allow-origin'], undefined);
});
await check('a preflight for a private network is granted to an allowed origin only', async () => {
  const asked = { ...preflight, 'access-control-request-private-network': 'true' };
  assert.equal((await plain('OPTIONS', '/forward', asked)).headers['access-control-allow-private-network'], 'true');
  assert.equal((await plain('OPTIONS', '/forward', { ...asked, origin: stranger })).headers['access-control-allow-private-network'], undefined);
});
await check('a foreign Origin is 403, a foreign Host 421, `null` is no origin', async () => {
  const auth = { 'x-proxy-token': TOKEN };
  assert.equal((await plain('GET', `/proxy/${far}/plain`, { ...auth, origin: stranger })).status, 403);
  assert.equal((await plain('GET', `/proxy/${far}/plain`, { ...auth, origin: 'null' })).status, 403);
  assert.equal((await plain('GET', `/proxy/${far}/plain`, { ...auth, host: 'rebound.example' })).status, 421);
});
await check('the headers of a proxied page', async () => {
  const answer = await plain('GET', `/proxy/${far}/page.html`, { 'x-proxy-token': TOKEN, origin: app });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers['x-content-type-options'], 'nosniff');
  assert.match(answer.headers['content-security-policy'], /sandbox/);
  assert.doesNotMatch(answer.headers['content-security-policy'], /allow-scripts/);
  for (const name of ['set-cookie', 'strict-transport-security', 'clear-site-data', 'service-worker-allowed', 'alt-svc']) assert.equal(answer.headers[name], undefined, name);
  assert.equal(answer.raw.filter((name) => name.toLowerCase() === 'access-control-allow-origin').length, 1);
  assert.equal(answer.headers['access-control-allow-credentials'], undefined);
});
await check('a proxied page runs no script on the proxy\'s origin and plants no cookie', async () => {
  const page = await browser.newPage();
  const ran = () => requests.filter((request) => request.url.startsWith('/ran')).length;
  const before = ran();
  await page.goto(`${far}/page.html`);
  await sleep(500);
  assert.ok(ran() > before, 'straight from its own origin the page does run: the check can fail');
  await browser.clearCookies();
  await page.route(`${server.url}/**`, (route, request) => route.continue({ headers: { ...request.headers(), 'x-proxy-token': TOKEN } }));
  for (const place of ['page.html', 'page.svg', 'untyped', 'csp']) {
    const count = ran();
    const answer = await page.goto(`${server.url}/proxy/${far}/${place}`).catch((error) => { if (!/ERR_ABORTED|Download/.test(String(error))) throw error; });
    if (answer) assert.equal(answer.status(), 200, place);
    await sleep(400);
    assert.equal(ran(), count, `${place} ran`);
  }
  assert.deepEqual((await browser.cookies()).filter((cookie) => cookie.name === 'planted'), []);
  await page.close();
});
await check('EventSource with the token in the query: events arrive, the upstream sees no token', async () => {
  assert.deepEqual(await mine.evaluate((url) => globalThis.events(url, 2), `${server.url}/proxy/${far}/events?a=b&proxy_token=${TOKEN}`), ['one', 'two']);
  const seen = requests.findLast((request) => request.url.startsWith('/events'));
  assert.equal(seen.url, '/events?a=b');
});
const carrier = `base64url.bearer.authorization.portcullis.${Buffer.from(TOKEN).toString('base64url')}`;
await check('WebSocket with the token as a subprotocol beside a real one', async () => {
  const got = await mine.evaluate(([url, protocols]) => globalThis.talk(url, protocols, 'hello'), [`ws://127.0.0.1:${server.port}/proxy/${far}/echo`, [carrier, 'echo.v2']]);
  assert.deepEqual(got, { protocol: 'echo.v2', heard: 'hello' });
  const seen = requests.findLast((request) => request.method === 'UPGRADE');
  assert.equal(seen.headers['sec-websocket-protocol'], 'echo.v2');
});
await check('WebSocket with the token as its only subprotocol', async () => {
  const got = await mine.evaluate(([url, protocols]) => globalThis.talk(url, protocols, 'hello'), [`ws://127.0.0.1:${server.port}/proxy/${far}/echo`, [carrier]]);
  assert.equal(got.heard, 'hello', JSON.stringify(got));
  const seen = requests.findLast((request) => request.method === 'UPGRADE');
  assert.equal(seen.headers['sec-websocket-protocol'], undefined);
});
await check('OAuth through the wrapper: the same requests reach the servers as direct', async () => {
  const { proxyFetch } = await import(pathToFileURL(path.join(scratch, 'wrapper.mjs')));
  const direct = await authorization.flow(undefined);
  const through = await authorization.flow(proxyFetch(server.url, TOKEN));
  assert.ok(direct.length >= 6, direct.join(' | '));
  assert.deepEqual(through, direct);
}, 40_000);
await check('the token is in nothing the upstreams saw and in no line that the server printed', async () => {
  assert.ok(!JSON.stringify(requests).includes(TOKEN));
  assert.ok(!streamableTap.bytes().includes(TOKEN));
  assert.ok(!server.leaks());
});
await finish();

/** An MCP server that wants OAuth, and its authorization server, in one: enough for discovery, registration and a code. */
async function authorizationServer() {
  let log = [];
  const web = http.createServer((request, response) => {
    let body = '';
    request.on('data', (data) => { body += data; });
    request.on('end', () => {
      const base = `http://127.0.0.1:${web.address().port}`;
      const url = new URL(request.url, base);
      const what = url.pathname === '/mcp' ? JSON.parse(body || '{}').method ?? '' : '';
      const form = request.headers['content-type']?.includes('form') ? [...new URLSearchParams(body)].filter(([name]) => !/verifier|challenge|state/.test(name)).join('&') : '';
      log.push(`${request.method} ${url.pathname} ${what}${form} ${request.headers.authorization ?? ''}`.trim());
      const json = (status, value, headers = {}) => response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
      if (url.pathname.startsWith('/.well-known/oauth-protected-resource')) return json(200, { resource: `${base}/mcp`, authorization_servers: [base] });
      if (url.pathname.startsWith('/.well-known/oauth-authorization-server')) {
        return json(200, {
          issuer: base, authorization_endpoint: `${base}/authorize`, token_endpoint: `${base}/token`, registration_endpoint: `${base}/register`,
          response_types_supported: ['code'], code_challenge_methods_supported: ['S256'], token_endpoint_auth_methods_supported: ['none'],
        });
      }
      if (url.pathname === '/register') return json(201, { ...JSON.parse(body), client_id: 'client-1' });
      if (url.pathname === '/token') return json(200, { access_token: 'granted', token_type: 'Bearer', expires_in: 3600 });
      if (url.pathname === '/mcp' && request.headers.authorization !== 'Bearer granted') {
        return json(401, {}, { 'www-authenticate': `Bearer resource_metadata="${base}/.well-known/oauth-protected-resource/mcp"` });
      }
      if (request.method !== 'POST') return json(405, {});
      const message = JSON.parse(body);
      if (message.id === undefined) return response.writeHead(202).end();
      return json(200, { jsonrpc: '2.0', id: message.id, result: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'oauth', version: '1' }, tools: [] } });
    });
  });
  await new Promise((resolve) => web.listen(0, '127.0.0.1', resolve));
  atEnd(() => { web.closeAllConnections(); web.close(); });
  const base = `http://127.0.0.1:${web.address().port}`;
  const flow = async (wrapped) => {
    log = [];
    const kept = {};
    const authProvider = {
      redirectUrl: `${app}/callback`,
      clientMetadata: { redirect_uris: [`${app}/callback`], client_name: 'interop', token_endpoint_auth_method: 'none' },
      clientInformation: () => kept.client,
      saveClientInformation: (client) => { kept.client = client; },
      tokens: () => kept.tokens,
      saveTokens: (tokens) => { kept.tokens = tokens; },
      redirectToAuthorization: (url) => { kept.url = url; },
      saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
      codeVerifier: () => kept.verifier,
    };
    const options = { authProvider, ...(wrapped ? { fetch: wrapped } : {}) };
    const first = new HttpV2(new URL(`${base}/mcp`), options);
    const client = () => new ClientV2({ name: 'oauth', version: '1' }, { versionNegotiation: { mode: 'legacy' } });
    await assert.rejects(client().connect(first), (error) => error instanceof UnauthorizedError || /auth/i.test(String(error)));
    assert.equal(kept.url?.origin, base);
    assert.equal(kept.url.searchParams.get('resource'), `${base}/mcp`);
    await first.finishAuth('the-code');
    const second = client();
    await second.connect(new HttpV2(new URL(`${base}/mcp`), options));
    // The client does not wait for the event stream that it asks for: the next request, or its end, can overtake it.
    await until('the event stream to be asked for', () => log.some((line) => line.startsWith('GET /mcp ')));
    await second.listTools();
    await second.close();
    return log.map((line) => line.replace(/\s+/g, ' '));
  };
  return { port: web.address().port, flow };
}
