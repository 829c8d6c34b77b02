// The list of guests.

let order = { key: '', descending: false };

/** Marks the guests whose rows are in view: lines are drawn only for these. */
const seen = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    const guest = guests.get(target.dataset.id);
    if (!guest) continue;
    guest.isSeen = isIntersecting;
    if (isIntersecting) paint(guest);
  }
}, { rootMargin: '200px' });

const link = (id) => `#guest/${encodeURIComponent(id)}`;

function newRow(guest) {
  const use = (name) => make('td', { className: `${name} use-cell` },
    make('div', { className: 'use' }, newLine(), make('span')));
  const row = make('tr', {},
    make('th', { scope: 'row' }, make('a', { href: link(guest.id), tabIndex: -1 }, guest.id)),
    make('td', { className: 'state-cell' }, make('span')), make('td', { className: 'address' }),
    make('td', { className: 'number cpus' }), make('td', { className: 'number memory' }),
    use('cpu'), use('disk'), use('nic'));
  row.dataset.id = guest.id;
  seen.observe(row);
  return row;
}

function newLine() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${POINTS} 20`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  return svg;
}

/** Draws the line; its full height is the greatest value, or `most` if all are lower. */
function draw(svg, values, most) {
  if (!svg.firstChild) {
    svg.append(...['polygon', 'polyline'].map((name) => document.createElementNS(svg.namespaceURI, name)));
  }
  const top = Math.max(most, ...values);
  const left = POINTS - values.length;
  const step = POINTS / (POINTS - 1);
  const points = values.map((value, index) =>
    `${((left + index) * step).toFixed(1)},${(19.5 - 19 * value / top).toFixed(1)}`);
  svg.lastChild.setAttribute('points', points.join(' '));
  const edges = values.length ? [`${(left * step).toFixed(1)},20`, ...points, `${POINTS},20`] : [];
  svg.firstChild.setAttribute('points', edges.join(' '));
}

const USES = {
  cpu: { title: 'CPU', most: 10, text: (value) => `${value.toFixed(value < 10 ? 1 : 0)} %` },
  disk: { title: 'Disk', most: 65_536, text: (value) => `${bytes(value)}/s` },
  nic: { title: 'Network', most: 16_384, text: (value) => `${bytes(value)}/s` },
};

function useText(guest, name) {
  const value = guest.lines[name].at(-1);
  return value === undefined || guest.state === 'shutoff' ? '–' : USES[name].text(value);
}

function showState(element, guest) {
  const isStuck = stuck.has(guest.id);
  say(element, [guest.state, guest.reason, isStuck ? 'stuck' : ''].filter(Boolean).join(', '));
  element.className = `state is-${isStuck ? 'stuck' : guest.state}`;
}

function paint(guest) {
  const [, state, address, cpus, memory, ...uses] = guest.row.cells;
  showState(state.firstChild, guest);
  say(address, guest.address || '–');
  say(cpus, `${guest.cpus}`);
  say(memory, bytes(guest.memory * 1048576));
  Object.keys(USES).forEach((name, index) => {
    const { firstChild: svg, lastChild: text } = uses[index].firstChild;
    draw(svg, guest.lines[name], USES[name].most);
    say(text, useText(guest, name));
  });
}

function sorted() {
  const value = (guest) => guest.lines[order.key]?.at(-1) ?? guest[order.key];
  const compare = (a, b) => (order.key in USES || typeof a[order.key] === 'number'
    ? value(a) - value(b) : words.compare(value(a), value(b)));
  const sign = order.descending ? -1 : 1;
  return [...guests.values()].sort((a, b) => sign * compare(a, b) || words.compare(a.id, b.id));
}

function show() {
  const body = at('list').tBodies[0];
  const wanted = at('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = sorted().map(({ row }) => row);
  if (rows.some((row, index) => body.rows[index] !== row)) {
    // A row that is moved loses the focus.
    const focused = document.activeElement;
    body.append(...rows);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  let shown = 0, running = 0, memory = 0;
  for (const guest of guests.values()) {
    const text = `${guest.id} ${guest.state} ${guest.address}${stuck.has(guest.id) ? ' stuck' : ''}`.toLowerCase();
    guest.row.hidden = !wanted.every((word) => text.includes(word));
    shown += !guest.row.hidden;
    running += guest.state === 'running';
    memory += guest.state === 'shutoff' ? 0 : guest.memory;
    if (guest.isSeen) paint(guest);
  }
  say(at('count'), wanted.length ? `${shown} of ${guests.size}` : `${guests.size}`);
  at('none').hidden = shown > 0;
  say(at('none'), guests.size ? 'No guest matches the filter.' : isSampled ? 'No guests.' : 'Loading…');
  say(at('running'), `${running} of ${guests.size} running`);
  say(at('given'), `${bytes(memory * 1048576)} of memory assigned`);
  say(at('stuck'), stuck.size ? `stuck: ${[...stuck].join(', ')}` : '');
  draw(at('sum'), total.cpu, USES.cpu.most);
  say(at('used'), `${USES.cpu.text(total.cpu.at(-1) ?? 0)} of one CPU used`);
  reach();
  showCharts();
}

/** Lets Tab reach one visible row: the last one with the focus, or the first. Returns their links. */
function reach() {
  const links = [...at('list').tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => row.cells[0].firstChild);
  if (!links.some((each) => each.tabIndex === 0)) {
    for (const each of at('list').querySelectorAll('a[tabindex="0"]')) each.tabIndex = -1;
    if (links.length) links[0].tabIndex = 0;
  }
  return links;
}

function move(step) {
  const links = reach();
  const from = links.findIndex((each) => each.tabIndex === 0);
  const isIn = links[from] === document.activeElement;
  const to = links[Math.min(links.length - 1, Math.max(0, from + (isIn ? step : 0)))];
  to?.focus();
}
