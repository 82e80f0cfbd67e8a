// Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
// Reads texts from this file and keeps decisions in this browser until they
// are downloaded.
'use strict';
const about = JSON.parse(document.querySelector('script.about').textContent);
const nodes = [...document.querySelectorAll('script.item')];
const places = new Map(nodes.map((node, i) => [Number(node.dataset.image), i]));
const memory = {}; // decisions by reviewer, where the browser stores nothing
if (about.reviewer) document.getElementById('reviewer').value = about.reviewer;

const backend = {
  key: (reviewer) => `decisions:${about.ledger}:${reviewer}`,
  decisions(reviewer) {
    if (!memory[reviewer]) {
      let stored = null;
      try {
        stored = JSON.parse(localStorage.getItem(this.key(reviewer)));
      } catch { /* disabled */ }
      memory[reviewer] = stored || {};
    }
    return memory[reviewer];
  },
  own(node, reviewer) {
    const item = JSON.parse(node.textContent);
    const own = this.decisions(reviewer)[item.image];
    return own && own.reviewed === item.reviewed ? own : null;
  },
  answer(reviewer, place) {
    const decisions = Object.values(this.decisions(reviewer));
    const counts = {};
    for (const { decision } of decisions) {
      counts[decision] = (counts[decision] || 0) + 1;
    }
    const item = place === null ? null : JSON.parse(nodes[place].textContent);
    if (item) {
      Object.assign(item, { own: this.own(nodes[place], reviewer),
        draft: null, others: [] });
    }
    return {
      ledger: about.ledger, item, upcoming: null,
      progress: {
        total: nodes.length, open: nodes.length - decisions.length,
        disputed: 0, reviewers: { [reviewer]: counts }, agreement: [],
      },
    };
  },
  find(reviewer, image, go, shown) {
    const step = go === 'previous' ? -1 : 1;
    const decisions = this.decisions(reviewer);
    let place = places.has(image) ? places.get(image) + step
      : step > 0 ? 0 : nodes.length - 1;
    for (; place >= 0 && place < nodes.length; place += step) {
      const decided = Boolean(decisions[nodes[place].dataset.image]);
      if (shown === 'all' || decided === (shown === 'decided')) return place;
    }
    return null;
  },
  async load({ reviewer, image, go, shown }) {
    if (go === 'here' && image !== null) {
      if (!places.has(image)) throw new Error(`There is no image ${image}.`);
      return this.answer(reviewer, places.get(image));
    }
    return this.answer(reviewer, this.find(reviewer, image, go, shown));
  },
  async decide({ reviewer, image, reviewed, decision, text, note, go, shown }) {
    if (decision === 'edit' && !(text || '').trim()) {
      throw new Error('The new text is empty.');
    }
    const decisions = this.decisions(reviewer);
    const item = JSON.parse(nodes[places.get(image)].textContent);
    const before = decisions[image] || null;
    const new_text = (text || '').trim();
    if (decision === 'edit' && new_text === item.text) decision = 'accept';
    if (decision === 'none') delete decisions[image];
    else {
      decisions[image] = {
        image: item.digest, file: item.name, reviewed, reviewer, decision,
        text: decision === 'edit' ? new_text : '', note,
      };
    }
    try {
      localStorage.setItem(this.key(reviewer), JSON.stringify(decisions));
    } catch {
      if (before) decisions[image] = before;
      else delete decisions[image];
      throw new Error('This browser cannot store the decision (its storage ' +
        'is full or disabled); download the decisions so far.');
    }
    const place = go === 'next' ? this.find(reviewer, image, go, shown)
      : places.get(image);
    return { saved: decision, before, ...this.answer(reviewer, place) };
  },
  async imageProblem() { return ''; },
  async saveDraft() { /* the page keeps it in this browser */ },
};

// as captioning/csv_escaping.py
function csvCell(text) {
  const cell = String(text).replace(
    /(?:^|(?<=[;\t\r\n]))(?='*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])/g, "'");
  return `"${cell.replaceAll('"', '""')}"`;
}

function download(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function currentDecisions() {
  const reviewer = document.getElementById('reviewer').value.trim();
  return Object.values(backend.decisions(reviewer));
}

document.getElementById('downloads').hidden = false;
for (const value of ['open', 'disputed']) {
  document.querySelector(`#shown option[value=${value}]`).remove();
}
document.getElementById('download-json').onclick = () => download(
  'review.json', 'application/json', JSON.stringify(
    { format: 'minigpt4 review', decisions: currentDecisions() }, null, 1));
document.getElementById('download-csv').onclick = () => {
  const columns = ['image', 'file', 'reviewer', 'decision', 'text', 'note',
    'reviewed'];
  const header = columns.map((c) => c === 'text' ? 'new_text' : c).join(',');
  const rows = currentDecisions().map((decision) =>
    columns.map((column) => csvCell(decision[column])).join(','));
  download('review.csv', 'text/csv;charset=utf-8',
    '\ufeff' + [header, ...rows].join('\r\n') + '\r\n');
};
