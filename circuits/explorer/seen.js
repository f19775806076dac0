// The circuit explorer's state in the page's address, and back.

function writeAddress(page) {
  const { state, data } = page;
  const parts = new URLSearchParams({ edges: state.size });
  if (state.view !== "drawing") parts.set("view", state.view);
  if (state.chosen !== null) parts.set("node", data.graph.nodes[state.chosen].name);
  if (state.prune) parts.set("paths", "1");
  if (state.matches) parts.set("inside", "qk");
  if (state.query !== null) parts.set("query", state.query);
  if (state.hidden.size > 0) parts.set("hidden", [...state.hidden].join(","));
  putAddress(page, parts);
}

function readAddress(page) {
  const { state, data } = page;
  const parts = newAddress(page);
  if (parts === null) return;
  const size = Math.round(Number(parts.get("edges")));
  if (size >= 1) state.size = Math.min(size, data.longest);
  state.view = parts.get("view") === "matrix" ? "matrix" : "drawing";
  const node = data.graph.nodes.find((one) => one.name === parts.get("node"));
  state.chosen = node ? node.index : null;
  state.matches = parts.get("inside") === "qk";
  const query = Math.round(Number(parts.get("query") ?? -1));
  state.query = page.insides !== null && query >= 0 && query < page.insides.n ? query : null;
  state.prune = parts.has("paths") || (state.prune && !parts.has("edges"));
  state.hidden = new Set((parts.get("hidden") ?? "").split(",").filter((name) => name !== ""));
  for (const box of document.querySelectorAll("[data-kind]")) box.checked = !state.hidden.has(box.dataset.kind);
  find("prune").checked = state.prune;
}
