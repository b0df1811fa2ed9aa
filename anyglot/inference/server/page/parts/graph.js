// A graph as SVG; a molecule (one with SMILES) as chemists draw it, carbon as bare corners.

import { h, svg } from "../dom.js";
import { frame, saveText } from "./frame.js";

const BOND = 42; // length of the usual edge in the drawing's units
const GAP = 6; // between the lines of a double bond
const LETTER = 5.5; // half of a letter's width
const MARGIN = 26;

/** @param {{smiles?: string, nodes?: {label, x, y}[], edges?: {from, to, order}[]}} graph y grows upwards. */
export function graphView({ smiles, nodes, edges }) {
  const save = smiles ? saveText(`${smiles}\n`, "chemical/x-daylight-smiles", "molecule.smi") : undefined;
  const name = smiles ? "Molecule" : undefined;
  const formula = smiles ? h("code.smiles", {}, smiles) : null;
  if (!nodes?.length) return frame("graph", h("div.drawn", {}, formula), { name, save });
  const drawing = draw(placed(nodes, edges ?? []), edges ?? [], Boolean(smiles));
  const note = `${count(nodes, smiles ? "atom" : "node")}, ${count(edges ?? [], smiles ? "bond" : "edge")}`;
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", `${smiles ?? "Graph"}: ${note}`);
  return frame("graph", h("div.drawn", {}, drawing, formula), { name, note, save });
}

const count = (list, name) => `${list.length} ${name}${list.length === 1 ? "" : "s"}`;

/** Nodes in the drawing's units, y downwards, with their neighbours' places. */
function placed(nodes, edges) {
  const lengths = edges.map(({ from, to }) => Math.hypot(nodes[from].x - nodes[to].x, nodes[from].y - nodes[to].y));
  const usual = lengths.sort((a, b) => a - b)[lengths.length >> 1] || 1;
  const scale = BOND / usual;
  const points = nodes.map(({ label, x, y }) => ({ label, x: x * scale, y: -y * scale, near: [] }));
  for (const { from, to } of edges) {
    points[from].near.push(points[to]);
    points[to].near.push(points[from]);
  }
  return points;
}

function draw(points, edges, molecule) {
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const [left, top] = [Math.min(...xs) - MARGIN, Math.min(...ys) - MARGIN];
  const [width, height] = [Math.max(...xs) + MARGIN - left, Math.max(...ys) + MARGIN - top];
  const viewBox = [left, top, width, height].join(" ");
  const drawing = svg("svg", { viewBox, class: molecule ? "molecule" : "network" });
  drawing.style.maxWidth = `${Math.max(150, width * 1.15)}px`;
  for (const { from, to, order } of edges) drawing.append(edge(points[from], points[to], order ?? 1));
  for (const point of points) drawing.append(molecule ? atom(point) : node(point));
  return drawing;
}

/** One, two or three lines; of an aromatic bond (1.5) the second is dashed. */
function edge(a, b, order) {
  const group = svg("g", { class: "edge", "data-order": order });
  const line = (shift, inset, dashed) => {
    const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
    const [x, y] = [(b.x - a.x) / length, (b.y - a.y) / length];
    const [x1, y1] = [a.x + x * inset - y * shift, a.y + y * inset + x * shift];
    const [x2, y2] = [b.x - x * inset - y * shift, b.y - y * inset + x * shift];
    group.append(svg("line", { x1, y1, x2, y2, class: dashed ? "dashed" : "plain" }));
  };
  const side = sideOf(a, b);
  if (order === 2 && !side) {
    line(GAP / 2, 0);
    line(-GAP / 2, 0);
  } else {
    line(0, 0);
    if (order === 1.5 || order === 2) line(side * GAP || GAP, BOND / 7, order === 1.5);
    if (order === 3) [GAP, -GAP].forEach((shift) => line(shift, BOND / 7));
  }
  return group;
}

/** On which side of a bond its neighbours are, where a ring's second line belongs: 1, -1, or 0 for neither. */
function sideOf(a, b) {
  const turn = (point) => Math.sign((b.x - a.x) * (point.y - a.y) - (b.y - a.y) * (point.x - a.x));
  const others = [...a.near, ...b.near].filter((point) => point !== a && point !== b);
  return Math.sign(others.reduce((sum, point) => sum + turn(point), 0));
}

/** The element's letter stands on the corner; its hydrogens go to the side where no bond is: OH, but HO. */
function atom({ label, x, y, near }) {
  const group = svg("g", { class: "node" }, svg("title", {}, label));
  if (label === "C" && near.length) return group;
  const [, element = "", hydrogens = "", charge] = label.match(/^([A-Z][a-z]?)?(H[0-9₀-₉]*)?(.*)$/s);
  const left = near.reduce((sum, point) => sum + point.x - x, 0) > BOND / 4;
  const [words, anchor, shift] = left
    ? [hydrogens + element + charge, "end", LETTER]
    : [element + hydrogens + charge, "start", -LETTER];
  group.append(svg("circle", { cx: x, cy: y, r: 2 * LETTER, class: "behind" }));
  group.append(svg("text", { x: x + shift, y, "text-anchor": anchor, class: `atom ${element}` }, words));
  return group;
}

function node({ label, x, y }) {
  const group = svg("g", { class: "node" }, svg("title", {}, label), svg("circle", { cx: x, cy: y, r: 13 }));
  group.append(svg("text", label.length <= 2 ? { x, y } : { x, y: y + 24, class: "below" }, label));
  return group;
}
