// The label graph around the labels found, as SVG: edges point to the label that gathers.

const SVG = "http://www.w3.org/2000/svg";
const STEPS = 300;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

// Springs along edges, repulsion between all labels, and a pull to the middle (Fruchterman and
// Reingold, 1991), in a unit square.
function layout(count, edges) {
  const places = Array.from({ length: count }, (_, i) => {
    const [angle, radius] = [2.4 * i, 0.5 * Math.sqrt((i + 0.5) / count)]; // the same each time
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
  const ideal = 0.8 / Math.sqrt(Math.max(count, 1));
  for (let step = 0; step < STEPS; step++) {
    const moves = places.map(([x, y]) => [-2 * x, -2 * y]);
    const push = (i, j, force) => {
      const [dx, dy] = [places[i][0] - places[j][0], places[i][1] - places[j][1]];
      const distance = Math.max(1e-3, Math.hypot(dx, dy));
      const size = force(distance) / distance;
      moves[i][0] += dx * size;
      moves[i][1] += dy * size;
      moves[j][0] -= dx * size;
      moves[j][1] -= dy * size;
    };
    for (let i = 0; i < count; i++) for (let j = 0; j < i; j++) push(i, j, (d) => (ideal * ideal) / d);
    for (const [i, j] of edges) push(i, j, (d) => (-0.25 * d * d) / ideal);
    const most = 0.1 * (1 - step / STEPS);
    places.forEach((place, i) => {
      const length = Math.max(1e-6, Math.hypot(...moves[i]));
      const part = Math.min(length, most) / length;
      place[0] += moves[i][0] * part;
      place[1] += moves[i][1] * part;
    });
  }
  return places;
}

// Stretches a layout to the picture, then moves labels apart whose texts would cover each other.
function fitted(places, texts, width, height) {
  const spread = [[0, width, 75], [1, height, 24]].map(([axis, size, margin]) => {
    const values = places.map((place) => place[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => (high - low < 1e-6 ? size / 2
      : margin + ((size - 2 * margin) * (value - low)) / (high - low));
  });
  const placed = places.map(([x, y]) => [spread[0](x), spread[1](y)]);
  const half = texts.map((text) => 3.6 * text.length + 4);
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < placed.length; i++) {
      for (let j = 0; j < i; j++) {
        const dy = placed[i][1] - placed[j][1];
        const lacking = 25 - Math.abs(dy);
        if (lacking <= 0 || Math.abs(placed[i][0] - placed[j][0]) > half[i] + half[j]) continue;
        const shift = (dy < 0 ? -1 : 1) * lacking * 0.5;
        placed[i][1] += shift;
        placed[j][1] -= shift;
      }
    }
    for (const place of placed) place[1] = Math.min(height - 12, Math.max(24, place[1]));
  }
  return placed;
}

export function drawGraph(svg, graph, colourOf) {
  svg.replaceChildren();
  const [width, height] = [svg.clientWidth || 500, svg.clientHeight || 380];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const index = new Map(graph.labels.map((label, i) => [label.id, i]));
  const edges = graph.edges.map((edge) => [index.get(edge.from), index.get(edge.to), edge.weight]);
  const texts = graph.labels.map((label) =>
    (label.score === null ? label.name : `${label.name} ${label.score.toFixed(2)}`));
  const places = fitted(layout(graph.labels.length, edges), texts, width, height);
  const marker = element("marker", {
    id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto",
    markerUnits: "userSpaceOnUse",
  }, element("defs", {}, svg));
  element("path", { d: "M0 0L8 4L0 8z", fill: "#8b98a5" }, marker);
  const heaviest = Math.max(1e-9, ...edges.map((edge) => edge[2]));
  for (const [from, to, weight] of edges) {
    const [[x1, y1], [x2, y2]] = [places[from], places[to]];
    const length = Math.max(1, Math.hypot(x2 - x1, y2 - y1));
    const short = Math.min(0.45, 10 / length);
    const line = element("line", {
      x1: x1 + (x2 - x1) * short, y1: y1 + (y2 - y1) * short,
      x2: x2 - (x2 - x1) * short, y2: y2 - (y2 - y1) * short,
      "stroke-width": 0.6 + (2.4 * weight) / heaviest, "marker-end": "url(#arrow)",
    }, svg);
    element("title", {}, line).textContent =
      `${graph.labels[to].name} gathers ${weight} from ${graph.labels[from].name}`;
  }
  graph.labels.forEach((label, i) => {
    const [x, y] = places[i];
    const found = label.score !== null;
    element("circle", { cx: x, cy: y, r: found ? 7 : 4, fill: found ? colourOf(label.id) : "#a9b6c2" }, svg);
    const text = element("text", { x, y: y - 10, "text-anchor": "middle", class: found ? "strong" : "" }, svg);
    text.textContent = texts[i];
  });
}
