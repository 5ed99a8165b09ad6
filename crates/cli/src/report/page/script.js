// The page of a run.
const measured = data.rows.filter(r => r.outcome === 'measured' && r.achieved !== undefined);
const describe = r => `${r.case}\n${r.provider} on ${r.device}\n${digits(r.achieved)} ${r.unit}` +
  (r.roof ? `, ${percent(r.fraction)} of ${digits(r.roof)} (${r.roofSource})` : `\n${r.noRoof || ''}`) + (r.labels.length ? '\n' + r.labels.join(', ') : '');

// A log-log frame; returns the drawing and its two scales.
function frame(xs, ys, xLabel, yLabel, xFormat, base = 10) {
  const W = 900, H = 420, L = 76, R = 16, T = 14, B = 52;
  const log = (v, b) => Math.log(v) / Math.log(b);
  const range = (values, b) => [Math.floor(log(Math.min(...values), b) - 0.01), Math.ceil(log(Math.max(...values), b) + 0.01)];
  let [x0, x1] = range(xs, base), [y0, y1] = range(ys, 10);
  if (x1 <= x0) x1 = x0 + 1;
  if (y1 <= y0) y1 = y0 + 1;
  const x = v => L + (log(v, base) - x0) / (x1 - x0) * (W - L - R);
  const y = v => H - B - (log(v, 10) - y0) / (y1 - y0) * (H - T - B);
  const root = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${yLabel} against ${xLabel}` });
  for (let e = x0; e <= x1; e++) {
    root.append(svg('line', { class: 'axis', x1: x(base ** e), x2: x(base ** e), y1: T, y2: H - B }));
    root.append(svg('text', { x: x(base ** e), y: H - B + 20, 'text-anchor': e === x1 ? 'end' : 'middle' }, xFormat(base ** e)));
  }
  for (let e = y0; e <= y1; e++) {
    root.append(svg('line', { class: 'axis', x1: L, x2: W - R, y1: y(10 ** e), y2: y(10 ** e) }));
    root.append(svg('text', { x: L - 6, y: y(10 ** e) + 4, 'text-anchor': 'end' }, digits(10 ** e)));
  }
  root.append(svg('text', { x: (L + W - R) / 2, y: H - 8, 'text-anchor': 'middle' }, xLabel));
  root.append(svg('text', { x: 16, y: (T + H - B) / 2, 'text-anchor': 'middle', transform: `rotate(-90 16 ${(T + H - B) / 2})` }, yLabel));
  return { root, x, y, xEnds: [base ** x0, base ** x1] };
}

function roofline(device) {
  const points = measured.filter(r => r.device === device.id && r.intensity && r.tflops);
  if (!points.length) return null;
  const slope = device.bandwidth ? device.bandwidth.gbps / 1e3 : null;
  const dtypes = [...new Set(points.map(p => p.dtype))];
  const peaks = device.peaks.filter(p => dtypes.includes(p.dtype));
  const ridges = slope ? peaks.map(p => p.tflops / slope) : [];
  const f = frame([...points.map(p => p.intensity), ...ridges, ...ridges.map(r => r * 4)], [...points.map(p => p.tflops), ...peaks.map(p => p.tflops)],
    'arithmetic intensity, FLOP per byte', 'TFLOP/s', digits);
  const color = dtype => COLORS[dtypes.indexOf(dtype) % COLORS.length];
  for (const peak of peaks) {
    const [start, end] = f.xEnds, ridge = slope ? peak.tflops / slope : start;
    const path = slope && ridge > start ? `M${f.x(start)} ${f.y(start * slope)} L${f.x(ridge)} ${f.y(peak.tflops)} L${f.x(end)} ${f.y(peak.tflops)}` : `M${f.x(start)} ${f.y(peak.tflops)} L${f.x(end)} ${f.y(peak.tflops)}`;
    const line = svg('path', { class: 'roof', d: path, stroke: color(peak.dtype) });
    hover(line, `${peak.dtype} ${digits(peak.tflops)} TFLOP/s, ${peak.source}` + (slope ? `\nridge point at ${digits(ridge)} FLOP/B` : ''));
    f.root.append(line, svg('text', { x: f.x(end) - 4, y: f.y(peak.tflops) - 4, 'text-anchor': 'end' }, peak.dtype));
    if (slope && ridge > start && ridge < end) {
      // Where bytes stop being the limit: left of it a shape is judged by GB/s, right of it by TFLOP/s.
      const mark = svg('path', { class: 'ridge', d: `M${f.x(ridge)} ${f.y(peak.tflops) - 6} l6 6 l-6 6 l-6 -6 Z`, fill: color(peak.dtype), 'data-ridge': peak.dtype });
      hover(mark, `ridge point of ${peak.dtype}: ${digits(ridge)} FLOP/B`);
      f.root.append(mark, svg('text', { x: f.x(ridge), y: f.y(peak.tflops) - 12, 'text-anchor': 'end' }, digits(ridge)));
    }
  }
  for (const p of points) {
    const dot = svg('circle', { class: 'point', cx: f.x(p.intensity), cy: f.y(p.tflops), r: p.component === 'attention' ? 6 : 5, fill: color(p.dtype), 'data-case': p.case });
    hover(dot, describe(p));
    dot.addEventListener('click', () => reveal(p));
    f.root.append(dot);
  }
  return f.root;
}

// The size that an id names, or for memory the working set: all arrays together.
const named = r => { const m = /\/(\d+)(B|KiB|MiB|GiB)(\/|$)/.exec(r.case); return m ? m[1] * { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[m[2]] : null; };
const set = r => r.bytes;

// Curves of figures against a size, with the plateaus that were found on them.
function curves(rows, key, unit, yLabel, size = named, stairs = [], format = bytes, base = 4, hollow = () => false) {
  const groups = new Map();
  for (const r of rows.filter(r => size(r))) {
    const name = key(r);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(r);
  }
  // A line goes through different sizes: the same one twice is none.
  const lines = [...groups].filter(([, points]) => new Set(points.map(size)).size > 1);
  if (!lines.length) return null;
  const all = lines.flatMap(([, points]) => points);
  const f = frame(all.map(size), all.map(r => r.achieved), unit, yLabel, format, base);
  for (const s of stairs) for (const p of s.plateaus) {
    const line = svg('line', { class: 'plateau', x1: f.x(p.from) - 6, x2: f.x(p.to) + 6, y1: f.y(p.value), y2: f.y(p.value), stroke: '#57606a', 'stroke-width': 9, 'stroke-opacity': 0.25, 'stroke-linecap': 'round' });
    hover(line, `${p.name}: ${digits(p.value)} ${s.unit}\n${bytes(p.from)} to ${bytes(p.to)}\n${s.op} by ${s.provider} on ${s.device}`);
    f.root.append(line, svg('text', { x: (f.x(p.from) + f.x(p.to)) / 2, y: f.y(p.value) - 9, 'text-anchor': 'middle' }, p.name));
  }
  lines.forEach(([name, points], i) => {
    points.sort((a, b) => size(a) - size(b));
    const color = COLORS[i % COLORS.length];
    f.root.append(svg('path', { class: 'curve', stroke: color, d: points.map((p, j) => `${j ? 'L' : 'M'}${f.x(size(p))} ${f.y(p.achieved)}`).join(' ') }));
    for (const p of points) {
      const dot = svg('circle', { class: 'point', cx: f.x(size(p)), cy: f.y(p.achieved), r: 4, fill: hollow(p) ? 'var(--paper)' : color, stroke: color, 'stroke-width': 2 });
      hover(dot, describe(p));
      dot.addEventListener('click', () => reveal(p));
      f.root.append(dot);
    }
    f.root.append(svg('text', { x: 890, y: 30 + 22 * i, 'text-anchor': 'end', style: `fill:${color}` }, name));
  });
  return f.root;
}

const COLUMNS = [['case', r => r.case.split('/').slice(1).join('/')], ['by', r => r.provider], ['achieved', r => r.achieved, r => `${digits(r.achieved)} ${r.unit}`],
  ['roof', r => r.roof ?? -1, r => digits(r.roof)], ['of roof', r => r.fraction ?? -1, r => percent(r.fraction)], ['spread', r => (r.p95 - r.p5) / r.median, r => (100 * (r.p95 - r.p5) / r.median).toFixed(1) + ' %'],
  ['error', r => r.error, r => r.error === 0 ? 'exact' : r.error.toExponential(0)], ['MHz', r => r.mhz ?? -1, r => r.mhz ? r.mhz.toFixed(0) : '–'], ['notes', r => notes(r)]];
function notes(r) {
  const all = [...r.labels];
  if (r.component === 'attention' && r.bound) all.push(`${r.bound}-bound`);
  if (r.suspect) all.push('suspect: above its roof');
  if (r.atClock) all.push(percent(r.atClock) + (r.level === 'host' ? ' of the link as it was negotiated' : ' at the observed clock'));
  if (r.bound === 'memory' && r.metric === 'arithmetic' && r.gbps) all.push(digits(r.gbps) + ' GB/s');
  if (r.perClock) all.push(digits(r.perClock) + ' B/clk/unit');
  if (r.clocks) all.push(digits(r.clocks) + ' cycles');
  if (r.throttle.length) all.push('throttled: ' + r.throttle.join(', '));
  return all.join('; ');
}
const shown = new Map();
function reveal(r) {
  const row = shown.get(r);
  if (row) { row.scrollIntoView({ block: 'center' }); if (!row.nextSibling?.classList.contains('detail')) row.click(); }
}
function table(component) {
  const rows = measured.filter(r => r.component === component);
  if (!rows.length) return null;
  const several = new Set(rows.map(r => r.device)).size > 1;
  const columns = several ? [['device', r => r.device], ...COLUMNS] : COLUMNS;
  const body = element('tbody');
  let order = null, down = false;
  const number = name => !['device', 'case', 'by', 'notes'].includes(name);
  const fill = filter => {
    body.replaceChildren();
    let list = rows.filter(r => (r.case + ' ' + r.provider + ' ' + r.device).toLowerCase().includes(filter.toLowerCase()));
    if (order) list = [...list].sort((a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0) * (down ? -1 : 1));
    for (const r of list) {
      const cells = columns.map(([name, value, format]) => {
        const cell = element('td', { class: number(name) ? 'number' : name === 'notes' ? 'wrap' : '' });
        if (name === 'of roof' && r.fraction) cell.append(element('span', { class: 'bar', style: `width:${Math.min(60, 60 * r.fraction)}px` }));
        cell.append((format || value)(r));
        if (name === 'notes' && (r.suspect || r.throttle.length)) cell.classList.add('warn');
        return cell;
      });
      const row = element('tr', { class: 'row', onclick: () => toggle(row, r, columns.length) }, ...cells);
      shown.set(r, row);
      body.append(row);
    }
  };
  const head = element('tr', {}, ...columns.map(([name, value]) => element('th', { class: number(name) ? 'number' : '', onclick: () => { down = order === value && !down; order = value; fill(search.value); } }, name)));
  const search = element('input', { type: 'search', placeholder: 'filter', 'aria-label': `filter ${component}`, oninput: () => fill(search.value) });
  fill('');
  return element('section', {}, element('h2', {}, component), element('div', { class: 'controls' }, search), element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), body)));
}
function toggle(row, r, width) {
  if (row.nextSibling?.classList.contains('detail')) return row.nextSibling.remove();
  const facts = { roof: r.roofSource || r.noRoof, bound: r.bound, 'TFLOP/s': digits(r.tflops), 'GB/s': digits(r.gbps), 'FLOP per byte': digits(r.intensity),
    median: (r.median * 1e6).toPrecision(4) + ' µs', 'p5 to p95': `${(r.p5 * 1e6).toPrecision(4)} to ${(r.p95 * 1e6).toPrecision(4)} µs`, samples: `${r.n} of ${r.batch} executions, ${r.clock} clock, ${r.stop}`,
    verified: `${r.check}: error ${r.error.toExponential(1)} within ${r.tolerance.toExponential(1)}, ${r.checked} elements`, ...r.config,
    ...(r.tuning ? { tuning: `number ${r.tuning.chosen} of ${r.tuning.offered} in the provider's own ranking` + (r.tuning.gain ? `, ${r.tuning.gain.toFixed(3)} × its first choice` : '') } : {}),
    ...Object.fromEntries(Object.entries(r.sensors).map(([k, v]) => [k, `${digits(v.min)} to ${digits(v.max)}`])) };
  const list = element('dl', {}, ...Object.entries(facts).filter(([, v]) => v && v !== '–').flatMap(([k, v]) => [element('dt', {}, k), element('dd', {}, String(v))]));
  row.after(element('tr', { class: 'detail' }, element('td', { colspan: width }, list, sparkline(r.samples))));
}
function sparkline(samples) {
  if (samples.length < 2) return null;
  const low = Math.min(...samples), high = Math.max(...samples), W = 600, H = 60;
  const y = v => H - 6 - (v - low) / (high - low || 1) * (H - 12);
  const root = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': 'samples in the order taken' });
  root.append(svg('path', { class: 'curve', stroke: COLORS[0], d: samples.map((s, i) => `${i ? 'L' : 'M'}${(i / (samples.length - 1) * (W - 12) + 6).toFixed(1)} ${y(s).toFixed(1)}`).join(' ') }));
  return root;
}
// Who did a case fastest, and by how much: a line a case, its providers beside each other.
function sideBySide() {
  if (!data.sideBySide.length) return null;
  const several = new Set(data.sideBySide.map(c => c.device)).size > 1;
  const rows = data.sideBySide.map(c => element('tr', { 'data-rivals': c.case }, element('td', {}, breakable(several ? `${c.device} ${c.case}` : c.case)),
    element('td', {}, element('strong', {}, c.providers[0].provider), ' ' + c.lead),
    element('td', { class: 'number' }, c.low ? `${c.low.toFixed(3)} to ${c.high.toFixed(3)}` : '–'),
    element('td', { class: 'wrap' }, c.providers.map(p => `${p.provider} ${digits(p.achieved)}`).join(' · ') + ' ' + c.unit)));
  const head = element('tr', {}, ...['case', 'fastest', '95 % of the ratio', 'all'].map(name => element('th', {}, name)));
  return element('section', {}, element('h2', {}, 'who was fastest'), element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows))));
}
// What each kind of data does to a case.
function dataSweep(sweep) {
  const rows = sweep.kinds.map(k => element('tr', { 'data-kind': k.data }, element('td', {}, k.data), ...[`${digits(k.achieved)} ${k.unit}`, k.ofNormal ? k.ofNormal.toFixed(3) + ' ×' : '–', k.mhz ? k.mhz.toFixed(0) : '–',
    k.watts ? k.watts.toFixed(0) : '–', k.perWatt ? `${digits(k.perWatt)} ${k.unit}/W` : '–'].map(text => element('td', { class: 'number' }, text))));
  const head = element('tr', {}, element('th', {}, 'data'), ...['achieved', 'of normal', 'MHz', 'W', 'a watt'].map(name => element('th', { class: 'number' }, name)));
  return element('section', {}, element('h2', {}, `what data do to ${sweep.title}`), element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows))));
}
function unmeasured() {
  const groups = new Map();
  for (const r of data.rows.filter(r => !measured.includes(r))) {
    const key = `${r.outcome}: ${r.reason}`;
    if (!groups.has(key)) groups.set(key, { outcome: r.outcome, reason: r.reason, cases: [] });
    groups.get(key).cases.push(`${r.case} by ${r.provider}`);
  }
  if (!groups.size) return null;
  const rows = [...groups.values()].map(g => element('tr', {}, element('td', { class: g.outcome === 'skipped' ? 'warn' : 'bad' }, g.outcome), element('td', { class: 'wrap' }, g.reason), element('td', { class: 'wrap' }, g.cases.join(', '))));
  return element('section', {}, element('h2', {}, 'not measured, and why'), element('div', { class: 'scroll' }, element('table', {}, element('tbody', {}, ...rows))));
}

page.replaceChildren();
const last = data.runs[data.runs.length - 1];
page.append(element('h1', {}, 'Ridgepoint report'));
if (last) page.append(element('p', { class: 'soft' }, `${last.host} · ${last.cpu} · ${last.os} · ${last.started} · profile ${last.profile} · ridgepoint ${last.version}, method ${last.method}, seed ${last.seed}`), element('p', { class: 'soft' }, last.command));
const count = outcome => data.rows.filter(r => r.outcome === outcome).length;
const bad = count('wrong') + count('failed');
const card = (value, text, tone) => element('div', { class: 'card' }, element('b', { class: tone || '' }, value), text);
// One rank has no wire: what it does is a copy, and no busbw.
const alone = r => r.component === 'collectives' && r.case.includes('/r1/');
const best = (component, unit) => measured.filter(r => r.component === component && r.unit === unit && r.level !== 'cache' && !alone(r)).sort((a, b) => b.achieved - a.achieved)[0];
page.append(element('div', { class: 'cards' }, card(String(measured.length), 'results, each verified before and after it was timed', 'good'), card(String(bad), 'wrong or failed', bad ? 'bad' : 'good'), card(String(count('skipped')), 'skipped, each with its reason'),
  ...['memory', 'gemm', 'attention', 'collectives'].map(c => [c, best(c, c === 'memory' || c === 'collectives' ? 'GB/s' : 'TFLOP/s')]).filter(([, r]) => r).map(([c, r]) => card(`${digits(r.achieved)} ${r.unit}`, `best of ${c}: ${r.case.split('/').slice(1).join('/')} by ${r.provider}`))));
for (const device of data.devices) {
  const facts = [device.vendor, device.arch, `${device.units} units`, bytes(device.memory), ...device.caches.map(c => `${c.name} ${bytes(c.bytes)}`), `driver ${device.driver}`, ...device.libraries];
  page.append(element('p', {}, element('strong', {}, `${device.id} ${device.name}`), device.model ? ` (${device.model})` : ' (not in specs.toml: empirical roofs)'), element('p', { class: 'soft' }, facts.join(' · ')));
  const plot = roofline(device);
  if (plot) page.append(element('section', {}, element('h2', {}, `roofline of ${device.id}`), plot, element('p', { class: 'soft' }, 'Each point is a result at its median; lines are the roof of each dtype, diamonds their ridge points in FLOP per byte. Point at one for its figures, click it for its row.')));
}
const label = r => `${r.case.split('/')[1]} ${r.provider}` + (data.devices.length > 1 ? ` ${r.device}` : '');
const collectives = (which, unit) => curves(measured.filter(r => r.component === 'collectives' && r.unit === 'GB/s' && which(r)), r => `${r.case.split('/')[1]} ${r.case.split('/')[2]} ${r.provider}`, 'bytes', unit);
for (const [title, plot] of [
  ['bandwidth staircase', curves(measured.filter(r => /^memory\/\w+\/[^/]+\/f32(\/hot)?$/.test(r.case)), label, 'working set', 'GB/s', set, data.staircases.filter(s => s.unit === 'GB/s' && s.op === 'read'))],
  ['latency staircase', curves(measured.filter(r => r.component === 'memory' && r.unit === 'ns'), r => [label(r), r.case.split('/')[3]].filter(Boolean).join(' '), 'footprint', 'ns', set, data.staircases.filter(s => s.unit === 'ns'))],
  ['collectives', collectives(r => !alone(r), 'busbw, GB/s')],
  ['collectives of one rank', collectives(alone, 'algbw, GB/s')]]) {
  if (plot) page.append(element('section', {}, element('h2', {}, title), plot));
}
// Copies from each device to each other; the darker, the faster.
for (const m of data.peers) {
  const all = m.cells.flat().filter(v => v !== null), most = Math.max(...all);
  const cell = v => v === null ? element('td', {}, '·') : element('td', { style: `background: rgb(9 105 218 / ${(v / most * 0.5).toFixed(2)})` }, digits(v));
  const rows = m.cells.map((cells, i) => element('tr', {}, element('th', {}, m.devices[i]), ...cells.map(cell)));
  const head = element('tr', {}, element('th', {}, 'from \\ to'), ...m.devices.map(id => element('th', {}, id)));
  page.append(element('section', {}, element('h2', {}, `copies between devices, ${m.bytes} by ${m.provider}`), element('p', { class: 'soft' }, `GB/s, ${m.both ? 'both ways at once, the sum' : 'one way'}`), element('table', { class: 'peers' }, element('thead', {}, head), element('tbody', {}, ...rows))));
}
// A sustained case over time: its figure and each sensor, one above the other.
function heat(r) {
  const series = [{ unit: r.unit, values: r.heat.figure }, ...r.heat.sensors].filter(s => s.values.some(v => v !== null));
  const W = 900, H = 84, L = 130, at = r.heat.at, end = at[at.length - 1] || 1;
  const rows = series.map((s, i) => {
    const known = s.values.filter(v => v !== null), low = Math.min(...known), high = Math.max(...known);
    const x = t => L + t / end * (W - L - 8), y = v => H - 12 - (v - low) / (high - low || 1) * (H - 24);
    const root = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${s.unit} over ${digits(end)} seconds` });
    const points = at.map((t, j) => [t, s.values[j]]).filter(([, v]) => v !== null);
    root.append(svg('text', { x: L - 8, y: 18, 'text-anchor': 'end' }, digits(high)), svg('text', { x: L - 8, y: H - 8, 'text-anchor': 'end' }, digits(low)), svg('text', { x: 4, y: H / 2 + 4 }, s.unit));
    root.append(svg('path', { class: 'curve', stroke: COLORS[i % COLORS.length], d: points.map(([t, v], j) => `${j ? 'L' : 'M'}${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join(' ') }));
    return root;
  });
  return element('div', {}, element('p', {}, `${r.case} by ${r.provider} on ${r.device}, ${digits(end)} s`), ...rows);
}
const sustained = measured.filter(r => r.heat);
if (sustained.length) page.append(element('section', {}, element('h2', {}, 'heat: sustained cases over time'), ...sustained.map(heat)));
page.append(...forwardPasses(), ...productMaps(), ...squares(), ...attentionCurves());
page.append(...data.components.map(table).filter(Boolean), ...data.dataSweeps.map(dataSweep), ...[sideBySide(), unmeasured()].filter(Boolean));
