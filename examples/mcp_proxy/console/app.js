// Tabs, the token, and the keys that work everywhere.
import { $, setToken } from './lib.js';
import { abort } from './request.js';
import './mcp.js';
import './socket.js';
import './explain.js';
import './live.js';

const tabs = [...document.querySelectorAll('[role=tab]')];

function select(tab, focus = true) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute('aria-selected', String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute('aria-controls')).hidden = !chosen;
  }
  if (focus) tab.focus();
  tab.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  history.replaceState(null, '', `#${tab.id.slice(4)}`);
}

for (const tab of tabs) {
  tab.addEventListener('click', () => select(tab));
  tab.addEventListener('keydown', (event) => {
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(tabs.at(to % tabs.length));
  });
}
const asked = tabs.find((tab) => tab.id === `tab-${location.hash.slice(1)}`);
if (asked) select(asked, false);

const field = $('token');
field.value = '';
field.addEventListener('input', () => {
  setToken(field.value);
  field.parentElement.classList.remove('wanted');
});
$('token-show').addEventListener('click', () => {
  const shown = field.type === 'password';
  field.type = shown ? 'text' : 'password';
  $('token-show').textContent = shown ? 'Hide' : 'Show';
  $('token-show').setAttribute('aria-pressed', String(shown));
});

document.addEventListener('keydown', (event) => {
  const panel = document.querySelector('[role=tabpanel]:not([hidden])');
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    // The form that one is in, or else the panel's first.
    const form = document.activeElement?.closest('form');
    const button = (form && panel.contains(form) ? form : panel).querySelector('button.primary:not(:disabled)');
    button?.click();
  } else if (event.key === 'Escape' && panel.id === 'panel-request') abort();
});
