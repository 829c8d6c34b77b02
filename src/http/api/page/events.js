// Events.

const events = [];
let source, listenAgain = 0, listenMs = LISTEN_MS, lastEvent = 0, fresh = [];

function listen() {
  source?.close();
  clearTimeout(listenAgain);
  if (document.hidden) return;
  source = new EventSource(`/events?after=${lastEvent}`);
  for (const kind of KINDS) source.addEventListener(kind, receive);
  source.onopen = () => {
    listenMs = LISTEN_MS;
    say(at('hearing'), '');
  };
  // The browser does not reconnect by itself after an error status.
  source.onerror = () => {
    source.close();
    say(at('hearing'), `disconnected; reconnecting in ${listenMs / 1000} s`);
    listenAgain = setTimeout(listen, listenMs);
    listenMs = Math.min(2 * listenMs, LISTEN_MS_MAX);
  };
}

function receive({ type, data }) {
  const event = { event: type, time: new Date().toISOString(), ...JSON.parse(data) };
  lastEvent = event.seq ?? lastEvent;
  if (!fresh.length) requestAnimationFrame(showEvents);
  fresh.push(event);
}

function showEvents() {
  const news = fresh;
  fresh = [];
  for (const { event, guest, state } of news) {
    if (event === 'stuck') stuck.add(guest);
    else if (event === 'unstuck' || event === 'deleted' || state === 'stopped') stuck.delete(guest);
  }
  events.push(...news);
  events.splice(0, Math.max(0, events.length - EVENTS_KEPT));
  at('events').prepend(...news.slice(-EVENTS_SHOWN).reverse().map((event) => newEvent(event, true)));
  while (at('events').children.length > EVENTS_SHOWN) at('events').lastChild.remove();
  if (news.some(({ guest }) => guest === chosen)) {
    showOwnEvents();
    describe();
  }
  listReasons++;
  hurry();
}

function showOwnEvents() {
  const own = events.filter(({ guest }) => guest === chosen).slice(-OWN_EVENTS_SHOWN);
  at('own-events').replaceChildren(...own.reverse().map((event) => newEvent(event, false)));
}

function newEvent(event, withGuest) {
  const { seq, time, guest, event: kind, state, detail, ...more } = event;
  const when = new Date(time);
  const isOld = when.toDateString() !== new Date().toDateString();
  const what = { lifecycle: `${state}: ${detail}`, job: `job ${state}`,
    agent: state === 'addresses' ? 'addresses changed' : `guest agent ${state}`,
    gap: 'gap: earlier events are no longer available',
    connected: 'connected to libvirt', disconnected: 'disconnected from libvirt' }[kind] ?? kind;
  const rest = Object.entries(more).map(([name, value]) => `${name} ${value}`).join(', ');
  return make('li', { className: TROUBLE.has(kind) ? 'warn' : '' },
    make('time', { dateTime: time, title: when.toString() },
      isOld ? when.toLocaleString() : when.toLocaleTimeString([], { hour12: false })),
    ...(guest && withGuest ? [make('a', { href: link(guest) }, guest)] : []),
    make('span', {}, rest ? `${what} (${rest})` : what));
}
