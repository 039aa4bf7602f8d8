// What the test's page offers to the test: the official clients and the fetch wrapper of examples/browser.
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as HttpV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { Client as ClientV2, StreamableHTTPClientTransport as HttpV2 } from '@modelcontextprotocol/client';
import { proxyFetch } from '../../../examples/browser/proxy-fetch.ts';

const me = { name: 'browser', version: '1.0.0' };

async function exercise(client: any, transport: any, v1: boolean, tool: string, args: object, progressTool?: string) {
  await client.connect(transport);
  const { tools } = await client.listTools();
  const answer = await client.callTool({ name: tool, arguments: args });
  const progress: number[] = [];
  if (progressTool) {
    const options = { onprogress: (p: any) => progress.push(p.progress) };
    const call = { name: progressTool, arguments: { duration: 0.6, steps: 3 } };
    await (v1 ? client.callTool(call, undefined, options) : client.callTool(call, options));
  }
  const session = transport.sessionId;
  const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
  if (session) await transport.terminateSession();
  await client.close();
  return { tools: tools.map((t: any) => t.name), text: answer.content[0].text, progress, session, version };
}

function v2(mode: any) {
  return new ClientV2(me, { capabilities: {}, versionNegotiation: { mode } });
}

Object.assign(globalThis, {
  /** By header, through the wrapper: the client keeps the target's own URL. */
  byHeader: (proxy: string, token: string, target: string, kind: string, ...rest: [string, object, string?]) => {
    const options = { fetch: proxyFetch(proxy, token) };
    return kind === 'v1'
      ? exercise(new ClientV1(me, { capabilities: {} }), new HttpV1(new URL(target), options), true, ...rest)
      : exercise(v2('auto'), new HttpV2(new URL(target), options), false, ...rest);
  },
  /** By path, with the token as a header of the transport's own. */
  byPath: (proxy: string, token: string, target: string, kind: string, ...rest: [string, object, string?]) => {
    const url = new URL(`${proxy}/proxy/${target}`);
    const options = { requestInit: { headers: { 'x-proxy-token': token } } };
    return kind === 'v1'
      ? exercise(new ClientV1(me, { capabilities: {} }), new HttpV1(url, options), true, ...rest)
      : exercise(v2('auto'), new HttpV2(url, options), false, ...rest);
  },
  tryFetch: async (url: string, init: RequestInit, wanted: string[] = []) => {
    try {
      const answer = await fetch(url, init);
      return { status: answer.status, headers: Object.fromEntries(wanted.map((n) => [n, answer.headers.get(n)])), text: await answer.text() };
    } catch (error) {
      return { error: String(error) };
    }
  },
  events: (url: string, count: number) => new Promise((resolve) => {
    const source = new EventSource(url);
    const got: string[] = [];
    source.onmessage = (event) => {
      got.push(event.data);
      if (got.length === count) { source.close(); resolve(got); }
    };
    source.onerror = () => { source.close(); resolve(got.concat('error')); };
  }),
  talk: (url: string, protocols: string[], say: string) => new Promise((resolve) => {
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => socket.send(say);
    socket.onmessage = (event) => { resolve({ protocol: socket.protocol, heard: event.data }); socket.close(); };
    socket.onclose = (event) => resolve({ code: event.code, protocol: socket.protocol });
  }),
});
