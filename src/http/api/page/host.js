// The host.

let wasReached = true;

async function lookAtHealth() {
  try {
    const answer = await ask('/healthz');
    const health = await answer.json();
    showHealth(health);
    if (!wasReached) listen();
    wasReached = true;
  } catch (error) {
    if (error.name === 'AbortError') return;
    wasReached = false;
    status(error.message, 'crashed');
  }
}

function status(text, state) {
  say(at('status'), text);
  at('status').className = `pill is-${state}`;
}

function showHealth({ host, status: said, version, libvirt, storage, pool, journal }) {
  status(said, said === 'ok' ? 'running' : 'crashed');
  say(at('host'), host);
  document.title = `${host} – mistify`;
  say(at('agent'), `mistify-libvirt ${version}`);
  const since = `for ${span(libvirt.since_seconds)}`;
  const answers = { true: `answering ${since}`, false: `failing ${since}`, null: 'not checked yet' };
  say(at('libvirt'), `libvirt ${libvirt.version ?? ''} ${answers[libvirt.answers]}`);
  say(at('libvirt-error'), libvirt.error ?? '');

  const { used_bytes: used, free_bytes: free } = storage;
  const isKnown = storage.usable === true;
  say(at('free'), isKnown ? `${bytes(free)} free` : storage.usable === null ? '–' : 'unavailable');
  at('fullness').hidden = !isKnown;
  at('fullness').value = isKnown ? used / (used + free || 1) : 0;
  say(at('storage'), isKnown ? `${bytes(used)} of ${bytes(used + free)} used` : storage.error ?? '');

  const lanes = Object.entries(pool.lanes).map(([name, lane]) =>
    make('tr', { className: lane.stuck ? 'bad' : '' }, make('th', { scope: 'row' }, name),
      make('td', {}, `${lane.running} of ${lane.workers}`), make('td', {}, `${lane.queued}`),
      make('td', {}, `${lane.stuck}`)));
  at('lanes').tBodies[0].replaceChildren(...lanes);
  const { oldest } = pool;
  say(at('oldest'), oldest ? `oldest call: ${oldest.what}, for ${span(oldest.age_seconds)}` : '');

  const { open } = journal;
  say(at('open'), open.length ? `unfinished changes: ${open.length}` : 'no unfinished changes');
  at('intents').replaceChildren(...open.slice(0, 5).map((intent) => make('li', {},
    `${intent.verb} ${intent.guest}, for ${span(intent.age_seconds)}${intent.why ? `: ${intent.why}` : ''}`)));
}
