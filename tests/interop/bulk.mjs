// Big bodies: 1 GiB streams both ways with a flat resident size; a stalled reader holds little; a bad token's body is not read.
import http from 'node:http';
import net from 'node:net';
import { assert, atEnd, check, finish, proxy, sleep, token, TOKEN, until, viaPath } from './lib.mjs';

const GIB = 2 ** 30;
const MIB = 2 ** 20;
const LIMIT = 64 * MIB;
const piece = Buffer.alloc(256 * 1024, 'portcullis ');
const seen = { received: 0, sent: 0, requests: 0 };

/** `/down?n` sends n bytes, `/up` counts what it gets, `/endless` sends until nobody reads. */
const origin = http.createServer((request, response) => {
  seen.requests += 1;
  const url = new URL(request.url, 'http://origin');
  if (url.pathname === '/up') {
    seen.received = 0;
    request.on('data', (data) => { seen.received += data.length; });
    request.on('end', () => response.end(String(seen.received)));
    return;
  }
  const total = Number(url.searchParams.get('n') ?? Infinity);
  if (url.searchParams.has('length')) response.setHeader('content-length', total);
  seen.sent = 0;
  const push = () => {
    while (seen.sent < total) {
      const next = piece.subarray(0, Math.min(piece.length, total - seen.sent));
      seen.sent += next.length;
      if (!response.write(next)) return;
    }
    response.end();
  };
  response.on('drain', push);
  response.on('error', () => {});
  push();
});
await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
atEnd(() => { origin.closeAllConnections(); origin.close(); });
const base = `http://127.0.0.1:${origin.address().port}`;
const server = await proxy({ ports: [origin.address().port] });

function ask(path, { method = 'GET', headers = {}, body } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(viaPath(server, base + path), { method, headers: { ...token(server), ...headers }, agent: false }, resolve);
    request.on('error', reject);
    if (body) body(request);
    else request.end();
  });
}
async function count(response) {
  let total = 0;
  for await (const data of response) {
    if (data[0] !== piece[total % piece.length]) throw new Error(`byte ${total} is not what was sent`);
    total += data.length;
  }
  return total;
}
async function flat(name, body) {
  await check(name, async () => {
    const begun = Date.now();
    await body();
    const seconds = (Date.now() - begun) / 1000;
    const peak = server.direct ? 0 : server.peak();
    console.log(`     ${seconds.toFixed(1)} s, peak resident size ${(peak / MIB).toFixed(1)} MiB`);
    assert.ok(peak < LIMIT, `peak resident size ${(peak / MIB).toFixed(1)} MiB`);
  }, 180_000);
}

await flat('1 GiB from the upstream, chunked', async () => {
  assert.equal(await count(await ask(`/down?n=${GIB}`)), GIB);
});
await flat('1 GiB from the upstream, with a content length', async () => {
  const response = await ask(`/down?n=${GIB}&length`);
  assert.equal(response.headers['content-length'], String(GIB));
  assert.equal(await count(response), GIB);
});
for (const sized of [true, false]) {
  await flat(`1 GiB to the upstream, ${sized ? 'with a content length' : 'chunked'}`, async () => {
    const response = await ask('/up', {
      method: 'POST',
      headers: sized ? { 'content-length': GIB } : {},
      body: (request) => {
        let left = GIB;
        const push = () => {
          while (left > 0) {
            const next = piece.subarray(0, Math.min(piece.length, left));
            left -= next.length;
            if (!request.write(next)) return;
          }
          request.end();
        };
        request.on('drain', push);
        push();
      },
    });
    assert.equal(response.statusCode, 200);
    let text = '';
    for await (const data of response) text += data;
    assert.equal(text, String(GIB));
  });
}

await check('a reader that stalls makes the upstream wait', async () => {
  const before = server.direct ? 0 : server.peak();
  const response = await ask('/down?n=Infinity');
  response.pause();
  await until('the upstream to stop', async () => {
    const then = seen.sent;
    await sleep(400);
    return seen.sent === then && then > 0;
  });
  const held = seen.sent;
  const grown = server.direct ? 0 : server.peak() - before;
  response.destroy();
  console.log(`     ${(held / MIB).toFixed(1)} MiB left the upstream (kernel buffers in it), the peak grew by ${(grown / MIB).toFixed(1)} MiB`);
  assert.ok(held < 32 * MIB && grown < 4 * MIB, `${held} bytes held, peak grown by ${grown}`);
});

if (!server.direct) {
  const head = (secret, length) => `POST /proxy/${base}/up HTTP/1.1\r\nhost: 127.0.0.1:${server.port}\r\nx-proxy-token: ${secret}\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
  await check('a 50 MB body with a bad token: 401 before any byte of it was sent', async () => {
    const before = seen.requests;
    const socket = net.connect(server.port, '127.0.0.1');
    atEnd(() => socket.destroy());
    let got = '';
    socket.on('data', (data) => { got += data; });
    socket.on('error', () => {});
    socket.write(head('x'.repeat(40), 50e6));
    await until('the answer', () => got.includes('\r\n\r\n'), 3000);
    assert.match(got, /^HTTP\/1\.1 401 /);
    assert.equal(seen.requests, before);
  });
  await check('a 50 MB body with a bad token, pushed all the same: 401 arrives, most of it is never read', async () => {
    const before = server.peak();
    const socket = net.connect(server.port, '127.0.0.1');
    let got = '';
    let closed = false;
    socket.on('data', (data) => { got += data; });
    socket.on('error', () => { closed = true; });
    socket.on('close', () => { closed = true; });
    socket.write(head('x'.repeat(40), 50e6));
    let pushed = 0;
    while (pushed < 50e6 && !closed) {
      pushed += piece.length;
      if (!socket.write(piece)) await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), new Promise((resolve) => socket.once('close', resolve)), sleep(5000)]);
    }
    await until('the answer', () => got.includes('\r\n\r\n') || closed, 6000);
    const grown = server.peak() - before;
    console.log(`     ${((socket.bytesWritten ?? 0) / MIB).toFixed(1)} MiB were taken, the peak grew by ${(grown / MIB).toFixed(1)} MiB`);
    assert.match(got, /^HTTP\/1\.1 401 /);
    assert.ok(grown < 8 * MIB, `${grown} bytes`);
    assert.ok(socket.bytesWritten < 24 * MIB, `${socket.bytesWritten} bytes were taken`);
    socket.destroy();
  });
  await check('a 50 MB body with a bad token by node\'s own client: 401, not a broken pipe', async () => {
    const answer = await fetch(`${server.url}/proxy/${base}/up`, {
      method: 'POST', headers: { 'x-proxy-token': 'x'.repeat(40), 'content-type': 'application/octet-stream' }, body: Buffer.alloc(50e6),
    });
    assert.equal(answer.status, 401);
    await answer.text();
  });
  await check('the server printed no token', async () => assert.ok(!server.leaks() && !server.child.output.includes(TOKEN)));
}
await finish();
