"use strict";
// Filter the prompts by how the models differ on them.
for (const section of document.querySelectorAll("section.compared")) {
  const filter = section.querySelector(".filter");
  if (!filter) continue;
  const articles = [...section.querySelectorAll("article")];
  const choice = filter.querySelector("select"), count = filter.querySelector("output");
  const has = (text, number) => text.split(" ").includes(number);
  const fits = (article, [kind, number]) => {
    const { better, worse } = article.dataset;
    if (kind === "all") return true;
    return kind === "differ" ? better.trim() !== "" || worse.trim() !== "" : has(kind === "better" ? better : worse, number);
  };
  const apply = () => {
    const wanted = choice.value.split(" ");
    for (const article of articles) article.hidden = !fits(article, wanted);
    count.textContent = `${articles.filter((article) => !article.hidden).length} of ${articles.length}`;
  };
  choice.addEventListener("change", apply);
  filter.hidden = false;
  apply();
}
