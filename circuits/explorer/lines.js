// Edges as lines. Those of one look are one path, so that a thousand cost hardly more than a dozen; which
// one lies under the pointer is reckoned from the points of its route.

const SHADES = 8; // steps of width and strength
const REACH = 5; // as near as this to an edge, the pointer means it

// How an edge looks, as one text: its side and its share of the largest score.
function lookOf(edge, data, largest) {
  const share = largest > 0 && data.lists.some((list) => list.score) ? Math.ceil((SHADES * sizeOf(edge)) / largest) / SHADES : 0.3;
  return `${sideOf(data, edge)} ${share} ${data.lists.length > 1 ? 1 : 0}`;
}

// What colours an edge: its sign, or its part in a comparison.
function sideOf(data, edge) {
  if (data.lists.length > 1) return edge.part;
  return edge.scores[0] > 0 ? "helps" : edge.scores[0] < 0 ? "hurts" : "";
}

function lineOf(look, text) {
  const [side, share, compared] = [look.split(" ")[0], ...look.split(" ").slice(1).map(Number)];
  const [thin, faint] = compared ? [1.2, 0.7] : [0.9, 0.6];
  const opacity = Math.round((faint + (1 - faint) * share) * 100) / 100;
  return shape("path", { class: `edge ${side}`, "stroke-width": round(thin + 3.3 * share), opacity, d: text });
}

// One path for every look among some routes; the strongest come last, over the others. In a crowd a path ends
// at every band: painting then goes through those of a part of the window, and not through all.
function linesOf(routes) {
  const texts = new Map();
  const add = (key, text) => texts.set(key, (texts.get(key) ?? "") + text);
  for (const { look, points } of routes) {
    if (routes.length > CROWD) for (const [band, piece] of bandsOf(points)) add(`${look} ${band}`, piece);
    else add(look, pathOf(points));
  }
  const keys = [...texts.keys()].sort((a, b) => Number(a.split(" ")[1]) - Number(b.split(" ")[1]));
  return keys.map((key) => lineOf(key, texts.get(key)));
}

const BAND = 220; // pixels of the drawing

function bandsOf(points) {
  const bands = new Map();
  for (let i = 1; i < points.length; i += 1) {
    const band = Math.floor((points[i - 1].y + points[i].y) / 2 / BAND);
    bands.set(band, (bands.get(band) ?? "") + pathOf([points[i - 1], points[i]]));
  }
  return bands;
}

function drawLines(drawing, data, routes) {
  const largest = largestScore(data);
  drawing.routes = new Map(routes.map((one) => [one.edge.key, { ...one, look: lookOf(one.edge, data, largest) }]));
  drawing.layers.edges.replaceChildren(...linesOf([...drawing.routes.values()]));
  setCrowd(drawing.layers.edges, routes.length);
}

// Some edges before all others, which fade; null: all alike.
function lightLines(drawing, keys) {
  const lit = keys === null ? [] : [...keys].filter((key) => drawing.routes.has(key)).map((key) => drawing.routes.get(key));
  drawing.layers.edges.classList.toggle("behind", keys !== null);
  drawing.layers.lit.replaceChildren(...linesOf(lit));
  setCrowd(drawing.layers.lit, lit.length);
}

// The key of the edge under a point of the drawing, or undefined: curves run upright between the points of
// their routes, so that the way to one is that along its height, less where it is flat.
function edgeAt(drawing, x, y) {
  let [best, nearest] = [undefined, REACH];
  for (const [key, { points }] of drawing.routes) {
    for (let i = 1; i < points.length; i += 1) {
      const [from, to] = [points[i - 1], points[i]];
      if (y > from.y || y < to.y || x < Math.min(from.x, to.x) - REACH || x > Math.max(from.x, to.x) + REACH) continue;
      const slope = (xAt(from, to, y - 2) - xAt(from, to, y + 2)) / 4;
      const away = Math.abs(x - xAt(from, to, y)) / Math.hypot(1, slope);
      if (away < nearest) [best, nearest] = [key, away];
    }
  }
  return best;
}

function listenToLines(drawing, on) {
  const { svg } = drawing;
  let last;
  svg.addEventListener("pointermove", (event) => {
    if (event.target.closest(".node")) return (last = undefined); // which has said what to light
    if (svg.classList.contains("dragged")) return leave();
    const room = svg.getBoundingClientRect();
    const [x, y, width, height] = drawing.view;
    const key = edgeAt(drawing, x + ((event.clientX - room.left) * width) / room.width, y + ((event.clientY - room.top) * height) / room.height);
    if (key === undefined) return leave();
    if (key === last) return putCard(find("card"), event);
    last = key;
    on.edge(key, event);
  });
  const leave = () => {
    if (last === undefined) return;
    last = undefined;
    on.leave();
  };
  svg.addEventListener("pointerleave", leave);
}
