// slowhttptest (https://github.com/shekyan/slowhttptest) against the built server with its limits as they ship: 200 clients that
// drip a request head (-H), drip a request body (-B), or do not take their answer (-X). All of them are gone by 12 s, on this
// machine's own list of connections, and meanwhile others are served as if they were not there.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { assert, atEnd, check, finish, freePort, listening, proxy, sleep, start, TOKEN } from './lib.mjs';

const SLOW = 200;
const GONE_BY = 12_000;
const PROGRAM = 'slowhttptest';

const big = Buffer.alloc(1 << 20, 'x');
const origin = http.createServer((request, response) => {
  const mebibytes = Number(/\/big\/(\d+)/.exec(request.url)?.[1] ?? 0);
  if (mebibytes > 0) {
    response.setHeader('content-length', mebibytes * big.length);
    let left = mebibytes;
    const more = () => {
      while (left > 0) {
        left -= 1;
        if (!response.write(big)) { response.once('drain', more); return; }
      }
      response.end();
    };
    more();
  } else if (/\/page\/(\d+)/.test(request.url)) {
    response.end(big.subarray(0, Number(/\/page\/(\d+)/.exec(request.url)[1])));
  } else {
    request.resume();
    request.on('end', () => response.end('ok'));
  }
  request.on('error', () => {});
  response.on('error', () => {});
});
await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
atEnd(() => { origin.closeAllConnections(); origin.close(); });
const target = `http://127.0.0.1:${origin.address().port}`;

assert(spawnSync(PROGRAM, ['-h']).error === undefined, `${PROGRAM} is not installed`);
const figures = await freePort();
const server = await proxy({ ports: [origin.address().port], extra: `[metrics]\nlisten = "127.0.0.1:${figures}"\n` });
assert(!server.direct, 'PROXY_BIN names the server under test');
await listening(figures);
const dir = mkdtempSync(path.join(tmpdir(), 'portcullis-slow-'));
atEnd(() => rmSync(dir, { recursive: true, force: true }));


const hex = (port) => port.toString(16).toUpperCase().padStart(4, '0');
/** The other ends of all connections with the server that this machine still knows, in whatever state but the last. */
function peers() {
  const found = new Set();
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)) {
    const [, local, remote, state] = line.trim().split(/\s+/);
    const [TIME_WAIT, LISTEN] = ['06', '0A'];
    if (!state || state === TIME_WAIT || state === LISTEN) continue;
    const [from, to] = [local.split(':')[1], remote.split(':')[1]];
    if (from === hex(server.port)) found.add(to);
    else if (to === hex(server.port)) found.add(from);
  }
  return found;
}

/** What the server says about its connections: why it ended them. */
async function events() {
  const text = await (await fetch(`http://127.0.0.1:${figures}/metrics`)).text();
  return Object.fromEntries([...text.matchAll(/^portcullis_connection_events_total\{event="(\w+)"\} (\d+)/gm)].map(([, k, n]) => [k, Number(n)]));
}

// The others: on connections of their own and on kept ones, one request after another.
const own = new Set();
const agent = new http.Agent({ keepAlive: true });
atEnd(() => agent.destroy());
function ask(kept) {
  return new Promise((resolve, reject) => {
    const begun = performance.now();
    const request = http.get({
      host: '127.0.0.1', port: server.port, path: `/proxy/${target}/`, agent: kept ? agent : false, headers: { 'x-proxy-token': TOKEN },
    }, (response) => {
      response.resume();
      response.on('end', () => resolve({ status: response.statusCode, took: performance.now() - begun }));
    });
    request.on('socket', (socket) => socket.on('connect', () => own.add(hex(socket.localPort))));
    request.on('error', reject);
    request.setTimeout(5000, () => request.destroy(new Error('no answer within 5 s')));
  });
}
async function others(going) {
  const seen = [];
  await Promise.all(Array.from({ length: 4 }, async (_, worker) => {
    while (going()) {
      seen.push(await ask(worker % 2 === 0).catch((error) => ({ status: error.message, took: Infinity })));
      await sleep(20);
    }
  }));
  const times = seen.map((s) => s.took).sort((a, b) => a - b);
  return { seen, worst: times.at(-1), p95: times[Math.floor(times.length * 0.95)] };
}
const ms = (n) => `${n.toFixed(1)} ms`;

let until = Date.now() + 3000;
const calm = await others(() => Date.now() < until);
console.log(`     nobody else: ${calm.seen.length} requests, 95 % within ${ms(calm.p95)}, worst ${ms(calm.worst)}`);

/** One attack; resolves to how long its connections lasted. */
async function attack(name, args, ended) {
  const before = await events();
  const report = path.join(dir, name.replace(/\W/g, ''));
  const slow = start(PROGRAM, [
    ...args, '-c', String(SLOW), '-r', String(SLOW), '-l', '40', '-p', '3', '-g', '-o', report, '-v', '1',
  ]);
  const begun = Date.now();
  const cohort = new Set();
  let gone;
  const watch = (async () => {
    while (!gone && Date.now() - begun < 35_000) {
      const there = peers();
      const age = Date.now() - begun;
      if (age < 3000) for (const port of there) if (!own.has(port)) cohort.add(port);
      if (age >= 3000 && ![...cohort].some((port) => there.has(port))) gone = age;
      await sleep(50);
    }
  })();
  const seen = await others(() => !gone && Date.now() - begun < 35_000);
  await watch;
  await slow.stop();
  const after = await events();
  const changed = Object.keys(after).filter((k) => after[k] !== (before[k] ?? 0)).map((k) => `${k} +${after[k] - (before[k] ?? 0)}`);
  console.log(`     ${name}: ${cohort.size} connections, gone after ${gone ?? 'more than 35 000'} ms (${changed.join(', ')})`);
  console.log(`     meanwhile: ${seen.seen.length} requests, 95 % within ${ms(seen.p95)}, worst ${ms(seen.worst)}`);
  const st = {}; for (const l of server.child.output.split('\n')) { try { const r = JSON.parse(l); const k = `${r.status} ${r.outcome} ${r.reason} ${r.bytes_out > 1000}`; st[k] = (st[k] ?? 0) + 1; if (r.bytes_out > 3000 && !st.x) { st.x = 1; console.log(l);} } catch {} } console.log(st);
}

const token = `a=b\r\nX-Proxy-Token: ${TOKEN}`;
const url = `${server.url}/proxy/${target}`;
const only = process.env.SLOW_ONLY;
const modes = {
  H: ['-H', '-i', '1', '-x', '24', '-u', `${url}/`],
  B: ['-B', '-i', '1', '-x', '10', '-s', '1000000', '-t', 'POST', '-j', token, '-u', `${url}/`],
  X: ['-X', '-n', '1', '-z', '5', '-w', '1', '-y', '512', '-j', token, '-u', `${url}/big/20`],
  P: ['-X', '-n', '1', '-z', '5', '-w', '1', '-y', '512', '-j', token, '-u', `${url}/page/50000`],
};
for (const [k, args] of Object.entries(modes)) if (!only || only === k) await attack(k, args);
await finish();
