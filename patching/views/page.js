// What all pages share: making elements, reading data, the hover card, themes, downloads.
// Text from data goes into the page through text nodes only; no string is ever read as markup.

const SVG = "http://www.w3.org/2000/svg"; // a name, not an address: nothing is fetched

function find(id) {
  return document.getElementById(id);
}

function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") element.style.cssText = value; // the page's policy forbids the attribute
    else element.setAttribute(name, value);
  }
  element.append(...children.map(asNode));
  return element;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

function readData() {
  return JSON.parse(find("data").textContent);
}

// Whether the page stands in another one, as in a notebook.
function isFramed() {
  return window.top !== window.self;
}

// Numbers that travelled as base64 of little-endian bytes; null stays null.
function unpack(text, Kind) {
  if (text === null || text === undefined) return null;
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
  return new Kind(bytes.buffer);
}

// Words for numbers.

// Not by the locale's rules, which a browser takes some milliseconds to read at first.
function whole(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
}

function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  return text.replace("-", "\u2212");
}

function percent(share, places = 1) {
  return `${(100 * share).toFixed(places).replace("-", "\u2212")} %`;
}

// A token with its white space made visible.
function visible(token) {
  const shown = token.replace(/ /g, "\u00b7").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");
  return shown === "" ? "\u2205" : shown;
}

// The hover card: a heading and rows of [name, value] or single lines.

function showCard(heading, rows, event) {
  const card = find("card");
  const lines = rows.map((row) =>
    Array.isArray(row)
      ? make("tr", {}, make("td", {}, row[0]), make("td", { class: "number" }, row[1]))
      : make("tr", {}, make("td", { colspan: 2 }, row)),
  );
  card.replaceChildren(make("strong", {}, heading), make("table", {}, ...lines));
  card.hidden = false;
  putCard(card, event);
}

function putCard(card, event) {
  const box = card.getBoundingClientRect();
  const place = event.clientX === undefined ? besides(event.target) : [event.clientX, event.clientY];
  const left = Math.min(place[0] + 14, window.innerWidth - box.width - 6);
  const below = place[1] + 16;
  const top = below + box.height > window.innerHeight - 4 ? place[1] - box.height - 10 : below;
  card.style.left = `${Math.max(4, left)}px`;
  card.style.top = `${Math.max(4, top)}px`;
}

function besides(element) {
  const box = element.getBoundingClientRect();
  return [box.right, box.top];
}

function hideCard() {
  find("card").hidden = true;
}

// Light and dark: as the system says, until the button is pressed.

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

function followTheme(button, onChange = () => {}) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  const apply = (name) => {
    setTheme(name);
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `switch to ${name === "dark" ? "light" : "dark"} colours`);
    onChange();
  };
  dark.addEventListener("change", () => chosen || apply(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    chosen = true;
    apply(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  });
  apply(dark.matches ? "dark" : "light");
}

// A drawing as a file of its own: every style that the page gives it is written into it.

const STYLES = [
  "fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity", "stroke-opacity",
  "font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline", "visibility", "paint-order",
];

function standalone(drawing) {
  const copy = drawing.cloneNode(true);
  const originals = [drawing, ...drawing.querySelectorAll("*")];
  const copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((original, i) => {
    const style = window.getComputedStyle(original);
    for (const name of STYLES) {
      const value = style.getPropertyValue(name);
      if (value) copies[i].setAttribute(name, value);
    }
    for (const name of ["class", "tabindex", "role", "style"]) copies[i].removeAttribute(name);
  });
  for (const unseen of copy.querySelectorAll("[hidden]")) unseen.remove();
  return copy;
}

function backdrop(copy) {
  const [x, y, width, height] = copy.getAttribute("viewBox").split(" ");
  const paper = window.getComputedStyle(document.body).backgroundColor;
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.prepend(shape("rect", { x, y, width, height, fill: paper }));
  return copy;
}

function download(drawing, name) {
  offer(new XMLSerializer().serializeToString(backdrop(standalone(drawing))), "image/svg+xml", name);
}

// A text as a file for the user to keep.
function offer(text, type, name) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// Any value that JSON can hold, as nested lists of names and values.
function describe(value) {
  if (value === null || typeof value !== "object") return asNode(value === null ? "none" : value);
  if (Array.isArray(value) && value.every((part) => part === null || typeof part !== "object"))
    return asNode(value.join(", "));
  const list = make("dl");
  for (const [name, part] of Object.entries(value))
    list.append(make("dt", {}, name), make("dd", {}, describe(part)));
  return list;
}
