// Why a target is allowed or refused, rule by rule.
import { $, chip, el, millis, needToken, own, refusal, remember, say, why } from './lib.js';

async function ask() {
  if (!needToken()) return;
  const url = $('explain-url').value.trim();
  remember(url);
  say('explain-status', chip('asking', 'busy'));
  try {
    const response = await own('/console/explain', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ url }) });
    if (!response.ok) throw new Error(`${response.status}: ${await refusal(response)}`);
    const answer = await response.json();
    say('explain-status');
    $('explain-results').prepend(card(answer));
    while ($('explain-results').childElementCount > 20) $('explain-results').lastElementChild.remove();
  } catch (error) {
    say('explain-status', chip('no answer', 'bad'), why(error));
  }
}

function card(answer) {
  const steps = answer.steps.map((step) => el('li', { class: [step.decides && 'decides', step.refused ? 'no' : ''].filter(Boolean).join(' ') },
    el('span', { class: `mark ${step.refused ? 'no' : 'ok'}` }, step.refused ? 'no' : 'ok'), el('span', { class: 'rule' }, step.rule), el('span', { class: 'detail' }, step.detail)));
  const facts = [];
  if (answer.dns) facts.push(`looked up in ${millis(answer.dns.ms)}: ${answer.dns.answers.join(', ') || 'no address'}`);
  if (answer.allowed) facts.push(`would be dialled: ${answer.addresses.join(', ')}`);
  if (answer.token_allows === false) facts.push('the scopes of this token refuse it in any case');
  return el('article', { class: 'card' },
    el('h2', {}, answer.url),
    el('p', { class: 'status' }, chip(answer.allowed ? 'allowed' : `refused: ${answer.reason}`, answer.allowed ? 'good' : 'bad'), answer.target && answer.target !== answer.url ? el('span', { class: 'muted' }, `read as ${answer.target}`) : null),
    el('ol', { class: 'steps' }, ...steps),
    ...facts.map((fact) => el('p', { class: 'muted' }, fact)));
}

$('explain-form').addEventListener('submit', (event) => { event.preventDefault(); ask(); });
