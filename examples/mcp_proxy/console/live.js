// Audit records as they are written, and three small charts of the last minute.
import { $, chip, eachEvent, el, needToken, own, refusal, say, size, svg, why } from './lib.js';

const SECONDS = 60;
const ROWS = 300;
let control;
let buckets = new Map();
let reasons = new Map();
let records = [];
let seen = 0;
let lost = 0;
let dirty = false;
let timer;

const group = (record) => (record.outcome === 'refused' ? 'refused' : ['failed', 'upstream_failed', 'aborted'].includes(record.outcome) ? 'failed' : 'done');

async function watch() {
  if (control || !needToken()) return;
  const mine = new AbortController();
  control = mine;
  $('live-start').disabled = true;
  $('live-stop').disabled = false;
  timer = setInterval(draw, 1000);
  let ended = 'stopped';
  try {
    for (;;) {
      say('live-status', chip('connecting', 'busy'));
      const response = await own('/console/events', { headers: { accept: 'text/event-stream' }, signal: mine.signal });
      if (!response.ok) throw new Error(`${response.status}: ${await refusal(response)}`);
      let reason;
      await eachEvent(response, (event) => { reason ??= take(event); });
      // Only what may come back is asked again.
      if (reason === 'revoked') throw new Error('the token is no longer valid, or its rights have changed');
      say('live-status', chip(reason === 'shutdown' ? 'the server ends' : 'interrupted', 'warn'), 'again in 2 s');
      await pause(2000, mine.signal);
    }
  } catch (error) {
    if (!mine.signal.aborted) ended = why(error);
  }
  clearInterval(timer);
  control = undefined;
  $('live-start').disabled = false;
  $('live-stop').disabled = true;
  say('live-status', chip(ended === 'stopped' ? 'stopped' : 'ended', ended === 'stopped' ? '' : 'bad'), ended === 'stopped' ? counts() : ended);
  draw();
}

const pause = (ms, signal) => new Promise((resolve, reject) => {
  const waiting = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => { clearTimeout(waiting); reject(signal.reason); }, { once: true });
});

const counts = () => `${seen} records${lost ? `, ${lost} lost because this page was too slow` : ''}`;

/** @returns the reason, when it was the last event. */
function take({ event, data }) {
  const value = JSON.parse(data);
  if (event === 'end') return value.reason;
  if (event === 'hello') say('live-status', chip('watching', 'good'), `as ${value.token}`);
  else if (event === 'lost') lost += value.lost;
  else if (event === 'message') add(value);
  dirty = true;
  return undefined;
}

function add(record) {
  seen += 1;
  const second = Math.floor(Date.now() / 1000);
  if (!buckets.has(second)) buckets.set(second, { done: 0, refused: 0, failed: 0, times: [] });
  const bucket = buckets.get(second);
  const kind = group(record);
  bucket[kind] += 1;
  if (record.head_ms !== undefined && bucket.times.length < 5000) bucket.times.push(record.head_ms);
  if (kind !== 'done') {
    const reason = record.reason ?? record.outcome;
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  records.unshift(record);
  if (records.length > ROWS) records.length = ROWS;
  // At once while it is calm, else with the clock.
  if (bucket.done + bucket.refused + bucket.failed <= 20) requestAnimationFrame(() => dirty && draw());
}

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
const figure = (ms) => (ms < 10 ? ms.toFixed(1) : String(Math.round(ms)));

function draw() {
  const now = Math.floor(Date.now() / 1000);
  for (const second of buckets.keys()) if (second < now - SECONDS) buckets.delete(second);
  const minute = Array.from({ length: SECONDS }, (_, i) => buckets.get(now - SECONDS + 1 + i));
  rate(minute);
  latency(minute);
  byReason();
  if (dirty && !$('live-freeze').checked) table();
  if (control && dirty) {
    const status = $('live-status');
    if (status.childElementCount > 2) status.lastElementChild.remove();
    if (seen || lost) status.append(el('span', { class: 'muted' }, counts()));
  }
  dirty = false;
}

function rate(minute) {
  const totals = minute.map((b) => (b ? b.done + b.refused + b.failed : 0));
  const top = Math.max(4, ...totals);
  const bars = [];
  minute.forEach((bucket, i) => {
    let base = 60;
    for (const kind of bucket ? ['done', 'refused', 'failed'] : []) {
      const height = (bucket[kind] / top) * 58;
      base -= height;
      if (height) bars.push(svg('rect', { class: kind, x: i * 4 + 0.4, y: base, width: 3.2, height }));
    }
  });
  $('live-rate').replaceChildren(...bars);
  const all = totals.reduce((a, b) => a + b, 0);
  const text = `mean ${(all / SECONDS).toFixed(1)}, peak ${Math.max(...totals)}`;
  $('live-rate-now').textContent = text;
  $('live-rate').setAttribute('aria-label', `Requests a second in the last minute: ${text}`);
}

function latency(minute) {
  const points = minute.map((bucket) => {
    if (!bucket?.times.length) return undefined;
    const sorted = bucket.times.toSorted((a, b) => a - b);
    return [quantile(sorted, 0.5), quantile(sorted, 0.95)];
  });
  const top = Math.max(1, ...points.flatMap((p) => p ?? []));
  const lines = ['p95', 'p50'].map((name) => {
    // A gap where nothing happened; a dot where only one second has something.
    let path = '';
    let pen = false;
    points.forEach((p, i) => {
      if (!p) { pen = false; return; }
      const y = (58 - (p[name === 'p50' ? 0 : 1] / top) * 54).toFixed(1);
      path += pen ? `L${i * 4 + 2} ${y}` : `M${i * 4 + 1} ${y}L${i * 4 + 2} ${y}`;
      pen = true;
    });
    return svg('path', { class: name, d: path || 'M0 0' });
  });
  $('live-latency').replaceChildren(...lines);
  $('live-latency-top').textContent = `the top is ${figure(top)} ms`;
  const all = minute.flatMap((bucket) => bucket?.times ?? []).sort((a, b) => a - b);
  const text = all.length ? `${figure(quantile(all, 0.5))} ms, 95 %: ${figure(quantile(all, 0.95))} ms` : '';
  $('live-latency-now').textContent = text;
  $('live-latency').setAttribute('aria-label', `Time to the head of the answer: ${text || 'nothing yet'}`);
}

function byReason() {
  const list = [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 8);
  const top = list[0]?.[1] ?? 1;
  const sum = [...reasons.values()].reduce((a, b) => a + b, 0);
  $('live-refused-now').textContent = sum ? `${sum} in all` : '';
  $('live-reasons').replaceChildren(...(list.length ? list.map(([name, n]) => {
    const fill = el('span', { class: 'fill' });
    fill.style.width = `${(n / top) * 100}%`;
    return el('div', { class: 'bar' }, el('span', { class: 'name', title: name }, name), fill, el('span', { class: 'n' }, n));
  }) : [el('span', { class: 'muted' }, 'none yet')]));
}

const target = (record) => (record.host ? `${record.scheme}://${record.host}:${record.port}${record.path ?? ''}` : record.request_path ?? '');

function table() {
  const text = $('live-filter').value.trim().toLowerCase();
  const chosen = text ? records.filter((record) => JSON.stringify(record).toLowerCase().includes(text)) : records;
  $('live-rows').replaceChildren(...chosen.slice(0, 200).map((record) => {
    const title = [record.detail, record.dialed && `dialled ${record.dialed}`, record.client && `client ${record.client}`, record.mcp_method && `${record.mcp_method} ${record.mcp_name ?? ''}`].filter(Boolean).join('\n');
    const cell = (value, name = '') => el('td', { class: name }, value ?? '');
    return el('tr', { class: group(record), title },
      cell(record.time?.slice(11, 19)), cell(record.outcome, 'outcome'), cell(record.status), cell(record.tunnel ? `${record.method} tunnel` : record.method, 'wide'), cell(target(record), 'target'),
      cell(record.token, 'wide'), cell(record.reason), cell(record.duration_ms === undefined ? '' : figure(record.duration_ms), 'wide num'), cell(size((record.bytes_in ?? 0) + (record.bytes_out ?? 0)), 'wide num'));
  }));
}

$('live-start').addEventListener('click', watch);
$('live-stop').addEventListener('click', () => control?.abort());
$('live-clear').addEventListener('click', () => {
  [buckets, reasons, records, seen, lost] = [new Map(), new Map(), [], 0, 0];
  dirty = true;
  draw();
});
$('live-filter').addEventListener('input', table);
$('live-freeze').addEventListener('change', (event) => { if (!event.target.checked) table(); });
draw();
