// What is seen of a graph of features, in the page's address, and back. Names are those of nodes; what an
// address says that the graph does not hold is passed over.

function writeState(page) {
  const { state, data } = page;
  const name = (index) => data.nodes[index].name;
  const parts = new URLSearchParams({ nodes: state.size });
  if (state.most !== EDGES_DRAWN[1]) parts.set("edges", state.most);
  if (state.view !== "graph") parts.set("view", state.view);
  if (state.chosen !== null) parts.set("node", name(state.chosen));
  if (state.pinned.length > 0) parts.set("pins", state.pinned.map(name).join(","));
  if (state.groups.length > 0) parts.set("groups", JSON.stringify(state.groups.map((group) => [group.name, ...group.members.map(name)])));
  if (state.hidden.size > 0) parts.set("hidden", [...state.hidden].join(","));
  putAddress(page, parts);
}

function readState(page) {
  const { state, data } = page;
  const parts = newAddress(page);
  if (parts === null) return;
  const index = (name) => data.byName.get(name)?.index;
  const size = Math.round(Number(parts.get("nodes") ?? NaN));
  if (size >= 0) state.size = Math.min(size, data.order.length);
  const most = Number(parts.get("edges"));
  state.most = EDGES_DRAWN.includes(most) ? most : EDGES_DRAWN[1];
  state.view = parts.get("view") === "pinned" ? "pinned" : "graph";
  state.chosen = index(parts.get("node")) ?? null;
  state.pinned = [...new Set((parts.get("pins") ?? "").split(",").map(index))].filter((one) => one !== undefined);
  state.groups = readGroups(parts.get("groups"), index).filter(({ members }) => members.length > 0);
  state.pinned = [...new Set([...state.pinned, ...state.groups.flatMap((group) => group.members)])];
  state.hidden = new Set((parts.get("hidden") ?? "").split(",").filter((kind) => kind in KIND_NAMES));
}

// Groups as lists of a name and its members; each node in one group at most.
function readGroups(text, index) {
  const taken = new Set();
  const fresh = (one) => one !== undefined && !taken.has(one) && taken.add(one);
  try {
    const rows = JSON.parse(text ?? "[]");
    return rows.map(([name, ...members]) => ({ name: String(name).slice(0, 80), members: members.map(index).filter(fresh) }));
  } catch {
    return [];
  }
}
