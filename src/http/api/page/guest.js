// One guest.

let chosen = '';

function choose() {
  const found = /^#guest\/(.+)$/.exec(location.hash);
  const before = chosen;
  try {
    chosen = found ? decodeURIComponent(found[1]) : '';
  } catch {
    chosen = '';
  }
  for (const { id, row } of guests.values()) mark(id, row);
  at('detail').hidden = !chosen;
  if (chosen === before) return;
  if (!chosen) {
    guests.get(before)?.row.cells[0].firstChild.focus();
    return;
  }
  for (const id of ['facts', 'console', 'charts']) at(id).replaceChildren();
  for (const id of ['detail-error', 'console-error', 'screen-error']) complain(id);
  at('screen').hidden = true;
  at('screen').removeAttribute('src');
  say(at('detail-title'), chosen);
  at('detail-title').focus();
  describe();
  readConsole();
  showCharts();
  showOwnEvents();
}

function mark(id, row) {
  if (id === chosen) row.setAttribute('aria-current', 'true');
  else row.removeAttribute('aria-current');
}

/** Calls a method for the chosen guest; ignores the answer if another guest is chosen by then. */
function ofChosen(place, method, then) {
  const id = chosen;
  if (!id) return Promise.resolve();
  return attempt(place, async () => {
    const answer = await call(method, { guest: { id } }).catch((error) => {
      if (id === chosen) throw error;
    });
    if (answer && id === chosen) then(answer, id);
  });
}

const describe = () => ofChosen('detail-error', 'Describe', showFacts);

const readConsole = () => ofChosen('console-error', 'Console', (answer) => {
  // Removes the escape sequences of terminals, and other control characters.
  const text = answer.console.replace(/\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)/g, '')
    .replace(/\r+\n/g, '\n').replace(/[^\n\t\x20-\x7e\xa0-\uffff]/g, '');
  say(at('console'), text);
  at('console').scrollTop = at('console').scrollHeight;
});

const takeScreen = () => ofChosen('screen-error', 'Screenshot', ({ type, data }, id) => {
  if (type !== 'image/png') throw new Error(`unsupported screenshot type ${type}`);
  at('screen').src = `data:image/png;base64,${data}`;
  at('screen').alt = `Screen of ${id} at ${new Date().toLocaleTimeString()}`;
  at('screen').title = at('screen').alt;
  at('screen').hidden = false;
});

function showCharts() {
  const guest = guests.get(chosen);
  if (!guest) {
    at('charts').replaceChildren();
    say(at('detail-state'), '');
    return;
  }
  mark(guest.id, guest.row);
  showState(at('detail-state'), guest);
  if (!at('charts').firstChild) {
    at('charts').append(...Object.entries(USES).map(([name, { title }]) =>
      make('div', { className: name }, make('p', {}, title, make('b')), newLine(), make('p'))));
  }
  Object.entries(USES).forEach(([name, { most, text }], index) => {
    const [head, svg, foot] = at('charts').children[index].children;
    const line = guest.lines[name];
    say(head.lastChild, useText(guest, name));
    draw(svg, line, most);
    say(foot, line.length ? `maximum ${text(Math.max(...line))}` : '');
  });
}

function showFacts(found) {
  const { devices, os, Metadata: metadata } = found;
  const images = new Map((metadata.Device.Disks ?? []).map((disk) => [disk.Device, disk.Image]));
  // Omits empty columns.
  const table = (title, heads, rows) => {
    const isUsed = (_, index) => rows.some((row) => row[index]);
    const line = (tag, cells) => make('tr', {}, ...cells.filter(isUsed).map((cell) => make(tag, {}, cell ?? '')));
    return rows.length ? [make('h3', {}, title), make('table', {}, make('thead', {}, line('th', heads)),
      make('tbody', {}, ...rows.map((row) => line('td', row))))] : [];
  };
  const { type, port } = devices.graphics;
  const facts = [
    ['CPUs, memory', `${found.vcpu}, ${bytes(found.memory * 1024)}`],
    ['Machine', [found.type, os.type.arch, os.type.machine].filter(Boolean).join(', ')],
    ['Display', [type, port].filter(Boolean).join(' ') || 'none'],
    ['UUID', found.uuid],
  ];
  at('facts').replaceChildren(
    make('table', {}, make('tbody', {}, ...facts.map(([name, value]) =>
      make('tr', {}, make('th', { scope: 'row' }, name), make('td', {}, value))))),
    ...table('Disks', ['Device', 'Source', 'Format', 'Image'], (devices.disks ?? []).map((disk) =>
      [disk.target.device, disk.source.device ?? disk.source.file, disk.driver.type, images.get(disk.target.device)])),
    ...table('NICs', ['MAC', 'Network', 'Model', 'Device'], (devices.interfaces ?? []).map((nic) =>
      [nic.mac.address, nic.source.network ?? nic.source.bridge, nic.model.type, nic.target.device])),
    ...table('Addresses', ['Address', 'MAC', 'Source', 'Seen'], (found.addresses ?? []).map((each) =>
      [each.prefix ? `${each.address}/${each.prefix}` : each.address, each.mac, each.source, `${span(each.age_s)} ago`])),
    ...table('Metadata', ['Name', 'Value'], (metadata.UserMetadata.Parameters ?? []).map((pair) =>
      [pair.Name, pair.Value])),
  );
}
