// The page of a graph of features: what the user has set, and what happens when that changes.

const EDGES_DRAWN = [300, 1000, 3000, 10000];
const KIND_NAMES = { feature: "features", error: "errors", embedding: "tokens", logit: "logits" };

function start() {
  Object.assign(BOX, { width: 150, height: 34, column: 176, row: 92 });
  const data = openFeatures();
  const state = { size: data.start, most: EDGES_DRAWN[1], hidden: new Set(), chosen: null, pinned: [], groups: [], ticked: new Set(), view: "graph" };
  const page = { data, state, drawing: openStage(find("stage")), found: null, matched: new Set(), neighbours: new Map(), unsaved: 0 };
  page.stops = stopsOf(data.order.length);
  page.drawing.onLook = () => laterNames(page);
  readState(page);
  writeHead(page);
  listen(page);
  showBelief(data);
  showLabels(page);
  followTheme(find("theme"));
  refresh(page);
}

// Sizes that the slider stops at: every one while there are few, then 3 % more each time.
function stopsOf(total) {
  const stops = [];
  for (let n = 0; n < total; n = Math.max(n + 1, Math.round(n * (n < 100 ? 1 : 1.03)))) stops.push(n);
  return [...stops, total];
}

function refresh(page) {
  const { state, drawing } = page;
  if (state.chosen !== null && state.hidden.has(page.data.nodes[state.chosen].kind)) state.chosen = null;
  page.found = chooseSeen(page);
  const isGraph = state.view === "graph";
  drawing.graph.toggleAttribute("hidden", !isGraph);
  drawing.pinned.toggleAttribute("hidden", isGraph);
  for (const view of ["graph", "pinned"]) find(`as-${view}`).setAttribute("aria-pressed", view === state.view);
  drawGraph(page);
  if (!isGraph) drawPinned(page);
  showCounts(page);
  rechoose(page);
}

// What follows from the choice alone: colours, the panel, the address.
function rechoose(page) {
  showMatched(page);
  lightChosen(page);
  showChosen(page);
  showPins(page);
  showSteering(page);
  rove(page, page.state.chosen ?? page.roving ?? firstNode(page));
  writeState(page);
}

function laterNames(page) {
  if (page.naming || page.found === null) return;
  page.naming = true;
  requestAnimationFrame(() => {
    page.naming = false;
    writeNames(page);
  });
}

function setView(page, view) {
  page.state.view = view;
  page.drawing.fitted = true;
  if (view === "graph") page.drawing.box = boxOfPlaces(page.drawing.placed);
  refresh(page);
  fit(page.drawing);
}

function setCount(page, count) {
  if (!Number.isFinite(count)) return;
  page.state.size = Math.min(page.data.order.length, Math.max(0, Math.round(count)));
  later(page);
}

function chooseNode(page, index) {
  page.state.chosen = page.state.chosen === index ? null : index;
  hideCard();
  if (page.state.chosen !== null && !page.found.seen[index]) refresh(page);
  else rechoose(page);
  find("controls").scrollTop = Math.max(0, find("details").offsetTop - find("controls").offsetTop - 4);
}

function clearChosen(page) {
  page.state.chosen = null;
  find("search").value = "";
  hideCard();
  refresh(page);
}

function showCounts(page) {
  const { data, state, found } = page;
  const slider = find("slider");
  slider.max = page.stops.length - 1;
  slider.value = page.stops.findIndex((stop) => stop >= state.size);
  slider.setAttribute("aria-valuetext", `${whole(state.size)} nodes`);
  find("size").value = state.size;
  const last = data.nodes[data.order[state.size - 1]];
  find("threshold").value = last ? Number(last.influence.toPrecision(3)) : "";
  const drawn = found.drawn.length < found.between ? `the best ${whole(found.drawn.length)} of ${whole(found.between)} edges` : `${whole(found.between)} edges`;
  const words = [`${whole(state.size)} of ${whole(data.order.length)} features and errors, ${drawn}`];
  if (data.order.length + data.nodes.filter((node) => !node.inner).length < data.total.nodes) words.push(`the graph that this is of had ${whole(data.total.nodes)} nodes`);
  if (data.edges.source.length < data.total.edges) words.push(`this file holds the best ${whole(data.edges.source.length)} of ${whole(data.total.edges)} edges`);
  find("shown").textContent = words.join("; ");
}

// Searching.

function showMatched(page) {
  const text = find("search").value.trim().toLowerCase();
  const found = text === "" ? [] : page.data.nodes.filter((node) => wordsOf(page.data, node).includes(text));
  page.matched = new Set(found.map((node) => node.index));
  page.matches = found.sort((a, b) => (a.name === text ? -1 : b.name === text ? 1 : b.influence - a.influence));
  const seen = found.filter((node) => page.found.seen[node.index]).length;
  find("found").textContent = text === "" ? "" : found.length === 0 ? "nothing of this name, label or token" : `${whole(found.length)} found, ${whole(seen)} of them shown; Enter chooses the best`;
}

function goToMatched(page) {
  const [best] = page.matches;
  if (!best) return;
  page.state.hidden.delete(best.kind);
  page.state.chosen = best.index;
  refresh(page);
  centre(page.drawing, best.index);
}

// The keyboard: one node at a time can be reached by Tab, arrows go on from there.

function firstNode(page) {
  return page.data.nodes.findLast((node) => page.found.seen[node.index])?.index;
}

function rove(page, index) {
  page.drawing.nodes.get(page.roving)?.setAttribute("tabindex", -1);
  page.drawing.nodes.get(index)?.setAttribute("tabindex", 0);
  page.roving = index;
}

function stepFrom(page, index, key) {
  const { data, drawing, found } = page;
  if (key === "ArrowUp" || key === "ArrowDown") {
    const [edges, end] = key === "ArrowUp" ? [data.outOf[index], data.edges.target] : [data.into[index], data.edges.source];
    const best = edges.filter((e) => found.seen[end[e]]).sort((a, b) => Math.abs(data.edges.weight[b]) - Math.abs(data.edges.weight[a]))[0];
    return best === undefined ? undefined : end[best];
  }
  const row = [...drawing.places.keys()].filter((one) => found.seen[one] && data.nodes[one].layer === data.nodes[index].layer);
  row.sort((a, b) => drawing.places.get(a).x - drawing.places.get(b).x || drawing.places.get(b).y - drawing.places.get(a).y);
  return row[row.indexOf(index) + (key === "ArrowRight" ? 1 : -1)];
}

function nodeKeys(page, event) {
  const index = Number(event.target.dataset.i);
  if (event.key.startsWith("Arrow")) {
    const next = stepFrom(page, index, event.key);
    event.preventDefault();
    if (next === undefined) return;
    rove(page, next);
    page.drawing.nodes.get(next).focus();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    chooseNode(page, index);
  } else if (event.key === "p" || event.key === "P") togglePin(page, index);
}

function pageKeys(page, event) {
  const { drawing, state } = page;
  atKey(event, () => clearChosen(page), {
    "+": () => zoom(drawing, 1.3),
    "-": () => zoom(drawing, 1 / 1.3),
    0: () => fit(drawing),
    p: () => state.chosen !== null && event.target.dataset.i === undefined && togglePin(page, state.chosen),
  });
}

start();
