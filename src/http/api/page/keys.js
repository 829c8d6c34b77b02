// Refreshes and keys.

let round = 0, hurry = () => {};

const pause = () => new Promise((done) => {
  let timer = setTimeout(done, LOOK_MS);
  hurry = () => {
    hurry = () => {};
    clearTimeout(timer);
    timer = setTimeout(done, HURRY_MS);
  };
});

/** Refreshes the page until it is hidden. */
async function watch() {
  const own = ++round;
  away.abort();
  source?.close();
  if (document.hidden) return;
  away = new AbortController();
  listen();
  while (own === round) {
    await Promise.all([lookAtHealth(), lookAtGuests()]);
    await pause();
  }
}

const KEYS = {
  '/': () => at('filter').select(),
  j: () => move(1),
  k: () => move(-1),
  c: readConsole,
  s: takeScreen,
};

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const isTyped = event.target === at('filter');
  const isInList = at('list').contains(event.target);
  let act = isTyped ? undefined : KEYS[event.key];
  if (isTyped || isInList) act ??= { ArrowDown: KEYS.j, ArrowUp: KEYS.k }[event.key];
  if (event.key === 'Enter' && isTyped) act = () => reach()[0]?.click();
  if (event.key === 'Escape') act = () => leave(isTyped);
  if (!act) return;
  event.preventDefault();
  act();
}

function leave(isTyped) {
  if (isTyped && at('filter').value) {
    at('filter').value = '';
    show();
  } else if (isTyped) move(0);
  else if (chosen) location.hash = '';
}

function sortBy({ dataset: { key } }) {
  const isSame = order.key === key;
  // Columns other than guest and state start with the largest value.
  order = { key, descending: isSame ? !order.descending : key !== 'id' && key !== 'state' };
  for (const each of at('list').querySelectorAll('[data-key]')) {
    const head = each.parentElement;
    if (each.dataset.key !== key) head.removeAttribute('aria-sort');
    else head.setAttribute('aria-sort', order.descending ? 'descending' : 'ascending');
  }
  show();
}

document.addEventListener('visibilitychange', watch);
document.addEventListener('keydown', press);
addEventListener('hashchange', choose);
at('filter').addEventListener('input', show);
at('close').addEventListener('click', () => leave(false));
at('read-console').addEventListener('click', readConsole);
at('take-screen').addEventListener('click', takeScreen);
at('list').addEventListener('click', ({ target }) => {
  const button = target.closest('[data-key]');
  if (button) sortBy(button);
  else if (!target.closest('a')) target.closest('tbody tr')?.cells[0].firstChild.click();
});
at('list').addEventListener('focusin', ({ target }) => {
  if (!target.matches('tbody a')) return;
  for (const each of at('list').querySelectorAll('a[tabindex="0"]')) each.tabIndex = -1;
  target.tabIndex = 0;
});

sortBy(at('list').querySelector('[data-key=id]'));
watch();
choose();
