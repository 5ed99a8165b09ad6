// The page of a comparison: ratios on a line around 1, with their intervals.
const TONES = { better: 'good', worse: 'bad', same: 'soft', unsure: 'warn' };
const show = (value, unit) => `${digits(value)} ${unit}`;

// All ratios share one logarithmic axis, so that their marks can be compared by eye down the column.
const ends = data.pairs.flatMap(p => [p.ratio.low ?? p.ratio.value, p.ratio.high ?? p.ratio.value, 1]);
const reach = Math.max(0.02, ...ends.map(v => Math.abs(Math.log2(v)))) * 1.05;
const W = 220, H = 22;
const at = v => (W / 2) * (1 + Math.log2(v) / reach);
function whisker(p) {
  const root = svg('svg', { viewBox: `0 0 ${W} ${H}`, class: 'whisker', role: 'img', 'aria-label': `${p.ratio.value.toFixed(3)} times as good` });
  const tone = { better: 'var(--good)', worse: 'var(--bad)', same: 'var(--soft)', unsure: 'var(--warn)' }[p.change];
  root.append(svg('line', { class: 'axis', x1: at(1), x2: at(1), y1: 0, y2: H }));
  if (p.ratio.low !== null) root.append(svg('line', { stroke: tone, 'stroke-width': 2, x1: at(p.ratio.low), x2: Math.max(at(p.ratio.high), at(p.ratio.low) + 1), y1: H / 2, y2: H / 2 }));
  root.append(svg('circle', { fill: tone, cx: at(p.ratio.value), cy: H / 2, r: 4 }));
  return root;
}

const sortable = [
  ['case', p => p.case, p => breakable(p.case)], ['device', p => p.device ?? ''], ['ratio', p => p.ratio.value, p => p.ratio.value.toFixed(3)], ['worse ← 1 → better', p => p.ratio.value, whisker],
  ['A', p => p.a.value, p => show(p.a.value, p.unit)], ['of roof', p => p.a.fraction ?? -1, p => percent(p.a.fraction)],
  ['B', p => p.b.value, p => show(p.b.value, p.unit)], ['of its roof', p => p.b.fraction ?? -1, p => percent(p.b.fraction)],
  ['ratio per watt', p => p.ratio_per_watt ?? -1, p => p.ratio_per_watt === null ? '–' : p.ratio_per_watt.toFixed(3)], ['notes', p => [p.regressed ? 'REGRESSION' : '', ...p.notes].filter(Boolean).join('; ')]];
function columns() {
  return sortable.filter(([name]) => (name !== 'device' || data.pairs.some(p => p.device)) && (name !== 'ratio per watt' || data.pairs.some(p => p.ratio_per_watt !== null)));
}
function detail(p) {
  const side = (name, f) => [[name, `${show(f.value, p.unit)} by ${f.provider}` + (f.ci === null ? '' : `, ± ${(100 * f.ci).toFixed(2)} %`)],
    [`${name} roof`, f.roof === null ? 'none' : `${show(f.roof, p.unit)}, ${f.roof_kind}`], [`${name} samples`, `${f.samples}` + (f.runs > 1 ? ` of ${f.runs} runs` : '')],
    ...(f.watts === null ? [] : [[`${name} power`, `${digits(f.watts)} W` + (f.per_watt === null ? '' : `, ${show(f.per_watt, p.unit)} per W`)]])];
  const facts = [['case', p.case], ...side('A', p.a), ...side('B', p.b),
    ['ratio', `${p.ratio.value.toFixed(4)}` + (p.ratio.low === null ? ', too few samples for an interval' : `, 95 % from ${p.ratio.low.toFixed(4)} to ${p.ratio.high.toFixed(4)}`)]];
  return element('dl', {}, ...facts.flatMap(([k, v]) => [element('dt', {}, k), element('dd', {}, v)]));
}

const components = [...new Set(data.pairs.map(p => p.component))];
const search = element('input', { type: 'search', placeholder: 'filter cases', 'aria-label': 'filter cases', oninput: () => fill() });
const change = choose('change', ['all changes', 'better', 'worse', 'same', 'unsure'], () => fill());
const part = choose('component', ['all components', ...components], () => fill());
const body = element('tbody');
let order = null, down = false;
function fill() {
  const shown = data.pairs.filter(p => p.case.toLowerCase().includes(search.value.toLowerCase())
    && (change.selectedIndex === 0 || p.change === change.value) && (part.selectedIndex === 0 || p.component === part.value));
  if (order) shown.sort((a, b) => compareValues(order(a), order(b)) * (down ? -1 : 1));
  const all = columns();
  body.replaceChildren(...shown.map(p => {
    const cells = all.map(([name, value, format]) => element('td', { class: { notes: 'wrap', case: 'case', device: '' }[name] ?? 'number' }, (format || value)(p)));
    cells[all.findIndex(([name]) => name === 'ratio')].classList.add(TONES[p.change]);
    const row = element('tr', { class: 'row', 'data-case': p.case, onclick: () => unfold(row, all.length, () => [detail(p)]) }, ...cells);
    return row;
  }));
}
page.replaceChildren(element('h1', {}, 'Ridgepoint comparison'));
page.append(...['A', 'B'].map((name, i) => element('p', {}, element('strong', {}, name + '  '), data.sides[i])), ...data.warnings.map(w => element('p', { class: 'warn' }, w)));
const tally = Object.keys(TONES).map(word => [word, data.pairs.filter(p => p.change === word).length]);
const words = { better: 'B is better', worse: 'B is worse', same: 'the same within the interval', unsure: 'too few samples to say' };
page.append(element('div', { class: 'cards' }, ...tally.filter(([word, n]) => n || word !== 'unsure').map(([word, n]) => element('div', { class: 'card' }, element('b', { class: TONES[word] }, String(n)), words[word]))));
if (data.gate) page.append(element('p', { class: data.regressed ? 'bad' : 'good' }, element('strong', {}, data.gate)));
page.append(...data.bad.map(b => element('p', { class: 'bad' }, b)));
const head = element('tr', {}, ...columns().map(([name, value]) => element('th', { class: ['case', 'device', 'notes'].includes(name) ? '' : 'number', onclick: () => { down = order === value && !down; order = value; fill(); } }, name)));
page.append(element('section', {}, element('h2', {}, 'on both sides'), element('div', { class: 'controls' }, search, part, change), element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), body))));
fill();
if (data.single.length) {
  page.append(element('section', {}, element('h2', {}, 'on one side only, and why'), element('div', { class: 'scroll' }, element('table', {}, element('tbody', {},
    ...data.single.map(s => element('tr', {}, element('td', {}, s.only.toUpperCase()), element('td', { class: 'case' }, s.device ? s.device + ' ' : '', breakable(s.case)), element('td', { class: 'number' }, show(s.value, s.unit)), element('td', { class: 'wrap' }, s.why))))))));
}
page.append(element('p', { class: 'soft' }, data.legend));
