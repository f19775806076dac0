// Pinned nodes, groups of them (supernodes), and the drawing of these alone.

function togglePin(page, index) {
  const { state } = page;
  if (state.pinned.includes(index)) {
    state.pinned = state.pinned.filter((one) => one !== index);
    dropFromGroups(state, [index]);
  } else state.pinned = [...state.pinned, index];
  refresh(page);
}

function dropFromGroups(state, indices) {
  const left = state.groups.map((group) => ({ ...group, members: group.members.filter((one) => !indices.includes(one)) }));
  state.groups = left.filter((group) => group.members.length > 0);
}

// What the drawing of pinned nodes has boxes for: groups, and pinned nodes of no group.
function entitiesOf(page) {
  const { data, state } = page;
  const grouped = new Set(state.groups.flatMap((group) => group.members));
  const alone = state.pinned.filter((index) => !grouped.has(index)).map((index) => ({ name: titleOf(data, data.nodes[index]), members: [index], kind: data.nodes[index].kind }));
  return [...state.groups.map((group) => ({ ...group, kind: "several" })), ...alone];
}

function showPins(page) {
  const { data, state } = page;
  const head = make("h2", {}, `Pinned${state.pinned.length > 0 ? ` (${state.pinned.length})` : ""}`);
  if (state.pinned.length === 0) {
    find("pins").replaceChildren(head, make("p", { class: "soft" }, "Choose a node and pin it (P) to gather and group nodes here."));
    return;
  }
  const grouped = new Set(state.groups.flatMap((group) => group.members));
  const alone = state.pinned.filter((index) => !grouped.has(index));
  const groups = state.groups.map((group) => {
    const apart = make("button", { class: "less" }, "Ungroup");
    apart.addEventListener("click", () => {
      state.groups = state.groups.filter((one) => one !== group);
      refresh(page);
    });
    return make("div", { class: "group" }, make("div", { class: "pin-row" }, make("strong", {}, group.name), apart), ...group.members.map((index) => nodeRow(page, index, digits(data.nodes[index].influence))));
  });
  find("pins").replaceChildren(head, ...groups, ...alone.map((index) => pinRow(page, index)), ...(alone.length > 1 ? [grouper(page)] : []));
}

function pinRow(page, index) {
  const { data, state } = page;
  const box = make("input", { type: "checkbox", "aria-label": `choose ${titleOf(data, data.nodes[index])} for a group` });
  box.checked = state.ticked.has(index);
  box.addEventListener("change", () => (box.checked ? state.ticked.add(index) : state.ticked.delete(index)));
  const less = make("button", { class: "less", "aria-label": `unpin ${data.nodes[index].name}` }, "\u00d7");
  less.addEventListener("click", () => togglePin(page, index));
  return make("div", { class: "pin-row" }, box, nodeRow(page, index, digits(data.nodes[index].influence)), less);
}

function grouper(page) {
  const { state } = page;
  const name = make("input", { id: "group-name", type: "text", placeholder: "name of a group", maxlength: 80, "aria-label": "name of a group" });
  const button = make("button", { id: "group" }, "Group the ticked");
  const act = () => {
    const members = state.pinned.filter((index) => state.ticked.has(index));
    if (members.length === 0) return;
    dropFromGroups(state, members);
    state.groups = [...state.groups, { name: name.value.trim() || `group ${state.groups.length + 1}`, members }];
    state.ticked.clear();
    refresh(page);
  };
  button.addEventListener("click", act);
  name.addEventListener("keydown", (event) => event.key === "Enter" && act());
  return make("div", { class: "row" }, name, button);
}

// The drawing of boxes: rows by layer, sums of the edges between them as lines.

function drawPinned(page) {
  const { data, drawing } = page;
  const entities = entitiesOf(page).map((one, index) => ({ ...one, index, ...meanPlace(data, one.members) }));
  const places = placeEntities(entities);
  const edges = edgesBetween(data, entities);
  const largest = Math.max(0, ...edges.map((edge) => Math.abs(edge.weight)));
  const routes = route(edges, places);
  const lines = routes.map(({ edge, points }) => shape("path", { class: `edge ${edge.weight < 0 ? "hurts" : "helps"}`, "stroke-width": round(0.8 + (3.4 * Math.abs(edge.weight)) / largest), d: pathOf(points) }));
  const grips = routes.map(({ edge, points }) => gripOver(entities, edge, pathOf(points)));
  const boxes = entities.map((one) => entityBox(page, one, places.get(one.index)));
  drawing.pinned.replaceChildren(...lines, ...grips, ...boxes);
  drawing.box = entities.length > 0 ? boundsOf(places, routes) : [0, 0, 100, 100];
  if (drawing.fitted) fit(drawing);
}

function meanPlace(data, members) {
  const mean = (key) => members.reduce((sum, index) => sum + data.nodes[index][key], 0) / members.length;
  return { layer: Math.round(mean("layer")), position: mean("position") };
}

// Each row in the order of tokens, as near to its token as the boxes before it allow.
function placeEntities(entities) {
  const layers = [...new Set(entities.map((one) => one.layer))].sort((a, b) => a - b);
  const places = new Map();
  layers.forEach((layer, row) => {
    const own = entities.filter((one) => one.layer === layer).sort((a, b) => a.position - b.position);
    const width = (own.length - 1) * BOX.column;
    own.forEach((one, i) => places.set(one.index, { x: i * BOX.column - width / 2, y: -row * BOX.row }));
  });
  return places;
}

function edgesBetween(data, entities) {
  const edges = [];
  for (const source of entities)
    for (const dest of entities) {
      if (source.layer >= dest.layer) continue;
      const weight = weightBetween(data, source.members, dest.members);
      if (weight !== null) edges.push({ key: `${source.index} ${dest.index}`, source: source.index, dest: dest.index, reader: { name: dest.index, letter: "" }, weight });
    }
  return edges;
}

function gripOver(entities, edge, d) {
  const grip = shape("path", { class: "grip", d });
  const heading = `${entities[edge.source].name} \u2192 ${entities[edge.dest].name}`;
  grip.addEventListener("pointermove", (event) => showCard(heading, [["sum of direct edges", digits(edge.weight)]], event));
  grip.addEventListener("pointerleave", hideCard);
  return grip;
}

function entityBox(page, one, place) {
  const { data } = page;
  const node = data.nodes[one.members[0]];
  const below = one.kind === "several" ? `${one.members.length} nodes` : one.kind === "embedding" ? `token ${node.position}` : one.kind === "logit" ? `logit, ${percent(node.weight)}` : `${node.unit ?? node.place} at ${visible(data.tokens[node.position])}`;
  const { width, height } = BOX;
  const box = shape("g", { class: `group-box ${one.kind}`, transform: `translate(${round(place.x)} ${round(place.y)})` },
    shape("rect", { x: -width / 2, y: -height / 2, width, height, rx: 6 }),
    shape("text", { y: -4, class: "middle" }, cut(one.name, 22)), shape("text", { y: 9, class: "middle small" }, cut(below, 26)));
  box.addEventListener("pointerenter", (event) => showCard(one.name, one.members.slice(0, 8).map((index) => [data.nodes[index].name, titleOf(data, data.nodes[index])]), event));
  box.addEventListener("pointerleave", hideCard);
  box.addEventListener("click", () => one.members.length === 1 && chooseNode(page, one.members[0]));
  return box;
}
