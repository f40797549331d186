"use strict";
// Everything shown comes from outside: names of topics, texts of errors. It becomes text nodes and nothing else.
const EVERY = 2000, PATIENCE = 5000, NS = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en"), small = new Intl.NumberFormat("en", {maximumFractionDigits: 1});
const n = (x) => (x === null || x === undefined ? "–" : numbers.format(Math.round(x)));

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);

function clock(time) {
  const iso = new Date(time * 1000).toISOString();
  return Math.abs(Date.now() / 1000 - time) < 72000 ? iso.slice(11, 19) : iso.slice(0, 19).replace("T", " ");
}
const when = (time) =>
  time === null || time === undefined ? "–" : el("time", {datetime: new Date(time * 1000).toISOString()}, clock(time));
function lasting(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;
}
function bytes(x) {
  if (x === null || x === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (x >= 1024 && unit < 4) { x /= 1024; unit += 1; }
  return `${small.format(x)} ${units[unit]}`;
}
// Written only where it changed, so that a screen reader hears what is new and nothing twice.
function write(id, text) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
  if (id !== "text") node.hidden = !text;
}
const nothing = (text) => el("p", {class: "soft"}, text);

function table(caption, heads, rows) {
  const head = heads.map(([text, kind]) => el("th", {scope: "col", role: "columnheader", class: kind || ""}, text));
  const body = rows.map((cells) => el("tr", {role: "row"}, cells.map((cell, i) => {
    const attributes = {"data-label": heads[i][0], class: heads[i][1] || ""};
    const inner = el("span", {}, cell);
    return i ? el("td", {role: "cell", ...attributes}, inner)
      : el("th", {scope: "row", role: "rowheader", ...attributes}, inner);
  })));
  // Roles said aloud: on a narrow screen the cells are laid out as blocks, and browsers then forget them.
  return el("div", {class: "table"}, el("table", {role: "table"}, el("caption", {}, caption),
    el("thead", {role: "rowgroup"}, el("tr", {role: "row"}, head)), el("tbody", {role: "rowgroup"}, body)));
}

function spark(series, label, kind) {
  const known = series.filter((x) => x !== null);
  const top = Math.max(1, ...known), width = 240, height = 40;
  const at = (x, i) => `${(i * width) / (series.length - 1)},${(height - 2 - (x / top) * (height - 4)).toFixed(1)}`;
  const points = series.map((x, i) => (x === null ? null : at(x, i)));
  const first = points.findIndex((point) => point !== null);
  const shape = {class: `spark ${kind}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label};
  if (first < 0) return svg("svg", shape);
  const line = points.slice(first).filter((point) => point !== null).join("L");
  const left = points[first].split(",")[0];
  return svg("svg", shape, svg("title", {}, label), svg("path", {class: "area", d: `M${left},${height}L${line}L${width},${height}Z`}),
    svg("path", {d: `M${line}`}));
}

const STATES = {
  running: ["running", "ok"], waiting: ["waiting", "bad"], restarting: ["restarting", "bad"], halted: ["halted", "bad"],
  stalled: ["standing still", "bad"], starting: ["starting", "busy"], not_started: ["not started", "busy"],
  stopped: ["stopped", "warn"], paused: ["paused", "warn"],
};
const fact = (name, value, kind) => [value ? el("div", {}, el("dt", {}, name), el("dd", {class: kind || ""}, value)) : null];

// Partitions that wait for the same thing are one line: a hundred of them do at once.
function waits(p) {
  const alike = new Map();
  for (const w of p.waiting) alike.set(w.error, [...(alike.get(w.error) || []), w]);
  return [...alike].map(([error, all]) => {
    const more = (alike.size === 1 ? p.held : all.length) - Math.min(4, all.length);
    const places = all.slice(0, 4).map((w) => `${w.topic}[${w.partition}] at offset ${w.offset}`).join(", ");
    return el("li", {}, el("strong", {}, error), " since ", when(all[0].since), `: ${places}${more > 0 ? ` and ${more} more` : ""}`,
      alike.size > 1 ? `. ${all[0].detail}` : null);
  });
}

function card(p, now) {
  const [word, level] = STATES[p.state] || [p.state, "busy"];
  const kind = p.state === "waiting" && p.why && p.why.error === "KeyUnavailable" ? "waiting for a key" : word;
  const past = p.series.records.slice(0, -1), lags = p.series.lag;
  const from = p.from.length ? p.from.join(", ") : Object.keys(p.topics).join(", ");
  return el("article", {class: "card", "aria-label": p.name},
    el("header", {}, el("h3", {}, p.name), el("span", {class: `chip ${level}`}, kind)),
    el("p", {class: "route"}, `${p.mode} · ${from || "?"} → ${p.to || "?"} · since `, when(p.since), ` (${lasting(now - p.since)})`),
    p.why ? el("p", {}, `${p.why.error}: ${p.why.detail}`) : null,
    el("dl", {class: "figures"},
      el("div", {}, el("dt", {}, "records a second"), el("dd", {}, el("b", {}, small.format(p.rate)),
        spark(past, `records a second, the last two minutes, now ${small.format(p.rate)}, at most ${n(Math.max(0, ...past))}`, ""))),
      el("div", {}, el("dt", {}, "records behind (lag)"), el("dd", {}, el("b", {}, n(p.lag)),
        spark(lags, `records behind, the last two minutes, now ${n(p.lag)}`, "lag")))),
    el("dl", {class: "facts"},
      fact("partitions", `${p.assigned}${p.held ? `, ${p.held} waiting` : ""}`), fact("records since start", n(p.records)),
      fact("value bytes read", bytes(p.bytes_in)), fact("last commit", when(p.committed_at)),
      fact("opened data keys at hand", p.opened_held === null ? null : n(p.opened_held)),
      fact("dead letters", p.dead_letters && `${n(p.dead_letters)}${p.dead_letter ? ` in ${p.dead_letter}` : ""}`, "warn"),
      fact("left behind", p.skipped && n(p.skipped), "warn"), fact("plaintext let through", p.plaintext && n(p.plaintext), "warn"),
      fact("restarts", p.restarts && n(p.restarts), "warn"),
      Object.entries(p.sequence).map(([name, count]) => fact(`sequence: ${name}`, n(count), "warn"))),
    p.waiting.length ? el("ul", {class: "waiting", "aria-label": "partitions that wait"}, waits(p)) : null);
}

function meter(used, limit, label) {
  if (used === null || !limit) return null;
  return el("meter", {min: 0, max: 1, low: 0.5, high: 1, optimum: 0, value: Math.min(1, used / limit), "aria-label": label});
}
function dataKeys(s) {
  if (!s.data_keys.length) return nothing("No data key seals in this process.");
  const rows = s.data_keys.slice(0, 50).map((k) => [
    k.topic, el("code", {}, k.id), k.grace_until ? el("span", {class: "warn"}, "in grace until ", when(k.grace_until)) : k.role,
    el("span", {}, meter(k.age, k.max_age, `age ${lasting(k.age)} of ${lasting(k.max_age || 0)}`), ` ${lasting(k.age)}${k.max_age ? ` of ${lasting(k.max_age)}` : ""}`),
    n(k.messages_left), bytes(k.bytes_left),
    el("span", {}, k.keks.map((kek, i) => [i ? ", " : "", el("code", {}, kek)]), k.missing.length ? el("span", {class: "warn"}, ` without ${k.missing.join(", ")}`) : null)]);
  const more = s.data_keys.length - rows.length;
  return [table("Data keys that seal. The id is the public one that stands in each record's header.",
    [["topic", "wrap"], ["id", "id"], ["role"], ["age", "id"], ["records left", "n"], ["bytes left", "n"], ["wrapped under", "wrap"]], rows),
    more > 0 ? nothing(`and ${more} more`) : null];
}
function opened(s) {
  if (!s.opened.length) return null;
  return table("Data keys opened last", [["topic", "wrap"], ["id", "id"], ["at"], ["opened so far", "n"], ["KEK", "wrap"]],
    s.opened.map((o) => [o.topic, el("code", {}, o.id), when(o.at), n(o.opened), el("code", {}, o.kek)]));
}

function health(a, now) {
  if (a.breaker_since) return el("span", {class: "bad"}, "away since ", when(a.breaker_since), ` (${lasting(now - a.breaker_since)}): called by slow probes only`);
  if (a.failing_since) return el("span", {class: "bad"}, "failing since ", when(a.failing_since), ` (${lasting(now - a.failing_since)})`);
  if (a.unheard) return el("span", {class: "bad"}, "its region is away");
  return a.last_ok ? el("span", {class: "ok"}, "answers") : el("span", {class: "soft"}, "not called yet");
}
const answers = (a, now) => [health(a, now), when(a.last_ok),
  a.error_at ? el("span", {}, `${a.last_error} at `, when(a.error_at)) : "none", n(a.calls), n(a.failed), `${n(a.seconds * 1000)} ms`];
const ANSWERS = [["health", "wrap"], ["last answer"], ["last error", "wrap"], ["calls", "n"], ["failed", "n"], ["time of a call", "n"]];
function regions(s) {
  if (s.regions.length) return table("Regions of KMS", [["region", "id"], ...ANSWERS], s.regions.map((r) => [r.region || "–", ...answers(r, s.now)]));
  return nothing(s.keys.development ? "The local keyring is in use; no KMS is called." : "KMS has not been called yet.");
}
const keks = (s) => s.keks.length ? table("KEKs", [["KEK", "wrap"], ["region", "id"], ...ANSWERS],
  s.keks.slice(0, 50).map((k) => [el("code", {}, k.id), k.region, ...answers(unheard(s, k), s.now)])) : null;
// It answered once; while its region is away nobody knows.
const unheard = (s, k) => ({...k, unheard: s.regions.some((r) => r.region === k.region && r.breaker_since)});

function failures(s) {
  if (!s.failures.length) return nothing("No record has failed since the start.");
  const rows = s.failures.slice().reverse().map((f) =>
    [el("span", {}, when(f.at)), f.pipeline, `${f.topic}[${f.partition}]`, n(f.offset), f.error, f.action.replace("_", " "), f.detail]);
  return table("The newest first. A record's content is never shown.",
    [["at"], ["pipeline", "wrap"], ["partition", "wrap"], ["offset", "n"], ["error"], ["action"], ["detail", "wrap"]], rows);
}

function rotations(s) {
  if (!s.rotations.length) return nothing("No data key was minted yet.");
  // As far back as there is something to see.
  const minutes = Math.min(30, Math.max(5, Math.ceil((s.now - s.rotations[0].at) / 60)));
  const begin = s.now - minutes * 60, topics = new Map();
  const spans = (topic) => topics.get(topic) || topics.set(topic, new Map()).get(topic);
  for (const r of s.rotations) {
    const keys = spans(r.topic), key = keys.get(r.id) || {from: r.what === "retired" ? r.at - r.age : r.at, to: null};
    if (r.what === "retired") Object.assign(key, {to: r.at, reason: r.reason});
    keys.set(r.id, key);
  }
  const lanes = [...topics].slice(0, 8).map(([topic, keys]) => {
    let free = begin, odd = false;
    const bars = [...keys].sort((a, b) => a[1].from - b[1].from).map(([id, key]) => {
      const to = key.to ?? s.now, from = Math.max(key.from, free);
      if (to <= from) return null;
      free = to; odd = !odd;
      const x = ((from - begin) / (minutes * 60)) * 1000, width = ((to - from) / (minutes * 60)) * 1000;
      return svg("rect", {class: odd ? "odd" : "", x: x.toFixed(1), width: Math.max(1, width - 1).toFixed(1), height: 20},
        svg("title", {}, `${id}: ${clock(key.from)} to ${key.to ? clock(key.to) : "now"}${key.reason ? `, ${key.reason}` : ""}`));
    });
    return [el("p", {}, topic), svg("svg", {class: "lane", viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img",
      "aria-label": `${topic}: ${keys.size} data keys lately`}, bars)];
  });
  const rows = s.rotations.filter((r) => r.what === "retired").slice(-8).reverse().map((r) =>
    [when(r.at), r.topic, el("code", {}, r.id), r.reason, n(r.messages), bytes(r.bytes), lasting(r.age)]);
  return [el("div", {class: "lanes"}, lanes, el("div", {class: "axis"}, el("span", {}, `${minutes} min ago`), el("span", {}, "now"))),
    rows.length ? table("Retired last", [["at"], ["topic", "wrap"], ["id", "id"], ["why"], ["records", "n"], ["bytes", "n"], ["age", "n"]], rows) : null];
}

function history(s) {
  if (!s.history.length) return nothing("Nothing yet.");
  return el("ol", {class: "log", reversed: ""}, s.history.slice(-25).reverse().map((h) =>
    el("li", {}, when(h.at), el("strong", {}, h.what.replace(/_/g, " ")), el("span", {class: "text"}, h.pipeline ? `${h.pipeline}: ${h.text}` : h.text,
      h.times > 1 ? el("span", {class: "soft"}, ` and ${h.times - 1} more like it`) : null))));
}

const WORDS = {ok: "Well", busy: "Note", warn: "Look at this", bad: "Something is wrong"};
function headline(level, say, rest) {
  $("headline").dataset.level = level;
  write("headline-h", WORDS[level]);
  write("text", say.text);
  write("lasting", say.lasting ? `For ${say.lasting} now.` : "");
  write("then", say.then || "");
  write("remedy", say.remedy ? `What to do: ${say.remedy}` : "");
  const lines = rest.map((one) => [one.text, one.lasting && `For ${one.lasting} now.`, one.then, one.remedy].filter(Boolean).join(" "));
  if ($("more").dataset.text !== lines.join("\n")) {
    $("more").dataset.text = lines.join("\n");
    $("more").replaceChildren(...lines.map((line) => el("li", {}, line)));
  }
  $("more").hidden = !lines.length;
  document.title = `${level === "ok" || level === "busy" ? "" : "⚠ "}${say.text} – streamcrypt`;
}

const SECTIONS = {"data-keys": dataKeys, opened, regions, keks, failures, rotations, history,
  "pipeline-cards": (s) => s.pipelines.length ? s.pipelines.map((p) => card(p, s.now)) : nothing("No pipeline has started yet.")};
function show(s) {
  const [first, ...rest] = s.sentences;
  headline(first.level, first, rest);
  const [process] = s.processes, many = s.processes.length;
  write("where", `${s.release} on ${process.host}${many > 1 ? `, ${many} processes` : ""}`);
  // Whoever marks an ARN to copy it must not lose it two seconds later.
  const held = !getSelection().isCollapsed && document.querySelector("main").contains(getSelection().anchorNode);
  if (!held) for (const [id, draw] of Object.entries(SECTIONS)) $(id).replaceChildren(...[draw(s)].flat().filter(Boolean));
  write("live-text", `page up to date, ${clock(s.now)} UTC${held ? ", tables held while text is marked" : ""}`);
  $("dot").className = "";
  requestAnimationFrame(() => { $("dot").className = "beat"; });
}

let answered = null, timer = null;
async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("status.json", {cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const status = await answer.json();
    answered = status.now;
    show(status);
  } catch (error) {
    const since = answered === null ? "" : ` since ${clock(answered)} UTC`;
    const then = answered === null ? "" : `All below is as it was at ${clock(answered)} UTC.`;
    headline("bad", {text: `This process gives no answer${since}.`, then, remedy: "Is it running? Does the way to it still stand (port-forward, tunnel)?"}, []);
    write("live-text", "no answer");
    $("dot").className = "away";
  }
  // A page that nobody looks at asks for nothing.
  if (!document.hidden) timer = setTimeout(look, EVERY);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
