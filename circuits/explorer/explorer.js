// The page: what the user has set, and what happens when that changes.

const MOST = [100, 300, 600, 1500];
const LINES = 300; // more edges than this are first seen as a matrix

function start() {
  const data = openData();
  const state = { size: data.start, most: LINES, hidden: new Set(), prune: data.curve !== null && data.curve.pruned, chosen: null, view: data.start > LINES ? "matrix" : "drawing", skipFirst: false, matches: false, query: null };
  const [drawing, matrix] = [openDrawing(find("stage")), openMatrix(find("stage"))];
  const page = { data, state, drawing, matrix, stops: bySize(data), found: null, lit: null, insides: openInsides(data), spans: openSpans(data), moveMark: () => {} };
  readAddress(page);
  page.on = handlers(page);
  writeOnce(page);
  listen(page);
  followTheme(find("theme"), () => page.found && showMatrix(page));
  refresh(page);
}

// Sizes that the slider stops at: every one while there are few, then 3 % more each time.
function bySize(data) {
  const stops = [];
  for (let n = 1; n <= data.longest; n = Math.max(n + 1, Math.round(n * (n < 150 ? 1 : 1.03)))) stops.push(n);
  return stops.at(-1) === data.longest ? stops : [...stops, data.longest];
}

// The same for even steps of log |score|; in the signed ranking, for even steps down to the least.
function byScore(data) {
  const list = data.lists[0];
  const [most, least] = [merit(data, list, 0), data.least.at(-1)];
  const nonzero = data.ranking === "absolute" ? list.score.findLast((score) => score !== 0) : undefined;
  const low = nonzero === undefined ? least : Math.abs(nonzero);
  const at = (share) => (low > 0 ? most * (low / most) ** share : most + share * (low - most));
  const sizes = Array.from({ length: 301 }, (_, i) => Math.max(1, sizeAt(data, at(i / 300))));
  return [...new Set([...sizes, data.longest])].sort((a, b) => a - b);
}

// Everything that follows from the state is drawn again, at most once per frame.
function refresh(page) {
  const { data, state } = page;
  const most = state.view === "matrix" ? Infinity : state.most;
  page.found = choose(data, { ...state, most });
  if (state.view === "drawing") drawAll(page.drawing, data, page.found, page.on);
  if (state.chosen !== null && !isShown(page, state.chosen)) state.chosen = null;
  showSize(page);
  showCount(data, state, page.found);
  if (data.curve !== null) {
    showFaithfulness(data.curve, state.size);
    page.moveMark(state.size);
  }
  relight(page);
  writeAddress(page);
}

function isShown(page, node) {
  return page.found.edges.some((edge) => edge.source === node || edge.dest === node);
}

// The lit paths, the marked node and the list beside them.
function relight(page) {
  const { data, state, drawing, found } = page;
  const paths = state.chosen === null ? null : pathsThrough(data.graph, found.edges, state.chosen);
  const lit = paths ?? heldSpan(page);
  light(drawing, lit);
  mark(drawing, "chosen", new Set(state.chosen === null ? [] : [state.chosen]));
  showDetails(data, found.edges, state.chosen, paths, page.on);
  if (paths !== null) find("paths").after(...insideOf(page, data.graph.nodes[state.chosen]));
  page.lit = lit;
  showMatches(page);
  showMatrix(page);
}

function showMatrix(page) {
  const isMatrix = page.state.view === "matrix";
  page.matrix.canvas.hidden = !isMatrix;
  page.drawing.svg.toggleAttribute("hidden", isMatrix);
  for (const id of ["most-label", "save"]) find(id).hidden = isMatrix;
  for (const view of ["drawing", "matrix"]) find(`as-${view}`).setAttribute("aria-pressed", view === page.state.view);
  showRows(legendRows(page.data, page.state.view));
  setCrowd(find("legend"), isMatrix ? Infinity : page.found.edges.length);
  if (isMatrix) drawMatrix(page.matrix, page.data, page.found.edges, page.lit);
}

function setView(page, view) {
  page.state.view = view;
  refresh(page);
}

function showSize(page) {
  const { data, state, stops } = page;
  const list = data.lists[0];
  const after = stops.findIndex((stop) => stop >= state.size);
  const slider = find("slider");
  slider.max = stops.length - 1;
  slider.value = after < 0 ? stops.length - 1 : after;
  slider.setAttribute("aria-valuetext", `${whole(state.size)} edges`);
  find("size").value = state.size;
  if (list.score && list.length > 0) find("threshold").value = roundedDown(data.least[Math.min(state.size, list.length) - 1]);
}

// Four digits, never more than the value: every edge that is shown is at or above it.
function roundedDown(value) {
  if (value === 0) return 0;
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return Number((Math.floor(value / unit) * unit).toPrecision(4));
}

function setSize(page, size) {
  if (!Number.isFinite(size)) return;
  page.state.size = Math.min(page.data.longest, Math.max(1, Math.round(size)));
  later(page);
}

// What the drawing and the lists call back.
function handlers(page) {
  const { state, drawing } = page;
  const edgeBy = (key) => page.found.edges.find((edge) => edge.key === key);
  return {
    edge(key, event) {
      const edge = edgeBy(key);
      if (!edge) return;
      showCard(edge.name, edgeRows(page.data, edge), event);
      light(drawing, { keys: new Set([key]), nodes: new Set([edge.source, edge.dest]) });
    },
    node(index, event) {
      showCard(page.data.graph.nodes[index].name, nodeRows(page.data, page.found.edges, index), event);
      if (state.chosen === null) light(drawing, around(page.found.edges, index));
    },
    leave() {
      hideCard();
      light(drawing, page.lit);
    },
    choose(index) {
      state.chosen = state.chosen === index ? null : index;
      hideCard();
      relight(page);
      writeAddress(page);
      if (page.insides !== null && state.chosen !== null) find("details").scrollIntoView({ block: "start" });
    },
    clear: () => clear(page),
    key: (index, event) => nodeKey(page, index, event),
  };
}

function clear(page) {
  page.state.chosen = null;
  find("search").value = "";
  hideCard();
  relight(page);
  writeAddress(page);
}

function nodeKey(page, index, event) {
  if (event.key === "Enter" || event.key === " ") page.on.choose(index);
  else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    const edge = strongest(page.found.edges, index, event.key === "ArrowUp");
    if (edge) page.drawing.nodes.get(event.key === "ArrowUp" ? edge.dest : edge.source).focus();
  } else return;
  event.preventDefault();
}

// What never changes is written once; then every control is given its work.

function writeOnce(page) {
  const { data, state } = page;
  find("title").textContent = data.title;
  find("subtitle").textContent = data.subtitle;
  find("provenance").replaceChildren(describe(data.facts));
  find("known").replaceChildren(...data.graph.nodes.map((node) => make("option", { value: node.name })));
  find("merit").textContent = data.ranking === "absolute" ? "|score|" : "score";
  find("by-score").textContent = find("merit").textContent;
  find("size").max = data.longest;
  find("prune").checked = state.prune;
  find("most").replaceChildren(...MOST.map((n) => make("option", n === state.most ? { selected: "" } : {}, n)));
  if (!data.lists[0].score || data.lists[0].length === 0) for (const id of ["threshold-label", "modes"]) find(id).hidden = true;
  if (data.curve !== null) {
    find("faithfulness").hidden = false;
    page.moveMark = drawChart(data.curve);
  }
  writeTicks(page);
  showPrompt(page);
  showSpans(page);
}

function writeTicks(page) {
  const { graph, lists } = page.data;
  const kinds = new Set(graph.nodes.map((node) => node.kind));
  const short = { embed: "embed", head: "heads", group: "key-value heads", mlp: "MLPs", logits: "logits" };
  find("reader-kinds").append("inputs: ", ...["q", "k", "v"].map((letter) => tick(page, letter, letter)));
  find("node-kinds").append(...Object.keys(short).filter((kind) => kinds.has(kind)).map((kind) => tick(page, kind, short[kind])));
  if (lists.length > 1) {
    find("parts").hidden = false;
    find("parts").append(...Object.entries(PARTS).map(([part, said]) => tick(page, part, said)));
  }
}

function listen(page) {
  const { drawing, state } = page;
  find("slider").addEventListener("input", (event) => setSize(page, page.stops[Number(event.target.value)]));
  find("size").addEventListener("change", (event) => setSize(page, Number(event.target.value)));
  find("threshold").addEventListener("change", (event) => setSize(page, sizeAt(page.data, Number(event.target.value))));
  find("by-size").addEventListener("click", () => slideOver(page, "by-size", bySize(page.data)));
  find("by-score").addEventListener("click", () => slideOver(page, "by-score", byScore(page.data)));
  find("prune").addEventListener("change", (event) => { state.prune = event.target.checked; later(page); });
  find("most").addEventListener("change", (event) => { state.most = Number(event.target.value); later(page); });
  find("search").addEventListener("input", () => showMatches(page));
  find("search").addEventListener("keydown", (event) => { if (event.key === "Enter") goToMatch(page); });
  find("save").addEventListener("click", () => save(page));
  find("as-drawing").addEventListener("click", () => setView(page, "drawing"));
  find("as-matrix").addEventListener("click", () => setView(page, "matrix"));
  find("zoom-in").addEventListener("click", () => zoomBy(page, 1.3));
  find("zoom-out").addEventListener("click", () => zoomBy(page, 1 / 1.3));
  find("zoom-fit").addEventListener("click", () => fitAll(page));
  listenToMatrix(page);
  listenToLines(drawing, page.on);
  window.addEventListener("hashchange", () => { readAddress(page); refresh(page); });
  drawing.svg.addEventListener("click", (event) => { if (event.target === drawing.svg && state.chosen !== null && drawing.fitted) clear(page); });
  document.addEventListener("keydown", (event) => pageKey(page, event));
  new ResizeObserver(() => {
    if (drawing.fitted && state.view === "drawing") fit(drawing, drawing.least);
    showMatrix(page);
  }).observe(find("stage"));
  letDrag(drawing);
}

function zoomBy(page, factor, at = [0.5, 0.5]) {
  if (page.state.view === "drawing") return zoom(page.drawing, factor, at);
  const room = page.matrix.canvas.getBoundingClientRect();
  zoomMatrix(page.matrix, factor, [at[0] * room.width - PLOT.left, at[1] * room.height - room.height + footOf()]);
  showMatrix(page);
}

function fitAll(page) {
  if (page.state.view === "drawing") return fit(page.drawing);
  zoomMatrix(page.matrix, 0, [0, 0]);
  showMatrix(page);
}

// The drawing as it is seen, with its legend, and every edge as a line of its own.
function save(page) {
  const { svg, layers, routes, view } = page.drawing;
  const legend = legendShape(legendRows(page.data), view);
  const lines = [...layers.edges.children];
  layers.edges.replaceChildren(...[...routes.values()].map(({ look, points }) => lineOf(look, pathOf(points))));
  setCrowd(legend, routes.size);
  svg.append(legend);
  download(svg, "circuit.svg");
  legend.remove();
  layers.edges.replaceChildren(...lines);
}

function slideOver(page, chosen, stops) {
  page.stops = stops;
  for (const id of ["by-size", "by-score"]) find(id).setAttribute("aria-pressed", id === chosen);
  showSize(page);
}

function pageKey(page, event) {
  atKey(event, () => clear(page), {
    "+": () => zoomBy(page, 1.3),
    "-": () => zoomBy(page, 1 / 1.3),
    0: () => fitAll(page),
  });
}

start();
