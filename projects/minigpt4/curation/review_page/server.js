// Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
// Loads texts from the local server and stores decisions there.
'use strict';
const backend = {
  async call(path, options) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error('The server does not answer. Start it again; an edit ' +
        'in progress is kept in this browser.');
    }
    let content;
    try {
      content = await response.json();
    } catch {
      throw new Error(`The server answered with status ${response.status}.`);
    }
    if (!response.ok) {
      const error = new Error(content.error ? content.error.message
        : `The server answered with status ${response.status}.`);
      error.status = response.status;
      throw error;
    }
    return content;
  },
  post(path, content, keepalive = false) {
    return this.call(path, {
      method: 'POST', keepalive, body: JSON.stringify(content),
      headers: { 'Content-Type': 'application/json' },
    });
  },
  load(query) {
    const given = Object.entries(query).filter(([, v]) => v !== null);
    return this.call('api/item?' + new URLSearchParams(given));
  },
  // why an image is not displayed
  async imageProblem(url) {
    try {
      await this.call(url);
    } catch (error) {
      return error.message;
    }
    return '';
  },
  decide(decision) { return this.post('api/review', decision); },
  saveDraft(draft, last) { return this.post('api/draft', draft, last); },
  progress() { return this.call('api/progress'); },
};
