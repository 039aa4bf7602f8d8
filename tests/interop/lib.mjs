// What every interop script shares: checks that count, children that end with the script, the proxy under test.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export { assert };
export const HERE = path.dirname(fileURLToPath(import.meta.url));
export const MODULES = path.join(HERE, 'node_modules');
/** A fresh secret a run, so that finding its bytes upstream can only mean a leak. */
export const TOKEN = `interop-${randomBytes(24).toString('hex')}`;

let passed = 0;
let failed = 0;
const closers = [];

/** Runs one named check and prints its line. Never throws; returns what the check returned. */
export async function check(name, body, timeoutMs = 30_000) {
  let timer;
  try {
    const value = await Promise.race([
      body(),
      new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no result within ${timeoutMs} ms`)), timeoutMs);
      }),
    ]);
    passed += 1;
    console.log(`ok   ${name}`);
    return value;
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${oneLine(error)}`);
    if (process.env.INTEROP_DEBUG) console.log(error);
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

export function oneLine(error) {
  const cause = error?.cause ? ` (${error.cause.message ?? error.cause})` : '';
  return `${error?.message ?? error}${cause}`.replace(/\s+/g, ' ').slice(0, 400);
}

export function atEnd(close) {
  closers.push(close);
}

/** Ends every child, prints the closing line and exits: non-zero when a check failed or none ran. */
export async function finish() {
  for (const close of closers.reverse()) {
    try {
      await close();
    } catch (error) {
      console.log(`     while ending: ${oneLine(error)}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}

for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (error) => {
    failed += 1;
    console.log(`FAIL the script itself: ${error?.stack ?? error}`);
    finish();
  });
}
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => finish());

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(what, condition, timeoutMs = 10_000, stepMs = 20) {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(stepMs);
  }
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export async function listening(port, timeoutMs = 20_000) {
  await until(`port ${port} to listen`, () => new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('connect', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  }), timeoutMs, 50);
}

/** Starts a program, keeps what it prints, and ends it by its pid with the script. */
export function start(command, args, { env = {}, cwd } = {}) {
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  child.output = '';
  const keep = (data) => {
    child.output += data.toString('latin1');
    if (child.output.length > 64e6) child.output = child.output.slice(-32e6);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  child.ended = new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal));
    child.once('error', (error) => { child.output += String(error); resolve(String(error)); });
  });
  child.stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), 4000);
    await child.ended;
    clearTimeout(timer);
  };
  atEnd(child.stop);
  return child;
}

export const node = (args, options) => start(process.execPath, args, options);

/** One of the official server-everything's transports, on loopback only. */
export async function everything(transport) {
  const port = await freePort();
  const program = path.join(MODULES, '@modelcontextprotocol/server-everything/dist/index.js');
  const child = node(['--import', path.join(HERE, 'loopback-only.mjs'), program, transport], { env: { PORT: String(port) } });
  await listening(port);
  return { port, child };
}

/** A byte recorder between the proxy and an upstream: keeps everything sent upstream. */
export async function tap(targetPort) {
  const sent = [];
  const server = net.createServer((inbound) => {
    const outbound = net.connect(targetPort, '127.0.0.1');
    inbound.on('data', (data) => sent.push(data));
    inbound.pipe(outbound);
    outbound.pipe(inbound);
    inbound.on('error', () => outbound.destroy());
    outbound.on('error', () => inbound.destroy());
    inbound.on('close', () => outbound.destroy());
    outbound.on('close', () => inbound.destroy());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => server.close());
  return { port: server.address().port, bytes: () => Buffer.concat(sent) };
}

/** TOML for the server under test: one token, the named loopback ports as an exception, no limits. */
export function proxyConfig({ port, ports, origins = [], extra = '', tokenExtra = '' }) {
  const sha256 = createHash('sha256').update(TOKEN).digest('hex');
  return `listen = "127.0.0.1:${port}"
allowed_origins = ${JSON.stringify(origins)}
[[token]]
id = "interop"
sha256 = "${sha256}"
rate = "off"
${tokenExtra}
[egress]
denial_floor = "0ms"
[[egress.exception]]
cidrs = ["127.0.0.1/32"]
ports = ${JSON.stringify(ports)}
[limits]
request_body = "off"
response_body = "off"
[rate_limit]
per_client = "off"
per_token = "off"
probes = "off"
[audit]
path = "-"
${extra}`;
}

/**
 * The server under test. With `PROXY_BIN` unset there is none, and clients go straight to their targets
 * (`proxy.direct`), which shows that the checks themselves are right.
 */
export async function proxy(options) {
  const binary = process.env.PROXY_BIN;
  if (!binary) return { direct: true, leaks: () => false };
  const port = options.port ?? (await freePort());
  const dir = mkdtempSync(path.join(tmpdir(), 'portcullis-interop-'));
  atEnd(() => rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, 'proxy.toml');
  writeFileSync(file, proxyConfig({ ...options, port }));
  const child = start(binary, ['--config', file, '--listen', `127.0.0.1:${port}`], {
    env: { PROXY_TOKEN: '', HOST: '', PORT: '' },
  });
  try {
    await Promise.race([
      listening(port),
      child.ended.then((code) => { throw new Error(`the server ended at once (${code})`); }),
    ]);
  } catch (error) {
    console.log(child.output.slice(0, 3000));
    throw error;
  }
  return {
    direct: false,
    port,
    child,
    file,
    url: `http://127.0.0.1:${port}`,
    leaks: () => child.output.includes(TOKEN),
    /** Peak resident size in bytes. */
    peak: () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) * 1024,
  };
}

/** `fetch` that names the target in a header: what the wrapper in examples/ does for browsers. */
export function headerFetch(proxy, extra = {}) {
  return (input, init = {}) => {
    const url = input instanceof Request ? input.url : String(input);
    if (proxy.direct) return fetch(input, init);
    const headers = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
    headers.set('x-target-url', url);
    headers.set('x-proxy-token', TOKEN);
    for (const [name, value] of Object.entries(extra)) headers.set(name, value);
    return fetch(`${proxy.url}/forward`, { ...init, headers });
  };
}

export const viaPath = (proxy, target) => (proxy.direct ? target : `${proxy.url}/proxy/${target}`);

/** A request by node's http client, body in full. */
export function token(proxy) {
  return proxy.direct ? {} : { 'x-proxy-token': TOKEN };
}
