// A WebSocket through the proxy. Browsers set no fields there: the token travels in a subprotocol, or in the query.
import { $, chip, clock, hex, logLine, needToken, remember, say, size, token } from './lib.js';

const CARRIER = 'base64url.bearer.authorization.portcullis.';
let socket;

const base64url = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text))).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

function open() {
  if (!needToken()) return;
  socket?.close();
  const target = $('socket-url').value.trim();
  remember(target);
  const protocols = $('socket-protocols').value.split(/[\s,]+/).filter(Boolean);
  const base = location.origin.replace(/^http/, 'ws');
  let mine;
  try {
    if ($('socket-way').value === 'ws') {
      const query = new URLSearchParams({ proxy_token: token(), mcp_server_url: target });
      mine = new WebSocket(`${base}/ws?${query}`, protocols);
    } else mine = new WebSocket(`${base}/proxy/${target}`, [CARRIER + base64url(token()), ...protocols]);
  } catch (error) {
    say('socket-status', chip('not opened', 'bad'), error.message);
    return;
  }
  socket = mine;
  mine.binaryType = 'arraybuffer';
  say('socket-status', chip('connecting', 'busy'));
  $('socket-close').disabled = false;
  let opened = false;
  mine.onopen = () => {
    opened = true;
    ready(true);
    const chosen = mine.protocol.startsWith(CARRIER) ? '' : mine.protocol;
    say('socket-status', chip('open', 'good'), chosen ? `subprotocol ${chosen}` : 'no subprotocol');
    line('', `open: ${target}`);
    $('socket-text').focus();
  };
  mine.onmessage = ({ data }) => line('in', typeof data === 'string' ? data : `${size(data.byteLength)}\n${hex(new Uint8Array(data), 256)}`);
  mine.onclose = ({ code, reason, wasClean }) => {
    if (socket !== mine) return;
    socket = undefined;
    ready(false);
    $('socket-close').disabled = true;
    const text = `${code}${reason ? ` ${reason}` : ''}`;
    // A browser does not tell a page why a handshake was refused.
    say('socket-status', chip(opened ? `closed ${text}` : 'refused', wasClean && code === 1000 ? '' : 'bad'), opened ? '' : 'the browser does not say why; the tabs Request and Live do');
    line(opened && wasClean && code === 1000 ? '' : 'bad', opened ? `closed: ${text}` : `not opened: ${text}`);
  };
}

function ready(yes) {
  $('socket-text').disabled = !yes;
  $('socket-send').disabled = !yes;
}

const MARK = { in: '←', out: '→' };
const line = (kind, text) => logLine($('socket-log'), kind, `${MARK[kind] ?? '·'} ${clock()}`, text);

function send() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const text = $('socket-text').value;
  socket.send(text);
  line('out', text);
  $('socket-text').select();
}

$('socket-form').addEventListener('submit', (event) => { event.preventDefault(); open(); });
$('socket-close').addEventListener('click', () => socket?.close(1000));
$('socket-message').addEventListener('submit', (event) => { event.preventDefault(); send(); });
