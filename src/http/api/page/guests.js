// Guests.

/** By id: the values of List and AllMetrics, the lines of usage, and the row in the list. */
const guests = new Map();
const stuck = new Set();
/** The number of reasons for a List so far, and this number at the start of the last List. */
let listReasons = 1, listAnswered = 0;
let listedAt = -Infinity, sampledAt = 0, isSampled = false;
const total = { cpu: [] };

async function lookAtGuests() {
  await attempt('guests-error', async () => {
    if (listAnswered < listReasons || performance.now() - listedAt > LIST_MS) await list();
    const all = await call('AllMetrics');
    take(all, performance.now());
    if (Object.keys(all).length !== guests.size) listReasons++;
  });
  show();
}

async function list() {
  const reasons = listReasons, found = new Set();
  let after = '';
  do {
    const page = await call('List', { limit: 1000, after });
    for (const { id, state, reason = '', memory, cpu, addresses = [] } of page.guests) {
      found.add(id);
      const address = addresses[0]?.address ?? '';
      Object.assign(guests.get(id) ?? newGuest(id), { state, reason, memory, cpus: cpu, address });
    }
    after = page.next;
  } while (after);
  for (const [id, guest] of guests) if (!found.has(id)) forget(guest);
  [listAnswered, listedAt] = [reasons, performance.now()];
}

function newGuest(id) {
  const guest = { id, state: '', reason: '', address: '', memory: 0, cpus: 0, isSeen: false };
  guest.lines = { cpu: [], disk: [], nic: [] };
  guest.row = newRow(guest);
  guests.set(id, guest);
  return guest;
}

function forget(guest) {
  if (guest.row.contains(document.activeElement)) at('filter').focus();
  seen.unobserve(guest.row);
  guest.row.remove();
  guests.delete(guest.id);
  stuck.delete(guest.id);
}

/** Adds a sample of all guests, which may be the same one as before. */
function take(all, now) {
  const sum = (group, ...members) => Object.values(group)
    .reduce((sum, each) => members.reduce((sum, member) => sum + each[member], sum), 0);
  const isNew = !isSampled || now - sampledAt > SAME_MS || Object.entries(all).some(([id, sample]) => {
    const before = guests.get(id)?.counted;
    return !before || sum(sample.cpu, 'cpu_time') !== before.cpu
      || sum(sample.nic, 'rx_bytes', 'tx_bytes') !== before.nic;
  });
  const seconds = now - sampledAt < BREAK_MS ? (now - sampledAt) / 1000 : 0;
  for (const [id, sample] of Object.entries(all)) {
    const guest = guests.get(id);
    if (!guest) continue;
    // A sample has no reason for the state.
    if (now - listedAt > LISTED_MS && guest.state !== sample.state) {
      [guest.state, guest.reason] = [sample.state, ''];
    }
    if (!isNew) continue;
    const before = guest.counted;
    guest.counted = {
      cpu: sum(sample.cpu, 'cpu_time'),
      nic: sum(sample.nic, 'rx_bytes', 'tx_bytes'),
    };
    const rate = (name) => (before && seconds ? Math.max(0, guest.counted[name] - before[name]) / seconds : 0);
    push(guest.lines.cpu, 100 * rate('cpu'));
    push(guest.lines.nic, rate('nic'));
    push(guest.lines.disk, diskRate(guest, sample, sum(sample.disk, 'read_bytes', 'write_bytes'), now));
  }
  if (!isNew) return;
  [sampledAt, isSampled] = [now, true];
  push(total.cpu, [...guests.values()].reduce((sum, guest) => sum + (guest.lines.cpu.at(-1) ?? 0), 0));
}

/** Disks are sampled less often, `age` seconds ago: the rate stays until the next sample of disks. */
function diskRate(guest, sample, counted, now) {
  const read = now - 1000 * sample.age;
  const before = guest.disk;
  if (!Object.keys(sample.disk).length) guest.disk = { rate: 0 };
  else if (!before || before.read === undefined) guest.disk = { read, counted, rate: 0 };
  else if (read - before.read > 3000) {
    const rate = Math.max(0, counted - before.counted) / ((read - before.read) / 1000);
    guest.disk = { read, counted, rate };
  }
  return guest.disk.rate;
}

function push(line, value) {
  line.push(value);
  if (line.length > POINTS) line.shift();
}
