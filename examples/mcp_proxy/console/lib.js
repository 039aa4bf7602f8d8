// What the tabs share. Whatever comes from outside goes into the page as text: `el` knows no other way.

export const $ = (id) => document.getElementById(id);

/** An element: properties, `class` and `data-`/`aria-` attributes of our own, then children; strings become text. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === 'class') made.className = value;
    else if (key.includes('-') || key === 'role') made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== undefined && child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function svg(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export const chip = (text, kind = '') => el('span', { class: `chip ${kind}` }, text);

/** The line under a form. */
export function say(id, ...parts) {
  $(id).replaceChildren(...parts.map((part) => (part instanceof Node ? part : el('span', {}, part))));
}

let secret = '';
export const setToken = (text) => { secret = text.trim(); };
export const token = () => secret;

/** Says so, and where, when there is no token yet. */
export function needToken() {
  if (secret) return true;
  $('token').parentElement.classList.add('wanted');
  $('token').focus();
  return false;
}

const recent = [];
export function remember(url) {
  if (recent.includes(url)) return;
  recent.unshift(url);
  recent.length = Math.min(recent.length, 20);
  $('recent').replaceChildren(...recent.map((value) => el('option', { value })));
}

/** A request to a target through this server, either way. */
export function through(way, target, init) {
  const headers = new Headers(init.headers);
  headers.set('x-proxy-token', secret);
  let path = '/forward';
  if (way === 'header') headers.set('x-target-url', target);
  else path = `/proxy/${target}`;
  return fetch(path, { ...init, headers, credentials: 'omit', cache: 'no-store', redirect: 'manual' });
}

/** The same for this server's own routes. */
export function own(path, init = {}) {
  return fetch(path, { ...init, headers: { ...init.headers, 'x-proxy-token': secret }, credentials: 'omit', cache: 'no-store' });
}

/** Whether this server refused, and not the target: it says so itself. */
export const byProxy = (response) => /^portcullis;/.test(response.headers.get('proxy-status') ?? '');

/** What a refusal says, problem document or JSON-RPC error. */
export async function refusal(response) {
  const text = (await response.text().catch(() => '')).slice(0, 2000);
  try {
    const value = JSON.parse(text);
    return [value.title ?? value.error?.message, value.detail].filter(Boolean).join(': ') || text;
  } catch {
    return text || response.statusText;
  }
}

/** Server-sent events out of pieces of text (WHATWG HTML §9.2.6). */
export class EventReader {
  #rest = '';
  #data = [];
  #event = '';
  #id;

  /** @returns {{event: string, data: string, id?: string}[]} */
  push(text) {
    const events = [];
    this.#rest += text;
    for (;;) {
      const at = this.#rest.search(/[\r\n]/);
      // A CR at the very end may be half of a CRLF.
      if (at < 0 || (this.#rest[at] === '\r' && at + 1 === this.#rest.length)) break;
      const line = this.#rest.slice(0, at);
      this.#rest = this.#rest.slice(at + (this.#rest.startsWith('\r\n', at) ? 2 : 1));
      if (line === '') {
        if (this.#data.length) events.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id });
        this.#data = [];
        this.#event = '';
        continue;
      }
      const colon = line.indexOf(':');
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'data') this.#data.push(value);
      else if (field === 'event') this.#event = value;
      else if (field === 'id') this.#id = value;
    }
    return events;
  }
}

/** Calls back for each piece of a body as it arrives. */
export async function eachChunk(response, take) {
  if (!response.body) return;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (take(value) === false) {
      await reader.cancel();
      return;
    }
  }
}

export async function eachEvent(response, take) {
  const decoder = new TextDecoder();
  const events = new EventReader();
  await eachChunk(response, (chunk) => {
    for (const event of events.push(decoder.decode(chunk, { stream: true }))) if (take(event) === false) return false;
    return undefined;
  });
}

export const pretty = (value) => JSON.stringify(value, null, 2);
export const size = (bytes) => (bytes < 10_000 ? `${bytes} B` : bytes < 10_000_000 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
export const millis = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
export const clock = (date = new Date()) => date.toLocaleTimeString([], { hour12: false });
export const why = (error) => (error.name === 'AbortError' ? 'aborted' : error.message || String(error));

/** Adds a line to a log and keeps it at its end, if the reader is there. */
export function logLine(list, kind, first, text, most = 500) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(el('li', { class: kind }, el('span', {}, first), el('span', {}, text)));
  while (list.childElementCount > most) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** Hex and characters, for what is not text. */
export function hex(bytes, most = 1024) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const row = [...bytes.slice(at, at + 16)];
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ').padEnd(47)}  ${text}`);
  }
  if (bytes.length > most) lines.push(`… ${bytes.length - most} more bytes`);
  return lines.join('\n');
}
