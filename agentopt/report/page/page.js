"use strict";
// Everything that a model or the data wrote is in JSON and is shown by textContent only. A file requests nothing but
// the files of traces beside it; the live page requests its data from the server that it came from.
(() => {
  const live = document.documentElement.dataset.live !== undefined;
  let data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const traces = new Map(); // trial number -> { texts, splits }
  const waiting = new Map(); // trial number -> functions that receive its traces

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // A browser needs minutes to lay out a text of a million characters, so the reader asks for what is beyond these.
  const MOST_SHOWN = 20_000;

  function textBlock(tag, text, attributes) {
    const block = make(tag, text.slice(0, MOST_SHOWN), attributes);
    if (text.length <= MOST_SHOWN) return [block];
    const more = make("button", `Show all ${text.length.toLocaleString("en")} characters`, { type: "button", class: "link" });
    more.addEventListener("click", () => { block.textContent = text; block.focus(); more.remove(); });
    return [block, more];
  }

  function table(caption, columns, rows, { sortable = true, kind = "" } = {}) {
    const box = make("div", null, { class: rows.length > 15 ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption });
    const element = make("table", null, kind ? { class: kind } : {});
    element.append(make("caption", caption));
    const head = make("tr");
    const body = make("tbody");
    const shown = rows.map((cells) => {
      const row = make("tr");
      cells.forEach((cell, place) => {
        const isName = kind === "named" && place === 0;
        const td = make(isName ? "th" : "td", null, isName ? { scope: "row" } : { "data-label": columns[place] });
        if (cell instanceof Node) td.append(cell);
        else if (cell && cell.length > 400) {
          const parts = make("div");
          parts.append(...textBlock("div", cell, { class: "clip long", tabindex: "0" }));
          td.append(parts);
        } else if (cell && cell.length > 80) td.append(make("div", cell, { class: "clip" }));
        else td.textContent = cell === null || cell === undefined ? "" : cell;
        row.append(td);
      });
      return row;
    });
    columns.forEach((name, place) => {
      const th = make("th", null, { scope: "col" });
      if (sortable && rows.length > 1 && name) {
        const button = make("button", name, { type: "button" });
        button.addEventListener("click", () => sort(th, head, body, shown, place));
        th.append(button);
      } else th.textContent = name;
      head.append(th);
    });
    body.append(...shown);
    const top = make("thead");
    top.append(head);
    element.append(top, body);
    box.append(element);
    return box;
  }

  function sort(th, head, body, rows, place) {
    const down = th.getAttribute("aria-sort") === "ascending";
    for (const other of head.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.children[place].textContent;
    const number = (text) => parseFloat(text.replace(/,/g, ""));
    const compare = (a, b) => {
      const [x, y] = [number(value(a)), number(value(b))];
      if (Number.isNaN(x) && Number.isNaN(y)) return value(a).localeCompare(value(b));
      return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : x - y;
    };
    body.append(...[...rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
  }

  function fill() {
    for (const element of document.querySelectorAll("[data-text]")) {
      const name = element.dataset.text;
      element.textContent = name === "state" ? `run ${data.state}${data.ended ? `: ${data.ended}` : ""}` : data[name];
    }
    byId("sentences").replaceChildren(...data.sentences.map((text) => make("p", text)));
    byId("next").replaceChildren(...data.next.map((text) => make("li", text)));
    byId("finalists").replaceChildren();
    if (data.finalists.rows.length) byId("finalists").append(finalists());
    flow();
    proposers();
    byId("guidelines")?.replaceChildren(...data.guidelines.map((g) => {
      const item = make("li");
      item.append(make("p", `After ${g.after}`, { class: "note" }), make("div", g.text || "none, because the reply could not be read", { class: "text" }));
      return item;
    }));
    byId("failures")?.replaceChildren(table("Rows without a usable answer, and failed attempts, by reason", ["kind", "reason", "count", "most often on"], data.failures.map((f) => [f.kind, f.reason, String(f.count), f.examples])));
    diffs();
    for (const name of ["verdict", "flow-section"]) byId(name).hidden = false;
    for (const name of ["proposers", "guidelines", "races", "diffs", "trials", "examples", "failures"]) {
      const section = byId(`${name}-section`);
      if (section) section.hidden = Object.keys(data[name]).length === 0;
    }
    document.title = `${data.task}: report of a run`;
  }

  // One column for each candidate: numbers that are compared are beside each other, on a phone too.
  function finalists() {
    const { columns: [, ...measures], rows } = data.finalists;
    const named = measures.map((measure, place) => [measure, ...rows.map((row) => row[place + 1])]);
    return table("Baseline, best and recommended candidate", ["measure", ...rows.map(([roles]) => roles)], named, { sortable: false, kind: "named" });
  }

  function flow() {
    const levels = [];
    byId("flow").replaceChildren();
    for (const node of data.flow) (levels[node.level] ||= []).push(node);
    for (const nodes of levels) {
      const item = make("li");
      for (const node of nodes) {
        const box = make("div", null, { class: "node" });
        box.append(make("h3", node.name));
        if (node.about) box.append(make("p", node.about, { class: "about" }));
        if (node.reads.length) box.append(make("p", `reads ${node.reads.join(", ")}`, { class: "about" }));
        if (node.choices.length) {
          const list = make("dl");
          for (const [role, choice] of node.choices) list.append(make("dt", role), make("dd", choice));
          box.append(list);
        }
        item.append(box);
      }
      byId("flow").append(item);
    }
  }

  function proposers() {
    const { columns, rows, fallbacks } = data.proposers;
    byId("proposers")?.replaceChildren();
    if (!rows) return;
    byId("proposers").append(table("What the trials of each proposer earned", columns, rows));
    if (fallbacks.length) byId("proposers").append(table("Trials in place of the agent's, by reason", ["trials", "why the fallback strategy was used"], fallbacks));
  }

  function diffs() {
    byId("diffs")?.replaceChildren();
    for (const diff of data.diffs) {
      const text = make("pre");
      for (const [kind, part] of diff.parts) text.append(kind === "same" ? make("span", part) : make(kind === "added" ? "ins" : "del", part));
      byId("diffs").append(make("h3", `${diff.subtask}: ${diff.roles}`), text);
    }
  }

  function races() {
    const box = byId("races");
    if (!box) return;
    box.replaceChildren();
    data.races.forEach((race) => {
      box.append(make("h3", `${race.subtask}, ${race.phase} the search`), make("p", race.outcome));
      const figure = data.figures.find((one) => one.name === race.figure);
      if (figure) box.append(...figureParts(figure, "h4"));
      if (race.parts.length) box.append(table("Parts of the variance of the rewards", ["part", "variance"], race.parts, { sortable: false }));
      if (race.tried.length) box.append(table("Prompts of the race, the best first", ["reward", "system prompt", "proposed by", "responses"], race.tried));
    });
  }

  const plots = new Map(); // name of a figure -> its element and its specification
  function figureParts(figure, level) {
    const parts = level ? [make(level, figure.title)] : [];
    const plot = make("div", null, { class: "plot", role: "img", "aria-label": `${figure.title}. A table with the same numbers follows.` });
    plot.style.minHeight = `${figure.spec.layout.height}px`;
    const more = make("details");
    more.append(make("summary", `${figure.title} as a table`), table(figure.title, figure.columns, figure.rows));
    plots.set(figure.name, [plot, figure.spec]);
    return [...parts, make("p", figure.note, { class: "note" }), plot, more];
  }

  function figureSection(figure) {
    const section = make("section", null, { class: "figure", "data-figure": figure.name, "aria-labelledby": `f-${figure.name}-h` });
    const flowSection = byId("flow-section");
    const before = { progress: byId("proposers-section"), spend: flowSection.nextSibling }[figure.name] || flowSection;
    flowSection.parentElement.insertBefore(section, before);
    return section;
  }

  function figures() {
    for (const figure of data.figures.filter((one) => !one.name.startsWith("race-"))) {
      const found = [...document.querySelectorAll("[data-figure]")].find((one) => one.dataset.figure === figure.name);
      const section = found || figureSection(figure);
      section.replaceChildren(make("h2", figure.title, { id: `f-${figure.name}-h` }), ...figureParts(figure));
    }
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft") };
    for (const [plot, spec] of plots.values()) {
      const layout = {
        ...spec.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--ink"), family: "system-ui, sans-serif" },
        xaxis: { ...axis, ...spec.layout.xaxis }, yaxis: { ...axis, ...spec.layout.yaxis },
        hoverlabel: { align: "left" },
      };
      Plotly.react(plot, structuredClone(spec.data), layout, { responsive: true, displayModeBar: false });
      plot.removeAllListeners("plotly_click");
      plot.on("plotly_click", (event) => {
        const number = event.points[0].customdata;
        if (number !== undefined && number !== null) openTrial(number);
      });
    }
  }

  function trials() {
    const box = byId("trials");
    if (!box) return;
    const rows = data.trials.map((trial) => {
      const open = make("button", String(trial.number), { type: "button", "aria-label": `Open trial ${trial.number}` });
      open.addEventListener("click", () => openTrial(trial.number));
      const candidate = trial.choices.map(([name, choice]) => `${name}: ${choice}`).join("; ");
      const roles = [...trial.roles, ...(trial.front ? ["front"] : []), ...(trial.beyond ? ["beyond a cost limit"] : [])].join(", ");
      return [open, trial.score, trial.shrunk, roles, trial.proposer, candidate, ...trial.costs, trial.outcome, trial.note];
    });
    const columns = ["trial", "score", "shrunk", "role", "proposed by", "candidate", ...data.costs, "state", "note"];
    const used = columns.map((_, place) => rows.some((row) => row[place]));
    box.replaceChildren(table("All trials, with validation scores", columns.filter((_, i) => used[i]), rows.map((row) => row.filter((_, i) => used[i]))));
  }

  // A tie is rounded to the even digit, as by Python in the terminal and in the other tables; toFixed rounds it up.
  const fixed = (value, digits) => {
    const scaled = value * 10 ** digits;
    const isTie = Number.isInteger(value * 2 ** (digits + 1)) && Math.abs(scaled % 1) === 0.5;
    return (isTie ? (2 * Math.round(scaled / 2)) / 10 ** digits : value).toFixed(digits);
  };

  const score = (value) => (value === null || value === undefined ? "" : fixed(value, 3));

  function openTrial(number) {
    const pick = byId("pick-trial");
    if (!pick) return;
    pick.value = String(number);
    examples();
    byId("examples-section").scrollIntoView({ block: "start" });
    pick.focus({ preventScroll: true });
  }

  function option(select, value, text) {
    const found = [...select.options].find((one) => one.value === value);
    if (found) found.textContent = text;
    else select.append(make("option", text, { value }));
    return !found;
  }

  function controls() {
    if (!data.trials.length || !Object.keys(data.examples).length) return;
    const isFirst = byId("pick-trial").options.length === 0;
    for (const trial of data.trials) {
      const roles = trial.roles.length ? ` (${trial.roles.join(", ")})` : "";
      option(byId("pick-trial"), String(trial.number), `trial ${trial.number}${roles}`);
    }
    for (const split of Object.keys(data.examples)) option(byId("pick-split"), split, split);
    if (isFirst) {
      const best = data.trials.find((trial) => trial.roles.includes("best"));
      byId("pick-trial").value = String(best ? best.number : data.trials[0].number);
      if (data.examples.test) byId("pick-split").value = "test";
    }
    exampleRows();
  }

  function examples() {
    exampleRows();
    byId("trace").replaceChildren();
  }

  function exampleRows() {
    const chosen = byId("examples").querySelector("tr.chosen button");
    const number = Number(byId("pick-trial").value);
    let split = byId("pick-split").value;
    if (!data.examples[split].scores[number]) {
      split = "validation";
      byId("pick-split").value = split;
    }
    const { ids, targets, scores } = data.examples[split];
    const mine = scores[number] || [];
    const baseline = scores[0] || [];
    const filter = byId("pick-filter").value;
    const known = (value) => value !== null && value !== undefined;
    const places = ids.map((_, i) => i).filter((i) => known(mine[i])
      && (filter === "all" || (known(baseline[i]) && (filter === "lost" ? mine[i] < baseline[i] : mine[i] > baseline[i]))));
    const rows = places.map((i) => {
      const open = make("button", ids[i], { type: "button" });
      open.addEventListener("click", () => {
        for (const row of byId("examples").querySelectorAll("tr.chosen")) row.classList.remove("chosen");
        open.closest("tr").classList.add("chosen");
        openTrace(number, split, ids[i], targets[i]);
      });
      return [open, score(mine[i]), score(baseline[i]), targets[i], ...outcome(number, split, ids[i])];
    });
    const count = `${rows.length} of ${ids.length} examples of the ${split} split`;
    if (byId("count").textContent !== count) byId("count").textContent = count; // it is announced when it changes
    const heads = ["example", `trial ${number}`, "baseline", "target", ...(traces.has(number) ? ["output", "tokens", "USD", "seconds"] : [])];
    const used = heads.map((_, place) => place < 4 || rows.some((row) => row[place]));
    byId("examples").replaceChildren(table(`Scores of trial ${number} and of the baseline on the ${split} split`, heads.filter((_, i) => used[i]), rows.map((row) => row.filter((_, i) => used[i]))));
    const again = chosen && rows.find(([open]) => open.textContent === chosen.textContent);
    if (again && byId("trace").hasChildNodes()) again[0].closest("tr").classList.add("chosen");
  }

  // What a trial answered to an example, and what it took; nothing while the trial's traces are not loaded.
  function outcome(number, split, id) {
    if (!traces.has(number)) return [];
    const { texts, splits } = traces.get(number);
    const result = (splits[split] || {})[id];
    if (!result) return ["", "", "", ""];
    const output = result.output === null ? "" : texts[result.output];
    return [output.length > MOST_OUTPUT ? `${output.slice(0, MOST_OUTPUT)}...` : output, String(result.tokens), amount(result.usd), seconds(result.seconds)];
  }

  const MOST_OUTPUT = 120;
  const seconds = (value) => (value === null ? "" : fixed(value, 2));

  async function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const { texts, trials: found } = JSON.parse(text);
    for (const [number, splits] of Object.entries(found)) traces.set(Number(number), { texts, splits });
  }

  globalThis.agentoptTraces = async (number, packed) => {
    await unpack(packed);
    for (const receive of waiting.get(number) || []) receive();
    waiting.delete(number);
  };

  function tracesOf(number) {
    if (traces.has(number)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      waiting.set(number, [...(waiting.get(number) || []), resolve]);
      const script = make("script", undefined, { src: `${encodeURIComponent(data.folder)}/trial-${number}.js${live ? `?v=${version}` : ""}` });
      script.addEventListener("error", () => { waiting.delete(number); reject(new Error("missing")); });
      document.head.append(script);
    });
  }

  async function openTrace(number, split, id, target) {
    const box = byId("trace");
    box.replaceChildren(make("h3", `Example ${id}, trial ${number}`));
    try {
      await tracesOf(number);
    } catch {
      box.append(make("p", `The page has no traces of trial ${number}. They are written to the folder ${data.folder} beside it by: ${data.rebuild}`));
      return;
    }
    const { texts, splits } = traces.get(number);
    const result = (splits[split] || {})[id];
    if (!result) return;
    const text = (place) => (place === null || place === undefined ? "" : texts[place]);
    const facts = [["score", result.score === null ? "none" : String(result.score)], ["target", target], ["output", text(result.output)], ["feedback", text(result.feedback)], ["error", text(result.error)],
      ["tokens", String(result.tokens)], ["USD", amount(result.usd)], ["seconds", seconds(result.seconds)]];
    box.append(table(`Result of example ${id}`, ["part", "value"], facts.filter(([, value]) => value !== ""), { sortable: false, kind: "named" }));
    if (!result.subtasks) box.append(make("p", data.untraced ? `There is no trace: ${data.untraced}.` : "There is no trace: the journal does not have all of its responses."));
    for (const subtask of result.subtasks || []) box.append(...subtaskParts(subtask, text));
    box.focus();
  }

  const amount = (usd) => (usd ? Number(usd.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 12 }) : "");

  function subtaskParts(subtask, text) {
    const used = [subtask.tokens === null ? "" : `${subtask.tokens} tokens`, subtask.usd ? `${amount(subtask.usd)} USD` : "", subtask.seconds ? `${fixed(subtask.seconds, 2)} s` : ""];
    const parts = [make("h4", `Subtask ${subtask.name}`), make("p", used.filter(Boolean).join(", "), { class: "note" })];
    for (const call of subtask.calls) {
      const sent = make("details");
      sent.append(make("summary", `Prompt to ${call.model} (${call.purpose})`));
      for (const [role, place] of call.messages) sent.append(make("p", role, { class: "note" }), ...textBlock("pre", text(place), { tabindex: "0" }));
      parts.push(sent);
      const rows = call.samples.map(([answer, thought, parsed, problem, finish, tokens], i) => {
        const read = parsed === null ? make("span", text(problem), { class: "bad" }) : text(parsed);
        return [String(i + 1), text(answer), text(thought), read, finish, String(tokens)];
      });
      const columns = ["#", "answer", "thought", "parsed", "finish", "tokens"];
      const used = columns.map((_, place) => place !== 2 || rows.some((row) => row[2]));
      parts.push(table(`Responses of ${call.model} in ${subtask.name} (${call.purpose})`, columns.filter((_, i) => used[i]), rows.map((row) => row.filter((_, i) => used[i])), { sortable: false, kind: "stacked" }));
    }
    parts.push(make("p", subtask.value === null ? `No value: ${text(subtask.note)}` : "Value after fusion:"));
    if (subtask.value !== null) parts.push(...textBlock("pre", text(subtask.value), { tabindex: "0" }));
    return parts;
  }

  function contents() {
    const items = [...document.querySelectorAll("main section:not([hidden]) > h2")].map((heading) => {
      const item = make("li");
      item.append(make("a", heading.textContent, { href: `#${heading.id}` }));
      return item;
    });
    byId("toc").replaceChildren(...items);
  }

  function render() {
    for (const [plot] of plots.values()) Plotly.purge(plot);
    plots.clear();
    fill();
    figures();
    races();
    trials();
    controls();
    contents();
    draw();
  }

  // What the reader opened, sorted, scrolled and has under the keyboard stays when new data arrive.
  function keepingState(change) {
    const nameOf = (box) => box.closest(".scroll").getAttribute("aria-label");
    const all = (selector) => [...document.querySelectorAll(selector)];
    const trace = byId("trace"); // it is kept as it is, not built again
    const summaries = () => all("main details > summary").filter((summary) => !trace.contains(summary));
    const opened = new Set(summaries().filter((summary) => summary.parentElement.open).map((summary) => summary.textContent));
    const sorted = all("th[aria-sort]").map((th) => [nameOf(th), th.textContent, th.getAttribute("aria-sort")]);
    const scrolled = all(".scroll").map((box) => [nameOf(box), box.scrollTop, box.scrollLeft]);
    const identity = (element) => `${element.tagName} ${element.id} ${element.getAttribute("aria-label") || element.textContent} ${element.getAttribute("href") || ""}`;
    const focused = document.activeElement && document.activeElement !== document.body ? identity(document.activeElement) : null;
    const place = all("main > section:not([hidden])").find((one) => one.getBoundingClientRect().bottom > 0);
    const before = place && place.getBoundingClientRect().top;
    const kept = [...trace.childNodes];
    change();
    if (!trace.hasChildNodes()) trace.replaceChildren(...kept);
    for (const summary of summaries()) if (opened.has(summary.textContent)) summary.parentElement.open = true;
    for (const [name, column, direction] of sorted) {
      const th = all("th").find((one) => nameOf(one) === name && one.textContent === column && one.querySelector("button"));
      for (let i = 0; th && th.getAttribute("aria-sort") !== direction && i < 2; i += 1) th.querySelector("button").click();
    }
    for (const [name, top, left] of scrolled) {
      const box = all(".scroll").find((one) => nameOf(one) === name);
      if (box) box.scrollTo(left, top);
    }
    if (focused && !document.activeElement.matches(":not(body)")) {
      const again = all("a, button, select, summary, [tabindex]").find((element) => identity(element) === focused);
      if (again) again.focus({ preventScroll: true });
    }
    if (place && scrollY > 0) scrollBy(0, place.getBoundingClientRect().top - before);
  }

  let version = 0;
  let isBusy = false;
  let isStale = false;
  let hasProgress = false;

  async function refresh() {
    isStale = true;
    if (isBusy) return;
    isBusy = true;
    while (isStale) {
      isStale = false;
      const found = await (await fetch("data")).json();
      if (found === null) continue;
      version += 1;
      data = found;
      traces.clear();
      keepingState(render);
      byId("wait").hidden = data.trials.length > 0;
      if (!hasProgress) progress(data.progress);
      document.documentElement.dataset.ready = "true";
    }
    isBusy = false;
  }

  function progress(found) {
    byId("activity").textContent = `Now: ${found.activity}`;
    byId("caps").replaceChildren(...(found.spend || []).map(([unit, used, cap, text]) => {
      const line = make("div", null, { class: "cap" });
      line.append(make("span", `${text} ${unit}`));
      if (cap) line.append(make("progress", null, { max: cap, value: Math.min(used, cap), "aria-label": `${unit}: ${text}` }));
      return line;
    }));
    const facts = [found.best, found.pace, found.left, ...(found.waits || []), ...(found.problems || [])];
    byId("facts").replaceChildren(...facts.filter(Boolean).map((fact) => make("li", fact)));
  }

  function follow() {
    const events = new EventSource("events");
    const connection = (text) => { byId("connection").textContent = text; };
    events.addEventListener("open", () => connection(""));
    events.addEventListener("page", () => refresh().catch(() => { isBusy = false; }));
    events.addEventListener("progress", (event) => { hasProgress = true; progress(JSON.parse(event.data)); });
    events.addEventListener("failure", (event) => {
      const reason = JSON.parse(event.data);
      byId("failure").textContent = reason && `The page cannot be brought up to date: ${reason}`;
    });
    events.addEventListener("ended", () => {
      events.close();
      byId("activity").textContent = "";
      byId("facts").replaceChildren();
      connection("The command has ended. report.html in the run's folder has the traces.");
    });
    events.addEventListener("error", () => connection("The server does not answer; the page is as of the last connection."));
  }

  for (const id of ["pick-trial", "pick-split", "pick-filter"]) byId(id)?.addEventListener("change", examples);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => { for (const [plot] of plots.values()) Plotly.Plots.resize(plot); });
  if (live) {
    follow();
  } else {
    render();
    const embedded = byId("traces").textContent.trim();
    (embedded ? unpack(embedded) : Promise.resolve()).then(() => {
      controls(); // the table of examples has outputs, once these are unpacked
      document.documentElement.dataset.ready = "true";
    });
  }
})();
