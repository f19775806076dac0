// How far to believe the graph: its scores, what it foresaw and what the real model did.

function showBelief(data) {
  const parts = [make("h2", {}, "How far to believe it")];
  const rows = [];
  if (data.scores) rows.push(["replacement", percent(data.scores.replacement), "influence that begins in tokens, not in errors"], ["completeness", percent(data.scores.completeness), "of what nodes read comes from no error"]);
  parts.push(figures([], rows));
  const told = data.validity;
  if (told === null) parts.push(make("p", { class: "soft" }, "not held against the real model"));
  else {
    const held = Object.entries(told).filter(([name]) => name !== "n");
    parts.push(make("p", {}, `${told.n} units were removed from the real model. Correlation of the change that the graph foresees with that of its logits:`));
    parts.push(figures([], held.map(([name, value]) => [`holding ${name}`, value === null ? "unknown" : signed(value)])));
  }
  find("belief").replaceChildren(...parts);
}

function figures(heads, rows, numbers = 1) {
  const cells = (row, name) => row.map((value, i) => make(name, { class: i > 0 && i <= numbers ? "number" : "" }, value));
  const top = heads.length > 0 ? [make("thead", {}, make("tr", {}, ...cells(heads, "th")))] : [];
  return make("table", { class: "figures" }, ...top, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row, "td")))));
}

function signed(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

// What was tried in the real model: nodes removed or made stronger, one at a time.

function didWhat(factor) {
  return factor === 0 ? "removed" : `times ${digits(factor)}`;
}

function changeText(value) {
  return value > 0 ? `+${digits(value)}` : digits(value);
}

function steeredBy(page, node) {
  const { steering } = page.data;
  const rows = steering === null ? [] : steering.rows.filter((row) => row.node === node.name);
  if (rows.length === 0) return [];
  const parts = rows.flatMap((row) => [
    make("p", { class: "soft" }, `${didWhat(row.factor)}: the model then says ${row.tokens.map(([token, p]) => `${visible(token)} ${percent(p, 0)}`).join(", ")}`),
    figures(["logit", "changes by", "foreseen"], steering.targets.map((target, i) => [titleOf(page.data, page.data.byName.get(target)), changeText(row.changes[i]), changeText(row.foreseen[i])]), 2),
  ]);
  return [make("h3", {}, "Changed in the real model"), ...parts];
}

function showSteering(page) {
  const { steering } = page.data;
  find("steering").hidden = steering === null;
  if (steering === null) return;
  const size = (row) => Math.max(0, ...row.changes.map(Math.abs));
  const best = [...steering.rows].sort((a, b) => size(b) - size(a)).slice(0, MOST_LISTED);
  const rows = best.map((row) => {
    const most = row.changes.findIndex((change) => Math.abs(change) === size(row));
    const node = page.data.byName.get(row.node);
    const what = most < 0 ? "" : `${changeText(row.changes[most])} ${cut(titleOf(page.data, page.data.byName.get(steering.targets[most])), 14)}`;
    return node ? nodeRow(page, node.index, `${didWhat(row.factor)}: ${what}`) : make("p", { class: "soft" }, `${row.node}: ${what}`);
  });
  const said = `without changes it says ${steering.tokens.map(([token, p]) => `${visible(token)} ${percent(p, 0)}`).join(", ")}`;
  const fit = steering.agreement === null ? [] : [make("p", { class: "soft" }, `Foreseen by this graph (across) and real changes (up), nothing held; correlation ${signed(steering.agreement)}`)];
  find("steering").replaceChildren(make("h2", {}, "Change and see"), make("p", { class: "soft" }, said), ...rows, plotOf(page), ...fit);
}

// Every change as a point; those of the chosen node stand out.
function plotOf(page) {
  const { steering } = page.data;
  const points = steering.rows.flatMap((row) => row.changes.map((real, i) => [row.foreseen[i], real, row.node]));
  const largest = Math.max(1e-9, ...points.flatMap(([x, y]) => [Math.abs(x), Math.abs(y)]));
  const at = (value, from, to) => round((from + to) / 2 + ((to - from) / 2) * (value / largest));
  const chart = shape("svg", { class: "plot", viewBox: "0 0 248 150", role: "img", "aria-label": "foreseen and real changes of logits" });
  chart.append(shape("line", { x1: at(0, 34, 240), x2: at(0, 34, 240), y1: 6, y2: 136 }), shape("line", { x1: 34, x2: 240, y1: at(0, 136, 6), y2: at(0, 136, 6) }));
  chart.append(shape("line", { x1: 34, x2: 240, y1: 136, y2: 6, "stroke-dasharray": "3 3" }));
  chart.append(shape("text", { x: 34, y: 147 }, digits(-largest)), shape("text", { x: 240, y: 147, "text-anchor": "end" }, digits(largest)), shape("text", { x: 31, y: 12, "text-anchor": "end" }, digits(largest)));
  const name = page.state.chosen === null ? null : page.data.nodes[page.state.chosen].name;
  for (const [x, y, node] of points) chart.append(shape("circle", { class: node === name ? "own" : "", cx: at(x, 34, 240), cy: at(y, 136, 6), r: node === name ? 4 : 2.5 }));
  return chart;
}
