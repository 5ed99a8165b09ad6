// Attention over lengths and over sequences: a curve for what differs in nothing else.
const attentionOf = r => {
  const m = /^attention\/([a-z-]+)\/b(\d+)(hq\d+hkv\d+)sq(\d+)sk(\d+)(d\d+(?:v\d+)?)\/(.+)$/.exec(r.case);
  return m ? { kind: m[1], b: +m[2], heads: m[3], sq: +m[4], sk: +m[5], dims: m[6], rest: m[7] } : null;
};
const left = r => r.bound === 'memory';

function attentionCurves() {
  const rows = measured.filter(attentionOf), by = r => [r.provider, ...(data.devices.length > 1 ? [r.device] : [])];
  // A square prefill grows on both sides; anything else by its keys, and a square among those is one of them.
  const series = a => [a.kind, a.b, a.heads, a.dims, a.rest, a.sq].join(' ');
  const byKeys = new Set(rows.map(attentionOf).filter(a => a.sq !== a.sk).map(series));
  const queries = a => a.sq === a.sk && !byKeys.has(series(a)) ? 'sq = sk' : `sq${a.sq}`;
  const over = [
    ['lengths', 'keys a sequence', r => { const a = attentionOf(r); return [a.kind, `b${a.b}`, a.heads, queries(a), a.dims, a.rest, ...by(r)].join(' '); }, r => attentionOf(r).sk],
    ['batches', 'sequences', r => { const a = attentionOf(r); return [a.kind, a.heads, `sq${a.sq}`, `sk${a.sk}`, a.dims, a.rest, ...by(r)].join(' '); }, r => attentionOf(r).b],
  ];
  const plots = [];
  for (const [id, label, key, size] of over) for (const unit of ['TFLOP/s', 'GB/s']) {
    const plot = curves(rows.filter(r => r.unit === unit), key, label, unit, size, [], n => n, 2, left);
    if (plot) plots.push(element('h3', {}, `${unit} over ${label}`), element('div', { class: id }, plot));
  }
  return plots.length ? [element('section', { id: 'attention-curves' }, element('h2', {}, 'attention over lengths and batches'), ...plots,
    element('p', { class: 'soft' }, 'Filled: right of the ridge point, bound by arithmetic. Hollow: left of it, bound by memory.'))] : [];
}
