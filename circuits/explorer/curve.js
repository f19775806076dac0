// Faithfulness at a size: measured there, or between two sizes that were measured.
// Rows are [requested, edges, faithfulness, low, high].

function faithfulnessAt(levels, size) {
  const above = levels.findIndex((level) => level[0] >= size);
  if (above < 0) return null;
  if (levels[above][0] === size) return { values: levels[above].slice(2), between: null };
  if (above === 0 || levels[above - 1][0] === 0) return null;
  const [low, high] = [levels[above - 1], levels[above]];
  const share = Math.log(size / low[0]) / Math.log(high[0] / low[0]);
  const values = [2, 3, 4].map((i) => (low[i] === null || high[i] === null ? null : low[i] + share * (high[i] - low[i])));
  return { values, between: [low[0], high[0]] };
}

function showFaithfulness(curve, size) {
  const found = faithfulnessAt(curve.levels, size);
  if (found === null || found.values[0] === null) {
    const sizes = curve.levels.map((level) => level[0]).filter((n) => n > 0);
    find("kept").replaceChildren("not measured at this size");
    find("kept-about").textContent = `measured from ${whole(sizes[0])} to ${whole(sizes.at(-1))} edges`;
    return;
  }
  const [value, low, high] = found.values;
  const range = low === null || high === null ? "" : ` 95 % interval ${percent(low)} to ${percent(high)}`;
  find("kept").replaceChildren(make("strong", { class: "number" }, percent(value)), make("span", { class: "soft number" }, range));
  const how = found.between ? `interpolated between ${found.between.map(whole).join(" and ")} edges` : `measured at ${whole(size)} edges`;
  const pruned = curve.pruned ? ", pruned" : "";
  const others = curve.others.length === 0 ? "" : `; left out, as circuits of other edges: ${curve.others.map(whole).join(", ")}`;
  find("kept-about").textContent = `${how}${pruned}; ${curve.metric}, ${curve.examples} prompts, other edges: ${curve.ablation}${others}`;
}

// A small picture of the whole curve, on a logarithmic axis.

const CHART = { left: 36, right: 6, top: 8, bottom: 20, width: 248, height: 110 };

function drawChart(curve) {
  const rows = curve.levels.filter((level) => level[0] > 0 && level[2] !== null);
  const { x, y, marks } = scalesFor(rows);
  const chart = shape("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": "faithfulness by number of edges" });
  for (const level of marks) chart.append(
    shape("line", { class: "chart-axis", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(level), y2: y(level) }),
    shape("text", { x: CHART.left - 4, y: y(level) + 3, "text-anchor": "end" }, percent(level, 0)),
  );
  chart.append(...labelsBelow(rows, x), ...bandOf(rows, x, y));
  chart.append(shape("path", { class: "chart-line", d: "M" + rows.map((row) => `${round(x(row[0]))} ${round(y(row[2]))}`).join("L") }));
  for (const row of rows) chart.append(shape("circle", { class: "chart-dot", cx: x(row[0]), cy: y(row[2]), r: 2 }));
  const now = shape("line", { class: "chart-now", y1: CHART.top - 4, y2: CHART.height - CHART.bottom });
  chart.append(now);
  find("chart").replaceChildren(chart);
  return (size) => ["x1", "x2"].forEach((end) => now.setAttribute(end, x(size)));
}

function scalesFor(rows) {
  const sizes = rows.map((row) => Math.log(row[0]));
  const [first, last] = [Math.min(...sizes), Math.max(...sizes)];
  const values = rows.flatMap((row) => row.slice(2).filter((value) => value !== null));
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  const [width, height] = [CHART.width - CHART.left - CHART.right, CHART.height - CHART.top - CHART.bottom];
  const within = (share) => Math.min(1, Math.max(0, share));
  return {
    x: (size) => CHART.left + width * within(last > first ? (Math.log(size) - first) / (last - first) : 0.5),
    y: (value) => CHART.top + height * (1 - (value - low) / (high - low)),
    marks: [0, 1],
  };
}

function labelsBelow(rows, x) {
  const ends = rows.length > 1 ? [rows[0], rows.at(-1)] : rows;
  return ends.map((row, i) =>
    shape("text", { x: x(row[0]), y: CHART.height - 4, "text-anchor": i > 0 ? "end" : rows.length > 1 ? "start" : "middle" }, `${whole(row[0])} edges`),
  );
}

function bandOf(rows, x, y) {
  const known = rows.filter((row) => row[3] !== null && row[4] !== null);
  if (known.length < 2) return [];
  const up = known.map((row) => `${round(x(row[0]))} ${round(y(row[4]))}`);
  const back = known.map((row) => `${round(x(row[0]))} ${round(y(row[3]))}`).reverse();
  return [shape("path", { class: "chart-band", d: `M${[...up, ...back].join("L")}Z` })];
}
