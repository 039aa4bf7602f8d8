// A small MCP server on the official v2 package with what the conformance scenarios of 2026-07-28 ask for.
// usage: node conformance-server.mjs PORT
import { createServer } from 'node:http';
import {
  createMcpHandler,
  createRequestStateCodec,
  inputRequired,
  McpServer,
  ResourceTemplate,
} from '@modelcontextprotocol/server';
import { localhostHostValidation, localhostOriginValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { z } from 'zod';

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const SOUND = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';
const text = (value) => ({ content: [{ type: 'text', text: value }] });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const state = createRequestStateCodec({ key: 'a key that only this test process knows, 32 bytes' });

const ask = (message, properties) => inputRequired.elicit({
  message,
  requestedSchema: { type: 'object', properties, required: Object.keys(properties) },
});
const sample = (question, maxTokens = 100) => inputRequired.createMessage({
  messages: [{ role: 'user', content: { type: 'text', text: question } }],
  maxTokens,
});

function build() {
  const server = new McpServer(
    { name: 'portcullis-conformance', version: '1.0.0' },
    {
      capabilities: { tools: { listChanged: true }, prompts: { listChanged: true }, resources: {}, completions: {}, logging: {} },
      requestState: { verify: state.verify },
      cacheHints: {
        'tools/list': { ttlMs: 1000, cacheScope: 'public' },
        'prompts/list': { ttlMs: 1000, cacheScope: 'public' },
        'resources/list': { ttlMs: 1000, cacheScope: 'public' },
        'resources/templates/list': { ttlMs: 1000, cacheScope: 'public' },
        'resources/read': { ttlMs: 1000, cacheScope: 'private' },
      },
    },
  );
  const tool = (name, handler, inputSchema = z.object({})) =>
    server.registerTool(name, { description: `The ${name} of the conformance suite`, inputSchema }, handler);

  tool('test_simple_text', async () => text('This is a simple text response for testing.'));
  tool('test_image_content', async () => ({ content: [{ type: 'image', data: PIXEL, mimeType: 'image/png' }] }));
  tool('test_audio_content', async () => ({ content: [{ type: 'audio', data: SOUND, mimeType: 'audio/wav' }] }));
  const embedded = { type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } };
  tool('test_embedded_resource', async () => ({ content: [embedded] }));
  tool('test_multiple_content_types', async () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: PIXEL, mimeType: 'image/png' },
      { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } },
    ],
  }));
  tool('test_error_handling', async () => ({ ...text('This tool intentionally returns an error for testing'), isError: true }));
  const progress = async (ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const step of [0, 50, 100]) {
      if (progressToken !== undefined) {
        await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress: step, total: 100 } });
      }
      await pause(50);
    }
  };
  tool('test_tool_with_progress', async (_args, ctx) => {
    await progress(ctx);
    return text('done');
  });
  tool('test_streaming_elicitation', async (_args, ctx) => {
    await progress(ctx);
    return text('streamed');
  });
  const logging = async (_args, ctx) => {
    for (const line of ['started', 'working', 'finished']) {
      await ctx.mcpReq.log('info', line);
      await pause(20);
    }
    return text('logged');
  };
  tool('test_logging_tool', logging);
  tool('test_tool_with_logging', logging);
  // The package refuses by itself to ask for what the client did not declare.
  tool('test_missing_capability', async () => inputRequired({ inputRequests: { question: sample('Anything?') } }));
  tool('test_trigger_tool_change', async () => {
    await handler.notify.toolsChanged();
    return text('changed');
  });
  tool('test_trigger_prompt_change', async () => {
    await handler.notify.promptsChanged();
    return text('changed');
  });
  // Mirrored by clients into `Mcp-Param-Region`: a header whose name no proxy can know beforehand.
  tool('test_custom_headers', async ({ region }) => text(`region ${region}`), z.object({ region: z.string().meta({ 'x-mcp-header': 'Region' }) }));
  tool('json_schema_2020_12_tool', async () => text('ok'), z.object({ name: z.string().optional() }));

  const responses = (ctx) => ctx.mcpReq.inputResponses ?? {};
  const accepted = (ctx, key, field) => {
    const answer = responses(ctx)[key];
    return answer?.action === 'accept' && typeof answer.content?.[field] !== 'undefined' ? answer.content[field] : undefined;
  };
  tool('test_input_required_result_elicitation', async (_args, ctx) => {
    const name = accepted(ctx, 'user_name', 'name');
    if (typeof name === 'string') return text(`Hello, ${name}!`);
    return inputRequired({ inputRequests: { user_name: ask('What is your name?', { name: { type: 'string' } }) } });
  });
  tool('test_input_required_result_sampling', async (_args, ctx) => {
    const answer = responses(ctx).capital_question;
    if (answer?.content) return text(answer.content.text);
    return inputRequired({ inputRequests: { capital_question: sample('What is the capital of France?') } });
  });
  tool('test_input_required_result_list_roots', async (_args, ctx) => {
    const answer = responses(ctx).client_roots;
    if (answer?.roots) return text(answer.roots.map((root) => root.uri).join(' '));
    return inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
  });
  const sealed = async (_args, ctx) => {
    const seen = ctx.mcpReq.requestState();
    if (seen && accepted(ctx, 'confirm', 'ok') !== undefined) return text('state-ok');
    return inputRequired({
      inputRequests: { confirm: ask('Please confirm', { ok: { type: 'boolean' } }) },
      requestState: await state.mint({ step: 1 }),
    });
  };
  tool('test_input_required_result_request_state', sealed);
  tool('test_input_required_result_tampered_state', sealed);
  tool('test_input_required_result_multiple_inputs', async (_args, ctx) => {
    const got = responses(ctx);
    if (got.user_name && got.greeting && got.client_roots) return text('all inputs received');
    return inputRequired({
      inputRequests: {
        user_name: ask('What is your name?', { name: { type: 'string' } }),
        greeting: sample('Generate a greeting', 50),
        client_roots: inputRequired.listRoots(),
      },
      requestState: await state.mint({ step: 1 }),
    });
  });
  tool('test_input_required_result_multi_round', async (_args, ctx) => {
    const seen = ctx.mcpReq.requestState();
    const color = accepted(ctx, 'step2', 'color');
    if (seen?.step === 2 && color) return text(`${seen.name} likes ${color}`);
    const name = accepted(ctx, 'step1', 'name');
    if (seen?.step === 1 && name) {
      return inputRequired({
        inputRequests: { step2: ask('Step 2: What is your favorite color?', { color: { type: 'string' } }) },
        requestState: await state.mint({ step: 2, name }),
      });
    }
    return inputRequired({
      inputRequests: { step1: ask('Step 1: What is your name?', { name: { type: 'string' } }) },
      requestState: await state.mint({ step: 1 }),
    });
  });
  tool('test_input_required_result_capabilities', async (_args, ctx) => {
    const can = capabilities(ctx);
    const inputRequests = {};
    if (can.sampling) inputRequests.question = sample('What is the capital of France?');
    if (can.elicitation) inputRequests.user_name = ask('What is your name?', { name: { type: 'string' } });
    if (Object.keys(inputRequests).length === 0 || Object.keys(responses(ctx)).length > 0) return text('nothing to ask');
    return inputRequired({ inputRequests });
  });

  server.registerResource('static-text', 'test://static-text', { mimeType: 'text/plain' }, async (uri) => ({
    contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }],
  }));
  server.registerResource('static-binary', 'test://static-binary', { mimeType: 'image/png' }, async (uri) => ({
    contents: [{ uri: uri.href, mimeType: 'image/png', blob: PIXEL }],
  }));
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }), { mimeType: 'application/json' },
    async (uri, { id }) => ({
      contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }],
    }));

  const say = (value) => ({ messages: [{ role: 'user', content: { type: 'text', text: value } }] });
  const prompt = (name, handler, argsSchema) => server.registerPrompt(name, { description: `The ${name} of the suite`, argsSchema }, handler);
  prompt('test_simple_prompt', async () => say('This is a simple prompt for testing.'));
  prompt('test_prompt_with_arguments', async ({ arg1, arg2 }) => say(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`),
    z.object({ arg1: z.string(), arg2: z.string() }));
  prompt('test_prompt_with_embedded_resource', async ({ resourceUri }) => ({
    messages: [
      { role: 'user', content: { type: 'resource', resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' } } },
      { role: 'user', content: { type: 'text', text: 'Please process the embedded resource above.' } },
    ],
  }), z.object({ resourceUri: z.string() }));
  prompt('test_prompt_with_image', async () => ({
    messages: [
      { role: 'user', content: { type: 'image', data: PIXEL, mimeType: 'image/png' } },
      { role: 'user', content: { type: 'text', text: 'Please analyze the image above.' } },
    ],
  }));
  prompt('test_input_required_result_prompt', async (ctx) => {
    const context = accepted(ctx, 'user_context', 'context');
    if (context) return say(`With the context ${context}`);
    return inputRequired({ inputRequests: { user_context: ask('What context should the prompt use?', { context: { type: 'string' } }) } });
  });
  server.server.setRequestHandler('completion/complete', async () => ({ completion: { values: ['alpha', 'beta'], total: 2, hasMore: false } }));
  return server;
}

function capabilities(ctx) {
  return ctx.mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {};
}

const handler = createMcpHandler(build, { keepAliveMs: 2000 });
const serve = toNodeHandler(handler);
const hostIsLocal = localhostHostValidation();
const originIsLocal = localhostOriginValidation();
const port = Number(process.argv[2] ?? 0);
createServer((request, response) => {
  if (!hostIsLocal(request, response) || !originIsLocal(request, response)) return;
  serve(request, response);
}).listen(port, '127.0.0.1', function () {
  console.log(`listening on 127.0.0.1:${this.address().port}`);
});
