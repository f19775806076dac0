// The drawing: boxes, edges, zoom. Elements are kept from one size to the next and only moved.

function openDrawing(stage) {
  const layers = { links: shape("g"), edges: shape("g", { class: "lines" }), lit: shape("g", { class: "lines lit" }), nodes: shape("g") };
  const svg = shape("svg", { role: "group", "aria-label": "circuit", xmlns: SVG }, ...Object.values(layers));
  stage.append(svg);
  return { svg, layers, routes: new Map(), nodes: new Map(), view: null, fitted: true, least: READABLE };
}

// Where every node stands: in the first drawing for so many edges that has them all, else the grid.
function placesFor(drawing, data, edges, size) {
  const needed = new Set(edges.flatMap((edge) => [edge.source, edge.dest]));
  const names = [...needed].map((index) => data.graph.nodes[index].name);
  const fitting = data.drawings.find(([most, at]) => most >= size && names.every((name) => at[name]));
  const at = fitting ? fitting[1] : data.grid;
  const column = columnFor(drawing, Object.values(at)); // the same while boxes come and go
  return new Map([...needed].map((index) => {
    const [x, y] = at[data.graph.nodes[index].name];
    return [index, { x: x * column, y: -y * BOX.row }];
  }));
}

// Columns as wide as the window has room for: wider gaps between boxes make edges easier to follow.
function columnFor(drawing, places) {
  if (places.length === 0) return BOX.column;
  const span = (values) => Math.max(...values) - Math.min(...values) || 1;
  const room = drawing.svg.getBoundingClientRect();
  const height = Math.min(span(places.map((place) => place[1])) * BOX.row + 56, room.height / READABLE);
  const width = (height * room.width) / (room.height - 80) - 2 * BOX.width;
  const fitting = width / span(places.map((place) => place[0]));
  return Math.min(Math.max(BOX.column, fitting || 0), 2 * BOX.column);
}

// Bring one layer up to date: elements that are no longer wanted go, new ones are made.
function keep(layer, held, wanted, create) {
  for (const [key, element] of held)
    if (!wanted.has(key)) {
      element.remove();
      held.delete(key);
    }
  for (const [key, item] of wanted)
    if (!held.has(key)) {
      held.set(key, create(item));
      layer.append(held.get(key));
    }
}

function drawAll(drawing, data, found, on) {
  const { edges } = found;
  const places = placesFor(drawing, data, edges, found.size);
  const routes = route(edges, places);
  drawLines(drawing, data, routes);
  const boxes = new Map([...places.keys()].sort(byPlace(places)).map((index) => [index, data.graph.nodes[index]]));
  keep(drawing.layers.nodes, drawing.nodes, boxes, (node) => boxFor(node, on));
  const own = edgesOfNodes(edges);
  for (const index of boxes.keys()) styleNode(drawing, data, places, index, own.get(index));
  drawLinks(drawing, data, places);
  drawing.box = boundsOf(places, routes);
  if (drawing.fitted) fit(drawing, drawing.least);
}

function byPlace(places) {
  return (a, b) => places.get(b).y - places.get(a).y || places.get(a).x - places.get(b).x;
}

function largestScore(data) {
  return Math.max(...data.lists.map((list) => (list.score ? list.score.reduce((most, s) => Math.max(most, Math.abs(s)), 0) : 0)));
}

// Of every node the edges that it writes or reads.
function edgesOfNodes(edges) {
  const own = new Map();
  for (const edge of edges)
    for (const index of new Set([edge.source, edge.dest])) {
      if (!own.has(index)) own.set(index, []);
      own.get(index).push(edge);
    }
  return own;
}

function boxFor(node, on) {
  const { width, height } = BOX;
  const box = shape("g", { tabindex: 0, role: "button", "data-node": node.name },
    shape("rect", { x: -width / 2, y: -height / 2, width, height, rx: 6 }),
    shape("text", { y: node.kind === "head" || node.kind === "group" ? -2 : 0 }, node.name),
    ...["q", "k", "v"].map((letter) => shape("text", { class: `port ${letter}`, x: PORT[letter] * width, y: height / 2 - 4.5 }, letter)),
  );
  box.addEventListener("pointerenter", (event) => on.node(node.index, event));
  box.addEventListener("pointerleave", on.leave);
  box.addEventListener("focus", (event) => on.node(node.index, event));
  box.addEventListener("blur", on.leave);
  box.addEventListener("click", () => on.choose(node.index));
  box.addEventListener("keydown", (event) => on.key(node.index, event));
  return box;
}

function styleNode(drawing, data, places, index, own) {
  const [box, node, { x, y }] = [drawing.nodes.get(index), data.graph.nodes[index], places.get(index)];
  box.style.transform = `translate(${round(x)}px, ${round(y)}px)`;
  box.setAttribute("transform", `translate(${round(x)} ${round(y)})`);
  const parts = new Set(own.map((edge) => edge.part));
  const only = parts.size === 1 && !parts.has("a") && !parts.has("both") ? [...parts][0] : "";
  box.setAttribute("class", `node ${node.kind} ${only}`);
  box.setAttribute("aria-label", `${node.name}, ${own.length} edges`);
  const read = new Set(own.filter((edge) => edge.dest === index).map((edge) => edge.reader.letter));
  for (const letter of ["q", "k", "v"])
    box.querySelector(`.port.${letter}`).setAttribute("visibility", read.has(letter) ? "visible" : "hidden");
}

function drawLinks(drawing, data, places) {
  const shown = data.graph.links.filter(([group, head]) => places.has(group) && places.has(head));
  drawing.layers.links.replaceChildren(...shown.map(([group, head]) => {
    const [low, high] = [places.get(group), places.get(head)];
    const points = [{ x: low.x, y: low.y - BOX.height / 2 }, { x: high.x, y: high.y + BOX.height / 2 }];
    return shape("path", { class: "link", d: pathOf(points) });
  }));
}

// Light up some edges and nodes and fade the rest; null lights everything.
function light(drawing, lit) {
  lightLines(drawing, lit === null ? null : lit.keys);
  for (const [index, box] of drawing.nodes) box.classList.toggle("faded", lit !== null && !lit.nodes.has(index));
}

function mark(drawing, name, indices) {
  for (const [index, box] of drawing.nodes) box.classList.toggle(name, indices.has(index));
}
