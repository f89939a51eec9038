function startTasks() {
  document.getElementById("task-switch")?.addEventListener("change", (event) => {
    state.task = event.target.value;
    for (const part of document.querySelectorAll("[data-task]")) part.hidden = part.dataset.task !== state.task;
    redraw();
  });
}

startTasks();
startCharts();
startChanges();
startTable();
startImages();
startCategoryPage();
showOverlays();
document.documentElement.dataset.ready = "true";
