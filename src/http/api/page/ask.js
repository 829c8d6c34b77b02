'use strict';
// The agent's page for people: it queries /healthz and /rpc, receives /events, and changes nothing.
// A hidden page does none of this. Everything from guests is inserted as text.

/** Time between two refreshes; time from an event to the next refresh. */
const LOOK_MS = 2000, HURRY_MS = 500;
/** Time limit of an answer: longer than the agent's own deadline for reads. */
const PATIENCE_MS = 10_000;
/** Time between two Lists without an event; time in which states of a List replace those of samples. */
const LIST_MS = 30_000, LISTED_MS = 1500;
/** Age at which a sample without any change counts as a new one: the maximum of --metrics-max-age. */
const SAME_MS = 60_000;
/** Time between two new samples above which there is no rate. */
const BREAK_MS = 120_000;
/** Values in a line: two minutes. */
const POINTS = 60;
/** Maxima of events: stored, shown, and shown of the chosen guest. */
const EVENTS_KEPT = 1000, EVENTS_SHOWN = 200, OWN_EVENTS_SHOWN = 30;
/** Time until the page reconnects to /events, at first and at most. */
const LISTEN_MS = 1000, LISTEN_MS_MAX = 30_000;
const KINDS = ['lifecycle', 'reboot', 'io-error', 'watchdog', 'agent', 'device-removed', 'balloon',
  'autostart-failed', 'created', 'deleted', 'stuck', 'unstuck', 'job', 'connected', 'disconnected',
  'missed', 'gap'];
const TROUBLE = new Set(['autostart-failed', 'io-error', 'watchdog', 'stuck', 'disconnected',
  'missed', 'gap']);

const at = (id) => document.getElementById(id);
const words = new Intl.Collator(undefined, { numeric: true });

/** Makes an element with these properties and children; a string becomes text. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Sets the text of an element, if it differs. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function complain(id, error) {
  at(id).hidden = !error;
  say(at(id), error ? error.message : '');
}

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit++) count /= 1024;
  return `${count.toFixed(unit && count < 10 ? 1 : 0)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129_600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

// Requests.

/** Aborts the requests when the page is hidden. */
let away = new AbortController();

async function ask(path, options) {
  const signal = AbortSignal.any([away.signal, AbortSignal.timeout(PATIENCE_MS)]);
  try {
    return await fetch(path, { cache: 'no-store', ...options, signal });
  } catch (error) {
    if (error.name === 'TimeoutError') throw new Error(`no answer from the agent after ${PATIENCE_MS / 1000} s`);
    throw error.name === 'AbortError' ? error : new Error('cannot reach the agent');
  }
}

async function call(method, params = {}) {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: `Libvirt.${method}`, params });
  const headers = { 'Content-Type': 'application/json' };
  const answer = await ask('/rpc', { method: 'POST', headers, body });
  if (!answer.ok) throw new Error(`HTTP status ${answer.status}: ${(await answer.text()).trim()}`);
  const { error, result } = await answer.json();
  if (error) throw new Error(error.message);
  return result;
}

/** Runs `work` and shows its error in `place`, except for the abort when the page is hidden. */
async function attempt(place, work) {
  try {
    await work();
    complain(place);
  } catch (error) {
    if (error.name !== 'AbortError') complain(place, error);
  }
}
