// The page of a fleet: what to look at first, and every node against every metric.
const worstFirst = (a, b) => RANK[a.verdict] - RANK[b.verdict] || a.worst - b.worst || compareValues(a.name, b.name);
for (const n of data.nodes) {
  n.by = new Map();
  for (const [metric, device, pct, value] of n.cells) {
    const known = n.by.get(metric);
    if (!known || pct < known.pct) n.by.set(metric, { device, pct, value, far: far(data.metrics[metric], pct) });
  }
  n.most = [...n.by.values()].reduce((a, b) => !a || b.far < a.far || (b.far === a.far && b.pct < a.pct) ? b : a, null);
  n.worst = n.most ? n.most.far + n.most.pct / 1e4 : 0;
}
const deviceName = (node, device) => node.sheet?.devices[device]?.id ?? `device ${device}`;

function suspects() {
  if (!data.suspects.length) return null;
  const columns = [
    { name: '', value: s => s.rank, show: s => String(s.rank), kind: 'number' }, { name: 'node', value: s => s.node, show: s => element('a', { href: sheetOf(s.node) }, s.node), kind: 'name' },
    { name: 'device', value: s => s.device ?? '', show: s => s.device ?? 'the node' }, { name: 'fault', value: s => s.fault }, { name: 'why', value: s => s.text, kind: 'wrap' }];
  return element('section', { id: 'suspects' }, element('h2', {}, 'look at first'), grid(columns, data.suspects, s => s.findings.map(i => data.findings[i]).slice(0, 8).map(evidence), 10).root);
}

function heatmap() {
  const flags = new Set(data.findings.filter(f => f.verdict !== 'PASS' && f.case).map(f => JSON.stringify([f.node, f.case, f.provider])));
  const used = new Set(data.nodes.flatMap(n => [...n.by.keys()]));
  const part = m => m.case.split('/')[0];
  const all = data.metrics.map((m, i) => ({ ...m, i })).filter(m => used.has(m.i)).sort((a, b) => data.components.indexOf(part(a)) - data.components.indexOf(part(b)) || compareValues(a.case, b.case) || compareValues(a.provider, b.provider));
  const search = element('input', { type: 'search', placeholder: 'filter nodes', 'aria-label': 'filter nodes', oninput: () => fill() });
  const verdict = choose('verdict', ['all verdicts', ...data.verdicts.filter(v => data.nodes.some(n => n.verdict === v))], () => fill());
  const component = choose('component', ['all metrics', ...new Set(all.map(part))], () => fill());
  const order = choose('order', ['outliers first', 'by name', 'by worst figure'], () => { metric = null; fill(); });
  const count = element('span', { class: 'soft', id: 'count' });
  const head = element('thead'), body = element('tbody');
  const more = element('button', { class: 'more', onclick: () => { limit *= 4; fill(); } });
  let metric = null, limit = 60;
  const sorts = [worstFirst, (a, b) => compareValues(a.name, b.name), (a, b) => a.worst - b.worst];

  // Behind a cell: the node's devices in this metric, and what was found of it.
  function behind(n, m) {
    const cells = n.cells.filter(c => c[0] === m.i);
    const found = (findingsOf.get(n.name) ?? []).filter(f => f.verdict !== 'PASS' && f.case === m.case && f.provider === m.provider);
    const usual = m.cohorts.map(c => `${digits(c.median)} ${m.unit} ± ${digits(c.mad)} (${c.n})` + (c.shares ? `, ${c.shares}` : '')).join(' or ');
    return [element('strong', {}, metricName(m)), facts([['usual', usual], ...cells.map(([, d, pct, value]) => [deviceName(n, d), `${digits(value)} ${m.unit}, ${signed(pct)}`])]),
      ...found.map(evidence), element('a', { href: sheetOf(n.name) }, 'sheet of ' + n.name)];
  }
  function fill() {
    const shown = all.filter(m => component.selectedIndex === 0 || part(m) === component.value);
    const list = data.nodes.filter(n => n.name.toLowerCase().includes(search.value.toLowerCase()) && (verdict.selectedIndex === 0 || n.verdict === verdict.value));
    const away = n => n.by.get(metric)?.pct ?? Infinity;
    list.sort(metric === null ? sorts[order.selectedIndex] : (a, b) => compareValues(away(a), away(b)) || worstFirst(a, b));
    head.replaceChildren(element('tr', {}, element('th', { scope: 'col' }, 'node'), element('th', { scope: 'col' }, 'worst'), ...shown.map(m => element('th', { class: 'metric', scope: 'col', 'aria-sort': metric === m.i ? 'ascending' : null },
      element('button', { title: 'worst first by ' + metricName(m), onclick: () => { metric = metric === m.i ? null : m.i; fill(); } }, `${m.case} ${m.provider}`.slice(part(m).length + 1))))));
    body.replaceChildren(...list.slice(0, limit).map(n => {
      const cells = shown.map(m => {
        const c = n.by.get(m.i);
        if (!c) return element('td', { class: 'cell none' });
        const flag = flags.has(JSON.stringify([n.name, m.case, m.provider]));
        const said = `${n.name} ${deviceName(n, c.device)}\n${metricName(m)}\n${digits(c.value)} ${m.unit}, ${signed(c.pct)}`;
        const cell = element('td', { class: 'cell' + (flag ? ' flag' : ''), style: tint(c.far), 'aria-label': said, tabindex: flag ? 0 : null, onclick: () => unfold(row, shown.length + 2, () => behind(n, m)) });
        cell.onkeydown = e => { if (e.key === 'Enter') cell.onclick(); };
        hover(cell, said);
        return cell;
      });
      const row = element('tr', { 'data-node': n.name }, element('th', { scope: 'row' }, badge(n.verdict), ' ', element('a', { href: sheetOf(n.name) }, n.name)), element('td', { class: 'number' }, n.most ? signed(n.most.pct) : '–'), ...cells);
      return row;
    }));
    count.textContent = `${list.length} of ${data.nodes.length} nodes`;
    more.hidden = list.length <= limit;
    more.textContent = `show more of ${list.length}`;
  }
  expand.push(() => { limit = Infinity; fill(); });
  fill();
  const scale = element('span', { class: 'scale', 'aria-hidden': 'true' }, 'worse', ...[-1, -0.6, -0.3, 0, 0.3, 0.6, 1].map(p => element('i', { style: tint(p) })), 'better');
  const root = element('section', { id: 'map' }, element('h2', {}, 'nodes and metrics'), element('p', { class: 'soft' }, 'Each cell: the worst device of a node in a metric, against what is usual for its model. Full colour is 10 % away and 10 σ of what such devices differ by; outlined is what was refused or warned of. Click a cell for its figures, a metric to sort by it, a node for its sheet. ', scale),
    element('div', { class: 'controls' }, search, verdict, component, order, count), element('div', { class: 'scroll' }, element('table', { class: 'map' }, head, body)), more);
  return { root, only: v => { verdict.value = v; fill(); root.scrollIntoView({ behavior: 'smooth' }); } };
}

function usual() {
  const columns = [
    { name: 'case', value: m => m.case, show: m => breakable(m.case), kind: 'case' }, { name: 'by', value: m => m.provider }, { name: 'model', value: m => m.model },
    { name: 'median', value: m => m.c.median, show: m => `${digits(m.c.median)} ${m.unit}`, kind: 'number' }, { name: 'σ (MAD)', value: m => m.c.mad / m.c.median, show: m => (100 * m.c.mad / m.c.median).toFixed(2) + ' %', kind: 'number' },
    { name: 'range', value: m => m.c.range[1] / m.c.range[0], show: m => `${digits(m.c.range[0])} to ${digits(m.c.range[1])}`, kind: 'number' }, { name: 'devices', value: m => m.c.n, show: m => String(m.c.n), kind: 'number' }, { name: 'have in common', value: m => m.c.shares, kind: 'wrap' }];
  const rows = data.metrics.flatMap(m => m.cohorts.map(c => ({ ...m, c })));
  return rows.length ? element('section', {}, element('h2', {}, 'what is usual'), grid(columns, rows, null, 50).root) : null;
}

function problems() {
  if (!data.problems.length) return null;
  const columns = [{ name: 'file', value: p => p.file, kind: 'wrap' }, { name: 'line', value: p => p.line, show: p => p.line ? String(p.line) : '–', kind: 'number' }, { name: 'what', value: p => p.text, kind: 'wrap' }];
  return element('section', {}, element('h2', { class: 'bad' }, 'not readable'), grid(columns, data.problems, null, 20).root);
}

function fleetPage() {
  const map = heatmap();
  const counts = data.verdicts.map(v => data.nodes.filter(n => n.verdict === v).length);
  const bad = data.findings.filter(f => f.verdict !== 'PASS');
  const node = { name: 'node', value: f => f.node, show: f => element('a', { href: sheetOf(f.node) }, f.node), kind: 'name' };
  return [element('header', {}, element('h1', {}, badge(data.verdict), ' acceptance of ', String(data.nodes.length), ' nodes'),
    element('p', { class: 'soft' }, `${data.records} records · rules: ${data.rules.join(', ')} · judged ${data.judged} by ridgepoint ${data.version}` + (data.strict ? ' · warnings count as failures' : ''))),
    counters(counts, 'nodes', v => map.only(v)), ...data.fleet.map(f => element('p', { class: 'notice' }, badge(f.verdict), ' ', f.text)), suspects(), map.root,
    bad.length ? tests('tests that did not pass', bad, [TESTS[0], node, ...TESTS.slice(1)]).root : null, usual(), problems(), signatures()];
}

function draw() {
  expand = [];
  tip.style.display = 'none';
  const wanted = location.hash.startsWith('#node/') ? decodeURIComponent(location.hash.slice(6)) : null;
  const node = data.nodes.length === 1 ? data.nodes[0] : data.nodes.find(n => n.name === wanted);
  page.replaceChildren(...(node ? [...nodeSheet(node), data.nodes.length === 1 ? problems() : null] : fleetPage()).filter(Boolean));
  scrollTo(0, 0);
}
page.classList.add('wide');
addEventListener('hashchange', draw);
draw();
