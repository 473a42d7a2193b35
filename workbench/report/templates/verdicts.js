"use strict";
// Every verdict of the page: parsed when it is come near to, filtered by codes, drawn a page at a time. All texts are
// hostile: they become text nodes, never markup.
(() => {
  const AT_ONCE = 40;
  const at = (id) => document.getElementById(id);
  const browser = at("browser"), selects = at("selects"), words = at("words");
  let data = null, kept = [], page = 0, filters = [], found = null, foundFor = "";
  const pressed = { slipped: false, changed: false };

  const el = (tag, cls, ...inside) => {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    node.append(...inside);
    return node;
  };
  const level = (name, i) => {
    const column = data.columns[name], code = column.codes[i];
    return code < 0 ? null : column.levels[code];
  };

  const load = () => {
    if (data) return;
    data = JSON.parse(at("data").textContent);
    const clusters = Object.keys(data.columns).filter((name) => name.startsWith("cluster_"));
    for (const name of ["target", "condition", "label", "verdict", "gate"]) {
      const { levels, codes } = data.columns[name];
      addSelect(name, name, levels.map((text, code) => [String(code), data.titles[text] && name === "condition" ? data.titles[text] : text]),
        (value) => { const wanted = Number(value); return (i) => codes[i] === wanted; });
    }
    if (clusters.length) {
      const groups = clusters.map((name) => [name, data.columns[name].levels
        .map((text, code) => [`${name} ${code}`, text]).sort((a, b) => a[1].localeCompare(b[1]))]);
      addSelect("cluster", "cluster", null, (value) => {
        const [name, code] = value.split(" "), codes = data.columns[name].codes, wanted = Number(code);
        return (i) => codes[i] === wanted;
      }, groups);
    }
    apply();
  };

  const addSelect = (name, title, options, test, groups) => {
    const select = el("select");
    select.id = `by-${name}`;
    select.append(new Option("any", ""));
    for (const [value, text] of options || []) select.append(new Option(text, value));
    for (const [group, inside] of groups || []) {
      const box = document.createElement("optgroup");
      box.label = group.replace("cluster_", "");
      for (const [value, text] of inside) box.append(new Option(text, value));
      select.append(box);
    }
    select.addEventListener("change", apply);
    const label = el("label", "", title);
    label.append(select);
    selects.append(label);
    filters.push({ select, test });
  };

  // Which levels of prompt, reply and reason hold the words: each text is looked at once, however many rows share it.
  const holding = (text) => {
    if (text === foundFor && found) return found;
    foundFor = text;
    found = ["text", "reply", "reason"].map((name) => {
      const column = data.columns[name];
      column.lower = column.lower || column.levels.map((one) => one.toLowerCase());
      return { codes: column.codes, has: column.lower.map((one) => one.includes(text)) };
    });
    return found;
  };

  const apply = () => {
    const tests = filters.filter(({ select }) => select.value).map(({ select, test }) => test(select.value));
    for (const name of ["slipped", "changed"]) if (pressed[name]) tests.push((i) => data[name][i] === "1");
    const text = words.value.trim().toLowerCase();
    if (text) {
      const columns = holding(text);
      tests.push((i) => columns.some(({ codes, has }) => codes[i] >= 0 && has[codes[i]]));
    }
    kept = [];
    for (let i = 0; i < data.n; i++) if (tests.every((test) => test(i))) kept.push(i);
    page = 0;
    at("count").textContent = `${kept.length.toLocaleString("en")} of ${data.n.toLocaleString("en")} replies`;
    draw();
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(kept.length / AT_ONCE));
    at("rows").replaceChildren(...kept.slice(page * AT_ONCE, (page + 1) * AT_ONCE).map((i) => row(i, true)));
    at("page").textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
    at("before").disabled = page === 0;
    at("after").disabled = page + 1 >= pages;
  };

  const said = (name, i) => {
    const column = data.columns[name], code = column.codes[i];
    const length = (column.lengths || {})[code];
    const node = el("p", "said", column.levels[code]);
    node.dir = "auto";
    if (length) node.append(el("span", "absent", ` … ${data.cuts[name].toLocaleString("en")} of ${length.toLocaleString("en")} characters`));
    return node;
  };

  const answer = (i) => {
    const box = el("div");
    if (data.withheld[i] === "1") {
      box.append(el("p", "absent", "The reply and the judge’s reason are not in this file."));
      return box;
    }
    if (level("reply", i) === null) box.append(el("p", "absent", "No reply was kept."));
    else if (data.folded.includes(level("label", i))) box.append(el("details", "", el("summary", "", "reply"), said("reply", i)));
    else box.append(said("reply", i));
    if (data.unfinished[i] === "1") box.append(el("p", "absent", "It had not ended."));
    const reason = level("reason", i);
    // The reason quotes the reply: it is folded with it.
    if (reason) {
      const node = said("reason", i);
      node.className = "reason";
      (box.querySelector("details") || box).append(node);
    }
    return box;
  };

  const row = (i, whole) => {
    const verdict = level("verdict", i), condition = level("condition", i), gate = level("gate", i);
    const about = el("div", "about", el("b", "", data.titles[condition] || condition), el("br"));
    about.append(el("span", `verdict c-verdict-${verdict}`, verdict), el("br"));
    const facts = [level("target", i), `prompt ${data.prompt[i]}`, level("label", i)];
    if (gate) facts.push(`gate ${gate}`);
    if (data.correct[i] !== "-") facts.push(data.correct[i] === "1" ? "correct" : "wrong");
    about.append(facts.filter(Boolean).join(" · "));
    if (!whole) return el("div", "verdict-row", about, answer(i));
    const asked = el("div", "");
    asked.append(level("text", i) === null ? el("p", "absent", "The prompt was not kept.") : said("text", i));
    const source = level("source", i);
    const images = level("images", i);
    if (source || images) asked.append(el("span", "reason", [source, images && `with image ${images}`].filter(Boolean).join(" · ")));
    const compare = el("button", "", "All conditions");
    compare.type = "button";
    compare.setAttribute("aria-label", `All conditions of prompt ${data.prompt[i]}, ${level("target", i)}`);
    compare.addEventListener("click", () => beside(i));
    about.append(el("br"), compare);
    const node = el("article", "verdict-row", about, asked, answer(i));
    node.dataset.row = i;
    return node;
  };

  const beside = (i) => {
    const targets = data.columns.target.codes, rows = [];
    for (let k = 0; k < data.n; k++) if (data.prompt[k] === data.prompt[i] && targets[k] === targets[i]) rows.push(k);
    rows.sort((a, b) => data.columns.condition.codes[a] - data.columns.condition.codes[b] || a - b);
    at("beside-title").textContent = `${level("target", i)}, prompt ${data.prompt[i]}: ${level("label", i)}`;
    at("beside-body").replaceChildren(said("text", i), ...rows.map((k) => row(k, false)));
    at("beside").showModal();
  };

  const press = (name, down) => {
    pressed[name] = down;
    at(name).setAttribute("aria-pressed", String(down));
  };
  for (const name of ["slipped", "changed"]) at(name).addEventListener("click", () => { load(); press(name, !pressed[name]); apply(); });
  at("reset").addEventListener("click", () => {
    load();
    for (const name of ["slipped", "changed"]) press(name, false);
    for (const { select } of filters) select.value = "";
    words.value = "";
    apply();
  });
  let waiting = 0;
  words.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { load(); apply(); }, 150); });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => { page += by; draw(); at("rows").scrollIntoView(); };
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  at("unfold").addEventListener("click", () => { for (const one of at("beside").querySelectorAll("details")) one.open = true; });
  at("close").addEventListener("click", () => at("beside").close());

  const copy = at("copy"), command = at("command");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const done = await Promise.resolve(navigator.clipboard && navigator.clipboard.writeText(command.textContent)).then(
      (well) => Boolean(navigator.clipboard), () => false);
    if (!done) {
      getSelection().selectAllChildren(command);
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });

  browser.hidden = false;
  new IntersectionObserver((entries, watch) => {
    if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); load(); }
  }, { rootMargin: "600px" }).observe(browser);
})();
