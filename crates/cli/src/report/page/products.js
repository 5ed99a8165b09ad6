// Products by their sizes: a map over M and N, curves over squares, and forward passes of models summed from their parts.
const sizes = r => { const m = /^gemm\/m(\d+)n(\d+)k(\d+)\/(.+)$/.exec(r.case); return m ? { m: +m[1], n: +m[2], k: +m[3], dtype: m[4] } : null; };

// Cividis: told apart by lightness alone, so by every reader and in print.
const RAMP = ['#00224e', '#1a386f', '#404c6b', '#5a606e', '#737475', '#8d8979', '#a99f72', '#c7b767', '#e4d054', '#fee838'];
const shade = x => RAMP[Math.max(0, Math.min(RAMP.length - 1, Math.round(x * (RAMP.length - 1))))];

// Grids of at least two by two among the results, by what else they have in common; the largest first.
function grids() {
  const groups = new Map();
  for (const r of measured) {
    const s = sizes(r);
    if (!s || !r.tflops) continue;
    const name = [`K ${s.k}`, s.dtype, r.provider, ...(data.devices.length > 1 ? [r.device] : [])].join(' · ');
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push({ ...s, r });
  }
  return [...groups].map(([name, cells]) => dense(name, cells)).filter(g => g.ms.length > 1 && g.ns.length > 1).sort((a, b) => b.cells.length - a.cells.length);
}
// The part of it that is a grid: sizes of which less than half the others are there go, the emptiest first.
function dense(name, cells) {
  for (;;) {
    const count = side => { const n = new Map(); for (const c of cells) n.set(c[side], (n.get(c[side]) || 0) + 1); return n; };
    const m = count('m'), n = count('n');
    const least = Math.min(...[...m.values()].map(v => v / n.size), ...[...n.values()].map(v => v / m.size));
    if (least >= 0.5 || !cells.length) return { name, cells, ms: [...m.keys()].sort((a, b) => a - b), ns: [...n.keys()].sort((a, b) => a - b) };
    cells = cells.filter(c => m.get(c.m) / n.size > least && n.get(c.n) / m.size > least);
  }
}

const FIGURES = { 'TFLOP/s': [r => r.tflops, digits], '% of roof': [r => r.fraction ?? null, percent] };

function map(grid, figure) {
  const [value, format] = FIGURES[figure], W = 900, L = 84, T = 30, B = 56, S = 44;
  const w = (W - L - S) / grid.ns.length, h = Math.max(20, Math.min(44, 480 / grid.ms.length)), H = T + h * grid.ms.length + B;
  const known = grid.cells.map(c => value(c.r)).filter(v => v !== null && v !== undefined);
  const low = Math.min(...known), high = Math.max(...known);
  const at = v => high > low ? (v - low) / (high - low) : 1;
  const root = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', class: 'products', 'aria-label': `${figure} over M and N, ${grid.name}` });
  // As many words as there is room for, the ends always.
  const every = (list, room) => { const step = Math.ceil(list.length / room); return list.map((v, i) => i % step === 0 || i === list.length - 1 ? v : null); };
  every(grid.ns, 9).forEach((n, i) => n && root.append(svg('text', { x: L + (i + 0.5) * w, y: H - B + 20, 'text-anchor': 'middle' }, n)));
  every(grid.ms, 12).forEach((m, i) => m && root.append(svg('text', { x: L - 8, y: T + (i + 0.5) * h + 5, 'text-anchor': 'end' }, m)));
  root.append(svg('text', { x: L + (W - L - S) / 2, y: H - 12, 'text-anchor': 'middle' }, 'N'), svg('text', { x: 14, y: T + h * grid.ms.length / 2, 'text-anchor': 'middle' }, 'M'));
  for (const { m, n, r } of grid.cells) {
    const v = value(r), x = L + grid.ns.indexOf(n) * w, y = T + grid.ms.indexOf(m) * h;
    const none = v === null || v === undefined;
    const cell = svg('rect', { class: 'cell', x: x + 0.5, y: y + 0.5, width: w - 1, height: h - 1, fill: none ? 'none' : shade(at(v)), 'data-case': r.case });
    cell.append(svg('title', {}, describe(r)));
    hover(cell, describe(r));
    cell.addEventListener('click', () => reveal(r));
    root.append(cell);
    if (grid.ns.length <= 8 && !none) root.append(svg('text', { class: 'inside', x: x + w / 2, y: y + h / 2 + 5, 'text-anchor': 'middle', style: `fill:${at(v) > 0.55 ? '#000' : '#fff'}` }, format(v)));
  }
  // The scale, with its two ends.
  const x = W - S + 18, rows = RAMP.length, each = h * grid.ms.length / rows;
  RAMP.forEach((color, i) => root.append(svg('rect', { x, y: T + (rows - 1 - i) * each, width: 12, height: each + 0.5, fill: color })));
  root.append(svg('text', { x: W - 4, y: H - 12, 'text-anchor': 'end' }, known.length ? format(low) : '–'), svg('text', { x: W - 4, y: T - 10, 'text-anchor': 'end' }, known.length ? format(high) : '–'));
  return root;
}

// The same numbers for who would rather read them.
function asTable(grid, figure) {
  const [value, format] = FIGURES[figure];
  const find = (m, n) => grid.cells.find(c => c.m === m && c.n === n);
  const rows = grid.ms.map(m => element('tr', {}, element('th', {}, `M ${m}`), ...grid.ns.map(n => { const c = find(m, n); return element('td', { class: 'number' }, c ? format(value(c.r)) : '–'); })));
  return element('details', {}, element('summary', {}, `${figure} as a table`), element('div', { class: 'scroll' },
    element('table', {}, element('thead', {}, element('tr', {}, element('th', {}, ''), ...grid.ns.map(n => element('th', { class: 'number' }, `N ${n}`)))), element('tbody', {}, ...rows))));
}

function productMaps() {
  const all = grids();
  if (!all.length) return [];
  const place = element('div');
  const which = choose('which grid', all.map(g => g.name), () => draw()), figure = choose('which figure', Object.keys(FIGURES), () => draw());
  const draw = () => { const grid = all[which.selectedIndex]; place.replaceChildren(map(grid, figure.value), asTable(grid, figure.value)); };
  draw();
  return [element('section', { id: 'products' }, element('h2', {}, 'products over M and N'), element('div', { class: 'controls' }, which, figure), place,
    element('p', { class: 'soft' }, 'Each cell is a result at its median. Point at one for its figures, click it for its row.'))];
}

function squares() {
  const square = r => { const s = sizes(r); return s && s.m === s.n && s.n === s.k && r.tflops ? s.n : null; };
  const rows = measured.filter(square);
  const plot = curves(rows, r => [sizes(r).dtype, r.provider, ...(data.devices.length > 1 ? [r.device] : [])].join(' '), 'M = N = K', 'TFLOP/s', square, [], n => n, 2);
  return plot ? [element('section', { id: 'squares' }, element('h2', {}, 'square products'), plot)] : [];
}

// A pass of a model: its parts in the order of a layer, a column a pass.
function forwardPasses() {
  const ms = seconds => digits(seconds * 1e3);
  const of = (column, name) => column.sums.find(s => s.name === name).seconds;
  return data.forward.map(f => {
    const cell = (column, layer) => {
      const part = column.parts.find(p => p.layer === layer);
      if (!part) return element('td', { class: 'number' }, '');
      if (part.seconds === null) return element('td', { class: 'number warn', title: part.case }, `${part.count} × not measured`);
      const total = part.count * part.seconds;
      return element('td', { class: 'number', title: `${part.case}\nby ${part.provider}` }, `${part.count} × ${ms(part.seconds)}`, element('span', { class: 'soft' }, `\u2002${percent(total / of(column, 'total'))}`));
    };
    const rows = f.layers.map(layer => element('tr', {}, element('td', {}, layer), ...f.columns.map(c => cell(c, layer))));
    const sums = f.columns[0].sums.map(({ name }) => element('tr', { class: 'sum' }, element('td', {}, name),
      ...f.columns.map(c => element('td', { class: 'number' + (name === 'total' && c.missing ? ' warn' : '') }, (name === 'total' && c.missing ? 'at least ' : '') + ms(of(c, name))))));
    return element('section', { class: 'forward' }, element('h2', {}, f.title), element('div', { class: 'scroll' }, element('table', {},
      element('thead', {}, element('tr', {}, element('th', {}, 'ms'), ...f.columns.map(c => element('th', { class: 'number' }, c.name)))), element('tbody', {}, ...rows, ...sums))),
      element('p', { class: 'soft' }, `${f.without}.`));
  });
}
