// An MCP client in the small: initialize, tools/list, and tools/call with a form made from the tool's schema.
import { $, chip, eachEvent, el, logLine, clock, millis, needToken, pretty, refusal, remember, say, size, through, why } from './lib.js';
import { collect, fill, form } from './schema.js';

const VERSION = '2025-11-25';
let session;
let tool;
let calling;

class Session {
  constructor(way, url, bearer) {
    Object.assign(this, { way, url, bearer, next: 0, id: undefined, version: undefined });
  }

  #headers() {
    const headers = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };
    if (this.bearer) headers.authorization = `Bearer ${this.bearer}`;
    if (this.id) headers['mcp-session-id'] = this.id;
    if (this.version) headers['mcp-protocol-version'] = this.version;
    return headers;
  }

  async #post(message, signal) {
    log('out', message);
    return through(this.way, this.url, { method: 'POST', headers: this.#headers(), body: JSON.stringify(message), signal });
  }

  /** One request; `onOther` gets the notifications that arrive before its answer. */
  async request(method, params = {}, { signal, onOther } = {}) {
    const id = ++this.next;
    const withToken = onOther ? { ...params, _meta: { progressToken: id } } : params;
    const response = await this.#post({ jsonrpc: '2.0', id, method, params: withToken }, signal);
    if (!response.ok) throw new Error(`${response.status}: ${await refusal(response)}`);
    this.id ??= response.headers.get('mcp-session-id') ?? undefined;
    let answer;
    const take = (message) => {
      log('in', message);
      if (message.id === id && ('result' in message || 'error' in message)) answer = message;
      else onOther?.(message);
    };
    if ((response.headers.get('content-type') ?? '').startsWith('text/event-stream')) {
      await eachEvent(response, (event) => {
        if (event.data) take(JSON.parse(event.data));
        return answer === undefined;
      });
    } else {
      const body = await response.json();
      for (const message of Array.isArray(body) ? body : [body]) take(message);
    }
    if (!answer) throw new Error('the server ended without an answer');
    if (answer.error) throw new Error(`${answer.error.message} (${answer.error.code})`);
    return answer.result;
  }

  async notify(method, params) {
    const response = await this.#post({ jsonrpc: '2.0', method, ...(params && { params }) });
    await response.body?.cancel();
  }

  async begin() {
    const result = await this.request('initialize', { protocolVersion: VERSION, capabilities: {}, clientInfo: { name: 'portcullis-console', version: '1' } });
    this.version = result.protocolVersion;
    await this.notify('notifications/initialized');
    return result;
  }

  async tools() {
    const all = [];
    let cursor;
    do {
      const page = await this.request('tools/list', cursor ? { cursor } : {});
      all.push(...(page.tools ?? []));
      cursor = page.nextCursor;
    } while (cursor && all.length < 5000);
    return all;
  }

  async end() {
    if (!this.id) return;
    const response = await through(this.way, this.url, { method: 'DELETE', headers: this.#headers() });
    await response.body?.cancel();
  }
}

let messages = 0;
function log(kind, message) {
  messages += 1;
  $('mcp-count').textContent = String(messages);
  logLine($('mcp-log'), kind, `${kind === 'out' ? '→' : '←'} ${clock()}`, JSON.stringify(message).slice(0, 4000), 200);
}

async function connect() {
  if (!needToken()) return;
  await disconnect();
  const url = $('mcp-url').value.trim();
  remember(url);
  say('mcp-status', chip('connecting', 'busy'));
  const begun = performance.now();
  const mine = new Session($('mcp-way').value, url, $('mcp-token').value.trim());
  session = mine;
  try {
    const about = await mine.begin();
    const tools = about.capabilities?.tools ? await mine.tools() : [];
    if (session !== mine) return;
    const { name = 'a server', version = '' } = about.serverInfo ?? {};
    say('mcp-status', chip('connected', 'good'), `${name} ${version}`, `revision ${about.protocolVersion}`, mine.id ? 'with a session' : 'without a session', millis(performance.now() - begun));
    $('mcp-session').hidden = false;
    $('mcp-disconnect').disabled = false;
    $('mcp-tools-title').textContent = `${tools.length} tools`;
    $('mcp-tools').replaceChildren(...tools.map((each) => el('li', { 'data-name': String(each.name).toLowerCase() },
      el('button', { type: 'button', 'aria-pressed': 'false', onclick: (event) => choose(each, event.currentTarget) }, each.title && each.title !== each.name ? `${each.name} – ${each.title}` : each.name))));
    filter();
  } catch (error) {
    if (session === mine) {
      session = undefined;
      say('mcp-status', chip('not connected', 'bad'), why(error));
    }
  }
}

async function disconnect() {
  calling?.abort();
  const old = session;
  session = undefined;
  tool = undefined;
  $('mcp-session').hidden = true;
  $('mcp-tool').hidden = true;
  $('mcp-hint').hidden = false;
  $('mcp-disconnect').disabled = true;
  say('mcp-status');
  await old?.end().catch(() => {});
}

function choose(chosen, button) {
  tool = chosen;
  for (const other of $('mcp-tools').querySelectorAll('button')) other.setAttribute('aria-pressed', String(other === button));
  $('mcp-hint').hidden = true;
  $('mcp-tool').hidden = false;
  $('mcp-tool-name').textContent = chosen.name;
  $('mcp-tool-text').textContent = chosen.description ?? '';
  $('mcp-args').replaceChildren(form(chosen.inputSchema ?? {}));
  $('mcp-as-json').checked = false;
  asJson();
  // Below the list, where there is one column only.
  if (matchMedia('(max-width: 700px)').matches) $('mcp-tool').scrollIntoView();
  $('mcp-result').replaceChildren();
  say('mcp-call-status');
}

function asJson() {
  const on = $('mcp-as-json').checked;
  $('mcp-args').hidden = on;
  $('mcp-json-label').hidden = !on;
  if (on) $('mcp-json').value = pretty(collect($('mcp-args'), false));
}

function fromJson() {
  try {
    fill($('mcp-args'), JSON.parse($('mcp-json').value || '{}'));
    return true;
  } catch (error) {
    say('mcp-call-status', chip('not JSON', 'bad'), error.message);
    return false;
  }
}

async function call() {
  if (!session || !tool || !needToken()) return;
  let values;
  try {
    values = $('mcp-as-json').checked ? JSON.parse($('mcp-json').value || '{}') : collect($('mcp-args'), true);
  } catch (error) {
    say('mcp-call-status', chip('not sent', 'bad'), error.message);
    error.field?.focus();
    return;
  }
  calling?.abort();
  const control = new AbortController();
  calling = control;
  $('mcp-cancel').disabled = false;
  $('mcp-result').replaceChildren();
  say('mcp-call-status', chip('calling', 'busy'));
  const begun = performance.now();
  const onOther = ({ method, params }) => {
    if (method === 'notifications/progress') {
      const of = params.total ? ` of ${params.total}` : '';
      say('mcp-call-status', chip('calling', 'busy'), `${params.progress}${of}`, params.message ?? '');
    } else if (method === 'notifications/message') $('mcp-result').append(el('p', { class: 'muted' }, `${params.level}: ${typeof params.data === 'string' ? params.data : JSON.stringify(params.data)}`));
  };
  const id = session.next + 1;
  try {
    const result = await session.request('tools/call', { name: tool.name, arguments: values }, { signal: control.signal, onOther });
    say('mcp-call-status', chip(result.isError ? 'the tool failed' : 'done', result.isError ? 'bad' : 'good'), millis(performance.now() - begun));
    $('mcp-result').append(...shown(result));
  } catch (error) {
    say('mcp-call-status', chip(control.signal.aborted ? 'cancelled' : 'failed', 'bad'), control.signal.aborted ? '' : why(error));
    if (control.signal.aborted) session?.notify('notifications/cancelled', { requestId: id, reason: 'cancelled in the console' }).catch(() => {});
  } finally {
    if (calling === control) {
      calling = undefined;
      $('mcp-cancel').disabled = true;
    }
  }
}

function shown(result) {
  const parts = (result.content ?? []).map((part) => {
    if (part.type === 'text') return el('pre', { class: 'wrap' }, part.text);
    if (typeof part.data === 'string') return el('p', { class: 'muted' }, `${part.type}, ${part.mimeType ?? 'of no type'}, ${size(Math.floor(part.data.length * 0.75))}`);
    return el('pre', { class: 'wrap' }, pretty(part));
  });
  if (result.structuredContent !== undefined) parts.push(el('p', { class: 'muted' }, 'structured content'), el('pre', { class: 'wrap' }, pretty(result.structuredContent)));
  parts.push(el('details', {}, el('summary', {}, 'The whole result'), el('pre', { class: 'wrap' }, pretty(result))));
  return parts;
}

function filter() {
  const text = $('mcp-filter').value.trim().toLowerCase();
  for (const item of $('mcp-tools').children) item.hidden = !item.dataset.name.includes(text);
}

$('mcp-form').addEventListener('submit', (event) => { event.preventDefault(); connect(); });
$('mcp-disconnect').addEventListener('click', disconnect);
$('mcp-filter').addEventListener('input', filter);
$('mcp-call').addEventListener('submit', (event) => { event.preventDefault(); call(); });
$('mcp-cancel').addEventListener('click', () => calling?.abort());
$('mcp-as-json').addEventListener('change', (event) => {
  if (!event.target.checked && !fromJson()) event.target.checked = true;
  else asJson();
});
