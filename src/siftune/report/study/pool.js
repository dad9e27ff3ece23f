// The map of the pool and the list of its rows. All that comes from rows is shown as text, never as markup.
"use strict";
(() => {
  const source = document.getElementById("pool-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const by = (id) => document.getElementById(id);
  const control = (name) => document.querySelector(`.tools [name=${name}]`);
  const number = (value) => value.toLocaleString("en");
  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const N = data.rows.length;
  const PAGE = 20;

  // Who chose each row. Methods count; a baseline's choice says nothing of a row.
  for (const subset of data.subsets) {
    subset.has = new Uint8Array(N);
    const bits = bytes(subset.members);
    if (bits.length) for (let i = 0; i < N; i++) subset.has[i] = (bits[i >> 3] >> (i & 7)) & 1;
    subset.order = new Map(subset.first.map((place, i) => [place, i + 1]));
    subset.rank = subset.kind === "baseline" ? new Map() : subset.order;  // the order of random rows is no rank
    for (const place of subset.first) subset.has[place] = 1;
  }
  const times = new Uint16Array(N);
  const methods = new Uint16Array(N);
  const ofMethods = data.subsets.filter((subset) => subset.kind === "method");
  for (const name of new Set(ofMethods.map((subset) => subset.name))) {
    const mine = ofMethods.filter((subset) => subset.name === name);
    for (let i = 0; i < N; i++) {
      const here = mine.reduce((sum, subset) => sum + subset.has[i], 0);
      times[i] += here;
      methods[i] += here > 0;
    }
  }
  const most = methods.reduce((a, b) => Math.max(a, b), 0);
  const texts = new Map(data.texts.map((entry) => [entry[0], entry]));
  const haystacks = new Map();
  const haystack = (place) => {
    if (!haystacks.has(place)) {
      const entry = texts.get(place);
      haystacks.set(place, entry ? [entry[1], ...entry[2].map((turn) => turn[1])].join("\n").toLowerCase() : "");
    }
    return haystacks.get(place);
  };

  const state = { subset: null, picked: null, page: 0, places: [] };

  // ---- one row, as text ----
  const turns = (entry) => {
    const made = element("div");
    for (const [role, text, cut] of entry[2]) {
      const turn = element("div", role === "assistant" ? "turn assistant" : "turn");
      turn.append(element("p", "role", role));
      const said = element("p", "said", text);
      said.dir = "auto";
      turn.append(said);
      if (cut) turn.append(element("p", "soft", `${number(cut)} more ${cut === 1 ? "character" : "characters"} in the pool’s files.`));
      made.append(turn);
    }
    if (entry[3]) made.append(element("p", "soft", `${number(entry[3])} more ${entry[3] === 1 ? "turn" : "turns"} in the pool’s files.`));
    return made;
  };
  const meta = (place) => {
    const made = element("p", "meta");
    const parts = [["row ", number(data.rows[place] + 1)]];
    if (texts.has(place)) parts.push(["id ", texts.get(place)[1], "code"]);
    for (const [words, value, tag] of parts) {
      const span = element("span", "", words);
      span.append(element(tag || "b", "", value));
      made.append(span);
    }
    return made;
  };
  const choosers = (place) => {
    const names = data.subsets.filter((subset) => subset.has[place]).map((subset) =>
      subset.title + (subset.rank.has(place) ? ` (rank ${number(subset.rank.get(place))})` : ""));
    return element("p", "soft", names.length ? `Chosen by: ${names.join("; ")}.` : "Chosen by none.");
  };
  const detail = (place) => {
    const made = element("div");
    made.append(texts.has(place) ? turns(texts.get(place)) : element("p", "soft", "Its text is left out, to keep the page small."));
    made.append(choosers(place));
    return made;
  };
  const asked = (place) => {
    const entry = texts.get(place);
    if (!entry) return "(text left out)";
    const turn = entry[2].find((one) => one[0] === "user") || entry[2][0];
    const text = turn ? turn[1].split(/\s+/).join(" ").trim() : "";
    return text.length > 160 ? `${[...text].slice(0, 160).join("")}…` : text || "(empty)";
  };

  // ---- the map ----
  const canvas = by("plane");
  const map = data.map;
  const pair = (packed) => {
    const raw = bytes(packed);
    return new Uint16Array(raw.buffer, 0, raw.length >> 1);
  };
  const ROOM = 14;
  let xy = null, marks = [], scale = 1, across = 0, down = 0;
  if (map) {
    xy = pair(map.xy);
    marks = map.targets.map((target) => ({ name: target.name, xy: pair(target.xy) }));
  }
  const at = (points, i) => [across + points[2 * i] * scale, down + (map.height - points[2 * i + 1]) * scale];

  const quantiles = () => {
    const sorted = [...data.tokens].sort((a, b) => a - b);
    return [...new Set([0.2, 0.4, 0.6, 0.8].map((share) => sorted[Math.floor(share * (N - 1))]))];
  };
  const COLOURINGS = {
    group: () => ({
      of: (i) => Math.min(data.group[i], 6), prefix: "c",
      names: [...data.groups.slice(0, 6), ...(data.groups.length > 6 ? ["all others"] : [])],
    }),
    tokens: () => {
      const ends = quantiles();
      return {
        of: (i) => ends.filter((end) => data.tokens[i] > end).length, prefix: "s",
        names: [...ends.map((end, i) => `${i ? `${number(ends[i - 1] + 1)} to` : "up to"} ${number(end)} tokens`), `more than ${number(ends[ends.length - 1])}`],
      };
    },
    methods: () => {
      const steps = Math.min(most, 4);
      const names = ["by none"];
      for (let k = 1; k <= steps; k++) names.push(`by ${k}${k === 4 && most > 4 ? " or more" : ""}`);
      return { of: (i) => Math.min(methods[i], steps), prefix: "s", names };
    },
  };
  let colouring = COLOURINGS.group();

  const shownMarks = () => {
    const chosen = control("mark").value;
    const target = state.subset && data.subsets[state.subset - 1].target;
    if (chosen === "none") return [];
    if (chosen !== "") return [marks[Number(chosen)]];
    const own = marks.filter((mark) => mark.name === target);
    return own.length ? own : marks;
  };

  const draw = () => {
    if (!map || !canvas.clientWidth) return;
    const width = canvas.clientWidth;
    const tall = Math.min(Math.max(width * 0.62, 260), 560);
    const ratio = window.devicePixelRatio || 1;
    scale = Math.min((width - 2 * ROOM) / Math.max(map.width, 1), (tall - 2 * ROOM) / Math.max(map.height, 1));
    const height = Math.max(map.height * scale + 2 * ROOM, Math.min(tall, 220));
    across = (width - map.width * scale) / 2;
    down = (height - map.height * scale) / 2;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const chosen = state.subset ? data.subsets[state.subset - 1].has : null;
    const size = N > 8000 ? 1.3 : N > 1500 ? 1.9 : 2.6;
    const dot = (i, radius) => {
      const [x, y] = at(xy, i);
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, 2 * Math.PI);
    };
    const dots = (radius, which) => {
      for (let step = 0; step < colouring.names.length; step++) {
        pen.fillStyle = colour(colouring.prefix + step);
        pen.beginPath();
        for (let i = 0; i < N; i++) if (which(i) && colouring.of(i) === step) dot(i, radius);
        pen.fill();
      }
    };
    pen.globalAlpha = chosen ? 0.22 : 0.8;
    dots(size, (i) => !chosen || !chosen[i]);
    if (chosen) {
      pen.globalAlpha = 1;
      pen.fillStyle = colour("cross");
      pen.beginPath();
      for (let i = 0; i < N; i++) if (chosen[i]) dot(i, size + 2.4);
      pen.fill();
      dots(size + 1.2, (i) => chosen[i]);
    }
    pen.globalAlpha = 1;
    pen.lineCap = "round";
    for (const [thick, name] of [[4.5, "card"], [2, "cross"]]) {
      pen.lineWidth = thick;
      pen.strokeStyle = colour(name);
      pen.beginPath();
      for (const mark of shownMarks()) {
        for (let i = 0; i < mark.xy.length / 2; i++) {
          const [x, y] = at(mark.xy, i);
          pen.moveTo(x - 4, y - 4); pen.lineTo(x + 4, y + 4);
          pen.moveTo(x + 4, y - 4); pen.lineTo(x - 4, y + 4);
        }
      }
      pen.stroke();
    }
    if (state.picked !== null) {
      for (const [thick, name] of [[5, "card"], [2.5, "mark"]]) {
        pen.lineWidth = thick;
        pen.strokeStyle = colour(name);
        pen.beginPath();
        dot(state.picked, 9);
        pen.stroke();
      }
    }
  };

  const tell = () => {
    if (!map) return;
    const legend = by("legend");
    const entry = (name, words) => {
      const made = element("span");
      made.append(element("i", name), words);
      return made;
    };
    legend.replaceChildren(...colouring.names.map((name, i) => entry(colouring.prefix + i, name)));
    const crosses = shownMarks();
    if (crosses.length) legend.append(entry("k-cross", crosses.length === 1 ? `target rows of ${crosses[0].name}` : "target rows"));
    if (state.subset) legend.append(entry("k-ring", "in the subset"));
    const subset = state.subset && data.subsets[state.subset - 1];
    by("told").textContent = subset ? `${subset.title}: ${number(subset.rows)} rows${subset.shown < subset.rows ? `, ${number(subset.shown)} of them on the map` : ""}.`
      : "Choose a subset to see its rows, a dot to read it.";
  };

  const pick = (place) => {
    state.picked = place;
    const box = by("picked");
    if (!box) return;
    const close = element("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => {
      state.picked = null;
      box.replaceChildren();
      draw();
    });
    const head = meta(place);
    const span = element("span", "", `${number(data.tokens[place])} tokens, ${data.groups[data.group[place]]}`);
    head.append(span, close);
    box.replaceChildren(head, detail(place));
    draw();
  };

  if (map) {
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const chosen = state.subset ? data.subsets[state.subset - 1].has : null;
      let best = 14 ** 2, found = null;
      for (let i = 0; i < N; i++) {
        const [a, b] = at(xy, i);
        const far = (a - x) ** 2 + (b - y) ** 2 + (chosen && !chosen[i] ? 16 : 0);  // chosen ones lie on top
        if (far < best) [best, found] = [far, i];
      }
      if (found !== null) pick(found);
    });
    control("colour").addEventListener("change", () => {
      colouring = COLOURINGS[control("colour").value]();
      tell();
      draw();
    });
    control("mark").addEventListener("change", () => { tell(); draw(); });
    window.addEventListener("resize", draw);
    canvas.closest("details")?.addEventListener("toggle", draw);  // closed, it has no width
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  // ---- the list ----
  const which = control("which");
  for (let k = 1; k <= most; k++) {
    const option = element("option", "", `chosen by ${k}${k < most ? " or more" : ""} ${k === 1 ? "method" : "methods"}`);
    option.value = k;
    which.append(option);
  }
  const filter = () => {
    const words = control("search").value.trim().toLowerCase();
    const group = control("group").value;
    const subset = state.subset ? data.subsets[state.subset - 1] : null;
    const places = [];
    for (let i = 0; i < N; i++) {
      if (which.value === "subset" ? subset && !subset.has[i] : which.value === "0" ? methods[i] : which.value !== "" && methods[i] < Number(which.value)) continue;
      if (group !== "" && data.group[i] !== Number(group)) continue;
      if (words && !haystack(i).includes(words)) continue;
      places.push(i);
    }
    const rank = (i) => (subset && subset.order.get(i)) || Infinity;
    const keys = { rank: (a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)), times: (a, b) => times[b] - times[a],
      longest: (a, b) => data.tokens[b] - data.tokens[a], shortest: (a, b) => data.tokens[a] - data.tokens[b] };
    const key = keys[control("order").value];
    if (key) places.sort(key);  // stable: ties stay in the order of the pool
    state.places = places;
    state.page = 0;
    list();
  };
  const list = () => {
    const subset = state.subset ? data.subsets[state.subset - 1] : null;
    const pages = Math.max(1, Math.ceil(state.places.length / PAGE));
    const start = state.page * PAGE;
    by("list").replaceChildren(...state.places.slice(start, start + PAGE).map((place) => {
      const row = element("tr");
      const first = element("td");
      const ask = element("p", "ask", asked(place));
      ask.dir = "auto";
      const head = meta(place);
      if (map) {
        const button = element("button", "", "On the map");
        button.type = "button";
        button.addEventListener("click", () => {
          pick(place);
          const fold = canvas.closest("details");
          if (fold) fold.open = true;
          draw();
          canvas.scrollIntoView({ block: "center" });
        });
        head.append(button);
      }
      const fold = element("details");
      fold.append(element("summary", "", "Read the row"), detail(place));
      first.append(ask, head, fold);
      row.append(first);
      const rank = subset && subset.rank.get(place);
      const cells = [["Tokens", number(data.tokens[place]), "n"], ["Source or group", data.groups[data.group[place]], "name"],
        ["Methods", number(methods[place]), "n"], ["Times chosen", number(times[place]), "n"], ["Rank", rank ? number(rank) : "–", "n"]];
      for (const [title, text, name] of cells) {
        const cell = element("td", name, text);
        cell.dataset.head = title;
        row.append(cell);
      }
      return row;
    }));
    const count = state.places.length;
    const of = which.value !== "subset" ? "" : subset ? ` of ${subset.title}` : "; choose a subset to see which are in it";
    by("listed").textContent = `${number(count)} ${count === 1 ? "row" : "rows"}${of}`
      + (control("search").value.trim() && texts.size < N ? `, searched in the ${number(texts.size)} rows that have their text here` : "");
    by("page").textContent = count ? `${number(start + 1)} to ${number(Math.min(start + PAGE, count))} of ${number(count)}` : "no row";
    by("back").disabled = state.page === 0;
    by("next").disabled = state.page >= pages - 1;
  };
  const turn = (step) => {
    state.page += step;
    list();
    document.querySelector(".pool-rows").scrollTop = 0;
    by("listed").scrollIntoView({ block: "nearest" });
  };
  by("back").addEventListener("click", () => turn(-1));
  by("next").addEventListener("click", () => turn(1));
  for (const name of ["which", "group", "order"]) control(name).addEventListener("change", filter);
  control("search").addEventListener("input", filter);
  // The subset of the map is that of the list: choosing one lists its rows in its order.
  control("subset").addEventListener("change", () => {
    const value = control("subset").value;
    state.subset = value === "" ? null : Number(value) + 1;
    which.value = value === "" ? "" : "subset";
    control("order").value = value === "" ? "" : "rank";
    tell();
    draw();
    filter();
  });

  tell();
  filter();
  draw();
})();
