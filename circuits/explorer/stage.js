// The stage: which part of a drawing is seen, as [x, y, width, height]; zoom and drag change it. A drawing
// has its `svg`, its `box` (all of it) and its `view`; `onLook` is called when the view has changed. What is
// wider than the window is first seen in the middle, or with `toRight` at its right end.

const READABLE = 0.78; // names of 12 pixels become 9.4

// The whole drawing, above the legend; or, where names would be too small to read, its upper part.
function fit(drawing, least = 0) {
  const [x, y, width, height] = drawing.box;
  const room = drawing.svg.getBoundingClientRect();
  const legend = find("legend").offsetHeight + 8;
  const whole = Math.min(1.35, room.width / width, (room.height - legend) / height);
  if (!(whole > 0)) return;
  const scale = Math.max(whole, least);
  const seen = [room.width / scale, room.height / scale];
  drawing.fitted = true;
  drawing.least = least;
  const above = seen[1] - legend / scale;
  const left = drawing.toRight && width > seen[0] ? x + width - seen[0] : x + (width - seen[0]) / 2;
  look(drawing, [left, height > above ? y : y + (height - above) / 2, ...seen]);
  find("rest").hidden = scale === whole;
}

function look(drawing, view) {
  const words = view.map(round).join(" ");
  drawing.view = view;
  if (drawing.svg.getAttribute("viewBox") === words) return;
  drawing.svg.setAttribute("viewBox", words);
  drawing.onLook?.();
}

// Zoom around a point given as shares of the view.
function zoom(drawing, factor, at = [0.5, 0.5]) {
  const [x, y, width, height] = drawing.view;
  drawing.fitted = false;
  look(drawing, [x + at[0] * width * (1 - 1 / factor), y + at[1] * height * (1 - 1 / factor), width / factor, height / factor]);
}

function centre(drawing, index) {
  const box = drawing.nodes.get(index);
  if (drawing.fitted || !box) return;
  const [x, y] = box.getAttribute("transform").match(/-?[\d.]+/g).map(Number);
  const [, , width, height] = drawing.view;
  look(drawing, [x - width / 2, y - height / 2, width, height]);
}

function letDrag(drawing) {
  const { svg } = drawing;
  let last = null;
  svg.addEventListener("pointerdown", (event) => (last = event.target === svg ? event : null));
  window.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const [x, y, width, height] = drawing.view;
    const scale = width / svg.getBoundingClientRect().width;
    drawing.fitted = false;
    svg.classList.add("dragged");
    look(drawing, [x - (event.clientX - last.clientX) * scale, y - (event.clientY - last.clientY) * scale, width, height]);
    last = event;
  });
  window.addEventListener("pointerup", () => {
    last = null;
    svg.classList.remove("dragged");
  });
  svg.addEventListener("wheel", (event) => wheel(drawing, event), { passive: false });
}

function wheel(drawing, event) {
  if (isFramed() && !event.ctrlKey && !event.metaKey) return; // the page around a frame must scroll
  event.preventDefault();
  const room = drawing.svg.getBoundingClientRect();
  const at = [(event.clientX - room.left) / room.width, (event.clientY - room.top) / room.height];
  zoom(drawing, Math.exp(-event.deltaY / 300), at);
}
