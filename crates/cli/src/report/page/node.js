// The sheet of one node: what it is, how it was measured, every test with what was wanted, and where to sign.
function inventory(node) {
  const { devices, inventory: found } = node.sheet;
  const gpu = d => found?.gpus.find(g => g.device === d.id) ?? {};
  const bytesOf = n => n ? `${digits(n / 1e9)} GB` : '–';
  const link = l => l ? `${l.generation}.0x${l.width}` : '–';
  const columns = [
    { name: 'verdict', value: d => RANK[d.verdict.toUpperCase()], show: d => badge(d.verdict.toUpperCase()) }, { name: 'device', value: d => d.id }, { name: 'model', value: d => d.model },
    { name: 'PCI', value: d => d.pci ?? '–' }, { name: 'serial or uuid', value: d => gpu(d).serial ?? d.uuid ?? '–', kind: 'case' }, { name: 'memory', value: d => gpu(d).memory ?? 0, show: d => bytesOf(gpu(d).memory), kind: 'number' },
    { name: 'ECC', value: d => gpu(d).ecc === undefined ? '–' : gpu(d).ecc ? 'on' : 'off' }, { name: 'links up', value: d => gpu(d).links_up ?? '–', show: d => String(gpu(d).links_up ?? '–'), kind: 'number' },
    { name: 'PCIe (best)', value: d => link(gpu(d).pcie), show: d => gpu(d).pcie ? `${link(gpu(d).pcie)} (${link(gpu(d).pcie_max)})` : '–' }, { name: 'driver', value: d => d.driver, kind: 'case' },
    { name: 'firmware', value: d => Object.entries(gpu(d).firmware ?? {}).map(([k, v]) => `${k} ${v}`).join(', ') || '–', kind: 'wrap' }];
  // Devices that the inventory names and no run measured are still the node's.
  const others = (found?.gpus ?? []).filter(g => !devices.some(d => d.id === g.device)).map(g => ({ id: g.device, model: g.name, pci: g.pci, uuid: g.uuid, driver: g.driver ?? '', verdict: 'skip' }));
  const nics = (found?.nics ?? []).map(n => `${n.name}: ${[n.link_layer, n.rate_gbps ? n.rate_gbps + ' Gbit/s' : null, n.state, n.firmware ? 'firmware ' + n.firmware : null, n.pci].filter(Boolean).join(', ')}`);
  return element('section', {}, element('h2', {}, 'inventory'), grid(columns, [...devices, ...others]).root, facts([
    ['network', nics.join('; ')], ['firmware', Object.entries(found?.firmware ?? {}).map(([k, v]) => `${k} ${v}`).join(', ')],
    ['libraries', (found?.libraries ?? []).map(l => `${l.name} ${l.version}`).join(', ')], ['not looked at', (found?.unknown ?? []).join('; ')]]));
}

// Each figure of each device, tinted by how far it lies from what is usual for its model.
function figures(node) {
  const devices = node.sheet.devices;
  const rows = new Map();
  for (const [metric, device, pct, value] of node.cells) {
    if (!rows.has(metric)) rows.set(metric, new Map());
    rows.get(metric).set(device, { pct, value });
  }
  if (!rows.size) return null;
  const used = [...new Set(node.cells.map(c => c[1]))].sort((a, b) => a - b);
  const usual = (m, cell) => [...m.cohorts].sort((a, b) => Math.abs(a.median - cell.value) - Math.abs(b.median - cell.value))[0];
  const list = [...rows].map(([metric, cells]) => ({ m: data.metrics[metric], cells })).sort((a, b) => compareValues(a.m.case, b.m.case) || compareValues(a.m.provider, b.m.provider));
  // Of fewer than five none is usual.
  const known = r => (usual(r.m, [...r.cells.values()][0])?.n ?? 0) >= 5;
  const heat = (r, cell) => {
    if (!known(r)) return `${digits(cell.value)} ${r.m.unit}`;
    const part = far(r.m, cell.pct);
    return element('span', { class: 'heat' + (Math.abs(part) > 0.5 ? ' strong' : ''), style: tint(part) }, `${digits(cell.value)} `, element('small', {}, signed(cell.pct)));
  };
  const columns = [
    { name: 'case', value: r => metricName(r.m), show: r => breakable(metricName(r.m)), kind: 'case' },
    { name: 'usual', value: r => r.m.cohorts[0]?.median ?? 0, show: r => { const u = usual(r.m, [...r.cells.values()][0]); return known(r) ? `${digits(u.median)} ${r.m.unit} (${u.n})` : '–'; }, kind: 'number' },
    ...(data.passesKept ? used.map(d => ({ name: devices[d]?.id ?? String(d), value: r => r.cells.get(d)?.pct ?? Infinity, show: r => r.cells.has(d) ? heat(r, r.cells.get(d)) : '–', kind: 'number' }))
      : [{ name: 'worst device', value: r => devices[[...r.cells.keys()][0]]?.id ?? '' }, { name: 'its figure', value: r => [...r.cells.values()][0].pct, show: r => heat(r, [...r.cells.values()][0]), kind: 'number' }])];
  return element('section', { class: 'figures' }, element('h2', {}, 'figures, and how far each is from what is usual for the model'),
    element('p', { class: 'soft' }, 'usual: the median of all devices of the model in these records (how many in brackets), where there are five or more. Worse is negative, for a latency too.'), grid(columns, list).root);
}

function nodeSheet(node) {
  const findings = findingsOf.get(node.name) ?? [];
  const list = tests('tests', findings, TESTS);
  const s = node.sheet;
  const parts = [element('header', {}, data.nodes.length > 1 ? element('a', { class: 'back', href: '#' }, '← all nodes') : null,
    element('h1', {}, badge(node.verdict), ' ', node.name)), counters(node.counts, 'tests', v => list.only(v))];
  if (s) {
    parts.push(facts([['measured', node.started], ['judged', `${data.judged} by ridgepoint ${data.version}` + (data.strict ? ', warnings count as failures' : '')], ['rules', data.rules.join(', ')],
      ['measured with', `ridgepoint ${s.version}, method ${s.method}`], ['command', s.command],
      ['records', `${s.records.measured} measured, ${s.records.skipped} skipped, ${s.records.failed} failed, ${s.records.wrong} wrong`],
      ['environment', Object.entries(s.facts).map(([k, v]) => `${k}: ${v}`).join('; ')]]), inventory(node));
  } else {
    parts.push(element('p', { class: 'soft' }, `This page holds ${data.nodes.length} nodes, and of those that passed not all that was found on them; judge this node's records by themselves for its whole sheet.`));
  }
  parts.push(list.root);
  if (!data.passesKept && node.counts[0]) parts.push(element('p', { class: 'soft' }, `${node.counts[0]} tests passed and are only counted in a fleet of this size.`));
  if (s) parts.push(figures(node));
  parts.push(signatures());
  return parts;
}
