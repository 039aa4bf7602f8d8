// slowhttptest (https://github.com/shekyan/slowhttptest) against the built server with its limits as they ship: 200 clients that
// drip a request head (-H), drip a request body (-B), or hardly take their answer (-X). By this machine's own table of connections
// none of them lasts 12 s, and meanwhile others are served as if they were not there.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { assert, atEnd, check, finish, freePort, listening, proxy, sleep, start, TOKEN } from './lib.mjs';

const SLOW = 200;
const GONE_WITHIN = 12_000;
const OPENED_WITHIN = 5000;
const PROGRAM = 'slowhttptest';
assert(!spawnSync(PROGRAM, ['-h']).error, `${PROGRAM} is not installed`);

// More than all buffers between it and a client that does not read.
const big = Buffer.alloc(1 << 20, 'x');
const origin = http.createServer((request, response) => {
  request.on('error', () => {});
  request.resume();
  if (request.url === '/big') response.end(big);
  else request.on('end', () => response.end('ok'));
});
await new Promise((resolve) => origin.listen(0, '127.0.0.1', 1024, resolve));
atEnd(() => { origin.closeAllConnections(); origin.close(); });
const target = `http://127.0.0.1:${origin.address().port}`;

const figures = await freePort();
const server = await proxy({ ports: [origin.address().port], extra: `[metrics]\nlisten = "127.0.0.1:${figures}"\n` });
assert(!server.direct, 'PROXY_BIN names the server under test');
await listening(figures);

const hex = (port) => port.toString(16).toUpperCase().padStart(4, '0');

/** Who is connected with the server, by port; in whatever state but the one that is over. */
function peers() {
  const [TIME_WAIT, LISTEN] = ['06', '0A'];
  const found = new Set();
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)) {
    const [, local, remote, state] = line.trim().split(/\s+/);
    if (!state || state === TIME_WAIT || state === LISTEN) continue;
    const [here, there] = [local.split(':')[1], remote.split(':')[1]];
    if (here === hex(server.port)) found.add(there);
    else if (there === hex(server.port)) found.add(here);
  }
  return found;
}

/** What the server has counted on its connections. */
async function events() {
  const text = await (await fetch(`http://127.0.0.1:${figures}/metrics`)).text();
  const lines = text.matchAll(/^portcullis_connection_events_total\{event="(\w+)"\} (\d+)/gm);
  return Object.fromEntries([...lines].map(([, event, n]) => [event, Number(n)]));
}

// The others: half on connections of their own and half on kept ones. Some go straight to the target: they show what this machine
// can do at the moment.
const own = new Set();
const agent = new http.Agent({ keepAlive: true });
atEnd(() => agent.destroy());
function ask({ kept = false, direct = false } = {}) {
  const [port, path] = direct ? [origin.address().port, '/'] : [server.port, `/proxy/${target}/`];
  return new Promise((resolve, reject) => {
    const begun = performance.now();
    const request = http.get({
      host: '127.0.0.1', port, path, agent: kept ? agent : false, headers: { 'x-proxy-token': TOKEN },
    }, (response) => {
      response.resume();
      response.on('end', () => resolve({ status: response.statusCode, took: performance.now() - begun }));
      response.on('error', reject);
    });
    request.on('socket', (socket) => {
      if (direct || !socket.connecting) return;
      socket.once('connect', () => {
        const name = hex(socket.localPort);
        own.add(name);
        // Another program may get the same port later.
        socket.once('close', () => setTimeout(() => own.delete(name), 1000));
      });
    });
    request.on('error', reject);
    request.setTimeout(5000, () => request.destroy(new Error('no answer within 5 s')));
  });
}

async function others(going) {
  const run = async (how, seen) => {
    while (going()) {
      seen.push(await ask(how).catch((error) => ({ status: error.message, took: Infinity })));
      await sleep(25);
    }
  };
  const [seen, straight] = [[], []];
  await Promise.all([{ kept: true }, { kept: true }, {}, {}].map((how) => run(how, seen)).concat(run({ direct: true }, straight)));
  const p95 = (all) => all.map(({ took }) => took).sort((a, b) => a - b)[Math.floor(all.length * 0.95)];
  return { wrong: seen.filter(({ status }) => status !== 200), n: seen.length, p95: p95(seen), straight: p95(straight) };
}
const tell = (who, { n, p95, straight }) => console.log(
  `     ${who}: ${n} requests, 95 % within ${p95.toFixed(1)} ms (${straight.toFixed(1)} ms straight to the target)`);

const calmUntil = Date.now() + 3000;
const calm = await others(() => Date.now() < calmUntil);
tell('nobody else', calm);
await check('others are served while nobody is slow', () => assert.deepEqual(calm.wrong, []));

/** One attack. `reason` is what the server has to have counted. */
async function attack(name, reason, args) {
  const before = await events();
  const slow = start(PROGRAM, [...args, '-c', String(SLOW), '-r', String(SLOW), '-l', '60', '-p', '5', '-v', '1']);
  const begun = performance.now();
  const first = new Map();
  const lasted = new Map();
  let going = true;
  const watch = (async () => {
    while (going) {
      const [there, now] = [peers(), performance.now()];
      const young = now - begun < OPENED_WITHIN;
      if (young) for (const port of there) if (!own.has(port) && !first.has(port)) first.set(port, now);
      for (const [port, since] of first) if (!there.has(port) && !lasted.has(port)) lasted.set(port, now - since);
      going = (young || lasted.size < first.size) && now - begun < 40_000;
      // The table is long where other tests have run before.
      await sleep(250);
    }
  })();
  const seen = await others(() => going);
  await watch;
  const ended = (await events())[reason] - (before[reason] ?? 0);
  await slow.stop();
  const times = [...lasted.values()].sort((a, b) => a - b);
  // The program has connections besides, short ones, to see whether the server still answers.
  const long = times.filter((t) => t > 5000);
  console.log(`     ${name}: ${long.length} connections, ended after ${(long[0] / 1000).toFixed(2)} to ${(times.at(-1) / 1000).toFixed(2)} s, ${reason} ${ended}`);
  tell('meanwhile', seen);
  await check(`${name}: no slow connection lasts ${GONE_WITHIN / 1000} s`, () => {
    assert.equal(lasted.size, first.size, 'connections are left after 40 s');
    assert(long.length >= SLOW, `only ${long.length} slow connections of ${first.size}`);
    assert(times.at(-1) < GONE_WITHIN, `one lasted ${times.at(-1)} ms`);
    assert(ended >= SLOW, `${reason}: ${ended}`);
  });
  await check(`${name}: others are served as before`, () => {
    assert.deepEqual(seen.wrong.slice(0, 5), [], `${seen.wrong.length} of ${seen.n}`);
    assert(seen.p95 < 50 + 4 * seen.straight, `95 % within ${seen.p95} ms, and ${seen.straight} ms without a proxy`);
  });
}

const url = `${server.url}/proxy/${target}`;
// The program takes no field of one's own, but a cookie, and that as it is.
const token = ['-j', `a=b\r\nX-Proxy-Token: ${TOKEN}`];
await attack('slow heads', 'header_timeouts', ['-H', '-i', '1', '-x', '24', '-u', `${url}/`]);
await attack('slow bodies', 'body_stalls', ['-B', '-i', '1', '-x', '10', '-s', '1000000', ...token, '-u', `${url}/`]);
await attack('slow readers', 'write_stalls', ['-X', '-n', '1', '-z', '5', '-w', '1', '-y', '512', ...token, '-u', `${url}/big`]);
await check('it still serves, and has not panicked', async () => {
  assert.equal((await ask()).status, 200);
  assert(!server.child.output.includes('panicked'), 'a panic in the log');
});
await finish();
