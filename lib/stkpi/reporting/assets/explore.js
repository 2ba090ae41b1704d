// The page Explore. Its figures and their texts come ready from the warehouse: nothing here computes a KPI.
"use strict";

const book = {
  parts: {},
  add(name, content) { this.parts[name] = content; },
};

const explore = (() => {
  const JOB = "https://go.servicetitan.com/#/Job/Index/";
  const FIGURE = ["rounded", "exact", "number", "note", "mood", "until", "was"];
  // Made once: it is what thousands of rows would wait for.
  const DAY = new Intl.DateTimeFormat("en-US", { weekday: "short", month: "short", day: "numeric", year: "numeric", timeZone: "UTC" });
  const $ = (id) => document.getElementById(id);
  const loading = {};
  let data, kpis, periods, chart, table, turn = 0;

  // --- elements

  function el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === true) node.setAttribute(key, "");
      else if (value !== undefined && value !== null && value !== "" && value !== false) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== undefined && child !== null && child !== ""));
    return node;
  }

  const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

  function say(text) { $("status").textContent = text; }

  // --- what is chosen: the address holds it, so that a link can be sent

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const newest = data.periods.find((period) => period.kind === "week" && !period.running) || data.periods[0];
    return {
      period: given.get("period") || newest.id,
      place: given.get("place") || "company",
      division: given.get("division") || "",
      kpi: given.get("kpi") || "",
    };
  }

  function address(changes) {
    const found = { ...read(), ...changes };
    const given = new URLSearchParams();
    for (const key of ["period", "place", "division", "kpi"]) if (found[key] && !(key === "place" && found[key] === "company")) given.set(key, found[key]);
    return `#${given}`;
  }

  // --- figures

  function figure(place, period, kpi) {
    for (const part of [data.figures, book.parts.earlier || {}]) {
      const found = part[place] && part[place][period] && part[place][period][kpi];
      if (found) return Object.fromEntries(FIGURE.map((name, n) => [name, found[n] ?? (name === "number" ? null : "")]));
    }
    return null;
  }

  const isLoaded = (period) => Boolean((data.figures.company || {})[period] || (book.parts.earlier || { company: {} }).company?.[period]);

  function load(name) {
    loading[name] ||= new Promise((resolve, reject) => {
      const script = el("script", { src: `${document.body.dataset.folder}/${name}.js` });
      script.onload = resolve;
      script.onerror = () => {
        delete loading[name];
        reject(new Error("A file of this page is missing: newer figures have been written since you opened it. Load the page again."));
      };
      document.head.append(script);
    });
    return loading[name];
  }

  // --- places

  const nameOf = (place) => place === "company" ? data.company : place.slice(place.indexOf(":") + 1);

  function unitsOf(place) {
    const name = nameOf(place);
    return data.units.filter((unit) => place === "company" || (place.startsWith("unit:") ? unit.name === name : unit.region === name));
  }

  const has = (unit, kpi) => unit.division === "Both" || unit.division === kpi.division;

  function kpisOf(state) {
    const units = unitsOf(state.place);
    return data.kpis.filter((kpi) => (!state.division || kpi.division === state.division) && units.some((unit) => has(unit, kpi)));
  }

  const spell = (period) => period.running && period.kind === "week" ? `${period.label}, so far` : period.label;

  // --- what ServiceTitan showed

  function seen(place, period, kpi) {
    const days = periods[period];
    return data.numbers.filter((one) => one.kpi === kpi && one.place === place && days && one.first === days.first && one.last === days.last);
  }

  function judge(place, period, kpi) {
    const outcomes = seen(place, period, kpi).map((one) => one.outcome);
    return ["matched", "unmatched"].find((outcome) => outcomes.includes(outcome)) || "";
  }

  // Of the company or a region: what is known of its units.
  function mark(place, period, kpi) {
    const places = place.startsWith("unit:") ? [place] : unitsOf(place).map((unit) => `unit:${unit.name}`);
    const outcomes = places.map((each) => judge(each, period, kpi)).filter(Boolean);
    if (!outcomes.length) return null;
    const wrong = outcomes.filter((outcome) => outcome === "unmatched").length, outcome = wrong ? "unmatched" : "matched";
    const units = place.startsWith("unit:") ? "" : wrong ? `${wrong} of ${outcomes.length} units: ` : ` in ${outcomes.length} unit${outcomes.length > 1 ? "s" : ""}`;
    return el("small", { class: `mark ${outcome}` }, wrong ? `✗ ${units}differs from ServiceTitan` : `✓ matches ServiceTitan${units}`);
  }

  // Every number that ServiceTitan showed of a place, whatever its days: those that differ first, then the newest.
  function listSeen(state) {
    const places = new Set(unitsOf(state.place).map((unit) => `unit:${unit.name}`));
    const found = data.numbers.filter((one) => places.has(one.place) && ["matched", "unmatched"].includes(one.outcome));
    const matched = found.filter((one) => one.outcome === "matched").length, name = nameOf(state.place);
    if (!found.length) return el("p", { class: "soft" }, `No number of ServiceTitan is known of ${name}, so nobody can say whether it matches. Note one: the README says how.`);
    found.sort((a, b) => (a.outcome === "matched") - (b.outcome === "matched") || b.last.localeCompare(a.last));
    const caption = `${matched} of ${found.length} numbers of ${name} match ServiceTitan`;
    const rows = found.map((one) => {
      const period = data.periods.find((each) => each.first === one.first && each.last === one.last);
      const isMatched = one.outcome === "matched";
      return el("tr", {}, el("th", { scope: "row" }, period ? el("a", { href: address({ period: period.id, place: one.place, kpi: one.kpi }) }, one.title) : one.title),
        el("td", {}, one.shown), el("td", {}, one.ours), el("td", { class: "words" }, el("span", { class: `mark ${one.outcome}` }, isMatched ? "✓ matches" : "✗ differs")));
    });
    return el("details", { class: "all-seen", open: matched < found.length || state.place.startsWith("unit:") },
      el("summary", {}, el("strong", { class: `mark ${matched < found.length ? "unmatched" : "matched"}` }, caption)),
      grid("Each number that ServiceTitan showed", ["Number", "ServiceTitan", "Here", "Match"], rows));
  }

  // --- parts of the page

  function remark(found) {
    if (found.until) return el("small", {}, `provisional until ${found.until}`);
    return found.note ? el("small", { class: found.mood }, found.note) : null;
  }

  // To the line that says why a figure is not what it was.
  function linkChange(found, place, period, kpi, ...words) {
    if (!found.was) return null;
    return el("a", { href: `changes.html#${kpi}/${encodeURIComponent(place)}/${period}` }, ...(words.length ? words : [`was ${found.was}`]));
  }

  function cell(place, period, kpi, extra = true) {
    const found = figure(place, period, kpi);
    if (!found) return el("td", {}, "");
    const link = el("a", { href: address({ place, period, kpi }), title: found.exact === found.rounded ? "" : found.exact }, found.rounded);
    const change = linkChange(found, place, period, kpi);
    return el("td", { class: found.until && "provisional" }, link,
      ...(extra ? [remark(found), mark(place, period, kpi), change && el("small", {}, change)] : []));
  }

  function scroll(label, isWide, ...children) {
    return el("div", {}, el("p", { class: "hint soft" }, "A table that is wider than the screen scrolls sideways."),
      el("div", { class: `scroll ${isWide ? "wide" : ""}`, tabindex: 0, role: "region", "aria-label": label }, ...children));
  }

  function grid(caption, heads, rows) {
    return scroll(caption, heads.length > 8, el("table", { class: heads.length < 4 && "narrow" },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col", title: head.title }, head.label ?? head)))),
      el("tbody", {}, ...rows)));
  }

  function card(state, kpi) {
    const found = figure(state.place, state.period, kpi.id);
    const before = periods[state.period].before;
    const ago = before && figure(state.place, before, kpi.id);
    return el("div", { class: `card ${found.until ? "provisional" : ""}` },
      el("a", { href: address({ kpi: kpi.id }) }, el("span", {}, kpi.label), " ", el("strong", {}, found.rounded)),
      remark(found),
      ago ? el("small", {}, `a year ago ${ago.rounded}`) : null,
      found.was && el("small", {}, linkChange(found, state.place, state.period, kpi.id)),
      mark(state.place, state.period, kpi.id),
      el("details", {}, el("summary", {}, "What it counts"), `${kpi.sentence} ServiceTitan's report: ${kpi.report}. ${kpi.since}`));
  }

  function showAll(state, main) {
    const chosen = kpisOf(state), period = periods[state.period];
    main.append(el("h1", { tabindex: -1 }, `${nameOf(state.place)}: ${spell(period)}`),
      el("p", { class: "soft" }, `Figures through ${data.through}. Click a number for the rows behind it.`),
      el("div", { class: "cards" }, ...chosen.map((kpi) => card(state, kpi))),
      listSeen(state));
    if (state.place.startsWith("unit:")) return;
    const groups = state.division ? [state.division] : [...new Set(chosen.map((kpi) => kpi.division))];
    const together = data.units.every((unit) => unit.division === "Both");
    for (const group of together ? [""] : groups) {
      const columns = chosen.filter((kpi) => !group || kpi.division === group);
      const units = unitsOf(state.place).filter((unit) => columns.some((kpi) => has(unit, kpi)));
      const title = group ? `${group} units` : "Units";
      const regions = [...new Set(units.map((unit) => unit.region))];
      main.append(el("h2", {}, title), grid(`${title}, ${spell(period)}`,
        ["Unit", ...columns.map((kpi) => ({ label: kpi.label, title: kpi.sentence }))],
        regions.flatMap((region) => {
          const here = units.filter((unit) => unit.region === region);
          const line = (name, place, kind) => el("tr", { class: kind }, el("th", { scope: "row" }, el("a", { href: address({ place }) }, name)),
            ...columns.map((kpi) => cell(place, state.period, kpi.id)));
          return [...(here.length > 1 ? [line(region, `region:${region}`, "region")] : []), ...here.map((unit) => line(unit.name, `unit:${unit.name}`))];
        })));
    }
    // On paper each unit has a page of its own.
    for (const unit of unitsOf(state.place)) {
      const place = `unit:${unit.name}`;
      main.append(el("section", { class: "paper", "aria-hidden": "true" }, el("h2", {}, `${unit.name}: ${spell(period)}`),
        el("div", { class: "cards" }, ...data.kpis.filter((kpi) => has(unit, kpi)).map((kpi) => {
          const found = figure(place, state.period, kpi.id);
          return el("div", { class: "card" }, el("span", {}, kpi.label), el("strong", {}, found.rounded), remark(found), mark(place, state.period, kpi.id));
        }))));
    }
  }

  function compare(state, kpi) {
    const found = seen(state.place, state.period, kpi.id);
    if (!found.length) {
      const known = mark(state.place, state.period, kpi.id);
      if (known) return el("p", {}, known);
      return el("p", { class: "soft" }, `What ServiceTitan shows for these days is not known here. Read it in ${kpi.report} and note it: the next night compares.`);
    }
    const words = { matched: "✓ the same as here", unmatched: "✗ not the same", open: "not compared yet", superseded: "no longer holds" };
    return el("ul", { class: "seen" }, ...found.map((one) => {
      const why = one.how || (one.outcome === "explained" ? `Here it is ${one.ours}` : one.why);
      const start = one.outcome === "explained" ? ["Somebody also saw ", el("strong", {}, one.shown), ", another way to count. "]
        : ["ServiceTitan shows ", el("strong", {}, one.shown), ": ", el("span", { class: `mark ${one.outcome}` }, words[one.outcome]), ". "];
      return el("li", { class: one.outcome === "unmatched" && "failed" }, ...start, one.outcome === "matched" || !why ? "" : `${why.replace(/\.$/, "")}. `, el("small", {}, one.source), listJobs(one));
    }));
  }

  // The jobs that make a difference: those that only one of the two ways counts.
  function listJobs(one) {
    if (!one.jobs.length) return null;
    const here = one.jobs.filter((job) => job.side === "only here").length, there = one.jobs.length - here;
    const told = [here ? `${here} counted only here` : "", there ? `${there} counted only there` : ""].filter(Boolean).join(", ");
    const caption = `The jobs that make the difference: ${told}`;
    return el("details", {}, el("summary", {}, caption), grid(caption, ["Job", "Customer", "Type", "Status", "Counted"], one.jobs.map((job) => el("tr", {},
      el("th", { scope: "row" }, el("a", { href: JOB + encodeURIComponent(job.id), target: "_blank", rel: "noopener noreferrer" }, job.job ?? job.id)),
      ...[job.customer, job.type, job.status, job.side].map((text) => el("td", { class: "words" }, text ?? ""))))));
  }

  // The chosen week and the twelve before it; of other days the newest ones.
  function weeksUpTo(state) {
    const chosen = periods[state.period], end = chosen.kind === "week" ? chosen.first : data.asOf;
    return data.periods.filter((period) => period.kind === "week" && period.first <= end).slice(0, 13);
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw(state, kpi, holder) {
    const weeks = weeksUpTo(state).filter((week) => !week.running).reverse();
    const now = weeks.map((week) => figure(state.place, week.id, kpi.id));
    const ago = weeks.map((week) => week.before ? figure(state.place, week.before, kpi.id) : null);
    if (now.filter((found) => found && found.number !== null).length < 2) return;
    const final = now.map((found) => found && !found.until ? found.number : null);
    const open = now.map((found, n) => found && (found.until || (now[n + 1] && now[n + 1].until)) ? found.number : null);
    const past = ago.map((found) => found ? found.number : null);
    const font = "13px system-ui, sans-serif", axis = { stroke: color("--ink"), grid: { stroke: color("--line") }, ticks: { stroke: color("--line") }, font };
    const short = (value) => kpi.kind === "rate" ? `${Math.round(value * 1000) / 10}%` : (kpi.kind === "money" ? "$" : "") + new Intl.NumberFormat("en-US", { notation: "compact" }).format(value);
    const text = (list) => (_, __, ___, index) => index === null || !list[index] ? "—" : list[index].rounded;
    const lines = [{ label: "Week of", value: (_, at) => at === null ? "—" : weeks.find((week) => Date.parse(week.first) / 1000 === at).label },
      { label: kpi.label, stroke: color("--link"), width: 2, value: text(now), points: { size: 6 } }];
    const values = [weeks.map((week) => Date.parse(week.first) / 1000), final];
    if (open.some((value) => value !== null)) {
      lines.push({ label: "Provisional", stroke: color("--soft"), width: 2, value: (_, __, ___, n) => n === null || !now[n] || !now[n].until ? "—" : now[n].rounded, points: { size: 6 } });
      values.push(open);
    }
    if (past.some((value) => value !== null)) {
      lines.push({ label: "A year ago", stroke: color("--soft"), dash: [6, 5], width: 1.5, value: text(ago), points: { show: false } });
      values.push(past);
    }
    const title = `${kpi.label}, ${weeks.length} weeks${past.some((value) => value !== null) ? ", dashed: the same weeks a year ago" : ""}`;
    const step = Math.ceil(weeks.length / Math.max(2, Math.floor(document.body.clientWidth / 110)));
    const splits = values[0].filter((_, n) => (weeks.length - 1 - n) % step === 0);
    const box = el("div", { role: "img", "aria-label": `${title}. The table below has the numbers.` });
    holder.append(el("h2", {}, title), el("div", { class: "chart" }, box));
    const width = () => Math.max(box.clientWidth, 200);
    chart = new uPlot({ width: width(), height: 260, series: lines, hooks: { ready: [(ready) => ready.setLegend({ idx: weeks.length - 1 })] }, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"),
      axes: [{ ...axis, splits: () => splits, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleDateString("en-US", { month: "short", day: "numeric", timeZone: "UTC" })) },
        { ...axis, size: 64, values: (_, ticks) => ticks.map(short) }] }, values, box);
    const mine = chart;
    new ResizeObserver(() => mine === chart && mine.setSize({ width: width(), height: 260 })).observe(box);
  }

  function showOne(state, kpi, main) {
    const period = periods[state.period], found = figure(state.place, state.period, kpi.id);
    const ago = period.before && figure(state.place, period.before, kpi.id);
    main.append(
      el("h1", { tabindex: -1 }, `${kpi.label} of ${nameOf(state.place)}, ${spell(period)}`),
      el("p", { class: found.until ? "provisional" : "" }, el("span", { class: "big", id: "value" }, found.exact), " ",
        found.until ? el("span", {}, `provisional until ${found.until}: some of what counts for these days is entered later`) : el("span", { class: found.mood }, found.note)),
      ago ? el("p", { class: "soft" }, `A year ago (${periods[period.before].label}): ${ago.exact}`) : "",
      found.was && el("p", {}, `It was ${found.was} before. `, linkChange(found, state.place, state.period, kpi.id, "What changed since")),
      compare(state, kpi),
      el("p", {}, `${kpi.sentence} Dated by ${kpi.date}. ServiceTitan's report: ${kpi.report}. ${kpi.since}`));
    draw(state, kpi, main);
    if (!state.place.startsWith("unit:")) {
      const units = unitsOf(state.place).filter((unit) => has(unit, kpi));
      main.append(el("h2", {}, "Unit by unit"), grid(`${kpi.label}, ${spell(period)}`, ["Unit", kpi.label],
        units.map((unit) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: address({ place: `unit:${unit.name}` }) }, unit.name)), cell(`unit:${unit.name}`, state.period, kpi.id)))));
    }
    const rows = el("section", { id: "rows", "aria-label": "The rows behind the number" });
    main.append(rows, el("h2", {}, "Week by week"), grid(`${kpi.label} of ${nameOf(state.place)}`, ["Week", kpi.label, "The same week a year ago"],
      weeksUpTo(state).map((week) => el("tr", {}, el("th", { scope: "row" }, spell(week)), cell(state.place, week.id, kpi.id),
        week.before ? cell(state.place, week.before, kpi.id, false) : el("td", {}, "—")))));
    return showRows(state, kpi, rows);
  }

  // --- rows

  async function unpack(name) {
    await load(name);
    const packed = book.parts[name];
    if (typeof packed !== "string") return packed;
    const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return book.parts[name] = JSON.parse(await new Response(stream).text());
  }

  const dayOf = (count) => new Date(count * 86400000).toISOString().slice(0, 10);
  const countOf = (day) => Date.parse(day) / 86400000;

  async function findRows(state, kpi) {
    const set = data.rowsets[kpi.rows], period = periods[state.period];
    const [first, last] = period.days[kpi.id] || [period.first, period.last];
    const inside = new Set(unitsOf(state.place).map((unit) => data.units.indexOf(unit)));
    const names = set.chunks.filter((chunk) => set.balance ? chunk === period.last : chunk >= first.slice(0, 7) && chunk <= last.slice(0, 7));
    const [low, high, known] = [first, last, period.last].map(countOf), found = [];
    for (const name of names) {
      const part = await unpack(`${kpi.rows}.${name}`);
      for (let n = 0; n < part.day.length; n++) {
        const isDated = set.balance || (part.day[n] >= low && part.day[n] <= high && !(part.known && kpi.known && part.known[n] > known));
        if (isDated && inside.has(part.unit[n])) found.push({ part, n });
      }
    }
    return found;
  }

  // What is counted once is one row, whatever number of jobs names it.
  function gather(found, kpi) {
    if (!kpi.key) return found.map((row) => ({ ...row, also: [] }));
    const rows = new Map();
    for (const row of found) {
      const key = row.part[kpi.key][row.n];
      if (key === null) continue;
      if (rows.has(key)) rows.get(key).also.push(row);
      else rows.set(key, { ...row, also: [] });
    }
    return [...rows.values()];
  }

  // Whole numbers of the last digit, written without a detour over fractions.
  function spellAmount(whole, scale, kind) {
    if (kind !== "money") return String(whole);
    const digits = String(whole < 0n ? -whole : whole).padStart(scale + 1, "0");
    const dollars = digits.slice(0, digits.length - scale).replace(/\B(?=(\d{3})+$)/g, ",");
    const cents = scale ? digits.slice(-scale).replace(/0+$/, "").padEnd(2, "0") : "00";
    return `${whole < 0n ? "-" : ""}$${dollars}.${cents}`;
  }

  const amountOf = (row, part) => BigInt(row.part[part][row.n]);

  function add(rows, part) {
    const scale = Math.max(0, ...rows.map((row) => row.part.scales[part]));
    const total = rows.reduce((sum, row) => sum + amountOf(row, part) * 10n ** BigInt(scale - row.part.scales[part]), 0n);
    return [total, scale];
  }

  const jobLink = (row) => {
    const id = row.part.id[row.n], number = row.part.job[row.n] ?? id;
    return id === null ? "" : `<a href="${JOB}${encodeURIComponent(id)}" target="_blank" rel="noopener noreferrer">${escape(number)}</a>`;
  };
  // What a spreadsheet would run as a formula is exported as a text; which texts these are, the library says.
  const safe = (text) => new RegExp(data.formula).test(text) ? `'${text}` : text;

  function columnsOf(state, kpi, rows) {
    const set = data.rowsets[kpi.rows];
    const text = (title, read, note) => ({ title, note, data: null, render: (row, type) => {
      const found = read(row) ?? "";
      return type === "export" ? safe(String(found)) : type === "display" ? escape(found) : found;
    } });
    const own = (id) => (row) => row.part[id][row.n];
    const job = (row) => row.part.job[row.n] ?? row.part.id[row.n] ?? "";
    const columns = [
      { title: "Job", data: null, render: (row, type) => type === "display" ? jobLink(row) : type === "export" ? safe(String(job(row))) : job(row) },
      text("Customer", own("customer")), text("Type", own("type")), text("Status", own("status")),
      { title: "Counts on", note: kpi.date, data: null, render: (row, type) => {
        const day = dayOf(row.part.day[row.n]);
        return type === "display" || type === "filter" ? DAY.format(new Date(day)) : day;
      } },
      ...set.named.map((column) => text(column.label, own(column.id))),
      ...kpi.parts.map((part) => ({ title: part.label, className: "number", type: "num", data: null, render: (row, type) => {
        const whole = amountOf(row, part.id), scale = row.part.scales[part.id], kind = set.kinds[part.id];
        if (type === "display" || type === "filter") return spellAmount(whole, scale, kind);
        return type === "export" ? spellAmount(whole, scale, kind).replace(/[$,]/g, "") : Number(whole) / 10 ** scale;
      } })),
    ];
    if (!state.place.startsWith("unit:")) columns.push(text("Unit", (row) => data.units[row.part.unit[row.n]].name));
    if (rows.some((row) => row.also.length)) {
      columns.push({ title: "Counted with it", data: null, render: (row, type) => type === "display" ? row.also.map(jobLink).join(", ") : safe(row.also.map(job).join(" ")) });
    }
    return columns.filter((column) => rows.some((row) => column.render(row, "display") !== ""));
  }

  async function showRows(state, kpi, holder) {
    const mine = turn, shown = figure(state.place, state.period, kpi.id);
    holder.append(el("h2", {}, "The rows behind it"));
    const days = periods[state.period], set = data.rowsets[kpi.rows];
    if (set.balance ? !set.chunks.includes(days.last) : days.first < data.since) {
      holder.append(el("p", { class: "soft" }, "The rows of so long ago are in the warehouse only."));
      return;
    }
    say("Loading the rows …");
    const rows = gather(await findRows(state, kpi), kpi);
    if (mine !== turn) return; // something else was chosen meanwhile
    const sums = kpi.parts.map((part) => ({ ...part, kind: set.kinds[part.id], sum: add(rows, part.id) }));
    const told = sums.map((part) => `${part.label} ${spellAmount(...part.sum, part.kind)}`).join(" · ");
    holder.firstChild.textContent = rows.length === 1 ? "The row behind it" : `The ${rows.length.toLocaleString("en-US")} rows behind it`;
    holder.append(el("p", { id: "sum" }, rows.length ? told : "Nothing counts for these days."));
    const whole = kpi.kind === "count" ? String(rows.length) : kpi.kind === "money" && sums.length === 1 ? spellAmount(...sums[0].sum, "money") : null;
    if (whole !== null && shown.exact !== "—" && whole.replace(/[$,]/g, "") !== shown.exact.replace(/[$,]/g, "")) {
      holder.append(el("p", { class: "note failed", role: "alert" }, `The rows do not add up to ${shown.exact}: please report this.`));
    }
    if (data.masked) holder.append(el("p", { class: "soft" }, "Customers are shown by their initials; company.yml can say otherwise (customer_names)."));
    if (rows.length) {
      const columns = columnsOf(state, kpi, rows), file = `${kpi.label} ${nameOf(state.place)} ${periods[state.period].first}`.replace(/[^\w -]/g, "");
      const head = el("tr", {}, ...columns.map((column) => el("th", { scope: "col", title: column.note, class: column.className }, column.title)));
      const node = el("table", {}, el("caption", {}, `Rows of ${kpi.label}, ${nameOf(state.place)}, ${spell(periods[state.period])}`), el("thead", {}, head));
      holder.append(node);
      const options = { orthogonal: "export", stripHtml: false, decodeEntities: false, escapeExcelFormula: false };
      table = new DataTable(node, {
        data: rows, columns, order: [], pageLength: 100, lengthMenu: [25, 100, 1000], autoWidth: false, deferRender: true,
        language: { search: "Search these rows", info: "_START_ to _END_ of _TOTAL_ rows", infoFiltered: "(of _MAX_)", infoEmpty: "No rows", lengthMenu: "_MENU_ at a time", zeroRecords: "No row has that." },
        layout: { topStart: "search", topEnd: { buttons: [
          { extend: "copy", text: "Copy", title: null, messageTop: null, exportOptions: options },
          { extend: "csv", text: "Save as CSV", bom: true, filename: file, exportOptions: options },
        ] }, bottomStart: "info", bottomEnd: rows.length > 100 ? ["pageLength", "paging"] : null },
      });
    }
    say("");
  }

  // --- the whole page

  function fill(select, groups, value) {
    const options = (list) => list.map(([id, label]) => new Option(label, id));
    select.replaceChildren(...groups.filter(([, list]) => list.length).flatMap(([label, list]) => label ? [el("optgroup", { label }, ...options(list))] : options(list)));
    select.value = value;
  }

  function fillChoices(state) {
    const entry = (period) => [period.id, spell(period)];
    const weeks = data.periods.filter((period) => period.kind === "week");
    const recent = weeks.slice(0, 13 + weeks[0].running);
    fill($("period"), [
      ["Weeks", recent.map(entry)],
      ["To date", data.periods.filter((period) => ["month", "year"].includes(period.kind)).map(entry)],
      ["Days that you noted", data.periods.filter((period) => period.kind === "noted").map(entry)],
      ["Earlier weeks", weeks.slice(recent.length).map(entry)],
    ], state.period);
    const regions = [...new Set(data.units.map((unit) => unit.region))];
    fill($("place"), [["", [["company", `All of ${data.company}`]]], ["Regions", regions.map((region) => [`region:${region}`, region])],
      ["Units", data.units.map((unit) => [`unit:${unit.name}`, unit.name])]], state.place);
    const divisions = [...new Set(data.kpis.map((kpi) => kpi.division))];
    $("divisions").hidden = data.units.every((unit) => unit.division === "Both") || state.place.startsWith("unit:");
    fill($("division"), [["", [["", "Sales and production"], ...divisions.map((name) => [name, name])]]], state.division);
    fill($("kpi"), [["", [["", "All figures"], ...kpisOf(state).map((kpi) => [kpi.id, kpi.label])]]], state.kpi);
  }

  function findProblem(state) {
    if (!periods[state.period]) return "The days of this link are not here: choose others above.";
    if (state.place !== "company" && !unitsOf(state.place).length) return `There is no unit or region ${nameOf(state.place)}: choose another above.`;
    if (state.kpi && !kpis[state.kpi]) return "There is no such figure: choose one above.";
    if (state.kpi && !kpisOf({ ...state, division: "" }).includes(kpis[state.kpi])) return `${nameOf(state.place)} has no ${kpis[state.kpi].label}: choose another figure above.`;
    return "";
  }

  async function render(isFirst) {
    const mine = ++turn, main = $("main"), state = read(), problem = findProblem(state);
    delete document.body.dataset.ready;
    if (table) table.destroy();
    table = chart = null;
    main.replaceChildren();
    fillChoices(state);
    $("all-figures").setAttribute("href", address({ kpi: "" }));
    try {
      if (!problem && !(state.kpi ? weeksUpTo(state).every((week) => isLoaded(week.id)) : isLoaded(state.period))) {
        say("Loading earlier weeks …");
        await load("earlier");
        if (mine !== turn) return;
      }
      say("");
      if (problem) main.append(el("h1", { tabindex: -1 }, "Not here"), el("p", { class: "note" }, problem));
      const work = problem ? null : state.kpi ? showOne(state, kpis[state.kpi], main) : showAll(state, main);
      document.title = `${main.querySelector("h1").textContent} · ${data.company}`;
      if (!isFirst && !$("choices").contains(document.activeElement)) {
        window.scrollTo(0, 0);
        main.querySelector("h1").focus();
      }
      await work;
    } catch (error) {
      if (mine !== turn) return;
      say("");
      main.append(el("p", { class: "note failed", role: "alert" }, error.message));
    }
    if (mine === turn) document.body.dataset.ready = turn; // for whoever drives the page
  }

  function start() {
    data = book.parts.figures;
    kpis = Object.fromEntries(data.kpis.map((kpi) => [kpi.id, kpi]));
    periods = Object.fromEntries(data.periods.map((period) => [period.id, period]));
    DataTable.ext.errMode = "throw";
    for (const key of ["period", "place", "division", "kpi"]) {
      $(key).addEventListener("change", () => {
        const changes = { [key]: $(key).value }, state = { ...read(), ...changes };
        if (!kpisOf(state).some((kpi) => kpi.id === state.kpi)) changes.kpi = ""; // it has no such figure
        location.hash = address(changes);
      });
    }
    $("choices").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", () => render(false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render(true));
    render(true);
  }

  return { start };
})();
