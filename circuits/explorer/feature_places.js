// Where nodes of a graph of features stand: a column for every token, a row for every layer. Nodes that
// share both stand side by side, the most influential first, so that they stay while others come.

const CELL = { wide: [92, 17], tight: [19, 15], few: 120, high: 5, gap: 26, row: 40, widest: 130, empty: 9 };

// So many nodes as have a drawing of their own: it changes at these sizes only.
function bucketOf(data, size) {
  let most = 40;
  while (most < size) most *= 2;
  return Math.min(most, data.order.length);
}

// Places of the best nodes, and of all tokens and logits; rows are spread to fill a window of this shape,
// its height over its width.
function placeNodes(data, bucket, shape) {
  const shown = [...data.order.slice(0, bucket), ...data.nodes.filter((node) => !node.inner).map((node) => node.index)];
  const few = shown.length <= CELL.few;
  const cells = new Map();
  for (const index of shown) {
    const { layer, position } = data.nodes[index];
    const key = `${layer} ${position}`;
    cells.set(key, [...(cells.get(key) ?? []), index]);
  }
  const pitch = few ? CELL.wide : CELL.tight;
  const grids = new Map([...cells].map(([key, members]) => [key, gridOf(members.length, few)]));
  const columns = columnsOf(data, grids, pitch[0]);
  const rows = rowsOfLayers(data, grids, pitch[1], shape * (columns.at(-1).left + columns.at(-1).width));
  const places = new Map();
  for (const [key, members] of cells) {
    const [layer, position] = key.split(" ").map(Number);
    const { wide, high } = grids.get(key);
    const [column, row] = [columns[position], rows.get(layer)];
    members.forEach((index, i) => {
      const [across, up] = few ? [Math.floor(i / high), i % high] : [i % wide, Math.floor(i / wide)];
      const left = few ? column.left + 10 : column.middle - ((wide - 1) * pitch[0]) / 2;
      places.set(index, { x: left + across * pitch[0], y: row.bottom - (up + 0.5) * pitch[1] });
    });
  }
  return { places, columns, rows, few };
}

// A stack while there are few, so that names have room beside them; else about twice as wide as high.
function gridOf(n, few) {
  const wide = few ? Math.ceil(n / CELL.high) : Math.ceil(Math.sqrt(2 * n));
  return { wide, high: Math.ceil(n / wide) };
}

function columnsOf(data, grids, pitch) {
  let left = 0;
  return data.tokens.map((token, position) => {
    const own = [...grids].filter(([key]) => Number(key.split(" ")[1]) === position).map(([, grid]) => grid.wide * pitch);
    const width = Math.max(30, Math.min(90, 7 * visible(token).length + 6), ...own);
    const column = { left, width, middle: left + width / 2 };
    left += width + CELL.gap;
    return column;
  });
}

// Rows from the bottom up, with y downwards; layers that hold nothing are thin.
function rowsOfLayers(data, grids, pitch, room) {
  const rows = new Map();
  const tallest = new Map();
  for (const [key, { high }] of grids) {
    const layer = Number(key.split(" ")[0]);
    tallest.set(layer, Math.max(tallest.get(layer) ?? 0, high * pitch));
  }
  const used = [...tallest.values()].reduce((sum, height) => sum + height, 0);
  const gap = Math.min(CELL.widest, Math.max(CELL.row, (room - used - 80) / Math.max(1, tallest.size - 1)));
  let bottom = 0;
  for (let layer = -1; layer <= data.layers; layer += 1) {
    const height = tallest.get(layer) ?? 0;
    rows.set(layer, { bottom, height, middle: bottom - height / 2 });
    bottom -= height > 0 ? height + gap : CELL.empty;
  }
  return rows;
}

function boxOfPlaces({ places, columns, rows }) {
  const ys = [...places.values()].map((place) => place.y);
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const right = columns.at(-1).left + columns.at(-1).width;
  return [-52, top - 24, right + 52 + 130, bottom - top + 24 + 44];
}
