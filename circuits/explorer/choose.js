// From the data to the edges that are shown: the first n of each list, less what is hidden.
// Knows nothing of drawing.

// The page's data with its columns unpacked. An edge is known by its key, source and reader in one
// number; `rank` in a list is its place from 0.
function openData() {
  const data = readData();
  const graph = openGraph(data.names);
  const lists = data.lists.map((list) => openList(list, graph));
  const opened = { ...data, graph, lists, longest: Math.max(...lists.map((list) => list.length)) };
  return { ...opened, least: leastMerits(opened) };
}

// The least that is shown at each size, in the first list: it only falls as the size grows, also
// where a circuit's own edges come before better ones.
function leastMerits(data) {
  let least = Infinity;
  const list = data.lists[0];
  return list.score === null ? [] : list.keys.map((_, i) => (least = Math.min(least, merit(data, list, i))));
}

function openGraph(names) {
  return {
    nodes: names.nodes.map(([name, kind, layer], index) => ({ name, kind, layer, index })),
    readers: names.readers.map(([name, node]) => ({ name, node, letter: letterOf(name) })),
    sources: names.sources,
    links: names.links,
  };
}

function letterOf(reader) {
  const end = reader.slice(-2);
  return [".q", ".k", ".v"].includes(end) ? end[1] : "";
}

function openList(list, graph) {
  const columns = { source: unpack(list.source, Uint16Array), reader: unpack(list.reader, Uint16Array) };
  for (const name of ["score", "error", "stability", "inclusion"])
    columns[name] = unpack(list[name], Float32Array);
  const keys = Array.from(columns.source, (source, i) => source * graph.readers.length + columns.reader[i]);
  const rank = new Map(keys.map((key, i) => [key, i]));
  return { name: list.name, total: list.total, length: keys.length, keys, rank, ...columns };
}

// What a ranking compares: |score|, or the score itself.
function merit(data, list, i) {
  return data.ranking === "absolute" ? Math.abs(list.score[i]) : list.score[i];
}

// The number of edges at or above a threshold, in the first list.
function sizeAt(data, threshold) {
  const count = data.least.findIndex((least) => least < threshold);
  return count < 0 ? data.least.length : count;
}

// An edge with what every list says of it; index 0 is the first list, A.
function edgeOf(data, key) {
  const { graph, lists } = data;
  const reader = graph.readers[key % graph.readers.length];
  const source = graph.sources[Math.floor(key / graph.readers.length)];
  const ranks = lists.map((list) => list.rank.get(key));
  const scores = lists.map((list, i) => (list.score && ranks[i] !== undefined ? list.score[ranks[i]] : null));
  const name = `${graph.nodes[source].name}\u2192${reader.name}`;
  return { key, name, source, dest: reader.node, reader, ranks, scores };
}

// Which part of a comparison an edge is in at this size: only-a, only-b or both.
function partOf(data, key, size) {
  if (data.lists.length < 2) return "a";
  const [inA, inB] = data.lists.map((list) => (list.rank.get(key) ?? Infinity) < size);
  return inA && inB ? "both" : inA ? "only-a" : "only-b";
}

// All keys of the first n edges of every list, best first, each once.
function firstKeys(data, state) {
  const { lists } = data;
  const alive = lists.map((list) => (state.prune ? onPaths(data.graph, list, state.size) : null));
  const keys = new Set();
  for (let i = 0; i < Math.min(state.size, data.longest); i += 1) {
    lists.forEach((list, which) => {
      if (i < list.length && (alive[which] === null || alive[which][i])) keys.add(list.keys[i]);
    });
  }
  return [...keys];
}

function isAllowed(data, state, key) {
  const { graph } = data;
  const reader = graph.readers[key % graph.readers.length];
  const source = graph.nodes[graph.sources[Math.floor(key / graph.readers.length)]];
  return (
    !state.hidden.has(reader.letter || "-") &&
    !state.hidden.has(source.kind) &&
    !state.hidden.has(graph.nodes[reader.node].kind) &&
    !state.hidden.has(partOf(data, key, state.size))
  );
}

// What is drawn, and the numbers that say what is not.
function choose(data, state) {
  const chosen = firstKeys(data, state);
  const allowed = chosen.filter((key) => isAllowed(data, state, key));
  const edges = allowed.slice(0, state.most).map((key) => ({ ...edgeOf(data, key), part: partOf(data, key, state.size) }));
  return { edges, chosen: chosen.length, allowed: allowed.length, size: Math.min(state.size, state.most) };
}

// Which of the first n edges are on a path from embed to logits: edges out of nodes that nothing
// comes into and into nodes that nothing leaves are dropped until none is left.
function onPaths(graph, list, size) {
  const n = Math.min(size, list.length);
  const alive = new Uint8Array(n).fill(1);
  for (let dropped = 1; dropped > 0; ) {
    const { fed, used } = fedAndUsed(graph, list, alive);
    dropped = 0;
    for (let i = 0; i < n; i += 1) {
      const node = graph.readers[list.reader[i]].node;
      if (alive[i] && !(fed[graph.sources[list.source[i]]] && used[node])) {
        alive[i] = 0;
        dropped += 1;
      }
    }
  }
  return alive;
}

function fedAndUsed(graph, list, alive) {
  const fed = new Uint8Array(graph.nodes.length);
  const used = new Uint8Array(graph.nodes.length);
  alive.forEach((is, i) => {
    if (!is) return;
    fed[graph.readers[list.reader[i]].node] = 1;
    used[graph.sources[list.source[i]]] = 1;
  });
  for (const node of graph.nodes) {
    if (node.kind === "embed") fed[node.index] = 1;
    if (node.kind === "logits") used[node.index] = 1;
  }
  const heads = Uint8Array.from(fed);
  for (const [group, head] of graph.links) {
    if (heads[group]) fed[head] = 1;
    if (used[head]) used[group] = 1;
  }
  return { fed, used };
}
