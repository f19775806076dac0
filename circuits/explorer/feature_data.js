// The graph of features as the page's scripts use it: nodes, edges best first, who is seen.
// Knows nothing of drawing.

const NODE_KINDS = ["feature", "error", "embedding", "logit"];

function openFeatures() {
  const data = readData();
  const column = (name, Kind) => unpack(data.nodes[name], Kind);
  const columns = {
    kind: column("kind", Uint8Array), layer: column("layer", Int32Array), position: column("position", Int32Array), number: column("number", Int32Array),
    value: column("value", Float32Array), influence: column("influence", Float32Array), weight: column("weight", Float32Array),
    reads: column("reads", Float32Array), constant: column("constant", Float32Array), rest: column("rest", Float32Array), restSize: column("rest_size", Float32Array),
  };
  const nodes = data.names.map((name, index) => {
    const node = { name, index };
    for (const [key, values] of Object.entries(columns)) node[key] = values[index];
    node.kind = NODE_KINDS[node.kind];
    node.inner = node.kind === "feature" || node.kind === "error";
    node.place = `m${node.layer}`;
    node.unit = node.kind === "feature" ? name.split("@")[0] : null;
    return node;
  });
  const edges = { source: unpack(data.edges.source, Uint32Array), target: unpack(data.edges.target, Uint32Array), weight: unpack(data.edges.weight, Float32Array) };
  const graph = { ...data, nodes, edges, ...incident(nodes.length, edges) };
  graph.order = nodes.filter((node) => node.inner).sort((a, b) => b.influence - a.influence).map((node) => node.index);
  graph.order.forEach((index, rank) => (nodes[index].rank = rank));
  graph.byName = new Map(nodes.map((node) => [node.name, node]));
  graph.labels = new Map(Object.entries(data.labels).flatMap(([place, texts]) => Object.entries(texts).map(([number, text]) => [`${place} ${number}`, text])));
  return graph;
}

// Of every node the edges into it and out of it, best first.
function incident(n, edges) {
  const into = Array.from({ length: n }, () => []);
  const outOf = Array.from({ length: n }, () => []);
  edges.source.forEach((source, e) => {
    outOf[source].push(e);
    into[edges.target[e]].push(e);
  });
  return { into, outOf };
}

// By the place that it writes at, which is before a norm in some families.
function labelOf(data, node) {
  if (node.kind !== "feature") return "";
  return data.labels.get(`${node.place} ${node.number}`) ?? data.labels.get(`${node.place}.out ${node.number}`) ?? "";
}

// What a node is called: by people, by its token, or by its number.
function titleOf(data, node) {
  if (node.kind === "embedding") return `\u201c${visible(data.tokens[node.position])}\u201d`;
  if (node.kind === "logit") return node.number < 0 ? "difference" : `says \u201c${visible(data.said[node.number] ?? String(node.number))}\u201d`;
  return labelOf(data, node) || (node.kind === "error" ? "error" : node.unit);
}

// All words by which a node is found.
function wordsOf(data, node) {
  const example = node.unit === null ? undefined : data.examples[node.unit];
  const own = [node.name, titleOf(data, node), ...(example ? example.promoted : [])];
  return own.join(" \u0000 ").toLowerCase();
}

// Inner nodes by influence, down to as many as are asked for; tokens, logits and pinned ones always.
function isSeen(page, index) {
  const { data, state } = page;
  const node = data.nodes[index];
  if (state.hidden.has(node.kind)) return false;
  return !node.inner || node.rank < state.size || state.pinned.includes(index) || state.chosen === index;
}

// What is drawn: nodes, the best edges between them, and how many edges there would be.
function chooseSeen(page) {
  const { data, state } = page;
  const seen = data.nodes.map((node) => isSeen(page, node.index));
  const drawn = [];
  let between = 0;
  data.edges.source.forEach((source, e) => {
    if (!seen[source] || !seen[data.edges.target[e]]) return;
    between += 1;
    if (drawn.length < state.most) drawn.push(e);
  });
  return { seen, drawn, between };
}

// How many inner nodes have at least so much influence.
function countAt(data, least) {
  const below = data.order.findIndex((index) => data.nodes[index].influence < least);
  return below < 0 ? data.order.length : below;
}

// The share of its target's absolute weight that an edge is.
function shareOf(data, e) {
  const target = data.edges.target[e];
  const sum = data.into[target].reduce((total, one) => total + Math.abs(data.edges.weight[one]), data.nodes[target].restSize);
  return sum > 0 ? Math.abs(data.edges.weight[e]) / sum : 0;
}

// The sum of the edges from some nodes to others.
function weightBetween(data, sources, targets) {
  const from = new Set(sources);
  let [sum, n] = [0, 0];
  for (const target of targets)
    for (const e of data.into[target])
      if (from.has(data.edges.source[e])) [sum, n] = [sum + data.edges.weight[e], n + 1];
  return n > 0 ? sum : null;
}
