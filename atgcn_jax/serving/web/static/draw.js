// The pictures over time: the spectrogram, one row of scores a label, and the axis of seconds.

// Dark enough for white text.
const COLOURS = ["#0b5cad", "#b0440a", "#1f7a3d", "#8a2b8f", "#9b1c31", "#0e7480", "#6b5a00", "#4a4fb5"];

export const colour = (k) => COLOURS[k % COLOURS.length];

function sized(canvas) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

export function drawSpectrogram(canvas, spectrogram, seconds) {
  const { columns, bands } = spectrogram;
  const levels = Uint8Array.from(atob(spectrogram.data), (c) => c.charCodeAt(0));
  const image = new ImageData(columns, bands);
  for (let t = 0; t < columns; t++) {
    for (let f = 0; f < bands; f++) {
      const dark = levels[t * bands + f] / 255;
      const at = 4 * ((bands - 1 - f) * columns + t);
      image.data[at] = 255 - 235 * dark;
      image.data[at + 1] = 255 - 220 * dark;
      image.data[at + 2] = 255 - 190 * dark;
      image.data[at + 3] = 255;
    }
  }
  const whole = document.createElement("canvas");
  whole.width = columns;
  whole.height = bands;
  whole.getContext("2d").putImageData(image, 0, 0);
  const context = sized(canvas);
  const width = (canvas.clientWidth * columns * spectrogram.seconds_per_column) / seconds;
  context.imageSmoothingEnabled = columns > canvas.clientWidth;
  context.drawImage(whole, 0, 0, width, canvas.clientHeight);
}

export function drawFrequencies(gutter, hz) {
  gutter.replaceChildren();
  for (const part of [0.03, 0.25, 0.5, 0.75, 0.97]) {
    const label = document.createElement("span");
    const value = hz[Math.round(part * (hz.length - 1))];
    label.textContent = value < 1000 ? `${value} Hz` : `${(value / 1000).toFixed(1)} kHz`;
    label.style.top = `${100 * (1 - part)}%`;
    gutter.append(label);
  }
}

export function drawRow(canvas, timeline, scores, tint, seconds) {
  const context = sized(canvas);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.fillStyle = tint;
  const edge = (time) => Math.round((width * time) / seconds); // whole pixels leave no seams
  scores.forEach((score, i) => {
    const x = edge(timeline.start_s[i]);
    context.globalAlpha = Math.min(1, score);
    context.fillRect(x, 0, Math.max(1, edge(timeline.end_s[i]) - x), height);
  });
}

export function drawSeconds(canvas, seconds) {
  const context = sized(canvas);
  const width = canvas.clientWidth;
  const least = (70 * seconds) / width;
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find((s) => s >= least) || 7200;
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = context.strokeStyle = "#54616f";
  for (let k = 0; k * step <= seconds; k++) {
    const x = Math.min(width - 0.5, Math.round((width * k * step) / seconds) + 0.5);
    context.beginPath();
    context.moveTo(x, 2);
    context.lineTo(x, 8);
    context.stroke();
    const text = clock(k * step, step < 1 ? 2 : 0);
    const half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(width - 2 * half, Math.max(0, x - half)), 21);
  }
}

export function clock(seconds, digits = 1) {
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  const rest = (seconds % 60).toFixed(digits);
  return `${Math.floor(seconds / 60)}:${rest.padStart(digits ? digits + 3 : 2, "0")}`;
}

// Places detections in lanes, so that those that sound together do not cover each other.
export function drawSpans(box, detections, seconds, colourOf, lanes = 7) {
  box.replaceChildren();
  const ends = new Array(lanes).fill(-1);
  for (const one of [...detections].sort((a, b) => a.start_s - b.start_s || b.score - a.score)) {
    const lane = ends.findIndex((end) => end <= one.start_s + 1e-9);
    if (lane < 0) continue; // the rows show it
    ends[lane] = one.end_s;
    const span = document.createElement("div");
    span.className = "span";
    span.textContent = one.name;
    span.style.left = `${(100 * one.start_s) / seconds}%`;
    span.style.width = `${(100 * (one.end_s - one.start_s)) / seconds}%`;
    span.style.top = `${4 + 18 * lane}px`;
    span.style.background = colourOf(one.id);
    box.append(span);
  }
}
