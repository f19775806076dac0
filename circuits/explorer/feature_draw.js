// The drawing of a graph of features: a mark for every node, all edges in a few lines, names where there
// is room. Marks are made once; edges of one colour and width that lie near each other share a path.

const MARKS = { feature: "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z", error: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z", embedding: "M-5 -5H5V5H-5Z", logit: "M-6 -4.5H6V4.5H-6Z" };
const WIDTHS = [0.6, 1.1, 1.9, 3];
const PATHS = 1000; // a browser paints many short paths faster than a long one, and keeps few faster than many

function openStage(stage) {
  const layers = { columns: shape("g"), behind: shape("g", { class: "edges" }), lit: shape("g", { class: "edges lit" }), units: shape("g"), labels: shape("g"), axes: shape("g") };
  const graph = shape("g", {}, ...Object.values(layers));
  const pinned = shape("g", { hidden: "" });
  const svg = shape("svg", { role: "group", "aria-label": "graph of features", xmlns: SVG }, graph, pinned);
  stage.append(svg);
  return { svg, graph, pinned, layers, nodes: new Map(), places: new Map(), bucket: null, view: [0, 0, 100, 100], box: [0, 0, 100, 100], fitted: true, least: 0.45, toRight: true };
}

function drawGraph(page) {
  const { data, drawing, state, found } = page;
  const needed = [...state.pinned, ...(state.chosen === null ? [] : [state.chosen])].map((index) => (data.nodes[index].rank ?? -1) + 1);
  const bucket = bucketOf(data, Math.max(state.size, ...needed));
  if (bucket !== drawing.bucket) placeAll(page, bucket);
  for (const index of drawing.places.keys()) drawing.nodes.get(index).toggleAttribute("hidden", !found.seen[index]);
  setPaths(drawing.layers.behind, edgePaths(data, found.drawn, drawing.places));
  for (const one of [drawing.layers.behind, find("legend")]) setCrowd(one, found.drawn.length);
}

function placeAll(page, bucket) {
  const { data, drawing } = page;
  const room = drawing.svg.getBoundingClientRect();
  const placed = placeNodes(data, bucket, room.width > 0 ? room.height / room.width : 0.6);
  Object.assign(drawing, { bucket, placed, places: placed.places });
  for (const index of placed.places.keys()) if (!drawing.nodes.has(index)) drawing.nodes.set(index, markFor(data, index));
  for (const [index, mark] of drawing.nodes) {
    const place = placed.places.get(index);
    if (!place) mark.remove();
    else {
      mark.setAttribute("transform", `translate(${round(place.x)} ${round(place.y)}) scale(${mark.size})`);
      if (!mark.parentNode) drawing.layers.units.append(mark);
    }
  }
  const [top, bottom] = [placed.rows.get(data.layers).bottom - placed.rows.get(data.layers).height, 12];
  drawing.layers.columns.replaceChildren(...placed.columns.slice(1).map(({ left }) => shape("path", { class: "column", d: `M${round(left - CELL.gap / 2)} ${round(top)}V${bottom}` })));
  if (page.state.view === "graph") {
    drawing.box = boxOfPlaces(placed);
    if (drawing.fitted) fit(drawing, drawing.least);
  }
}

function markFor(data, index) {
  const node = data.nodes[index];
  const mark = shape("path", { class: `unit ${node.kind}`, d: MARKS[node.kind], tabindex: -1, role: "button", "data-i": index, "aria-label": `${titleOf(data, node)}, ${node.name}` });
  mark.size = node.inner ? Math.round(100 * (0.7 + 0.5 * Math.sqrt(Math.min(1, node.influence / data.most_influence)))) / 100 : 1;
  return mark;
}

// Lines of edges, by their sign and their width, from left to right.
function edgePaths(data, chosen, places) {
  const { source, target, weight } = data.edges;
  let largest = 0;
  for (const e of chosen) largest = Math.max(largest, Math.abs(weight[e]));
  const paths = new Map();
  for (const e of chosen) {
    const [from, to] = [places.get(source[e]), places.get(target[e])];
    if (!from || !to) continue;
    const step = Math.min(WIDTHS.length - 1, Math.floor(WIDTHS.length * Math.sqrt(Math.abs(weight[e]) / largest)));
    const key = `${weight[e] < 0 ? "hurts" : "helps"} ${step}`;
    if (!paths.has(key)) paths.set(key, []);
    paths.get(key).push([from.x + to.x, lineBetween(from, to)]);
  }
  for (const lines of paths.values()) lines.sort(([a], [b]) => a - b);
  return paths;
}

function lineBetween(from, to) {
  const [x, y, toX, toY] = [round(from.x), round(from.y - 5), round(to.x), round(to.y + 5)];
  const middle = round((y + toY) / 2);
  return `M${x} ${y}C${x} ${middle} ${toX} ${middle} ${toX} ${toY}`;
}

function setPaths(layer, paths) {
  const total = [...paths.values()].reduce((sum, lines) => sum + lines.length, 0);
  const each = Math.ceil(total / PATHS);
  const made = [...paths].flatMap(([key, lines]) => {
    const [side, step] = key.split(" ");
    const parts = Array.from({ length: Math.ceil(lines.length / each) }, (_, i) => lines.slice(i * each, (i + 1) * each));
    return parts.map((part) => shape("path", { class: `edge ${side}`, "stroke-width": WIDTHS[step], d: part.map(([, line]) => line).join("") }));
  });
  layer.replaceChildren(...made);
}

// The chosen node's own edges before all others, and the nodes at their other ends in their colours.
function lightChosen(page) {
  const { data, drawing, state, found } = page;
  const { chosen } = state;
  const sides = new Map();
  const own = chosen === null ? [] : [...data.into[chosen], ...data.outOf[chosen]].filter((e) => found.seen[data.edges.source[e]] && found.seen[data.edges.target[e]]);
  for (const e of own) sides.set(data.edges.source[e] === chosen ? data.edges.target[e] : data.edges.source[e], data.edges.weight[e] < 0 ? "to-hurts" : "to-helps");
  setPaths(drawing.layers.lit, edgePaths(data, own, drawing.places));
  setCrowd(drawing.layers.lit, own.length);
  drawing.layers.behind.classList.toggle("behind", chosen !== null);
  const pinned = new Set(state.pinned);
  for (const index of drawing.places.keys()) {
    const side = sides.get(index) ?? "";
    const faded = chosen !== null && index !== chosen && side === "" ? "faded" : "";
    const words = ["unit", data.nodes[index].kind, side, faded, index === chosen ? "chosen" : "", pinned.has(index) ? "pinned" : "", page.matched.has(index) ? "matched" : ""];
    const mark = drawing.nodes.get(index);
    const name = words.filter((word) => word !== "").join(" ");
    if (mark.getAttribute("class") !== name) mark.setAttribute("class", name);
  }
  page.neighbours = sides;
  writeNames(page);
}

// Names and axes: of one size on the screen whatever the zoom, written where there is room for them.

function writeNames(page) {
  const { data, drawing, state } = page;
  if (state.view !== "graph") return;
  const room = drawing.svg.getBoundingClientRect();
  const unit = drawing.view[2] / Math.max(1, room.width); // of the drawing, for a pixel
  writeAxes(page, room, unit);
  const taken = new Map();
  const at = (index) => {
    const place = drawing.places.get(index);
    return [(place.x - drawing.view[0]) / unit, (place.y - drawing.view[1]) / unit];
  };
  const shown = [...drawing.places.keys()].filter((index) => page.found.seen[index] && data.nodes[index].kind !== "embedding");
  const half = Math.max(3, 5 / unit);
  for (const index of shown) {
    const [x, y] = at(index);
    take(taken, [x - half, y - half, x + half, y + half]);
  }
  const texts = [];
  for (const index of inOrder(page, shown)) {
    const [x, y] = at(index);
    if (texts.length >= 160 || x < 0 || y < 0 || x > room.width || y > room.height) continue;
    const title = titleOf(data, data.nodes[index]);
    const text = [cut(title, 26), cut(title, 13)].find((words) => isFree(taken, [x + half + 1, y - 6, x + half + 5 + 5.6 * words.length, y + 6]));
    if (text === undefined) continue;
    take(taken, [x + half, y - 6, x + half + 5 + 5.6 * text.length, y + 6]);
    const first = index === state.chosen || state.pinned.includes(index);
    texts.push(writtenAt(text, first ? "label first" : "label", [x + half + 3, y], drawing.view, unit));
  }
  drawing.layers.labels.replaceChildren(...texts);
}

// Whose name comes first: the chosen node's, those of pinned ones and neighbours, then by influence.
function inOrder(page, shown) {
  const { data, state } = page;
  const first = (index) => (index === state.chosen ? 4 : state.pinned.includes(index) ? 3 : data.nodes[index].kind === "logit" ? 2.5 : page.neighbours.has(index) ? 2 : state.chosen === null ? 1 : 0);
  const wanted = shown.filter((index) => first(index) > 0);
  return wanted.sort((a, b) => first(b) - first(a) || data.nodes[b].influence - data.nodes[a].influence);
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;
}

function writtenAt(text, look, [x, y], view, unit, anchor = "start") {
  const place = `translate(${round(view[0] + x * unit)} ${round(view[1] + y * unit)}) scale(${unit.toFixed(4)})`;
  return shape("text", { class: look, transform: place, "text-anchor": anchor }, text);
}

// Rectangles on the screen that are taken, in a table of squares so that looking one up is cheap.
const SQUARE = 40;

function squaresOf([left, top, right, bottom]) {
  const keys = [];
  for (let x = Math.floor(left / SQUARE); x <= Math.floor(right / SQUARE); x += 1)
    for (let y = Math.floor(top / SQUARE); y <= Math.floor(bottom / SQUARE); y += 1) keys.push(x * 4096 + y);
  return keys;
}

function take(taken, box) {
  for (const key of squaresOf(box)) {
    if (!taken.has(key)) taken.set(key, []);
    taken.get(key).push(box);
  }
}

function isFree(taken, box) {
  const apart = (other) => box[2] <= other[0] || other[2] <= box[0] || box[3] <= other[1] || other[3] <= box[1];
  return squaresOf(box).every((key) => (taken.get(key) ?? []).every(apart));
}

// Layers on the left and tokens below, also where the drawing goes on beyond the window.
function writeAxes(page, room, unit) {
  const { data, drawing } = page;
  const { columns, rows, few } = drawing.placed;
  const [left, top] = drawing.view;
  const foot = Math.min((16 - top) / unit, room.height - find("legend").offsetHeight - 22);
  const names = [];
  let last = Infinity;
  for (const [layer, row] of rows) {
    const y = (row.middle - top) / unit;
    if (row.height === 0 || layer < 0 || y < 4 || y > foot - 14 || last - y < 13) continue;
    last = y;
    names.push(writtenAt(layer === data.layers ? "logits" : `m${layer}`, "axis", [8, y], drawing.view, unit));
  }
  let end = -Infinity;
  columns.forEach((column, position) => {
    const [side, anchor] = few ? [column.left + 5, "start"] : [column.middle, "middle"];
    const x = (side - left) / unit;
    const text = cut(visible(data.tokens[position]), Math.max(3, Math.floor((column.width + CELL.gap) / unit / 6.6)));
    const from = few ? x : x - 3.1 * text.length;
    if (from < 34 || x > room.width || from < end) return;
    end = from + 6.2 * text.length + 4;
    names.push(writtenAt(text, "axis", [x, foot + 8], drawing.view, unit, anchor));
  });
  drawing.layers.axes.replaceChildren(...names);
}
