// The console of the bundled server in Chromium: every tab by keyboard and pointer, in three shapes. CONSOLE_SHOTS=DIR keeps pictures.
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { assert, atEnd, check, everything, finish, proxy, sleep, TOKEN, until } from './lib.mjs';

if (!process.env.PROXY_BIN) {
  console.log('PROXY_BIN must name the built example mcp_proxy');
  process.exit(2);
}
const shots = process.env.CONSOLE_SHOTS;
if (shots) mkdirSync(shots, { recursive: true });

const seen = [];
let gone = 0;
const nasty = '<img src=x onerror="document.title=\'run\'"><script>document.title="run"</script>';
const origin = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://origin');
  let body = '';
  request.on('data', (data) => { body += data; });
  request.on('end', () => {
    seen.push({ method: request.method, url: request.url, headers: request.headers, body });
    if (url.pathname === '/mcp') answerMcp(request, response, body);
    else if (url.pathname === '/slow') {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.write('first ');
      const timer = setTimeout(() => response.end('second'), 700);
      response.on('close', () => clearTimeout(timer));
    } else if (url.pathname === '/endless') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const timer = setInterval(() => response.write('event: tick\ndata: {"n":1}\n\n'), 50);
      response.on('close', () => { clearInterval(timer); gone += 1; });
    } else if (url.pathname === '/html') response.writeHead(200, { 'content-type': 'text/html', 'x-nasty': '<b>' }).end(nasty);
    else if (url.pathname === '/bytes') response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(Buffer.from([0, 1, 2, 255, 65, 66]));
    else response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ method: request.method, echo: body, accept: request.headers.accept }));
  });
});
const sockets = new WebSocketServer({ server: origin, path: '/echo', handleProtocols: (offered) => (offered.has('echo.v2') ? 'echo.v2' : false) });
sockets.on('connection', (socket, request) => {
  seen.push({ method: 'UPGRADE', url: request.url, headers: request.headers });
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
atEnd(() => { for (const client of sockets.clients) client.terminate(); origin.closeAllConnections(); origin.close(); });
const far = `127.0.0.1:${origin.address().port}`;

const mcp = await everything('streamableHttp');
const PLAIN = `plain-${TOKEN}`;
const server = await proxy({
  ports: [mcp.port, origin.address().port],
  tokenExtra: 'operator = true',
  extra: `[[token]]\nid = "plain"\nsha256 = "${createHash('sha256').update(PLAIN).digest('hex')}"\nrate = "off"\n`,
});

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost'],
});
atEnd(() => browser.close());
console.log(`     Chromium ${browser.version()}`);

const complaints = [];
const outside = [];
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 850 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.on('console', (message) => { if (message.type() === 'error') complaints.push(message.text()); });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => { if (!request.url().startsWith(server.url)) outside.push(request.url()); });
  await page.goto(`${server.url}/console`);
  return page;
}
const shot = async (page, name) => { if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`) }); };
const tab = (page, name) => page.getByRole('tab', { name }).click();
const has = (page, selector, text) => until(`${selector} with ${text}`, async () => (await page.textContent(selector)).includes(text), 10_000, 30);

const page = await open();

await check('the page comes whole, from this server alone, under a strict policy', async () => {
  const answer = await fetch(`${server.url}/console`);
  const policy = answer.headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'/);
  assert.ok(!/unsafe|\*|data:/.test(policy), policy);
  assert.equal(await page.title(), 'portcullis console');
  assert.equal(await page.getByRole('tab').count(), 5);
  assert.deepEqual(outside, []);
  assert.deepEqual(complaints, []);
});
await check('the policy stops inline script, and nothing may be made markup', async () => {
  assert.equal(await page.evaluate(() => {
    const script = document.createElement('script');
    try { script.textContent = 'document.title="run"'; document.body.append(script); } catch { return document.title; }
    return document.title;
  }), 'portcullis console');
  assert.ok(await page.evaluate(() => { try { document.createElement('p').innerHTML = '<b>'; return false; } catch { return true; } }));
  complaints.length = 0;
});
await check('tabs by arrow keys, Home and End', async () => {
  await page.focus('#tab-request');
  const chosen = () => page.evaluate(() => [document.activeElement.id, document.querySelector('[role=tabpanel]:not([hidden])').id]);
  await page.keyboard.press('ArrowRight');
  assert.deepEqual(await chosen(), ['tab-mcp', 'panel-mcp']);
  await page.keyboard.press('End');
  assert.deepEqual(await chosen(), ['tab-live', 'panel-live']);
  await page.keyboard.press('ArrowRight');
  assert.deepEqual(await chosen(), ['tab-request', 'panel-request']);
  await page.keyboard.press('ArrowLeft');
  assert.deepEqual(await chosen(), ['tab-live', 'panel-live']);
  await page.keyboard.press('Home');
  assert.deepEqual(await chosen(), ['tab-request', 'panel-request']);
});
await check('without a token it asks for one, and sends nothing', async () => {
  await page.fill('#request-url', `http://${far}/`);
  const before = seen.length;
  await page.click('#request-send');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
  assert.equal(seen.length, before);
});

// Watched in a second page from here on.
const watcher = await open();
await watcher.fill('#token', TOKEN);
await tab(watcher, 'Live');
await check('live: it says that it watches, and as whom', async () => {
  await watcher.click('#live-start');
  await has(watcher, '#live-status', 'watching');
  await has(watcher, '#live-status', 'as interop');
});

await page.fill('#token', TOKEN);
for (const way of ['path', 'header']) {
  await check(`request by ${way}: Ctrl+Enter sends method, fields and body; JSON is laid out`, async () => {
    await page.selectOption('#request-method', 'POST');
    await page.selectOption('#request-way', way);
    await page.fill('#request-url', `http://${far}/post?way=${way}`);
    await page.fill('#request-headers', 'Accept: text/x-asked');
    await page.fill('#request-body', 'hello from the page');
    await page.keyboard.press('Control+Enter');
    await has(page, '#request-text', '"echo": "hello from the page"');
    await has(page, '#request-status', '200');
    await has(page, '#request-text', 'text/x-asked');
    const last = seen.at(-1);
    assert.deepEqual([last.method, last.url, last.headers.host], ['POST', `/post?way=${way}`, far]);
    assert.equal(last.headers['x-proxy-token'], undefined);
  });
}
await check('the answer is shown as it arrives', async () => {
  await page.selectOption('#request-method', 'GET');
  await page.fill('#request-url', `http://${far}/slow`);
  await page.click('#request-send');
  await has(page, '#request-text', 'first');
  assert.ok(!(await page.textContent('#request-text')).includes('second'), 'not yet');
  await has(page, '#request-status', 'receiving');
  await has(page, '#request-text', 'first second');
});
await check('an event stream shows event by event; Escape aborts it, up to the target', async () => {
  await page.fill('#request-url', `http://${far}/endless`);
  await page.click('#request-send');
  await until('three events', async () => (await page.locator('#request-events li').count()) >= 3);
  await shot(page, 'request-light');
  await page.keyboard.press('Escape');
  await has(page, '#request-status', 'aborted');
  await until('the target to be left', () => gone === 1);
  assert.ok(await page.isDisabled('#request-abort'));
});
await check('markup from a target is text', async () => {
  await page.fill('#request-url', `http://${far}/html`);
  await page.click('#request-send');
  await has(page, '#request-text', nasty);
  assert.equal(await page.title(), 'portcullis console');
  await has(page, '#request-field-list', '<b>');
});
await check('bytes that are not text are shown in hex', async () => {
  await page.fill('#request-url', `http://${far}/bytes`);
  await page.click('#request-send');
  await has(page, '#request-text', '00 01 02 ff 41 42');
});
await check('a refusal is told apart from an answer', async () => {
  await page.fill('#request-url', 'http://169.254.169.254/latest/meta-data/');
  await page.click('#request-send');
  await has(page, '#request-status', '403');
  await has(page, '#request-status', 'from the proxy');
});

for (const way of ['header', 'path']) {
  await check(`MCP by ${way}: connects, lists, and calls with a form`, async () => {
    await tab(page, 'MCP');
    await page.fill('#mcp-url', `http://127.0.0.1:${mcp.port}/mcp`);
    await page.selectOption('#mcp-way', way);
    await page.keyboard.press('Control+Enter');
    await has(page, '#mcp-status', 'connected');
    assert.ok((await page.locator('#mcp-tools li').count()) >= 5);
    await page.fill('#mcp-filter', 'echo');
    await page.locator('#mcp-tools button:visible', { hasText: 'echo' }).first().click();
    await page.fill('#mcp-args input', 'through the form');
    await page.keyboard.press('Control+Enter');
    await has(page, '#mcp-result', 'Echo: through the form');
    await has(page, '#mcp-call-status', 'done');
    await page.fill('#mcp-filter', '');
  });
}
await check('MCP: numbers keep their type; what is missing is said where it is missing', async () => {
  await page.locator('#mcp-tools button', { hasText: /^(get-sum|add)/ }).first().click();
  await page.click('#mcp-send');
  await has(page, '#mcp-call-status', 'not sent');
  await has(page, '#mcp-args .wrong', 'is needed');
  const inputs = page.locator('#mcp-args input');
  await inputs.nth(0).fill('2');
  await inputs.nth(1).fill('3');
  await page.click('#mcp-send');
  await has(page, '#mcp-result', '5');
  await has(page, '#mcp-call-status', 'done');
  await shot(page, 'mcp-light');
});
await check('MCP: the form as JSON and back', async () => {
  await page.check('#mcp-as-json');
  const asked = JSON.parse(await page.inputValue('#mcp-json'));
  assert.deepEqual(Object.values(asked), [2, 3]);
  await page.fill('#mcp-json', JSON.stringify({ ...asked, b: 40 }));
  await page.uncheck('#mcp-as-json');
  assert.equal(await page.locator('#mcp-args input').nth(1).inputValue(), '40');
});
await check('MCP: progress is shown, and a call can be cancelled', async () => {
  await page.locator('#mcp-tools button', { hasText: 'trigger-long-running-operation' }).first().click();
  const inputs = page.locator('#mcp-args input');
  await inputs.nth(0).fill('20');
  await inputs.nth(1).fill('40');
  await page.click('#mcp-send');
  await has(page, '#mcp-call-status', 'of 40');
  await page.click('#mcp-cancel');
  await has(page, '#mcp-call-status', 'cancelled');
});
await check('MCP: a server that answers in plain JSON, in pages, with hostile texts and every kind of argument', async () => {
  await page.click('#mcp-disconnect');
  await page.fill('#mcp-url', `http://${far}/mcp`);
  await page.fill('#mcp-token', 'the-targets-own');
  await page.click('#mcp-connect');
  await has(page, '#mcp-status', 'without a session');
  await has(page, '#mcp-status', nasty);
  assert.equal(await page.locator('#mcp-tools li').count(), 2);
  assert.equal(seen.at(-1).headers.authorization, 'Bearer the-targets-own');
  await page.locator('#mcp-tools button', { hasText: nasty }).click();
  await has(page, '#mcp-tool-text', nasty);
  await page.locator('#mcp-tools button', { hasText: 'everything' }).click();
  await page.getByLabel('text', { exact: false }).first().fill('a');
  const field = (name) => page.locator('#mcp-args .arg', { has: page.locator(`.name:text-is("${name}")`) }).locator('input, select, textarea').first();
  await field('count').fill('3');
  await field('colour').selectOption({ label: 'blue' });
  await field('sure').check();
  await field('list').fill('["x", 1]');
  await field('inner').fill('deep');
  await field('maybe').fill('0.5');
  await page.click('#mcp-send');
  await has(page, '#mcp-call-status', 'done');
  assert.deepEqual(JSON.parse(seen.at(-1).body).params.arguments, { text: 'a', count: 3, colour: 'blue', sure: true, list: ['x', 1], nested: { inner: 'deep' }, maybe: 0.5 });
  assert.ok((await page.locator('#mcp-result').textContent()).includes(nasty));
  await field('count').fill('11');
  await page.click('#mcp-send');
  await has(page, '#mcp-call-status', 'not sent');
  assert.equal(await page.evaluate(() => document.activeElement.closest('.arg').argument.name), 'count');
  await field('count').fill('3');
  await field('list').fill('[1,');
  await page.click('#mcp-send');
  await has(page, '#mcp-call-status', 'list: not JSON');
  assert.equal(await page.title(), 'portcullis console');
});
await check('MCP: a server that is none says so', async () => {
  await page.fill('#mcp-url', `http://${far}/html`);
  await page.click('#mcp-connect');
  await has(page, '#mcp-status', 'not connected');
  await page.fill('#mcp-url', 'http://10.0.0.1/mcp');
  await page.click('#mcp-connect');
  await has(page, '#mcp-status', '403: Target not allowed');
  await page.fill('#mcp-token', '');
  await page.fill('#mcp-url', `http://127.0.0.1:${mcp.port}/mcp`);
  await page.click('#mcp-connect');
  await has(page, '#mcp-status', 'with a session');
});
await check('MCP: disconnecting ends the session', async () => {
  await page.click('#mcp-disconnect');
  await has(page, '#mcp-log', 'notifications/cancelled');
  assert.ok(await page.isHidden('#mcp-session'));
});

for (const [way, protocols] of [['path', 'echo.v2'], ['path', ''], ['ws', 'echo.v2']]) {
  await check(`WebSocket by ${way}${protocols && ` with ${protocols}`}: open, send, receive, close`, async () => {
    await tab(page, 'WebSocket');
    await page.fill('#socket-url', `ws://${far}/echo`);
    await page.fill('#socket-protocols', protocols);
    await page.selectOption('#socket-way', way);
    await page.click('#socket-open');
    await has(page, '#socket-status', 'open');
    await has(page, '#socket-status', protocols || 'no subprotocol');
    const text = `over ${way} ${protocols}`;
    await page.fill('#socket-text', text);
    await page.keyboard.press('Control+Enter');
    await until('the echo', async () => (await page.locator('#socket-log li.in', { hasText: text }).count()) >= 1);
    await page.click('#socket-close');
    await has(page, '#socket-status', 'closed 1000');
  });
}
await check('WebSocket: a refused one says so', async () => {
  await page.fill('#socket-url', 'ws://10.0.0.1/');
  await page.click('#socket-open');
  await has(page, '#socket-status', 'refused');
  complaints.length = 0;
});
await shot(page, 'socket-light');

await check('explain: every rule, the one that decides, and the addresses', async () => {
  await tab(page, 'Explain');
  await page.fill('#explain-url', `http://${far}/x`);
  await page.keyboard.press('Control+Enter');
  await has(page, '#explain-results .card', 'allowed');
  await has(page, '#explain-results .card', far);
  await page.fill('#explain-url', 'http://0x7f.1:22/');
  await page.keyboard.press('Control+Enter');
  await has(page, '#explain-results .card', 'refused: port');
  await page.fill('#explain-url', 'http://[::ffff:169.254.169.254]/latest');
  await page.keyboard.press('Control+Enter');
  await has(page, '#explain-results .card .decides', 'address');
  assert.equal(await page.locator('#explain-results .card').count(), 3);
  await shot(page, 'explain-light');
});
await check('explain and live are for operators', async () => {
  await page.fill('#token', PLAIN);
  await page.click('#explain-ask');
  await has(page, '#explain-status', '403');
  await tab(page, 'Live');
  await page.click('#live-start');
  await has(page, '#live-status', '403');
  await page.fill('#token', TOKEN);
  complaints.length = 0;
});

await check('live: the records of all that, the refusals by reason, and figures', async () => {
  await has(watcher, '#live-rows', '/post');
  await has(watcher, '#live-rows', `127.0.0.1:${mcp.port}`);
  await has(watcher, '#live-reasons', 'address');
  for (let i = 0; i < 60; i += 1) {
    await fetch(`${server.url}/proxy/http://${far}/x${i}`, { headers: { 'x-proxy-token': TOKEN } }).then((r) => r.text());
    if (i % 6 === 0) await fetch(`${server.url}/proxy/http://10.0.0.1/`, { headers: { 'x-proxy-token': TOKEN } }).then((r) => r.text());
    if (i % 15 === 0) await sleep(700);
  }
  await has(watcher, '#live-rows', '/x59');
  await until('bars', async () => (await watcher.locator('#live-rate rect.done').count()) >= 2);
  assert.ok((await watcher.getAttribute('#live-latency', 'aria-label')).includes('ms'));
  await watcher.fill('#live-filter', '/x59');
  await until('one row', async () => (await watcher.locator('#live-rows tr').count()) === 1);
  await watcher.fill('#live-filter', '');
  await shot(watcher, 'live-light');
});
await check('live: frozen, the table stands still', async () => {
  await watcher.check('#live-freeze');
  await fetch(`${server.url}/proxy/http://${far}/frozen`, { headers: { 'x-proxy-token': TOKEN } }).then((r) => r.text());
  await until('it to be counted', async () => /\d+ records/.test(await watcher.textContent('#live-status')));
  await sleep(1200);
  assert.ok(!(await watcher.textContent('#live-rows')).includes('/frozen'));
  await watcher.uncheck('#live-freeze');
  await has(watcher, '#live-rows', '/frozen');
  await watcher.click('#live-stop');
  await has(watcher, '#live-status', 'stopped');
});

for (const [name, options] of [
  ['dark', { colorScheme: 'dark' }],
  ['narrow', { viewport: { width: 360, height: 740 }, hasTouch: true }],
  ['narrow-dark', { viewport: { width: 360, height: 740 }, colorScheme: 'dark' }],
]) {
  await check(`${name}: nothing is wider than the screen, and text is readable`, async () => {
    const other = await open(options);
    await other.fill('#token', TOKEN);
    for (const [label, id] of [['Request', 'request'], ['MCP', 'mcp'], ['WebSocket', 'socket'], ['Explain', 'explain'], ['Live', 'live']]) {
      await tab(other, label);
      if (id === 'request') {
        await other.fill('#request-url', `http://${far}/json?${'long'.repeat(40)}`);
        await other.click('#request-send');
        await has(other, '#request-status', '200');
        await other.click('#request-fields summary');
      } else if (id === 'mcp') {
        await other.fill('#mcp-url', `http://127.0.0.1:${mcp.port}/mcp`);
        await other.click('#mcp-connect');
        await has(other, '#mcp-status', 'connected');
        await other.locator('#mcp-tools button', { hasText: 'get-annotated-message' }).first().click();
        await other.click('#mcp-send');
        await has(other, '#mcp-call-status', 'done');
      } else if (id === 'socket') {
        await other.fill('#socket-url', `ws://${far}/echo`);
        await other.click('#socket-open');
        await has(other, '#socket-status', 'open');
        await other.fill('#socket-text', 'hello');
        await other.click('#socket-send');
        await has(other, '#socket-log', '←');
      } else if (id === 'explain') {
        await other.fill('#explain-url', 'http://169.254.169.254/');
        await other.click('#explain-ask');
        await has(other, '#explain-results', 'refused');
      } else {
        await other.click('#live-start');
        await has(other, '#live-status', 'watching');
        for (let i = 0; i < 20; i += 1) await fetch(`${server.url}/proxy/http://${i % 4 ? far : '10.0.0.1'}/n${i}`, { headers: { 'x-proxy-token': TOKEN } }).then((r) => r.text());
        await has(other, '#live-rows', '/n19');
      }
      const wide = await other.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide[0] <= wide[1], `${label}: ${wide}`);
      const low = await other.evaluate(contrasts);
      assert.deepEqual(low, [], `${label}: contrast below 4.5`);
      await shot(other, `${id}-${name}`);
    }
    await other.context().close();
  }, 60_000);
}
await check('light: text is readable', async () => {
  for (const label of ['Request', 'MCP', 'WebSocket', 'Explain']) {
    await tab(page, label);
    assert.deepEqual(await page.evaluate(contrasts), [], label);
  }
});
await check('whoever tabs sees where he is', async () => {
  await tab(page, 'Request');
  await page.focus('#token');
  for (let i = 0; i < 9; i += 1) {
    await page.keyboard.press('Tab');
    const [id, outline] = await page.evaluate(() => [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]);
    assert.equal(outline, 'solid', id);
  }
});
await check('the token is stored nowhere: not after a reload, in no storage, no history, no upstream, no output', async () => {
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href]);
  assert.deepEqual(kept.slice(0, 3), [0, 0, '']);
  assert.ok(!kept[3].includes(TOKEN));
  await page.reload();
  assert.equal(await page.inputValue('#token'), '');
  assert.ok(!JSON.stringify(seen).includes(TOKEN));
  assert.ok(!server.leaks());
});
await check('nothing was asked of any other server, and the browser had nothing to complain of', async () => {
  assert.deepEqual(outside, []);
  assert.deepEqual(complaints.filter((text) => !/status of 4\d\d/.test(text)), []);
});
await finish();

/** A stateless MCP server with the worst of tools. */
function answerMcp(request, response, body) {
  const message = JSON.parse(body || '{}');
  const reply = (result) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id: message.id, result }));
  if (message.id === undefined) response.writeHead(202).end();
  else if (message.method === 'initialize') reply({ protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: nasty, version: '1' } });
  else if (message.method === 'tools/list') {
    if (!message.params.cursor) return void reply({ tools: [{ name: nasty, description: nasty, inputSchema: { type: 'object' } }], nextCursor: 'more' });
    const properties = {
      text: { type: 'string' }, count: { $ref: '#/$defs/small' }, colour: { enum: ['red', 'blue'] }, sure: { type: 'boolean', default: false },
      list: { type: 'array', items: { type: 'string' } }, nested: { type: 'object', properties: { inner: { type: 'string' }, other: { type: 'string' } } },
      maybe: { anyOf: [{ type: 'number' }, { type: 'null' }] }, unsaid: {}, never: { type: ['string', 'null'] },
    };
    reply({ tools: [{ name: 'everything', inputSchema: { type: 'object', properties, required: ['text', 'count'], $defs: { small: { type: 'integer', minimum: 1, maximum: 10 } } } }] });
  } else reply({ content: [{ type: 'text', text: nasty }, { type: 'image', mimeType: 'image/png', data: 'AAAA' }] });
  return undefined;
}

/** Texts in sight whose contrast with what is behind them is below WCAG's 4.5. Runs in the page. */
function contrasts() {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility() || element.disabled || element.classList.contains('busy')) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName}#${element.id}.${element.className} ${ratio.toFixed(2)} ${element.textContent.slice(0, 20)}`);
  }
  return low;
}
