// A WebSocket echo through the proxy: subprotocol, text and binary, a 2 MB message, fragments, ping, close codes both ways.
import { WebSocket, WebSocketServer } from 'ws';
import { randomBytes } from 'node:crypto';
import { assert, atEnd, check, finish, proxy, tap, TOKEN, until } from './lib.mjs';

const upstream = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: 16e6,
  perMessageDeflate: { threshold: 64 },
  handleProtocols: (offered) => (offered.has('echo.v2') ? 'echo.v2' : false),
});
await new Promise((resolve) => upstream.once('listening', resolve));
atEnd(() => { for (const client of upstream.clients) client.terminate(); upstream.close(); });
const closes = [];
const requests = [];
upstream.on('connection', (socket, request) => {
  requests.push(request);
  socket.on('error', () => {});
  socket.on('close', (code, reason) => closes.push({ code, reason: reason.toString() }));
  socket.on('message', (data, binary) => {
    const text = binary ? '' : data.toString();
    if (text === 'close me') socket.close(4321, 'from the server');
    else if (text === 'vanish') socket.terminate();
    else socket.send(data, { binary });
  });
});

const recorder = await tap(upstream.address().port);
const server = await proxy({ ports: [recorder.port] });
const target = `ws://127.0.0.1:${recorder.port}/echo?a=b%2Fc`;
const plain = target.replace('ws:', 'http:');

/** The ways a WebSocket client can name its target and show its token. */
const ways = server.direct ? { direct: () => new WebSocket(target, ['echo.v2', 'other']) } : {
  'GET /ws': () => new WebSocket(`ws://127.0.0.1:${server.port}/ws?proxy_token=${TOKEN}&mcp_server_url=${encodeURIComponent(plain)}&mcp_token=up-secret`, ['echo.v2', 'other']),
  'path, ws scheme': () => new WebSocket(`ws://127.0.0.1:${server.port}/proxy/${target}`, ['echo.v2'], { headers: { 'x-proxy-token': TOKEN } }),
  'path, http scheme': () => new WebSocket(`ws://127.0.0.1:${server.port}/proxy/${plain}`, ['echo.v2'], { headers: { 'x-proxy-token': TOKEN } }),
  'path, query token': () => new WebSocket(`ws://127.0.0.1:${server.port}/proxy/${plain}&proxy_token=${TOKEN}`, ['echo.v2']),
  header: () => new WebSocket(`ws://127.0.0.1:${server.port}/forward`, ['echo.v2'], { headers: { 'x-proxy-token': TOKEN, 'x-target-url': plain } }),
};

function opened(socket) {
  socket.inbox = [];
  socket.on('message', (data, binary) => socket.inbox.push({ data, binary }));
  socket.on('close', (code, reason) => { socket.ended = { code, reason: reason.toString() }; });
  return new Promise((resolve, reject) => {
    socket.once('open', () => resolve(socket));
    socket.once('unexpected-response', (_request, response) => { reject(new Error(`answered ${response.statusCode}`)); socket.terminate(); });
    socket.once('error', reject);
    atEnd(() => socket.terminate());
  });
}
async function echo(socket, data, options) {
  const before = socket.inbox.length;
  socket.send(data, options);
  await until('the echo', () => socket.inbox.length > before, 15_000, 5);
  return socket.inbox[before];
}

for (const [way, open] of Object.entries(ways)) {
  const socket = await check(`${way}: opens with the subprotocol that the server chose`, async () => {
    const ready = await opened(open());
    assert.equal(ready.protocol, 'echo.v2');
    assert.ok(requests.at(-1).url.startsWith('/echo?a=b%2Fc'), requests.at(-1).url);
    assert.ok(!requests.at(-1).url.includes('proxy_token'));
    return ready;
  });
  if (!socket) continue;
  await check(`${way}: text and binary frames`, async () => {
    const text = await echo(socket, 'Grüße 🌍');
    assert.ok(!text.binary && text.data.toString() === 'Grüße 🌍');
    const bytes = randomBytes(1000);
    const binary = await echo(socket, bytes);
    assert.ok(binary.binary && bytes.equals(binary.data));
    assert.equal((await echo(socket, '')).data.length, 0);
  });
  await check(`${way}: a message of 2 MB each way, byte for byte`, async () => {
    const bytes = randomBytes(2e6);
    const answer = await echo(socket, bytes);
    assert.ok(bytes.equals(answer.data));
  });
  await check(`${way}: a message in fragments, and ping answered by the upstream`, async () => {
    socket.send('one ', { fin: false });
    socket.send('two ', { fin: false });
    assert.equal((await echo(socket, 'three', { fin: true })).data.toString(), 'one two three');
    const pong = new Promise((resolve) => socket.once('pong', resolve));
    socket.ping('are you there');
    assert.equal((await pong).toString(), 'are you there');
  });
  await check(`${way}: compression is negotiated end to end`, async () => {
    assert.ok(socket.extensions.includes('permessage-deflate'));
    assert.equal((await echo(socket, 'z'.repeat(100_000))).data.length, 100_000);
  });
  await check(`${way}: close code 4321 from the client reaches the upstream`, async () => {
    const before = closes.length;
    socket.close(4321, 'from the client');
    await until('both closes', () => closes.length > before && socket.ended);
    assert.deepEqual(closes[before], { code: 4321, reason: 'from the client' });
    assert.equal(socket.ended.code, 4321);
  });
  await check(`${way}: close code 4321 from the upstream reaches the client`, async () => {
    const other = await opened(open());
    other.send('close me');
    await until('the close', () => other.ended);
    assert.deepEqual(other.ended, { code: 4321, reason: 'from the server' });
  });
  await check(`${way}: an upstream that breaks off is a broken connection, not a clean end`, async () => {
    const other = await opened(open());
    other.on('error', () => {});
    other.send('vanish');
    await until('the end', () => other.ended);
    assert.equal(other.ended.code, 1006);
  });
  await check(`${way}: a client that breaks off is gone upstream`, async () => {
    const before = closes.length;
    const other = await opened(open());
    other.on('error', () => {});
    other.terminate();
    await until('the close upstream', () => closes.length > before);
  });
}

if (!server.direct) {
  const refused = (address, protocols, options) => new Promise((resolve, reject) => {
    const socket = new WebSocket(address, protocols, options);
    socket.on('error', () => {});
    socket.once('open', () => { socket.terminate(); reject(new Error('the upgrade was accepted')); });
    socket.once('unexpected-response', (_request, response) => { response.resume(); resolve(response.statusCode); socket.terminate(); });
  });
  await check('a bad token and a forbidden target are refused before 101', async () => {
    const seen = requests.length;
    assert.equal(await refused(`ws://127.0.0.1:${server.port}/ws?proxy_token=${'x'.repeat(40)}&mcp_server_url=${encodeURIComponent(plain)}`, []), 401);
    assert.equal(await refused(`ws://127.0.0.1:${server.port}/ws?mcp_server_url=${encodeURIComponent(plain)}`, []), 401);
    for (const host of ['127.1:22', '2130706433', '[::ffff:127.0.0.1]']) {
      const bad = encodeURIComponent(`http://${host}/`);
      assert.equal(await refused(`ws://127.0.0.1:${server.port}/ws?proxy_token=${TOKEN}&mcp_server_url=${bad}`, []), 403, host);
    }
    assert.equal(requests.length, seen);
  });
  await check('mcp_token is the upstream\'s bearer token', async () => {
    assert.ok(requests.some((request) => request.headers.authorization === 'Bearer up-secret'));
  });
  await check('the token is in no byte sent upstream and in no line that the server printed', async () => {
    assert.ok(recorder.bytes().length > 2e6);
    assert.ok(!recorder.bytes().includes(TOKEN));
    assert.ok(!server.leaks());
  });
}
await finish();
