// The page: takes a sound, shows its result, and plays it with a moving cursor.

import { clock, colour, drawFrequencies, drawRow, drawSeconds, drawSpans, drawSpectrogram } from "./draw.js";
import { drawGraph } from "./graph.js";
import { startRecording } from "./record.js";
import * as server from "./server.js";

const LEAST_ROWS = 6;
const MOST_ROWS = 12;
const $ = (id) => document.getElementById(id);
const audio = $("audio");
let limits = null;
let result = null;
let chosen = false; // whether the user has moved the minimum score
let stopRecording = null;
let busy = false;

function say(text, isBusy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", isBusy);
}

function complain(error) {
  say("");
  $("error").textContent = error ? error.message : "";
}

const rules = () => ({
  min_score: chosen || !limits?.has_thresholds ? $("least").value : null,
  min_seconds: Number($("shortest").value) > 0 ? $("shortest").value : null,
});

async function take(blob, name) {
  if (busy) return;
  complain(null);
  if (limits && blob.size > limits.max_bytes) {
    complain(new Error(`${name} has ${megabytes(blob.size)}; this server accepts ${megabytes(limits.max_bytes)}.`));
    return;
  }
  busy = true;
  audio.pause();
  $("record").disabled = $("file").disabled = true;
  say(`Listening to ${name} …`, true);
  try {
    result = await server.analyse(blob, name, rules());
    if (audio.src) URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(blob);
    $("play").disabled = false;
    show();
    say("");
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
    $("record").disabled = $("file").disabled = false;
  }
}

const length = (seconds) =>
  (seconds >= 120 ? `${Math.floor(seconds / 60)} minutes` : `${seconds} seconds`);
const megabytes = (size) => `${(size / 1e6).toFixed(size < 1e7 ? 1 : 0)} MB`;

function show() {
  $("result").hidden = false;
  $("drop").classList.add("small");
  $("name").textContent = result.name;
  $("length").textContent = clock(result.seconds);
  $("track").setAttribute("aria-valuemax", result.seconds.toFixed(1));
  $("remarks").replaceChildren(...result.remarks.map((remark) => {
    const item = document.createElement("li");
    item.textContent = `${result.name}: ${remark}.`;
    return item;
  }));
  drawFrequencies($("frequencies"), result.spectrogram.hz);
  showDetections();
  moveCursor();
  $("result").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

// Labels found first, by score; then the next highest, so that there is always something to see.
function shownLabels() {
  const found = new Map();
  for (const one of result.detections) {
    found.set(one.id, Math.max(found.get(one.id) ?? 0, one.score));
  }
  const scored = result.timeline.labels;
  const first = scored.filter((label) => found.has(label.id)).slice(0, MOST_ROWS);
  const others = scored.filter((label) => !found.has(label.id));
  return { found, labels: [...first, ...others.slice(0, Math.max(0, LEAST_ROWS - first.length))] };
}

function showDetections() {
  const { found, labels } = shownLabels();
  const order = new Map([...found.keys(), ...labels.map((label) => label.id)].map((id) => [id, 0]));
  labels.forEach((label, i) => order.set(label.id, i));
  const colourOf = (id) => colour(order.get(id) ?? 0);
  const seconds = result.seconds;
  $("rows").replaceChildren();
  for (const label of labels) {
    const name = document.createElement("div");
    name.className = found.has(label.id) ? "label found" : "label";
    name.textContent = label.name;
    name.title = `${label.name}: highest score ${label.highest.toFixed(3)}`;
    const row = document.createElement("canvas");
    row.className = "row";
    row.setAttribute("role", "img");
    row.setAttribute("aria-label", `${label.name}: highest score ${label.highest.toFixed(2)}`);
    $("rows").append(name, row);
    drawRow(row, result.timeline, label.scores, colourOf(label.id), seconds);
  }
  drawSpectrogram($("spectrogram"), result.spectrogram, seconds);
  drawSeconds($("seconds"), seconds);
  drawSpans($("spans"), result.detections, seconds, colourOf);
  showTable(colourOf);
  showGraph(colourOf);
  for (const link of document.querySelectorAll("#downloads a")) {
    link.href = server.table(result.id, link.dataset.format, rules());
  }
}

function showTable(colourOf) {
  $("none").hidden = result.detections.length > 0;
  $("found").hidden = !result.detections.length;
  const rows = result.detections.map((one) => {
    const row = document.createElement("tr");
    const cell = (content, kind = "") => {
      const made = row.insertCell();
      made.className = kind;
      made.append(content);
      return made;
    };
    const from = document.createElement("button");
    from.type = "button";
    from.textContent = clock(one.start_s);
    from.setAttribute("aria-label", `Play ${one.name} from ${clock(one.start_s)}`);
    from.onclick = () => { seek(one.start_s); play(); };
    cell(from);
    cell(clock(one.end_s));
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colourOf(one.id);
    cell(swatch).append(one.name);
    cell(one.score.toFixed(3), "number");
    return row;
  });
  $("found").querySelector("tbody").replaceChildren(...rows);
}

function showGraph(colourOf) {
  const graph = result.graph;
  const isEmpty = !graph || !graph.labels.length;
  $("graph").toggleAttribute("hidden", isEmpty);
  $("graph").style.display = isEmpty ? "none" : "";
  if (!graph) {
    $("graph-text").textContent = "This network was trained without a label graph.";
  } else if (isEmpty) {
    $("graph-text").textContent = "The graph appears around the labels that are found.";
  } else {
    const names = graph.labels.filter((label) => label.score !== null).map((label) => label.name);
    $("graph-text").textContent =
      `${names.join(", ")} and their strongest neighbours. An arrow points to the label that gathers from the other.`;
    drawGraph($("graph"), graph, colourOf);
  }
}

let refresh = 0;
function changeRules() {
  clearTimeout(refresh);
  refresh = setTimeout(async () => {
    if (!result) return;
    try {
      const asked = result;
      Object.assign(asked, await server.detections(asked.id, rules()));
      if (asked === result) showDetections();
      complain(null);
    } catch (error) {
      complain(error);
    }
  }, 120);
}

function play() {
  audio.play().catch(() => {
    complain(new Error("The browser cannot play this format; the detections are not affected."));
  });
}

function seek(seconds) {
  audio.currentTime = Math.max(0, Math.min(result.seconds, seconds));
  moveCursor();
}

function moveCursor() {
  if (!result) return;
  const now = Math.min(audio.currentTime || 0, result.seconds);
  $("cursor").style.left = `${(100 * now) / result.seconds}%`;
  $("time").textContent = `${clock(now)} of ${clock(result.seconds)}`;
  $("track").setAttribute("aria-valuenow", now.toFixed(1));
  $("track").setAttribute("aria-valuetext", clock(now));
}

function everyFrame() {
  moveCursor();
  if (!audio.paused) requestAnimationFrame(everyFrame);
}

function toggle() {
  if (audio.paused) play();
  else audio.pause();
}

audio.addEventListener("play", () => { $("play").textContent = "Pause"; $("play").setAttribute("aria-pressed", "true"); everyFrame(); });
audio.addEventListener("pause", () => { $("play").textContent = "Play"; $("play").setAttribute("aria-pressed", "false"); moveCursor(); });
audio.addEventListener("timeupdate", moveCursor);
audio.addEventListener("error", () => {
  if (!audio.getAttribute("src")) return;
  $("play").disabled = true;
  say("The browser cannot play this format; the detections are not affected.");
});
$("play").onclick = toggle;
$("least").oninput = () => {
  chosen = true;
  $("least-value").textContent = Number($("least").value).toFixed(2);
  changeRules();
};
$("shortest").oninput = changeRules;
$("file").onchange = () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
  $("file").value = "";
};

const track = $("track");
const seekTo = (event) => {
  const box = track.getBoundingClientRect();
  seek((result.seconds * (event.clientX - box.left)) / box.width);
};
track.onpointerdown = (event) => { track.setPointerCapture(event.pointerId); seekTo(event); };
track.onpointermove = (event) => { if (event.buttons & 1) seekTo(event); };
track.onkeydown = (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
  if (step) seek(audio.currentTime + step);
  else if (event.key === "Home") seek(0);
  else if (event.key === "End") seek(result.seconds);
  else if (event.key === " ") toggle();
  else return;
  event.preventDefault();
};

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});

let recordingTimer = 0;
$("record").onclick = async () => {
  complain(null);
  try {
    if (!stopRecording) {
      $("record").disabled = true; // a second click would open the microphone again
      stopRecording = await startRecording().finally(() => { $("record").disabled = busy; });
      const start = performance.now();
      const tick = () => {
        const seconds = (performance.now() - start) / 1000;
        $("record").textContent = `Stop (${clock(seconds, 0)})`;
        if (limits && seconds >= limits.max_seconds - 1) $("record").click();
      };
      $("record").setAttribute("aria-pressed", "true");
      recordingTimer = setInterval(tick, 250);
      tick();
      return;
    }
    const stop = stopRecording;
    stopRecording = null;
    clearInterval(recordingTimer);
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    await take(await stop(), `recording ${time}.wav`);
  } catch (error) {
    stopRecording = null;
    complain(error);
  }
};

let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (result) showDetections(); }, 100);
});

try {
  limits = await server.model();
  $("model").textContent = `${limits.title}, ${limits.labels} labels`;
  $("limits").textContent =
    `wav, flac, mp3, ogg and other formats, up to ${megabytes(limits.max_bytes)} and ${length(limits.max_seconds)}. ` +
    `The sound goes to ${location.host} only. The network hears up to ${(limits.highest_hz / 1000).toFixed(1)} kHz.`;
  if (limits.has_thresholds) $("least-value").textContent = "as tuned";
} catch (error) {
  complain(error);
}
