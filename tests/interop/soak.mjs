// Mixed traffic for a long time (SOAK_SECONDS, 600 unless said otherwise) against the built server: plain requests, uploads,
// event streams, WebSockets, refusals, targets that fail and clients that leave early. At the end nothing may be left: resident
// size and descriptors are back where they were after the warm-up, and the server says that nothing is open.
import { readFileSync, readdirSync } from 'node:fs';
import http from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import { assert, atEnd, check, finish, freePort, proxy, sleep, TOKEN, until } from './lib.mjs';

const SECONDS = Number(process.env.SOAK_SECONDS ?? 600);
const WORKERS = Number(process.env.SOAK_WORKERS ?? 24);
/** What an allocator may keep for itself. */
const SLACK = 6 << 20;

const big = Buffer.alloc(300_000, 'x');
const origin = http.createServer((request, response) => {
  const sized = /\/sized\/(\d+)/.exec(request.url);
  if (sized) {
    response.setHeader('content-length', sized[1]);
    response.end(big.subarray(0, Number(sized[1])));
  } else if (request.url.startsWith('/echo')) {
    let bytes = 0;
    request.on('data', (data) => { bytes += data.length; });
    request.on('end', () => response.end(String(bytes)));
  } else if (request.url.startsWith('/events')) {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let n = 0;
    const timer = setInterval(() => {
      n += 1;
      response.write(`id: ${n}\ndata: {"n":${n}}\n\n`);
      if (n === 5 && request.url.endsWith('/end')) response.end();
    }, 20);
    response.on('close', () => clearInterval(timer));
  } else if (request.url.startsWith('/break')) {
    response.writeHead(200, { 'content-length': 1000 });
    response.write('some');
    setTimeout(() => response.destroy(), 10);
  } else if (request.url.startsWith('/silent')) {
    response.on('close', () => {});
  } else {
    response.statusCode = 404;
    response.end('nothing here');
  }
});
origin.keepAliveTimeout = 2000;
await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
const sockets = new WebSocketServer({ server: origin });
sockets.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, binary) => {
    if (data.length === 4 && data.toString() === 'gone') socket.terminate();
    else socket.send(data, { binary });
  });
});
atEnd(() => { for (const socket of sockets.clients) socket.terminate(); origin.closeAllConnections(); origin.close(); });

const closed = await freePort();
const port = origin.address().port;
const server = await proxy({ ports: [port, closed], extra: '' });
assert(!server.direct, 'PROXY_BIN names the server under test');
const target = `http://127.0.0.1:${port}`;

const agent = new http.Agent({ keepAlive: true, maxSockets: WORKERS });
atEnd(() => agent.destroy());

/** One request; resolves to status and length, or rejects when the answer breaks off. `leave` ends it from here. */
function ask(method, url, { body, leave, own = false, key = { 'x-proxy-token': TOKEN } } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({
      host: '127.0.0.1', port: server.port, method, path: `/proxy/${url}`, agent: own ? false : agent,
      headers: { ...key, ...(body ? { 'content-type': 'application/octet-stream' } : {}) },
    }, (response) => {
      let bytes = 0;
      response.on('data', (data) => {
        bytes += data.length;
        if (leave) { request.destroy(); resolve({ status: response.statusCode, bytes }); }
      });
      response.on('end', () => resolve({ status: response.statusCode, bytes }));
      response.on('error', reject);
    });
    request.on('error', reject);
    if (leave === 'silent') setTimeout(() => { request.destroy(); resolve({ status: 0, bytes: 0 }); }, 30);
    request.end(body);
  });
}

const expect = (what, got, status, bytes) => {
  if (got.status !== status) throw new Error(`${what}: ${got.status} instead of ${status}`);
  if (bytes !== undefined && got.bytes !== bytes) throw new Error(`${what}: ${got.bytes} bytes instead of ${bytes}`);
};

function webSocket(how) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/proxy/${target}/ws`, { headers: { 'x-proxy-token': TOKEN } });
    let echoes = 0;
    socket.on('open', () => socket.send(big.subarray(0, 10_000)));
    socket.on('message', (data) => {
      echoes += 1;
      if (data.length !== 10_000) reject(new Error(`an echo of ${data.length} bytes`));
      else if (echoes < 5) socket.send(data);
      else if (how === 'close') socket.close(1000);
      else if (how === 'terminate') socket.terminate();
      else socket.send('gone');
    });
    socket.on('close', (code) => {
      if (echoes < 5) reject(new Error(`closed after ${echoes} echoes`));
      else if (how === 'close' && code !== 1000) reject(new Error(`closed with ${code}`));
      else resolve();
    });
    socket.on('error', reject);
  });
}

const traffic = {
  get: async () => { const n = Math.floor(Math.random() * 3000); expect('get', await ask('GET', `${target}/sized/${n}`), 200, n); },
  large: async () => expect('large', await ask('GET', `${target}/sized/300000`), 200, 300_000),
  post: async () => expect('post', await ask('POST', `${target}/echo`, { body: big.subarray(0, Math.floor(Math.random() * 200_000) + 1) }), 200),
  events: async () => { const got = await ask('GET', `${target}/events/end`); expect('events', got, 200); if (got.bytes < 100) throw new Error('events are missing'); },
  'events, left': async () => expect('events', await ask('GET', `${target}/events/on`, { leave: true, own: true }), 200),
  websocket: () => webSocket('close'),
  'websocket, left': () => webSocket('terminate'),
  'websocket, target gone': () => webSocket('gone'),
  // A wrong one would, after some, shut out this address with all its other requests.
  'no token': async () => expect('no token', await ask('GET', `${target}/sized/1`, { key: {} }), 401),
  'refused target': async () => expect('refused', await ask('GET', `http://127.0.0.2:${port}/`), 403),
  'nobody there': async () => expect('nobody', await ask('GET', `http://127.0.0.1:${closed}/`), 502),
  'answer breaks off': async () => { await assert.rejects(ask('GET', `${target}/break`, { own: true })); },
  'client leaves': async () => { await ask('GET', `${target}/silent`, { leave: 'silent', own: true }); },
};

const counts = Object.fromEntries(Object.keys(traffic).map((name) => [name, 0]));
const errors = [];
async function run(seconds) {
  const end = Date.now() + seconds * 1000;
  const names = Object.keys(traffic);
  await Promise.all(Array.from({ length: WORKERS }, async (_, worker) => {
    for (let i = worker; Date.now() < end; i += 1) {
      const name = names[i % names.length];
      try {
        let timer;
        const late = new Promise((_resolve, reject) => { timer = setTimeout(() => reject(new Error('no end within 20 s')), 20_000); });
        await Promise.race([traffic[name](), late]).finally(() => clearTimeout(timer));
        counts[name] += 1;
      } catch (error) {
        errors.push(`${name}: ${error.message}`);
        await sleep(50);
      }
      await sleep(5);
    }
  }));
  agent.destroy();
  // Pooled connections to the target end with its own keep-alive.
  await sleep(4000);
}

const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.child.pid}/status`, 'utf8'))[1]) * 1024;
const descriptors = () => readdirSync(`/proc/${server.child.pid}/fd`).length;
/** The smallest of several looks: what is in use, not what is about to be given back. */
async function atRest(look) {
  let least = Infinity;
  for (let i = 0; i < 5; i += 1) {
    least = Math.min(least, look());
    await sleep(300);
  }
  return least;
}
const mib = (bytes) => `${(bytes / (1 << 20)).toFixed(1)} MiB`;

await sleep(500);
const idle = descriptors();
await run(Math.max(15, SECONDS / 10));
const before = { memory: await atRest(resident), files: await atRest(descriptors) };
console.log(`     after the warm-up: ${mib(before.memory)}, ${before.files} descriptors (${idle} at the start)`);
await check(`mixed traffic for ${SECONDS} s`, async () => {
  await run(SECONDS);
  console.log(`     ${Object.entries(counts).map(([name, n]) => `${name} ${n}`).join(', ')}`);
  assert.deepEqual(errors.slice(0, 5), [], `${errors.length} errors`);
  for (const [name, n] of Object.entries(counts)) assert(n > 0, `${name} never happened`);
}, (SECONDS + 60) * 1000);
await check('the resident size is back', async () => {
  const after = await atRest(resident);
  console.log(`     resident: ${mib(before.memory)} before, ${mib(after)} after`);
  assert(after <= before.memory + SLACK, `${mib(after)} after ${mib(before.memory)}`);
});
await check('the descriptors are back', async () => {
  await until('descriptors', () => descriptors() <= idle + 2, 30_000, 200)
    .catch((error) => { throw new Error(`${error.message}: ${idle} at the start, ${descriptors()} now`); });
  console.log(`     descriptors: ${idle} before, ${descriptors()} after`);
});
await check('it still serves, and has not panicked', async () => {
  expect('get', await ask('GET', `${target}/sized/7`, { own: true }), 200, 7);
  assert(!server.child.output.includes('panicked'), 'a panic in the log');
  assert(!server.leaks(), 'the token is in the log');
});
await finish();
