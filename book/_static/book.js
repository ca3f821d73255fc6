// Long lines of code scroll by themselves, and a key must reach what scrolls. The theme sees to that when the window's size changes; but then its
// own sidebars slide for a quarter of a second, and on a busy machine it measures while they do. So it is told whenever the text's width changes.
addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector(".bd-article");
  let width;
  if (article) new ResizeObserver(() => { if (width !== (width = article.clientWidth)) dispatchEvent(new Event("resize")) }).observe(article);
});
