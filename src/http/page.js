setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.querySelector("main");
    if (!main) throw new Error("no page");
    const scrolled = [...document.querySelectorAll(".table")].map((table) => table.scrollLeft);
    document.querySelector("main").replaceWith(main);
    main.querySelectorAll(".table").forEach((table, index) => { table.scrollLeft = scrolled[index] ?? 0; });
    document.title = page.title;
    document.body.classList.remove("lost");
  } catch {
    document.body.classList.add("lost");
  }
}, 2000);
