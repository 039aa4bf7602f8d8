// The official TypeScript clients (v1 and v2) against server-everything and a v2 server, by path and by header.
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport as SseV1 } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport as HttpV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { Client as ClientV2, SSEClientTransport as SseV2, StreamableHTTPClientTransport as HttpV2 } from '@modelcontextprotocol/client';
import path from 'node:path';
import {
  assert, atEnd, check, everything, finish, freePort, headerFetch, HERE, listening, node, proxy, tap, token, TOKEN, until, viaPath,
} from './lib.mjs';

const streamable = await everything('streamableHttp');
const sse = await everything('sse');
const modernPort = await freePort();
node([path.join(HERE, 'conformance-server.mjs'), String(modernPort)]);
await listening(modernPort);
const [httpTap, sseTap, modernTap] = [await tap(streamable.port), await tap(sse.port), await tap(modernPort)];
const server = await proxy({ ports: [httpTap.port, sseTap.port, modernTap.port] });

const me = { name: 'interop', version: '1.0.0' };
const capabilities = { sampling: {}, elicitation: {}, roots: {} };
const answerSampling = async () => ({ role: 'assistant', content: { type: 'text', text: 'sampled-answer' }, model: 'none', stopReason: 'endTurn' });
const answerElicitation = async () => ({ action: 'accept', content: { name: 'Ada', check: true } });
const answerRoots = async () => ({ roots: [{ uri: 'file:///srv', name: 'srv' }] });

/** How a transport is told where the server is: two ways of naming the target, for each client and kind of stream. */
function transport(Kind, target, style) {
  if (style === 'header') return new Kind(new URL(target), { fetch: headerFetch(server) });
  return new Kind(new URL(viaPath(server, target)), { requestInit: { headers: token(server) } });
}

function clientV1() {
  const client = new ClientV1(me, { capabilities });
  client.setRequestHandler(CreateMessageRequestSchema, answerSampling);
  client.setRequestHandler(ElicitRequestSchema, answerElicitation);
  client.setRequestHandler(ListRootsRequestSchema, answerRoots);
  return client;
}

function clientV2(mode) {
  const client = new ClientV2(me, { capabilities, versionNegotiation: { mode } });
  client.setRequestHandler('sampling/createMessage', answerSampling);
  client.setRequestHandler('elicitation/create', answerElicitation);
  client.setRequestHandler('roots/list', answerRoots);
  return client;
}

/** What every client of a session-keeping server does. `v1` decides the calling convention only. */
async function session(name, makeClient, makeTransport, { v1, streamableHttp }) {
  const client = makeClient();
  const channel = makeTransport();
  const connected = await check(`${name}: initialize`, async () => {
    await client.connect(channel);
    assert.equal(client.getServerVersion().name, 'mcp-servers/everything');
    if (streamableHttp) assert.match(channel.sessionId, /^[0-9a-f-]{36}$/);
    return true;
  });
  if (!connected) return;
  const call = (tool, args, options) => (v1
    ? client.callTool({ name: tool, arguments: args }, undefined, options)
    : client.callTool({ name: tool, arguments: args }, options));
  await check(`${name}: ping`, () => client.ping());
  await check(`${name}: tools/list`, async () => {
    // Tools that depend on the client's capabilities are added once `notifications/initialized` has arrived.
    const names = await until('the sampling tool', async () => {
      const { tools } = await client.listTools();
      const found = tools.map((tool) => tool.name);
      return found.includes('trigger-sampling-request') && found;
    });
    assert.ok(names.includes('echo'), names.join());
  });
  await check(`${name}: tools/call echo, with text that is not ASCII`, async () => {
    const answer = await call('echo', { message: 'Grüße, 世界 🌍' });
    assert.equal(answer.content[0].text, 'Echo: Grüße, 世界 🌍');
  });
  await check(`${name}: progress arrives while the call runs`, async () => {
    const times = [];
    const begun = Date.now();
    const answer = await call('trigger-long-running-operation', { duration: 1.2, steps: 4 }, { onprogress: () => times.push(Date.now() - begun) });
    const end = Date.now() - begun;
    assert.match(answer.content[0].text, /completed/);
    // The last one and the answer may come in one piece, and the client may then take the answer first.
    assert.ok(times.length >= 3, `${times.length} of 4`);
    assert.ok(times[0] < 700 && end - times[0] > 600, `first at ${times[0]} ms, end at ${end} ms`);
  });
  await check(`${name}: the server asks for a sample inside a call`, async () => {
    const answer = await call('trigger-sampling-request', { prompt: 'anything', maxTokens: 10 });
    assert.match(answer.content[0].text, /sampled-answer/);
  });
  await check(`${name}: the server asks the user inside a call`, async () => {
    const answer = await call('trigger-elicitation-request', {});
    assert.match(JSON.stringify(answer.content), /Ada/);
  });
  await check(`${name}: resources/read, text and binary`, async () => {
    const words = await client.readResource({ uri: 'demo://resource/dynamic/text/1' });
    assert.match(words.contents[0].text, /Resource 1/);
    const blob = await client.readResource({ uri: 'demo://resource/dynamic/blob/2' });
    assert.ok(blob.contents[0].blob.length > 10);
  });
  await check(`${name}: an unknown tool is the server's own error`, async () => {
    const answer = await call('no-such-tool', {}).catch((error) => ({ isError: true, content: String(error) }));
    assert.ok(answer.isError);
    assert.match(JSON.stringify(answer.content), /no-such-tool/);
  });
  if (streamableHttp) {
    await check(`${name}: DELETE ends the session`, async () => {
      const { sessionId } = channel;
      await channel.terminateSession();
      assert.equal(channel.sessionId, undefined);
      const again = await until('the session to be gone', async () => {
        const url = viaPath(server, `http://127.0.0.1:${httpTap.port}/mcp`);
        const answer = await fetch(url, {
          method: 'POST',
          headers: { ...token(server), 'mcp-session-id': sessionId, accept: 'application/json, text/event-stream', 'content-type': 'application/json' },
          body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' }),
        });
        await answer.text();
        return answer.status === 404 || answer.status === 400 ? answer.status : undefined;
      });
      assert.ok(again);
    });
  }
  await check(`${name}: close`, () => client.close());
}

const httpTarget = `http://127.0.0.1:${httpTap.port}/mcp`;
const sseTarget = `http://127.0.0.1:${sseTap.port}/sse`;
for (const style of ['path', 'header']) {
  await session(`sdk 1.32, streamable HTTP, by ${style}`, clientV1, () => transport(HttpV1, httpTarget, style), { v1: true, streamableHttp: true });
  await session(`client 2.4, streamable HTTP, by ${style}`, () => clientV2('auto'), () => transport(HttpV2, httpTarget, style), { v1: false, streamableHttp: true });
}
await session('sdk 1.32, HTTP+SSE, by path', clientV1, () => transport(SseV1, sseTarget, 'path'), { v1: true });
await session('client 2.4, HTTP+SSE, by path', () => clientV2('legacy'), () => transport(SseV2, sseTarget, 'path'), { v1: false });
await session('sdk 1.32, HTTP+SSE, by header with a hook', clientV1, () => transport(SseV1, sseTarget, 'header'), { v1: true });

// The stateless revision: no session, required headers, a stream that never ends.
for (const style of ['path', 'header']) {
  const name = `client 2.4, revision 2026-07-28, by ${style}`;
  const client = clientV2('auto');
  let changed = 0;
  const ok = await check(`${name}: server/discover`, async () => {
    await client.connect(transport(HttpV2, `http://127.0.0.1:${modernTap.port}/mcp`, style));
    assert.equal(client.getNegotiatedProtocolVersion(), '2026-07-28');
    return true;
  });
  if (!ok) continue;
  await check(`${name}: tools/list and tools/call`, async () => {
    const { tools } = await client.listTools();
    assert.ok(tools.some((tool) => tool.name === 'test_simple_text'));
    const answer = await client.callTool({ name: 'test_simple_text', arguments: {} });
    assert.match(answer.content[0].text, /simple text response/);
  });
  await check(`${name}: a parameter that travels in a header of its own (Mcp-Param-Region)`, async () => {
    const before = modernTap.bytes().length;
    const answer = await client.callTool({ name: 'test_custom_headers', arguments: { region: 'münchen' } });
    assert.equal(answer.content[0].text, 'region münchen');
    assert.match(modernTap.bytes().subarray(before).toString('latin1'), /mcp-param-region: =\?base64\?/i);
  });
  await check(`${name}: progress in the response stream`, async () => {
    const seen = [];
    await client.callTool({ name: 'test_tool_with_progress', arguments: {} }, { onprogress: (p) => seen.push(p.progress) });
    assert.deepEqual(seen, [0, 50, 100]);
  });
  await check(`${name}: input_required rounds`, async () => {
    const answer = await client.callTool({ name: 'test_input_required_result_multiple_inputs', arguments: {} });
    assert.equal(answer.content[0].text, 'all inputs received');
  });
  await check(`${name}: subscriptions/listen stays open and delivers`, async () => {
    client.setNotificationHandler('notifications/tools/list_changed', () => { changed += 1; });
    const subscription = await client.listen({ toolsListChanged: true });
    await client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
    await until('the notification', () => changed > 0);
    await subscription.close();
  });
  await check(`${name}: close`, () => client.close());
}

if (!server.direct) {
  await check('a bad token is a plain 401 that starts no OAuth flow', async () => {
    const answer = await fetch(viaPath(server, httpTarget), { method: 'POST', headers: { 'x-proxy-token': 'x'.repeat(40) }, body: '{}' });
    assert.equal(answer.status, 401);
    assert.ok(answer.headers.get('www-authenticate'));
    assert.doesNotMatch(answer.headers.get('www-authenticate'), /bearer/i);
    for (const place of ['/.well-known/oauth-protected-resource', '/.well-known/oauth-authorization-server', '/register']) {
      assert.equal((await fetch(server.url + place)).status, 404, place);
    }
  });
  await check('a client that goes away is seen by the upstream within 50 ms', async () => {
    const gone = await measureDisconnect();
    assert.ok(gone < 50, `seen after ${gone.toFixed(1)} ms`);
    console.log(`     seen after ${gone.toFixed(1)} ms`);
  });
  await check('the envelope API: initialize, tools/list and tools/call by POST /proxy', async () => {
    const send = async (method, params, id) => {
      const answer = await fetch(`${server.url}/proxy`, {
        method: 'POST',
        headers: { ...token(server), 'content-type': 'application/json' },
        body: JSON.stringify({ mcp_server_url: httpTarget, method, params, jsonrpc: '2.0', id }),
      });
      return { status: answer.status, body: await answer.json().catch(() => undefined) };
    };
    const init = await send('initialize', { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: me }, 'first');
    assert.equal(init.status, 200, JSON.stringify(init.body));
    assert.equal(init.body.id, 'first');
    assert.equal(init.body.result.serverInfo.name, 'mcp-servers/everything');
    const list = await send('tools/list', {}, 2);
    assert.ok(list.body.result.tools.some((tool) => tool.name === 'echo'), JSON.stringify(list.body).slice(0, 300));
    const echo = await send('tools/call', { name: 'echo', arguments: { message: 'hi' } }, 3.5);
    assert.equal(echo.body.result.content[0].text, 'Echo: hi');
    assert.equal(echo.body.id, 3.5);
  });
  await check('the token is in no byte sent upstream and in no line that the server printed', async () => {
    assert.ok(httpTap.bytes().length > 10_000 && sseTap.bytes().length > 3000 && modernTap.bytes().length > 3000, 'the recorders saw the traffic');
    for (const recorder of [httpTap, sseTap, modernTap]) assert.ok(!recorder.bytes().includes(TOKEN));
    assert.ok(!server.leaks());
  });
}
await finish();

/** Milliseconds between a client's close and the upstream's, with the GET stream of a session open. */
async function measureDisconnect() {
  const net = await import('node:net');
  let closedAt;
  const origin = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n'));
    socket.on('close', () => { closedAt = performance.now(); });
    socket.resume();
  });

  await new Promise((resolve) => origin.listen(0, '127.0.0.1', resolve));
  atEnd(() => origin.close());
  const second = await proxy({ ports: [origin.address().port] });
  const client = net.connect(second.port, '127.0.0.1');
  client.on('error', () => {});
  const target = `http://127.0.0.1:${origin.address().port}/events`;
  let got = '';
  client.on('data', (data) => { got += data; });
  client.write(`GET /proxy/${target} HTTP/1.1\r\nhost: 127.0.0.1:${second.port}\r\nx-proxy-token: ${TOKEN}\r\naccept: text/event-stream\r\n\r\n`);
  await until('the first event', () => got.includes('data: 1'));
  const begun = performance.now();
  client.destroy();
  await until('the upstream to be closed', () => closedAt !== undefined, 5000, 2);
  return closedAt - begun;
}
