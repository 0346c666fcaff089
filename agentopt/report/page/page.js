"use strict";
// Everything that a model or the data wrote is in JSON and is shown by textContent only. Nothing is requested but the
// files of traces beside the page.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const traces = new Map(); // trial number -> { texts, splits }
  const waiting = new Map(); // trial number -> functions that receive its traces

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function table(caption, columns, rows, { sortable = true, tall = false } = {}) {
    const box = make("div", null, { class: tall || rows.length > 15 ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption });
    const element = make("table");
    element.append(make("caption", caption));
    const head = make("tr");
    const body = make("tbody");
    const shown = rows.map((cells) => {
      const row = make("tr");
      for (const cell of cells) {
        const td = make("td");
        if (cell instanceof Node) td.append(cell);
        else if (cell && cell.length > 80) td.append(make("div", cell, cell.length > 400 ? { class: "clip", tabindex: "0" } : { class: "clip" }));
        else td.textContent = cell === null || cell === undefined ? "" : cell;
        row.append(td);
      }
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
    byId("sentences").append(...data.sentences.map((text) => make("p", text)));
    byId("next").append(...data.next.map((text) => make("li", text)));
    if (byId("finalists")) byId("finalists").append(table("Baseline, best and recommended candidate", data.finalists.columns, data.finalists.rows, { sortable: false }));
    flow();
    if (byId("guidelines")) byId("guidelines").append(...data.guidelines.map((g) => make("li", `After ${g.trials} trials: ${g.text || "none, because the reply could not be read"}`)));
    if (byId("failures")) byId("failures").append(table("Rows without a usable answer, and failed attempts, by reason", ["kind", "reason", "count", "most often on"], data.failures.map((f) => [f.kind, f.reason, String(f.count), f.examples])));
    diffs();
  }

  function flow() {
    const levels = [];
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

  function diffs() {
    for (const diff of data.diffs) {
      const text = make("pre");
      for (const [kind, part] of diff.parts) text.append(kind === "same" ? make("span", part) : make(kind === "added" ? "ins" : "del", part));
      byId("diffs").append(make("h3", `${diff.subtask}: ${diff.roles}`), text);
    }
  }

  function races() {
    const box = byId("races");
    if (!box) return;
    data.races.forEach((race) => {
      box.append(make("h3", `${race.subtask}, ${race.phase} the search`), make("p", race.outcome));
      const figure = data.figures.find((one) => one.name === race.figure);
      if (figure) box.append(...figureParts(figure, "h4"));
      if (race.parts.length) box.append(table("Parts of the variance of the rewards", ["part", "variance"], race.parts, { sortable: false }));
      if (race.tried.length) box.append(table("Prompts of the race, the best first", ["proposed by", "reward", "responses", "system prompt"], race.tried));
    });
  }

  const plots = [];
  function figureParts(figure, level) {
    const parts = level ? [make(level, figure.title)] : [];
    const plot = make("div", null, { class: "plot", role: "img", "aria-label": `${figure.title}. A table with the same numbers follows.` });
    plot.style.minHeight = `${figure.spec.layout.height}px`;
    const more = make("details");
    more.append(make("summary", `${figure.title} as a table`), table(figure.title, figure.columns, figure.rows));
    plots.push([plot, figure.spec]);
    return [...parts, make("p", figure.note, { class: "note" }), plot, more];
  }

  function figures() {
    for (const section of document.querySelectorAll("[data-figure]")) {
      const figure = data.figures.find((one) => one.name === section.dataset.figure);
      section.querySelector("h2").textContent = figure.title;
      section.append(...figureParts(figure));
    }
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft") };
    for (const [plot, spec] of plots) {
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
      return [open, [...trial.roles, ...(trial.front ? ["front"] : [])].join(", "), trial.proposer, candidate, score(trial.score), score(trial.shrunk), trial.usd, trial.seconds, trial.outcome, trial.note];
    });
    const columns = ["trial", "role", "proposed by", "candidate", "score", "shrunk", "USD per 1,000", "s p50", "state", "note"];
    const used = columns.map((_, place) => place < 5 || rows.some((row) => row[place] && row[place] !== "0"));
    box.append(table("Trials", columns.filter((_, i) => used[i]), rows.map((row) => row.filter((_, i) => used[i])), { tall: true }));
  }

  const score = (value) => (value === null || value === undefined ? "" : value.toFixed(3));

  function openTrial(number) {
    const pick = byId("pick-trial");
    if (!pick) return;
    pick.value = String(number);
    examples();
    byId("examples-section").scrollIntoView({ block: "start" });
    pick.focus({ preventScroll: true });
  }

  function controls() {
    if (!byId("pick-trial")) return;
    for (const trial of data.trials) {
      const roles = trial.roles.length ? ` (${trial.roles.join(", ")})` : "";
      byId("pick-trial").append(make("option", `trial ${trial.number}${roles}`, { value: trial.number }));
    }
    for (const split of Object.keys(data.examples)) byId("pick-split").append(make("option", split, { value: split }));
    const best = data.trials.find((trial) => trial.roles.includes("best"));
    byId("pick-trial").value = String(best ? best.number : data.trials[0].number);
    if (data.examples.test) byId("pick-split").value = "test";
    for (const id of ["pick-trial", "pick-split", "pick-filter"]) byId(id).addEventListener("change", examples);
    examples();
  }

  function examples() {
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
      return [open, score(mine[i]), score(baseline[i]), targets[i]];
    });
    byId("count").textContent = `${rows.length} of ${ids.length} examples of the ${split} split`;
    const heads = ["example", `trial ${number}`, "baseline", "target"];
    byId("examples").replaceChildren(table(`Scores of trial ${number} and of the baseline on the ${split} split`, heads, rows, { tall: true }));
    byId("trace").replaceChildren();
  }

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
      const script = make("script", undefined, { src: `${encodeURIComponent(data.folder)}/trial-${number}.js` });
      script.addEventListener("error", () => reject(new Error("missing")));
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
      ["tokens", String(result.tokens)], ["USD", amount(result.usd)], ["seconds", result.seconds === null ? "" : result.seconds.toFixed(2)]];
    box.append(table(`Result of example ${id}`, ["", ""], facts.filter(([, value]) => value !== ""), { sortable: false }));
    if (!result.subtasks) box.append(make("p", data.untraced ? `There is no trace: ${data.untraced}.` : "There is no trace: the journal does not have all of its responses."));
    for (const subtask of result.subtasks || []) box.append(...subtaskParts(subtask, text));
    box.focus();
  }

  const amount = (usd) => (usd ? Number(usd.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 12 }) : "");

  function subtaskParts(subtask, text) {
    const used = [subtask.tokens === null ? "" : `${subtask.tokens} tokens`, subtask.usd ? `${amount(subtask.usd)} USD` : "", subtask.seconds ? `${subtask.seconds.toFixed(2)} s` : ""];
    const parts = [make("h4", `Subtask ${subtask.name}`), make("p", used.filter(Boolean).join(", "), { class: "note" })];
    for (const call of subtask.calls) {
      const sent = make("details");
      sent.append(make("summary", `Prompt to ${call.model} (${call.purpose})`));
      for (const [role, place] of call.messages) sent.append(make("p", role, { class: "note" }), make("pre", text(place), { tabindex: "0" }));
      parts.push(sent);
      const rows = call.samples.map(([answer, thought, parsed, problem, finish, tokens], i) => {
        const read = parsed === null ? make("span", text(problem), { class: "bad" }) : text(parsed);
        return [String(i + 1), text(answer), text(thought), read, finish, String(tokens)];
      });
      const columns = ["#", "answer", "thought", "parsed", "finish", "tokens"];
      const used = columns.map((_, place) => place !== 2 || rows.some((row) => row[2]));
      parts.push(table(`Responses of ${call.model}`, columns.filter((_, i) => used[i]), rows.map((row) => row.filter((_, i) => used[i])), { sortable: false }));
    }
    parts.push(make("p", subtask.value === null ? `No value: ${text(subtask.note)}` : "Value after fusion:"));
    if (subtask.value !== null) parts.push(make("pre", text(subtask.value), { tabindex: "0" }));
    return parts;
  }

  function contents() {
    for (const heading of document.querySelectorAll("main h2")) {
      const item = make("li");
      item.append(make("a", heading.textContent, { href: `#${heading.id}` }));
      byId("toc").append(item);
    }
  }

  fill();
  figures();
  races();
  trials();
  controls();
  contents();
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => { for (const [plot] of plots) Plotly.Plots.resize(plot); });
  const embedded = byId("traces").textContent.trim();
  (embedded ? unpack(embedded) : Promise.resolve()).then(() => { document.documentElement.dataset.ready = "true"; });
})();
