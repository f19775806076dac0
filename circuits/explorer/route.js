// Where edges run: straight where they can, through the gaps between boxes where they must.
// Positions are in pixels of the drawing, upwards is negative. Knows nothing of the page.

const BOX = { width: 62, height: 26, column: 70, row: 56, margin: 6, lane: 5 };
const PORT = { q: -0.3, k: 0, v: 0.3, "": 0 };

// A cubic curve that leaves and arrives upright: how far aside it is (0 to 1) at each height.
const RISE = Array.from({ length: 65 }, (_, i) => asideAt(i / 64));

function asideAt(height) {
  let [low, high] = [0, 1];
  for (let step = 0; step < 30; step += 1) {
    const middle = (low + high) / 2;
    if (1.5 * middle * (1 - middle) + middle ** 3 < height) low = middle;
    else high = middle;
  }
  return 3 * low ** 2 - 2 * low ** 3;
}

function xAt(from, to, y) {
  const share = Math.min(1, Math.max(0, (y - from.y) / (to.y - from.y)));
  return from.x + (to.x - from.x) * RISE[Math.round(share * 64)];
}

// The rows of boxes from the lowest up, each with its boxes and its gaps as [left, right] in order; the
// outermost gaps are open.
function rowsOf(places) {
  const rows = new Map();
  for (const place of places.values()) {
    if (!rows.has(place.y)) rows.set(place.y, []);
    rows.get(place.y).push(place.x);
  }
  const lowestFirst = [...rows].sort(([a], [b]) => b - a);
  return lowestFirst.map(([y, xs]) => {
    const gaps = gapsBetween(xs.sort((a, b) => a - b), y);
    return { y, xs, gaps, lefts: gaps.map((gap) => gap.left) };
  });
}

function gapsBetween(xs, y) {
  const reach = BOX.width / 2 + BOX.margin;
  const ends = [-Infinity, ...xs.flatMap((middle) => [middle - reach, middle + reach]), Infinity];
  const gaps = ends.flatMap((left, i) => (i % 2 === 0 ? [{ left, right: ends[i + 1], id: `${y}:${i}` }] : []));
  return gaps.filter((gap) => gap.left <= gap.right);
}

// How many of some numbers, in order, are not above another.
function countUpTo(values, x) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The gap that is nearest to a place.
function gapAt(row, x) {
  const left = countUpTo(row.lefts, x) - 1;
  const [gap, next] = [row.gaps[left], row.gaps[left + 1]];
  return next === undefined || x - gap.right <= next.left - x ? gap : next;
}

// Points on the way: where the curve would meet a box, the worst first, it goes up through a gap.
// A gap gives two points, below and above the row, that share one x. `first` and `end` say which rows lie
// between.
function pointsBetween(rows, from, to, first = 0, end = rows.length) {
  const worst = worstMeeting(rows, from, to, first, end);
  if (worst === null) return [];
  const { gap, row, x, at } = worst;
  const [below, above] = [1, -1].map((side) => ({ x, y: row.y + (side * BOX.height) / 2, gap }));
  return [...pointsBetween(rows, from, below, first, at), below, above, ...pointsBetween(rows, above, to, at + 1, end)];
}

// The row between two points where the curve must go furthest aside to miss the boxes, or null. Run for
// every row that an edge passes: nothing is made in it but what is given back.
function worstMeeting(rows, from, to, first, end) {
  const [half, reach, width] = [BOX.height / 2, BOX.width / 2 + 2, to.x - from.x];
  const perPixel = 64 / (to.y - from.y);
  const aside = (y) => from.x + width * RISE[Math.min(64, Math.max(0, Math.round((y - from.y) * perPixel)))];
  let [worst, most] = [null, -1];
  for (let at = first; at < end; at += 1) {
    const { y, xs } = rows[at];
    if (y + half >= from.y - 1) continue;
    if (y - half <= to.y + 1) break;
    const enters = aside(y + half);
    const leaves = aside(y - half);
    const next = countUpTo(xs, (enters < leaves ? enters : leaves) - reach); // the first box that could be met
    if (next >= xs.length || xs[next] >= (enters < leaves ? leaves : enters) + reach) continue;
    const wish = aside(y);
    const gap = gapAt(rows[at], wish);
    const x = wish < gap.left ? gap.left : wish > gap.right ? gap.right : wish;
    if (Math.abs(x - wish) <= most) continue;
    most = Math.abs(x - wish);
    worst = { row: rows[at], gap, x, at };
  }
  return worst;
}

// Edges that share a gap stand side by side in it, in the order in which they came.
function spread(routes) {
  const shared = new Map();
  for (const route of routes)
    for (let i = 1; i < route.points.length - 1; i += 2) {
      const [below, above] = route.points.slice(i, i + 2);
      if (!shared.has(below.gap.id)) shared.set(below.gap.id, []);
      shared.get(below.gap.id).push({ below, above, towards: route.points[0].x + route.points.at(-1).x });
    }
  for (const crowd of shared.values()) standBeside(crowd);
}

function standBeside(crowd) {
  crowd.sort((a, b) => a.below.x - b.below.x || a.towards - b.towards);
  const { left, right } = crowd[0].below.gap;
  const step = Math.min(BOX.lane, (right - left) / Math.max(1, crowd.length - 1));
  const xs = crowd.map(({ below }) => below.x);
  for (let i = 1; i < xs.length; i += 1) xs[i] = Math.max(xs[i], xs[i - 1] + step);
  for (let i = xs.length - 1; i >= 0; i -= 1) xs[i] = Math.min(xs[i], right - (xs.length - 1 - i) * step);
  crowd.forEach(({ below, above }, i) => (below.x = above.x = xs[i]));
}

// How far aside, from -1 to 1, each edge leaves or reaches the place it shares with others.
function fan(edges, placeOf, towards) {
  const groups = new Map();
  for (const edge of [...edges].sort((a, b) => towards(a) - towards(b))) {
    const place = placeOf(edge);
    if (!groups.has(place)) groups.set(place, []);
    groups.get(place).push(edge.key);
  }
  const aside = new Map();
  for (const group of groups.values()) {
    const width = Math.min(1, (group.length - 1) / 6);
    group.forEach((key, i) => aside.set(key, group.length > 1 ? width * ((2 * i) / (group.length - 1) - 1) : 0));
  }
  return aside;
}

// All edges with their points, from the top of one box to the bottom of another.
function route(edges, places) {
  const rows = rowsOf(places);
  const starts = fan(edges, (edge) => edge.source, (edge) => places.get(edge.dest).x);
  const ends = fan(edges, (edge) => edge.reader.name, (edge) => places.get(edge.source).x);
  const routes = edges.map((edge) => {
    const [low, high] = [places.get(edge.source), places.get(edge.dest)];
    const room = edge.reader.letter ? 0.1 : 0.4;
    const aside = PORT[edge.reader.letter] + room * ends.get(edge.key);
    const from = { x: low.x + 0.4 * BOX.width * starts.get(edge.key), y: low.y - BOX.height / 2 };
    const to = { x: high.x + aside * BOX.width, y: high.y + BOX.height / 2 };
    return { edge, points: [from, ...pointsBetween(rows, from, to), to] };
  });
  spread(routes);
  return routes;
}

function pathOf(points) {
  const [first, ...rest] = points;
  let [text, last] = [`M${round(first.x)} ${round(first.y)}`, first];
  for (const point of rest) {
    const middle = round((last.y + point.y) / 2);
    text += `C${round(last.x)} ${middle} ${round(point.x)} ${middle} ${round(point.x)} ${round(point.y)}`;
    last = point;
  }
  return text;
}

function round(value) {
  return Math.round(value * 10) / 10;
}

function boundsOf(places, routes) {
  if (places.size === 0) return [0, 0, 100, 100];
  const xs = [...places.values()].map((place) => place.x);
  const ys = [...places.values()].map((place) => place.y);
  for (const { points } of routes) for (const point of points) xs.push(point.x);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const side = BOX.width / 2 + 14;
  return [left - side, top - 28, right - left + 2 * side, bottom - top + 56];
}
