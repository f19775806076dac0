// Paths through the edges that are drawn: what leads to a node, and where it leads.

// The nodes a step up from a node: along its edges, and from a key-value head to its heads.
function stepsOf(graph, edges) {
  const up = new Map();
  const down = new Map();
  const add = (table, at, step) => table.set(at, [...(table.get(at) ?? []), step]);
  for (const edge of edges) {
    add(up, edge.source, { to: edge.dest, key: edge.key });
    add(down, edge.dest, { to: edge.source, key: edge.key });
  }
  for (const [group, head] of graph.links) {
    add(up, group, { to: head, key: null });
    add(down, head, { to: group, key: null });
  }
  return { up, down };
}

function reach(steps, start) {
  const nodes = new Set([start]);
  const keys = new Set();
  const waiting = [start];
  while (waiting.length > 0) {
    for (const { to, key } of steps.get(waiting.pop()) ?? []) {
      if (key !== null) keys.add(key);
      if (!nodes.has(to)) {
        nodes.add(to);
        waiting.push(to);
      }
    }
  }
  return { nodes, keys };
}

// All nodes and edges on a path through a node.
function pathsThrough(graph, edges, node) {
  const { up, down } = stepsOf(graph, edges);
  const above = reach(up, node);
  const below = reach(down, node);
  return {
    nodes: new Set([...above.nodes, ...below.nodes]),
    keys: new Set([...above.keys, ...below.keys]),
    upstream: below.nodes.size - 1,
    downstream: above.nodes.size - 1,
  };
}

// A node with its own edges: what hovering lights up.
function around(edges, node) {
  const own = edges.filter((edge) => edge.source === node || edge.dest === node);
  return { nodes: new Set([node, ...own.flatMap((edge) => [edge.source, edge.dest])]), keys: new Set(own.map((edge) => edge.key)) };
}

// Its strongest edge upwards (out) or downwards (in), or undefined.
function strongest(edges, node, upwards) {
  const own = edges.filter((edge) => (upwards ? edge.source : edge.dest) === node);
  return own.sort((a, b) => sizeOf(b) - sizeOf(a))[0];
}

function sizeOf(edge) {
  return Math.max(...edge.scores.map((score) => Math.abs(score ?? 0)));
}
