// A form from a JSON schema, as far as tools use it. What it does not know becomes a field for JSON.
import { el } from './lib.js';

const DEEP = 4;
let counter = 0;

/** Follows `#/…` references, and takes the one real choice of "this or null". */
function plain(schema, root) {
  let found = schema;
  for (let i = 0; i < 8 && typeof found?.$ref === 'string' && found.$ref.startsWith('#/'); i += 1) {
    found = found.$ref.slice(2).split('/').reduce((at, key) => at?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], root);
  }
  if (typeof found !== 'object' || found === null) return {};
  const choices = (found.anyOf ?? found.oneOf)?.filter((choice) => choice?.type !== 'null');
  if (choices?.length === 1) return { ...found, ...plain(choices[0], root), description: found.description ?? choices[0].description };
  if (Array.isArray(found.type)) {
    const types = found.type.filter((type) => type !== 'null');
    if (types.length === 1) return { ...found, type: types[0] };
  }
  return found;
}

export function form(schema) {
  const root = plain(schema, schema);
  const group = object(root, schema, 0);
  if (!group.childElementCount) group.append(el('p', { class: 'muted' }, 'It takes no arguments.'));
  return group;
}

function object(schema, root, depth) {
  const group = el('div', { class: 'group' });
  const needed = Array.isArray(schema.required) ? schema.required : [];
  for (const [name, part] of Object.entries(schema.properties ?? {})) group.append(property(name, plain(part, root), root, needed.includes(name), depth));
  return group;
}

function property(name, schema, root, needed, depth) {
  if (schema.type === 'object' && schema.properties && depth < DEEP) {
    const group = object(schema, root, depth + 1);
    const set = el('fieldset', { class: 'arg' }, el('legend', {}, name, needed ? ' *' : ''), schema.description ? el('p', { class: 'muted' }, schema.description) : null, group);
    set.argument = { name, needed, group };
    return set;
  }
  const id = `arg-${(counter += 1)}`;
  const { input, kind } = control(schema, needed);
  input.id = id;
  const note = [schema.description, limits(schema)].filter(Boolean).join(' · ');
  const wrong = el('span', { class: 'wrong' });
  const box = el('div', { class: 'arg' }, el('label', { htmlFor: id }, el('span', {}, el('span', { class: 'name' }, name), needed ? el('span', { class: 'need' }, ' *') : null), input), note ? el('span', { class: 'muted' }, note) : null, wrong);
  box.argument = { name, needed, input, kind, wrong, schema };
  return box;
}

function control(schema, needed) {
  const first = schema.default;
  if (Array.isArray(schema.enum)) {
    const input = el('select', {}, ...(needed ? [] : [el('option', { value: '' }, '(not set)')]), ...schema.enum.map((value, at) => el('option', { value: String(at), selected: value === first }, typeof value === 'string' ? value : JSON.stringify(value))));
    return { input, kind: 'enum' };
  }
  if (schema.type === 'boolean') {
    if (needed || first !== undefined) return { input: el('input', { type: 'checkbox', checked: first === true }), kind: 'check' };
    return { input: el('select', {}, ...['(not set)', 'true', 'false'].map((text, at) => el('option', { value: at ? text : '' }, text))), kind: 'json' };
  }
  if (schema.type === 'integer' || schema.type === 'number') {
    const input = el('input', { type: 'number', step: schema.type === 'integer' ? '1' : 'any' });
    if (schema.minimum !== undefined) input.min = schema.minimum;
    if (schema.maximum !== undefined) input.max = schema.maximum;
    if (first !== undefined) input.value = first;
    return { input, kind: 'number' };
  }
  if (schema.type === 'string') {
    const long = schema.maxLength === undefined ? false : schema.maxLength > 200;
    const input = long ? el('textarea', { rows: 3 }) : el('input', { type: 'text' });
    input.value = first ?? '';
    return { input, kind: 'string' };
  }
  return { input: el('textarea', { rows: 3, spellcheck: false, placeholder: 'JSON', value: first === undefined ? '' : JSON.stringify(first) }), kind: 'json' };
}

function limits(schema) {
  const parts = [];
  if (schema.type === 'array') parts.push(`a list${schema.items?.type ? ` of ${schema.items.type}s` : ''}, as JSON`);
  if (schema.minimum !== undefined || schema.maximum !== undefined) parts.push(`${schema.minimum ?? '…'} to ${schema.maximum ?? '…'}`);
  if (schema.pattern) parts.push(`like ${schema.pattern}`);
  if (schema.format) parts.push(schema.format);
  return parts.join(', ');
}

const own = (group) => [...group.children].map((child) => [child, child.argument]).filter(([, argument]) => argument);

/** The values of a form; with `strict` what is missing or wrong throws, and is marked where it stands. */
export function collect(place, strict) {
  return values(place.firstElementChild, strict);
}

function values(group, strict) {
  const out = {};
  for (const [, argument] of own(group)) {
    if (argument.group) {
      const inner = values(argument.group, strict && argument.needed);
      if (argument.needed || Object.keys(inner).length) out[argument.name] = inner;
      continue;
    }
    argument.wrong.textContent = '';
    try {
      const value = read(argument);
      if (value !== undefined) out[argument.name] = value;
    } catch (error) {
      if (!strict) continue;
      argument.wrong.textContent = error.message;
      throw Object.assign(new Error(`${argument.name}: ${error.message}`), { field: argument.input });
    }
  }
  return out;
}

function read({ input, kind, schema, needed }) {
  const text = input.value;
  if (kind === 'check') return input.checked;
  // An empty text is a text where one is needed.
  if (kind === 'string') return text === '' && !needed ? undefined : text;
  if (kind === 'number' && input.validity.badInput) throw new Error('not a number');
  if (text.trim() === '') {
    if (needed) throw new Error('is needed');
    return undefined;
  }
  if (kind === 'enum') return schema.enum[Number(text)];
  if (kind === 'number') {
    if (!input.checkValidity()) throw new Error(input.validationMessage);
    return Number(text);
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Error('not JSON');
  }
}

/** Puts values into a form, as far as it has fields for them. */
export function fill(place, given) {
  put(place.firstElementChild, given);
}

function put(group, given) {
  for (const [, { name, group: inner, input, kind, schema }] of own(group)) {
    const value = given?.[name];
    if (inner) put(inner, value);
    else if (kind === 'check') input.checked = value === true;
    else if (value === undefined) input.value = '';
    else if (kind === 'enum') input.value = String(schema.enum.indexOf(value));
    else input.value = kind === 'json' ? JSON.stringify(value) : String(value);
  }
}
