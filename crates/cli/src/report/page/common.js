'use strict';
// What every page draws with. Text is only ever set as text.
const data = JSON.parse(document.getElementById('data').textContent);
const page = document.getElementById('page');
const SVG = 'http://www.w3.org/2000/svg';
const COLORS = ['#1f6feb', '#d1642c', '#1a7f37', '#8250df', '#bf3989', '#0a7ea4', '#9a6700', '#57606a'];

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) key.startsWith('on') ? node[key] = value : value === null || node.setAttribute(key, value);
  node.append(...children.filter(c => c !== null && c !== undefined));
  return node;
}
function svg(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function digits(x) {
  if (x === null || x === undefined) return '–';
  if (x === 0) return '0';
  return x.toFixed(Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(x))))));
}
const percent = x => x === null || x === undefined ? '–' : (100 * x).toFixed(0) + ' %';
function bytes(n) {
  for (const [unit, size] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]]) if (n >= size) return digits(n / size).replace(/\.0+$/, '') + ' ' + unit;
  return n + ' B';
}
const tip = element('div', { id: 'tip' });
document.body.append(tip);
function hover(node, text) {
  node.addEventListener('pointermove', e => {
    tip.textContent = text;
    tip.style.display = 'block';
    tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
  });
  node.addEventListener('pointerleave', () => { tip.style.display = 'none'; });
}
// A list to choose from; the first entry stands for all.
function choose(label, names, onchange) {
  return element('select', { 'aria-label': label, onchange }, ...names.map(name => element('option', {}, name)));
}
const compareValues = (a, b) => a < b ? -1 : a > b ? 1 : 0;
// Opens what lies behind a row, or closes it.
function unfold(row, width, make) {
  if (row.nextSibling?.classList.contains('detail')) return row.nextSibling.remove();
  row.after(element('tr', { class: 'detail' }, element('td', { colspan: width }, ...make())));
}
// An id that may go on a new line after each of its slashes.
function breakable(id) {
  const parts = id.split('/');
  return element('span', {}, ...parts.flatMap((part, i) => i + 1 < parts.length ? [part + '/', element('wbr')] : [part]));
}
