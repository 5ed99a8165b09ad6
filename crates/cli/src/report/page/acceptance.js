// What the page of a fleet and the sheet of a node have in common.
const badge = verdict => element('span', { class: 'badge ' + verdict.toLowerCase() }, verdict);
const RANK = { FAIL: 0, WARN: 1, INVALID: 2, SKIP: 3, PASS: 4 };
const signed = (x, places = 1) => x === null || x === undefined ? '–' : (x < 0 ? '−' : '+') + Math.abs(x).toFixed(places) + ' %';
for (const f of [...data.findings, ...data.fleet]) {
  const [reference, referenceIs, difference, sigmas, among, threshold, record] = f.e;
  f.evidence = { reference, reference_is: referenceIs, deviation_pct: difference, sigmas, population: among, threshold: data.thresholds[threshold], record };
  f.what = [f.case, f.provider].filter(Boolean).join(' by ');
}
const findingsOf = new Map(data.nodes.map(n => [n.name, []]));
for (const f of data.findings) findingsOf.get(f.node)?.push(f);
const sheetOf = node => '#node/' + encodeURIComponent(node);
const metricName = m => `${m.case} by ${m.provider}`;

// How far a figure is from what is usual, from -1 (far worse) to 1: both in percent, of which ten are far, and against how much
// devices of its model differ anyway, of which three σ are nothing and ten are far. What is merely noisy stays pale.
function far(m, pct) {
  const usual = m.cohorts[0], sigma = usual ? 100 * usual.mad / usual.median : 0;
  const size = Math.min((Math.abs(pct) - 0.5) / 9.5, sigma > 0 ? (Math.abs(pct) / sigma - 3) / 7 : Infinity);
  return Math.sign(pct) * Math.max(0, Math.min(1, size));
}
// Red is worse and blue is better.
const tint = part => `--part: ${Math.round(90 * Math.abs(part))}%; --tone: var(${part < 0 ? '--bad' : '--accent'})`;
function facts(pairs) {
  return element('dl', {}, ...pairs.filter(([, v]) => v !== null && v !== undefined && v !== '' && v !== '–').flatMap(([k, v]) => [element('dt', {}, k), element('dd', {}, v)]));
}
// Everything that a finding rests on.
function evidence(f) {
  const e = f.evidence;
  return facts([['why', f.text], ['reason', f.reason], ['rule', `${f.set} ${f.rule}` + (f.required ? ', required' : '')], ['measured', f.measured], ['expected', f.expected],
    ['of peak', percent(f.ofRoof)], ['compared with', e.reference === null ? '' : `${digits(e.reference)}` + (e.reference_is ? `, ${e.reference_is}` : '')],
    ['difference', e.deviation_pct === null ? '' : signed(e.deviation_pct, 2) + (e.sigmas === null ? '' : `, ${e.sigmas.toFixed(1)} σ`)],
    ['among', e.population === null ? '' : String(e.population)], ['threshold from', e.threshold], ['record', e.record]]);
}

// A table to sort, filter and open rows of. `columns` are { name, value, show, kind }; `detail` makes what lies behind a row.
// More rows than `size` are shown as they are asked for, and on paper.
function grid(columns, rows, detail, size = 100) {
  const body = element('tbody');
  const more = element('button', { class: 'more', onclick: () => { limit *= 4; fill(); } });
  let order = null, down = false, limit = size, shown = rows;
  const heads = columns.map(c => {
    const head = element('th', { class: c.kind === 'number' ? 'number' : '', scope: 'col' }, element('button', { onclick: () => { down = order === c && !down; order = c; fill(); } }, c.name));
    return head;
  });
  function fill() {
    heads.forEach((h, i) => columns[i] === order ? h.setAttribute('aria-sort', down ? 'descending' : 'ascending') : h.removeAttribute('aria-sort'));
    const list = order ? [...shown].sort((a, b) => compareValues(order.value(a), order.value(b)) * (down ? -1 : 1)) : shown;
    body.replaceChildren(...list.slice(0, limit).map(r => {
      const cells = columns.map(c => element('td', { class: c.kind || '' }, (c.show || c.value)(r)));
      const row = element('tr', { class: detail ? 'row' : '', tabindex: detail ? 0 : null }, ...cells);
      if (detail) {
        row.onclick = e => { if (!e.target.closest('a')) unfold(row, columns.length, () => detail(r)); };
        row.onkeydown = e => { if (e.key === 'Enter' && e.target === row) row.onclick(e); };
      }
      return row;
    }));
    more.hidden = list.length <= limit;
    more.textContent = `show more of ${list.length}`;
  }
  expand.push(() => { limit = Infinity; fill(); });
  fill();
  return { root: element('div', {}, element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, element('tr', {}, ...heads)), body)), more), keep: test => { shown = rows.filter(test); fill(); } };
}
// On paper there is no button to press.
let expand = [];
addEventListener('beforeprint', () => expand.forEach(f => f()));

const TESTS = [
  { name: 'verdict', value: f => RANK[f.verdict], show: f => badge(f.verdict) },
  { name: 'test', value: f => f.rule, show: f => element('span', {}, f.times > 1 ? `${f.rule} × ${f.times}` : f.rule, f.verdict === 'PASS' && f.measured !== '–' ? null : element('small', {}, f.text)), kind: 'test' },
  { name: 'device', value: f => f.device ?? '', show: f => f.device ?? 'node' },
  { name: 'measured', value: f => f.value ?? -Infinity, show: f => f.measured, kind: 'number' },
  { name: 'expected', value: f => f.expected, kind: 'number' },
  { name: 'of peak', value: f => f.ofRoof ?? -1, show: f => percent(f.ofRoof), kind: 'number' },
  { name: 'difference', value: f => f.evidence.deviation_pct ?? Infinity, show: f => signed(f.evidence.deviation_pct), kind: 'number' },
  { name: 'case', value: f => f.what, show: f => breakable(f.what), kind: 'case' },
  { name: 'threshold from', value: f => f.evidence.threshold, kind: 'wrap' }];

// What was skipped for one reason, of no case in particular, is one line and not fifty.
function gathered(findings) {
  const known = new Map();
  return findings.filter(f => {
    f.times = 1;
    if (f.verdict !== 'SKIP' || f.case) return true;
    const key = JSON.stringify([f.node, f.set, f.rule, f.device, f.text]), first = known.get(key);
    if (first) first.times++;
    else known.set(key, f);
    return !first;
  });
}
// Findings with their filter: text over all that is shown of them, and the verdict.
function tests(title, all, columns) {
  const findings = gathered(all);
  const table = grid(columns, findings, f => [evidence(f)]);
  const has = verdict => findings.some(f => f.verdict === verdict);
  const search = element('input', { type: 'search', placeholder: 'filter tests', 'aria-label': 'filter tests', oninput: () => keep() });
  const verdict = choose('verdict', ['all verdicts', ...data.verdicts.filter(has)], () => keep());
  const words = new Map(findings.map(f => [f, [f.node, f.rule, f.set, f.device, f.what, f.reason, f.text].join(' ').toLowerCase()]));
  function keep() {
    table.keep(f => words.get(f).includes(search.value.toLowerCase()) && (verdict.selectedIndex === 0 || f.verdict === verdict.value));
  }
  const root = element('section', { id: 'tests' }, element('h2', {}, title), element('div', { class: 'controls' }, search, verdict), table.root);
  return { root, only: name => { verdict.value = name; keep(); root.scrollIntoView({ behavior: 'smooth' }); } };
}
function counters(counts, words, choice) {
  return element('div', { class: 'cards verdicts' }, ...data.verdicts.map((v, i) => [v, counts[i]]).filter(([v, n]) => n || v === 'FAIL' || v === 'PASS')
    .map(([v, n]) => element('button', { class: 'card', 'data-verdict': v, onclick: () => choice(v) }, element('b', { class: v.toLowerCase() }, String(n)), `${words} ${v}`)));
}
function signatures() {
  const field = name => element('div', { class: 'field' }, element('span', {}, name));
  const party = (name, choices) => element('div', { class: 'party' }, element('h3', {}, name), element('p', {}, ...choices.map(c => element('span', { class: 'choice' }, '☐ ' + c))), ...['name', 'organisation', 'date', 'signature'].map(field));
  return element('section', { class: 'signatures' }, element('h2', {}, 'signatures'), element('div', { class: 'parties' },
    party('supplier', ['handed over']), party('customer', ['accepted', 'with reservations', 'refused'])), element('p', { class: 'soft' }, 'reservations: '), element('div', { class: 'lines' }));
}
