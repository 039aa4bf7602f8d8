// Try a target: the answer is shown as it arrives.
import { $, byProxy, chip, eachChunk, el, EventReader, hex, millis, needToken, pretty, remember, say, size, through, why } from './lib.js';

/** More than this is counted, and not shown. */
const SHOWN = 1 << 20;
let running;
/** What the last answer was, for switching between its forms. */
let last;

export const abort = () => running?.abort();

function headers() {
  const fields = new Headers();
  const refused = [];
  for (const line of $('request-headers').value.split('\n').map((text) => text.trim()).filter(Boolean)) {
    const colon = line.indexOf(':');
    try {
      if (colon < 1) throw new TypeError('no colon');
      fields.append(line.slice(0, colon).trim(), line.slice(colon + 1).trim());
    } catch (error) {
      refused.push(`${line} (${error.message})`);
    }
  }
  if (refused.length) throw new Error(`not a field: ${refused.join(', ')}`);
  return fields;
}

const hasBody = () => !['GET', 'HEAD', 'OPTIONS'].includes($('request-method').value);

async function send() {
  if (!needToken()) return;
  running?.abort();
  const control = new AbortController();
  running = control;
  $('request-abort').disabled = false;
  $('request-answer').hidden = true;
  say('request-status', chip('waiting', 'busy'));
  const target = $('request-url').value.trim();
  remember(target);
  const begun = performance.now();
  const answer = { bytes: 0, pieces: 0, text: '', start: [], kept: 0 };
  try {
    const body = hasBody() && $('request-body').value ? $('request-body').value : undefined;
    const response = await through($('request-way').value, target, { method: $('request-method').value, headers: headers(), body, signal: control.signal });
    answer.head = performance.now() - begun;
    answer.response = response;
    await read(response, answer, begun);
    show(answer, performance.now() - begun, 'complete');
  } catch (error) {
    if (running === control) show(answer, performance.now() - begun, why(error));
  } finally {
    if (running === control) {
      running = undefined;
      $('request-abort').disabled = true;
    }
  }
}

async function read(response, answer, begun) {
  last = answer;
  const kind = response.headers.get('content-type') ?? '';
  answer.json = /[/+]json\b/.test(kind);
  answer.plain = !kind || /^text\/|[/+](json|xml)|javascript|x-www-form|ndjson/.test(kind);
  const events = kind.startsWith('text/event-stream') ? new EventReader() : undefined;
  $('request-answer').hidden = false;
  $('request-events').hidden = !events;
  $('request-text').hidden = Boolean(events);
  $('request-tools').hidden = Boolean(events);
  $('request-events').replaceChildren();
  $('request-text').textContent = '';
  $('request-note').textContent = '';
  $('request-field-list').replaceChildren(...[...response.headers].flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  show(answer, undefined, 'receiving');
  const decoder = new TextDecoder();
  await eachChunk(response, (chunk) => {
    answer.bytes += chunk.length;
    answer.pieces += 1;
    const text = decoder.decode(chunk, { stream: true });
    if (events) for (const event of events.push(text)) addEvent(event, performance.now() - begun);
    else if (answer.text.length < SHOWN) {
      answer.text += text;
      if (answer.plain) $('request-text').append(text);
      else if (answer.kept < 1024) {
        answer.start.push(chunk.slice(0, 1024 - answer.kept));
        answer.kept += Math.min(chunk.length, 1024 - answer.kept);
      }
    } else $('request-note').textContent = `only the first ${size(SHOWN)} are shown`;
    show(answer, undefined, 'receiving');
  });
  finishText(answer);
}

function addEvent(event, at) {
  const list = $('request-events');
  const name = event.event === 'message' ? '' : `${event.event}  `;
  list.append(el('li', {}, el('span', {}, `+${millis(at)}`), el('span', {}, name + event.data)));
  if (list.childElementCount > 1000) list.firstElementChild.remove();
  list.scrollTop = list.scrollHeight;
}

/** Once all of it is there, JSON can be laid out and other bytes be shown as such. */
function finishText(answer) {
  if (!answer || $('request-text').hidden) return;
  let text = answer.text;
  if (!answer.plain) {
    const start = new Uint8Array(answer.kept);
    let at = 0;
    for (const piece of answer.start) { start.set(piece, at); at += piece.length; }
    text = hex(start) + (answer.bytes > answer.kept ? `\n… ${answer.bytes - answer.kept} more bytes` : '');
  } else if (answer.json && $('request-pretty').checked && answer.bytes <= SHOWN) {
    try { text = pretty(JSON.parse(text)); } catch { /* shown as it is */ }
  }
  $('request-text').textContent = text;
}

function show(answer, total, state) {
  const parts = [];
  const { response } = answer;
  if (response) {
    // `fetch` shows a redirect that it did not follow without a status.
    const status = response.type === 'opaqueredirect' ? 'redirect, not followed' : `${response.status} ${response.statusText}`.trim();
    parts.push(chip(status, response.status >= 400 ? 'bad' : response.status >= 200 && response.status < 300 ? 'good' : 'warn'));
    if (byProxy(response)) parts.push(chip('from the proxy, not from the target', 'warn'));
    parts.push(`head ${millis(answer.head)}`);
    if (total !== undefined) parts.push(`all ${millis(total)}`);
    parts.push(`${size(answer.bytes)} in ${answer.pieces} ${answer.pieces === 1 ? 'piece' : 'pieces'}`);
  }
  if (state === 'receiving') parts.push(chip('receiving', 'busy'));
  else if (state !== 'complete') parts.push(chip(state, 'bad'));
  say('request-status', ...parts);
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

async function copy() {
  const by = $('request-way').value === 'path' ? '' : ` -H ${quote(`X-Target-Url: ${$('request-url').value.trim()}`)}`;
  const path = $('request-way').value === 'path' ? `/proxy/${$('request-url').value.trim()}` : '/forward';
  const fields = [...headers()].map(([name, value]) => ` -H ${quote(`${name}: ${value}`)}`).join('');
  const body = hasBody() && $('request-body').value ? ` --data-binary ${quote($('request-body').value)}` : '';
  await navigator.clipboard.writeText(`curl -sS -N -X ${$('request-method').value} -H "X-Proxy-Token: $PROXY_TOKEN"${by}${fields}${body} ${quote(location.origin + path)}`);
}

$('request-form').addEventListener('submit', (event) => { event.preventDefault(); send(); });
$('request-abort').addEventListener('click', abort);
$('request-curl').addEventListener('click', () => copy().then(
  () => say('request-status', 'copied; the token is left to $PROXY_TOKEN'),
  (error) => say('request-status', chip(`not copied: ${why(error)}`, 'bad')),
));
$('request-wrap').addEventListener('change', (event) => $('request-text').classList.toggle('wrap', event.target.checked));
$('request-pretty').addEventListener('change', () => { if (!running) finishText(last); });
const dim = () => { $('request-body').disabled = !hasBody(); };
$('request-method').addEventListener('change', dim);
dim();
