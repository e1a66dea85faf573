// The page of `vidact serve`: what is sent (a camera or a file, frame by frame), what comes back, and how it is shown.
//
// Over the WebSocket, JSON both ways; vidact/stream/web/sessions.py lists the messages. A frame is a binary message: its
// capture time in seconds (float64, little endian), then the JPEG. The next one is sent when the last was taken.

const $ = (id) => document.getElementById(id);
const HUES = [212, 28, 150, 330, 48, 272, 182, 2, 96, 300];
const SPANS = [10, 20, 30, 60, 120, 300, 900];
const KEPT_NUMBERS = 4e6; // of scores, 16 MB: hours of a few classes, minutes of hundreds
const KEPT_EVENTS = 500;
const MANY = 10; // more classes than this are not all shown at once

const state = {
  hello: null, socket: null, retry: 0,
  running: false, // what the user wants; a lost connection comes back to it
  stream: 0, // number of the stream the server is answering; what is left of an older one is ignored
  began: 0, shift: 0, // a stream that goes on after a pause counts from 0 again: what is added to its seconds
  history: null, events: [], latest: null, before: null, lastTaken: 0,
  span: 30, end: null, // seconds at the timeline's right edge; null follows the newest
  cursor: null, hover: null, rows: [],
  sent: 0, skipped: 0, latencies: [],
};

// ---- numbers

class History {
  constructor(width) {
    this.width = width;
    this.times = [];
    this.scores = new Float32Array(width * 1024);
  }

  push(seconds, scores) {
    const n = this.times.length;
    if ((n + 1) * this.width > this.scores.length) {
      if (this.scores.length >= KEPT_NUMBERS) return this.forget(n >> 2), this.push(seconds, scores);
      const larger = new Float32Array(this.scores.length * 2);
      larger.set(this.scores);
      this.scores = larger;
    }
    this.scores.set(scores, n * this.width);
    this.times.push(seconds);
  }

  forget(count) {
    this.times.splice(0, count);
    this.scores.copyWithin(0, count * this.width);
  }

  // The last token that begins at or before `seconds`; -1 if there is none.
  index(seconds) {
    let low = 0, high = this.times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] <= seconds + 1e-6) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  // Take the last token back, if it begins at `seconds`.
  withdraw(seconds) { if (this.times.length && this.last === seconds) this.times.pop(); }

  row(index) { return this.scores.subarray(index * this.width, (index + 1) * this.width); }
  get first() { return this.times[0] ?? 0; }
  get last() { return this.times[this.times.length - 1] ?? 0; }
}

const token = () => 1 / state.hello.tokens_per_second;
const name = (index) => index ? state.hello.classes[index - 1] : "nothing";
const percent = (value) => `${Math.round(100 * value)} %`;
const median = (values) => values.length ? [...values].sort((a, b) => a - b)[values.length >> 1] : NaN;

function colour(index, light = "var(--light)") {
  if (!index) return "var(--quiet)";
  const hue = index <= HUES.length ? HUES[index - 1] : (index * 137.508) % 360;
  return `hsl(${hue} 72% ${light})`;
}

function clock(seconds, digits = 0) {
  const s = Math.max(0, seconds), whole = 10 ** digits;
  const rounded = Math.round(s * whole) / whole;
  const minutes = Math.floor(rounded / 60), rest = (rounded - 60 * minutes).toFixed(digits);
  return `${minutes}:${rest.padStart(digits ? digits + 3 : 2, "0")}`;
}

// ---- the connection

async function connect() {
  show("connecting", "");
  let server;
  try {
    server = await (await fetch("state", { cache: "no-store" })).json();
  } catch {
    return again("the server does not answer");
  }
  $("login").hidden = server.authorised;
  $("main").hidden = $("controls").hidden = !server.authorised;
  if (!server.authorised) {
    show("token needed", "bad");
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      history.replaceState(null, "", location.pathname); // what is behind # is never sent, nor kept in the address
      return login(given);
    }
    $("token").focus();
    return;
  }
  const address = new URL("live", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const socket = state.socket = new WebSocket(address, ["vidact"]);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (message) => {
    if (typeof message.data === "string") receive(JSON.parse(message.data));
    else paint(message.data);
  };
  socket.onclose = (event) => {
    if (state.socket !== socket) return;
    state.socket = null;
    camera.pause();
    again(event.reason || "the connection was lost", event.code === 1008);
  };
}

function again(why, final = false) {
  show("not connected", "bad");
  closeOpenEvents();
  if (final) {
    stop();
    return notice(`${why}. Reload the page to try again.`);
  }
  const wait = Math.min(15, 2 ** state.retry++);
  notice(`${why}; trying again in ${wait} s.`);
  setTimeout(connect, 1000 * wait);
}

async function login(given) {
  const answer = await fetch("login", { method: "POST", body: given, headers: { "Content-Type": "text/plain" } });
  if (answer.ok) return notice(""), connect();
  notice(answer.status === 429 ? "Too many wrong tokens; wait a minute." : "That is not the token of this server.");
  $("token").value = "";
  $("token").focus();
}

function send(message) {
  if (state.socket?.readyState === WebSocket.OPEN) state.socket.send(message instanceof Object && !(message instanceof Blob) ? JSON.stringify(message) : message);
}

function receive(message) {
  if (message.type === "hello") greet(message);
  else if (message.type === "started") started(message);
  else if (message.type === "taken") camera.taken();
  else if (message.type === "answer") answer(message);
  else if (message.type === "note") notice(message.why);
  else if (message.type === "ended") {
    if (message.stream !== state.stream) return;
    closeOpenEvents();
    notice(message.why, !message.failed);
    stop();
  }
}

function greet(hello) {
  const known = state.hello && JSON.stringify(state.hello.classes) === JSON.stringify(hello.classes);
  state.hello = hello;
  state.retry = 0;
  notice("");
  show("connected", "good");
  $("model").textContent = hello.model;
  if (!known) makeBars();
  const chosen = $("source").value;
  const options = hello.sources.map((source, index) => new Option(source.name, String(index)));
  const mine = new Option("This browser's camera", "camera");
  if (!navigator.mediaDevices?.getUserMedia) {
    mine.disabled = true;
    mine.textContent += window.isSecureContext ? " (none here)" : " (needs HTTPS)";
    if (!window.isSecureContext) notice("Browsers give a page its camera only over HTTPS or on localhost. Open this page as http://localhost, or start the server with --certfile and --keyfile.");
  }
  $("source").replaceChildren(mine, new Option("A video file of mine …", "file"), ...options);
  $("source").value = [...$("source").options].some((o) => o.value === chosen && !o.disabled) ? chosen : mine.disabled ? (options.length ? "0" : "file") : "camera";
  $("source").disabled = $("start").disabled = false;
  if (state.running) begin(!known);
}

// ---- starting and stopping

// With `isNew` the timeline starts empty; otherwise it goes on, with a gap.
function begin(isNew) {
  if (isNew || state.history?.width !== state.hello.classes.length + 1) {
    state.history = new History(state.hello.classes.length + 1);
    Object.assign(state, { events: [], end: null, cursor: null, hover: null, rows: [], sent: 0, skipped: 0, began: performance.now(), shift: 0 });
    $("events").replaceChildren();
    listed();
  } else {
    closeOpenEvents();
    state.shift = Math.max(state.history.last + token(), (performance.now() - state.began) / 1000);
  }
  Object.assign(state, { latest: null, before: null, latencies: [] });
  meter.reset();
  camera.pause(); // until the server has begun: what is captured now has the clock of the stream before
  const source = $("source").value;
  send({ type: "start", source: /^\d+$/.test(source) ? Number(source) : "browser" });
}

async function start() {
  notice("");
  const source = $("source").value, own = source === "camera" || source === "file";
  state.running = true;
  $("start").textContent = "Stop";
  $("empty").textContent = source === "camera" ? "Waiting for the camera …" : "Opening …";
  $("empty").hidden = false;
  if (own) {
    try {
      await camera.open(source);
    } catch (error) {
      stop();
      if (error) notice(error);
      return;
    }
  }
  begin(true);
}

function stop() {
  state.running = false;
  send({ type: "stop" });
  camera.close();
  closeOpenEvents();
  $("start").textContent = "Start";
  $("picture").hidden = $("clock").hidden = true;
  $("now").replaceChildren();
  $("empty").textContent = "Choose a source and press Start.";
  $("empty").hidden = false;
  dirty();
}

function started(message) {
  state.stream = message.stream;
  camera.begin();
  now.idle("warming up …");
}

// ---- the camera, or a file, of this browser

const camera = {
  video: $("video"), canvas: document.createElement("canvas"), media: null, facing: "user", kind: null,
  waiting: false, due: 0, origin: 0, newest: 0, ready: false, url: null, loop: 0,

  async open(kind) {
    this.close();
    this.kind = kind;
    if (kind === "file") {
      const file = await choose();
      if (!file) throw "";
      this.url = URL.createObjectURL(file);
      this.video.src = this.url;
    } else {
      try {
        this.media = await navigator.mediaDevices.getUserMedia({ audio: false, video: { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 }, facingMode: this.facing } });
      } catch (error) {
        throw error.name === "NotAllowedError" ? "The camera was refused. Allow it beside the address of this page, then press Start."
          : error.name === "NotFoundError" ? "No camera was found."
          : `The camera does not start (${error.message}).`;
      }
      this.video.srcObject = this.media;
      this.media.getVideoTracks()[0].onended = () => { if (state.running) { stop(); notice("The camera was taken away."); } };
      const devices = await navigator.mediaDevices.enumerateDevices();
      $("flip").hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
    }
    this.video.onended = () => { if (this.kind === "file" && state.running) send({ type: "end" }); };
    try {
      await this.video.play();
    } catch {
      throw kind === "file" ? "This browser cannot play that file." : "The camera gives no picture.";
    }
    this.video.hidden = false;
    $("empty").hidden = true;
  },

  begin() {
    if (!this.kind) return;
    this.ready = true;
    this.waiting = false;
    this.newest = 0;
    this.origin = this.due = performance.now();
    if (this.kind === "file") this.video.currentTime = 0;
    this.next(++this.loop);
  },

  next(loop) {
    const onFrame = (at, frame) => { if (loop === this.loop && this.ready) { this.frame(at, frame); this.next(loop); } };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(onFrame);
    else setTimeout(() => onFrame(performance.now(), null), 500 / state.hello.frames_per_second);
  },

  frame(at, frame) {
    const period = 1000 / state.hello.frames_per_second;
    if (at < this.due - period / 4) return;
    this.due = Math.max(this.due + period, at - period);
    if (this.waiting || state.socket?.readyState !== WebSocket.OPEN) { state.skipped++; return; }
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return;
    const captured = frame?.captureTime > at - 1000 && frame.captureTime <= at ? frame.captureTime : at;
    const seconds = this.newest = Math.max(this.newest, this.kind === "file" ? this.video.currentTime : (captured - this.origin) / 1000);
    const scale = Math.min(1, state.hello.side / Math.min(width, height));
    const wide = Math.round(width * scale), high = Math.round(height * scale);
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      const turned = this.canvas.width && state.sent > 0;
      Object.assign(this.canvas, { width: wide, height: high });
      if (turned) return begin(false); // a phone that was turned: another picture, another stream
    }
    const context = this.canvas.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(this.video, 0, 0, wide, high);
    this.waiting = true;
    const loop = this.loop;
    this.canvas.toBlob((jpeg) => {
      if (loop !== this.loop) return;
      if (!jpeg) { this.waiting = false; return; }
      const time = new DataView(new ArrayBuffer(8));
      time.setFloat64(0, seconds, true);
      send(new Blob([time.buffer, jpeg]));
      state.sent++;
      meter.sent();
    }, "image/jpeg", 0.85);
  },

  taken() { this.waiting = false; },

  pause() {
    this.ready = this.waiting = false;
    this.loop++;
  },

  // When the newest frame behind an answer was captured, on this page's clock.
  sinceCapture(seconds) { return performance.now() - this.origin - 1000 * seconds; },

  close() {
    this.pause();
    this.media?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
    this.media = this.kind = null;
    this.video.onended = null;
    this.video.pause();
    this.video.srcObject = null;
    if (this.url) { this.video.removeAttribute("src"); this.video.load(); URL.revokeObjectURL(this.url); this.url = null; }
    this.video.hidden = true;
    $("flip").hidden = true;
  },
};

function choose() {
  const input = $("file");
  return new Promise((resolve) => {
    input.value = "";
    input.onchange = () => resolve(input.files[0]);
    input.oncancel = () => resolve(null);
    input.click();
  });
}

// ---- pictures of a source that the server reads

let painting = false;
async function paint(data) {
  send({ type: "shown" });
  if (painting || !state.running) return;
  painting = true;
  try {
    const image = await createImageBitmap(new Blob([new Uint8Array(data, 8)], { type: "image/jpeg" }));
    const canvas = $("picture");
    if (canvas.width !== image.width || canvas.height !== image.height) Object.assign(canvas, { width: image.width, height: image.height });
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.close();
    if (state.running) { canvas.hidden = false; $("empty").hidden = true; }
    meter.sent();
  } finally {
    painting = false;
  }
}

// ---- answers

function answer(message) {
  if (message.stream !== state.stream || !state.history) return;
  message.seconds += state.shift;
  for (const event of [...message.opened, ...message.closed]) { event.start_s += state.shift; event.end_s += state.shift; }
  if (message.withdrawn) state.history.withdraw(message.seconds); // its token never became full
  else if (!state.history.times.length || message.seconds > state.history.last) state.history.push(message.seconds, message.scores);
  if (!message.repeat) state.before = state.latest;
  state.latest = message.withdrawn ? state.before : message;
  if (!message.repeat) {
    meter.answered();
    const latency = camera.kind === "camera" && message.captured !== null ? camera.sinceCapture(message.captured) : message.latency_ms;
    state.latencies.push(latency);
    if (state.latencies.length > 20) state.latencies.shift();
  }
  for (const event of message.opened) add(event, true);
  for (const event of message.closed) {
    const found = state.events.find((one) => one.open && one.label === event.label && Math.abs(one.start_s - event.start_s) < 1e-3);
    if (found) Object.assign(found, event, { open: false }), list(found);
    else add(event, false);
  }
  dirty();
}

function add(event, open) {
  const known = { ...event, open, index: state.hello.classes.indexOf(event.label) + 1 };
  state.events.push(known);
  if (state.events.length > KEPT_EVENTS) state.events.shift().item?.remove();
  list(known);
  $("said").textContent = `${event.label}, at ${clock(event.start_s)}`;
}

function closeOpenEvents() {
  for (const event of state.events) if (event.open) { event.open = false; list(event); }
  dirty();
}

// ---- the list of events

function list(event) {
  if (!event.item) {
    event.item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    for (const [tag, kind] of [["canvas", "thumb"], ["span", "name"], ["span", "sure"], ["span", "when"], ["span", "state"]]) {
      const part = document.createElement(tag);
      part.className = kind;
      button.append(part);
    }
    button.style.setProperty("--colour", colour(event.index));
    button.onclick = () => look(event.start_s);
    event.item.append(button);
    thumbnail(event.item.querySelector("canvas"));
    $("events").prepend(event.item);
  }
  const [, label, sure, when, now] = event.item.firstChild.children;
  label.textContent = event.label;
  sure.textContent = percent(event.score);
  when.textContent = event.open ? `from ${clock(event.start_s, 1)}` : `${clock(event.start_s, 1)} – ${clock(event.end_s, 1)}`;
  now.textContent = event.open ? "now" : `${(event.end_s - event.start_s).toFixed(1)} s`;
  now.classList.toggle("open", event.open);
  listed();
}

function listed() {
  $("count").textContent = state.events.length ? `(${state.events.length})` : "";
  $("none").hidden = state.events.length > 0;
  $("events").hidden = !state.events.length;
  $("save").disabled = !state.events.length;
}

function thumbnail(canvas) {
  const from = camera.kind ? camera.video : $("picture");
  const width = from.videoWidth ?? from.width, height = from.videoHeight ?? from.height;
  Object.assign(canvas, { width: 128, height: 80, ariaHidden: "true" });
  if (!width || !height) return;
  const scale = Math.max(128 / width, 80 / height), context = canvas.getContext("2d");
  context.drawImage(from, 64 - scale * width / 2, 40 - scale * height / 2, scale * width, scale * height);
}

function save() {
  const quote = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const lines = state.events.map((e) => [quote(e.label), e.start_s.toFixed(3), e.open ? "" : e.end_s.toFixed(3), e.score.toFixed(4)].join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["label,start_s,end_s,score", ...lines, ""].join("\r\n")], { type: "text/csv" }));
  link.download = "events.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- what is shown now

const now = {
  key: "",
  idle(text) {
    this.key = "";
    const item = document.createElement("li");
    item.className = "idle";
    item.textContent = text;
    $("now").replaceChildren(item);
  },
  draw() {
    if (!state.running || !state.latest) return;
    const open = state.events.filter((event) => event.open);
    const key = open.map((event) => event.label).join("\n") || "-";
    if (key !== this.key) {
      this.idle("nothing recognised");
      if (open.length) {
        $("now").replaceChildren(...open.map((event) => {
          const item = document.createElement("li");
          item.style.setProperty("--colour", colour(event.index, "62%"));
          item.append(event.label, document.createElement("span"));
          return item;
        }));
      }
      this.key = key;
    }
    open.forEach((event, place) => { $("now").children[place].lastChild.textContent = percent(state.latest.scores[event.index]); });
  },
};

function makeBars() {
  const count = state.hello.classes.length;
  const shown = count <= MANY ? count : 8;
  $("bars").replaceChildren(...Array.from({ length: shown + 1 }, () => {
    const item = document.createElement("li");
    item.innerHTML = '<span class="name"></span><span class="value"></span><span class="track"><span class="fill"></span></span>';
    item.querySelector(".track").ariaHidden = "true";
    item.querySelector(".fill").style.display = "block";
    return item;
  }));
  state.order = Array.from({ length: shown }, (_, place) => place + 1);
}

function drawBars() {
  const { history: past } = state;
  const at = state.hover ?? state.cursor ?? state.end;
  const index = past ? (at === null ? past.times.length - 1 : past.index(at)) : -1;
  const scores = index >= 0 ? past.row(index) : null;
  $("scores-title").textContent = scores && at !== null ? `Scores at ${clock(past.times[index], 1)}` : "Scores now";
  const count = state.hello.classes.length;
  if (scores && count > MANY) {
    const best = Array.from({ length: count }, (_, k) => k + 1).sort((a, b) => scores[b] - scores[a]);
    state.order = best.slice(0, $("bars").children.length - 1);
  }
  [...state.order, 0].forEach((k, place) => {
    const item = $("bars").children[place], [label, value, track] = item.children;
    label.textContent = name(k);
    label.title = name(k);
    value.textContent = scores ? percent(scores[k]) : "";
    item.classList.toggle("rest", !k);
    item.classList.toggle("on", state.events.some((e) => e.index === k && (at === null ? e.open : e.start_s <= at && (e.open || at < e.end_s))));
    track.firstChild.style.setProperty("--colour", colour(k));
    track.firstChild.style.transform = `scaleX(${scores ? scores[k] : 0})`;
  });
}

function drawFuture() {
  const ahead = state.hello.future_seconds, future = state.latest?.future;
  $("future").hidden = !ahead?.length;
  if (!ahead?.length) return;
  const strip = $("ahead");
  if (strip.children.length !== ahead.length) strip.replaceChildren(...ahead.map(() => document.createElement("i")));
  if (!future) { $("next").textContent = "–"; return; }
  let next = null;
  const current = state.latest.scores.indexOf(Math.max(...state.latest.scores));
  future.forEach((scores, place) => {
    const best = scores.indexOf(Math.max(...scores)), cell = strip.children[place];
    cell.style.setProperty("--colour", best ? colour(best) : "transparent");
    cell.style.setProperty("--sure", scores[best]);
    cell.title = `in ${ahead[place].toFixed(2)} s: ${name(best)}, ${percent(scores[best])}`;
    if (!next && best !== current) next = { best, score: scores[best], seconds: ahead[place] };
  });
  $("next").textContent = next ? `in ${next.seconds.toFixed(1)} s: ${name(next.best)}, ${percent(next.score)}`
    : `no change in the next ${ahead[ahead.length - 1].toFixed(1)} s`;
}

const meter = {
  marks: { sent: [], answered: [] },
  reset() { this.marks = { sent: [], answered: [] }; },
  mark(kind) { const all = this.marks[kind]; all.push(performance.now()); if (all.length > 200) all.shift(); },
  sent() { this.mark("sent"); },
  answered() { this.mark("answered"); },
  rate(kind) {
    const since = performance.now() - 3000, recent = this.marks[kind].filter((at) => at > since);
    const first = this.marks[kind][0];
    const seconds = Math.min(3, (performance.now() - first) / 1000);
    return recent.length > 1 && seconds > 0.5 ? recent.length / seconds : NaN;
  },
  draw() {
    const write = (id, value, digits, unit = "") => { $(id).textContent = Number.isFinite(value) ? value.toFixed(digits) + unit : "–"; };
    write("fps", this.rate("sent"), 1);
    write("aps", this.rate("answered"), 1);
    write("latency", median(state.latencies), 0, " ms");
    $("dropped").textContent = state.latest ? state.skipped + state.latest.dropped : "–";
  },
};

// ---- the timeline

const canvas = $("timeline");

// Where the plot begins: right of the names, or at the edge of a narrow one, which has the names inside.
const margin = (width) => width < 480 ? 0 : Math.min(150, width * 0.2);

function visible() {
  const past = state.history, ahead = state.end === null ? state.hello?.future_seconds?.at(-1) ?? 0 : 0;
  const end = state.end ?? Math.max(past.last + token() + ahead, past.first + state.span);
  return { begin: end - state.span, end };
}

function chooseRows(begin, end) {
  const count = state.hello.classes.length;
  if (count <= MANY) return Array.from({ length: count }, (_, k) => k + 1);
  const past = state.history, best = new Float32Array(count + 1), from = Math.max(0, past.index(begin));
  for (let i = from; i < past.times.length && past.times[i] <= end; i++) {
    const row = past.row(i);
    for (let k = 1; k <= count; k++) if (row[k] > best[k]) best[k] = row[k];
  }
  for (const event of state.events) if (event.start_s < end && (event.open || event.end_s > begin)) best[event.index] += 1;
  for (const k of state.rows) best[k] += 0.1; // rows that stand do not give way for a hair's breadth
  const order = Array.from({ length: count }, (_, k) => k + 1).sort((a, b) => best[b] - best[a]);
  return order.slice(0, 8).sort((a, b) => a - b);
}

function drawTimeline() {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const style = getComputedStyle(document.documentElement), css = (key) => style.getPropertyValue(key).trim();
  const paper = canvas.getContext("2d");
  paper.setTransform(ratio, 0, 0, ratio, 0, 0);
  paper.clearRect(0, 0, width, height);
  const past = state.history;
  const rows = state.rows = past ? chooseRows(...Object.values(visible())) : (state.hello?.classes.slice(0, MANY).map((_, k) => k + 1) ?? []);
  if (!rows.length) return;
  const left = margin(width), axis = 20, high = Math.min(56, (height - axis) / rows.length);
  const { begin, end } = past ? visible() : { begin: 0, end: state.span };
  const x = (seconds) => left + (seconds - begin) / (end - begin) * (width - left);
  const font = style.fontFamily, light = css("--light");

  paper.font = `12px ${font}`;
  paper.textBaseline = "middle";
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300].find((s) => s * (width - left) / (end - begin) >= 62) ?? 600;
  const bottom = high * rows.length;
  const present = past && state.latest && state.end === null ? x(past.last + token()) : null;
  paper.textAlign = "center";
  for (let t = Math.ceil(Math.max(0, begin) / step) * step; t <= end; t += step) {
    paper.fillStyle = css("--line");
    paper.fillRect(Math.round(x(t)), 0, 1, bottom);
    paper.fillStyle = css("--quiet");
    const near = present !== null && Math.abs(x(t) - present) < 32;
    if (x(t) < width - 14 && x(t) > left + 12 && !near) paper.fillText(clock(t), x(t), bottom + axis / 2 + 2);
  }
  if (present !== null) {
    paper.fillStyle = css("--ink");
    paper.fillText("now", Math.min(present, width - 12), bottom + axis / 2 + 2);
  }
  paper.textAlign = "left";
  paper.save();
  paper.beginPath();
  paper.rect(left, 0, width - left, bottom);
  paper.clip();
  rows.forEach((k, place) => {
    const top = place * high, tint = colour(k, light);
    paper.fillStyle = css("--line");
    paper.fillRect(left, top + high - 1, width - left, 1);
    paper.fillStyle = tint;
    if (!past) return;
    for (const event of state.events) {
      if (event.index !== k) continue;
      const stop = event.open ? past.last + token() : event.end_s;
      if (event.start_s > end || stop < begin) continue;
      paper.globalAlpha = 0.2;
      paper.beginPath();
      paper.roundRect(x(event.start_s), top + 2, Math.max(3, x(stop) - x(event.start_s)), high - 3, 4);
      paper.fill();
    }
    const floor = top + high - 1, step = x(token()) - x(0);
    const stairs = (points) => { // one shape, so that no seams show between the tokens
      paper.beginPath();
      for (const [from, score, wide = step] of points) paper.rect(from, floor - score * (high - 5), wide + 0.25, score * (high - 5));
      paper.fill();
    };
    const points = [];
    for (let i = Math.max(0, past.index(begin)); i < past.times.length && past.times[i] <= end; i++) points.push([x(past.times[i]), past.row(i)[k]]);
    paper.globalAlpha = 0.9;
    stairs(points);
    const ahead = state.hello.future_seconds, future = state.latest?.future;
    if (ahead && future && state.end === null) {
      paper.globalAlpha = 0.38;
      // An answer for later stands until the next one.
      const from = (place) => place < ahead.length ? x(past.last + ahead[place]) : from(place - 1) + step;
      stairs(future.map((scores, place) => [from(place), scores[k], from(place + 1) - from(place)]).filter((_, place) => ahead[place] > 0));
    }
    paper.globalAlpha = 1;
  });
  if (present !== null) {
    paper.fillStyle = css("--ink");
    for (let y = 0; y < bottom; y += 6) paper.fillRect(Math.round(present), y, 1, 3);
  }
  const at = state.hover ?? state.cursor;
  if (at !== null) {
    paper.fillStyle = css("--ink");
    paper.fillRect(Math.round(x(at)), 0, 1, bottom);
  }
  paper.restore();
  paper.fillStyle = css("--ink");
  Object.assign(paper, { strokeStyle: css("--panel"), lineWidth: 3, lineJoin: "round" });
  rows.forEach((k, place) => {
    if (left) return paper.fillText(shorten(paper, name(k), left - 10), 0, place * high + high / 2);
    paper.strokeText(name(k), 2, place * high + 9);
    paper.fillText(name(k), 2, place * high + 9);
  });
}

function shorten(paper, text, room) {
  if (paper.measureText(text).width <= room) return text;
  while (text && paper.measureText(`${text}…`).width > room) text = text.slice(0, -1);
  return `${text}…`;
}

function drawScroll() {
  const past = state.history, scroll = $("scroll");
  const from = past ? past.first + state.span : 0, to = past ? past.last + token() : 0;
  const long = to > from;
  scroll.disabled = !long;
  if (long) {
    Object.assign(scroll, { min: from, max: to });
    scroll.value = state.end ?? to;
  }
  $("live").ariaPressed = String(state.end === null && state.cursor === null);
  scroll.ariaValueText = state.end === null ? "live" : `until ${clock(state.end)}`;
  const text = state.events.slice(-5).map((e) => `${e.label} at ${clock(e.start_s)}`).join(", ");
  canvas.ariaLabel = past?.times.length ? `Scores over time, ${clock(past.last)} long. ${text || "No events"}` : "Scores over time: nothing yet";
}

function moveTo(end) {
  const past = state.history;
  if (!past) return;
  const last = past.last + token();
  state.end = end >= last - token() / 2 ? null : Math.max(end, Math.min(past.first + state.span, last));
  if (state.end !== null && state.end >= last) state.end = null;
  dirty();
}

function look(seconds) {
  const past = state.history;
  if (!past) return;
  state.cursor = seconds;
  moveTo(seconds + state.span / 2);
  dirty();
}

function zoom(by) {
  state.span = SPANS[Math.min(SPANS.length - 1, Math.max(0, SPANS.indexOf(state.span) + by))];
  if (state.end !== null) moveTo(state.end);
  dirty();
}

function secondsAt(event) {
  const box = canvas.getBoundingClientRect(), { begin, end } = visible();
  const left = margin(box.width);
  return begin + (event.clientX - box.left - left) / (box.width - left) * (end - begin);
}

let drag = null;
canvas.onpointerdown = (event) => {
  if (!state.history || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.clientX, end: visible().end, moved: false };
};
canvas.onpointermove = (event) => {
  if (!state.history) return;
  if (drag) {
    const dx = event.clientX - drag.x;
    drag.moved ||= Math.abs(dx) > 4;
    if (drag.moved) {
      canvas.classList.add("held");
      moveTo(drag.end - dx / (canvas.clientWidth - margin(canvas.clientWidth)) * state.span);
    }
  } else if (event.pointerType === "mouse") {
    const at = secondsAt(event);
    state.hover = at >= visible().begin && at <= state.history.last + token() ? at : null;
    dirty();
  }
};
canvas.onpointerup = (event) => {
  if (drag && !drag.moved) { const at = secondsAt(event); state.cursor = at >= visible().begin ? at : null; dirty(); }
  drag = null;
  canvas.classList.remove("held");
};
canvas.onpointercancel = () => { drag = null; canvas.classList.remove("held"); };
canvas.onpointerleave = () => { state.hover = null; dirty(); };
canvas.addEventListener("wheel", (event) => {
  const by = event.shiftKey ? event.deltaY : event.deltaX;
  if (!state.history || Math.abs(by) < 1 || (!event.shiftKey && Math.abs(event.deltaY) > Math.abs(event.deltaX))) return;
  event.preventDefault();
  moveTo((state.end ?? state.history.last + token()) + by / canvas.clientWidth * state.span);
}, { passive: false });

// ---- drawing, at most once a frame of the screen

let asked = false;
function dirty() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

function draw() {
  asked = false;
  if (!state.hello) return;
  now.draw();
  drawBars();
  drawFuture();
  drawTimeline();
  drawScroll();
  meter.draw();
  $("clock").hidden = !state.latest || !state.running;
  if (state.latest) $("clock").textContent = clock(state.latest.seconds, 1);
}

function show(text, kind) {
  $("connection").textContent = text;
  $("connection").className = `pill ${kind}`;
}

function notice(text, isNews = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("news", isNews);
  $("notice").hidden = !text;
}

// ---- what the user does

$("controls").onsubmit = (event) => { event.preventDefault(); state.running ? stop() : start(); };
$("source").onchange = () => { if (state.running) { stop(); start(); } };
$("flip").onclick = () => { camera.facing = camera.facing === "user" ? "environment" : "user"; start(); };
$("login").onsubmit = (event) => { event.preventDefault(); login($("token").value.trim()); };
$("closer").onclick = () => zoom(-1);
$("wider").onclick = () => zoom(1);
$("live").onclick = () => { state.end = state.cursor = null; dirty(); };
$("scroll").oninput = () => moveTo(Number($("scroll").value));
$("save").onclick = save;
new ResizeObserver(dirty).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dirty);

// A hidden page gets no frames of its camera: it stops, says so, and goes on when it is seen again.
let paused = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && state.running && camera.kind === "camera") { paused = true; camera.pause(); send({ type: "stop" }); closeOpenEvents(); }
  else if (!document.hidden && paused) { paused = false; if (state.running) begin(false); }
});
setInterval(() => { if (state.socket?.readyState === WebSocket.OPEN) send({ type: "alive" }); if (state.running) dirty(); }, 1000);

connect();
