// Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
// Displays one text at a time and handles keys. All texts are inserted with
// textContent, so that HTML in them is displayed and never run.
'use strict';
const byId = (id) => document.getElementById(id);
const DRAFT_DELAY = 250; // milliseconds after the last key
let content = null; // the last answer of the backend
let item = null;
let editing = false;
let busy = false;
let pendingDraft = null; // timer
let prefetched = null; // [image, promise of its content]

const store = {
  get(key) {
    try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
  },
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch { return false; } // full, or disabled
  },
};

const reviewer = () => byId('reviewer').value.trim();
const draftKey = () =>
  ['draft', content.ledger, item.image, item.reviewed, reviewer()].join(':');
const undoKey = () => ['undo', content.ledger, reviewer()].join(':');

function element(name, text, className) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function showError(message) {
  byId('error').textContent = message || '';
  byId('error').hidden = !message;
}

function setBusy(value) {
  busy = value;
  document.body.setAttribute('aria-busy', String(value));
}

// Runs one action at a time; an error is displayed and changes nothing.
async function act(action) {
  if (busy) return;
  setBusy(true);
  try {
    await action();
    showError('');
  } catch (error) {
    showError(error.message);
  } finally {
    setBusy(false);
  }
}

function showParts(node, parts) {
  for (const [kind, text] of parts) {
    const tag = { equal: 'span', delete: 'del', insert: 'ins' }[kind];
    node.append(element(tag, text));
  }
}

function showProgress(progress) {
  const own = Object.values(progress.reviewers[reviewer()] || {});
  const decided = own.reduce((sum, n) => sum + n, 0);
  byId('bar').max = Math.max(1, progress.total);
  byId('bar').value = decided;
  const parts = [`${decided} of ${progress.total} decided by you`,
    `${progress.open} by none`];
  if (progress.disputed) parts.push(`${progress.disputed} disputed`);
  const kappas = progress.agreement.filter((pair) => pair.kappa !== null);
  for (const pair of kappas.slice(0, 1)) {
    parts.push(`kappa ${pair.kappa.toFixed(2)}`);
  }
  byId('counts').textContent = parts.join(' · ');
  byId('agreement').textContent = progress.agreement.map((pair) =>
    `${pair.reviewers.join(' and ')}: ${pair.equal} of ${pair.both} ` +
    'decisions are the same' + (pair.kappa === null ? '.' :
      `, Cohen's kappa ${pair.kappa.toFixed(3)}.`)).join(' ') ||
    'No text has decisions of two reviewers yet.';
}

const STATES = { accept: 'accepted', edit: 'edited', reject: 'rejected' };

function show(answer, announce) {
  content = answer;
  item = answer.item;
  editing = false;
  showProgress(answer.progress);
  byId('main').hidden = !item;
  byId('end').hidden = Boolean(item);
  for (const id of ['accept', 'start-edit', 'reject']) byId(id).disabled = !item;
  byId('editor').hidden = true;
  if (!item) {
    history.replaceState(null, '', '#');
    byId('live').textContent = byId('end').textContent;
    return;
  }
  history.replaceState(null, '', `#image=${item.image}`);
  byId('name').textContent = [item.name, ...Object.values(item.about)].join(' · ');
  byId('place').textContent = `(${item.place} of ${answer.progress.total})`;
  const image = byId('image');
  byId('no-image').hidden = Boolean(item.url);
  byId('no-image').textContent = item.problem || '';
  image.hidden = !item.url;
  image.alt = `Image ${item.name}`;
  if (item.url) image.src = item.url;
  showState();
  byId('note').value = (item.own && item.own.note) || '';
  byId('flags').replaceChildren(...item.flags.map((flag) =>
    element('li', flag.text || flag.reason)));
  byId('stages').replaceChildren(...item.stages.flatMap((stage) => {
    const title = element('h3', stage.parts ? stage.step
      : `${stage.step}: no change`);
    if (!stage.parts) return [title];
    const text = element('p');
    text.dir = 'auto';
    showParts(text, stage.parts);
    return [title, text];
  }));
  const draft = lastDraft();
  byId('saved').textContent = '';
  if (draft !== null && !item.own) {
    startEdit(draft);
    byId('saved').textContent = 'An edit in progress was restored.';
  } else if (document.activeElement !== byId('shown')) {
    byId('main').focus({ preventScroll: true });
  }
  document.querySelector('section').scrollTop = 0;
  byId('live').textContent = `${announce || ''} Text ${item.place} of ` +
    `${answer.progress.total}, ${item.flags.length} flags. ${item.text}`;
  prefetch(answer.upcoming);
}

function showState() {
  const own = item.own;
  const shownText = own && own.decision === 'edit' ? own.text : item.text;
  byId('text').textContent = shownText;
  byId('text-title').textContent = own && own.decision === 'edit'
    ? 'Your text' : 'Text under review';
  const parts = own ? [`You ${STATES[own.decision]} this text.`] : [];
  for (const other of item.others) {
    parts.push(`${other.reviewer} ${STATES[other.decision]} it.`);
  }
  if (own && lastDraft() !== null) {
    parts.push('There is an edit in progress; e continues it.');
  }
  byId('state').textContent = parts.join(' ');
}

// The later of the drafts in this browser and on the server; null if there
// is none, or if it is what is displayed anyway.
function lastDraft() {
  const local = store.get(draftKey());
  const remote = item.draft;
  let draft = local || remote;
  if (local && remote && remote.saved > local.saved) draft = remote;
  if (!draft) return null;
  const known = item.own && item.own.decision === 'edit'
    ? item.own.text : item.text;
  return draft.text === known ? null : draft.text;
}

function prefetch(upcoming) {
  prefetched = null;
  if (!upcoming || !backend.load) return;
  const image = new Image();
  image.src = upcoming.url;
}

function load(go, image = item && item.image) {
  return backend.load({
    reviewer: reviewer(), image, go,
    shown: go === 'previous' ? 'all' : byId('shown').value,
  });
}

const goNext = () => act(async () => { await flushDraft(); show(await load('next')); });
const goPrevious = () => act(async () => {
  await flushDraft();
  const answer = await load('previous');
  if (answer.item) show(answer);
});

function decide(decision, text = null) {
  if (!item) return;
  if (editing && decision === 'accept') return saveEdit();
  return act(async () => {
    if (!reviewer()) throw new Error('Enter the name of the reviewer first.');
    await flushDraft();
    const image = item.image;
    const reviewed = item.reviewed;
    const key = draftKey();
    const answer = await backend.decide({
      reviewer: reviewer(), image, reviewed, decision, text,
      note: byId('note').value, shown: byId('shown').value, go: 'next',
    });
    if (text !== null) store.set(key, null);
    const undone = store.get(undoKey()) || [];
    undone.push({ image, reviewed, text, before: answer.before });
    store.set(undoKey(), undone.slice(-1000));
    show(answer, STATES[answer.saved]);
  });
}

const undo = () => act(async () => {
  if (!content) return;
  await flushDraft();
  const stack = store.get(undoKey()) || [];
  const last = stack.pop();
  if (!last) throw new Error('There is no decision of yours to undo.');
  const before = last.before || { decision: 'none', text: null, note: '' };
  let answer;
  try {
    answer = await backend.decide({
      reviewer: reviewer(), image: last.image, reviewed: last.reviewed,
      decision: before.decision, note: before.note, go: 'here',
      text: before.decision === 'edit' ? before.text : null,
      shown: byId('shown').value,
    });
  } catch (error) { // a text that has changed cannot be undone any more
    if ([404, 409].includes(error.status)) store.set(undoKey(), stack);
    throw error;
  }
  store.set(undoKey(), stack);
  if (last.text) { // the text of an undone edit is a draft again
    item = answer.item;
    store.set(draftKey(), { text: last.text, saved: Date.now() / 1000 });
  }
  show(answer, 'undone');
});

function startEdit(text = null) {
  if (!item || editing) return;
  editing = true;
  if (text === null) text = lastDraft();
  byId('edit').value = text === null ? byId('text').textContent : text;
  byId('editor').hidden = false;
  byId('edit').focus();
}

function leaveEdit() {
  flushDraft();
  editing = false;
  byId('editor').hidden = true;
  byId('main').focus({ preventScroll: true });
}

function discardEdit() {
  clearTimeout(pendingDraft);
  pendingDraft = null;
  store.set(draftKey(), null);
  item.draft = null;
  act(() => sendDraft(null));
  editing = false;
  byId('editor').hidden = true;
  showState();
  byId('main').focus({ preventScroll: true });
}

const saveEdit = () => decide('edit', byId('edit').value);

function noteDraft() {
  const kept = store.set(draftKey(),
    { text: byId('edit').value, saved: Date.now() / 1000 });
  byId('saved').textContent = kept ? 'Kept in this browser.' : '';
  clearTimeout(pendingDraft);
  pendingDraft = setTimeout(() => flushDraft(), DRAFT_DELAY);
}

async function flushDraft(last = false) {
  if (pendingDraft === null) return;
  clearTimeout(pendingDraft);
  pendingDraft = null;
  await sendDraft(byId('edit').value, last);
}

// A failure is displayed; the draft stays in this browser.
async function sendDraft(text, last = false) {
  const shown = item;
  try {
    await backend.saveDraft({
      reviewer: reviewer(), image: item.image, reviewed: item.reviewed, text,
    }, last);
    shown.draft = text === null ? null : { text, saved: Date.now() / 1000 };
    // while a later text waits to be sent, this one is not what is displayed
    if (item === shown && text !== null && pendingDraft === null) {
      byId('saved').textContent = 'The draft is stored.';
    }
    showError('');
  } catch (error) {
    showError(error.message);
  }
}

function askName() {
  showError('Enter the name of the reviewer, then press Enter.');
  byId('reviewer').focus();
}

async function start() {
  byId('reviewer').value = byId('reviewer').value ||
    store.get('reviewer') || '';
  byId('shown').value = store.get('shown') || 'todo';
  if (!byId('shown').value) byId('shown').value = 'todo';
  if (!reviewer()) return askName();
  const found = /^#image=(\d+)$/.exec(location.hash);
  await act(async () => {
    let answer;
    try {
      answer = found ? await load('here', Number(found[1]))
        : await load('next', null);
    } catch (error) {
      if (!found) throw error;
      answer = await load('next', null); // the address of another ledger
    }
    show(answer);
  });
}

const KEYS = {
  a: () => decide('accept'), e: () => startEdit(), r: () => decide('reject'),
  u: undo, ArrowRight: goNext, ArrowLeft: goPrevious,
  n: () => byId('note').focus(), '?': () => byId('help').showModal(),
};

document.addEventListener('keydown', (event) => {
  if (byId('help').open || event.isComposing) return;
  const target = event.target;
  if (target === byId('edit')) {
    if (event.key === 'Escape') leaveEdit();
    else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) saveEdit();
    else return;
    event.preventDefault();
    return;
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) {
    if (event.key === 'Escape') byId('main').focus();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  if (!event.repeat) action();
});

byId('image').addEventListener('error', async () => {
  const shown = item;
  byId('image').hidden = true;
  byId('no-image').textContent = 'This image cannot be displayed.';
  byId('no-image').hidden = false;
  const problem = await backend.imageProblem(shown.url);
  if (item === shown && problem) byId('no-image').textContent = problem;
});
byId('edit').addEventListener('input', noteDraft);
byId('edit').addEventListener('blur', () => flushDraft());
byId('accept').onclick = () => decide('accept');
byId('start-edit').onclick = () => startEdit();
byId('reject').onclick = () => decide('reject');
byId('undo').onclick = undo;
byId('next').onclick = goNext;
byId('previous').onclick = goPrevious;
byId('save').onclick = saveEdit;
byId('leave').onclick = leaveEdit;
byId('discard').onclick = discardEdit;
byId('help-button').onclick = () => byId('help').showModal();
byId('help-close').onclick = () => byId('help').close();
byId('reviewer').onkeydown = (event) => {
  if (event.key === 'Enter') event.target.blur();
};
byId('reviewer').onchange = () => {
  if (!reviewer()) return askName();
  store.set('reviewer', reviewer());
  act(async () => show(await load(item ? 'here' : 'next')));
};
byId('shown').onchange = () => {
  store.set('shown', byId('shown').value);
  byId('main').focus();
  act(async () => { await flushDraft(); show(await load('next', null)); });
};
addEventListener('pagehide', () => { flushDraft(true); });
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'hidden') flushDraft(true);
});
start();
