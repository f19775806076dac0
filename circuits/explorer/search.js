// Finding nodes by name.

function matches(page) {
  const text = find("search").value.trim().toLowerCase();
  return text === "" ? [] : page.data.graph.nodes.filter((node) => node.name.toLowerCase().includes(text));
}

function showMatches(page) {
  const found = matches(page);
  const shown = found.filter((node) => isShown(page, node.index));
  mark(page.drawing, "matched", new Set(shown.map((node) => node.index)));
  const absent = found.length > 0 && shown.length === 0;
  const words = absent ? absentWords(page, found[0]) : found.length > 0 ? `${shown.length} shown of ${found.length} named so` : "no node is named so";
  find("found").textContent = find("search").value.trim() === "" ? "" : words;
}

function absentWords(page, node) {
  const first = firstSize(page.data, node.index);
  return first === null ? `${node.name} has no edge here` : `${node.name} comes in at ${whole(first)} edges; Enter goes there`;
}

// The least size at which a node has an edge.
function firstSize(data, index) {
  const { graph } = data;
  const sizes = data.lists.flatMap((list) => {
    const at = list.keys.findIndex((_, i) => graph.sources[list.source[i]] === index || graph.readers[list.reader[i]].node === index);
    return at < 0 ? [] : [at + 1];
  });
  return sizes.length > 0 ? Math.min(...sizes) : null;
}

function goToMatch(page) {
  const found = matches(page);
  if (found.length === 0) return;
  const exact = found.find((node) => node.name === find("search").value.trim().toLowerCase());
  const shown = found.find((node) => isShown(page, node.index));
  const node = exact ?? shown ?? found[0];
  if (!isShown(page, node.index)) {
    const first = firstSize(page.data, node.index);
    if (first === null) return;
    page.state.size = Math.max(page.state.size, first);
    refresh(page);
  }
  page.state.chosen = isShown(page, node.index) ? node.index : null;
  relight(page);
  writeAddress(page);
  centre(page.drawing, node.index);
}
