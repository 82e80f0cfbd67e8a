// Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
'use strict';

// Texts of the data are only ever set as textContent.
const PAGE = 50;
const find = (id) => document.getElementById(id);
const state = {
  starts: [0], // number before the first record of each page so far
  entries: [],
  current: null, // number of the record that is shown
  details: null,
  asIds: false,
  request: 0,
};

async function get(path) {
  const response = await fetch(path);
  const content = await response.json();
  if (!response.ok) {
    const error = content.error;
    throw new Error(error && error.message ? error.message : error);
  }
  return content;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function filter() {
  const query = new URLSearchParams({query: find('query').value});
  if (find('invalid').checked) query.set('invalid', 'true');
  return query;
}

async function loadPage(select) {
  const request = ++state.request;
  const query = filter();
  query.set('after', state.starts[state.starts.length - 1]);
  query.set('limit', PAGE);
  try {
    const entries = await get('/api/records?' + query);
    if (request !== state.request) return;
    state.entries = entries;
  } catch (error) {
    find('status').textContent = error.message;
    return;
  }
  drawList();
  find('previous').disabled = state.starts.length < 2;
  find('next').disabled = state.entries.length < PAGE;
  if (select !== null && state.entries.length) {
    const at = select === 'last' ? state.entries.length - 1 : 0;
    show(state.entries[at].number);
  }
  countMatches(request);
}

async function countMatches(request) {
  const query = filter();
  if (!find('query').value && !find('invalid').checked) {
    drawStatus();
    return;
  }
  const {count} = await get('/api/matches?' + query);
  if (request === state.request) {
    find('status').textContent = `${count.toLocaleString('en')} found`;
  }
}

function drawList() {
  const rows = state.entries.map((entry) => {
    const row = make('li');
    row.dataset.number = entry.number;
    if (entry.num_images) {
      const image = make('img');
      image.alt = '';
      image.loading = 'lazy';
      image.addEventListener('error', () => {
        image.replaceWith(make('span', 'none'));
      });
      image.src = `/api/records/${entry.number}/images/0?size=small`;
      row.append(image);
    } else {
      row.append(make('span', 'none'));
    }
    const cell = make('div');
    cell.append(make('small', '', `${entry.number} ${entry.id}`));
    const text = make('div', entry.error ? 'text bad' : 'text',
      entry.error || entry.text);
    text.dir = 'auto';
    cell.append(text);
    row.append(cell);
    row.addEventListener('click', () => show(entry.number));
    return row;
  });
  find('list').replaceChildren(...rows);
  mark();
}

function mark() {
  for (const row of find('list').children) {
    if (Number(row.dataset.number) === state.current) {
      row.setAttribute('aria-current', 'true');
      row.scrollIntoView({block: 'nearest'});
    } else {
      row.removeAttribute('aria-current');
    }
  }
}

async function show(number) {
  state.current = number;
  mark();
  let details;
  try {
    details = await get(`/api/records/${number}`);
  } catch (error) {
    find('status').textContent = error.message;
    return;
  }
  if (state.current !== number) return;
  state.details = details;
  find('record').hidden = false;
  find('record').dataset.number = number;
  find('name').textContent =
    `${details.number}: ${details.part}: ${details.id}`;
  setText('error', details.error || '');
  find('images').replaceChildren(
    ...details.images.map((name, i) => drawImage(number, name, i)));
  find('turns').replaceChildren(...details.turns.flatMap(drawTurn));
  drawPrompt();
}

function setText(id, text) {
  find(id).textContent = text;
  find(id).hidden = !text;
}

function drawTurn([question, answer]) {
  return [['Question: ', question], ['Answer: ', answer]]
    .filter(([, text]) => text)
    .map(([label, text]) => {
      const block = make('div', 'turn');
      block.append(make('b', '', label));
      const body = make('span', '', text);
      body.dir = 'auto';
      block.append(body);
      return block;
    });
}

function drawImage(number, name, place) {
  const figure = make('figure');
  fetch(`/api/records/${number}/images/${place}`).then(async (response) => {
    if (!response.ok) {
      figure.prepend(make('p', 'bad', (await response.json()).error));
      return;
    }
    const image = make('img');
    image.alt = name;
    image.src = URL.createObjectURL(await response.blob());
    image.addEventListener('load', () => URL.revokeObjectURL(image.src));
    figure.prepend(image);
  });
  figure.append(make('figcaption', '', name));
  return figure;
}

function drawPrompt() {
  const {prompt, prompt_error: error} = state.details;
  find('view').textContent =
    state.asIds ? 'show text (t)' : 'show token ids (t)';
  find('tokens').className = state.asIds ? 'ids' : '';
  if (!prompt) {
    setText('warning', error);
    find('lengths').textContent = '';
    find('tokens').replaceChildren();
    return;
  }
  find('lengths').textContent =
    `${prompt.length} tokens, ${prompt.supervised} supervised`;
  const warnings = [];
  if (prompt.truncated) {
    warnings.push(`${prompt.cut} tokens of ${prompt.truncated} answers are ` +
      'cut, because max_text_length is ' +
      `${state.status.max_text_length}.`);
  }
  if (!prompt.fits) {
    warnings.push('Training skips this record: the context has ' +
      `${state.status.context_length} tokens.`);
  }
  setText('warning', warnings.join(' '));
  find('tokens').replaceChildren(...prompt.tokens.map((token) => {
    if (token.id === null) {
      return make('span', 'slot', `image: ${token.positions} tokens`);
    }
    let kind = 'token';
    if (token.supervised) kind += ' supervised';
    if (token.cut) kind += ' cut';
    const element = make('span', kind,
      state.asIds ? String(token.id) : token.text);
    element.title = state.asIds ? JSON.stringify(token.text) : String(token.id);
    return element;
  }));
}

function turnPage(step) {
  if (step > 0 && !find('next').disabled) {
    state.starts.push(state.entries[state.entries.length - 1].number);
    return loadPage('first');
  }
  if (step < 0 && state.starts.length > 1) {
    state.starts.pop();
    return loadPage('last');
  }
}

function move(step) {
  const at = state.entries.findIndex((e) => e.number === state.current);
  const entry = state.entries[at + step];
  if (entry) return show(entry.number);
  return turnPage(step);
}

function restart() {
  state.starts = [0];
  loadPage('first');
}

function goTo() {
  const number = Number(find('goto').value);
  if (!Number.isInteger(number) || number < 1) return;
  find('query').value = '';
  find('invalid').checked = false;
  state.starts = number > 1 ? [0, number - 1] : [0];
  loadPage('first');
}

function toggleView() {
  state.asIds = !state.asIds;
  if (state.details) drawPrompt();
}

function drawStatus() {
  const {count, complete, error} = state.status;
  let text = `${count.toLocaleString('en')} records`;
  if (error) text += `; ${error}`;
  else if (!complete) text += ', more are being read';
  find('status').textContent = text;
}

async function readStatus() {
  state.status = await get('/api/status');
  find('sources').textContent = state.status.sources;
  if (!find('query').value && !find('invalid').checked) drawStatus();
  if (state.entries.length < PAGE && !find('query').value &&
      !find('invalid').checked && state.starts.length === 1 &&
      state.status.count > state.entries.length) {
    await loadPage(state.current === null ? 'first' : null);
  }
  if (!state.status.complete && !state.status.error) {
    setTimeout(readStatus, 500);
  }
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1),
  k: () => move(-1), ArrowUp: () => move(-1),
  n: () => turnPage(1), p: () => turnPage(-1),
  t: toggleView,
  '/': () => find('query').focus(),
  g: () => find('goto').focus(),
};

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLInputElement &&
      event.target.type !== 'checkbox') {
    if (event.key === 'Escape') event.target.blur();
    if (event.key === 'Enter' && event.target.id === 'goto') {
      event.target.blur();
      goTo();
    }
    return;
  }
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

let timer;
find('query').addEventListener('input', () => {
  clearTimeout(timer);
  timer = setTimeout(restart, 200);
});
find('invalid').addEventListener('change', restart);
find('next').addEventListener('click', () => turnPage(1));
find('previous').addEventListener('click', () => turnPage(-1));
find('view').addEventListener('click', toggleView);
readStatus();
